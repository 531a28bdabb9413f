"""The metadata of a LeRobot set that is written: episodes, tasks, statistics, info.json, our side files."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ..ledger import Ledger
from .lerobot_bundles import CHUNK, ROWS, Bundles
from .lerobot_journal import Journal
from .lerobot_layout import Layout
from .lerobot_rows import write_tasks
from .lerobot_side import EPISODES, to_line, write_set, write_times
from .lerobot_stats import PixelCounts, Pool, Stats, from_json, of_rows, to_json

_PER_GROUP = 100  # episodes in a row group of meta/episodes
V3_DATA = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
V3_VIDEO = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
V2_DATA = "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet"
V2_VIDEO = "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4"


def write_meta(
    root: Path, layout: Layout, ledger: Ledger, version: int, journal: Journal, tasks: Sequence[str],
    caps_mb: tuple[float, float],
) -> None:  # fmt: skip
    """All of ``meta/``, from the journal, an episode at a time."""
    meta = root / "meta"
    meta.mkdir(exist_ok=True)
    infos: dict[str, Any] = {}
    pools: dict[str, Pool] = {}
    pixels: dict[str, PixelCounts] = {}
    episodes = rows = videos = 0
    for line in journal.lines():
        episodes, rows, videos = episodes + 1, rows + line["length"], videos + len(line["videos"])
        for name, video in line["videos"].items():
            infos.setdefault(name, video["info"])
        for name, stats in line["stats"].items():
            if name not in line["black"]:
                pools.setdefault(name, Pool()).add(from_json(stats))
        for name, packed in line["pixels"].items():
            if name not in line["black"]:
                pixels.setdefault(name, PixelCounts()).join(PixelCounts.unpack(packed))
    is_v3 = version == 3
    if is_v3:
        write_tasks(meta / "tasks.parquet", tasks)
        _write_episodes(meta, journal, caps_mb)
    else:
        _write_lines(meta, journal, tasks)
    if is_v3 or layout.gr00t:
        total = {name: pool.total for name, pool in pools.items()}
        total |= {name: counts.stats() for name, counts in pixels.items()}
        total |= dict(_exact(root, total))
        write_json(meta / "stats.json", {name: to_json(stats) for name, stats in total.items() if stats})
    with (meta / EPISODES).open("wb") as file:
        for line in journal.lines():
            file.write(to_line(line["side"]))
    times = ((line["episode_index"], np.array(line["time"])) for line in journal.lines() if line["time"])
    write_times(meta, times)
    write_set(meta, layout.contents, layout.keys, ledger)
    info: dict[str, Any] = {
        "codebase_version": "v3.0" if is_v3 else "v2.1",
        "robot_type": layout.contents.robot or None,
        "total_episodes": episodes,
        "total_frames": rows,
        "total_tasks": len(tasks),
        "chunks_size": 1000,
        "fps": layout.fps,
        "splits": {"train": f"0:{episodes}"},
        "data_path": V3_DATA if is_v3 else V2_DATA,
        "video_path": (V3_VIDEO if is_v3 else V2_VIDEO) if videos else None,
        "features": layout.features(infos),
    }
    if is_v3:
        info["data_files_size_in_mb"], info["video_files_size_in_mb"] = (math.ceil(cap) for cap in caps_mb)
    else:
        info["total_videos"], info["total_chunks"] = videos, -(-episodes // 1000)
    write_json(meta / "info.json", info)


def write_json(path: Path, data: Any) -> None:
    path.write_text(json.dumps(data, indent=4, ensure_ascii=False), encoding="utf-8")


def episode_stats(line: Mapping[str, Any]) -> dict[str, Any]:
    """Statistics of one episode as JSON, images included."""
    found = dict(line["stats"])
    for name, packed in line["pixels"].items():
        found[name] = to_json(PixelCounts.unpack(packed).stats())
    return found


def _write_lines(meta: Path, journal: Journal, tasks: Sequence[str]) -> None:
    """v2.1: a line of JSON for each task and each episode."""
    with (meta / "tasks.jsonl").open("wb") as file:
        for index, task in enumerate(tasks):
            file.write(to_line({"task_index": index, "task": task}))
    with (meta / "episodes.jsonl").open("wb") as file, (meta / "episodes_stats.jsonl").open("wb") as stats:
        for line in journal.lines():
            number = {"episode_index": line["episode_index"]}
            extra = {"missing": line["black"]} if line["black"] else {}
            file.write(to_line({**number, "tasks": line["tasks"], "length": line["length"], **extra}))
            stats.write(to_line({**number, "stats": episode_stats(line)}))


def _write_episodes(meta: Path, journal: Journal, caps_mb: tuple[float, float]) -> None:
    """v3.0: a row for each episode, with where it lies and its statistics."""
    writer, schema, number = None, None, 0
    batch: list[dict[str, Any]] = []
    padded = sorted({name for line in journal.lines() for name in line["black"]})
    try:
        for row in (*_episode_rows(journal, caps_mb, padded), None):
            if row is not None:
                batch.append(row)
            if batch and (row is None or len(batch) == _PER_GROUP):
                for one in batch:
                    one["meta/episodes/chunk_index"], one["meta/episodes/file_index"] = divmod(number, CHUNK)
                schema = schema or _schema(batch[0])
                path = meta / f"episodes/chunk-{number // CHUNK:03d}/file-{number % CHUNK:03d}.parquet"
                if writer is None:
                    path.parent.mkdir(parents=True, exist_ok=True)
                    writer = pq.ParquetWriter(path, schema, compression="snappy")
                writer.write_table(pa.Table.from_pylist(batch, schema))
                batch = []
                if path.stat().st_size > caps_mb[0] * 2**20:
                    writer.close()
                    writer, number = None, number + 1
    finally:
        if writer is not None:
            writer.close()


def _schema(row: Mapping[str, Any]) -> pa.Schema:
    """Types of the columns; statistics are doubles, also where the first look like integers."""
    fields = []
    for name, value in row.items():
        kind = pa.infer_type([value])
        if name.startswith("stats/"):
            kind, depth = (pa.int64() if name.endswith("/count") else pa.float64()), np.ndim(value)
            for _ in range(depth):
                kind = pa.list_(kind)
        elif name == "tasks":
            kind = pa.list_(pa.string())
        fields.append(pa.field(name, kind))
    return pa.schema(fields)


def _episode_rows(
    journal: Journal, caps_mb: tuple[float, float], padded: Sequence[str]
) -> Iterator[dict[str, Any]]:
    bundles = Bundles(*caps_mb)
    starts: dict[str, int] = {}
    first = 0
    for line in journal.lines():
        episode, length = line["episode_index"], line["length"]
        row: dict[str, Any] = {"episode_index": episode, "tasks": line["tasks"], "length": length}
        for name, _ in bundles.add(line):
            starts[name] = 0
        for name, bundle in bundles.open.items():
            place = "data" if name == ROWS else f"videos/{name}"
            row[f"{place}/chunk_index"], row[f"{place}/file_index"] = bundle.chunk, bundle.file
            if name != ROWS:
                fps, begin = line["videos"][name]["info"]["video.fps"], starts.get(name, 0)
                starts[name] = begin + length
                row[f"{place}/from_timestamp"] = begin / fps
                row[f"{place}/to_timestamp"] = (begin + length) / fps
        row["dataset_from_index"], row["dataset_to_index"] = first, first + length
        row["meta/episodes/chunk_index"] = row["meta/episodes/file_index"] = 0  # set when it is written
        for name in padded:
            row[f"valid/{name}"] = name not in line["black"]
        for name, stats in sorted(episode_stats(line).items()):
            row |= {f"stats/{name}/{stat}": value for stat, value in stats.items()}
        first += length
        yield row


def _exact(root: Path, pooled: Mapping[str, Stats]) -> Iterator[tuple[str, Stats]]:
    """Statistics of number columns over all rows of the set: the quantiles of episodes cannot be joined."""
    paths = sorted((root / "data").glob("*/*.parquet"))
    if not paths:
        return
    schema = pq.read_schema(paths[0])
    for name, stats in pooled.items():
        if name not in schema.names or pa.types.is_struct(schema.field(name).type):
            continue
        shape = stats["min"].shape
        flat = [_flat(pq.ParquetFile(path).read(columns=[name]).column(name)) for path in paths]
        rows = np.concatenate(flat).reshape(-1, *(() if shape == (1,) else shape))
        yield name, of_rows(rows)


def _flat(column: Any) -> Any:
    values = column.combine_chunks()
    while hasattr(values, "flatten") and pa.types.is_nested(values.type):
        values = values.flatten()
    return np.asarray(values.to_numpy(zero_copy_only=False))
