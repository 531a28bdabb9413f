"""Numbers with bootstrap intervals over episodes, for the decisions of one episode are not independent."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import kendalltau, rankdata

from ...datasets.starts import counter_generator

RESAMPLES = 500


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % interval, or the reason why there is none.

    Attributes:
        value: None if it is not defined here.
        low: end of the interval; None if it has none.
        high: the other end.
        why: reason for a missing value.
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    why: str = ""

    def complement(self) -> Estimate:
        """What is missing from 1."""
        value, low, high = (None if x is None else 1 - x for x in (self.value, self.high, self.low))
        return Estimate(value, low, high, self.why)

    def __str__(self) -> str:
        if self.value is None:
            return "-"
        ends = (self.low, self.high)
        return f"{self.value:.3g}" + (f" [{self.low:.3g}, {self.high:.3g}]" if None not in ends else "")


@dataclass(frozen=True)
class Curve:
    """A mean over episodes by decisions ahead, with its interval; all (L,), NaN where nothing is known."""

    value: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]


def curve(values: NDArray[np.floating], resamples: int = RESAMPLES) -> Curve:
    """The mean over episodes of (E,L), leaving out NaN, with its interval."""
    episodes = len(values)
    known = np.isfinite(values)
    filled = np.where(known, values, 0.0).astype(np.float64)
    weight = _draw(episodes).multinomial(episodes, np.full(episodes, 1 / episodes), resamples).astype(float)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = filled.sum(0) / known.sum(0)
        drawn = (weight @ filled) / (weight @ known)
    low, high = (np.full(values.shape[1], np.nan) for _ in range(2))
    for column in np.flatnonzero(np.isfinite(drawn).any(0)):
        kept = drawn[np.isfinite(drawn[:, column]), column]
        low[column], high[column] = np.quantile(kept, [0.025, 0.975])
    return Curve(mean, low, high)


def estimate(
    statistic: Callable[[NDArray[np.int64]], float], episodes: int, why: str,
    parts: Sequence[int] = (), resamples: int = RESAMPLES,
) -> Estimate:  # fmt: skip
    """A statistic of episodes, and its interval.

    Args:
        statistic: rows of episodes, perhaps some of them twice, to a number; NaN where it is not defined.
        episodes: how many there are.
        why: said if it is not defined for all of them.
        parts: sizes of groups that follow one another and are drawn from apart; by default they are one.
        resamples: of the bootstrap; its generator is fixed.
    """
    value = statistic(np.arange(episodes)) if episodes else float("nan")
    if not np.isfinite(value):
        return Estimate(None, why=why)
    draw, sizes = _draw(episodes), np.array(parts or [episodes])
    low = np.repeat(np.cumsum(sizes) - sizes, sizes)
    rows = low + draw.integers(np.repeat(sizes, sizes), size=(resamples, episodes))
    drawn = np.array([statistic(row) for row in rows])
    drawn = drawn[np.isfinite(drawn)]
    if 2 * len(drawn) < resamples:
        return Estimate(float(value))
    ends = np.quantile(drawn, [0.025, 0.975])
    return Estimate(float(value), float(ends[0]), float(ends[1]))


def mean_of(values: NDArray[np.floating], why: str) -> Estimate:
    """The mean of all of (E,...) that is not NaN, its interval over episodes."""
    flat = values.reshape(len(values), -1)
    known = np.isfinite(flat)
    total, count = np.where(known, flat, 0.0).sum(1), known.sum(1)
    return estimate(lambda rows: _ratio(total[rows].sum(), count[rows].sum()), len(values), why)


def ratio_of(above: NDArray[np.floating], below: NDArray[np.floating], why: str) -> Estimate:
    """The mean of one (E,L) over that of another where both are known, its interval over episodes."""
    known = np.isfinite(above) & np.isfinite(below)
    a, b = (np.where(known, values, 0.0).sum(1) for values in (above, below))
    return estimate(lambda rows: _ratio(a[rows].sum(), b[rows].sum()), len(above), why)


def _ratio(a: float, b: float) -> float:
    return float(a / b) if b else float("nan")


def _draw(episodes: int) -> np.random.Generator:
    return counter_generator("world check", episodes)


def auroc(score: NDArray[np.floating], truth: NDArray[np.bool_], task: NDArray[np.int64]) -> float:
    """That a success scores above a failure of its task, ties counting one half; NaN if none has both."""
    won, pairs = 0.0, 0
    for name in np.unique(task):
        rows = task == name
        good = truth[rows]
        count = int(good.sum())
        rank = rankdata(score[rows])
        won += float(rank[good].sum()) - count * (count + 1) / 2
        pairs += count * (len(good) - count)
    return won / pairs if pairs else float("nan")


def expected_calibration_error(
    chance: NDArray[np.floating], truth: NDArray[np.bool_], bins: int = 10
) -> float:
    """Mean gap of probability and frequency over equal bins, each weighing what it holds; NaN of nothing."""
    if not len(chance):
        return float("nan")
    place = np.minimum((chance * bins).astype(np.int64), bins - 1)
    return float(
        sum(abs(chance[place == b].sum() - truth[place == b].sum()) for b in np.unique(place)) / len(chance)
    )


def spearman(a: NDArray[np.floating], b: NDArray[np.floating]) -> float:
    """Rank correlation; NaN if one of the two is constant or there are fewer than two."""
    if len(a) < 2 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return float("nan")
    return float(np.corrcoef(rankdata(a), rankdata(b))[0, 1])


def kendall(a: NDArray[np.floating], b: NDArray[np.floating]) -> float:
    """Kendall's tau-b; NaN if one of the two is constant or there are fewer than two."""
    if len(a) < 2 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return float("nan")
    return float(kendalltau(a, b).statistic)
