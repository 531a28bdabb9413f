"""A run whose policy is held to its base goes on, bit for bit, from a base that is not in its checkpoints."""

from __future__ import annotations

import dataclasses
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from regrip.launch.checkpoint import CheckpointError, publish
from regrip.launch.config import from_dict
from regrip.launch.experiment import TrainConfig
from regrip.launch.run_directory import RunDirectory
from regrip.launch.train import begin
from regrip.vla.policy_files import load_policy, save_policy

from .resuming import go_on, same_bits

torch.set_num_threads(1)

ANCHORED: dict[str, Any] = {
    "env": {"image_size": 32, "tasks": ["press_yellow"], "workers": 1, "slots": 4},
    "algorithm": "mpo",
    "reward": "binary",
    "train_vlm": False,
    "mpo": {
        "anchor": 0.5, "critic_steps": 4, "first_critic_steps": 4, "critic_minibatch": 16, "steps": 4,
        "minibatch": 16, "learning_rate": 1e-2,
    },
    "noise_level": 0.5,
    "final_noise_level": 0.3,
    "groups": 4,
    "iterations": 2,
    "evaluate_every": 100,
    "select_episodes": 1,
    "test_episodes": 1,
    "videos": 0,
    "threads": 1,
}  # fmt: skip


def test_resumed_the_weights_are_the_same_bits(tiny_policy: Path, tmp_path: Path) -> None:
    config = from_dict(TrainConfig, {**ANCHORED, "policy": str(tiny_policy)})
    whole, parted = RunDirectory(tmp_path / "whole"), RunDirectory(tmp_path / "parted")
    for folder in (whole, parted):
        folder.path.mkdir()
    straight = go_on(config, whole, 2)
    go_on(config, parted, 1)
    resumed = go_on(config, parted, 2)
    assert straight.iteration == 2
    same_bits(straight, resumed)

    base = load_policy(tiny_policy).weights()
    assert resumed.learner is not None
    assert resumed.learner.base is not None
    kept, learnt = resumed.learner.base.weights(), resumed.policy.weights()
    assert all(torch.equal(value, kept[name]) for name, value in base.items())
    assert any(not torch.equal(value, learnt[name]) for name, value in base.items())

    free = dataclasses.replace(config, mpo=dataclasses.replace(config.mpo, anchor=0.0))
    (tmp_path / "free").mkdir()
    other = go_on(free, RunDirectory(tmp_path / "free"), 2).policy.weights()
    assert any(not torch.equal(learnt[name], other[name]) for name in learnt)  # the anchor does something


def test_another_base_is_refused(tiny_policy: Path, tmp_path: Path) -> None:
    folder, policy = tmp_path / "base", load_policy(tiny_policy)
    publish(folder, partial(save_policy, policy), {})
    config = from_dict(TrainConfig, {**ANCHORED, "policy": str(folder)})
    run = begin(config)
    tensors, meta = {name: torch.as_tensor(value) for name, value in run.tensors().items()}, run.meta()
    begin(config).load(tensors, meta)
    with torch.no_grad():
        policy.pi0.action_out_proj.bias.add_(0.1)
    publish(folder, partial(save_policy, policy), {})
    with pytest.raises(CheckpointError, match=f"anchored to a base policy with digest {run.base}.*put back"):
        begin(config).load(tensors, meta)


def test_a_vlm_that_learns_on_the_way_has_no_anchor() -> None:
    with pytest.raises(ValueError, match=r"mpo.anchor 0.5 with see_before \[2\]"):
        from_dict(TrainConfig, {**ANCHORED, "see_before": [2]})
