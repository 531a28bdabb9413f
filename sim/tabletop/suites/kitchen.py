"""What the goal and the long suite share: one scene, where its things stand, its goals and its skills."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from ....datasets.starts import StartState
from ..goals import Goal, JointWithin, Resting
from ..layout import Layout, Place, Spots, scatter
from ..props import CABINET_HALF, DRAWER_FLOOR_Z, DRAWER_OPEN_M
from ..scenes import kitchen
from ..skills import Array, Script, close_drawer, open_drawer, pick, place, shifted, turn_knob
from ..tasks import Arrange
from ..world import World

SCENE = kitchen()
TRAVEL_Z_M = SCENE.travel_z_m
_CARRY_Z_M = 0.13

SLIDE, KNOB = "cabinet/slide", "stove/knob"
OPEN_SLIDE_M = DRAWER_OPEN_M
ON_RAD = math.pi / 2

_MIDDLE_X = (0.37, 0.69)
# Between the side of the stove and that of the open drawer, with room for the hand over what can be grasped.
_MIDDLE_Y = {"plate": (-0.09, 0.08), "bowl": (-0.105, 0.09)}
_BLOCK_Y = (-0.115, 0.09)
_CABINET_X, _CABINET_Y = (0.36, 0.42), (0.25, 0.27)
_STOVE_X, _STOVE_Y = (0.40, 0.46), (-0.28, -0.26)
PUSH_X = (0.37, 0.48)
_LANE_M, _LANE_HALF_WIDTH_M = 0.17, 0.07

# The middle of the part of the open drawer that the cabinet does not cover, in the drawer's frame.
_DRAWER_REACH_X = 0.022

DRAWER_OPEN = JointWithin(SLIDE, OPEN_SLIDE_M - 0.02, 1.0)
DRAWER_SHUT = JointWithin(SLIDE, -1.0, 0.008)
STOVE_ON = JointWithin(KNOB, ON_RAD - 0.25, 10.0)
STOVE_OFF = JointWithin(KNOB, -10.0, 0.25)


def arrange(target: str, joints: dict[str, float], *, push: bool = False) -> Arrange:
    """A start state in which `joints` are as given, and the others open or shut, on or off, by chance.

    Without that chance an open drawer would say which task it is, and the sentence would not matter.
    """

    def draw(start: StartState, generator: np.random.Generator) -> Layout:
        slide = OPEN_SLIDE_M if generator.random() < 0.4 else 0.0
        knob = ON_RAD if generator.random() < 0.4 else 0.0
        places = [
            Place(SCENE.prop("cabinet"), _CABINET_X, _CABINET_Y, alone=True),
            Place(SCENE.prop("stove"), _STOVE_X, _STOVE_Y, alone=True),
        ]
        for prop in SCENE.things:
            if prop.loose:
                pushed = push and prop.name == target
                x = PUSH_X if pushed else _MIDDLE_X
                y = _MIDDLE_Y.get(prop.name, _BLOCK_Y)
                places.append(Place(prop, x, y, (0.0, 0.0) if pushed else (-0.4, 0.4)))

        def lane_is_free(found: Spots) -> bool:
            x, y = found[target]
            return not any(
                SCENE.prop(name).loose
                and -0.13 < other[0] - x - math.copysign(SCENE.prop(name).radius, other[0] - x) < _LANE_M
                and abs(other[1] - y) < _LANE_HALF_WIDTH_M + SCENE.prop(name).radius
                for name, other in found.items()
                if name != target
            )

        accept: Callable[[Spots], bool] = lane_is_free if push else (lambda found: True)
        poses = scatter(start, generator, places, target, gap_m=0.015, accept=accept)
        return Layout(poses, {SLIDE: slide, KNOB: knob, **joints})

    return draw


# Goals ------------------------------------------------------------------------------------------------------


def on(body: str, support: str, half: float = 0.0) -> Goal:
    """The object stands on `support`; `half` overrides how far from its middle it may be."""
    prop, base = SCENE.prop(body), SCENE.prop(support)
    z = base.surface + prop.rest_height
    return Resting(
        body,
        support,
        half=(half, half) if half else base.inner,
        z=(z - 0.006, z + 0.008),
        upright=0.95 if prop.grasp and prop.grasp.rim else -1.0,
    )


def block_in_bowl(block: str) -> Goal:
    bowl, prop = SCENE.prop("bowl"), SCENE.prop(block)
    z = bowl.surface + prop.rest_height
    return Resting(block, "bowl", half=(0.032, 0.032), z=(z - 0.006, z + 0.016))


def block_in_drawer(block: str) -> Goal:
    z = DRAWER_FLOOR_Z + SCENE.prop(block).rest_height
    return Resting(block, "cabinet/drawer", half=(0.062, 0.052), z=(z - 0.006, z + 0.012))


# Skills -----------------------------------------------------------------------------------------------------


def move(body: str, where: Callable[[World], Array], drop_m: float = 0.008) -> Script:
    """Pick the object up and set its origin down at `where`."""
    prop = SCENE.prop(body)
    carry_z = max(_CARRY_Z_M, prop.rest_height + CABINET_CLEAR_M)
    return [
        *pick(prop, TRAVEL_Z_M, SCENE.things),
        *place(prop, where, carry_z=carry_z, drop_m=drop_m),
    ]


CABINET_CLEAR_M = 0.11


def move_onto(body: str, support: str, offset_x: float = 0.0) -> Script:
    prop, base = SCENE.prop(body), SCENE.prop(support)

    def where(world: World) -> Array:
        return shifted(world.position(support), offset_x, 0.0, base.surface + prop.rest_height)

    return move(body, where)


def move_into_bowl(block: str) -> Script:
    """The fingers do not fit in: the block is let go above the rim."""
    bowl, prop = SCENE.prop("bowl"), SCENE.prop(block)

    def where(world: World) -> Array:
        return shifted(world.position("bowl"), 0.0, 0.0, bowl.surface + prop.rest_height)

    return move(block, where, drop_m=0.045)


def move_into_drawer(block: str) -> Script:
    """The open fingers do not fit in: the block is let go above the drawer's sides."""
    prop = SCENE.prop(block)

    def where(world: World) -> Array:
        z = DRAWER_FLOOR_Z + prop.rest_height
        return shifted(world.position("cabinet/drawer"), _DRAWER_REACH_X, 0.0, z)

    return move(block, where, drop_m=0.055)


def pull_drawer() -> Script:
    return open_drawer("cabinet", TRAVEL_Z_M)


def push_drawer() -> Script:
    return close_drawer("cabinet", TRAVEL_Z_M)


def turn_stove(on: bool) -> Script:
    return turn_knob("stove", on, TRAVEL_Z_M)


assert CABINET_HALF[0] < OPEN_SLIDE_M + _DRAWER_REACH_X, "the block must fall beside the cabinet, not on it"
