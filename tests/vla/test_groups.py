"""Keeping live groups and counting the rest, on a batch small enough to count by hand."""

from __future__ import annotations

import json
from dataclasses import asdict

import numpy as np

from regrip.datasets.episode import Rollouts
from regrip.datasets.starts import StartState
from regrip.vla.groups import GroupLedger, TaskCount, choose


def batch(groups: list[tuple[str, list[bool]]], steps: int = 3) -> Rollouts:
    """Rollouts of (task, successes) groups; every episode has `steps` executed control steps."""
    rows = [(task, key, good) for key, (task, outcomes) in enumerate(groups) for good in outcomes]
    count = len(rows)
    valid = np.zeros((count, 2, 4), dtype=bool)
    valid[:, 0, :steps] = True
    zeros = np.zeros((count, 2, 4), dtype=np.float32)
    success = np.array([good for *_, good in rows])
    return Rollouts(
        start=[StartState(task, "train", key) for task, key, _ in rows],
        group=np.array([key for _, key, _ in rows]),
        instruction=[task for task, *_ in rows],
        images={},
        state=zeros[..., 0:1],
        privileged=zeros[..., 0:1],
        action=zeros[..., None],
        valid=valid,
        reward=zeros,
        success=success,
        truncated=~success,
        invalid=np.zeros(len(success), bool),
        latent={},
        log_prob=zeros,
        policy_version=0,
    )


def test_choose_keeps_whole_live_groups_in_order() -> None:
    group = np.array([4, 9, 4, 9, 2, 2, 7, 7])
    live = np.array([False, True, False, True, True, False, True, True])  # 4 is dead; 2 has one not judged
    rows, missing = choose(live, group, 2)
    assert rows.tolist() == [1, 3, 4, 5]
    assert missing == 0
    rows, missing = choose(live, group, 5)
    assert rows.tolist() == [1, 3, 4, 5, 6, 7]
    assert missing == 2
    rows, missing = choose(np.zeros(8, dtype=bool), group, 3)
    assert (rows.tolist(), missing) == ([], 3)


def test_the_ledger_counts_by_hand() -> None:
    rollouts = batch(
        [
            ("toy/a", [True, False]),  # live, kept
            ("toy/a", [False, False]),  # dead
            ("toy/b", [True, True]),  # dead
            ("toy/b", [False, False]),  # live by its shaped reward, but surplus
            ("toy/b", [True, False]),  # tied: a reward that gives both the same
        ]
    )
    live = np.array([1, 1, 0, 0, 0, 0, 1, 1, 0, 0], dtype=bool)
    rows, missing = choose(live, rollouts.group, 1)
    assert (rows.tolist(), missing) == ([0, 1], 0)
    ledger = GroupLedger()
    ledger.record(rollouts, live, rows)
    assert ledger.tasks["toy/a"] == TaskCount(
        groups=2, live=1, failed=1, episodes=4, wasted_episodes=2, wasted_steps=6
    )
    assert ledger.tasks["toy/b"] == TaskCount(
        groups=3, live=1, solved=1, tied=1, surplus=1, episodes=6, wasted_episodes=6, wasted_steps=18
    )
    assert ledger.total().wasted_steps == 24
    assert ledger.starved(["toy/a", "toy/b", "toy/c"]) == ["toy/c"]
    ledger.record(rollouts, live)  # all kept: dead ones are masked, the surplus is used
    assert ledger.total().wasted_episodes == 8 + 6
    assert asdict(ledger.total())["groups"] == 10


def test_the_ledger_survives_json() -> None:
    ledger, again = GroupLedger(), GroupLedger()
    ledger.record(batch([("toy/a", [True, False])]), np.ones(2, dtype=bool))
    again.load_state_dict(json.loads(json.dumps(ledger.state_dict())))
    assert again == ledger
