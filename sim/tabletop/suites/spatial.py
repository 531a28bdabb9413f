"""The spatial suite: put one of two bowls that look the same on the plate; the sentence says which."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from ....datasets.starts import StartState
from ..goals import Resting, Steady
from ..layout import Layout, Place, Spot, Spots, scatter
from ..scenes import spatial
from ..skills import Array, Script, pick, place, shifted
from ..tasks import Suite, Task
from ..world import World

SCENE = spatial()
_BOWL, _OTHER, _PLATE = "bowl", "other_bowl", "plate"
_X, _Y = (0.37, 0.66), (-0.25, 0.25)
_CENTRE = (0.52, 0.0)
_BESIDE_M = (0.018, 0.03)
_APART_M = 0.12

Near = Callable[[np.random.Generator, Spots], Spot]


@dataclass(frozen=True)
class Relation:
    """How the sentence tells the two bowls apart.

    Attributes:
        name: of the task.
        words: the relation, after "the orange bowl".
        others: the same in other words; the last one is held out.
        near: landmarks that are placed relative to the bowl.
        on: what the bowl stands on.
        bowl_x: range of the bowl's x.
        bowl_y: range of the bowl's y.
        told_apart: whether the other bowl clearly does not fit the words.
    """

    name: str
    words: str
    others: tuple[str, ...]
    told_apart: Callable[[Spots], bool]
    near: dict[str, Near]
    on: str = ""
    bowl_x: tuple[float, float] = (0.42, 0.62)
    bowl_y: tuple[float, float] = (-0.22, 0.22)


def _beside(landmark: str) -> Near:
    """Just beside the bowl, in any direction."""
    reach = SCENE.prop(_BOWL).radius + SCENE.prop(landmark).radius

    def near(generator: np.random.Generator, spots: Spots) -> Spot:
        angle = float(generator.uniform(-math.pi, math.pi))
        distance = reach + float(generator.uniform(*_BESIDE_M))
        x, y = spots[_BOWL]
        return x + distance * math.cos(angle), y + distance * math.sin(angle)

    return near


def _across(landmark: str, other: str) -> Near:
    """On the far side of the bowl from `other`."""
    reach = SCENE.prop(_BOWL).radius + SCENE.prop(landmark).radius

    def near(generator: np.random.Generator, spots: Spots) -> Spot:
        x, y = spots[_BOWL]
        angle = math.atan2(y - spots[other][1], x - spots[other][0]) + float(generator.uniform(-0.2, 0.2))
        distance = reach + float(generator.uniform(*_BESIDE_M))
        return x + distance * math.cos(angle), y + distance * math.sin(angle)

    return near


def _under(generator: np.random.Generator, spots: Spots) -> Spot:
    return spots[_BOWL]


def _under_other(support: str) -> Near:
    return lambda generator, spots: spots[support]


def _gap(spots: Spots, a: str, b: str) -> float:
    return math.dist(spots[a], spots[b]) - SCENE.prop(a).radius - SCENE.prop(b).radius


def _next_to(landmark: str, words: str, alias: str) -> Relation:
    return Relation(
        name=f"next_to_{landmark}",
        words=f"next to the {words}",
        others=(f"beside the {words}", f"by the {alias}", f"close to the {words}", f"near the {alias}"),
        told_apart=lambda spots: _gap(spots, _OTHER, landmark) > _APART_M,
        near={landmark: _beside(landmark)},
    )


def _on(support: str, words: str, alias: str) -> Relation:
    return Relation(
        name=f"on_{support}",
        words=f"on the {words}",
        others=(
            f"on top of the {words}",
            f"that is on the {alias}",
            f"standing on the {words}",
            f"which sits on the {alias}",
        ),
        told_apart=lambda spots: _gap(spots, _OTHER, support) > 0.0,
        near={support: _under},
        on=support,
    )


_RELATIONS = (
    _next_to("red_block", "red block", "red cube"),
    _next_to("green_can", "green can", "green tin"),
    _next_to("plate", "plate", "white plate"),
    _next_to("wooden_box", "wooden box", "brown box"),
    _on("wooden_box", "wooden box", "brown box"),
    _on("blue_mat", "blue mat", "blue cloth"),
    Relation(
        name="between_block_and_can",
        words="between the red block and the green can",
        others=(
            "between the green can and the red block",
            "in the middle of the red block and the green can",
            "between the red cube and the green tin",
            "that has the red block on one side and the green can on the other",
        ),
        told_apart=lambda spots: (
            min(_gap(spots, _OTHER, "red_block"), _gap(spots, _OTHER, "green_can")) > 0.06
        ),
        near={"red_block": _beside("red_block"), "green_can": _across("green_can", "red_block")},
    ),
    Relation(
        name="closest_to_robot",
        words="closest to the robot",
        others=(
            "nearest to the robot",
            "that is nearer to you",
            "closer to the robot",
            "at the shortest distance from the robot",
        ),
        told_apart=lambda spots: spots[_OTHER][0] - spots[_BOWL][0] > _APART_M,
        near={},
        bowl_x=(0.38, 0.50),
    ),
    Relation(
        name="farthest_from_robot",
        words="farthest from the robot",
        others=(
            "far away from the robot",
            "that is farther from you",
            "farther from the robot",
            "at the longest distance from the robot",
        ),
        told_apart=lambda spots: spots[_BOWL][0] - spots[_OTHER][0] > _APART_M,
        near={},
        bowl_x=(0.54, 0.66),
    ),
    Relation(
        name="table_centre",
        words="in the middle of the table",
        others=(
            "at the centre of the table",
            "that is in the middle",
            "at the middle of the table",
            "standing in the centre of the table",
        ),
        told_apart=lambda spots: math.dist(spots[_OTHER], _CENTRE) > 0.18,
        near={},
        bowl_x=(_CENTRE[0] - 0.03, _CENTRE[0] + 0.03),
        bowl_y=(_CENTRE[1] - 0.03, _CENTRE[1] + 0.03),
    ),
)


def _task(relation: Relation) -> Task:
    prop, plate = SCENE.prop(_BOWL), SCENE.prop(_PLATE)

    def arrange(start: StartState, generator: np.random.Generator) -> Layout:
        # The other bowl often stands on something too: else an occupied box would give the task away.
        supports = [name for name in ("wooden_box", "blue_mat") if name not in relation.near]
        other_on = str(generator.choice(["", "", *supports]))
        places = [
            Place(
                prop,
                relation.bowl_x,
                relation.bowl_y,
                (-0.4, 0.4),
                lift_m=SCENE.prop(relation.on).surface if relation.on else 0.0,
            )
        ]
        for thing in SCENE.things:
            if thing.name in (_BOWL, _OTHER):
                continue
            yaw = (-0.5, 0.5) if thing.loose else (0.0, 0.0)
            near = relation.near.get(thing.name)
            places.append(Place(thing, _X, _Y, yaw, near, shares=_BOWL if near else ""))
        # Landmarks that go with the bowl first: the rest then fits around them.
        places.sort(key=lambda item: item.near is None and item.prop.name != _BOWL)
        other = Place(SCENE.prop(_OTHER), _X, _Y, (-0.4, 0.4))
        if other_on:
            lift = SCENE.prop(other_on).surface
            other = replace(other, near=_under_other(other_on), shares=other_on, lift_m=lift)
        return Layout(
            scatter(start, generator, [*places, other], _BOWL, gap_m=0.02, accept=relation.told_apart)
        )

    def on_plate(world: World) -> Array:
        return shifted(world.position(_PLATE), 0.0, 0.0, plate.surface)

    def script() -> Script:
        return [
            *pick(prop, SCENE.travel_z_m, SCENE.things),
            *place(prop, on_plate, carry_z=0.10),
        ]

    words, others = relation.words, relation.others
    return Task(
        name=relation.name,
        instruction=f"put the orange bowl {words} on the plate",
        train_phrases=(
            f"pick up the orange bowl {words} and place it on the plate",
            *(f"put the orange bowl {other} on the plate" for other in others[:-1]),
        ),
        heldout_phrases=(
            f"put the orange bowl {others[-1]} on the plate",
            f"take the bowl {words} and set it on the plate",
        ),
        target=_BOWL,
        arrange=arrange,
        goal=Steady(Resting(_BOWL, _PLATE, half=(0.04, 0.04), z=(0.006, 0.02), upright=0.97), 4),
        script=script,
        max_steps=100,
    )


SUITE = Suite("spatial", SCENE, tuple(_task(relation) for relation in _RELATIONS))
