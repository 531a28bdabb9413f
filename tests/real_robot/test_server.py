"""The policy server as its clients find it: over real sockets, with real clients."""

from __future__ import annotations

import http.client
import json
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import websockets.sync.client
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from websockets.exceptions import ConnectionClosed, InvalidStatus

from regrip.datasets.frames import encode_jpeg
from regrip.datasets.spec import Axis, Camera, RobotSpec
from regrip.real_robot.messages import PolicyError, TransportError
from regrip.real_robot.serving.client import Client, RefusedError
from regrip.real_robot.serving.engine import Engine, EngineConfig
from regrip.real_robot.serving.policies import FaultyPolicy, HoldPolicy, RandomPolicy, built_in
from regrip.real_robot.serving.schema import Ask, ObservationError, Schema
from regrip.real_robot.serving.server import Server, ServerConfig, in_background
from regrip.real_robot.serving.sessions import Run, ServedPolicy
from regrip.real_robot.serving.wire import pack, unpack

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


# openpi's own client -----------------------------------------------------------------------------------


def test_openpis_client_unmodified() -> None:
    openpi = pytest.importorskip(
        "openpi_client.websocket_client_policy", reason="openpi-client is not installed"
    )
    with serving(HoldPolicy(SCHEMA)) as server:
        client = openpi.WebsocketClientPolicy("127.0.0.1", server.port)
        metadata = client.get_server_metadata()
        assert metadata["protocol_version"] == 1
        assert metadata["action_horizon"] == 5
        assert [axis["name"] for axis in metadata["action"]] == ["joint1", "gripper"]
        assert metadata["images"]["front"]["shape"] == [24, 32, 3]
        assert "observation/image" in metadata["images"]["front"]["keys"]
        client.reset()
        first = client.infer(observation())
        assert np.array_equal(first["actions"], np.tile(np.float32([0.25, 0.04]), (5, 1)))
        assert first["actions"].dtype == np.float32
        assert first["policy_timing"]["infer_ms"] >= 0
        assert first["server_timing"]["infer_ms"] > 0
        assert "prev_total_ms" not in first["server_timing"]
        assert client.infer(observation())["server_timing"]["prev_total_ms"] > 0
        with pytest.raises(RuntimeError, match="observation/state: expected shape"):
            client.infer(observation() | {"observation/state": np.zeros(3)})


def test_openpis_client_sends_a_token_and_it_is_looked_at() -> None:
    openpi = pytest.importorskip(
        "openpi_client.websocket_client_policy", reason="openpi-client is not installed"
    )
    with serving(HoldPolicy(SCHEMA), token=TOKEN) as server:
        client = openpi.WebsocketClientPolicy("127.0.0.1", server.port, api_key=TOKEN)
        assert client.infer(observation())["actions"].shape == (5, 2)
        with pytest.raises(InvalidStatus, match="401"):
            openpi.WebsocketClientPolicy("127.0.0.1", server.port, api_key=TOKEN + "x")


# Who may come in ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("header", [None, "Api-Key", "Api-Key ", "Api-Key nearly", f"Bearer {TOKEN}", TOKEN])
def test_without_the_token_nobody_comes_in(header: str | None) -> None:
    with serving(HoldPolicy(SCHEMA), token=TOKEN) as server:
        headers = {"Authorization": header} if header is not None else {}
        with pytest.raises(InvalidStatus, match="401"):
            raw(server, additional_headers=headers)
        assert get(server, "/metrics")[0] == 401
        assert get(server, "/metrics", TOKEN)[0] == 200
        assert get(server, "/livez") == (200, "OK\n")


@pytest.mark.parametrize("host", ["0.0.0.0", "", "::", "192.168.1.5", "robot.local"])
def test_other_computers_need_a_token(host: str) -> None:
    with pytest.raises(ValueError, match="--token-env"):
        ServerConfig(host=host)
    assert ServerConfig(host=host, token=TOKEN).token == TOKEN


def test_a_web_page_may_not_speak_to_the_policy() -> None:
    with serving(HoldPolicy(SCHEMA)) as server, pytest.raises(InvalidStatus, match="403"):
        raw(server, origin="http://evil.example")


