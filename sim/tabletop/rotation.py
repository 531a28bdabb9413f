"""Quaternions (w, x, y, z) and rotation vectors, on plain floats: arrays this small are slower in numpy."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def multiply(a: Array, b: Array) -> Array:
    """The rotation `b` followed by `a`."""
    aw, ax, ay, az = a.tolist()
    bw, bx, by, bz = b.tolist()
    return np.array(
        (
            aw * bw - ax * bx - ay * by - az * bz,
            aw * bx + ax * bw + ay * bz - az * by,
            aw * by - ax * bz + ay * bw + az * bx,
            aw * bz + ax * by - ay * bx + az * bw,
        )
    )


def conjugate(q: Array) -> Array:
    w, x, y, z = q.tolist()
    return np.array((w, -x, -y, -z))


def about_z(angle_rad: float) -> Array:
    return np.array((math.cos(angle_rad / 2), 0.0, 0.0, math.sin(angle_rad / 2)))


def yaw(q: Array) -> float:
    """Heading of the body's x axis in the base's xy plane, radians in (-pi, pi]."""
    w, x, y, z = q.tolist()
    return math.atan2(2 * (x * y + w * z), 1 - 2 * (y * y + z * z))


def upright(q: Array) -> float:
    """Cosine of the angle between the body's z axis and the vertical."""
    _, x, y, _ = q.tolist()
    return float(1 - 2 * (x * x + y * y))


def rotation_vector(q: Array) -> Array:
    """Axis times angle (rad) of the shorter way round."""
    w, x, y, z = q.tolist()
    if w < 0:
        w, x, y, z = -w, -x, -y, -z
    sine = math.sqrt(x * x + y * y + z * z)
    if sine < 1e-12:
        return np.zeros(3)
    scale = 2 * math.atan2(sine, w) / sine
    return np.array((x * scale, y * scale, z * scale))


def from_vector(vector: Array) -> Array:
    """The quaternion of an axis times angle (rad)."""
    x, y, z = vector.tolist()
    angle = math.sqrt(x * x + y * y + z * z)
    scale = math.sin(angle / 2) / angle if angle > 1e-12 else 0.5
    return np.array((math.cos(angle / 2), x * scale, y * scale, z * scale))


def matrix(q: Array) -> Array:
    """(3,3), its columns are the rotated axes."""
    w, x, y, z = q.tolist()
    return np.array(
        (
            (1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
            (2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)),
            (2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)),
        )
    )


def gripper_down(yaw_rad: float) -> Array:
    """Orientation of the tool centre point, fingers straight down, opening along y turned by `yaw_rad`."""
    return np.array((0.0, math.cos(yaw_rad / 2), math.sin(yaw_rad / 2), 0.0))
