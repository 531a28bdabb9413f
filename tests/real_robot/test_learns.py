"""What a node recorded trains again: collect on the simulated arm, `regrip train --data`, drive it again."""

from __future__ import annotations

import contextlib
import runpy
from pathlib import Path

import pytest

from regrip.datasets.starts import SplitError, StartState
from regrip.datasets.store.reader import Store
from regrip.launch.collecting import SimulatedRoom, learner, scenes_of
from regrip.launch.policies import find_policy, named, open_policy
from regrip.launch.recorded import load_recorded, load_shown
from regrip.real_robot.collecting import Collector
from regrip.real_robot.grades import Choice, CollectConfig
from regrip.sim.tabletop.robot import ARM

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
PRACTICE = {"noise_level": 0.4, "noise_correlation": 0.7, "initial_noise": 0.0}
MAX_S = 3.0  # what these tasks are given in the simulator


def starts(split: str, tasks: list[str], each: int, first: int = 0) -> list[StartState]:
    return [StartState(task, split, first + index, 0) for index in range(each) for task in tasks]  # type: ignore[arg-type]


QUICK = [
    "--reward", "binary", "--test-episodes", "1", "--select-episodes", "1", "--videos", "0",
    "--mpo.first-critic-steps", "2", "--mpo.critic-steps", "2", "--mpo.steps", "1", "--mpo.minibatch", "16",
    "--mpo.critic-minibatch", "16", "--imitation.steps", "2", "--imitation.minibatch", "16",
    "--env.slots", "2", "--env.tasks", "demo/press_yellow",
]  # fmt: skip


def test_the_policy_is_swapped_between_episodes_for_one_that_learnt_from_them(tmp_path: Path) -> None:
    first, published = open_policy("demo", **PRACTICE)
    room = SimulatedRoom(first, tmp_path / "set", ("quick", 0), version=named("demo", published))
    scenes, found = scenes_of(room.robot, starts("train", ["demo/press_yellow"], 5))
    learn = learner(room, tmp_path / "set", tmp_path / "runs", ["learning", *QUICK, "--iterations", "1"])
    config = CollectConfig(show=1, help=1.0, enough=1.0, max_s=MAX_S, learn_every=4)
    collector = Collector(Choice(config, scenes), room.core.names, ARM, room.core.rate_hz, learn)
    played = room.collect(collector, found, 5)
    assert [one.success for one in played].count(None) == 0
    assert played[0].plan.grade == "show"
    assert played[0].success
    assert played[0].driven == played[0].steps
    assert room.policy._policy is not first
    assert (tmp_path / "runs" / "after-00004" / "policy").is_dir()
    with pytest.raises(SplitError):
        room.collect(collector, {"x": StartState("demo/press_yellow", "test", 0)}, 1)
    room.close()
    learnt = str(tmp_path / "runs" / "after-00004")
    with contextlib.closing(Store(tmp_path / "set")) as store:
        said = [store[i].about.get("checkpoint") for i in range(len(store))]
    asked = [one.driven < one.steps for one in played]
    before, after = named("demo", published), named(learnt, find_policy(learnt))
    assert said == [name if own else None for name, own in zip([before] * 4 + [after], asked, strict=True)]
    assert (before in said, after in said) == (True, True)
    shown = load_shown([tmp_path / "set"], first)
    assert shown is not None
    assert len(shown) >= played[0].driven - 2
    # what an expert did, said as the policy's actions: within its limits, and not all the same
    assert (shown.action.numpy() >= first.spec.action_low - 1e-6).all()
    assert shown.action[:, 0, :3].std(0).min() > 1e-3
    rollouts = load_recorded([tmp_path / "set"], first)
    assert len(rollouts) == sum(one.driven < one.steps for one in played)


@pytest.mark.long
def test_what_was_recorded_makes_the_policy_better_on_the_robot(tmp_path: Path) -> None:
    """Four rounds of 200 episodes; the test split through the node, before and after."""
    rounds = runpy.run_path(str(BENCHMARKS / "rounds.py"))
    found = rounds["improve"](tmp_path, rounds=4, episodes=200, iterations=1, seed=0, each=20)
    print(found)
    assert found.interval.low > 0
