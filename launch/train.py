"""`regrip train`: collect, score, learn, log, evaluate, save. The loop is the function `train` below."""

from __future__ import annotations

import dataclasses
import math
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Literal

import numpy as np
import torch

from ..datasets.episode import Rollouts, concatenate
from ..datasets.protocols import Reward, RewardSignal
from ..datasets.starts import StartState, counter_generator, refuse_test
from ..datasets.statistics import Rate
from ..rewards.binary import BinarySuccess
from ..rewards.diagnostics import auc
from ..rewards.embedding import Encoder, PixelDownsample, SimulatorState
from ..rewards.self_referential import SelfReferential, SelfReferentialConfig
from ..sim.branch import branch, choose_points
from ..sim.collect import collect
from ..vla import advantages, grpo, mpo, ppo
from ..vla.groups import GroupLedger, choose
from ..vla.pi0 import Pi0Policy
from ..vla.policy import flatten
from ..vla.policy_files import save_policy
from ..vla.sampler import NUM_INDICES, SamplerConfig, StartSampler
from ..vla.seeing import SeeingConfig, see, with_execute
from ..vla.vision import VisionTower
from . import environments
from .checkpoint import CHECKPOINTS, Published, load, load_latest, open_published, publish, save_checkpoint
from .config import load_config, parse_with_preset, save_config, to_dict
from .environments import EnvConfig
from .evaluate import eval_starts, evaluate, measure
from .metrics import MetricsWriter
from .policies import open_policy
from .progress import Progress
from .provenance import code_version, command_line
from .report import write_report
from .run_directory import RunDirectory, next_run
from .videos import record

SIBLINGS = 4
"""Episodes from one decision that is tried again."""


