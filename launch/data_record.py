"""`regrip data record`: a scripted expert or a policy plays in a simulator, into a set."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import tyro
from numpy.typing import NDArray

from ..datasets.episode import Observation
from ..datasets.episode_io import contents_of, recording_of
from ..datasets.protocols import ActionSample, Actor
from ..datasets.recording import Recording, StreamSpec, Track
from ..datasets.rollout_recordings import contents_of_rollouts, recordings_of
from ..datasets.starts import Split, StartState
from ..datasets.statistics import Rate
from ..datasets.store.writer import StoreWriter
from ..sim.collect import collect
from ..sim.demonstrate import Demonstration, demonstrate
from ..vla.pi0 import Pi0Policy
from . import environments
from .config import from_dict, parse_options
from .environments import EnvConfig
from .evaluate import eval_starts
from .policies import open_policy
from .progress import Progress

_BATCH = 64  # episodes in memory at once


@dataclass(frozen=True)
class Options:
    """`regrip data record`.

    Attributes:
        suite: a family of tasks.
        out: the set; episodes are added to one that is there. Each is safe when it is over.
        policy: who plays: a policy folder, a run directory or a shipped policy; the scripted expert if none.
        env: the simulator.
        tasks: some of the suite's tasks by name; all if none is given.
        split: of the start states. Experts demonstrate on ``train`` and ``select`` only.
        episodes_per_task: start states of each task.
        first: index of the first start state.
        mode: of a policy: ``sampled``, as in training, or ``greedy``.
        action_noise: how far the expert is knocked about, as a share of each action's range.
        seed: family of start states.
        failures: keep episodes of the expert that failed.
        image_size: pixels, for the expert; a policy has its own.
        workers: simulator processes; 0 takes one for each core.
        slots: environments that are played at once.
        every_frame: of a policy: keep the pictures of every control step, as a recorder on a robot does, and
            not only those that it looked at.
        noise_level: of a policy that samples; its own if none is given.
    """

    suite: Annotated[str, tyro.conf.Positional]
    out: Path
    policy: str = ""
    env: str = "tabletop"
    tasks: tuple[str, ...] = ()
    split: Split = "train"
    episodes_per_task: Annotated[int, tyro.conf.arg(aliases=["-n"])] = 20
    first: int = 0
    mode: Literal["sampled", "greedy"] = "greedy"
    action_noise: float = 0.0
    seed: int = 0
    failures: bool = False
    image_size: int = 64
    workers: int = 0
    slots: int = 32
    every_frame: bool = False
    noise_level: float | None = None


def main(args: Sequence[str]) -> int:
    options = parse_options(
        Options, args, prog="regrip data record", description="Play in a simulator, into a data set."
    )
    said = {
        "name": options.env, "suite": options.suite, "tasks": list(options.tasks),
        "workers": options.workers, "slots": options.slots, "image_size": options.image_size,
    }  # fmt: skip
    return _policy(options, said) if options.policy else _expert(options, said)


def _expert(options: Options, said: dict[str, object]) -> int:
    config = from_dict(EnvConfig, said, "regrip data record")
    starts = [
        StartState(task, options.split, index, options.seed)
        for index in range(options.first, options.first + options.episodes_per_task)
        for task in environments.task_names(config)
    ]
    won = kept = 0
    with (
        environments.open_pool(config, chunk_size=1, expert=True) as pool,
        Progress("demonstrations") as bar,
    ):
        for begin in range(0, len(starts), _BATCH):
            demos = demonstrate(
                pool, starts[begin : begin + _BATCH],
                behaviour="expert", key=("record", options.seed), noise=options.action_noise,
                on_episode=lambda done, _, begin=begin: bar.update(begin + done, len(starts)),  # type: ignore[misc]
            )  # fmt: skip
            if not begin:
                of = contents_of(pool.spec)
                of = dataclasses.replace(of, streams={**of.streams, **_extra(demos[0])})
                writer = StoreWriter.record(
                    options.out, of, source=f"expert of {options.env}/{options.suite}"
                )
            for demo in demos:
                won += demo.episode.outcome.success
                if demo.episode.outcome.success or options.failures:
                    writer.write(_recording(demo))
                    kept += 1
    total = writer.done
    writer.close()
    print(f"{Rate(won, len(starts))} succeeded; {kept} written, {total} episodes in {options.out}")
    return 0


def _extra(demo: Demonstration) -> dict[str, StreamSpec]:
    """What an expert's episode has besides."""
    dims = demo.label.shape[1]
    return {
        "label": StreamSpec("label", "vector", "float32", (dims,), about={"what": "the expert's own action"}),
        "clean": StreamSpec("clean", "vector", "bool", (), about={"what": "the label was executed"}),
        "observation.environment_state": StreamSpec(
            "observation.environment_state", "vector", "float32", demo.privileged.shape[1:],
            about={"what": "the simulator's state; never for a policy"},
        ),
    }  # fmt: skip


