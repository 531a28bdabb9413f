"""Perturbed episodes of the public simulators: what changes, what must not, and what there is not."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from regrip.datasets.starts import StartState
from regrip.launch import environments
from regrip.launch.environments import EnvConfig
from regrip.launch.evaluate import perturbations
from regrip.sim import look as looks
from regrip.sim.libero import assets
from regrip.sim.look import Look, matrix

REPOSITORY = Path(__file__).parents[2]
PICTURES = ("camera", "light", "background", "distractors", "texture")
PUBLIC = ("metaworld", "maniskill", "robosuite", "libero", "gymnasium")


def met(simulator: str, suite: str, task: str) -> dict[str, dict[str, Any]]:
    """What `perturb_reference.py` finds, by kind; skips where the simulator is not installed."""
    config = EnvConfig(name=simulator, suite=suite)  # type: ignore[arg-type]
    default, variable = environments.INTERPRETERS[simulator][1:]
    python = Path(os.environ.get(variable, REPOSITORY / default))
    if not python.exists() or (simulator == "libero" and assets.VARIABLE not in os.environ):
        pytest.skip(f"no {python}, or no assets: `make {simulator}`")
    os.environ.setdefault(variable, str(python))
    order = {
        "simulator": simulator,
        "module": environments.FACTORIES[simulator].partition(":")[0],
        "suite": suite,
        "task": task,
    }
    done = subprocess.run(
        [python, Path(__file__).with_name("perturb_reference.py")],
        input=json.dumps(order), capture_output=True, text=True,
        env={
            **os.environ, "MUJOCO_GL": "egl", "LP_NUM_THREADS": "0", "PYTHONPATH": str(REPOSITORY / "src"),
            **environments.worker_variables(config),
        },
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    found: dict[str, dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize(
    ("simulator", "suite", "task", "kinds"),
    [
        ("metaworld", "mt3", "mt3/drawer-open", (*PICTURES, "robot", "layout")),
        ("robosuite", "blocks", "blocks/lift", (*PICTURES, "robot", "layout")),
        ("gymnasium", "fetch", "fetch/push", ("camera", "light", "background", "distractors")),
        pytest.param("gymnasium", "aloha", "aloha/insertion", PICTURES[:4], marks=pytest.mark.slow),
        pytest.param("gymnasium", "kitchen", "kitchen/kettle", PICTURES, marks=pytest.mark.slow),
        pytest.param(
            "maniskill", "cubes", "cubes/PickCube", (*PICTURES, "robot", "layout"), marks=pytest.mark.slow
        ),
        pytest.param(
            "libero", "libero_goal", "libero_goal/put_the_bowl_on_the_plate", (*PICTURES, "robot"),
            marks=pytest.mark.slow,
        ),
    ],
)  # fmt: skip
def test_what_is_changed_changes_and_nothing_else_does(
    simulator: str, suite: str, task: str, kinds: tuple[str, ...]
) -> None:
    found = met(simulator, suite, task)
    assert set(found) == set(kinds)
    for kind, seen in found.items():
        assert seen["repeats"], kind
        assert seen["snapshot"], kind
        # Scenes are shared by the environments of a process: nobody else may see the change.
        assert seen["plain_untouched"], kind
        assert "none" in seen["refused"], (kind, seen["refused"])
        assert kind in seen["refused"]
        if kind == "robot":
            assert 0.01 < seen["aside"] < 0.3
        elif kind == "layout":
            assert seen["aside"] == 0
            assert 0.01 < seen["moved"] < 0.3
        else:
            least = 0.3 if kind == "distractors" else 1.0  # two small things
            assert seen["changed"] > least, kind
            assert seen["other_start"] > least, kind
            assert seen["aside"] == 0, kind
            assert seen["same_states"], kind


@pytest.mark.parametrize(
    ("simulator", "suite"),
    [("metaworld", "mt3"), ("maniskill", "cubes"), ("robosuite", "blocks"), ("libero", "libero_goal"),
     ("gymnasium", "fetch"), ("gymnasium", "pusht"), ("genesis", "demo"), ("tabletop", "demo")],
)  # fmt: skip
def test_every_kind_is_known_or_said_to_be_missing(simulator: str, suite: str) -> None:
    every = set(environments.perturbations("tabletop", "demo")[0])
    known, missing = environments.perturbations(simulator, suite)
    assert known.keys() | missing.keys() == every
    assert not known.keys() & missing.keys()
    assert all(missing.values())
    config = EnvConfig(name=simulator, suite=suite)  # type: ignore[arg-type]
    assert perturbations("all", config) == tuple(known)
    for kind, why in missing.items():
        with pytest.raises(ValueError, match=f"no perturbation '{kind}': {why[:20]}"):
            perturbations(f"none,{kind}".removeprefix("none,"), config)
    if simulator != "genesis":
        for kind in known:
            environments.factory(dataclasses.replace(config, perturb=kind))


def test_pusht_draws_its_own_pictures() -> None:
    known, missing = environments.perturbations("gymnasium", "pusht")
    assert "camera" not in known
    assert missing["camera"] == "the environment draws its pictures itself"


def test_another_wording_is_a_kind_of_its_own() -> None:
    _, kwargs = environments.factory(EnvConfig(name="metaworld", suite="mt3", perturb="paraphrase"))
    assert kwargs["paraphrase"] == "heldout"
    with pytest.raises(ValueError, match="no wording that training could not have used"):
        environments.factory(EnvConfig(name="libero", suite="libero_goal", perturb="paraphrase"))


# The changes themselves, on a scene of our own

SCENE = """
<mujoco>
  <asset>
    <texture name="wood" type="2d" builtin="flat" rgb1="0.5 0.3 0.1" width="32" height="32"/>
    <material name="wood" texture="wood"/>
  </asset>
  <worldbody>
    <light name="sun" pos="0 0 2" dir="0 0 -1" directional="true" diffuse="0.6 0.6 0.6"/>
    <light name="lamp" pos="1 0 2" dir="-1 0 -2"/>
    <camera name="standing" pos="0 0 1.5"/>
    <body name="table"><geom name="top" type="box" size="0.5 0.5 0.05" material="wood"/></body>
    <body name="hand" pos="0 0 0.4">
      <joint type="slide" axis="0 0 1"/><geom size="0.05"/><camera name="riding" pos="0 0 0.1"/>
    </body>
  </worldbody>
