"""The environments a run can name: their factories, their tasks, and what is said to the policy."""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import importlib.util
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ..datasets.spec import RobotSpec
from ..sim import genesis, perturb
from ..sim.gym import tasks as gym_tasks
from ..sim.libero import assets as libero
from ..sim.pool import WorkerPool
from ..sim.tabletop import perturb as tabletop
from ..sim.worker import resolve

if TYPE_CHECKING:  # what needs torch and a simulator is imported where it is opened
    from ..sim.genesis.env import GenesisEnv
    from ..sim.world.env import WorldEnv

    Pool = WorkerPool | GenesisEnv | WorldEnv

FACTORIES = {
    "tabletop": "regrip.sim.tabletop.env:make",
    "genesis": "regrip.sim.genesis.env:GenesisEnv",
    "metaworld": "regrip.sim.metaworld.env:make",
    "maniskill": "regrip.sim.maniskill.env:make",
    "robosuite": "regrip.sim.robosuite.env:make",
    "libero": "regrip.sim.libero.env:make",
    "gymnasium": "regrip.sim.gym.env:make",
}
"""A learned world has none: it is a model's folder, and steps all its slots at once."""
CATALOGUES = {
    "tabletop": "regrip.sim.tabletop.tasks",
    "genesis": "regrip.sim.tabletop.tasks",
    "metaworld": "regrip.sim.metaworld.tasks",
    "maniskill": "regrip.sim.maniskill.tasks",
    "robosuite": "regrip.sim.robosuite.tasks",
    "libero": "regrip.sim.libero.tasks",
    "gymnasium": "regrip.sim.gym.tasks",
    "world": "regrip.sim.world.tasks",
}
# Simulators whose slots are all in one scene in this process: no workers, hence no `Env` for each slot.
IN_PROCESS = ("genesis",)
# Simulators whose pins do not go with ours: make target, interpreter, the variable that names another one.
INTERPRETERS = {
    "metaworld": ("metaworld", ".venv-metaworld/bin/python", "REGRIP_METAWORLD_PYTHON"),
    "maniskill": ("maniskill", ".venv-maniskill/bin/python", "REGRIP_MANISKILL_PYTHON"),
    "robosuite": ("robosuite", ".venv-robosuite/bin/python", "REGRIP_ROBOSUITE_PYTHON"),
    "libero": ("libero", ".venv-libero/bin/python", "REGRIP_LIBERO_PYTHON"),
    "gymnasium": ("gymnasium", ".venv-gymnasium/bin/python", "REGRIP_GYMNASIUM_PYTHON"),
}


@dataclass(frozen=True)
class ImaginedConfig:
    """How episodes are imagined in a learned world; see `sim.world.env.WorldEnv`.

    Attributes:
        max_decisions: after how many an episode has failed; 0 takes each task's longest training episode.
        anywhere: begin training episodes in the middle of recorded ones, too.
        dynamic_stop: end an episode when the reflector says that it has succeeded.
        cut_off: doubt at which an episode ends as a failure, in units of what is usual.
        penalty: of doubt, paid at every decision by the reward ``environment``.
    """

    max_decisions: int = 0
    anywhere: bool = False
    dynamic_stop: bool = True
    cut_off: float = 3.0
    penalty: float = 0.0


@dataclass(frozen=True)
class EnvConfig:
    """Where episodes are played.

    Attributes:
        name: the simulator.
        suite: a family of tasks in one scene; the tabletop's ``four`` is spatial, object, goal and long. Of
            ``gymnasium`` a mapping that ships, or the path of a TOML file; of ``world`` the folder of a model
            (`regrip world fit`).
        tasks: some of the suite's tasks by name (of ``four``: ``goal/...``); empty for all.
        image_size: pixels, both cameras are square.
        control_mode: what an action means, see `RobotSpec`.
        paraphrase: which wording of the instructions is used.
        render: ``fast``, tuned for software rendering (coarse shapes, no anti-aliasing, shadows or mirrors);
            or ``stock``, as the package (the tabletop: MuJoCo) draws by default. The physics are the same,
            what a policy sees is not, so every run records it.
        perturb: what is changed from the suite as it is trained on, see `perturbations`.
        workers: processes; results do not depend on it. 0 takes one for each core; genesis has none.
        slots: environments that are played at once; results do depend on it (batch shapes round differently).
        deadline_s: a worker that answers no call for so long is killed and its episodes replayed.
        memory_limit_mb: address space of a worker; 0 for no limit.
        device: of the simulator; only genesis and learned worlds can use `cuda`.
        world: how a learned world is used.
    """

    name: Literal[
        "tabletop", "genesis", "metaworld", "maniskill", "robosuite", "libero", "gymnasium", "world"
    ] = "tabletop"
    suite: str = "demo"
    tasks: tuple[str, ...] = ()
    image_size: int = 64
    control_mode: Literal["ee_delta", "ee_position", "joint_position", "joint_velocity"] = "ee_delta"
    paraphrase: Literal["canonical", "train", "heldout"] = "canonical"
    render: Literal["fast", "stock"] = "fast"
    perturb: str = "none"
    workers: int = 0
    slots: int = 48
    deadline_s: float = 60.0
    memory_limit_mb: int = 0
    device: Literal["cpu", "cuda"] = "cpu"
    world: ImaginedConfig = field(default_factory=ImaginedConfig)

    def __post_init__(self) -> None:
        if self.device != "cpu" and self.name not in ("genesis", "world"):
            raise ValueError(f"--env.device is {self.device}, but {self.name} runs on the CPU: leave it out")


