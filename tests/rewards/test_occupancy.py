"""The occupancy penalty: its arithmetic by hand, its discriminator on Gaussians, its state."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import reward_toy as toy
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from reward_members import Oracle, seen

from regrip.datasets.episode import Rollouts
from regrip.datasets.starts import SplitError, counter_generator
from regrip.rewards.binary import BinarySuccess
from regrip.rewards.embedding import SimulatorState
from regrip.rewards.occupancy import (
    OccupancyPenalty,
    chi_squared,
    held_out_log_ratio,
    occupancy_penalty,
)
from regrip.rewards.scorers import Difference, FrameProgress
from regrip.rewards.shaping import returns


def dense() -> Difference:
    return Difference(FrameProgress(Oracle()))


def test_chi_squared_by_hand() -> None:
    # base (1/3, 2/3), ratio (2, 1/2): the policy is (2/3, 1/3), two moments of the first, one of the second
    ratio = np.log(np.array([2.0, 2.0, 0.5]))
    assert chi_squared(ratio) == pytest.approx(0.5)
    assert occupancy_penalty(ratio, "kl")[0] == pytest.approx(0.6931, abs=1e-4)
    assert occupancy_penalty(ratio, "chi2") == pytest.approx([1, 1, -0.5])
    assert occupancy_penalty(ratio, "sqrt_chi2", 0.5)[0] == pytest.approx(1.4142, abs=1e-4)
    with pytest.raises(ValueError, match="needs the batch's chi2"):
        occupancy_penalty(ratio, "sqrt_chi2")


def test_chi_squared_of_two_gaussians() -> None:
    # the mean half a deviation away: exp(0.25) - 1; by quadrature, without trimming
    x = np.linspace(-8, 8, 4001)
    policy = np.exp(-0.5 * (x - 0.5) ** 2)
    ratio = -0.5 * (x - 0.5) ** 2 + 0.5 * x**2
    assert (np.expm1(ratio) * policy).sum() / policy.sum() == pytest.approx(0.284025, abs=1e-6)


def test_trimming_leaves_out_one_in_a_hundred_at_each_side() -> None:
    ratio = np.zeros(100)
    ratio[[0, 1]] = [10, -10]
    assert chi_squared(ratio) == 0
    assert chi_squared(ratio, trim=0) > 100


@settings(deadline=None)
@given(st.floats(-3, 3), st.floats(0, 50))
def test_penalties_grow_with_the_ratio(d: float, chi2: float) -> None:
    for divergence in ("kl", "chi2", "sqrt_chi2"):
        low, high = occupancy_penalty(np.array([d, d + 0.1]), divergence, chi2)  # type: ignore[arg-type]
        assert low < high
        assert np.isfinite([low, high]).all()


def test_the_discriminator_finds_the_log_ratio() -> None:
    generator = counter_generator("gaussians")
    base, current = generator.normal(size=(2000, 3)), generator.normal(size=(1000, 3))  # unequal numbers
    current[:, 0] += 0.5
    fold = np.arange(2000) % 2
    found = held_out_log_ratio(current, base, fold[:1000], fold)
    assert np.abs(found - (0.5 * current[:, 0] - 0.125)).mean() < 0.2
    assert np.corrcoef(found, current[:, 0])[0, 1] > 0.95


def test_what_is_told_apart_by_heart_is_not_told_apart() -> None:
    """As many numbers as moments, and no difference: fitted to what it judges, everything would differ."""
    generator = counter_generator("by heart")
    base, current = generator.normal(size=(40, 60)), generator.normal(size=(40, 60))
    fold = np.arange(40) % 2
    by_heart = held_out_log_ratio(current, base, np.zeros(40, np.int64), np.zeros(40, np.int64))
    assert (by_heart > 0).mean() == 1
    held_out = held_out_log_ratio(current, base, fold, fold)
    assert 0.2 < (held_out > 0).mean() < 0.8


def test_leaving_the_base_policy_costs() -> None:
    reward = OccupancyPenalty(dense(), SimulatorState(), coefficient=1.0)
    reward.remember_base(toy.many(0, 12, seed=3))
    near, far = toy.many(0, 6, seed=4), toy.many(6, 6, seed=4)
    away = replace(far, privileged=far.privileged + np.float32(0.3))
    signal = reward(near)
    assert abs(signal.components["occupancy/log_ratio"].mean()) < 1
    plain = returns(dense()(away))
    assert (returns(reward(away)) < plain).all()
    assert reward(away).components["occupancy/log_ratio"].mean() > 1
    assert reward(away).components["occupancy/chi2"][0] > 1
    clipped = OccupancyPenalty(dense(), SimulatorState(), coefficient=100.0, clip=(-0.1, 0.1))
    clipped.remember_base(toy.many(0, 12, seed=3))
    assert np.abs(clipped(away).value).max() <= 0.1 + 1e-6


@pytest.mark.parametrize("divergence", ["kl", "chi2", "sqrt_chi2"])
def test_the_cost_is_lam_times_the_penalty(divergence: Any) -> None:
    reward = OccupancyPenalty(dense(), SimulatorState(), divergence=divergence, coefficient=0.5)
    base = toy.many(3, 3, seed=3)
    reward.remember_base(base, reward_std=0.2)
    rollouts = toy.many(2, 2)
    signal = reward(rollouts)
    assert returns(signal) == pytest.approx(
        returns(dense()(rollouts)) - signal.components["occupancy/cost"], abs=1e-5
    )
    if divergence == "kl":
        expected = 0.1 * signal.components["occupancy/log_ratio"] * rollouts.decision_valid.sum(1)
        assert signal.components["occupancy/cost"] == pytest.approx(expected, abs=1e-5)


@dataclass(frozen=True)
class Cracked:
    """The simulator's state, but not of the first episode."""

    everywhere: bool = False

    def __call__(self, rollouts: Rollouts) -> NDArray[np.float32]:
        found = rollouts.privileged.copy()
        found[slice(None) if self.everywhere else 0] = np.nan
        return found


