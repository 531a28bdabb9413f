"""Genesis behind the tabletop: one scene of the suite's MJCF, many environments in it, on one device.

The only module that imports genesis. Everything batched is (N,...) with a row for each environment.
"""

# pyright: reportAttributeAccessIssue=false, reportMissingImports=false
# (mujoco is a compiled module without stubs; genesis lives in an interpreter of its own)

from __future__ import annotations

import sys
import weakref
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import mujoco
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..compatibility import GENESIS
from ..tabletop.layout import Layout
from ..tabletop.scenes import CONTROL_RATE_HZ, SUBSTEPS, Scene
from ..wording import unknown
from .memory import free_arrays

Array = NDArray[np.float64]
Fidelity = Literal["standard", "mujoco"]
FIDELITIES: tuple[Fidelity, ...] = get_args(Fidelity)
"""``standard``: single precision, Genesis's own contacts. ``mujoco``: double precision and the settings under
which Genesis follows MuJoCo's arithmetic, to compare the two."""

NUM_ARM = 7
NUM_DRIVEN = 9  # the arm and two fingers, first in the file

# Fitted to MuJoCo's pictures of the same scene: its lamp, its headlight, and ambient light. MuJoCo's
# headlight goes with the camera; ours is turned for each camera (one direction for all environments).
_LAMP: tuple[tuple[float, float, float], float] = ((-0.25, -0.3, -1.0), 2.46)
_HEADLIGHT: tuple[tuple[float, float, float], float] = ((-0.772, 0.0, -0.636), 1.50)
_HEADLIGHT_OF = {"front": _HEADLIGHT[0], "wrist": (0.0, 0.0, -1.0)}
_AMBIENT = 0.32
_SKY = (0.80, 0.86, 0.92)
_NEAR_M, _FAR_M = 0.02, 10.0


class GenesisError(RuntimeError):
    """Genesis is missing, or was started in this process with other settings."""


def _import() -> Any:
    hook = sys.excepthook
    try:
        import genesis
    except ImportError as error:
        raise GenesisError(
            f"Genesis cannot be imported ({error}): `make genesis` makes .venv-genesis, an interpreter that "
            "has it; run .venv-genesis/bin/regrip (docs/genesis.md)"
        ) from error
    sys.excepthook = hook  # it puts its own in place
    GENESIS.check_interpreter()
    return genesis


_started: tuple[str, str] | None = None


def start(device: str, fidelity: Fidelity) -> Any:
    """Import and start Genesis, once in a process.

    Raises:
        GenesisError: if it is not installed, or runs here with another device or precision.
        RuntimeError: if it is a version that was not tried.
    """
    global _started
    wanted = (device.split(":")[0], "64" if fidelity == "mujoco" else "32")
    gs = _import()
    if _started is None:
        if wanted[0] not in ("cpu", "cuda"):
            raise GenesisError(unknown("device for Genesis", device, ["cpu", "cuda"]))
        if wanted[0] == "cuda" and not torch.cuda.is_available():
            raise GenesisError("device is cuda, but torch sees no CUDA device here: use cpu")
        gs.init(
            backend=gs.cuda if wanted[0] == "cuda" else gs.cpu, precision=wanted[1], logging_level="error"
        )
        _started = wanted
    elif _started != wanted:
        raise GenesisError(
            f"Genesis runs in this process with (device, precision) {_started}, now asked for {wanted}: it "
            "cannot change; use another process"
        )
    return gs


@dataclass(frozen=True)
class Poses:
    """What predicates and experts read of the present state, on the host.

    Attributes:
        position: (N,L,3) of each link, metres.
        quaternion: (N,L,4) w, x, y, z.
        qpos: (N,nq) in MuJoCo's order.
        qvel: (N,nv).
        touch: bool (N,L,L), whether two links are in contact.
    """

    position: Array
    quaternion: Array
    qpos: Array
    qvel: Array
    touch: NDArray[np.bool_]


