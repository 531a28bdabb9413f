"""Meta-World keeps our contract, and what we play there is the package's own episode."""

from __future__ import annotations

import base64
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
from regrip.sim.metaworld import tasks
from regrip.sim.metaworld.env import CAMERAS, PRIVILEGED_NAMES, MetaWorldEnv, make, robot_spec
from regrip.sim.pool import WorkerPool

FACTORY = "regrip.sim.metaworld.env:make"
REPOSITORY = Path(__file__).parents[2]
PYTHON = Path(os.environ.get("REGRIP_METAWORLD_PYTHON", REPOSITORY / ".venv-metaworld/bin/python"))
needs_metaworld = pytest.mark.skipif(not PYTHON.exists(), reason=f"no {PYTHON}: `make metaworld` makes it")

BUTTON, DRAWER, LEVER = (StartState(task, "test", 3) for task in tasks.task_names("mt3"))
RESET_SPACE = {  # of the package, metres
    BUTTON: ((-0.1, 0.8, 0.115), (0.1, 0.9, 0.115)),
    DRAWER: ((-0.1, 0.9, 0.0), (0.1, 0.9, 0.0)),
    LEVER: ((-0.1, 0.7, 0.0), (0.1, 0.8, 0.0)),
}
ONE_STEP_M = 0.02  # of ours, at full speed


def open_pool(num_slots: int = 4, num_workers: int = 1, chunk_size: int = 4) -> WorkerPool:
    return WorkerPool(
        FACTORY,
        {"suite": "mt3", "image_size": 48},
        num_slots=num_slots,
        num_workers=num_workers,
        chunk_size=chunk_size,
        python=PYTHON,
    )


@pytest.fixture(scope="module")
def pool() -> Iterator[WorkerPool]:
    """Slots of every task on the stages of one worker."""
    with open_pool() as opened:
        yield opened


def chunks_of(starts: Sequence[StartState], number: int) -> NDArray[np.float32]:
    """Reproducible random chunks (B,4,4), one a start."""
    low, high = robot_spec().action_low, robot_spec().action_high
    return np.stack(
        [start.generator("chunk", number).uniform(low, high, (4, 4)).astype(np.float32) for start in starts]
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
    start: StartState, actions: Sequence[Sequence[float]], camera: str = "topview"
) -> dict[str, Any]:
    """The same episode by the package alone; `actions` in its units, one for each of its own steps."""
    layout = tasks.draw_layout(start, *RESET_SPACE[start])
    order = {"task": start.task_name, "layout": layout.tolist(), "actions": actions, "camera": camera}
    done = subprocess.run(
        [PYTHON, Path(__file__).with_name("metaworld_reference.py")],
        input=json.dumps(order), capture_output=True, text=True, check=True,
        env={**os.environ, "MUJOCO_GL": "egl", "LP_NUM_THREADS": "0", "PYTHONPATH": ""},
    )  # fmt: skip
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


# Without the package


