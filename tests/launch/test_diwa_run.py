"""`regrip train --algorithm diwa`: from start to report, and on from where it was, bit for bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from regrip.launch import cli
from regrip.launch.checkpoint import load_latest
from regrip.launch.config import from_dict
from regrip.launch.experiment import TrainConfig
from regrip.launch.metrics import read_metrics
from regrip.launch.run_directory import RunDirectory
from regrip.vla.policy_files import load_policy

from .resuming import SMALL, moved_from, refuses_another_base, stopped_and_resumed

torch.set_num_threads(1)

HELD: dict[str, Any] = {
    **SMALL,
    "algorithm": "diwa",
    "diwa": {"alpha": 0.1, "minibatch": 32, "warmup_iterations": 0, "learning_rate": 1e-3, "gamma": 0.97},
}


def test_resumed_the_weights_are_the_same_bits(tiny_policy: Path, tmp_path: Path) -> None:
    config = from_dict(TrainConfig, {**HELD, "policy": str(tiny_policy)})
    run = stopped_and_resumed(config, tmp_path)
    assert run.reference is not None
    moved = moved_from(run.reference, load_policy(tiny_policy), run)
    assert any(not name.startswith("critic.") for name in moved)

    rows = read_metrics(tmp_path / "resumed")
    assert all(row["ratio_gap"] < 1e-4 for row in rows), "it recomputes the chains that it acted with"
    assert rows[0]["anchor/kl"] < rows[1]["anchor/kl"], "it begins where the base policy is, and leaves it"
    assert rows[0]["anchor/kl"] < 1.0


def test_another_base_is_refused(tiny_policy: Path, tmp_path: Path) -> None:
    refuses_another_base(HELD, tiny_policy, tmp_path)


def test_what_has_no_chain_is_refused_before_the_folder_is_taken(
    tiny_policy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    preset, out = tmp_path / "small.toml", tmp_path / "run"
    preset.write_text("")
    line = ["train", str(preset), "--policy", str(tiny_policy), "--env.image-size", "32", "--out", str(out)]
    line += ["--algorithm", "diwa", "--reward", "binary"]
    assert cli.main([*line, "--diwa.inner-steps", "9"]) == 1
    assert "inner_steps 9: the policy denoises in 2 steps" in capsys.readouterr().err
    assert cli.main([*line, "--noise-level", "0"]) == 1
    assert "noise_level 0.0" in capsys.readouterr().err
    assert not (out / "config.json").exists()
    with pytest.raises(ValueError, match=r"algorithm 'diwa' with see_before \[2\]"):
        from_dict(TrainConfig, {**HELD, "see_before": [2]})


def test_from_start_to_report(tiny_policy: Path, tmp_path: Path) -> None:
    preset, folder = tmp_path / "small.toml", RunDirectory(tmp_path / "run")
    preset.write_text("")
    line = ["train", str(preset), "--policy", str(tiny_policy), "--env.image-size", "32"]
    line += ["--env.tasks", "press_yellow", "--env.workers", "1", "--env.slots", "4", "--algorithm", "diwa"]
    line += ["--diwa.anchor", "forward", "--diwa.inner-steps", "1", "--reward", "binary", "--groups", "4"]
    line += ["--iterations", "1", "--select-episodes", "1", "--test-episodes", "1", "--videos", "0"]
    assert cli.main([*line, "--threads", "1", "--no-train-vlm", "--out", str(folder.path)]) == 0
    assert folder.report.exists()
    saved = load_latest(folder.checkpoints)
    assert saved is not None
    assert saved.step == 1
