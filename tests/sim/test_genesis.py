"""The tabletop in Genesis keeps the contract of the tabletop in MuJoCo, and what we promise of a batch.

Genesis lives in an interpreter of its own, so everything here runs there: `.venv-genesis/bin/python -m pytest
tests/sim/test_genesis.py`, or through the first test from any other. The scene is built once.
"""

from __future__ import annotations

import importlib.util
import math
import os
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from regrip.datasets.protocols import StepResult
from regrip.datasets.starts import StartState
from regrip.launch import environments
from regrip.launch.environments import EnvConfig
from regrip.sim.demonstrate import demonstrate
from regrip.sim.genesis.env import GenesisEnv
from regrip.sim.genesis.memory import live_arrays
from regrip.sim.genesis.physics import Variation
from regrip.sim.perturb import add_noise, name_of, with_perturbation
from regrip.sim.tabletop.env import TabletopEnv
from regrip.sim.tabletop.tasks import task_names

REPOSITORY = Path(__file__).parents[2]
PYTHON = REPOSITORY / ".venv-genesis/bin/python"
is_here = importlib.util.find_spec("genesis") is not None
needs_genesis = pytest.mark.skipif(not is_here, reason="no genesis beside this Python; see test_in_its_own")

SIZE, H = 64, 5
LIFT, PUSH, PRESS = (
    StartState(f"demo/{task}", "test", 4) for task in ("lift_red", "push_blue", "press_yellow")
)
OTHER = StartState("demo/lift_green", "train", 7)


@pytest.mark.slow
@pytest.mark.skipif(is_here, reason="this is the interpreter that has genesis")
@pytest.mark.skipif(not PYTHON.exists(), reason=f"no {PYTHON}: `make genesis` makes it")
def test_in_its_own_interpreter() -> None:
    """Runs the tests below where Genesis is."""
    # Its kernels are cached for one number of threads.
    settings = {**os.environ, "PYTHONPATH": str(REPOSITORY / "src"), "OMP_NUM_THREADS": "1"}
    command = [str(PYTHON), "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", __file__]
    done = subprocess.run(command, cwd=REPOSITORY, env=settings, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]


# Without Genesis --------------------------------------------------------------------------------------------


def test_physics_is_drawn_from_the_start_state() -> None:
    variation = Variation(friction=(0.5, 1.5), mass=(0.8, 1.2))
    drawn = [variation.draw(LIFT), variation.draw(LIFT), variation.draw(PUSH)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert all(
        0.5 <= friction <= 1.5 and 0.8 <= mass <= 1.2 and gain == 1.0 for friction, mass, gain in drawn
    )
    with pytest.raises(ValueError, match=r"friction varies over \(1.0, 0.5\): expected 0 < low <= high"):
        Variation(friction=(1.0, 0.5))


def test_what_does_not_exist_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="did you mean 'layout'"):
        GenesisEnv(perturb="layuot")
    with pytest.raises(ValueError, match="four scenes"):
        GenesisEnv("four")
    with pytest.raises(ValueError, match="ee_delta actions"):
        GenesisEnv(control_mode="joint_position", expert=True)
    with pytest.raises(ValueError, match="device is cuda, but tabletop"):
        EnvConfig(device="cuda")
    assert environments.contract(EnvConfig(name="genesis")) == environments.contract(EnvConfig())


@pytest.mark.skipif(is_here, reason="genesis is installed")
def test_a_missing_genesis_is_said() -> None:
    with pytest.raises(FileNotFoundError, match="`make genesis`"):
        environments.interpreter(EnvConfig(name="genesis"))
    with pytest.raises(RuntimeError, match="`make genesis`"):
        environments.open_pool(EnvConfig(name="genesis", slots=1), chunk_size=1)


# With it ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def env() -> Iterator[GenesisEnv]:
    with GenesisEnv("demo", num_slots=4, chunk_size=H, image_size=SIZE) as opened:
        yield opened


def begin(env: GenesisEnv, slots: Sequence[int], starts: Sequence[StartState]) -> StepResult:
    env.reset(slots, starts)
    return env.receive(slots)


def play(env: GenesisEnv, slots: Sequence[int], chunks: NDArray[np.float32]) -> StepResult:
    env.step(slots, chunks)
    return env.receive(slots)


