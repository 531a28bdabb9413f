"""LeRobot sets as they lie about: old forms and damage, read, repaired where certain, and reported."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from recordings import FRONT, contents, picture, recording
from test_lerobot import FORMATS, strip, write
from test_video import write_depth

from regrip.datasets.converting.aliases import ALIASES, renames
from regrip.datasets.formats import get_format
from regrip.datasets.formats.lerobot_rows import image_column
from regrip.datasets.frames import encode_jpeg
from regrip.datasets.ledger import DataError
from regrip.datasets.recording import Recording
from regrip.datasets.video import DepthCode
from regrip.datasets.video_write import encode_video


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Each format with videos and with images, as LeRobot writes it: three episodes of two tasks."""
    folder = tmp_path_factory.mktemp("sets")
    of = contents(wrist=False, size=(16, 24))
    made = episodes()
    found = {}
    for name in FORMATS:
        for images in ("video", "copy"):
            path = folder / f"{name}-{images}"
            write(path, of, made, name, images=images, video_codec="libx264")
            found[f"{name}-{images}"] = strip(path)
    return found


def episodes() -> list[Recording]:
    of = contents(wrist=False, size=(16, 24))
    return [recording(of, n, seed=n, task=f"task {n % 2}") for n in (5, 1, 4)]


@pytest.fixture
def copy(sets: dict[str, Path], tmp_path: Path) -> Callable[[str], Path]:
    def copied(name: str) -> Path:
        shutil.copytree(sets[name], tmp_path / "set")
        return tmp_path / "set"

    return copied


def edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    info = json.loads((path / "meta/info.json").read_text())
    change(info)
    (path / "meta/info.json").write_text(json.dumps(info))


def opened(path: Path) -> Any:
    name = json.loads((path / "meta/info.json").read_text())["codebase_version"]
    return get_format("lerobot-v3" if name.startswith("v3") else "lerobot-v2").open(path)


def said(source: Any) -> str:
    return "\n".join(map(str, source.problems))


