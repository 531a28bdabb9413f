"""Rows of a view to rows of what it looks at, as index arrays: what a loader pays for a view."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class RowMap:
    """The rows of one stream of a view.

    Attributes:
        bounds: (E,2) first row and one past the last of each episode of the view.
        base: (N,) the row below of each row of the view.
        shift_s: (N,) seconds to take off the time of each row; None where there are none to take.
    """

    bounds: NDArray[np.int64]
    base: NDArray[np.int64]
    shift_s: NDArray[np.float64] | None = None


def row_map(first: NDArray[np.int64], picked: Sequence[range], shift_s: NDArray[np.float64]) -> RowMap:
    """Put together what was picked of each episode.

    Args:
        first: (E,) the row below of the first row of each episode, before any was left out.
        picked: rows counted from there; of step 1 or more, or empty.
        shift_s: (E,) seconds to take off the times of each episode.
    """
    lengths = np.array([len(rows) for rows in picked], dtype=np.int64)
    ends = np.cumsum(lengths)
    bounds = np.stack([ends - lengths, ends], axis=1)
    start = first + np.array([rows.start for rows in picked], dtype=np.int64)
    step = np.array([rows.step for rows in picked], dtype=np.int64)
    within = np.arange(int(lengths.sum())) - np.repeat(bounds[:, 0], lengths)
    base = np.repeat(start, lengths) + within * np.repeat(step, lengths)
    return RowMap(bounds, base, np.repeat(shift_s, lengths) if shift_s.any() else None)
