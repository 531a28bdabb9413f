"""The training command on the real tabletop with a tiny policy: it runs, refuses, goes on where it was."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from regrip.datasets.spec import SpecMismatchError
from regrip.datasets.starts import SplitError, StartState
from regrip.launch import cli, environments
from regrip.launch.checkpoint import load, load_latest, open_published
from regrip.launch.config import from_dict, load_config, save_config
from regrip.launch.experiment import TrainConfig
from regrip.launch.measurement import load_measurement
from regrip.launch.metrics import read_metrics
from regrip.launch.practice import gather
from regrip.launch.run_directory import RunDirectory
from regrip.launch.train import begin, post_train

torch.set_num_threads(1)

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
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


def test_a_run_that_cannot_begin_leaves_its_folder_free(
    tiny_policy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    preset, out = tmp_path / "small.toml", tmp_path / "run"
    preset.write_text("")
    line = ["train", str(preset), "--policy", str(tiny_policy), "--env.image-size", "32", "--out", str(out)]
    assert cli.main([*line, "--execute", "9"]) == 1
    assert "execute 9: the policy plans 5 actions, so give 1 to 5, or 0" in capsys.readouterr().err
    assert not (out / "config.json").exists()  # so the same line can be given again, put right


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


def test_what_exploded_is_learned_from_and_measured_by_nobody(
    tiny_policy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(environments.FACTORIES, "tabletop", "bursting_env:make")
    folder = RunDirectory(tmp_path / "run")
    config = small(tiny_policy, groups=8, group_size=1, test_episodes=3)
    with folder.claim():
        save_config(folder.config, config)
        assert post_train(config, folder)
    (row,) = read_metrics(folder.path)
    # The counter decides which starts are drawn; some have odd indices, which burst, and some have not.
    odd = sum(start.index % 2 for start in begin(config).sampler.draw(0, 0, 8))
    assert 0 < odd < 8
    assert (row["episodes"], row["episodes/invalid"], row["train/episodes"]) == (8, odd, 8 - odd)
    measured = load_measurement(folder.eval_after)
    assert {start.index for start in measured.headline.starts} == {0, 2}
    assert measured.facts["invalid"] == 2 * len(TASKS)  # index 1 of each task, greedy and sampled

    monkeypatch.setitem(environments.FACTORIES, "tabletop", "bursting_env:always")
    with (
        environments.open_pool(config.env, 5) as pool,
        pytest.raises(RuntimeError, match="all 8 episodes of iteration 0 were invalid"),
    ):
        gather(config, begin(config), pool)


class FromTheWrongSplit:
    """A start sampler with a fault."""

    def draw(self, iteration: int, attempt: int, num_groups: int) -> list[StartState]:
        return [StartState("demo/push_red", "test", index) for index in range(num_groups)]


def test_an_unknown_reward_and_one_without_its_model_are_named() -> None:
    with pytest.raises(ValueError, match=r"'self_referental'.*did you mean 'self_referential'"):
        TrainConfig(reward="self_referental")
    with pytest.raises(ValueError, match="reward 'rewind' needs model: a folder"):
        begin(TrainConfig(reward="rewind"))
    with pytest.raises(ValueError, match="scores answers in text"):
        begin(TrainConfig(reward="vla-r1"))


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


# ---- kills, workers, Ctrl-C --------------------------------------------------------------------------------


def benchmark(name: str, *args: str) -> str:
    """Run a benchmark as its reader would; returns what it printed."""
    done = subprocess.run(
        [sys.executable, str(BENCHMARKS / name), *args], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def assert_same_bits(first: RunDirectory, second: RunDirectory) -> None:
    a, b = load_latest(first.checkpoints), load_latest(second.checkpoints)
    assert a is not None
    assert b is not None
    assert a.step == b.step
    assert a.tensors.keys() == b.tensors.keys()
    assert [name for name in a.tensors if not torch.equal(a.tensors[name], b.tensors[name])] == []
    assert a.meta["sampler"] == b.meta["sampler"]


def assert_it_learnt(run: RunDirectory) -> None:
    """A comparison of two runs that did nothing would prove nothing."""
    base = load_file(str(run.path.parent / "base" / "model.safetensors"))
    saved = load_latest(run.checkpoints)
    assert saved is not None
    moved = sum(not torch.equal(value, saved.tensors[f"policy.{name}"]) for name, value in base.items())
    assert moved > 0.2 * len(base)  # with a frozen VLM the action expert alone
    assert sum(row["train/successes"] for row in read_metrics(run.path)) > 0


@pytest.mark.slow
def test_killed_four_times_and_resumed_the_weights_are_the_same_bits(tmp_path: Path) -> None:
    """Issue 2, section 6.3, with 4 of the 20 kills of ``benchmarks/resume.py``."""
    printed = benchmark("resume.py", "--quick", "--out", str(tmp_path))
    assert "killed 4 times" in printed
    whole, killed = RunDirectory(tmp_path / "whole"), RunDirectory(tmp_path / "killed")
    shots = [line for line in (tmp_path / "killed.log").read_text().splitlines() if "shot" in line]
    assert len(shots) == 4
    assert_same_bits(whole, killed)
    assert_it_learnt(whole)
    assert any("reward.identity" in name for name in load(whole.checkpoints / "step-00000003").tensors)


@pytest.mark.slow
def test_neither_the_number_of_workers_nor_their_loss_changes_a_bit(tmp_path: Path) -> None:
    """Issue 2, section 6.4, with 6 of the 50 incidents of ``benchmarks/workers.py``."""
    benchmark("workers.py", "--quick", "--out", str(tmp_path))
    runs = [RunDirectory(tmp_path / name) for name in ("workers-1", "workers-2", "workers-4", "trouble")]
    for run in runs[1:]:
        assert_same_bits(runs[0], run)
    assert_it_learnt(runs[0])
    incidents = runs[-1].read_incidents()
    assert len(incidents) >= 6
    assert {incident["kind"] for incident in incidents} == {"died", "hung", "memory"}


@pytest.mark.slow
def test_ctrl_c_finishes_the_iteration_and_says_how_to_go_on(tiny_policy: Path, tmp_path: Path) -> None:
    folder = RunDirectory(tmp_path / "run")
    with folder.claim():
        save_config(folder.config, small(tiny_policy, iterations=1000, evaluate_every=1000))
    child = subprocess.Popen(
        [sys.executable, "-m", "regrip.launch.cli", "train", "--resume", str(folder.path)],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        while not read_metrics(folder.path):  # one iteration is done, another under way
            assert child.poll() is None
            time.sleep(0.05)
        child.send_signal(signal.SIGINT)
        printed, _ = child.communicate(timeout=120)
    finally:
        child.kill()
    assert child.returncode == 130
    assert "finishing this iteration, then saving" in printed
    assert f"go on with: regrip train --resume {folder.path}" in printed
    saved, rows = load_latest(folder.checkpoints), read_metrics(folder.path)
    assert saved is not None
    assert saved.step == len(rows) == rows[-1]["iteration"] >= 1
    assert not folder.eval_after.exists()
