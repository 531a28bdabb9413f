"""Noise that is correlated over the steps of a chunk: its density, whole and cut short, and its moments."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from regrip.vla.flow import chunk_factor, gaussian_log_prob


@pytest.mark.parametrize("executed", [1, 2, 5])
def test_the_first_steps_sum_to_their_joint_density(executed: int) -> None:
    # scipy's multivariate normal of the first k steps alone is the referee: a chunk that was cut short must
    # have the log-probability of what was executed.
    correlation, std = 0.7, 0.3
    generator = torch.Generator().manual_seed(0)
    x, mean = (torch.randn(1, 5, 1, generator=generator) for _ in range(2))
    each = gaussian_log_prob(x, mean, torch.full((1, 1, 1), std), chunk_factor(5, correlation))
    covariance = np.full((executed, executed), correlation * std**2)
    np.fill_diagonal(covariance, std**2)
    wanted = stats.multivariate_normal(mean[0, :executed, 0].numpy(), covariance).logpdf(
        x[0, :executed, 0].numpy()
    )
    assert float(each[0, :executed, 0].sum()) == pytest.approx(float(wanted), abs=1e-4)


def test_no_correlation_is_independent_noise() -> None:
    generator = torch.Generator().manual_seed(1)
    x, mean = (torch.randn(3, 5, 2, generator=generator) for _ in range(2))
    std = torch.full((3, 1, 1), 0.4)
    plain = gaussian_log_prob(x, mean, std)
    assert torch.allclose(gaussian_log_prob(x, mean, std, chunk_factor(5, 0.0)), plain, atol=1e-6)


def test_steps_keep_their_variance_and_correlate_as_asked() -> None:
    noise = chunk_factor(4, 0.6) @ torch.randn(200_000, 4, 1, generator=torch.Generator().manual_seed(2))
    found = np.cov(noise[..., 0].numpy().T)
    wanted = np.full((4, 4), 0.6)
    np.fill_diagonal(wanted, 1.0)
    assert found == pytest.approx(wanted, abs=0.02)


@pytest.mark.parametrize("correlation", [-0.1, 1.0, 2.0])
def test_an_impossible_correlation_is_refused(correlation: float) -> None:
    with pytest.raises(ValueError, match="must be in"):
        chunk_factor(5, correlation)
