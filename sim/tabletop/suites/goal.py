"""The goal suite: one scene, many things that can be wanted of it."""

from __future__ import annotations

from ..goals import Goal, Pushed, Steady
from ..skills import Script, push_away
from ..tasks import Suite, Task
from . import kitchen
from .kitchen import KNOB, ON_RAD, OPEN_SLIDE_M, SCENE, SLIDE, TRAVEL_Z_M

_STEADY_STEPS = 4


def _task(
    name: str,
    sentences: tuple[str, ...],
    target: str,
    goal: Goal,
    script: Script,
    joints: dict[str, float] | None = None,
    *,
    push: bool = False,
) -> Task:
    """`sentences`: the canonical one, three for training, two held out. `joints`: what the task needs."""
    return Task(
        name=name,
        instruction=sentences[0],
        train_phrases=sentences[1:-2],
        heldout_phrases=sentences[-2:],
        target=target,
        arrange=kitchen.arrange(target, joints or {}, push=push),
        goal=Steady(goal, _STEADY_STEPS),
        script=lambda: script,
        max_steps=100,
    )


SUITE = Suite(
    "goal",
    SCENE,
    (
        _task(
            "open_drawer",
            (
                "open the drawer",
                "pull the drawer open",
                "open the drawer of the cabinet",
                "slide the drawer out",
                "pull out the drawer",
                "get the cabinet drawer open",
            ),
            "cabinet",
            kitchen.DRAWER_OPEN,
            kitchen.pull_drawer(),
            {SLIDE: 0.0},
        ),
        _task(
            "close_drawer",
            (
                "close the drawer",
                "push the drawer shut",
                "close the drawer of the cabinet",
                "shut the drawer",
                "push the drawer in",
                "get the cabinet drawer closed",
            ),
            "cabinet",
            kitchen.DRAWER_SHUT,
            kitchen.push_drawer(),
            {SLIDE: OPEN_SLIDE_M},
        ),
        _task(
            "turn_on_stove",
            (
                "turn on the stove",
                "switch on the stove",
                "turn the stove on",
                "turn the knob of the stove on",
                "switch the stove on",
                "get the stove going",
            ),
            "stove",
            kitchen.STOVE_ON,
            kitchen.turn_stove(True),
            {KNOB: 0.0},
        ),
        _task(
            "turn_off_stove",
            (
                "turn off the stove",
                "switch off the stove",
                "turn the stove off",
                "turn the knob of the stove off",
                "switch the stove off",
                "make sure the stove is off",
            ),
            "stove",
            kitchen.STOVE_OFF,
            kitchen.turn_stove(False),
            {KNOB: ON_RAD},
        ),
        _task(
            "bowl_on_plate",
            (
                "put the bowl on the plate",
                "place the bowl on the plate",
                "set the orange bowl on the white plate",
                "move the bowl onto the plate",
                "the bowl belongs on the plate",
                "stand the bowl on top of the plate",
            ),
            "bowl",
            kitchen.on("bowl", "plate"),
            kitchen.move_onto("bowl", "plate"),
        ),
        _task(
            "bowl_on_stove",
            (
                "put the bowl on the stove",
                "place the bowl on the stove",
                "set the orange bowl on the stove",
                "move the bowl onto the stove",
                "the bowl belongs on the stove",
                "stand the bowl on top of the stove",
            ),
            "bowl",
            kitchen.on("bowl", "stove"),
            kitchen.move_onto("bowl", "stove"),
        ),
        _task(
            "bowl_on_cabinet",
            (
                "put the bowl on top of the cabinet",
                "place the bowl on the cabinet",
                "set the orange bowl on top of the cabinet",
                "move the bowl onto the cabinet",
                "the bowl belongs on the cabinet",
                "stand the bowl on the wooden cabinet",
            ),
            "bowl",
            kitchen.on("bowl", "cabinet"),
            kitchen.move_onto("bowl", "cabinet"),
        ),
        _task(
            "red_block_in_bowl",
            (
                "put the red block in the bowl",
                "place the red block in the bowl",
                "drop the red cube into the bowl",
                "move the red block into the orange bowl",
                "the red block belongs in the bowl",
                "store the red cube in the bowl",
            ),
            "red_block",
            kitchen.block_in_bowl("red_block"),
            kitchen.move_into_bowl("red_block"),
        ),
        _task(
            "red_block_in_drawer",
            (
                "put the red block in the drawer",
                "place the red block in the drawer",
                "drop the red cube into the drawer",
                "move the red block into the open drawer",
                "the red block belongs in the drawer",
                "store the red cube in the drawer",
            ),
            "red_block",
            kitchen.block_in_drawer("red_block"),
            kitchen.move_into_drawer("red_block"),
            {SLIDE: OPEN_SLIDE_M},
        ),
        _task(
            "blue_block_on_plate",
            (
                "put the blue block on the plate",
                "place the blue block on the plate",
                "set the blue cube on the white plate",
                "move the blue block onto the plate",
                "the blue block belongs on the plate",
                "lay the blue cube on the plate",
            ),
            "blue_block",
            kitchen.on("blue_block", "plate"),
            kitchen.move_onto("blue_block", "plate"),
        ),
        _task(
            "blue_block_on_cabinet",
            (
                "put the blue block on top of the cabinet",
                "place the blue block on the cabinet",
                "set the blue cube on top of the cabinet",
                "move the blue block onto the cabinet",
                "the blue block belongs on the cabinet",
                "lay the blue cube on the wooden cabinet",
            ),
            "blue_block",
            kitchen.on("blue_block", "cabinet"),
            kitchen.move_onto("blue_block", "cabinet"),
        ),
        _task(
            "push_plate",
            (
                "push the plate away from the robot",
                "push the plate forward",
                "slide the plate away from you",
                "shove the white plate forward",
                "move the plate forward by pushing it",
                "slide the plate away",
            ),
            "plate",
            Pushed("plate"),
            push_away("plate", TRAVEL_Z_M, start_gap_m=0.085, push_z=0.012),
            push=True,
        ),
    ),
)
