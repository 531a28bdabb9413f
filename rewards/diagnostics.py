"""Can a score be trusted? Rank statistics of a score against true success, compared inside each task only.

Between tasks a score may be high because the task is easy; such pairs would flatter it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import kendalltau, rankdata


def auc(score: NDArray[np.floating], success: NDArray[np.bool_], task: Sequence[str]) -> float | None:
    """Probability that a success scores above a failure of the same task, ties counting one half.

    Args:
        score: (B,).
        success: (B,) bool.
        task: B names.

    Returns:
        In [0, 1]; 0.5 is chance. None if no task has both.
    """
    won, pairs = 0.0, 0
    for rows in _by_task(task):
        good, count = success[rows], len(rows)
        num_good = int(good.sum())
        won += float(rankdata(score[rows])[good].sum()) - num_good * (num_good + 1) / 2
        pairs += num_good * (count - num_good)
    return won / pairs if pairs else None


def spearman(a: NDArray[np.floating], b: NDArray[np.floating], task: Sequence[str]) -> float | None:
    """Rank correlation inside tasks, averaged with the number of episodes as weight.

    Returns:
        In [-1, 1]; None if in every task one of the two is constant.
    """
    total, count = 0.0, 0
    for rows in _by_task(task):
        ranks = [rankdata(x[rows]) for x in (a, b)]
        if all(np.ptp(rank) > 0 for rank in ranks):
            total += len(rows) * float(np.corrcoef(ranks[0], ranks[1])[0, 1])
            count += len(rows)
    return total / count if count else None


def ranking_curves(
    score: NDArray[np.floating],
    success: NDArray[np.bool_],
    task: Sequence[str],
    weight: NDArray[np.floating],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """AUROC and AUPRC inside tasks, for R ways to weight the same B episodes (all ones: the plain numbers).

    AUROC is `auc`. AUPRC is the average precision of a task (precision at each score, weighted with the
    successes found there; equal scores are found together), averaged over the tasks with a failure and with
    the weight of their successes. Chance, what equal
    scores get, is the rate of success of each task in that same average.

    Args:
        score: (B,).
        success: (B,) bool.
        task: B names.
        weight: (R,B), how often each episode counts.

    Returns:
        Two (R,); NaN where no task has both a success and a failure.
    """
    won, pairs, found, sought = (np.zeros(len(weight)) for _ in range(4))
    for rows in _by_task(task):
        order = rows[np.argsort(-score[rows], kind="stable")]
        first = np.flatnonzero(np.diff(score[order], prepend=np.inf))  # where each distinct score begins
        good, bad = (
            np.add.reduceat(weight[:, order] * which[order], first, axis=1) for which in (success, ~success)
        )
        num_good, num_bad = good.sum(1), bad.sum(1)
        below = num_bad[:, None] - np.cumsum(bad, 1)
        won += (good * (below + bad / 2)).sum(1)
        pairs += num_good * num_bad
        hits, seen = np.cumsum(good, 1), np.cumsum(good + bad, 1)
        mixed = num_bad > 0
        found += mixed * (good * hits / np.maximum(seen, 1e-12)).sum(1)
        sought += mixed * num_good
    with np.errstate(invalid="ignore"):
        return np.where(pairs > 0, won / pairs, np.nan), np.where(sought > 0, found / sought, np.nan)


def value_order(levels: NDArray[np.floating]) -> float:
    """Value-order correlation (VOC): Spearman's of T levels with their time, in [-1, 1].

    0 if all levels are equal, NaN if there are fewer than two. As in VLAC's and GVL's code.
    """
    if len(levels) < 2:
        return float("nan")
    ranks = rankdata(levels)
    if np.ptp(ranks) == 0:
        return 0.0
    return float(np.corrcoef(ranks, np.arange(len(ranks)))[0, 1])


def falls(levels: NDArray[np.floating]) -> float:
    """The share of steps from one level to the next that go down; NaN if there is no step (VLAC's code)."""
    return float((np.diff(levels) < 0).mean()) if len(levels) > 1 else float("nan")


def kendall(reward: NDArray[np.floating], truth: NDArray[np.floating]) -> float | None:
    """Kendall's tau-b of N policies' mean rewards with their true success; None if fewer than two differ."""
    if len(reward) < 2 or np.ptp(reward) == 0 or np.ptp(truth) == 0:
        return None
    found: Any = kendalltau(reward, truth)
    return float(found.statistic)


def hallucination_rate(
    level: NDArray[np.floating], truth: NDArray[np.floating], high: float = 0.7, low: float = 0.1
) -> float | None:
    """Of the moments said to be done (`level` above `high`), the share where the truth is below `low`.

    EvoVLA's measure (its ``scripts/eval.py``), where `level` is u, how sure it is of the stage, and `truth`
    is its own gain r; with the released "multiply" form u never reaches `high`, so take the "divide" form.
    In general `level` is any progress in [0, 1] and `truth` what is known: see `trust.examine`.

    Returns:
        In [0, 1]; None if nothing is said to be done.
    """
    called = np.asarray(level) > high
    return float((np.asarray(truth)[called] < low).mean()) if called.any() else None


def _by_task(task: Sequence[str]) -> list[NDArray[np.int64]]:
    names = np.asarray(task)
    return [np.flatnonzero(names == name) for name in np.unique(names)]
