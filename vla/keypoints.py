"""A convolutional keypoint stem, with which a network of a million parameters sees far better."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class KeypointStem(nn.Module):
    """Convolutions and a spatial softmax in the place of SigLIP's linear patches.

    Each channel of the last convolution becomes the expected image coordinates of what it responds to
    (Levine et al. 2016, arXiv 1504.00702, section 5.1) and how strongly; the channels are dealt out
    over the tokens that the patches would have given. So few parameters learn from few pictures to find a
    block to a fraction of a pixel.

    Args:
        width: length of a token.
        image_size: pixels, square.
        tokens: how many tokens the patch grid would have.
        channels: keypoints, a multiple of `tokens`.
    """

    def __init__(self, width: int, image_size: int, tokens: int, channels: int = 64) -> None:
        super().__init__()
        if channels % tokens:
            raise ValueError(f"{channels} keypoints cannot be dealt out over {tokens} tokens evenly")
        self.side = math.isqrt(tokens)
        self.convolutions = nn.Sequential(
            nn.Conv2d(3, 32, 6, 4, 1),
            nn.ReLU(),
            nn.Conv2d(32, 32, 3, 1, 1),
            nn.ReLU(),
            nn.Conv2d(32, channels, 1),
        ).to(memory_format=torch.channels_last)  # as camera pictures come: half the time on a CPU
        # Untrained responses are all alike; without this every keypoint would start at the centre.
        self.sharpness = nn.Parameter(torch.full((channels,), math.log(10.0)))
        self.project = nn.Linear(3 * channels // tokens, width)
        axis = torch.linspace(-1.0, 1.0, image_size // 4)
        grid = torch.stack(torch.meshgrid(axis, axis, indexing="xy"), -1).view(-1, 2)
        self.register_buffer("grid", grid, persistent=False)  # (cells,2), x to the right, y down

    @property
    def weight(self) -> Tensor:
        """SigLIP asks its patch embedding for the data type of this."""
        return self.project.weight

    def forward(self, pixels: Tensor) -> Tensor:
        response = self.convolutions(pixels).flatten(2).contiguous()  # (N,K,cells)
        attention = (response * self.sharpness.exp()[:, None]).softmax(-1)
        strength = (attention * response).sum(-1, keepdim=True)
        keypoints = torch.cat([attention @ self.grid, strength], -1)  # (N,K,3)
        tokens: Tensor = self.project(keypoints.view(len(pixels), self.side**2, -1))
        grid: Tensor = tokens.transpose(1, 2).reshape(len(pixels), -1, self.side, self.side)
        return grid
