"""The parquet tables of LeRobot's sets: columns to arrays and back, a few row groups at a time."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ..frames import EncodedFrames
from ..ledger import DataError
from ..recording import StreamSpec

_DAMAGED = "the file is damaged: take it from its source again, or drop its episodes"
UNFINISHED = (
    "the recording was killed before LeRobot's finalize(), which writes the footer: the rows of this file "
    "cannot be read, the other files can; move it out of the set, or record its episodes again"
)
_ERRORS = (pa.ArrowException, OSError, ValueError, KeyError, IndexError, EOFError, MemoryError, OverflowError,
           TypeError, AttributeError)  # fmt: skip


@contextmanager
def reading(path: Path, key: str = "", episode: int | None = None) -> Iterator[None]:
    """Whatever pyarrow finds wrong with a file, as a DataError."""
    try:
        yield
    except DataError:
        raise
    except FileNotFoundError as error:
        raise DataError(
            "the file is missing", "take the set from its source again", file=path, episode=episode, key=key
        ) from error
    except _ERRORS as error:
        raise DataError(
            f"the parquet file cannot be read ({type(error).__name__}: {str(error)[:200]})",
            _DAMAGED,
            file=path,
            episode=episode,
            key=key,
        ) from error


def open_parquet(path: Path) -> pq.ParquetFile:
    """Open a table.

    Raises:
        DataError: missing, damaged, or without a footer (a recording that was killed).
    """
    with reading(path):
        with path.open("rb") as file:
            head = file.read(4)
            file.seek(0, 2)
            size = file.tell()
            file.seek(max(size - 4, 0))
            tail = file.read(4)
        if head == b"PAR1" and (tail != b"PAR1" or size < 12):
            raise DataError("the parquet file has no footer", UNFINISHED, file=path)
        return pq.ParquetFile(path, memory_map=False)


@dataclass
class Tables:
    """Row ranges of parquet files. The last row groups are kept: old sets have a whole file in one."""

    most_files: int = 4
    _files: OrderedDict[Path, pq.ParquetFile] = field(default_factory=OrderedDict)
    _last: tuple[tuple[Path, int, int, tuple[str, ...]], pa.Table] | None = None

    def file(self, path: Path) -> pq.ParquetFile:
        """An open file; a few stay open."""
        if path not in self._files:
            self._files[path] = open_parquet(path)
            while len(self._files) > self.most_files:
                self._files.popitem(last=False)[1].close()
        self._files.move_to_end(path)
        return self._files[path]

    def rows(self, path: Path, columns: Sequence[str], first: int, count: int) -> pa.Table:
        """`count` rows of some columns from row `first` of the file on.

        Raises:
            DataError: it cannot be read, or has fewer rows.
        """
        with reading(path):
            file = self.file(path)
            groups, before = _groups(file, first, count)
            key = (path, groups.start, groups.stop, tuple(columns))
            if self._last is None or self._last[0] != key:
                self._last = None
                self._last = (key, file.read_row_groups(list(groups), columns=list(columns)))
            table = self._last[1].slice(first - before, count)
            if table.num_rows != count:
                raise DataError(f"{table.num_rows} rows where there should be {count}", _DAMAGED, file=path)
            return table

    def close(self) -> None:
        for file in self._files.values():
            file.close()
        self._files.clear()
        self._last = None


def _groups(file: pq.ParquetFile, first: int, count: int) -> tuple[range, int]:
    """The row groups that hold some rows, and the first row of the first of them."""
    start = None
    row = before = 0
    for group in range(file.num_row_groups):
        rows = file.metadata.row_group(group).num_rows
        if start is None and row + rows > first:
            start, before = group, row
        row += rows
        if start is not None and row >= first + count:
            return range(start, group + 1), before
    raise ValueError(f"rows {first} to {first + count} of {row}")


@dataclass
class ColumnFrames:
    """Image files in a parquet column; the bytes of the episode are read when the first is asked for."""

    path: Path
    column: str
    first: int
    count: int
    shape: tuple[int, ...]
    episode: int

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[NDArray[Any]]:
        return (self[index] for index in range(self.count))

    def __getitem__(self, index: int) -> NDArray[Any]:
        where = f"{self.path}, episode {self.episode}, {self.column}"
        return EncodedFrames(self._files, self.shape, where)[index]

    def encoded(self, index: int) -> bytes | None:
        return self._files[index]

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k != "_files"}

    @cached_property
    def _files(self) -> list[bytes]:
        with reading(self.path, self.column, self.episode):
            file = open_parquet(self.path)
            try:
                groups, row = _groups(file, self.first, self.count)
                found: list[bytes] = []
                for batch in file.iter_batches(64, row_groups=list(groups), columns=[self.column]):
                    low, high = max(self.first - row, 0), self.first + self.count - row
                    row += batch.num_rows
                    part = batch.column(self.column)[low : max(high, low)]
                    found += self._bytes(part, len(found))
                    if len(found) >= self.count:
                        break
            finally:
                file.close()
        return found

    def _bytes(self, column: Any, frame: int) -> list[bytes]:
        if pa.types.is_struct(column.type):
            column = column.field("bytes")
        found: list[bytes] = column.to_pylist()
        for index, data in enumerate(found):
            if not isinstance(data, bytes):
                raise DataError(
                    "the image is not in the parquet file, which names a file elsewhere or nothing",
                    "embed the images: LeRobot does so in save_episode()",
                    file=self.path,
                    episode=self.episode,
                    frame=frame + index,
                    key=self.column,
                )
        return found


def numbers(column: Any, spec: StreamSpec, path: Path, episode: int) -> NDArray[Any]:
    """A column as an array (N, *shape) of the stream's dtype.

    Raises:
        DataError: an empty entry, a row of another length, another type; frame and key are named.
    """

    def wrong(what: str, bad: Any) -> DataError:
        frame = int(np.flatnonzero(bad)[0]) if bad.any() else None
        return DataError(
            what, "drop the episode or this stream", file=path, episode=episode, frame=frame, key=spec.key
        )

    with reading(path, spec.key, episode):
        flat = _plain(column)
        rows = len(flat)
        for size in spec.shape:
            if not _is_list(flat.type):
                if spec.shape == (1,):
                    break  # one entry: some sets hold it as a number
                raise wrong(f"rows of type {column.type}, expected shape {list(spec.shape)}", np.zeros(0))
            if flat.null_count:
                raise wrong("a row is empty", np.asarray(flat.is_null()))
            lengths = np.asarray(_lengths(flat))
            if (lengths != size).any():
                per_row: Any = (lengths != size).reshape(rows, -1).any(1)
                raise wrong(f"a row whose shape is not {list(spec.shape)}", per_row)
            flat = _plain(flat.flatten())
        if spec.shape == () and _is_list(flat.type):
            if len(flat.flatten()) != rows:
                raise wrong(f"rows of type {column.type}, expected one number", np.zeros(0))
            flat = _plain(flat.flatten())
        if flat.null_count:
            per_row = np.asarray(flat.is_null()).reshape(rows, -1).any(1)
            raise wrong("an entry is empty", per_row)
        values = np.asarray(flat.to_numpy(zero_copy_only=False))
        if values.dtype != np.dtype(spec.dtype):
            if not np.can_cast(values.dtype, spec.dtype, "safe"):
                raise wrong(f"it holds {values.dtype}, expected {spec.dtype}", np.zeros(0))
            values = values.astype(spec.dtype)
        return np.array(values.reshape(rows, *spec.shape))  # a copy: the table goes


def integers(column: Any, key: str, path: Path, episode: int = 0) -> NDArray[np.int64]:
    """A bookkeeping column, which some writers have as another integer type."""
    kind = _plain(column).type
    if not pa.types.is_integer(kind):
        raise DataError(f"it holds {kind}, expected int64", _DAMAGED, file=path, key=key)
    dtype = "uint64" if kind == pa.uint64() else "int64"
    return numbers(column, StreamSpec(key, "vector", dtype, ()), path, episode).astype(np.int64)


def stored_dtype(kind: Any) -> str:
    """Numpy's name of what a column of numbers holds; ``""`` if it holds something else."""
    while True:
        if isinstance(kind, pa.BaseExtensionType):
            kind = kind.storage_type
        elif _is_list(kind):
            kind = kind.value_type
        else:
            break
    try:
        return str(np.dtype(kind.to_pandas_dtype()).name) if pa.types.is_primitive(kind) else ""
    except (NotImplementedError, TypeError):
        return ""


