"""The journal of a set being written: a line for each episode that is whole on disk, and how it began."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from ..ledger import DataError, Ledger, Loss

WORK = ".regrip"  # folder in the unfinished set; gone when it is finished


class Journal:
    """Lines of finished episodes in ``.regrip/journal.jsonl`` of an unfinished set.

    Raises:
        DataError: the unfinished set was begun with other streams or options, or is being written by
            another process.
    """

    def __init__(self, partial: Path, begun: Mapping[str, Any]) -> None:
        self.folder = partial / WORK
        self._path = self.folder / "journal.jsonl"
        self._lock: BinaryIO | None = None
        if partial.is_symlink() or self.folder.is_symlink():
            raise DataError("the unfinished set is a link", "delete it", file=partial)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = lock(self.folder / "lock")
        try:
            self._begin(partial, json.dumps(begun, sort_keys=True).encode())
            self._cut()
            self._file = self._path.open("ab")
        except BaseException:
            self.release()
            raise

    def _begin(self, partial: Path, begun: bytes) -> None:
        first = self.folder / "begun.json"
        if not first.exists():
            if [path for path in partial.iterdir() if path.name != WORK]:
                raise DataError(
                    "the folder for the unfinished set holds something else", "move it away", file=partial
                )
            replace(first, begun)
        elif first.read_bytes() != begun:
            raise DataError(
                "an unfinished set is there, which was begun with other streams or options",
                "delete it, or convert with the same mapping and options",
                file=partial,
            )

    def _cut(self) -> None:
        """Drop a last line that was not written whole."""
        if not self._path.exists():
            return
        good = 0
        with self._path.open("rb") as file:
            for line in file:
                if not line.endswith(b"\n"):
                    break
                try:
                    json.loads(line)
                except ValueError:
                    break
                good += len(line)
        os.truncate(self._path, good)

    def lines(self) -> Iterator[dict[str, Any]]:
        if self._path.exists():
            with self._path.open("rb") as file:
                for line in file:
                    yield json.loads(line)

    def add(self, line: Mapping[str, Any]) -> None:
        """The episode's files are whole: say so, so that it survives."""
        self._file.write(json.dumps(line).encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())

    def save_losses(self, ledger: Ledger, done: int) -> None:
        """Keep the losses of the first `done` episodes; those of one fewer stay until the journal has it."""
        data = {"done": done, "losses": ledger.to_json()}
        replace(self.folder / f"losses-{done % 2}.json", json.dumps(data).encode())

    def recall_losses(self, ledger: Ledger, done: int) -> None:
        """Enter the losses of an earlier process that the ledger does not have yet."""
        path = self.folder / f"losses-{done % 2}.json"
        if not path.exists():
            return
        data = json.loads(path.read_bytes())
        known = {(loss.stream, loss.what, loss.detail) for loss in ledger.losses}
        for loss in data["losses"] if data["done"] == done else []:
            if (loss["stream"], loss["what"], loss["detail"]) not in known:
                ledger.add(Loss(**loss))

    def release(self) -> None:
        """Close the files; what is written stays."""
        if hasattr(self, "_file"):
            self._file.close()
        if self._lock is not None:
            self._lock.close()
            self._lock = None


def replace(path: Path, data: bytes) -> None:
    """Write a small file whole or not at all."""
    part = path.with_name(path.name + ".part")
    with part.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


def lock(path: Path) -> BinaryIO:
    """Hold a file that no other process may hold; the system lets go of it when the process ends.

    Raises:
        DataError: another process holds it.
    """
    file = path.open("ab")
    try:
        try:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except ImportError:  # Windows
            import msvcrt

            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
    except OSError as error:
        file.close()
        raise DataError(
            "another process is writing this set", "wait for it, or end it", file=path.parent.parent
        ) from error
    return file
