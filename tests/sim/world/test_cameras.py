"""What one camera sees, said from another: by hand, and against the simulator's own pictures."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from regrip.datasets.starts import StartState
from regrip.launch.world_cameras import calibration
from regrip.sim.tabletop.env import TabletopEnv
from regrip.sim.world.cameras import Cameras, Pose, carried, look_up, on_plane, pose_of, rays, rotation_of

DOWN = torch.eye(3)[None]  # right is x, up is y, backwards is z: it looks down


def above(x: float, y: float, z: float) -> Pose:
    """A camera that looks down from there, 90 degrees wide."""
    return Pose(DOWN, torch.tensor([[x, y, z]]), 1.0)


def test_a_ray_meets_the_plane_where_it_must() -> None:
    # 90 degrees from a height of 2 m see 4 m; of two pixels the middles are 1 m from the axis.
    points = on_plane(above(0.0, 0.0, 2.0), rays(above(0, 0, 2), 2, 2), 0.0)
    assert points[0, 0, 0].tolist() == pytest.approx([-1.0, 1.0, 0.0])
    assert points[0, 1, 1].tolist() == pytest.approx([1.0, -1.0, 0.0])
    nearer = on_plane(above(0.0, 0.0, 2.0), rays(above(0, 0, 2), 2, 2), 1.0)
    assert nearer[0, 0, 0].tolist() == pytest.approx([-0.5, 0.5, 1.0])


def test_moved_by_a_pixel_the_picture_moves_by_one_and_what_was_not_seen_is_said() -> None:
    picture = torch.arange(16.0).view(1, 1, 4, 4)
    before, after = above(0, 0, 2), above(1.0, 0, 2)  # four pixels on 4 m
    seen = look_up(picture, before, on_plane(after, rays(after, 4, 4), 0.0))
    assert seen[0, 0, :, :3].tolist() == picture[0, 0, :, 1:].tolist()
    assert seen[0, 1].tolist() == [[1, 1, 1, 0]] * 4


@given(
    st.floats(-0.5, 0.5), st.floats(-0.5, 0.5), st.floats(0.5, 3.0), st.floats(-0.3, 0.3),
    st.floats(0.3, 2.0), st.floats(-0.2, 0.2),
)  # fmt: skip
def test_a_camera_sees_its_own_picture_where_it_stands(
    x: float, y: float, z: float, tilt: float, focal: float, height: float
) -> None:
    turn = rotation_of(torch.tensor([[math.cos(tilt / 2), math.sin(tilt / 2), 0.0, 0.0]]))
    pose = Pose(turn, torch.tensor([[x, y, z]]), focal)
    picture = torch.rand(1, 3, 6, 8, generator=torch.Generator().manual_seed(0))
    points = on_plane(pose, rays(pose, 6, 8), height)
    below = points[..., 2].sub(height).abs().lt(1e-3)[0]  # a tilted camera's upper rays may miss the plane
    seen = look_up(picture, pose, points)
    assert torch.allclose(seen[0, :3][:, below], picture[0][:, below], atol=2e-3)


def test_what_the_hand_carries_moves_with_it() -> None:
    picture = torch.zeros(1, 1, 4, 4)
    picture[0, 0, 1, 1] = 1.0
    camera = above(0, 0, 2)
    hand = Pose(torch.eye(3)[None], torch.tensor([[-0.5, 0.5, 0.0]]), 1.0)
    moved = Pose(torch.eye(3)[None], torch.tensor([[0.5, 0.5, 0.0]]), 1.0)  # a pixel to the right
    seen = look_up(picture, camera, carried(camera, rays(camera, 4, 4), hand, moved))
    assert seen[0, 0].argmax() == 4 + 2


def test_the_calibration_of_the_tabletop_points_at_the_blocks() -> None:
    """The middle of each block is where the calibration says it is: both cameras show its colour there."""
    cameras, env = calibration("demo"), TabletopEnv()
    colours = {"red": 0, "green": 1, "blue": 2}
    seen = dict.fromkeys(cameras.views, 0)
    for index in range(6):
        env.reset(StartState("demo/lift_red", "train", index))
        state = torch.from_numpy(env.state())[None]
        hand = Pose(rotation_of(state[:, 11:15]), state[:, 8:11], 1.0)
        pictures = {view.name: env.render(view.name) for view in cameras.views}
        for name, channel in colours.items():
            block = torch.from_numpy(env.world.position(f"{name}_block").astype(np.float32)).view(1, 1, 1, 3)
            for view in cameras.views:
                picture = torch.from_numpy(pictures[view.name].copy()).permute(2, 0, 1)[None].float()
                found = look_up(picture, pose_of(view, hand), block)[0, :, 0, 0]
                if found[3]:
                    seen[view] += 1
                    assert int(found[:3].argmax()) == channel, (name, view.name, index, found)
    env.close()
    assert min(seen.values()) >= 6, "every camera saw some of them"


def test_a_calibration_survives_its_file_and_a_bad_one_is_named(tmp_path: Path) -> None:
    cameras = calibration("demo")
    path = tmp_path / "cameras.json"
    path.write_text(json.dumps(cameras.to_json()))
    assert Cameras.read(path) == cameras
    data = json.loads(path.read_text())
    data["views"][1]["rotation"][0][0] = 9.0
    with pytest.raises(ValueError, match=r"camera 'wrist': rotation .* is no rotation matrix"):
        Cameras.from_json(data)
    with pytest.raises(ValueError, match=r"docs/world\.md"):
        Cameras.from_json({"views": [{"name": "front"}]})
    with pytest.raises(ValueError, match=r"absent\.json cannot be read"):
        Cameras.read(tmp_path / "absent.json")


def test_other_cameras_and_axes_than_the_robots_are_refused() -> None:
    with pytest.raises(
        ValueError, match="'four' is several suites, each with its cameras: name one of spatial"
    ):
        calibration("four")
    env = TabletopEnv(cameras=("front",))
    with pytest.raises(ValueError, match="of the cameras front, wrist, the episodes have front"):
        calibration("demo").require_match(env.spec)
    data = calibration("demo").to_json()
    data["position"] = ["tool_x", "tcp_y", "tcp_z"]
    env = TabletopEnv()
    with pytest.raises(ValueError, match="'tool_x', which the state lacks; it has joint1"):
        Cameras.from_json(data).require_match(env.spec)
