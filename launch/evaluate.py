"""`regrip eval`: measure a policy on start states of one split, greedy and sampled."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
import tyro
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from ..datasets.episode import Rollouts
from ..datasets.protocols import Actor, VectorEnv
from ..datasets.spec import RobotSpec
from ..datasets.starts import Split, StartState
from ..datasets.statistics import Rate
from ..sim.collect import collect
from ..vla.pi0 import Pi0Policy
from . import environments
from .checkpoint import Published
from .config import from_dict, parse_options, to_dict
from .durable import explain
from .environments import EnvConfig
from .measurement import Measurement, Outcomes
from .policies import open_policy
from .progress import Progress
from .provenance import code_version, command_line

# Episodes in one call of `collect`, whose memory grows with them.
_PIECE = 512


@dataclass(frozen=True)
class Played:
    """Episodes, without their images: from start and actions they can be seen again, see `videos`.

    Attributes:
        greedy: how the policy acted.
        outcomes: one entry for each start state, in the order given, but for invalid ones.
        actions: for each, float32 (T,A), as executed.
        instructions: for each, the sentence given to the policy.
        num_incidents: workers that were lost and replayed.
        num_invalid: starts that are left out, because the simulation broke down.
    """

    greedy: bool
    outcomes: Outcomes
    actions: tuple[NDArray[np.float32], ...]
    instructions: tuple[str, ...]
    num_incidents: int
    num_invalid: int


def evaluate(
    env: VectorEnv,
    actor: Actor,
    starts: Sequence[StartState],
    *,
    greedy: bool,
    on_episode: Callable[[int, int], None] | None = None,
) -> Played:
    """Play one episode from each start state. The result does not depend on the number of workers.

    Args:
        env: the environments.
        actor: the policy.
        starts: where to begin.
        greedy: without noise; else the policy samples, with noise that depends on the row of `starts` alone.
        on_episode: called with (episodes done, all) after each.
    """
    kept: list[StartState] = []
    success: list[bool] = []
    steps: list[int] = []
    actions: list[NDArray[np.float32]] = []
    instructions: list[str] = []
    num_incidents = num_invalid = 0
    for first in range(0, len(starts), _PIECE):
        piece = starts[first : first + _PIECE]

        def report(done: int, _: int, first: int = first) -> None:
            if on_episode is not None:
                on_episode(first + done, len(starts))

        rollouts, stats = collect(
            env,
            actor,
            piece,
            list(range(len(piece))),
            run_key=("evaluate", first),
            greedy=greedy,
            policy_version=0,
            on_episode=report,
        )
        if stats.num_invalid:
            rollouts = rollouts.take(np.flatnonzero(~rollouts.invalid))
        kept += rollouts.start
        success += [bool(value) for value in rollouts.success]
        steps += [int(value) for value in rollouts.num_steps]
        actions += executed_actions(rollouts)
        instructions += list(rollouts.instruction)
        num_incidents += stats.num_incidents
        num_invalid += stats.num_invalid
    outcomes = Outcomes(tuple(kept), tuple(success), tuple(steps))
    return Played(greedy, outcomes, tuple(actions), tuple(instructions), num_incidents, num_invalid)


def executed_actions(rollouts: Rollouts) -> list[NDArray[np.float32]]:
    """For each episode, the (T,A) actions that the environment executed."""
    return [action[valid] for action, valid in zip(rollouts.action, rollouts.valid, strict=True)]


def eval_starts(tasks: Sequence[str], split: Split, per_task: int, seed: int = 0) -> list[StartState]:
    """The first `per_task` start states of each task; tasks alternate, so that they end at about one time."""
    return [StartState(task, split, index, seed) for index in range(per_task) for task in tasks]


@dataclass(frozen=True)
class Options:
    """`regrip eval`.

    Attributes:
        policy: a policy folder, a run directory, or the name of a policy that ships with regrip.
        env: the simulator.
        suite: a family of tasks.
        tasks: some of the suite's tasks by name; all if none is given.
        split: of the start states; `test` is the one to quote.
        episodes_per_task: start states of each task.
        mode: how the policy acts.
        paraphrase: wording of the instructions.
        render: `fast`, or `stock` as the simulator draws by default; a policy may tell them apart.
        perturb: what is changed from the suite: `none`, a kind, several with commas, or `all`; the policy is
            then measured greedy (or sampled, if that is the mode), undisturbed and with each kind.
        seed: family of start states.
        workers: simulator processes; the result does not depend on it. 0 takes one for each core.
        slots: environments that are played at once.
        threads: of the policy on a CPU; beside the workers, more only wait for each other.
        device: of the policy, and of genesis: `cpu` or `cuda`.
        videos: record the first so many start states of each task.
        out: result file; by default in runs/eval/.
        select: ``world:MODEL``, a folder of `regrip world fit`: the policy is measured greedy, and again on
            the same starts executing, of several chunks, the one that this world likes best.
        candidates: chunks that it then chooses from at each decision; the greedy one is among them.
        select_by: ``goal``, how near a chunk leads to the end of the success that began most like what is
            seen; or ``reflector``, how likely success is on the way.
    """

    policy: tyro.conf.Positional[str]
    env: str = "tabletop"
    suite: str = "demo"
    tasks: tuple[str, ...] = ()
    split: Split = "test"
    episodes_per_task: Annotated[int, tyro.conf.arg(aliases=["-n"])] = 30
    mode: Literal["both", "greedy", "sampled"] = "both"
    paraphrase: str = "canonical"
    render: Literal["fast", "stock"] = "fast"
    perturb: str = "none"
    seed: int = 0
    workers: int = 0
    slots: int = 48
    threads: int = 1
    device: str = "cpu"
    videos: int = 0
    out: Path | None = None
    select: str = ""
    candidates: int = 8
    select_by: Literal["goal", "reflector"] = "goal"

    def __post_init__(self) -> None:
        if self.episodes_per_task < 1:
            raise ValueError(f"--episodes-per-task is {self.episodes_per_task}, expected at least 1")
        if self.select and (self.mode != "both" or self.perturb != "none"):
            raise ValueError(
                f"--select with --mode {self.mode} and --perturb {self.perturb}: it measures greedy and "
                "selected, undisturbed; leave out the others"
            )


def main(args: Sequence[str]) -> int:
    options = parse_options(
        Options,
        args,
        prog="regrip eval",
        description="Measure a policy: success on start states of one split, with 95 % intervals.",
    )
    torch.set_num_threads(options.threads)
    policy, published = open_policy(options.policy, options.device)
    config = environment_for(policy.spec, options)
    out = options.out or default_out(published, options)
    require_place(out)

    starts = eval_starts(
        environments.task_names(config), options.split, options.episodes_per_task, options.seed
    )
    kinds = perturbations(options.perturb, config)
    if kinds:
        from .robustness import measure_robustness

        measure_robustness(config, policy, published, starts, options, kinds, out)
        return 0
    modes: tuple[str, ...] = ("greedy", "sampled") if options.mode == "both" else (options.mode,)
    chooser: Actor | None = None
    if options.select:
        from .choosing import selecting

        modes = ("greedy", "selected")
        chooser = selecting(policy, options.select, options.candidates, options.select_by, options.device)
    measurement, played = measure_modes(
        config, policy, published, starts, modes, options.policy, chooser=chooser
    )
    if options.select:
        said = {name: getattr(options, name) for name in ("select", "candidates", "select_by")}
        measurement = dataclasses.replace(measurement, facts={**measurement.facts, **said})
    measurement.save(out)
    print_table(measurement)
    if options.select:
        from .choosing import print_gain

        print_gain(measurement)
    print(f"result: {out}")
    if options.videos:
        from .videos import record

        for mode, episodes in played.items():
            folder = record(config, episodes, out.with_suffix("") / mode, options.videos)
            print(f"videos: {folder}")
    return 0


def measure_modes(
    config: EnvConfig,
    policy: Pi0Policy,
    published: Published,
    starts: Sequence[StartState],
    modes: Sequence[str],
    policy_name: str,
    label: str = "",
    chooser: Actor | None = None,
) -> tuple[Measurement, dict[str, Played]]:
    """Play one episode from each start state in each mode, in workers of its own.

    In the mode ``selected`` it is `chooser` that acts, and samples what it chooses from.

    Raises:
        ContractError: if the policy is of another robot.
    """
    began = time.monotonic()
    played: dict[str, Played] = {}
    with environments.open_pool(config, policy.execute) as pool:
        pool.spec.require_match(
            policy.spec, f"environment {config.name}/{config.suite}", f"policy {policy_name}"
        )
        for mode in modes:
            with Progress(f"{label}{mode}") as bar:
                actor = chooser if mode == "selected" and chooser is not None else policy
                played[mode] = evaluate(pool, actor, starts, greedy=mode == "greedy", on_episode=bar.update)
    seconds = time.monotonic() - began
    return measure(config, published, policy.spec, played, policy_name=policy_name, seconds=seconds), played


def perturbations(wanted: str, config: EnvConfig) -> tuple[str, ...]:
    """The kinds that `--perturb` names; none for ``none``.

    Raises:
        ValueError: if a kind does not exist there, saying why or naming the nearest.
    """
    if wanted == "none":
        return ()
    if wanted == "all":
        return tuple(environments.perturbations(config.name, config.suite)[0])
    kinds = tuple(part.strip() for part in wanted.split(","))
    for kind in kinds:
        environments.require_perturbation(kind, config.name, config.suite)
    return kinds


def environment_for(spec: RobotSpec, options: Options) -> EnvConfig:
    """The environment's settings: what the policy's contract fixes, and what the user chose.

    Raises:
        ConfigError: if the user's choice does not exist.
    """
    return from_dict(
        EnvConfig,
        {
            "name": options.env,
            "suite": options.suite,
            "tasks": list(options.tasks),
            "image_size": spec.cameras[0].height,
            "control_mode": spec.control_mode,
            "paraphrase": options.paraphrase,
            "render": options.render,
            "workers": options.workers,
            "slots": options.slots,
            "device": options.device if options.env in environments.IN_PROCESS else "cpu",
        },
        "regrip eval",
    )


def measure(
    config: EnvConfig,
    published: Published,
    spec: RobotSpec,
    played: dict[str, Played],
    *,
    policy_name: str,
    seconds: float,
) -> Measurement:
    """Put a result together; every start state must be of one split and seed."""
    every = [start for episodes in played.values() for start in episodes.outcomes.starts]
    if not every:
        raise ValueError(
            f"all episodes on {config.name}/{config.suite} were invalid: the simulation broke down in each; "
            "look at one with --videos, and check the actions' units"
        )
    first = every[0]
    environment = {
        k: v
        for k, v in to_dict(config).items()
        if k not in ("workers", "deadline_s", "memory_limit_mb", "device")
    }
    return Measurement(
        environment=environment,
        split=first.split,
        seed=first.seed,
        policy=policy_name,
        digest=published.digest,
        robot=spec.to_json(),
        modes={mode: episodes.outcomes for mode, episodes in played.items()},
        facts={
            "command": command_line(),
            "code": code_version(),
            "torch_threads": torch.get_num_threads(),
            "seconds": round(seconds, 1),
            "incidents": sum(episodes.num_incidents for episodes in played.values()),
            "invalid": sum(episodes.num_invalid for episodes in played.values()),
        },
    )


def print_table(measurement: Measurement, console: Console | None = None) -> None:
    """Success by task, with counts and 95 % Wilson intervals."""
    console = console or Console()
    if not console.is_terminal:  # a pipe or a log: nothing is gained by folding lines at 80
        console.width = 120
    env = measurement.environment
    table = Table(title=f"{measurement.policy} on {env['name']}/{env['suite']}, {measurement.split} split")
    table.add_column("task")
    for mode in measurement.modes:
        table.add_column(f"{mode}, success [95 %]", justify="right")
    by_task = {mode: outcomes.by_task() for mode, outcomes in measurement.modes.items()}
    for task in next(iter(by_task.values())):
        table.add_row(task, *(str(rates.get(task, Rate(0, 0))) for rates in by_task.values()))
    table.add_section()
    table.add_row("all", *(str(outcomes.rate) for outcomes in measurement.modes.values()), style="bold")
    console.print(table)
    if invalid := measurement.facts.get("invalid"):
        console.print(f"note: {invalid} episodes are left out, because the simulation broke down in them")


def default_out(published: Published, options: Options) -> Path:
    path = published.path.resolve()
    label = path.parent.name if path.name == "policy" else path.name
    name = f"{label}-{published.digest[:8]}-{Path(options.suite).stem}-{options.split}"
    return Path("runs/eval") / f"{name}{'-selected' if options.select else ''}.json"


def require_place(out: Path) -> None:
    """Find out before an hour of episodes that the result could not be written after it.

    Raises:
        StorageError: if the folder of `out` cannot be written.
    """
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        probe = out.parent / f".{out.name}.probe"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise explain(error, "write", out) from error
