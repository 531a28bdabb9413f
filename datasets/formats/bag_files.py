"""Bag files record by record: rosbag1, MCAP and rosbag2's SQLite, all walked from the front.

The packages `rosbags` and `mcap` read bags through the index at their end. A recording that was cut off has
none, so the records are walked here instead: what is whole is read, what is torn is named. That also gives
the place of every message, so that an image can be fetched when it is wanted, and lets every declared size be
checked against the file before anything is allocated.
"""

from __future__ import annotations

import bz2
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import lz4.frame  # type: ignore[import-untyped]
import zstandard

from ..ledger import Problem

MAX_CHUNK = 1 << 28  # a chunk is a few MB in practice
MAX_RATIO = 1000  # of a chunk; more is a bomb
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
class Chunks:
    """The last few chunks that were decompressed: neighbouring images lie in the same one."""

    most: int = 3
    held: dict[int, bytes] = field(default_factory=dict)

    def keep(self, position: int, data: bytes) -> bytes:
        held = {**self.held, position: data}
        self.held = dict(list(held.items())[-self.most :])
        return data

    def __getstate__(self) -> dict[str, object]:
        return {"most": self.most, "held": {}}


def number_of(form: str, data: bytes) -> int:
    if len(data) < struct.calcsize(form):
        raise TornError("a number is cut off")
    return int(struct.unpack_from(form, data)[0])


def text_of(data: bytes) -> str:
    return data.decode("utf-8", "replace")


def torn(path: Path, at: int, size: int, why: str) -> Problem:
    return Problem(
        f"the recording is cut off or damaged at byte {at} of {size} ({why})",
        f"what is whole before it is read; the last {size - at} bytes are lost",
        file=path.name,
    )


def skipped(path: Path, at: int, why: str) -> Problem:
    return Problem(
        f"the record at byte {at} is damaged ({why})",
        "its messages are left out: compare with another copy of the file",
        file=path.name,
    )
