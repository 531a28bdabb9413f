"""Recording into a store: frame by frame, killed at any moment, one writer at a time."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pytest
import zarr
from recordings import FRONT, WRIST, assert_same, assert_set, contents, picture, recording

from regrip.datasets.frames import encode_jpeg
from regrip.datasets.ledger import DataError, Ledger, Loss
from regrip.datasets.recording import Recording, Track
from regrip.datasets.store import shards, vector_files, zarr_codec
from regrip.datasets.store.reader import Store
from regrip.datasets.store.repair import repair
from regrip.datasets.store.writer import StoreWriter

assert zarr_codec.CODEC == "regrip.image"
fork = multiprocessing.get_context("fork")
OF = contents(wrist=False)
EPISODES = [recording(OF, 5, seed=i) for i in range(4)]


def add_all(sink: StoreWriter, one: Recording) -> None:
    """An episode row by row, as a robot's node has it: the streams take turns."""
    sink.begin_episode(one.task)
    for step in range(one.num_steps):
        for key, track in one.streams.items():
            row = track.rows.encoded(step) if key == FRONT else track.rows[step]  # type: ignore[union-attr]
            sink.add(key, row, float(track.time[step]))
    sink.end_episode(one.success, one.terminated, one.truncated)


def test_row_by_row_is_the_same_as_at_once(tmp_path: Path) -> None:
    with StoreWriter.record(tmp_path / "a", OF) as a, StoreWriter.record(tmp_path / "b", OF) as b:
        for done, one in enumerate(EPISODES, 1):
            add_all(a, one)
            b.write(one)
            assert a.done == b.done == done
            assert len(Store(tmp_path / "a")) == done, "readers see each episode as it ends"
    assert_set(Store(tmp_path / "a"), OF, EPISODES)
    assert Store(tmp_path / "a").content_hash() == Store(tmp_path / "b").content_hash()


def test_images_are_encoded_on_the_way(tmp_path: Path) -> None:
    with StoreWriter.record(tmp_path / "set", OF) as sink:
        sink.begin_episode("look", began_ns=5, about={"operator": "B"})
        for step in range(3):
            sink.add(FRONT, picture(step), step / 10)
            sink.add("action", [step] * 7, step / 10)
            sink.add("reward", step, step / 10)
        sink.end_episode(success=True)
    got = Store(tmp_path / "set")[0]
    assert got.streams[FRONT].rows.encoded(1) == encode_jpeg(picture(1))  # type: ignore[union-attr]
    assert got.streams["action"].rows[2].tolist() == [2.0] * 7  # type: ignore[union-attr]
    assert (got.began_ns, got.about, got.success, got.terminated) == (5, {"operator": "B"}, True, None)
    assert "observation.state" not in got.streams


