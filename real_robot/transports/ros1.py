"""ROS 1, by rospy: Debian's packages, or a sourced ROS."""

from __future__ import annotations

import importlib
import sys
import threading
import time
import xmlrpc.client
from collections.abc import Collection, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import ros_messages, topics
from ..messages import Command, Events, Tick, TransportError
from ..topics import Faults, Topics, ToTwist
from .wall_clock import WallClock

DEBIAN = "/usr/lib/python3/dist-packages"
IMAGE_BUFFER = 1 << 24  # less than an image, and rospy's queue of one lags behind


def import_rospy() -> Any:
    """The package rospy, wherever it is.

    Debian's folder is appended to the path: put first, its numpy would take the place of ours.

    Raises:
        TransportError: it is nowhere.
    """
    try:
        return importlib.import_module("rospy")
    except ImportError:
        pass
    if Path(DEBIAN, "rospy").is_dir() and DEBIAN not in sys.path:
        sys.path.append(DEBIAN)
    try:
        return importlib.import_module("rospy")
    except ImportError as error:
        raise TransportError(
            f"ROS 1 needs rospy ({error}): on Debian run `make ros1`, elsewhere source your ROS's setup.bash"
        ) from error


@cache
def _class(kind: str) -> Any:
    package, name = kind.split("/")
    try:
        return getattr(importlib.import_module(f"{package}.msg"), name)
    except (ImportError, AttributeError) as error:
        raise TransportError(
            f"rospy has no message {kind} ({error}): on Debian run `make ros1`, elsewhere install "
            f"ros-noetic-{package.replace('_', '-')}"
        ) from error


def make(kind: str, **fields: Any) -> Any:
    """A rospy message (`ros_messages.Make`)."""
    if kind == "builtin_interfaces/Time":
        return importlib.import_module("rospy").Time(fields["sec"], fields["nanosec"])
    if kind == "builtin_interfaces/Duration":
        return importlib.import_module("rospy").Duration(fields["sec"], fields["nanosec"])
    return _class(kind)(**fields)


class _Timed(xmlrpc.client.Transport):
    def make_connection(self, host: Any) -> Any:
        connection = super().make_connection(host)
        connection.timeout = 3.0
        return connection


def _ask_master(uri: str, method: str, *arguments: str) -> Any:
    """What the master says.

    Raises:
        TransportError: it does not answer, or says no.
    """
    try:
        proxy = xmlrpc.client.ServerProxy(uri, transport=_Timed())
        code, said, value = getattr(proxy, method)("/regrip_asks", *arguments)
    except (TimeoutError, OSError, xmlrpc.client.Error, ValueError, TypeError) as error:
        raise TransportError(
            f"no ROS master answers at {uri} ({error}): start roscore, or set ROS_MASTER_URI"
        ) from error
    if code != 1:
        raise TransportError(f"the ROS master at {uri} refused {method}: {said}")
    return value


