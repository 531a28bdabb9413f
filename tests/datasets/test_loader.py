"""The same batches from any number of workers and ranks, from any step on, with real processes."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from itertools import islice
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from recordings import FRONT, WRIST, contents, recording
from torch.utils.data import DataLoader

from regrip.datasets.ledger import DataError
from regrip.datasets.loading.batches import Batch, MapMaker, Workers
from regrip.datasets.loading.loader import BatchLoader, OrderSampler, RobotDataset, as_it_is
from regrip.datasets.loading.mixture import Member, Samples
from regrip.datasets.loading.ram import RamRows
from regrip.datasets.loading.sampler import EpochOrder, MixtureOrder
from regrip.datasets.loading.samples import Reading
from regrip.datasets.store.reader import Store
from regrip.datasets.store.writer import StoreWriter


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    of = contents()
    path = tmp_path_factory.mktemp("loader") / "set"
    with StoreWriter.create(path, of) as writer:
        for seed, steps in enumerate((7, 1, 12, 5)):
            lacks = (WRIST,) if seed == 2 else ()
            writer.write(recording(of, steps, seed=seed, task=f"task {seed}", lacks=lacks))
    return path


def samples_of(store: Path) -> Samples:
    return Samples([Member(Store(store))], Reading(chunk=4, delta_timestamps={FRONT: (-0.05, 0.0)}))


def assert_equal(got: Batch, want: Batch) -> None:
    assert (got.step, got.task) == (want.step, want.task)
    np.testing.assert_array_equal(got.place, want.place)
    assert set(got.arrays) == set(want.arrays)
    for name, array in want.arrays.items():
        np.testing.assert_array_equal(got.arrays[name], array, err_msg=name)


def test_workers_change_nothing(store: Path) -> None:
    samples = samples_of(store)
    order = EpochOrder(len(samples), 6, seed=3, keep_last=True)  # 25 samples: the fifth batch has one
    plain = BatchLoader(samples, order)
    want = [plain.batch(step) for step in range(9)]
    assert len(want[4]) == 1
    for workers in (1, 3):
        made = BatchLoader(samples, order, workers=workers).batches()
        for got, one in zip(islice(made, 9), want, strict=True):
            assert_equal(got, one)
        made.close()  # type: ignore[attr-defined]
    resumed = BatchLoader(samples, order, workers=2).batches(start=4)
    assert_equal(next(resumed), want[4])
    assert_equal(next(resumed), want[5])
    resumed.close()  # type: ignore[attr-defined]
    assert not [child for child in psutil.Process().children() if "spawn_main" in " ".join(child.cmdline())]


@pytest.mark.parametrize("mixture", [False, True])
def test_ranks_together_see_the_same_samples(store: Path, mixture: bool) -> None:
    if mixture:
        samples = Samples([Member(Store(store)), Member(Store(store))], Reading(chunk=4))
        order: Any = MixtureOrder(samples.sizes, [1, 2], 10, seed=4)
    else:
        samples = samples_of(store)
        order = EpochOrder(len(samples), 10, seed=4)
    want = [BatchLoader(samples, order).batch(step) for step in range(5)]
    for world in (2, 3):
        parts = []
        for rank in range(world):
            made = BatchLoader(samples, order, rank=rank, world=world, workers=rank % 2).batches()
            parts.append(list(islice(made, 5)))
            made.close()  # type: ignore[attr-defined]
        for step in range(5):
            mine = [parts[rank][step] for rank in range(world)]
            joined = Batch(
                step,
                {name: np.concatenate([one.arrays[name] for one in mine]) for name in want[step].arrays},
                [task for one in mine for task in one.task],
                np.concatenate([one.place for one in mine]),
            )
            assert_equal(joined, want[step])


def test_torchs_own_loader_gives_the_same(store: Path) -> None:
    samples = samples_of(store)
    order = EpochOrder(len(samples), 6, seed=1)
    plain = BatchLoader(samples, order)
    loader: Any = DataLoader(
        RobotDataset(samples),
        batch_sampler=OrderSampler(samples, order, 2, 4),
        collate_fn=as_it_is,
        num_workers=2,
        multiprocessing_context="spawn",
    )
    for step, got in enumerate(loader, start=2):
        want = plain.batch(step)
        assert got["task"] == want.task
        assert got[FRONT].shape == (6, 2, 3, 32, 48)
        np.testing.assert_array_equal(got[FRONT].permute(0, 1, 3, 4, 2).numpy(), want.arrays[FRONT])
        np.testing.assert_array_equal(got["action"].numpy(), want.arrays["action"])
    one = RobotDataset(samples)[-1]
    assert (one["task"], one["observation.state"].shape) == ("task 3", (8,))
    with pytest.raises(IndexError):
        RobotDataset(samples)[len(samples)]


def test_tensors_are_uint8_with_channels_first(store: Path) -> None:
    samples = samples_of(store)
    loader = BatchLoader(samples, EpochOrder(len(samples), 6, seed=1), workers=1)
    made = loader.iterate(start=1)
    first = next(made)
    kept = first.tensors[FRONT].clone()
    next(made)
    assert torch.equal(first.tensors[FRONT], kept)  # the next batch does not overwrite it
    assert first.tensors[FRONT].dtype == torch.uint8
    want = loader.batch(1)
    np.testing.assert_array_equal(first.tensors[WRIST].permute(0, 2, 3, 1).numpy(), want.arrays[WRIST])
    assert first.tensors["action_is_pad"].dtype == torch.bool
    made.close()  # type: ignore[attr-defined]


def test_memory_is_used_again_only_when_nobody_holds_it(store: Path) -> None:
    samples = samples_of(store)
    loader = BatchLoader(samples, EpochOrder(len(samples), 6, seed=1))
    kept = [loader.batch(step) for step in range(4)]
    for step, batch in enumerate(kept):
        assert_equal(batch, loader.batch(step))
    part = torch.from_numpy(kept[0].arrays[WRIST])[2:]
    want = part.clone()
    where = {batch.arrays[FRONT].ctypes.data for batch in kept}
    del kept, batch
    again = [loader.batch(step) for step in range(4, 8)]
    assert torch.equal(part, want)
    assert where & {one.arrays[FRONT].ctypes.data for one in again}


def test_a_killed_worker_is_said(store: Path) -> None:
    samples = samples_of(store)
    order = EpochOrder(len(samples), 6)
    with Workers(MapMaker(samples, order, 0, 1), 2) as workers:
        made = iter(workers)
        next(made)
        os.kill(workers.pids[1], signal.SIGKILL)
        with pytest.raises(RuntimeError, match=r"ended with signal SIGKILL .* fewer workers"):
            list(islice(made, 20))


def test_workers_end_with_a_parent_that_is_killed(store: Path, tmp_path: Path) -> None:
    script = tmp_path / "parent.py"
    script.write_text(
        f"""
