"""GR00T sets: parts are half-open slices, annotations point at tasks, videos have names of their own."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from recordings import FRONT, assert_same, assert_set, contents, recording
from test_lerobot import strip, write

from regrip.datasets.formats import WriteOptions, get_format
from regrip.datasets.ledger import DataError, Ledger
from regrip.datasets.recording import Contents, Conventions, Gripper, Recording, StreamSpec, Track

OPTIONS = {"video_codec": "libx264"}


def made_of(of: Contents, count: int = 2) -> list[Recording]:
    return [recording(of, 4 + i, seed=i, task=f"task {i}") for i in range(count)]


def modality(path: Path) -> dict[str, dict[str, dict[str, object]]]:
    found: dict[str, dict[str, dict[str, object]]] = json.loads((path / "meta/modality.json").read_text())
    return found


def test_what_we_write(tmp_path: Path) -> None:
    grippers = (Gripper("action", 6, "binary", -1, 1), Gripper("observation.state", 3, "width", 0.08, 0, "m"))
    of = contents(conventions=Conventions(grippers=grippers))
    source, _ = write(tmp_path / "set", of, made_of(of), "gr00t", **OPTIONS)
    assert not get_format("lerobot-v2").detect(tmp_path / "set")
    assert_set(source, of, made_of(of), images="none")
    found = modality(tmp_path / "set")
    assert found["action"] == {"arm": {"start": 0, "end": 6}, "gripper": {"start": 6, "end": 7}}
    assert found["state"] == {
        "arm": {"start": 0, "end": 3},
        "gripper": {"start": 3, "end": 4},
        "arm_2": {"start": 4, "end": 8},
    }
    assert found["video"]["front"] == {"original_key": FRONT}
    assert found["annotation"] == {"human.task_description": {"original_key": "task_index"}}
    info = json.loads((tmp_path / "set/meta/info.json").read_text())
    assert info["codebase_version"] == "v2.1"
    assert (info["total_videos"], info["total_chunks"]) == (4, 1)
    assert info["features"][FRONT]["dtype"] == "video"
    stats = json.loads((tmp_path / "set/meta/stats.json").read_text())
    rows = np.concatenate([one.streams["action"].rows for one in made_of(of)]).astype(np.float64)
    np.testing.assert_allclose(stats["action"]["q01"], np.quantile(rows, 0.01, axis=0))


def annotated() -> tuple[Contents, Recording]:
    key = "annotation.human.action.task_description"
    of = contents(wrist=False)
    of = dataclasses.replace(of, streams={**of.streams, key: StreamSpec(key, "text", "str", ())})
    one = recording(contents(wrist=False), 5, task="tidy up")
    words = ["pick", "pick", "", "plaçe", "plaçe"]
    time = one.streams["action"].time
    return of, dataclasses.replace(one, streams={**one.streams, key: Track(words, time)})


def test_annotations_are_indices_of_tasks(tmp_path: Path) -> None:
    of, one = annotated()
    key = "annotation.human.action.task_description"
    source, _ = write(tmp_path / "set", of, [one], "gr00t", **OPTIONS)
    assert_set(source, of, [one], images="none")
    column = pq.read_table(tmp_path / "set/data/chunk-000/episode_000000.parquet")[key]
    lines = (tmp_path / "set/meta/tasks.jsonl").read_text().splitlines()
    tasks = [json.loads(line)["task"] for line in lines]
    assert [tasks[i] for i in column.to_pylist()] == ["pick", "pick", "", "plaçe", "plaçe"]
    got = get_format("gr00t").open(strip(tmp_path / "set"))
    assert list(got[0].streams[key].rows) == ["pick", "pick", "", "plaçe", "plaçe"]
    assert got[0].task == "tidy up"
    again, _ = write(tmp_path / "again", got.contents, [got[0]], "gr00t", **OPTIONS)
    assert_same(again[0], got[0], images="pixels")


def test_a_set_of_theirs(tmp_path: Path) -> None:
    """Parts in any order, `original_key`, no names, one part that does not fit."""
    spec = StreamSpec("observation.state", "vector", "float64", (5,), rate_hz=20)
    extra = StreamSpec("observation.tactile", "vector", "float32", (2,), rate_hz=20)
    of = contents(wrist=False)
    of = dataclasses.replace(of, streams={FRONT: of.streams[FRONT], spec.key: spec, extra.key: extra})
    source, _ = write(tmp_path / "set", of, [recording(of, 3)], "gr00t", **OPTIONS)
    path = strip(tmp_path / "set")
    info = json.loads((path / "meta/info.json").read_text())
    info["features"][spec.key]["names"] = None
    (path / "meta/info.json").write_text(json.dumps(info))
    theirs = {
        "state": {
            "gripper": {"start": 3, "end": 5},
            "arm": {"start": 0, "end": 3, "rotation_type": "axis_angle"},
            "skin": {"start": 0, "end": 2, "original_key": extra.key},
            "tail": {"start": 4, "end": 9},
        },
        "action": {"arm": {"start": 0, "end": 3}},
        "video": {"ego_view": {"original_key": FRONT}},
        "annotation": {"human.task_description": {"original_key": "task_index"}},
    }
    (path / "meta/modality.json").write_text(json.dumps(theirs))
    source = get_format("gr00t").open(path)
    state = source.contents.streams[spec.key]
    assert state.names == ("arm.0", "arm.1", "arm.2", "gripper.0", "gripper.1")
    assert state.about["parts"]["arm"]["rotation_type"] == "axis_angle"
    assert source.contents.streams[extra.key].about["parts"] == {"skin": theirs["state"]["skin"]}
    problems = "\n".join(map(str, source.problems))
    assert "tail is 4..9 of 5" in problems
    assert "which the set does not have" in problems
    again, _ = write(tmp_path / "again", source.contents, [source[0]], "gr00t", **OPTIONS)
    found = modality(tmp_path / "again")
    assert found["state"] == {k: v for k, v in theirs["state"].items() if k != "tail"}
    assert found["video"] == theirs["video"]
    assert_same(again[0], source[0], images="pixels")


def test_an_index_that_points_nowhere(tmp_path: Path) -> None:
    of, one = annotated()
    key = "annotation.human.action.task_description"
    write(tmp_path / "set", of, [one], "gr00t", **OPTIONS)
    file = tmp_path / "set/data/chunk-000/episode_000000.parquet"
    table = pq.read_table(file)
    at = table.column_names.index(key)
    pq.write_table(table.set_column(at, key, pa.array([1, 1, 2, 99, 0])), file)
    with pytest.raises(DataError, match="task 99") as error:
        get_format("gr00t").open(tmp_path / "set")[0]
    assert (error.value.frame, error.value.key) == (3, key)


def test_images_must_be_videos(tmp_path: Path) -> None:
    form = get_format("gr00t")
    assert form.create is not None
    with pytest.raises(DataError, match="videos"):
        form.create(tmp_path / "set", contents(), WriteOptions(images="png"), Ledger())
    with pytest.raises(DataError, match="even"):
        form.create(tmp_path / "set", contents(size=(31, 48)), WriteOptions(), Ledger())


@pytest.mark.parametrize("text", ["[]", "{", '{"state": 3, "video": {"a": 7}}', '{"state": {"arm": null}}'])
def test_hostile_modality(tmp_path: Path, text: str) -> None:
    of = contents(wrist=False)
    write(tmp_path / "set", of, made_of(of, 1), "gr00t", **OPTIONS)
    (tmp_path / "set/meta/modality.json").write_text(text)
    try:
        source = get_format("gr00t").open(tmp_path / "set")
    except DataError:
        return
    assert source.problems
    assert source[0].num_steps == 4
