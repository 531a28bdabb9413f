"""No iteration is lost, and none is counted twice."""

import json
import math
from pathlib import Path

import pytest

from regrip.launch.durable import StorageError
from regrip.launch.metrics import MetricsWriter, read_metrics


def fill(run: Path, first: int, last: int, resume_at: int = 0, mark: float = 0.0) -> None:
    with MetricsWriter(run, resume_at) as metrics:
        for iteration in range(first, last + 1):
            metrics.write(iteration, {"train/successes": iteration, "mark": mark})


def test_lines_read_back(tmp_path: Path) -> None:
    with MetricsWriter(tmp_path) as metrics:
        metrics.write(1, {"loss": 0.25, "gap": math.nan, "n": 12})
    text = (tmp_path / "metrics.jsonl").read_text()
    assert json.loads(text) == {"iteration": 1, "loss": 0.25, "gap": None, "n": 12}
    (row,) = read_metrics(tmp_path)
    assert math.isnan(row["gap"])
    assert row["n"] == 12


def test_resume_drops_what_the_checkpoint_does_not_know(tmp_path: Path) -> None:
    fill(tmp_path, 1, 5)
    with open(tmp_path / "metrics.jsonl", "ab") as file:
        file.write(b'{"iteration": 6, "tra')  # killed while writing
    assert [row["iteration"] for row in read_metrics(tmp_path)] == [1, 2, 3, 4, 5]
    fill(tmp_path, 4, 6, resume_at=3, mark=1.0)
    rows = read_metrics(tmp_path)
    assert [row["iteration"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert [row["mark"] for row in rows] == [0, 0, 0, 1, 1, 1]


def test_tensorboard_shows_each_iteration_once_after_a_resume(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    fill(tmp_path, 1, 5)
    fill(tmp_path, 4, 6, resume_at=3, mark=1.0)
    board = EventAccumulator(str(tmp_path / "tensorboard"))
    board.Reload()
    assert [(event.step, event.value) for event in board.Scalars("mark")] == [
        (1, 0), (2, 0), (3, 0), (4, 1), (5, 1), (6, 1),
    ]  # fmt: skip


def test_beginning_anew_keeps_nothing(tmp_path: Path) -> None:
    fill(tmp_path, 1, 3)
    fill(tmp_path, 1, 2)
    assert len(read_metrics(tmp_path)) == 2


def test_going_back_and_damage_are_errors(tmp_path: Path) -> None:
    fill(tmp_path, 1, 2)
    with (
        MetricsWriter(tmp_path, resume_at=2) as metrics,
        pytest.raises(ValueError, match="iteration 2 come after"),
    ):
        metrics.write(2, {})
    (tmp_path / "metrics.jsonl").write_text('{"iteration": 1}\ngarbage\n{"iteration": 3}\n')
    with pytest.raises(StorageError, match="line 2 is damaged"):
        read_metrics(tmp_path)
