"""The transport inside one process: a node drives the tabletop arm, in simulated time, at any speed."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ..datasets.starts import StartState
from ..datasets.statistics import Rate
from ..real_robot.core import Core
from ..real_robot.messages import Command, Events, Frame, Joints, Policy, Reply, Request, Tick
from ..real_robot.node import Figures, Node, answer
from ..sim.tabletop.robot import CONTROLLER_HZ, TabletopRobot


class SimTransport:
    """A transport: time is the robot's, and passes only in `sleep_until`.

    Args:
        robot: whose episode has begun.
        shadow: commands go nowhere.
    """

    name = "sim"

    def __init__(self, robot: TabletopRobot, *, shadow: bool = False) -> None:
        self.robot = robot
        self._obey: Callable[..., None] | None = None if shadow else robot.command
        self._events: Events | None = None

    def connect(self, events: Events) -> None:
        self._events = events
        self.sense()

    def now(self) -> float:
        return self.robot.time

    def sleep_until(self, when: float) -> None:
        self.robot.advance(max(0, round((when - self.robot.time) * CONTROLLER_HZ)))
        self.sense()

    def sense(self) -> None:
        """Tell what cameras and joints say now."""
        if self._events is None:
            return
        now = self.robot.time
        for camera in self.robot.cameras:
            self._events.on_frame(Frame(camera, now, now, self.robot.frame(camera)))
        names, positions, velocities = self.robot.joints()
        self._events.on_joints(Joints(now, now, names, positions, velocities))

    def send(self, command: Command) -> None:
        if self._obey is not None:
            self._obey(command.names, command.trajectory, command.rate_hz)

    def publish_chunk(self, names: tuple[str, ...], actions: NDArray[np.float32]) -> None:
        pass

    def diagnose(self, tick: Tick, figures: Mapping[str, float]) -> None:
        pass

    def close(self) -> None:
        self._events = None


class SimulatedLatency:
    """Answers requests at once, and hands the answers over when simulated time has gone on (`node.Answers`).

    Args:
        policy: who answers.
        now: simulated time.
        latency_s: from request to answer.
    """

    def __init__(self, policy: Policy, now: Callable[[], float], latency_s: float) -> None:
        self._policy, self._now, self.latency_s = policy, now, latency_s
        self._waiting: deque[tuple[Request, Reply]] = deque()
        self._come: deque[tuple[Request, Reply]] = deque()

    @property
    def replies(self) -> deque[tuple[Request, Reply]]:
        while self._waiting and self._waiting[0][1].received <= self._now() + 1e-9:
            self._come.append(self._waiting.popleft())
        return self._come

    def ask(self, request: Request) -> None:
        reply = answer(self._policy, request, self._now)
        self._waiting.append((request, replace(reply, received=request.made + self.latency_s)))

    def close(self) -> None:
        self._waiting.clear()


@dataclass(frozen=True)
class Driven:
    """What came of driving the simulated arm through the node.

    Attributes:
        success: of each start.
        steps: actions executed in each.
        counters: of all cores, added up.
        overhead: seconds from each wake-up to its command, without the policy.
        overhead_cpu: likewise, of computing alone.
    """

    success: tuple[bool, ...]
    steps: tuple[int, ...]
    counters: dict[str, int]
    overhead: tuple[float, ...]
    overhead_cpu: tuple[float, ...]

    @property
    def rate(self) -> Rate:
        return Rate(sum(self.success), len(self.success))


def drive(
    make_core: Callable[[str], Core],
    policy: Policy,
    robot: TabletopRobot,
    starts: Sequence[StartState],
    *,
    latency_s: float | None = None,
    shadow: bool = False,
    watchers: tuple[Callable[[object], None], ...] = (),
) -> Driven:
    """One episode from each start state, in simulated time; a new core for each.

    Args:
        make_core: instruction -> a new core.
        policy: who answers.
        robot: the arm.
        starts: where to begin.
        latency_s: how long an answer takes, in simulated time; None: time stands still while it thinks.
        shadow: commands go nowhere.
        watchers: of each node.
    """
    success: list[bool] = []
    steps: list[int] = []
    overhead: list[float] = []
    computing: list[float] = []
    counters: dict[str, int] = {}
    for number, start in enumerate(starts):
        robot.reset(start)
        core, transport = make_core(robot.instruction), SimTransport(robot, shadow=shadow)
        thinker = None if latency_s is None else SimulatedLatency(policy, transport.now, latency_s)
        node = Node(core, transport, policy, in_loop=latency_s is None, thinker=thinker, watchers=watchers)
        node.connect()
        core.configure()
        core.episode = number  # explores otherwise in each
        for _ in range(3):  # it is enabled only when the arm has been seen to stand
            node.step()
        node.figures = Figures()
        core.on_enable(True, transport.now())
        seconds = robot.max_steps / core.rate_hz
        node.run(lambda tick: robot.success or robot.invalid, seconds=seconds)
        success.append(robot.success and not robot.invalid)
        core.on_outcome(success[-1], transport.now())
        node.step()  # the tick that ends the episode, for who records
        steps.append(core.schedule.step)
        overhead += node.figures.overhead
        computing += node.figures.overhead_cpu
        for name, count in core.counters.items():
            counters[name] = counters.get(name, 0) + count
        node.close()
    return Driven(tuple(success), tuple(steps), counters, tuple(overhead), tuple(computing))
