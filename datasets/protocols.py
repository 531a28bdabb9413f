"""What the rooms promise each other: environments, policies, rewards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from .episode import Observation, Rollouts
from .spec import RobotSpec
from .starts import StartState


@dataclass(frozen=True)
class ActionSample:
    """What a policy answers at one decision.

    Attributes:
        action: float32 (B,H,A) in the RobotSpec's physical units, clipped to its limits.
        log_prob: float32 (B,H), one per control step (summed over that step's action dimensions), so that
            the part that was never executed can be left out of the ratio; zero for greedy calls.
        latent: name to (B,...) arrays from which `log_prob` can be recomputed exactly.
    """

    action: NDArray[np.float32]
    log_prob: NDArray[np.float32]
    latent: Mapping[str, NDArray[np.generic]] = field(default_factory=dict)


class Actor(Protocol):
    """The part of a policy that collection needs."""

    def act(
        self, observation: Observation, noise_keys: Sequence[tuple[str | int, ...]] | None
    ) -> ActionSample:
        """Sample actions; row i draws its random numbers from ``counter_generator(*noise_keys[i])``.

        With `noise_keys` None the policy is greedy (no randomness at all).
        """
        ...


@dataclass(frozen=True)
class StepResult:
    """What came of executing one chunk in each of B environment slots.

    Attributes:
        observation: after the chunk (the frame the policy will look at next; meaningless where `done`).
        privileged: float32 (B,P) simulator state after the chunk.
        executed: int (B,), how many of the H actions ran before the episode ended.
        reward: float32 (B,H); zero where not executed.
        success: bool (B,), true when the episode has succeeded (it then is done).
        invalid: bool (B,), true when the simulation broke down: the episode is done and counts for nothing.
        done: bool (B,), success, step limit or invalid.
    """

    observation: Observation
    privileged: NDArray[np.float32]
    executed: NDArray[np.int64]
    reward: NDArray[np.float32]
    success: NDArray[np.bool_]
    invalid: NDArray[np.bool_]
    done: NDArray[np.bool_]


class VectorEnv(Protocol):
    """Many environments in slots 0..num_slots-1. Results never depend on how processes share the slots."""

    spec: RobotSpec
    num_slots: int
    chunk_size: int

    def reset(self, slots: Sequence[int], starts: Sequence[StartState]) -> None:
        """Begin episodes; returns at once. The answer comes from `receive`."""
        ...

    def step(self, slots: Sequence[int], chunks: NDArray[np.float32]) -> None:
        """Execute (B,H,A) action chunks; returns at once. The answer comes from `receive`."""
        ...

    def receive(self, slots: Sequence[int]) -> StepResult:
        """Wait for the answers of the last `reset` or `step` of these slots."""
        ...

    def snapshot(self, slots: Sequence[int]) -> list[bytes]:
        """The complete state of each slot; `restore` continues bit for bit."""
        ...

    def restore(self, slots: Sequence[int], snapshots: Sequence[bytes]) -> None: ...

    def close(self) -> None: ...


@dataclass(frozen=True)
class RewardSignal:
    """What a reward says about B episodes.

    Attributes:
        value: float32 (B,D,H) per control step; higher is better.
        components: name to float32 (B,), unweighted terms, logged by name.
        valid: bool (B,), false where the reward could not judge (its value is then 0).
        relative: true when values only rank inside this batch; such a signal may never detect success.
        std: float32 (B,D,H), how unsure the reward is of each value; None if it does not say.
    """

    value: NDArray[np.float32]
    components: Mapping[str, NDArray[np.float32]]
    valid: NDArray[np.bool_]
    relative: bool
    std: NDArray[np.float32] | None = None


@dataclass(frozen=True)
class Progress:
    """A level, not a reward: how far B episodes had got at each decision. Higher is better.

    Attributes:
        value: float32 (B,D); of a progress model in [0, 1], of any other within the scorer's `bounds`.
        valid: bool (B,), false where the episode could not be judged (its value is then 0).
        components: name to float32 (B,), for logs.
        std: float32 (B,D), how unsure the scorer is; None if it does not say.
    """

    value: NDArray[np.float32]
    valid: NDArray[np.bool_]
    components: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)
    std: NDArray[np.float32] | None = None


@dataclass(frozen=True)
class Score:
    """One number for each of B episodes (or B texts). Higher is better.

    Attributes:
        value: float32 (B,).
        valid: bool (B,), false where it could not be judged (its value is then 0).
        components: name to float32 (B,), for logs.
        std: float32 (B,), how unsure the scorer is; None if it does not say.
    """

    value: NDArray[np.float32]
    valid: NDArray[np.bool_]
    components: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)
    std: NDArray[np.float32] | None = None


_T = TypeVar("_T", Progress, Score)


@dataclass(frozen=True)
class Relative(Generic[_T]):
    """A `Progress` or `Score` that was normalised in its video or its batch: it ranks, and says no more.

    The best of a batch of failures looks like a success here. So it is another type: what detects success
    takes a `Progress` or a `Score`, and a type checker, and the call itself, refuse this one.
    """

    ranking: _T


class Reward(Protocol):
    """Scores episodes. Stateful rewards (a reference bank) save and load themselves."""

    def __call__(self, rollouts: Rollouts) -> RewardSignal: ...

    def state_dict(self) -> dict[str, NDArray[np.generic]]:
        """Everything needed to go on, as named arrays."""
        ...

    def load_state_dict(self, state: Mapping[str, NDArray[np.generic]]) -> None: ...
