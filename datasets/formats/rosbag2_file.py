"""One MCAP file as rosbag2 writes it, message by message; by a converter, or by a robot as it goes on."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from mcap.writer import CompressionType, Writer

from ..contents_json import contents_to_json, dumps
from ..frames import decode_image, encode_png
from ..ledger import DataError
from ..recording import Contents
from .bag_columns import RECORD
from .bag_messages import typestore
from .partial import cannot
from .rosbag2_messages import Line, lines_of, serialized

CHUNK_BYTES = 1 << 20  # a recording that is cut off loses at most this much


class McapWriter:
    """The file.

    Attributes:
        counts: messages of each stream so far.
        first: time of the earliest message, ns.
        last: of the latest.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("xb")
        self._writer = Writer(self._file, chunk_size=CHUNK_BYTES, compression=CompressionType.ZSTD)
        self._writer.start(profile="ros2", library="regrip")
        self._schemas: dict[str, int] = {}
        self._channels: dict[str, int] = {}
        self.counts: dict[str, int] = {}
        self.first, self.last, self._sequence = 1 << 62, 0, 0

    def say(self, record: str) -> None:
        """What our own reader wants to know besides, as JSON."""
        self._writer.add_metadata(RECORD, {"json": record})

    def open(self, line: Line) -> None:
        """Announce a topic."""
        if line.type not in self._schemas:
            text, _ = typestore("cdr").generate_msgdef(line.type, ros_version=2)
            self._schemas[line.type] = self._writer.register_schema(line.type, "ros2msg", text.encode())
        self._channels[line.spec.key] = self._writer.register_channel(
            line.topic, "cdr", self._schemas[line.type], {"offered_qos_profiles": ""}
        )
        self.counts[line.spec.key] = 0

    def add(self, key: str, data: bytes, ns: int) -> None:
        """Add a message; every full chunk is with the system when this returns."""
        self._writer.add_message(
            self._channels[key], log_time=ns, data=data, publish_time=ns, sequence=self._sequence
        )
        self._file.flush()
        self._sequence += 1
        self.counts[key] += 1
        self.first, self.last = min(self.first, ns), max(self.last, ns)

    def close(self) -> None:
        """Write index and checksums, and have it all on the disk."""
        try:
            self._writer.finish()  # type: ignore[no-untyped-call]
            self._file.flush()
            os.fsync(self._file.fileno())
        finally:
            self._file.close()


class McapStream:
    """Rows of streams that are not known before they come, in one file; cut off, it is readable all the same.

    Args:
        path: where nothing is yet.
        contents: what it will hold.
        base_ns: wall clock of time 0.
        about: whatever else is to be said.

    Raises:
        DataError: there is something, or the disk refuses.
    """

    def __init__(self, path: Path, contents: Contents, base_ns: int, about: dict[str, Any]) -> None:
        self._path, self._base = path, base_ns
        self._lines = lines_of(contents)
        record = {
            "contents": contents_to_json(contents),
            "columns": {key: line.column for key, line in self._lines.items()},
            "base_ns": base_ns,
            "episode": {
                "task": "",
                "success": None,
                "terminated": None,
                "truncated": None,
                "began_ns": base_ns,
                "about": about,
            },
        }
        said = dumps(record, f"what is said of {path}").decode()
        try:
            self._file = McapWriter(path)
            self._file.say(said)
        except FileExistsError as error:
            raise DataError("it exists already", "choose another name", file=path) from error
        except OSError as error:
            raise cannot("be written", path, error) from error

    def add(self, key: str, row: Any, time: float) -> None:
        """Add a row: numbers of the stream's shape, a text, pixels, or an image file.

        Args:
            key: of the stream.
            row: the first of a camera decides whether its topic has pixels or image files.
            time: seconds.

        Raises:
            DataError: the disk refuses.
        """
        line = self._lines[key]
        if key not in self._file.counts:
            if isinstance(row, bytes):
                line = self._lines[key] = replace(line, type="sensor_msgs/msg/CompressedImage")
            self._file.open(line)
        elif line.type == "sensor_msgs/msg/CompressedImage" and not isinstance(row, bytes):
            row = encode_png(row)
        elif line.type == "sensor_msgs/msg/Image" and isinstance(row, bytes):
            row = decode_image(row)
        ns = self._base + round(time * 1e9)
        try:
            self._file.add(key, serialized(line, row, ns), ns)
        except OSError as error:
            raise cannot("be written", self._path, error) from error

    def close(self) -> None:
        """Finish.

        Raises:
            DataError: the disk refuses.
        """
        try:
            self._file.close()
        except OSError as error:
            raise cannot("be finished", self._path, error) from error
