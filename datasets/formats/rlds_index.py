"""Where the records of an RLDS set lie: its folder, its shards in order, and each record's place in them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..ledger import DataError, Problem
from . import tfrecord
from .rlds_features import file_list, parse_example

_VERSION = re.compile(r"\d+\.\d+\.\d+")
_MAX_SIDE = 1 << 26


class Records:
    """The records of a set by episode; their headers are read once, their contents when asked for.

    The last record is kept, since its streams are asked for one after the other.
    """

    def __init__(
        self,
        root: Path,
        info: Mapping[str, Any] | None,
        side: Mapping[str, Any] | None,
        problems: list[Problem],
    ) -> None:
        self._root, self._problems = root, problems
        self._last: tuple[int, Mapping[str, Any]] | None = None
        self._find_records(info)
        if side is not None:
            self._reorder(side)

    def __len__(self) -> int:
        return len(self._lengths)

    def split(self, episode: int) -> str:
        return self._shards[int(self._which[episode])].split

    def forget(self) -> None:
        self._last = None

    def _find_records(self, info: Mapping[str, Any] | None) -> None:
        shards, found = [], sorted(self._root.iterdir())
        for file in found:
            shard = tfrecord.shard_of(file)
            if shard is not None:
                check_inside(file, self._root)
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
                self._problems.append(
                    Problem(
                        f"{len(which) - before} records, dataset_info.json says {counts[shard.index]}",
                        "the records that are there are read; fetch the file again if some are missing",
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
                self._problems.append(
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

    def place(self, episode: int) -> tfrecord.Record:
        file = self._shards[int(self._which[episode])].file
        offset, length = int(self._offsets[episode]), int(self._lengths[episode])
        return tfrecord.Record(file, offset, length, int(self._numbers[episode]))

    def features(self, episode: int) -> Mapping[str, Any]:
        if self._last is not None and self._last[0] == episode:
            return self._last[1]
        record = self.place(episode)
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

    def bad(self, episode: int, key: str, error: ValueError) -> DataError:
        record = self.place(episode)
        return DataError(
            f"record {record.number}: {error}",
            "the record and features.json do not belong together, or one is damaged: fetch both again",
            file=record.file,
            episode=episode,
            key=key,
        )

    def files(self, features: Mapping[str, Any], path: str, episode: int) -> list[bytes]:
        try:
            return file_list(features, path)
        except ValueError as error:
            raise self.bad(episode, path, error) from error


def find_root(path: Path, problems: list[Problem]) -> Path:
    """The folder with features.json: `path`, or its newest version.

    Raises:
        DataError: there is none.
    """
    if (path / "features.json").is_file():
        return path
    found = versions(path)
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


def versions(path: Path) -> list[Path]:
    try:
        found = [
            child
            for child in path.iterdir()
            if _VERSION.fullmatch(child.name) and (child / "features.json").is_file()
        ]
    except OSError:
        return []
    return sorted(found, key=lambda child: [int(part) for part in child.name.split(".")])


def check_inside(file: Path, root: Path) -> None:
    if file.is_symlink() and not file.resolve().is_relative_to(root.resolve()):
        raise DataError(
            "a link that leads out of the set",
            "copy the set with its links followed (cp -rL) and read the copy",
            file=file,
        )


def read_json(file: Path, root: Path) -> dict[str, Any] | None:
    """A JSON object; None if the file is not there.

    Raises:
        DataError: it holds something else.
    """
    if not file.exists():
        return None
    check_inside(file, root)
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
