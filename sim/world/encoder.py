"""Tokens of a V-JEPA 2 that stays as it is, in the place of the tokenizer."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_ROWS = 8  # pictures at once: a large model's activations are large


class FrozenEncoder(nn.Module):
    """What `Tokenizer` gives a world model, except pictures: V-JEPA 2 has no way back to them.

    A frame is seen as a video of one tubelet that stands still. Its features are layer-normalised (NORA-1.5),
    averaged over squares to at most `side` x `side` tokens, and normalised by the data's own statistics.

    The encoder's weights stay in their folder and do not travel with the world model, which remembers their
    hash and refuses others.

    Args:
        folder: of a V-JEPA 2 as transformers' `save_pretrained` writes it: config.json and safetensors.
        side: tokens in a row and in a column, at most.
        height: of the pictures, in pixels.
        breadth: likewise.

    Raises:
        ValueError: no such folder, or the pictures are smaller than one patch.
    """

    mean: Tensor
    std: Tensor
    fingerprint: Tensor

    def __init__(self, folder: str, side: int, height: int, breadth: int) -> None:
        super().__init__()
        if not (Path(folder) / "config.json").is_file():
            raise ValueError(
                f"{folder!r} holds no V-JEPA 2 (config.json and model.safetensors): give the folder that it "
                "was downloaded to, or fit the world model without a frozen encoder"
            )
        from transformers import VJEPA2Model  # seconds, and a world with a tokenizer needs none of it

        model: Any = VJEPA2Model.from_pretrained(folder, local_files_only=True, use_safetensors=True)
        # Within a list the encoder is no submodule: neither trained nor saved.
        self._encoder: list[Any] = [model.encoder.eval().requires_grad_(False)]
        config = model.config
        self._tubelet, patch = config.tubelet_size, config.patch_size
        if height < patch or breadth < patch:
            raise ValueError(
                f"pictures of {height}x{breadth} are smaller than one patch of {patch} pixels of the "
                f"V-JEPA 2 in {folder}: record larger ones"
            )
        self._size = height - height % patch, breadth - breadth % patch
        self._patches = self._size[0] // patch, self._size[1] // patch
        self.grid = min(side, self._patches[0]), min(side, self._patches[1])
        self.places, self.dims = self.grid[0] * self.grid[1], int(config.hidden_size)
        self.register_buffer("mean", torch.zeros(self.dims))
        self.register_buffer("std", torch.ones(self.dims))
        digest = hashlib.blake2b(digest_size=16)
        for name, value in sorted(self._encoder[0].state_dict().items()):
            digest.update(name.encode() + value.contiguous().flatten().view(torch.uint8).numpy().tobytes())
        found = torch.tensor(list(digest.digest()), dtype=torch.uint8)
        self.register_buffer("fingerprint", found)
        self.register_load_state_dict_post_hook(  # type: ignore[no-untyped-call]
            _same_weights(folder, found.clone())
        )

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> FrozenEncoder:
        self._encoder[0]._apply(fn)
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self

    @torch.no_grad()
    def settle(self, pictures: NDArray[np.uint8]) -> None:
        """Take the statistics of these pictures (N,C,h,w,3) for normalising."""
        tokens = self.encode(torch.from_numpy(np.ascontiguousarray(pictures)).to(self.mean.device))
        raw = (tokens * self.std + self.mean).flatten(0, 2)
        self.mean.copy_(raw.mean(0))
        self.std.copy_(raw.std(0).clamp_min(1e-3))

    @torch.no_grad()
    def encode(self, pictures: Tensor) -> Tensor:
        """uint8 (N,C,h,w,3) to normalised tokens (N,C,n,d)."""
        device = self.mean.device
        mean, std = (torch.tensor(each, device=device)[:, None, None] for each in (_MEAN, _STD))
        height, breadth = self._size
        parts = []
        for rows in pictures.flatten(0, 1).split(_ROWS):
            seen = (rows[:, :height, :breadth].permute(0, 3, 1, 2).float() / 255 - mean) / std
            video = seen[:, None].expand(-1, self._tubelet, -1, -1, -1)
            features = self._encoder[0](video).last_hidden_state.float()
            features = functional.layer_norm(features, (self.dims,))
            square = features.transpose(1, 2).unflatten(2, self._patches)
            parts.append(functional.adaptive_avg_pool2d(square, self.grid).flatten(2).transpose(1, 2))
        tokens = (torch.cat(parts) - self.mean) / self.std
        whole: Tensor = tokens.unflatten(0, pictures.shape[:2])
        return whole

    def decode(self, tokens: Tensor) -> Tensor:
        """There are no pictures.

        Raises:
            ValueError: always.
        """
        raise ValueError(
            "this world model sees with a frozen V-JEPA 2, which has no decoder to pictures: it can score "
            "chunks of actions by their distance from a goal, but a policy cannot play in it, for it would "
            "see nothing; fit a world model without an encoder (its own tokenizer) to play in"
        )


def _same_weights(folder: str, mine: Tensor) -> Callable[[nn.Module, Any], None]:
    def check(module: nn.Module, _: Any) -> None:
        assert isinstance(module, FrozenEncoder), "a hook of that class"
        if not torch.equal(module.fingerprint.cpu(), mine):
            raise RuntimeError(
                f"the V-JEPA 2 in {folder} is not the one this world model was fitted with: its weights have "
                "another hash"
            )

    return check
