"""The limiter: between the policy and the robot, and not to be passed by.

Every joint keeps its own limits of position, velocity, acceleration and jerk at once, whatever is asked.
Ruckig (Berscheid and Kroeger 2021, arXiv 2105.04830) plans the way to each target, anew at every tick: a kept
library, made for this, that takes some microseconds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from ruckig import ControlInterface, InputParameter, Ruckig, Synchronization, Trajectory

Vector = NDArray[np.float64]

# Ruckig answers to about 1e-8; a command is never reported as within a limit that it passes by more.
TOLERANCE = 1e-6
_PACES = 4
_LEAST = 0.02  # of a joint's velocity: no way is planned slower


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
        tail: float64 (K,N) the rows after those that bring every joint to rest, if nothing else is sent.
        clamped: ``joint2 position``, ``joint2 motion``, ... for each joint that was held back; ``workspace``.
    """

    positions: Vector
    tail: Vector
    clamped: tuple[str, ...]


class _Moment(NamedTuple):
    """A planned state of all joints."""

    position: list[float]
    velocity: list[float]
    acceleration: list[float]


def _stopping(joint: JointLimits, speed: float) -> float:
    """How far a joint goes while it stops from `speed`, at least 0, that it keeps up until then."""
    a, j = joint.acceleration, joint.jerk
    return speed / 2 * (speed / a + a / j) if speed * j >= a * a else speed * math.sqrt(speed / j)


