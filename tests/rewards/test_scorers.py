"""Lifting one kind of scorer to the next, against numbers worked by hand."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
import reward_toy as toy
from numpy.typing import NDArray
from reward_toy import Carry

from regrip.datasets.episode import Rollouts
from regrip.datasets.protocols import Progress, Relative, Score
from regrip.rewards.scorers import (
    Difference,
    FrameProgress,
    Frames,
    Level,
    Potential,
    Reduced,
    Terminal,
    accumulate,
    detect,
)


@dataclass(frozen=True)
class Told:
    """Levels from a list, the same for every episode."""

    levels: tuple[float, ...]
    relative: bool = False
    bounds: tuple[float, float] = (0.0, 1.0)

    def progress(self, rollouts: Rollouts) -> Progress | Relative[Progress]:
        value = np.zeros(rollouts.decision_valid.shape, np.float32)
        value[:, : len(self.levels)] = self.levels
        found = Progress(np.where(rollouts.decision_valid, value, 0), np.ones(len(rollouts), bool))
        return Relative(found) if self.relative else found


def four_decisions(success: bool = False) -> Rollouts:
    rollouts = toy.carry([Carry(1.0 if success else 0.5)])
    valid = np.zeros_like(rollouts.valid)
    valid[:, :4] = True
    valid[:, 3, 1:] = False
    return replace(rollouts, valid=valid)


@pytest.mark.parametrize(
    ("recursion", "critics", "levels"),
    [
        ("simple", [20, 50, -10, 40], [0, 20, 60, 56, 73.6]),
        ("mixed", [20, 50, -10, 40], [0, 20, 60, 55.5556, 73.3333]),
        ("harmonic", [20, 50, -10, 40], [0, 20, 60, 55.5556, 73.3333]),
        ("mixed", [-10, 30], [0, 0, 30]),
        ("harmonic", [-10, 30], [0, -11.111, 22.222]),
    ],
)
def test_vlac_recursion(recursion: str, critics: list[float], levels: list[float]) -> None:
    found = accumulate(np.array(critics) / 100, recursion)  # type: ignore[arg-type]
    np.testing.assert_allclose(found * 100, levels, atol=2e-3)


def test_a_loss_is_the_label_of_the_reversed_pair() -> None:
    # Ten frames; from frame 1 to 2 is a gain of 1/9 of what is left, and back again its negative.
    assert accumulate(np.array([1 / 10, 1 / 9, -1 / 9]), "harmonic")[-1] == pytest.approx(0.1)


def test_even_a_total_loss_is_finite() -> None:
    for recursion in ("simple", "mixed", "harmonic"):
        assert np.isfinite(accumulate(np.array([0.9, -1.0, -1.0, 1.0]), recursion)).all()  # type: ignore[arg-type]


def test_differences_pay_the_chunk_that_led_there() -> None:
    signal = Difference(Told((0.1, 0.4, 0.3, 0.9)))(four_decisions())
    np.testing.assert_allclose(signal.value[0, :4], [[0, 0.3], [0, -0.1], [0, 0.6], [0, 0]], atol=1e-6)
    assert not signal.value[0, 4:].any()


def test_levels_pay_at_every_decision() -> None:
    signal = Level(Told((0.1, 0.4, 0.3, 0.9)))(four_decisions())
    np.testing.assert_allclose(signal.value[0, :4], [[0, 0.1], [0, 0.4], [0, 0.3], [0.9, 0]], atol=1e-6)


def test_a_potential_ends_at_zero_when_the_episode_ends() -> None:
    won = Potential(Told((0.1, 0.4, 0.3, 0.9)), gamma=0.5)(four_decisions(success=True)).value.sum(-1)
    np.testing.assert_allclose(won[0, :4], [0.1, -0.25, 0.15, -0.9], atol=1e-6)
    cut = Potential(Told((0.1, 0.4, 0.3, 0.9)), gamma=0.5)(four_decisions()).value.sum(-1)
    np.testing.assert_allclose(cut[0, :4], [0.1, -0.25, 0.15, -0.45], atol=1e-6)


@pytest.mark.parametrize(("reduction", "expected"), [("last", 0.3), ("mean", 0.3), ("max", 0.7)])
def test_reductions(reduction: str, expected: float) -> None:
    told = Told((-0.2, 0.7, 0.4, 0.3), bounds=(-1, 1))
    score = Reduced(told, reduction).score(four_decisions())  # type: ignore[arg-type]
    assert isinstance(score, Score)
    assert score.value[0] == pytest.approx(expected)


def test_success_is_read_off_absolute_levels_only() -> None:
    rollouts = four_decisions()
    told = Told((0.1, 0.9, 0.3, 0.3))
    progress = told.progress(rollouts)
    assert isinstance(progress, Progress)
    assert detect(progress, 0.8).tolist() == [True]
    assert detect(progress, 0.95).tolist() == [False]
    ranked = replace(told, relative=True)
    with pytest.raises(TypeError, match="only ranks the episodes of one batch"):
        detect(ranked.progress(rollouts), 0.8)  # type: ignore[arg-type]
    for lifted in (Difference(ranked), Level(ranked), Potential(ranked), Terminal(Reduced(ranked))):
        assert lifted(rollouts).relative
    assert isinstance(Reduced(ranked).score(rollouts), Relative)


class Blind:
    """Cannot judge the pictures of a green block."""

    bounds = (0.0, 1.0)

    def score(self, frames: Frames) -> NDArray[np.float32]:
        return np.array([np.nan if "green" in said else 0.5 for said in frames.instruction], np.float32)


def test_what_cannot_be_judged_earns_nothing_and_is_counted() -> None:
    rollouts = toy.carry([Carry(colour="red"), Carry(colour="green")])
    signal = Level(FrameProgress(Blind(), batch=5))(rollouts)
    assert signal.valid.tolist() == [True, False]
    assert signal.components["unjudged"].tolist() == [0, 9]
    assert signal.value[0].sum() == pytest.approx(4.5)
    assert not signal.value[1].any()


def test_a_missing_camera_is_named() -> None:
    class Side:
        bounds = (0.0, 1.0)

        def score(self, frames: Frames) -> NDArray[np.float32]:
            return frames.camera("side").mean((1, 2, 3)).astype(np.float32)

    with pytest.raises(ValueError, match=r"no camera 'side' in the rollouts, they have \['close', 'front'\]"):
        FrameProgress(Side()).progress(toy.many(1, 0))
