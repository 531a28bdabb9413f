"""What the numbers of a set mean, as far as the numbers themselves tell: never more than that.

An action is compared with what the state did next. Where it goes with the *change* of a state it is a delta
or a velocity, where it goes with the *level* it is an absolute target; the shift in time that explains most
says whether a row's observation was taken before or after its action ran.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..recording import Contents
from .detect_grippers import detect_grippers, is_gripper
from .detect_rotation import detect_rotations
from .evidence import SAID, Aligned, Array, Column, Detected, correlations, enough

_SHIFTS = range(-1, 6)  # rows by which a state is looked at later than its action
_JOINTS = re.compile(
    r"joint|shoulder|elbow|wrist|waist|forearm|hip|knee|ankle|qpos|roll|pitch|yaw|angle|^j?\d$"
)


@dataclass(frozen=True)
class Fit:
    """How well actions go with states.

    Attributes:
        level: share of an action entry's variance explained by the best state's level, mean over entries.
        change: the same by the best state's change from one row to the next.
        shifts: for each shift, the explained share of the better of the two.
        slope: change of the state for one unit of the action, for each entry where it is known.
        copies: shift to the share of rows in which every entry equals a state.
        rows: rows looked at.
    """

    level: float
    change: float
    shifts: dict[int, float]
    slope: tuple[float, ...]
    copies: dict[int, float]
    rows: int


def detect(contents: Contents, data: Aligned, rate: Detected) -> tuple[dict[str, Detected], Fit | None]:
    """Every convention by name: ``action``, ``observed``, ``rotation``, ``gripper action[6]``, ...

    Args:
        contents: what the set says of itself; what it says has confidence 1.
        data: rows of some episodes.
        rate: the control rate, see `inspection`.
    """
    said, fit = contents.conventions, fit_actions(data)
    found = {"action": detect_action(data, fit), "observed": detect_observed(data, fit)}
    found |= detect_rotations(data, found["action"].value)
    found["frame"] = Detected.unknown("the frame of an action cannot be told from its numbers")
    found["rate_hz"] = rate
    for name in ("action", "observed", "rotation", "state_rotation", "frame"):
        value = getattr(said, name)
        if value not in ("unknown", ""):
            found[name] = Detected(value, 1.0, SAID)
    for key in contents.of_kind("image"):
        lies = said.orientation.get(key, "unknown")
        found[f"orientation {key}"] = (
            Detected(lies, 1.0, SAID)
            if lies != "unknown"
            else Detected.unknown("pixels do not tell which way is up: look at the pictures")
        )
    found |= detect_grippers(said.grippers, data)
    found |= detect_angles(data)
    return found, fit


def fit_actions(data: Aligned) -> Fit | None:
    """Compare every action entry but grippers with every state at every shift; None if there is none."""
    moving = [i for i, c in enumerate(data.actions) if not is_gripper(c) and not _binary(data, i)]
    if not moving or not data.states or not data.episodes:
        return None
    level: dict[int, Array] = {}
    change: dict[int, Array] = {}
    slopes: dict[int, Array] = {}
    rows = 0
    for shift in _SHIFTS:
        acts, sames, steps, turns = _stacked(data, moving, shift)
        if len(acts) < 4:
            continue
        rows = max(rows, len(acts))
        chance = 12 / len(acts)  # what the best of many unrelated entries explains by luck
        together = np.maximum(correlations(turns, steps), 0) ** 2 > chance
        level[shift] = np.maximum(correlations(acts, sames), 0) ** 2 * together
        with_change = np.maximum(correlations(acts, steps), 0)
        change[shift] = np.where(with_change**2 > chance, with_change**2, 0)
        slopes[shift] = with_change * steps.std(0) / np.maximum(acts.std(0)[:, None], 1e-12)
    if not rows:
        return None
    by_level = {shift: float(table.max(1).mean()) for shift, table in level.items()}
    by_change = {shift: float(table.max(1).mean()) for shift, table in change.items()}
    best_level, best_change = max(by_level.values()), max(by_change.values())
    if best_change >= best_level:
        shifts, at = by_change, max(by_change, key=lambda k: by_change[k])
        pairs = change[at].argmax(1)
        good = change[at].max(1) > 0.1
        slope = tuple(float(slopes[at][i, pairs[i]]) for i in np.flatnonzero(good))
    else:
        shifts, slope = _sharper(data, moving, level), ()
    return Fit(best_level, best_change, shifts, slope, _copies(data, moving), rows)


def _stacked(data: Aligned, moving: Sequence[int], shift: int) -> tuple[Array, Array, Array, Array]:
    """Actions at t, states at t + shift, the change into that state, and the action's own change at t."""
    parts: tuple[list[Array], ...] = ([], [], [], [])
    for action, state in data.episodes:
        first, last = max(1, 1 - shift), min(len(action), len(action) - shift)
        if last <= first:
            continue
        at = np.arange(first, last)
        acts = action[:, moving]
        rows = (
            acts[at],
            state[at + shift],
            state[at + shift] - state[at + shift - 1],
            acts[at] - acts[at - 1],
        )
        for into, part in zip(parts, rows, strict=True):
            into.append(part)
    widths = (len(moving), len(data.states), len(data.states), len(moving))
    whole = [np.concatenate(p) if p else np.zeros((0, w)) for p, w in zip(parts, widths, strict=True)]
    # A state that is not finite in one row must not take the others of that row with it.
    fine = np.isfinite(whole[0]).all(1) & np.isfinite(whole[3]).all(1)
    whole = [np.nan_to_num(part[fine], nan=0.0, posinf=0.0, neginf=0.0) for part in whole]
    return whole[0], whole[1], whole[2], whole[3]


