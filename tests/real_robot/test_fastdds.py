"""The node and DDS of another make: a small C++ peer on Debian's Fast DDS, what ROS 2 speaks by default."""

from __future__ import annotations

import shutil
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("cyclonedds", reason="needs regrip[ros]")

from dds_bench import loopback_namespace, process, until

from regrip.launch.sim_robot import TOPICS
from regrip.real_robot import ros_messages
from regrip.real_robot.dds import DdsConfig, Participant, topic_name, type_name
from regrip.real_robot.messages import Command, Joints
from regrip.real_robot.ros2_types import Types
from regrip.real_robot.topics import Qos
from regrip.real_robot.transports.dds import dds_transport
from regrip.sim.tabletop.robot import ARM, GRIPPER

HERE = DdsConfig(loopback_only=True)
TYPES = Types()
PICTURE = np.random.default_rng(1).integers(0, 256, (480, 640, 3), np.uint8)
STATE = Joints(12.5, 0.0, ("joint1", "ellbow"), np.array([1.5, -2.25]), np.array([0.5, 0.0]))
MESSAGES = {
    "std_msgs/String": TYPES.make("std_msgs/String", data="Grüße"),
    "sensor_msgs/JointState": ros_messages.joint_state(TYPES.make, STATE, "base"),
    "sensor_msgs/Image": ros_messages.image(TYPES.make, PICTURE, 12.5, "front"),
}


@pytest.fixture(scope="module")
def peer(tmp_path_factory):
    """The compiled peer, in a network of its own."""
    source = Path(__file__).with_name("fastdds") / "peer.cpp"
    if shutil.which("g++") is None or not Path("/usr/include/fastdds").is_dir():
        pytest.skip("needs Debian's g++, libfastrtps-dev and libfastcdr-dev: make dds-peer")
    program = tmp_path_factory.mktemp("fastdds") / "peer"
    flags = ["-std=c++17", "-O1", "-Wall", "-Wextra", "-Werror"]
    subprocess.run(
        ["g++", *flags, str(source), "-o", str(program), "-lfastrtps", "-lfastcdr", "-pthread"],
        check=True, timeout=240,
    )  # fmt: skip
    with loopback_namespace():
        yield str(program)


@pytest.fixture
def node(peer):
    participant = Participant("node", HERE)
    yield participant
    participant.close()


class Deaf:
    """Events that nobody minds."""

    def __getattr__(self, name):
        return lambda *_: None


def reliability(reliable):
    return "reliable" if reliable else "best-effort"


def heard_by(peer, topic, kind, reliable, count, say, folder):
    """What the peer hears while we say something again and again."""
    kept = folder / "heard"
    words = (peer, "listen", topic_name(topic), type_name(kind), reliability(reliable), str(count))
    with kept.open("w") as output, process(*words, stdout=output) as listener:

        def again():
            say()
            time.sleep(0.04)
            return listener.poll() is not None

        until(again)
    return [bytes.fromhex(line) for line in kept.read_text().split()]


def same_but_for_padding(data, expected):
    """DDS fills payloads up to 4 bytes."""
    return (
        data[: len(expected)] == expected and not any(data[len(expected) :]) and len(data) < len(expected) + 4
    )


@pytest.mark.parametrize("reliable", [True, False], ids=["reliable", "best effort"])
@pytest.mark.parametrize("kind", MESSAGES)
def test_what_we_say_is_heard(peer, node, kind, reliable, tmp_path):
    writer = node.advertise("/said", kind, Qos(reliable, 5))
    expected = TYPES.write(kind, MESSAGES[kind])
    heard = heard_by(
        peer, "/said", kind, reliable, 3, lambda: writer.matched and writer.publish(MESSAGES[kind]), tmp_path
    )
    assert len(heard) == 3
    assert all(same_but_for_padding(data, expected) for data in heard)


@pytest.mark.parametrize("reliable", [True, False], ids=["reliable", "best effort"])
@pytest.mark.parametrize("kind", MESSAGES)
def test_what_it_says_is_heard(peer, node, kind, reliable, tmp_path):
    heard = []
    node.listen("/heard", kind, Qos(reliable, 5), heard.append)
    node.start()
    said = tmp_path / "said"
    said.write_text(TYPES.write(kind, MESSAGES[kind]).hex() + "\n")
    with (
        said.open() as source,
        process(
            peer, "say", topic_name("/heard"), type_name(kind), reliability(reliable), "20", stdin=source
        ),
    ):
        assert until(lambda: len(heard) >= 3)
    assert TYPES.write(kind, heard[0]) == TYPES.write(kind, MESSAGES[kind])


def test_best_effort_sensors_are_heard_and_a_mismatch_is_said(peer, node, tmp_path):
    got = []
    node.listen("/strict", "std_msgs/String", Qos(reliable=True, depth=1), got.append)
    node.listen("/other", "std_msgs/Bool", Qos(reliable=False, depth=1), got.append)
    node.start()
    said = tmp_path / "said"
    said.write_text(TYPES.write("std_msgs/String", MESSAGES["std_msgs/String"]).hex() + "\n")
    string = type_name("std_msgs/String")
    with (
        said.open() as source,
        said.open() as again,
        process(peer, "say", topic_name("/strict"), string, "best-effort", "20", stdin=source),
        process(peer, "say", topic_name("/other"), string, "best-effort", "20", stdin=again),
    ):
        until(lambda: len(node.mismatches()) == 2)
        assert node.mismatches() == [
            "/strict is published with another reliability than the node's",
            "/other is published as std_msgs/String, and the node has it as std_msgs/Bool",
        ]
    assert not got


def test_trash_from_another_implementation_harms_nothing(peer, tmp_path):
    faults, heard = [], []
    node = Participant("node", HERE, lambda topic, why: faults.append(f"{topic}: {why}"))
    node.listen("/trash", "std_msgs/String", Qos(reliable=True, depth=10), heard.append)
    node.start()
    said = tmp_path / "said"
    fine = TYPES.write("std_msgs/String", MESSAGES["std_msgs/String"])
    trash = [b"\0\1\0\0\xff\xff\xff\xff", b"\0\1\0\0", b"\0\1\0\0\2\0\0\0\xff\0\0\0", fine[:9]]
    said.write_text("".join(data.hex() + "\n" for data in (*trash, fine)))
    try:
        with (
            said.open() as source,
            process(
                peer,
                "say",
                topic_name("/trash"),
                type_name("std_msgs/String"),
                "reliable",
                "50",
                stdin=source,
            ),
        ):
            assert until(lambda: len(heard) >= 3)
    finally:
        node.close()
    assert {message.data for message in heard} == {"Grüße"}
    print(faults[:4])


def test_a_command_of_the_node_on_its_way(peer, tmp_path):
    """The transport's own trajectory, as the other implementation gets it."""
    there = dds_transport(TOPICS, ("front", "wrist"), ARM, GRIPPER, config=HERE)
    there.connect(Deaf())
    rows = np.arange(16.0).reshape(2, 8)
    command, kind = Command((*ARM, GRIPPER), rows, 100.0), "trajectory_msgs/JointTrajectory"
    try:
        [data] = heard_by(peer, TOPICS.command, kind, True, 1, lambda: there.send(command), tmp_path)
    finally:
        there.close()
    names, found, times = ros_messages.trajectory_rows(TYPES.read(kind, data))
    assert names == (*ARM, GRIPPER)
    assert found.tolist() == rows.tolist()
    assert times == pytest.approx([0.01, 0.02])
