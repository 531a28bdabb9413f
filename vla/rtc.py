"""Real-time chunking: a new chunk of a flow policy that goes on smoothly from the one being executed.

Black, Galliker and Levine 2025, arXiv 2506.07339, algorithm 1. While the policy thinks, the robot executes
the first actions of the old chunk: those rows of the new one are frozen to the old. Rows that both chunks
speak of are drawn to the old with a weight that falls off exponentially; the rest are free. The drawing is
done in every denoising step, by the gradient of the masked distance between the old chunk and the estimate of
the new one (a pseudoinverse correction, as for inpainting), with a weight that is clipped, for few steps.

What differs from the paper: times run from 1 (noise) to 0 (action) as everywhere in this room, the greedy
policy's noise is zero, and the frozen rows are set to the old chunk's at the end, so that they are exact.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..datasets.episode import Observation
from . import flow
from .pi0 import Pi0Policy

# The paper's beta. Larger ones diverge with few denoising steps (its section on ablations).
MAX_GUIDANCE = 5.0


def soft_mask(length: int, overlap: int, frozen: int) -> NDArray[np.float32]:
    """(length,) how strongly each row is held to the old chunk (equation 5 of the paper).

    Args:
        length: H, rows of a chunk.
        overlap: rows that the old chunk speaks of.
        frozen: d, rows that will be executed before the new chunk is there; weight 1.

    Raises:
        ValueError: unless 0 <= frozen <= overlap <= length.
    """
    if not 0 <= frozen <= overlap <= length:
        raise ValueError(f"real-time chunking: {frozen} frozen of {overlap} overlapping of {length} rows")
    rows = np.arange(length)
    fall = np.clip((overlap - rows) / (overlap - frozen + 1), 0.0, 1.0)
    weight = fall * np.expm1(fall) / (math.e - 1)
    return np.where(rows < frozen, 1.0, np.where(rows < overlap, weight, 0.0)).astype(np.float32)


def guided(
    velocity: flow.Velocity,
    start: Tensor,
    num_steps: int,
    old: Tensor,
    weight: Tensor,
    max_guidance: float = MAX_GUIDANCE,
) -> Tensor:
    """Denoise `start` in `num_steps` Euler steps, drawn towards `old`.

    Args:
        velocity: the network; it is differentiated by its latent.
        start: float32 (N,H,A).
        num_steps: of denoising.
        old: float32 (N,H,A), normalised; rows and dimensions of weight 0 may hold anything finite.
        weight: float32, broadcast to (N,H,A), in [0, 1].
        max_guidance: the most that the correction is weighted with.

    Returns:
        (N,H,A).
    """
    x, delta = start, 1.0 / num_steps
    for step in range(num_steps):
        t = 1.0 - step * delta
        time = torch.full((len(x),), t, device=x.device)
        with torch.enable_grad():
            latent = x.detach().requires_grad_(True)
            v = velocity(latent, time)
            clean = latent - t * v
            error = ((old - clean) * weight).detach()
            (pull,) = torch.autograd.grad((clean * error).sum(), latent)
        # tau = 1 - t: min(beta, (1 - tau) / tau * ((1 - tau)^2 + tau^2) / (1 - tau)^2)
        tau = 1.0 - t
        gain = max_guidance if tau < 1e-6 else min(max_guidance, (t * t + tau * tau) / (tau * t))
        x = x - delta * (v.detach() - gain * pull)
    return x


def act(
    policy: Pi0Policy, observation: Observation, prefix: NDArray[np.float32], frozen: int
) -> NDArray[np.float32]:
    """The greedy chunk for an observation, that goes on from a chunk being executed.

    Args:
        policy: with a flow head.
        observation: a batch of one.
        prefix: float32 (K,A) the old chunk's actions from now on, physical units; more than a chunk is cut.
        frozen: how many of them will be executed before this chunk is there.

    Returns:
        (H,A) actions; the first `frozen` are those of `prefix`. Without a prefix, those of `policy.act`.

    Raises:
        ValueError: the policy has no flow head, or the prefix is of another width.
    """
    if policy.settings.head != "flow":
        raise ValueError(f"real-time chunking guides a flow; this policy has a {policy.settings.head} head")
    dims = policy.spec.action_dim
    if len(prefix) and prefix.shape[1] != dims:
        raise ValueError(f"real-time chunking: a prefix of shape {prefix.shape}, expected (K, {dims})")
    prefix = prefix[: policy.chunk_size]
    frozen = min(frozen, len(prefix))
    if not len(prefix):
        greedy: NDArray[np.float32] = policy.act(observation, None).action[0]
        return greedy
    shape = (1, policy.chunk_size, int(policy.config.max_action_dim))
    device = policy.device
    mean, std = (
        torch.as_tensor(policy.get_buffer(name), device=device) for name in ("action_mean", "action_std")
    )
    old, weight = torch.zeros(shape, device=device), torch.zeros(shape, device=device)
    old[0, : len(prefix), :dims] = (torch.from_numpy(prefix).to(device) - mean) / std
    mask = soft_mask(policy.chunk_size, len(prefix), frozen)
    weight[0, :, :dims] = torch.from_numpy(mask).to(device)[:, None]
    pixels = np.stack([observation.images[name] for name in policy.cameras], axis=1)
    with torch.no_grad():
        seen = policy.prefix(torch.from_numpy(pixels), list(observation.instruction))
        state = policy.normal_state(torch.from_numpy(observation.state))
    velocity = policy.velocity(state, seen)
    x = guided(velocity, torch.zeros(shape, device=device), policy.settings.denoise_steps, old, weight)
    actions: NDArray[np.float32] = policy.physical(x)[0]
    actions[:frozen] = prefix[:frozen]
    return actions
