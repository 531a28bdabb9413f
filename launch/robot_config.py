"""A robot in one file: what its arm may do, where its geometry is, and which topic is what."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from ..datasets.spec import RobotSpec
from ..real_robot.core import Core, CoreConfig
from ..real_robot.kinematics import Arm, ArmModel, StateOf, ToJoints
from ..real_robot.topics import Topics
from ..sim.tabletop.scenes import PANDA
from .config import ConfigError, load_preset


@dataclass(frozen=True)
class ModelConfig:
    """The arm's geometry.

    Attributes:
        path: MJCF or URDF file, from the robot's file if it is relative; ``panda``: the one of regrip.
        tool: site or body that is the tool centre point.
        low: x, y, z that actions may lead the tool to, metres, base frame: it glides along the walls of that
            box. `core.workspace` is the box beyond which the arm stops.
        high: likewise.
    """

    path: str
    tool: str
    low: tuple[float, float, float] | None = None
    high: tuple[float, float, float] | None = None


@dataclass(frozen=True)
class RobotConfig:
    """A robot.

    Attributes:
        core: limits, gripper, gate, schedule.
        model: None for an arm without kinematics: then actions must be joints, and there is no workspace.
        home: rad or m, where episodes begin; empty if it does not matter.
        home_tolerance: how far each joint may be from it.
        topics: of ROS, for the transports that speak it.
    """

    core: CoreConfig
    model: ModelConfig | None = None
    home: tuple[float, ...] = ()
    home_tolerance: float = 0.2
    topics: Topics = field(default_factory=Topics)

    def __post_init__(self) -> None:
        if self.home and len(self.home) != len(self.core.joints):
            raise ConfigError(f"home has {len(self.home)} joints, core.joints {len(self.core.joints)}")
        if self.model is None and self.core.workspace is not None:
            raise ConfigError("core.workspace needs the arm's geometry: give [model]")
        if self.model is not None and (self.model.low is None) != (self.model.high is None):
            raise ConfigError("model.low and model.high belong together: give both or none")

    @property
    def joint_names(self) -> tuple[str, ...]:
        return tuple(joint.name for joint in self.core.joints)


def load_robot(name_or_path: str) -> RobotConfig:
    """A robot that ships with regrip, or a TOML file.

    Raises:
        ConfigError: naming file, key and what is wrong.
    """
    found = load_preset(RobotConfig, name_or_path, "robot")
    if found.model is None or found.model.path == "panda" or not name_or_path.endswith(".toml"):
        return found
    path = Path(name_or_path).parent / found.model.path
    return replace(found, model=replace(found.model, path=str(path)))


def open_arm(robot: RobotConfig) -> Arm | None:
    """The arm's kinematics.

    Raises:
        KinematicsError: the model does not have what the file names.
    """
    if robot.model is None:
        return None
    path = PANDA if robot.model.path == "panda" else Path(robot.model.path)
    return Arm(ArmModel(path, robot.joint_names, robot.model.tool, (), robot.home))


def make_core(robot: RobotConfig, spec: RobotSpec, arm: Arm | None, task: str) -> Core:
    """A core for a policy on a robot.

    Raises:
        KinematicsError: the policy's actions or state are not of this robot.
    """
    model = robot.model
    box = None if model is None or model.low is None or model.high is None else (model.low, model.high)
    gripper = (robot.core.gripper_joint,) if robot.core.gripper_joint else ()
    return Core(
        robot.core,
        spec,
        ToJoints(spec, arm, len(robot.core.joints), box),
        StateOf(spec, robot.joint_names, gripper, arm),
        None if arm is None else arm.tool,
        task,
    )


def away_from_home(robot: RobotConfig, measured: np.ndarray) -> str:
    """Which joints are not where episodes begin, in words; ``""`` if all are."""
    names = robot.joint_names
    far = [
        f"{name} at {at:.2f} instead of {home:.2f}"
        for name, at, home in zip(names, measured, robot.home, strict=False)
        if abs(at - home) > robot.home_tolerance
    ]
    return ", ".join(far)