@dataclass(frozen=True)
class TrainConfig:
    """A post-training run.

    Attributes:
        policy: folder of the base policy; ``demo`` is the one that ships with regrip.
        env: where it practises.
        algorithm: ``mpo`` (a critic of chunks and a replay; needs a frozen VLM), ``ppo`` (with a critic of
            states) or ``grpo`` (groups that share a start state).
        grpo: settings of GRPO.
        mpo: settings of MPO.
        ppo: settings of PPO.
        reward: ``self_referential`` or ``binary``.
        encoder: what the self-referential reward sees with: the frozen base policy's ``vision`` tower,
            ``pixels`` on a coarse grid, or simulator ``state``.
        self_referential: settings of that reward.
        assist: how much the simulator helps at first, from 0 to 1 (see `sim.env.Assisting`): virtual forces,
            which no evaluation has.
        assist_until: share of the iterations by which that has faded to nothing, linearly.
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
    algorithm: Literal["grpo", "mpo", "ppo"] = "ppo"
    grpo: grpo.GrpoConfig = field(default_factory=grpo.GrpoConfig)
    mpo: mpo.MpoConfig = field(default_factory=mpo.MpoConfig)
    ppo: ppo.PpoConfig = field(default_factory=ppo.PpoConfig)
    reward: Literal["self_referential", "binary"] = "self_referential"
    encoder: Literal["vision", "pixels", "state"] = "vision"
    self_referential: SelfReferentialConfig = field(default_factory=SelfReferentialConfig)
    assist: float = 0.0
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
        if self.final_noise_level is not None and self.noise_level is None:
            raise ValueError(
                f"final_noise_level {self.final_noise_level} needs a noise_level to fall from: give both"
            )
        if self.algorithm == "grpo" and self.group_size < 2:
            raise ValueError(
                f"group_size {self.group_size}: GRPO compares the members of a group, give 2 or more"
            )
        if self.branches % SIBLINGS or self.branches < 0 or (self.branches and self.algorithm != "mpo"):
            raise ValueError(
                f"branches {self.branches} with algorithm {self.algorithm!r}: it takes 'mpo', whose critics "
                f"say where to branch, and a multiple of {SIBLINGS}, for so often each point is tried again"
            )
        if not 0.0 <= self.assist <= 1.0 or not 0.0 <= self.assist_until <= 1.0:
            raise ValueError(f"assist {self.assist} and assist_until {self.assist_until} must be in [0, 1]")
        if self.sampler.prefer == "dps" and self.group_size < 2:
            raise ValueError(
                f"group_size {self.group_size}: sampler.prefer 'dps' foretells groups that end with some of "
                "their episodes successful, give 2 or more, or prefer 'medium' or 'hard'"
            )


@dataclass
class Run:
    """Everything that changes while a run goes on, and nothing else: what a checkpoint holds.

    MPO's replay is saved beside the checkpoints, each iteration's part once (`RunDirectory.replay`).
    Random numbers are not in it: every draw is keyed by seed, iteration, episode and decision.
    """

    policy: Pi0Policy
    optimizer: torch.optim.Optimizer
    reward: Reward
    sampler: StartSampler
    learner: mpo.Learner | None = None
    iteration: int = 0
    episodes: int = 0
    env_steps: int = 0
    elapsed_s: float = 0.0
    best_select: float = -1.0

    def tensors(self) -> dict[str, Any]:
        found: dict[str, Any] = {f"policy.{name}": value for name, value in self.policy.weights().items()}
        for index, state in self.optimizer.state_dict()["state"].items():
            found |= {f"optimizer.{index}.{name}": value for name, value in state.items()}
        if self.learner is not None:
            found |= {f"critic.{name}": value for name, value in self.learner.critic.state_dict().items()}
        return found | {f"reward.{name}": value for name, value in self.reward.state_dict().items()}

    def meta(self) -> dict[str, Any]:
        return {
            "iteration": self.iteration,
            "episodes": self.episodes,
            "env_steps": self.env_steps,
            "elapsed_s": self.elapsed_s,
            "best_select": self.best_select,
            "sampler": self.sampler.state_dict(),
        }

    def load(self, tensors: Mapping[str, torch.Tensor], meta: Mapping[str, Any]) -> None:
        def part(prefix: str) -> dict[str, torch.Tensor]:
            return {
                name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)
            }

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
        self.iteration, self.episodes = int(meta["iteration"]), int(meta["episodes"])
        self.env_steps, self.elapsed_s = int(meta["env_steps"]), float(meta["elapsed_s"])
        self.best_select = float(meta["best_select"])


def train(config: TrainConfig, run: Run, pool: environments.Pool, folder: RunDirectory) -> bool:
    """The training loop, from `run.iteration` to the end.

    Returns:
        False if Ctrl-C stopped it early; everything is saved then.
    """
    with (
        MetricsWriter(folder.path, run.iteration) as metrics,
        Progress("post-training") as bar,
        AskedToStop() as stop,
    ):
        clock = Clock()
        while run.iteration < config.iterations and not stop:
            run.policy.set_noise_level(noise_level(config, run.policy, run.iteration))
            seen = look_closer(config, run, pool) if run.iteration + 1 in config.see_before else {}
            clock.lap("see")
            pool.assist = assist(config, run.iteration)
            rollouts, reward, row = gather(config, run, pool)
            pool.assist = 0.0
            clock.lap("collect")
            set_learning_rate(config, run)
            row |= seen | describe(rollouts, reward) | learn(config, run, rollouts, reward)
            run.iteration += 1
            clock.lap("learn")
            if run.iteration % config.evaluate_every == 0 or run.iteration == config.iterations:
                row |= choose_checkpoint(config, run, pool, folder)
                clock.lap("evaluate")
            save_replay(config, run, folder)
            # Logged before it is saved: a resumed run drops lines without a checkpoint and writes them anew,
            # but could not make up for one that is missing. So the time to save is in the next line.
            row |= note_incidents(run.iteration, pool, folder)
            row |= totals(run, clock.take())
            metrics.write(run.iteration, row)
            save_checkpoint(folder.checkpoints, run.iteration, run.tensors(), run.meta())
            clock.lap("save")
            bar.update(run.iteration, config.iterations, progress_note(row))
        return not stop


def noise_level(config: TrainConfig, policy: Pi0Policy, iteration: int) -> float:
    """How much the policy explores in an iteration, counted from 0."""
    first = policy.settings.noise_level if config.noise_level is None else config.noise_level
    if config.final_noise_level is None:
        return first
    return first + (config.final_noise_level - first) * iteration / max(1, config.iterations - 1)


def set_learning_rate(config: TrainConfig, run: Run) -> None:
    """The policy's, for this iteration: its optimiser's first group, whatever the algorithm."""
    rates = {
        "grpo": config.grpo.learning_rate,
        "mpo": config.mpo.learning_rate,
        "ppo": config.ppo.learning_rate,
    }
    first = rates[config.algorithm]
    share = run.iteration / max(1, config.iterations - 1)
    run.optimizer.param_groups[0]["lr"] = first * (1.0 + (config.final_learning_rate - 1.0) * share)


def assist(config: TrainConfig, iteration: int) -> float:
    """How much the simulator helps in an iteration, counted from 0."""
    return config.assist * max(0.0, 1.0 - iteration / max(1.0, config.assist_until * config.iterations))


def look_closer(config: TrainConfig, run: Run, pool: environments.Pool) -> dict[str, float]:
    """Play for the pictures alone, and let the VLM learn from them.

    Nothing of it is saved by itself: who is killed meanwhile begins it again from the last checkpoint.
    """
    torch.set_num_threads(1)
    # Of the train split, and of the family the sampler draws from.
    family, tasks = config.seed, environments.task_names(config.env)
    draw = counter_generator("look closer", config.seed, run.iteration)
    indices = draw.integers(NUM_INDICES, size=config.seeing.episodes)
    starts = [
        StartState(tasks[n % len(tasks)], "train", int(index), family) for n, index in enumerate(indices)
    ]
    policy = with_execute(run.policy, min(config.seeing.execute, run.policy.chunk_size))
    parts = []
    with environments.open_pool(config.env, policy.execute) as closer:
        for first in range(0, len(starts), 512):
            piece = starts[first : first + 512]
            rollouts, _ = collect(
                closer, policy, piece, range(len(piece)),
                run_key=("look closer", config.seed, run.iteration, first),
                greedy=False, policy_version=run.iteration,
            )  # fmt: skip
            parts.append(dataclasses.replace(rollouts, latent={}))
        pool.incidents += closer.incidents
    run.episodes += len(starts)
    pictures = flatten(concatenate(parts), run.policy.cameras)
    torch.set_num_threads(config.threads)
    with Progress("seeing") as bar:
        found = see(run.policy, pictures, config.seeing, (config.seed, run.iteration), bar.update)
    if run.learner is not None:
        run.learner.replay = []
    return found


def gather(
    config: TrainConfig, run: Run, pool: environments.Pool
) -> tuple[Rollouts, RewardSignal, dict[str, float]]:
    """One iteration's episodes and rewards; groups that teach nothing are replaced, after shaping."""
    torch.set_num_threads(1)  # beside the workers, more threads only wait for each other
    parts: list[Rollouts] = []
    signals: list[RewardSignal] = []
    ledger = GroupLedger()
    row = {"train/successes": 0.0, "train/episodes": 0.0, "episodes/wasted": 0.0, "episodes/invalid": 0.0}
    if config.assist:
        row["assist"] = pool.assist
    played = 0
    missing, attempts = config.groups, config.resample if config.algorithm == "grpo" else 0
    for attempt in range(attempts + 1):
        starts = run.sampler.draw(run.iteration, attempt, missing)
        refuse_test(starts, "regrip train")
        every = [start for start in starts for _ in range(config.group_size)]
        groups = [played + index // config.group_size for index in range(len(every))]
        rollouts, stats = collect(
            pool, run.policy, every, groups,
            run_key=("train", config.seed, run.iteration, attempt),
            greedy=False, policy_version=run.iteration,
        )  # fmt: skip
        played += len(rollouts)
        run.episodes += len(rollouts)
        run.env_steps += int(rollouts.num_steps.sum())
        row["episodes/invalid"] += stats.num_invalid
        if stats.num_invalid:
            rollouts = rollouts.take(np.flatnonzero(~rollouts.invalid))
        if not len(rollouts):
            raise RuntimeError(
                f"all {stats.num_invalid} episodes of iteration {run.iteration} were invalid: the simulation "
                "broke down in each. Watch some with `regrip eval --videos 1`, and check the actions' units"
            )
        row["train/successes"] += float(rollouts.success.sum())
        row["train/episodes"] += len(rollouts)
        run.sampler.update(rollouts.start, rollouts.success)
        for task, rate in rates_by_task(rollouts).items():
            row[f"tasks/{task}/successes"] = row.get(f"tasks/{task}/successes", 0) + rate.successes
            row[f"tasks/{task}/episodes"] = row.get(f"tasks/{task}/episodes", 0) + rate.trials
        row["tasks/forgotten"] = len(run.sampler.forgotten())
        row["tasks/hopeless"] = len(run.sampler.hopeless())
        if config.branches:
            rollouts = concatenate([rollouts, *grow(config, run, pool, rollouts, row)])
        reward = run.reward(rollouts)
        if config.algorithm != "grpo":  # the baseline is the critic's or the task's: every episode teaches
            return rollouts, reward, row
        returns = torch.from_numpy(reward.value.sum((1, 2)))
        live = advantages.grpo(returns, torch.from_numpy(rollouts.group))[1].numpy()
        rows, missing = choose(live, rollouts.group, missing)
        ledger.record(rollouts, live, rows)
        parts.append(rollouts.take(rows))
        signals.append(take_signal(reward, rows))
        if not missing:
            break
    total = ledger.total()
    row |= {
        "episodes/wasted": total.wasted_episodes,
        "groups/played": total.groups,
        "groups/used": config.groups - missing,
        "groups/all_won": total.solved,
        "groups/all_failed": total.failed,
        "groups/tied": total.tied,
        "tasks/starved": len(ledger.starved(environments.task_names(config.env))),
    }
    return concatenate(parts), concatenate_signals(signals), row


def grow(
    config: TrainConfig, run: Run, pool: environments.Pool, rollouts: Rollouts, row: dict[str, float]
) -> list[Rollouts]:
    """Branches of this iteration's episodes; none before the critics have learnt anything."""
    if run.learner is None or not run.learner.replay:
        return []
    doubt = mpo.doubt(run.policy, run.learner, rollouts)
    points = choose_points(rollouts, doubt, config.branches // SIBLINGS)
    branches, stats = branch(
        pool, run.policy, rollouts, [point for point in points for _ in range(SIBLINGS)],
        first_group=len(rollouts), run_key=("branch", config.seed, run.iteration),
        policy_version=run.iteration,
    )  # fmt: skip
    run.episodes += len(branches)
    run.env_steps += int(branches.num_steps.sum())
    row["episodes/invalid"] += stats.num_invalid
    row["branches/successes"], row["branches/episodes"] = float(branches.success.sum()), len(branches)
    return [branches.take(np.flatnonzero(~branches.invalid))]


def learn(config: TrainConfig, run: Run, rollouts: Rollouts, reward: RewardSignal) -> dict[str, float]:
    """Improve the policy from scored episodes."""
    if not len(rollouts):  # no group of this iteration had a difference to learn from
        return {}
    torch.set_num_threads(config.threads)
    key = ("learn", config.seed, run.iteration)
    if config.algorithm == "ppo":
        return ppo.update(run.policy, run.optimizer, rollouts, reward.value, config.ppo, key, run.iteration)
    if run.learner is not None:
        return mpo.update(run.policy, run.learner, run.optimizer, rollouts, reward.value, config.mpo, key)
    returns = reward.value.sum((1, 2))
    return grpo.update(run.policy, run.optimizer, rollouts, returns, config.grpo, key)


def save_replay(config: TrainConfig, run: Run, folder: RunDirectory) -> None:
    """Write what this iteration added to MPO's replay; older checkpoints still find all of theirs."""
    if run.learner is not None and run.learner.replay:
        keep = config.mpo.replay + CHECKPOINTS
        save_checkpoint(folder.replay, run.iteration, run.learner.replay[-1], {}, keep=keep)


def load_replay(config: TrainConfig, run: Run, folder: RunDirectory) -> None:
    """Read what the last iterations had added.

    Raises:
        CheckpointError: if a part is missing or damaged.
    """
    if run.learner is not None:
        # Before the VLM last changed, it made other things of the pictures.
        changed = max((step for step in config.see_before if step <= run.iteration), default=1)
        first = max(changed, run.iteration - config.mpo.replay + 1)
        run.learner.replay = [
            load(folder.replay / f"step-{step:08d}").tensors for step in range(first, run.iteration + 1)
        ]


def choose_checkpoint(
    config: TrainConfig, run: Run, pool: environments.Pool, folder: RunDirectory
) -> dict[str, float]:
    """Measure on the select split; hand the policy on if it is the best so far."""
    torch.set_num_threads(1)
    starts = eval_starts(environments.task_names(config.env), "select", config.select_episodes)
    rate = evaluate(pool, run.policy, starts, greedy=True).outcomes.rate
    if rate.value >= run.best_select:
        run.best_select = rate.value
        hand_on(config, run, folder)
    return {"select/successes": rate.successes, "select/episodes": rate.trials}


def hand_on(config: TrainConfig, run: Run, folder: RunDirectory) -> None:
    publish(
        folder.policy,
        partial(save_policy, run.policy),
        {
            "command": command_line(),
            "code": code_version(),
            "config": to_dict(config),
            "iteration": run.iteration,
            "episodes": run.episodes,
            "select_success": run.best_select,
        },
    )


def rates_by_task(rollouts: Rollouts) -> dict[str, Rate]:
    found: dict[str, Rate] = {}
    for start, won in zip(rollouts.start, rollouts.success, strict=True):
        found[start.task] = found.get(start.task, Rate(0, 0)) + Rate(int(won), 1)
    return found


def describe(rollouts: Rollouts, reward: RewardSignal) -> dict[str, float]:
    """What the learner is given, in numbers; the reward's own terms by name."""
    if not len(rollouts):
        return {}
    shaped, won = reward.value.sum((1, 2)), rollouts.success
    ranking = auc(shaped, won, [start.task for start in rollouts.start])
    found = {
        "train/steps": float(rollouts.num_steps.mean()),
        "reward/successes": float(shaped[won].mean()) if won.any() else math.nan,
        "reward/failures": float(shaped[~won].mean()) if not won.all() else math.nan,
        "reward/ranking": math.nan if ranking is None else ranking,
        "reward/judged": float(reward.valid.mean()),
    }
    for name, value in reward.components.items():
        if np.isfinite(value).any() and name not in ("success", "shaped"):
            found[f"reward/{name}"] = float(np.nanmean(value))
    return found


def note_incidents(iteration: int, pool: environments.Pool, folder: RunDirectory) -> dict[str, float]:
    """Write down the workers that were lost since the last call; returns how many of each kind."""
    counts: dict[str, float] = {}
    for incident in pool.incidents:
        folder.add_incident(iteration, dataclasses.asdict(incident))
        counts[f"incidents/{incident.kind}"] = counts.get(f"incidents/{incident.kind}", 0) + 1
    pool.incidents.clear()
    return counts


def totals(run: Run, seconds: Mapping[str, float]) -> dict[str, float]:
    """What was spent since the run began, and the seconds of each part of this iteration."""
    run.elapsed_s += sum(seconds.values())
    counts = {"episodes": run.episodes, "env_steps": run.env_steps, "elapsed_s": run.elapsed_s}
    return counts | {f"seconds/{part}": value for part, value in seconds.items()}


def progress_note(row: Mapping[str, float]) -> str:
    text = f"success {row['train/successes'] / row['train/episodes']:.0%}"
    if waiting := int(row["tasks/forgotten"]):
        text += f", {waiting} tasks wait for a turn"
    if hopeless := int(row["tasks/hopeless"]):
        text += f", {hopeless} tasks without a success"
    if "select/episodes" in row:
        text += f", select {Rate(int(row['select/successes']), int(row['select/episodes']))}"
    return text


def take_signal(signal: RewardSignal, rows: np.ndarray) -> RewardSignal:
    components = {name: value[rows] for name, value in signal.components.items()}
    return RewardSignal(signal.value[rows], components, signal.valid[rows], signal.relative)


def concatenate_signals(signals: Sequence[RewardSignal]) -> RewardSignal:
    longest = max(signal.value.shape[1] for signal in signals)
    return RewardSignal(
        np.concatenate([np.pad(s.value, [(0, 0), (0, longest - s.value.shape[1]), (0, 0)]) for s in signals]),
        {name: np.concatenate([s.components[name] for s in signals]) for name in signals[0].components},
        np.concatenate([s.valid for s in signals]),
        signals[0].relative,
    )


class Clock:
    """Seconds spent in each part of an iteration."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self._seconds[name] = now - self._last
        self._last = now

    def take(self) -> dict[str, float]:
        """The laps since the last call."""
        seconds, self._seconds = self._seconds, {}
        return seconds


class AskedToStop:
    """True after the first Ctrl-C, which lets the iteration finish; a second one stops at once."""

    def __init__(self) -> None:
        self._asked = False

    def __bool__(self) -> bool:
        return self._asked

    def __enter__(self) -> AskedToStop:
        self._before = signal.signal(signal.SIGINT, self._ask)
        return self

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self._asked:
            raise KeyboardInterrupt
        self._asked = True
        print("\nfinishing this iteration, then saving (Ctrl-C again stops at once)", flush=True)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        signal.signal(signal.SIGINT, self._before)


# ---- the command ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Options:
    """What is not part of the experiment.

    Attributes:
        out: run directory; by default ``runs/<preset>-001`` and so on.
        resume: a run directory to go on with; its own configuration is used.
    """

    out: Path | None = None
    resume: Path | None = None


def main(args: Sequence[str]) -> int:
    parsed = parse_with_preset(
        Options, TrainConfig, args,
        command="train", default_preset="demo",
        description="Post-train a policy in simulation.",
    )  # fmt: skip
    options, config = parsed.options, parsed.config
    if options.resume is not None:
        folder = RunDirectory(options.resume)
        config = load_config(TrainConfig, folder.config)
    else:
        preset = args[0] if args and not args[0].startswith("-") else "demo"
        folder = RunDirectory(options.out) if options.out else next_run(Path(preset).stem)
    with folder.claim():
        if options.resume is None:
            if folder.config.exists():
                raise ValueError(
                    f"{folder.path} holds a run already: go on with it by --resume {folder.path}, or choose "
                    "another --out"
                )
            save_config(folder.config, config, {"command": command_line(), "code": code_version()})
        try:
            finished = post_train(config, folder)
        except KeyboardInterrupt:  # outside the training loop, or for the second time
            finished = False
    if not finished:
        print(f"stopped; what is done is saved, go on with: regrip train --resume {folder.path}")
        return 130
    return 0


def post_train(config: TrainConfig, folder: RunDirectory) -> bool:
    """Measure, train, measure, report; picks up wherever `folder` was left."""
    run = begin(config)
    checkpoint = load_latest(folder.checkpoints)
    if checkpoint is not None:
        run.load(checkpoint.tensors, checkpoint.meta)
        load_replay(config, run, folder)
        print(f"going on after iteration {run.iteration}")
    with environments.open_pool(config.env, run.policy.execute) as pool:
        if not folder.eval_before.exists():
            measure_and_film(config, config.policy, pool, folder, "before")
            note_incidents(0, pool, folder)
        if not train(config, run, pool, folder):
            return False
        if not folder.eval_after.exists():
            measure_and_film(config, str(folder.policy), pool, folder, "after")
            note_incidents(run.iteration, pool, folder)
    page = write_report(folder)
    print(f"report: {page}")
    return True


def open_as_practised(config: TrainConfig, name: str) -> tuple[Pi0Policy, Published]:
    """A policy with the noise it has while practising, so that sampled numbers can be compared."""
    names = ("noise_level", "noise_correlation", "initial_noise", "execute")
    practice = {name: getattr(config, name) for name in names}
    changes = {name: value for name, value in practice.items() if value is not None}
    return open_policy(name, config.device, **changes)


def begin(config: TrainConfig) -> Run:
    """A run at its first iteration."""
    policy, published = open_as_practised(config, config.policy)
    environments.contract(config.env).require_match(
        policy.spec, f"environment {config.env.name}/{config.env.suite}", f"policy {published.path}"
    )
    policy.pi0.model.vlm.requires_grad_(config.train_vlm)
    encoders: dict[str, Encoder] = {
        "vision": VisionTower(policy),
        "pixels": PixelDownsample(),
        "state": SimulatorState(),
    }
    reward: Reward = BinarySuccess()
    if config.reward == "self_referential":
        reward = SelfReferential(encoders[config.encoder], config.self_referential, f"seed {config.seed}")
    learner = None
    if config.algorithm == "ppo":
        optimizer = ppo.optimizer(policy, config.ppo)
    elif config.algorithm == "mpo":
        learner = mpo.Learner.of(policy, config.seed)
        optimizer = mpo.optimizer(policy, learner, config.mpo)
    else:
        optimizer = grpo.optimizer(policy, config.grpo)
    sampler = StartSampler(
        environments.task_names(config.env), config.groups, config.seed, config.sampler, family=config.seed
    )
    return Run(policy, optimizer, reward, sampler, learner)


def measure_and_film(
    config: TrainConfig, policy_name: str, pool: environments.Pool, folder: RunDirectory, when: str
) -> None:
    """Evaluate on the test split, greedy and sampled, and film the first start of each task."""
    torch.set_num_threads(1)
    policy, published = open_as_practised(config, policy_name)
    starts = eval_starts(environments.task_names(config.env), "test", config.test_episodes)
    began = time.monotonic()
    played = {}
    for mode in ("greedy", "sampled"):
        with Progress(f"test {when}, {mode}") as bar:
            played[mode] = evaluate(pool, policy, starts, greedy=mode == "greedy", on_episode=bar.update)
        print(f"{when}, {mode}: {played[mode].outcomes.rate}", flush=True)
    if config.videos:
        record(config.env, played["greedy"], folder.videos / when, config.videos)
    measurement = measure(
        config.env, open_published(published.path), policy.spec, played,
        policy_name=policy_name, seconds=time.monotonic() - began,
    )  # fmt: skip
    measurement.save(folder.eval_before if when == "before" else folder.eval_after)
