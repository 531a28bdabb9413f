"""Can a world model be trusted? First: how far is it off, on episodes that it has never seen?

Imagination begins at an episode's first frame and goes on with the recorded actions; what is meant by
``ahead`` is decisions since then. Intervals are 95 % percentile bootstraps over episodes. Whether the model
obeys is measured in `obeying`, whether its verdicts hold in `judging`.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .calibrate import OpenLoop, play
from .clips import Clips
from .estimates import Curve, Estimate, curve, ratio_of
from .fit import batch_of
from .model import WorldModel
from .referees import Referees

MOVED = 16  # of 255: a pixel that differs so much from the first frame has moved
_ROWS = 16  # episodes decoded at once


@dataclass(frozen=True)
class Seen:
    """Unseen episodes, imagined and as they were: B episodes of at most L decisions.

    Attributes:
        clips: only these episodes.
        tokens: of all frames of `clips`.
        played: open loop.
        shown: float16 (B,L,C,n,d), what the model's eyes make of the imagined pictures: a policy is shown
            pictures, and tokens that no picture has would mislead what was learnt from real ones.
        taught: logits (B,L) of the reflector where it reads the real frames all along.
        known: bool (B,L), the frame after the decision was recorded.
        linear_tokens: float16 (B,L,C,n,d) of the linear world; `linear_state`: (B,L,S), physical.
    """

    clips: Clips
    tokens: Tensor
    played: OpenLoop
    shown: Tensor
    taught: NDArray[np.float32]
    known: NDArray[np.bool_]
    linear_tokens: Tensor
    linear_state: NDArray[np.float32]

    @property
    def after(self) -> NDArray[np.int64]:
        """(B,L) row of the frame after each decision; 0 where it is not known."""
        return np.maximum(self.played.windows.following, 0)


@torch.no_grad()
def imagine(model: WorldModel, referees: Referees, clips: Clips, tokens: Tensor) -> Seen:
    """Play all of `clips` in the model and in the linear world, with the recorded actions."""
    frames = clips.beginnings(np.arange(len(clips)))
    played = play(model, clips, tokens, frames)
    seen, felt, taught = [], [], []
    for first in range(0, len(frames), _ROWS):
        windows = clips.windows(frames[first : first + _ROWS], model.config.chunk, played.state.shape[1])
        batch = batch_of(model, clips, tokens, windows)
        linear = referees.linear.play(batch.tokens[:, 0], batch.state[:, 0], batch.action)
        seen.append(linear[0].half().cpu())
        felt.append(model.physical_state(linear[1]))
        memory = model.dynamics.begin(batch.tokens[:, 0], batch.state[:, 0], batch.origin, batch.began)
        logits = []
        for decision in range(batch.action.shape[1]):
            memory = _shown(model, memory, batch.tokens[:, decision], batch.state[:, decision])
            memory, step = model.step(memory, batch.action[:, decision], batch.words)
            logits.append(step.success.float().cpu().numpy())
        taught.append(np.stack(logits, 1))
    dreamt = played.tokens.flatten(0, 1).split(256)
    shown = torch.cat([reseen(model, part).half().cpu() for part in dreamt])
    return Seen(
        clips, tokens, played, shown.view_as(played.tokens), np.concatenate(taught),
        played.windows.following >= 0, torch.cat(seen), np.concatenate(felt),
    )  # fmt: skip


def _shown(model: WorldModel, memory: Any, tokens: Tensor, state: Tensor) -> Any:
    """The memory with the real frame in it; a memory that hides its frame begins anew."""
    if {"tokens", "state"} <= {field.name for field in dataclasses.fields(memory)}:
        return dataclasses.replace(memory, tokens=tokens, state=state)
    return model.dynamics.begin(tokens, state, tokens, state)


@dataclass(frozen=True)
class OpenLoopError:
    """Errors by what is measured and by who predicts, for each decision ahead.

    Attributes:
        curves: measure to method to curve. Measures: ``psnr`` (dB, higher is better), ``moving`` (root mean
            square, 0 to 255, over pixels that moved), ``tokens`` (root mean square, in units of the data's
            spread), and ``state UNIT`` (root mean square over the dimensions of that unit). Methods:
            ``world``, ``hold`` (the first frame stays), ``linear``, and, of pictures, ``eyes``: the tokenizer
            alone, shown the real frame, better than which no prediction can look.
        ratio: measure to ``hold`` and ``linear``: the world's squared error over theirs, all decisions.
        ahead: measure to how many decisions ahead the world is surely better than both, from the first on:
            the interval of the difference of squared errors, paired by episode, lies below zero.
        state: dimension to root mean square error of the world over all decisions, in its unit.
    """

    curves: dict[str, dict[str, Curve]]
    ratio: dict[str, dict[str, Estimate]]
    ahead: dict[str, int]
    state: dict[str, tuple[float, str]]


def open_loop(model: WorldModel, seen: Seen) -> OpenLoopError:
    """How far imagination is off, decision by decision, beside two cheap predictions."""
    squared = _picture_errors(model, seen)
    squared["tokens"] = _token_errors(seen)
    real = seen.clips.state[seen.after]
    first = np.repeat(seen.clips.state[seen.played.windows.frame[:, :1]], real.shape[1], 1)
    off = {
        name: np.where(seen.known[..., None], (state - real).astype(np.float64) ** 2, np.nan)
        for name, state in (("world", seen.played.state), ("hold", first), ("linear", seen.linear_state))
    }
    units = [axis.unit for axis in model.spec.state]
    for unit in dict.fromkeys(units):
        which = np.flatnonzero([one == unit for one in units])
        squared[f"state {unit}".strip()] = {name: held[..., which].mean(-1) for name, held in off.items()}
    whole = np.sqrt(np.nanmean(off["world"].reshape(-1, len(units)), 0))
    return OpenLoopError(
        {
            measure: {name: _shape(measure, held) for name, held in of.items()}
            for measure, of in squared.items()
        },
        {
            measure: {base: ratio_of(of["world"], of[base], "nothing changed") for base in ("hold", "linear")}
            for measure, of in squared.items()
        },
        {measure: _ahead(of) for measure, of in squared.items()},
        {axis.name: (float(value), axis.unit) for axis, value in zip(model.spec.state, whole, strict=True)},
    )


def _shape(measure: str, squared: NDArray[np.float64]) -> Curve:
    """The curve of squared errors (E,L) in the measure's unit."""
    of = curve(squared)
    with np.errstate(divide="ignore"):
        if measure == "psnr":  # at most 60 dB, which a copy of a still picture would exceed
            level = [10 * np.log10(255.0**2 / np.maximum(x, 0.065)) for x in (of.value, of.high, of.low)]
            return Curve(*level)
        return Curve(np.sqrt(of.value), np.sqrt(of.low), np.sqrt(of.high))


