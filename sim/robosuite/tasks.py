"""Which robosuite tasks can be played, and what is said to the policy. Nothing here needs the package."""

from __future__ import annotations

from dataclasses import dataclass

from ..wording import PARAPHRASES, Paraphrase, unknown


@dataclass(frozen=True)
class Task:
    """A task with a Panda arm, of robosuite or of LIBERO.

    Attributes:
        name: ours, or LIBERO's.
        instruction: the canonical sentence.
        train_phrases: other ways to say it, which training may use.
        heldout_phrases: ways to say it that training never sees.
        max_steps: the step limit, in control steps.
        package_name: robosuite's environment, or ``suite/name`` of LIBERO's problem file.
        object_body: the instructed object in the package's model; of LIBERO, its problem file says it.
        goal_body: where, or what, to bring it to; empty if there is no such thing.
        has_expert: a scripted expert of ours solves it.
    """

    name: str
    instruction: str
    train_phrases: tuple[str, ...]
    heldout_phrases: tuple[str, ...]
    max_steps: int
    package_name: str
    object_body: str = ""
    goal_body: str = ""
    has_expert: bool = False

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
            "lift",
            "lift the red cube",
            ("pick up the red cube", "grab the red cube and lift it off the table"),
            ("pick the red cube up off the table",),
            max_steps=100,
            package_name="Lift",
            object_body="cube_main",
            has_expert=True,
        ),
        Task(
            "stack",
            "put the red cube on the green cube",
            ("stack the red cube on top of the green cube", "place the red cube onto the green cube"),
            ("stack the red cube onto the green cube",),
            max_steps=150,
            package_name="Stack",
            object_body="cubeA_main",
            goal_body="cubeB_main",
            has_expert=True,
        ),
        Task(
            "door",
            "open the door",
            ("pull the door open by its handle", "turn the handle and open the door"),
            ("turn the handle and pull the door open",),
            max_steps=300,
            package_name="Door",
            object_body="Door_latch",
        ),
        Task(
            "nut-square",
            "put the square nut on the square peg",
            ("place the square nut onto the square peg", "slide the nut over the square peg"),
            ("slide the square nut over the square peg",),
            max_steps=400,
            package_name="NutAssemblySquare",
            object_body="SquareNut_main",
            goal_body="peg1",
        ),
        Task(
            "can",
            "put the can into its bin",
            ("pick up the can and place it into the bin", "move the can to its bin"),
            ("pick up the can and move it into its bin",),
            max_steps=400,
            package_name="PickPlaceCan",
            object_body="Can_main",
            goal_body="bin2",
        ),
        Task(
            "wipe",
            "wipe the dirt off the table",
            ("clean the table", "wipe the table until the dirt is gone"),
            ("wipe the table clean",),
            max_steps=500,
            package_name="Wipe",
        ),
    )
}

SUITES: dict[str, tuple[str, ...]] = {
    "robosuite": tuple(_EVERY),
    "blocks": tuple(task.name for task in _EVERY.values() if task.has_expert),
}


def load(suite: str) -> dict[str, Task]:
    """The tasks of a suite by name.

    Raises:
        ValueError: if there is no such suite, naming the nearest.
    """
    if suite not in SUITES:
        raise ValueError(unknown("robosuite suite", suite, list(SUITES)))
    return {name: _EVERY[name] for name in SUITES[suite]}


def task_names(suite: str) -> tuple[str, ...]:
    """``suite/task`` of every task, as a `StartState` wants it."""
    return tuple(f"{suite}/{name}" for name in load(suite))


def sentences(suite: str, paraphrase: Paraphrase | None = None) -> list[str]:
    """Every instruction of a suite, sorted; of one kind, or of all kinds if `paraphrase` is None."""
    kinds = PARAPHRASES if paraphrase is None else (paraphrase,)
    return sorted({text for task in load(suite).values() for kind in kinds for text in task.phrases(kind)})


def has_expert(suite: str, task: str) -> bool:
    """Whether a scripted expert can demonstrate the task (without its suite's name)."""
    return load(suite)[task].has_expert
