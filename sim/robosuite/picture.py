"""Pictures of a robosuite simulation (of 1.5, or LIBERO's 1.4): the package's own pixels, or fast ones."""

from __future__ import annotations

import os
from typing import Any, Literal

import mujoco
import numpy as np
from numpy.typing import NDArray

Profile = Literal["fast", "stock"]


class RenderError(RuntimeError):
    """No OpenGL on this machine."""


class Pictures:
    """Renderers of one built environment, opened when first needed."""

    def __init__(self, sim: Any) -> None:
        """Take a package's simulation (its ``MjSim``)."""
        self._sim = sim
        self._fast: dict[int, mujoco.Renderer] = {}
        self._stock: Any = None

    def take(self, camera: str, size: int, profile: Profile) -> NDArray[np.uint8]:
        """One upright frame (size,size,3).

        Args:
            camera: the package's name for it.
            size: height and width in pixels.
            profile: ``stock`` gives the package's own pixels; ``fast`` draws without anti-aliasing, shadows,
                mirrors and sky, with coarse round shapes.

        Raises:
            RenderError: if there is no OpenGL.
        """
        try:
            return self._take_stock(camera, size) if profile == "stock" else self._take_fast(camera, size)
        # What is missing decides which of these PyOpenGL and mujoco raise.
        except (AttributeError, ImportError, OSError, RuntimeError, mujoco.FatalError) as error:
            raise RenderError(
                f"cannot render off-screen: {error}\n"
                f"MUJOCO_GL is {os.environ.get('MUJOCO_GL')!r} (read when mujoco is first imported).\n"
                "On Debian or Ubuntu: apt-get install --no-install-recommends libegl1 libgl1\n"
                "Then `regrip doctor` checks it."
            ) from error

    def _take_fast(self, camera: str, size: int) -> NDArray[np.uint8]:
        renderer = self._fast.get(size) or self._open_fast(size)
        renderer.update_scene(self._sim.data._data, camera, _visual_geometry(mujoco.MjvOption()))
        frame: NDArray[np.uint8] = renderer.render()
        return frame

    def _open_fast(self, size: int) -> mujoco.Renderer:
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
        self._fast[size] = renderer
        return renderer

    def _take_stock(self, camera: str, size: int) -> NDArray[np.uint8]:
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
        frame: NDArray[np.uint8] = self._sim.render(width=size, height=size, camera_name=camera)
        return np.ascontiguousarray(frame[::-1])

    def close(self) -> None:
        for renderer in self._fast.values():
            renderer.close()
        self._fast.clear()
        self._stock = self._sim._render_context_offscreen = None


def _visual_geometry(option: mujoco.MjvOption) -> mujoco.MjvOption:
    """Hide collision shapes, as the package does."""
    option.geomgroup[0], option.geomgroup[1] = 0, 1
    return option
