"""GRPO: learn from how the members of a group, all from one start state, compare with each other.

Follows Shao et al. 2024 (arXiv 2402.03300) as VLA systems use it (SimpleVLA-RL, arXiv 2509.09674): no critic,
no KL term, asymmetric clipping, the mask cut at the environment step, every episode weighing the same (1/T).
Dead groups (all returns equal) are resampled by the caller and masked here. Left out: a reference policy.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import nn

from ..datasets.episode import Rollouts
from ..datasets.starts import counter_generator
from . import advantages
from .objective import assert_ratio_one, clipped_objective
from .pi0 import Pi0Policy
from .policy import DecisionBatch, flatten


@dataclass(frozen=True)
class GrpoConfig:
    """Settings of a GRPO update.

    Attributes:
        learning_rate: of Adam, constant.
        epochs: passes over the batch; later passes are held back by the clip.
        minibatch: decisions in one optimiser step.
        clip_low: the ratio earns nothing below 1 - clip_low.
        clip_high: nor above 1 + clip_high.
        granularity: ``chunk`` takes one ratio for the executed part of a chunk, ``action`` one for each step.
        weighting: ``episode`` divides by the episode's length, ``token`` does not.
        estimator: ``grpo`` divides by the group's deviation, ``rloo`` leaves one out and does not.
        std_floor: lower bound of that deviation, so that tiny differences of a shaped reward stay tiny.
        max_kl: the update stops early when a mini-batch's KL estimate exceeds this (nats per ratio).
        max_grad_norm: gradient clipping.
        ratio_tolerance: how far from 1 the ratio may be before the first step (float rounding).
    """

    learning_rate: float = 2e-4
    epochs: int = 2
    minibatch: int = 768
    clip_low: float = 0.2
    clip_high: float = 0.28
    granularity: Literal["chunk", "action"] = "chunk"
    weighting: Literal["episode", "token"] = "episode"
    estimator: Literal["grpo", "rloo"] = "grpo"
    std_floor: float = 0.1
    max_kl: float = 0.2
    max_grad_norm: float = 1.0
    ratio_tolerance: float = 1e-2


def optimizer(policy: Pi0Policy, config: GrpoConfig) -> torch.optim.Optimizer:
    learning = [parameter for parameter in policy.parameters() if parameter.requires_grad]
    return torch.optim.Adam(learning, lr=config.learning_rate, betas=(0.9, 0.95))


def update(
    policy: Pi0Policy,
    optimizer: torch.optim.Optimizer,
    rollouts: Rollouts,
    returns: np.ndarray,
    config: GrpoConfig,
    key: tuple[str | int, ...],
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, float]:
    """One iteration of learning from B episodes.

    Args:
        policy: the policy that played them; improved in place.
        optimizer: of its parameters.
        rollouts: the episodes.
        returns: float (B,), one number an episode, higher is better.
        config: settings.
        key: names this update; the order of mini-batches depends on it and on nothing else.
        progress: called with optimiser steps done and planned.

    Returns:
        Metrics by name.

    Raises:
        RatioNotOneError: if the policy does not reproduce the log-probabilities it acted with.
    """
    episode_return, group = torch.from_numpy(returns).float(), torch.from_numpy(rollouts.group)
    if config.estimator == "grpo":
        advantage, live = advantages.grpo(episode_return, group, std_floor=config.std_floor)
    else:
        advantage, live = advantages.rloo(episode_return, group)
    batch = flatten(rollouts, policy.cameras, keep=live.numpy())
    metrics = {"live_episodes": float(live.float().mean()), "decisions": float(len(batch))}
    if not len(batch):
        return metrics
    weight = advantages.episode_weights(torch.from_numpy(rollouts.valid), config.weighting)
    weight = weight[batch.episode, batch.decision]  # (N,H)
    advantage = advantage[batch.episode]

    prefix = policy.frozen_prefix(batch)
    if prefix is not None:
        batch = batch.without_pictures()
    steps: list[tuple[float, ...]] = []
    total = config.epochs * math.ceil(len(batch) / config.minibatch)
    for epoch in range(config.epochs):
        order = torch.from_numpy(counter_generator("grpo", *key, epoch).permutation(len(batch)))
        for rows in order.split(config.minibatch):
            part = batch.take(rows)
            seen = policy.evaluate(part, prefix=prefix.take(rows) if prefix else None)
            log_prob = seen.log_prob
            if not steps:
                metrics["ratio_gap"] = assert_ratio_one(
                    log_prob.cpu(), part.log_prob, config.ratio_tolerance, part.valid
                )
            new, old, scale = ratio_terms(log_prob, part, weight[rows], config.granularity)
            gain = advantage[rows].to(new.device)
            gain = gain[:, None].expand_as(new) if new.ndim == 2 else gain
            loss, stats = clipped_objective(new, old, gain, scale, config.clip_low, config.clip_high)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            norm = nn.utils.clip_grad_norm_(policy.parameters(), config.max_grad_norm)
            optimizer.step()
            steps.append(
                (loss.item(), stats.kl, stats.clip_low + stats.clip_high, stats.ratio_max, float(norm))
            )
            progress(len(steps), total)
            if stats.kl > config.max_kl:
                break
        if steps[-1][1] > config.max_kl:
            break
    names = ("loss", "kl", "clip_fraction", "ratio_max", "grad_norm")
    metrics |= {name: float(np.mean([s[i] for s in steps])) for i, name in enumerate(names)}
    return metrics | {"kl_last": steps[-1][1], "optimizer_steps": float(len(steps))}


def ratio_terms(
    log_prob: torch.Tensor, part: DecisionBatch, weight: torch.Tensor, granularity: str
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """New and old log-probabilities and weights at the granularity of the ratio.

    ``action``: (N,H) as they are; weights are zero where nothing was executed. ``chunk``: (N,), summed over
    the executed steps, the weights likewise.
    """
    valid, old = part.valid.to(log_prob.device), part.log_prob.to(log_prob.device)
    weight = weight.to(log_prob.device) * valid
    if granularity == "action":
        return log_prob, old, weight
    mask = valid.float()
    return (log_prob * mask).sum(-1), (old * mask).sum(-1), weight.sum(-1)
