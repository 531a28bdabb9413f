"""Exact quantiles of numbers that are read in blocks, as often as needed, and never held.

By digits, not by sorting: the numbers are read as integers that have their order, and each pass counts the
next 11 bits of those that can still be the one sought. Three passes for float32, six for float64.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

_DIGIT = 11  # bits: the counters of all quantiles of a column stay in the processor's cache
Blocks = Callable[[], Iterator[tuple[NDArray[Any], float]]]  # (rows (n,C), the weight of each row)


def quantiles(
    blocks: Blocks,
    part: slice,
    levels: Sequence[float],
    mass: NDArray[np.float64],
    weighted: bool,
    wide: bool,
) -> NDArray[np.float64]:
    """Quantiles of some columns.

    Args:
        blocks: of rows; numbers that are not finite are passed over.
        part: which columns.
        levels: in [0, 1].
        mass: (columns,) weight of all finite rows: their number, where each weighs 1.
        weighted: rows have weights; the smallest number at which the cumulated weight reaches level x mass,
            as numpy's ``inverted_cdf``. Else as numpy's ``linear``, to the last bit.
        wide: whether float64 is needed to hold the numbers.

    Returns:
        (levels, columns).
    """
    at = np.array(levels)[:, None]
    if weighted:
        return _select(blocks, part, at * mass, wide)
    virtual = at * (mass - 1)
    below = np.floor(virtual)
    ranks = np.concatenate([below, np.minimum(below + 1, mass - 1)]) + 1
    a, b = np.split(_select(blocks, part, ranks, wide), 2)
    share = virtual - below
    return np.where(share < 0.5, a + (b - a) * share, b - (b - a) * (1 - share))  # numpy's own rounding


def _select(blocks: Blocks, part: slice, targets: NDArray[np.float64], wide: bool) -> NDArray[np.float64]:
    """For each column and target, the smallest number at which the cumulated weight reaches the target.

    Args:
        blocks: of rows; numbers that are not finite are passed over.
        part: which columns.
        targets: (T, columns) weights; (1-based) ranks where each row weighs 1.
        wide: whether float64 is needed to hold the numbers.

    Returns:
        (T, columns).
    """
    num, columns = targets.shape
    prefix = np.zeros((num, columns), np.uint64)  # the digits found so far
    left = targets.copy()
    above = 64 if wide else 32
    while above:
        shift = max(above - _DIGIT, 0)
        width = above - shift
        known = [np.unique(prefix[:, c]) for c in range(columns)]
        counts = [np.zeros((len(one), 1 << width)) for one in known]
        for block, weight in blocks():
            keys = _keys(block[:, part], wide)
            for c in range(columns):
                mine = keys[c]
                if block.dtype.kind == "f":
                    finite = np.isfinite(block[:, part.start + c])
                    mine = mine if finite.all() else mine[finite]
                _count(mine, known[c], shift, width, counts[c], weight)
        for c in range(columns):
            cumulated = np.cumsum(counts[c], 1)
            for t in range(num):
                slot = int(np.searchsorted(known[c], prefix[t, c]))
                # Weights round: what is sought lies in a bin that holds something, whatever is left.
                filled = int(np.flatnonzero(counts[c][slot])[-1])
                digit = min(int(np.searchsorted(cumulated[slot], left[t, c], "left")), filled)
                left[t, c] -= cumulated[slot, digit - 1] if digit else 0.0
                prefix[t, c] = (prefix[t, c] << np.uint64(width)) | np.uint64(digit)
        above = shift
    return _numbers(prefix, wide)


def _count(
    keys: NDArray[Any],
    known: NDArray[np.uint64],
    shift: int,
    width: int,
    counts: NDArray[np.float64],
    weight: float,
) -> None:
    """Add to `counts` (known, 2**width) the next bits of the keys that begin with a known prefix."""
    kind = keys.dtype.type
    head = keys >> kind(shift)
    digits = (head & kind((1 << width) - 1)).astype(np.int64)
    if shift + width < 8 * keys.itemsize:
        head = head >> kind(width)
        slot = np.minimum(np.searchsorted(known.astype(keys.dtype), head), len(known) - 1)
        hit = np.flatnonzero(known.astype(keys.dtype)[slot] == head)
        digits = (slot[hit] << width) | digits[hit]
    flat = np.bincount(digits, minlength=counts.size)
    counts += weight * flat.reshape(counts.shape)


def _keys(block: NDArray[Any], wide: bool) -> NDArray[Any]:
    """(columns, n) unsigned integers in the numbers' order (IEEE 754: all bits of negatives flipped)."""
    x = np.ascontiguousarray(block.T, dtype=np.float64 if wide else np.float32)
    keys: NDArray[Any] = x.view(np.uint64 if wide else np.uint32)
    sign = keys.dtype.type(1 << (63 if wide else 31))
    ordered: NDArray[Any] = np.where(keys & sign, np.invert(keys), keys | sign)
    return ordered


def _numbers(found: NDArray[np.uint64], wide: bool) -> NDArray[np.float64]:
    keys: NDArray[Any] = found.astype(np.uint64 if wide else np.uint32)
    sign = keys.dtype.type(1 << (63 if wide else 31))
    back: NDArray[Any] = np.where(keys & sign, keys ^ sign, np.invert(keys))
    return back.view(np.float64 if wide else np.float32).astype(np.float64)
