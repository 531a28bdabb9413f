"""gym-pusht, gym-aloha and Gymnasium-Robotics through our adapter are the packages' own episodes."""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from regrip.datasets.protocols import StepResult
from regrip.datasets.starts import StartState
from regrip.datasets.statistics import Rate
from regrip.launch import environments
from regrip.launch.environments import EnvConfig
from regrip.sim.demonstrate import demonstrate
from regrip.sim.gym import tasks
from regrip.sim.gym.env import make
from regrip.sim.pool import WorkerPool

REPOSITORY = Path(__file__).parents[2]
PYTHON = Path(os.environ.get("REGRIP_GYMNASIUM_PYTHON", REPOSITORY / ".venv-gymnasium/bin/python"))
pytestmark = pytest.mark.skipif(not PYTHON.exists(), reason=f"no {PYTHON}: `make gymnasium` makes it")


def hand_and_fingers(seen: NDArray[np.float64]) -> NDArray[np.float64]:
    """(5,) from Fetch's observation, which holds an object's pose in between if there is one."""
    return seen[[0, 1, 2, 3, 4]] if len(seen) == 10 else seen[[0, 1, 2, 9, 10]]


FETCH_UNIT = np.array([0.05, 0.05, 0.05, 1.0], np.float32)
# For each suite: what an action of 1 in the package's units is in ours, and the policy's state by the
# package's documentation, independent of our mapping.
UNITS: dict[str, Any] = {"pusht": 1.0, "aloha": 1.0, "fetch": FETCH_UNIT, "kitchen": 2.0}
STATES: dict[str, Callable[[Any], NDArray[np.float64]]] = {
    "pusht": lambda seen: np.array(seen)[:2],
    "aloha": lambda seen: np.array(seen["agent_pos"]),
    "fetch": lambda seen: hand_and_fingers(np.array(seen["observation"])),
    "kitchen": lambda seen: np.array(seen["observation"])[:9],
}  # fmt: skip


def mostly_slow(names: Sequence[str]) -> list[Any]:
    """Those packages take seconds to import and to build a scene; one of each kind of test is quick."""
    return [
        name if name.startswith("pusht") else pytest.param(name, marks=pytest.mark.slow) for name in names
    ]


EVERY = mostly_slow(["pusht/push", "aloha/insertion", "kitchen/kettle", *tasks.task_names("fetch")])
SHORT = mostly_slow(["pusht/push", "aloha/transfer-cube", "fetch/pick-and-place", "kitchen/microwave"])
SUITES = mostly_slow(list(tasks.SUITES))


def open_pool(suite: str, num_slots: int = 1, chunk_size: int = 4, **kwargs: Any) -> WorkerPool:
    return WorkerPool(
        "regrip.sim.gym.env:make",
        {"suite": suite, "image_size": 48, **kwargs},
        num_slots=num_slots,
        num_workers=1,
        chunk_size=chunk_size,
        python=PYTHON,
    )


def native_actions(start: StartState, count: int) -> NDArray[np.float32]:
    """(count,A) in the package's units, all exact in binary."""
    spec, suite = make(start.suite).spec, start.suite
    low, high = spec.action_low / UNITS[suite], spec.action_high / UNITS[suite]
    if suite == "aloha":  # anything goes wrong there with wild actions: stay near where it begins
        rest = np.array([0, -0.96, 1.16, 0, -0.3, 0, 0.0] * 2)
        low, high = rest - 0.2, rest + 0.2
    drawn = start.generator("actions").uniform(low, high, (count, len(low)))
    exact = (np.round(drawn * 64) / 64).astype(np.float32)
    return exact.clip(spec.action_low / UNITS[suite], spec.action_high / UNITS[suite]).astype(np.float32)


def reference(
    start: StartState,
    actions: NDArray[np.float32],
    picture: str = "",
    draw: Sequence[int] = (),
    **kwargs: Any,
) -> dict[str, Any]:
    """The same episode by the package alone."""
    mapping = tasks.load(start.suite)
    task = mapping.tasks[start.task_name]
    plain = {key: value for key, value in task.kwargs.items() if not str(value).startswith("{")}
    order = {
        "modules": mapping.modules, "id": task.id, "kwargs": {**plain, **kwargs}, "picture": picture,
        "seed": start.simulator_seed(), "actions": actions.tolist(), "draw": list(draw),
    }  # fmt: skip
    done = subprocess.run(
        [PYTHON, Path(__file__).with_name("gym_reference.py")],
        input=json.dumps(order), capture_output=True, text=True, check=True,
        env={**os.environ, "MUJOCO_GL": "egl", "LP_NUM_THREADS": "0", "PYTHONPATH": ""},
    )  # fmt: skip
    answer: dict[str, Any] = json.loads(done.stdout)
    data = np.frombuffer(base64.b64decode(answer["picture"]), np.uint8)
    return {**answer, "picture": data.reshape(answer["shape"])}


