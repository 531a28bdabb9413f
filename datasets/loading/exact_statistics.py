"""Statistics of every number in a set: over all rows, exact, and never copied from where the set came from.

Memory does not grow with the rows, and no image is touched; images have statistics of their own, from a
sample that is the same every time and is said.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..ledger import DataError
from ..recording import RowAccess
from .selection import Blocks, quantiles

QUANTILES = {"q01": 0.01, "q02": 0.02, "q10": 0.1, "q50": 0.5, "q90": 0.9, "q98": 0.98, "q99": 0.99}
NAMES = ("mean", "std", "min", "max", *QUANTILES)
BLOCK_ROWS = 1 << 16  # fixed: float64 sums are in its order, so the same set gives the same last bit
_COLUMNS = 256  # entries looked at in one reading: at most 0.3 MB of counters for each
_IMAGES = 256

NonFinite = Literal["raise", "skip"]


@dataclass(frozen=True)
class StreamStatistics:
    """One stream's; arrays are float64 of the stream's row shape, images' of (channels,).

    Attributes:
        key: of the stream.
        count: rows that were read; for images, pictures.
        values: by name (`NAMES`): std is the population's, quantiles interpolate as numpy's ``linear`` does.
        num_non_finite: NaN and infinite numbers that were left out, for each entry.
        sampled: for images, how many pictures there are in all; 0 where every row was read.
    """

    key: str
    count: int
    values: Mapping[str, NDArray[np.float64]]
    num_non_finite: NDArray[np.int64]
    sampled: int = 0

    def of(self, name: str) -> NDArray[np.float64]:
        """``mean``, ``std``, ``min``, ``max``, ``q01``, ...

        Raises:
            DataError: there is no such statistic.
        """
        if name not in self.values:
            raise DataError(f"no statistic {name}", f"there are {', '.join(self.values)}", key=self.key)
        return self.values[name]


@dataclass(frozen=True)
class SetStatistics:
    """A set's, with what they were computed from.

    Attributes:
        streams: by key.
        fingerprint: BLAKE2b of every number that was read, with its type, shape and episode.
        num_episodes: in the set.
        about: how they were made: weights of a mixture, what was done with NaN.
    """

    streams: Mapping[str, StreamStatistics]
    fingerprint: str
    num_episodes: int
    about: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Plain numbers and lists; numbers come back bit for bit."""
        return {
            "fingerprint": self.fingerprint,
            "num_episodes": self.num_episodes,
            "about": dict(self.about),
            "streams": {
                key: {
                    "count": one.count,
                    "sampled": one.sampled,
                    "num_non_finite": one.num_non_finite.tolist(),
                    **{name: value.tolist() for name, value in one.values.items()},
                }
                for key, one in self.streams.items()
            },
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> SetStatistics:
        """What `to_json` wrote.

        Raises:
            DataError: it is something else.
        """
        try:
            streams = {}
            for key, one in data["streams"].items():
                values = {name: np.asarray(one[name], dtype=np.float64) for name in NAMES}
                skipped = np.asarray(one["num_non_finite"], dtype=np.int64)
                if {value.shape for value in values.values()} != {skipped.shape}:
                    raise ValueError(f"{key} has statistics of different shapes")
                streams[key] = StreamStatistics(key, int(one["count"]), values, skipped, int(one["sampled"]))
            return cls(streams, str(data["fingerprint"]), int(data["num_episodes"]), dict(data["about"]))
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise DataError(f"these are no statistics of ours ({error!r})", "compute them anew") from error

    def save(self, path: Path) -> None:
        """Write as JSON; the file is whole or not there."""
        partial = path.with_name(f".{path.name}.partial")
        partial.write_text(json.dumps(self.to_json(), indent=1) + "\n")
        partial.replace(path)

    @classmethod
    def load(cls, path: Path) -> SetStatistics:
        """Read what `save` wrote.

        Raises:
            DataError: it cannot be read, or is something else.
        """
        try:
            data = json.loads(path.read_text())
        except (OSError, ValueError, RecursionError) as error:
            raise DataError(f"cannot be read ({error})", "compute the statistics anew", file=path) from error
        if not isinstance(data, dict):
            raise DataError("these are no statistics of ours", "compute them anew", file=path)
        return cls.from_json(data)


def exact_statistics(
    rows: RowAccess, keys: Iterable[str] | None = None, *, non_finite: NonFinite = "raise"
) -> SetStatistics:
    """Statistics of the vector streams of a set, over all its rows.

    Args:
        rows: the set, or a view of it.
        keys: which streams; None for every one that holds numbers.
        non_finite: ``raise`` names the first NaN or infinity; ``skip`` leaves those out and counts them.

    Raises:
        DataError: a number is not finite, a stream has no row, or is none of numbers.
    """
    return pooled_statistics([rows], keys, non_finite=non_finite)


def pooled_statistics(
    sets: Sequence[RowAccess],
    keys: Iterable[str] | None = None,
    *,
    weights: Sequence[float] | None = None,
    non_finite: NonFinite = "raise",
) -> SetStatistics:
    """Statistics of several sets as one.

    Args:
        sets: with the same streams.
        keys: which streams; None for every one that holds numbers in all of them.
        weights: how much each set counts as a whole, as in a mixture; None counts all rows alike. With
            weights a quantile is the smallest number that so much of the weight does not exceed (numpy's
            ``inverted_cdf``), since between numbers of different weight there is nothing to interpolate.
        non_finite: ``raise`` names the first NaN or infinity; ``skip`` leaves those out and counts them.

    Raises:
        DataError: a number is not finite, a stream has no row, is none of numbers, or differs in shape.
        ValueError: weights that are not positive, or not one for each set.
    """
    if weights is not None and (len(weights) != len(sets) or not all(0 < w < np.inf for w in weights)):
        raise ValueError(f"weights {list(weights)} for {len(sets)} sets; expected a positive one for each")
    chosen = _common(sets) if keys is None else list(keys)
    digest = hashlib.blake2b(digest_size=16)
    streams: dict[str, StreamStatistics] = {}
    for key in chosen:
        shapes = {_numeric(one, key) for one in sets}
        if len(shapes) > 1:
            raise DataError(
                f"rows of shapes {sorted(shapes)}", "pool sets of one shape, or choose keys", key=key
            )
        shape = shapes.pop()
        ranges = [_ranges(one, key) for one in sets]
        counts = [sum(high - low for low, high in one) for one in ranges]
        if min(counts) == 0:
            raise DataError("a set has no row of it", "leave the stream out with keys", key=key)
        for one in sets:
            spec = one.contents.streams[key]
            digest.update(repr((key, spec.dtype, spec.shape)).encode() + one.bounds(key).tobytes())

        def blocks(
            key: str = key, ranges: Any = ranges, counts: Any = counts
        ) -> Iterator[tuple[NDArray[Any], float]]:
            for index, one in enumerate(sets):
                weight = 1.0 if weights is None else weights[index] / counts[index]
                for low, high in ranges[index]:
                    for first in range(low, high, BLOCK_ROWS):
                        take = np.arange(first, min(first + BLOCK_ROWS, high))
                        yield one.vectors(key, take).reshape(len(take), -1), weight

        def first_blocks(
            key: str = key, ranges: Any = ranges, blocks: Blocks = blocks
        ) -> Iterator[tuple[NDArray[Any], float]]:
            row = 0
            for block, weight in blocks():
                digest.update(np.ascontiguousarray(block).tobytes())
                if non_finite == "raise" and block.dtype.kind == "f" and not np.isfinite(block).all():
                    _refuse(sets, key, row, block, ranges)
                row += len(block)
                yield block, weight

        columns = int(np.prod(shape, dtype=np.int64))
        with np.errstate(over="ignore", invalid="ignore"):  # numbers near 1e300 have an infinite deviation
            values, skipped = _measure(first_blocks, blocks, columns, weights is not None, key)
        streams[key] = StreamStatistics(
            key,
            sum(counts),
            {name: value.reshape(shape) for name, value in values.items()},
            skipped.reshape(shape),
        )
    about: dict[str, Any] = {
        "non_finite": non_finite,
        "quantiles": "linear" if weights is None else "inverted_cdf",
    }
    if weights is not None:
        about["weights"] = [float(weight) for weight in weights]
    return SetStatistics(streams, digest.hexdigest(), sum(len(one) for one in sets), about)


def image_statistics(rows: RowAccess, key: str, most: int = _IMAGES) -> StreamStatistics:
    """Statistics of each channel of an image or depth stream, in its own units (0..255 for RGB).

    Every pixel of at most `most` pictures is read, evenly spaced over all rows; the same ones every time.

    Raises:
        DataError: there is no such stream, it has no row, or a depth is not finite.
    """
    spec = rows.contents.streams.get(key)
    if spec is None or spec.kind not in ("image", "depth"):
        raise DataError(
            "no stream of images", f"there are {list(rows.contents.of_kind('image', 'depth'))}", key=key
        )
    every = np.concatenate([np.arange(low, high) for low, high in _ranges(rows, key)] or [np.arange(0)])
    if not len(every):
        raise DataError("it has no row", "leave it out", key=key)
    count = min(most, len(every))
    sample = every[(2 * np.arange(count) + 1) * len(every) // (2 * count)]
    channels = spec.shape[2] if len(spec.shape) == 3 else 1

    def blocks() -> Iterator[tuple[NDArray[Any], float]]:
        for row in sample:
            yield rows.image(key, int(row)).reshape(-1, channels), 1.0

    values, skipped = _measure(blocks, blocks, channels, False, key)
    if skipped.any():
        raise DataError("a depth is not finite", "repair the set, or leave the stream out", key=key)
    return StreamStatistics(key, count, values, skipped, sampled=len(every))


def _common(sets: Sequence[RowAccess]) -> list[str]:
    """The streams of numbers that all sets have rows of."""
    keys: list[str] = []
    for key, spec in sets[0].contents.of_kind("vector").items():
        there = all(key in one.contents.streams and len(_ranges(one, key)) for one in sets)
        if there and np.dtype(spec.dtype).kind in "fiub":
            keys.append(key)
    return keys


def _numeric(rows: RowAccess, key: str) -> tuple[int, ...]:
    spec = rows.contents.streams.get(key)
    if spec is None or spec.kind != "vector" or np.dtype(spec.dtype).kind not in "fiub":
        raise DataError("no stream of numbers", f"there are {list(rows.contents.of_kind('vector'))}", key=key)
    return spec.shape


def _ranges(rows: RowAccess, key: str) -> list[tuple[int, int]]:
    """First row and one past the last of what the episodes cover, neighbours joined."""
    joined: list[tuple[int, int]] = []
    for low, high in rows.bounds(key).tolist():
        if joined and joined[-1][1] == low:
            joined[-1] = (joined[-1][0], high)
        elif high > low:
            joined.append((low, high))
    return joined


def _refuse(sets: Sequence[RowAccess], key: str, row: int, block: NDArray[Any], ranges: Any) -> None:
    """Name the first number of a block that is not finite."""
    bad = ~np.isfinite(block).all(1)
    ordinal = row + int(np.argmax(bad))
    for one, spans in zip(sets, ranges, strict=True):
        for low, high in spans:
            if ordinal < high - low:
                bounds = one.bounds(key)
                found = low + ordinal
                episode = int(np.flatnonzero((bounds[:, 0] <= found) & (found < bounds[:, 1]))[0])
                raise DataError(
                    f"{block[np.argmax(bad)].tolist()} is not finite ({int(bad.sum())} such rows near it)",
                    "drop the episode, or count with non_finite='skip', which leaves such numbers out",
                    episode=episode,
                    frame=found - int(bounds[episode, 0]),
                    key=key,
                )
            ordinal -= high - low


def _measure(
    first: Blocks, again: Blocks, columns: int, weighted: bool, key: str
) -> tuple[dict[str, NDArray[np.float64]], NDArray[np.int64]]:
    """All statistics of (n, columns) blocks. `first` is read once, `again` as often as is needed."""
    total, mass, skipped = _Sums(columns), np.zeros(columns), np.zeros(columns, np.int64)
    low, high = np.full(columns, np.inf), np.full(columns, -np.inf)
    wide = False
    for block, weight in first():
        wide |= not np.can_cast(block.dtype, np.float32)
        x = block.astype(np.float64)
        finite = np.isfinite(x) if block.dtype.kind == "f" else None
        if finite is not None and finite.all():
            finite = None
        n = np.full(columns, len(x)) if finite is None else finite.sum(0)
        skipped += len(x) - n
        mass += weight * n
        low = np.minimum(low, x.min(0) if finite is None else np.where(finite, x, np.inf).min(0))
        high = np.maximum(high, x.max(0) if finite is None else np.where(finite, x, -np.inf).max(0))
        total.add(weight * (x if finite is None else np.where(finite, x, 0)).sum(0))
    if not mass.all():
        raise DataError(
            f"entry {int(np.argmin(mass))} has no finite number in any row",
            "leave the stream out with keys",
            key=key,
        )
    mean = total.value() / mass
    square = _Sums(columns)
    for block, weight in again():
        off = block.astype(np.float64) - mean
        if block.dtype.kind == "f":
            off[~np.isfinite(off)] = 0
        square.add(weight * np.einsum("nc,nc->c", off, off))
    still = low == high  # exactly: a rounded mean would leave a deviation that a scheme divides by
    values = {
        "mean": np.where(still, low, np.clip(mean, low, high)),
        "std": np.where(still, 0.0, np.sqrt(square.value() / mass)),
        "min": low,
        "max": high,
    }
    found = np.empty((len(QUANTILES), columns))
    for start in range(0, columns, _COLUMNS):
        part = slice(start, min(start + _COLUMNS, columns))
        found[:, part] = quantiles(again, part, list(QUANTILES.values()), mass[part], weighted, wide)
    values |= {name: found[index] for index, name in enumerate(QUANTILES)}
    return values, skipped


class _Sums:
    """Sums of float64 that do not lose the small to the large (Neumaier)."""

    def __init__(self, columns: int) -> None:
        self.sum, self.rest = np.zeros(columns), np.zeros(columns)

    def add(self, x: NDArray[np.float64]) -> None:
        new = self.sum + x
        larger = np.abs(self.sum) >= np.abs(x)
        self.rest += np.where(larger, (self.sum - new) + x, (x - new) + self.sum)
        self.sum = new

    def value(self) -> NDArray[np.float64]:
        return self.sum + self.rest
