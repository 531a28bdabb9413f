"""ManiSkill keeps our contract, and what we play there is the package's own episode."""

from __future__ import annotations

import base64
import json
import math
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from regrip.datasets.protocols import StepResult
from regrip.datasets.spec import RobotSpec
from regrip.datasets.starts import StartState, split_of_seed
from regrip.launch import environments
from regrip.launch.environments import EnvConfig
from regrip.sim.demonstrate import demonstrate
from regrip.sim.maniskill import tasks
from regrip.sim.maniskill.control import command, euler_xyz
from regrip.sim.maniskill.env import PRIVILEGED_NAMES, ManiSkillEnv, make, robot_spec
from regrip.sim.pool import WorkerPool

REPOSITORY = Path(__file__).parents[2]
PYTHON = Path(os.environ.get("REGRIP_MANISKILL_PYTHON", REPOSITORY / ".venv-maniskill/bin/python"))
needs_maniskill = pytest.mark.skipif(not PYTHON.exists(), reason=f"no {PYTHON}: `make maniskill` makes it")

PICK, PUSH, PULL = (StartState(task, "test", 3) for task in tasks.task_names("cubes"))
CHUNK = 3
BASE_M = np.array([-0.615, 0.0, 0.0])  # of the robot in the package's world
OPEN_M = 0.08


@pytest.fixture(autouse=True)
def _at_the_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REGRIP_MANISKILL_PYTHON", str(PYTHON))


def open_pool(num_slots: int = 3, num_workers: int = 1, **config: Any) -> WorkerPool:
    os.environ["REGRIP_MANISKILL_PYTHON"] = str(PYTHON)
    settings = {"suite": "cubes", "image_size": 48, **config}
    return environments.open_pool(
        EnvConfig(name="maniskill", slots=num_slots, workers=num_workers, **settings), chunk_size=CHUNK
    )


@pytest.fixture(scope="module")
def pool() -> Iterator[WorkerPool]:
    """A slot for each task of `cubes`, in one worker."""
    with open_pool() as opened:
        yield opened


def chunks_of(starts: Sequence[StartState], number: int) -> NDArray[np.float32]:
    """Reproducible random chunks (B,3,7), one a start, that soon run into table and cube."""
    low, high = robot_spec().action_low, robot_spec().action_high
    chunks = []
    for start in starts:
        chunk = start.generator("chunk", number).uniform(low, high, (CHUNK, 7)).astype(np.float32)
        chunk[:, 2] = -0.06
        chunks.append(chunk)
    return np.stack(chunks)


def answer_bytes(result: StepResult, row: int) -> bytes:
    images = b"".join(frames[row].tobytes() for _, frames in sorted(result.observation.images.items()))
    return images + b"".join(
        array[row].tobytes()
        for array in (result.observation.state, result.privileged, result.reward, result.done)
    )


def begin(pool: WorkerPool, slots: list[int], starts: Sequence[StartState]) -> StepResult:
    pool.reset(slots, starts)
    return pool.receive(slots)


def go_on(
    pool: WorkerPool, slots: list[int], starts: Sequence[StartState], numbers: Sequence[int]
) -> list[bytes]:
    """What each start's episode shows after every chunk."""
    shown = [b""] * len(slots)
    for number in numbers:
        pool.step(slots, chunks_of(starts, number))
        result = pool.receive(slots)
        shown = [before + answer_bytes(result, row) for row, before in enumerate(shown)]
    return shown


def play(pool: WorkerPool, slots: list[int], starts: Sequence[StartState], num_chunks: int) -> list[bytes]:
    """The same, from the reset on."""
    result = begin(pool, slots, starts)
    shown = [answer_bytes(result, row) for row in range(len(slots))]
    after = go_on(pool, slots, starts, range(num_chunks))
    return [first + rest for first, rest in zip(shown, after, strict=True)]


def reference(
    task: str, seed: int, actions: NDArray[np.float32], mode: str = "pd_ee_delta_pose"
) -> dict[str, Any]:
    """The same episode by the package alone; `actions` in its units."""
    order = {"task": task, "control_mode": mode, "seed": seed, "camera": "base_camera"}
    variables = environments.worker_variables(EnvConfig(name="maniskill"))
    done = subprocess.run(
        [PYTHON, Path(__file__).with_name("maniskill_reference.py")],
        input=json.dumps({**order, "actions": actions.tolist()}), capture_output=True, text=True, check=True,
        env={**os.environ, **variables, "LP_NUM_THREADS": "0", "OMP_NUM_THREADS": "1", "PYTHONPATH": ""},
    )  # fmt: skip
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


