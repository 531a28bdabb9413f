"""Which Gymnasium suites there are, what is said to the policy, and with which seed an episode begins.

A suite is a mapping: one of those that ship, by name, or the user's own, by the path of its TOML file.
Nothing here needs gymnasium.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

from ..wording import PARAPHRASES, Paraphrase, unknown
from .mapping import Mapping, MappingError, read

_FOLDER = Path(__file__).parent / "mappings"
SUITES: dict[str, Path] = {path.stem: path for path in sorted(_FOLDER.glob("*.toml"))}


def load(suite: str) -> Mapping:
    """The mapping of a suite.

    Raises:
        ValueError: if there is no such suite, naming the nearest; if the file does not make sense.
    """
    if suite in SUITES:
        return _shipped(suite)
    if suite.endswith(".toml"):
        return read(Path(suite))
    raise MappingError(
        f"{unknown('Gymnasium suite', suite, list(SUITES))}. For an environment of your own write a mapping "
        f"and give the path of its .toml file; `regrip envs skeleton {suite}` prints the beginning of one"
    )


@cache
def _shipped(suite: str) -> Mapping:
    return read(SUITES[suite])


def task_names(suite: str) -> tuple[str, ...]:
    """``suite/task`` of every task, as a `StartState` wants it."""
    mapping = load(suite)
    return tuple(f"{mapping.name}/{name}" for name in mapping.tasks)


def sentences(suite: str, paraphrase: Paraphrase | None = None) -> list[str]:
    """Every instruction of a suite, sorted; of one kind, or of all kinds if `paraphrase` is None."""
    kinds = PARAPHRASES if paraphrase is None else (paraphrase,)
    tasks = load(suite).tasks.values()
    return sorted({text for task in tasks for kind in kinds for text in task.phrases(kind)})


def control_mode(suite: str) -> str:
    """The only control mode there is in a suite."""
    mode: str = load(suite).robot["control_mode"]
    return mode


def has_expert(suite: str, task: str) -> bool:
    """Whether a scripted expert can demonstrate the task (without its suite's name)."""
    return bool(load(suite).tasks[task].expert)