def answer_bytes(result: StepResult) -> bytes:
    seen = result.observation
    return b"".join(
        array.tobytes()
        for array in (*seen.images.values(), seen.state, result.privileged, result.reward, result.success)
    )


@pytest.mark.parametrize("task", EVERY)
def test_the_episode_is_the_packages_own(task: str) -> None:
    start = StartState(task, "test", 5)
    actions = native_actions(start, 12 if start.suite != "aloha" else 4)
    theirs = reference(start, actions)
    with open_pool(start.suite, chunk_size=2) as pool:
        assert (
            environments.contract(
                environments.native(EnvConfig(name="gymnasium", suite=start.suite, image_size=48))
            )
            == pool.spec
        )
        pool.reset([0], [start])
        states = [pool.receive([0]).observation.state[0]]
        for pair in (actions * UNITS[start.suite]).astype(np.float32).reshape(-1, 1, 2, actions.shape[1]):
            pool.step([0], pair)
            states.append(pool.receive([0]).observation.state[0])
    for ours, seen in zip(states, theirs["observations"][::2], strict=True):
        np.testing.assert_array_equal(ours, STATES[start.suite](seen).astype(np.float32))
    assert not np.array_equal(states[0], states[-1])


@pytest.mark.parametrize("task", SHORT)
def test_looking_changes_nothing(task: str) -> None:
    # Gymnasium-Robotics computes forward when it draws, after which its episodes go on differently.
    start = StartState(task, "train", 0)
    actions = (native_actions(start, 8) * UNITS[start.suite]).astype(np.float32)
    ends = []
    for chunk in (1, 8):
        with open_pool(start.suite, chunk_size=chunk) as pool:
            pool.reset([0], [start])
            pool.receive([0])
            for one in actions.reshape(-1, 1, chunk, actions.shape[1]):
                pool.step([0], one)
                result = pool.receive([0])
            ends.append(result)
    np.testing.assert_array_equal(ends[0].observation.state, ends[1].observation.state)
    np.testing.assert_array_equal(ends[0].privileged, ends[1].privileged)
    for camera, frames in ends[0].observation.images.items():
        np.testing.assert_array_equal(frames, ends[1].observation.images[camera])


@pytest.mark.parametrize("suite", SUITES)
def test_episodes_depend_on_their_start_alone(suite: str) -> None:
    # In turns with another, after others, in another slot; after a worker was killed; from a snapshot.
    names = tasks.task_names(suite)
    starts = [StartState(names[0], "train", 1), StartState(names[-1], "train", 2)]
    width = make(suite).spec.action_dim
    chunks = [(native_actions(start, 12) * UNITS[suite]).astype(np.float32) for start in starts]

    def play(pool: WorkerPool, order: list[int], kill: bool = False) -> list[bytes]:
        shown = [b"", b""]
        pool.reset([0, 1], [starts[index] for index in order])
        for number in range(4):
            for slot, index in enumerate(order):
                shown[index] += answer_bytes(pool.receive([slot]))
            if kill and number == 2:
                os.kill(pool.worker_pids[0], signal.SIGKILL)
            if number < 3:
                rows = [chunks[index][4 * number : 4 * number + 4] for index in order]
                pool.step([0, 1], np.stack(rows).reshape(2, 4, width))
        return shown

    with open_pool(suite, num_slots=2) as pool:
        expected = play(pool, [0, 1])
        saved = pool.snapshot([0, 1])
        last = [answer_bytes(pool.receive([slot])) for slot in (0, 1)]
        assert play(pool, [1, 0]) == expected
        assert play(pool, [0, 1], kill=True) == expected
        assert [incident.kind for incident in pool.incidents] == ["died"]
        pool.restore([1, 0], saved)
        again = [pool.receive([slot]) for slot in (1, 0)]
        assert [one.observation.state.tobytes() in whole for one, whole in zip(again, last, strict=True)] == [
            True, True,
        ]  # fmt: skip
        for one, whole in zip(again, last, strict=True):
            for frames in one.observation.images.values():
                assert frames.tobytes() in whole
    assert expected[0] != expected[1]


