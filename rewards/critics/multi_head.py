"""A reward of several heads, some of which are gates: IRL-VLA's reward model, for any task.

Source: IRL-VLA (a reward world model for driving). Only its abstract could be read, so its network, losses
and data are not verified. Known is what NAVSIM's EPDMS score is made of: a product of gates times a weighted
mean (general knowledge, not read again for this); `EPDMS_GATES` and `EPDMS_WEIGHTS` are its parts. For a
robot the gates may be safety terms and the heads the quality of the work; the defaults need no annotation:
one gate, that the words fit, and two heads, progress and success.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from ..scorers import FrameProgress, Frames
from .config import CriticConfig
from .critic import Critic, listen, look
from .inputs import Inputs, Material
from .labels import LabelOptions, success_label
from .layers import Heads, Senses, Steered

EPDMS_GATES = ("no_collision", "drivable_area", "driving_direction", "traffic_lights")
EPDMS_WEIGHTS = {
    "ego_progress": 5.0,
    "time_to_collision": 5.0,
    "lane_keeping": 2.0,
    "history_comfort": 2.0,
    "extended_comfort": 2.0,
}
ON_TASK, PROGRESS, SUCCESS = "on_task", "progress", "success"


@dataclass(frozen=True)
class MultiHeadOptions:
    """Settings of a reward of several heads.

    Attributes:
        gates: names; ``on_task`` is learned from other words, any other from the annotation of its name.
        heads: names; ``progress`` (share of time gone in a success) and ``success`` come from the data, any
            other from the annotation of its name, in [0, 1].
        weights: of the heads, in their order.
        mismatched: share of the samples that is told with another task's words.
        labels: which frames are a success, and which are not.
    """

    gates: tuple[str, ...] = (ON_TASK,)
    heads: tuple[str, ...] = (PROGRESS, SUCCESS)
    weights: tuple[float, ...] = (5.0, 2.0)
    mismatched: float = 0.3
    labels: LabelOptions = field(default_factory=LabelOptions)

    def __post_init__(self) -> None:
        names = (*self.gates, *self.heads)
        if not self.heads or len(set(names)) < len(names):
            raise ValueError(f"gates {self.gates} and heads {self.heads}: at least one head, no name twice")
        if len(self.weights) != len(self.heads) or min(self.weights) <= 0:
            raise ValueError(f"weights {self.weights} for heads {self.heads}: one above 0 for each")


def gated_mean(
    gates: NDArray[np.floating], heads: NDArray[np.floating], weights: NDArray[np.floating]
) -> NDArray[np.float32]:
    """Product of the gates times the weighted mean of the heads.

    Args:
        gates: (...,G) in [0, 1]; any that is 0 makes the reward 0.
        heads: (...,K) in [0, 1].
        weights: (K,), above 0.

    Returns:
        float32 (...) in [0, 1].
    """
    mean = (heads * weights).sum(-1) / weights.sum()
    return np.asarray(gates.prod(-1) * mean, np.float32)


class MultiHeadNetwork(nn.Module):
    """Frames (N,E) and sentences (N,T) to logits (members,N,G+K)."""

    def __init__(self, inputs: Inputs, config: CriticConfig[MultiHeadOptions]) -> None:
        super().__init__()
        sizes, self.options = config.network, config.options
        self.senses = Senses(inputs, sizes)
        self.steer = Steered(sizes.embedding, sizes.text, sizes.hidden)
        names = (*self.options.gates, *self.options.heads)
        self.heads = Heads(sizes.hidden, len(names), sizes.ensemble)

    def logits(self, frames: Tensor, text: Tensor) -> Tensor:
        return torch.as_tensor(self.heads(self.steer(frames, text)))

    def prepare(self, material: Material) -> None:
        """Refuse heads of which the data says nothing.

        Raises:
            ValueError: a name without an annotation.
        """
        told = {ON_TASK, PROGRESS, SUCCESS, *material.annotations}
        unknown = [name for name in (*self.options.gates, *self.options.heads) if name not in told]
        if unknown:
            raise ValueError(
                f"no annotation for {', '.join(unknown)}: there are {', '.join(sorted(told))}; give "
                "`annotations` to `fit`, one array (B,D) for each name"
            )

    def loss(self, material: Material, draw: np.random.Generator, batch: int) -> Tensor:
        """Cross entropy of every head on a target in [0, 1]; what has no target is left out."""
        at, sentence = np.zeros(batch, np.int64), np.zeros(batch, np.int64)
        target = np.zeros((batch, len(self.options.gates) + len(self.options.heads)), np.float32)
        for n in range(batch):
            row = int(draw.choice(material.successes if draw.random() < 0.6 else material.rows))
            length = int(material.length[row])
            index = length - 1 if draw.random() < 0.25 else int(draw.integers(length))
            other = material.other_sentence(row, draw) if draw.random() < self.options.mismatched else None
            at[n] = material.first[row] + index
            sentence[n] = material.sentence[row] if other is None else other
            target[n] = self._target(material, row, index, other is None)
        logits = self.logits(look(self, material, at), listen(self, material, sentence))
        wanted = torch.from_numpy(target).to(logits).expand_as(logits)
        known = torch.isfinite(wanted)
        if not known.any():
            return logits.sum() * 0
        return F.binary_cross_entropy_with_logits(logits[known], wanted[known])

    def _target(self, material: Material, row: int, index: int, right: bool) -> NDArray[np.float32]:
        length, won = int(material.length[row]), bool(material.success[row])
        gone = index / max(1, length - 1) if won else np.nan
        shown = success_label(index, length, self.options.labels) if won else 0.0
        own = {ON_TASK: float(right), PROGRESS: gone if right else np.nan, SUCCESS: shown if right else 0.0}
        at = int(material.first[row]) + index
        names = (*self.options.gates, *self.options.heads)
        told = [
            material.annotations[name][at] if name in material.annotations else own[name] for name in names
        ]
        return np.array(told, np.float32)


@dataclass(frozen=True)
class MultiHeadRewardModel:
    """Product of the gates times the weighted mean of the heads; a `FrameScorer`."""

    critic: Critic

    def __post_init__(self) -> None:
        self.critic.require("multi_head")

    @property
    def bounds(self) -> tuple[float, float]:
        return (0.0, 1.0)

    @torch.no_grad()
    def heads(self, frames: Frames) -> dict[str, NDArray[np.float32]]:
        """Every gate and head by name, (N,) in [0, 1]; NaN where it could not judge."""
        network = self.critic.network
        assert isinstance(network, MultiHeadNetwork)
        text, understood = self.critic.read(frames.instruction)
        found = torch.sigmoid(network.logits(self.critic.embed(frames), text)).mean(0).cpu().numpy()
        found = np.where(understood[:, None], found, np.nan).astype(np.float32)
        names = (*network.options.gates, *network.options.heads)
        return {name: found[:, column] for column, name in enumerate(names)}

    def score(self, frames: Frames) -> NDArray[np.float32]:
        """(N,) in [0, 1]; NaN where it could not judge."""
        network = self.critic.network
        assert isinstance(network, MultiHeadNetwork)
        told, found = network.options, self.heads(frames)
        gates = np.stack([found[name] for name in told.gates], axis=-1) if told.gates else np.ones((1, 1))
        heads = np.stack([found[name] for name in told.heads], axis=-1)
        return gated_mean(gates, heads, np.asarray(told.weights, np.float32))


def progress(critic: Critic) -> FrameProgress:
    return FrameProgress(MultiHeadRewardModel(critic))
