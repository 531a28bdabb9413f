"""Which start states to practise on next, with no task forgotten.

From a start where the policy always or never succeeds a group learns nothing; from one where it succeeds half
the time it learns most (the variance p (1 - p) of the outcome): ``medium``. ``hard`` prefers low success, as
VLA-RL's curriculum does; ``dps`` foretells what a group would end in (see `dps`). SimpleVLA-RL's filter lets
tasks vanish without notice (its issue 28); here each task has a floor and a longest wait.

All randomness comes from a counter: the same state, iteration and attempt give the same starts, so a resumed
run draws what an uninterrupted one would have drawn.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..datasets.starts import SplitError, StartState, counter_generator
from ..datasets.statistics import Rate
from . import dps

# Starts of a run are drawn from this many of a task's unlimited 'train' indices; two alike are rare.
NUM_INDICES = 2**31
_HARD_TEMPERATURE = 0.25


@dataclass(frozen=True)
class SamplerConfig:
    """How start states are chosen.

    Attributes:
        prefer: ``medium`` success, p (1 - p); ``hard``, exp((1/2 - p) / 0.25); or ``dps``, the probability
            that a group would end with some, not all, of its episodes successful (needs groups of two or
            more). Tasks are weighed by ``hard`` or, for the other two, by ``medium``.
        floor: share of the groups that is spread evenly over the tasks; the rest goes by preference. 1 turns
            that off.
        revisit: share of a task's groups that goes back to the preferred among known starts, the rest to
            fresh ones. 0 never sees a start twice (other than by chance).
        remember: known starts kept for each task; the ones with the least to teach go first.
        forget: factor on what is known of a task after each update, so that it follows the policy; of DPS
            on its transition counts.
        max_wait: updates a task may go without a group before it comes first.
        starts_per_task: number of distinct train starts of a task; None where there is no end to them.
    """

    prefer: Literal["medium", "hard", "dps"] = "medium"
    floor: float = 0.5
    revisit: float = 0.25
    remember: int = 128
    forget: float = 0.8
    max_wait: int = 3
    starts_per_task: int | None = None

    def __post_init__(self) -> None:
        for name in ("floor", "revisit", "forget"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"sampler: {name} {getattr(self, name)} must be in [0, 1]")
        if self.remember < 0 or self.max_wait < 1 or (self.starts_per_task or 1) < 1:
            raise ValueError(
                f"sampler: remember {self.remember}, max_wait {self.max_wait}, starts_per_task "
                f"{self.starts_per_task}; expected remember >= 0, max_wait >= 1, starts_per_task >= 1 or None"
            )


@dataclass
class _Start:
    """What is known of a start state.

    Attributes:
        successes, episodes: decayed counts.
        seen: the update of the last visit.
        belief: (3,) of DPS, after that visit.
    """

    successes: float
    episodes: float
    seen: int
    belief: NDArray[np.float64]


@dataclass
class _Task:
    """What is known of a task.

    Attributes:
        successes, episodes: decayed counts.
        seen: the update that last had a group of it; -1 for none.
        known: by start index.
        transitions: (3,3) counts of DPS.
    """

    successes: float = 0.0
    episodes: float = 0.0
    seen: int = -1
    known: dict[int, _Start] = field(default_factory=dict)
    transitions: NDArray[np.float64] = field(default_factory=dps.PRIOR.copy)

    @property
    def success(self) -> float:
        """Posterior mean under a uniform prior."""
        return (self.successes + 1) / (self.episodes + 2)

    def value(self, index: int, prefer: str) -> float:
        """What a known start can teach; the task's own rate is a prior worth two episodes."""
        start = self.known[index]
        if prefer == "dps":
            return float(dps.predict(self.transitions, start.belief)[dps.SOME])
        return _preference((start.successes + 2 * self.success) / (start.episodes + 2), prefer)


def _preference(rate: float, prefer: str) -> float:
    if prefer == "hard":
        return math.exp((0.5 - rate) / _HARD_TEMPERATURE)
    return rate * (1 - rate)


