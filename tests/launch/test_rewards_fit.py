"""`regrip rewards fit`: from a file of rollouts to a folder that loads."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import reward_toy as toy
import torch

from regrip.datasets.episode import Rollouts
from regrip.datasets.rollout_files import save_rollouts
from regrip.datasets.starts import StartState
from regrip.launch import rewards_fit
from regrip.launch.cli import main
from regrip.rewards.critics.files import load_critic
from regrip.rewards.critics.success import FrameSuccess
from regrip.rewards.presets import Materials, build
from regrip.rewards.scorers import FrameProgress

torch.set_num_threads(1)
TINY = ["--training.steps", "4", "--training.evaluate-every", "2", "--network.channels", "4", "8"]


def played(split: str = "train") -> Rollouts:
    """Eight episodes of two tasks: a picture that grows bright in the first four, and stays dark after."""
    count, length = 8, 5
    success = np.arange(count) < 4
    images = np.zeros((count, length, 8, 8, 3), np.uint8)
    images[success] += (50 * np.arange(length, dtype=np.uint8))[:, None, None, None]
    return Rollouts(
        start=[StartState(f"demo/{'ab'[row % 2]}", split, row) for row in range(count)],  # type: ignore[arg-type]
        group=np.arange(count),
        instruction=[f"make it {('bright', 'light')[row % 2]}" for row in range(count)],
        images={"front": images},
        state=np.zeros((count, length, 2), np.float32),
        privileged=np.zeros((count, length, 2), np.float32),
        action=np.zeros((count, length, 1, 2), np.float32),
        valid=np.ones((count, length, 1), bool),
        reward=np.zeros((count, length, 1), np.float32),
        success=success,
        truncated=~success,
        invalid=np.zeros(count, bool),
        latent={},
        log_prob=np.zeros((count, length, 1), np.float32),
        policy_version=0,
    )


def test_from_a_file_to_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, out = tmp_path / "a.rollouts", tmp_path / "critic"
    save_rollouts(data, played(), "demo")
    line = ["rewards", "fit", "success", "--data", str(data), "--out", str(out), "--seed", "3", *TINY]
    assert main([*line, "--options.labels.last", "2"]) == 0
    said = capsys.readouterr().out
    assert "step 4 of 4: loss" in said
    assert "0 left out, 2 different instructions" in said
    critic = load_critic(out, "success")
    assert critic.config.options.labels.last == 2
    assert critic.config.network.channels == (4, 8)
    about = json.loads((out / "critic.json").read_text())
    assert about["seed"] == 3
    assert about["command"].startswith("regrip rewards fit success --data ")
    assert set(about["held_out"]) >= {"loss"}
    assert FrameProgress(FrameSuccess(critic)).progress(played("test")).valid.all()


def test_several_files_are_one(tmp_path: Path) -> None:
    files = [tmp_path / "a.rollouts", tmp_path / "b.rollouts"]
    save_rollouts(files[0], played(), "demo")
    save_rollouts(files[1], played("select"), "demo")
    out = tmp_path / "critic"
    assert main(["rewards", "fit", "diwa", "--data", *map(str, files), "--out", str(out), *TINY]) == 0
    card = load_critic(out).card
    assert card["episodes"] + card["held_out_episodes"] == 16


def test_what_cannot_be_done_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = tmp_path / "a.rollouts"
    save_rollouts(data, played("test"), "demo")
    assert main(["rewards", "fit", "rewnd", "--data", str(data)]) == 1
    assert "did you mean 'rewind'" in capsys.readouterr().err
    assert main(["rewards", "fit", "success", "huge", "--data", str(data)]) == 1
    assert "no size 'huge', there are small, large" in capsys.readouterr().err
    assert main(["rewards", "fit", "success", "--data", str(tmp_path / "none")]) == 1
    assert "no file" in capsys.readouterr().err
    assert main(["rewards", "fit", "success", "--data", str(data), *TINY]) == 1
    assert "was given the test start" in capsys.readouterr().err
    assert main(["rewards", "fit"]) == 2
    assert "rewind" in capsys.readouterr().err


def test_sizes() -> None:
    _, small = rewards_fit.parse("rewind", "small", ["--data", "a"])
    options, large = rewards_fit.parse("rewind", "large", ["--data", "a", "b", "--network.hidden", "256"])
    assert [str(path) for path in options.data] == ["a", "b"]
    assert small.network.layers == 2
    assert (large.network.layers, large.network.heads, large.network.hidden) == (4, 8, 256)
    assert large.options.frames == 16


def test_an_encoder_is_fitted_and_its_reward_can_be_named(tmp_path: Path) -> None:
    save_rollouts(tmp_path / "toy.rollouts", toy.many(6, 3), "toy")
    out = tmp_path / "clip"
    line = [
        "fit",
        "clip",
        "--data",
        str(tmp_path / "toy.rollouts"),
        "--out",
        str(out),
        "--training.steps",
        "2",
    ]
    assert main(["rewards", *line, "--training.size", "32"]) == 0
    _, reward = build("vlm-rm", Materials(camera="front", model=out))
    assert reward(toy.many(2, 1)).valid.all()
