"""RLDS: one TFRecord record for an episode, as tensorflow-datasets lays it out (Open X-Embodiment and others).

RLDS has no clock: times are nominal, and as no rate is stored either, the time of a row is its number (one step a
second) until a mapping says the rate. What we write has a side file `regrip.json` and a text
`episode_metadata/regrip` in each record, from which times, rates, outcomes and conventions come back.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..frames import ArrayFrames, EncodedFrames, codec_of, decode_image
from ..ledger import DataError, Problem
from ..recording import Contents, Conventions, Frames, Recording, StreamSpec, Track
from . import Format, tfrecord
from .rlds_features import Leaf, file_list, load_features, numbers, parse_example, ragged, text_of
from .rlds_write import create, plan, prepare
from .sidecar import EpisodeSaid, checked_times, contents_from_json, episode_from_json, nominal_times

SIDE = "regrip.json"
_EPISODE = "episode_metadata/regrip"
_VERSION = re.compile(r"\d+\.\d+\.\d+")
_MAX_SIDE = 1 << 26
_MAX_META = 4096  # entries of an array beside the steps that is kept in `about`
_TASKS = (
    "steps/language_instruction",
    "steps/observation/natural_language_instruction",
    "steps/observation/language_instruction",
    "steps/natural_language_instruction",
    "episode_metadata/language_instruction",
    "episode_metadata/natural_language_instruction",
    "language_instruction",
)


@dataclass(frozen=True)
class FloatImages:
    """Depth in metres or whatever the set says, float32 (H,W), held in the four bytes of RGBA PNGs."""

    files: Sequence[bytes]
    shape: tuple[int, ...]
    where: str = ""

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> NDArray[Any]:
        return decode_float(self.files[index], self.shape, self.where, index)

    def __iter__(self) -> Iterator[NDArray[Any]]:
        return (self[index] for index in range(len(self)))

    def encoded(self, index: int) -> bytes | None:
        return None


def decode_float(data: bytes, shape: tuple[int, ...], where: str, frame: int) -> NDArray[Any]:
    """One float image (H,W) from an RGBA PNG of the same bits."""
    import io

    from PIL import Image

    try:
        with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
            if image.mode != "RGBA" or (image.height, image.width) != shape:
                raise ValueError(f"a {image.mode} image of {image.height} x {image.width}")
            return np.ascontiguousarray(np.asarray(image)).view("<f4")[..., 0]
    except (ValueError, OSError, SyntaxError, MemoryError, Image.DecompressionBombError) as error:
        raise DataError(
            f"a float image of {len(data)} bytes cannot be decoded ({error}), expected {shape}",
            "the file is damaged: take it from its source again, or drop the episode",
            file=where,
            frame=frame,
        ) from error


@dataclass(frozen=True)
class _Column:
    leaf: Leaf
    spec: StreamSpec


class RldsSource:
    """An RLDS set, read without TensorFlow. Records are checked when they are read."""

    format = "rlds"

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        self.problems: list[Problem] = []
        self._root = find_root(path, self.problems)
        _check_inside(self._root / "features.json", self._root)
        self._leaves = load_features(self._root / "features.json")
        info = _read_json(self._root / "dataset_info.json", self._root)
        side = _read_json(self._root / SIDE, self._root)
        self._find_records(info)
        if side is not None:
            self._reorder(side)
        self._last: tuple[int, Mapping[str, Any]] | None = None
        self._side = side is not None and any(leaf.path == _EPISODE for leaf in self._leaves)
        if self._side and side is not None:
            self.contents, self._columns = self._ours(side)
        else:
            self.contents, self._columns = self._theirs(info or {})

    def __len__(self) -> int:
        return len(self._lengths)

    def __getitem__(self, episode: int) -> Recording:
        if not 0 <= episode < len(self):
            raise IndexError(f"{self.path} has {len(self)} episodes, {episode} is none of them")
        features = self._features(episode)
        rows = {column.spec.key: self._rows(features, column, episode) for column in self._columns}
        steps = self._steps(rows, episode)
        if self._side:
            text = b"".join(self._files(features, _EPISODE, episode)[:1])
            said = episode_from_json(text, self._record(episode).file, episode)
            return self._build(rows, steps, episode, said)
        return self._build_theirs(features, rows, steps, episode)

    def num_rows(self, episode: int) -> Mapping[str, int]:
        return {key: len(track) for key, track in self[episode].streams.items()}

    def close(self) -> None:
        self._last = None

    def _find_records(self, info: Mapping[str, Any] | None) -> None:
        shards, found = [], sorted(self._root.iterdir())
        for file in found:
            shard = tfrecord.shard_of(file)
            if shard is not None:
                _check_inside(file, self._root)
                shards.append(shard)
        if not shards:
            raise DataError(
                "features.json is here, but no shard (NAME-SPLIT.tfrecord-00000-of-00001)",
                "fetch the records too; array_record and riegeli sets are not read",
                file=self._root,
            )
        declared = _declared(info)
        order = {split: number for number, split in enumerate(declared)}
        order.setdefault("train", -1)
        shards.sort(key=lambda s: (order.get(s.split, len(order)), s.split, s.name, s.index))
        self._missing(shards)
        self._shards = shards
        which: list[int] = []
        offsets: list[int] = []
        lengths: list[int] = []
        numbers_in: list[int] = []
        for number, shard in enumerate(shards):
            before = len(which)
            for record in tfrecord.scan(shard.file):
                which.append(number)
                offsets.append(record.offset)
                lengths.append(record.length)
                numbers_in.append(record.number)
            counts = declared.get(shard.split)
            if counts and shard.index < len(counts) and counts[shard.index] != len(which) - before:
                self.problems.append(
                    Problem(
                        f"{len(which) - before} records, dataset_info.json says {counts[shard.index]}",
                        "the records that are there are read; fetch the file again if some should not be missing",
                        file=shard.file.name,
                    )
                )
        self._which = np.array(which, np.int32)
        self._offsets = np.array(offsets, np.int64)
        self._lengths = np.array(lengths, np.int64)
        self._numbers = np.array(numbers_in, np.int64)

    def _missing(self, shards: Sequence[tfrecord.Shard]) -> None:
        splits: dict[tuple[str, str, int], set[int]] = {}
        for shard in shards:
            splits.setdefault((shard.name, shard.split, shard.count), set()).add(shard.index)
        for (name, split, count), have in splits.items():
            if len(have) < count:
                lacking = next(index for index in range(count) if index not in have)
                self.problems.append(
                    Problem(
                        f"{count - len(have)} of {count} shards of the split {split} are missing",
                        "the episodes of the others are read; fetch the missing files to have all",
                        file=tfrecord.shard_name(name, split, lacking, count),
                    )
                )

    def _reorder(self, side: Mapping[str, Any]) -> None:
        """Episodes in the order they were written in, where their splits took turns."""
        of_split: dict[str, list[int]] = {}
        for episode, shard in enumerate(self._which.tolist()):
            of_split.setdefault(self._shards[shard].split, []).append(episode)
        try:
            order: list[int] = []
            for split, count in side.get("order", []):
                taken, of_split[split] = of_split[split][:count], of_split[split][count:]
                if len(taken) != count or count < 0:
                    return
                order += taken
        except (KeyError, TypeError, ValueError, AttributeError):
            return
        if len(order) == len(self._which):
            at = np.array(order, np.int64)
            self._which, self._offsets = self._which[at], self._offsets[at]
            self._lengths, self._numbers = self._lengths[at], self._numbers[at]

    def _record(self, episode: int) -> tfrecord.Record:
        file = self._shards[int(self._which[episode])].file
        offset, length = int(self._offsets[episode]), int(self._lengths[episode])
        return tfrecord.Record(file, offset, length, int(self._numbers[episode]))

    def _features(self, episode: int) -> Mapping[str, Any]:
        if self._last is not None and self._last[0] == episode:
            return self._last[1]
        record = self._record(episode)
        try:
            features = parse_example(tfrecord.read(record, episode))
        except ValueError as error:
            if isinstance(error, DataError):
                raise
            raise DataError(
                f"record {record.number}: {error}", "fetch the file again", file=record.file, episode=episode
            ) from error
        self._last = (episode, features)
        return features

    def _bad(self, episode: int, key: str, error: ValueError) -> DataError:
        record = self._record(episode)
        return DataError(
            f"record {record.number}: {error}",
            "the record and features.json do not belong together, or one is damaged: fetch both again",
            file=record.file,
            episode=episode,
            key=key,
        )

    def _rows(self, features: Mapping[str, Any], column: _Column, episode: int) -> Any:
        leaf, spec = column.leaf, column.spec
        where = str(self._record(episode).file)
        try:
            if spec.kind in ("image", "depth") and leaf.kind == "number":
                rows = numbers(features, leaf)
                return ArrayFrames(rows[..., 0] if rows.ndim == 4 and spec.kind == "depth" else rows)
            if spec.kind in ("image", "depth"):
                files = file_list(features, leaf.path)
                if spec.kind == "depth" and spec.dtype == "float32":
                    return FloatImages(files, spec.shape, where)
                return EncodedFrames(files, spec.shape, where)
            if leaf.kind == "number":
                return numbers(features, leaf)
            if leaf.kind == "text":
                return [text_of(item) for item in file_list(features, leaf.path)]
            return None  # ragged rows need the number of steps
        except ValueError as error:
            if isinstance(error, DataError):
                raise
            raise self._bad(episode, leaf.path, error) from error

    def _steps(self, rows: dict[str, Any], episode: int) -> int:
        steps = next((len(r) for r in rows.values() if r is not None), 0)
        features = self._features(episode)
        for column in self._columns:
            key = column.spec.key
            try:
                if rows[key] is None:
                    rows[key] = ragged(features, column.leaf, steps)
                if len(rows[key]) != steps:
                    raise ValueError(f"{len(rows[key])} rows, where the first feature has {steps}")
            except ValueError as error:
                raise self._bad(episode, column.leaf.path, error) from error
        return steps

    def _files(self, features: Mapping[str, Any], path: str, episode: int) -> list[bytes]:
        try:
            return file_list(features, path)
        except ValueError as error:
            raise self._bad(episode, path, error) from error

    def _build(self, rows: Mapping[str, Any], steps: int, episode: int, said: EpisodeSaid) -> Recording:
        time = nominal_times(steps, self.contents.rate_hz)
        file = self._record(episode).file
        if said.more.get("time") is not None:
            time = checked_times(said.more["time"], steps, file=file, episode=episode)
        lacks = said.more.get("lacks", [])
        keys = set(lacks) if isinstance(lacks, list) and all(isinstance(k, str) for k in lacks) else set()
        streams = {
            key: track
            for key, values in rows.items()
            if key not in keys and (track := _track(values, time)) is not None
        }
        fields: dict[str, Any] = dict(said.fields)
        return Recording(streams, **fields)

    def _build_theirs(
        self, features: Mapping[str, Any], rows: dict[str, Any], steps: int, episode: int
    ) -> Recording:
        time = nominal_times(steps, None)
        about: dict[str, Any] = {"split": self._shards[int(self._which[episode])].split}
        said = self._beside(features, episode)
        about.update({key: value for key, value in said.items() if value})
        task = ""
        if self._task is not None:
            words = [text_of(item) for item in self._files(features, self._task.path, episode)]
            task = words[0] if words else ""
            changes = [[i, w] for i, w in enumerate(words) if i and w != words[i - 1]]
            if changes and "task" not in self.contents.streams:
                about["task_changes"] = changes
        streams = {
            key: track
            for key, values in rows.items()
            if not (key == "task" and len(set(values)) == 1)
            if (track := _track(values, time)) is not None
        }
        last = {
            name: bool(rows[name][-1])
            for name in ("is_terminal", "is_last")
            if name in rows and len(rows[name])
        }
        terminated = last.get("is_terminal")
        truncated = last["is_last"] and not terminated if {"is_last", "is_terminal"} <= set(last) else None
        success = said.get("episode_metadata", {}).get("success")
        if not isinstance(success, (bool, int)) or success not in (0, 1):
            success = None
        return Recording(
            streams,
            task=task,
            success=None if success is None else bool(success),
            terminated=terminated,
            truncated=truncated,
            about=about,
        )

    def _beside(self, features: Mapping[str, Any], episode: int) -> dict[str, dict[str, Any]]:
        """What the record says outside its steps."""
        found: dict[str, dict[str, Any]] = {"episode_metadata": {}, "rlds": {}}
        for leaf in self._leaves:
            if leaf.in_steps or leaf.path not in features:
                continue
            group, name = "rlds", leaf.path
            if leaf.path.startswith("episode_metadata/"):
                group, name = "episode_metadata", leaf.path.removeprefix("episode_metadata/")
            try:
                if leaf.kind == "number":
                    values = numbers(features, leaf)
                    if values.size > _MAX_META:
                        continue
                    found[group][name] = values[0].tolist() if len(values) == 1 else values.tolist()
                elif leaf.kind == "text":
                    items = file_list(features, leaf.path)
                    if sum(map(len, items)) <= 1 << 20:
                        words = [text_of(item) for item in items]
                        found[group][name] = words[0] if len(words) == 1 else words
            except ValueError as error:
                raise self._bad(episode, leaf.path, error) from error
        return found

    def _ours(self, side: Mapping[str, Any]) -> tuple[Contents, list[_Column]]:
        """Contents by the side file, held against what the features declare."""
        file = self._root / SIDE
        contents = contents_from_json(side.get("contents"), file)
        paths = side.get("paths")
        leaves = {leaf.path: leaf for leaf in self._leaves}
        columns = []
        for key, spec in contents.streams.items():
            leaf = leaves.get(str(paths.get(key))) if isinstance(paths, dict) else None
            if leaf is None or not _fits(leaf, spec):
                raise DataError(
                    f"it says {spec.dtype} {spec.shape} of this stream, features.json declares "
                    f"{f'{leaf.dtype} {leaf.shape}' if leaf else 'nothing'}",
                    "remove it to read the set as any other program would, or write the set again",
                    file=file,
                    key=key,
                )
            columns.append(_Column(leaf, spec))
        return contents, columns

    def _theirs(self, info: Mapping[str, Any]) -> tuple[Contents, list[_Column]]:
        """Contents by the features and by the first records, where those leave something open."""
        self._task = next((leaf for path in _TASKS for leaf in self._leaves if leaf.path == path), None)
        if self._task is not None and self._task.kind != "text":
            self._task = None
        columns: dict[str, _Column] = {}
        for leaf in self._leaves:
            if not leaf.in_steps or (leaf == self._task):
                continue
            column = self._column(leaf)
            if column is None:
                continue
            key = column.spec.key
            while key in columns:
                key += "_2"
            columns[key] = _Column(leaf, dataclasses.replace(column.spec, key=key))
        if self._task is not None and self._task.in_steps and self._changes(self._task):
            columns["task"] = _Column(
                self._task, StreamSpec("task", "text", "str", (), about={"rlds": self._task.path})
            )
        self._oddities(columns)
        about = {"rlds": {k: info[k] for k in ("name", "version", "description", "citation") if info.get(k)}}
        contents = Contents(
            {key: column.spec for key, column in columns.items()},
            conventions=Conventions(observed="before"),
            about=about if about["rlds"] else {},
        )
        return contents, list(columns.values())

    def _column(self, leaf: Leaf) -> _Column | None:
        path = leaf.path.removeprefix("steps/")
        about: dict[str, Any] = {"rlds": leaf.path, "time": "nominal"}
        kind, shape, dtype = leaf.kind, leaf.shape, leaf.dtype
        if kind == "ragged":
            if leaf.format or leaf.dtype in ("uint8",) and len(leaf.shape) >= 3 and leaf.encoding == "none":
                self._leave_out(leaf, "images in a sequence inside a step")
                return None
            about["ragged"] = leaf.dtype
            return _Column(leaf, StreamSpec(_key(path, "text"), "text", "str", (), about=about))
        if kind == "text":
            sample = self._sample(leaf)
            if not codec_of(sample):
                return _Column(leaf, StreamSpec(_key(path, "text"), "text", "str", (), about=about))
            kind, shape, dtype = "image", (None, None, 3), "uint8"
        if kind == "number":
            fixed = tuple(extent or 0 for extent in shape)
            if dtype == "float64" and leaf.encoding == "none":
                self.problems.append(
                    Problem(
                        "declared float64, but TFRecord holds 32 bits of each number",
                        "the numbers are given as float64, as declared; their precision is that of float32",
                        repaired=True,
                        file="features.json",
                        key=leaf.path,
                    )
                )
            if len(fixed) == 3 and fixed[2] == 3 and dtype == "uint8" and min(fixed) > 2:
                return _Column(leaf, StreamSpec(_key(path, "image"), "image", dtype, fixed, about=about))
            return _Column(leaf, StreamSpec(_key(path, "vector"), "vector", dtype, fixed, about=about))
        return self._image_column(leaf, path, shape, dtype, about)

    def _image_column(
        self, leaf: Leaf, path: str, shape: Sequence[int | None], dtype: str, about: dict[str, Any]
    ) -> _Column | None:
        channels = shape[-1]
        sample = self._sample(leaf) if None in shape or dtype == "uint8" else b""
        if sample:
            about["codec"] = codec_of(sample)
        height, width = shape[:2]
        if height is None or width is None:
            if not sample:
                self._leave_out(leaf, "images of no declared size, none of which is there")
                return None
            height, width = decode_image(sample, where=leaf.path).shape[:2]
        if dtype == "uint8":
            if channels != 3:
                about["channels"] = channels
            if channels == 4:
                self.problems.append(
                    Problem(
                        "images with 4 channels",
                        "the files are copied as they are; where pixels are asked for, the fourth channel is left out",
                        file="features.json",
                        key=leaf.path,
                    )
                )
            spec = StreamSpec(_key(path, "image"), "image", dtype, (height, width, 3), about=about)
        elif channels == 1:
            spec = StreamSpec(_key(path, "depth"), "depth", dtype, (height, width), about=about)
        else:
            self._leave_out(leaf, f"{dtype} images with {channels} channels")
            return None
        return _Column(leaf, spec)

    def _sample(self, leaf: Leaf) -> bytes:
        """The first image, or text, of a feature that is not empty."""
        for episode in range(len(self)):
            files = self._files(self._features(episode), leaf.path, episode)
            found = next((item for item in files if item), b"")
            if found:
                return found
        return b""

    def _changes(self, leaf: Leaf) -> bool:
        return len(self) > 0 and len(set(self._files(self._features(0), leaf.path, 0))) > 1

    def _leave_out(self, leaf: Leaf, what: str) -> None:
        self.problems.append(Problem(what, "the feature is left out", file="features.json", key=leaf.path))

    def _oddities(self, columns: Mapping[str, _Column]) -> None:
        """What users of RLDS sets stumble over, looked for in the first episode."""
        if not len(self):
            return
        first = {
            key: self._rows(self._features(0), columns[key], 0)
            for key in ("action", "is_last", "is_terminal")
            if key in columns and columns[key].leaf.kind == "number"
        }
        action, last = first.get("action"), first.get("is_last")
        if action is not None and len(action) > 1 and not action[-1].any() and action[:-1].any():
            self.problems.append(
                Problem(
                    "the last action is all zero, as where it was never executed",
                    "it is kept; trim the last row in the mapping if it is no action",
                    episode=0,
                    frame=len(action) - 1,
                    key="action",
                )
            )
        if last is not None and len(last) and (last[:-1].any() or not last[-1]):
            self.problems.append(
                Problem(
                    "is_last is not true at the last step alone",
                    "a record is read as one episode whatever is_last says",
                    episode=0,
                    key="is_last",
                )
            )


def _track(values: Any, time: NDArray[np.float64]) -> Track | None:
    """Rows with their times; image files that are empty, as of a missing camera, left out."""
    if isinstance(values, (EncodedFrames, FloatImages)):
        there = [i for i, item in enumerate(values.files) if item]
        if not there and len(time):
            return None
        if len(there) < len(time):
            files = [values.files[i] for i in there]
            frames: Frames = dataclasses.replace(values, files=files)
            return Track(frames, time[there])
    return Track(values, time)


def _key(path: str, kind: str) -> str:
    """Our name of a feature of a step."""
    parts = path.split("/")
    if parts[0] == "observation" and kind in ("image", "depth") and len(parts) > 1:
        group = "images" if kind == "image" else "depth"
        return f"observation.{group}.{'_'.join(parts[1:])}"
    return ".".join(parts)


def _fits(leaf: Leaf, spec: StreamSpec) -> bool:
    if spec.kind == "vector":
        return leaf.kind == "number" and leaf.shape == spec.shape and leaf.dtype == spec.dtype
    if spec.kind == "text":
        return leaf.kind in ("text", "ragged") and spec.shape == ()
    if spec.kind == "image":
        return leaf.kind == "image" and leaf.dtype == "uint8" and len(spec.shape) == 3 and spec.shape[2] == 3
    return leaf.kind == "image" and leaf.dtype == spec.dtype and len(spec.shape) == 2


def find_root(path: Path, problems: list[Problem]) -> Path:
    """The folder with features.json: `path`, or its newest version.

    Raises:
        DataError: there is none.
    """
    if (path / "features.json").is_file():
        return path
    found = _versions(path)
    if not found:
        raise DataError(
            "no features.json in it or in a folder called like a version",
            "give the folder that holds features.json and the .tfrecord files",
            file=path,
        )
    if len(found) > 1:
        problems.append(
            Problem(
                f"versions {', '.join(version.name for version in found)}",
                f"the newest, {found[-1].name}, is read; give another one's folder to read that",
            )
        )
    return found[-1]


def _versions(path: Path) -> list[Path]:
    try:
        found = [
            child
            for child in path.iterdir()
            if _VERSION.fullmatch(child.name) and (child / "features.json").is_file()
        ]
    except OSError:
        return []
    return sorted(found, key=lambda child: [int(part) for part in child.name.split(".")])


def _check_inside(file: Path, root: Path) -> None:
    if file.is_symlink() and not file.resolve().is_relative_to(root.resolve()):
        raise DataError(
            "a link that leads out of the set",
            "copy the set with its links followed (cp -rL) and read the copy",
            file=file,
        )


def _read_json(file: Path, root: Path) -> dict[str, Any] | None:
    """A JSON object; None if the file is not there.

    Raises:
        DataError: it holds something else.
    """
    if not file.exists():
        return None
    _check_inside(file, root)
    try:
        if file.stat().st_size > _MAX_SIDE:
            raise ValueError("more than 64 MB")
        said = json.loads(file.read_bytes())
        if not isinstance(said, dict):
            raise ValueError(f"a {type(said).__name__}, expected an object")
    except (ValueError, RecursionError, OSError) as error:
        raise DataError(
            f"no JSON object can be read from it ({error})",
            "fetch it again, or remove it: the records can be read without it",
            file=file,
        ) from error
    return said


def _declared(info: Mapping[str, Any] | None) -> dict[str, list[int]]:
    """Records of each shard of each split, as dataset_info.json says; nothing where it is odd."""
    declared: dict[str, list[int]] = {}
    splits = (info or {}).get("splits")
    for split in splits if isinstance(splits, list) else []:
        try:
            lengths = split.get("shardLengths", [])
            declared[str(split["name"])] = [int(length) for length in lengths]
        except (TypeError, ValueError, KeyError, AttributeError):
            continue
    return declared


def detect(path: Path) -> bool:
    """Whether it is a folder with features.json, or with versions that have one."""
    try:
        return path.is_dir() and ((path / "features.json").is_file() or bool(_versions(path)))
    except OSError:
        return False


def open_rlds(path: Path) -> RldsSource:
    """Open an RLDS set.

    Raises:
        DataError: naming the file and, where known, the record.
    """
    try:
        return RldsSource(path)
    except OSError as error:
        raise DataError(
            f"cannot be read ({error.strerror or error})", "check the path and its rights", file=path
        ) from error


FORMAT = Format(
    name="rlds",
    about="RLDS / TFRecord of tensorflow-datasets (Open X-Embodiment)",
    detect=detect,
    open=open_rlds,
    plan=plan,
    create=create,
    prepare=prepare,
)
