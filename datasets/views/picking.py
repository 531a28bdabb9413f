"""Some rows of a track, and images made smaller: lazily, so that a view decodes and copies nothing."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..recording import Frames, Track

Fit = Literal["pad", "squash"]


@dataclass(frozen=True)
class PickedFrames:
    """Some of the images of a stream; their files are those of the source.

    Attributes:
        frames: all of them.
        rows: which, in order.
    """

    frames: Frames
    rows: range

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> NDArray[Any]:
        return self.frames[self.rows[index]]

    def __iter__(self) -> Iterator[NDArray[Any]]:
        # A video is decoded in order from its start; image files are better left alone until wanted.
        if len(self.rows) == 0 or self.rows.step < 0 or self.encoded(0) is not None:
            return (self[index] for index in range(len(self)))
        return itertools.islice(self.frames, self.rows.start, self.rows.stop, self.rows.step)

    def encoded(self, index: int) -> bytes | None:
        return self.frames.encoded(self.rows[index])


@dataclass(frozen=True)
class ResizedFrames:
    """Images of another size, made when they are asked for."""

    frames: Frames
    height: int
    width: int
    fit: Fit

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, index: int) -> NDArray[Any]:
        return resized(self.frames[index], self.height, self.width, self.fit)

    def __iter__(self) -> Iterator[NDArray[Any]]:
        return (resized(image, self.height, self.width, self.fit) for image in self.frames)

    def encoded(self, index: int) -> bytes | None:
        return None


def resized(image: NDArray[Any], height: int, width: int, fit: Fit) -> NDArray[Any]:
    """An image (H,W,3) or depth (H,W) as (height,width,...), of the same type.

    Colour is averaged (bilinear over the area that a new pixel covers), depth takes the nearest value: the
    mean of two depths is where nothing is. ``pad`` keeps the shape of things and fills the rest with
    black (depth: 0, no reading), half of it on either side; ``squash`` does not.
    """
    if image.shape[:2] == (height, width):
        return image
    inner_height, inner_width = height, width
    if fit == "pad":
        scale = min(height / image.shape[0], width / image.shape[1])
        inner_height = max(1, min(height, round(image.shape[0] * scale)))
        inner_width = max(1, min(width, round(image.shape[1] * scale)))
    small: NDArray[Any]
    if image.ndim == 2:
        rows = (np.arange(inner_height) + 0.5) * image.shape[0] / inner_height
        columns = (np.arange(inner_width) + 0.5) * image.shape[1] / inner_width
        small = image[rows.astype(np.int64)[:, None], columns.astype(np.int64)[None]]
    else:
        whole = Image.fromarray(np.ascontiguousarray(image))
        small = np.asarray(whole.resize((inner_width, inner_height), Image.Resampling.BILINEAR))
    if small.shape[:2] == (height, width):
        return small
    padded: NDArray[Any] = np.zeros((height, width, *image.shape[2:]), image.dtype)
    top, left = (height - inner_height) // 2, (width - inner_width) // 2
    padded[top : top + inner_height, left : left + inner_width] = small
    return padded


def shifted(time: NDArray[np.float64], shift_s: float | NDArray[np.float64]) -> NDArray[np.float64]:
    """Times since a later beginning: none is before it, save by the rounding of floats."""
    later = time - shift_s
    return np.where(np.asarray(shift_s) > 0, np.maximum(later, 0.0), later)


def pick(track: Track, rows: range, shift_s: float = 0.0) -> Track:
    """Some rows of a track, `shift_s` taken off their times; the track itself where that is all of it."""
    whole = rows == range(len(track))
    if whole and shift_s == 0:
        return track
    window = slice(rows.start, rows.stop, rows.step)
    time = track.time[window]
    if shift_s:
        time = shifted(time, shift_s)
    if whole:
        return Track(track.rows, time)
    if isinstance(track.rows, np.ndarray):
        return Track(track.rows[window], time)
    if isinstance(track.rows, (list, tuple)):
        return Track([track.rows[row] for row in rows], time)
    return Track(PickedFrames(cast(Frames, track.rows), rows), time)
