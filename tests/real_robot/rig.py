"""A robot of two joints and a gripper that follows what the core sends, row by row; time is a number."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from regrip.datasets.spec import Axis, Camera, RobotSpec
from regrip.real_robot.core import Core, CoreConfig
from regrip.real_robot.gate import GateConfig
from regrip.real_robot.gripper import GripperConfig
from regrip.real_robot.kinematics import StateOf, ToJoints
from regrip.real_robot.limits import JointLimits
from regrip.real_robot.messages import Frame, Joints, Reply, Request, Tick
from regrip.real_robot.schedule import ScheduleConfig

JOINTS = (
    JointLimits("a", -1.5, 1.5, 2.0, 10.0, 500.0),
    JointLimits("b", -2.0, 0.5, 1.5, 7.5, 5000.0),
)
GRIPPER = GripperConfig("grip", open=0.08, closed=0.0)
SPEC = RobotSpec(
    name="two",
    control_mode="joint_position",
    control_rate_hz=20.0,
    rotation="none",
    gripper="metres",
    action=(Axis("a", "rad", -1.5, 1.5), Axis("b", "rad", -2.0, 0.5), Axis("grip", "m", 0.0, 0.08)),
    state=(Axis("a", "rad", -1.5, 1.5), Axis("b", "rad", -2.0, 0.5), Axis("gripper_width", "m", 0.0, 0.08)),
    cameras=(Camera("eye", 4, 4), Camera("hand", 4, 4)),
)
PERIOD, DT = 0.05, 0.01
NAMES = ("a", "b", "grip")
Policy = Callable[[Request], np.ndarray]


def config(**changes: object) -> CoreConfig:
    usual = CoreConfig(
        JOINTS, GRIPPER, "grip", gate=GateConfig(), schedule=ScheduleConfig("latest", ask_below=4)
    )
    return replace(usual, **changes)  # type: ignore[arg-type]


def wave(request: Request) -> np.ndarray:
    """A policy that leads the arm round a circle at 0.3 rad/s, from wherever it is: eight actions."""
    a, b, _ = request.observation.state[0]
    ahead = (1 + np.arange(8))[:, None] * PERIOD
    around = np.array([a, b]) + ahead * np.array([-(b + 0.7), a])
    return np.column_stack([around, np.full(8, 0.04)]).astype(np.float32)


class Rig:
    """The core, and a robot and a policy for it.

    Attributes:
        now: the node's clock.
        path: (2,) joint setpoints, one each 10 ms, from the beginning.
        frames: whether the cameras send; by name, what is done to a frame before it comes.
        joints: what is done to a joint state before it comes; None: none comes.
    """

    def __init__(self, cfg: CoreConfig | None = None, policy: Policy = wave, delay: int = 1) -> None:
        self.core = Core(
            cfg or config(),
            SPEC,
            ToJoints(SPEC, None, 2),
            StateOf(SPEC, ("a", "b"), ("grip",), None),
            task="swing",
        )
        self.policy, self.delay = policy, delay
        self.now = 100.0
        self.at = np.array([0.0, -0.4])
        self.grip = 0.08
        self.path = [self.at.copy()]
        self.rows: deque[np.ndarray] = deque()
        self.pending: list[tuple[int, Reply]] = []
        self.ticks: list[Tick] = []
        self.count = 0
        self.frame: dict[str, Callable[[Frame], Frame] | None] = {"eye": lambda f: f, "hand": lambda f: f}
        self.joints: Callable[[Joints], Joints] | None = lambda joints: joints
        self.dead = False  # the policy

    def sense(self) -> None:
        self.count += 1
        for name, change in self.frame.items():
            image = np.full((4, 4, 3), self.count % 251, np.uint8)
            if change is not None:
                self.core.on_frame(change(Frame(name, self.now, self.now, image)))
        if self.joints is not None:
            row = np.array([*self.at, self.grip])
            self.core.on_joints(self.joints(Joints(self.now, self.now, NAMES, row)))

    def tick(self, count: int = 1, rows: int = 5) -> Tick:
        """So many ticks, each after `rows` rows of 10 ms."""
        for _ in range(count):
            self.move(rows)
            self.sense()
            due = [reply for left, reply in self.pending if left <= 0]
            self.pending = [(left - 1, reply) for left, reply in self.pending if left > 0]
            for reply in due:
                self.core.answered(replace(reply, received=self.now))
            self.take(self.core.tick(self.now))
        return self.ticks[-1]

    def take(self, tick: Tick) -> None:
        self.ticks.append(tick)
        if tick.request is not None and not self.dead:
            self.pending.append((self.delay - 1, Reply(tick.request.id, self.policy(tick.request), self.now)))
        if tick.command is not None:
            place = [tick.command.names.index(name) for name in ("a", "b")]
            self.rows = deque(tick.command.trajectory[:, place])
            if "grip" in tick.command.names:
                self.grip = float(tick.command.positions[-1, tick.command.names.index("grip")])

    def move(self, rows: int) -> None:
        """Time goes by."""
        for _ in range(rows):
            if self.rows:
                self.at = self.rows.popleft()
            self.path.append(self.at.copy())
        self.now = round(self.now + rows * DT, 6)

    def start(self, ticks: int = 20) -> Tick:
        """Configure, see the arm stand, enable, and be well in motion."""
        self.core.configure()
        self.tick(3)
        self.core.on_enable(True, self.now)
        return self.tick(ticks)

    @property
    def speed(self) -> float:
        """Of the fastest joint over the last 10 ms."""
        return float(np.abs(self.path[-1] - self.path[-2]).max() / DT)


def worst_share(path: list[np.ndarray], stood: bool = True) -> float:
    """The largest share of any limit (velocity, acceleration, jerk) in the finite differences of a path.

    Args:
        path: at least four setpoints, 10 ms apart.
        stood: the arm stood still before the first of them.
    """
    sent, worst = np.array([path[0]] * (3 * stood) + path), 0.0
    for order, name in ((1, "velocity"), (2, "acceleration"), (3, "jerk")):
        limit = np.array([getattr(joint, name) for joint in JOINTS])
        worst = max(worst, float((np.abs(np.diff(sent, order, axis=0)) / DT**order / limit).max()))
    return worst
