"""Where the robot goes, control step by control step: with its inertia, and what is in its way."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Motion(nn.Module):
    """A small network that is applied once for each action of a chunk.

    An arm lags behind its commands, so where it goes depends on how it moves already; and what it meets
    depends on what is seen at the decision.

    Args:
        state: S; `action`: A; `cameras`: C.
        width: of its layers.
    """

    pace: Tensor

    def __init__(self, state: int, action: int, cameras: int, width: int) -> None:
        super().__init__()
        self.touch = nn.Sequential(
            nn.Conv2d(3 * cameras, 32, 8, 4, 2), nn.SiLU(),
            nn.Conv2d(32, 64, 4, 2, 1), nn.SiLU(),
            nn.Conv2d(64, 64, 4, 2, 1), nn.SiLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten(),
            nn.Linear(1024, 64),
        )  # fmt: skip
        self.first = nn.Linear(2 * state + action + 64, width)
        self.rest = nn.Sequential(
            nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(),
            nn.Linear(width, state),
        )  # fmt: skip
        self.register_buffer("pace", torch.ones(state))

    def felt(self, pictures: Tensor) -> Tensor:
        """What the pictures (B,C,3,h,w) say of contact: (B,64)."""
        seen: Tensor = self.touch(pictures.flatten(1, 2)).float()
        return seen

    def forward(self, state: Tensor, before: Tensor, action: Tensor, felt: Tensor) -> Tensor:
        """(B,S) after each of the actions (B,H,A), normalised: (B,H,S).

        Args:
            state: (B,S) now.
            before: (B,S) a control step ago.
            action: see above.
            felt: (B,64), see `felt`.
        """
        states = []
        with torch.autocast(state.device.type, enabled=False):  # steps are small beside the state
            for one in action.unbind(1):
                moving = (state - before) / self.pace
                told = torch.cat([state, 0.3 * moving, one, felt], 1)
                state, before = state + self.pace * self.rest(self.first(told)), state
                states.append(state)
        return torch.stack(states, 1)
