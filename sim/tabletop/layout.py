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
Spot = tuple[float, float]
Spots = Mapping[str, Spot]


@dataclass(frozen=True)
class Layout:
    """A start state: the pose (position (3,), quaternion (4,)) of each prop, and articulated joints."""

    poses: Mapping[str, tuple[Array, Array]]
    joints: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Place:
    """Where a prop may stand.

    Attributes:
        prop: the thing.
        x: range, metres.
        y: range, metres.
        yaw: range, radians.
        near: draw the spot from this instead, given the spots of the props before; it must still lie in `x`
            and `y`.
        shares: the footprint of this prop may be overlapped (a bowl on a mat).
        lift_m: height of what it stands on.
        alone: its range is clear of all the others', so no gap needs checking.
    """

    prop: Prop
    x: Span
    y: Span
    yaw: Span = (0.0, 0.0)
    near: Callable[[np.random.Generator, Spots], Spot] | None = None
    shares: str = ""
    lift_m: float = 0.0
    alone: bool = False


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

    The instructed prop comes first. Its x is a point on the lattice of the start's split and is drawn once:
    redrawing the rest cannot carry a start over the wall between splits.

    Raises:
        RuntimeError: if no arrangement is found, which means that the ranges are too tight.
    """
    order = sorted(places, key=lambda place: place.prop.name != instructed)
    assert order[0].prop.name == instructed, f"{instructed} has no place"
    lattice_x = start.lattice(generator, *order[0].x)
    for _ in range(500):
        spots: dict[str, Spot] = {}
        for place in order:
            spot = _free_spot(generator, place, lattice_x if not spots else None, spots, order, gap_m)
            if spot is None:
                break
            spots[place.prop.name] = spot
        if len(spots) == len(order) and accept(spots):
            return {
                place.prop.name: (
                    np.array((*spots[place.prop.name], place.prop.rest_height + place.lift_m)),
                    rotation.about_z(float(generator.uniform(*place.yaw))),
                )
                for place in order
            }
    raise RuntimeError(f"no free arrangement for {start} in 500 draws: widen its places or lower gap_m")


def _free_spot(
    generator: np.random.Generator,
    place: Place,
    x: float | None,
    spots: Spots,
    places: Sequence[Place],
    gap_m: float,
) -> Spot | None:
    others = {other.prop.name: other for other in places}
    for _ in range(30):
        if place.near is not None:
            spot = place.near(generator, spots)
            if not (place.x[0] <= spot[0] <= place.x[1] and place.y[0] <= spot[1] <= place.y[1]):
                continue
        else:
            across = float(generator.uniform(*place.x)) if x is None else x
            spot = (across, float(generator.uniform(*place.y)))
        if all(
            place.alone
            or others[name].alone
            or name == place.shares
            or others[name].shares == place.prop.name
            or math.dist(spot, taken) >= place.prop.radius + others[name].prop.radius + gap_m
            for name, taken in spots.items()
        ):
            return spot
    return None
