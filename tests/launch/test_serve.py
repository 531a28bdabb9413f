"""A trained policy behind the server: the same bits as in process, by one way of preparing what it sees."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from regrip.datasets.episode import Observation
from regrip.datasets.frames import decode_image, encode_jpeg
from regrip.datasets.store.reader import Store
from regrip.launch import node
from regrip.launch.checkpoint import _write_manifest
from regrip.launch.config import ConfigError
from regrip.launch.node_policy import NodePolicy
from regrip.launch.policies import find_policy, open_policy
from regrip.launch.serve import Options, Pi0Server, contract, describe, load, main, model_name, token
from regrip.real_robot.messages import Request
from regrip.real_robot.serving.client import Client
from regrip.real_robot.serving.engine import Engine, EngineConfig
from regrip.real_robot.serving.remote import PolicyClient
from regrip.real_robot.serving.server import Server, ServerConfig, in_background
from regrip.vla.pi0 import Pi0Policy

ROWS = 6


@pytest.fixture(scope="module")
def policy() -> Iterator[Pi0Policy]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the same sums in the same order
    yield open_policy("demo")[0]
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def seen(policy: Pi0Policy) -> Observation:
    """Smooth pictures, for JPEG's sake, and states near those of training."""
    generator = np.random.default_rng(4)
    images = {}
    for camera in policy.spec.cameras:
        corners = generator.integers(40, 220, (ROWS, 2, 2, 3))
        x = np.linspace(0, 1, camera.width)[:, None]
        rows = corners[:, :, :1] * (1 - x) + corners[:, :, 1:] * x
        y = np.linspace(0, 1, camera.height)[:, None, None]
        images[camera.name] = (rows[:, :1] * (1 - y) + rows[:, 1:] * y).astype(np.uint8)
    mean, std = (np.array(getattr(policy.normalizer, f"state_{what}")) for what in ("mean", "std"))
    state = mean + 0.3 * std * generator.standard_normal((ROWS, len(mean)))
    return Observation(images, state.astype(np.float32), ["pick up the red block"] * ROWS)


@contextmanager
def serving(policy: Pi0Policy, seed: int | None = None, max_batch: int = 1) -> Iterator[Server]:
    served = Pi0Server(policy, describe(policy, "demo", "abc"), seed)
    with in_background(Engine(served, EngineConfig(max_batch, hang_s=60)), ServerConfig(port=0)) as server:
        yield server


def url(server: Server) -> str:
    return f"ws://127.0.0.1:{server.port}"


def message(seen: Observation, row: int, **more: Any) -> dict[str, Any]:
    return {
        **{f"observation/{name}": images[row] for name, images in seen.images.items()},
        "observation/state": seen.state[row],
        "prompt": seen.instruction[row],
        **more,
    }


def test_over_the_wire_the_actions_are_those_of_act_to_the_bit(policy: Pi0Policy, seen: Observation) -> None:
    openpi = pytest.importorskip(
        "openpi_client.websocket_client_policy", reason="openpi-client is not installed"
    )
    with (
        serving(policy) as server,
        Client(url(server), timeout_s=60) as client,
        contextlib.ExitStack() as closing,
    ):
        theirs = openpi.WebsocketClientPolicy("127.0.0.1", server.port)
        closing.callback(theirs._ws.close)  # it has no way of its own to end
        for row in range(3):
            wanted = policy.act(seen.take([row]), None).action[0]
            assert np.array_equal(client.infer(message(seen, row))["actions"], wanted)
            assert np.array_equal(theirs.infer(message(seen, row))["actions"], wanted)
            as_doubles = message(seen, row) | {"observation/state": seen.state[row].astype(np.float64)}
            assert np.array_equal(theirs.infer(as_doubles)["actions"], wanted)


