"""What a scripted expert can do, as closed-loop phases over the `World` view."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from . import rotation
from .goals import FINGERS, touched
from .props import (
    DRAWER_OPEN_M,
    HANDLE_X,
    HANDLE_Z,
    KNOB_OFF_YAW,
    KNOB_X,
    KNOB_Z,
    Prop,
)
from .scenes import FINGER_MAX_M
from .world import World

Array = NDArray[np.float64]
Point = Callable[[World], Array]
Heading = Callable[[World], float]

OPEN_M = 2 * FINGER_MAX_M
SHUT_M = 0.0
RIM_OPEN_M = 0.05
PUSH_Z_M = 0.018
PUSH_STEP_M = 0.022
"""Low and not at full speed: a block hit high or hard tumbles."""


@dataclass(frozen=True)
class Aim:
    """Where the tool centre point should go: position (3,), yaw of the downward gripper, opening width."""

    position: Array
    yaw: float
    width: float


@dataclass(frozen=True)
class Phase:
    """Follow `aim` until `done` (given the steps spent in the phase) says so, or `limit` steps are over.

    Attributes:
        aim: where to go now.
        done: whether the phase is over.
        limit: the most steps.
        first: a skill begins here: this is where to go back to when it fails.
        lost: whether the skill has failed (the object slipped out of the fingers).
    """

    aim: Callable[[World], Aim]
    done: Callable[[World, int], bool]
    limit: int = 25
    first: bool = False
    lost: Callable[[World], bool] = lambda world: False


Script = list[Phase]


def shifted(point: Array, x: float, y: float, z: float) -> Array:
    """`point` (3,) moved by the given metres."""
    return np.array((point[0] + x, point[1] + y, point[2] + z), dtype=np.float64)


def yaw_of_gripper(world: World) -> float:
    return rotation.yaw(world.quaternion("tcp"))


def _here(world: World) -> Array:
    return world.position("tcp")


def nearest_yaw(world: World, yaw: float, period: float) -> float:
    """The equivalent of `yaw`, for a shape that repeats every `period`, that takes the least turning.

    Kept within a half turn of the canonical gripper yaw so that the wrist never winds up. A `period` of 0
    means that any yaw will do: then it is the present one.
    """
    now = yaw_of_gripper(world)
    if period == 0.0:
        return now
    best = yaw + round((now - yaw) / period) * period
    while best > 0.6 * math.pi:
        best -= period
    while best < -0.6 * math.pi:
        best += period
    return best


def _apart(world: World, point: Array) -> tuple[float, float]:
    """Horizontal distance and signed height of the tool centre point from `point`."""
    delta = world.position("tcp") - point
    return math.hypot(delta[0], delta[1]), float(delta[2])


def descend_to(point: Point, yaw: Heading, width: float, *, travel_z: float, near_m: float = 0.008) -> Phase:
    """Go to `point` from above, down a funnel: at `travel_z` while far to the side, low only when over it."""

    def aim(world: World) -> Aim:
        target = point(world)
        side, _ = _apart(world, target)
        rise = min(max(0.0, travel_z - target[2]), max(0.0, side - near_m) * 6)
        return Aim(shifted(target, 0.0, 0.0, rise), yaw(world), width)

    def done(world: World, steps: int) -> bool:
        side, height = _apart(world, point(world))
        turned = abs(math.remainder(yaw_of_gripper(world) - yaw(world), 2 * math.pi))
        return side < near_m and abs(height) < 0.008 and turned < 0.1

    return Phase(aim, done, first=True)


def close_on(body: str, point: Point) -> Phase:
    """Close the fingers at `point` until both touch `body`."""

    def done(world: World, steps: int) -> bool:
        return steps >= 2 and all(world.touching(finger, body) for finger in FINGERS)

    return Phase(lambda world: Aim(point(world), yaw_of_gripper(world), SHUT_M), done, limit=8)


def rise_to(z: float, width: float = SHUT_M) -> Phase:
    """Straight up until the tool centre point is at `z`."""

    def aim(world: World) -> Aim:
        x, y, _ = world.position("tcp").tolist()
        return Aim(np.array((x, y, z)), yaw_of_gripper(world), width)

    return Phase(aim, lambda world, steps: float(world.position("tcp")[2]) > z - 0.01)


def release(body: str) -> Phase:
    """Open the fingers until none touches `body`."""

    def done(world: World, steps: int) -> bool:
        return steps >= 2 and not touched(world, body)

    return Phase(lambda world: Aim(_here(world), yaw_of_gripper(world), OPEN_M), done, limit=6)


# Loose objects ----------------------------------------------------------------------------------------------


def pick(prop: Prop, travel_z: float, others: Sequence[Prop] = ()) -> Script:
    """Grasp an object as its `Grasp` says and raise it straight up.

    Args:
        prop: what to pick.
        travel_z: height at which the tips pass over everything.
        others: what stands around; a rim is taken on the side where they are not.
    """
    grasp = prop.grasp
    assert grasp is not None, f"{prop.name} cannot be picked up"
    height, rim, period = grasp.height, grasp.rim, grasp.period

    def rim_angle(world: World) -> float:
        return _clear_rim(world, prop, rim, [other for other in others if other.name != prop.name])

    def point(world: World) -> Array:
        target = shifted(world.position(prop.name), 0.0, 0.0, height)
        if rim:
            angle = rim_angle(world)
            target += np.array((rim * math.cos(angle), rim * math.sin(angle), 0.0))
        return target

    def yaw(world: World) -> float:
        if rim:
            # The fingers open along the gripper's y axis: put that on the radius.
            return nearest_yaw(world, rim_angle(world) + math.pi / 2, math.pi)
        return nearest_yaw(world, rotation.yaw(world.quaternion(prop.name)), period)

    width = RIM_OPEN_M if rim else OPEN_M
    descend = descend_to(point, yaw, width, travel_z=travel_z, near_m=0.012 if rim else 0.010)
    up = replace(rise_to(travel_z + height), lost=lambda world: slipped(world, prop))
    return [descend, close_on(prop.name, point), up]


def slipped(world: World, prop: Prop) -> bool:
    """Whether an object that should be in the gripper is not."""
    assert prop.grasp is not None, f"{prop.name} cannot be held"
    reach = math.hypot(prop.grasp.rim, prop.grasp.height) + 0.04
    return math.dist(world.position("tcp"), world.position(prop.name)) > reach


def _clear_rim(world: World, prop: Prop, rim: float, others: Sequence[Prop]) -> float:
    """Direction from the object's axis to the wall where fingers have most room and the wrist turns least."""
    centre = world.position(prop.name)
    first = rotation.yaw(world.quaternion(prop.name))
    best, least = 0.0, math.inf
    for k in range(8):
        angle = first + k * math.pi / 4
        outside = centre[:2] + (rim + 0.05) * np.array((math.cos(angle), math.sin(angle)))
        room = min(
            (math.dist(outside, world.position(other.name)[:2]) - other.radius for other in others),
            default=1.0,
        )
        turn = abs(math.remainder(angle + math.pi / 2, math.pi))
        cost = turn + 100.0 * max(0.0, 0.02 - room)
        if cost < least - 0.05:
            best, least = angle, cost
    return best


