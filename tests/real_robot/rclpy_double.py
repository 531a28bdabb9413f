"""A stand-in for rclpy: its calls, its strictness about fields, and real messages over DDS to real peers.

It has what `real_robot/transports/ros2.py` uses and nothing else, with the signatures of rclpy 3.3 (Humble)
cut to those used (`test_ros2.py` holds the list, and compares rclpy's own with it where there is one).
"""

from __future__ import annotations

import array
import queue
import sys
import types
from collections.abc import Callable
from enum import Enum
from typing import Any

import numpy as np

from regrip.real_robot.dds import DdsConfig, Participant, topic_name
from regrip.real_robot.ros2_types import Types
from regrip.real_robot.topics import Qos

PACKAGES = ("builtin_interfaces", "std_msgs", "sensor_msgs", "trajectory_msgs", "geometry_msgs",
            "diagnostic_msgs", "rosgraph_msgs")  # fmt: skip
_TYPES = Types()
_FLOATS, _WHOLE = (
    ("float32", "float64"),
    ("int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"),
)
_CODES = {"uint8": "B", "int8": "b", "float64": "d", "float32": "f", "int32": "i", "uint32": "I"}


def _checked(kind: str, name: str, about: Any, value: Any) -> Any:
    """A field's value as rclpy keeps it; AssertionError where rclpy's setters have one."""
    form, inner = about[0].name, about[1]
    where = f"{kind}.{name} given {type(value).__name__}"
    if form == "BASE":
        base = inner[0]
        if base == "byte":  # DiagnosticStatus.level
            assert isinstance(value, bytes), f"{where}, expected bytes"
        elif base == "bool":
            assert isinstance(value, bool), f"{where}, expected bool"
        elif base == "string":
            assert isinstance(value, str), f"{where}, expected str"
        elif base in _FLOATS:
            assert isinstance(value, float), f"{where}, expected float"
        else:
            assert type(value) is int, f"{where}, expected int"
        return value
    if form == "NAME":
        package, _, kind_of = inner.split("/")
        assert type(value).__name__ == kind_of, f"{where}, expected {package}/{kind_of}"
        return value
    element = inner[0]
    if element[0].name == "BASE" and element[1][0] in _CODES:
        code = _CODES[element[1][0]]
        if isinstance(value, array.array):
            assert value.typecode == code, f"{where} of {value.typecode}, expected {code}"
            return value
        assert isinstance(value, list | tuple), f"{where}, expected array.array or list"
        kinds = float if element[1][0] in _FLOATS else int
        assert all(isinstance(one, kinds) for one in value), f"{where} of others than {kinds.__name__}"
        return array.array(code, value)
    assert isinstance(value, list | tuple), f"{where}, expected list"
    return [_checked(kind, name, element, one) for one in value]


_EMPTY = {"byte": b"\0", "bool": False, "string": ""} | dict.fromkeys(_FLOATS, 0.0) | dict.fromkeys(_WHOLE, 0)


def _empty(about: Any) -> Any:
    form, inner = about[0].name, about[1]
    if form == "BASE":
        return _EMPTY[inner[0]]
    if form == "NAME":
        package, _, name = inner.split("/")
        return message_class(f"{package}/{name}")()
    return [_empty(inner[0]) for _ in range(inner[1] if form == "ARRAY" else 0)]


_classes: dict[str, type] = {}


def message_class(kind: str) -> type:
    """A class like the ones rosidl generates."""
    if kind in _classes:
        return _classes[kind]
    fields = dict(_TYPES.fields(kind))

    def __init__(self: Any, **values: Any) -> None:  # noqa: N807
        assert set(values) <= set(fields), (
            f"Invalid arguments passed to constructor: {set(values) - set(fields)}"
        )
        for name, about in fields.items():
            setattr(self, name, values[name] if name in values else _empty(about))

    def __setattr__(self: Any, name: str, value: Any) -> None:  # noqa: N807
        object.__setattr__(self, name, _checked(kind, name, fields[name], value))

    _classes[kind] = type(
        kind.split("/")[1], (), {"kind": kind, "__init__": __init__, "__setattr__": __setattr__}
    )
    return _classes[kind]


def _to_wire(message: Any) -> Any:
    def convert(value: Any) -> Any:
        if hasattr(value, "kind"):
            return _to_wire(value)
        if isinstance(value, list):
            return [convert(one) for one in value]
        return value[0] if isinstance(value, bytes) else value

    fields = {name: convert(getattr(message, name)) for name, _ in _TYPES.fields(message.kind)}
    return _TYPES.make(message.kind, **fields)


def _from_wire(kind: str, wire: Any) -> Any:
    def convert(about: Any, value: Any) -> Any:
        form, inner = about[0].name, about[1]
        if form == "NAME":
            package, _, name = inner.split("/")
            return _from_wire(f"{package}/{name}", value)
        if form == "BASE":
            return bytes([value]) if inner[0] == "byte" else value
        if isinstance(value, np.ndarray):
            return array.array(_CODES[inner[0][1][0]], value.tobytes())
        return [convert(inner[0], one) for one in value]

    return message_class(kind)(
        **{name: convert(about, getattr(wire, name)) for name, about in _TYPES.fields(kind)}
    )


# rclpy -------------------------------------------------------------------------------------------------

CONFIG = DdsConfig(loopback_only=True)


class Context:
    def __init__(self) -> None:
        self.up = False


class SignalHandlerOptions(Enum):
    NO = 0
    ALL = 3


class ReliabilityPolicy(Enum):
    RELIABLE = 1
    BEST_EFFORT = 2


