"""Ranges of numbers and gaps between times, gathered one episode at a time in bounded memory."""

from __future__ import annotations

import math
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from .evidence import Array

_KEPT_NUMBERS = 2_000_000  # of one stream, for quantiles: 16 MB
_BINS = 32
JITTER = 0.2  # share of a period that a step in time may be off before it counts as uneven
GAP = 2.5  # periods that a step in time must last to be a gap


@dataclass(frozen=True)
class EntryRange:
    """The values of one entry of a vector stream, over the episodes read.

    Attributes:
        stream: its key.
        index: which entry of the flattened row.
        name: of the entry, ``""`` if it has none.
        unit: of the entry, ``""`` if not known.
        rows: how many values.
        nan: how many are not a number.
        inf: how many are infinite.
        min: smallest finite value, NaN if there is none; the others likewise.
        q01: first percentile, of all rows or of evenly spread ones where there are very many.
        median: fiftieth.
        q99: ninety-ninth.
        max: largest.
        mean: of all finite rows.
        std: of all finite rows.
        min_at: episode and row of the smallest.
        max_at: episode and row of the largest.
        counts: a histogram between `low` and `high`.
        low: lower edge of the histogram.
        high: upper edge of the histogram; values beyond the edges are in no bin.
    """

    stream: str
    index: int
    name: str
    unit: str
    rows: int
    nan: int
    inf: int
    min: float
    q01: float
    median: float
    q99: float
    max: float
    mean: float
    std: float
    min_at: tuple[int, int]
    max_at: tuple[int, int]
    counts: tuple[int, ...]
    low: float
    high: float

    @property
    def constant(self) -> bool:
        """Every finite value is the same."""
        return self.min == self.max

    @property
    def label(self) -> str:
        return self.name or f"[{self.index}]"


class RangeGatherer:
    """Gathers the ranges of one stream of (N,D) rows."""

    def __init__(self, width: int) -> None:
        self.width = width
        self._kept: list[NDArray[np.float64]] = []
        self._stride, self._num_kept, self._seen = 1, 0, 0
        self._count = np.zeros(width, dtype=np.int64)
        self._nan, self._inf = self._count.copy(), self._count.copy()
        self._sum, self._squares = np.zeros(width), np.zeros(width)
        self._min, self._max = np.full(width, np.inf), np.full(width, -np.inf)
        self._min_at, self._max_at = (
            np.zeros((width, 2), dtype=np.int64),
            np.zeros((width, 2), dtype=np.int64),
        )
        self._shift: Array | None = None

    def add(self, episode: int, rows: Array) -> None:
        """The rows of one episode, (N,D)."""
        if not len(rows) or not self.width:
            return
        finite = np.isfinite(rows)
        self._nan += np.isnan(rows).sum(0)
        self._inf += np.isinf(rows).sum(0)
        self._count += finite.sum(0)
        if self._shift is None:  # sums of squares about a value of the data keep their figures
            self._shift = np.where(
                finite.any(0), np.nan_to_num(rows[finite.argmax(0), np.arange(self.width)]), 0
            )
        with np.errstate(over="ignore", invalid="ignore"):
            moved = np.where(finite, rows - self._shift, 0)
            self._sum += moved.sum(0)
            self._squares += (moved**2).sum(0)
        for best, at, filled, arg, better in (
            (self._min, self._min_at, np.where(finite, rows, np.inf), np.argmin, np.less),
            (self._max, self._max_at, np.where(finite, rows, -np.inf), np.argmax, np.greater),
        ):
            where = arg(filled, 0)
            value = filled[where, np.arange(self.width)]
            won = better(value, best)
            best[won] = value[won]
            at[won, 0], at[won, 1] = episode, where[won]
        self._keep(rows)

    def _keep(self, rows: Array) -> None:
        first = -self._seen % self._stride
        self._seen += len(rows)
        part = rows[first :: self._stride].copy()
        self._kept.append(part)
        self._num_kept += len(part)
        while self._num_kept * self.width > _KEPT_NUMBERS and self._num_kept > 1:
            whole = np.concatenate(self._kept)[::2]
            self._kept, self._num_kept, self._stride = [whole], len(whole), self._stride * 2

    def ranges(self, key: str, names: tuple[str, ...], units: tuple[str, ...], most: int) -> list[EntryRange]:
        """One for each entry, at most so many."""
        rows = np.concatenate(self._kept) if self._kept else np.zeros((0, self.width))
        found = []
        for i in range(min(self.width, most)):
            values = rows[:, i][np.isfinite(rows[:, i])]
            q01, median, q99 = np.quantile(values, [0.01, 0.5, 0.99]) if len(values) else [math.nan] * 3
            count = int(self._count[i])
            with np.errstate(over="ignore", invalid="ignore"):
                shift = float(self._shift[i]) if self._shift is not None else 0.0
                mean = self._sum[i] / count if count else math.nan
                spread = math.sqrt(max(self._squares[i] / count - mean**2, 0.0)) if count else math.nan
                low, high, counts = _histogram(values, float(q01), float(q99))
            found.append(
                EntryRange(
                    key, i, names[i] if i < len(names) else "", units[i] if i < len(units) else "",
                    self._seen, int(self._nan[i]), int(self._inf[i]),
                    float(self._min[i]) if count else math.nan, float(q01), float(median), float(q99),
                    float(self._max[i]) if count else math.nan, float(mean + shift), float(spread),
                    (int(self._min_at[i, 0]), int(self._min_at[i, 1])),
                    (int(self._max_at[i, 0]), int(self._max_at[i, 1])),
                    counts, low, high,
                )
            )  # fmt: skip
        return found


