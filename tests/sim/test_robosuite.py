"""robosuite keeps our contract, and what we play there is the package's own episode."""

from __future__ import annotations

import base64
import dataclasses
import json
import os
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
from regrip.datasets.starts import StartState, split_of_lattice
from regrip.launch import environments
from regrip.launch.environments import EnvConfig
from regrip.sim.demonstrate import demonstrate
from regrip.sim.pool import WorkerPool
from regrip.sim.robosuite import tasks
from regrip.sim.robosuite.env import CAMERAS, make, robot_spec
from regrip.sim.robosuite.panda import PRIVILEGED_NAMES

FACTORY = "regrip.sim.robosuite.env:make"
REPOSITORY = Path(__file__).parents[2]
PYTHON = Path(os.environ.get("REGRIP_ROBOSUITE_PYTHON", REPOSITORY / ".venv-robosuite/bin/python"))
needs_robosuite = pytest.mark.skipif(not PYTHON.exists(), reason=f"no {PYTHON}: `make robosuite` makes it")

LIFT, DOOR, WIPE = (StartState(f"robosuite/{name}", "test", 3) for name in ("lift", "door", "wipe"))
MOVING = {LIFT: "cube_main", DOOR: "Door_main", WIPE: "contact0_main"}
HAND, FINGERS = slice(3, 6), slice(6, 8)  # of privileged()


def open_pool(num_slots: int = 4, num_workers: int = 1, chunk_size: int = 4, **kwargs: Any) -> WorkerPool:
    return WorkerPool(
        FACTORY,
        {"suite": "robosuite", "image_size": 48, **kwargs},
        num_slots=num_slots,
        num_workers=num_workers,
        chunk_size=chunk_size,
        python=PYTHON,
    )


@pytest.fixture(scope="module")
def pool() -> Iterator[WorkerPool]:
    """Slots of several tasks on the stages of one worker."""
    with open_pool() as opened:
        yield opened


def chunks_of(starts: Sequence[StartState], number: int) -> NDArray[np.float32]:
    """Reproducible random chunks (B,4,7), one a start; downwards on the whole, so that things are touched."""
    low, high = robot_spec().action_low.copy(), robot_spec().action_high.copy()
    high[2] *= 0.2
    return np.stack(
        [start.generator("chunk", number).uniform(low, high, (4, 7)).astype(np.float32) for start in starts]
    )


def answer_bytes(result: StepResult, row: int) -> bytes:
    images = b"".join(frames[row].tobytes() for _, frames in sorted(result.observation.images.items()))
    return images + b"".join(
        array[row].tobytes()
        for array in (result.observation.state, result.privileged, result.reward, result.done)
    )


def begin(pool: WorkerPool, slots: list[int], starts: Sequence[StartState]) -> StepResult:
    pool.reset(slots, starts)
    return pool.receive(slots)


def play(pool: WorkerPool, slots: list[int], starts: Sequence[StartState], num_chunks: int) -> list[bytes]:
    """What each start's episode shows after its reset and every chunk."""
    result = begin(pool, slots, starts)
    shown = [answer_bytes(result, row) for row in range(len(slots))]
    for number in range(num_chunks):
        pool.step(slots, chunks_of(starts, number))
        result = pool.receive(slots)
        shown = [before + answer_bytes(result, row) for row, before in enumerate(shown)]
    return shown


def reference(
    start: StartState, actions: Sequence[Sequence[float]], camera: str = "", size: int = 48
) -> dict[str, Any]:
    """The same episode by the package alone; `actions` in its units."""
    order = {
        "start": dataclasses.astuple(start),
        "package_name": tasks.load("robosuite")[start.task_name].package_name,
        "moving_body": MOVING[start],
        "actions": actions,
        "camera": camera,
        "size": size,
    }
    done = subprocess.run(
        [PYTHON, Path(__file__).with_name("robosuite_reference.py")],
        input=json.dumps(order), capture_output=True, text=True, check=True,
        env={**os.environ, "MUJOCO_GL": "egl", "LP_NUM_THREADS": "0", "PYTHONPATH": str(REPOSITORY / "src")},
    )  # fmt: skip
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])  # the package logs to stdout, too
    return answer


def in_package_units(chunk: NDArray[np.float32]) -> list[list[float]]:
    unit = robot_spec().action_high.astype(np.float64)
    scaled: list[list[float]] = np.clip(chunk.astype(np.float64) / unit, -1, 1).tolist()
    return scaled


