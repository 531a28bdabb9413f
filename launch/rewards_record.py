"""`regrip rewards record`: a policy plays, and what it saw goes into a file that rewards are judged on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
import tyro

from ..datasets.rollout_files import save_rollouts
from ..datasets.starts import Split
from ..datasets.statistics import Rate
from ..sim.collect import collect
from . import environments
from .config import from_dict, parse_options
from .environments import EnvConfig
from .evaluate import eval_starts
from .policies import open_policy
from .progress import Progress


@dataclass(frozen=True)
class Options:
    """`regrip rewards record`.

    Attributes:
        policy: a policy folder, a run directory, or the name of a policy that ships with regrip.
        out: the file; usually ends in ``.rollouts``.
        env: the simulator.
        suite: a family of tasks.
        tasks: some of the suite's tasks by name; all if none is given.
        split: of the start states. Rewards may be fitted on ``train`` and judged on ``select``.
        episodes_per_task: start states of each task.
        first: index of the first start state.
        mode: ``sampled``, as in training, or ``greedy``.
        noise_level: of the sampling; the policy's own if none is given.
        seed: family of start states.
        workers: simulator processes; the result does not depend on it. 0 takes one for each core.
        slots: environments that are played at once.
        threads: of the policy on a CPU.
        device: of the policy: ``cpu`` or ``cuda``.
    """

    policy: Annotated[str, tyro.conf.Positional]
    out: Path
    env: str = "tabletop"
    suite: str = "demo"
    tasks: tuple[str, ...] = ()
    split: Split = "select"
    episodes_per_task: Annotated[int, tyro.conf.arg(aliases=["-n"])] = 30
    first: int = 0
    mode: Literal["sampled", "greedy"] = "sampled"
    noise_level: float | None = None
    seed: int = 0
    workers: int = 0
    slots: int = 48
    threads: int = 1
    device: str = "cpu"


def main(args: Sequence[str]) -> int:
    options = parse_options(
        Options,
        args,
        prog="regrip rewards record",
        description="Let a policy play, and keep what it saw for rewards to be fitted and judged on.",
    )
    if not options.out.absolute().parent.is_dir():
        raise ValueError(
            f"there is no folder {options.out.absolute().parent} for {options.out.name}; make it"
        )
    torch.set_num_threads(options.threads)
    changes = {} if options.noise_level is None else {"noise_level": options.noise_level}
    policy, published = open_policy(options.policy, options.device, **changes)
    config = from_dict(
        EnvConfig,
        {
            "name": options.env,
            "suite": options.suite,
            "tasks": list(options.tasks),
            "image_size": policy.spec.cameras[0].height,
            "control_mode": policy.spec.control_mode,
            "workers": options.workers,
            "slots": options.slots,
        },
        "regrip rewards record",
    )
    environments.contract(config).require_match(
        policy.spec, f"environment {config.name}/{config.suite}", f"policy {published.path}"
    )
    tasks = environments.task_names(config)
    starts = eval_starts(tasks, options.split, options.first + options.episodes_per_task, options.seed)
    starts = [start for start in starts if start.index >= options.first]
    with environments.open_pool(config, policy.execute) as pool, Progress("playing") as bar:
        rollouts, stats = collect(
            pool, policy, starts, range(len(starts)),
            run_key=("record", options.seed), greedy=options.mode == "greedy", policy_version=0,
            on_episode=bar.update,
        )  # fmt: skip
    rollouts = rollouts.take(np.flatnonzero(~rollouts.invalid))
    save_rollouts(options.out, rollouts, options.policy)
    won = Rate(int(rollouts.success.sum()), len(rollouts))
    print(f"{won} succeeded, {stats.num_invalid} invalid; written to {options.out}")
    return 0
