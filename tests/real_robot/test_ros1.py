"""The node over genuine ROS 1: `rosmaster`, and the simulated arm as a rospy process of its own."""

from __future__ import annotations

import importlib
import os
import signal
import time
import xmlrpc.client

import numpy as np
import pytest
from ros1_peers import Ros1Bench, master, require_ros1, robot_command, running
from scenario import START, Player, Waver, make_core, play

from regrip.launch.sim_robot import COMPRESSED, TOPICS
from regrip.real_robot import ros_messages
from regrip.real_robot.messages import Command, TransportError
from regrip.real_robot.node import Node
from regrip.real_robot.topics import CameraTopic, Topics
from regrip.real_robot.transports.ros1 import Ros1, import_rospy, make
from regrip.sim.tabletop.env import TabletopEnv
from regrip.sim.tabletop.robot import ARM, GRIPPER

CAMERAS = ("front", "wrist")


@pytest.fixture(scope="module")
def ros(tmp_path_factory):
    require_ros1()
    folder = tmp_path_factory.mktemp("ros1")
    with master(folder):
        yield folder


@pytest.fixture(scope="module")
def spec():
    env = TabletopEnv("demo")
    yield env.spec
    env.close()


class Listener:
    """Events that come in, kept."""

    def __init__(self):
        self.frames, self.joints, self.said = [], [], []

    def on_frame(self, frame):
        self.frames.append(frame)

    def on_joints(self, joints):
        self.joints.append(joints)

    def on_human(self, joints):
        self.said.append(("human", joints))

    def on_task(self, task, now):
        self.said.append(("task", task))

    def __getattr__(self, name):
        return lambda value, now: self.said.append((name.removeprefix("on_"), value))


def wait(until, seconds=30.0):
    end = time.monotonic() + seconds
    while not until() and time.monotonic() < end:
        time.sleep(0.02)
    return until()


def transport(topics=TOPICS, **options):
    return Ros1(topics, CAMERAS, ARM, GRIPPER, **options)


def publisher(topic, kind):
    package, name = kind.split("/")
    found = import_rospy().Publisher(
        topic, getattr(importlib.import_module(f"{package}.msg"), name), queue_size=10, tcp_nodelay=True
    )
    return found


def published_by_us(uri):
    """Topics that this process's node is registered as a publisher of."""
    _, _, (publishers, _, _) = xmlrpc.client.ServerProxy(uri).getSystemState("/test")
    return {topic for topic, nodes in publishers if "/regrip" in nodes}


def test_no_master_is_said_in_words(ros, monkeypatch):
    monkeypatch.setenv("ROS_MASTER_URI", "http://127.0.0.1:9")
    with pytest.raises(TransportError, match=r"no ROS master answers at http://127.0.0.1:9.*roscore"):
        transport().connect(Listener())


def test_pictures_arrive_byte_for_byte(ros):
    topics = Topics(cameras={"front": CameraTopic("/a/image"), "wrist": CameraTopic("/b/image", True)})
    there, heard = transport(topics), Listener()
    there.connect(heard)
    try:
        raw, packed = (
            publisher("/a/image", "sensor_msgs/Image"),
            publisher("/b/image", "sensor_msgs/CompressedImage"),
        )
        assert wait(lambda: raw.get_num_connections() and packed.get_num_connections())
        picture = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
        stamp = time.time()
        before = there.now()
        raw.publish(ros_messages.image(make, picture, stamp))
        compressed = ros_messages.compressed_image(make, picture, stamp)
        packed.publish(compressed)
        assert wait(lambda: len(heard.frames) == 2)
        frames = {frame.camera: frame for frame in heard.frames}
        assert np.array_equal(frames["front"].image, picture)
        assert frames["front"].encoded is None
        assert frames["wrist"].encoded == compressed.data
        for frame in heard.frames:  # the header's stamp, on the node's clock
            assert abs(frame.stamp - before) < 0.1
            assert frame.received >= before
    finally:
        there.close()


def test_what_cannot_be_read_is_counted_and_harms_nothing(ros):
    there, heard = transport(), Listener()
    there.connect(heard)
    try:
        raw, joints = (
            publisher("/front/image_raw", "sensor_msgs/Image"),
            publisher("/joint_states", "sensor_msgs/JointState"),
        )
        assert wait(lambda: raw.get_num_connections() and joints.get_num_connections())
        raw.publish(
            make("sensor_msgs/Image", height=4, width=4, encoding="bayer_rggb8", step=4, data=bytes(16))
        )
        joints.publish(make("sensor_msgs/JointState", name=["joint2", "joint1"], position=[2.0, 1.0]))
        assert wait(lambda: there.faults.counts and heard.joints)
        assert there.faults.counts == {"/front/image_raw": 1}
        assert "bayer_rggb8" in there.faults.recent(there.now(), 60.0)
        assert heard.joints[0].names == ("joint2", "joint1")
        assert heard.joints[0].position.tolist() == [2.0, 1.0]
    finally:
        there.close()


