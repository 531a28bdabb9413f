"""RLIR: post-train a world model so that an inverse model reads the commanded actions off what it imagines.

Follows Reinforcement Learning with Inverse Rewards (RLIR) as far as its abstract goes: GRPO on the world
model, the reward being how well an inverse-dynamics model recovers the commanded action from the generated
frames. A pixel loss is blind to an action whose effect is small or uncertain; such a reward is not.

What is ours: the policy. The world model's next frame is taken for a draw from a Gaussian around the mean of
its ensemble, with the ensemble's spread, and no less than `least_spread`. The spread stays what it was when
the samples were drawn, so what is learnt is the mean, which is what imagination uses. Probabilities are exact
and are compared token by token, as language models do it: the density of a whole frame has thousands of
dimensions, and its ratio leaves any clipping range with the first step. In the place of a KL penalty stands
the prediction loss on the same recordings, every second time of imagined windows, as in fitting.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ...datasets.starts import counter_generator
from .clips import Clips
from .dynamics import Batch
from .fit import batch_of, split
from .model import WorldModel

Agreement = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""(tokens (B,C,n,d), tokens a decision later, state (B,S), chunk (B,H,A)), all normalised, to (B,) in [0, 1].

How well the chunk is read back from what changed; the static-video guard is its business."""


@dataclass(frozen=True)
class RlirConfig:
    """Settings of the post-training.

    Attributes:
        steps: sets of samples drawn.
        batch: windows in one of them.
        group: G, samples of each decision's next frame, whose rewards are compared with one another.
        epochs: optimiser steps on each set; with one, every ratio is 1.
        clip: of the ratio, to both sides.
        learning_rate: Adam, constant.
        anchor: weight of the prediction loss; 0 lets the model say anything that the inverse model likes.
        least_spread: of a sample, in units of the tokens' standard deviation.
        max_grad_norm: gradient clipping.
        seed: of windows and samples.
    """

    steps: int = 200
    batch: int = 8
    group: int = 8
    epochs: int = 2
    clip: float = 0.2
    learning_rate: float = 1e-4
    anchor: float = 1.0
    least_spread: float = 0.1
    max_grad_norm: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.steps, self.batch, self.epochs) < 1 or self.group < 2:
            raise ValueError(
                f"rlir: steps {self.steps}, batch {self.batch}, epochs {self.epochs} must be at least 1 and "
                f"group {self.group} at least 2: a sample is only better or worse than others of its group"
            )
        if self.least_spread <= 0 or self.learning_rate <= 0 or self.clip <= 0 or self.anchor < 0:
            raise ValueError(
                f"rlir: least_spread {self.least_spread}, learning_rate {self.learning_rate} and clip "
                f"{self.clip} must be above 0 and anchor {self.anchor} not negative"
            )


def group_advantage(reward: Tensor) -> Tensor:
    """Rewards (G,N), each less its group's mean and in units of its spread; 0 where all are equal."""
    centred = reward - reward.mean(0)
    spread = reward.std(0, correction=0)
    return torch.where(spread > 1e-6, centred / spread.clamp_min(1e-6), 0.0)


def log_density(sample: Tensor, mean: Tensor, spread: Tensor) -> Tensor:
    """Of each token (...,d), a Gaussian with independent dimensions: (...,)."""
    off = (sample - mean) / spread
    return -(0.5 * off.square() + spread.log() + 0.5 * math.log(2 * math.pi)).sum(-1)


def judge(batch: Batch, following: Tensor, agreement: Agreement) -> Tensor:
    """How each chunk agrees with the frames (B,L,C,n,d) said to follow it: (B,L), 0 unless `follows`."""
    rows = batch.follows
    found = following.new_zeros(rows.shape)
    if rows.any():
        found[rows] = agreement(
            batch.tokens[:, :-1][rows],
            following[rows],
            batch.state[:, :-1][rows],
            batch.action[rows],
        ).to(found)
    return found


@torch.no_grad()
def mean_agreement(model: WorldModel, batch: Batch, agreement: Agreement) -> float:
    """Of what the model holds for most likely to follow each recorded frame, that is, of its mean."""
    with model.half():
        tokens, _ = model.dynamics.predictions(batch)
    return float(judge(batch, tokens.mean(0), agreement)[batch.follows].mean())


Note = Callable[[int, int, dict[str, float]], None]


def rlir(
    model: WorldModel, clips: Clips, tokens: Tensor, agreement: Agreement, config: RlirConfig,
    note: Note = lambda *_: None,
) -> None:  # fmt: skip
    """Post-train `model` in place on the training episodes of `clips`; calibrate it again afterwards.

    Args:
        model: a fitted world.
        clips: what it was fitted on.
        tokens: of all their frames, see `fit.encode`.
        agreement: the reward.
        config: settings.
        note: see `post_train`.
    """
    train, _ = split(clips, model.config)
    frames = np.flatnonzero(np.isin(clips.episode, train))

    def batches(step: int) -> Batch:
        rows = counter_generator("rlir windows", config.seed, step).choice(frames, config.batch)
        return batch_of(model, clips, tokens, clips.windows(rows, model.config.chunk, model.config.window))

    post_train(model, batches, agreement, config, note)


def post_train(
    model: WorldModel, batches: Callable[[int], Batch], agreement: Agreement, config: RlirConfig,
    note: Note = lambda *_: None,
) -> None:  # fmt: skip
    """The loop itself, on any batches.

    Args:
        model: its dynamics are trained, the tokenizer is not.
        batches: of each step.
        agreement: the reward; called without gradients.
        config: settings.
        note: called with (step, steps in all, ``reward`` and its spread within groups ``reward/within``,
            ``anchor``, ``clipped``: share of the ratios beyond the clipping range in the last epoch).
    """
    model.train()
    parameters = list(model.dynamics.parameters())
    optimizer = torch.optim.Adam(parameters, config.learning_rate)
    draw = torch.Generator(model.device).manual_seed(config.seed)
    for step in range(config.steps):
        batch = batches(step)
        rows = batch.follows
        if not rows.any():
            continue
        with torch.no_grad():
            with model.half():
                members, _ = model.dynamics.predictions(batch)
            before = members.mean(0)
            spread = members.std(0, correction=0).clamp_min(config.least_spread)
            noise = torch.randn(config.group, *before.shape, generator=draw, device=before.device)
            samples = before + spread * noise
            reward = torch.stack([judge(batch, sample, agreement) for sample in samples])
            advantage = group_advantage(reward[:, rows])[..., None, None]
            old = log_density(samples, before, spread)[:, rows]
        found = {
            "reward": float(reward[:, rows].mean()),
            "reward/within": float(reward[:, rows].std(0, correction=0).mean()),
        }
        for _ in range(config.epochs):
            with model.half():
                members, _ = model.dynamics.predictions(batch)
                anchor = model.dynamics.losses(batch, step % 2 == 1)["total"]
            ratio = (log_density(samples, members.mean(0), spread)[:, rows] - old).exp()
            clipped = ratio.clamp(1 - config.clip, 1 + config.clip)
            gain = torch.minimum(ratio * advantage, clipped * advantage).mean()
            optimizer.zero_grad(set_to_none=True)
            (config.anchor * anchor - gain).backward()
            torch.nn.utils.clip_grad_norm_(parameters, config.max_grad_norm)
            optimizer.step()
            found["anchor"] = float(anchor.detach())
            found["clipped"] = float((ratio.detach() - 1).abs().gt(config.clip).float().mean())
        note(step + 1, config.steps, found)
    model.eval()
