"""The node's page: what it shows, and who may press its buttons."""

from __future__ import annotations

import json
import shutil
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from toy import Toy, Wave, make_core

from regrip.real_robot.messages import Keep
from regrip.real_robot.node import Node
from regrip.real_robot.ui import Page


@dataclass
class Running:
    node: Node
    robot: Toy
    page: Page

    def get(self, path: str, **headers: str) -> tuple[int, bytes]:
        base = self.page.address.split("/?")[0]
        mark = "&" if "?" in path else "?"
        return self._ask(
            urllib.request.Request(f"{base}{path}{mark}token={self.page.token}", headers=headers)
        )

    def post(self, body: bytes, **headers: str) -> tuple[int, bytes]:
        base = self.page.address.split("/?")[0]
        return self._ask(urllib.request.Request(f"{base}/act", data=body, headers=headers))

    def press(self, what: str, value: str = "") -> dict[str, Any]:
        said = json.dumps({"what": what, "value": value}).encode()
        status, answer = self.post(said, **{"X-Token": self.page.token})
        assert status == 200, answer
        found: dict[str, Any] = json.loads(answer)
        return found

    @staticmethod
    def _ask(request: urllib.request.Request) -> tuple[int, bytes]:
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()


@pytest.fixture
def running() -> Iterator[Running]:
    core, robot = make_core(), Toy()
    node = Node(core, robot, Wave(), in_loop=True)
    page = Page(node, title="a <b>toy</b>")
    node._watchers.append(page)
    node.connect()
    core.configure()
    over = threading.Event()

    def loop() -> None:
        while not over.is_set():
            node.step()
            time.sleep(0.002)

    thread = threading.Thread(target=loop)
    thread.start()
    while node.figures.ticks < 10:  # an arm is enabled only once it has been seen to stand
        time.sleep(0.005)
    yield Running(node, robot, page)
    over.set()
    thread.join()
    page.close()


def until(running: Running, state: str) -> dict[str, Any]:
    for _ in range(500):
        status: dict[str, Any] = json.loads(running.get("/status")[1])
        if status["state"] == state:
            return status
        time.sleep(0.01)
    raise AssertionError(f"never {state}: {status['state']}, {status['reason']}")


def test_buttons_do_what_they_say_and_an_e_stop_is_latched(running: Running) -> None:
    until(running, "inactive")
    running.press("enable")
    status = until(running, "active")
    assert status["task"] == "wave"
    assert set(status["ages_ms"]) == {"front", "joints"}
    running.press("estop")
    assert until(running, "estop")["reason"] == "e-stop"
    running.press("enable")
    assert json.loads(running.get("/status")[1])["state"] == "estop"
    running.press("release")
    assert "enable again" in until(running, "inactive")["reason"]
    running.press("enable")
    until(running, "active")
    running.press("task", "wave twice")
    running.press("success")
    status = until(running, "inactive")
    assert (status["task"], status["outcome"]) == ("wave twice", True)
    status, picture = running.get("/picture?camera=front")  # type: ignore[assignment]
    assert picture[:3] == b"\xff\xd8\xff"


def test_nobody_without_the_token_sees_or_moves_anything(running: Running) -> None:
    until(running, "inactive")
    base = running.page.address.split("/?")[0]
    said = json.dumps({"what": "enable"}).encode()
    for path in ("/", "/status", "/picture?camera=front", "/status?token=guess"):
        assert Running._ask(urllib.request.Request(base + path))[0] == 403
    for headers in ({}, {"X-Token": "guess"}, {"X-Token": "ü"}):
        assert running.post(said, **headers)[0] == 403
    token = {"X-Token": running.page.token}
    assert running.post(said, **token, Host="evil.example:80")[0] == 403
    assert json.loads(running.get("/status")[1])["state"] == "inactive"


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b'{"what": "launch"}', b"[" * 3000, b'{"what": null}', b"x" * 5000]
)
def test_garbage_is_refused_and_the_page_lives_on(running: Running, body: bytes) -> None:
    assert running.post(body, **{"X-Token": running.page.token})[0] in (400, 403)
    until(running, "inactive")


def test_the_keep_button_is_there_when_something_keeps(running: Running) -> None:
    asked: list[object] = []
    running.node._watchers.append(lambda what: asked.append(what) if isinstance(what, Keep) else None)
    said = json.dumps({"what": "keep"}).encode()
    assert running.post(said, **{"X-Token": running.page.token})[0] == 400  # nobody holds anything
    running.page.keeps_s = 10.0
    assert json.loads(running.get("/status")[1])["keeps_s"] == 10.0
    running.press("keep")
    assert len(asked) == 1
    running.page.say("kept the last 10.0 s: episode 0")
    assert "kept the last" in json.loads(running.get("/status")[1])["log"][0]["what"]


@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs the Debian package chromium")
def test_the_page_shows_state_and_reason_in_a_browser(running: Running, tmp_path: Path) -> None:
    running.press("enable")
    until(running, "active")
    shown = subprocess.run(
        [
            "chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
            "--disable-background-networking", "--disable-component-update", "--disable-sync",
            f"--user-data-dir={tmp_path}", "--virtual-time-budget=3000", "--dump-dom", running.page.address,
        ],
        capture_output=True, text=True, timeout=120, check=False,
    ).stdout  # fmt: skip
    assert 'class="active"' in shown
    assert "a &lt;b&gt;toy&lt;/b&gt;" in shown
    assert 'data-camera="front"' in shown
