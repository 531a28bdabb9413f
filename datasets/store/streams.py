"""One stream of a store, and the images of one episode."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..ledger import DataError
from ..recording import StreamSpec
from .hashes import hash_piece, new_hash
from .layout import SHARD, is_frames
from .log import Span
from .shards import FrameReader
from .slow import SlowArray
from .texts import read_texts
from .vector_files import VectorReader


@dataclass
class StoreStream:
    """One stream of a store that is open for reading."""

    spec: StreamSpec
    rows: FrameReader | VectorReader | SlowArray
    time: VectorReader | SlowArray
    strings: VectorReader | SlowArray | None
    ends: VectorReader | SlowArray | None

    def decode_texts(self, codes: NDArray[Any], key: str) -> list[str]:
        assert self.strings is not None, "of a text stream"
        assert self.ends is not None, "of a text stream"
        numbers = [int(code) for code in codes]
        texts = read_texts(self.strings, self.ends, sorted(set(numbers)), key)
        return [texts[number] for number in numbers]

    def require_texts(self, span: Span) -> None:
        """Check that the texts which an episode found are there.

        Raises:
            DataError: they are not.
        """
        if self.strings is None or self.ends is None or not span.strings[0]:
            return
        count, size = span.strings
        if int(self.ends.slice(count - 1, count)[0]) != size:
            raise DataError("the texts of the stream end elsewhere", "the set is damaged", key=self.spec.key)

    def hash(self, span: Span, *, unchecked: bool = False) -> str:
        """Content hash of some rows as they are stored."""
        digest = new_hash()
        if isinstance(self.rows, FrameReader):
            for piece in self._images(span, unchecked):
                hash_piece(digest, piece)
        elif is_frames(self.spec):
            raise DataError("zarr-python gives no stored bytes", "convert the set anew", key=self.spec.key)
        elif self.spec.kind == "text":
            for text in self.decode_texts(self.rows.slice(span.first, span.last), self.spec.key):
                hash_piece(digest, text.encode("utf-8", "surrogatepass"))
        else:
            digest.update(self.rows.slice(span.first, span.last).astype(f"<{_code(self.spec)}").tobytes())
        digest.update(self.time.slice(span.first, span.last).astype("<f8").tobytes())
        return str(digest.hexdigest())

    def _images(self, span: Span, unchecked: bool) -> Iterator[bytes | memoryview]:
        assert isinstance(self.rows, FrameReader), "of images"
        if not unchecked:
            for row in range(span.first, span.last):
                yield self.rows.stored(row)
            return
        shard, index, view = -1, None, memoryview(b"")
        for row in range(span.first, span.last):
            if row // SHARD != shard:
                shard = row // SHARD
                index, view = self.rows.entries(shard)
            assert index is not None, "just read"
            offset, length = (int(number) for number in index[row % SHARD])
            if not length or offset + length > len(view):
                raise DataError("an image is not in its shard", "the set is damaged", frame=row)
            yield view[offset : offset + length]

    def close(self) -> None:
        for held in (self.rows, self.time, self.strings, self.ends):
            if held is not None:
                held.close()


@dataclass(frozen=True)
class StoreFrames:
    """The images of one stream of one episode."""

    reader: FrameReader | SlowArray
    first: int
    last: int
    episode: int
    key: str

    def __len__(self) -> int:
        return self.last - self.first

    def __getitem__(self, index: int) -> NDArray[Any]:
        row = range(self.first, self.last)[index]
        try:
            return self.reader.decode(row)
        except DataError as error:
            raise in_episode(error, self.episode, self.key, row - self.first) from error

    def __iter__(self) -> Iterator[NDArray[Any]]:
        return (self[index] for index in range(len(self)))

    def encoded(self, index: int) -> bytes | None:
        row = range(self.first, self.last)[index]
        try:
            return self.reader.encoded(row)
        except DataError as error:
            raise in_episode(error, self.episode, self.key, row - self.first) from error


def in_episode(error: DataError, episode: int, key: str, frame: int | None = None) -> DataError:
    """The same error, saying where in the set it is."""
    return DataError(error.what, error.remedy, file=error.file, episode=episode, frame=frame, key=key)


def _code(spec: StreamSpec) -> str:
    return np.dtype(spec.dtype).str[1:]
