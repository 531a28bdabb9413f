"""The node over rosbridge: roslibpy here, a rosbridge v2 server on genuine rospy, and the simulated arm."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from ros1_peers import SRC, free_port, master, require_ros1, robot_command, running
from scenario import START, Bench, Player, Waver, make_core, play

from regrip.launch.sim_robot import COMPRESSED, ORDERS, TOPICS, TRUTH
from regrip.real_robot.messages import Command, TransportError
from regrip.real_robot.node import Node
from regrip.real_robot.transports import rosbridge
from regrip.real_robot.transports.rosbridge import RosBridge
from regrip.sim.tabletop.env import TabletopEnv
from regrip.sim.tabletop.robot import ARM, GRIPPER

ROOT = Path(__file__).resolve().parents[2]
NODE_MODULES = ROOT / ".venv-roslib" / "node_modules"
CAMERAS = ("front", "wrist")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    require_ros1()
    found = tmp_path_factory.mktemp("rosbridge")
    with master(found):
        yield found


@contextlib.contextmanager
def server(folder, port):
    os.environ["PYTHONPATH"] = str(SRC)
    command = [sys.executable, str(Path(__file__).with_name("rosbridge_server.py")), str(port)]
    with running(command, folder / "server.log") as child:
        end = time.monotonic() + 60
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                assert child.poll() is None, (folder / "server.log").read_text()
                assert time.monotonic() < end
                time.sleep(0.05)
        yield child


class BridgeBench(Bench):
    def __init__(self, transport):
        import roslibpy

        self.orders = roslibpy.Topic(transport._ros, ORDERS, "std_msgs/String")
        self.answers = roslibpy.Topic(transport._ros, TRUTH, "std_msgs/String", queue_length=1)
        self.orders.advertise()
        self.answers.subscribe(lambda message: self.hear(message["data"]))
        super().__init__(lambda text: self.orders.publish({"data": text}))
        end = time.monotonic() + 60
        while not self.truth.names:
            assert time.monotonic() < end, "the simulated robot does not appear"
            time.sleep(0.05)
        time.sleep(1.0)  # the bridge's own publisher of orders finds the robot


def spec_of_robot():
    env = TabletopEnv("demo")
    try:
        return env.spec
    finally:
        env.close()


def test_no_server_is_said_in_words(monkeypatch):
    pytest.importorskip("roslibpy")
    monkeypatch.setattr(rosbridge, "CONNECT_S", 0.5)
    there = RosBridge(TOPICS, CAMERAS, ARM, GRIPPER, port=free_port())
    with pytest.raises(TransportError, match=r"no rosbridge server answers at ws://127.0.0.1:.*roslaunch"):
        there.connect(None)


def test_a_command_is_sent_now_or_never():
    """What roslibpy kept while the connection was gone would make the arm jump when it is back."""
    kept, sent = [], []

    class Factory:
        def on_ready(self, callback):
            kept.append(callback)

    class Ros:
        is_connected, factory = True, Factory()

    class Proto:
        def send_ros_message(self, message):
            sent.append(message)

    there = RosBridge(TOPICS, CAMERAS, ARM, GRIPPER)
    there._ros, there._generation = Ros(), 2
    command = Command(ARM, np.zeros((1, 7)), 100.0)
    there.send(command)
    kept.pop()(Proto())
    assert [message["topic"] for message in sent] == [TOPICS.command]
    assert sent[0]["msg"]["points"][0]["time_from_start"] == {"sec": 0, "nanosec": 10_000_000}
    there.send(command)
    time.sleep(rosbridge.TOO_OLD_S * 1.5)
    kept.pop()(Proto())
    assert len(sent) == 1
    Ros.is_connected = False
    there.send(command)
    assert not kept
    assert "no connection" in there.faults.recent(there.now())


def test_time_is_what_the_simulator_says(folder, monkeypatch):
    """Without it the node would plan by this computer's clock, in a world that stands still or races."""
    port = free_port()
    heard = []

    class Events:
        def on_joints(self, joints):
            heard.append((joints.stamp, joints.received))

        def __getattr__(self, name):
            return lambda *given: None

    with server(folder, port):
        monkeypatch.setattr(rosbridge, "CONNECT_S", 2.0)
        still = RosBridge(COMPRESSED, CAMERAS, ARM, GRIPPER, port=port, sim_time=True)
        with pytest.raises(TransportError, match="nobody publishes it: start the simulator"):
            still.connect(Events())
        monkeypatch.setattr(rosbridge, "CONNECT_S", 60.0)
        with running(robot_command("--compressed", "--sim-time", "--factor", "0.5"), folder / "robot.log"):
            there = RosBridge(COMPRESSED, CAMERAS, ARM, GRIPPER, port=port, sim_time=True)
            there.connect(Events())
            try:
                begun, wall = there.now(), time.monotonic()
                there.sleep_until(begun + 1.0)
                assert 1.0 <= there.now() - begun < 1.5
                assert time.monotonic() - wall > 1.5  # half as fast as the clock on the wall
            finally:
                there.close()
    assert heard
    assert all(-0.1 < received - stamp < 1.0 for stamp, received in heard), heard[
        :5
    ]  # stamped by the same clock


