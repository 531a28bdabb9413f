"""Streams of numbers: zarr's plain ``bytes`` chunks of up to 65,536 rows, mapped and appended to."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from ..ledger import DataError
from ..recording import StreamSpec
from .files import Maps, Unsynced, map_inside, write_all
from .layout import chunk_path, chunk_rows, row_bytes


class VectorReader:
    """Rows of one array of numbers. Safe to share between threads, to fork, and to send elsewhere."""

    def __init__(self, root: Path, array: Path, spec: StreamSpec, rows: int, key: str = "") -> None:
        """Open nothing yet; `key` is the stream to name in errors."""
        self._root, self._array, self.spec, self.rows = root, array, spec, rows
        self._key = key or spec.key
        self._chunk = chunk_rows(spec)
        self._dtype = np.dtype(spec.dtype).newbyteorder("<")
        self._row_bytes = row_bytes(spec)
        self._maps: Maps[NDArray[Any]] = Maps()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_maps": Maps()}

    def slice(self, first: int, last: int) -> NDArray[Any]:
        """(last-first,*shape) rows, copied.

        Raises:
            DataError: a file is missing or cut short.
        """
        if first < 0 or last > self.rows:
            raise IndexError(f"{self._key} has {self.rows} rows, {first} to {last} were asked for")
        if not self._row_bytes or first >= last:
            self._small(last - first)
            return np.empty((max(0, last - first), *self.spec.shape), self.spec.dtype)
        parts = []
        for number in range(first // self._chunk, -(-last // self._chunk)):
            begin = number * self._chunk
            parts.append(self._rows(number, max(first - begin, 0), min(last - begin, self._chunk)))
        return self._native(np.concatenate(parts))

    def take(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        """(n,*shape) rows in the order asked for, copied.

        Raises:
            IndexError: there is no such row.
            DataError: a file is missing or cut short.
        """
        rows = np.asarray(rows, np.int64)
        if not len(rows) or not self._row_bytes:
            return np.empty((len(rows), *self.spec.shape), self.spec.dtype)
        low, high = int(rows.min()), int(rows.max())
        if low < 0 or high >= self.rows:
            raise IndexError(f"{self._key} has {self.rows} rows, {low} to {high} were asked for")
        number = low // self._chunk
        if high // self._chunk == number:
            begin = number * self._chunk
            return self._native(self._rows(number, 0, high - begin + 1)[rows - begin])
        numbers, local = np.divmod(rows, self._chunk)
        out = np.empty((len(rows), *self.spec.shape), self.spec.dtype)
        for number in np.unique(numbers):
            here = numbers == number
            out[here] = self._rows(int(number), 0, int(local[here].max()) + 1)[local[here]]
        return out

    def close(self) -> None:
        self._maps.clear()

    def _native(self, rows: NDArray[Any]) -> NDArray[Any]:
        return rows.astype(self.spec.dtype, copy=False)

    def _small(self, count: int) -> None:
        if count > 1 << 31:
            raise DataError(
                f"{count} rows of an episode", "the set is damaged", file=self._array, key=self._key
            )

    def _rows(self, number: int, first: int, last: int) -> NDArray[Any]:
        """A view of some rows of one file."""
        held = self._maps.get(number)
        if held is None or len(held) < last:  # a writer may have made it longer since
            held = self._maps.admit(number, self._open(number))
        if len(held) < last:
            raise DataError(
                f"the file ends after {len(held)} of at least {last} rows",
                "it is cut short: run `regrip data repair`, or take the set from its source again",
                file=self._path(number),
                key=self._key,
            )
        return held[first:last]

    def _open(self, number: int) -> NDArray[Any]:
        try:
            view = map_inside(self._root, self._path(number))
        except FileNotFoundError:
            raise DataError(
                "the file is missing",
                "copy the whole set, or run `regrip data repair`, which takes out damaged episodes",
                file=self._path(number),
                key=self._key,
            ) from None
        rows = min(len(view) // self._row_bytes, self._chunk)
        flat = np.frombuffer(view[: rows * self._row_bytes], self._dtype)
        if self._dtype == np.bool_:  # any other byte than 0 and 1 would be neither true nor false
            bad = np.flatnonzero(flat.view(np.uint8) > 1)
            if len(bad):
                flat = flat.view(np.uint8) != 0
        return flat.reshape(rows, *self.spec.shape)

    def _path(self, number: int) -> Path:
        return chunk_path(self._array, number, 1 + len(self.spec.shape))


class VectorWriter:
    """Appends rows; they are in the set when the episode's line is."""

    def __init__(self, array: Path, spec: StreamSpec, rows: int) -> None:
        """Go on after `rows` rows."""
        self._array, self._dimensions = array, 1 + len(spec.shape)
        self.rows = rows
        self._chunk = chunk_rows(spec)
        self._row_bytes = row_bytes(spec)
        self._file: tuple[int, BinaryIO] | None = None
        self._dirty: list[BinaryIO] = []
        self._fresh: set[Path] = set()

    def append(self, block: bytes | memoryview, count: int) -> None:
        """Write `count` rows, little endian.

        Raises:
            OSError: the disk is full or refuses.
        """
        rest = memoryview(block)
        while count and self._row_bytes:
            number, local = divmod(self.rows, self._chunk)
            part = min(count, self._chunk - local)
            file = self._at(number)
            file.seek(local * self._row_bytes)
            write_all(file, rest[: part * self._row_bytes])
            rest = rest[part * self._row_bytes :]
            self.rows += part
            count -= part
        self.rows += count  # of rows without entries nothing is stored

    def flush(self) -> Unsynced:
        """What must be on the disk before `synced`."""
        folders = {folder for path in self._fresh for folder in path.parents[: self._dimensions + 1]}
        return Unsynced([file.fileno() for file in self._dirty], folders)

    def synced(self) -> None:
        """All that `flush` named is on the disk."""
        for file in self._dirty:
            if self._file is None or file is not self._file[1]:
                file.close()
        self._dirty, self._fresh = [], set()

    def rollback(self, rows: int) -> None:
        """Go back to the first `rows` rows; the bytes of the others are written over."""
        self.rows = rows
        self.close()

    def close(self) -> None:
        for file in self._dirty:
            file.close()
        if self._file is not None:
            self._file[1].close()
        self._file, self._dirty = None, []

    def _at(self, number: int) -> BinaryIO:
        if self._file is None or self._file[0] != number:
            if self._file is not None and self._file[1] not in self._dirty:
                self._file[1].close()
            path = chunk_path(self._array, number, self._dimensions)
            path.parent.mkdir(parents=True, exist_ok=True)
            file = open(path, "r+b" if path.exists() else "w+b", buffering=0)  # noqa: SIM115
            if os.fstat(file.fileno()).st_size != self._chunk * self._row_bytes:
                file.truncate(self._chunk * self._row_bytes)  # zarr wants it whole; the rest is a hole
                self._fresh.add(path)
            self._file = (number, file)
        if self._file[1] not in self._dirty:
            self._dirty.append(self._file[1])
        return self._file[1]
