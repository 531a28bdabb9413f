"""A robot of three joints that does what it is told, and a policy that waves."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from regrip.datasets.spec import Axis, Camera, RobotSpec
from regrip.real_robot.core import Core, CoreConfig
from regrip.real_robot.gate import GateConfig
from regrip.real_robot.gripper import GripperConfig
from regrip.real_robot.limits import JointLimits
from regrip.real_robot.messages import Command, Events, Frame, Joints, Request, Tick
from regrip.real_robot.schedule import ScheduleConfig

ARM = ("a", "b", "c")
SPEC = RobotSpec(
    "toy", "joint_position", 20.0, "none", "width in metres",
    (*(Axis(name, "rad", -2.0, 2.0) for name in ARM), Axis("gripper", "m", 0.0, 0.08)),
    tuple(Axis(name, "rad", -2.0, 2.0) for name in ARM),
    (Camera("front", 12, 16),),
)  # fmt: skip
CONFIG = CoreConfig(
    tuple(JointLimits(name, -2.0, 2.0, 3.0, 30.0, 1000.0) for name in ARM),
    GripperConfig("gripper", 0.08, 0.0),
    schedule=ScheduleConfig("receding"),
    gate=GateConfig(max_frozen_s=0.5),
)


def make_core(config: CoreConfig = CONFIG) -> Core:
    def state(joints: Mapping[str, float]) -> NDArray[np.float32]:
        return np.array([joints[name] for name in ARM], np.float32)

    return Core(config, SPEC, lambda a, _: (a[:3].astype(np.float64), float(a[3])), state, task="wave")


class Wave:
    """Four actions that follow a slow sine from where the arm is."""

    def __init__(self) -> None:
        self.latent: dict[str, NDArray[np.generic]] = {}

    def answer(self, request: Request) -> NDArray[np.float32]:
        steps = request.step + np.arange(1, 5)
        wave = 0.3 * np.sin(steps / 10)[:, None] * np.ones(3)
        self.latent = {"noise": np.full((4, 4), request.id, np.float32)}
        return np.concatenate([wave, np.full((4, 1), 0.04)], 1).astype(np.float32)


class Toy:
    """A transport and the robot behind it, in simulated time; its camera sees noise."""

    name = "toy"
    shadow = False

    def __init__(self) -> None:
        self.time, self.at = 0.0, np.zeros(3)
        self.sent: list[Command] = []
        self.before: Callable[[], None] = lambda: None
        self._draw = np.random.default_rng(0)
        self._events: Events | None = None

    def connect(self, events: Events) -> None:
        self._events = events
        self.publish()

    def publish(self) -> None:
        assert self._events is not None
        image = self._draw.integers(0, 255, (12, 16, 3), dtype=np.uint8)
        self._events.on_frame(Frame("front", self.time, self.time, image))
        self._events.on_joints(Joints(self.time, self.time, ARM, self.at.copy()))

    def now(self) -> float:
        return self.time

    def sleep_until(self, when: float) -> None:
        self.time = max(self.time, when)
        self.before()
        self.publish()

    def send(self, command: Command) -> None:
        self.sent.append(command)
        self.at = command.positions[-1, :3].copy()

    def publish_chunk(self, names: tuple[str, ...], actions: NDArray[np.float32]) -> None: ...

    def diagnose(self, tick: Tick, figures: Mapping[str, float]) -> None: ...

    def close(self) -> None: ...
