"""What an algorithm needs of a policy: one protocol for flow and token heads, and the batch it learns on."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..datasets.episode import Observation, Rollouts
from ..datasets.protocols import ActionSample
from ..datasets.spec import RobotSpec


@dataclass(frozen=True)
class DecisionBatch:
    """N decisions, flattened from episodes; only decisions that were really taken are in it.

    Attributes:
        pixels: uint8 (N,C,h,w,3), cameras in the spec's order.
        state: float32 (N,S), physical units.
        instruction: N strings.
        action: float32 (N,H,A), physical units.
        valid: bool (N,H), true where the action was executed.
        log_prob: float32 (N,H), of the behaviour policy.
        latent: name to (N,...) tensors of the behaviour policy's sampling.
        episode: int64 (N,), row in the Rollouts; `decision`: int64 (N,), index within the episode.
        privileged: float32 (N,P).
    """

    pixels: Tensor
    state: Tensor
    instruction: Sequence[str]
    action: Tensor
    valid: Tensor
    log_prob: Tensor
    latent: Mapping[str, Tensor]
    episode: Tensor
    decision: Tensor
    privileged: Tensor

    def __len__(self) -> int:
        return len(self.state)

    def take(self, rows: Tensor) -> DecisionBatch:
        """The decisions `rows` (int64), in that order."""
        return DecisionBatch(
            pixels=self.pixels[rows],
            state=self.state[rows],
            instruction=[self.instruction[int(row)] for row in rows],
            action=self.action[rows],
            valid=self.valid[rows],
            log_prob=self.log_prob[rows],
            latent={name: value[rows] for name, value in self.latent.items()},
            episode=self.episode[rows],
            decision=self.decision[rows],
            privileged=self.privileged[rows],
        )

    def without_pictures(self) -> DecisionBatch:
        """For when the VLM's pass over them is at hand: what remains is quick to shuffle."""
        heavy = ("keys", "values", "features")
        return dataclasses.replace(
            self,
            pixels=self.pixels[:, :0],
            latent={name: value for name, value in self.latent.items() if name not in heavy},
        )


def flatten(
    rollouts: Rollouts, cameras: Sequence[str], keep: NDArray[np.bool_] | None = None
) -> DecisionBatch:
    """Flatten the decisions of `rollouts` (of the episodes in `keep`, bool (B,)) into a batch."""
    mask = rollouts.decision_valid
    if keep is not None:
        mask = mask & keep[:, None]
    episode, decision = np.nonzero(mask)
    return DecisionBatch(
        pixels=torch.from_numpy(np.stack([rollouts.images[name][mask] for name in cameras], axis=1)),
        state=torch.from_numpy(rollouts.state[mask]),
        instruction=[rollouts.instruction[int(row)] for row in episode],
        action=torch.from_numpy(rollouts.action[mask]),
        valid=torch.from_numpy(rollouts.valid[mask]),
        log_prob=torch.from_numpy(rollouts.log_prob[mask]),
        latent={name: torch.from_numpy(np.asarray(value[mask])) for name, value in rollouts.latent.items()},
        episode=torch.from_numpy(episode),
        decision=torch.from_numpy(decision),
        privileged=torch.from_numpy(rollouts.privileged[mask]),
    )


@dataclass(frozen=True)
class Evaluation:
    """What one pass of the training engine says about N decisions.

    Attributes:
        log_prob: float32 (N,H), one per control step: summed over the real action dimensions of that step.
            A flow policy's is that of its one stochastic denoising step, a token policy's the sum over its
            tokens. Steps that were not executed are to be masked by the caller.
        value: float32 (N,H), the critic's estimate of the return from each control step of the chunk.
        features: float32 (N,F), what the critic reads.
    """

    log_prob: Tensor
    value: Tensor
    features: Tensor


class Policy(Protocol):
    """A VLA policy that can act, be imitated into shape, and be improved by its log-probabilities."""

    spec: RobotSpec
    chunk_size: int

    def act(
        self, observation: Observation, noise_keys: Sequence[tuple[str | int, ...]] | None
    ) -> ActionSample: ...

    def evaluate(self, batch: DecisionBatch) -> Evaluation: ...

    def imitation_loss(self, batch: DecisionBatch, generator: torch.Generator) -> Tensor: ...

    def save(self, folder: Path) -> None: ...
