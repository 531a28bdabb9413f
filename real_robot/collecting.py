"""The human-in-the-loop protocol: how much a person helps with an episode, and the node driven through it.

VLAC's grades (Zhai et al. 2025): *replay*, a demonstration is replayed on the robot; *return and explore*,
arm and scene are brought back to a state from which the policy failed, and it explores from there; *guided
explore*, the person takes over in the middle of an episode, brings it to a better place, and hands back.
Beside
those there are *alone*, the policy explores by itself, and *show*, the person does the whole task: what is
replayed later. Nobody helps with a task that works.

Whatever is not the policy's goes through the core's `human` state, so through the limiter, and every step
of it
is flagged. A plain object: no threads, no clock; it hears ticks and joints as a watcher of the node does, and
speaks to the core's events.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ..datasets.recording import Recording
from ..datasets.starts import counter_generator
from .messages import Events, Joints, Tick

Grade = Literal["alone", "show", "replay", "return", "guided"]
Vector = NDArray[np.float64]

ACTING = ("active", "hold", "human")


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


class Retrace:
    """Brings the arm along a path, from wherever it is, as a leader would.

    The core takes a leader's motion from where both were at first; what that leaves between them is seen
    in what was sent first, and taken out, so that the arm goes where the path says.

    Args:
        path: where to.
        arm: names of the joints that move so; others (the gripper) are meant as they are.
        measured: (N,) where the arm is now, by the path's names; NaN where nothing measures it.
        now: node time.
        config: how fast it is brought to the beginning.
    """

    def __init__(
        self, path: Trail, arm: tuple[str, ...], measured: Vector, now: float, config: CollectConfig
    ) -> None:
        self.path, self._began = path, now
        self._begin = np.where(np.isnan(measured), path.rows[0], measured)
        self._moves = np.array([name in arm for name in path.names])
        far = float(np.abs(path.rows[0] - measured)[self._moves].max(initial=0.0))
        self.approach_s = far / config.approach
        self._offset: Vector | None = None
        self._meant = self._begin.copy()

    @property
    def ends(self) -> float:
        """Node time at which the last row is due."""
        return self._began + self.approach_s + float(self.path.time[-1])

    def heard(self, sent: Vector) -> float:
        """Take what was sent, (N,) by the path's names; returns how far it is from what was meant."""
        if self._offset is None:
            self._offset = np.where(self._moves, sent - self._begin, 0.0)
        return float(np.abs(sent - self._meant)[self._moves].max(initial=0.0))

    def leader(self, now: float) -> Joints:
        """What to tell the core next."""
        since = now - self._began
        if self._offset is None:
            self._meant, offset = self._begin.copy(), np.zeros(len(self._begin))
        elif since < self.approach_s:
            share = since / self.approach_s
            offset = self._offset
            self._meant = (1 - share) * self._begin + share * self.path.rows[0]
        else:
            offset, self._meant = self._offset, self.path.at(since - self.approach_s)
        return Joints(now, now, self.path.names, self._meant - offset)


@dataclass
class _Running:
    """The episode under way.

    Attributes:
        plan: of it.
        began: node time.
        limit: node time at which the policy has failed; moves on while a person drives.
        driver: whom the plan has drive now.
        retrace: of a replay or a return.
        back_at: node time at which the person hands back.
        why: it was broken off.
        steps: ticks in which something was sent; `driven`: of those, not by the policy.
        sent: node time and joints of each.
    """

    plan: Plan
    began: float
    limit: float
    driver: Literal["policy", "person", "retrace"]
    retrace: Retrace | None = None
    back_at: float = np.inf
    guided: bool = False
    why: str = ""
    steps: int = 0
    driven: int = 0
    sent: list[tuple[float, Vector]] = field(default_factory=list)


