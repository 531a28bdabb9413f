"""A whole set in memory, decoded: nothing is read or decoded after that. For sets that fit."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import psutil
from numpy.typing import NDArray

from ..ledger import DataError
from ..recording import Contents, RowAccess

_CGROUP = Path("/sys/fs/cgroup")
_SPARE = 0.1  # of the memory that is free is left


def bytes_needed(rows: RowAccess) -> int:
    """Of memory, for every row of every stream but text, decoded."""
    total = 0
    for key, spec in rows.contents.streams.items():
        if spec.kind != "text":
            row = math.prod(spec.shape) * np.dtype(spec.dtype).itemsize + 8
            total += _count(rows, key) * row
    return total


def bytes_free() -> int:
    """Of memory that this process may still take: of the machine, or of its container."""
    free = int(psutil.virtual_memory().available)
    for limit, used in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        try:
            free = min(free, int((_CGROUP / limit).read_text()) - int((_CGROUP / used).read_text()))
        except (OSError, ValueError):  # no container, or one without a limit ("max")
            continue
    return free


class RamRows:
    """`RowAccess` over memory. It is not sent to worker processes, which it makes needless."""

    def __init__(self, rows: RowAccess, progress: Callable[[int, int], None] | None = None) -> None:
        """Read and decode everything.

        Args:
            rows: the set.
            progress: told how many images are done, and of how many.

        Raises:
            DataError: it does not fit into memory, or cannot be read.
        """
        needed, free = bytes_needed(rows), bytes_free()
        if needed > free * (1 - _SPARE):
            raise DataError(
                f"the decoded set needs {needed / 1e9:.2f} GB of memory, {free / 1e9:.2f} GB are free",
                "read it from the disk instead (leave out whole-RAM mode), or resize its images first",
            )
        self.contents: Contents = rows.contents
        self._tasks = list(rows.tasks())
        self._bounds = {key: rows.bounds(key) for key in rows.contents.streams}
        self._times: dict[str, NDArray[np.float64]] = {}
        self._data: dict[str, NDArray[Any]] = {}
        frames = rows.contents.of_kind("image", "depth")
        total, done = sum(_count(rows, key) for key in frames), 0
        for key, spec in rows.contents.streams.items():
            every = np.arange(_count(rows, key))
            self._times[key] = rows.times(key, every)
            if spec.kind == "vector":
                self._data[key] = rows.vectors(key, every)
            elif key in frames:
                held = self._data[key] = np.empty((len(every), *spec.shape), spec.dtype)
                for row in range(len(every)):
                    held[row] = rows.image(key, row)
                    done += 1
                    if progress is not None:
                        progress(done, total)

    def __len__(self) -> int:
        return len(self._tasks)

    def __reduce__(self) -> NoReturn:
        raise TypeError("a set held in memory is read with workers=0: nothing is left for workers to decode")

    def tasks(self) -> Sequence[str]:
        return self._tasks

    def bounds(self, key: str) -> NDArray[np.int64]:
        return self._bounds[key]

    def vectors(self, key: str, rows: NDArray[np.int64]) -> NDArray[Any]:
        block: NDArray[Any] = self._data[key][rows]
        return block

    def times(self, key: str, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        return self._times[key][rows]

    def image(self, key: str, row: int) -> NDArray[Any]:
        image: NDArray[Any] = self._data[key][row]
        return image


def _count(rows: RowAccess, key: str) -> int:
    return int(rows.bounds(key)[:, 1].max(initial=0))
