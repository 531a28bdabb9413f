"""LeRobot sets that we write: they read back equal, are laid out as LeRobot's, and survive a kill."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from recordings import FRONT, WRIST, assert_same, assert_set, contents, picture, recording, recordings, uneven

from regrip.datasets.formats import WriteOptions, get_format
from regrip.datasets.formats.lerobot_layout import Layout
from regrip.datasets.formats.lerobot_sink import LeRobotSink
from regrip.datasets.frames import ArrayFrames, EncodedFrames, encode_png, psnr
from regrip.datasets.ledger import DataError, Ledger
from regrip.datasets.recording import Contents, Conventions, Gripper, Recording, StreamSpec, Track
from regrip.datasets.video import VideoFrames, probe_video

FORMATS = ["lerobot-v3", "lerobot-v2"]


def write(
    path: Path, of: Contents, made: list[Recording], name: str = "lerobot-v3", **how: Any
) -> tuple[Any, Ledger]:
    """The set, opened again, and what was lost."""
    ledger = Ledger()
    sink = get_format(name).create(path, of, WriteOptions(**how), ledger)  # type: ignore[misc]
    for one in made:
        sink.write(one)
    sink.close()
    assert get_format(name).detect(path)
    return get_format(name).open(path), ledger


@pytest.mark.parametrize("name", FORMATS)
@settings(max_examples=12, deadline=None)
@given(drawn=recordings())
def test_round_trip(name: str, drawn: tuple[Contents, list[Recording]]) -> None:
    of, made = drawn
    with tempfile.TemporaryDirectory() as folder:
        source, ledger = write(Path(folder) / "set", of, made, name)
        assert not source.problems
        assert source.contents.robot == of.robot
        assert_set(source, of, made)
        for index, want in enumerate(made):
            got = source[index]
            assert (got.success, got.terminated, got.truncated) == (
                want.success,
                want.terminated,
                want.truncated,
            )
            assert source.num_rows(index) == dict.fromkeys(want.streams, want.num_steps)
        padded = {loss.stream for loss in ledger.losses if loss.what == "padded"}
        assert padded == {WRIST for one in made if WRIST not in one.streams and WRIST in of.streams}
        source.close()


@pytest.mark.parametrize("name", FORMATS)
def test_round_trip_as_video(tmp_path: Path, name: str) -> None:
    of = contents()
    made = [recording(of, n, seed=n) for n in (6, 1, 9)]
    source, ledger = write(tmp_path / "set", of, made, name, images="video", video_codec="libx264", crf=12)
    assert_set(source, of, made, images="none")
    worst = min(
        psnr(got, want)
        for index, one in enumerate(made)
        for got, want in zip(source[index].streams[FRONT].rows, one.streams[FRONT].rows, strict=True)
    )
    said = next(loss for loss in ledger.losses if loss.stream == FRONT)
    assert (said.what, said.episodes, said.rows) == ("re-encoded", 3, 16)
    assert worst == pytest.approx(said.measure["psnr_db"], abs=3)
    assert worst > 26


def test_video_is_copied_between_the_versions(tmp_path: Path) -> None:
    of = contents(wrist=False)
    made = [recording(of, n, seed=n) for n in (6, 2, 8)]
    first, _ = write(tmp_path / "v21", of, made, "lerobot-v2", images="video", video_codec="libx264")
    copies = [first[i] for i in range(3)]
    joined, ledger = write(tmp_path / "v3", first.contents, copies, "lerobot-v3")
    assert not [loss for loss in ledger.losses if loss.what == "re-encoded"]
    assert len(list((tmp_path / "v3/videos").rglob("*.mp4"))) == 1
    back, ledger = write(tmp_path / "again", joined.contents, [joined[i] for i in range(3)], "lerobot-v2")
    assert not [loss for loss in ledger.losses if loss.what == "re-encoded"]
    for index in range(3):
        assert_same(joined[index], copies[index], images="pixels")
        assert_same(back[index], copies[index], images="pixels")


def test_a_clip_that_begins_between_keyframes_is_encoded_again_and_says_so(tmp_path: Path) -> None:
    from regrip.datasets.video_write import encode_video

    of = contents(wrist=False, size=(32, 48))
    images = [picture(0) // 2 + np.uint8(i) for i in range(20)]  # alike, or the encoder cuts scenes
    encode_video(images, tmp_path / "long.mp4", 20, "libx264", gop=20)
    spec = dataclasses.replace(of.streams[FRONT], about={"codec": "h264"})
    of = dataclasses.replace(of, streams={**of.streams, FRONT: spec})
    one = recording(of, 5)
    clip = VideoFrames(tmp_path / "long.mp4", 5, 20, (32, 48, 3), start_s=7 / 20)
    one = dataclasses.replace(one, streams={**one.streams, FRONT: Track(clip, one.streams[FRONT].time)})
    source, ledger = write(tmp_path / "set", of, [one], video_codec="libx264")
    said = next(loss for loss in ledger.losses if loss.stream == FRONT)
    assert "keyframe" in said.detail
    got = list(source[0].streams[FRONT].rows)
    assert said.measure["psnr_db"] == pytest.approx(min(map(psnr, got, clip)), abs=3)


@pytest.mark.parametrize("name", FORMATS)
def test_capture_times_come_back_and_the_loss_is_named(tmp_path: Path, name: str) -> None:
    of = contents(wrist=False)
    made = [recording(of, 5), recording(of, 4, seed=1)]
    time = np.array([0.25, 0.31, 0.34, 0.41, 0.45])
    late = {key: Track(track.rows, time) for key, track in made[0].streams.items()}
    made[0] = dataclasses.replace(made[0], streams=late)
    source, ledger = write(tmp_path / "set", of, made, name)
    assert_set(source, of, made)
    said = next(loss for loss in ledger.losses if loss.what == "time")
    # less the start of 0.25 s the times are at most 0.01 s from k / 20; the start itself is the most
    assert said.measure["max_error"] == pytest.approx(0.25)
    stamps = pq.read_table(min((tmp_path / "set/data").rglob("*.parquet")))["timestamp"].to_numpy()
    np.testing.assert_array_equal(stamps[:5], (np.arange(5) / 20).astype(np.float32))


def test_what_only_regrip_knows_comes_back(tmp_path: Path) -> None:
    gripper = Gripper("action", 6, "binary", -1.0, 1.0)
    of = contents(
        wrist=False, conventions=Conventions(action="delta", grippers=(gripper,)), about={"lab": "x"}
    )
    one = recording(of, 3, began_ns=1_700_000_000_000_000_000, about={"operator": "Zoë", "seed": 7})
    source, _ = write(tmp_path / "set", of, [one])
    assert source.contents.conventions == of.conventions
    assert source.contents.about == {"lab": "x"}
    got = source[0]
    assert (got.began_ns, got.about) == (one.began_ns, one.about)


@pytest.mark.parametrize("name", FORMATS)
def test_tasks_that_change_inside_an_episode(tmp_path: Path, name: str) -> None:
    of = contents(wrist=False)
    of = dataclasses.replace(of, streams={**of.streams, "task": StreamSpec("task", "text", "str", ())})
    one = recording(of, 5, task="öffnen")
    words = ["öffnen", "öffnen", "", "抓", "öffnen"]
    one = dataclasses.replace(one, streams={**one.streams, "task": Track(words, one.streams["action"].time)})
    two = recording(dataclasses.replace(of, streams=contents(wrist=False).streams), 3, seed=1, task="")
    source, _ = write(tmp_path / "set", of, [one, two], name)
    assert_same(source[0], one)
    assert_same(source[1], two)
    bare = strip(tmp_path / "set")
    got = get_format(name).open(bare)[0]
    assert list(got.streams["task"].rows) == words


def strip(path: Path) -> Path:
    """The set without our side files: what LeRobot's own readers see."""
    for file in (path / "meta").glob("regrip*"):
        file.unlink()
    return path


