"""Watching a reward while a policy learns from it: does what it pays for still go with success?

A reward that a policy has learnt to exploit looks like progress in every curve but one. So each iteration's
episodes are held against the simulator's own verdict, inside tasks (the mix of tasks changes while training),
and alarms are raised on five signs, each with a margin for the luck of few episodes:

=============  ======================================================================================
``blind``      a success does not earn more than a failure of its task: AUROC below 0.6, certainly
``gap``        what episodes earn has risen, and how many succeed has fallen
``backwards``  among failures, those that came nearer to a success in the simulator's own state earn less
``unjudged``   many episodes could not be judged at all
``collapse``   embeddings of different episodes are equal
=============  ======================================================================================

The rules are ours; `benchmarks/reward_holes.py` measures how early each fires on rewards with known holes,
and how often on sound ones. Nothing is stopped: an alarm names the episodes that earn most without success.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from ..datasets.episode import Rollouts
from ..datasets.protocols import RewardSignal
from .diagnostics import auc, spearman
from .embedding import SimulatorState
from .self_referential import SelfReferential, SelfReferentialConfig

_SLIGHT = 0.1  # rank correlation: the simulator's state is no perfect measure of a failure either
_SURE = 2.58  # standard errors: 99 %, two-sided; a run asks many times


@dataclass(frozen=True)
class MonitorConfig:
    """When an alarm is raised.

    Attributes:
        window: iterations that are looked at together; the later half is held against the earlier.
        least_auc: a success shall earn more than a failure of its task at least this often.
        most_unjudged: share of episodes that may be without a verdict.
        most_duplicates: share of episodes whose embedding may equal that of another.
    """

    window: int = 6
    least_auc: float = 0.6
    most_unjudged: float = 0.2
    most_duplicates: float = 0.2

    def __post_init__(self) -> None:
        if self.window < 2:
            raise ValueError(f"window {self.window}: two halves are compared, give 2 iterations or more")


@dataclass(frozen=True)
class Alarm:
    """One sign that a reward is not what it seems.

    Attributes:
        name: which sign.
        iteration: when, counted from 0.
        message: what was seen, with numbers.
        rows: of that iteration's rollouts: failures that earned most, first the highest.
    """

    name: str
    iteration: int
    message: str
    rows: tuple[int, ...]


@dataclass
class _TaskCount:
    """What an iteration's episodes of one task earned and how many succeeded."""

    count: int
    successes: int
    earned: float
    earned_squared: float


@dataclass
class _Seen:
    """One iteration in numbers.

    Attributes:
        tasks: by name.
        order: (times that a success earned more than a failure, pairs, successes, failures), of tasks with
            both.
        backwards: (correlation weighted by episodes, episodes) of failures with the simulator's state.
    """

    tasks: dict[str, _TaskCount]
    order: tuple[float, float, int, int]
    backwards: tuple[float, int]


def _by_state() -> SelfReferential:
    """How near an episode came to a success by the simulator's own state.

    What counts is how the state changed: where things lay at the start differs more between episodes than
    what a success does to them (without it, no task of the tabletop's demo suite has a usable reference).
    And it is the best moment: measured at the end it does not rank failures as any other measure does.
    """
    return SelfReferential(SimulatorState(), SelfReferentialConfig(relative_to_start=True))


