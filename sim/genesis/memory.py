"""What Genesis 1.4.5 and quadrants 1.3.3, its compiler, keep of scenes that are closed, and letting go of it.

For a scene of 1,024 environments that was 0.9 GB, and as much again for the next one.
"""

from __future__ import annotations

import gc
import importlib
from typing import Any


def live_arrays() -> list[Any]:
    """Arrays of all scenes of this process that hold memory."""
    return list(importlib.import_module("quadrants.lang.impl").get_runtime().ndarrays)


def free_arrays(any_scene_lives: bool) -> None:
    """Free the arrays of scenes that were destroyed."""
    # A tensor is kept with each array, and keeps the array, where no garbage collector sees it. Living scenes
    # make such tensors again.
    for array in live_arrays():
        for name in ("_tc", "_T_tc", "_np", "_T_np"):
            vars(array).pop(name, None)
    if not any_scene_lives:
        _forget_which_kernels_are_faster()
    gc.collect()


def _forget_which_kernels_are_faster() -> None:
    """It is noted for the arguments of a call, which are arrays; a living scene tries all of them again."""
    kind = importlib.import_module("quadrants.lang._perf_dispatch").PerformanceDispatcher
    for dispatcher in gc.get_objects():
        if type(dispatcher) is not kind:
            continue
        dispatcher._cached_args = dispatcher._cached_kwargs = dispatcher._cached_impl = None
        for name, note in vars(dispatcher).items():
            if name.endswith("_by_geometry_hash") or name == "_first_eval_completed":
                note.clear()
