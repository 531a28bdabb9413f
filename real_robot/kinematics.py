"""From the policy's actions to joint targets, and from joints to the policy's state.

Inverse kinematics is mink's (differential IK as a quadratic program over a MuJoCo model): it is kept, takes
any MJCF or URDF, and puts joint limits into the problem instead of cutting its answer afterwards.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..datasets.spec import RobotSpec

if TYPE_CHECKING:
    from mink import SE3

Vector = NDArray[np.float64]


class KinematicsError(ValueError):
    """A robot model that does not fit the policy's contract."""


@dataclass(frozen=True)
class ArmModel:
    """Where a robot's geometry is, and what is what in it.

    Attributes:
        path: MJCF or URDF file.
        joints: names of the arm's joints, in the order of commands.
        tool: name of the site (MJCF) or body that is the tool centre point.
        gripper: names of the finger joints; their positions add up to the opening.
        home: rad or m, where redundant joints are drawn to; empty for the middle of their ranges.
    """

    path: Path
    joints: tuple[str, ...]
    tool: str
    gripper: tuple[str, ...] = ()
    home: tuple[float, ...] = ()


class Arm:
    """A robot's kinematics. Not for two threads at once.

    Raises:
        KinematicsError: a joint or the tool is not in the model (the nearest is named).
    """

    ITERATIONS = 2
    COST = 10.0  # of a metre or radian that the tool is off; its square stands against the two below
    DAMPING = 0.045  # near a singularity the arm slows down instead of whirling
    MAX_STEP = 0.4  # rad in one control step: what is left of whirling is done in several
    POSTURE, POSTURE_GAIN = 0.2, 0.1  # an elbow that may turn drifts home, and does not leap there

    def __init__(self, described: ArmModel) -> None:
        import mink  # not before an arm is opened: whoever draws with MuJoCo chooses its OpenGL first
        import mujoco

        self.described, self._mink, self._mujoco = described, mink, mujoco
        try:
            self.model = mujoco.MjModel.from_xml_path(str(described.path))
        except ValueError as error:
            raise KinematicsError(f"{described.path} is no robot model that MuJoCo reads: {error}") from error
        self._configuration = mink.Configuration(self.model)
        self._q = np.array(self._configuration.q)
        kind = mujoco.mjtObj.mjOBJ_JOINT
        self._at = []
        for name in (*described.joints, *described.gripper):
            index = mujoco.mj_name2id(self.model, kind, name)
            if index < 0:
                known = [mujoco.mj_id2name(self.model, kind, i) for i in range(self.model.njnt)]
                raise KinematicsError(f"{described.path} has no joint {name!r}; it has {', '.join(known)}")
            self._at.append(int(self.model.jnt_qposadr[index]))
        self._arm = np.array(self._at[: len(described.joints)])
        frame = (
            "site" if mujoco.mj_name2id(self.model, mujoco.mjtObj.mjOBJ_SITE, described.tool) >= 0 else "body"
        )
        if frame == "body" and mujoco.mj_name2id(self.model, mujoco.mjtObj.mjOBJ_BODY, described.tool) < 0:
            raise KinematicsError(f"{described.path} has no site or body {described.tool!r}; name the tool")
        self._frame = frame
        self._task = mink.FrameTask(
            described.tool, frame, position_cost=self.COST, orientation_cost=self.COST
        )
        self._posture = mink.PostureTask(self.model, cost=self.POSTURE, gain=self.POSTURE_GAIN)
        home = self._q.copy()
        ranges = self.model.jnt_range[[self.model.joint(name).id for name in described.joints]]
        home[self._arm] = described.home or ranges.mean(axis=1)
        self._posture.set_target(home)
        self._limits = [mink.ConfigurationLimit(self.model)]
        kinds = self.model.jnt_type.tolist()
        limited = [i for i in range(self.model.njnt) if self.model.jnt_limited[i]]
        self._balls = any(kinds[i] == int(mujoco.mjtJoint.mjJNT_BALL) for i in limited)
        self._ranges = [  # where in the configuration, where in a step, least, greatest
            (int(self.model.jnt_qposadr[i]), int(self.model.jnt_dofadr[i]), *self.model.jnt_range[i].tolist())
            for i in limited
            if kinds[i] != int(mujoco.mjtJoint.mjJNT_FREE)
        ]
        self.low, self.high = ranges[:, 0].copy(), ranges[:, 1].copy()
        self.missed_m = 0.0  # by how much the last `ee_delta` missed its goal: singular, or out of reach

    def _put(self, joints: Vector) -> None:
        self._q[self._arm] = joints
        self._configuration.update(self._q)

    def _tool_pose(self) -> SE3:
        return self._configuration.get_transform_frame_to_world(self.described.tool, self._frame)

    def pose(self, joints: Vector) -> tuple[Vector, Vector]:
        """Tool position (3,) in metres and quaternion (4,) w, x, y, z, in the base frame."""
        self._put(joints)
        found = self._tool_pose()
        return np.array(found.translation()), np.array(found.rotation().wxyz)

    def tool(self, joints: Vector) -> Vector:
        """Tool position (3,) in metres, base frame."""
        return self.pose(joints)[0]

    def between(self, joints: Vector, target: Vector) -> Vector:
        """(6,) the translation (m) and rotation vector (rad), base frame, by which the tool moves."""
        where, turned = self.pose(joints)
        goal, goal_turned = self.pose(target)
        turn = self._mink.SO3(wxyz=goal_turned) @ self._mink.SO3(wxyz=turned).inverse()
        return np.concatenate([goal - where, turn.log()])

    def _program_step(self) -> Vector:
        """(V,) the step that comes nearest to the goals within the joints' ranges, by mink and daqp.

        Raises:
            mink.NoSolutionFound: there is none.
        """
        found: Vector = self._mink.solve_ik(
            self._configuration, [self._task, self._posture], 1.0, "daqp",
            damping=self.DAMPING, limits=self._limits,
        )  # fmt: skip
        return found

    def _free_step(self) -> Vector | None:
        """(V,) the same without the ranges; None if it leaves them.

        The program is strictly convex: what is best without its bounds and keeps to them is best with them,
        too. Away from the joints' ends all steps are of this kind, and cost half.
        """
        configuration, square = self._configuration, self.COST**2
        jacobian = self._task.compute_jacobian(configuration)
        hessian = square * (jacobian.T @ jacobian)
        hessian.flat[:: len(hessian) + 1] += self.POSTURE**2 + self.DAMPING
        slope = square * (jacobian.T @ self._task.compute_error(configuration))
        slope += self.POSTURE**2 * self.POSTURE_GAIN * self._posture.compute_error(configuration)
        step = np.empty(len(hessian))
        self._mujoco.mju_cholFactor(hessian, 0.0)  # never singular: what was added to its diagonal
        self._mujoco.mju_cholSolve(step, hessian, -slope)
        return step if self._keeps_inside(step) else None

    def _keeps_inside(self, step: Vector) -> bool:
        """Whether a step keeps to the joints' ranges, as the program's `ConfigurationLimit` has them."""
        if self._balls:
            inside = self._limits[0].compute_qp_inequalities(self._configuration, 1.0)
            return inside.G is None or inside.h is None or bool((inside.G @ step <= inside.h).all())
        at = self._configuration.data.qpos.tolist()
        gain, steps = self._limits[0].gain, step.tolist()
        return all(
            gain * (low - at[place]) <= steps[dof] <= gain * (high - at[place])
            for place, dof, low, high in self._ranges
        )

    def ee_delta(self, delta: Vector, joints: Vector, box: tuple[Vector, Vector] | None = None) -> Vector:
        """Joints (N,) at which the tool has moved by a translation and a rotation vector from where it is.

        Args:
            delta: (6,) metres and radians, base frame.
            joints: (N,) measured.
            box: lowest and highest (3,) goal of the tool, metres: it glides along the walls.

        Returns:
            (N,), NaN where there is no solution.
        """
        mink, configuration = self._mink, self._configuration
        self._put(joints)
        now = self._tool_pose()
        place = now.translation() + delta[:3]
        place = place if box is None else np.minimum(np.maximum(place, box[0]), box[1])
        self._task.set_target(
            mink.SE3.from_rotation_and_translation(mink.SO3.exp(delta[3:6]) @ now.rotation(), place)
        )
        for _ in range(self.ITERATIONS):
            step = self._free_step()
            if step is None:
                try:
                    step = self._program_step()
                except mink.NoSolutionFound:
                    return np.full(len(joints), np.nan)
            configuration.integrate_inplace(step, 1.0)
        self.missed_m = math.dist(self._tool_pose().translation().tolist(), place.tolist())
        motion = configuration.data.qpos[self._arm] - joints
        share = self.MAX_STEP / max(*map(abs, motion.tolist()), 1e-9)
        return np.asarray(joints + motion * min(1.0, share))


