"""From what an episode looked like to one vector for each episode.

An encoder turns the frame (or the simulator's state) at each decision into a vector; `pool` turns the
sequence of vectors into one. Learned encoders come from the caller, because rewards know no policy: any
callable that fits `Encoder` will do. Two that need no weights are here.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ..datasets.episode import Rollouts


class Encoder(Protocol):
    """Embeds what the policy saw, decision by decision.

    It must be a fixed function of the episode: the same frames give the same vectors in every iteration and
    in every batch. The vision tower of the *base* policy is one; the tower that is being trained is not, for
    then the reference bank would compare vectors of different spaces.
    """

    def __call__(self, rollouts: Rollouts) -> NDArray[np.float32]:
        """Return float32 (B,D,E); what it says where a decision is not valid is not looked at."""
        ...


@dataclass(frozen=True)
class SimulatorState:
    """The simulator's own state as embedding: the upper bound for what a camera could tell.

    Attributes:
        columns: which columns of `Rollouts.privileged`; None takes all.
        scale: a factor for each column taken, to bring metres and radians to one size; None takes 1.
    """

    columns: tuple[int, ...] | None = None
    scale: tuple[float, ...] | None = None

    def __call__(self, rollouts: Rollouts) -> NDArray[np.float32]:
        state = rollouts.privileged
        if self.columns is not None:
            if max(self.columns) >= state.shape[-1]:
                raise ValueError(
                    f"simulator state has {state.shape[-1]} columns, column {max(self.columns)} was asked for"
                )
            state = state[..., list(self.columns)]
        if self.scale is not None:
            if len(self.scale) != state.shape[-1]:
                raise ValueError(
                    f"{len(self.scale)} scales for {state.shape[-1]} columns of simulator state: "
                    "give one for each column"
                )
            state = state * np.asarray(self.scale, dtype=np.float32)
        return np.asarray(state, dtype=np.float32)


@dataclass(frozen=True)
class PixelDownsample:
    """Raw pixels, averaged over a coarse grid: the lower bound a learned encoder must beat.

    Attributes:
        size: the grid has size x size cells for each camera.
        cameras: which cameras, in order; None takes all.
    """

    size: int = 8
    cameras: tuple[str, ...] | None = None

    def __call__(self, rollouts: Rollouts) -> NDArray[np.float32]:
        """Return float32 (B,D,cameras * size * size * 3) in [0, 1]."""
        names = tuple(rollouts.images) if self.cameras is None else self.cameras
        for name in names:
            if name not in rollouts.images:
                raise ValueError(f"no camera {name!r} in the rollouts, they have {sorted(rollouts.images)}")
        return np.concatenate([self._grid(rollouts.images[name]) for name in names], axis=-1)

    def _grid(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        height, width = images.shape[2:4]
        if min(height, width) < self.size:
            raise ValueError(f"a {height}x{width} image cannot fill a grid of {self.size}x{self.size} cells")
        rows, columns = (np.arange(self.size) * extent // self.size for extent in (height, width))
        cells = np.diff([*rows, height])[:, None] * np.diff([*columns, width])
        out = np.empty((*images.shape[:2], self.size, self.size, 3), dtype=np.float32)
        for episode, frames in enumerate(images):  # one episode at a time: sums need four times the memory
            sums = np.add.reduceat(np.add.reduceat(frames, rows, axis=1, dtype=np.uint32), columns, axis=2)
            out[episode] = sums / (255.0 * cells[:, :, None])
        return np.asarray(out.reshape(*images.shape[:2], -1))


@lru_cache(maxsize=4096)
def segment_weights(length: int, segments: int) -> NDArray[np.float32]:
    """How much each of `length` frames counts in each of `segments` equal parts of the sequence.

    A frame on a border is split in proportion, so every length of one frame or more works, and a single frame
    fills all segments.

    Returns:
        float32 (segments, length); rows sum to 1.
    """
    edges = np.linspace(0, length, segments + 1)
    frames = np.arange(length)
    overlap = np.minimum(edges[1:, None], frames + 1) - np.maximum(edges[:-1, None], frames)
    weights = (np.clip(overlap, 0, None) * segments / length).astype(np.float32)
    weights.flags.writeable = False  # shared by the cache
    return np.asarray(weights)


def pool(frames: NDArray[np.float32], segments: int) -> NDArray[np.float32]:
    """One vector for a sequence: the means of its first, second, ... part, side by side.

    The parts make order matter: an episode played backwards has the same overall mean, but not the same
    vector (with one segment it has). Scaled so that a squared distance is the mean over the segments.

    Args:
        frames: (T,E), T at least 1.
        segments: K.

    Returns:
        float32 (K*E,).
    """
    parts = segment_weights(len(frames), segments) @ frames
    return np.asarray(parts / np.float32(np.sqrt(segments)), dtype=np.float32).ravel()


def pool_prefixes(frames: NDArray[np.float32], segments: int) -> NDArray[np.float32]:
    """`pool` of the first 1, 2, ... T frames: (T,E) to (T,K*E). The first is that of an episode at rest."""
    return np.stack([pool(frames[: t + 1], segments) for t in range(len(frames))])


def prepare(
    frames: NDArray[np.float32],
    valid: NDArray[np.bool_],
    *,
    cosine: bool,
    relative_to_start: bool,
) -> list[NDArray[np.float32]]:
    """Cut an encoder's answer to each episode's valid decisions and bring it into the space of distances.

    Args:
        frames: (B,D,E).
        valid: (B,D) bool; valid decisions come first.
        cosine: scale each frame to unit length, so that distances compare directions.
        relative_to_start: subtract the episode's first frame, so that what counts is how the scene changed
            and not where things lay at the start.

    Returns:
        B arrays (T_b,E); T_b may be 0.

    Raises:
        ValueError: the encoder's answer has a wrong shape, or a valid decision follows an invalid one.
    """
    if frames.ndim != 3 or frames.shape[:2] != valid.shape:
        raise ValueError(
            f"the encoder returned {frames.shape}, expected ({valid.shape[0]}, {valid.shape[1]}, E): "
            "one vector for each episode and decision"
        )
    holes = np.argwhere(valid[:, 1:] & ~valid[:, :-1])
    if len(holes):
        raise ValueError(
            f"episode {holes[0, 0]}: decision {holes[0, 1] + 1} is valid but the one before it is not"
        )
    out: list[NDArray[np.float32]] = []
    for episode, length in zip(frames, valid.sum(1), strict=True):
        sequence = episode[:length].astype(np.float32)
        if cosine:
            size = np.linalg.norm(sequence, axis=-1, keepdims=True)
            sequence = sequence / np.maximum(size, np.float32(1e-12))
        if relative_to_start and length:
            sequence = sequence - sequence[0]
        out.append(sequence)
    return out


def collapse(embeddings: NDArray[np.floating]) -> float:
    """The share of the vectors' energy that all of them have in common, in [0, 1].

    1 means that all are equal (or zero): the encoder cannot tell one episode from another.
    """
    stack = embeddings.astype(np.float64)
    energy = float((stack**2).sum(-1).mean())
    return 1.0 if energy == 0 else min(1.0, float((stack.mean(0) ** 2).sum()) / energy)
