"""The flow head's arithmetic: by hand, in float64, and by numerical integration in one dimension."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from regrip.vla import flow

torch.set_num_threads(1)

Array = NDArray[np.float64]


def scalar(value: float, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.full((1, 1, 1), value, dtype=dtype)


def moments(x: float, v: float, t: float, delta: float, level: float) -> tuple[float, float]:
    mean, std = flow.sde_moments(scalar(x), scalar(v), torch.tensor([t]), delta, level)
    assert std.shape == (1, 1, 1)
    return float(mean), float(std)


def reference_moments(x: Array, v: Array, t: float, delta: float, level: float) -> tuple[Array, float]:
    """Equations of pi-RL in float64; at t = 1 the 1 - t of sigma is that of the next grid point."""
    s, action, noise = t - delta, x - v * t, x + v * (1 - t)
    sigma = level * math.sqrt(t / (1 - (s if t == 1 else t)))
    return action * (1 - s) + noise * (s - sigma**2 * delta / (2 * t)), sigma * math.sqrt(delta)


# ---- by hand -----------------------------------------------------------------------------------------------


def test_first_step_of_two_by_hand() -> None:
    # x 1, v 0.4, t 1, delta 1/2, a 0.5:  action 1 - 0.4 = 0.6,  noise 1 + 0 = 1
    # sigma^2 = 0.25 * 1 / (1 - 0.5) = 0.5;  mean = 0.6 * 0.5 + 1 * (0.5 - 0.5 * 0.5 / 2) = 0.3 + 0.375
    mean, std = moments(1.0, 0.4, 1.0, 0.5, 0.5)
    assert mean == pytest.approx(0.675, abs=1e-7)
    assert std == pytest.approx(math.sqrt(0.5 * 0.5), abs=1e-7)


def test_last_step_of_two_by_hand() -> None:
    # x 1, v 0.4, t 0.5, delta 1/2:  action 0.8,  noise 1.2;  sigma^2 = 0.25 * 0.5 / 0.5 = 0.25, s = 0
    # mean = 0.8 * 1 + 1.2 * (0 - 0.25 * 0.5 / (2 * 0.5)) = 0.8 - 1.2 * 0.125 = 0.65
    mean, std = moments(1.0, 0.4, 0.5, 0.5, 0.5)
    assert mean == pytest.approx(0.65, abs=1e-7)
    assert std == pytest.approx(math.sqrt(0.25 * 0.5), abs=1e-7)


def test_log_density_by_hand() -> None:
    # ln N(1; 0.65, 0.5^2) = -(0.35 / 0.5)^2 / 2 - ln 0.5 - ln(2 pi) / 2 = -0.245 + 0.693147 - 0.918939
    found = flow.gaussian_log_prob(scalar(1.0), scalar(0.65), scalar(0.5))
    assert float(found) == pytest.approx(-0.470791, abs=1e-6)


@pytest.mark.parametrize("num_steps", [1, 2, 5])
def test_without_noise_the_step_is_eulers(num_steps: int) -> None:
    generator = torch.Generator().manual_seed(0)
    x, v = (torch.randn(4, 3, 2, generator=generator) for _ in range(2))
    for step in range(num_steps):
        t = 1 - step / num_steps
        mean, std = flow.sde_moments(x, v, torch.full((4,), t), 1 / num_steps, 0.0)
        torch.testing.assert_close(mean, x - v / num_steps, atol=1e-6, rtol=1e-5)
        assert not std.any()


def test_time_may_differ_from_row_to_row() -> None:
    generator = torch.Generator().manual_seed(1)
    x, v = (torch.randn(3, 2, 2, generator=generator) for _ in range(2))
    times = [1.0, 0.75, 0.25]
    mean, std = flow.sde_moments(x, v, torch.tensor(times), 0.25, 0.7)
    for row, t in enumerate(times):
        wanted, deviation = reference_moments(x[row].double().numpy(), v[row].double().numpy(), t, 0.25, 0.7)
        np.testing.assert_allclose(mean[row].numpy(), wanted, atol=1e-6)
        assert float(std[row]) == pytest.approx(deviation, rel=1e-6)


# ---- sampling and recomputing ------------------------------------------------------------------------------


def field(weights: Tensor) -> flow.Velocity:
    """A velocity that mixes steps and dimensions, as a network does."""

    def velocity(x: Tensor, time: Tensor) -> Tensor:
        return torch.tanh(x.flatten(1) @ weights).view_as(x) * (1 + time)[:, None, None]

    return velocity


def test_sampling_against_a_float64_reference() -> None:
    generator = torch.Generator().manual_seed(2)
    shape, num_steps, level = (6, 3, 2), 4, 0.5
    start, noise = (torch.randn(shape, generator=generator) for _ in range(2))
    weights = torch.randn(6, 6, generator=generator) * 0.5
    chosen = torch.tensor([0, 1, 2, 3, 0, 3])
    x, before, after, log_prob = flow.sample(field(weights), start, num_steps, level, chosen, noise)
    double = field(weights.double())
    for row in range(len(start)):
        now = start[row : row + 1].double()
        for step in range(num_steps):
            t = 1 - step / num_steps
            v = double(now, torch.tensor([t], dtype=torch.float64))
            following = now - v / num_steps
            if step == chosen[row]:
                mean, std = reference_moments(now.numpy(), v.numpy(), t, 1 / num_steps, level)
                following = torch.from_numpy(mean) + std * noise[row].double()
                density = -0.5 * noise[row].double() ** 2 - math.log(std) - 0.5 * math.log(2 * math.pi)
                torch.testing.assert_close(before[row].double(), now[0], atol=1e-5, rtol=0)
                torch.testing.assert_close(after[row].double(), following[0], atol=1e-5, rtol=0)
                torch.testing.assert_close(log_prob[row].double(), density, atol=1e-5, rtol=0)
            now = following
        torch.testing.assert_close(x[row].double(), now[0], atol=1e-5, rtol=0)
    again = flow.step_log_prob(field(weights), before, after, chosen, num_steps, level)
    torch.testing.assert_close(again, log_prob, atol=1e-5, rtol=0)


def test_plain_ode_has_no_randomness() -> None:
    start = torch.randn(2, 3, 2, generator=torch.Generator().manual_seed(3))
    weights = torch.eye(6)
    x, before, after, log_prob = flow.sample(field(weights), start, 2, 0.5, None, None)
    half = start - 0.5 * field(weights)(start, torch.ones(2))
    torch.testing.assert_close(x, half - 0.5 * field(weights)(half, torch.full((2,), 0.5)))
    assert not before.any()
    assert not after.any()
    assert not log_prob.any()


def test_gradient_of_the_log_density_against_finite_differences() -> None:
    generator = torch.Generator().manual_seed(4)
    before, after = (torch.randn(3, 2, 2, generator=generator, dtype=torch.float64) for _ in range(2))
    weights = torch.randn(4, 4, generator=generator, dtype=torch.float64)
    step = torch.tensor([0, 1, 2])

    def total(w: Tensor) -> Tensor:
        # float64 throughout: `gaussian_log_prob` answers in float32, so the density is written out here
        time = 1.0 - step.double() / 3
        mean, std = flow.sde_moments(before, field(w)(before, time), time, 1 / 3, 0.5)
        return (-0.5 * ((after - mean) / std) ** 2 - std.log()).sum()

    leaf = weights.clone().requires_grad_()
    flow.step_log_prob(field(leaf), before, after, step, 3, 0.5).sum().backward()
    assert leaf.grad is not None
    difference = torch.zeros_like(weights)
    for index in np.ndindex(4, 4):
        nudge = torch.zeros_like(weights)
        nudge[index] = 1e-5
        difference[index] = (total(weights + nudge) - total(weights - nudge)) / 2e-5
    torch.testing.assert_close(leaf.grad, difference, atol=1e-5, rtol=1e-5)


# ---- by numerical integration, in one dimension ------------------------------------------------------------

DATA_MEAN, DATA_STD = 0.7, 0.3


def gaussian_velocity(x: Tensor, time: Tensor) -> Tensor:
    """E[noise - action | x_t = x] for actions N(0.7, 0.3^2): exact, as x_t = t noise + (1 - t) action."""
    t = time[:, None, None]
    variance = (1 - t) ** 2 * DATA_STD**2 + t**2
    return -DATA_MEAN + (t - (1 - t) * DATA_STD**2) / variance * (x - (1 - t) * DATA_MEAN)


def marginal(t: float) -> tuple[float, float]:
    """Mean and variance of x_t."""
    return (1 - t) * DATA_MEAN, (1 - t) ** 2 * DATA_STD**2 + t**2


def integrate(values: Array, grid: Array) -> float:
    return float(np.trapezoid(values, grid))


def on_grid(before: float, grid: Array, step: int, num_steps: int, level: float) -> Array:
    """Log-density that the code gives to going from `before` to each point of the grid."""
    rows = torch.from_numpy(grid)[:, None, None]
    start = torch.full_like(rows, before)
    chosen = torch.full((len(grid),), step)
    found = flow.step_log_prob(gaussian_velocity, start, rows, chosen, num_steps, level)
    return found.double().flatten().numpy()


@pytest.mark.parametrize(("step", "num_steps"), [(0, 2), (1, 2), (0, 4), (2, 4), (3, 4)])
def test_density_integrates_to_one_and_has_the_moments_it_is_sampled_with(step: int, num_steps: int) -> None:
    before, level = -0.4, 0.5
    grid = np.linspace(-8.0, 8.0, 20001)
    density = np.exp(on_grid(before, grid, step, num_steps, level))
    assert integrate(density, grid) == pytest.approx(1.0, abs=1e-5)

    # What the sampler really draws from there, in the same one dimension.
    count = 40_000
    noise = torch.randn(count, 1, 1, generator=torch.Generator().manual_seed(step), dtype=torch.float64)
    time = torch.full((count,), 1 - step / num_steps, dtype=torch.float64)
    start = torch.full_like(noise, before)
    mean, std = flow.sde_moments(start, gaussian_velocity(start, time), time, 1 / num_steps, level)
    drawn = (mean + std * noise).flatten().numpy()
    wanted_mean = integrate(grid * density, grid)
    wanted_variance = integrate((grid - wanted_mean) ** 2 * density, grid)
    assert drawn.mean() == pytest.approx(wanted_mean, abs=5 * math.sqrt(wanted_variance / count))
    assert drawn.var() == pytest.approx(wanted_variance, rel=5 * math.sqrt(2 / count))
    histogram, edges = np.histogram(drawn, bins=20, density=True)
    middle = (edges[:-1] + edges[1:]) / 2
    expected = np.exp(on_grid(before, middle, step, num_steps, level))
    assert np.abs(histogram - expected).max() < 0.05 * expected.max()


def test_score_has_zero_mean_by_quadrature() -> None:
    """Over what the step draws, d log p / d parameter averages zero; its square the Fisher information."""
    scale = torch.tensor(1.3, dtype=torch.float64, requires_grad=True)
    grid = np.linspace(-6.0, 6.0, 4001)
    rows = torch.from_numpy(grid)[:, None, None]
    start = torch.full_like(rows, 0.9)
    for step in range(3):
        chosen = torch.full((len(grid),), step)

        def velocity(x: Tensor, time: Tensor) -> Tensor:
            return scale * gaussian_velocity(x, time)

        log_prob = flow.step_log_prob(velocity, start, rows, chosen, 3, 0.5).double().flatten()
        density = log_prob.detach().exp().numpy()
        # d log p / d scale = (x - mean) / std^2 * d mean / d scale
        time = torch.tensor([1 - step / 3], dtype=torch.float64)
        mean, std = flow.sde_moments(start[:1], velocity(start[:1], time), time, 1 / 3, 0.5)
        (slope,) = torch.autograd.grad(mean.sum(), scale)
        score = (grid - mean.item()) / std.item() ** 2 * slope.item()
        weights = torch.from_numpy(np.gradient(grid) * density)
        (expected,) = torch.autograd.grad((weights * log_prob).sum(), scale)  # quadrature of p d log p
        assert float(expected) == pytest.approx(0.0, abs=1e-4)
        assert integrate(density * score, grid) == pytest.approx(0.0, abs=1e-4)
        fisher = (slope.item() / std.item()) ** 2
        assert integrate(density * score**2, grid) == pytest.approx(fisher, rel=1e-4)


def after_step(t: float, delta: float, level: float, mean: float, variance: float) -> tuple[float, float]:
    """Moments after one stochastic step from a Gaussian: its velocity is linear in x, and so is the step."""
    time = torch.tensor([t] * 2, dtype=torch.float64)
    ends = torch.tensor([0.0, 1.0], dtype=torch.float64)[:, None, None]
    out, std = flow.sde_moments(ends, gaussian_velocity(ends, time), time, delta, level)
    offset, gain = float(out[0]), float(out[1] - out[0])
    return offset + gain * mean, gain**2 * variance + float(std[0]) ** 2


@pytest.mark.parametrize("level", [0.0, 0.5, 1.0])
def test_stochastic_steps_keep_the_marginals_of_the_ode(level: float) -> None:
    """What makes Flow-SDE an SDE *of* the flow: as delta -> 0, mean and variance stay those of x_t."""
    errors = []
    for num_steps in (50, 200, 800):
        mean, variance = marginal(0.9)
        for step in range(round(0.6 * num_steps)):  # all of them stochastic, from t = 0.9 to 0.3
            mean, variance = after_step(0.9 - step / num_steps, 1 / num_steps, level, mean, variance)
        wanted_mean, wanted_variance = marginal(0.3)
        errors.append(abs(mean - wanted_mean) + abs(variance - wanted_variance))
    assert errors[2] < 2e-3
    assert errors[0] > 3.5 * errors[1] > 3.5**2 * errors[2]  # in proportion to delta


@pytest.mark.parametrize("level", [0.2, 0.5, 1.0])
def test_a_step_from_pure_noise_widens_by_a_known_amount(level: float) -> None:
    """At t = 1 sigma^2 delta is a^2 for every delta, so the published step leaves variance 1 + a^4 / 4."""
    mean, variance = after_step(1.0, 1e-6, level, 0.0, 1.0)
    assert mean == pytest.approx(0.0, abs=1e-5)
    assert variance == pytest.approx(1 + level**4 / 4, abs=1e-5)


@pytest.mark.parametrize("step_time", [0.75, 0.5, 0.25])
def test_one_stochastic_step_keeps_the_marginal_to_second_order(step_time: float) -> None:
    """One step from the exact marginal: the error falls as delta^2, so that of a whole path as delta."""

    def error(delta: float, level: float) -> tuple[float, float]:
        mean, variance = after_step(step_time, delta, level, *marginal(step_time))
        wanted_mean, wanted_variance = marginal(step_time - delta)
        return mean - wanted_mean, variance - wanted_variance

    for level in (0.0, 0.5, 1.0):
        coarse, fine = error(0.02, level), error(0.002, level)
        for large, small in zip(coarse, fine, strict=True):
            assert abs(small) < abs(large) / 50 + 1e-12


@pytest.mark.parametrize("level", [0.0, 0.5])
def test_samples_come_from_the_data_distribution(level: float) -> None:
    """The sampler itself, one random stochastic step among many: the data's mean and deviation."""
    count, num_steps = 40_000, 60
    generator = torch.Generator().manual_seed(7)
    start, noise = (torch.randn(count, 1, 1, generator=generator, dtype=torch.float64) for _ in range(2))
    chosen = torch.randint(num_steps, (count,), generator=generator)
    x, *_ = flow.sample(gaussian_velocity, start, num_steps, level, chosen, noise)
    assert float(x.mean()) == pytest.approx(DATA_MEAN, abs=0.01)
    assert float(x.std()) == pytest.approx(DATA_STD, abs=0.01)