def place(prop: Prop, where: Point, carry_z: float, drop_m: float = 0.008) -> Script:
    """Bring a held object's origin over `where`, lower it, let go and withdraw.

    Args:
        prop: what the gripper holds.
        where: the wanted position (3,) of its origin.
        carry_z: height of its origin on the way.
        drop_m: height over `where` at which it is let go.
    """

    def aim(world: World) -> Aim:
        goal = where(world)
        offset = world.position("tcp") - world.position(prop.name)
        far = math.dist(world.position(prop.name)[:2], goal[:2])
        z = goal[2] + drop_m
        z += min(max(0.0, carry_z - z), max(0.0, far - 0.008) * 6)
        return Aim(np.array((goal[0], goal[1], z)) + offset, yaw_of_gripper(world), SHUT_M)

    def there(world: World, steps: int) -> bool:
        goal, now = where(world), world.position(prop.name)
        return math.dist(now[:2], goal[:2]) < 0.012 and now[2] < goal[2] + drop_m + 0.006

    return [
        Phase(aim, there, lost=lambda world: slipped(world, prop)),
        release(prop.name),
        rise_to(carry_z + 0.08, OPEN_M),
    ]


def push_away(body: str, travel_z: float, start_gap_m: float, push_z: float = PUSH_Z_M) -> Script:
    """Come down behind the object, as seen from the robot, and push it along +x."""
    width = 0.045

    def behind(world: World) -> Array:
        x, y, _ = world.position(body).tolist()
        return np.array((x - start_gap_m, y, push_z))

    def ahead(world: World) -> Aim:
        y = float(world.position(body)[1])
        return Aim(np.array((world.position("tcp")[0] + PUSH_STEP_M, y, push_z)), 0.0, width)

    return [
        descend_to(behind, lambda world: 0.0, width, travel_z=travel_z, near_m=0.012),
        Phase(ahead, lambda world, steps: False, limit=20),
    ]


