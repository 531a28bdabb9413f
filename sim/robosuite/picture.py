"""Pictures of a robosuite simulation (of 1.5, or LIBERO's 1.4): the package's own pixels, or fast ones."""

from __future__ import annotations

import os
from typing import Any, Literal

import mujoco
import numpy as np
from numpy.typing import NDArray

from ...datasets.starts import StartState
from .. import distractors
from .. import look as looks
from ..look import Look, Place

Profile = Literal["fast", "stock"]
# Some scenes have a table (or bins), some only a floor.
_SURFACE = ("table", "bin1", "floor")


class RenderError(RuntimeError):
    """No OpenGL on this machine."""


class Pictures:
    """Renderers of one built environment, opened when first needed."""

    def __init__(self, sim: Any) -> None:
        """Take a package's simulation (its ``MjSim``)."""
        self._sim = sim
        self._surface = looks.surface(sim.model._model, _SURFACE)
        self._fast: dict[tuple[int, bool], mujoco.Renderer] = {}
        self._stock: Any = None
        self._stock_tiled = False

    def take(self, camera: str, size: int, profile: Profile, look: Look | None = None) -> NDArray[np.uint8]:
        """One upright frame (size,size,3).

        Args:
            camera: the package's name for it.
            size: height and width in pixels.
            profile: ``stock`` gives the package's own pixels; ``fast`` draws without anti-aliasing, shadows,
                mirrors and sky, with coarse round shapes.
            look: how it differs from the package's.

        Raises:
            RenderError: if there is no OpenGL.
        """
        tiled = look is not None and look.kind == "texture"
        places = () if look is None else look.places
        take = self._take_stock if profile == "stock" else self._take_fast
        try:
            with looks.changed(look, self._sim.model._model, self._sim.data._data, self._surface):
                return take(camera, size, tiled, places)
        # What is missing decides which of these PyOpenGL and mujoco raise.
        except (AttributeError, ImportError, OSError, RuntimeError, mujoco.FatalError) as error:
            raise RenderError(
                f"cannot render off-screen: {error}\n"
                f"MUJOCO_GL is {os.environ.get('MUJOCO_GL')!r} (read when mujoco is first imported).\n"
                "On Debian or Ubuntu: apt-get install --no-install-recommends libegl1 libgl1\n"
                "Then `regrip doctor` checks it."
            ) from error

    def _take_fast(self, camera: str, size: int, tiled: bool, places: tuple[Place, ...]) -> NDArray[np.uint8]:
        renderer = self._fast.get((size, tiled)) or self._open_fast(size, tiled)
        renderer.update_scene(self._sim.data._data, camera, _visual_geometry(mujoco.MjvOption()))
        distractors.add(renderer.scene, places)
        frame: NDArray[np.uint8] = renderer.render()
        return frame

    def _open_fast(self, size: int, tiled: bool) -> mujoco.Renderer:
        model = self._sim.model._model
        quality = model.vis.quality
        names = ("offsamples", "shadowsize", "numslices", "numstacks")
        before = {name: getattr(quality, name) for name in names}
        for name, value in zip(names, (0, 0, 10, 6), strict=True):
            setattr(quality, name, value)
        try:
            renderer = mujoco.Renderer(model, size, size)
        finally:
            for name, value in before.items():  # read when a context is made; a stock one may follow
                setattr(quality, name, value)
        for flag in (
            mujoco.mjtRndFlag.mjRND_SHADOW,
            mujoco.mjtRndFlag.mjRND_REFLECTION,
            mujoco.mjtRndFlag.mjRND_SKYBOX,
        ):
            renderer.scene.flags[flag] = 0
        if tiled:
            looks.tile(model, renderer._mjr_context, self._surface, tiled)
        self._fast[size, tiled] = renderer
        return renderer

    def _take_stock(
        self, camera: str, size: int, tiled: bool, places: tuple[Place, ...]
    ) -> NDArray[np.uint8]:
        if self._stock is None:
            from robosuite.utils.binding_utils import (  # pyright: ignore[reportMissingImports]
                MjRenderContextOffscreen,
            )

            self._sim.forward = lambda: None  # else opening a picture would move the solver's warm start
            try:
                self._stock = MjRenderContextOffscreen(self._sim, device_id=-1)
            finally:
                del self._sim.forward
            _visual_geometry(self._stock.vopt)
        self._stock.gl_ctx.make_current()  # another task's may be
        if tiled != self._stock_tiled:
            looks.tile(self._sim.model._model, self._stock.con, self._surface, tiled)
            self._stock_tiled = tiled
        frame: NDArray[np.uint8] = self._sim.render(width=size, height=size, camera_name=camera)
        if places:  # into the scene that was just drawn, which is then drawn again
            distractors.add(self._stock.scn, places)
            mujoco.mjr_render(mujoco.MjrRect(0, 0, size, size), self._stock.scn, self._stock.con)
            frame = self._stock.read_pixels(size, size)
        return np.ascontiguousarray(frame[::-1])

    def free_places(self, start: StartState, camera: str, way: NDArray[np.float64]) -> tuple[Place, ...]:
        """Where distractors stand in the episode that has just begun; see `distractors.find_places`."""
        model, data = self._sim.model._model, self._sim.data._data
        view = distractors.eye(model, data, camera)
        try:
            scene = distractors.MujocoScene(model, data, self._surface)
            return distractors.find_places(start, scene, view, way)
        except ValueError:  # before the door hardly any of the table is in view
            scene = distractors.MujocoScene(model, data, looks.surface(model, ("floor",)))
            return distractors.find_places(start, scene, view, way)

    def close(self) -> None:
        for renderer in self._fast.values():
            renderer.close()
        self._fast.clear()
        self._stock = self._sim._render_context_offscreen = None


def _visual_geometry(option: mujoco.MjvOption) -> mujoco.MjvOption:
    """Hide collision shapes, as the package does."""
    option.geomgroup[0], option.geomgroup[1] = 0, 1
    return option
