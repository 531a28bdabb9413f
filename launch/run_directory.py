"""What a run leaves behind, and where. `docs/run_directory.md` describes each file."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .durable import StorageError, explain


@dataclass(frozen=True)
class RunDirectory:
    """The paths inside a run's directory."""

    path: Path

    @property
    def config(self) -> Path:
        return self.path / "config.json"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def replay(self) -> Path:
        """What MPO remembers, a folder for each iteration."""
        return self.path / "replay"

    @property
    def policy(self) -> Path:
        """The policy folder that the run hands on."""
        return self.path / "policy"

    @property
    def eval_before(self) -> Path:
        return self.path / "eval_before.json"

    @property
    def eval_after(self) -> Path:
        return self.path / "eval_after.json"

    @property
    def videos(self) -> Path:
        return self.path / "videos"

    @property
    def incidents(self) -> Path:
        return self.path / "incidents.jsonl"

    @property
    def alarms(self) -> Path:
        """Alarms of the reward, with films."""
        return self.path / "alarms"

    @property
    def report(self) -> Path:
        return self.path / "report.html"

    @contextmanager
    def claim(self) -> Iterator[None]:
        """Make the directory and hold it: two processes that write one run would spoil it.

        Raises:
            StorageError: if it cannot be written, or another process holds it.
        """
        lock = self.path / ".lock"
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise explain(error, "write", self.path) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise StorageError(
                f"another process is writing {self.path}. Wait for it, stop it, or choose another --out."
            ) from error
        else:
            yield  # the kernel drops the lock with the process, however it ends
        finally:
            os.close(descriptor)

    def add_incident(self, iteration: int, incident: Mapping[str, Any]) -> None:
        """Append to ``incidents.jsonl``: what happened, and in which iteration.

        Raises:
            StorageError: if it cannot be written.
        """
        try:
            with open(self.incidents, "a") as file:
                file.write(json.dumps({"iteration": iteration, **incident}) + "\n")
        except OSError as error:
            raise explain(error, "append to", self.incidents) from error

    def read_incidents(self) -> list[dict[str, Any]]:
        """Every whole line of ``incidents.jsonl``, oldest first."""
        found: list[dict[str, Any]] = []
        for line in self.incidents.read_text().splitlines() if self.incidents.exists() else []:
            try:
                found.append(json.loads(line))
            except ValueError:  # the process died while writing it
                continue
        return found


def next_run(name: str, runs: Path = Path("runs")) -> RunDirectory:
    """A directory of `runs` that does not exist yet: ``runs/<name>-001``, ``-002``, ..."""
    number = 1
    while (runs / f"{name}-{number:03d}").exists():
        number += 1
    return RunDirectory(runs / f"{name}-{number:03d}")