def test_names_sentences_and_contract_need_no_metaworld() -> None:
    code = (
        "import sys; sys.modules['metaworld'] = sys.modules['mujoco'] = None\n"
        "from regrip.launch import environments as e\n"
        "config = e.EnvConfig(name='metaworld', suite='mt10')\n"
        "print(len(e.task_names(config)), len(e.sentences(config)), e.contract(config).action_dim)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["10", "40", "4"]


@pytest.mark.parametrize("suite", tasks.SUITES)
def test_sentences_tell_tasks_apart_and_held_out_ones_are_new(suite: str) -> None:
    every = tasks.load(suite).values()
    said = [text for task in every for text in (task.instruction, *task.train_phrases, *task.heldout_phrases)]
    assert len(set(said)) == len(said)
    assert set(tasks.sentences(suite)) == set(said)
    known = {word for text in tasks.sentences(suite, "train") for word in text.split()}
    assert {word for text in tasks.sentences(suite, "heldout") for word in text.split()} <= known


def test_no_two_splits_share_a_layout() -> None:
    for start, (low, high) in RESET_SPACE.items():
        for split in ("train", "select", "test"):
            for index in range(200):
                layout = tasks.draw_layout(StartState(start.task, split, index), low, high)
                assert split_of_lattice(float(layout[0])) == split
                assert (layout >= np.array(low) - 1e-12).all()
                assert (layout <= np.array(high) + 1e-12).all()


def test_object_and_goal_are_drawn_as_far_apart_as_the_package_wants() -> None:
    low, high = (-0.1, 0.6, 0.02, -0.1, 0.7, 0.05), (0.1, 0.7, 0.02, 0.1, 0.8, 0.3)
    for index in range(100):
        layout = tasks.draw_layout(StartState("mt10/push", "train", index), low, high)
        assert np.linalg.norm(layout[:2] - layout[3:5]) >= tasks.APART_M


def test_a_wider_layout_is_one_the_package_never_draws_and_keeps_to_its_split() -> None:
    for start, (low, high) in RESET_SPACE.items():
        lowest, highest = np.array(low), np.array(high)
        margin = np.tile([0.02, 0.02, 0.0], len(low) // 3)
        for split in ("train", "select", "test"):
            for index in range(100):
                named = StartState(start.task, split, index)
                layout = tasks.draw_wider_layout(named, low, high)
                assert split_of_lattice(float(layout[0])) == split
                assert (layout >= lowest - margin - 1e-12).all()
                assert (layout <= highest + margin + 1e-12).all()
                inside = (lowest <= layout) & (layout <= highest)
                assert not inside[:2].all()
                assert (layout != tasks.draw_wider_layout(named, low, high, attempt=1)).any()


def test_a_bin_that_stays_holds_its_object_in_a_wider_layout_too() -> None:
    low, high = (-0.21, 0.65, 0.02, 0.1199, 0.699, -0.001), (-0.03, 0.75, 0.02, 0.1201, 0.701, 0.001)
    for index in range(50):
        layout = tasks.draw_wider_layout(StartState("mt50/bin-picking", "test", index), low, high)
        assert (layout[:2] >= low[:2]).all()
        assert (layout[:2] <= high[:2]).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"suite": "mt33"}, "did you mean 'mt3'"),
        ({"cameras": ("topviev",)}, "did you mean 'topview'"),
        ({"cameras": ("topview", "topview")}, "name one twice"),
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
    env = MetaWorldEnv("mt3")
    with pytest.raises(ValueError, match="suite 'mt10', but this environment plays 'mt3'"):
        env.reset(StartState("mt10/reach", "train", 0))
    with pytest.raises(ValueError, match="did you mean 'drawer-open'"):
        env.reset(StartState("mt3/drawer-opn", "train", 0))
    with pytest.raises(RuntimeError, match=r"call reset\(start\) first"):
        env.state()


def test_a_missing_package_says_what_to_type() -> None:
    with pytest.raises(RuntimeError, match="`make metaworld`"):
        MetaWorldEnv("mt3").reset(BUTTON)


