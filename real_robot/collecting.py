"""The human-in-the-loop protocol: how much a person helps with an episode, and the node driven through it.

VLAC's grades (Zhai et al. 2025): *replay*, a demonstration is replayed on the robot; *return and explore*,
arm and scene are brought back to a state from which the policy failed, and it explores from there; *guided
explore*, the person takes over in the middle of an episode, brings it to a better place, and hands back.
Beside those there are *alone*, the policy explores by itself, and *show*, the person does the whole task:
what is replayed later. Nobody helps with a task that works.

Whatever is not the policy's goes through the core's `human` state, so through the limiter, and every step of
it is flagged. A plain object: no threads, no clock; it hears ticks and joints as a watcher of the node does,
and speaks to the core's events.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from .grades import Choice, CollectConfig, Plan, Played, Trail, Vector
from .messages import Events, Joints, Tick
from .recorder import ACTING


class Retrace:
    """Brings the arm along a path, from wherever it is, as a leader would.

    The core takes a leader's motion from where both were at first; what that leaves between them is seen in
    what was sent first, and taken out, so that the arm goes where the path says.

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

    A person says how an episode ended, by the outcome key; one that takes too long is called a failure. They
    may take over and hand back whenever they like, in any grade. In ``show`` and ``guided`` their leader is
    heard through the transport; a replay is sent by the collector itself.

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
