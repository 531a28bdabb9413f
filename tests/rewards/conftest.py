"""A world small enough to know the answer: a point that should travel along a line, and may stop short."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pytest

from regrip.datasets.episode import Rollouts
from regrip.datasets.starts import StartState, counter_generator

NUM_DECISIONS, CHUNK = 8, 3


@dataclass(frozen=True)
class Walk:
    """One episode: from the start towards the goal, as far as `reach`.

    Attributes:
        reach: share of the way that is gone; 1 succeeds.
        task: name after ``toy/``.
        index: of the start state; the start's position depends on it.
        row: tells members of a group apart.
        way: which of several directions leads to a success.
        split: of the start state.
        decisions: length; by default a success takes 6 decisions and a failure all 8.
    """

    reach: float
    task: str = "walk"
    index: int = 0
    row: int = 0
    way: int = 0
    split: str = "train"
    decisions: int | None = None


Play = Callable[..., Rollouts]


def play(walks: Sequence[Walk], iteration: int = 0, dims: int = 4, noise: float = 0.02) -> Rollouts:
    """Rollouts of walks; everything random depends on the walk and the iteration only, never on its row."""
    count = len(walks)
    privileged = np.zeros((count, NUM_DECISIONS, dims), dtype=np.float32)
    action = np.zeros((count, NUM_DECISIONS, CHUNK, 2), dtype=np.float32)
    valid = np.zeros((count, NUM_DECISIONS, CHUNK), dtype=bool)
    images = np.zeros((count, NUM_DECISIONS, 16, 16, 3), dtype=np.uint8)
    for row, walk in enumerate(walks):
        generator = counter_generator(iteration, repr(walk))
        ways = counter_generator("ways", walk.task).normal(size=(8, dims))
        start = 0.1 * counter_generator("start", walk.index).normal(size=dims) / np.sqrt(dims)
        length = walk.decisions or (6 if walk.reach >= 1 else NUM_DECISIONS)
        gone = np.linspace(0, walk.reach, length)[:, None]
        direction = ways[walk.way] / np.linalg.norm(ways[walk.way])
        path = start + gone * direction + noise * generator.normal(size=(length, dims))
        privileged[row, :length] = path
        action[row, :length] = generator.normal(size=(length, CHUNK, 2))
        valid[row, :length] = True
        valid[row, length - 1, 1:] = walk.reach < 1  # a success comes in the middle of the last chunk
        images[row, :length] = (127 + 100 * np.tanh(path[:, :1, None, None])).astype(np.uint8)
    success = np.array([walk.reach >= 1 for walk in walks])
    return Rollouts(
        start=[StartState(f"toy/{walk.task}", walk.split, walk.index) for walk in walks],  # type: ignore[arg-type]
        group=np.unique([f"{walk.task}/{walk.index}" for walk in walks], return_inverse=True)[1].astype(
            np.int64
        ),
        instruction=[walk.task for walk in walks],
        images={"front": images},
        state=privileged[..., :2].copy(),
        privileged=privileged,
        action=action,
        valid=valid,
        reward=np.zeros(valid.shape, dtype=np.float32),
        success=success,
        truncated=~success,
        invalid=np.zeros(len(success), bool),
        latent={},
        log_prob=np.zeros(valid.shape, dtype=np.float32),
        policy_version=iteration,
    )


@pytest.fixture(name="play")
def play_fixture() -> Play:
    return play


@pytest.fixture(name="walk")
def walk_fixture() -> type[Walk]:
    return Walk
