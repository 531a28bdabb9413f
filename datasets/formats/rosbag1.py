"""ROS 1 bags: a ``.bag`` file, or a folder of them, each an episode. They are read, not written."""

from __future__ import annotations

from pathlib import Path

from ..ledger import DataError
from . import Format
from .bag_ros1 import ROSBAG1_MAGIC, Rosbag1File
from .bags import BagSource, inside, natural

SUFFIXES = (".bag", ".active")  # x.bag.active is what rosbag record leaves when it is killed


def open_rosbag1(path: Path, episode_topic: str = "") -> BagSource:
    """Open a bag or a folder of bags.

    Args:
        path: of it.
        episode_topic: see `BagSource`.

    Raises:
        DataError: there is none, or none can be read.
    """
    try:
        files = sorted(_bags(path), key=natural) if path.is_dir() else [path]
        if not files:
            raise DataError("there is no .bag in it", "give a .bag file or a folder of them", file=path)
        bags = [[Rosbag1File(inside(path, file) if path.is_dir() else file)] for file in files]
        return BagSource("rosbag1", path, bags, episode_topic)
    except OSError as error:
        raise DataError(f"it cannot be read ({error})", "check the path and its rights", file=path) from error


def _bags(folder: Path) -> list[Path]:
    return [file for file in folder.iterdir() if file.suffix in SUFFIXES and file.is_file()]


def detect(path: Path) -> bool:
    """A file that starts as a ROS 1 bag does, or a folder with a .bag in it."""
    try:
        if path.is_dir():
            return any(_bags(path))
        with path.open("rb") as file:
            return file.read(len(ROSBAG1_MAGIC)) == ROSBAG1_MAGIC
    except OSError:
        return False


FORMAT = Format("rosbag1", "ROS 1 bags (.bag)", detect, open_rosbag1)