def short(args: Sequence[str]) -> list[str]:
    """A command line in which ``--env NAME:SUITE`` stands for ``--env.name NAME --env.suite SUITE``."""
    line: list[str] = []
    rest = list(args)
    while rest:
        word = rest.pop(0)
        if word.startswith("--env="):
            word, rest = "--env", [word.removeprefix("--env="), *rest]
        if word != "--env" or not rest:
            line.append(word)
            continue
        name, _, suite = rest.pop(0).partition(":")
        line += ["--env.name", name, *(["--env.suite", suite] if suite else [])]
    return line


def elsewhere(config: EnvConfig, where: str) -> EnvConfig:
    """The environment ``NAME:SUITE`` with the pictures and the pool of `config`.

    Raises:
        ValueError: if it is not of that form or there is no such simulator.
    """
    name, colon, suite = where.partition(":")
    require_known(name, list(CATALOGUES), "simulator")
    if not colon or not suite:
        raise ValueError(f"{where!r} names no environment: expected NAME:SUITE, for instance tabletop:demo")
    return dataclasses.replace(config, name=name, suite=suite, device="cpu")  # type: ignore[arg-type]


def perturbations(name: str, suite: str) -> tuple[dict[str, str], dict[str, str]]:
    """Kinds of perturbation that a suite's environments know, with what each does; those missing, and why.

    Raises:
        ValueError: if there is no such suite.
    """
    if name == "genesis":
        scene = {kind: tabletop.KINDS[kind] for kind in genesis.KINDS}
        return {**scene, **perturb.PARAPHRASE, **perturb.KINDS}, dict(genesis.MISSING)
    if name == "world":
        return {}, dict.fromkeys(
            [*tabletop.KINDS, *perturb.KINDS], "is not imagined: a world is as it was recorded"
        )
    if name == "tabletop":
        return {**tabletop.KINDS, **perturb.PARAPHRASE, **perturb.KINDS}, {}
    kinds = perturb.of_simulator(name, suite)
    known = {**kinds.known, **perturb.PARAPHRASE, **perturb.KINDS}
    return {kind: about for kind, about in known.items() if kind not in kinds.missing}, dict(kinds.missing)


def require_perturbation(kind: str, name: str, suite: str) -> None:
    """Refuse a perturbation that a suite does not know.

    Raises:
        ValueError: saying why there is none, or naming the nearest.
    """
    known, missing = perturbations(name, suite)
    if kind in missing:
        raise ValueError(f"{name}, suite {suite}, has no perturbation {kind!r}: {missing[kind]}")
    require_known(kind, ["none", *known], f"perturbation of {name}")


