"""ROS 1 bags: what Debian's genuine rosbag writes, whole, cut off and damaged."""

from __future__ import annotations

import contextlib
import json
import os
import struct
import subprocess
from pathlib import Path

import numpy as np
import pytest
from rosbags.rosbag1 import Writer
from rosbags.typesys import Stores, get_typestore

from regrip.datasets.formats.rosbag1 import FORMAT, open_rosbag1
from regrip.datasets.ledger import DataError

SCRIPT = Path(__file__).parent / "debian_rosbag.py"
SYSTEM_PYTHON = "/usr/bin/python3"
STORE = get_typestore(Stores.ROS1_NOETIC)
BEGAN = 1_700_000_000 * 10**9


def debian(*arguments: str) -> str:
    """Debian's rosbag in its own Python."""
    probe = "import rosbag, sensor_msgs.msg, geometry_msgs.msg"
    try:
        found = subprocess.run([SYSTEM_PYTHON, "-c", probe], capture_output=True, check=False, timeout=60)
    except FileNotFoundError:
        pytest.skip(f"no {SYSTEM_PYTHON}")
    if found.returncode:
        pytest.skip("install Debian's python3-rosbag, python3-sensor-msgs and python3-geometry-msgs")
    run = subprocess.run(
        [SYSTEM_PYTHON, str(SCRIPT), *arguments], capture_output=True, text=True, check=True, timeout=120
    )
    return run.stdout


@pytest.mark.parametrize("compression", ["none", "bz2"])
def test_what_debians_rosbag_wrote(tmp_path: Path, compression: str) -> None:
    path = tmp_path / "take.bag"
    debian("write", str(path), compression)
    assert FORMAT.detect(path)
    source = open_rosbag1(path)
    assert source.problems == []
    one = source[0]
    assert (one.task, one.began_ns) == ("wipe the table", BEGAN)
    images = one.streams["cam.image_raw"]
    np.testing.assert_array_equal(images.time, np.arange(20) / 4)
    want = ((np.arange(4 * 6 * 3) + 7) % 256).astype(np.uint8).reshape(4, 6, 3)[..., ::-1]
    np.testing.assert_array_equal(images.rows[7], want)
    np.testing.assert_array_equal(list(images.rows)[7], want)
    assert one.streams["cam.compressed"].rows.encoded(19)[:4] == b"\x89PNG"
    assert source.contents.streams["cam.compressed"].shape == (1, 1, 3)
    joints = one.streams["joint_states.position"]
    assert source.contents.streams["joint_states.position"].names == ("b", "a")
    np.testing.assert_array_equal(joints.rows, [[-i, i] for i in range(20)])
    np.testing.assert_array_equal(one.streams["pose"].rows[3], [3, 0, 0, 0, 0, 0, 1])
    np.testing.assert_array_equal(one.streams["command"].rows, [[i, i + 0.5] for i in range(20)])
    np.testing.assert_array_equal(one.streams["command"].time, np.arange(20) / 4 + 0.125)  # of receipt
    assert source.contents.streams["command"].about["time"] == "log"