class GenesisScene:
    """`num_envs` copies of a tabletop scene.

    Contacts are those of the last physics step (5 ms before the poses; MuJoCo's are up to date), and none
    right after `place`.

    Attributes:
        num_envs: N.
        device: of all tensors.
        body: name to link number; ``table`` is the world.
        failed: bool (N,), rows in which the solver gave up during the last `advance`.
    """

    def __init__(
        self,
        scene: Scene,
        num_envs: int,
        *,
        cameras: Sequence[str] = (),
        image_size: int = 64,
        device: str = "cpu",
        fidelity: Fidelity = "standard",
        per_env_physics: bool = False,
    ) -> None:
        """Build and compile it: minutes the first time, then Genesis has its kernels in a cache.

        Args:
            scene: of a suite.
            num_envs: environments.
            cameras: of the MJCF file.
            image_size: height and width, pixels.
            device: ``cpu`` or ``cuda``; the latter takes Genesis's batch renderer.
            fidelity: see `FIDELITIES`.
            per_env_physics: keep masses and gains for each environment, see `set_physics`.
        """
        if fidelity not in FIDELITIES:
            raise ValueError(unknown("fidelity", fidelity, list(FIDELITIES)))
        gs = self._gs = start(device, fidelity)
        self.scene, self.num_envs, self.fidelity = scene, num_envs, fidelity
        self._model = mujoco.MjModel.from_xml_string(scene.mjcf)
        self._batched_pictures = device != "cpu"
        options: dict[str, Any] = {
            "friction_cone": gs.friction_cone.elliptic,
            "contact_resolution": gs.contact_resolution.convex,
            "impratio": 10.0,
            "integrator": gs.integrator.implicitfast,
            "enable_torsional_friction": True,
            "constraint_timeconst": None,  # every geom has its own
            "box_box_detection": True,
            "batch_links_info": per_env_physics,
            "batch_dofs_info": per_env_physics,
        }
        if fidelity == "mujoco":
            options |= {
                "enable_mujoco_compatibility": True,
                "contact_pruning_tolerance": None,
                "iterations": 100,
                "tolerance": 1e-8,
            }
        lights = [
            {"type": "directional", "dir": direction, "color": (1.0, 1.0, 1.0), "intensity": intensity}
            for direction, intensity in (_LAMP, _HEADLIGHT)
        ]
        self._gs_scene = gs.Scene(
            show_viewer=False,
            sim_options=gs.options.SimOptions(dt=1 / CONTROL_RATE_HZ, substeps=SUBSTEPS),
            rigid_options=gs.options.RigidOptions(**options),
            vis_options=gs.options.VisOptions(
                shadow=False,
                plane_reflection=False,
                split_envs=True,
                background_color=_SKY,
                ambient_light=(_AMBIENT,) * 3,
                lights=lights,
            ),
            renderer=gs.renderers.BatchRenderer(use_rasterizer=True)
            if self._batched_pictures
            else gs.renderers.Rasterizer(),
        )
        robot, things = _split(scene.mjcf)
        flat = gs.surfaces.Default(smooth=False)
        self._entity = self._gs_scene.add_entity(
            gs.morphs.MJCF(file=robot), gs.materials.Rigid(gravity_compensation=1.0), flat
        )
        self._gs_scene.add_entity(gs.morphs.MJCF(file=things), surface=flat)
        self._cameras = {name: self._add_camera(name, image_size) for name in cameras}
        if self._batched_pictures and cameras:
            for direction, intensity in (_LAMP, _HEADLIGHT):
                self._gs_scene.add_light(
                    pos=(0.0, 0.0, 2.0),
                    dir=direction,
                    intensity=intensity,
                    directional=True,
                    castshadow=False,
                )
        self._gs_scene.build(n_envs=num_envs)
        self._solver = self._gs_scene.sim.rigid_solver
        self.device = torch.device(gs.device)
        # The robot's file has a world of its own, without the table; the later one is kept.
        self.body = {link.name: link.idx for link in self._solver.links}
        self.body["table"] = self.body["world"]
        self._num_links = len(self._solver.links)
        model = self._model
        joints = {model.joint(i).name: i for i in range(model.njnt)}
        self.qpos_of = {name: int(model.jnt_qposadr[i]) for name, i in joints.items()}
        self.dof_of = {name: int(model.jnt_dofadr[i]) for name, i in joints.items()}
        ours = list(joints)
        theirs = [joint.name for joint in self._solver.joints if joint.n_dofs]
        assert theirs == ours, f"Genesis orders the joints {theirs}, MuJoCo {ours}"
        self._map_arrays()
        self._driven = list(range(NUM_DRIVEN))
        self._nominal = self._read_nominal() if per_env_physics else None
        self.failed = np.zeros(num_envs, dtype=np.bool_)
        self._touch_valid = torch.zeros(num_envs, dtype=torch.bool, device=self.device)
        self._touch = torch.zeros(num_envs, self._num_links**2, dtype=torch.bool, device=self.device)
        self._pristine = self.get_state([0])
        _living.add(self)

    # Arrays ------------------------------------------------------------------------------------------------

    def _map_arrays(self) -> None:
        """Views (N,...) on Genesis's own arrays: what one step hands to the next is its kind ``STATE``."""
        from genesis.utils.array_class import ArrayItem, DataKind
        from genesis.utils.misc import qd_to_torch

        # Model parameters that `set_physics` changes for each environment.
        changeable = ("friction_ratio", "inertial_mass", "inertial_i", "invweight", "kp", "kv", "act_")
        self._state: list[Tensor] = []
        names: dict[str, Tensor] = {}
        for item in self._solver.data:
            if not isinstance(item, ArrayItem) or not item.array.shape:
                continue
            batched = item.array.shape[-1] == self.num_envs
            if item.kind not in (DataKind.STATE, DataKind.INFO, DataKind.DERIVED) or not batched:
                continue
            is_changeable = item.kind == DataKind.INFO and any(part in item.name for part in changeable)
            # (links,) and (links, N) must not be confused when N happens to be the number of links.
            if is_changeable and len(item.array.shape) < 2:
                continue
            wanted = (
                item.kind == DataKind.STATE
                or is_changeable
                or item.name in ("dyn_state.links.pos", "dyn_state.links.quat")
                or item.name.startswith("collider_state.contact_data.link_")
                or item.name == "collider_state.n_contacts"
            )
            if not wanted:
                continue
            view = qd_to_torch(item.array, transpose=len(item.array.shape) > 1, copy=False)
            assert view.shape[0] == self.num_envs, f"{item.name} is {tuple(view.shape)}"
            names[item.name] = view
            if item.kind == DataKind.STATE or is_changeable:
                self._state.append(view)
        self.qpos = names["rigid_info.qpos"]
        self.qvel = names["dyn_state.dofs.vel"]
        self.target = names["dyn_state.dofs.ctrl_pos"]
        self.position = names["dyn_state.links.pos"]
        self.quaternion = names["dyn_state.links.quat"]
        self._link_a = names["collider_state.contact_data.link_a"]
        self._link_b = names["collider_state.contact_data.link_b"]
        self._num_contacts = names["collider_state.n_contacts"]
        self._errno = names["errno"]

    @property
    def state_bytes(self) -> int:
        """Length of a row of `get_state`."""
        return int(self._pristine.shape[1])

    def get_state(self, rows: Sequence[int]) -> Tensor:
        """Everything physics depends on, to the bit: uint8 (len(rows), K)."""
        index = torch.as_tensor(rows, device=self.device)
        parts = [view[index].contiguous() for view in self._state]
        parts += [(self._touch & self._touch_valid[:, None])[index]]
        return torch.cat([part.reshape(len(rows), -1).view(torch.uint8) for part in parts], 1)

    def set_state(self, rows: Sequence[int], state: Tensor) -> None:
        """Write rows of `get_state`; poses are up to date afterwards."""
        index, first = torch.as_tensor(rows, device=self.device), 0
        for view in (*self._state, self._touch):
            shape = (len(rows), *view.shape[1:])
            count = int(np.prod(shape[1:], dtype=np.int64)) * view.element_size()
            piece = state[:, first : first + count].reshape(-1).clone()  # a copy, for it must be aligned
            view[index] = piece.view(view.dtype).reshape(shape)
            first += count
        self._touch_valid[index] = True
        self.refresh()

    def refresh(self) -> None:
        """Recompute all poses from the joints.

        Always by the same kernel, after a step too: the last bit must not tell whether a state was restored.
        """
        self._solver._is_forward_pos_updated = False
        self._solver._is_forward_vel_updated = False
        self._solver.update_forward_pos()

    # Physics -----------------------------------------------------------------------------------------------

    def place(self, rows: Sequence[int], arm: Array, gripper_width: float, layouts: Sequence[Layout]) -> None:
        """Set whole environments, at rest, as `MujocoWorld.place` does; arm is (len(rows),7) radians."""
        if not rows:
            return
        qpos = np.zeros((len(rows), self._model.nq))
        qpos[:, :NUM_ARM] = arm
        qpos[:, NUM_ARM:NUM_DRIVEN] = gripper_width / 2
        for row, layout in enumerate(layouts):
            for prop in self.scene.things:
                position, quaternion = layout.poses[prop.name]
                if prop.loose:
                    address = self.qpos_of[prop.name]
                    qpos[row, address : address + 7] = (*position, *quaternion)
                else:
                    qpos[row, self.qpos_of[f"{prop.name}/x"]] = position[0]
                    qpos[row, self.qpos_of[f"{prop.name}/y"]] = position[1]
            for name, value in layout.joints.items():
                qpos[row, self.qpos_of[name]] = value
        self.set_state(rows, self._pristine.expand(len(rows), -1))
        index = torch.as_tensor(rows, device=self.device)
        given = torch.as_tensor(qpos, dtype=self.qpos.dtype, device=self.device)
        self.qpos[index] = given
        self._entity.control_dofs_position(given[:, :NUM_DRIVEN], self._driven, index)
        self._touch_valid[index] = False
        self.refresh()

    def clear(self, rows: Sequence[int]) -> None:
        """Put environments that came apart back into the state in which the scene was built."""
        self.set_state(rows, self._pristine.expand(len(rows), -1))

    def command(self, joints: Tensor, gripper_width: Tensor, rows: Tensor) -> None:
        """Position targets of the arm (n,7) and of the gripper (n,), metres between the pads."""
        targets = torch.cat((joints, gripper_width[:, None].expand(-1, 2) / 2), 1)
        self._entity.control_dofs_position(targets.to(self.qpos.dtype), self._driven, rows)

    def advance(self) -> None:
        """One control step of physics, in every environment."""
        self._gs_scene.step(update_visualizer=False, refresh_visualizer=False)
        self.failed = (self._errno != 0).cpu().numpy()
        self._errno.zero_()  # it would stop all environments at the next step
        self._touch_valid[:] = True
        self._find_contacts()
        self.refresh()

    def _find_contacts(self) -> None:
        pair = self._link_a.long() * self._num_links + self._link_b.long()
        real = torch.arange(pair.shape[1], device=self.device) < self._num_contacts[:, None]
        none = self._num_links**2  # a column more for the entries that are no contact
        touch = torch.zeros(self.num_envs, none + 1, dtype=torch.bool, device=self.device)
        touch.scatter_(1, torch.where(real, pair, none), True)
        square = touch[:, :-1].reshape(self.num_envs, self._num_links, self._num_links)
        self._touch = (square | square.transpose(1, 2)).reshape(self.num_envs, none)

    def poses(self) -> Poses:
        """The present state on the host; fetched once for each control step."""
        touch = self._touch & self._touch_valid[:, None]

        def host(tensor: Tensor) -> Array:
            return tensor.to("cpu", torch.float64, copy=True).numpy()

        return Poses(
            host(self.position),
            host(self.quaternion),
            host(self.qpos),
            host(self.qvel),
            touch.cpu().numpy().reshape(self.num_envs, self._num_links, self._num_links),
        )

    def _read_nominal(self) -> Mapping[str, Tensor]:
        driven = self._driven
        return {
            "mass": self._solver.get_links_mass()[:1].clone(),
            "kp": self._solver.get_dofs_kp(driven)[:1].clone(),
            "kv": self._solver.get_dofs_kv(driven)[:1].clone(),
        }

    def set_physics(self, rows: Sequence[int], friction: Array, mass: Array, gain: Array) -> None:
        """Scale, for each row (n,), all friction, the masses of loose objects, and the gains of the robot.

        Raises:
            RuntimeError: if the scene was built without `per_env_physics`.
        """
        if self._nominal is None:
            raise RuntimeError(
                "this scene has one set of masses and gains: build it with per_env_physics=True"
            )
        index = torch.as_tensor(rows, device=self.device)

        def column(values: Array) -> Tensor:
            return torch.as_tensor(values, dtype=self.qpos.dtype, device=self.device)[:, None]

        loose = [self.body[prop.name] for prop in self.scene.things if prop.loose]
        ratio = column(friction).expand(-1, self._solver.n_geoms).contiguous()
        self._solver.set_geoms_friction_ratio(ratio, envs_idx=index)
        masses = column(mass) * self._nominal["mass"][:, loose]
        self._solver.set_links_mass(masses, loose, index, scale_inertia=True)
        self._solver.set_dofs_kp(column(gain) * self._nominal["kp"], self._driven, index)
        self._solver.set_dofs_kv(column(gain) * self._nominal["kv"], self._driven, index)

    # Pictures ----------------------------------------------------------------------------------------------

    def _add_camera(self, name: str, image_size: int) -> Any:
        camera = self._model.camera(name)
        mounted = np.eye(4)
        rotation = np.zeros(9)
        mujoco.mju_quat2Mat(rotation, camera.quat)
        mounted[:3, :3], mounted[:3, 3] = rotation.reshape(3, 3), camera.pos
        added = self._gs_scene.add_camera(
            res=(image_size, image_size),
            fov=float(camera.fovy[0]),
            near=_NEAR_M,
            far=_FAR_M,
            pos=(1.0, 0.0, 1.0),
            lookat=(0.0, 0.0, 0.0),
        )
        return added, self._model.body(int(camera.bodyid[0])).name, mounted

    def render(self, camera: str, moved: Array | None = None) -> Tensor:
        """RGB frames uint8 (N,H,W,3) of all environments.

        Args:
            camera: its name.
            moved: (N,4,4) from where each environment's camera is mounted, in its own axes; None for there.
        """
        eye, body, mounted = self._cameras[camera]
        link = self.body[body]
        transform = np.tile(np.eye(4), (self.num_envs, 1, 1))
        transform[:, :3, 3] = self.position[:, link].cpu().numpy()
        transform[:, :3, :3] = _matrices(self.quaternion[:, link].cpu().numpy().astype(np.float64))
        eye.set_pose(transform=transform @ mounted if moved is None else transform @ mounted @ moved)
        if not self._batched_pictures:
            self._turn_headlight(_HEADLIGHT_OF[camera])
        frames, *_ = eye.render(rgb=True, force_render=True)
        if not isinstance(frames, Tensor):
            frames = torch.from_numpy(np.ascontiguousarray(frames))
        return frames.reshape(self.num_envs, *frames.shape[-3:])[..., :3]

    def _turn_headlight(self, direction: tuple[float, float, float]) -> None:
        drawn = self._gs_scene.visualizer._context._scene
        node = min(drawn.directional_light_nodes, key=lambda node: node.light.intensity)
        pose = np.eye(4)
        back = -np.array(direction) / np.linalg.norm(direction)
        side = np.cross((0.0, 1.0, 0.0), back)
        pose[:3, :3] = np.stack((side, np.cross(back, side), back), 1)
        drawn.set_pose(node, pose)

    def close(self) -> None:
        """Let go of the scene and its memory; Genesis itself stays up for the next one."""
        self._gs_scene.destroy()
        _living.discard(self)
        vars(self).clear()  # views on Genesis's arrays among them
        free_arrays(any_scene_lives=bool(_living))


_living: weakref.WeakSet[GenesisScene] = weakref.WeakSet()


def _matrices(quaternions: Array) -> Array:
    w, x, y, z = quaternions.T
    return np.stack(
        (
            *(1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
            *(2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)),
            *(2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)),
        ),
        -1,
    ).reshape(-1, 3, 3)


def _split(mjcf: str) -> tuple[str, str]:
    """The robot's part of a scene and all the rest: Genesis compensates the weight of whole entities only."""
    # Invisible geoms go to a group that is not drawn: Genesis would draw them black.
    text = mjcf.replace('rgba="0 0 0 0"', 'rgba="0 0 0 0" group="3"')
    robot, rest = ElementTree.fromstring(text), ElementTree.fromstring(text)
    for root, is_robot in ((robot, True), (rest, False)):
        world = root.find("worldbody")
        assert world is not None, "the scene has no <worldbody>"
        for child in list(world):
            if (child.get("name") == "link0") != is_robot:
                world.remove(child)
    actuator = rest.find("actuator")
    assert actuator is not None, "the scene has no <actuator>"
    rest.remove(actuator)
    return ElementTree.tostring(robot, encoding="unicode"), ElementTree.tostring(rest, encoding="unicode")
