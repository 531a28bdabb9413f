"""Things that stand about in somebody else's scene and have nothing to do with the task.

They are drawn and not simulated: in MuJoCo added to a renderer's shapes for the length of one picture. So
the physics, the snapshots and the undisturbed pictures stay the package's own to the bit, and what success
is lost is lost by looking; but a hand that comes where one stands goes through it. They stand where nothing
is when the episode begins, in view of a camera, beside the way from the hand over the object to the goal.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..datasets.starts import StartState
from .look import Place

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Thing:
    """What a distractor looks like.

    Attributes:
        shape: ``cylinder`` or ``box``.
        half_m: (3,) half its extent, metres.
        colour: red, green, blue.
    """

    shape: str
    half_m: tuple[float, float, float]
    colour: tuple[float, float, float]

    @property
    def radius(self) -> float:
        """Of the circle it stands in, metres."""
        return self.half_m[0] if self.shape == "cylinder" else math.hypot(*self.half_m[:2])


# Colours that no robot and no object of the packages has.
THINGS = (
    Thing("cylinder", (0.035, 0.035, 0.06), (0.85, 0.25, 0.65)),
    Thing("box", (0.06, 0.03, 0.03), (0.42, 0.22, 0.75)),
)

_GAP_M = 0.03  # around it, to whatever stands there
_WAY_M = 0.06  # to the way that the hand and the object take
_LEVEL_M = 0.005
_ABOVE_M = 1.5
_AROUND = 12
_TRIES = 400
_INSIDE = 0.85  # of the picture


@dataclass(frozen=True)
class Eye:
    """Where a camera is.

    Attributes:
        position: (3,) metres.
        axes: (3,3) columns right, up, back.
        fovy_rad: its vertical angle of view.
    """

    position: Array
    axes: Array
    fovy_rad: float


def eye(model: Any, data: Any, camera: str) -> Eye:
    """Where a camera of an `mujoco.MjModel` is now, by its name."""
    number = model.camera(camera).id
    return Eye(
        data.cam_xpos[number].copy(),
        data.cam_xmat[number].reshape(3, 3).copy(),
        math.radians(float(model.cam_fovy[number])),
    )


class Scene(Protocol):
    """What a scene is asked as an episode begins."""

    def meet(self, origin: Array, direction: Array) -> tuple[Array, bool] | None:
        """The first point (3,) on a ray, metres; and whether it is of what things stand on."""
        ...


@dataclass(frozen=True)
class MujocoScene:
    """Implements `Scene`.

    Attributes:
        model: an `mujoco.MjModel`.
        data: its `mujoco.MjData`, with up-to-date positions.
        under: the geometries of `look.surface`.
    """

    model: Any
    data: Any
    under: Sequence[int]

    def meet(self, origin: Array, direction: Array) -> tuple[Array, bool] | None:
        import mujoco

        number = np.full(1, -1, np.int32)
        far = mujoco.mj_ray(self.model, self.data, origin, direction, None, 1, -1, number)
        return None if far < 0 else (origin + far * direction, int(number[0]) in self.under)


def find_places(start: StartState, scene: Scene, view: Eye, way: Array) -> tuple[Place, ...]:
    """Where the `THINGS` stand in the episode that `start` names.

    Args:
        start: what it is drawn from.
        scene: as the episode begins.
        view: the camera that shall see them.
        way: (n,3) points, metres; they keep away from the line through them, and hide none of them.

    Raises:
        ValueError: if there is no room for one.
    """
    draw = start.generator("perturb", "distractors")
    places: list[Place] = []
    for thing in THINGS:
        best: tuple[float, Array] | None = None
        for _ in range(_TRIES):
            spot = _look_down(scene, view, draw.uniform(-_INSIDE, _INSIDE, 2))
            if spot is None or not _is_free(scene, spot, thing.radius + _GAP_M):
                continue
            clear = _clearance(thing, spot, view, way)
            for other, place in zip(THINGS, places, strict=False):
                apart = math.dist(spot[:2], place[:2]) - other.radius - thing.radius - _GAP_M
                clear = min(clear, apart)
            if best is None or clear > best[0]:
                best = clear, spot
            if clear >= 0:
                break
        if best is None:
            raise ValueError(f"{start.task}: nothing more can stand in this scene; leave out 'distractors'")
        places.append((*best[1].tolist(), float(draw.uniform(-math.pi, math.pi))))
    return tuple(places)


def _look_down(scene: Scene, view: Eye, at: Array) -> Array | None:
    """The point (3,) of the surface seen at `at` (2,), from -1 to 1 across the picture; None if none is."""
    slope = math.tan(view.fovy_rad / 2)
    met = scene.meet(view.position, view.axes @ np.array([at[0] * slope, at[1] * slope, -1.0]))
    return met[0] if met is not None and met[1] else None


def _is_free(scene: Scene, spot: Array, radius: float) -> bool:
    """Whether from above nothing but a level surface is met within a circle."""
    angles = np.linspace(0, 2 * math.pi, _AROUND, endpoint=False)
    ring = spot + radius * np.stack([np.cos(angles), np.sin(angles), np.zeros(_AROUND)], 1)
    up = np.array([0.0, 0.0, 1.0])
    for point in (spot, *ring, *((spot + ring) / 2)):
        met = scene.meet(point + _ABOVE_M * up, -up)
        if met is None or not met[1] or abs(met[0][2] - spot[2]) > _LEVEL_M:
            return False
    return True


def _clearance(thing: Thing, spot: Array, view: Eye, way: Array) -> float:
    """Metres between a thing and the way, or what the camera sees of its points; negative: too near."""
    clear = math.inf
    for first, last in zip(way[:-1, :2], way[1:, :2], strict=True):
        clear = min(clear, _distance(spot[:2], first, last) - thing.radius - _WAY_M)
    middle = spot + np.array([0.0, 0.0, thing.half_m[2]])
    for point in way:
        clear = min(
            clear, _distance(middle, view.position, point) - math.hypot(thing.radius, thing.half_m[2])
        )
    return clear


def _distance(point: Array, first: Array, last: Array) -> float:
    """From a point to a segment."""
    along = last - first
    share = float(np.clip((point - first) @ along / max(float(along @ along), 1e-12), 0, 1))
    return math.dist(point, first + share * along)


def add(scene: Any, places: Sequence[Place]) -> None:
    """Put the `THINGS` into a picture that is about to be drawn.

    Args:
        scene: an updated `mujoco.MjvScene`.
        places: of `find_places`; empty for none.
    """
    import mujoco

    shapes = {"cylinder": mujoco.mjtGeom.mjGEOM_CYLINDER, "box": mujoco.mjtGeom.mjGEOM_BOX}
    for thing, (x, y, z, turn) in zip(THINGS, places, strict=False):
        cos, sin = math.cos(turn), math.sin(turn)
        half = np.array(thing.half_m)
        mujoco.mjv_initGeom(
            scene.geoms[scene.ngeom],
            shapes[thing.shape],
            half if thing.shape == "box" else half[[0, 2, 1]],
            np.array([x, y, z + thing.half_m[2]]),
            np.array([cos, -sin, 0, sin, cos, 0, 0, 0, 1.0]),
            np.array([*thing.colour, 1.0], np.float32),
        )
        scene.ngeom += 1
