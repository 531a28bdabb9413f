"""LIBERO's 130 tasks: names, sentences, step limits. Nothing here needs the package itself.

`sim/assets/libero_tasks.json` lists each suite's tasks in the package's order: name, and the sentence of the
problem file. The instruction is the one that evaluations give, made of the name as the package does it.
"""

from __future__ import annotations

import functools
import json
import re
from importlib import resources

from ..robosuite.tasks import Task
from ..wording import Paraphrase, unknown

NUM_EVALUATION_STARTS = 50  # of each task, stored in the package
SETTLE_STEPS = 10  # idle with the hand open before an episode begins, as objects are dropped into the scene

# What evaluations of OpenVLA and openpi allow, without the settling. (LeRobot allows 280 for libero_spatial.)
MAX_STEPS = {
    "libero_spatial": 220,
    "libero_object": 280,
    "libero_goal": 300,
    "libero_10": 520,
    "libero_90": 400,
}
SUITES = tuple(MAX_STEPS)


def instruction(name: str) -> str:
    """The sentence of a task's name, for instance of ``KITCHEN_SCENE3_turn_on_the_stove``."""
    return re.sub(r"^[A-Z_]+SCENE\d+_", "", name).replace("_", " ")


@functools.cache
def load(suite: str) -> dict[str, Task]:
    """The tasks of a suite by name, in the package's order.

    Raises:
        ValueError: if there is no such suite, naming the nearest.
    """
    if suite not in SUITES:
        raise ValueError(unknown("LIBERO suite", suite, list(SUITES)))
    table = json.loads((resources.files("regrip") / "sim/assets/libero_tasks.json").read_text())
    tasks = {}
    for name, wording in table[suite]:
        canonical = instruction(name)
        tasks[name] = Task(
            name=name,
            instruction=canonical,
            train_phrases=(wording,) if wording != canonical else (),
            heldout_phrases=(),
            max_steps=MAX_STEPS[suite],
            package_name=f"{suite}/{name}",
        )
    return tasks


def task_names(suite: str) -> tuple[str, ...]:
    """``suite/task`` of every task, as a `StartState` wants it."""
    return tuple(f"{suite}/{name}" for name in load(suite))


def sentences(suite: str, paraphrase: Paraphrase | None = None) -> list[str]:
    """Every instruction of a suite, sorted; of one kind, or of all kinds if `paraphrase` is None."""
    kinds: tuple[Paraphrase, ...] = ("canonical", "train") if paraphrase is None else (paraphrase,)
    return sorted({text for task in load(suite).values() for kind in kinds for text in task.phrases(kind)})


def has_expert(suite: str, task: str) -> bool:
    """Whether a scripted expert can demonstrate the task (without its suite's name)."""
    return False
