"""Advantage-weighted regression: imitate one's own episodes, the better the more.

Follows Peng et al. 2019 (arXiv 1910.00177), at the granularity of the episode and with the self-referential
reward, as SRPO's real-robot variant does (arXiv 2511.15605, offline SRPO): each executed chunk of an episode
is imitated with weight exp((R - baseline) / temperature), R the episode's return and the baseline the mean
return of its task. It needs no log-probabilities, so the policy may act with its own flow noise alone
(``noise_level`` 0) and nothing widens its distribution. Left out: a replay of earlier iterations.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ..datasets.episode import Rollouts
from ..datasets.starts import counter_generator
from .pi0 import Pi0Policy
from .policy import flatten


@dataclass(frozen=True)
class AwrConfig:
    """Settings of an AWR update.

    Attributes:
        learning_rate: of Adam, constant.
        epochs: passes over the episodes that weigh anything.
        minibatch: decisions in one optimiser step.
        temperature: in units of the return; smaller is closer to imitating successes alone.
        max_weight: upper bound of a weight.
        min_weight: episodes below it are left out.
        draws: noises and times for each decision.
        max_grad_norm: gradient clipping.
    """

    learning_rate: float = 3e-4
    epochs: int = 4
    minibatch: int = 256
    temperature: float = 0.2
    max_weight: float = 10.0
    min_weight: float = 0.2
    draws: int = 4
    max_grad_norm: float = 1.0


def optimizer(policy: Pi0Policy, config: AwrConfig) -> torch.optim.Optimizer:
    learning = [parameter for parameter in policy.parameters() if parameter.requires_grad]
    return torch.optim.Adam(learning, lr=config.learning_rate, betas=(0.9, 0.95))


def weights(
    returns: NDArray[np.floating], tasks: list[str], temperature: float, max_weight: float
) -> NDArray[np.float32]:
    """Float32 (B,) weights from returns (B,) and task names: exp of the advantage over the task's mean."""
    advantage = np.empty(len(returns))
    names = np.array(tasks)
    for task in set(tasks):
        rows = names == task
        advantage[rows] = returns[rows] - returns[rows].mean()
    return np.minimum(np.exp(advantage / temperature), max_weight).astype(np.float32)


def update(
    policy: Pi0Policy,
    optimizer: torch.optim.Optimizer,
    rollouts: Rollouts,
    returns: NDArray[np.floating],
    config: AwrConfig,
    key: tuple[str | int, ...],
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, float]:
    """One iteration of learning from B episodes; arguments as `grpo.update`."""
    weight = weights(returns, [start.task for start in rollouts.start], config.temperature, config.max_weight)
    keep = weight >= config.min_weight
    batch = flatten(rollouts, policy.cameras, keep=keep)
    metrics = {"imitated_episodes": float(keep.mean()), "decisions": float(len(batch))}
    if not len(batch):
        return metrics
    decision_weight = torch.from_numpy(weight)[batch.episode]
    generator = torch.Generator().manual_seed(int(counter_generator("awr", *key).integers(2**62)))
    total = config.epochs * math.ceil(len(batch) / config.minibatch)
    losses: list[float] = []
    for epoch in range(config.epochs):
        order = torch.from_numpy(counter_generator("awr", *key, epoch).permutation(len(batch)))
        for rows in order.split(config.minibatch):
            loss = policy.imitation_loss(
                batch.take(rows), generator, draws=config.draws, weight=decision_weight[rows]
            )
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(policy.parameters(), config.max_grad_norm)
            optimizer.step()
            losses.append(loss.item())
            progress(len(losses), total)
    return metrics | {"loss": float(np.mean(losses)), "optimizer_steps": float(len(losses))}
