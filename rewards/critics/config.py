"""Settings of a trained critic: the sizes of its network, how it is trained, and those of its kind."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Generic, TypeVar

O = TypeVar("O")  # noqa: E741


@dataclass(frozen=True)
class NetworkConfig:
    """Sizes; the defaults fit pictures of 32 to 96 pixels and a processor.

    Attributes:
        channels: of the convolutions (stride 2) that read pixels; not used where embeddings are given.
        embedding: numbers for a frame.
        text: numbers for a sentence.
        hidden: width of all that follows.
        layers: of a transformer, where the kind has one.
        heads: of its attention.
        ensemble: output heads that begin differently; their spread is the `std` of a progress.
    """

    channels: tuple[int, ...] = (16, 32, 32)
    embedding: int = 64
    text: int = 32
    hidden: int = 64
    layers: int = 2
    heads: int = 4
    ensemble: int = 1

    def __post_init__(self) -> None:
        sizes = (
            *self.channels,
            self.embedding,
            self.text,
            self.hidden,
            self.layers,
            self.heads,
            self.ensemble,
        )
        if min(sizes) < 1 or not self.channels or self.hidden % self.heads:
            raise ValueError(f"{self}: every size is at least 1, and heads divide hidden")


@dataclass(frozen=True)
class TrainingConfig:
    """How a critic is trained.

    Attributes:
        cameras: which it sees, in this order; all of the data's if none is named.
        steps: of the optimiser, at most.
        batch: samples in a step (frames, pairs or clips, by kind).
        learning_rate: of AdamW at the start; falls to zero as a cosine over `steps`.
        weight_decay: of AdamW.
        held_out: share of the start states that is kept apart.
        evaluate_every: steps between two looks at the held-out loss.
        patience: looks without a lower held-out loss after which training stops; the best is kept.
        device: as torch names it.
    """

    cameras: tuple[str, ...] = ()
    steps: int = 1000
    batch: int = 32
    learning_rate: float = 1e-3
    weight_decay: float = 1e-4
    held_out: float = 0.2
    evaluate_every: int = 50
    patience: int = 5
    device: str = "cpu"

    def __post_init__(self) -> None:
        if min(self.steps, self.batch, self.evaluate_every, self.patience) < 1:
            raise ValueError(f"{self}: steps, batch, evaluate_every and patience are at least 1")
        if not 0 < self.held_out < 1:
            raise ValueError(f"held_out is {self.held_out}, expected a share between 0 and 1, such as 0.2")
        if not (0 < self.learning_rate < math.inf and 0 <= self.weight_decay < math.inf):
            raise ValueError(f"{self}: learning_rate is above 0 and weight_decay at least 0")


@dataclass(frozen=True)
class CriticConfig(Generic[O]):
    """All settings of a critic; `options` are those of its kind."""

    options: O
    network: NetworkConfig = field(default_factory=NetworkConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)


# ReWiND's transformer is this large (512, 4 layers, 8 heads); the rest of `large` is our choice.
SIZES: dict[str, tuple[NetworkConfig, TrainingConfig]] = {
    "small": (NetworkConfig(), TrainingConfig()),
    "large": (
        NetworkConfig((32, 64, 128, 256), embedding=512, text=384, hidden=512, layers=4, heads=8, ensemble=3),
        TrainingConfig(steps=50_000, batch=128, learning_rate=1e-4, evaluate_every=500, patience=10),
    ),
}
