"""One environment in one process: the contract that a worker drives and every simulator adapter fulfils."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ..datasets.spec import RobotSpec
from ..datasets.starts import StartState


@dataclass(frozen=True)
class EnvStep:
    """What one control step brought.

    Attributes:
        reward: the environment's own sparse reward, 1.0 at the step of success and 0.0 before;
            `Assisting.relax` adds another 1.0.
        success: the task's predicate holds; the episode is over.
        truncated: the step limit was reached without success; the episode is over.
        invalid: the simulation broke down (see `explosion`); the episode is over and counts for nothing.
    """

    reward: float
    success: bool
    truncated: bool
    invalid: bool = False

    @property
    def over(self) -> bool:
        return self.success or self.truncated or self.invalid


class Env(Protocol):
    """One episode at a time. Every method is deterministic: same start and actions, same bytes out.

    Attributes:
        spec: the robot contract; `spec.cameras` fixes names, order and size of the images.
        privileged_dim: length of `privileged()`.
        instruction: the sentence given to the policy in the present episode.
        max_steps: the step limit of the present episode, in control steps.
    """

    spec: RobotSpec
    privileged_dim: int
    instruction: str
    max_steps: int

    def reset(self, start: StartState) -> None:
        """Begin the episode that `start` names.

        Raises:
            ValueError: if the task is not known, naming the nearest one.
        """
        ...

    def step(self, action: NDArray[np.float32]) -> EnvStep:
        """Execute one control step; `action` (A,) in the spec's physical units is clipped to its limits."""
        ...

    def state(self) -> NDArray[np.float32]:
        """Proprioception (S,), in the spec's units."""
        ...

    def privileged(self) -> NDArray[np.float32]:
        """Simulator state (P,) for rewards, diagnostics and auxiliary targets; a policy never sees it."""
        ...

    def render(self, camera: str) -> NDArray[np.uint8]:
        """One RGB frame (H,W,3) of the size the spec gives. Costly: call it only when someone will look."""
        ...

    def snapshot(self) -> bytes:
        """Everything needed to go on bit for bit, including task, step counter and controller state."""
        ...

    def restore(self, snapshot: bytes) -> None: ...

    def close(self) -> None: ...


class Assisting(Env, Protocol):
    """An environment that can make a task easier, for practice alone.

    Both are set before `reset` and constant over an episode.

    Attributes:
        assist: from 0 (physics as it is) to 1: forces that no robot has.
        relax: from 0 (nothing) to 1: the first step at which a goal holds that asks for so much less than the
            task's has reward 1.0, too. The episode goes on: success and its end are those of the task.
    """

    assist: float
    relax: float
