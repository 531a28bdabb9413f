"""A scene that explodes is noticed at once, ends its episode, and is never a success."""

from collections.abc import Sequence

import numpy as np
import pytest

from regrip.datasets.episode import Observation
from regrip.datasets.protocols import ActionSample
from regrip.datasets.starts import StartState
from regrip.sim.collect import collect
from regrip.sim.explosion import exploded
from regrip.sim.pool import WorkerPool
from regrip.sim.tabletop.env import TabletopEnv


class Pushing:
    """Drives the puck into the box."""

    def act(
        self, observation: Observation, noise_keys: Sequence[tuple[str | int, ...]] | None
    ) -> ActionSample:
        action = np.tile(np.array([0.5, 0.0], np.float32), (len(observation), 5, 1))
        return ActionSample(action, np.zeros(action.shape[:2], np.float32))


def test_limits_are_on_every_number_of_every_scene() -> None:
    position, velocity = np.zeros((6, 3)), np.zeros((6, 2))
    position[1, 2] = np.nan
    position[2, 0] = -51.0
    velocity[3, 1] = -251.0
    velocity[4, 0] = np.inf
    velocity[5] = 249.0  # fast, but a scene may be
    assert exploded(position, velocity).tolist() == [False, True, True, True, True, False]


@pytest.mark.parametrize("push", [1e3, np.nan, 1e12], ids=["fast", "not a number", "reset by MuJoCo itself"])
def test_a_tabletop_episode_ends_invalid(push: float) -> None:
    env = TabletopEnv()
    env.reset(StartState("demo/lift_red", "train", 0))
    still = np.array([0, 0, 0, 0, 0, 0, 0.08], np.float32)
    assert not env.step(still).over
    address = env.world.model.joint("red_block").dofadr[0]
    env.world.data.qvel[address + 2] = push  # upwards, where success is
    step = env.step(still)
    assert step.invalid
    assert step.over
    assert not step.success
    assert step.reward == 0
    with pytest.raises(RuntimeError, match="over"):
        env.step(still)
    env.reset(StartState("demo/lift_red", "train", 0))
    assert not env.step(still).over


def test_invalid_episodes_are_neither_won_nor_lost() -> None:
    starts = [StartState(f"puck/{task}", "train", i) for i in range(3) for task in ("push", "burst")]
    with WorkerPool("puck_env:make", num_slots=4, num_workers=2, chunk_size=5) as pool:
        rollouts, stats = collect(
            pool, Pushing(), starts, range(6), run_key=("x",), greedy=True, policy_version=0
        )
    assert rollouts.invalid.tolist() == [False, True] * 3
    assert stats.num_invalid == 3
    assert not (rollouts.success & rollouts.invalid).any()
    assert not (rollouts.truncated & rollouts.invalid).any()
    assert rollouts.num_steps[rollouts.invalid].tolist() == [7] * 3
    assert rollouts.reward[rollouts.invalid].sum() == 0
