"""A learned world as a judge of chunks: for choosing among them while acting, and for preferences."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ..datasets.episode import Observation
from ..datasets.spec import RobotSpec
from ..sim.world.files import WorldFileError, load_world
from ..sim.world.goals import Goals, score_chunks, tokens_of
from ..sim.world.model import WorldModel

GOALS = "goals.safetensors"
"""Beside a world model: how its successful training episodes ended."""


@dataclass(frozen=True)
class WorldScores:
    """Scores chunks by where a world model imagines that they lead. It is a `vla.selecting.Score`.

    Attributes:
        model: the world.
        goals: how its successes ended; None scores by the reflector.
        steps: decisions imagined, at most; see `sim.world.goals.score_chunks`.
    """

    model: WorldModel
    goals: Goals | None
    steps: int = 4

    @classmethod
    def open(
        cls, folder: Path, by: Literal["goal", "reflector"] = "goal", device: str = "cpu", steps: int = 4
    ) -> WorldScores:
        """Read the model in `folder`.

        Raises:
            WorldFileError: there is none, or none of its goals.
        """
        model, _, _ = load_world(folder, device)
        if by == "reflector":
            return cls(model, None, steps)
        if not (folder / GOALS).exists():
            raise WorldFileError(
                f"{folder} holds no goals: {GOALS} is missing, for an earlier version fitted it; fit it "
                "again, or score by the reflector"
            )
        return cls(model, Goals.load(folder / GOALS), steps)

    def require(self, spec: RobotSpec, chunk_size: int, whose: str) -> None:
        """Refuse a policy whose chunks cannot be imagined here.

        Raises:
            SpecMismatchError: it is of another robot.
            ValueError: its chunks are shorter than one step of the world.
        """
        self.model.spec.require_match(spec, "the world model", whose)
        if chunk_size < self.model.config.chunk:
            raise ValueError(
                f"{whose} plans {chunk_size} actions, and the world model goes on by "
                f"{self.model.config.chunk} at a time: fit a model with --chunk {chunk_size} or less"
            )

    def scored(self, chunk_size: int) -> int:
        """How many of a chunk's actions its score depends on."""
        size = self.model.config.chunk
        return min(chunk_size // size, self.steps) * size

    def goals_from(self, observation: Observation) -> Tensor | None:
        """Where episodes that began like this one are to end, (B,C,n,d); None for the reflector."""
        if self.goals is None:
            return None
        tokens = tokens_of(self.model, self._pictures(observation))
        return self.goals.nearest(list(observation.instruction), tokens)

    def score(
        self, observation: Observation, chunks: NDArray[np.float32], goal: Tensor | None
    ) -> NDArray[np.float32]:
        """Chunks (B,N,H,A) in physical units, with goals from `goals_from`: (B,N), higher is better."""
        return score_chunks(
            self.model, self._pictures(observation), observation.state, list(observation.instruction),
            chunks, goal, self.steps,
        )  # fmt: skip

    def __call__(self, observation: Observation, chunks: NDArray[np.float32]) -> NDArray[np.float32]:
        """Likewise, towards the goal of the success that began most like what is seen now."""
        return self.score(observation, chunks, self.goals_from(observation))

    def _pictures(self, observation: Observation) -> NDArray[np.uint8]:
        return np.stack([observation.images[camera.name] for camera in self.model.spec.cameras], 1)
