"""The four suites as one environment."""

import numpy as np
import pytest

from regrip.datasets.starts import StartState
from regrip.launch import environments
from regrip.launch.environments import EnvConfig
from regrip.sim.tabletop.env import TabletopEnv, make
from regrip.sim.tabletop.several import SeveralSuites
from regrip.sim.tabletop.tasks import FOUR, sentences, task_names


@pytest.fixture(scope="module")
def four() -> SeveralSuites:
    env = make("four", cameras=())
    assert isinstance(env, SeveralSuites)
    return env


@pytest.mark.parametrize("suite", FOUR)
def test_an_episode_is_the_one_its_own_suite_plays(four: SeveralSuites, suite: str) -> None:
    alone = TabletopEnv(suite, cameras=())
    start = StartState(task_names(suite)[3], "train", 5)
    alone.reset(start)
    four.reset(start)
    assert (four.instruction, four.max_steps) == (alone.instruction, alone.max_steps)
    expert = alone.expert()
    for _ in range(20):
        action = expert.act()
        assert alone.step(action) == four.step(action)
    np.testing.assert_array_equal(four.state(), alone.state())
    padded = four.privileged()
    assert padded.shape == (four.privileged_dim,)
    np.testing.assert_array_equal(padded[: alone.privileged_dim], alone.privileged())
    assert not padded[alone.privileged_dim :].any()


def test_a_snapshot_brings_back_the_suite_too(four: SeveralSuites) -> None:
    four.reset(StartState(task_names("long")[0], "train", 1))
    for _ in range(10):
        four.step(four.expert().act())
    snapshot, state, said = four.snapshot(), four.state(), four.instruction
    following = [four.expert().act() for _ in range(5)]
    for action in following:
        four.step(action)
    later = four.state()
    four.reset(StartState(task_names("object")[2], "train", 1))
    assert four.instruction != said
    four.restore(snapshot)
    assert four.instruction == said
    np.testing.assert_array_equal(four.state(), state)
    for action in following:
        four.step(action)
    np.testing.assert_array_equal(four.state(), later)


def test_another_suite_is_refused_by_name(four: SeveralSuites) -> None:
    with pytest.raises(ValueError, match=r"'demo'.*spatial, object, goal, long"):
        four.reset(StartState("demo/lift_red", "train", 0))
    demo = TabletopEnv("demo", cameras=())
    demo.reset(StartState("demo/lift_red", "train", 0))
    with pytest.raises(ValueError, match="'demo'"):
        four.restore(b"demo\n" + demo.snapshot())


def test_the_four_have_the_tasks_and_sentences_of_each() -> None:
    assert list(task_names("four")) == [name for suite in FOUR for name in task_names(suite)]
    assert set(sentences("four")) == {text for suite in FOUR for text in sentences(suite)}
    some = EnvConfig(suite="four", tasks=("goal/" + task_names("goal")[0].split("/")[1],))
    assert environments.task_names(some) == [task_names("goal")[0]]
    with pytest.raises(ValueError, match="task of suite four called 'goal/fly'"):
        environments.task_names(EnvConfig(suite="four", tasks=("goal/fly",)))
