"""TFRecord files: framed records with checksums, read by position and written one after the other."""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import google_crc32c

from ..ledger import DataError

_HEADER = struct.Struct("<QI")
_OVERHEAD = _HEADER.size + 4


@dataclass(frozen=True)
class Record:
    """Where one record lies: shard, first byte of its frame, bytes of its payload, number in its shard."""

    file: Path
    offset: int
    length: int
    number: int


@dataclass(frozen=True)
class Shard:
    """One file of a split, by its name: ``<name>-<split>.tfrecord-00003-of-00010``."""

    file: Path
    name: str
    split: str
    index: int
    count: int


_NAME = re.compile(
    r"(?P<name>.+)-(?P<split>[A-Za-z0-9_.]+)\.tfrecord-(?P<index>\d{5,9})-of-(?P<count>\d{5,9})"
)
_LATE = re.compile(
    r"(?P<name>.+)-(?P<split>[A-Za-z0-9_.]+)-(?P<index>\d{5,9})-of-(?P<count>\d{5,9})\.tfrecord"
)


def shard_of(file: Path) -> Shard | None:
    """What a file's name says; None if it is no shard."""
    match = _NAME.fullmatch(file.name) or _LATE.fullmatch(file.name)
    if match is None:
        return None
    return Shard(file, match["name"], match["split"], int(match["index"]), int(match["count"]))


def shard_name(name: str, split: str, index: int, count: int) -> str:
    return f"{name}-{split}.tfrecord-{index:05d}-of-{count:05d}"


def masked_crc(data: bytes) -> int:
    """CRC32C, rotated and shifted as TFRecord does, so that a checksum of checksums is not zero."""
    crc = google_crc32c.value(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def frame(payload: bytes) -> bytes:
    """A payload with its length and checksums around it."""
    length = struct.pack("<Q", len(payload))
    return length + struct.pack("<I", masked_crc(length)) + payload + struct.pack("<I", masked_crc(payload))


def scan(file: Path) -> Iterator[Record]:
    """Where the records of a file lie; only their headers are read.

    Raises:
        DataError: the file cannot be read, a header's checksum is wrong, or the last record is cut short.
    """
    number = 0
    try:
        with open(file, "rb") as handle:
            size = os.fstat(handle.fileno()).st_size
            offset = 0
            while offset < size:
                handle.seek(offset)
                header = handle.read(_HEADER.size)
                if len(header) < _HEADER.size:
                    raise _cut(file, number, size - offset)
                length, crc = _HEADER.unpack(header)
                if masked_crc(header[:8]) != crc:
                    raise _damaged(file, number, "length")
                if length > size - offset - _OVERHEAD:
                    raise _cut(file, number, size - offset)
                yield Record(file, offset, length, number)
                offset += length + _OVERHEAD
                number += 1
    except OSError as error:
        raise DataError(
            f"cannot be read ({error.strerror})", "check the path and its rights", file=file
        ) from error


def read(record: Record, episode: int | None = None) -> bytes:
    """The payload of a record, checked.

    Raises:
        DataError: it changed since it was found, or its checksum is wrong.
    """
    try:
        with open(record.file, "rb") as handle:
            handle.seek(record.offset + _HEADER.size)
            data = handle.read(record.length + 4)
    except OSError as error:
        raise DataError(
            f"record {record.number} cannot be read ({error.strerror})",
            "check the disk and the rights",
            file=record.file,
            episode=episode,
        ) from error
    if len(data) < record.length + 4:
        raise _cut(record.file, record.number, len(data), episode)
    payload = data[:-4]
    if struct.pack("<I", masked_crc(payload)) != data[-4:]:
        raise _damaged(record.file, record.number, "content", episode)
    return payload


def whole_until(file: Path, end: int) -> int:
    """How far a file is made of whole, right records, up to `end`; after a power cut it may be less."""
    good = 0
    try:
        for record in scan(file):
            after = record.offset + record.length + _OVERHEAD
            if after > end:
                break
            read(record)
            good = after
    except DataError:
        pass
    return good


def _cut(file: Path, number: int, left: int, episode: int | None = None) -> DataError:
    return DataError(
        f"record {number} is cut short: {left} bytes are left of it",
        "fetch the file again, or move it out of the folder to read the rest without it",
        file=file,
        episode=episode,
    )


def _damaged(file: Path, number: int, what: str, episode: int | None = None) -> DataError:
    return DataError(
        f"record {number}: the checksum of its {what} is wrong",
        "the file is damaged or no TFRecord (or is compressed: unpack it): fetch it again, or move it out of "
        "the folder to read the rest without it",
        file=file,
        episode=episode,
    )
