"""Which start states to practise on next: those of medium difficulty, and no task forgotten.

From a start where the policy always or never succeeds a group learns nothing; from one where it succeeds half
the time it learns most (the variance p (1 - p) of the outcome). VLA-RL's curriculum prefers low success
instead, and SimpleVLA-RL's filter lets tasks vanish without notice (its issue 28); here each task has a floor
and a longest wait.

All randomness comes from a counter: the same state, iteration and attempt give the same starts, so a resumed
run draws what an uninterrupted one would have drawn.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..datasets.starts import SplitError, StartState, counter_generator

# Starts of a run are drawn from this many of a task's unlimited 'train' indices; two alike are rare.
NUM_INDICES = 2**31


@dataclass(frozen=True)
class SamplerConfig:
    """How start states are chosen.

    Attributes:
        floor: share of the groups that is spread evenly over the tasks; the rest goes by difficulty. 1 turns
            the preference off.
        revisit: share of a task's groups that goes back to known starts of medium difficulty, the rest to
            fresh ones. 0 never sees a start twice (other than by chance).
        remember: known starts kept for each task; the ones with the least to teach go first.
        forget: factor on what is known of a task after each update, so that it follows the policy.
        max_wait: updates a task may go without a group before it comes first.
        starts_per_task: number of distinct train starts of a task; None where there is no end to them.
    """

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
class _Task:
    """What is known of a task.

    Attributes:
        successes, episodes: decayed counts.
        seen: the update that last had a group of it; -1 for none.
        known: start index to (successes, episodes, update of the last visit), decayed counts.
    """

    successes: float
    episodes: float
    seen: int
    known: dict[int, tuple[float, float, int]]

    @property
    def success(self) -> float:
        """Posterior mean under a uniform prior."""
        return (self.successes + 1) / (self.episodes + 2)

    def value(self, index: int) -> float:
        """What a known start can teach, p (1 - p); the task's own rate is a prior worth two episodes."""
        successes, episodes, _ = self.known[index]
        p = (successes + 2 * self.success) / (episodes + 2)
        return p * (1 - p)


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
        self._known = {task: _Task(0.0, 0.0, -1, {}) for task in self.tasks}

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
        for (name, index), outcomes in sorted(counts.items()):
            task, won, played = self._known[name], float(sum(outcomes)), float(len(outcomes))
            task.successes, task.episodes, task.seen = (
                task.successes + won,
                task.episodes + played,
                self._clock,
            )
            old_won, old_played, _ = task.known.get(index, (0.0, 0.0, 0))
            task.known[index] = (old_won / 2 + won, old_played / 2 + played, self._clock)
        self._clock += 1
        for task in self._known.values():
            ranked = sorted(task.known, key=lambda i: (-task.value(i), -task.known[i][2], i))
            task.known = {index: task.known[index] for index in sorted(ranked[: self.config.remember])}

    def success_rates(self) -> dict[str, float]:
        """What the sampler believes of each task, for the log; 0.5 where it knows nothing."""
        return {name: task.success for name, task in self._known.items()}

    def state_dict(self) -> dict[str, Any]:
        """All it knows, as JSON values."""
        return {
            "clock": self._clock,
            "tasks": {
                name: {
                    "successes": task.successes,
                    "episodes": task.episodes,
                    "seen": task.seen,
                    "known": [[index, *task.known[index]] for index in task.known],
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
                {int(i): (float(won), float(played), int(at)) for i, won, played, at in saved["known"]},
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
        """How many groups each task gets: overdue tasks first, then in proportion to floor and difficulty."""
        shares = np.zeros(len(self.tasks), dtype=np.int64)
        waits = [(self._clock - 1 - self._known[task].seen, i) for i, task in enumerate(self.tasks)]
        overdue = sorted((-wait, i) for wait, i in waits if wait > self.config.max_wait)
        for _, i in overdue[:count]:
            shares[i] = 1
        rate = np.array([self._known[task].success for task in self.tasks])
        difficulty = rate * (1 - rate)
        share = self.config.floor / len(rate) + (1 - self.config.floor) * difficulty / difficulty.sum()
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
        """Known starts of medium difficulty, then fresh ones; all different."""
        known = self._known[task]
        expected = self.config.revisit * count
        revisits = math.floor(expected) + int(generator.random() < expected % 1)
        rested = [i for i in known.known if known.known[i][2] < self._clock - 1]  # not again at once
        value = np.array([known.value(i) for i in rested])
        chosen: list[int] = []
        if len(rested):
            revisits = min(revisits, len(rested))
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
