"""Flow-DPO: of several chunks imagined in one state, towards the best and away from the worst.

Follows NORA-1.5 (arXiv 2511.14659) as released. A world model says how far from the goal each sampled chunk
ends; that and the chunk's deviation from the demonstrated one make a cost, of which the lowest is chosen and
the highest rejected. The flow-matching error stands for the negative log-likelihood in the loss of DPO
(Rafailov et al. 2023, arXiv 2305.18290), as in Diffusion-DPO (Wallace et al. 2023, arXiv 2311.12908).

What is done otherwise than there: chosen and rejected are compared at the same noise and time (as
Diffusion-DPO does), so that a pair's draw of an easy or a hard time does not count as a preference; the
release draws for each by itself (`PreferenceConfig.as_released`). Each pair has several draws. Left out: the
learning rate's warm-up and decay.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from ..datasets.starts import counter_generator
from .frozen import frozen_copy
from .pi0 import Pi0Policy
from .policy import DecisionBatch
from .prefix import Prefix


@dataclass(frozen=True)
class PreferenceConfig:
    """Settings of an update from preferences.

    Attributes:
        learning_rate: of AdamW, constant. NORA-1.5 takes 5e-7 and 8000 steps for an expert of the published
            size; a small one needs more.
        beta: how strongly a difference of errors counts as a preference: larger ones are content earlier,
            and keep the policy closer to where it began.
        epochs: passes over the pairs.
        minibatch: pairs in one optimiser step.
        draws: noises and times for each pair in a pass.
        as_released: draw them for chosen and rejected independently, as NORA-1.5's code does.
        max_grad_norm: gradient clipping.
    """

    learning_rate: float = 2e-5
    beta: float = 500.0
    epochs: int = 2
    minibatch: int = 64
    draws: int = 4
    as_released: bool = False
    max_grad_norm: float = 1.0

    def __post_init__(self) -> None:
        if min(self.epochs, self.minibatch, self.draws) < 1 or not (self.learning_rate > 0 and self.beta > 0):
            raise ValueError(
                f"preference: epochs {self.epochs}, minibatch {self.minibatch}, draws {self.draws}, "
                f"learning_rate {self.learning_rate}, beta {self.beta}; expected at least 1 of the first "
                "three and the others above 0"
            )


@dataclass(frozen=True)
class Pairs:
    """N decisions, each with a better and a worse chunk.

    Attributes:
        better: the decisions, with the chosen chunk as their `action`; only steps in `valid` are compared.
        worse: float32 (N,H,A), the rejected chunk, physical units.
        margin: float32 (N,), its cost less that of the chosen one, above 0.
    """

    better: DecisionBatch
    worse: Tensor
    margin: Tensor

    def __len__(self) -> int:
        return len(self.better)


def cost(
    energy: NDArray[np.floating],
    deviation: NDArray[np.floating] | None = None,
    weight: float = 0.1,
) -> NDArray[np.float64]:
    """What each of K chunks costs, J = E + weight * deviation: (N,K); lower is better.

    Args:
        energy: (N,K), distance of the imagined end from the goal.
        deviation: (N,K), mean absolute difference from the demonstrated chunk; None if there is none.
        weight: of the deviation; 0.1 in NORA-1.5.

    Raises:
        ValueError: if the shapes differ, there are fewer than two chunks, or a number is not finite.
    """
    deviation = np.zeros_like(energy) if deviation is None else deviation
    if energy.ndim != 2 or energy.shape[1] < 2 or energy.shape != deviation.shape:
        raise ValueError(
            f"energy is {energy.shape} and deviation {deviation.shape}, expected both (N,K) with K at least "
            "2: sample two or more chunks for each decision"
        )
    total: NDArray[np.float64] = energy.astype(np.float64) + weight * deviation.astype(np.float64)
    if not np.isfinite(total).all():
        row, chunk = (int(i) for i in np.argwhere(~np.isfinite(total))[0])
        raise ValueError(
            f"the cost of chunk {chunk} of decision {row} is {total[row, chunk]} (energy "
            f"{energy[row, chunk]}, deviation {deviation[row, chunk]}), expected a finite number: leave the "
            "decision out, or look at the world model's prediction for it"
        )
    return total


def choose(total: NDArray[np.floating]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Which chunk of each row of costs (N,K) is chosen (the lowest) and which rejected (the highest)."""
    return np.asarray(total.argmin(1)), np.asarray(total.argmax(1))


