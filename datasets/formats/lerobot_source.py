"""A LeRobot set of any version, opened for reading.

The versions differ in where an episode lies, which `lerobot_v2.py` and `lerobot_v3.py` find out; what is done
with it there is here.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..frames import codec_of, decode_image
from ..ledger import DataError, Problem
from ..recording import Contents, Conventions, Recording, StreamSpec, Track
from ..video import VideoFrames, probe_video
from .lerobot_info import BOOKKEEPING, Feature, Info, within
from .lerobot_rows import ColumnFrames, Tables, integers, numbers, reading, stored_dtype
from .lerobot_side import read_side

MAX_PROBLEMS = 200  # of one opened set; a thousand equal ones help nobody


@dataclass(frozen=True)
class Clip:
    """Where an episode's images of one camera lie: a file, and where in it they begin."""

    path: Path
    start_s: float


@dataclass(frozen=True)
class Place:
    """Where an episode lies.

    Attributes:
        number: ``episode_index`` in the set.
        path: of the parquet file.
        first: row of that file.
        rows: number of rows; None if only the file knows.
        tasks: as the metadata list them.
        clips: video of each camera.
        about: what else the metadata say.
        said: number of rows by the metadata; None if they do not say.
    """

    number: int
    path: Path
    first: int
    rows: int | None
    tasks: tuple[str, ...]
    clips: Mapping[str, Clip]
    about: Mapping[str, Any] = field(default_factory=dict)
    said: int | None = None


