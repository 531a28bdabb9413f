"""The client against servers that die, hang, stall and lie: in time, or an error; never another's answer."""

from __future__ import annotations

import http.server
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from websockets.sync.server import ServerConnection, serve

from regrip.datasets.episode import Observation
from regrip.datasets.spec import Axis, Camera, RobotSpec, SpecMismatchError
from regrip.real_robot.messages import PolicyError, Request
from regrip.real_robot.serving.client import Client, LateError, RefusedError, ServerError, UnreachableError
from regrip.real_robot.serving.engine import Engine
from regrip.real_robot.serving.policies import HoldPolicy, ReplayPolicy
from regrip.real_robot.serving.remote import PolicyClient
from regrip.real_robot.serving.schema import Schema
from regrip.real_robot.serving.server import ServerConfig, in_background
from regrip.real_robot.serving.wire import pack, unpack

ARM = RobotSpec(
    name="arm",
    control_mode="joint_position",
    control_rate_hz=20.0,
    rotation="none",
    gripper="opening width in metres",
    action=(Axis("joint1", "rad", -1.0, 1.0),),
    state=(Axis("joint1", "rad", -1.0, 1.0),),
    cameras=(Camera("front", 512, 512),),
)
SCHEMA = Schema(ARM, 3, "test")

# A server in a process of its own. Its policy answers the joint that it was shown, so that every answer tells
# to which observation it belongs.
SERVER = """
import asyncio, json, sys
from regrip.datasets.spec import RobotSpec
from regrip.real_robot.serving.engine import Engine, EngineConfig
from regrip.real_robot.serving.policies import built_in
from regrip.real_robot.serving.schema import Schema
from regrip.real_robot.serving.server import Server, ServerConfig

async def main():
    spec = RobotSpec.from_json(json.loads(sys.argv[1]))
    engine = Engine(built_in(sys.argv[2], Schema(spec, 3, "test")), EngineConfig(max_batch=1))
    async with Server(engine, ServerConfig(port=int(sys.argv[3]))).running() as server:
        print(server.port, flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""


class Process:
    """A server that can be killed, stopped and started again on the same port."""

    def __init__(self, policy: str) -> None:
        self.policy, self.port = policy, 0
        self.start()

    def start(self) -> None:
        path = os.pathsep.join(entry for entry in sys.path if entry)
        self.process = subprocess.Popen(
            [sys.executable, "-c", SERVER, json.dumps(ARM.to_json()), self.policy, str(self.port)],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": path},
        )
        assert self.process.stdout is not None
        self.port = int(self.process.stdout.readline())

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.port}"


@contextmanager
def server_process(policy: str) -> Iterator[Process]:
    process = Process(policy)
    try:
        yield process
    finally:
        process.kill()


@contextmanager
def scripted(handler: Callable[[ServerConnection], None]) -> Iterator[str]:
    """A server that does what the test says, on a real socket."""
    server = serve(handler, "127.0.0.1", 0, compression=None, max_size=None)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"ws://127.0.0.1:{server.socket.getsockname()[1]}"
    finally:
        server.shutdown()
        thread.join(timeout=10)


def observation(joint: float) -> dict[str, Any]:
    return {
        "front": np.full((512, 512, 3), 100, np.uint8),
        "state": np.array([joint], np.float32),
        "prompt": "wait",
    }


def joint(reply: dict[str, Any]) -> float:
    return round(float(reply["actions"][0, 0]), 3)


def test_a_server_killed_in_mid_answer_and_started_again() -> None:
    with server_process("fault:latency:0.4") as server, Client(server.url, timeout_s=60) as client:
        assert joint(client.infer(observation(0.1))) == 0.1
        with ThreadPoolExecutor() as pool:
            answer = pool.submit(client.infer, observation(0.2))
            time.sleep(0.15)
            assert not answer.done()
            server.kill()
            server.start()
            assert joint(answer.result()) == 0.2
        assert client.connections == 2
        assert joint(client.infer(observation(0.3))) == 0.3


def test_a_server_that_stays_dead_is_said_in_time() -> None:
    with server_process("hold") as server, Client(server.url) as client:
        client.infer(observation(0.1), timeout_s=30)
        server.kill()
        began = time.monotonic()
        with pytest.raises(UnreachableError, match="no connection"):
            client.infer(observation(0.2), timeout_s=0.5)
        assert time.monotonic() - began < 5
        server.start()
        assert joint(client.infer(observation(0.3), timeout_s=30)) == 0.3


def test_a_late_answer_is_never_taken_for_the_next() -> None:
    """Half of the answers come after the deadline; each of the others belongs to its observation."""
    with server_process("fault:latency:0.15") as server, Client(server.url, timeout_s=30) as client:
        late = 0
        for index in range(8):
            wanted = index / 10
            try:
                reply = client.infer(observation(wanted), timeout_s=0.1 if index % 2 else 30)
            except (LateError, UnreachableError):
                late += 1
            else:
                assert joint(reply) == wanted
        assert late == 4
        assert client.connections >= 4  # each was thrown away


def test_a_server_that_stands_still_blocks_nobody_for_long() -> None:
    """Stopped, it reads no more: what is sent fills the buffers of the network."""
    big = observation(0.2) | {"more": np.zeros(20_000_000, np.uint8)}
    with server_process("hold") as server, Client(server.url) as client:
        client.infer(observation(0.1), timeout_s=30)
        server.process.send_signal(signal.SIGSTOP)
        try:
            for message in (observation(0.2), big):
                began = time.monotonic()
                with pytest.raises(ServerError):
                    client.infer(message, timeout_s=0.4)
                assert time.monotonic() - began < 8
        finally:
            server.process.send_signal(signal.SIGCONT)
        assert joint(client.infer(observation(0.3), timeout_s=30)) == 0.3


def test_answers_to_older_observations_are_passed_over() -> None:
    def lying(connection: ServerConnection) -> None:
        connection.send(pack(SCHEMA.metadata()))
        for data in connection:
            seq = unpack(data)["__seq__"]  # type: ignore[arg-type]
            for old in (seq - 1, seq + 1, None, seq):
                actions = np.full((3, 1), 0.5 if old == seq else 0.9, np.float32)
                connection.send(pack({"actions": actions, "seq": old}))

    with scripted(lying) as url, Client(url, timeout_s=20) as client:
        for _ in range(3):
            assert joint(client.infer(observation(0.0))) == 0.5


def test_a_server_that_never_answers_is_late_and_one_that_talks_nonsense_is_refused() -> None:
    def silent(connection: ServerConnection) -> None:
        connection.send(pack(SCHEMA.metadata()))
        for _ in connection:
            pass

    def mad(connection: ServerConnection) -> None:
        connection.send(pack(SCHEMA.metadata()))
        for data in connection:
            connection.send(b"\xc1" if unpack(data)["__seq__"] == 1 else pack([1]))  # type: ignore[arg-type]

    with (
        scripted(silent) as url,
        Client(url, timeout_s=0.2) as client,
        pytest.raises(LateError, match=r"0\.2 s"),
    ):
        client.infer(observation(0.0))
    with scripted(mad) as url, Client(url, timeout_s=20) as client:
        with pytest.raises(RefusedError, match="something else than an answer"):
            client.infer(observation(0.0))
        with pytest.raises(RefusedError, match="expected a map"):
            client.infer(observation(0.0))


def test_openpis_own_server_is_a_server_too() -> None:
    """A loop as openpi's protocol has it: metadata first, then an answer to each frame, or text and 1011."""
    seen: list[list[str]] = []

    def loop(connection: ServerConnection) -> None:
        connection.send(pack({"whose": "openpi"}))
        for data in connection:
            message = unpack(data)  # type: ignore[arg-type]
            seen.append(sorted(message))
            if message["prompt"] == "fail":
                connection.send("Traceback: it failed")
                connection.close(1011, "Internal server error")
                return
            connection.send(pack({"actions": np.full((3, 1), message["state"][0], np.float32)}))

    with scripted(loop) as url, Client(url, timeout_s=20) as client:
        assert not client.extended
        client.reset()
        assert joint(client.infer(observation(0.25) | {"__seed__": 1})) == 0.25
        assert seen == [["front", "prompt", "state"]]
        with pytest.raises(RefusedError, match="it failed"):
            client.infer(observation(0.0) | {"prompt": "fail"})
        assert joint(client.infer(observation(0.5))) == 0.5


