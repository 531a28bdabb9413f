"""What a killed writer left behind, cleared away before anything is added."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np

from ..formats import WriteOptions
from ..ledger import DataError, Problem
from ..recording import StreamSpec
from .array_metadata import ArrayMetadata, End, count_of
from .files import read_json, sync
from .layout import SHARD, Head, arrays_of, chunk_path, chunk_rows, is_frames, row_bytes, same_array
from .log import ColumnLine, Log, Record, Span, read_episodes, read_log, unseal
from .reader import Store
from .shards import EMPTY, INDEX, index_bytes, inside, parse_index


def committed(root: Path, head: Head, log: Log) -> tuple[int, dict[str, End]]:
    """The next episode's number, and how far each stream is taken, by damaged episodes too."""
    ends = {key: End() for key in head.contents.streams}
    room = {key: _room(head.folder(root, key), spec) for key, spec in head.contents.streams.items()}
    known: list[tuple[int, dict[str, Span]]] = []
    for line in damaged_lines(root):
        try:
            record = Record.from_json(unseal(line))
        except (ValueError, TypeError, KeyError, AttributeError):
            continue  # nothing is known of it
        spans = {key: span for key, span in record.spans.items() if record.id >= head.until(key)}
        known.append((record.id, spans))
    for key in head.columns:
        lines = read_log(root, head.folder(root, key) / "episodes.jsonl", ColumnLine.from_json)
        known += [(line.id, {key: line.span}) for line in lines.records if line.span]
    next_id = max((head.until(key) for key in head.columns), default=0)
    known = [
        (number, {key: span for key, span in spans.items() if span.last <= room.get(key, 0)})
        for number, spans in known
    ]  # what claims rows that no file has takes none
    for number, spans in [*known, *((one.id, one.spans) for one in log.records)]:
        next_id = max(next_id, number + 1)
        for key, span in spans.items():
            ends[key] = ends[key].after(span)
    return next_id, ends


def _room(folder: Path, spec: StreamSpec) -> int:
    """Rows that the files of a stream have room for."""
    base = folder / "rows" / "c"
    names = [entry.name for entry in base.iterdir()] if base.is_dir() else []
    numbers = [int(name) for name in names if name.isdecimal() and len(name) < 12]
    if is_frames(spec):
        return (max(numbers, default=-1) + 1) * SHARD
    array = arrays_of(spec)["rows"]
    if not row_bytes(array):
        return 1 << 31  # rows without entries need no file
    return (max(numbers, default=-1) + 1) * chunk_rows(array)


def damaged_lines(root: Path) -> list[bytes]:
    """Lines that `repair` took out of the log."""
    log = read_log(root, root / "damaged.jsonl", lambda data: str(data["line"]).encode("latin-1", "replace"))
    return list(log.records)


def recover(path: Path, head: Head) -> tuple[Log, int, dict[str, End], list[Problem]]:
    """Clear away an episode that was not finished, so that a writer can go on.

    Args:
        path: of the set; its lock is held.
        head: what it holds.

    Returns:
        The log, the next episode's number, how far each stream is taken, and what was cleared away.

    Raises:
        DataError: finished episodes are damaged: only `repair` may touch that.
        OSError: the disk refuses.
    """
    root = Path(os.path.realpath(path))
    log, problems = read_episodes(root, head)
    if log.bad:
        raise DataError(
            f"line {log.bad[0][0]} of episodes.jsonl is damaged ({log.bad[0][2]})",
            "run `regrip data repair` first",
            file=path,
        )
    for key, spec in head.contents.streams.items():
        require_ours(root, head.folder(root, key), spec)
    if log.torn:
        with open(root / "episodes.jsonl", "r+b") as file:
            file.truncate(log.whole)
            os.fsync(file.fileno())
    next_id, ends = committed(root, head, log)
    for key, spec in head.contents.streams.items():
        folder = head.folder(root, key)
        problems += _trim_shards(root, folder, spec, ends[key]) if is_frames(spec) else []
        _require_vectors(root, folder, spec, ends[key])
    problems += _clear_leftovers(root, head)
    return log, next_id, ends, problems


