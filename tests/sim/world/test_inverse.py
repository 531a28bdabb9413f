"""Are commands read back from pictures, and is a still video caught?"""

from __future__ import annotations

import dataclasses

import carrier_world
import numpy as np
import pytest
import torch
from fitted_carrier import Fitted

from regrip.sim.world.held import take
from regrip.sim.world.inverse import agreement, chunks_of, fit_inverse, motion_term


def test_agreement_by_hand() -> None:
    found, wanted = np.array([1.0, 0.0]), np.array([0.5, 0.0])
    assert agreement(found, wanted, 0.1) == pytest.approx(0.286505, abs=1e-6)
    assert agreement(found, wanted) == pytest.approx(0.882497, abs=1e-6)


def test_motion_is_asked_for_only_where_it_was_to_be_expected() -> None:
    motion, expected = np.array([0.0, 0.0, 0.125, 2.0]), np.array([1.0, 0.05, 1.0, 1.0])
    assert motion_term(motion, expected).tolist() == [0, 1, 0.5, 1]


def test_commands_are_read_back_and_a_still_video_does_not_obey(carrier: Fitted) -> None:
    seen, model, inverse = carrier.seen, carrier.model, carrier.referees.inverse
    rows, following, action, _ = chunks_of(model, seen.clips, np.arange(len(seen.clips)))
    before, after = (seen.tokens[torch.from_numpy(held)].float() for held in (rows, following))
    state = model.normal_state(seen.clips.state[rows])
    real = np.multiply(*inverse.score(before, after, state, action))
    turned = np.multiply(*inverse.score(before, after, state, -action))
    assert real.mean() > 0.5
    assert turned.mean() < 0.5 * real.mean()

    asked = seen.clips.action[seen.clips.first[seen.clips.episode[rows]] + seen.clips.step[rows]]
    moves = np.abs(asked).max(1) > 0.5 * carrier_world.STEP_M
    agrees, moved = inverse.score(before, before, state, action)
    assert (agrees * moved)[moves].max() < 0.05
    # A camera that flickers by a few of 255 does not move.
    flicker = np.random.default_rng(0).integers(-2, 3, seen.clips.pictures[rows].shape)
    noisy = np.clip(seen.clips.pictures[rows].astype(int) + flicker, 0, 255).astype(np.uint8)
    with torch.no_grad():
        then = model.tokenizer.encode(torch.from_numpy(noisy))
    flickered = np.multiply(*inverse.score(before, then, state, action))
    assert flickered[moves].mean() < 0.4 * real[moves].mean()


def test_the_guard_holds_where_the_model_answers_with_the_mean(carrier: Fitted) -> None:
    """Collapsed to the mean chunk it agrees with commands near the mean; a still picture gets nothing."""
    model = carrier.model
    rows, following, action, _ = chunks_of(model, carrier.clips, np.arange(8))
    inverse = fit_inverse(model, carrier.clips, carrier.tokens, np.arange(8), steps=30)
    for part in inverse.trunk.parameters():  # what expects motion stays as it was learnt
        part.data.zero_()
    before, after = (carrier.tokens[torch.from_numpy(held)].float() for held in (rows, following))
    state = model.normal_state(carrier.clips.state[rows])
    mean = action.mean(0, keepdim=True).expand_as(action)
    agrees, moved = inverse.score(before, before, state, mean)
    assert agrees.mean() > 0.8
    assert (agrees * moved).max() < 0.05
    assert np.multiply(*inverse.score(before, after, state, mean)).mean() > 0.3


def test_labels_are_in_physical_units(carrier: Fitted) -> None:
    seen = carrier.seen
    rows, following, _, _ = chunks_of(carrier.model, seen.clips, np.arange(len(seen.clips)))
    before, after = (seen.tokens[torch.from_numpy(held)].float() for held in (rows, following))
    found = carrier.referees.inverse.label(carrier.model, before, after)
    first = seen.clips.first[seen.clips.episode[rows]] + seen.clips.step[rows]
    real = np.stack([seen.clips.action[first], seen.clips.action[first + 1]], 1)
    assert found.shape == real.shape
    # What was done within the chunk in all is better known than in which step.
    assert np.corrcoef(found[..., 0].sum(1), real[..., 0].sum(1))[0, 1] > 0.7


def test_fitting_repeats_and_leaves_torch_as_it_was(carrier: Fitted) -> None:
    state = torch.random.get_rng_state()
    one, two = (
        fit_inverse(carrier.model, carrier.clips, carrier.tokens, np.arange(6), steps=10) for _ in range(2)
    )
    assert torch.equal(state, torch.random.get_rng_state())
    for name, held in one.state_dict().items():
        assert torch.equal(held, two.state_dict()[name]), name


def test_too_few_chunks_are_refused(carrier: Fitted) -> None:
    clips = take(carrier.clips, np.array([0]))
    alone = dataclasses.replace(clips, frame_of=np.where(np.arange(len(clips.action)) == 0, 0, -1))
    with pytest.raises(ValueError, match=r"1 episodes have 0 chunks.*record more"):
        fit_inverse(carrier.model, alone, carrier.tokens, np.array([0]), steps=1)