def _ahead(of: dict[str, NDArray[np.float64]]) -> int:
    better = np.ones(of["world"].shape[1], bool)
    for base in ("hold", "linear"):
        better &= curve(of["world"] - of[base]).high < 0
    return int(np.argmin(np.append(better, False)))


def _token_errors(seen: Seen) -> dict[str, NDArray[np.float64]]:
    found = {name: np.full(seen.known.shape, np.nan) for name in ("world", "hold", "linear")}
    for episode in range(len(seen.known)):
        at = np.flatnonzero(seen.known[episode])
        if not len(at):
            continue
        real = seen.tokens[torch.from_numpy(seen.after[episode, at])].float()
        first = seen.tokens[int(seen.played.windows.frame[episode, 0])].float()
        for name, held in (
            ("world", seen.played.tokens[episode, at]), ("linear", seen.linear_tokens[episode, at]),
            ("hold", first),
        ):  # fmt: skip
            found[name][episode, at] = (held.float() - real).square().flatten(1).mean(1).numpy()
    return found


def _picture_errors(model: WorldModel, seen: Seen) -> dict[str, dict[str, NDArray[np.float64]]]:
    """Mean squared errors of pictures (B,L), over all pixels and over those that moved, by who predicts."""
    methods = ("world", "hold", "linear", "eyes")
    found = {
        measure: {name: np.full(seen.known.shape, np.nan) for name in methods}
        for measure in ("psnr", "moving")
    }
    for episode in range(len(seen.known)):
        at = np.flatnonzero(seen.known[episode])
        if not len(at):
            continue
        rows = seen.after[episode, at]
        real = seen.clips.pictures[rows].astype(np.float32)
        first = seen.clips.pictures[seen.played.windows.frame[episode, :1]].astype(np.float32)
        moved = (np.abs(real - first) > MOVED).any(-1)  # (N,C,h,w)
        count = moved.sum((1, 2, 3))
        for name, pictures in (
            ("world", decoded(model, seen.played.tokens[episode, at])),
            ("hold", first),
            ("linear", decoded(model, seen.linear_tokens[episode, at])),
            ("eyes", decoded(model, seen.tokens[torch.from_numpy(rows)])),
        ):
            off = ((pictures.astype(np.float32) - real) ** 2).mean(-1)
            found["psnr"][name][episode, at] = off.mean((1, 2, 3))
            total = np.where(moved, off, 0.0).sum((1, 2, 3), dtype=np.float64)
            found["moving"][name][episode, at] = np.where(count > 0, total / np.maximum(count, 1), np.nan)
    return found


def reseen(model: WorldModel, tokens: Tensor) -> Tensor:
    """Tokens (N,C,n,d) drawn as pictures and looked at again, where the model computes."""
    with torch.no_grad(), model.half():
        pictures = torch.from_numpy(decoded(model, tokens)).to(model.device)
        return model.tokenizer.encode(pictures).float()


def decoded(model: WorldModel, tokens: Tensor) -> NDArray[np.uint8]:
    """Tokens (N,C,n,d) on the CPU, of any precision, as uint8 (N,C,h,w,3)."""
    return model.pictures(tokens.to(model.device).float())
