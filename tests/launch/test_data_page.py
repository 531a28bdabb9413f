"""The page of a data set: nothing from the data can act, nothing is fetched, and it works in a browser."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import html
import json
import re
import shutil
import subprocess
import tempfile
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from recordings import DEPTH, FRONT, contents, recording
from rich.console import Console
from robots import Memory, robot, vectors

from regrip.datasets.frames import EncodedFrames
from regrip.datasets.inspecting.inspection import inspect
from regrip.datasets.ledger import Problem
from regrip.datasets.recording import Contents, Recording, Track
from regrip.launch.data_inspect import plain, show
from regrip.launch.data_page import write_page
from regrip.launch.durable import StorageError

HOSTILE = "</script><img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def hostile_set() -> Memory:
    """Words that try to break out of wherever a page may put them."""
    of = contents(depth=True)
    names, units = (HOSTILE,) * 7, ("'\"><b>",) * 7
    evil = dataclasses.replace(of.streams["action"], key=HOSTILE, names=names, units=units)
    of = dataclasses.replace(of, streams={**of.streams, HOSTILE: evil}, robot=HOSTILE)
    made = []
    for index in range(4):
        task = f"{HOSTILE} {index // 2}\u2028\u202e"
        made.append(recording(of, 9, seed=index, task=task, about={"operator": HOSTILE}))
    problems = [Problem(HOSTILE, HOSTILE, file=HOSTILE, key=HOSTILE, episode=1)]
    source = Memory(of, made, problems)
    source.path = f"/sets/{HOSTILE}"  # type: ignore[misc]
    return source


class Checker(HTMLParser):
    """Only the page's own tags, closed; nothing is fetched; no handler is written into a tag."""

    VOID = frozenset({"meta", "br", "line", "rect", "img", "input"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.scripts: list[dict[str, str | None]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag not in ("link", "iframe", "object", "base")
        if tag == "script":
            self.scripts.append(dict(attrs))
        for name, value in attrs:
            assert not name.startswith("on"), (tag, name)
            if name == "src":
                assert (value or "").startswith("data:image/jpeg;base64,")
            if name == "href":
                assert re.fullmatch(r"#episode-\d+", value or "")
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag


def check(page: str) -> Checker:
    checker = Checker()
    checker.feed(page)
    checker.close()
    assert checker.open == []
    assert checker.scripts == [{"type": "application/json", "id": "data"}, {}]
    assert "https://" not in page
    assert page.count("http://") == page.count("http://www.w3.org/2000/svg")  # a namespace, never fetched
    return checker


def data_of(page: str) -> dict[str, dict]:  # type: ignore[type-arg]
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)
    assert found is not None
    parsed: dict[str, dict] = json.loads(found[1])  # type: ignore[type-arg]
    return parsed


def written(tmp_path: Path, source: Memory, **how: int) -> str:
    path = tmp_path / "folder" / "page.html"
    write_page(path, source, inspect(source), **how)
    return path.read_text()


def test_nothing_that_data_says_gets_out_of_its_place(tmp_path: Path) -> None:
    page = written(tmp_path, hostile_set())
    check(page)
    assert "<img src=x" not in page
    assert page.count("</script>") == 2
    assert html.escape("<img src=x", quote=False) in page
    assert HOSTILE in data_of(page)["0"]["task"]


def test_the_policy_allows_the_page_own_script_and_no_other(tmp_path: Path) -> None:
    page = written(tmp_path, hostile_set())
    script = re.findall(r"<script>(.*?)</script>", page, re.S)
    digest = base64.b64encode(hashlib.sha256(script[0].encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in html.unescape(page)
    assert "default-src 'none'" in page


def test_it_holds_films_and_curves_of_some_and_says_of_how_many(tmp_path: Path) -> None:
    of = contents(depth=True)
    source = Memory(of, [recording(of, 30, seed=i, codec="raw" if i else "jpeg") for i in range(9)])
    page = written(tmp_path, source, pictures=3)
    found = data_of(page)
    assert list(found) == ["0", "4", "8"]
    assert [film["key"] for film in found["4"]["films"]] == [FRONT, "observation.images.wrist", DEPTH]
    film, curve = found["4"]["films"][0], found["4"]["curves"][0]
    assert (film["frames"], film["width"], film["height"]) == (16, 48, 32)
    assert film["time"][-1] == pytest.approx(29 / 20)
    assert (curve["key"], curve["names"][6], len(curve["values"][0])) == ("action", "gripper", 30)
    rows = source.made[4].streams["action"].rows
    assert curve["values"][2][17] == pytest.approx(rows[17, 2], rel=1e-4)  # type: ignore[call-overload,index]
    assert "3 of them, evenly spread, have pictures and curves" in page
    assert len(re.findall(r'<tr id="row-', page)) == 9


def test_its_size_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    of = contents()
    source = Memory(of, [recording(of, 20, seed=i) for i in range(8)])
    whole = data_of(written(tmp_path, source))
    monkeypatch.setattr(
        "regrip.launch.data_page._BUDGET", 2 * sum(len(f["src"]) for f in whole["0"]["films"])
    )
    page = written(tmp_path, source)
    assert 2 <= len(data_of(page)) <= 3
    assert "have pictures and curves" in page


def test_sets_with_little_in_them(tmp_path: Path) -> None:
    check(written(tmp_path, Memory(Contents({}), [])))
    numbers = written(tmp_path, vectors(robot("delta", episodes=2, steps=5)))
    check(numbers)
    assert data_of(numbers)["0"]["films"] == []
    of = contents()
    one = recording(of, 1)
    check(written(tmp_path, Memory(of, [one, Recording({})])))


def test_torn_pictures_and_wild_numbers_are_told(tmp_path: Path) -> None:
    of = contents(wrist=False)
    one = recording(of, 6)
    rows = np.array(one.streams["action"].rows, copy=True)
    rows[2] = np.nan
    rows[3] = np.inf
    torn = EncodedFrames([b"\xff\xd8\xff torn"] * 6, (32, 48, 3))
    streams = {
        **one.streams,
        FRONT: Track(torn, one.streams[FRONT].time),
        "action": Track(rows, one.streams["action"].time),
    }
    page = written(tmp_path, Memory(of, [dataclasses.replace(one, streams=streams)]))
    check(page)
    found = data_of(page)["0"]
    assert found["curves"][0]["values"][0][2:4] == [None, None]
    assert any("cannot be decoded" in text for text in found["problems"])


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    source = vectors(robot("delta", episodes=1, steps=5))
    with pytest.raises(StorageError):
        write_page(tmp_path / "file" / "page.html", source, inspect(source))


def browse(path: Path, fragment: str = "") -> tuple[str, str]:
    """The page as a browser leaves it, and what its console says."""
    assert CHROMIUM is not None
    with tempfile.TemporaryDirectory() as profile:
        done = subprocess.run(
            [
                CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
                "--disable-background-networking", "--disable-component-update", "--disable-sync",
                f"--user-data-dir={profile}", "--virtual-time-budget=2000", "--enable-logging=stderr",
                "--dump-dom", f"{path.as_uri()}{fragment}",
            ],
            capture_output=True, text=True, timeout=120, check=True,
        )  # fmt: skip
    return done.stdout, "\n".join(line for line in done.stderr.splitlines() if "CONSOLE" in line)


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium here")
def test_it_works_in_a_browser(tmp_path: Path) -> None:
    written(tmp_path, hostile_set())
    dom, console = browse(tmp_path / "folder" / "page.html", "#episode-2")
    assert console == ""
    assert "<title>owned" not in dom
    assert "4 of 4 shown" in dom  # the script ran
    opened = re.search(r"<dialog[^>]*>", dom)
    assert opened is not None
    assert "open" in opened[0]
    assert "Episode 2" in dom
    assert dom.count("<canvas") == 3
    assert dom.count("<polyline") == 7 + 7 + 8 + 1


def test_print_shows_problems_last_and_steers_no_terminal() -> None:
    source = hostile_set()
    source.made[0] = dataclasses.replace(source.made[0], task="\x1b[2J\x1b]0;owned\x07[bold]lift[/bold]\nit")
    console = Console(width=110, record=True, force_terminal=False)
    with console.capture() as captured:
        show(inspect(source), console, everything=True)
    text = captured.get()
    assert "\x1b" not in text
    assert "\x07" not in text
    assert "[bold]lift[/bold] it" in text  # as it is written, not as markup
    assert text.index("Conventions") < text.index("Ranges") < text.index("Problems")


def test_plain() -> None:
    assert plain("a\tb\nc") == "a b c"
    assert plain("\u202edlrow \x9b1m") == "\ufffddlrow \ufffd1m"
    assert plain("把杯子拿起来 ☕") == "把杯子拿起来 ☕"
