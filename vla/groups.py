"""What became of the groups: which to keep, and how much was played for nothing.

A group whose returns are all equal teaches nothing. Both remedies are used: it is replaced while attempts are
left (`choose` says which rows to keep), and masked when they run out (`advantages.grpo` does that). Neither
is free, so it is counted, by task, and a task that yields nothing is named: SimpleVLA-RL's tasks disappear
without notice (its issue 28).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..datasets.episode import Rollouts


def choose(
    live: NDArray[np.bool_], group: NDArray[np.int64], num_groups: int
) -> tuple[NDArray[np.int64], int]:
    """Which episodes of an attempt to keep.

    Args:
        live: (B,) bool, from `advantages.grpo` or `rloo` on the *shaped* returns. To filter by success would
            throw away the groups of failures that the shaping can still rank.
        group: (B,) int.
        num_groups: how many groups are still wanted.

    Returns:
        rows: int (n,), all episodes of the first `num_groups` live groups (in order of appearance), in order.
        missing: how many groups are wanted still.
    """
    alive = np.zeros(len(group), dtype=bool)
    for key in np.unique(group):
        alive[group == key] = live[group == key].any()  # an episode that was not judged stays with its group
    _, first = np.unique(group[alive], return_index=True)
    kept = group[alive][np.sort(first)][:num_groups]
    rows = np.flatnonzero(np.isin(group, kept))
    return rows.astype(np.int64), num_groups - len(kept)


@dataclass
class TaskCount:
    """Of one task: groups and episodes played.

    Attributes:
        groups: played.
        live: with something to learn from.
        failed: dead because every episode failed (and the reward saw no difference).
        solved: dead because every episode succeeded.
        tied: dead although some succeeded and some failed; the reward is blind or broken.
        surplus: live, but more than were wanted.
        episodes: played.
        wasted_episodes: in groups that were not kept, or dead.
        wasted_steps: control steps executed in them.
    """

    groups: int = 0
    live: int = 0
    failed: int = 0
    solved: int = 0
    tied: int = 0
    surplus: int = 0
    episodes: int = 0
    wasted_episodes: int = 0
    wasted_steps: int = 0


@dataclass
class GroupLedger:
    """Adds up, by task, what was played and what was wasted."""

    tasks: dict[str, TaskCount] = field(default_factory=dict)

    def record(
        self, rollouts: Rollouts, live: NDArray[np.bool_], kept: NDArray[np.int64] | None = None
    ) -> None:
        """Count one attempt.

        Args:
            rollouts: all that was played.
            live: (B,) bool.
            kept: rows that go on to the learner (from `choose`); None keeps all. Dead episodes count as
                wasted even if kept: they are masked.
        """
        stays = np.ones(len(rollouts), dtype=bool)
        if kept is not None:
            stays = np.isin(np.arange(len(rollouts)), kept)
        for key in np.unique(rollouts.group):
            members = rollouts.group == key
            count = self.tasks.setdefault(rollouts.start[int(members.argmax())].task, TaskCount())
            good, alive = rollouts.success[members], bool(live[members].any())
            wasted = members & ~(stays & alive)
            count.groups += 1
            count.live += alive
            count.failed += not alive and not good.any()
            count.solved += not alive and bool(good.all())
            count.tied += not alive and bool(good.any()) and not good.all()
            count.surplus += alive and not stays[members].any()
            count.episodes += int(members.sum())
            count.wasted_episodes += int(wasted.sum())
            count.wasted_steps += int(rollouts.num_steps[wasted].sum())

    def total(self) -> TaskCount:
        """All tasks together."""
        return TaskCount(
            **{
                f.name: sum(getattr(count, f.name) for count in self.tasks.values())
                for f in fields(TaskCount)
            }
        )

    def starved(self, tasks: Sequence[str]) -> list[str]:
        """Tasks from which no live group came: not drawn, always solved, or never."""
        return [task for task in tasks if task not in self.tasks or not self.tasks[task].live]

    def state_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            task: {f.name: getattr(count, f.name) for f in fields(TaskCount)}
            for task, count in sorted(self.tasks.items())
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.tasks = {task: TaskCount(**count) for task, count in state.items()}
