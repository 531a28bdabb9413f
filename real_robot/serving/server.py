"""The websocket server: openpi's protocol on port 8000, with extensions that its clients need not know.

The server speaks first, with the schema; then every binary frame is an observation and is answered by a
binary frame. What goes wrong is answered by a text frame, and the connection is closed with 1011. On the same
port are ``/livez``, ``/healthz`` (200 once everything is warmed up) and ``/metrics``.

Extensions, all optional, in the observation: ``__session__`` (a name that outlives the connection),
``__episode__`` (another than before begins anew), ``__seq__`` and ``__t_obs__`` (echoed as ``seq`` and
``t_obs``), ``__step__`` (of the first action), ``__prefix__`` (real-time chunking), ``__jpeg__`` (which
images are files), ``__seed__`` (sampled, the same again), ``__reset__`` (a message of its own: begin an
episode).
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
import traceback
from collections.abc import AsyncIterator, Iterator, Mapping
from concurrent.futures import Future
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from ..messages import PolicyError, TransportError
from .access import authorized, require_token
from .engine import Engine
from .metrics import CONTENT_TYPE
from .schema import Ask, ObservationError, whole_number
from .sessions import Answer, Session, ShuttingDownError, SupersededError, WithheldError
from .wire import WireError, pack, unpack

if TYPE_CHECKING:
    from websockets.asyncio.server import ServerConnection
    from websockets.http11 import Request, Response

_LOG = logging.getLogger("regrip.serving")


@dataclass(frozen=True)
class ServerConfig:
    """Where to listen, and what is too much.

    Attributes:
        host: 127.0.0.1, unless there is a token.
        port: 0 takes a free one.
        token: that ``Authorization: Api-Key <token>`` must bring; None asks for none.
        max_bytes: of one message.
        max_connections: at one time.
        grace_s: how long answers at hand are waited for at the end.
        debug: send tracebacks to clients.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    token: str | None = None
    max_bytes: int = 32 << 20
    max_connections: int = 256
    grace_s: float = 5.0
    debug: bool = False

    def __post_init__(self) -> None:
        require_token(self.host, self.token)


@dataclass
class _Client:
    """One connection."""

    connection: ServerConnection
    session: Session
    outbox: asyncio.Queue[_Reply]
    previous_ns: int | None = None  # how long the last request took, from arrival to sent
    named: bool = False
    asked: int = 0
    told: int = 0


@dataclass(frozen=True)
class _Reply:
    """What goes to a client: an answer or an error to `ask`, or a message as it is."""

    ask: Ask | None
    result: Answer | BaseException | Mapping[str, Any]
    received_ns: int


