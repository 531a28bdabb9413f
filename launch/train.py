"""`regrip train`: collect, score, learn, log, evaluate, save. The loop is the function `train` below."""

from __future__ import annotations

import contextlib
import dataclasses
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import FrameType, TracebackType

import torch

from ..datasets.episode import Rollouts
from ..datasets.protocols import RewardSignal
from ..datasets.statistics import Rate
from ..rewards.asynchronous import Asynchronous
from ..rewards.embedding import Encoder, PixelDownsample, SimulatorState
from ..rewards.presets import Materials, build
from ..vla.pi0 import Pi0Policy
from ..vla.policy_files import save_policy
from ..vla.sampler import StartSampler
from ..vla.vision import VisionTower
from . import environments
from .alarms import keep_alarms
from .algorithms import actor_of, gamma_of, learn, prepare, set_learning_rate
from .checkpoint import CHECKPOINTS, Published, load, load_latest, open_published, publish, save_checkpoint
from .config import load_config, parse_with_preset, save_config, to_dict
from .evaluate import eval_starts, evaluate, measure
from .experiment import Run, TrainConfig
from .materials import open_judge
from .metrics import MetricsWriter
from .policies import open_policy
from .practice import describe, gather, help_left, look_closer, noise_level
from .progress import Progress
from .provenance import code_version, command_line
from .report import write_report
from .run_directory import RunDirectory, next_run
from .videos import record


def train(
    config: TrainConfig,
    run: Run,
    pool: environments.Pool,
    folder: RunDirectory,
    real: environments.Pool | None = None,
) -> bool:
    """The training loop, from `run.iteration` to the end.

    Args:
        config: what to do.
        run: changed in place.
        pool: where the policy practises.
        folder: where everything is written.
        real: where it is checked, if it practises in a learned world.

    Returns:
        False if Ctrl-C stopped it early; everything is saved then.
    """
    with (
        MetricsWriter(folder.path, run.iteration) as metrics,
        Progress("post-training") as bar,
        AskedToStop() as stop,
    ):
        clock = Clock()
        while run.iteration < config.iterations and not stop and not run.parted:
            run.policy.set_noise_level(noise_level(config, run.policy, run.iteration))
            seen = look_closer(config, run, pool) if run.iteration + 1 in config.see_before else {}
            clock.lap("see")
            left = help_left(config, run.iteration)
            pool.assist, pool.relax = left * config.assist, left * config.relax
            rollouts, reward, row = gather(config, run, pool, real)
            pool.assist = pool.relax = 0.0
            clock.lap("collect")
            set_learning_rate(config, run)
            row |= seen | describe(rollouts, reward) | watch(run, rollouts, reward, folder)
            clock.lap("watch")
            row |= learn(config, run, rollouts, reward)
            run.iteration += 1
            clock.lap("learn")
            if run.iteration % config.evaluate_every == 0 or run.iteration == config.iterations:
                row |= choose_checkpoint(config, run, pool, folder, real)
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


