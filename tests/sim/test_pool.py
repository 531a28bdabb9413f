"""The pool against the same environments played one by one in this process."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from puck_env import PuckEnv

from regrip.datasets.protocols import StepResult, VectorEnv
from regrip.datasets.starts import StartState, counter_generator
from regrip.sim.pool import WorkerPool

SLOTS, CHUNK = 6, 5


def start(index: int, task: str = "puck/push") -> StartState:
    return StartState(task, "train", index)


def chunks(num: int, *key: str | int) -> NDArray[np.float32]:
    actions = counter_generator("chunks", *key).uniform(-0.5, 0.5, (num, CHUNK, 2))
    actions[..., 0] += 0.3
    return actions.astype(np.float32)


def play(env: PuckEnv, chunk: NDArray[np.float32]) -> tuple[int, list[float], bool, bool]:
    rewards = []
    for action in chunk:
        step = env.step(action)
        rewards.append(step.reward)
        if step.success or step.truncated:
            return len(rewards), rewards, step.success, True
    return len(rewards), rewards, False, False


def assert_row(result: StepResult, row: int, env: PuckEnv, done: bool = False) -> None:
    assert result.done[row] == done
    assert result.observation.instruction[row] == env.instruction
    np.testing.assert_array_equal(result.observation.state[row], env.state())
    np.testing.assert_array_equal(result.privileged[row], env.privileged())
    frame = np.zeros_like(result.observation.images["top"][row]) if done else env.render("top")
    np.testing.assert_array_equal(result.observation.images["top"][row], frame)


@pytest.fixture(scope="module")
def shared_pool() -> Iterator[WorkerPool]:
    with WorkerPool("puck_env:make", num_slots=SLOTS, num_workers=2) as made:
        yield made


@pytest.fixture
def pool(shared_pool: WorkerPool) -> WorkerPool:
    assert not shared_pool.incidents
    return shared_pool


def test_is_a_vector_env(pool: WorkerPool) -> None:
    env: VectorEnv = pool
    assert env.spec == PuckEnv().spec
    assert (env.num_slots, env.chunk_size, pool.privileged_dim) == (SLOTS, CHUNK, 7)


def test_plays_what_the_environment_plays(pool: WorkerPool) -> None:
    envs = [PuckEnv() for _ in range(SLOTS)]
    slots = list(range(SLOTS))
    pool.reset(slots, [start(i) for i in slots])
    result = pool.receive(slots)
    for row, env in enumerate(envs):
        env.reset(start(row))
        assert_row(result, row, env)
        assert result.executed[row] == 0
    ended = 0
    for decision in range(8):
        actions = chunks(len(slots), decision)
        pool.step(slots, actions)
        result = pool.receive(slots)
        for row, slot in enumerate(slots):
            executed, rewards, success, done = play(envs[slot], actions[row])
            assert result.executed[row] == executed
            np.testing.assert_array_equal(result.reward[row], rewards + [0.0] * (CHUNK - executed))
            assert result.success[row] == success
            assert_row(result, row, envs[slot], done)
        ended += int(result.success.sum())
        slots = [slot for row, slot in enumerate(slots) if not result.done[row]]
    assert not slots  # the step limit ended the rest
    assert 0 < ended < SLOTS


def test_groups_in_flight_are_received_in_any_order(pool: WorkerPool) -> None:
    groups = [[0, 1], [4, 5], [3, 2]]
    envs = {slot: PuckEnv() for group in groups for slot in group}
    for group in groups:
        pool.reset(group, [start(10 + slot) for slot in group])
    for group in reversed(groups):
        result = pool.receive(group)
        for row, slot in enumerate(group):
            envs[slot].reset(start(10 + slot))
            assert_row(result, row, envs[slot])
    for group in groups:
        pool.step(group, chunks(2, group[0]))
    for group in (groups[1], groups[2], groups[0]):
        pool.receive(group)
        result = pool.receive(group)  # it may be repeated
        for row, slot in enumerate(group):
            play(envs[slot], chunks(2, group[0])[row])
            assert_row(result, row, envs[slot])


def test_snapshot_and_restore_continue_bit_for_bit(pool: WorkerPool) -> None:
    pool.reset([0, 1, 2], [start(i) for i in range(3)])
    pool.receive([0, 1, 2])
    pool.step([0, 1, 2], chunks(3, "before"))
    before = pool.receive([0, 1, 2])
    saved = pool.snapshot([0, 1, 2])
    pool.step([0, 1, 2], chunks(3, "after"))
    expected = pool.receive([0, 1, 2])
    with WorkerPool("puck_env:make", num_slots=3, num_workers=1) as other:
        for env, slots in ((pool, [5, 0, 3]), (other, [2, 0, 1])):
            env.restore(slots, saved)
            again = env.receive(slots)
            assert again.observation.instruction == before.observation.instruction
            np.testing.assert_array_equal(again.observation.images["top"], before.observation.images["top"])
            np.testing.assert_array_equal(again.observation.state, before.observation.state)
            env.step(slots, chunks(3, "after"))
            result = env.receive(slots)
            np.testing.assert_array_equal(
                result.observation.images["top"], expected.observation.images["top"]
            )
            np.testing.assert_array_equal(result.privileged, expected.privileged)
            np.testing.assert_array_equal(result.observation.state, expected.observation.state)
            assert env.snapshot(slots) != saved


def test_reset_abandons_what_the_slot_was_doing(pool: WorkerPool) -> None:
    pool.reset([2], [start(0)])
    pool.reset([2], [start(1)])
    pool.receive([2])
    pool.step([2], chunks(1))
    pool.reset([2], [start(3)])
    result = pool.receive([2])
    env = PuckEnv()
    env.reset(start(3))
    assert_row(result, 0, env)


def test_an_error_in_the_environment_is_raised_here(pool: WorkerPool) -> None:
    pool.reset([0, 1], [start(0, "puck/psuh"), start(1)])
    with pytest.raises(ValueError, match="did you mean 'puck/push'") as caught:
        pool.receive([0, 1])
    assert "puck/psuh" in caught.value.__notes__[0]
    assert "Traceback" in caught.value.__notes__[0]
    pool.receive([1])  # its neighbour goes on
    pool.reset([0], [start(4, "puck/error")])
    pool.receive([0])
    pool.step([0, 1], chunks(2))
    with pytest.raises(ZeroDivisionError, match="left the world"):
        pool.receive([0])
    with pytest.raises(ZeroDivisionError, match="left the world"):
        pool.step([0], chunks(1))
    assert pool.receive([1]).executed == [CHUNK]
    pool.reset([0], [start(4)])
    pool.receive([0])


def test_misuse_is_refused_in_words(pool: WorkerPool) -> None:
    pool.reset([0, 1], [start(0), start(1)])
    with pytest.raises(ValueError, match="slot 0 still has an answer due: call receive first"):
        pool.step([0], chunks(1))
    pool.receive([0, 1])
    with pytest.raises(ValueError, match=r"shape \(2, 4, 2\), expected \(2, 5, 2\)"):
        pool.step([0, 1], chunks(2)[:, :4])
    with pytest.raises(ValueError, match="distinct numbers from 0 to 5"):
        pool.receive([0, 6])
    with pytest.raises(ValueError, match="distinct numbers"):
        pool.step([0, 0], chunks(2))
    with pytest.raises(ValueError, match="2 slots was given 1 start"):
        pool.reset([0, 1], [start(0)])
    for _ in range(8):
        pool.step([0], chunks(1, "aside") * 0)
        pool.receive([0])
    with pytest.raises(ValueError, match="reset it first"):
        pool.step([0], chunks(1))
    with pytest.raises(ValueError, match="no state to snapshot"):
        pool.snapshot([0])


@pytest.mark.parametrize(
    ("factory", "kwargs", "kind", "message"),
    [
        ("puck_env", {}, ValueError, "package.module:function"),
        ("puck_env:mkae", {}, ValueError, "no 'mkae'"),
        ("no_such_module:make", {}, ModuleNotFoundError, "no_such_module"),
        ("puck_env:make", {"size": 3}, TypeError, "size"),
    ],
)
def test_a_wrong_factory_is_told_at_once(
    factory: str, kwargs: dict[str, int], kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message):
        WorkerPool(factory, kwargs, num_slots=1)


@pytest.mark.parametrize(
    "setting",
    [
        {"num_slots": 0},
        {"num_workers": 0},
        {"deadline_s": 0.0},
        {"memory_limit_mb": 0},
        {"python": "/nowhere/bin/python"},
    ],
)
def test_impossible_settings_are_refused(setting: dict[str, Any]) -> None:
    name, value = next(iter(setting.items()))
    with pytest.raises(ValueError, match=f"{name} .*{value}"):
        WorkerPool("puck_env:make", **setting)


def test_close_may_be_repeated_and_ends_the_workers() -> None:
    pool = WorkerPool("bare_env:make", num_slots=3, num_workers=8)
    pids = pool.worker_pids
    assert len(pids) == 3  # no more workers than slots
    pool.close()
    pool.close()
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
    with pytest.raises(RuntimeError, match="the worker pool is closed"):
        pool.reset([0], [start(0)])
    with pytest.raises(ValueError, match="nothing to receive"), WorkerPool("bare_env:make", num_slots=1) as p:
        p.receive([0])


def test_another_interpreter_is_lent_our_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its virtual environment has numpy alone, as one with a simulator's pins would lack all that we need."""
    library = tmp_path / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"
    library.mkdir(parents=True)
    numpy = Path(np.__file__).parent
    for folder in (numpy, numpy.with_name("numpy.libs")):
        (library / folder.name).symlink_to(folder)
    (tmp_path / "bin").mkdir()
    python = tmp_path / "bin" / "python"
    python.symlink_to(Path(sys.executable).resolve())
    (tmp_path / "pyvenv.cfg").write_text(f"home = {Path(sys.executable).resolve().parent}\n")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))  # where the factory is
    with WorkerPool("bare_env:make", num_slots=2, python=python) as pool:
        pool.reset([0, 1], [start(5), start(6)])
        pool.receive([0, 1])
        pool.step([0, 1], np.ones((2, CHUNK, 1)))
        result = pool.receive([0, 1])
    np.testing.assert_array_equal(result.observation.state, [[10.0], [11.0]])
    assert result.observation.instruction[0] == f"{python} []"