class Server:
    """Serves an engine over websockets.

    Args:
        engine: started or not; `run` starts it.
        config: where.
    """

    def __init__(self, engine: Engine, config: ServerConfig | None = None) -> None:
        self.engine, self.config = engine, config or ServerConfig()
        self.port = self.config.port
        self._clients: list[_Client] = []

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Server]:
        """Listen; on leaving, finish what is at hand and close every connection.

        Raises:
            TransportError: the package websockets is missing, or the port is taken.
        """
        try:
            from websockets.asyncio.server import serve
        except ModuleNotFoundError as error:
            raise TransportError(
                f"serving needs the package {error.name}: pip install 'regrip[serve]'"
            ) from error
        try:
            listening = await serve(
                self._handle,
                self.config.host,
                self.config.port,
                compression=None,
                max_size=self.config.max_bytes,
                max_queue=4,
                process_request=self._process_request,
                origins=[None],  # no web page may speak to a robot's policy
                close_timeout=2.0,
            )
        except OSError as error:
            raise TransportError(
                f"cannot listen on {self.config.host} port {self.config.port}: {error.strerror or error}. "
                "Stop what listens there, or give another --port"
            ) from error
        self.port = next(iter(listening.sockets)).getsockname()[1]
        self.engine.start()
        watch = asyncio.create_task(self._watch())
        try:
            yield self
        finally:
            end = time.monotonic() + self.config.grace_s
            drained = await asyncio.to_thread(self.engine.drain, self.config.grace_s)
            if not drained:
                _LOG.warning("the policy still works on an observation: it is left behind")
            while drained and any(c.told < c.asked for c in self._clients) and time.monotonic() < end:
                await asyncio.sleep(0.01)  # the last answers are on their way
            listening.close()
            await listening.wait_closed()
            watch.cancel()
            self.engine.close()

    async def _watch(self) -> None:
        while True:
            self.engine.watch()
            await asyncio.sleep(0.1)

    # HTTP on the same port -----------------------------------------------------------------------------

    def _process_request(self, connection: ServerConnection, request: Request) -> Response | None:
        path = request.path.partition("?")[0]
        if path == "/livez":
            return connection.respond(HTTPStatus.OK, "OK\n")
        if path == "/healthz":
            why = self.engine.health()
            if why:
                return connection.respond(HTTPStatus.SERVICE_UNAVAILABLE, f"{why}\n")
            return connection.respond(HTTPStatus.OK, "OK\n")
        if not authorized(request.headers.get("Authorization"), self.config.token):
            return connection.respond(
                HTTPStatus.UNAUTHORIZED, "send the header 'Authorization: Api-Key <token>'\n"
            )
        if path == "/metrics":
            self.engine.metrics.gauge("connections", len(self._clients))
            response = connection.respond(HTTPStatus.OK, self.engine.metrics.text(self.engine.schema.version))
            del response.headers["Content-Type"]
            response.headers["Content-Type"] = CONTENT_TYPE
            return response
        if len(self._clients) >= self.config.max_connections:
            return connection.respond(
                HTTPStatus.SERVICE_UNAVAILABLE, f"{len(self._clients)} connections, which is the most\n"
            )
        return None

    # Observations --------------------------------------------------------------------------------------

    async def _handle(self, connection: ServerConnection) -> None:
        from websockets.exceptions import ConnectionClosed

        client = _Client(connection, self.engine.session(), asyncio.Queue())
        self._clients.append(client)
        sending = asyncio.create_task(self._send(client))
        try:
            await connection.send(pack(self.engine.schema.metadata()))
            while not sending.done():
                message = unpacked = None
                message = await connection.recv()
                received = time.monotonic_ns()
                try:
                    unpacked = _map(message)
                    message = None  # it is copied; its memory is for the next
                    await self._take(client, unpacked, received)
                except ConnectionClosed:
                    raise
                except Exception as error:  # noqa: BLE001  # a fault of ours is said to the client, too
                    if not isinstance(error, (ObservationError, WireError, PolicyError)):
                        _LOG.exception("a message could not be taken")
                    client.outbox.put_nowait(_Reply(None, error, received))
                    await sending
        except ConnectionClosed:
            pass
        finally:
            self._clients.remove(client)
            sending.cancel()
            self.engine.leave(client.session)

    async def _take(self, client: _Client, message: dict[str, Any], received: int) -> None:
        name, episode = _name(message, "__session__"), _name(message, "__episode__")
        if name:
            self._rename(client, name)
        if message.get("__reset__"):
            self.engine.reset(client.session, episode or "")
            reply = {"reset": True, "episode": episode or "", "version": self.engine.schema.version}
            seq = whole_number(message, "__seq__")
            if seq is not None:
                reply["seq"] = seq
            client.outbox.put_nowait(_Reply(None, reply, received))
            return
        schema = client.session.run.policy.schema
        if message.get("__jpeg__"):
            ask = await asyncio.to_thread(schema.read, message)
        else:
            ask = schema.read(message)
        client.asked += 1
        future = self.engine.submit(client.session, ask, received, episode)
        loop, outbox = asyncio.get_running_loop(), client.outbox

        def settled(future: Future[Answer]) -> None:
            result = future.exception() or future.result()
            try:
                loop.call_soon_threadsafe(outbox.put_nowait, _Reply(ask, result, received))
            except RuntimeError:  # the loop has ended: there is nobody to tell
                return

        future.add_done_callback(settled)

    def _rename(self, client: _Client, name: str) -> None:
        if client.session.name == f"session {name}":
            return
        if client.named:
            raise ObservationError("__session__: this connection is of another session: connect again")
        self.engine.leave(client.session)
        client.session, client.named = self.engine.session(name), True

    async def _send(self, client: _Client) -> None:
        """The only one who sends after the handshake; ends after an error."""
        from websockets.exceptions import ConnectionClosed

        while True:
            reply = result = None  # let go of its images before others come
            reply = await client.outbox.get()
            result = reply.result
            try:
                if isinstance(result, (WithheldError, asyncio.CancelledError)):
                    continue
                if isinstance(result, SupersededError):
                    await client.connection.send(pack(_superseded(reply.ask, result)))
                elif isinstance(result, ShuttingDownError):
                    await client.connection.close(1012, "shutting down")
                    return
                elif isinstance(result, BaseException):
                    await client.connection.send(self._words(result))
                    await client.connection.close(1011, "the previous frame says why")
                    return
                elif isinstance(result, Answer):
                    assert reply.ask is not None, "an answer is to an ask"
                    await client.connection.send(pack(answered(reply.ask, result, client.previous_ns)))
                    client.previous_ns = time.monotonic_ns() - reply.received_ns
                else:
                    await client.connection.send(pack(dict(result)))
            except ConnectionClosed:
                return
            finally:
                client.told += reply.ask is not None

    def _words(self, error: BaseException) -> str:
        if isinstance(error, (ObservationError, WireError)):
            self.engine.metrics.count("refused")
        if self.config.debug:
            return "".join(traceback.format_exception(error))
        return f"{type(error).__name__}: {error}"