BAD: dict[str, tuple[Callable[[StoreWriter], object], str]] = {
    "unknown key": (lambda s: s.add("arm", 1.0, 1.0), "no such stream"),
    "shape": (lambda s: s.add("action", np.zeros(6, np.float32), 1.0), r"float32 \(6,\)"),
    "dtype": (lambda s: s.add("action", np.zeros(7), 1.0), "float64"),
    "no number": (lambda s: s.add("action", ["x"] * 7, 1.0), "is no float32"),
    "time falls": (lambda s: s.add("action", [0] * 7, 0.2), "time falls from 0.5 to 0.2"),
    "time nan": (lambda s: s.add("action", [0] * 7, float("nan")), "not finite"),
    "no time": (lambda s: s.add("action", [0] * 7, "now"), "no number"),  # type: ignore[arg-type]
    "image size": (lambda s: s.add(FRONT, encode_jpeg(picture(0, 40, 48)), 1.0), r"\(40, 48, 3\)"),
    "image dtype": (lambda s: s.add(FRONT, picture(0).astype(np.float32), 1.0), "float32"),
    "no image": (lambda s: s.add(FRONT, b"hello", 1.0), "no known image"),
    "cut image": (lambda s: s.add(FRONT, encode_jpeg(picture(0))[:15], 1.0), "JPEG"),
    "verdict": (lambda s: s.end_episode(success="yes"), "wrong type"),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("what", BAD)
def test_a_failed_write_costs_the_open_episode_alone(tmp_path: Path, what: str) -> None:
    act, words = BAD[what]
    with StoreWriter.record(tmp_path / "set", OF) as sink:
        add_all(sink, EPISODES[0])
        sink.begin_episode("doomed")
        sink.add("action", [1] * 7, 0.5)
        sink.add(FRONT, picture(9), 0.5)
        with pytest.raises(DataError, match=words) as raised:
            act(sink)
        assert raised.value.episode == 1
        with pytest.raises(DataError, match="no episode is open"):
            sink.add("action", [1] * 7, 0.6)
        add_all(sink, EPISODES[1])
    store = Store(tmp_path / "set")
    assert store.problems == []
    assert_set(store, OF, EPISODES[:2])
    assert store.verify(1) == []


def test_a_recording_that_does_not_fit_is_refused_whole(tmp_path: Path) -> None:
    bad = recording(contents(), 3)  # has a wrist camera
    with StoreWriter.create(tmp_path / "set", OF) as sink:
        with pytest.raises(DataError, match=WRIST):
            sink.write(bad)
        with pytest.raises(DataError, match="no rows"):
            sink.write(Recording({}))
        sink.write(EPISODES[0])
        sink.begin_episode()
        with pytest.raises(DataError, match="an episode is open"):
            sink.begin_episode()
    assert_set(Store(tmp_path / "set"), OF, EPISODES[:1])


def test_a_conversion_is_not_in_its_place_before_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "set"
    sink = StoreWriter.create(path, OF, ledger=Ledger())
    sink.write(EPISODES[0])
    assert not path.exists()
    sink.abandon()
    assert [p.name for p in tmp_path.iterdir()] == [".set.partial"]
    ledger = Ledger([Loss("x", "dropped", "a column")])
    again = StoreWriter.create(path, OF, ledger=ledger)
    assert again.done == 1
    again.write(EPISODES[1])
    again.close()
    again.close()
    assert [p.name for p in tmp_path.iterdir()] == ["set"]
    assert_set(Store(path), OF, EPISODES[:2])
    assert Store(path).ledger.losses == ledger.losses
    with pytest.raises(DataError, match="exists already"):
        StoreWriter.create(path, OF)
    with pytest.raises(DataError, match="closed"):
        again.begin_episode()


def test_a_set_that_means_something_else_is_not_added_to(tmp_path: Path) -> None:
    StoreWriter.record(tmp_path / "set", OF).close()
    with pytest.raises(DataError, match="wrist"):
        StoreWriter.record(tmp_path / "set", contents())
    with pytest.raises(DataError, match="rate_hz"):
        StoreWriter.record(tmp_path / "set", contents(wrist=False, rate_hz=10.0))
    with pytest.raises(DataError, match="nothing says what"):
        StoreWriter.record(tmp_path / "new")
    (tmp_path / "full").mkdir()
    (tmp_path / "full/holiday.txt").write_text("mine")
    with pytest.raises(DataError, match="not empty"):
        StoreWriter.record(tmp_path / "full", OF)
    assert sorted(p.name for p in (tmp_path / "full").iterdir()) == ["holiday.txt"]


def test_a_stream_without_rows_is_there_all_the_same(tmp_path: Path) -> None:
    none = Recording({**EPISODES[0].streams, "reward": Track(np.empty(0, np.float32), np.empty(0))})
    with StoreWriter.record(tmp_path / "set", OF) as sink:
        sink.write(none)
        sink.write(EPISODES[1])
    store = Store(tmp_path / "set")
    assert_same(store[0], none)
    assert_same(store[1], EPISODES[1])
    assert store.verify(0) == []


def test_links_are_not_written_through(tmp_path: Path) -> None:
    StoreWriter.record(tmp_path / "set", OF).close()
    (tmp_path / "out").mkdir()
    rows = tmp_path / "set/streams/action/rows"
    rows.rename(tmp_path / "out/rows")
    rows.symlink_to(tmp_path / "out/rows")
    with pytest.raises(DataError, match="link"):
        StoreWriter.record(tmp_path / "set")
    with pytest.raises(DataError, match="link"):
        repair(tmp_path / "set")


def _die_at(path: Path, point: int) -> None:
    """Record an episode, and be killed at a certain write or sync, half way through it if it is a write."""
    left = point

    def now() -> bool:
        nonlocal left
        left -= 1
        return left < 0

    def die() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def write_all(file: BinaryIO, data: bytes) -> None:
        if now():
            file.write(bytes(data)[: len(data) // 2])
            die()
        file.write(data)

    real_write, real_sync, real_replace = os.write, os.fsync, os.replace

    def write(descriptor: int, data: Any) -> int:
        if now():
            real_write(descriptor, bytes(data)[: len(data) // 2])
            die()
        return real_write(descriptor, data)

    def sync(descriptor: int) -> None:
        if now():
            die()
        real_sync(descriptor)

    def replace(source: Any, target: Any) -> None:
        if now():
            die()
        real_replace(source, target)

    with StoreWriter.record(path) as sink:
        shards.write_all = vector_files.write_all = write_all  # type: ignore[assignment]
        os.write, os.fsync, os.replace = write, sync, replace  # type: ignore[assignment]
        add_all(sink, EPISODES[sink.done % 4])
    os._exit(0)


def test_killed_at_every_step_of_an_episode(tmp_path: Path) -> None:
    """Every third write, sync and rename, in a real process; also in the middle of a write."""
    path = tmp_path / "set"
    with StoreWriter.record(path, OF) as sink:
        sink.write(EPISODES[0])
    want, point, alive = 1, 0, False
    while not alive:
        child = fork.Process(target=_die_at, args=(path, point))
        child.start()
        child.join(60)
        alive = child.exitcode == 0
        store = Store(path)
        assert want <= len(store) <= want + 1, point
        want = len(store)
        for index in range(want):
            assert_same(store[index], EPISODES[index % 4])
            assert store.verify(index) == [], (point, index)
        point += 3
    assert point > 40
    assert repair(path, deep=True) == []
    rows = zarr.open_group(str(path), mode="r")[f"streams/{FRONT}/rows"]
    assert rows.shape[0] == 5 * want
    np.testing.assert_array_equal(rows[5 * want - 1], Store(path).image(FRONT, 5 * want - 1))


def _record_on_and_on(path: Path, said: Any) -> None:
    with StoreWriter.record(path, OF) as sink:
        while True:
            add_all(sink, EPISODES[sink.done % 4])
            said.send(sink.done)


def test_killed_at_random_moments(tmp_path: Path) -> None:
    path = tmp_path / "set"
    rng = np.random.default_rng(0)
    before = 0
    for _ in range(6):
        ours, theirs = fork.Pipe(duplex=False)
        child = fork.Process(target=_record_on_and_on, args=(path, theirs))
        child.start()
        assert ours.poll(60)
        done = ours.recv()
        assert done == before + 1, "it goes on after what was finished"
        time.sleep(rng.uniform(0, 0.15))
        assert child.pid is not None
        os.kill(child.pid, signal.SIGKILL)
        child.join()
        while ours.poll():
            done = ours.recv()
        store = Store(path)
        before = len(store)
        assert done <= before <= done + 1
        for index in range(before):
            assert store.verify(index) == []
        assert_same(store[before - 1], EPISODES[(before - 1) % 4])
    repair(path)
    assert repair(path, deep=True) == []


def test_the_second_writer_is_refused_and_told_who_writes(tmp_path: Path) -> None:
    path = tmp_path / "set"
    code = (
        "import sys; from pathlib import Path\n"
        "from regrip.datasets.store.writer import StoreWriter\n"
        "from regrip.datasets.ledger import DataError\n"
        "try: StoreWriter.record(Path(sys.argv[1]))\n"
        "except DataError as error: print(error)\n"
    )
    with StoreWriter.record(path, OF) as sink:
        add_all(sink, EPISODES[0])
        sink.begin_episode()
        other = subprocess.run(
            [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True, timeout=60
        )
        assert f"process {os.getpid()} is writing to this set" in other.stdout
        with pytest.raises(DataError, match="is writing"):
            StoreWriter.record(path)
        with pytest.raises(DataError, match="is writing"):
            repair(path)
        assert len(Store(path)) == 1, "readers are not kept out"
    with StoreWriter.record(path) as sink:
        assert sink.done == 1


def test_a_reader_keeps_its_prefix_while_another_writes(tmp_path: Path) -> None:
    path = tmp_path / "set"
    with StoreWriter.record(path, OF) as sink:
        sink.write(EPISODES[0])
        store = Store(path)
        assert store.image(FRONT, 0).shape == (32, 48, 3)
        sink.write(EPISODES[1])
        sink.begin_episode()
        sink.add(FRONT, picture(7), 0.0)
        sink.discard_episode()
        sink.write(EPISODES[2])
        assert len(store) == 1
        assert_same(store[0], EPISODES[0])
        assert store.problems == []
        assert len(Store(path)) == 3


@pytest.mark.skipif(not hasattr(signal, "SIGXFSZ"), reason="needs limits of file size")
def test_a_disk_that_refuses_costs_the_open_episode_alone(tmp_path: Path) -> None:
    """A limit on the size of files stands for a full disk: the write comes back with an error."""
    import resource

    path = tmp_path / "set"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    old = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    with StoreWriter.record(path, OF) as sink:
        sink.write(EPISODES[0])
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, hard))
            with pytest.raises(DataError, match=r"cannot be written.*finished episodes are safe"):
                sink.write(recording(OF, 40))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
            signal.signal(signal.SIGXFSZ, old)
        sink.write(EPISODES[1])
    store = Store(path)
    assert_set(store, OF, EPISODES[:2])
    assert store.verify(1) == store.problems == []