def test_nobody_there_and_somebody_else_there() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(UnreachableError, match=str(port)):
        Client(f"ws://127.0.0.1:{port}", connect_timeout_s=0.3)

    class Page(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.send_error(404)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    page = http.server.HTTPServer(("127.0.0.1", 0), Page)
    thread = threading.Thread(target=page.serve_forever, daemon=True)
    thread.start()
    try:
        with pytest.raises(RefusedError, match="404"):
            Client(f"ws://127.0.0.1:{page.server_address[1]}", connect_timeout_s=20)
    finally:
        page.shutdown()
        page.server_close()


def test_a_wrong_token_is_refused_at_once() -> None:
    token = "a-token-of-the-test"
    with in_background(Engine(HoldPolicy(SCHEMA)), ServerConfig(port=0, token=token)) as server:
        url = f"ws://127.0.0.1:{server.port}"
        with Client(url, token, timeout_s=20) as client:
            assert joint(client.infer(observation(0.5))) == 0.5
        with pytest.raises(RefusedError, match="401"):
            Client(url, "another-token", connect_timeout_s=30)


@pytest.mark.parametrize("seconds", [0.0, -1.0, float("nan"), float("inf")])
def test_a_timeout_that_never_fires_is_refused(seconds: float) -> None:
    with pytest.raises(ValueError, match="timeout_s"):
        Client(timeout_s=seconds)


# For the node ------------------------------------------------------------------------------------------


def request(joint: float, **more: Any) -> Request:
    image = np.full((1, 512, 512, 3), 100, np.uint8)
    shown = Observation({"front": image}, np.array([[joint]], np.float32), ["wait"])
    fields: dict[str, Any] = {
        "id": 1,
        "made": 0.0,
        "stamp": 12.5,
        "observation": shown,
        "step": 0,
        "prefix": np.zeros((0, 1), np.float32),
        "frozen": 0,
        "episode": "1",
    }
    return Request(**(fields | more))


@pytest.mark.parametrize("jpeg_quality", [0, 90])
def test_the_nodes_request_is_answered(jpeg_quality: int) -> None:
    with in_background(Engine(HoldPolicy(SCHEMA)), ServerConfig(port=0)) as server:  # noqa: SIM117
        with Client(f"ws://127.0.0.1:{server.port}", timeout_s=20) as client:
            policy = PolicyClient(client, ARM, jpeg_quality=jpeg_quality)
            actions = policy.answer(request(0.5))
            assert actions.dtype == np.float32
            assert np.array_equal(actions, np.full((3, 1), 0.5, np.float32))
            assert policy.version == "hold"
            actions[:] = 0  # the node may write into what is its own
            with pytest.raises(PolicyError, match="state: joint1 is 7"):
                policy.answer(request(7.0))


def test_the_nodes_robot_must_be_the_policys() -> None:
    with in_background(Engine(HoldPolicy(SCHEMA)), ServerConfig(port=0)) as server:  # noqa: SIM117
        with Client(f"ws://127.0.0.1:{server.port}") as client:
            with pytest.raises(SpecMismatchError, match="control_rate_hz"):
                PolicyClient(client, replace(ARM, control_rate_hz=30.0))


def test_a_dead_server_is_a_policy_error() -> None:
    with server_process("hold") as process, Client(process.url, timeout_s=0.3) as client:
        policy = PolicyClient(client, ARM)
        process.kill()
        with pytest.raises(PolicyError, match="no connection"):
            policy.answer(request(0.5))


def test_steps_of_a_replay_are_the_nodes_steps() -> None:
    policy = ReplayPolicy.__new__(ReplayPolicy)  # without a set: two episodes by hand
    hold = HoldPolicy(SCHEMA)
    policy.schema, policy._hold = replace(SCHEMA, model="replay"), hold._hold
    policy._episodes = [np.arange(10, dtype=np.float32)[:, None] / 100, -np.ones((10, 1), np.float32) / 2]
    with in_background(Engine(policy), ServerConfig(port=0)) as server:  # noqa: SIM117
        with Client(f"ws://127.0.0.1:{server.port}", timeout_s=20) as client:
            node = PolicyClient(client, ARM)
            assert np.allclose(node.answer(request(0.0, step=4))[:, 0], [0.04, 0.05, 0.06])
            assert np.allclose(node.answer(request(0.0, step=1))[:, 0], [0.01, 0.02, 0.03])
            assert np.allclose(node.answer(request(0.0, episode="2"))[:, 0], -0.5)
