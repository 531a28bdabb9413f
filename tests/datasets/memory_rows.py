"""A set that lies in memory, with the random access that a loader needs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regrip.datasets.recording import Contents, Recording


class MemoryRows:
    """`RowAccess` over recordings; images are decoded when asked for. May be pickled."""

    def __init__(self, contents: Contents, recordings: Sequence[Recording]) -> None:
        self.contents = contents
        self._tasks = [one.task for one in recordings]
        self._bounds: dict[str, NDArray[np.int64]] = {}
        self._times: dict[str, NDArray[np.float64]] = {}
        self._vectors: dict[str, NDArray[Any]] = {}
        self._frames: dict[str, list[tuple[Any, int]]] = {}
        for key, spec in contents.streams.items():
            tracks = [one.streams.get(key) for one in recordings]
            ends = np.cumsum([0 if track is None else len(track) for track in tracks], dtype=np.int64)
            self._bounds[key] = np.stack([np.r_[0, ends[:-1]], ends], 1).astype(np.int64)
            there = [track for track in tracks if track is not None]
            self._times[key] = np.concatenate([track.time for track in there] or [np.zeros(0)])
            if spec.kind == "vector":
                empty = np.zeros((0, *spec.shape), spec.dtype)
                self._vectors[key] = np.concatenate([np.asarray(track.rows) for track in there] or [empty])
            elif spec.kind in ("image", "depth"):
                self._frames[key] = [(track.rows, i) for track in there for i in range(len(track))]

    def __len__(self) -> int:
        return len(self._tasks)

    def tasks(self) -> Sequence[str]:
        return self._tasks

    def bounds(self, key: str) -> NDArray[np.int64]:
        return self._bounds[key]

    def vectors(self, key: str, rows: NDArray[np.int64]) -> NDArray[Any]:
        return self._vectors[key][rows]

    def times(self, key: str, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        return self._times[key][rows]

    def image(self, key: str, row: int) -> NDArray[Any]:
        frames, index = self._frames[key][row]
        return np.asarray(frames[index])


def of_vectors(key: str, *episodes: NDArray[Any]) -> MemoryRows:
    """A set of one stream of numbers."""
    from regrip.datasets.recording import StreamSpec, Track

    spec = StreamSpec(key, "vector", str(episodes[0].dtype), episodes[0].shape[1:], rate_hz=10.0)
    made = [Recording({key: Track(one, np.arange(len(one)) / 10.0)}, task="t") for one in episodes]
    return MemoryRows(Contents({key: spec}, 10.0), made)
