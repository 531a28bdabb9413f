"""LeRobot v2.1 and v2.0: a parquet file and an mp4 file of each camera for every episode. v2.1 is written."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..ledger import DataError, Ledger, Loss, Problem
from ..recording import Contents, Recording
from . import Format, WriteOptions
from .lerobot_info import Info, fill, inside, looks_like, read_info, read_lines, within
from .lerobot_layout import Layout
from .lerobot_prepare import prepare_recording
from .lerobot_sink import LeRobotSink
from .lerobot_source import Clip, LeRobotSource, Place
from .lerobot_v3 import in_order

DATA = "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet"
VIDEO = "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4"
_DAMAGED = "the file is damaged or was edited: take it from its source again"


def open_lerobot_v2(path: Path, name: str = "lerobot-v2") -> LeRobotSource:
    """Open a v2.0 or v2.1 set.

    Raises:
        DataError: the metadata cannot be read, or lead out of the set.
    """
    root = path.resolve()
    info = read_info(root)
    if info.version[0] != 2:
        raise DataError(
            f"the set is of version {info.version[0]}.{info.version[1]}",
            "open it as lerobot-v3"
            if info.version[0] == 3
            else "v1 sets: convert them with lerobot 0.1 first",
            file=root / "meta" / "info.json",
        )
    problems: list[Problem] = []
    tasks = _read_tasks(within(root, root / "meta" / "tasks.jsonl"))
    places = []
    for line in read_lines(within(root, root / "meta" / "episodes.jsonl")):
        places.append(_place(line, root, info))
    places.sort(key=lambda place: place.number)
    numbers = [place.number for place in places]
    if len(set(numbers)) != len(numbers):
        raise DataError("an episode is listed twice", _DAMAGED, file=root / "meta" / "episodes.jsonl")
    lost = [place.number for place in places if not place.path.is_file()]
    if lost:
        places = [place for place in places if place.path.is_file()]
        problems.append(
            Problem(
                f"{len(lost)} episodes are listed and have no data file (the first is {lost[0]})",
                "left out",
                file="meta/episodes.jsonl",
            )
        )
    if [place.number for place in places] != list(range(len(places))):
        problems.append(
            Problem(
                f"the last of {len(places)} episodes has the number {max(numbers, default=0)}",
                "counted from 0 here; the number of each is kept as episode_index",
                True,
                "meta/episodes.jsonl",
            )
        )
    if info.totals.get("total_episodes", len(numbers)) != len(numbers):
        problems.append(
            Problem(
                f"total_episodes is {info.totals['total_episodes']}, episodes.jsonl lists {len(numbers)}",
                "the list is believed",
                True,
                "meta/info.json",
                key="total_episodes",
            )
        )
    stats = "stats.json" if info.version[1] == 0 else "episodes_stats.jsonl"
    if not (root / "meta" / stats).is_file():
        problems.append(
            Problem(
                "there are no statistics", "nothing is lost: they are computed when the set is written", True,
                f"meta/{stats}",
            )
        )  # fmt: skip
    return LeRobotSource(name, root, info, places, tasks, problems)


def _read_tasks(path: Path) -> list[str]:
    indices, texts = [], []
    for line in read_lines(path):
        index = line.get("task_index")
        if type(index) is not int:
            raise DataError(f"task_index is {index!r:.40}", _DAMAGED, file=path)
        indices.append(index)
        texts.append(line.get("task"))
    return in_order(indices, texts, path)


def _place(line: Mapping[str, Any], root: Path, info: Info) -> Place:
    said_by = root / "meta" / "episodes.jsonl"
    number, length, tasks = line.get("episode_index"), line.get("length"), line.get("tasks", [])
    if type(number) is not int or not 0 <= number < 1 << 40:
        raise DataError(f"episode_index is {number!r:.40}", _DAMAGED, file=said_by)
    if isinstance(tasks, str):
        tasks = [tasks]
    if not isinstance(tasks, list) or not all(isinstance(task, str) for task in tasks):
        raise DataError(f"tasks are {tasks!r:.60}", _DAMAGED, file=said_by, episode=number)
    info_path = root / "meta" / "info.json"
    chunk = number // info.chunks_size

    def where(template: str, key: str) -> Path:
        relative = fill(template, info_path, episode_chunk=chunk, episode_index=number, video_key=key)
        return inside(root, relative, info_path)

    clips = {
        key: Clip(where(info.video_path or VIDEO, key), 0.0)
        for key, feature in info.features.items()
        if feature.storage == "video"
    }
    about = {k: v for k, v in line.items() if k not in ("episode_index", "length", "tasks")}
    said = length if type(length) is int else None
    data = where(info.data_path or DATA, "")
    return Place(number, data, 0, None, tuple(dict.fromkeys(tasks)), clips, about, said)


def _layout(contents: Contents, options: WriteOptions) -> Layout:
    return Layout(contents, options)


def _plan(contents: Contents, options: WriteOptions) -> list[Loss]:
    return _layout(contents, options).losses()


def _create(path: Path, contents: Contents, options: WriteOptions, ledger: Ledger) -> LeRobotSink:
    return LeRobotSink(path, _layout(contents, options), ledger, version=2)


def _prepare(
    recording: Recording, contents: Contents, options: WriteOptions, folder: Path, ledger: Ledger
) -> Recording:
    return prepare_recording(recording, _layout(contents, options), folder, ledger)


def _detect(path: Path) -> bool:
    return looks_like(path, 2) and not (path / "meta" / "modality.json").is_file()


FORMAT = Format(
    name="lerobot-v2",
    about="LeRobot v2.1 (and v2.0 for reading): a parquet file and mp4 files for each episode",
    detect=_detect,
    open=open_lerobot_v2,
    plan=_plan,
    create=_create,
    prepare=_prepare,
)
