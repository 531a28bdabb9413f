"""What LeRobot has no field for, in files beside its own that it does not look at.

``meta/regrip.json`` for the set, ``meta/regrip_episodes.jsonl`` and ``meta/regrip_times.parquet`` for its
episodes.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ..contents_json import contents_from_json, contents_to_json, dumps
from ..ledger import DataError, Ledger, Problem
from ..recording import Contents, Recording
from .lerobot_info import read_json, read_lines
from .lerobot_rows import open_parquet, reading

SET, EPISODES, TIMES = "regrip.json", "regrip_episodes.jsonl", "regrip_times.parquet"
_IGNORED = "what the side file says is left out; the rest is read as of any LeRobot set"


@dataclass
class Side:
    """What the side files say; all empty where there are none.

    Attributes:
        contents: as they were written, or None.
        keys: LeRobot's name of a feature to the stream's key, where they differ.
        episodes: a line for each episode.
        times: episode to its capture times, where they are not k / fps.
    """

    contents: Contents | None = None
    keys: Mapping[str, str] = field(default_factory=dict)
    episodes: list[dict[str, Any]] = field(default_factory=list)
    times: Mapping[int, NDArray[np.float64]] = field(default_factory=dict)

    def apply(self, index: int, made: Recording) -> Recording:
        """The recording with what the side files know of it."""
        if index >= len(self.episodes):
            return made
        line = self.episodes[index]
        about = line.get("about")
        began = line.get("began_ns")
        return dataclasses.replace(
            made,
            success=_truth(line.get("success")),
            terminated=_truth(line.get("terminated")),
            truncated=_truth(line.get("truncated")),
            began_ns=began if type(began) is int else None,
            about=about if isinstance(about, dict) else made.about,
        )

    def missing(self, index: int) -> set[str]:
        """Keys of streams that this episode did not have; what the set holds there is padding."""
        found = self.episodes[index].get("missing", []) if index < len(self.episodes) else []
        return {key for key in found if isinstance(key, str)} if isinstance(found, list) else set()


def _truth(value: Any) -> bool | None:
    return value if isinstance(value, bool) else None


def write_set(meta: Path, contents: Contents, keys: Mapping[str, str], ledger: Ledger) -> None:
    """regrip.json: what the streams mean, and what the conversion lost."""
    data = {
        "regrip": 1,
        "contents": contents_to_json(contents),
        "keys": dict(keys),
        "ledger": ledger.to_json(),
    }
    (meta / SET).write_bytes(dumps(data, "what is known of the set", indent=1))


def line_of(made: Recording, missing: Iterable[str]) -> dict[str, Any]:
    """What regrip_episodes.jsonl says of an episode."""
    return {
        "length": made.num_steps,
        "success": made.success,
        "terminated": made.terminated,
        "truncated": made.truncated,
        "began_ns": made.began_ns,
        "missing": sorted(missing),
        "about": dict(made.about),
    }


def write_times(meta: Path, episodes: Iterable[tuple[int, NDArray[np.float64]]]) -> None:
    """regrip_times.parquet, one row for each episode whose times LeRobot's rate does not give."""
    schema = pa.schema([("episode_index", pa.int64()), ("time", pa.list_(pa.float64()))])
    writer = None
    try:
        for index, time in episodes:
            writer = writer or pq.ParquetWriter(meta / TIMES, schema, compression="zstd")
            writer.write_table(pa.table({"episode_index": [index], "time": [time]}, schema=schema))
    finally:
        if writer is not None:
            writer.close()


def read_side(meta: Path, lengths: Mapping[int, int], problems: list[Problem]) -> Side:
    """Read the side files; what is wrong with them is reported and left out, for the set is whole without.

    Args:
        meta: folder of the metadata.
        lengths: episode to number of rows, to see whether the set was edited since.
        problems: to report to.
    """
    if not (meta / SET).is_file() or (meta / SET).is_symlink():
        return Side()
    try:
        data = read_json(meta / SET)
        contents = contents_from_json(data.get("contents"), meta / SET)
        keys = data.get("keys", {})
        if not isinstance(keys, dict) or not all(isinstance(key, str) for key in keys.values()):
            raise DataError("keys are no texts", "it was edited", file=meta / SET)
        lines = list(read_lines(meta / EPISODES))
        if [line.get("length") for line in lines] != [lengths.get(i) for i in range(len(lengths))]:
            raise DataError(
                "its episodes are not those of the set, which was edited", "", file=meta / EPISODES
            )
        times = dict(_times(meta / TIMES, lengths)) if (meta / TIMES).exists() else {}
    except DataError as error:
        problems.append(Problem(str(error).strip(), _IGNORED, True, f"meta/{SET}"))
        return Side()
    return Side(contents, keys, lines, times)


def _times(path: Path, lengths: Mapping[int, int]) -> Iterator[tuple[int, NDArray[np.float64]]]:
    if path.is_symlink():
        raise DataError("it is a link", "", file=path)
    with reading(path):
        file = open_parquet(path)
        try:
            for batch in file.iter_batches(64, columns=["episode_index", "time"]):
                for index, row in zip(
                    batch.column("episode_index").to_pylist(), batch.column("time"), strict=True
                ):
                    time = np.asarray(row.values.to_numpy(zero_copy_only=False), np.float64)
                    good = np.isfinite(time).all() and (np.diff(time) >= 0).all()
                    if not good or len(time) != lengths.get(index, -1):
                        raise DataError("its times are not those of the set", "", file=path, episode=index)
                    yield index, time
        finally:
            file.close()


def ledger_of(meta: Path) -> list[dict[str, Any]]:
    """The losses of the conversion that made the set, as JSON; empty if nothing says."""
    try:
        found = read_json(meta / SET).get("ledger", [])
    except DataError:
        return []
    return found if isinstance(found, list) else []


def to_line(data: Mapping[str, Any]) -> bytes:
    return json.dumps(data, ensure_ascii=True).encode() + b"\n"