def test_a_taken_port_is_said() -> None:
    with (
        serving(HoldPolicy(SCHEMA)) as server,
        pytest.raises(TransportError, match=f"port {server.port}"),
        in_background(Engine(HoldPolicy(SCHEMA)), ServerConfig(port=server.port)),
    ):
        pass


# Health and metrics ------------------------------------------------------------------------------------


def test_ready_only_after_warm_up_and_alive_meanwhile() -> None:
    policy = Echo()
    policy.warmed.clear()
    with serving(policy, ready=False) as server, Client(url(server), timeout_s=30) as client:
        status, words = get(server, "/healthz")
        assert status == 503
        assert "warming up: 0 of 4" in words
        assert get(server, "/livez")[0] == 200
        with ThreadPoolExecutor() as pool:
            answer = pool.submit(client.infer, observation())  # waits; it is not refused
            policy.warmed.set()
            until(lambda: get(server, "/healthz") == (200, "OK\n"))
            assert answer.result()["actions"].shape == (5, 2)


def test_every_batch_size_is_warmed_up() -> None:
    sizes = []

    class Counting(Echo):
        def act(self, asks: Sequence[Ask], runs: Sequence[Run]) -> list[NDArray[np.float32] | None]:
            sizes.append(len(asks))
            return super().act(asks, runs)

    with serving(Counting()):
        assert sizes == [1, 2, 3, 4]


def test_a_policy_that_fails_in_warm_up_is_never_ready() -> None:
    class Broken(Echo):
        def act(self, asks: Sequence[Ask], runs: Sequence[Run]) -> list[NDArray[np.float32] | None]:
            raise RuntimeError("no such kernel")

    with serving(Broken(), ready=False) as server:
        until(lambda: "no such kernel" in get(server, "/healthz")[1])
        assert get(server, "/healthz")[0] == 503
        with Client(url(server)) as client, pytest.raises(RefusedError, match="no such kernel"):
            client.infer(observation())


def test_metrics_are_prometheus_text_and_add_up() -> None:
    with serving(HoldPolicy(SCHEMA)) as server, Client(url(server)) as client:
        for _ in range(5):
            client.infer(observation())
        with pytest.raises(RefusedError):
            client.infer({})
        status, text = get(server, "/metrics")
    assert status == 200
    line = re.compile(r'[a-z_]+(\{[a-z]+="[^"]*"\})? [-+0-9.einfa]+')
    values = {}
    for row in text.splitlines():
        if not row.startswith("#"):
            assert line.fullmatch(row), row
            name, value = row.rsplit(" ", 1)
            values[name] = float(value)
    assert values['regrip_requests_total{outcome="answered"}'] == 5
    assert values['regrip_requests_total{outcome="refused"}'] == 1
    for name in ("request_seconds", "inference_seconds", "queue_seconds", "batch_rows"):
        assert values[f"regrip_{name}_count"] == 5
        buckets = [v for k, v in values.items() if k.startswith(f"regrip_{name}_bucket")]
        assert buckets == sorted(buckets)
        assert buckets[-1] == 5
    assert values['regrip_policy_info{version="hold"}'] == 1


# Sessions ----------------------------------------------------------------------------------------------


def test_the_newest_observation_wins_and_the_older_is_told() -> None:
    policy = Echo()
    policy.gate = threading.Event()
    with serving(policy) as server, raw(server) as connection:
        connection.send(pack(observation(0.1, __seq__=1, __t_obs__=111)))
        policy.began.acquire()  # number 1 is being answered
        for seq in (2, 3, 4):
            connection.send(pack(observation(seq / 10, __seq__=seq)))
        told = [unpack(connection.recv(timeout=10)) for _ in range(2)]
        assert [(reply["seq"], reply["superseded"]["by"]) for reply in told] == [(2, 3), (3, 4)]
        policy.gate.set()
        answers = [unpack(connection.recv(timeout=10)) for _ in range(2)]
        assert [reply["seq"] for reply in answers] == [1, 4]
        assert [round(float(reply["actions"][0, 0]), 3) for reply in answers] == [0.1, 0.4]
        assert answers[0]["t_obs"] == 111
        assert "t_obs" not in answers[1]
        assert 'outcome="superseded"} 2' in get(server, "/metrics")[1]


