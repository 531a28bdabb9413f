"""The simulated arm on a network: what it publishes, what it obeys, and how it can be tampered with.

No middleware in here: `robot_ros1` and `robot_dds` carry the messages. Besides the topics of any robot
it has two of its own, both std_msgs/String with JSON in it: orders (`SimRobot.order`) and, ten times a second
and after every order, what is really so (`Truth`).
"""

from __future__ import annotations

import argparse
import json
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from ..datasets.starts import StartState
from ..real_robot import ros_messages
from ..real_robot.messages import Joints
from ..real_robot.ros_messages import Make, MessageError
from ..real_robot.topics import CameraTopic, Topics
from ..sim.tabletop.robot import CONTROLLER_HZ, TabletopRobot

ORDERS = "/sim_robot/orders"
TRUTH = "/sim_robot/truth"
CAMERA_HZ = 30.0
TRUTH_HZ = 10.0
_SAYS = ("enable", "estop", "deadman", "takeover", "outcome", "keep")
TOPICS = Topics(cameras={name: CameraTopic(f"/{name}/image_raw") for name in ("front", "wrist")})
COMPRESSED = Topics(
    cameras={
        name: CameraTopic(f"/{name}/image_raw/compressed", compressed=True) for name in ("front", "wrist")
    }
)


# Who drives the arm when it is put elsewhere still sends it to the old place; it heeds them again when it has
# heard nothing for so long.
_QUIET_S = 0.1
_CATCH_UP = 10  # ticks: behind by more, the arm is slower than time


def parser(about: str | None) -> argparse.ArgumentParser:
    """The options of any process that is the simulated arm."""
    made = argparse.ArgumentParser(description=about)
    made.add_argument("--suite", default="demo")
    made.add_argument("--task", default="lift_red", help="of the suite, until another is ordered")
    made.add_argument("--image-size", type=int, default=64, help="pixels, of both cameras")
    made.add_argument("--compressed", action="store_true", help="cameras send JPEG")
    made.add_argument("--sim-time", action="store_true", help="publish /clock, and stamp by it")
    made.add_argument("--factor", type=float, default=1.0, help="simulated seconds in a real one")
    return made


def published(topics: Topics) -> dict[str, str]:
    """Topic to type of all that the arm says, /clock apart."""
    kinds = {
        camera.topic: "sensor_msgs/CompressedImage" if camera.compressed else "sensor_msgs/Image"
        for camera in topics.cameras.values()
    }
    kinds |= dict.fromkeys((topics.joint_states, topics.human), "sensor_msgs/JointState")
    kinds |= dict.fromkeys((topics.task, TRUTH), "std_msgs/String")
    return kinds | {getattr(topics, name): "std_msgs/Bool" for name in _SAYS}


@dataclass
class Tampering:
    """What is wrong with the robot, on purpose. Sources are cameras and ``joints``.

    Attributes:
        silent: sources that send nothing.
        frozen: cameras that send the same picture under new stamps.
        shift_s: how much is added to a source's stamps.
        not_finite: a joint that reports NaN.
        lacking: a joint that is not reported.
        backwards: joints are reported in the opposite order.
        deaf: commands are not heard.
        noise: cameras have some, as real ones do: no two pictures are the same.
        pressed: somebody holds the dead-man switch.
    """

    silent: list[str] = field(default_factory=list)
    frozen: list[str] = field(default_factory=list)
    shift_s: dict[str, float] = field(default_factory=dict)
    not_finite: str = ""
    lacking: str = ""
    backwards: bool = False
    deaf: bool = False
    noise: bool = False
    pressed: bool = False


