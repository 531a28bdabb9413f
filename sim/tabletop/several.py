"""Several suites as one environment: each episode is played in the scene of its own suite."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ...datasets.starts import StartState
from ..env import EnvStep
from ..wording import unknown
from .env import TabletopEnv
from .experts import Expert


class SeveralSuites:
    """Implements `Env` over one `TabletopEnv` a suite.

    `privileged()` is padded with zeros to the length of the longest; its first seven entries (instructed
    object, tool centre point, gripper) mean the same in every suite, the others do not.
    """

    def __init__(self, envs: Sequence[TabletopEnv]) -> None:
        """Play in `envs`, which differ in nothing but their suites."""
        self._envs = {env.suite: env for env in envs}
        self._env = envs[0]
        self.instruction = ""
        self.max_steps = 0
        self.assist = 0.0
        self.relax = 0.0
        self.spec = envs[0].spec
        self.privileged_dim = max(env.privileged_dim for env in envs)

    def reset(self, start: StartState) -> None:
        """Begin the episode that `start` names, in its suite.

        Raises:
            ValueError: if the suite is none of these, or has no such task.
        """
        if start.suite not in self._envs:
            raise ValueError(unknown("suite of this environment", start.suite, list(self._envs)))
        self._env = self._envs[start.suite]
        self._env.assist, self._env.relax = self.assist, self.relax
        self._env.reset(start)
        self.instruction, self.max_steps = self._env.instruction, self._env.max_steps

    def step(self, action: NDArray[np.float32]) -> EnvStep:
        return self._env.step(action)

    def state(self) -> NDArray[np.float32]:
        return self._env.state()

    def privileged(self) -> NDArray[np.float32]:
        known = self._env.privileged()
        return np.pad(known, (0, self.privileged_dim - len(known)))

    def render(self, camera: str) -> NDArray[np.uint8]:
        return self._env.render(camera)

    def expert(self) -> Expert:
        """A scripted expert for the present episode."""
        return self._env.expert()

    def disturb(self, generator: np.random.Generator, scale_rad: float = 0.1) -> None:
        """See `TabletopEnv.disturb`."""
        self._env.disturb(generator, scale_rad)

    def snapshot(self) -> bytes:
        """The suite's name as a line, then its environment's snapshot."""
        return self._env.suite.encode() + b"\n" + self._env.snapshot()

    def restore(self, snapshot: bytes) -> None:
        """Go on from a snapshot of any environment of the same suites, bit for bit.

        Raises:
            ValueError: if it is of another suite.
        """
        suite, _, rest = snapshot.partition(b"\n")
        name = suite.decode(errors="replace")
        if name not in self._envs:
            raise ValueError(unknown("suite of this environment", name[:40], list(self._envs)))
        self._env = self._envs[name]
        self._env.restore(rest)
        self.instruction, self.max_steps = self._env.instruction, self._env.max_steps

    def close(self) -> None:
        for env in self._envs.values():
            env.close()
