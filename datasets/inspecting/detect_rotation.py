"""The form that rotations are written in, where names or the numbers' geometry tell."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import numpy as np

from .detect_grippers import is_gripper
from .evidence import Aligned, Array, Column, Detected, enough

_EULER = re.compile(r"roll|pitch|yaw|euler|rpy")
_AXIS = re.compile(r"axis_?angle|rot_?vec|rotation_vector")
_TURN = re.compile(r"(^|[_.])(r[xyz]|rot[_.]?[xyz]|ori[_.]?[xyz])$|rotation|orientation|ee_ori|eef_rot")
_JOINT = re.compile(r"joint|shoulder|elbow|qpos|motor|^j?\d$")
_POSITION = re.compile(r"(^|[_.])(x|y|z|pos[_.]?[xyz])$")
_TOLERANCE = 2e-3


def detect_rotations(data: Aligned, action: str) -> dict[str, Detected]:
    """``rotation`` of the actions and ``state_rotation`` of the states."""
    acts = [pair[0] for pair in data.episodes]
    states = [pair[1] for pair in data.episodes]
    return {
        "rotation": _detect(data.actions, acts, small=action in ("delta", "velocity")),
        "state_rotation": _detect(data.states, states, small=False),
    }


def _detect(columns: Sequence[Column], episodes: Sequence[Array], *, small: bool) -> Detected:
    """The surest answer of any stream of one side."""
    found = []
    for key in dict.fromkeys(c.stream for c in columns):
        at = [i for i, c in enumerate(columns) if c.stream == key]
        rows = [episode[:, at] for episode in episodes]
        rows = [part[np.isfinite(part).all(1)] for part in rows]
        if sum(map(len, rows)):
            found.append(detect_rotation([columns[i] for i in at], rows, small=small))
    best = max(found, key=lambda one: one.confidence, default=None)
    return best or Detected.unknown("there are no numbers to look at")


def detect_rotation(columns: Sequence[Column], episodes: Sequence[Array], *, small: bool = False) -> Detected:
    """The form of the rotation in one stream.

    Args:
        columns: its entries.
        episodes: (T,D) finite rows of each episode.
        small: the numbers are steps or speeds, in which forms of three numbers look alike.
    """
    rows = np.concatenate(episodes)
    trust = enough(len(rows), 10)
    hands = [
        is_gripper(column) or len(np.unique(values)) <= 3
        for column, values in zip(columns, rows.T, strict=True)
    ]
    for width, find in ((9, _matrix), (6, _rot6d), (4, _quaternion)):
        for first in range(len(columns) - width + 1):
            if any(hands[first : first + width]):  # small turns beside a -1 or 1 have length 1, too
                continue
            found = find(columns[first : first + width], rows[:, first : first + width])
            if found is not None:
                return Detected(found.value, round(found.confidence * trust, 2), found.evidence)
    return _three(columns, episodes, small, trust)


def _moves(rows: Array) -> int:
    return int((np.ptp(rows, 0) > 1e-3).sum())


def _orthonormal(a: Array, b: Array) -> bool:
    fits = (np.abs(np.linalg.norm(a, axis=1) - 1) < _TOLERANCE) & (
        np.abs(np.linalg.norm(b, axis=1) - 1) < _TOLERANCE
    )
    return bool((fits & (np.abs((a * b).sum(1)) < _TOLERANCE)).mean() > 0.98)


def _span(columns: Sequence[Column]) -> str:
    return f"{columns[0].stream}[{columns[0].index}:{columns[-1].index + 1}]"


def _matrix(columns: Sequence[Column], rows: Array) -> Detected | None:
    if _moves(rows) < 3 or not (
        _orthonormal(rows[:, :3], rows[:, 3:6]) and _orthonormal(rows[:, 3:6], rows[:, 6:])
    ):
        return None
    right = np.abs(np.cross(rows[:, :3], rows[:, 3:6]) - rows[:, 6:]).max(1) < 10 * _TOLERANCE
    if right.mean() < 0.98:
        return None
    return Detected("matrix", 0.97, f"{_span(columns)} is orthonormal in every row")


def _rot6d(columns: Sequence[Column], rows: Array) -> Detected | None:
    if _moves(rows) < 3:
        return None
    words = f"{_span(columns)} is two orthogonal vectors of length 1"
    if _orthonormal(rows[:, 0::2], rows[:, 1::2]) and not _orthonormal(rows[:, :3], rows[:, 3:]):
        return Detected("rot6d_columns", 0.9, f"{words} written alternately, as the first two columns are")
    if not _orthonormal(rows[:, :3], rows[:, 3:]):
        return None
    names = " ".join(c.name.lower() for c in columns)
    for word, value in (("row", "rot6d_rows"), ("col", "rot6d_columns")):
        if word in names:
            return Detected(value, 0.9, f"{words}, and its names say {word}")
    return Detected(
        "rot6d_rows",
        0.5,
        f"{words}; whether they are rows (UMI) or columns of the matrix, numbers cannot say",
    )


def _quaternion(columns: Sequence[Column], rows: Array) -> Detected | None:
    if _moves(rows) < 2 or (np.abs(np.linalg.norm(rows, axis=1) - 1) < _TOLERANCE).mean() < 0.98:
        return None
    words = f"{_span(columns)} has length 1 in every row"
    w = [i for i, c in enumerate(columns) if re.search(r"(^|[_.q])w$", c.name.lower())]
    if w in ([0], [3]):
        value = "quaternion_wxyz" if w == [0] else "quaternion_xyzw"
        return Detected(
            value, 0.97, f"{words}, and {columns[w[0]].name!r} is its {'first' if w == [0] else 'last'}"
        )
    flips = int((np.abs(rows[1:] + rows[:-1]).max(1) < 0.1).sum())
    words += f", its sign flips {flips} times" if flips else ""
    kept = [i for i in range(4) if rows[:, i].min() > -1e-6]
    if kept in ([0], [3]) and (rows.min(0) < -0.05).sum() >= 2:
        value = "quaternion_wxyz" if kept == [0] else "quaternion_xyzw"
        return Detected(
            value,
            0.6,
            f"{words}; its {'first' if kept == [0] else 'last'} entry alone is never negative, as w is made",
        )
    return Detected("quaternion_xyzw", 0.3, f"{words}; which entry is w cannot be told (most write it last)")


def _three(columns: Sequence[Column], episodes: Sequence[Array], small: bool, trust: float) -> Detected:
    named = [i for i, c in enumerate(columns) if _speaks(c)]
    if len(named) >= 3:
        at, sure = named[:3], 1.0
    elif (
        6 <= len(columns) <= 8
        and not any(_JOINT.search(c.name.lower()) for c in columns)
        and "joint" not in columns[0].stream
        and (not columns[0].name or _POSITION.search(columns[0].name.lower()))
    ):
        at, sure = [3, 4, 5], 0.6
    else:
        return Detected.unknown("no entries look like a rotation, by name or by geometry")
    chosen = [columns[i] for i in at]
    where = f"{chosen[0].stream}[{', '.join(str(c.index) for c in chosen)}]"
    names = " ".join(f"{c.name} {c.stream}" for c in chosen).lower()
    turns = [episode[:, at] for episode in episodes if len(episode)]
    value, confidence, words = _geometry(turns, names, small)
    if sure < 1:
        words += "; taken for a rotation by its place only"
    return Detected(
        value, round(confidence * sure * trust, 2) if value != "unknown" else 0.0, f"{where}: {words}"
    )


def _speaks(column: Column) -> bool:
    name, stream = column.name.lower(), column.stream.lower()
    if _JOINT.search(name) or "wrist" in name:
        return False
    by_stream = not name and (_EULER.search(stream) or _AXIS.search(stream) or _TURN.search(stream))
    return bool(_EULER.search(name) or _AXIS.search(name) or _TURN.search(name) or by_stream)


def _geometry(turns: Sequence[Array], names: str, small: bool) -> tuple[str, float, str]:
    rows = np.concatenate(turns)
    norm, largest = np.linalg.norm(rows, axis=1), float(np.abs(rows).max())
    longest = float(norm.max())
    words = f"vectors up to {longest:.3g} long, entries up to {largest:.3g}"
    wraps = flips = 0
    for part in turns:
        step = np.abs(np.diff(part, axis=0))
        wraps += int(((np.abs(step - 2 * math.pi) < 0.5).sum(1) == 1).sum())
        flips += int(((norm_of(part[1:] + part[:-1]) < 0.5) & (norm_of(part[1:]) > 2.7)).sum())
    if largest > 7:
        return "unknown", 0.0, f"{words}: beyond a turn in radians, perhaps degrees"
    if _EULER.search(names):
        return "euler_xyz", 0.75, f"named so; {words}; their order (xyz) is the usual one, not known"
    if _AXIS.search(names):
        if longest > math.pi + 1e-3:
            return "rotation_vector_uncanonical", 0.9, f"named an axis times an angle; {words}, more than pi"
        return "rotation_vector", 0.85, f"named an axis times an angle; {words}, at most pi"
    if small or longest < 0.5:
        return "unknown", 0.0, f"{words}: small rotations look alike in every form"
    if wraps > flips:
        return (
            "euler_xyz",
            0.85,
            f"{words}; one entry alone jumps by a turn {wraps} times, as an angle does at pi",
        )
    if longest <= math.pi + 1e-3:
        if flips:
            return "rotation_vector", 0.9, f"{words}; the vector turns about {flips} times at length pi"
        sure = 0.65 if longest > 2.6 else 0.35
        return "rotation_vector", sure, f"{words}, never longer than pi; Euler angles can look alike"
    if longest <= 2 * math.pi + 1e-3 and largest > math.pi + 0.01:
        return (
            "rotation_vector_uncanonical",
            0.85,
            f"{words}: more than pi, so neither Euler angles nor canonical",
        )
    if longest <= 2 * math.pi + 1e-3:
        return "rotation_vector_uncanonical", 0.45, f"{words}: longer than pi; Euler angles can look alike"
    return "euler_xyz", 0.6, f"{words}: longer than a turn, so no axis times an angle"


def norm_of(rows: Array) -> Array:
    """(N,) lengths of (N,3) vectors."""
    return np.asarray(np.linalg.norm(rows, axis=1))
