"""ROS 2 by rclpy, where a ROS 2 is sourced.

What is tested: this module's code runs the whole safety scenario over a stand-in for rclpy that has rclpy's
signatures and its strictness about field types, and carries real messages over DDS to a robot in another
process. rclpy itself is on no package index, and this code has not run over it; where ``import rclpy`` works,
the tests play the same scenario over it. Until that has been done with your distro, take this adapter for
untried on it.
"""

from __future__ import annotations

import array
import importlib
import threading
from collections.abc import Callable, Collection
from typing import Any

from ..messages import TransportError
from ..topics import Qos, Topics, ToTwist
from .over_ros2 import OverRos2


def _import(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise TransportError(
            f"ROS 2 needs {module} ({error}): source your ROS's setup.bash with the Python it was built for, "
            "or take the transport dds, which needs no ROS"
        ) from error


def _class(kind: str) -> Any:
    package, name = kind.split("/")
    try:
        return getattr(_import(f"{package}.msg"), name)
    except AttributeError as error:
        raise TransportError(f"the package {package} has no message {name}: {error}") from error


def make(kind: str, **fields: Any) -> Any:
    """An rclpy message (`ros_messages.Make`). Bytes as an array: rclpy checks lists number by number."""
    given = {
        name: array.array("B", value) if isinstance(value, bytes) and name == "data" else value
        for name, value in fields.items()
    }
    return _class(kind)(**given)


class RclpyNode:
    """A node in a context of its own, and its executor in a thread (`over_ros2.Middleware`)."""

    def __init__(self, name: str) -> None:
        rclpy, self._qos = _import("rclpy"), _import("rclpy.qos")
        executors, signals = _import("rclpy.executors"), _import("rclpy.signals")
        self._context = _import("rclpy.context").Context()
        # Signals stay ours: the arm is brought to rest before the node goes.
        rclpy.init(context=self._context, signal_handler_options=signals.SignalHandlerOptions.NO)
        self.make = make
        self._node = rclpy.create_node(name, context=self._context)
        self._executor = executors.SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self._node)
        self._listening: list[tuple[str, str, Any]] = []
        self._publishing: list[tuple[str, str, Any]] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._spin, name="rclpy", daemon=True)

    def _profile(self, qos: Qos) -> Any:
        kinds, known = self._qos.ReliabilityPolicy, self._qos
        return known.QoSProfile(
            reliability=kinds.RELIABLE if qos.reliable else kinds.BEST_EFFORT,
            durability=known.DurabilityPolicy.VOLATILE,
            history=known.HistoryPolicy.KEEP_LAST,
            depth=qos.depth,
        )

    def listen(self, topic: str, kind: str, qos: Qos, take: Callable[[Any], None]) -> object:
        profile = self._profile(qos)
        self._listening.append((topic, kind, profile))
        return self._node.create_subscription(_class(kind), topic, take, profile)

    def advertise(self, topic: str, kind: str, qos: Qos) -> Any:
        profile = self._profile(qos)
        self._publishing.append((topic, kind, profile))
        return self._node.create_publisher(_class(kind), topic, profile)

    def start(self) -> None:
        self._thread.start()

    def _spin(self) -> None:
        while not self._over.is_set():
            self._executor.spin_once(timeout_sec=0.1)

    def mismatches(self) -> list[str]:
        """Topics that are there and yet not heard: of another type, or quality of service."""
        found = []
        for topic, kind, ours in self._listening:
            theirs = self._node.get_publishers_info_by_topic(topic)
            pairs = [(their.qos_profile, ours) for their in theirs]
            found += self._mismatch(topic, kind, theirs, pairs, "published")
        for topic, kind, ours in self._publishing:
            theirs = self._node.get_subscriptions_info_by_topic(topic)
            pairs = [(ours, their.qos_profile) for their in theirs]
            found += self._mismatch(topic, kind, theirs, pairs, "subscribed to")
        return found

    def _mismatch(
        self, topic: str, kind: str, theirs: Collection[Any], pairs: list[tuple[Any, Any]], done: str
    ) -> list[str]:
        """Of a publisher's and a subscription's quality of service, each pair as they would meet."""
        package, name = kind.split("/")
        others = {one.topic_type for one in theirs} - {f"{package}/msg/{name}"}
        if others:
            return [f"{topic} is {done} as {', '.join(sorted(others))}, and the node has it as {kind}"]
        found = []
        for publisher, subscription in pairs:
            fits, why = self._qos.qos_check_compatible(publisher, subscription)
            if fits != self._qos.QoSCompatibility.ERROR:
                return []
            found.append(f"{topic} is {done} with another quality of service than the node's: {why}")
        return found[:1]

    def close(self) -> None:
        self._over.set()
        if self._thread.is_alive():
            self._thread.join(timeout=2.0)
        self._executor.shutdown(timeout_sec=1.0)
        self._node.destroy_node()
        _import("rclpy").shutdown(context=self._context)


def ros2_transport(
    described: Topics,
    cameras: Collection[str],
    joints: Collection[str],
    gripper: str = "",
    *,
    shadow: bool = False,
    to_twist: ToTwist | None = None,
    sim_time: bool = False,
) -> OverRos2:
    """A transport (arguments as of `OverRos2`).

    Raises:
        TransportError: the topics do not serve the policy.
    """
    return OverRos2(
        "ros2",
        lambda fault: RclpyNode(described.node),
        described,
        cameras,
        joints,
        gripper,
        shadow=shadow,
        to_twist=to_twist,
        sim_time=sim_time,
        level_bytes=True,
    )
