"""Actions made of poses, for sets that hold none (UMI): what the hand did next is what it was told to do."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ..ledger import DataError, Loss
from ..recording import Contents, Gripper, Recording, StreamSpec, Track

_PART = ("x", "y", "z", "r00", "r01", "r02", "r10", "r11", "r12", "width")


def pose_actions(
    recording: Recording,
    contents: Contents,
    *,
    first: int = 1,
    horizon: int = 1,
    stride: int = 1,
    relative: bool = True,
    arms: Sequence[int] | None = None,
) -> tuple[Recording, Contents, list[Loss]]:
    """Add the stream ``action``: future poses and gripper widths of every arm, 10 numbers each.

    Of arm i they are position (3), the first two rows of the rotation matrix (6) and the gripper's width in
    metres (1), from ``robot{i}_eef_pos``, ``robot{i}_eef_rot_axis_angle`` and ``robot{i}_gripper_width``.
    Action k of row t is the pose of row ``t + first + k * stride``; past the end it is the last pose.

    Args:
        recording: poses on one clock.
        contents: of its set.
        first: rows from the observation to the first action; UMI's own chunks begin with 0, the pose itself.
        horizon: actions for each row; with 1 a row has shape (10 * arms,), else (horizon, 10 * arms).
        stride: rows from one action to the next (UMI: 3).
        relative: in the hand's frame at row t, inverse(pose t) times pose; else in the frame of the poses.
        arms: which; None for all.

    Returns:
        The recording and contents with ``action``, and the losses: computed, and padded at the end.

    Raises:
        DataError: there is an action already, a pose is missing, of another shape, or not finite.
    """
    found = arms if arms is not None else sorted(_arms(recording))
    if "action" in contents.streams:
        raise DataError("there is an action already", "rename or drop it in the mapping first", key="action")
    if not found:
        raise DataError(
            "there are no poses: robot0_eef_pos, robot0_eef_rot_axis_angle, robot0_gripper_width",
            "rename the streams in the mapping",
        )
    if first < 0 or horizon < 1 or stride < 1:
        raise DataError(f"first {first}, horizon {horizon}, stride {stride}", "give 0, 1 and 1 or more")
    keys = [[f"robot{arm}_{part}" for part in _PARTS] for arm in found]
    num = {len(recording.streams[key]) for arm in keys for key in arm if key in recording.streams}
    if len(num) != 1:
        raise DataError(f"the poses have {sorted(num)} rows", "resample to one clock first")
    steps = num.pop()
    ahead = np.arange(steps)[:, None] + first + stride * np.arange(horizon)
    padded = int((ahead >= steps).any(1).sum())
    ahead = ahead.clip(0, max(steps - 1, 0))
    action = np.concatenate([_arm(recording, arm, ahead, relative) for arm in keys], -1)
    rows = (action[:, 0] if horizon == 1 else action).astype(np.float32)
    names = tuple(f"robot{arm}_{name}" for arm in found for name in _PART)
    units = tuple(unit for _ in found for unit in ("m", "m", "m", "", "", "", "", "", "", "m"))
    frame = "relative to the pose at the row" if relative else "in the poses' own frame"
    detail = f"from future poses: first {first}, horizon {horizon}, stride {stride}, {frame}, rot6d by rows"
    position = recording.streams[keys[0][0]]
    spec = StreamSpec(
        "action",
        "vector",
        "float32",
        rows.shape[1:],
        names if horizon == 1 else (),
        units if horizon == 1 else (),
        rate_hz=contents.streams[keys[0][0]].rate_hz,
        about={"computed": detail},
    )
    grippers = tuple(
        Gripper("action", 10 * i + 9, "width", *_ends(contents, arm[2]), "m") for i, arm in enumerate(keys)
    )
    conventions = dataclasses.replace(
        contents.conventions,
        action="relative" if relative else "absolute",
        rotation="rot6d_rows",
        frame="tool" if relative else contents.conventions.frame,
        grippers=(*contents.conventions.grippers, *(grippers if horizon == 1 else ())),
    )
    losses = [Loss("action", "computed", detail, rows=steps)]
    if padded:
        losses.append(Loss("action", "padded", "the last pose again, after the end", rows=padded))
    return (
        dataclasses.replace(recording, streams={**recording.streams, "action": Track(rows, position.time)}),
        dataclasses.replace(contents, streams={**contents.streams, "action": spec}, conventions=conventions),
        losses,
    )


_PARTS = {"eef_pos": 3, "eef_rot_axis_angle": 3, "gripper_width": 1}


def _arms(recording: Recording) -> set[int]:
    found = (re.fullmatch(r"robot(\d+)_eef_pos", key) for key in recording.streams)
    return {int(match[1]) for match in found if match}


def _ends(contents: Contents, key: str) -> tuple[float, float]:
    """At which widths the gripper is open and closed, as far as the set says."""
    known = [g for g in contents.conventions.grippers if g.stream == key]
    return (known[0].open, known[0].closed) if known else (np.nan, np.nan)


def _arm(
    recording: Recording, keys: Sequence[str], ahead: NDArray[np.int64], relative: bool
) -> NDArray[np.float64]:
    """(T,horizon,10) of one arm."""
    from scipy.spatial.transform import Rotation

    parts = []
    for key, size in zip(keys, _PARTS.values(), strict=True):
        track = recording.streams.get(key)
        rows = None if track is None else np.asarray(track.rows, dtype=np.float64)
        if rows is None or rows.shape[1:] != (size,):
            shape = "no such stream" if rows is None else f"rows of shape {rows.shape[1:]}"
            raise DataError(f"{shape}, expected ({size},)", "rename or reshape it in the mapping", key=key)
        if not np.isfinite(rows).all():
            at = int(np.flatnonzero(~np.isfinite(rows).all(1))[0])
            raise DataError("it is not finite", "repair or leave out the episode", key=key, frame=at)
        parts.append(rows)
    position, rotvec, width = parts
    matrix = Rotation.from_rotvec(rotvec).as_matrix()
    there, turned = position[ahead], matrix[ahead]
    if relative:
        back = matrix.transpose(0, 2, 1)[:, None]
        there = (back @ (there - position[:, None])[..., None])[..., 0]
        turned = back @ turned
    rows6d = turned[..., :2, :].reshape(*ahead.shape, 6)
    return np.concatenate([there, rows6d, width[ahead]], -1)
