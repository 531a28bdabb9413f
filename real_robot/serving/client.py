"""A client of a policy server, regrip's or openpi's own: `infer` answers in time, or raises.

It never hands out an answer to another observation than the one it was asked about. After a timeout the
connection is thrown away, and with it whatever may still come over it.

This file and `wire.py` run alone on a robot's computer: Python 3.8, numpy 1 or 2, msgpack, websockets.
"""

from __future__ import annotations

import contextlib
import inspect
import random
import socket
import struct
import time
import uuid
from typing import Any

from .wire import WireError, pack, unpack


class ServerError(RuntimeError):
    """There is no answer; the text says why."""


class UnreachableError(ServerError):
    """No connection could be made, or it was lost, until the deadline."""


class LateError(ServerError):
    """The answer did not come until the deadline. If it comes later, nobody will take it for another."""


class RefusedError(ServerError):
    """The server says why it does not answer: a wrong token, a wrong observation, a policy that failed."""


class Client:
    """One session with a server. Not to be used from two threads at once.

    Args:
        url: ``ws://host:port``.
        token: sent as ``Authorization: Api-Key <token>``.
        timeout_s: for one `infer`, from the call to the answer, with whatever reconnecting it takes.
        connect_timeout_s: for the first connection, which is made here.
        session: a name that outlives connections; by default one of its own.
        max_bytes: of one message from the server.

    Attributes:
        metadata: what the server said of itself when last connected.

    Raises:
        UnreachableError: there is no server.
        RefusedError: it does not let us in.
    """

    def __init__(
        self,
        url: str = "ws://127.0.0.1:8000",
        token: str | None = None,
        *,
        timeout_s: float = 2.0,
        connect_timeout_s: float = 10.0,
        session: str = "",
        max_bytes: int = 16 << 20,
    ) -> None:
        for name, value in (("timeout_s", timeout_s), ("connect_timeout_s", connect_timeout_s)):
            if not 0 < value < 1e6:  # a timeout of 0 or NaN never fires
                raise ValueError(f"{name} is {value}, expected a number of seconds above 0")
        self.url, self.timeout_s = url if "://" in url else f"ws://{url}", timeout_s
        self.session = session or uuid.uuid4().hex
        self.metadata: dict[str, Any] = {}
        self.connections = 0
        self._token, self._max_bytes = token, max_bytes
        self._episode: str | None = None
        self._seq = 0
        self._socket: Any = None
        self._connect_until(time.monotonic() + connect_timeout_s)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *why: object) -> None:
        self.close()

    @property
    def extended(self) -> bool:
        """Whether the server knows regrip's extensions."""
        return isinstance(self.metadata.get("protocol_version"), int)

    def infer(self, observation: dict[str, Any], timeout_s: float | None = None) -> dict[str, Any]:
        """Have an observation answered.

        Args:
            observation: as the server's metadata says; an image given as bytes is a JPEG or PNG file.
            timeout_s: instead of the client's own.

        Returns:
            the server's reply: ``actions`` (H,A) and more; arrays cannot be written to.

        Raises:
            LateError: not in time.
            UnreachableError: the connection was lost, and there was none in time.
            RefusedError: the server will not or cannot answer.
        """
        message = dict(observation)
        files = [key for key, value in observation.items() if isinstance(value, bytes)]
        if files and "__jpeg__" not in message:
            message["__jpeg__"] = files
        return self._ask(message, timeout_s)

    def reset(self, episode: str = "", timeout_s: float | None = None) -> None:
        """Begin an episode: the server forgets the last one. Does nothing at openpi's own server.

        Raises:
            ServerError: as `infer`.
        """
        self._episode = episode or uuid.uuid4().hex
        if self.extended:
            self._ask({"__reset__": True}, timeout_s)

    def close(self) -> None:
        """End the connection."""
        self._drop()

    # Inside --------------------------------------------------------------------------------------------

    def _ask(self, message: dict[str, Any], timeout_s: float | None) -> dict[str, Any]:
        allowed = self.timeout_s if timeout_s is None else timeout_s
        deadline = time.monotonic() + allowed
        self._seq += 1
        why = ""
        while True:
            if self._socket is None:
                self._connect_until(deadline, why)
            try:
                self._send(self._addressed(message), deadline)
                return self._receive(deadline)
            except _LostError as error:  # asked again over a new connection, while there is time
                why = str(error)
                self._drop()
            except TimeoutError as error:
                self._drop()
                raise LateError(f"{self.url} has not answered within {allowed:g} s") from error
            except BaseException:
                self._drop()  # also after Ctrl-C: the answer may still come
                raise

    def _addressed(self, message: dict[str, Any]) -> bytes:
        if self.extended:
            message = {"__session__": self.session, "__seq__": self._seq, **message}
            if self._episode is not None:
                message.setdefault("__episode__", self._episode)
        else:
            message = {k: v for k, v in message.items() if not (k.startswith("__") and k.endswith("__"))}
        return pack(message)

    def _send(self, data: bytes, deadline: float) -> None:
        from websockets.exceptions import ConnectionClosed

        _limit_sending(self._socket, deadline - time.monotonic())
        try:
            self._socket.send(data)
        except (ConnectionClosed, OSError) as error:
            if time.monotonic() >= deadline:
                raise TimeoutError from error
            self._said(deadline)
            raise _LostError(f"the connection was lost: {error}") from error

    def _receive(self, deadline: float) -> dict[str, Any]:
        from websockets.exceptions import ConnectionClosed

        while True:
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError
            try:
                data = self._socket.recv(timeout=left)
            except (ConnectionClosed, OSError) as error:
                if isinstance(error, TimeoutError):
                    raise
                raise _LostError(f"the connection was lost: {error}") from error
            if isinstance(data, str):
                raise RefusedError(data)
            try:
                reply = unpack(data)
            except WireError as error:
                raise RefusedError(f"{self.url} sent something else than an answer: {error}") from error
            if not isinstance(reply, dict):
                raise RefusedError(f"{self.url} sent a {type(reply).__name__}, expected a map")
            if self.extended and reply.get("seq") != self._seq:
                continue  # an answer to something older
            if "superseded" in reply:
                raise RefusedError(f"the server dropped this observation: {reply['superseded']}")
            return reply

    def _said(self, deadline: float) -> None:
        """If the server gave a reason before it closed, raise it."""
        try:
            self._receive(min(deadline, time.monotonic() + 0.2))
        except (_LostError, TimeoutError):
            return

    def _connect_until(self, deadline: float, why: str = "") -> None:
        from websockets.exceptions import InvalidHandshake, InvalidStatus, WebSocketException

        pause = 0.02
        while True:
            left = deadline - time.monotonic()
            if left <= 0:
                raise UnreachableError(f"no connection to {self.url} in time ({why or 'nothing heard'})")
            try:
                self._connect(left)
                return
            except InvalidStatus as error:
                status = error.response.status_code
                body = bytes(error.response.body or b"").decode("utf-8", "replace").strip()
                why = f"{status}: {body}"
                if status not in (502, 503, 504):
                    raise RefusedError(f"{self.url} refused the connection, {why}") from error
            except (OSError, InvalidHandshake, WebSocketException, EOFError) as error:
                why = str(error) or type(error).__name__
            self._drop()
            # Not all at once when a server comes back to many robots.
            time.sleep(max(0.0, min(pause * (0.5 + random.random()), deadline - time.monotonic())))
            pause = min(2 * pause, 1.0)

    def _connect(self, left: float) -> None:
        from websockets.sync.client import connect

        settings: dict[str, Any] = {
            "compression": None,
            "max_size": self._max_bytes,
            "open_timeout": left,
            "close_timeout": 0.2,
        }
        if self._token is not None:
            settings["additional_headers"] = {"Authorization": f"Api-Key {self._token}"}
        if "proxy" in inspect.signature(connect).parameters:
            settings["proxy"] = None  # a robot's policy is not reached through a web proxy
        until = time.monotonic() + left
        self._socket = connect(self.url, **settings).__enter__()  # the one form that every version has
        metadata = unpack(self._socket.recv(timeout=max(0.001, until - time.monotonic())))
        if not isinstance(metadata, dict):
            raise RefusedError(f"{self.url} is no policy server: it began with a {type(metadata).__name__}")
        self.metadata = metadata
        self.connections += 1

    def _drop(self) -> None:
        """Throw the connection away, without waiting for anybody."""
        dropped, self._socket = self._socket, None
        if dropped is None:
            return
        with contextlib.suppress(OSError):
            dropped.socket.shutdown(socket.SHUT_RDWR)
        dropped.close()


class _LostError(Exception):
    """The connection ended before the answer."""


def _limit_sending(connection: Any, seconds: float) -> None:
    """A server that stands still must not block us when the network's buffers are full."""
    left = max(0.001, seconds)
    try:
        connection.socket.setsockopt(
            socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", int(left), int(left % 1 * 1e6))
        )
    except (OSError, AttributeError, struct.error):  # not on this system
        return
