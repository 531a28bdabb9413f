"""A few steps of imitation of what a person showed, beside learning from rewards."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from ..datasets.starts import counter_generator
from .pi0 import Pi0Policy
from .policy import DecisionBatch


@dataclass(frozen=True)
class ImitationConfig:
    """How much is imitated in an iteration.

    Attributes:
        steps: optimiser steps; 0 imitates nothing.
        minibatch: frames in one of them.
        learning_rate: of the policy meanwhile.
    """

    steps: int = 60
    minibatch: int = 128
    learning_rate: float = 5e-4

    def __post_init__(self) -> None:
        if self.steps < 0 or self.minibatch < 1 or not self.learning_rate > 0:
            raise ValueError(
                f"imitation: steps {self.steps}, minibatch {self.minibatch}, learning_rate "
                f"{self.learning_rate}; expected at least 0, at least 1, and above 0"
            )


def imitate(
    policy: Pi0Policy, shown: DecisionBatch, config: ImitationConfig, key: tuple[str | int, ...]
) -> dict[str, float]:
    """Minimise the imitation loss over the parameters that learn; Adam begins anew each time.

    Args:
        policy: changed in place.
        shown: frames with what the person did from each on.
        config: settings.
        key: names the draws.

    Returns:
        mean loss of the first and of the last quarter of the steps.
    """
    value = {id(parameter) for parameter in policy.critic.parameters()}
    actor = [p for p in policy.parameters() if p.requires_grad and id(p) not in value]
    optimizer = torch.optim.AdamW(actor, lr=config.learning_rate, betas=(0.9, 0.95), weight_decay=0.0)
    draw = counter_generator("imitate", *key)
    generator = torch.Generator().manual_seed(int(draw.integers(2**62)))
    losses = []
    for _ in range(config.steps):
        rows = torch.from_numpy(draw.integers(len(shown), size=config.minibatch))
        loss = policy.imitation_loss(shown.take(rows), generator)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(actor, 1.0)
        optimizer.step()
        losses.append(loss.item())
    quarter = max(1, len(losses) // 4)
    return {
        "imitation/frames": float(len(shown)),
        "imitation/loss_first": float(np.mean(losses[:quarter])),
        "imitation/loss_last": float(np.mean(losses[-quarter:])),
    }
