"""Which topic is what, for every transport that speaks ROS; and what to do with a message of each.

One typed description, checked when it is made and again against the policy, before anything is connected.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from . import ros_messages
from .messages import Command, Events, Tick, TransportError
from .ros_messages import Make

# Of a name that is resolved already: "/" or "~/", then words.
_NAME = re.compile(r"[~/]?[A-Za-z]\w*(/[A-Za-z_]\w*)*|~/[A-Za-z]\w*(/[A-Za-z_]\w*)*", re.ASCII)


@dataclass(frozen=True)
class CameraTopic:
    """Where a camera's pictures come.

    Attributes:
        topic: of sensor_msgs/Image, or of sensor_msgs/CompressedImage if `compressed`.
        compressed: JPEG or PNG; recorded as it comes, and a fraction of the traffic.
    """

    topic: str
    compressed: bool = False


@dataclass(frozen=True)
class Qos:
    """What ROS 2 wants to know (always volatile). ROS 1 has the depth alone, its `queue_size`."""

    reliable: bool
    depth: int


# Best effort hears reliable publishers, too; a reliable subscription hears no best-effort camera.
SENSOR = Qos(reliable=False, depth=1)
CONTROL = Qos(reliable=True, depth=10)
COMMAND = Qos(reliable=True, depth=1)
MONITOR = Qos(reliable=True, depth=10)

COMMAND_KINDS = {
    "trajectory": "trajectory_msgs/JointTrajectory",
    "array": "std_msgs/Float64MultiArray",
    "twist": "geometry_msgs/TwistStamped",
}


@dataclass(frozen=True)
class Topics:
    """Names, types and frames. An empty name: there is no such topic.

    Attributes:
        cameras: the policy's name of each camera, and where it comes.
        joint_states: sensor_msgs/JointState.
        enable: std_msgs/Bool, like `estop`, `deadman`, `takeover`, `outcome` and `keep`.
        estop: true latches, false releases.
        deadman: true again and again while it is pressed.
        takeover: true: a person drives; false: they hand back.
        human: sensor_msgs/JointState of the leader.
        task: std_msgs/String.
        outcome: how the episode ended.
        keep: true: keep what happened just now (`regrip node --keep`).
        command: where commands go.
        command_type: ``trajectory`` (JointTrajectory, for a JointTrajectoryController; every row of a tick),
            ``array`` (Float64MultiArray, for a forward_command_controller; the last row of a tick, for it
            follows no path and never times out) or ``twist`` (TwistStamped, for MoveIt Servo).
        joint_order: of an ``array``, as the controller was configured; names of joints.
        frame_id: of the command's header: of a twist, the frame that it is given in.
        gripper: where the gripper's joint goes instead of `command`.
        gripper_type: ``trajectory`` or ``array`` (of one number).
        chunk: Float64MultiArray of the policy's raw chunks, for looking at.
        diagnostics: diagnostic_msgs/DiagnosticArray.
        node: the node's name.

    Raises:
        ValueError: a name is no ROS name, is used twice, or a setting lacks what it needs.
    """

    cameras: dict[str, CameraTopic] = field(default_factory=dict)
    joint_states: str = "/joint_states"
    enable: str = "/regrip/enable"
    estop: str = "/regrip/estop"
    deadman: str = "/regrip/deadman"
    takeover: str = "/regrip/takeover"
    human: str = "/regrip/human"
    task: str = "/regrip/task"
    outcome: str = "/regrip/outcome"
    keep: str = "/regrip/keep"
    command: str = "/arm_controller/joint_trajectory"
    command_type: Literal["trajectory", "array", "twist"] = "trajectory"
    joint_order: tuple[str, ...] = ()
    frame_id: str = ""
    gripper: str = ""
    gripper_type: Literal["trajectory", "array"] = "trajectory"
    chunk: str = "/regrip/chunk"
    diagnostics: str = "/diagnostics"
    node: str = "regrip"

    def __post_init__(self) -> None:
        seen: dict[str, str] = {}
        for what, name in self._named():
            if not name:
                continue
            if not _NAME.fullmatch(name):
                raise ValueError(
                    f"topics: {what} is {name!r}, which is no ROS name: letters, digits, _, parted by /"
                )
            if name in seen:
                raise ValueError(f"topics: {what} and {seen[name]} are both {name}; each needs its own")
            seen[name] = what
        for what in ("joint_states", "enable", "estop", "command"):
            if not getattr(self, what):
                raise ValueError(f"topics: {what} is empty, and the node cannot do without")
        if not re.fullmatch(r"[A-Za-z]\w*", self.node, re.ASCII):
            raise ValueError(f"topics: node is {self.node!r}, expected letters, digits and _")
        if self.command_type == "array" and not self.joint_order:
            raise ValueError(
                "topics: an array has no names in it: give joint_order, as the controller has it"
            )
        if self.command_type == "twist" and not self.frame_id:
            raise ValueError("topics: a twist needs frame_id, the frame it is given in (the arm's base)")

    def _named(self) -> list[tuple[str, str]]:
        plain = [
            "joint_states", "enable", "estop", "deadman", "takeover", "human", "task", "outcome", "keep",
            "command", "gripper", "chunk", "diagnostics",
        ]  # fmt: skip
        cameras = [(f"cameras.{name}", camera.topic) for name, camera in self.cameras.items()]
        return cameras + [(what, getattr(self, what)) for what in plain]

    def check(self, cameras: Collection[str], joints: Collection[str], gripper: str = "") -> None:
        """Whether this serves a policy.

        Args:
            cameras: that it looks at.
            joints: of the arm, as commands name them.
            gripper: the name of the gripper's joint in commands; ``""`` for none.

        Raises:
            TransportError: a camera has no topic, or commands cannot be written.
        """
        for name in cameras:
            if name not in self.cameras:
                near = difflib.get_close_matches(name, list(self.cameras), n=1)
                hint = f"; topics.cameras has {near[0]}" if near else ""
                raise TransportError(
                    f"the policy looks at the camera {name!r}, which has no topic{hint}. "
                    f"Give topics.cameras.{name}.topic"
                )
            if not self.cameras[name].topic:
                raise TransportError(f"topics.cameras.{name}.topic is empty, and the policy looks at it")
        if self.command_type == "array":
            wanted = {*joints} if self.gripper or not gripper else {*joints, gripper}
            if {*self.joint_order} != wanted or len(self.joint_order) != len(wanted):
                raise TransportError(
                    f"topics.joint_order is {', '.join(self.joint_order)}; commands have "
                    f"{', '.join(sorted(wanted))}"
                )
        if self.command_type == "twist" and gripper and not self.gripper:
            raise TransportError(f"a twist does not move {gripper!r}: give topics.gripper a topic of its own")


@dataclass(frozen=True)
class Subscription:
    """A topic to listen to, and what to do with each message. `take` never raises."""

    topic: str
    kind: str
    qos: Qos
    take: Callable[[Any], None]


class Faults:
    """Messages that could not be read: how many, and the last reason, for diagnostics."""

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}
        self.last: tuple[float, str] = (-np.inf, "")

    def note(self, topic: str, why: str, now: float) -> None:
        self.counts[topic] = self.counts.get(topic, 0) + 1
        self.last = (now, f"{topic}: {why}")

    def recent(self, now: float, within_s: float = 1.0) -> str:
        """The last one's reason, if it is recent."""
        return self.last[1] if now - self.last[0] <= within_s else ""


