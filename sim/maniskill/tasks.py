"""Which ManiSkill tasks can be played, what is said to the policy, and where their episodes begin.

Nothing here needs the package itself.
"""

from __future__ import annotations

from dataclasses import dataclass

from ...datasets.starts import LATTICE_MODULUS, RESIDUES, StartState
from .. import wording
from ..wording import PARAPHRASES, Paraphrase


@dataclass(frozen=True)
class Task:
    """One of the package's tasks.

    Attributes:
        name: the package's name without its ``-v1``, for instance ``PickCube``.
        instruction: the canonical sentence.
        train_phrases: other ways to say it, which training may use.
        heldout_phrases: ways to say it that training never sees.
        objects: the package's actors that `privileged()` tells of, the one to act on first.
        max_steps: the package's own step limit, which is also its control steps.
    """

    name: str
    instruction: str
    train_phrases: tuple[str, ...]
    heldout_phrases: tuple[str, ...]
    objects: tuple[str, ...]
    max_steps: int = 50

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
            "PickCube",
            "pick up the red cube and hold it at the green ball",
            ("lift the red cube to the green ball", "grasp the red cube and move it to the green ball"),
            ("pick up the red cube and move it to the green ball",),
            ("cube", "goal_site"),
        ),
        Task(
            "PushCube",
            "push the blue cube onto the target",
            ("push the blue cube forward to the target", "slide the blue cube onto the target"),
            ("slide the blue cube forward onto the target",),
            ("cube", "goal_region"),
        ),
        Task(
            "PullCube",
            "pull the blue cube onto the target",
            ("pull the blue cube back to the target", "drag the blue cube onto the target"),
            ("drag the blue cube back onto the target",),
            ("cube", "goal_region"),
        ),
        Task(
            "StackCube",
            "stack the red cube on the green cube",
            ("put the red cube on top of the green cube", "place the red cube on the green cube"),
            ("place the red cube on top of the green cube",),
            ("cubeA", "cubeB"),
        ),
        Task(
            "PegInsertionSide",
            "insert the peg into the hole of the box",
            ("put the orange end of the peg into the hole", "push the peg into the hole of the box"),
            ("insert the orange end of the peg into the box",),
            ("peg", "box_with_hole"),
            max_steps=100,
        ),
        Task(
            "LiftPegUpright",
            "stand the peg upright",
            ("lift the peg until it stands upright", "set the peg upright on the table"),
            ("lift the peg upright",),
            ("peg",),
        ),
        Task(
            "PokeCube",
            "poke the cube with the peg",
            ("grasp the peg and poke the cube with it", "use the peg to push the cube onto the target"),
            ("use the peg to poke the cube",),
            ("cube", "peg", "goal_region"),
        ),
        Task(
            "PlugCharger",
            "plug the charger into the receptacle",
            ("insert the charger into the receptacle", "pick up the charger and plug it in"),
            ("pick up the charger and insert it into the receptacle",),
            ("charger", "receptacle"),
            max_steps=200,
        ),
        Task(
            "RollBall",
            "roll the ball onto the target",
            ("push the ball so that it rolls to the target", "hit the ball to the target"),
            ("push the ball onto the target",),
            ("ball", "goal_region"),
            max_steps=80,
        ),
        Task(
            "StackPyramid",
            "put the red cube beside the green cube and the blue cube on top of both",
            (
                "build a pyramid of the three cubes, the blue one on top",
                "place the red cube next to the green cube and stack the blue cube on both",
            ),
            ("place the blue cube on top of the red and the green cube",),
            ("cubeA", "cubeB", "cubeC"),
            max_steps=250,
        ),
        Task(
            "PullCubeTool",
            "pull the cube closer with the hook",
            ("use the hook to pull the cube closer", "grasp the hook and drag the cube closer with it"),
            ("drag the cube closer with the hook",),
            ("cube", "l_shape_tool"),
            max_steps=100,
        ),
        Task(
            "PlaceSphere",
            "put the ball into the bin",
            ("pick up the ball and place it in the bin", "place the ball into the bin"),
            ("pick up the ball and put it into the bin",),
            ("sphere", "bin"),
        ),
        Task(
            "PushT",
            "push the T onto its outline",
            ("move the T to its outline", "slide the T until it covers its outline"),
            ("slide the T onto its outline",),
            ("Tee", "goal_Tee"),
            max_steps=100,
        ),
    )
}

# One contract holds for all tasks of a suite. `cubes` has scripted experts; the arm of `wrist` has a camera,
# which in `panda` nobody looks through; `stick` has a stick for a hand.
SUITES: dict[str, tuple[str, ...]] = {
    "cubes": ("PickCube", "PushCube", "PullCube"),
    "panda": tuple(sorted(_EVERY.keys() - {"PushT"})),
    "wrist": ("PegInsertionSide", "PlugCharger", "StackCube", "StackPyramid"),
    "stick": ("PushT",),
}

# What the package offers on a table but ships no meshes for.
NEED_ASSETS = ("AssemblingKits", "PickClutterYCB", "PickSingleYCB", "TurnFaucet")


def load(suite: str) -> dict[str, Task]:
    """The tasks of a suite by name.

    Raises:
        ValueError: if there is no such suite, naming the nearest.
    """
    if suite not in SUITES:
        raise ValueError(unknown("ManiSkill suite", suite, list(SUITES)))
    return {name: _EVERY[name] for name in SUITES[suite]}


def task_names(suite: str) -> tuple[str, ...]:
    """``suite/task`` of every task, as a `StartState` wants it."""
    return tuple(f"{suite}/{name}" for name in load(suite))


def sentences(suite: str, paraphrase: Paraphrase | None = None) -> list[str]:
    """Every instruction of a suite, sorted; of one kind, or of all kinds if `paraphrase` is None."""
    kinds = PARAPHRASES if paraphrase is None else (paraphrase,)
    return sorted({text for task in load(suite).values() for kind in kinds for text in task.phrases(kind)})


def episode_seed(start: StartState) -> int:
    """The package's seed in [0, 2^31) for the episode that `start` names; `split_of_seed` tells its split.

    It is drawn otherwise than `StartState.simulator_seed`, and stays so: measured episodes begin with it.
    """
    generator, residues = start.generator("layout"), RESIDUES[start.split]
    high = int(generator.integers(2**31 // LATTICE_MODULUS))
    return high * LATTICE_MODULUS + int(generator.choice(residues))


def has_expert(suite: str, task: str) -> bool:
    """Whether a scripted expert can demonstrate the task (without its suite's name)."""
    return task in SUITES["cubes"]


def unknown(kind: str, name: str, known: list[str]) -> str:
    """The message for a name that does not exist."""
    bare = name.removesuffix("-v1")
    if bare in NEED_ASSETS:
        return (
            f"{kind} {name!r} needs meshes that ManiSkill downloads from elsewhere, and regrip downloads "
            f"nothing: choose one of {', '.join(known)}"
        )
    if bare != name and bare in known:
        return f"no {kind} is called {name!r}: leave out the '-v1', it is {bare!r}"
    return wording.unknown(kind, name, known)
