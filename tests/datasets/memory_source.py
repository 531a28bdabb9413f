"""Sets that lie in memory: a `Source`, the same with random access to rows, and a `Sink`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regrip.datasets.ledger import Problem
from regrip.datasets.recording import Contents, Recording


class MemorySource:
    """Recordings as a set."""

    format = "memory"

    def __init__(self, contents: Contents, made: Sequence[Recording], path: str = "") -> None:
        self.contents, self.made, self.path = contents, list(made), path
        self.problems: Sequence[Problem] = ()

    def __len__(self) -> int:
        return len(self.made)

    def __getitem__(self, episode: int) -> Recording:
        return self.made[episode]

    def num_rows(self, episode: int) -> Mapping[str, int]:
        return {key: len(track) for key, track in self.made[episode].streams.items()}

    def close(self) -> None:
        pass


class MemoryRowSource(MemorySource):
    """Recordings as a set with `RowAccess`."""

    def tasks(self) -> Sequence[str]:
        return [one.task for one in self.made]

    def bounds(self, key: str) -> NDArray[np.int64]:
        counts = [len(one.streams[key]) if key in one.streams else 0 for one in self.made]
        ends = np.cumsum(counts, dtype=np.int64)
        return np.stack([ends - counts, ends], axis=1)

    def _at(self, key: str, row: int) -> tuple[Any, int]:
        bounds = self.bounds(key)
        episode = int(np.searchsorted(bounds[:, 1], row, side="right"))
        return self.made[episode].streams[key], int(row - bounds[episode, 0])

    def vectors(self, key: str, rows: NDArray[np.int64]) -> NDArray[Any]:
        spec = self.contents.streams[key]
        out = np.empty((len(rows), *spec.shape), spec.dtype)
        for i, row in enumerate(rows):
            track, at = self._at(key, int(row))
            out[i] = track.rows[at]
        return out

    def times(self, key: str, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        found = [self._at(key, int(row)) for row in rows]
        return np.array([track.time[at] for track, at in found], dtype=np.float64)

    def image(self, key: str, row: int) -> NDArray[Any]:
        track, at = self._at(key, row)
        return np.asarray(track.rows[at])