class StartSampler:
    """Draws 'train' starts, one for each group.

    `draw` looks and changes nothing; `update` learns from what came of it. Everything it knows is in
    `state_dict`, which is plain JSON.

    Args:
        tasks: names ``suite/task``, in any order.
        groups_per_iteration: how many starts `draw` gives by default.
        seed: of this sampler's choices; not the `StartState.seed`.
        config: settings.
        family: the `StartState.seed` of all starts drawn.

    Raises:
        ValueError: no tasks, a task twice, or fewer distinct starts than groups.
    """

    def __init__(
        self,
        tasks: Sequence[str],
        groups_per_iteration: int,
        seed: int,
        config: SamplerConfig | None = None,
        family: int = 0,
    ) -> None:
        self.config = config or SamplerConfig()
        self.tasks = sorted(tasks)
        self.groups_per_iteration = groups_per_iteration
        self.seed = seed
        self.family = family
        if not tasks or len(set(tasks)) != len(tasks):
            raise ValueError(f"sampler: tasks {list(tasks)}; expected at least one, each once")
        self.num_indices = self.config.starts_per_task or NUM_INDICES
        self._require(groups_per_iteration)
        self._clock = 0
        self._known = {task: _Task() for task in self.tasks}

    def draw(self, iteration: int, attempt: int = 0, num_groups: int | None = None) -> list[StartState]:
        """Starts for the groups of an iteration, no two alike.

        Args:
            iteration: of the learner.
            attempt: 0 first; 1, 2, ... when dead groups are replaced.
            num_groups: how many; None for a full iteration.

        Returns:
            Starts of the 'train' split, those of a task together, tasks in order of name.

        Raises:
            ValueError: more were asked for than there are.
        """
        count = self.groups_per_iteration if num_groups is None else num_groups
        self._require(count)
        generator = counter_generator("start sampler", self.seed, iteration, attempt)
        starts: list[StartState] = []
        for task, share in zip(self.tasks, self._shares(count, generator), strict=True):
            for index in self._indices(task, share, generator):
                starts.append(StartState(task, "train", index, self.family))
        return starts

    def update(self, starts: Sequence[StartState], success: Sequence[bool] | NDArray[np.bool_]) -> None:
        """Learn from episodes: of every group that was played, the dead ones that were replaced too.

        Args:
            starts: of B episodes, as drawn; usually `Rollouts.start`.
            success: B booleans, true success and not a shaped reward.

        Raises:
            SplitError: a start is not of the train split.
            ValueError: a start is of a task or family this sampler does not draw, or lengths differ.
        """
        counts: dict[tuple[str, int], list[bool]] = {}
        for start, good in zip(starts, success, strict=True):
            if start.split != "train":
                raise SplitError(f"the start sampler was told of {start}: it may know only 'train' starts")
            if start.task not in self._known or start.seed != self.family:
                raise ValueError(
                    f"the start sampler was told of {start}, expected family {self.family} and one of "
                    f"the tasks {', '.join(self.tasks)}"
                )
            counts.setdefault((start.task, start.index), []).append(bool(good))
        for task in self._known.values():
            task.successes *= self.config.forget
            task.episodes *= self.config.forget
        before: dict[str, list[NDArray[np.float64]]] = {}
        ended: dict[str, list[int]] = {}
        for (name, index), outcomes in sorted(counts.items()):
            task, won, played = self._known[name], float(sum(outcomes)), float(len(outcomes))
            task.successes, task.episodes, task.seen = (
                task.successes + won,
                task.episodes + played,
                self._clock,
            )
            old = task.known.get(index, _Start(0.0, 0.0, 0, dps.UNIFORM))
            before.setdefault(name, []).append(old.belief)
            ended.setdefault(name, []).append(dps.state_of(won, played))
            belief = np.eye(3)[ended[name][-1]]
            task.known[index] = _Start(
                old.successes / 2 + won, old.episodes / 2 + played, self._clock, belief
            )
        for name, states in ended.items():
            task, beliefs = self._known[name], np.stack(before[name])
            task.transitions = dps.observe(task.transitions, beliefs, states, self.config.forget)
        self._clock += 1
        for task in self._known.values():
            value = {index: task.value(index, self.config.prefer) for index in task.known}
            ranked = sorted(task.known, key=lambda i: (-value[i], -task.known[i].seen, i))
            task.known = {index: task.known[index] for index in sorted(ranked[: self.config.remember])}

    def success_rates(self) -> dict[str, Rate]:
        """Of each task: successes and episodes while practising, older ones counting less (rounded)."""
        return {
            name: Rate(round(task.successes), max(round(task.successes), round(task.episodes)))
            for name, task in self._known.items()
        }

    def hopeless(self) -> list[str]:
        """Tasks of which the last twenty episodes or more brought no success."""
        return [n for n, task in self._known.items() if task.episodes >= 20 and task.successes < 0.5]

    def forgotten(self) -> list[str]:
        """Tasks that have waited for longer than `max_wait`: never, unless there are too few groups."""
        return [
            name for name, task in self._known.items() if self._clock - 1 - task.seen > self.config.max_wait
        ]

    def state_dict(self) -> dict[str, Any]:
        """All it knows, as JSON values."""
        return {
            "clock": self._clock,
            "tasks": {
                name: {
                    "successes": task.successes,
                    "episodes": task.episodes,
                    "seen": task.seen,
                    "transitions": task.transitions.tolist(),
                    "known": [
                        [index, start.successes, start.episodes, start.seen, start.belief.tolist()]
                        for index, start in task.known.items()
                    ],
                }
                for name, task in self._known.items()
            },
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict`, exactly.

        Raises:
            ValueError: it knows other tasks than this sampler.
        """
        if sorted(state["tasks"]) != self.tasks:
            raise ValueError(
                f"the saved start sampler knows the tasks {sorted(state['tasks'])}, this run has "
                f"{self.tasks}: resume with the same environment, or start a new run from the "
                "checkpoint's policy"
            )
        self._clock = int(state["clock"])
        self._known = {
            name: _Task(
                float(saved["successes"]),
                float(saved["episodes"]),
                int(saved["seen"]),
                {
                    int(index): _Start(float(won), float(played), int(seen), np.array(belief))
                    for index, won, played, seen, belief in saved["known"]
                },
                np.array(saved["transitions"]),
            )
            for name, saved in sorted(state["tasks"].items())
        }

    def _require(self, count: int) -> None:
        if not 0 < count <= self.num_indices * len(self.tasks):
            raise ValueError(
                f"sampler: {count} groups asked for, expected 1 to {self.num_indices * len(self.tasks)} "
                f"({len(self.tasks)} tasks of {self.num_indices} train starts)"
            )

    def _shares(self, count: int, generator: np.random.Generator) -> list[int]:
        """How many groups each task gets: overdue tasks first, then in proportion to floor and preference."""
        shares = np.zeros(len(self.tasks), dtype=np.int64)
        waits = [(self._clock - 1 - self._known[task].seen, i) for i, task in enumerate(self.tasks)]
        overdue = sorted((-wait, i) for wait, i in waits if wait > self.config.max_wait)
        for _, i in overdue[:count]:
            shares[i] = 1
        prefer = "hard" if self.config.prefer == "hard" else "medium"
        wanted = np.array([_preference(self._known[task].success, prefer) for task in self.tasks])
        share = self.config.floor / len(wanted) + (1 - self.config.floor) * wanted / wanted.sum()
        # systematic sampling: a task expecting 2.3 groups gets 2 or 3, never 0
        edges = np.concatenate([[0.0], np.cumsum(share) / share.sum()]) * (count - shares.sum())
        edges[-1] = count - shares.sum()
        offset = generator.random()
        shares += np.diff(np.ceil(edges - offset).astype(np.int64))
        while (shares > self.num_indices).any():  # a task of few starts: the rest goes to the emptiest
            shares[shares.argmax()] -= 1
            shares[shares.argmin()] += 1
        return [int(n) for n in shares]

    def _indices(self, task: str, count: int, generator: np.random.Generator) -> list[int]:
        """The preferred among known starts, then fresh ones; all different."""
        known = self._known[task]
        expected = self.config.revisit * count
        revisits = math.floor(expected) + int(generator.random() < expected % 1)
        rested = [i for i, start in known.known.items() if start.seen < self._clock - 1]  # not again at once
        value = np.array([known.value(i, self.config.prefer) for i in rested])
        chosen: list[int] = []
        if len(rested):
            revisits = min(revisits, len(rested))
            if self.config.prefer == "dps":  # the best, as its authors do
                picked = np.argsort(-value, kind="stable")[:revisits]
            else:
                picked = generator.choice(len(rested), size=revisits, replace=False, p=value / value.sum())
            chosen = [rested[int(i)] for i in picked]
        taken = set(chosen)
        while len(chosen) < count:
            if self.num_indices < 4 * count:
                free = [i for i in range(self.num_indices) if i not in taken]
                index = free[int(generator.integers(len(free)))]
            else:
                index = int(generator.integers(self.num_indices))
            if index not in taken:
                chosen.append(index)
                taken.add(index)
        return chosen
