"""Where cameras are and how they look: what turns one view of a scene into another.

A camera stands still beside the robot, or is carried by its hand. With its pose known, a picture from one
place says what is seen from another, up to how far away things are; most things stand on a plane (the table)
and are low, so a few heights of that plane leave little to guess.
"""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from ...datasets.spec import RobotSpec


@dataclass(frozen=True)
class View:
    """One pinhole camera.

    Attributes:
        name: as in the RobotSpec.
        mounted_on: ``base``, it stands still in the robot's base frame, or ``hand``, it moves with the frame
            whose pose the state gives.
        fov_y_deg: vertical field of view, degrees.
        position: of the camera in the frame it is mounted on, metres (3).
        rotation: rows of the 3x3 matrix whose columns are the camera's axes in that frame: right, up, and
            backwards (MuJoCo's and OpenGL's; of OpenCV's optical frame negate the second and third columns).
    """

    name: str
    mounted_on: Literal["base", "hand"]
    fov_y_deg: float
    position: tuple[float, float, float]
    rotation: tuple[tuple[float, float, float], ...]


@dataclass(frozen=True)
class Cameras:
    """How all cameras of a robot look, and where its state says the hand is.

    Attributes:
        views: in the order of the spec's cameras.
        position: names of the state's axes that hold the hand's position in the base frame, metres, x, y, z.
        quaternion: names of those with its orientation there, w, x, y, z.
        heights: of planes above the base frame's origin on which things are looked for, metres: the table's,
            and some up to the height of what stands on it.
    """

    views: tuple[View, ...]
    position: tuple[str, str, str]
    quaternion: tuple[str, str, str, str]
    heights: tuple[float, ...] = (0.0, 0.02, 0.05)

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Cameras:
        """Rebuild from `to_json`'s form.

        Raises:
            ValueError: naming what is missing, or what is no rotation.
        """
        try:
            views = tuple(
                View(
                    **{
                        **view,
                        "position": tuple(map(float, view["position"])),
                        "rotation": tuple(tuple(map(float, row)) for row in view["rotation"]),
                    }
                )
                for view in data["views"]
            )
            found = cls(
                **{
                    **data,
                    "views": views,
                    "position": tuple(data["position"]),
                    "quaternion": tuple(data["quaternion"]),
                    "heights": tuple(map(float, data["heights"])),
                }
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ValueError(
                f"the cameras' calibration does not have the form that docs/world.md shows ({error!r})"
            ) from error
        for view in found.views:
            turn = np.array(view.rotation)
            if (
                turn.shape != (3, 3)
                or not np.allclose(turn @ turn.T, np.eye(3), atol=1e-3)
                or np.linalg.det(turn) < 0
            ):
                raise ValueError(
                    f"camera {view.name!r}: rotation {turn.tolist()} is no rotation matrix; its columns are "
                    "the camera's right, up and backward axes"
                )
            if not 0 < view.fov_y_deg < 180 or view.mounted_on not in ("base", "hand"):
                raise ValueError(
                    f"camera {view.name!r}: fov_y_deg {view.fov_y_deg} must lie between 0 and 180, and "
                    f"mounted_on {view.mounted_on!r} be 'base' or 'hand'"
                )
        if len(found.position) != 3 or len(found.quaternion) != 4 or not found.heights:
            raise ValueError(
                f"position names {len(found.position)} axes and quaternion {len(found.quaternion)}, expected "
                f"3 and 4, and heights {list(found.heights)} at least one plane"
            )
        return found

    @classmethod
    def read(cls, path: Path) -> Cameras:
        """Read a JSON file.

        Raises:
            ValueError: it cannot be read or has another form.
        """
        try:
            return cls.from_json(json.loads(path.read_text()))
        except OSError as error:
            raise ValueError(
                f"{path} cannot be read ({error.strerror}): give the cameras' calibration"
            ) from error
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error

    def require_match(self, spec: RobotSpec) -> None:
        """Refuse a calibration of other cameras or axes than the robot's.

        Raises:
            ValueError: naming both.
        """
        wanted = [camera.name for camera in spec.cameras]
        if [view.name for view in self.views] != wanted:
            raise ValueError(
                f"the calibration is of the cameras {', '.join(view.name for view in self.views)}, the "
                f"episodes have {', '.join(wanted)}: name the same, in the same order"
            )
        axes = [axis.name for axis in spec.state]
        for name in (*self.position, *self.quaternion):
            if name not in axes:
                raise ValueError(
                    f"the calibration takes the hand's pose from {name!r}, which the state lacks; it has "
                    f"{', '.join(axes)}"
                )
        for camera in spec.cameras:
            if camera.orientation != "upright":
                raise ValueError(
                    f"camera {camera.name!r} is {camera.orientation}; only upright pictures can be seen from "
                    "elsewhere: turn them, or fit a model of kind 'video'"
                )


@dataclass(frozen=True)
class Pose:
    """Where a camera is, in each of B scenes.

    Attributes:
        rotation: (B,3,3), columns right, up and backwards in the base frame.
        position: (B,3) metres there.
        focal: half the picture's height, in units of which the focal length is this.
    """

    rotation: Tensor
    position: Tensor
    focal: float


def rotation_of(quaternion: Tensor) -> Tensor:
    """(...,4) w, x, y, z to matrices (...,3,3); length does not matter."""
    w, x, y, z = functional.normalize(quaternion, dim=-1).unbind(-1)
    rows = (
        1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y),
        2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x),
        2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y),
    )  # fmt: skip
    turn: Tensor = torch.stack(rows, -1).unflatten(-1, (3, 3))
    return turn