def _sharper(data: Aligned, moving: Sequence[int], level: dict[int, Array]) -> dict[int, float]:
    """For levels, which hardly differ from row to row: how well their changes go together at each shift."""
    best = max(level, key=lambda k: float(level[k].max(1).mean()))
    pairs = level[best].argmax(1)
    found = {}
    for shift in level:
        _, _, steps, turns = _stacked(data, moving, shift)
        table = np.maximum(correlations(turns, steps), 0) ** 2
        found[shift] = float(table[np.arange(len(pairs)), pairs].mean())
    return found


def _copies(data: Aligned, moving: Sequence[int]) -> dict[int, float]:
    """Share of rows whose action is the state at the same row (0) or at the next (1), entry by entry."""
    found = {}
    for shift in (0, 1):
        acts, sames, _, _ = _stacked(data, moving, shift)
        if len(acts) < 2 or np.ptp(acts, 0).max() == 0:
            continue
        equal = np.ones(len(acts), dtype=bool)
        for column in acts.T:
            same = np.isclose(sames, column[:, None], rtol=1e-6, atol=1e-7)
            equal &= same[:, same.mean(0).argmax()]
        found[shift] = float(equal.mean())
    return found


def _binary(data: Aligned, column: int) -> bool:
    values = (
        np.concatenate([action[:, column] for action, _ in data.episodes]) if data.episodes else np.zeros(0)
    )
    return len(np.unique(values[np.isfinite(values)])) <= 3


def detect_action(data: Aligned, fit: Fit | None) -> Detected:
    """Absolute, delta or velocity."""
    if not data.actions:
        return Detected.unknown("there is no action stream")
    units = {c.unit for c in data.actions if not is_gripper(c)} - {""}
    if units and all(re.search(r"/s$|s\^?-1$", unit) for unit in units):
        return Detected("velocity", 0.95, f"its units are {', '.join(sorted(units))}")
    if fit is None:
        return Detected.unknown("there is no state to compare actions with")
    figures = (
        f"the level of states explains {fit.level:.0%} of the actions, their change {fit.change:.0%} "
        f"({fit.rows} rows)"
    )
    best, other = max(fit.level, fit.change), min(fit.level, fit.change)
    if best < 0.15:
        return Detected.unknown(f"actions go with no state: {figures}")
    confidence = math.sqrt(best) * min(1.0, 1.25 * (1 - other / best)) * enough(fit.rows)
    if fit.level > fit.change:
        return Detected("absolute", _round(confidence), figures)
    slope = np.asarray(fit.slope)
    middle, spread = float(np.median(slope)), float(np.ptp(slope)) / max(float(np.median(slope)), 1e-12)
    alike = len(slope) >= 2 and spread < 0.2
    moved = f"{figures}; a unit of action moves the state by {middle:.3g}"
    near_one = 0.8 < middle < 1.25
    if alike and not near_one and math.isfinite(data.period_s) and 0.8 < middle / data.period_s < 1.25:
        return Detected(
            "velocity",
            _round(0.75 * confidence),
            f"{moved}, as a velocity would in the {data.period_s:.3g} s between rows; a delta scaled by the "
            "same number would look alike",
        )
    return Detected("delta", _round(confidence), moved)