@pytest.mark.realtime
def test_scenario(folder):
    port = free_port()
    with server(folder, port), running(robot_command("--compressed"), folder / "robot.log"):
        there = RosBridge(COMPRESSED, CAMERAS, ARM, GRIPPER, port=port)
        played = play(
            there, lambda: BridgeBench(there), spec_of_robot(), age_s=0.6, skew_s=0.3, patience_s=30.0
        )
    print(played)
    assert not played.failed, str(played)


@pytest.mark.realtime
def test_the_server_is_killed_and_comes_again(folder):
    port, policy = free_port(), Waver()
    with running(robot_command("--compressed"), folder / "robot.log"):
        there = RosBridge(COMPRESSED, CAMERAS, ARM, GRIPPER, port=port)
        core = make_core(spec_of_robot(), age_s=0.6, skew_s=0.3)
        node = Node(core, there, policy)
        with server(folder, port) as child:
            node.connect()
            bench = BridgeBench(there)
            player = Player(node, bench, policy, 30.0)
            player.wait(bench.tamper())
            player.wait(bench.order(do="reset", **START))
            assert player.wait(lambda: not core.gate.fault(there.now()))
            assert player.enable()
            assert player.moves(), player.why()
            child.send_signal(signal.SIGKILL)
            assert player.wait(lambda: core.state == "hold" and " old" in core.reason), player.why()
        player.run(1.0)
        assert node.step().command is None
        with server(folder, port):
            try:
                # The connection comes back by itself; the arm does not: the dead-man switch was lost.
                assert player.wait(lambda: not core.gate.fault(there.now()))
                assert core.state == "inactive"
                assert player.enable()
                assert player.moves(), player.why()
                assert bench.truth.fastest < 2.01
            finally:
                node.close()


@pytest.mark.slow
def test_a_second_client_sees_the_same(folder):
    """Npm's roslib, to show that the server of these tests speaks the protocol and not a dialect of ours."""
    if shutil.which("node") is None or not (NODE_MODULES / "roslib").is_dir():
        pytest.skip("needs node, and `npm install --prefix .venv-roslib roslib`")
    port = free_port()
    script = """
    const load = async () => { const m = await import('roslib'); return m.default ?? m; };
    load().then((ROSLIB) => {
      const ros = new ROSLIB.Ros({ url: 'ws://127.0.0.1:' + process.argv[1] });
      ros.on('error', (error) => { console.error(String(error)); process.exit(2); });
      const joints = new ROSLIB.Topic({ ros, name: '/joint_states', messageType: 'sensor_msgs/JointState' });
      joints.subscribe((message) => {
        joints.unsubscribe();
        const name = '/sim_robot/get_loggers', serviceType = 'roscpp/GetLoggers';
        const list = new ROSLIB.Service({ ros, name, serviceType });
        list.callService({}, (found) => {
          console.log(JSON.stringify({ names: message.name, loggers: found.loggers.length }));
          process.exit(0);
        }, (error) => { console.error(String(error)); process.exit(3); });
      });
    });
    """
    with server(folder, port), running(robot_command(), folder / "robot.log"):
        found = subprocess.run(
            ["node", "--input-type=commonjs", "-e", script, str(port)],
            cwd=NODE_MODULES.parent, capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
    assert found.returncode == 0, found.stderr
    answer = json.loads(found.stdout)
    assert answer["names"] == [*ARM, GRIPPER]
    assert answer["loggers"] >= 1