def pose_of(view: View, hand: Pose) -> Pose:
    """Where a camera is when the hand is at `hand`, whose focal length means nothing."""
    turn = torch.tensor(view.rotation, device=hand.position.device)
    place = torch.tensor(view.position, device=hand.position.device)
    focal = 1 / math.tan(math.radians(view.fov_y_deg) / 2)
    rows = len(hand.position)
    if view.mounted_on == "base":
        return Pose(turn.expand(rows, 3, 3), place.expand(rows, 3), focal)
    return Pose(hand.rotation @ turn, hand.position + hand.rotation @ place, focal)


def rays(pose: Pose, height: int, width: int) -> Tensor:
    """Directions (B,h,w,3) in the base frame, through the middle of every pixel; one long along the axis."""
    device = pose.position.device
    y = 1 - (2 * torch.arange(height, device=device) + 1) / height
    x = ((2 * torch.arange(width, device=device) + 1) / width - 1) * (width / height)
    up, right = torch.meshgrid(y / pose.focal, x / pose.focal, indexing="ij")
    local = torch.stack([right, up, -torch.ones_like(up)], -1)
    return torch.einsum("bij,hwj->bhwi", pose.rotation, local)


def look_up(pictures: Tensor, pose: Pose, points: Tensor) -> Tensor:
    """What a camera at `pose` sees at `points` of the base frame.

    Args:
        pictures: (B,K,h,w), its pictures.
        pose: where it is.
        points: (B,h,w,3), one for each pixel of another picture.

    Returns:
        (B,K+1,h,w), and last 1 where the point is in the picture and 0 elsewhere.
    """
    height, width = pictures.shape[-2:]
    local = torch.einsum("bji,bhwj->bhwi", pose.rotation, points - pose.position[:, None, None])
    depth = -local[..., 2]
    scale = pose.focal / depth.clamp_min(1e-3)
    grid = torch.stack([local[..., 0] * scale * (height / width), -local[..., 1] * scale], -1)
    inside = (depth > 1e-3) & (grid.abs().amax(-1) < 1)
    seen = functional.grid_sample(pictures, grid.clamp(-2, 2), align_corners=False, padding_mode="border")
    return torch.cat([seen, inside[:, None].to(seen.dtype)], 1)


def on_plane(pose: Pose, directions: Tensor, height: float) -> Tensor:
    """Where the rays (B,h,w,3) of a camera meet the plane at `height`: (B,h,w,3).

    A ray that does not is taken to a point far away.
    """
    drop = height - pose.position[:, None, None, 2]
    along = drop / directions[..., 2].where(directions[..., 2].abs() > 1e-3, torch.tensor(1e-3))
    along = along.where(along > 0, torch.tensor(1e3)).clamp_max(1e3)
    return pose.position[:, None, None] + along[..., None] * directions


def carried(pose: Pose, directions: Tensor, before: Pose, after: Pose) -> Tensor:
    """Where what a still camera sees was before the hand moved, had the hand carried it.

    Args:
        pose: of the camera.
        directions: its rays (B,h,w,3).
        before: of the hand.
        after: likewise.

    Returns:
        points (B,h,w,3): of those at the hand's distance, where they were before.
    """
    local = torch.einsum("bji,bj->bi", pose.rotation, after.position - pose.position)
    points = pose.position[:, None, None] + (-local[:, 2])[:, None, None, None] * directions
    held = torch.einsum("bji,bhwj->bhwi", after.rotation, points - after.position[:, None, None])
    return torch.einsum("bij,bhwj->bhwi", before.rotation, held) + before.position[:, None, None]
