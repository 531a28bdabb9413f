"""diffusion_policy's ReplayBuffer: zarr-python opens what we wrote, and we what it wrote."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import zipfile
from pathlib import Path

import numcodecs
import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from imagecodecs import jpegxl_encode
from recordings import (
    DEPTH,
    FRONT,
    WRIST,
    assert_same,
    assert_set,
    contents,
    picture,
    recording,
    recordings,
    uneven,
)
from scipy.spatial.transform import Rotation

from regrip.datasets.converting.pose_actions import pose_actions
from regrip.datasets.formats import WriteOptions
from regrip.datasets.formats.umi import FORMAT, open_umi
from regrip.datasets.frames import EncodedFrames
from regrip.datasets.ledger import DataError, Ledger
from regrip.datasets.recording import Contents, Recording, StreamSpec, Track


def save(path: Path, of: Contents, made: list[Recording], **options) -> Ledger:
    ledger = Ledger()
    sink = FORMAT.create(path, of, WriteOptions(**options), ledger)
    for one in made:
        sink.write(one)
    sink.close()
    return ledger


@settings(max_examples=10, deadline=None)
@given(recordings(), st.sampled_from(["set.zarr", "set.zarr.zip"]), st.sampled_from(["copy", "jxl"]))
def test_round_trip(drawn, name: str, images: str) -> None:
    of, made = drawn
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        ledger = save(path, of, made, images=images)
        assert FORMAT.detect(path)
        source = open_umi(path)
        assert source.contents == of
        assert_set(source, of, made, images="pixels")
        assert {loss.what for loss in ledger.losses} <= {"re-encoded", "padded"}
        for index, one in enumerate(made):
            assert source[index].success == one.success
            assert source.num_rows(index) == {key: len(track) for key, track in one.streams.items()}
        assert [p.name for p in Path(folder).iterdir()] == [name]


def test_zarr_python_reads_what_we_wrote(tmp_path: Path) -> None:
    from imagecodecs.numcodecs import register_codecs

    register_codecs(verbose=False)
    of = contents(depth=True)
    made = [recording(of, 3, seed=0, codec="raw"), recording(of, 5, seed=1, codec="raw", lacks=(WRIST,))]
    save(tmp_path / "a.zarr", of, made)
    save(tmp_path / "b.zarr.zip", of, made, images="jxl")
    stores = (
        zarr.open_group(tmp_path / "a.zarr", mode="r", zarr_format=2),
        zarr.open_group(zarr.storage.ZipStore(tmp_path / "b.zarr.zip", mode="r"), mode="r", zarr_format=2),
    )
    for store in stores:
        np.testing.assert_array_equal(store["meta/episode_ends"][:], [3, 8])
        assert set(store["data"].array_keys()) == {
            "front", "wrist", "front_depth", "state", "action", "reward", "timestamp"
        }  # fmt: skip
        for name, key in (("front", FRONT), ("front_depth", DEPTH), ("state", "observation.state")):
            rows = [np.asarray(one.streams[key].rows[i]) for one in made for i in range(one.num_steps)]
            np.testing.assert_array_equal(store["data"][name][:], np.stack(rows))
        assert not store["data/wrist"][3:].any()
        assert store["data/front"].chunks == (1, 32, 48, 3)
        assert store["data/action"].chunks == (8, 7)


def umi(path: Path, *, codec=None, rows: int = 6, ends=(2, 6), **more: np.ndarray) -> dict[str, np.ndarray]:
    """A set by UMI's names, as zarr-python writes it."""
    rng = np.random.default_rng(0)
    arrays = {
        "camera0_rgb": np.stack([picture(i, 16, 24) for i in range(rows)]),
        "robot0_eef_pos": rng.standard_normal((rows, 3)).astype(np.float32),
        "robot0_eef_rot_axis_angle": rng.standard_normal((rows, 3)).astype(np.float32),
        "robot0_gripper_width": rng.uniform(0, 0.08, (rows, 1)).astype(np.float32),
        "robot0_demo_start_pose": np.zeros((rows, 6)),
        **more,
    }
    root = zarr.open_group(path, mode="w", zarr_format=2)
    for name, array in arrays.items():
        image = name.startswith("camera")
        made = root.require_group("data").create_array(
            name,
            shape=array.shape,
            dtype=array.dtype,
            chunks=(1, *array.shape[1:]) if image else array.shape,
            compressors=(codec or numcodecs.Blosc("lz4", 5, numcodecs.Blosc.NOSHUFFLE)) if image else None,
        )
        made[:] = array
    made = root.require_group("meta").create_array("episode_ends", shape=(len(ends),), dtype="i8")
    made[:] = np.array(ends)
    return arrays


