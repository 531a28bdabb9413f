"""The records of an MCAP file. What is in a record is left to the `mcap` package."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path

from mcap.data_stream import ReadDataStream
from mcap.exceptions import McapError
from mcap.opcode import Opcode
from mcap.records import Channel as McapChannel
from mcap.records import Chunk as McapChunk
from mcap.records import Metadata as McapMetadata
from mcap.records import Schema as McapSchema

from ..ledger import DataError, Problem
from .bag_files import (
    MAX_CHUNK,
    Channel,
    Chunks,
    Entry,
    Ref,
    TornError,
    inflate,
    inflate_message,
    skipped,
    text_of,
    torn,
)

MCAP_MAGIC = b"\x89MCAP0\r\n"


@dataclass
class McapFile:
    """An MCAP file with ROS 2 or ROS 1 messages."""

    path: Path
    problems: list[Problem] = field(default_factory=list)
    metadata: dict[str, dict[str, str]] = field(default_factory=dict)
    _chunks: Chunks = field(default_factory=Chunks)

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
                        self.problems.append(skipped(self.path, at, str(error)))
                file.seek(at := at + 9 + length)
        if not ended:
            self.problems.append(torn(self.path, at, size, "the file has no end of data"))

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
                    text_of(known.data) if known else "",
                )
            elif op == Opcode.METADATA:
                said = McapMetadata.read(stream)
                self.metadata[said.name] = said.metadata
        except (McapError, struct.error, UnicodeDecodeError, OverflowError) as error:
            raise TornError(f"a record of kind {op}: {error}") from error

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
