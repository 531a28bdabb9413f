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
from ..sim.tabletop.robot import CONTROLLER_HZ, TabletopRobot
from .sim_robot import COMPRESSED, ORDERS, TOPICS, TRUTH, SimRobot

CATCH_UP = 10  # ticks: behind by more, the arm is slower than time
_CAMERA = Qos(reliable=False, depth=5)
_CLOCK = Qos(reliable=True, depth=10)


def main() -> None:
    """Run until a signal."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--suite", default="demo")
    parser.add_argument("--task", default="lift_red", help="of the suite, until another is ordered")
    parser.add_argument("--image-size", type=int, default=64, help="pixels, of both cameras")
    parser.add_argument("--compressed", action="store_true", help="cameras send JPEG")
    parser.add_argument("--domain", type=int, default=0, help="as ROS_DOMAIN_ID")
    parser.add_argument("--distro", default="", choices=["", *GID_BYTES], help="of ROS 2 on the other side")
    parser.add_argument("--everywhere", action="store_true", help="not on this machine alone")
    parser.add_argument("--sim-time", action="store_true", help="publish /clock, and stamp by it")
    parser.add_argument("--factor", type=float, default=1.0, help="simulated seconds in a real one")
    options = parser.parse_args()
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
    picture = "sensor_msgs/CompressedImage" if options.compressed else "sensor_msgs/Image"
    kinds = {camera.topic: (picture, _CAMERA) for camera in topics.cameras.values()}
    kinds[topics.joint_states] = kinds[topics.human] = "sensor_msgs/JointState", CONTROL
    kinds[topics.task] = kinds[TRUTH] = "std_msgs/String", CONTROL
    for name in ("enable", "estop", "deadman", "takeover", "outcome"):
        kinds[getattr(topics, name)] = "std_msgs/Bool", CONTROL
    if options.sim_time:
        kinds["/clock"] = "rosgraph_msgs/Clock", _CLOCK
    writers = {name: participant.advertise(name, kind, qos) for name, (kind, qos) in kinds.items()}

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
    period = 1.0 / CONTROLLER_HZ / options.factor
    due = time.monotonic()
    while not over.is_set():
        behind = int((time.monotonic() - due) / period)
        # Simulated time cannot be late; real time is caught up with, as an arm would not stand still.
        ticks = 1 if options.sim_time else max(1, min(behind, CATCH_UP))
        if behind > CATCH_UP or (options.sim_time and behind > 0):
            due = time.monotonic() - ticks * period
        arm.advance(ticks)
        if options.sim_time:
            moment = ros_messages.time(participant.make, robot.time)
            publish("/clock", participant.make("rosgraph_msgs/Clock", clock=moment))
        due += ticks * period
        over.wait(max(0.0, due - time.monotonic()))


if __name__ == "__main__":
    main()
