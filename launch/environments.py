"""The environments a run can name: their factories, their tasks, and what is said to the policy."""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import importlib.util
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ..datasets.spec import RobotSpec
from ..sim import genesis, perturb
from ..sim.pool import WorkerPool
from ..sim.tabletop import perturb as tabletop
from ..sim.worker import resolve

if TYPE_CHECKING:  # what needs torch and a simulator is imported where it is opened
    from ..sim.genesis.env import GenesisEnv

    Pool = WorkerPool | GenesisEnv

FACTORIES = {
    "tabletop": "regrip.sim.tabletop.env:make",
    "metaworld": "regrip.sim.metaworld.env:make",
    "genesis": "regrip.sim.genesis.env:GenesisEnv",
}
CATALOGUES = {
    "tabletop": "regrip.sim.tabletop.tasks",
    "metaworld": "regrip.sim.metaworld.tasks",
    "genesis": "regrip.sim.tabletop.tasks",
}
# Simulators whose slots are all in one scene in this process: no workers, hence no `Env` for each slot.
IN_PROCESS = ("genesis",)
# Simulators whose pins do not go with ours: make target, interpreter, the variable that names another one.
INTERPRETERS = {"metaworld": ("metaworld", ".venv-metaworld/bin/python", "REGRIP_METAWORLD_PYTHON")}


@dataclass(frozen=True)
class EnvConfig:
    """Where episodes are played.

    Attributes:
        name: the simulator.
        suite: a family of tasks in one scene; the tabletop's ``four`` is spatial, object, goal and long.
        tasks: some of the suite's tasks by name (of ``four``: ``goal/...``); empty for all.
        image_size: pixels, both cameras are square.
        control_mode: what an action means, see `RobotSpec`.
        paraphrase: which wording of the instructions is used.
        perturb: what is changed from the suite as it is trained on, see `perturbations`.
        workers: processes; results do not depend on it. 0 takes one for each core; genesis has none.
        slots: environments that are played at once; results do depend on it (batch shapes round differently).
        deadline_s: a worker that answers no call for so long is killed and its episodes replayed.
        memory_limit_mb: address space of a worker; 0 for no limit.
        device: of the simulator; only genesis can use `cuda`.
    """

    name: Literal["tabletop", "metaworld", "genesis"] = "tabletop"
    suite: str = "demo"
    tasks: tuple[str, ...] = ()
    image_size: int = 64
    control_mode: Literal["ee_delta", "joint_position"] = "ee_delta"
    paraphrase: Literal["canonical", "train", "heldout"] = "canonical"
    perturb: str = "none"
    workers: int = 0
    slots: int = 48
    deadline_s: float = 60.0
    memory_limit_mb: int = 0
    device: Literal["cpu", "cuda"] = "cpu"

    def __post_init__(self) -> None:
        if self.device != "cpu" and self.name != "genesis":
            raise ValueError(f"--env.device is {self.device}, but {self.name} runs on the CPU: leave it out")


def perturbations(name: str) -> dict[str, str]:
    """Kinds of perturbation that a simulator's environments know, and what each does."""
    if name == "genesis":
        return {kind: tabletop.KINDS[kind] for kind in genesis.KINDS}
    return {**(tabletop.KINDS if name == "tabletop" else {}), **perturb.KINDS}


def factory(config: EnvConfig) -> tuple[str, dict[str, Any]]:
    """The ``module:function`` and keyword arguments that make this environment in a worker."""
    target, kind = FACTORIES[config.name], config.perturb
    kwargs: dict[str, Any] = {
        "suite": config.suite,
        "image_size": config.image_size,
        "control_mode": config.control_mode,
        "paraphrase": config.paraphrase,
    }
    if kind == "none":
        return target, kwargs
    require_known(kind, ["none", *perturbations(config.name)], f"perturbation of {config.name}")
    if kind in perturb.KINDS:
        whole = dataclasses.replace(config, tasks=())  # a wrong instruction may be any of the suite's
        return "regrip.sim.perturb:with_perturbation", {
            "factory": target, "kwargs": kwargs, "kind": kind, "tasks": task_names(whole),
        }  # fmt: skip
    return target, {**kwargs, "perturb": kind}


def task_names(config: EnvConfig) -> list[str]:
    """``suite/task`` of each task of the run.

    Raises:
        ValueError: if the suite or a task is not known, naming the nearest.
    """
    every: Sequence[str] = importlib.import_module(CATALOGUES[config.name]).task_names(config.suite)
    wanted = [task if "/" in task else f"{config.suite}/{task}" for task in config.tasks]
    for task in wanted:
        require_known(task, list(every), f"task of suite {config.suite}")
    return wanted or list(every)


def sentences(config: EnvConfig) -> list[str]:
    """Every instruction the environment can give, in every wording, for building a tokenizer."""
    found: list[str] = importlib.import_module(CATALOGUES[config.name]).sentences(config.suite)
    return found


def interpreter(config: EnvConfig) -> Path | None:
    """The Python that runs the workers, None for this one.

    Raises:
        FileNotFoundError: if the simulator has one of its own, and it is not there.
    """
    if config.name in IN_PROCESS and importlib.util.find_spec(config.name) is None:
        raise FileNotFoundError(
            f"{config.name} is not installed beside this Python: type `make {config.name}` in the repository "
            f"and run .venv-{config.name}/bin/regrip (docs/{config.name}.md)"
        )
    if config.name not in INTERPRETERS:
        return None
    target, default, variable = INTERPRETERS[config.name]
    python = Path(os.environ.get(variable, default)).absolute()
    if not python.exists():
        raise FileNotFoundError(
            f"{config.name} runs in an interpreter of its own, and {python} is not there: type "
            f"`make {target}` in the repository, or set {variable} to a Python that has it (docs/{target}.md)"
        )
    return python


def contract(config: EnvConfig) -> RobotSpec:
    """What actions and observations mean there."""
    if config.name in IN_PROCESS:
        from ..sim.tabletop.env import CAMERAS, robot_spec

        return robot_spec(config.control_mode, CAMERAS, config.image_size)
    target, kwargs = factory(config)
    env = resolve(target)(**kwargs)
    spec = env.spec
    env.close()
    return spec


def open_pool(config: EnvConfig, chunk_size: int, expert: bool = False) -> Pool:
    """Start the workers, or build the scene that holds all slots."""
    target, kwargs = factory(config)
    if config.name in IN_PROCESS:
        from ..sim.genesis.env import GenesisEnv

        return GenesisEnv(
            **kwargs, num_slots=config.slots, chunk_size=chunk_size, device=config.device, expert=expert
        )
    if expert:
        target, kwargs = "regrip.sim.demonstrate:with_expert", {"factory": target, "kwargs": kwargs}
    return WorkerPool(
        target,
        kwargs,
        num_slots=config.slots,
        chunk_size=chunk_size,
        num_workers=config.workers or os.cpu_count() or 1,
        python=interpreter(config),
        deadline_s=config.deadline_s,
        memory_limit_mb=config.memory_limit_mb or None,
    )


def require_known(name: str, names: list[str], what: str) -> None:
    """Refuse a name that is not among `names`, naming the nearest.

    Raises:
        ValueError: if it is not.
    """
    if name not in names:
        near = difflib.get_close_matches(name, names, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"there is no {what} called {name!r}{hint} There are: {', '.join(names)}")
