"""LIBERO keeps our contract, and what we play there is the package's own episode."""

from __future__ import annotations

import base64
import dataclasses
import json
import os
import signal
import subprocess
import sys
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from regrip.datasets.protocols import StepResult
from regrip.datasets.spec import RobotSpec, SpecMismatchError
from regrip.datasets.starts import LATTICE_M, StartState, split_of_lattice
from regrip.launch import environments
from regrip.launch.environments import EnvConfig
from regrip.sim.libero import assets, tasks
from regrip.sim.libero.env import CAMERAS, make, robot_spec
from regrip.sim.libero.starts import read_starts
from regrip.sim.pool import WorkerPool
from regrip.sim.robosuite.panda import PRIVILEGED_NAMES

FACTORY = "regrip.sim.libero.env:make"
REPOSITORY = Path(__file__).parents[2]
PYTHON = Path(os.environ.get("REGRIP_LIBERO_PYTHON", REPOSITORY / ".venv-libero/bin/python"))
needs_libero = pytest.mark.skipif(not PYTHON.exists(), reason=f"no {PYTHON}: `make libero` makes it")
needs_assets = pytest.mark.skipif(
    not PYTHON.exists() or assets.VARIABLE not in os.environ,
    reason=f"no {PYTHON}, or {assets.VARIABLE} does not say where LIBERO's assets are (docs/libero.md)",
)

FIRST = {suite: StartState(tasks.task_names(suite)[0], "test", 7) for suite in tasks.SUITES}
SPATIAL = FIRST["libero_spatial"]


def open_pool(
    suite: str = "libero_spatial", num_slots: int = 3, num_workers: int = 1, **kwargs: Any
) -> WorkerPool:
    return WorkerPool(
        FACTORY,
        {"suite": suite, "image_size": 48, **kwargs},
        num_slots=num_slots,
        num_workers=num_workers,
        chunk_size=4,
        python=PYTHON,
    )


@pytest.fixture(scope="module")
def pool() -> Iterator[WorkerPool]:
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


def ask(order: dict[str, Any]) -> dict[str, Any]:
    """What the package alone says."""
    done = subprocess.run(
        [PYTHON, Path(__file__).with_name("libero_reference.py")],
        input=json.dumps(order), capture_output=True, text=True, check=True,
        env={**os.environ, "MUJOCO_GL": "egl", "LP_NUM_THREADS": "0", "PYTHONPATH": str(REPOSITORY / "src")},
    )  # fmt: skip
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def reference(start: StartState, actions: NDArray[np.float32], size: int = 0) -> dict[str, Any]:
    """The same episode by the package alone; `actions` (T,7) in our units."""
    unit = robot_spec().action_high.astype(np.float64)
    scaled = np.clip(actions.astype(np.float64) / unit, -1, 1).tolist()
    return ask({"start": dataclasses.astuple(start), "actions": scaled, "size": size})


# Without the package


def test_names_sentences_and_contract_need_no_libero() -> None:
    code = (
        "import sys; sys.modules['libero'] = sys.modules['robosuite'] = sys.modules['mujoco'] = None\n"
        "from regrip.launch import environments as e\n"
        "config = e.EnvConfig(name='libero', suite='libero_90')\n"
        "print(len(e.task_names(config)), e.contract(config).action_dim)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["90", "7"]


def test_instructions_are_those_of_the_names() -> None:
    assert tasks.instruction("KITCHEN_SCENE10_put_the_black_bowl") == "put the black bowl"
    assert (
        tasks.instruction("LIVING_ROOM_SCENE2_put_both_cans_in_the_basket") == "put both cans in the basket"
    )
    assert tasks.instruction("open_the_top_drawer_and_put_the_bowl_inside") == (
        "open the top drawer and put the bowl inside"
    )
    drawer = tasks.load("libero_goal")["open_the_middle_drawer_of_the_cabinet"]
    assert drawer.phrases("canonical") == ("open the middle drawer of the cabinet",)
    assert "open the middle layer of the drawer" in drawer.phrases("train")


def test_step_limits_are_those_of_published_evaluations() -> None:
    limits = {suite: {task.max_steps for task in tasks.load(suite).values()} for suite in tasks.SUITES}
    assert limits == {
        "libero_spatial": {220},
        "libero_object": {280},
        "libero_goal": {300},
        "libero_10": {520},
        "libero_90": {400},
    }
    assert [len(tasks.load(suite)) for suite in tasks.SUITES] == [10, 10, 10, 10, 90]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"suite": "libero_spacial"}, "did you mean 'libero_spatial'"),
        ({"cameras": ("agentviev",)}, "did you mean 'agentview'"),
        ({"image_size": 512}, "not within 32..480"),
        ({"control_mode": "joint_position"}, "set control_mode to 'ee_delta'"),
        ({"paraphrase": "heldout"}, "no held-out wordings"),
        ({"render": "slow"}, "known are fast, stock"),
    ],
)
def test_what_does_not_exist_is_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**arguments)


