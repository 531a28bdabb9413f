"""Several sets, one after the other, as one."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..ledger import Loss, Problem
from ..recording import Recording
from .layers import Layer
from .merging import united


class Merged:
    """Several sets as one, one after the other."""

    def __init__(self, sets: Sequence[Layer], names: Sequence[str], differ: Sequence[str] = ()) -> None:
        self.sets = list(sets)
        self.contents = united([each.contents for each in sets], names, differ)
        self.has_rows = all(each.has_rows for each in sets)
        self._ends = np.cumsum([len(each) for each in sets])
        self._offsets: dict[str, NDArray[np.int64]] = {}
        self.problems: Sequence[Problem] = [
            dataclasses.replace(
                problem,
                file=f"{name}/{problem.file}" if problem.file else name,
                episode=None if problem.episode is None else problem.episode + int(end) - len(each),
            )
            for each, name, end in zip(sets, names, self._ends, strict=True)
            for problem in each.problems
        ]

    def __len__(self) -> int:
        return int(self._ends[-1])

    def _find(self, episode: int) -> tuple[Layer, int]:
        which = int(np.searchsorted(self._ends, episode, side="right"))
        return self.sets[which], episode - int(self._ends[which]) + len(self.sets[which])

    def __getitem__(self, episode: int) -> Recording:
        layer, below = self._find(episode)
        return layer[below]

    def num_rows(self, episode: int) -> Mapping[str, int]:
        layer, below = self._find(episode)
        return layer.num_rows(below)

    def losses(self) -> list[Loss]:
        return [loss for each in self.sets for loss in each.losses()]

    def tasks(self) -> Sequence[str]:
        return [task for each in self.sets for task in each.tasks()]

    def _starts(self, key: str) -> NDArray[np.int64]:
        """Where the rows of each set begin, and where those of the last end."""
        if key not in self._offsets:
            counts = [
                int(each.bounds(key).max(initial=0)) if key in each.contents.streams else 0
                for each in self.sets
            ]
            self._offsets[key] = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        return self._offsets[key]

    def bounds(self, key: str) -> NDArray[np.int64]:
        starts = self._starts(key)
        return np.concatenate([
            each.bounds(key) + start
            if key in each.contents.streams
            else np.full((len(each), 2), start, np.int64)
            for each, start in zip(self.sets, starts, strict=False)
        ])  # fmt: skip

    def _parts(
        self, key: str, rows: NDArray[np.int64]
    ) -> Iterator[tuple[Layer, NDArray[np.intp] | None, NDArray[np.int64]]]:
        """Layer, places among the rows asked for (None: all of them), rows of the layer."""
        starts = self._starts(key)
        if len(rows):  # most often neighbours, all of one set
            first = int(np.searchsorted(starts, rows[0], side="right")) - 1
            if first < len(self.sets) and starts[first] <= rows.min() and rows.max() < starts[first + 1]:
                yield self.sets[first], None, rows - starts[first]
                return
        which = np.searchsorted(starts, rows, side="right") - 1
        for index in np.unique(which):
            places = np.flatnonzero(which == index)
            yield self.sets[index], places, rows[places] - starts[index]

    def vectors(self, key: str, rows: NDArray[np.int64]) -> NDArray[Any]:
        spec = self.contents.streams[key]
        out = np.empty((len(rows), *spec.shape), spec.dtype)
        for layer, places, below in self._parts(key, rows):
            found = layer.vectors(key, below)
            if places is None:
                return found
            out[places] = found
        return out

    def times(self, key: str, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        out = np.empty(len(rows))
        for layer, places, below in self._parts(key, rows):
            found = layer.times(key, below)
            if places is None:
                return found
            out[places] = found
        return out

    def image(self, key: str, row: int) -> NDArray[Any]:
        starts = self._starts(key)
        which = int(np.searchsorted(starts, row, side="right")) - 1
        return self.sets[which].image(key, row - int(starts[which]))
