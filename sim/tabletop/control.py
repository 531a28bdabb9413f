"""From an action to position targets, in numpy: damped least squares with a pull to a home posture."""

from __future__ import annotations

import math
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from ...datasets.spec import Axis
from . import rotation
from .kinematics import ArmKinematics
from .scenes import CONTROL_RATE_HZ, FINGER_MAX_M, HOME_JOINTS

Array = NDArray[np.float64]
ControlMode = Literal["ee_delta", "joint_position"]
CONTROL_MODES: tuple[ControlMode, ...] = get_args(ControlMode)

TRANSLATION_MAX_M = 0.04
ROTATION_MAX_RAD = 0.25
WIDTH_MAX_M = 2 * FINGER_MAX_M

# The tool centre point is kept in this box (metres, base frame).
WORKSPACE_LOW = np.array((0.25, -0.42, 0.006))
WORKSPACE_HIGH = np.array((0.80, 0.42, 0.55))

HOME = np.array(HOME_JOINTS)
DAMPING = 0.03**2 * np.eye(6)
POSTURE_GAIN = 0.1
JOINT_MARGIN_RAD = 0.02

# The position loops of panda.xml, all with the same kp/kv, close 1 - exp(-kp/kv * 50 ms) of a step within one
# control step; leading by the inverse makes the arm travel what the action says, along a straight line.
_LOOP_TIME_S = 0.06
LEAD = 1 / (1 - math.exp(-1 / (CONTROL_RATE_HZ * _LOOP_TIME_S)))


def ee_delta_axes() -> tuple[Axis, ...]:
    move, turn = TRANSLATION_MAX_M, ROTATION_MAX_RAD
    return (
        *(Axis(f"d{c}", "m", -move, move) for c in "xyz"),
        *(Axis(f"r{c}", "rad", -turn, turn) for c in "xyz"),
        Axis("gripper", "m", 0.0, WIDTH_MAX_M),
    )


def joint_position_axes(low: Array, high: Array) -> tuple[Axis, ...]:
    joints = (Axis(f"joint{i + 1}", "rad", float(low[i]), float(high[i])) for i in range(7))
    return (*joints, Axis("gripper", "m", 0.0, WIDTH_MAX_M))


def ee_delta_targets(action: Array, joints: Array, arm: ArmKinematics) -> Array:
    """Joint targets (7,) that move the tool centre point by the action's translation and rotation vector.

    The motion is taken from the *measured* pose at every step, so the action alone says what happens next:
    there is no hidden target that runs ahead of the arm or drifts off it, and a blocked arm pushes with a
    force bounded by the action limit.

    Args:
        action: (7,) as in `ee_delta_axes`, within its limits.
        joints: (7,) measured.
        arm: the arm's kinematics.
    """
    position, quaternion, jacobian = arm.at(joints)
    goal = np.clip(position + action[:3], WORKSPACE_LOW, WORKSPACE_HIGH)
    turned = rotation.multiply(rotation.from_vector(action[3:6]), quaternion)
    posture = POSTURE_GAIN * (HOME - joints)
    twist = np.concatenate((goal - position, action[3:6])) - jacobian @ posture
    step = posture + _damped_inverse(jacobian, twist)
    # One correction takes out the curvature: 4 cm of travel bend joints enough to miss by 5 mm without it.
    position, quaternion, jacobian = arm.at(joints + step)
    residual = rotation.rotation_vector(rotation.multiply(turned, rotation.conjugate(quaternion)))
    step += _damped_inverse(jacobian, np.concatenate((goal - position, residual)))
    return np.clip(joints + LEAD * step, arm.low + JOINT_MARGIN_RAD, arm.high - JOINT_MARGIN_RAD)


def _damped_inverse(jacobian: Array, twist: Array) -> Array:
    return np.asarray(jacobian.T @ np.linalg.solve(jacobian @ jacobian.T + DAMPING, twist))
