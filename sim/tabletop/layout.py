"""Drawing where things stand at the start of an episode."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ...datasets.starts import StartState
from . import rotation
from .props import Prop

Array = NDArray[np.float64]
Span = tuple[float, float]


@dataclass(frozen=True)
class Layout:
    """A start state: the pose (position (3,), quaternion (4,)) of each prop, and articulated joints."""

    poses: Mapping[str, tuple[Array, Array]]
    joints: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Place:
    """Where a prop may stand: ranges of x, y (metres) and yaw (radians)."""

    prop: Prop
    x: Span
    y: Span
    yaw: Span = (0.0, 0.0)


Spot = tuple[float, float]
Spots = Mapping[str, Spot]


def scatter(
    start: StartState,
    generator: np.random.Generator,
    places: Sequence[Place],
    instructed: str,
    *,
    gap_m: float = 0.03,
    accept: Callable[[Spots], bool] = lambda spots: True,
) -> dict[str, tuple[Array, Array]]:
    """Draw a pose for each place so that footprints stay `gap_m` apart and `accept` agrees.

    The instructed prop's x comes from the lattice of the start's split and is drawn once: redrawing the rest
    cannot carry a start over the wall between splits.

    Raises:
        RuntimeError: if no arrangement is found, which means that the ranges are too tight.
    """
    order = sorted(places, key=lambda place: place.prop.name != instructed)
    assert order[0].prop.name == instructed, f"{instructed} has no place"
    lattice_x = start.lattice(generator, *order[0].x)
    for _ in range(200):
        spots: dict[str, Spot] = {}
        for place in order:
            spot = _free_spot(generator, place, lattice_x if not spots else None, spots, order, gap_m)
            if spot is None:
                break
            spots[place.prop.name] = spot
        if len(spots) == len(order) and accept(spots):
            return {
                place.prop.name: (
                    np.array((*spots[place.prop.name], place.prop.rest_height)),
                    rotation.about_z(float(generator.uniform(*place.yaw))),
                )
                for place in order
            }
    raise RuntimeError(f"no free arrangement for {start} in 200 draws: widen its places or lower gap_m")


def _free_spot(
    generator: np.random.Generator,
    place: Place,
    x: float | None,
    spots: Spots,
    places: Sequence[Place],
    gap_m: float,
) -> Spot | None:
    radius = {other.prop.name: other.prop.radius for other in places}
    for _ in range(30):
        spot = (
            float(generator.uniform(*place.x)) if x is None else x,
            float(generator.uniform(*place.y)),
        )
        if all(
            math.dist(spot, taken) >= place.prop.radius + radius[name] + gap_m
            for name, taken in spots.items()
        ):
            return spot
    return None
