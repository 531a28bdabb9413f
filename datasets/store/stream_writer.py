"""Writing one stream of a store: its rows, its times, its content hash, its zarr metadata."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..formats import WriteOptions
from ..frames import codec_of
from ..ledger import DataError, Ledger
from ..recording import Frames, StreamSpec, Track
from .array_metadata import ArrayMetadata, End, count_of
from .files import Unsynced
from .hashes import hash_piece, new_hash
from .image_encoding import Losses, enter_losses, image_to_store, note_loss
from .layout import arrays_of, is_frames
from .log import Span
from .shards import ShardWriter
from .vector_files import VectorReader, VectorWriter

_BUFFER = 1 << 20


class StreamWriter:
    """One stream of a set that is open for writing.

    Attributes:
        used: whether the open episode has rows of it.
    """

    def __init__(
        self, folder: Path, spec: StreamSpec, end: End, options: WriteOptions, ledger: Ledger | None
    ) -> None:
        """Go on after what is committed; makes the arrays where there are none.

        Raises:
            DataError: the texts that it holds are damaged.
            OSError: the disk refuses.
        """
        self._folder, self._spec, self._end, self._options, self._ledger = folder, spec, end, options, ledger
        self._metadata = ArrayMetadata(folder, spec, options)
        self._metadata.ensure(end)
        self._vectors = {
            name: VectorWriter(folder / name, array, count_of(name, end))
            for name, array in arrays_of(spec).items()
        }
        self._shards = ShardWriter(folder / "rows", spec, end.rows) if is_frames(spec) else None
        self._texts = self._known_texts() if spec.kind == "text" else {}
        self._reset()

    @property
    def used(self) -> bool:
        return self._used

    def add(self, row: Any, time: float) -> None:
        """Add one row.

        Raises:
            DataError: it does not fit.
            OSError: the disk refuses.
        """
        try:
            times = np.asarray([float(time)])
        except (TypeError, ValueError) as error:
            raise self._error(f"the time {time!r} is no number", "give seconds since the start") from error
        self._take_times(times)
        if self._shards is not None:
            if isinstance(row, bytes | bytearray | memoryview):
                self._image(bytes(row), None)
            else:
                self._image(None, row)
        elif self._spec.kind == "text":
            self._text_rows([row])
        else:
            self._vector_rows(self._as_row(row)[None])

    def track(self, track: Track) -> None:
        """Add all rows of an episode.

        Raises:
            DataError: they do not fit.
            OSError: the disk refuses.
        """
        self._take_times(np.asarray(track.time, np.float64))
        rows: Any = track.rows
        if self._shards is not None:
            self._frames(rows)
        elif self._spec.kind == "text":
            self._text_rows(list(rows))
        else:
            array = np.asarray(rows)
            if array.dtype != self._spec.dtype or array.shape[1:] != self._spec.shape:
                raise self._error(
                    f"rows are {array.dtype} {array.shape[1:]}, the set declares "
                    f"{self._spec.dtype} {self._spec.shape}",
                    "cast or reshape them in the mapping",
                    frame=None,
                )
            self._vector_rows(array)

    def span(self) -> Span:
        """Write what is held back, and say which rows the open episode has."""
        self._flush()
        times = np.concatenate([*self._times, np.empty(0)]).astype("<f8")
        self._vectors["time"].append(times.tobytes(), len(times))
        self._hash.update(times.tobytes())
        strings = (0, 0)
        if self._spec.kind == "text":
            strings = (self._vectors["ends"].rows, self._vectors["strings"].rows)
        return Span(self._end.rows, self._end.rows + self._count, self._hash.hexdigest(), strings)

    def flush(self) -> Unsynced:
        """What must be on the disk before the episode's line is written.

        Raises:
            OSError: the disk refuses.
        """
        waiting = Unsynced()
        for files in self._writers():
            waiting.add(files.flush())
        return waiting

    def finished(self) -> None:
        """The episode's line is written: its rows are part of the set."""
        if not self._used:
            return
        strings = (0, 0)
        if self._spec.kind == "text":
            strings = (self._vectors["ends"].rows, self._vectors["strings"].rows)
        self._end = End(self._end.rows + self._count, strings)
        for files in self._writers():
            files.synced()
        if self._ledger is not None:
            enter_losses(self._ledger, self._spec.key, self._losses)
        self._reset()

    def rollback(self) -> None:
        """Forget the rows of the open episode.

        Raises:
            OSError: the disk refuses.
        """
        if self._spec.kind == "text":
            kept = self._end.strings[0]
            self._texts = {text: number for text, number in self._texts.items() if number < kept}
        self._reset()
        if self._shards is not None:
            self._shards.rollback(self._end.rows)
        for name, vector in self._vectors.items():
            vector.rollback(count_of(name, self._end))

    def write_shapes(self) -> list[Path]:
        """Tell zarr how many rows there are; gives the files that say so.

        Raises:
            OSError: the disk refuses.
        """
        return self._metadata.write(self._end)

    def close(self) -> None:
        for files in self._writers():
            files.close()

    def _writers(self) -> list[ShardWriter | VectorWriter]:
        return [*([self._shards] if self._shards is not None else []), *self._vectors.values()]

    def _reset(self) -> None:
        self._used, self._count = False, 0
        self._last = -math.inf
        self._times: list[NDArray[np.float64]] = []
        self._held: list[bytes] = []
        self._held_rows = self._held_bytes = 0
        self._hash = new_hash()
        self._losses: Losses = {}

    def _take_times(self, times: NDArray[np.float64]) -> None:
        self._used = True
        if times.ndim != 1 or not np.isfinite(times).all():
            raise self._error("a time is not finite", "give seconds since the recording began")
        before = np.concatenate([[self._last], times[:-1]]) if len(times) else times
        falls = np.flatnonzero(times < before)
        if len(falls):
            at = int(falls[0])
            raise self._error(
                f"time falls from {before[at]} to {times[at]} s",
                "sort the rows by time, or split the episode where the clock was set",
                frame=self._count + at,
            )
        if len(times):
            self._last = float(times[-1])
            self._times.append(times)

    def _as_row(self, row: Any) -> NDArray[Any]:
        spec = self._spec
        typed = isinstance(row, np.ndarray | np.generic)
        try:
            array = np.asarray(row) if typed else np.asarray(row, dtype=spec.dtype)
        except (TypeError, ValueError, OverflowError) as error:
            raise self._error(f"a row is no {spec.dtype} ({error})", "give its numbers") from error
        if array.dtype != spec.dtype or array.shape != spec.shape:
            raise self._error(
                f"a row is {array.dtype} {array.shape}, the set declares {spec.dtype} {spec.shape}",
                "cast or reshape it before it is added",
            )
        return array

    def _vector_rows(self, array: NDArray[Any]) -> None:
        raw = array.astype(array.dtype.newbyteorder("<"), order="C", copy=False).tobytes()
        self._hash.update(raw)
        self._held.append(raw)
        self._held_rows += len(array)
        self._held_bytes += len(raw)
        self._count += len(array)
        if self._held_bytes > _BUFFER:
            self._flush()

    def _flush(self) -> None:
        if self._held_rows:
            self._vectors["rows"].append(b"".join(self._held), self._held_rows)
        self._held, self._held_rows, self._held_bytes = [], 0, 0

    def _text_rows(self, texts: list[Any]) -> None:
        codes = []
        for text in texts:
            if not isinstance(text, str):
                raise self._error(f"{text!r} is no text", "give a str")
            raw = text.encode("utf-8", "surrogatepass")
            hash_piece(self._hash, raw)
            if text not in self._texts:
                self._vectors["strings"].append(raw, len(raw))
                self._vectors["ends"].append(np.array([self._vectors["strings"].rows], "<i8").tobytes(), 1)
                self._texts[text] = len(self._texts)
            codes.append(self._texts[text])
        self._held.append(np.array(codes, "<i4").tobytes())
        self._held_rows += len(codes)
        self._count += len(codes)

    def _known_texts(self) -> dict[str, int]:
        from .texts import read_texts

        arrays, end = arrays_of(self._spec), self._end
        root = self._folder.parent.parent
        readers = {
            name: VectorReader(root.resolve(), self._folder / name, arrays[name], count_of(name, end))
            for name in ("strings", "ends")
        }
        known = read_texts(readers["strings"], readers["ends"], range(end.strings[0]), self._spec.key)
        for reader in readers.values():
            reader.close()
        return {text: number for number, text in known.items()}

    def _frames(self, frames: Frames) -> None:
        if len(frames) and frames.encoded(0) is not None:
            for index in range(len(frames)):
                data = frames.encoded(index)
                self._image(data, None if data is not None else frames[index])
        else:
            for index, image in enumerate(frames):
                self._image(frames.encoded(index), image)

    def _image(self, data: bytes | None, pixels: Any) -> None:
        """Write one image: its file as it is, or its pixels encoded, as the options say."""
        assert self._shards is not None, "a stream of images"
        try:
            stored, loss = image_to_store(self._spec, self._options, data, pixels)
        except DataError as error:
            raise self._error(error.what, error.remedy) from error
        if codec_of(stored):
            self._metadata.keep_files(self._end)
        if loss and self._ledger is not None:
            note_loss(self._losses, loss, data, pixels, stored)
        hash_piece(self._hash, stored)
        self._shards.append(stored)
        self._count += 1

    def _error(self, what: str, remedy: str, frame: int | None = -1) -> DataError:
        return DataError(what, remedy, frame=self._count if frame == -1 else frame, key=self._spec.key)
