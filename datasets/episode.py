"""The episode: the one thing every room passes to the next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .starts import StartState


@dataclass(frozen=True)
class Outcome:
    """How an episode ended. Success is the simulator's verdict, never a shaped reward."""

    success: bool
    terminated: bool
    truncated: bool


@dataclass(frozen=True)
class Provenance:
    """Where an episode came from."""

    environment: str
    start: StartState | None
    seed: int
    policy: str


@dataclass(frozen=True)
class Episode:
    """What happened once. T control steps; keys follow LeRobot's conventions.

    Attributes:
        images: camera name to uint8 (F,H,W,3) RGB, one frame for each entry of `frame_steps`.
        frame_steps: (F,) int, the control step before which each frame was taken (0 is the start). A
            recording with every frame has ``frame_steps == arange(T)``.
        state: float32 (T,S), in the RobotSpec's units, taken before each action.
        action: float32 (T,A), physical units of the RobotSpec, as executed.
        reward: float32 (T,).
        timestamp: float64 (T,) seconds, time of capture, not index over rate.
        task: the instruction given to the policy.
        outcome: how it ended.
        provenance: where it came from.
    """

    images: Mapping[str, NDArray[np.uint8]]
    frame_steps: NDArray[np.int64]
    state: NDArray[np.float32]
    action: NDArray[np.float32]
    reward: NDArray[np.float32]
    timestamp: NDArray[np.float64]
    task: str
    outcome: Outcome
    provenance: Provenance

    def __post_init__(self) -> None:
        steps = len(self.action)
        for key in ("state", "reward", "timestamp"):
            if len(getattr(self, key)) != steps:
                raise ValueError(
                    f"episode of {self.task!r}: {key} has {len(getattr(self, key))} rows, action has {steps}"
                )
        for camera, frames in self.images.items():
            if frames.dtype != np.uint8 or frames.ndim != 4 or len(frames) != len(self.frame_steps):
                raise ValueError(
                    f"episode of {self.task!r}: camera {camera} is {frames.dtype} {frames.shape}, "
                    f"expected uint8 ({len(self.frame_steps)},H,W,3)"
                )

    def __len__(self) -> int:
        return len(self.action)


@dataclass(frozen=True)
class Observation:
    """A batch of what a policy sees at a decision point.

    Attributes:
        images: camera name to uint8 (B,H,W,3) RGB.
        state: float32 (B,S).
        instruction: B strings.
    """

    images: Mapping[str, NDArray[np.uint8]]
    state: NDArray[np.float32]
    instruction: Sequence[str]

    def __len__(self) -> int:
        return len(self.state)

    def take(self, rows: Sequence[int] | NDArray[np.int64]) -> Observation:
        return Observation(
            images={name: frames[rows] for name, frames in self.images.items()},
            state=self.state[rows],
            instruction=[self.instruction[int(row)] for row in rows],
        )


@dataclass(frozen=True)
class Rollouts:
    """A batch of B episodes a policy played, padded to D decisions of H control steps each.

    A decision is one call of the policy: it saw one observation and gave H actions, of which the simulator
    executed those marked in `valid` (the cut is at the environment step, not at the chunk).

    Attributes:
        start: B start states.
        group: (B,) int; equal numbers share task and start state.
        instruction: B strings, as given to the policy.
        images: camera name to uint8 (B,D,h,w,3), the frame the policy saw at each decision.
        state: float32 (B,D,S).
        privileged: float32 (B,D,P), simulator state at each decision; for rewards and diagnostics only.
        action: float32 (B,D,H,A), physical units, as sent.
        valid: bool (B,D,H), true where the action was executed.
        reward: float32 (B,D,H), the environment's own sparse reward (1 at the step of success).
        success: bool (B,).
        truncated: bool (B,), ended by the step limit.
        invalid: bool (B,), the simulation broke down: neither success nor failure, to be left out.
        latent: what the policy needs to recompute log-probabilities: name to array (B,D,...).
        log_prob: float32 (B,D,H) behaviour log-probability of each control step, summed over its dimensions.
        policy_version: the learner iteration that played them.
    """

    start: Sequence[StartState]
    group: NDArray[np.int64]
    instruction: Sequence[str]
    images: Mapping[str, NDArray[np.uint8]]
    state: NDArray[np.float32]
    privileged: NDArray[np.float32]
    action: NDArray[np.float32]
    valid: NDArray[np.bool_]
    reward: NDArray[np.float32]
    success: NDArray[np.bool_]
    truncated: NDArray[np.bool_]
    invalid: NDArray[np.bool_]
    latent: Mapping[str, NDArray[np.generic]]
    log_prob: NDArray[np.float32]
    policy_version: int

    def __len__(self) -> int:
        return len(self.success)

    @property
    def decision_valid(self) -> NDArray[np.bool_]:
        """(B,D) true where the policy was asked: at least one of the chunk's actions was executed."""
        return np.asarray(self.valid.any(-1))

    @property
    def num_steps(self) -> NDArray[np.int64]:
        """(B,) executed control steps."""
        return np.asarray(self.valid.sum((1, 2), dtype=np.int64))

    def take(self, rows: Sequence[int] | NDArray[np.int64]) -> Rollouts:
        """The episodes in `rows`, in that order."""
        index = np.asarray(rows, dtype=np.int64)
        return Rollouts(
            start=[self.start[int(i)] for i in index],
            group=self.group[index],
            instruction=[self.instruction[int(i)] for i in index],
            images={name: frames[index] for name, frames in self.images.items()},
            state=self.state[index],
            privileged=self.privileged[index],
            action=self.action[index],
            valid=self.valid[index],
            reward=self.reward[index],
            success=self.success[index],
            truncated=self.truncated[index],
            invalid=self.invalid[index],
            latent={name: value[index] for name, value in self.latent.items()},
            log_prob=self.log_prob[index],
            policy_version=self.policy_version,
        )


def concatenate(parts: Sequence[Rollouts]) -> Rollouts:
    """One batch of several, padded to the longest.

    Raises:
        ValueError: if there are none.
    """
    if not parts:
        raise ValueError("there are no rollouts to concatenate")
    longest = max(part.valid.shape[1] for part in parts)

    def cat(arrays: Sequence[NDArray[Any]]) -> NDArray[Any]:
        return np.concatenate(
            [np.pad(a, [(0, 0), (0, longest - a.shape[1])] + [(0, 0)] * (a.ndim - 2)) for a in arrays]
        )

    first = parts[0]
    return Rollouts(
        start=[start for part in parts for start in part.start],
        group=np.concatenate([part.group for part in parts]),
        instruction=[text for part in parts for text in part.instruction],
        images={name: cat([part.images[name] for part in parts]) for name in first.images},
        state=cat([part.state for part in parts]),
        privileged=cat([part.privileged for part in parts]),
        action=cat([part.action for part in parts]),
        valid=cat([part.valid for part in parts]),
        reward=cat([part.reward for part in parts]),
        success=np.concatenate([part.success for part in parts]),
        truncated=np.concatenate([part.truncated for part in parts]),
        invalid=np.concatenate([part.invalid for part in parts]),
        latent={name: cat([part.latent[name] for part in parts]) for name in first.latent},
        log_prob=cat([part.log_prob for part in parts]),
        policy_version=first.policy_version,
    )
