"""MPO: a critic of whole action chunks says which of many imagined ones is better; the policy moves there.

Follows Abdolmaleki et al. 2018 (Maximum a Posteriori Policy Optimisation, arXiv 1806.06920): in each state
the present policy proposes candidates, each weighs exp(its value), and the policy is fitted to the weighted
candidates. Its critic judges a chunk as one action (Li et al. 2025, Q-chunking, arXiv 2507.07969). What is
done otherwise than there:

* The critic learns Monte-Carlo returns of the last few iterations instead of bootstrapping: episodes are a
  dozen decisions, and nothing can diverge.
* The candidates are the flow's stochastic step from the latent that was recorded (the noise the policy
  really explores with), and fitting is regression of that step's mean, in units of its noise.
* The fit is to a copy of the policy taken at the start of the iteration, which is the trust region; the dual
  variables of the paper are left out, the temperature is set by the spread of the candidates' values.
* It can also be held to the policy the run began with (`MpoConfig.anchor`), for imagined episodes.

A policy-gradient step must average the noise of single episodes out of every parameter; here a small critic
does the averaging, over states, chunks and iterations, so episodes of older policies and failures teach too.
It needs a VLM that is frozen, since the replay keeps what the VLM made of the pictures.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from ..datasets.episode import Rollouts
from ..datasets.starts import counter_generator
from . import flow
from .frozen import frozen_copy
from .pi0 import Pi0Policy
from .policy import flatten
from .prefix import Prefix

_ENSEMBLE = 2


@dataclass(frozen=True)
class MpoConfig:
    """Settings of an MPO update.

    Attributes:
        learning_rate: of the policy; Adam, constant.
        critic_learning_rate: of the critic.
        critic_weight_decay: likewise.
        critic_steps: optimiser steps of the critic in one iteration.
        first_critic_steps: likewise, in the first.
        critic_minibatch: decisions in one of them, for each member of the ensemble.
        steps: optimiser steps of the policy in one iteration.
        minibatch: decisions in one of them.
        candidates: chunks imagined for each decision.
        greed: a candidate weighs exp(greed * value), values in units of their spread over the candidates.
        least_spread: of that unit, in units of the return: differences below it are taken for noise. Where
            success is rare or far away values lie close together: if ``critic/gain`` stays far below it, the
            policy hardly moves, and it should be lower.
        pessimism: share of the critics' disagreement that is taken off a value.
        gamma: discount for one control step: a success that comes sooner is worth more.
        replay: iterations remembered.
        max_grad_norm: gradient clipping of the policy.
        anchor: holds the policy to the one the run began with: weight of the squared distance between the
            two means of the stochastic step, in units of its noise, as the fit's own distances are. At 1 each
            fit would end half-way between what the critic wants and that policy. Where episodes are imagined
            a policy without one learns what the model gets wrong (DiWA, arXiv 2508.03645, whose alpha this
            is). 0 leaves it out.
    """

    learning_rate: float = 2e-4
    critic_learning_rate: float = 1e-3
    critic_weight_decay: float = 1e-2
    critic_steps: int = 200
    first_critic_steps: int = 400
    critic_minibatch: int = 768
    steps: int = 60
    minibatch: int = 512
    candidates: int = 16
    greed: float = 1.0
    least_spread: float = 0.02
    pessimism: float = 0.5
    gamma: float = 0.97
    replay: int = 8
    max_grad_norm: float = 1.0
    anchor: float = 0.0

    def __post_init__(self) -> None:
        if not self.anchor >= 0:
            raise ValueError(f"mpo: anchor {self.anchor} must be 0 (none) or above")


class ChunkCritic(nn.Module):
    """Return of executing a whole chunk in a state: an ensemble of two MLPs on the VLM's features.

    Args:
        features: length of the VLM's pooled features; they are normalised by the first batch's statistics.
        state: length of the normalised proprioceptive state.
        chunk: length of the flattened chunk.
        width: of the layers.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, features: int, state: int, chunk: int, width: int = 256) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("std", torch.ones(features))
        self.first: Sequence[nn.Linear] = nn.ModuleList(  # type: ignore[assignment]
            nn.Linear(features + state + chunk, width) for _ in range(_ENSEMBLE)
        )
        self.rest = nn.ModuleList(
            nn.Sequential(
                nn.LayerNorm(width), nn.SiLU(), nn.Linear(width, width),
                nn.LayerNorm(width), nn.SiLU(), nn.Linear(width, 1),
            )
            for _ in range(_ENSEMBLE)
        )  # fmt: skip

    def forward(self, member: int, features: Tensor, state: Tensor, chunk: Tensor) -> Tensor:
        """What one member thinks of chunks (N,K,H,A) in states of `features` (N,F), `state` (N,S): (N,K)."""
        situation = torch.cat([(features - self.mean) / self.std, state], -1)
        chunk = chunk.flatten(-2)
        first = self.first[member]
        of_state, of_chunk = torch.split(first.weight, [situation.shape[-1], chunk.shape[-1]], 1)
        # One product for the state and one for each chunk, not one of both for each chunk.
        known = functional.linear(situation, of_state, first.bias)
        value: Tensor = self.rest[member](known[:, None] + functional.linear(chunk, of_chunk))
        return value.squeeze(-1)

    def values(self, features: Tensor, state: Tensor, chunk: Tensor) -> Tensor:
        """All members: (2,N,K)."""
        return torch.stack([self(member, features, state, chunk) for member in range(_ENSEMBLE)])


