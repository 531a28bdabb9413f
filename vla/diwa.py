"""DiWA: PPO on the denoising chain, held to the policy it began with, so that a dream is not exploited.

Follows Nematollahi, Chandra et al. 2025 (arXiv 2508.03645) with a flow in the place of its diffusion policy.
The last K' of the K denoising steps of a decision are Gaussian (`flow.sde_moments`), and each is an action of
an inner decision process whose state is the observation and the latent so far. Inner step k of decision t
(k = K'..1) has index t K' + (K' - k); the reward of a decision is paid at its last inner step. Advantages are
estimated between decisions and fade by a factor for each inner step further from the reward, and the clip
is narrower there, both as in DPPO (Ren et al. 2024, arXiv 2409.00588).

The inner action is a whole latent chunk: its log-probability is the sum over executed steps and the robot's
dimensions. (DPPO takes the mean, so its clip of 0.01 for a chunk of 4 by 7 is one of 0.28 here.)

What keeps the policy near its base (`DiwaConfig.alpha`): the paper's formula has the base policy's
log-density of the policy's own inner steps, its code, known second-hand, scores steps sampled from the base
policy by the current one. Both are here. At one latent they are the same: the step has a fixed deviation, so
either divergence is half the squared distance of the two means in its units. They differ in the latents they
look at. The default, ``reverse``, holds the policy where it goes itself, which is where it exploits a model,
costs no further sampling and is exact; ``forward`` holds it along the chains of the base policy.

Left out: running normalisation of rewards, DPPO's bounds on log-probabilities and its noise floor.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from ..datasets.episode import Observation, Rollouts
from ..datasets.protocols import ActionSample
from ..datasets.starts import counter_generator
from . import advantages, flow, ppo
from .objective import assert_ratio_one, clipped_objective, value_loss
from .pi0 import Pi0Policy
from .policy import flatten
from .prefix import Prefix

_CLIP_RATE = 3.0  # DPPO's


@dataclass(frozen=True)
class DiwaConfig:
    """Settings of a DiWA update; those not explained here are as in `ppo.PpoConfig`.

    Attributes:
        inner_steps: K', how many of the last denoising steps are stochastic and learn; 0 for all.
        minibatch: decisions in one optimiser step, each with its K' inner steps.
        gamma_denoise: factor on the advantage for each inner step between it and the reward.
        first_clip: the clip of the earliest inner step as a share of the last one's; between them it grows
            exponentially.
        alpha: weight of the divergence from the base policy, summed over a decision's inner steps. In DiWA
            0.025 to 0.1 did well, 0 exploited the model and 0.5 stayed where it was.
        anchor: ``reverse`` or ``forward``, see above.
    """

    inner_steps: int = 0
    learning_rate: float = 2e-4
    critic_learning_rate: float = 1e-3
    epochs: int = 2
    minibatch: int = 384
    clip_low: float = 0.2
    clip_high: float = 0.28
    first_clip: float = 0.1
    gamma: float = 0.99
    lam: float = 0.95
    gamma_denoise: float = 0.99
    alpha: float = 0.05
    anchor: Literal["reverse", "forward"] = "reverse"
    value_weight: float = 0.5
    value_gradient: float = 0.1
    warmup_iterations: int = 1
    max_kl: float = 0.2
    max_grad_norm: float = 1.0
    ratio_tolerance: float = 1e-2

    def __post_init__(self) -> None:
        if self.inner_steps < 0 or self.alpha < 0 or not 0 < self.first_clip <= 1:
            raise ValueError(
                f"diwa: inner_steps {self.inner_steps}, alpha {self.alpha}, first_clip {self.first_clip}; "
                "expected at least 0, at least 0, and above 0 but not above 1"
            )
        if self.anchor not in ("reverse", "forward"):
            raise ValueError(f"diwa: anchor {self.anchor!r} is not one of 'reverse', 'forward'")


class ChainActor:
    """A flow policy whose last denoising steps are all stochastic, and recorded.

    Its samples' latents are ``chain`` float32 (B,K'+1,H,A), the latents from before the first stochastic step
    to the action (normalised); ``chain_log_prob`` float32 (B,K',H), each step's log-probability by control
    step; and what `Pi0Policy.act` adds (``value``, and the VLM's pass if it is frozen and small). The
    sample's own log-probability is that of the whole chain. Greedy, it is the policy itself.

    Args:
        policy: with a flow head and a noise level above 0.
        inner_steps: K', at most the policy's denoising steps; 0 for all of them.

    Raises:
        ValueError: if the policy has no such chain.
    """

    def __init__(self, policy: Pi0Policy, inner_steps: int = 0) -> None:
        settings = policy.settings
        if settings.head != "flow" or settings.noise_level <= 0:
            raise ValueError(
                f"DiWA learns the flow's stochastic steps; this policy has head {settings.head!r} and "
                f"noise_level {settings.noise_level}: use ppo or grpo, or set noise_level above 0"
            )
        if not 0 <= inner_steps <= settings.denoise_steps:
            raise ValueError(
                f"inner_steps {inner_steps}: the policy denoises in {settings.denoise_steps} steps, so give "
                f"1 to {settings.denoise_steps}, or 0 for all of them"
            )
        self.policy, self.inner_steps = policy, inner_steps or settings.denoise_steps

    @torch.no_grad()
    def act(
        self, observation: Observation, noise_keys: Sequence[tuple[str | int, ...]] | None
    ) -> ActionSample:
        """Answer a batch; see `datasets.protocols.Actor`."""
        policy = self.policy
        if noise_keys is None:
            return policy.act(observation, None)
        state, prefix = policy.observe(observation)
        shape = (1 + self.inner_steps, policy.chunk_size, int(policy.config.max_action_dim))
        numbers = np.stack(
            [counter_generator(*key).standard_normal(shape, dtype=np.float32) for key in noise_keys]
        )
        chain, log_prob = sample_chain(policy, state, prefix, torch.from_numpy(numbers).to(policy.device))
        each = log_prob.cpu().numpy()
        sample = ActionSample(
            policy.physical(chain[:, -1]),
            each.sum(1),
            {"chain": chain.cpu().numpy(), "chain_log_prob": each},
        )
        return policy.noted(sample, state, prefix)


def sample_chain(policy: Pi0Policy, state: Tensor, prefix: Prefix, noise: Tensor) -> tuple[Tensor, Tensor]:
    """A chain (N,K'+1,H,A) and its log-probabilities (N,K',H) from noise (N,1+K',H,A), the start's first."""
    chain, log_prob = flow.sample_chain(
        policy.velocity(state, prefix),
        noise[:, 0] * policy.settings.initial_noise,
        policy.settings.denoise_steps,
        policy.settings.noise_level,
        noise[:, 1:],
        policy.factor,
    )
    return chain, log_prob[..., : policy.spec.action_dim].sum(-1)


def inner_index(decision: Tensor, k: int, num_inner: int) -> Tensor:
    """Index of inner step `k` (counted down to 1, the last) of `decision`, in the inner process."""
    return decision * num_inner + (num_inner - k)


def inner_advantage(advantage: Tensor, num_inner: int, gamma_denoise: float) -> Tensor:
    """The advantages (N*K',) of inner steps from those of decisions (N,), ordered by `inner_index`."""
    decision, found = torch.arange(len(advantage)), advantage.new_zeros(len(advantage) * num_inner)
    for k in range(num_inner, 0, -1):
        found[inner_index(decision, k, num_inner)] = advantage * gamma_denoise ** (k - 1)
    return found


def clip_share(num_inner: int, first: float) -> Tensor:
    """How wide the clip is at each inner step (K',), as a share of the last one's, from `first` to 1."""
    if num_inner == 1:
        return torch.ones(1)
    grown = torch.expm1(_CLIP_RATE * torch.linspace(0.0, 1.0, num_inner)) / math.expm1(_CLIP_RATE)
    return first + (1.0 - first) * grown


def optimizer(policy: Pi0Policy, config: DiwaConfig) -> torch.optim.Optimizer:
    return ppo.optimizer(
        policy,
        ppo.PpoConfig(learning_rate=config.learning_rate, critic_learning_rate=config.critic_learning_rate),
    )


@dataclass(frozen=True)
class _Inner:
    """The inner steps of n decisions, in the order of `inner_index`."""

    state: Tensor  # (n*K',S), normalised
    prefix: Prefix
    before: Tensor  # (n*K',H,A)
    after: Tensor
    step: Tensor  # int64 (n*K',), which denoising step

    @classmethod
    def of(cls, policy: Pi0Policy, state: Tensor, prefix: Prefix, chain: Tensor) -> _Inner:
        num_inner = chain.shape[1] - 1
        rows = torch.arange(len(chain), device=chain.device).repeat_interleave(num_inner)
        first = policy.settings.denoise_steps - num_inner
        step = torch.arange(first, first + num_inner, device=chain.device).repeat(len(chain))
        before, after = chain[:, :-1].flatten(0, 1), chain[:, 1:].flatten(0, 1)
        return cls(state[rows], prefix.take(rows), before, after, step)

    def moments(self, policy: Pi0Policy, prefix: Prefix | None = None) -> tuple[Tensor, Tensor]:
        return policy.step_moments(self.state, prefix or self.prefix, self.before, self.step)

    def log_prob(self, policy: Pi0Policy, mean: Tensor, std: Tensor) -> Tensor:
        """(n*K',H) of the recorded steps."""
        each = flow.gaussian_log_prob(self.after, mean, std, policy.factor)
        return each[..., : policy.spec.action_dim].sum(-1)


def log_prob(policy: Pi0Policy, state: Tensor, prefix: Prefix, chain: Tensor) -> Tensor:
    """Log-probabilities (N,K',H) of recorded chains (N,K'+1,H,A), with gradient.

    Args:
        policy: see `ChainActor`.
        state: normalised, as `Pi0Policy.normal_state` gives it.
        prefix: the VLM's pass.
        chain: see `ChainActor`.
    """
    inner = _Inner.of(policy, state, prefix, chain)
    found = inner.log_prob(policy, *inner.moments(policy))
    return found.reshape(len(chain), -1, found.shape[-1])


def update(
    policy: Pi0Policy,
    base: Pi0Policy,
    optimizer: torch.optim.Optimizer,
    rollouts: Rollouts,
    reward: np.ndarray,
    config: DiwaConfig,
    key: tuple[str | int, ...],
    iteration: int,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, float]:
    """One iteration of learning from B episodes that a `ChainActor` played. As `ppo.update`, but for these.

    Args:
        policy: see there.
        base: what `alpha` holds it to: `frozen.frozen_copy` of the policy the run began with. Its noise level
            is set to the policy's.
        optimizer: made by `optimizer`.
        rollouts: see there.
        reward: see there.
        config: settings.
        key: see there.
        iteration: see there.
        progress: see there.

    Returns:
        Metrics by name; ``anchor/kl`` is the divergence from the base policy, nats for each decision.

    Raises:
        ValueError: if the rollouts hold no chains.
        RatioNotOneError: if the policy does not reproduce the log-probabilities it acted with.
    """
    if "chain" not in rollouts.latent:
        raise ValueError(
            f"the rollouts hold {', '.join(sorted(rollouts.latent)) or 'no latents'}, no chain: let a "
            "ChainActor around the policy play them"
        )
    valid = torch.from_numpy(rollouts.valid)
    gain, goal = advantages.chunk_gae(
        torch.from_numpy(reward),
        torch.from_numpy(np.asarray(rollouts.latent["value"], np.float32)),
        valid,
        executed=policy.execute,
        gamma=config.gamma,
        lam=config.lam,
    )
    gain = advantages.normalise(gain, valid.any(-1))
    batch = flatten(rollouts, policy.cameras)
    where = batch.episode, batch.decision
    gain, goal = gain[where], goal[where]

    device, warming = policy.device, iteration < config.warmup_iterations
    base.set_noise_level(policy.settings.noise_level)
    same_eyes = not any(parameter.requires_grad for parameter in policy.pi0.model.vlm.parameters())
    prefix = policy.frozen_prefix(batch)
    if prefix is not None:
        batch = batch.without_pictures()
    num_inner = batch.latent["chain"].shape[1] - 1
    share = clip_share(num_inner, config.first_clip)
    metrics = {"decisions": float(len(batch)), "warming_up": float(warming)}
    steps: list[tuple[float, ...]] = []
    total = config.epochs * math.ceil(len(batch) / config.minibatch)
    stop = False
    for epoch in range(config.epochs):
        draw = counter_generator("diwa", *key, epoch)
        generator = torch.Generator().manual_seed(int(draw.integers(2**62)))
        for rows in torch.from_numpy(draw.permutation(len(batch))).split(config.minibatch):
            part = batch.take(rows)
            seen = prefix.take(rows) if prefix else policy.prefix(part.pixels, part.instruction)
            state = policy.normal_state(part.state)
            inner = _Inner.of(policy, state, seen, part.latent["chain"].to(device))
            mean, std = inner.moments(policy)
            found = inner.log_prob(policy, mean, std)
            old = part.latent["chain_log_prob"].to(device).flatten(0, 1)
            mask = part.valid.to(device).repeat_interleave(num_inner, 0)
            if not steps:
                metrics["ratio_gap"] = assert_ratio_one(found.detach(), old, config.ratio_tolerance, mask)
            loss, stats = clipped_objective(
                (found * mask).sum(-1),
                (old * mask).sum(-1),
                inner_advantage(gain[rows], num_inner, config.gamma_denoise).to(device),
                torch.ones(len(mask), device=device),
                config.clip_low * share.repeat(len(rows)).to(device),
                config.clip_high * share.repeat(len(rows)).to(device),
            )
            kl = torch.zeros((), device=device)
            if config.alpha:
                with torch.no_grad():
                    view = seen if same_eyes else base.prefix(part.pixels, part.instruction)
                if config.anchor == "reverse":
                    apart = _apart_where_it_went(policy, base, inner, view, mean, std)
                else:
                    apart = _apart_where_base_goes(policy, base, state, seen, view, num_inner, generator)
                kl = (apart * mask).sum() / len(rows)
            critic, critic_stats = value_loss(
                policy.value(state, seen, 0.0 if warming else config.value_gradient)[:, 0],
                part.latent["value"].to(device)[:, 0],
                goal[rows].to(device),
                torch.ones(len(rows), device=device),
                clip=None if warming else 0.2,
            )
            optimizer.zero_grad(set_to_none=True)
            (config.value_weight * critic + (0.0 if warming else loss + config.alpha * kl)).backward()
            norm = nn.utils.clip_grad_norm_(policy.parameters(), config.max_grad_norm)
            optimizer.step()
            steps.append(
                (
                    loss.item(), stats.kl, stats.clip_low + stats.clip_high, stats.ratio_max, float(norm),
                    critic.item(), critic_stats.explained_variance, kl.item(),
                )
            )  # fmt: skip
            progress(len(steps), total)
            stop = stats.kl > config.max_kl
            if stop:
                break
        if stop:
            break
    names = (
        "loss", "kl", "clip_fraction", "ratio_max", "grad_norm", "value_loss", "explained_variance",
        "anchor/kl",
    )  # fmt: skip
    metrics |= {name: float(np.mean([s[i] for s in steps])) for i, name in enumerate(names)}
    return metrics | {"kl_last": steps[-1][1], "optimizer_steps": float(len(steps))}


def _apart_where_it_went(
    policy: Pi0Policy, base: Pi0Policy, inner: _Inner, view: Prefix, mean: Tensor, std: Tensor
) -> Tensor:
    """Divergence (n*K',H) of the base's inner steps from the policy's, at the policy's own latents; exact."""
    num_inner = len(inner.before) // len(view.mask)
    rows = torch.arange(len(view.mask)).repeat_interleave(num_inner)
    with torch.no_grad():
        there, _ = inner.moments(base, view.take(rows))
    apart = flow.whiten(mean - there, std, policy.factor)[..., : policy.spec.action_dim]
    return 0.5 * apart.square().sum(-1)


def _apart_where_base_goes(
    policy: Pi0Policy,
    base: Pi0Policy,
    state: Tensor,
    seen: Prefix,
    view: Prefix,
    num_inner: int,
    generator: torch.Generator,
) -> Tensor:
    """How much less likely (n*K',H) the policy finds chains sampled from the base than the base does."""
    shape = (len(state), 1 + num_inner, policy.chunk_size, int(policy.config.max_action_dim))
    noise = torch.randn(shape, generator=generator).to(policy.device)
    with torch.no_grad():
        chain, taught = sample_chain(base, state, view, noise)
    return (taught - log_prob(policy, state, seen, chain)).flatten(0, 1)
