"""Preferences without a person: chunks proposed at an iteration's decisions, compared in a learned world.

NORA-1.5 (arXiv 2511.14659) samples several chunks at recorded frames and takes the best and the worst of each
by J = E + 0.1 |a - a*|. Here the frames are those of the iteration's own episodes, where nobody demonstrated
anything; a* is what the policy that the run began with would do there, as it learnt it from demonstrations.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from ..datasets.episode import Observation, Rollouts
from ..datasets.starts import counter_generator
from ..vla.pi0 import Pi0Policy
from ..vla.policy import DecisionBatch, flatten
from ..vla.preference import Pairs, pair
from ..vla.selecting import imagine
from .world_scores import WorldScores

_ROWS = 64  # decisions at once


@dataclass(frozen=True)
class ProposalsConfig:
    """How chunks are proposed and compared; for the algorithm ``preference``.

    Attributes:
        count: K, chunks sampled at each decision; 5 in NORA-1.5.
        decisions: of an iteration, drawn from all that were made; 0 for all.
        by: ``goal``, how near a chunk leads to the end of the success that began most alike (NORA-1.5); or
            ``reflector``, how likely success is on the way.
        deviation: weight of how far a chunk is from what the base policy would do, in the normaliser's units;
            0.1 in NORA-1.5, 0 leaves it out.
        steps: decisions imagined, at most: as many whole ones as a chunk makes up.
    """

    count: int = 5
    decisions: int = 1024
    by: Literal["goal", "reflector"] = "goal"
    deviation: float = 0.1
    steps: int = 4

    def __post_init__(self) -> None:
        if self.count < 2 or self.decisions < 0 or self.deviation < 0 or self.steps < 1:
            raise ValueError(
                f"proposals: count {self.count}, decisions {self.decisions}, deviation {self.deviation}, "
                f"steps {self.steps}; expected at least 2, 0, 0 and 1"
            )


def pairs_of(
    policy: Pi0Policy,
    base: Pi0Policy,
    scores: WorldScores,
    rollouts: Rollouts,
    config: ProposalsConfig,
    key: tuple[str | int, ...],
) -> Pairs:
    """Better and worse chunks at the decisions of `rollouts`.

    Args:
        policy: proposes, sampling.
        base: from whose greedy chunk deviation is measured.
        scores: compares.
        rollouts: episodes, imagined or not.
        config: settings.
        key: names this call; what is drawn depends on it and on nothing else.
    """
    batch = flatten(rollouts, policy.cameras)
    if config.decisions and len(batch) > config.decisions:
        draw = counter_generator("proposals", *key)
        rows = np.sort(draw.choice(len(batch), config.decisions, replace=False))
        batch = batch.take(torch.from_numpy(rows))
    goals = scores.goals_from(_beginnings(policy, rollouts))
    action, chunks, energy = [], [], []
    for rows in torch.arange(len(batch)).split(_ROWS):
        part = batch.take(rows)
        seen = _observation(policy, part)
        keys = [
            (*key, "proposals", int(episode), int(decision))
            for episode, decision in zip(part.episode, part.decision, strict=True)
        ]
        proposed = imagine(policy, seen, keys, config.count)
        goal = None if goals is None else goals[part.episode.to(goals.device)]
        chunks.append(proposed)
        energy.append(-scores.score(seen, proposed, goal))
        action.append(base.act(seen, None).action if config.deviation else proposed[:, 0])
    valid = torch.zeros(len(batch), policy.chunk_size, dtype=torch.bool)
    valid[:, : scores.scored(policy.chunk_size)] = True
    frames = dataclasses.replace(batch, action=torch.from_numpy(np.concatenate(action)), valid=valid)
    return pair(
        policy, frames, np.concatenate(chunks), np.concatenate(energy),
        demonstrated=config.deviation > 0, weight=config.deviation,
    )  # fmt: skip


def _observation(policy: Pi0Policy, part: DecisionBatch) -> Observation:
    pixels = part.pixels.numpy()
    return Observation(
        images={name: pixels[:, i] for i, name in enumerate(policy.cameras)},
        state=part.state.numpy(),
        instruction=list(part.instruction),
    )


def _beginnings(policy: Pi0Policy, rollouts: Rollouts) -> Observation:
    """What was seen at the first decision of each episode."""
    return Observation(
        images={name: rollouts.images[name][:, 0] for name in policy.cameras},
        state=rollouts.state[:, 0],
        instruction=list(rollouts.instruction),
    )
