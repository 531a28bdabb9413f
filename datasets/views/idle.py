"""Where a robot stands still at the start and the end of an episode."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from ..ledger import DataError
from ..recording import Contents
from .cutting import _SAME_TIME_S, Cut, Numbers, between, leading

_MOST_SPEEDS = 1 << 20  # of one stream, beyond which speeds are sampled evenly for the quantiles


@dataclass(frozen=True)
class TrimIdle:
    """Cut what comes before the first motion and after the last.

    A robot moves between two rows where any entry of any watched stream changes faster than its threshold. An
    action that is itself a motion (``delta``, ``velocity``) is compared as it is, save grippers. The row
    from which the first motion starts stays, and so does the row at which the last has ended.

    Attributes:
        speed: stream to thresholds in its units per second, one for all its entries or one for each. If
            empty, thresholds are taken from the set: `fraction` of the `quantile` of each entry's speed, in
            ``observation.state`` and, where its kind is known, ``action``.
        fraction: of the quantile; for thresholds taken from the set.
        quantile: of the speeds of all rows of the set.
        at_least_s: a stretch shorter than this stays.
        keep_s: how much of a stretch stays, next to the motion.
        ends: which end is cut.
    """

    name: ClassVar[str] = "trim_idle"
    speed: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    fraction: float = 0.05
    quantile: float = 0.9
    at_least_s: float = 0.5
    keep_s: float = 0.0
    ends: Literal["both", "start", "end"] = "both"

    def __post_init__(self) -> None:
        limits = [threshold for each in self.speed.values() for threshold in each]
        if any(not threshold >= 0 for threshold in limits) or not all(self.speed.values()):
            raise DataError(f"speeds {dict(self.speed)} below 0 or none", "give thresholds of 0 or more")
        if not (0 <= self.quantile <= 1 and self.fraction >= 0 and self.at_least_s >= 0 and self.keep_s >= 0):
            raise DataError(
                f"quantile {self.quantile}, fraction {self.fraction}, at_least_s {self.at_least_s}, "
                f"keep_s {self.keep_s}",
                "the quantile lies between 0 and 1, the others are 0 or more",
            )

    def resolved(self, of: Contents, episodes: Iterable[Numbers]) -> TrimIdle:
        """The same with every threshold in units per second, so that it means the same tomorrow.

        Raises:
            DataError: a stream is not there or no vector, or nothing says whether anything moves.
        """
        kind = of.conventions.action
        keys = list(self.speed)
        if not keys:
            keys = ["observation.state"] if "observation.state" in of.streams else []
            keys += ["action"] if "action" in of.streams and kind not in ("unknown", "relative") else []
            if not keys:
                raise DataError(
                    f"nothing says whether the robot moves: no observation.state, and actions are {kind}",
                    "name a stream and its threshold, or say in a mapping what kind the actions are",
                )
        for key in keys:
            spec = of.streams.get(key)
            if spec is None or spec.kind != "vector":
                there = ", ".join(of.of_kind("vector"))
                raise DataError(f"no vector stream is called {key!r}", f"there are {there}", key=key)
            entries = int(np.prod(spec.shape, dtype=np.int64))
            if key in self.speed and len(self.speed[key]) not in (1, entries):
                raise DataError(
                    f"{len(self.speed[key])} thresholds for {entries} entries",
                    "give one for all or one for each",
                    key=key,
                )
        if "action" in self.speed and kind in ("unknown", "relative"):
            raise DataError(
                f"actions are {kind}, so whether they move is not known",
                "say in a mapping what kind they are, or watch observation.state",
                key="action",
            )
        if self.speed:
            return self
        return dataclasses.replace(self, speed=self._relative(keys, episodes, of))

    def _relative(
        self, keys: list[str], episodes: Iterable[Numbers], of: Contents
    ) -> dict[str, tuple[float, ...]]:
        found: dict[str, list[NDArray[np.float64]]] = {key: [] for key in keys}
        stride, held = 1, 0
        for numbers in episodes:
            for key in keys:
                if numbers.rows().get(key):
                    found[key].append(_speeds(numbers, key, of)[::stride])
            held += max(numbers.rows().values(), default=0) // stride
            if held > _MOST_SPEEDS:
                found = {key: [np.concatenate(parts)[::2]] for key, parts in found.items() if parts}
                found.update({key: [] for key in keys if key not in found})
                stride, held = 2 * stride, held // 2
        return {
            key: tuple(
                float(f"{self.fraction * _quantile(column, self.quantile):.6g}")
                for column in np.concatenate(parts).T
            )
            for key, parts in found.items()
            if parts
        }

    def cut(self, numbers: Numbers, of: Contents) -> Cut:
        """What stays of an episode; nothing where it never moves."""
        rows = numbers.rows()
        time = numbers.time(leading(rows))
        moments = [
            moment
            for key, limits in self.speed.items()
            if rows.get(key) and (moment := _moving(numbers, key, limits, of)) is not None
        ]
        watched = any(rows.get(key, 0) > 1 for key in self.speed)
        if not moments:
            return between(numbers, 0, 0 if watched else len(time))
        begins, ends = min(m[0] for m in moments), max(m[1] for m in moments)
        start, stop = 0, len(time)
        if self.ends != "end" and begins - time[0] >= self.at_least_s - _SAME_TIME_S:
            start = int(np.searchsorted(time, begins - self.keep_s + _SAME_TIME_S, side="right")) - 1
        if self.ends != "start" and time[-1] - ends >= self.at_least_s - _SAME_TIME_S:
            stop = int(np.searchsorted(time, ends + self.keep_s - _SAME_TIME_S)) + 1
        return between(numbers, max(start, 0), min(stop, len(time)))

    def contents(self, of: Contents) -> Contents:
        return of


def _speeds(numbers: Numbers, key: str, of: Contents) -> NDArray[np.float64]:
    """(N,D) speed from each row to the next, in units per second; 0 at the last row, which has no next.

    Where an action is itself a motion, its own value instead, and then of the last row too.
    """
    time = numbers.time(key)
    values = np.asarray(numbers.values(key), np.float64).reshape(len(time), -1)
    step = np.diff(time, append=time[-1:])[:, None]
    if len(time) > 1:
        step[-1] = step[-2]
    moved = np.abs(np.diff(values, axis=0, append=values[-1:]))
    kind = of.conventions.action if key == "action" else "absolute"
    with np.errstate(divide="ignore", invalid="ignore"):
        speeds = np.where(moved == 0, 0.0, moved / step)
        if kind not in ("delta", "velocity"):
            return speeds
        own = np.abs(values) if kind == "velocity" else np.where(values == 0, 0.0, np.abs(values) / step)
    fixed = [g.index for g in of.conventions.grippers if g.stream == key and 0 <= g.index < own.shape[1]]
    own[:, fixed] = speeds[:, fixed]
    return own


def _moving(
    numbers: Numbers, key: str, limits: tuple[float, ...], of: Contents
) -> tuple[float, float] | None:
    """When the first motion starts and when the last has ended; None if there is none."""
    time = numbers.time(key)
    # Not "greater than": what is not a number must not be taken for standing still.
    moving = np.flatnonzero((~(_speeds(numbers, key, of) <= np.asarray(limits))).any(axis=1))
    if len(moving) == 0:
        return None
    return float(time[moving[0]]), float(time[min(moving[-1] + 1, len(time) - 1)])


def _quantile(values: NDArray[Any], q: float) -> float:
    finite = values[np.isfinite(values)]
    return float(np.quantile(finite, q)) if len(finite) else 0.0
