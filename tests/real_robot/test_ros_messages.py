from __future__ import annotations

import array
import base64
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from regrip.datasets.frames import decode_image, encode_png
from regrip.real_robot import ros_messages as rm
from regrip.real_robot import topics
from regrip.real_robot.messages import Command, Joints, Tick, TransportError
from regrip.real_robot.topics import CameraTopic, Faults, Topics
from regrip.real_robot.transports.rosbridge import generation_of, make_json


def make(kind, **fields):
    return SimpleNamespace(**fields)


def rosbags_make(store):
    """Messages of the package rosbags: an implementation that is not ours."""

    def made(kind, **fields):
        package, name = kind.split("/")
        found = store.types[f"{package}/msg/{name}"]
        for field, declared in found.__dataclass_fields__.items():
            if "ndarray" in str(declared.type):
                value = fields.get(field, [])
                whole = isinstance(value, bytes)
                fields[field] = np.frombuffer(value, np.uint8) if whole else np.array(value, np.float64)
        return found(**fields)

    return made


def stores():
    from rosbags.typesys import Stores, get_typestore

    return [get_typestore(store) for store in (Stores.ROS2_HUMBLE, Stores.ROS2_JAZZY)]


def raw(encoding, data, height, width, step, big=0):
    return SimpleNamespace(
        encoding=encoding, data=data, height=height, width=width, step=step, is_bigendian=big, header=None
    )


RED, GREEN = [200, 10, 30], [5, 220, 40]


@pytest.mark.parametrize(
    ("encoding", "row"),
    [
        ("rgb8", [*RED, *GREEN]),
        ("bgr8", [*RED[::-1], *GREEN[::-1]]),
        ("8UC3", [*RED[::-1], *GREEN[::-1]]),
        ("rgba8", [*RED, 7, *GREEN, 9]),
        ("bgra8", [*RED[::-1], 7, *GREEN[::-1], 9]),
    ],
)
@pytest.mark.parametrize("padding", [0, 3])
def test_colours_by_hand(encoding, row, padding):
    line = bytes(row) + b"\xaa" * padding
    message = raw(encoding, line * 2, 2, 2, len(line))
    assert rm.pixels(message).tolist() == [[RED, GREEN]] * 2
    short = raw(
        encoding, (line * 2)[: len(line) + len(row)], 2, 2, len(line)
    )  # no padding after the last row
    assert rm.pixels(short).tolist() == [[RED, GREEN]] * 2


def test_grey_and_depth_by_hand():
    assert rm.pixels(raw("mono8", bytes([0, 255]), 1, 2, 2)).tolist() == [[[0] * 3, [255] * 3]]
    for big, code in ((0, "<"), (1, ">")):
        deep = np.array([[1, 300]], f"{code}u2")
        found = rm.pixels(raw("16UC1", deep.tobytes(), 1, 2, 4, big))
        assert found.dtype == np.uint16
        assert found.tolist() == [[1, 300]]
        metres = np.array([[0.5, 2.25]], f"{code}f4")
        found = rm.pixels(raw("32FC1", metres.tobytes(), 1, 2, 8, big))
        assert found.dtype == np.float32
        assert found.tolist() == [[0.5, 2.25]]


def test_yuv422_by_hand():
    # BT.601, video range: white is 235; red is Y 81, U 90, V 240.
    uyvy, yuyv = bytes([128, 235, 128, 235, 90, 81, 240, 81]), bytes([235, 128, 235, 128, 81, 90, 81, 240])
    for encoding, data in (("yuv422", uyvy), ("yuv422_yuy2", yuyv)):
        found = rm.pixels(raw(encoding, data, 1, 4, 8))
        assert found[0, 0].tolist() == [255, 255, 255]
        assert np.abs(found[0, 3].astype(int) - [255, 0, 0]).max() <= 2


def test_every_form_of_bytes():
    data = bytes(range(12))
    forms = [data, bytearray(data), array.array("B", data), np.frombuffer(data, np.uint8), list(data),
             base64.b64encode(data).decode()]  # fmt: skip
    for form in forms:
        assert rm.pixels(raw("rgb8", form, 2, 2, 6)).tobytes() == data


@pytest.mark.parametrize(
    ("message", "words"),
    [
        (raw("bayer_rggb8", b"", 1, 1, 1), "bayer_rggb8.*rgb8"),
        (raw("rgb8", bytes(11), 2, 2, 6), "only 11 bytes"),
        (raw("rgb8", bytes(12), 2, 2, 5), "rows of 5 bytes"),
        (raw("rgb8", b"", 0, 2, 6), "0 x 2"),
        (raw("rgb8", "no base64!", 2, 2, 6), "base64"),
        (raw("rgb8", [300] * 12, 2, 2, 6), "not of bytes"),
        (raw("yuv422", bytes(6), 1, 3, 6), "even"),
    ],
)
def test_pictures_that_are_none(message, words):
    with pytest.raises(rm.MessageError, match=words):
        rm.pixels(message)


