"""Grippers: which numbers they are, and which of their values is open."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..recording import Gripper
from .evidence import SAID, Aligned, Array, Column, Detected, enough

_NAMED = re.compile(r"grip|finger|claw|jaw")
_METRIC_M = 0.2  # no robot hand opens further, and none as far as 0.2 is a fraction


@dataclass(frozen=True)
class Direction:
    """Whether higher numbers of an entry are more open (+1), more closed (-1), or it is not known (0)."""

    sign: int
    confidence: float
    evidence: str
    opposed: int = 0  # episodes that say the contrary
    episodes: int = 0  # episodes that say anything


def is_gripper(column: Column) -> bool:
    """Whether its name says so."""
    return bool(_NAMED.search(column.name.lower()) or _NAMED.search(column.stream.rsplit(".", 1)[-1].lower()))


def detect_grippers(said: Sequence[Gripper], data: Aligned) -> dict[str, Detected]:
    """Every gripper entry: ``{"kind", "open", "closed", "unit"}``, open and closed None where not known."""
    found: dict[str, Detected] = {}
    for one in said:
        value = {"kind": one.kind, "open": one.open, "closed": one.closed, "unit": one.unit}
        found[f"gripper {one.stream}[{one.index}]"] = Detected(value, 1.0, SAID)
    for column, is_act in candidates(data):
        name = f"gripper {column.stream}[{column.index}]"
        if name not in found:
            found[name] = _describe(column, is_act, data)
    return found


def candidates(data: Aligned) -> list[tuple[Column, bool]]:
    """Entries that are grippers by name, or, of an action without names, by holding two values only."""
    found = [(c, True) for c in data.actions if is_gripper(c)] + [
        (c, False) for c in data.states if is_gripper(c)
    ]
    if not any(is_act for _, is_act in found):
        for column in data.actions:
            values = _values(data, column)
            if not column.name and 2 <= len(np.unique(values)) <= 3:
                found.append((column, True))
    return found


def _values(data: Aligned, column: Column) -> Array:
    parts = [_of(pair, data, column) for pair in data.episodes]
    values = np.concatenate(parts) if parts else np.zeros(0)
    return np.asarray(values[np.isfinite(values)])


def _of(pair: tuple[Array, Array], data: Aligned, column: Column) -> Array:
    if column in data.actions:
        return pair[0][:, data.actions.index(column)]
    return pair[1][:, data.states.index(column)]


def _describe(column: Column, is_act: bool, data: Aligned) -> Detected:
    values = _values(data, column)
    if not len(values):
        return Detected.unknown("it holds no finite number")
    distinct = np.unique(values)
    low, high = (float(x) for x in np.quantile(values, [0.01, 0.99]))
    if len(distinct) <= 3:
        low, high = float(distinct[0]), float(distinct[-1])
    metric = is_metric(column, values)
    kind = "width" if metric else "binary" if len(distinct) == 2 else "continuous"
    shape = {
        "width": f"a width in metres, {low:.3g} to {high:.3g}",
        "binary": f"two values, {low:.4g} and {high:.4g}",
        "continuous": f"values from {low:.4g} to {high:.4g}",
    }[kind]
    by_name = "" if is_gripper(column) else "found by its values, for it has no name; "
    unit = column.unit or ("m" if metric else "")
    blank = {"kind": kind, "open": None, "closed": None, "unit": unit}
    if len(distinct) == 3 and 0 in distinct and float(np.mean(values == 0)) > 0.5:
        return Detected(
            blank, 0.2, f"{by_name}three values, mostly 0: perhaps a relative command (open, keep, close)"
        )
    if metric:
        ends = (high, low) if abs(high) >= abs(low) else (low, high)
        value = blank | {"open": ends[0], "closed": ends[1]}
        return Detected(value, 0.85, f"{shape}; the wider is open")
    way = direction(column, data) if is_act else _by_name(column)
    if way.sign:
        ends = (high, low) if way.sign > 0 else (low, high)
        value = blank | {"open": ends[0], "closed": ends[1]}
        return Detected(value, way.confidence, f"{by_name}{shape}; {way.evidence}")
    return Detected(blank, 0.2, f"{by_name}{shape}; which is open is not known: {way.evidence}")


def is_metric(column: Column, values: Array) -> bool:
    """Whether it is an opening in metres: a width, or the place of a finger whose sign may be either."""
    if column.unit == "m":
        return True
    words = f"{column.stream} {column.name}".lower()
    told = re.search(r"width|finger|qpos|gripper_state|gripper_pos", words)
    finite = values[np.isfinite(values)]
    return bool(told) and len(finite) > 0 and 1e-3 < float(np.abs(finite).max()) <= _METRIC_M


def opening(data: Aligned, said: Sequence[Gripper] = ()) -> tuple[list[Array], str] | None:
    """How far the hand is open in each row of each episode, from a state whose meaning is sure; else None."""
    for one in said:
        for column in data.states:
            if (column.stream, column.index) == (one.stream, one.index) and one.open != one.closed:
                sign = 1.0 if one.open > one.closed else -1.0
                return [sign * _of(pair, data, column) for pair in data.episodes], str(column)
    for column in data.states:
        if is_gripper(column) and is_metric(column, _values(data, column)):
            return [np.abs(_of(pair, data, column)) for pair in data.episodes], f"{column}, a width"
    return None


def direction(column: Column, data: Aligned, said: Sequence[Gripper] = ()) -> Direction:
    """Which way an action's gripper entry opens, by what the measured opening does after it."""
    known = opening(data, said)
    if known is None:
        return _by_name(column)
    wide, source = known
    commands = [_of(pair, data, column) for pair in data.episodes]
    best, lag, signs = 0.0, 0, np.zeros(0)
    for shift in range(16):
        pairs = [
            (c[: len(c) - shift], w[shift:])
            for c, w in zip(commands, wide, strict=True)
            if len(c) > shift + 2
        ]
        if not pairs:
            break
        r = _pearson(np.concatenate([c for c, _ in pairs]), np.concatenate([w for _, w in pairs]))
        if abs(r) > abs(best):
            best, lag = r, shift
            signs = np.asarray([_pearson(c, w) for c, w in pairs])
    turns = sum(int((np.abs(np.diff(c)) > 1e-6).sum()) for c in commands)
    told = signs[np.abs(signs) > 0.3]
    opposed = int((told * np.sign(best) < 0).sum())
    if abs(best) < 0.2 or not turns:
        return Direction(0, 0.0, f"it does not go with {source} (r = {best:+.2f})", opposed, len(told))
    more = "more" if best > 0 else "less"
    words = f"higher goes with {more} open in {source} {lag} rows later (r = {best:+.2f})"
    agree = 1 - opposed / len(told) if len(told) else 1.0
    confidence = round(min(0.97, abs(best) * agree * enough(turns, 1.0)), 2)
    return Direction(1 if best > 0 else -1, confidence, words, opposed, len(told))


def _by_name(column: Column) -> Direction:
    name = column.name.lower()
    if "open" in name and "clos" not in name:
        return Direction(1, 0.8, f"its name is {column.name!r}")
    if "clos" in name and "open" not in name:
        return Direction(-1, 0.8, f"its name is {column.name!r}")
    return Direction(0, 0.0, "no state tells how far the hand is open")


def _pearson(a: Array, b: Array) -> float:
    fine = np.isfinite(a) & np.isfinite(b)
    a, b = a[fine], b[fine]
    if len(a) < 3 or np.ptp(a) < 1e-9 or np.ptp(b) < 1e-9:
        return 0.0
    return float(np.corrcoef(a, b)[0, 1])