# Without the package


def test_names_sentences_and_contract_need_no_robosuite() -> None:
    code = (
        "import sys; sys.modules['robosuite'] = sys.modules['mujoco'] = None\n"
        "from regrip.launch import environments as e\n"
        "config = e.EnvConfig(name='robosuite', suite='robosuite')\n"
        "print(len(e.task_names(config)), len(e.sentences(config)), e.contract(config).action_dim)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["6", "24", "7"]


def test_sentences_tell_tasks_apart_and_held_out_ones_are_new() -> None:
    every = tasks.load("robosuite").values()
    said = [text for task in every for text in (task.instruction, *task.train_phrases, *task.heldout_phrases)]
    assert len(set(said)) == len(said)
    assert set(tasks.sentences("robosuite")) == set(said)
    known = {word for text in tasks.sentences("robosuite", "train") for word in text.split()}
    assert {word for text in tasks.sentences("robosuite", "heldout") for word in text.split()} <= known


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"suite": "robosuit"}, "did you mean 'robosuite'"),
        ({"cameras": ("agentvew",)}, "did you mean 'agentview'"),
        ({"cameras": ("agentview", "agentview")}, "name one twice"),
        ({"image_size": 8}, "not within 32..480"),
        ({"control_mode": "joint_position"}, "set control_mode to 'ee_delta'"),
        ({"paraphrase": "canonicl"}, "did you mean 'canonical'"),
        ({"render": "stok"}, "did you mean 'stock'"),
    ],
)
def test_what_does_not_exist_is_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**arguments)


def test_a_start_of_another_suite_or_task_is_refused() -> None:
    env = make("blocks")
    with pytest.raises(ValueError, match="suite 'robosuite', but this environment plays 'blocks'"):
        env.reset(LIFT)
    with pytest.raises(ValueError, match="did you mean 'lift'"):
        env.reset(StartState("blocks/lft", "train", 0))
    with pytest.raises(RuntimeError, match=r"call reset\(start\) first"):
        env.state()


def test_a_missing_package_says_what_to_type() -> None:
    with pytest.raises(RuntimeError, match=r"no module 'robosuite'.*`make robosuite`"):
        make().reset(LIFT)