def test_a_session_outlives_its_connection_and_an_episode_begins_anew() -> None:
    def memory(reply: dict[str, Any]) -> float:
        return round(float(reply["actions"][0, 1]) * 1000)

    with serving(Echo()) as server:
        with Client(url(server), session="arm-7") as client:
            assert [memory(client.infer(observation())) for _ in range(2)] == [1, 2]
        with Client(url(server), session="arm-7") as client, Client(url(server)) as other:
            assert memory(client.infer(observation())) == 3
            assert memory(other.infer(observation())) == 1
            client.reset()
            assert memory(client.infer(observation())) == 1
            assert memory(client.infer(observation())) == 2
            assert memory(client.infer(observation(__episode__="b"))) == 1
            assert memory(client.infer(observation(__episode__="b"))) == 2


def test_observations_of_many_sessions_go_into_one_call() -> None:
    policy = Echo()
    policy.gate = threading.Event()
    with serving(policy) as server:
        clients = [Client(url(server), timeout_s=30) for _ in range(5)]
        with ThreadPoolExecutor(5) as pool:
            first = pool.submit(clients[0].infer, observation(0.9))
            policy.began.acquire()
            others = [pool.submit(c.infer, observation(i / 10)) for i, c in enumerate(clients[1:], 1)]
            until(lambda: len(server.engine._waiting) == 4)
            policy.gate.set()
            assert [round(float(f.result()["actions"][0, 0]), 3) for f in others] == [0.1, 0.2, 0.3, 0.4]
            assert {f.result()["batch"] for f in others} == {4}
            assert first.result()["batch"] == 1
        for client in clients:
            client.close()
        assert policy.threads == {"policy"}


def test_one_session_never_waits_for_others() -> None:
    with serving(Echo(), engine={"batch_s": 0.9}) as server, Client(url(server)) as client:
        answers = [client.infer(observation()) for _ in range(5)]
        # Each would have waited 0.9 s; a busy machine may hold some of them up, and not all.
        assert min(answer["t_infer_start"] - answer["t_recv"] for answer in answers) < 0.9e9


def test_the_batch_does_not_wait_longer_than_its_deadline() -> None:
    """Two sessions are live; one keeps silent, and the other is answered all the same."""
    with serving(Echo(), engine={"batch_s": 0.05}) as server:  # noqa: SIM117
        with Client(url(server)) as a, Client(url(server)) as b:
            a.infer(observation())
            b.infer(observation())
            assert a.infer(observation())["batch"] == 1


def test_one_bad_observation_does_not_spoil_the_batch() -> None:
    policy = Echo()
    policy.gate = threading.Event()
    with serving(policy) as server:
        clients = [Client(url(server), timeout_s=30) for _ in range(3)]
        with ThreadPoolExecutor(3) as pool:
            pool.submit(clients[0].infer, observation())
            policy.began.acquire()
            bad = pool.submit(clients[1].infer, observation(prompt="fail"))
            good = pool.submit(clients[2].infer, observation(0.5))
            until(lambda: len(server.engine._waiting) == 2)
            policy.gate.set()
            assert good.result()["actions"][0, 0] == 0.5
            with pytest.raises(RefusedError, match="no such thing") as refused:
                bad.result()
            assert "/a/secret/path" not in str(refused.value)
            assert "File " not in str(refused.value)
        for client in clients:
            client.close()


def test_debug_shows_the_traceback() -> None:
    with serving(Echo(), debug=True) as server, Client(url(server)) as client:
        with pytest.raises(RefusedError, match=r"File .*test_server"):
            client.infer(observation(prompt="fail"))
        with pytest.raises(RefusedError, match="Traceback"):
            client.infer({})


# What must not leave -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ("nan", r"action 4 has joint1 = nan rad, expected \[-1, 1\]"),
        ("limit", r"action 4 has joint1 = 100 rad"),
        ("shape", r"answered float32 \(4, 2\), expected float32 \(5, 2\)"),
        ("error", "fault:error"),
    ],
)
def test_a_bad_chunk_is_refused_and_the_server_lives(fault: str, says: str) -> None:
    with serving(built_in(f"fault:{fault}", SCHEMA)) as server, raw(server) as connection:
        for _ in range(2):
            with raw(server) as connection:
                connection.send(pack(observation()))
                words, code = ended(connection)
                assert re.search(says, words)
                assert code == 1011
        assert get(server, "/healthz")[0] == 200


