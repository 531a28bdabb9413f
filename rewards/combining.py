"""Rewards of which one judges the other: gates, a process that only redistributes, ensembles.

They are rewards and not transforms, because the parts may keep a state; it is saved under the part's name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ..datasets.episode import Rollouts
from ..datasets.protocols import Reward, RewardSignal
from .pipeline import Sum
from .scorers import per_decision
from .shaping import Array, amounts, returns

Aggregate = Literal["mean", "median", "min", "mean_std", "mean_var"]


def gated(outcome: Array, steps: Array, threshold: float) -> Array:
    """The outcome, and if it is at least `threshold` the sum of the steps too; (B,) and (B,D) to (B,)."""
    return np.asarray(outcome + (outcome >= threshold) * steps.sum(1), np.float64)


@dataclass(frozen=True)
class GatedAccumulation:
    """G-RA: steps are paid only to episodes whose outcome passed; a `Reward`.

    Without the gate (D-RA) a policy may learn to collect steps and to fail: then `total_ungated` rises while
    `outcome` falls. Both are always logged, with the gate too, so that this can be seen.

    An episode without an outcome is not valid; steps that could not be judged pay nothing.

    Source: G-RA (arXiv 2508.10548), formula from the paper's abstract and second-hand.

    Attributes:
        outcome: must be absolute: a relative one has an episode that passes in every batch.
        steps: the dense reward.
        threshold: delta, in units of the outcome's return.
        ungated: D-RA, for comparison.
    """

    outcome: Reward
    steps: Reward
    threshold: float = 0.5
    ungated: bool = False

    def __call__(self, rollouts: Rollouts) -> RewardSignal:
        """Score B episodes.

        Raises:
            ValueError: the outcome is relative.
        """
        outcome, steps = self.outcome(rollouts), self.steps(rollouts)
        if outcome.relative:
            raise ValueError(
                "the outcome of a gate is a relative reward, which only ranks the episodes of a batch and "
                "cannot say that one passed; gate by success, or by a reward with an absolute scale"
            )
        verdict = returns(outcome)
        passed = outcome.valid & (verdict >= self.threshold)
        paying = (np.ones_like(passed) if self.ungated else passed) & outcome.valid & steps.valid
        value = outcome.value * outcome.valid[:, None, None] + steps.value * paying[:, None, None]
        components = {
            **{f"outcome/{key}": held for key, held in outcome.components.items()},
            **{f"steps/{key}": held for key, held in steps.components.items()},
            "outcome": verdict.astype(np.float32),
            "steps": returns(steps).astype(np.float32),
            "gate": passed.astype(np.float32),
            "total": value.sum((1, 2), dtype=np.float64).astype(np.float32),
            "total_ungated": (verdict + returns(steps)).astype(np.float32),
        }
        return RewardSignal(value, components, outcome.valid, steps.relative)

    def state_dict(self) -> dict[str, NDArray[np.generic]]:
        return _parts(self.outcome, self.steps).state_dict()

    def load_state_dict(self, state: Mapping[str, NDArray[np.generic]]) -> None:
        _parts(self.outcome, self.steps).load_state_dict(state)


def redistribute(outcome: Array, process: Array, decision_valid: NDArray[np.bool_], weight: float) -> Array:
    """Pay outcome / T + weight * (p_t - mean p) at each of T decisions; (B,) and (B,D) to (B,D).

    The sum over an episode is its outcome.
    """
    count = np.maximum(decision_valid.sum(1, keepdims=True), 1)
    held = np.where(decision_valid, process, 0.0)
    amount = outcome[:, None] / count + weight * (held - held.sum(1, keepdims=True) / count)
    return np.where(decision_valid, amount, 0.0)


@dataclass(frozen=True)
class HybridNormalisation:
    """A process reward that says where the outcome was earned, and never how much; a `Reward`.

    `redistribute`: an episode's return is its outcome, whatever the process says, so the process cannot be
    hacked for return; with a critic or a discount it still can be for *when* (early gains are worth more).

    This is our proposal under the name of PPR's ReNorm: no formula of that paper was found, only what its
    abstract says, and this is not claimed to be it.

    Attributes:
        outcome: paid in full.
        process: one amount for each decision; an episode it could not judge gets its outcome evenly.
        weight: lambda, in units of the outcome for a unit of the process.
    """

    outcome: Reward
    process: Reward
    weight: float = 1.0

    def __call__(self, rollouts: Rollouts) -> RewardSignal:
        outcome, process = self.outcome(rollouts), self.process(rollouts)
        amount = redistribute(
            returns(outcome), amounts(process, rollouts), rollouts.decision_valid, self.weight
        )
        components = {
            **{f"outcome/{key}": held for key, held in outcome.components.items()},
            **{f"process/{key}": held for key, held in process.components.items()},
            "outcome": returns(outcome).astype(np.float32),
            "process": returns(process).astype(np.float32),
        }
        value = per_decision(rollouts.valid, np.where(outcome.valid[:, None], amount, 0.0))
        return RewardSignal(value, components, outcome.valid, outcome.relative or process.relative)

    def state_dict(self) -> dict[str, NDArray[np.generic]]:
        return _parts(self.outcome, self.process).state_dict()

    def load_state_dict(self, state: Mapping[str, NDArray[np.generic]]) -> None:
        _parts(self.outcome, self.process).load_state_dict(state)


def aggregate(values: Sequence[Array], how: Aggregate, k: float = 1.0) -> tuple[Array, Array]:
    """One value of several members', and their standard deviation (of the population).

    Args:
        values: M arrays of one shape; NaN where a member could not judge, but not all of them.
        how: ``mean_std`` is mean - k * std, ``mean_var`` mean - k * variance.
        k: how cautious.
    """
    held = np.stack(values)
    mean, std = np.nanmean(held, 0), np.nanstd(held, 0)
    if how == "median":
        value = np.nanmedian(held, 0)
    elif how == "min":
        value = np.nanmin(held, 0)
    else:
        value = mean - k * {"mean": 0.0, "mean_std": std, "mean_var": std**2}[how]
    return np.asarray(value, np.float64), np.asarray(std, np.float64)


@dataclass(frozen=True)
class Ensemble:
    """Several rewards for the same thing, and how far they disagree; a `Reward`.

    Values are put together control step by control step, so the members should pay at the same places (all at
    the end, or all by decision). Those that could not judge an episode are left out of it; `num_members` says
    how many remained, and an episode is valid if one did. What the members all get wrong stays wrong.

    Source: aggregators as in Helping or Herding? (arXiv 2312.09244), as the paper's findings were noted.

    Attributes:
        members: by name.
        how: see `aggregate`.
        k: of the two cautious forms.
    """

    members: Mapping[str, Reward]
    how: Aggregate = "mean"
    k: float = 1.0

    def __post_init__(self) -> None:
        if not self.members:
            raise ValueError("an ensemble of no rewards; give at least one, better three")

    def __call__(self, rollouts: Rollouts) -> RewardSignal:
        signals = {name: member(rollouts) for name, member in self.members.items()}
        judged = np.stack([signal.valid for signal in signals.values()])
        valid = np.asarray(judged.any(0))
        value, std = (np.zeros(rollouts.valid.shape, np.float32) for _ in range(2))
        if valid.any():
            held = [
                np.where(s.valid[:, None, None], s.value, np.nan)[valid].astype(np.float64)
                for s in signals.values()
            ]
            value[valid], std[valid] = aggregate(held, self.how, self.k)
        components = {name: returns(signal).astype(np.float32) for name, signal in signals.items()}
        for name, signal in signals.items():
            components |= {f"{name}/{key}": part for key, part in signal.components.items()}
        components["num_members"] = judged.sum(0).astype(np.float32)
        relative = any(signal.relative for signal in signals.values())
        return RewardSignal(value, components, valid, relative, std)

    def state_dict(self) -> dict[str, NDArray[np.generic]]:
        return Sum({name: (member, 1.0) for name, member in self.members.items()}).state_dict()

    def load_state_dict(self, state: Mapping[str, NDArray[np.generic]]) -> None:
        Sum({name: (member, 1.0) for name, member in self.members.items()}).load_state_dict(state)


def _parts(outcome: Reward, steps: Reward) -> Sum:
    """Saves and loads the two under their names."""
    return Sum({"outcome": (outcome, 1.0), "steps": (steps, 1.0)})
