"""World-Env's exploration density."""

from __future__ import annotations

import math

import torch
from torch.distributions import Laplace

from regrip.vla.laplace import laplace_log_prob


def test_at_the_mean_it_is_minus_log_two_b() -> None:
    mean, scale = torch.tensor([0.3, -1.0]), torch.tensor([0.05, 2.0])
    expected = torch.tensor([-math.log(0.1), -math.log(4.0)])
    torch.testing.assert_close(laplace_log_prob(mean, mean, scale), expected)
    # One scale away from the mean it has fallen by one nat, on either side.
    torch.testing.assert_close(laplace_log_prob(mean + scale, mean, scale), expected - 1.0)
    torch.testing.assert_close(laplace_log_prob(mean - scale, mean, scale), expected - 1.0)


def test_it_is_that_of_torch_and_learns_mean_and_scale() -> None:
    generator = torch.Generator().manual_seed(0)
    x, mean = torch.randn(2, 4, 5, 3, generator=generator)
    scale = torch.rand(4, 1, 3, generator=generator) + 0.1
    mean.requires_grad_(True)
    scale.requires_grad_(True)
    found = laplace_log_prob(x, mean, scale)
    torch.testing.assert_close(found, Laplace(mean, scale).log_prob(x))
    found.sum().backward()
    assert mean.grad is not None
    assert scale.grad is not None
    torch.testing.assert_close(mean.grad, (torch.sign(x - mean) / scale).detach())