def shapes() -> Contents:
    kinds = {
        "scalar": ("float32", ()),
        "one": ("float64", (1,)),
        "flag": ("bool", ()),
        "flags": ("bool", (3,)),
        "half": ("float16", (2,)),
        "wide": ("uint64", ()),
        "small": ("int8", (4,)),
        "matrix": ("float64", (2, 3)),
        "cube": ("int32", (2, 2, 2)),
    }
    streams = {k: StreamSpec(k, "vector", d, s, rate_hz=10) for k, (d, s) in kinds.items()}
    streams["words"] = StreamSpec("words", "text", "str", (), rate_hz=10)
    return Contents(streams, 10)


@pytest.mark.parametrize("name", FORMATS)
@settings(max_examples=8, deadline=None)
@given(data=st.data())
def test_every_type_and_shape(name: str, data: st.DataObject) -> None:
    of = shapes()
    made = []
    for steps in (1, 4):
        streams = {}
        for key, spec in of.streams.items():
            if spec.kind == "text":
                rows: Any = [
                    data.draw(st.text(st.characters(exclude_categories=["Cs"]))) for _ in range(steps)
                ]
            else:
                size = steps * int(np.prod(spec.shape)) * np.dtype(spec.dtype).itemsize
                raw = np.frombuffer(data.draw(st.binary(min_size=size, max_size=size)), np.uint8)
                raw = raw % 2 if spec.dtype == "bool" else raw
                rows = raw.view(spec.dtype).reshape(steps, *spec.shape)
            streams[key] = Track(rows, np.arange(steps) / 10)
        made.append(Recording(streams, "t"))
    with tempfile.TemporaryDirectory() as folder:
        source, _ = write(Path(folder) / "set", of, made, name)
        assert_set(source, of, made)
        source.close()


