"""What one sample is: images, state, a chunk of actions, and rows at other times, of one set or of several.

A sample belongs to a row of the set's anchor stream (``action``, if there is one). The chunk is that row of
``action`` and those that follow it: what was sent after the observation was seen. All else is looked up by
its time stamp, so streams may run at any rate. What lies outside the episode is its first or last row, and
``<key>_is_pad`` says so. Nothing here imports torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from ..ledger import DataError
from ..recording import RowAccess, StreamSpec
from .normalization import Scaling

_SAME_S = 1e-6  # two clocks that differ by less say the same

Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Reading:
    """What is read for a sample.

    Attributes:
        images: image or depth streams; None for every image stream.
        vectors: streams of numbers; None for every one called ``observation....``.
        action: stream of the chunk; ``""`` for none.
        chunk: H, rows of the action chunk.
        delta_timestamps: seconds before (negative) or after, for any stream read: its array then has one more
            dimension, in this order. With them `action` is read like any other stream.
        lookup: the row nearest in time, or the last one taken before (which is causal).
        tolerance_s: how far from the time asked for a row inside the episode may lie; None for one period of
            its stream, and no limit where the stream has no rate.
        on_gap: ``raise``, or ``mask`` such rows in ``<key>_is_pad``, which every stream then has.
        anchor: stream whose rows are the samples; ``""`` for `action`, or the first stream that is read.
    """

    images: tuple[str, ...] | None = None
    vectors: tuple[str, ...] | None = None
    action: str = "action"
    chunk: int = 16
    delta_timestamps: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    lookup: Literal["nearest", "previous"] = "nearest"
    tolerance_s: float | None = None
    on_gap: Literal["raise", "mask"] = "raise"
    anchor: str = ""

    def __post_init__(self) -> None:
        if self.chunk < 1:
            raise ValueError(f"an action chunk of {self.chunk} rows; at least 1")
        for key, deltas in self.delta_timestamps.items():
            if not len(deltas) or not np.isfinite(deltas).all():
                raise ValueError(f"delta_timestamps of {key} are {deltas}; give at least one finite number")


@dataclass(frozen=True)
class Field:
    """One array of a batch: (n, *shape)."""

    dtype: str
    shape: tuple[int, ...]
    kind: Literal["image", "vector", "mask", "index"]


@runtime_checkable
class IntoRows(Protocol):
    """A set that decodes images where they are wanted; one that does not has them copied there."""

    def image_into(self, key: str, row: int, out: NDArray[Any]) -> None:
        """`out` has the stream's shape and dtype, and is contiguous."""
        ...


def image_into(rows: RowAccess, key: str, row: int, out: NDArray[Any]) -> None:
    """Decode one image into `out`."""
    if isinstance(rows, IntoRows):
        rows.image_into(key, row, out)
    else:
        out[...] = rows.image(key, row)