def rewrite(file: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change columns of a parquet file."""
    table = pq.read_table(file)
    columns = {name: table[name] for name in table.column_names}
    change(columns)
    pq.write_table(pa.table(columns), file)


@pytest.mark.parametrize("name", FORMATS)
def test_a_set_that_lerobot_wrote_has_no_problems(copy: Any, name: str) -> None:
    source = opened(copy(f"{name}-video"))
    assert not source.problems
    assert source.contents.streams["action"].about["time"] == "nominal"
    assert [source[i].task for i in range(3)] == ["task 1", "task 1", "task 0"]
    for index, want in enumerate(episodes()):
        np.testing.assert_array_equal(source[index].streams["action"].rows, want.streams["action"].rows)
    assert source[0].success is None


@pytest.mark.parametrize(
    "names",
    [
        {"motors": [f"m{i}" for i in range(7)]},
        {"axes": [f"m{i}" for i in range(7)]},
        {f"m{i}": i for i in reversed(range(7))},
        [[f"m{i}" for i in range(7)]],
    ],
)
def test_names_of_every_old_form(copy: Any, names: Any) -> None:
    path = copy("lerobot-v2-video")
    edit(path, lambda info: info["features"]["action"].update(names=names))
    source = opened(path)
    assert source.contents.streams["action"].names == tuple(f"m{i}" for i in range(7))
    assert [p.repaired for p in source.problems if p.key == "action"] == [True]


def test_names_that_do_not_fit_are_left_out_and_reported(copy: Any) -> None:
    path = copy("lerobot-v3-video")
    edit(path, lambda info: info["features"]["action"].update(names=["a", "b"]))
    source = opened(path)
    assert source.contents.streams["action"].names == ()
    assert "expected 7 texts" in said(source)


@pytest.mark.parametrize("names", [["channels", "height", "width"], None])
def test_channels_first(copy: Any, names: Any) -> None:
    path = copy("lerobot-v2-video")
    edit(path, lambda info: info["features"][FRONT].update(names=names, shape=[3, 16, 24]))
    source = opened(path)
    assert source.contents.streams[FRONT].shape == (16, 24, 3)
    assert source[0].streams[FRONT].rows[3].shape == (16, 24, 3)
    assert "channels first" in said(source)


def test_names_that_say_channel_last_in_the_singular(copy: Any) -> None:
    path = copy("lerobot-v2-video")
    edit(path, lambda info: info["features"][FRONT].update(names=["height", "width", "channel"]))
    assert not opened(path).problems


def test_float_fps(copy: Any) -> None:
    path = copy("lerobot-v2-video")
    edit(path, lambda info: info.update(fps=20.0))
    source = opened(path)
    assert source.contents.rate_hz == 20
    assert len(list(source[0].streams[FRONT].rows)) == 5
    assert "20.0" in said(source)


def test_video_info_of_old(copy: Any) -> None:
    path = copy("lerobot-v2-video")
    edit(path, lambda info: info["features"][FRONT].update(video_info=info["features"][FRONT].pop("info")))
    source = opened(path)
    assert source.contents.streams[FRONT].about["codec"] == "h264"
    assert "video_info" in said(source)


def test_missing_statistics_and_v20(copy: Any) -> None:
    path = copy("lerobot-v2-video")
    (path / "meta/episodes_stats.jsonl").unlink()
    edit(path, lambda info: info.update(codebase_version="v2.0"))
    source = opened(path)
    assert "no statistics" in said(source)
    assert all(p.repaired for p in source.problems)
    assert len(source) == 3


@pytest.mark.parametrize("name", FORMATS)
def test_tasks_in_any_order(copy: Any, name: str) -> None:
    path = copy(f"{name}-copy")
    if name == "lerobot-v2":
        file = path / "meta/tasks.jsonl"
        file.write_text("\n".join(reversed(file.read_text().splitlines())) + "\n")
    else:
        table = pq.read_table(path / "meta/tasks.parquet").to_pydict()
        turned = {"task_index": table["task_index"][::-1], "__index_level_0__": table["task"][::-1]}
        pq.write_table(pa.table(turned), path / "meta/tasks.parquet")
    assert [opened(path)[i].task for i in range(3)] == ["task 1", "task 1", "task 0"]


def test_a_task_that_nobody_lists(copy: Any) -> None:
    path = copy("lerobot-v2-copy")
    file = path / "meta/tasks.jsonl"
    file.write_text(file.read_text().splitlines()[0] + "\n")
    with pytest.raises(DataError, match="task 1 of 1") as error:
        opened(path)[2]
    assert (error.value.episode, error.value.frame, error.value.key) == (2, 0, "task_index")


@pytest.mark.parametrize("name", FORMATS)
def test_orphaned_images(copy: Any, name: str) -> None:
    path = copy(f"{name}-video")
    (path / "images" / FRONT / "episode-000003").mkdir(parents=True)
    assert not opened(path).problems  # LeRobot leaves empty folders
    (path / "images" / FRONT / "episode-000003/frame-000000.png").touch()
    assert "interrupted" in said(opened(path))


def test_a_file_without_a_footer(copy: Any) -> None:
    path = copy("lerobot-v3-video")
    file = path / "data/chunk-000/file-001.parquet"
    whole = (path / "data/chunk-000/file-000.parquet").read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    source = opened(path)
    assert "finalize()" in said(source)
    assert source[2].num_steps == 4
    file.replace(path / "data/chunk-000/file-000.parquet")
    source = opened(path)
    assert len(source) == 0
    assert "no footer" in said(source)


def test_metadata_without_a_footer(copy: Any) -> None:
    path = copy("lerobot-v3-video")
    file = path / "meta/episodes/chunk-000/file-000.parquet"
    file.write_bytes(file.read_bytes()[:-200])
    with pytest.raises(DataError, match="footer"):
        opened(path)


@pytest.mark.parametrize("name", FORMATS)
def test_a_video_that_is_too_short_is_reported_and_its_numbers_are_read(copy: Any, name: str) -> None:
    path = copy(f"{name}-video")
    file = sorted((path / "videos").rglob("*.mp4"))[-1]
    encode_video([picture(i, 16, 24) for i in range(2)], file, 20, "libx264")
    source = opened(path)
    episode = 2 if name == "lerobot-v2" else 0
    got = source[episode]
    assert "ends after 2 frames" in said(source)
    assert len(got.streams["action"]) == got.num_steps
    got.streams[FRONT].rows[1]
    with pytest.raises(DataError, match="ends before") as error:
        list(got.streams[FRONT].rows)
    assert (error.value.episode, error.value.frame, error.value.key) == (episode, 2, FRONT)


def test_a_camera_that_changes_its_resolution(copy: Any) -> None:
    path = copy("lerobot-v2-video")
    file = sorted((path / "videos").rglob("*.mp4"))[1]
    encode_video([picture(0, 32, 32)], file, 20, "libx264")
    source = opened(path)
    assert source[1].streams[FRONT].rows[0].shape == (32, 32, 3)
    assert "32 x 32" in said(source)
    assert source[0].streams[FRONT].rows[0].shape == (16, 24, 3)


@pytest.mark.parametrize("name", FORMATS)
def test_images_in_parquet_are_copied_not_decoded(copy: Any, name: str) -> None:
    source = opened(copy(f"{name}-copy"))
    assert source.contents.streams[FRONT].about["codec"] == "jpeg"
    for index, want in enumerate(episodes()):
        got = source[index].streams[FRONT].rows
        assert [got.encoded(i) for i in range(len(got))] == list(want.streams[FRONT].rows.files)  # type: ignore[union-attr]


def test_images_that_are_not_in_the_file(copy: Any) -> None:
    path = copy("lerobot-v2-copy")
    nowhere = pa.array([{"bytes": None, "path": "/etc/passwd"}] * 5, image_column([b"x"]).type)
    rewrite(path / "data/chunk-000/episode_000000.parquet", lambda c: c.update({FRONT: nowhere}))
    rows = opened(path)[0].streams[FRONT].rows
    with pytest.raises(DataError, match="embed") as error:
        rows[0]
    assert error.value.key == FRONT


def test_openpis_names_are_kept_and_have_aliases(copy: Any) -> None:
    path = copy("lerobot-v2-copy")
    names = {FRONT: "image", "observation.state": "state", "action": "actions"}
    edit(path, lambda info: info.update(features={names.get(k, k): v for k, v in info["features"].items()}))
    for file in path.rglob("*.parquet"):
        table = pq.read_table(file)
        pq.write_table(table.rename_columns([names.get(n, n) for n in table.column_names]), file)
    source = opened(path)
    assert set(source.contents.streams) == {"image", "state", "actions", "reward"}
    assert source[0].streams["actions"].rows.shape == (5, 7)
    found = renames(source.contents.streams)
    assert found == {
        "image": "observation.images.image",
        "state": "observation.state",
        "actions": "action",
    }
    assert "action" not in renames(["actions", "action"]).values()
    assert len(set(ALIASES)) == len(ALIASES)


def test_one_image_in_the_singular(copy: Any) -> None:
    path = copy("lerobot-v2-video")
    edit(path, lambda info: info["features"].update({"observation.image": info["features"].pop(FRONT)}))
    folder = path / "videos/chunk-000"
    (folder / FRONT).rename(folder / "observation.image")
    assert len(list(opened(path)[0].streams["observation.image"].rows)) == 5


def test_columns_of_text_and_of_language(copy: Any) -> None:
    path = copy("lerobot-v2-copy")

    def features(info: Any) -> None:
        info["features"]["subtask"] = {"dtype": "string", "shape": [1], "names": None}
        info["features"]["language_events"] = {"dtype": "language", "shape": [1], "names": None}

    edit(path, features)
    event = {"role": "user", "content": "stopp", "style": "interjection", "camera": None}
    for file in (path / "data").rglob("*.parquet"):
        rows = pq.read_metadata(file).num_rows
        rewrite(
            file,
            lambda c, n=rows: c.update(subtask=["öffne"] * n, language_events=[[event]] + [[]] * (n - 1)),
        )
    got = opened(path)[0]
    assert list(got.streams["subtask"].rows) == ["öffne"] * 5
    assert json.loads(got.streams["language_events"].rows[0])[0]["content"] == "stopp"
    assert json.loads(got.streams["language_events"].rows[1]) == []


def test_depth_video_of_lerobot_06(copy: Any) -> None:
    path = copy("lerobot-v2-video")
    key = "observation.images.depth"
    info = {"is_depth_map": True, "video.depth_min": 0.01, "video.depth_max": 10.0, "video.shift": 3.5,
            "video.use_log": True, "depth_unit": "m", "video.codec": "hevc"}  # fmt: skip
    feature = {"dtype": "video", "shape": [32, 48, 1], "names": ["height", "width", "channels"], "info": info}
    edit(path, lambda i: i["features"].update({key: feature}))
    codes = np.random.default_rng(0).integers(0, 4096, (5, 32, 48)).astype(np.uint16)
    (path / f"videos/chunk-000/{key}").mkdir()
    write_depth(path / f"videos/chunk-000/{key}/episode_000000.mp4", codes)
    source = opened(path)
    spec = source.contents.streams[key]
    assert (spec.kind, spec.dtype, spec.shape, spec.about["unit"]) == ("depth", "float32", (32, 48), "m")
    np.testing.assert_array_equal(list(source[0].streams[key].rows), DepthCode().decode(codes))


def test_times_that_the_rate_does_not_give(copy: Any) -> None:
    path = copy("lerobot-v2-copy")
    file = path / "data/chunk-000/episode_000000.parquet"
    real = np.array([0, 0.06, 0.1, 0.17, 0.2], np.float32)
    rewrite(file, lambda c: c.update(timestamp=real))
    source = opened(path)
    np.testing.assert_array_equal(source[0].streams["action"].time, real.astype(np.float64))
    assert "0.02 s away" in said(source)
    rewrite(file, lambda c: c.update(timestamp=real[::-1].copy()))
    source = opened(path)
    np.testing.assert_allclose(source[0].streams["action"].time, np.arange(5) / 20)
    assert "fall" in said(source)


def test_a_clip_begins_where_the_timestamps_do(copy: Any) -> None:
    """Trimmed v2 sets keep their videos whole, and their times do not start at 0."""
    path = copy("lerobot-v2-video")
    whole = [image.copy() for image in opened(path)[0].streams[FRONT].rows]
    rewrite(
        path / "data/chunk-000/episode_000000.parquet",
        lambda c: c.update({name: column[2:] for name, column in c.items()}),
    )
    got = opened(path)[0]
    np.testing.assert_array_equal(list(got.streams[FRONT].rows), whole[2:])


@pytest.mark.parametrize("name", FORMATS)
def test_wrong_counts_are_reported_and_the_data_believed(copy: Any, name: str) -> None:
    path = copy(f"{name}-video")
    edit(path, lambda info: info.update(total_episodes=17, total_frames=3))
    source = opened(path)
    assert len(source) == 3
    assert "total_episodes is 17" in said(source)


def test_a_length_that_is_wrong(copy: Any) -> None:
    path = copy("lerobot-v2-copy")
    file = path / "meta/episodes.jsonl"
    file.write_text(file.read_text().replace('"length": 5', '"length": 50'))
    source = opened(path)
    assert source[0].num_steps == 5
    assert source.num_rows(0)["action"] == 5
    assert "said to be 50" in said(source)


def test_types_are_those_of_the_files(copy: Any) -> None:
    path = copy("lerobot-v3-copy")
    edit(path, lambda info: info["features"]["reward"].update(dtype="float64"))
    source = opened(path)
    assert source.contents.streams["reward"].dtype == "float32"
    assert "hold float32" in said(source)


def test_columns_and_features_that_do_not_meet(copy: Any) -> None:
    path = copy("lerobot-v3-copy")
    edit(path, lambda info: info["features"].update(ghost=info["features"].pop("reward")))
    source = opened(path)
    assert {p.key for p in source.problems} >= {"ghost", "reward"}
    assert "reward" not in source[0].streams


def test_ragged_rows_name_their_frame(copy: Any) -> None:
    path = copy("lerobot-v2-copy")
    rows = [[0.0] * 7, [0.0] * 7, [0.0] * 6, [0.0] * 8, [0.0] * 7]
    rewrite(
        path / "data/chunk-000/episode_000000.parquet",
        lambda c: c.update(action=pa.array(rows, pa.list_(pa.float32()))),
    )
    with pytest.raises(DataError, match="shape") as error:
        opened(path)[0]
    assert (error.value.episode, error.value.frame, error.value.key) == (0, 2, "action")


def test_empty_entries_name_their_frame(copy: Any) -> None:
    path = copy("lerobot-v2-copy")
    rewrite(
        path / "data/chunk-000/episode_000002.parquet",
        lambda c: c.update(reward=pa.array([1.0, None, 2.0, 3.0], pa.float32())),
    )
    with pytest.raises(DataError, match="empty") as error:
        opened(path)[2]
    assert (error.value.episode, error.value.frame, error.value.key) == (2, 1, "reward")


def test_lists_and_extension_types_of_other_writers(copy: Any) -> None:
    path = copy("lerobot-v2-copy")
    file = path / "data/chunk-000/episode_000000.parquet"
    want = opened(path)[0]

    def loose(columns: Any) -> None:
        columns["action"] = pa.array(columns["action"].to_pylist(), pa.list_(pa.float32()))
        columns["observation.state"] = pa.array(
            columns["observation.state"].to_pylist(), pa.large_list(pa.float32())
        )
        columns["reward"] = pa.array(
            [[value] for value in columns["reward"].to_pylist()], pa.list_(pa.float32())
        )

    rewrite(file, loose)
    got = opened(path)[0]
    for key in ("action", "observation.state", "reward"):
        np.testing.assert_array_equal(got.streams[key].rows, want.streams[key].rows)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("where", ["../../secret/{video_key}.mp4", "/etc/{video_key}", "videos/../../x.mp4",
                                   "{video_key.__class__}", "{0}", "C:/x.mp4", "{video_key", ""])  # fmt: skip
def test_paths_that_lead_out(copy: Any, name: str, where: str) -> None:
    path = copy(f"{name}-video")
    edit(path, lambda info: info.update(video_path=where))
    if where:
        with pytest.raises(DataError):
            opened(path)
    else:
        opened(path)


@pytest.mark.parametrize("name", FORMATS)
def test_links_that_lead_out(copy: Any, name: str, tmp_path: Path) -> None:
    path = copy(f"{name}-video")
    for kind in ("*.mp4", "*.parquet"):
        file = min((path / ("videos" if kind == "*.mp4" else "data")).rglob(kind))
        file.rename(tmp_path / f"outside-{file.name}")
        file.symlink_to(tmp_path / f"outside-{file.name}")
    source = opened(path)
    if len(source):
        with pytest.raises(DataError, match="outside"):
            source[0]
    else:
        assert "outside" in said(source)


def test_hostile_keys(copy: Any) -> None:
    for key in ("../../../x", "/etc/passwd", "a" * 400, "\x00", "\ud800"):
        path = copy("lerobot-v2-video")
        edit(path, lambda info, k=key: info["features"].update({k: info["features"][FRONT]}))
        with pytest.raises(DataError):
            opened(path)[0]
        shutil.rmtree(path)


def test_json_that_is_no_set(tmp_path: Path) -> None:
    (tmp_path / "meta").mkdir()
    for text in (
        "[" * 100_000,
        "[]",
        "{",
        "{}",
        '{"codebase_version": 3}',
        '{"codebase_version": "v3.0"}',
        "",
    ):
        (tmp_path / "meta/info.json").write_text(text)
        with pytest.raises(DataError):
            get_format("lerobot-v3").open(tmp_path)
        assert get_format("lerobot-v2").detect(tmp_path) is False


def test_an_old_version_is_told_apart(copy: Any) -> None:
    path = copy("lerobot-v2-video")
    with pytest.raises(DataError, match="lerobot-v2"):
        get_format("lerobot-v3").open(path)
    edit(path, lambda info: info.update(codebase_version="v1.6"))
    with pytest.raises(DataError, match="v1"):
        get_format("lerobot-v2").open(path)


def test_our_side_files_are_not_believed_when_the_set_was_edited(tmp_path: Path) -> None:
    of = contents(wrist=False, size=(16, 24))
    write(tmp_path / "set", of, episodes(), "lerobot-v2")
    file = tmp_path / "set/meta/regrip_episodes.jsonl"
    file.write_text("\n".join(file.read_text().splitlines()[1:]))
    source = opened(tmp_path / "set")
    assert "edited" in said(source)
    assert source[0].success is None


def test_a_variable_resolution_in_parquet_is_an_error_that_names_the_frame(copy: Any) -> None:
    path = copy("lerobot-v2-copy")
    files = [encode_jpeg(picture(i, 16, 24)) for i in range(4)] + [encode_jpeg(picture(9, 24, 24))]
    rewrite(path / "data/chunk-000/episode_000000.parquet", lambda c: c.update({FRONT: image_column(files)}))
    rows = opened(path)[0].streams[FRONT].rows
    rows[3]
    with pytest.raises(DataError, match="resize") as error:
        rows[4]
    assert error.value.frame == 4


@pytest.mark.parametrize(
    "kind", ["lerobot-v3-video", "lerobot-v3-copy", "lerobot-v2-video", "lerobot-v2-copy"]
)
def test_mutations_end_in_an_error_or_in_a_set(sets: dict[str, Path], tmp_path: Path, kind: str) -> None:
    rng = np.random.default_rng(len(kind))
    files = sorted(file.relative_to(sets[kind]) for file in sets[kind].rglob("*") if file.is_file())
    shutil.copytree(sets[kind], tmp_path / "set")
    for turn in range(int(os.environ.get("REGRIP_MUTATIONS", "60"))):
        name = files[rng.integers(0, len(files))]
        whole = (sets[kind] / name).read_bytes()
        (tmp_path / "set" / name).write_bytes(mutated(whole, rng, turn))
        before = sorted(tmp_path.rglob("*"))
        with contextlib.suppress(DataError):
            look(opened_any(tmp_path / "set", kind))
        assert sorted(tmp_path.rglob("*")) == before
        (tmp_path / "set" / name).write_bytes(whole)


def opened_any(path: Path, kind: str) -> Any:
    return get_format(kind.rsplit("-", 1)[0]).open(path)


def look(source: Any) -> None:
    """Everything a reader may ask for."""
    for episode in range(len(source)):
        with contextlib.suppress(DataError):
            source.num_rows(episode)
            got = source[episode]
            for track in got.streams.values():
                with contextlib.suppress(DataError):
                    for _ in track.rows:
                        pass
    source.close()


_WORDS = [
    b"null",
    b"-1",
    b"NaN",
    b"1e999",
    b"[]",
    b"{}",
    b'"../../x"',
    b"99999999999999999999",
    b"true",
    b'""',
]


def mutated(data: bytes, rng: np.random.Generator, turn: int) -> bytes:
    changed = bytearray(data)
    if turn % 4 == 0:
        return bytes(changed[: rng.integers(0, len(changed))])
    if turn % 4 == 1 and data[:1] in b"{[":
        digits = [i for i, byte in enumerate(data) if byte in b'0123456789"tn']
        at = int(rng.choice(digits))
        return data[:at] + _WORDS[rng.integers(0, len(_WORDS))] + data[at + 1 :]
    for _ in range(rng.integers(1, 12)):
        # most of it near the end, where parquet has its footer
        at = rng.integers(0, len(changed)) if turn % 2 else -int(rng.integers(1, min(len(changed), 900) + 1))
        changed[at] = rng.integers(0, 256)
    return bytes(changed)