def test_layout_of_v3(tmp_path: Path) -> None:
    """Section by section of the format's description."""
    of = contents(wrist=False)
    made = [recording(of, n, seed=n, task=f"task {n % 2}") for n in (5, 1, 8)]
    write(tmp_path / "set", of, made, images="video", video_codec="libx264")
    meta = tmp_path / "set/meta"
    info = json.loads((meta / "info.json").read_text())
    assert info["codebase_version"] == "v3.0"
    assert (info["total_episodes"], info["total_frames"], info["total_tasks"]) == (3, 14, 2)
    assert (info["fps"], info["splits"], info["robot_type"]) == (20, {"train": "0:3"}, "panda")
    assert "total_videos" not in info
    assert "total_chunks" not in info
    assert info["features"][FRONT]["info"]["video.codec"] == "h264"
    assert info["features"][FRONT]["names"] == ["height", "width", "channels"]
    assert info["features"]["action"]["names"] == ["x", "y", "z", "rx", "ry", "rz", "gripper"]
    data = pq.ParquetFile(tmp_path / "set/data/chunk-000/file-000.parquet")
    assert [data.metadata.row_group(i).num_rows for i in range(data.num_row_groups)] == [5, 1, 8]
    assert FRONT not in data.schema_arrow.names
    table = data.read()
    assert table["index"].to_pylist() == list(range(14))
    assert table["frame_index"].to_pylist() == [*range(5), 0, *range(8)]
    assert str(table.schema.field("timestamp").type) == "float"
    assert str(table.schema.field("action").type).startswith("fixed_size_list<")
    rows = pq.read_table(meta / "episodes/chunk-000/file-000.parquet").to_pylist()
    assert [row["dataset_from_index"] for row in rows] == [0, 5, 6]
    assert [row[f"videos/{FRONT}/from_timestamp"] for row in rows] == [0, 5 / 20, 6 / 20]
    assert rows[2][f"videos/{FRONT}/to_timestamp"] == 14 / 20
    assert np.shape(rows[0][f"stats/{FRONT}/mean"]) == (3, 1, 1)
    tasks = pq.read_table(meta / "tasks.parquet")
    assert tasks.column_names == ["task_index", "task"]
    assert json.loads(tasks.schema.metadata[b"pandas"])["index_columns"] == ["task"]
    assert not list((tmp_path / "set").glob(".*"))
    assert probe_video(tmp_path / f"set/videos/{FRONT}/chunk-000/file-000.mp4").frames == 14