def likeness(ours: NDArray[np.uint8], theirs: NDArray[np.floating[Any]]) -> float:
    return float(np.corrcoef(ours.astype(np.float64).ravel(), theirs.ravel())[0, 1])


def shrink(picture: NDArray[np.uint8], size: int) -> NDArray[np.float64]:
    """The middle square of a picture, averaged to (size,size,3)."""
    height, width, _ = picture.shape
    left = (width - height) // 2
    factor = height // size
    return picture[:, left : left + height].reshape(size, factor, size, factor, 3).mean((1, 3))


def test_pusht_looks_exactly_as_in_the_package() -> None:
    start = StartState("pusht/push", "test", 1)
    actions = native_actions(start, 4)
    theirs = reference(start, actions, "pixels", obs_type="pixels")
    with open_pool("pusht", image_size=96) as pool:
        pool.reset([0], [start])
        pool.receive([0])
        pool.step([0], actions[None])
        np.testing.assert_array_equal(pool.receive([0]).observation.images["top"][0], theirs["picture"])


@pytest.mark.slow
@pytest.mark.parametrize(("render", "least"), [("fast", 0.8), ("stock", 0.97)])
@pytest.mark.parametrize("suite", ["aloha", "fetch", "kitchen"])
def test_pictures_are_oriented_as_the_packages_own(
    suite: str, render: str, least: float, tmp_path: Path
) -> None:
    task = {"aloha": "transfer-cube", "fetch": "reach", "kitchen": "kettle"}[suite]
    start = StartState(f"{suite}/{task}", "test", 2)
    actions = native_actions(start, 1)
    if suite == "aloha":  # the left arm swings out, else the scene is its own mirror image
        aside = [0.75, -0.75, 0.5, 0, -0.25, 0, 0, 0, -0.75, 1, 0, -0.25, 0, 0]
        actions = np.tile(np.array(aside, np.float32), (8, 1))
        theirs = reference(start, actions, "pixels")["picture"]
    else:
        theirs = reference(start, actions, "render", render_mode="rgb_array")["picture"]
    name, camera = suite, {"aloha": "top", "fetch": "far", "kitchen": "front"}[suite]
    if suite == "fetch":  # the package's own look from afar, as a camera of a mapping of one's own
        free = "free = { distance = 2.5, azimuth = 132.0, elevation = -14.0, lookat = [1.3, 0.75, 0.55] }"
        name = str(tmp_path / "fetch.toml")
        Path(name).write_text(tasks.SUITES["fetch"].read_text() + f"\n[cameras.far]\n{free}\n")
    with open_pool(name, chunk_size=1, cameras=[camera], render=render) as pool:
        pool.reset([0], [start])
        pool.receive([0])
        for action in (actions * UNITS[suite]).astype(np.float32):
            pool.step([0], action[None, None])
            ours = pool.receive([0]).observation.images[camera][0]
    small = shrink(theirs, 48)
    found = likeness(ours, small)
    assert found > least
    turned = (small[::-1], small[:, ::-1], small[::-1, ::-1])
    assert max(likeness(ours, other) for other in turned) < found - 0.05
    red_over_blue = ours[..., 0].astype(np.float64) - ours[..., 2]
    assert np.corrcoef(red_over_blue.ravel(), (small[..., 0] - small[..., 2]).ravel())[0, 1] > 0.5


@pytest.mark.slow
def test_the_goal_of_fetch_is_in_the_picture_and_not_in_the_state() -> None:
    with open_pool("fetch", num_slots=4, image_size=128) as pool:
        starts = [StartState(task, "train", 7) for task in tasks.task_names("fetch")]
        pool.reset([0, 1, 2, 3], starts)
        result = pool.receive([0, 1, 2, 3])
    assert [axis.name for axis in pool.spec.state] == [
        "hand_x",
        "hand_y",
        "hand_z",
        "finger_right",
        "finger_left",
    ]
    for frames in result.observation.images.values():
        red, green, blue = np.moveaxis(frames.astype(int), -1, 0)
        assert ((red > 120) & (green < 60) & (blue < 60)).any((1, 2)).all()


