"""The simulated arm as a ROS 2 node without ROS: ``python -m regrip.launch.robot_dds``.

Joint controller at 100 Hz, two cameras at 30 Hz, joint states at 100 Hz, its own watchdog; in real time, or
in simulated time (it publishes /clock) at a real-time factor.
"""

from __future__ import annotations

import argparse
import signal
import threading
import time

from ..datasets.starts import StartState
from ..real_robot import ros_messages
from ..real_robot.dds import GID_BYTES, DdsConfig, Participant
from ..real_robot.messages import TransportError
from ..real_robot.topics import COMMAND, CONTROL, Qos
from ..sim.tabletop.robot import TabletopRobot
from .sim_robot import COMPRESSED, ORDERS, TOPICS, SimRobot, parser, published

_CAMERA = Qos(reliable=False, depth=5)
_CLOCK = Qos(reliable=True, depth=10)


def main() -> None:
    """Run until a signal."""
    described = parser(__doc__)
    described.add_argument("--domain", type=int, default=0, help="as ROS_DOMAIN_ID")
    described.add_argument(
        "--distro", default="", choices=["", *GID_BYTES], help="of ROS 2 on the other side"
    )
    described.add_argument("--everywhere", action="store_true", help="not on this machine alone")
    options = described.parse_args()
    over = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: over.set())
    robot = TabletopRobot(options.suite, options.image_size)
    robot.reset(StartState(f"{options.suite}/{options.task}", "train", 0))
    config = DdsConfig(options.domain, options.distro, loopback_only=not options.everywhere)
    participant = Participant("sim_robot", config)
    try:
        _run(participant, robot, options, over)
    finally:
        participant.close()
        robot.close()


def _run(
    participant: Participant, robot: TabletopRobot, options: argparse.Namespace, over: threading.Event
) -> None:
    topics = COMPRESSED if options.compressed else TOPICS
    cameras = {camera.topic for camera in topics.cameras.values()}
    writers = {
        topic: participant.advertise(topic, kind, _CAMERA if topic in cameras else CONTROL)
        for topic, kind in published(topics).items()
    }
    if options.sim_time:
        writers["/clock"] = participant.advertise("/clock", "rosgraph_msgs/Clock", _CLOCK)

    def publish(topic: str, message: object) -> None:
        try:
            writers[topic].publish(message)
        except TransportError:  # a reader that does not keep up; an arm does not wait for it
            return

    arm = SimRobot(
        robot,
        topics,
        participant.make,
        publish,
        (lambda: robot.time) if options.sim_time else time.time,
    )
    participant.listen(topics.command, "trajectory_msgs/JointTrajectory", COMMAND, arm.hear)
    participant.listen(ORDERS, "std_msgs/String", CONTROL, arm.order)
    participant.start()

    def tell_time() -> None:
        moment = ros_messages.time(participant.make, robot.time)
        publish("/clock", participant.make("rosgraph_msgs/Clock", clock=moment))

    arm.run(over, factor=options.factor, sim_time=options.sim_time, tell_time=tell_time)


if __name__ == "__main__":
    main()
