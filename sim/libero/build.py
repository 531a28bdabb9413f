"""LIBERO's tasks, built. The only module that imports the package."""

from __future__ import annotations

import functools
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import mujoco
import numpy as np
from numpy.typing import NDArray

from ...datasets.starts import StartState
from ..robosuite.stage import Stage, Stages, Things, shift_to_lattice
from ..robosuite.tasks import Task
from . import assets
from .starts import read_starts
from .tasks import NUM_EVALUATION_STARTS, SETTLE_STEPS

_CONTROL_RATE_HZ = 20
_BUILDING_SEED = 0
IDLE = (0.0, 0.0, 0.0, 0.0, 0.0, 0.0, -1.0)  # stay, hand open


def _import_package() -> tuple[Any, Path]:
    """Import LIBERO's environments: (its module of them, its folder).

    The first import of the package asks on stdin where its data are, unless a file answers it.
    """
    before = os.environ.get("LIBERO_CONFIG_PATH")
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.yaml").write_text(json.dumps({}))
        os.environ["LIBERO_CONFIG_PATH"] = folder
        try:
            from libero import libero  # pyright: ignore[reportMissingImports, reportAttributeAccessIssue]
        finally:
            del os.environ["LIBERO_CONFIG_PATH"]
            if before is not None:
                os.environ["LIBERO_CONFIG_PATH"] = before
    libero._assets_path_cache = str(assets.folder())  # else it would ask the hub for them
    from libero.libero import envs  # pyright: ignore[reportMissingImports]

    return envs, Path(libero.__file__).parent


_envs, _package = _import_package()


def build(task: Task) -> Stage:
    """A task's stage; takes seconds.

    Raises:
        FileNotFoundError: if an asset is missing.
    """
    from robosuite.controllers import load_controller_config  # pyright: ignore[reportMissingImports]

    from libero.libero.envs import bddl_utils  # pyright: ignore[reportMissingImports]

    where = assets.folder()
    file = str(_package / "bddl_files" / f"{task.package_name}.bddl")
    problem = _envs.TASK_MAPPING[bddl_utils.get_problem_info(file)["problem_name"]]
    np.random.seed(_BUILDING_SEED)
    try:
        env = _checking_files(problem, where)(
            file,
            robots=["Panda"],
            controller_configs=load_controller_config(default_controller="OSC_POSE"),
            gripper_types="default",
            initialization_noise=None,
            has_renderer=False,
            has_offscreen_renderer=False,
            use_camera_obs=False,
            control_freq=_CONTROL_RATE_HZ,
            ignore_done=True,
            hard_reset=False,
        )
    except FileNotFoundError as error:
        if error.filename is None:
            raise
        raise FileNotFoundError(assets.lacking([str(error.filename)], where)) from error
    return Stage(env, lambda env, start, aside, _: begin(env, task, start, aside), look)


STAGES = Stages(build)


def _checking_files(problem: Any, where: Path) -> Any:
    """The package's class, but a missing file is named before MuJoCo stumbles over it."""

    def initialize_sim(self: Any, xml_string: str | None = None) -> None:
        assets.require_files(xml_string or self.model.get_xml(), where)
        problem._initialize_sim(self, xml_string)

    # The package insists on its class's name.
    return type(problem.__name__, (problem,), {"_initialize_sim": initialize_sim})


@functools.cache
def evaluation_starts(package_name: str) -> NDArray[np.float64]:
    """(50,D) the stored starts of a task."""
    return read_starts(_package / "init_files" / f"{package_name}.pruned_init")


def begin(env: Any, task: Task, start: StartState, aside: NDArray[np.float64] | None) -> None:
    """A stored start for the test split, one of the package's placement sampler else; then settle.

    Before it settles the arm's joints are moved by `aside` (7,) rad.

    Raises:
        ValueError: if the test split has no such start.
    """
    if start.split == "test" and start.index >= NUM_EVALUATION_STARTS:
        raise ValueError(
            f"{start.task} has {NUM_EVALUATION_STARTS} test starts, those stored in the package (index 0 to "
            f"{NUM_EVALUATION_STARTS - 1}), and index {start.index} was asked for: evaluate at most "
            f"{NUM_EVALUATION_STARTS} episodes a task"
        )
    np.random.seed(start.generator("reset").integers(2**32, size=4))
    _reset(env)
    if start.split == "test":
        # It places everything that moves; furniture stays where the reset has put it.
        env.sim.set_state_from_flattened(evaluation_starts(task.package_name)[start.index])
    else:
        _shift_objects(env, start)
    if aside is not None:
        env.sim.data.qpos[env.robots[0]._ref_joint_pos_indexes] += aside
    env.sim.forward()
    env._check_success()
    env._post_process()
    for _ in range(SETTLE_STEPS):
        env.step(np.array(IDLE))


def _reset(env: Any) -> None:
    """The package's reset; its sampler gives up now and then, and then it is asked again."""
    from robosuite.utils.errors import RandomizationError  # pyright: ignore[reportMissingImports]

    while True:
        try:
            env.reset()
        except RandomizationError:
            continue
        return


def _shift_objects(env: Any, start: StartState) -> None:
    """Move everything that is free to the lattice of the start's split: no start is one of another split.

    All of it, because some things have but one place, which is on the lattice in the stored starts, too.
    """
    model, data = env.sim.model, env.sim.data
    for body in env.obj_body_id.values():
        joint = model.body_jntadr[body]
        if joint >= 0 and model.jnt_type[joint] == int(mujoco.mjtJoint.mjJNT_FREE):
            address = model.jnt_qposadr[joint]
            data.qpos[address] = shift_to_lattice(float(data.qpos[address]), start)


def look(env: Any) -> Things:
    """The objects the problem file is about: the first, and the last as the goal."""
    data = env.sim.data

    def position(name: str) -> NDArray[np.float64]:
        if name in env.obj_body_id:
            return np.array(data.body_xpos[env.obj_body_id[name]])
        return np.array(data.get_site_xpos(name))  # a drawer's inside, a plate of the stove

    first, last = env.obj_of_interest[0], env.obj_of_interest[-1]
    body = env.obj_body_id.get(first)
    quaternion = np.array([1.0, 0, 0, 0]) if body is None else np.array(data.body_xquat[body])
    return Things(position(first), quaternion, position(last))
