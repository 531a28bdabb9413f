"""The simulated arm as a ROS 1 node: ``python -m regrip.launch.robot_ros1``.

Joint controller at 100 Hz, two cameras at 30 Hz, joint states at 100 Hz, its own watchdog; in real time, or
in simulated time (it publishes /clock and sets /use_sim_time) at a real-time factor.
"""

from __future__ import annotations

import argparse
import importlib
import signal
import threading
import time
from typing import Any

from ..datasets.starts import StartState
from ..real_robot.transports.ros1 import import_rospy, make
from ..sim.tabletop.robot import CONTROLLER_HZ, TabletopRobot
from .sim_robot import COMPRESSED, ORDERS, TOPICS, TRUTH, SimRobot

CATCH_UP = 10  # ticks: behind by more, the arm is slower than time


def main() -> None:
    """Run until a signal, or until the master goes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--suite", default="demo")
    parser.add_argument("--task", default="lift_red", help="of the suite, until an order resets it")
    parser.add_argument("--image-size", type=int, default=64, help="pixels, of both cameras")
    parser.add_argument("--compressed", action="store_true", help="cameras send JPEG")
    parser.add_argument("--sim-time", action="store_true", help="publish /clock, and stamp by it")
    parser.add_argument("--factor", type=float, default=1.0, help="simulated seconds in a real one")
    options = parser.parse_args()
    rospy = import_rospy()
    if options.sim_time:
        rospy.set_param("/use_sim_time", True)
    rospy.init_node("sim_robot", argv=[], disable_signals=True)
    over = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: over.set())
    rospy.on_shutdown(over.set)
    robot = TabletopRobot(options.suite, options.image_size)
    robot.reset(StartState(f"{options.suite}/{options.task}", "train", 0))
    try:
        _run(rospy, robot, options, over)
    finally:
        robot.close()
        rospy.signal_shutdown("over")


def _run(rospy: Any, robot: TabletopRobot, options: argparse.Namespace, over: threading.Event) -> None:
    topics = COMPRESSED if options.compressed else TOPICS
    std, sensor = importlib.import_module("std_msgs.msg"), importlib.import_module("sensor_msgs.msg")
    trajectory = importlib.import_module("trajectory_msgs.msg").JointTrajectory
    picture = sensor.CompressedImage if options.compressed else sensor.Image
    kinds = {camera.topic: picture for camera in topics.cameras.values()}
    kinds |= {topics.joint_states: sensor.JointState, topics.human: sensor.JointState}
    kinds |= {topics.task: std.String, TRUTH: std.String}
    for name in ("enable", "estop", "deadman", "takeover", "outcome"):
        kinds[getattr(topics, name)] = std.Bool
    publishers = {
        name: rospy.Publisher(name, kind, queue_size=10, tcp_nodelay=True) for name, kind in kinds.items()
    }
    arm = SimRobot(
        robot,
        topics,
        make,
        lambda topic, message: publishers[topic].publish(message),
        (lambda: robot.time) if options.sim_time else time.time,
    )
    heard = {"queue_size": 1, "tcp_nodelay": True}
    listeners = [
        rospy.Subscriber(topics.command, trajectory, arm.hear, **heard),
        rospy.Subscriber(ORDERS, std.String, arm.order, queue_size=10),
    ]
    period = 1.0 / CONTROLLER_HZ / options.factor
    due = time.monotonic()
    clock = None
    if options.sim_time:
        clock = rospy.Publisher(
            "/clock", importlib.import_module("rosgraph_msgs.msg").Clock, queue_size=10, tcp_nodelay=True
        )
    while not over.is_set():
        behind = int((time.monotonic() - due) / period)
        # Simulated time cannot be late; real time is caught up with, as an arm would not stand still.
        ticks = 1 if options.sim_time else max(1, min(behind, CATCH_UP))
        if behind > CATCH_UP or (options.sim_time and behind > 0):
            due = time.monotonic() - ticks * period
        arm.advance(ticks)
        if clock is not None:
            clock.publish(rospy.Time.from_sec(robot.time))
        due += ticks * period
        over.wait(max(0.0, due - time.monotonic()))
    for listener in listeners:
        listener.unregister()


if __name__ == "__main__":
    main()
