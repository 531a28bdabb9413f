"""Reading arrays of zarr format 2 out of a folder or a zip file, with every declared size checked first.

zarr-python opens the same stores, but hands a chunk to any codec that its metadata names (some run code),
lets it decompress to any size, and gives no way to the bytes of a chunk that is an image file.
"""

from __future__ import annotations

import bz2
import json
import math
import re
import struct
import threading
import zipfile
import zlib
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..ledger import DataError

MAX_CHUNK = 1 << 30
MAX_READ = 1 << 32  # bytes of one array in one episode
MAX_JSON = 1 << 28
# id in the metadata: function of imagecodecs, and what the chunk's bytes are
IMAGE_CODECS = {
    "imagecodecs_jpegxl": ("jpegxl_decode", "jxl"),
    "imagecodecs_jpeg": ("jpeg_decode", "jpeg"),
    "imagecodecs_png": ("png_decode", "png"),
    "imagecodecs_webp": ("webp_decode", "webp"),
}
CODECS = ("blosc", "zstd", "lz4", "zlib", "gzip", "bz2", *IMAGE_CODECS)


class Files(Protocol):
    """The files of a store, by names with ``/``."""

    @property
    def where(self) -> Path: ...

    def read(self, name: str, most: int) -> bytes | None:
        """A file's bytes; None if there is none.

        Raises:
            DataError: it has more than `most` bytes, or cannot be read.
        """
        ...

    def children(self, folder: str) -> list[str]:
        """Names of the folders in a folder."""
        ...

    def files(self, folder: str) -> list[str]:
        """Names of all files below a folder, relative to it."""
        ...


@dataclass(frozen=True)
class FolderFiles:
    """A store that is a folder."""

    where: Path

    def _path(self, name: str) -> Path:
        path = self.where / name
        if not path.resolve().is_relative_to(self.where.resolve()):
            raise DataError("it is a link that leads out of the set", "copy the file into the set", file=path)
        return path

    def read(self, name: str, most: int) -> bytes | None:
        path = self._path(name)
        try:
            with path.open("rb") as file:
                if path.stat().st_size > most:
                    raise _too_large(path, path.stat().st_size, most)
                return file.read(most)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise DataError(f"it cannot be read ({error})", "check the file", file=path) from error

    def children(self, folder: str) -> list[str]:
        try:
            return sorted(p.name for p in self._path(folder).iterdir() if p.is_dir())
        except OSError:
            return []

    def files(self, folder: str) -> list[str]:
        root = self._path(folder)
        try:
            return [p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file()]
        except OSError:
            return []


@dataclass
class ZipFiles:
    """A store that is a zip file. It is opened anew in every process that uses it."""

    where: Path
    _zip: zipfile.ZipFile | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        seen: set[str] = set()
        for info in self._open().infolist():
            name = info.filename
            parts = PurePosixPath(name).parts
            if name.startswith("/") or "\\" in name or ":" in name or ".." in parts or "\0" in name:
                remedy = "do not unpack it: ask for the set again"
                raise DataError(f"it holds a file called {name!r}", remedy, file=self.where)
            if name in seen:
                raise DataError(f"it holds two files called {name!r}", "make the zip again", file=self.where)
            seen.add(name)
            if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) or info.flag_bits & 1:
                what = f"{name} is encrypted or packed in an unusual way"
                raise DataError(what, "pack it without compression", file=self.where)
        self._folders: dict[str, list[str]] = {}
        for name in seen:
            for parent in PurePosixPath(name).parents:
                self._folders.setdefault(str(parent), []).append(name)

    def _open(self) -> zipfile.ZipFile:
        with self._lock:
            if self._zip is None:
                try:
                    self._zip = zipfile.ZipFile(self.where)
                except _ZIP_ERRORS as error:
                    raise DataError(
                        f"it is no zip file ({error})", "copy it again", file=self.where
                    ) from error
            return self._zip

    def __getstate__(self) -> dict[str, Any]:
        return {"where": self.where, "_folders": self._folders}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _zip=None, _lock=threading.Lock())

    def read(self, name: str, most: int) -> bytes | None:
        file = self._open()
        try:
            info = file.getinfo(name)
        except KeyError:
            return None
        if info.file_size > most:
            raise _too_large(f"{self.where}/{name}", info.file_size, most)
        try:
            with file.open(info) as stream:
                return stream.read(most)
        except _ZIP_ERRORS as error:
            raise DataError(
                f"it cannot be unpacked ({error})", "copy the zip file again", file=f"{self.where}/{name}"
            ) from error

    def children(self, folder: str) -> list[str]:
        depth = len(PurePosixPath(folder).parts)
        inside = [PurePosixPath(name).parts for name in self._folders.get(folder, [])]
        return sorted({parts[depth] for parts in inside if len(parts) > depth + 1})

    def files(self, folder: str) -> list[str]:
        return [name[len(folder) + 1 :] for name in self._folders.get(folder, [])]