Decisions = dict[str, Tensor]
"""N decisions: keys, values (bfloat16: they are most of the memory), mask, features, state (normalised),
before, after, step (see `flow.sample`) and returns."""


@dataclass
class Learner:
    """What MPO keeps beside the policy: critic, and decisions of the last iterations, oldest first.

    `base` is what `MpoConfig.anchor` holds the policy to: a frozen copy from before the first iteration,
    which shares the VLM. It is made anew, not saved, when a run goes on: from the policy the run began with.
    """

    critic: ChunkCritic
    replay: list[Decisions] = field(default_factory=list)
    base: Pi0Policy | None = None

    @classmethod
    def of(cls, policy: Pi0Policy, seed: int, anchor: float = 0.0) -> Learner:
        """A fresh one; with `anchor` above 0, `policy` as it is now is the base.

        Raises:
            ValueError: if the policy has no flow head, does not explore with it, or its VLM learns.
        """
        settings = policy.settings
        if settings.head != "flow" or settings.noise_level <= 0:
            raise ValueError(
                f"MPO proposes chunks by the flow's stochastic step; this policy has head {settings.head!r} "
                f"and noise_level {settings.noise_level}: use ppo or grpo, or set noise_level above 0"
            )
        if any(parameter.requires_grad for parameter in policy.pi0.model.vlm.parameters()):
            raise ValueError("MPO's replay keeps what the VLM made of the pictures: set train_vlm = false")
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            critic = ChunkCritic(
                policy.feature_width,
                int(policy.config.max_state_dim),
                policy.execute * policy.spec.action_dim,
            )
        return cls(critic.to(policy.device), base=frozen_copy(policy) if anchor else None)


def optimizer(policy: Pi0Policy, learner: Learner, config: MpoConfig) -> torch.optim.Optimizer:
    value = {id(parameter) for parameter in policy.critic.parameters()}  # PPO's; MPO has its own
    actor = [p for p in policy.parameters() if p.requires_grad and id(p) not in value]
    groups = [
        {"params": actor, "lr": config.learning_rate, "weight_decay": 0.0},
        {
            "params": list(learner.critic.parameters()),
            "lr": config.critic_learning_rate,
            "weight_decay": config.critic_weight_decay,
        },
    ]
    return torch.optim.AdamW(groups, betas=(0.9, 0.95))


