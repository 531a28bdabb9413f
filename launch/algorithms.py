"""What differs between the algorithms: what they keep, who plays for them, and how they learn."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from ..datasets.episode import Rollouts
from ..datasets.protocols import Actor, RewardSignal
from ..vla import diwa, grpo, mpo, ppo, preference
from ..vla.diwa import ChainActor
from ..vla.frozen import frozen_copy
from ..vla.imitation import imitate
from ..vla.pi0 import Pi0Policy
from .experiment import Run, TrainConfig
from .proposals import pairs_of
from .world_scores import WorldScores


@dataclass(frozen=True)
class Kept:
    """What an algorithm keeps beside the policy; see `Run`."""

    optimizer: torch.optim.Optimizer
    learner: mpo.Learner | None = None
    reference: Pi0Policy | None = None
    scores: WorldScores | None = None


def prepare(config: TrainConfig, policy: Pi0Policy) -> Kept:
    """For a policy as it is before the first iteration.

    Raises:
        ValueError: if the algorithm cannot improve such a policy, or in such a world.
    """
    if config.algorithm == "ppo":
        return Kept(ppo.optimizer(policy, config.ppo))
    if config.algorithm == "mpo":
        learner = mpo.Learner.of(policy, config.seed, config.mpo.anchor)
        return Kept(mpo.optimizer(policy, learner, config.mpo), learner)
    if config.algorithm == "diwa":
        ChainActor(policy, config.diwa.inner_steps)  # refuses what has no such chain
        return Kept(diwa.optimizer(policy, config.diwa), reference=frozen_copy(policy))
    if config.algorithm == "preference":
        preference.require_flow(policy)
        scores = WorldScores.open(
            Path(config.env.suite), config.proposals.by, config.env.device, config.proposals.steps
        )
        optimizer = preference.optimizer(policy, config.preference)
        return Kept(optimizer, reference=frozen_copy(policy), scores=scores)
    return Kept(grpo.optimizer(policy, config.grpo))


def actor_of(config: TrainConfig, policy: Pi0Policy) -> Actor:
    """Who plays in practice, and wherever sampled episodes are to be compared with it."""
    return ChainActor(policy, config.diwa.inner_steps) if config.algorithm == "diwa" else policy


def gamma_of(config: TrainConfig) -> float:
    """The discount for one control step."""
    known = {"mpo": config.mpo.gamma, "ppo": config.ppo.gamma, "diwa": config.diwa.gamma}
    return known.get(config.algorithm, 1.0)


def set_learning_rate(config: TrainConfig, run: Run) -> None:
    """The policy's, for this iteration: its optimiser's first group, whatever the algorithm."""
    first = getattr(config, config.algorithm).learning_rate
    share = run.iteration / max(1, config.iterations - 1)
    run.optimizer.param_groups[0]["lr"] = first * (1.0 + (config.final_learning_rate - 1.0) * share)


def learn(config: TrainConfig, run: Run, rollouts: Rollouts, reward: RewardSignal) -> dict[str, float]:
    """Improve the policy from scored episodes."""
    if not len(rollouts):  # no group of this iteration had a difference to learn from
        return {}
    torch.set_num_threads(config.threads)
    key = ("learn", config.seed, run.iteration)
    if config.algorithm == "ppo":
        return ppo.update(run.policy, run.optimizer, rollouts, reward.value, config.ppo, key, run.iteration)
    if config.algorithm == "diwa":
        assert run.reference is not None
        return diwa.update(
            run.policy, run.reference, run.optimizer, rollouts, reward.value, config.diwa, key, run.iteration
        )
    if config.algorithm == "preference":
        assert run.reference is not None
        assert run.scores is not None
        pairs = pairs_of(run.policy, run.reference, run.scores, rollouts, config.proposals, key)
        return preference.update(
            run.policy, run.optimizer, pairs, config.preference, key, reference=run.reference
        )
    if run.learner is not None:
        shown = {} if run.shown is None else imitate(run.policy, run.shown, config.imitation, key)
        return shown | mpo.update(
            run.policy, run.learner, run.optimizer, rollouts, reward.value, config.mpo, key
        )
    returns = reward.value.sum((1, 2))
    return grpo.update(run.policy, run.optimizer, rollouts, returns, config.grpo, key)
