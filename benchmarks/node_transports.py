"""Success over real middleware (`benchmarks/node.py transports`): the arm is another process.

ROS 1 and rosbridge need `make ros1`, DDS, rosbridge and ros2 regrip[ros]. The arm's clock runs at a factor of
real time, so that a busy machine makes nobody late: what is measured is the transport, not the machine. With
a factor of 0 there is no such clock: all is real time, and the machine is measured, too.

`ros2` is the adapter for rclpy over the tests' stand-in for rclpy, which carries its messages over DDS.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from regrip.datasets.spec import RobotSpec
from regrip.datasets.starts import StartState
from regrip.datasets.statistics import Rate
from regrip.launch.robot_config import RobotConfig, make_core, open_arm
from regrip.launch.sim_robot import COMPRESSED, ORDERS, TRUTH, Truth
from regrip.real_robot.dds import DdsConfig, Participant
from regrip.real_robot.messages import Policy, Tick, Transport
from regrip.real_robot.node import Node
from regrip.real_robot.topics import CONTROL
from regrip.real_robot.transports.dds import dds_transport
from regrip.real_robot.transports.ros1 import Ros1, import_rospy
from regrip.real_robot.transports.ros2 import ros2_transport
from regrip.real_robot.transports.rosbridge import RosBridge

_PATIENCE_S = 20.0  # of the transport's time, for whatever must happen
_TESTS = Path(__file__).resolve().parents[1] / "tests/real_robot"
_LAST_S = 0.2  # after the last action was sent: it is done, and the robot has said how it ended


class Person:
    """Who stands beside the arm: puts things where an episode begins, and sees how it ends.

    Args:
        send: puts the text of an order on its way to the arm's process; what is so comes to `hear`.
    """

    def __init__(self, send: Callable[[str], None]) -> None:
        self._send, self._orders, self.truth = send, 0, Truth()

    def hear(self, text: str) -> None:
        self.truth = Truth(**json.loads(text))

    def reset(self, start: StartState) -> Callable[[], bool]:
        """Order it; the answer tells whether it has been obeyed."""
        self._orders += 1
        number = self._orders
        where = {"task": start.task, "split": start.split, "index": start.index, "seed": start.seed}
        self._send(json.dumps({"id": number, "do": "reset", **where}))
        return lambda: self.truth.order >= number


@dataclass
class OverNetwork:
    """What came of it.

    Attributes:
        success: of each start.
        steps: actions executed in each.
        latency: p50 and p95 from request to answer, seconds of the transport's time.
        ticks: of the node; late: those that began more than half a period late.
        busy: the machine's share of time that somebody computed, 0 to 1.
    """

    success: list[bool] = field(default_factory=list)
    steps: list[int] = field(default_factory=list)
    counters: dict[str, int] = field(default_factory=dict)
    latency: tuple[float, float] = (np.nan, np.nan)
    ticks: int = 0
    late: int = 0
    busy: float = np.nan

    @property
    def rate(self) -> Rate:
        return Rate(sum(self.success), len(self.success))


def clock(factor: float) -> tuple[str, ...]:
    """Options of the arm's process: simulated time at a factor of real time, or real time for 0."""
    return ("--sim-time", "--factor", str(factor)) if factor else ()


@contextlib.contextmanager
def running(*command: str) -> Iterator[subprocess.Popen[bytes]]:
    """A child process, ended by its own id whatever happens."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    child = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    try:
        yield child
    finally:
        child.terminate()
        try:
            child.wait(10)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@contextlib.contextmanager
def ros1(robot: RobotConfig, factor: float, *more: str) -> Iterator[tuple[Transport, Callable[[], Person]]]:
    """A master and the arm on it; the second is to be called when the transport is connected."""
    with tempfile.TemporaryDirectory() as home:
        port = free_port()
        os.environ |= {"ROS_MASTER_URI": f"http://127.0.0.1:{port}", "ROS_IP": "127.0.0.1", "ROS_HOME": home}
        module = "regrip.launch.robot_ros1"
        options = (*clock(factor), *more)
        rosgraph = (import_rospy(), importlib.import_module("rosgraph"))[1]
        with running("rosmaster", "--core", "-p", str(port)):
            _until(lambda: rosgraph.is_master_online(), "rosmaster does not answer")
            with running(sys.executable, "-m", module, *options):
                master = rosgraph.Master("/benchmark")
                _until(
                    lambda: any(topic == TRUTH for topic, _ in master.getPublishedTopics("")),
                    "the arm does not appear",
                )
                yield Ros1(robot.topics, robot.topics.cameras, robot.joint_names, "gripper"), _ros1_person


def _ros1_person() -> Person:
    rospy, std = import_rospy(), importlib.import_module("std_msgs.msg")
    publisher = rospy.Publisher(ORDERS, std.String, queue_size=10, tcp_nodelay=True)
    person = Person(lambda text: publisher.publish(std.String(text)))
    rospy.Subscriber(TRUTH, std.String, lambda message: person.hear(message.data))
    _until(lambda: publisher.get_num_connections() and person.truth.names, "the arm does not appear")
    return person


@contextlib.contextmanager
def dds(
    robot: RobotConfig, factor: float, rclpy: bool = False
) -> Iterator[tuple[Transport, Callable[[], Person]]]:
    """The arm over Cyclone DDS, on this machine alone; for the node rclpy's stand-in, if that is wanted."""
    config = DdsConfig(domain=77, loopback_only=True)
    options = (*clock(factor), "--domain", str(config.domain))
    described = (robot.topics, robot.topics.cameras, robot.joint_names, "gripper")
    with running(sys.executable, "-m", "regrip.launch.robot_dds", *options):
        participant = Participant("person", config)
        try:
            orders = participant.advertise(ORDERS, "std_msgs/String", CONTROL)
            person = Person(lambda text: orders.publish(participant.make("std_msgs/String", data=text)))
            participant.listen(TRUTH, "std_msgs/String", CONTROL, lambda message: person.hear(message.data))
            participant.start()
            _until(lambda: orders.matched and person.truth.names, "the arm does not appear")
            if rclpy:
                made = ros2_transport(*described, sim_time=bool(factor))
            else:
                made = dds_transport(*described, config=config, sim_time=bool(factor))
            yield made, lambda: person
        finally:
            participant.close()