def test_a_missing_interpreter_says_what_to_type(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("REGRIP_ROBOSUITE_PYTHON", str(tmp_path / "python"))
    with pytest.raises(FileNotFoundError, match="type `make robosuite`"):
        environments.open_pool(EnvConfig(name="robosuite", suite="robosuite"), chunk_size=5)


def test_the_kind_of_rendering_reaches_the_simulators_that_have_one() -> None:
    for name, suite in (("robosuite", "blocks"), ("libero", "libero_goal")):
        _, kwargs = environments.factory(EnvConfig(name=name, suite=suite, render="stock"))  # type: ignore[arg-type]
        assert kwargs["render"] == "stock"


# With it


@needs_robosuite
def test_the_contract_is_the_same_on_both_sides(pool: WorkerPool) -> None:
    assert pool.spec == robot_spec(CAMERAS, 48)
    assert environments.contract(EnvConfig(name="robosuite", suite="robosuite", image_size=48)) == pool.spec
    assert pool.privileged_dim == len(PRIVILEGED_NAMES)
    assert RobotSpec.from_json(pool.spec.to_json()) == pool.spec


@needs_robosuite
def test_episodes_depend_on_their_start_alone(pool: WorkerPool) -> None:
    # Two slots share a stage and two tasks go on beside it; then other slots, in another order, after other
    # episodes; then two fresh workers.
    other = StartState(LIFT.task, "train", 11)
    starts = [LIFT, DOOR, WIPE, other]
    expected = play(pool, [0, 1, 2, 3], starts, 3)
    assert play(pool, [1, 0, 3, 2], starts, 3) == expected
    with open_pool(num_slots=2, num_workers=2) as second:
        assert play(second, [0, 1], [other, DOOR], 3) == [expected[3], expected[1]]
    assert len(set(expected)) == 4


@needs_robosuite
def test_a_snapshot_continues_bit_for_bit_in_another_process(pool: WorkerPool) -> None:
    starts, slots = [LIFT, DOOR, WIPE], [0, 1, 2]

    def go_on(where: WorkerPool) -> list[bytes]:
        shown = [b""] * len(slots)
        for number in range(100, 104):
            where.step(slots, chunks_of(starts, number))
            result = where.receive(slots)
            shown = [before + answer_bytes(result, row) for row, before in enumerate(shown)]
        return shown

    play(pool, slots, starts, 3)
    saved = pool.snapshot(slots)
    expected = go_on(pool)
    assert go_on(pool) != expected  # four chunks later
    pool.restore(slots, saved)
    restored = pool.receive(slots)
    assert pool.snapshot(slots) == saved
    assert go_on(pool) == expected
    with open_pool(num_slots=3) as second:
        second.restore(slots, saved)
        result = second.receive(slots)
        assert [frames.tobytes() for frames in result.observation.images.values()] == [
            frames.tobytes() for frames in restored.observation.images.values()
        ]
        assert go_on(second) == expected


@needs_robosuite
def test_a_task_that_was_let_go_comes_back_as_it_was() -> None:
    code = (
        "import sys; import numpy as np\n"
        "from regrip.datasets.starts import StartState\n"
        "from regrip.sim.robosuite import stage\n"
        "from regrip.sim.robosuite.env import make\n"
        "shown = []\n"
        "for stage.MOST_STAGES in (10, 1):\n"
        "    lift, stack, seen = make('blocks'), make('blocks'), []\n"
        "    lift.reset(StartState('blocks/lift', 'train', 0))\n"
        "    stack.reset(StartState('blocks/stack', 'train', 0))\n"
        "    for _ in range(3):\n"
        "        for env in (lift, stack):\n"
        "            env.step(np.array([0.02, 0, -0.05, 0, 0, 0.1, 1], np.float32))\n"
        "            seen.append(env.state().tobytes() + env.privileged().tobytes())\n"
        "    shown.append(seen)\n"
        "print('same' if shown[0] == shown[1] and len(set(shown[0])) == 6 else 'different')"
    )
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY / "src")}
    done = subprocess.run([PYTHON, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.splitlines()[-1] == "same"


@needs_robosuite
@pytest.mark.parametrize("start", MOVING, ids=lambda start: start.task_name)
def test_the_episode_and_its_conventions_are_the_packages_own(pool: WorkerPool, start: StartState) -> None:
    chunks = [chunks_of([start], number) for number in range(4)]
    begin(pool, [0], [start])
    states = []
    for chunk in chunks:
        pool.step([0], chunk)
        result = pool.receive([0])
        states.append(result.observation.state[0])
    actions = [action for chunk in chunks for action in in_package_units(chunk[0])]
    if start is WIPE:  # its tool has no fingers, so the package's action has six numbers
        actions = [action[:6] for action in actions]
    answer = reference(start, actions)
    hand, fingers = np.array(answer["hand"])[3::4], np.array(answer["fingers"])[3::4]
    np.testing.assert_array_equal(np.array(states)[:, :3], hand.astype(np.float32))
    np.testing.assert_array_equal(np.array(states)[:, 6:], fingers.astype(np.float32))
    assert answer["success"] == [False] * 16

    spec = robot_spec()
    assert answer["control_freq"] == spec.control_rate_hz
    assert answer["step_s"] == pytest.approx(1 / spec.control_rate_hz)
    assert answer["output_max"] == pytest.approx(spec.action_high[:6])
    assert answer["input"] == ["delta", "base"]
    assert spec.rotation == "rotation_vector_base"


@needs_robosuite
@pytest.mark.slow
def test_stock_pictures_are_the_packages_pixels_and_fast_ones_are_oriented_alike(pool: WorkerPool) -> None:
    actions = np.tile(np.array([0.02, 0.03, -0.05, 0.0, 0.0, 0.3, 1.0], np.float32), (1, 4, 1))
    with open_pool(num_slots=1, render="stock", image_size=96) as stock:
        begin(stock, [0], [LIFT])
        stock.step([0], actions)
        shown = stock.receive([0]).observation.images
    begin(pool, [0], [LIFT])
    pool.step([0], actions)
    fast = pool.receive([0]).observation.images

    def likeness(first: NDArray[Any], second: NDArray[Any]) -> float:
        return float(np.corrcoef(first.ravel(), second.ravel())[0, 1])

    for camera in CAMERAS:
        answer = reference(LIFT, in_package_units(actions[0]), camera, 96)
        theirs = np.frombuffer(base64.b64decode(answer["picture"]), np.uint8).reshape(96, 96, 3)
        # The package shows the bottom row first.
        np.testing.assert_array_equal(shown[camera][0], theirs[::-1])
        small = theirs[::-1].reshape(48, 2, 48, 2, 3).mean((1, 3))
        ours = fast[camera][0].astype(np.float64)
        assert likeness(small, ours) > 0.9
        turned = (small[::-1], small[:, ::-1], small[::-1, ::-1])
        assert max(likeness(picture, ours) for picture in turned) < likeness(small, ours) - 0.03


@needs_robosuite
def test_signs_and_units_of_actions(pool: WorkerPool) -> None:
    slots = [0, 1, 2, 3]
    before = begin(pool, slots, [LIFT] * 4).observation.state
    steady = np.zeros((4, 4, 7), np.float32)
    for axis in range(3):
        steady[axis, :, axis] = 0.02
    steady[3, :, 5] = 0.2
    steady[0, :, 6], steady[1:, :, 6] = 1.0, -1.0
    for _ in range(2):
        pool.step(slots, steady)
        after = pool.receive(slots).observation.state
    moved = after - before
    for axis in range(3):  # eight steps of 2 cm: the controller starts anew from where the hand is, and lags
        assert 0.025 < moved[axis, axis] < 0.05
        assert np.abs(np.delete(moved[axis, :3], axis)).max() < 0.01
    # The fingers point down: a turn about the vertical shows in the second number of the axis-angle.
    assert np.abs(moved[3, 4]) > 0.2
    assert np.abs(moved[:3, 4]).max() < 0.05
    shut, opened = after[0, 6] - after[0, 7], after[1, 6] - after[1, 7]
    assert shut < 0.01 < 0.07 < opened  # 1 closes, -1 opens


@needs_robosuite
def test_every_split_has_its_own_places(pool: WorkerPool) -> None:
    for split in ("train", "select", "test"):
        starts = [StartState("robosuite/lift", split, index) for index in range(4)]
        x = begin(pool, [0, 1, 2, 3], starts).privileged[:, 0].astype(np.float64)
        assert {split_of_lattice(float(value)) for value in x} == {split}
        assert len(set(x)) > 1


@needs_robosuite
def test_bad_actions_are_refused_and_wild_ones_clipped(pool: WorkerPool) -> None:
    begin(pool, [0, 1], [LIFT, LIFT])
    wild = np.stack([np.full((4, 7), 99.0), np.tile(robot_spec().action_high, (4, 1))]).astype(np.float32)
    pool.step([0, 1], wild)
    result = pool.receive([0, 1])
    np.testing.assert_array_equal(result.observation.state[0], result.observation.state[1])
    pool.step([0], np.full((1, 4, 7), np.nan, np.float32))
    with pytest.raises(ValueError, match="is not 7 finite numbers"):
        pool.receive([0])


@needs_robosuite
def test_an_idle_episode_ends_at_the_step_limit_without_success(pool: WorkerPool) -> None:
    begin(pool, [0], [LIFT])
    for number in range(25):
        pool.step([0], np.zeros((1, 4, 7), np.float32))
        result = pool.receive([0])
        assert bool(result.done[0]) == (number == 24)
    assert not result.success[0]


@needs_robosuite
def test_a_task_without_an_expert_says_so() -> None:
    with WorkerPool(
        "regrip.sim.demonstrate:with_expert",
        {"factory": FACTORY, "kwargs": {"suite": "robosuite"}},
        num_slots=1, num_workers=1, chunk_size=1, python=PYTHON,
    ) as experts:  # fmt: skip
        experts.reset([0], [DOOR])
        with pytest.raises(ValueError, match="door has no scripted expert"):
            experts.receive([0])


@needs_robosuite
@pytest.mark.slow
def test_experts_solve_held_out_starts() -> None:
    with WorkerPool(
        "regrip.sim.demonstrate:with_expert",
        {"factory": FACTORY, "kwargs": {"suite": "blocks", "cameras": ["agentview"], "image_size": 32}},
        num_slots=4, num_workers=1, chunk_size=1, python=PYTHON,
    ) as experts:  # fmt: skip
        starts = [
            StartState(task, "select", index) for task in tasks.task_names("blocks") for index in range(10)
        ]
        shown = demonstrate(experts, starts, behaviour="expert", key=("test",))
    for task in tasks.load("blocks").values():
        won = [demo.episode for demo in shown if demo.episode.task == task.instruction]
        assert len(won) == 10
        assert sum(episode.outcome.success for episode in won) >= 9, task.name
