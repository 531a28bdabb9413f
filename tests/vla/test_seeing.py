"""The seeing stage: the VLM finds things better, the policy acts as before, and it is repeatable."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from regrip.vla.numerics import tiny_policy
from regrip.vla.pi0 import Pi0Policy, Settings
from regrip.vla.policy import DecisionBatch
from regrip.vla.seeing import SeeingConfig, see, with_execute

torch.set_num_threads(1)
FAST = SeeingConfig(steps=60, minibatch=32, learning_rate=2e-3, brightness=0.05)


def pictures(count: int = 256) -> DecisionBatch:
    """A white square on black; where it is is what the simulator knows."""
    draw = np.random.default_rng(0)
    corner = draw.integers(0, 24, (count, 2))
    pixels = np.zeros((count, 2, 32, 32, 3), np.uint8)
    for row, (x, y) in enumerate(corner):
        pixels[row, :, y : y + 8, x : x + 8] = 255
    place = np.concatenate([corner / 100.0, np.zeros((count, 1))], 1)  # metres
    none = torch.zeros(count, 0)
    return DecisionBatch(
        pixels=torch.from_numpy(pixels),
        state=torch.from_numpy(draw.uniform(-1, 1, (count, 4)).astype(np.float32)),
        instruction=["lift the red block"] * count,
        action=none, valid=none, log_prob=none, latent={},
        episode=torch.arange(count), decision=torch.zeros(count, dtype=torch.long),
        privileged=torch.from_numpy(np.concatenate([place, place], 1).astype(np.float32)),
    )  # fmt: skip


def fresh() -> Pi0Policy:
    policy = tiny_policy(settings=Settings(stem="keypoint"))
    policy.pi0.model.vlm.requires_grad_(False)
    return policy


def test_it_sees_better_and_acts_as_before() -> None:
    policy, shown = fresh(), pictures()
    before = {name: tensor.clone() for name, tensor in policy.state_dict().items()}
    found = see(policy, shown, FAST, ("a",))
    assert found["seeing/last_cm"] < 0.7 * found["seeing/first_cm"]
    # Without distillation the flow goes where the auxiliary losses take it.
    free = see(fresh(), shown, dataclasses.replace(FAST, distillation=0.0), ("a",))
    assert found["seeing/flow_moved"] < 0.5 * free["seeing/flow_moved"]
    moved = {name for name, tensor in policy.state_dict().items() if not torch.equal(tensor, before[name])}
    assert any("vlm" in name for name in moved)
    assert not any(parameter.requires_grad for parameter in policy.pi0.model.vlm.parameters())
    assert all(parameter.requires_grad for parameter in policy.critic.parameters())


def test_it_is_repeatable_to_the_bit_and_depends_on_its_key() -> None:
    short = dataclasses.replace(FAST, steps=4)
    weights = []
    for key in ("a", "a", "b"):
        policy = fresh()
        torch.manual_seed(len(weights))  # what the process drew before must not matter
        see(policy, pictures(), short, (key,))
        weights.append(policy.weights())
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert any(not torch.equal(weights[0][name], weights[2][name]) for name in weights[0])


def test_a_token_head_is_refused() -> None:
    with pytest.raises(ValueError, match="head is 'tokens'"):
        see(tiny_policy("tokens"), pictures(8), FAST, ("a",))


def test_looking_again_sooner_shares_the_network() -> None:
    policy = fresh()
    hasty = with_execute(policy, 2)
    assert (hasty.execute, hasty.settings.execute, policy.execute) == (2, 2, policy.chunk_size)
    assert hasty.pi0 is policy.pi0
