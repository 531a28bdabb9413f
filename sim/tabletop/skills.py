"""What a scripted expert can do, as closed-loop phases over the `World` view."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from . import rotation
from .goals import FINGERS
from .scenes import FINGER_MAX_M
from .world import World

Array = NDArray[np.float64]
Point = Callable[[World], Array]

OPEN_M = 2 * FINGER_MAX_M
SHUT_M = 0.0
TRAVEL_Z_M = 0.13
"""Height of the tool centre point at which nothing on the table is in its way."""

PUSH_Z_M = 0.018
PUSH_STEP_M = 0.028
"""Low and not at full speed: a block hit high or hard tumbles."""


@dataclass(frozen=True)
class Aim:
    """Where the tool centre point should go: position (3,), yaw of the downward gripper, opening width."""

    position: Array
    yaw: float
    width: float


@dataclass(frozen=True)
class Phase:
    """Follow `aim` until `done` (given the steps spent in the phase) says so, or `limit` steps are over."""

    aim: Callable[[World], Aim]
    done: Callable[[World, int], bool]
    limit: int = 40


Script = list[Phase]


def yaw_of_gripper(world: World) -> float:
    return rotation.yaw(world.quaternion("tcp"))


def nearest_yaw(world: World, yaw: float, period: float) -> float:
    """The equivalent of `yaw`, for a shape that repeats every `period`, that takes the least turning.

    Kept within a half turn of the canonical gripper yaw so that the wrist never winds up.
    """
    now = yaw_of_gripper(world)
    turns = round((now - yaw) / period)
    best = yaw + turns * period
    while best > 0.6 * math.pi:
        best -= period
    while best < -0.6 * math.pi:
        best += period
    return best


def _apart(world: World, point: Array) -> tuple[float, float]:
    """Horizontal distance and signed height of the tool centre point from `point`."""
    delta = world.position("tcp") - point
    return math.hypot(delta[0], delta[1]), float(delta[2])


def descend_to(
    point: Point,
    yaw: Callable[[World], float],
    width: float,
    *,
    near_m: float = 0.008,
    clear_m: float = 0.08,
) -> Phase:
    """Go to `point` from above, down a funnel: high while far to the side, low only when over it."""

    def aim(world: World) -> Aim:
        target = point(world)
        side, _ = _apart(world, target)
        rise = min(clear_m, max(0.0, side - near_m) * 6)
        return Aim(target + np.array((0.0, 0.0, rise)), yaw(world), width)

    def done(world: World, steps: int) -> bool:
        side, height = _apart(world, point(world))
        turned = abs(math.remainder(yaw_of_gripper(world) - yaw(world), 2 * math.pi))
        return side < near_m and abs(height) < 0.006 and turned < 0.1

    return Phase(aim, done)


def close_on(body: str, still: Point, yaw: Callable[[World], float], *, settle: int = 2) -> Phase:
    """Close the fingers until both touch `body`."""

    def done(world: World, steps: int) -> bool:
        return steps >= settle and all(world.touching(finger, body) for finger in FINGERS)

    return Phase(lambda world: Aim(still(world), yaw(world), SHUT_M), done, limit=8)


def carry_to(point: Point, yaw: Callable[[World], float], *, near_m: float = 0.01) -> Phase:
    """Move, gripper shut, in a straight line."""

    def done(world: World, steps: int) -> bool:
        side, height = _apart(world, point(world))
        return math.hypot(side, height) < near_m

    return Phase(lambda world: Aim(point(world), yaw(world), SHUT_M), done)


def lift_block(body: str, rise_m: float = 0.12) -> Script:
    """Grasp a cube across two faces and raise it."""

    def centre(world: World) -> Array:
        return world.position(body)

    def yaw(world: World) -> float:
        return nearest_yaw(world, rotation.yaw(world.quaternion(body)), math.pi / 2)

    def up(world: World) -> Array:
        x, y, _ = world.position("tcp").tolist()
        return np.array((x, y, 0.025 + rise_m))

    def as_is(world: World) -> float:
        return yaw_of_gripper(world)

    def still(world: World) -> Array:
        return world.position("tcp")

    return [descend_to(centre, yaw, OPEN_M), close_on(body, still, as_is), carry_to(up, as_is)]


def push_away(body: str, start_gap_m: float = 0.065, width_m: float = 0.03) -> Script:
    """Come down behind the object, as seen from the robot, and push it along +x."""

    def behind(world: World) -> Array:
        x, y, _ = world.position(body).tolist()
        return np.array((x - start_gap_m, y, PUSH_Z_M))

    def ahead(world: World) -> Aim:
        _, y, _ = world.position(body).tolist()
        return Aim(np.array((world.position("tcp")[0] + PUSH_STEP_M, y, PUSH_Z_M)), 0.0, width_m)

    return [
        descend_to(behind, lambda world: 0.0, width_m, near_m=0.012, clear_m=0.09),
        Phase(ahead, lambda world, steps: False),
    ]


def press(button: str) -> Script:
    """Shut the gripper over the button and go down."""

    def over(world: World) -> Array:
        x, y, z = world.position(f"{button}/cap").tolist()
        return np.array((x, y, z + 0.035))

    def down(world: World) -> Aim:
        x, y, _ = world.position(f"{button}/cap").tolist()
        return Aim(np.array((x, y, 0.02)), 0.0, SHUT_M)

    return [
        descend_to(over, lambda world: 0.0, SHUT_M, near_m=0.012, clear_m=0.05),
        Phase(down, lambda world, steps: False),
    ]
