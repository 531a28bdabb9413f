"""Run by the system's Python with Debian's genuine `rosbag`: write a bag, or say what is in one.

Usage: debian_rosbag.py write PATH COMPRESSION | list PATH
"""

import json
import sys

import genpy
import rosbag
from geometry_msgs.msg import PoseStamped
from sensor_msgs.msg import CompressedImage, Image, JointState
from std_msgs.msg import Float64MultiArray, Header, String

BEGAN = 1_700_000_000


def header(seconds):
    return Header(stamp=genpy.Time.from_sec(BEGAN + seconds), frame_id="base")


def write(path, compression):
    with rosbag.Bag(path, "w", compression=compression, chunk_threshold=2000) as bag:
        bag.write("/task", String(data="wipe the table"), genpy.Time(BEGAN))
        for i in range(20):
            seconds = i / 4
            received = genpy.Time.from_sec(BEGAN + seconds + 0.125)
            data = bytes((i + k) % 256 for k in range(4 * 6 * 3))
            image = Image(header(seconds), 4, 6, "bgr8", 0, 18, data)
            names, position = (["a", "b"], [i, -i]) if i % 2 else (["b", "a"], [-i, i])
            bag.write("/cam/image_raw", image, received)
            bag.write("/cam/compressed", CompressedImage(header(seconds), "png", PNG), received)
            bag.write("/joint_states", JointState(header(seconds), names, position, [], []), received)
            pose = PoseStamped(header=header(seconds))
            pose.pose.position.x, pose.pose.orientation.w = i, 1
            bag.write("/pose", pose, received)
            bag.write("/command", Float64MultiArray(data=[i, i + 0.5]), received)


PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de0000000c4944415408d763f8cfc000000301"
    "0100c9fe92ef0000000049454e44ae426082"
)

if sys.argv[1] == "write":
    write(sys.argv[2], sys.argv[3])
else:
    with rosbag.Bag(sys.argv[2]) as bag:
        rows = [
            [topic, message._type, time.to_nsec(), str(getattr(message, "data", ""))[:20]]
            for topic, message, time in bag.read_messages()
        ]
    print(json.dumps(rows))
