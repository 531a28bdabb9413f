"""Pictures of somebody else's MuJoCo scene, changed: the cameras, the lamps, the surface things stand on.

A change is drawn from the start state. It is made for the length of one picture, in the model and the state
themselves, and taken back after it, so that physics, snapshots and other environments never meet it. The
tabletop, which writes its scenes itself, does more: see `tabletop.perturb`.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..datasets.starts import StartState

Array = NDArray[np.float64]
Place = tuple[float, ...]
"""Where something stands: x, y, z of the surface under it (m), and how far it is turned about z (rad)."""

STANDING_M, STANDING_RAD = 0.04, math.radians(3)
RIDING_M, RIDING_RAD = 0.005, math.radians(2)
TILES = ((0.80, 0.72, 0.60), (0.52, 0.60, 0.62))
_TILES_ACROSS = 8


@dataclass(frozen=True)
class Look:
    """How an episode's pictures differ from the simulator's own.

    Attributes:
        kind: ``camera``, ``light``, ``background``, ``texture`` or ``distractors``; anything else changes no
            picture.
        start: what the change is drawn from.
        places: where the distractors stand, which depends on how the episode began.
    """

    kind: str
    start: StartState
    places: tuple[Place, ...] = ()

    def camera(self, name: str, rides: bool) -> tuple[Array, Array]:
        """Metres (3,) and rotation vector (3,) in the camera's own axes: right, up, back.

        Args:
            name: of the camera; each is changed in its own way.
            rides: it is mounted on something that moves, the hand.
        """
        draw = self.start.generator("perturb", "camera", name)
        far_m, far_rad = (RIDING_M, RIDING_RAD) if rides else (STANDING_M, STANDING_RAD)
        return draw.uniform(-far_m, far_m, 3), draw.uniform(-far_rad, far_rad, 3)

    def light(self) -> tuple[float, Array, Array]:
        """Factor on ambient light, factors (3,) on the lamps, rotation vector (3,) of where they are."""
        draw = self.start.generator("perturb", "light")
        lamp = draw.uniform(0.4, 1.5) * draw.uniform(0.8, 1.2, 3)
        heading, turn = draw.uniform(0, 2 * math.pi), draw.uniform(0, math.radians(40))
        ambient = float(draw.uniform(0.4, 1.5))
        return ambient, lamp, turn * np.array([math.cos(heading), math.sin(heading), 0.0])

    def colour(self) -> Array:
        """(3,) of the surface."""
        return self.start.generator("perturb", "background").uniform(0.15, 0.95, 3)


def surface(model: Any, names: Sequence[str]) -> list[int]:
    """The geometries that things stand on: of the first of `names` that some are called, or their body is.

    Args:
        model: an `mujoco.MjModel`.
        names: parts of names.

    Raises:
        ValueError: if there are none.
    """
    for name in names:
        found = [
            number
            for number in range(model.ngeom)
            if name in model.geom(number).name or name in model.body(model.geom_bodyid[number]).name
        ]
        if found:
            return found
    raise ValueError(f"nothing in the scene is called {' or '.join(names)}: no surface to change")


@contextlib.contextmanager
def changed(look: Look | None, model: Any, data: Any, under: Sequence[int]) -> Iterator[None]:
    """While this lasts, a picture taken of the scene differs; afterwards all is as before, to the bit.

    Args:
        look: how; None for not at all.
        model: an `mujoco.MjModel`.
        data: its `mujoco.MjData`, with up-to-date positions.
        under: the geometries of `surface`.
    """
    kind = "" if look is None else look.kind
    head = model.vis.headlight
    touched: dict[str, list[Any]] = {
        "camera": [data.cam_xpos, data.cam_xmat],
        "light": [
            model.light_diffuse, model.light_specular, model.light_ambient, data.light_xpos, data.light_xdir,
            head.diffuse, head.specular, head.ambient,
        ],
        "background": [model.geom_rgba, model.mat_rgba],
    }  # fmt: skip
    if look is None or kind not in touched:
        yield
        return
    before = [array.copy() for array in touched[kind]]
    try:
        {"camera": _move_cameras, "light": _change_light, "background": _paint}[kind](
            look, model, data, under
        )
        yield
    finally:
        for array, saved in zip(touched[kind], before, strict=True):
            array[...] = saved


def _move_cameras(look: Look, model: Any, data: Any, under: Sequence[int]) -> None:
    for number in range(model.ncam):
        rides = model.body_weldid[model.cam_bodyid[number]] != 0
        shift, turn = look.camera(model.camera(number).name, bool(rides))
        axes = data.cam_xmat[number].reshape(3, 3)
        data.cam_xpos[number] += axes @ shift
        data.cam_xmat[number] = (axes @ matrix(turn)).ravel()


def _change_light(look: Look, model: Any, data: Any, under: Sequence[int]) -> None:
    ambient, lamp, turn = look.light()
    around, centre = matrix(turn), model.stat.center
    head = model.vis.headlight
    for lit in (model.light_diffuse, model.light_specular, head.diffuse, head.specular):
        lit *= lamp
    for lit in (model.light_ambient, head.ambient):
        lit *= ambient
    data.light_xdir[...] = data.light_xdir @ around.T
    data.light_xpos[...] = (data.light_xpos - centre) @ around.T + centre


def _paint(look: Look, model: Any, data: Any, under: Sequence[int]) -> None:
    """A texture is tinted: MuJoCo multiplies it with the colour."""
    for number in under:
        if model.geom_rgba[number, 3] == 0:
            continue
        model.geom_rgba[number, :3] = look.colour()
        if model.geom_matid[number] >= 0:
            model.mat_rgba[model.geom_matid[number], :3] = look.colour()


def tile(model: Any, context: Any, under: Sequence[int], tiled: bool) -> None:
    """Give a renderer's copy of the surface's textures tiles, or what the model has; the model stays.

    Args:
        model: an `mujoco.MjModel`.
        context: the `mujoco.MjrContext`, whose OpenGL context is current.
        under: the geometries of `surface`.
        tiled: tiles, or the model's own.

    Raises:
        ValueError: if the surface has no texture.
    """
    import mujoco

    textures = _textures(model, under)
    if not textures:
        raise ValueError("the surface of this scene has no texture that could be changed")
    for number in textures:
        width, height, channels = (
            model.tex_width[number],
            model.tex_height[number],
            model.tex_nchannel[number],
        )
        first = model.tex_adr[number]
        pixels = model.tex_data[first : first + width * height * channels]
        before = pixels.copy()
        if tiled:
            rows, columns = np.indices((height, width)) // max(1, width // _TILES_ACROSS)
            colours = np.round(255 * np.array(TILES))[(rows + columns) % 2]
            pixels.reshape(height, width, channels)[..., :3] = colours[..., : min(3, channels)]
        try:
            mujoco.mjr_uploadTexture(model, context, number)
        finally:
            pixels[...] = before


def _textures(model: Any, under: Sequence[int]) -> list[int]:
    materials = {int(model.geom_matid[number]) for number in under} - {-1}
    found = {int(number) for material in materials for number in np.ravel(model.mat_texid[material])}
    return sorted(found - {-1})


def matrix(turn_rad: Array) -> Array:
    """(3,3) of a rotation vector (Rodrigues' formula)."""
    angle = float(np.linalg.norm(turn_rad))
    if angle == 0.0:
        return np.eye(3)
    x, y, z = turn_rad / angle
    across = np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])
    rotation: Array = np.eye(3) + math.sin(angle) * across + (1 - math.cos(angle)) * across @ across
    return rotation
