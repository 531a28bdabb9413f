"""The limiter: between the policy and the robot, and not to be passed by.

Every joint keeps its own limits of position, velocity, acceleration and jerk at once, whatever is asked.
Ruckig (Berscheid and Kroeger 2021, arXiv 2105.04830) plans the way to each target, anew at every tick: a kept
library, made for this, that takes some microseconds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from ruckig import ControlInterface, InputParameter, OutputParameter, Result, Ruckig, Synchronization

Vector = NDArray[np.float64]

# Ruckig answers to about 1e-8; a command is never reported as within a limit that it passes by more.
TOLERANCE = 1e-6


@dataclass(frozen=True)
class JointLimits:
    """What one joint may do. All are absolute; a robot's data sheet has them.

    Attributes:
        name: of the joint.
        low: rad or m.
        high: rad or m.
        velocity: per second.
        acceleration: per second squared.
        jerk: per second cubed.
    """

    name: str
    low: float
    high: float
    velocity: float
    acceleration: float
    jerk: float

    def __post_init__(self) -> None:
        if not (np.isfinite([self.low, self.high]).all() and self.low < self.high):
            raise ValueError(
                f"limits of {self.name}: position from {self.low} to {self.high}, expected low < high"
            )
        for what in ("velocity", "acceleration", "jerk"):
            value = getattr(self, what)
            if not (np.isfinite(value) and value > 0):
                raise ValueError(
                    f"limits of {self.name}: {what} is {value}, expected a finite number above 0"
                )


@dataclass(frozen=True)
class Workspace:
    """A box that the tool must stay in, metres in the base frame, if the robot's kinematics are known.

    Attributes:
        low: x, y, z.
        high: x, y, z.
    """

    low: tuple[float, float, float]
    high: tuple[float, float, float]


@dataclass(frozen=True)
class Limited:
    """What came of a target.

    Attributes:
        positions: float64 (T,N) what to send, one row each `dt`.
        clamped: ``joint2 velocity``, ... for each limit that held the target back; ``workspace``.
    """

    positions: Vector
    clamped: tuple[str, ...]


class Limiter:
    """Brings joints towards targets within their limits, and remembers what was really sent.

    Args:
        joints: their limits, in the order of all vectors here.
        dt: seconds between rows that are sent.
        tool: joint positions (N,) -> tool position (3,), for the workspace.
        workspace: of the tool; None if there is none.
    """

    def __init__(
        self,
        joints: Sequence[JointLimits],
        dt: float,
        tool: Callable[[Vector], Vector] | None = None,
        workspace: Workspace | None = None,
    ) -> None:
        if not (np.isfinite(dt) and dt > 0):
            raise ValueError(f"limiter: dt is {dt}, expected a finite number of seconds above 0")
        if workspace is not None and tool is None:
            raise ValueError(
                "limiter: a workspace needs the robot's kinematics; give a model, or no workspace"
            )
        self.joints, self.dt, self.tool, self.workspace = tuple(joints), dt, tool, workspace
        count = len(self.joints)
        self._plan = Ruckig(count, dt)
        self._in, self._out = InputParameter(count), OutputParameter(count)
        self._in.synchronization = Synchronization.No  # joints are independent: none waits for another
        self.low = np.array([joint.low for joint in self.joints])
        self.high = np.array([joint.high for joint in self.joints])
        self._velocity = np.array([joint.velocity for joint in self.joints])
        self._in.max_velocity = self._velocity.tolist()
        self._in.max_acceleration = [joint.acceleration for joint in self.joints]
        self._in.max_jerk = [joint.jerk for joint in self.joints]
        self._known = False

    @property
    def position_known(self) -> bool:
        """Whether `begin` was called since the last `forget`."""
        return self._known

    @property
    def position(self) -> Vector | None:
        """(N,) what was sent last; None before `begin`."""
        return np.array(self._in.current_position) if self._known else None

    @property
    def at_rest(self) -> bool:
        """Whether the last command has the joints stand still."""
        return bool(
            np.abs(self._in.current_velocity).max() < 1e-6
            and np.abs(self._in.current_acceleration).max() < 1e-6
        )

    def begin(self, measured: Vector) -> None:
        """Start from where the robot is, at rest. Positions a little outside their limits are brought inside.

        Raises:
            ValueError: a position is not finite.
        """
        if not np.isfinite(measured).all():
            raise ValueError(f"limiter: the measured joints are {measured}, expected finite numbers")
        self._in.current_position = np.clip(measured, self.low, self.high).tolist()
        self._in.current_velocity = [0.0] * len(self.joints)
        self._in.current_acceleration = [0.0] * len(self.joints)
        self._known = True

    def forget(self) -> None:
        """Nothing is known of where the robot is: `begin` must come before the next target."""
        self._known = False

    def towards(self, target: Vector, rows: int) -> Limited:
        """Go towards a target for `rows` rows; it is reached later, if the limits make it so.

        Args:
            target: (N,) where the policy wants the joints at the end of the rows.
            rows: how many to give.

        Raises:
            ValueError: the target is not finite, or `begin` was not called.
        """
        if not self._known:
            raise ValueError("limiter: begin() must be called first")
        if not np.isfinite(target).all():
            raise ValueError(f"limiter: the target is {target}, expected finite numbers")
        clamped: list[str] = []
        inside = np.clip(target, self.low, self.high)
        for joint, wanted, kept in zip(self.joints, target, inside, strict=True):
            if abs(wanted - kept) > TOLERANCE:
                clamped.append(f"{joint.name} position")
        inside, left_box = self._in_workspace(inside)
        if left_box:
            clamped.append("workspace")
        self._in.control_interface = ControlInterface.Position
        self._in.target_position = inside.tolist()
        self._in.target_velocity = [0.0] * len(self.joints)
        self._in.target_acceleration = [0.0] * len(self.joints)
        found = self._rows(rows)
        for joint, wanted, got in zip(self.joints, inside, found[-1], strict=True):
            if abs(wanted - got) > 1e-3:
                clamped.append(f"{joint.name} motion")
        return Limited(found, tuple(clamped))

    def rest(self, rows: int) -> Limited:
        """Come to rest as quickly as the limits allow, wherever that is."""
        if not self._known:
            raise ValueError("limiter: begin() must be called first")
        self._in.control_interface = ControlInterface.Velocity
        self._in.target_velocity = [0.0] * len(self.joints)
        self._in.target_acceleration = [0.0] * len(self.joints)
        return Limited(self._rows(rows), ())

    def _rows(self, rows: int) -> Vector:
        found = np.empty((rows, len(self.joints)))
        for row in range(rows):
            result = self._plan.update(self._in, self._out)
            if result not in (Result.Working, Result.Finished):
                raise ValueError(
                    f"limiter: no way within the limits from {self._in.current_position} at "
                    f"{self._in.current_velocity} to {self._in.target_position} ({result})"
                )
            self._out.pass_to_input(self._in)
            found[row] = self._out.new_position
        return found

    def _in_workspace(self, target: Vector) -> tuple[Vector, bool]:
        """The target, or the last point on the straight way to it (in joints) whose tool is in the box."""
        if self.workspace is None or self.tool is None:
            return target, False
        low, high = np.array(self.workspace.low), np.array(self.workspace.high)
        start = np.array(self._in.current_position)

        def outside(joints: Vector) -> float:
            tool = self.tool(joints) if self.tool is not None else low
            return float(np.maximum(low - tool, tool - high).max())

        if outside(target) <= 0:
            return target, False
        here = outside(start)
        if here > 0:  # it began outside: only what brings it nearer is let through
            return (target, True) if outside(target) < here else (start, True)
        near, far = 0.0, 1.0
        for _ in range(12):
            middle = (near + far) / 2
            if outside(start + middle * (target - start)) <= 0:
                near = middle
            else:
                far = middle
        return start + near * (target - start), True


@dataclass(frozen=True)
class GripperConfig:
    """How a gripper's command is made of the policy's number.

    Attributes:
        name: of the joint, or of the gripper for a gripper topic.
        open: position when open, m or rad.
        closed: position when closed.
        binary: only open and closed are sent, with hysteresis.
        threshold: share of the way from closed to open above which it opens.
        hysteresis: it closes again only below `threshold` by this share, and opens above it by as much.
    """

    name: str
    open: float
    closed: float
    binary: bool = False
    threshold: float = 0.5
    hysteresis: float = 0.1


class Gripper:
    """A gripper apart from the arm: kept in its range, and if it is binary not set chattering by a number
    that trembles about the threshold.
    """  # noqa: D205

    def __init__(self, config: GripperConfig) -> None:
        self.config = config
        self._is_open: bool | None = None

    def begin(self, measured: float) -> None:
        share = (measured - self.config.closed) / (self.config.open - self.config.closed)
        self._is_open = share >= self.config.threshold

    def command(self, wanted: float) -> float:
        """Position to send for the position that the policy wants (in its units, those of `open`)."""
        config = self.config
        share = float(np.clip((wanted - config.closed) / (config.open - config.closed), 0.0, 1.0))
        if not config.binary:
            return config.closed + share * (config.open - config.closed)
        if self._is_open is None:
            self._is_open = share >= config.threshold
        elif self._is_open and share < config.threshold - config.hysteresis:
            self._is_open = False
        elif not self._is_open and share > config.threshold + config.hysteresis:
            self._is_open = True
        return config.open if self._is_open else config.closed
