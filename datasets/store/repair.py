"""Mending a store: an unfinished episode is cleared away, damaged ones are taken out and kept apart."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from ..contents_json import dumps
from ..formats import WriteOptions
from ..ledger import DataError, Problem
from ..recording import StreamSpec
from .array_metadata import ArrayMetadata, End, count_of
from .files import WriterLock, disk_error, read_json, refuse_links, replace
from .layout import (
    SHARD,
    Head,
    arrays_of,
    chunk_path,
    chunk_rows,
    is_frames,
    read_head,
    row_bytes,
    same_array,
    write_head,
)
from .log import Span, read_episodes, seal
from .reader import Store
from .recover import committed, recover, require_ours
from .shards import EMPTY, INDEX, empty_index, index_bytes, inside, parse_index
from .slow import SlowArray


def repair(path: Path, *, deep: bool = False) -> list[Problem]:
    """Make a set whole again.

    What a killed writer left is cleared away; metadata, shapes and indices are written anew where they are
    damaged. An episode whose rows are not all there is taken out: its line goes to ``damaged.jsonl``, its
    rows stay where they are.

    Args:
        path: of the set.
        deep: read every stored byte and compare the content hashes.

    Returns:
        What was found, and what was done about it; empty if nothing was wrong.

    Raises:
        DataError: nothing says what the set holds, another process writes to it, or the disk refuses.
    """
    if not path.is_dir():
        raise DataError("there is no such folder", "check the path", file=path)
    refuse_links(path)
    try:
        lock = WriterLock(path)
        try:
            return _repair(Path(os.path.realpath(path)), deep)
        finally:
            lock.release()
    except OSError as error:
        raise disk_error(error, path) from error


def _repair(root: Path, deep: bool) -> list[Problem]:
    head, problems = read_head(root)
    problems += _copies(root, head)
    log, found = read_episodes(root, head)
    problems += found
    if log.bad or log.torn:
        _keep_apart(root, [(line, why) for _, line, why in log.bad])
        _rewrite(root, log.lines)
    log, _ = read_episodes(root, head)
    _, ends = committed(root, head, log)
    for key, spec in head.contents.streams.items():
        problems += _metadata_that_lies(root, head, key, spec, ends[key])
    problems += _take_out_damaged(root, head, deep)
    log, _ = read_episodes(root, head)
    _, ends = committed(root, head, log)
    odd = 0
    for key, spec in head.contents.streams.items():
        folder, end = head.folder(root, key), ends[key]
        try:
            require_ours(root, folder, spec)
        except DataError as error:  # but zarr-python can follow it
            odd += 1
            file = str(Path(error.file).relative_to(root))
            problems.append(
                Problem(error.what, "it was left as it is: convert the set anew", file=file, key=key)
            )
            continue
        problems += _mend_metadata(root, folder, spec, end)
        if is_frames(spec):
            spans = [one.spans[key] for one in log.records if key in one.spans]
            problems += _mend_shards(root, folder, spec, end, spans)
        problems += _mend_sizes(root, folder, spec, end)
    if not odd:
        problems += recover(root, head)[3]
    return list(dict.fromkeys(problems))  # a log that stays damaged was read more than once


def _copies(root: Path, head: Head) -> list[Problem]:
    """Both descriptions of the set, where one is damaged or older."""
    content = dumps(head.to_json(), "the contents", indent=1)
    if all(_bytes(root / name) == content for name in ("zarr.json", "zarr.backup.json")):
        return []
    for name in ("zarr.json", "zarr.backup.json"):
        try:
            other = Head.from_json(read_json(root, root / name), name)
            other.others = head.others
            if other.to_json() == head.to_json():
                continue
        except (FileNotFoundError, DataError):
            pass
        write_head(root, head)
        return [
            Problem("one of the two descriptions of the set was damaged", "it was written anew", True, name)
        ]
    return []  # the same in another form, as zarr-python writes it


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""


def _keep_apart(root: Path, lines: list[tuple[bytes, str]]) -> None:
    """Write lines to ``damaged.jsonl``, once each, before they leave the log."""
    path = root / "damaged.jsonl"
    have = _bytes(path)
    if have and not have.endswith(b"\n"):
        have += b"\n"
    for line, why in lines:
        text = dumps(line.decode("latin-1"), "a line")
        if text not in have:
            have += seal(dumps({"why": why, "line": line.decode("latin-1")}, "a line"))
    if lines:
        replace(path, have)


def _rewrite(root: Path, lines: list[bytes]) -> None:
    replace(root / "episodes.jsonl", b"".join(lines))


def _take_out_damaged(root: Path, head: Head, deep: bool) -> list[Problem]:
    """Episodes whose rows are not there, or do not fit their hashes."""
    store = Store(root)
    problems: list[Problem] = []
    kept, damaged = [], []
    for episode, line in enumerate(store.log.lines):
        found = store.verify(episode) if deep else store.look(episode)
        problems += found
        if found:
            why = "; ".join(f"{one.key}: {one.what}" for one in found)
            damaged.append((line, why))
        else:
            kept.append(line)
    store.close()
    if damaged:
        _keep_apart(root, damaged)
        _rewrite(root, kept)
        problems.append(
            Problem(
                f"{len(damaged)} of {len(kept) + len(damaged)} episodes are damaged",
                "their lines were moved to damaged.jsonl; their rows stay where they are",
                repaired=True,
                file="episodes.jsonl",
            )
        )
    return problems


def _arrays(spec: StreamSpec) -> list[str]:
    return [*arrays_of(spec), *(["rows"] if is_frames(spec) else [])]


def _metadata_that_lies(root: Path, head: Head, key: str, spec: StreamSpec, end: End) -> list[Problem]:
    """Metadata of an array that zarr-python cannot follow either, which is removed: regrip's own is known."""
    problems = []
    metadata = ArrayMetadata(head.folder(root, key), spec, WriteOptions())
    for name, ours in metadata.all(end).items():
        path = head.folder(root, key) / name / "zarr.json"
        frames = is_frames(spec) and name == "rows"
        try:
            found: Any = read_json(root, path)
            if same_array(found, ours, frames=frames):
                continue
            array = spec if frames else arrays_of(spec)[name]
            SlowArray(root, path.parent, array, count_of(name, end), key, found).probe()
            continue
        except FileNotFoundError:
            continue
        except DataError as error:
            what = error.what
        path.unlink()
        problems.append(
            Problem(
                f"the metadata of an array is damaged ({what})",
                "it was written anew",
                True,
                str(path.relative_to(root)),
                key=key,
            )
        )
    return problems


