"""Conversions: every pair of formats, killed, resumed, refused."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from recordings import FRONT, assert_same, contents, recording

from regrip.datasets.converting.convert import Job, convert, ledger_of, plan, read_ledger
from regrip.datasets.converting.mapping import SetMapping, StreamMapping, propose
from regrip.datasets.converting.verify import verify
from regrip.datasets.formats import WriteOptions, get_format, open_source
from regrip.datasets.ledger import DataError, Ledger
from regrip.datasets.recording import Conventions, Recording

PLACES = {
    "regrip": "s.zarr", "lerobot-v3": "v3", "lerobot-v2": "v2", "gr00t": "g", "rlds": "r",
    "robomimic": "m.hdf5", "libero": "l", "umi": "u.zarr", "rosbag2": "b",
}  # fmt: skip
NO_FILES = {"robomimic", "libero", "umi", "gr00t"}  # hold pixels or video, not image files


def a_set(path: Path, episodes: int = 3) -> list[Recording]:
    """A store of small episodes: one of one frame, tasks in other scripts."""
    of = contents(conventions=Conventions(action="delta", observed="before", orientation={FRONT: "upright"}))
    tasks = ["pick up the cup", "Öffne die Schublade", "把杯子放下"]
    made = [recording(of, [5, 1, 8][i % 3], i, tasks[i % 3]) for i in range(episodes)]
    for one in made:  # robomimic and LIBERO have actions of at most 1
        rows = one.streams["action"].rows
        assert isinstance(rows, np.ndarray)
        np.clip(rows, -1, 1, out=rows)
    create = get_format("regrip").create
    assert create is not None
    sink = create(path, of, WriteOptions(), Ledger())
    for one in made:
        sink.write(one)
    sink.close()
    return made


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Recording], dict[str, Path]]:
    """The same episodes in every format that is written, each converted from the store."""
    folder = tmp_path_factory.mktemp("sets")
    made = a_set(folder / "first.zarr")
    paths = {}
    for name, place in PLACES.items():
        paths[name] = folder / place
        convert(Job(folder / "first.zarr", name, paths[name]))
    return made, paths


@pytest.mark.parametrize(("a", "b"), list(itertools.product(PLACES, PLACES)))
def test_every_pair_of_formats_keeps_the_numbers_and_untouched_images(
    a: str, b: str, sets: tuple[list[Recording], dict[str, Path]], tmp_path: Path
) -> None:
    made, paths = sets
    job = Job(paths[a], b, tmp_path / PLACES[b], a)
    ledger = convert(job)
    first, second = job.open(), open_source(job.destination, b)
    found = verify(first, second, ledger, depth="all")
    assert not found.differences, [str(difference) for difference in found.differences]
    images = "none" if {a, b} & NO_FILES else "bytes"
    for index, want in enumerate(made):
        got = second[index]
        assert_same(got, want, time=1e-9, images=images)
        assert (got.success, got.task) == (want.success, want.task)
    assert read_ledger(job.destination) is not None
    first.close()
    second.close()


def test_what_the_ledger_does_not_name_is_found(tmp_path: Path) -> None:
    a_set(tmp_path / "a.zarr")
    source = open_source(tmp_path / "a.zarr")
    mapping = SetMapping(
        {
            **propose(source.contents).streams,
            "action": StreamMapping(("action",), scale=(1, 1, 1, 1, 1, 1, -1)),
        }
    )
    ledger = convert(Job(tmp_path / "a.zarr", "rlds", tmp_path / "b", mapping=mapping))
    turned = open_source(tmp_path / "b")
    found = verify(source, turned, Ledger())
    assert {d.key for d in found.differences} == {"action"}
    assert "largest error" in str(found.differences[0])
    assert [(loss.stream, loss.what) for loss in ledger.losses] == [("action", "computed")]
    assert not verify(source, turned, ledger).differences
    source.close()
    turned.close()


def test_a_dry_run_writes_nothing_and_says_what_video_would_cost(tmp_path: Path) -> None:
    a_set(tmp_path / "a.zarr")
    before = sorted(os.listdir(tmp_path))
    found = plan(Job(tmp_path / "a.zarr", "lerobot-v3", tmp_path / "b", options=WriteOptions("video")))
    assert sorted(os.listdir(tmp_path)) == before
    lost = [loss for loss in found.losses if loss.stream == FRONT and loss.what == "re-encoded"]
    assert any(15 < loss.measure.get("psnr_db", 0) < 60 for loss in lost)
    assert found.episodes == 3
    assert found.size > 0


def test_several_processes_write_the_same_set(tmp_path: Path) -> None:
    made = a_set(tmp_path / "a.zarr", 6)
    convert(Job(tmp_path / "a.zarr", "rlds", tmp_path / "b"), workers=2)
    source = open_source(tmp_path / "b")
    for index, want in enumerate(made):
        assert_same(source[index], want, time=1e-9)
    source.close()


CONVERT = """
import sys
from pathlib import Path
from regrip.datasets.converting.convert import Job, convert
import time
def slow(done, total, note):
    print(done, flush=True)
    time.sleep(0.2)
