"""Can a score be trusted? Rank statistics of a score against true success, compared inside each task only.

Between tasks a score may be high because the task is easy; such pairs would flatter it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata


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


def _by_task(task: Sequence[str]) -> list[NDArray[np.int64]]:
    names = np.asarray(task)
    return [np.flatnonzero(names == name) for name in np.unique(names)]