def _map(data: str | bytes) -> dict[str, Any]:
    if isinstance(data, str):
        raise WireError("a text frame came, expected a binary one")
    message = unpack(data)
    if not isinstance(message, dict):
        raise WireError(f"a {type(message).__name__} came, expected a map of observations")
    return message


def answered(ask: Ask, answer: Answer, previous_ns: int | None = None) -> dict[str, Any]:
    """An answer as openpi's server gives it, and what regrip adds."""
    timing = {"infer_ms": (time.monotonic_ns() - answer.received_ns) / 1e6}
    if previous_ns is not None:
        timing["prev_total_ms"] = previous_ns / 1e6
    reply: dict[str, Any] = {
        "actions": answer.actions,
        "state": ask.state,
        "policy_timing": {"infer_ms": (answer.ended_ns - answer.began_ns) / 1e6},
        "server_timing": timing,
        "t_recv": answer.received_ns,
        "t_infer_start": answer.began_ns,
        "t_infer_end": answer.ended_ns,
        "chunk": answer.chunk,
        "batch": answer.batch,
        "version": answer.version,
    }
    if ask.seq is not None:
        reply["seq"] = ask.seq
    if ask.t_obs is not None:
        reply["t_obs"] = ask.t_obs
    if ask.warnings:
        reply["warnings"] = list(ask.warnings)
    return reply


def _superseded(ask: Ask | None, error: SupersededError) -> dict[str, Any]:
    reply: dict[str, Any] = {"superseded": {"by": error.by, "why": str(error)}}
    if ask is not None and ask.seq is not None:
        reply["seq"] = ask.seq
    if ask is not None and ask.t_obs is not None:
        reply["t_obs"] = ask.t_obs
    return reply


def _name(message: Mapping[str, Any], key: str) -> str | None:
    value = message.get(key)
    if value is None:
        return None
    if isinstance(value, (str, int)) and not isinstance(value, bool) and 0 < len(str(value)) <= 128:
        return str(value)
    raise ObservationError(f"{key}: expected a name of 1 to 128 characters, got {type(value).__name__}")


@contextmanager
def in_background(engine: Engine, config: ServerConfig | None = None) -> Iterator[Server]:
    """A server in a thread of its own, for a program that does other things as well.

    Raises:
        TransportError: it cannot listen.
    """
    server, ready = Server(engine, config), threading.Event()
    failed: list[BaseException] = []
    stop: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []

    async def run() -> None:
        async with server.running():
            stop.append((asyncio.get_running_loop(), asyncio.Event()))
            ready.set()
            await stop[0][1].wait()

    def work() -> None:
        try:
            asyncio.run(run())
        except TransportError as error:
            failed.append(error)
        finally:
            ready.set()

    thread = threading.Thread(target=work, name="server", daemon=True)
    thread.start()
    ready.wait()
    if failed:
        raise failed[0]
    try:
        yield server
    finally:
        if stop:
            stop[0][0].call_soon_threadsafe(stop[0][1].set)
        thread.join(timeout=server.config.grace_s + 10)