def pair(
    policy: Pi0Policy,
    frames: DecisionBatch,
    chunks: NDArray[np.float32],
    energy: NDArray[np.floating],
    *,
    demonstrated: bool,
    weight: float = 0.1,
) -> Pairs:
    """Make pairs of chunks sampled at N frames; frames at which all chunks cost the same are left out.

    Deviations are measured in the normaliser's units, so that `weight` means the same for every robot.

    Args:
        policy: for its normaliser.
        frames: what was seen; with `demonstrated`, `action` is what was done then (``valid`` is how far that
            goes). Steps that are not valid are neither measured nor learnt from.
        chunks: (N,K,H,A) sampled ones, physical units.
        energy: (N,K), see `cost`.
        demonstrated: whether deviation from `frames.action` counts.
        weight: see `cost`.

    Raises:
        ValueError: as `cost`, or if the chunks do not fit the frames.
    """
    if chunks.ndim != 4 or chunks.shape[::2] != (len(frames), policy.chunk_size) or (
        chunks.shape[:2] != energy.shape or chunks.shape[3] != policy.spec.action_dim
    ):  # fmt: skip
        raise ValueError(
            f"chunks are {chunks.shape} and energies {energy.shape}, expected ({len(frames)},K,"
            f"{policy.chunk_size},{policy.spec.action_dim}) and ({len(frames)},K): sample them at these "
            "frames, with this policy"
        )
    deviation = None
    if demonstrated:
        valid = frames.valid.numpy()[:, None, :, None]
        apart = np.abs(chunks - frames.action.numpy()[:, None]) / np.array(policy.normalizer.action_std)
        count = valid.sum((1, 2, 3)).clip(1)[:, None] * chunks.shape[-1]
        deviation = np.where(valid, apart, 0.0).sum((2, 3)) / count
    total = cost(energy, deviation, weight)
    chosen, rejected = choose(total)
    rows = np.arange(len(frames))
    margin = total[rows, rejected] - total[rows, chosen]
    kept = torch.from_numpy(np.flatnonzero((margin > 0) & frames.valid.any(-1).numpy()))
    batch = dataclasses.replace(frames, action=torch.from_numpy(chunks[rows, chosen]))
    worse = torch.from_numpy(chunks[rows, rejected])
    return Pairs(batch.take(kept), worse[kept], torch.from_numpy(margin).float()[kept])


def require_flow(policy: Pi0Policy) -> None:
    """Refuse a policy that has no velocities to compare.

    Raises:
        ValueError: if it has no flow head.
    """
    if policy.settings.head != "flow":
        raise ValueError(
            f"flow-DPO compares velocities; this policy has head {policy.settings.head!r}: give one with a "
            "flow head"
        )


def optimizer(policy: Pi0Policy, config: PreferenceConfig) -> torch.optim.Optimizer:
    value = {id(parameter) for parameter in policy.critic.parameters()}
    actor = [p for p in policy.parameters() if p.requires_grad and id(p) not in value]
    return torch.optim.AdamW(actor, lr=config.learning_rate, betas=(0.9, 0.95), weight_decay=0.0)


def preferred(
    better: Tensor, worse: Tensor, better_before: Tensor, worse_before: Tensor, beta: float
) -> Tensor:
    """The logit of DPO, -beta/2 * ((l_w - l_l) - (l_w^ref - l_l^ref)); the loss is -logsigmoid of it.

    Args:
        better: (N,) flow-matching error of the chosen chunks, with gradient.
        worse: of the rejected ones.
        better_before: of the chosen ones, under the reference policy.
        worse_before: of the rejected ones, likewise.
        beta: see `PreferenceConfig`.
    """
    return -0.5 * beta * ((better - worse) - (better_before - worse_before))