@given(st.binary(max_size=64), st.integers(-1, 9), st.integers(-1, 9), st.integers(-1, 40), st.sampled_from(
    ["rgb8", "mono8", "16UC1", "32FC1", "yuv422", ""]))  # fmt: skip
def test_any_image_message_is_a_picture_or_refused(data, height, width, step, encoding):
    try:
        found = rm.pixels(raw(encoding, data, height, width, step))
    except rm.MessageError:
        return
    assert found.shape[:2] == (height, width)


def test_an_image_file_is_kept_as_it_came():
    picture = np.random.default_rng(0).integers(0, 256, (8, 10, 3), np.uint8)
    png = encode_png(picture)
    message = make("", data=base64.b64encode(png).decode(), format="png")
    frame = rm.frame("front", message, compressed=True, stamp=1.0, received=2.0)
    assert frame.encoded == png
    assert np.array_equal(frame.image, picture)
    jpeg = rm.compressed_image(make, picture, 0.0)
    frame = rm.frame("front", jpeg, compressed=True, stamp=1.0, received=2.0)
    assert np.array_equal(frame.image, decode_image(jpeg.data))
    with pytest.raises(rm.MessageError, match="front"):
        rm.frame("front", make("", data=png[:40], format="png"), compressed=True, stamp=0.0, received=0.0)
    deep = raw("16UC1", bytes(4), 1, 2, 4)
    with pytest.raises(rm.MessageError, match="depth"):
        rm.frame("front", deep, compressed=False, stamp=0.0, received=0.0)


def test_stamps_of_both_generations():
    one, two = SimpleNamespace(secs=12, nsecs=500_000_000), SimpleNamespace(sec=12, nanosec=500_000_000)
    assert rm.seconds(one) == rm.seconds(two) == 12.5
    assert rm.from_json({"stamp": {"secs": 1, "nsecs": 2}}).stamp.nsecs == 2
    assert generation_of(rm.from_json({"header": {"stamp": {"secs": 1, "nsecs": 2}}})) == 1
    assert generation_of(rm.from_json({"header": {"stamp": {"sec": 1, "nanosec": 2}}})) == 2
    assert generation_of(rm.from_json({"data": True})) == 0
    assert rm.duration(make_json(1), 0.05) == {"secs": 0, "nsecs": 50_000_000}
    assert rm.duration(make_json(2), 1.05) == {"sec": 1, "nanosec": 50_000_000}
    assert rm.time(make_json(2), 0.9999999999) == {"sec": 1, "nanosec": 0}  # rounded, not 1e9 nanoseconds


def test_joint_states_of_all_kinds():
    found = rm.joints(make("", name=["b", "a"], position=[1, None], velocity=[]), stamp=1.0, received=2.0)
    assert found.names == ("b", "a")
    assert found.position[0] == 1.0
    assert np.isnan(found.position[1])  # rosbridge's null
    assert found.velocity.shape == (0,)
    with pytest.raises(rm.MessageError, match="numbers"):
        rm.joints(make("", name=["a"], position=["x"], velocity=[]), stamp=0.0, received=0.0)


@pytest.mark.parametrize("said", ["false", "true", None, 2, 0.5, [True]])
def test_only_true_and_false_enable_an_arm(said):
    with pytest.raises(rm.MessageError):
        rm.flag(make("", data=said))


@given(st.integers(1, 8), st.integers(1, 4), st.floats(1.0, 500.0))
def test_a_trajectory_comes_back(rows, joints, rate):
    positions = np.random.default_rng(0).normal(size=(rows, joints))
    names = tuple(f"j{i}" for i in range(joints))
    for generation in (1, 2):
        sent = rm.from_json(rm.trajectory(make_json(generation), Command(names, positions, rate)))
        found_names, found, times = rm.trajectory_rows(sent)
        assert found_names == names
        assert np.array_equal(found, positions)
        assert np.allclose(times, np.arange(1, rows + 1) / rate, atol=1e-9)
        assert rm.seconds(sent.header.stamp) == 0.0


def test_the_same_functions_serve_the_classes_of_rosbags():
    pytest.importorskip("rosbags")
    picture = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    state = Joints(5.25, 0.0, ("a", "b"), np.array([1.0, 2.0]), np.array([3.0, 4.0]))
    command = Command(("a", "b"), np.array([[1.0, 2.0], [3.0, 4.0]]), 100.0)
    for store in stores():
        made = rosbags_make(store)

        def sent(message, kind, store=store):
            again = store.deserialize_cdr(store.serialize_cdr(message, kind), kind)
            assert rm.seconds(again.header.stamp) == (0.0 if "Trajectory" in kind else 5.25)
            return again

        again = sent(rm.image(made, picture, 5.25, "cam"), "sensor_msgs/msg/Image")
        assert np.array_equal(rm.pixels(again), picture)
        found = rm.joints(
            sent(rm.joint_state(made, state), "sensor_msgs/msg/JointState"), stamp=5.25, received=0.0
        )
        assert found.names == state.names
        assert np.array_equal(found.velocity, state.velocity)
        again = sent(rm.trajectory(made, command), "trajectory_msgs/msg/JointTrajectory")
        names, rows, times = rm.trajectory_rows(again)
        assert names == command.names
        assert np.array_equal(rows, command.positions)
        assert times.tolist() == [0.01, 0.02]


