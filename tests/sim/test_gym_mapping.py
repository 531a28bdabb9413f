"""Mappings: what can be said in one, and what is said when it makes no sense."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from regrip.datasets.starts import SPLITS, StartState, split_of_seed
from regrip.launch import environments
from regrip.launch.environments import EnvConfig
from regrip.sim.gym import tasks
from regrip.sim.gym.env import make
from regrip.sim.gym.experts import EXPERTS
from regrip.sim.gym.mapping import MappingError, read
from regrip.sim.maniskill import tasks as maniskill

GOOD = """
modules = ["toy_gym"]
id = "toy/Dot-v0"
max_steps = 10
success = "info.is_success"
repeat = 2

[robot]
name = "dot"
control_mode = "ee_delta"
control_rate_hz = 10

[action]
axes = [["dx", "m", -0.1, 0.1], ["dy", "m", -0.1, 0.1]]
native = [-1.0, 1.0]

[state]
from = ["observation.agent.position"]
axes = [["x", "m", -1.0, 1.0], ["y", "m", -1.0, 1.0]]

[privileged]
from = ["observation.goal[1]", "reward"]
names = ["goal.y", "reward"]

[cameras.eye]
observation = "pixels"

[tasks.go]
instruction = "go to the goal"
train_phrases = ["move to the goal"]
"""


def write(folder: Path, text: str) -> str:
    path = folder / "mine.toml"
    path.write_text(text)
    return str(path)


def test_a_mapping_says_what_the_robot_is(tmp_path: Path) -> None:
    config = EnvConfig(name="gymnasium", suite=write(tmp_path, GOOD), image_size=16, tasks=("go",))
    spec = environments.contract(config)
    assert (spec.name, spec.control_mode, spec.control_rate_hz) == ("dot", "ee_delta", 10.0)
    assert [(axis.name, axis.unit, axis.low, axis.high) for axis in spec.action] == [
        ("dx", "m", -0.1, 0.1),
        ("dy", "m", -0.1, 0.1),
    ]
    assert [(camera.name, camera.height, camera.width) for camera in spec.cameras] == [("eye", 16, 16)]
    assert environments.task_names(config) == ["mine/go"]
    assert environments.sentences(config) == ["go to the goal", "move to the goal"]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('success = "info.is_success"', 'sucess = "info.is_success"', "sucess.*did you mean 'success'"),
        ('success = "info.is_success"', "", "tasks.go.success: missing"),
        ("info.is_success", "inf.is_success", "did you mean 'info'"),
        ("info.is_success", "reward >= a lot", "does not end in a number"),
        ("info.is_success", "info", "info of what"),
        ("ee_delta", "ee_dleta", "did you mean 'ee_delta'"),
        ("control_rate_hz = 10", "control_rate_hz = 0", "not a positive number"),
        ("max_steps = 10", "max_steps = 0", "not a whole number of at least 1"),
        ('["dx", "m", -0.1, 0.1]', '["dx", "m", 0.1, -0.1]', r"axes\[0\].*low below high"),
        ('["dx", "m", -0.1, 0.1]', '["dy", "m", -0.1, 0.1]', "not all different"),
        ("native = [-1.0, 1.0]", "native = [[-1.0, 1.0]]", "neither .low, high. nor 2 such pairs"),
        ("goal[1]", "goal[1", "is not a place"),
        ('observation = "pixels"', 'observaton = "pixels"', "did you mean 'observation'"),
        ('observation = "pixels"', 'observation = "pixels"\nmujoco = "top"', "expected one of"),
        ('observation = "pixels"', 'observation = "pixels"\nrotate = 45', "not 0, 90, 180 or 270"),
        ('observation = "pixels"', "free = { distance = 1.0 }", "does not give exactly distance"),
        ('id = "toy/Dot-v0"', "", "has the id of an environment, or the mapping has an envhub"),
        ("repeat = 2", "settle = 2", "settle_action: None is not a list of 2 numbers"),
        ("repeat = 2", 'name = "a/b"', "is not of letters"),
        ("[tasks.go]", "[task.go]", "did you mean 'tasks'"),
        ("[robot]", "[robot", "not valid TOML"),
    ],
)
def test_what_makes_no_sense_is_named(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in GOOD
    with pytest.raises(MappingError, match=rf"mine\.toml.*{message}"):
        read(Path(write(tmp_path, GOOD.replace(old, new, 1))))


def test_a_suite_that_does_not_exist_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"did you mean 'fetch'.*regrip envs skeleton ftech"):
        tasks.load("ftech")
    with pytest.raises(ValueError, match="cannot read the mapping"):
        tasks.load(str(tmp_path / "none.toml"))


def test_arguments_are_checked_against_the_mapping() -> None:
    for arguments, message in (
        ({"suite": "fetch", "cameras": ["frnt"]}, "did you mean 'front'"),
        ({"suite": "fetch", "cameras": ["front", "front"]}, "name one twice"),
        ({"suite": "pusht", "control_mode": "ee_delta"}, "set control_mode to 'ee_position'"),
        ({"suite": "pusht", "image_size": 8}, "not within 16..1024"),
        ({"suite": "pusht", "render": "fats"}, "did you mean 'fast'"),
        ({"suite": "pusht", "paraphrase": "canonicl"}, "did you mean 'canonical'"),
    ):
        with pytest.raises(ValueError, match=message):
            make(**arguments)  # type: ignore[arg-type]


def test_what_ships_needs_no_simulator_to_be_known() -> None:
    code = (
        "import sys\n"
        "for name in ('gymnasium', 'mujoco', 'gym_pusht'): sys.modules[name] = None\n"
        "from regrip.launch import environments as e\n"
        "for suite in ('pusht', 'aloha', 'fetch', 'kitchen'):\n"
        "    config = e.native(e.EnvConfig(name='gymnasium', suite=suite))\n"
        "    print(len(e.task_names(config)), e.contract(config).action_dim, config.control_mode)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [
        "1", "2", "ee_position", "2", "14", "joint_position", "4", "4", "ee_delta",
        "7", "9", "joint_velocity",
    ]  # fmt: skip


@pytest.mark.parametrize("suite", tasks.SUITES)
def test_sentences_tell_tasks_apart_and_held_out_ones_are_new(suite: str) -> None:
    every = tasks.load(suite).tasks.values()
    said = [text for task in every for text in (task.instruction, *task.train_phrases, *task.heldout_phrases)]
    assert len(set(said)) == len(said)
    known = {word for text in tasks.sentences(suite, "train") for word in text.split()}
    assert {word for text in tasks.sentences(suite, "heldout") for word in text.split()} <= known
    assert all(task.expert in EXPERTS for task in every if task.expert)


@given(
    task=st.text("ab/", min_size=1).map("suite/".__add__), index=st.integers(0, 10**9),
    seed=st.integers(0, 10**6), split=st.sampled_from(SPLITS),
)  # fmt: skip
@settings(max_examples=300, deadline=None)
def test_no_two_splits_share_a_seed(task: str, index: int, seed: int, split: str) -> None:
    start = StartState(task, split, index, seed)  # type: ignore[arg-type]
    drawn = start.simulator_seed()
    assert 0 <= drawn < 2**31
    assert split_of_seed(drawn) == split
    assert start.simulator_seed() == drawn


def test_seeds_of_a_split_differ() -> None:
    seeds = [StartState("suite/task", "train", index).simulator_seed() for index in range(2000)]
    assert len(set(seeds)) == 2000
    assert {seed % 8 for seed in seeds} == {0, 1, 2, 3, 4, 5}


def test_seeds_that_measured_episodes_began_with_stay() -> None:
    fetch = [StartState("fetch/push", split, 3).simulator_seed() for split in SPLITS]
    assert fetch == [1966663435, 1640397734, 1934195007]
    cubes = [maniskill.episode_seed(StartState("cubes/PickCube", split, 3)) for split in SPLITS]
    assert cubes == [563456949, 1210650870, 751525503]
    assert [split_of_seed(seed) for seed in (*fetch, *cubes)] == [*SPLITS, *SPLITS]
