"""The training command on the real tabletop with a tiny policy: it runs, refuses, goes on where it was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from regrip.datasets.spec import SpecMismatchError
from regrip.datasets.starts import SplitError, StartState
from regrip.launch import cli
from regrip.launch.checkpoint import load_latest, open_published
from regrip.launch.config import from_dict, load_config, save_config
from regrip.launch.measurement import load_measurement
from regrip.launch.metrics import read_metrics
from regrip.launch.run_directory import RunDirectory
from regrip.launch.train import TrainConfig, begin, gather, post_train

torch.set_num_threads(1)

TASKS = ("press_yellow", "push_red")
# The self-referential reward of a policy that has never succeeded is 0 for all; a critic learns from it too.
SMALL: dict[str, Any] = {
    "env": {"image_size": 32, "tasks": list(TASKS), "workers": 1, "slots": 8},
    "groups": 4,
    "group_size": 2,
    "iterations": 1,
    "evaluate_every": 1,
    "select_episodes": 1,
    "test_episodes": 1,
    "videos": 0,
    "threads": 1,
}


def small(policy: Path, **changes: Any) -> TrainConfig:
    return from_dict(TrainConfig, {**SMALL, "policy": str(policy), **changes})


def files_of(folder: RunDirectory) -> set[str]:
    return {path.name for path in folder.path.iterdir() if not path.name.startswith(".")}


def test_one_iteration_of_ppo_from_start_to_report(tiny_policy: Path, tmp_path: Path) -> None:
    folder = RunDirectory(tmp_path / "run")
    config = small(tiny_policy, videos=1)
    preset = tmp_path / "small.toml"
    preset.write_text("")  # all defaults; what is given on the command line overrides them
    line = ["--policy", str(tiny_policy), "--out", str(folder.path), "--env.tasks", *TASKS]
    line += ["--env.image-size", "32", "--env.workers", "1", "--env.slots", "8", "--groups", "4"]
    line += ["--group-size", "2", "--iterations", "1", "--evaluate-every", "1", "--select-episodes", "1"]
    line += ["--test-episodes", "1", "--videos", "1", "--threads", "1"]
    assert cli.main(["train", str(preset), *line]) == 0

    assert load_config(TrainConfig, folder.config) == config
    assert files_of(folder) >= {
        "checkpoints", "config.json", "eval_after.json", "eval_before.json", "metrics.jsonl", "policy",
        "report.html", "tensorboard", "videos",
    }  # fmt: skip
    (row,) = read_metrics(folder.path)
    assert (row["iteration"], row["episodes"], row["train/episodes"]) == (1, 8, 8)
    assert row["env_steps"] == 8 * row["train/steps"]
    assert row["select/episodes"] == 2
    assert row["ratio_gap"] < 1e-4
    assert row["elapsed_s"] == pytest.approx(sum(v for k, v in row.items() if k.startswith("seconds/")))
    assert load_measurement(folder.eval_before).split == load_measurement(folder.eval_after).split == "test"
    assert open_published(folder.policy).provenance["iteration"] == 1
    assert len(list((folder.videos / "before").glob("*.mp4"))) == len(TASKS)

    # What it began with and what it saved differ in the critic alone: the first iteration warms it up.
    before = begin(config).policy.weights()
    saved = load_latest(folder.checkpoints)
    assert saved is not None
    moved = {name for name in before if not torch.equal(before[name], saved.tensors[f"policy.{name}"])}
    assert moved
    assert all(name.startswith("critic.") for name in moved)

    assert cli.main(["train", str(preset), *line]) == 1  # a finished run is not written over


def test_a_run_directory_is_never_taken_twice(
    tiny_policy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "small.toml").write_text("")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text("{}")
    assert cli.main(["train", str(tmp_path / "small.toml"), "--out", str(tmp_path / "run")]) == 1
    assert f"go on with it by --resume {tmp_path / 'run'}" in capsys.readouterr().err


def test_grpo_without_anything_to_learn_from_changes_nothing(tiny_policy: Path, tmp_path: Path) -> None:
    """A policy of random weights never succeeds: every group is dead, is replaced, and is dead again."""
    folder = RunDirectory(tmp_path / "run")
    config = small(tiny_policy, algorithm="grpo", reward="binary", resample=1, groups=2)
    with folder.claim():
        save_config(folder.config, config)
        assert post_train(config, folder)
    (row,) = read_metrics(folder.path)
    assert (row["groups/played"], row["groups/all_failed"], row["groups/used"]) == (4, 4, 0)
    assert (row["episodes"], row["train/episodes"], row["episodes/wasted"]) == (8, 8, 8)
    before, saved = begin(config).policy.weights(), load_latest(folder.checkpoints)
    assert saved is not None
    assert all(torch.equal(value, saved.tensors[f"policy.{name}"]) for name, value in before.items())


class FromTheWrongSplit:
    """A start sampler with a fault."""

    def draw(self, iteration: int, attempt: int, num_groups: int) -> list[StartState]:
        return [StartState("demo/push_red", "test", index) for index in range(num_groups)]


def test_test_starts_are_refused_before_anything_is_played(tiny_policy: Path) -> None:
    config = small(tiny_policy)
    run = begin(config)
    run.sampler = FromTheWrongSplit()  # type: ignore[assignment]
    with pytest.raises(SplitError, match=r"regrip train was given the test start .*demo/push_red"):
        gather(config, run, None)  # type: ignore[arg-type] - it must not get as far as the pool


def test_unknown_policy_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "small.toml").write_text('policy = "dem"\n')
    assert cli.main(["train", str(tmp_path / "small.toml"), "--out", str(tmp_path / "run")]) == 1
    assert "no policy 'dem'" in capsys.readouterr().err


def test_checkpoint_of_another_control_mode_is_refused(tiny_policy: Path) -> None:
    config = small(tiny_policy, env={**SMALL["env"], "control_mode": "joint_position"})
    with pytest.raises(SpecMismatchError, match="control_mode: 'joint_position' against 'ee_delta'") as error:
        begin(config)
    assert "environment tabletop/demo" in str(error.value)
    assert str(tiny_policy) in str(error.value)


def test_resuming_what_is_not_there_is_explained(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["train", "--resume", str(tmp_path / "nothing")]) == 1
    assert "nothing/config.json" in capsys.readouterr().err
