"""ReWiND: progress of every frame from a causal transformer over thinned clips that begin at the first frame.

Source: ReWiND (arXiv 2505.10911). Checked against the released code: targets (k + 1) / (N - start), rewinding
with probability 0.8 by appending the reversed tail, level 0 for other words, only the first frame marked by
position, mean squared error without the first frame of a clip, clips of 16 frames; 512 wide, 4 layers, 8
heads and a learning rate of 1e-4 in the size ``large``. The release's top-level model does not run (an
undefined mask); this is not a port. Ours: still, reversed and paused clips, which the release has not; other
words in one share of the clips, where the release rolls the batch and mixes in a fifth; the first frame's own
level, which the loss leaves out, is read from that frame shown twice. The release pays the last level at
every step and 64 for success: that is `regrip.rewards.scorers.Level` and
`regrip.rewards.pipeline.AddSuccess`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from ...datasets.episode import Rollouts
from ...datasets.protocols import Progress
from ..scorers import judged
from .clips import ClipOptions, Clips, draw_clips, prefix_clips, share_done
from .config import CriticConfig
from .critic import Critic, Seen, listen, look
from .inputs import Inputs, Material
from .layers import FrameTransformer, Heads, Senses


@dataclass(frozen=True)
class RewindOptions:
    """Settings of ReWiND.

    Attributes:
        frames: in a clip, at most.
        clips: which clips are drawn.
    """

    frames: int = 16
    clips: ClipOptions = field(default_factory=ClipOptions)

    def __post_init__(self) -> None:
        if self.frames < 2:
            raise ValueError(f"frames is {self.frames}, expected at least 2: the first is not trained")


class RewindNetwork(nn.Module):
    """Frames (N,L,E) and sentences (N,T) to levels (members,N,L) before the sigmoid."""

    def __init__(self, inputs: Inputs, config: CriticConfig[RewindOptions]) -> None:
        super().__init__()
        self.options = config.options
        self.senses = Senses(inputs, config.network)
        self.transformer = FrameTransformer(config.network, causal=True)
        self.level = Heads(config.network.hidden, 1, config.network.ensemble)

    def levels(self, frames: Tensor, text: Tensor) -> Tensor:
        return torch.as_tensor(torch.sigmoid(self.level(self.transformer(frames, text))[..., 0]))

    def loss(self, material: Material, draw: np.random.Generator, batch: int) -> Tensor:
        """Mean squared error of the levels, without the first frame of each clip."""
        clips = draw_clips(material, self.options.clips, share_done, draw, batch, self.options.frames)
        found = self.levels(look(self, material, clips.frames), listen(self, material, clips.sentence))
        return squared_error(found, clips)


def squared_error(found: Tensor, clips: Clips) -> Tensor:
    """(members,N,L) levels held against those of clips; the first frame of each counts for nothing."""
    counted = clips.mask.clone()
    counted[:, 0] = False
    wrong = (found - clips.level.to(found)).square() * counted.to(found)
    return wrong.sum() / (len(found) * counted.sum()).clamp_min(1)


def read_prefixes(
    read: Callable[[Tensor, Tensor], Tensor], seen: Seen, row: int, most: int, *, twice: bool
) -> Tensor:
    """What a causal model says at each moment of one episode when it has seen no more than that.

    Args:
        read: (K,L,E) and (K,T) to (members,K,L,...).
        seen: the episodes.
        row: which of them.
        most: frames in a clip.
        twice: the first moment is read from its frame shown twice.

    Returns:
        (members,D_b,...).
    """
    length = int(seen.mask[row].sum())
    clips, where = prefix_clips(length, most)
    frames = seen.frames[row][torch.from_numpy(clips).to(seen.frames.device)]
    text = seen.text[row].expand(len(clips), -1)
    found = read(frames, text)[:, where[:, 0], where[:, 1]]
    if twice:
        first = read(seen.frames[row, [0, 0]][None], text[:1])[:, 0, 1]
        found = torch.cat([first[:, None], found[:, 1:]], dim=1)
    return found


def levels_of(seen: Seen, found: list[Tensor]) -> Progress:
    """Levels (members,D_b) of each episode as `Progress`; not valid where the words are not known."""
    value = np.full(seen.mask.shape, np.nan, np.float32)
    spread = np.zeros(seen.mask.shape, np.float32)
    members = 1
    for row, levels in enumerate(found):
        members = len(levels)
        if seen.understood[row]:
            value[row, : levels.shape[1]] = levels.mean(0).cpu().numpy()
        if levels.shape[1]:
            spread[row, : levels.shape[1]] = levels.std(0, unbiased=False).cpu().numpy()
    unknown = {"unknown_words": (~seen.understood).astype(np.float32)}
    done = judged(value, seen.mask, unknown)
    std = np.where(seen.mask & done.valid[:, None], spread, 0).astype(np.float32) if members > 1 else None
    return Progress(done.value, done.valid, done.components, std)


@dataclass(frozen=True)
class RewindProgress:
    """Levels in [0, 1]; a `TrajectoryScorer`. `std` is the spread of the heads, if there are several."""

    critic: Critic

    def __post_init__(self) -> None:
        self.critic.require("rewind")

    @property
    def bounds(self) -> tuple[float, float]:
        return (0.0, 1.0)

    @torch.no_grad()
    def progress(self, rollouts: Rollouts) -> Progress:
        network = self.critic.network
        assert isinstance(network, RewindNetwork)
        seen, most = self.critic.watch(rollouts), network.options.frames
        rows = [int(row) for row in np.flatnonzero(seen.mask.any(1))]
        found = {row: read_prefixes(network.levels, seen, row, most, twice=True) for row in rows}
        none = seen.frames.new_zeros(self.critic.config.network.ensemble, 0)
        return levels_of(seen, [found.get(row, none) for row in range(len(seen.mask))])