def detect_observed(data: Aligned, fit: Fit | None) -> Detected:
    """Whether row t was seen before or after action t ran, by the shift that explains most."""
    if fit is None:
        return Detected.unknown("there are no actions and states to compare")
    if max(fit.level, fit.change) < 0.15:
        return Detected.unknown("actions go with no state at any shift")
    after = max((value for shift, value in fit.shifts.items() if shift <= 0), default=0.0)
    before = max((value for shift, value in fit.shifts.items() if shift >= 1), default=0.0)
    best, other = max(after, before), min(after, before)
    if best <= 0:
        return Detected.unknown("no shift explains the actions")
    at = max(fit.shifts, key=lambda k: fit.shifts[k])
    confidence = math.sqrt(best) * min(1.0, 2 * (1 - other / best)) * enough(fit.rows)
    words = (
        f"actions go best with the state {at} row{'s' if abs(at) != 1 else ''} later: seen before it "
        f"explains {before:.0%}, seen after {after:.0%}"
    )
    if before > after:
        return Detected("before", _round(confidence), words)
    if fit.level > fit.change:  # a leader that is followed without delay looks the same
        confidence *= 0.6
        words += "; a robot that follows its targets at once would look alike"
    return Detected("after", _round(confidence), words)


def detect_angles(data: Aligned) -> dict[str, Detected]:
    """Radians or degrees of the streams whose names speak of joints or angles."""
    found: dict[str, Detected] = {}
    for side, columns in ((0, data.actions), (1, data.states)):
        for key in dict.fromkeys(c.stream for c in columns):
            at = [i for i, c in enumerate(columns) if c.stream == key and _is_angle(c)]
            if not at or not data.episodes:
                continue
            units = {columns[i].unit for i in at} - {""}
            if len(units) == 1:
                found[f"angles {key}"] = Detected(units.pop(), 1.0, SAID)
                continue
            values = np.abs(np.concatenate([pair[side][:, at] for pair in data.episodes]))
            values = values[np.isfinite(values)]
            if values.size:
                found[f"angles {key}"] = _angle_unit(float(np.quantile(values, 0.99)))
    return found


def _angle_unit(high: float) -> Detected:
    words = f"99 % of the magnitudes are below {high:.3g}"
    if high <= 0.02:
        return Detected.unknown(f"{words}: too small to tell")
    if high <= 2 * math.pi:
        sure = 0.9 if high > 0.5 else 0.5
        return Detected("rad", sure, f"{words}, at most one turn in radians")
    if high <= 15:
        return Detected.unknown(f"{words}: more than a turn in radians, little in degrees")
    if 90 <= high <= 100.001:
        return Detected("deg", 0.5, f"{words}; LeRobot's scale of -100 to 100 per cent would look alike")
    if high <= 400:
        return Detected("deg", 0.85, f"{words}: far more than a turn in radians")
    return Detected.unknown(f"{words}: neither radians nor degrees of a joint")


def _is_angle(column: Column) -> bool:
    name = column.name.lower()
    if is_gripper(column) or "vel" in name or "torque" in name or "effort" in name:
        return False
    return bool(
        _JOINTS.search(name) or (not name and "joint" in column.stream and "vel" not in column.stream)
    )


def _round(confidence: float) -> float:
    return round(min(max(confidence, 0.0), 0.99), 2)
