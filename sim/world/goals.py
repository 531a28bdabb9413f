"""How good is a chunk, as a world model imagines it: how near it leads to a goal, or to success.

NORA-1.5 (arXiv 2511.14659), as released: E = mean |z_hat - z_goal| over tokens and channels, z_hat being
imagined some decisions on; there it is a cost, here its negative is the score: higher is better, as
everywhere. The other part of that cost, how far a chunk is from the demonstrated one, needs no world and is
the caller's. Without a goal the reflector scores: the chance that the episode succeeds on the way.

What differs: NORA-1.5 rolls four steps of single frames. Here a step is a decision of several actions, and a
policy's later chunks cannot be known before it has seen what came of the first. So what is rolled is what is
given, and no more: the whole decisions that a chunk's actions make up. A policy that proposes twenty actions
and executes five is judged four decisions ahead; one that proposes five, one decision ahead, by where that
decision leads and not by what could still come of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from .clips import Clips
from .dynamics import take
from .fit import split
from .model import WorldModel, words_of

_ROWS = 256  # imaginations at once


@dataclass(frozen=True)
class Goals:
    """Where E successful training episodes began and where they ended.

    Attributes:
        first: float16 (E,C,n,d), tokens of the first frame.
        last: likewise of the last frame that was recorded, no more than a decision before the success.
        task: E instructions.
    """

    first: Tensor
    last: Tensor
    task: tuple[str, ...]

    def nearest(self, instruction: Sequence[str], tokens: Tensor) -> Tensor:
        """The goal of each of B starts: how that episode of the same instruction ended that began most alike.

        Args:
            instruction: B of them; capitals and punctuation do not matter.
            tokens: (B,C,n,d) of the first frame; of a later one if the first is not known.

        Returns:
            float32 (B,C,n,d), on the device of `tokens`.

        Raises:
            ValueError: no such episode succeeded.
        """
        said = [" ".join(words_of(text)) for text in self.task]
        found = []
        for text, one in zip(instruction, tokens, strict=True):
            rows = [row for row, other in enumerate(said) if other == " ".join(words_of(text))]
            if not rows:
                raise ValueError(
                    f"no training episode of {text!r} succeeded, so there is no goal to go for: record some "
                    f"successes, or score with the reflector (no goal); there are goals for "
                    f"{', '.join(map(repr, sorted(set(self.task)))) or 'no instruction'}"
                )
            far = (self.first[rows].to(one.device).float() - one).abs().flatten(1).mean(1)
            found.append(self.last[rows[int(far.argmin())]].to(one.device).float())
        return torch.stack(found)

    def save(self, path: Path) -> None:
        """Write a safetensors file."""
        save_file(
            {"first": self.first.contiguous(), "last": self.last.contiguous()}, path,
            {str(row): text for row, text in enumerate(self.task)},
        )  # fmt: skip

    @classmethod
    def load(cls, path: Path) -> Goals:
        """Read what `save` wrote."""
        with safe_open(path, "pt") as file:
            said = file.metadata() or {}
            first, last = file.get_tensor("first"), file.get_tensor("last")
        return cls(first, last, tuple(said[str(row)] for row in range(len(first))))


def goals_of(model: WorldModel, clips: Clips, tokens: Tensor) -> Goals:
    """The goals that the training episodes show; `tokens` (F,C,n,d) of all frames, see `fit.encode`."""
    train, _ = split(clips, model.config)
    episodes = train[clips.success[train]]
    ends = np.searchsorted(clips.episode, episodes, side="right") - 1
    return Goals(
        tokens[torch.from_numpy(clips.beginnings(episodes))].half().cpu(),
        tokens[torch.from_numpy(ends)].half().cpu(),
        tuple(clips.task[int(episode)] for episode in episodes),
    )


@torch.no_grad()
def tokens_of(model: WorldModel, pictures: NDArray[np.uint8]) -> Tensor:
    """Pictures (B,C,h,w,3) as the model sees them: float32 (B,C,n,d)."""
    with model.half():
        return model.tokenizer.encode(torch.from_numpy(np.array(pictures)).to(model.device)).float()


@torch.no_grad()
def score_chunks(
    model: WorldModel,
    pictures: NDArray[np.uint8],
    state: NDArray[np.float32],
    instruction: Sequence[str],
    chunks: NDArray[np.float32],
    goal: Tensor | None,
    steps: int = 4,
) -> NDArray[np.float32]:
    """Score N proposals in each of B situations; all are imagined together.

    Args:
        model: the world.
        pictures: uint8 (B,C,h,w,3), what is seen.
        state: (B,S), physical units.
        instruction: B of them.
        chunks: (B,N,H,A), physical units; their whole decisions are imagined, see above, and actions beyond
            the last whole one are ignored.
        goal: tokens (B,C,n,d), see `Goals.nearest`; None to be scored by the reflector.
        steps: decisions, at most.

    Returns:
        float32 (B,N), higher is better: minus the distance from the goal, in units of the tokens' standard
        deviation; or, without a goal, the calibrated probability of success within what is imagined.

    Raises:
        ValueError: H is less than one decision, or a number is not finite.
    """
    situations, count, length = chunks.shape[:3]
    size = model.config.chunk
    decisions = min(length // size, steps)
    if decisions < 1:
        raise ValueError(
            f"chunks of {length} actions, {steps} steps: the world model goes on by {size} actions at a "
            f"time, so give chunks of {size} or more and at least one step, or fit a model with --chunk "
            f"{length}"
        )
    if not np.isfinite(chunks).all():
        row = tuple(int(i) for i in np.argwhere(~np.isfinite(chunks))[0][:2])
        raise ValueError(
            f"proposal {row[1]} of situation {row[0]} is not finite: the policy's weights have diverged"
        )
    memory, words = model.begin(pictures, state), model.words(instruction)
    each = chunks.reshape(situations * count, length, -1)
    scores = []
    for first in range(0, len(each), _ROWS):
        piece = each[first : first + _ROWS]
        of = torch.arange(first, first + len(piece), device=model.device) // count
        here, failed = take(memory, of), np.ones(len(piece), np.float32)
        end = torch.zeros(())
        for decision in range(decisions):
            part = piece[:, decision * size : (decision + 1) * size]
            action = model.normal_action(part, np.ones(part.shape[:2], np.bool_))
            here, step = model.step(here, action, words[of])
            failed *= 1 - model.success(step)
            end = step.tokens.float()
        if goal is None:
            scores.append(1 - failed)
        else:
            far = (end - goal.to(model.device)[of]).abs().flatten(1).mean(1)
            scores.append(-far.cpu().numpy())
    found: NDArray[np.float32] = np.concatenate(scores).astype(np.float32).reshape(situations, count)
    return found
