"""Writing one stream of a store: its rows, its times, its content hash, its zarr metadata."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .contents_json import contents_to_json, dumps
from .formats import WriteOptions
from .frames import SMALL_PX, codec_of, decode_image, encode_jpeg, psnr
from .ledger import DataError, Ledger, Loss
from .recording import Contents, Frames, StreamSpec, Track
from .shards import ShardWriter
from .store_files import Unsynced, read_json, replace
from .store_hash import hash_piece, new_hash
from .store_layout import (
    CODEC,
    arrays_of,
    frames_json,
    is_frames,
    keeps_files,
    vector_json,
)
from .store_log import Span
from .stored_images import check_file, encode_stored
from .vector_files import VectorReader, VectorWriter

_BUFFER = 1 << 20
Losses = dict[str, tuple[int, float]]  # in words: rows, and the PSNR of the first


@dataclass(frozen=True)
class End:
    """How far a stream is committed: rows, and of a text stream distinct texts and their bytes."""

    rows: int = 0
    strings: tuple[int, int] = (0, 0)

    def after(self, span: Span) -> End:
        """The further of both."""
        count, size = self.strings
        return End(max(self.rows, span.last), (max(count, span.strings[0]), max(size, span.strings[1])))


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
        return bool(self._count)

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
        times = np.concatenate(self._times).astype("<f8")
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
        if not self._count:
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
        self._count = 0
        self._last = -math.inf
        self._times: list[NDArray[np.float64]] = []
        self._held: list[bytes] = []
        self._held_rows = self._held_bytes = 0
        self._hash = new_hash()
        self._losses: Losses = {}

    def _take_times(self, times: NDArray[np.float64]) -> None:
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
        from .store_texts import read_texts

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


def count_of(name: str, end: End) -> int:
    """Entries of one array of a stream that is committed so far."""
    return {"ends": end.strings[0], "strings": end.strings[1]}.get(name, end.rows)


def image_to_store(
    spec: StreamSpec, options: WriteOptions, data: bytes | None, pixels: Any
) -> tuple[bytes, str]:
    """What a store keeps of an image that is given as a file or as pixels.

    A file stays as it is, unless the options want another codec. Depth is never re-encoded.

    Returns:
        The bytes, and what is lost by that in words, or ``""``.

    Raises:
        DataError: it is not what the stream declares.
    """
    codec = ""
    if data is not None:
        check_file(data, spec.shape, spec.dtype)
        codec = codec_of(data)
        if options.images in ("copy", codec) or spec.kind == "depth":
            return data, ""
        pixels = decode_image(data)
    image = np.asarray(pixels)
    if image.dtype != spec.dtype or image.shape != spec.shape:
        raise DataError(
            f"an image is {image.dtype} {image.shape}, the set declares {spec.dtype} {spec.shape}",
            "resize it in the mapping, or give this camera a stream of its own",
        )
    if spec.kind == "depth":
        return encode_stored(image, "zstd", 0), ""
    if options.images == "png":
        return encode_stored(image, "png", 0), f"{codec} to PNG, which keeps every pixel" if codec else ""
    sampling = "4:4:4" if min(spec.shape[:2]) < SMALL_PX else "4:2:0"
    origin = codec or "raw pixels or video"
    return encode_jpeg(image, options.quality), f"{origin} to JPEG {sampling} of quality {options.quality}"


def note_loss(losses: Losses, detail: str, data: bytes | None, pixels: Any, stored: bytes) -> None:
    """Count an image that was re-encoded; the first of an episode is compared with what became of it."""
    rows, worst = losses.get(detail, (0, math.inf))
    if not rows:
        before = decode_image(data) if data is not None else np.asarray(pixels)
        worst = psnr(before, decode_image(stored))
    losses[detail] = (rows + 1, worst)


def enter_losses(ledger: Ledger, key: str, losses: Losses) -> None:
    """The losses of one episode's stream."""
    for detail, (rows, worst) in losses.items():
        measure = {} if math.isinf(worst) else {"psnr_db": round(worst, 2)}
        ledger.add(Loss(key, "re-encoded", detail, 1, rows, measure))


class ArrayMetadata:
    """The ``zarr.json`` files of one stream's folder."""

    def __init__(self, folder: Path, spec: StreamSpec, options: WriteOptions) -> None:
        self._folder, self._spec, self._options = folder, spec, options
        self._files = keeps_files(spec)
        self._written: dict[str, int] = {}

    def ensure(self, end: End) -> None:
        """Make what is missing or unreadable, and set the shapes.

        Args:
            end: how far the stream is committed.

        Raises:
            OSError: the disk refuses.
        """
        root = self._folder.parent.parent.resolve()
        for name in self.all(end):
            path = self._folder / name / "zarr.json"
            try:
                found = read_json(root, path)
            except FileNotFoundError:
                path.parent.mkdir(parents=True, exist_ok=True)
                continue
            except DataError:
                self._files = True  # reads what either codec wrote
                continue
            if self._is_frames(name):
                self._files = found["codecs"][0]["configuration"]["codecs"][0]["name"] == CODEC
            self._written[name] = found["shape"][0]
        for folder, attributes in (
            (self._folder.parent, {}),
            (self._folder, {"regrip": contents_to_json(Contents({"": self._spec}))["streams"][0]}),
        ):
            group = dumps(
                {"zarr_format": 3, "node_type": "group", "attributes": attributes}, "a stream", indent=1
            )
            if not (folder / "zarr.json").is_file() or (folder / "zarr.json").read_bytes() != group:
                replace(folder / "zarr.json", group, durable=False)
        self.write(end)

    def keep_files(self, end: End) -> None:
        """From now on the array holds image files; depth so far in zstd alone is read by the same codec."""
        if not self._files:
            self._files = True
            self._written.pop("rows", None)
            self.write(end)

    def write(self, end: End) -> list[Path]:
        """Set the shapes that are not right, without waiting for the disk: the log is what counts.

        Returns:
            The metadata's files.

        Raises:
            OSError: the disk refuses.
        """
        paths = []
        for name, metadata in self.all(end).items():
            path, rows = self._folder / name / "zarr.json", metadata["shape"][0]
            if self._written.get(name) != rows:
                replace(path, dumps(metadata, "an array", indent=1), durable=False)
                self._written[name] = rows
            paths.append(path)
        return paths

    def _is_frames(self, name: str) -> bool:
        return name == "rows" and is_frames(self._spec)

    def all(self, end: End) -> dict[str, dict[str, Any]]:
        """What each array's metadata should say."""
        found = {name: vector_json(one, count_of(name, end)) for name, one in arrays_of(self._spec).items()}
        if is_frames(self._spec):
            codec = (
                "zstd" if self._spec.kind == "depth" else "png" if self._options.images == "png" else "jpeg"
            )
            found["rows"] = frames_json(
                self._spec, end.rows, files=self._files, codec=codec, quality=self._options.quality
            )
        return found
