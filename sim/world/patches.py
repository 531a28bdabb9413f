"""Pictures as they are: tokens that are squares of pixels, for models that draw pictures themselves."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from .tokenizer import scaled

_SIDE = 8  # pixels
_MULTIPLE = 16  # of which sizes must be: what reads the patches halves them once more


class Patches(nn.Module):
    """What `Tokenizer` gives a world model, without learning or losing anything.

    Args:
        height: of the pictures, in pixels, a multiple of 16; so is `breadth`.
        breadth: of the pictures.

    Raises:
        ValueError: if a size is not such a multiple.
    """

    def __init__(self, height: int, breadth: int) -> None:
        super().__init__()
        if height % _MULTIPLE or breadth % _MULTIPLE:
            raise ValueError(
                f"pictures of {height}x{breadth}: height and breadth must be multiples of {_MULTIPLE}; "
                "resize with regrip data view --resize"
            )
        self.grid = height // _SIDE, breadth // _SIDE
        self.places, self.dims = self.grid[0] * self.grid[1], 3 * _SIDE * _SIDE

    def encode(self, pictures: Tensor) -> Tensor:
        """uint8 (N,C,h,w,3) to tokens (N,C,n,d): the pixels of a square, in [-1, 1]."""
        return self.tokens(scaled(pictures.flatten(0, 1)).unflatten(0, pictures.shape[:2]))

    def tokens(self, pictures: Tensor) -> Tensor:
        """(...,3,h,w) in [-1, 1] to (...,n,d)."""
        whole: Tensor = functional.pixel_unshuffle(pictures, _SIDE).flatten(-2).transpose(-1, -2)
        return whole

    def drawn(self, tokens: Tensor) -> Tensor:
        """The reverse of `tokens`."""
        whole: Tensor = functional.pixel_shuffle(tokens.transpose(-1, -2).unflatten(-1, self.grid), _SIDE)
        return whole

    def decode(self, tokens: Tensor) -> Tensor:
        """Tokens (N,C,n,d) to uint8 pictures (N,C,h,w,3)."""
        picture = self.drawn(tokens.float()).clamp(-1, 1)
        whole: Tensor = picture.add(1.0).mul(127.5).round().to(torch.uint8).movedim(2, -1)
        return whole
