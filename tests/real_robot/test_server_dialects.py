"""OpenVLA's REST and GR00T's ZeroMQ, with clients written as theirs are."""

from __future__ import annotations

import asyncio
import base64
import http.client
import io
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import msgpack
import numpy as np
import pytest

from regrip.datasets.spec import Axis, Camera, RobotSpec
from regrip.real_robot.messages import TransportError
from regrip.real_robot.serving.engine import Engine, EngineConfig
from regrip.real_robot.serving.policies import HoldPolicy, built_in
from regrip.real_robot.serving.rest import Rest
from regrip.real_robot.serving.schema import Schema
from regrip.real_robot.serving.server import ServerConfig

zmq = pytest.importorskip("zmq", reason="pyzmq is not installed")
from regrip.real_robot.serving.zmq_groot import ZmqServer  # noqa: E402

ARM = RobotSpec(
    name="arm",
    control_mode="joint_position",
    control_rate_hz=20.0,
    rotation="none",
    gripper="opening width in metres",
    action=(Axis("joint1", "rad", -1.0, 1.0), Axis("joint2", "rad", -1.0, 1.0)),
    state=(Axis("joint1", "rad", -1.0, 1.0), Axis("joint2", "rad", -1.0, 1.0)),
    cameras=(Camera("front", 24, 32), Camera("wrist", 24, 24)),
)
SCHEMA = Schema(ARM, 3, "test")
TOKEN = "a-token-of-the-test"
FRONT, WRIST = np.full((24, 32, 3), 90, np.uint8), np.full((24, 24, 3), 80, np.uint8)
STATE = np.array([0.25, -0.5], np.float32)


@contextmanager
def rest(name: str = "hold", token: str | None = None, **settings: Any) -> Iterator[Rest]:
    engine = Engine(built_in(name, SCHEMA), EngineConfig(max_batch=2, hang_s=0.5))
    engine.start()
    server = Rest(engine, ServerConfig(port=0, token=token, **settings))
    try:
        yield server
    finally:
        server.close()
        engine.close()


def encoded(value: Any) -> Any:
    """As the package json_numpy writes it."""
    if isinstance(value, np.ndarray):
        data = base64.b64encode(value.tobytes()).decode()
        return {"__numpy__": data, "dtype": value.dtype.str, "shape": value.shape}
    raise TypeError(value)


def decoded(value: dict[str, Any]) -> Any:
    if "__numpy__" not in value:
        return value
    flat = np.frombuffer(base64.b64decode(value["__numpy__"]), np.dtype(value["dtype"]))
    return flat.reshape(value["shape"])


def post(server: Rest, body: bytes, path: str = "/act", **headers: str) -> tuple[int, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
    connection.request("POST", path, body, {"Content-Type": "application/json", **headers})
    response = connection.getresponse()
    answer = json.loads(response.read(), object_hook=decoded)
    connection.close()
    return response.status, answer


OFT = {"full_image": FRONT, "wrist_image": WRIST, "state": STATE, "instruction": "lift"}
OPENVLA = {
    "image": FRONT,
    "wrist_image": WRIST,
    "state": STATE,
    "instruction": "lift",
    "unnorm_key": "bridge",
}


def test_openvla_gets_one_action_and_oft_a_list() -> None:
    with rest() as server:
        status, action = post(server, json.dumps(OPENVLA, default=encoded).encode())
        assert status == 200
        assert np.array_equal(action, STATE)
        status, actions = post(server, json.dumps(OFT, default=encoded).encode())
        assert status == 200
        assert np.array_equal(np.stack(actions), np.tile(STATE, (3, 1)))


def test_encoded_twice_is_answered_twice_encoded() -> None:
    with rest() as server:
        body = json.dumps({"encoded": json.dumps(OPENVLA, default=encoded)}).encode()
        status, text = post(server, body)
        assert status == 200
        assert isinstance(text, str)
        assert np.array_equal(json.loads(text, object_hook=decoded), STATE)


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        (b"no json", 422, "not JSON"),
        (b"[" * 10_000, 422, "not JSON"),
        (b"[" + b"0," * 50_000 + b"0]", 422, "more than 20000 values"),
        (b"[1]", 422, "expected an object"),
        (b"{}", 422, "no image of camera 'front'"),
        (b'{"encoded": 3}', 422, "encoded"),
        (b'{"encoded": "[]"}', 422, "expected an object"),
        (b'{"image": {"__numpy__": "***", "dtype": "|u1", "shape": [1]}}', 422, "base64"),
        (b'{"image": {"__numpy__": "AAAA", "dtype": "|O", "shape": [1]}}', 422, "not taken"),
        (b'{"image": {"__numpy__": "AAAA", "dtype": "|u1", "shape": [9]}}', 422, "needs 9 bytes"),
        (json.dumps(OFT | {"state": [1, 2, 3]}, default=encoded).encode(), 422, "state: expected shape"),
    ],
)
def test_rest_errors_have_codes_and_words(body: bytes, status: int, says: str) -> None:
    with rest() as server:
        found, answer = post(server, body)
        assert found == status
        assert says in answer["error"]
        assert post(server, json.dumps(OFT, default=encoded).encode())[0] == 200


