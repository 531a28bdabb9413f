"""A rosbridge v2 server, as much of it as the tests need, on genuine rospy: a process of its own.

Usage: rosbridge_server.py PORT. Operations: advertise, unadvertise, publish, subscribe, unsubscribe,
call_service; no compression, no fragments, no authentication.
"""

from __future__ import annotations

import asyncio
import base64
import json
import math
import sys
from collections import deque
from typing import Any

from regrip.real_robot.transports.ros1 import import_rospy

rospy = import_rospy()
import genpy  # noqa: E402
import roslib.message  # noqa: E402
import rosservice  # noqa: E402
from websockets.asyncio.server import serve  # noqa: E402


def plain(value: Any) -> Any:
    """A rospy message as rosbridge writes it."""
    if isinstance(value, genpy.Message):
        return {name: plain(getattr(value, name)) for name in value.__slots__}
    if isinstance(value, genpy.Time | genpy.Duration):
        return {"secs": value.secs, "nsecs": value.nsecs}
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def genuine(kind: Any, fields: dict[str, Any]) -> Any:
    message = kind()
    genpy.message.fill_message_args(message, [fields])
    return message


class Client:
    def __init__(self, socket: Any) -> None:
        self.socket, self.loop = socket, asyncio.get_running_loop()
        self.publishers: dict[str, Any] = {}
        self.subscribers: dict[str, Any] = {}
        self.waiting: dict[str, deque[str]] = {}
        self.wake = asyncio.Event()

    async def write(self) -> None:
        while True:
            await self.wake.wait()
            self.wake.clear()
            for texts in list(self.waiting.values()):
                while texts:
                    await self.socket.send(texts.popleft())

    def heard(self, topic: str, message: Any) -> None:
        """From a thread of rospy's."""
        self.waiting[topic].append(json.dumps({"op": "publish", "topic": topic, "msg": plain(message)}))
        self.loop.call_soon_threadsafe(self.wake.set)

    def obey(self, said: dict[str, Any]) -> None:
        operation, topic = said["op"], said.get("topic", "")
        if operation == "advertise":
            kind = roslib.message.get_message_class(said["type"])
            self.publishers[topic] = rospy.Publisher(topic, kind, queue_size=10, tcp_nodelay=True)
        elif operation == "unadvertise":
            self.publishers.pop(topic).unregister()
        elif operation == "publish":
            publisher = self.publishers[topic]
            publisher.publish(genuine(publisher.data_class, said["msg"]))
        elif operation == "subscribe":
            self.waiting[topic] = deque(maxlen=said.get("queue_length") or 100)
            kind = roslib.message.get_message_class(said["type"])
            self.subscribers[topic] = rospy.Subscriber(
                topic, kind, lambda message: self.heard(topic, message), queue_size=1, buff_size=1 << 24
            )
        elif operation == "unsubscribe":
            self.subscribers.pop(topic).unregister()
        elif operation == "call_service":
            self.loop.run_in_executor(None, self.call, said)

    def call(self, said: dict[str, Any]) -> None:
        answer = {"op": "service_response", "service": said["service"], "id": said.get("id")}
        try:
            kind = rosservice.get_service_class_by_name(said["service"])
            request = genuine(kind._request_class, said.get("args", {}))
            found = rospy.ServiceProxy(said["service"], kind)(request)
            answer |= {"values": plain(found), "result": True}
        except (rospy.ServiceException, rospy.ROSException, rosservice.ROSServiceException) as error:
            answer |= {"values": str(error), "result": False}
        self.waiting.setdefault("", deque()).append(json.dumps(answer))
        self.loop.call_soon_threadsafe(self.wake.set)

    def close(self) -> None:
        for endpoint in (*self.publishers.values(), *self.subscribers.values()):
            endpoint.unregister()


async def talk(socket: Any) -> None:
    client = Client(socket)
    writer = asyncio.create_task(client.write())
    try:
        async for text in socket:
            client.obey(json.loads(text))
    finally:
        writer.cancel()
        client.close()


async def main() -> None:
    rospy.init_node("rosbridge", argv=[], disable_signals=True)
    async with serve(talk, "127.0.0.1", int(sys.argv[1]), compression=None, max_size=1 << 24):
        await asyncio.Future()


if __name__ == "__main__":
    asyncio.run(main())
