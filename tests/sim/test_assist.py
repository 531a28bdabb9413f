"""Virtual forces make a task easier, are repeated in every replay, and are off unless asked for."""

import os
import signal
from collections.abc import Sequence

import numpy as np
import pytest

from regrip.datasets.episode import Observation, Rollouts
from regrip.datasets.protocols import ActionSample
from regrip.datasets.starts import StartState
from regrip.sim.collect import collect
from regrip.sim.pool import WorkerPool
from regrip.sim.tabletop.env import TabletopEnv, assistance

LIFTS = [
    StartState(f"demo/lift_{colour}", "train", index) for colour in ("red", "blue") for index in range(4)
]


def test_the_force_by_hand() -> None:
    tcp, below, aside = np.array([0.4, 0.0, 0.1]), np.array([0.4, 0.0, 0.08]), np.array([0.4, 0.07, 0.1])
    assert assistance(below, tcp, 0.5) == pytest.approx([0, 0, 0.4])  # half of 40 N/m over 2 cm, upwards
    assert assistance(aside, tcp, 1.0).tolist() == [0, 0, 0]  # 7 cm away is out of reach


def lifted_by_a_clumsy_grip(assist: float) -> int:
    """Successes of an expert whose fingers stop 6 mm short of the block's sides."""
    env, won = TabletopEnv(), 0
    for start in LIFTS:
        env.assist = assist
        env.reset(start)
        expert = env.expert()
        while True:
            action = expert.act()
            action[-1] = max(action[-1], 0.056)
            step = env.step(action)
            if step.over:
                break
        won += step.success
    return won


def test_it_does_what_a_grip_does_not() -> None:
    assert lifted_by_a_clumsy_grip(0.0) == 0
    assert lifted_by_a_clumsy_grip(1.0) >= 3


class Hovering:
    """Brings the open hand down on the block and up again; it knows where each episode's block is."""

    def __init__(self) -> None:
        env = TabletopEnv()
        self.target = []
        for start in LIFTS:
            env.reset(start)
            self.target.append(env.privileged()[:3])

    def act(
        self, observation: Observation, noise_keys: Sequence[tuple[str | int, ...]] | None
    ) -> ActionSample:
        action = np.zeros((len(observation), 5, 7), np.float32)
        for row, key in enumerate(noise_keys or ()):
            height = np.array([0, 0, 0.02 if int(key[-1]) < 4 else 0.2], np.float32)
            gap = self.target[int(key[-2])] + height - observation.state[row, 8:11]
            action[row, :, :3], action[row, :, 6] = np.clip(gap / 5, -0.04, 0.04), 0.08
        return ActionSample(action, np.zeros(action.shape[:2], np.float32))


def play(pool: WorkerPool, assist: float, shots: tuple[int, ...] = ()) -> Rollouts:
    def shoot(done: int, total: int) -> None:
        if done in shots:
            os.kill(pool.worker_pids[0], signal.SIGKILL)

    pool.assist = assist
    return collect(
        pool, Hovering(), LIFTS, range(len(LIFTS)),
        run_key=("assist",), greedy=False, policy_version=0, on_episode=shoot,
    )[0]  # fmt: skip


def test_replays_get_the_same_help() -> None:
    with WorkerPool("regrip.sim.tabletop.env:make", {"image_size": 32}, num_slots=4, num_workers=1) as pool:
        helped, alone = play(pool, 1.0), play(pool, 0.0)
        again = play(pool, 1.0, shots=(1, 3))
        assert len(pool.incidents) == 2
    assert again.privileged.tobytes() == helped.privileged.tobytes()
    assert helped.privileged.tobytes() != alone.privileged.tobytes()


def test_a_snapshot_knows_of_it() -> None:
    env, other = TabletopEnv(), TabletopEnv()
    env.assist = 0.7
    env.reset(LIFTS[0])
    other.restore(env.snapshot())
    assert other.assist == 0.7


def test_who_cannot_help_says_so() -> None:
    with WorkerPool("puck_env:make", num_slots=1, num_workers=1) as pool:
        pool.assist = 0.5
        pool.reset([0], [StartState("puck/push", "train", 0)])
        with pytest.raises(ValueError, match="PuckEnv cannot make its tasks easier"):
            pool.receive([0])