def test_umi_as_it_is_published(tmp_path: Path) -> None:
    from imagecodecs.numcodecs import Jpegxl, register_codecs

    register_codecs(verbose=False)
    arrays = umi(tmp_path / "umi.zarr", codec=Jpegxl(lossless=True, distance=0))
    with zipfile.ZipFile(tmp_path / "umi.zarr.zip", "w") as file:
        for one in (tmp_path / "umi.zarr").rglob("*"):
            if one.is_file():
                file.write(one, one.relative_to(tmp_path / "umi.zarr"))
    for path in (tmp_path / "umi.zarr", tmp_path / "umi.zarr.zip"):
        assert FORMAT.detect(path)
        source = open_umi(path)
        assert len(source) == 2
        one = source[1]
        camera = one.streams["observation.images.camera0_rgb"].rows
        np.testing.assert_array_equal(camera[3], arrays["camera0_rgb"][5])
        assert camera.encoded(0)[:2] == b"\xff\x0a"  # the file itself, to be copied
        assert source.contents.streams["observation.images.camera0_rgb"].about["codec"] == "jxl"
        np.testing.assert_array_equal(one.streams["robot0_eef_pos"].rows, arrays["robot0_eef_pos"][2:])
        (gripper,) = source.contents.conventions.grippers
        assert (gripper.stream, gripper.kind, gripper.unit) == ("robot0_gripper_width", "width", "m")
        assert np.isnan([gripper.open, gripper.closed]).all()  # no array says
        assert source.contents.streams["robot0_eef_rot_axis_angle"].about["rotation"] == "rotation_vector"
        assert source.contents.rate_hz is None
        assert "action" not in source.contents.streams
        assert (one.task, one.success) == ("", None)
        assert any("no rate" in problem.what for problem in source.problems)
        pickle.loads(pickle.dumps(camera))[0]  # ours to another process of ours


def test_jpeg_xl_files_are_copied(tmp_path: Path) -> None:
    of = contents(wrist=False)
    spec = dataclasses.replace(of.streams[FRONT], about={"codec": "jxl"})
    of = Contents({**of.streams, FRONT: spec}, of.rate_hz, of.robot)
    one = recording(of, 3)
    files = [bytes(jpegxl_encode(picture(i), distance=2.0)) for i in range(3)]  # lossy, and left so
    one = Recording({**one.streams, FRONT: Track(EncodedFrames(files, spec.shape), one.streams[FRONT].time)})
    assert FORMAT.plan(of, WriteOptions()) == []
    assert save(tmp_path / "a.zarr", of, [one]).losses == []
    assert_same(open_umi(tmp_path / "a.zarr")[0], one)


