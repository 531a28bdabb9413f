"""What a view is made of: layers, each showing the one below with one operation done; nothing is copied."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..ledger import Loss, Problem
from ..recording import Contents, Recording, RowAccess, Source
from .cutting import Numbers, leading


class Layer(Protocol):
    """A set as the layers above see it. Rows are asked for only where `has_rows`."""

    contents: Contents
    problems: Sequence[Problem]
    has_rows: bool

    def __len__(self) -> int: ...
    def __getitem__(self, episode: int) -> Recording: ...
    def num_rows(self, episode: int) -> Mapping[str, int]: ...
    def losses(self) -> list[Loss]: ...
    def tasks(self) -> Sequence[str]: ...
    def bounds(self, key: str) -> NDArray[np.int64]: ...
    def vectors(self, key: str, rows: NDArray[np.int64]) -> NDArray[Any]: ...
    def times(self, key: str, rows: NDArray[np.int64]) -> NDArray[np.float64]: ...
    def image(self, key: str, row: int) -> NDArray[Any]: ...


class Ground:
    """A set, each of its episodes saying where it came from (``about["from"]``)."""

    def __init__(self, source: Source, name: str) -> None:
        self.source, self.name = source, name
        self.contents, self.problems = source.contents, source.problems
        methods = ("tasks", "bounds", "vectors", "times", "image")
        self.has_rows = all(hasattr(source, method) for method in methods)
        self._rows: RowAccess = source  # type: ignore[assignment]  # used where has_rows

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, episode: int) -> Recording:
        recording = self.source[episode]
        came: dict[str, Any] = {"set": self.name, "episode": episode}
        if "from" in recording.about:
            came["from"] = recording.about["from"]
        return dataclasses.replace(recording, about={**recording.about, "from": came})

    def num_rows(self, episode: int) -> Mapping[str, int]:
        return self.source.num_rows(episode)

    def losses(self) -> list[Loss]:
        below = getattr(self.source, "losses", None)  # a view of a view
        return list(below()) if callable(below) else []

    def tasks(self) -> Sequence[str]:
        if self.has_rows:
            return self._rows.tasks()
        return [self.source[episode].task for episode in range(len(self))]

    def bounds(self, key: str) -> NDArray[np.int64]:
        return self._rows.bounds(key)

    def vectors(self, key: str, rows: NDArray[np.int64]) -> NDArray[Any]:
        return self._rows.vectors(key, rows)

    def times(self, key: str, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        return self._rows.times(key, rows)

    def image(self, key: str, row: int) -> NDArray[Any]:
        return self._rows.image(key, row)


class RecordingNumbers:
    """`Numbers` of a recording that was read."""

    def __init__(self, recording: Recording) -> None:
        self.recording = recording

    def rows(self) -> Mapping[str, int]:
        return {key: len(track) for key, track in self.recording.streams.items()}

    def time(self, key: str) -> NDArray[np.float64]:
        return self.recording.streams[key].time

    def values(self, key: str) -> NDArray[Any]:
        return np.asarray(self.recording.streams[key].rows)


class LayerNumbers:
    """`Numbers` of an episode of a layer with random access: only what is asked for is read."""

    def __init__(self, layer: Layer, episode: int) -> None:
        self.layer, self.episode = layer, episode

    def rows(self) -> Mapping[str, int]:
        return self.layer.num_rows(self.episode)

    def _range(self, key: str) -> NDArray[np.int64]:
        return np.arange(*self.layer.bounds(key)[self.episode])

    def time(self, key: str) -> NDArray[np.float64]:
        return self.layer.times(key, self._range(key))

    def values(self, key: str) -> NDArray[Any]:
        return self.layer.vectors(key, self._range(key))


def numbers(layer: Layer, episode: int) -> Numbers:
    return LayerNumbers(layer, episode) if layer.has_rows else RecordingNumbers(layer[episode])


class Facts:
    """What conditions are asked of an episode, each read only when it is asked for."""

    def __init__(self, layer: Layer) -> None:
        self.layer = layer
        self._tasks: Sequence[str] | None = None

    def __len__(self) -> int:
        return len(self.layer)

    def __getitem__(self, episode: int) -> Recording:
        return self.layer[episode]

    def num_steps(self, episode: int) -> int:
        rows = self.layer.num_rows(episode)
        return rows.get(leading(rows), 0)

    def seconds(self, episode: int) -> float:
        one = numbers(self.layer, episode)
        key = leading(one.rows())
        time = one.time(key) if key else np.zeros(1)
        return float(time[-1] - time[0])

    def task(self, episode: int) -> str:
        if self._tasks is None:
            self._tasks = self.layer.tasks()
        return self._tasks[episode]
