"""`regrip base`: train a base policy from a scripted expert's demonstrations.

Two kinds of data, one loss. Demonstrations teach what to do; scenes seen from random poses, without any
action, teach to see: from image and sentence, where is the instructed object (the counterpart, at this size,
of the grounding data that large vision-language models are trained on).
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import torch

from ..datasets.starts import StartState, counter_generator
from ..sim.demonstrate import Demonstration, demonstrate
from ..vla.auxiliary import Auxiliary, augment
from ..vla.normalizer import Normalizer
from ..vla.pi0 import Pi0Policy, Settings, nano_config
from ..vla.policy import DecisionBatch
from ..vla.policy_files import save_policy
from ..vla.prefix import Prefix
from ..vla.text import build_tokenizer
from . import environments
from .checkpoint import publish
from .config import parse_with_preset, to_dict
from .environments import EnvConfig
from .progress import Progress
from .provenance import code_version, command_line


@dataclass(frozen=True)
class BaseConfig:
    """How a base policy is made.

    Attributes:
        env: whose expert demonstrates.
        policy: how the policy samples; `max_words` is set by the longest sentence of the suite.
        demonstrations: successful episodes for each task.
        action_noise: see `sim.demonstrate.demonstrate`.
        astray: likewise.
        scenes: wandering episodes of twelve frames for each task, for seeing alone.
        chunk_size: actions predicted for each look.
        width: of the transformer.
        layers: of the VLM and of the action expert.
        steps: optimiser steps.
        minibatch: frames in one step.
        scene_share: share of a mini-batch that is scenes.
        learning_rate: peak, after a short warm-up, falling as a cosine.
        weight_decay: of AdamW.
        seeing_steps: optimiser steps of the VLM alone, before imitation, on the auxiliary losses.
        auxiliary_weight: of the auxiliary losses during imitation.
        brightness: augmentation, each picture's brightness and contrast are scaled by up to this share.
        threads: of the learner.
        seed: of everything.
    """

    env: EnvConfig = field(default_factory=EnvConfig)
    policy: Settings = field(default_factory=Settings)
    demonstrations: int = 50
    action_noise: float = 0.1
    astray: float = 0.0
    scenes: int = 100
    chunk_size: int = 5
    width: int = 128
    layers: int = 3
    steps: int = 2000
    minibatch: int = 256
    scene_share: float = 0.25
    learning_rate: float = 1e-3
    weight_decay: float = 1e-2
    seeing_steps: int = 1500
    auxiliary_weight: float = 1.0
    brightness: float = 0.15
    threads: int = 2
    seed: int = 0


@dataclass(frozen=True)
class Options:
    """What is not part of the recipe.

    Attributes:
        out: folder the policy is written to.
    """

    out: Path = Path("runs/base")


def main(args: Sequence[str]) -> int:
    parsed = parse_with_preset(
        Options, BaseConfig, args,
        command="base", default_preset="demo",
        description="Train a base policy from a scripted expert's demonstrations.",
    )  # fmt: skip
    train_base(parsed.config, parsed.options.out)
    env = parsed.config.env
    print(
        f"\nbase policy in {parsed.options.out}\n"
        f"measure it: regrip eval {parsed.options.out} --env {env.name} --suite {env.suite}"
    )
    return 0


def train_base(config: BaseConfig, out: Path) -> Pi0Policy:
    """Demonstrate, imitate, write the policy folder; returns the policy."""
    torch.set_num_threads(config.threads)
    torch.manual_seed(config.seed)
    began = time.monotonic()
    demos, scenes = record(config)
    log: dict[str, object] = {"demonstrations": len(demos), "scenes": len(scenes)}
    log["seconds_recording"] = round(time.monotonic() - began, 1)

    spec = environments.contract(config.env)
    label = np.concatenate([demo.label for demo in demos])
    state = np.concatenate([demo.episode.state for demo in demos])
    sentences = environments.sentences(config.env)
    tokenizer = build_tokenizer(sentences)
    longest = max(len(tokenizer.encode(text).ids) for text in sentences)
    policy = Pi0Policy(
        nano_config(
            image_size=config.env.image_size,
            vocab_size=tokenizer.get_vocab_size(),
            chunk_size=config.chunk_size,
            width=config.width,
            layers=config.layers,
        ),
        dataclasses.replace(config.policy, max_words=longest + 2),  # padding costs as much as words do
        spec,
        Normalizer.fit(state, label, spec),
        tokenizer,
    )
    log["parameters"] = sum(parameter.numel() for parameter in policy.parameters())
    shown = frames(demos, config.chunk_size, policy.cameras, imitate=True)
    looked = frames(scenes, config.chunk_size, policy.cameras, imitate=False) if scenes else None
    log["frames"] = len(shown)
    auxiliary = Auxiliary(
        policy, torch.cat([shown.privileged, looked.privileged]) if looked else shown.privileged
    )
    log["seeing_losses"] = see(policy, auxiliary, join([shown, looked]) if looked else shown, config)
    log["losses"] = imitate(policy, auxiliary, shown, looked, config)
    log["seconds_total"] = round(time.monotonic() - began, 1)
    publish(
        out,
        partial(save_policy, policy),
        {"command": command_line(), "code": code_version(), "config": to_dict(config), "log": log},
    )
    return policy


def record(config: BaseConfig) -> tuple[list[Demonstration], list[Demonstration]]:
    """Successful demonstrations, and scenes, of every task; start states of the train split only."""
    tasks = environments.task_names(config.env)
    key = ("base", config.seed)
    with environments.open_pool(config.env, chunk_size=1, expert=True) as pool:
        with Progress("demonstrations") as bar:
            starts = [
                StartState(task, "train", index, config.seed)
                for index in range(config.demonstrations)
                for task in tasks
            ]
            demos = demonstrate(
                pool, starts,
                behaviour="expert", key=key, noise=config.action_noise, astray=config.astray,
                on_episode=bar.update,
            )  # fmt: skip
        with Progress("scenes") as bar:
            # Their own start states: 100,000 on, where no demonstration ever begins.
            starts = [
                StartState(task, "train", 100_000 + index, config.seed)
                for index in range(config.scenes)
                for task in tasks
            ]
            scenes = demonstrate(pool, starts, behaviour="wander", key=key, on_episode=bar.update)
    return [demo for demo in demos if demo.episode.outcome.success], scenes


def frames(
    demos: Sequence[Demonstration], chunk_size: int, cameras: Sequence[str], imitate: bool
) -> DecisionBatch:
    """Every frame as a decision whose label is the expert's next actions.

    Nothing is valid past the episode's end, nor past a disturbance, which the expert could not foresee.
    """
    count = sum(len(demo.episode) for demo in demos)
    dims = demos[0].label.shape[1]
    action = np.zeros((count, chunk_size, dims), np.float32)
    valid = np.zeros((count, chunk_size), bool)
    row = 0
    for demo in demos:
        steps = len(demo.episode)
        undisturbed = np.ones(steps, bool)
        for offset in range(chunk_size if imitate else 0):
            left = max(steps - offset, 0)
            action[row : row + left, offset] = demo.label[offset:]
            valid[row : row + left, offset] = undisturbed[:left]
            undisturbed[:left] &= demo.clean[offset:]
        row += steps
    return DecisionBatch(
        pixels=torch.from_numpy(
            np.concatenate([np.stack([demo.episode.images[name] for name in cameras], 1) for demo in demos])
        ),
        state=torch.from_numpy(np.concatenate([demo.episode.state for demo in demos])),
        instruction=[demo.episode.task for demo in demos for _ in range(len(demo.episode))],
        action=torch.from_numpy(action),
        valid=torch.from_numpy(valid),
        log_prob=torch.zeros(count, chunk_size),
        latent={},
        episode=torch.arange(count),
        decision=torch.zeros(count, dtype=torch.long),
        privileged=torch.from_numpy(np.concatenate([demo.privileged for demo in demos])),
    )


def see(
    policy: Pi0Policy, auxiliary: Auxiliary, pictures: DecisionBatch, config: BaseConfig
) -> list[list[float]]:
    """Train the VLM alone to read the scene, and the instructed object, off picture and sentence.

    Returns:
        [step, mean loss, mean error in locating the instructed object in cm] rows.
    """
    learning = [*policy.pi0.model.vlm.parameters(), *policy.pool.parameters(), *auxiliary.parameters()]
    optimizer = torch.optim.AdamW(learning, lr=config.learning_rate, betas=(0.9, 0.95))
    losses: list[list[float]] = []
    recent: list[tuple[float, float]] = []
    with Progress("seeing") as bar:
        for step in range(config.seeing_steps):
            draw = counter_generator("see", config.seed, step)
            rows = torch.from_numpy(draw.integers(len(pictures), size=config.minibatch))
            batch = augment(pictures.take(rows), draw, config.brightness)
            for group in optimizer.param_groups:
                group["lr"] = config.learning_rate * schedule(step, config.seeing_steps)
            prefix = policy.prefix(batch.pixels, batch.instruction)
            loss = auxiliary(prefix, batch.privileged)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(learning, 1.0)
            optimizer.step()
            with torch.no_grad():
                error = auxiliary.locate(prefix).cpu() - batch.privileged[:, :3]
            recent.append((loss.item(), 100 * float(error.norm(dim=-1).mean())))
            if (step + 1) % 50 == 0:
                mean_loss, mean_cm = np.mean(recent, axis=0).tolist()
                losses.append([step + 1, round(mean_loss, 5), round(mean_cm, 3)])
                recent.clear()
            note = f"loss {losses[-1][1]:.3f}, off by {losses[-1][2]:.1f} cm" if losses else ""
            bar.update(step + 1, config.seeing_steps, note)
    return losses


def imitate(
    policy: Pi0Policy,
    auxiliary: Auxiliary,
    shown: DecisionBatch,
    looked: DecisionBatch | None,
    config: BaseConfig,
) -> list[list[float]]:
    """Minimise the imitation loss; returns [step, mean loss] pairs."""
    learning = [*policy.parameters(), *auxiliary.parameters()]
    optimizer = torch.optim.AdamW(
        learning, lr=config.learning_rate, betas=(0.9, 0.95), weight_decay=config.weight_decay
    )

    def further(prefix: Prefix, privileged: torch.Tensor) -> torch.Tensor:
        extra: torch.Tensor = config.auxiliary_weight * auxiliary(prefix, privileged)
        return extra

    generator = torch.Generator().manual_seed(config.seed)
    num_looked = 0 if looked is None else int(config.scene_share * config.minibatch)
    losses: list[list[float]] = []
    recent: list[float] = []
    with Progress("imitation") as bar:
        for step in range(config.steps):
            draw = counter_generator("imitate", config.seed, step)
            rows = torch.from_numpy(draw.integers(len(shown), size=config.minibatch - num_looked))
            parts = [shown.take(rows)]
            if looked is not None:
                parts.append(looked.take(torch.from_numpy(draw.integers(len(looked), size=num_looked))))
            batch = augment(join(parts), draw, config.brightness)
            for group in optimizer.param_groups:
                group["lr"] = config.learning_rate * schedule(step, config.steps)
            loss = policy.imitation_loss(batch, generator, auxiliary=further)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
            optimizer.step()
            recent.append(loss.item())
            if (step + 1) % 50 == 0:
                losses.append([step + 1, round(float(np.mean(recent)), 5)])
                recent.clear()
            bar.update(step + 1, config.steps, f"loss {losses[-1][1]:.3f}" if losses else "")
    return losses


def schedule(step: int, steps: int) -> float:
    """Linear warm-up over the first 3 %, then a cosine to 2 %."""
    warm = max(1, int(0.03 * steps))
    if step < warm:
        return (step + 1) / warm
    return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))


def join(parts: Sequence[DecisionBatch]) -> DecisionBatch:
    def cat(name: str) -> torch.Tensor:
        return torch.cat([getattr(part, name) for part in parts])

    return DecisionBatch(
        pixels=cat("pixels"),
        state=cat("state"),
        instruction=[text for part in parts for text in part.instruction],
        action=cat("action"),
        valid=cat("valid"),
        log_prob=cat("log_prob"),
        latent={},
        episode=cat("episode"),
        decision=cat("decision"),
        privileged=cat("privileged"),
    )