def discounted(reward: NDArray[np.floating], valid: NDArray[np.bool_], gamma: float) -> NDArray[np.float32]:
    """Return of each decision, discounted from the end of its chunk: float32 (B,D) from reward (B,D,H).

    So a chunk that ends in success is worth 1, however long it was.
    """
    paid = (reward * valid).sum(-1)
    steps = valid.sum(-1)
    total = np.zeros(reward.shape[:2], np.float32)
    ahead = np.zeros(len(reward), np.float64)
    for decision in reversed(range(reward.shape[1])):
        ahead = paid[:, decision] + ahead
        total[:, decision] = ahead
        ahead = ahead * gamma ** steps[:, decision]
    return total


def remember(policy: Pi0Policy, rollouts: Rollouts, reward: NDArray[np.floating], gamma: float) -> Decisions:
    """The decisions of an iteration, as the replay keeps them.

    Raises:
        ValueError: if the policy did not record what its VLM saw (`Pi0Policy.act` does unless that is large).
    """
    if "keys" not in rollouts.latent:
        raise ValueError(
            "the rollouts hold no keys and values of the VLM: it is too large for a replay, use ppo or grpo"
        )
    batch = flatten(rollouts, policy.cameras)
    total = torch.from_numpy(discounted(reward, rollouts.valid, gamma))
    latent = batch.latent
    return {
        "keys": latent["keys"].bfloat16(),
        "values": latent["values"].bfloat16(),
        "mask": policy.prompt_mask(batch.instruction).cpu(),
        "features": latent["features"],
        "state": policy.normal_state(batch.state).cpu(),
        "before": latent["before"],
        "after": latent["after"],
        "step": latent["step"],
        "returns": total[batch.episode, batch.decision],
    }


def doubt(policy: Pi0Policy, learner: Learner, rollouts: Rollouts) -> NDArray[np.float32]:
    """How far the critics are apart about what was done at each decision: float32 (B,D), in returns."""
    batch = flatten(rollouts, policy.cameras)
    chunk = batch.latent["after"][:, None, : policy.execute, : policy.spec.action_dim]
    with torch.no_grad():
        values = learner.critic.values(
            batch.latent["features"].to(policy.device),
            policy.normal_state(batch.state),
            chunk.to(policy.device),
        )
    found = np.zeros(rollouts.valid.shape[:2], np.float32)
    found[batch.episode, batch.decision] = (values[0] - values[1]).abs()[:, 0].cpu().numpy()
    return found


