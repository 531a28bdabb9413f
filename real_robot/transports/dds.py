"""ROS 2 without a ROS install: topics over Cyclone DDS, messages by rosbags.

What it was tried against: itself in another process, and Debian's Fast DDS (the library below ROS 2's default
middleware), in this project's tests.
"""

from __future__ import annotations

from collections.abc import Collection

from ..dds import DdsConfig, Participant
from ..topics import Topics, ToTwist
from .over_ros2 import OverRos2


def dds_transport(
    described: Topics,
    cameras: Collection[str],
    joints: Collection[str],
    gripper: str = "",
    *,
    config: DdsConfig | None = None,
    shadow: bool = False,
    to_twist: ToTwist | None = None,
    sim_time: bool = False,
) -> OverRos2:
    """A transport (arguments as of `OverRos2`).

    `config` tells how to be found; None: as ROS_DOMAIN_ID, ROS_DISTRO and ROS_LOCALHOST_ONLY say.

    Raises:
        TransportError: the topics do not serve the policy.
        ValueError: ROS_DOMAIN_ID makes no sense.
    """
    found = DdsConfig.from_environment() if config is None else config
    return OverRos2(
        "dds",
        lambda fault: Participant(described.node, found, fault),
        described,
        cameras,
        joints,
        gripper,
        shadow=shadow,
        to_twist=to_twist,
        sim_time=sim_time,
    )
