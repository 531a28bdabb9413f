"""A run whose policy is held to its base goes on, bit for bit, from a base that is not in its checkpoints."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from regrip.launch.config import from_dict
from regrip.launch.experiment import TrainConfig
from regrip.launch.run_directory import RunDirectory
from regrip.vla.policy_files import load_policy

from .resuming import SMALL, go_on, moved_from, refuses_another_base, stopped_and_resumed

torch.set_num_threads(1)

ANCHORED: dict[str, Any] = {
    **SMALL,
    "algorithm": "mpo",
    "mpo": {
        "anchor": 0.5, "critic_steps": 4, "first_critic_steps": 4, "critic_minibatch": 16, "steps": 4,
        "minibatch": 16, "learning_rate": 1e-2,
    },
}  # fmt: skip


def test_resumed_the_weights_are_the_same_bits(tiny_policy: Path, tmp_path: Path) -> None:
    config = from_dict(TrainConfig, {**ANCHORED, "policy": str(tiny_policy)})
    resumed = stopped_and_resumed(config, tmp_path)
    assert resumed.learner is not None
    assert resumed.learner.base is not None
    assert moved_from(resumed.learner.base, load_policy(tiny_policy), resumed)

    free = dataclasses.replace(config, mpo=dataclasses.replace(config.mpo, anchor=0.0))
    (tmp_path / "free").mkdir()
    other = go_on(free, RunDirectory(tmp_path / "free"), 2).policy.weights()
    learnt = resumed.policy.weights()
    assert any(not torch.equal(learnt[name], other[name]) for name in learnt)  # the anchor does something


def test_another_base_is_refused(tiny_policy: Path, tmp_path: Path) -> None:
    refuses_another_base(ANCHORED, tiny_policy, tmp_path)


def test_a_vlm_that_learns_on_the_way_has_no_anchor() -> None:
    with pytest.raises(ValueError, match=r"mpo.anchor 0.5 with see_before \[2\]"):
        from_dict(TrainConfig, {**ANCHORED, "see_before": [2]})
