"""Auxiliary losses of imitation: teach a small network to see, with what only the simulator knows.

Large vision-language models bring grounding from their pre-training; a network of a million parameters with
random weights has none. Two heads stand in for it while the base policy is trained, and are then thrown away:
from the picture's tokens alone, the whole state of the scene (every picture teaches about every object);
from the VLM's pooled features, where the object is that the sentence names (so that words select).
"""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from .pi0 import Pi0Policy
from .policy import DecisionBatch
from .prefix import Prefix


class Auxiliary(nn.Module):
    """The two heads.

    Args:
        policy: whose tokens and features are read.
        privileged: float32 (N,P), simulator states of the training set, for their statistics. The first three
            numbers are the position of the instructed object in the base frame, metres.
    """

    moving: Tensor
    mean: Tensor
    std: Tensor

    def __init__(self, policy: Pi0Policy, privileged: Tensor) -> None:
        super().__init__()
        std = privileged.std(0)
        moving = std > 1e-3
        moving[:3] = False  # which object is instructed cannot be seen
        self.register_buffer("moving", moving)
        self.register_buffer("mean", privileged.mean(0))
        self.register_buffer("std", std.clamp_min(1e-3))
        width = policy.token_width
        self.scene = nn.Linear(policy.num_image_tokens * width, int(moving.sum()))
        self.target = nn.Sequential(nn.Linear(policy.feature_width, width), nn.SiLU(), nn.Linear(width, 3))

    def scene_loss(self, tokens: Tensor, privileged: Tensor) -> Tensor:
        """Smooth L1 of the normalised scene state from image tokens (N,L,d)."""
        wanted = ((privileged - self.mean) / self.std)[:, self.moving]
        return functional.smooth_l1_loss(self.scene(tokens.flatten(1)), wanted, beta=0.1)

    def locate(self, prefix: Prefix) -> Tensor:
        """The instructed object's position (N,3) in the base frame, metres."""
        found: Tensor = self.target(prefix.features) / 10.0
        return found

    def target_loss(self, prefix: Prefix, privileged: Tensor) -> Tensor:
        """Smooth L1 of the instructed object's position, in units of 10 cm."""
        return functional.smooth_l1_loss(self.locate(prefix) * 10.0, privileged[:, :3] * 10.0, beta=0.1)

    def forward(self, prefix: Prefix, privileged: Tensor) -> Tensor:
        privileged = privileged.to(prefix.features.device)
        return self.scene_loss(prefix.looks, privileged) + self.target_loss(prefix, privileged)


def augment(batch: DecisionBatch, draw: np.random.Generator, brightness: float) -> DecisionBatch:
    """Scale each picture's contrast and brightness; geometry stays, for it is what the policy must read."""
    count, cameras = batch.pixels.shape[:2]
    scale, shift = draw.uniform(-brightness, brightness, (2, count, cameras, 1, 1, 1)).astype(np.float32)
    pixels = batch.pixels.float()
    pixels = (pixels - 128.0) * torch.from_numpy(1 + scale) + 128.0 + 128.0 * torch.from_numpy(shift)
    return dataclasses.replace(batch, pixels=pixels.clamp_(0, 255).to(torch.uint8))
