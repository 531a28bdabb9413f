"""The batched arm moves as the one MuJoCo computes. Needs no Genesis."""

from __future__ import annotations

import numpy as np
import torch

from regrip.sim.genesis.control import BatchedArm, from_vector, multiply, rotation_vector
from regrip.sim.tabletop import control, rotation
from regrip.sim.tabletop.kinematics import ArmKinematics

RNG = np.random.default_rng(0)


def test_kinematics_are_those_of_mujoco() -> None:
    arm, batched = ArmKinematics(), BatchedArm()
    joints = RNG.uniform(arm.low, arm.high, (50, 7))
    positions, quaternions, jacobians = (part.numpy() for part in batched.at(torch.from_numpy(joints)))
    for row, q in enumerate(joints):
        position, quaternion, jacobian = arm.at(q)
        np.testing.assert_allclose(positions[row], position, atol=1e-12)
        np.testing.assert_allclose(quaternions[row], quaternion, atol=1e-12)  # with the same sign
        np.testing.assert_allclose(jacobians[row], jacobian, atol=1e-12)


def test_an_action_becomes_the_same_targets() -> None:
    """At any joints and for any action, the workspace's walls and the joints' limits included."""
    arm, batched = ArmKinematics(), BatchedArm()
    near_home = control.HOME + RNG.normal(0.0, 0.3, (100, 7))
    joints = np.clip(np.concatenate((near_home, RNG.uniform(arm.low, arm.high, (100, 7)))), arm.low, arm.high)
    axes = control.ee_delta_axes()
    actions = RNG.uniform([axis.low for axis in axes], [axis.high for axis in axes], (200, 7))
    actions[::5, 3:6] = 0.0  # no turn is a case of its own
    got = batched.ee_delta_targets(torch.from_numpy(actions), torch.from_numpy(joints)).numpy()
    wanted = np.stack([control.ee_delta_targets(a, q, arm) for a, q in zip(actions, joints, strict=True)])
    assert np.abs(wanted - joints).max() > 0.5
    np.testing.assert_allclose(got, wanted, atol=1e-9, rtol=0)


def test_rotation_vectors_there_and_back() -> None:
    vectors = RNG.normal(0.0, 0.8, (20, 3))
    vectors[0] = 0.0
    quaternions = from_vector(torch.from_numpy(vectors))
    for vector, quaternion in zip(vectors, quaternions.numpy(), strict=True):
        np.testing.assert_allclose(quaternion, rotation.from_vector(vector), atol=1e-15)
    np.testing.assert_allclose(rotation_vector(-quaternions).numpy(), vectors, atol=1e-12)
    one = multiply(quaternions, quaternions * torch.tensor((1.0, -1.0, -1.0, -1.0)))
    np.testing.assert_allclose(one.numpy(), np.tile((1.0, 0.0, 0.0, 0.0), (20, 1)), atol=1e-15)