def factory(config: EnvConfig, prepare: bool = False) -> tuple[str, dict[str, Any]]:
    """The ``module:function`` and keyword arguments that make this environment in a worker.

    Args:
        config: names it.
        prepare: load a simulator that is slow to start at once, where a worker is given time for it.
    """
    target, kind = FACTORIES[config.name], config.perturb
    kwargs: dict[str, Any] = {
        "suite": config.suite,
        "image_size": config.image_size,
        "control_mode": config.control_mode,
        "paraphrase": config.paraphrase,
        "render": config.render,
    }
    if config.name == "maniskill":
        kwargs["prepare"] = prepare
    if kind == "none":
        return target, kwargs
    require_perturbation(kind, config.name, config.suite)
    if kind in perturb.PARAPHRASE:
        return target, {**kwargs, "paraphrase": "heldout"}
    if kind in perturb.KINDS and config.name not in IN_PROCESS:
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
    # A suite given as a file has a name inside it, which its tasks go by.
    given = config.suite.endswith(".toml") or config.name == "world"
    home = every[0].split("/")[0] if given else config.suite
    wanted = [task if "/" in task else f"{home}/{task}" for task in config.tasks]
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
        FileNotFoundError: if the simulator has one of its own, and it (or LIBERO's assets) is not there.
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
    if config.name == "libero":
        libero.folder()
    return python


def worker_variables(config: EnvConfig) -> dict[str, str]:
    """Environment variables for the workers alone: Vulkan's driver, where one lies beside their interpreter.

    ManiSkill renders with a newer Mesa than Debian 12 has (`scripts/mesa-backports`); MuJoCo, here and in
    other workers, keeps the system's, so its pictures stay as they are.
    """
    python = interpreter(config)
    if config.name != "maniskill" or python is None:
        return {}
    folder = python.parent.parent / "mesa"
    drivers = sorted(folder.glob("usr/share/vulkan/icd.d/lvp_icd*.json"))
    libraries = sorted(folder.glob("usr/lib/*/libvulkan_lvp.so"))
    if not drivers or not libraries:
        return {}
    inherited = os.environ.get("LD_LIBRARY_PATH")
    path = [str(libraries[0].parent), *([inherited] if inherited else [])]
    return {
        "VK_DRIVER_FILES": str(drivers[0]),
        "VK_ICD_FILENAMES": str(drivers[0]),  # its name for older loaders, as the one in SAPIEN is
        "LD_LIBRARY_PATH": os.pathsep.join(path),
    }


def native(config: EnvConfig) -> EnvConfig:
    """The same with the suite's own control mode, where there is only one."""
    if config.name != "gymnasium":
        return config
    return dataclasses.replace(config, control_mode=gym_tasks.control_mode(config.suite))  # type: ignore[arg-type]


def has_expert(config: EnvConfig, task: str) -> bool:
    """Whether a scripted expert can demonstrate a task (``suite/task``)."""
    catalogue = importlib.import_module(CATALOGUES[config.name])
    if not hasattr(catalogue, "has_expert"):  # all of them, then
        return True
    known: bool = catalogue.has_expert(config.suite, task.split("/", 1)[1])
    return known


def contract(config: EnvConfig) -> RobotSpec:
    """What actions and observations mean there."""
    if config.name == "world":
        return RobotSpec.from_json(_world(config)["robot"])
    if config.name in IN_PROCESS:
        from ..sim.tabletop.control import CONTROL_MODES
        from ..sim.tabletop.env import CAMERAS, robot_spec

        require_known(config.control_mode, list(CONTROL_MODES), f"control mode of {config.name}")
        return robot_spec(config.control_mode, CAMERAS, config.image_size)  # type: ignore[arg-type]
    target, kwargs = factory(config)
    env = resolve(target)(**kwargs)
    spec = env.spec
    env.close()
    return spec


def open_pool(config: EnvConfig, chunk_size: int, expert: bool = False) -> Pool:
    """Start the workers, or build the scene that holds all slots.

    Raises:
        ValueError: a learned world steps by another number of actions, or nobody can demonstrate in it.
    """
    if config.name == "world":
        return _open_world(config, chunk_size, expert)
    target, kwargs = factory(config, prepare=True)
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
        environment=worker_variables(config),
        deadline_s=config.deadline_s,
        memory_limit_mb=config.memory_limit_mb or None,
    )


def _world(config: EnvConfig) -> dict[str, Any]:
    from ..sim.world.files import describe

    return describe(Path(config.suite))


def require_execute(config: EnvConfig, chunk_size: int) -> None:
    """Refuse a number of actions by which an environment cannot go on.

    Raises:
        ValueError: it is a learned world of another.
    """
    if config.name != "world":
        return
    own = _world(config)["config"]["chunk"]
    if chunk_size != own:
        raise ValueError(
            f"world {config.suite} goes on by {own} actions at a time, and {chunk_size} were "
            f"asked for: set execute to {own}, or fit a model with --chunk {chunk_size}"
        )


def _open_world(config: EnvConfig, chunk_size: int, expert: bool) -> WorldEnv:
    from ..sim.world.env import WorldEnv
    from ..sim.world.files import load_world

    require_execute(config, chunk_size)
    model, starts, _ = load_world(Path(config.suite), config.device)
    if expert:
        raise ValueError(
            f"world {config.suite}: nobody can demonstrate in an imagined world; use a simulator"
        )
    return WorldEnv(model, starts, num_slots=config.slots, **dataclasses.asdict(config.world))


def require_known(name: str, names: list[str], what: str) -> None:
    """Refuse a name that is not among `names`, naming the nearest.

    Raises:
        ValueError: if it is not.
    """
    if name not in names:
        near = difflib.get_close_matches(name, names, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"there is no {what} called {name!r}{hint} There are: {', '.join(names)}")
