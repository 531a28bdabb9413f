"""The `World` view of one environment of a batch, for predicates and experts that are written for one."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from .scene import GenesisScene, Poses

Array = NDArray[np.float64]


class EnvWorld:
    """Implements `tabletop.world.World` over the poses that its owner fetched last.

    Args:
        scene: names and numbers.
        row: of the environment.
    """

    def __init__(self, scene: GenesisScene, row: int) -> None:
        self._body, self._qpos, self._dof, self._row = scene.body, scene.qpos_of, scene.dof_of, row
        self._poses: Poses | None = None

    def see(self, poses: Poses) -> None:
        """Look at these poses from now on."""
        self._poses = poses

    @property
    def poses(self) -> Poses:
        assert self._poses is not None, "an environment is looked at before it began"
        return self._poses

    def position(self, body: str) -> Array:
        return np.array(self.poses.position[self._row, self._body[body]])

    def quaternion(self, body: str) -> Array:
        return np.array(self.poses.quaternion[self._row, self._body[body]])

    def speed(self, body: str) -> float:
        dof = self._dof[body]
        return math.hypot(*self.poses.qvel[self._row, dof : dof + 3].tolist())

    def joint(self, name: str) -> float:
        return float(self.poses.qpos[self._row, self._qpos[name]])

    def gripper_width(self) -> float:
        return float(self.poses.qpos[self._row, 7] + self.poses.qpos[self._row, 8])

    def touching(self, a: str, b: str) -> bool:
        return bool(self.poses.touch[self._row, self._body[a], self._body[b]])
