"""Pictures, sentences and clips to vectors of unit length: what every embedding reward is built on.

Three protocols: `ImageEncoder`, `ImageTextEncoder` and `VideoEncoder`. Models that fit them are in
`open_clip_encoder` and `transformers_encoders`, loaded from a folder or a hub id that the user names. The
adapters here turn them into each other and into the `Encoder` of the self-referential reward.

A vector that is not finite, or has no length, comes back as NaN: who scores with it says "could not judge".
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from ..datasets.episode import Rollouts
from .embedding import pool

Pictures = NDArray[np.uint8]
Vectors = NDArray[np.float32]
Interpolation = Literal["bilinear", "bicubic"]

TEXTS_KEPT = 4096


class ImageEncoder(Protocol):
    """Embeds pictures."""

    @property
    def name(self) -> str:
        """For logs."""
        ...

    @property
    def width(self) -> int:
        """E."""
        ...

    def images(self, images: Pictures) -> Vectors:
        """Uint8 (N,H,W,3) RGB to float32 (N,E) of unit length."""
        ...


class ImageTextEncoder(ImageEncoder, Protocol):
    """Embeds pictures and sentences in one space."""

    def texts(self, texts: Sequence[str]) -> Vectors:
        """N sentences to float32 (N,E) of unit length.

        Raises:
            ValueError: a sentence is empty.
        """
        ...


class VideoEncoder(Protocol):
    """Embeds clips of any length."""

    @property
    def name(self) -> str:
        """For logs."""
        ...

    @property
    def width(self) -> int:
        """E."""
        ...

    def videos(self, clips: Sequence[Pictures]) -> Vectors:
        """N clips, each uint8 (T,H,W,3) with a T of its own, to float32 (N,E) of unit length."""
        ...


class VideoTextEncoder(VideoEncoder, Protocol):
    """Embeds clips and sentences in one space."""

    def texts(self, texts: Sequence[str]) -> Vectors:
        """N sentences to float32 (N,E) of unit length."""
        ...


@dataclass(frozen=True)
class Preprocess:
    """What a model wants done to a picture, from its own configuration.

    Attributes:
        size: height and width the model sees.
        mean: of each colour, of values in [0, 1]; subtracted.
        std: of each colour; divided by.
        shortest: resize the shorter edge to this many pixels and cut `size` from the middle; None squeezes
            the whole picture into `size`, which keeps what happens at the edges of a robot's view.
        interpolation: of the resize, always with antialiasing.
    """

    size: tuple[int, int]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    shortest: int | None = None
    interpolation: Interpolation = "bicubic"

    def __post_init__(self) -> None:
        if min(self.size) < 1 or min(self.std) <= 0:
            raise ValueError(f"a picture of {self.size} pixels with a std of {self.std}: expected above 0")
        if self.shortest is not None and self.shortest < max(self.size):
            raise ValueError(
                f"the shorter edge is resized to {self.shortest}, which cannot hold a crop of {self.size}; "
                "give a crop no larger than that edge"
            )

    def __call__(self, images: Pictures, device: str = "cpu") -> torch.Tensor:
        """Uint8 (N,H,W,3) to float32 (N,3,h,w); resized as bytes, as these models' own code does."""
        picture = torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2)
        height, width = picture.shape[-2:]
        target = self.size
        if self.shortest is not None:
            short = min(height, width)
            target = (int(self.shortest * height / short), int(self.shortest * width / short))
        if target != (height, width):
            picture = functional.interpolate(picture, size=target, mode=self.interpolation, antialias=True)
        top, left = (round((there - kept) / 2) for there, kept in zip(target, self.size, strict=True))
        picture = picture[..., top : top + self.size[0], left : left + self.size[1]]
        mean, std = (
            torch.tensor(numbers, device=device).view(1, 3, 1, 1) for numbers in (self.mean, self.std)
        )
        return (picture.to(device).float() / 255 - mean) / std


