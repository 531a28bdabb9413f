"""Pictures of a Gymnasium environment: from wherever they come, square, and only when somebody looks."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ..look import Look
from ..wording import unknown
from .host import Host
from .mapping import Mapping, MappingError, View

Render = Literal["fast", "stock"]


def draw(
    host: Host, mapping: Mapping, task: str, view: View, size: int, render: Render, look: Look
) -> NDArray[np.uint8]:
    """One RGB frame (size,size,3); of a MuJoCo scene, changed as `look` says.

    Raises:
        MappingError: if there is no such camera, method or observation; if what is there is no picture.
        RenderError: if this machine has no OpenGL.
    """
    where = f"{mapping.source}: cameras.{view.name}"
    if view.kind in ("mujoco", "free"):
        from .studio import studio_for

        studio = studio_for(host, mapping, (mapping.source, task, size, render, look.kind == "texture"))
        frame = studio.draw(host, mapping, view, where, look)
    elif view.kind == "method":
        method = host.below(view.source)
        if not callable(method):
            raise MappingError(f"{where}: {view.source} is not a method")
        frame = _picture(method(), where)
    else:
        frame = _picture(_observed(host.observation, view.source, where), where)
    frame = np.rot90(frame, view.rotate // 90)
    if view.flip != "none":
        frame = frame[::-1] if view.flip == "vertical" else frame[:, ::-1]
    return np.ascontiguousarray(fit(frame, size))


def _observed(value: object, source: str, where: str) -> object:
    for key in source.split(".") if source else ():
        if not isinstance(value, dict) or key not in value:
            names = [str(name) for name in value] if isinstance(value, dict) else []
            raise MappingError(f"{where}: {unknown('observation', key, names)}")
        value = value[key]
    return value


def fit(frame: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """A frame (h,w,3) as (size,size,3): black bars make it square, then its area is averaged."""
    height, width, _ = frame.shape
    if height != width:
        side = max(height, width)
        square = np.zeros((side, side, 3), np.uint8)
        top, left = (side - height) // 2, (side - width) // 2
        square[top : top + height, left : left + width] = frame
        frame, height = square, side
    if height == size:
        return frame
    from PIL import Image

    return np.asarray(Image.fromarray(frame).resize((size, size), Image.Resampling.BOX))


def _picture(value: object, where: str) -> NDArray[np.uint8]:
    frame = np.asarray(value)
    if frame.ndim == 3 and frame.shape[0] == 3 and frame.shape[2] != 3:
        frame = frame.transpose(1, 2, 0)
    if frame.ndim != 3 or frame.shape[2] != 3 or frame.dtype != np.uint8:
        raise MappingError(
            f"{where}: an array {frame.shape} of {frame.dtype} is no picture: expected uint8 (h,w,3) or "
            '(3,h,w). Does the environment want render_mode = "rgb_array" among its kwargs?'
        )
    return frame
