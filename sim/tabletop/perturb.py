"""Perturbations of the tabletop: what a deployed policy meets and its training did not show.

The kinds follow LIBERO-Plus (arXiv 2510.13626). Each is drawn from the start state, so two policies meet the
same disturbances; how far each goes is in `KINDS`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...datasets.starts import LATTICE_M, LATTICE_MODULUS, StartState
from . import props, rotation
from .layout import Layout
from .scenes import Scene

Array = NDArray[np.float64]

KINDS = {
    "camera": "front camera moved by up to 4 cm and turned by up to 3 degrees on each axis, wrist 5 mm and 2",
    "light": "lamp and ambient light scaled by 0.4 to 1.5, the lamp tinted and moved by up to 40 degrees",
    "background": "the table has another colour",
    "texture": "the table is tiled",
    "robot": "the arm starts up to 0.15 rad from home in each joint (0.04 in training)",
    "layout": "all objects shifted together by up to 3 cm, each loose one turned by up to 0.5 rad more",
    "distractors": "two more objects of new colours and shapes stand between the others",
}
_CAMERA_M = {"front": 0.04, "wrist": 0.005}
_CAMERA_RAD = {"front": math.radians(3), "wrist": math.radians(2)}
_ROBOT_RAD = 0.15
_SHIFT_M = 0.03
_TURN_RAD = 0.5
_GAP_M = 0.02
_TILED = """
  <asset>
    <texture name="tiles" type="2d" builtin="checker" rgb1="0.80 0.72 0.60" rgb2="0.52 0.60 0.62" width="64"
      height="64"/>
    <material name="tiles" texture="tiles" texrepeat="12 12"/>
  </asset>
"""


@dataclass(frozen=True)
class Look:
    """How a picture differs from the scene's own. The default is no difference.

    Attributes:
        shift_m: camera name to how far it is moved (3,), in its own axes (right, up, back).
        turn_rad: camera name to a rotation vector (3,) in the same axes.
        ambient: factor on the ambient light.
        lamp: factor on the lamp, for red, green and blue.
        lamp_turn_rad: rotation vector (3,) of its direction, base frame.
        table: its colour; None leaves it.
    """

    shift_m: Mapping[str, tuple[float, ...]] = dataclasses.field(default_factory=dict)
    turn_rad: Mapping[str, tuple[float, ...]] = dataclasses.field(default_factory=dict)
    ambient: float = 1.0
    lamp: tuple[float, ...] = (1.0, 1.0, 1.0)
    lamp_turn_rad: tuple[float, ...] = (0.0, 0.0, 0.0)
    table: tuple[float, ...] | None = None


def draw_look(kind: str, start: StartState) -> Look | None:
    """How the pictures of an episode differ; None if they do not."""
    draw = start.generator("perturb", kind)
    if kind == "camera":
        return Look(
            shift_m={name: tuple(draw.uniform(-far, far, 3).tolist()) for name, far in _CAMERA_M.items()},
            turn_rad={name: tuple(draw.uniform(-far, far, 3).tolist()) for name, far in _CAMERA_RAD.items()},
        )
    if kind == "light":
        lamp = draw.uniform(0.4, 1.5) * draw.uniform(0.8, 1.2, 3)
        heading = draw.uniform(0, 2 * math.pi)
        turn = draw.uniform(0, math.radians(40))
        return Look(
            ambient=float(draw.uniform(0.4, 1.5)),
            lamp=tuple(lamp.tolist()),
            lamp_turn_rad=(turn * math.cos(heading), turn * math.sin(heading), 0.0),
        )
    if kind == "background":
        return Look(table=tuple(draw.uniform(0.15, 0.95, 3).tolist()))
    return None


def scene_for(kind: str, scene: Scene) -> Scene:
    """The scene in which episodes of this kind are played."""
    if kind == "texture":
        return dataclasses.replace(scene, assets=_TILED, table_material="tiles")
    if kind == "distractors":
        return dataclasses.replace(scene, things=(*scene.things, *_DISTRACTORS))
    return scene


# Colours and shapes that no suite has.
_DISTRACTORS = (
    props.can("distractor_can", "0.90 0.30 0.75 1"),
    props.brick("distractor_bar", "0.10 0.75 0.75 1", (0.034, 0.016, 0.016)),
)


def change_layout(kind: str, start: StartState, layout: Layout, scene: Scene) -> Layout:
    """Where things stand in an episode of this kind; `scene` is the one it is played in."""
    draw = start.generator("perturb", kind)
    if kind == "layout":
        # Whole steps of the lattice: a start of one split does not become one of another.
        step = LATTICE_M * LATTICE_MODULUS
        shift = np.append(np.round(draw.uniform(-_SHIFT_M, _SHIFT_M, 2) / step) * step, 0.0)
        loose = {prop.name for prop in scene.things if prop.loose}
        return dataclasses.replace(
            layout,
            poses={
                name: (position + shift, _turned(quaternion, draw) if name in loose else quaternion)
                for name, (position, quaternion) in layout.poses.items()
            },
        )
    if kind == "distractors":
        poses = dict(layout.poses)
        for prop in _DISTRACTORS:
            poses[prop.name] = _free_pose(prop, poses, scene, draw)
        return dataclasses.replace(layout, poses=poses)
    return layout


def _turned(quaternion: Array, draw: np.random.Generator) -> Array:
    return rotation.multiply(rotation.about_z(float(draw.uniform(-_TURN_RAD, _TURN_RAD))), quaternion)


def _free_pose(
    prop: props.Prop, poses: Mapping[str, tuple[Array, Array]], scene: Scene, draw: np.random.Generator
) -> tuple[Array, Array]:
    """A free spot between the others; if there is none, a corner of the table."""
    spot = np.zeros(2)
    for _ in range(400):
        spot = np.array((draw.uniform(0.33, 0.68), draw.uniform(-0.26, 0.26)))
        if all(
            math.dist(spot, position[:2]) > prop.radius + scene.prop(name).radius + _GAP_M
            for name, (position, _) in poses.items()
        ):
            break
    else:
        spot = np.array((0.72, 0.36 if prop is _DISTRACTORS[0] else -0.36))
    return np.array((*spot, prop.rest_height)), rotation.about_z(float(draw.uniform(-math.pi, math.pi)))


def start_jitter(kind: str, start: StartState) -> Array | None:
    """(7,) radians from the arm's home, or None for the usual."""
    if kind != "robot":
        return None
    return start.generator("perturb", kind).uniform(-_ROBOT_RAD, _ROBOT_RAD, 7)
