"""Bag files record by record: rosbag1, MCAP and rosbag2's SQLite, all walked from the front.

The packages `rosbags` and `mcap` read bags through the index at their end. A recording that was cut off has
none, so the records are walked here instead: what is whole is read, what is torn is named. That also gives
the place of every message, so that an image can be fetched when it is wanted, and lets every declared size be
checked against the file before anything is allocated.
"""

from __future__ import annotations

import bz2
import re
import sqlite3
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, Protocol
from urllib.parse import quote

import lz4.frame  # type: ignore[import-untyped]
import zstandard
from mcap.data_stream import ReadDataStream
from mcap.exceptions import McapError
from mcap.opcode import Opcode
from mcap.records import Channel as McapChannel
from mcap.records import Chunk as McapChunk
from mcap.records import Metadata as McapMetadata
from mcap.records import Schema as McapSchema

from ..ledger import DataError, Problem

MAX_CHUNK = 1 << 28  # a chunk is a few MB in practice
MAX_RATIO = 1000  # of a chunk; more is a bomb
MCAP_MAGIC = b"\x89MCAP0\r\n"
ROSBAG1_MAGIC = b"#ROSBAG V2.0\n"
Ref = tuple[int, int, int]  # position of the chunk or -1, place in it, size


@dataclass(frozen=True)
class Channel:
    """What is recorded under one topic.

    Attributes:
        topic: as recorded.
        type: ``package/msg/Name``.
        encoding: of the messages: ``cdr`` (ROS 2), ``ros1``, or another that we cannot read.
        definition: the type's text, ``""`` if the file has none.
    """

    topic: str
    type: str
    encoding: str
    definition: str = ""


@dataclass(frozen=True)
class Entry:
    """One message: its channel, when it was received, where it lies, and its bytes."""

    channel: Channel
    log_ns: int
    ref: Ref
    data: bytes


class BagFile(Protocol):
    """A file of messages. It holds no open file between calls, so it can go to another process.

    Attributes:
        path: of the file.
        problems: what the last walk stumbled over.
        metadata: text records of the file by name (MCAP), filled by the walk.
    """

    path: Path
    problems: list[Problem]
    metadata: dict[str, dict[str, str]]

    def walk(self) -> Iterator[Entry]:
        """Every message that is whole, in the file's order.

        Raises:
            DataError: it is not such a file, or nothing of it can be read.
        """
        ...

    def read(self, ref: Ref) -> bytes:
        """The message at a place that `walk` gave."""
        ...


class TornError(ValueError):
    """A record that is cut off or contradicts itself."""


def inflate(data: bytes, method: str, size: int) -> bytes:
    """Decompress a chunk that declares its size, and never to more than that.

    Raises:
        TornError: it does not decompress to its size, or the size is senseless.
    """
    if method in ("", "none"):
        if len(data) != size:
            raise TornError(f"{len(data)} bytes, declared {size}")
        return data
    if size > min(MAX_CHUNK, max(1 << 20, MAX_RATIO * len(data))):
        raise TornError(f"{len(data)} bytes declare to hold {size}")
    try:
        if method == "zstd":
            with zstandard.ZstdDecompressor().stream_reader(data) as stream:
                out = b"".join(iter(lambda: stream.read(min(size + 1, 1 << 22)), b"")) if size else b""
        elif method == "lz4":
            out = lz4.frame.LZ4FrameDecompressor().decompress(data, size + 1)
        elif method == "bz2":
            out = bz2.BZ2Decompressor().decompress(data, size + 1)
        else:
            raise TornError(f"compression {method!r} is not known")
    except (zstandard.ZstdError, RuntimeError, OSError, EOFError, MemoryError) as error:
        raise TornError(f"{method}: {error}") from error
    if len(out) != size:
        raise TornError(f"{method} gave {len(out)} bytes, declared {size}")
    return out


def inflate_message(data: bytes) -> bytes:
    """A message that rosbag2 compressed by itself (``compression_mode: message``), or one as it is."""
    if data[:4] != b"\x28\xb5\x2f\xfd":  # CDR starts with 0
        return data
    try:
        size = zstandard.frame_content_size(data)
    except zstandard.ZstdError as error:
        raise TornError(str(error)) from error
    return inflate(data, "zstd", size if size > 0 else MAX_CHUNK)


