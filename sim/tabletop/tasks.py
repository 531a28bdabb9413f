"""A task: one sentence, where things start, when it is done, and how an expert does it."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ...datasets.starts import StartState
from ..wording import PARAPHRASES, Paraphrase, unknown
from .goals import Goal
from .layout import Layout
from .scenes import Scene
from .skills import Script

Arrange = Callable[[StartState, np.random.Generator], Layout]


@dataclass(frozen=True)
class Task:
    """One task of a suite.

    Attributes:
        name: within the suite, for instance ``lift_red``.
        instruction: the canonical sentence.
        train_phrases: other ways to say it, which training may use.
        heldout_phrases: ways to say it that training never sees.
        target: the body the sentence is about; its position leads the privileged vector.
        arrange: draws a start state; the target's x comes from the lattice of the start's split.
        goal: when it is done.
        script: the expert's phases.
        max_steps: the step limit.
    """

    name: str
    instruction: str
    train_phrases: tuple[str, ...]
    heldout_phrases: tuple[str, ...]
    target: str
    arrange: Arrange
    goal: Goal
    script: Callable[[], Script]
    max_steps: int

    def phrases(self, paraphrase: Paraphrase) -> tuple[str, ...]:
        """The sentences from which an episode draws one."""
        if paraphrase == "canonical":
            return (self.instruction,)
        if paraphrase == "train":
            return (self.instruction, *self.train_phrases)
        return self.heldout_phrases


@dataclass(frozen=True)
class Suite:
    """Tasks on one scene."""

    name: str
    scene: Scene
    tasks: tuple[Task, ...]

    def task(self, name: str) -> Task:
        """The task called `name`.

        Raises:
            ValueError: if there is none, naming the nearest.
        """
        names = [task.name for task in self.tasks]
        if name not in names:
            raise ValueError(unknown(f"task of suite {self.name!r}", name, names))
        return self.tasks[names.index(name)]


FOUR = ("spatial", "object", "goal", "long")
# Suite to the module that has its `SUITE`; imported when asked for.
SUITES: dict[str, str] = {name: f".suites.{name}" for name in ("demo", *FOUR)}


def load(name: str) -> Suite:
    """The suite called `name`.

    Raises:
        ValueError: if there is none, naming the nearest.
    """
    if name not in SUITES:
        raise ValueError(unknown("tabletop suite", name, [*SUITES, "four"]))
    suite = importlib.import_module(SUITES[name], __package__).SUITE
    assert isinstance(suite, Suite)
    return suite


def suites(name: str) -> tuple[str, ...]:
    """The suites that a name stands for: itself, or the four of ``four``."""
    return FOUR if name == "four" else (name,)


def task_names(suite: str) -> tuple[str, ...]:
    """``suite/task`` of every task, as a `StartState` wants it; `suite` may be ``four``."""
    return tuple(f"{name}/{task.name}" for name in suites(suite) for task in load(name).tasks)


def sentences(suite: str, paraphrase: Paraphrase | None = None) -> list[str]:
    """Every instruction of a suite, sorted; of one kind, or of all kinds if `paraphrase` is None."""
    kinds = PARAPHRASES if paraphrase is None else (paraphrase,)
    tasks = [task for name in suites(suite) for task in load(name).tasks]
    return sorted({text for task in tasks for kind in kinds for text in task.phrases(kind)})


def vocabulary(suite: str) -> list[str]:
    """Every word and punctuation mark of every instruction of a suite, held-out ones too, sorted."""
    return sorted({word for text in sentences(suite) for word in re.findall(r"\w+|[^\w\s]", text)})
