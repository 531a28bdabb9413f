"""The statistics that LeRobot keeps of each episode and of the set.

Exact for numbers, of sampled frames for images; never copied from a source, whose own are often wrong.
"""

from __future__ import annotations

import base64
import binascii
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..ledger import DataError

QUANTILES = {"q01": 0.01, "q10": 0.1, "q50": 0.5, "q90": 0.9, "q99": 0.99}
Stats = dict[str, NDArray[Any]]


def of_rows(rows: NDArray[Any]) -> Stats:
    """Exact statistics over the first axis of (N,*shape), NaN passed over; shape (1,) for single numbers."""
    flat = rows.reshape(len(rows), -1).astype(np.float64)
    stats: Stats = {
        name: np.full(flat.shape[1], np.nan) for name in ("min", "max", "mean", "std", *QUANTILES)
    }
    for column in range(flat.shape[1]):
        known = flat[:, column][~np.isnan(flat[:, column])]
        if not len(known):
            continue
        with np.errstate(invalid="ignore", over="ignore"):  # infinities give NaN, as they should
            stats["min"][column], stats["max"][column] = known.min(), known.max()
            stats["mean"][column], stats["std"][column] = known.mean(), known.std()
            found = np.quantile(known, list(QUANTILES.values()))
        for name, value in zip(QUANTILES, found, strict=True):
            stats[name][column] = value
    shape = rows.shape[1:] or (1,)
    return {name: value.reshape(shape) for name, value in stats.items()} | {"count": _count(len(rows))}


def _count(count: int) -> NDArray[Any]:
    return np.array([count], dtype=np.int64)


def sampled_indices(count: int) -> list[int]:
    """The frames of an episode that its image statistics are made of, as many as LeRobot takes."""
    wanted = max(min(count, 100), min(int(count**0.75), 10_000))
    return [int(i) for i in np.round(np.linspace(0, count - 1, wanted))]


@dataclass
class PixelCounts:
    """How often each value of each channel occurs in sampled frames: everything statistics of images need."""

    frames: int = 0
    counts: NDArray[np.int64] = field(default_factory=lambda: np.zeros((3, 256), np.int64))

    def add(self, image: NDArray[np.uint8]) -> None:
        height, width = image.shape[:2]
        if max(height, width) >= 300:
            step = max(max(height, width) // 150, 1)
            image = image[::step, ::step]
        for channel in range(3):
            self.counts[channel] += np.bincount(image[..., channel].reshape(-1), minlength=256)
        self.frames += 1

    def join(self, other: PixelCounts) -> None:
        self.frames += other.frames
        self.counts += other.counts

    def stats(self) -> Stats:
        """Of values in 0..1, shape (3,1,1); empty if no frame was counted."""
        if not self.frames:
            return {}
        values = np.arange(256) / 255
        total = self.counts.sum(1)
        mean = self.counts @ values / total
        spread = (self.counts * (values[None] - mean[:, None]) ** 2).sum(1) / total
        below = np.cumsum(self.counts, 1)
        found = {
            "min": values[[np.flatnonzero(row)[0] for row in self.counts]],
            "max": values[[np.flatnonzero(row)[-1] for row in self.counts]],
            "mean": mean,
            "std": np.sqrt(spread),
        }
        for name, q in QUANTILES.items():
            found[name] = values[[int(np.searchsorted(row, q * row[-1])) for row in below]]
        return {name: value.reshape(3, 1, 1) for name, value in found.items()} | {
            "count": _count(self.frames)
        }

    def pack(self) -> str:
        """Short text for the journal."""
        data = np.concatenate([[self.frames], self.counts.reshape(-1)]).astype("<i8").tobytes()
        return base64.b64encode(zlib.compress(data)).decode()

    @classmethod
    def unpack(cls, text: str) -> PixelCounts:
        try:
            data = np.frombuffer(zlib.decompress(base64.b64decode(text)), "<i8")
            return cls(int(data[0]), data[1:].reshape(3, 256).astype(np.int64))
        except (ValueError, zlib.error, binascii.Error, IndexError) as error:
            raise DataError(f"the journal is damaged ({error})", "delete the unfinished set") from error


@dataclass
class DepthValues:
    """Sampled values of depth images, thinned so that an episode stays small."""

    frames: int = 0
    values: list[NDArray[np.float64]] = field(default_factory=list)

    def add(self, image: NDArray[Any]) -> None:
        step = max(max(image.shape) // 64, 1)
        self.values.append(image[::step, ::step].astype(np.float64).reshape(-1))
        self.frames += 1

    def stats(self) -> Stats:
        """In the unit of the images, shape (1,1,1)."""
        if not self.frames:
            return {}
        found = of_rows(np.concatenate(self.values))
        return {name: value.reshape(1, 1, 1) for name, value in found.items()} | {
            "count": _count(self.frames)
        }


@dataclass
class Pool:
    """Statistics of parts joined: min, max, mean and std exactly, quantiles as the mean weighted by count."""

    weight: float = 0.0
    total: Stats = field(default_factory=dict)

    def add(self, stats: Mapping[str, NDArray[np.float64]]) -> None:
        if not stats:
            return
        weight = float(stats["count"][0])
        if not self.total:
            self.weight, self.total = weight, dict(stats)
            return
        old, both = self.total, self.weight + weight
        share = weight / both
        mean = old["mean"] + (stats["mean"] - old["mean"]) * share
        with np.errstate(over="ignore", invalid="ignore"):
            power = (1 - share) * (old["std"] ** 2 + (old["mean"] - mean) ** 2)
            power = power + share * (stats["std"] ** 2 + (stats["mean"] - mean) ** 2)
        joined = {name: old[name] + (stats[name] - old[name]) * share for name in QUANTILES}
        joined |= {
            "min": np.fmin(old["min"], stats["min"]),
            "max": np.fmax(old["max"], stats["max"]),
            "mean": mean,
            "std": np.sqrt(power),
            "count": _count(int(both)),
        }
        self.weight, self.total = both, joined


def to_json(stats: Mapping[str, Any]) -> dict[str, Any]:
    return {name: np.asarray(value).tolist() for name, value in stats.items()}


def from_json(stats: Mapping[str, Any]) -> Stats:
    return {name: np.asarray(value) for name, value in stats.items()}
