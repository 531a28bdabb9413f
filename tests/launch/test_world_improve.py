"""`regrip world improve`: inverse-dynamics reward for a world model, and the guard against still videos."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from regrip.launch import cli
from regrip.launch.world_data import Bars, read
from regrip.launch.world_improve import agreement_of, decisions_of
from regrip.sim.world.files import load_world
from regrip.sim.world.fit import encode, split
from regrip.sim.world.goals import Goals
from regrip.sim.world.referees import load_referees
from regrip.sim.world.rlir import judge

torch.set_num_threads(1)


def test_a_model_is_post_trained_and_can_be_checked_and_chosen_in(
    world: Path, recorded: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "better"
    line = ["world", "improve", str(world), str(recorded), "--out", str(out), "--inverse-steps", "40"]
    line += ["--steps", "4", "--batch", "4", "--group", "4", "--learning-rate", "1e-3"]
    assert cli.main(line) == 0
    printed = capsys.readouterr().out
    assert "by the inverse model that rewards: 0." in printed
    assert "by the one of `regrip world check`: 0." in printed
    old, starts, card = load_world(world)
    new, same, said = load_world(out)
    assert np.array_equal(starts.pictures, same.pictures)
    assert said["trained_on"] == card["trained_on"], "it has seen no other episodes"
    assert [one["model"] for one in said["improved"]] == [str(world)]
    moved = {name for name, held in old.state_dict().items() if not torch.equal(held, new.state_dict()[name])}
    assert moved
    assert all(name.startswith("dynamics.") for name in moved), "it sees with the same eyes"
    assert load_referees(out, new) is not None
    mine, theirs = (Goals.load(folder / "goals.safetensors") for folder in (out, world))
    assert mine.task == theirs.task
    assert torch.equal(mine.last, theirs.last)
    assert cli.main(line) == 1
    assert f"{out} holds a world model already" in capsys.readouterr().err


def test_a_still_video_earns_less_than_the_real_one(world: Path, recorded: Path) -> None:
    model, _, _ = load_world(world)
    referees = load_referees(world, model)
    assert referees is not None
    with Bars() as bars:
        clips = read([recorded], model.config.chunk, bars, model.spec)
    train, _ = split(clips, model.config)
    batch = decisions_of(model, clips, encode(model, clips), train)
    rows = batch.follows
    agreement = agreement_of(referees.inverse)
    still = judge(batch, batch.tokens[:, :-1], agreement)[rows]
    real = judge(batch, batch.tokens[:, 1:], agreement)[rows]
    asked = referees.inverse.expected(batch.state[:, 0], batch.action[:, 0])[rows[:, 0]] > 0.1
    assert asked.any()
    assert not still[asked].any(), "nothing moved where something should have"
    assert (real[asked] > 0).all()


def test_other_episodes_than_it_was_fitted_on_are_refused(
    world: Path, recorded: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other"
    line = ["data", "record", "demo", "--out", str(other), "--policy", "demo", "--mode", "sampled"]
    line += ["--every-frame", "-n", "4", "--tasks", "press_yellow", "--workers", "1", "--slots", "4"]
    assert cli.main([*line, "--first", "50"]) == 0
    capsys.readouterr()
    assert cli.main(["world", "improve", str(world), str(other), "--out", str(tmp_path / "new")]) == 1
    said = capsys.readouterr().err
    assert "not the episodes that" in said
    assert "4 of 4 are new, 8 of 8 are missing" in said
    assert f"give {recorded}" in said
    assert not (tmp_path / "new" / "world.json").exists()
    shutil.rmtree(other)
