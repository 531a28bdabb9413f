"""Writing rosbag2: one folder with `metadata.yaml` and an MCAP file for each episode.

The file is made by the `mcap` package, whose chunks carry checksums (`rosbags` writes none), the messages in
it by `rosbags`, which takes an image as an array.
"""

from __future__ import annotations

import dataclasses
import heapq
import json
import math
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from mcap.writer import CompressionType, Writer
from numpy.typing import NDArray

from ..contents_json import contents_to_json, dumps
from ..frames import codec_of, decode_image, encode_jpeg, encode_png, psnr
from ..ledger import DataError, Ledger, Loss
from ..recording import Contents, Frames, Recording, StreamSpec, Track
from ..views.resampling import to_ns
from . import WriteOptions
from .bag_columns import RECORD, topic_key
from .bag_messages import typestore
from .bags import SIDE_FILE
from .partial import PLAN, begin, cannot, finish, sync, write_whole

# version 5 is the newest that Humble reads; later distributions read it too
METADATA_VERSION = 5
CHUNK_BYTES = 1 << 20  # a recording that is cut off loses at most this much
_ARRAYS = {
    "float16": "Float32",
    "float32": "Float32",
    "float64": "Float64",
    "bool": "UInt8",
    **{f"{sign}int{bits}": f"{sign.upper()}Int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)},
}


@dataclass(frozen=True)
class _Line:
    """How one stream is written: its topic, type, and the column that the reader will find it in."""

    spec: StreamSpec
    topic: str
    type: str
    column: str


def plan(contents: Contents, options: WriteOptions) -> list[Loss]:
    """What a bag would lose: image files and pixels are kept as they are unless encoding is asked for."""
    losses = []
    _require(options)
    if options.images == "jpeg":
        losses += [
            Loss(key, "re-encoded", f"to JPEG of quality {options.quality}")
            for key in contents.of_kind("image")
        ]
    _lines(contents)
    return losses


def create(path: Path, contents: Contents, options: WriteOptions, ledger: Ledger) -> Rosbag2Sink:
    """Begin a set of bags, or go on with an unfinished one.

    Raises:
        DataError: the path exists, or a stream has a type that no message holds.
    """
    _require(options)
    return Rosbag2Sink(path, contents, options, ledger)


def _require(options: WriteOptions) -> None:
    if options.images not in ("copy", "jpeg", "png"):
        raise DataError(
            f"bags are not written with images as {options.images}", "choose copy, jpeg or png for the images"
        )


class Rosbag2Sink:
    """Bags being written, in the folder ``.<name>.partial``. See `recording.Sink`."""

    def __init__(self, path: Path, contents: Contents, options: WriteOptions, ledger: Ledger) -> None:
        self._path, self._contents, self._options, self._ledger = path, contents, options, ledger
        self._lines = _lines(contents)
        said = contents_to_json(contents)
        text = json.loads(
            dumps({"contents": said, "images": options.images, "quality": options.quality}, "set")
        )
        self._said = text["contents"]
        self._part = begin(path, text)
        self.done = 0
        self._rows: list[dict[str, int]] = []
        while (self._part / _name(self.done)).is_dir():
            rows = json.loads((self._part / f"{_name(self.done)}.json").read_text("utf-8"))
            self._rows.append(rows)
            self.done += 1

    def write(self, recording: Recording) -> None:
        unfinished = self._part / "unfinished"
        name = _name(self.done)
        try:
            shutil.rmtree(unfinished, ignore_errors=True)
            unfinished.mkdir()
            self._write(recording, unfinished, name)
            rows = {key: len(track) for key, track in recording.streams.items()}
            write_whole(self._part / f"{name}.json", json.dumps(rows).encode())
            unfinished.rename(self._part / name)
        except OSError as error:
            raise cannot("be written", unfinished, error) from error
        self._rows.append(rows)
        self.done += 1

    def _write(self, recording: Recording, folder: Path, name: str) -> None:
        unknown = [key for key in recording.streams if key not in self._lines]
        if unknown:
            raise DataError(
                f"the set was planned without the streams {', '.join(unknown)}",
                "write all recordings with the contents they were read with",
                episode=self.done,
            )
        base = self._base(recording)
        path = folder / f"{name}.mcap"
        counts: dict[str, int] = {}
        first, last = 1 << 62, 0
        with path.open("wb") as file:
            writer = Writer(file, chunk_size=CHUNK_BYTES, compression=CompressionType.ZSTD)
            writer.start(profile="ros2", library="regrip")
            writer.add_metadata(RECORD, {"json": self._record(recording, base)})
            schemas: dict[str, int] = {}
            channels: dict[str, int] = {}
            lines: dict[str, _Line] = {}
            tracks = []
            for order, (key, track) in enumerate(recording.streams.items()):
                line = self._line(key, track)
                lines[key] = line
                if line.type not in schemas:
                    text, _ = typestore("cdr").generate_msgdef(line.type, ros_version=2)
                    schemas[line.type] = writer.register_schema(line.type, "ros2msg", text.encode())
                channels[key] = writer.register_channel(
                    line.topic, "cdr", schemas[line.type], {"offered_qos_profiles": ""}
                )
                counts[key] = 0
                tracks.append(self._messages(order, line, track, base))
            for number, (ns, _, key, data) in enumerate(heapq.merge(*tracks)):
                writer.add_message(channels[key], log_time=ns, data=data, publish_time=ns, sequence=number)
                counts[key] += 1
                first, last = min(first, ns), max(last, ns)
            writer.finish()  # type: ignore[no-untyped-call]
        sync(path)
        text = _metadata(path.name, [(lines[key], n) for key, n in counts.items()], first, last)
        write_whole(folder / "metadata.yaml", text.encode())

    def _line(self, key: str, track: Track) -> _Line:
        """A topic has one type: that of its first image decides between files and pixels."""
        line = self._lines[key]
        if line.spec.kind not in ("image", "depth") or not len(track):
            return line
        frames: Frames = track.rows  # type: ignore[assignment]
        encode = self._options.images != "copy" and line.spec.kind == "image"
        if encode or (self._options.images == "copy" and frames.encoded(0) is not None):
            return dataclasses.replace(line, type="sensor_msgs/msg/CompressedImage")
        return line

    def _base(self, recording: Recording) -> int:
        """The stamp of time 0: when the recording began, or 0 where nobody knows."""
        lowest = 0
        for key, track in recording.streams.items():
            if not len(track):
                continue
            if not np.isfinite(track.time).all() or np.abs(track.time).max() > 4e9:
                raise DataError(
                    "a time is not finite, or beyond 126 years",
                    "repair the times",
                    episode=self.done,
                    key=key,
                )
            ns = to_ns(track.time)
            lowest = min(lowest, int(ns.min()))
            if (np.diff(ns) < 0).any():
                raise DataError("its times fall", "sort the rows by time", episode=self.done, key=key)
            if not np.array_equal(ns / 1e9, track.time):
                self._ledger.add(Loss(key, "time", "rounded to whole nanoseconds", rows=len(track)))
        base = max(recording.began_ns or 0, -lowest)
        if base + int(4e18) > 1 << 63:
            raise DataError(f"it began at {base} ns", "give nanoseconds since 1970", episode=self.done)
        return base

    def _record(self, recording: Recording, base: int) -> str:
        said = {
            "contents": self._said,
            "columns": {key: self._lines[key].column for key in recording.streams},
            "base_ns": base,
            "episode": {
                "task": recording.task,
                "success": recording.success,
                "terminated": recording.terminated,
                "truncated": recording.truncated,
                "began_ns": recording.began_ns,
                "about": dict(recording.about),
            },
        }
        return dumps(said, f"what is said of episode {self.done}").decode()

    def _messages(
        self, order: int, line: _Line, track: Track, base: int
    ) -> Iterator[tuple[int, int, str, bytes]]:
        store, key = typestore("cdr"), line.spec.key
        make = self._maker(line, track)
        for index, ns in enumerate((to_ns(track.time) + base).tolist()):
            stamp = store.types["builtin_interfaces/msg/Time"](sec=ns // 10**9, nanosec=ns % 10**9)
            frame = str(line.spec.about.get("frame_id", ""))
            message = make(index, store.types["std_msgs/msg/Header"](stamp=stamp, frame_id=frame))
            yield ns, order, key, bytes(store.serialize_cdr(message[1], message[0]))

    def _maker(self, line: _Line, track: Track) -> Callable[[int, Any], tuple[str, Any]]:
        types, spec = typestore("cdr").types, line.spec
        if spec.kind in ("image", "depth"):
            frames: Frames = track.rows  # type: ignore[assignment]
            return lambda index, header: self._image(line, frames, index, header)
        if spec.kind == "text":
            texts = track.rows
            return lambda index, header: (line.type, types[line.type](data=str(texts[index])))
        rows = np.asarray(track.rows)
        if rows.shape[1:] != spec.shape or str(rows.dtype) != spec.dtype:
            raise DataError(
                f"rows are {rows.dtype} {rows.shape[1:]}, expected {spec.dtype} {spec.shape}",
                "write recordings with the contents they were read with",
                episode=self.done,
                key=spec.key,
            )
        if line.type == "sensor_msgs/msg/JointState":
            none, names = np.zeros(0), list(spec.names)
            return lambda index, header: (
                line.type,
                types[line.type](
                    header=header,
                    name=names,
                    position=rows[index].astype(np.float64),
                    velocity=none,
                    effort=none,
                ),
            )
        dims = _dims(types, spec.shape)
        layout = types["std_msgs/msg/MultiArrayLayout"](dim=dims, data_offset=0)
        dtype = line.type.removeprefix("std_msgs/msg/").removesuffix("MultiArray").lower()
        flat = rows.reshape(len(rows), math.prod(spec.shape))
        return lambda index, header: (
            line.type,
            types[line.type](layout=layout, data=flat[index].astype(dtype)),
        )

    def _image(self, line: _Line, frames: Frames, index: int, header: Any) -> tuple[str, Any]:
        types, spec = typestore("cdr").types, line.spec
        if line.type == "sensor_msgs/msg/CompressedImage":
            data = self._file(spec, frames, index)
            return line.type, types[line.type](header=header, format=_format(spec, data), data=_bytes(data))
        image = self._pixels(spec, frames, index)
        if frames.encoded(index) is not None:
            self._ledger.add(Loss(spec.key, "re-encoded", "image files to pixels", int(index == 0), 1))
        encoding = {"uint8": "rgb8", "uint16": "16UC1", "float32": "32FC1"}[spec.dtype]
        pixels = np.ascontiguousarray(image)
        return line.type, types[line.type](
            header=header,
            height=image.shape[0],
            width=image.shape[1],
            encoding=encoding,
            is_bigendian=0,
            step=pixels.strides[0],
            data=pixels.view(np.uint8).reshape(-1),
        )

    def _file(self, spec: StreamSpec, frames: Frames, index: int) -> bytes:
        """The image file of a frame: the source's own, or one that is made now."""
        copied = frames.encoded(index) if self._options.images == "copy" else None
        if copied is not None:
            return copied
        image = self._pixels(spec, frames, index)
        if self._options.images != "jpeg":
            return encode_png(image)
        data = encode_jpeg(image, self._options.quality)
        measure = {"psnr_db": psnr(image, decode_image(data))} if index % 50 == 0 else {}
        detail = f"to JPEG of quality {self._options.quality}"
        self._ledger.add(Loss(spec.key, "re-encoded", detail, int(index == 0), 1, measure))
        return data

    def _pixels(self, spec: StreamSpec, frames: Frames, index: int) -> NDArray[Any]:
        image = frames[index]
        if image.shape != spec.shape or str(image.dtype) != spec.dtype:
            raise DataError(
                f"image of {image.dtype} {image.shape}, expected {spec.dtype} {spec.shape}",
                "resize in the mapping, or drop the episode",
                episode=self.done,
                frame=index,
                key=spec.key,
            )
        return image

    def close(self) -> None:
        try:
            for index in range(self.done):
                (self._part / f"{_name(index)}.json").unlink(missing_ok=True)
            shutil.rmtree(self._part / "unfinished", ignore_errors=True)
            said = dumps(
                {"contents": self._said, "rows": self._rows, "losses": self._ledger.to_json()},
                "set",
                indent=1,
            )
            write_whole(self._part / SIDE_FILE, said)
            (self._part / PLAN).unlink(missing_ok=True)
            finish(self._part, self._path)
        except OSError as error:
            raise cannot("be finished", self._part, error) from error

    def abandon(self) -> None:
        """Nothing is held open between episodes."""


def _name(episode: int) -> str:
    return f"episode_{episode:06d}"


def _lines(contents: Contents) -> dict[str, _Line]:
    """A topic for each stream. Each must be read back under a column of its own."""
    lines: dict[str, _Line] = {}
    used: set[str] = set()
    for key, spec in contents.streams.items():
        kind, suffix = _type(spec), ""
        if kind == "sensor_msgs/msg/JointState":
            suffix = ".position"
        parts = [re.sub(r"[^A-Za-z0-9_]", "_", part) or "_" for part in key.split(".")]
        base = "/" + "/".join(f"_{part}" if part[0].isdigit() else part for part in parts)
        topic, count = base, 2
        while topic_key(topic) + suffix in used:
            topic, count = f"{base}_{count}", count + 1
        used.add(topic_key(topic) + suffix)
        lines[key] = _Line(spec, topic, kind, topic_key(topic) + suffix)
    return lines


def _type(spec: StreamSpec) -> str:
    if spec.kind in ("image", "depth"):
        return "sensor_msgs/msg/Image"
    if spec.kind == "text":
        return "std_msgs/msg/String"
    if spec.dtype not in _ARRAYS:
        raise DataError(
            f"no message holds numbers of type {spec.dtype}",
            f"cast them in the mapping to one of {', '.join(_ARRAYS)}",
            key=spec.key,
        )
    named = spec.shape == (len(spec.names),) and len(set(spec.names)) == len(spec.names) > 0
    if named and spec.dtype in ("float32", "float64"):
        return "sensor_msgs/msg/JointState"  # the one message with names, numbers and a stamp
    return f"std_msgs/msg/{_ARRAYS[spec.dtype]}MultiArray"


def _dims(types: Any, shape: tuple[int, ...]) -> list[Any]:
    make = types["std_msgs/msg/MultiArrayDimension"]
    return [make(label="", size=size, stride=math.prod(shape[index:])) for index, size in enumerate(shape)]


def _format(spec: StreamSpec, data: bytes) -> str:
    codec = codec_of(data)
    if spec.kind == "depth":
        return f"{'16UC1' if spec.dtype == 'uint16' else '32FC1'}; {codec} compressed "
    return codec


def _bytes(data: bytes) -> NDArray[np.uint8]:
    return np.frombuffer(data, np.uint8)


def _metadata(file: str, lines: list[tuple[_Line, int]], first: int, last: int) -> str:
    """`metadata.yaml` as rosbag2 writes it."""
    count = sum(n for _, n in lines)
    began = {"nanoseconds_since_epoch": first if count else 0}
    lasted = {"nanoseconds": last - first if count else 0}
    topics = [
        {
            "topic_metadata": {
                "name": line.topic,
                "type": line.type,
                "serialization_format": "cdr",
                "offered_qos_profiles": "",
            },
            "message_count": n,
        }
        for line, n in lines
    ]
    said = {
        "version": METADATA_VERSION,
        "storage_identifier": "mcap",
        "duration": lasted,
        "starting_time": began,
        "message_count": count,
        "topics_with_message_count": topics,
        "compression_format": "",
        "compression_mode": "",
        "relative_file_paths": [file],
        "files": [  # dicts of their own, or YAML makes references
            {"path": file, "starting_time": {**began}, "duration": {**lasted}, "message_count": count}
        ],
    }
    return yaml.safe_dump({"rosbag2_bagfile_information": said}, sort_keys=False)
