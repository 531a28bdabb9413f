"""What held-out episodes say of a world model: its reflector's threshold, and how much doubt is usual."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .clips import Clips, Windows
from .fit import batch_of, split
from .model import Calibration, WorldModel

_ROWS = 64


_FEW = 2  # successes, and failures, that a threshold is taken from at least


@dataclass(frozen=True)
class OpenLoop:
    """Recorded actions played in the model, from the first frame of B episodes.

    Attributes:
        windows: what was recorded: B whole episodes of at most L decisions.
        tokens: float16 (B,L,C,n,d), imagined after each decision.
        state: float32 (B,L,S), likewise, physical units.
        logit: float32 (B,L), that the episode succeeded within the decision, before calibration.
        doubt: float32 (B,L).
    """

    windows: Windows
    tokens: Tensor
    state: NDArray[np.float32]
    logit: NDArray[np.float32]
    doubt: NDArray[np.float32]


def play(
    model: WorldModel, clips: Clips, tokens: Tensor, frames: NDArray[np.int64], length: int = 0
) -> OpenLoop:
    """Imagine what was done from `frames` on.

    Args:
        model: the world.
        clips: the recordings.
        tokens: of all its frames, see `fit.encode`.
        frames: (B,) rows of `clips` to begin at.
        length: decisions; 0 for as many as the longest episode has.
    """
    longest = int(clips.decisions(model.config.chunk)[clips.episode[frames]].max())
    windows = clips.windows(frames, model.config.chunk, length or longest)
    parts: list[tuple[Tensor, NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]] = []
    for first in range(0, len(frames), _ROWS):
        piece = _rows(windows, slice(first, first + _ROWS))
        batch = batch_of(model, clips, tokens, piece)
        memory = model.dynamics.begin(batch.tokens[:, 0], batch.state[:, 0], batch.origin, batch.began)
        steps = []
        for decision in range(piece.frame.shape[1]):
            memory, step = model.step(memory, batch.action[:, decision], batch.words)
            steps.append(step)
        parts.append(
            (
                torch.stack([step.tokens.half().cpu() for step in steps], 1),
                np.stack([model.physical_state(step.state) for step in steps], 1),
                np.stack([step.success.float().cpu().numpy() for step in steps], 1),
                np.stack([step.doubt.float().cpu().numpy() for step in steps], 1),
            )
        )
    seen, state, logit, doubt = zip(*parts, strict=True)
    return OpenLoop(
        windows, torch.cat(seen), np.concatenate(state), np.concatenate(logit), np.concatenate(doubt)
    )


def _rows(windows: Windows, rows: slice) -> Windows:
    return Windows(
        **{field.name: getattr(windows, field.name)[rows] for field in dataclasses.fields(windows)}
    )


def calibrate(model: WorldModel, clips: Clips, tokens: Tensor) -> Calibration:
    """Temperature, threshold and usual doubt, from the episodes held out.

    The temperature minimises the reflector's log loss over imagined decisions. The threshold makes as many
    imagined episodes succeed as real ones did with the same actions; of those that do equally well the
    highest, since the harm of a success that is none is greater. With fewer than two successes or failures
    among the held-out episodes the threshold stays 0.5. An instruction with
    so many of its own has its own threshold: what is easily seen of one task is hard to see of another.
    """
    _, held = split(clips, model.config)
    played = play(model, clips, tokens, clips.beginnings(held))
    there, truth = played.windows.there, played.windows.success
    scales = np.exp(np.linspace(np.log(0.25), np.log(8.0), 61))
    losses = [_log_loss(played.logit[there] / scale, truth[there]) for scale in scales]
    temperature = float(scales[int(np.argmin(losses))])
    chance = np.where(there, 1 / (1 + np.exp(-played.logit / temperature)), 0.0)
    real = clips.success[held]
    best, said = chance.max(1), np.array([clips.task[int(episode)] for episode in held])
    thresholds = {
        str(text): threshold(best[said == text], real[said == text])
        for text in sorted(set(said))
        if min(real[said == text].sum(), (~real[said == text]).sum()) >= _FEW
    }
    return dataclasses.replace(
        model.calibration,
        temperature=temperature,
        threshold=threshold(best, real) if min(real.sum(), (~real).sum()) >= _FEW else 0.5,
        thresholds=thresholds,
        doubt=max(float(np.quantile(played.doubt[there], 0.95)), 1e-6),
    )


def threshold(best: NDArray[np.floating], real: NDArray[np.bool_]) -> float:
    """Above which as many of the episodes' best chances (E,) lie as episodes really succeeded."""
    levels = np.linspace(0.05, 0.95, 91)
    off = np.array([abs(int((best > level).sum()) - int(real.sum())) for level in levels])
    return float(levels[np.flatnonzero(off == off.min())[-1]])


def _log_loss(logit: NDArray[np.floating], truth: NDArray[np.bool_]) -> float:
    return float(np.mean(np.logaddexp(0.0, np.where(truth, -logit, logit))))
