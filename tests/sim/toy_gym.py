"""A small real Gymnasium environment for the adapter's tests: a dot on a field goes to a goal.

Importing this module registers ``toy/Dot-v0``. Its picture, 8 x 12, is dark but for one white corner pixel at
the top left, and the dot's column in red in the bottom row.
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

FORGETFUL = np.random.default_rng()  # what an environment must not use


class Dot(gymnasium.Env[dict[str, Any], Any]):
    """Obs ``agent.position`` (2,), ``goal`` (2,), ``pixels`` (8,12,3); action (2,) in [-1, 1], 0.1 m at 1.

    Args:
        space: of the actions: ``box``, ``dict`` (the same as dx and dy) or ``discrete`` (left, stay, right).
        forgetful: draw the start from an unseeded generator.
        channels_first: picture (3,8,12).
        sound_for: steps after which the simulation blows up.
        pixels: a frame among the observations; without it they can only be had from `paint`.
    """

    def __init__(
        self,
        space: str = "box",
        forgetful: bool = False,
        channels_first: bool = False,
        pixels: bool = True,
        sound_for: int = 1000,
    ) -> None:
        one = spaces.Box(-1.0, 1.0, (1,), np.float32)
        self.action_space: spaces.Space[Any] = {
            "box": spaces.Box(-1.0, 1.0, (2,), np.float32),
            "dict": spaces.Dict({"dx": one, "dy": one}),
            "discrete": spaces.Discrete(3),
        }[space]
        plane = spaces.Box(-np.inf, np.inf, (2,), np.float64)
        shape = (3, 8, 12) if channels_first else (8, 12, 3)
        known: dict[str, spaces.Space[Any]] = {"agent.position": plane, "goal": plane}
        if pixels:
            known["pixels"] = spaces.Box(0, 255, shape, np.uint8)
        self.observation_space = spaces.Dict(known)
        self.sound_for = sound_for
        self.forgetful, self.channels_first, self.pixels = forgetful, channels_first, pixels
        self.position = self.goal = np.zeros(2)
        self.num_steps, self.num_paintings = 0, 0
        self.actions: list[Any] = []
        self.task_description = "go to the goal"

    def paint(self) -> NDArray[np.uint8]:
        self.num_paintings += 1
        frame = np.zeros((8, 12, 3), np.uint8)
        frame[0, 0] = 255
        frame[7, int(np.clip(6 + 5 * self.position[0], 0, 11)), 0] = 255
        return frame.transpose(2, 0, 1) if self.channels_first else frame

    def look(self) -> dict[str, Any]:
        seen: dict[str, Any] = {"agent.position": self.position.copy(), "goal": self.goal.copy()}
        return {**seen, "pixels": self.paint()} if self.pixels else seen

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        super().reset(seed=seed)
        generator = FORGETFUL if self.forgetful else self.np_random
        self.position, self.goal = generator.uniform(-0.5, 0.5, 2), generator.uniform(-0.5, 0.5, 2)
        self.num_steps, self.actions = 0, []
        return self.look(), {"seed": seed}

    def step(self, action: Any) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        self.actions.append(action)
        if self.num_steps >= self.sound_for:
            raise FloatingPointError("the dot is everywhere")
        if isinstance(self.action_space, spaces.Discrete):
            push = np.array([float(action) - 1.0, 0.0])
        elif isinstance(self.action_space, spaces.Dict):
            push = np.array([action["dx"][0], action["dy"][0]], np.float64)
        else:
            push = np.asarray(action, np.float64)
        self.position = self.position + 0.1 * push + 1e-3 * self.np_random.standard_normal(2)
        self.num_steps += 1
        near = float(np.linalg.norm(self.position - self.goal))
        left = bool(np.abs(self.position).max() > 1.0)
        return self.look(), -near, left, False, {"is_success": near < 0.05}


gymnasium.register("toy/Dot-v0", Dot)
