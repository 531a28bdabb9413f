"""ROS 2 without ROS, across processes, in a network namespace that holds nothing but lo."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("cyclonedds", reason="needs regrip[ros]")

from dds_bench import bench, loopback_namespace, process, sim_robot, until
from scenario import START, Player, Waver, make_core, play

from regrip.launch.sim_robot import COMPRESSED, TOPICS
from regrip.real_robot import ros_messages
from regrip.real_robot.dds import DdsConfig, Participant, topic_name, type_name
from regrip.real_robot.messages import Command, TransportError
from regrip.real_robot.node import Node
from regrip.real_robot.ros2_types import Types
from regrip.real_robot.topics import COMMAND, CONTROL, SENSOR, Qos
from regrip.real_robot.transports.dds import dds_transport
from regrip.sim.tabletop.env import TabletopEnv
from regrip.sim.tabletop.robot import ARM, GRIPPER

PEER = str(Path(__file__).with_name("dds_peer.py"))
CAMERAS = ("front", "wrist")
HERE = DdsConfig(loopback_only=True)


@pytest.fixture(scope="module")
def lo():
    with loopback_namespace():
        yield


@pytest.fixture(scope="module")
def spec():
    env = TabletopEnv("demo")
    yield env.spec
    env.close()


@pytest.fixture
def node(lo):
    faults = []
    participant = Participant("node", HERE, lambda topic, why: faults.append(f"{topic}: {why}"))
    participant.faults = faults
    yield participant
    participant.close()


def peer(*words, **environment):
    return process(sys.executable, PEER, "0", *words, **environment)


# Without a network ------------------------------------------------------------------------------------------


def test_names_are_those_of_the_wire():
    assert topic_name("/arm/joint_states") == "rt/arm/joint_states"
    assert type_name("sensor_msgs/JointState") == "sensor_msgs::msg::dds_::JointState_"
    # Of std_msgs/String, as ROS 2's own generator writes it into its packages.
    hashed = "RIHS01_df668c740482bbd48fb39d76a70dfd4bd59db1288021743503259e948f6b1a18"
    assert Types().hash("std_msgs/String") == hashed


def test_messages_are_plain_little_endian_cdr():
    types = Types()
    header = bytes([0, 1, 0, 0])
    text = types.write("std_msgs/String", types.make("std_msgs/String", data="hi"))
    assert text == header + bytes([3, 0, 0, 0]) + b"hi\0"
    point = types.make(
        "trajectory_msgs/JointTrajectoryPoint",
        positions=[1.0],
        time_from_start=ros_messages.duration(types.make, 0.5),
    )
    expected = (
        header
        + bytes([1, 0, 0, 0]) + bytes(4) + np.float64(1.0).tobytes()  # one position, on an 8-byte boundary
        + bytes(12)  # no velocities, accelerations, effort
        + np.int32(0).tobytes() + np.uint32(500_000_000).tobytes()
    )  # fmt: skip
    assert types.write("trajectory_msgs/JointTrajectoryPoint", point) == expected
    read = types.read("trajectory_msgs/JointTrajectoryPoint", expected)
    assert read.positions.tolist() == [1.0]
    assert ros_messages.seconds(read.time_from_start) == 0.5


def test_what_is_no_message_is_refused_in_words():
    types = Types()
    with pytest.raises(TypeError, match="std_msgs/String has no field text"):
        types.make("std_msgs/String", text="hi")
    with pytest.raises(TransportError, match="no message 'std_msgs/Text'"):
        types.make("std_msgs/Text")
    for data in (b"", b"\0\1\0\0", b"\0\1\0\0\xff\xff\xff\xff", b"\0\1\0\0\2\0\0\0\xff\0"):
        with pytest.raises(ValueError, match=r"bytes that are no std_msgs/String"):
            types.read("std_msgs/String", data)


def test_settings(monkeypatch):
    with pytest.raises(ValueError, match="domain is 233, expected 0 to 232"):
        DdsConfig(233)
    with pytest.raises(ValueError, match=r"distro is 'humbel'.*humble"):
        DdsConfig(distro="humbel")
    monkeypatch.setenv("ROS_DOMAIN_ID", "7")
    monkeypatch.setenv("ROS_DISTRO", "jazzy")
    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    assert DdsConfig.from_environment() == DdsConfig(7, "jazzy", loopback_only=True)
    monkeypatch.setenv("ROS_DISTRO", "noetic")  # a ROS 1 is sourced, which says nothing of the other side
    assert DdsConfig.from_environment().distro == ""
    monkeypatch.setenv("ROS_DOMAIN_ID", "seven")
    with pytest.raises(ValueError, match="ROS_DOMAIN_ID is 'seven'"):
        DdsConfig.from_environment()
    monkeypatch.setenv("CYCLONEDDS_URI", "file:///mine.xml")
    assert HERE.profile().endswith(",file:///mine.xml")  # Cyclone lets the last one win


@pytest.mark.parametrize("package", ["cyclonedds", "rosbags"])
def test_a_missing_package_is_named(monkeypatch, package):
    for name in [name for name in sys.modules if name.split(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(TransportError, match=rf"needs {package}.*pip install 'regrip\[ros\]'"):
        Participant("node", HERE)


# Across processes -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("alone", [True, False], ids=["loopback only", "multicast"])
def test_a_peer_is_heard_and_when_killed_its_successor_is(lo, alone):
    heard = []
    node = Participant("node", DdsConfig(1, loopback_only=alone))
    environment = {} if alone else {"EVERYWHERE": "1"}
    command = (sys.executable, PEER, "1", "strings", "/x", "reliable")
    try:
        node.listen("/x", "std_msgs/String", SENSOR, lambda message: heard.append(int(message.data)))
        node.start()
        with process(*command, **environment) as first:
            assert until(lambda: len(heard) > 5)
            first.send_signal(signal.SIGKILL)
            first.wait()
        before = len(heard)
        assert heard == sorted(heard)
        with process(*command, **environment):
            assert until(lambda: len(heard) > before + 5)
        assert heard[before] < heard[before - 1] or heard[before] < 100  # counted from 1 again
    finally:
        node.close()


def test_topics_that_do_not_match_are_said_in_words(node):
    got = []
    node.listen("/image", "std_msgs/String", Qos(reliable=True, depth=1), got.append)
    node.listen("/flag", "std_msgs/String", SENSOR, got.append)
    node.listen("/fine", "std_msgs/String", SENSOR, got.append)
    node.start()
    with peer("strings", "/image", "best-effort"), peer("bools", "/flag"), peer("strings", "/fine"):
        assert until(lambda: got and len(node.mismatches()) == 2)
        assert node.mismatches() == [
            "/image is published with another reliability than the node's",
            "/flag is published as std_msgs/Bool, and the node has it as std_msgs/String",
        ]
    assert until(lambda: node.mismatches() == [])  # nobody is there any more


def test_a_late_listener_gets_what_is_latched(node):
    writer = node.advertise("/latched", "std_msgs/String", Qos(True, 1), latched=True)
    for text in ("old", "new"):
        writer.publish(node.make("std_msgs/String", data=text))
    heard = []
    node.listen("/latched", "std_msgs/String", Qos(True, 1), heard.append, latched=True)
    node.start()
    assert until(lambda: heard)
    time.sleep(0.2)
    assert [message.data for message in heard] == ["new"]


@pytest.mark.parametrize(("distro", "length"), [("humble", 24), ("jazzy", 16), ("", 0)])
def test_the_graph_is_told_only_in_the_form_of_a_known_distro(lo, distro, length):
    heard = []
    node = Participant("arm_node", DdsConfig(2, distro, loopback_only=True))
    reader = node.listen("/joint_states", "sensor_msgs/JointState", SENSOR, lambda message: None)
    writer = node.advertise("/command", "trajectory_msgs/JointTrajectory", COMMAND)
    kind = "rmw_dds_common/ParticipantEntitiesInfo"
    raw = node._topic("ros_discovery_info", kind)  # as a node of ROS 2 would listen to it
    entity = node._cyclone.sub.DataReader(node._subscriber, raw, qos=node._qos(kind, Qos(True, 10), True))
    try:
        until(lambda: heard.extend(entity.take(N=10)) or heard, 10.0 if distro else 1.0)
        assert len(heard) == bool(distro)
        if distro:
            told = node.types.read(kind, heard[0].data)
            assert told.node_entities_info_seq[0].node_name == "arm_node"
            assert len(told.gid.data) == length
            found = told.node_entities_info_seq[0]
            assert [bytes(gid.data[:16]) for gid in found.reader_gid_seq] == [reader.entity.guid.bytes]
            assert [bytes(gid.data[:16]) for gid in found.writer_gid_seq] == [writer.entity.guid.bytes]
    finally:
        entity = raw = None  # Cyclone lets go of it when Python does
        node.close()


def test_a_reader_that_does_not_read_does_not_stop_the_control_loop(node):
    writer = node.advertise("/command", "trajectory_msgs/JointTrajectory", COMMAND)
    command = Command(ARM, np.zeros((5, 7)), 100.0)
    message = ros_messages.trajectory(node.make, command)
    with peer("listen", "/other") as other, peer("listen", "/text"):
        text = node.advertise("/text", "std_msgs/String", COMMAND)
        assert until(lambda: text.matched)
        os.kill(other.pid, signal.SIGSTOP)
        try:
            longest, refused = 0.0, 0
            for _ in range(300):
                began = time.perf_counter()
                try:
                    text.publish(node.make("std_msgs/String", data="x" * 50_000))
                    writer.publish(message)
                except TransportError:
                    refused += 1
                longest = max(longest, time.perf_counter() - began)
        finally:
            os.kill(other.pid, signal.SIGCONT)
    print(f"longest {longest * 1e3:.1f} ms, {refused} refused")
    assert longest < 0.5


@pytest.mark.realtime
@pytest.mark.parametrize(
    ("height", "width"), [(480, 640), pytest.param(720, 1280, marks=pytest.mark.slow)], ids=["vga", "720p"]
)
def test_pictures_at_30_hz_without_loss(node, height, width):
    numbers, wrong = [], []

    def take(message):
        picture = ros_messages.pixels(message)
        number = int(message.header.frame_id)
        numbers.append(number)
        if picture.shape != (height, width, 3) or (picture[0, 0] != number % 251).any():
            wrong.append(number)

    node.listen("/image", "sensor_msgs/Image", Qos(reliable=False, depth=5), take)
    node.start()
    with peer("images", "/image", str(height), str(width), "30"):
        assert until(lambda: len(numbers) >= 60)
    settled = numbers[5:]  # for a moment, the peer knows of us and we do not know of it
    assert settled == list(range(settled[0], settled[0] + len(settled)))
    assert not wrong


# The transport ----------------------------------------------------------------------------------------------


class Listener:
    """Events that come in, kept."""

    def __init__(self):
        self.frames, self.joints, self.said = [], [], []

    def on_frame(self, frame):
        self.frames.append(frame)

    def on_joints(self, joints):
        self.joints.append(joints)

    def on_task(self, task, now):
        self.said.append(("task", task))

    def __getattr__(self, name):
        return lambda value, now: self.said.append((name.removeprefix("on_"), value))


def transport(topics=TOPICS, **options):
    return dds_transport(topics, CAMERAS, ARM, GRIPPER, **{"config": HERE, **options})


def test_pictures_arrive_byte_for_byte_and_trash_is_counted(node):
    there, heard = transport(), Listener()
    there.connect(heard)
    image = node.advertise(TOPICS.cameras["front"].topic, "sensor_msgs/Image", SENSOR)
    enable = node.advertise(TOPICS.enable, "std_msgs/Bool", CONTROL)
    try:
        assert until(lambda: image.matched and enable.matched)
        picture = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
        before = there.now()
        image.publish(ros_messages.image(node.make, picture, time.time()))
        assert until(lambda: heard.frames)  # of two, the newest would do
        image.publish(node.make("sensor_msgs/Image", height=4, width=4, encoding="bayer", step=4))
        enable.publish(node.make("std_msgs/Bool", data=True))
        assert until(lambda: heard.frames and heard.said and there.faults.counts)
        assert np.array_equal(heard.frames[0].image, picture)
        assert abs(heard.frames[0].stamp - before) < 0.1  # the header's stamp, on the node's clock
        assert heard.said == [("enable", True)]
        assert there.faults.counts == {TOPICS.cameras["front"].topic: 1}
    finally:
        there.close()


def test_shadow_has_no_publisher_of_commands(node):
    def published():
        return set(node._discovered_types(node._discovered[0]))

    commands, chunks = topic_name(TOPICS.command), topic_name(TOPICS.chunk)
    there = transport(shadow=True)
    there.connect(Listener())
    there.send(Command(ARM, np.zeros((5, 7)), 100.0))
    assert until(lambda: chunks in published())
    assert commands not in published()
    there.close()
    there = transport()
    there.connect(Listener())
    assert until(lambda: commands in published())
    there.close()


def test_a_command_as_a_trajectory(node):
    there, heard = transport(), []
    there.connect(Listener())
    reader = node.listen(TOPICS.command, "trajectory_msgs/JointTrajectory", COMMAND, heard.append)
    node.start()
    rows = np.arange(16.0).reshape(2, 8)
    try:
        assert until(lambda: reader.matched)
        assert until(lambda: there._writers[TOPICS.command].matched)
        there.send(Command((*ARM, GRIPPER), rows, 100.0))
        assert until(lambda: heard)
        names, found, times = ros_messages.trajectory_rows(heard[0])
        assert names == (*ARM, GRIPPER)
        assert found.tolist() == rows.tolist()
        assert times == pytest.approx([0.01, 0.02])
        assert ros_messages.seconds(heard[0].header.stamp) == 0.0
    finally:
        there.close()


def test_nobody_tells_the_simulated_time(lo, monkeypatch):
    there = transport(sim_time=True)
    monkeypatch.setattr(there._simulated, "wait", lambda longest_s: False)  # 5 s of it
    with pytest.raises(TransportError, match=r"/clock.*start the simulator"):
        there.connect(Listener())


@pytest.mark.realtime
@pytest.mark.parametrize("topics", [TOPICS, COMPRESSED], ids=["raw", "jpeg"])
def test_scenario(lo, spec, topics):
    options = ["--compressed"] if topics is COMPRESSED else []
    with sim_robot(*options), bench(HERE) as found:
        # In real time on a machine that may be loaded: the gate is given more time than on a robot's own.
        played = play(transport(topics), lambda: found, spec, age_s=0.6, skew_s=0.3, patience_s=30.0)
    print(played)
    assert not played.failed, str(played)


@pytest.mark.long
def test_scenario_in_simulated_time(lo, spec):
    config = DdsConfig(3, "humble", loopback_only=True)
    with sim_robot("--domain", "3", "--distro", "humble", "--sim-time"), bench(config) as found:
        there = transport(config=config, sim_time=True)
        played = play(there, lambda: found, spec, age_s=0.6, skew_s=0.3, patience_s=30.0)
    print(played)
    assert not played.failed, str(played)


@pytest.mark.realtime
def test_the_robot_is_killed_and_comes_again(lo, spec):
    core, policy = make_core(spec, age_s=0.6, skew_s=0.3), Waver()
    there = Node(core, transport(), policy)
    there.connect()
    try:
        with sim_robot() as robot, bench(HERE) as found:
            player = Player(there, found, policy, 30.0)
            player.wait(found.tamper())
            player.wait(found.order(do="reset", **START))
            assert player.wait(lambda: not core.gate.fault(there.transport.now()))
            assert player.enable()
            assert player.moves(), player.why()
            robot.send_signal(signal.SIGKILL)
            assert player.wait(lambda: core.state == "hold" and " old" in core.reason), player.why()
            # The robot's process is who presses the dead-man switch, too.
            assert player.wait(lambda: core.state == "inactive" and "dead-man" in core.reason), player.why()
        with sim_robot(), bench(HERE) as found:
            player.bench, before = found, found.position
            player.run(1.0)
            assert core.state == "inactive"  # it does not go on by itself
            assert np.abs(found.position - before).max() < 2e-3
            player.wait(found.tamper())
            player.wait(found.order(do="reset", **START))
            assert player.wait(lambda: not core.gate.fault(there.transport.now())), player.why()
            assert player.enable()
            assert player.moves(), player.why()
    finally:
        there.close()
