"""What the policy server costs: `make referees` (for openpi's client), then `python benchmarks/serve.py`.

1. Round trip of two 224 px images and a state, to an answer of 50 x 7 actions, on this computer, by
   websocket: a bare echo (the request comes back), a bare answer (as many bytes go each way as in an
   inference), a server loop as openpi's protocol describes it, and ours with the hold policy; with openpi's
   client and with ours. Every server has a process of its own; they are asked in turns, so that a busy moment
   hits all of them. The processor time of each server is printed, too: it does not depend on neighbours.
2. Answers in a second to 32 sessions, in batches and one at a time: with a shipped checkpoint on this CPU,
   and with a policy that costs 20 ms a call and 0.1 ms a row, as a large model on an accelerator would.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from numpy.typing import NDArray
from websockets.asyncio.client import connect as connect_async
from websockets.asyncio.server import ServerConnection, serve
from websockets.sync.client import connect

from regrip.datasets.spec import Axis, Camera, RobotSpec
from regrip.launch.allocator import keep_memory
from regrip.real_robot.serving.client import Client
from regrip.real_robot.serving.engine import Engine, EngineConfig
from regrip.real_robot.serving.policies import HoldPolicy
from regrip.real_robot.serving.schema import Ask, Schema
from regrip.real_robot.serving.server import Server, ServerConfig
from regrip.real_robot.serving.sessions import Run, ServedPolicy
from regrip.real_robot.serving.wire import pack, unpack

SESSIONS = 32
JOINTS = tuple(Axis(f"joint{index}", "rad", -3.0, 3.0) for index in range(1, 8))
SPEC = RobotSpec(
    name="arm",
    control_mode="joint_position",
    control_rate_hz=20.0,
    rotation="none",
    gripper="",
    action=JOINTS,
    state=JOINTS,
    cameras=(Camera("front", 224, 224), Camera("wrist", 224, 224)),
)
SCHEMA = Schema(SPEC, 50, "benchmark")


class PerCall:
    """A policy that costs mostly per call, as a large model on an accelerator does."""

    schema = SCHEMA

    def act(self, asks: Sequence[Ask], runs: Sequence[Run]) -> list[NDArray[np.float32] | None]:
        time.sleep(0.020 + 0.0001 * len(asks))
        return [np.zeros((50, 7), np.float32) for _ in asks]


def observation(schema: Schema, row: int = 0) -> dict[str, Any]:
    generator = np.random.default_rng(row)
    images = {
        f"observation/{c.name}": generator.integers(0, 255, (c.height, c.width, 3), np.uint8)
        for c in schema.spec.cameras
    }
    middle = [(axis.low + axis.high) / 2 for axis in schema.spec.state]
    state = np.array(schema.state_mean or middle, np.float32)
    return {**images, "observation/state": state, "prompt": "pick up the red block"}


# Servers, each in a process of its own -----------------------------------------------------------------


async def simple(kind: str) -> None:
    """`echo`, `answer`, or `openpi`: receive, unpack, infer on the event loop, pack, send."""
    from openpi_client import msgpack_numpy as openpi

    packer = openpi.Packer()
    canned = pack({"actions": np.zeros((50, 7), np.float32), "state": np.zeros(7, np.float32)})

    async def handle(connection: ServerConnection) -> None:
        await connection.send(packer.pack({}))
        previous: float | None = None
        async for data in connection:
            if kind != "openpi":
                await connection.send(data if kind == "echo" else canned)
                continue
            began = time.monotonic()
            state = openpi.unpackb(data)["observation/state"]
            inferring = time.monotonic()
            reply: dict[str, Any] = {"actions": np.tile(state, (50, 1)), "state": state}
            spent = 1e3 * (time.monotonic() - inferring)
            reply["policy_timing"] = {"infer_ms": spent}
            reply["server_timing"] = {"infer_ms": spent}
            if previous is not None:
                reply["server_timing"]["prev_total_ms"] = 1e3 * previous
            await connection.send(packer.pack(reply))
            previous = time.monotonic() - began

    async with serve(handle, "127.0.0.1", 0, compression=None, max_size=None) as server:
        print(next(iter(server.sockets)).getsockname()[1], flush=True)
        await asyncio.Event().wait()


async def ours(policy: ServedPolicy, max_batch: int) -> None:
    engine = Engine(policy, EngineConfig(max_batch, hang_s=120))
    async with Server(engine, ServerConfig(port=0)).running() as server:
        while engine.health():
            await asyncio.sleep(0.01)
        print(server.port, flush=True)
        await asyncio.Event().wait()


def policy_of(name: str) -> ServedPolicy:
    if name == "hold":
        return HoldPolicy(SCHEMA)
    if name == "per call":
        return PerCall()
    import torch

    from regrip.launch.serve import Options, load

    torch.set_num_threads(1)
    return load(Options(name))


class Process:
    """One of the servers above; ended by its own process id."""

    def __init__(self, *what: str) -> None:
        path = os.pathsep.join(entry for entry in sys.path if entry)
        self.process = subprocess.Popen(
            [sys.executable, __file__, "--serve", *what],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        )
        assert self.process.stdout is not None
        self.port = int(self.process.stdout.readline())

    def cpu_seconds(self) -> float:
        """Of all its threads, so far."""
        spent = psutil.Process(self.process.pid).cpu_times()
        return float(spent.user + spent.system)

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *why: object) -> None:
        self.process.kill()
        self.process.wait()


# 1. Round trip -----------------------------------------------------------------------------------------


@contextmanager
def socket_to(port: int) -> Iterator[Callable[[bytes], Any]]:
    """Sends bytes and waits for bytes, with websockets alone."""
    with connect(f"ws://127.0.0.1:{port}", compression=None, max_size=None) as connection:
        connection.recv()

        def ask(data: bytes) -> Any:
            connection.send(data)
            return connection.recv()

        yield ask


def round_trips(rounds: int, block: int) -> None:
    sys.path += map(str, Path(__file__).parents[1].glob(".venv-referees/lib/python*/site-packages"))
    from openpi_client.websocket_client_policy import WebsocketClientPolicy

    shown = observation(SCHEMA)
    data = pack(shown)
    with (
        Process("echo") as echo,
        Process("answer") as answer,
        Process("openpi") as openpi,
        Process("hold", "1") as own,
        socket_to(echo.port) as to_echo,
        socket_to(answer.port) as to_answer,
        socket_to(openpi.port) as to_openpi,
        socket_to(own.port) as to_own,
        Client(f"ws://127.0.0.1:{own.port}", timeout_s=30) as client,
    ):
        theirs, mixed = (WebsocketClientPolicy("127.0.0.1", p.port) for p in (openpi, own))
        ways: dict[str, tuple[Process, Callable[[], Any]]] = {
            "bare echo, the request comes back": (echo, lambda: to_echo(data)),
            "bare answer, an answer's bytes come back": (answer, lambda: to_answer(data)),
            "bare socket, openpi's loop": (openpi, lambda: to_openpi(data)),
            "bare socket, our server": (own, lambda: to_own(data)),
            "openpi's client, openpi's loop": (openpi, lambda: theirs.infer(shown)),
            "openpi's client, our server": (own, lambda: mixed.infer(shown)),
            "our client, our server": (own, lambda: client.infer(shown)),
        }
        times: dict[str, list[float]] = {name: [] for name in ways}
        cpu = dict.fromkeys(ways, 0.0)
        for turn in range(rounds + 1):
            for name, (server, ask) in ways.items():
                before = server.cpu_seconds()
                found = [_seconds(ask) for _ in range(block)]
                if turn:  # the first round warms up
                    times[name] += found
                    cpu[name] += server.cpu_seconds() - before
    print(f"round trip of {len(data)} bytes, {rounds * block} each; ms, and server's processor ms")
    print(f"{'':42}{'p10':>7}{'p50':>7}{'p95':>7}{'p99':>7}{'p50/echo':>10}{'p50/answer':>12}{'cpu':>7}")
    table = {name: 1e3 * np.percentile(found, [10, 50, 95, 99]) for name, found in times.items()}
    medians = [row[1] for row in table.values()]
    for name, row in table.items():
        numbers = "".join(f"{value:7.2f}" for value in row)
        spent = 1e3 * cpu[name] / (rounds * block)
        print(f"{name:42}{numbers}{row[1] / medians[0]:10.2f}{row[1] / medians[1]:12.2f}{spent:7.2f}")


def _seconds(ask: Callable[[], Any]) -> float:
    began = time.perf_counter()
    ask()
    return time.perf_counter() - began


# 2. Throughput -----------------------------------------------------------------------------------------


async def load_up(port: int, schema: Schema, seconds: float) -> tuple[float, float, float]:
    """Answers in a second to all sessions, mean rows in a call, and p50 of one answer in ms."""
    times: list[float] = []
    rows: list[int] = []
    until = time.monotonic() + seconds + 1.0

    async def session(index: int) -> None:
        data = pack(observation(schema, index))
        async with connect_async(f"ws://127.0.0.1:{port}", compression=None, max_size=None) as connection:
            await connection.recv()
            while time.monotonic() < until:
                began = time.monotonic()
                await connection.send(data)
                reply = unpack(await connection.recv())  # type: ignore[arg-type]
                if began > until - seconds:
                    times.append(time.monotonic() - began)
                    rows.append(reply["batch"])

    await asyncio.gather(*(session(index) for index in range(SESSIONS)))
    return len(times) / seconds, float(np.mean(rows)), 1e3 * float(np.median(times))


def throughput(name: str, schema: Schema, seconds: float, turns: int) -> None:
    """In turns, so that a busy moment hits both."""
    rates: dict[str, list[tuple[float, float, float]]] = {"1": [], str(SESSIONS): []}
    with Process(name, "1") as alone, Process(name, str(SESSIONS)) as batched:
        for _ in range(turns):
            for size, server in (("1", alone), (str(SESSIONS), batched)):
                rates[size].append(asyncio.run(load_up(server.port, schema, seconds)))
    print(f"{name}: {SESSIONS} sessions, {turns} times {seconds:g} s each")
    means = {size: np.mean(found, axis=0) for size, found in rates.items()}
    for size, (rate, rows, median) in means.items():
        print(f"  max_batch {size:>2}: {rate:7.1f} answers/s, {rows:4.1f} rows a call, p50 {median:7.1f} ms")
    print(f"  batched is {means[str(SESSIONS)][0] / means['1'][0]:.2f} times one at a time")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--serve", nargs="+", help=argparse.SUPPRESS)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument(
        "--block", type=int, default=50, help="round trips in a row before the next way's turn"
    )
    parser.add_argument("--seconds", type=float, default=6.0, help="of each measurement of throughput")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--checkpoint", default="demo")
    options = parser.parse_args()
    if options.serve:
        keep_memory()  # as `regrip serve` does; for all of them
        kind, *size = options.serve
        asyncio.run(ours(policy_of(kind), int(size[0])) if size else simple(kind))
        return
    round_trips(options.rounds, options.block)
    throughput("per call", SCHEMA, options.seconds, options.turns)
    from regrip.launch.serve import Options, load

    throughput(options.checkpoint, load(Options(options.checkpoint)).schema, options.seconds, options.turns)


if __name__ == "__main__":
    main()
