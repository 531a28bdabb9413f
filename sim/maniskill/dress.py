"""Pictures of a ManiSkill scene, changed as `look.Look` says. Imports the package's engine.

The scene is built anew for each episode, so what is changed in it need not be changed back; but materials are
shared with what SAPIEN keeps of its files, so those are replaced.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import sapien  # pyright: ignore[reportMissingImports]
from numpy.typing import NDArray

from ...datasets.starts import StartState
from .. import distractors
from ..look import TILES, Array, Look, Place, matrix

_TABLE, _GROUND = "table-workspace", "ground"
FURNITURE = (_TABLE, _GROUND)
_LOOKING = "base_camera"
_TEXELS = 8  # of a tile's edge: a texture is smoothed where it is magnified


def dress(env: Any, look: Look) -> None:
    """Change a scene that was just built, before its first picture.

    Args:
        env: the package's environment without its wrappers.
        look: how its pictures shall differ.
    """
    if look.kind == "camera":
        for name, sensor in env.scene.sensors.items():
            _move(sensor.camera, look, name, rides=sensor.config.mount is not None)
        return
    for scene in env.scene.sub_scenes:
        if look.kind == "distractors":
            _set_out(scene, look)
        elif look.kind == "light":
            _change_light(scene, look)
        elif look.kind in ("background", "texture"):
            for entity in scene.entities:
                if entity.name.endswith(_TABLE):
                    _cover(entity, look)


@dataclass(frozen=True)
class _Boxes:
    """Implements `distractors.Scene`: everything is as large as the box around it.

    Attributes:
        boxes: (n,2,3) lowest and highest corners, metres.
        under: which of them is the table.
    """

    boxes: Array
    under: int

    def meet(self, origin: Array, direction: Array) -> tuple[Array, bool] | None:
        along = np.where(np.abs(direction) < 1e-12, 1e-12, direction)
        sides = np.sort((self.boxes - origin) / along, axis=1)
        enters, leaves = sides[:, 0].max(1), sides[:, 1].min(1)
        # A camera may be in the box around a bent arm: that hides nothing.
        enters = np.where((enters <= leaves) & (enters > 0), enters, np.inf)
        first = int(np.argmin(enters))
        return (origin + enters[first] * direction, first == self.under) if enters[first] < np.inf else None


def places(env: Any, start: StartState, way: Array) -> tuple[Place, ...]:
    """Where distractors stand in the episode that has just begun; see `distractors.find_places`."""
    (scene,) = env.scene.sub_scenes
    boxes, names = [], []
    for entity in scene.entities:
        body = entity.find_component_by_type(sapien.render.RenderBodyComponent)
        if body is not None:
            boxes.append(body.compute_global_aabb_tight())
            names.append(entity.name)
    (under,) = (number for number, name in enumerate(names) if name.endswith(_TABLE))
    camera = env.scene.sensors[_LOOKING].camera._render_cameras[0]
    seen = camera.global_pose.to_transformation_matrix().astype(np.float64)
    ahead, left, up = seen[:3, 0], seen[:3, 1], seen[:3, 2]
    view = distractors.Eye(seen[:3, 3], np.stack([-left, up, -ahead], 1), float(camera.fovy))
    return distractors.find_places(start, _Boxes(np.array(boxes, np.float64), under), view, way)


def _set_out(scene: Any, look: Look) -> None:
    for thing, (x, y, z, turn) in zip(distractors.THINGS, look.places, strict=True):
        material = sapien.render.RenderMaterial()
        material.base_color = [*thing.colour, 1.0]
        material.roughness, material.specular = 1.0, 0.0
        half = list(thing.half_m)
        if thing.shape == "box":
            shape = sapien.render.RenderShapeBox(half, material)
        else:
            shape = sapien.render.RenderShapeCylinder(half[0], half[2], material)
            shape.local_pose = _pose((0.0, 0.0, 0.0), np.array([0.0, np.pi / 2, 0.0]))  # it lies along x
        body = sapien.render.RenderBodyComponent()
        body.attach(shape)
        entity = sapien.Entity()
        entity.name = "distractor"
        entity.add_component(body)
        entity.set_pose(_pose((x, y, z + thing.half_m[2]), np.array([0.0, 0.0, turn])))
        scene.add_entity(entity)


def _move(camera: Any, look: Look, name: str, rides: bool) -> None:
    (right, up, back), (pitch, yaw, roll) = look.camera(name, rides)
    # SAPIEN's cameras look along x, with y to the left and z up.
    change = _pose((-back, -right, up), np.array([-roll, -pitch, yaw]))
    for one in camera._render_cameras:
        one.local_pose = one.local_pose * change


def _change_light(scene: Any, look: Look) -> None:
    ambient, lamp, turn = look.light()
    scene.ambient_light = np.asarray(scene.ambient_light) * ambient
    around = _pose((0.0, 0.0, 0.0), turn)
    for entity in scene.entities:
        for component in entity.components:
            if isinstance(component, sapien.render.RenderLightComponent):
                component.color = np.asarray(component.color) * lamp
                entity.set_pose(around * entity.get_pose())


def _cover(entity: Any, look: Look) -> None:
    body = entity.find_component_by_type(sapien.render.RenderBodyComponent)
    covered = sapien.render.RenderBodyComponent()
    covered.name, covered.visibility = body.name, body.visibility
    for shape in body.render_shapes:
        for part in shape.parts:
            mesh = sapien.render.RenderShapeTriangleMesh(
                part.vertices, part.triangles, part.get_vertex_normal(), part.get_vertex_uv(), _material(look)
            )
            mesh.scale, mesh.local_pose = shape.scale, shape.local_pose
            covered.attach(mesh)
    entity.remove_component(body)
    entity.add_component(covered)


def _material(look: Look) -> Any:
    material = sapien.render.RenderMaterial()
    material.roughness = 1.0
    material.specular = 0.0
    if look.kind == "background":
        material.base_color = [*look.colour(), 1.0]
        return material
    rows, columns = np.indices((2 * _TEXELS, 2 * _TEXELS)) // _TEXELS
    pixels = np.ones((2 * _TEXELS, 2 * _TEXELS, 4), np.float32)
    pixels[..., :3] = np.array(TILES)[(rows + columns) % 2]
    material.base_color_texture = sapien.render.RenderTexture2D(
        np.round(255 * pixels).astype(np.uint8), "R8G8B8A8Unorm", filter_mode="nearest", srgb=True
    )
    return material


def _pose(position: tuple[float, ...], turn_rad: NDArray[np.float64]) -> Any:
    whole = np.eye(4)
    whole[:3, :3], whole[:3, 3] = matrix(turn_rad), position
    return sapien.Pose(whole)
