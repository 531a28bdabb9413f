"""SARM: which stage of the task an episode is in, and how far in it; from the two, one level.

Source: SARM (arXiv 2509.25358). Checked against the released code (opensarm): cross entropy of the stage and
squared error of the fraction, the fraction told the true stage half of the time, stage + fraction cut to
[0, C - 1] and mapped piecewise by the stages' durations, a smoother that weights the last ten levels by
confidence cubed and holds its last value below a confidence of 0.9, rewinding at 0.8, other words at 0.2 with
level 0, the first frame and eight more at equal gaps (30 there). Taken for the confidence: the probability
of the chosen stage (not verified). Every frame of a window but the first is learned from, each from those
before it; only the last is asked about. Stages need annotation; where there is none, a success is cut into
stages of equal duration, and the last of the C classes is "finished".
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from ...datasets.episode import Rollouts
from ...datasets.protocols import Progress
from .clips import ClipOptions, draw_clip
from .config import CriticConfig
from .critic import Critic, listen, look
from .inputs import Inputs, Material
from .layers import FrameTransformer, Heads, Senses
from .rewind import levels_of

STAGE = "stage"  # the annotation: 0, 1, ... for each decision of a success


@dataclass(frozen=True)
class SarmOptions:
    """Settings of SARM.

    Attributes:
        stages: of a task, without "finished".
        frames: seen besides the first one, the last of them the moment itself.
        gap: decisions between two of them.
        smooth: levels that are averaged; 1 smooths nothing. The release has 10 at the rate of its camera.
        confidence: below it the last level is held; 0 never holds.
        taught: share of the samples in which the fraction is told the true stage.
        clips: which clips are drawn.
    """

    stages: int = 5
    frames: int = 8
    gap: int = 1
    smooth: int = 1
    confidence: float = 0.0
    taught: float = 0.5
    clips: ClipOptions = field(default_factory=lambda: ClipOptions(mismatched=0.2))

    def __post_init__(self) -> None:
        if min(self.stages, self.frames, self.gap, self.smooth) < 1:
            raise ValueError(f"{self}: stages, frames, gap and smooth are at least 1")
        if not 0 <= self.confidence <= 1 or not 0 <= self.taught <= 1:
            raise ValueError(f"{self}: confidence and taught are in [0, 1]")


def equal_stages(length: int, stages: int) -> NDArray[np.float32]:
    """Stage + fraction of each of `length` frames of a success without annotation, from 0 to `stages`."""
    return np.linspace(0, stages, length, dtype=np.float32) if length > 1 else np.full(1, stages, np.float32)


def annotated_stages(stage: NDArray[np.floating], stages: int) -> NDArray[np.float32]:
    """Stage + fraction of each frame of a success from its stage numbers, which never fall.

    The fraction rises evenly from the first frame of a stage to the first of the next; the last frame is
    finished.

    Raises:
        ValueError: a number is not among 0..stages - 1, or they fall.
    """
    number = stage.astype(np.int64)
    if (np.diff(number) < 0).any() or number.min() < 0 or number.max() >= stages:
        raise ValueError(
            f"stages {number.tolist()}: expected numbers from 0 to {stages - 1} that never fall; change the "
            "annotation or the option stages"
        )
    starts = np.searchsorted(number, number, side="left")
    ends = np.searchsorted(number, number, side="right")
    whole = (number + (np.arange(len(number)) - starts) / (ends - starts)).astype(np.float32)
    whole[-1] = stages
    return whole


def knots_of(stage_levels: list[NDArray[np.float32]], stages: int) -> NDArray[np.float32]:
    """Levels at the beginning of each stage and the end of the last: mean shares of time, summed.

    Args:
        stage_levels: stage + fraction of each success.
        stages: C - 1.

    Returns:
        float32 (C,), from 0 to 1, never falling.
    """
    shares = np.zeros(stages)
    for whole in stage_levels:
        count = np.bincount(np.clip(whole[:-1].astype(np.int64), 0, stages - 1), minlength=stages)
        shares += count / max(1, count.sum())
    total = shares.sum()
    shares = shares / total if total else np.full(stages, 1 / stages)
    knots = np.concatenate([[0.0], np.cumsum(shares)]).astype(np.float32)
    knots[-1] = 1.0
    return knots


def level_of(whole: NDArray[np.floating], knots: NDArray[np.floating]) -> NDArray[np.float32]:
    """Stage + fraction to a level: cut to [0, C - 1], then straight lines between the knots (C,)."""
    places = np.arange(len(knots))
    return np.asarray(np.interp(np.clip(whole, 0, len(knots) - 1), places, knots), np.float32)


def smooth(
    levels: NDArray[np.floating], confidence: NDArray[np.floating], window: int = 10, hold: float = 0.9
) -> NDArray[np.float32]:
    """Levels (T,) as the released smoother gives them one after the other.

    A moment of a confidence of `hold` or more is averaged with such moments among the last `window`, weighted
    with confidence cubed; another one repeats the value before it (its own level if there is none).
    """
    kept: list[tuple[float, float]] = []
    out: list[float] = []
    for level, sure in zip(levels.tolist(), confidence.tolist(), strict=True):
        if sure < hold:
            out.append(out[-1] if out else level)
            continue
        kept = [*kept, (level, sure**3)][-window:]
        weight = sum(w for _, w in kept)
        out.append(sum(v * w for v, w in kept) / weight if weight else level)
    return np.asarray(out, np.float32)


def window_of(count: int, at: int, frames: int, gap: int) -> NDArray[np.int64]:
    """Places (1 + frames,) in a clip of `count` frames: its first, then every `gap`-th up to `at`."""
    back = at - gap * np.arange(frames - 1, -1, -1)
    return np.concatenate([[0], np.clip(back, 0, count - 1)])


class SarmNetwork(nn.Module):
    """A window of frames (N,1+F,E) and a sentence (N,T) to stage logits (N,C) and fractions (members,N)."""

    knots: Tensor

    def __init__(self, inputs: Inputs, config: CriticConfig[SarmOptions]) -> None:
        super().__init__()
        sizes, self.options = config.network, config.options
        self.senses = Senses(inputs, sizes)
        self.transformer = FrameTransformer(sizes, causal=True)
        classes = self.options.stages + 1
        self.stage = Heads(sizes.hidden, classes, 1)
        self.told = nn.Embedding(classes, sizes.hidden)
        self.fraction = Heads(sizes.hidden, 1, sizes.ensemble)
        self.register_buffer("knots", torch.linspace(0, 1, classes))

    def prepare(self, material: Material) -> None:
        """Take the stages' durations from the successes that are trained on."""
        whole = [self._stages(material, row) for row in material.successes]
        self.knots = torch.from_numpy(knots_of(whole, self.options.stages)).to(self.knots)

    def loss(self, material: Material, draw: np.random.Generator, batch: int) -> Tensor:
        windows, sentence, whole = self._windows(material, draw, batch)
        frames, text = look(self, material, windows), listen(self, material, sentence)
        hidden = self.transformer(frames, text)[:, 1:].flatten(0, 1)
        logits = self.stage(hidden)[0]
        target = torch.from_numpy(whole.reshape(-1)).to(logits)
        stage = target.long().clamp(0, self.options.stages)
        taught = torch.from_numpy(draw.random(len(target)) < self.options.taught).to(logits.device)
        told = torch.where(taught, stage, logits.argmax(-1))
        fraction = self._fraction(hidden, told)
        return F.cross_entropy(logits, stage) + (fraction - (target - stage)).square().mean() * 4

    def read(self, frames: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        """Stage + fraction (members,N), and the confidence (N,)."""
        hidden = self.transformer(frames, text)[:, -1]
        sure, stage = torch.softmax(self.stage(hidden)[0], dim=-1).max(-1)
        return stage + self._fraction(hidden, stage), sure

    def _fraction(self, hidden: Tensor, stage: Tensor) -> Tensor:
        return torch.as_tensor(torch.sigmoid(self.fraction(hidden + self.told(stage))[..., 0]))

    def _stages(self, material: Material, row: int) -> NDArray[np.float32]:
        """Stage + fraction of each frame of a success."""
        first, length = int(material.first[row]), int(material.length[row])
        if STAGE in material.annotations:
            told = material.annotations[STAGE][first : first + length]
            if np.isfinite(told).all():
                return annotated_stages(told, self.options.stages)
        return equal_stages(length, self.options.stages)

    def _windows(
        self, material: Material, draw: np.random.Generator, batch: int
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
        """Frames (N,1+F), sentences (N,), and stage + fraction (N,F) of all but the first frame."""
        told = self.options
        windows, sentence = np.zeros((batch, 1 + told.frames), np.int64), np.zeros(batch, np.int64)
        whole = np.zeros((batch, told.frames), np.float32)
        for n, row in enumerate(draw.choice(material.successes, batch)):
            length = int(material.length[row])
            start, offsets = draw_clip(length, told.clips, draw) if length > 1 else (0, np.zeros(1, np.int64))
            at = len(offsets) - 1 if draw.random() < 0.5 else int(draw.integers(len(offsets)))
            clip = start + offsets[window_of(len(offsets), at, told.frames, told.gap)]
            other = material.other_sentence(row, draw) if draw.random() < told.clips.mismatched else None
            windows[n] = material.first[row] + clip
            sentence[n] = material.sentence[row] if other is None else other
            whole[n] = self._stages(material, row)[clip[1:]] if other is None else 0.0
        return windows, sentence, whole


@dataclass(frozen=True)
class SarmProgress:
    """Levels in [0, 1]; a `TrajectoryScorer`. A component `confidence` is the mean over an episode."""

    critic: Critic

    def __post_init__(self) -> None:
        self.critic.require("sarm")

    @property
    def bounds(self) -> tuple[float, float]:
        return (0.0, 1.0)

    @torch.no_grad()
    def progress(self, rollouts: Rollouts) -> Progress:
        network = self.critic.network
        assert isinstance(network, SarmNetwork)
        seen, told = self.critic.watch(rollouts), network.options
        sure, found = np.zeros(len(seen.mask), np.float32), []
        knots = network.knots.cpu().numpy()
        for row, count in enumerate(seen.mask.sum(1)):
            if not count:
                found.append(seen.frames.new_zeros(self.critic.config.network.ensemble, 0))
                continue
            index = np.stack([window_of(count, at, told.frames, told.gap) for at in range(count)])
            frames = seen.frames[row][torch.from_numpy(index).to(seen.frames.device)]
            whole, confident = network.read(frames, seen.text[row].expand(count, -1))
            sure[row] = confident.mean().item()
            levels = [
                smooth(level_of(one, knots), confident.cpu().numpy(), told.smooth, told.confidence)
                for one in whole.cpu().numpy()
            ]
            found.append(torch.from_numpy(np.stack(levels)))
        done = levels_of(seen, found)
        sure = np.where(done.valid, sure, 0).astype(np.float32)
        return Progress(done.value, done.valid, {**done.components, "confidence": sure}, done.std)