def test_bad_embeddings_are_counted_and_few_episodes_are_enough() -> None:
    reward = OccupancyPenalty(dense(), Cracked())
    reward.remember_base(toy.many(2, 2, seed=1))
    signal = reward(toy.many(1, 2))
    assert signal.valid.tolist() == [False, True, True]
    assert signal.components["occupancy/unjudged"].tolist() == [1, 0, 0]
    assert not signal.value[0].any()
    alone = reward(toy.many(1, 0))
    assert not alone.valid.any()
    reward.encoder = SimulatorState()
    assert np.isfinite(reward(toy.many(1, 0)).value).all()
    nothing = toy.many(1, 1)
    nothing = replace(nothing, valid=np.zeros_like(nothing.valid))
    assert not reward(nothing).valid.any()
    with pytest.raises(ValueError, match="no episode of the base policy has finite embeddings"):
        OccupancyPenalty(dense(), Cracked(everywhere=True)).remember_base(toy.many(1, 1))


def test_what_cannot_be_penalised_is_said_before_the_run() -> None:
    reward = OccupancyPenalty(BinarySuccess(), SimulatorState())
    with pytest.raises(ValueError, match="call `remember_base`"):
        reward(toy.many(1, 1))
    with pytest.raises(ValueError, match=r"standard deviation 0\.0"):
        reward.remember_base(toy.many(0, 3))
    with pytest.raises(SplitError):
        reward.remember_base(toy.many(1, 1, split="test"))
    reward.remember_base(toy.many(3, 3))
    with pytest.raises(SplitError):
        reward(toy.many(1, 1, split="test"))
    reward.encoder = SimulatorState(columns=(0, 1))
    with pytest.raises(ValueError, match="the encoder gives 2 numbers"):
        reward(toy.many(1, 1))


def test_state_goes_on_bit_for_bit() -> None:
    learnt = OccupancyPenalty(seen(), SimulatorState())
    learnt.remember_base(toy.many(4, 4, seed=2))
    state: Mapping[str, NDArray[np.generic]] = learnt.state_dict()
    fresh = OccupancyPenalty(seen(), SimulatorState())
    fresh.load_state_dict({name: held.copy() for name, held in state.items()})
    rollouts = toy.many(3, 3)
    assert np.array_equal(fresh(rollouts).value, learnt(rollouts).value)
    with pytest.raises(ValueError, match="occupancy penalty: the state has"):
        fresh.load_state_dict({name: held for name, held in state.items() if name != "base_fold"})
    empty = OccupancyPenalty(BinarySuccess(), SimulatorState())
    assert empty.state_dict() == {}
    empty.load_state_dict({})


@settings(max_examples=5, deadline=None)
@given(st.permutations(range(6)))
def test_rows_may_come_in_any_order(order: list[int]) -> None:
    reward = OccupancyPenalty(dense(), SimulatorState())
    base = toy.many(3, 3, seed=2)
    reward.remember_base(base.take(order))
    mixed = reward.base
    reward.remember_base(base)
    assert np.array_equal(mixed, reward.base)
