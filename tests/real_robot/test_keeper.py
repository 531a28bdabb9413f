"""The last seconds, kept when a person asks, and the MCAP file: read back as a user would."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from loop import Loop, make
from toy import ARM, SPEC, Toy, Wave, make_core

from regrip.datasets.formats.rosbag2 import open_rosbag2
from regrip.datasets.frames import decode_image, encode_jpeg
from regrip.datasets.ledger import DataError
from regrip.datasets.store.reader import Store
from regrip.launch.sim_robot import TOPICS
from regrip.real_robot.keeper import Keeper, KeeperConfig, Recent
from regrip.real_robot.mcap_recorder import McapRecorder
from regrip.real_robot.messages import Frame, Joints, Keep, Tick
from regrip.real_robot.node import Node
from regrip.real_robot.rows import contents_of_node

CONTENTS = contents_of_node(SPEC, ARM, make_core().names, 4, {})


def until(true, seconds: float = 20.0) -> None:  # type: ignore[no-untyped-def]
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)


def drive(*watchers, seconds: float, jpeg: bool = False) -> tuple[Node, Toy, list[Tick]]:  # type: ignore[no-untyped-def]
    """A node that waits for a second, and then acts."""
    core, robot = make_core(), Toy()
    if jpeg:
        robot.publish = lambda: _files(robot)  # type: ignore[method-assign]
    ticks: list[Tick] = []
    node = Node(
        core, robot, Wave(), in_loop=True,
        watchers=(*watchers, lambda what: ticks.append(what) if isinstance(what, Tick) else None),
    )  # fmt: skip
    node.connect()
    core.configure()
    node.run(seconds=1.0)
    node.events.on_enable(True, robot.now())
    node.run(seconds=seconds - 1.0)
    return node, robot, ticks


def _files(robot: Toy) -> None:
    file = encode_jpeg(robot._draw.integers(0, 255, (12, 16, 3), dtype=np.uint8))
    robot._events.on_frame(Frame("front", robot.time, robot.time, decode_image(file), file))  # type: ignore[union-attr]
    robot._events.on_joints(Joints(robot.time, robot.time, ARM, robot.at.copy()))  # type: ignore[union-attr]


def test_the_last_seconds_become_an_episode_when_somebody_asks(tmp_path: Path) -> None:
    said: list[str] = []
    about = {"checkpoint": "wave-1"}
    keeper = Keeper(tmp_path / "kept", CONTENTS, about, KeeperConfig(seconds=3.0), say=said.append)
    node, robot, ticks = drive(keeper, seconds=8.0)
    node.events.on_keep(robot.now())
    until(lambda: said)
    asked = robot.now()
    node.events.on_estop(True, robot.now())
    node.run(seconds=1.0)
    node.events.on_keep(robot.now())  # what an e-stop looked like is worth keeping
    node.close()
    keeper.close()
    assert said[0].startswith("kept the last 3.0 s: episode 0 of "), said
    store = Store(tmp_path / "kept")
    assert len(store) == 2
    first = store[0]
    assert (first.task, first.success, first.about["checkpoint"]) == ("wave", None, "wave-1")
    kept = [tick for tick in ticks if asked - 3.0 <= tick.now <= asked and tick.action is not None]
    np.testing.assert_array_equal(first.streams["action"].rows, np.stack([t.action for t in kept]))  # type: ignore[arg-type]
    times = first.streams["observation.images.front"].time
    assert len(times) == 61  # twenty in a second
    assert times[0] == 0.0
    assert times[-1] == pytest.approx(3.0)
    assert "estop: e-stop" in list(store[1].streams["node.state"].rows)
    store.close()


def test_memory_is_bounded_by_seconds_and_by_bytes() -> None:
    recent = Recent(seconds=2.0, max_bytes=1 << 30)
    image = np.zeros((100, 100, 3), np.uint8)
    for i in range(1000):
        recent.add(Frame("front", i / 10, i / 10, image))
    assert len(recent.since(0.0)) == 21
    assert recent.bytes == 21 * (30_000 + 1024)
    small = Recent(seconds=2.0, max_bytes=10 * 31_024)
    for i in range(1000):
        small.add(
            Frame("front", 1e6 - i, i / 10, image)
        )  # stamps that run backwards are none of its business
    assert [one.received for one in small.since(0.0)] == pytest.approx([99.0 + i / 10 for i in range(10)])  # type: ignore[union-attr]
    assert small.bytes <= small.max_bytes


def test_what_is_less_than_was_asked_for_is_said(tmp_path: Path) -> None:
    said: list[str] = []
    config = KeeperConfig(seconds=10.0, max_bytes=100 * 1700)
    keeper = Keeper(tmp_path / "kept", CONTENTS, {}, config, say=said.append)
    keeper(Keep(0.0))
    until(lambda: said)
    assert "nothing has come" in said[0]
    image = np.zeros((12, 16, 3), np.uint8)
    for i in range(400):
        keeper(Frame("front", i / 20, i / 20, image))
    keeper(Keep(20.0))
    keeper.close()
    assert "MB hold no more" in said[1]
    with pytest.raises(ValueError, match="0 seconds"):
        KeeperConfig(0)


def test_the_topic_asks_for_it() -> None:
    """As any transport that speaks ROS hears it."""
    loop = Loop()
    core = make_core()
    heard: list[object] = []
    Node(core, loop, Wave(), in_loop=True, watchers=(heard.append,)).connect()
    loop._deliver(TOPICS.keep, make("std_msgs/Bool", data=False))
    assert not [one for one in heard if isinstance(one, Keep)]
    loop._deliver(TOPICS.keep, make("std_msgs/Bool", data=True))
    assert [one for one in heard if isinstance(one, Keep)] == [Keep(loop.now())]
    loop.close()


@pytest.mark.parametrize("jpeg", [False, True])
def test_the_mcap_file_says_all_that_happened(tmp_path: Path, jpeg: bool) -> None:
    path = tmp_path / "monday.mcap"
    recorder = McapRecorder(path, CONTENTS, {"checkpoint": "wave-1"})
    node, robot, ticks = drive(recorder, seconds=3.0, jpeg=jpeg)
    node.events.on_outcome(True, robot.now())
    node.close()
    recorder.close()
    assert not recorder.problems
    with pytest.raises(DataError, match="exists already"):
        McapRecorder(path, CONTENTS, {})
    whole = open_rosbag2(path)
    assert len(whole) == 1
    one = whole[0]
    assert one.about["checkpoint"] == "wave-1"
    acted = [tick for tick in ticks if tick.action is not None]
    np.testing.assert_array_equal(one.streams["action"].rows, np.stack([t.action for t in acted]))  # type: ignore[arg-type]
    assert one.streams["decision.chunk"].rows.shape[1:] == (4, 4)  # type: ignore[union-attr]
    assert list(one.streams["task"].rows) == ["wave", ""]
    assert list(one.streams["outcome"].rows) == [True]
    seen = one.streams["observation.images.front"]
    assert (seen.rows.encoded(0) is not None) == jpeg  # type: ignore[union-attr]
    assert len(seen) > 60
    assert abs((one.began_ns or 0) / 1e9 - time.time()) < 120
    episodes = open_rosbag2(path, "/task")
    assert [episode.task for episode in (episodes[i] for i in range(len(episodes)))] == ["wave"]
    assert episodes[0].num_steps == len(acted)


def test_others_read_the_mcap_file(tmp_path: Path) -> None:
    reader = pytest.importorskip("mcap_ros2.reader", reason="mcap-ros2-support is not installed")
    path = tmp_path / "monday.mcap"
    recorder = McapRecorder(path, CONTENTS, {}, threaded=False)
    node, _, ticks = drive(recorder, seconds=2.0)
    node.close()
    recorder.close()
    found: dict[str, list[object]] = {}
    for message in reader.read_ros2_messages(str(path)):
        found.setdefault(message.channel.topic, []).append(message.ros_msg)
    image = found["/observation/images/front"][0]
    assert (image.height, image.width, image.encoding, len(image.data)) == (12, 16, "rgb8", 12 * 16 * 3)  # type: ignore[attr-defined]
    sent = [tick for tick in ticks if tick.sent is not None]
    command = found["/command"][0]
    assert list(command.name) == list(make_core().names)  # type: ignore[attr-defined]
    assert list(command.position) == pytest.approx(sent[0].sent)  # type: ignore[attr-defined]


def test_an_mcap_file_in_which_nothing_came_is_not_left_behind(tmp_path: Path) -> None:
    McapRecorder(tmp_path / "a.mcap", CONTENTS, {}).close()
    assert not list(tmp_path.iterdir())


def test_a_killed_node_leaves_what_it_wrote(tmp_path: Path) -> None:
    code = f"""
import os, signal, sys
sys.path[:0] = {sys.path!r}
from pathlib import Path
import numpy as np
from toy import ARM, SPEC, make_core
from regrip.real_robot.mcap_recorder import McapRecorder
from regrip.real_robot.messages import Frame
from regrip.real_robot.rows import contents_of_node
contents = contents_of_node(SPEC, ARM, make_core().names, 4, {{}})
recorder = McapRecorder(Path({str(tmp_path / "cut.mcap")!r}), contents, {{}}, threaded=False)
draw = np.random.default_rng(0)
for i in range(5000):
    recorder(Frame("front", i / 30, i / 30, draw.integers(0, 255, (12, 16, 3), dtype=np.uint8)))
os.kill(os.getpid(), signal.SIGKILL)
"""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    assert subprocess.run([sys.executable, "-c", code], env=environment, check=False).returncode == -9
    source = open_rosbag2(tmp_path / "cut.mcap")
    frames = source[0].streams["observation.images.front"]
    assert 5000 - 1800 <= len(frames) < 5000  # a megabyte is lost at most
    assert frames.rows[len(frames) - 1].shape == (12, 16, 3)  # type: ignore[union-attr]
    assert "no end" in str(source.problems[0])
