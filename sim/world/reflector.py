"""Whether an episode succeeds within a chunk, judged by how the scene was, is, and will be."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .video import Layer


class Reflector(nn.Module):
    """Looks among the squares of three pictures of each camera for what the instruction asks for.

    Whether a thing was lifted or pushed away is said of where it stood at first, and whether it will be, of
    the picture that is foretold: the first, the present and the next one are laid upon each other.

    Args:
        cameras: C.
        places: squares of 16 x 16 pixels in a picture.
        plan: numbers that say what the robot does: where it is, where it will be, and the chunk.
        vocabulary: words, without the empty one.
        width: of everything; `heads`: of its attention.
    """

    def __init__(self, cameras: int, places: int, plan: int, vocabulary: int, width: int, heads: int) -> None:
        super().__init__()
        self.see = nn.Sequential(
            nn.Conv2d(9, width // 2, 4, 4), nn.SiLU(), nn.Conv2d(width // 2, width, 4, 2, 1), nn.SiLU(),
            nn.Conv2d(width, width, 4, 2, 1),
        )  # fmt: skip
        self.place = nn.Parameter(torch.randn(cameras * places, width) * 0.02)
        self.plan = nn.Sequential(nn.Linear(plan, width), nn.SiLU(), nn.Linear(width, width))
        self.think = nn.ModuleList(Layer(width, heads, context=1) for _ in range(2))
        self.word = nn.Embedding(vocabulary + 1, width, padding_idx=0)
        self.order = nn.Parameter(torch.randn(64, width) * 0.02)
        self.mix = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self.attend = nn.MultiheadAttention(width, heads, batch_first=True)
        self.judge = nn.Sequential(nn.Linear(2 * width, width), nn.SiLU(), nn.Linear(width, 1))

    def forward(self, pictures: Tensor, plan: Tensor, words: Tensor) -> Tensor:
        """Logits (B,) from pictures (B,C,9,h,w), the plan (B,P) and the instruction's words (B,W)."""
        x = self.see(pictures.flatten(0, 1)).flatten(2).transpose(1, 2).unflatten(0, pictures.shape[:2])
        said = self.mix(self.word(words) + self.order[: words.shape[1]])
        there = (words > 0).unsqueeze(-1)
        query = ((said * there).sum(1) / there.sum(1).clamp_min(1))[:, None]
        x = (x.flatten(1, 2) + self.place + self.plan(plan)[:, None] + query)[:, None]
        for layer in self.think:
            x = layer(x)
        found, _ = self.attend(query, x[:, 0], x[:, 0], need_weights=False)
        logits: Tensor = self.judge(torch.cat([found, query], -1)).float()[:, 0, 0]
        return logits