def watch(run: Run, rollouts: Rollouts, reward: RewardSignal, folder: RunDirectory) -> dict[str, float]:
    """Hold the reward against the simulator's verdict; what looks wrong is said, written down and filmed."""
    row, alarms = run.monitor.look(run.iteration, rollouts, reward)
    keep_alarms(folder.alarms, alarms, rollouts, reward)
    return row


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
    config: TrainConfig,
    run: Run,
    pool: environments.Pool,
    folder: RunDirectory,
    real: environments.Pool | None = None,
) -> dict[str, float]:
    """Measure on the select split; hand the policy on if it is the best so far."""
    torch.set_num_threads(1)
    starts = eval_starts(environments.task_names(config.env), "select", config.select_episodes)
    rate = evaluate(pool, run.policy, starts, greedy=True).outcomes.rate
    checked: dict[str, float] = {}
    if config.check_real and real is not None:
        imagined, rate = rate, evaluate(real, run.policy, starts, greedy=True).outcomes.rate
        run.real_episodes += rate.trials
        run.parted = run.parting.apart(imagined.value, rate.value, config.parting)
        checked = {
            "imagined/successes": imagined.successes,
            "imagined/episodes": imagined.trials,
            "parted": float(run.parted),
        }
        if run.parted:
            print(
                f"\nimagined success is {imagined.value:.0%}, real success {rate.value:.0%}: they part, so "
                "the run ends here; the checkpoint is the best by the real one",
                flush=True,
            )
    if rate.value >= run.best_select:
        run.best_select = rate.value
        hand_on(config, run, folder)
    return checked | {"select/successes": rate.successes, "select/episodes": rate.trials}


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
    if run.real_episodes:
        counts["real_episodes"] = run.real_episodes
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
    args = environments.short(args)
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
            begin(config)  # refuses what cannot be begun, before the folder counts as taken
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
    where = environments.elsewhere(config.env, config.real) if config.real else config.env
    with contextlib.ExitStack() as opened:
        pool = environments.open_pool(config.env, run.policy.execute)
        opened.callback(pool.close)
        real = environments.open_pool(where, run.policy.execute) if config.real else None
        if real is not None:
            opened.callback(real.close)
        judge = real or pool
        if not folder.eval_before.exists():
            measure_and_film(config, where, config.policy, judge, folder, "before")
            note_incidents(0, judge, folder)
        if not train(config, run, pool, folder, real):
            return False
        if not folder.eval_after.exists():
            measure_and_film(config, where, str(folder.policy), judge, folder, "after")
            note_incidents(run.iteration, judge, folder)
    if isinstance(run.reward, Asynchronous):
        run.reward.close()
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
    for env in (config.env, *([environments.elsewhere(config.env, config.real)] if config.real else [])):
        environments.contract(env).require_match(
            policy.spec, f"environment {env.name}/{env.suite}", f"policy {published.path}"
        )
    environments.require_execute(config.env, policy.execute)
    policy.pi0.model.vlm.requires_grad_(config.train_vlm)
    reward = build(config.reward, materials(config, policy))[1]
    if config.background:
        reward = Asynchronous(
            reward, queue_size=4 * config.groups * config.group_size, run=f"seed {config.seed}"
        )
    kept = prepare(config, policy)
    sampler = StartSampler(
        environments.task_names(config.env), config.groups, config.seed, config.sampler, family=config.seed
    )
    return Run(
        policy, kept.optimizer, reward, sampler, kept.learner, published.digest, kept.reference, kept.scores
    )


def materials(config: TrainConfig, policy: Pi0Policy) -> Materials:
    """What the run's reward is made of."""
    encoders: dict[str, Callable[[], Encoder]] = {
        "vision": lambda: VisionTower(policy),
        "pixels": PixelDownsample,
        "state": SimulatorState,
    }
    return Materials(
        run=f"seed {config.seed}",
        gamma=gamma_of(config) ** policy.execute,
        camera=policy.cameras[0],
        encoder=encoders[config.encoder](),
        model=Path(config.reward_model) if config.reward_model else None,
        judge=open_judge(config.judge),
        self_referential=config.self_referential,
    )


def measure_and_film(
    config: TrainConfig,
    where: environments.EnvConfig,
    policy_name: str,
    pool: environments.Pool,
    folder: RunDirectory,
    when: str,
) -> None:
    """Evaluate on the test split, greedy and sampled, and film the first start of each task."""
    torch.set_num_threads(1)
    policy, published = open_as_practised(config, policy_name)
    actor = actor_of(config, policy)
    starts = eval_starts(environments.task_names(config.env), "test", config.test_episodes)
    began = time.monotonic()
    played = {}
    for mode in ("greedy", "sampled"):
        with Progress(f"test {when}, {mode}") as bar:
            played[mode] = evaluate(pool, actor, starts, greedy=mode == "greedy", on_episode=bar.update)
        print(f"{when}, {mode}: {played[mode].outcomes.rate}", flush=True)
    if config.videos and where.name != "world":  # nothing else could be drawn there than what it imagines
        record(where, played["greedy"], folder.videos / when, config.videos)
    measurement = measure(
        where, open_published(published.path), policy.spec, played,
        policy_name=policy_name, seconds=time.monotonic() - began,
    )  # fmt: skip
    measurement.save(folder.eval_before if when == "before" else folder.eval_after)