def test_a_missing_interpreter_says_what_to_type(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("REGRIP_METAWORLD_PYTHON", str(tmp_path / "python"))
    with pytest.raises(FileNotFoundError, match="type `make metaworld`"):
        environments.open_pool(EnvConfig(name="metaworld", suite="mt3"), chunk_size=5)
    assert environments.interpreter(EnvConfig()) is None


# With it


@needs_metaworld
def test_the_contract_is_the_same_on_both_sides(pool: WorkerPool) -> None:
    assert pool.spec == robot_spec(CAMERAS, 48)
    config = EnvConfig(name="metaworld", suite="mt3", image_size=48)
    assert environments.contract(config) == pool.spec
    assert pool.privileged_dim == len(PRIVILEGED_NAMES)
    assert RobotSpec.from_json(pool.spec.to_json()) == pool.spec


@needs_metaworld
def test_episodes_depend_on_their_start_alone(pool: WorkerPool) -> None:
    # Two slots share the drawer's stage and two tasks go on beside it; then other slots, in another order,
    # after other episodes; then two fresh workers.
    other = StartState(DRAWER.task, "train", 11)
    starts = [BUTTON, DRAWER, LEVER, other]
    expected = play(pool, [0, 1, 2, 3], starts, 4)
    again = play(pool, [1, 0, 3, 2], starts, 4)
    assert again == expected
    with open_pool(num_slots=2, num_workers=2) as second:
        assert play(second, [0, 1], [other, LEVER], 4) == [expected[3], expected[2]]
    assert len(set(expected)) == 4


@needs_metaworld
def test_a_snapshot_continues_bit_for_bit_in_another_process(pool: WorkerPool) -> None:
    starts, slots = [BUTTON, DRAWER, LEVER], [0, 1, 2]

    def go_on(where: WorkerPool) -> list[bytes]:
        shown = [b""] * len(slots)
        for number in range(100, 105):
            where.step(slots, chunks_of(starts, number))
            result = where.receive(slots)
            shown = [before + answer_bytes(result, row) for row, before in enumerate(shown)]
        return shown

    play(pool, slots, starts, 3)
    saved = pool.snapshot(slots)
    expected = go_on(pool)
    assert go_on(pool) != expected  # five chunks later
    pool.restore(slots, saved)
    restored = pool.receive(slots)
    assert [frames[0].any() for frames in restored.observation.images.values()] == [True, True]
    assert restored.observation.instruction == [
        tasks.load("mt3")[start.task_name].instruction for start in starts
    ]
    assert pool.snapshot(slots) == saved
    assert go_on(pool) == expected
    with open_pool(num_slots=3) as second:
        second.restore(slots, saved)
        result = second.receive(slots)
        assert [frames.tobytes() for frames in result.observation.images.values()] == [
            frames.tobytes() for frames in restored.observation.images.values()
        ]
        assert go_on(second) == expected


@needs_metaworld
@pytest.mark.parametrize("start", [BUTTON, DRAWER, LEVER], ids=lambda start: start.task_name)
def test_the_episode_is_the_packages_own(pool: WorkerPool, start: StartState) -> None:
    chunks = [chunks_of([start], number) for number in range(3)]
    begin(pool, [0], [start])
    states = []
    for chunk in chunks:
        pool.step([0], chunk)
        result = pool.receive([0])
        states.append((result.observation.state[0], result.privileged[0]))
    unit = robot_spec().action_high.astype(np.float64)
    held = [
        np.clip(action / unit, -1, 1).astype(np.float32).tolist()
        for chunk in chunks
        for action in chunk[0]
        for _ in range(2)
    ]
    seen = np.array(reference(start, held)["observations"], np.float64)[7::8]
    for (state, privileged), observation in zip(states, seen, strict=True):
        np.testing.assert_array_equal(state[:3], observation[:3].astype(np.float32))
        assert state[3] == np.float32(observation[3] * 0.1)
        np.testing.assert_array_equal(privileged[:3], observation[4:7].astype(np.float32))
        np.testing.assert_array_equal(privileged[-3:], observation[-3:].astype(np.float32))


@needs_metaworld
@pytest.mark.parametrize("camera", CAMERAS)
def test_pictures_are_oriented_as_the_packages_own(pool: WorkerPool, camera: str) -> None:
    begin(pool, [0], [BUTTON])
    chunk = np.tile(np.array([0.0, 0.02, 0.0, -1.0], np.float32), (1, 4, 1))
    for _ in range(4):
        pool.step([0], chunk)
        result = pool.receive([0])
    ours = result.observation.images[camera][0].astype(np.float64)
    answer = reference(BUTTON, [[0.0, 1.0, 0.0, -1.0]] * 32, camera)
    large = np.frombuffer(base64.b64decode(answer["picture"]), np.uint8).reshape(480, 480, 3)
    theirs = large.reshape(48, 10, 48, 10, 3).mean((1, 3))

    def likeness(picture: NDArray[np.float64]) -> float:
        return float(np.corrcoef(picture.ravel(), ours.ravel())[0, 1])

    assert likeness(theirs) > 0.9
    turned = (theirs[::-1], theirs[:, ::-1], theirs[::-1, ::-1], theirs[..., ::-1])
    assert max(likeness(picture) for picture in turned) < likeness(theirs) - 0.1


@needs_metaworld
def test_stock_pictures_are_the_packages_own(pool: WorkerPool) -> None:
    start = StartState(DRAWER.task, "test", 3)
    fast = begin(pool, [0], [start]).observation.images["topview"][0]
    kwargs = {"suite": "mt3", "image_size": 48, "render": "stock"}
    with WorkerPool(FACTORY, kwargs, num_slots=1, num_workers=1, chunk_size=4, python=PYTHON) as stock:
        ours = begin(stock, [0], [start]).observation.images["topview"][0]
    large = np.frombuffer(base64.b64decode(reference(start, [])["picture"]), np.uint8)
    theirs = large.reshape(48, 10, 48, 10, 3).mean((1, 3))
    error, error_fast = (np.abs(one - theirs).mean() for one in (ours, fast))
    assert error < 0.7 * error_fast


@needs_metaworld
def test_signs_and_units_of_actions(pool: WorkerPool) -> None:
    slots = [0, 1, 2, 3]
    before = begin(pool, slots, [DRAWER] * 4).observation.state
    directions = np.zeros((4, 4, 4), np.float32)
    for axis in range(3):
        directions[axis, :, axis] = ONE_STEP_M / 2
    directions[0, :, 3], directions[1:, :, 3] = 1.0, -1.0
    for _ in range(2):
        pool.step(slots, directions)
        after = pool.receive(slots).observation.state
    moved = after - before
    for axis in range(3):
        # Eight steps of a centimetre, less the hand's lag behind its set-point.
        assert 0.05 < moved[axis, axis] <= 0.085
        assert np.abs(np.delete(moved[axis, :3], axis)).max() < 0.02
    assert np.abs(moved[3, :3]).max() < 0.01
    shut, opened = after[0, 3], after[1, 3]
    assert shut < 0.06 < 0.09 < opened  # effort 1 closes, -1 opens


@needs_metaworld
def test_bad_actions_are_refused_and_wild_ones_clipped(pool: WorkerPool) -> None:
    begin(pool, [0, 1], [LEVER, LEVER])
    pool.step(
        [0, 1],
        np.stack([np.full((4, 4), 99.0), np.tile(robot_spec().action_high, (4, 1))]).astype(np.float32),
    )
    result = pool.receive([0, 1])
    np.testing.assert_array_equal(result.observation.state[0], result.observation.state[1])
    pool.step([0], np.full((1, 4, 4), np.nan, np.float32))
    with pytest.raises(ValueError, match="is not 4 finite numbers"):
        pool.receive([0])


@needs_metaworld
def test_an_idle_episode_ends_at_the_step_limit_without_success(pool: WorkerPool) -> None:
    begin(pool, [0], [BUTTON])
    for number in range(25):
        pool.step([0], np.zeros((1, 4, 4), np.float32))
        result = pool.receive([0])
        assert bool(result.done[0]) == (number == 24)
    assert not result.success[0]


@needs_metaworld
@pytest.mark.slow
def test_experts_solve_held_out_starts() -> None:
    with WorkerPool(
        "regrip.sim.demonstrate:with_expert",
        {"factory": FACTORY, "kwargs": {"suite": "mt3", "cameras": ["topview"], "image_size": 32}},
        num_slots=5, num_workers=1, chunk_size=1, python=PYTHON,
    ) as experts:  # fmt: skip
        starts = [
            StartState(task, "select", index) for task in tasks.task_names("mt3") for index in range(10)
        ]
        shown = demonstrate(experts, starts, behaviour="expert", key=("test",))
    for task in tasks.task_names("mt3"):
        won = [demo.episode for demo in shown if demo.episode.task == tasks.load("mt3")[task[4:]].instruction]
        assert len(won) == 10
        assert sum(episode.outcome.success for episode in won) >= 9, task
        assert all(25 <= len(episode) <= 60 for episode in won if episode.outcome.success), task


@needs_metaworld
@pytest.mark.slow
def test_experts_solve_nearly_all_of_the_fifty_tasks() -> None:
    with WorkerPool(
        "regrip.sim.demonstrate:with_expert",
        {"factory": FACTORY, "kwargs": {"suite": "mt50", "cameras": []}},
        num_slots=4, num_workers=2, chunk_size=1, python=PYTHON,
    ) as experts:  # fmt: skip
        starts = [
            StartState(task, "select", index) for task in tasks.task_names("mt50") for index in range(2)
        ]
        shown = demonstrate(experts, starts, behaviour="expert", key=("test",))
    failed = [
        start.task for start, demo in zip(starts, shown, strict=True) if not demo.episode.outcome.success
    ]
    assert len(failed) <= 8, failed
    assert not {task for task in failed if failed.count(task) == 2}


@needs_metaworld
@pytest.mark.parametrize("suite", ["mt3", pytest.param("mt50", marks=pytest.mark.slow)])
def test_what_an_episode_changes_in_the_model_is_in_its_snapshot(suite: str) -> None:
    code = f"""
import sys
sys.path.insert(0, {str(REPOSITORY / "src")!r})
import numpy as np
from regrip.datasets.starts import StartState
from regrip.sim.metaworld.env import make
from regrip.sim.metaworld.stage import _MODEL_FIELDS, Stage
from regrip.sim.metaworld.tasks import task_names

def fields(model):
    values = ((name, getattr(model, name)) for name in dir(model) if not name.startswith("_"))
    return {{name: value.copy() for name, value in values if isinstance(value, np.ndarray)}}

env = make("{suite}")
for task in task_names("{suite}"):
    before = fields(Stage(task.split("/")[1]).env.model)
    env.reset(StartState(task, "train", 0))
    expert = env.expert()
    for _ in range(20):
        if env.step(expert.act()).success:
            break
    after = fields(env._stage.env.model)
    assert len(before) > 100
    changed = {{name for name in before if not np.array_equal(before[name], after[name], equal_nan=True)}}
    assert changed <= set(_MODEL_FIELDS), (task, changed)
"""
    subprocess.run([PYTHON, "-c", code], check=True)
