"""The flow-matching head of pi-zero, with exact log-probabilities of its stochastic sampling.

Time runs from 1 (noise) to 0 (action); the network predicts the velocity v = noise - action. Deterministic
sampling is the Euler step x <- x - delta * v. Stochastic sampling follows Flow-SDE as in pi-RL (arXiv
2510.25889, section 4.2): one denoising step of each decision is replaced by a Gaussian step whose marginals
are those of the ODE; the log-probability of that one step is the log-probability of the decision, given the
latent it started from. The initial noise and the deterministic steps are part of the (inner) state and carry
no gradient, so nothing is approximated.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor


def sde_moments(
    x: Tensor, velocity: Tensor, time: Tensor, delta: float, noise_level: float
) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of the stochastic step from `time` to ``time - delta``.

    With the estimates of the action x0 = x - v t and of the noise x1 = x + v (1 - t), and
    sigma = noise_level * sqrt(t / (1 - t)) (at t = 1 the next grid point's time is used for the 1 - t, which
    would vanish), the step is Gaussian with mean x0 (1 - s) + x1 (s - sigma^2 delta / (2 t)), s = t - delta,
    and standard deviation sigma sqrt(delta). A noise level of zero gives back the Euler step. Marginals are
    kept to the order of delta, but for a stochastic step at t = 1: it leaves variance 1 + noise_level^4 / 4
    however short it is, 1.6 % too much at 0.5.

    Args:
        x: float32 (N,H,A), latent at `time`.
        velocity: float32 (N,H,A), prediction there.
        time: float32 (N,), in (0, 1].
        delta: length of the step.
        noise_level: a in the paper, 0.5 there.

    Returns:
        mean (N,H,A) and standard deviation (N,1,1).
    """
    t = time[:, None, None]
    action = x - velocity * t
    noise = x + velocity * (1.0 - t)
    distance = 1.0 - torch.where(t > 1.0 - 1e-6, t - delta, t)
    sigma2 = noise_level**2 * t / distance
    mean = action * (1.0 - (t - delta)) + noise * (t - delta - sigma2 * delta / (2.0 * t))
    return mean, torch.sqrt(sigma2 * delta)


def chunk_factor(chunk_size: int, correlation: float) -> Tensor:
    """Lower Cholesky factor (H,H) of the noise's correlation over the steps of a chunk.

    Any two steps correlate alike. Correlated noise shifts a whole chunk to one side, as an error of
    perception does, where independent noises mostly cancel.

    Raises:
        ValueError: if the correlation is not in [0, 1).
    """
    if not 0.0 <= correlation < 1.0:
        raise ValueError(f"noise correlation {correlation} must be in [0, 1)")
    matrix = torch.full((chunk_size, chunk_size), correlation, dtype=torch.float64)
    matrix.fill_diagonal_(1.0)
    factor: Tensor = torch.linalg.cholesky(matrix)
    return factor.float()


def whiten(distance: Tensor, std: Tensor, factor: Tensor | None = None) -> Tensor:
    """A distance (N,H,A) between two means in units of their common, perhaps correlated, noise.

    Half its square, summed, is the divergence of either normal from the other; over the first k steps it is
    that of those k.
    """
    z = distance / std
    return z if factor is None else torch.linalg.solve_triangular(factor, z, upper=False)


def gaussian_log_prob(x: Tensor, mean: Tensor, std: Tensor, factor: Tensor | None = None) -> Tensor:
    """Log-density of `x` (N,H,A) under a normal, element by element, in float32.

    With `factor` (`chunk_factor`) the steps are correlated, and the number of a step is its density given the
    steps before it: the sum over the first k steps is exactly the log-density of those k, so that a chunk cut
    short has an exact log-probability too.
    """
    z = whiten(x.float() - mean.float(), std.float(), factor)
    log_scale = torch.log(std.float())
    if factor is not None:
        log_scale = log_scale + torch.log(factor.diagonal())[:, None]
    return -0.5 * z * z - log_scale - 0.5 * math.log(2.0 * math.pi)


Velocity = Callable[[Tensor, Tensor], Tensor]  # (x (N,H,A), time (N,)) -> velocity (N,H,A)


