"""Frames with a label, success or not, for heads that judge single frames."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .inputs import Material


@dataclass(frozen=True)
class LabelOptions:
    """Which frames show a success, and which do not.

    Attributes:
        last: how many frames at the end of a success show it. A decision's frame is taken before its chunk is
            executed, so the last one may be taken just before success.
        clear: frames of a success before this share of it do not show it; those between are left out.
        mismatched: share of the samples that show a success but are told with another task's words: none.
    """

    last: int = 1
    clear: float = 0.8
    mismatched: float = 0.2

    def __post_init__(self) -> None:
        if self.last < 1 or not 0 < self.clear <= 1 or not 0 <= self.mismatched < 1:
            raise ValueError(f"{self}: last is at least 1, clear in (0, 1], mismatched in [0, 1)")


@dataclass(frozen=True)
class Labelled:
    """A batch of N frames.

    Attributes:
        frames: int (N,), index into `Material.frames`.
        sentence: int (N,), index into `Material.sentences`.
        label: float32 (N,), 1 for a success.
    """

    frames: NDArray[np.int64]
    sentence: NDArray[np.int64]
    label: Tensor


def success_label(index: int, length: int, options: LabelOptions) -> float:
    """The label of a frame of a success of `length` frames: 1, 0, or NaN where it is left out."""
    if index >= length - options.last:
        return 1.0
    return 0.0 if index < options.clear * (length - 1) else float("nan")


def draw_labelled(
    material: Material, options: LabelOptions, draw: np.random.Generator, batch: int
) -> Labelled:
    """As many successes as not, so that neither class outweighs the other.

    Half of what is no success comes from failures (any frame), half from the beginnings of successes; where
    there are no failures, all of it. Mismatched words come on top of these.
    """
    frames, sentence = np.zeros(batch, np.int64), np.zeros(batch, np.int64)
    label = np.zeros(batch, np.float32)
    for n in range(batch):
        row = int(draw.choice(material.successes))
        other = material.other_sentence(row, draw) if draw.random() < options.mismatched else None
        positive = other is not None or draw.random() < 0.5
        if not positive and len(material.failures) and draw.random() < 0.5:
            row = int(draw.choice(material.failures))
            at = int(draw.integers(material.length[row]))
        else:
            length = int(material.length[row])
            held = np.array([success_label(t, length, options) for t in range(length)])
            wanted = np.flatnonzero(held == float(positive))
            positive |= not len(wanted)  # an episode of one frame shows nothing but its success
            at = int(draw.choice(wanted)) if len(wanted) else length - 1
        frames[n] = material.first[row] + at
        sentence[n] = material.sentence[row] if other is None else other
        label[n] = float(positive and other is None)
    return Labelled(frames, sentence, torch.from_numpy(label))
