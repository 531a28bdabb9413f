"""The commit log of a store: an episode is in the set exactly when its line is in ``episodes.jsonl``."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import google_crc32c

from ..contents_json import dumps
from ..ledger import DataError, Problem
from .files import open_inside
from .layout import Head

_HEAD = b'{"crc":"%08x","episode":'
_HEAD_LENGTH = len(_HEAD % 0)
_MAX_LINE = 64 << 20
_MAX_ROW = 1 << 48


@dataclass(frozen=True)
class Span:
    """The rows of one stream that belong to one episode.

    Attributes:
        first: first row.
        last: one past the last.
        hash: of the stored bytes: rows (image files as they lie there), then times.
        strings: of a text stream: distinct texts and their bytes when the episode ended.
    """

    first: int
    last: int
    hash: str
    strings: tuple[int, int] = (0, 0)

    def __len__(self) -> int:
        return self.last - self.first

    def to_json(self) -> list[Any]:
        return [self.first, self.last, self.hash, *self.strings]

    @classmethod
    def from_json(cls, data: Any) -> Span:
        first, last, digest, count, size = data
        numbers = (first, last, count, size)
        if any(type(number) is not int for number in numbers) or not isinstance(digest, str):
            raise ValueError(f"rows {data!r}")
        if not 0 <= first <= last < _MAX_ROW or not (0 <= count < _MAX_ROW and 0 <= size < _MAX_ROW):
            raise ValueError(f"rows {first} to {last}")
        return cls(first, last, digest, (count, size))


@dataclass(frozen=True)
class Record:
    """One line: an episode without its rows.

    Attributes:
        id: its number in the order of recording, never given twice.
        spans: by stream; a stream that it lacks is absent.
        task: and the rest as of `Recording`.
    """

    id: int
    spans: dict[str, Span]
    task: str = ""
    success: bool | None = None
    terminated: bool | None = None
    truncated: bool | None = None
    began_ns: int | None = None
    about: dict[str, Any] = field(default_factory=dict)

    def to_line(self) -> bytes:
        data = {one.name: getattr(self, one.name) for one in dataclasses.fields(self)}
        data["spans"] = {key: span.to_json() for key, span in self.spans.items()}
        return seal(dumps(data, "what is said of the episode"))

    @classmethod
    def from_json(cls, data: Any) -> Record:
        if not isinstance(data, dict) or type(data["id"]) is not int or data["id"] < 0:
            raise ValueError("no episode")
        spans = {key: Span.from_json(span) for key, span in data["spans"].items()}
        record = cls(**{**data, "spans": spans})
        verdicts = (record.success, record.terminated, record.truncated)
        if (
            not isinstance(record.task, str)
            or not isinstance(record.about, dict)
            or any(one is not None and not isinstance(one, bool) for one in verdicts)
            or not (record.began_ns is None or type(record.began_ns) is int)
        ):
            raise ValueError("a field of the wrong type")
        return record


def seal(body: bytes) -> bytes:
    """A line of a log, with its crc."""
    head: bytes = _HEAD % google_crc32c.value(body)
    return head + body + b"}\n"


def unseal(line: bytes) -> Any:
    """The JSON of a line that `seal` made.

    Raises:
        ValueError: it is cut short or was changed.
    """
    body = line[_HEAD_LENGTH:-2]
    if line != _HEAD % google_crc32c.value(body) + body + b"}\n":
        raise ValueError("its crc does not fit")
    try:
        return json.loads(body)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


@dataclass
class Log:
    """A log as it was found.

    Attributes:
        records: whole lines, in order.
        lines: their bytes.
        whole: length in bytes up to the end of the last line that was finished.
        torn: bytes after that: an episode that was not finished.
        bad: finished lines that cannot be used: number (from 1), bytes, why.
    """

    records: list[Any] = field(default_factory=list)
    lines: list[bytes] = field(default_factory=list)
    whole: int = 0
    torn: int = 0
    bad: list[tuple[int, bytes, str]] = field(default_factory=list)

    def problems(self, file: str) -> list[Problem]:
        """What a reader says of it."""
        found = [
            Problem(
                f"line {number} is damaged ({why}): its episode is left out",
                "run `regrip data repair`; the episode's rows are still there",
                file=file,
            )
            for number, _, why in self.bad
        ]
        if self.torn:
            found.append(
                Problem(
                    f"the last line is not finished ({self.torn} bytes)",
                    "recording was cut off: the episodes before it are whole; `regrip data repair` tidies up",
                    repaired=True,
                    file=file,
                )
            )
        return found


def read_log(root: Path, path: Path, parse: Callable[[Any], Any]) -> Log:
    """Read a log as far as its lines are finished; a missing one is empty.

    Raises:
        DataError: it is no plain file or cannot be read.
    """
    log = Log()
    try:
        raw = open_inside(root, path)
    except FileNotFoundError:
        return log
    with raw:
        try:
            for number, line in enumerate(_lines(raw), 1):
                if not line.endswith(b"\n"):
                    log.torn = len(line)
                    break
                log.whole += len(line)
                try:
                    log.records.append(parse(unseal(line)))
                    log.lines.append(line)
                except (ValueError, TypeError, KeyError, AttributeError) as error:
                    log.bad.append((number, line, str(error) or type(error).__name__))
        except OSError as error:
            raise DataError(f"it cannot be read ({error})", "check the disk", file=path) from error
    return log


def _lines(raw: Any) -> Iterator[bytes]:
    held = b""
    while block := raw.read(1 << 20):
        *lines, held = (held + block).split(b"\n")
        for line in lines:
            yield line + b"\n"
        if len(held) > _MAX_LINE:
            raise OSError(f"a line of more than {_MAX_LINE} bytes")
    if held:
        yield held


@dataclass(frozen=True)
class ColumnLine:
    """Which rows of a column added later belong to an episode that was there before it."""

    id: int
    span: Span | None

    def to_line(self) -> bytes:
        span = None if self.span is None else self.span.to_json()
        return seal(dumps({"id": self.id, "span": span}, "a column's line"))

    @classmethod
    def from_json(cls, data: Any) -> ColumnLine:
        if type(data["id"]) is not int:
            raise ValueError("no episode's number")
        return cls(data["id"], None if data["span"] is None else Span.from_json(data["span"]))


def read_episodes(root: Path, head: Head) -> tuple[Log, list[Problem]]:
    """The episodes of a set, columns joined to them; each line is checked against those before it.

    Returns:
        The log (of `Record`), and what was found wrong.

    Raises:
        DataError: a log cannot be read at all.
    """
    columns: dict[str, dict[int, Span | None]] = {}
    problems: list[Problem] = []
    for key in head.columns:
        path = head.folder(root, key) / "episodes.jsonl"
        log = read_log(root, path, ColumnLine.from_json)
        columns[key] = {line.id: line.span for line in log.records}
        if log.bad or log.torn:
            problems.append(
                Problem(
                    f"{len(log.bad) + bool(log.torn)} lines of the column's log are damaged",
                    "their episodes lack the column: add it again, with replace",
                    file=str(path.relative_to(root)),
                    key=key,
                )
            )
    ends: dict[str, int] = {}
    last_id = -1

    def parse(data: Any) -> Record:
        nonlocal last_id
        record = Record.from_json(data)
        if unknown := set(record.spans) - set(head.contents.streams):
            raise ValueError(f"it has rows of unknown streams {', '.join(sorted(unknown))}")
        if record.id <= last_id:
            raise ValueError(f"its number {record.id} does not follow {last_id}")
        spans = dict(record.spans)
        for key in head.columns:
            if record.id < head.until(key):
                spans.pop(key, None)
                if span := columns[key].get(record.id):
                    spans[key] = span
        for key, span in spans.items():
            if span.first < ends.get(key, 0):
                raise ValueError(f"its rows of {key} belong to an earlier episode")
        last_id = record.id
        ends.update({key: span.last for key, span in spans.items()})
        return dataclasses.replace(record, spans=spans)

    log = read_log(root, root / "episodes.jsonl", parse)
    return log, problems + log.problems("episodes.jsonl")