@dataclass
class Monitor:
    """Looks at every iteration of a run; what it remembers is in the checkpoint (`state`, `reference`)."""

    config: MonitorConfig = field(default_factory=MonitorConfig)
    reference: SelfReferential = field(default_factory=_by_state)
    seen: list[_Seen] = field(default_factory=list)
    raised: dict[str, int] = field(default_factory=dict)
    home: tuple[list[float], list[float]] | None = None

    def look(
        self, iteration: int, rollouts: Rollouts, signal: RewardSignal
    ) -> tuple[dict[str, float], list[Alarm]]:
        """One iteration.

        Args:
            iteration: counted from 0.
            rollouts: what was played, of the train split.
            signal: what the reward said of it.

        Returns:
            Numbers for the log, and alarms; the same alarm is raised once in a window.
        """
        if not len(rollouts):
            return {}, []
        earned = signal.value.sum((1, 2), dtype=np.float64)
        task = [start.task for start in rollouts.start]
        failed = np.flatnonzero(~rollouts.success & signal.valid)
        judged = np.flatnonzero(signal.valid)
        agreement = None
        if rollouts.privileged.shape[-1]:  # else nobody knows how far a failure got
            truth = self.reference(rollouts).components["progress"]
            agreement = spearman(earned[failed], truth[failed], [task[row] for row in failed])
        self.seen.append(
            _Seen(
                tasks=_by_task(earned[judged], rollouts.success[judged], [task[row] for row in judged]),
                order=_order(earned[judged], rollouts.success[judged], [task[row] for row in judged]),
                backwards=(agreement or 0.0, len(failed) if agreement is not None else 0),
            )
        )
        del self.seen[: -self.config.window]
        shares = _held_apart(earned, rollouts, task)
        row = {
            "monitor/earned": float(earned.mean()),
            "monitor/drift": self._drift(rollouts),
            "monitor/groups_that_differ": shares,
        }
        ranking = auc(earned[judged], rollouts.success[judged], [task[n] for n in judged])
        row |= {} if ranking is None else {"monitor/auc": ranking}
        row |= {} if agreement is None else {"monitor/failures_agree_with_state": agreement}
        found = [
            ("blind", self._blind()),
            ("gap", self._gap()),
            ("backwards", self._backwards()),
            ("unjudged", self._unjudged(signal)),
            ("collapse", self._collapse(signal)),
        ]
        top = tuple(int(n) for n in failed[np.argsort(-earned[failed], kind="stable")][:3])
        alarms = [
            Alarm(name, iteration, message, top)
            for name, message in found
            if message and iteration - self.raised.get(name, -self.config.window) >= self.config.window
        ]
        self.raised |= {alarm.name: iteration for alarm in alarms}
        row["monitor/alarms"] = float(len(alarms))
        return row, alarms

    def _blind(self) -> str:
        won, pairs, good, bad = (sum(part) for part in zip(*(seen.order for seen in self.seen), strict=True))
        if not pairs:
            return ""
        area = won / pairs
        if area + _SURE * _auc_error(area, int(good), int(bad)) >= self.config.least_auc:
            return ""
        what = "failures earn more than successes" if area < 0.5 else "it hardly tells success from failure"
        return f"{what}: a success earns more than a failure of its task {area:.0%} of the time"

    def _gap(self) -> str:
        if len(self.seen) < self.config.window:
            return ""
        half = len(self.seen) // 2
        early, late = _merge(self.seen[:half]), _merge(self.seen[-half:])
        common = [name for name in early if name in late]
        if not common:
            return ""
        earned, earned_error, won, won_error = np.zeros(4)
        for name in common:
            before, after = early[name], late[name]
            earned += _mean(after)[0] - _mean(before)[0]
            earned_error += _mean(after)[1] + _mean(before)[1]
            won += _rate(after)[0] - _rate(before)[0]
            won_error += _rate(after)[1] + _rate(before)[1]
        if earned <= _SURE * math.sqrt(earned_error) or won >= -_SURE * math.sqrt(won_error):
            return ""
        count = len(common)
        return (
            f"episodes earn {earned / count:.3f} more than {half} iterations before, "
            f"and {-won / count:.0%} fewer of them succeed"
        )

    def _backwards(self) -> str:
        count = sum(seen.backwards[1] for seen in self.seen)
        if count < 8:
            return ""
        agreement = sum(seen.backwards[0] * seen.backwards[1] for seen in self.seen) / count
        if agreement + _SURE / math.sqrt(count) >= -_SLIGHT:
            return ""
        return f"failures that got farther earn less: rank correlation {agreement:.2f} over {count} of them"

    def _unjudged(self, signal: RewardSignal) -> str:
        share = 1.0 - float(signal.valid.mean())
        return f"{share:.0%} of the episodes could not be judged" if share > self.config.most_unjudged else ""

    def _collapse(self, signal: RewardSignal) -> str:
        same = signal.components.get("duplicate_embedding")
        if same is None or float(same.mean()) <= self.config.most_duplicates:
            return ""
        return f"{float(same.mean()):.0%} of the episodes have the embedding of another episode"

    def _drift(self, rollouts: Rollouts) -> float:
        """How far the robot's states are from those of the first iteration, in its standard deviations."""
        state = rollouts.state[rollouts.decision_valid].astype(np.float64)
        if self.home is None:
            self.home = state.mean(0).tolist(), (state.std(0) + 1e-6).tolist()
        mean, spread = (np.array(held) for held in self.home)
        return float(np.sqrt((((state.mean(0) - mean) / spread) ** 2).mean()))

    def state(self) -> dict[str, Any]:
        """What it remembers, as JSON values, but for the reference's bank (``reference.state_dict()``)."""
        return {"seen": [asdict(seen) for seen in self.seen], "raised": self.raised, "home": self.home}

    def load_state(self, state: Mapping[str, Any]) -> None:
        self.seen = [
            _Seen(
                tasks={name: _TaskCount(**count) for name, count in seen["tasks"].items()},
                order=tuple(seen["order"]),
                backwards=tuple(seen["backwards"]),
            )
            for seen in state["seen"]
        ]
        self.raised = dict(state["raised"])
        self.home = None if state["home"] is None else (state["home"][0], state["home"][1])


