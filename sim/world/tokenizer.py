"""Pictures to latents and back: a small convolutional autoencoder, one for all cameras."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class _Block(nn.Module):
    """A residual block of two convolutions."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.GroupNorm(8, width), nn.SiLU(), nn.Conv2d(width, width, 3, padding=1),
            nn.GroupNorm(8, width), nn.SiLU(), nn.Conv2d(width, width, 3, padding=1),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.layers(x)
        return out


class Tokenizer(nn.Module):
    """An eighth of the resolution in three halvings; latents are normalised by the data's own statistics.

    Args:
        channels: of the latent.
        width: of the convolutions at a quarter of the resolution, a multiple of 8; doubled below.
        height: of the pictures, in pixels, a multiple of 16; so is `breadth`.
        breadth: of the pictures.

    Raises:
        ValueError: if a size is not such a multiple.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, channels: int, width: int, height: int, breadth: int) -> None:
        super().__init__()
        if height % 16 or breadth % 16 or width % 8:
            raise ValueError(
                f"a tokenizer of width {width} for pictures of {height}x{breadth}: the width must be a "
                "multiple of 8, height and breadth multiples of 16; resize with regrip data view --resize"
            )
        self.grid = height // 16, breadth // 16
        self.places, self.dims = self.grid[0] * self.grid[1], 4 * channels
        # Patches first and last: at full resolution convolutions would take most of the time.
        self.encoder = nn.Sequential(
            nn.Conv2d(3, width, 8, 4, 2), _Block(width), nn.SiLU(),
            nn.Conv2d(width, 2 * width, 4, 2, 1), _Block(2 * width), _Block(2 * width),
            nn.Conv2d(2 * width, channels, 3, padding=1),
        )  # fmt: skip
        self.decoder = nn.Sequential(
            nn.Conv2d(channels, 2 * width, 3, padding=1), _Block(2 * width), _Block(2 * width),
            nn.Conv2d(2 * width, 4 * width, 3, padding=1), nn.PixelShuffle(2),
            _Block(width), _Block(width), nn.SiLU(), nn.Conv2d(width, 48, 3, padding=1), nn.PixelShuffle(4),
        )  # fmt: skip
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("std", torch.ones(channels))

    def raw(self, pictures: Tensor) -> Tensor:
        """uint8 (N,h,w,3) to latents (N,c,h/8,w/8), not normalised."""
        latent: Tensor = self.encoder(scaled(pictures))
        return latent

    def picture(self, raw: Tensor) -> Tensor:
        """Latents (N,c,h/8,w/8), not normalised, to pictures (N,3,h,w) in about [-1, 1]."""
        out: Tensor = self.decoder(raw)
        return out

    def encode(self, pictures: Tensor) -> Tensor:
        """uint8 (N,C,h,w,3) to normalised tokens (N,C,n,d): squares of the latent, 2 x 2 x channels each."""
        count, cameras = pictures.shape[:2]
        raw = self.raw(pictures.flatten(0, 1)).float()
        normal = (raw - self.mean[:, None, None]) / self.std[:, None, None]
        tokens: Tensor = functional.pixel_unshuffle(normal, 2).flatten(2).transpose(1, 2)
        whole: Tensor = tokens.unflatten(0, (count, cameras))
        return whole

    def decode(self, tokens: Tensor) -> Tensor:
        """Normalised tokens (N,C,n,d) to uint8 pictures (N,C,h,w,3)."""
        count, cameras = tokens.shape[:2]
        latent = tokens.flatten(0, 1).transpose(1, 2).unflatten(2, self.grid)
        raw = functional.pixel_shuffle(latent, 2) * self.std[:, None, None] + self.mean[:, None, None]
        picture = self.picture(raw).float().clamp(-1, 1)
        whole = picture.add(1.0).mul(127.5).round().to(torch.uint8).permute(0, 2, 3, 1)
        pictures: Tensor = whole.unflatten(0, (count, cameras))
        return pictures


def scaled(pictures: Tensor) -> Tensor:
    """uint8 (N,h,w,3) as float (N,3,h,w) in [-1, 1]."""
    return pictures.permute(0, 3, 1, 2).float().div(127.5).sub(1.0)