class ToJoints:
    """The policy's actions as joint targets, by the control mode of its contract.

    Args:
        spec: ``ee_delta`` (3 m, 3 rad, then the gripper if there is a seventh) or ``joint_position`` (as many
            joints as the arm has, then the gripper).
        arm: kinematics; may be None for ``joint_position``.
        joints: how many joints the arm has.
        box: where ``ee_delta`` may lead the tool, see `Arm.ee_delta`.

    Raises:
        KinematicsError: the mode is another, needs kinematics, or the number of dimensions does not fit.
    """

    def __init__(
        self,
        spec: RobotSpec,
        arm: Arm | None,
        joints: int,
        box: tuple[Sequence[float], Sequence[float]] | None = None,
    ) -> None:
        if spec.control_mode not in ("ee_delta", "joint_position"):
            raise KinematicsError(
                f"the policy's control mode is {spec.control_mode!r}, expected ee_delta or joint_position"
            )
        self._size = 6 if spec.control_mode == "ee_delta" else joints
        if spec.action_dim not in (self._size, self._size + 1):
            raise KinematicsError(
                f"the policy has {spec.action_dim} action dimensions, {spec.control_mode} of this arm has "
                f"{self._size}, and one more with a gripper"
            )
        if spec.control_mode == "ee_delta":
            if arm is None:
                raise KinematicsError("ee_delta actions need the robot's kinematics: give its model")
            if not spec.rotation.startswith("rotation_vector"):
                raise KinematicsError(
                    f"the policy's rotation is {spec.rotation!r}, expected rotation_vector_base"
                )
        self._spec, self._arm = spec, arm
        self._box = None if box is None else (np.array(box[0]), np.array(box[1]))

    def __call__(self, action: NDArray[np.float32], measured: Vector) -> tuple[Vector, float | None]:
        gripper = float(action[self._size]) if len(action) > self._size else None
        if self._spec.control_mode == "joint_position":
            return action[: self._size].astype(np.float64), gripper
        assert self._arm is not None, "checked at construction"
        return self._arm.ee_delta(action[:6].astype(np.float64), measured, self._box), gripper

    def inverse(self, target: Vector, measured: Vector, gripper: float | None) -> NDArray[np.float32]:
        """The action (A,) with which the policy would have asked for a target, cut to the contract's limits.

        NaN stands for a gripper that nobody has said anything about.
        """
        if self._spec.control_mode == "joint_position":
            motion = target
        else:
            assert self._arm is not None, "checked at construction"
            motion = self._arm.between(measured, target)
        if self._spec.action_dim > self._size:
            motion = np.append(motion, np.nan if gripper is None else gripper)
        return np.clip(motion, self._spec.action_low, self._spec.action_high).astype(np.float32)


