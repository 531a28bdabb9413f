"""Success predicates over the `World` view.

A goal is immutable; what it must remember during an episode (where an object began, for how many steps a
condition has held) is a nested list of numbers that the environment keeps, so that a snapshot can
carry it as JSON. `holds` is called once after each control step.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Protocol

from . import rotation
from .world import World

Memory = list[Any]

FINGERS = ("left_finger", "right_finger")
_REACH_M = 0.07
_POINTS_DOWN = math.cos(math.pi / 4)
STILL_M_S = 0.03
_CARRIED_M = 0.015
_TABLE_X = (-0.15, 0.95)
_TABLE_Y = (-0.55, 0.55)


class Goal(Protocol):
    def begin(self, world: World) -> Memory:
        """What to remember of the start state."""
        ...

    def holds(self, world: World, memory: Memory) -> bool:
        """Whether the goal is reached in the present state; may write to `memory`."""
        ...


def on_table(world: World, body: str) -> bool:
    x, y = float(world.position(body)[0]), float(world.position(body)[1])
    return _TABLE_X[0] < x < _TABLE_X[1] and _TABLE_Y[0] < y < _TABLE_Y[1]


def held(world: World, body: str) -> bool:
    """Pinched by both fingers of a gripper that points down, near the tool centre point.

    Pointing down matters: an object may lie on two fingers that point up.
    """
    if not all(world.touching(finger, body) for finger in FINGERS):
        return False
    apart = math.dist(world.position("tcp"), world.position(body))
    return apart < _REACH_M and rotation.upright(world.quaternion("tcp")) < -_POINTS_DOWN


def touched(world: World, body: str) -> bool:
    """By any part of the gripper."""
    return any(world.touching(part, body) for part in (*FINGERS, "hand"))


@dataclass(frozen=True)
class Steady:
    """`goal` has held at `steps` consecutive control steps. Memory: [count, the goal's memory]."""

    goal: Goal
    steps: int

    def begin(self, world: World) -> Memory:
        return [0, self.goal.begin(world)]

    def holds(self, world: World, memory: Memory) -> bool:
        memory[0] = memory[0] + 1 if self.goal.holds(world, memory[1]) else 0
        return bool(memory[0] >= self.steps)


@dataclass(frozen=True)
class Lifted:
    """The object is held by the gripper, `height_m` above where it began, and clear of all in `clear_of`."""

    body: str
    height_m: float = 0.06
    clear_of: tuple[str, ...] = ("table",)

    def begin(self, world: World) -> Memory:
        return [float(world.position(self.body)[2])]

    def holds(self, world: World, memory: Memory) -> bool:
        return (
            float(world.position(self.body)[2]) >= memory[0] + self.height_m
            and held(world, self.body)
            and not any(world.touching(self.body, other) for other in self.clear_of)
        )


@dataclass(frozen=True)
class Pushed:
    """The object has slid `distance_m` along +x, straight, stands upright on the table, and was never lifted.

    Memory: [x at the start, y at the start, z at the start, 1 while it has never left the table].
    """

    body: str
    distance_m: float = 0.10
    sideways_m: float = 0.05
    lift_m: float = 0.02

    def begin(self, world: World) -> Memory:
        return [*world.position(self.body).tolist(), 1]

    def holds(self, world: World, memory: Memory) -> bool:
        x, y, z = world.position(self.body).tolist()
        if z > memory[2] + self.lift_m:
            memory[3] = 0
        return (
            bool(memory[3])
            and x - memory[0] >= self.distance_m
            and abs(y - memory[1]) <= self.sideways_m
            and rotation.upright(world.quaternion(self.body)) > 0.95
            and on_table(world, self.body)
        )


@dataclass(frozen=True)
class Pressed:
    """The cap is down by `depth_m`, and the finger tips of a gripper that points down hold it there."""

    button: str
    depth_m: float = 0.010

    def begin(self, world: World) -> Memory:
        return []

    def holds(self, world: World, memory: Memory) -> bool:
        return (
            world.joint(f"{self.button}/press") <= -self.depth_m
            and rotation.upright(world.quaternion("tcp")) < -_POINTS_DOWN
            and any(world.touching(finger, f"{self.button}/cap") for finger in FINGERS)
        )


@dataclass(frozen=True)
class Resting:
    """The object was carried, and now stands still on or in `support`, let go of, clear of all in `clear_of`.

    Carried: the gripper has held it higher than it began. Knocking it there does not count.
    Memory: [z at the start, 1 once it has been carried].

    Attributes:
        body: the object.
        support: the body that carries it, touching it.
        half: half lengths in x and y, in the support's axes, of where the object's origin must be.
        z: lowest and highest origin of the object over the origin of the support, metres.
        upright: the least cosine between the object's z axis and the vertical; -1 if it may lie down.
        clear_of: what it must not touch.
    """

    body: str
    support: str
    half: tuple[float, float]
    z: tuple[float, float]
    upright: float = -1.0
    clear_of: tuple[str, ...] = ("table",)

    def begin(self, world: World) -> Memory:
        return [float(world.position(self.body)[2]), 0]

    def holds(self, world: World, memory: Memory) -> bool:
        if not memory[1]:
            raised = float(world.position(self.body)[2]) > memory[0] + _CARRIED_M
            memory[1] = int(raised and held(world, self.body))
            return False
        offset = world.position(self.body) - world.position(self.support)
        heading = rotation.yaw(world.quaternion(self.support))
        cosine, sine = math.cos(heading), math.sin(heading)
        x, y, z = offset.tolist()
        return (
            abs(cosine * x + sine * y) <= self.half[0]
            and abs(cosine * y - sine * x) <= self.half[1]
            and self.z[0] <= z <= self.z[1]
            and rotation.upright(world.quaternion(self.body)) >= self.upright
            and world.speed(self.body) < STILL_M_S
            and world.touching(self.body, self.support)
            and not touched(world, self.body)
            and not any(world.touching(self.body, other) for other in self.clear_of)
        )


@dataclass(frozen=True)
class JointWithin:
    """An articulated joint is between `low` and `high`."""

    joint: str
    low: float
    high: float

    def begin(self, world: World) -> Memory:
        return []

    def holds(self, world: World, memory: Memory) -> bool:
        return self.low <= world.joint(self.joint) <= self.high


@dataclass(frozen=True)
class JointTowards:
    """A joint has gone `share` of the way to between `low` and `high`. Memory: [its beginning]."""

    joint: str
    low: float
    high: float
    share: float

    def begin(self, world: World) -> Memory:
        return [world.joint(self.joint)]

    def holds(self, world: World, memory: Memory) -> bool:
        low = min(self.low, memory[0] + self.share * (self.low - memory[0]))
        high = max(self.high, memory[0] + self.share * (self.high - memory[0]))
        return bool(low <= world.joint(self.joint) <= high)


@dataclass(frozen=True)
class AllOf:
    """Every goal holds at the same time."""

    goals: tuple[Goal, ...]

    def begin(self, world: World) -> Memory:
        return [goal.begin(world) for goal in self.goals]

    def holds(self, world: World, memory: Memory) -> bool:
        # All are asked before the answer: every goal must see every step.
        answers = [goal.holds(world, part) for goal, part in zip(self.goals, memory, strict=True)]
        return all(answers)


@dataclass(frozen=True)
class InOrder:
    """`first` holds at some step, and at a later one both `second` and `lasting` do.

    `second` must not hold when `first` is reached: doing the two in the other order does not count until
    the second is undone and done again. `lasting` is what must still be true of the first at the end.
    Memory: [1 once the first has held, 1 once the second was then seen not to hold, and the three goals'].
    """

    first: Goal
    second: Goal
    lasting: Goal

    def begin(self, world: World) -> Memory:
        return [0, 0, self.first.begin(world), self.second.begin(world), self.lasting.begin(world)]

    def holds(self, world: World, memory: Memory) -> bool:
        first = self.first.holds(world, memory[2])
        second = self.second.holds(world, memory[3])
        lasting = self.lasting.holds(world, memory[4])
        if first:
            memory[0] = 1
        if memory[0] and not second:
            memory[1] = 1
        return bool(memory[0] and memory[1] and second and lasting)


_LEAST_SHARE = 0.3


def relaxed(goal: Goal, level: float) -> Goal:
    """The same deed, of which less is asked: what practice may learn from before the real one is in reach.

    At level 1 an object must be lifted, pushed or pressed, and a joint turned, 0.3 of the way; it may go
    astray, or be put down beside the middle, by twice as much. That both fingers hold it, that it was
    carried, let go of, stands, and what came first, stays as it is. Level 0 is the goal itself.
    """
    share, room = 1.0 - (1.0 - _LEAST_SHARE) * level, 1.0 + level
    match goal:
        case Steady():
            return replace(goal, goal=relaxed(goal.goal, level))
        case Lifted():
            return replace(goal, height_m=share * goal.height_m)
        case Pushed():
            return replace(goal, distance_m=share * goal.distance_m, sideways_m=room * goal.sideways_m)
        case Pressed():
            return replace(goal, depth_m=share * goal.depth_m)
        case Resting():
            return replace(goal, half=(room * goal.half[0], room * goal.half[1]))
        case JointWithin():
            return JointTowards(goal.joint, goal.low, goal.high, share)
        case AllOf():
            return AllOf(tuple(relaxed(one, level) for one in goal.goals))
        case InOrder():
            return InOrder(*(relaxed(one, level) for one in (goal.first, goal.second, goal.lasting)))
    raise TypeError(f"{type(goal).__name__} says nothing of how it is relaxed: add it to `relaxed`")
