"""Runs that are stopped and go on, and how to tell that nothing was lost."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from regrip.launch import environments
from regrip.launch.checkpoint import CheckpointError, load_latest, publish
from regrip.launch.config import from_dict
from regrip.launch.experiment import Run, TrainConfig
from regrip.launch.run_directory import RunDirectory
from regrip.launch.train import AskedToStop, begin, load_replay, train
from regrip.vla.pi0 import Pi0Policy
from regrip.vla.policy_files import load_policy, save_policy

SMALL: dict[str, Any] = {
    "env": {"image_size": 32, "tasks": ["press_yellow"], "workers": 1, "slots": 4},
    "reward": "binary",
    "train_vlm": False,
    "noise_level": 0.5,
    "final_noise_level": 0.3,
    "groups": 4,
    "iterations": 2,
    "evaluate_every": 100,
    "select_episodes": 1,
    "test_episodes": 1,
    "videos": 0,
    "threads": 1,
}
"""A run of two iterations on a tiny policy."""


def go_on(config: TrainConfig, folder: RunDirectory, until: int) -> Run:
    """As `post_train` does between its evaluations; stopped after iteration `until` by a hand on the loop."""
    run = begin(config)
    checkpoint = load_latest(folder.checkpoints)
    if checkpoint is not None:
        run.load(checkpoint.tensors, checkpoint.meta)
        load_replay(config, run, folder)
    # The noise level falls over all iterations, so the run is stopped rather than configured to be shorter.
    with (
        environments.open_pool(config.env, run.policy.execute) as pool,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setattr(AskedToStop, "__bool__", lambda self: run.iteration >= until)
        where = environments.elsewhere(config.env, config.real) if config.real else None
        if where is None:
            train(config, run, pool, folder)
        else:
            with environments.open_pool(where, run.policy.execute) as real:
                train(config, run, pool, folder, real)
    return run


def same_bits(first: Run, second: Run) -> None:
    """Whatever a checkpoint would hold is equal, but for the time it took."""
    assert {**first.meta(), "elapsed_s": 0} == {**second.meta(), "elapsed_s": 0}
    mine, theirs = first.tensors(), second.tensors()
    assert mine.keys() == theirs.keys()
    pairs = {name: (torch.as_tensor(mine[name]), torch.as_tensor(theirs[name])) for name in mine}
    assert [name for name, pair in pairs.items() if not torch.equal(*pair)] == []


def stopped_and_resumed(config: TrainConfig, folder: Path) -> Run:
    """Two iterations in one go, and one after the other: the same bits.

    Returns:
        The run that was stopped and went on; its directory is ``resumed`` in `folder`.
    """
    straight, resumed = (RunDirectory(folder / name) for name in ("straight", "resumed"))
    for one in (straight, resumed):
        one.path.mkdir()
    first = go_on(config, straight, 2)
    go_on(config, resumed, 1)
    second = go_on(config, resumed, 2)
    assert second.iteration == 2
    same_bits(first, second)
    return second


def moved_from(base: Pi0Policy, began: Pi0Policy, run: Run) -> set[str]:
    """Names of the weights that a run learnt; `base`, which it is held to, is still what it began with."""
    kept, learnt, before = base.weights(), run.policy.weights(), began.weights()
    assert [name for name, value in before.items() if not torch.equal(value, kept[name])] == []
    return {name for name, value in before.items() if not torch.equal(value, learnt[name])}


def refuses_another_base(settings: dict[str, Any], tiny_policy: Path, folder: Path) -> None:
    """A run with these settings does not go on once the policy that it began with has changed."""
    path, policy = folder / "base", load_policy(tiny_policy)
    publish(path, partial(save_policy, policy), {})
    config = from_dict(TrainConfig, {**settings, "policy": str(path)})
    run = begin(config)
    tensors, meta = {name: torch.as_tensor(value) for name, value in run.tensors().items()}, run.meta()
    begin(config).load(tensors, meta)
    with torch.no_grad():
        policy.pi0.action_out_proj.bias.add_(0.1)
    publish(path, partial(save_policy, policy), {})
    with pytest.raises(CheckpointError, match=f"anchored to a base policy with digest {run.base}.*put back"):
        begin(config).load(tensors, meta)