def _mend_metadata(root: Path, folder: Path, spec: StreamSpec, end: End) -> list[Problem]:
    metadata = ArrayMetadata(folder, spec, WriteOptions())
    before = {name: _bytes(folder / name / "zarr.json") for name in _arrays(spec)}
    metadata.ensure(end)
    changed = [name for name, old in before.items() if old and _bytes(folder / name / "zarr.json") != old]
    missing = [name for name, old in before.items() if not old]
    return [
        Problem(
            "the shape in an array's metadata was not that of the log"
            if name in changed
            else "metadata was missing",
            "it was written anew",
            True,
            str((folder / name / "zarr.json").relative_to(root)),
            key=spec.key,
        )
        for name in (*changed, *missing)
    ]


def _mend_shards(root: Path, folder: Path, spec: StreamSpec, end: End, spans: list[Span]) -> list[Problem]:
    """Indices that do not fit their crc, or lead nowhere; good episodes have been told from bad before."""
    problems = []
    dimensions = 1 + len(spec.shape)
    for shard in range(-(-end.rows // SHARD)):
        path = chunk_path(folder / "rows", shard, dimensions)
        begin = shard * SHARD
        near = [span for span in spans if span.last > begin and span.first < begin + SHARD]
        needed = [(max(span.first - begin, 0), min(span.last - begin, SHARD)) for span in near]
        last = shard == end.rows // SHARD
        if not path.is_file():
            if last:  # the next episode goes on in it
                path.parent.mkdir(parents=True, exist_ok=True)
                replace(path, index_bytes(empty_index()))
            continue
        with open(path, "r+b", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            index, whole = parse_index(file.read(INDEX))
            wrong = ~inside(index, size) & (index != EMPTY).any(axis=1)
            if not whole:  # entries of damaged episodes may be anything
                keep = [row for first, past in needed for row in range(first, past)]
                fresh = empty_index()
                fresh[keep] = index[keep]
                index = fresh
            index[wrong] = EMPTY
            if whole and not wrong.any():
                continue
            file.seek(0)
            file.write(index_bytes(index))
            os.fsync(file.fileno())
        problems.append(
            Problem(
                "the index of a shard was damaged",
                "it was written anew",
                True,
                str(path.relative_to(root)),
                key=spec.key,
            )
        )
    return problems


def _mend_sizes(root: Path, folder: Path, spec: StreamSpec, end: End) -> list[Problem]:
    """Files of numbers that are cut short: zarr wants them whole; what is lost was taken out before."""
    problems = []
    for name, array in arrays_of(spec).items():
        rows, chunk = count_of(name, end), chunk_rows(array)
        whole = chunk * row_bytes(array)
        if not whole or not rows:
            continue
        base = folder / name / "c"
        names = [entry.name for entry in base.iterdir()] if base.is_dir() else []
        last = (rows - 1) // chunk  # others that are missing read as zeros: no episode left has rows there
        for number in sorted({last, *(int(one) for one in names if one.isdecimal() and len(one) < 12)}):
            path = chunk_path(folder / name, number, 1 + len(array.shape))
            size = path.stat().st_size if path.is_file() else -1
            if size == whole:
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(path, "ab") as file:
                file.truncate(whole)
                os.fsync(file.fileno())
            problems.append(
                Problem(
                    f"the file has {max(size, 0)} bytes, {whole} are expected",
                    "it was brought to that size",
                    True,
                    str(path.relative_to(root)),
                    key=spec.key,
                )
            )
    return problems
