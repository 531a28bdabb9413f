"""Arrays of a store whose metadata is not what regrip writes: read by zarr-python, slowly, within limits."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..ledger import DataError
from ..recording import StreamSpec
from .layout import CODEC

# No codec that runs foreign code or makes objects.
_CODECS = {"bytes", "zstd", "gzip", "blosc", "transpose", "crc32c", "sharding_indexed", CODEC}
_MAX_CHUNK = 1 << 30
# What zarr-python and its codecs raise on damaged metadata and chunks.
_ERRORS = (
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    IndexError,
    AssertionError,
    OSError,
    RuntimeError,
    ArithmeticError,
    MemoryError,
    NotImplementedError,
    RecursionError,
)


class SlowArray:
    """Rows of one zarr array through zarr-python; images too."""

    def __init__(self, root: Path, array: Path, spec: StreamSpec, rows: int, key: str, metadata: Any) -> None:
        """Check the metadata; nothing is read.

        Raises:
            DataError: it is not an array of this stream, or not safe to read.
        """
        self._root, self._array, self.spec, self.rows, self._key = root, array, spec, rows, key
        self._held: Any = None
        try:
            shape, grid = metadata["shape"], metadata["chunk_grid"]["configuration"]["chunk_shape"]
            codecs = list(_all_codecs(metadata["codecs"]))
            sharded = [one for one in codecs if one["name"] == "sharding_indexed"]
            chunks = [one["configuration"]["chunk_shape"] for one in sharded] or [grid]
            entries = math.prod(grid) // max(1, math.prod(chunks[-1]))
            if list(shape[1:]) != list(spec.shape) or metadata["data_type"] != spec.dtype:
                raise ValueError(
                    f"it holds {metadata['data_type']} {shape}, not {spec.dtype} (N,*{spec.shape})"
                )
            if not all(type(size) is int and size >= 0 for size in (*shape, *grid, *chunks[-1])):
                raise ValueError("a size is no number")
            if shape[0] < rows:
                raise ValueError(f"it holds {shape[0]} rows, the log has {rows}")
            size = math.prod(chunks[-1]) * np.dtype(spec.dtype).itemsize
            if max(size, 16 * entries) > _MAX_CHUNK:
                raise ValueError(f"a chunk of {size} bytes")
            if unknown := {one["name"] for one in codecs} - _CODECS:
                raise ValueError(f"the codecs {', '.join(map(str, unknown))} are not known")
        except _ERRORS as error:
            raise self._error("its zarr.json cannot be used", error) from error

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_held": None}

    def slice(self, first: int, last: int) -> NDArray[Any]:
        return self._get(slice(first, last), last - first)

    def take(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        rows = np.asarray(rows, np.int64)
        if len(rows) and (rows.min() < 0 or rows.max() >= self.rows):
            raise IndexError(f"{self._key} has {self.rows} rows")
        kept, back = np.unique(rows, return_inverse=True)
        return np.asarray(self._get(kept, len(kept))[back])

    def decode(self, row: int) -> NDArray[Any]:
        if not 0 <= row < self.rows:
            raise IndexError(f"{self._key} has {self.rows} rows, row {row} was asked for")
        return np.asarray(self._get(slice(row, row + 1), 1)[0])

    def encoded(self, row: int) -> bytes | None:
        return None

    def probe(self) -> None:
        """Open it, and read a row if there is one.

        Raises:
            DataError: zarr-python cannot.
        """
        self._get(slice(0, min(self.rows, 1)), 1)

    def close(self) -> None:
        self._held = None

    def _get(self, which: Any, count: int) -> NDArray[Any]:
        if count * max(1, math.prod(self.spec.shape)) > 1 << 31:
            raise DataError(f"{count} rows at once", "the set is damaged", file=self._array, key=self._key)
        try:
            if self._held is None:
                self._held = self._open()
            return np.asarray(self._held.oindex[which])
        except _ERRORS as error:
            raise self._error("zarr-python cannot read it", error) from error

    def _open(self) -> Any:
        import zarr

        from . import zarr_codec  # noqa: F401 - registers our codec, also where nothing is installed

        for folder, folders, files in os.walk(self._array):
            for name in (*folders, *files):
                if os.path.islink(os.path.join(folder, name)):
                    raise ValueError(f"{name} is a link")
        if not os.path.realpath(self._array).startswith(f"{self._root}{os.sep}"):
            raise ValueError("its folder lies outside of the set")
        return zarr.open_array(str(self._array), mode="r")

    def _error(self, what: str, error: BaseException) -> DataError:
        if isinstance(error, DataError):
            return DataError(error.what, error.remedy, file=self._array, frame=error.frame, key=self._key)
        return DataError(
            f"{what} ({type(error).__name__}: {error})",
            "run `regrip data repair`, or take the set from its source again",
            file=self._array,
            key=self._key,
        )


def _all_codecs(codecs: Any) -> Iterator[Any]:
    for one in codecs:
        yield one
        inner = one.get("configuration", {})
        for name in ("codecs", "index_codecs"):
            yield from _all_codecs(inner.get(name, ()))