def sample(
    velocity: Velocity,
    start: Tensor,
    num_steps: int,
    noise_level: float,
    stochastic_step: Tensor | None,
    noise: Tensor | None,
    factor: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Denoise `start` in `num_steps` steps, one of them stochastic in each row.

    Args:
        velocity: the network with everything but the latent and the time bound.
        start: float32 (N,H,A), initial noise.
        num_steps: how many denoising steps.
        noise_level: see `sde_moments`.
        stochastic_step: int64 (N,), which step is stochastic in each row; None for the plain ODE.
        noise: float32 (N,H,A) standard normal for that step.
        factor: float32 (H,H), see `chunk_factor`; None leaves the steps independent.

    Returns:
        the action (N,H,A); the latents before and after the stochastic step (N,H,A); and its elementwise
        log-density (N,H,A), zeros for the ODE.
    """
    x, delta = start, 1.0 / num_steps
    before, after, log_prob = torch.zeros_like(x), torch.zeros_like(x), torch.zeros_like(x)
    for step in range(num_steps):
        time = torch.full((len(x),), 1.0 - step * delta, device=x.device)
        v = velocity(x, time)
        following = x - delta * v
        if stochastic_step is not None and noise is not None:
            mean, std = sde_moments(x, v, time, delta, noise_level)
            jumped = mean + std * (noise if factor is None else factor @ noise)
            here = (stochastic_step == step)[:, None, None]
            following = torch.where(here, jumped, following)
            before = torch.where(here, x, before)
            after = torch.where(here, jumped, after)
            log_prob = torch.where(here, gaussian_log_prob(jumped, mean, std, factor), log_prob)
        x = following
    return x, before, after, log_prob


def sample_chain(
    velocity: Velocity,
    start: Tensor,
    num_steps: int,
    noise_level: float,
    noise: Tensor,
    factor: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Denoise `start` in `num_steps` steps, of which the last K' are stochastic; K' is the noises given.

    The last step is stochastic too, so the action keeps noise of standard deviation
    ``noise_level * delta / sqrt(1 - delta)``.

    Args:
        velocity: see `sample`.
        start: likewise.
        num_steps: likewise.
        noise_level: see `sde_moments`.
        noise: float32 (N,K',H,A) standard normal, one for each stochastic step.
        factor: see `sample`.

    Returns:
        the latents (N,K'+1,H,A) from before the first stochastic step on, the last of which is the action;
        and the elementwise log-densities (N,K',H,A) of the steps between them.
    """
    x, delta = start, 1.0 / num_steps
    latents, log_probs = list[Tensor](), list[Tensor]()
    for step in range(num_steps):
        time = torch.full((len(x),), 1.0 - step * delta, device=x.device)
        v = velocity(x, time)
        inner = step - (num_steps - noise.shape[1])
        if inner < 0:
            x = x - delta * v
            continue
        mean, std = sde_moments(x, v, time, delta, noise_level)
        latents.append(x)
        x = mean + std * (noise[:, inner] if factor is None else factor @ noise[:, inner])
        log_probs.append(gaussian_log_prob(x, mean, std, factor))
    return torch.stack([*latents, x], 1), torch.stack(log_probs, 1)


def step_log_prob(
    velocity: Velocity,
    before: Tensor,
    after: Tensor,
    step: Tensor,
    num_steps: int,
    noise_level: float,
    factor: Tensor | None = None,
) -> Tensor:
    """Recompute the elementwise log-density of a recorded stochastic step: (N,H,A), with gradient.

    Args:
        velocity: the network with the observation bound.
        before: float32 (N,H,A), latent before the step.
        after: float32 (N,H,A), latent after it.
        step: int64 (N,), which step it was.
        num_steps: of the sampling that recorded it.
        noise_level: of the sampling that recorded it.
        factor: of the sampling that recorded it.
    """
    delta = 1.0 / num_steps
    time = 1.0 - step.to(before.dtype) * delta
    mean, std = sde_moments(before, velocity(before, time), time, delta, noise_level)
    return gaussian_log_prob(after, mean, std, factor)
