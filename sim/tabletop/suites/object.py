"""The object suite: each of five things into each of two containers."""

from __future__ import annotations

import numpy as np

from ....datasets.starts import StartState
from ..goals import Resting, Steady
from ..layout import Layout, Place, scatter
from ..scenes import objects
from ..skills import Array, Script, pick, place, shifted
from ..tasks import Suite, Task
from ..world import World

SCENE = objects()
_CONTAINERS = ("basket", "tray")
_X, _Y, _YAW = (0.36, 0.66), (-0.17, 0.17), (-0.5, 0.5)
_CONTAINER_X, _CONTAINER_Y = (0.42, 0.56), (0.27, 0.29)

_THINGS = {
    "red_block": ("red block", "red cube"),
    "green_can": ("green can", "green tin"),
    "yellow_box": ("yellow box", "yellow package"),
    "blue_mug": ("blue mug", "blue cup"),
    "white_carton": ("white carton", "milk carton"),
}


def _task(body: str, container: str) -> Task:
    thing, alias = _THINGS[body]
    prop, box = SCENE.prop(body), SCENE.prop(container)
    preposition = "in" if container == "basket" else "on"

    def arrange(start: StartState, generator: np.random.Generator) -> Layout:
        side = 1 if generator.random() < 0.5 else -1
        places = []
        for other in SCENE.things:
            if other.loose:
                places.append(Place(other, _X, _Y, _YAW))
                continue
            sign = side if other.name == "basket" else -side
            low, high = sorted(sign * y for y in _CONTAINER_Y)
            places.append(Place(other, _CONTAINER_X, (low, high)))
        return Layout(scatter(start, generator, places, body))

    def inside(world: World) -> Array:
        return shifted(world.position(container), 0.0, 0.0, box.surface + prop.rest_height)

    def script() -> Script:
        return [
            *pick(prop, SCENE.travel_z_m),
            *place(prop, inside, carry_z=box.height + prop.rest_height + 0.025, drop_m=0.012),
        ]

    return Task(
        name=f"{body}_{container}",
        instruction=f"put the {thing} {preposition} the {container}",
        train_phrases=(
            f"pick up the {thing} and place it {preposition} the {container}",
            f"move the {alias} to the {container}",
            f"drop the {thing} into the {container}",
        ),
        heldout_phrases=(
            f"the {alias} belongs {preposition} the {container}",
            f"store the {thing} {preposition} the {container}",
        ),
        target=body,
        arrange=arrange,
        goal=Steady(
            Resting(
                body,
                container,
                half=(box.inner[0] - 0.005, box.inner[1] - 0.005),
                # As low as it gets: an object that leans on the wall is not in yet.
                z=(box.surface, box.surface + 1.3 * prop.rest_height + 0.01),
            ),
            4,
        ),
        script=script,
        max_steps=100,
    )


SUITE = Suite(
    "object",
    SCENE,
    tuple(_task(body, container) for container in _CONTAINERS for body in _THINGS),
)
