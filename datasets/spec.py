"""The contract between a policy, a data set, a simulator and a robot: what an action and a state mean."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


class SpecMismatchError(ValueError):
    """Two parties that must mean the same thing by an action or a state do not."""


@dataclass(frozen=True)
class Axis:
    """One dimension of an action or a state vector."""

    name: str
    unit: str
    low: float
    high: float


@dataclass(frozen=True)
class Camera:
    """One camera. Images are uint8 RGB, row 0 at the top, and stay as `orientation` says.

    Attributes:
        name: as the simulator or the robot calls it.
        height: in pixels.
        width: in pixels.
        orientation: ``upright``, or ``mirrored`` where left and right are exchanged (LIBERO's data).
    """

    name: str
    height: int
    width: int
    orientation: str = "upright"


@dataclass(frozen=True)
class RobotSpec:
    """What a robot's actions and observations mean.

    It travels with every data set and checkpoint; where two meet, `require_match` compares them.

    Attributes:
        name: the embodiment, for instance ``regrip-panda``.
        control_mode: ``ee_delta`` (translation and rotation vector of the tool centre point per control
            step, in the base frame) or ``joint_position`` (absolute joint targets in radians).
        control_rate_hz: how many actions are executed in one second.
        rotation: form of the rotation part of an action, for instance ``rotation_vector_base``.
        gripper: meaning of the gripper dimension in words.
        action: one entry for each action dimension, in order.
        state: one entry for each dimension of ``observation.state``, in order.
        cameras: the images a policy receives, in order.
    """

    name: str
    control_mode: str
    control_rate_hz: float
    rotation: str
    gripper: str
    action: tuple[Axis, ...]
    state: tuple[Axis, ...]
    cameras: tuple[Camera, ...]

    @property
    def action_dim(self) -> int:
        return len(self.action)

    @property
    def state_dim(self) -> int:
        return len(self.state)

    @property
    def action_low(self) -> NDArray[np.float32]:
        return np.array([axis.low for axis in self.action], dtype=np.float32)

    @property
    def action_high(self) -> NDArray[np.float32]:
        return np.array([axis.high for axis in self.action], dtype=np.float32)

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> RobotSpec:
        """Rebuild a spec from `to_json`'s form.

        Raises:
            ValueError: if a field is missing or not known.
        """
        fields = {field.name for field in dataclasses.fields(cls)}
        if set(data) != fields:
            raise ValueError(
                f"robot spec has fields {sorted(data)}, expected {sorted(fields)}: "
                "the file was written by another version of regrip or was edited"
            )
        return cls(
            **{
                **data,
                "action": tuple(Axis(**axis) for axis in data["action"]),
                "state": tuple(Axis(**axis) for axis in data["state"]),
                "cameras": tuple(Camera(**camera) for camera in data["cameras"]),
            }
        )

    def differences(self, other: RobotSpec) -> list[str]:
        """Each difference in words, most important first; empty when the two mean the same."""
        found: list[str] = []
        for key in ("name", "control_mode", "control_rate_hz", "rotation", "gripper"):
            mine, theirs = getattr(self, key), getattr(other, key)
            if mine != theirs:
                found.append(f"{key}: {mine!r} against {theirs!r}")
        for key in ("action", "state", "cameras"):
            mine, theirs = getattr(self, key), getattr(other, key)
            if len(mine) != len(theirs):
                names = [item.name for item in mine], [item.name for item in theirs]
                found.append(f"{key}: {len(mine)} entries {names[0]} against {len(theirs)} {names[1]}")
                continue
            found += [
                f"{key}[{index}]: {a} against {b}"
                for index, (a, b) in enumerate(zip(mine, theirs, strict=True))
                if a != b
            ]
        return found

    def require_match(self, other: RobotSpec, mine: str, theirs: str) -> None:
        """Refuse a mismatch by name.

        Args:
            other: the other party's spec.
            mine: what holds this spec, in words ("checkpoint base/").
            theirs: what holds the other ("environment tabletop/demo").

        Raises:
            SpecMismatchError: naming every difference.
        """
        found = self.differences(other)
        if found:
            lines = "\n  ".join(found)
            raise SpecMismatchError(
                f"{mine} and {theirs} do not mean the same by an action or observation:\n  {lines}\n"
                "Use a checkpoint trained for this robot, camera and control mode, or change the "
                "environment's settings to the checkpoint's."
            )
