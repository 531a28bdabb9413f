"""A camera's pictures through the node's transports: how many are lost, and how old they are when they come.

    python benchmarks/node_pictures.py                      # 640x480 at 30 Hz over ROS 1 and DDS, ten seconds
    python benchmarks/node_pictures.py --networks dds --height 720 --width 1280

Another process publishes numbered noise, which no codec could shrink, uncompressed; the node's own transport
takes it. ROS 1 needs `make ros1`, DDS regrip[ros]. On a busy machine this measures the machine.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import importlib
import os
import sys
import tempfile
import time
from collections.abc import Iterator

import numpy as np
from node_transports import _until, free_port, running

from regrip.launch.robot_config import load_robot
from regrip.real_robot import ros_messages
from regrip.real_robot.dds import DdsConfig, Participant
from regrip.real_robot.messages import Frame, Transport
from regrip.real_robot.topics import CameraTopic, Qos
from regrip.real_robot.transports import ros1 as over_ros1
from regrip.real_robot.transports.dds import dds_transport
from regrip.real_robot.transports.ros1 import Ros1, import_rospy

TOPIC = "/benchmark/image_raw"
LOCAL = DdsConfig(domain=78, loopback_only=True)
_EXTRA_S = 3.0  # until both have found each other


class Eyes:
    """What the transport tells: the pictures are kept by number."""

    def __init__(self) -> None:
        self.ages: dict[int, float] = {}

    def on_frame(self, frame: Frame) -> None:
        assert frame.image is not None
        low, middle, high = (int(x) for x in frame.image[0, 0])
        self.ages[low + 256 * middle + 65536 * high] = frame.received - frame.stamp

    def __getattr__(self, name: str) -> object:
        return lambda *given: None


def publish(network: str, height: int, width: int, hz: float, seconds: float) -> None:
    """The other process: numbered noise."""
    picture = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    if network == "ros1":
        rospy, sensor = import_rospy(), importlib.import_module("sensor_msgs.msg")
        rospy.init_node("camera", disable_signals=True)
        topic = rospy.Publisher(TOPIC, sensor.Image, queue_size=5, tcp_nodelay=True)
        send, make = topic.publish, over_ros1.make
    else:
        peer = Participant("camera", LOCAL)
        send, make = peer.advertise(TOPIC, "sensor_msgs/Image", Qos(False, 5)).publish, peer.make
    due, end, number = time.monotonic(), time.monotonic() + seconds, 0
    while time.monotonic() < end:
        picture[0, 0] = number % 256, number // 256 % 256, number // 65536
        send(ros_messages.image(make, picture, time.time()))
        number += 1
        due += 1 / hz
        time.sleep(max(0.0, due - time.monotonic()))


@contextlib.contextmanager
def transport(network: str) -> Iterator[Transport]:
    """The node's end."""
    robot = load_robot("tabletop")
    topics = dataclasses.replace(robot.topics, cameras={"front": CameraTopic(TOPIC)})
    if network == "dds":
        yield dds_transport(topics, ["front"], robot.joint_names, "gripper", config=LOCAL)
        return
    with tempfile.TemporaryDirectory() as home:
        port = free_port()
        os.environ |= {"ROS_MASTER_URI": f"http://127.0.0.1:{port}", "ROS_IP": "127.0.0.1", "ROS_HOME": home}
        rosgraph = (import_rospy(), importlib.import_module("rosgraph"))[1]
        with running("rosmaster", "--core", "-p", str(port)):
            _until(lambda: rosgraph.is_master_online(), "rosmaster does not answer")
            yield Ros1(topics, ["front"], robot.joint_names, "gripper")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=["ros1", "dds"], choices=("ros1", "dds"))
    parser.add_argument("--height", type=int, default=480)
    parser.add_argument("--width", type=int, default=640)
    parser.add_argument("--hz", type=float, default=30.0)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--publish", default="", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.publish:
        publish(given.publish, given.height, given.width, given.hz, given.seconds)
        return
    print(f"{'':6}{'pictures':>18}{'MB/s':>8}{'lost':>12}{'age p50':>10}{'age p99, ms':>13}")
    wanted = round(given.hz * given.seconds)
    for network in given.networks:
        eyes = Eyes()
        with transport(network) as there:
            there.connect(eyes)  # type: ignore[arg-type]
            command = [sys.executable, __file__, "--publish", network]
            for name in ("height", "width", "hz"):
                command += [f"--{name}", str(getattr(given, name))]
            with running(*command, "--seconds", str(given.seconds + _EXTRA_S)):
                _until(
                    lambda ages=eyes.ages: len(ages) >= wanted,
                    "too few pictures come",
                    3 * given.seconds + 30,
                )
            there.close()
        # Those before both ends have settled are no loss: nobody was there to hear them.
        numbers = sorted(eyes.ages)[10:wanted]
        of = numbers[-1] - numbers[0] + 1
        ages = 1e3 * np.array([eyes.ages[number] for number in numbers])
        rate = given.height * given.width * 3 * given.hz / 1e6
        size = f"{given.width}x{given.height}"
        print(
            f"{network:6}{size:>12}{given.hz:4.0f} Hz{rate:7.0f}{f'{of - len(numbers)} of {of}':>12}"
            f"{np.quantile(ages, 0.5):10.1f}{np.quantile(ages, 0.99):13.1f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
