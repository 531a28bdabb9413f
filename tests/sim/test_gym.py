"""The Gymnasium adapter, on a small environment of the tests' own in this interpreter and in workers."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from test_gym_mapping import GOOD, write

from regrip.datasets.protocols import StepResult
from regrip.datasets.starts import StartState
from regrip.launch import cli, environments
from regrip.launch.environments import EnvConfig
from regrip.sim.gym.env import GymEnv, make
from regrip.sim.gym.frames import fit
from regrip.sim.pool import WorkerPool
from regrip.sim.worker_process import ask

pytest.importorskip("gymnasium", reason="no gymnasium: `make install-dev` installs it")

START = StartState("mine/go", "test", 3)
FORWARD = np.array([0.1, 0.05], np.float32)


def dot(tmp_path: Path, **changes: str) -> GymEnv:
    """The test's mapping with some lines replaced: ``name=value`` stands for ``name = value``."""
    text = GOOD
    for key, value in changes.items():
        text = "\n".join(
            f"{key} = {value}" if line.startswith(f"{key} =") else line for line in text.split("\n")
        )
    return make(write(tmp_path, text), image_size=16)


def test_an_action_is_scaled_clipped_and_held(tmp_path: Path) -> None:
    env = dot(tmp_path)
    env.reset(START)
    given = env.host.env.unwrapped.actions
    env.step(FORWARD)  # 0.1 m is the environment's 1; held for two of its steps
    env.step(np.zeros(2, np.float32))
    env.step(np.array([-7.0, 0.025], np.float32))
    np.testing.assert_array_equal(
        np.array(given), np.array([[1, 0.5]] * 2 + [[0, 0]] * 2 + [[-1, 0.25]] * 2, np.float32)
    )
    assert given[0].dtype == np.float32
    for bad in (np.array([np.nan, 0]), np.zeros(3), np.array([np.inf, 0])):
        with pytest.raises(ValueError, match=r"is not 2 finite numbers \(dx, dy\)"):
            env.step(bad.astype(np.float32))


def test_the_episode_is_the_environments_own(tmp_path: Path) -> None:
    import gymnasium

    env = dot(tmp_path, repeat="1")
    env.reset(START)
    theirs = gymnasium.make("toy/Dot-v0")
    seen, _ = theirs.reset(seed=START.simulator_seed())
    for number in range(5):
        np.testing.assert_array_equal(env.state(), seen["agent.position"].astype(np.float32))
        assert env.privileged()[0] == np.float32(seen["goal"][1])
        action = np.array([0.5, -0.2 * number], np.float32)
        ended = env.step(action / np.float32(10))
        seen, reward, *_, info = theirs.step(action)
        assert env.privileged()[1] == pytest.approx(reward)
        assert ended.success == info["is_success"]


def test_success_failure_and_the_step_limit_end_an_episode(tmp_path: Path) -> None:
    env = dot(tmp_path)
    env.reset(START)
    for _ in range(10):
        way = env.host.observation["goal"] - env.state()
        if (outcome := env.step(np.clip(way / 2, -0.1, 0.1).astype(np.float32))).success:
            break
    assert (outcome.reward, outcome.success, outcome.truncated) == (1.0, True, False)
    with pytest.raises(RuntimeError, match=r"over: call reset\(start\)"):
        env.step(FORWARD)

    env.reset(START)  # off the field: the environment ends it, and that is no success
    outcomes = [env.step(np.array([0.1, 0.1], np.float32)) for _ in range(3)]
    while not outcomes[-1].truncated:
        outcomes.append(env.step(np.array([0.1, 0.1], np.float32)))
    assert len(outcomes) < 10
    assert not outcomes[-1].success

    env.reset(StartState("mine/go", "test", 4))
    idle = [env.step(np.zeros(2, np.float32)).truncated for _ in range(10)]
    assert idle == [False] * 9 + [True]


@pytest.mark.parametrize(
    ("condition", "after"), [('"reward >= -9"', True), ('"reward >= 0.5"', False), ('"info.absent?"', False)]
)
def test_success_may_be_a_threshold_or_now_and_then(tmp_path: Path, condition: str, after: bool) -> None:
    env = dot(tmp_path, success=condition)
    env.reset(START)
    assert env.step(np.zeros(2, np.float32)).success is after