def test_statistics_are_of_all_rows(tmp_path: Path) -> None:
    of = contents(wrist=False)
    made = [recording(of, n, seed=n) for n in (13, 40, 3)]
    write(tmp_path / "set", of, made)
    stats = json.loads((tmp_path / "set/meta/stats.json").read_text())
    action = np.concatenate([one.streams["action"].rows for one in made]).astype(np.float64)
    np.testing.assert_allclose(stats["action"]["mean"], action.mean(0))
    np.testing.assert_allclose(stats["action"]["std"], action.std(0))
    np.testing.assert_allclose(stats["action"]["q99"], np.quantile(action, 0.99, axis=0))
    assert stats["action"]["count"] == [56]
    pixels = np.concatenate([np.stack(list(one.streams[FRONT].rows)) for one in made]) / 255
    np.testing.assert_allclose(np.ravel(stats[FRONT]["mean"]), pixels.mean((0, 1, 2)))
    np.testing.assert_allclose(np.ravel(stats[FRONT]["std"]), pixels.std((0, 1, 2)))
    assert set(stats) == set(json.loads((tmp_path / "set/meta/info.json").read_text())["features"])


def test_files_rotate_by_size(tmp_path: Path) -> None:
    of = contents(wrist=False)
    made = [recording(of, 6, seed=i) for i in range(7)]
    options = WriteOptions(images="video", video_codec="libx264")
    sink = LeRobotSink(
        tmp_path / "set", Layout(of, options), Ledger(), version=3, data_mb=0.006, video_mb=0.005
    )
    for one in made:
        sink.write(one)
    sink.close()
    assert len(list((tmp_path / "set/data").rglob("*.parquet"))) > 2
    assert len(list((tmp_path / "set/videos").rglob("*.mp4"))) > 2
    episodes = tmp_path / "set/meta/episodes/chunk-000"
    rows = [row for file in sorted(episodes.iterdir()) for row in pq.read_table(file).to_pylist()]
    assert [row["episode_index"] for row in rows] == list(range(7))
    assert_set(get_format("lerobot-v3").open(tmp_path / "set"), of, made, images="none")


def test_names_with_slashes_are_renamed_and_come_back(tmp_path: Path) -> None:
    spec = StreamSpec("robot/joint", "vector", "float32", (2,), rate_hz=20)
    of = Contents({spec.key: spec}, 20)
    one = Recording({spec.key: Track(np.ones((3, 2), np.float32), np.arange(3) / 20)}, "t")
    source, _ = write(tmp_path / "set", of, [one])
    assert_set(source, of, [one])
    assert "robot.joint" in json.loads((tmp_path / "set/meta/info.json").read_text())["features"]
    planned = get_format("lerobot-v3").plan(of, WriteOptions())  # type: ignore[misc]
    assert [loss.what for loss in planned] == ["renamed"]


def test_odd_sizes_become_images_not_other_sizes(tmp_path: Path) -> None:
    of = contents(wrist=False, size=(31, 47))
    raw = dataclasses.replace(of.streams[FRONT], about={"codec": "raw"})
    of = dataclasses.replace(of, streams={**of.streams, FRONT: raw})
    one = recording(of, 3, codec="raw")
    source, ledger = write(tmp_path / "set", of, [one])
    assert_set(source, of, [one], images="pixels")
    assert "without loss" in ledger.losses[0].detail
    with pytest.raises(DataError, match="even"):
        get_format("lerobot-v3").plan(of, WriteOptions(images="video"))  # type: ignore[misc]


def test_a_missing_camera_is_black_and_marked(tmp_path: Path) -> None:
    of = contents()
    made = [recording(of, 4), recording(of, 3, seed=1, lacks=(WRIST,))]
    source, ledger = write(tmp_path / "set", of, made, images="video", video_codec="libx264")
    assert WRIST not in source[1].streams
    assert ("padded", 3) in [(loss.what, loss.rows) for loss in ledger.losses]
    rows = pq.read_table(tmp_path / "set/meta/episodes/chunk-000/file-000.parquet").to_pylist()
    assert [row[f"valid/{WRIST}"] for row in rows] == [True, False]
    plain = get_format("lerobot-v3").open(strip(tmp_path / "set"))[1].streams[WRIST].rows
    assert max(image.max() for image in plain) < 5