def subscriptions(
    topics: Topics,
    cameras: Collection[str],
    events: Events,
    now: Callable[[], float],
    taken: Callable[[float], float],
    faults: Faults,
) -> list[Subscription]:
    """What a transport has to subscribe to.

    Args:
        topics: names.
        cameras: those that the policy looks at; others are not subscribed to.
        events: where it all goes.
        now: the node's clock.
        taken: a header's stamp, seconds, on the node's clock.
        faults: takes note of messages that cannot be read.
    """

    def guarded(topic: str, take: Callable[[Any], None]) -> Callable[[Any], None]:
        def taker(message: Any) -> None:
            try:
                take(message)
            except (ValueError, TypeError, AttributeError, KeyError, IndexError, OverflowError) as error:
                faults.note(topic, str(error) or type(error).__name__, now())

        return taker

    def stamp(message: Any) -> float:
        return taken(ros_messages.seconds(message.header.stamp))

    def picture(name: str, compressed: bool) -> Callable[[Any], None]:
        def take(message: Any) -> None:
            received = now()
            frame = ros_messages.frame(
                name, message, compressed=compressed, stamp=stamp(message), received=received
            )
            events.on_frame(frame)

        return take

    def joints(message: Any) -> None:
        events.on_joints(ros_messages.joints(message, stamp=stamp(message), received=now()))

    def human(message: Any) -> None:
        events.on_human(ros_messages.joints(message, stamp=stamp(message), received=now()))

    def keep(on: bool, when: float) -> None:
        if on:
            events.on_keep(when)

    def flag(take: Callable[[bool, float], None]) -> Callable[[Any], None]:
        return lambda message: take(ros_messages.flag(message), now())

    wanted: list[tuple[str, str, Qos, Callable[[Any], None]]] = []
    for name in cameras:
        camera = topics.cameras[name]
        kind = "sensor_msgs/CompressedImage" if camera.compressed else "sensor_msgs/Image"
        wanted.append((camera.topic, kind, SENSOR, picture(name, camera.compressed)))
    state, boolean = "sensor_msgs/JointState", "std_msgs/Bool"
    wanted += [
        (topics.joint_states, state, SENSOR, joints),
        (topics.human, state, SENSOR, human),
        (topics.enable, boolean, CONTROL, flag(events.on_enable)),
        (topics.estop, boolean, CONTROL, flag(events.on_estop)),
        (topics.deadman, boolean, CONTROL, flag(events.on_deadman)),
        (topics.takeover, boolean, CONTROL, flag(events.on_takeover)),
        (topics.outcome, boolean, CONTROL, flag(events.on_outcome)),
        (topics.keep, boolean, CONTROL, flag(keep)),
        (topics.task, "std_msgs/String", CONTROL, lambda m: events.on_task(ros_messages.text(m), now())),
    ]
    return [
        Subscription(topic, kind, qos, guarded(topic, take)) for topic, kind, qos, take in wanted if topic
    ]


