"""Does the arithmetic of a policy hold on this machine? The checks that `regrip doctor` runs.

Each is a way in which post-training has gone wrong in public, quietly: a ratio that is not one before the
first update, a mask off by a step, log-probabilities rounded to half precision, dropout left on, an engine
that acts otherwise than it trains, a density that is not that of the samples.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from ..datasets.episode import Observation
from ..datasets.spec import Axis, Camera, RobotSpec
from ..datasets.starts import counter_generator
from .grpo import GrpoConfig, ratio_terms
from .normalizer import Normalizer
from .objective import clipped_objective
from .pi0 import Pi0Policy, Settings, nano_config
from .policy import DecisionBatch
from .text import build_tokenizer

SENTENCES = ("lift the red block", "push the blue block away")
_TOLERANCE = GrpoConfig().ratio_tolerance  # nats; the learner refuses what is above it


@dataclass(frozen=True)
class Check:
    """What one check found.

    Attributes:
        name: of the check.
        passed: whether training may be trusted as far as this goes.
        detail: what was measured, in words.
    """

    name: str
    passed: bool
    detail: str


def tiny_policy(
    head: Literal["flow", "tokens"] = "flow", seed: int = 0, settings: Settings | None = None
) -> Pi0Policy:
    """A policy of random weights for a made-up robot: 4 state and 3 action dimensions, two 32-px cameras.

    Args:
        head: see `Settings`; ignored if `settings` is given.
        seed: of the weights; the global generator is left as it was.
        settings: all other than the head.
    """
    spec = RobotSpec(
        name="made-up",
        control_mode="ee_delta",
        control_rate_hz=20.0,
        rotation="none",
        gripper="none",
        action=tuple(Axis(name, "m", -0.05, 0.05) for name in ("dx", "dy", "dz")),
        state=tuple(Axis(name, "m", -1.0, 1.0) for name in ("x", "y", "z", "w")),
        cameras=(Camera("front", 32, 32), Camera("wrist", 32, 32)),
    )
    draw = counter_generator("tiny policy", seed)
    state = draw.uniform(-1.0, 1.0, (64, 4)).astype(np.float32)
    action = draw.uniform(-0.04, 0.04, (64, 3)).astype(np.float32)
    tokenizer = build_tokenizer(SENTENCES)
    config = nano_config(
        image_size=32,
        vocab_size=tokenizer.get_vocab_size(),
        width=32,
        layers=2,
        max_state_dim=6,
        max_action_dim=5,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Pi0Policy(
            config,
            settings or Settings(head=head, stochastic_step="random", bins=16),
            spec,
            Normalizer.fit(state, action, spec),
            tokenizer,
        )


def play(policy: Pi0Policy, count: int, seed: int = 0, alike: bool = False) -> DecisionBatch:
    """`count` decisions on invented observations, as collection and `policy.flatten` would give them.

    Args:
        policy: acts.
        count: at least 2.
        seed: of observations and noise.
        alike: one observation for all rows; else every second row repeats the one before, like the members
            of a group at their first decision.

    Returns:
        A batch in which rows were executed to different steps.
    """
    draw = counter_generator("numerics", seed)
    spec = policy.spec
    source = np.zeros(count, np.int64) if alike else np.arange(count) // 2
    images = {
        camera.name: draw.integers(0, 256, (source[-1] + 1, camera.height, camera.width, 3), dtype=np.uint8)[
            source
        ]
        for camera in spec.cameras
    }
    normal = draw.standard_normal((source[-1] + 1, spec.state_dim))[source]
    state = np.array(policy.normalizer.state_mean) + normal * np.array(policy.normalizer.state_std)
    observation = Observation(images, state.astype(np.float32), [SENTENCES[int(i) % 2] for i in source])
    sample = policy.act(observation, [("numerics", seed, row) for row in range(count)])
    executed = draw.integers(1, policy.chunk_size + 1, count)
    return DecisionBatch(
        pixels=torch.from_numpy(np.stack([images[name] for name in policy.cameras], axis=1)),
        state=torch.from_numpy(observation.state),
        instruction=list(observation.instruction),
        action=torch.from_numpy(sample.action),
        valid=torch.from_numpy(np.arange(policy.chunk_size) < executed[:, None]),
        log_prob=torch.from_numpy(sample.log_prob),
        latent={name: torch.from_numpy(np.asarray(value)) for name, value in sample.latent.items()},
        episode=torch.arange(count),
        decision=torch.zeros(count, dtype=torch.long),
        privileged=torch.zeros(count, 0),
    )


def self_check(policy: Pi0Policy, samples: int = 256) -> Iterator[Check]:
    """Every check on one policy; its weights are the same bits afterwards.

    Args:
        policy: any size, on any device.
        samples: decisions for the statistical check; the others take 16.
    """
    batch = play(policy, 16)
    yield ratio_at_init(policy, batch)
    yield log_prob_gap(policy, batch)
    yield mask_coverage(policy, batch)
    yield log_prob_dtype(policy, batch)
    yield dropout_off(policy, batch)
    yield zero_mean_score(policy, play(policy, samples, seed=1, alike=True))


def ratio_at_init(policy: Pi0Policy, batch: DecisionBatch) -> Check:
    """Before any update, training must give the log-probabilities the policy acted with."""
    worst, _ = _gap(policy.evaluate(batch).log_prob, batch)
    return Check(
        "ratio before the first update",
        worst <= _TOLERANCE,
        f"largest |log ratio| {worst:.0e} nats over {int(batch.valid.sum())} executed steps, "
        f"allowed {_TOLERANCE:g}",
    )


def log_prob_gap(policy: Pi0Policy, batch: DecisionBatch) -> Check:
    """The same in shuffled mini-batches of three, whose matrix products round otherwise than acting's."""
    order = torch.from_numpy(counter_generator("numerics order").permutation(len(batch)))
    found = torch.empty_like(batch.log_prob)
    for rows in order.split(3):
        found[rows] = policy.evaluate(batch.take(rows)).log_prob.detach().cpu()
    worst, mean = _gap(found, batch)
    return Check(
        "gap of acting to training",
        worst <= _TOLERANCE,
        f"in other mini-batches {mean:.0e} nats on average, {worst:.0e} at most, allowed {_TOLERANCE:g}",
    )


