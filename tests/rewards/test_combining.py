"""Gates, redistribution and ensembles, against numbers worked by hand and those of the reference."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pytest
import reward_toy as toy
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from reward_members import seen
from reward_toy import Carry

from regrip.datasets.episode import Rollouts
from regrip.datasets.protocols import RewardSignal
from regrip.rewards.binary import BinarySuccess
from regrip.rewards.combining import (
    Ensemble,
    GatedAccumulation,
    HybridNormalisation,
    aggregate,
    gated,
    redistribute,
)
from regrip.rewards.scorers import per_decision
from regrip.rewards.self_referential import SelfReferentialConfig
from regrip.rewards.shaping import returns


@dataclass(frozen=True)
class Told:
    """Pays the same amounts for the first decisions of every episode; cannot judge `blind` episodes."""

    amounts: tuple[float, ...]
    relative: bool = False
    blind: tuple[int, ...] = ()

    def __call__(self, rollouts: Rollouts) -> RewardSignal:
        value = np.zeros(rollouts.decision_valid.shape)
        value[:, : len(self.amounts)] = self.amounts
        value[list(self.blind)] = 0
        valid = ~np.isin(np.arange(len(rollouts)), self.blind)
        return RewardSignal(per_decision(rollouts.valid, value), {}, valid, self.relative)

    def state_dict(self) -> dict[str, NDArray[np.generic]]:
        return {}

    def load_state_dict(self, state: Mapping[str, NDArray[np.generic]]) -> None:
        assert not state


def pair() -> Rollouts:
    """A failure and a success."""
    return toy.carry([Carry(0.5), Carry(1.0)])


def test_a_failure_is_not_paid_for_its_steps() -> None:
    steps = np.array([[0.1, 0.2], [0.1, 0.2]])
    assert gated(np.array([0.0, 1.0]), steps, 0.5) == pytest.approx([0, 1.3])
    signal = GatedAccumulation(BinarySuccess(), Told((0.1, 0.2)))(pair())
    assert returns(signal) == pytest.approx([0, 1.3])
    assert signal.components["gate"].tolist() == [0, 1]
    # what D-RA would have paid, so that it can be seen to rise while the outcome falls
    assert signal.components["total_ungated"] == pytest.approx([0.3, 1.3])
    ungated = GatedAccumulation(BinarySuccess(), Told((0.1, 0.2)), ungated=True)(pair())
    assert returns(ungated) == pytest.approx([0.3, 1.3])
    assert ungated.components["outcome"].tolist() == [0, 1]


def test_a_gate_needs_an_absolute_outcome() -> None:
    with pytest.raises(ValueError, match="only ranks the episodes of a batch"):
        GatedAccumulation(Told((1.0,), relative=True), Told((0.1,)))(pair())


def test_what_one_part_cannot_judge() -> None:
    steps_blind = GatedAccumulation(BinarySuccess(), Told((0.1, 0.2), blind=(1,)))(pair())
    assert returns(steps_blind) == pytest.approx([0, 1])
    assert steps_blind.valid.all()
    outcome_blind = GatedAccumulation(Told((1.0,), blind=(1,)), Told((0.5,)))(pair())
    assert outcome_blind.valid.tolist() == [True, False]
    assert outcome_blind.value.sum((1, 2)) == pytest.approx([1.5, 0])


@pytest.mark.parametrize(("outcome", "expected"), [(1.0, [0.2, 0.8]), (0.0, [-0.3, 0.3])])
def test_redistribution(outcome: float, expected: list[float]) -> None:
    process, valid = np.array([[0.2, 0.8, 5.0]]), np.array([[True, True, False]])
    found = redistribute(np.array([outcome]), process, valid, 1.0)
    assert found[0] == pytest.approx([*expected, 0])


@settings(deadline=None)
@given(
    arrays(np.float64, (3, 5), elements=st.floats(-1e3, 1e3)),
    arrays(np.float64, 3, elements=st.floats(-10, 10)),
    st.floats(0, 10),
)
def test_a_process_only_redistributes(process: np.ndarray, outcome: np.ndarray, weight: float) -> None:
    valid = np.arange(5)[None] < np.array([[5], [2], [1]])
    assert redistribute(outcome, process, valid, weight).sum(1) == pytest.approx(outcome, abs=1e-6)


def test_hybrid_normalisation_pays_the_outcome() -> None:
    signal = HybridNormalisation(BinarySuccess(), Told((0.3, 0.9, -4.0)))(pair())
    assert returns(signal) == pytest.approx([0, 1], abs=1e-6)
    assert signal.value.sum(-1)[1, 1] > signal.value.sum(-1)[1, 0] > signal.value.sum(-1)[1, 2]


@pytest.mark.parametrize(
    ("how", "k", "expected"),
    [
        ("mean", 1.0, 3),
        ("median", 1.0, 2),
        ("min", 1.0, 1),
        ("mean_var", 0.5, 0.6667),
        ("mean_std", 1.0, 0.8398),
    ],
)
def test_aggregates(how: str, k: float, expected: float) -> None:
    value, std = aggregate([np.array([1.0]), np.array([2.0]), np.array([6.0])], how, k)  # type: ignore[arg-type]
    assert value[0] == pytest.approx(expected, abs=1e-4)
    assert std[0] == pytest.approx(2.1602, abs=1e-4)


def test_an_ensemble_says_how_far_it_disagrees_and_does_without_the_blind() -> None:
    members = {"a": Told((1.0,)), "b": Told((2.0,), blind=(0,)), "c": Told((6.0,), blind=(0,))}
    signal = Ensemble(members, "min")(pair())
    assert returns(signal) == pytest.approx([1, 1])
    assert signal.components["num_members"].tolist() == [1, 3]
    assert signal.std is not None
    assert signal.std.max((1, 2)) == pytest.approx([0, 2.1602], abs=1e-4)
    none = Ensemble({"a": Told((1.0,), blind=(0, 1))})(pair())
    assert not none.valid.any()
    assert not none.value.any()


def test_the_parts_are_saved_under_their_names() -> None:
    learnt = GatedAccumulation(BinarySuccess(), seen(SelfReferentialConfig(form="potential")))
    state = learnt.state_dict()
    assert all(name.startswith("steps/") for name in state)
    fresh = GatedAccumulation(BinarySuccess(), seen(SelfReferentialConfig(form="potential")))
    fresh.load_state_dict(state)
    rollouts = toy.many(2, 2)
    assert np.array_equal(fresh(rollouts).value, learnt(rollouts).value)
    with pytest.raises(ValueError, match="the state holds 'other/x'"):
        fresh.load_state_dict({**state, "other/x": np.zeros(1)})
