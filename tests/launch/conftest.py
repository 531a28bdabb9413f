"""A real policy, small and untrained, in a folder as `regrip base` writes it."""

import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from regrip.launch import environments
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
