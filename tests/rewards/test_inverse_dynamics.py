"""Does the inverse model read the toy world's commands back, and is a still video caught?"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import reward_toy as toy
import torch
from reward_members import Oracle
from reward_toy import Carry
from safetensors.torch import load, save
from shaping_members import agreement, inverse_model

from regrip.datasets.episode import Rollouts
from regrip.datasets.starts import SplitError
from regrip.rewards.embedding import PixelDownsample, SimulatorState
from regrip.rewards.inverse_dynamics import (
    InverseAgreement,
    InverseModel,
    continuous_agreement,
    discrete_agreement,
    fit_inverse_dynamics,
    motion_term,
)


def still(rollouts: Rollouts, noise: int = 0) -> Rollouts:
    """The first moment all along, perhaps with sensor noise in its pictures; the commands are unchanged."""
    front = np.repeat(rollouts.images["front"][:, :1], rollouts.valid.shape[1], 1).astype(np.int64)
    front += np.random.default_rng(0).integers(-noise, noise + 1, front.shape)
    return replace(
        rollouts,
        images={"front": np.clip(front, 0, 255).astype(np.uint8)},
        privileged=np.repeat(rollouts.privileged[:, :1], rollouts.valid.shape[1], 1),
    )


def test_agreement_by_hand() -> None:
    recovered, commanded = np.array([1.0, 0.0]), np.array([0.5, 0.0])
    assert continuous_agreement(recovered, commanded, 0.1) == pytest.approx(0.286505, abs=1e-6)
    assert continuous_agreement(recovered, commanded, 1.0) == pytest.approx(0.882497, abs=1e-6)
    assert discrete_agreement(np.array([1, 2, 2]), np.array([1, 2, 3])).mean() == pytest.approx(2 / 3)


def test_motion_is_asked_for_by_commands_only() -> None:
    motion, command = np.array([0.0, 0.0, 0.125, 1.0]), np.array([1.0, 0.0, 1.0, 1.0])
    assert motion_term(motion, command).tolist() == [0, 1, 0.5, 1]


def test_a_video_that_obeys_scores_high_and_others_low() -> None:
    scorer, rollouts = agreement(), toy.many(8, 8, seed=20)
    assert float(scorer.model.explained) > 0.9
    obeyed = scorer.score(rollouts)
    assert obeyed.valid.all()
    assert obeyed.value.mean() > 0.6
    negated = scorer.score(replace(rollouts, action=-rollouts.action))
    assert negated.value.mean() < 0.5 * obeyed.value.mean()


def test_a_still_scene_scores_low_when_it_was_told_to_move() -> None:
    scorer, rollouts = agreement(), toy.many(8, 0, seed=21)
    frozen = scorer.score(still(rollouts))
    assert frozen.valid.all()
    assert frozen.value.max() < 1e-6
    assert scorer.score(rollouts).value.min() > 0.3


def test_sensor_noise_is_no_motion() -> None:
    """Pictures: an inverse model of little worth (it was shown 30 episodes) and a camera that flickers."""
    encoder = PixelDownsample(8, ("front",))
    model = fit_inverse_dynamics(toy.many(15, 15, seed=9), encoder, steps=100)
    scorer, rollouts = InverseAgreement(model, encoder), toy.many(8, 0, seed=21)
    moved, flicker, frozen = (
        scorer.score(video) for video in (rollouts, still(rollouts, 2), still(rollouts))
    )
    assert frozen.value.max() < 1e-6
    assert flicker.value.mean() < 0.25 * moved.value.mean()
    assert moved.components["motion"].mean() > 0.8


def test_a_still_video_that_was_told_to_be_still_obeys() -> None:
    scorer, rollouts = agreement(), toy.many(4, 0, seed=21)
    idle = replace(still(rollouts), action=np.zeros_like(rollouts.action))
    assert scorer.score(idle).components["motion"] == pytest.approx(1)


def test_the_guard_holds_where_the_model_knows_nothing() -> None:
    """Collapsed to the mean action, a model agrees with commands near the mean; the guard does not."""
    good = inverse_model()
    model = InverseModel(4, 2)
    for part in model.parameters():
        part.data.zero_()
    model.load_state_dict(dict(good.named_buffers()), strict=False)
    scorer = InverseAgreement(model, SimulatorState((0, 1, 2, 3)))
    rollouts = toy.many(4, 0, seed=22)
    mean = replace(rollouts, action=np.broadcast_to(good.action_mean.numpy(), rollouts.action.shape))
    assert scorer.score(mean).value.mean() > 0.5
    assert scorer.score(still(mean)).value.max() < 1e-6


def test_discrete_form() -> None:
    scorer, rollouts = replace(agreement(), form="discrete"), toy.many(8, 8, seed=20)
    high, low = scorer.score(rollouts), scorer.score(replace(rollouts, action=-rollouts.action))
    assert 0.6 < high.value.mean() <= 1
    assert low.value.mean() < high.value.mean() - 0.3


def test_fitting_repeats_whatever_the_rows_and_saves() -> None:
    rollouts, encoder = toy.many(6, 6, seed=9), SimulatorState(columns=(0, 1))
    model = fit_inverse_dynamics(rollouts, encoder, steps=20)
    mixed = rollouts.take(np.random.default_rng(0).permutation(12))
    state = torch.random.get_rng_state()
    again = fit_inverse_dynamics(mixed, encoder, steps=20)
    assert torch.equal(state, torch.random.get_rng_state())
    for name, held in model.state_dict().items():
        assert torch.allclose(held, again.state_dict()[name], atol=1e-6), name
    loaded = InverseModel(2, 2)
    loaded.load_state_dict(load(save(model.state_dict())))
    a, b = (InverseAgreement(m, encoder).score(rollouts).value for m in (model, loaded))
    assert np.array_equal(a, b)


class Cracked:
    """The hand's place, but not in the first episode."""

    def __call__(self, rollouts: Rollouts) -> np.ndarray:
        found = rollouts.state.copy()
        found[0] = np.nan
        return found


def test_bad_input() -> None:
    encoder = SimulatorState(columns=(0, 1))
    model = fit_inverse_dynamics(toy.many(6, 6, seed=9), encoder, steps=5)
    rollouts = toy.many(1, 2)
    valid = rollouts.valid.copy()
    valid[1, 1:] = False  # one decision only
    score = InverseAgreement(model, Cracked()).score(replace(rollouts, valid=valid))
    assert score.valid.tolist() == [False, False, True]
    assert score.components["unjudged"].tolist() == [8, 0, 0]
    assert score.components["no_transition"].tolist() == [0, 1, 0]
    assert not score.value[:2].any()
    with pytest.raises(ValueError, match="expected at least 5"):
        fit_inverse_dynamics(toy.many(2, 2), encoder)
    with pytest.raises(SplitError):
        fit_inverse_dynamics(toy.carry([Carry(split="test")]), encoder)


def test_what_it_is_not() -> None:
    """It says nothing about success: a failure that obeys scores as a success does."""
    score = agreement().score(toy.many(8, 8, seed=23)).value
    assert abs(score[:8].mean() - score[8:].mean()) < 0.3
    assert Oracle.bounds == (0.0, 1.0)