class Collector:
    """Drives a node through the episodes that `Choice` plans: ``Node(watchers=(recorder, collector))``.

    A person says how an episode ended, by the outcome key; one that takes too long is called a failure.
    They may
    take over and hand back whenever they like, in any grade. In ``show`` and ``guided`` their leader is heard
    through the transport; a replay is sent by the collector itself.

    Args:
        choice: plans.
        names: of the joints in commands (`Core.names`).
        arm: those of them that are the arm's, without grippers.
        rate_hz: control rate.
        learn: called between episodes with how many have an outcome, after every `learn_every` of them. It
            may train and swap the policy, and take its time: the arm is at rest.
    """

    def __init__(
        self,
        choice: Choice,
        names: tuple[str, ...],
        arm: tuple[str, ...],
        rate_hz: float,
        learn: Callable[[int], None] | None = None,
    ) -> None:
        self.choice, self.config, self._learn = choice, choice.config, learn
        self.names, self.arm = names, arm
        self.played: list[Played] = []
        self._period = 1.0 / rate_hz
        self._events: Events | None = None
        self._measured: Joints | None = None
        self._run: _Running | None = None
        self._resting = True
        self._taught = 0

    @property
    def running(self) -> bool:
        """Whether an episode is under way."""
        return self._run is not None

    @property
    def at_rest(self) -> bool:
        """No episode, and nothing is being sent: the scene can be laid out."""
        return self._run is None and self._resting

    @property
    def wants_person(self) -> bool:
        """Whether the plan has the person drive now."""
        return self._run is not None and self._run.driver == "person"

    def next(self) -> Plan:
        """What comes next; the learner has its turn before that, if it is due.

        Raises:
            RuntimeError: an episode is under way.
        """
        if self._run is not None:
            raise RuntimeError(f"episode {self._run.plan.number} is under way: end it by an outcome first")
        judged = sum(one.success is not None for one in self.played)
        if self._learn is not None and judged - self._taught >= self.config.learn_every:
            self._taught = judged
            self._learn(judged)
        return self.choice.next()

    def begin(self, plan: Plan, events: Events, now: float) -> None:
        """The scene is laid out: go. `now` is the node's clock.

        Raises:
            RuntimeError: an episode is under way, or no joint state has come.
            ValueError: the path's joints are not those of this robot's commands.
        """
        if self._run is not None:
            raise RuntimeError(f"episode {self._run.plan.number} is under way: end it by an outcome first")
        if self._measured is None:
            raise RuntimeError("no joint state has come yet: is the transport connected?")
        retrace = None
        if plan.path is not None:
            retrace = Retrace(plan.path, self.arm, self._now_at(plan.path.names), now, self.config)
        driver: Literal["policy", "person", "retrace"] = "retrace" if retrace is not None else "policy"
        if plan.grade == "show":
            driver = "person"
        self._events, self._resting = events, False
        self._run = _Running(plan, now, now + self.config.max_s, driver, retrace)
        events.on_task(plan.scene.task, now)
        if plan.grade in ("alone", "guided", "return"):
            events.on_enable(True, now)
        if driver != "policy":
            events.on_takeover(True, now)
        if retrace is not None:
            events.on_human(retrace.leader(now))

    def _now_at(self, names: tuple[str, ...]) -> Vector:
        """(N,) measured; a gripper that is commanded but not measured by its name counts as its command."""
        assert self._measured is not None, "checked by begin"
        place = {name: index for index, name in enumerate(self._measured.names)}
        wrong = [name for name in names if name not in self.names] + [n for n in self.arm if n not in names]
        if wrong:
            raise ValueError(
                f"the path to replay differs from this robot's commands by {', '.join(wrong)}; it has "
                f"{', '.join(names)}, the robot {', '.join(self.names)}: replay what this robot recorded"
            )
        return np.array([self._measured.position[place[n]] if n in place else np.nan for n in names])

    def __call__(self, what: object) -> None:
        """Hear a tick or a joint state; everything else is none of its business."""
        if isinstance(what, Joints):
            self._measured = what
        elif isinstance(what, Tick):
            self._resting = what.command is None and what.state not in ACTING
            if self._run is not None:
                self._tick(what, self._run)

    def _tick(self, tick: Tick, run: _Running) -> None:
        assert self._events is not None, "begun"
        if tick.state not in ACTING:
            self._end(tick, run)
            return
        if tick.sent is not None:
            run.steps += 1
            run.driven += tick.intervention
            if len(tick.sent) == len(self.names):
                run.sent.append((tick.now, tick.sent))
        if tick.intervention:
            run.limit += self._period
            if run.driver == "retrace":
                self._retrace(tick, run)
            elif run.driver == "person" and tick.now >= run.back_at:
                self._hand_back(tick.now, run)
            elif run.plan.grade == "show" and tick.now - run.began >= self.config.max_s:
                self._events.on_outcome(False, tick.now)
        elif run.driver != "policy":  # the person handed back before it was planned
            run.driver = "policy"
        elif tick.now >= run.limit:
            self._events.on_outcome(False, tick.now)
        elif run.plan.grade == "guided" and not run.guided and tick.now - run.began >= run.plan.guide[0]:
            run.guided, run.driver, run.back_at = True, "person", tick.now + run.plan.guide[1]
            self._events.on_takeover(True, tick.now)

    def _retrace(self, tick: Tick, run: _Running) -> None:
        assert self._events is not None, "begun"
        assert run.retrace is not None, "the plan has a path"
        path, now = run.retrace.path, tick.now
        if tick.sent is not None and tick.command is not None:
            sent = dict(zip(tick.command.names, tick.sent, strict=True))
            astray = run.retrace.heard(np.array([sent.get(name, np.nan) for name in path.names]))
            if astray > self.config.astray:
                self._break_off(f"the replay went astray by {astray:.2f}: look, and begin again", now, run)
                return
        self._events.on_human(run.retrace.leader(now))
        late = now - run.retrace.ends
        if run.plan.grade == "return" and late >= 0:
            moves = [index for index, name in enumerate(path.names) if name in self.arm]
            if np.abs(self._now_at(path.names) - path.rows[-1])[moves].max() <= self.config.reach:
                self._hand_back(now, run)
            elif late >= self.config.settle_s:
                self._break_off("the arm does not come back to where it had failed: look", now, run)
        elif late >= self.config.settle_s:
            self._events.on_outcome(False, now)

    def _hand_back(self, now: float, run: _Running) -> None:
        assert self._events is not None, "begun"
        run.driver, run.back_at = "policy", np.inf
        self._events.on_takeover(False, now)

    def _break_off(self, why: str, now: float, run: _Running) -> None:
        assert self._events is not None, "begun"
        run.why = why
        self._events.on_enable(False, now)

    def _end(self, tick: Tick, run: _Running) -> None:
        self._run = None
        why = run.why or ("" if tick.outcome is not None else tick.reason)
        played = Played(run.plan, tick.outcome, why, run.steps, run.driven)
        self.played.append(played)
        path = None
        if len(run.sent) > 1:
            time = np.array([when for when, _ in run.sent])
            rows = np.stack([row for _, row in run.sent])
            path = Trail(run.plan.scene, self.names, time - time[0], rows)
        self.choice.learnt(played, path)
