"""One run, one writer."""

import os
import signal
from pathlib import Path

import pytest

from regrip.launch.durable import StorageError
from regrip.launch.run_directory import RunDirectory, next_run


def test_a_second_process_is_refused_and_a_dead_one_leaves_no_lock(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "run")
    ready, tell = os.pipe()
    child = os.fork()
    if not child:
        with run.claim():
            os.write(tell, b"x")
            signal.pause()  # until it is killed
    os.read(ready, 1)
    with pytest.raises(StorageError, match="another process is writing"), run.claim():
        pass
    os.kill(child, 9)
    os.waitpid(child, 0)
    with run.claim():
        pass


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="file/run"), RunDirectory(tmp_path / "file" / "run").claim():
        pass


def test_incidents_survive_a_torn_last_line(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    assert run.read_incidents() == []
    run.add_incident(3, {"kind": "hung", "worker": 1})
    with open(run.incidents, "a") as file:
        file.write('{"iteration": 4, "ki')
    assert run.read_incidents() == [{"iteration": 3, "kind": "hung", "worker": 1}]


def test_runs_are_numbered(tmp_path: Path) -> None:
    assert next_run("demo", tmp_path).path.name == "demo-001"
    (tmp_path / "demo-001").mkdir()
    assert next_run("demo", tmp_path).path.name == "demo-002"
