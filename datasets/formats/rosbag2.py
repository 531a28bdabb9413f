"""ROS 2 bags: a folder of rosbag2 (MCAP or SQLite), a file of it, or a folder of such, each an episode."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from ..ledger import DataError, Problem
from . import Format
from .bag_files import BagFile
from .bag_mcap import MCAP_MAGIC, McapFile
from .bag_sqlite import SqliteFile
from .bags import BagSource, inside, natural
from .rosbag2_write import create, plan

METADATA = "metadata.yaml"
_SQLITE_MAGIC = b"SQLite format 3\0"
_KINDS: dict[str, type[McapFile] | type[SqliteFile]] = {".mcap": McapFile, ".db3": SqliteFile}


def open_rosbag2(path: Path, episode_topic: str = "") -> BagSource:
    """Open a bag, a file of one, or a folder of bags.

    Args:
        path: of it.
        episode_topic: see `BagSource`.

    Raises:
        DataError: there is none, or none can be read.
    """
    problems: list[Problem] = []
    try:
        if path.is_file():
            bags = [[_file(path, path.suffix)]]
        elif _storage(path) or (path / METADATA).exists():
            bags = [_bag(path, path, problems)]
        else:
            folders = sorted((p for p in path.iterdir() if p.is_dir() and _is_bag(p)), key=natural)
            bags = [_bag(path, inside(path, folder), problems) for folder in folders]
            if not bags:
                raise DataError(
                    f"there is neither {METADATA} nor a folder with one in it",
                    "give the folder that holds metadata.yaml, a folder of such, or an .mcap or .db3 file",
                    file=path,
                )
        source = BagSource("rosbag2", path, bags, episode_topic)
    except OSError as error:
        raise DataError(f"it cannot be read ({error})", "check the path and its rights", file=path) from error
    source.add(problems)
    return source


def _storage(folder: Path) -> list[Path]:
    files = [p for p in folder.iterdir() if p.suffix in _KINDS and p.is_file()]
    return sorted(files, key=natural)


def _is_bag(folder: Path) -> bool:
    return (folder / METADATA).is_file() or bool(_storage(folder))


def _file(path: Path, suffix: str) -> BagFile:
    with path.open("rb") as file:
        head = file.read(16)
    if head.startswith(MCAP_MAGIC):
        return McapFile(path)
    if head == _SQLITE_MAGIC:
        return SqliteFile(path)
    if suffix in _KINDS:
        return _KINDS[suffix](path)  # which says what is wrong with it
    raise DataError("it is neither MCAP nor SQLite", "give an .mcap or .db3 file", file=path)


def _bag(root: Path, folder: Path, problems: list[Problem]) -> list[BagFile]:
    """The files of a bag in order; `metadata.yaml` is asked only for their names and for what is missing."""
    found = {file.name: inside(root, file) for file in _storage(folder)}
    name = folder.name
    packed = sorted(p.name for p in folder.iterdir() if p.name.endswith((".mcap.zstd", ".db3.zstd")))
    if packed:
        raise DataError(
            f"{packed[0]} is compressed as a whole file",
            "unpack it beside itself first: zstd -d",
            file=folder,
        )
    listed: list[str] = []
    said = _metadata(folder / METADATA, problems)
    if said is not None:
        paths = said.get("relative_file_paths")
        if isinstance(paths, list) and all(isinstance(p, str) for p in paths):
            listed = [p.replace("\\", "/").rpartition("/")[2] for p in paths]  # a name here, never elsewhere
    missing = [file for file in listed if file not in found]
    if missing:
        problems.append(
            Problem(
                f"{METADATA} lists {', '.join(missing)}: not there",
                "the rest is read: copy the missing files into the folder",
                file=name,
            )
        )
    order = [file for file in listed if file in found] + [file for file in found if file not in listed]
    if not order:
        raise DataError("it has no .mcap or .db3 file", "copy the bag again", file=folder)
    return [_file(found[file], found[file].suffix) for file in dict.fromkeys(order)]


def _metadata(path: Path, problems: list[Problem]) -> dict[str, Any] | None:
    try:
        if path.stat().st_size > 1 << 24:
            raise ValueError("it is larger than 16 MB")
        said = yaml.safe_load(path.read_text("utf-8"))["rosbag2_bagfile_information"]
        if not isinstance(said, dict):
            raise ValueError("it has no rosbag2_bagfile_information")
    except FileNotFoundError:
        what = f"there is no {METADATA}: the recording was not closed"
    except (OSError, ValueError, TypeError, KeyError, yaml.YAMLError, RecursionError) as error:
        what = f"{METADATA} cannot be read ({type(error).__name__})"
    else:
        return said
    problems.append(Problem(what, "the files themselves are read", repaired=True, file=str(path.parent.name)))
    return None


def detect(path: Path) -> bool:
    """A file that starts as MCAP or is a .db3, or a folder with bags in it."""
    try:
        if path.is_dir():
            if (path / METADATA).is_file() or _storage(path):
                return True
            return any(p.is_dir() and _is_bag(p) for p in path.iterdir())
        with path.open("rb") as file:
            head = file.read(16)
        return head.startswith(MCAP_MAGIC) or (head == _SQLITE_MAGIC and path.suffix == ".db3")
    except OSError:
        return False


FORMAT = Format("rosbag2", "ROS 2 bags (MCAP, SQLite)", detect, open_rosbag2, plan, create)
