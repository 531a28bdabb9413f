"""Which reward can be trusted on these episodes? Every number here comes with a reason where it has none.

A reward is asked about episodes whose verdict was hidden (`probes.verdict_hidden`): one that pays what the
simulator said would else look like a perfect judge. Successes are compared with failures of the same task
only. Intervals are 95 % percentile bootstraps over start states, task by task, because episodes of one start
are not independent.

Left out: VOC-F1, whose formula the reference does not give.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..datasets.episode import Rollouts, concatenate
from ..datasets.statistics import Rate
from .diagnostics import (
    falls,
    hallucination_rate,
    kendall,
    ranking_curves,
    spearman,
    value_order,
)
from .estimates import Estimate, estimate, mean_of, start_weights
from .probes import forth_and_back, frozen, played_backwards, verdict_hidden, wrong_words
from .readings import Reading, Subject, backward_levels, read
from .starc import sampled_distance

PROBED = 64  # episodes of which copies are made, at most
DONE = 0.7  # a level above it says "done" (EvoVLA's threshold)
BINS = 10
TRUTH_UNKNOWN = "how near each failure came is not known"
STEPS = 4  # how often `examine` calls `on_step`


@dataclass(frozen=True)
class Bin:
    """Episodes whose score lay in one tenth of [0, 1]: their mean score, and how many truly succeeded."""

    score: float
    rate: Rate


@dataclass(frozen=True)
class Findings:
    """All that was measured about one reward.

    Attributes:
        name: of the reward.
        relative: its numbers only rank inside a batch.
        reads_verdict: it scores episodes otherwise when the verdict is hidden from it.
        num_episodes: given.
        num_judged: of them, those the reward could judge.
        num_successes: of those judged.
        num_starts: distinct start states of those judged.
        numbers: name to estimate; see docs/rewards_trust.md for each.
        bins: reliability of the score as a probability; empty if it is none.
        reading: what the reward said, verdict hidden.
    """

    name: str
    relative: bool
    reads_verdict: bool
    num_episodes: int
    num_judged: int
    num_successes: int
    num_starts: int
    numbers: Mapping[str, Estimate]
    bins: Sequence[Bin]
    reading: Reading


def separation(
    score: NDArray[np.floating], rollouts: Rollouts, weight: NDArray[np.float64]
) -> tuple[Estimate, Estimate]:
    """AUROC and AUPRC of a score for success, inside tasks.

    Where every success of every task lies above every failure (or below), no resample differs and a
    bootstrap has no width. The interval is then Wilson's for as many tries as there are start states with a
    success or with a failure, whichever are fewer.
    """
    tasks = [start.task for start in rollouts.start]
    why = "no task has both a success and a failure"
    found = [
        estimate(lambda w, i=which: ranking_curves(score, rollouts.success, tasks, w)[i], weight, why)  # type: ignore[misc]
        for which in (0, 1)
    ]
    area = found[0]
    if area.value in (0.0, 1.0):
        few = min(len({str(rollouts.start[int(row)]) for row in np.flatnonzero(which)})
                  for which in (rollouts.success, ~rollouts.success))  # fmt: skip
        even = Rate(few if area.value else 0, few).interval
        found[0] = Estimate(area.value, even.low, even.high)
    return found[0], found[1]


def calibration(
    score: NDArray[np.floating], success: NDArray[np.bool_], weight: NDArray[np.float64]
) -> tuple[Estimate, Estimate, list[Bin]]:
    """Expected calibration error (ten bins of equal width), Brier score, and the bins that hold something."""
    place = np.minimum((score * BINS).astype(int), BINS - 1)
    member = np.eye(BINS)[place]

    def error(times: NDArray[np.float64]) -> NDArray[np.float64]:
        gap = np.abs((times * (score - success)) @ member)
        return np.asarray(gap.sum(1) / times.sum(1), dtype=np.float64)

    bins = [
        Bin(float(score[place == b].mean()), Rate(int(success[place == b].sum()), int((place == b).sum())))
        for b in range(BINS)
        if (place == b).any()
    ]
    brier = mean_of((score - success) ** 2, weight, "")
    return estimate(error, weight, ""), brier, bins


def rank_policies(
    score: NDArray[np.floating], rollouts: Rollouts, policies: Sequence[str]
) -> tuple[Estimate, dict[str, tuple[float, Rate]]]:
    """Kendall's tau-b of policies ranked by mean score, with their ranking by true success.

    Only start states that all of them played count.

    Returns:
        The estimate, and for each policy its mean score and its rate.
    """
    names = sorted(set(policies))
    if len(names) < 2:
        return Estimate(None, why="only one policy"), {}
    held = np.asarray(policies)
    keys = np.array([str(start) for start in rollouts.start])
    common = set.intersection(*(set(keys[held == name]) for name in names))
    if not common:
        return Estimate(None, why="the policies played different start states"), {}
    shared = np.isin(keys, sorted(common))
    table = {
        name: (
            float(score[shared & (held == name)].mean()),
            Rate(int(rollouts.success[shared & (held == name)].sum()), int((shared & (held == name)).sum())),
        )
        for name in names
    }
    tau = kendall(np.array([s for s, _ in table.values()]), np.array([r.value for _, r in table.values()]))
    return Estimate(tau, why="" if tau is not None else "all policies succeed, or score, alike"), table


def lost_after_success(rollouts: Rollouts) -> Estimate:
    """Of the episodes that had succeeded at some step, the share that ended as failures, as in World-Env.

    A property of the data: it needs episodes that go on after the environment has paid its reward.
    """
    reached = (rollouts.reward * rollouts.valid > 0).any((1, 2))
    lost = reached & ~rollouts.success
    goes_on = lost.any() or any(
        (rollouts.reward[row] * rollouts.valid[row])
        .ravel()[:-1][np.flatnonzero(rollouts.valid[row].ravel())[:-1]]
        .any()
        for row in np.flatnonzero(reached)
        if rollouts.valid[row].sum() > 1
    )
    if not goes_on:
        return Estimate(None, why="every episode ends when it succeeds")
    rate = Rate(int(lost.sum()), int(reached.sum()))
    return Estimate(rate.value, rate.interval.low, rate.interval.high)


def peeks(subject: Subject, rollouts: Rollouts, blind: Rollouts) -> tuple[bool, bool]:
    """Whether a few episodes are scored, and whether they are paid, otherwise when their end is hidden."""
    rows = np.concatenate([np.flatnonzero(rollouts.success)[:8], np.flatnonzero(~rollouts.success)[:8]])
    told, hidden = read(subject, rollouts.take(rows)), read(subject, blind.take(rows))
    scored = np.abs(told.score - hidden.score) > 1e-5 * (1 + np.abs(told.score))
    paid = np.abs(told.paid - hidden.paid) > 1e-5 * (1 + np.abs(told.paid))
    return bool(scored.any()), bool(paid.any())


def examine(
    subject: Subject,
    rollouts: Rollouts,
    *,
    policies: Sequence[str] | None = None,
    truth: NDArray[np.floating] | None = None,
    gamma: float = 0.99,
    on_step: Callable[[str], None] = lambda _: None,
) -> Findings:
    """Measure one reward on B episodes.

    Args:
        subject: the reward; it must not learn from being asked.
        rollouts: episodes that it did not learn from.
        policies: who played each of them; None if it was one policy.
        truth: (B,D), how far each moment truly was, in [0, 1], where that is known. It then says which
            failures were better, and which moments were wrongly said to be done (truth below 0.5).
        gamma: discount of one decision, for the STARC distance.
        on_step: told what comes next, for a progress bar; called `STEPS` times.

    Raises:
        ValueError: there are no episodes, or the reward refuses them (a missing camera).
    """
    if not len(rollouts):
        raise ValueError(
            f"there are no episodes to examine {subject.name} on; record some with `regrip rewards record`"
        )
    on_step("reading")
    blind = verdict_hidden(rollouts)
    reads_verdict, paid_by_end = peeks(subject, rollouts, blind)
    reading = read(subject, blind)
    judged = np.flatnonzero(reading.judged)
    numbers: dict[str, Estimate] = {}
    here, weight = rollouts.take(judged), start_weights(rollouts.take(judged))
    score, level = reading.score[judged], None if reading.level is None else reading.level[judged]
    tasks = [start.task for start in here.start]
    numbers["auroc"], numbers["auprc"] = separation(score, here, weight)
    numbers |= _orders(level, here, weight)
    on_step("reversed")
    numbers["vroc"] = _reversed_order(subject, blind.take(judged), here, weight)
    on_step("copies")
    numbers |= _margins(subject, blind.take(judged), here, reading.relative)
    on_step("distance")
    paid = read(subject, rollouts) if paid_by_end else reading
    numbers["starc"] = sampled_distance(paid.value, paid.level, paid.judged, rollouts, gamma)
    bins: list[Bin] = []
    if reading.relative:
        reason = Estimate(None, why="the score only ranks inside a batch")
        numbers |= {"ece": reason, "brier": reason}
    elif not len(score) or score.min() < -1e-6 or score.max() > 1 + 1e-6:
        reason = Estimate(None, why="the score is not in [0, 1]")
        numbers |= {"ece": reason, "brier": reason}
    else:
        numbers["ece"], numbers["brier"], bins = calibration(np.clip(score, 0, 1), here.success, weight)
    known = None if truth is None else np.asarray(truth)[judged]
    numbers["hallucination"] = _hallucination(level, here, known, reading.relative, weight)
    numbers["failure_ranking"] = _failure_ranking(score, here, known, tasks)
    numbers["kendall"], _ = rank_policies(
        score, here, [policies[int(i)] for i in judged] if policies else ["one"]
    )
    return Findings(
        subject.name,
        reading.relative,
        reads_verdict,
        len(rollouts),
        len(judged),
        int(here.success.sum()),
        len({str(start) for start in here.start}),
        numbers,
        bins,
        reading,
    )


def _orders(
    level: NDArray[np.float32] | None, here: Rollouts, weight: NDArray[np.float64]
) -> dict[str, Estimate]:
    """VOC of successes and of failures, and the share of falling steps of successes."""
    if level is None:
        none = Estimate(None, why="it has no levels")
        return {"voc": none, "voc_failures": none, "negative_steps": none}
    counts = here.decision_valid.sum(1)
    order = np.array([value_order(row[:n]) for row, n in zip(level, counts, strict=True)])
    fall = np.array([falls(row[:n]) for row, n in zip(level, counts, strict=True)])
    won, lost = np.where(here.success, 0, np.nan), np.where(here.success, np.nan, 0)
    return {
        "voc": mean_of(order + won, weight, "no success of two moments or more"),
        "voc_failures": mean_of(order + lost, weight, "no failure of two moments or more"),
        "negative_steps": mean_of(fall + won, weight, "no success of two moments or more"),
    }


def _reversed_order(
    subject: Subject, blind: Rollouts, here: Rollouts, weight: NDArray[np.float64]
) -> Estimate:
    won = np.flatnonzero(here.success)
    if subject.levels is None or not len(won):
        return Estimate(None, why="it has no levels" if subject.levels is None else "no success")
    levels = backward_levels(subject, blind.take(won))
    assert levels is not None
    order = np.full(len(here), np.nan)
    for row, level, n in zip(won, levels, here.decision_valid[won].sum(1), strict=True):
        order[row] = value_order(level[:n])
    return mean_of(order, weight, "no success of two moments or more")


def _margins(subject: Subject, blind: Rollouts, here: Rollouts, relative: bool) -> dict[str, Estimate]:
    """How much more successes score than their own copies, and how often; what going to and fro earns."""
    names = ("reversed", "frozen", "words")
    won = np.flatnonzero(here.success)
    if not len(won):
        none = Estimate(None, why="no success to copy")
        return {f"{kind}_{name}": none for kind in ("margin", "wins") for name in names} | {"dithering": none}
    won = won[np.unique(np.linspace(0, len(won) - 1, min(PROBED, len(won))).round().astype(int))]
    straight = blind.take(won)
    weight = start_weights(straight)
    own = read(subject, straight)
    found: dict[str, Estimate] = {}
    for name, make in zip(names, (played_backwards, frozen, wrong_words), strict=True):
        copy = make(blind)  # of all, for the words of other tasks
        if copy is None:
            reason = Estimate(None, why="all episodes were told the same")
            found |= {f"margin_{name}": reason, f"wins_{name}": reason}
            continue
        copy = copy.take(won)
        if relative:  # what only ranks in a batch is asked about both at once
            both = read(subject, concatenate([straight, copy]))
            ours, theirs = both.score[: len(won)], both.score[len(won) :]
            fine = both.judged[: len(won)] & both.judged[len(won) :]
        else:
            other = read(subject, copy)
            ours, theirs, fine = own.score, other.score, own.judged & other.judged
        gap = np.where(fine, ours - theirs, np.nan)
        close = np.abs(gap) <= 1e-6
        wins = np.where(np.isnan(gap), np.nan, np.where(close, 0.5, gap > 0))
        why = "the copies could not be judged"
        found |= {f"margin_{name}": mean_of(gap, weight, why), f"wins_{name}": mean_of(wins, weight, why)}
    size = float(np.abs(own.paid[own.judged]).mean()) if own.judged.any() else 0.0
    dither = read(subject, forth_and_back(straight))
    extra = np.where(own.judged & dither.judged, dither.paid - own.paid, np.nan) / (size or np.nan)
    found["dithering"] = mean_of(extra, weight, "successes earn nothing")
    return found


def _hallucination(
    level: NDArray[np.float32] | None,
    here: Rollouts,
    truth: NDArray[np.floating] | None,
    relative: bool,
    weight: NDArray[np.float64],
) -> Estimate:
    """Share of moments said to be done (level above 0.7) that are not: our general form of EvoVLA's measure.

    Without a known truth a moment is not done if its episode failed, so a near miss counts as wrong.
    """
    if level is None or relative:
        return Estimate(None, why="it has no levels" if level is None else "its levels only rank in a batch")
    mask = here.decision_valid
    if level[mask].size and (level[mask].min() < -1e-6 or level[mask].max() > 1 + 1e-6):
        return Estimate(None, why="its levels are not in [0, 1]")
    done = np.repeat(here.success[:, None].astype(float), mask.shape[1], 1) if truth is None else truth
    value = hallucination_rate(level[mask], done[mask], DONE, 0.5)
    if value is None:
        return Estimate(None, why=f"no level is above {DONE}")
    called = mask & (level > DONE)
    wrong = (called & (done < 0.5)).sum(1)

    def share(times: NDArray[np.float64]) -> NDArray[np.float64]:
        with np.errstate(invalid="ignore"):
            return np.asarray((times @ wrong) / (times @ called.sum(1)), dtype=np.float64)

    return estimate(share, weight, "")


def _failure_ranking(
    score: NDArray[np.float64],
    here: Rollouts,
    truth: NDArray[np.floating] | None,
    tasks: Sequence[str],
) -> Estimate:
    if truth is None:
        return Estimate(None, why=TRUTH_UNKNOWN)
    lost = np.flatnonzero(~here.success)
    best = np.where(here.decision_valid[lost], truth[lost], -np.inf).max(1, initial=-np.inf)
    value = spearman(score[lost], best, [tasks[int(i)] for i in lost]) if len(lost) else None
    return Estimate(value, why="" if value is not None else "no two failures of a task differ")