@dataclass(frozen=True)
class Publication:
    """A topic to publish on."""

    topic: str
    kind: str
    qos: Qos


def commanding(topics: Topics) -> list[Publication]:
    """Topics that move something: not one of them is created in shadow mode."""
    found = [Publication(topics.command, COMMAND_KINDS[topics.command_type], COMMAND)]
    if topics.gripper:
        found.append(Publication(topics.gripper, COMMAND_KINDS[topics.gripper_type], COMMAND))
    return found


def monitoring(topics: Topics) -> list[Publication]:
    """Topics that nobody moves by."""
    found = [
        Publication(topics.chunk, "std_msgs/Float64MultiArray", MONITOR),
        Publication(topics.diagnostics, "diagnostic_msgs/DiagnosticArray", MONITOR),
    ]
    return [publication for publication in found if publication.topic]


ToTwist = Callable[[Command], NDArray[np.float64]]


def command_messages(
    topics: Topics,
    command: Command,
    make: Make,
    stamp: float,
    gripper: str = "",
    to_twist: ToTwist | None = None,
) -> list[tuple[str, Any]]:
    """A command as messages, each with its topic.

    Args:
        topics: names and types.
        command: of the core.
        make: of the transport.
        stamp: now, on the robot's clock (for a twist).
        gripper: name of the gripper's joint.
        to_twist: for ``twist``: the tool's velocity (6,).
    """
    messages: list[tuple[str, Any]] = []
    arm = command
    if gripper and gripper in command.names and (topics.gripper or topics.command_type == "twist"):
        place = command.names.index(gripper)
        arm = _columns(command, [index for index in range(len(command.names)) if index != place])
        if topics.gripper:
            fingers = _columns(command, [place])
            whole = topics.gripper_type == "trajectory"
            body = ros_messages.trajectory(make, fingers) if whole else _last_row(make, fingers, (gripper,))
            messages.append((topics.gripper, body))
    if topics.command_type == "trajectory":
        body = ros_messages.trajectory(make, arm, topics.frame_id)
    elif topics.command_type == "array":
        order = topics.joint_order
        if {*order} != {*arm.names}:  # no gripper target yet: an array cannot leave a joint out
            return messages
        body = _last_row(make, arm, order)
    else:
        assert to_twist is not None, "a transport for twists is made with to_twist"
        body = ros_messages.twist(make, to_twist(arm), stamp, topics.frame_id)
    return [*messages, (topics.command, body)]


def _columns(command: Command, places: list[int]) -> Command:
    names = tuple(command.names[place] for place in places)
    tail = None if command.tail is None else command.tail[:, places]
    return Command(names, command.positions[:, places], command.rate_hz, command.kind, command.why, tail)


def _last_row(make: Make, command: Command, order: tuple[str, ...]) -> Any:
    place = [command.names.index(name) for name in order]
    return ros_messages.array(make, command.positions[-1, place], ("row", "joint"))


def diagnostics(
    topics: Topics, make: Make, tick: Tick, figures: Mapping[str, float], faults: Faults, stamp: float,
    *, level_bytes: bool = False,
) -> Any:  # fmt: skip
    """The node's state, its reason, and what could not be read."""
    unread = faults.recent(tick.now)
    reason = "; ".join(part for part in (tick.reason, unread) if part)
    figures = {**figures, **{f"unreadable {topic}": float(n) for topic, n in sorted(faults.counts.items())}}
    return ros_messages.diagnostics(
        make, topics.node, stamp, tick.state, reason, figures, level_bytes=level_bytes
    )
