"""One iteration's episodes: which are played, with how much noise and help, and what the learner is given."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from ..datasets.episode import Rollouts, concatenate
from ..datasets.protocols import RewardSignal
from ..datasets.starts import StartState, counter_generator, refuse_test
from ..datasets.statistics import Rate
from ..rewards.diagnostics import auc
from ..sim.branch import branch, choose_points
from ..sim.collect import collect
from ..vla import advantages, mpo
from ..vla.groups import GroupLedger, choose
from ..vla.pi0 import Pi0Policy
from ..vla.policy import flatten
from ..vla.sampler import NUM_INDICES
from ..vla.seeing import see, with_execute
from . import environments
from .algorithms import actor_of
from .experiment import SIBLINGS, Run, TrainConfig
from .progress import Progress
from .recorded import load_recorded, load_shown

_PATIENCE = 3  # iterations that an episode waits for its reward


def noise_level(config: TrainConfig, policy: Pi0Policy, iteration: int) -> float:
    """How much the policy explores in an iteration, counted from 0."""
    first = policy.settings.noise_level if config.noise_level is None else config.noise_level
    if config.final_noise_level is None:
        return first
    return first + (config.final_noise_level - first) * iteration / max(1, config.iterations - 1)


def help_left(config: TrainConfig, iteration: int) -> float:
    """The share of `assist` and `relax` that is left in an iteration, counted from 0."""
    return max(0.0, 1.0 - iteration / max(1.0, config.assist_until * config.iterations))


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
    config: TrainConfig, run: Run, pool: environments.Pool, real: environments.Pool | None = None
) -> tuple[Rollouts, RewardSignal, dict[str, float]]:
    """One iteration's episodes and rewards; groups that teach nothing are replaced, after shaping."""
    if config.data:
        return from_data(config, run)
    torch.set_num_threads(1)  # beside the workers, more threads only wait for each other
    parts: list[Rollouts] = []
    signals: list[RewardSignal] = []
    ledger = GroupLedger()
    row = {"train/successes": 0.0, "train/episodes": 0.0, "episodes/wasted": 0.0, "episodes/invalid": 0.0}
    if config.assist:
        row["assist"] = pool.assist
    if config.relax:
        row |= {"relax": pool.relax, "train/eased": 0.0}
    played = 0
    missing, attempts = config.groups, config.resample if config.algorithm == "grpo" else 0
    for attempt in range(attempts + 1):
        starts = run.sampler.draw(run.iteration, attempt, missing)
        refuse_test(starts, "regrip train")
        every = [start for start in starts for _ in range(config.group_size)]
        groups = [played + index // config.group_size for index in range(len(every))]
        rollouts, invalid = play(config, run, pool, real, every, groups, attempt)
        played += len(rollouts)
        run.episodes += len(rollouts)
        run.env_steps += int(rollouts.num_steps.sum())
        row["episodes/invalid"] += invalid
        if invalid:
            rollouts = rollouts.take(np.flatnonzero(~rollouts.invalid))
        if not len(rollouts):
            raise RuntimeError(
                f"all {invalid} episodes of iteration {run.iteration} were invalid: the simulation "
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
        if config.relax:
            row["train/eased"] += float(eased(rollouts).sum())
            rollouts = with_eased(rollouts)
        if config.branches:
            more = grow(config, run, pool, rollouts, row)
            rollouts = concatenate([rollouts, *(map(with_eased, more) if config.relax else more)])
        if config.background:
            return *ready(run, rollouts, row), row
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


def eased(rollouts: Rollouts) -> np.ndarray:
    """(B,) true where a relaxed goal was reached and the task's own was not."""
    return np.asarray(~rollouts.success & (rollouts.reward > 0).any((1, 2)))


def with_eased(rollouts: Rollouts) -> Rollouts:
    """The episodes as the learner and its reward see them: an eased one is a success, over when it was eased.

    Who counts successes, or asks how hard a task is, must look at the episodes as they were.
    """
    won = eased(rollouts)
    paid = (rollouts.reward > 0).reshape(len(rollouts), -1)
    till_first = (paid.cumsum(1) == paid).reshape(rollouts.reward.shape)
    from_last = (paid[:, ::-1].cumsum(1)[:, ::-1] == paid).reshape(rollouts.reward.shape)
    return dataclasses.replace(
        rollouts,
        valid=rollouts.valid & (till_first | ~won[:, None, None]),
        reward=rollouts.reward * from_last,
        success=rollouts.success | won,
        truncated=rollouts.truncated & ~won,
    )


def play(
    config: TrainConfig,
    run: Run,
    pool: environments.Pool,
    real: environments.Pool | None,
    starts: Sequence[StartState],
    groups: Sequence[int],
    attempt: int,
) -> tuple[Rollouts, int]:
    """One episode from each start, the last `real_share` of them in reality; and how many broke down."""
    there = round(config.real_share * len(starts) / config.group_size) * config.group_size if real else 0
    key = ("train", config.seed, run.iteration, attempt)
    parts, invalid = [], 0
    for env, first, last in ((pool, 0, len(starts) - there), (real, len(starts) - there, len(starts))):
        if env is None or first == last:
            continue
        rollouts, stats = collect(
            env, actor_of(config, run.policy), starts[first:last], groups[first:last],
            run_key=key if env is pool else (*key, "real"), greedy=False, policy_version=run.iteration,
        )  # fmt: skip
        invalid += stats.num_invalid
        parts.append(rollouts)
    if there:
        run.real_episodes += there
        # What each simulator tells beside the pictures is its own; no reward can read both.
        parts = [dataclasses.replace(part, privileged=part.privileged[..., :0]) for part in parts]
    return parts[0] if len(parts) == 1 else concatenate(parts), invalid


def from_data(config: TrainConfig, run: Run) -> tuple[Rollouts, RewardSignal, dict[str, float]]:
    """What a node recorded, in the place of an iteration's episodes: the same ones every time."""
    if run.recorded is None:
        paths = [Path(path) for path in config.data]
        run.recorded = load_recorded(paths, run.policy)
        run.shown = load_shown(paths, run.policy) if config.imitation.steps else None
        run.episodes += len(run.recorded)
    rollouts = run.recorded
    row = {"train/successes": float(rollouts.success.sum()), "train/episodes": float(len(rollouts))}
    row |= {"tasks/forgotten": 0.0, "tasks/hopeless": 0.0}
    return rollouts, run.reward(rollouts), row


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


def ready(run: Run, rollouts: Rollouts, row: dict[str, float]) -> tuple[Rollouts, RewardSignal]:
    """Of what was played now and lately, the episodes whose reward has come; the others go on waiting."""
    parts: list[Rollouts] = []
    signals: list[RewardSignal] = []
    waiting: list[Rollouts] = []
    row["reward/given_up"] = 0.0
    for part in [*run.waiting, rollouts]:  # one by one: an episode is known by the version that played it
        signal = run.reward(part)
        pending = signal.components["pending"] > 0
        parts.append(part.take(np.flatnonzero(~pending)))
        signals.append(take_signal(signal, np.flatnonzero(~pending)))
        if run.iteration - part.policy_version < _PATIENCE and pending.any():
            waiting.append(part.take(np.flatnonzero(pending)))
        else:
            row["reward/given_up"] += float(pending.sum())
    run.waiting = waiting
    row["reward/waiting"] = float(sum(map(len, waiting)))
    return concatenate(parts), concatenate_signals(signals)


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


def take_signal(signal: RewardSignal, rows: np.ndarray) -> RewardSignal:
    components = {name: value[rows] for name, value in signal.components.items()}
    return RewardSignal(signal.value[rows], components, signal.valid[rows], signal.relative)


def concatenate_signals(signals: Sequence[RewardSignal]) -> RewardSignal:
    longest = max(signal.value.shape[1] for signal in signals)
    return RewardSignal(
        np.concatenate([np.pad(s.value, [(0, 0), (0, longest - s.value.shape[1]), (0, 0)]) for s in signals]),
        {
            name: np.concatenate(
                [s.components.get(name, np.full(len(s.valid), np.nan, np.float32)) for s in signals]
            )
            for name in dict.fromkeys(name for s in signals for name in s.components)
        },
        np.concatenate([s.valid for s in signals]),
        any(s.relative for s in signals),
    )
