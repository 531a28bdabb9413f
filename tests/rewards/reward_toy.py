"""A world small enough to know every answer: a hand carries a block across a 32-pixel picture to a goal.

Two cameras, ``front`` and ``close``. The block's colour is what the instruction names ("move the red
block"); a block of another colour stands by and never moves. `privileged` is hand x, y, block x, y and
goal x, y in [0, 1]; `state` is the hand; actions move it (and the block, once reached) by up to 0.1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from regrip.datasets.episode import Rollouts
from regrip.datasets.starts import StartState, counter_generator
from regrip.rewards.binary import at_last_step

SIZE, NUM_DECISIONS, CHUNK = 32, 12, 2
COLOURS = {"red": (220, 40, 40), "green": (40, 200, 40), "blue": (50, 80, 230)}


@dataclass(frozen=True)
class Carry:
    """One episode.

    Attributes:
        reach: share of the whole way (hand to block, block to goal) that is gone; 1 succeeds.
        colour: of the block that is to be moved, and is.
        index: of the start state.
        row: tells members of a group apart.
        split: of the start state.
    """

    reach: float = 1.0
    colour: str = "red"
    index: int = 0
    row: int = 0
    split: str = "train"


def progress_of(privileged: NDArray[np.floating]) -> NDArray[np.float64]:
    """The truth, (...,6) to (...): 1 less the way that is left, where 1.4 is a long way."""
    hand, block, goal = privileged[..., :2], privileged[..., 2:4], privileged[..., 4:]
    left = np.linalg.norm(hand - block, axis=-1) + np.linalg.norm(block - goal, axis=-1)
    return np.asarray(np.clip(1 - left / 1.4, 0, 1))


def draw(privileged: NDArray[np.floating], colour: str) -> NDArray[np.uint8]:
    """(T,6) to pictures (T,32,32,3)."""
    other = next(name for name in COLOURS if name != colour)
    frames = np.full((len(privileged), SIZE, SIZE, 3), 235, np.uint8)
    for frame, numbers in zip(frames, privileged, strict=True):
        hand, block, goal = numbers[:2], numbers[2:4], numbers[4:6]
        _square(frame, goal, 4, (150, 150, 150))
        _square(frame, np.array([0.9, 0.9]), 2, COLOURS[other])
        _square(frame, block, 2, COLOURS[colour])
        _square(frame, hand, 1, (0, 0, 0))
    return frames


def _square(frame: NDArray[np.uint8], at: NDArray[np.floating], half: int, colour: tuple[int, ...]) -> None:
    x, y = (np.clip(at, 0, 1) * (SIZE - 1)).round().astype(int)
    frame[max(0, y - half) : y + half + 1, max(0, x - half) : x + half + 1] = colour


def carry(episodes: Sequence[Carry], iteration: int = 0) -> Rollouts:
    """Rollouts; everything random depends on the episode and the iteration only, never on its row."""
    count = len(episodes)
    privileged = np.zeros((count, NUM_DECISIONS, 6), np.float32)
    action = np.zeros((count, NUM_DECISIONS, CHUNK, 2), np.float32)
    valid = np.zeros((count, NUM_DECISIONS, CHUNK), bool)
    front = np.zeros((count, NUM_DECISIONS, SIZE, SIZE, 3), np.uint8)
    for row, episode in enumerate(episodes):
        places = counter_generator("toy start", episode.colour, episode.index)
        hand, block, goal = (places.uniform(*span, 2) for span in ((0.05, 0.2), (0.3, 0.5), (0.65, 0.8)))
        generator = counter_generator("toy", iteration, repr(episode))
        length = 9 if episode.reach >= 1 else NUM_DECISIONS
        to_block, to_goal = np.linalg.norm(block - hand), np.linalg.norm(goal - block)
        gone = np.linspace(0, episode.reach, length) * (to_block + to_goal)
        for step, way in enumerate(gone):
            here = hand + (block - hand) * min(1, way / to_block)
            carried = block + (goal - block) * max(0, (way - to_block) / to_goal)
            here = carried if way > to_block else here
            privileged[row, step] = [*here, *carried, *goal]
        privileged[row, :length] += generator.normal(scale=0.004, size=(length, 6))
        moves = np.diff(privileged[row, :length, :2], axis=0)
        moves = np.concatenate([moves, moves[-1:]])
        action[row, :length] = moves[:, None] / CHUNK
        valid[row, :length] = True
        valid[row, length - 1, 1:] = episode.reach < 1
        front[row, :length] = draw(privileged[row, :length], episode.colour)
    success = np.array([episode.reach >= 1 for episode in episodes], bool)
    keys = [f"{episode.colour}/{episode.index}" for episode in episodes]
    return Rollouts(
        start=[StartState(f"toy/{e.colour}", e.split, e.index) for e in episodes],  # type: ignore[arg-type]
        group=np.unique(keys, return_inverse=True)[1].astype(np.int64),
        instruction=[f"move the {episode.colour} block" for episode in episodes],
        images={"front": front, "close": np.ascontiguousarray(front[:, :, ::-1])},
        state=privileged[..., :2].copy(),
        privileged=privileged,
        action=action,
        valid=valid,
        reward=at_last_step(valid, success.astype(np.float32)),
        success=success,
        truncated=~success,
        invalid=np.zeros(count, bool),
        latent={},
        log_prob=np.zeros(valid.shape, np.float32),
        policy_version=iteration,
    )


def many(successes: int, failures: int, seed: int = 0, split: str = "train") -> Rollouts:
    """Successes, then failures of every reach from 0 to 0.9, over the colours in turn."""
    names = list(COLOURS)
    won = [Carry(1.0, names[n % 3], seed * 1000 + n, split=split) for n in range(successes)]
    lost = [
        Carry(0.9 * n / max(1, failures - 1), names[n % 3], seed * 1000 + 500 + n, split=split)
        for n in range(failures)
    ]
    return carry([*won, *lost])
