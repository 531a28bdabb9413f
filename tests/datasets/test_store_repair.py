"""Damage of each kind: reading reports it and works around it, repair mends what can be mended."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import zarr
from recordings import FRONT, assert_same, assert_set, contents, recording

from regrip.datasets.ledger import DataError
from regrip.datasets.recording import StreamSpec
from regrip.datasets.store import zarr_codec
from regrip.datasets.store.columns import add_column
from regrip.datasets.store.reader import Store
from regrip.datasets.store.repair import repair
from regrip.datasets.store.shards import INDEX
from regrip.datasets.store.writer import StoreWriter

assert zarr_codec.CODEC == "regrip.image"
OF = contents(wrist=False, depth=True)
EPISODES = [recording(OF, 5, seed=i) for i in range(3)]
SHARD = f"streams/{FRONT}/rows/c/0/0/0/0"
ACTION = "streams/action/rows/c/0/0"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("whole") / "set"
    with StoreWriter.create(path, OF) as sink:
        for one in EPISODES:
            sink.write(one)
    return path


@pytest.fixture
def path(whole: Path, tmp_path: Path) -> Path:
    shutil.copytree(whole, tmp_path / "set")
    return tmp_path / "set"


def change(path: Path, at: int, data: bytes) -> None:
    with open(path, "r+b") as file:
        file.seek(at)
        file.write(data)


def flip(path: Path, at: int) -> None:
    change(path, at, bytes([path.read_bytes()[at] ^ 0x10]))


def cut(path: Path, size: int) -> None:
    os.truncate(path, size)


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def goes_on(path: Path, episodes: int) -> None:
    """After a repair nothing is wrong any more, zarr-python reads it, and it can be added to."""
    assert repair(path, deep=True) == []
    store = Store(path)
    assert store.problems == []
    assert len(store) == episodes
    for index in range(episodes):
        assert store.verify(index) == []
    rows = zarr.open_group(str(path), mode="r")[f"streams/{FRONT}/rows"]
    for first, last in store.bounds(FRONT):
        for row in range(first, last):
            np.testing.assert_array_equal(rows[row], store.image(FRONT, row))
    with StoreWriter.record(path) as sink:
        sink.write(EPISODES[0])
    assert_same(Store(path)[episodes], EPISODES[0])


def snapshot(path: Path) -> dict[str, tuple[int, int]]:
    files = [p for p in path.rglob("*") if p.is_file()]
    return {str(p): (p.stat().st_mtime_ns, p.stat().st_size) for p in files}


def test_a_whole_set_needs_nothing(path: Path) -> None:
    before = snapshot(path)
    assert repair(path, deep=True) == []
    after = snapshot(path)
    del before[str(path / "writer.lock")], after[str(path / "writer.lock")]
    assert after == before
    goes_on(path, 3)


MENDED: dict[str, tuple[Callable[[Path], object], str]] = {
    "torn line": (lambda p: (p / "episodes.jsonl").open("ab").write(b'{"crc":"00'), "not finished"),
    "index crc": (lambda p: flip(p / SHARD, INDEX - 2), "does not fit its crc"),
    "index beyond": (lambda p: change(p / SHARD, 16 * 20, b"\1" * 16), "does not fit its crc"),
    "shape": (lambda p: edit(p / "streams/action/rows/zarr.json", "15,", "10,"), "says 10 rows"),
    "array json": (lambda p: (p / "streams/action/rows/zarr.json").write_bytes(b"{"), "cannot be used"),
    "array json gone": (lambda p: (p / f"streams/{FRONT}/rows/zarr.json").unlink(), "missing"),
    "head": (lambda p: (p / "zarr.json").write_bytes(b"[1, 2"), "its copy was used"),
    "head gone": (lambda p: (p / "zarr.json").unlink(), "its copy was used"),
    "head of others": (lambda p: (p / "zarr.json").write_text('{"attributes": {}}'), "its copy was used"),
}  # fmt: skip


@pytest.mark.parametrize("what", MENDED)
def test_what_costs_nothing(path: Path, what: str) -> None:
    damage, words = MENDED[what]
    damage(path)
    before = snapshot(path)
    store = Store(path)
    assert_set(store, OF, EPISODES)
    assert snapshot(path) == before, "reading never writes"
    assert any(words in str(problem) for problem in store.problems)
    assert all(problem.repaired for problem in store.problems)
    found = repair(path)
    assert found
    assert all(problem.repaired for problem in found)
    assert_set(Store(path), OF, EPISODES)
    goes_on(path, 3)


def test_metadata_that_nothing_can_follow(path: Path) -> None:
    edit(path / "streams/action/rows/zarr.json", '"float32"', '"float16"')
    with pytest.raises(DataError, match=r"action: its zarr\.json cannot be used"):
        Store(path)
    assert any("written anew" in problem.remedy for problem in repair(path))
    goes_on(path, 3)


def test_a_tail_that_was_not_finished(path: Path) -> None:
    with open(path / SHARD, "ab") as file:
        file.write(b"\xff\xd8\xff" + b"x" * 100)
    other = path / f"streams/{FRONT}/rows/c/1/0/0"
    other.mkdir(parents=True)
    (other / "0").write_bytes(b"abc")
    assert Store(path).problems == []
    assert len(repair(path)) == 2
    assert not (path / f"streams/{FRONT}/rows/c/1").exists()
    goes_on(path, 3)


DAMAGED: dict[str, tuple[Callable[[Path], object], bool, list[int]]] = {
    "image bytes": (lambda p: flip(p / SHARD, INDEX + 300), True, [1, 2]),
    "last image cut": (lambda p: cut(p / SHARD, (p / SHARD).stat().st_size - 9), False, [0, 1]),
    "index entry": (lambda p: change(p / SHARD, 16 * 7, b"\xff" * 16), False, [0, 2]),
    "index entry far": (lambda p: change(p / SHARD, 16 * 7, b"\x7f" * 8), False, [0, 2]),
    "index entry moved": (lambda p: change(p / SHARD, 16 * 7 + 8, b"\x05\0\0\0\0\0\0\0"), False, [0, 2]),
    "shard gone": (lambda p: (p / SHARD).unlink(), False, []),
    "shard cut to its index": (lambda p: cut(p / SHARD, 1000), False, []),
    "numbers": (lambda p: flip(p / ACTION, 28 * 6), True, [0, 2]),
    "numbers cut": (lambda p: cut(p / ACTION, 28 * 10), False, [0, 1]),
    "numbers gone": (lambda p: (p / ACTION).unlink(), False, []),
    "time falls": (lambda p: change(p / "streams/action/time/c/0", 8 * 7, b"\0" * 8), False, [0, 2]),
    "time nan": (lambda p: change(p / "streams/action/time/c/0", 8 * 6, b"\xff" * 8), False, [0, 2]),
    "line": (lambda p: edit(p / "episodes.jsonl", '"id": 1,', '"id": 7,'), False, [0, 2]),
    "last line": (lambda p: edit(p / "episodes.jsonl", '"id": 2,', '"id": 7,'), False, [0, 1]),
    "depth": (lambda p: flip(p / "streams/observation.depth.front/rows/c/0/0/0", INDEX + 20), True, [1, 2]),
}


@pytest.mark.parametrize("what", DAMAGED)
def test_damaged_episodes_are_taken_out_and_said(path: Path, what: str) -> None:
    damage, deep, left = DAMAGED[what]
    lines = (path / "episodes.jsonl").read_bytes().splitlines()
    damage(path)
    store = Store(path)
    if "line" not in what:
        assert len(store) == 3
        wrong = [index for index in range(3) if store.verify(index)]
        assert wrong == sorted({0, 1, 2} - set(left))
        if not deep:
            for index in wrong:
                with pytest.raises(DataError) as raised:
                    [list(track.rows) for track in store[index].streams.values()]
                assert raised.value.episode == index
                assert raised.value.remedy
    else:
        assert any("damaged" in problem.what for problem in store.problems)
        with pytest.raises(DataError, match="repair"):
            StoreWriter.record(path)
    found = repair(path, deep=deep)
    assert any("damaged" in problem.what for problem in found)
    assert_set(Store(path), OF, [EPISODES[index] for index in left])
    kept = (path / "damaged.jsonl").read_text()
    assert kept.count("\n") == 3 - len(left)
    if "line" not in what:
        for index in set(range(3)) - set(left):
            assert json.dumps(lines[index].decode())[1:-1] in kept
    goes_on(path, len(left))


def test_appending_to_damaged_data_is_refused(path: Path) -> None:
    """A hole would look like rows of zeros, and a damaged index would be sealed with a new crc."""
    cut(path / ACTION, 28 * 10)
    with pytest.raises(DataError, match="cut short"):
        StoreWriter.record(path)
    shutil.copy(path / SHARD, path / "keep")
    repair(path)
    change(path / SHARD, 16 * 2, b"\x7f" * 8)
    with pytest.raises(DataError, match="damaged"):
        StoreWriter.record(path)


def test_rows_of_damaged_episodes_are_not_written_over(path: Path) -> None:
    flip(path / ACTION, 28 * 12)  # the last episode
    repair(path, deep=True)
    with StoreWriter.record(path) as sink:
        sink.write(EPISODES[0])
    assert Store(path).bounds("action").tolist() == [[0, 5], [5, 10], [15, 20]]
    assert_set(Store(path), OF, [*EPISODES[:2], EPISODES[0]])


def reward(key: str = "progress") -> StreamSpec:
    return StreamSpec(key, "vector", "float32", ())


def rows(scale: float) -> list[np.ndarray | None]:
    return [np.full(5, scale * i, np.float32) for i in range(3)]


def test_a_column_is_added_replaced_and_appended_to(path: Path) -> None:
    frames = (path / SHARD).stat().st_mtime_ns
    open_before = Store(path)
    add_column(path, reward(), rows(1.0), source="a judge")
    assert "progress" not in open_before[0].streams
    store = Store(path)
    assert store.problems == []
    assert store[2].streams["progress"].rows.tolist() == [2.0] * 5  # type: ignore[union-attr]
    assert store[2].streams["progress"].time.tolist() == store[2].streams["action"].time.tolist()
    assert store.provenance["columns"]["progress"]["source"] == "a judge"
    assert (path / SHARD).stat().st_mtime_ns == frames
    group = zarr.open_group(str(path), mode="r")["streams/progress@1"]
    assert group["rows"][:].tolist() == [0.0] * 5 + [1.0] * 5 + [2.0] * 5

    with StoreWriter.record(path, OF) as sink:  # a robot that does not know of the column goes on
        sink.write(EPISODES[0])
    with StoreWriter.record(path) as sink:
        sink.begin_episode()
        sink.add("progress", 9.0, 0.0)
        sink.add("action", [0] * 7, 0.0)
        sink.end_episode()
    store = Store(path)
    assert "progress" not in store[3].streams
    assert store[4].streams["progress"].rows.tolist() == [9.0]  # type: ignore[union-attr]
    assert store.bounds("progress").tolist() == [[0, 5], [5, 10], [10, 15], [15, 15], [15, 16]]

    with pytest.raises(DataError, match="has a stream of this key"):
        add_column(path, reward(), rows(2.0))
    add_column(path, reward(), [None, *rows(2.0)[1:], None, np.array([7.0], np.float32)], replace=True)
    store = Store(path)
    assert store.bounds("progress").tolist() == [[0, 0], [0, 5], [5, 10], [10, 10], [10, 11]]
    assert store[1].streams["progress"].rows.tolist() == [2.0] * 5  # type: ignore[union-attr]
    assert [p.name for p in (path / "streams").glob("progress*")] == ["progress@2"]
    assert [store.verify(index) for index in range(5)] == [[]] * 5

    add_column(path, OF.streams["reward"], [None] * 5, replace=True)  # one that was recorded
    with StoreWriter.record(path, OF) as sink:
        sink.write(EPISODES[1])
    store = Store(path)
    assert [last - first for first, last in store.bounds("reward")] == [0, 0, 0, 0, 0, 5]
    assert repair(path, deep=True) == []


def test_a_column_that_does_not_fit_changes_nothing(path: Path) -> None:
    cases = [
        (reward(), rows(1.0)[:2], {}, "rows for 2 episodes"),
        (reward(), [*rows(1.0), None], {}, "more than the 3"),
        (reward(), [np.zeros(4, np.float32)] * 3, {}, "4 rows, action has 5"),
        (reward(), [np.zeros(5)] * 3, {}, "float64"),
        (reward(), rows(1.0), {"like": "arm"}, "no stream 'arm'"),
        (StreamSpec("x", "text", "str", ()), [], {}, "column of kind text"),
        (reward("action"), rows(1.0), {}, "has a stream of this key"),
    ]
    for spec, given, more, words in cases:
        with pytest.raises(DataError, match=words):
            add_column(path, spec, given, **more)  # type: ignore[arg-type]
    assert_set(Store(path), OF, EPISODES)
    assert repair(path, deep=True) == []
    with StoreWriter.record(path), pytest.raises(DataError, match="is writing"):
        add_column(path, reward(), rows(1.0))


def test_a_column_whose_maker_was_killed_is_not_there(path: Path) -> None:
    import multiprocessing
    import signal

    def given() -> object:
        yield from rows(1.0)[:2]
        os.kill(os.getpid(), signal.SIGKILL)

    child = multiprocessing.get_context("fork").Process(target=add_column, args=(path, reward(), given()))
    child.start()
    child.join(60)
    assert child.exitcode == -signal.SIGKILL
    assert (path / "streams/progress@1").exists()
    assert_set(Store(path), OF, EPISODES)
    assert len(repair(path)) == 1
    assert not (path / "streams/progress@1").exists()
    add_column(path, reward(), rows(1.0))
    goes_on(path, 3)


def test_a_damaged_column_costs_the_episodes_that_column(path: Path) -> None:
    add_column(path, reward(), rows(1.0))
    edit(path / "streams/progress@1/episodes.jsonl", '"id": 1,', '"id": 9,')
    store = Store(path)
    assert "progress" not in store[1].streams
    assert store[2].streams["progress"].rows.tolist() == [2.0] * 5  # type: ignore[union-attr]
    assert any("damaged" in problem.what for problem in store.problems)
