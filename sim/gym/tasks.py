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


def perturbations(suite: str) -> tuple[tuple[str, ...], dict[str, str]]:
    """The kinds of `sim.perturb` that a suite's pictures know, and why there are no others."""
    mapping = load(suite)
    missing = {
        "robot": "an environment is reset by its seed, which also says where the robot starts",
        "layout": "an environment is reset by its seed, which also says where things stand",
    }
    if not any(task.heldout_phrases for task in mapping.tasks.values()):
        missing["paraphrase"] = "the mapping gives no heldout_phrases"
    kinds = ("camera", "light", "background", "distractors", "texture")
    if not all(view.kind in ("mujoco", "free") for view in mapping.views):
        return (), {**dict.fromkeys(kinds, "the environment draws its pictures itself"), **missing}
    if not mapping.surface:
        why = "the mapping names no surface"
        return kinds[:2], {**dict.fromkeys(kinds[2:], why), **missing}
    if not mapping.surface_textured:
        return kinds[:4], {"texture": "what things stand on has no texture there", **missing}
    return kinds, missing


def has_expert(suite: str, task: str) -> bool:
    """Whether a scripted expert can demonstrate the task (without its suite's name)."""
    return bool(load(suite).tasks[task].expert)
