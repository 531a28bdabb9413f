"""What every task of every suite promises."""

import sys
import xml.etree.ElementTree as ElementTree
from collections import Counter

import numpy as np
import pytest

from regrip.datasets.starts import SPLITS, StartState, split_of_lattice
from regrip.sim.tabletop import experts
from regrip.sim.tabletop.env import TabletopEnv
from regrip.sim.tabletop.experts import perturbed
from regrip.sim.tabletop.tasks import SUITES, Task, load, sentences, task_names, vocabulary

ALL_TASKS = [name for suite in SUITES for name in task_names(suite)]


@pytest.fixture(scope="module")
def envs() -> dict[str, TabletopEnv]:
    return {suite: TabletopEnv(suite, cameras=()) for suite in SUITES}


def task_of(name: str) -> Task:
    suite, task = name.split("/")
    return load(suite).task(task)


def expert_succeeds(env: TabletopEnv, start: StartState) -> bool:
    env.reset(start)
    expert = env.expert()
    return any(env.step(expert.act()).success for _ in range(env.max_steps))


def test_suites_are_as_large_as_promised() -> None:
    sizes = {suite: len(task_names(suite)) for suite in SUITES}
    assert sizes.pop("demo") == 8
    assert min(sizes.values()) >= 10, sizes
    assert max(Counter(ALL_TASKS).values()) == 1


@pytest.mark.parametrize("name", ALL_TASKS)
def test_the_expert_does_the_task(envs: dict[str, TabletopEnv], name: str) -> None:
    env = envs[name.split("/")[0]]
    for split in ("train", "test"):
        assert expert_succeeds(env, StartState(name, split, 0)), split


@pytest.mark.slow
@pytest.mark.parametrize("name", ALL_TASKS)
def test_the_expert_is_reliable(envs: dict[str, TabletopEnv], name: str) -> None:
    env = envs[name.split("/")[0]]
    wins = sum(expert_succeeds(env, StartState(name, "select", index)) for index in range(40))
    assert wins >= 38, f"{wins} of 40"


@pytest.mark.parametrize("name", ALL_TASKS)
def test_a_task_can_be_said_in_several_ways(name: str) -> None:
    task = task_of(name)
    train, held_out = task.phrases("train"), task.phrases("heldout")
    assert task.phrases("canonical") == (task.instruction,)
    assert task.instruction in train
    assert len({*train, *held_out}) == len(train) + len(held_out) >= 5
    assert len(held_out) >= 1
    # No sentence may name two tasks of a suite.
    others = [other for other in load(name.split("/")[0]).tasks if other.name != task.name]
    taken = {phrase for other in others for kind in ("train", "heldout") for phrase in other.phrases(kind)}
    assert not taken & {*train, *held_out}


def test_vocabulary_holds_the_words_and_sentences_hold_the_sentences() -> None:
    words = vocabulary("long")
    assert words == sorted(words)
    assert {"drawer", "then", ","} <= set(words)
    assert set(sentences("demo", "canonical")) == {task.instruction for task in load("demo").tasks}
    assert not set(sentences("demo", "train")) & set(sentences("demo", "heldout"))


@pytest.mark.parametrize("name", ALL_TASKS)
def test_splits_share_no_start(envs: dict[str, TabletopEnv], name: str) -> None:
    env = envs[name.split("/")[0]]
    target = env.privileged_names.index("target.x")
    for split in SPLITS:
        for index in range(8):
            env.reset(StartState(name, split, index))
            x = float(env.world.position(env.task.target)[0])
            assert split_of_lattice(x) == split
            assert env.privileged()[target] == np.float32(x)


@pytest.mark.parametrize("name", ALL_TASKS)
def test_nothing_is_done_at_the_start_or_by_doing_nothing(envs: dict[str, TabletopEnv], name: str) -> None:
    env = envs[name.split("/")[0]]
    idle = np.array([0, 0, 0, 0, 0, 0, 0.08], dtype=np.float32)
    for index in range(6):
        env.reset(StartState(name, "select", index))
        before = {prop.name: env.world.position(prop.name) for prop in load(name.split("/")[0]).scene.things}
        tcp = env.world.position("tcp")
        for _ in range(8):
            assert not env.step(idle).success
        # Things are placed where they rest: nothing falls, tips or drifts, nor does the arm.
        for body, position in before.items():
            np.testing.assert_allclose(env.world.position(body), position, atol=3e-3, err_msg=body)
        np.testing.assert_allclose(env.world.position("tcp"), tcp, atol=2e-3)


@pytest.mark.parametrize("suite", SUITES)
def test_the_scene_keeps_to_what_other_simulators_read(suite: str) -> None:
    tags = {element.tag for element in ElementTree.fromstring(load(suite).scene.mjcf).iter()}
    assert not tags & {"tendon", "equality", "plugin", "mesh", "extension", "flex", "composite", "keyframe"}
    kinds = {geom.get("type", "") for geom in ElementTree.fromstring(load(suite).scene.mjcf).iter("geom")}
    assert kinds <= {"", "box", "capsule", "cylinder", "plane", "sphere"}


def test_the_expert_begins_from_a_disturbed_arm(envs: dict[str, TabletopEnv]) -> None:
    env, start = envs["demo"], StartState("demo/lift_red", "train", 0)
    env.reset(start)
    begin = env.world.position("tcp")
    env.disturb(start.generator("disturb"), 0.15)
    assert np.linalg.norm(env.world.position("tcp") - begin) > 0.02
    expert = env.expert()
    assert any(env.step(expert.act()).success for _ in range(env.max_steps))


def test_the_expert_recovers_from_noise_and_labels_the_way_back(envs: dict[str, TabletopEnv]) -> None:
    env, wins = envs["demo"], 0
    for index in range(10):
        start = StartState("demo/lift_green", "train", index)
        env.reset(start)
        expert, generator = env.expert(), start.generator("noise")
        for _ in range(env.max_steps):
            clean = expert.act()
            assert (np.abs(clean) <= env.spec.action_high + 1e-6).all()
            noisy = perturbed(clean, generator, 0.1)
            assert noisy[6] == clean[6]
            if env.step(noisy).success:
                wins += 1
                break
    assert wins >= 9


def test_the_table_of_experts_prints(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["experts", "--suite", "demo", "--episodes", "2"])
    experts.main()
    printed = capsys.readouterr().out
    assert "demo/lift_red" in printed
    assert "2/2" in printed
    assert "environment steps per cpu-second" in printed


@pytest.mark.slow
def test_random_actions_succeed_at_nothing(envs: dict[str, TabletopEnv]) -> None:
    episodes = 0
    for suite, env in envs.items():
        for name in task_names(suite)[::2]:
            for index in range(12):
                start = StartState(name, "train", index)
                env.reset(start)
                actions = start.generator("random policy").uniform(
                    env.spec.action_low, env.spec.action_high, (env.max_steps, 7)
                )
                assert not any(env.step(action).success for action in actions.astype(np.float32)), start
                episodes += 1
    assert episodes > 250