# Without the package


def test_names_sentences_and_contract_need_no_maniskill() -> None:
    code = (
        "import sys; sys.modules['mani_skill'] = sys.modules['sapien'] = None\n"
        "from regrip.launch import environments as e\n"
        "config = e.EnvConfig(name='maniskill', suite='panda')\n"
        "print(len(e.task_names(config)), len(e.sentences(config)), e.contract(config).action_dim)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["12", "48", "7"]


def test_the_contract_of_each_suite_and_control_mode() -> None:
    delta, joints = robot_spec(), robot_spec("wrist", control_mode="joint_position")
    assert (delta.action_dim, delta.state_dim, delta.control_rate_hz) == (7, 15, 20.0)
    assert joints.action_high[:7].tolist() == pytest.approx([axis.high for axis in joints.state[:7]])
    assert [camera.name for camera in joints.cameras] == ["base_camera", "hand_camera"]
    stick = robot_spec("stick")
    assert (stick.action_dim, stick.state_dim, stick.gripper) == (6, 14, "none")
    assert RobotSpec.from_json(stick.to_json()) == stick


@pytest.mark.parametrize("suite", tasks.SUITES)
def test_sentences_tell_tasks_apart_and_held_out_ones_are_new(suite: str) -> None:
    every = tasks.load(suite).values()
    said = [text for task in every for text in (task.instruction, *task.train_phrases, *task.heldout_phrases)]
    assert len(set(said)) == len(said)
    assert set(tasks.sentences(suite)) == set(said)
    known = {word for text in tasks.sentences(suite, "train") for word in text.split()}
    assert {word for text in tasks.sentences(suite, "heldout") for word in text.split()} <= known


def test_no_two_splits_share_a_seed() -> None:
    seeds = []
    for split in ("train", "select", "test"):
        for index in range(300):
            seeds.append(tasks.episode_seed(StartState(PICK.task, split, index)))
            assert split_of_seed(seeds[-1]) == split
            assert 0 <= seeds[-1] < 2**31
    assert len(set(seeds)) == len(seeds)


def test_rotation_vectors_become_the_angles_of_the_same_rotation() -> None:
    assert euler_xyz(np.array([0.0, 0.0, 0.5])) == pytest.approx([0.0, 0.0, 0.5])

    def about(axis: int, angle: float) -> NDArray[np.float64]:
        i, j = (axis + 1) % 3, (axis + 2) % 3
        matrix = np.eye(3)
        matrix[i, i] = matrix[j, j] = math.cos(angle)
        matrix[i, j], matrix[j, i] = -math.sin(angle), math.sin(angle)
        return matrix

    vector = np.array([0.3, -0.4, 0.2])
    a, b, c = euler_xyz(vector)
    angle = float(np.linalg.norm(vector))
    x, y, z = vector / angle
    cross = np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])
    rodrigues = np.eye(3) + math.sin(angle) * cross + (1 - math.cos(angle)) * cross @ cross
    np.testing.assert_allclose(about(0, a) @ about(1, b) @ about(2, c), rodrigues, atol=1e-12)


def test_units_by_hand() -> None:
    # 5 of 10 cm; a turn of 0.05 of 0.1 rad, counted backwards there; a width of 3 cm, midway from -2 to 8 cm.
    action = np.array([0.05, 0.0, -0.1, 0.0, 0.0, 0.05, 0.03])
    assert command(action, "ee_delta", True) == pytest.approx([0.5, 0.0, -1.0, 0.0, 0.0, -0.5, 0.0])
    assert command(np.array([*np.arange(7.0), 0.08]), "joint_position", True) == pytest.approx(
        [0, 1, 2, 3, 4, 5, 6, 1]
    )
    # Three turns at their limits are one of 0.17 rad; the package takes no more than 0.1.
    assert np.linalg.norm(command(np.array([0, 0, 0, 0.1, 0.1, 0.1]), "ee_delta", False)) == pytest.approx(
        1.0, abs=0.03
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"suite": "cube"}, "did you mean 'cubes'"),
        ({"cameras": ["base_camra"]}, "did you mean 'base_camera'"),
        ({"suite": "wrist", "cameras": ["hand_camera", "hand_camera"]}, "name one twice"),
        ({"image_size": 8}, "not within 32..512"),
        ({"control_mode": "joint_positions"}, "did you mean 'joint_position'"),
        ({"paraphrase": "canonicl"}, "did you mean 'canonical'"),
        ({"render": "fats"}, "did you mean 'fast'"),
    ],
)
def test_what_does_not_exist_is_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**arguments)


