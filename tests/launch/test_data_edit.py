"""`regrip data edit` and `merge`, on a store on disk."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from regrip.datasets.formats import WriteOptions, get_format, open_source
from regrip.datasets.ledger import DataError, Ledger
from regrip.datasets.recording import Contents, Recording, Track
from regrip.launch import data_edit, data_merge

from ..datasets.recordings import contents, recording


def write(path: Path, of: Contents, made: list[Recording]) -> Path:
    regrip = get_format("regrip")
    assert regrip.create is not None
    sink = regrip.create(path, of, WriteOptions(), Ledger())
    for one in made:
        sink.write(one)
    sink.close()
    return path


@pytest.fixture
def demos(tmp_path: Path) -> Path:
    """Ten episodes of 40 rows at 20 Hz; odd ones succeed; all stand still for their first second."""
    of = contents(wrist=False, size=(16, 24))
    made = []
    for seed in range(10):
        one = recording(of, 40, seed, f"task {seed % 3}")
        state = np.array(one.streams["observation.state"].rows)
        state[:20] = state[0]
        streams = {**one.streams, "observation.state": Track(state, one.streams["action"].time)}
        made.append(dataclasses.replace(one, streams=streams))
    return write(tmp_path / "demos", of, made)


def edit(*args: object) -> int:
    return data_edit.main([str(arg) for arg in args])


def test_an_edit_is_shown_and_written(
    demos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "good.view.yaml"
    line = ["--keep", "success=true", "--delete", "1", "--trim-idle", "--retask", "task 0=lift", "--out", out]
    assert edit(demos, *line, "--dry-run") == 0
    assert not out.exists()
    said = capsys.readouterr().out
    assert "4 of 10 episodes are cut, 6 left out: 0:3,4,6,8" in said
    assert "40 -> 21 rows" in said  # row 19, where the motion starts, to row 39
    assert edit(demos, *line) == 0
    assert f"written: {out} (4 episodes)" in " ".join(capsys.readouterr().out.split())
    view = open_source(out)
    assert [one.about["from"]["episode"] for one in map(view.__getitem__, range(4))] == [3, 5, 7, 9]
    assert view[0].task == "lift"
    assert view[0].num_steps == 21
    with pytest.raises(DataError, match="such a file already"):
        edit(demos, *line)


def test_numbers_are_those_of_the_set(demos: Path, tmp_path: Path) -> None:
    out = tmp_path / "x.view.yaml"
    assert (
        edit(demos, "--keep", "0:6", "1:", "success=true", "--delete", "1", "task=task 2", "--out", out) == 0
    )
    view = open_source(out)
    assert [view[i].about["from"]["episode"] for i in range(len(view))] == [3]  # of 3 and 5, 5 is of task 2


def test_a_split_is_written_as_one_view_for_each_part(demos: Path, tmp_path: Path) -> None:
    assert (
        edit(demos, "--split", "train=0.8", "val=rest", "--seed", 4, "--out", tmp_path / "s.view.yaml") == 0
    )
    train, val = (open_source(tmp_path / f"s.{name}.view.yaml") for name in ("train", "val"))
    ids = [[part[i].about["from"]["episode"] for i in range(len(part))] for part in (train, val)]
    assert [len(each) for each in ids] == [8, 2]
    assert sorted(ids[0] + ids[1]) == list(range(10))
    assert train[0].about["split"] == "train"


def test_edits_of_streams(demos: Path, tmp_path: Path) -> None:
    out = tmp_path / "x.view.yaml"
    edit(
        demos, "--rename", "observation.state=proprio", "--select", "action=gripper,0:2", "--trim=-1s:",
        "--resample", 10, "--policy", "proprio=nearest", "--resize", "8x12", "--drop", "reward", "--out", out,
    )  # fmt: skip
    view = open_source(out)
    assert view.contents.streams["action"].names == ("gripper", "x", "y")
    assert view[0].num_steps == 10
    assert view.contents.streams["observation.images.front"].shape == (8, 12, 3)
    assert set(view[0].streams) == {"observation.images.front", "proprio", "action"}


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (["--retask", "task 9=x"], "did you mean 'task"),
        (["--resize", "224"], "HEIGHTxWIDTH"),
        (["--rename", "reward"], "left=right"),
        (["--idle-speed", "action=1"], "add --trim-idle"),
        (["--policy", "action=next"], "add --resample"),
        (["--trim", "40:"], "episode 0: nothing is left"),
        ([], "no edit was asked for"),
        (["--keep", "5:5"], "leaves no episode of 10"),
        (["--keep", "0:5", "--keep", "success=true"], "--keep is given twice"),
    ],
)
def test_a_wrong_line_is_explained(demos: Path, tmp_path: Path, line: list[str], words: str) -> None:
    out = tmp_path / "x.view.yaml"
    with pytest.raises(DataError, match=words):
        edit(demos, *line, "--out", out)
    assert not out.exists()
    with pytest.raises(DataError, match="add --out"):
        edit(demos, "--keep", "0")


def test_two_sets_are_merged(demos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    of = contents(wrist=False, size=(16, 24))
    action = dataclasses.replace(of.streams["action"], shape=(3,), names=("x", "y", "gripper"))
    streams = {("proprio" if k == "observation.state" else k): v for k, v in of.streams.items()}
    streams["proprio"] = dataclasses.replace(streams["proprio"], key="proprio")
    other = dataclasses.replace(of, streams={**streams, "action": action})
    second = write(tmp_path / "other", other, [recording(other, 5)])
    out = tmp_path / "both.view.yaml"
    with pytest.raises(DataError, match=r"entries of action: \(7,\) .* in demos, \(3,\) .* in other"):
        data_merge.main([str(demos), str(second), "--out", str(out)])
    line = [str(demos), str(second), "--map", "2:proprio=observation.state", "--pad", "action"]
    assert data_merge.main([*line, "--out", str(out)]) == 0
    assert "written" in capsys.readouterr().out
    view = open_source(out)
    assert len(view) == 11
    valid = np.asarray(view[10].streams["action.valid"].rows)
    np.testing.assert_array_equal(valid[0], [1, 1, 0, 0, 0, 0, 1])
    assert "observation.state" in view[10].streams
    assert view[10].about["from"] == {"set": "other", "episode": 0}