def test_mirrored_pictures_are_part_of_the_contract() -> None:
    spec = robot_spec()
    assert {camera.orientation for camera in spec.cameras} == {"mirrored"}
    upright = dataclasses.replace(
        spec, cameras=tuple(dataclasses.replace(camera, orientation="upright") for camera in spec.cameras)
    )
    with pytest.raises(SpecMismatchError, match="orientation='mirrored'"):
        spec.require_match(upright, "policy", "robot")
    # Files written before there was an orientation are upright.
    old = upright.to_json()
    for camera in old["cameras"]:
        del camera["orientation"]
    assert RobotSpec.from_json(old) == upright


def test_stored_starts_are_read_without_unpickling(tmp_path: Path) -> None:
    array = np.random.default_rng(0).normal(size=(50, 92))
    torch.save(array, tmp_path / "right")
    np.testing.assert_array_equal(read_starts(tmp_path / "right"), array)
    torch.save(array.astype(np.float32), tmp_path / "single")
    with pytest.raises(ValueError, match="not one float64 array"):
        read_starts(tmp_path / "single")
    with zipfile.ZipFile(tmp_path / "evil", "w") as archive:
        archive.writestr("archive/data.pkl", b"cos\nsystem\n(S'echo'\ntR.")
    with pytest.raises(ValueError, match="calls \\['os system'\\]"):
        read_starts(tmp_path / "evil")


def test_missing_assets_are_asked_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(assets.VARIABLE, raising=False)
    with pytest.raises(FileNotFoundError, match=f"set {assets.VARIABLE} to their folder"):
        assets.folder()
    monkeypatch.setenv(assets.VARIABLE, str(tmp_path))
    with pytest.raises(FileNotFoundError, match="has no articulated_objects, scenes"):
        assets.folder()
    for name in ("articulated_objects", "scenes", "textures"):
        (tmp_path / name).mkdir()
    with pytest.raises(
        FileNotFoundError, match="has no stable_hope_objects, stable_scanned_objects, turbosquid"
    ):
        assets.folder()


def test_a_missing_mesh_is_named(tmp_path: Path) -> None:
    (tmp_path / "there.obj").touch()
    files = [tmp_path / name for name in ("there.obj", "bowl.msh", "plate.png")]
    xml = "".join(f'<mesh file="{file}"/>' for file in files)
    with pytest.raises(FileNotFoundError, match=r"lack bowl\.msh, plate\.png\. It is the folder"):
        assets.require_files(xml, tmp_path)
    assets.require_files(f'<mesh file="{files[0]}"/>', tmp_path)


