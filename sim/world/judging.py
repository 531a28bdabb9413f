"""Do a world model's verdicts hold: of episodes, and of policies?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...datasets.statistics import Rate
from .checks import Seen
from .estimates import Estimate, auroc, estimate, expected_calibration_error, kendall, spearman
from .model import WorldModel

_BINS = 10
Measure = Callable[[NDArray[np.float64], NDArray[np.bool_], NDArray[np.int64]], float]
_QUANTILES = 4


@dataclass(frozen=True)
class Verdicts:
    """Said to have succeeded against succeeded.

    Attributes:
        count: how many were judged; `positive`: how many of them did succeed.
        precision: of what is said to have succeeded; `recall`: of what did.
        auroc: that a success is more probable than a failure of the same task, to the model.
        ece: mean gap between probability and frequency, ten bins.
        bins: mean probability and frequency of each bin that holds anything.
    """

    count: int
    positive: int
    precision: Estimate
    recall: Estimate
    auroc: Estimate
    ece: Estimate
    bins: tuple[tuple[float, Rate], ...]


@dataclass(frozen=True)
class Reflector:
    """Verdicts by decision and by episode, on imagined frames and on real ones.

    Of an episode the most probable decision counts: it succeeded if that is above the threshold.

    Attributes:
        imagined: by ``decision`` and ``episode``; `real` likewise, the reflector shown real frames.
    """

    imagined: dict[str, Verdicts]
    real: dict[str, Verdicts]


def reflector(model: WorldModel, seen: Seen) -> Reflector:
    """How far success can be left to the model, on the unseen episodes."""
    windows = seen.played.windows
    names, number = np.unique(np.asarray(seen.clips.task), return_inverse=True)
    task, needed = number.astype(np.int64), np.array([model.calibration.needed(str(text)) for text in names])
    found = []
    for logit in (seen.played.logit, seen.taught):
        chance = probability(model, logit, windows.there)
        found.append(
            {
                "decision": verdicts(chance, windows.success, windows.there, task, needed),
                "episode": verdicts(
                    chance.max(1, keepdims=True), seen.clips.success[:, None],
                    np.ones((len(task), 1), np.bool_), task, needed,
                ),
            }
        )  # fmt: skip
    return Reflector(*found)


def probability(
    model: WorldModel, logit: NDArray[np.float32], there: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Calibrated, (B,L); 0 where no decision is."""
    return np.where(there, 1 / (1 + np.exp(-logit.astype(np.float64) / model.calibration.temperature)), 0.0)


def verdicts(
    chance: NDArray[np.float64], truth: NDArray[np.bool_], there: NDArray[np.bool_],
    task: NDArray[np.int64], needed: NDArray[np.float64],
) -> Verdicts:  # fmt: skip
    """Judge (E,L) probabilities where something is `there`.

    Args:
        chance: see above.
        truth: (E,L), it succeeded.
        there: (E,L).
        task: (E,) numbers what is asked for.
        needed: of each of these, the probability above which it is said to have succeeded.
    """

    def pooled(measure: Measure) -> Callable[[NDArray[np.int64]], float]:
        def of(rows: NDArray[np.int64]) -> float:
            which = there[rows]
            asked = np.broadcast_to(task[rows][:, None], which.shape)
            return measure(chance[rows][which], truth[rows][which], asked[which])

        return of

    def share(hits: float, all_of: float) -> float:
        return float(hits / all_of) if all_of else float("nan")

    episodes = len(chance)
    flat, right = chance[there], truth[there]
    place = np.minimum((flat * _BINS).astype(np.int64), _BINS - 1)
    return Verdicts(
        count=len(flat),
        positive=int(right.sum()),
        precision=estimate(
            pooled(lambda p, y, k: share(float((y & (p > needed[k])).sum()), float((p > needed[k]).sum()))),
            episodes, "nothing was said to have succeeded",
        ),
        recall=estimate(
            pooled(lambda p, y, k: share(float((y & (p > needed[k])).sum()), float(y.sum()))),
            episodes, "nothing succeeded",
        ),
        auroc=estimate(pooled(auroc), episodes, "no task has both a success and a failure"),
        ece=estimate(
            pooled(lambda p, y, _: expected_calibration_error(p, y, _BINS)), episodes, "nothing to judge"
        ),
        bins=tuple(
            (float(flat[place == b].mean()), Rate(int(right[place == b].sum()), int((place == b).sum())))
            for b in np.unique(place)
        ),
    )  # fmt: skip