def _plain(column: Any) -> Any:
    """One array of plain type: chunks joined, Hugging Face's extension types taken off."""
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)
    if isinstance(column, pa.ChunkedArray):  # no chunk at all
        column = pa.array([], column.type)
    return column.storage if isinstance(column, pa.ExtensionArray) else column


def _is_list(kind: Any) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind) or pa.types.is_large_list(kind))


def _lengths(column: Any) -> Any:
    if pa.types.is_fixed_size_list(column.type):
        return np.full(len(column), column.type.list_size)
    return column.value_lengths()


def column_of(spec: StreamSpec, values: Any) -> Any:
    """An arrow column of a stream's rows, in the form LeRobot has for its shape."""
    if spec.kind == "text":
        return pa.array(list(values), pa.string())
    rows = np.ascontiguousarray(values)
    column = pa.array(rows.reshape(-1))
    if rows.shape[1:] in ((), (1,)):
        return column
    if rows.ndim == 2:
        return pa.FixedSizeListArray.from_arrays(column, rows.shape[1])
    for size in rows.shape[:0:-1]:
        ends = np.arange(0, len(column) + 1, size, dtype=np.int32)
        column = pa.ListArray.from_arrays(pa.array(ends), column)
    return column


IMAGE_TYPE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def image_column(files: Sequence[bytes]) -> Any:
    """Image files as LeRobot embeds them."""
    suffix = {b"\x89": "png", b"\xff": "jpg", b"I": "tiff", b"M": "tiff", b"R": "webp"}
    paths = [f"frame-{i:06d}.{suffix.get(data[:1], 'png')}" for i, data in enumerate(files)]
    return pa.StructArray.from_arrays(
        [pa.array(list(files), pa.binary()), pa.array(paths, pa.string())], fields=list(IMAGE_TYPE)
    )


