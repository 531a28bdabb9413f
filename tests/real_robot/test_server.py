"""The policy server as its clients find it: over real sockets, with real clients."""

from __future__ import annotations

import re
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from served import ARM, SCHEMA, TOKEN, Echo, ended, get, observation, raw, serving, until, url
from websockets.exceptions import InvalidStatus

from regrip.real_robot.messages import PolicyError, TransportError
from regrip.real_robot.serving.client import Client, RefusedError
from regrip.real_robot.serving.engine import Engine
from regrip.real_robot.serving.policies import FaultyPolicy, HoldPolicy, RandomPolicy, built_in
from regrip.real_robot.serving.schema import Ask
from regrip.real_robot.serving.server import ServerConfig, in_background
from regrip.real_robot.serving.sessions import Run
from regrip.real_robot.serving.wire import pack, unpack

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
        with pytest.raises(RefusedError, match=r"File .*served"):
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