class LeRobotSource:
    """`Source` of LeRobot's formats."""

    def __init__(
        self, name: str, root: Path, info: Info, places: Sequence[Place], tasks: Sequence[str],
        problems: list[Problem],
    ) -> None:  # fmt: skip
        self.format = name
        self.path = str(root)
        self.problems: Sequence[Problem] = problems
        self._problems = problems
        self.contents: Contents
        self._root, self._info, self._places, self._tasks = root, info, places, tasks
        self._tables = Tables()
        self._annotations: set[str] = set()
        problems += info.problems
        _find_leftovers(root, problems)
        lengths = {i: -1 if place.said is None else place.said for i, place in enumerate(places)}
        self._side = read_side(root / "meta", lengths, problems)
        self._features = dict(self._held_as(info.features))
        self._key = {name: self._side.keys.get(name, name) for name in self._features}
        if len(set(self._key.values())) != len(self._key):
            self._key = {name: name for name in self._features}
        self.contents = self._contents()

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, episode: int) -> Recording:
        if not 0 <= episode < len(self._places):
            raise IndexError(f"episode {episode} of {len(self._places)}")
        place = self._places[episode]
        path = within(self._root, place.path)
        rows = self._rows(place)
        if not rows:
            raise DataError("the episode has no rows", "drop it in the mapping", file=path, episode=episode)
        if place.said is not None and place.said != rows:
            self.note(
                Problem(
                    f"its length is said to be {place.said}, the data have {rows} rows",
                    "the data are believed",
                    True,
                    str(path),
                    episode,
                    key="length",
                )
            )
        columns = [n for n, f in self._features.items() if f.storage in ("column", "language")]
        stored = set(self._columns(path))
        for name in columns:
            if name not in stored:
                raise DataError(
                    "the file lacks this column", "drop the stream or the episode", file=path,
                    episode=episode, key=name,
                )  # fmt: skip
        wanted = [*columns, *(name for name in BOOKKEEPING if name in stored)]
        table = self._tables.rows(path, wanted, place.first, rows)
        clock = self._clock(table, episode, path)
        time = self._side.times.get(episode, clock)
        task, texts = self._tasks_of(table, place, episode, path)
        missing = self._side.missing(episode)
        streams: dict[str, Track] = {}
        for name, feature in self._features.items():
            if self._key[name] in missing:
                continue
            value: Any
            if feature.storage == "video":
                value = self._video(name, feature, place, rows, episode, float(clock[0]))
            elif feature.storage == "image":
                value = ColumnFrames(path, name, place.first, rows, feature.spec.shape, episode)
            elif name in self._annotations:
                value = self._words(integers(table.column(name), name, path, episode), path, episode, name)
            elif feature.spec.kind == "text":
                value = self._texts(table.column(name), feature, path, episode)
            else:
                value = numbers(table.column(name), feature.spec, path, episode)
                value = value.reshape(rows, *self.contents.streams[self._key[name]].shape)
            streams[self._key[name]] = Track(value, time)
        if "task" in self.contents.streams and "task" not in missing:
            streams["task"] = Track(texts, time)
        made = Recording(streams, task, about={"episode_index": place.number, **place.about})
        return self._side.apply(episode, made)

    def num_rows(self, episode: int) -> Mapping[str, int]:
        rows = self._rows(self._places[episode])
        missing = self._side.missing(episode)
        return {key: rows for key in self.contents.streams if key not in missing}

    def close(self) -> None:
        self._tables.close()

    def note(self, problem: Problem) -> None:
        """Report something once; what is wrong a hundred times is wrong."""
        if problem not in self.problems and len(self.problems) < MAX_PROBLEMS:
            self._problems.append(problem)

    def read_as_words(self, name: str) -> None:
        """Take a column of task indices (GR00T's annotations) for the texts that it points at."""
        feature = self._features[name]
        spec = StreamSpec(name, "text", "str", (), rate_hz=self._info.fps, about=feature.spec.about)
        self._features[name] = dataclasses.replace(feature, spec=spec)
        self._annotations.add(name)
        key = self._key[name]
        known = self._side.contents.streams.get(key) if self._side.contents else None
        spec = known if known is not None and known.kind == "text" else dataclasses.replace(spec, key=key)
        self.contents = dataclasses.replace(self.contents, streams={**self.contents.streams, key: spec})

    def _rows(self, place: Place) -> int:
        if place.rows is not None:
            return place.rows
        path = within(self._root, place.path)
        with reading(path):
            return int(self._tables.file(path).metadata.num_rows)

    def _columns(self, path: Path) -> list[str]:
        with reading(path):
            return list(self._tables.file(path).schema_arrow.names)

    def _held_as(self, features: Mapping[str, Feature]) -> Iterator[tuple[str, Feature]]:
        """The features with the types that the first readable file really holds."""
        schema, path = self._first_schema()
        if schema is not None:
            for name in schema.names:
                if name not in features and name not in BOOKKEEPING:
                    self.note(
                        Problem(
                            "a column that info.json does not list among the features",
                            "left out; add it to the features to read it",
                            file=str(path),
                            key=name,
                        )
                    )
        for name, feature in features.items():
            if schema is None or feature.storage == "video":
                yield name, feature
                continue
            if name not in schema.names:
                self.note(
                    Problem("info.json lists it, the files have no such column", "left out", False, str(path),
                            key=name)
                )  # fmt: skip
                continue
            spec = feature.spec
            if feature.storage == "image":
                yield name, self._looked_at(name, feature, path)
                continue
            held = stored_dtype(schema.field(name).type)
            if feature.storage == "column" and spec.kind == "vector" and held and held != spec.dtype:
                self.note(
                    Problem(
                        f"info.json says {spec.dtype}, the files hold {held}",
                        "read as the files hold it",
                        True,
                        str(path),
                        key=name,
                    )
                )
                feature = dataclasses.replace(feature, spec=dataclasses.replace(spec, dtype=held))
            yield name, feature

    def _first_schema(self) -> tuple[Any, Path]:
        for place in self._places[:3]:
            try:
                path = within(self._root, place.path)
                with reading(path):
                    return self._tables.file(path).schema_arrow, path
            except DataError as error:
                self.note(Problem(error.what, error.remedy, file=str(place.path), episode=place.number))
        return None, self._root

    def _looked_at(self, name: str, feature: Feature, path: Path) -> Feature:
        """The codec of the first image of the set, and of depth its type."""
        for place in self._places[:1]:
            try:
                frames = ColumnFrames(path, name, place.first, 1, feature.spec.shape, 0)
                data = frames.encoded(0) or b""
                about = {**feature.spec.about, "codec": codec_of(data)}
                spec = dataclasses.replace(feature.spec, about=about)
                if spec.kind == "depth":
                    found = decode_image(data, where=str(path))
                    if found.ndim == 2:
                        spec = dataclasses.replace(spec, dtype=str(found.dtype))
                    else:  # one channel of 8 bits is a grey picture
                        spec = dataclasses.replace(spec, kind="image", dtype="uint8", shape=(*spec.shape, 3))
                return dataclasses.replace(feature, spec=spec)
            except DataError as error:
                self.note(Problem(error.what, error.remedy, file=str(path), episode=0, key=name))
        return feature

    def _contents(self) -> Contents:
        known = self._side.contents
        streams: dict[str, StreamSpec] = {}
        for name, feature in self._features.items():
            key, spec = self._key[name], dataclasses.replace(feature.spec, key=self._key[name])
            streams[key] = spec
            side = known.streams.get(key) if known else None
            if side is None or (side.kind, side.dtype) != (spec.kind, spec.dtype):
                continue
            if np.prod(side.shape) == np.prod(spec.shape) and (
                spec.kind == "vector" or side.shape == spec.shape
            ):
                about = dict(side.about)
                if spec.kind == "image":
                    about["codec"] = spec.about["codec"]
                streams[key] = dataclasses.replace(side, about=about)
        if any(len(place.tasks) > 1 for place in self._places) or (known and "task" in known.streams):
            about = {"time": "nominal"}
            streams.setdefault(
                "task", StreamSpec("task", "text", "str", (), rate_hz=self._info.fps, about=about)
            )
        if known:
            order = [key for key in known.streams if key in streams]
            streams = {key: streams[key] for key in (*order, *streams)}
            return dataclasses.replace(known, streams=streams)
        about = {"lerobot": {"version": ".".join(map(str, self._info.version)), **self._info.rest}}
        # LeRobot's meaning of a row: the action is the one sent after seeing the observation.
        return Contents(
            streams, self._info.fps, self._info.robot, Conventions(observed="before"), about=about
        )

    def _clock(self, table: Any, episode: int, path: Path) -> NDArray[np.float64]:
        """Times of the rows: k / fps, unless the set really has others."""
        nominal = np.arange(table.num_rows) / self._info.fps
        if "frame_index" in table.column_names:
            frames = integers(table.column("frame_index"), "frame_index", path, episode)
            if not np.array_equal(frames, np.arange(len(frames))):
                self.note(
                    Problem(
                        f"frame_index runs {frames[0]}..{frames[-1]}, expected 0..{len(frames) - 1}",
                        "rows are taken in the order they lie in the file",
                        True,
                        str(path),
                        episode,
                        key="frame_index",
                    )
                )
        if "timestamp" not in table.column_names:
            return nominal
        column = table.column("timestamp")
        held = stored_dtype(column.type)
        if held not in ("float32", "float64"):
            raise DataError(
                f"it holds {held or column.type}, expected float32", "drop the episode", file=path,
                episode=episode, key="timestamp",
            )  # fmt: skip
        stamps = numbers(column, StreamSpec("timestamp", "vector", held, ()), path, episode).astype(
            np.float64
        )
        # float32 cannot tell 1e-4 s apart after about 1000 s: then the row counts, not the stamp.
        slack = max(1e-4, 4 * float(np.finfo(np.float32).eps) * float(nominal[-1]))
        if np.isfinite(stamps).all() and (np.abs(stamps - nominal) <= slack).all():
            return nominal
        good = np.isfinite(stamps).all() and (np.diff(stamps) >= 0).all()
        worst = float(np.nanmax(np.abs(stamps - nominal))) if np.isfinite(stamps).any() else float("nan")
        self.note(
            Problem(
                f"timestamps are up to {worst:.3g} s away from frame / {self._info.fps:g}",
                "times are taken from the file"
                if good
                else "they fall or are not finite: frame / fps instead",
                not good,
                str(path),
                episode,
                key="timestamp",
            )
        )
        return stamps if good else nominal

    def _tasks_of(self, table: Any, place: Place, episode: int, path: Path) -> tuple[str, list[str]]:
        if "task_index" not in table.column_names:
            if not self._tasks and not place.tasks:
                return "", [""] * table.num_rows
            raise DataError(
                "the file lacks this column", "drop the episode", file=path, episode=episode, key="task_index"
            )
        indices = integers(table.column("task_index"), "task_index", path, episode)
        texts = self._words(indices, path, episode, "task_index")
        change = np.flatnonzero(np.diff(indices))
        if len(change) and "task" not in self.contents.streams:
            raise DataError(
                "the task changes here, and the metadata list one task for the episode",
                "list all its tasks in meta/episodes, or drop the episode",
                file=path,
                episode=episode,
                frame=int(change[0]) + 1,
                key="task_index",
            )
        return texts[0], texts

    def _words(self, indices: NDArray[np.int64], path: Path, episode: int, key: str) -> list[str]:
        bad = np.flatnonzero((indices < 0) | (indices >= len(self._tasks)))
        if len(bad):
            raise DataError(
                f"task {indices[bad[0]]} of {len(self._tasks)}",
                "add it to meta/tasks, or drop the episode",
                file=path,
                episode=episode,
                frame=int(bad[0]),
                key=key,
            )
        return [self._tasks[int(index)] for index in indices]

    def _texts(self, column: Any, feature: Feature, path: Path, episode: int) -> list[str]:
        with reading(path, feature.spec.key, episode):
            values = column.to_pylist()
            if feature.storage == "language":
                return [json.dumps(value, ensure_ascii=False, default=str) for value in values]
            for frame, value in enumerate(values):
                if not isinstance(value, str):
                    raise DataError(
                        f"{value!r:.40} is no text", "drop the episode or this stream", file=path,
                        episode=episode, frame=frame, key=feature.spec.key,
                    )  # fmt: skip
            return list(values)

    def _video(
        self, name: str, feature: Feature, place: Place, rows: int, episode: int, start: float
    ) -> VideoFrames:
        clip = place.clips.get(name)
        if clip is None:
            raise DataError("the metadata name no video", "drop the episode", episode=episode, key=name)
        path = within(self._root, clip.path)
        info = probe_video(path)
        shape: tuple[int, ...] = feature.spec.shape
        if (info.height, info.width) != shape[:2]:
            self._resized((info.height, info.width), shape, path, episode, name)
            shape = (info.height, info.width, *shape[2:])
        begins = clip.start_s + start
        if info.frames and info.rate:
            there = round((info.frames / info.rate - begins) * self._info.fps)
            if there < rows:
                self.note(
                    Problem(
                        f"the video ends after {max(there, 0)} frames, the data have {rows} rows",
                        f"frames from {max(there, 0)} on cannot be read: trim or drop the episode "
                        "in the mapping",
                        False,
                        str(path),
                        episode,
                        key=name,
                    )
                )
        return VideoFrames(path, rows, self._info.fps, shape, begins, feature.depth, episode, name)

    def _resized(
        self, size: tuple[int, int], shape: tuple[int, ...], path: Path, episode: int, name: str
    ) -> None:
        self.note(
            Problem(
                f"images of {size[0]} x {size[1]} pixels, info.json says {shape[0]} x {shape[1]}",
                "read in their own size; resize this camera in the mapping before writing",
                False,
                str(path),
                episode,
                key=name,
            )
        )


def _find_leftovers(root: Path, problems: list[Problem]) -> None:
    """`images/` is where LeRobot collects frames while it records; a finished set has no file there."""
    images = root / "images"
    if images.is_dir() and not images.is_symlink() and any(file.is_file() for file in images.rglob("*")):
        problems.append(
            Problem(
                "the folder images/ holds files: a recording was interrupted",
                "its frames belong to an episode that was never saved; look at them, then delete the folder",
                file="images",
            )
        )