def test_a_simulation_that_blows_up_ends_its_episode_without_success(tmp_path: Path) -> None:
    head = 'diverges_with = ["builtins:FloatingPointError"]\n'
    text = GOOD.replace("info.is_success", "reward >= -0.01") + "kwargs = { sound_for = 3 }\n"
    env = make(write(tmp_path, head + text), image_size=16)
    env.reset(START)
    assert not env.step(FORWARD).truncated
    before = env.state()
    outcome = env.step(FORWARD)
    assert (outcome.success, outcome.truncated, outcome.invalid) == (False, False, True)
    assert np.isfinite(env.state()).all()
    assert not np.array_equal(env.state(), before), "one of the two steps went well"
    env.reset(START)
    assert not env.step(FORWARD).truncated
    env = make(write(tmp_path, text), image_size=16)  # not announced: an error like any other
    env.reset(START)
    env.step(FORWARD)
    with pytest.raises(FloatingPointError):
        env.step(FORWARD)
    env = make(write(tmp_path, 'diverges_with = ["builtins:Nothing"]\n' + text), image_size=16)
    with pytest.raises(ValueError, match="'builtins:Nothing' is no exception"):
        env.reset(START)


def test_a_reset_may_be_followed_by_idle_steps(tmp_path: Path) -> None:
    env = make(write(tmp_path, "settle = 3\nsettle_action = [0.0, 1.0]\n" + GOOD), image_size=16)
    env.reset(START)
    assert [action.tolist() for action in env.host.env.unwrapped.actions] == [[0.0, 1.0]] * 3


def test_what_is_said_may_come_from_the_environment(tmp_path: Path) -> None:
    text = GOOD + 'instruction_from = "attribute.task_description"\n'
    env = make(write(tmp_path, text.replace('"go to the goal"', '"go"')), image_size=16)
    env.reset(START)
    assert env.instruction == "go to the goal"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"from": '["observation.agent.positon"]'}, "did you mean 'agent.position'"),
        ({"from": '["observation.agent.position[0:3]"]'}, "there are only 2 numbers"),
        (
            {"from": '["observation.goal[0]"]'},
            r"state of task go: 2 names, but observation.goal\[0\] gives 1",
        ),
        ({"from": '["observation"]'}, "not numbers; its places may be agent.position, goal, pixels"),
        (
            {"from": '["attribute.positio"]'},
            "no attribute of Dot is called 'positio': did you mean 'position'",
        ),
        ({"from": '["mujoco.qpos"]'}, "has no MuJoCo model and data"),
        ({"success": '"info.is_sucess"'}, "did you mean 'is_success'"),
        ({"id": '"toy/Dto-v0"'}, "Did you mean: `Dot`.*among modules"),
        ({"modules": '["toy_gmy"]'}, "no module 'toy_gmy'.*pip install toy_gmy"),
        ({"axes": '[["x", "m", -1.0, 1.0]]'}, r"1 axes \(x\), but go has Box"),
    ],
)
def test_a_mapping_that_does_not_fit_says_where(
    tmp_path: Path, changes: dict[str, str], message: str
) -> None:
    env = dot(tmp_path, **changes)

    def play() -> None:
        env.reset(START)
        env.step(FORWARD)
        env.state()

    with pytest.raises((ValueError, RuntimeError), match=message):
        play()


def picture(tmp_path: Path, table: str, extra: str = "") -> NDArray[np.uint8]:
    env = make(write(tmp_path, GOOD.replace('observation = "pixels"', table) + extra), image_size=24)
    env.reset(START)
    return env.render("eye")


def test_pictures_are_squared_turned_and_mirrored_as_the_mapping_says(tmp_path: Path) -> None:
    # 8 x 12 pixels become 24 x 24: bars of four pixels above and below, every pixel 2 x 2.
    plain = picture(tmp_path, 'observation = "pixels"')
    assert plain.shape == (24, 24, 3)
    assert (plain[:4] == 0).all()
    corner = {
        "": (4, 0),
        "rotate = 180": (18, 22),
        'flip = "vertical"': (18, 0),
        'flip = "horizontal"': (4, 22),
    }
    corner["rotate = 90"] = (22, 4)  # anticlockwise: top left goes to bottom left
    for how, (row, column) in corner.items():
        frame = picture(tmp_path, f'observation = "pixels"\n{how}')
        assert (frame[row : row + 2, column : column + 2] == 255).all(), how
    first = picture(tmp_path, 'observation = "pixels"', "kwargs = { channels_first = true }\n")
    np.testing.assert_array_equal(first, plain)
    np.testing.assert_array_equal(picture(tmp_path, 'method = "paint"'), plain)


