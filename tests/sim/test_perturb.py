"""Perturbed episodes: what changes, what must not, and that the tasks can still be done."""

import math

import numpy as np
import pytest

from regrip.datasets.starts import SPLITS, StartState, split_of_lattice
from regrip.sim.perturb import Perturbed, with_perturbation
from regrip.sim.tabletop.env import TabletopEnv
from regrip.sim.tabletop.perturb import KINDS
from regrip.sim.tabletop.tasks import FOUR, task_names

PICTURES = ("camera", "light", "background", "texture")
TASKS = task_names("demo")


def start(index: int = 0, task: str = "demo/lift_red") -> StartState:
    return StartState(task, "test", index)


def first_picture(env: TabletopEnv, at: StartState) -> np.ndarray:
    env.reset(at)
    return env.render("front")


@pytest.mark.parametrize("kind", PICTURES)
def test_a_changed_picture_changes_nothing_else(kind: str) -> None:
    plain, changed = TabletopEnv("demo"), TabletopEnv("demo", perturb=kind)
    before, after = first_picture(plain, start()), first_picture(changed, start())
    assert np.abs(before.astype(int) - after).mean() > 1
    np.testing.assert_array_equal(first_picture(changed, start()), after)
    expert = plain.expert()
    for _ in range(10):
        action = expert.act()
        assert plain.step(action) == changed.step(action)
    np.testing.assert_array_equal(plain.state(), changed.state())
    np.testing.assert_array_equal(plain.privileged(), changed.privileged())
    # The model is shared by all environments of the process: nobody else may see the change.
    np.testing.assert_array_equal(first_picture(plain, start()), before)


@pytest.mark.parametrize("kind", ["camera", "light", "background"])
def test_each_start_state_is_changed_in_its_own_way(kind: str) -> None:
    plain, changed = TabletopEnv("demo"), TabletopEnv("demo", perturb=kind)
    shifts = [
        first_picture(changed, start(index)).astype(int) - first_picture(plain, start(index))
        for index in range(2)
    ]
    assert np.abs(shifts[0] - shifts[1]).mean() > 1


def test_the_arm_starts_farther_from_home() -> None:
    plain, changed = TabletopEnv("demo", cameras=()), TabletopEnv("demo", cameras=(), perturb="robot")
    reach = []
    for env in (plain, changed):
        joints = []
        for index in range(40):
            env.reset(start(index))
            joints.append(env.state()[:7])
        reach.append(np.ptp(joints, axis=0) / 2)
    assert (reach[0] < 0.041).all()
    assert (reach[1] > 0.10).all()
    assert (reach[1] < 0.151).all()


@pytest.mark.parametrize("split", SPLITS)
def test_a_shifted_layout_stays_in_its_split(split: str) -> None:
    plain, changed = TabletopEnv("demo", cameras=()), TabletopEnv("demo", cameras=(), perturb="layout")
    moved = 0.0
    for index in range(20):
        at = StartState("demo/lift_red", split, index)  # type: ignore[arg-type]
        plain.reset(at)
        changed.reset(at)
        x, y = changed.privileged()[:2]
        assert split_of_lattice(float(x)) == split
        moved = max(moved, math.dist((x, y), plain.privileged()[:2]))
    assert 0.01 < moved < 0.043


def test_distractors_stand_clear_of_everything() -> None:
    for suite in ("demo", *FOUR):
        env = TabletopEnv(suite, cameras=(), perturb="distractors")
        for index, name in enumerate(task_names(suite)):
            env.reset(start(index, name))
            for extra in ("distractor_can", "distractor_bar"):
                for prop in env.world.scene.things:
                    assert not env.world.touching(extra, prop.name), (name, extra, prop.name)
                assert abs(env.world.position(extra)[2]) < 0.06


@pytest.mark.parametrize("kind", KINDS)
def test_the_expert_still_does_the_tasks(kind: str) -> None:
    env = TabletopEnv("demo", cameras=(), perturb=kind)
    won = 0
    for task in TASKS:
        for index in range(3):
            env.reset(start(index, task))
            expert = env.expert()
            won += any(env.step(expert.act()).success for _ in range(env.max_steps))
    assert won >= 22, f"{won} of 24"


@pytest.mark.parametrize("kind", ["light", "distractors"])
def test_a_snapshot_carries_the_perturbation(kind: str) -> None:
    env, other = TabletopEnv("demo", perturb=kind), TabletopEnv("demo", perturb=kind)
    env.reset(start(4))
    env.step(env.expert().act())
    other.reset(start(5))
    other.restore(env.snapshot())
    np.testing.assert_array_equal(other.render("front"), env.render("front"))
    with pytest.raises(ValueError, match="perturb"):
        TabletopEnv("demo", cameras=()).restore(env.snapshot())


def test_an_unknown_kind_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="did you mean 'camera'"):
        TabletopEnv("demo", perturb="cameras")
    with pytest.raises(ValueError, match="known are noise, silent, wrong"):
        Perturbed(TabletopEnv("demo", cameras=()), "loud", TASKS)


def make(kind: str, tasks: tuple[str, ...] = TASKS) -> Perturbed:
    kwargs = {"suite": "demo", "image_size": 32}
    return with_perturbation("regrip.sim.tabletop.env:make", kwargs, kind, tasks)


def test_silence_and_a_wrong_instruction_leave_the_scene_alone() -> None:
    plain, silent, wrong = TabletopEnv("demo", image_size=32), make("silent"), make("wrong")
    for index, task in enumerate(TASKS):
        at = start(index, task)
        for env in (plain, silent, wrong):
            env.reset(at)
        assert silent.instruction == ""
        assert wrong.instruction not in ("", plain.instruction)
        np.testing.assert_array_equal(wrong.render("front"), plain.render("front"))
        np.testing.assert_array_equal(silent.privileged(), plain.privileged())
    other = make("wrong")
    other.restore(wrong.snapshot())
    assert other.instruction == wrong.instruction


def test_a_wrong_instruction_needs_another_task() -> None:
    env = make("wrong", ("demo/lift_red",))
    with pytest.raises(ValueError, match="give more tasks"):
        env.reset(start())


def test_sensor_noise_is_new_in_each_frame_and_the_same_when_played_again() -> None:
    plain, noisy = TabletopEnv("demo", image_size=32), make("noise")
    plain.reset(start())
    rest = np.zeros(7, np.float32)
    rest[-1] = 0.08
    pictures = []
    for _ in range(2):
        noisy.reset(start())
        pictures.append(noisy.render("wrist"))
        noisy.step(rest)
        pictures.append(noisy.render("wrist"))
    np.testing.assert_array_equal(pictures[0], pictures[2])
    np.testing.assert_array_equal(pictures[1], pictures[3])
    clean = plain.render("wrist").astype(int)
    assert 2 < np.abs(pictures[0] - clean).mean() < 60
    assert np.abs(pictures[0].astype(int) - pictures[1]).mean() > 2
    noisy.reset(start())
    noisy.step(rest)
    other = make("noise")
    other.restore(noisy.snapshot())
    np.testing.assert_array_equal(other.render("wrist"), pictures[1])
