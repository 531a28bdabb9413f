"""ROS bags as a set: one bag is one episode, unless a topic marks where episodes begin and end."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..contents_json import contents_from_json
from ..frames import ArrayFrames, decode_image
from ..ledger import DataError, Problem
from ..recording import Contents, Frames, Recording, StreamSpec, Track
from ..views.resampling import cut
from .bag_columns import RECORD, TASK_TOPICS, Bag, Gathered, gather
from .bag_files import BagFile, TornError
from .bag_messages import MessageError, decode, image_file, pixels

SIDE_FILE = "regrip.json"


@dataclass(frozen=True)
class BagFrames:
    """Images of one topic, fetched from the bag when they are wanted."""

    files: tuple[BagFile, ...]
    refs: NDArray[np.int64]
    encoding: str
    type: str
    shape: tuple[int, ...]
    key: str
    episode: int

    def __len__(self) -> int:
        return len(self.refs)

    def __iter__(self) -> Iterator[NDArray[Any]]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int) -> NDArray[Any]:
        message = self._message(index)
        try:
            if self.type == "sensor_msgs/msg/Image":
                image = pixels(message)
            else:
                image = decode_image(image_file(message), where=str(self.files[0].path), frame=index)
        except MessageError as error:
            raise self._error(str(error), index) from error
        if image.shape != self.shape:
            raise self._error(f"image of shape {image.shape}, expected {self.shape}", index)
        return image

    def encoded(self, index: int) -> bytes | None:
        if self.type == "sensor_msgs/msg/Image":
            return None
        try:
            return image_file(self._message(index))
        except MessageError as error:
            raise self._error(str(error), index) from error

    def _message(self, index: int) -> Any:
        number, *ref = self.refs[index].tolist()
        try:
            return decode(self.encoding, self.type, self.files[number].read((ref[0], ref[1], ref[2])))
        except (TornError, MessageError, OSError) as error:
            raise self._error(str(error), index) from error

    def _error(self, what: str, index: int) -> DataError:
        return DataError(
            what,
            "the bag was changed or damaged since it was opened: check the file",
            file=self.files[0].path,
            episode=self.episode,
            frame=index,
            key=self.key,
        )


@dataclass(frozen=True)
class _Episode:
    """Where an episode is: a bag, a piece of it in seconds, and what is known without reading it again."""

    bag: int
    num_rows: Mapping[str, int]
    begin_s: float = -math.inf
    end_s: float = math.inf
    task: str = ""


class BagSource:
    """Bags of one format, opened for reading.

    Opening walks through every bag once, because what a topic holds is known only from its messages; sets
    that regrip wrote say it in `regrip.json` and are not walked.
    """

    def __init__(
        self, format: str, path: Path, bags: Sequence[Sequence[BagFile]], episode_topic: str = ""
    ) -> None:
        """Open bags, each a list of files.

        Args:
            format: name of it.
            path: of the set.
            bags: files of each.
            episode_topic: a topic that marks episodes: a text starts one and is its task, an empty text ends
                it; a Bool starts one when true and ends it when false. ``""`` for one episode a bag.

        Raises:
            DataError: none of the bags can be read, or the topic is not in one of them.
        """
        self.format, self.path = format, str(path)
        self._problems: list[Problem] = []
        self.problems: Sequence[Problem] = self._problems
        self._root = path if path.is_dir() else path.parent
        self._bags: list[tuple[BagFile, ...]] = []
        self._episodes: list[_Episode] = []
        self._last: tuple[int, Bag] | None = None
        written = _written(path)
        if written is not None and not episode_topic:
            self.contents, rows = written
            if len(rows) != len(bags):
                raise DataError(
                    f"{SIDE_FILE} tells of {len(rows)} episodes and there are {len(bags)}",
                    f"restore what is missing, or remove {SIDE_FILE}",
                    file=path,
                )
            self._bags = [tuple(files) for files in bags]
            self._episodes = [_Episode(i, counts) for i, counts in enumerate(rows)]
            return
        specs: dict[str, StreamSpec] = {}
        cameras: dict[str, Any] = {}
        failure: DataError | None = None
        for files in bags:
            try:
                bag = gather(files, self._name(files))
            except DataError as error:
                failure = error
                self._problems.append(
                    Problem(error.what, f"the bag is left out; {error.remedy}", file=self._name(files))
                )
                continue
            self._bags.append(tuple(files))
            number = len(self._bags) - 1
            self._last = (number, bag)
            self._problems += bag.problems
            cameras |= bag.cameras
            for spec in self._said(bag)[0].values():
                self._merge(specs, spec, number)
            self._find_episodes(number, bag, specs, episode_topic)
        if not self._bags:
            assert failure is not None
            raise failure
        about = {"camera_info": cameras} if cameras else {}
        self.contents = Contents(specs, about=about)
        own = self._own_contents()
        if own is not None:
            self.contents = dataclasses.replace(own, streams=specs)

    def add(self, problems: Sequence[Problem]) -> None:
        """Say what was found wrong before the files were opened."""
        self._problems[:0] = problems

    def _own_contents(self) -> Contents | None:
        """What a bag that regrip wrote says of its set, where it was taken out of it."""
        assert self._last is not None
        record = _record(self._last[1], self._name(self._bags[self._last[0]]))
        return None if record is None else contents_from_json(record.get("contents"), self.path)

    def _name(self, files: Sequence[BagFile]) -> str:
        try:
            return str(files[0].path.relative_to(self._root))
        except ValueError:
            return files[0].path.name

    def _merge(self, specs: dict[str, StreamSpec], spec: StreamSpec, episode: int) -> None:
        known = specs.setdefault(spec.key, spec)
        if not _fits(known, spec):
            self._problems.append(
                Problem(
                    f"it is {spec.kind} {spec.dtype} {spec.shape} {list(spec.names)} here and "
                    f"{known.kind} {known.dtype} {known.shape} {list(known.names)} in an earlier episode",
                    "the stream is left out of this episode: convert such bags to a set of their own",
                    episode=episode,
                    key=spec.key,
                )
            )

    def _find_episodes(self, number: int, bag: Bag, specs: Mapping[str, StreamSpec], topic: str) -> None:
        streams = {key: s for key, s in self._said(bag)[1].items() if _fits(specs[key], s.spec)}
        if not topic:
            self._episodes.append(_Episode(number, {key: len(s.ns) for key, s in streams.items()}))
            return
        marker = next((s for s in bag.streams.values() if s.channel.topic == topic), None)
        if marker is None or not (marker.spec.kind == "text" or marker.spec.dtype == "bool"):
            raise DataError(
                f"no topic {topic} with texts or truths marks episodes",
                "name a std_msgs/String or std_msgs/Bool topic of every bag",
                file=self._name(self._bags[number]),
                key=topic,
            )
        began = min(int(s.ns[0]) for s in streams.values() if len(s.ns))
        values = list(marker.values) if marker.values is not None else []
        ends = [*marker.ns[1:].tolist(), 1 << 62]
        for value, begin, end in zip(values, marker.ns.tolist(), ends, strict=True):
            if value:
                rows = {key: int(((s.ns >= begin) & (s.ns < end)).sum()) for key, s in streams.items()}
                task = value if isinstance(value, str) else ""
                rows = {key: count for key, count in rows.items() if count}
                until = math.inf if end == 1 << 62 else (end - began) / 1e9
                self._episodes.append(_Episode(number, rows, (begin - began) / 1e9, until, task))
        if not any(values):
            name = self._name(self._bags[number])
            self._problems.append(Problem("nothing marks an episode in it", "the bag is left out", file=name))

    def __len__(self) -> int:
        return len(self._episodes)

    def num_rows(self, episode: int) -> Mapping[str, int]:
        return self._episodes[episode].num_rows

    def __getitem__(self, episode: int) -> Recording:
        if not 0 <= episode < len(self):
            raise IndexError(f"there is no episode {episode} of {len(self)}")
        one = self._episodes[episode]
        if self._last is None or self._last[0] != one.bag:
            self._last = (one.bag, gather(self._bags[one.bag], self._name(self._bags[one.bag])))
        whole = self._recording(one.bag, self._last[1], one, episode)
        if one.begin_s != -math.inf:
            whole = dataclasses.replace(_cut(whole, one.begin_s, one.end_s), task=one.task or whole.task)
        rows = {key: len(track) for key, track in whole.streams.items()}
        if rows != dict(one.num_rows):
            raise DataError(
                f"it holds {rows}, expected {dict(one.num_rows)}",
                f"it was cut off or changed; without {SIDE_FILE} what is left of it is read",
                file=self._name(self._bags[one.bag]),
                episode=episode,
            )
        return whole

    def _said(self, bag: Bag) -> tuple[dict[str, StreamSpec], dict[str, Gathered]]:
        """The streams by their final keys: those that regrip gave them, or those of the topics."""
        record = _record(bag, self.path)
        if record is None:
            streams = _with_task(bag.streams)
            return {key: stream.spec for key, stream in streams.items()}, streams
        contents = contents_from_json(record.get("contents"), self.path)
        streams = {}
        columns = record.get("columns", {})
        for key, spec in contents.streams.items():
            if key in columns and columns[key] in bag.streams:
                streams[key] = dataclasses.replace(bag.streams[columns[key]], spec=spec)
            elif key in columns:
                nothing = Gathered(spec, _NOWHERE, np.zeros(0, np.int64), None, np.zeros((0, 4), np.int64))
                streams[key] = nothing
        return dict(contents.streams), streams

    def _recording(self, number: int, bag: Bag, one: _Episode, episode: int = 0) -> Recording:
        files = self._bags[number]
        record = _record(bag, self.path)
        streams = self._said(bag)[1]
        began = min((int(s.ns[0]) for s in streams.values() if len(s.ns)), default=0)
        if record is not None:
            began = int(record["base_ns"])
        tracks = {}
        for key, stream in streams.items():
            spec = self.contents.streams.get(key)
            if spec is not None and _fits(spec, stream.spec):
                tracks[key] = Track(_rows(stream, spec, files, key, episode), (stream.ns - began) / 1e9)
        if record is not None:
            said = record["episode"]
            return Recording(
                tracks,
                said["task"],
                said["success"],
                said["terminated"],
                said["truncated"],
                said["began_ns"],
                said["about"],
            )
        task = tracks.get("task")
        first = task.rows[0] if task is not None and len(task) and isinstance(task.rows, list) else ""
        return Recording(tracks, task=str(first), began_ns=began, about={"source": self._name(files)})

    def close(self) -> None:
        self._last = None


_NOWHERE: Any = None


def _cut(whole: Recording, begin_s: float, end_s: float) -> Recording:
    last = max((float(track.time[-1]) for track in whole.streams.values() if len(track)), default=0.0)
    return cut(whole, begin_s, min(end_s, last + 1.0))


def _fits(known: StreamSpec, spec: StreamSpec) -> bool:
    return (known.kind, known.dtype, known.shape, set(known.names)) == (
        spec.kind,
        spec.dtype,
        spec.shape,
        set(spec.names),
    )


def _rows(
    stream: Gathered, spec: StreamSpec, files: tuple[BagFile, ...], key: str, episode: int
) -> NDArray[Any] | list[str] | Frames:
    if spec.kind in ("image", "depth"):
        if not len(stream.ns):
            return ArrayFrames(np.zeros((0, *spec.shape), spec.dtype))
        channel = stream.channel
        return BagFrames(files, stream.refs, channel.encoding, channel.type, spec.shape, key, episode)
    if spec.kind == "text":
        return list(stream.values) if stream.values is not None else []
    if stream.values is None:
        return np.zeros((0, *spec.shape), spec.dtype)
    values = np.asarray(stream.values)
    if math.prod(values.shape[1:]) != math.prod(spec.shape):
        raise DataError(
            f"rows of shape {values.shape[1:]}, expected {spec.shape}",
            f"the messages are not those that {RECORD} wrote",
            file=files[0].path,
            episode=episode,
            key=key,
        )
    names = stream.spec.names
    if names and names != spec.names and set(names) == set(spec.names):
        values = values[..., [names.index(name) for name in spec.names]]
    return values.astype(spec.dtype).reshape(len(values), *spec.shape)


def _with_task(streams: dict[str, Gathered]) -> dict[str, Gathered]:
    """The instruction's topic, if there is one, under the key ``task``."""
    if "task" in streams:
        return streams
    for key in TASK_TOPICS:
        if key in streams and streams[key].spec.kind == "text":
            spec = dataclasses.replace(streams[key].spec, key="task")
            renamed = dataclasses.replace(streams[key], spec=spec)
            return {("task" if k == key else k): (renamed if k == key else s) for k, s in streams.items()}
    return streams