if __name__ == "__main__":
    convert(Job(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3])), progress=slow)
"""


@pytest.mark.parametrize("to", ["regrip", "lerobot-v3", "rlds", "robomimic"])
def test_a_conversion_killed_half_way_goes_on_and_is_never_taken_for_whole(to: str, tmp_path: Path) -> None:
    made = a_set(tmp_path / "a.zarr", 8)
    script = tmp_path / "convert.py"
    script.write_text(CONVERT)
    goal = tmp_path / PLACES[to]
    with subprocess.Popen(
        [sys.executable, str(script), str(tmp_path / "a.zarr"), to, str(goal)],
        stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    ) as process:  # fmt: skip
        assert process.stdout is not None
        for line in process.stdout:
            if int(line) >= 3:
                break
        process.send_signal(signal.SIGKILL)
    assert not goal.exists()
    with pytest.raises(DataError, match=r"cut off.*--resume"):
        convert(Job(tmp_path / "a.zarr", to, goal))
    with pytest.raises(DataError, match=r"another (format|options)"):
        convert(Job(tmp_path / "a.zarr", to, goal, options=WriteOptions("png")), resume=True)
    done: list[int] = []
    ledger = convert(
        Job(tmp_path / "a.zarr", to, goal), resume=True, progress=lambda i, n, note: done.append(i)
    )
    assert 0 < len(done) <= 8 - 2, "what was written before the kill was not written again"
    source = open_source(goal, to)
    assert len(source) == 8
    first = Job(tmp_path / "a.zarr", to, goal).open()
    assert not verify(first, source, ledger, depth="all").differences
    for index in (0, 3, 7):
        assert_same(source[index], made[index], time=1e-9, images="none")
    assert not [name for name in os.listdir(tmp_path) if name.endswith((".partial", ".conversion"))]
    source.close()
    first.close()


def test_the_ledger_lies_in_the_result_and_names_no_place_of_this_machine(tmp_path: Path) -> None:
    a_set(tmp_path / "a.zarr")
    convert(Job(tmp_path / "a.zarr", "robomimic", tmp_path / "m.hdf5"))
    said = json.loads(ledger_of(tmp_path / "m.hdf5").read_text())
    assert said["source"] == "a.zarr"
    assert str(tmp_path) not in json.dumps(said)
    assert {line["stream"] for line in said["losses"]} >= {FRONT}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"to": "rosbag1"}, "can be read, not written"),
        ({"to": "lerobot"}, "no format is called 'lerobot'"),
        ({"destination": "a.zarr"}, "is the source"),
        ({"destination": "a.zarr/inside"}, "is the source, or inside it"),
        ({"source": "nothing"}, "no such file"),
    ],
)
def test_what_cannot_be_converted_is_refused_before_anything_is_written(
    change: dict[str, str], message: str, tmp_path: Path
) -> None:
    a_set(tmp_path / "a.zarr")
    given = {"source": "a.zarr", "to": "rlds", "destination": "b"} | change
    job = Job(tmp_path / given["source"], given["to"], tmp_path / given["destination"])
    with pytest.raises(DataError, match=message):
        convert(job)
    assert sorted(os.listdir(tmp_path)) == ["a.zarr"]


def test_something_that_is_there_already_is_not_overwritten(tmp_path: Path) -> None:
    a_set(tmp_path / "a.zarr")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "precious").write_text("x")
    with pytest.raises(DataError, match="there already"):
        convert(Job(tmp_path / "a.zarr", "rlds", tmp_path / "b"))
    assert (tmp_path / "b" / "precious").read_text() == "x"
