"""Writing diffusion_policy's ReplayBuffer: zarr 2 with images in a chunk each, numbers as they are.

A number's array is one chunk without compression, so its file grows row by row and is whole at any moment.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import re
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from ..contents_json import contents_to_json, dumps
from ..frames import codec_of, decode_image
from ..ledger import DataError, Ledger, Loss
from ..recording import Contents, Frames, Recording, StreamSpec, Track
from . import WriteOptions
from .partial import PLAN, begin, cannot, write_whole

SIDE_FILE = "regrip.json"
TIMESTAMP = "timestamp"
JOURNAL = "episodes.jsonl"
_BLOSC = {"id": "blosc", "cname": "zstd", "clevel": 5, "shuffle": 2, "blocksize": 0}
# no key that UMI's own copy of the codec does not know
_JPEGXL = {"id": "imagecodecs_jpegxl", "distance": 0, "lossless": True}


def plan(contents: Contents, options: WriteOptions) -> list[Loss]:
    """What a ReplayBuffer would lose: image files become pixels, unless they are JPEG-XL."""
    _require(options)
    return [
        Loss(key, "re-encoded", _detail(options, spec))
        for key, spec in contents.of_kind("image").items()
        if spec.about.get("codec") not in (None, "", "jxl")
    ]


def create(path: Path, contents: Contents, options: WriteOptions, ledger: Ledger) -> UmiSink:
    """Begin a ReplayBuffer, or go on with an unfinished one; a zip file if the path ends in ``.zip``.

    Raises:
        DataError: the path exists, or a stream cannot be held.
    """
    _require(options)
    return UmiSink(path, contents, options, ledger)


def _require(options: WriteOptions) -> None:
    if options.images not in ("copy", "jxl"):
        raise DataError(
            f"ReplayBuffers are not written with images as {options.images}",
            "choose copy (pixels in Blosc) or jxl (JPEG-XL, without loss)",
        )


def _detail(options: WriteOptions, spec: StreamSpec) -> str:
    return f"image files to {'JPEG-XL' if _is_jxl(options, spec) else 'pixels in Blosc'}, bit for bit"


def _is_jxl(options: WriteOptions, spec: StreamSpec) -> bool:
    return spec.kind == "image" and (options.images == "jxl" or spec.about.get("codec") == "jxl")


class UmiSink:
    """A ReplayBuffer being written, in the folder ``.<name>.partial``. See `recording.Sink`."""

    def __init__(self, path: Path, contents: Contents, options: WriteOptions, ledger: Ledger) -> None:
        self._path, self._contents, self._options, self._ledger = path, contents, options, ledger
        self._names = _array_names(contents)
        said = json.loads(dumps({"contents": contents_to_json(contents), "images": options.images}, "set"))
        self._said = said["contents"]
        self._part = begin(path, said)
        self._data = self._part / "store" / "data"
        self._torn = False
        try:
            self._data.mkdir(parents=True, exist_ok=True)
            self._episodes = self._recover()
            self.done = len(self._episodes)
        except OSError as error:
            raise cannot("be written", self._part, error) from error

    @property
    def _rows(self) -> int:
        return int(self._episodes[-1]["end"]) if self._episodes else 0

    def _recover(self) -> list[dict[str, Any]]:
        """What the journal says is whole; what a killed process left behind it is taken away."""
        journal = self._part / JOURNAL
        lines = journal.read_bytes().splitlines(keepends=True) if journal.exists() else []
        episodes = [json.loads(line) for line in lines if line.endswith(b"\n")]
        with journal.open("ab") as file:
            file.truncate(sum(len(line) for line in lines if line.endswith(b"\n")))
        rows = int(episodes[-1]["end"]) if episodes else 0
        for spec in self._contents.streams.values():
            if spec.kind == "text":
                continue
            folder = self._data / self._names[spec.key]
            folder.mkdir(exist_ok=True)
            if spec.kind == "vector":
                self._truncate(folder / _chunk_name(0, spec), rows * _row_bytes(spec))
            else:
                for chunk in folder.iterdir():
                    first = chunk.name.partition(".")[0]
                    if first.isdigit() and int(first) >= rows:
                        chunk.unlink()
        (self._data / TIMESTAMP).mkdir(exist_ok=True)
        self._truncate(self._data / TIMESTAMP / "0", rows * 8)
        return episodes

    def _truncate(self, path: Path, size: int) -> None:
        with path.open("ab") as file:
            if file.tell() < size:
                raise DataError(
                    f"it has {file.tell()} bytes, and the finished episodes need {size}",
                    "remove the unfinished set and begin again",
                    file=path,
                )
            file.truncate(size)

    def write(self, recording: Recording) -> None:
        self._check(recording)
        if self._torn:  # the last episode failed half way
            self._recover()
        self._torn = True
        steps = recording.num_steps
        time = next(iter(recording.streams.values())).time if recording.streams else np.zeros(0)
        texts = {}
        try:
            self._append(self._data / TIMESTAMP / "0", time.astype("<f8").tobytes())
            for key, spec in self._contents.streams.items():
                track = recording.streams.get(key)
                if spec.kind == "text":
                    if track is not None:
                        texts[key] = [[t, len(list(run))] for t, run in itertools.groupby(_texts(track))]
                elif track is None:
                    if spec.kind == "vector":
                        path = self._data / self._names[key] / _chunk_name(0, spec)
                        self._append(path, bytes(steps * _row_bytes(spec)))
                    detail = f"zeros where an episode lacks it; {SIDE_FILE} says where"
                    self._ledger.add(Loss(key, "padded", detail, rows=steps))
                elif spec.kind == "vector":
                    path = self._data / self._names[key] / _chunk_name(0, spec)
                    self._append(path, np.ascontiguousarray(track.rows).tobytes())
                else:
                    self._images(spec, track)
            line = {
                "end": self._rows + steps,
                "task": recording.task,
                "success": recording.success,
                "terminated": recording.terminated,
                "truncated": recording.truncated,
                "began_ns": recording.began_ns,
                "about": dict(recording.about),
                "lacks": [key for key in self._contents.streams if key not in recording.streams],
                "texts": texts,
            }
            line = json.loads(dumps(line, f"what is said of episode {self.done}"))
            self._append(self._part / JOURNAL, json.dumps(line).encode() + b"\n")
        except OSError as error:
            raise cannot("be written", self._part, error) from error
        self._episodes.append(line)
        self.done += 1
        self._torn = False

    def _append(self, path: Path, data: bytes) -> None:
        with path.open("ab") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())

    def _check(self, recording: Recording) -> None:
        def refuse(what: str, remedy: str, key: str = "") -> DataError:
            return DataError(what, remedy, episode=self.done, key=key)

        if not recording.streams or not recording.num_steps:
            raise refuse("the episode has no rows", "leave it out")
        if not recording.aligned:
            raise refuse(
                "its streams do not share one clock, and a ReplayBuffer has one row of all for each step",
                "resample first, to a rate or to one stream's times",
            )
        for key, track in recording.streams.items():
            spec = self._contents.streams.get(key)
            if spec is None:
                raise refuse("the set was planned without it", "write with the contents that were read", key)
            if spec.kind == "vector":
                rows = np.asarray(track.rows)
                if rows.shape[1:] != spec.shape or rows.dtype != np.dtype(spec.dtype):
                    raise refuse(
                        f"rows of {rows.dtype} {rows.shape[1:]}, expected {spec.dtype} {spec.shape}",
                        "write with the contents that were read",
                        key,
                    )

    def _images(self, spec: StreamSpec, track: Track) -> None:
        frames: Frames = track.rows  # type: ignore[assignment]
        folder, jxl = self._data / self._names[spec.key], _is_jxl(self._options, spec)
        changed = 0
        for index in range(len(track)):
            file = frames.encoded(index)
            if jxl and file is not None and codec_of(file) == "jxl":
                image, data = decode_image(file, where=spec.key, frame=index), file
            else:
                changed += file is not None
                image = frames[index]
                data = _encode_jxl(image) if jxl else _encode_blosc(image)
            if image.shape != spec.shape or str(image.dtype) != spec.dtype:
                raise DataError(
                    f"image of {image.dtype} {image.shape}, expected {spec.dtype} {spec.shape}",
                    "resize in the mapping, or drop the episode",
                    episode=self.done,
                    frame=index,
                    key=spec.key,
                )
            (folder / _chunk_name(self._rows + index, spec)).write_bytes(data)
        if changed:
            self._ledger.add(Loss(spec.key, "re-encoded", _detail(self._options, spec), rows=changed))

    def close(self) -> None:
        if not self._episodes:
            raise DataError("a ReplayBuffer without episodes cannot be read", "write one", file=self._path)
        try:
            self._recover()
            self._finish()
        except OSError as error:
            raise cannot("be finished", self._part, error) from error

    def _finish(self) -> None:
        store, rows = self._part / "store", self._rows
        group = json.dumps({"zarr_format": 2}).encode()
        (store / "meta" / "episode_ends").mkdir(parents=True, exist_ok=True)
        for folder in (store, store / "data", store / "meta"):
            write_whole(folder / ".zgroup", group)
        ends = np.array([one["end"] for one in self._episodes], dtype="<i8")
        write_whole(store / "meta" / "episode_ends" / "0", ends.tobytes())
        _describe(store / "meta" / "episode_ends", ends.shape, ends.shape, "<i8", None)
        _describe(self._data / TIMESTAMP, (rows,), (rows,), "<f8", None)
        for key, spec in self._contents.streams.items():
            if spec.kind == "text":
                continue
            first, codec = (rows, None) if spec.kind == "vector" else (1, _BLOSC)
            codec = _JPEGXL if _is_jxl(self._options, spec) else codec
            chunks = (first, *(max(1, size) for size in spec.shape))
            dtype = np.dtype(spec.dtype).newbyteorder("<").str
            _describe(self._data / self._names[key], (rows, *spec.shape), chunks, dtype, codec)
        said = {
            "contents": self._said,
            "arrays": self._names,
            "episodes": self._episodes,
            "losses": self._ledger.to_json(),
        }
        write_whole(store / SIDE_FILE, dumps(said, "set", indent=1))
        if self._path.suffix == ".zip":
            store = _zipped(store, self._part / "store.zip")
        if os.path.lexists(self._path):
            raise DataError("it appeared while the set was written", "choose another place", file=self._path)
        store.rename(self._path)
        (self._part / PLAN).unlink(missing_ok=True)
        shutil.rmtree(self._part)

    def abandon(self) -> None:
        """Nothing is held open between episodes."""


def _zipped(store: Path, path: Path) -> Path:
    """As zarr's ZipStore has it: no compression, for the chunks have theirs."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as file:
        for one in sorted(store.rglob("*")):
            if one.is_file():
                file.write(one, one.relative_to(store).as_posix())
    return path


