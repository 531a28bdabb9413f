"""The long suite: two things to do, on the goal suite's scene; "then" means in this order."""

from __future__ import annotations

from ..goals import AllOf, Goal, InOrder, Steady
from ..skills import Script
from ..tasks import Suite, Task
from . import kitchen
from .kitchen import (
    DRAWER_OPEN,
    DRAWER_SHUT,
    KNOB,
    ON_RAD,
    OPEN_SLIDE_M,
    SCENE,
    SLIDE,
    STOVE_OFF,
    STOVE_ON,
)

_STEADY_STEPS = 4


def _then(first: Goal, second: Goal) -> Goal:
    return InOrder(Steady(first, _STEADY_STEPS), Steady(second, _STEADY_STEPS), first)


def _both(*goals: Goal) -> Goal:
    return Steady(AllOf(goals), _STEADY_STEPS)


def _task(
    name: str,
    sentences: tuple[str, ...],
    target: str,
    goal: Goal,
    script: Script,
    joints: dict[str, float] | None = None,
) -> Task:
    """`sentences`: the canonical one, two for training, two held out. `joints`: what the task needs."""
    return Task(
        name=name,
        instruction=sentences[0],
        train_phrases=sentences[1:-2],
        heldout_phrases=sentences[-2:],
        target=target,
        arrange=kitchen.arrange(target, joints or {}),
        goal=goal,
        script=lambda: script,
        max_steps=200,
    )


SUITE = Suite(
    "long",
    SCENE,
    (
        _task(
            "open_drawer_store_block",
            (
                "open the drawer and put the red block in it",
                "pull the drawer open and place the red block inside",
                "open the drawer and drop the red cube into it",
                "put the red block in the drawer after opening it",
                "get the drawer open and store the red block there",
            ),
            "red_block",
            _both(DRAWER_OPEN, kitchen.block_in_drawer("red_block")),
            [*kitchen.pull_drawer(), *kitchen.move_into_drawer("red_block")],
            {SLIDE: 0.0},
        ),
        _task(
            "store_block_close_drawer",
            (
                "put the red block in the drawer and close it",
                "place the red block in the drawer and push it shut",
                "drop the red cube into the drawer and close the drawer",
                "store the red block in the drawer and shut it",
                "close the drawer with the red block in it",
            ),
            "red_block",
            _both(DRAWER_SHUT, kitchen.block_in_drawer("red_block")),
            [*kitchen.move_into_drawer("red_block"), *kitchen.push_drawer()],
            {SLIDE: OPEN_SLIDE_M},
        ),
        _task(
            "bowl_on_stove_turn_on",
            (
                "put the bowl on the stove, then turn on the stove",
                "place the bowl on the stove, then switch the stove on",
                "move the bowl onto the stove, then turn the stove on",
                "set the bowl on the stove first and then switch it on",
                "turn the stove on after putting the bowl on it",
            ),
            "bowl",
            _then(kitchen.on("bowl", "stove"), STOVE_ON),
            [*kitchen.move_onto("bowl", "stove"), *kitchen.turn_stove(True)],
            {KNOB: 0.0},
        ),
        _task(
            "turn_on_stove_open_drawer",
            (
                "turn on the stove, then open the drawer",
                "switch on the stove, then pull the drawer open",
                "turn the stove on, then open the drawer",
                "open the drawer after turning on the stove",
                "first switch the stove on and then open the drawer",
            ),
            "stove",
            _then(STOVE_ON, DRAWER_OPEN),
            [*kitchen.turn_stove(True), *kitchen.pull_drawer()],
            {KNOB: 0.0, SLIDE: 0.0},
        ),
        _task(
            "close_drawer_turn_off_stove",
            (
                "close the drawer, then turn off the stove",
                "push the drawer shut, then switch off the stove",
                "shut the drawer, then turn the stove off",
                "turn off the stove after closing the drawer",
                "first shut the drawer and then switch the stove off",
            ),
            "cabinet",
            _then(DRAWER_SHUT, STOVE_OFF),
            [*kitchen.push_drawer(), *kitchen.turn_stove(False)],
            {KNOB: ON_RAD, SLIDE: OPEN_SLIDE_M},
        ),
        _task(
            "bowl_on_plate_turn_on_stove",
            (
                "put the bowl on the plate and turn on the stove",
                "turn on the stove and put the bowl on the plate",
                "place the bowl on the plate and switch the stove on",
                "switch on the stove and set the bowl on the plate",
                "the bowl belongs on the plate and the stove must be on",
            ),
            "bowl",
            _both(kitchen.on("bowl", "plate"), STOVE_ON),
            [*kitchen.move_onto("bowl", "plate"), *kitchen.turn_stove(True)],
            {KNOB: 0.0},
        ),
        _task(
            "both_blocks_on_plate",
            (
                "put both blocks on the plate",
                "place the red block and the blue block on the plate",
                "set both cubes on the plate",
                "move the two blocks onto the plate",
                "the red block and the blue block belong on the plate",
            ),
            "red_block",
            _both(kitchen.on("red_block", "plate", 0.055), kitchen.on("blue_block", "plate", 0.055)),
            [
                *kitchen.move_onto("red_block", "plate", offset_x=0.034),
                *kitchen.move_onto("blue_block", "plate", offset_x=-0.034),
            ],
        ),
        _task(
            "bowl_on_plate_red_in_bowl",
            (
                "put the bowl on the plate, then put the red block in the bowl",
                "place the bowl on the plate, then drop the red block into it",
                "set the bowl on the plate, then put the red cube in the bowl",
                "first put the bowl on the plate and then the red block in the bowl",
                "put the red block in the bowl after moving the bowl onto the plate",
            ),
            "bowl",
            _then(kitchen.on("bowl", "plate"), kitchen.block_in_bowl("red_block")),
            [*kitchen.move_onto("bowl", "plate"), *kitchen.move_into_bowl("red_block")],
        ),
        _task(
            "bowl_on_cabinet_blue_on_plate",
            (
                "put the bowl on top of the cabinet and the blue block on the plate",
                "place the bowl on the cabinet and the blue block on the plate",
                "move the bowl onto the cabinet and the blue cube onto the plate",
                "the bowl belongs on the cabinet and the blue block on the plate",
                "set the blue block on the plate and the bowl on the cabinet",
            ),
            "bowl",
            _both(kitchen.on("bowl", "cabinet"), kitchen.on("blue_block", "plate")),
            [*kitchen.move_onto("bowl", "cabinet"), *kitchen.move_onto("blue_block", "plate")],
        ),
        _task(
            "red_in_bowl_close_drawer",
            (
                "put the red block in the bowl and close the drawer",
                "close the drawer and put the red block in the bowl",
                "drop the red cube into the bowl and push the drawer shut",
                "shut the drawer and place the red block in the bowl",
                "the red block belongs in the bowl and the drawer must be closed",
            ),
            "red_block",
            _both(kitchen.block_in_bowl("red_block"), DRAWER_SHUT),
            [*kitchen.move_into_bowl("red_block"), *kitchen.push_drawer()],
            {SLIDE: OPEN_SLIDE_M},
        ),
    ),
)
