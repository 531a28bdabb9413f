"""Success classifiers of single frames: a plain one, and World-Env's reflector with its stop rule.

Sources: the classifier has the role of the one in RLinf's docs; its form is ours.
The reflector follows World-Env (arXiv 2509.24948) as described second-hand: reward = sigmoid of a small
head on frozen features, trained with binary cross entropy on per-frame success, an episode stopped where the
reward exceeds 0.5. Its code could not be read: not verified. There the features are a language model's; here
the features are given embeddings, or the convolutions of this package trained with the head.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from ...datasets.protocols import Progress
from ..scorers import FrameProgress, Frames
from .config import CriticConfig
from .critic import Critic, listen, look
from .inputs import Inputs, Material
from .labels import LabelOptions, draw_labelled
from .layers import Heads, Senses, Steered


@dataclass(frozen=True)
class SuccessOptions:
    """Settings of the success classifier.

    Attributes:
        labels: which frames are a success, and which are not.
    """

    labels: LabelOptions = field(default_factory=LabelOptions)


@dataclass(frozen=True)
class ReflectorOptions:
    """Settings of World-Env's reflector.

    Attributes:
        threshold: an episode stops where the reward is above it.
        labels: every frame but the last of a success is labelled as none.
    """

    threshold: float = 0.5
    labels: LabelOptions = field(default_factory=lambda: LabelOptions(clear=1.0))


class SuccessNetwork(nn.Module):
    """Frames (N,E) and sentences (N,T) to logits (members,N)."""

    def __init__(self, inputs: Inputs, config: CriticConfig[Any]) -> None:
        super().__init__()
        self.labels: LabelOptions = config.options.labels
        self.senses = Senses(inputs, config.network)
        self.steer = Steered(config.network.embedding, config.network.text, config.network.hidden)
        self.head = Heads(config.network.hidden, 1, config.network.ensemble)

    def logits(self, frames: Tensor, text: Tensor) -> Tensor:
        return torch.as_tensor(self.head(self.steer(frames, text))[..., 0])

    def loss(self, material: Material, draw: np.random.Generator, batch: int) -> Tensor:
        """Binary cross entropy over as many successes as not."""
        drawn = draw_labelled(material, self.labels, draw, batch)
        logits = self.logits(look(self, material, drawn.frames), listen(self, material, drawn.sentence))
        return F.binary_cross_entropy_with_logits(logits, drawn.label.to(logits).expand_as(logits))


@dataclass(frozen=True)
class FrameSuccess:
    """How likely a frame shows success; a `FrameScorer`.

    Attributes:
        critic: of kind ``success`` or ``reflector``.
    """

    critic: Critic

    def __post_init__(self) -> None:
        self.critic.require("success", "reflector")

    @property
    def bounds(self) -> tuple[float, float]:
        return (0.0, 1.0)

    @torch.no_grad()
    def score(self, frames: Frames) -> NDArray[np.float32]:
        """(N,) in [0, 1]; NaN where the words are not known or an embedding is not finite."""
        network = self.critic.network
        assert isinstance(network, SuccessNetwork)
        text, understood = self.critic.read(frames.instruction)
        found = torch.sigmoid(network.logits(self.critic.embed(frames), text)).mean(0).cpu().numpy()
        return np.where(understood, found, np.nan).astype(np.float32)


def stop_index(reward: NDArray[np.floating], threshold: float = 0.5) -> int | None:
    """The first moment whose reward is above `threshold` (equal is not enough); None if there is none."""
    above = np.flatnonzero(reward > threshold)
    return int(above[0]) if len(above) else None


def stops(progress: Progress, mask: NDArray[np.bool_], threshold: float = 0.5) -> NDArray[np.int64]:
    """World-Env's stop rule for B episodes: the decision at which each would stop, -1 for never.

    Args:
        progress: rewards (B,D) of the reflector, absolute.
        mask: bool (B,D), where decisions were taken.
        threshold: see `stop_index`.
    """
    found = [
        stop_index(row[seen], threshold) if fine else None
        for row, seen, fine in zip(progress.value, mask, progress.valid, strict=True)
    ]
    return np.array([-1 if at is None else at for at in found], dtype=np.int64)


def progress(critic: Critic) -> FrameProgress:
    return FrameProgress(FrameSuccess(critic))
