"""What numbers say by themselves: findings with a confidence, and rows of action and state side by side."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..recording import Recording, StreamSpec, Track

Array = NDArray[np.float64]

MAX_ENTRIES = 128  # of states and of actions that are compared with one another
SAID = "the set or its format says so"


@dataclass(frozen=True)
class Detected:
    """One convention, as far as it is known.

    Attributes:
        value: the convention in the words of `recording.Conventions`, ``unknown`` where nothing tells it.
        confidence: 0 (nothing is known) to 1 (the format fixes it).
        evidence: why, in words.
    """

    value: Any
    confidence: float
    evidence: str

    @classmethod
    def unknown(cls, evidence: str) -> Detected:
        return cls("unknown", 0.0, evidence)


@dataclass(frozen=True)
class Column:
    """One number of one vector stream."""

    stream: str
    index: int
    name: str = ""
    unit: str = ""

    def __str__(self) -> str:
        return f"{self.stream}[{self.index}]" + (f" ({self.name})" if self.name else "")


@dataclass(frozen=True)
class Aligned:
    """Actions and states of some episodes, row beside row on the action's clock.

    Attributes:
        actions: what the columns of the actions are.
        states: what the columns of the states are.
        episodes: (T,A) actions and (T,S) states of each; NaN where a state had not begun.
        period_s: median time between rows; NaN if not known.
    """

    actions: tuple[Column, ...]
    states: tuple[Column, ...]
    episodes: tuple[tuple[Array, Array], ...]
    period_s: float = math.nan

    @property
    def num_rows(self) -> int:
        return sum(len(action) for action, _ in self.episodes)


def is_action(key: str) -> bool:
    """Whether a stream is commanded rather than measured."""
    return key in ("action", "actions") or key.startswith(("action.", "actions."))


def is_state(key: str) -> bool:
    """Whether a stream is measured of the robot or its world."""
    return key == "state" or key.startswith(("observation.", "state."))


def columns_of(streams: Mapping[str, StreamSpec]) -> tuple[tuple[Column, ...], tuple[Column, ...]]:
    """The entries of the actions and of the states, at most `MAX_ENTRIES` of each."""
    found: tuple[list[Column], list[Column]] = ([], [])
    for key, spec in streams.items():
        if spec.kind != "vector" or not (is_action(key) or is_state(key)):
            continue
        into = found[0] if is_action(key) else found[1]
        for index in range(min(math.prod(spec.shape), MAX_ENTRIES - len(into))):
            name = spec.names[index] if index < len(spec.names) else ""
            unit = spec.units[index] if index < len(spec.units) else ""
            into.append(Column(key, index, str(name), str(unit)))
    return tuple(found[0]), tuple(found[1])


def align(
    recording: Recording, actions: Sequence[Column], states: Sequence[Column], most: int
) -> tuple[Array, Array, Array] | None:
    """Actions, the states at their times (the last not after them), and the times; at most `most` rows.

    Where there is no action, the first state's clock is taken. None if there is neither.
    """
    keys = [c.stream for c in (*actions, *states) if c.stream in recording.streams]
    if not keys:
        return None
    clock = recording.streams[keys[0]].time[:most]
    return _at(recording, actions, clock), _at(recording, states, clock), clock


def _at(recording: Recording, columns: Sequence[Column], clock: Array) -> Array:
    out = np.full((len(clock), len(columns)), np.nan)
    rows: dict[str, Array] = {}
    for place, column in enumerate(columns):
        track = recording.streams.get(column.stream)
        if track is None or not len(track):
            continue
        if column.stream not in rows:
            rows[column.stream] = _held(track, clock)
        if column.index < rows[column.stream].shape[1]:
            out[:, place] = rows[column.stream][:, column.index]
    return out


def _held(track: Track, clock: Array) -> Array:
    """(T,D) of a vector track at the times of a clock, each row held until the next."""
    values = numbers(track)
    if np.array_equal(track.time[: len(clock)], clock):
        return values[: len(clock)]
    at = np.searchsorted(track.time, clock, side="right") - 1
    held = values[np.maximum(at, 0)]
    held[at < 0] = np.nan
    return held


def numbers(track: Track) -> Array:
    """The rows of a vector track as float64 (N,D)."""
    rows = np.asarray(track.rows)
    if rows.dtype.kind not in "biuf":
        return np.full((len(rows), 0), np.nan)
    width = math.prod(rows.shape[1:])
    return rows.reshape(len(rows), width).astype(np.float64)


def enough(rows: float, half: float = 60) -> float:
    """How far so many rows may be trusted: 0 for none, one half at `half`, towards 1."""
    return rows / (rows + half)


def correlations(a: Array, b: Array) -> Array:
    """(A,B) Pearson's r of the columns of (N,A) with those of (N,B); 0 where one does not vary."""
    fine = np.isfinite(a).all(1) & np.isfinite(b).all(1)
    if fine.sum() < 3:
        return np.zeros((a.shape[1], b.shape[1]))
    scaled = []
    for part in (a[fine], b[fine]):
        centred = part - part.mean(0)
        norm = np.sqrt((centred**2).sum(0))
        still = norm <= 1e-9 * (np.abs(part).max(0) * np.sqrt(len(part)) + 1e-12)
        scaled.append(np.divide(centred, norm, out=np.zeros_like(centred), where=~still))
    return np.asarray(scaled[0].T @ scaled[1])