def chunks_of(starts: Sequence[StartState], number: int) -> NDArray[np.float32]:
    """Reproducible random chunks (B,H,7) that go down to the table, one a start."""
    low = np.array((-0.04, -0.04, -0.04, -0.2, -0.2, -0.2, 0.0))
    high = np.array((0.04, 0.04, 0.005, 0.2, 0.2, 0.2, 0.08))
    draws = [start.generator("chunk", number).uniform(low, high, (H, 7)) for start in starts]
    return np.stack(draws).astype(np.float32)


def answer(result: StepResult, row: int) -> bytes:
    images = b"".join(frames[row].tobytes() for _, frames in sorted(result.observation.images.items()))
    arrays = (result.observation.state, result.privileged, result.reward, result.executed, result.done)
    return images + b"".join(array[row].tobytes() for array in arrays)


def episode(env: GenesisEnv, slot: int, start: StartState, count: int = 4) -> list[bytes]:
    """The answers of one episode that is played alone."""
    answers = [answer(begin(env, [slot], [start]), 0)]
    return answers + [answer(play(env, [slot], chunks_of([start], n)), 0) for n in range(count)]


@needs_genesis
@pytest.mark.slow
def test_closed_scenes_give_their_memory_back() -> None:
    """Comes first, while no other scene is open."""

    def held() -> int:
        return sum(math.prod(array.shape) for array in live_arrays())

    with GenesisEnv(num_slots=3, chunk_size=H, cameras=()) as env:
        quiet = episode(env, 1, LIFT)
        alone = held()
        with GenesisEnv(num_slots=2, chunk_size=H, cameras=()) as other:
            begin(other, [0, 1], [PUSH, PRESS])
            play(other, [0, 1], chunks_of([PUSH, PRESS], 0))
            assert held() > 1.5 * alone
        with pytest.raises(RuntimeError, match="is closed"):
            other.receive([0])
        assert episode(env, 1, LIFT) == quiet
    assert held() < 0.02 * alone


@needs_genesis
@pytest.mark.slow
def test_an_episode_begins_as_in_mujoco(env: GenesisEnv) -> None:
    """Same contract, sentence, state and privileged state; the pictures resemble."""
    theirs = TabletopEnv("demo", image_size=SIZE)
    assert env.spec == theirs.spec
    assert env.privileged_dim == theirs.privileged_dim
    result = begin(env, [2, 0], [LIFT, PRESS])
    assert not result.done.any()
    assert not result.executed.any()
    for row, start in enumerate((LIFT, PRESS)):
        theirs.reset(start)
        assert result.observation.instruction[row] == theirs.instruction
        np.testing.assert_allclose(result.observation.state[row], theirs.state(), atol=1e-6)
        np.testing.assert_allclose(result.privileged[row], theirs.privileged(), atol=1e-6)
        for camera, frames in result.observation.images.items():
            apart = frames[row].astype(float) - theirs.render(camera)
            assert np.abs(apart).mean() < 12.0  # of 255; the wrong start is 20 to 40 apart


@needs_genesis
@pytest.mark.slow
def test_the_arm_moves_as_in_mujoco(env: GenesisEnv) -> None:
    """Two seconds of small actions in the air: joints within 1e-5 rad, tool within 0.01 mm.

    Small, for the two differ where a motor is at its limit (docs/genesis.md).
    """
    theirs = TabletopEnv("demo", cameras=())
    theirs.reset(LIFT)
    begin(env, [1], [LIFT])
    chunk = np.tile(np.float32((0.003, -0.002, 0.003, 0.01, 0.0, 0.01, 0.04)), (1, H, 1))
    for _ in range(8):
        result = play(env, [1], chunk)
        for action in chunk[0]:
            theirs.step(action)
        np.testing.assert_allclose(result.observation.state[0], theirs.state(), atol=1e-5)
    assert theirs.state()[10] > 0.3  # it began at 0.24 m


@needs_genesis
@pytest.mark.slow
def test_what_happens_in_a_slot_depends_on_its_start_and_actions_alone(env: GenesisEnv) -> None:
    alone = episode(env, 0, LIFT)
    starts, slots = [OTHER, PUSH, LIFT], [1, 0, 3]
    result = begin(env, slots, starts)
    together = [answer(result, 2)]
    for number in range(4):
        together.append(answer(play(env, slots, chunks_of(starts, number)), 2))
    assert together == alone