def test_rest_asks_for_the_token_and_limits_sizes() -> None:
    body = json.dumps(OFT, default=encoded).encode()
    with rest(token=TOKEN, max_bytes=20_000) as server:
        assert post(server, body)[0] == 401
        assert post(server, body, Authorization="Api-Key nearly-the-token")[0] == 401
        assert post(server, body, Authorization=f"Api-Key {TOKEN}")[0] == 200
        assert post(server, body, Authorization=f"Api-Key {TOKEN}", Origin="http://evil.example")[0] == 403
        assert post(server, body + b" " * 20_000, Authorization=f"Api-Key {TOKEN}")[0] == 413
        assert post(server, body, "/else", Authorization=f"Api-Key {TOKEN}")[0] == 404


def test_rest_says_that_the_policy_failed() -> None:
    body = json.dumps(OFT, default=encoded).encode()
    with rest("fault:nan") as server:
        status, answer = post(server, body)
        assert status == 503
        assert "joint1 = nan" in answer["error"]


# GR00T -------------------------------------------------------------------------------------------------


@contextmanager
def groot(policy: Any = None, token: str | None = None) -> Iterator[ZmqServer]:
    engine = Engine(policy or HoldPolicy(SCHEMA), EngineConfig(max_batch=4))
    engine.start()
    started: list[tuple[ZmqServer, asyncio.AbstractEventLoop, asyncio.Task[None]]] = []
    ready = threading.Event()

    async def run() -> None:
        server = ZmqServer(engine, ServerConfig(port=0, token=token))
        task = asyncio.create_task(server.run())
        await server.ready.wait()
        started.append((server, asyncio.get_running_loop(), task))
        ready.set()
        await asyncio.gather(task, return_exceptions=True)

    thread = threading.Thread(target=lambda: asyncio.run(run()), daemon=True)
    thread.start()
    assert ready.wait(20)
    server, loop, task = started[0]
    try:
        yield server
    finally:
        loop.call_soon_threadsafe(task.cancel)
        thread.join(timeout=10)
        engine.close()


class Groot:
    """What GR00T's client does: one REQ socket, msgpack, arrays as npy files."""

    def __init__(self, server: ZmqServer, token: str = "") -> None:
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.REQ)
        self._socket.setsockopt(zmq.RCVTIMEO, 20_000)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.connect(f"tcp://127.0.0.1:{server.port}")
        self._token = token

    def __enter__(self) -> Groot:
        return self

    def __exit__(self, *why: object) -> None:
        self._socket.close()
        self._context.term()

    def raw(self, data: bytes) -> Any:
        self._socket.send(data)
        return msgpack.unpackb(self._socket.recv(), object_hook=self._decode)

    def call(self, endpoint: str, data: Any = None) -> Any:
        request = {"endpoint": endpoint}
        if data is not None:
            request["data"] = data
        if self._token:
            request["api_token"] = self._token
        return self.raw(msgpack.packb(request, default=self._encode))

    @staticmethod
    def _encode(value: Any) -> Any:
        file = io.BytesIO()
        np.save(file, value, allow_pickle=False)
        return {"__ndarray_class__": True, "as_npy": file.getvalue()}

    @staticmethod
    def _decode(value: Any) -> Any:
        if "__ndarray_class__" in value:
            return np.load(io.BytesIO(value["as_npy"]), allow_pickle=False)
        return value


def nested(rows: int = 1, times: int = 2) -> dict[str, Any]:
    return {
        "video": {
            "front": np.broadcast_to(FRONT, (rows, times, *FRONT.shape)).copy(),
            "wrist": np.broadcast_to(WRIST, (rows, times, *WRIST.shape)).copy(),
        },
        "state": {"state": np.stack([np.stack([STATE * 0, STATE * (1 + r)]) for r in range(rows)])},
        "language": {"task": [["lift"]] * rows},
    }


