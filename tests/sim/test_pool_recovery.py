"""Workers that die, hang and run out of memory when nobody expects it, and an outcome that stays the same."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pixel_actor import PixelActor
from puck_env import PuckEnv
from test_collect import rollout_bytes

from regrip.datasets.episode import Rollouts
from regrip.datasets.starts import StartState, counter_generator
from regrip.sim.collect import CollectStats, collect
from regrip.sim.pool import Incident, WorkerError, WorkerPool

SLOTS, CHUNK = 8, 5


def starts(num: int) -> list[StartState]:
    return [StartState("puck/push", "train", index) for index in range(num)]


def play(pool: WorkerPool, num: int) -> tuple[Rollouts, CollectStats]:
    return collect(
        pool, PixelActor(), starts(num), range(num), run_key=("chaos",), greedy=False, policy_version=0
    )


def put_tokens(folder: Path, kinds: list[str]) -> None:
    folder.mkdir()
    for number, kind in enumerate(kinds):
        (folder / f"{number:03d}.{kind}").touch()


def assert_counted(incidents: list[Incident], died: int, hung: int, memory: int) -> None:
    counted = Counter(incident.kind for incident in incidents)
    assert (counted["died"], counted["memory"]) == (died, memory)
    assert counted["hung"] >= hung  # with a deadline of a second, a busy machine may add one of its own


def test_one_incident_of_each_kind_changes_nothing(tmp_path: Path) -> None:
    with WorkerPool("puck_env:make", num_slots=SLOTS, num_workers=2) as pool:
        expected = rollout_bytes(play(pool, 16)[0])
    put_tokens(tmp_path / "chaos", ["die", "memory", "stop"])
    with WorkerPool(
        "puck_env:make",
        {"chaos": str(tmp_path / "chaos")},
        num_slots=SLOTS,
        num_workers=2,
        deadline_s=1.0,
        memory_limit_mb=2048,
        max_failures=10,
    ) as pool:
        rollouts, stats = play(pool, 16)
        incidents = list(pool.incidents)
    assert rollout_bytes(rollouts) == expected
    assert_counted(incidents, died=1, hung=1, memory=1)
    assert stats.num_incidents == len(incidents)
    for incident in incidents:
        assert incident.slots
        assert all(slot % 2 == incident.worker for slot in incident.slots)
        assert incident.seconds_lost > 0
        assert "StartState(task='puck/push'" in incident.detail


@pytest.mark.slow
def test_fifty_incidents_in_a_run_change_nothing(tmp_path: Path) -> None:
    """Issue 2, section 6.4."""
    kinds = ["die"] * 25 + ["memory"] * 15 + ["hang"] * 5 + ["stop"] * 5
    shuffled = [kinds[i] for i in counter_generator("chaos").permutation(len(kinds))]
    with WorkerPool("puck_env:make", num_slots=SLOTS, num_workers=2) as pool:
        expected = rollout_bytes(play(pool, 200)[0])
    put_tokens(tmp_path / "chaos", shuffled)
    with WorkerPool(
        "puck_env:make",
        {"chaos": str(tmp_path / "chaos")},
        num_slots=SLOTS,
        num_workers=2,
        deadline_s=1.0,
        memory_limit_mb=2048,
        max_failures=60,
    ) as pool:
        rollouts, stats = play(pool, 200)
        incidents = list(pool.incidents)
    assert not list((tmp_path / "chaos").iterdir())
    assert rollout_bytes(rollouts) == expected
    assert_counted(incidents, died=25, hung=10, memory=15)
    assert stats.num_incidents == len(incidents)


@pytest.mark.slow
def test_workers_shot_from_outside_at_random_moments() -> None:
    with WorkerPool("puck_env:make", num_slots=SLOTS, num_workers=2, max_failures=60) as pool:
        expected = rollout_bytes(play(pool, 300)[0])
        shot: set[int] = set()
        is_over = threading.Event()

        def shoot() -> None:
            pauses = counter_generator("pauses").exponential(0.15, size=10_000)
            for pause in pauses:
                if is_over.wait(float(pause)) or len(shot) == 20:
                    return
                pid = pool.worker_pids[len(shot) % 2]
                if pid not in shot:
                    os.kill(pid, signal.SIGKILL)
                    shot.add(pid)

        gunman = threading.Thread(target=shoot)
        gunman.start()
        try:
            rollouts, _ = play(pool, 300)
        finally:
            is_over.set()
            gunman.join()
        assert rollout_bytes(rollouts) == expected
        assert rollout_bytes(play(pool, 300)[0]) == expected  # notices those shot last
        assert len(shot) > 3
        assert len(pool.incidents) == len(shot)
        assert {incident.kind for incident in pool.incidents} == {"died"}


@pytest.fixture(scope="module")
def fragile_pool() -> Iterator[WorkerPool]:
    with WorkerPool(
        "puck_env:make", {"max_steps": 1000}, num_slots=4, num_workers=2, max_failures=60
    ) as pool:
        yield pool


operations = st.lists(
    st.one_of(
        st.tuples(st.just("reset"), st.integers(0, 3), st.integers(0, 20)),
        st.tuples(st.just("step"), st.integers(0, 3), st.integers(0, 20)),
        st.tuples(st.just("save"), st.integers(0, 3), st.just(0)),
        st.tuples(st.just("restore"), st.integers(0, 3), st.just(0)),
        st.tuples(st.just("kill"), st.integers(0, 1), st.just(0)),
    ),
    max_size=25,
)


@settings(max_examples=10, deadline=None, derandomize=True)
@given(operations)
def test_any_history_with_kills_in_it_is_replayed_exactly(
    fragile_pool: WorkerPool, history: list[tuple[str, int, int]]
) -> None:
    pool, envs, saved = fragile_pool, dict[int, PuckEnv](), None
    for what, slot, number in history:
        if what == "kill":
            os.kill(pool.worker_pids[slot], signal.SIGKILL)
        elif what == "reset":
            pool.reset([slot], starts(21)[number:][:1])
            envs[slot] = PuckEnv(max_steps=1000)
            envs[slot].reset(starts(21)[number])
        elif what == "save" and slot in envs:
            pool.receive([slot])
            saved = pool.snapshot([slot])[0]
            assert saved == envs[slot].snapshot()
        elif what == "restore" and saved is not None:
            if slot in envs:
                pool.receive([slot])
            pool.restore([slot], [saved])
            envs[slot] = PuckEnv(max_steps=1000)
            envs[slot].restore(saved)
        elif what == "step" and slot in envs:
            pool.receive([slot])
            chunk = counter_generator("chunk", number).uniform(-0.2, 0.2, (CHUNK, 2)).astype(np.float32)
            pool.step([slot], chunk[None])
            for action in chunk:
                envs[slot].step(action)
    for slot, env in envs.items():
        result = pool.receive([slot])
        assert result.observation.instruction == [env.instruction]
        np.testing.assert_array_equal(result.observation.images["top"][0], env.render("top"))
        np.testing.assert_array_equal(result.privileged[0], env.privileged())
        assert pool.snapshot([slot]) == [env.snapshot()]


def test_a_start_that_always_kills_its_worker_is_named() -> None:
    with WorkerPool("bare_env:make", num_slots=2, num_workers=1) as pool:
        pool.reset([0, 1], [StartState("bare/fine", "train", 0), StartState("bare/crash", "test", 4)])
        with pytest.raises(WorkerError, match="failed 3 times in a row") as caught:
            pool.receive([0])
        for part in ("exit code 3", "bare/crash", "index=4", "the solver has diverged", "deadline_s"):
            assert part in str(caught.value)
        assert [incident.kind for incident in pool.incidents] == ["died"] * 3
        with pytest.raises(RuntimeError, match="closed"):
            pool.receive([0])


def test_workers_that_cannot_start_say_why() -> None:
    with pytest.raises(WorkerError, match="while it started bare_env:make") as caught:
        WorkerPool("bare_env:make", num_slots=1, memory_limit_mb=40)
    assert "memory" in str(caught.value)
    with pytest.raises(WorkerError, match=r"finished nothing for 0\.01 s while it started"):
        WorkerPool("bare_env:make", num_slots=1, startup_deadline_s=0.01, deadline_s=0.1)


def test_ctrl_c_is_the_parents_alone() -> None:
    with WorkerPool("puck_env:make", num_slots=2, num_workers=2) as pool:
        pool.reset([0, 1], starts(2))
        for pid in pool.worker_pids:
            assert os.getsid(pid) == pid  # a terminal's Ctrl-C does not reach it
        pool.receive([0, 1])
        for pid in pool.worker_pids:
            os.kill(pid, signal.SIGINT)
        pool.step([0, 1], np.zeros((2, CHUNK, 2)))
        pool.receive([0, 1])
        assert not pool.incidents


def test_a_killed_parent_leaves_nothing_behind() -> None:
    """Not even a worker that hangs in the middle of a step."""
    script = """
        import sys, numpy as np
        from regrip.datasets.starts import StartState
        from regrip.sim.pool import WorkerPool
        pool = WorkerPool("bare_env:make", num_slots=4, num_workers=2)
        pool.reset([0, 1, 2, 3], [StartState("bare/x", "train", index) for index in (1, 1000, 2, 3)])
        pool.receive([0, 1, 2, 3])
        pool.step([1], np.zeros((1, 5, 1)))
        print(*pool.worker_pids, flush=True)
        pool.receive([1])
    """
    before = set(os.listdir("/dev/shm")) if sys.platform == "linux" else set()
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)], stdout=subprocess.PIPE, env=environment
    ) as parent:
        assert parent.stdout is not None
        workers = [psutil.Process(int(pid)) for pid in parent.stdout.readline().split()]
        assert len(workers) == 2
        parent.kill()
        parent.wait()
    deadline = time.monotonic() + 30
    while any(is_alive(worker) for worker in workers) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not any(is_alive(worker) for worker in workers)
    assert set(os.listdir("/dev/shm")) - before == set()


def is_alive(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