def _by_task(
    earned: NDArray[np.float64], success: NDArray[np.bool_], task: Sequence[str]
) -> dict[str, _TaskCount]:
    names = np.asarray(task)
    return {
        str(name): _TaskCount(
            count=int((names == name).sum()),
            successes=int(success[names == name].sum()),
            earned=float(earned[names == name].sum()),
            earned_squared=float((earned[names == name] ** 2).sum()),
        )
        for name in np.unique(names)
    }


def _order(
    earned: NDArray[np.float64], success: NDArray[np.bool_], task: Sequence[str]
) -> tuple[float, float, int, int]:
    names = np.asarray(task)
    won, pairs, good, bad = 0.0, 0.0, 0, 0
    for name in np.unique(names):
        here = names == name
        wins = int(success[here].sum())
        losses = int(here.sum()) - wins
        if wins and losses:
            ranks = rankdata(earned[here])[success[here]]
            won += float(ranks.sum()) - wins * (wins + 1) / 2
            pairs, good, bad = pairs + wins * losses, good + wins, bad + losses
    return won, pairs, good, bad


def _auc_error(area: float, good: int, bad: int) -> float:
    """Standard error of an AUROC (Hanley and McNeil 1982, equation 1)."""
    first, second = area / (2 - area), 2 * area**2 / (1 + area)
    spread = area * (1 - area) + (good - 1) * (first - area**2) + (bad - 1) * (second - area**2)
    return math.sqrt(max(spread, 0.0) / (good * bad) + 1e-6)


def _merge(parts: Sequence[_Seen]) -> dict[str, _TaskCount]:
    total: dict[str, _TaskCount] = {}
    for seen in parts:
        for name, new in seen.tasks.items():
            old = total.get(name, _TaskCount(0, 0, 0.0, 0.0))
            total[name] = _TaskCount(
                old.count + new.count,
                old.successes + new.successes,
                old.earned + new.earned,
                old.earned_squared + new.earned_squared,
            )
    return total


def _mean(task: _TaskCount) -> tuple[float, float]:
    """What an episode earns, and the variance of that estimate."""
    mean = task.earned / task.count
    return mean, max(task.earned_squared / task.count - mean**2, 0.0) / task.count


def _rate(task: _TaskCount) -> tuple[float, float]:
    """Success, and the variance of that estimate (with one more success and failure: never 0)."""
    rate = task.successes / task.count
    smooth = (task.successes + 1) / (task.count + 2)
    return rate, smooth * (1 - smooth) / task.count


def _held_apart(earned: NDArray[np.float64], rollouts: Rollouts, task: Sequence[str]) -> float:
    """Share of groups (of tasks, if no start state was played twice) whose members do not all earn alike."""
    names = np.unique(rollouts.group, return_inverse=True)[1]
    if len(np.unique(names)) == len(names):
        names = np.unique(np.asarray(task), return_inverse=True)[1]
    return float(np.mean([np.ptp(earned[names == name]) > 1e-6 for name in np.unique(names)]))
