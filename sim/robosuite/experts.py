"""Scripted experts for `lift` and `stack`: over the cube, down, close, lift; then over the other, let go."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from .panda import PandaEnv
    from .tasks import Task

_GAIN = 2.5  # of the distance left, what is asked of one step: the controller lags
_TURN_GAIN = 1.0
_OVER_M = 0.08
_NEAR_M, _NEAR_RAD = 0.012, 0.1
_CLOSING_STEPS = 4
_LOST_M = 0.04  # from the hand to a cube that was grasped
_CARRY_M, _STACKED_M = 0.1, 0.043  # from the middle of the other cube to that of the one carried
_OPENS, _CLOSES = -1.0, 1.0


class Expert:
    """Plays the present episode of an environment; one for each episode, it remembers its phase."""

    def __init__(self, env: PandaEnv, task: Task) -> None:
        if not task.has_expert:
            raise ValueError(f"{task.name} has no scripted expert: of ours, only the suite 'blocks' has")
        self._env, self._stacks = env, bool(task.goal_body)
        self._phase, self._waited = "over", 0
        self._side: float | None = None  # which faces of the cube are grasped, as a multiple of a right angle

    def act(self) -> NDArray[np.float32]:
        """The action (7,) for the present state."""
        seen = self._env.privileged().astype(np.float64)
        cube, hand, quaternion, other = seen[:3], seen[3:6], seen[8:12], seen[12:15]
        if self._phase in ("lift", "across", "lower") and np.linalg.norm(hand - cube) > _LOST_M:
            self._phase, self._waited, self._side = "over", 0, None
        turn = self._turn(quaternion, other - cube) if self._phase in ("over", "down") else 0.0
        target = hand
        if self._phase == "over":
            target = cube + np.array([0.0, 0.0, _OVER_M])
            if np.linalg.norm(hand[:2] - cube[:2]) < _NEAR_M and abs(turn) < _NEAR_RAD:
                self._phase = "down"
        if self._phase == "down":
            target = cube
            if np.linalg.norm(hand - cube) < _NEAR_M:
                self._phase = "close"
        if self._phase == "close":
            target = hand
            self._waited += 1
            if self._waited > _CLOSING_STEPS:
                self._phase = "lift"
        if self._phase == "lift":
            height = other[2] + _CARRY_M + 0.04 if self._stacks else cube[2] + _OVER_M
            target = np.array([*hand[:2], height])
            if self._stacks and cube[2] > other[2] + _CARRY_M - 0.02:
                self._phase = "across"
        if self._phase == "across":
            target = hand + other - cube + np.array([0.0, 0.0, _CARRY_M])
            if np.linalg.norm((other - cube)[:2]) < 0.006:
                self._phase = "lower"
        if self._phase == "lower":
            target = hand + other - cube + np.array([0.0, 0.0, _STACKED_M])
            if cube[2] < other[2] + _STACKED_M + 0.007:
                self._phase = "release"
        if self._phase == "release":
            target = hand + np.array([0.0, 0.0, 0.02])
        action = np.zeros(7)
        action[:3] = _GAIN * (target - hand)
        action[5] = _TURN_GAIN * turn
        action[6] = _CLOSES if self._phase in ("close", "lift", "across", "lower") else _OPENS
        limit = self._env.spec.action_high.astype(np.float64)
        return np.clip(action, -limit, limit).astype(np.float32)

    def _turn(self, quaternion: NDArray[np.float64], aside: NDArray[np.float64]) -> float:
        """How far the hand must turn about the vertical for its fingers to meet two faces of the cube.

        Args:
            quaternion: (4,) of the cube, wxyz.
            aside: (3,) from the cube to the other one, which must not come between the fingers.
        """
        w, x, y, z = quaternion
        cube = np.arctan2(2 * (w * z + x * y), 1 - 2 * (y * y + z * z))
        heading = self._heading()
        if self._side is None:
            quarters = [np.pi / 2 * number for number in range(4)]
            turns = [(cube + quarter - heading + np.pi) % (2 * np.pi) - np.pi for quarter in quarters]
            # The fingers stand beside the heading, so it should point at the other cube, or away from it.
            there = np.arctan2(aside[1], aside[0])
            costs = [
                abs(turn) + (3 * abs(np.sin(heading + turn - there)) if self._stacks else 0) for turn in turns
            ]
            self._side = quarters[int(np.argmin(costs))]
        return float((cube + self._side - heading + np.pi) % (2 * np.pi) - np.pi)

    def _heading(self) -> float:
        """Where the hand's x axis points in the plane, from its axis-angle (Rodrigues' formula)."""
        rotation = self._env.state()[3:6].astype(np.float64)
        angle = float(np.linalg.norm(rotation))
        axis = rotation / angle
        forward = (
            np.cos(angle) * np.array([1.0, 0.0, 0.0])
            + np.sin(angle) * np.array([0.0, axis[2], -axis[1]])
            + (1 - np.cos(angle)) * axis[0] * axis
        )
        return float(np.arctan2(forward[1], forward[0]))
