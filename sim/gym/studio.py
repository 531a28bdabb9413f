"""Pictures of a Gymnasium environment's MuJoCo scene. Imports mujoco.

They are drawn by a renderer of ours from a copy of the model and of the state: some packages compute forward
or move things when they draw, after which the episode goes on differently. Environments of one task share
the renderer, because each one costs a GL context and a copy of all meshes.
"""

from __future__ import annotations

import copy
import os
from typing import Any

import mujoco
import numpy as np
from numpy.typing import NDArray

from ...datasets.starts import StartState
from .. import distractors
from .. import look as looks
from ..look import Look, Place
from ..wording import unknown
from .frames import Render
from .host import Host
from .mapping import Mapping, MappingError, View

_STATE = mujoco.mjtState.mjSTATE_INTEGRATION
# What an environment may change in its model from one episode to the next, and a picture shows.
_VISIBLE = (
    "body_pos", "body_quat", "geom_pos", "geom_quat", "geom_size", "geom_rgba", "geom_matid", "site_pos",
    "site_quat", "site_size", "site_rgba", "cam_pos", "cam_quat", "cam_fovy", "light_pos", "light_dir",
    "light_diffuse", "light_ambient", "light_specular", "mat_rgba",
)  # fmt: skip
_SIZES = ("nq", "nv", "na", "nbody", "ngeom", "nsite", "ncam", "nlight", "nmesh", "nmat", "ntex", "nmocap")

_studios: dict[tuple[Any, ...], Studio] = {}


class RenderError(RuntimeError):
    """No OpenGL on this machine."""


def studio_for(host: Host, mapping: Mapping, key: tuple[str, str, int, Render, bool]) -> Studio:
    """A file's, a task's, of a size, a quality, tiled or not; a new one if the scene has grown."""
    model, _ = host.simulator()
    whole = (*key, *(getattr(model, name) for name in _SIZES))
    if whole not in _studios:
        _studios[whole] = Studio(model, mapping, key[2], key[3], key[4])
    return _studios[whole]


class Studio:
    """A renderer, and copies of a model and a state to draw from."""

    def __init__(
        self, model: mujoco.MjModel, mapping: Mapping, size: int, render: Render, tiled: bool
    ) -> None:
        self._model = copy.copy(model)
        self._data = mujoco.MjData(self._model)
        self._renderer = _open_renderer(self._model, size, render)
        self._surface: list[int] = []
        if mapping.surface:
            try:
                self._surface = looks.surface(self._model, mapping.surface)
                if tiled:
                    looks.tile(self._model, self._renderer._mjr_context, self._surface, tiled)
            except ValueError as error:
                raise MappingError(f"{mapping.source}: surface: {error}") from error

    def draw(self, host: Host, mapping: Mapping, view: View, where: str, look: Look) -> NDArray[np.uint8]:
        model, data = self._model, self._data
        theirs, their_data = host.simulator()
        for name in _VISIBLE:
            getattr(model, name)[...] = getattr(theirs, name)
        state = np.empty(mujoco.mj_stateSize(theirs, _STATE), np.float64)
        mujoco.mj_getState(theirs, their_data, state, _STATE)
        mujoco.mj_setState(model, data, state, _STATE)
        # After mj_step positions are one physics step behind the state.
        for bring_up_to_date in (
            mujoco.mj_kinematics, mujoco.mj_comPos, mujoco.mj_camlight, mujoco.mj_flex, mujoco.mj_tendon,
        ):  # fmt: skip
            bring_up_to_date(model, data)
        for site, place in mapping.markers.items():
            number = mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_SITE, site)
            if number < 0:
                names = [model.site(i).name for i in range(model.nsite)]
                raise MappingError(f"{mapping.source}: markers: {unknown('site', site, names)}")
            data.site_xpos[number] = host.vector(place, ("x", "y", "z"), f"markers.{site}")
        with looks.changed(look, model, data, self._surface):
            self._renderer.update_scene(data, self._camera(view, where, look))
            distractors.add(self._renderer.scene, look.places)
            return np.array(self._renderer.render(), dtype=np.uint8)

    def _camera(self, view: View, where: str, look: Look) -> str | mujoco.MjvCamera:
        if view.kind == "mujoco":
            names = [self._model.camera(i).name for i in range(self._model.ncam)]
            if view.source not in names:
                raise MappingError(f"{where}: {unknown('camera of the model', view.source, names)}")
            return view.source
        camera = mujoco.MjvCamera()
        camera.type = mujoco.mjtCamera.mjCAMERA_FREE
        camera.distance, camera.azimuth, camera.elevation = view.place[:3]
        camera.lookat[:] = view.place[3:]
        if look.kind == "camera":
            shift, turn = look.camera(view.name, rides=False)
            camera.lookat[:] += shift
            camera.azimuth += np.degrees(turn[1])
            camera.elevation += np.degrees(turn[0])
        return camera


def free_places(
    host: Host, mapping: Mapping, start: StartState, way: NDArray[np.float64]
) -> tuple[Place, ...]:
    """Where distractors stand in the episode that has just begun, in view of the mapping's first camera.

    Raises:
        ValueError: if there is no room for them.
    """
    model, theirs = host.simulator()
    data = mujoco.MjData(model)
    state = np.empty(mujoco.mj_stateSize(model, _STATE), np.float64)
    mujoco.mj_getState(model, theirs, state, _STATE)
    mujoco.mj_setState(model, data, state, _STATE)
    mujoco.mj_kinematics(model, data)
    mujoco.mj_comPos(model, data)
    mujoco.mj_camlight(model, data)
    view = mapping.views[0]
    eye = _free_eye(model, view) if view.kind == "free" else distractors.eye(model, data, view.source)
    scene = distractors.MujocoScene(model, data, looks.surface(model, mapping.surface))
    return distractors.find_places(start, scene, eye, way)


def _free_eye(model: mujoco.MjModel, view: View) -> distractors.Eye:
    azimuth, elevation = np.radians(view.place[1:3])
    right = np.array([np.sin(azimuth), -np.cos(azimuth), 0.0])
    ahead = np.array([*(np.cos(elevation) * np.array([-right[1], right[0]])), np.sin(elevation)])
    axes = np.stack([right, np.cross(right, ahead), -ahead], 1)
    position = np.array(view.place[3:]) - view.place[0] * ahead
    return distractors.Eye(position, axes, np.radians(float(model.vis.global_.fovy)))


def _open_renderer(model: mujoco.MjModel, size: int, render: Render) -> mujoco.Renderer:
    """``stock`` as the package draws; ``fast`` without anti-aliasing, shadows, mirrors and fine curves."""
    buffer, quality = model.vis.global_, model.vis.quality
    buffer.offwidth, buffer.offheight = max(buffer.offwidth, size), max(buffer.offheight, size)
    if render == "fast":
        quality.offsamples = quality.shadowsize = 0
        quality.numslices, quality.numstacks = 10, 6
    try:
        renderer = mujoco.Renderer(model, size, size)
    # What is missing decides which of these PyOpenGL and mujoco raise.
    except (AttributeError, ImportError, OSError, RuntimeError, mujoco.FatalError) as error:
        raise RenderError(
            f"cannot open an off-screen OpenGL context: {error}\n"
            f"MUJOCO_GL is {os.environ.get('MUJOCO_GL')!r} (read when mujoco is first imported).\n"
            "On Debian or Ubuntu: apt-get install --no-install-recommends libegl1 libgl1\n"
            "Then `regrip doctor` checks it."
        ) from error
    if render == "fast":
        renderer.scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = 0
        renderer.scene.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = 0
    return renderer