# Fixtures ---------------------------------------------------------------------------------------------------


def press(button: str) -> Script:
    """Shut the gripper over the button and go down."""

    def over(world: World) -> Array:
        x, y, z = world.position(f"{button}/cap").tolist()
        return np.array((x, y, z + 0.035))

    def down(world: World) -> Aim:
        x, y, _ = world.position(f"{button}/cap").tolist()
        return Aim(np.array((x, y, 0.02)), 0.0, SHUT_M)

    return [
        descend_to(over, lambda world: 0.0, SHUT_M, travel_z=0.11, near_m=0.012),
        Phase(down, lambda world, steps: False, limit=12),
    ]


def open_drawer(cabinet: str, travel_z: float) -> Script:
    """Pinch the handle, pull it out along +x, let go and withdraw."""
    drawer = f"{cabinet}/drawer"

    def handle(world: World) -> Array:
        return shifted(world.position(drawer), HANDLE_X, 0.0, HANDLE_Z)

    def pull(world: World) -> Aim:
        goal = shifted(world.position(cabinet), HANDLE_X + DRAWER_OPEN_M + 0.02, 0.0, HANDLE_Z)
        return Aim(goal, 0.0, SHUT_M)

    return [
        descend_to(handle, lambda world: 0.0, OPEN_M, travel_z=travel_z),
        close_on(drawer, handle),
        Phase(pull, lambda world, steps: world.joint(f"{cabinet}/slide") > DRAWER_OPEN_M - 0.004),
        release(drawer),
        rise_to(travel_z, OPEN_M),
    ]


def close_drawer(cabinet: str, travel_z: float) -> Script:
    """Come down in front of the handle, push it in along -x and withdraw."""
    drawer = f"{cabinet}/drawer"

    def before(world: World) -> Array:
        return shifted(world.position(drawer), HANDLE_X + 0.05, 0.0, HANDLE_Z)

    def push(world: World) -> Aim:
        goal = shifted(world.position(cabinet), HANDLE_X + 0.025, 0.0, HANDLE_Z)
        return Aim(goal, 0.0, SHUT_M)

    def back(world: World) -> Aim:
        return Aim(before(world), 0.0, SHUT_M)

    return [
        descend_to(before, lambda world: 0.0, SHUT_M, travel_z=travel_z, near_m=0.015),
        Phase(push, lambda world, steps: world.joint(f"{cabinet}/slide") < 0.004),
        Phase(back, lambda world, steps: steps >= 1),
        rise_to(travel_z, SHUT_M),
    ]


def turn_knob(stove: str, on: bool, travel_z: float) -> Script:
    """Take the knob's bar between the fingers, turn it to on or off, let go and withdraw."""
    knob, dial = f"{stove}/knob", f"{stove}/dial"
    goal = math.pi / 2 if on else 0.0

    def centre(world: World) -> Array:
        return shifted(world.position(stove), KNOB_X, 0.0, KNOB_Z)

    def along(world: World) -> float:
        return KNOB_OFF_YAW + world.joint(knob)

    def turn(world: World) -> Aim:
        return Aim(centre(world), KNOB_OFF_YAW + goal, SHUT_M)

    return [
        descend_to(centre, along, OPEN_M, travel_z=travel_z, near_m=0.006),
        close_on(dial, centre),
        Phase(turn, lambda world, steps: abs(world.joint(knob) - goal) < 0.08, limit=20),
        release(dial),
        rise_to(travel_z, OPEN_M),
    ]
