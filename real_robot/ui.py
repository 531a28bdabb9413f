"""`regrip node --ui`: one local page that shows what the node does, and why, and lets a person stop it.

It binds to loopback. Whoever acts must send the token that the page was opened with, so that no other page in
the same browser can enable an arm.
"""

from __future__ import annotations

import hmac
import json
import secrets
import threading
from collections import deque
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np

from ..datasets.frames import codec_of, encode_jpeg
from .core import without_numbers
from .messages import Frame, Tick
from .node import Node

_MOST = 4096  # bytes of a request's body


class Page:
    """A watcher of a node that also serves a page.

    Args:
        node: whose events the buttons call.
        port: 0 takes a free one.
        title: what the page calls the robot.
        keeps_s: seconds that a `Keeper` holds; 0: there is none, and no button for it.
    """

    def __init__(self, node: Node, port: int = 0, title: str = "regrip", keeps_s: float = 0.0) -> None:
        self.node, self.title, self.keeps_s = node, title, keeps_s
        self.token = secrets.token_urlsafe(16)
        self._lock = threading.Lock()
        self._tick: Tick | None = None
        self._frames: dict[str, Frame] = {}
        self._log: deque[dict[str, Any]] = deque(maxlen=100)
        self._said = ""
        self._last_outcome = ""
        self._server = ThreadingHTTPServer(("127.0.0.1", port), _handler(self))
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, name="page", daemon=True)
        self._thread.start()

    @property
    def address(self) -> str:
        """What to open; the token is in it."""
        return f"http://127.0.0.1:{self._server.server_address[1]}/?token={self.token}"

    def __call__(self, what: object) -> None:
        if isinstance(what, Tick):
            said = f"{what.state}: {what.reason}" if what.reason else what.state
            with self._lock:
                self._tick = what
                if without_numbers(said) != self._said:
                    self._said = without_numbers(said)
                    self._log.append({"now": what.now, "what": said})
        elif isinstance(what, Frame):
            with self._lock:
                self._frames[what.camera] = what

    def say(self, words: str) -> None:
        """Add a line to what happened; from any thread."""
        with self._lock:
            self._log.append({"now": self.node.transport.now(), "what": words})

    def status(self) -> dict[str, Any]:
        """What the page shows, as JSON."""
        with self._lock:
            tick, log = self._tick, list(self._log)
        node = self.node
        late = [round(1000 * value, 2) for value in list(node.core.schedule.latencies)]
        now = node.transport.now()
        counts, edges = np.histogram(late, bins=20, range=(0.0, max([*late, 1.0]))) if late else ([], [])
        with node.lock:
            ages = node.core.gate.ages(now)
            counters = dict(node.core.counters) | {
                f"gate {name}": count for name, count in node.core.gate.counters.items()
            }
        return {
            "title": self.title,
            "state": tick.state if tick else "unconfigured",
            "reason": tick.reason if tick else "no tick yet",
            "task": tick.task if tick else "",
            "step": tick.step if tick else 0,
            "episode": node.core.episode,
            "outcome": tick.outcome if tick else None,
            "clamped": list(tick.clamped) if tick else [],
            "ages_ms": {name: round(1000 * age, 1) for name, age in ages.items()},
            "max_age_ms": round(1000 * node.core.config.gate.max_age_s, 1),
            "latency_ms": {"counts": np.asarray(counts).tolist(), "edges": np.asarray(edges).tolist()},
            "latency_p95_ms": float(np.quantile(late, 0.95)) if late else None,
            "period_ms": 1000.0 / node.core.rate_hz,
            "ticks": node.figures.ticks,
            "late_ticks": node.figures.late,
            "counters": counters,
            "log": log[::-1],
            "cameras": [camera.name for camera in node.core.spec.cameras],
            "keeps_s": self.keeps_s,
            "shadow": bool(getattr(node.transport, "shadow", False)),
        }

    def picture(self, camera: str) -> bytes | None:
        """The newest frame as an image file."""
        with self._lock:
            frame = self._frames.get(camera)
        if frame is None:
            return None
        if frame.encoded is not None:
            return frame.encoded
        return encode_jpeg(frame.image, 85) if frame.image is not None else None

    def act(self, what: str, value: str) -> str:
        """Do what a button says; the answer is for the page.

        Raises:
            ValueError: there is no such button.
        """
        events, now = self.node.events, self.node.transport.now()
        actions: dict[str, Callable[[], None]] = {
            "enable": lambda: events.on_enable(True, now),
            "disable": lambda: events.on_enable(False, now),
            "estop": lambda: events.on_estop(True, now),
            "release": lambda: events.on_estop(False, now),
            "takeover": lambda: events.on_takeover(True, now),
            "handback": lambda: events.on_takeover(False, now),
            "success": lambda: events.on_outcome(True, now),
            "failure": lambda: events.on_outcome(False, now),
            "task": lambda: events.on_task(value, now),
        }
        if self.keeps_s:
            actions["keep"] = lambda: events.on_keep(now)
        if what not in actions:
            raise ValueError(f"no button {what!r}; there are {', '.join(actions)}")
        actions[what]()
        return self.node.core.reason

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _handler(page: Page) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: Any) -> None:
            """Be quiet: the node's own lines are what a person reads."""

        def _answer(self, status: HTTPStatus, kind: str, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Cache-Control", "no-store")
            self.send_header("X-Content-Type-Options", "nosniff")
            self.send_header(
                "Content-Security-Policy",
                "default-src 'none'; img-src 'self'; connect-src 'self'; style-src 'unsafe-inline'; "
                "script-src 'unsafe-inline'; frame-ancestors 'none'",
            )
            self.end_headers()
            self.wfile.write(body)

        def _refuse(self, status: HTTPStatus, why: str) -> None:
            self.close_connection = True
            self._answer(status, "text/plain; charset=utf-8", why.encode())

        def _ours(self, token: str) -> bool:
            host = (self.headers.get("Host") or "").rsplit(":", 1)[0]
            if host not in ("127.0.0.1", "localhost"):  # another name that leads here: DNS rebinding
                self._refuse(HTTPStatus.FORBIDDEN, "open this page as 127.0.0.1")
                return False
            if not hmac.compare_digest(token.encode(), page.token.encode()):
                self._refuse(HTTPStatus.FORBIDDEN, "open the address that `regrip node --ui` printed")
                return False
            return True

        def do_GET(self) -> None:
            url = urlsplit(self.path)
            query = parse_qs(url.query)
            token = query.get("token", [""])[0]
            if not self._ours(token):
                return
            if url.path == "/":
                html = (resources.files("regrip.real_robot") / "templates" / "node.html").read_bytes()
                self._answer(HTTPStatus.OK, "text/html; charset=utf-8", html)
            elif url.path == "/status":
                self._answer(HTTPStatus.OK, "application/json", json.dumps(page.status()).encode())
            elif url.path == "/picture":
                picture = page.picture(query.get("camera", [""])[0])
                if picture is None:
                    self._refuse(HTTPStatus.NOT_FOUND, "no picture yet")
                else:
                    self._answer(HTTPStatus.OK, f"image/{codec_of(picture) or 'jpeg'}", picture)
            else:
                self._refuse(HTTPStatus.NOT_FOUND, "there is nothing here")

        def do_POST(self) -> None:
            if not self._ours(self.headers.get("X-Token") or ""):
                return
            try:
                length = int(self.headers.get("Content-Length") or 0)
            except ValueError:
                length = -1
            if urlsplit(self.path).path != "/act" or not 0 < length <= _MOST:
                self._refuse(HTTPStatus.BAD_REQUEST, "post JSON to /act")
                return
            try:
                said = json.loads(self.rfile.read(length))
                answer = page.act(str(said["what"]), str(said.get("value", "")))
            except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
                self._refuse(HTTPStatus.BAD_REQUEST, str(error))
                return
            self._answer(HTTPStatus.OK, "application/json", json.dumps({"reason": answer}).encode())

    return Handler
