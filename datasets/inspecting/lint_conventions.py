"""Where numbers contradict what is said of them, and pictures that show nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..ledger import Problem
from ..recording import Contents
from .detect_conventions import Fit, detect_action, detect_observed
from .detect_grippers import direction
from .evidence import Aligned, Column, Detected

if TYPE_CHECKING:
    from .inspection import Camera

DECODED = "pixels or video"  # the codec of pictures that are no image files
_CONTRADICTION = 0.6  # confidence from which data may contradict what is said
_FROZEN_ROWS = 5
_FROZEN_ROWS_DECODED = 10  # a video drops what hardly changed


def of_conventions(
    contents: Contents, conventions: Mapping[str, Detected], fit: Fit | None, data: Aligned
) -> list[Problem]:
    found = []
    said = contents.conventions
    for name, seen in (("action", detect_action(data, fit)), ("observed", detect_observed(data, fit))):
        declared = getattr(said, name)
        alike = {declared, seen.value} <= {"delta", "velocity"}
        if declared not in ("unknown", seen.value) and not alike and seen.confidence >= _CONTRADICTION:
            found.append(
                Problem(
                    f"{name} is said to be {declared}, the numbers say {seen.value} ({seen.evidence})",
                    "look which is right and say it in the mapping",
                    key="action",
                )
            )
    for shift, share in (fit.copies if fit is not None else {}).items():
        if share > 0.95:
            what = "the state of the same row" if shift == 0 else "the state of the next row"
            found.append(
                Problem(
                    f"in {share:.1%} of the rows the action is exactly {what}",
                    "a policy would learn to stay where it is: shift actions by a row, or find the commands"
                    if shift == 0
                    else "actions were made from states, and the last of each episode is made up: trim it",
                    key="action",
                )
            )
            break
    return found + _of_grippers(contents, conventions, data)


def _of_grippers(contents: Contents, conventions: Mapping[str, Detected], data: Aligned) -> list[Problem]:
    found = []
    said = contents.conventions.grippers
    for column in data.actions:
        one = conventions.get(f"gripper {column.stream}[{column.index}]")
        if one is None:
            continue
        way = direction(
            column, data, [g for g in said if (g.stream, g.index) != (column.stream, column.index)]
        )
        declared = _declared(contents, column)
        if declared and way.sign and declared != way.sign and way.confidence >= _CONTRADICTION:
            up = "higher" if declared > 0 else "lower"
            found.append(
                Problem(
                    f"entry {column.index} is said to be open where it is {up}, but {way.evidence}",
                    "turn its sign in the mapping, or what the set says of it",
                    key=column.stream,
                )
            )
        if way.opposed:
            does = "close" if way.sign < 0 else "open"
            found.append(
                Problem(
                    f"higher values of the gripper (entry {column.index}) {does} "
                    f"it, but in {way.opposed} of {way.episodes} episodes the contrary",
                    "sets of different conventions were merged: split them, and turn the sign of one",
                    key=column.stream,
                )
            )  # fmt: skip
    return found


def _declared(contents: Contents, column: Column) -> int:
    for one in contents.conventions.grippers:
        if (one.stream, one.index) == (column.stream, column.index):
            return int(np.sign(one.open - one.closed))
    return 0


def of_cameras(cameras: Sequence[Camera]) -> list[Problem]:
    """Black and frozen pictures."""
    found = []
    for camera in cameras:
        if camera.black:
            found.append(
                Problem(
                    f"{camera.black} of the {camera.frames} pictures looked at are black",
                    "leave the stream or the episodes out: a lens was covered, or nothing was recorded",
                    episode=camera.black_at[0], frame=camera.black_at[1], key=camera.stream,
                )
            )  # fmt: skip
        least = _FROZEN_ROWS_DECODED if camera.codec == DECODED else _FROZEN_ROWS
        if camera.frozen_rows >= least:
            found.append(
                Problem(
                    f"the picture stands still for {camera.frozen_rows} rows while the robot moves "
                    f"({camera.frozen} of {camera.pairs} neighbours looked at)",
                    "leave those episodes out, or trim them: the camera had stopped",
                    episode=camera.frozen_at[0], frame=camera.frozen_at[1], key=camera.stream,
                )
            )  # fmt: skip
    return found