@needs_genesis
@pytest.mark.slow
def test_slots_served_in_turns_stand_still_between(env: GenesisEnv) -> None:
    """As `collect` does it, and with one slot left waiting while another plays on."""
    first, second = episode(env, 0, LIFT), episode(env, 0, PUSH)
    env.reset([0, 1], [LIFT, PUSH])
    assert answer(env.receive([0]), 0) == first[0]
    for number in range(3):  # the other waits from here on
        assert answer(play(env, [0], chunks_of([LIFT], number)), 0) == first[number + 1]
    assert answer(env.receive([1]), 0) == second[0]
    for number in range(4):
        env.step([1], chunks_of([PUSH], number))
        if number == 0:
            env.step([0], chunks_of([LIFT], 3))
        assert answer(env.receive([1]), 0) == second[number + 1]
    assert answer(env.receive([0]), 0) == first[4]


@needs_genesis
@pytest.mark.slow
def test_a_snapshot_goes_on_bit_for_bit_in_another_slot(env: GenesisEnv) -> None:
    starts = [LIFT, PUSH]
    begin(env, [0, 1], starts)
    for number in range(2):
        seen = play(env, [0, 1], chunks_of(starts, number))
    saved = env.snapshot([0, 1])
    assert env.snapshot([0]) == saved[:1]
    after = [play(env, [0, 1], chunks_of(starts, number)) for number in (2, 3)]
    begin(env, [0, 1, 2, 3], [OTHER, PRESS, OTHER, PRESS])
    env.restore([3, 0], saved)
    restored = env.receive([3, 0])
    for name in ("front", "wrist"):
        np.testing.assert_array_equal(restored.observation.images[name], seen.observation.images[name])
    np.testing.assert_array_equal(restored.privileged, seen.privileged)
    for number, expected in zip((2, 3), after, strict=True):
        result = play(env, [3, 0], chunks_of(starts, number))
        assert [answer(result, row) for row in (0, 1)] == [answer(expected, row) for row in (0, 1)]
    with pytest.raises(ValueError, match="make the environment with the same settings"):
        env.restore([0], [saved[0].replace(b'"suite": "demo"', b'"suite": "goal"')])


@needs_genesis
@pytest.mark.slow
def test_an_episode_ends_at_its_step_limit(env: GenesisEnv) -> None:
    still = np.zeros((1, H, 7), np.float32)
    begin(env, [2], [PUSH])
    for number in range(12):
        result = play(env, [2], still)
        assert bool(result.done[0]) == (number == 11)  # 60 steps
    assert result.executed[0] == H
    assert not result.success[0]
    assert not any(frames.any() for frames in result.observation.images.values())
    with pytest.raises(ValueError, match="slot 2 plays no episode"):
        env.step([2], still)


@needs_genesis
@pytest.mark.slow
def test_wrong_calls_are_refused(env: GenesisEnv) -> None:
    with pytest.raises(ValueError, match="is of suite 'goal'"):
        env.reset([0], [StartState("goal/open_drawer", "train", 0)])
    begin(env, [0], [LIFT])
    with pytest.raises(ValueError, match=r"expected \(1, 5, 7\) \(B,H,A\)"):
        env.step([0], np.zeros((1, 2, 7), np.float32))
    with pytest.raises(ValueError, match="slot 0 was given actions that are not finite"):
        env.step([0], np.full((1, H, 7), np.nan, np.float32))
    env.step([0], np.zeros((1, H, 7), np.float32))
    with pytest.raises(ValueError, match="call receive first"):
        env.snapshot([0])
    env.receive([0])
    with pytest.raises(ValueError, match="distinct numbers from 0 to 3"):
        env.receive([0, 4])


@needs_genesis
@pytest.mark.slow
def test_a_scene_that_comes_apart_is_invalid_and_disturbs_nobody(env: GenesisEnv) -> None:
    quiet = episode(env, 1, LIFT)
    starts = [LIFT, PUSH, PUSH]
    begin(env, [1, 2, 3], starts)
    env.scene.qvel[2] = float("nan")
    env.scene.qvel[3] = 1e4
    result = play(env, [1, 2, 3], chunks_of(starts, 0))
    assert result.done.tolist() == [False, True, True]
    assert not result.success.any()
    assert result.executed.tolist() == [H, 1, 1]
    assert result.invalid.tolist() == [False, True, True]
    assert np.isfinite(result.observation.state).all()
    answers = [answer(result, 0)]
    answers += [answer(play(env, [1], chunks_of([LIFT], number)), 0) for number in (1, 2, 3)]
    assert answers == quiet[1:]
    assert answer(begin(env, [2], [LIFT]), 0) == quiet[0]  # the slot is as good as new