class StateOf:
    """The policy's state from joint positions by name.

    Each axis of the contract's state is a joint's name, ``gripper_width`` (the finger joints added up, or one
    gripper joint as it is), ``tcp_x``, ``tcp_y``, ``tcp_z`` (m, base frame) or ``tcp_qw`` to ``tcp_qz`` (the
    quaternion whose x is not negative).

    Raises:
        KinematicsError: an axis is none of these.
    """

    def __init__(
        self, spec: RobotSpec, joints: Sequence[str], gripper: Sequence[str], arm: Arm | None
    ) -> None:
        known = {*joints, *gripper}
        places = {f"tcp_{c}": i for i, c in enumerate("xyz")} | {
            f"tcp_q{c}": 3 + i for i, c in enumerate("wxyz")
        }
        for axis in spec.state:
            if axis.name in places and arm is None:
                raise KinematicsError(f"the policy's state has {axis.name}: give the robot's model")
            if axis.name not in known and axis.name not in places and axis.name != "gripper_width":
                raise KinematicsError(
                    f"the policy's state has {axis.name!r}, which is no joint of this robot "
                    f"({', '.join(sorted(known))}), no gripper_width and no tcp_..."
                )
        self._spec, self._joints, self._gripper, self._arm = spec, tuple(joints), tuple(gripper), arm
        self._places = places

    def __call__(self, positions: Mapping[str, float]) -> NDArray[np.float32]:
        pose: list[float] = []
        if self._arm is not None and any(axis.name in self._places for axis in self._spec.state):
            where, turned = self._arm.pose(np.array([positions[name] for name in self._joints]))
            pose = [*where.tolist(), *(-turned if turned[1] < 0 else turned).tolist()]
        row = []
        for axis in self._spec.state:
            if axis.name in self._places:
                row.append(pose[self._places[axis.name]])
            elif axis.name == "gripper_width" and axis.name not in positions:
                row.append(sum(positions[name] for name in self._gripper))
            else:
                row.append(positions[axis.name])
        return np.array(row, np.float32)