def _describe(
    folder: Path, shape: tuple[int, ...], chunks: tuple[int, ...], dtype: str, codec: dict[str, Any] | None
) -> None:
    said = {
        "zarr_format": 2,
        "shape": shape,
        "chunks": chunks,
        "dtype": dtype,
        "compressor": codec,
        "filters": None,
        "fill_value": 0,
        "order": "C",
    }
    write_whole(folder / ".zarray", json.dumps(said, indent=4).encode())


def _row_bytes(spec: StreamSpec) -> int:
    return math.prod(spec.shape) * np.dtype(spec.dtype).itemsize


def _chunk_name(row: int, spec: StreamSpec) -> str:
    return ".".join(map(str, (row, *[0] * len(spec.shape))))


def _texts(track: Track) -> list[str]:
    return [str(text) for text in track.rows]


def _encode_blosc(image: Any) -> bytes:
    from numcodecs import Blosc

    codec = Blosc(cname="zstd", clevel=5, shuffle=Blosc.BITSHUFFLE)
    return bytes(codec.encode(np.ascontiguousarray(image)))


def _encode_jxl(image: Any) -> bytes:
    try:
        from imagecodecs import jpegxl_encode
    except ImportError as error:
        raise DataError(
            "JPEG-XL images need the package imagecodecs", "install it: pip install 'regrip[jxl]'"
        ) from error
    # `level` would choose both loss and speed, and means something else in every version
    return bytes(jpegxl_encode(np.ascontiguousarray(image), lossless=True, distance=0, effort=3))


def _array_names(contents: Contents) -> dict[str, str]:
    """The array of each stream, by diffusion_policy's and UMI's names."""
    names: dict[str, str] = {}
    for key, spec in contents.streams.items():
        name = key
        if spec.kind == "text":
            continue
        if spec.kind == "image" and key.startswith("observation.images."):
            name = key.removeprefix("observation.images.")
        elif spec.kind == "depth" and key.startswith("observation.depth."):
            name = key.removeprefix("observation.depth.")
            name = name if "depth" in name else f"{name}_depth"
        elif key == "observation.state":
            name = "state"
        name = re.sub(r"[^A-Za-z0-9_.-]", "_", name).strip(".") or "_"
        folded = {other.lower() for other in names.values()} | {TIMESTAMP}
        unique, count = name, 2
        while unique.lower() in folded:  # some file systems do not tell A from a
            unique, count = f"{name}_{count}", count + 1
        names[key] = unique
    return names
