"""rosbag2: what we write is read by mcap's and rosbags' readers, and what they write is read by us."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mcap.reader import make_reader
from mcap_ros2.decoder import DecoderFactory
from recordings import DEPTH, FRONT, assert_set, contents, recording, recordings
from rosbags.rosbag2 import CompressionFormat, CompressionMode, Reader, StoragePlugin, Writer
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from regrip.datasets.formats import WriteOptions
from regrip.datasets.formats.rosbag2 import FORMAT, open_rosbag2
from regrip.datasets.ledger import DataError, Ledger
from regrip.datasets.recording import Contents, Recording, StreamSpec, Track

STORE = get_typestore(Stores.ROS2_JAZZY)
T = STORE.types
S = 10**9
BEGAN = 1_700_000_000 * S


def save(path: Path, of: Contents, made: list[Recording], **options) -> Ledger:
    ledger = Ledger()
    sink = FORMAT.create(path, of, WriteOptions(**options), ledger)
    for one in made:
        sink.write(one)
    sink.close()
    return ledger


@settings(max_examples=10, deadline=None)
@given(recordings(), st.booleans())
def test_round_trip(drawn, alone: bool) -> None:
    of, made = drawn
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "set"
        ledger = save(path, of, made)
        assert ledger.losses == []
        if alone:  # each bag says itself what it is
            (path / "regrip.json").unlink()
        source = open_rosbag2(path)
        assert source.format == "rosbag2"
        assert source.contents == of
        assert_set(source, of, made)
        for index, one in enumerate(made):
            got = source[index]
            assert (got.success, got.terminated, got.truncated) == (one.success, True, False)
            assert source.num_rows(index) == {key: len(track) for key, track in one.streams.items()}


@settings(max_examples=6, deadline=None)
@given(recordings(aligned=False))
def test_uneven_clocks_come_back_to_the_nanosecond(drawn) -> None:
    of, made = drawn
    with tempfile.TemporaryDirectory() as folder:
        ledger = save(Path(folder) / "set", of, made)
        assert {loss.what for loss in ledger.losses} <= {"time"}
        assert_set(open_rosbag2(Path(folder) / "set"), of, made, time=0.51e-9)


def odd_set() -> tuple[Contents, list[Recording]]:
    """Everything that a stream may be."""
    rng = np.random.default_rng(0)
    specs = [
        StreamSpec("a.position", "vector", "float32", (2,)),
        StreamSpec("a", "vector", "float64", (3,), ("x", "y", "z")),
        StreamSpec("bits", "vector", "bool", (2, 2)),
        StreamSpec("count", "vector", "int64", ()),
        StreamSpec("large", "vector", "uint64", (1,)),
        StreamSpec("half", "vector", "float16", (4,)),
        StreamSpec("2nd cam/ä", "vector", "uint8", (2, 3, 2)),
        StreamSpec("nothing", "vector", "float32", (0,)),
        StreamSpec("subtask", "text", "str", ()),
    ]
    made = []
    for steps in (3, 1):
        streams = {}
        for spec in specs:
            time = np.arange(steps) / 4
            if spec.kind == "text":
                streams[spec.key] = Track(["", "déjà vu", "抓住"][:steps], time)
            else:
                rows = rng.integers(0, 2**15, (steps, *spec.shape)).astype(spec.dtype)
                streams[spec.key] = Track(rows, time)
        about = {"operator": "Zoë", "seed": 3}
        made.append(Recording(streams, "t", None, None, None, BEGAN, about))
    empty = {**made[0].streams, "count": Track(np.zeros(0, np.int64), np.zeros(0))}
    made.append(Recording(empty, ""))
    return Contents({spec.key: spec for spec in specs}, robot="r", about={"a": [1]}), made


def test_every_type_and_key_comes_back(tmp_path: Path) -> None:
    of, made = odd_set()
    save(tmp_path / "set", of, made)
    source = open_rosbag2(tmp_path / "set")
    assert_set(source, of, made)
    assert source.contents == of
    assert [source[i].began_ns for i in range(3)] == [BEGAN, BEGAN, None]
    assert source[0].about == {"operator": "Zoë", "seed": 3}


def test_mcap_and_rosbags_read_what_we_wrote(tmp_path: Path) -> None:
    of = contents(depth=True, wrist=False)
    one = recording(of, 5, began_ns=BEGAN)
    save(tmp_path / "set", of, [one])
    bag = tmp_path / "set" / "episode_000000"
    seen: dict[str, list] = {}
    with (bag / "episode_000000.mcap").open("rb") as file:
        reader = make_reader(file, validate_crcs=True, decoder_factories=[DecoderFactory()])
        for _, channel, message, ros_message in reader.iter_decoded_messages():
            seen.setdefault(channel.topic, []).append((message.log_time, ros_message))
    front = seen["/observation/images/front"]
    assert [bytes(m.data) for _, m in front] == one.streams[FRONT].rows.files
    assert front[0][1].format == "jpeg"
    stamps = [m.header.stamp.sec * S + m.header.stamp.nanosec for _, m in front]
    assert stamps == [BEGAN + i * 50_000_000 for i in range(5)] == [ns for ns, _ in front]
    action = seen["/action"][3][1]
    assert action.name == list(of.streams["action"].names)
    np.testing.assert_array_equal(np.float32(action.position), one.streams["action"].rows[3])
    deep = seen["/observation/depth/front"][0][1]
    assert (deep.encoding, deep.height, deep.width) == ("16UC1", 32, 48)
    np.testing.assert_array_equal(
        np.frombuffer(bytes(deep.data), "<u2").reshape(32, 48), one.streams[DEPTH].rows[0]
    )
    assert [m.data[0] for _, m in seen["/reward"]] == one.streams["reward"].rows.tolist()
    with Reader(bag) as reader:  # by metadata.yaml
        assert reader.message_count == 25
        assert reader.start_time == BEGAN
        for connection, ns, raw in reader.messages():
            message = STORE.deserialize_cdr(raw, connection.msgtype)
            assert ns >= BEGAN
            del message


def header(ns: int, frame: str = "") -> object:
    stamp = T["builtin_interfaces/msg/Time"](sec=ns // S, nanosec=ns % S)
    return T["std_msgs/msg/Header"](stamp=stamp, frame_id=frame)


def image(ns: int, pixels: np.ndarray, encoding: str, pad: int = 0, big: int = 0) -> object:
    lines = np.ascontiguousarray(pixels).reshape(len(pixels), -1).view(np.uint8)
    lines = np.pad(lines, ((0, 0), (0, pad)))
    return T["sensor_msgs/msg/Image"](
        header(ns, "optical"),
        pixels.shape[0],
        pixels.shape[1],
        encoding,
        big,
        lines.shape[1],
        lines.reshape(-1),
    )


def joints(ns: int, names: list[str], values: list[float]) -> object:
    return T["sensor_msgs/msg/JointState"](
        header(ns), names, np.array(values, float), np.array(values, float) * 10, np.zeros(0)
    )


def write_bag(path: Path, messages: list[tuple[str, int, object]], storage=StoragePlugin.MCAP) -> Path:
    with Writer(path, version=9, storage_plugin=storage) as writer:
        connections = {}
        for topic, ns, message in messages:
            kind = message.__msgtype__
            if (topic, kind) not in connections:
                connections[topic, kind] = writer.add_connection(topic, kind, typestore=STORE)
            writer.write(connections[topic, kind], ns, STORE.serialize_cdr(message, kind))
    return path


def text(data: str) -> object:
    return T["std_msgs/msg/String"](data)


@pytest.mark.parametrize("storage", [StoragePlugin.MCAP, StoragePlugin.SQLITE3])
def test_what_rosbags_wrote(tmp_path: Path, storage: StoragePlugin) -> None:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 255, (4, 3, 5, 3), dtype=np.uint8)
    deep = rng.integers(0, 60000, (4, 3, 5), dtype=np.uint16)
    messages: list[tuple[str, int, object]] = [("/task", BEGAN + 5, text("wipe it"))]
    for i in range(4):
        ns = BEGAN + i * S // 10
        late = ns + 7_000_000
        messages += [
            ("/cam/rgb", late, image(ns, pixels[i], "rgb8")),
            ("/cam/bgr", late, image(ns, pixels[i][..., ::-1], "bgr8", pad=3)),
            (
                "/cam/bgra",
                late,
                image(ns, np.dstack([pixels[i][..., ::-1], deep[i] % 255]).astype("u1"), "bgra8"),
            ),
            ("/cam/grey", late, image(ns, pixels[i][..., 0], "mono8")),
            ("/cam/depth", late, image(ns, deep[i].astype(">u2"), "16UC1", big=1)),
            ("/cam/metres", late, image(ns, (deep[i] / 1000).astype("<f4"), "32FC1")),
            # the driver changes the order of the names, as real ones do
            (
                "/joint_states",
                late,
                joints(ns, ["a", "b"], [i, -i]) if i % 2 else joints(ns, ["b", "a"], [-i, i]),
            ),
            ("/joint_states", late, joints(ns, ["finger"], [0.5 * i])),
            ("/value", late, T["std_msgs/msg/Float64"](float(i))),
            ("/plan", late, T["nav_msgs/msg/Path"](header(ns), [])),
        ]
    path = write_bag(tmp_path / "bag", messages, storage)
    assert FORMAT.detect(path)
    source = open_rosbag2(path)
    one = source[0]
    np.testing.assert_array_equal(one.streams["cam.rgb"].rows[2], pixels[2])
    np.testing.assert_array_equal(one.streams["cam.bgr"].rows[2], pixels[2])
    np.testing.assert_array_equal(one.streams["cam.bgra"].rows[3], pixels[3])
    np.testing.assert_array_equal(one.streams["cam.grey"].rows[0], pixels[0][..., [0, 0, 0]])
    np.testing.assert_array_equal(one.streams["cam.depth"].rows[1], deep[1])
    np.testing.assert_array_equal(one.streams["cam.metres"].rows[1], (deep[1] / 1000).astype("f4"))
    specs = source.contents.streams
    assert specs["joint_states.position"].names == ("b", "a")
    np.testing.assert_array_equal(one.streams["joint_states.position"].rows, [[-i, i] for i in range(4)])
    np.testing.assert_array_equal(one.streams["joint_states.velocity"].rows[3], [-30, 30])
    np.testing.assert_array_equal(one.streams["joint_states.finger.position"].rows[:, 0], [0, 0.5, 1, 1.5])
    assert specs["cam.depth"].about["unit"] == "mm"
    assert specs["cam.rgb"].about == {
        "frame_id": "optical",
        "encoding": "rgb8",
        "topic": "/cam/rgb",
        "type": "sensor_msgs/msg/Image",
        "time": "header",
    }
    assert specs["value"].about["time"] == "log"
    np.testing.assert_array_equal(one.streams["cam.rgb"].time, np.arange(4) / 10)
    np.testing.assert_array_equal(one.streams["value"].time, [0.007, 0.107, 0.207, 0.307])
    assert (one.task, one.began_ns) == ("wipe it", BEGAN)
    assert [p.key for p in source.problems if "nav_msgs/msg/Path" in p.what] == ["/plan"]
    assert source.num_rows(0)["cam.rgb"] == 4


def test_poses_arrays_and_transforms(tmp_path: Path) -> None:
    vector, quaternion = T["geometry_msgs/msg/Vector3"], T["geometry_msgs/msg/Quaternion"]
    pose = T["geometry_msgs/msg/Pose"](T["geometry_msgs/msg/Point"](1, 2, 3), quaternion(0, 0, 0, 1))
    twist = T["geometry_msgs/msg/Twist"](vector(1, 2, 3), vector(4, 5, 6))
    move = T["geometry_msgs/msg/Transform"](vector(7, 8, 9), quaternion(0, 0, 1, 0))
    transform = T["geometry_msgs/msg/TransformStamped"](header(BEGAN, "base"), "arm/tool", move)
    dim = T["std_msgs/msg/MultiArrayDimension"]
    layout = T["std_msgs/msg/MultiArrayLayout"]([dim("", 2, 6), dim("", 3, 3)], 0)
    point = T["trajectory_msgs/msg/JointTrajectoryPoint"]
    wait = T["builtin_interfaces/msg/Duration"]
    none = np.zeros(0)
    points = [point(np.array([1.0 * i]), none, none, none, wait(0, i * 10**8)) for i in range(3)]
    messages = [
        ("/pose", BEGAN, T["geometry_msgs/msg/PoseStamped"](header(BEGAN), pose)),
        ("/cmd", BEGAN, twist),
        ("/tf", BEGAN, T["tf2_msgs/msg/TFMessage"]([transform])),
        ("/grid", BEGAN, T["std_msgs/msg/Float32MultiArray"](layout, np.arange(6, dtype=np.float32))),
        ("/on", BEGAN, T["std_msgs/msg/Bool"](True)),
        ("/n", BEGAN, T["std_msgs/msg/Int32"](-5)),
        ("/go", BEGAN, T["trajectory_msgs/msg/JointTrajectory"](header(BEGAN), ["j"], points)),
        ("/info", BEGAN, camera_info()),
    ]
    source = open_rosbag2(write_bag(tmp_path / "bag", messages))
    one, specs = source[0], source.contents.streams
    rows = {key: np.asarray(track.rows)[0].tolist() for key, track in one.streams.items()}
    assert rows["pose"] == [1, 2, 3, 0, 0, 0, 1]
    assert specs["pose"].names == ("x", "y", "z", "qx", "qy", "qz", "qw")
    assert rows["cmd"] == [1, 2, 3, 4, 5, 6]
    assert rows["tf.arm.tool"] == [7, 8, 9, 0, 0, 1, 0]
    assert specs["tf.arm.tool"].about["frame_id"] == "base"
    assert rows["grid"] == [[0, 1, 2], [3, 4, 5]]
    assert specs["grid"].dtype == "float32"
    assert (rows["on"], rows["n"]) == (True, -5)
    assert rows["go.positions"] == [[0], [1], [2]]
    assert rows["go.time_from_start"] == [0, 0.1, 0.2]
    assert source.contents.about["camera_info"]["/info"]["width"] == 48
    assert source.problems == []  # a camera without camera_info, and one without camera: neither is wrong


def camera_info() -> object:
    roi = T["sensor_msgs/msg/RegionOfInterest"](0, 0, 0, 0, False)
    return T["sensor_msgs/msg/CameraInfo"](
        header(BEGAN),
        32,
        48,
        "plumb_bob",
        np.zeros(5),
        np.eye(3).ravel(),
        np.eye(3).ravel(),
        np.zeros(12),
        0,
        0,
        roi,
    )


def values(times: list[float], stamps: list[float] | None = None, topic: str = "/x") -> list:
    stamps = times if stamps is None else stamps
    return [
        (topic, BEGAN + round(t * S), joints(BEGAN + round(s * S), ["j"], [i]))
        for i, (t, s) in enumerate(zip(times, stamps, strict=True))
    ]


def told(source, word: str) -> list[str]:
    return [str(problem) for problem in source.problems if word in str(problem)]


def test_odd_clocks_are_told_and_the_times_still_never_fall(tmp_path: Path) -> None:
    even = [i / 10 for i in range(20)]
    back = [t if i < 10 else t - 5 for i, t in enumerate(even)]
    bag = write_bag(tmp_path / "back", values(even, back) + values(even, topic="/good"))
    source = open_rosbag2(bag)
    assert told(source, "jump back by 4.900 s at message 10")
    np.testing.assert_allclose(source[0].streams["x.position"].time, even, atol=1e-12)
    assert source.contents.streams["x.position"].about["time"] == "log"

    forth = [t if i < 10 else t + 5 for i, t in enumerate(even)]
    source = open_rosbag2(write_bag(tmp_path / "forth", values(even, forth)))
    assert told(source, "from message 9 to 10 its stamps move -5.000 s")

    swapped = [*even[:4], even[5], even[4], *even[6:]]
    source = open_rosbag2(write_bag(tmp_path / "swapped", values(even, swapped)))
    assert told(source, "out of order")
    assert [p.repaired for p in source.problems] == [True]
    np.testing.assert_array_equal(source[0].streams["x.position"].rows[3:7, 0], [3, 5, 4, 6])

    boot = [t - 1.7e9 + 40 for t in even]
    source = open_rosbag2(
        write_bag(tmp_path / "boot", values(even, boot) + values(even, topic="/y") + values(even, topic="/z"))
    )
    assert told(source, "another clock")
    np.testing.assert_allclose(source[0].streams["x.position"].time, even, atol=1e-12)

    zero = [-1.7e9] * 20
    source = open_rosbag2(write_bag(tmp_path / "zero", values(even, zero)))
    assert source.contents.streams["x.position"].about["time"] == "log"

    late = ("/v", BEGAN + 1000 * S, T["std_msgs/msg/Float64"](1.0))
    replayed = [*values([t + 1000 for t in even], even), late]
    source = open_rosbag2(write_bag(tmp_path / "replayed", replayed))
    assert told(source, "played again")
    np.testing.assert_array_equal(source[0].streams["v"].time, [0.0])


def test_loss_duplicates_and_late_topics_are_told(tmp_path: Path) -> None:
    even = [i / 10 for i in range(40)]
    holes = [t for i, t in enumerate(even) if i not in (7, 8, 20, 21, 22)]
    source = open_rosbag2(write_bag(tmp_path / "a", values(even) + values(holes, topic="/holes")))
    assert told(source, "/holes") == told(source, "about 5 messages are missing in 2 places") != []
    twice = even[:5] + even[4:]
    source = open_rosbag2(write_bag(tmp_path / "b", values(twice) + values(even[25:], topic="/late")))
    assert told(source, "1 messages have the time of the one before")
    assert told(source, "/late: it starts 2.500 s after the first topic")


def test_compressed_images_keep_their_bytes_and_odd_ones_are_told(tmp_path: Path) -> None:
    of = contents(wrist=False)
    files = recording(of, 3).streams[FRONT].rows.files
    small = recording(contents(wrist=False, size=(16, 24)), 1).streams[FRONT].rows.files
    kind = T["sensor_msgs/msg/CompressedImage"]
    data = [*files, *small, b"", b"garbage"]
    messages = [
        ("/cam", BEGAN + i * S, kind(header(BEGAN + i * S), "jpeg", np.frombuffer(d, np.uint8)))
        for i, d in enumerate(data)
    ]
    source = open_rosbag2(write_bag(tmp_path / "bag", messages))
    rows = source[0].streams["cam"].rows
    assert [rows.encoded(i) for i in range(len(rows))] == files
    assert told(source, "1 messages have another shape")
    assert told(source, "2 messages cannot be read")


def test_video_and_whole_file_compression_are_told_by_name(tmp_path: Path) -> None:
    store = get_typestore(Stores.ROS2_JAZZY)
    name = "foxglove_msgs/msg/CompressedVideo"
    definition = "builtin_interfaces/Time timestamp\nstring frame_id\nuint8[] data\nstring format"
    store.register(get_types_from_msg(definition, name))
    stamp = T["builtin_interfaces/msg/Time"](sec=1, nanosec=0)
    packet = store.types[name](stamp, "cam", np.zeros(9, np.uint8), "h264")
    with Writer(tmp_path / "video", version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        video = writer.add_connection("/video", name, typestore=store)
        value = writer.add_connection("/v", "std_msgs/msg/Bool", typestore=store)
        writer.write(video, BEGAN, store.serialize_cdr(packet, name))
        message = T["std_msgs/msg/Bool"](True)
        writer.write(value, BEGAN, store.serialize_cdr(message, "std_msgs/msg/Bool"))
    source = open_rosbag2(tmp_path / "video")
    assert set(source[0].streams) == {"v"}
    assert told(source, "h264 video needs the frames since its last keyframe")

    writer = Writer(tmp_path / "packed", version=9, storage_plugin=StoragePlugin.MCAP)
    writer.set_compression(CompressionMode.FILE, CompressionFormat.ZSTD)
    with writer:
        value = writer.add_connection("/v", "std_msgs/msg/Bool", typestore=store)
        writer.write(value, BEGAN, store.serialize_cdr(message, "std_msgs/msg/Bool"))
    with pytest.raises(DataError, match="zstd -d"):
        open_rosbag2(tmp_path / "packed")
    writer = Writer(tmp_path / "each", version=9, storage_plugin=StoragePlugin.MCAP)
    writer.set_compression(CompressionMode.MESSAGE, CompressionFormat.ZSTD)
    with writer:
        value = writer.add_connection("/v", "std_msgs/msg/Bool", typestore=store)
        writer.write(value, BEGAN, store.serialize_cdr(message, "std_msgs/msg/Bool"))
    assert open_rosbag2(tmp_path / "each")[0].streams["v"].rows.tolist() == [True]


def test_a_torn_recording_gives_what_is_whole(tmp_path: Path) -> None:
    of = contents()
    made = [recording(of, 400, began_ns=BEGAN, codec="raw")]
    save(tmp_path / "set", of, made)
    file = tmp_path / "set" / "episode_000000" / "episode_000000.mcap"
    data = file.read_bytes()
    torn = tmp_path / "torn.mcap"
    torn.write_bytes(data[: len(data) * 2 // 3])
    source = open_rosbag2(torn)
    assert told(source, "cut off or damaged at byte")
    got = source[0]
    kept = got.num_steps
    assert 10 < kept < 400
    np.testing.assert_array_equal(got.streams["action"].rows, made[0].streams["action"].rows[:kept])
    np.testing.assert_array_equal(got.streams[FRONT].rows[kept - 2], made[0].streams[FRONT].rows[kept - 2])
    # in the set, the count says that rows are missing
    file.write_bytes(data[: len(data) * 2 // 3])
    with pytest.raises(DataError, match=r"episode_000000.*cut off"):
        _ = open_rosbag2(tmp_path / "set")[0]
    # a flipped bit in a chunk is found by its checksum
    flipped = bytearray(data)
    flipped[len(data) // 2] ^= 4
    torn.write_bytes(flipped)
    source = open_rosbag2(torn)
    assert told(source, "is damaged")
    assert 10 < source[0].num_steps < 400


def test_a_topic_can_mark_episodes(tmp_path: Path) -> None:
    even = [i / 10 for i in range(40)]
    marks = [(0.95, "push"), (1.95, ""), (2.95, "pull")]
    messages = [*values(even), *[("/episode", BEGAN + round(t * S), text(task)) for t, task in marks]]
    source = open_rosbag2(write_bag(tmp_path / "a", messages), episode_topic="/episode")
    assert [source[i].task for i in range(2)] == ["push", "pull"]
    np.testing.assert_array_equal(source[0].streams["x.position"].rows[:, 0], range(10, 20))
    np.testing.assert_array_equal(source[1].streams["x.position"].rows[:, 0], range(30, 40))
    assert source[0].began_ns == BEGAN + 950_000_000
    np.testing.assert_allclose(source[0].streams["x.position"].time[0], 0.05, atol=1e-12)
    truths = [(0.95, True), (1.95, False), (2.95, True)]
    messages = [
        *values(even),
        *[("/run", BEGAN + round(t * S), T["std_msgs/msg/Bool"](v)) for t, v in truths],
    ]
    path = write_bag(tmp_path / "b", messages)
    assert [source.num_rows(i)["x.position"] for i in range(2)] == [10, 10]
    assert len(open_rosbag2(path, episode_topic="/run")) == 2
    with pytest.raises(DataError, match="/other"):
        open_rosbag2(path, episode_topic="/other")


def test_a_folder_of_bags_is_a_set(tmp_path: Path) -> None:
    for i in range(3):
        write_bag(
            tmp_path / "set" / f"take_{i + 9}", values([0.0, 0.1]) + values([0.0] * (i + 1), topic="/y")
        )
    (tmp_path / "set" / "take_12").mkdir()
    (tmp_path / "set" / "take_12" / "take_12.mcap").write_bytes(b"nonsense")
    source = open_rosbag2(tmp_path / "set")
    assert [source.num_rows(i)["y.position"] for i in range(3)] == [1, 2, 3]  # 9, 10, 11
    assert told(source, "take_12")
    assert source[2].about == {"source": "take_11/take_11.mcap"}


def test_another_size_in_a_later_bag_is_told(tmp_path: Path) -> None:
    for i, size in enumerate((4, 6)):
        cam = image(BEGAN, np.zeros((size, 4, 3), np.uint8), "rgb8")
        write_bag(tmp_path / "set" / str(i), [("/cam", BEGAN, cam), *values([0.0])])
    source = open_rosbag2(tmp_path / "set")
    assert told(source, "episode 1, cam: it is image uint8 (6, 4, 3)")
    assert "cam" in source[0].streams
    assert "cam" not in source[1].streams
    assert "cam" not in source.num_rows(1)


def test_jpeg_on_request_is_measured(tmp_path: Path) -> None:
    of = contents(wrist=False)
    ledger = save(tmp_path / "set", of, [recording(of, 3, codec="raw")], images="jpeg")
    loss = next(loss for loss in ledger.losses if loss.stream == FRONT)
    assert (loss.what, loss.rows, loss.episodes) == ("re-encoded", 3, 1)
    assert loss.measure["psnr_db"] > 25
    assert FORMAT.plan(of, WriteOptions(images="jpeg"))[0].stream == FRONT
    assert FORMAT.plan(of, WriteOptions()) == []


def test_what_cannot_be_written_is_refused(tmp_path: Path) -> None:
    of = contents(wrist=False)
    one = recording(of, 3)
    (tmp_path / "there").mkdir()
    with pytest.raises(DataError, match="exists already"):
        FORMAT.create(tmp_path / "there", of, WriteOptions(), Ledger())
    with pytest.raises(DataError, match="video"):
        FORMAT.create(tmp_path / "a", of, WriteOptions(images="video"), Ledger())
    sink = FORMAT.create(tmp_path / "a", of, WriteOptions(), Ledger())
    late = Track(one.streams["action"].rows, np.array([0.0, np.nan, 1.0]))
    with pytest.raises(DataError, match=r"action.*finite"):
        sink.write(Recording({**one.streams, "action": late}))
    with pytest.raises(DataError, match="extra"):
        sink.write(Recording({**one.streams, "extra": late}))
    sink.write(one)
    sink.close()
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []
    assert len(open_rosbag2(tmp_path / "a")) == 1


def test_a_killed_writer_goes_on_where_it_was(tmp_path: Path) -> None:
    code = textwrap.dedent(
        """
        import os, signal, sys
        from pathlib import Path
        from recordings import contents, recording
        from regrip.datasets.formats import WriteOptions
        from regrip.datasets.formats.rosbag2 import FORMAT
        from regrip.datasets.ledger import Ledger
        of = contents()
        sink = FORMAT.create(Path(sys.argv[1]), of, WriteOptions(), Ledger())
        for i in range(sink.done, 4):
            if i == 2 and sys.argv[2] == "die":
                (Path(sys.argv[1]).parent / ".set.partial" / "unfinished").mkdir()
                os.kill(os.getpid(), signal.SIGKILL)
            sink.write(recording(of, 5 + i, seed=i))
        print("from", sink.done)
        sink.close()
        """
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([*sys.path, str(Path(__file__).parent)])}
    run = [sys.executable, "-c", code, str(tmp_path / "set")]
    died = subprocess.run([*run, "die"], env=environment, check=False, timeout=60)
    assert died.returncode == -signal.SIGKILL
    assert not (tmp_path / "set").exists()
    with pytest.raises(DataError, match="other streams"):
        FORMAT.create(tmp_path / "set", contents(wrist=False), WriteOptions(), Ledger())
    subprocess.run([*run, "live"], env=environment, check=True, timeout=60)
    of = contents()
    assert_set(open_rosbag2(tmp_path / "set"), of, [recording(of, 5 + i, seed=i) for i in range(4)])


def test_links_that_lead_out_are_refused(tmp_path: Path) -> None:
    write_bag(tmp_path / "elsewhere", values([0.0]))
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "bag").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DataError, match="leads out"):
        open_rosbag2(tmp_path / "set")
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "one.mcap").symlink_to(tmp_path / "elsewhere" / "elsewhere.mcap")
    with pytest.raises(DataError, match="leads out"):
        open_rosbag2(tmp_path / "one")
    listed = {"rosbag2_bagfile_information": {"relative_file_paths": ["../elsewhere/elsewhere.mcap"]}}
    (tmp_path / "two").mkdir()
    (tmp_path / "two" / "metadata.yaml").write_text(json.dumps(listed))
    with pytest.raises(DataError, match=r"no \.mcap"):
        open_rosbag2(tmp_path / "two")


def read_all(path: Path) -> None:
    """As much of a set as a converter would touch."""
    source = open_rosbag2(path)
    for index in range(len(source)):
        one = source[index]
        for track in one.streams.values():
            assert (np.diff(track.time) >= 0).all()
            if not isinstance(track.rows, (np.ndarray, list)) and len(track):
                _ = track.rows[0], track.rows.encoded(len(track) - 1)


@pytest.mark.parametrize("storage", [StoragePlugin.MCAP, StoragePlugin.SQLITE3])
def test_mutated_files_end_in_words(tmp_path: Path, storage: StoragePlugin) -> None:
    number = int(os.environ.get("REGRIP_FUZZ", "100"))
    pixels = np.zeros((4, 4, 3), np.uint8)
    messages = values([i / 10 for i in range(5)]) + [
        ("/cam", BEGAN + i, image(BEGAN + i, pixels, "rgb8")) for i in range(3)
    ]
    bag = write_bag(tmp_path / "bag", [*messages, ("/task", BEGAN, text("t"))], storage)
    file = next(p for p in bag.iterdir() if p.suffix in (".mcap", ".db3"))
    mutate(file, tmp_path / f"bad{file.suffix}", number, read_all)


def test_mutated_files_of_ours_end_in_words(tmp_path: Path) -> None:
    of = contents(size=(16, 24))
    save(tmp_path / "set", of, [recording(of, 3)])
    bag = tmp_path / "set" / "episode_000000"
    mutate(
        bag / "episode_000000.mcap",
        tmp_path / "bad.mcap",
        int(os.environ.get("REGRIP_FUZZ", "100")),
        read_all,
    )
    for file in (bag / "metadata.yaml", tmp_path / "set" / "regrip.json"):
        mutate(file, file, 50, lambda _: read_all(tmp_path / "set"))


def mutate(good: Path, bad: Path, number: int, read) -> None:
    rng = np.random.default_rng(7)
    data = good.read_bytes()
    for _ in range(number):
        changed = bytearray(data)
        kind = rng.integers(0, 4)
        at = int(rng.integers(0, len(data)))
        if kind == 0:
            changed = changed[:at]
        elif kind == 1:
            changed[at] ^= 1 << int(rng.integers(0, 8))
        elif kind == 2:
            changed[at : at + 8] = rng.choice([b"\xff" * 8, b"\0" * 8, b"\x7f" * 8])
        else:
            del changed[at : at + int(rng.integers(1, 64))]
        bad.write_bytes(changed)
        with contextlib.suppress(DataError):
            read(bad)
    bad.write_bytes(data)
