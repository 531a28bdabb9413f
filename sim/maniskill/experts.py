"""Our scripted policies for three of the tasks, from the simulator's state, in end-effector deltas.

The package's own solutions plan with mplib 0.1.1, which crashes here (segmentation fault beside numpy 2.4).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from .control import ROTATION_MAX_RAD, TRANSLATION_MAX_M

Array = NDArray[np.float64]

_OPEN_M, _SHUT_M = 0.08, -0.02
_HALF_CUBE_M = 0.02
_ABOVE_M = 0.10
_STEADY_M = 0.04  # a step's length while holding, so that the cube does not slip
_SQUEEZE = 4  # control steps until the fingers have closed


class Scene(Protocol):
    """What an expert sees of an environment."""

    def state(self) -> NDArray[np.float32]: ...
    def privileged(self) -> NDArray[np.float32]: ...


class Expert(Protocol):
    """One for each episode; it remembers its phase."""

    def act(self) -> NDArray[np.float32]:
        """The action (7,) for the present state, in the spec's units."""
        ...


class _Seen:
    """Positions (m) in the base frame, and how far the fingers are turned from the cube's sides (rad)."""

    def __init__(self, scene: Scene) -> None:
        privileged = scene.privileged().astype(np.float64)
        self.tcp: Array = privileged[3:6]
        self.cube: Array = privileged[7:10]
        self.goal: Array = privileged[14:17]
        hand = _heading(scene.state()[-4:].astype(np.float64))
        quarter = math.pi / 2  # a cube looks the same after each
        self.turn = (_heading(privileged[10:14]) - hand + quarter / 2) % quarter - quarter / 2


class PickCube:
    """Above the cube, down, close, to the goal."""

    def __init__(self, scene: Scene) -> None:
        self._scene = scene
        self._closed = 0

    def act(self) -> NDArray[np.float32]:
        seen = _Seen(self._scene)
        aside, above = seen.cube[:2] - seen.tcp[:2], seen.tcp[2] - seen.cube[2]
        near = float(np.linalg.norm(aside)) < 0.012 and abs(above) < 0.012
        lost = float(np.linalg.norm(seen.cube - seen.tcp)) > 0.03
        if self._closed >= _SQUEEZE and not lost:
            return _towards(seen.goal - seen.cube, 0.0, _SHUT_M, _STEADY_M)
        if near or (self._closed > 0 and not lost):
            self._closed += 1
            return _towards(np.zeros(3), 0.0, _SHUT_M)
        self._closed = 0
        if float(np.linalg.norm(aside)) < 0.015 and abs(seen.turn) < 0.1:
            return _towards(seen.cube - seen.tcp, seen.turn, _OPEN_M)
        way = np.append(aside, max(seen.cube[2] + _ABOVE_M - seen.tcp[2], -TRANSLATION_MAX_M))
        return _towards(way, seen.turn, _OPEN_M)


class _Shove:
    """With shut fingers: above the far side of the cube, down, then along x until the package is content."""

    def __init__(self, scene: Scene, sign: float) -> None:
        self._scene, self._sign = scene, sign

    def act(self) -> NDArray[np.float32]:
        seen = _Seen(self._scene)
        behind = seen.cube - np.array([self._sign * (_HALF_CUBE_M + 0.045), 0.0, 0.0])
        gap = self._sign * (seen.cube[0] - seen.tcp[0])
        ready = gap > _HALF_CUBE_M and abs(seen.tcp[1] - seen.cube[1]) < 0.015
        if ready and seen.tcp[2] < 0.035:
            along = np.array([self._sign * TRANSLATION_MAX_M, seen.cube[1] - seen.tcp[1], 0.02 - seen.tcp[2]])
            return _towards(along, 0.0, _SHUT_M)
        if float(np.linalg.norm(behind[:2] - seen.tcp[:2])) < 0.02:
            return _towards(np.append(behind[:2], 0.015) - seen.tcp, 0.0, _SHUT_M)
        return _towards(np.append(behind[:2], seen.cube[2] + _ABOVE_M) - seen.tcp, 0.0, _SHUT_M)


def _push(scene: Scene) -> Expert:
    return _Shove(scene, 1.0)


def _pull(scene: Scene) -> Expert:
    return _Shove(scene, -1.0)


EXPERTS: dict[str, Callable[[Scene], Expert]] = {"PickCube": PickCube, "PushCube": _push, "PullCube": _pull}


def _towards(
    way: Array, turn: float, width: float, longest: float = TRANSLATION_MAX_M
) -> NDArray[np.float32]:
    """A step along `way` (m), no longer than `longest`, and about the vertical by `turn` (rad)."""
    step = way * min(1.0, longest / max(float(np.linalg.norm(way)), 1e-9))
    yaw = float(np.clip(turn, -ROTATION_MAX_RAD, ROTATION_MAX_RAD))
    return np.array([*step, 0.0, 0.0, yaw, width], np.float32)


def _heading(q: Array) -> float:
    """Direction of the body's x axis in the horizontal plane, radians."""
    w, x, y, z = q.tolist()
    return math.atan2(2 * (x * y + w * z), 1 - 2 * (y * y + z * z))
