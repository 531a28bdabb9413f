"""Between the units of our contract and the numbers that ManiSkill's controllers take."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from ...datasets.spec import Axis

Array = NDArray[np.float64]

CONTROL_RATE_HZ = 20.0
TRANSLATION_MAX_M = 0.1
ROTATION_MAX_RAD = 0.1
WIDTH_LOW_M, WIDTH_HIGH_M = -0.02, 0.08
_JOINT_HIGH = (2.8973, 1.7628, 2.8973, -0.0698, 2.8973, 3.7525, 2.8973)
_JOINT_LOW = (-2.8973, -1.7628, -2.8973, -3.0718, -2.8973, -0.0175, -2.8973)


def joint_axes() -> tuple[Axis, ...]:
    """The arm's seven joints, with the limits of the package's model."""
    return tuple(
        Axis(f"joint{i + 1}", "rad", low, high)
        for i, (low, high) in enumerate(zip(_JOINT_LOW, _JOINT_HIGH, strict=True))
    )


def action_axes(control_mode: str, has_gripper: bool) -> tuple[Axis, ...]:
    """What an action consists of."""
    move, turn = TRANSLATION_MAX_M, ROTATION_MAX_RAD
    arm = joint_axes()
    if control_mode == "ee_delta":
        arm = (
            *(Axis(f"d{c}", "m", -move, move) for c in "xyz"),
            *(Axis(f"r{c}", "rad", -turn, turn) for c in "xyz"),
        )
    return (*arm, *([Axis("gripper", "m", WIDTH_LOW_M, WIDTH_HIGH_M)] if has_gripper else []))


def command(action: Array, control_mode: str, has_gripper: bool) -> NDArray[np.float32]:
    """The package's action for one of ours, which is within its limits.

    ``pd_ee_delta_pose`` takes translation and Euler angles in tenths; its angles count backwards, since it
    multiplies them by its lower limit (agents/controllers/pd_ee_pose.py, `_clip_and_scale_action`).
    """
    arm = action[: len(action) - has_gripper]
    if control_mode == "ee_delta":
        turn = arm[3:] * min(1.0, ROTATION_MAX_RAD / max(float(np.linalg.norm(arm[3:])), 1e-12))
        angles = euler_xyz(turn)
        arm = np.concatenate([arm[:3] / TRANSLATION_MAX_M, -angles / ROTATION_MAX_RAD])
    if not has_gripper:
        return arm.astype(np.float32)
    middle, half = (WIDTH_HIGH_M + WIDTH_LOW_M) / 2, (WIDTH_HIGH_M - WIDTH_LOW_M) / 2
    return np.append(arm, (action[-1] - middle) / half).astype(np.float32)


def euler_xyz(vector: Array) -> Array:
    """Angles a, b, c (rad) with Rx(a) Ry(b) Rz(c) the rotation of a vector (axis times angle, < 90 deg)."""
    angle = float(np.linalg.norm(vector))
    x, y, z = (vector / angle).tolist() if angle > 1e-12 else (0.0, 0.0, 0.0)
    s, c = math.sin(angle), math.cos(angle)
    r00, r01, r02 = c + x * x * (1 - c), x * y * (1 - c) - z * s, x * z * (1 - c) + y * s
    r12, r22 = y * z * (1 - c) - x * s, c + z * z * (1 - c)
    return np.array([math.atan2(-r12, r22), math.asin(r02), math.atan2(-r01, r00)])