def test_groots_client_gets_its_actions() -> None:
    with groot() as server, Groot(server) as client:
        assert client.call("ping") == {"status": "ok", "message": "Server is running"}
        assert client.call("reset", {"options": None}) == {}
        action, info = client.call("get_action", {"observation": nested(), "options": None})
        assert action["action"].shape == (1, 3, 2)
        assert np.array_equal(action["action"][0], np.tile(STATE, (3, 1)))  # the last of T was looked at
        assert info["version"] == "hold"
        action, _ = client.call("get_action", {"observation": nested(rows=2), "options": None})
        assert np.array_equal(action["action"][:, 0], np.stack([STATE, 2 * STATE]))
        config = client.call("get_modality_config")
        assert config["video"]["as_json"]["modality_keys"] == ["front", "wrist"]
        assert config["action"]["as_json"]["delta_indices"] == [0, 1, 2]


def test_groots_older_flat_form() -> None:
    with groot() as server, Groot(server) as client:
        flat = {
            "video.front": FRONT[None],
            "video.wrist": WRIST[None],
            "state.joint1": STATE[None, :1],
            "state.joint2": STATE[None, 1:],
            "annotation.human.action.task_description": ["lift"],
        }
        assert np.array_equal(client.call("get_action", flat)["action.action"], np.tile(STATE, (3, 1)))


def test_two_groot_clients_at_once() -> None:
    with groot() as server, Groot(server) as one, Groot(server) as other:
        for client in (one, other, one, other):
            assert client.call("get_action", {"observation": nested()})[0]["action"].shape == (1, 3, 2)


def npy(header: bytes, data: bytes = b"") -> bytes:
    text = header + b" " * (117 - len(header)) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + data


def act(**changes: Any) -> bytes:
    observation = nested()
    observation.update(changes)
    return bytes(
        msgpack.packb({"endpoint": "get_action", "data": {"observation": observation}}, default=Groot._encode)
    )


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"garbage", "WireError"),
        (b"\x91" * 5000, "nested deeper"),
        (msgpack.packb([1]), "expected a map"),
        (msgpack.packb({"endpoint": "kill"}), "nobody ends this server"),
        (msgpack.packb({"endpoint": "eval"}), "expected get_action"),
        (msgpack.packb({"data": [1]}), "expected a map"),
        (msgpack.packb({"data": {"observation": 3}}), "expected a map"),
        (act(video={"front": 1}), "video.front"),
        (act(state={}), "no state"),
        (act(state={"state": np.zeros((1, 1, 5))}), "state: expected shape"),
        (act(audio={}), "expected video, state or language"),
        (act(language={"task": 7}), "language.task"),
        (
            act(state={"state": {"__ndarray_class__": True, "as_npy": b"no npy"}}),
            "no npy file",
        ),
        (
            act(state={"x": {
                "__ndarray_class__": True,
                "as_npy": npy(b"{'descr': '<f4', 'fortran_order': False, 'shape': (1000000, 1000000, 9)}"),
            }}),
            "needs 36000000000000 bytes",
        ),
        (
            act(state={"x": {
                "__ndarray_class__": True,
                "as_npy": npy(b"{'descr': '|O', 'fortran_order': False, 'shape': (1,)}", b"x" * 8),
            }}),
            "not taken",
        ),
    ],
)  # fmt: skip
def test_groot_errors_are_words_and_the_server_lives(data: bytes, says: str) -> None:
    with groot() as server, Groot(server) as client:
        assert says in client.raw(data)["error"]
        assert client.call("get_action", {"observation": nested()})[0]["action"].shape == (1, 3, 2)


def test_groots_token_is_looked_at_everywhere() -> None:
    with groot(token=TOKEN) as server:
        for token in ("", "nearly-the-token"):
            with Groot(server, token) as client:
                for endpoint in ("ping", "get_action", "reset", "kill", "get_modality_config"):
                    assert "Unauthorized" in client.call(endpoint)["error"]
        with Groot(server, TOKEN) as client:
            assert client.call("ping")["status"] == "ok"


def test_a_taken_port_is_said_by_both() -> None:
    with groot() as server, Groot(server) as client:
        assert client.call("ping")["status"] == "ok"
        engine = Engine(HoldPolicy(replace(SCHEMA)))
        with pytest.raises(TransportError, match=str(server.port)):
            asyncio.run(ZmqServer(engine, ServerConfig(port=server.port)).run())
        with pytest.raises(TransportError, match=str(server.port)):
            Rest(engine, ServerConfig(port=server.port))
