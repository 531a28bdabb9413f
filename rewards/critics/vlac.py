"""VLAC: a critic of pairs of pictures, with a head that says whether the task is done.

Source: VLAC (arXiv 2509.15937). The value recursion (`regrip.rewards.scorers.accumulate`) is checked against
the released code; the label c = (j - i) / (T - i) of a forward pair is from a note that quotes its section
3.1.1; the label of a reversed pair, its negative, is our derivation: it is what inverting the recursion
yields. The released critic is a language model of billions of weights that writes c in percent; this one is
small and scores both orders, tanh((g(a, b) - g(b, a)) / 2), so it is antisymmetric whatever it learned.

One-shot reference: the release shows up to eleven frames of one success with their progress. Here each of the
two moments is looked up among them (attention over distances of embeddings) and the progress found there goes
into g. This form is our design.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from ...datasets.episode import Rollouts
from ..scorers import Frames, PairProgress, frames_of
from .config import CriticConfig
from .critic import Critic, listen, look
from .inputs import Inputs, Material
from .labels import LabelOptions, draw_labelled
from .layers import Heads, Senses, Steered


@dataclass(frozen=True)
class VlacOptions:
    """Settings of VLAC.

    Attributes:
        forward: how many of the pairs go forward ...
        reversed: ... back ...
        still: ... nowhere ...
        mismatched: ... or are told with another task's words.
        mismatch: what a pair with other words is worth: ``zero``, neither nearer nor farther, or
            ``negative``, the negative of the forward label (a film played backwards then gains under wrong
            words).
        short: share of the pairs that are one frame apart, as they are when an episode is judged.
        reference: share of the batches in which reference frames are shown.
        reference_frames: how many, at most.
        done: what the head for single frames learns from.
    """

    forward: float = 4.0
    reversed: float = 3.0
    still: float = 1.0
    mismatched: float = 2.0
    mismatch: Literal["zero", "negative"] = "zero"
    short: float = 0.4
    reference: float = 0.3
    reference_frames: int = 11
    done: LabelOptions = field(default_factory=LabelOptions)

    def __post_init__(self) -> None:
        shares = (self.forward, self.reversed, self.still, self.mismatched)
        if min(shares) < 0 or self.forward + self.reversed <= 0 or self.reference_frames < 2:
            raise ValueError(
                f"{self}: shares are at least 0, some pairs go forward or back, a reference has 2 frames"
            )


def pair_label(i: int, j: int, length: int) -> float:
    """The share of what was still to do at frame i that is done at frame j, in (-1, 1).

    For i > j it is the negative of the label of (j, i). `length` is T, the number of frames of the success.
    """
    if i > j:
        return -pair_label(j, i, length)
    return (j - i) / (length - i)


def reference_places(length: int, most: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Which frames of a reference are shown, int(k (L - 1) / (n - 1)), and the progress told of each.

    The progress is int(100 k / (n - 1)) percent, in [0, 1] here. Checked against the released code.
    """
    count = min(most, length)
    if count < 2:
        return np.zeros(1, np.int64), np.zeros(1, np.float32)
    k = np.arange(count)
    return k * (length - 1) // (count - 1), ((100 * k) // (count - 1) / 100).astype(np.float32)