def test_pusht_with_its_float_images_and_large_chunks(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    root = zarr.open_group(tmp_path / "pusht.zarr", mode="w", zarr_format=2)
    data = {
        "img": rng.integers(0, 256, (11, 16, 16, 3)).astype(np.float32),
        "state": rng.standard_normal((11, 5)).astype(np.float32),
        "action": rng.standard_normal((11, 2)).astype(np.float32),
        "keypoint": rng.standard_normal((11, 9, 2)),
        "n_contacts": rng.integers(0, 3, (11, 1)).astype(np.float32),
    }
    for name, array in data.items():
        codec = numcodecs.Blosc("zstd", 5, numcodecs.Blosc.BITSHUFFLE)
        chunks = (4, 8, 16, 2) if name == "img" else (4, *array.shape[1:])
        made = root.require_group("data").create_array(
            name, shape=array.shape, dtype=array.dtype, chunks=chunks, compressors=codec
        )
        made[:] = array
    made = root.require_group("meta").create_array("episode_ends", shape=(3,), dtype="i8")
    made[:] = [1, 6, 11]
    source = open_umi(tmp_path / "pusht.zarr")
    assert set(source.contents.streams) == {
        "observation.images.img", "observation.state", "action", "keypoint", "n_contacts"
    }  # fmt: skip
    assert any(p.repaired and "float32" in p.what for p in source.problems)
    one = source[1]
    assert one.streams["observation.images.img"].rows[4].dtype == np.uint8
    np.testing.assert_array_equal(one.streams["observation.images.img"].rows[4], data["img"][5])
    np.testing.assert_array_equal(one.streams["keypoint"].rows, data["keypoint"][1:6])
    np.testing.assert_array_equal(source[0].streams["action"].rows, data["action"][:1])


def test_ends_and_lengths_that_do_not_fit_are_told(tmp_path: Path) -> None:
    umi(tmp_path / "good.zarr", short=np.zeros((3, 2)))

    def with_ends(name: str, *ends: int) -> None:
        shutil.copytree(tmp_path / "good.zarr", tmp_path / name)
        meta = tmp_path / name / "meta" / "episode_ends"
        rewrite(meta / ".zarray", shape=[len(ends)], chunks=[len(ends)], compressor=None)
        (meta / "0").write_bytes(np.array(ends, "<i8").tobytes())

    with_ends("a.zarr", 2, 5)
    assert any("1 rows come after the last episode" in p.what for p in open_umi(tmp_path / "a.zarr").problems)
    with_ends("b.zarr", 2, 2, 6, 9)
    source = open_umi(tmp_path / "b.zarr")
    assert [source.num_rows(i)["robot0_eef_pos"] for i in range(len(source))] == [2, 4]
    assert any("no rows" in p.what for p in source.problems)
    assert any("goes to row 9" in p.what for p in source.problems)
    for name, ends in (("c", (4, 2)), ("d", (9, 12)), ("e", (-1, 6))):
        with_ends(f"{name}.zarr", *ends)
        with pytest.raises(DataError, match="episode"):
            open_umi(tmp_path / f"{name}.zarr")
    source = open_umi(tmp_path / "good.zarr")
    assert ["short" in source[i].streams for i in range(2)] == [True, False]
    (tmp_path / "a.zarr" / "data" / "camera0_rgb" / "3.0.0.0").unlink()
    assert any("1 of its chunks" in p.what for p in open_umi(tmp_path / "a.zarr").problems)


def test_timestamps_are_taken_where_there_are_any(tmp_path: Path) -> None:
    stamps = 1.7e9 + np.arange(6) * 0.25
    umi(tmp_path / "a.zarr", timestamp=stamps)
    one = open_umi(tmp_path / "a.zarr")[1]
    np.testing.assert_array_equal(one.streams["robot0_eef_pos"].time, [0, 0.25, 0.5, 0.75])
    assert one.began_ns == 1_700_000_000_500_000_000
    umi(tmp_path / "b.zarr", timestamp=stamps[::-1].copy())
    source = open_umi(tmp_path / "b.zarr")
    np.testing.assert_array_equal(source[1].streams["robot0_eef_pos"].time, range(4))
    assert any("fall" in p.what for p in source.problems)


def poses(position: list, rotvec: list, width: list) -> tuple[Recording, Contents]:
    streams, specs = {}, {}
    for part, rows in (("eef_pos", position), ("eef_rot_axis_angle", rotvec), ("gripper_width", width)):
        key, array = f"robot0_{part}", np.array(rows, dtype=np.float64)
        specs[key] = StreamSpec(key, "vector", "float64", array.shape[1:])
        streams[key] = Track(array, np.arange(len(array)) / 10)
    return Recording(streams), Contents(specs)


def test_actions_of_poses_by_hand() -> None:
    # the hand is turned by 90 degrees about z and moves 2 along the world's y: forward, 2 along its own x
    turn = [0, 0, np.pi / 2]
    one, of = poses([[1, 0, 0], [1, 2, 0]], [turn, [0, 0, np.pi]], [[0.08], [0.02]])
    got, said, losses = pose_actions(one, of)
    action = got.streams["action"].rows
    assert action.dtype == np.float32
    # rows of a turn of 90 degrees about z: (0 -1 0), (1 0 0)
    np.testing.assert_allclose(action[0], [2, 0, 0, 0, -1, 0, 1, 0, 0, 0.02], atol=1e-7)
    np.testing.assert_allclose(action[1], [0, 0, 0, 1, 0, 0, 0, 1, 0, 0.02], atol=1e-7)
    assert said.streams["action"].names[9] == "robot0_width"
    assert (said.conventions.action, said.conventions.rotation, said.conventions.frame) == (
        "relative", "rot6d_rows", "tool"
    )  # fmt: skip
    assert [(loss.what, loss.rows) for loss in losses] == [("computed", 2), ("padded", 1)]
    whole, _, _ = pose_actions(one, of, relative=False)
    np.testing.assert_allclose(whole.streams["action"].rows[0][:5], [1, 2, 0, -1, 0], atol=1e-7)


def test_chunks_of_actions_begin_with_the_pose_itself_in_umi(tmp_path: Path) -> None:
    umi(tmp_path / "a.zarr")
    source = open_umi(tmp_path / "a.zarr")
    got, said, _ = pose_actions(source[1], source.contents, first=0, horizon=3, stride=2)
    action = np.asarray(got.streams["action"].rows)
    assert action.shape == (4, 3, 10)
    assert said.streams["action"].shape == (3, 10)
    np.testing.assert_allclose(action[:, 0, :9], np.tile([0, 0, 0, 1, 0, 0, 0, 1, 0], (4, 1)), atol=1e-6)
    one = source[1].streams
    here, there = (Rotation.from_rotvec(np.float64(one["robot0_eef_rot_axis_angle"].rows[i])) for i in (1, 3))
    np.testing.assert_allclose(
        action[1, 1, 3:9].reshape(2, 3), (here.inv() * there).as_matrix()[:2], atol=1e-6
    )
    with pytest.raises(DataError, match="already"):
        pose_actions(got, said)
    with pytest.raises(DataError, match="robot0_eef_pos"):
        pose_actions(recording(contents()), Contents({}))


def test_refusals_of_the_writer(tmp_path: Path) -> None:
    of = contents(wrist=False)
    sink = FORMAT.create(tmp_path / "a.zarr", of, WriteOptions(), Ledger())
    with pytest.raises(DataError, match="resample"):
        sink.write(uneven(recording(of, 9), 1))
    with pytest.raises(DataError, match="no rows"):
        sink.write(Recording({}))
    wrong = recording(contents(wrist=False, size=(16, 24)), 2)
    with pytest.raises(DataError, match=f"frame 0, {FRONT}"):
        sink.write(wrong)
    sink.write(recording(of, 3, seed=4))  # nothing of the failed one is left
    sink.close()
    assert_set(open_umi(tmp_path / "a.zarr"), of, [recording(of, 3, seed=4)], images="pixels")
    with pytest.raises(DataError, match="exists already"):
        FORMAT.create(tmp_path / "a.zarr", of, WriteOptions(), Ledger())
    with pytest.raises(DataError, match="images as jpeg"):
        FORMAT.plan(of, WriteOptions(images="jpeg"))


def test_a_changing_subtask_and_odd_keys_come_back(tmp_path: Path) -> None:
    time = np.arange(4) / 10
    specs = [
        StreamSpec("a/b", "vector", "bool", (2,)),
        StreamSpec("a_b", "vector", "int64", ()),
        StreamSpec("timestamp", "vector", "float32", (1,)),
        StreamSpec("nothing", "vector", "float32", (0,)),
        StreamSpec("subtask", "text", "str", ()),
    ]
    streams = {s.key: Track(np.ones((4, *s.shape), s.dtype), time) for s in specs if s.kind == "vector"}
    streams["subtask"] = Track(["reach", "reach", "抓住", ""], time)
    of = Contents({s.key: s for s in specs})
    save(tmp_path / "a.zarr", of, [Recording(streams, about={"x": [1, None]})])
    source = open_umi(tmp_path / "a.zarr")
    assert_set(source, of, [Recording(streams)])
    assert source[0].about == {"x": [1, None]}


def test_a_killed_writer_goes_on_where_it_was(tmp_path: Path) -> None:
    name = "set.zarr.zip"
    code = textwrap.dedent(
        """
        import os, signal, sys
        from pathlib import Path
        from recordings import contents, recording
        from regrip.datasets.formats import WriteOptions
        from regrip.datasets.formats.umi import FORMAT
        from regrip.datasets.ledger import Ledger
        of = contents(wrist=False)
        sink = FORMAT.create(Path(sys.argv[1]), of, WriteOptions(), Ledger())
        for i in range(sink.done, 4):
            if i == 2 and sys.argv[2] == "die":
                sink._images = lambda *a: os.kill(os.getpid(), signal.SIGKILL)
                sink._append(sink._data / "state" / "0.0", b"half an episode")
            sink.write(recording(of, 5 + i, seed=i))
        sink.close()
        """
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([*sys.path, str(Path(__file__).parent)])}
    run = [sys.executable, "-c", code, str(tmp_path / name)]
    died = subprocess.run([*run, "die"], env=environment, check=False, timeout=60)
    assert died.returncode == -signal.SIGKILL
    assert not (tmp_path / name).exists()
    subprocess.run([*run, "live"], env=environment, check=True, timeout=60)
    of = contents(wrist=False)
    made = [recording(of, 5 + i, seed=i) for i in range(4)]
    assert_set(open_umi(tmp_path / name), of, made, images="pixels")


def rewrite(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_hostile_metadata_is_refused_by_name(tmp_path: Path) -> None:
    umi(tmp_path / "good.zarr")
    meta = Path("data/robot0_eef_pos/.zarray")
    for number, (change, text) in enumerate(
        [
            ({"dtype": "|O"}, r"dtype '\|O'"),
            ({"filters": [{"id": "pickle"}]}, "pickle"),
            ({"compressor": {"id": "pickle"}}, "'pickle' is not read"),
            ({"compressor": {"id": "evil", "cmd": "rm"}}, "'evil' is not read"),
            ({"shape": [10**15, 3]}, "shape"),
            ({"chunks": [10**9, 3]}, "1 GiB"),
            ({"chunks": [0, 3]}, "chunks"),
            ({"shape": "many"}, "metadata|shape"),
            ({"zarr_format": 3}, "format 3"),
        ]
    ):
        path = tmp_path / f"{number}.zarr"
        shutil.copytree(tmp_path / "good.zarr", path)
        rewrite(path / meta, **change)
        with pytest.raises(DataError, match=text):
            open_umi(path)
    path = tmp_path / "many.zarr"
    shutil.copytree(tmp_path / "good.zarr", path)
    rewrite(path / "meta/episode_ends/.zarray", shape=[10**10], chunks=[10**5])
    with pytest.raises(DataError):
        open_umi(path)


def test_bombs_end_at_their_declared_size(tmp_path: Path) -> None:
    import bz2
    import zlib

    bombs = {
        "zlib": zlib.compress(bytes(10**7)),
        "bz2": bz2.compress(bytes(10**7)),
        "blosc": bytes(numcodecs.Blosc().encode(bytes(10**7))),
        "zstd": bytes(numcodecs.Zstd().encode(bytes(10**7))),
        "lz4": bytes(numcodecs.LZ4().encode(bytes(10**7))),
    }
    umi(tmp_path / "a.zarr")
    for codec, bomb in bombs.items():
        rewrite(tmp_path / "a.zarr/data/robot0_eef_pos/.zarray", compressor={"id": codec})
        (tmp_path / "a.zarr/data/robot0_eef_pos/0.0").write_bytes(bomb)
        with pytest.raises(DataError, match="episode 0, robot0_eef_pos"):
            _ = open_umi(tmp_path / "a.zarr")[0]


def test_zip_files_that_lead_elsewhere_are_refused(tmp_path: Path) -> None:
    for number, name in enumerate(("../evil", "/etc/evil", "data\\..\\evil", "C:/evil", "data/../../evil")):
        path = tmp_path / f"{number}.zarr.zip"
        with zipfile.ZipFile(path, "w") as file:
            file.writestr("meta/episode_ends/.zarray", "{}")
            file.writestr(name, "x")
            file.infolist()[-1].filename = name
        with pytest.raises(DataError, match="holds a file called"):
            open_umi(path)
        assert not FORMAT.detect(path)
    umi(tmp_path / "a.zarr")
    chunk = tmp_path / "a.zarr/data/robot0_eef_pos/0.0"
    shutil.move(chunk, tmp_path / "elsewhere")
    chunk.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DataError, match="leads out"):
        _ = open_umi(tmp_path / "a.zarr")[0]


def read_all(path: Path) -> None:
    source = open_umi(path)
    for index in range(len(source)):
        for track in source[index].streams.values():
            if not isinstance(track.rows, (np.ndarray, list)) and len(track):
                _ = track.rows[0], track.rows.encoded(len(track) - 1)


@pytest.mark.parametrize("kind", ["folder", "zip", "ours"])
def test_mutated_sets_end_in_words(tmp_path: Path, kind: str) -> None:
    rng = np.random.default_rng(3)
    path = tmp_path / "a.zarr"
    if kind == "ours":
        of = contents(wrist=False, size=(16, 24))
        save(path, of, [recording(of, 2), recording(of, 3)], images="jxl")
    else:
        umi(path)
    if kind == "zip":
        with zipfile.ZipFile(tmp_path / "a.zarr.zip", "w") as packed:
            for one in path.rglob("*"):
                packed.write(one, one.relative_to(path))
        path = tmp_path / "a.zarr.zip"
    files = [path] if kind == "zip" else sorted(p for p in path.rglob("*") if p.is_file())
    for _ in range(int(os.environ.get("REGRIP_FUZZ", "60"))):
        file = files[int(rng.integers(0, len(files)))]
        data = file.read_bytes()
        changed, at = bytearray(data), int(rng.integers(0, max(1, len(data))))
        match int(rng.integers(0, 4)):
            case 0:
                changed = changed[:at]
            case 1 if data:
                changed[at] ^= 1 << int(rng.integers(0, 8))
            case 2:
                changed[at : at + 8] = [b"\xff" * 8, b"99999999", b"\0" * 8][int(rng.integers(0, 3))]
            case _:
                del changed[at : at + int(rng.integers(1, 64))]
        file.write_bytes(changed)
        with contextlib.suppress(DataError):
            read_all(path)
        file.write_bytes(data)
    read_all(path)