@dataclass
class Truth:
    """What is really so.

    Attributes:
        order: the number of the last order obeyed.
        refused: why it was not obeyed; ``""`` if it was.
        time: of the arm, seconds.
        names: of the joints.
        position: of the joints, rad or m.
        instruction: of the task.
        max_steps: control steps that it is given.
        success: since the last reset.
        invalid: the physics blew up since.
        commands: trajectories obeyed since the process began.
        refused_commands: trajectories that made no sense.
        unheeded: trajectories that came right after a reset, meant for the place before it.
        watchdog: how often the arm stopped because nobody spoke.
        fastest: the greatest step between rows of a command, rad or m per second.
    """

    order: int = 0
    refused: str = ""
    time: float = 0.0
    names: tuple[str, ...] = ()
    position: tuple[float, ...] = ()
    instruction: str = ""
    max_steps: int = 0
    success: bool = False
    invalid: bool = False
    commands: int = 0
    refused_commands: int = 0
    unheeded: int = 0
    watchdog: int = 0
    fastest: float = 0.0


class SimRobot:
    """Owns the arm; everything but `hear` and `order` in the one thread that made it (it renders).

    Args:
        robot: the arm.
        topics: names; a compressed camera is sent as JPEG.
        make: of messages.
        publish: topic and message; must not block.
        stamp: now, for headers.
    """

    def __init__(
        self,
        robot: TabletopRobot,
        topics: Topics,
        make: Make,
        publish: Callable[[str, Any], None],
        stamp: Callable[[], float],
    ) -> None:
        self.robot, self.topics = robot, topics
        self.tampering = Tampering()
        self.truth = Truth()
        self._make, self._publish, self._stamp = make, publish, stamp
        self._inbox: deque[tuple[str, Any]] = deque(maxlen=100)
        self._pictures: dict[str, Any] = {}
        self._next_picture = self._next_truth = 0.0
        self._quiet_at = 0.0
        self._random = np.random.default_rng(0)

    def hear(self, message: Any) -> None:
        """A JointTrajectory; from any thread."""
        self._inbox.append(("command", message))

    def order(self, message: Any) -> None:
        """A String, from any thread: JSON with ``id``, ``do`` and what belongs to it.

        ``{"do": "reset", "task": "demo/lift_red", "split": "test", "index": 0, "seed": 0}``
        ``{"do": "tamper", "with": {"silent": ["front"]}}`` (`Tampering`; the last tampering ends)
        ``{"do": "say", "what": "enable", "value": true}``
        """
        self._inbox.append(("order", message))

    def advance(self, ticks: int = 1) -> None:
        """Obey what has come, let time pass, and publish what is due."""
        while self._inbox:
            kind, message = self._inbox.popleft()
            if kind == "order":
                self._obey(message)
            elif not self.tampering.deaf:
                self._follow(message)
        self.robot.advance(ticks)
        self._publish_joints()
        now = self.robot.time
        if now >= self._next_picture - 1e-9:
            self._next_picture = max(self._next_picture + 1 / CAMERA_HZ, now - 1 / CAMERA_HZ)
            for name in self.topics.cameras:
                self._publish_picture(name)
        if now >= self._next_truth:
            self._tell()
            if self.tampering.pressed:
                self._say("deadman", True)

    def run(
        self, over: threading.Event, *, factor: float, sim_time: bool, tell_time: Callable[[], None]
    ) -> None:
        """Go on until it is over.

        Args:
            over: set by whoever ends it.
            factor: simulated seconds in a real one.
            sim_time: time is the arm's, and nobody is late; real time is caught up with, as an arm would not
                stand still.
            tell_time: called after every tick of simulated time.
        """
        period = 1.0 / CONTROLLER_HZ / factor
        due = time.monotonic()
        while not over.is_set():
            behind = int((time.monotonic() - due) / period)
            ticks = 1 if sim_time else max(1, min(behind, _CATCH_UP))
            if behind > _CATCH_UP or (sim_time and behind > 0):
                due = time.monotonic() - ticks * period
            self.advance(ticks)
            if sim_time:
                tell_time()
            due += ticks * period
            over.wait(max(0.0, due - time.monotonic()))

    def _follow(self, message: Any) -> None:
        if self.robot.time < self._quiet_at:
            self._quiet_at = self.robot.time + _QUIET_S
            self.truth.unheeded += 1
            return
        try:
            names, rows, times = ros_messages.trajectory_rows(message)
            if not len(rows):
                raise MessageError("a trajectory without points")
            rate = len(rows) / float(times[-1])
            if not np.allclose(times, np.arange(1, len(rows) + 1) / rate, atol=1e-6):
                raise MessageError(f"times from start {times.tolist()}, expected them evenly spaced")
            self.robot.command(names, rows, rate)
        except (ValueError, AttributeError, TypeError):
            self.truth.refused_commands += 1
            return
        self.truth.commands += 1
        if len(rows) > 1:
            self.truth.fastest = max(self.truth.fastest, float(np.abs(np.diff(rows, axis=0)).max() * rate))

    def _obey(self, message: Any) -> None:
        number = 0
        try:
            order = json.loads(ros_messages.text(message))
            number = int(order["id"])
            if order["do"] == "reset":
                self.robot.reset(StartState(*(order[key] for key in ("task", "split", "index", "seed"))))
                self._pictures.clear()
                self._quiet_at = self.robot.time + _QUIET_S
            elif order["do"] == "tamper":
                self.tampering = Tampering(**order["with"])
            elif order["do"] == "say":
                self._say(order["what"], order["value"])
            else:
                raise ValueError(f"there is no order {order['do']!r}; reset, tamper and say are")
            self.truth.refused = ""
        except (ValueError, KeyError, TypeError) as error:
            self.truth.refused = f"{type(error).__name__}: {error}"
        self.truth.order = number
        self._tell()

    def _say(self, what: str, value: Any) -> None:
        """What a person beside the arm does: press, release, take over, name a task, drive."""
        topic = getattr(self.topics, what)
        if what == "task":
            self._publish(topic, self._make("std_msgs/String", data=str(value)))
        elif what == "human":
            names, position = tuple(value), np.array(list(value.values()), np.float64)
            state = Joints(self._stamp(), 0.0, names, position)
            self._publish(topic, ros_messages.joint_state(self._make, state))
        elif what in _SAYS:
            self._publish(topic, self._make("std_msgs/Bool", data=bool(value)))
        else:
            raise ValueError(f"nobody says {what!r}")

    def _publish_joints(self) -> None:
        wrong = self.tampering
        if "joints" in wrong.silent:
            return
        names, position, velocity = self.robot.joints()
        position = np.where([name == wrong.not_finite for name in names], np.nan, position)
        order = [index for index, name in enumerate(names) if name != wrong.lacking]
        order = order[::-1] if wrong.backwards else order
        stamp = self._stamp() + wrong.shift_s.get("joints", 0.0)
        state = Joints(stamp, 0.0, tuple(names[i] for i in order), position[order], velocity[order])
        self._publish(self.topics.joint_states, ros_messages.joint_state(self._make, state))

    def _publish_picture(self, name: str) -> None:
        wrong = self.tampering
        if name in wrong.silent:
            return
        if name not in wrong.frozen or name not in self._pictures:
            self._pictures[name] = picture = self.robot.frame(name).copy()
            if wrong.noise:
                picture ^= self._random.integers(0, 2, picture.shape, np.uint8)
        camera = self.topics.cameras[name]
        write = ros_messages.compressed_image if camera.compressed else ros_messages.image
        stamp = self._stamp() + wrong.shift_s.get(name, 0.0)
        self._publish(camera.topic, write(self._make, self._pictures[name], stamp, f"{name}_optical_frame"))

    def _tell(self) -> None:
        self._next_truth = self.robot.time + 1 / TRUTH_HZ
        truth, robot = self.truth, self.robot
        names, position, _ = robot.joints()
        truth.time, truth.names, truth.position = robot.time, names, tuple(position.tolist())
        truth.success, truth.invalid = bool(robot.success), bool(robot.invalid)
        truth.watchdog = robot.watchdog_fired
        truth.instruction, truth.max_steps = robot.instruction, robot.max_steps
        self._publish(TRUTH, self._make("std_msgs/String", data=json.dumps(asdict(truth))))


__all__ = ["COMPRESSED", "CONTROLLER_HZ", "ORDERS", "TOPICS", "TRUTH", "SimRobot", "Tampering", "Truth"]