def test_a_seed_gives_acts_own_sample_to_the_bit(policy: Pi0Policy, seen: Observation) -> None:
    with serving(policy, max_batch=4) as server, Client(url(server), timeout_s=60) as client:
        wanted = policy.act(seen.take([0]), [("serve", 7)]).action[0]
        assert np.array_equal(client.infer(message(seen, 0, __seed__=7))["actions"], wanted)
        assert np.array_equal(client.infer(message(seen, 0, __seed__=7))["actions"], wanted)
        assert not np.array_equal(client.infer(message(seen, 0, __seed__=8))["actions"], wanted)
        greedy = policy.act(seen.take([0]), None).action[0]
        assert np.array_equal(client.infer(message(seen, 0))["actions"], greedy)


def test_a_prefix_is_gone_on_from_over_the_wire_as_in_process(policy: Pi0Policy, seen: Observation) -> None:
    """The node's own way of asking, so that what it sends is tested as well."""
    old = policy.act(seen.take([1]), None).action[0]
    request = Request(3, 0.0, 0.0, seen.take([0]), 12, old[2:], 2, "a")
    with serving(policy, max_batch=2) as server, Client(url(server), timeout_s=60) as client:
        assert client.metadata["supports"]["rtc"] is True
        answered = PolicyClient(client, policy.spec).answer(request)
        assert np.array_equal(answered[:2], old[2:4])
        assert np.array_equal(answered, NodePolicy(policy).answer(request))
        assert not np.array_equal(answered, policy.act(seen.take([0]), None).action[0])
        asked = message(seen, 0, __prefix__={"actions": old[2:], "frozen": 2})
        seeded = client.infer(asked | {"__seed__": 7})
        assert np.array_equal(seeded["actions"], answered)
        assert "the chunk is greedy" in seeded["warnings"][0]


def test_a_served_seed_repeats_a_whole_session(policy: Pi0Policy, seen: Observation) -> None:
    def session(name: str) -> NDArray[np.float32]:
        with serving(policy, seed=5) as server, Client(url(server), session=name, timeout_s=60) as client:
            return np.stack([client.infer(message(seen, 0))["actions"] for _ in range(3)])

    first = session("a")
    assert np.array_equal(first, session("a"))
    assert not np.array_equal(first, session("b"))
    assert not np.array_equal(first[0], first[1])


def test_jpeg_costs_a_little_and_decodes_as_in_process(policy: Pi0Policy, seen: Observation) -> None:
    files = {name: encode_jpeg(images[0], 95) for name, images in seen.images.items()}
    decoded = {name: decode_image(data)[None] for name, data in files.items()}
    with serving(policy) as server, Client(url(server), timeout_s=60) as client:
        sent = message(seen, 0) | {f"observation/{name}": data for name, data in files.items()}
        actions = client.infer(sent)["actions"]
    same = policy.act(Observation(decoded, seen.state[:1], seen.instruction[:1]), None).action[0]
    assert np.array_equal(actions, same)
    raw = policy.act(seen.take([0]), None).action[0]
    span = policy.spec.action_high - policy.spec.action_low
    assert np.abs((actions - raw) / span).max() < 0.05


def test_a_batch_gives_the_single_actions_but_for_rounding(policy: Pi0Policy, seen: Observation) -> None:
    """Matrices of other shapes are summed in another order: about 1e-7 of difference, here at most 1e-5."""
    single = [policy.act(seen.take([row]), None).action[0] for row in range(ROWS)]
    with serving(policy, max_batch=ROWS) as server:
        clients = [Client(url(server), timeout_s=60) for _ in range(ROWS)]
        sizes = []
        with ThreadPoolExecutor(ROWS) as pool:
            for _ in range(3):
                replies = list(pool.map(lambda row: clients[row].infer(message(seen, row)), range(ROWS)))
                sizes += [reply["batch"] for reply in replies]
                for reply, wanted in zip(replies, single, strict=True):
                    assert np.abs(reply["actions"] - wanted).max() < 1e-5
        for client in clients:
            client.close()
        assert max(sizes) > 1


