"""Perturbations that need no knowledge of the simulator: the camera's noise, and what the policy is told.

The kinds follow LIBERO-Plus (arXiv 2510.13626) and LIBERO-PRO (arXiv 2510.03827). ``silent`` and ``wrong``
are controls, not disturbances: a policy whose success they leave alone does not listen to its instruction.
What moves things in the scene is the simulator's own affair; see `tabletop.perturb`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..datasets.spec import RobotSpec
from ..datasets.starts import StartState, counter_generator
from .env import Env, EnvStep
from .worker import resolve

KINDS = {
    "noise": "noise of 2 to 8 % of full scale on every pixel, brightness and contrast off by up to 25 %",
    "silent": "no instruction at all (a control: success should fall)",
    "wrong": "the instruction of another task (a control: success should fall)",
}
_NOISE = (0.02, 0.08)
_CONTRAST = 0.25


class Perturbed:
    """Implements `Env` on another one. What it does to an episode depends on the start state alone.

    Args:
        env: plays the episodes.
        kind: one of `KINDS`.
        tasks: ``suite/task`` names whose instructions ``wrong`` may give.
    """

    def __init__(self, env: Env, kind: str, tasks: Sequence[str]) -> None:
        if kind not in KINDS:
            raise ValueError(f"no perturbation is called {kind!r}: known are {', '.join(KINDS)}")
        self.env, self.kind, self._tasks = env, kind, tuple(tasks)
        self.spec: RobotSpec = env.spec
        self.privileged_dim = env.privileged_dim
        self.instruction = ""
        self._start = ""
        self._steps = 0

    @property
    def max_steps(self) -> int:
        return self.env.max_steps

    def reset(self, start: StartState) -> None:
        """Begin the episode that `start` names.

        Raises:
            ValueError: if ``wrong`` finds no task with another instruction.
        """
        wrong = self._another(start) if self.kind == "wrong" else ""
        self.env.reset(start)
        self.instruction = self.env.instruction if self.kind == "noise" else wrong
        self._start, self._steps = f"{start.task} {start.split} {start.index} {start.seed}", 0

    def _another(self, start: StartState) -> str:
        self.env.reset(start)
        true = self.env.instruction
        others = [name for name in self._tasks if name != start.task and name.split("/")[0] == start.suite]
        start.generator("wrong").shuffle(others)
        for name in others:
            self.env.reset(StartState(name, start.split, start.index, start.seed))
            if self.env.instruction != true:
                return self.env.instruction
        raise ValueError(
            f"{start.task}: no other task of the run says anything but {true!r}; give more tasks, or leave "
            "out the perturbation 'wrong'"
        )

    def step(self, action: NDArray[np.float32]) -> EnvStep:
        self._steps += 1
        return self.env.step(action)

    def state(self) -> NDArray[np.float32]:
        return self.env.state()

    def privileged(self) -> NDArray[np.float32]:
        return self.env.privileged()

    def render(self, camera: str) -> NDArray[np.uint8]:
        picture = self.env.render(camera)
        if self.kind != "noise":
            return picture
        sensor = counter_generator("sensor", self._start, camera)
        sigma = sensor.uniform(*_NOISE)
        contrast, brightness = sensor.uniform(-_CONTRAST, _CONTRAST, 2)
        grain = counter_generator("grain", self._start, camera, self._steps)
        pixels = picture.astype(np.float32) / 255
        pixels = 0.5 + (1 + contrast) * (pixels - 0.5) + 0.5 * brightness
        pixels += sigma * grain.standard_normal(pixels.shape, dtype=np.float32)
        noisy: NDArray[np.uint8] = np.round(255 * pixels.clip(0, 1)).astype(np.uint8)
        return noisy

    def snapshot(self) -> bytes:
        header = {"instruction": self.instruction, "start": self._start, "steps": self._steps}
        return json.dumps(header).encode() + b"\n" + self.env.snapshot()

    def restore(self, snapshot: bytes) -> None:
        line, _, rest = snapshot.partition(b"\n")
        header = json.loads(line)
        self.env.restore(rest)
        self.instruction, self._start = header["instruction"], header["start"]
        self._steps = header["steps"]

    def close(self) -> None:
        self.env.close()


def with_perturbation(factory: str, kwargs: Mapping[str, Any], kind: str, tasks: Sequence[str]) -> Perturbed:
    """Factory for a `WorkerPool`: the environment of another factory, perturbed."""
    return Perturbed(resolve(factory)(**kwargs), kind, tasks)