def _recording(demo: Demonstration) -> Recording:
    one = recording_of(demo.episode)
    time = one.streams["action"].time
    more = {
        "label": Track(demo.label, time),
        "clean": Track(demo.clean, time),
        "observation.environment_state": Track(demo.privileged, time),
    }
    return dataclasses.replace(one, streams={**one.streams, **more})


class _Holding:
    """Shows the policy only every `execute`-th control step, and else goes on with the chunk it gave.

    So the environment may be asked one control step at a time, and draws a picture of each.
    """

    def __init__(self, policy: Pi0Policy) -> None:
        self._policy = policy
        self._chunks: dict[tuple[str | int, ...], NDArray[np.float32]] = {}

    def act(
        self, observation: Observation, noise_keys: Sequence[tuple[str | int, ...]] | None
    ) -> ActionSample:
        assert noise_keys is not None, "the key says which episode and step a row is of"
        every = self._policy.execute
        steps = [int(key[-1]) % every for key in noise_keys]
        asked = [row for row, step in enumerate(steps) if step == 0]
        if asked:
            keys = [(*noise_keys[row][:-1], int(noise_keys[row][-1]) // every) for row in asked]
            chunk = self._policy.act(observation.take(asked), keys).action
            self._chunks |= {noise_keys[row][:-1]: chunk[i] for i, row in enumerate(asked)}
        action = np.stack(
            [self._chunks[key[:-1]][step : step + 1] for key, step in zip(noise_keys, steps, strict=True)]
        )
        return ActionSample(action, np.zeros(action.shape[:2], np.float32))


def _policy(options: Options, said: dict[str, object]) -> int:
    changes: dict[str, Any] = {} if options.noise_level is None else {"noise_level": options.noise_level}
    if options.every_frame and options.mode == "greedy":
        raise ValueError("--every-frame keeps what a policy did while it sampled: give --mode sampled, too")
    policy, published = open_policy(options.policy, **changes)
    actor: Actor = _Holding(policy) if options.every_frame else policy
    said["image_size"] = policy.spec.cameras[0].height
    said["control_mode"] = policy.spec.control_mode
    config = from_dict(EnvConfig, said, "regrip data record")
    environments.contract(config).require_match(
        policy.spec, f"environment {config.name}/{config.suite}", f"policy {published.path}"
    )
    starts = eval_starts(
        environments.task_names(config),
        options.split,
        options.first + options.episodes_per_task,
        options.seed,
    )
    starts = [start for start in starts if start.index >= options.first]
    won = done = 0
    chunk = 1 if options.every_frame else policy.execute
    with environments.open_pool(config, chunk) as pool, Progress("playing") as bar:
        for begin in range(0, len(starts), _BATCH):
            part = starts[begin : begin + _BATCH]
            rollouts, _ = collect(
                pool, actor, part, range(begin, begin + len(part)),
                run_key=("record", options.seed), greedy=options.mode == "greedy", policy_version=0,
                on_episode=lambda count, _, begin=begin: bar.update(begin + count, len(starts)),  # type: ignore[misc]
            )  # fmt: skip
            if not begin:
                of = contents_of_rollouts(policy.spec, rollouts.privileged.shape[-1])
                writer = StoreWriter.record(options.out, of, source=f"{options.policy}, {options.mode}")
            for one in recordings_of(rollouts, policy.spec, options.policy):
                writer.write(one)
                won += bool(one.success)
                done += 1
    total = writer.done
    writer.close()
    print(f"{Rate(won, done)} succeeded; {done} written, {total} episodes in {options.out}")
    return 0