def test_a_withheld_answer_never_comes_and_the_next_does() -> None:
    with serving(built_in("fault:drop:0.5", SCHEMA)) as server, raw(server) as connection:
        connection.send(pack(observation(__seq__=1)))
        reply = unpack(connection.recv(timeout=10))
        assert reply["seq"] == 1
        connection.send(pack(observation(__seq__=2)))
        with pytest.raises(TimeoutError):
            connection.recv(timeout=0.3)
        connection.send(pack(observation(__seq__=3)))
        assert unpack(connection.recv(timeout=10))["seq"] == 3


def test_a_policy_that_hangs_is_given_up_and_recovers() -> None:
    policy = FaultyPolicy(HoldPolicy(SCHEMA), "hang")
    with serving(policy, engine={"hang_s": 0.3}) as server, Client(url(server), timeout_s=20) as client:
        with pytest.raises(RefusedError, match=r"not answered for 0\.\d s"):
            client.infer(observation())
        status, words = get(server, "/healthz")
        assert status == 503
        assert "has not answered" in words
        assert get(server, "/livez")[0] == 200
        with pytest.raises(RefusedError, match="not answered"):
            client.infer(observation())  # at once, not after another 0.3 s
        policy.released.set()
        until(lambda: get(server, "/healthz")[0] == 200)
        assert client.infer(observation())["actions"].shape == (5, 2)


def test_connections_and_pings_are_answered_while_the_policy_thinks() -> None:
    policy = Echo()
    policy.gate = threading.Event()
    with serving(policy) as server, raw(server) as busy, raw(server) as other:
        busy.send(pack(observation()))
        policy.began.acquire()
        assert other.ping().wait(10)
        assert get(server, "/livez")[0] == 200
        with raw(server):
            pass
        policy.gate.set()
        assert unpack(busy.recv(timeout=10))["actions"].shape == (5, 2)


def test_shutting_down_answers_what_is_at_hand() -> None:
    policy = Echo()
    policy.gate = threading.Event()
    with ThreadPoolExecutor() as pool, serving(policy) as server:  # noqa: SIM117
        with Client(url(server), timeout_s=20) as client:
            answer = pool.submit(client.infer, observation(0.5))
            policy.began.acquire()
            threading.Timer(0.3, policy.gate.set).start()
            # Leaving `serving` begins the shutdown while the answer is not there yet.
            server.engine.drain(10)
            assert answer.result()["actions"][0, 0] == 0.5
            with pytest.raises(PolicyError, match="shutting down"):
                server.engine.submit(server.engine.session(), policy.seen[0][0], 0).result()


# Hot swap and seeds ------------------------------------------------------------------------------------


def test_a_swapped_policy_answers_from_the_next_episode_on() -> None:
    with serving(Echo()) as server, Client(url(server)) as client, Client(url(server)) as other:
        assert client.infer(observation())["version"] == "test@abc"
        assert other.infer(observation())["version"] == "test@abc"
        server.engine.swap(HoldPolicy(replace(SCHEMA, digest="new")))
        assert client.infer(observation())["version"] == "test@abc"
        client.reset()
        assert client.infer(observation())["version"] == "hold"
        assert other.infer(observation())["version"] == "test@abc"
        with Client(url(server)) as late:
            assert late.infer(observation())["version"] == "hold"
        assert 'version="hold"' in get(server, "/metrics")[1]


def test_a_policy_of_another_robot_is_not_swapped_in() -> None:
    engine = Engine(HoldPolicy(SCHEMA))
    other = replace(ARM, control_rate_hz=10.0)
    with pytest.raises(ValueError, match="control_rate_hz"):
        engine.swap(HoldPolicy(replace(SCHEMA, spec=other)))
    with pytest.raises(ValueError, match="7 actions"):
        engine.swap(HoldPolicy(replace(SCHEMA, horizon=7)))
    assert engine.schema.version == "hold"


def test_the_same_seed_gives_the_same_action_in_any_session() -> None:
    with serving(RandomPolicy(SCHEMA, seed=3)) as server, Client(url(server)) as a, Client(url(server)) as b:
        first = a.infer(observation(__seed__=12))["actions"]
        assert np.array_equal(first, a.infer(observation(__seed__=12))["actions"])
        assert np.array_equal(first, b.infer(observation(__seed__=12))["actions"])
        assert not np.array_equal(first, b.infer(observation(__seed__=13))["actions"])
        assert not np.array_equal(a.infer(observation())["actions"], a.infer(observation())["actions"])


