"""rosbridge v2 (JSON over a websocket), by roslibpy: ROS 1 or 2, neither of them installed here.

A way for robots that offer nothing else, and for trying things: each message is text, so take compressed
cameras. It comes back by itself when the connection does; what could not be sent meanwhile is not sent late.
"""

from __future__ import annotations

import importlib
import threading
from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import ros_messages, topics
from ..messages import Command, Events, Tick, TransportError
from ..topics import Faults, Topics, ToTwist
from .simulated_clock import SimulatedClock
from .wall_clock import WallClock

CONNECT_S = 10.0
RETRY_S = 1.0
SILENT_S = 2.0  # a peer that does not answer pings for so long is taken to be gone
TOO_OLD_S = 0.1  # commands


def make_json(generation: int) -> ros_messages.Make:
    """Messages as JSON, for ROS `generation` 1 or 2."""

    def make(kind: str, **fields: Any) -> Any:
        if kind in ("builtin_interfaces/Time", "builtin_interfaces/Duration") and generation == 1:
            return {"secs": fields["sec"], "nsecs": fields["nanosec"]}
        return fields

    return make


def generation_of(message: Any) -> int:
    """1 or 2: which ROS wrote a message with a header (after `from_json`); 0 if it has none."""
    stamp = getattr(getattr(message, "header", None), "stamp", None)
    if hasattr(stamp, "nanosec"):
        return 2
    return 1 if hasattr(stamp, "nsecs") else 0


