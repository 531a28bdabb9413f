"""Mutated sets: each is read, or refused with a DataError; nothing else, and nothing is written."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from recordings import FRONT, contents, recording

from regrip.datasets.contents_json import contents_from_json, contents_to_json
from regrip.datasets.ledger import DataError
from regrip.datasets.recording import Contents, StreamSpec
from regrip.datasets.store.columns import add_column
from regrip.datasets.store.log import seal
from regrip.datasets.store.reader import Store
from regrip.datasets.store.repair import repair
from regrip.datasets.store.writer import StoreWriter

MUTATIONS = int(os.environ.get("REGRIP_MUTATIONS", "210"))
BASE = contents(wrist=False, depth=True)
OF = Contents({**BASE.streams, "task": StreamSpec("task", "text", "str", ())}, 20.0)
VALUES: list[Any] = [
    None,
    -1,
    0,
    1 << 40,
    1 << 70,
    1e400,
    "x",
    "../../x",
    [],
    [[]],
    {},
    True,
    [1] * 50,
    "object",
]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("whole") / "set"
    with StoreWriter.create(path, OF) as sink:
        for seed in range(2):
            sink.write(recording(OF, 3, seed=seed))
    add_column(path, StreamSpec("value", "vector", "float32", ()), [np.zeros(3, np.float32)] * 2)
    return path


def copy(whole: Path, path: Path) -> None:
    """A copy of a set that has holes where the set has some: MiBs of zeros are slow to write."""

    def one(source: str, target: str) -> str:
        data = Path(source).read_bytes()
        Path(target).write_bytes(data.rstrip(b"\0"))
        os.truncate(target, len(data))
        return target

    shutil.copytree(whole, path, copy_function=one)


def told(error: DataError) -> None:
    assert error.remedy, error
    assert len(str(error)) < 5000


def use(path: Path) -> None:
    """Everything a reader does; a DataError is an answer, and so is IndexError beyond the end."""
    store = Store(path)
    for index in range(len(store)):
        for act in (store.num_rows, store.verify, store.look):
            act(index)
        try:
            for track in store[index].streams.values():
                list(track.rows)
        except DataError as error:
            told(error)
    for key in store.contents.streams:
        bounds = store.bounds(key)
        assert bounds.shape == (len(store), 2)
        if len(bounds) and bounds.max() < 100:
            try:
                store.times(key, np.arange(bounds[-1, 1]))
            except DataError as error:
                told(error)
    assert isinstance(store.content_hash(), str)
    for problem in store.problems:
        assert str(problem)
    store.close()


def places(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in JSON."""
    found = [at] if at else []
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        found += places(inner, (*at, key))
    return found


def mutate_json(rng: np.random.Generator, data: Any) -> Any:
    spots = places(data)
    spot = spots[rng.integers(len(spots))]
    inner = data
    for key in spot[:-1]:
        inner = inner[key]
    if rng.random() < 0.3:
        del inner[spot[-1]]
    else:
        inner[spot[-1]] = VALUES[rng.integers(len(VALUES))]
    return data


def mutate(rng: np.random.Generator, path: Path) -> str:
    files = sorted(p for p in path.rglob("*") if p.is_file() and p.name != "writer.lock")
    file = files[rng.integers(len(files))]
    kind = ["flip", "cut", "json", "json", "gone", "link", "folder", "junk", "nest"][rng.integers(9)]
    data = bytearray(file.read_bytes())
    if kind == "json" and file.suffix in (".json", ".jsonl"):
        lines = (
            [json.loads(line) for line in data.splitlines()]
            if file.suffix == ".jsonl"
            else [json.loads(data)]
        )
        which = int(rng.integers(len(lines)))
        if file.suffix == ".jsonl":
            lines[which] = mutate_json(rng, lines[which]["episode"])
            raw = [json.dumps(one["episode"] if n != which else one).encode() for n, one in enumerate(lines)]
            file.write_bytes(b"".join(seal(line) for line in raw))
        else:
            text = json.dumps(mutate_json(rng, lines[0]))
            file.write_text(text)
            if file.name == "zarr.json" and file.parent == path:
                (path / "zarr.backup.json").write_text(text)
    elif kind == "cut" and data:
        os.truncate(file, int(rng.integers(len(data))))
    elif kind == "gone":
        file.unlink()
    elif kind == "link":
        file.unlink()
        file.symlink_to([path.parent / "secret", "/dev/zero", file][rng.integers(3)])
    elif kind == "folder":
        file.unlink()
        file.mkdir()
    elif kind == "junk":
        file.write_bytes(rng.integers(0, 256, int(rng.integers(2000)), np.uint8).tobytes())
    elif kind == "nest":
        file.write_bytes(b"[" * 100_000)
    elif data:  # near the beginning, where it hurts, or anywhere
        for _ in range(int(rng.integers(1, 5))):
            at = int(rng.integers(min(len(data), 400) if rng.random() < 0.5 else len(data)))
            data[at] ^= 1 << int(rng.integers(8))
        file.write_bytes(data)
    return f"{kind} {file.relative_to(path)}"


