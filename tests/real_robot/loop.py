"""The scenario without a network: the same arm, the same messages, in this process and in simulated time."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from scenario import Bench

from regrip.datasets.starts import StartState
from regrip.launch.sim_robot import ORDERS, TOPICS, TRUTH, SimRobot
from regrip.real_robot import topics
from regrip.real_robot.messages import Command, Events
from regrip.real_robot.topics import Faults, Topics
from regrip.sim.tabletop.robot import CONTROLLER_HZ, GRIPPER, TabletopRobot


def make(kind: str, **fields: Any) -> Any:
    """A ROS 2 message, as far as anyone reads it."""
    return SimpleNamespace(**fields)


class Loop:
    """A transport whose clock is the arm's: it passes while the node waits."""

    name = "loop"

    def __init__(self, described: Topics = TOPICS) -> None:
        self.robot = TabletopRobot()
        self.robot.reset(StartState("demo/lift_red", "train", 0))
        self.arm = SimRobot(self.robot, described, make, self._deliver, lambda: self.robot.time)
        self.topics, self.faults = described, Faults()
        self.bench = Bench(lambda text: self.arm.order(make("String", data=text)))
        self._takers: dict[str, Any] = {TRUTH: lambda message: self.bench.hear(message.data)}
        assert ORDERS not in self._takers

    def _deliver(self, topic: str, message: Any) -> None:
        if topic in self._takers:
            self._takers[topic](message)

    def connect(self, events: Events) -> None:
        for found in topics.subscriptions(
            self.topics, self.robot.cameras, events, self.now, lambda stamp: stamp, self.faults
        ):
            self._takers[found.topic] = found.take

    def now(self) -> float:
        return self.robot.time

    def sleep_until(self, when: float) -> None:
        for _ in range(round((when - self.robot.time) * CONTROLLER_HZ)):
            self.arm.advance()

    def send(self, command: Command) -> None:
        for _, message in topics.command_messages(self.topics, command, make, self.now(), GRIPPER):
            self.arm.hear(message)

    def publish_chunk(self, names: Any, actions: Any) -> None:
        pass

    def diagnose(self, tick: Any, figures: Any) -> None:
        pass

    def close(self) -> None:
        self.robot.close()