def test_a_frame_of_the_right_size_is_left_alone_and_a_large_one_averaged() -> None:
    frame = np.arange(4 * 4 * 3, dtype=np.uint8).reshape(4, 4, 3)
    assert fit(frame, 4) is frame
    np.testing.assert_array_equal(fit(frame.repeat(3, 0).repeat(3, 1), 4), frame)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ('observation = "pixel"', "did you mean 'pixels'"),
        ('observation = "goal"', "is no picture: expected uint8"),
        ('method = "pant"', "did you mean 'paint'"),
        ('method = "num_steps"', "num_steps is not a method"),
        ('mujoco = "top"', "has no MuJoCo model and data"),
    ],
)
def test_a_camera_that_is_none_is_refused(tmp_path: Path, table: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        picture(tmp_path, table)


def test_nothing_is_painted_before_someone_looks(tmp_path: Path) -> None:
    text = GOOD.replace('observation = "pixels"', 'method = "paint"') + "kwargs = { pixels = false }\n"
    env = make(write(tmp_path, text), image_size=16)
    env.reset(START)
    env.step(FORWARD)
    assert env.host.env.unwrapped.num_paintings == 0
    env.render("eye")
    assert env.host.env.unwrapped.num_paintings == 1


@pytest.mark.parametrize(
    ("space", "action", "expected"),
    [
        ("dict", [0.1, -0.05], {"dx": [1.0], "dy": [-0.5]}),
        ("discrete", [1.6], 2),
        ("discrete", [-5.0], 0),
    ],
)
def test_actions_that_are_no_vector(tmp_path: Path, space: str, action: list[float], expected: Any) -> None:
    text = GOOD + f'kwargs = {{ space = "{space}" }}\n'
    if space == "discrete":
        text = text.replace(
            'axes = [["dx", "m", -0.1, 0.1], ["dy", "m", -0.1, 0.1]]', 'axes = [["go", "", 0, 2]]'
        )
        text = text.replace("native = [-1.0, 1.0]\n", "")
    env = make(write(tmp_path, text), image_size=16)
    env.reset(START)
    env.step(np.array(action, np.float32))
    taken = env.host.env.unwrapped.actions[0]
    if space == "dict":
        assert {key: value.tolist() for key, value in taken.items()} == expected
    else:
        assert taken == expected


def test_an_environment_without_expert_says_so(tmp_path: Path) -> None:
    env = dot(tmp_path)
    env.reset(START)
    with pytest.raises(ValueError, match=r"nobody can demonstrate mine/go.*with one: none"):
        env.expert()


# Snapshots and workers


def open_pool(suite: str, num_slots: int = 3, num_workers: int = 1) -> WorkerPool:
    return WorkerPool(
        "regrip.sim.gym.env:make",
        {"suite": suite, "image_size": 16},
        num_slots=num_slots,
        num_workers=num_workers,
        chunk_size=2,
    )


def answer(result: StepResult) -> list[bytes]:
    seen = result.observation
    return [
        array.tobytes()
        for array in (*seen.images.values(), seen.state, result.privileged, result.reward, result.success)
    ]


def test_killed_workers_and_their_number_change_nothing(tmp_path: Path) -> None:
    suite = write(tmp_path, GOOD)
    starts = [StartState("mine/go", "train", index) for index in range(3)]
    chunk = np.tile(np.array([0.03, -0.02], np.float32), (3, 2, 1))

    def play(pool: WorkerPool, kill: bool) -> list[list[bytes]]:
        pool.reset([0, 1, 2], starts)
        shown = [answer(pool.receive([0, 1, 2]))]
        for number in range(4):
            if kill and number == 2:
                os.kill(pool.worker_pids[0], signal.SIGKILL)
            pool.step([0, 1, 2], chunk)
            shown.append(answer(pool.receive([0, 1, 2])))
        return shown

    with open_pool(suite) as pool:
        expected = play(pool, kill=False)
        assert play(pool, kill=True) == expected
        assert [incident.kind for incident in pool.incidents] == ["died"]
    with open_pool(suite, num_workers=3) as pool:
        assert play(pool, kill=False) == expected


def test_a_snapshot_continues_bit_for_bit_in_another_process(tmp_path: Path) -> None:
    suite = write(tmp_path, GOOD)
    env = make(suite, image_size=16, paraphrase="train")
    env.reset(START)
    for _ in range(3):
        env.step(FORWARD / 3)
    saved = env.snapshot()
    env.step(FORWARD / 2)
    expected = env.state().tobytes() + env.privileged().tobytes() + env.render("eye").tobytes()
    with open_pool(suite, num_slots=1) as pool:
        pool.restore([0], [saved])
        seen = pool.receive([0])
        assert seen.observation.instruction == [env.instruction]
        assert pool.snapshot([0]) == [saved]
        pool.step([0], np.stack([[FORWARD / 2, FORWARD]]).astype(np.float32))
        pool.receive([0])
    env.restore(saved)
    env.step(FORWARD / 2)
    assert env.state().tobytes() + env.privileged().tobytes() + env.render("eye").tobytes() == expected
    with pytest.raises(ValueError, match="make it with the same suite"):
        env.restore(saved.replace(b'"mine"', b'"nine"'))


def test_an_environment_that_does_not_repeat_itself_is_found_out(tmp_path: Path) -> None:
    env = make(write(tmp_path, GOOD + "kwargs = { forgetful = true }\n"), image_size=16)
    env.reset(START)
    saved = env.snapshot()
    with pytest.raises(RuntimeError, match="mine/go does not repeat itself"):
        env.restore(saved)


def test_an_episode_of_another_suite_or_task_is_refused(tmp_path: Path) -> None:
    env = dot(tmp_path)
    with pytest.raises(RuntimeError, match=r"call reset\(start\) first"):
        env.state()
    with pytest.raises(ValueError, match="of suite 'other', but this environment plays 'mine'"):
        env.reset(StartState("other/go", "train", 0))
    with pytest.raises(ValueError, match="did you mean 'go'"):
        env.reset(StartState("mine/og", "train", 0))


# EnvHub

ENVHUB = """
import os, pathlib
import gymnasium, neighbour
from gymnasium.vector import SyncVectorEnv

class Vector(gymnasium.vector.VectorEnv):
    '''Not one of gymnasium's own.'''
    def __init__(self):
        self.inner = SyncVectorEnv([neighbour.one])
        self.num_envs = 1
        self.single_action_space = self.inner.single_action_space
        self.single_observation_space = self.inner.single_observation_space
    def reset(self, *, seed=None, options=None):
        return self.inner.reset(seed=seed, options=options)
    def step(self, actions):
        return self.inner.step(actions)

def make_env(n_envs=1, use_async_envs=False):
    assert (n_envs, use_async_envs) == (1, False)
    pathlib.Path(__file__).with_name("pid").write_text(str(os.getpid()))
    return RETURNED
"""


@pytest.mark.parametrize(
    ("returned", "task"),
    [
        ("SyncVectorEnv([neighbour.one])", ""),
        ('{"dots": {0: None, 4: SyncVectorEnv([neighbour.one])}}', "index = 4"),
        ('{"a": {}, "dots": {0: SyncVectorEnv([neighbour.one])}}', 'group = "dots"'),
        ("neighbour.one()", ""),
        ("Vector()", ""),
    ],
)
def test_a_local_envhub_folder_is_played_in_the_worker_alone(
    tmp_path: Path, returned: str, task: str
) -> None:
    hub = tmp_path / "hub"
    hub.mkdir()
    (hub / "env.py").write_text(ENVHUB.replace("RETURNED", returned))
    (hub / "neighbour.py").write_text("import toy_gym\none = toy_gym.Dot\n")
    text = GOOD.replace('id = "toy/Dot-v0"', 'envhub = "hub"')
    suite = write(tmp_path, text + task + "\n")
    environments.contract(EnvConfig(name="gymnasium", suite=suite))
    assert not (hub / "pid").exists(), "the contract is known without running the code"
    with open_pool(suite, num_slots=1) as pool, open_pool(write_plain(tmp_path), num_slots=1) as plain:
        shown = []
        for one in (pool, plain):
            one.reset([0], [START])
            one.receive([0])
            one.step([0], np.full((1, 2, 2), 0.03, np.float32))
            shown.append(answer(one.receive([0])))
        assert shown[0] == shown[1]
        assert int((hub / "pid").read_text()) == pool.worker_pids[0]


def write_plain(tmp_path: Path) -> str:
    (tmp_path / "plain").mkdir()
    return write(tmp_path / "plain", GOOD)


@pytest.mark.parametrize(
    ("code", "task", "message"),
    [
        ("", "", "has no function make_env"),
        ("def make_env(n_envs, use_async_envs): return 3", "", "returned int, which is no Gymnasium"),
        (
            "def make_env(n_envs, use_async_envs): return {'a': {}, 'b': {}}",
            'group = "aa"',
            "did you mean 'a'",
        ),
        ("def make_env(n_envs, use_async_envs): return {'a': {0: 1}}", "index = 2", "tasks .0., none is 2"),
        (None, "", "there is no Python file"),
    ],
)
def test_an_envhub_that_does_not_fit_says_where(
    tmp_path: Path, code: str | None, task: str, message: str
) -> None:
    if code is not None:
        (tmp_path / "other.py").write_text(code)
    env = make(
        write(tmp_path, GOOD.replace('id = "toy/Dot-v0"', 'envhub = "other.py"') + task + "\n"), image_size=16
    )
    with pytest.raises(ValueError, match=message):
        env.reset(START)


# A skeleton


@pytest.mark.parametrize("wanted", [["CartPole-v1"], ["toy/Dot-v0", "toy_gym"]])
def test_a_skeleton_can_be_played_as_it_is(tmp_path: Path, wanted: list[str]) -> None:
    path = tmp_path / "bone.toml"
    path.write_text(ask(None, ".sim.gym.skeleton", wanted))
    config = environments.native(EnvConfig(name="gymnasium", suite=str(path), image_size=16))
    env = make(str(path), image_size=16)
    env.reset(StartState(environments.task_names(config)[0], "train", 0))
    env.step(env.spec.action_high)
    if wanted[0] != "CartPole-v1":  # whose pictures want pygame
        assert env.render(env.spec.cameras[0].name).shape == (16, 16, 3)
        assert [axis.name for axis in env.spec.state] == [
            "agent.position0",
            "agent.position1",
            "goal0",
            "goal1",
        ]


def test_a_skeleton_of_nothing_names_the_nearest() -> None:
    with pytest.raises(RuntimeError, match=r"Did you mean: `CartPole`.*--modules MODULE"):
        ask(None, ".sim.gym.skeleton", ["CartPol-v1"])


def test_a_task_of_a_mapping_of_ones_own_is_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("REGRIP_GYMNASIUM_PYTHON", sys.executable)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(map(str, [Path(__file__).parent, *sys.path])))
    suite, out = write(tmp_path, GOOD), tmp_path / "out"
    line = ["envs", "show", f"{suite}/go", "--starts", "3", "--size", "32", "--out", str(out)]
    assert cli.main(line) == 0
    said = capsys.readouterr().out
    assert "mine/go: go to the goal" in said
    assert "no scripted expert" in said
    assert (out / "gymnasium-mine-go.png").stat().st_size > 100
    assert cli.main(["envs", "show", f"{suite}/gp", "--out", str(out)]) == 1
    assert "did you mean 'mine/go'" in capsys.readouterr().err


def test_a_package_in_another_version_than_was_tried_is_named_when_a_reset_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import toy_gym

    def reset(*_: Any, **__: Any) -> None:
        raise AssertionError("joint_type in (mjtJoint.mjJNT_HINGE,)")

    monkeypatch.setattr(toy_gym.Dot, "reset", reset)
    start = StartState("mine/go", "train", 0)
    pinned = GOOD.replace('modules = ["toy_gym"]', 'modules = ["toy_gym"]\ninstall = "numpy==0.9"')
    with pytest.raises(
        RuntimeError, match=rf"joint_type in .* ran with numpy==0\.9, and here is numpy {np.__version__}"
    ):
        make(str(write(tmp_path, pinned))).reset(start)
    with pytest.raises(AssertionError, match="joint_type"):  # no version to blame
        make(str(write(tmp_path, GOOD))).reset(start)
