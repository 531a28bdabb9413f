"""Unfinished sets: they lie in ``.<name>.partial`` beside their place until they are whole."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

from ..ledger import DataError

PLAN = "plan.json"  # what is being written, so that another conversion does not go on in its place


def begin(path: Path, plan: Any) -> Path:
    """The folder where a set is written before it moves to `path`; an earlier process's, if it began there.

    Raises:
        DataError: `path` exists, its parent does not, or what lies unfinished there is another set.
    """
    if os.path.lexists(path):
        raise DataError("it exists already", "choose another place, or remove it first", file=path)
    folder = partial_of(path)
    text = json.dumps(plan, sort_keys=True)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if folder.is_symlink():
            raise DataError("it is a link", "remove it", file=folder)
        folder.mkdir(exist_ok=True)
        if (folder / PLAN).exists():
            if (folder / PLAN).read_text("utf-8") != text:
                raise DataError(
                    "an unfinished set with other streams or options lies there",
                    "resume it with the settings it was begun with, or remove that folder",
                    file=folder,
                )
        else:
            write_whole(folder / PLAN, text.encode())
    except OSError as error:
        raise cannot("be written", folder, error) from error
    return folder


def partial_of(path: Path) -> Path:
    return path.parent / f".{path.name}.partial"


def write_whole(path: Path, data: bytes) -> None:
    """Write a file so that after a crash it is there whole, or not at all."""
    beside = path.with_name(f"{path.name}.tmp")
    with open(beside, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(beside, path)


def sync(path: Path) -> None:
    """Wait until a file is on the disk."""
    with open(path, "rb+") as file:
        os.fsync(file.fileno())


def finish(part: Path, path: Path) -> None:
    """Move what is whole to its place.

    Raises:
        DataError: something is there by now.
    """
    if os.path.lexists(path):
        raise DataError("it appeared while the set was written", "choose another place and resume", file=path)
    os.rename(part, path)


def clear(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)


def cannot(do: str, path: object, error: OSError) -> DataError:
    """An `OSError` in words."""
    return DataError(
        f"it cannot {do} ({error.strerror or error})", "check the path, its rights and the disk", file=path
    )
