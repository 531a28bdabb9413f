"""The inference node, for ROS 2.

    REGRIP=$PWD/.venv/bin/regrip ros2 launch launch/ros/node_ros2.launch.py policy:=demo options:="--shadow"

It starts inactive; enable it with `ros2 topic pub -1 /regrip/enable std_msgs/msg/Bool '{data: true}'`. It is
not started again when it ends, and ends the launch: somebody should look first. The Python of REGRIP must be
the one that ROS was built for; where it is not, take transport:=dds, which needs no ROS.
"""

from __future__ import annotations

import os
import shlex

from launch import LaunchDescription  # noqa: TID251 - ROS's
from launch.actions import DeclareLaunchArgument, ExecuteProcess, OpaqueFunction, Shutdown  # noqa: TID251
from launch.substitutions import LaunchConfiguration  # noqa: TID251


def _node(context):
    policy, transport, options = (
        LaunchConfiguration(name).perform(context) for name in ("policy", "transport", "options")
    )
    command = [os.environ.get("REGRIP", "regrip"), "node", policy, "--transport", transport]
    return [
        ExecuteProcess(
            cmd=command + shlex.split(options),
            name="regrip",
            output="screen",
            sigterm_timeout="10",  # it brings the arm to rest first
            on_exit=Shutdown(reason="the node has ended"),
        )
    ]


def generate_launch_description():
    return LaunchDescription(
        [
            DeclareLaunchArgument(
                "policy", description="a policy folder, a run directory, or a shipped policy"
            ),
            DeclareLaunchArgument("transport", default_value="ros2", description="ros2 or dds"),
            DeclareLaunchArgument("options", default_value="", description="more of `regrip node`'s options"),
            OpaqueFunction(function=_node),
        ]
    )