def ours(path: Path, count: int = 30, chunk: int = 1000) -> Path:
    """A bag by the rosbags package."""
    types = STORE.types
    with Writer(path) as writer:
        writer.chunk_threshold = chunk
        image = writer.add_connection("/cam", "sensor_msgs/msg/Image", typestore=STORE)
        value = writer.add_connection("/value", "std_msgs/msg/Float64", typestore=STORE)
        for i in range(count):
            ns = BEGAN + i * 10**8
            stamp = types["builtin_interfaces/msg/Time"](ns // 10**9, ns % 10**9)
            header = types["std_msgs/msg/Header"](i, stamp, "")
            pixels = np.full(4 * 4 * 3, i, np.uint8)
            message = types["sensor_msgs/msg/Image"](header, 4, 4, "rgb8", 0, 12, pixels)
            writer.write(image, ns, STORE.serialize_ros1(message, "sensor_msgs/msg/Image"))
            message = types["std_msgs/msg/Float64"](float(i))
            writer.write(value, ns, STORE.serialize_ros1(message, "std_msgs/msg/Float64"))
    return path


def test_debians_rosbag_and_we_read_the_same_of_rosbags_bag(tmp_path: Path) -> None:
    path = ours(tmp_path / "a.bag")
    rows = json.loads(debian("list", str(path)))
    one = open_rosbag1(path)[0]
    values = [float(data) for topic, _, _, data in rows if topic == "/value"]
    np.testing.assert_array_equal(one.streams["value"].rows, values)
    stamps = [ns for topic, _, ns, _ in rows if topic == "/value"]
    np.testing.assert_array_equal(np.rint(one.streams["value"].time * 1e9) + BEGAN, stamps)


def test_a_bag_that_was_never_closed_gives_what_is_whole(tmp_path: Path) -> None:
    data = ours(tmp_path / "a.bag").read_bytes()
    cut = bytearray(data[: len(data) // 2])
    at = cut.index(b"index_pos=") + len(b"index_pos=")
    cut[at : at + 8] = bytes(8)  # as rosbag record leaves it when it is killed
    (tmp_path / "b.bag.active").write_bytes(cut)
    source = open_rosbag1(tmp_path / "b.bag.active")
    told = [str(problem) for problem in source.problems]
    assert any("has no index" in text for text in told)
    assert any("cut off or damaged at byte" in text for text in told)
    rows = np.asarray(source[0].streams["value"].rows)
    assert 5 < len(rows) < 30
    np.testing.assert_array_equal(rows, np.arange(len(rows)))
    np.testing.assert_array_equal(source[0].streams["cam"].rows[4], np.full((4, 4, 3), 4))


def test_a_type_that_the_bag_defines_otherwise_is_not_decoded(tmp_path: Path) -> None:
    data = ours(tmp_path / "a.bag").read_bytes()
    assert data.count(b"float64 data\n") == 2
    (tmp_path / "b.bag").write_bytes(data.replace(b"float64 data\n", b"float32 data\n"))
    source = open_rosbag1(tmp_path / "b.bag")
    assert set(source.contents.streams) == {"cam"}
    assert [p.key for p in source.problems if "defines std_msgs/msg/Float64 otherwise" in p.what] == [
        "/value"
    ]


def test_a_folder_of_bags_in_order(tmp_path: Path) -> None:
    for i in (2, 10, 1):
        ours(tmp_path / f"take_{i}.bag", count=i)
    assert FORMAT.detect(tmp_path)
    source = open_rosbag1(tmp_path)
    assert [source.num_rows(i)["value"] for i in range(3)] == [1, 2, 10]
    (tmp_path / "link.bag").symlink_to(__file__)
    with pytest.raises(DataError, match="leads out"):
        open_rosbag1(tmp_path)


def test_what_is_no_bag(tmp_path: Path) -> None:
    for name, data in (("a.bag", b""), ("b.bag", b"#ROSBAG V1.2\n"), ("c.bag", b"#ROSBAG V2.0\n")):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(DataError):
            open_rosbag1(tmp_path / name)
    with pytest.raises(DataError):
        open_rosbag1(tmp_path / "missing.bag")
    assert not FORMAT.detect(tmp_path / "missing.bag")


def test_a_chunk_that_declares_too_much_is_left_out(tmp_path: Path) -> None:
    import bz2

    data = ours(tmp_path / "a.bag", chunk=10**6).read_bytes()
    bomb = bz2.compress(bytes(10**8))

    def record(fields: dict[bytes, bytes], body: bytes) -> bytes:
        head = b"".join(struct.pack("<I", len(k) + 1 + len(v)) + k + b"=" + v for k, v in fields.items())
        return struct.pack("<I", len(head)) + head + struct.pack("<I", len(body)) + body

    fields = {b"op": b"\x05", b"compression": b"bz2", b"size": struct.pack("<I", 10**8)}
    (tmp_path / "b.bag").write_bytes(data + record(fields, bomb))
    source = open_rosbag1(tmp_path / "b.bag")
    assert any("declare to hold 100000000" in problem.what for problem in source.problems)
    assert source.num_rows(0)["value"] == 30


@pytest.mark.parametrize("compressed", [False, True])
def test_mutated_bags_end_in_words(tmp_path: Path, compressed: bool) -> None:
    good = tmp_path / "a.bag"
    if compressed:
        writer = Writer(good)
        writer.set_compression(Writer.CompressionFormat.LZ4)
        with writer:
            value = writer.add_connection("/value", "std_msgs/msg/Float64", typestore=STORE)
            for i in range(20):
                message = STORE.types["std_msgs/msg/Float64"](float(i))
                writer.write(value, BEGAN + i, STORE.serialize_ros1(message, "std_msgs/msg/Float64"))
    else:
        ours(good, count=6, chunk=300)
    assert len(open_rosbag1(good)) == 1
    data, rng = good.read_bytes(), np.random.default_rng(5)
    for _ in range(int(os.environ.get("REGRIP_FUZZ", "200"))):
        changed, at = bytearray(data), int(rng.integers(0, len(data)))
        kind = int(rng.integers(0, 4))
        if kind == 0:
            changed = changed[:at]
        elif kind == 1:
            changed[at] ^= 1 << int(rng.integers(0, 8))
        elif kind == 2:
            changed[at : at + 4] = [b"\xff" * 4, b"\0" * 4, b"\x7f" * 4][int(rng.integers(0, 3))]
        else:
            del changed[at : at + int(rng.integers(1, 64))]
        bad = tmp_path / "bad.bag"
        bad.write_bytes(changed)
        with contextlib.suppress(DataError):
            source = open_rosbag1(bad)
            for track in source[0].streams.values():
                assert (np.diff(track.time) >= 0).all()
                if not isinstance(track.rows, (np.ndarray, list)):
                    _ = track.rows[len(track) - 1]
