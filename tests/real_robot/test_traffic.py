"""What a server recorded of its clients, read back as a data set."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from served import SCHEMA, Echo, get, observation, raw, until, url

from regrip.datasets.store.reader import Store
from regrip.real_robot.serving.client import Client, RefusedError
from regrip.real_robot.serving.engine import Engine, EngineConfig
from regrip.real_robot.serving.metrics import Metrics
from regrip.real_robot.serving.server import Server, ServerConfig, in_background
from regrip.real_robot.serving.sessions import ServedPolicy
from regrip.real_robot.serving.traffic import Traffic, contents_of_traffic
from regrip.real_robot.serving.wire import pack, unpack


@contextmanager
def recording(path: Path, policy: ServedPolicy) -> Iterator[tuple[Server, Traffic, Engine]]:
    metrics = Metrics()
    traffic = Traffic(path, policy.schema, metrics)
    engine = Engine(policy, EngineConfig(2), metrics, traffic)
    with in_background(engine, ServerConfig(port=0, grace_s=1.0)) as server:
        until(lambda: get(server, "/healthz")[0] == 200)
        yield server, traffic, engine
    traffic.close()
    assert not traffic.problems


def test_what_sessions_sent_and_were_answered_is_there_episode_by_episode(tmp_path: Path) -> None:
    sent = [observation(0.1 * i, __step__=5 * i, __t_obs__=1000 + i) for i in range(4)]
    with (
        recording(tmp_path / "set", Echo(replace(SCHEMA, rtc=True))) as (server, traffic, engine),
        Client(url(server), session="one") as client,
        Client(url(server), session="two") as other,
    ):
        client.reset("first")
        answers = [client.infer(one)["actions"] for one in sent[:3]]
        other.infer(observation(0.9, prompt="press the button"))
        client.reset("second")
        until(lambda: traffic.episodes == 1)  # safe as soon as it is over
        engine.swap(Echo(replace(SCHEMA, rtc=True, digest="def")))
        prefix = {"actions": np.zeros((3, 2), np.float32), "frozen": 2}
        client.reset("third")
        client.infer(sent[3] | {"__prefix__": prefix})
        with pytest.raises(RefusedError):
            client.infer(observation(prompt="fail"))
    store = Store(tmp_path / "set")
    by = {(one.about["session"], one.about["episode"]): one for one in (store[i] for i in range(len(store)))}
    assert set(by) == {("session one", "first"), ("session two", ""), ("session one", "third")}
    first = by["session one", "first"]
    assert (first.task, first.about["checkpoint"]) == ("lift the block", "test@abc")
    np.testing.assert_array_equal(first.streams["decision.chunk"].rows, np.stack(answers))  # type: ignore[arg-type]
    np.testing.assert_array_equal(first.streams["served.seq"].rows, [2, 3, 4])  # the reset was the first
    np.testing.assert_array_equal(first.streams["served.t_obs"].rows, [1000, 1001, 1002])
    np.testing.assert_array_equal(first.streams["decision.step"].rows, [0, 5, 10])
    states = np.stack([one["observation/state"] for one in sent[:3]]).astype(np.float32)
    np.testing.assert_array_equal(first.streams["observation.state"].rows, states)  # type: ignore[arg-type]
    frames = first.streams["observation.images.wrist"].rows
    np.testing.assert_array_equal(frames[2], sent[2]["observation/wrist_image"])
    assert (first.streams["observation.state"].time[0], list(first.streams["served.error"].rows)) == (
        0,
        [""] * 3,
    )
    third = by["session one", "third"]
    assert third.about["checkpoint"] == "test@def"
    np.testing.assert_array_equal(third.streams["served.frozen"].rows, [2, 0])
    assert len(third.streams["decision.chunk"]) == 1
    assert "policy failed" in third.streams["served.error"].rows[1]
    store.close()


def test_a_superseded_observation_is_there_in_the_order_in_which_it_came(tmp_path: Path) -> None:
    policy = Echo()
    with recording(tmp_path / "set", policy) as (server, _, _), raw(server) as connection:
        policy.gate = threading.Event()
        for seq in range(3):
            connection.send(pack(observation(0.1 * seq, __seq__=seq)))
            if seq == 0:
                assert policy.began.acquire(timeout=10)
        assert unpack(connection.recv(timeout=10))["superseded"]["by"] == 2  # before the first is answered
        policy.gate.set()
        assert [unpack(connection.recv(timeout=10))["seq"] for _ in range(2)] == [0, 2]
    one = Store(tmp_path / "set")[0]
    np.testing.assert_array_equal(one.streams["served.seq"].rows, [0, 1, 2])
    assert [bool(error) for error in one.streams["served.error"].rows] == [False, True, False]


def test_a_disk_that_is_too_slow_costs_observations_and_says_so(tmp_path: Path) -> None:
    """The writer stands still; the server answers as before."""
    with recording(tmp_path / "set", Echo()) as (server, traffic, _):
        free, take = threading.Event(), traffic._thread._work

        def slow(what: Any) -> None:
            free.wait(30)
            take(what)

        traffic._thread._work = slow
        traffic._thread._longest = 3
        with Client(url(server)) as client:
            for _ in range(10):
                assert client.infer(observation())["actions"].shape == (5, 2)
            assert traffic.dropped >= 6
            assert f"regrip_unrecorded_observations {traffic.dropped}" in get(server, "/metrics")[1]
            free.set()
    assert len(Store(tmp_path / "set")[0].streams["served.seq"]) == 10 - traffic.dropped


def test_memory_is_bounded_and_long_episodes_come_in_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Traffic, "MAX_BYTES", 50_000)
    with recording(tmp_path / "set", Echo()) as (server, traffic, _), Client(url(server)) as client:
        for _ in range(40):
            client.infer(observation())
        until(lambda: traffic.episodes >= 2)
        assert traffic._bytes <= 50_000
    store = Store(tmp_path / "set")
    parts = [store[i] for i in range(len(store))]
    assert [one.about["part"] for one in parts] == list(range(len(parts)))
    seqs = np.concatenate([np.asarray(one.streams["served.seq"].rows) for one in parts])
    np.testing.assert_array_equal(seqs, np.arange(1, 41))
    assert store.contents.streams == contents_of_traffic(SCHEMA).streams