def test_a_start_that_cannot_be_played_is_refused() -> None:
    env = ManiSkillEnv("cubes")
    with pytest.raises(ValueError, match="suite 'wrist', but this environment plays 'cubes'"):
        env.reset(StartState("wrist/StackCube", "train", 0))
    with pytest.raises(ValueError, match="did you mean 'PushCube'"):
        env.reset(StartState("cubes/PushCub", "train", 0))
    with pytest.raises(ValueError, match="leave out the '-v1'"):
        env.reset(StartState("cubes/PushCube-v1", "train", 0))
    with pytest.raises(ValueError, match=r"PickSingleYCB.* needs meshes that ManiSkill downloads"):
        env.reset(StartState("cubes/PickSingleYCB", "train", 0))
    with pytest.raises(RuntimeError, match=r"call reset\(start\) first"):
        env.state()


def test_a_missing_package_says_what_to_type() -> None:
    with pytest.raises(RuntimeError, match="`make maniskill`"):
        ManiSkillEnv("cubes").reset(PICK)


def test_a_missing_interpreter_says_what_to_type(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("REGRIP_MANISKILL_PYTHON", str(tmp_path / "python"))
    with pytest.raises(FileNotFoundError, match="type `make maniskill`"):
        environments.open_pool(EnvConfig(name="maniskill", suite="cubes"), chunk_size=5)


def test_the_unpacked_driver_is_for_maniskills_workers_alone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    python = tmp_path / "bin/python"
    python.parent.mkdir()
    python.touch()
    monkeypatch.setenv("REGRIP_MANISKILL_PYTHON", str(python))
    monkeypatch.setenv("LD_LIBRARY_PATH", "/elsewhere")
    config = EnvConfig(name="maniskill")
    assert environments.worker_variables(config) == {}  # the system's driver, then
    driver = tmp_path / "mesa/usr/share/vulkan/icd.d/lvp_icd.json"
    library = tmp_path / "mesa/usr/lib/x86_64-linux-gnu/libvulkan_lvp.so"
    for file in (driver, library):
        file.parent.mkdir(parents=True)
        file.touch()
    assert environments.worker_variables(config) == {
        "VK_DRIVER_FILES": str(driver),
        "VK_ICD_FILENAMES": str(driver),
        "LD_LIBRARY_PATH": f"{library.parent}:/elsewhere",
    }
    assert environments.worker_variables(EnvConfig()) == {}


# With it


@needs_maniskill
def test_the_contract_is_the_same_on_both_sides(pool: WorkerPool) -> None:
    assert pool.spec == environments.contract(EnvConfig(name="maniskill", suite="cubes", image_size=48))
    assert pool.privileged_dim == len(PRIVILEGED_NAMES)


@needs_maniskill
def test_episodes_depend_on_their_start_alone(pool: WorkerPool) -> None:
    starts = [PICK, PUSH, PULL]
    expected = play(pool, [0, 1, 2], starts, 5)
    # Other tasks in the slots, in another order, after other episodes; then fresh processes.
    assert play(pool, [1, 2, 0], starts, 5) == expected
    with open_pool(2, num_workers=2) as second:
        assert play(second, [0, 1], [PULL, PICK], 5) == [expected[2], expected[0]]
    assert len(set(expected)) == 3


@needs_maniskill
def test_snapshots_and_kills_change_nothing(pool: WorkerPool) -> None:
    starts, slots = [PICK, PUSH, PULL], [0, 1, 2]
    play(pool, slots, starts, 3)
    saved = pool.snapshot(slots)
    expected = go_on(pool, slots, starts, range(10, 13))
    with open_pool() as second:
        second.restore(slots, saved)
        restored = second.receive(slots)
        assert all(frames.any() for frames in restored.observation.images.values())
        assert second.snapshot(slots) == saved
        assert restored.observation.instruction == [
            tasks.load("cubes")[start.task_name].instruction for start in starts
        ]
        first = go_on(second, slots, starts, [10])
        os.kill(second.worker_pids[0], signal.SIGKILL)
        rest = go_on(second, slots, starts, [11, 12])
        assert [incident.kind for incident in second.incidents] == ["died"]
    assert [a + b for a, b in zip(first, rest, strict=True)] == expected


@needs_maniskill
@pytest.mark.parametrize("mode", ["ee_delta", "joint_position"])
def test_the_episode_is_the_packages_own(mode: str) -> None:
    start, modes = PUSH, {"ee_delta": "pd_ee_delta_pose", "joint_position": "pd_joint_pos"}
    spec = robot_spec("cubes", control_mode=mode)
    with open_pool(1, image_size=96, control_mode=mode, render="stock") as ours:
        home = begin(ours, [0], [start]).observation.state[0, :7]
        draw = np.random.default_rng(5)
        actions = draw.uniform(spec.action_low, spec.action_high, (4 * CHUNK, spec.action_dim)).astype(
            np.float32
        )
        if mode == "joint_position":
            actions[:, :7] = home + draw.uniform(-0.2, 0.2, (4 * CHUNK, 7))
        states = []
        for chunk in actions.reshape(4, 1, CHUNK, -1):
            ours.step([0], chunk)
            result = ours.receive([0])
            states.append(result.observation.state[0])
    theirs = np.stack(
        [command(np.clip(a, spec.action_low, spec.action_high).astype(float), mode, True) for a in actions]
    )
    answer = reference(start.task_name, tasks.episode_seed(start), theirs, modes[mode])
    assert answer["control_hz"] == spec.control_rate_hz
    np.testing.assert_allclose(answer["limits"][:7], [(a.low, a.high) for a in spec.state[:7]], rtol=1e-6)
    for number, state in enumerate(states):
        step = (number + 1) * CHUNK - 1
        joints, tcp = np.array(answer["joints"][step], np.float32), np.array(answer["tcps"][step], np.float32)
        np.testing.assert_array_equal(state[:7], joints[:7])
        assert state[7] == joints[7:9].sum()
        np.testing.assert_allclose(state[8:11], tcp[:3] - BASE_M, atol=1e-6)
        np.testing.assert_array_equal(np.abs(state[11:]), np.abs(tcp[3:]))
    cube = np.array(answer["poses"]["cube"], np.float32)
    np.testing.assert_allclose(result.privileged[0, :3], cube[:3] - BASE_M, atol=1e-6)
    # The picture too, which nothing has hidden from in this task.
    picture = np.frombuffer(base64.b64decode(answer["picture"]), np.uint8).reshape(96, 96, 3)
    np.testing.assert_array_equal(result.observation.images["base_camera"][0], picture)


@needs_maniskill
def test_fast_pictures_show_the_same_scene_the_same_way_up(pool: WorkerPool) -> None:
    fast = begin(pool, [0], [PUSH]).observation.images["base_camera"][0].astype(np.float64)
    with open_pool(1, render="stock") as slow:
        stock = begin(slow, [0], [PUSH]).observation.images["base_camera"][0].astype(np.float64)

    def likeness(picture: NDArray[np.float64]) -> float:
        return float(np.corrcoef(picture.ravel(), fast.ravel())[0, 1])

    assert 0.95 < likeness(stock) < 1.0
    turned = (stock[::-1], stock[:, ::-1], stock[::-1, ::-1], stock[..., ::-1])
    assert max(likeness(picture) for picture in turned) < likeness(stock) - 0.05


@needs_maniskill
def test_signs_and_units_of_actions(pool: WorkerPool) -> None:
    def moved(action: Sequence[float]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        before = begin(pool, [0], [PUSH]).observation.state[0].astype(np.float64)
        for _ in range(2):
            pool.step([0], np.tile(np.array(action, np.float32), (1, CHUNK, 1)))
            after = pool.receive([0]).observation.state[0].astype(np.float64)
        return before, after

    for axis in range(3):
        action = [0.0] * 6 + [OPEN_M]
        action[axis] = 0.02
        before, after = moved(action)
        shift = after[8:11] - before[8:11]
        # Each of six steps aims 2 cm ahead of where the hand is by then.
        assert 0.02 < shift[axis] < 0.12, axis
        assert np.abs(np.delete(shift, axis)).max() < 0.02
    for axis in range(3):
        action = [0.0] * 6 + [-0.02]
        action[3 + axis] = 0.1
        before, after = moved(action)
        turn = rotation_between(before[11:], after[11:])
        assert turn[axis] > 0.1, (axis, turn)
        assert np.abs(np.delete(turn, axis)).max() < 0.05
        assert after[7] < 0.03 < 0.07 < before[7]  # told to shut, it shuts


def rotation_between(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """The rotation vector in the base frame that takes quaternion `a` (w first) to `b`; small angles."""
    w, x, y, z = b
    left = np.array([[w, -x, -y, -z], [x, w, -z, y], [y, z, w, -x], [z, -y, x, w]])
    difference: NDArray[np.float64] = left @ (a * np.array([1.0, -1.0, -1.0, -1.0]))
    vector: NDArray[np.float64] = 2 * difference[1:] * np.sign(difference[0])
    return vector


@needs_maniskill
def test_bad_actions_are_refused_and_wild_ones_clipped(pool: WorkerPool) -> None:
    begin(pool, [0, 1], [PULL, PULL])
    most = np.tile(robot_spec().action_high, (CHUNK, 1))
    pool.step([0, 1], np.stack([np.full((CHUNK, 7), 99.0), most]).astype(np.float32))
    result = pool.receive([0, 1])
    np.testing.assert_array_equal(result.observation.state[0], result.observation.state[1])
    pool.step([0], np.full((1, CHUNK, 7), np.nan, np.float32))
    with pytest.raises(ValueError, match="is not 7 finite numbers"):
        pool.receive([0])


@needs_maniskill
def test_an_idle_episode_ends_at_the_packages_limit_without_success(pool: WorkerPool) -> None:
    begin(pool, [0], [PUSH])
    for number in range(17):
        pool.step([0], np.zeros((1, CHUNK, 7), np.float32))
        result = pool.receive([0])
        assert bool(result.done[0]) == (number == 16)
    assert (int(result.executed[0]), bool(result.success[0])) == (2, False)  # 50 = 16 x 3 + 2


@needs_maniskill
def test_without_a_vulkan_device_the_error_names_the_mesa(tmp_path: Path) -> None:
    code = (
        f"import sys; sys.path.insert(0, {str(REPOSITORY / 'src')!r})\n"
        "from regrip.datasets.starts import StartState\n"
        "from regrip.sim.maniskill.env import make\n"
        "make().reset(StartState('cubes/PushCube', 'train', 0))"
    )
    done = subprocess.run(
        [PYTHON, "-c", code], capture_output=True, text=True, check=False,
        env={**os.environ, "VK_ICD_FILENAMES": str(tmp_path / "none.json")},
    )  # fmt: skip
    assert done.returncode == 1
    assert "lavapipe 24.3 or later" in done.stderr
    assert "`make maniskill`" in done.stderr


@needs_maniskill
def test_experts_solve_starts_they_have_not_seen() -> None:
    os.environ["REGRIP_MANISKILL_PYTHON"] = str(PYTHON)
    config = EnvConfig(name="maniskill", suite="cubes", image_size=32, slots=3, workers=1)
    starts = [StartState(task, "select", index) for task in tasks.task_names("cubes") for index in range(2)]
    with environments.open_pool(config, chunk_size=1, expert=True) as experts:
        shown = demonstrate(experts, starts, behaviour="expert", key=("test",))
        assert [demo.episode.outcome.success for demo in shown] == [True] * 6
    with (
        environments.open_pool(
            EnvConfig(name="maniskill", suite="wrist", image_size=32, slots=1, workers=1), 1, expert=True
        ) as none,
        pytest.raises(ValueError, match="no scripted expert for StackCube"),
    ):
        begin(none, [0], [StartState("wrist/StackCube", "train", 0)])


@needs_maniskill
@pytest.mark.slow
@pytest.mark.parametrize("suite", ["panda", "wrist", "stick"])
def test_every_task_can_be_played_twice_alike(suite: str) -> None:
    names = tasks.task_names(suite)
    starts = [StartState(name, "train", 1) for name in names]
    with open_pool(len(starts), suite=suite) as every:
        dim = every.spec.action_dim
        seen: list[list[bytes]] = []
        for order in (starts, starts[::-1]):
            slots = list(range(len(order)))
            result = begin(every, slots, order)
            for frames in result.observation.images.values():
                assert all(frame.std() > 5 for frame in frames)
            for number in range(5):
                low, high = every.spec.action_low, every.spec.action_high
                chunks = np.stack(
                    [start.generator("c", number).uniform(low, high, (CHUNK, dim)) for start in order]
                )
                every.step(slots, chunks.astype(np.float32))
                result = every.receive(slots)
            seen.append([answer_bytes(result, row) for row in slots])
        assert seen[0] == seen[1][::-1]