def test_a_topic_of_another_type_is_refused(ros):
    wrong = publisher("/regrip/enable", "std_msgs/String")
    try:
        with pytest.raises(TransportError, match=r"/regrip/enable carries std_msgs/String.*std_msgs/Bool"):
            transport().connect(Listener())
    finally:
        wrong.unregister()


def test_shadow_has_no_publisher_of_commands(ros):
    uri = os.environ["ROS_MASTER_URI"]
    command = Command(ARM, np.zeros((5, 7)), 100.0)
    there = transport(shadow=True)
    there.connect(Listener())
    there.send(command)
    assert published_by_us(uri) & {TOPICS.command, TOPICS.chunk, TOPICS.diagnostics} == {
        TOPICS.chunk,
        TOPICS.diagnostics,
    }
    there.close()
    there = transport()
    there.connect(Listener())
    assert TOPICS.command in published_by_us(uri)
    there.close()


def test_a_command_as_a_trajectory(ros):
    rospy, heard = import_rospy(), []
    there = transport()
    there.connect(Listener())
    kind = importlib.import_module("trajectory_msgs.msg").JointTrajectory
    subscriber = rospy.Subscriber(TOPICS.command, kind, heard.append)
    rows = np.arange(16.0).reshape(2, 8)
    try:
        assert wait(lambda: subscriber.get_num_connections())
        # The publisher's side of a connection may come later: what is sent before is lost.
        assert wait(lambda: there.send(Command((*ARM, GRIPPER), rows, 100.0)) or heard)
        assert heard[0].joint_names == [*ARM, GRIPPER]
        assert heard[0].header.stamp.to_nsec() == 0
        assert [point.time_from_start.to_nsec() for point in heard[0].points] == [10_000_000, 20_000_000]
        assert [list(point.positions) for point in heard[0].points] == rows.tolist()
        assert not heard[0].points[0].velocities
    finally:
        subscriber.unregister()
        there.close()


@pytest.mark.realtime
@pytest.mark.parametrize("topics", [TOPICS, COMPRESSED], ids=["raw", "jpeg"])
def test_scenario(ros, spec, topics):
    options = ["--compressed"] if topics is COMPRESSED else []
    benches = []

    def bench():
        benches.append(Ros1Bench())
        benches[0].await_robot()
        return benches[0]

    with running(robot_command(*options), ros / "robot.log"):
        try:
            # In real time on a machine that may be loaded: the gate is given more time than on a robot's own.
            played = play(transport(topics), bench, spec, age_s=0.6, skew_s=0.3, patience_s=30.0)
        finally:
            for found in benches:
                found.close()
    print(played)
    assert not played.failed, str(played)


@pytest.mark.realtime
def test_the_robot_is_killed_and_comes_again(ros, spec):
    core, policy = make_core(spec, age_s=0.6, skew_s=0.3), Waver()
    node = Node(core, transport(), policy)
    node.connect()
    bench = Ros1Bench()
    player = Player(node, bench, policy, 30.0)
    try:
        with running(robot_command(), ros / "robot.log") as robot:
            bench.await_robot()
            player.wait(bench.tamper())
            player.wait(bench.order(do="reset", **START))
            assert player.wait(lambda: not core.gate.fault(node.transport.now()))
            assert player.enable()
            assert player.moves(), player.why()
            robot.send_signal(signal.SIGKILL)
            assert player.wait(lambda: core.state == "hold" and " old" in core.reason), player.why()
        commands = []
        for _ in range(20):
            tick = node.step()
            commands.append(tick.command)
        assert commands[-1] is None  # nothing is sent to where nobody is
        core.on_enable(False, node.transport.now())
        with running(robot_command(), ros / "robot.log"):
            bench.await_robot()
            before = bench.position
            player.run(1.0)
            assert core.state == "inactive"  # it does not go on by itself
            assert np.abs(bench.position - before).max() < 2e-3
            player.wait(bench.tamper())
            player.wait(bench.order(do="reset", **START))
            assert player.wait(lambda: not core.gate.fault(node.transport.now()))
            assert player.enable()
            assert player.moves(), player.why()
    finally:
        node.close()
        bench.close()
