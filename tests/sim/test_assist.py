"""Virtual forces and relaxed goals: repeated in every replay, off unless asked for; no success is relaxed."""

import os
import signal
from collections.abc import Sequence
from typing import cast

import numpy as np
import pytest
from numpy.typing import NDArray

from regrip.datasets.episode import Observation, Rollouts
from regrip.datasets.protocols import ActionSample
from regrip.datasets.starts import StartState
from regrip.sim.collect import collect
from regrip.sim.env import EnvStep
from regrip.sim.pool import WorkerPool
from regrip.sim.tabletop.env import TabletopEnv, assistance
from regrip.sim.tabletop.goals import JointWithin, Lifted, Pushed, Steady, relaxed
from regrip.sim.tabletop.tasks import SUITES, load
from regrip.sim.tabletop.world import World

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


class Gripping:
    """Brings the open hand down on the block, grips and lifts it by 3 cm; it knows where each block is."""

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
            decision = int(key[-1])
            height = np.array([0, 0, 0.0 if decision < 6 else 0.035], np.float32)
            gap = self.target[int(key[-2])] + height - observation.state[row, 8:11]
            action[row, :, :3] = np.clip(gap / 5, -0.04, 0.04)
            action[row, :, 6] = 0.08 if decision < 4 else 0.0
        return ActionSample(action, np.zeros(action.shape[:2], np.float32))


def play(pool: WorkerPool, assist: float, relax: float, shots: tuple[int, ...] = ()) -> Rollouts:
    def shoot(done: int, total: int) -> None:
        if done in shots:
            os.kill(pool.worker_pids[0], signal.SIGKILL)

    pool.assist, pool.relax = assist, relax
    return collect(
        pool, Gripping(), LIFTS, range(len(LIFTS)),
        run_key=("assist",), greedy=False, policy_version=0, on_episode=shoot,
    )[0]  # fmt: skip


def test_replays_get_the_same_help() -> None:
    with WorkerPool("regrip.sim.tabletop.env:make", {"image_size": 32}, num_slots=4, num_workers=1) as pool:
        helped, alone = play(pool, 1.0, 1.0), play(pool, 0.0, 0.0)
        again = play(pool, 1.0, 1.0, shots=(1, 3))
        assert len(pool.incidents) == 2
    assert again.privileged.tobytes() == helped.privileged.tobytes()
    assert helped.privileged.tobytes() != alone.privileged.tobytes()
    assert again.reward.tobytes() == helped.reward.tobytes()
    assert alone.reward.sum() == 0
    assert helped.reward.sum() >= 3
    assert not helped.success.any()  # 3 cm are enough for what is asked of practice, and for nothing else


def test_a_snapshot_knows_of_it() -> None:
    env, other = TabletopEnv(), TabletopEnv()
    env.assist = 0.7
    env.reset(LIFTS[0])
    other.restore(env.snapshot())
    assert other.assist == 0.7


@pytest.mark.parametrize("help", ["assist", "relax"])
def test_who_cannot_help_says_so(help: str) -> None:
    with WorkerPool("puck_env:make", num_slots=1, num_workers=1) as pool:
        setattr(pool, help, 0.5)
        pool.reset([0], [StartState("puck/push", "train", 0)])
        with pytest.raises(ValueError, match=f"{help} 0.5 was asked for, but PuckEnv cannot make its tasks"):
            pool.receive([0])


def test_what_less_is() -> None:
    assert _numbers(relaxed(Steady(Lifted("block", 0.06), 3), 1.0)) == pytest.approx([0.018, 3])
    assert _numbers(relaxed(Pushed("block"), 0.5)) == pytest.approx([0.065, 0.075, 0.02])
    for suite in SUITES:
        for task in load(suite).tasks:
            relaxed(task.goal, 1.0)  # every goal that a task uses knows what less of it is
            assert _numbers(relaxed(task.goal, 0.0)) == pytest.approx(_numbers(task.goal)), task.name


def _numbers(goal: object) -> list[float]:
    """What a goal asks for, apart from the share of a joint's way."""
    found: list[float] = []
    for name, value in vars(goal).items():
        if isinstance(value, tuple) and value and isinstance(value[0], float):
            found += value
        elif isinstance(value, tuple):
            found += [number for one in value if hasattr(one, "begin") for number in _numbers(one)]
        elif isinstance(value, (float, int)) and name != "share":
            found.append(value)
        elif hasattr(value, "begin"):
            found += _numbers(value)
    return found


class Drawer:
    """A world of one joint."""

    at = 0.1

    def joint(self, name: str) -> float:
        return self.at


def test_a_joint_goes_part_of_its_way() -> None:
    drawer = Drawer()
    world = cast(World, drawer)
    goal = relaxed(JointWithin("slide", 0.2, 1.0), 1.0)
    memory = goal.begin(world)
    for drawer.at, holds in ((0.1, False), (0.129, False), (0.131, True), (0.5, True), (1.1, False)):
        assert goal.holds(world, memory) is holds  # 0.3 of the way from 0.1 to 0.2


def half_a_lift(relax: float) -> tuple[list[NDArray[np.float32]], list[EnvStep]]:
    """What an expert does that stops at 3 cm, where the task asks for 6, and what comes of it."""
    env = TabletopEnv()
    env.relax = relax
    env.reset(LIFTS[0])
    expert, begin = env.expert(), env.privileged()[2]
    actions, steps = list[NDArray[np.float32]](), list[EnvStep]()
    while not steps or not steps[-1].over:
        action = expert.act()
        if env.privileged()[2] > begin + 0.03:
            action[:6] = 0
        actions.append(action)
        steps.append(env.step(action))
    return actions, steps


def test_a_relaxed_goal_pays_once_and_is_no_success() -> None:
    (_, plain), (actions, eased) = half_a_lift(0.0), half_a_lift(1.0)
    assert not any(step.reward for step in plain)
    assert sum(step.reward for step in eased) == 1.0
    assert not any(step.success for step in eased)
    assert eased[-1].truncated
    assert len(eased) == len(plain) == 60

    paid = [step.reward for step in eased].index(1.0)
    for moment in (paid - 1, paid + 1):  # a snapshot knows for how long it has held, and that it was paid
        env, other = TabletopEnv(), TabletopEnv()
        env.relax = 1.0
        env.reset(LIFTS[0])
        for action in actions[:moment]:
            env.step(action)
        other.restore(env.snapshot())
        assert [other.step(action) for action in actions[moment:]] == eased[moment:]


def test_who_never_asks_for_less_sees_nothing_of_it() -> None:
    env, other = TabletopEnv(), TabletopEnv()
    other.relax = 1.0
    for one in (env, other):
        one.reset(LIFTS[0])
    for _ in range(3):
        action = env.expert().act()
        env.step(action)
        other.step(action)
    assert env.privileged().tobytes() == other.privileged().tobytes()  # the physics are the same
