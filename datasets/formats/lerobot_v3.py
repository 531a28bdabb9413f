"""LeRobot v3.0: many episodes in a parquet file and in an mp4 file, found through ``meta/episodes``."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from ..ledger import DataError, Ledger, Loss, Problem
from ..recording import Contents, Recording
from . import Format, WriteOptions
from .lerobot_info import Info, fill, inside, looks_like, read_info, within
from .lerobot_layout import Layout
from .lerobot_prepare import prepare_recording
from .lerobot_rows import integers, open_parquet, reading
from .lerobot_sink import LeRobotSink
from .lerobot_source import Clip, LeRobotSource, Place

_DAMAGED = "the file is damaged or was edited: take it from its source again"
_STANDARD = ("episode_index", "tasks", "length", "dataset_from_index", "dataset_to_index")


def open_lerobot_v3(path: Path) -> LeRobotSource:
    """Open a v3 set.

    Raises:
        DataError: the metadata cannot be read, or lead out of the set.
    """
    root = path.resolve()
    info = read_info(root)
    info_path = root / "meta" / "info.json"
    if info.version[0] != 3:
        raise DataError(
            f"the set is of version {info.version[0]}.{info.version[1]}",
            "open it as lerobot-v2",
            file=info_path,
        )
    if info.rest.get("storage_format", "parquet") != "parquet":
        raise DataError(
            f"its rows are stored as {info.rest['storage_format']!r:.40}",
            "convert it to parquet with lerobot's own tools",
            file=info_path,
            key="storage_format",
        )
    problems: list[Problem] = []
    tasks = _read_tasks(root)
    found = _find_rows(root, problems)
    places: list[Place] = []
    for row in _read_episodes(root, problems):
        place = _place(row, root, info, found, problems)
        if place is not None:
            places.append(place)
    places.sort(key=lambda place: place.number)
    numbers = [place.number for place in places]
    if len(set(numbers)) != len(numbers):
        raise DataError("an episode is listed twice", _DAMAGED, file=root / "meta" / "episodes")
    if numbers != list(range(len(numbers))):
        problems.append(
            Problem(
                f"episodes are numbered {numbers[0]}..{numbers[-1]}, and there are {len(numbers)}",
                "counted from 0 here; the number of each is kept as episode_index",
                True,
                "meta/episodes",
            )
        )
    spare = sorted(set(found) - set(numbers))
    if spare:
        problems.append(
            Problem(
                f"{len(spare)} episodes have rows but no entry in meta/episodes (the first is {spare[0]})",
                "left out: LeRobot was stopped before it wrote their metadata",
                file="data",
            )
        )
    _check_totals(info, len(places), sum(place.rows or 0 for place in places), problems)
    return LeRobotSource("lerobot-v3", root, info, places, tasks, problems)


def _check_totals(info: Info, episodes: int, rows: int, problems: list[Problem]) -> None:
    for key, count in (("total_episodes", episodes), ("total_frames", rows)):
        if info.totals.get(key, count) != count:
            problems.append(
                Problem(
                    f"{key} is {info.totals[key]}, the files hold {count}",
                    "the files are believed",
                    True,
                    "meta/info.json",
                    key=key,
                )
            )


def _read_tasks(root: Path) -> list[str]:
    """tasks.parquet, whose index is the task: the column that is not task_index, whatever it is called."""
    path = within(root, root / "meta" / "tasks.parquet")
    with reading(path):
        table = open_parquet(path).read()
        names = [name for name in table.column_names if name != "task_index"]
        if "task_index" not in table.column_names or not names:
            raise DataError(f"columns {table.column_names}", "expected task_index and task", file=path)
        name = "task" if "task" in names else names[0]
        texts = table.column(name).to_pylist()
        indices = integers(table.column("task_index"), "task_index", path).tolist()
    return in_order(indices, texts, path)


def in_order(indices: list[Any], texts: list[Any], path: Path) -> list[str]:
    """Tasks by index; sets with holes or two tasks of one index are refused.

    Raises:
        DataError: naming the index.
    """
    if not all(isinstance(text, str) for text in texts):
        raise DataError("a task is no text", _DAMAGED, file=path)
    if sorted(indices) != list(range(len(indices))):
        raise DataError(
            f"task indices {sorted(indices)[:20]}", "expected 0, 1, 2, ... without holes", file=path
        )
    return [text for _, text in sorted(zip(indices, texts, strict=True))]


def _read_episodes(root: Path, problems: list[Problem]) -> list[dict[str, Any]]:
    """The rows of meta/episodes, without the statistics."""
    folder = root / "meta" / "episodes"
    paths = sorted(folder.glob("*/*.parquet"))
    rows: list[dict[str, Any]] = []
    for path in paths:
        try:
            within(root, path)
            with reading(path):
                file = open_parquet(path)
                columns = [name for name in file.schema_arrow.names if not name.startswith("stats/")]
                rows += file.read(columns=columns).to_pylist()
                file.close()
        except DataError as error:
            problems.append(
                Problem(
                    error.what, f"its episodes are left out. {error.remedy}", file=str(path.relative_to(root))
                )
            )
    if paths and not rows and problems:
        raise DataError(problems[-1].what, problems[-1].remedy, file=folder)
    return rows


def _find_rows(root: Path, problems: list[Problem]) -> dict[int, tuple[Path, int, int]]:
    """Episode to (file, first row, number of rows), by the data and not by what is said of them."""
    found: dict[int, tuple[Path, int, int]] = {}
    for path in sorted((root / "data").glob("*/*.parquet")):
        try:
            within(root, path)
            with reading(path):
                file = open_parquet(path)
                for number, first, rows in _runs(file, path):
                    if number in found:
                        raise DataError(
                            f"episode {number} is in two places", _DAMAGED, file=path, episode=number
                        )
                    found[number] = (path, first, rows)
                file.close()
        except DataError as error:
            name = str(path.relative_to(root))
            problems.append(Problem(error.what, error.remedy, file=name, episode=error.episode))
    return found


def _runs(file: pq.ParquetFile, path: Path) -> list[tuple[int, int, int]]:
    """(episode, first row, rows) in the order they lie in the file."""
    names = file.schema_arrow.names
    if "episode_index" not in names:
        raise DataError("the file lacks this column", _DAMAGED, file=path, key="episode_index")
    runs: list[tuple[int, int, int]] = []
    row = 0
    for group in range(file.num_row_groups):
        column = integers(
            file.read_row_group(group, columns=["episode_index"]).column("episode_index"),
            "episode_index",
            path,
        )
        edges = [0, *(np.flatnonzero(np.diff(column)) + 1).tolist(), len(column)]
        for start, stop in itertools.pairwise(edges):
            if stop == start:
                continue
            number = int(column[start])
            if runs and runs[-1][0] == number:
                runs[-1] = (number, runs[-1][1], runs[-1][2] + stop - start)
            else:
                runs.append((number, row + start, stop - start))
        row += len(column)
    return runs


def _place(
    row: Mapping[str, Any], root: Path, info: Info, found: Mapping[int, tuple[Path, int, int]],
    problems: list[Problem],
) -> Place | None:  # fmt: skip
    said_by = root / "meta" / "episodes"
    number = row.get("episode_index")
    if type(number) is not int or number < 0:
        raise DataError(f"episode_index is {number!r:.40}", _DAMAGED, file=said_by, key="episode_index")
    if number not in found:
        problems.append(
            Problem("no file has rows of this episode", "left out", file="meta/episodes", episode=number)
        )
        return None
    path, first, rows = found[number]
    clips = {}
    for key, feature in info.features.items():
        if feature.storage == "video":
            clips[key] = _clip(key, row, number, root, info, said_by)
    tasks = row.get("tasks")
    if isinstance(tasks, str):
        tasks = [tasks]
    prefixes = ("data/", "videos/", "meta/", "stats/")
    about = {
        k: v
        for k, v in row.items()
        if k not in _STANDARD
        and not k.startswith(prefixes)
        and isinstance(v, str | int | float | bool | list)
    }
    texts = tuple(dict.fromkeys(t for t in tasks if isinstance(t, str))) if isinstance(tasks, list) else ()
    said = row.get("length")
    return Place(number, path, first, rows, texts, clips, about, said if type(said) is int else None)


def _clip(key: str, row: Mapping[str, Any], number: int, root: Path, info: Info, said_by: Path) -> Clip:
    chunk, file = row.get(f"videos/{key}/chunk_index"), row.get(f"videos/{key}/file_index")
    start = row.get(f"videos/{key}/from_timestamp")
    if type(chunk) is not int or type(file) is not int or min(chunk, file) < 0:
        raise DataError(
            f"its video is file {file!r:.40} of chunk {chunk!r:.40}",
            _DAMAGED,
            file=said_by,
            episode=number,
            key=key,
        )
    if not isinstance(start, float | int) or not 0 <= start < 1e9:
        raise DataError(
            f"its video begins at {start!r:.40} s", _DAMAGED, file=said_by, episode=number, key=key
        )
    template = info.video_path or "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
    relative = fill(template, root / "meta" / "info.json", video_key=key, chunk_index=chunk, file_index=file)
    return Clip(inside(root, relative, root / "meta" / "info.json"), float(start))


def _plan(contents: Contents, options: WriteOptions) -> list[Loss]:
    return Layout(contents, options).losses()


def _create(path: Path, contents: Contents, options: WriteOptions, ledger: Ledger) -> LeRobotSink:
    return LeRobotSink(path, Layout(contents, options), ledger, version=3)


def _prepare(
    recording: Recording, contents: Contents, options: WriteOptions, folder: Path, ledger: Ledger
) -> Recording:
    return prepare_recording(recording, Layout(contents, options), folder, ledger)


FORMAT = Format(
    name="lerobot-v3",
    about="LeRobot v3.0: parquet and mp4, many episodes in a file",
    detect=lambda path: looks_like(path, 3),
    open=open_lerobot_v3,
    plan=_plan,
    create=_create,
    prepare=_prepare,
)
