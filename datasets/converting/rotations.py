"""Rotations in the forms that robot data writes them, and from each to each."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from ..ledger import DataError

# numbers that a form takes
SIZES: dict[str, int] = {
    "rotation_vector": 3, "rotation_vector_uncanonical": 3, "euler_xyz": 3, "quaternion_xyzw": 4,
    "quaternion_wxyz": 4, "rot6d_rows": 6, "rot6d_columns": 6, "matrix": 9,
}  # fmt: skip


def convert_rotation(rows: NDArray[Any], source: str, to: str) -> NDArray[np.float64]:
    """Rotations from one form to another.

    Forms: rotation vectors in radians (of at most pi, or ``uncanonical``: robosuite's, whose angle is in
    [0, 2 pi) because its quaternion is not first brought to w >= 0; see robosuite's `quat2axisangle`); Euler
    angles about fixed x, y, z in radians; unit quaternions in either order; the first two rows or columns of
    the matrix (Zhou et al. 2019, arXiv 1812.07035, section 4, use columns; UMI and PyTorch3D store rows);
    the matrix, row by row.

    Args:
        rows: (N, size of `source`).
        source: a key of `SIZES`.
        to: another.

    Returns:
        (N, size of `to`); the same numbers where `source` is `to`.

    Raises:
        DataError: the form is not known, or a row is no rotation (a quaternion of length 0).
    """
    for form in (source, to):
        if form not in SIZES:
            raise DataError(f"no form of rotation is called {form!r}", f"the forms are {', '.join(SIZES)}")
    values = np.asarray(rows, dtype=np.float64)
    if values.ndim != 2 or values.shape[1] != SIZES[source]:
        raise DataError(
            f"rotations of shape {values.shape}, expected (N,{SIZES[source]}) of {source}",
            "choose the entries that hold the rotation",
        )
    if source == to:
        return values
    try:
        rotation = _read(values, source)
    except ValueError as error:
        raise DataError(f"a row is no {source} ({error})", "check which entries hold it") from error
    return _written(rotation, values, source, to)


def _read(values: NDArray[np.float64], form: str) -> Rotation:
    if form.startswith("rotation_vector"):
        return Rotation.from_rotvec(values)
    if form == "euler_xyz":
        return Rotation.from_euler("xyz", values)
    if form == "quaternion_xyzw":
        return Rotation.from_quat(values)
    if form == "quaternion_wxyz":
        return Rotation.from_quat(values[:, [1, 2, 3, 0]])
    if form == "matrix":
        return Rotation.from_matrix(values.reshape(-1, 3, 3))
    a, b = values[:, :3], values[:, 3:]  # Gram-Schmidt: a network's output is not quite orthonormal
    length = np.linalg.norm(a, axis=1, keepdims=True)
    if (length == 0).any():
        raise ValueError("its first half has no length")
    a = a / length
    b = b - (a * b).sum(1, keepdims=True) * a
    length = np.linalg.norm(b, axis=1, keepdims=True)
    if (length == 0).any():
        raise ValueError("its halves are parallel")
    b = b / length
    stacked = np.stack([a, b, np.cross(a, b)], axis=1)
    return Rotation.from_matrix(stacked if form == "rot6d_rows" else stacked.transpose(0, 2, 1))


def _written(rotation: Rotation, values: NDArray[np.float64], source: str, to: str) -> NDArray[np.float64]:
    if to == "rotation_vector":
        return np.asarray(rotation.as_rotvec())
    if to == "rotation_vector_uncanonical":
        quaternion = np.asarray(rotation.as_quat())
        if source == "quaternion_xyzw":  # the sign that the source chose decides the angle
            quaternion = values / np.linalg.norm(values, axis=1, keepdims=True)
        elif source == "quaternion_wxyz":
            quaternion = values[:, [1, 2, 3, 0]] / np.linalg.norm(values, axis=1, keepdims=True)
        w = np.clip(quaternion[:, 3], -1.0, 1.0)
        sine = np.sqrt(1.0 - w * w)
        axis: NDArray[np.float64] = np.divide(
            quaternion[:, :3], sine[:, None], where=sine[:, None] > 0, out=np.zeros((len(w), 3))
        )
        return np.asarray(axis * (2.0 * np.arccos(w))[:, None])
    if to == "euler_xyz":
        return np.asarray(rotation.as_euler("xyz"))
    if to == "quaternion_xyzw":
        return np.asarray(rotation.as_quat())
    if to == "quaternion_wxyz":
        return np.asarray(rotation.as_quat())[:, [3, 0, 1, 2]]
    matrix = np.asarray(rotation.as_matrix())
    if to == "matrix":
        return matrix.reshape(-1, 9)
    first_two = matrix[:, :2] if to == "rot6d_rows" else matrix.transpose(0, 2, 1)[:, :2]
    return np.ascontiguousarray(first_two).reshape(-1, 6)
