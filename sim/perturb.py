"""Perturbations that need no knowledge of the simulator: the camera's noise, and what the policy is told.

The kinds follow LIBERO-Plus (arXiv 2510.13626) and LIBERO-PRO (arXiv 2510.03827). ``silent`` and ``wrong``
are controls, not disturbances: a policy whose success they leave alone does not listen to its instruction.
What changes the scene is the simulator's own affair (see `tabletop.perturb` and `look`); which of that there
is in each of the public ones, and why not the rest, is listed here.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..datasets.spec import RobotSpec
from ..datasets.starts import StartState, counter_generator
from .env import Env, EnvStep
from .look import Look
from .wording import unknown
from .worker import resolve

KINDS = {
    "noise": "noise of 2 to 8 % of full scale on every pixel, brightness and contrast off by up to 25 %",
    "silent": "no instruction at all (a control: success should fall)",
    "wrong": "the instruction of another task (a control: success should fall)",
}
PARAPHRASE = {"paraphrase": "the same instruction in words that training never used"}
_PICTURES = {
    "camera": "cameras that stand moved by up to 4 cm and turned by up to 3 degrees on each axis, those on "
    "the hand 5 mm and 2",
    "light": "lamps and ambient light scaled by 0.4 to 1.5, the lamps tinted and moved by up to 40 degrees",
    "background": "what things stand on is tinted with another colour",
    "texture": "what things stand on is tiled",
    "distractors": "a can and a bar of colours of their own stand about; they are seen, not felt",
}
_ROBOT = {
    "metaworld": "the hand starts up to 5 cm aside on each axis (never in training)",
    "robosuite": "the arm starts up to 0.1 rad aside in each joint, the package's noise besides",
    "libero": "the arm starts up to 0.1 rad aside in each joint (never in training)",
    "maniskill": "the arm starts up to 0.1 rad aside in each joint, the package's noise besides",
}
_LAYOUT = {
    "metaworld": "the object stands up to 2 cm outside the package's range, the goal up to 2 cm",
    "robosuite": "the package places the objects in ranges that are 5 cm wider on each side",
    "maniskill": "everything on the table is shifted together by 4 to 8 cm",
}
_FURNITURE = "objects stand in and on furniture that stays: moving them would be placing them anew"


@dataclass(frozen=True)
class Kinds:
    """What can be changed in a simulator's suite.

    Attributes:
        known: kind to what it does, without those of `KINDS` and `PARAPHRASE`.
        missing: kind to why there is none.
    """

    known: Mapping[str, str]
    missing: Mapping[str, str]


def of_simulator(simulator: str, suite: str) -> Kinds:
    """What the environments of a public simulator can change, and what they cannot.

    Raises:
        ValueError: if there is no such simulator or suite.
    """
    if simulator == "gymnasium":
        from .gym.tasks import perturbations

        known, missing = perturbations(suite)
        return Kinds({kind: _PICTURES[kind] for kind in known}, missing)
    if simulator not in _ROBOT:
        raise ValueError(unknown("public simulator", simulator, ["gymnasium", *_ROBOT]))
    missing = {}
    if simulator == "libero":
        missing["layout"] = _FURNITURE
        missing["paraphrase"] = "the package has no wording that training could not have used"
    elif (simulator, suite) == ("robosuite", "robosuite"):
        missing["layout"] = (
            "the bin of can and the table of wipe are used to the edge by the package; suite blocks has it"
        )
    elif simulator == "maniskill" and suite != "cubes":
        missing["layout"] = (
            "the success tests of PlugCharger and PushT keep the place that was drawn; suite cubes has it"
        )
    every = {**_PICTURES, "robot": _ROBOT[simulator], "layout": _LAYOUT.get(simulator, "")}
    return Kinds({kind: about for kind, about in every.items() if kind not in missing}, missing)


def require(simulator: str, suite: str, kind: str) -> None:
    """Refuse a perturbation that a suite does not know.

    Raises:
        ValueError: saying why there is none, or naming the nearest.
    """
    if kind == "none":
        return
    kinds = of_simulator(simulator, suite)
    if kind in kinds.missing:
        raise ValueError(f"{simulator}, suite {suite}, has no perturbation {kind!r}: {kinds.missing[kind]}")
    if kind not in kinds.known:
        raise ValueError(unknown(f"perturbation of {simulator}", kind, ["none", *kinds.known]))


def save(look: Look | None) -> list[Any] | None:
    """A perturbed episode's look for a snapshot; None if nothing is perturbed."""
    if look is None or look.kind == "none":
        return None
    return [look.kind, dataclasses.asdict(look.start), *([look.places] if look.places else [])]


def load(saved: list[Any] | None, kind: str) -> Look | None:
    """The look that `save` was given.

    Raises:
        ValueError: if it is of another kind than the environment's.
    """
    theirs = "none" if saved is None else str(saved[0])
    require_same(theirs, kind)
    if saved is None:
        return None
    places = tuple(tuple(place) for place in saved[2]) if len(saved) > 2 else ()
    return Look(theirs, StartState(**saved[1]), places)


