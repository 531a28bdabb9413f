"""Files of a store: opened only inside of it, replaced whole, written by one process at a time."""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import stat
import sys
import threading
import weakref
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, Generic, TypeVar

from ..ledger import DataError

_MAX_JSON = 64 << 20
Held = TypeVar("Held")


def open_inside(root: Path, path: Path) -> BinaryIO:
    """Open a plain file of a set for reading; `root` is the set's real path.

    Raises:
        FileNotFoundError: there is none.
        DataError: it is no plain file, or lies outside of the set (a link that leads out of it).
    """
    real = os.path.realpath(path)
    if not real.startswith(f"{root}{os.sep}"):
        raise DataError(
            f"the link leads outside of the set, to {real}", "a set must hold its files itself", file=path
        )
    try:
        descriptor = os.open(real, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:
        raise DataError(f"it cannot be opened ({error})", "check the file", file=path) from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise DataError("it is no plain file", "the set was tampered with: take it again", file=path)
    return os.fdopen(descriptor, "rb", buffering=0)


def map_inside(root: Path, path: Path) -> memoryview:
    """A plain file of a set as memory, read-only; empty if the file is.

    Raises:
        FileNotFoundError: there is none.
        DataError: as of `open_inside`, or it cannot be mapped.
    """
    with open_inside(root, path) as file:
        try:
            size = os.fstat(file.fileno()).st_size
            return (
                memoryview(mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ))
                if size
                else memoryview(b"")
            )
        except (OSError, ValueError, OverflowError) as error:
            raise DataError(f"it cannot be mapped ({error})", "check the file", file=path) from error


def read_json(root: Path, path: Path) -> Any:
    """JSON of a file of a set.

    Raises:
        FileNotFoundError: there is none.
        DataError: it is too large, unreadable or no JSON.
    """
    with open_inside(root, path) as file:
        try:
            if os.fstat(file.fileno()).st_size > _MAX_JSON:
                raise ValueError(f"more than {_MAX_JSON} bytes")
            return json.loads(file.read() or b"")
        except (OSError, ValueError, RecursionError) as error:
            raise DataError(
                f"it is no JSON ({error})", "the file is damaged: run `regrip data repair`", file=path
            ) from error


def sync(path: Path) -> None:
    """Wait until a file's content, or a folder's entries, are on the disk."""
    if os.name == "nt" and path.is_dir():
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@dataclass
class Unsynced:
    """What was written but may not be on the disk yet: descriptors of files, and folders with new entries."""

    files: list[int] = field(default_factory=list)
    folders: set[Path] = field(default_factory=set)

    def add(self, other: Unsynced) -> None:
        self.files += other.files
        self.folders |= other.folders

    def wait(self) -> None:
        """Wait until all of it is there; at once rather than one by one, which the disk does in fewer turns.

        Raises:
            OSError: the disk refuses.
        """
        jobs = [
            *(partial(os.fsync, one) for one in self.files),
            *(partial(sync, one) for one in self.folders),
        ]
        if jobs:
            with ThreadPoolExecutor(min(len(jobs), 8)) as pool:
                for done in [pool.submit(job) for job in jobs]:
                    done.result()


def sync_paths(paths: list[Path]) -> None:
    """Wait until files, and the entries of their folders up to the fourth, are on the disk."""
    files = [*paths, *{folder for path in paths for folder in path.parents[:4]}]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(sync, files))


def replace(path: Path, content: bytes, *, durable: bool = True) -> None:
    """Put a file in place whole; not `durable` leaves it to the system when it reaches the disk."""
    beside = path.with_name(f".{path.name}.part")
    with open(beside, "wb") as file:
        file.write(content)
        file.flush()
        if durable:
            os.fsync(file.fileno())
    os.replace(beside, path)
    if durable:
        sync(path.parent)


def refuse_links(folder: Path) -> None:
    """Refuse to write into a set that has links, which may lead anywhere.

    Raises:
        DataError: naming the link.
    """
    for where, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = os.path.join(where, name)
            if os.path.islink(path):
                raise DataError(
                    "it is a link, and a set that is written to must have none",
                    "put the file itself there",
                    file=path,
                )


def disk_error(error: OSError, path: Path) -> DataError:
    """What to say when the disk refuses."""
    return DataError(
        f"it cannot be written ({error.strerror or error})",
        "free space or check the permissions, then go on: finished episodes are safe",
        file=path,
    )


def write_all(file: BinaryIO, data: bytes | memoryview) -> None:
    """Write every byte; a plain write may take fewer when the disk fills up.

    Raises:
        OSError: the disk is full or refuses.
    """
    rest = memoryview(data)
    while rest:
        rest = rest[file.write(rest) :]


class Maps(dict[int, Held], Generic[Held]):
    """Mapped files of one reader. All readers of the process together keep a bounded number of them.

    Python keeps a file handle for every map. What is dropped here is unmapped when its last view is gone.
    """

    __slots__ = ("__weakref__",)

    def admit(self, number: int, held: Held) -> Held:
        """Keep a map, and drop the oldest of the process if there are too many."""
        self[number] = held
        with _admission:
            _admitted.append((weakref.ref(self), number))
            while len(_admitted) > _MOST_MAPS:
                reader, oldest = _admitted.popleft()
                if (maps := reader()) is not None:
                    maps.pop(oldest, None)
        return held


_admission = threading.Lock()
_admitted: deque[tuple[weakref.ref[Maps[Any]], int]] = deque()


def _most_maps() -> int:
    if sys.platform == "win32":
        return 1024
    import resource

    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 4096 if soft == resource.RLIM_INFINITY else max(32, min(4096, soft // 2))


_MOST_MAPS = _most_maps()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_admission.acquire, after_in_parent=_admission.release, after_in_child=_admission.release
    )


class WriterLock:
    """Held by the one process that may write to a set; the system lets go of it when the process dies."""

    def __init__(self, folder: Path) -> None:
        """Take it.

        Raises:
            DataError: another writer has it; says which process.
        """
        path = folder / "writer.lock"
        try:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o644)
        except OSError as error:
            raise disk_error(error, path) from error
        try:
            _lock(self._file)
        except OSError:
            pid = os.read(self._file, 32).decode("ascii", "replace").strip()
            os.close(self._file)
            raise DataError(
                f"process {pid or 'of unknown number'} is writing to this set",
                "wait until it has finished, or end it",
                file=folder,
            ) from None
        os.ftruncate(self._file, 0)
        os.write(self._file, f"{os.getpid()}\n".encode())

    def release(self) -> None:
        if self._file >= 0:
            with contextlib.suppress(OSError):
                os.ftruncate(self._file, 0)
            _unlock(self._file)
            os.close(self._file)
            self._file = -1


if sys.platform == "win32":
    import msvcrt

    def _lock(descriptor: int) -> None:
        os.lseek(descriptor, 1 << 20, os.SEEK_SET)  # a byte beyond the number, which others must read
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        os.lseek(descriptor, 0, os.SEEK_SET)

    def _unlock(descriptor: int) -> None:
        os.lseek(descriptor, 1 << 20, os.SEEK_SET)
        msvcrt.locking(descriptor, msvcrt.LK_UNLCK, 1)

else:
    import fcntl

    def _lock(descriptor: int) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def _unlock(descriptor: int) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_UN)