@pytest.mark.slow
def test_a_goal_moves_its_ball(tmp_path: Path) -> None:
    # Two goals apart along x, seen from straight above: the nearer to the robot, the higher in the picture.
    above = "free = { distance = 1.2, azimuth = 180.0, elevation = -90.0, lookat = [1.34, 0.75, 0.5] }"
    path = tmp_path / "fetch.toml"
    path.write_text(tasks.SUITES["fetch"].read_text() + f"\n[cameras.above]\n{above}\n")
    starts = [StartState("fetch/push", "train", index) for index in range(8)]
    with open_pool(str(path), num_slots=8, image_size=96, cameras=["above"]) as pool:
        pool.reset(list(range(8)), starts)
        result = pool.receive(list(range(8)))
    rows = []
    for frame in result.observation.images["above"].astype(int):
        red = np.argwhere((frame[..., 0] > 120) & (frame[..., 1] < 80) & (frame[..., 2] < 80))
        rows.append(red.mean(0) if len(red) else np.full(2, np.nan))
    seen, goal = np.array(rows), result.privileged[:, 6:8]
    visible = ~np.isnan(seen[:, 0])
    assert visible.sum() >= 5  # the arm hides some
    assert np.corrcoef(seen[visible, 0], goal[visible, 0])[0, 1] > 0.98
    assert np.corrcoef(seen[visible, 1], goal[visible, 1])[0, 1] > 0.98


@pytest.mark.slow
def test_a_camera_of_no_such_name_in_the_model_names_the_nearest(tmp_path: Path) -> None:
    path = tmp_path / "fetch.toml"
    text = tasks.SUITES["fetch"].read_text()
    path.write_text(text + '\n[cameras.hand]\nmujoco = "griper_camera_rgb"\n')
    with open_pool(str(path), cameras=["hand"]) as pool:
        pool.reset([0], [StartState("fetch/reach", "train", 0)])
        with pytest.raises(ValueError, match=r"cameras.hand: .*did you mean 'gripper_camera_rgb'"):
            pool.receive([0])


@pytest.mark.slow
def test_signs_and_units_of_fetch() -> None:
    start = StartState("fetch/pick-and-place", "train", 3)
    with open_pool("fetch", num_slots=5, chunk_size=4) as pool:
        slots = list(range(5))
        pool.reset(slots, [start] * 5)
        before = pool.receive(slots).observation.state
        actions = np.zeros((5, 4, 4), np.float32)
        for axis in range(3):
            actions[axis, :, axis] = 0.02
        actions[3, :, 3], actions[4, :, 3] = 1.0, -1.0
        pool.step(slots, actions)
        moved = pool.receive(slots).observation.state - before
    for axis in range(3):
        assert 0.04 < moved[axis, axis] <= 0.085  # four steps of two centimetres, less a lag
        assert np.abs(np.delete(moved[axis, :3], axis)).max() < 0.01
    assert moved[3, 3:].min() > 0.02  # effort 1 opens
    assert moved[4, 3:].max() < 0.005


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "least"), [("reach", 20), ("push", 18), ("pick-and-place", 18), ("slide", 6)]
)
def test_experts_of_fetch_solve_held_out_starts(task: str, least: int) -> None:
    with WorkerPool(
        "regrip.sim.demonstrate:with_expert",
        {
            "factory": "regrip.sim.gym.env:make",
            "kwargs": {"suite": "fetch", "cameras": ["front"], "image_size": 16},
        },
        num_slots=4, num_workers=1, chunk_size=1, python=PYTHON,
    ) as pool:  # fmt: skip
        starts = [StartState(f"fetch/{task}", "select", index) for index in range(20)]
        shown = demonstrate(pool, starts, behaviour="expert", key=("test",))
    won = sum(demo.episode.outcome.success for demo in shown)
    print(task, Rate(won, 20))
    assert won >= least


@pytest.mark.slow
def test_a_simulation_that_blows_up_ends_its_episode_alone() -> None:
    with open_pool("aloha", num_slots=2, chunk_size=50, cameras=[]) as pool:
        start = StartState("aloha/transfer-cube", "train", 0)
        pool.reset([0, 1], [start, start])
        rest = pool.receive([0, 1]).observation.state[0]
        wild = start.generator("wild").uniform(pool.spec.action_low, pool.spec.action_high, (6, 50, 14))
        for chunk in wild:
            pool.step([0, 1], np.stack([chunk, np.tile(rest, (50, 1))]).astype(np.float32))
            result = pool.receive([0, 1])
            if result.done.any():
                break
        assert result.done.tolist() == [True, False]
        assert result.invalid.tolist() == [True, False]
        assert not result.success.any()
        assert np.isfinite(result.observation.state).all()
        pool.reset([0], [start])
        np.testing.assert_array_equal(pool.receive([0]).observation.state[0], rest)
