"""MuJoCo behind the `World` view: one compiled scene, its state, and a renderer tuned for software GL."""

# pyright: reportAttributeAccessIssue=false
# (mujoco is a compiled module without stubs)

from __future__ import annotations

import copy
import importlib.util
import os
import sys
from collections.abc import Mapping
from functools import lru_cache
from weakref import WeakValueDictionary

import mujoco
import numpy as np
from numpy.typing import NDArray

from ..explosion import exploded
from . import rotation
from .perturb import Look
from .scenes import SUBSTEPS, Scene

Array = NDArray[np.float64]

_STATE = mujoco.mjtState.mjSTATE_INTEGRATION
# MuJoCo notes what went wrong and by itself puts the scene back to where it was compiled.
_BROKEN = (
    mujoco.mjtWarning.mjWARN_BADQPOS,
    mujoco.mjtWarning.mjWARN_BADQVEL,
    mujoco.mjtWarning.mjWARN_BADQACC,
)


# One model per scene and one renderer per scene and size serve all the environments of a process: 24 of them
# with a GL context each ran at a quarter of the speed and took 680 MB instead of 170. A renderer lives as
# long as a world holds it.
_renderers: WeakValueDictionary[tuple[str, int, bool], mujoco.Renderer] = WeakValueDictionary()


@lru_cache(maxsize=8)
def _compile(mjcf: str) -> mujoco.MjModel:
    return mujoco.MjModel.from_xml_string(mjcf)


def _with_default_quality(model: mujoco.MjModel) -> mujoco.MjModel:
    """A copy that is drawn as MuJoCo draws by default: 4x multisampling, shadows, reflections."""
    copied = copy.copy(model)
    default = mujoco.MjModel.from_xml_string("<mujoco/>").vis.quality
    for name in ("offsamples", "shadowsize", "numslices", "numstacks", "numquads"):
        setattr(copied.vis.quality, name, getattr(default, name))
    copied.light_castshadow[:] = True
    return copied


class RenderError(RuntimeError):
    """No OpenGL on this machine."""


