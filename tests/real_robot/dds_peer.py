"""The other process: ``python dds_peer.py DOMAIN WHAT ...``. It publishes until it is ended, or listens.

images TOPIC HEIGHT WIDTH HZ     noise, numbered in frame_id and in the first pixel
strings TOPIC reliable|best-effort   a number as text, 50 times a second
bools TOPIC                      the same topic, taken for another type
listen TOPIC                     prints each String it hears
"""

import os
import sys
import time

import numpy as np

from regrip.real_robot import ros_messages
from regrip.real_robot.dds import DdsConfig, Participant
from regrip.real_robot.topics import Qos

domain, what, topic, *more = sys.argv[1:]
peer = Participant("peer", DdsConfig(int(domain), loopback_only=not os.environ.get("EVERYWHERE")))
parent, number = os.getppid(), 0
if what == "images":
    height, width, hz = int(more[0]), int(more[1]), float(more[2])
    writer = peer.advertise(topic, "sensor_msgs/Image", Qos(reliable=False, depth=5))
    picture = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    due = time.monotonic()
    while os.getppid() == parent:
        if writer.matched:  # the first that comes after is number 0
            picture[0, 0] = number % 251
            writer.publish(ros_messages.image(peer.make, picture, time.time(), str(number)))
            number += 1
        due = max(due + 1 / hz, time.monotonic() - 1 / hz)
        time.sleep(max(0.0, due - time.monotonic()))
elif what == "listen":
    peer.listen(topic, "std_msgs/String", Qos(True, 10), lambda message: print(message.data, flush=True))
    peer.start()
    while os.getppid() == parent:
        time.sleep(0.1)
else:
    kind = "std_msgs/String" if what == "strings" else "std_msgs/Bool"
    writer = peer.advertise(topic, kind, Qos(reliable=not more or more[0] == "reliable", depth=10))
    while os.getppid() == parent:
        number += 1
        writer.publish(peer.make(kind, data=f"{number}" if what == "strings" else True))
        time.sleep(0.02)
