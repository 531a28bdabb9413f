"""Episodes whose reward is slow wait, are learned from when it has come, and are given up in the end."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import reward_toy as toy
from numpy.typing import NDArray
from reward_toy import Carry

from regrip.datasets.episode import Rollouts
from regrip.datasets.protocols import RewardSignal
from regrip.launch.experiment import Run, TrainConfig
from regrip.launch.practice import ready
from regrip.rewards.asynchronous import Asynchronous
from regrip.rewards.binary import BinarySuccess


class Slow:
    """Success, but not before it is let go."""

    def __init__(self) -> None:
        self.go = threading.Event()

    def __call__(self, rollouts: Rollouts) -> RewardSignal:
        self.go.wait()
        return BinarySuccess()(rollouts)

    def state_dict(self) -> dict[str, NDArray[np.generic]]:
        return {}

    def load_state_dict(self, state: Mapping[str, NDArray[np.generic]]) -> None: ...


def played(iteration: int) -> Rollouts:
    return toy.carry(
        [Carry(reach, index=10 * iteration + n) for n, reach in enumerate((1.0, 0.5))], iteration
    )


def test_what_was_slow_is_learned_from_later() -> None:
    slow = Slow()
    with Asynchronous(slow) as reward:
        run = cast(Run, SimpleNamespace(reward=reward, waiting=[], iteration=0))
        row: dict[str, float] = {}
        first, _ = ready(run, played(0), row)
        assert len(first) == 0
        assert row == {"reward/given_up": 0.0, "reward/waiting": 2.0}
        slow.go.set()
        assert reward.wait(30)
        run.iteration = 1
        second, signal = ready(run, played(1), row)
        assert [start.index for start in second.start][:2] == [0, 1]
        assert signal.value.sum((1, 2))[:2].tolist() == [1, 0]
        assert len(second) + row["reward/waiting"] == 4


def test_nobody_is_waited_for_without_end() -> None:
    slow = Slow()
    with Asynchronous(slow) as reward:
        run = cast(Run, SimpleNamespace(reward=reward, waiting=[], iteration=0))
        row: dict[str, Any] = {}
        for iteration in range(5):
            run.iteration = iteration
            ready(run, played(iteration), row)
        assert row["reward/given_up"] == 2
        assert row["reward/waiting"] == 6
        slow.go.set()


def test_only_mpo_learns_from_earlier_episodes() -> None:
    with pytest.raises(ValueError, match="only 'mpo' can learn from episodes of earlier iterations"):
        TrainConfig(algorithm="ppo", background=True)
