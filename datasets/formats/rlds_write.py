"""Writing RLDS: `features.json`, `dataset_info.json` and TFRecord shards that `tfds.builder_from_directory` takes."""

from __future__ import annotations

import io
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from ..frames import EncodedFrames, codec_of, decode_image, encode_jpeg, encode_png, psnr
from ..ledger import DataError, Ledger, Loss
from ..recording import Contents, Frames, Recording, StreamSpec, Track
from . import WriteOptions, partial, tfrecord
from .rlds_features import bytes_feature, example_bytes, float_feature, int_feature
from .sidecar import contents_to_json, episode_to_json, nominal_times

SHARD_BYTES = 256 << 20
_JOURNAL = "journal.jsonl"
_TASK = "steps/language_instruction"
_MADE = ("steps/is_first", "steps/is_last", "steps/is_terminal", "steps/discount", _TASK)
_SPLIT = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,30}")
_AXES = {
    "bool",
    "int8",
    "int16",
    "int32",
    "int64",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
    "float16",
    "float32",
}


class Prepared(EncodedFrames):
    """Image files that are as they will be written: they are copied whatever the options say."""


def paths_of(contents: Contents) -> dict[str, str]:
    """Where each stream lies in a record: where it lay in the RLDS set it came from, else by its name."""
    taken = {"episode_metadata/regrip": "", **{path: "" for path in _MADE}}
    for key, spec in contents.streams.items():
        wanted = _wanted(key, spec)
        own = wanted in _MADE and spec.kind == ("text" if wanted == _TASK else "vector")
        if own and taken.get(wanted) == "":
            taken[wanted] = key
            continue
        while any(p == wanted or p.startswith(wanted + "/") or wanted.startswith(p + "/") for p in taken):
            head, _, tail = wanted.rpartition("/")
            wanted = f"{head}_{tail}" if head.count("/") else f"{wanted}_"
        taken[wanted] = key
    return {key: path for path, key in taken.items() if key}


def _wanted(key: str, spec: StreamSpec) -> str:
    before = spec.about.get("rlds")
    if isinstance(before, str) and re.fullmatch(r"steps(/[^/]+)+", before):
        return before
    if key == "task" and spec.kind == "text":
        return _TASK
    parts = [part.replace("/", "_") for part in key.split(".") if part] or ["unnamed"]
    if parts[0] == "observation" and len(parts) > 2 and parts[1] in ("images", "depth"):
        camera = "_".join(parts[2:])
        return f"steps/observation/{camera if spec.kind == 'image' else f'{camera}_depth'}"
    return "/".join(["steps", *parts])


def plan(contents: Contents, options: WriteOptions) -> list[Loss]:
    """What would be lost: images in a codec that RLDS readers do not take are encoded anew."""
    losses = []
    for key, spec in contents.of_kind("image").items():
        codec = spec.about.get("codec", "")
        if options.images == "jpeg" or (options.images == "copy" and codec not in ("jpeg", "png")):
            losses.append(Loss(key, "re-encoded", f"{codec or 'pixels'} to jpeg, quality {options.quality}"))
    return losses


def create(path: Path, contents: Contents, options: WriteOptions, ledger: Ledger) -> RldsSink:
    """Begin an RLDS set, or go on with an unfinished one.

    Raises:
        DataError: the path exists, or the contents cannot be held.
    """
    return RldsSink(path, contents, options, ledger)


def prepare(
    recording: Recording, contents: Contents, options: WriteOptions, folder: Path, ledger: Ledger
) -> Recording:
    """The recording with its images as the files that will be written."""
    del folder  # the files stay in memory: one episode's are small
    streams = dict(recording.streams)
    for key, track in recording.streams.items():
        spec = contents.streams.get(key)
        if spec is not None and spec.kind in ("image", "depth"):
            frames: Any = track.rows
            streams[key] = Track(encode_frames(frames, spec, options, ledger), track.time)
    return replace(recording, streams=streams)