# ---- policies ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ranking:
    """Does the world model rank policies as reality does?

    Attributes:
        how: what was compared, in words.
        names: of the G groups; `imagined` and `real`: how often each succeeded.
        spearman: rank correlation of the two; `kendall`: tau-b. Intervals over episodes (or start states).
        same: share of episodes that ended alike in both.
    """

    how: str
    names: tuple[str, ...]
    imagined: tuple[Rate, ...]
    real: tuple[Rate, ...]
    spearman: Estimate
    kendall: Estimate
    same: Estimate


def rank(
    how: str, names: Sequence[str], imagined: Sequence[NDArray[np.bool_]], real: Sequence[NDArray[np.bool_]],
    paired: bool,
) -> Ranking:  # fmt: skip
    """Compare groups of episodes by how often they succeed in the model and in reality.

    Args:
        how: see `Ranking`.
        names: of the groups.
        imagined: outcomes of each.
        real: of the same episodes in the same order.
        paired: row i of every group begins at the same start: starts are drawn anew, not episodes.
    """
    sizes = [len(one) for one in real]
    ends = np.cumsum(sizes)
    parts = sizes[:1] if paired else sizes
    total = sum(parts)

    def of(measure: Callable[[NDArray[np.float64], NDArray[np.float64]], float]) -> Estimate:
        def statistic(rows: NDArray[np.int64]) -> float:
            drawn = [
                rows if paired else rows[end - size : end] - (end - size)
                for size, end in zip(sizes, ends, strict=True)
            ]
            first, second = (
                np.array([held[one].mean() for held, one in zip(groups, drawn, strict=True)])
                for groups in (imagined, real)
            )
            return measure(first, second)

        return estimate(statistic, total, "there are not two groups that differ", parts)

    alike = np.concatenate([a == b for a, b in zip(imagined, real, strict=True)])
    place = np.concatenate(
        [
            np.arange(size) if paired else np.arange(end - size, end)
            for size, end in zip(sizes, ends, strict=True)
        ]
    )
    won, count = np.bincount(place, alike, total), np.bincount(place, minlength=total)
    return Ranking(
        how, tuple(names),
        tuple(Rate(int(one.sum()), len(one)) for one in imagined),
        tuple(Rate(int(one.sum()), len(one)) for one in real),
        of(spearman), of(kendall),
        estimate(lambda rows: float(won[rows].sum() / count[rows].sum()), total, "no episode", parts),
    )  # fmt: skip


def recorded_ranking(model: WorldModel, seen: Seen) -> Ranking:
    """From recordings alone: recorded actions played in the model, grouped by who chose them.

    Where one policy played everything, groups are quarters of the episodes by how probable success is to the
    model: does what it thinks better succeed more often?
    """
    chance = probability(model, seen.played.logit, seen.played.windows.there).max(1)
    needed = np.array([model.calibration.needed(text) for text in seen.clips.task])
    said, real = chance > needed, seen.clips.success
    policy = np.asarray(seen.clips.policy)
    names = sorted(set(seen.clips.policy))
    if len(names) > 1:
        groups = [np.flatnonzero(policy == name) for name in names]
        how = "recorded actions, by the policy that chose them"
        labels = [name or "unnamed" for name in names]
    else:
        order = np.argsort(chance, kind="stable")
        groups = [part for part in np.array_split(order, _QUANTILES) if len(part)]
        how = "recorded actions of one policy, in quarters by how probable success is to the model"
        labels = [f"quarter {number + 1}" for number in range(len(groups))]
    return rank(how, labels, [said[g] for g in groups], [real[g] for g in groups], paired=False)
