"""STARC distances against the world of two states, and shaping that costs nothing."""

from __future__ import annotations

from dataclasses import dataclass

import hypothesis.strategies as st
import numpy as np
import pytest
import reward_toy as toy
from hypothesis import given, settings
from numpy.typing import NDArray
from trust_toy import SCORERS, truth

from regrip.datasets.episode import Rollouts
from regrip.datasets.protocols import Score
from regrip.rewards.binary import BinarySuccess
from regrip.rewards.pipeline import Sum
from regrip.rewards.readings import read, subject
from regrip.rewards.scorers import Difference, Potential, Terminal
from regrip.rewards.starc import canonical, distance, sampled_canonical
from regrip.rewards.trust import examine

GAMMA = 0.5
# Two states, actions stay and switch.
WORLD = np.zeros((2, 2, 2))
WORLD[[0, 0, 1, 1], [0, 1, 0, 1], [0, 1, 1, 0]] = 1
UNIFORM = np.full((2, 2), 0.5)


def going(start: int, end: int) -> NDArray[np.float64]:
    reward = np.zeros((2, 2, 2))
    reward[start, :, end] = 1
    return reward


def shaped(reward: NDArray[np.float64], potential: NDArray[np.floating]) -> NDArray[np.float64]:
    return np.asarray(reward + GAMMA * potential[None, None] - potential[:, None, None])


def levelled(reward: NDArray[np.float64]) -> NDArray[np.float64]:
    return canonical(reward, WORLD, UNIFORM, GAMMA)


def test_two_states_by_hand() -> None:
    first = going(0, 1)
    np.testing.assert_allclose(levelled(first), [[-0.375, 0.375], [-0.125, 0.125]])
    assert distance(levelled(first), levelled(-first)) == pytest.approx(2)
    assert distance(levelled(first), levelled(going(1, 0))) == pytest.approx(0.894427, abs=1e-6)
    assert distance(levelled(first), levelled(np.zeros((2, 2, 2)))) == pytest.approx(1)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(st.lists(st.floats(-5, 5), min_size=2, max_size=2), st.floats(0.1, 10))
def test_shaping_and_scale_cost_nothing(potential: list[float], scale: float) -> None:
    first = going(0, 1)
    second = shaped(scale * first, np.array(potential))
    assert distance(levelled(first), levelled(second)) == pytest.approx(0, abs=1e-6)


def test_samples_with_a_feature_for_each_state_give_the_table() -> None:
    state, following = np.array([0, 0, 1, 1]), np.array([0, 1, 1, 0])  # each action once: the uniform policy
    one = np.eye(2)
    left = [
        sampled_canonical(reward[state, 0, following], one[state], one[following], GAMMA)
        for reward in (going(0, 1), going(1, 0), shaped(3 * going(0, 1), np.array([2.0, -1.0])))
    ]
    np.testing.assert_allclose(left[0], [-0.375, 0.375, -0.125, 0.125], atol=1e-9)
    assert distance(left[0], left[1]) == pytest.approx(0.894427, abs=1e-6)
    assert distance(left[0], left[2]) == pytest.approx(0, abs=1e-9)


def test_a_potential_on_top_of_success_is_still_success() -> None:
    rollouts = toy.many(12, 18)
    oracle = SCORERS["oracle"]
    reward = Sum({"won": (BinarySuccess(), 1.0), "shaping": (Potential(oracle, 0.99, scale=0.5), 1.0)})
    found = examine(subject("shaped", oracle, reward), rollouts).numbers["starc"]
    assert found.value == pytest.approx(0, abs=1e-4)
    undiscounted = Sum({"won": (BinarySuccess(), 1.0), "gain": (Difference(oracle), 1.0)})
    assert examine(subject("gain", oracle, undiscounted), rollouts).numbers["starc"].value > 0.1  # type: ignore[operator]


def test_shaping_alone_is_as_far_from_success_as_nothing() -> None:
    rollouts = toy.many(12, 18)
    oracle = SCORERS["oracle"]
    alone = subject("alone", oracle, Potential(oracle, 0.99))
    assert examine(alone, rollouts).numbers["starc"].value == pytest.approx(1)
    assert np.abs(read(alone, rollouts).paid).max() > 0.1
    assert truth(rollouts).max() > 0.9


def test_a_failure_paid_at_the_step_limit_is_paid_once() -> None:
    rollouts = toy.many(12, 18)
    halves = Terminal(Verdict(0.5))
    near = examine(subject("halves", halves, halves), rollouts).numbers["starc"].value
    opposite = Terminal(Verdict(2.0))
    far = examine(subject("opposite", opposite, opposite), rollouts).numbers["starc"].value
    assert near is not None
    assert far is not None
    assert near < 1 < far


@dataclass(frozen=True)
class Verdict:
    """A success is worth 1, a failure something else."""

    failure: float
    bounds: tuple[float, float] = (0.0, 2.0)

    def score(self, rollouts: Rollouts) -> Score:
        value = np.where(rollouts.success, 1, self.failure).astype(np.float32)
        return Score(value, np.ones(len(rollouts), bool))