def test_arrays_say_their_shape():
    actions = np.arange(6, dtype=np.float32).reshape(2, 3)
    message = rm.chunk(make, ("x", "y", "z"), actions)
    assert [(dim.label, dim.size, dim.stride) for dim in message.layout.dim] == [
        ("row", 2, 6),
        ("x,y,z", 3, 3),
    ]
    assert np.array_equal(rm.multi_array(message), actions)
    message.data.pop()
    with pytest.raises(rm.MessageError, match="5 numbers"):
        rm.multi_array(message)


def test_twist_by_hand():
    """A joint that slides along x, and one that turns about z."""

    def pose(joints):
        half = joints[1] / 2
        return np.array([joints[0], 0.0, 0.0]), np.array([np.cos(half), 0.0, 0.0, np.sin(half)])

    rows = np.array([[0.0, 0.0, 9.0], [0.01, 0.02, 9.0], [0.02, 0.04, 9.0]])
    velocity = rm.tool_velocity(pose, Command(("x", "r", "gripper"), rows, 100.0), 2)
    assert velocity == pytest.approx([1.0, 0, 0, 0, 0, 2.0])
    still = np.repeat(rows[-1:], 3, axis=0)
    assert (
        rm.tool_velocity(pose, Command(("x", "r", "gripper"), still, 100.0, "stop"), 2).tolist() == [0.0] * 6
    )
    message = rm.twist(make, velocity, 3.5, "base")
    assert rm.seconds(message.header.stamp) == 3.5
    assert (message.twist.linear.x, message.header.frame_id) == (1.0, "base")
    assert message.twist.angular.z == pytest.approx(2.0)


def test_diagnostics_say_state_and_reason():
    tick, faults = Tick(10.0, "hold", "front is 0.31 s old"), Faults()
    faults.note("/front", "no picture", 9.5)
    said = topics.diagnostics(Topics(), make, tick, {"age front": 0.31}, faults, 1.0, level_bytes=True)
    status = said.status[0]
    assert status.level == b"\x01"
    assert status.message == "hold: front is 0.31 s old; /front: no picture"
    assert {value.key: value.value for value in status.values} == {
        "age front": "0.31",
        "unreadable /front": "1",
    }
    assert topics.diagnostics(Topics(), make, tick, {}, Faults(), 1.0).status[0].level == 1


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"command": "/a b"}, "no ROS name"),
        ({"enable": "/joint_states"}, "joint_states.*each needs its own|each needs its own"),
        ({"estop": ""}, "estop is empty"),
        ({"command_type": "array"}, "joint_order"),
        ({"command_type": "twist"}, "frame_id"),
        ({"node": "my node"}, "node"),
        ({"cameras": {"front": CameraTopic("/joint_states")}}, "each needs its own"),
    ],
)
def test_wrong_topics_are_refused(wrong, words):
    with pytest.raises(ValueError, match=words):
        Topics(**wrong)


def test_topics_must_serve_the_policy():
    described = Topics(cameras={"frnt": CameraTopic("/a")})
    with pytest.raises(TransportError, match=r"'front', which has no topic; topics.cameras has frnt"):
        described.check(["front"], ["j1"])
    with pytest.raises(TransportError, match="joint_order is j2; commands have j1, j2"):
        Topics(command_type="array", joint_order=("j2",)).check([], ["j1", "j2"])
    with pytest.raises(TransportError, match="a twist does not move 'gripper'"):
        Topics(command_type="twist", frame_id="base").check([], ["j1"], "gripper")


def test_commands_by_type():
    command = Command(("j1", "j2", "gripper"), np.array([[1.0, 2.0, 0.04], [3.0, 4.0, 0.05]]), 100.0)
    [(topic, array_message)] = topics.command_messages(
        Topics(command="/c", command_type="array", joint_order=("gripper", "j2", "j1")),
        command,
        make,
        0.0,
        "gripper",
    )
    assert topic == "/c"
    assert rm.multi_array(array_message).tolist() == [0.05, 4.0, 3.0]
    apart = Topics(command="/c", gripper="/g", gripper_type="array")
    messages = dict(topics.command_messages(apart, command, make, 0.0, "gripper"))
    assert rm.multi_array(messages["/g"]).tolist() == [0.05]
    assert messages["/c"].joint_names == ["j1", "j2"]
    assert [point.positions for point in messages["/c"].points] == [[1.0, 2.0], [3.0, 4.0]]
