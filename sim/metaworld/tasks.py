"""Which Meta-World tasks can be played, what is said to the policy, and where their episodes begin.

Nothing here needs the package itself.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ...datasets.starts import StartState
from ..wording import PARAPHRASES, Paraphrase, unknown

# Object and goal must be so far apart on the table; the package draws until they are, and would never end on
# a vector of ours that is too close. (sweep-into measures from the middle of a goal that varies by 1 mm.)
APART_M = 0.15
WIDER_M = 0.02
_WIDER_M = {"bin-picking": 0.0}  # its bin stays, and is used to the edge
_APART_M = {"box-close": 0.25, "sweep-into": 0.152}


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
            ("push the drawer shut", "slide the drawer shut"),
            ("shut the drawer",),
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
        Task(
            "assembly",
            "put the ring over the peg",
            ("place the ring onto the peg", "slide the ring down the peg"),
            ("put the ring onto the peg",),
            max_steps=120,
        ),
        Task(
            "basketball",
            "put the ball into the hoop",
            ("drop the ball into the hoop", "throw the ball through the hoop"),
            ("put the ball through the hoop",),
            max_steps=120,
        ),
        Task(
            "bin-picking",
            "move the cube to the other bin",
            (
                "pick up the cube and put it into the other bin",
                "take the cube out of its bin and into the other",
            ),
            ("put the cube into the other bin",),
            max_steps=160,
        ),
        Task(
            "box-close",
            "put the lid on the box",
            ("close the box with its lid", "place the lid on top of the box"),
            ("close the box with the lid",),
            max_steps=200,
        ),
        Task(
            "button-press",
            "press the button on the side",
            ("push the button in from the side", "press the side button"),
            ("push the side button",),
        ),
        Task(
            "button-press-topdown-wall",
            "press the button behind the wall",
            ("reach over the wall and press the button down", "push down on the button behind the wall"),
            ("push the button behind the wall down",),
        ),
        Task(
            "button-press-wall",
            "press the side button past the wall",
            ("go around the wall and press the side button", "push the side button past the wall"),
            ("go past the wall and press the side button",),
        ),
        Task(
            "coffee-button",
            "press the button of the coffee machine",
            ("start the coffee machine", "push the button of the coffee machine"),
            ("press the coffee machine button",),
        ),
        Task(
            "coffee-pull",
            "pull the mug away from the coffee machine",
            ("move the mug away from the coffee machine", "drag the mug back from the coffee machine"),
            ("pull the mug back from the coffee machine",),
        ),
        Task(
            "coffee-push",
            "push the mug under the coffee machine",
            ("move the mug under the coffee machine", "slide the mug under the coffee machine"),
            ("drag the mug under the coffee machine",),
        ),
        Task(
            "dial-turn",
            "turn the dial",
            ("rotate the dial", "twist the dial around"),
            ("turn the dial around",),
            max_steps=120,
        ),
        Task(
            "disassemble",
            "take the ring off the peg",
            ("lift the ring off the peg", "pull the ring up from the peg"),
            ("pull the ring off the peg",),
            max_steps=200,
        ),
        Task(
            "door-close",
            "close the door",
            ("push the door closed", "swing the door shut"),
            ("push the door shut",),
        ),
        Task(
            "door-lock",
            "lock the door",
            ("turn the lock of the door to close it", "rotate the lock to lock the door"),
            ("turn the lock to lock the door",),
            max_steps=160,
        ),
        Task(
            "door-unlock",
            "unlock the door",
            ("turn the lock of the door to open it", "rotate the lock to unlock the door"),
            ("turn the lock to unlock the door",),
        ),
        Task(
            "hand-insert",
            "put the block into the hole",
            ("lower the block into the hole", "insert the block into the hole with the hand"),
            ("insert the block into the hole",),
        ),
        Task(
            "faucet-open",
            "turn the faucet on",
            ("open the faucet", "rotate the faucet to open it"),
            ("turn on the faucet",),
        ),
        Task(
            "faucet-close",
            "turn the faucet off",
            ("close the faucet", "rotate the faucet to close it"),
            ("turn off the faucet",),
        ),
        Task(
            "hammer",
            "hit the nail with the hammer",
            ("hammer the nail into the wall", "drive the nail in with the hammer"),
            ("hammer the nail in",),
        ),
        Task(
            "handle-press",
            "press the handle down",
            ("push the handle down", "press down on the handle"),
            ("push down the handle",),
        ),
        Task(
            "handle-press-side",
            "press the side handle down",
            ("push the side handle down", "press down on the side handle"),
            ("push down the side handle",),
        ),
        Task(
            "handle-pull",
            "pull the handle up",
            ("lift the handle up", "raise the handle"),
            ("lift up the handle",),
        ),
        Task(
            "handle-pull-side",
            "pull the side handle up",
            ("lift the side handle up", "raise the side handle"),
            ("lift up the side handle",),
            max_steps=220,
        ),
        Task(
            "peg-unplug-side",
            "pull the peg out of the hole",
            ("unplug the peg from the side", "pull out the peg"),
            ("unplug the peg",),
            max_steps=200,
        ),
        Task(
            "pick-out-of-hole",
            "pick the puck out of the hole",
            ("lift the puck out of the hole", "take the puck out of the hole and to the goal"),
            ("take the puck out of the hole",),
            max_steps=240,
        ),
        Task(
            "pick-place-wall",
            "move the puck over the wall to the goal",
            (
                "pick up the puck and place it behind the wall at the goal",
                "lift the puck over the wall to the goal",
            ),
            ("pick up the puck and move it over the wall to the goal",),
            max_steps=120,
        ),
        Task(
            "plate-slide",
            "slide the plate into the cabinet",
            (
                "push the plate into the cabinet",
                "move the plate into the cabinet",
                "put the plate into the cabinet",
            ),
            ("into the cabinet push the plate",),
        ),
        Task(
            "plate-slide-side",
            "slide the plate sideways into the cabinet",
            ("push the plate sideways into the cabinet", "move the plate sideways into the cabinet"),
            ("put the plate sideways into the cabinet",),
        ),
        Task(
            "plate-slide-back",
            "slide the plate out of the cabinet",
            ("pull the plate out of the cabinet", "move the plate out of the cabinet"),
            ("take the plate out of the cabinet",),
        ),
        Task(
            "plate-slide-back-side",
            "slide the plate sideways out of the cabinet",
            ("pull the plate sideways out of the cabinet", "move the plate sideways out of the cabinet"),
            ("take the plate sideways out of the cabinet",),
        ),
        Task(
            "push-back",
            "pull the puck back to the goal",
            ("push the puck back to the goal", "drag the puck back to the goal"),
            ("move the puck back to the goal",),
            max_steps=200,
        ),
        Task(
            "push-wall",
            "push the puck around the wall to the goal",
            ("move the puck around the wall to the goal", "slide the puck past the wall to the goal"),
            ("push the puck past the wall to the goal",),
        ),
        Task(
            "reach-wall",
            "reach the goal behind the wall",
            ("move the hand over the wall to the goal", "go around the wall to the goal"),
            ("move around the wall to the goal",),
        ),
        Task(
            "shelf-place",
            "put the block on the shelf",
            ("pick up the block and place it on the shelf", "lift the block onto the shelf"),
            ("place the block on the shelf",),
            max_steps=160,
        ),
        Task(
            "soccer",
            "push the ball into the net",
            ("kick the ball into the net", "slide the ball into the net"),
            ("move the ball into the net",),
        ),
        Task(
            "stick-pull",
            "pull the thermos with the stick",
            ("use the stick to pull the thermos", "take the stick and pull the thermos to the goal"),
            ("pull the thermos to the goal with the stick",),
            max_steps=160,
        ),
        Task(
            "stick-push",
            "push the thermos with the stick",
            ("use the stick to push the thermos", "take the stick and push the thermos to the goal"),
            ("push the thermos to the goal with the stick",),
        ),
        Task(
            "sweep",
            "sweep the block off the table",
            ("push the block off the table", "slide the block off the table"),
            ("move the block off the table",),
            max_steps=120,
        ),
        Task(
            "sweep-into",
            "sweep the block into the hole",
            ("push the block into the hole", "slide the block into the hole"),
            ("place the block into the hole",),
        ),
    )
}

_ML10_TEST = ("drawer-open", "door-close", "shelf-place", "sweep-into", "lever-pull")
_ML45_TEST = ("bin-picking", "box-close", "hand-insert", "door-lock", "door-unlock")

# mt3 is ours: three verbs, three objects, a goal that any picture shows, and none that can be done blind: the
# expert's mean action sequence, played without looking, solved 5, 5 and 2 of 10 starts (door-close and
# drawer-close: 10 of 10). mt6 is ours too, six verbs; blind play solved 4, 8, 4, 4, 5 and 2 of 10 other
# starts (door-open and faucet-open: 10 of 10). The others are the package's; ml10 and ml45
# hold tasks back, so a policy trained on one part is measured on tasks it never saw.
SUITES: dict[str, tuple[str, ...]] = {
    "mt3": ("button-press-topdown", "drawer-open", "lever-pull"),
    "mt6": (
        "button-press-topdown",
        "drawer-open",
        "lever-pull",
        "window-open",
        "plate-slide",
        "dial-turn",
    ),
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
    "mt50": tuple(sorted(_EVERY)),
    "ml10-train": (
        "reach",
        "push",
        "pick-place",
        "door-open",
        "drawer-close",
        "button-press-topdown",
        "peg-insert-side",
        "window-open",
        "sweep",
        "basketball",
    ),
    "ml10-test": _ML10_TEST,
    "ml45-train": tuple(sorted(_EVERY.keys() - set(_ML45_TEST))),
    "ml45-test": _ML45_TEST,
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
    apart = _APART_M.get(start.task_name, APART_M)
    generator = start.generator("layout")
    while True:
        layout = generator.uniform(lowest, highest)
        layout[widest] = start.lattice(generator, float(lowest[widest]), float(highest[widest]))
        if len(layout) < 6 or np.linalg.norm(layout[:2] - layout[3:5]) >= apart:
            return layout


def draw_wider_layout(
    start: StartState, low: ArrayLike, high: ArrayLike, attempt: int = 0
) -> NDArray[np.float64]:
    """The same from a box that is 2 cm wider on each side, with the object outside the package's.

    The coordinate that tells the splits apart is the same as in `draw_layout`. In `bin-picking`, whose bin
    stays where it is, it is another draw from the package's box.

    Args:
        start: names the episode.
        low: (3,) or (6,), see `draw_layout`.
        high: the same.
        attempt: another number, another layout.
    """
    lowest, highest = np.asarray(low, np.float64), np.asarray(high, np.float64)
    margin = _WIDER_M.get(start.task_name, WIDER_M)
    wider = np.tile([margin, margin, 0.0], len(lowest) // 3)
    widest = int(np.argmax(highest - lowest))
    apart = _APART_M.get(start.task_name, APART_M)
    generator = start.generator("perturb", "layout", attempt)
    while True:
        layout: NDArray[np.float64] = generator.uniform(lowest - wider, highest + wider)
        layout[widest] = start.lattice(
            generator, float((lowest - wider)[widest]), float((highest + wider)[widest])
        )
        outside = margin == 0 or not ((lowest <= layout) & (layout <= highest))[:2].all()
        if outside and (len(layout) < 6 or np.linalg.norm(layout[:2] - layout[3:5]) >= apart):
            return layout