import time
from regrip.datasets.loading.batches import MapMaker, Workers
from regrip.datasets.loading.mixture import Member, Samples
from regrip.datasets.loading.sampler import EpochOrder
from regrip.datasets.store.reader import Store
if __name__ == "__main__":
    samples = Samples([Member(Store({str(store)!r}))])
    workers = Workers(MapMaker(samples, EpochOrder(len(samples), 6), 0, 1), 2)
    next(iter(workers))
    print(*workers.pids, workers._memory.name, flush=True)
    time.sleep(600)
"""
    )
    parent = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    *pids, memory = parent.stdout.readline().split()
    parent.kill()
    parent.wait()
    parent.stdout.close()
    for _ in range(600):
        if not any(psutil.pid_exists(int(pid)) for pid in pids):
            break
        time.sleep(0.1)
    else:
        pytest.fail("workers outlived their parent")
    for _ in range(600):
        try:
            SharedMemory(memory).close()
        except FileNotFoundError:
            break
        time.sleep(0.1)
    else:
        pytest.fail("shared memory was left behind")


def test_damage_is_named_through_a_worker(store: Path, tmp_path: Path) -> None:
    broken = tmp_path / "set"
    shutil.copytree(store, broken)
    (shard,) = (broken / "streams" / FRONT / "rows" / "c").rglob("0/0/0/0")
    data = bytearray(shard.read_bytes())
    offset, length = np.frombuffer(data[:16], "<u8").tolist()
    data[offset + length // 2 : offset + length] = bytes(length - length // 2)
    shard.write_bytes(bytes(data))
    samples = Samples([Member(Store(broken))])
    made = BatchLoader(samples, EpochOrder(len(samples), 25), workers=1).batches()
    with pytest.raises(DataError, match=rf"episode 0, frame 0, {FRONT}"):
        next(made)


def test_too_little_shared_memory_is_refused(store: Path) -> None:
    if not Path("/dev/shm").is_dir():
        pytest.skip("no /dev/shm here")
    samples = samples_of(store)
    loader = BatchLoader(samples, EpochOrder(len(samples), 6), workers=2, ahead=10**8)
    with pytest.raises(DataError, match=r"of shared memory, .* --shm-size"):
        next(loader.batches())


def test_a_set_in_memory_needs_no_workers(store: Path) -> None:
    plain = samples_of(store)
    ram = Samples([Member(RamRows(Store(store)))], Reading(chunk=4, delta_timestamps={FRONT: (-0.05, 0.0)}))
    order = EpochOrder(len(plain), 6, seed=2)
    for step in range(4):
        assert_equal(BatchLoader(ram, order).batch(step), BatchLoader(plain, order).batch(step))
    with pytest.raises(TypeError, match="workers=0"):
        next(BatchLoader(ram, order, workers=1).batches())
