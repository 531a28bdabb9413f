"""Answers that were paid for once, kept on disk."""

from __future__ import annotations

import json
import sqlite3
import threading
from pathlib import Path

from .judge_backends import Answer, JudgeMisconfiguredError


class AnswerCache:
    """Key to answer in an SQLite file, which several threads and processes may share.

    An answer is there whole or not at all, whenever a process is killed. Trouble with the disk after it was
    opened is counted in `trouble` and costs a question that is asked again, no more. Not for network disks
    without file locks.

    Args:
        path: of the file; made if it is not there.

    Raises:
        JudgeMisconfiguredError: it cannot be opened, or is not such a file.
    """

    def __init__(self, path: str | Path) -> None:
        self.trouble = 0
        self._lock = threading.Lock()
        try:
            self._base = sqlite3.connect(path, timeout=30, check_same_thread=False, isolation_level=None)
            self._base.execute(
                "CREATE TABLE IF NOT EXISTS answers (key TEXT PRIMARY KEY, answer TEXT NOT NULL)"
            )
            self._base.execute("SELECT key, answer FROM answers LIMIT 1").fetchall()
        except sqlite3.Error as error:
            raise JudgeMisconfiguredError(
                f"the answer cache {path} cannot be used: {error}; give a file that this program made, or a "
                "new name in a folder that exists and can be written"
            ) from error

    def get(self, key: str) -> Answer | None:
        """What was answered, or None."""
        try:
            with self._lock:
                row = self._base.execute("SELECT answer FROM answers WHERE key = ?", (key,)).fetchone()
            if row is None:
                return None
            held = json.loads(row[0])
            return Answer(
                text=str(held["text"]), log_prob={str(k): float(v) for k, v in held["log_prob"].items()}
            )
        except (sqlite3.Error, ValueError, TypeError, KeyError, AttributeError):
            self.trouble += 1
            return None

    def put(self, key: str, answer: Answer) -> None:
        """Keep an answer; one without trouble only."""
        if answer.trouble:
            return
        text = json.dumps({"text": answer.text, "log_prob": dict(answer.log_prob)})
        try:
            with self._lock:
                self._base.execute("INSERT OR REPLACE INTO answers VALUES (?, ?)", (key, text))
        except sqlite3.Error:
            self.trouble += 1

    def __len__(self) -> int:
        with self._lock:
            return int(self._base.execute("SELECT count(*) FROM answers").fetchone()[0])

    def close(self) -> None:
        with self._lock:
            self._base.close()