def encode_frames(frames: Frames, spec: StreamSpec, options: WriteOptions, ledger: Ledger) -> Prepared:
    """Image files of a stream, copied where they can be."""
    if isinstance(frames, Prepared):
        return frames
    files = []
    anew: dict[str, int] = {}
    worst = float("inf")
    tried = {0, len(frames) // 2, len(frames) - 1}
    for index in range(len(frames)):
        data = None if options.images in ("jpeg", "png") and spec.kind == "image" else frames.encoded(index)
        codec = codec_of(data) if data else ""
        if codec == "png" or (codec == "jpeg" and spec.kind == "image"):
            files.append(data or b"")
            continue
        pixels = frames[index]
        if pixels.shape != spec.shape or pixels.dtype != np.dtype(spec.dtype):
            raise DataError(
                f"an image of {pixels.dtype} {pixels.shape}, expected {spec.dtype} {spec.shape}",
                "resize in the mapping, or drop the episode",
                frame=index,
                key=spec.key,
            )
        if spec.kind == "depth":
            files.append(_depth_file(pixels))
            continue
        before = codec_of(frames.encoded(index) or b"") or "pixels"
        if options.images == "png":
            files.append(encode_png(pixels))
            continue
        files.append(encode_jpeg(pixels, options.quality))
        anew[before] = anew.get(before, 0) + 1
        if index in tried:
            worst = min(worst, psnr(decode_image(files[-1]), pixels))
    for before, count in anew.items():
        measure = {"psnr_db": worst} if worst != float("inf") else {}
        detail = f"{before} to jpeg, quality {options.quality}"
        ledger.add(Loss(spec.key, "re-encoded", detail, rows=count, measure=measure))
    return Prepared(files, spec.shape, spec.key)


def _depth_file(pixels: NDArray[Any]) -> bytes:
    """uint16 as a PNG, float32 as TFDS does: the four bytes of each number as an RGBA PNG."""
    if pixels.dtype == np.uint16:
        return encode_png(pixels)
    from PIL import Image

    buffer = io.BytesIO()
    four = np.ascontiguousarray(pixels, "<f4").view(np.uint8).reshape((*pixels.shape, 4))
    Image.fromarray(four, "RGBA").save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


@dataclass
class _Split:
    """One split being written: records of each shard, and where the last one ends."""

    counts: list[int]
    end: int = 0


class RldsSink:
    """An RLDS set being written, shard by shard; a journal tells which records are whole.

    Attributes:
        done: episodes whose record and journal line are on the disk.
    """

    def __init__(self, path: Path, contents: Contents, options: WriteOptions, ledger: Ledger) -> None:
        if options.images == "video":
            raise DataError(
                "RLDS holds single images, no video", "choose images copy, jpeg or png", file=path
            )
        _check(contents, path)
        self._path, self._contents, self._options, self._ledger = path, contents, options, ledger
        self._paths = paths_of(contents)
        self._made = [p for p in _MADE if p not in self._paths.values()]
        said = {"format": "rlds", "contents": contents_to_json(contents), "paths": self._paths}
        self._folder = partial.begin(path, said)
        self._splits: dict[str, _Split] = {}
        self._order: list[list[Any]] = []
        self._open: dict[str, BinaryIO] = {}
        self.done = 0
        try:
            self._resume()
            self._journal = open(self._folder / _JOURNAL, "ab")  # noqa: SIM115
        except OSError as error:
            raise partial.cannot("be written", self._folder, error) from error

    def write(self, recording: Recording) -> None:
        """Add an episode as one record.

        Raises:
            DataError: its streams are not aligned, it has a stream that the set does not declare, or the disk is full.
        """
        try:
            payload = example_bytes(self._features(recording))
        except DataError as error:
            if error.episode is not None:
                raise
            raise DataError(
                error.what, error.remedy, file=self._path, episode=self.done, frame=error.frame, key=error.key
            ) from error
        split = _split_of(recording)
        try:
            at = self._splits.setdefault(split, _Split([0]))
            if at.end and at.end + len(payload) > SHARD_BYTES:
                partial.sync(self._part(split, len(at.counts) - 1))
                at.counts.append(0)
                if split in self._open:
                    self._open.pop(split).close()
                at.end = 0
            if split not in self._open:
                self._open[split] = open(self._part(split, len(at.counts) - 1), "ab")  # noqa: SIM115
            at.end += self._open[split].write(tfrecord.frame(payload))
            self._open[split].flush()
            at.counts[-1] += 1
            line = json.dumps({"split": split, "shard": len(at.counts) - 1, "end": at.end}) + "\n"
            self._journal.write(line.encode())
            self._journal.flush()
        except OSError as error:
            raise partial.cannot("be written", self._folder, error) from error
        self._count(split)

    def close(self) -> None:
        """Give the shards their names, write what describes them, and move the set to its place."""
        try:
            self._let_go()
            name, version = _name(self._path)
            splits = []
            if not self._splits:
                self._splits["train"] = _Split([0])
                self._part("train", 0).touch()
            for split, at in sorted(self._splits.items(), key=lambda item: (item[0] != "train", item[0])):
                size = 0
                for index in range(len(at.counts)):
                    part = self._part(split, index)
                    partial.sync(part)
                    size += part.stat().st_size
                    final = tfrecord.shard_name(name, split, index, len(at.counts))
                    os.replace(part, self._folder / final)
                splits.append(
                    {
                        "name": split,
                        "shardLengths": [str(count) for count in at.counts],
                        "numBytes": str(size),
                        "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
                    }
                )
            info = {"name": name, "version": version, "fileFormat": "tfrecord", "splits": splits}
            said = self._contents.about.get("rlds")
            for key in ("description", "citation"):
                if isinstance(said, Mapping) and isinstance(said.get(key), str):
                    info[key] = said[key]
            side = {
                "contents": contents_to_json(self._contents),
                "paths": self._paths,
                "made": self._made,
                "order": self._order,
                "ledger": self._ledger.to_json(),
            }
            self._declare().save_config(str(self._folder))
            partial.write_whole(self._folder / "dataset_info.json", json.dumps(info, indent=2).encode())
            partial.write_whole(self._folder / "regrip.json", json.dumps(side).encode())
            (self._folder / _JOURNAL).unlink()
            (self._folder / partial.PLAN).unlink()
            partial.finish(self._folder, self._path)
        except OSError as error:
            raise partial.cannot("be finished", self._folder, error) from error

    def abandon(self) -> None:
        self._let_go()

    def _let_go(self) -> None:
        for handle in self._open.values():
            handle.close()
        self._open.clear()
        self._journal.close()

    def _part(self, split: str, index: int) -> Path:
        return self._folder / f"{split}-{index:05d}.part"

    def _count(self, split: str) -> None:
        self.done += 1
        if self._order and self._order[-1][0] == split:
            self._order[-1][1] += 1
        else:
            self._order.append([split, 1])

    def _resume(self) -> None:
        """Go on after the last record that is whole and in the journal; what came after it is cut off."""
        journal = self._folder / _JOURNAL
        lines = self._journalled(journal)
        last = {split: shard for split, shard, _, _ in lines}
        for split, shard in last.items():
            for index in range(shard + 1):
                renamed = list(self._folder.glob(f"*-{split}.tfrecord-{index:05d}-of-*"))
                if not self._part(split, index).exists() and renamed:
                    os.replace(renamed[0], self._part(split, index))
        ends = {
            split: tfrecord.whole_until(
                self._part(split, shard), max(end for s, n, end, _ in lines if (s, n) == (split, shard))
            )
            for split, shard in last.items()
        }
        whole = 0
        for split, shard, end, size in lines:
            if shard == last[split] and end > ends[split]:
                break
            at = self._splits.setdefault(split, _Split([0]))
            if shard == len(at.counts):
                at.counts.append(0)
            at.counts[shard] += 1
            at.end = end
            self._count(split)
            whole += size
        if journal.exists():
            os.truncate(journal, whole)
        for part in self._folder.glob("*.part"):
            split, _, number = part.stem.rpartition("-")
            kept = len(self._splits[split].counts) - 1 if split in self._splits else -1
            if int(number) > kept:
                part.unlink()
            elif int(number) == kept:
                os.truncate(part, self._splits[split].end)

    def _journalled(self, journal: Path) -> list[tuple[str, int, int, int]]:
        """Split, shard and end of each record, and the length of its line."""
        found = []
        for line in (journal.read_bytes().split(b"\n") if journal.exists() else [])[:-1]:
            try:
                said = json.loads(line)
                split, shard, end = str(said["split"]), int(said["shard"]), int(said["end"])
            except (ValueError, KeyError, TypeError):
                break
            found.append((split, shard, end, len(line) + 1))
        return found

    def _features(self, recording: Recording) -> dict[str, Any]:
        strange = sorted(set(recording.streams) - set(self._contents.streams))
        if strange:
            raise DataError(
                "the set does not declare this stream", "leave it out in the mapping", key=strange[0]
            )
        time = _clock(recording)
        steps = len(time)
        features: dict[str, Any] = {}
        lacks = []
        for key, spec in self._contents.streams.items():
            track = recording.streams.get(key)
            if key == "task" and track is None:
                feature = bytes_feature([recording.task.encode()] * steps)
                lacks.append(key)
            elif track is None:
                feature = self._padding(spec, steps)
                lacks.append(key)
            else:
                feature = self._feature(spec, track, time)
            features[self._paths[key]] = feature
        features.update(self._made_features(recording, steps))
        nominal = np.array_equal(time, nominal_times(steps, self._contents.rate_hz))
        said = episode_to_json(recording, lacks=lacks, time=None if nominal else time.tolist())
        features["episode_metadata/regrip"] = bytes_feature([said.encode()])
        return features

    def _feature(self, spec: StreamSpec, track: Track, time: NDArray[np.float64]) -> Any:
        rows: Any = track.rows
        if spec.kind in ("image", "depth"):
            at = _places(track.time, time, spec.key)
            files = [b""] * len(time)
            encoded = encode_frames(rows, spec, self._options, self._ledger).files
            for place, data in zip(at, encoded, strict=True):
                files[place] = data
            return bytes_feature(files)
        if not np.array_equal(track.time, time):
            raise DataError(
                f"{len(track)} rows with times of their own, {len(time)} steps",
                "RLDS has one clock for all streams: resample in the mapping",
                key=spec.key,
            )
        if spec.kind == "text":
            return bytes_feature([_utf8(row, spec.key) for row in rows])
        if rows.shape[1:] != spec.shape or rows.dtype != np.dtype(spec.dtype):
            raise DataError(
                f"rows of {rows.dtype} {rows.shape[1:]}, declared {spec.dtype} {spec.shape}",
                "set the type in the mapping",
                key=spec.key,
            )
        if spec.dtype == "float64":
            return bytes_feature([np.ascontiguousarray(row, "<f8").tobytes() for row in rows])
        return float_feature(rows) if rows.dtype.kind == "f" else int_feature(rows)

    def _padding(self, spec: StreamSpec, steps: int) -> Any:
        """What stands for a stream that an episode lacks; our reader leaves it out again."""
        if spec.kind in ("image", "depth", "text"):
            return bytes_feature([b""] * steps)
        blank = np.full((steps, *spec.shape), np.nan if "float" in spec.dtype else 0, spec.dtype)
        self._ledger.add(
            Loss(spec.key, "padded", "NaN, or 0 of integers, in episodes without the stream", rows=steps)
        )
        if spec.dtype == "float64":
            return bytes_feature([row.tobytes() for row in blank])
        return float_feature(blank) if blank.dtype.kind == "f" else int_feature(blank)

    def _made_features(self, recording: Recording, steps: int) -> dict[str, Any]:
        place = np.arange(steps)
        terminal = recording.terminated
        if terminal is None:
            terminal = not recording.truncated  # as most published sets do where nothing is known
        made = {
            "steps/is_first": int_feature(place == 0),
            "steps/is_last": int_feature(place == steps - 1),
            "steps/is_terminal": int_feature((place == steps - 1) & terminal),
            "steps/discount": float_feature(np.ones(steps, np.float32)),
            _TASK: bytes_feature([_utf8(recording.task, "task")] * steps),
        }
        return {path: made[path] for path in self._made}

    def _declare(self) -> Any:
        from tensorflow_datasets import features as tfds

        tree: dict[str, Any] = {}
        made: dict[str, Any] = {path: tfds.Scalar(np.bool_) for path in self._made}
        made.update({"steps/discount": tfds.Scalar(np.float32), _TASK: tfds.Text()})
        declared = {path: made[path] for path in self._made}
        for key, path in self._paths.items():
            declared[path] = _declared(self._contents.streams[key], self._options)
        for path, feature in declared.items():
            *folders, leaf = path.split("/")
            at = tree
            for folder in folders:
                at = at.setdefault(folder, {})
            at[leaf] = feature
        metadata = {"regrip": tfds.Text(doc="what RLDS has no field for, as JSON")}
        return tfds.FeaturesDict({"steps": tfds.Dataset(tree["steps"]), "episode_metadata": metadata})


def _declared(spec: StreamSpec, options: WriteOptions) -> Any:
    from tensorflow_datasets import features as tfds

    if spec.kind == "text":
        return tfds.Text()
    if spec.kind == "image":
        png = options.images == "png" or (options.images == "copy" and spec.about.get("codec") == "png")
        return tfds.Image(shape=spec.shape, dtype=np.uint8, encoding_format="png" if png else "jpeg")
    dtype = np.dtype(spec.dtype)
    if spec.kind == "depth":
        return tfds.Image(shape=(*spec.shape, 1), dtype=dtype.type, encoding_format="png")
    if spec.dtype == "float64":  # TFRecord's own numbers have 32 bits
        return tfds.Tensor(shape=spec.shape, dtype=np.float64, encoding="bytes")
    return tfds.Tensor(shape=spec.shape, dtype=dtype.type) if spec.shape else tfds.Scalar(dtype.type)


def _check(contents: Contents, path: Path) -> None:
    for key, spec in contents.streams.items():
        depth = spec.kind == "depth" and spec.dtype not in ("uint16", "float32")
        if depth or (spec.kind == "vector" and spec.dtype not in _AXES | {"float64"}) or 0 in spec.shape:
            raise DataError(
                f"a {spec.kind} stream of {spec.dtype} and shape {spec.shape} cannot be held in RLDS",
                "cast it or leave it out in the mapping",
                file=path,
                key=key,
            )


def _clock(recording: Recording) -> NDArray[np.float64]:
    """The time of each step: of the actions, or of the longest stream where there are none."""
    if "action" in recording.streams:
        return recording.streams["action"].time
    tracks: Sequence[Track] = sorted(recording.streams.values(), key=len)
    return tracks[-1].time if tracks else np.empty(0)


def _places(times: NDArray[np.float64], steps: NDArray[np.float64], key: str) -> Sequence[int]:
    """Which step each image belongs to; they may be fewer than the steps, never between them."""
    if np.array_equal(times, steps):
        return range(len(steps))
    at = np.searchsorted(steps, times)
    if len(times) > len(steps) or len(np.unique(at)) < len(at) or (at >= len(steps)).any():
        at = np.full(len(times), -1)
    elif not np.array_equal(steps[at], times):
        at = np.full(len(times), -1)
    if (at < 0).any():
        raise DataError(
            f"{len(times)} images with times of their own, {len(steps)} steps",
            "RLDS has one clock for all streams: resample in the mapping",
            key=key,
        )
    places: list[int] = at.tolist()
    return places


def _utf8(text: str, key: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise DataError(f"text that is no Unicode ({error})", "change it in the mapping", key=key) from error


def _split_of(recording: Recording) -> str:
    split = recording.about.get("split")
    return split if isinstance(split, str) and _SPLIT.fullmatch(split) else "train"


def _name(path: Path) -> tuple[str, str]:
    """Name and version for TFDS: ``.../name/1.2.3`` says both, ``.../name`` is version 1.0.0."""
    name, version = path.name, "1.0.0"
    if re.fullmatch(r"\d+\.\d+\.\d+", path.name):
        name, version = path.resolve().parent.name, path.name
    name = re.sub(r"[^a-z0-9_]+", "_", name.lower()).strip("_")
    return (name if re.match(r"[a-z]", name) else f"set_{name}".rstrip("_")), version
