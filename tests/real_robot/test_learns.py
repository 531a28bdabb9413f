"""What a node recorded trains again: collect on the simulated arm, `regrip train --data`, drive it again."""

from __future__ import annotations

from pathlib import Path

import pytest

from regrip.datasets.starts import SplitError, StartState
from regrip.datasets.statistics import PairedDifference, paired_difference
from regrip.launch import train
from regrip.launch.collecting import SimulatedRoom, learner, scenes_of
from regrip.launch.policies import open_policy
from regrip.launch.recorded import load_recorded, load_shown
from regrip.real_robot.collecting import Collector
from regrip.real_robot.grades import Choice, CollectConfig, Played
from regrip.sim.tabletop.robot import ARM

TASKS = [f"demo/{what}" for what in (
    "lift_red", "lift_green", "lift_blue", "push_red", "push_green", "push_blue",
    "press_yellow", "press_purple",
)]  # fmt: skip
PRACTICE = {"noise_level": 0.4, "noise_correlation": 0.7, "initial_noise": 0.0}
MAX_S = 3.0  # what these tasks are given in the simulator


def starts(split: str, tasks: list[str], each: int, first: int = 0) -> list[StartState]:
    return [StartState(task, split, first + index, 0) for index in range(each) for task in tasks]  # type: ignore[arg-type]


def collect(path: Path, tasks: list[str], episodes: int, config: CollectConfig) -> list[Played]:
    """The shipped policy explores, and the expert helps; start states of the train split."""
    room = SimulatedRoom(open_policy("demo", **PRACTICE)[0], path, ("collect", config.seed))
    each = -(-episodes // len(tasks))
    scenes, found = scenes_of(room.robot, starts("train", tasks, each, 1000 * (1 + config.seed)))
    collector = Collector(Choice(config, scenes), room.core.names, ARM, room.core.rate_hz)
    played = room.collect(collector, found, episodes)
    assert room.recorder is not None
    assert not room.recorder.problems
    assert room.recorder.episodes == episodes
    room.close()
    return played


def play(policy: str, where: list[StartState]) -> list[bool]:
    room = SimulatedRoom(open_policy(policy)[0], None, None)
    won = room.play(where)
    room.close()
    return won


def improvement(
    folder: Path, episodes: int, each: int, config: CollectConfig, options: list[str]
) -> PairedDifference:
    """Collect, learn, and compare on start states of the test split, through the node both times."""
    played = collect(folder / "set", TASKS, episodes, config)
    grades = {grade: [p.success for p in played if p.plan.grade == grade] for grade in
              ("alone", "show", "replay", "return", "guided")}  # fmt: skip
    print({grade: f"{sum(map(bool, won))}/{len(won)}" for grade, won in grades.items()})
    assert not train.main(["learning", "--data", str(folder / "set"), "--out", str(folder / "run"), *options])
    where = starts("test", TASKS, each)
    before, after = play("demo", where), play(str(folder / "run"), where)
    print(f"before {sum(before)}/{len(before)}, after {sum(after)}/{len(after)}")
    found = paired_difference(before, after)
    print(found)
    return found


QUICK = [
    "--reward", "binary", "--test-episodes", "1", "--select-episodes", "1", "--videos", "0",
    "--mpo.first-critic-steps", "2", "--mpo.critic-steps", "2", "--mpo.steps", "1", "--mpo.minibatch", "16",
    "--mpo.critic-minibatch", "16", "--imitation.steps", "2", "--imitation.minibatch", "16",
    "--env.slots", "2", "--env.tasks", "demo/press_yellow",
]  # fmt: skip


def test_the_policy_is_swapped_between_episodes_for_one_that_learnt_from_them(tmp_path: Path) -> None:
    first = open_policy("demo", **PRACTICE)[0]
    room = SimulatedRoom(first, tmp_path / "set", ("quick", 0))
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
    config = CollectConfig(show=6, help=0.6, max_s=MAX_S)
    options = [
        "--reward", "binary", "--test-episodes", "1", "--select-episodes", "4", "--videos", "0",
        "--iterations", "1", "--mpo.first-critic-steps", "120", "--imitation.steps", "80",
        "--imitation.learning-rate", "1e-3",
    ]  # fmt: skip
    found = improvement(tmp_path, 96, 12, config, options)
    assert found.difference > 0
    assert found.interval.low > 0
