"""What the VLM makes of images and words, kept for every pass of the action expert that needs it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import DynamicCache


def layers(cache: DynamicCache) -> Sequence[Any]:
    """Each with keys and values (N,heads,L,d); transformers leaves their types open."""
    return cache.layers


@dataclass(frozen=True)
class Prefix:
    """The VLM's pass over images and words, shared by denoising steps, by critic and by group members."""

    cache: DynamicCache
    mask: Tensor  # int64 (N,L)
    features: Tensor  # (N,F), pooled
    looks: Tensor  # (N,L_image,d), the image tokens as they go in

    @property
    def nbytes(self) -> int:
        """Of keys and values."""
        return sum(layer.keys.nbytes + layer.values.nbytes for layer in layers(self.cache))

    def take(self, rows: Tensor) -> Prefix:
        """The observations `rows` (int64, repeats allowed); the original is left as it was."""
        rows = rows.to(self.mask.device)
        cache = DynamicCache()
        for index, layer in enumerate(layers(self.cache)):
            cache.update(layer.keys[rows], layer.values[rows], index)
        return Prefix(cache, self.mask[rows], self.features[rows], self.looks[rows])

    def pack(self) -> dict[str, NDArray[np.float32]]:
        """As arrays: keys and values (N,layers,heads,L,d), features; neither mask nor image tokens."""
        kept = layers(self.cache)
        return {
            "keys": torch.stack([layer.keys for layer in kept], 1).float().cpu().numpy(),
            "values": torch.stack([layer.values for layer in kept], 1).float().cpu().numpy(),
            "features": self.features.cpu().numpy(),
        }

    @classmethod
    def unpack(cls, keys: Tensor, values: Tensor, mask: Tensor, features: Tensor) -> Prefix:
        """What `pack` gave, as a prefix again, without image tokens."""
        cache = DynamicCache()
        for index in range(keys.shape[1]):
            cache.update(keys[:, index].float(), values[:, index].float(), index)
        return cls(cache, mask, features, features.new_zeros(len(features), 0, 1))

    @classmethod
    def join(cls, parts: Sequence[Prefix]) -> Prefix:
        """Several batches as one."""
        cache = DynamicCache()
        for index in range(len(parts[0].cache.layers)):
            same = [layers(part.cache)[index] for part in parts]
            cache.update(
                torch.cat([layer.keys for layer in same]), torch.cat([layer.values for layer in same]), index
            )
        mask, features, looks = (
            torch.cat([getattr(part, name) for part in parts]) for name in ("mask", "features", "looks")
        )
        return cls(cache, mask, features, looks)
