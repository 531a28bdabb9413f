"""Writing rosbag2: one folder with `metadata.yaml` and an MCAP file for each episode.

The file is made by the `mcap` package, whose chunks carry checksums (`rosbags` writes none), the messages in
it by `rosbags`, which takes an image as an array.
"""

from __future__ import annotations

import dataclasses
import heapq
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from ..contents_json import contents_to_json, dumps
from ..frames import decode_image, encode_jpeg, encode_png, psnr
from ..ledger import DataError, Ledger, Loss
from ..recording import Contents, Frames, Recording, StreamSpec, Track
from ..views.resampling import to_ns
from . import WriteOptions
from .bags import SIDE_FILE
from .partial import PLAN, begin, cannot, finish, write_whole
from .rosbag2_file import McapWriter
from .rosbag2_messages import Line, lines_of, serialized

# version 5 is the newest that Humble reads; later distributions read it too
METADATA_VERSION = 5


def plan(contents: Contents, options: WriteOptions) -> list[Loss]:
    """What a bag would lose: image files and pixels are kept as they are unless encoding is asked for."""
    losses = []
    _require(options)
    if options.images == "jpeg":
        losses += [
            Loss(key, "re-encoded", f"to JPEG of quality {options.quality}")
            for key in contents.of_kind("image")
        ]
    lines_of(contents)
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
        self._lines = lines_of(contents)
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
        lines: dict[str, Line] = {}
        bag = McapWriter(path)
        try:
            bag.say(self._record(recording, base))
            tracks = []
            for order, (key, track) in enumerate(recording.streams.items()):
                lines[key] = self._line(key, track)
                bag.open(lines[key])
                tracks.append(self._messages(order, lines[key], track, base))
            for ns, _, key, data in heapq.merge(*tracks):
                bag.add(key, data, ns)
        finally:
            bag.close()
        counted = [(lines[key], n) for key, n in bag.counts.items()]
        write_whole(folder / "metadata.yaml", _metadata(path.name, counted, bag.first, bag.last).encode())

    def _line(self, key: str, track: Track) -> Line:
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
        self, order: int, line: Line, track: Track, base: int
    ) -> Iterator[tuple[int, int, str, bytes]]:
        row = self._rows_of(line, track)
        for index, ns in enumerate((to_ns(track.time) + base).tolist()):
            yield ns, order, line.spec.key, serialized(line, row(index), ns)

    def _rows_of(self, line: Line, track: Track) -> Callable[[int], Any]:
        spec = line.spec
        if spec.kind in ("image", "depth"):
            frames: Frames = track.rows  # type: ignore[assignment]
            return lambda index: self._image(line, frames, index)
        if spec.kind == "text":
            return track.rows.__getitem__
        rows = np.asarray(track.rows)
        if rows.shape[1:] != spec.shape or str(rows.dtype) != spec.dtype:
            raise DataError(
                f"rows are {rows.dtype} {rows.shape[1:]}, expected {spec.dtype} {spec.shape}",
                "write recordings with the contents they were read with",
                episode=self.done,
                key=spec.key,
            )
        return rows.__getitem__

    def _image(self, line: Line, frames: Frames, index: int) -> bytes | NDArray[Any]:
        if line.type == "sensor_msgs/msg/CompressedImage":
            return self._file(line.spec, frames, index)
        image = self._pixels(line.spec, frames, index)
        if frames.encoded(index) is not None:
            self._ledger.add(Loss(line.spec.key, "re-encoded", "image files to pixels", int(index == 0), 1))
        return image

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


def _metadata(file: str, lines: list[tuple[Line, int]], first: int, last: int) -> str:
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
