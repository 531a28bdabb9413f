"""What a post-training run is told, and everything that changes while it goes on."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch

from ..datasets.episode import Rollouts
from ..datasets.protocols import Reward
from ..rewards.monitors import Monitor
from ..rewards.presets import preset_of
from ..rewards.self_referential import SelfReferentialConfig
from ..vla import diwa, grpo, mpo, ppo, preference
from ..vla.imitation import ImitationConfig
from ..vla.pi0 import Pi0Policy
from ..vla.policy import DecisionBatch
from ..vla.sampler import SamplerConfig, StartSampler
from ..vla.seeing import SeeingConfig
from .checkpoint import CheckpointError
from .environments import EnvConfig
from .materials import JudgeConfig
from .proposals import ProposalsConfig
from .world_scores import WorldScores

SIBLINGS = 4
"""Episodes from one decision that is tried again."""


@dataclass(frozen=True)
class TrainConfig:
    """A post-training run.

    Attributes:
        policy: folder of the base policy; ``demo`` is the one that ships with regrip.
        env: where it practises, and is measured.
        real: NAME:SUITE of a simulator of the real thing, for a run that practises in a learned world: there
            the policy is measured on the test split, before and after.
        check_real: measure there on the select split, too, whenever the policy is measured in imagination:
            it then chooses the checkpoint, and ends a run in which imagination and reality part.
        parting: the run ends when imagined success has exceeded the real by so much more than it did at the
            first check, and the real has not risen since.
        real_share: share of an iteration's episodes that are played there, and not in imagination.
        data: sets that a node recorded: it learns from these instead of practising (MPO).
        algorithm: ``mpo`` (a critic of chunks and a replay; needs a frozen VLM), ``ppo`` (with a critic of
            states), ``grpo`` (groups that share a start state), ``diwa`` (PPO on all denoising steps, held to
            the base policy) or ``preference`` (of several chunks towards the one that leads to the best in a
            learned world, which `env` must be; the reward is only watched).
        grpo: settings of GRPO.
        mpo: settings of MPO.
        imitation: of what a person drove in recorded episodes that succeeded, before MPO in each iteration.
        ppo: settings of PPO.
        diwa: settings of DiWA.
        preference: settings of the update from preferences.
        proposals: which chunks that compares, and how.
        reward: by name; `regrip rewards list` shows all.
        reward_model: folder of what `regrip rewards fit` wrote, for the rewards that need one.
        judge: a vision-language model, for the rewards that ask one.
        background: score in the background; episodes wait, for three iterations at most, until their reward
            has come, and nothing waits for them (MPO, whose replay does not mind). Such a run depends on how
            fast rewards come: resumed, it is not bit for bit the same.
        encoder: what the self-referential reward sees with: the frozen base policy's ``vision`` tower,
            ``pixels`` on a coarse grid, or simulator ``state``.
        self_referential: settings of that reward.
        assist: how much the simulator helps at first, from 0 to 1 (see `sim.env.Assisting`): virtual forces,
            which no evaluation has.
        relax: likewise, how much less the goals ask for: what only that makes a success is learnt from as
            one, and counted apart (``train/eased``).
        assist_until: share of the iterations by which both have faded to nothing, linearly.
        branches: episodes of an iteration, beside those from start states, that go back to a decision about
            which the critics disagree and try again from there, four from each (MPO).
        see_before: iterations (counted from 1) before which the VLM learns from the policy's own pictures;
            MPO then forgets its replay, which holds what the VLM made of them before.
        seeing: settings of that.
        groups: start states in one iteration.
        group_size: episodes from each start state.
        resample: how often an iteration may replace groups from which nothing can be learnt (GRPO).
        sampler: how start states are chosen.
        iterations: length of the run.
        train_vlm: false freezes the VLM and improves the action expert and the critic alone, as pi-RL does
            with the published size.
        noise_level: of the flow's stochastic step while practising; None keeps the policy's own.
        final_noise_level: what `noise_level` falls to, linearly over the iterations; None leaves it.
        noise_correlation: likewise, of that noise over the steps of a chunk.
        initial_noise: likewise, scale of the flow's initial noise.
        execute: likewise, how many actions of a chunk are executed before the policy looks again.
        final_learning_rate: share of the policy's learning rate that is left at the end, falling linearly.
        evaluate_every: iterations between evaluations on the select split.
        select_episodes: greedy episodes for each task of such an evaluation.
        test_episodes: episodes for each task of the evaluations on the test split, before and after.
        videos: filmed test starts for each task, before and after.
        threads: of the learner; collection and evaluation use one beside the workers.
        device: ``cpu`` or ``cuda``.
        seed: of everything.
    """

    policy: str = "demo"
    env: EnvConfig = field(default_factory=EnvConfig)
    real: str = ""
    check_real: bool = False
    parting: float = 0.15
    real_share: float = 0.0
    data: tuple[str, ...] = ()
    algorithm: Literal["grpo", "mpo", "ppo", "diwa", "preference"] = "ppo"
    grpo: grpo.GrpoConfig = field(default_factory=grpo.GrpoConfig)
    mpo: mpo.MpoConfig = field(default_factory=mpo.MpoConfig)
    imitation: ImitationConfig = field(default_factory=ImitationConfig)
    ppo: ppo.PpoConfig = field(default_factory=ppo.PpoConfig)
    diwa: diwa.DiwaConfig = field(default_factory=diwa.DiwaConfig)
    preference: preference.PreferenceConfig = field(default_factory=preference.PreferenceConfig)
    proposals: ProposalsConfig = field(default_factory=ProposalsConfig)
    reward: str = "self_referential"
    reward_model: str = ""
    judge: JudgeConfig = field(default_factory=JudgeConfig)
    background: bool = False
    encoder: Literal["vision", "pixels", "state"] = "vision"
    self_referential: SelfReferentialConfig = field(default_factory=SelfReferentialConfig)
    assist: float = 0.0
    relax: float = 0.0
    assist_until: float = 0.5
    branches: int = 0
    see_before: tuple[int, ...] = ()
    seeing: SeeingConfig = field(default_factory=SeeingConfig)
    groups: int = 512
    group_size: int = 1
    resample: int = 1
    sampler: SamplerConfig = field(default_factory=SamplerConfig)
    iterations: int = 20
    train_vlm: bool = True
    noise_level: float | None = None
    final_noise_level: float | None = None
    noise_correlation: float | None = None
    initial_noise: float | None = None
    execute: int | None = None
    final_learning_rate: float = 1.0
    evaluate_every: int = 5
    select_episodes: int = 12
    test_episodes: int = 30
    videos: int = 1
    threads: int = 2
    device: str = "cpu"
    seed: int = 0

    def __post_init__(self) -> None:
        preset_of(self.reward)
        if self.final_noise_level is not None and self.noise_level is None:
            raise ValueError(
                f"final_noise_level {self.final_noise_level} needs a noise_level to fall from: give both"
            )
        if self.algorithm == "grpo" and self.group_size < 2:
            raise ValueError(
                f"group_size {self.group_size}: GRPO compares the members of a group, give 2 or more"
            )
        if self.background and self.algorithm != "mpo":
            raise ValueError(
                f"background with algorithm {self.algorithm!r}: only 'mpo' can learn from episodes of "
                "earlier iterations; score in the foreground, or choose mpo"
            )
        if not self.real and (self.check_real or self.real_share):
            raise ValueError("check_real and real_share need a simulator of the real thing: give real")
        if not 0.0 <= self.real_share < 1.0:
            raise ValueError(f"real_share {self.real_share} must be in [0, 1): a share of the episodes")
        if self.mpo.anchor and self.see_before:
            raise ValueError(
                f"mpo.anchor {self.mpo.anchor} with see_before {list(self.see_before)}: a VLM that learns on "
                "the way shows the base policy what it never learnt to read; leave out one of them"
            )
        if self.algorithm in ("diwa", "preference") and self.see_before:
            raise ValueError(
                f"algorithm {self.algorithm!r} with see_before {list(self.see_before)}: a VLM that learns on "
                "the way shows the base policy what it never learnt to read; leave out see_before"
            )
        if self.algorithm == "preference" and self.env.name != "world":
            raise ValueError(
                f"algorithm 'preference' with env.name {self.env.name!r}: it compares imagined "
                "chunks, and needs a learned world; give --env world:MODEL, a folder of `regrip world fit`"
            )
        if self.data and (self.algorithm != "mpo" or self.branches or self.background):
            raise ValueError(
                f"data with algorithm {self.algorithm!r}: what a node recorded is learnt from by 'mpo' "
                "alone, without branches or rewards in the background"
            )
        if self.branches % SIBLINGS or self.branches < 0 or (self.branches and self.algorithm != "mpo"):
            raise ValueError(
                f"branches {self.branches} with algorithm {self.algorithm!r}: it takes 'mpo', whose critics "
                f"say where to branch, and a multiple of {SIBLINGS}, for so often each point is tried again"
            )
        for name in ("assist", "relax", "assist_until"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"{name} {getattr(self, name)} must be in [0, 1]")
        if self.sampler.prefer == "dps" and self.group_size < 2:
            raise ValueError(
                f"group_size {self.group_size}: sampler.prefer 'dps' foretells groups that end with some of "
                "their episodes successful, give 2 or more, or prefer 'medium' or 'hard'"
            )


@dataclass
class Parting:
    """Whether success in imagination still says something about success in reality.

    Attributes:
        gap: imagined less real success at the first check; NaN before it.
        real: real success at the first check.
    """

    gap: float = math.nan
    real: float = math.nan

    def apart(self, imagined: float, real: float, limit: float) -> bool:
        """True if the gap has grown by more than `limit` and the real success has not risen."""
        if math.isnan(self.gap):
            self.gap, self.real = imagined - real, real
        return imagined - real - self.gap > limit and real <= self.real


@dataclass
class Run:
    """Everything that changes while a run goes on, and nothing else: what a checkpoint holds.

    MPO's replay is saved beside the checkpoints, each iteration's part once (`RunDirectory.replay`). Episodes
    that wait for their reward are not saved, nor is the policy that MPO's anchor holds to, or that DiWA and
    preferences measure from (`reference`): it is the one the run began with, found again by its name, and
    `base` (its digest) says whether it is still the same. `scores` is read from the world model's folder.
    Random numbers are not in it: every draw is keyed by seed, iteration, episode and decision.
    """

    policy: Pi0Policy
    optimizer: torch.optim.Optimizer
    reward: Reward
    sampler: StartSampler
    learner: mpo.Learner | None = None
    base: str = ""
    reference: Pi0Policy | None = None
    scores: WorldScores | None = None
    monitor: Monitor = field(default_factory=Monitor)
    waiting: list[Rollouts] = field(default_factory=list)
    recorded: Rollouts | None = None
    shown: DecisionBatch | None = None
    iteration: int = 0
    episodes: int = 0
    env_steps: int = 0
    elapsed_s: float = 0.0
    best_select: float = -1.0
    real_episodes: int = 0
    parting: Parting = field(default_factory=Parting)
    parted: bool = False

    def tensors(self) -> dict[str, Any]:
        found: dict[str, Any] = {f"policy.{name}": value for name, value in self.policy.weights().items()}
        for index, state in self.optimizer.state_dict()["state"].items():
            found |= {f"optimizer.{index}.{name}": value for name, value in state.items()}
        if self.learner is not None:
            found |= {f"critic.{name}": value for name, value in self.learner.critic.state_dict().items()}
        bank = self.monitor.reference.state_dict()
        found |= {f"monitor.{name}": value for name, value in bank.items()}
        return found | {f"reward.{name}": value for name, value in self.reward.state_dict().items()}

    def meta(self) -> dict[str, Any]:
        return {
            "iteration": self.iteration,
            "episodes": self.episodes,
            "env_steps": self.env_steps,
            "elapsed_s": self.elapsed_s,
            "best_select": self.best_select,
            "real_episodes": self.real_episodes,
            "parting": [repr(self.parting.gap), repr(self.parting.real)],  # JSON knows no NaN
            "parted": self.parted,
            "base": self.base,
            "sampler": self.sampler.state_dict(),
            "monitor": self.monitor.state(),
        }

    def load(self, tensors: Mapping[str, torch.Tensor], meta: Mapping[str, Any]) -> None:
        def part(prefix: str) -> dict[str, torch.Tensor]:
            return {
                name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)
            }

        held = self.reference if self.learner is None else self.learner.base
        if held is not None and meta["base"] != self.base:
            raise CheckpointError(
                f"the run is anchored to a base policy with digest {meta['base']}, and its configuration's "
                f"`policy` has digest {self.base} now: put back the policy it began with, or begin a new run"
            )
        self.policy.load_weights(part("policy."), "the checkpoint")
        if self.learner is not None:
            self.learner.critic.load_state_dict(part("critic."))
        saved = self.optimizer.state_dict()
        for name, value in part("optimizer.").items():
            index, key = name.split(".", 1)
            saved["state"].setdefault(int(index), {})[key] = value
        self.optimizer.load_state_dict(saved)
        self.reward.load_state_dict({name: value.numpy() for name, value in part("reward.").items()})
        self.sampler.load_state_dict(meta["sampler"])
        self.monitor.load_state(meta["monitor"])
        bank = {name: value.numpy() for name, value in part("monitor.").items()}
        self.monitor.reference.load_state_dict(bank)
        self.iteration, self.episodes = int(meta["iteration"]), int(meta["episodes"])
        self.env_steps, self.elapsed_s = int(meta["env_steps"]), float(meta["elapsed_s"])
        self.best_select = float(meta["best_select"])
        self.real_episodes, self.parted = int(meta.get("real_episodes", 0)), bool(meta.get("parted", False))
        self.parting = Parting(*(float(value) for value in meta.get("parting", ("nan", "nan"))))
