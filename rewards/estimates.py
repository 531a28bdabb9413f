"""A number with its interval from a bootstrap over start states, or the reason why there is none."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..datasets.episode import Rollouts
from ..datasets.starts import counter_generator

RESAMPLES = 1000


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % interval, or the reason why there is none.

    Attributes:
        value: None if it is not defined for these episodes.
        low: end of the interval; None if it has none.
        high: the other end.
        why: reason for a missing value.
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    why: str = ""

    def __str__(self) -> str:
        if self.value is None:
            return "-"
        return f"{self.value:.2f}" + (
            f" [{self.low:.2f}, {self.high:.2f}]" if self.low is not None and self.high is not None else ""
        )


def start_weights(rollouts: Rollouts, resamples: int = RESAMPLES) -> NDArray[np.float64]:
    """(R,B): how often each episode counts when each task's start states are drawn anew, with replacement."""
    names = [(start.task, start.split, start.index, start.seed) for start in rollouts.start]
    tasks = sorted({name[0] for name in names})
    weight = np.zeros((resamples, len(names)))
    for task in tasks:
        rows = np.array([row for row, name in enumerate(names) if name[0] == task])
        starts = sorted({names[row] for row in rows})
        of_row = np.array([starts.index(names[row]) for row in rows])
        generator = counter_generator("trust", task, len(starts))
        drawn = generator.multinomial(len(starts), np.full(len(starts), 1 / len(starts)), resamples)
        weight[:, rows] = drawn[:, of_row]
    return weight


def estimate(
    statistic: Callable[[NDArray[np.float64]], NDArray[np.float64]], weight: NDArray[np.float64], why: str
) -> Estimate:
    """A statistic of all episodes and its bootstrap interval.

    Args:
        statistic: weights (R,B) to R numbers, NaN where undefined.
        weight: of the resamples.
        why: reason to give if it is undefined.
    """
    value = float(statistic(np.ones((1, weight.shape[1])))[0])
    if not np.isfinite(value):
        return Estimate(None, why=why)
    drawn = statistic(weight)
    drawn = drawn[np.isfinite(drawn)]
    if 2 * len(drawn) < len(weight):  # most resamples have no such episode: too few starts to say
        return Estimate(value)
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Estimate(value, float(low), float(high))


def mean_of(values: NDArray[np.floating], weight: NDArray[np.float64], why: str) -> Estimate:
    """The mean of those of B values that are not NaN."""
    known = np.isfinite(values)

    def mean(times: NDArray[np.float64]) -> NDArray[np.float64]:
        with np.errstate(invalid="ignore"):
            return np.asarray(
                (times[:, known] * values[known]).sum(1) / times[:, known].sum(1), dtype=np.float64
            )

    return estimate(mean, weight, why)
