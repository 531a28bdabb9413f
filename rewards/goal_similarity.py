"""Similarity to a goal: of a whole episode (RoboCLIP), or of each frame (VIP, LIV, R3M), and their losses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from ..datasets.episode import Rollouts
from ..datasets.protocols import Score
from .encoders import (
    ImageEncoder,
    ImageTextEncoder,
    Pictures,
    Vectors,
    VideoEncoder,
    VideoTextEncoder,
    pick_cameras,
)
from .scorers import Frames
from .zero_shot import INSTRUCTION, mean_prompt

Measure = Literal["distance", "cosine"]


def demonstrations(rollouts: Rollouts, camera: str) -> dict[str, Pictures]:
    """The first success of each instruction as a clip, uint8 (T,H,W,3).

    Raises:
        ValueError: there is no such camera, or no success.
    """
    pick_cameras(rollouts, (camera,))
    shown: dict[str, Pictures] = {}
    for row in np.flatnonzero(rollouts.success & rollouts.decision_valid.any(1)):
        length = int(rollouts.decision_valid[row].sum())
        shown.setdefault(rollouts.instruction[int(row)], rollouts.images[camera][row, :length])
    if not shown:
        raise ValueError(f"none of {len(rollouts)} episodes succeeded, so none can show the goal")
    return shown


def goal_images(rollouts: Rollouts, camera: str) -> dict[str, NDArray[np.uint8]]:
    """The last frame of the first success of each instruction, uint8 (H,W,3).

    The last frame is the one the policy saw before its last chunk.
    """
    return {said: clip[-1] for said, clip in demonstrations(rollouts, camera).items()}


class VideoToDemonstration:
    """RoboCLIP: cosine of an episode's clip and a demonstration's, at the end; an `EpisodeScorer`.

    An episode whose instruction has no demonstration cannot be judged (`no_demonstration` counts it).

    Args:
        encoder: of clips. If it loses the order of frames, an episode played backwards is worth as much.
        camera: whose pictures.
        shown: instruction to a clip, see `demonstrations`.

    Source: RoboCLIP (Sontakke et al. 2023), checked against the released code, which multiplies the
    vectors of S3D; ours are of unit length.
    """

    def __init__(self, encoder: VideoEncoder, camera: str, shown: Mapping[str, Pictures]) -> None:
        self.encoder, self.camera = encoder, camera
        self._goal = dict(zip(shown, encoder.videos(list(shown.values())), strict=True))

    @property
    def bounds(self) -> tuple[float, float]:
        return (-1.0, 1.0)

    def score(self, rollouts: Rollouts) -> Score:
        known = np.array([said in self._goal for said in rollouts.instruction], bool)
        goal = np.zeros((len(rollouts), self.encoder.width), np.float32)
        for row in np.flatnonzero(known):
            goal[row] = self._goal[rollouts.instruction[int(row)]]
        score = _clip_similarity(self.encoder, self.camera, rollouts, goal, known)
        return Score(
            score.value,
            score.valid,
            {**score.components, "no_demonstration": (~known).astype(np.float32)},
        )


@dataclass(frozen=True)
class VideoToText:
    """RoboCLIP with a sentence: cosine of an episode's clip and its instruction; an `EpisodeScorer`.

    Attributes:
        encoder: of clips and sentences.
        camera: whose pictures.
        prompt: may hold ``{instruction}``.
    """

    encoder: VideoTextEncoder
    camera: str
    prompt: str = INSTRUCTION

    @property
    def bounds(self) -> tuple[float, float]:
        return (-1.0, 1.0)

    def score(self, rollouts: Rollouts) -> Score:
        said = [self.prompt.replace(INSTRUCTION, text) for text in rollouts.instruction]
        goal = self.encoder.texts(said)
        return _clip_similarity(self.encoder, self.camera, rollouts, goal, np.ones(len(rollouts), bool))


def _clip_similarity(
    encoder: VideoEncoder, camera: str, rollouts: Rollouts, goal: Vectors, known: NDArray[np.bool_]
) -> Score:
    """One episode's clip at a time goes to the encoder in lists of 16."""
    (name,) = pick_cameras(rollouts, (camera,))
    length = rollouts.decision_valid.sum(1)
    rows = np.flatnonzero((length > 0) & known)
    value = np.full(len(rollouts), np.nan, np.float32)
    for begin in range(0, len(rows), 16):
        some = rows[begin : begin + 16]
        found = encoder.videos([rollouts.images[name][row, : length[row]] for row in some])
        value[some] = np.clip((found * goal[some]).sum(-1), -1, 1)
    valid = np.isfinite(value)
    return Score(
        np.where(valid, value, 0).astype(np.float32), valid, {"unjudged": (~valid).astype(np.float32)}
    )


