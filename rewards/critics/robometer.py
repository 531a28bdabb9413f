"""Robometer's three heads: progress in ten bins, which of two episodes is better, and success of a frame.

Source: Robometer (code release; the paper was not read). Checked against the released code: progress
(i - start) / (N - start - 1) as a two-hot target over ten bins with cross entropy, preference and success by
binary cross entropy, success classes balanced, positives at a progress of 1 and negatives below a half with
those between left out, the worse episode of a pair rewound, a failure, of other words or reversed, in equal
parts. The release has these heads on a language model of 4 billion weights that reads both episodes of a pair
at once; here they stand on a small causal transformer (any embeddings will do), and the preference is the
difference of one number for each episode (Bradley and Terry): our choice, so swapping a pair negates it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from ...datasets.episode import Rollouts
from ...datasets.protocols import Progress, Score
from .clips import ClipOptions, Clips, draw_clips, rewound, share_gone, stack_clips, thin
from .config import CriticConfig
from .critic import Critic, listen, look
from .inputs import Inputs, Material
from .layers import FrameTransformer, Heads, Senses
from .rewind import levels_of, read_prefixes

BINS = 10


@dataclass(frozen=True)
class RobometerOptions:
    """Settings of Robometer's heads.

    Attributes:
        frames: in a clip, at most.
        clear: frames of a success at a progress below this do not show it; those between here and 1 are left
            out.
        clips: which clips progress and success are learned from.
    """

    frames: int = 16
    clear: float = 0.5
    clips: ClipOptions = field(default_factory=lambda: ClipOptions(rewind=0.4))

    def __post_init__(self) -> None:
        if self.frames < 2 or not 0 < self.clear <= 1:
            raise ValueError(f"{self}: frames is at least 2 and clear in (0, 1]")


def two_hot(level: Tensor, bins: int = BINS) -> Tensor:
    """Levels (...) in [0, 1] to (...,bins): split between the two nearest of the bins 0, 1/9, ..., 1."""
    place = level.clamp(0, 1) * (bins - 1)
    low = place.floor().long().clamp(max=bins - 2)
    high_share = place - low
    out = torch.zeros(*level.shape, bins, device=level.device)
    out.scatter_(-1, low[..., None], (1 - high_share)[..., None])
    return out.scatter(-1, low[..., None] + 1, high_share[..., None])


def expected_level(logits: Tensor) -> Tensor:
    """(...,bins) to the mean level (...) in [0, 1]."""
    support = torch.linspace(0, 1, logits.shape[-1], device=logits.device)
    return (torch.softmax(logits, dim=-1) * support).sum(-1)


def balanced_cross_entropy(logits: Tensor, label: Tensor) -> Tensor:
    """Binary cross entropy in which either class counts half; labels that are NaN are left out."""
    parts = []
    for wanted in (0.0, 1.0):
        chosen = label == wanted
        if chosen.any():
            parts.append(F.binary_cross_entropy_with_logits(logits[chosen], label[chosen]))
    return torch.stack(parts).mean() if parts else logits.sum() * 0


class RobometerNetwork(nn.Module):
    """Frames (N,L,E) and sentences (N,T) to three heads at each frame."""

    def __init__(self, inputs: Inputs, config: CriticConfig[RobometerOptions]) -> None:
        super().__init__()
        sizes, self.options = config.network, config.options
        self.senses = Senses(inputs, sizes)
        self.transformer = FrameTransformer(sizes, causal=True)
        self.level = Heads(sizes.hidden, BINS, sizes.ensemble)
        self.success = Heads(sizes.hidden, 1, sizes.ensemble)
        self.worth = Heads(sizes.hidden, 1, 1)

    def loss(self, material: Material, draw: np.random.Generator, batch: int) -> Tensor:
        """The three heads' losses, added; half the batch for progress and success, half for pairs."""
        half = max(2, batch // 2)
        clips = draw_clips(material, self.options.clips, share_gone, draw, half, self.options.frames)
        hidden = self._hidden(material, clips)
        own, target = clips.mask.to(hidden.device), clips.level.to(hidden)
        logits = self.level(hidden)[:, own]
        progress = -(two_hot(target[own]) * torch.log_softmax(logits, dim=-1)).sum(-1).mean()
        label = torch.full_like(target, float("nan"))
        label[target >= 1] = 1.0
        label[target < self.options.clear] = 0.0
        success = torch.stack(
            [balanced_cross_entropy(one[own], label[own]) for one in self.success(hidden)[..., 0]]
        ).mean()
        return progress + success + self._preference(material, draw, half)

    def _hidden(self, material: Material, clips: Clips) -> Tensor:
        frames = look(self, material, clips.frames)
        return torch.as_tensor(self.transformer(frames, listen(self, material, clips.sentence)))

    def _preference(self, material: Material, draw: np.random.Generator, pairs: int) -> Tensor:
        better, worse, sentences = draw_pairs(material, draw, pairs, self.options.frames)
        both = stack_clips(better + worse, [np.zeros(len(clip), np.float32) for clip in better + worse])
        told = Clips(both.frames, both.level, both.mask, np.array(sentences * 2), both.right)
        hidden = self._hidden(material, told)
        last = told.mask.sum(1).to(hidden.device) - 1
        worth = self.worth(hidden[torch.arange(len(hidden), device=hidden.device), last])[0, :, 0]
        return F.softplus(-(worth[:pairs] - worth[pairs:])).mean()

    def levels(self, frames: Tensor, text: Tensor) -> Tensor:
        """(N,L,E) and (N,T) to (members,N,L)."""
        return expected_level(self.level(self.transformer(frames, text)))

    def successes(self, frames: Tensor, text: Tensor) -> Tensor:
        """(N,L,E) and (N,T) to (members,N,L)."""
        return torch.sigmoid(self.success(self.transformer(frames, text))[..., 0])

    def worths(self, frames: Tensor, text: Tensor) -> Tensor:
        """(N,L,E) and (N,T) to (1,N,L)."""
        return torch.as_tensor(self.worth(self.transformer(frames, text))[..., 0])


def draw_pairs(
    material: Material, draw: np.random.Generator, pairs: int, most: int
) -> tuple[list[NDArray[np.int64]], list[NDArray[np.int64]], list[int]]:
    """A success and something worse under the same words: frames of the better, of the worse, and sentences.

    Worse is, in equal parts: the success rewound, a failure of that sentence, a success of another sentence,
    the success reversed. What the data has not is shared among the others.
    """
    better, worse, sentences = [], [], []
    won, lost = material.successes, material.failures
    for row in draw.choice(won, pairs):
        sentence, first = material.sentence[row], int(material.first[row])
        steps = np.arange(int(material.length[row]))
        failures = lost[material.sentence[lost] == sentence]
        others = won[material.sentence[won] != sentence]
        options = ["rewound", "reversed"] + ["failure"] * bool(len(failures)) + ["other"] * bool(len(others))
        kind = options[int(draw.integers(len(options)))]
        if kind in ("failure", "other"):
            chosen = int(draw.choice(failures if kind == "failure" else others))
            bad = material.first[chosen] + thin(np.arange(int(material.length[chosen])), most)
        elif kind == "reversed":
            bad = first + thin(steps[::-1], most)
        else:
            bad = first + thin(rewound(steps, int(draw.integers(1, max(2, len(steps))))), most)
        better.append(first + thin(steps, most))
        worse.append(bad)
        sentences.append(int(sentence))
    return better, worse, sentences


@dataclass(frozen=True)
class _Read:
    critic: Critic

    def __post_init__(self) -> None:
        self.critic.require("robometer")

    @torch.no_grad()
    def _ask(self, rollouts: Rollouts, head: str) -> Progress:
        network = self.critic.network
        assert isinstance(network, RobometerNetwork)
        seen, most, read = self.critic.watch(rollouts), network.options.frames, getattr(network, head)
        members = 1 if head == "worths" else self.critic.config.network.ensemble
        found = [
            read_prefixes(read, seen, row, most, twice=False)
            if seen.mask[row].any()
            else seen.frames.new_zeros(members, 0)
            for row in range(len(seen.mask))
        ]
        return levels_of(seen, found)


@dataclass(frozen=True)
class RobometerProgress(_Read):
    """The mean of the progress head's bins; a `TrajectoryScorer`."""

    @property
    def bounds(self) -> tuple[float, float]:
        return (0.0, 1.0)

    def progress(self, rollouts: Rollouts) -> Progress:
        """Levels in [0, 1]; `std` is the spread of the heads, if there are several."""
        return self._ask(rollouts, "levels")


@dataclass(frozen=True)
class RobometerSuccess(_Read):
    """How likely each moment shows success; a `TrajectoryScorer`."""

    @property
    def bounds(self) -> tuple[float, float]:
        return (0.0, 1.0)

    def progress(self, rollouts: Rollouts) -> Progress:
        """Probabilities; `std` is the spread of the heads, if there are several."""
        return self._ask(rollouts, "successes")


@dataclass(frozen=True)
class RobometerPreference(_Read):
    """One number for each episode: the difference of two is the log odds that the first is better.

    An `EpisodeScorer` on an absolute scale without a zero: it may rank, and says nothing of success.
    """

    @property
    def bounds(self) -> tuple[float, float]:
        return (-np.inf, np.inf)

    def score(self, rollouts: Rollouts) -> Score:
        found = self._ask(rollouts, "worths")
        last = np.maximum(rollouts.decision_valid.sum(1) - 1, 0)
        return Score(found.value[np.arange(len(last)), last], found.valid, found.components)