@dataclass
class _Chunks:
    """The last few chunks that were decompressed: neighbouring images lie in the same one."""

    most: int = 3
    held: dict[int, bytes] = field(default_factory=dict)

    def keep(self, position: int, data: bytes) -> bytes:
        held = {**self.held, position: data}
        self.held = dict(list(held.items())[-self.most :])
        return data

    def __getstate__(self) -> dict[str, object]:
        return {"most": self.most, "held": {}}


@dataclass
class Rosbag1File:
    """A ROS 1 bag, version 2.0, with or without its index."""

    path: Path
    problems: list[Problem] = field(default_factory=list)
    metadata: dict[str, dict[str, str]] = field(default_factory=dict)
    _chunks: _Chunks = field(default_factory=_Chunks)

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
                    self.problems.append(_torn(self.path, at, size, str(error)))
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
                    self.problems.append(_skipped(self.path, at, str(error)))
                at = data_at + length

    def _inflate(self, file: BinaryIO, header: dict[bytes, bytes], at: int, length: int) -> bytes:
        method = header.get(b"compression", b"none").decode("ascii", "replace")
        size = _number("<I", header.get(b"size", b""))
        if length > MAX_CHUNK:
            raise TornError(f"a chunk of {length} bytes")
        file.seek(at)
        return inflate(file.read(length), method, size)

    def _messages(self, chunk: bytes, position: int, channels: dict[int, Channel]) -> Iterator[Entry]:
        stream, at = BytesIO(chunk), 0
        while at < len(chunk):
            header, data_at, length = _ros1_record(stream, at, len(chunk))
            op, number = header.get(b"op", b""), _number("<I", header.get(b"conn", b""))
            data = chunk[data_at : data_at + length]
            if op == b"\x07":
                said = _ros1_header(data)
                package, _, name = _text(said.get(b"type", b"")).rpartition("/")
                channels[number] = Channel(
                    _text(header.get(b"topic", b"")),
                    f"{package}/msg/{name}",
                    "ros1",
                    _text(said.get(b"message_definition", b"")),
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
    length = _number("<I", file.read(4))
    if at + 8 + length > end:
        raise TornError("a header is cut off")
    header = _ros1_header(file.read(length))
    size = _number("<I", file.read(4))
    if at + 8 + length + size > end:
        raise TornError("a record is cut off")
    return header, at + 8 + length, size


def _ros1_header(data: bytes) -> dict[bytes, bytes]:
    fields, at = {}, 0
    while at < len(data):
        length = _number("<I", data[at : at + 4])
        name, equals, value = data[at + 4 : at + 4 + length].partition(b"=")
        if not equals or at + 4 + length > len(data):
            raise TornError("a header field is cut off")
        fields[name] = value
        at += 4 + length
    return fields


@dataclass
class McapFile:
    """An MCAP file with ROS 2 or ROS 1 messages."""

    path: Path
    problems: list[Problem] = field(default_factory=list)
    metadata: dict[str, dict[str, str]] = field(default_factory=dict)
    _chunks: _Chunks = field(default_factory=_Chunks)

    def walk(self) -> Iterator[Entry]:
        self.problems = []
        size = self.path.stat().st_size
        schemas: dict[int, McapSchema] = {}
        channels: dict[int, Channel] = {}
        ended = False
        with self.path.open("rb") as file:
            if file.read(8) != MCAP_MAGIC:
                raise DataError("it does not start as an MCAP file", "give an .mcap file", file=self.path)
            at = 8
            while at + 9 <= size and not ended:
                op, length = struct.unpack("<BQ", file.read(9))
                if at + 9 + length > size:
                    break
                if op == Opcode.DATA_END:
                    ended = True
                    break
                if op in _WANTED and length <= MAX_CHUNK:
                    payload = file.read(length)
                    try:
                        if op == Opcode.CHUNK:
                            chunk = _mcap_chunk(payload)
                            yield from self._records(chunk, at, schemas, channels)
                        else:
                            yield from self._one(op, payload, (-1, at + 9, length), schemas, channels)
                    except TornError as error:
                        self.problems.append(_skipped(self.path, at, str(error)))
                file.seek(at := at + 9 + length)
        if not ended:
            self.problems.append(_torn(self.path, at, size, "the file has no end of data"))

    def _records(
        self, chunk: bytes, position: int, schemas: dict[int, McapSchema], channels: dict[int, Channel]
    ) -> Iterator[Entry]:
        at = 0
        while at < len(chunk):
            if at + 9 > len(chunk):
                raise TornError("a record is cut off")
            op, length = struct.unpack_from("<BQ", chunk, at)
            if at + 9 + length > len(chunk):
                raise TornError("a record is cut off")
            payload = chunk[at + 9 : at + 9 + length]
            yield from self._one(op, payload, (position, at + 9, length), schemas, channels)
            at += 9 + length

    def _one(
        self,
        op: int,
        payload: bytes,
        ref: Ref,
        schemas: dict[int, McapSchema],
        channels: dict[int, Channel],
    ) -> Iterator[Entry]:
        if op == Opcode.MESSAGE:
            if len(payload) < 22:
                raise TornError("a message without its head")
            number, _, log_ns, _ = struct.unpack_from("<HIQQ", payload)
            if number not in channels:
                raise TornError(f"a message of the unknown channel {number}")
            yield Entry(channels[number], log_ns, (ref[0], ref[1] + 22, ref[2] - 22), payload[22:])
            return
        stream = ReadDataStream(BytesIO(payload))
        try:
            if op == Opcode.SCHEMA:
                schema = McapSchema.read(stream)
                schemas[schema.id] = schema
            elif op == Opcode.CHANNEL:
                channel = McapChannel.read(stream)
                known = schemas.get(channel.schema_id)
                name = known.name if known else ""
                if name.count("/") == 1:  # ROS 1 in MCAP
                    name = name.replace("/", "/msg/")
                channels[channel.id] = Channel(
                    channel.topic,
                    name,
                    channel.message_encoding,
                    _text(known.data) if known else "",
                )
            elif op == Opcode.METADATA:
                said = McapMetadata.read(stream)
                self.metadata[said.name] = said.metadata
        except (McapError, struct.error, UnicodeDecodeError, OverflowError) as error:
            raise TornError(f"a record of kind {op}: {error}") from error

    def peek(self, name: str) -> dict[str, str] | None:
        """A metadata record, if it comes before the messages."""
        for entry in self.walk():
            del entry
            break
        return self.metadata.get(name)

    def read(self, ref: Ref) -> bytes:
        position, at, length = ref
        with self.path.open("rb") as file:
            if position < 0:
                file.seek(at)
                return inflate_message(file.read(length))
            chunk = self._chunks.held.get(position)
            if chunk is None:
                file.seek(position)
                _, size = struct.unpack("<BQ", file.read(9).ljust(9, b"\0"))
                if size > MAX_CHUNK:
                    raise TornError(f"a chunk of {size} bytes")
                chunk = self._chunks.keep(position, _mcap_chunk(file.read(size)))
        return inflate_message(chunk[at : at + length])


_WANTED = {Opcode.SCHEMA, Opcode.CHANNEL, Opcode.MESSAGE, Opcode.CHUNK, Opcode.METADATA}


def _mcap_chunk(payload: bytes) -> bytes:
    try:
        chunk = McapChunk.read(ReadDataStream(BytesIO(payload)))
    except (McapError, struct.error, UnicodeDecodeError, OverflowError) as error:
        raise TornError(f"a chunk's head: {error}") from error
    data = inflate(chunk.data, chunk.compression, chunk.uncompressed_size)
    if chunk.uncompressed_crc and zlib.crc32(data) != chunk.uncompressed_crc:
        raise TornError("its checksum is wrong")
    return data


@dataclass
class SqliteFile:
    """The SQLite storage of rosbag2."""

    path: Path
    problems: list[Problem] = field(default_factory=list)
    metadata: dict[str, dict[str, str]] = field(default_factory=dict)

    def _connect(self) -> sqlite3.Connection:
        # immutable: SQLite must not write a journal beside the source
        uri = f"file:{quote(str(self.path.absolute()))}?mode=ro&immutable=1"
        connection = sqlite3.connect(uri, uri=True)
        connection.execute("PRAGMA trusted_schema=OFF")
        connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, MAX_CHUNK)
        connection.text_factory = lambda data: data.decode("utf-8", "replace")
        return connection

    def walk(self) -> Iterator[Entry]:
        self.problems = []
        channels: dict[int, Channel] = {}
        try:
            connection = self._connect()
        except sqlite3.Error as error:
            raise self._broken(error) from error
        try:
            try:
                channels = self._channels(connection)
            except (sqlite3.Error, ValueError, OverflowError) as error:
                raise self._broken(error) from error
            wal = self.path.with_name(self.path.name + "-wal")
            if wal.exists() and wal.stat().st_size:
                self.problems.append(
                    Problem(
                        f"{wal.name} holds messages that were not yet moved into the bag",
                        "they are not read: copy both files and open the copy with sqlite3, which moves them",
                        file=self.path.name,
                    )
                )
            last = 0
            try:
                for number, topic, log_ns, data in connection.execute(
                    "SELECT id, topic_id, timestamp, data FROM messages ORDER BY id"
                ):
                    if not (isinstance(number, int) and isinstance(log_ns, int) and isinstance(data, bytes)):
                        raise TornError(f"message {number!r} has a field of the wrong type")
                    if topic not in channels:
                        raise TornError(f"message {number} is of the unknown topic {topic!r}")
                    last = number
                    yield Entry(channels[topic], log_ns, (-1, number, len(data)), data)
            except (sqlite3.Error, TornError, OverflowError) as error:
                self.problems.append(
                    Problem(
                        f"the database is damaged after message {last} ({error})",
                        "what comes after it is lost; sqlite3's .recover may find more",
                        file=self.path.name,
                    )
                )
        finally:
            connection.close()

    def _channels(self, connection: sqlite3.Connection) -> dict[int, Channel]:
        tables = dict(
            connection.execute("SELECT name, type || coalesce(sql, '') FROM sqlite_master").fetchall()
        )
        for name in ("topics", "messages"):
            # a view or a virtual table runs code of whoever made the file
            if not re.match(r"table\s*CREATE\s+TABLE\b(?!.*GENERATED)", tables.get(name, ""), re.I | re.S):
                raise ValueError(f"it has no plain table {name}")
        texts: dict[str, str] = {}
        if re.match(r"table\s*CREATE\s+TABLE\b", tables.get("message_definitions", ""), re.I):
            texts = dict(
                connection.execute(
                    "SELECT topic_type, encoded_message_definition FROM message_definitions"
                ).fetchall()
            )
        rows = connection.execute("SELECT id, name, type, serialization_format FROM topics").fetchall()
        channels = {}
        for number, name, kind, encoding in rows:
            if not all(isinstance(text, str) for text in (name, kind, encoding)):
                raise ValueError("a topic's name, type or format is no text")
            text = texts.get(kind, "")
            channels[number] = Channel(name, kind, encoding, text if isinstance(text, str) else "")
        return channels

    def _broken(self, error: Exception) -> DataError:
        return DataError(
            f"it cannot be read as a rosbag2 database ({error})",
            "check that the recording was closed; sqlite3's .recover may save part of it",
            file=self.path,
        )

    def read(self, ref: Ref) -> bytes:
        try:
            connection = self._connect()
            try:
                row = connection.execute("SELECT data FROM messages WHERE id = ?", (ref[1],)).fetchone()
            finally:
                connection.close()
        except sqlite3.Error as error:
            raise TornError(str(error)) from error
        if row is None or not isinstance(row[0], bytes):
            raise TornError(f"message {ref[1]} is gone")
        return inflate_message(row[0])


def _number(form: str, data: bytes) -> int:
    if len(data) < struct.calcsize(form):
        raise TornError("a number is cut off")
    return int(struct.unpack_from(form, data)[0])


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace")


def _torn(path: Path, at: int, size: int, why: str) -> Problem:
    return Problem(
        f"the recording is cut off or damaged at byte {at} of {size} ({why})",
        f"what is whole before it is read; the last {size - at} bytes are lost",
        file=path.name,
    )


def _skipped(path: Path, at: int, why: str) -> Problem:
    return Problem(
        f"the record at byte {at} is damaged ({why})",
        "its messages are left out: compare with another copy of the file",
        file=path.name,
    )