# What observations may be ------------------------------------------------------------------------------

WRONG: list[tuple[dict[str, Any], str]] = [
    (
        {"observation/state": np.zeros(3)},
        r"observation/state: expected shape \(2,\) \(joint1, gripper_width\), got",
    ),
    ({"observation/state": np.array(["a", "b"])}, "observation/state: expected numbers"),
    ({"observation/state": np.array([np.nan, 0.0])}, "observation/state: joint1 is nan"),
    ({"observation/state": np.array([2.0, 0.0])}, r"joint1 is 2 rad, expected \[-1, 1\]"),
    ({"observation/state": np.array([1e300, 0.0])}, r"joint1 is 1e\+300"),
    (
        {"observation/image": np.zeros((24, 32, 3), np.float32)},
        r"expected uint8 \(24, 32, 3\).*multiply by 255",
    ),
    ({"observation/image": np.zeros((64, 64, 3), np.uint8)}, r"got \(64, 64, 3\): resize on your side"),
    ({"observation/image": b"\xff\xd8\xff"}, "must be listed: '__jpeg__'"),
    ({"observation/image": b"\xff\xd8\xff", "__jpeg__": True}, "observation/image: .*JPEG"),
    ({"observation/image": b"GIF89a", "__jpeg__": ["observation/image"]}, "neither JPEG nor PNG"),
    ({"front": np.zeros((24, 32, 3), np.uint8)}, "a second image of camera 'front'"),
    ({"state": np.zeros(2)}, "a second state"),
    ({"prompt": 7}, "prompt: expected a sentence"),
    ({"prompt": ""}, "no instruction"),
    ({"__seq__": "one"}, "__seq__: expected a whole number"),
    ({"__seq__": 2**63}, "__seq__: expected a whole number"),
    ({"__sed__": 1}, "did you mean __seed__"),
    ({"__jpeg__": 3}, "__jpeg__: expected true or a list"),
    ({"__prefix__": {"actions": np.zeros((2, 2)), "frozen": 1}}, "does not do real-time chunking"),
]


@pytest.mark.parametrize(("wrong", "says"), WRONG)
def test_a_wrong_observation_is_refused_by_name(wrong: dict[str, Any], says: str) -> None:
    with pytest.raises(ObservationError, match=says):
        SCHEMA.read(observation() | wrong)


@pytest.mark.parametrize(
    "left_out", ["observation/image", "observation/wrist_image", "observation/state", "prompt"]
)
def test_a_missing_part_is_named(left_out: str) -> None:
    partial = {key: value for key, value in observation().items() if key != left_out}
    with pytest.raises(ObservationError, match=r"no image of camera|no state|no instruction"):
        SCHEMA.read(partial)


@pytest.mark.parametrize(("wrong", "says"), WRONG[::5])
def test_over_the_wire_it_is_a_text_frame_and_1011(wrong: dict[str, Any], says: str) -> None:
    with serving(HoldPolicy(SCHEMA)) as server, raw(server) as connection:
        connection.send(pack(observation() | wrong))
        words, code = ended(connection)
        assert code == 1011
        assert re.search(says, words)
        assert "/" + "real_robot" not in words


def test_the_same_observation_by_any_of_its_names() -> None:
    plain = SCHEMA.read(observation())
    front, wrist = plain.images["front"], plain.images["wrist"]
    state = [0.25, 0.04]
    for message in (
        {"front": front, "wrist": wrist, "state": state, "task": "lift the block"},
        {
            "observation/front": front,
            "observation/wrist": wrist,
            "observation.state": state,
            "prompt": "lift the block",
        },
        {
            "observation.images.front": front,
            "observation/images/wrist": wrist,
            "state": state,
            "instruction": "lift the block",
        },
        {  # ALOHA's layout, channels first
            "images": {"front": front.transpose(2, 0, 1).copy(), "wrist": wrist.transpose(2, 0, 1).copy()},
            "state": state,
            "prompt": "lift the block",
        },
    ):
        ask = SCHEMA.read(unpack(pack(message)))
        assert np.array_equal(ask.images["front"], front)
        assert np.array_equal(ask.images["wrist"], wrist)
        assert np.array_equal(ask.state, plain.state)
        assert ask.state.dtype == np.float32
        assert ask.instruction == "lift the block"
        assert ask.warnings == ()