class VlacNetwork(nn.Module):
    """Embeddings of two moments and a sentence to one number; of one moment and a sentence to another."""

    def __init__(self, inputs: Inputs, config: CriticConfig[VlacOptions]) -> None:
        super().__init__()
        sizes = config.network
        self.options = config.options
        self.senses = Senses(inputs, sizes)
        self.pair = Steered(3 * sizes.embedding + 3, sizes.text, sizes.hidden)
        self.single = Steered(sizes.embedding, sizes.text, sizes.hidden)
        self.gain = Heads(sizes.hidden, 1, sizes.ensemble)
        self.done = Heads(sizes.hidden, 1, sizes.ensemble)
        self.sharpness = nn.Parameter(torch.zeros(()))

    def deltas(self, a: Tensor, b: Tensor, text: Tensor, places: tuple[Tensor, Tensor] | None) -> Tensor:
        """(N,E), (N,E), (N,T) and the progress found in a reference, (N,) each, to (N,) in (-1, 1)."""
        found = [torch.zeros_like(a[:, :1])] * 2 if places is None else [place[:, None] for place in places]
        shown = torch.full_like(found[0], float(places is not None))

        def one_way(x: Tensor, y: Tensor, at: Tensor, to: Tensor) -> Tensor:
            pairs = self.pair(torch.cat([x, y, y - x, at, to, shown], dim=-1), text)
            gain: Tensor = self.gain(pairs)[..., 0].mean(0)
            return gain

        there, back = one_way(a, b, found[0], found[1]), one_way(b, a, found[1], found[0])
        return torch.tanh((there - back) / 2)

    def place(self, frames: Tensor, reference: Tensor, progress: Tensor) -> Tensor:
        """The progress at which (N,E) frames look like a reference's (K,E), of which (K,) is told: (N,)."""
        distance = (frames[:, None] - reference).square().mean(-1)
        return torch.as_tensor(
            (torch.softmax(-distance * self.sharpness.exp() * 4, dim=-1) * progress).sum(-1)
        )

    def done_logit(self, frames: Tensor, text: Tensor) -> Tensor:
        """(N,E) and (N,T) to (N,)."""
        return torch.as_tensor(self.done(self.single(frames, text))[..., 0].mean(0))

    def loss(self, material: Material, draw: np.random.Generator, batch: int) -> Tensor:
        """Huber of pairs (with delta 0.1) and cross entropy of the head for single frames."""
        at, sentence, label, rows = self._pairs(material, draw, batch)
        frames, text = look(self, material, at), listen(self, material, sentence)
        places = None
        if draw.random() < self.options.reference:
            places = self._shown(material, draw, rows, frames)
        delta = self.deltas(frames[:, 0], frames[:, 1], text, places)
        target = torch.from_numpy(label).to(delta)
        labelled = draw_labelled(material, self.options.done, draw, batch)
        logit = self.done_logit(
            look(self, material, labelled.frames), listen(self, material, labelled.sentence)
        )
        done = F.binary_cross_entropy_with_logits(logit, labelled.label.to(logit))
        return F.huber_loss(delta, target, delta=0.1) * 10 + done

    def _pairs(
        self, material: Material, draw: np.random.Generator, batch: int
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32], NDArray[np.int64]]:
        """Frames (N,2), sentences (N,), labels (N,) and episodes (N,)."""
        told = self.options
        shares = np.array([told.forward, told.reversed, told.still, told.mismatched])
        kinds = draw.choice(4, batch, p=shares / shares.sum())
        rows = draw.choice(material.successes, batch)
        at, sentence = np.zeros((batch, 2), np.int64), material.sentence[rows].copy()
        label = np.zeros(batch, np.float32)
        for n, (kind, row) in enumerate(zip(kinds, rows, strict=True)):
            length = int(material.length[row])
            i = int(draw.integers(max(1, length - 1)))
            j = i + 1 if draw.random() < told.short else int(draw.integers(i + 1, max(i + 2, length)))
            i, j = min(i, length - 1), min(j, length - 1)
            i, j = {1: (j, i), 2: (i, i)}.get(int(kind), (i, j))
            at[n] = material.first[row] + np.array([i, j])
            label[n] = pair_label(i, j, length)
            other = material.other_sentence(row, draw) if kind == 3 else None
            if other is not None:
                sentence[n] = other
                label[n] *= -1 if told.mismatch == "negative" else 0
        return at, sentence, label, rows

    def _shown(
        self, material: Material, draw: np.random.Generator, rows: NDArray[np.int64], frames: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Each pair's places in a reference: for every sentence one success, the same for all its pairs."""
        places = torch.zeros(frames.shape[:2], device=frames.device)
        for sentence in np.unique(material.sentence[rows]):
            same = material.successes[material.sentence[material.successes] == sentence]
            row = int(draw.choice(same))
            index, progress = reference_places(int(material.length[row]), self.options.reference_frames)
            reference = look(self, material, material.first[row] + index)
            mine = torch.from_numpy(np.flatnonzero(material.sentence[rows] == sentence)).to(frames.device)
            told = torch.from_numpy(progress).to(frames)
            found = [self.place(frames[mine, side], reference, told) for side in (0, 1)]
            places = places.index_copy(0, mine, torch.stack(found, dim=1))
        return places[:, 0], places[:, 1]


@dataclass(frozen=True)
class VlacPairs:
    """The pair head; a `PairScorer`, antisymmetric by construction.

    Attributes:
        critic: of kind ``vlac``.
        reference: frames of one success, (K,E), and the progress of each, (K,); None shows none.
    """

    critic: Critic
    reference: tuple[Tensor, Tensor] | None = None

    def __post_init__(self) -> None:
        self.critic.require("vlac")

    def shown(self, rollouts: Rollouts, row: int) -> VlacPairs:
        """The same with episode `row` of `rollouts` as one-shot reference; it should be a success."""
        length = int(rollouts.decision_valid[row].sum())
        if length < 2:
            raise ValueError(f"episode {row} has {length} decisions; a reference needs at least 2")
        network = self._network()
        index, progress = reference_places(length, network.options.reference_frames)
        frames = self.critic.embed(frames_of(rollouts, np.full(len(index), row), index))
        return replace(self, reference=(frames, torch.from_numpy(progress).to(frames)))

    @torch.no_grad()
    def delta(self, before: Frames, after: Frames) -> NDArray[np.float32]:
        """(N,) in [-1, 1]; NaN where the words are not known or an embedding is not finite."""
        network = self._network()
        a, b = self.critic.embed(before), self.critic.embed(after)
        text, understood = self.critic.read(before.instruction)
        places = None
        if self.reference is not None:
            places = (network.place(a, *self.reference), network.place(b, *self.reference))
        found: NDArray[np.float32] = network.deltas(a, b, text, places).cpu().numpy()
        return np.where(understood, found, np.nan).astype(np.float32)

    def _network(self) -> VlacNetwork:
        assert isinstance(self.critic.network, VlacNetwork)
        return self.critic.network


@dataclass(frozen=True)
class VlacDone:
    """The head for single frames: how likely the task is done; a `FrameScorer`.

    The release sets what is at or below a threshold to 0; here the probability is given as it is.
    """

    critic: Critic

    def __post_init__(self) -> None:
        self.critic.require("vlac")

    @property
    def bounds(self) -> tuple[float, float]:
        return (0.0, 1.0)

    @torch.no_grad()
    def score(self, frames: Frames) -> NDArray[np.float32]:
        """(N,) in [0, 1]; NaN where the words are not known or an embedding is not finite."""
        network = self.critic.network
        assert isinstance(network, VlacNetwork)
        text, understood = self.critic.read(frames.instruction)
        found = torch.sigmoid(network.done_logit(self.critic.embed(frames), text)).cpu().numpy()
        return np.where(understood, found, np.nan).astype(np.float32)


def progress(critic: Critic) -> PairProgress:
    """Its levels, by VLAC's recursion."""
    return PairProgress(VlacPairs(critic))
