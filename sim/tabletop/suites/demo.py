"""The demo suite: eight tasks and three verbs on one scene of three blocks and two buttons."""

from __future__ import annotations

import numpy as np

from ....datasets.starts import StartState
from ..goals import Lifted, Pressed, Pushed, Steady
from ..layout import Layout, Place, Spots, scatter
from ..scenes import demo
from ..skills import pick, press, push_away
from ..tasks import Arrange, Suite, Task

SCENE = demo()
TRAVEL_Z_M = 0.11
_X, _Y, _YAW = (0.36, 0.64), (-0.20, 0.20), (-0.5, 0.5)
_PUSH_X = (0.38, 0.54)
_PUSH_LANE_M = 0.17
_LANE_HALF_WIDTH_M = 0.085


def _arrange(target: str, *, push: bool = False) -> Arrange:
    def arrange(start: StartState, generator: np.random.Generator) -> Layout:
        places = [
            Place(
                prop,
                _PUSH_X if push and prop.name == target else _X,
                _Y,
                _YAW if prop.loose else (0.0, 0.0),
            )
            for prop in SCENE.things
        ]

        def lane_is_free(spots: Spots) -> bool:
            x, y = spots[target]
            return not any(
                -0.14 < other[0] - x < _PUSH_LANE_M and abs(other[1] - y) < _LANE_HALF_WIDTH_M
                for name, other in spots.items()
                if name != target
            )

        accept = lane_is_free if push else (lambda spots: True)
        return Layout(scatter(start, generator, places, target, accept=accept))

    return arrange


def _lift(colour: str) -> Task:
    body = f"{colour}_block"
    return Task(
        name=f"lift_{colour}",
        instruction=f"lift the {colour} block",
        train_phrases=(f"pick up the {colour} block", f"raise the {colour} cube", f"grab the {colour} block"),
        heldout_phrases=(f"take the {colour} cube off the table", f"hold up the {colour} block"),
        target=body,
        arrange=_arrange(body),
        goal=Steady(Lifted(body), 3),
        script=lambda: pick(SCENE.prop(body), TRAVEL_Z_M),
        max_steps=60,
    )


def _push(colour: str) -> Task:
    body = f"{colour}_block"
    return Task(
        name=f"push_{colour}",
        instruction=f"push the {colour} block away from the robot",
        train_phrases=(
            f"push the {colour} block forward",
            f"slide the {colour} cube away from you",
            f"shove the {colour} block forward",
        ),
        heldout_phrases=(f"move the {colour} cube forward by pushing it", f"slide the {colour} block away"),
        target=body,
        arrange=_arrange(body, push=True),
        goal=Steady(Pushed(body), 3),
        script=lambda: push_away(body, TRAVEL_Z_M, start_gap_m=0.065),
        max_steps=60,
    )


def _press(colour: str) -> Task:
    button = f"{colour}_button"
    return Task(
        name=f"press_{colour}",
        instruction=f"press the {colour} button",
        train_phrases=(f"push down the {colour} button", f"hit the {colour} button", f"press {colour}"),
        heldout_phrases=(f"push the {colour} button down", f"click the {colour} button"),
        target=button,
        arrange=_arrange(button),
        goal=Steady(Pressed(button), 4),
        script=lambda: press(button),
        max_steps=60,
    )


_COLOURS = ("red", "green", "blue")

SUITE = Suite(
    "demo",
    SCENE,
    (
        *(_lift(colour) for colour in _COLOURS),
        *(_push(colour) for colour in _COLOURS),
        *(_press(colour) for colour in ("yellow", "purple")),
    ),
)