def test_a_cameras_own_name_means_itself() -> None:
    """A camera called ``image`` that is not the first keeps the name from openpi's outer camera."""
    spec = replace(ARM, cameras=(Camera("top", 8, 8), Camera("image", 8, 8)))
    images = {
        "observation/top": np.full((8, 8, 3), 1, np.uint8),
        "observation/image": np.full((8, 8, 3), 2, np.uint8),
    }
    ask = replace(SCHEMA, spec=spec).read({**images, "state": [0, 0], "prompt": "x"})
    assert ask.images["top"][0, 0, 0] == 1
    assert ask.images["image"][0, 0, 0] == 2


def test_odd_content_earns_a_warning_in_the_reply() -> None:
    odd = observation(0.9) | {"observation/image": np.zeros((24, 32, 3), np.uint8), "extra": 1}
    with serving(HoldPolicy(SCHEMA)) as server, Client(url(server)) as client:
        warnings = client.infer(odd)["warnings"]
        assert warnings == [
            "'extra' is not used",
            "the image of front is black",
            "state: joint1 is 0.9, 9.0 standard deviations from its mean in training",
        ]
        assert "warnings" not in client.infer(observation())


def test_image_files_are_taken_and_their_claims_checked_first() -> None:
    plain = observation()
    image = plain["observation/image"]
    files = plain | {"observation/image": encode_jpeg(image, 95), "__jpeg__": ["observation/image"]}
    with serving(Echo()) as server, Client(url(server)) as client:
        assert client.infer({k: v for k, v in files.items() if k != "__jpeg__"})["actions"].shape == (5, 2)
        large = encode_jpeg(np.zeros((4000, 4000, 3), np.uint8), 10)
        with pytest.raises(RefusedError, match="4000, 4000"):
            client.infer(plain | {"observation/image": large})
    seen = SCHEMA.read(files).images["front"]
    assert seen.shape == image.shape
    assert not np.array_equal(seen, image)


def test_a_prefix_reaches_a_policy_that_takes_one() -> None:
    policy = Echo(replace(SCHEMA, rtc=True))
    prefix = np.full((3, 2), 0.05, np.float32)
    with serving(policy) as server, Client(url(server)) as client:
        assert client.metadata["supports"]["rtc"] is True
        client.infer(observation(__prefix__={"actions": prefix, "frozen": 2}, __step__=17))
        ask = policy.seen[-1][0]
        assert np.array_equal(ask.prefix, prefix)
        assert (ask.frozen, ask.step) == (2, 17)
        for wrong in ({"actions": prefix, "frozen": 4}, {"actions": np.zeros((9, 2)), "frozen": 0}, [1]):
            with pytest.raises(RefusedError, match="__prefix__: expected"):
                client.infer(observation(__prefix__=wrong))
        with pytest.raises(RefusedError, match="not finite"):
            client.infer(observation(__prefix__={"actions": prefix * np.nan, "frozen": 0}))


# Hostile frames ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("frame", "says"),
    [
        (b"", "cut short"),
        (b"\xff\xd8 no msgpack at all", "follow"),
        (b"\x91" * 100_000, "nested deeper"),
        (b"\xdd\x7f\xff\xff\xff", "values"),
        (pack([1, 2, 3]), "expected a map"),
        (pack(7), "expected a map"),
        (pack({"images": {str(i): i for i in range(300)}}), "no image of camera"),
        (pack({1: 2, b"\xff": 3}), "dialect|no image"),
        (pack({"__session__": {}}), "__session__"),
        (pack({"__session__": "x" * 500}), "__session__"),
        (pack({"__reset__": True, "__seq__": []}), "__seq__"),
        ("a text frame", "text frame"),
        (pack(observation() | {"observation/image": {"a": {"b": 1}}}), "observation/image"),
        (pack(observation() | {"__jpeg__": {}}), "__jpeg__"),
    ],
)
def test_a_hostile_frame_ends_in_words_and_the_server_lives(frame: Any, says: str) -> None:
    with serving(HoldPolicy(SCHEMA)) as server:
        with raw(server) as connection:
            connection.send(frame)
            words, code = ended(connection)
            assert re.search(says, words), words
            assert code == 1011
            assert len(words) < 1500
        with Client(url(server)) as client:
            assert client.infer(observation())["actions"].shape == (5, 2)


