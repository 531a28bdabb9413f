"""An environment whose process counts its OpenGL contexts, for `supervision.py`: imported in the workers.

The file ``$REGRIP_CONTEXTS`` holds how many contexts mujoco has made and freed so far, in bytes 0-7 and 8-15.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from regrip.sim.env import Env
from regrip.sim.worker import resolve

_counts = [0, 0]


def make(factory: str, kwargs: Mapping[str, Any]) -> Env:
    """The environment of another factory."""
    if not Path(os.environ["REGRIP_CONTEXTS"]).exists():  # the first of this process
        _write()
        _count()
    env: Env = resolve(factory)(**kwargs)
    return env


def _write() -> None:
    Path(os.environ["REGRIP_CONTEXTS"]).write_bytes(struct.pack("<2q", *_counts))


def _count() -> None:
    try:
        import mujoco.egl
    except ImportError:  # ManiSkill's interpreter draws with Vulkan
        return
    kind: Any = mujoco.egl.GLContext
    begin: Callable[..., None] = kind.__init__
    end: Callable[[Any], None] = kind.free

    def made(self: Any, *args: Any, **kwargs: Any) -> None:
        begin(self, *args, **kwargs)
        _counts[0] += 1
        _write()

    def freed(self: Any) -> None:
        if self._context:
            _counts[1] += 1
            _write()
        end(self)

    kind.__init__, kind.free = made, freed
