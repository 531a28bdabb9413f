"""A store behind a URL: what it says of itself is read at once, its rows as byte ranges when wanted."""

from __future__ import annotations

import os
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import fsspec  # type: ignore[import-untyped]
import numpy as np
import simplejpeg
from numpy.typing import NDArray

from ..ledger import DataError
from ..recording import Contents, StreamSpec
from ..store.images import decode_stored
from ..store.layout import SHARD, Head, arrays_of, chunk_path, chunk_rows, is_frames, read_head
from ..store.reader import Store
from ..store.shards import INDEX, inside, parse_index

_TRIES = 4
_FINAL = (ValueError, PermissionError, IsADirectoryError, NotADirectoryError)  # trying again is no use
_INDICES = 64  # shard indexes kept, 32 kB each
_MOST_HEAD, _MOST_IMAGE = 1 << 26, 1 << 28


class RemoteSet:
    """A store of regrip anywhere that fsspec reaches: ``s3://``, ``http://``, ``memory://``, a path.

    It may be sent to worker processes, which connect anew.

    Attributes:
        url: as given.
        store: the same set without its rows; only what it says of itself can be asked.
    """

    def __init__(self, url: str, **options: Any) -> None:
        """Read the set's description and its log of episodes.

        Args:
            url: of the set's folder.
            options: fsspec's own for this kind of URL.

        Raises:
            DataError: it cannot be reached, a package for it is missing, or it is no store.
        """
        self.url, self._options = url, options
        self._connect()
        with tempfile.TemporaryDirectory(prefix="regrip-remote-") as here:
            try:
                self._look(Path(os.path.realpath(here)))
            except DataError as error:  # about the copy: its place is no help
                file = error.file.replace(os.path.realpath(here), url)
                raise DataError(
                    error.what,
                    error.remedy,
                    file=file,
                    episode=error.episode,
                    frame=error.frame,
                    key=error.key,
                ) from error
        for problem in self.store.problems:
            if "zarr-python" in problem.remedy:
                raise DataError(
                    f"{problem.what}: it cannot be streamed",
                    "convert the set anew, or copy it here and read it slowly",
                    file=url,
                    key=problem.key,
                )
        self._indices: dict[tuple[str, int], NDArray[np.uint64]] = {}
        self._lock = threading.Lock()

    def _look(self, here: Path) -> None:
        """Copy what the set says of itself, and read that."""
        for name in ("zarr.json", "zarr.backup.json"):
            self._copy(name, here, most=_MOST_HEAD)
        head, _ = read_head(here)
        self._copy("episodes.jsonl", here)
        for key, spec in head.contents.streams.items():
            folder = head.folder(here, key).relative_to(here).as_posix()
            if key in head.columns:
                self._copy(f"{folder}/episodes.jsonl", here)
            for name in {*arrays_of(spec), "rows"}:
                self._copy(f"{folder}/{name}/zarr.json", here, most=_MOST_HEAD)
        self.store = Store(here)
        self._head: Head = head

    def __reduce__(self) -> Any:
        return _open, (self.url, self._options)

    def read(self, path: str, start: int, stop: int) -> bytes:
        """Bytes of one file of the set.

        Raises:
            DataError: it cannot be read, or has fewer bytes.
        """
        data = self._cat(path, start, stop)
        if len(data) != stop - start:
            raise DataError(
                f"{len(data)} bytes came for a range of {stop - start}",
                "the file is cut short, or the server does not serve ranges",
                file=f"{self.url}/{path}",
            )
        return data

    def vectors(self, key: str, name: str, spec: StreamSpec, first: int, last: int) -> NDArray[Any]:
        """Rows of one array of numbers: ``rows`` or ``time`` of a stream."""
        dtype = np.dtype(spec.dtype).newbyteorder("<")
        row = dtype.itemsize * int(np.prod(spec.shape, dtype=np.int64))
        size, parts = chunk_rows(spec), []
        for number in range(first // size, -(-last // size)) if row else ():
            begin = number * size
            low, high = max(first - begin, 0), min(last - begin, size)
            path = self._path(key, name, number, 1 + len(spec.shape))
            parts.append(self.read(path, low * row, high * row))
        flat = np.frombuffer(b"".join(parts), dtype)
        return flat.astype(spec.dtype, copy=False).reshape(last - first, *spec.shape)

    def images(self, key: str, first: int, last: int) -> list[bytes]:
        """Rows of a stream of images, as they are stored: one request for each shard that holds some."""
        spec = self.store.contents.streams[key]
        files: list[bytes] = []
        for shard in range(first // SHARD, -(-last // SHARD)):
            begin = shard * SHARD
            low, high = max(first - begin, 0), min(last - begin, SHARD)
            path = self._path(key, "rows", shard, 1 + len(spec.shape))
            entries = self._index(key, shard, path)[low:high].astype(np.int64)
            start, stop = int(entries[:, 0].min()), int((entries[:, 0] + entries[:, 1]).max())
            if stop - start > 2 * int(entries[:, 1].sum()) + (1 << 20):  # not one behind another
                files += [self.read(path, a, a + n) for a, n in entries.tolist()]
                continue
            data = self.read(path, start, stop)
            files += [data[a - start : a - start + n] for a, n in entries.tolist()]
        return files

    def bytes_per_row(self, key: str) -> float:
        """Of a stream as it is stored, judged by its first shard."""
        spec = self.store.contents.streams[key]
        count = int(self.store.bounds(key)[:, 1].max(initial=0))
        if not is_frames(spec) or not count:
            return float(np.prod(spec.shape, dtype=np.int64) * np.dtype(spec.dtype).itemsize)
        entries = self._index(key, 0, self._path(key, "rows", 0, 1 + len(spec.shape)))
        return float(entries[: min(count, SHARD), 1].astype(np.float64).mean())

    def _index(self, key: str, shard: int, path: str) -> NDArray[np.uint64]:
        """(SHARD,2) offsets and lengths.

        Raises:
            DataError: the index does not fit its crc or leads out of what a shard can be.
        """
        held = self._indices.get((key, shard))
        if held is not None:
            return held
        index, whole = parse_index(self.read(path, 0, INDEX))
        count = int(self.store.bounds(key)[:, 1].max()) - shard * SHARD
        mine = index[: max(0, min(count, SHARD))]
        good = inside(mine, 1 << 40) & (mine[:, 1] <= _MOST_IMAGE)
        if not whole or not good.all():
            raise DataError(
                "the index of a shard is damaged",
                "run `regrip data repair` where the set lies",
                file=f"{self.url}/{path}",
                frame=shard * SHARD + int(np.argmin(good)),
                key=key,
            )
        with self._lock:
            while len(self._indices) >= _INDICES:
                self._indices.pop(next(iter(self._indices)))
            self._indices[key, shard] = index
        return index

    def _path(self, key: str, name: str, number: int, dimensions: int) -> str:
        array = self._head.folder(Path(), key) / name
        return PurePosixPath(chunk_path(array, number, dimensions)).as_posix()

    def _connect(self) -> None:
        try:
            self._fs, self._root = fsspec.core.url_to_fs(self.url, **self._options)
        except ImportError as error:
            raise DataError(
                f"this kind of URL needs a package that is missing ({error})",
                "install what fsspec asks for: s3fs, gcsfs, aiohttp",
                file=self.url,
            ) from error
        except ValueError as error:
            raise DataError(f"it cannot be opened ({error})", "check the URL", file=self.url) from error

    def _copy(self, path: str, here: Path, most: int | None = None) -> None:
        """A small file into the mirror; none if there is none."""
        try:
            data = self._cat(path, None, most)
        except DataError as error:
            if isinstance(error.__cause__, FileNotFoundError):
                return
            raise
        target = here / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)

    def _cat(self, path: str, start: int | None, stop: int | None) -> bytes:
        where = f"{self._root.rstrip('/')}/{path}"
        for wait_s in (*(0.1 * 4**i for i in range(_TRIES - 1)), None):
            try:
                return bytes(self._fs.cat_file(where, start=start, end=stop))
            except FileNotFoundError as error:
                raise DataError(
                    "there is no such file", "check the URL", file=f"{self.url}/{path}"
                ) from error
            except _failures() as error:
                if wait_s is None or isinstance(error, _FINAL):
                    raise DataError(
                        f"it cannot be read ({error!r})",
                        "check the connection and the permissions",
                        file=f"{self.url}/{path}",
                    ) from error
                time.sleep(wait_s)
        raise AssertionError("the last try returns or raises")


def _open(url: str, options: dict[str, Any]) -> RemoteSet:
    return RemoteSet(url, **options)


def _failures() -> tuple[type[Exception], ...]:
    """What fsspec's file systems raise."""
    try:
        from aiohttp import ClientError  # type: ignore[import-not-found, unused-ignore]
    except ImportError:
        return (OSError, ValueError, TimeoutError)
    return (OSError, ValueError, TimeoutError, ClientError)


class FetchedRows:
    """`RowAccess` over some episodes of a remote set, fetched; images are held as they are stored."""

    def __init__(self, remote: RemoteSet, episodes: Sequence[int], keys: Sequence[str]) -> None:
        """Fetch them.

        Args:
            remote: the set.
            episodes: their numbers.
            keys: streams that will be asked for.

        Raises:
            DataError: something cannot be read.
        """
        whole = remote.store
        self.contents: Contents = whole.contents
        self._records = [whole.records[number] for number in episodes]
        self._keys = tuple(keys)
        self._bounds: dict[str, NDArray[np.int64]] = {}
        self._times: dict[str, NDArray[np.float64]] = {}
        self._data: dict[str, NDArray[Any]] = {}
        self._files: dict[str, list[bytes]] = {}
        self.num_bytes = 0
        self._where = remote.url
        for key in self._keys:
            spec = whole.contents.streams[key]
            bounds = whole.bounds(key)[list(episodes)]
            ends = np.cumsum(bounds[:, 1] - bounds[:, 0])
            self._bounds[key] = np.stack([np.r_[0, ends[:-1]], ends], 1).astype(np.int64)
            ranges: list[list[int]] = []
            for low, high in bounds.tolist():
                if ranges and ranges[-1][1] == low:
                    ranges[-1][1] = high
                elif high > low:
                    ranges.append([low, high])
            clock = arrays_of(spec)["time"]
            times = [remote.vectors(key, "time", clock, low, high) for low, high in ranges]
            self._times[key] = np.concatenate(times or [np.zeros(0)])
            self.num_bytes += self._times[key].nbytes
            if is_frames(spec):
                files = [one for low, high in ranges for one in remote.images(key, low, high)]
                self._files[key] = files
                self.num_bytes += sum(map(len, files))
            elif spec.kind == "vector":
                parts = [remote.vectors(key, "rows", spec, low, high) for low, high in ranges]
                self._data[key] = np.concatenate(parts or [np.zeros((0, *spec.shape), spec.dtype)])
                self.num_bytes += self._data[key].nbytes

    def __len__(self) -> int:
        return len(self._records)

    def tasks(self) -> Sequence[str]:
        return [record.task for record in self._records]

    def bounds(self, key: str) -> NDArray[np.int64]:
        return self._bounds[key]

    def vectors(self, key: str, rows: NDArray[np.int64]) -> NDArray[Any]:
        block: NDArray[Any] = self._data[key][rows]
        return block

    def times(self, key: str, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        return self._times[key][rows]

    def image(self, key: str, row: int) -> NDArray[Any]:
        spec = self.contents.streams[key]
        out = np.empty(spec.shape, spec.dtype)
        self.image_into(key, row, out)
        return out

    def image_into(self, key: str, row: int, out: NDArray[Any]) -> None:
        data = self._files[key][row]
        if out.dtype == np.uint8 and data[:1] == b"\xff":
            try:  # into a buffer of the declared size: a larger image cannot make it grow
                if simplejpeg.decode_jpeg(data, "RGB", buffer=out).shape == out.shape:
                    return
            except ValueError:
                pass  # said below, in words
        out[...] = decode_stored(data, out.shape, str(out.dtype), self._where)
