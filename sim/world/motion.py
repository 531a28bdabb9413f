"""Where the robot goes, control step by control step: with its inertia, and what is in its way."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Motion(nn.Module):
    """A small network that is applied once for each action of a chunk.

    An arm lags behind its commands, so where it goes depends on how it moves already; and what it meets
    depends on what is seen at the decision. From all that follows a matrix, by which command and speed are
    multiplied: what a command does to the joints is linear in it, and depends on where they are.

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
        self.first, self.with_felt = nn.Linear(2 * state + action, width), nn.Linear(64, width)
        self.rest = nn.Sequential(
            nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(),
            nn.Linear(width, state * (action + state + 1)),
        )  # fmt: skip
        last = self.rest[-1]
        assert isinstance(last, nn.Linear), "it ends with a linear layer"
        nn.init.normal_(last.weight, std=0.01)
        nn.init.zeros_(self.with_felt.weight)  # contact is learnt after the rest
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
                driven = torch.cat([one, 0.3 * moving, torch.ones_like(one[:, :1])], 1)
                told = self.first(torch.cat([state, driven[:, :-1]], 1)) + self.with_felt(felt)
                matrix = self.rest(told).unflatten(1, (state.shape[1], -1))
                change = self.pace * (matrix @ driven[..., None]).squeeze(-1)
                state, before = state + change, state
                states.append(state)
        return torch.stack(states, 1)
