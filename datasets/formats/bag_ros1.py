"""The records of a ROS 1 bag."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

from ..ledger import DataError, Problem
from .bag_files import (
    MAX_CHUNK,
    Channel,
    Chunks,
    Entry,
    Ref,
    TornError,
    inflate,
    number_of,
    skipped,
    text_of,
    torn,
)

ROSBAG1_MAGIC = b"#ROSBAG V2.0\n"


@dataclass
class Rosbag1File:
    """A ROS 1 bag, version 2.0, with or without its index."""

    path: Path
    problems: list[Problem] = field(default_factory=list)
    metadata: dict[str, dict[str, str]] = field(default_factory=dict)
    _chunks: Chunks = field(default_factory=Chunks)

    def walk(self) -> Iterator[Entry]:
        self.problems = []
        size = self.path.stat().st_size
        channels: dict[int, Channel] = {}
        with self.path.open("rb") as file:
            if file.read(len(ROSBAG1_MAGIC)) != ROSBAG1_MAGIC:
                raise DataError(
                    "it does not start with '#ROSBAG V2.0'",
                    "it is no ROS 1 bag, or an older version: rosbag fix or rosbag migrate makes one of it",
                    file=self.path,
                )
            at = len(ROSBAG1_MAGIC)
            while at < size:
                try:
                    header, data_at, length = _ros1_record(file, at, size)
                except TornError as error:
                    self.problems.append(torn(self.path, at, size, str(error)))
                    return
                op = header.get(b"op", b"")
                try:
                    if op == b"\x05":
                        chunk = self._inflate(file, header, data_at, length)
                        yield from self._messages(chunk, at, channels)
                    elif op in (b"\x02", b"\x07"):
                        file.seek(at)
                        whole = file.read(data_at + length - at)
                        yield from self._messages(whole, -1 - at, channels)
                    elif op == b"\x03" and header.get(b"index_pos", b"")[:8] == bytes(8):
                        self.problems.append(
                            Problem(
                                "the bag was not closed: it has no index",
                                "read from the front, as rosbag reindex would",
                                repaired=True,
                                file=self.path.name,
                            )
                        )
                except TornError as error:
                    self.problems.append(skipped(self.path, at, str(error)))
                at = data_at + length

    def _inflate(self, file: BinaryIO, header: dict[bytes, bytes], at: int, length: int) -> bytes:
        method = header.get(b"compression", b"none").decode("ascii", "replace")
        size = number_of("<I", header.get(b"size", b""))
        if length > MAX_CHUNK:
            raise TornError(f"a chunk of {length} bytes")
        file.seek(at)
        return inflate(file.read(length), method, size)

    def _messages(self, chunk: bytes, position: int, channels: dict[int, Channel]) -> Iterator[Entry]:
        stream, at = BytesIO(chunk), 0
        while at < len(chunk):
            header, data_at, length = _ros1_record(stream, at, len(chunk))
            op, number = header.get(b"op", b""), number_of("<I", header.get(b"conn", b""))
            data = chunk[data_at : data_at + length]
            if op == b"\x07":
                said = _ros1_header(data)
                package, _, name = text_of(said.get(b"type", b"")).rpartition("/")
                channels[number] = Channel(
                    text_of(header.get(b"topic", b"")),
                    f"{package}/msg/{name}",
                    "ros1",
                    text_of(said.get(b"message_definition", b"")),
                )
            elif op == b"\x02" and number in channels:
                seconds, nanoseconds = struct.unpack("<II", header.get(b"time", b"").ljust(8, b"\0")[:8])
                ref = (position, data_at, length) if position >= 0 else (-1, -1 - position + data_at, length)
                yield Entry(channels[number], seconds * 10**9 + nanoseconds, ref, data)
            elif op == b"\x02":
                raise TornError(f"a message of the unknown connection {number}")
            at = data_at + length

    def read(self, ref: Ref) -> bytes:
        position, at, length = ref
        with self.path.open("rb") as file:
            if position < 0:
                file.seek(at)
                return file.read(length)
            chunk = self._chunks.held.get(position)
            if chunk is None:
                header, data_at, size = _ros1_record(file, position, self.path.stat().st_size)
                chunk = self._chunks.keep(position, self._inflate(file, header, data_at, size))
        return chunk[at : at + length]


def _ros1_record(file: BinaryIO, at: int, end: int) -> tuple[dict[bytes, bytes], int, int]:
    file.seek(at)
    length = number_of("<I", file.read(4))
    if at + 8 + length > end:
        raise TornError("a header is cut off")
    header = _ros1_header(file.read(length))
    size = number_of("<I", file.read(4))
    if at + 8 + length + size > end:
        raise TornError("a record is cut off")
    return header, at + 8 + length, size


def _ros1_header(data: bytes) -> dict[bytes, bytes]:
    fields, at = {}, 0
    while at < len(data):
        length = number_of("<I", data[at : at + 4])
        name, equals, value = data[at + 4 : at + 4 + length].partition(b"=")
        if not equals or at + 4 + length > len(data):
            raise TornError("a header field is cut off")
        fields[name] = value
        at += 4 + length
    return fields
