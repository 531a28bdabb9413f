"""The simulated arm as a ROS 1 node: ``python -m regrip.launch.robot_ros1``.

Joint controller at 100 Hz, two cameras at 30 Hz, joint states at 100 Hz, its own watchdog; in real time, or
in simulated time (it publishes /clock and sets /use_sim_time) at a real-time factor.
"""

from __future__ import annotations

import argparse
import signal
import threading
import time
from typing import Any

from ..datasets.starts import StartState
from ..real_robot.transports.ros1 import import_rospy, make
from ..sim.tabletop.robot import TabletopRobot
from .sim_robot import COMPRESSED, ORDERS, TOPICS, SimRobot, parser, published


def main() -> None:
    """Run until a signal, or until the master goes."""
    options = parser(__doc__).parse_args()
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
    publishers = {
        topic: rospy.Publisher(topic, type(make(kind)), queue_size=10, tcp_nodelay=True)
        for topic, kind in published(topics).items()
    }
    if options.sim_time:
        clock = type(make("rosgraph_msgs/Clock"))
        publishers["/clock"] = rospy.Publisher("/clock", clock, queue_size=10, tcp_nodelay=True)
    arm = SimRobot(
        robot,
        topics,
        make,
        lambda topic, message: publishers[topic].publish(message),
        (lambda: robot.time) if options.sim_time else time.time,
    )
    heard = {"queue_size": 1, "tcp_nodelay": True}
    listeners = [
        rospy.Subscriber(topics.command, type(make("trajectory_msgs/JointTrajectory")), arm.hear, **heard),
        rospy.Subscriber(ORDERS, type(make("std_msgs/String")), arm.order, queue_size=10),
    ]
    arm.run(
        over,
        factor=options.factor,
        sim_time=options.sim_time,
        tell_time=lambda: publishers["/clock"].publish(rospy.Time.from_sec(robot.time)),
    )
    for listener in listeners:
        listener.unregister()


if __name__ == "__main__":
    main()