class RosBridge:
    """A transport. The first joint state says which ROS is behind the bridge; nothing is sent before.

    Args:
        described: names and types.
        cameras: that the policy looks at.
        joints: of the arm, as commands name them.
        gripper: the name of the gripper's joint in commands; ``""`` for none.
        shadow: commands are not sent: they are never advertised.
        to_twist: for TwistStamped commands: the tool's velocity (6,).
        host: of the rosbridge server, whose clock must agree with this machine's.
        port: its.
        secure: wss.
        token: sent as ``Authorization: Bearer``, for a server behind a proxy that asks; rosbridge itself has
            no such thing.
        sim_time: time is what /clock says.

    Raises:
        TransportError: the topics do not serve the policy.
    """

    name = "rosbridge"

    def __init__(
        self,
        described: Topics,
        cameras: Collection[str],
        joints: Collection[str],
        gripper: str = "",
        *,
        shadow: bool = False,
        to_twist: ToTwist | None = None,
        host: str = "127.0.0.1",
        port: int = 9090,
        secure: bool = False,
        token: str = "",
        sim_time: bool = False,
    ) -> None:
        described.check(cameras, joints, gripper)
        if described.command_type == "twist" and to_twist is None:
            raise TransportError("commands as twists need the arm's kinematics (to_twist)")
        self.topics, self.faults, self._shadow = described, Faults(), shadow
        self._cameras, self._gripper, self._to_twist = tuple(cameras), gripper, to_twist
        self._host, self._port, self._secure, self._token = host, port, secure, token
        self._clock, self._simulated = WallClock(), SimulatedClock() if sim_time else None
        self._ros: Any = None
        self._generation = 0
        self._subscribed: list[Any] = []
        self._advertised: list[Any] = []

    def connect(self, events: Events) -> None:
        try:
            roslibpy = importlib.import_module("roslibpy")
        except ImportError as error:
            raise TransportError(f"rosbridge needs roslibpy ({error}): pip install 'regrip[ros]'") from error
        self._clock = WallClock()
        where = f"{'wss' if self._secure else 'ws'}://{self._host}:{self._port}"
        headers = {"Authorization": f"Bearer {self._token}"} if self._token else None
        self._ros = roslibpy.Ros(self._host, self._port, is_secure=self._secure, headers=headers)
        self._ros.factory.maxDelay = RETRY_S
        if hasattr(self._ros.factory, "setProtocolOptions"):
            self._ros.factory.setProtocolOptions(autoPingInterval=SILENT_S / 2, autoPingTimeout=SILENT_S)
        try:
            self._ros.run(timeout=CONNECT_S)
        except roslibpy.core.RosTimeoutError as error:
            self._give_up()
            raise TransportError(
                f"no rosbridge server answers at {where} for {CONNECT_S:.0f} s: start "
                "`roslaunch rosbridge_server rosbridge_websocket.launch`, or give its host and port"
                + ("" if self._token else "; does it ask for a token?")
            ) from error
        if self._simulated is not None:
            self._follow(roslibpy, self._simulated)
        wanted = topics.monitoring(self.topics) + ([] if self._shadow else topics.commanding(self.topics))
        for publication in wanted:
            topic = roslibpy.Topic(
                self._ros, publication.topic, publication.kind, queue_size=publication.qos.depth
            )
            topic.advertise()
            self._advertised.append(topic)
        for found in topics.subscriptions(
            self.topics, self._cameras, events, self.now, self._taken, self.faults
        ):
            topic = roslibpy.Topic(self._ros, found.topic, found.kind, queue_length=found.qos.depth)
            topic.subscribe(self._taker(found))
            self._subscribed.append(topic)

    def _taker(self, found: topics.Subscription) -> Callable[[Any], None]:
        def take(message: Any) -> None:
            said = ros_messages.from_json(message)
            if not self._generation:
                self._generation = generation_of(said)
            found.take(said)

        return take

    def _follow(self, roslibpy: Any, clock: SimulatedClock) -> None:
        topic = roslibpy.Topic(self._ros, "/clock", "rosgraph_msgs/Clock", queue_length=1)
        topic.subscribe(lambda message: clock.hear(ros_messages.from_json(message)))
        self._subscribed.append(topic)
        if not clock.wait(CONNECT_S):
            self.close()
            raise TransportError("time is to be /clock's, and nobody publishes it: start the simulator")

    def now(self) -> float:
        return self._simulated.now if self._simulated else self._clock.now()

    def _taken(self, stamp: float) -> float:
        return stamp if self._simulated else self._clock.taken(stamp)

    def sleep_until(self, when: float) -> None:
        (self._simulated or self._clock).sleep_until(when)

    def send(self, command: Command) -> None:
        if self._shadow or not self._generation:
            return
        for topic, message in topics.command_messages(
            self.topics, command, make_json(self._generation), self._stamp(), self._gripper, self._to_twist
        ):
            self._publish(topic, message)

    def publish_chunk(self, names: tuple[str, ...], actions: NDArray[np.float32]) -> None:
        if self.topics.chunk and self._generation:
            self._publish(self.topics.chunk, ros_messages.chunk(make_json(self._generation), names, actions))

    def diagnose(self, tick: Tick, figures: Mapping[str, float]) -> None:
        if self.topics.diagnostics and self._generation:
            make = make_json(self._generation)
            said = topics.diagnostics(self.topics, make, tick, figures, self.faults, self._stamp())
            self._publish(self.topics.diagnostics, said)

    def _stamp(self) -> float:
        return self.now() if self._simulated else self._clock.stamp(self.now())

    def _publish(self, topic: str, message: Any) -> None:
        """Send now or never: roslibpy would keep it until the connection is back, and the arm would jump."""
        if not self._ros.is_connected:
            self.faults.note(topic, "not sent: no connection to the rosbridge server", self.now())
            return
        made = self.now()

        def send(proto: Any) -> None:
            if self.now() - made < TOO_OLD_S:
                proto.send_ros_message({"op": "publish", "topic": topic, "msg": message})

        self._ros.factory.on_ready(send)

    def close(self) -> None:
        """Disconnect for good. The reactor's thread stays: it cannot be begun twice in a process."""
        if self._simulated is not None:
            self._simulated.stop()
        if self._ros is None:
            return
        for topic in self._subscribed:
            topic.unsubscribe()
        for topic in self._advertised:
            topic.unadvertise()
        self._subscribed, self._advertised = [], []
        self._give_up()

    def _give_up(self) -> None:
        closed = threading.Event()
        self._ros.factory.stopTrying()
        if self._ros.is_connected:
            self._ros.on("close", lambda _: closed.set())
            self._ros.close()
            closed.wait(2.0)