class SampleReader:
    """Samples of one set, filled into arrays that are given.

    Attributes:
        rows: the set.
        fields: the arrays of a batch, by name.
    """

    def __init__(
        self, rows: RowAccess, reading: Reading | None = None, scaling: Mapping[str, Scaling] | None = None
    ) -> None:
        """Look at what the set declares; no row is read.

        Args:
            rows: the set.
            reading: what to read.
            scaling: of streams of numbers, by key: `Scaling.forward` of what was read.

        Raises:
            DataError: the set lacks a stream that is named, or has nothing to read.
        """
        self.rows, self.reading, self.scaling = rows, reading or Reading(), dict(scaling or {})
        of = self.reading
        streams = rows.contents.streams
        self.images = tuple(rows.contents.of_kind("image")) if of.images is None else of.images
        named = [key for key in rows.contents.of_kind("vector") if key.startswith("observation.")]
        self.vectors = tuple(named) if of.vectors is None else of.vectors
        self.chunked = of.action if of.action in streams and of.action not in of.delta_timestamps else ""
        self.vectors = tuple(key for key in self.vectors if key != self.chunked)
        for key in of.delta_timestamps:
            if key not in (*self.images, *self.vectors):
                kind = self._spec(key, "image", "depth", "vector").kind
                if kind == "vector":
                    self.vectors += (key,)
                else:
                    self.images += (key,)
        for key in self.images:
            self._spec(key, "image", "depth")
        for key in self.vectors:
            self._spec(key, "vector")
        self.anchor = of.anchor or next(
            (key for key in (of.action, *self.vectors, *self.images) if key in streams), ""
        )
        self._spec(self.anchor, "image", "depth", "vector", "text")
        self._bounds = {
            key: rows.bounds(key) for key in dict.fromkeys((self.anchor, *self.vectors, *self.images))
        }
        if self.chunked:
            self._bounds[self.chunked] = rows.bounds(self.chunked)
        anchored = self._bounds[self.anchor]
        self._starts = np.concatenate([[0], np.cumsum(anchored[:, 1] - anchored[:, 0])])
        if not len(self):
            raise DataError("the set has no rows to read", "record some episodes", key=self.anchor)
        unknown = set(self.scaling) - {*self.vectors, self.chunked}
        if unknown:
            raise DataError(
                f"there is a scaling for {sorted(unknown)}, which is not read",
                f"what is read is {[*self.vectors, self.chunked]}",
            )
        self._tasks = list(rows.tasks())
        self.fields = self._fields()

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if not key.startswith("_tasks")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._tasks = list(self.rows.tasks())

    @property
    def keys(self) -> tuple[str, ...]:
        """The streams that are read."""
        return tuple(self._bounds)

    def fill(self, samples: NDArray[np.int64], out: Arrays, at: NDArray[np.int64]) -> list[str]:
        """Read samples into rows `at` of the arrays of a batch.

        Args:
            samples: (n,) in range(len(self)).
            out: arrays by name, at least as wide as `fields`.
            at: (n,) rows of them.

        Returns:
            The task of each sample.

        Raises:
            DataError: a row is damaged, or too far from the time asked for.
            IndexError: there is no such sample.
        """
        if len(samples) and (samples.min() < 0 or samples.max() >= len(self)):
            raise IndexError(f"samples from {samples.min()} to {samples.max()}; the set has {len(self)}")
        episode = np.searchsorted(self._starts, samples, side="right") - 1
        frame = samples - self._starts[episode]
        row = self._bounds[self.anchor][episode, 0] + frame
        now = self.rows.times(self.anchor, row)
        out["index"][at], out["episode_index"][at], out["frame_index"][at] = samples, episode, frame
        out["timestamp"][at] = now
        if self.chunked:
            self._chunk(episode, row, frame, now, out, at)
        for key in self.vectors:
            found, there = self._find(key, episode, frame, now, out, at)
            if there.all():
                put(out[key], at, self._read(key, found))
            elif there.any():
                put(out[key], at[there], self._read(key, found[there]))
                out[key][at[~there]] = 0
            else:
                out[key][at] = 0
        for key in self.images:
            found, there = self._find(key, episode, frame, now, out, at)
            self._decode(key, found, there, episode, out[key], at)
        return [self._tasks[one] for one in episode.tolist()]

    def _spec(self, key: str, *kinds: str) -> StreamSpec:
        spec = self.rows.contents.streams.get(key)
        if spec is None or spec.kind not in kinds:
            raise DataError(
                f"the set has no {' or '.join(kinds)} stream {key!r}",
                f"its streams are {', '.join(self.rows.contents.streams)}",
            )
        return spec

    def _rate(self, key: str) -> float | None:
        return self.rows.contents.streams[key].rate_hz or self.rows.contents.rate_hz

    def _fields(self) -> dict[str, Field]:
        fields = {name: Field("int64", (), "index") for name in ("index", "episode_index", "frame_index")}
        fields["timestamp"] = Field("float64", (), "index")
        for key in (*self.images, *self.vectors, *([self.chunked] if self.chunked else [])):
            spec = self.rows.contents.streams[key]
            deltas = self.reading.delta_timestamps.get(key)
            ahead: tuple[int, ...] = () if deltas is None else (len(deltas),)
            if key == self.chunked:
                ahead = (self.reading.chunk,)
            dtype = np.dtype(spec.dtype)
            if spec.kind == "vector" and (dtype.kind == "f" or key in self.scaling):
                dtype = np.dtype(np.float32)
            kind: Literal["image", "vector"] = "vector" if spec.kind == "vector" else "image"
            fields[key] = Field(str(dtype), (*ahead, *spec.shape), kind)
            if ahead or self.reading.on_gap == "mask":
                fields[f"{key}_is_pad"] = Field("bool", ahead, "mask")
            lacking = self._bounds[key][:, 0] == self._bounds[key][:, 1]
            if lacking.any():
                fields[f"{key}_mask"] = Field("bool", (), "mask")
        return fields

    def _read(self, key: str, rows: NDArray[np.int64]) -> NDArray[Any]:
        """(*rows.shape, *row shape), scaled."""
        block = self.rows.vectors(key, rows.reshape(-1))
        block = block.reshape(*rows.shape, *block.shape[1:])
        if key in self.scaling:
            block = self.scaling[key].forward(block if block.dtype.kind == "f" else block.astype(np.float32))
        return block

    def _chunk(
        self,
        episode: NDArray[np.int64],
        row: NDArray[np.int64],
        frame: NDArray[np.int64],
        now: NDArray[np.float64],
        out: Arrays,
        at: NDArray[np.int64],
    ) -> None:
        key = self.chunked
        first = row
        there = np.ones(len(at), bool)
        if key != self.anchor:
            first, there = self._find(key, episode, frame, now, out, at, windowed=False)
        wanted = first[:, None] + np.arange(self.reading.chunk)
        last = self._bounds[key][episode, 1][:, None] - 1
        out[f"{key}_is_pad"][at] = (wanted > last) | ~there[:, None]
        if f"{key}_mask" in out:
            out[f"{key}_mask"][at] = there
        if there.all():
            put(out[key], at, self._read(key, np.minimum(wanted, last)))
            return
        out[key][at] = 0
        put(out[key], at[there], self._read(key, np.minimum(wanted, last)[there]))

    def _find(
        self,
        key: str,
        episode: NDArray[np.int64],
        frame: NDArray[np.int64],
        now: NDArray[np.float64],
        out: Arrays,
        at: NDArray[np.int64],
        *,
        windowed: bool = True,
    ) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Rows of a stream at the samples' times, (n,) or (n,deltas), and which samples' episodes have it."""
        of = self.reading
        bounds = self._bounds[key][episode]
        there = bounds[:, 0] < bounds[:, 1]
        if f"{key}_mask" in out:
            out[f"{key}_mask"][at] = there
        deltas = of.delta_timestamps.get(key) if windowed else None
        if key == self.anchor and deltas is None:
            if f"{key}_is_pad" in out and windowed:
                out[f"{key}_is_pad"][at] = False
            return bounds[:, 0] + frame, there
        offsets = np.asarray([0.0] if deltas is None else deltas)
        target = now[:, None] + offsets
        ahead = np.rint(offsets * (self._rate(key) or 0.0)).astype(np.int64)
        found = np.zeros(target.shape, np.int64)
        pad = np.ones(target.shape, bool)
        if there.any():
            low, high = (np.broadcast_to(bounds[there, i, None], target[there].shape) for i in (0, 1))
            guess = low + frame[there, None] + ahead
            found[there], pad[there] = self._at(key, episode[there], low, high, target[there], guess)
        if f"{key}_is_pad" in out and windowed:
            out[f"{key}_is_pad"][at] = pad if deltas is not None else pad[:, 0]
        return (found if deltas is not None else found[:, 0]), there

    def _at(
        self,
        key: str,
        episode: NDArray[np.int64],
        low: NDArray[np.int64],
        high: NDArray[np.int64],
        target: NDArray[np.float64],
        guess: NDArray[np.int64],
    ) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Rows nearest to, or last before, (n,D) times; and which of them are padding."""
        of = self.reading
        row, off = lookup(self.rows, key, low, high, target, guess, of.lookup)
        rate = self.rows.contents.streams[key].rate_hz
        tolerance = of.tolerance_s if of.tolerance_s is not None else 1 / rate if rate else np.inf
        edge = min(0.5 / rate if rate else _SAME_S, tolerance)
        outside = ((off > edge) & (row == high - 1)) | ((off < -edge) & (row == low))
        far = (np.abs(off) > tolerance + _SAME_S) & ~outside
        deltas = of.delta_timestamps.get(key)
        if deltas is None:  # an observation of now, though the stream may begin late or end early
            far = np.abs(off) > tolerance + _SAME_S
            outside = np.zeros_like(far)
        if of.on_gap == "raise" and far.any():
            sample, which = np.argwhere(far)[0].tolist()
            raise DataError(
                f"the row nearest to the time asked for is {abs(off[sample, which]):.4g} s away; "
                f"{tolerance:.4g} s are allowed",
                "frames were dropped or clocks differ: raise tolerance_s, or mask such rows: on_gap='mask'",
                episode=int(episode[sample]),
                frame=int(row[sample, which] - low[sample, which]),
                key=key,
            )
        return row, outside | far

    def _decode(
        self,
        key: str,
        found: NDArray[np.int64],
        there: NDArray[np.bool_],
        episode: NDArray[np.int64],
        out: NDArray[Any],
        at: NDArray[np.int64],
    ) -> None:
        into = self.rows.image_into if isinstance(self.rows, IntoRows) else partial(image_into, self.rows)
        for number, (place, wanted) in enumerate(zip(at.tolist(), found.tolist(), strict=True)):
            if not there[number]:
                out[place] = 0
                continue
            try:
                if isinstance(wanted, int):
                    into(key, wanted, out[place])
                    continue
                for slot, row in enumerate(wanted):
                    if slot and row == wanted[slot - 1]:
                        out[place, slot] = out[place, slot - 1]
                    else:
                        into(key, row, out[place, slot])
            except DataError as error:
                if error.episode is not None:
                    raise
                raise DataError(
                    error.what, error.remedy, file=error.file, episode=int(episode[number]),
                    frame=int(np.min(wanted) - self._bounds[key][episode[number], 0]), key=key,
                ) from error  # fmt: skip