class GoalImage:
    """Nearness of each frame to a picture of the goal, as VIP has it; a `FrameScorer`.

    A moment whose instruction has no goal picture is NaN.

    Args:
        encoder: of pictures. VIP's own vectors are not of unit length; those of our encoders are.
        camera: whose pictures.
        goals: instruction to a picture, see `goal_images`.
        measure: ``distance`` is -||x - g|| (VIP), ``cosine`` is x . g (LIV).

    Source: VIP (Ma et al. 2022) and LIV (Ma et al. 2023), value functions checked against the released code;
    paying the difference of two values (`scorers.Difference`) is how the field uses them, not verified.
    """

    def __init__(
        self,
        encoder: ImageEncoder,
        camera: str,
        goals: Mapping[str, NDArray[np.uint8]],
        measure: Measure = "distance",
    ) -> None:
        self.encoder, self.camera = encoder, camera
        self.measure: Measure = measure
        vectors = encoder.images(np.stack(list(goals.values())))
        self._goal = dict(zip(goals, vectors, strict=True))

    @property
    def bounds(self) -> tuple[float, float]:
        return _bounds(self.measure)

    def score(self, frames: Frames) -> Vectors:
        blank = np.full(self.encoder.width, np.nan, np.float32)
        goal = np.stack([self._goal.get(said, blank) for said in frames.instruction])
        return nearness(self.encoder.images(frames.camera(self.camera)), goal, self.measure)


@dataclass(frozen=True)
class GoalText:
    """Nearness of each frame to a sentence, as LIV has it; a `FrameScorer`.

    Attributes:
        encoder: of pictures and sentences.
        camera: whose pictures.
        prompt: may hold ``{instruction}``.
        measure: see `GoalImage`.
    """

    encoder: ImageTextEncoder
    camera: str
    prompt: str = INSTRUCTION
    measure: Measure = "cosine"

    @property
    def bounds(self) -> tuple[float, float]:
        return _bounds(self.measure)

    def score(self, frames: Frames) -> Vectors:
        goal = mean_prompt(self.encoder, (self.prompt,), frames.instruction)
        return nearness(self.encoder.images(frames.camera(self.camera)), goal, self.measure)


def nearness(image: Vectors, goal: Vectors, measure: Measure) -> Vectors:
    """(N,E) and (N,E), both of unit length, to (N,): -||x - g|| in [-2, 0], or x . g in [-1, 1]."""
    if measure == "distance":
        return np.asarray(np.clip(-np.linalg.norm(image - goal, axis=-1), -2, 0), np.float32)
    return np.asarray(np.clip((image * goal).sum(-1), -1, 1), np.float32)


def _bounds(measure: Measure) -> tuple[float, float]:
    return (-2.0, 0.0) if measure == "distance" else (-1.0, 1.0)


def vip_loss(
    first: torch.Tensor,
    value: torch.Tensor,
    following: torch.Tensor,
    reward: torch.Tensor,
    gamma: float = 0.98,
    eps: float = 1e-8,
) -> torch.Tensor:
    """VIP's loss: (1-gamma) E[-V(o0)] + log(eps + E exp(-(r + gamma V(o') - V(o)))).

    Args:
        first: V(o0; g), (N,), the value of each clip's first frame.
        value: V(o; g), (N,), of a frame within it.
        following: V(o'; g), (N,), of the frame after that.
        reward: (N,), -1, and 0 where o is the goal.
        gamma: discount of one frame.
        eps: inside the logarithm.

    Source: VIP (Ma et al. 2022), checked against the released code; its optional negatives are left out.
    """
    surprise = torch.exp(-(reward + gamma * following - value)).mean()
    return (1 - gamma) * -first.mean() + torch.log(eps + surprise)


def liv_value(image: torch.Tensor, goal: torch.Tensor, gamma: float = 0.98) -> torch.Tensor:
    """LIV's value, cosine / (1 - gamma), for `vip_loss` with image or text goals; (N,E), (N,E) to (N,).

    LIV's whole loss is `vip_loss` with both kinds of goal plus CLIP's. Source: LIV (Ma et al. 2023), checked
    against the released code.
    """
    return functional.cosine_similarity(image, goal, dim=-1) / (1 - gamma)


def r3m_order_loss(
    first: torch.Tensor, middle: torch.Tensor, last: torch.Tensor, eps: float = 1e-8
) -> torch.Tensor:
    """R3M's time-contrastive part: neighbours in time are nearer than frames far apart, or of other clips.

    Args:
        first: (N,E) of a frame of each of N clips.
        middle: (N,E) of a later one.
        last: (N,E) of one later still.
        eps: inside the logarithms.

    Similarity is minus the distance; the other clip is the next in the batch. Source: R3M (Nair et al.
    2022), the form of its released code; which negatives that draws was not verified.
    """

    def near(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return torch.exp(-torch.linalg.vector_norm(a - b, dim=-1))

    far = near(first, last)
    late, early = near(middle, last), near(first, middle)
    late_loss = -torch.log(eps + late / (eps + late + far + near(last, last.roll(1, 0))))
    early_loss = -torch.log(eps + early / (eps + early + far + near(first, first.roll(1, 0))))
    return (late_loss + early_loss).mean() / 2
