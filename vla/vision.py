"""The frozen base policy's vision tower as an encoder of episodes, for rewards that compare episodes."""

from __future__ import annotations

import copy

import numpy as np
import torch
from numpy.typing import NDArray

from ..datasets.episode import Rollouts
from .pi0 import Pi0Policy


class VisionTower:
    """Embeds every decision's frames with the vision tower of a policy as it was at construction.

    The weights are copied, so the embedding does not drift while the policy learns: a reference bank stays
    comparable with new episodes for a whole run. A processor that multiplies bfloat16 by itself does so here:
    cosines of such embeddings differ in the third decimal, in seven tenths of the time.

    Args:
        policy: usually the base policy.
        batch: decisions embedded at once; more do not fit into a processor's cache, and take longer.
    """

    def __init__(self, policy: Pi0Policy, batch: int = 64) -> None:
        self.tower = copy.deepcopy(policy.pi0.model.vlm.vision_tower).eval().requires_grad_(False)
        self.cameras, self.batch, self.device = policy.cameras, batch, policy.device
        self.half = self.device.type == "cpu" and torch.ops.mkldnn._is_mkldnn_bf16_supported()

    @torch.no_grad()
    def __call__(self, rollouts: Rollouts) -> NDArray[np.float32]:
        """Float32 (B,D,E): patch features averaged over each camera's patches, cameras side by side.

        Zero where no decision was taken.
        """
        mask = rollouts.decision_valid
        pixels = np.stack([rollouts.images[name][mask] for name in self.cameras], axis=1)
        found = []
        for rows in torch.from_numpy(pixels).split(self.batch):
            values = rows.to(self.device).permute(0, 1, 4, 2, 3).float().div_(127.5).sub_(1.0)
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.half):
                patches = self.tower(values.flatten(0, 1)).last_hidden_state.float().mean(1)
            found.append(patches.view(len(rows), -1).cpu().numpy())
        flat = np.concatenate(found)
        embedding = np.zeros((*mask.shape, flat.shape[1]), np.float32)
        embedding[mask] = flat
        return embedding
