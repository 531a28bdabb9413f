"""Forward kinematics and Jacobian of the arm alone, at any joints: the same for every simulator."""

# pyright: reportAttributeAccessIssue=false
# (mujoco is a compiled module without stubs)

from __future__ import annotations

from functools import cache

import mujoco
import numpy as np
from numpy.typing import NDArray

from .scenes import PANDA

Array = NDArray[np.float64]


@cache
def _compile() -> mujoco.MjModel:
    return mujoco.MjModel.from_xml_path(str(PANDA))


class ArmKinematics:
    """The arm of panda.xml without a scene. Joints (7,) in radians; poses in the base frame."""

    def __init__(self) -> None:
        self._model = _compile()
        self._data = mujoco.MjData(self._model)
        self._tcp: int = self._model.body("tcp").id
        self._jacobian = np.zeros((6, self._model.nv))
        self.low: Array = self._model.jnt_range[:7, 0].copy()
        self.high: Array = self._model.jnt_range[:7, 1].copy()

    def at(self, joints: Array) -> tuple[Array, Array, Array]:
        """Position (3,), quaternion (4,) and Jacobian (6,7), linear rows first, of the tool centre point."""
        model, data = self._model, self._data
        data.qpos[:7] = joints
        mujoco.mj_kinematics(model, data)
        mujoco.mj_comPos(model, data)
        position, quaternion = data.xpos[self._tcp], data.xquat[self._tcp]
        mujoco.mj_jac(model, data, self._jacobian[:3], self._jacobian[3:], position, self._tcp)
        return position.copy(), quaternion.copy(), self._jacobian[:, :7].copy()
