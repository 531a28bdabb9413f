"""The rclpy adapter: over a double that stands on DDS; and over rclpy itself where a ROS 2 is sourced."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import runpy
import sys
import time
import types
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("cyclonedds", reason="needs regrip[ros]")

import rclpy_double
from dds_bench import bench, loopback_namespace, sim_robot, until
from scenario import play

from regrip.launch.sim_robot import TOPICS
from regrip.real_robot import ros_messages
from regrip.real_robot.dds import DdsConfig, Participant
from regrip.real_robot.messages import Command, Tick, TransportError
from regrip.real_robot.topics import COMMAND, CONTROL, SENSOR, Qos
from regrip.real_robot.transports.ros2 import ros2_transport
from regrip.sim.tabletop.env import TabletopEnv
from regrip.sim.tabletop.robot import ARM, GRIPPER

CAMERAS = ("front", "wrist")
HERE = DdsConfig(loopback_only=True)
SOURCED = importlib.util.find_spec("rclpy") is not None
# What the adapter calls, and what it gives: as read in rclpy 3.3.15 (Humble) and in rolling of late 2024.
CALLS = {
    ("rclpy", "init"): ("context", "signal_handler_options"),
    ("rclpy", "shutdown"): ("context",),
    ("rclpy", "create_node"): ("node_name", "context"),
    ("rclpy.executors", "SingleThreadedExecutor.__init__"): ("self", "context"),
    ("rclpy.executors", "SingleThreadedExecutor.add_node"): ("self", "node"),
    ("rclpy.executors", "SingleThreadedExecutor.spin_once"): ("self", "timeout_sec"),
    ("rclpy.executors", "SingleThreadedExecutor.shutdown"): ("self", "timeout_sec"),
    ("rclpy.node", "Node.create_publisher"): ("self", "msg_type", "topic", "qos_profile"),
    ("rclpy.node", "Node.create_subscription"): ("self", "msg_type", "topic", "callback", "qos_profile"),
    ("rclpy.node", "Node.get_publishers_info_by_topic"): ("self", "topic_name"),
    ("rclpy.node", "Node.get_subscriptions_info_by_topic"): ("self", "topic_name"),
    ("rclpy.node", "Node.destroy_node"): ("self",),
    ("rclpy.qos", "qos_check_compatible"): ("publisher_qos", "subscription_qos"),
}
NAMES = {
    "rclpy.context": ("Context",),
    "rclpy.signals": ("SignalHandlerOptions.NO",),
    "rclpy.qos": (
        "QoSProfile", "ReliabilityPolicy.RELIABLE", "ReliabilityPolicy.BEST_EFFORT",
        "DurabilityPolicy.VOLATILE",
        "HistoryPolicy.KEEP_LAST", "QoSCompatibility.ERROR",
    ),
}  # fmt: skip


@pytest.fixture
def double(monkeypatch):
    rclpy_double.install(monkeypatch)
    with loopback_namespace():
        yield


def transport(**options):
    return ros2_transport(TOPICS, CAMERAS, ARM, GRIPPER, **options)


def at(module, path):
    found = importlib.import_module(module)
    for part in path.split("."):
        found = getattr(found, part)
    return found


def contract(exactly):
    for (module, path), wanted in CALLS.items():
        parameters = inspect.signature(at(module, path)).parameters
        assert set(wanted) <= set(parameters), (path, wanted)
        needed = {
            name
            for name, one in parameters.items()
            if one.default is one.empty and one.kind < one.VAR_KEYWORD
        }
        assert needed - {"args"} <= set(wanted), path
        if exactly:
            assert set(parameters) == set(wanted), path
    for module, names in NAMES.items():
        for name in names:
            at(module, name)


def test_the_double_has_the_signatures_that_are_read_in_rclpy(monkeypatch):
    rclpy_double.install(monkeypatch)
    contract(exactly=True)


def test_rclpy_has_them():
    pytest.importorskip("rclpy", reason="needs a sourced ROS 2")
    contract(exactly=False)


@pytest.mark.skipif(SOURCED, reason="a ROS 2 is sourced")
def test_without_ros_what_to_do_is_said():
    with pytest.raises(TransportError, match=r"needs rclpy.*setup.bash.*transport dds"):
        transport().connect(None)


def test_the_double_is_as_strict_as_rclpy():
    status = rclpy_double.message_class("diagnostic_msgs/DiagnosticStatus")
    with pytest.raises(AssertionError, match="bytes"):
        status(level=0)
    point = rclpy_double.message_class("trajectory_msgs/JointTrajectoryPoint")
    with pytest.raises(AssertionError):
        point(positions=np.zeros(3))
    with pytest.raises(AssertionError):
        rclpy_double.message_class("sensor_msgs/Image")(data=bytes(3))
    with pytest.raises(AssertionError, match="float"):
        rclpy_double.message_class("geometry_msgs/Vector3")(x=np.float32(1))


class Listener:
    def __init__(self):
        self.frames, self.said = [], []

    def on_frame(self, frame):
        self.frames.append(frame)

    def on_joints(self, joints):
        self.said.append(joints)

    def __getattr__(self, name):
        return lambda value, now: self.said.append((name.removeprefix("on_"), value))


def test_messages_both_ways(double):
    there, heard, robot = transport(), Listener(), Participant("robot", HERE)
    there.connect(heard)
    commands, diagnostics, chunks = [], [], []
    try:
        robot.listen(TOPICS.command, "trajectory_msgs/JointTrajectory", COMMAND, commands.append)
        robot.listen(TOPICS.diagnostics, "diagnostic_msgs/DiagnosticArray", CONTROL, diagnostics.append)
        robot.listen(TOPICS.chunk, "std_msgs/Float64MultiArray", CONTROL, chunks.append)
        image = robot.advertise(TOPICS.cameras["front"].topic, "sensor_msgs/Image", SENSOR)
        enable = robot.advertise(TOPICS.enable, "std_msgs/Bool", CONTROL)
        robot.start()
        assert until(lambda: image.matched and enable.matched)
        picture = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
        image.publish(ros_messages.image(robot.make, picture, time.time()))
        enable.publish(robot.make("std_msgs/Bool", data=True))
        assert until(lambda: heard.frames and heard.said)
        assert np.array_equal(heard.frames[0].image, picture)
        assert abs(heard.frames[0].stamp - there.now()) < 5.0
        assert heard.said == [("enable", True)]

        rows = np.arange(16.0).reshape(2, 8)

        def say():
            there.send(Command((*ARM, GRIPPER), rows, 100.0))
            there.diagnose(Tick(there.now(), "estop", "e-stop"), {"ticks": 3.0})
            there.publish_chunk(("dx", "dy"), np.ones((3, 2), np.float32))
            time.sleep(0.05)
            return commands and diagnostics and chunks

        assert until(say)
        names, found, _ = ros_messages.trajectory_rows(commands[0])
        assert (names, found.tolist()) == ((*ARM, GRIPPER), rows.tolist())
        assert (diagnostics[0].status[0].level, diagnostics[0].status[0].message) == (2, "estop: e-stop")
        assert ros_messages.multi_array(chunks[0]).tolist() == [[1.0, 1.0]] * 3
    finally:
        there.close()
        robot.close()


def test_what_does_not_match_is_said(double):
    there, robot = transport(), Participant("robot", HERE)
    there.connect(Listener())
    try:
        robot.advertise(TOPICS.enable, "std_msgs/Bool", Qos(reliable=False, depth=1))
        robot.advertise(TOPICS.joint_states, "std_msgs/String", SENSOR)
        assert until(lambda: len(there.mismatches()) == 2)
        first, second = there.mismatches()
        assert "/joint_states is published as std_msgs/msg/String" in first
        assert "/regrip/enable is published with another quality of service" in second
        assert "reliable subscription" in second
    finally:
        there.close()
        robot.close()


def test_shadow_makes_no_publisher_of_commands(double):
    there = transport(shadow=True)
    there.connect(Listener())
    there.send(Command(ARM, np.zeros((5, 7)), 100.0))
    made = {topic for topic, _, _ in there.middleware._publishing}
    there.close()
    assert made == {TOPICS.chunk, TOPICS.diagnostics}


def scenario():
    env = TabletopEnv("demo")
    spec = env.spec
    env.close()
    with sim_robot(), bench(HERE) as found:
        return play(transport(), lambda: found, spec, age_s=0.6, skew_s=0.3, patience_s=30.0)


@pytest.mark.realtime
def test_scenario_over_the_double(double):
    played = scenario()
    print(played)
    assert not played.failed, str(played)


@pytest.mark.realtime
def test_scenario_over_rclpy(monkeypatch):
    """On the domain 0 of this machine's own network: ROS_LOCALHOST_ONLY=1 keeps it there."""
    pytest.importorskip("rclpy", reason="needs a sourced ROS 2")
    monkeypatch.setenv("ROS_LOCALHOST_ONLY", "1")
    played = scenario()
    print(played)
    assert not played.failed, str(played)


