"""PPO with a critic on the VLM's features.

Follows Schulman et al. 2017 (arXiv 1707.06347) as RLinf-VLA (arXiv 2510.06710) and pi-RL (arXiv 2510.25889)
use it: action-level values (one for each control step of a chunk), generalised advantages over executed
steps, Huber value loss with clipping, a warm-up in which only the critic learns. Collection restarts an
environment the moment its episode ends (partial reset), so speed is rewarded by the discount. The step limit
counts as an end without reward: a task not done in time is not done.
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
from .grpo import ratio_terms
from .objective import assert_ratio_one, clipped_objective, value_loss
from .pi0 import Pi0Policy
from .policy import flatten


@dataclass(frozen=True)
class PpoConfig:
    """Settings of a PPO update; those not explained here are as in `grpo.GrpoConfig`.

    Attributes:
        critic_learning_rate: of the critic's own layers, which start from nothing.
        gamma: discount for one control step.
        lam: of the generalised advantage.
        value_weight: of the value loss.
        value_gradient: share of the value loss's gradient that reaches the VLM (0 detaches the features).
        warmup_iterations: first iterations in which only the critic's own layers learn.
    """

    learning_rate: float = 2e-4
    critic_learning_rate: float = 1e-3
    epochs: int = 2
    minibatch: int = 768
    clip_low: float = 0.2
    clip_high: float = 0.28
    granularity: Literal["chunk", "action"] = "action"
    weighting: Literal["episode", "token"] = "token"
    gamma: float = 0.99
    lam: float = 0.95
    value_weight: float = 0.5
    value_gradient: float = 0.1
    warmup_iterations: int = 1
    max_kl: float = 0.2
    max_grad_norm: float = 1.0
    ratio_tolerance: float = 1e-2


def optimizer(policy: Pi0Policy, config: PpoConfig) -> torch.optim.Optimizer:
    critic = list(policy.critic.parameters())
    own = {id(parameter) for parameter in critic}
    rest = [p for p in policy.parameters() if id(p) not in own and p.requires_grad]
    groups = [
        {"params": rest, "lr": config.learning_rate},
        {"params": critic, "lr": config.critic_learning_rate},
    ]
    return torch.optim.Adam(groups, betas=(0.9, 0.95))


def update(
    policy: Pi0Policy,
    optimizer: torch.optim.Optimizer,
    rollouts: Rollouts,
    reward: np.ndarray,
    config: PpoConfig,
    key: tuple[str | int, ...],
    iteration: int,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, float]:
    """One iteration of learning from B episodes. Arguments and errors as `grpo.update`, but for these.

    Args:
        policy: see there.
        optimizer: see there.
        rollouts: see there; ``latent["value"]`` holds the critic's (B,D,H) at the time of acting.
        reward: float (B,D,H), one number a control step.
        config: settings.
        key: see there.
        iteration: counts from 0; before `warmup_iterations` only the critic's own layers learn.
        progress: see there.
    """
    valid = torch.from_numpy(rollouts.valid)
    old_value = torch.from_numpy(np.asarray(rollouts.latent["value"], np.float32))
    shaped = torch.from_numpy(reward)
    if config.granularity == "chunk":
        gain, goal = advantages.chunk_gae(
            shaped, old_value, valid, executed=policy.execute, gamma=config.gamma, lam=config.lam
        )
        gain, goal = gain[..., None].expand_as(shaped), goal[..., None].expand_as(shaped)
    else:
        ended, bootstrap = torch.ones(len(rollouts), dtype=torch.bool), torch.zeros(len(rollouts))
        gain, goal = advantages.gae(
            shaped, old_value, valid, ended, bootstrap, gamma=config.gamma, lam=config.lam
        )
    gain = advantages.normalise(gain, valid)
    batch = flatten(rollouts, policy.cameras)
    where = batch.episode, batch.decision
    gain, goal, old_value = gain[where], goal[where], old_value[where]
    weight = advantages.episode_weights(valid, config.weighting)[where]

    warming = iteration < config.warmup_iterations
    prefix = policy.frozen_prefix(batch)
    if prefix is not None:
        batch = batch.without_pictures()
    steps: list[tuple[float, ...]] = []
    metrics = {"decisions": float(len(batch)), "warming_up": float(warming)}
    total = config.epochs * math.ceil(len(batch) / config.minibatch)
    stop = False
    for epoch in range(config.epochs):
        order = torch.from_numpy(counter_generator("ppo", *key, epoch).permutation(len(batch)))
        for rows in order.split(config.minibatch):
            part = batch.take(rows)
            seen = policy.evaluate(
                part, 0.0 if warming else config.value_gradient, prefix.take(rows) if prefix else None
            )
            device = seen.log_prob.device
            if not steps:
                metrics["ratio_gap"] = assert_ratio_one(
                    seen.log_prob.cpu(), part.log_prob, config.ratio_tolerance, part.valid
                )
            new, old, scale = ratio_terms(seen.log_prob, part, weight[rows], config.granularity)
            part_gain = gain[rows].to(device)
            part_gain = part_gain[:, 0] if new.ndim == 1 else part_gain
            loss, stats = clipped_objective(new, old, part_gain, scale, config.clip_low, config.clip_high)
            columns = slice(0, 1) if config.granularity == "chunk" else slice(None)
            value_weight = (weight[rows] * part.valid).to(device)[:, columns]
            critic, critic_stats = value_loss(
                seen.value[:, columns], old_value[rows].to(device)[:, columns],
                goal[rows].to(device)[:, columns], value_weight,
                clip=None if warming else 0.2,
            )  # fmt: skip
            optimizer.zero_grad(set_to_none=True)
            (config.value_weight * critic + (0.0 if warming else loss)).backward()
            norm = nn.utils.clip_grad_norm_(policy.parameters(), config.max_grad_norm)
            optimizer.step()
            steps.append(
                (
                    loss.item(), stats.kl, stats.clip_low + stats.clip_high, stats.ratio_max, float(norm),
                    critic.item(), critic_stats.explained_variance,
                )
            )  # fmt: skip
            progress(len(steps), total)
            stop = stats.kl > config.max_kl
            if stop:
                break
        if stop:
            break
    names = ("loss", "kl", "clip_fraction", "ratio_max", "grad_norm", "value_loss", "explained_variance")
    metrics |= {name: float(np.mean([s[i] for s in steps])) for i, name in enumerate(names)}
    return metrics | {"kl_last": steps[-1][1], "optimizer_steps": float(len(steps))}
