"""The commands on a set that lies on the disk."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from recordings import contents, recording

from regrip.datasets.formats import WriteOptions, get_format
from regrip.datasets.ledger import DataError, Ledger
from regrip.launch import data_inspect, data_page, data_view


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of three episodes, of which two are one and the same."""
    path = tmp_path_factory.mktemp("sets") / "cups"
    of = contents(wrist=False)
    create = get_format("regrip").create
    assert create is not None
    sink = create(path, of, WriteOptions(), Ledger())
    for seed in (0, 1, 1):
        sink.write(recording(of, 12, seed=seed))
    sink.close()
    return path


def test_inspect_prints_a_set(stored: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert data_inspect.main([str(stored)]) == 0
    text = capsys.readouterr().out
    assert "3 episodes, 36 steps, 1.65 s; 12 to 12 steps each" in text
    assert "observation.images.front" in text
    assert "episodes 1, 2 hold exactly the same numbers" in text


def test_inspect_is_strict_if_asked(stored: Path) -> None:
    assert data_inspect.main([str(stored), "--strict"]) == 1


def test_inspect_as_json(stored: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert data_inspect.main([str(stored), "--json", "--episodes", "0"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["episodes"], found["steps"]) == (3, 36)
    assert found["proposal"]["rate_hz"]["value"] == 20
    assert found["proposal"]["action"]["value"] == "unknown"


def test_the_source_is_not_written(stored: Path, tmp_path: Path) -> None:
    before = {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in stored.rglob("*") if p.is_file()}
    data_inspect.main([str(stored)])
    assert data_page.main([str(stored), "--out", str(tmp_path / "page.html")]) == 0
    assert before == {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in stored.rglob("*") if p.is_file()}
    assert "<h1>cups</h1>" in (tmp_path / "page.html").read_text()


def test_view_saves_a_recording(stored: Path, tmp_path: Path) -> None:
    pytest.importorskip("rerun")
    path = tmp_path / "out.rrd"
    assert data_view.main([str(stored), "--episodes", "1", "--save", str(path)]) == 0
    assert path.read_bytes()[:3] == b"RRF"
    with pytest.raises(ValueError, match="give one of them"):
        data_view.main([str(stored), "--save", str(path), "--web"])


def test_a_path_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        data_inspect.main([str(tmp_path / "nothing")])
    with pytest.raises(ValueError, match="0 for all"):
        data_inspect.main([str(tmp_path), "--episodes", "-1"])
