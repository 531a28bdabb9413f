"""Rewards read off an image-text encoder, without training: VLM-RM and VLM-RL.

Both compare a picture with sentences. A sentence may hold ``{instruction}``, which becomes the episode's own.
A prompt in another language, or of words the encoder never saw, is encoded like any other: the result is
finite and says as little as the encoder knows of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from .encoders import ImageTextEncoder, Vectors
from .scorers import Frames

INSTRUCTION = "{instruction}"
NEUTRAL = "a robot beside a table, nothing has been done yet"
Term = Callable[[Frames], NDArray[np.floating]]


def goal_baseline(
    image: NDArray[np.floating],
    target: NDArray[np.floating],
    baseline: NDArray[np.floating],
    alpha: float,
) -> Vectors:
    """How near a picture is to a target, counting what lies along the way from the baseline more.

    R = 1 - ||P (x - t)||^2 / 2 with P = alpha d d^T / ||d||^2 + (1 - alpha) I and d = t - b. With alpha 0
    and t of unit length it is the cosine.

    Args:
        image: x, (N,E) of unit length.
        target: t, (N,E) or (E,); the mean of unit vectors, not brought back to unit length.
        baseline: b, likewise.
        alpha: in [0, 1].

    Returns:
        float32 (N,) in [-1, 1]; NaN where a vector is not finite, or where t = b and alpha is not 0.

    Source: VLM-RM (Rocamonde et al. 2023), checked against the released code, which also leaves the means as
    they are.
    """
    x, t, b = (np.asarray(numbers, np.float64) for numbers in (image, target, baseline))
    away, direction = x - t, t - b
    length = np.square(direction).sum(-1, keepdims=True)
    along = np.zeros_like(away)
    if alpha:
        with np.errstate(invalid="ignore", divide="ignore"):
            share = (away * direction).sum(-1, keepdims=True) / np.where(length > 1e-12, length, np.nan)
        along = share * direction
    projected = alpha * along + (1 - alpha) * away
    return np.asarray(1 - np.square(projected).sum(-1) / 2, np.float32)


@dataclass(frozen=True)
class GoalBaseline:
    """VLM-RM: similarity to a goal sentence, regularised by a sentence for the scene; a `FrameScorer`.

    Attributes:
        encoder: of pictures and sentences.
        camera: whose pictures.
        goal: sentences for the goal; their vectors are averaged.
        baseline: sentences for a scene where nothing of note has happened; averaged.
        alpha: 0 is plain cosine, 1 looks only along the line from baseline to goal. 0.5 is the paper's.

    Source: VLM-RM (Rocamonde et al. 2023); see `goal_baseline`.
    """

    encoder: ImageTextEncoder
    camera: str
    goal: tuple[str, ...] = (INSTRUCTION,)
    baseline: tuple[str, ...] = (NEUTRAL,)
    alpha: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.alpha <= 1:
            raise ValueError(f"alpha {self.alpha} is outside [0, 1]")
        if not self.goal or not self.baseline:
            raise ValueError("goal-baseline similarity needs at least one goal and one baseline sentence")

    @property
    def bounds(self) -> tuple[float, float]:
        return (-1.0, 1.0)

    def score(self, frames: Frames) -> Vectors:
        image = self.encoder.images(frames.camera(self.camera))
        target = mean_prompt(self.encoder, self.goal, frames.instruction)
        baseline = mean_prompt(self.encoder, self.baseline, frames.instruction)
        return np.asarray(np.clip(goal_baseline(image, target, baseline, self.alpha), -1, 1))


def mean_prompt(encoder: ImageTextEncoder, prompts: Sequence[str], instructions: Sequence[str]) -> Vectors:
    """The mean vector of several sentences for each of N instructions, (N,E); at most unit length."""
    different = list(dict.fromkeys(instructions))
    said = [prompt.replace(INSTRUCTION, text) for text in different for prompt in prompts]
    if any(INSTRUCTION in prompt and not text.strip() for text in different for prompt in prompts):
        raise ValueError(
            f"an episode's instruction is empty, and the prompts {list(prompts)} are made of it: give the "
            "episodes an instruction, or prompts without {instruction}"
        )
    found = encoder.texts(said).reshape(len(different), len(prompts), -1).mean(1)
    place = {text: row for row, text in enumerate(different)}
    return np.asarray(found[[place[text] for text in instructions]])


def semantic_safety(
    negative: NDArray[np.floating], positive: NDArray[np.floating], width: float = 0.03
) -> Vectors:
    """1 where a picture is no nearer to the bad sentence than to the good one, 0 from `width` on.

    q = 1 - clip(s_negative - s_positive, 0, width) / width. The released code names its prompts in the order
    (bad, good); the sign here is its.

    Args:
        negative: (N,) similarity to what must not happen.
        positive: (N,) similarity to what should be.
        width: of the difference, in units of the cosine.

    Source: VLM-RL (contrasting language goals), checked against the released code.
    """
    difference = np.asarray(negative, np.float64) - np.asarray(positive, np.float64)
    return np.asarray(1 - np.clip(difference, 0, width) / width, np.float32)


def synthesis(
    quality: NDArray[np.floating],
    state: NDArray[np.floating],
    top: float,
    factors: Sequence[NDArray[np.floating]] = (),
    penalty: NDArray[np.floating] | None = None,
) -> Vectors:
    """(1 - |v - q * top| / top) times all factors; a negative penalty stands in its place.

    Args:
        quality: q, (N,) in [0, 1].
        state: v, (N,), in the unit of `top`: for a car its speed.
        top: what v should be where q is 1.
        factors: each (N,) in [0, 1].
        penalty: (N,); where below 0 it is the result.

    Source: VLM-RL (hierarchical reward synthesis), checked against the released code, where v is a speed of
    up to 25 km/h and the factors are centring, heading and steadiness in the lane.
    """
    value = 1 - np.abs(np.asarray(state, np.float64) - np.asarray(quality, np.float64) * top) / top
    for factor in factors:
        value = value * factor
    if penalty is not None:
        value = np.where(np.asarray(penalty) < 0, penalty, value)
    return np.asarray(value, np.float32)


@dataclass(frozen=True)
class HierarchicalSynthesis:
    """VLM-RL for any robot: what the picture says sets the target of a term of the state; a `FrameScorer`.

    For instance: the hand should be fast (``top``) where the scene looks safe, and stand still where it looks
    like a collision. The state's term is cut at 0, so that the bounds hold for any state.

    Attributes:
        encoder: of pictures and sentences.
        camera: whose pictures.
        negative: sentence for what must not happen; may hold ``{instruction}``.
        positive: sentence for what should be.
        state: (N,) of the moments.
        top: what `state` should be where the scene looks as it should.
        width: see `semantic_safety`.
        factors: by name, each (N,) in [0, 1]; cut to it.
        penalty: (N,); where below 0 it replaces the rest, cut at `worst`.
        worst: lowest penalty, 10 below as released.
    """

    encoder: ImageTextEncoder
    camera: str
    negative: str
    positive: str
    state: Term
    top: float
    width: float = 0.03
    factors: Mapping[str, Term] = field(default_factory=dict)
    penalty: Term | None = None
    worst: float = -10.0

    def __post_init__(self) -> None:
        if self.top <= 0 or self.width <= 0:
            raise ValueError(f"top {self.top} and width {self.width} must be above 0")

    @property
    def bounds(self) -> tuple[float, float]:
        return (0.0 if self.penalty is None else min(0.0, self.worst), 1.0)

    def score(self, frames: Frames) -> Vectors:
        negative, positive = _similarities(self.encoder, self.camera, frames, (self.negative, self.positive))
        base = np.maximum(
            synthesis(semantic_safety(negative, positive, self.width), self.state(frames), self.top), 0
        )
        for term in self.factors.values():
            base = base * np.clip(term(frames), 0, 1)
        if self.penalty is not None:
            given = np.maximum(self.penalty(frames), self.worst)
            base = np.where(given < 0, given, base + 0 * given)
        return np.asarray(base, np.float32)


@dataclass(frozen=True)
class ContrastingGoals:
    """VLM-RL's two sentences read as manipulation: nearer to the goal than to its opposite; a `FrameScorer`.

    (cosine to `positive` - cosine to `negative`), from -`width` as 0 to `width` as 1, cut. Symmetric, where
    VLM-RL's own form is 1 as soon as the bad sentence is no nearer, so that progress beyond that counts too
    (our derivation).

    Attributes:
        encoder: of pictures and sentences.
        camera: whose pictures.
        positive: sentence for what should be; may hold ``{instruction}``.
        negative: sentence for what should not be any more.
        width: margin that counts as full. Published CLIP models give margins of a few hundredths; one
            that was trained on the scene gives margins up to 2.
    """

    encoder: ImageTextEncoder
    camera: str
    positive: str = INSTRUCTION
    negative: str = NEUTRAL
    width: float = 0.1

    def __post_init__(self) -> None:
        if self.width <= 0:
            raise ValueError(f"width {self.width} must be above 0")

    @property
    def bounds(self) -> tuple[float, float]:
        return (0.0, 1.0)

    def score(self, frames: Frames) -> Vectors:
        positive, negative = _similarities(self.encoder, self.camera, frames, (self.positive, self.negative))
        return np.asarray(np.clip((positive - negative) / (2 * self.width) + 0.5, 0, 1), np.float32)


def _similarities(
    encoder: ImageTextEncoder, camera: str, frames: Frames, prompts: Sequence[str]
) -> list[NDArray[np.float32]]:
    """Cosine of each moment's picture to each sentence, (N,) for each sentence."""
    image = encoder.images(frames.camera(camera))
    return [(image * mean_prompt(encoder, (prompt,), frames.instruction)).sum(-1) for prompt in prompts]
