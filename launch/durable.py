"""Files that are either whole or absent: written beside their place, flushed to the disk, renamed into it."""

from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path
from typing import Any


class StorageError(RuntimeError):
    """A file could not be written or read; the message says which, why, and what to do."""


def explain(error: OSError, doing: str, path: Path) -> StorageError:
    """An `OSError` met while `doing` something to `path`, in words."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        why = f"the disk is full ({_free_mb(path)})"
        step = "Free some space or choose another place, then go on."
    elif error.errno == errno.EFBIG:
        why = "the file would be larger than this process may write (see `ulimit -f`)"
        step = "Raise the limit or choose another place, then go on."
    elif error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        why = f"no permission to write there ({error.strerror or error})"
        step = "Choose a directory that you can write to."
    elif error.errno == errno.ENOENT:
        why = "no such file or directory"
        step = "Check the path."
    else:
        why = str(error)
        step = "Check the disk and the path."
    return StorageError(f"cannot {doing} {path}: {why}. {step}")


def _free_mb(path: Path) -> str:
    while not path.exists() and path != path.parent:
        path = path.parent
    return f"{shutil.disk_usage(path).free / 1e6:.1f} MB free"


def sync_file(path: Path) -> None:
    """Wait until the content of a file, or the entries of a directory, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_durably(path: Path, content: bytes) -> None:
    """Replace `path` by `content`: after a crash the file is the old one or the new one, never a part.

    Raises:
        StorageError: if the disk is full, read-only, or the place does not exist.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with open(beside, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
        sync_file(path.parent)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise explain(error, "write", path) from error


def json_bytes(data: Any) -> bytes:
    """JSON a person can read; a NaN or an infinity is a ValueError, because JSON has none."""
    return (json.dumps(data, indent=2, allow_nan=False) + "\n").encode()


def write_json(path: Path, data: Any) -> None:
    """`write_durably` of `json_bytes`."""
    write_durably(path, json_bytes(data))


def read_json(path: Path, what: str) -> Any:
    """Read a JSON file.

    Args:
        path: the file.
        what: what it should be, in words, for the message ("a result of `regrip eval`").

    Raises:
        StorageError: if it is missing, unreadable or not JSON.
    """
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise StorageError(f"no file {path} (expected {what}). Check the path.") from error
    except OSError as error:
        raise explain(error, "read", path) from error
    except ValueError as error:
        raise StorageError(
            f"{path} is not {what}: {error}. The file is cut short or was edited; make it again."
        ) from error