class MujocoWorld:
    """Implements `World`; also what a controller drives: arm joints and position targets."""

    def __init__(self, scene: Scene, image_size: int, fast: bool = True) -> None:
        self.scene = scene
        self._fast = fast
        self.model = _compile(scene.mjcf)  # shared: never to be written to
        self.data = mujoco.MjData(self.model)
        self._image_size = image_size
        self._renderer: mujoco.Renderer | None = None
        model = self.model
        self._body = {model.body(i).name: i for i in range(model.nbody)}
        self._body["table"] = 0
        joints = {model.joint(i).name: i for i in range(model.njnt)}
        self._qpos = {name: int(model.jnt_qposadr[i]) for name, i in joints.items()}
        self._dof = {name: int(model.jnt_dofadr[i]) for name, i in joints.items()}
        # The arm's joints come first in the file, then the fingers, then the scene's.
        assert [self._qpos[f"joint{i + 1}"] for i in range(7)] == list(range(7)), "arm joints must come first"
        assert self._qpos["finger1"] == 7, "finger joints must follow the arm"
        self._geom_body: list[int] = model.geom_bodyid.tolist()
        self._table_geom = model.geom("table").id
        self._contacts: set[tuple[int, int]] | None = None

    # The view -----------------------------------------------------------------------------------------------

    def position(self, body: str) -> Array:
        return np.array(self.data.xpos[self._body[body]])

    def quaternion(self, body: str) -> Array:
        return np.array(self.data.xquat[self._body[body]])

    def speed(self, body: str) -> float:
        dof = self._dof[body]
        return float(np.linalg.norm(self.data.qvel[dof : dof + 3]))

    def joint(self, name: str) -> float:
        return float(self.data.qpos[self._qpos[name]])

    def gripper_width(self) -> float:
        return float(self.data.qpos[7] + self.data.qpos[8])

    def touching(self, a: str, b: str) -> bool:
        if self._contacts is None:
            of = self._geom_body
            pairs = self.data.contact.geom.tolist()
            self._contacts = {(of[g], of[h]) for g, h in pairs} | {(of[h], of[g]) for g, h in pairs}
        return (self._body[a], self._body[b]) in self._contacts

    # The robot ----------------------------------------------------------------------------------------------

    def arm_joints(self) -> Array:
        """(7,) radians."""
        return np.array(self.data.qpos[:7])

    def command(self, joints: Array, gripper_width: float) -> None:
        """Set the position targets of the arm (7,) and of the gripper (metres between the pads)."""
        self.data.ctrl[:7] = joints
        self.data.ctrl[7:9] = gripper_width / 2

    def push(self, body: str, force: Array) -> None:
        """Pull at a body with a force (3,) in newtons until told otherwise; base frame."""
        self.data.xfrc_applied[self._body[body], :3] = force

    def advance(self, substeps: int = SUBSTEPS) -> None:
        """One control step of physics, or another number of physics steps.

        `mj_step` leaves poses and contacts one physics step behind. The same sequence of half steps, shifted
        by half a step, costs the same and ends with them up to date.
        """
        mujoco.mj_step2(self.model, self.data)
        mujoco.mj_step(self.model, self.data, substeps - 1)
        self.refresh()

    def refresh(self) -> None:
        """Recompute poses, contacts and velocities from the joint state."""
        mujoco.mj_step1(self.model, self.data)
        self._contacts = None

    @property
    def exploded(self) -> bool:
        """Whether the physics has broken down since the last `place`."""
        if any(self.data.warning[kind].number for kind in _BROKEN):
            return True
        return bool(exploded(self.data.qpos, self.data.qvel))

    # Setting the state --------------------------------------------------------------------------------------

    def place(
        self,
        arm: Array,
        gripper_width: float,
        poses: Mapping[str, tuple[Array, Array]],
        joints: Mapping[str, float],
    ) -> None:
        """Set everything, at rest.

        Args:
            arm: (7,) radians.
            gripper_width: metres.
            poses: prop to position (3,) and quaternion (4,); of a fixture only x and y are used.
            joints: articulated joint to position; the others are at 0.
        """
        mujoco.mj_resetData(self.model, self.data)
        qpos = self.data.qpos
        qpos[:7] = arm
        qpos[7:9] = gripper_width / 2
        for prop in self.scene.things:
            position, quaternion = poses[prop.name]
            if prop.loose:
                address = self._qpos[prop.name]
                qpos[address : address + 3] = position
                qpos[address + 3 : address + 7] = quaternion
            else:
                qpos[self._qpos[f"{prop.name}/x"]] = position[0]
                qpos[self._qpos[f"{prop.name}/y"]] = position[1]
        for name, value in joints.items():
            qpos[self._qpos[name]] = value
        self.command(arm, gripper_width)
        self.refresh()

    def displace_arm(self, delta: Array) -> None:
        """Move the arm's joints (7,) by `delta` radians, within their limits, at rest."""
        arm = np.clip(self.arm_joints() + delta, *self.model.jnt_range[:7].T)
        self.data.qpos[:7] = arm
        self.command(arm, self.gripper_width())
        self.refresh()

    def get_state(self) -> Array:
        """Everything physics depends on, to the bit."""
        state = np.empty(mujoco.mj_stateSize(self.model, _STATE))
        mujoco.mj_getState(self.model, self.data, state, _STATE)
        return state

    def set_state(self, state: Array) -> None:
        mujoco.mj_setState(self.model, self.data, state, _STATE)
        self.refresh()

    # Pictures -----------------------------------------------------------------------------------------------

    def render(self, camera: str, look: Look | None = None) -> NDArray[np.uint8]:
        """(H,W,3) RGB; `look` changes the picture and nothing else."""
        renderer = self._renderer
        if renderer is None:
            renderer = self._renderer = self._open_renderer()
        renderer.update_scene(self.data, camera)
        if look is not None:
            self._change(renderer.scene, camera, look)
        return np.array(renderer.render(), dtype=np.uint8)

    def _change(self, scene: mujoco.MjvScene, camera: str, look: Look) -> None:
        # The abstract scene is made anew for every picture; the model, which others share, stays as it is.
        for eye in scene.camera:
            back = -np.asarray(eye.forward)
            axes = np.stack([np.cross(eye.up, back), eye.up, back], 1)  # right, up, back
            if (turn := look.turn_rad.get(camera)) is not None:
                turned = axes @ rotation.matrix(rotation.from_vector(np.array(turn)))
                eye.up, eye.forward = turned[:, 1], -turned[:, 2]
            if (shift := look.shift_m.get(camera)) is not None:
                eye.pos = eye.pos + axes @ np.array(shift)
        swing = rotation.matrix(rotation.from_vector(np.array(look.lamp_turn_rad)))
        for light in scene.lights[: scene.nlight]:
            light.ambient = np.minimum(look.ambient * light.ambient, 1.0)
            if light.headlight:
                continue
            light.diffuse = np.minimum(np.array(look.lamp) * light.diffuse, 1.0)
            light.dir = swing @ light.dir
        if look.table is not None:
            for geom in scene.geoms[: scene.ngeom]:
                if geom.objtype == mujoco.mjtObj.mjOBJ_GEOM and geom.objid == self._table_geom:
                    geom.rgba = np.array((*look.table, 1.0), np.float32)

    def _open_renderer(self) -> mujoco.Renderer:
        key = (self.scene.mjcf, self._image_size, self._fast)
        if (shared := _renderers.get(key)) is not None:
            return shared
        # Triton, which torch loads late, brings an LLVM that must be there before the software renderer's.
        if "torch" in sys.modules and importlib.util.find_spec("triton") is not None:
            importlib.import_module("triton")
        try:
            model = self.model if self._fast else _with_default_quality(self.model)
            renderer = mujoco.Renderer(model, self._image_size, self._image_size)
        # What is missing decides which of these PyOpenGL and mujoco raise.
        except (AttributeError, ImportError, OSError, RuntimeError, mujoco.FatalError) as error:
            raise RenderError(
                f"cannot open an off-screen OpenGL context: {error}\n"
                f"MUJOCO_GL is {os.environ.get('MUJOCO_GL')!r} (read when mujoco is first imported).\n"
                "On Debian or Ubuntu: apt-get install --no-install-recommends libegl1 libgl1\n"
                "Then `regrip doctor` checks it."
            ) from error
        if self._fast:
            flags = renderer.scene.flags
            flags[mujoco.mjtRndFlag.mjRND_SHADOW] = 0
            flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = 0
        _renderers[key] = renderer
        return renderer

    def close(self) -> None:
        self._renderer = None  # the last one to let go closes it
