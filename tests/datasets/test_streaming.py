"""Streaming: every sample once, the same batches for any number of ranks and workers, in bounded memory."""

from __future__ import annotations

import os
import re
import shutil
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from itertools import islice
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from recordings import FRONT, WRIST, contents, recording

from regrip.datasets.ledger import DataError
from regrip.datasets.loading.batches import Batch
from regrip.datasets.loading.loader import BatchLoader
from regrip.datasets.loading.mixture import Member, Samples
from regrip.datasets.loading.remote_rows import RemoteSet
from regrip.datasets.loading.sampler import EpochOrder
from regrip.datasets.loading.samples import Reading
from regrip.datasets.loading.streaming import StreamLoader, StreamOrder
from regrip.datasets.store.reader import Store
from regrip.datasets.store.writer import StoreWriter

READING = Reading(chunk=4, delta_timestamps={FRONT: (-0.05, 0.0)})


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    of = contents(size=(16, 24))
    path = tmp_path_factory.mktemp("stream") / "set"
    with StoreWriter.create(path, of) as writer:
        for seed in range(17):
            lacks = (WRIST,) if seed == 2 else ()
            writer.write(recording(of, 3 + 5 * seed % 11, seed=seed, task=f"task {seed}", lacks=lacks))
    return path


@pytest.fixture(scope="module")
def in_memory(store: Path) -> str:
    fsspec.filesystem("memory").put(str(store), "/bucket/set", recursive=True)
    return "memory://bucket/set"


@pytest.fixture(scope="module")
def plain(store: Path) -> dict[int, dict[str, Any]]:
    """Every sample by its index, read from the files."""
    samples = Samples([Member(Store(store))], READING)
    batch = BatchLoader(samples, EpochOrder(len(samples), len(samples), shuffle=False)).batch(0)
    return {
        i: {**{name: array[i] for name, array in batch.arrays.items()}, "task": batch.task[i]}
        for i in range(len(samples))
    }


def loader(url: str, **more: Any) -> StreamLoader:
    how: dict[str, Any] = {"reading": READING, "lanes": 4, "buffer_bytes": 60_000, "seed": 5, **more}
    return StreamLoader(RemoteSet(url), 8, **how)


def take(of: StreamLoader, num: int, start: int = 0) -> list[Batch]:
    made = of.batches(start)
    try:
        return list(islice(made, num))
    finally:
        made.close()  # type: ignore[attr-defined]


def check(batch: Batch, plain: dict[int, dict[str, Any]]) -> None:
    for row, index in enumerate(batch.arrays["index"].tolist()):
        want = plain[index]
        assert batch.task[row] == want["task"]
        for name, array in batch.arrays.items():
            np.testing.assert_array_equal(array[row], want[name], err_msg=name)


def test_every_sample_comes_once_in_an_epoch_and_is_right(
    in_memory: str, plain: dict[int, dict[str, Any]]
) -> None:
    stream = loader(in_memory)
    steps = stream.order.steps_per_epoch
    orders = []
    for epoch in range(2):
        made = take(stream, steps, start=epoch * steps)
        for batch in made:
            check(batch, plain)
        orders.append([int(i) for batch in made for i in batch.arrays["index"]])
        assert sorted(orders[-1]) == list(range(len(plain)))
    assert orders[0] != orders[1]
    assert len({int(i) for i in take(stream, 1)[0].arrays["episode_index"]}) > 3  # mixed from many episodes


def test_ranks_change_nothing(in_memory: str) -> None:
    want = take(loader(in_memory), 6, start=9)
    assert [one.step for one in want] == [9, 10, 11, 12, 13, 14]
    for world in (2, 4):
        ranks = [take(loader(in_memory, rank=rank, world=world), 6, start=9) for rank in range(world)]
        for step, whole in enumerate(want):
            places = np.concatenate([rank[step].place for rank in ranks])
            assert sorted(places.tolist()) == list(range(len(whole)))
            for rank in ranks:
                for name, array in rank[step].arrays.items():
                    np.testing.assert_array_equal(array, whole.arrays[name][rank[step].place], err_msg=name)


def test_worker_processes_change_nothing(store: Path) -> None:
    want = take(loader(store.as_uri()), 4, start=15)
    for workers in (1, 3):
        for got, one in zip(take(loader(store.as_uri(), workers=workers), 4, start=15), want, strict=True):
            assert got.task == one.task
            for name, array in one.arrays.items():
                np.testing.assert_array_equal(got.arrays[name], array, err_msg=name)


