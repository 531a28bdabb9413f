"""Shard files of images: an index at the start, then the images one behind another.

They are zarr's own ``sharding_indexed`` with ``index_location: "start"``: 2048 pairs (offset, bytes), little
endian, 2^64-1 twice where there is none, and their crc32c. So a file can grow: images go to its end, and what
is written in place is the index, once for each episode.
"""

from __future__ import annotations

import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import google_crc32c
import numpy as np
import simplejpeg
from numpy.typing import NDArray

from ..frames import codec_of
from ..ledger import DataError, Problem
from ..recording import StreamSpec
from .files import Maps, Unsynced, map_inside, write_all
from .images import decode_stored
from .layout import SHARD, chunk_path

INDEX = 16 * SHARD + 4
EMPTY = 2**64 - 1
_ENTRY = struct.Struct("<QQ")


def empty_index() -> NDArray[np.uint64]:
    """(SHARD,2) offsets and lengths of nothing."""
    return np.full((SHARD, 2), EMPTY, np.uint64)


def index_bytes(index: NDArray[np.uint64]) -> bytes:
    """An index as it is stored, with its crc."""
    raw = index.astype("<u8").tobytes()
    return raw + struct.pack("<I", google_crc32c.value(raw))


def parse_index(raw: bytes) -> tuple[NDArray[np.uint64], bool]:
    """(SHARD,2) offsets and lengths, and whether the crc fits; what is missing of it counts as empty."""
    body = raw[: INDEX - 4]
    whole = len(raw) >= INDEX and struct.pack("<I", google_crc32c.value(body)) == raw[INDEX - 4 : INDEX]
    index = empty_index()
    entries = np.frombuffer(body[: len(body) // 16 * 16], "<u8").reshape(-1, 2)
    index[: len(entries)] = entries
    return index, whole


def inside(index: NDArray[np.uint64], size: int) -> NDArray[np.bool_]:
    """(SHARD,) which entries lie behind the index and before the end of a file of `size` bytes."""
    offset, length = index[:, 0], index[:, 1]
    limit = np.uint64(size)
    return np.asarray(
        (offset >= INDEX) & (offset <= limit) & (length > 0) & (length <= limit - np.minimum(offset, limit))
    )


@dataclass
class _Map:
    view: memoryview
    index: bytes
    size: int


class FrameReader:
    """Single images of one stream, straight out of the mapped shards.

    Safe to share between threads, to fork, and to send to another process, which maps the files anew.
    """

    def __init__(
        self,
        root: Path,
        array: Path,
        spec: StreamSpec,
        rows: int,
        doubt: Callable[[Problem], None],
        verify: Callable[[int], NDArray[np.bool_]],
    ) -> None:
        """Open nothing yet.

        Args:
            root: real path of the set.
            array: folder of the zarr array.
            spec: the stream.
            rows: rows that are committed.
            doubt: is told of a shard whose index does not fit its crc.
            verify: for such a shard, (SHARD,) which rows' content hashes fit.
        """
        self._root, self._array, self.spec, self.rows = root, array, spec, rows
        self._doubt, self._verify = doubt, verify
        self._maps: Maps[_Map] = Maps()
        self._indices: dict[int, bytes] = {}
        self._lock = threading.Lock()
        self._shape, self._dimensions = spec.shape, 1 + len(spec.shape)
        self._jpeg = spec.dtype == "uint8"

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_maps": Maps(), "_indices": {}, "_lock": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._lock = threading.Lock()

    def stored(self, row: int) -> memoryview:
        """The stored bytes of one image, not copied.

        Raises:
            IndexError: there is no such row.
            DataError: the shard lacks it or is damaged.
        """
        if not 0 <= row < self.rows:
            raise IndexError(f"{self.spec.key} has {self.rows} rows, row {row} was asked for")
        shard, local = divmod(row, SHARD)
        held = self._maps.get(shard) or self._map(shard)
        offset, length = _ENTRY.unpack_from(held.index, 16 * local)
        if offset + length > held.size or not length:
            raise DataError(
                "the image is not in its shard" if offset == EMPTY else "the shard is cut short or damaged",
                "run `regrip data repair`, which takes out damaged episodes",
                file=self._path(shard),
                frame=row,
                key=self.spec.key,
            )
        return held.view[offset : offset + length]

    def decode(self, row: int, out: NDArray[Any] | None = None) -> NDArray[Any]:
        """One image, in `out` if that is given: of the stream's shape and dtype, contiguous.

        Raises:
            IndexError: there is no such row.
            DataError: it cannot be decoded, or is not what the set declares.
        """
        data = self.stored(row)
        if self._jpeg and data[0] == 0xFF:
            try:  # into a buffer of the declared size: a larger image cannot make it grow
                buffer = np.empty(self._shape, np.uint8) if out is None else out
                image = simplejpeg.decode_jpeg(data, "RGB", buffer=buffer)
                if image.shape == self._shape:
                    return image  # type: ignore[no-any-return]
            except ValueError:
                pass  # said below, in words
            image = None
        made = decode_stored(
            bytes(data), self._shape, self.spec.dtype, f"{self._path(row // SHARD)}, {self.spec.key}", row
        )
        if out is None:
            return made
        out[...] = made
        return out

    def encoded(self, row: int) -> bytes | None:
        """The image file, or None where raw pixels are stored."""
        data = bytes(self.stored(row))
        return data if codec_of(data) else None

    def entries(self, shard: int) -> tuple[NDArray[np.uint64], memoryview]:
        """(SHARD,2) offsets and lengths of a shard and its bytes, as they lie there: nothing is checked."""
        view = self._open(shard)
        return parse_index(bytes(view[:INDEX]))[0], view

    def close(self) -> None:
        self._maps.clear()
        self._indices.clear()

    def _path(self, shard: int) -> Path:
        return chunk_path(self._array, shard, self._dimensions)

    def _open(self, shard: int) -> memoryview:
        path = self._path(shard)
        try:
            return map_inside(self._root, path)
        except FileNotFoundError:
            raise DataError(
                "the shard is missing",
                "copy the whole set, or run `regrip data repair`, which takes out damaged episodes",
                file=path,
                key=self.spec.key,
            ) from None

    def _map(self, shard: int) -> _Map:
        with self._lock:
            if held := self._maps.get(shard):
                return held
            view = self._open(shard)
            index = self._indices.get(shard)
            if index is None:
                index = self._indices[shard] = self._checked(shard, view)
            return self._maps.admit(shard, _Map(view, index, len(view)))

    def _checked(self, shard: int, view: memoryview) -> bytes:
        """An index whose crc fits, or whose rows do; entries that lead out of the file are emptied."""
        for wait_s in (0.0, 0.002, 0.02):  # a writer may be changing it this moment
            time.sleep(wait_s)
            index, whole = parse_index(bytes(view[:INDEX]))
            if whole:
                break
        good = inside(index, len(view))
        if not whole:
            self._doubt(
                Problem(
                    "the index of the shard does not fit its crc",
                    "the content hashes of its episodes were compared, and those that fit are read; "
                    "`regrip data repair` writes the index anew",
                    repaired=True,
                    file=str(self._path(shard).relative_to(self._root)),
                    key=self.spec.key,
                )
            )
            good &= self._verify(shard)
        index[~good] = EMPTY
        return index.astype("<u8").tobytes()


class ShardWriter:
    """Appends images; they are in the set when the episode's line is."""

    def __init__(self, array: Path, spec: StreamSpec, rows: int) -> None:
        """Go on after `rows` rows, on files that `store_repair.recover` has tidied."""
        self._array, self._dimensions = array, 1 + len(spec.shape)
        self.rows = self._first = rows  # _first: of the open episode
        self._index = empty_index()
        self._file: BinaryIO | None = None
        self._tail = INDEX
        self._full: list[tuple[BinaryIO, NDArray[np.uint64]]] = []  # shards that this episode filled
        self._fresh: set[Path] = set()
        if rows % SHARD:
            self._open(rows // SHARD)

    def append(self, data: bytes) -> None:
        """Write one image behind the last.

        Raises:
            OSError: the disk is full or refuses.
        """
        local = self.rows % SHARD
        if local == 0 or self._file is None:
            if self._file is not None:
                self._full.append((self._file, self._index))
                self._file = None
            self._open(self.rows // SHARD)
        assert self._file is not None, "just opened"
        self._file.seek(self._tail)
        write_all(self._file, data)
        self._index[local] = self._tail, len(data)
        self._tail += len(data)
        self.rows += 1

    def flush(self) -> Unsynced:
        """Write the index entries; `synced` follows when all of it is on the disk.

        Raises:
            OSError: the disk is full or refuses.
        """
        waiting = Unsynced()
        if self.rows == self._first:
            return waiting
        open_now = [(self._file, self._index)] if self._file is not None else []
        first = self._first % SHARD
        for file, index in (*self._full, *open_now):
            file.seek(16 * first)
            write_all(file, index_bytes(index)[16 * first :])
            waiting.files.append(file.fileno())
            first = 0
        for path in self._fresh:
            waiting.folders |= set(path.parents[: self._dimensions + 1])
        return waiting

    def synced(self) -> None:
        """All that `flush` wrote is on the disk."""
        for file, _ in self._full:
            file.close()
        self._full, self._fresh = [], set()
        self._first = self.rows
        if self._file is not None and self.rows % SHARD == 0:
            self._file.close()
            self._file = None

    def rollback(self, rows: int) -> None:
        """Go back to the first `rows` rows, also after a `flush`, or one that failed half way.

        Raises:
            OSError: the disk refuses.
        """
        last, local = divmod(rows, SHARD)
        for shard in range(last if not local else last + 1, self.rows // SHARD + 1):
            if self.rows > rows or self._full:
                chunk_path(self._array, shard, self._dimensions).unlink(missing_ok=True)
        self.close()
        self.rows, self._fresh, self._first = rows, set(), rows
        if local:
            self._open(last)
            assert self._file is not None, "just opened"
            self._file.seek(16 * local)
            write_all(self._file, index_bytes(self._index)[16 * local :])
            self._file.truncate(self._tail)

    def close(self) -> None:
        for file, _ in self._full:
            file.close()
        if self._file is not None:
            self._file.close()
        self._full, self._file = [], None

    def _open(self, shard: int) -> None:
        path = chunk_path(self._array, shard, self._dimensions)
        if self.rows % SHARD:
            self._file = open(path, "r+b", buffering=0)  # noqa: SIM115 - closed by close
            self._index, _ = parse_index(self._file.read(INDEX))
            self._index[self.rows % SHARD :] = EMPTY
            kept = self._index[self._index[:, 0] != EMPTY]
            self._tail = max(INDEX, int((kept[:, 0] + kept[:, 1]).max(initial=0)))
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = open(path, "w+b", buffering=0)  # noqa: SIM115 - closed by close
        self._fresh.add(path)
        self._index = empty_index()
        write_all(self._file, index_bytes(self._index))
        self._tail = INDEX
