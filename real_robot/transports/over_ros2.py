"""What the two ways into ROS 2 have in common: everything but the middleware itself."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from .. import ros_messages, topics
from ..messages import Command, Events, Tick, TransportError
from ..ros_messages import Make
from ..topics import SENSOR, Faults, Qos, Topics, ToTwist
from .simulated_clock import SimulatedClock
from .wall_clock import WallClock

_LOOK_EVERY_S = 1.0  # for topics that do not match


class Writer(Protocol):
    """A publisher."""

    def publish(self, message: Any) -> None:
        """Send; at most 10 ms.

        Raises:
            TransportError: it was not taken.
        """
        ...


class Middleware(Protocol):
    """A node in ROS 2's graph. Messages come in one thread of its own, from `start` to `close`."""

    make: Make

    def listen(self, topic: str, kind: str, qos: Qos, take: Callable[[Any], None]) -> object: ...

    def advertise(self, topic: str, kind: str, qos: Qos) -> Writer: ...

    def start(self) -> None: ...

    def mismatches(self) -> list[str]:
        """Topics that are there and yet not heard, in words."""
        ...

    def close(self) -> None: ...


class OverRos2:
    """A transport.

    Args:
        name: of the transport.
        begin: makes the middleware; given what takes note of unreadable messages (topic, why).
        described: names and types.
        cameras: that the policy looks at.
        joints: of the arm, as commands name them.
        gripper: the name of the gripper's joint in commands; ``""`` for none.
        shadow: commands are not sent: no publisher for them is ever made.
        to_twist: for TwistStamped commands: the tool's velocity (6,).
        sim_time: time is what /clock says.
        level_bytes: a DiagnosticStatus' level is a byte string.

    Raises:
        TransportError: the topics do not serve the policy.
    """

    def __init__(
        self,
        name: str,
        begin: Callable[[Callable[[str, str], None]], Middleware],
        described: Topics,
        cameras: Collection[str],
        joints: Collection[str],
        gripper: str = "",
        *,
        shadow: bool = False,
        to_twist: ToTwist | None = None,
        sim_time: bool = False,
        level_bytes: bool = False,
    ) -> None:
        described.check(cameras, joints, gripper)
        if described.command_type == "twist" and to_twist is None:
            raise TransportError("commands as twists need the arm's kinematics (to_twist)")
        self.name, self.topics, self.faults = name, described, Faults()
        self._begin, self._shadow, self._level_bytes = begin, shadow, level_bytes
        self._cameras, self._gripper, self._to_twist = tuple(cameras), gripper, to_twist
        self._clock, self._simulated = WallClock(), SimulatedClock() if sim_time else None
        self.middleware: Middleware | None = None
        self._writers: dict[str, Writer] = {}
        self._looked = -np.inf
        self._mismatches: list[str] = []

    def connect(self, events: Events) -> None:
        middleware = self._begin(lambda topic, why: self.faults.note(topic, why, self.now()))
        self.middleware = middleware
        self._clock = WallClock()
        if self._simulated is not None:
            middleware.listen("/clock", "rosgraph_msgs/Clock", SENSOR, self._simulated.hear)
        wanted = topics.monitoring(self.topics) + ([] if self._shadow else topics.commanding(self.topics))
        for one in wanted:
            self._writers[one.topic] = middleware.advertise(one.topic, one.kind, one.qos)
        for found in topics.subscriptions(
            self.topics, self._cameras, events, self.now, self._taken, self.faults
        ):
            middleware.listen(found.topic, found.kind, found.qos, found.take)
        middleware.start()
        if self._simulated is not None and not self._simulated.wait(5.0):
            self.close()
            raise TransportError("time is to be /clock's, and nobody publishes it: start the simulator")

    def now(self) -> float:
        return self._simulated.now if self._simulated else self._clock.now()

    def _taken(self, stamp: float) -> float:
        return stamp if self._simulated else self._clock.taken(stamp)

    def _stamp(self) -> float:
        return self.now() if self._simulated else self._clock.stamp(self._clock.now())

    def sleep_until(self, when: float) -> None:
        if self._simulated is None:
            self._clock.sleep_until(when)
        else:
            self._simulated.sleep_until(when)

    def send(self, command: Command) -> None:
        if self._shadow or self.middleware is None:
            return
        for topic, message in topics.command_messages(
            self.topics, command, self.middleware.make, self._stamp(), self._gripper, self._to_twist
        ):
            self._publish(topic, message)

    def publish_chunk(self, names: tuple[str, ...], actions: NDArray[np.float32]) -> None:
        if self.topics.chunk and self.middleware is not None:
            self._publish(self.topics.chunk, ros_messages.chunk(self.middleware.make, names, actions))

    def diagnose(self, tick: Tick, figures: Mapping[str, float]) -> None:
        if not self.topics.diagnostics or self.middleware is None:
            return
        now = self.now()
        if now - self._looked >= _LOOK_EVERY_S:
            self._looked, self._mismatches = now, self.middleware.mismatches()
        for words in self._mismatches:
            self.faults.last = (now, words)
        message = topics.diagnostics(
            self.topics, self.middleware.make, tick, {**figures, "mismatches": float(len(self._mismatches))},
            self.faults, self._stamp(), level_bytes=self._level_bytes,
        )  # fmt: skip
        self._publish(self.topics.diagnostics, message)

    def mismatches(self) -> list[str]:
        """Topics that are there and yet not heard, in words; for preflight."""
        return self.middleware.mismatches() if self.middleware is not None else []

    def _publish(self, topic: str, message: Any) -> None:
        try:
            self._writers[topic].publish(message)
        except TransportError as error:
            self.faults.note(topic, str(error), self.now())

    def close(self) -> None:
        if self._simulated is not None:
            self._simulated.stop()
        if self.middleware is not None:
            self.middleware.close()
        self.middleware, self._writers = None, {}