def update(
    policy: Pi0Policy,
    optimizer: torch.optim.Optimizer,
    pairs: Pairs,
    config: PreferenceConfig,
    key: tuple[str | int, ...],
    progress: Callable[[int, int], None] = lambda done, total: None,
    reference: Pi0Policy | None = None,
) -> dict[str, float]:
    """Learn from pairs.

    Args:
        policy: with a flow head; improved in place.
        optimizer: made by `optimizer`.
        pairs: made by `pair`.
        config: settings.
        key: names this update; order, noises and times depend on it and on nothing else.
        progress: called with optimiser steps done and planned.
        reference: what better and worse are measured from: `frozen.frozen_copy` of the policy the run began
            with; None takes the policy as it comes in.

    Returns:
        Metrics: ``loss_first`` and ``loss_last`` of the steps; ``accuracy``, the share of comparisons in
        which the policy prefers the chosen chunk more than the reference does; and by how much the error of
        the chosen and of the rejected chunks changed in the last epoch. A good update lowers the first; one
        that only raises the second unlearns.

    Raises:
        ValueError: if the policy has no flow head.
    """
    require_flow(policy)
    if not len(pairs):
        return {"pairs": 0.0}
    reference, device = frozen_copy(policy) if reference is None else reference, policy.device
    actor = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    same_eyes = not any(parameter.requires_grad for parameter in policy.pi0.model.vlm.parameters())
    batch = pairs.better
    better, worse = policy.normal_action(batch.action), policy.normal_action(pairs.worse)
    prefix = policy.frozen_prefix(batch)
    if prefix is not None:
        batch = batch.without_pictures()
    total = config.epochs * math.ceil(len(pairs) / config.minibatch)
    losses, norms, last = list[float](), list[float](), list[tuple[float, ...]]()
    for epoch in range(config.epochs):
        draw = counter_generator("preference", *key, epoch)
        generator = torch.Generator().manual_seed(int(draw.integers(2**62)))
        last = []
        for rows in torch.from_numpy(draw.permutation(len(pairs))).split(config.minibatch):
            part = batch.take(rows)
            seen = prefix.take(rows) if prefix else policy.prefix(part.pixels, part.instruction)
            with torch.no_grad():
                before = seen if same_eyes else reference.prefix(part.pixels, part.instruction)
            again = torch.arange(len(rows)).repeat_interleave(config.draws)
            twice = again.repeat(2)
            chunk = torch.cat([better[rows][again], worse[rows][again]])
            count = len(twice) if config.as_released else len(again)
            noise = torch.randn(count, *chunk.shape[1:], generator=generator).to(device)
            time = policy.flow_times(count, generator)
            if not config.as_released:
                noise, time = noise.repeat(2, 1, 1), time.repeat(2)
            drawn = chunk, noise, time, part.valid.to(device)[twice].float()
            state = policy.normal_state(part.state)[twice]
            with torch.no_grad():
                old = _errors(reference, state, before.take(twice), *drawn).chunk(2)
            new = _errors(policy, state, seen.take(twice), *drawn).chunk(2)
            logit = preferred(new[0], new[1], old[0], old[1], config.beta)
            loss = -functional.logsigmoid(logit).mean()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            norms.append(float(nn.utils.clip_grad_norm_(actor, config.max_grad_norm)))
            optimizer.step()
            losses.append(loss.item())
            change = [float((now - then).detach().mean()) for now, then in zip(new, old, strict=True)]
            last.append((float((logit > 0).float().mean()), *change))
            progress(len(losses), total)
    accuracy, chosen, rejected = np.mean(last, axis=0).tolist()
    return {
        "pairs": float(len(pairs)),
        "margin": float(pairs.margin.mean()),
        "loss_first": losses[0],
        "loss_last": losses[-1],
        "accuracy": accuracy,
        "chosen/error_change": chosen,
        "rejected/error_change": rejected,
        "grad_norm": float(np.mean(norms)),
        "optimizer_steps": float(len(losses)),
    }


def _errors(
    policy: Pi0Policy,
    state: Tensor,
    prefix: Prefix,
    chunk: Tensor,
    noise: Tensor,
    time: Tensor,
    valid: Tensor,
) -> Tensor:
    """Flow-matching error of normalised chunks (N,H,A), mean over their valid steps: (N,)."""
    error = policy.velocity_error(policy.velocity(state, prefix), chunk, noise, time)
    return (error * valid).sum(-1) / valid.sum(-1)