def mask_coverage(policy: Pi0Policy, batch: DecisionBatch) -> Check:
    """The loss must read every executed control step and real dimension, and nothing else."""
    spoilt = dict(batch.latent)
    if policy.settings.head == "tokens":
        other = (spoilt["token"] + 1) % policy.settings.bins
        spoilt["token"] = torch.where(batch.valid[..., None], spoilt["token"], other)
    else:
        real = torch.arange(spoilt["after"].shape[-1]) < policy.spec.action_dim
        spoilt["after"] = torch.where(batch.valid[..., None] & real, spoilt["after"], spoilt["after"] + 1.0)
    losses, reached = [], torch.zeros_like(batch.valid)
    for latent in (batch.latent, spoilt):
        log_prob = policy.evaluate(dataclasses.replace(batch, latent=latent)).log_prob.cpu()
        log_prob.retain_grad()
        new, old, weight = ratio_terms(log_prob, batch, torch.ones_like(log_prob), "chunk")
        loss, _ = clipped_objective(new, old, torch.ones_like(new), weight)
        loss.backward()
        losses.append(loss.item())
        assert log_prob.grad is not None, "the loss depends on every log-probability, if only with weight 0"
        reached = log_prob.grad != 0
    policy.zero_grad(set_to_none=True)
    exact, blind = bool(torch.equal(reached, batch.valid)), losses[0] == losses[1]
    words = f"the loss reads {int(reached.sum())} steps, {int(batch.valid.sum())} were executed; "
    words += "the rest changes nothing" if blind else "the rest changes the loss"
    return Check("mask", exact and blind, words)


def log_prob_dtype(policy: Pi0Policy, batch: DecisionBatch) -> Check:
    """Log-probabilities and values in float32, whatever the network computes in."""
    seen = policy.evaluate(batch)
    kinds = {"acting": batch.log_prob.dtype, "training": seen.log_prob.dtype, "critic": seen.value.dtype}
    wrong = {name: kind for name, kind in kinds.items() if kind != torch.float32}
    words = ", ".join(f"{name} {str(kind).removeprefix('torch.')}" for name, kind in (wrong or kinds).items())
    return Check("float32 log-probabilities", not wrong, f"{words} (network: {policy.settings.precision})")


def dropout_off(policy: Pi0Policy, batch: DecisionBatch) -> Check:
    """Two passes must give the same bits, and no layer may be in training mode."""
    with torch.no_grad():
        same = torch.equal(policy.evaluate(batch).log_prob, policy.evaluate(batch).log_prob)
    modules = list(policy.modules())
    active = sum(module.training for module in modules)
    words = "two passes give the same bits" if same else "two passes differ"
    if active:
        words += f"; {active} of {len(modules)} modules are in training mode, call policy.eval()"
    return Check("dropout off", same and not active, words)


def zero_mean_score(policy: Pi0Policy, batch: DecisionBatch, directions: int = 4) -> Check:
    """Over the policy's own samples the gradient of the log-probability averages to zero.

    It does if the samples come from the density that is being differentiated, and only then. Taken along
    random directions in the space of all weights, by central differences; z is mean over standard error.

    Args:
        policy: its weights are moved and put back, bit for bit.
        batch: many samples for one observation.
        directions: how many.
    """
    before = {name: parameter.detach().clone() for name, parameter in policy.named_parameters()}
    draw = torch.Generator().manual_seed(0)
    worst = 0.0
    try:
        for _ in range(directions):
            # A fifth of a percent of each tensor's size: far above rounding, far below curvature.
            nudge = {
                name: (torch.randn(value.shape, generator=draw) * 0.002).to(value.device)
                * value.float().square().mean().sqrt().clamp_min(0.01)
                for name, value in before.items()
            }
            ends = []
            for sign in (1.0, -1.0):
                _set(policy, {name: value + sign * nudge[name] for name, value in before.items()})
                with torch.no_grad():
                    ends.append(policy.evaluate(batch).log_prob.double().sum(-1))
            score = (ends[0] - ends[1]) / 2
            error = score.std() / len(score) ** 0.5
            worst = max(worst, float(score.mean().abs() / error.clamp_min(1e-12)))
    finally:
        _set(policy, before)
    return Check(
        "score averages to zero",
        worst < 4.5,
        f"largest |z| {worst:.1f} of {directions} directions over {len(batch)} samples, allowed 4.5",
    )


def _set(policy: Pi0Policy, values: dict[str, Tensor]) -> None:
    with torch.no_grad():
        for name, parameter in policy.named_parameters():
            parameter.copy_(values[name])


def _gap(log_prob: Tensor, batch: DecisionBatch) -> tuple[float, float]:
    """Largest and mean |log ratio| of executed steps, nats."""
    gap = (log_prob.detach().cpu().double() - batch.log_prob.double()).abs()[batch.valid]
    return float(gap.nan_to_num(nan=torch.inf).max()), float(gap.mean())