def test_the_handshake_says_what_the_checkpoint_is() -> None:
    schema = contract("demo")
    metadata = schema.metadata()
    assert metadata["model_id"] == "demo"
    assert len(metadata["model_hash"]) == 16
    assert metadata["action_horizon"] == 5
    assert metadata["control_hz"] == 20.0
    assert metadata["images"]["front"]["shape"] == [64, 64, 3]
    assert "observation/wrist_image" in metadata["images"]["wrist"]["keys"]
    assert metadata["state"]["axes"][7] == {"name": "gripper_width", "unit": "m", "low": 0.0, "high": 0.08}
    real = load(Options("demo")).schema
    assert (real.digest, real.horizon, real.spec) == (schema.digest, schema.horizon, schema.spec)


def test_names_and_tokens(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert model_name("demo") == "demo"
    assert model_name(str(tmp_path / "demo-001" / "policy")) == "demo-001"
    assert token("") is None
    monkeypatch.delenv("REGRIP_TEST_TOKEN", raising=False)
    with pytest.raises(ConfigError, match="REGRIP_TEST_TOKEN"):
        token("REGRIP_TEST_TOKEN")
    monkeypatch.setenv("REGRIP_TEST_TOKEN", "sesame-sesame")
    assert token("REGRIP_TEST_TOKEN") == "sesame-sesame"


def test_it_does_not_listen_to_others_without_a_token() -> None:
    with pytest.raises(ValueError, match="--token-env"):
        main(["demo", "--policy", "hold", "--host", "0.0.0.0"])


@pytest.mark.slow
def test_the_command_serves_reloads_records_and_ends(tmp_path: Path) -> None:
    """A process as a user starts it: ready, an answer, SIGHUP, SIGTERM."""
    code = "import sys; from regrip.launch.serve import main; sys.exit(main(sys.argv[1:]))"
    path = os.pathsep.join(entry for entry in sys.path if entry)
    process = subprocess.Popen(
        [
            sys.executable,
            "-c",
            code,
            "demo",
            "--port",
            "0",
            "--max-batch",
            "2",
            "--prompt",
            "lift the red block",
            "--record",
            str(tmp_path / "served"),
        ],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
    )
    try:
        assert process.stderr is not None
        said = process.stderr.readline()
        assert "demo@" in said, said
        port = int(said.split("127.0.0.1:")[1].split(",")[0])
        assert "ready" in process.stderr.readline()
        with Client(f"ws://127.0.0.1:{port}", timeout_s=60) as client:
            images = {
                "front": np.full((64, 64, 3), 90, np.uint8),
                "wrist": np.full((64, 64, 3), 90, np.uint8),
            }
            state = {"state": [(axis.low + axis.high) / 2 for axis in contract("demo").spec.state]}
            assert client.infer({**images, **state})["actions"].shape == (5, 7)
            process.send_signal(signal.SIGHUP)
            assert "answers from the next episodes on" in process.stderr.readline()
            client.reset()
            assert client.infer({**images, **state})["actions"].shape == (5, 7)
        process.terminate()
        assert process.wait(timeout=30) == 0
        with contextlib.closing(Store(tmp_path / "served")) as store:
            assert [store[i].task for i in range(len(store))] == ["lift the red block"] * 2
            assert store[0].about["checkpoint"] == contract("demo").version
    finally:
        process.kill()
        process.wait()
        assert process.stderr is not None
        process.stderr.close()


def test_a_node_behind_a_server_does_not_read_the_weights(policy: Pi0Policy, tmp_path: Path) -> None:
    """They may be too large for the robot's computer, or made for another device."""
    here = tmp_path / "policy"
    shutil.copytree(find_policy("demo").path, here)
    (here / "model.safetensors").write_bytes(b"no weights")
    (here / "manifest.json").unlink()
    _write_manifest(here)
    with pytest.raises(ValueError, match="damaged"):
        open_policy(str(here))
    with serving(policy) as server:
        options = node.Options(str(here), server=url(server))
        spec, answers, facts, execute = node.open_thinker(options)
        assert (spec, execute) == (policy.spec, policy.execute)
        assert facts == {"checkpoint": "demo@abc", "server": url(server)}
        assert isinstance(answers, PolicyClient)
        answers.client.close()
