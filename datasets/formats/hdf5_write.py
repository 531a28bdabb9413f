"""Writing ``/data/demo_N`` files: a file for each episode as it ends, all joined into their place on `close`.

HDF5 does not survive a killed writer, so an open file never holds more than one episode. Joining copies the
stored bytes; until it is done the disk holds both.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from ..frames import codec_of
from ..ledger import DataError, Ledger, Loss
from ..recording import Contents, Frames, Recording, StreamSpec, Track
from . import WriteOptions, hdf5, partial
from .hdf5_demos import SIDE, TIMES
from .sidecar import contents_to_json, episode_to_json, nominal_times

_TOP = {"action": "actions", "reward": "rewards", "done": "dones"}
_JOINED = "joined"
_BLOCK = 16  # images held at a time


@dataclass(frozen=True)
class WriteLayout:
    """What tells one use of the layout from the other.

    Attributes:
        format: name of the format.
        image: what image datasets are called after their camera.
        data: attributes of /data: (contents, name of the file, task).
        demo: attributes of a demo: (recording).
        file_of: which file of the set an episode goes to; None where the set is one file.
        dtype: of made rewards and dones.
        needs_task: whether an episode without one can be written.
    """

    format: str
    image: str
    data: Callable[[Contents, str, str], Mapping[str, Any]]
    demo: Callable[[Recording], Mapping[str, Any]]
    file_of: Callable[[Recording], str] | None
    dtype: str
    needs_task: bool = False


def paths_of(contents: Contents, image: str) -> dict[str, str]:
    """Where each stream lies in a demo: where it lay in the file it came from, else by its name."""
    taken: dict[str, str] = {}
    for key, spec in contents.streams.items():
        wanted = _wanted(key, spec, image)
        while wanted in taken or wanted in ("obs", "next_obs", TIMES):
            wanted += "_2"
        taken[wanted] = key
    return {key: path for path, key in taken.items()}


def _wanted(key: str, spec: StreamSpec, image: str) -> str:
    if key in _TOP:
        return _TOP[key]
    before = spec.about.get("hdf5")
    if isinstance(before, str) and re.fullmatch(r"(obs/)?[^/.][^/]*", before) and before not in _TOP.values():
        return before
    name = key.replace("/", "_")
    if key.startswith("observation.images."):
        return f"obs/{name.removeprefix('observation.images.')}{image}"
    if key.startswith("observation.depth."):
        return f"obs/{name.removeprefix('observation.depth.')}_depth"
    if key.startswith("observation."):
        return f"obs/{name.removeprefix('observation.').lstrip('.') or 'unnamed'}"
    return name.lstrip(".") or "unnamed"


def plan(contents: Contents, options: WriteOptions) -> list[Loss]:
    """What would be lost: image files, whose pixels alone are kept."""
    del options
    return [
        Loss(key, "re-encoded", _decoded(spec.about.get("codec") or "any codec"))
        for key, spec in contents.of_kind("image", "depth").items()
        if spec.about.get("codec")
    ]


def _decoded(codec: str) -> str:
    return f"{codec} decoded: HDF5 holds raw pixels, equal to those of the file, which is not kept"


class DemoSink:
    """Demonstrations being written.

    Attributes:
        done: episodes whose own file is whole.
    """

    def __init__(
        self, path: Path, contents: Contents, options: WriteOptions, ledger: Ledger, layout: WriteLayout
    ) -> None:
        if options.images == "video":
            raise DataError("HDF5 holds raw pixels, no video", "choose images copy", file=path)
        if "action" not in contents.streams:
            raise DataError("there is no stream called action", "name one in the mapping", file=path)
        self._path, self._contents, self._ledger, self._layout = path, contents, ledger, layout
        self._paths = paths_of(contents, layout.image)
        said = {"format": layout.format, "contents": contents_to_json(contents), "paths": self._paths}
        self._folder = partial.begin(path, said)
        self.done = 0
        while self._whole(self._episode(self.done)):
            self.done += 1

    def write(self, recording: Recording) -> None:
        """Add an episode.

        Raises:
            DataError: its streams are not aligned, or not as declared, or it has no actions.
        """
        place = self._episode(self.done)
        beside = place.with_suffix(".tmp")
        try:
            self._check(recording)
            with h5py.File(beside, "w") as file:
                self._demo(file.create_group("demo"), recording)
            partial.sync(beside)
            os.replace(beside, place)
        except DataError as error:
            if error.episode is not None:
                raise
            raise DataError(
                error.what, error.remedy, file=self._path, episode=self.done, frame=error.frame, key=error.key
            ) from error
        except (OSError, RuntimeError, ValueError, TypeError) as error:
            raise DataError(
                f"it cannot be written ({type(error).__name__}: {str(error)[:200]})",
                "check the disk and the names of its streams",
                file=self._folder,
                episode=self.done,
            ) from error
        self.done += 1

    def close(self) -> None:
        """Join the episodes and move what they make to its place."""
        joined = self._folder / _JOINED
        try:
            if joined.is_dir():
                shutil.rmtree(joined)
            files: dict[str, list[int]] = {}
            for episode in range(self.done):
                files.setdefault(self._file_of(episode), []).append(episode)
            if self._layout.file_of is not None:
                joined.mkdir()
                for name, episodes in files.items():
                    self._join(joined / name, name, episodes)
            elif len(files) > 1:
                raise DataError(
                    f"{len(files)} tasks, and a file holds one",
                    "give a folder (a path without .hdf5), which gets a file for each task",
                    file=self._path,
                )
            else:
                self._join(joined, self._path.name, list(range(self.done)))
            partial.finish(joined, self._path)
        except (OSError, RuntimeError, ValueError, KeyError) as error:
            if isinstance(error, DataError):
                raise
            raise DataError(
                f"it cannot be finished ({type(error).__name__}: {str(error)[:200]})",
                "check the disk, then resume",
                file=self._folder,
            ) from error
        partial.clear(self._folder)

    def abandon(self) -> None:
        """Nothing is open between episodes."""

    def _episode(self, number: int) -> Path:
        return self._folder / f"episode-{number:07d}.h5"

    def _whole(self, place: Path) -> bool:
        """After a power cut a file may be there and not whole; it is then written again."""
        try:
            if not place.exists():
                return False
            with hdf5.open_file(place) as file:
                return "demo" in file and SIDE in file["demo"].attrs
        except DataError:
            return False

    def _file_of(self, episode: int) -> str:
        with hdf5.reading(self._episode(episode)), h5py.File(self._episode(episode), "r") as file:
            return str(file["demo"].attrs.get(f"{SIDE}_file", ""))

    def _check(self, recording: Recording) -> None:
        strange = sorted(set(recording.streams) - set(self._contents.streams))
        if strange:
            raise DataError(
                "the set does not declare this stream", "leave it out in the mapping", key=strange[0]
            )
        if "action" not in recording.streams:
            raise DataError("the episode has no actions", "drop it", key="action")
        time = recording.streams["action"].time
        for key, track in recording.streams.items():
            if not np.array_equal(track.time, time):
                raise DataError(
                    f"{len(track)} rows with times of their own, {len(time)} actions",
                    "the format has one clock for all streams: resample in the mapping",
                    key=key,
                )
        if self._layout.needs_task and not recording.task:
            raise DataError("the episode has no task", "name it in the mapping", key="task")

    def _demo(self, group: Any, recording: Recording) -> None:
        time = recording.streams["action"].time
        steps = len(time)
        made = []
        for key, spec in self._contents.streams.items():
            track = recording.streams.get(key)
            if track is not None:
                self._stream(group, spec, track)
            elif key.startswith("observation."):
                detail = f"{self._layout.format} expects every observation in every demo; some lack it"
                self._ledger.add(Loss(key, "metadata", detail))
        for name, values in (("rewards", _rewards(recording)), ("dones", np.ones(1))):
            if name not in group:
                rows = np.zeros(steps, self._layout.dtype)
                rows[-1:] = values[-1:]
                group.create_dataset(name, data=rows)
                made.append(name)
        if "rewards" in made and recording.success is None:
            detail = "all zero: the source says neither reward nor success"
            self._ledger.add(Loss("reward", "computed", detail, rows=steps))
        if not np.array_equal(time, nominal_times(steps, self._contents.rate_hz)):
            group.create_dataset(TIMES, data=time)
        group.attrs["num_samples"] = steps
        for name, value in self._layout.demo(recording).items():
            group.attrs[name] = value
        group.attrs[SIDE] = episode_to_json(recording)
        group.attrs[f"{SIDE}_episode"] = self.done
        masks = recording.about.get("masks") or recording.about.get("split")
        names = masks if isinstance(masks, list) else [masks]
        group.attrs[f"{SIDE}_masks"] = json.dumps([m for m in names if isinstance(m, str) and _plain(m)])
        group.attrs[f"{SIDE}_task"] = json.dumps(recording.task)
        if self._layout.file_of is not None:
            group.attrs[f"{SIDE}_file"] = self._layout.file_of(recording)
        elif self._layout.needs_task:
            group.attrs[f"{SIDE}_file"] = recording.task.encode("unicode_escape").decode("ascii")

    def _stream(self, group: Any, spec: StreamSpec, track: Track) -> None:
        path = self._paths[spec.key]
        rows: Any = track.rows
        if spec.kind == "text":
            if any("\x00" in row for row in rows):
                raise DataError("text with a NUL, which HDF5 cuts off", "change the text", key=spec.key)
            group.create_dataset(path, data=list(rows), dtype=h5py.string_dtype())
            return
        if spec.kind == "vector":
            if rows.shape[1:] != spec.shape or rows.dtype != np.dtype(spec.dtype):
                raise DataError(
                    f"rows of {rows.dtype} {rows.shape[1:]}, declared {spec.dtype} {spec.shape}",
                    "set the type in the mapping",
                    key=spec.key,
                )
            if spec.key == "action":
                self._check_range(rows)
            group.create_dataset(path, data=rows)
            return
        self._images(group, path, spec, rows)

    def _images(self, group: Any, path: str, spec: StreamSpec, frames: Frames) -> None:
        axis = spec.kind == "depth"  # robosuite's depth has a channel
        shape = (len(frames), *spec.shape, 1) if axis else (len(frames), *spec.shape)
        dataset = group.create_dataset(path, shape, np.dtype(spec.dtype))
        block: list[Any] = []
        start = 0
        for index, pixels in enumerate(frames):
            if pixels.shape != spec.shape or pixels.dtype != np.dtype(spec.dtype):
                raise DataError(
                    f"an image of {pixels.dtype} {pixels.shape}, expected {spec.dtype} {spec.shape}",
                    "resize in the mapping, or drop the episode",
                    frame=index,
                    key=spec.key,
                )
            block.append(pixels[..., None] if axis else pixels)
            if len(block) == _BLOCK or index == len(frames) - 1:
                dataset[start : start + len(block)] = np.stack(block)
                start += len(block)
                block = []
        codec = codec_of(frames.encoded(0) or b"") if len(frames) else ""
        if codec:
            self._ledger.add(Loss(spec.key, "re-encoded", _decoded(codec), rows=len(frames)))

    def _check_range(self, rows: Any) -> None:
        with np.errstate(invalid="ignore"):
            outside = int(((rows < -1) | (rows > 1)).any(axis=tuple(range(1, rows.ndim))).sum())
        if outside:
            detail = (
                "actions outside [-1, 1]: robomimic's get_dataset_info refuses such a file and its robosuite "
                "controllers clip; scale them in the mapping"
            )
            self._ledger.add(Loss("action", "metadata", detail, rows=outside))

    def _join(self, place: Path, name: str, episodes: Sequence[int]) -> None:
        masks: dict[str, list[str]] = {}
        total, task = 0, ""
        with h5py.File(place, "w") as file:
            data = file.create_group("data")
            for number, episode in enumerate(episodes):
                demo = f"demo_{number}"
                with h5py.File(self._episode(episode), "r") as one:
                    one.copy(one["demo"], data, name=demo)
                attrs = data[demo].attrs
                total += int(attrs["num_samples"])
                for mask in json.loads(attrs[f"{SIDE}_masks"]):
                    masks.setdefault(mask, []).append(demo)
                task = json.loads(attrs[f"{SIDE}_task"])
                for extra in ("masks", "task", "file"):
                    if f"{SIDE}_{extra}" in attrs:
                        del attrs[f"{SIDE}_{extra}"]
            for mask, demos in masks.items():
                file.create_dataset(f"mask/{mask}", data=np.array(demos, dtype="S"))
            for key, value in self._layout.data(self._contents, name, task).items():
                data.attrs[key] = value
            data.attrs["total"] = total
            if self._layout.format == "libero":
                data.attrs["num_demos"] = len(episodes)
            data.attrs[SIDE] = json.dumps(contents_to_json(self._contents))
            data.attrs[f"{SIDE}_format"] = self._layout.format
            data.attrs[f"{SIDE}_paths"] = json.dumps(self._paths)
            data.attrs[f"{SIDE}_ledger"] = json.dumps(self._ledger.to_json())
        partial.sync(place)


def attributes_again(attributes: Any) -> dict[str, Any]:
    """Attributes that were read from such a file, as h5py takes them."""
    found: dict[str, Any] = {}
    for name, value in attributes.items() if isinstance(attributes, Mapping) else ():
        if (
            not isinstance(name, str)
            or name.startswith(SIDE)
            or name in ("num_samples", "total", "num_demos")
        ):
            continue
        if isinstance(value, (str, bool, int, float)):
            found[name] = value
        elif isinstance(value, list) and value:
            array = np.array(value)
            if array.dtype.kind in "biuf":
                found[name] = array
    return found


def _rewards(recording: Recording) -> Any:
    """The sparse reward of robosuite's tasks: 1 when the task is done, which is where a success ends."""
    return np.array([1.0 if recording.success else 0.0])


def _plain(name: str) -> bool:
    return re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.\-]{0,60}", name) is not None
