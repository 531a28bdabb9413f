"""robosuite's tasks, built. With `stage` the only module that imports the package."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robosuite.environments import base  # pyright: ignore[reportMissingImports]

from ...datasets.starts import StartState
from .stage import Stage, Stages, Things, shift_to_lattice
from .tasks import Task

# What building a task draws (the size of Lift's cube: half an edge is 20 to 22 mm) is the same everywhere.
_BUILDING_SEED = 0
_CONTROL_RATE_HZ = 20
WIDER_M = 0.05


def build(task: Task) -> Stage:
    """A task's stage; takes seconds."""
    env = base.make(
        task.package_name,
        robots="Panda",
        has_renderer=False,
        has_offscreen_renderer=False,
        use_camera_obs=False,
        renderer="mujoco",
        control_freq=_CONTROL_RATE_HZ,
        ignore_done=True,
        hard_reset=False,
        seed=_BUILDING_SEED,
    )
    return Stage(
        env,
        lambda env, start, aside, wide: begin(env, task, start, aside, wide),
        lambda env: look(env, task),
    )


STAGES = Stages(build)


def begin(env: Any, task: Task, start: StartState, aside: NDArray[np.float64] | None, wide: bool) -> None:
    """The package's own reset, its generator keyed by the start; one x moved to the split's lattice.

    The package adds its own noise (0.02 rad) to where the arm's joints start, wherever that is. With `wide`
    its placement sampler draws from ranges that are `WIDER_M` wider on each side.
    """
    if aside is not None:
        env.robots[0].init_qpos = env.robots[0].init_qpos + aside
    seed = int(start.generator("reset").integers(2**63))
    env.rng.bit_generator.state = np.random.PCG64(seed).state  # placement samplers hold this very generator
    with _widened(env.placement_initializer) if wide else contextlib.nullcontext():
        env.reset()
    model, data = env.sim.model, env.sim.data
    body = model.body_name2id(_moving_body(task))
    joint = model.body_jntadr[body]
    if joint >= 0:
        address = model.jnt_qposadr[joint]
        data.qpos[address] = shift_to_lattice(float(data.qpos[address]), start)
    else:
        model.body_pos[body, 0] = shift_to_lattice(float(model.body_pos[body, 0]), start)
    env.sim.forward()


@contextlib.contextmanager
def _widened(sampler: Any) -> Iterator[None]:
    before = sampler.x_range, sampler.y_range
    sampler.x_range, sampler.y_range = ([low - WIDER_M, high + WIDER_M] for low, high in before)
    try:
        yield
    finally:
        sampler.x_range, sampler.y_range = before


def look(env: Any, task: Task) -> Things:
    """Where the things are; of `wipe`, the middle of the dirt that is left."""
    data, model = env.sim.data, env.sim.model
    if not task.object_body:
        left = [
            marker for marker in env.model.mujoco_arena.markers if marker not in env.wiped_markers
        ] or env.model.mujoco_arena.markers
        dirt = np.mean([data.body_xpos[model.body_name2id(marker.root_body)] for marker in left], axis=0)
        return Things(dirt, np.array([1.0, 0.0, 0.0, 0.0]), dirt)
    body = model.body_name2id(task.object_body)
    goal = model.body_name2id(task.goal_body) if task.goal_body else body
    return Things(data.body_xpos[body].copy(), data.body_xquat[body].copy(), data.body_xpos[goal].copy())


def _moving_body(task: Task) -> str:
    """The body whose position tells the splits apart."""
    return {"door": "Door_main", "wipe": "contact0_main"}.get(task.name, task.object_body)