class DurabilityPolicy(Enum):
    VOLATILE = 2


class HistoryPolicy(Enum):
    KEEP_LAST = 1


class QoSCompatibility(Enum):
    OK = 0
    WARNING = 1
    ERROR = 2


class QoSProfile:
    def __init__(self, *, history: Any, depth: int, reliability: Any, durability: Any) -> None:
        assert history is HistoryPolicy.KEEP_LAST
        assert durability is DurabilityPolicy.VOLATILE
        self.depth, self.reliability = depth, reliability


def qos_check_compatible(
    publisher_qos: QoSProfile, subscription_qos: QoSProfile
) -> tuple[QoSCompatibility, str]:
    wants = subscription_qos.reliability is ReliabilityPolicy.RELIABLE
    if wants and publisher_qos.reliability is ReliabilityPolicy.BEST_EFFORT:
        return QoSCompatibility.ERROR, "ERROR: Best effort publisher and reliable subscription;"
    return QoSCompatibility.OK, ""


def init(*, context: Context, signal_handler_options: SignalHandlerOptions) -> None:
    assert not context.up, "Context.init() must only be called once"
    context.up = True


def shutdown(*, context: Context) -> None:
    assert context.up, "failed to shutdown: rcl_shutdown already called on the given context"
    context.up = False


class Publisher:
    def __init__(self, kind: str, writer: Any) -> None:
        self._kind, self._writer = kind, writer

    def publish(self, msg: Any) -> None:
        assert msg.kind == self._kind, f"Expected {self._kind}, got {msg.kind}"
        self._writer.publish(_to_wire(msg))


class Node:
    def __init__(self, node_name: str, context: Context) -> None:
        assert context.up, "rclpy.init() has not been called"
        self.participant = Participant(node_name, CONFIG)
        self.ready: queue.Queue[tuple[Callable[[Any], None], Any]] = queue.Queue()
        self.participant.start()

    def create_publisher(self, msg_type: Any, topic: str, qos_profile: QoSProfile) -> Publisher:
        return Publisher(msg_type.kind, self.participant.advertise(topic, msg_type.kind, _qos(qos_profile)))

    def create_subscription(
        self, msg_type: Any, topic: str, callback: Callable[[Any], None], qos_profile: QoSProfile
    ) -> object:
        def take(wire: Any) -> None:
            self.ready.put((callback, _from_wire(msg_type.kind, wire)))

        return self.participant.listen(topic, msg_type.kind, _qos(qos_profile), take)

    def get_publishers_info_by_topic(self, topic_name: str) -> list[Any]:
        return self._infos(topic_name, 0)

    def get_subscriptions_info_by_topic(self, topic_name: str) -> list[Any]:
        return self._infos(topic_name, 1)

    def _infos(self, topic: str, which: int) -> list[Any]:
        found = []
        for endpoint in self.participant._discovered[which].read(N=4096):
            if endpoint.topic_name == topic_name(topic) and endpoint.sample_info.instance_state == 16:
                package, name = endpoint.type_name.removesuffix("_").split("::msg::dds_::")
                reliable = any("Reliable" in str(policy) for policy in endpoint.qos)
                profile = QoSProfile(
                    history=HistoryPolicy.KEEP_LAST, depth=1, durability=DurabilityPolicy.VOLATILE,
                    reliability=ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT,
                )  # fmt: skip
                info = types.SimpleNamespace(topic_type=f"{package}/msg/{name}", qos_profile=profile)
                found.append(info)
        return found

    def destroy_node(self) -> None:
        self.participant.close()


def _qos(profile: QoSProfile) -> Qos:
    return Qos(profile.reliability is ReliabilityPolicy.RELIABLE, profile.depth)


def create_node(node_name: str, *, context: Context) -> Node:
    return Node(node_name, context)


class SingleThreadedExecutor:
    def __init__(self, *, context: Context) -> None:
        assert context.up
        self._nodes: list[Node] = []

    def add_node(self, node: Node) -> bool:
        self._nodes.append(node)
        return True

    def spin_once(self, timeout_sec: float) -> None:
        try:
            callback, message = self._nodes[0].ready.get(timeout=timeout_sec)
        except queue.Empty:
            return
        callback(message)

    def shutdown(self, timeout_sec: float) -> bool:
        self._nodes = []
        return True


def install(monkeypatch: Any) -> None:
    """Put the double where rclpy would be, and message packages where ROS's would be."""

    def module(name: str, **contents: Any) -> None:
        found = types.ModuleType(name)
        found.__dict__.update(contents)
        monkeypatch.setitem(sys.modules, name, found)

    module("rclpy", init=init, shutdown=shutdown, create_node=create_node)
    module("rclpy.context", Context=Context)
    module("rclpy.executors", SingleThreadedExecutor=SingleThreadedExecutor)
    module("rclpy.signals", SignalHandlerOptions=SignalHandlerOptions)
    module("rclpy.node", Node=Node)
    module(
        "rclpy.qos", QoSProfile=QoSProfile, ReliabilityPolicy=ReliabilityPolicy, HistoryPolicy=HistoryPolicy,
        DurabilityPolicy=DurabilityPolicy, QoSCompatibility=QoSCompatibility,
        qos_check_compatible=qos_check_compatible,
    )  # fmt: skip
    for package in PACKAGES:
        known = [name for name in _TYPES.store.types if name.startswith(f"{package}/msg/")]
        module(
            f"{package}.msg",
            **{full.split("/")[2]: message_class(f"{package}/{full.split('/')[2]}") for full in known},
        )
        module(package)
