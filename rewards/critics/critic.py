"""A trained critic: its network and all that is needed to ask it. What it says is up to its kind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ...datasets.episode import Rollouts
from ..embedding import Encoder
from ..scorers import Frames, frames_of
from .config import CriticConfig
from .inputs import InputError, Inputs, Material, TextEncoder, Words, embedded, pixels
from .layers import Senses

_BATCH = 256


class WrongKindError(ValueError):
    """A critic of one kind was given where another is needed."""


class CriticNetwork(Protocol):
    """What the trainer needs of a kind's torch module.

    One with a method ``prepare(material)`` is shown the training episodes before the first step.
    """

    senses: Senses

    def loss(self, material: Material, draw: np.random.Generator, batch: int) -> Tensor:
        """The loss of `batch` samples that are drawn from `material` with `draw`; a scalar."""
        ...


@dataclass(frozen=True)
class Seen:
    """Episodes as a critic sees them.

    Attributes:
        frames: float32 (B,D,E), zero where no decision was taken.
        text: float32 (B,T).
        mask: bool (B,D).
        understood: bool (B,), false where the words of the instruction are not known.
    """

    frames: Tensor
    text: Tensor
    mask: NDArray[np.bool_]
    understood: NDArray[np.bool_]


@dataclass(frozen=True)
class Critic:
    """A network, trained or loaded.

    Attributes:
        kind: its name in `kinds.KINDS`.
        config: its settings.
        inputs: the shapes it was built for.
        network: the torch module; a `CriticNetwork`.
        words: its vocabulary; None where text vectors are given.
        encoder: makes the embeddings it sees, frame by frame; None where it sees pixels.
        text_encoder: makes the text vectors it reads; None where it reads words.
        card: what is known of its making: command, seed, data, held-out metrics. JSON values.
    """

    kind: str
    config: CriticConfig[Any]
    inputs: Inputs
    network: nn.Module
    words: Words | None
    encoder: Encoder | None = None
    text_encoder: TextEncoder | None = None
    card: Mapping[str, Any] = field(default_factory=dict)

    def require(self, *kinds: str) -> None:
        """Refuse to be asked as another kind.

        Raises:
            WrongKindError: naming both.
        """
        if self.kind not in kinds:
            raise WrongKindError(
                f"this critic is of kind {self.kind!r}, expected {' or '.join(map(repr, kinds))}: load the "
                f"folder that `regrip rewards fit {kinds[0]}` wrote"
            )

    @property
    def senses(self) -> Senses:
        senses = self.network.senses
        assert isinstance(senses, Senses)
        return senses

    @property
    def device(self) -> torch.device:
        return next(self.network.parameters()).device

    @torch.no_grad()
    def embed(self, frames: Frames) -> Tensor:
        """N moments to (N,E); rows of an embedding that is not finite are not finite.

        Raises:
            InputError: other cameras, sizes or embeddings than it was trained on.
        """
        size = (self.inputs.height, self.inputs.width)
        if self.encoder is not None:
            raw: NDArray[Any] = embedded(self.encoder, frames, self.inputs.features)
        else:
            raw = pixels(frames, self.inputs.cameras, size)
        parts = [
            self.senses.frames(torch.from_numpy(raw[at : at + _BATCH]).to(self.device))
            for at in range(0, len(raw), _BATCH)
        ]
        return torch.cat(parts) if parts else torch.zeros(0, self.config.network.embedding)

    @torch.no_grad()
    def read(self, sentences: Sequence[str]) -> tuple[Tensor, NDArray[np.bool_]]:
        """N sentences to (N,T), and bool (N,) whether their words are known."""
        different = sorted(set(sentences))
        if not different:
            return torch.zeros(0, self.config.network.text), np.zeros(0, bool)
        if self.text_encoder is not None:
            raw = vectors(self.text_encoder, different, self.inputs.text_features)
            said, understood = torch.from_numpy(raw), np.asarray(np.isfinite(raw).all(1))
        else:
            assert self.words is not None, "a critic without a text encoder has a vocabulary"
            said, understood = self.words.encode(different)
        text = self.senses.sentences(said.to(self.device))
        rows = np.searchsorted(different, sentences)
        known: NDArray[np.bool_] = np.asarray(understood, bool)
        return text[torch.from_numpy(rows).to(self.device)], known[rows]

    def watch(self, rollouts: Rollouts) -> Seen:
        """Every decision of B episodes; what was never executed is not looked at."""
        mask = rollouts.decision_valid
        rows, decisions = np.nonzero(mask)
        frames = torch.zeros(*mask.shape, self.config.network.embedding, device=self.device)
        for first in range(0, len(rows), _BATCH):
            at = rows[first : first + _BATCH], decisions[first : first + _BATCH]
            frames[at] = self.embed(frames_of(rollouts, *at))
        text, understood = self.read(rollouts.instruction)
        return Seen(frames, text, mask, understood)


def vectors(encoder: TextEncoder, sentences: Sequence[str], features: int) -> NDArray[np.float32]:
    """(N,V) from a text encoder.

    Raises:
        InputError: it gives another number of features than the critic was trained on (0: any).
    """
    found = np.asarray(encoder(sentences), np.float32)
    if found.ndim != 2 or len(found) != len(sentences) or (features and found.shape[1] != features):
        expected = f"({len(sentences)}, {features or 'V'})"
        raise InputError(
            f"the text encoder returned {found.shape}, expected {expected}: use the one that the critic was "
            "trained with"
        )
    return found


def look(network: CriticNetwork, material: Material, at: NDArray[np.int64]) -> Tensor:
    """Frames of `material` by index (any shape) to (...,E); each is looked at once."""
    different, back = np.unique(at, return_inverse=True)
    device = next(network.senses.parameters()).device
    raw = material.frames[torch.from_numpy(different)].to(device)
    seen = network.senses.frames(raw)
    return seen.index_select(0, torch.from_numpy(back.reshape(-1)).to(device)).view(*at.shape, -1)


def listen(network: CriticNetwork, material: Material, sentence: NDArray[np.int64]) -> Tensor:
    """Sentences of `material` by index (N,) to (N,T); each is read once."""
    different, back = np.unique(sentence, return_inverse=True)
    device = next(network.senses.parameters()).device
    said = network.senses.sentences(material.sentences[torch.from_numpy(different)].to(device))
    return said.index_select(0, torch.from_numpy(back.reshape(-1)).to(device))
