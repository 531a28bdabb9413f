"""Runs that are stopped and go on, and how to tell that nothing was lost."""

from __future__ import annotations

import pytest
import torch

from regrip.launch import environments
from regrip.launch.checkpoint import load_latest
from regrip.launch.experiment import Run, TrainConfig
from regrip.launch.run_directory import RunDirectory
from regrip.launch.train import AskedToStop, begin, load_replay, train


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
    """Whatever a checkpoint would hold is equal."""
    assert first.iteration == second.iteration
    mine, theirs = first.tensors(), second.tensors()
    assert mine.keys() == theirs.keys()
    pairs = {name: (torch.as_tensor(mine[name]), torch.as_tensor(theirs[name])) for name in mine}
    assert [name for name, pair in pairs.items() if not torch.equal(*pair)] == []
