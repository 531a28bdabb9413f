"""Honest numbers: rates with their counts and intervals, and comparisons paired on start states."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats


@dataclass(frozen=True)
class Interval:
    """A confidence interval."""

    low: float
    high: float


@dataclass(frozen=True)
class Rate:
    """How often something succeeded: ``str(Rate(143, 180))`` is ``143/180 = 79.4 % [73.0, 84.7]``."""

    successes: int
    trials: int

    def __post_init__(self) -> None:
        if not 0 <= self.successes <= self.trials:
            raise ValueError(f"{self.successes} successes in {self.trials} trials is not a rate")

    @property
    def value(self) -> float:
        """In [0, 1]; NaN if nothing was tried."""
        return self.successes / self.trials if self.trials else math.nan

    @property
    def interval(self) -> Interval:
        """The 95 % Wilson interval."""
        return wilson(self.successes, self.trials)

    @property
    def percent(self) -> str:
        """``79.4 % [73.0, 84.7]``, or ``not measured``."""
        if not self.trials:
            return "not measured"
        return f"{100 * self.value:.1f} % [{100 * self.interval.low:.1f}, {100 * self.interval.high:.1f}]"

    def __str__(self) -> str:
        return f"{self.successes}/{self.trials} = {self.percent}" if self.trials else "0/0 (not measured)"

    def __add__(self, other: Rate) -> Rate:
        return Rate(self.successes + other.successes, self.trials + other.trials)


def wilson(successes: int, trials: int, confidence: float = 0.95) -> Interval:
    """Wilson's score interval of a binomial rate; [0, 1] if nothing was tried."""
    if not trials:
        return Interval(0.0, 1.0)
    z = float(stats.norm.ppf(0.5 + confidence / 2))
    rate = successes / trials
    centre = rate + z * z / (2 * trials)
    half = z * math.sqrt(rate * (1 - rate) / trials + z * z / (4 * trials * trials))
    scale = 1 + z * z / trials
    # At 0 and at `trials` the bound is exactly 0 or 1; rounding must not miss it.
    low = 0.0 if successes == 0 else (centre - half) / scale
    high = 1.0 if successes == trials else (centre + half) / scale
    return Interval(low, high)


def mcnemar(only_first: int, only_second: int) -> float:
    """Exact two-sided p-value that two paired binary measurements succeed equally often.

    Args:
        only_first: pairs in which only the first succeeded.
        only_second: pairs in which only the second succeeded.
    """
    if only_first == only_second:  # no discordant pair, or the most even split: nothing against equality
        return 1.0
    return float(stats.binomtest(only_first, only_first + only_second, 0.5).pvalue)


@dataclass(frozen=True)
class PairedDifference:
    """What changed between two measurements of the same start states.

    Attributes:
        num_pairs: start states measured both times.
        difference: mean of second minus first, in [-1, 1].
        interval: its 95 % interval, by `paired_interval` for outcomes of 0 and 1, else a bootstrap over start
            states.
        only_first: start states that only the first solved.
        only_second: start states that only the second solved.
        p_value: exact McNemar; NaN if an outcome is not 0 or 1 (several episodes of one start state).
    """

    num_pairs: int
    difference: float
    interval: Interval
    only_first: int
    only_second: int
    p_value: float

    def __str__(self) -> str:
        points = f"{100 * self.difference:+.1f} points [{100 * self.interval.low:+.1f}, "
        return (
            f"{points}{100 * self.interval.high:+.1f}] over {self.num_pairs} paired start states; "
            f"{self.only_second} gained, {self.only_first} lost, McNemar p = {format_p(self.p_value)}"
        )


def paired_difference(first: ArrayLike, second: ArrayLike, resamples: int = 10_000) -> PairedDifference:
    """Compare two measurements of the same start states.

    Args:
        first: (N,) success of each start state, 0 or 1, or a mean over several episodes of it.
        second: (N,) the same start states in the same order.
        resamples: of the bootstrap, if one is needed; its generator is fixed: same data, same interval.

    Raises:
        ValueError: if the two are empty or not of one length.
    """
    a, b = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if a.shape != b.shape or a.ndim != 1 or not len(a):
        raise ValueError(f"measurements of shapes {a.shape} and {b.shape} cannot be paired")
    only_first, only_second = int((a > b).sum()), int((b > a).sum())
    binary = bool(np.isin(a, (0.0, 1.0)).all() and np.isin(b, (0.0, 1.0)).all())
    if binary:
        interval = paired_interval(only_first, only_second, len(a))
    else:
        interval = bootstrap_mean(b - a, resamples)
    return PairedDifference(
        num_pairs=len(a),
        difference=float((b - a).mean()),
        interval=interval,
        only_first=only_first,
        only_second=only_second,
        p_value=mcnemar(only_first, only_second) if binary else math.nan,
    )


def paired_interval(only_first: int, only_second: int, pairs: int, confidence: float = 0.95) -> Interval:
    """Interval of the difference between two paired rates (Bonett and Price, 2012: one pair of each added).

    A bootstrap agrees with it where many start states changed, but has no width where none did, or all did.
    """
    z = float(stats.norm.ppf(0.5 + confidence / 2))
    lost, gained = (only_first + 1) / (pairs + 2), (only_second + 1) / (pairs + 2)
    half = z * math.sqrt((lost + gained - (gained - lost) ** 2) / (pairs + 2))
    return Interval(max(gained - lost - half, -1.0), min(gained - lost + half, 1.0))


def bootstrap_mean(values: ArrayLike, resamples: int = 10_000, confidence: float = 0.95) -> Interval:
    """Percentile bootstrap interval of a mean; its generator is fixed: same data, same interval."""
    data = np.asarray(values, dtype=np.float64)
    generator = np.random.Generator(np.random.Philox(key=0))
    means = np.empty(resamples)
    for first in range(0, resamples, 500):  # in pieces: resamples x N indices need not fit in memory
        rows = generator.integers(len(data), size=(min(500, resamples - first), len(data)))
        means[first : first + len(rows)] = data[rows].mean(1)
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(float(low), float(high))


def format_p(p: float) -> str:
    """A p-value to two figures, without the false precision of very small ones."""
    if math.isnan(p):
        return "not defined"
    return "< 0.0001" if p < 1e-4 else f"{p:.2g}"
