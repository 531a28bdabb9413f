"""Genuine ROS 1 processes for the tests: a master, the simulated arm, and whoever else takes part."""

from __future__ import annotations

import contextlib
import importlib
import os
import shutil
import socket
import subprocess
import sys
import time
import xmlrpc.client
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from scenario import Bench

from regrip.launch.sim_robot import ORDERS, TRUTH
from regrip.real_robot.messages import TransportError
from regrip.real_robot.transports.ros1 import import_rospy

SRC = Path(__file__).resolve().parents[2] / "src"
NEEDED = "needs Debian's python3-rospy, python3-rosmaster and message packages: `make ros1`"


def require_ros1() -> None:
    try:
        import_rospy()
    except TransportError:
        pytest.skip(NEEDED)
    if shutil.which("rosmaster") is None:
        pytest.skip(NEEDED)


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@contextlib.contextmanager
def running(command: list[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A child process, ended by its own id whatever happens."""
    with log.open("ab") as out:
        child = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, env=os.environ.copy())
    try:
        yield child
    finally:
        child.terminate()
        try:
            child.wait(10)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


@contextlib.contextmanager
def master(folder: Path) -> Iterator[str]:
    """`rosmaster` alone, on a free port of this machine; this process and its children use it."""
    port = free_port()
    uri = f"http://127.0.0.1:{port}"
    os.environ |= {"ROS_MASTER_URI": uri, "ROS_IP": "127.0.0.1", "ROS_HOME": str(folder)}
    os.environ.pop("ROS_HOSTNAME", None)
    with running(["rosmaster", "--core", "-p", str(port)], folder / "master.log") as child:
        end = time.monotonic() + 30
        while True:
            try:
                xmlrpc.client.ServerProxy(uri).getPid("/test")
                break
            except OSError:
                assert child.poll() is None, (folder / "master.log").read_text()
                assert time.monotonic() < end, "rosmaster does not answer"
                time.sleep(0.02)
        yield uri


def robot_command(*options: str) -> list[str]:
    os.environ["PYTHONPATH"] = str(SRC)
    os.environ["OMP_NUM_THREADS"] = "1"
    return [sys.executable, "-m", "regrip.launch.robot_ros1", *options]


class Ros1Bench(Bench):
    """Orders through this process's own rospy node, which the transport has made."""

    def __init__(self) -> None:
        rospy, std = import_rospy(), importlib.import_module("std_msgs.msg")
        self.publisher: Any = rospy.Publisher(ORDERS, std.String, queue_size=10, tcp_nodelay=True)
        super().__init__(lambda text: self.publisher.publish(std.String(text)))
        self.subscriber: Any = rospy.Subscriber(TRUTH, std.String, lambda message: self.hear(message.data))

    def await_robot(self, seconds: float = 60.0) -> None:
        """Until a robot hears orders and tells the truth."""
        self.truth = type(self.truth)()
        end = time.monotonic() + seconds
        while not (self.publisher.get_num_connections() and self.truth.names):
            assert time.monotonic() < end, "the simulated robot does not appear"
            time.sleep(0.05)

    def close(self) -> None:
        self.publisher.unregister()
        self.subscriber.unregister()
