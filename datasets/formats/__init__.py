"""The formats that robot data comes in. One module for each; its `FORMAT` says what it can do."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..ledger import DataError, Ledger, Loss
from ..recording import Contents, Recording, Sink, Source

# name: module here. A module is imported when its format is asked for: few users need every package.
FORMATS: dict[str, str] = {
    "view": "view",
    "regrip": "store",
    "lerobot-v3": "lerobot_v3",
    "lerobot-v2": "lerobot_v2",
    "gr00t": "gr00t",
    "rlds": "rlds",
    "robomimic": "robomimic",
    "libero": "libero",
    "umi": "umi",
    "rosbag1": "rosbag1",
    "rosbag2": "rosbag2",
}


@dataclass(frozen=True)
class WriteOptions:
    """How a set is written, as far as its format leaves a choice.

    Attributes:
        images: ``copy`` takes the source's image files or video packets where the format can hold them, and
            encodes the rest as the format usually does; ``jpeg``, ``png``, ``jxl`` (without loss) and
            ``video`` encode all of them.
        quality: of JPEG, 1 to 100.
        video_codec: FFmpeg's name of the encoder, for formats with video.
        crf: the encoder's quality, lower is better.
    """

    images: Literal["copy", "jpeg", "png", "jxl", "video"] = "copy"
    quality: int = 95
    video_codec: str = "libsvtav1"
    crf: int = 30


@dataclass(frozen=True)
class Format:
    """One format.

    Attributes:
        name: as on the command line.
        about: one line for a table.
        detect: whether a path looks like it, from names and first bytes alone; never raises.
        open: open it for reading; raises DataError.
        plan: what writing these contents would lose, before anything is written; None if it is not written.
        create: begin, or go on with, a set at a path: (path, contents, options, ledger). It writes beside the
            path (``.<name>.partial``) and moves it there on `close`; raises DataError if the path exists.
        prepare: the slow part of writing one recording, done in worker processes: (recording, contents,
            options, folder for files, ledger) to the same recording with its images encoded; None if writing
            is quick.
    """

    name: str
    about: str
    detect: Callable[[Path], bool]
    open: Callable[[Path], Source]
    plan: Callable[[Contents, WriteOptions], list[Loss]] | None = None
    create: Callable[[Path, Contents, WriteOptions, Ledger], Sink] | None = None
    prepare: Callable[[Recording, Contents, WriteOptions, Path, Ledger], Recording] | None = None


def get_format(name: str) -> Format:
    """A format by name.

    Raises:
        DataError: there is none of that name, or a package it needs is not installed.
    """
    if name not in FORMATS:
        raise DataError(f"no format is called {name!r}", f"the formats are {', '.join(FORMATS)}")
    try:
        module = importlib.import_module(f".{FORMATS[name]}", __name__)
    except ModuleNotFoundError as error:
        missing = error.name or str(error)
        if missing.startswith("regrip"):
            raise
        raise DataError(
            f"the format {name} needs the package {missing}",
            "install what data formats need: pip install 'regrip[data]'",
        ) from error
    found: Format = module.FORMAT
    return found


def detect_format(path: Path) -> str:
    """Name of the format that a path holds.

    Raises:
        DataError: the path does not exist, or no format knows it.
    """
    if not path.exists():
        raise DataError("there is no such file or folder", "check the path", file=path)
    for name in FORMATS:
        if get_format(name).detect(path):
            return name
    raise DataError(
        f"none of the formats {', '.join(FORMATS)} knows it",
        "give the folder that holds meta/info.json (LeRobot), features.json (RLDS) or metadata.yaml (ROS 2 "
        "bag), or the .hdf5, .zarr, .zarr.zip, .bag or .mcap file itself; or name the format with --format",
        file=path,
    )


def open_source(path: Path, name: str = "") -> Source:
    """Open a set of any format for reading; the format is found by looking, or named.

    Raises:
        DataError: it cannot be read.
    """
    return get_format(name or detect_format(path)).open(path)