def require_same(theirs: str, mine: str) -> None:
    """Refuse a snapshot of an environment that was changed otherwise.

    Raises:
        ValueError: if it was.
    """
    if theirs != mine:
        raise ValueError(
            f"snapshot is of an environment with perturb {theirs!r}, this one has {mine!r}: make it alike"
        )


_NOISE = (0.02, 0.08)
_CONTRAST = 0.25


def name_of(start: StartState) -> str:
    """What an episode's noise is drawn from."""
    return f"{start.task} {start.split} {start.index} {start.seed}"


def add_noise(picture: NDArray[np.uint8], start: str, camera: str, steps: int) -> NDArray[np.uint8]:
    """What a poor sensor sees: off in brightness and contrast all through an episode, its grain always new.

    Args:
        picture: (H,W,3).
        start: of `name_of`.
        camera: each is off in its own way.
        steps: control steps since the episode began.
    """
    sensor = counter_generator("sensor", start, camera)
    sigma = sensor.uniform(*_NOISE)
    contrast, brightness = sensor.uniform(-_CONTRAST, _CONTRAST, 2)
    grain = counter_generator("grain", start, camera, steps)
    pixels = picture.astype(np.float32) / 255
    pixels = 0.5 + (1 + contrast) * (pixels - 0.5) + 0.5 * brightness
    pixels += sigma * grain.standard_normal(pixels.shape, dtype=np.float32)
    noisy: NDArray[np.uint8] = np.round(255 * pixels.clip(0, 1)).astype(np.uint8)
    return noisy


def wrong_instruction(start: StartState, tasks: Sequence[str], say: Callable[[StartState], str]) -> str:
    """The instruction of another task of the same suite, drawn by the start.

    Args:
        start: names the episode.
        tasks: ``suite/task`` names.
        say: the instruction of an episode.

    Raises:
        ValueError: if no other task says anything else.
    """
    true = say(start)
    others = [name for name in tasks if name != start.task and name.split("/")[0] == start.suite]
    start.generator("wrong").shuffle(others)
    for name in others:
        other = say(StartState(name, start.split, start.index, start.seed))
        if other != true:
            return other
    raise ValueError(
        f"{start.task}: no other task of the run says anything but {true!r}; give more tasks, or leave "
        "out the perturbation 'wrong'"
    )


class Perturbed:
    """Implements `Env` on another one. What it does to an episode depends on the start state alone.

    Args:
        env: plays the episodes.
        kind: one of `KINDS`.
        tasks: ``suite/task`` names whose instructions ``wrong`` may give.
    """

    def __init__(self, env: Env, kind: str, tasks: Sequence[str]) -> None:
        if kind not in KINDS:
            raise ValueError(f"no perturbation is called {kind!r}: known are {', '.join(KINDS)}")
        self.env, self.kind, self._tasks = env, kind, tuple(tasks)
        self.spec: RobotSpec = env.spec
        self.privileged_dim = env.privileged_dim
        self.instruction = ""
        self._start = ""
        self._steps = 0

    @property
    def max_steps(self) -> int:
        return self.env.max_steps

    def reset(self, start: StartState) -> None:
        """Begin the episode that `start` names.

        Raises:
            ValueError: if ``wrong`` finds no task with another instruction.
        """
        wrong = self._another(start) if self.kind == "wrong" else ""
        self.env.reset(start)
        self.instruction = self.env.instruction if self.kind == "noise" else wrong
        self._start, self._steps = name_of(start), 0

    def _another(self, start: StartState) -> str:
        def say(other: StartState) -> str:
            self.env.reset(other)
            return self.env.instruction

        return wrong_instruction(start, self._tasks, say)

    def step(self, action: NDArray[np.float32]) -> EnvStep:
        self._steps += 1
        return self.env.step(action)

    def state(self) -> NDArray[np.float32]:
        return self.env.state()

    def privileged(self) -> NDArray[np.float32]:
        return self.env.privileged()

    def render(self, camera: str) -> NDArray[np.uint8]:
        picture = self.env.render(camera)
        if self.kind != "noise":
            return picture
        return add_noise(picture, self._start, camera, self._steps)

    def snapshot(self) -> bytes:
        header = {"instruction": self.instruction, "start": self._start, "steps": self._steps}
        return json.dumps(header).encode() + b"\n" + self.env.snapshot()

    def restore(self, snapshot: bytes) -> None:
        line, _, rest = snapshot.partition(b"\n")
        header = json.loads(line)
        self.env.restore(rest)
        self.instruction, self._start = header["instruction"], header["start"]
        self._steps = header["steps"]

    def close(self) -> None:
        self.env.close()


def with_perturbation(factory: str, kwargs: Mapping[str, Any], kind: str, tasks: Sequence[str]) -> Perturbed:
    """Factory for a `WorkerPool`: the environment of another factory, perturbed."""
    return Perturbed(resolve(factory)(**kwargs), kind, tasks)