@contextlib.contextmanager
def ros2(robot: RobotConfig, factor: float) -> Iterator[tuple[Transport, Callable[[], Person]]]:
    """The adapter for rclpy, over the stand-in."""
    sys.path.insert(0, str(_TESTS))
    double: Any = importlib.import_module("rclpy_double")
    with pytest.MonkeyPatch.context() as patch:
        double.install(patch)
        patch.setattr(double, "CONFIG", DdsConfig(domain=77, loopback_only=True))
        with dds(robot, factor, rclpy=True) as found:
            yield found


@contextlib.contextmanager
def rosbridge(robot: RobotConfig, factor: float) -> Iterator[tuple[Transport, Callable[[], Person]]]:
    """The arm over ROS 1, and before it a rosbridge server (that of the tests, on genuine rospy)."""
    roslibpy = importlib.import_module("roslibpy")
    port = free_port()
    server = str(_TESTS / "rosbridge_server.py")
    with ros1(robot, factor, "--compressed"), running(sys.executable, server, str(port)):
        _until(lambda: _answers(port), "the rosbridge server does not answer")
        # As text, pictures that are not compressed are more than a link carries.
        made = RosBridge(
            COMPRESSED, COMPRESSED.cameras, robot.joint_names, "gripper", port=port, sim_time=bool(factor)
        )

        def person() -> Person:
            orders = roslibpy.Topic(made._ros, ORDERS, "std_msgs/String")
            answers = roslibpy.Topic(made._ros, TRUTH, "std_msgs/String", queue_length=1)
            found = Person(lambda text: orders.publish({"data": text}))
            orders.advertise()
            answers.subscribe(lambda message: found.hear(message["data"]))
            _until(lambda: found.truth.names, "the arm does not appear")
            time.sleep(1.0)  # the bridge's own publisher of orders finds the robot
            return found

        yield made, person


NETWORKS = {"ros1": ros1, "dds": dds, "ros2": ros2, "rosbridge": rosbridge}


def _answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


def _until(true: Callable[[], Any], otherwise: str, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        if time.monotonic() > end:
            raise SystemExit(otherwise)
        time.sleep(0.05)


def over(
    network: str,
    robot: RobotConfig,
    policy: Policy,
    spec: RobotSpec,
    starts: Sequence[StartState],
    factor: float,
) -> OverNetwork:
    """One episode from each start state; one node for all, as beside a real arm."""
    found = OverNetwork()
    with NETWORKS[network](robot, factor) as (transport, person_of):
        core = make_core(robot, spec, open_arm(robot), "")
        node = Node(core, transport, policy)
        node.connect()
        try:
            person = person_of()
            core.configure()
            psutil.cpu_percent()  # counts from here
            for start in starts:
                _episode(node, person, start)
                found.success.append(person.truth.success and not person.truth.invalid)
                found.steps.append(core.schedule.step)
            found.busy = psutil.cpu_percent() / 100
            found.counters, found.ticks, found.late = core.counters, node.figures.ticks, node.figures.late
            found.latency = (
                float(np.quantile(core.schedule.latencies, 0.5)),
                float(np.quantile(core.schedule.latencies, 0.95)),
            )
        finally:
            node.close()
    return found


def _episode(node: Node, person: Person, start: StartState) -> None:
    core, transport = node.core, node.transport

    def ended(tick: Tick) -> bool:
        truth = person.truth
        return truth.success or truth.invalid or core.schedule.step >= truth.max_steps

    with node.lock:
        core.on_enable(False, transport.now())
    # Not before the arm is told nothing more: what is still sent to the old place would throw it there.
    node.run(lambda tick: tick.command is None, _PATIENCE_S)
    node.run(seconds=_LAST_S)
    obeyed = person.reset(start)
    node.run(lambda tick: obeyed(), _PATIENCE_S)
    node.run(seconds=0.5)  # pictures and joints of before are gone by then
    node.run(lambda tick: not core.gate.fault(transport.now()), _PATIENCE_S)
    with node.lock:
        core.on_task(person.truth.instruction, transport.now())
        core.on_enable(True, transport.now())
    if core.state != "active":
        raise SystemExit(f"{start}: {core.reason}")
    node.run(ended, 2 * person.truth.max_steps / core.rate_hz + _PATIENCE_S)
    with node.lock:
        core.on_enable(False, transport.now())  # by the next tick, when the last action is done
    node.run(lambda tick: person.truth.success, _LAST_S)
