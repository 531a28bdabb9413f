"""`regrip serve`: a policy behind openpi's websocket protocol, and OpenVLA's and GR00T's beside it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
import torch
import tyro
from numpy.typing import NDArray

from ..datasets.protocols import Actor
from ..datasets.spec import RobotSpec
from ..real_robot.serving.engine import Engine, EngineConfig
from ..real_robot.serving.metrics import Metrics
from ..real_robot.serving.policies import built_in, noise_key
from ..real_robot.serving.rest import Rest
from ..real_robot.serving.schema import Ask, Schema
from ..real_robot.serving.server import Server, ServerConfig
from ..real_robot.serving.sessions import Run, ServedPolicy, stack
from ..real_robot.serving.zmq_groot import ZmqServer
from ..vla import rtc
from ..vla.pi0 import Pi0Policy
from .config import ConfigError, parse_options
from .durable import read_json
from .policies import find_policy, open_policy

if TYPE_CHECKING:
    from ..real_robot.serving.traffic import Traffic

_LOG = logging.getLogger("regrip.serving")


class Pi0Server:
    """A trained policy, as a server asks it: `Pi0Policy.act` over the observations, and nothing else.

    Observations of several sessions go into one call, whose actions differ from those of single calls in the
    last bits (other matrix shapes, other rounding). What is to be repeated to the bit, that is whatever is
    sampled with a seed, is answered in a call of its own. So is an ask with a prefix: by the greedy chunk
    that goes on from it (`vla.rtc`), as the node has it in process.

    Args:
        policy: on its device.
        schema: from `describe`.
        seed: sample, with numbers from this seed, the session, its episode and the count of its answers;
            None: greedy, unless a client sends a seed.
        chooser: acts in place of `policy`; then the schema should say that it takes no prefix.
    """

    def __init__(
        self, policy: Pi0Policy, schema: Schema, seed: int | None = None, chooser: Actor | None = None
    ) -> None:
        self.policy, self.schema, self.seed = policy, schema, seed
        self.actor: Actor = policy if chooser is None else chooser

    def act(self, asks: Sequence[Ask], runs: Sequence[Run]) -> list[NDArray[np.float32] | None]:
        rows: list[NDArray[np.float32] | None] = [None] * len(asks)
        guided = [row for row, ask in enumerate(asks) if len(ask.prefix)]
        sampled = [
            row
            for row, ask in enumerate(asks)
            if row not in guided and (ask.seed is not None or self.seed is not None)
        ]
        greedy = [row for row in range(len(asks)) if row not in guided and row not in sampled]
        if greedy:
            actions = self.actor.act(stack([asks[row] for row in greedy]), None).action
            for row, action in zip(greedy, actions, strict=True):
                rows[row] = action
        for row in sampled:
            key = noise_key(asks[row], runs[row], self.seed or 0)
            rows[row] = self.actor.act(stack([asks[row]]), [key]).action[0]
        for row in guided:
            rows[row] = rtc.act(self.policy, stack([asks[row]]), asks[row].prefix, asks[row].frozen)
        return rows


def describe(policy: Pi0Policy, model: str, digest: str) -> Schema:
    """What a policy wants and gives."""
    return Schema(
        policy.spec,
        policy.chunk_size,
        model,
        digest,
        execute=policy.execute,
        rtc=policy.settings.head == "flow",
        sampled=True,
        state_mean=tuple(policy.normalizer.state_mean),
        state_std=tuple(policy.normalizer.state_std),
    )


def contract(name: str) -> Schema:
    """What the policy of a checkpoint wants and gives, without loading its weights.

    Raises:
        CheckpointError: there is no such checkpoint, or it is damaged.
    """
    found = find_policy(name)
    spec = RobotSpec.from_json(read_json(found.path / "robot.json", "a robot's contract"))
    described = read_json(found.path / "config.json", "a policy's description")
    horizon = int(described["pi0"]["chunk_size"])
    execute = int(described["settings"].get("execute", 0)) or horizon
    return Schema(spec, horizon, model_name(name), found.digest, execute=execute)


def load(options: Options) -> ServedPolicy:
    """The policy that the options name, from the disk.

    Raises:
        CheckpointError: there is no such checkpoint, or it is damaged.
        WorldFileError: there is no such learned world.
        ValueError: there is no such built-in policy, or no such device.
    """
    if options.policy:
        schema = replace(contract(options.checkpoint), prompt=options.prompt)
        return built_in(options.policy, schema, options.seed or 0)
    policy, published = open_policy(options.checkpoint, options.device)
    schema = describe(policy, model_name(options.checkpoint), published.digest)
    schema, chooser = replace(schema, prompt=options.prompt), None
    if options.select:
        from .choosing import selecting

        chooser = selecting(policy, options.select, options.candidates, options.select_by, options.device)
        schema = replace(schema, model=f"{schema.model}+best-of-{options.candidates}", rtc=False)
    return Pi0Server(policy, schema, options.seed, chooser)


def model_name(checkpoint: str) -> str:
    """``demo-001`` of ``runs/demo-001/policy``."""
    path = Path(checkpoint)
    return path.resolve().parent.name if path.name == "policy" else path.name


@dataclass(frozen=True)
class Options:
    """`regrip serve`.

    Attributes:
        checkpoint: a policy folder, a run directory, or the name of a policy that ships with regrip.
        host: address to listen on; any but this computer's own needs a token.
        port: of the websocket server, with /livez, /healthz and /metrics.
        token_env: environment variable that holds the token which clients must send.
        seed: sample, repeatably; without it the policy is greedy unless a client sends a seed.
        batch_ms: how long an observation waits for those of other sessions, at most.
        max_batch: observations in one call of the policy; 1 gives the bits of single calls.
        hang_s: a call that takes longer is given up.
        prompt: the instruction of observations that have none.
        policy: instead of the checkpoint's: `hold`, `random`, `replay:SET`, or `fault:WHAT[:AMOUNT]`.
        rest_port: also answer OpenVLA's REST there; 0 does not.
        record: a set that all observations and answers go into; one that is there grows.
        zmq_port: also answer GR00T's ZeroMQ there (its clients expect 5555); 0 does not.
        max_mb: of one message.
        threads: of the policy on a CPU.
        device: `cpu` or `cuda`.
        debug: send tracebacks to clients.
        select: ``world:MODEL``, a folder of `regrip world fit`: of several chunks, answer the one that this
            world likes best. Such a policy takes no prefix of real-time chunking.
        candidates: chunks that it chooses from; the greedy one is among them.
        select_by: ``goal`` or ``reflector``, as in `regrip eval`.
    """

    checkpoint: tyro.conf.Positional[str]
    host: str = "127.0.0.1"
    port: Annotated[int, tyro.conf.arg(aliases=["-p"])] = 8000
    token_env: str = ""
    seed: int | None = None
    batch_ms: float = 3.0
    max_batch: int = 32
    hang_s: float = 10.0
    prompt: str = ""
    policy: str = ""
    rest_port: int = 0
    zmq_port: int = 0
    record: Path | None = None
    max_mb: int = 32
    threads: int = 1
    device: str = "cpu"
    debug: bool = False
    select: str = ""
    candidates: int = 8
    select_by: Literal["goal", "reflector"] = "goal"

    def __post_init__(self) -> None:
        if self.select and self.policy:
            raise ValueError(f"--select with --policy {self.policy}: it chooses among a checkpoint's chunks")
        for name in ("port", "rest_port", "zmq_port"):
            if not 0 <= getattr(self, name) < 65536:
                raise ValueError(f"{name} is {getattr(self, name)}, expected 0 to 65535")


def main(args: Sequence[str]) -> int:
    options = parse_options(
        Options,
        args,
        prog="regrip serve",
        description=(
            "Serve a policy: openpi's websocket protocol, and on request OpenVLA's REST and GR00T's ZeroMQ. "
            "SIGHUP loads the checkpoint again and hands it to each session at its next episode; SIGTERM and "
            "Ctrl-C finish what is at hand and end."
        ),
    )
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    logging.getLogger("websockets").setLevel(logging.WARNING)
    config = ServerConfig(
        options.host, options.port, token(options.token_env), options.max_mb << 20, debug=options.debug
    )
    torch.set_num_threads(options.threads)
    policy, metrics = load(options), Metrics()
    traffic = open_traffic(options.record, policy.schema, metrics) if options.record else None
    settings = EngineConfig(options.max_batch, batch_s=options.batch_ms / 1e3, hang_s=options.hang_s)
    try:
        asyncio.run(_serve(Engine(policy, settings, metrics, traffic), config, options))
    finally:
        if traffic is not None:
            traffic.close()
            lost = f", {traffic.dropped} observations not recorded" if traffic.dropped else ""
            _LOG.info("%d episodes in %s%s", traffic.episodes, traffic.path, lost)
    return 0


def open_traffic(path: Path, schema: Schema, metrics: Metrics) -> Traffic:
    """The set that served traffic goes into.

    Raises:
        ConfigError: a package is missing.
        DataError: the set is another one, or somebody else writes to it.
    """
    try:
        from ..real_robot.serving.traffic import Traffic
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"--record needs the package {error.name}: pip install 'regrip[serve,data]'"
        ) from error
    return Traffic(path, schema, metrics)


def token(variable: str) -> str | None:
    """The token in an environment variable; None if no variable is named.

    Raises:
        ConfigError: the variable is not set.
    """
    if not variable:
        return None
    if not os.environ.get(variable):
        raise ConfigError(f"--token-env {variable}: that environment variable is not set, or empty")
    return os.environ[variable]


async def _serve(engine: Engine, config: ServerConfig, options: Options) -> None:
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    reloading: set[asyncio.Task[None]] = set()

    def reload() -> None:
        task = asyncio.create_task(_reload(engine, options))
        reloading.add(task)
        task.add_done_callback(reloading.discard)

    loop.add_signal_handler(signal.SIGHUP, reload)
    async with contextlib.AsyncExitStack() as stack_:
        server = await stack_.enter_async_context(Server(engine, config).running())
        _LOG.info("%s at ws://%s:%d, warming up", engine.schema.version, config.host, server.port)
        if options.rest_port:
            rest = Rest(engine, replace(config, port=options.rest_port))
            stack_.callback(rest.close)
            _LOG.info("OpenVLA's REST at http://%s:%d/act", config.host, rest.port)
        tasks = [asyncio.create_task(stop.wait()), asyncio.create_task(_say_ready(engine))]
        if options.zmq_port:
            groot = ZmqServer(engine, replace(config, port=options.zmq_port))
            tasks.append(asyncio.create_task(groot.run()))
            _LOG.info("GR00T's ZeroMQ at tcp://%s:%d", config.host, options.zmq_port)
        waiting = {task for index, task in enumerate(tasks) if index != 1}
        done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for task in done:
            task.result()
    _LOG.info("ended")


async def _say_ready(engine: Engine) -> None:
    while engine.health().startswith("warming up"):
        await asyncio.sleep(0.05)
    _LOG.info("%s", engine.health() or "ready")


async def _reload(engine: Engine, options: Options) -> None:
    try:
        policy = await asyncio.to_thread(load, options)
        await asyncio.to_thread(engine.swap, policy)
    except (ValueError, RuntimeError, OSError, json.JSONDecodeError) as error:
        _LOG.error("the checkpoint is not loaded again, the present policy stays: %s", error)
