"""See better what practice shows: the VLM learns from the policy's own pictures, the policy stays what it is.

A small VLM that was frozen after imitation saw little of what a practising policy sees: fingers around a
block, a block that has been knocked over. This stage unfreezes it on pictures from practice. Two losses: the
auxiliary ones of imitation (where things are, which only the simulator knows), and distillation: on the same
pictures the flow must stay what it was before, velocity by velocity along its own path, so that nothing that
practice has taught is lost and only what the expert can read off the picture gets sharper.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from ..datasets.starts import counter_generator
from .auxiliary import Auxiliary, augment
from .pi0 import Pi0Policy
from .policy import DecisionBatch
from .prefix import Prefix

_WARM = 0.05


@dataclass(frozen=True)
class SeeingConfig:
    """Settings of the stage.

    Attributes:
        episodes: played for their pictures.
        execute: actions executed between two pictures, as in `Settings.execute`; fewer show more.
        steps: optimiser steps.
        minibatch: pictures in one of them.
        learning_rate: peak of AdamW's, after a short warm-up, falling to nothing.
        distillation: weight of that loss.
        perturb: noise on the latents at which velocities are compared, in units of the flow's noise.
        brightness: augmentation, as in imitation.
    """

    episodes: int = 2048
    execute: int = 2
    steps: int = 700
    minibatch: int = 192
    learning_rate: float = 6e-4
    distillation: float = 3.0
    perturb: float = 0.1
    brightness: float = 0.15


def velocities(policy: Pi0Policy, state: Tensor, prefix: Prefix, latents: list[Tensor]) -> list[Tensor]:
    """The flow's velocities (N,H,A) at the given latents, one for each denoising step."""
    velocity, steps = policy.velocity(state, prefix), policy.settings.denoise_steps
    times = [torch.full((len(state),), 1.0 - i / steps, device=state.device) for i in range(steps)]
    return [velocity(x, time) for x, time in zip(latents, times, strict=True)]


def path(
    policy: Pi0Policy, state: Tensor, prefix: Prefix, noise: Tensor
) -> tuple[list[Tensor], list[Tensor]]:
    """Latents along the greedy flow, each moved by `noise` (steps,N,H,A), and the velocities there."""
    steps, latents, found = policy.settings.denoise_steps, list[Tensor](), list[Tensor]()
    velocity, x = policy.velocity(state, prefix), torch.zeros_like(noise[0])
    for index in range(steps):
        time = torch.full((len(state),), 1.0 - index / steps, device=state.device)
        latents.append(x + noise[index])
        found.append(velocity(latents[-1], time))
        x = x - found[-1] / steps
    return latents, found


def see(
    policy: Pi0Policy,
    pictures: DecisionBatch,
    config: SeeingConfig,
    key: tuple[str | int, ...],
    progress: Callable[[int, int, str], None] = lambda done, total, note: None,
) -> dict[str, float]:
    """Train VLM and expert on the pictures; the VLM is frozen again afterwards if it was before.

    Args:
        policy: with a flow head; changed in place.
        pictures: decisions of practice, with the simulator's state in `privileged` (as `Auxiliary` reads it).
        config: settings.
        key: begins the key of every random draw.
        progress: called with (steps done, all, a note).

    Returns:
        numbers for the log: the error in locating the instructed object (cm) early and late, and how far the
        flow has moved (root mean square, in units of its noise).

    Raises:
        ValueError: if the policy has no flow head.
    """
    if policy.settings.head != "flow":
        raise ValueError(f"seeing stage: the policy's head is {policy.settings.head!r}, it distils flows")
    torch.manual_seed(int(counter_generator("see", *key).integers(2**62)))  # the heads' first weights
    teacher, auxiliary = copy.deepcopy(policy).requires_grad_(False), Auxiliary(policy, pictures.privileged)
    auxiliary.to(policy.device)
    learnt = {name: parameter.requires_grad for name, parameter in policy.named_parameters()}
    policy.requires_grad_(True)
    learning = [*policy.parameters(), *auxiliary.parameters()]
    optimizer = torch.optim.AdamW(learning, lr=config.learning_rate, betas=(0.9, 0.95), weight_decay=0.0)
    shape = (policy.chunk_size, int(policy.config.max_action_dim))
    dims, centimetres, moved = policy.spec.action_dim, list[float](), list[float]()
    for step in range(config.steps):
        draw = counter_generator("see", *key, step)
        rows = torch.from_numpy(draw.integers(len(pictures), size=config.minibatch))
        batch = pictures.take(rows)
        state, privileged = policy.normal_state(batch.state), batch.privileged.to(policy.device)
        numbers = draw.standard_normal((policy.settings.denoise_steps, len(rows), *shape), np.float32)
        noise = torch.from_numpy(config.perturb * numbers).to(policy.device)
        with torch.no_grad():
            latents, wanted = path(teacher, state, teacher.prefix(batch.pixels, batch.instruction), noise)
        seen = augment(batch, draw, config.brightness)
        prefix = policy.prefix(seen.pixels, seen.instruction)
        now = velocities(policy, state, prefix, latents)
        apart = torch.stack([(a - b)[..., :dims] for a, b in zip(now, wanted, strict=True)]).square().mean()
        loss = auxiliary(prefix, privileged) + config.distillation * apart
        warm = min(1.0, (step + 1) / max(1, _WARM * config.steps))
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate * warm * 0.5 * (1 + np.cos(np.pi * step / config.steps))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(learning, 1.0)
        optimizer.step()
        with torch.no_grad():
            error = (auxiliary.locate(prefix) - privileged[:, :3]).norm(dim=-1).mean()
        centimetres.append(100 * float(error))
        moved.append(float(apart.detach()) ** 0.5)
        progress(step + 1, config.steps, f"off by {np.mean(centimetres[-20:]):.1f} cm")
    for name, parameter in policy.named_parameters():
        parameter.requires_grad_(learnt[name])
    tenth = max(1, config.steps // 10)
    return {
        "seeing/first_cm": float(np.mean(centimetres[tenth : 2 * tenth])),
        "seeing/last_cm": float(np.mean(centimetres[-tenth:])),
        "seeing/flow_moved": float(np.mean(moved[-tenth:])),
    }


def with_execute(policy: Pi0Policy, execute: int) -> Pi0Policy:
    """The same network (shared), looking again after other many actions."""
    other = copy.copy(policy)
    other.settings, other.execute = replace(policy.settings, execute=execute), execute
    return other
