"""A scene that explodes is noticed at once, ends its episode, and is never a success."""

import json
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

import mujoco
import numpy as np
import pytest

from regrip.datasets.episode import Observation
from regrip.datasets.protocols import ActionSample
from regrip.datasets.starts import StartState
from regrip.launch import environments
from regrip.launch.environments import EnvConfig
from regrip.sim.collect import collect
from regrip.sim.explosion import broke_down, exploded
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


def test_mujoco_resets_a_broken_scene_by_itself_and_that_is_noticed_once() -> None:
    model = mujoco.MjModel.from_xml_string(
        "<mujoco><worldbody><body><freejoint/><geom size='.1' mass='1'/></body></worldbody></mujoco>"
    )
    data = mujoco.MjData(model)
    mujoco.mj_step(model, data)
    assert not broke_down(data)
    data.qvel[2] = np.nan
    mujoco.mj_step(model, data)
    assert np.isfinite(data.qvel).all(), "as if nothing had been"
    assert broke_down(data)
    mujoco.mj_step(model, data)
    assert not broke_down(data)
    data.qvel[2] = 1e3
    assert broke_down(data)


@pytest.mark.parametrize(
    ("simulator", "suite", "task"),
    [
        ("metaworld", "mt3", "mt3/drawer-open"),
        ("robosuite", "blocks", "blocks/lift"),
        ("gymnasium", "fetch", "fetch/push"),
        pytest.param("gymnasium", "kitchen", "kitchen/kettle", marks=pytest.mark.slow),
        pytest.param(
            "libero", "libero_goal", "libero_goal/put_the_bowl_on_the_plate", marks=pytest.mark.slow
        ),
    ],
)
def test_an_episode_of_a_public_simulator_ends_invalid(simulator: str, suite: str, task: str) -> None:
    try:
        python = environments.interpreter(EnvConfig(name=simulator, suite=suite))  # type: ignore[arg-type]
    except FileNotFoundError as error:
        pytest.skip(str(error))
    module = environments.FACTORIES[simulator].partition(":")[0]
    done = subprocess.run(
        [str(python), Path(__file__).with_name("explosion_reference.py")],
        input=json.dumps({"module": module, "suite": suite, "task": task}),
        capture_output=True, text=True, timeout=600,
        env={**os.environ, "MUJOCO_GL": "egl", "PYTHONPATH": str(Path(__file__).parents[2] / "src")},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    # In turn: as it is, not a number, after a reset, far too fast.
    assert json.loads(done.stdout.splitlines()[-1]) == [False, True, False, True]


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
