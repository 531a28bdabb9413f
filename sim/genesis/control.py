"""`tabletop.control` for many arms at once, in torch: the same kinematics, the same damped least squares."""

# pyright: reportAttributeAccessIssue=false
# (mujoco is a compiled module without stubs)

from __future__ import annotations

import mujoco
import numpy as np
import torch
from torch import Tensor

from ..tabletop import control
from ..tabletop.scenes import PANDA

_TINY = 1e-12


class BatchedArm:
    """The arm of panda.xml, read from that file. Joints (N,7) in radians; poses in the base frame.

    Attributes:
        low: (7,) lower joint limits, radians.
        high: (7,) upper joint limits, radians.
    """

    def __init__(self, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float64) -> None:
        model = mujoco.MjModel.from_xml_path(str(PANDA))
        chain = [model.body("tcp").id]
        while (parent := int(model.body_parentid[chain[0]])) != 0:
            chain.insert(0, parent)

        def tensor(values: object) -> Tensor:
            return torch.tensor(np.asarray(values), dtype=dtype, device=device)

        self._offset = [tensor(model.body_pos[body]) for body in chain]
        self._turn = [tensor(model.body_quat[body]) for body in chain]
        self._axis: list[Tensor | None] = []
        for body in chain:
            joint = int(model.body_jntadr[body])
            if joint >= 0:
                assert not model.jnt_pos[joint].any(), f"a joint of {model.body(body).name} is off its origin"
            self._axis.append(tensor(model.jnt_axis[joint]) if joint >= 0 else None)
        assert sum(axis is not None for axis in self._axis) == 7, "the tool is not behind seven joints"
        self.low, self.high = tensor(model.jnt_range[:7, 0]), tensor(model.jnt_range[:7, 1])
        self._damping = tensor(control.DAMPING)

    def at(self, joints: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The tool centre point: position (N,3), quaternion (N,4), Jacobian (N,6,7), linear rows first."""
        count = len(joints)
        position = joints.new_zeros(count, 3)
        quaternion = joints.new_zeros(count, 4)
        quaternion[:, 0] = 1.0
        axes: list[Tensor] = []
        origins: list[Tensor] = []
        for offset, turn, axis in zip(self._offset, self._turn, self._axis, strict=True):
            position = position + rotate(quaternion, offset)
            quaternion = multiply(quaternion, turn)
            if axis is not None:
                axes.append(rotate(quaternion, axis))
                origins.append(position)
                quaternion = multiply(quaternion, from_vector(axis * joints[:, len(axes) - 1 : len(axes)]))
        turning, origin = torch.stack(axes, -1), torch.stack(origins, -1)
        moving = torch.linalg.cross(turning, position[..., None] - origin, dim=1)
        return position, quaternion, torch.cat((moving, turning), 1)

    def ee_delta_targets(self, action: Tensor, joints: Tensor) -> Tensor:
        """Joint targets (N,7) for actions (N,7): `tabletop.control.ee_delta_targets`, row by row."""
        low, high = (joints.new_tensor(side) for side in (control.WORKSPACE_LOW, control.WORKSPACE_HIGH))
        position, quaternion, jacobian = self.at(joints)
        goal = torch.clamp(position + action[:, :3], low, high)
        turned = multiply(from_vector(action[:, 3:6]), quaternion)
        posture = control.POSTURE_GAIN * (joints.new_tensor(control.HOME) - joints)
        twist = torch.cat((goal - position, action[:, 3:6]), 1) - (jacobian @ posture[..., None])[..., 0]
        step = posture + self._damped_inverse(jacobian, twist)
        position, quaternion, jacobian = self.at(joints + step)
        residual = rotation_vector(multiply(turned, conjugate(quaternion)))
        step = step + self._damped_inverse(jacobian, torch.cat((goal - position, residual), 1))
        margin = control.JOINT_MARGIN_RAD
        return torch.clamp(joints + control.LEAD * step, self.low + margin, self.high - margin)

    def _damped_inverse(self, jacobian: Tensor, twist: Tensor) -> Tensor:
        gram = jacobian @ jacobian.transpose(1, 2) + self._damping
        solved: Tensor = jacobian.transpose(1, 2) @ torch.linalg.solve(gram, twist[..., None])
        return solved.squeeze(-1)


# Quaternions (...,4) as w, x, y, z, and rotation vectors (...,3); see `tabletop.rotation`.


def multiply(a: Tensor, b: Tensor) -> Tensor:
    """The rotation `b` followed by `a`."""
    aw, ax, ay, az = a.unbind(-1)
    bw, bx, by, bz = b.unbind(-1)
    return torch.stack(
        (
            aw * bw - ax * bx - ay * by - az * bz,
            aw * bx + ax * bw + ay * bz - az * by,
            aw * by - ax * bz + ay * bw + az * bx,
            aw * bz + ax * by - ay * bx + az * bw,
        ),
        -1,
    )


def conjugate(q: Tensor) -> Tensor:
    return q * q.new_tensor((1.0, -1.0, -1.0, -1.0))


def rotate(q: Tensor, vector: Tensor) -> Tensor:
    """`vector` (3,) or (N,3) turned by `q` (N,4)."""
    scalar, part = q[..., :1], q[..., 1:]
    twice: Tensor = 2 * torch.linalg.cross(part, vector.expand_as(part))
    turned: Tensor = vector + scalar * twice + torch.linalg.cross(part, twice)
    return turned


def from_vector(vector: Tensor) -> Tensor:
    """The quaternion of an axis times angle (rad)."""
    angle = torch.linalg.vector_norm(vector, dim=-1, keepdim=True)
    scale = torch.where(angle > _TINY, torch.sin(angle / 2) / angle.clamp_min(_TINY), 0.5)
    return torch.cat((torch.cos(angle / 2), vector * scale), -1)


def rotation_vector(q: Tensor) -> Tensor:
    """Axis times angle (rad) of the shorter way round."""
    q = torch.where(q[..., :1] < 0, -q, q)
    sine = torch.linalg.vector_norm(q[..., 1:], dim=-1, keepdim=True)
    scale = torch.where(sine < _TINY, 0.0, 2 * torch.atan2(sine, q[..., :1]) / sine.clamp_min(_TINY))
    vector: Tensor = q[..., 1:] * scale
    return vector
