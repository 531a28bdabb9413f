"""Writing a store: a converter's sink, and a robot's recorder that makes each episode safe as it ends.

An episode is written in this order: its rows; the index entries of its images; fsync of all these files; its
line in ``episodes.jsonl``, with an fsync, which puts it into the set; the new shapes of the arrays. A killed
process loses the open episode at most; the next writer, or `repair`, clears it away.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..contents_json import contents_to_json, dumps
from ..formats import WriteOptions
from ..ledger import DataError, Ledger, Problem
from ..recording import Contents, Recording
from .files import Unsynced, WriterLock, disk_error, refuse_links, replace, sync, sync_paths
from .layout import Head, check_keys, provenance, read_head, write_head
from .log import Record, unseal
from .reader import Store, content_hash
from .recover import recover
from .stream_writer import StreamWriter


class StoreWriter:
    """The one writer of a set. Use `create` for a conversion and `record` for a robot's disk.

    Attributes:
        path: where the set is, or will be after `close`.
        contents: what it holds.
        done: episodes that are in it and would survive a `kill -9` now.
        problems: what was found, and cleared away, when it was opened.
    """

    def __init__(
        self,
        path: Path,
        final: Path | None,
        head: Head,
        options: WriteOptions,
        ledger: Ledger | None,
        lock: WriterLock,
    ) -> None:
        """Not to be called: see `create` and `record`."""
        self.path = final or path
        self._at, self._final, self._head, self._options = path, final, head, options
        self._ledger, self._lock = ledger, lock
        self.contents = head.contents
        self.problems: list[Problem] = []
        self._record: Record | None = None
        self._records: list[Record] = []
        self._saved_ledger: list[Any] | None = None
        self.done = 0
        self._log = -1
        self._streams: dict[str, StreamWriter] = {}
        try:
            self._begin()
        except OSError as error:
            self.abandon()
            raise disk_error(error, path) from error
        except DataError:
            self.abandon()
            raise

    @classmethod
    def create(
        cls,
        path: Path,
        contents: Contents,
        options: WriteOptions | None = None,
        ledger: Ledger | None = None,
        *,
        source: str = "",
    ) -> StoreWriter:
        """Begin a set that is in its place only when it is closed, or go on with an unfinished one.

        Args:
            path: where it will be; until then it is ``.<name>.partial`` beside it.
            contents: what it will hold.
            options: of images.
            ledger: of this conversion; kept in the set.
            source: what it is made of, in words.

        Raises:
            DataError: the path exists, the unfinished set there is another one, or somebody writes to it.
        """
        if os.path.lexists(path):
            raise DataError("it exists already", "choose another place, or remove it", file=path)
        partial = path.with_name(f".{path.name}.partial")
        return cls._open(partial, path, contents, options or WriteOptions(), ledger, source)

    @classmethod
    def record(
        cls,
        path: Path,
        contents: Contents | None = None,
        options: WriteOptions | None = None,
        *,
        source: str = "",
    ) -> StoreWriter:
        """Add episodes to a set in its place, begun if there is none: it is whole after each of them.

        Args:
            path: of the set.
            contents: what it holds; may be left out if the set exists. Streams that the set has besides
                (columns added later) stay, and new episodes lack them.
            options: of images.
            source: what records, in words.

        Raises:
            DataError: the set means something else by these streams, is damaged, or somebody writes to it.
        """
        return cls._open(path, None, contents, options or WriteOptions(), None, source)

    @classmethod
    def _open(
        cls,
        path: Path,
        final: Path | None,
        contents: Contents | None,
        options: WriteOptions,
        ledger: Ledger | None,
        source: str,
    ) -> StoreWriter:
        if options.images == "video":
            raise DataError("a store holds images, no video", "choose copy, jpeg or png", file=final or path)
        if contents is not None:
            check_keys(contents)
        if not _is_set(path):
            if contents is None:
                raise DataError(
                    "there is no set, and nothing says what it should hold", "give contents", file=path
                )
            _require_empty(path)
        try:
            path.mkdir(parents=True, exist_ok=True)
            refuse_links(path)
            lock = WriterLock(path)
        except OSError as error:
            raise disk_error(error, path) from error
        try:
            if contents is None or _is_set(path):
                head, _ = read_head(Path(os.path.realpath(path)))
                if contents is not None:
                    _require_same(head.contents, contents, path)
            else:
                head = Head(contents, {}, provenance(source), {})
                write_head(path, head)
        except (DataError, OSError) as error:
            lock.release()
            raise disk_error(error, path) if isinstance(error, OSError) else error from None
        return cls(path, final, head, options, ledger, lock)

    def write(self, recording: Recording) -> None:
        """Add an episode.

        Raises:
            DataError: it does not fit the contents, cannot be read, or the disk is full: it is dropped.
        """
        if unknown := set(recording.streams) - set(self.contents.streams):
            raise DataError(
                f"the episode has streams that the set has not: {', '.join(sorted(unknown))}",
                "leave them out in the mapping, or add them to the contents",
                episode=self.done,
            )
        self.begin_episode(recording.task, began_ns=recording.began_ns, about=recording.about)
        try:
            for key, track in recording.streams.items():
                self._streams[key].track(track)
            self._end(recording.success, recording.terminated, recording.truncated)
        except (DataError, OSError) as error:
            raise self._failed(error) from error
        except BaseException:
            self.discard_episode()
            raise

    def begin_episode(
        self, task: str = "", *, began_ns: int | None = None, about: Mapping[str, Any] | None = None
    ) -> None:
        """Open an episode.

        Raises:
            DataError: one is open, or the writer is closed.
        """
        if self._log < 0:
            raise DataError("the writer is closed", "open the set again", file=self.path)
        if self._record is not None:
            raise DataError("an episode is open", "call end_episode or discard_episode first", file=self.path)
        self._record = Record(self._next_id, {}, task, began_ns=began_ns, about=dict(about or {}))

    def add(self, key: str, row: Any, time: float) -> None:
        """Add a row to the open episode: it is encoded and written at once, but in the set only at the end.

        Args:
            key: of the stream.
            row: numbers of the stream's dtype and shape, a text, pixels, or the bytes of an image file.
            time: seconds since the recording began; never less than that of the row before.

        Raises:
            DataError: it does not fit the stream, or the disk is full; the open episode is discarded.
        """
        if self._record is None:
            raise DataError("no episode is open", "call begin_episode first", file=self.path, key=key)
        try:
            stream = self._streams.get(key)
            if stream is None:
                raise DataError("the set has no such stream", f"it has {', '.join(self._streams)}", key=key)
            stream.add(row, time)
        except (DataError, OSError) as error:
            raise self._failed(error) from error

    def end_episode(
        self,
        success: bool | None = None,
        terminated: bool | None = None,
        truncated: bool | None = None,
        *,
        about: Mapping[str, Any] | None = None,
    ) -> None:
        """Make the open episode part of the set; when this returns it would survive a `kill -9`.

        Args:
            success: as of `Recording`, like the next two.
            terminated: likewise.
            truncated: likewise.
            about: known only now; goes before what `begin_episode` was given.

        Raises:
            DataError: no episode is open, it is empty, or the disk is full; it is discarded.
        """
        if self._record is None:
            raise DataError("no episode is open", "call begin_episode first", file=self.path)
        self._record.about.update(about or {})
        try:
            self._end(success, terminated, truncated)
        except (DataError, OSError) as error:
            raise self._failed(error) from error

    def discard_episode(self) -> None:
        """Drop the open episode; without one, nothing happens.

        Raises:
            DataError: the disk refuses; the writer is closed, and the finished episodes are safe.
        """
        if self._record is None:
            return
        self._record = None
        try:
            for stream in self._streams.values():
                stream.rollback()
        except OSError as error:
            self.abandon()
            raise disk_error(error, self.path) from error

    def close(self) -> None:
        """Finish: an open episode is dropped, hash and count are noted, and a conversion is put in its place.

        Raises:
            DataError: the disk refuses, or the place was taken meanwhile.
        """
        if self._log < 0:
            return
        self.discard_episode()
        try:
            self._save_ledger()
            self._head.summary = {"episodes": self.done, "content_hash": content_hash(self._records)}
            sync_paths([path for stream in self._streams.values() for path in stream.write_shapes()])
            write_head(self._at, self._head)
            if self._final is not None:
                if os.path.lexists(self._final):
                    raise DataError(
                        "it came to be while the set was made",
                        f"remove it, or rename {self._at.name} by hand: that is whole",
                        file=self._final,
                    )
                os.rename(self._at, self._final)
                sync(self._final.parent)
        except OSError as error:
            raise disk_error(error, self.path) from error
        finally:
            self.abandon()

    def abandon(self) -> None:
        """Let go without finishing; what was committed stays, for another writer to go on with."""
        for stream in self._streams.values():
            stream.close()
        if self._log >= 0:
            os.close(self._log)
            self._log = -1
        self._record = None
        self._lock.release()

    def __enter__(self) -> StoreWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.close()
        else:
            self.abandon()

    def _begin(self) -> None:
        """Go on after what is committed."""
        log, self._next_id, ends, self.problems = recover(self._at, self._head)
        self._records = log.records
        self.done = len(log.records)
        for key, spec in self.contents.streams.items():
            self._streams[key] = StreamWriter(
                self._head.folder(self._at, key), spec, ends[key], self._options, self._ledger
            )
        if self._ledger is not None and not self._ledger.losses:
            for loss in Store(self._at).ledger.losses:
                self._ledger.add(loss)
        self._log = os.open(self._at / "episodes.jsonl", os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        sync(self._at)

    def _end(self, success: bool | None, terminated: bool | None, truncated: bool | None) -> None:
        assert self._record is not None, "an episode is open"
        spans = {key: stream.span() for key, stream in self._streams.items() if stream.used}
        if not any(len(span) for span in spans.values()):
            raise DataError("the episode has no rows", "add some, or discard it", episode=self.done)
        opened = self._record
        record = Record(
            opened.id, spans, opened.task, success, terminated, truncated, opened.began_ns, opened.about
        )
        line = record.to_line()
        try:
            record = Record.from_json(unseal(line))  # numpy's truths have become plain ones
        except ValueError as error:
            raise DataError(str(error), "give a task, and true, false or None for the verdicts") from error
        waiting = Unsynced()
        for key in spans:
            waiting.add(self._streams[key].flush())
        waiting.wait()
        size = os.fstat(self._log).st_size
        try:
            _write(self._log, line)
            os.fsync(self._log)
        except OSError:
            os.ftruncate(self._log, size)
            raise
        self._record = None
        self._records.append(record)
        self.done += 1
        self._next_id += 1
        with contextlib.suppress(OSError):  # it is in the set; shapes are written again with the next one
            for stream in self._streams.values():
                stream.finished()
                stream.write_shapes()
            self._save_ledger()

    def _failed(self, error: DataError | OSError) -> DataError:
        """Discard the open episode, and say what went wrong with it."""
        index = self.done
        self.discard_episode()
        if isinstance(error, OSError):
            return disk_error(error, self.path)
        return DataError(
            error.what,
            error.remedy,
            file=error.file or self.path,
            episode=index,
            frame=error.frame,
            key=error.key,
        )

    def _save_ledger(self) -> None:
        losses = [] if self._ledger is None else self._ledger.to_json()
        if losses and losses != self._saved_ledger:
            replace(self._at / "ledger.json", dumps(losses, "the ledger", indent=1))
            self._saved_ledger = losses


def _write(descriptor: int, line: bytes) -> None:
    rest = memoryview(line)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def _is_set(path: Path) -> bool:
    return any((path / name).exists() for name in ("zarr.json", "zarr.backup.json", "episodes.jsonl"))


def _require_empty(path: Path) -> None:
    """Refuse a folder that holds more than what a writer leaves that was killed at once."""
    try:
        foreign = sorted(set(os.listdir(path)) - {"writer.lock", ".zarr.json.part"}) if path.exists() else []
    except OSError as error:
        raise disk_error(error, path) from error
    if foreign:
        raise DataError(
            f"the folder is not empty, it holds {foreign[0]!r}", "choose another place", file=path
        )


def _require_same(have: Contents, given: Contents, path: Path) -> None:
    """Refuse to add what means something else to a set.

    Raises:
        DataError: naming the difference.
    """
    remedy = "make a new set, or record what this one holds"
    for key, spec in given.streams.items():
        if key not in have.streams:
            raise DataError("the set has no such stream", remedy, file=path, key=key)
        if have.streams[key] != spec and _plain(have, key) != _plain(given, key):
            raise DataError(f"the set has {have.streams[key]}, given is {spec}", remedy, file=path, key=key)
    mine, theirs = contents_to_json(have), contents_to_json(given)
    for name in ("rate_hz", "robot", "conventions", "spec"):
        if dumps(mine[name], name) != dumps(theirs[name], name):
            raise DataError(f"{name}: the set has {mine[name]}, given is {theirs[name]}", remedy, file=path)


def _plain(contents: Contents, key: str) -> bytes:
    """What a stream declares, as JSON would say it: lists for tuples."""
    return dumps(contents_to_json(contents)["streams"][list(contents.streams).index(key)], key)
