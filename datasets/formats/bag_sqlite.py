"""The SQLite storage of rosbag2, of which nothing but two plain tables is trusted."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

from ..ledger import DataError, Problem
from .bag_files import MAX_CHUNK, Channel, Entry, Ref, TornError, inflate_message


@dataclass
class SqliteFile:
    """The SQLite storage of rosbag2."""

    path: Path
    problems: list[Problem] = field(default_factory=list)
    metadata: dict[str, dict[str, str]] = field(default_factory=dict)

    def _connect(self) -> sqlite3.Connection:
        # immutable: SQLite must not write a journal beside the source
        uri = f"file:{quote(str(self.path.absolute()))}?mode=ro&immutable=1"
        connection = sqlite3.connect(uri, uri=True)
        connection.execute("PRAGMA trusted_schema=OFF")
        connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, MAX_CHUNK)
        connection.text_factory = lambda data: data.decode("utf-8", "replace")
        return connection

    def walk(self) -> Iterator[Entry]:
        self.problems = []
        channels: dict[int, Channel] = {}
        try:
            connection = self._connect()
        except sqlite3.Error as error:
            raise self._broken(error) from error
        try:
            try:
                channels = self._channels(connection)
            except (sqlite3.Error, ValueError, OverflowError) as error:
                raise self._broken(error) from error
            wal = self.path.with_name(self.path.name + "-wal")
            if wal.exists() and wal.stat().st_size:
                self.problems.append(
                    Problem(
                        f"{wal.name} holds messages that were not yet moved into the bag",
                        "they are not read: copy both files and open the copy with sqlite3, which moves them",
                        file=self.path.name,
                    )
                )
            last = 0
            try:
                for number, topic, log_ns, data in connection.execute(
                    "SELECT id, topic_id, timestamp, data FROM messages ORDER BY id"
                ):
                    if not (isinstance(number, int) and isinstance(log_ns, int) and isinstance(data, bytes)):
                        raise TornError(f"message {number!r} has a field of the wrong type")
                    if topic not in channels:
                        raise TornError(f"message {number} is of the unknown topic {topic!r}")
                    last = number
                    yield Entry(channels[topic], log_ns, (-1, number, len(data)), data)
            except (sqlite3.Error, TornError, OverflowError) as error:
                self.problems.append(
                    Problem(
                        f"the database is damaged after message {last} ({error})",
                        "what comes after it is lost; sqlite3's .recover may find more",
                        file=self.path.name,
                    )
                )
        finally:
            connection.close()

    def _channels(self, connection: sqlite3.Connection) -> dict[int, Channel]:
        tables = dict(
            connection.execute("SELECT name, type || coalesce(sql, '') FROM sqlite_master").fetchall()
        )
        for name in ("topics", "messages"):
            # a view or a virtual table runs code of whoever made the file
            if not re.match(r"table\s*CREATE\s+TABLE\b(?!.*GENERATED)", tables.get(name, ""), re.I | re.S):
                raise ValueError(f"it has no plain table {name}")
        texts: dict[str, str] = {}
        if re.match(r"table\s*CREATE\s+TABLE\b", tables.get("message_definitions", ""), re.I):
            texts = dict(
                connection.execute(
                    "SELECT topic_type, encoded_message_definition FROM message_definitions"
                ).fetchall()
            )
        rows = connection.execute("SELECT id, name, type, serialization_format FROM topics").fetchall()
        channels = {}
        for number, name, kind, encoding in rows:
            if not all(isinstance(text, str) for text in (name, kind, encoding)):
                raise ValueError("a topic's name, type or format is no text")
            text = texts.get(kind, "")
            channels[number] = Channel(name, kind, encoding, text if isinstance(text, str) else "")
        return channels

    def _broken(self, error: Exception) -> DataError:
        return DataError(
            f"it cannot be read as a rosbag2 database ({error})",
            "check that the recording was closed; sqlite3's .recover may save part of it",
            file=self.path,
        )

    def read(self, ref: Ref) -> bytes:
        try:
            connection = self._connect()
            try:
                row = connection.execute("SELECT data FROM messages WHERE id = ?", (ref[1],)).fetchone()
            finally:
                connection.close()
        except sqlite3.Error as error:
            raise TornError(str(error)) from error
        if row is None or not isinstance(row[0], bytes):
            raise TornError(f"message {ref[1]} is gone")
        return inflate_message(row[0])
