"""DiWA: a success classifier in two parts, an embedding shaped by contrast and a classifier on it.

Source: DiWA (Diffusion Policy Adaptation with World Models); its abstract, and second-hand the parts:
embedding MLP with NT-Xent, classification MLP with cross entropy. Which two frames are a positive pair is not
verified; here they are two frames of the same sentence and class, and others of that class and sentence are
left out of the denominator instead of being pushed away. In the paper the input is a world model's latent;
any embedding will do. The index of the dream's Markov chain and the discount over denoising steps are
second-hand too.
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
from .labels import LabelOptions, draw_labelled
from .layers import Heads, Senses, Steered


@dataclass(frozen=True)
class DiwaOptions:
    """Settings of DiWA's classifier.

    Attributes:
        temperature: of the contrast.
        contrast: its weight against the cross entropy.
        labels: which frames are a success, and which are not.
    """

    temperature: float = 0.2
    contrast: float = 0.2
    labels: LabelOptions = field(default_factory=LabelOptions)

    def __post_init__(self) -> None:
        if self.temperature <= 0 or self.contrast < 0:
            raise ValueError(f"{self}: temperature is above 0 and contrast at least 0")


def contrast(vectors: Tensor, group: Tensor, temperature: float) -> Tensor:
    """NT-Xent over N vectors, of which those of one group belong together; a scalar.

    For each vector and each other of its group: the negative log of exp(cosine / temperature) over the same,
    summed with all vectors of other groups. Vectors alone in their group have no pair. 0 if nobody has.

    Args:
        vectors: (N,Z).
        group: int (N,).
        temperature: above 0.
    """
    unit = F.normalize(vectors, dim=-1)
    alike = unit @ unit.T / temperature
    same = group[:, None] == group[None]
    pairs = same & ~torch.eye(len(group), dtype=torch.bool, device=group.device)
    if not pairs.any():
        return vectors.sum() * 0
    others = torch.logsumexp(alike.masked_fill(same, -torch.inf), dim=1, keepdim=True)
    return (torch.logaddexp(alike, others) - alike)[pairs].mean()


class DiwaNetwork(nn.Module):
    """Frames (N,E) and sentences (N,T) to an embedding (N,H) and two logits (members,N,2)."""

    def __init__(self, inputs: Inputs, config: CriticConfig[DiwaOptions]) -> None:
        super().__init__()
        sizes, self.options = config.network, config.options
        self.senses = Senses(inputs, sizes)
        self.embedding = Steered(sizes.embedding, sizes.text, sizes.hidden)
        self.classes = Heads(sizes.hidden, 2, sizes.ensemble)

    def loss(self, material: Material, draw: np.random.Generator, batch: int) -> Tensor:
        """NT-Xent of the embedding and cross entropy of the classes."""
        drawn = draw_labelled(material, self.options.labels, draw, batch)
        hidden = self.embedding(look(self, material, drawn.frames), listen(self, material, drawn.sentence))
        label = drawn.label.to(hidden.device).long()
        group = 2 * torch.from_numpy(drawn.sentence).to(hidden.device) + label
        logits = self.classes(hidden)
        classified = F.cross_entropy(logits.flatten(0, 1), label.repeat(len(logits)))
        return classified + self.options.contrast * contrast(hidden, group, self.options.temperature)

    def successes(self, frames: Tensor, text: Tensor) -> Tensor:
        """(N,), the probability of the second class."""
        return torch.softmax(self.classes(self.embedding(frames, text)), dim=-1)[..., 1].mean(0)


@dataclass(frozen=True)
class DiwaSuccess:
    """How likely a frame shows success; a `FrameScorer`."""

    critic: Critic

    def __post_init__(self) -> None:
        self.critic.require("diwa")

    @property
    def bounds(self) -> tuple[float, float]:
        return (0.0, 1.0)

    @torch.no_grad()
    def score(self, frames: Frames) -> NDArray[np.float32]:
        """(N,) in [0, 1]; NaN where the words are not known or an embedding is not finite."""
        network = self.critic.network
        assert isinstance(network, DiwaNetwork)
        text, understood = self.critic.read(frames.instruction)
        found = network.successes(self.critic.embed(frames), text).cpu().numpy()
        return np.where(understood, found, np.nan).astype(np.float32)


def dream_index(step: int, denoising: int, count: int) -> int:
    """The place in the dream of control step t and denoising step k = K..1: t K + (K - k)."""
    if not 1 <= denoising <= count or step < 0:
        raise ValueError(f"step {step}, denoising step {denoising} of {count}: expected t >= 0, K >= k >= 1")
    return step * count + count - denoising


def dream_rewards(success: NDArray[np.floating], count: int) -> NDArray[np.float32]:
    """Rewards (T K,) of a dream: what the classifier says of the state after t, at k = 1; 0 elsewhere.

    Args:
        success: (T,), of the latent after each control step.
        count: K denoising steps.
    """
    out = np.zeros((len(success), count), np.float32)
    out[:, -1] = success
    return out.reshape(-1)


def denoising_weights(steps: int, gamma: float) -> NDArray[np.float32]:
    """What the advantage of a control step counts at k = 1, 2, ...: 1, gamma, gamma squared, ..."""
    return (gamma ** np.arange(steps)).astype(np.float32)


def progress(critic: Critic) -> FrameProgress:
    return FrameProgress(DiwaSuccess(critic))