def _record(bag: Bag, where: str) -> dict[str, Any] | None:
    """What regrip said of an episode when it wrote it."""
    text = bag.metadata.get(RECORD, {}).get("json")
    if text is None:
        return None
    try:
        record = json.loads(text)
        said = record["episode"]
        good = (
            isinstance(record["base_ns"], int)
            and isinstance(record["columns"], dict)
            and all(isinstance(c, str) for c in record["columns"].values())
            and isinstance(said["task"], str)
            and all(said[flag] in (None, True, False) for flag in ("success", "terminated", "truncated"))
            and (said["began_ns"] is None or isinstance(said["began_ns"], int))
            and isinstance(said["about"], dict)
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(
            f"its record {RECORD!r} is damaged ({error})", "take the bag again", file=where
        ) from error
    if not good:
        raise DataError(f"its record {RECORD!r} is damaged", "take the bag again", file=where)
    return dict(record)


def _written(path: Path) -> tuple[Contents, list[dict[str, int]]] | None:
    """Contents and row counts of a set that regrip wrote."""
    side = path / SIDE_FILE
    if not path.is_dir() or not side.is_file():
        return None
    if side.is_symlink() or side.stat().st_size > 1 << 28:
        raise DataError("it is a link, or larger than 256 MB", "take the set again", file=side)
    try:
        said = json.loads(side.read_text("utf-8"))
        rows = said["rows"]
        if not all(
            isinstance(one, dict) and all(isinstance(n, int) and n >= 0 for n in one.values()) for one in rows
        ):
            raise TypeError("rows")
        contents = contents_from_json(said["contents"], side)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OSError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(
            f"it is damaged ({type(error).__name__}: {error})",
            "remove it: the episodes say the same of themselves",
            file=side,
        ) from error
    return contents, [dict(one) for one in rows]


def inside(root: Path, file: Path) -> Path:
    """A file of a set.

    Raises:
        DataError: it is a link that leads out of the set.
    """
    if not file.resolve().is_relative_to(root.resolve()):
        raise DataError("it is a link that leads out of the set", "copy the file into the set", file=file)
    return file


def natural(path: Path) -> list[Any]:
    """A key that sorts ``bag_2`` before ``bag_10``."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", path.name)]