class Limiter:
    """Brings joints towards targets within their limits, and remembers what was really sent.

    Whatever is sent ends at rest: behind the rows that are asked for come those of the quickest stop, and a
    plan whose stop would leave the joints' ranges or the workspace is not taken. So at every moment there is
    a way to stop that was already checked, and it is taken when nothing better is found.

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
        self._ruckig = Ruckig(count, dt)
        self._move, self._stop = InputParameter(count), InputParameter(count)
        self._way, self._brake = Trajectory(count), Trajectory(count)
        self.low = np.array([joint.low for joint in self.joints])
        self.high = np.array([joint.high for joint in self.joints])
        for plan, interface in (
            (self._move, ControlInterface.Position), (self._stop, ControlInterface.Velocity),
        ):  # fmt: skip
            plan.control_interface = interface
            plan.synchronization = Synchronization.No  # joints are independent: none waits for another
            plan.max_velocity = [joint.velocity for joint in self.joints]
            plan.max_acceleration = [joint.acceleration for joint in self.joints]
            plan.max_jerk = [joint.jerk for joint in self.joints]
            plan.target_velocity = plan.target_acceleration = [0.0] * count
        self._states: list[_Moment] = []  # [0] is where the last plan began; one each `dt` after it
        self._at = 0

    @property
    def position_known(self) -> bool:
        """Whether `begin` was called since the last `forget`."""
        return bool(self._states)

    @property
    def position(self) -> Vector | None:
        """(N,) where the joints were sent to be now; None before `begin`."""
        return np.array(self._states[self._at].position) if self._states else None

    @property
    def at_rest(self) -> bool:
        """Whether the joints were sent to stand still now."""
        if not self._states:
            return True
        now = self._states[self._at]
        return max(map(abs, now.velocity)) < 1e-6 and max(map(abs, now.acceleration)) < 1e-6

    def begin(self, measured: Vector) -> None:
        """Start from where the robot is, at rest; it may be a little outside of its joints' ranges.

        Raises:
            ValueError: a position is not finite.
        """
        if not np.isfinite(measured).all():
            raise ValueError(f"limiter: the measured joints are {measured}, expected finite numbers")
        still = [0.0] * len(self.joints)
        self._states, self._at = [_Moment(measured.tolist(), still, still)], 0

    def forget(self) -> None:
        """Nothing is known of where the robot is: `begin` must come before the next target."""
        self._states, self._at = [], 0

    def seek(self, rows: int) -> None:
        """So many rows of what was sent last, tail included, have been followed by now.

        Without it the next plan goes on from the last of the rows that were asked for.
        """
        self._at = min(max(rows, 0), len(self._states) - 1) if self._states else 0

    def towards(self, target: Vector, rows: int, velocity: Vector | None = None) -> Limited:
        """Go towards a target, to be there after `rows` rows; later, if the limits make it so.

        Args:
            target: (N,) where the policy wants the joints at the end of the rows.
            rows: how many to give.
            velocity: (N,) with which it will want to go on from there, per second: the joints pass the target
                no faster than that. None has them stop there.

        Raises:
            ValueError: the target is not finite, or `begin` was not called.
        """
        if not self._states:
            raise ValueError("limiter: begin() must be called first")
        clamped: list[str] = []
        asked = target.tolist()
        if not all(map(math.isfinite, asked)):
            raise ValueError(f"limiter: the target is {target}, expected finite numbers")
        inside = [min(max(x, joint.low), joint.high) for x, joint in zip(asked, self.joints, strict=True)]
        for joint, wanted, kept in zip(self.joints, asked, inside, strict=True):
            if abs(wanted - kept) > TOLERANCE:
                clamped.append(f"{joint.name} position")
        left_box = False
        if self.workspace is not None:
            near, left_box = self._in_workspace(np.array(inside))
            inside = near.tolist()
        if left_box:
            clamped.append("workspace")
        still = [0.0] * len(self.joints)
        speed = still if velocity is None else [0.0 if v != v else v for v in velocity.tolist()]
        plan = self._plan_move(inside, speed, rows)
        safe = self._is_safe(plan)
        if not safe and any(speed):
            plan = self._plan_move(inside, still, rows)
            safe = self._is_safe(plan)
        if not safe:
            plan = self._plan_stop()
            clamped += [] if left_box else ["workspace"] if self.workspace else ["stop"]
        assert plan is not None, "a stop is always found"
        found = self._take(plan, rows)
        for joint, wanted, got in zip(self.joints, inside, self._states[self._at].position, strict=True):
            if abs(wanted - got) > 1e-3:
                clamped.append(f"{joint.name} motion")
        return Limited(found.positions, found.tail, tuple(clamped))

    def rest(self, rows: int) -> Limited:
        """Come to rest as quickly as the limits allow, wherever that is.

        Raises:
            ValueError: `begin` was not called.
        """
        if not self._states:
            raise ValueError("limiter: begin() must be called first")
        return self._take(self._plan_stop(), rows)

    # Plain floats below, one joint after the other: arrays of seven numbers cost more than the arithmetic.

    def _plan_move(self, target: list[float], speed: list[float], rows: int) -> list[_Moment] | None:
        """States from now on: `rows` on the way to the target, then the quickest stop; None if there is none.

        The way leads to where a stop from the target at `speed` would end, no faster than the target asks.
        """
        now, period = self._states[self._at], rows * self.dt
        ends, pace = [], []
        for joint, at, goal, v in zip(self.joints, now.position, target, speed, strict=True):
            v = min(max(v, -joint.velocity), joint.velocity)
            end = goal + math.copysign(_stopping(joint, abs(v)), v)
            ends.append(min(max(end, joint.low), joint.high))
            pace.append(min(max(abs(goal - at) / period, _LEAST * joint.velocity), joint.velocity))
        plan = self._move
        plan.current_position, plan.current_velocity, plan.current_acceleration = now
        plan.target_position = ends
        for _ in range(_PACES):
            plan.max_velocity = pace
            if self._ruckig.calculate(plan, self._way) < 0:
                return None
            # What is lost while the joint speeds up is made good by going faster than the mean.
            short = [
                abs(goal - at) / max(math.copysign(1.0, goal - at) * (got - at), abs(goal - at) / 3 + 1e-9)
                for at, goal, got in zip(now.position, target, self._way.at_time(period)[0], strict=True)
            ]
            if max(short) <= 1.01:
                break
            pace = [
                min(max(v * max(by, 1.0), _LEAST * joint.velocity), joint.velocity)
                for joint, v, by in zip(self.joints, pace, short, strict=True)
            ]
        states = [now] + [_Moment(*self._way.at_time((row + 1) * self.dt)) for row in range(rows)]
        return states + self._stop_from(states[-1])

    def _plan_stop(self) -> list[_Moment]:
        now = self._states[self._at]
        return [now, *self._stop_from(now)]

    def _stop_from(self, now: _Moment) -> list[_Moment]:
        """The quickest stop, one state each `dt`, at least one."""
        plan = self._stop
        plan.current_position, plan.current_velocity, plan.current_acceleration = now
        result = self._ruckig.calculate(plan, self._brake)
        if result < 0:
            raise ValueError(f"limiter: no way to stop within the limits from {now} ({result})")
        rows = max(1, math.ceil(self._brake.duration / self.dt - 1e-9))
        still = [0.0] * len(self.joints)
        states = [_Moment(*self._brake.at_time((row + 1) * self.dt)) for row in range(rows)]
        return [*states[:-1], _Moment(states[-1].position, still, still)]

    def _take(self, plan: list[_Moment], rows: int) -> Limited:
        plan = plan + [plan[-1]] * (rows + 1 - len(plan))
        self._states, self._at = plan, rows
        positions = np.array([state.position for state in plan[1:]])
        return Limited(positions[:rows], positions[rows:], ())

    def _is_safe(self, plan: list[_Moment] | None) -> bool:
        """Whether a plan stays in the joints' ranges and the tool in its box, the stop included.

        What began outside must not go further out.
        """
        if plan is None:
            return False
        slack = 1e-9
        columns = zip(*(state.position for state in plan), strict=True)
        for joint, places in zip(self.joints, columns, strict=True):
            if min(places) < min(joint.low, places[0]) - slack:
                return False
            if max(places) > max(joint.high, places[0]) + slack:
                return False
        if self.workspace is None:
            return True
        allowed = max(0.0, self._outside(np.array(plan[0].position))) + 1e-9
        looked = {*range(2, len(plan), 2), len(plan) - 1}
        return all(self._outside(np.array(plan[row].position)) <= allowed for row in looked)

    def _outside(self, joints: Vector) -> float:
        """Metres by which the tool is outside of its box; below 0 inside."""
        assert self.workspace is not None, "asked only with a workspace"
        assert self.tool is not None, "checked at construction"
        tool = self.tool(joints)
        sides = zip(self.workspace.low, tool.tolist(), self.workspace.high, strict=True)
        return float(max(max(low - at, at - high) for low, at, high in sides))

    def _in_workspace(self, target: Vector) -> tuple[Vector, bool]:
        """The target, or the last point on the straight way to it (in joints) whose tool is in the box."""
        if self._outside(target) <= 0:
            return target, False
        start = np.array(self._states[self._at].position)
        here = self._outside(start)
        if here > 0:  # it began outside: only what brings it nearer is let through
            return (target, True) if self._outside(target) < here else (start, True)
        near, far = 0.0, 1.0
        for _ in range(12):
            middle = (near + far) / 2
            if self._outside(start + middle * (target - start)) <= 0:
                near = middle
            else:
                far = middle
        return start + near * (target - start), True