def update(
    policy: Pi0Policy,
    learner: Learner,
    optimizer: torch.optim.Optimizer,
    rollouts: Rollouts,
    reward: NDArray[np.floating],
    config: MpoConfig,
    key: tuple[str | int, ...],
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, float]:
    """One iteration of learning from B episodes. As `grpo.update`, but for these.

    Args:
        policy: see there.
        learner: critic and replay; changed in place.
        optimizer: made by `optimizer`.
        rollouts: see there.
        reward: float (B,D,H), one number a control step.
        config: settings.
        key: see there.
        progress: see there.

    Raises:
        ValueError: if the learner has no base and `MpoConfig.anchor` asks for one, or as `remember`.
    """
    base = learner.base
    if config.anchor:
        if base is None:
            raise ValueError(
                f"mpo: anchor {config.anchor}, and the learner has no base policy: make it by "
                "Learner.of(policy, seed, anchor)"
            )
        base.set_noise_level(policy.settings.noise_level)  # the step's mean depends on it
    device, dims, critic = policy.device, policy.spec.action_dim, learner.critic
    done = policy.execute  # the critic judges what was executed, not what else was planned
    first = not learner.replay
    fresh = remember(policy, rollouts, reward, config.gamma)
    learner.replay = [*learner.replay, fresh][-config.replay :]
    data = {name: torch.cat([part[name] for part in learner.replay]) for name in fresh}
    count, new = len(data["returns"]), len(fresh["returns"])
    generator = torch.Generator().manual_seed(int(counter_generator("mpo", *key).integers(2**62)))

    def take(rows: Tensor, *names: str) -> list[Tensor]:
        return [data[name][rows].to(device) for name in names]

    def draw(size: int) -> Tensor:
        return torch.randint(count, (size,), generator=generator)

    def judged(rows: Tensor) -> float:
        features, state, after, returns = take(rows, "features", "state", "after", "returns")
        with torch.no_grad():
            value = critic.values(features, state, after[:, None, :done, :dims]).mean(0)[:, 0]
        spread = returns.var()
        return float(1 - (returns - value).var() / spread) if spread > 0 else 0.0

    if first:
        critic.mean.copy_(fresh["features"].mean(0))
        critic.std.copy_(fresh["features"].std(0).clamp_min(1e-3))
    # How well it foretells episodes it has not seen is worth more than how well it fits those it has.
    metrics = {"decisions": float(new), "critic/foretold": judged(torch.arange(count - new, count))}
    critic_steps = config.first_critic_steps if first else config.critic_steps
    total = critic_steps + config.steps
    for step in range(critic_steps):
        loss = torch.zeros((), device=device)
        for member in range(_ENSEMBLE):
            features, state, after, returns = take(
                draw(config.critic_minibatch), "features", "state", "after", "returns"
            )
            value = critic(member, features, state, after[:, None, :done, :dims])[:, 0]
            loss = loss + functional.mse_loss(value, returns)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        progress(step + 1, total)
    metrics["critic/fitted"] = judged(draw(4096))

    began = frozen_copy(policy)
    losses, gains, moved, norms, strayed = [], [], [], [], []
    for step in range(config.steps):
        rows = draw(config.minibatch)
        keys, values, mask, features, state, before, at = take(
            rows, "keys", "values", "mask", "features", "state", "before", "step"
        )
        with torch.no_grad():
            mean, std = began.step_moments(state, Prefix.unpack(keys, values, mask, features), before, at)
            shape = (len(rows), config.candidates, *mean.shape[1:])
            noise = torch.randn(shape, generator=generator).to(device)
            shift = noise if policy.factor is None else policy.factor @ noise
            chunk = (mean[:, None] + std[:, None] * shift)[..., :dims]
            each = critic.values(features, state, chunk[..., :done, :])
            value = each.mean(0) - config.pessimism * (each[0] - each[1]).abs()
            centred = value - value.mean(1, keepdim=True)
            spread = value.std(1, keepdim=True).clamp_min(config.least_spread)
            weight = (config.greed * centred / spread).softmax(1)
            wanted = (weight[..., None, None] * noise).sum(1)[..., :dims]
        now, std = policy.step_moments(state, Prefix.unpack(keys, values, mask, features), before, at)
        went = flow.whiten(now - mean, std, policy.factor)[..., :dims]
        loss = (went - wanted).square().sum((1, 2)).mean()
        if config.anchor and base is not None:
            with torch.no_grad():
                there, _ = base.step_moments(state, Prefix.unpack(keys, values, mask, features), before, at)
            apart = flow.whiten(now - there, std, policy.factor)[..., :dims].square().sum((1, 2)).mean()
            strayed.append(0.5 * apart.item())
            loss = loss + config.anchor * apart
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        actor = optimizer.param_groups[0]["params"]
        norms.append(float(nn.utils.clip_grad_norm_(actor, config.max_grad_norm)))
        optimizer.step()
        losses.append(loss.item())
        gains.append(float((weight * centred).sum(1).mean()))
        moved.append(0.5 * float(went.detach().square().sum((1, 2)).mean()))
        progress(critic_steps + step + 1, total)
    if strayed:
        metrics["anchor/kl"] = strayed[-1]  # nats per chunk, from the policy the run began with
    return metrics | {
        "loss": float(np.mean(losses)),
        "critic/gain": float(np.mean(gains)),  # of the weighted candidates over the mean one, in returns
        "kl": moved[-1],  # nats per chunk, from the iteration's first policy
        "grad_norm": float(np.mean(norms)),
        "optimizer_steps": float(total),
    }