def test_the_launch_file_starts_the_node(monkeypatch):
    """Over stand-ins for ROS 2's launch: what would be started, word by word."""
    kept = []

    def module(name, **contents):
        found = types.ModuleType(name)
        found.__dict__.update(contents)
        monkeypatch.setitem(sys.modules, name, found)

    given = {"policy": "runs/one two", "transport": "ros2", "options": "--shadow --task 'lift it'"}

    class Configuration:
        def __init__(self, name):
            self.name = name

        def perform(self, context):
            return context[self.name]

    module("launch", LaunchDescription=lambda entities: entities)
    module(
        "launch.actions",
        DeclareLaunchArgument=lambda name, default_value=None, description="": name,
        ExecuteProcess=lambda **options: kept.append(options),
        OpaqueFunction=lambda function: function(given),
        Shutdown=lambda reason: reason,
    )
    module("launch.substitutions", LaunchConfiguration=Configuration)
    monkeypatch.setenv("REGRIP", "/venv/bin/regrip")
    file = Path(__file__).parents[2] / "launch" / "ros" / "node_ros2.launch.py"
    described = runpy.run_path(str(file))["generate_launch_description"]()
    assert described[:3] == ["policy", "transport", "options"]
    [process] = kept
    expected = [
        "/venv/bin/regrip",
        "node",
        "runs/one two",
        "--transport",
        "ros2",
        "--shadow",
        "--task",
        "lift it",
    ]
    assert process["cmd"] == expected
    assert process["on_exit"]