def write_table(path: Path, columns: Mapping[str, Any]) -> None:
    """One table as one row group, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.table(dict(columns))
    part = path.with_name(path.name + ".part")
    pq.write_table(table, part, compression="snappy", row_group_size=max(table.num_rows, 1))
    part.replace(path)


def write_tasks(path: Path, tasks: Sequence[str]) -> None:
    """tasks.parquet, whose index is the task: pandas finds that in a note in the schema."""
    import json

    def about(name: str, kind: str, numpy_kind: str) -> dict[str, Any]:
        return {
            "name": name,
            "field_name": name,
            "pandas_type": kind,
            "numpy_type": numpy_kind,
            "metadata": None,
        }

    note = {
        "index_columns": ["task"],
        "column_indexes": [
            {"name": None, "field_name": None, "pandas_type": "unicode", "numpy_type": "object",
             "metadata": {"encoding": "UTF-8"}}
        ],
        "columns": [about("task_index", "int64", "int64"), about("task", "unicode", "object")],
        "creator": {"library": "pyarrow", "version": pa.__version__},
        "pandas_version": "2.2.3",
    }  # fmt: skip
    table = pa.table(
        {"task_index": pa.array(range(len(tasks)), pa.int64()), "task": pa.array(list(tasks), pa.string())}
    ).replace_schema_metadata({"pandas": json.dumps(note)})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, compression="snappy")