_ZIP_ERRORS = (
    zipfile.BadZipFile,
    zlib.error,
    OSError,
    EOFError,
    RuntimeError,  # NotImplementedError and wrong passwords among them
    ValueError,
    struct.error,
)


def _too_large(file: object, size: int, most: int) -> DataError:
    return DataError(f"it has {size} bytes, expected at most {most}", "the file is damaged", file=file)


def read_json(files: Files, name: str) -> dict[str, Any] | None:
    """A JSON file of the store; None if there is none.

    Raises:
        DataError: it is no JSON object.
    """
    data = files.read(name, MAX_JSON)
    if data is None:
        return None
    try:
        said = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"it is no JSON ({error})", "the file is damaged", file=f"{files.where}/{name}"
        ) from error
    if not isinstance(said, dict):
        raise DataError("it is no JSON object", "the file is damaged", file=f"{files.where}/{name}")
    return said


@dataclass(frozen=True)
class Array:
    """One array. Of its chunks the last one decoded is kept."""

    files: Files
    name: str
    shape: tuple[int, ...]
    chunks: tuple[int, ...]
    dtype: np.dtype[Any]
    order: str
    fill: Any
    codec: dict[str, Any] | None
    separator: str
    _held: dict[tuple[int, ...], NDArray[Any]] = field(default_factory=dict)

    @property
    def where(self) -> str:
        return f"{self.files.where}/{self.name}"

    @property
    def image_codec(self) -> str:
        """``jxl``, ``jpeg``, ... if every chunk is the image file of one row, else ``""``."""
        known = IMAGE_CODECS.get(str((self.codec or {}).get("id")))
        return known[1] if known and self.chunks[0] == 1 and self.chunks[1:] == self.shape[1:] else ""

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_held": {}}

    def rows(self, start: int, stop: int) -> NDArray[Any]:
        """Rows from `start` to before `stop`.

        Raises:
            DataError: a chunk is damaged.
        """
        rest = self.shape[1:]
        if (stop - start) * math.prod(rest) * self.dtype.itemsize > MAX_READ:
            raise DataError(
                f"{stop - start} rows of shape {rest} are more than 4 GiB",
                "the metadata is damaged",
                file=self.where,
            )
        out = np.empty((stop - start, *rest), self.dtype)
        if out.size == 0:
            return out
        size = self.chunks[0]
        for first in range(start // size, (stop - 1) // size + 1):
            low, high = max(start, first * size), min(stop, (first + 1) * size)
            for at in np.ndindex(
                *(-(-length // chunk) for length, chunk in zip(rest, self.chunks[1:], strict=True))
            ):
                block = self._chunk((first, *at))
                place = tuple(
                    slice(i * chunk, min((i + 1) * chunk, length))
                    for i, chunk, length in zip(at, self.chunks[1:], rest, strict=True)
                )
                inner = tuple(slice(0, part.stop - part.start) for part in place)
                out[(slice(low - start, high - start), *place)] = block[
                    (slice(low - first * size, high - first * size), *inner)
                ]
        return out

    def file(self, row: int) -> bytes | None:
        """The image file of a row, where `image_codec` says that there is one."""
        return self.files.read(self._name((row, *[0] * (len(self.shape) - 1))), MAX_CHUNK)

    def _name(self, at: tuple[int, ...]) -> str:
        return f"{self.name}/{self.separator.join(map(str, at))}"

    def _chunk(self, at: tuple[int, ...]) -> NDArray[Any]:
        held = self._held.get(at)
        if held is not None:
            return held
        name = self._name(at)
        size = math.prod(self.chunks) * self.dtype.itemsize
        data = self.files.read(name, size + size // 8 + (1 << 16))
        if data is None:
            block = np.full(self.chunks, self.fill, self.dtype)
        else:
            try:
                raw = decode_chunk(data, self.codec, size, self.chunks, self.dtype)
                block = np.frombuffer(raw, self.dtype).reshape(self.chunks, order=self.order)  # type: ignore[call-overload]
            except ValueError as error:
                if isinstance(error, DataError):
                    raise
                raise DataError(
                    f"the chunk cannot be decoded ({error})",
                    "the file is damaged: copy it again, or leave out the episodes it belongs to",
                    file=f"{self.files.where}/{name}",
                ) from error
        self._held.clear()
        self._held[at] = block
        return block

    def missing_chunks(self) -> int:
        """How many chunks there is no file for: zarr reads them as the fill value."""
        pattern = re.compile(re.escape(self.separator).join([r"\d+"] * len(self.shape)))
        there = sum(1 for name in self.files.files(self.name) if pattern.fullmatch(name))
        grid = math.prod(-(-length // chunk) for length, chunk in zip(self.shape, self.chunks, strict=True))
        return max(0, grid - there)


def open_array(files: Files, name: str) -> Array | None:
    """An array by its metadata; None if there is none of that name.

    Raises:
        DataError: it is of a kind that is not read (objects, unknown codecs), or its sizes are senseless.
    """
    said = read_json(files, f"{name}/.zarray")
    if said is None:
        return None
    try:
        return _parse(files, name, said)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(
            f"its metadata is not as zarr writes it ({type(error).__name__}: {error})",
            "the file is damaged",
            file=f"{files.where}/{name}/.zarray",
        ) from error


def _parse(files: Files, name: str, said: dict[str, Any]) -> Array:
    def refuse(what: str, remedy: str) -> DataError:
        return DataError(what, remedy, file=f"{files.where}/{name}/.zarray")

    if said["zarr_format"] != 2:
        raise refuse(f"zarr format {said['zarr_format']!r}", "only format 2 is read here")
    kind = said["dtype"]
    if not isinstance(kind, str) or not re.fullmatch(r"[<>|=][biuf]\d+", kind):
        raise refuse(f"entries of dtype {kind!r}", "only numbers and truths are read: objects may hold code")
    dtype = np.dtype(kind)
    shape, chunks = (tuple(int(size) for size in said[part]) for part in ("shape", "chunks"))
    if any(not isinstance(size, int) for size in (*said["shape"], *said["chunks"])):
        raise refuse(f"shape {said['shape']!r}", "the file is damaged")
    if not (1 <= len(shape) == len(chunks) <= 8) or min(shape) < 0 or min(chunks) < 1 or max(shape) > 1 << 40:
        raise refuse(f"shape {shape} in chunks of {chunks}", "the file is damaged")
    if math.prod(chunks) * dtype.itemsize > MAX_CHUNK:
        raise refuse(f"chunks of {chunks} {dtype} are more than 1 GiB", "write the array in smaller chunks")
    if math.prod(-(-n // c) for n, c in zip(shape[1:], chunks[1:], strict=True)) > 4096:
        raise refuse(f"chunks of {chunks} for rows of {shape[1:]}", "write whole rows in a chunk")
    codec = said["compressor"]
    if codec is not None and (not isinstance(codec, dict) or codec.get("id") not in CODECS):
        told = codec.get("id") if isinstance(codec, dict) else codec
        raise refuse(
            f"compressor {told!r} is not read", f"{', '.join(CODECS)} are: convert it with zarr-python"
        )
    if said.get("filters"):
        told = [f.get("id") if isinstance(f, dict) else f for f in said["filters"]]
        raise refuse(f"filters {told} are not read", "write the array without filters")
    order = said.get("order", "C")
    separator = said.get("dimension_separator", ".")
    if order not in ("C", "F") or separator not in (".", "/"):
        raise refuse(f"order {order!r}, separator {separator!r}", "the file is damaged")
    fill = said.get("fill_value")
    value = dtype.type(0 if fill is None else float(fill) if isinstance(fill, str) else fill)
    return Array(files, name, shape, chunks, dtype, order, value, codec, separator)


def decode_chunk(
    data: bytes, codec: dict[str, Any] | None, size: int, chunk: tuple[int, ...], dtype: np.dtype[Any]
) -> bytes | NDArray[Any]:
    """A chunk's bytes, which must come out as `size` bytes.

    Raises:
        ValueError: they do not, or are not of this codec.
        DataError: a package is missing.
    """
    kind = "" if codec is None else str(codec["id"])
    if kind in IMAGE_CODECS:
        return _decode_image(data, kind, chunk, dtype)
    out: Any = data
    try:
        if kind in ("zlib", "gzip"):
            out = zlib.decompressobj(zlib.MAX_WBITS | 32).decompress(data, size + 1)
        elif kind == "bz2":
            out = bz2.BZ2Decompressor().decompress(data, size + 1)
        elif kind:
            if _declared(kind, data) != size:  # they allocate what the data declare
                raise ValueError(f"{kind} data of {_declared(kind, data)} bytes, expected {size}")
            from numcodecs import LZ4, Blosc, Zstd

            decode = {"blosc": Blosc.decode, "lz4": LZ4.decode, "zstd": Zstd.decode}[kind]
            out = decode({"blosc": Blosc, "lz4": LZ4, "zstd": Zstd}[kind](), data)
    except (zlib.error, RuntimeError, OSError, EOFError, struct.error, MemoryError) as error:
        raise ValueError(f"{kind}: {error}") from error
    if len(memoryview(out).cast("B")) != size:
        raise ValueError(f"{len(memoryview(out).cast('B'))} bytes, expected {size}")
    return bytes(out)


def _declared(kind: str, data: bytes) -> int:
    """The size that compressed data say they have."""
    if kind == "blosc":
        if len(data) < 16 or struct.unpack_from("<I", data, 12)[0] != len(data):
            raise ValueError("a Blosc chunk that is cut off")
        return int(struct.unpack_from("<I", data, 4)[0])
    if kind == "lz4":
        return int(struct.unpack_from("<i", data, 0)[0])
    if data[:4] != b"\x28\xb5\x2f\xfd":
        raise ValueError("no Zstandard frame")
    head = data[4]
    width = (1 if head & 0x20 else 0, 2, 4, 8)[head >> 6]
    at = 5 + (0 if head & 0x20 else 1) + (0, 1, 2, 4)[head & 3]
    if not width:
        raise ValueError("a Zstandard frame without a size")
    return int.from_bytes(data[at : at + width], "little") + (256 if width == 2 else 0)


def _decode_image(data: bytes, kind: str, chunk: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    try:
        import imagecodecs
    except ImportError as error:
        raise DataError(
            f"images of codec {kind} need the package imagecodecs", "install it: pip install 'regrip[jxl]'"
        ) from error
    shape = tuple(n for n in chunk if n != 1) or (1,)
    out = np.zeros(shape, dtype.newbyteorder("="))  # of the declared size, whatever the image says of itself
    try:
        getattr(imagecodecs, IMAGE_CODECS[kind][0])(data, out=out)
    except (imagecodecs.DelayedImportError, ImportError) as error:
        raise DataError(f"imagecodecs was built without {kind}", "install its wheel from PyPI") from error
    except (RuntimeError, ValueError, TypeError, MemoryError, OSError) as error:
        raise ValueError(f"{kind}: {error}") from error
    return out
