"""OpenVLA's REST adapter: ``POST /act``, arrays in json_numpy's form.

The body is OpenVLA's (``image``, ``instruction``, and here also ``state``), answered by one action (A,); or
OpenVLA-OFT's (``full_image``, ``wrist_image``, ``state``, ``instruction``), answered by a list of H actions.
A body ``{"encoded": "<JSON>"}`` is answered by a JSON text, encoded once more, as clients without json_numpy
want. ``unnorm_key`` is taken and makes no difference: a policy here has one normaliser. Errors have HTTP's
codes.
"""

from __future__ import annotations

import base64
import binascii
import http.server
import json
import threading
import time
from collections.abc import Mapping
from concurrent.futures import TimeoutError as FutureTimeout
from http import HTTPStatus
from typing import Any

import numpy as np

from ..messages import PolicyError, TransportError
from .access import authorized
from .engine import Engine
from .schema import ObservationError
from .server import ServerConfig
from .wire import MAX_VALUES, WireError, array_of

_IDLE_S = 30.0  # a connection that says nothing for so long is closed


class BodyError(ValueError):
    """A body that is not what `/act` takes."""


class Rest:
    """An HTTP server in threads of its own.

    Args:
        engine: started by whoever made it.
        config: where; of `max_connections`, each has a thread.

    Raises:
        TransportError: the port is taken.
    """

    def __init__(self, engine: Engine, config: ServerConfig) -> None:
        try:
            self._server = _Threads((config.host, config.port), _handler(engine, config))
        except OSError as error:
            raise TransportError(
                f"cannot listen on {config.host} port {config.port}: {error.strerror or error}"
            ) from error
        self._server.free = threading.BoundedSemaphore(config.max_connections)
        self.port = int(self._server.server_address[1])
        self._thread = threading.Thread(target=self._server.serve_forever, name="rest", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Threads(http.server.ThreadingHTTPServer):
    daemon_threads = True
    free: threading.BoundedSemaphore

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self.free.acquire(blocking=False):
            self.shutdown_request(request)
            return
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self.free.release()


def _handler(engine: Engine, config: ServerConfig) -> type[http.server.BaseHTTPRequestHandler]:
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = _IDLE_S
        server_version = "regrip"
        sys_version = ""

        def do_POST(self) -> None:  # http.server's name
            try:
                status, body = self._act()
            except (BodyError, ObservationError, WireError) as error:
                engine.metrics.count("refused")
                status, body = HTTPStatus.UNPROCESSABLE_ENTITY, {"error": str(error)}
            except (PolicyError, FutureTimeout) as error:
                words = str(error) or "the policy has not answered"
                status, body = HTTPStatus.SERVICE_UNAVAILABLE, {"error": words}
            self._answer(status, body)

        def do_GET(self) -> None:
            why = engine.health()
            if self.path != "/healthz":
                self._answer(HTTPStatus.NOT_FOUND, {"error": "POST /act, or GET /healthz"})
            elif why:
                self._answer(HTTPStatus.SERVICE_UNAVAILABLE, {"error": why})
            else:
                self._answer(HTTPStatus.OK, "OK")

        def _act(self) -> tuple[HTTPStatus, Any]:
            length = self.headers.get("Content-Length", "")
            if not authorized(self.headers.get("Authorization"), config.token):
                self.close_connection = True
                return HTTPStatus.UNAUTHORIZED, {"error": "send the header 'Authorization: Api-Key <token>'"}
            if self.headers.get("Origin") is not None:
                self.close_connection = True
                return HTTPStatus.FORBIDDEN, {"error": "web pages may not ask a robot's policy"}
            if not (length.isascii() and length.isdigit()):
                self.close_connection = True
                return HTTPStatus.LENGTH_REQUIRED, {"error": "send a Content-Length"}
            if int(length) > config.max_bytes:
                self.close_connection = True
                return HTTPStatus.REQUEST_ENTITY_TOO_LARGE, {"error": f"at most {config.max_bytes} bytes"}
            received = time.monotonic_ns()
            data = self.rfile.read(int(length))
            if self.path != "/act":
                return HTTPStatus.NOT_FOUND, {"error": "POST /act"}
            return HTTPStatus.OK, act(engine, data, received)

        def _answer(self, status: HTTPStatus, body: Any) -> None:
            data = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            if self.close_connection:
                self.send_header("Connection", "close")
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: Any) -> None:
            """Nothing: `/metrics` counts."""

    return Handler


def act(engine: Engine, data: bytes, received_ns: int) -> Any:
    """Answer one body.

    Raises:
        BodyError: it is not JSON, or not such a body.
        ObservationError: as `Schema.read`.
        PolicyError: the policy does not answer.
    """
    body = _parsed(data)
    if not isinstance(body, dict):
        raise BodyError(f"the body is a {type(body).__name__}, expected an object")
    twice = "encoded" in body
    if twice:
        if len(body) != 1 or not isinstance(body["encoded"], str):
            raise BodyError("'encoded' holds the whole body as a JSON text, and stands alone")
        body = _parsed(body["encoded"])
        if not isinstance(body, dict):
            raise BodyError(f"'encoded' holds a {type(body).__name__}, expected an object")
    body.pop("unnorm_key", None)
    name = body.get("__session__")
    session = engine.session(name if isinstance(name, str) else "")
    try:
        ask = engine.schema.read(body)
        future = engine.submit(session, ask, received_ns)
        answer = future.result(timeout=engine.config.hang_s + 1.0)
    finally:
        engine.leave(session)
    one = "image" in body and "full_image" not in body
    found = _encoded(answer.actions[0]) if one else [_encoded(row) for row in answer.actions]
    return json.dumps(found) if twice else found


def _parsed(text: str | bytes) -> Any:
    data = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
    if sum(data.count(mark) for mark in (b",", b"[", b"{")) > MAX_VALUES:
        raise BodyError(f"the body has more than {MAX_VALUES} values: send arrays in json_numpy's form")
    try:
        return json.loads(text, object_hook=_decoded)
    except (WireError, BodyError):
        raise
    except (ValueError, RecursionError) as error:
        raise BodyError(f"the body is not JSON ({error})") from error


def _decoded(value: dict[str, Any]) -> Any:
    if "__numpy__" not in value:
        return value
    try:
        data = base64.b64decode(value["__numpy__"], validate=True)
    except (TypeError, ValueError, binascii.Error) as error:
        raise BodyError(f"an array's '__numpy__' is not base64 ({error})") from error
    return array_of(data, value.get("dtype"), value.get("shape"))


def _encoded(array: np.ndarray[Any, Any]) -> Mapping[str, Any]:
    return {
        "__numpy__": base64.b64encode(array.tobytes()).decode(),
        "dtype": array.dtype.str,
        "shape": list(array.shape),
    }