class Ros1:
    """A transport. One per process: rospy has one node.

    Args:
        described: names and types.
        cameras: that the policy looks at.
        joints: of the arm, as commands name them.
        gripper: the name of the gripper's joint in commands; ``""`` for none.
        shadow: commands are not sent: no publisher for them is ever made.
        to_twist: for TwistStamped commands: the tool's velocity (6,).

    Raises:
        TransportError: the topics do not serve the policy.
    """

    name = "ros1"

    def __init__(
        self,
        described: Topics,
        cameras: Collection[str],
        joints: Collection[str],
        gripper: str = "",
        *,
        shadow: bool = False,
        to_twist: ToTwist | None = None,
    ) -> None:
        described.check(cameras, joints, gripper)
        if described.command_type == "twist" and to_twist is None:
            raise TransportError("commands as twists need the arm's kinematics (to_twist)")
        self.topics, self.faults, self._shadow = described, Faults(), shadow
        self._cameras, self._gripper, self._to_twist = tuple(cameras), gripper, to_twist
        self._clock = WallClock()
        self._rospy: Any = None
        self._simulated = False
        self._subscribers: list[Any] = []
        self._publishers: dict[str, Any] = {}
        self._closed = threading.Event()

    def connect(self, events: Events) -> None:
        rospy = import_rospy()
        uri = importlib.import_module("rosgraph").get_master_uri()
        _ask_master(uri, "getPid")
        subscriptions = topics.subscriptions(
            self.topics, self._cameras, events, self.now, self._taken, self.faults
        )
        # The master remembers types of topics that are long gone; nobody minds those.
        publishers, subscribers, _ = _ask_master(uri, "getSystemState")
        live = {topic for topic, _ in (*publishers, *subscribers)}
        types = {str(name): kind for name, kind in _ask_master(uri, "getTopicTypes") if name in live}
        _check_types(types, subscriptions, topics.commanding(self.topics))
        if not rospy.core.is_initialized():
            # Signals stay ours: the arm is brought to rest before the node goes.
            rospy.init_node(self.topics.node, argv=[], disable_signals=True)
        self._clock = WallClock()
        self._simulated = not rospy.rostime.is_wallclock()
        self._rospy = rospy
        if self._simulated:
            self._await_clock()
        wanted = topics.monitoring(self.topics) + ([] if self._shadow else topics.commanding(self.topics))
        for publication in wanted:
            self._publishers[publication.topic] = rospy.Publisher(
                publication.topic,
                _class(publication.kind),
                queue_size=publication.qos.depth,
                tcp_nodelay=True,
            )
        for subscription in subscriptions:
            self._subscribers.append(
                rospy.Subscriber(
                    subscription.topic,
                    _class(subscription.kind),
                    subscription.take,
                    queue_size=subscription.qos.depth,
                    buff_size=IMAGE_BUFFER,
                    tcp_nodelay=True,
                )
            )

    def _await_clock(self) -> None:
        end = time.monotonic() + 5.0
        while self._rospy.get_time() == 0.0:
            if time.monotonic() > end:
                raise TransportError(
                    "/use_sim_time is set and nobody publishes /clock: start the simulator, or "
                    "`rosparam set use_sim_time false`"
                )
            time.sleep(0.02)

    def now(self) -> float:
        return float(self._rospy.get_time()) if self._simulated else self._clock.now()

    def _taken(self, stamp: float) -> float:
        return stamp if self._simulated else self._clock.taken(stamp)

    def _stamp(self) -> float:
        now = self.now()
        return now if self._simulated else self._clock.stamp(now)

    def sleep_until(self, when: float) -> None:
        if not self._simulated:
            self._clock.sleep_until(when)
            return
        condition = self._rospy.rostime.get_rostime_cond()
        began = self.now()
        with condition:
            while not self._closed.is_set() and not self._rospy.is_shutdown():
                now = self.now()
                if now > when - 1e-6:
                    return
                if now < began:  # simulated time began anew: the core will say so
                    condition.wait(0.05)
                    return
                condition.wait(0.2)

    def send(self, command: Command) -> None:
        if self._shadow:
            return
        for topic, message in topics.command_messages(
            self.topics, command, make, self._stamp(), self._gripper, self._to_twist
        ):
            self._publish(topic, message)

    def publish_chunk(self, names: tuple[str, ...], actions: NDArray[np.float32]) -> None:
        if self.topics.chunk:
            self._publish(self.topics.chunk, ros_messages.chunk(make, names, actions))

    def diagnose(self, tick: Tick, figures: Mapping[str, float]) -> None:
        if not self.topics.diagnostics:
            return
        message = topics.diagnostics(self.topics, make, tick, figures, self.faults, self._stamp())
        self._publish(self.topics.diagnostics, message)

    def _publish(self, topic: str, message: Any) -> None:
        try:
            self._publishers[topic].publish(message)
        except self._rospy.ROSException as error:  # shut down: another node has taken the name
            self.faults.note(topic, str(error), self.now())

    def close(self) -> None:
        """Unsubscribe and unadvertise. The node itself ends with the process: rospy cannot begin a second."""
        self._closed.set()
        for subscriber in self._subscribers:
            subscriber.unregister()
        for publisher in self._publishers.values():
            publisher.unregister()
        self._subscribers, self._publishers = [], {}


def _check_types(
    types: Mapping[str, str],
    subscriptions: Collection[topics.Subscription],
    publications: Collection[topics.Publication],
) -> None:
    """That nobody uses our topics for another type: rospy would only log it.

    Raises:
        TransportError: somebody does.
    """
    ours = {found.topic: found.kind for found in subscriptions}
    ours |= {found.topic: found.kind for found in publications}
    for topic, kind in ours.items():
        theirs = types.get(topic, "*")
        if theirs not in ("*", kind):
            raise TransportError(
                f"{topic} carries {theirs}, and the node takes it for {kind}: "
                "change its type or its name in topics"
            )
