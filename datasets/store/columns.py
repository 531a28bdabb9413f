"""Columns added to a store later: rewards, success, advantages; no frame is touched."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..contents_json import check_stream
from ..formats import WriteOptions
from ..ledger import DataError
from ..recording import Contents, StreamSpec, Track
from .array_metadata import End
from .files import WriterLock, disk_error, refuse_links, sync, sync_paths
from .layout import Column, check_keys, provenance, write_head
from .log import ColumnLine
from .reader import Store
from .recover import committed, recover
from .stream_writer import StreamWriter


def add_column(
    path: Path,
    spec: StreamSpec,
    rows: Iterable[NDArray[Any] | None],
    *,
    like: str = "action",
    source: str = "",
    replace: bool = False,
) -> None:
    """Give every episode of a set one more stream of numbers, on the clock of one it has.

    Readers see the column when all of it is on the disk, and not before; readers that are open see the set as
    it was. A process killed meanwhile leaves the set without it.

    Args:
        path: of the set.
        spec: of the new stream, a vector.
        rows: for each episode, (N,*shape) with a row for each of `like`; None where an episode has none.
        like: the stream whose times the rows have.
        source: who made the numbers, and how, in words; kept in the set's provenance.
        replace: whether a stream of that key may be there; it is removed once the new one is whole.

    Raises:
        DataError: the rows do not fit, the key is taken, or another process writes to the set.
    """
    check_stream(spec)
    if spec.kind != "vector":
        raise DataError(
            f"a column of kind {spec.kind}", "a column holds numbers: make it a vector", key=spec.key
        )
    if not path.is_dir():
        raise DataError("there is no such folder", "check the path", file=path)
    refuse_links(path)
    try:
        lock = WriterLock(path)
        try:
            _add(path, spec, rows, like, source, replace)
        finally:
            lock.release()
    except OSError as error:
        raise disk_error(error, path) from error


def _add(
    path: Path, spec: StreamSpec, rows: Iterable[NDArray[Any] | None], like: str, source: str, replace: bool
) -> None:
    store = Store(path)
    head = store.head
    if spec.key in head.contents.streams and not replace:
        raise DataError(
            "the set has a stream of this key", "choose another key, or say replace", file=path, key=spec.key
        )
    if like not in head.contents.streams or like == spec.key:
        raise DataError(
            f"there is no stream {like!r} to take the times of",
            f"name one of {', '.join(key for key in head.contents.streams if key != spec.key)}",
            file=path,
            key=spec.key,
        )
    recover(path, head)  # also removes a column that an earlier process left unfinished
    root = Path(os.path.realpath(path))
    known = head.columns.get(spec.key)
    old = head.folder(root, spec.key) if spec.key in head.contents.streams else None
    next_id, _ = committed(root, head, store.log)
    head.columns[spec.key] = Column(known.version + 1 if known else 1, next_id)
    head.contents = Contents(
        {**head.contents.streams, spec.key: spec},
        *(getattr(head.contents, name) for name in ("rate_hz", "robot", "conventions", "spec", "about")),
    )
    check_keys(head.contents)
    folder = head.folder(root, spec.key)
    try:
        _write(store, folder, spec, rows, like)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    finally:
        store.close()
    columns = dict(head.provenance.get("columns") or {})
    head.provenance = {**head.provenance, "columns": {**columns, spec.key: provenance(source)}}
    head.summary = {}  # the content hash is another now
    write_head(root, head)
    if old is not None:
        shutil.rmtree(old)


def _write(
    store: Store, folder: Path, spec: StreamSpec, rows: Iterable[NDArray[Any] | None], like: str
) -> None:
    """The column's arrays, and which rows belong to which episode."""
    writer = StreamWriter(folder, spec, End(), WriteOptions(), None)
    lines = []
    given = iter(rows)
    nothing = object()
    try:
        for episode, record in enumerate(store.records):
            values: Any = next(given, nothing)
            if values is nothing:
                raise DataError(
                    f"there are rows for {episode} episodes, the set has {len(store)}",
                    "give an array, or None, for every episode",
                    key=spec.key,
                )
            span = record.spans.get(like)
            if values is None:
                lines.append(ColumnLine(record.id, None))
                continue
            count = len(span) if span else 0
            if len(values) != count or not count:
                raise DataError(
                    f"{len(values)} rows, {like} has {count}",
                    f"give a row for each of {like}, or None",
                    episode=episode,
                    key=spec.key,
                )
            assert span is not None, "it has rows"
            try:
                times = store.times(like, np.arange(span.first, span.last))
                writer.track(Track(np.asarray(values), times))
            except DataError as error:
                raise DataError(error.what, error.remedy, episode=episode, key=spec.key) from error
            lines.append(ColumnLine(record.id, writer.span()))
            writer.flush().wait()
            writer.finished()
        if next(given, nothing) is not nothing:
            raise DataError(
                f"there are rows for more than the {len(store)} episodes of the set",
                "give an array, or None, for every episode",
                key=spec.key,
            )
        sync_paths(writer.write_shapes())
        with open(folder / "episodes.jsonl", "wb") as file:
            file.writelines(line.to_line() for line in lines)
            file.flush()
            os.fsync(file.fileno())
        sync(folder)
        sync(folder.parent)
    finally:
        writer.close()
