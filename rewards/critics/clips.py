"""Clips of successes for models that read several frames: forward, rewound, paused, still, reversed.

A clip begins at a frame `start` and is a list of offsets from it. Played forward they rise; a rewind appends
the last of them in reverse order; a pause repeats one; a still clip is all zeros; a reversed clip falls below
zero. What each moment is worth is a function of its offset, so that none of these needs a label of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .inputs import Material

Offsets = NDArray[np.int64]
Level = Callable[[Offsets, int], NDArray[np.float32]]


@dataclass(frozen=True)
class ClipOptions:
    """Which clips are drawn.

    Attributes:
        anchored: share of the forward and still clips that begins at the episode's first frame; the others
            begin anywhere.
        rewind: share of the forward clips that is rewound (ReWiND and SARM: 0.8).
        still: share that shows one frame held still.
        reversed: share that is played backwards.
        paused: share of the forward clips in which frames are repeated.
        mismatched: share that is told with another episode's words; its level is 0.
    """

    anchored: float = 0.6
    rewind: float = 0.8
    still: float = 0.2
    reversed: float = 0.1
    paused: float = 0.3
    mismatched: float = 0.3

    def __post_init__(self) -> None:
        for name, share in vars(self).items():
            if not 0 <= share <= 1:
                raise ValueError(f"clip share {name} is {share}, expected 0 to 1")


def share_done(offsets: Offsets, remaining: int) -> NDArray[np.float32]:
    """ReWiND's level, (k + 1) / (N - start) for frame start + k; 0 before the start.

    Args:
        offsets: k, (L,).
        remaining: N - start.
    """
    return np.clip((offsets + 1) / remaining, 0, 1).astype(np.float32)


def share_gone(offsets: Offsets, remaining: int) -> NDArray[np.float32]:
    """Robometer's level, k / (N - start - 1) for frame start + k; 0 before the start, 1 at the end."""
    if remaining == 1:
        return (offsets >= 0).astype(np.float32)
    return np.clip(offsets / (remaining - 1), 0, 1).astype(np.float32)


def rewound(offsets: Offsets, rewind: int) -> Offsets:
    """Append the `rewind` frames before the last one, in reverse order."""
    tail = offsets[-2::-1][:rewind]
    return np.concatenate([offsets, tail])


def thin(offsets: Offsets, most: int) -> Offsets:
    """At most `most` of them, evenly spaced, the first and the last among them."""
    if len(offsets) <= most:
        return offsets
    return offsets[np.linspace(0, len(offsets) - 1, most).round().astype(np.int64)]


def draw_clip(length: int, options: ClipOptions, draw: np.random.Generator) -> tuple[int, Offsets]:
    """A clip of an episode of `length` frames (at least 2): where it begins, and its offsets."""
    kind = draw.random()
    if kind < options.still:
        start = 0 if draw.random() < options.anchored else int(draw.integers(length))
        return start, np.zeros(int(draw.integers(2, length + 1)), np.int64)
    if kind < options.still + options.reversed:
        start = length - 1 if draw.random() < 0.5 else int(draw.integers(1, length))
        return start, -np.arange(int(draw.integers(2, start + 2)))
    start = 0 if draw.random() < options.anchored else int(draw.integers(length - 1))
    whole = draw.random() < 0.5
    offsets = np.arange(length - start if whole else int(draw.integers(2, length - start + 1)))
    if draw.random() < options.rewind and len(offsets) > 1:
        offsets = rewound(offsets, int(draw.integers(1, len(offsets))))
    if draw.random() < options.paused:
        at = int(draw.integers(len(offsets)))
        offsets = np.insert(offsets, at, [offsets[at]] * int(draw.integers(1, 4)))
    return start, offsets


@dataclass(frozen=True)
class Clips:
    """A batch of clips.

    Attributes:
        frames: int (N,L), index into `Material.frames`; behind a clip's end its last frame again.
        level: float32 (N,L), what the moment is worth, in [0, 1].
        mask: bool (N,L), true inside the clip.
        sentence: int (N,), index into `Material.sentences`.
        right: bool (N,), false where the words are another task's.
    """

    frames: NDArray[np.int64]
    level: Tensor
    mask: Tensor
    sentence: NDArray[np.int64]
    right: NDArray[np.bool_]


def stack_clips(clips: list[NDArray[np.int64]], levels: list[NDArray[np.float32]]) -> Clips:
    """Clips and their levels, padded to the longest; sentences are all 0 and right."""
    longest = max(map(len, clips))
    frames = np.stack([np.pad(clip, (0, longest - len(clip)), mode="edge") for clip in clips])
    level = np.stack([np.pad(one, (0, longest - len(one))) for one in levels])
    mask = np.arange(longest)[None] < np.array([len(clip) for clip in clips])[:, None]
    told, right = np.zeros(len(clips), np.int64), np.ones(len(clips), bool)
    return Clips(frames, torch.from_numpy(level), torch.from_numpy(mask), told, right)


def draw_clips(
    material: Material,
    options: ClipOptions,
    level: Level,
    draw: np.random.Generator,
    batch: int,
    most: int,
) -> Clips:
    """A batch of clips of successes.

    Args:
        material: drawn from.
        options: which clips.
        level: what an offset is worth.
        draw: random numbers.
        batch: N.
        most: frames in a clip, at most.
    """
    rows = draw.choice(material.successes, batch)
    clips, levels, sentences, right = [], [], [], []
    for row in rows:
        length = int(material.length[row])
        start, offsets = draw_clip(length, options, draw) if length > 1 else (0, np.zeros(1, np.int64))
        offsets = thin(offsets, most)
        other = material.other_sentence(row, draw) if draw.random() < options.mismatched else None
        clips.append(material.first[row] + start + offsets)
        worth = level(offsets, length - start)
        levels.append(worth if other is None else np.zeros_like(worth))
        sentences.append(int(material.sentence[row]) if other is None else other)
        right.append(other is None)
    stacked = stack_clips(clips, levels)
    return Clips(stacked.frames, stacked.level, stacked.mask, np.array(sentences), np.array(right))


def prefix_clips(length: int, most: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Which frames are read to know moment 0, 1, ... of an episode, and where in them that moment is.

    A causal model that read the first `most` frames knows all of these moments; a later one needs a clip of
    its own, thinned to `most` frames.

    Returns:
        int (K,L) frames of each clip, and int (length,2): the row of the clip and the place in it.
    """
    clips = [np.arange(min(most, length)), *(thin(np.arange(t + 1), most) for t in range(most, length))]
    where = [(0, t) if t < most else (t - most + 1, most - 1) for t in range(length)]
    return np.stack(clips), np.array(where)
