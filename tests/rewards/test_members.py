"""What every reward must hold, whatever it is made of; the numbers are those in `Member.exempt`."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
import reward_toy as toy
import torch
from numpy.typing import NDArray
from reward_members import MEMBERS, Member, as_reward, as_trajectory

from regrip.datasets.episode import Rollouts
from regrip.datasets.protocols import Relative, Reward, RewardSignal
from regrip.rewards.asynchronous import Asynchronous
from regrip.rewards.probes import frozen, played_backwards, wrong_words
from regrip.rewards.scorers import Difference, Potential, frames_of, ranking
from regrip.vla.advantages import grpo

LEVELS = ("frame", "pair", "trajectory")


def cases(number: int, *kinds: str) -> pytest.MarkDecorator:
    """The members of these kinds (all but texts if none is named) that property `number` binds."""
    bound = [
        pytest.param(member, id=member.name)
        for member in MEMBERS
        if number not in member.exempt and (member.kind in kinds if kinds else member.kind != "text")
    ]
    return pytest.mark.parametrize("member", bound)


def paid(member: Member, rollouts: Rollouts) -> NDArray[np.float64]:
    """What each episode earns."""
    return as_reward(member)(rollouts).value.sum((1, 2), dtype=np.float64)


@cases(1)
def test_1_shape_finite_and_the_same_again(member: Member) -> None:
    rollouts = toy.many(4, 4)
    signal, again = as_reward(member)(rollouts), as_reward(member)(rollouts)
    assert signal.value.shape == rollouts.valid.shape
    assert signal.value.dtype == np.float32
    assert signal.valid.shape == (8,)
    assert signal.valid.all()
    assert np.isfinite(signal.value).all()
    assert np.array_equal(signal.value, again.value)
    assert all(held.shape == (8,) for held in signal.components.values())


@cases(2)
def test_2_bounds_hold(member: Member) -> None:
    rollouts = toy.many(6, 6)
    if member.kind in ("reward", "transform"):
        low, high = member.bounds
        value = paid(member, rollouts)
    elif member.kind in LEVELS:
        scorer = as_trajectory(member)
        (low, high), value = (
            scorer.bounds,
            ranking(scorer.progress(rollouts))[0].value[rollouts.decision_valid],
        )
    else:
        scorer = member.make()
        found = scorer.score(rollouts)
        (low, high), value = scorer.bounds, (found.ranking if isinstance(found, Relative) else found).value
    assert low - 1e-6 <= value.min()
    assert value.max() <= high + 1e-6


@cases(3, *LEVELS)
def test_3_a_potential_pays_the_last_level_less_the_first(member: Member) -> None:
    rollouts, gamma = toy.many(2, 4), 0.9
    scorer = as_trajectory(member)
    level = ranking(scorer.progress(rollouts))[0].value.astype(np.float64)
    gain = Potential(scorer, gamma)(rollouts).value.sum(-1, dtype=np.float64)
    for row, count in enumerate(rollouts.decision_valid.sum(1)):
        total = (gain[row, :count] * gamma ** np.arange(count)).sum()
        kept = 0.0 if rollouts.success[row] else gamma**count * level[row, count - 1]
        assert total == pytest.approx(kept - level[row, 0], abs=1e-5)


@cases(4)
def test_4_the_order_of_episodes_does_not_matter(member: Member) -> None:
    rollouts = toy.many(4, 5)
    order = np.random.default_rng(0).permutation(9)
    straight, mixed = as_reward(member)(rollouts), as_reward(member)(rollouts.take(order))
    np.testing.assert_allclose(mixed.value, straight.value[order], atol=1e-5)


@cases(5)
def test_5_equal_episodes_earn_no_advantage(member: Member) -> None:
    rollouts = toy.many(0, 3, seed=3).take([2, 2, 2, 2])
    returns = torch.from_numpy(as_reward(member)(rollouts).value.sum((1, 2)))
    advantage, _ = grpo(returns, torch.zeros(4, dtype=torch.int64))
    assert advantage.abs().max() < 1e-4


@cases(6, "pair")
def test_6_the_other_way_round_is_the_negative(member: Member) -> None:
    rollouts = toy.many(3, 3)
    rows = np.arange(6)
    a, b = frames_of(rollouts, rows, np.full(6, 1)), frames_of(rollouts, rows, np.full(6, 5))
    scorer = member.make()
    np.testing.assert_allclose(scorer.delta(a, b), -scorer.delta(b, a), atol=1e-5)
    np.testing.assert_allclose(scorer.delta(a, a), 0, atol=1e-5)


@cases(7)
def test_7_backwards_earns_less_and_standing_still_earns_nothing(member: Member) -> None:
    rollouts = toy.many(12, 0)
    straight = paid(member, rollouts).mean()
    assert paid(member, played_backwards(rollouts)).mean() < straight - 0.05 * abs(straight)
    if member.kind in LEVELS:
        still = np.abs(Difference(as_trajectory(member))(frozen(rollouts)).value.sum((1, 2))).mean()
        assert still < 0.1 * abs(straight) + 1e-6


@cases(8)
def test_8_the_wrong_words_earn_less(member: Member) -> None:
    rollouts = toy.many(12, 0)
    wrong = wrong_words(rollouts)
    assert wrong is not None
    assert sorted(set(wrong.instruction)) == sorted(set(rollouts.instruction))
    assert paid(member, wrong).mean() < paid(member, rollouts).mean()


@cases(9)
def test_9_standing_still_for_a_while_earns_nothing_more(member: Member) -> None:
    rollouts = toy.many(6, 0)
    at = np.array([0, 1, 2, 3, 4, 4, 4, 5, 6, 7, 8, 8])  # of 9 decisions: the fifth is seen three times
    rows, order = np.arange(6)[:, None], at[None].repeat(6, 0)
    valid = rollouts.valid[rows, order]
    valid[:, 11] = False
    valid[:, 7:10, :] = True
    slow = replace(
        rollouts,
        images={name: frames[rows, order] for name, frames in rollouts.images.items()},
        state=rollouts.state[rows, order],
        privileged=rollouts.privileged[rows, order],
        action=rollouts.action[rows, order],
        valid=valid,
    )
    assert (paid(member, slow) <= paid(member, rollouts) + 0.02 * np.abs(paid(member, rollouts)) + 1e-5).all()


class Held:
    """A reward that does not answer before it is told to."""

    def __init__(self, reward: Reward) -> None:
        self.reward = reward
        self.entered, self.go_on = threading.Event(), threading.Event()

    def __call__(self, rollouts: Rollouts) -> RewardSignal:
        self.entered.set()
        if not self.go_on.wait(60):
            raise TimeoutError("somebody waited for a reward that was not told to answer")
        return self.reward(rollouts)

    def state_dict(self) -> dict[str, NDArray[np.generic]]:
        return self.reward.state_dict()

    def load_state_dict(self, state: Mapping[str, NDArray[np.generic]]) -> None:
        self.reward.load_state_dict(state)


@cases(10)
def test_10_in_the_background_it_never_blocks_and_says_the_same_later(member: Member) -> None:
    rollouts = toy.many(3, 3)
    held = Held(as_reward(member))
    with Asynchronous(held) as background:
        first = background(rollouts)
        assert held.entered.wait(60)
        again = background(rollouts)  # still held
        for signal in (first, again):
            assert signal.components["pending"].all()
            assert not signal.valid.any()
            assert not signal.value.any()
        held.go_on.set()
        assert background.wait(60)
        later, straight = background(rollouts), as_reward(member)(rollouts)
    assert not first.value.any()  # a late label changes later lookups only
    assert not later.components["pending"].any()
    assert np.array_equal(later.value, straight.value)
    assert np.array_equal(later.valid, straight.valid)
    assert later.relative == straight.relative
    for name, said in straight.components.items():
        assert np.array_equal(later.components[name], said), name


@cases(11)
def test_11_what_was_not_executed_counts_for_nothing(member: Member) -> None:
    rollouts = toy.many(4, 0)
    hidden = ~rollouts.decision_valid
    assert hidden.any()
    noise = np.random.default_rng(1)
    images = {name: frames.copy() for name, frames in rollouts.images.items()}
    for frames in images.values():
        frames[hidden] = noise.integers(0, 256, frames[hidden].shape)
    privileged = rollouts.privileged.copy()
    privileged[hidden] = noise.normal(size=privileged[hidden].shape)
    action = np.where(rollouts.valid[..., None], rollouts.action, np.nan).astype(np.float32)
    other = replace(rollouts, images=images, privileged=privileged, action=action)
    before, after = as_reward(member)(rollouts), as_reward(member)(other)
    np.testing.assert_allclose(after.value, before.value, atol=1e-6)
    assert not before.value[~rollouts.valid].any()


@pytest.mark.parametrize("member", [m for m in MEMBERS if m.kind == "text"], ids=lambda m: m.name)
class TestTexts:
    """What a scorer of answers must hold; the numbers are the same."""

    def test_1_and_2(self, member: Member) -> None:
        scorer = member.make()
        truths, right, wrong, padded = (list(column) for column in zip(*member.examples, strict=True))
        for said in (right, wrong, padded, ["", *right[1:]], ["\x00{]", *right[1:]]):
            score, again = scorer.score(said, truths), member.make().score(said, truths)
            assert score.value.shape == (len(truths),)
            assert np.isfinite(score.value).all()
            assert np.array_equal(score.value, again.value)
            low, high = scorer.bounds
            assert low <= score.value.min()
            assert score.value.max() <= high

    def test_4(self, member: Member) -> None:
        truths, right, wrong, _ = (list(column) for column in zip(*member.examples, strict=True))
        scorer, said = member.make(), [*right, *wrong]
        straight = scorer.score(said, truths * 2).value
        assert np.array_equal(scorer.score(said[::-1], (truths * 2)[::-1]).value, straight[::-1])

    def test_8_and_9(self, member: Member) -> None:
        truths, right, wrong, padded = (list(column) for column in zip(*member.examples, strict=True))
        scorer = member.make()
        best = scorer.score(right, truths).value
        assert (scorer.score(wrong, truths).value < best).all()
        assert (scorer.score(padded, truths).value <= best).all()