def test_a_message_that_is_too_large_is_refused_unread() -> None:
    with serving(HoldPolicy(SCHEMA), max_bytes=100_000) as server:
        large = pack(observation() | {"more": np.zeros(1_000_000, np.uint8)})
        with raw(server) as connection, pytest.raises(ConnectionClosed) as closed:
            _ = connection.send(large), connection.recv(timeout=10)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1009
        with Client(url(server)) as client:
            assert client.infer(observation())["actions"].shape == (5, 2)


leaves = st.none() | st.booleans() | st.integers(-100, 100) | st.floats() | st.text(max_size=5) | st.binary()
anything = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=4,
)
KEYS = ["observation/image", "observation/state", "prompt", "__prefix__", "__jpeg__", "__seed__", "images"]


@given(anything, st.sampled_from(KEYS))
@settings(max_examples=150, deadline=None)
def test_any_value_under_any_key_is_taken_or_refused(value: Any, key: str) -> None:
    try:
        SCHEMA.read(observation() | {key: value})
    except ObservationError as error:
        assert len(str(error)) < 1500  # noqa: PT017  # that it is short is the point


# Built-in policies -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["hold", "random", "fault:latency:0.01"])
def test_built_in_policies_answer_within_limits(name: str) -> None:
    policy = built_in(name, SCHEMA)
    with serving(policy) as server, Client(url(server)) as client:
        assert client.infer(observation())["version"] == policy.schema.model


@pytest.mark.parametrize(
    "name", ["hodl", "replay:", "fault:", "fault:nun", "fault:drop:2", "fault:latency:x", ""]
)
def test_a_policy_that_does_not_exist_is_said(name: str) -> None:
    with pytest.raises(ValueError, match="policy"):
        built_in(name, SCHEMA)


def test_holding_an_end_effector_is_no_motion_and_the_gripper_as_it_is() -> None:
    spec = replace(
        ARM,
        control_mode="ee_delta",
        action=(Axis("dx", "m", -0.1, 0.1), Axis("gripper", "m", 0.0, 0.08)),
    )
    policy = HoldPolicy(replace(SCHEMA, spec=spec))
    ask = policy.schema.read(observation(0.5))
    assert np.allclose(policy.act([ask], [Run("s", "", policy)])[0], [[0.0, 0.04]] * 5)
    with pytest.raises(ValueError, match="dx"):
        HoldPolicy(replace(SCHEMA, spec=replace(spec, control_mode="velocity")))


def test_replay_plays_a_recorded_set(tmp_path: Path) -> None:
    path = recorded(tmp_path)
    policy = built_in(f"replay:{path}", SCHEMA)
    with serving(policy) as server, Client(url(server)) as client:
        client.reset()
        first, second = (client.infer(observation(0.5))["actions"] for _ in range(2))
        assert np.allclose(first[:, 0], np.arange(5) / 100)
        assert np.allclose(second[:, 0], [0.05, 0.06, 0.5, 0.5, 0.5])  # seven rows, and then it holds
        assert np.allclose(client.infer(observation(__step__=2))["actions"][:, 0], np.arange(2, 7) / 100)
        client.reset()
        assert np.allclose(client.infer(observation())["actions"][:, 0], -np.arange(5) / 100)


def recorded(folder: Path) -> Path:
    """Two episodes of seven steps in LIBERO's HDF5 form."""
    h5py = pytest.importorskip("h5py")
    path = folder / "demo.hdf5"
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        data.attrs["env_args"] = json.dumps({"env_name": "x", "type": 1, "env_kwargs": {}})
        data.attrs["total"] = 14
        for index, sign in enumerate((1, -1)):
            demo = data.create_group(f"demo_{index}")
            demo.attrs["num_samples"] = 7
            actions = np.stack([sign * np.arange(7) / 100, np.full(7, 0.04)], 1)
            demo.create_dataset("actions", data=actions)
            demo.create_dataset("rewards", data=np.zeros(7))
            demo.create_dataset("dones", data=np.zeros(7))
            demo.create_group("obs").create_dataset("robot0_joint_pos", data=actions)
    return path