</mujoco>
"""


@pytest.fixture
def scene() -> tuple[Any, Any]:
    import mujoco

    model = mujoco.MjModel.from_xml_string(SCENE)
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    return model, data


def test_cameras_move_as_far_as_they_are_said_to(scene: tuple[Any, Any]) -> None:
    model, data = scene
    far = np.zeros((2, 2))
    for index in range(200):
        before = data.cam_xpos.copy(), data.cam_xmat.copy()
        with looks.changed(Look("camera", StartState("a/b", "test", index)), model, data, ()):
            moved = np.abs(data.cam_xpos - before[0]).max(1)
            turned = [
                np.arccos(np.clip((np.trace(a.reshape(3, 3).T @ b.reshape(3, 3)) - 1) / 2, -1, 1))
                for a, b in zip(before[1], data.cam_xmat, strict=True)
            ]
        far = np.maximum(far, [moved, turned])
        np.testing.assert_array_equal(data.cam_xpos, before[0])
        np.testing.assert_array_equal(data.cam_xmat, before[1])
    assert 0.038 < far[0, 0] <= 0.04
    assert 0.0045 < far[0, 1] <= 0.005
    assert np.radians(3) < far[1, 0] < np.radians(3) * 3**0.5
    assert np.radians(2) < far[1, 1] < np.radians(2) * 3**0.5


def test_lamps_turn_about_the_scene_and_keep_their_length(scene: tuple[Any, Any]) -> None:
    model, data = scene
    look = Look("light", StartState("a/b", "test", 3))
    before = [array.copy() for array in (model.light_diffuse, data.light_xpos, data.light_xdir)]
    ambient, lamp, turn = look.light()
    with looks.changed(look, model, data, ()):
        np.testing.assert_allclose(model.light_diffuse[0], 0.6 * lamp, rtol=1e-6)
        np.testing.assert_allclose(data.light_xdir[0], matrix(turn) @ [0, 0, -1])
        centre = model.stat.center
        for old, new in zip(before[1], data.light_xpos, strict=True):
            assert np.linalg.norm(new - centre) == pytest.approx(np.linalg.norm(old - centre))
    assert 0.4 <= ambient <= 1.5
    for array, saved in zip((model.light_diffuse, data.light_xpos, data.light_xdir), before, strict=True):
        np.testing.assert_array_equal(array, saved)


def test_what_breaks_while_a_picture_is_taken_leaves_the_scene_as_it_was(scene: tuple[Any, Any]) -> None:
    model, data = scene
    top = looks.surface(model, ("counter", "table"))
    assert [model.geom(number).name for number in top] == ["top"]
    before = model.geom_rgba.copy(), model.mat_rgba.copy()

    def break_down() -> None:
        with looks.changed(Look("background", StartState("a/b", "test", 0)), model, data, top):
            assert (model.mat_rgba[0, :3] != before[1][0, :3]).all()
            raise FloatingPointError

    with pytest.raises(FloatingPointError):
        break_down()
    np.testing.assert_array_equal(model.geom_rgba, before[0])
    np.testing.assert_array_equal(model.mat_rgba, before[1])


def test_a_scene_without_a_surface_says_so(scene: tuple[Any, Any]) -> None:
    with pytest.raises(ValueError, match="nothing in the scene is called counter"):
        looks.surface(scene[0], ("counter",))


def test_a_turn_is_right_handed() -> None:
    np.testing.assert_allclose(matrix(np.array([0.0, 0.0, np.pi / 2])) @ [1, 0, 0], [0, 1, 0], atol=1e-12)
    np.testing.assert_array_equal(matrix(np.zeros(3)), np.eye(3))