@pytest.mark.parametrize("name", FORMATS)
def test_long_episodes_keep_their_rows_apart(tmp_path: Path, name: str) -> None:
    """At 50 Hz a float32 time cannot tell neighbours 1e-4 s apart after some minutes; rows are the truth."""
    of = Contents({"action": StreamSpec("action", "vector", "float32", (1,), rate_hz=50)}, 50)
    steps = 200_000
    one = Recording({"action": Track(np.zeros((steps, 1), np.float32), np.arange(steps) / 50)}, "t")
    source, ledger = write(tmp_path / "set", of, [one], name)
    assert not ledger.losses
    got = get_format(name).open(strip(tmp_path / "set"))
    np.testing.assert_array_equal(got[0].streams["action"].time, np.arange(steps) / 50)
    assert not got.problems
    assert np.array_equal(source[0].streams["action"].time, one.streams["action"].time)


def test_what_lerobot_cannot_hold_is_refused_with_a_remedy(tmp_path: Path) -> None:
    of = contents(wrist=False)
    create = get_format("lerobot-v3").create
    assert create is not None

    def sink(what: Contents = of) -> Any:
        return create(tmp_path / "set", what, WriteOptions(), Ledger())

    for bad, words in (
        (dataclasses.replace(of, rate_hz=None), "rate"),
        (dataclasses.replace(of, rate_hz=12.5), "whole number"),
        (Contents({"index": StreamSpec("index", "vector", "int64", ())}, 20), "rename"),
        (Contents({"..": StreamSpec("..", "vector", "int64", ())}, 20), "name"),
        (Contents({"a/b": of.streams["action"], "a.b": of.streams["action"]}, 20), "both called"),
    ):
        streams = {k: dataclasses.replace(s, key=k) for k, s in bad.streams.items()}
        with pytest.raises(DataError, match=words) as error:
            sink(dataclasses.replace(bad, streams=streams))
        assert error.value.remedy
    good = recording(of, 4)
    one = sink()
    for wrong, words in (
        (uneven(good, 3), "clocks"),
        (Recording({}, "t"), "no rows"),
        (recording(of, 4, lacks=("action",)), "lacks this stream"),
        (recording(contents(), 4), WRIST),
    ):
        with pytest.raises(DataError, match=words):
            one.write(wrong)
    small = EncodedFrames([encode_png(picture(i, 16, 16)) for i in range(4)], (16, 16, 3))
    odd = dataclasses.replace(good, streams={**good.streams, FRONT: Track(small, good.streams[FRONT].time)})
    with pytest.raises(DataError, match="16 x 16") as error:
        one.write(odd)
    assert error.value.key == FRONT
    one.write(good)
    one.close()
    with pytest.raises(DataError, match="exists"):
        sink()


def test_two_writers_of_one_set(tmp_path: Path) -> None:
    of = contents(wrist=False)
    create = get_format("lerobot-v2").create
    assert create is not None
    first = create(tmp_path / "set", of, WriteOptions(), Ledger())
    with pytest.raises(DataError, match="another process"):
        create(tmp_path / "set", of, WriteOptions(), Ledger())
    first.abandon()
    with pytest.raises(DataError, match="begun with other"):
        create(tmp_path / "set", contents(), WriteOptions(), Ledger())
    create(tmp_path / "set", of, WriteOptions(), Ledger()).abandon()


