"""A policy that echoes, behind a real server on this machine, and what speaks to it."""

from __future__ import annotations

import http.client
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import websockets.sync.client
from numpy.typing import NDArray
from websockets.exceptions import ConnectionClosed

from regrip.datasets.spec import Axis, Camera, RobotSpec
from regrip.real_robot.serving.engine import Engine, EngineConfig
from regrip.real_robot.serving.schema import Ask, Schema
from regrip.real_robot.serving.server import Server, ServerConfig, in_background
from regrip.real_robot.serving.sessions import Run, ServedPolicy

ARM = RobotSpec(
    name="arm",
    control_mode="joint_position",
    control_rate_hz=20.0,
    rotation="none",
    gripper="opening width in metres",
    action=(Axis("joint1", "rad", -1.0, 1.0), Axis("gripper", "m", 0.0, 0.08)),
    state=(Axis("joint1", "rad", -1.0, 1.0), Axis("gripper_width", "m", 0.0, 0.08)),
    cameras=(Camera("front", 24, 32), Camera("wrist", 24, 24)),
)
SCHEMA = Schema(ARM, 5, "test", "abc", sampled=True, state_mean=(0.0, 0.04), state_std=(0.1, 0.01))
TOKEN = "a-token-of-the-test"


def observation(joint: float = 0.25, **more: Any) -> dict[str, Any]:
    """As openpi's LIBERO client would send it."""
    front = np.random.default_rng(0).integers(0, 255, (24, 32, 3), np.uint8)
    return {
        "observation/image": front,
        "observation/wrist_image": np.ascontiguousarray(front[:, :24]),
        "observation/state": np.array([joint, 0.04]),
        "prompt": "lift the block",
        **more,
    }


class Echo:
    """Answers the state's first entry, counting up; waits for `gate` when there is one."""

    def __init__(self, schema: Schema = SCHEMA) -> None:
        self.schema = schema
        self.gate: threading.Event | None = None
        self.warmed = threading.Event()
        self.warmed.set()
        self.began = threading.Semaphore(0)
        self.seen: list[list[Ask]] = []
        self.threads: set[str] = set()

    def act(self, asks: Sequence[Ask], runs: Sequence[Run]) -> list[NDArray[np.float32] | None]:
        if runs[0].session.startswith("warm-up"):
            self.warmed.wait(30)
            return [np.zeros((5, 2), np.float32) for _ in asks]
        self.threads.add(threading.current_thread().name)
        self.seen.append(list(asks))
        self.began.release()
        if self.gate is not None:
            self.gate.wait(30)
        rows: list[NDArray[np.float32] | None] = []
        for ask, run in zip(asks, runs, strict=True):
            if ask.instruction == "fail":
                raise OSError(2, "no such thing", "/a/secret/path")
            run.memory["n"] = run.memory.get("n", 0) + 1
            row = np.zeros((5, 2), np.float32)
            row[:, 0], row[:, 1] = ask.state[0], run.memory["n"] / 1000
            rows.append(row)
        return rows


@contextmanager
def serving(policy: ServedPolicy, ready: bool = True, **settings: Any) -> Iterator[Server]:
    engine = {"max_batch": 4, "batch_s": 0.003} | settings.pop("engine", {})
    config = ServerConfig(port=0, grace_s=1.0, **settings)
    with in_background(Engine(policy, EngineConfig(**engine)), config) as server:
        if ready:
            until(lambda: get(server, "/healthz")[0] == 200)
        yield server


def until(true: Callable[[], bool], seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)


def get(server: Server, path: str, token: str = "") -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    connection.request("GET", path, headers={"Authorization": f"Api-Key {token}"} if token else {})
    response = connection.getresponse()
    body = response.read().decode()
    connection.close()
    return response.status, body


def url(server: Server) -> str:
    return f"ws://127.0.0.1:{server.port}"


def raw(server: Server, **settings: Any) -> websockets.sync.client.ClientConnection:
    """A bare connection, after the metadata."""
    connection = websockets.sync.client.connect(
        url(server), compression=None, max_size=None, proxy=None, close_timeout=1, legacy=True, **settings
    )
    connection.recv(timeout=10)
    return connection


def ended(connection: websockets.sync.client.ClientConnection) -> tuple[str, int]:
    """The text frame before the end, and the close code."""
    words = connection.recv(timeout=10)
    assert isinstance(words, str), "an error is a text frame"
    with pytest.raises(ConnectionClosed) as closed:
        connection.recv(timeout=10)
    assert closed.value.rcvd is not None
    return words, closed.value.rcvd.code
