"""A real policy, small and untrained, in a folder as `regrip base` writes it."""

import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from regrip.launch import cli, environments
from regrip.launch.checkpoint import publish
from regrip.launch.environments import EnvConfig
from regrip.sim.worker import resolve
from regrip.vla.normalizer import Normalizer
from regrip.vla.pi0 import Pi0Policy, Settings, nano_config
from regrip.vla.policy_files import save_policy
from regrip.vla.text import build_tokenizer

sys.path.append(str(Path(__file__).parent.parent / "sim"))  # environments made for tests


@pytest.fixture(scope="session")
def tiny_policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = EnvConfig(image_size=32)
    target, kwargs = environments.factory(config)
    env = resolve(target)(**kwargs)
    spec = env.spec
    env.close()
    tokenizer = build_tokenizer(environments.sentences(config))
    rng = np.random.default_rng(0)
    torch.manual_seed(0)
    policy = Pi0Policy(
        nano_config(image_size=32, vocab_size=tokenizer.get_vocab_size(), chunk_size=5, width=32, layers=1),
        Settings(),
        spec,
        Normalizer.fit(
            rng.normal(size=(50, spec.state_dim)).astype(np.float32),
            rng.uniform(spec.action_low, spec.action_high, (50, spec.action_dim)).astype(np.float32),
            spec,
        ),
        tokenizer,
    )
    folder = tmp_path_factory.mktemp("policies") / "tiny"
    publish(folder, partial(save_policy, policy), {"seed": 0})
    return folder


@pytest.fixture(scope="session")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight episodes of the policy that ships, on the real tabletop, with every frame."""
    out = tmp_path_factory.mktemp("recorded") / "play"
    line = ["data", "record", "demo", "--out", str(out), "--policy", "demo", "--mode", "sampled"]
    line += ["--every-frame", "-n", "4", "--tasks", "press_yellow", "push_red", "--noise-level", "0.4"]
    assert cli.main([*line, "--workers", "1", "--slots", "8"]) == 0
    return out


@pytest.fixture(scope="session")
def world(recorded: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model of that world, which has learnt next to nothing: one episode of a task in each split."""
    out = tmp_path_factory.mktemp("worlds") / "tabletop"
    line = ["world", "fit", str(recorded), "--out", str(out), "--held-out", "0.5", "--ensemble", "2"]
    line += ["--width", "32", "--layers", "1", "--heads", "2", "--latent", "4", "--tokenizer-width", "8"]
    for steps in ("tokenizer-steps", "body-steps", "steps", "referee-steps"):
        line += [f"--{steps}", "60"]
    assert cli.main([*line, "--batch", "8"]) == 0
    return out
