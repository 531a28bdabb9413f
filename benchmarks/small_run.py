"""A training run small enough to be repeated many times: what `resume.py` and `workers.py` train.

Two button tasks, four start states, and a policy of random weights whose arm sinks and shakes, so that it
presses a button now and then: there are successes for the reference bank, failures to shape, and dead groups.
"""

from __future__ import annotations

import dataclasses
import math
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from regrip.launch import environments
from regrip.launch.checkpoint import load_latest, publish
from regrip.launch.config import from_dict
from regrip.launch.environments import EnvConfig
from regrip.launch.experiment import TrainConfig
from regrip.launch.measurement import load_measurement
from regrip.launch.metrics import read_metrics
from regrip.launch.run_directory import RunDirectory
from regrip.vla.normalizer import Normalizer
from regrip.vla.pi0 import Pi0Policy, Settings, nano_config
from regrip.vla.policy_files import save_policy
from regrip.vla.text import build_tokenizer

IMAGE_SIZE = 32
TASKS = ("press_purple", "press_yellow")
SEED = 20  # in this family of start states the buttons lie near the arm


def small_policy(folder: Path) -> Path:
    """Write the sinking, shaking policy."""
    config = EnvConfig(image_size=IMAGE_SIZE)
    spec = environments.contract(config)
    tokenizer = build_tokenizer(environments.sentences(config))
    mean = (0.0, 0.0, -0.02, 0.0, 0.0, 0.0, 0.0)
    std = (0.015, 0.015, 0.01, 0.001, 0.001, 0.001, 0.005)
    normal = np.random.default_rng(0).normal(size=(50, spec.state_dim)).astype(np.float32)
    normalizer = Normalizer.fit(normal, np.zeros((50, spec.action_dim), np.float32), spec)
    torch.manual_seed(0)
    policy = Pi0Policy(
        nano_config(image_size=IMAGE_SIZE, vocab_size=tokenizer.get_vocab_size(), width=32, layers=1),
        Settings(stochastic_step="random"),
        spec,
        dataclasses.replace(normalizer, action_mean=mean, action_std=std),
        tokenizer,
    )
    publish(folder, partial(save_policy, policy), {"what": "random weights that sink and shake"})
    return folder


def small_config(policy: Path, **changes: Any) -> TrainConfig:
    """32 episodes an iteration, measured after each; `changes` override, tables of them whole."""
    data = {
        "policy": str(policy),
        "env": environment(),
        "groups": 4,
        "group_size": 8,
        "sampler": {"starts_per_task": 2},
        "evaluate_every": 1,
        "select_episodes": 2,
        "test_episodes": 2,
        "videos": 0,
        "threads": 1,
        "seed": SEED,
        "ppo": {"minibatch": 128},
        "grpo": {"minibatch": 128},
    }
    return from_dict(TrainConfig, {**data, **changes}, "small run")


def environment(**changes: Any) -> dict[str, Any]:
    return {"image_size": IMAGE_SIZE, "tasks": list(TASKS), "workers": 2, "slots": 8, **changes}


def differences(first: RunDirectory, second: RunDirectory) -> list[str]:
    """What two finished runs do not have in common, bit for bit; times are not compared."""
    found = []
    a, b = load_latest(first.checkpoints), load_latest(second.checkpoints)
    if a is None or b is None:
        return ["a run has no checkpoint"]
    found += [f"tensor {name} is only in one" for name in sorted(a.tensors.keys() ^ b.tensors.keys())]
    found += [
        f"tensor {name}"
        for name in sorted(a.tensors.keys() & b.tensors.keys())
        if a.tensors[name].dtype != b.tensors[name].dtype or not torch.equal(a.tensors[name], b.tensors[name])
    ]
    found += [
        f"meta {key}: {a.meta[key]} against {b.meta[key]}"
        for key in a.meta
        if key != "elapsed_s" and a.meta[key] != b.meta[key]
    ]
    if _numbers(first) != _numbers(second):
        found.append("metrics.jsonl")
    for part in ("eval_before", "eval_after"):
        if load_measurement(getattr(first, part)).modes != load_measurement(getattr(second, part)).modes:
            found.append(part)
    weights = [(run.policy / "model.safetensors").read_bytes() for run in (first, second)]
    if weights[0] != weights[1]:
        found.append("policy/model.safetensors")
    return found


def _numbers(run: RunDirectory) -> list[dict[str, float | None]]:
    """The metrics, without times and incidents, comparable although NaN is not equal to itself."""
    return [
        {
            name: None if math.isnan(value) else value
            for name, value in row.items()
            if not name.startswith(("seconds/", "incidents/")) and name != "elapsed_s"
        }
        for row in read_metrics(run.path)
    ]


def summary(run: RunDirectory) -> str:
    """What happened in a run, so that one can see that it was not an empty one."""
    rows = read_metrics(run.path)
    checkpoint = load_latest(run.checkpoints)
    assert checkpoint is not None, "a finished run has a checkpoint"
    won, played = (int(sum(row[f"train/{name}"] for row in rows)) for name in ("successes", "episodes"))
    banked = sum(len(t) for name, t in checkpoint.tensors.items() if name.startswith("reward.identity:"))
    size = sum(value.nbytes for value in checkpoint.tensors.values())
    return (
        f"{len(rows)} iterations, {played} episodes, {won} successes, {banked} of them in the bank; "
        f"{len(checkpoint.tensors)} tensors of {size / 1e6:.1f} MB"
    )