def test_prepared_elsewhere(tmp_path: Path) -> None:
    """As the converter does it: images in a worker, the rest in the sink."""
    import pickle

    of = contents()
    made = [recording(of, n, seed=n, lacks=(WRIST,) if n == 3 else ()) for n in (5, 3)]
    form, options, ledger = (
        get_format("lerobot-v3"),
        WriteOptions(images="video", video_codec="libx264"),
        Ledger(),
    )
    assert form.create is not None
    assert form.prepare is not None
    sink = form.create(tmp_path / "set", of, options, ledger)
    for index, one in enumerate(made):
        folder = tmp_path / f"work{index}"
        folder.mkdir()
        sink.write(pickle.loads(pickle.dumps(form.prepare(one, of, options, folder, ledger))))
    sink.close()
    assert_set(form.open(tmp_path / "set"), of, made, images="none")
    assert sum(loss.rows for loss in ledger.losses if loss.what == "re-encoded") == 8 + 5 + 3


KILLED = """
import os, sys
from pathlib import Path
sys.path[:0] = {path!r}
from recordings import contents, recording
from regrip.datasets.formats import WriteOptions, get_format
from regrip.datasets.ledger import Ledger
of = contents(wrist=False)
options = WriteOptions(images="video", video_codec="libx264")
sink = get_format({name!r}).create(Path({folder!r}), of, options, Ledger())
print(sink.done, flush=True)
for i in range(sink.done, 10**6):
    sink.write(recording(of, 5, seed=i))
    print(i + 1, flush=True)
"""


@pytest.mark.parametrize("name", FORMATS)
def test_a_killed_process_loses_only_the_open_episode(tmp_path: Path, name: str) -> None:
    paths = [str(Path(__file__).parent), *(p for p in sys.path if p.endswith("src"))]
    code = KILLED.format(path=paths, name=name, folder=str(tmp_path / "set"))
    done = 0
    for _ in range(2):
        child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        assert child.stdout is not None
        lines = [int(child.stdout.readline()) for _ in range(4)]
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
        child.stdout.close()
        assert lines[0] >= done
        done = lines[-1]
        assert not (tmp_path / "set").exists()
    of = contents(wrist=False)
    ledger = Ledger()
    options = WriteOptions(images="video", video_codec="libx264")
    sink = get_format(name).create(tmp_path / "set", of, options, ledger)  # type: ignore[misc]
    assert sink.done >= done
    made = [recording(of, 5, seed=i) for i in range(sink.done + 2)]
    for one in made[sink.done :]:
        sink.write(one)
    sink.close()
    source = get_format(name).open(tmp_path / "set")
    assert_set(source, of, made, images="none")
    for index, one in enumerate(made):
        both = zip(source[index].streams[FRONT].rows, one.streams[FRONT].rows, strict=True)
        assert all(psnr(got, want) > 20 for got, want in both)
    assert next(loss for loss in ledger.losses if loss.stream == FRONT).episodes == len(made)


def test_close_can_be_killed_and_done_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    of = contents(wrist=False)
    made = [recording(of, 4, seed=i) for i in range(4)]
    create = get_format("lerobot-v3").create
    assert create is not None
    options = WriteOptions(images="video", video_codec="libx264")
    sink = create(tmp_path / "set", of, options, Ledger())
    for one in made[:3]:
        sink.write(one)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", killed)
        with pytest.raises(KeyboardInterrupt):
            sink.close()
    sink.abandon()
    assert not (tmp_path / "set").exists()
    again = create(tmp_path / "set", of, options, Ledger())
    assert again.done == 3
    again.write(made[3])
    again.close()
    assert_set(get_format("lerobot-v3").open(tmp_path / "set"), of, made, images="none")


def test_lossless_depth_and_raw_images(tmp_path: Path) -> None:
    depth = StreamSpec(
        "observation.depth.front", "depth", "float32", (17, 9), rate_hz=20, about={"unit": "m"}
    )
    of = Contents({depth.key: depth}, 20)
    rows = np.random.default_rng(0).random((3, 17, 9)).astype(np.float32)
    one = Recording({depth.key: Track(ArrayFrames(rows), np.arange(3) / 20)}, "t")
    source, _ = write(tmp_path / "set", of, [one])
    assert_set(source, of, [one])
    plain = get_format("lerobot-v3").open(strip(tmp_path / "set"))
    assert plain.contents.streams[depth.key].dtype == "float32"
    assert plain.contents.streams[depth.key].about["unit"] == "m"
