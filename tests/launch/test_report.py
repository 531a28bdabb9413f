"""The page says what is in the run directory, and nothing else."""

import os
import re
import tomllib
from html.parser import HTMLParser
from pathlib import Path

import pytest

from regrip.launch import cli
from regrip.launch.config import load_preset, to_dict
from regrip.launch.durable import StorageError
from regrip.launch.measurement import load_measurement
from regrip.launch.report import duration, to_toml, write_report
from regrip.launch.run_directory import RunDirectory

from .runs import Config, Learner, make_run, measurement


class Checker(HTMLParser):
    """Every tag is closed, and nothing is fetched from anywhere."""

    VOID = frozenset({"meta", "br", "line", "circle", "rect", "polyline", "polygon", "img"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.num_videos = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.num_videos += tag == "video"
        assert tag not in ("script", "link", "iframe")
        for name, value in attrs:
            assert name not in ("src", "href") or (value or "").startswith("data:")
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
    assert "http://" not in page
    assert "https://" not in page
    return checker


def words(page: str) -> str:
    """What a reader sees."""
    text = re.sub(r"<(style|title)>.*?</\1>|<[^>]+>", " ", page, flags=re.S)
    return re.sub(r"\s+", " ", text.replace("&nbsp;", " "))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    return make_run(tmp_path_factory.mktemp("runs") / "demo-001")


def test_finished_run(run: RunDirectory) -> None:
    assert cli.main(["report", str(run.path)]) == 0
    page = run.report.read_text()
    assert check(page).num_videos == 12
    text = words(page)
    before, after = (load_measurement(path).headline.rate for path in (run.eval_before, run.eval_after))
    assert f"{100 * before.value:.1f} %" in text
    assert f"succeeds from {after.successes} of {after.trials} start states it never trained on" in text
    assert f"it succeeded from {before.successes} of {before.trials}" in text
    assert "14 min of practice (11,520 episodes)" in text
    assert "3 simulator workers were lost (1 hung, 1 died, 1 memory)" in text
    assert "git checkout 1f2e3d4c5b6a regrip train demo --seed 0" in text
    for task in ("lift red", "press yellow"):
        assert task in text
    assert "&lt;b&gt;text&lt;/b&gt;" in page, "what the user wrote is text, never markup"
    assert run.report.stat().st_size < 1_000_000


def test_same_run_same_page(run: RunDirectory, tmp_path: Path) -> None:
    first = write_report(run, tmp_path / "a.html").read_bytes()
    assert write_report(run, tmp_path / "b.html").read_bytes() == first


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        (0.9, 0.3, "is worse"),
        (0.6, 0.6, "no change can be shown"),
    ],
)
def test_bad_news_is_told(tmp_path: Path, before: float, after: float, said: str) -> None:
    run = make_run(tmp_path / "run", iterations=1)
    measurement("before", before).save(run.eval_before)
    measurement("after", after).save(run.eval_after)
    assert said in words(write_report(run).read_text())


def test_unfinished_run_claims_nothing(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", incidents=0, iterations=2)
    run.eval_after.unlink()
    text = words(write_report(run).read_text())
    assert "has not been evaluated at its end yet" in text
    assert "difference" not in text
    run.eval_before.unlink()
    (run.path / "metrics.jsonl").unlink()
    page = write_report(run).read_text()
    check(page)
    text = words(page)
    assert "has not been evaluated yet, so nothing is claimed" in text
    assert "No simulator worker was lost" in text
    assert "Learning" not in text


def test_what_is_no_run_or_is_damaged_is_named(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"is not a run directory: it has no config\.json"):
        write_report(RunDirectory(tmp_path))
    run = make_run(tmp_path / "run", iterations=1)
    os.truncate(run.eval_after, 100)
    with pytest.raises(StorageError, match=r"eval_after\.json"):
        write_report(run)
    measurement("after", 0.9).save(run.eval_after)
    (run.videos / "after" / "lift_red-0.mp4").unlink()
    with pytest.raises(StorageError, match=r"lift_red-0\.mp4"):
        write_report(run)


def test_configuration_on_the_page_is_a_preset(tmp_path: Path) -> None:
    config = Config(seed=3, tasks=("a", 'b"'), learner=Learner(learning_rate=1e-5, clip=(0.1, 0.3)))
    text = to_toml(to_dict(config))
    assert tomllib.loads(text)["learner"]["clip"] == [0.1, 0.3]
    (tmp_path / "p.toml").write_text(text)
    assert load_preset(Config, str(tmp_path / "p.toml")) == config
    assert to_toml({"a": {"b": {"c": 1}}}) == "[a.b]\nc = 1\n"


def test_durations() -> None:
    assert [duration(s) for s in (0.4, 89, 90, 840, 7500)] == [
        "0.4 s",
        "89 s",
        "2 min",
        "14 min",
        "2 h 05 min",
    ]