@pytest.fixture
def memory() -> Iterator[Path]:
    """A folder in memory, where there is such a thing: thousands of small files are made and removed."""
    shared = "/dev/shm"
    with tempfile.TemporaryDirectory(dir=shared if os.access(shared, os.W_OK) else None) as folder:
        yield Path(folder)


def test_mutated_sets_are_read_or_refused(whole: Path, memory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The number is settable: REGRIP_MUTATIONS."""
    tmp_path = memory
    monkeypatch.setattr(os, "fsync", lambda _: None)  # the machine does not crash here, and the disk is slow
    secret = tmp_path / "secret"
    secret.write_bytes(b"private" * 10_000)
    refused = repaired = 0
    for seed in range(MUTATIONS):
        rng = np.random.default_rng(seed)
        path = tmp_path / "set"
        copy(whole, path)
        what = "; ".join(mutate(rng, path) for _ in range(1 + int(rng.random() < 0.2)) if any(path.iterdir()))
        before = sorted((str(p), p.lstat().st_mtime_ns) for p in path.rglob("*"))
        try:
            use(path)
        except DataError as error:
            refused += 1
            told(error)
        except BaseException as error:
            error.add_note(f"mutation {seed}: {what}")
            raise
        assert sorted((str(p), p.lstat().st_mtime_ns) for p in path.rglob("*")) == before, what
        try:
            repair(path, deep=True)
            use(path)
            repaired += 1
            assert [p for p in repair(path, deep=True) if p.repaired] == [], (seed, what)
        except DataError as error:
            told(error)
        except BaseException as error:
            error.add_note(f"repair of mutation {seed}: {what}")
            raise
        assert secret.read_bytes() == b"private" * 10_000
        shutil.rmtree(path)
    assert 0 < refused < MUTATIONS
    assert repaired > MUTATIONS / 2


def test_a_giant_shape_is_refused_before_anything_is_allocated(whole: Path, tmp_path: Path) -> None:
    path = tmp_path / "set"
    copy(whole, path)
    head = json.loads((path / "zarr.json").read_bytes())
    for stream in head["attributes"]["regrip"]["contents"]["streams"]:
        if stream["key"] == "action":
            stream["shape"] = [1 << 20, 1 << 20]
    for name in ("zarr.json", "zarr.backup.json"):
        (path / name).write_text(json.dumps(head))
    with pytest.raises(DataError, match="1 GiB at most"):
        Store(path)


def test_rows_beyond_the_file_are_refused_before_anything_is_allocated(whole: Path, tmp_path: Path) -> None:
    path = tmp_path / "set"
    copy(whole, path)
    lines = [json.loads(line)["episode"] for line in (path / "episodes.jsonl").read_bytes().splitlines()]
    lines[1]["spans"]["action"][1] = 1 << 40
    lines[1]["spans"][FRONT][1] = 1 << 40
    (path / "episodes.jsonl").write_bytes(b"".join(seal(json.dumps(line).encode()) for line in lines))
    store = Store(path)
    with pytest.raises(DataError) as raised:
        store[1]
    assert raised.value.episode == 1
    store[0]
    repair(path)
    with StoreWriter.record(path) as sink:
        sink.write(recording(OF, 3))
    assert Store(path).bounds("action").tolist() == [[0, 3], [3, 6]], (
        "a claim on rows that no file has is void"
    )


PLACES = [f"streams/{FRONT}/rows/c/0/0/0/0", "streams/action/rows/c/0/0", "episodes.jsonl", "streams"]


@pytest.mark.parametrize("place", PLACES)
def test_links_that_lead_out_are_not_followed(whole: Path, tmp_path: Path, place: str) -> None:
    """Even where they lead to a file that would do."""
    path = tmp_path / "set"
    copy(whole, path)
    (path / place).rename(tmp_path / "outside")
    (path / place).symlink_to(tmp_path / "outside")
    with pytest.raises(DataError, match="outside"):
        [list(track.rows) for track in Store(path)[0].streams.values()]


def test_a_pipe_in_place_of_a_file_does_not_hang(whole: Path, tmp_path: Path) -> None:
    path = tmp_path / "set"
    copy(whole, path)
    place = path / "streams/action/rows/c/0/0"
    place.unlink()
    os.mkfifo(place)
    with pytest.raises(DataError, match="no plain file"):
        Store(path)[0]


def test_contents_of_any_kind_survive_json() -> None:
    assert contents_from_json(json.loads(json.dumps(contents_to_json(OF)))) == OF
