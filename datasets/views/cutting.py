"""Rows left out of every episode: trimmed at its ends, or every so many taken."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from ..ledger import DataError
from ..recording import Contents

_EDGE = re.compile(r"\s*(?:(-?)(\d{1,12}(?:\.\d{1,12})?)(s?))?\s*")
_SAME_TIME_S = 1e-6  # times nearer than this are one moment: k/20 is not quite k times 1/20


class Numbers(Protocol):
    """The numbers of one episode, without its images."""

    def rows(self) -> Mapping[str, int]: ...
    def time(self, key: str) -> NDArray[np.float64]: ...
    def values(self, key: str) -> NDArray[Any]: ...


@dataclass(frozen=True)
class Cut:
    """What stays of one episode.

    Attributes:
        rows: of each stream, those that stay.
        shift_s: the moment that becomes time 0.
    """

    rows: Mapping[str, range]
    shift_s: float = 0.0


def leading(rows: Mapping[str, int]) -> str:
    """The stream that an episode is measured by: ``action``, or the longest; ``""`` where there is no row."""
    if rows.get("action"):
        return "action"
    return max(rows, key=lambda key: rows[key], default="") if any(rows.values()) else ""


def between(numbers: Numbers, start: int, stop: int) -> Cut:
    """The rows `start` to `stop` (excluded) of the leading stream, and of the others what lies in that time.

    A row of another stream belongs by its time: to the moment of row `start` or later, and before the moment
    of row `stop`. Where nothing is cut at an end, everything at that end stays. The moment of row `start`
    becomes time 0 if anything is cut before it.
    """
    counts = numbers.rows()
    if start >= stop:
        return Cut({key: range(0) for key in counts})
    time = numbers.time(leading(counts))
    kept: dict[str, range] = {}
    for key in counts:
        mine = numbers.time(key)
        if np.array_equal(mine, time):
            kept[key] = range(start, stop)
            continue
        first = int(np.searchsorted(mine, time[start] - _SAME_TIME_S)) if start > 0 else 0
        last = int(np.searchsorted(mine, time[stop] - _SAME_TIME_S)) if stop < len(time) else len(mine)
        kept[key] = range(first, max(first, last))
    return Cut(kept, float(time[start]) if start > 0 else 0.0)


@dataclass(frozen=True)
class Trim:
    """Keep the rows from one moment to another.

    Attributes:
        range: ``start:stop``, each a row of the leading stream (``action``) or seconds (``1.5s``), counted
            from the end of the episode where negative, or left out. ``10:`` cuts ten rows at the start,
            ``:-0.5s`` half a second at the end; ``2s:4s`` keeps what lies between.
        episodes: which are trimmed; all if empty.
    """

    name: ClassVar[str] = "trim"
    range: str
    episodes: str = ""

    def __post_init__(self) -> None:
        if self.range.count(":") != 1:
            raise DataError(f"{self.range!r} is no range of rows", "give start:stop, such as 10:-5 or 1.5s:")
        for edge in self.range.split(":"):
            if _EDGE.fullmatch(edge) is None:
                raise DataError(f"{edge!r} is no row and no time", "give a row such as 10 or -5, or 1.5s")

    def cut(self, numbers: Numbers, of: Contents) -> Cut:
        time = numbers.time(leading(numbers.rows()))
        start, stop = self.range.split(":")
        return between(numbers, _edge(start, time, 0), _edge(stop, time, len(time)))

    def contents(self, of: Contents) -> Contents:
        return of


def _edge(text: str, time: NDArray[np.float64], default: int) -> int:
    """Row number of an edge, 0 to N."""
    found = _EDGE.fullmatch(text)
    assert found is not None, "checked when the operation was made"
    sign, number, unit = found.groups()
    if number is None:
        return default
    if not unit:
        if "." in number:
            raise DataError(f"{text!r} is no whole number of rows", f"for seconds write {text.strip()}s")
        row = len(time) - int(number) if sign else int(number)
        return min(max(row, 0), len(time))
    if sign:
        return int(np.searchsorted(time, time[-1] - float(number) + _SAME_TIME_S, side="right"))
    return int(np.searchsorted(time, time[0] + float(number) - _SAME_TIME_S))


@dataclass(frozen=True)
class Every:
    """Take every n-th row of each stream, the first being taken. Rates fall by n.

    Attributes:
        n: 2 or more.
    """

    name: ClassVar[str] = "every"
    n: int

    def __post_init__(self) -> None:
        if not 2 <= self.n <= 1_000_000:
            raise DataError(f"every {self.n}", "give a number from 2 on")

    def cut(self, numbers: Numbers, of: Contents) -> Cut:
        return Cut({key: range(0, count, self.n) for key, count in numbers.rows().items()})

    def contents(self, of: Contents) -> Contents:
        if "action" in of.streams and of.conventions.action in ("delta", "relative"):
            raise DataError(
                f"actions are {of.conventions.action}: with every {self.n}-th taken, the motion of the "
                "others is lost",
                "convert the actions to absolute ones, or resample",
                key="action",
            )
        streams = {
            key: dataclasses.replace(spec, rate_hz=spec.rate_hz / self.n if spec.rate_hz else spec.rate_hz)
            for key, spec in of.streams.items()
        }
        spec = of.spec
        if spec is not None:
            spec = dataclasses.replace(spec, control_rate_hz=spec.control_rate_hz / self.n)
        return dataclasses.replace(
            of, streams=streams, rate_hz=of.rate_hz / self.n if of.rate_hz else of.rate_hz, spec=spec
        )