class Ranges(SimpleHTTPRequestHandler):
    """Python's own server knows no ranges."""

    def do_GET(self) -> None:
        path = Path(self.translate_path(self.path))
        if not path.is_file():
            self.send_error(404)
            return
        data = path.read_bytes()
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if asked:
            self.send_response(206)
            data = data[int(asked[1]) : int(asked[2]) + 1 if asked[2] else None]
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(store: Path) -> Iterator[str]:
    def handler(*args: Any) -> Ranges:
        return Ranges(*args, directory=str(store.parent))

    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as one:
        thread = threading.Thread(target=one.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{one.server_port}/set"
        one.shutdown()
        thread.join()


def test_over_http(server: str, plain: dict[int, dict[str, Any]]) -> None:
    pytest.importorskip("aiohttp", reason="fsspec reads http:// with aiohttp")
    for batch in take(loader(server), 5):
        check(batch, plain)
    with pytest.raises(DataError, match=r"no zarr\.json"):
        RemoteSet(server + "/nothing")


def test_memory_is_bounded(tmp_path: Path) -> None:
    of = contents(size=(16, 24))
    with StoreWriter.create(tmp_path / "set", of) as writer:
        for seed in range(60):
            writer.write(recording(of, 4, seed=seed))
    stream = loader((tmp_path / "set").as_uri(), lanes=2, buffer_bytes=150_000)
    whole = sum(path.stat().st_size for path in (tmp_path / "set").rglob("0") if path.is_file())
    most = 0
    for _ in islice(stream.batches(), 2 * stream.order.steps_per_epoch):
        most = max(most, stream.maker.held_bytes())
    assert 80_000 < most < 170_000 < 0.5 * whole
    assert stream.maker.num_fetched < 2.6 * sum(
        stream.maker._remote.bytes_per_row(key) * 240 + 240 * 8 for key in stream.maker._keys
    )


def test_damage_is_named(store: Path, tmp_path: Path) -> None:
    shutil.copytree(store, tmp_path / "set")
    rows = tmp_path / "set/streams" / FRONT / "rows/c/0/0/0/0"
    data = rows.read_bytes()
    rows.write_bytes(data[: len(data) // 2])
    with pytest.raises(DataError, match=r"bytes came for a range of .*|no such file"):
        take(loader((tmp_path / "set").as_uri()), 20)
    rows.write_bytes(data[:5] + b"\xff" + data[6:])
    with pytest.raises(DataError, match="index of a shard is damaged"):
        take(loader((tmp_path / "set").as_uri()), 1)
    rows.unlink()
    with pytest.raises(DataError, match="no such file"):
        take(loader((tmp_path / "set").as_uri()), 1)
    with pytest.raises(DataError):
        RemoteSet((tmp_path / "elsewhere").as_uri())
    with pytest.raises(DataError, match=r"package|opened"):
        RemoteSet("nosuchprotocol://x/y")


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=30), st.sampled_from([1, 2, 3, 4]), st.integers(1, 3))
def test_the_plan_covers_everything(blocks: list[int], lanes: int, each: int) -> None:
    order = StreamOrder(tuple(blocks), lanes * each, lanes, mixed=12, seed=2)
    seen = []
    for step in range(order.steps_per_epoch):
        epoch, lane, number = order.step(step)
        assert epoch == 0
        seen += list(zip(lane.tolist(), number.tolist(), strict=True))
    want = [(lane, i) for lane, one in enumerate(order.lanes_of(0)) for i in range(one.size)]
    assert sorted(seen) == want
    assert len(want) == sum(blocks)
    assert sorted(b for one in order.lanes_of(0) for group in one.groups for b in group) == list(
        range(len(blocks))
    )
    sizes = [one.size for one in order.lanes_of(0)]
    assert max(sizes) - min(sizes) <= 2 * max(blocks)
    for lane, one in enumerate(order.lanes_of(0)):
        assert all(sum(blocks[b] for b in group) <= 12 for group in one.groups)
        groups, places = order.samples(0, lane, np.arange(one.size))
        assert len(set(zip(groups.tolist(), places.tolist(), strict=True))) == one.size


def test_mistakes_are_named(in_memory: str) -> None:
    with pytest.raises(ValueError, match="as many from each of 3 lanes"):
        loader(in_memory, lanes=3)
    with pytest.raises(ValueError, match="cannot be shared by 3 ranks"):
        loader(in_memory, world=3)
    with pytest.raises(ValueError, match="5 workers for 4 lanes"):
        loader(in_memory, workers=5)


def mutate(rng: np.random.Generator, root: Path) -> tuple[str, Path, bytes]:
    """Damage one file of a set; says how, and what it was before."""
    files = sorted(path for path in root.rglob("*") if path.is_file() and path.stat().st_size)
    small = [path for path in files if path.suffix in (".json", ".jsonl")]
    path = files[rng.integers(len(files))] if rng.random() < 0.6 else small[rng.integers(len(small))]
    before = path.read_bytes()
    data = bytearray(before)
    how = ("flip", "cut", "remove", "number", "zeros")[rng.integers(5)]
    at = int(rng.integers(min(len(data), 40_000)))
    if how == "flip":
        data[at] ^= 1 << int(rng.integers(8))
    elif how == "cut":
        del data[at:]
    elif how == "number":
        digits = [i for i, byte in enumerate(data[:20_000]) if chr(byte).isdigit()]
        if digits:
            place = digits[rng.integers(len(digits))]
            data[place : place + 1] = [b"-1", b"99999999999", b"1e400", b"[]", b"null", b"NaN"][
                rng.integers(6)
            ]
    elif how == "zeros":
        data[at : at + 64] = bytes(len(data[at : at + 64]))
    path.write_bytes(bytes(data))
    if how == "remove":
        path.unlink()
    return f"{how} {path.relative_to(root)} at {at}", path, before


def test_damaged_sets_are_read_or_refused(store: Path, tmp_path: Path) -> None:
    refused, root = 0, tmp_path / "set"
    shutil.copytree(store, root)
    for seed in range(int(os.environ.get("REGRIP_FUZZ", "100"))):
        how, path, before = mutate(np.random.default_rng(seed), root)
        try:
            for batch in take(loader(root.as_uri()), 4):
                assert len(batch) == len(batch.task) <= 8, how
        except DataError:
            refused += 1
        except Exception as error:
            raise AssertionError(f"seed {seed}, {how}: {error!r}") from error
        path.write_bytes(before)
    assert refused > 10
