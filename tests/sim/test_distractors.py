"""Where distractors stand in a MuJoCo scene of our own, and that a picture shows them."""

from __future__ import annotations

import math
from itertools import pairwise

import mujoco
import numpy as np
import pytest

from regrip.datasets.starts import StartState
from regrip.sim import distractors
from regrip.sim.distractors import THINGS, Eye, MujocoScene

SCENE = """
<mujoco>
  <worldbody>
    <light pos="0 0 3" dir="0 0 -1"/>
    <camera name="above" pos="0 0 1.5" fovy="45"/>
    <geom name="top" type="box" size="0.5 0.5 0.05" pos="0 0 -0.05"/>
    <geom name="thing" type="box" size="0.05 0.05 0.05" pos="0.1 0.1 0.05"/>
    <geom name="hand" type="sphere" size="0.04" pos="-0.2 -0.1 0.4"/>
  </worldbody>
</mujoco>
"""
WAY = np.array([[-0.2, -0.1, 0.4], [0.1, 0.1, 0.05], [0.1, -0.2, 0.0]])


@pytest.fixture(scope="module")
def scene() -> MujocoScene:
    model = mujoco.MjModel.from_xml_string(SCENE)
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    return MujocoScene(model, data, [model.geom("top").id])


def test_they_stand_free_on_the_table_beside_the_way_and_in_view(scene: MujocoScene) -> None:
    view = distractors.eye(scene.model, scene.data, "above")
    seen = set()
    for index in range(40):
        places = distractors.find_places(StartState("a/b", "test", index), scene, view, WAY)
        seen.add(places)
        assert len(places) == len(THINGS)
        for thing, (x, y, z, _) in zip(THINGS, places, strict=True):
            assert z == pytest.approx(0.0, abs=1e-9)
            assert max(abs(x), abs(y)) < 0.5
            assert max(abs(x), abs(y)) < 1.5 * math.tan(math.radians(45 / 2))
            # 3 cm from the edges of what stands there, and of what hangs above.
            assert max(abs(x - 0.1), abs(y - 0.1)) - 0.05 > thing.radius * math.cos(math.pi / 12)
            assert math.dist((x, y), (-0.2, -0.1)) > thing.radius + 0.04
            steps = np.concatenate([np.linspace(a, b, 50) for a, b in pairwise(WAY)])
            assert np.linalg.norm(steps[:, :2] - [x, y], axis=1).min() > thing.radius + 0.059
        (x, y, *_), (u, v, *_) = places
        assert math.dist((x, y), (u, v)) > THINGS[0].radius + THINGS[1].radius + 0.029
    assert len(seen) == 40
    again = distractors.find_places(StartState("a/b", "test", 0), scene, view, WAY)
    assert again in seen


def test_a_table_without_room_says_so(scene: MujocoScene) -> None:
    narrow = Eye(np.array([0.1, 0.1, 1.5]), np.eye(3), math.radians(2))  # sees the thing alone
    with pytest.raises(ValueError, match="a/b: nothing more can stand in this scene"):
        distractors.find_places(StartState("a/b", "test", 0), scene, narrow, WAY)


def test_a_picture_shows_them_where_they_stand_and_the_next_one_does_not(scene: MujocoScene) -> None:
    with mujoco.Renderer(scene.model, 128, 128) as renderer:
        renderer.update_scene(scene.data, "above")
        plain = renderer.render().copy()
        renderer.update_scene(scene.data, "above")
        distractors.add(renderer.scene, ((-0.3, 0.3, 0.0, 0.5), (0.3, -0.3, 0.0, 1.0)))
        shown = np.abs(renderer.render().astype(int) - plain).max(2) > 8
        renderer.update_scene(scene.data, "above")
        np.testing.assert_array_equal(renderer.render(), plain)
    across = 64 / (1.5 * math.tan(math.radians(45 / 2)))  # pixels a metre, at the table
    rows, columns = np.nonzero(shown)
    upper_left = (rows < 64) & (columns < 64)
    for chosen, (x, y) in ((upper_left, (-0.3, 0.3)), (~upper_left, (0.3, -0.3))):
        assert columns[chosen].mean() == pytest.approx(64 + x * across, abs=4)
        assert rows[chosen].mean() == pytest.approx(64 - y * across, abs=4)