def require_ours(root: Path, folder: Path, spec: StreamSpec) -> None:
    """Refuse to touch arrays that regrip did not lay out.

    Raises:
        DataError: there is one.
    """
    for name, ours in ArrayMetadata(folder, spec, WriteOptions()).all(End()).items():
        path = folder / name / "zarr.json"
        try:
            found = read_json(root, path)
        except (FileNotFoundError, DataError):
            continue  # it is written anew
        if not same_array(found, ours, frames=is_frames(spec) and name == "rows"):
            raise DataError(
                "the metadata of the array is not what regrip writes, so nothing can be added to it",
                "convert the set anew, or run `regrip data repair`",
                file=path,
                key=spec.key,
            )


def _trim_shards(root: Path, folder: Path, spec: StreamSpec, end: End) -> list[Problem]:
    """Take what is beyond the commit out of the last shard, and shards beyond it away."""
    last, local = divmod(end.rows, SHARD)
    dimensions = 1 + len(spec.shape)
    base = folder / "rows" / "c"
    problems = []
    for entry in sorted(base.iterdir()) if base.is_dir() else []:
        if entry.name.isdecimal() and int(entry.name) >= last + bool(local):
            shutil.rmtree(entry)
            problems.append(_cleared("images of an episode that was not finished", entry, root, spec))
    if not local:
        return problems
    path = chunk_path(folder / "rows", last, dimensions)
    try:
        with open(path, "r+b", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            index, whole = parse_index(file.read(INDEX))
            known = index[:local]
            sound = whole or _fits(root, spec, last, local)
            bad = ~inside(index, size)[:local] & (known[:, 0] != EMPTY)
            if not sound or bad.any() or size < INDEX:
                raise DataError(
                    "the shard or its index is damaged",
                    "run `regrip data repair` first",
                    file=path,
                    key=spec.key,
                )
            known = known[known[:, 0] != EMPTY]
            tail = max(INDEX, int((known[:, 0] + known[:, 1]).max(initial=0)))
            if not whole or (index[local:] != EMPTY).any() or size > tail:
                index[local:] = EMPTY
                file.seek(16 * local)
                file.write(index_bytes(index)[16 * local :])
                file.truncate(tail)
                os.fsync(file.fileno())
                problems.append(_cleared("images of an episode that was not finished", path, root, spec))
    except FileNotFoundError:
        raise DataError(
            "the shard is missing", "run `regrip data repair` first", file=path, key=spec.key
        ) from None
    return problems


def _fits(root: Path, spec: StreamSpec, shard: int, local: int) -> bool:
    """Whether the finished episodes of a shard whose index does not fit its crc are whole all the same."""
    store = Store(root)
    try:
        rows = np.zeros(SHARD, bool)
        for first, last in store.bounds(spec.key) - shard * SHARD:
            rows[max(first, 0) : max(last, 0)] = True
        return bool((store.rows_that_fit(spec.key, shard) | ~rows)[:local].all())
    finally:
        store.close()


def _require_vectors(root: Path, folder: Path, spec: StreamSpec, end: End) -> None:
    """Refuse to go on behind a file that is cut short: the hole would look like rows of zeros."""
    for name, array in arrays_of(spec).items():
        rows, size = count_of(name, end), row_bytes(array)
        if not rows or not size:
            continue
        number, local = divmod(rows - 1, chunk_rows(array))
        path = chunk_path(folder / name, number, 1 + len(array.shape))
        found = path.stat().st_size if path.is_file() else -1
        if found < (local + 1) * size:
            raise DataError(
                "the file is missing" if found < 0 else f"the file is cut short to {found} bytes",
                "run `regrip data repair` first",
                file=path,
                key=spec.key,
            )


def _clear_leftovers(root: Path, head: Head) -> list[Problem]:
    """Remove columns that were never finished, or were replaced, and files that were never put in place."""
    problems = []
    used = {head.folder(root, key).name for key in head.contents.streams}
    streams = root / "streams"
    for entry in sorted(streams.iterdir()) if streams.is_dir() else []:
        name, at, version = entry.name.rpartition("@")
        if at and name and version.isdecimal() and entry.name not in used and entry.is_dir():
            shutil.rmtree(entry)
            problems.append(
                Problem("a column that is not in use", "it was removed", True, str(entry.relative_to(root)))
            )
    for part in [*root.glob(".*.part"), *streams.glob("*/.*.part"), *streams.glob("*/*/.*.part")]:
        part.unlink(missing_ok=True)
    if problems:
        sync(streams)
    return problems


def _cleared(what: str, path: Path, root: Path, spec: StreamSpec) -> Problem:
    return Problem(what, "they were cleared away", True, str(path.relative_to(root)), key=spec.key)