def put(out: NDArray[Any], at: NDArray[np.int64], block: NDArray[Any]) -> None:
    """``out[at] = block``, where `out` may be wider in its last dimension: the rest becomes 0."""
    if out.shape[1:] == block.shape[1:]:
        out[at] = block
        return
    out[at] = 0
    out[..., : block.shape[-1]][at] = block


def lookup(
    rows: RowAccess,
    key: str,
    low: NDArray[np.int64],
    high: NDArray[np.int64],
    target: NDArray[np.float64],
    guess: NDArray[np.int64],
    how: Literal["nearest", "previous"],
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Rows of a stream by their times, inside episodes; all arrays have one shape.

    Args:
        rows: the set.
        key: the stream.
        low: first row of the episode.
        high: one past its last; greater than `low`.
        target: seconds asked for.
        guess: a row that is right where streams run together; it is taken if its time is the one asked for.
        how: the nearest (of two as near, the earlier), or the last that was not taken after.

    Returns:
        The rows, and how much later the time asked for is than theirs, in seconds.
    """
    shape = target.shape
    low, high, target, guess = low.reshape(-1), high.reshape(-1), target.reshape(-1), guess.reshape(-1)
    row = np.clip(guess, low, high - 1)
    off = target - rows.times(key, row)
    todo = np.flatnonzero(np.abs(off) > _SAME_S)
    if len(todo):
        wanted = target[todo]
        begin, end = low[todo] - 1, high[todo]  # times[begin] <= wanted < times[end], outside at will
        while (wide := np.flatnonzero(end - begin > 1)).size:
            middle = (begin[wide] + end[wide]) // 2
            before = rows.times(key, middle) <= wanted[wide] + _SAME_S
            begin[wide] = np.where(before, middle, begin[wide])
            end[wide] = np.where(before, end[wide], middle)
        first, last = low[todo], high[todo] - 1
        best = np.maximum(begin, first)
        distance = wanted - rows.times(key, best)
        if how == "nearest":
            after = np.minimum(begin + 1, last)
            later = wanted - rows.times(key, after)
            closer = np.abs(later) < np.abs(distance) - _SAME_S
            best, distance = np.where(closer, after, best), np.where(closer, later, distance)
        row[todo], off[todo] = best, distance
    return row.reshape(shape), off.reshape(shape)
