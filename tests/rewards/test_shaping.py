"""Transforms of rewards, against numbers worked by hand and those of the reference."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import reward_toy as toy
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from reward_toy import Carry

from regrip.datasets.episode import Rollouts
from regrip.datasets.protocols import Progress, Relative, RewardSignal
from regrip.rewards.binary import BinarySuccess
from regrip.rewards.pipeline import Pipeline
from regrip.rewards.scorers import per_decision
from regrip.rewards.shaping import (
    Clip,
    Delta,
    Multiplicative,
    NoisyReward,
    PreferenceAsReward,
    ReDit,
    delta,
    log_sigmoid_centred,
    multiplicative,
    par,
    returns,
)
from regrip.vla.advantages import grpo


def decisions(count: int, episodes: int = 1, success: bool = False) -> Rollouts:
    """Episodes of one group with so many decisions."""
    rollouts = toy.carry([Carry(1.0 if success else 0.5, row=row) for row in range(episodes)])
    valid = np.zeros_like(rollouts.valid)
    valid[:, :count] = True
    return replace(rollouts, valid=valid)


def told(rollouts: Rollouts, *amounts: float) -> RewardSignal:
    """A signal that pays these amounts for the first decisions of every episode."""
    value = np.zeros(rollouts.decision_valid.shape)
    value[:, : len(amounts)] = amounts
    judged = np.ones(len(rollouts), bool)
    return RewardSignal(per_decision(rollouts.valid, value), {}, judged, relative=False)


@pytest.mark.parametrize(
    ("reward", "references", "expected"),
    [
        (1.0, [0.5], 0.622459),
        (1.0, [0.0, 1.0, 2.0], 0.5),
        (0.7, [0.7], 0.5),
        # trap T15: the mean of sigmoid(1) and sigmoid(-3), and not sigmoid(1 - 2) = 0.2689
        (1.0, [0.0, 4.0], (0.7310586 + 0.0474259) / 2),
    ],
)
def test_par(reward: float, references: list[float], expected: float) -> None:
    assert par(np.array([reward]), np.array(references))[0] == pytest.approx(expected, abs=1e-6)


@settings(deadline=None)
@given(
    arrays(np.float64, 4, elements=st.floats(-1e6, 1e6)), arrays(np.float64, 3, elements=st.floats(-1e6, 1e6))
)
def test_par_is_bounded_and_keeps_the_order(reward: np.ndarray, references: np.ndarray) -> None:
    shaped = par(np.sort(reward), references)
    assert (shaped >= 0).all()
    assert (shaped <= 1).all()
    assert (np.diff(shaped) >= 0).all()
    below = log_sigmoid_centred(np.sort(reward), references)
    assert np.isfinite(below).all()
    assert (below <= 0).all()


def test_par_is_paid_once_and_only_where_there_are_references() -> None:
    rollouts = toy.carry([Carry(1.0, "red"), Carry(1.0, "green")])
    signal = Pipeline(BinarySuccess(), [PreferenceAsReward({"toy/red": [0.5]})])(rollouts)
    assert returns(signal) == pytest.approx([0.622459, 0], abs=1e-6)
    assert signal.valid.tolist() == [True, False]
    assert signal.components["par/no_reference"].tolist() == [0, 1]
    assert (signal.value != 0).sum() == 1
    with pytest.raises(ValueError, match="expected finite returns, at least one"):
        PreferenceAsReward({"toy/red": []})


def test_clip() -> None:
    rollouts = decisions(4)
    signal = Clip(0.75)(told(rollouts, 0.9, 0.7, 0.8, 0.95), rollouts)
    np.testing.assert_allclose(signal.value.sum(-1)[0, :5], [0, -0.05, 0, 0, 0], atol=1e-6)
    assert signal.components["clip/at_top"][0] == pytest.approx(0.75)


def test_delta() -> None:
    rollouts = decisions(4)
    signal = Delta()(told(rollouts, 0.9, 0.7, 0.8, 0.95), rollouts)
    np.testing.assert_allclose(signal.value.sum(-1)[0, :5], [0.2, -0.1, 0.8, 0, 0], atol=1e-6)
    assert returns(signal)[0] == pytest.approx(0.9)


@settings(deadline=None)
@given(arrays(np.float64, (1, 6), elements=st.floats(-5, 5)), st.integers(0, 6), st.integers(0, 5))
def test_repeating_a_step_adds_nothing(level: np.ndarray, count: int, again: int) -> None:
    valid = np.arange(7)[None] < count
    row = np.concatenate([level, [[0.0]]], 1)
    total = delta(row, valid).sum()
    assert total == pytest.approx(row[0, 0] if count > 1 else 0, abs=1e-9)
    if count > 1 and again < count:
        longer = np.insert(row[0, :6], again, row[0, again])[None]
        assert delta(longer, np.arange(7)[None] < count + 1).sum() == pytest.approx(total, abs=1e-9)
        clipped, longer_clipped = (np.minimum(x - 0.3, 0)[0] for x in (row, longer))
        assert longer_clipped[: count + 1].sum() <= clipped[:count].sum() + 1e-9


def test_factors_scale_gains_and_penalties_override() -> None:
    base, factor = np.array([0.4, -0.4, 0.4]), np.array([0.5, 0.5, 0.5])
    paid = multiplicative(base, [factor, np.array([1.0, 0.0, 0.5])], np.array([0.0, 0.0, -1.0]))
    assert paid == pytest.approx([0.2, -0.4, -1.0])  # a loss is not scaled, or going round would pay
    assert multiplicative(base, [], np.zeros(3)) == pytest.approx(base)


class Half:
    """Says 0.5 of everything."""

    bounds = (0.0, 1.0)

    def __init__(self, relative: bool = False) -> None:
        self.relative = relative

    def progress(self, rollouts: Rollouts) -> Progress | Relative[Progress]:
        value = np.full(rollouts.decision_valid.shape, 0.5, np.float32)
        found = Progress(value, np.ones(len(rollouts), bool))
        return Relative(found) if self.relative else found


def test_nothing_is_earned_after_a_penalty() -> None:
    rollouts = decisions(4)
    at = np.zeros(rollouts.decision_valid.shape, bool)
    at[:, [1, 6]] = True  # the second is not a decision that was taken
    transform = Multiplicative(
        {"half": Half()}, {"hit": (lambda _: at, -2.0), "grazed": (lambda _: at, -1.0)}
    )
    signal = transform(told(rollouts, 1, 1, 1, 1), rollouts)
    np.testing.assert_allclose(signal.value.sum(-1)[0, :5], [0.5, -2, 0, 0, 0], atol=1e-6)
    assert signal.components["penalty/hit"].tolist() == [1]
    assert signal.components["factor/half"].tolist() == [0.5]
    assert not signal.relative
    assert Multiplicative({"half": Half(relative=True)})(told(rollouts, 1), rollouts).relative
    with pytest.raises(ValueError, match="expected less than 0: higher is better"):
        Multiplicative({}, {"hit": (lambda _: at, 1.0)})
    wide = Half()
    wide.bounds = (0.0, 2.0)
    with pytest.raises(ValueError, match="factor half has bounds"):
        Multiplicative({"half": wide})


def test_dither_would_blow_up_in_an_equal_group_and_so_is_skipped() -> None:
    noisy = torch.tensor([1.05, 0.95, 1.02, 0.98])
    advantage, _ = grpo(noisy, torch.zeros(4, dtype=torch.int64))
    assert advantage.tolist() == pytest.approx([1.137, -1.137, 0.455, -0.455], abs=1e-3)
    rollouts = decisions(3, episodes=4)
    signal = told(rollouts, 0, 0, 1)
    assert (returns(ReDit()(signal, rollouts)) == 1).all()
    assert ReDit()(signal, rollouts).components["redit/skipped"].all()
    assert np.unique(returns(ReDit(as_released=True)(signal, rollouts))).size == 4


def test_dither_tells_unequal_groups_apart_and_follows_the_episode() -> None:
    rollouts = decisions(3, episodes=400)
    signal = told(rollouts, 0, 0, 1)
    signal.value[:200] = 0
    for distribution in ("normal", "uniform"):
        transform = ReDit(distribution=distribution)  # type: ignore[arg-type]
        noise = transform(signal, rollouts).components["redit/noise"]
        assert abs(noise.mean()) < 0.01
        assert noise.std() == pytest.approx(0.05, rel=0.1)
        alone = transform(signal, rollouts).value[[7]]
        few = rollouts.take([7, 300, 9])
        assert np.array_equal(transform(told(few, 0, 0, 0), few).value[:1], 0 * alone)  # equal: skipped
        mixed = replace(told(few, 0, 0, 0), value=signal.value[[7, 300, 9]])
        assert np.array_equal(transform(mixed, few).value[:1], alone)
    assert np.abs(ReDit(distribution="uniform")(signal, rollouts).components["redit/noise"]).max() < 0.0867


def test_a_group_turns_over_as_a_whole_a_sample_alone() -> None:
    """Trap T12: two different experiments."""
    rollouts = toy.carry(
        [Carry(1.0 if row % 2 else 0.5, index=index, row=row) for index in range(50) for row in range(8)]
    )
    won = rollouts.success.astype(float)
    group = Pipeline(BinarySuccess(), [NoisyReward(0.4, "group")])(rollouts)
    turned = group.components["noisy/turned"].reshape(50, 8)
    assert (turned == turned[:, :1]).all()
    assert 0.2 < turned[:, 0].mean() < 0.6
    assert returns(group) == pytest.approx(np.where(turned.ravel() > 0, 1 - won, won))
    sample = Pipeline(BinarySuccess(), [NoisyReward(0.4, "sample")])(rollouts)
    each = sample.components["noisy/turned"].reshape(50, 8)
    assert 0.33 < each.mean() < 0.47
    assert each.mean(1).std() > 0
    assert (each != each[:, :1]).any()
    assert returns(sample) == pytest.approx(np.where(each.ravel() > 0, 1 - won, won))
    again = Pipeline(BinarySuccess(), [NoisyReward(0.4, "sample", seed=1)])(rollouts)
    assert (again.components["noisy/turned"] != sample.components["noisy/turned"]).any()
    with pytest.raises(ValueError, match=r"expected p in \[0, 1\]"):
        NoisyReward(1.5, "group")


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 3), st.sampled_from(["clip", "delta", "par", "redit", "noisy"]))
def test_no_transform_pays_what_was_not_judged(count: int, name: str) -> None:
    """Empty episodes and those the reward could not judge keep a value of 0."""
    rollouts = decisions(count, episodes=3)
    signal = replace(told(rollouts, 1, 1, 1), valid=np.array([True, False, True]))
    signal.value[1] = 0
    transform = {
        "clip": Clip(0.5),
        "delta": Delta(),
        "par": PreferenceAsReward({"toy/red": [0.0]}),
        "redit": ReDit(as_released=True),
        "noisy": NoisyReward(1.0, "sample"),
    }[name]
    found = transform(signal, rollouts)
    assert np.isfinite(found.value).all()
    assert not found.value[1].any()
    assert not found.value[~rollouts.valid].any()