def test_a_missing_interpreter_says_what_to_type(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("REGRIP_LIBERO_PYTHON", str(tmp_path / "python"))
    with pytest.raises(FileNotFoundError, match="type `make libero`"):
        environments.open_pool(EnvConfig(name="libero", suite="libero_goal"), chunk_size=5)


# With the package, without assets


@needs_libero
def test_the_table_is_the_packages() -> None:
    package = ask({"table": True})
    assert set(package) == set(tasks.SUITES)
    for suite, theirs in package.items():
        ours = tasks.load(suite)
        assert list(ours) == theirs["names"]
        wordings = [task.phrases("train")[-1] for task in ours.values()]
        assert wordings == [" ".join(wording.split()) for wording in theirs["wordings"]]
        assert {rows for rows, _ in theirs["shapes"]} == {tasks.NUM_EVALUATION_STARTS}


@needs_libero
def test_the_stored_starts_are_the_packages() -> None:
    package = ask({"table": True})
    [folder] = PYTHON.parent.parent.glob("lib/python*/site-packages/libero/libero/init_files")
    for suite, theirs in package.items():
        for name, total, x in zip(theirs["names"], theirs["sums"], theirs["x"], strict=True):
            ours = read_starts(folder / suite / f"{name}.pruned_init")
            assert float(ours.sum()) == total
            # In each, some object is off the lattice on which train and select starts have all of theirs.
            steps = np.array(x) / LATTICE_M
            assert (np.abs(steps - np.round(steps)) > 1e-6).any(axis=1).all(), name


@needs_libero
def test_without_assets_a_reset_says_what_to_supply(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(assets.VARIABLE, raising=False)
    with open_pool(num_slots=1) as opened:
        opened.reset([0], [SPATIAL])
        with pytest.raises(FileNotFoundError, match=f"set {assets.VARIABLE} to their folder"):
            opened.receive([0])


@needs_libero
def test_without_assets_a_killed_worker_is_replaced_and_says_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv(assets.VARIABLE, raising=False)
    with open_pool(num_slots=1) as opened:
        for _ in range(2):
            os.kill(opened.worker_pids[0], signal.SIGKILL)
            opened.reset([0], [SPATIAL])
            with pytest.raises(FileNotFoundError, match=f"set {assets.VARIABLE} to their folder"):
                opened.receive([0])
        assert [incident.kind for incident in opened.incidents] == ["died", "died"]


# With the package and assets


@needs_assets
def test_the_contract_is_the_same_on_both_sides(pool: WorkerPool) -> None:
    assert pool.spec == robot_spec(CAMERAS, 48)
    config = EnvConfig(name="libero", suite="libero_spatial", image_size=48)
    assert environments.contract(config) == pool.spec
    assert pool.privileged_dim == len(PRIVILEGED_NAMES)
    assert RobotSpec.from_json(pool.spec.to_json()) == pool.spec


@needs_assets
@pytest.mark.parametrize(
    "suite",
    ["libero_spatial", *(pytest.param(suite, marks=pytest.mark.slow) for suite in tasks.SUITES[1:])],
)
def test_the_episode_and_its_conventions_are_the_packages_own(suite: str) -> None:
    start = FIRST[suite]
    chunks = [chunks_of([start], number) for number in range(3)]
    with open_pool(suite, num_slots=1, cameras=["agentview"]) as opened:
        result = begin(opened, [0], [start])
        states, done = [result.observation.state[0]], []
        for chunk in chunks:
            opened.step([0], chunk)
            result = opened.receive([0])
            states.append(result.observation.state[0])
            done.append(bool(result.success[0]))
        instruction = result.observation.instruction[0]
    answer = reference(start, np.concatenate([chunk[0] for chunk in chunks]))
    np.testing.assert_array_equal(np.array(states), np.array(answer["states"], np.float32)[::4])
    assert done == answer["done"][3::4]
    assert instruction == tasks.load(suite)[start.task_name].instruction
    assert instruction in answer["language"].lower() or answer["language"].lower() in [
        *tasks.load(suite)[start.task_name].train_phrases
    ]

    spec = robot_spec()
    assert answer["control_freq"] == spec.control_rate_hz
    assert answer["step_s"] == pytest.approx(1 / spec.control_rate_hz)
    assert answer["output_max"] == pytest.approx(spec.action_high[:6])


@needs_assets
@pytest.mark.slow
def test_stock_pictures_are_the_packages_turned_by_180_degrees(pool: WorkerPool) -> None:
    chunk = chunks_of([SPATIAL], 0)
    with open_pool(num_slots=1, render="stock", image_size=96) as stock:
        begin(stock, [0], [SPATIAL])
        stock.step([0], chunk)
        shown = stock.receive([0]).observation.images
    begin(pool, [0], [SPATIAL])
    pool.step([0], chunk)
    fast = pool.receive([0]).observation.images
    answer = reference(SPATIAL, chunk[0], 96)

    def likeness(first: NDArray[Any], second: NDArray[Any]) -> float:
        return float(np.corrcoef(first.ravel(), second.ravel())[0, 1])

    for camera in CAMERAS:
        theirs = np.frombuffer(base64.b64decode(answer["pictures"][camera]), np.uint8).reshape(96, 96, 3)
        turned = theirs[::-1, ::-1]
        np.testing.assert_array_equal(shown[camera][0], turned)
        small = turned.reshape(48, 2, 48, 2, 3).mean((1, 3))
        ours = fast[camera][0].astype(np.float64)
        assert likeness(small, ours) > 0.9
        others = (small[::-1], small[:, ::-1], small[::-1, ::-1])
        assert max(likeness(picture, ours) for picture in others) < likeness(small, ours) - 0.03


@needs_assets
def test_episodes_depend_on_their_start_alone(pool: WorkerPool) -> None:
    second_task = StartState(tasks.task_names("libero_spatial")[1], "train", 4)
    starts = [SPATIAL, second_task, StartState(SPATIAL.task, "select", 4)]
    expected = play(pool, [0, 1, 2], starts, 2)
    assert play(pool, [2, 0, 1], starts, 2) == expected
    with open_pool(num_slots=2, num_workers=2) as second:
        assert play(second, [0, 1], [starts[2], starts[0]], 2) == [expected[2], expected[0]]
    assert len(set(expected)) == 3


@needs_assets
def test_a_snapshot_continues_bit_for_bit_in_another_process(pool: WorkerPool) -> None:
    starts, slots = [SPATIAL, StartState(SPATIAL.task, "train", 0)], [0, 1]

    def go_on(where: WorkerPool) -> list[bytes]:
        shown = [b""] * len(slots)
        for number in range(100, 103):
            where.step(slots, chunks_of(starts, number))
            result = where.receive(slots)
            shown = [before + answer_bytes(result, row) for row, before in enumerate(shown)]
        return shown

    play(pool, slots, starts, 2)
    saved = pool.snapshot(slots)
    expected = go_on(pool)
    assert go_on(pool) != expected  # three chunks later
    pool.restore(slots, saved)
    pool.receive(slots)
    assert pool.snapshot(slots) == saved
    assert go_on(pool) == expected
    with open_pool(num_slots=2) as second:
        second.restore(slots, saved)
        second.receive(slots)
        assert go_on(second) == expected


@needs_assets
@pytest.mark.slow
@pytest.mark.parametrize(("sent", "kind"), [(signal.SIGKILL, "died"), (signal.SIGSTOP, "hung")])
def test_a_worker_that_is_lost_in_an_episode_changes_nothing(sent: signal.Signals, kind: str) -> None:
    starts, slots = [SPATIAL, StartState(SPATIAL.task, "train", 4)], [0, 1]

    def play_through(where: WorkerPool, lose: bool) -> list[bytes]:
        result = begin(where, slots, starts)
        shown = [answer_bytes(result, row) for row in slots]
        for number in range(3):
            where.step(slots, chunks_of(starts, number))
            if lose and number == 1:
                os.kill(where.worker_pids[0], sent)
            result = where.receive(slots)
            shown = [before + answer_bytes(result, row) for row, before in enumerate(shown)]
        return shown

    with WorkerPool(
        FACTORY, {"suite": "libero_spatial", "image_size": 48}, num_slots=2, num_workers=2, chunk_size=4,
        python=PYTHON, deadline_s=60.0,
    ) as opened:  # fmt: skip
        expected = play_through(opened, lose=False)
        assert play_through(opened, lose=True) == expected
        assert kind in [incident.kind for incident in opened.incidents]


@needs_assets
def test_a_glowing_stove_survives_a_snapshot() -> None:
    """What an episode changes in the model and in the package's objects is saved, too."""
    code = (
        "from regrip.datasets.starts import StartState\n"
        "from regrip.sim.libero import tasks\n"
        "from regrip.sim.libero.env import make\n"
        "import numpy as np\n"
        "[task] = [name for name in tasks.task_names('libero_goal') if 'turn_on_the_stove' in name]\n"
        "a, b = make('libero_goal', image_size=64), make('libero_goal', image_size=64)\n"
        "idle = np.zeros(7, np.float32)\n"
        "a.reset(StartState(task, 'train', 0))\n"
        "dark, early = a.render('agentview'), a.snapshot()\n"
        "package = a._on_stage().env\n"
        "[knob] = [n for n in package.sim.model.joint_names if 'stove' in n]\n"
        "package.sim.data.set_joint_qpos(knob, 1.5)\n"
        "outcome = a.step(idle)\n"
        "a.step(idle) if not outcome.success else None\n"
        "glowing, late = a.render('agentview'), a.snapshot()\n"
        "b.restore(early); same = (b.render('agentview') == dark).all()\n"
        "b.restore(late); same &= (b.render('agentview') == glowing).all()\n"
        "print(outcome.success, bool(same), bool((dark != glowing).any()))"
    )
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY / "src")}
    done = subprocess.run([PYTHON, "-c", code], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "True True True"


@needs_assets
def test_train_and_select_starts_are_on_lattices_of_their_own() -> None:
    """As things are put down, before the idle steps let them settle."""
    code = (
        "from regrip.datasets.starts import StartState\n"
        "from regrip.sim.libero import build, tasks\n"
        "build.SETTLE_STEPS = 0\n"
        "task = tasks.task_names('libero_spatial')[0]\n"
        "stage = build.build(tasks.load('libero_spatial')[task.split('/')[1]])\n"
        "for split in ('train', 'select'):\n"
        "    for index in range(3):\n"
        "        stage.reset(StartState(task, split, index))\n"
        "        print(split, *stage.env.sim.data.qpos[9:44:7])"
    )
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY / "src")}
    done = subprocess.run([PYTHON, "-c", code], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    for line in done.stdout.splitlines()[-6:]:
        split, *places = line.split()
        assert {split_of_lattice(float(x)) for x in places} == {split}
        assert len(places) == 5


@needs_assets
def test_there_are_fifty_stored_starts_and_no_more(pool: WorkerPool) -> None:
    pool.reset([0], [StartState(SPATIAL.task, "test", 50)])
    with pytest.raises(ValueError, match=r"has 50 test starts.* index 50 was asked for"):
        pool.receive([0])


@needs_assets
def test_the_gripper_and_the_directions(pool: WorkerPool) -> None:
    slots = [0, 1, 2]
    before = begin(pool, slots, [SPATIAL] * 3).observation.state
    assert (before[:, 6] - before[:, 7] > 0.07).all()  # the idle steps leave the hand open
    steady = np.zeros((3, 4, 7), np.float32)
    for axis in range(3):
        steady[axis, :, axis] = 0.02
    steady[0, :, 6], steady[1:, :, 6] = 1.0, -1.0
    for _ in range(3):
        pool.step(slots, steady)
        after = pool.receive(slots).observation.state
    moved = after - before
    for axis in range(3):
        assert 0.04 < moved[axis, axis] < 0.12
        assert np.abs(np.delete(moved[axis, :3], axis)).max() < 0.02
    assert after[0, 6] - after[0, 7] < 0.02 < 0.07 < after[1, 6] - after[1, 7]  # 1 closes, -1 opens


@needs_assets
@pytest.mark.slow
def test_an_idle_episode_ends_at_the_step_limit_without_success() -> None:
    with open_pool(num_slots=1, cameras=[]) as opened:
        begin(opened, [0], [SPATIAL])
        for number in range(55):
            opened.step([0], np.zeros((1, 4, 7), np.float32))
            result = opened.receive([0])
            assert bool(result.done[0]) == (number == 54)
        assert not result.success[0]


@needs_assets
def test_a_partial_folder_of_assets_names_what_it_lacks(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    whole = Path(os.environ[assets.VARIABLE])
    for item in whole.iterdir():
        (tmp_path / item.name).symlink_to(item)
    objects = tmp_path / "stable_scanned_objects"
    objects.unlink()
    objects.mkdir()
    for item in (whole / "stable_scanned_objects").iterdir():
        (objects / item.name).symlink_to(item)
    (objects / "plate").unlink()
    monkeypatch.setenv(assets.VARIABLE, str(tmp_path))
    with open_pool(num_slots=1) as opened:
        opened.reset([0], [SPATIAL])
        with pytest.raises(FileNotFoundError, match=r"lack stable_scanned_objects/plate/plate\.xml"):
            opened.receive([0])
    (objects / "plate").mkdir()
    (objects / "plate" / "plate.xml").symlink_to(whole / "stable_scanned_objects/plate/plate.xml")
    with open_pool(num_slots=1) as opened:
        opened.reset([0], [SPATIAL])
        with pytest.raises(FileNotFoundError, match=r"lack stable_scanned_objects/plate/\S+, "):
            opened.receive([0])
