"""Which grade of help an episode gets, and what it is made of: scenes, plans, what can be replayed."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ..datasets.recording import Recording
from ..datasets.starts import counter_generator

Grade = Literal["alone", "show", "replay", "return", "guided"]
Vector = NDArray[np.float64]


@dataclass(frozen=True)
class CollectConfig:
    """How episodes are shared out, and how long things take. Times in seconds.

    Attributes:
        help: share of a task's episodes that a person helps with while it never works alone.
        enough: success alone from which on nobody helps; in between the share falls linearly.
        window: last episodes alone of a task by which its success is judged.
        show: episodes of each task, the first ones, that the person does whole.
        max_s: what the policy is given for an episode; then it has failed. A person's time does not count.
        guide_after: guided explore begins so far into `max_s`: drawn between these two shares of it.
        guide_s: how long the person then drives: drawn between these two.
        approach: rad or m per second at which the arm is brought to the beginning of a replay.
        reach: rad or m; nearer than this, in every joint, the arm is back where it failed.
        settle_s: what is waited for a verdict when a replay is over.
        astray: rad or m; a replay is given up when what is sent is farther than this from what was meant.
        learn_every: episodes with an outcome between two calls of the learner.
        seed: of every draw.
    """

    help: float = 0.5
    enough: float = 0.8
    window: int = 20
    show: int = 1
    max_s: float = 60.0
    guide_after: tuple[float, float] = (0.2, 0.6)
    guide_s: tuple[float, float] = (0.5, 2.0)
    approach: float = 0.5
    reach: float = 0.1
    settle_s: float = 1.0
    astray: float = 0.4
    learn_every: int = 50
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("help", "enough"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"collecting: {name} is {getattr(self, name)}, expected 0 to 1")
        for name in ("max_s", "approach", "reach", "astray"):
            value = getattr(self, name)
            if not (np.isfinite(value) and value > 0):
                raise ValueError(f"collecting: {name} is {value}, expected a finite number above 0")
        for name in ("window", "learn_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"collecting: {name} is {getattr(self, name)}, expected 1 or more")
        for name in ("guide_after", "guide_s"):
            low, high = getattr(self, name)
            if not 0.0 <= low <= high:
                raise ValueError(f"collecting: {name} is {low} to {high}, expected two rising numbers from 0")


@dataclass(frozen=True)
class Scene:
    """How things are laid out before an episode.

    Attributes:
        task: the instruction.
        place: whatever names the layout: a photograph, a start state; only passed on.
    """

    task: str
    place: str = ""


@dataclass(frozen=True)
class Trail:
    """Where the joints were sent, over time.

    Attributes:
        scene: as it was laid out at the beginning.
        names: N joints, grippers included.
        time: float64 (T,) seconds, from 0.
        rows: float64 (T,N) rad or m.
    """

    scene: Scene
    names: tuple[str, ...]
    time: Vector
    rows: Vector

    def at(self, when: float) -> Vector:
        """(N,) linear between rows; the ends beyond them."""
        return np.array([np.interp(when, self.time, column) for column in self.rows.T])

    def until(self, share: float) -> Trail:
        """The first part of it."""
        rows = max(2, round(share * len(self.time)))
        return Trail(self.scene, self.names, self.time[:rows], self.rows[:rows])


@dataclass(frozen=True)
class Plan:
    """The next episode.

    Attributes:
        number: counted from 0.
        grade: who drives what.
        scene: how it is to be laid out.
        path: what is replayed, in ``replay``, or retraced up to where the policy failed, in ``return``.
        guide: of ``guided``: seconds into the episode, and seconds that the person drives.
        say: what the person is to do, in words.
    """

    number: int
    grade: Grade
    scene: Scene
    path: Trail | None = None
    guide: tuple[float, float] = (0.0, 0.0)
    say: str = ""


@dataclass(frozen=True)
class Played:
    """What became of a plan.

    Attributes:
        plan: the plan.
        success: None if nobody said, because it was broken off: `why`.
        why: in words.
        steps: ticks in which something was sent.
        driven: of those, ticks in which the policy did not drive.
    """

    plan: Plan
    success: bool | None
    why: str
    steps: int
    driven: int


def path_of(recording: Recording, names: tuple[str, ...], place: str = "") -> Trail:
    """What was sent in an episode that `recorder` wrote, to be replayed.

    Args:
        recording: the episode.
        names: of the joints in commands (``contents.streams["command"].names``).
        place: how its scene was laid out.

    Raises:
        ValueError: nothing was sent in it.
    """
    sent = recording.streams.get("command")
    if sent is None or len(sent.time) < 2:
        raise ValueError("a recording without commands cannot be replayed: record it with `regrip node`")
    time = np.asarray(sent.time, np.float64)
    return Trail(Scene(recording.task, place), names, time - time[0], np.asarray(sent.rows, np.float64))


class Choice:
    """Which grade an episode gets. The same seed and the same outcomes give the same plans.

    Args:
        config: shares.
        scenes: what is played, over and over in this order.
        shown: demonstrations to replay, by whoever recorded them.
    """

    def __init__(self, config: CollectConfig, scenes: Sequence[Scene], shown: Iterable[Trail] = ()) -> None:
        if not scenes:
            raise ValueError("collecting: there is no scene to play")
        self.config, self.scenes = config, tuple(scenes)
        self.number = 0
        self.history: dict[str, deque[bool]] = {}
        self.shown: dict[str, list[Trail]] = {}
        self.failed: dict[str, deque[Trail]] = {}
        self._to_show = {scene.task: config.show for scene in scenes}
        for path in shown:
            self.shown.setdefault(path.scene.task, []).append(path)
            if path.scene.task in self._to_show:
                self._to_show[path.scene.task] -= 1

    def success(self, task: str) -> float:
        """Of the policy alone, lately; a half before anything is known."""
        past = self.history.get(task, ())
        return (sum(past) + 1) / (len(past) + 2)

    def help(self, task: str) -> float:
        """Share of the task's episodes that a person helps with."""
        if not self.config.enough:
            return 0.0
        return self.config.help * max(0.0, 1.0 - self.success(task) / self.config.enough)

    def next(self) -> Plan:
        """The next episode; every call begins another."""
        config, scene = self.config, self.scenes[self.number % len(self.scenes)]
        task = scene.task
        draw = counter_generator("collecting", config.seed, self.number)
        number, self.number = self.number, self.number + 1
        if self._to_show.get(task, 0) > 0:
            self._to_show[task] -= 1
            return Plan(number, "show", scene, say=f"take over and do it yourself: {task}")
        grade: Grade = "alone"
        if draw.random() < self.help(task):
            # the worse it works, the more is done for it
            worse = 1.0 - min(1.0, self.success(task) / (config.enough or 1.0))
            shares = np.array([worse**2, 2 * worse * (1 - worse), (1 - worse) ** 2])
            grade = ("replay", "return", "guided")[int(draw.choice(3, p=shares / shares.sum()))]
        if grade == "replay" and self.shown.get(task):
            paths = self.shown[task]
            path = paths[int(draw.integers(len(paths)))]
            return Plan(number, "replay", path.scene, path, say=f"lay the scene out as it was shown: {task}")
        if grade == "return" and self.failed.get(task):
            path = self.failed[task].popleft().until(float(draw.uniform(0.2, 0.8)))
            return Plan(number, "return", path.scene, path, say=f"lay the scene out as it failed: {task}")
        if grade != "alone":
            after = config.max_s * float(draw.uniform(*config.guide_after))
            guide = after, float(draw.uniform(*config.guide_s))
            say = f"take over when told, {after:.0f} s into it, or when it goes wrong: {task}"
            return Plan(number, "guided", scene, guide=guide, say=say)
        return Plan(number, "alone", scene, say=f"lay the scene out: {task}")

    def learnt(self, played: Played, path: Trail | None) -> None:
        """An episode is over; `path` is what was sent in it."""
        task = played.plan.scene.task
        if played.success is None:
            return
        if played.plan.grade == "alone" and not played.driven:
            past = self.history.setdefault(task, deque(maxlen=self.config.window))
            past.append(played.success)
            if not played.success and path is not None:
                self.failed.setdefault(task, deque(maxlen=self.config.window)).append(path)
        if played.plan.grade == "show" and played.success and path is not None:
            self.shown.setdefault(task, []).append(path)