@needs_genesis
@pytest.mark.slow
def test_experts_demonstrate_every_task() -> None:
    """Through the same pool and loop as `regrip base`."""
    starts = [StartState(task, "train", 3) for task in task_names("demo")]
    with environments.open_pool(EnvConfig(name="genesis", image_size=32, slots=8), 1, expert=True) as pool:
        demos = demonstrate(pool, starts, behaviour="expert", key=("test",))
    assert [demo.episode.outcome.success for demo in demos] == [True] * 8
    assert all(demo.clean.all() and len(demo.episode) < 40 for demo in demos)
    assert all(demo.episode.images["wrist"].std() > 10 for demo in demos)


@needs_genesis
@pytest.mark.slow
def test_varied_physics_comes_back_with_a_snapshot() -> None:
    """Masses, gains and friction belong to the episode, not to the slot."""
    varied = Variation(friction=(0.3, 1.5), mass=(0.5, 3.0), gain=(0.5, 1.0))
    starts = [LIFT, PUSH, PRESS]
    with GenesisEnv(num_slots=3, chunk_size=H, cameras=(), variation=varied) as env:
        begin(env, [0, 1, 2], starts)
        masses = env.scene._solver.get_links_mass()[:, env.scene.body["red_block"]].tolist()
        assert masses == pytest.approx([0.05 * varied.draw(start)[1] for start in starts], rel=1e-5)
        saved = env.snapshot([0, 1, 2])
        expected = play(env, [0, 1, 2], chunks_of(starts, 0))
        begin(env, [0, 1, 2], [OTHER, OTHER, OTHER])
        env.restore([2, 0, 1], saved)
        env.receive([0, 1, 2])
        result = play(env, [2, 0, 1], chunks_of(starts, 0))
    assert [answer(result, row) for row in range(3)] == [answer(expected, row) for row in range(3)]


@needs_genesis
def test_a_moved_camera_is_each_episodes_own_and_physics_do_not_see_it(env: GenesisEnv) -> None:
    plain = begin(env, [0, 1, 2], [LIFT, PUSH, LIFT])
    with GenesisEnv("demo", num_slots=4, chunk_size=H, image_size=SIZE, perturb="camera") as moved:
        changed = begin(moved, [0, 1, 2], [LIFT, PUSH, LIFT])
        for name, frames in changed.observation.images.items():
            off = np.abs(frames.astype(int) - plain.observation.images[name]).mean((1, 2, 3))
            assert (off > 1).all(), (name, off)
            np.testing.assert_array_equal(frames[0], frames[2])  # the start says how
        np.testing.assert_array_equal(changed.observation.state, plain.observation.state)
        chunk = chunks_of([PUSH], 0)
        late = play(moved, [1], chunk)
        np.testing.assert_array_equal(late.observation.state, play(env, [1], chunk).observation.state)
        saved = moved.snapshot([1])
        moved.restore([0], saved)
        assert answer(moved.receive([0]), 0)[: SIZE**2 * 6] == answer(late, 0)[: SIZE**2 * 6]


@needs_genesis
def test_noise_and_words_are_those_of_the_tabletop(env: GenesisEnv) -> None:
    plain = begin(env, [0, 1], [LIFT, PUSH])
    for kind in ("noise", "silent", "wrong"):
        _, kwargs = environments.factory(EnvConfig(perturb=kind))
        reference = with_perturbation(**kwargs)
        reference.reset(PUSH)
        with environments.open_pool(EnvConfig(name="genesis", slots=4, perturb=kind), H) as changed:
            assert isinstance(changed, GenesisEnv)
            changed.reset([0, 1], [LIFT, PUSH])
            seen = changed.receive([0, 1]).observation
            assert seen.instruction[1] == reference.instruction
            assert (seen.instruction != plain.observation.instruction) == (kind != "noise")
            for name, frames in seen.images.items():
                true = plain.observation.images[name]
                if kind != "noise":
                    np.testing.assert_array_equal(frames, true)
                    continue
                for picture, clean, start in zip(frames, true, (LIFT, PUSH), strict=True):
                    np.testing.assert_array_equal(picture, add_noise(clean, name_of(start), name, 0))
        reference.close()
