"""`regrip train --env world:MODEL`: practice in imagination, on a model of real tabletop episodes."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from regrip.launch import cli, environments
from regrip.launch.config import from_dict, load_preset, save_config
from regrip.launch.experiment import Parting, TrainConfig
from regrip.launch.measurement import load_measurement
from regrip.launch.metrics import read_metrics
from regrip.launch.practice import gather
from regrip.launch.report import write_report
from regrip.launch.run_directory import RunDirectory
from regrip.launch.train import begin, post_train, train

from .resuming import go_on, moved_from, stopped_and_resumed

torch.set_num_threads(1)

FEW: dict[str, Any] = {
    "critic_steps": 4, "first_critic_steps": 4, "critic_minibatch": 16, "steps": 4, "minibatch": 16,
    "learning_rate": 1e-3, "anchor": 0.3,
}  # fmt: skip
SMALL: dict[str, Any] = {
    "policy": "demo",
    "algorithm": "mpo",
    "mpo": FEW,
    "reward": "binary",
    "train_vlm": False,
    "groups": 8,
    "iterations": 2,
    "evaluate_every": 1,
    "select_episodes": 1,
    "test_episodes": 1,
    "videos": 0,
    "threads": 1,
}


def small(world: Path, **changes: Any) -> TrainConfig:
    env = {"name": "world", "suite": str(world), "slots": 8, "workers": 1, "world": {"anywhere": True}}
    return from_dict(TrainConfig, {**SMALL, "env": env, **changes})


def test_from_the_command_line_to_the_report(world: Path, tmp_path: Path) -> None:
    folder = RunDirectory(tmp_path / "run")
    line = ["train", "imagine", "--env", f"world:{world}", "--real", "tabletop:demo", "--check-real"]
    line += ["--real-share", "0.25", "--out", str(folder.path), "--iterations", "1", "--groups", "8"]
    line += ["--select-episodes", "1", "--test-episodes", "1", "--videos", "0", "--env.slots", "8"]
    line += ["--mpo.critic-steps", "4", "--mpo.first-critic-steps", "4", "--mpo.steps", "4"]
    assert cli.main([*line, "--env.workers", "1", "--threads", "1"]) == 0
    (row,) = read_metrics(folder.path)
    assert row["episodes"] == 8
    # A quarter of eight in practice, and one of each of two tasks to check it by.
    assert row["real_episodes"] == 2 + 2
    assert row["imagined/episodes"] == row["select/episodes"] == 2
    for file in (folder.eval_before, folder.eval_after):
        measured = load_measurement(file)
        assert measured.environment["name"] == "tabletop", "the result is measured in reality"
        assert len(measured.modes["greedy"].starts) == 2
    page = folder.report.read_text()
    assert "It practised in imagination" in page
    assert "6 episodes were imagined, and beside them 2 really played; 2 more were really played" in page
    assert "Success above is real: it was measured in tabletop:demo." in page
    assert "Imagination and reality" in page
    assert "is imagined, too" not in page


def test_with_real_episodes_among_them_a_run_goes_on_bit_for_bit(world: Path, tmp_path: Path) -> None:
    config = small(world, real="tabletop:demo", check_real=True, real_share=0.25)
    run = stopped_and_resumed(config, tmp_path)
    assert run.real_episodes == 2 * (2 + 2)
    base = begin(config).policy.weights()
    assert any(not torch.equal(value, base[name]) for name, value in run.policy.weights().items())


def test_a_run_ends_when_imagination_and_reality_part(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = small(world, real="tabletop:demo", check_real=True, iterations=3)
    folder, run = RunDirectory(tmp_path / "run"), begin(config)
    folder.path.mkdir()
    save_config(folder.config, config)
    # As if reality had begun a whole success ahead, and never been better since.
    run.parting = Parting(gap=-2.0, real=1.0)
    where = environments.elsewhere(config.env, config.real)
    with (
        environments.open_pool(config.env, run.policy.execute) as pool,
        environments.open_pool(where, run.policy.execute) as real,
    ):
        assert train(config, run, pool, folder, real)
    assert run.parted
    assert run.iteration == 1
    assert "they part, so the run ends here" in capsys.readouterr().out
    assert "They parted, so the run ended there." in write_report(folder).read_text()
    assert go_on(config, folder, 3).iteration == 1, "nor does it go on when it is resumed"


def test_a_page_without_reality_says_that_its_success_is_imagined(world: Path, tmp_path: Path) -> None:
    config = small(world, iterations=1, evaluate_every=100)
    folder = RunDirectory(tmp_path / "run")
    with folder.claim():
        save_config(folder.config, config)
        assert post_train(config, folder)
    page = folder.report.read_text()
    assert "Success on this page is imagined, too" in page
    assert "8 episodes were imagined." in page
    assert "Imagination and reality" not in page


def test_parting_by_hand() -> None:
    held = Parting()
    assert not held.apart(0.8, 0.5, 0.15)
    assert (held.gap, held.real) == (pytest.approx(0.3), 0.5)
    assert not held.apart(0.94, 0.5, 0.15), "0.14 more than at first"
    assert held.apart(0.96, 0.5, 0.15)
    assert not held.apart(1.0, 0.51, 0.15), "reality has risen, if less"


def test_a_policy_that_executes_another_number_of_actions_is_refused(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    line = ["train", "imagine", "--env", f"world:{world}", "--execute", "3", "--out", str(out)]
    assert cli.main(line) == 1
    assert "goes on by 5 actions at a time, and 3 were asked for: set execute to 5" in capsys.readouterr().err
    assert not (out / "config.json").exists()


def test_who_has_no_model_is_told_how_to_get_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = load_preset(TrainConfig, "imagine")
    assert (config.mpo.anchor, config.train_vlm, config.env.world.anywhere) == (0.3, False, True)
    missing = tmp_path / "nothing"
    line = ["train", "imagine", "--env", f"world:{missing}", "--out", str(tmp_path / "run")]
    assert cli.main(line) == 1
    said = capsys.readouterr().err
    assert f"{missing} holds no world model" in said
    assert "`regrip world fit` writes such folders" in said
    assert not (tmp_path / "run" / "config.json").exists()


def test_the_environments_own_reward_is_the_chance_of_success(world: Path) -> None:
    config = small(world, reward="environment")
    free = dataclasses.replace(config.env.world, cut_off=1e9)
    config = dataclasses.replace(config, env=dataclasses.replace(config.env, world=free))
    run = begin(config)
    with environments.open_pool(config.env, run.policy.execute) as pool:
        rollouts, reward, row = gather(config, run, pool)
    total = reward.value.sum((1, 2))
    assert ((total > 0) & (total < 1)).all(), "a probability, of episodes that failed, too"
    assert row["train/episodes"] == 8
    assert "real_episodes" not in row
    assert run.real_episodes == 0
    assert rollouts.privileged.shape[-1] == 2


# ---- preferences -------------------------------------------------------------------------------------------

PREFERRING: dict[str, Any] = {
    "algorithm": "preference",
    "preference": {"learning_rate": 1e-4, "minibatch": 16, "draws": 2, "beta": 50.0},
    "proposals": {"decisions": 16, "count": 3},
    "noise_level": 0.5,
    "evaluate_every": 100,
}


@pytest.mark.parametrize("by", ["goal", "reflector"])
def test_preferences_go_on_bit_for_bit_and_are_learnt(world: Path, tmp_path: Path, by: str) -> None:
    proposals = {**PREFERRING["proposals"], "by": by}
    config = small(world, **{**PREFERRING, "proposals": proposals})
    run = stopped_and_resumed(config, tmp_path)
    rows = read_metrics(tmp_path / "resumed")
    assert all(0 < row["pairs"] <= 16 for row in rows)
    assert rows[0]["loss_first"] == pytest.approx(0.693147, abs=1e-4), "it begins at its reference"
    assert rows[1]["loss_first"] != pytest.approx(0.693147, abs=1e-6), "which does not follow it"
    assert run.reference is not None
    assert moved_from(run.reference, begin(config).policy, run)


def test_preferences_need_a_learned_world(world: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"'preference' with env.name 'tabletop'.*give --env world:MODEL"):
        from_dict(TrainConfig, {"algorithm": "preference"})
    without = tmp_path / "world"
    without.mkdir()
    for file in world.iterdir():
        if file.name != "goals.safetensors" and file.is_file():
            (without / file.name).write_bytes(file.read_bytes())
    with pytest.raises(ValueError, match=r"holds no goals: goals.safetensors is missing.*by the reflector"):
        begin(small(without, **PREFERRING))