def normalised_by(frames: Sequence[Pictures], size: int) -> Preprocess:
    """Squeeze into `size` and normalise by the frames' own mean and spread: a plain background is near 0.

    Args:
        frames: parts, each (N,H,W,3); every part counts by up to 64 to 127 of its frames.
        size: pixels of a side.
    """
    some = np.concatenate([part[:: max(1, len(part) // 64)] for part in frames]).reshape(-1, 3) / 255
    mean, std = some.mean(0).round(4).tolist(), np.maximum(some.std(0).round(4), 0.02).tolist()
    return Preprocess((size, size), (mean[0], mean[1], mean[2]), (std[0], std[1], std[2]))


def unit(vectors: NDArray[np.floating]) -> Vectors:
    """(...,E) scaled to length 1; NaN where the length is 0 or not finite."""
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        length = np.linalg.norm(vectors, axis=-1, keepdims=True)
        return np.asarray(np.where(length > 0, vectors / length, np.nan), dtype=np.float32)


def distinct(pictures: Sequence[NDArray[np.uint8]]) -> tuple[list[int], NDArray[np.int64]]:
    """Where each different picture (or clip) first is, and for each of N which of those it is."""
    first: list[int] = []
    known: dict[tuple[Any, bytes], int] = {}
    which = np.zeros(len(pictures), np.int64)
    for row, picture in enumerate(pictures):
        key = picture.shape, blake2b(np.ascontiguousarray(picture).data, digest_size=16).digest()
        if key not in known:
            known[key] = len(first)
            first.append(row)
        which[row] = known[key]
    return first, which


def each_once(
    pictures: Sequence[NDArray[np.uint8]] | Pictures,
    width: int,
    batch: int,
    encode: Callable[[NDArray[np.uint8]], NDArray[np.floating]],
) -> Vectors:
    """Encode each different picture (or clip of one length) once, `batch` at a time; (N,E) of unit length."""
    first, which = distinct(list(pictures))
    found = np.zeros((len(first), width), np.float32)
    for begin in range(0, len(first), batch):
        rows = first[begin : begin + batch]
        found[begin : begin + batch] = unit(encode(np.stack([pictures[row] for row in rows])))
    return found[which]


def check_pictures(images: Pictures) -> None:
    """Raise unless the array is uint8 (N,H,W,3).

    Raises:
        ValueError: it is not.
    """
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] != 3:
        raise ValueError(f"pictures are {images.dtype} {images.shape}, expected uint8 (N,H,W,3)")


class TextCache:
    """Encodes each sentence once for as long as it is remembered."""

    def __init__(self, encode: Callable[[list[str]], NDArray[np.floating]], batch: int) -> None:
        self._encode, self._batch = encode, batch
        self._known: dict[str, Vectors] = {}

    def __call__(self, texts: Sequence[str]) -> Vectors:
        """N sentences to (N,E) of unit length.

        Raises:
            ValueError: one is empty, or there are none.
        """
        if not len(texts):
            raise ValueError("there are no sentences to encode")
        for row, text in enumerate(texts):
            if not text.strip():
                raise ValueError(
                    f"sentence {row} of {len(texts)} is empty ({text!r}): an image-text reward needs words; "
                    "give the episodes an instruction, or the reward a template with words of its own"
                )
        if len(self._known) + len(set(texts)) > TEXTS_KEPT:
            self._known.clear()
        fresh = [text for text in dict.fromkeys(texts) if text not in self._known]
        for begin in range(0, len(fresh), self._batch):
            some = fresh[begin : begin + self._batch]
            self._known |= dict(zip(some, unit(self._encode(some)), strict=True))
        return np.stack([self._known[text] for text in texts])


def pick_cameras(rollouts: Rollouts, cameras: Sequence[str] | None) -> tuple[str, ...]:
    """The cameras asked for, all if None.

    Raises:
        ValueError: one is not in the rollouts.
    """
    names = tuple(rollouts.images) if cameras is None else tuple(cameras)
    for name in names:
        if name not in rollouts.images:
            raise ValueError(f"no camera {name!r} in the rollouts, they have {sorted(rollouts.images)}")
    return names


@dataclass(frozen=True)
class CameraEncoder:
    """An image encoder as the `Encoder` of the self-referential reward.

    Attributes:
        encoder: of single frames.
        cameras: their vectors stand side by side, in order; None takes all.
        batch: frames gathered at a time.
    """

    encoder: ImageEncoder
    cameras: tuple[str, ...] | None = None
    batch: int = 256

    def __call__(self, rollouts: Rollouts) -> Vectors:
        """Return float32 (B,D,cameras * E), zeros where no decision was taken.

        Raises:
            ValueError: a camera is missing.
        """
        names = pick_cameras(rollouts, self.cameras)
        rows, decisions = np.nonzero(rollouts.decision_valid)
        out = np.zeros((*rollouts.decision_valid.shape, len(names), self.encoder.width), np.float32)
        for place, name in enumerate(names):
            for begin in range(0, len(rows), self.batch):
                at = rows[begin : begin + self.batch], decisions[begin : begin + self.batch]
                out[(*at, place)] = self.encoder.images(rollouts.images[name][at])
        return out.reshape(*out.shape[:2], -1)


@dataclass(frozen=True)
class VideoWindows:
    """A video encoder as the `Encoder` of the self-referential reward.

    Attributes:
        encoder: of clips.
        cameras: their vectors stand side by side, in order; None takes all.
        window: decisions a clip reaches back; as many as the longest episode makes it the episode so far.
            None gives the vector of the whole episode at every decision (which then says nothing about
            progress inside it: for the self-referential reward ``as_released``).
        batch: clips gathered at a time.
    """

    encoder: VideoEncoder
    cameras: tuple[str, ...] | None = None
    window: int | None = 8
    batch: int = 16

    def __call__(self, rollouts: Rollouts) -> Vectors:
        """Return float32 (B,D,cameras * E), zeros where no decision was taken.

        Raises:
            ValueError: a camera is missing.
        """
        names = pick_cameras(rollouts, self.cameras)
        mask = rollouts.decision_valid
        length = mask.sum(1)
        out = np.zeros((*mask.shape, len(names), self.encoder.width), np.float32)
        wanted = np.argwhere(mask) if self.window is not None else np.argwhere(mask[:, :1])
        for place, name in enumerate(names):
            for begin in range(0, len(wanted), self.batch):
                some = wanted[begin : begin + self.batch]
                clips = []
                for row, decision in some:
                    end = int(length[row]) if self.window is None else decision + 1
                    clips.append(rollouts.images[name][row, max(0, end - (self.window or end)) : end])
                found = self.encoder.videos(clips)
                for (row, decision), vector in zip(some, found, strict=True):
                    if self.window is None:
                        out[row, : length[row], place] = vector
                    else:
                        out[row, decision, place] = vector
        return out.reshape(*mask.shape, -1)


def resample(length: int, count: int) -> NDArray[np.int64]:
    """Which `count` of `length` frames, evenly from first to last; repeats where there are too few."""
    return np.linspace(0, length - 1, count).round().astype(np.int64)


@dataclass(frozen=True)
class MeanFrames:
    """An image-text encoder as a `VideoTextEncoder`: the means of a clip's first, second, ... part.

    With one part the order of the frames is lost, and a clip played backwards has the same vector.

    Attributes:
        encoder: of single frames and sentences.
        frames: taken evenly from each clip.
        parts: of the clip; their means stand side by side. A sentence stands beside itself as often.
    """

    encoder: ImageTextEncoder
    frames: int = 16
    parts: int = 1

    @property
    def name(self) -> str:
        return f"mean of {self.encoder.name}"

    @property
    def width(self) -> int:
        return self.encoder.width * self.parts

    def videos(self, clips: Sequence[Pictures]) -> Vectors:
        out = np.zeros((len(clips), self.width), np.float32)
        for row, clip in enumerate(clips):
            shown = clip[resample(len(clip), min(len(clip), self.frames))]
            out[row] = pool(self.encoder.images(shown), self.parts)
        return unit(out)

    def texts(self, texts: Sequence[str]) -> Vectors:
        return unit(np.tile(self.encoder.texts(texts), self.parts))
