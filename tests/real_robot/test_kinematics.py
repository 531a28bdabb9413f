"""Inverse kinematics: the short way to a step is the long one's."""

from __future__ import annotations

import numpy as np

from regrip.real_robot.kinematics import Arm, ArmModel
from regrip.sim.tabletop.robot import ARM
from regrip.sim.tabletop.scenes import HOME_JOINTS, PANDA


class Long(Arm):
    """By the quadratic program, always."""

    def _free_step(self) -> None:
        return None


class Counted(Arm):
    free = bound = 0

    def _free_step(self) -> np.ndarray | None:
        step = super()._free_step()
        self.free, self.bound = self.free + (step is not None), self.bound + (step is None)
        return step


def test_a_step_that_keeps_to_the_joints_ranges_is_that_of_the_program_with_them() -> None:
    model = ArmModel(PANDA, ARM, "tcp", (), HOME_JOINTS)
    arm, long, generator = Counted(model), Long(model), np.random.default_rng(0)
    for trial in range(400):
        joints = generator.uniform(arm.low, arm.high)
        if trial % 2:  # some at the end of their range, some about to be
            near = np.where(generator.random(7) < 0.5, arm.low + 0.01 * generator.random(7), arm.high)
            joints = np.where(generator.random(7) < 0.4, near, joints)
        delta = generator.normal(0, [0.02] * 3 + [0.05] * 3)
        np.testing.assert_allclose(arm.ee_delta(delta, joints), long.ee_delta(delta, joints), atol=1e-9)
        assert abs(arm.missed_m - long.missed_m) < 1e-9
    assert arm.free > 200
    assert arm.bound > 200


def test_at_home_and_in_reach_every_step_is_free() -> None:
    arm, generator = Counted(ArmModel(PANDA, ARM, "tcp", (), HOME_JOINTS)), np.random.default_rng(1)
    joints = np.array(HOME_JOINTS)
    for _ in range(50):
        joints = arm.ee_delta(generator.normal(0, [0.01] * 3 + [0.02] * 3), joints)
    assert arm.bound == 0
