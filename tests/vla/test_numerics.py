"""The checks of `regrip doctor` pass on sound policies and fail on each fault they are there for."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from regrip.vla import numerics
from regrip.vla.pi0 import Settings

torch.set_num_threads(1)


@pytest.mark.parametrize(
    "settings",
    [
        Settings(stochastic_step="random"),
        Settings(head="tokens", bins=16),
        Settings(precision="bfloat16"),
    ],
    ids=["flow", "tokens", "bfloat16"],
)
def test_a_sound_policy_passes_and_is_left_as_it_was(settings: Settings) -> None:
    policy = numerics.tiny_policy(settings=settings)
    before = {name: value.clone() for name, value in policy.state_dict().items()}
    checks = list(numerics.self_check(policy, samples=96))
    assert [check.name for check in checks if not check.passed] == []
    assert len(checks) == 6
    assert all(torch.equal(value, before[name]) for name, value in policy.state_dict().items())
    assert all(parameter.grad is None for parameter in policy.parameters())


def test_weights_of_another_iteration_are_noticed() -> None:
    policy = numerics.tiny_policy()
    batch = numerics.play(policy, 8)
    with torch.no_grad():
        policy.pi0.action_out_proj.weight.mul_(1.5)
    assert not numerics.ratio_at_init(policy, batch).passed
    assert not numerics.log_prob_gap(policy, batch).passed


def test_a_number_that_is_none_is_noticed() -> None:
    policy = numerics.tiny_policy()
    batch = numerics.play(policy, 8)
    batch.log_prob[0, 0] = torch.nan
    assert not numerics.ratio_at_init(policy, batch).passed


def test_half_precision_log_probabilities_are_noticed() -> None:
    policy = numerics.tiny_policy()
    batch = numerics.play(policy, 8)
    check = numerics.log_prob_dtype(
        policy, dataclasses.replace(batch, log_prob=batch.log_prob.to(torch.bfloat16))
    )
    assert not check.passed
    assert check.detail == "acting bfloat16 (network: float32)"


def test_training_mode_is_noticed() -> None:
    policy = numerics.tiny_policy()
    batch = numerics.play(policy, 8)
    policy.pi0.train()
    check = numerics.dropout_off(policy, batch)
    assert not check.passed
    assert "call policy.eval()" in check.detail


@pytest.mark.parametrize("head", ["flow", "tokens"])
def test_samples_of_another_density_are_noticed(head: str) -> None:
    policy = numerics.tiny_policy(settings=Settings(head=head, bins=16))  # type: ignore[arg-type]
    batch = numerics.play(policy, 96, alike=True)
    assert numerics.zero_mean_score(policy, batch).passed
    latent = dict(batch.latent)
    if head == "flow":
        latent["after"] = latent["after"] + 0.3  # about one standard deviation of the stochastic step
    else:
        latent["token"] = (latent["token"] // 2) + 8  # only the upper half of the bins
    assert not numerics.zero_mean_score(policy, dataclasses.replace(batch, latent=latent)).passed