def _histogram(values: Array, q01: float, q99: float) -> tuple[float, float, tuple[int, ...]]:
    """Bins over the bulk and a margin, so that one wild value does not hide the shape of the rest."""
    if not len(values):
        return math.nan, math.nan, ()
    low, high = float(values.min()), float(values.max())
    margin = 0.25 * (q99 - q01)
    if margin > 0:
        low, high = max(low, q01 - margin), min(high, q99 + margin)
    if not (math.isfinite(low) and math.isfinite(high) and math.isfinite(high - low)):
        return math.nan, math.nan, ()
    if high - low <= 1e-12 * max(1.0, abs(low)):
        return low, high, (len(values),)
    return low, high, tuple(int(n) for n in np.histogram(values, np.linspace(low, high, _BINS + 1))[0])


@dataclass(frozen=True)
class Clock:
    """The times of streams that share them.

    Attributes:
        streams: their keys.
        nominal: the times are row over rate, not measured.
        rate_hz: what the set says; None if it says nothing.
        measured_hz: one over the median step; NaN if there is no step.
        jitter_ms: 95 % of the steps are within so much of the median.
        longest_s: the longest step.
        longest_at: episode and row that it ends at.
        steps: how many steps were looked at.
        gaps: steps longer than `GAP` medians.
        falls: steps backwards.
        falls_at: episode and row of the first of them.
        repeats: steps of nothing.
        counts: histogram of steps between `low_s` and `high_s`.
        low_s: its lower edge.
        high_s: its upper edge.
    """

    streams: tuple[str, ...]
    nominal: bool
    rate_hz: float | None
    measured_hz: float
    jitter_ms: float
    longest_s: float
    longest_at: tuple[int, int]
    steps: int
    gaps: int
    falls: int
    falls_at: tuple[int, int]
    repeats: int
    counts: tuple[int, ...]
    low_s: float
    high_s: float


class ClockGatherer:
    """Gathers the steps in time of one stream."""

    def __init__(self) -> None:
        self._rows = RangeGatherer(1)
        self._falls, self._repeats, self._falls_at = 0, 0, (-1, -1)
        self._long: list[tuple[float, int]] = []
        self.digests: dict[int, bytes] = {}

    def add(self, episode: int, time: Array) -> None:
        self.digests[episode] = blake2b(np.ascontiguousarray(time).tobytes(), digest_size=8).digest()
        steps = np.diff(time)
        fallen = np.flatnonzero(steps < 0)
        if len(fallen) and not self._falls:
            self._falls_at = (episode, int(fallen[0]) + 1)
        self._falls += len(fallen)
        self._repeats += int((steps == 0).sum())
        self._rows.add(episode, steps[:, None])

    def same(self, other: ClockGatherer) -> bool:
        """Whether the times agree wherever both have an episode."""
        both = self.digests.keys() & other.digests.keys()
        return bool(both) and all(self.digests[e] == other.digests[e] for e in both)

    def clock(self, streams: tuple[str, ...], nominal: bool, rate_hz: float | None) -> Clock:
        found = self._rows.ranges("", (), (), 1)[0]
        kept = np.concatenate(self._rows._kept)[:, 0] if self._rows._kept else np.zeros(0)
        kept = kept[np.isfinite(kept)]
        median = found.median
        off = np.abs(kept - median)
        gaps = int((kept > GAP * median).sum()) * self._rows._stride if median > 0 else 0
        return Clock(
            streams, nominal, rate_hz,
            1 / median if median > 0 else math.nan,
            1000 * float(np.quantile(off, 0.95)) if len(off) else math.nan,
            found.max, (found.max_at[0], found.max_at[1] + 1), found.rows, gaps,
            self._falls, self._falls_at, self._repeats, found.counts, found.low, found.high,
        )  # fmt: skip
