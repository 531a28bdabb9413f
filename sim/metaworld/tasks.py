"""Which Meta-World tasks can be played, what is said to the policy, and where their episodes begin.

Nothing here needs the package itself.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ...datasets.starts import StartState

Paraphrase = Literal["canonical", "train", "heldout"]
PARAPHRASES: tuple[Paraphrase, ...] = get_args(Paraphrase)

# Object and goal must be so far apart on the table; the package draws until they are.
APART_M = 0.15


@dataclass(frozen=True)
class Task:
    """One of the package's tasks.

    Attributes:
        name: the package's name without its ``-v3``, for instance ``drawer-open``.
        instruction: the canonical sentence.
        train_phrases: other ways to say it, which training may use.
        heldout_phrases: ways to say it that training never sees.
        max_steps: the step limit, in control steps; over twice what the expert takes.
    """

    name: str
    instruction: str
    train_phrases: tuple[str, ...]
    heldout_phrases: tuple[str, ...]
    max_steps: int = 100

    def phrases(self, paraphrase: Paraphrase) -> tuple[str, ...]:
        """The sentences from which an episode draws one."""
        if paraphrase == "canonical":
            return (self.instruction,)
        if paraphrase == "train":
            return (self.instruction, *self.train_phrases)
        return self.heldout_phrases


_EVERY = {
    task.name: task
    for task in (
        Task(
            "button-press-topdown",
            "press the button",
            ("push the button down", "press down on the red button"),
            ("push down the red button",),
        ),
        Task(
            "drawer-open",
            "open the drawer",
            ("pull the drawer open", "pull the handle of the drawer"),
            ("pull open the drawer",),
        ),
        Task(
            "lever-pull",
            "pull the lever up",
            ("raise the lever", "lift the lever up"),
            ("pull up the lever",),
        ),
        Task(
            "drawer-close",
            "close the drawer",
            ("push the drawer shut", "shut the drawer"),
            ("push the drawer closed",),
        ),
        Task(
            "door-open",
            "open the door",
            ("pull the door open", "swing the door open"),
            ("pull open the door",),
            max_steps=160,
        ),
        Task(
            "window-open",
            "open the window",
            ("slide the window open", "push the window open"),
            ("slide open the window",),
        ),
        Task(
            "window-close",
            "close the window",
            ("slide the window shut", "push the window closed"),
            ("shut the window",),
        ),
        Task(
            "reach",
            "reach the goal",
            ("move the hand to the goal", "go to the goal"),
            ("move to the goal",),
        ),
        Task(
            "push",
            "push the puck to the goal",
            ("move the puck to the goal", "slide the puck to the goal"),
            ("push the puck into the goal",),
        ),
        Task(
            "pick-place",
            "pick up the puck and place it at the goal",
            ("lift the puck to the goal", "grab the puck and move it to the goal"),
            ("pick up the puck and move it to the goal",),
        ),
        Task(
            "peg-insert-side",
            "insert the peg into the hole",
            ("put the peg into the hole", "push the peg into the box"),
            ("place the peg into the hole",),
            max_steps=200,
        ),
    )
}

# mt3 is ours: three verbs, three objects, a goal that any picture shows, and none that can be done blind: the
# expert's mean action sequence, played without looking, solved 5, 5 and 2 of 10 starts (door-close and
# drawer-close: 10 of 10). mt10 is the package's.
SUITES: dict[str, tuple[str, ...]] = {
    "mt3": ("button-press-topdown", "drawer-open", "lever-pull"),
    "mt10": (
        "reach",
        "push",
        "pick-place",
        "door-open",
        "drawer-open",
        "drawer-close",
        "button-press-topdown",
        "peg-insert-side",
        "window-open",
        "window-close",
    ),
}


def load(suite: str) -> dict[str, Task]:
    """The tasks of a suite by name.

    Raises:
        ValueError: if there is no such suite, naming the nearest.
    """
    if suite not in SUITES:
        raise ValueError(unknown("Meta-World suite", suite, list(SUITES)))
    return {name: _EVERY[name] for name in SUITES[suite]}


def task_names(suite: str) -> tuple[str, ...]:
    """``suite/task`` of every task, as a `StartState` wants it."""
    return tuple(f"{suite}/{name}" for name in load(suite))


def sentences(suite: str, paraphrase: Paraphrase | None = None) -> list[str]:
    """Every instruction of a suite, sorted; of one kind, or of all kinds if `paraphrase` is None."""
    kinds = PARAPHRASES if paraphrase is None else (paraphrase,)
    return sorted({text for task in load(suite).values() for kind in kinds for text in task.phrases(kind)})


def draw_layout(start: StartState, low: ArrayLike, high: ArrayLike) -> NDArray[np.float64]:
    """Where object and goal are in the episode that `start` names: the package's own random vector.

    The coordinate with the widest range comes from the lattice of the start's split, so no two splits share
    a layout; the others are uniform.

    Args:
        start: names the episode.
        low: (3,) or (6,) of the package's reset space in metres: object, or object and goal.
        high: the same.
    """
    lowest, highest = np.asarray(low, np.float64), np.asarray(high, np.float64)
    widest = int(np.argmax(highest - lowest))
    generator = start.generator("layout")
    while True:
        layout = generator.uniform(lowest, highest)
        layout[widest] = start.lattice(generator, float(lowest[widest]), float(highest[widest]))
        if len(layout) < 6 or np.linalg.norm(layout[:2] - layout[3:5]) >= APART_M:
            return layout


def unknown(kind: str, name: str, known: list[str]) -> str:
    """The message for a name that does not exist."""
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return f"no {kind} is called {name!r}: {hint}known are {', '.join(known)}"
