"""diffusion_policy's ReplayBuffer, which UMI uses too: zarr 2 in a folder or a zip file.

All arrays of ``data/`` share their first axis, ``meta/episode_ends`` says where episodes end. There is no
task, no rate, no success, and in UMI no action: see `pose_actions`. What regrip writes says the rest in
``regrip.json``, which other readers pass over.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..contents_json import contents_from_json
from ..ledger import DataError, Problem
from ..recording import Contents, Conventions, Gripper, Recording, StreamSpec, Track
from . import Format
from .umi_write import SIDE_FILE, TIMESTAMP, create, plan
from .zarr2 import Array, Files, FolderFiles, ZipFiles, open_array, read_json

MAX_EPISODE_ROWS = 1 << 26
IMAGE_PREFIX, DEPTH_PREFIX = "observation.images.", "observation.depth."


@dataclass(frozen=True)
class UmiFrames:
    """Images of one array from one row on; each is decoded when it is wanted."""

    array: Array
    start: int
    num: int
    spec: StreamSpec
    episode: int

    def __len__(self) -> int:
        return self.num

    def __iter__(self) -> Iterator[NDArray[Any]]:
        return (self[index] for index in range(self.num))

    def __getitem__(self, index: int) -> NDArray[Any]:
        index = range(self.num)[index]
        try:
            image: NDArray[Any] = self.array.rows(self.start + index, self.start + index + 1)[0]
        except DataError as error:
            raise DataError(
                error.what,
                error.remedy,
                file=error.file,
                episode=self.episode,
                frame=index,
                key=self.spec.key,
            ) from error
        if image.dtype.name == self.spec.dtype:
            return image.astype(self.spec.dtype, copy=False)
        if not _whole(image):
            raise DataError(
                "its pixels are not whole numbers from 0 to 255, as those of the first image are",
                "leave out the episode, or the stream",
                file=self.array.where,
                episode=self.episode,
                frame=index,
                key=self.spec.key,
            )
        return image.astype(np.uint8)

    def encoded(self, index: int) -> bytes | None:
        if not self.array.image_codec:
            return None
        return self.array.file(self.start + range(self.num)[index])


class UmiSource:
    """A ReplayBuffer, opened for reading."""

    format = "umi"

    def __init__(self, path: Path) -> None:
        """Open it.

        Raises:
            DataError: it is no ReplayBuffer, or its ends and arrays contradict each other.
        """
        self.path = str(path)
        self._problems: list[Problem] = []
        self.problems: Sequence[Problem] = self._problems
        self._files: Files = FolderFiles(path) if path.is_dir() else ZipFiles(path)
        if self._files.read("zarr.json", 1 << 20) is not None:
            raise DataError("it is of zarr format 3", "ReplayBuffers are of format 2", file=path)
        self._arrays: dict[str, Array] = {}
        self._times: Array | None = None
        self._said = self._read_side()
        streams = self._open_arrays()
        self._bounds = self._read_ends()
        if self._said is not None:
            self.contents = self._said[0]
            return
        self.contents = Contents(streams, conventions=_conventions(streams))
        if self._times is None:
            self._problems.append(
                Problem(
                    "the format has no times and no rate",
                    "rows count as one second apart: give the rate in the mapping (UMI records 59.94 Hz)",
                    file=path.name,
                )
            )

    def _read_side(self) -> tuple[Contents, dict[str, str], list[dict[str, Any]]] | None:
        said = read_json(self._files, SIDE_FILE)
        if said is None:
            return None
        where = f"{self.path}/{SIDE_FILE}"
        contents = contents_from_json(said.get("contents"), where)
        arrays, episodes = said.get("arrays"), said.get("episodes")
        if not (
            isinstance(arrays, dict)
            and set(arrays) <= set(contents.streams)
            and all(isinstance(name, str) and "/" not in name for name in arrays.values())
            and isinstance(episodes, list)
            and all(_good_episode(one) for one in episodes)
        ):
            raise DataError("it is damaged", "remove it, and task, success and times are lost", file=where)
        return contents, arrays, episodes

    def _open_arrays(self) -> dict[str, StreamSpec]:
        names = self._files.children("data")
        if not names:
            raise DataError(
                "there is no data/ with arrays in it",
                "give the .zarr folder or the .zarr.zip that holds data/ and meta/",
                file=self.path,
            )
        if TIMESTAMP in names:
            times = open_array(self._files, f"data/{TIMESTAMP}")
            if times is not None and len(times.shape) == 1 and times.dtype.kind == "f":
                self._times = times
        wanted = None if self._said is None else {name: key for key, name in self._said[1].items()}
        streams: dict[str, StreamSpec] = {}
        for name in names:
            array = open_array(self._files, f"data/{name}")
            if array is None:
                what = "it holds no array"
                self._problems.append(Problem(what, "it is left out", file=f"data/{name}"))
            elif name == TIMESTAMP and self._times is not None:
                continue
            elif wanted is None:
                spec = self._spec(name, array)
                self._arrays[spec.key], streams[spec.key] = array, spec
            elif name in wanted:
                self._arrays[wanted[name]] = array
        if wanted is not None:
            assert self._said is not None
            for key, array in self._arrays.items():
                spec = self._said[0].streams[key]
                if array.shape[1:] != spec.shape or array.dtype.name != spec.dtype:
                    raise DataError(
                        f"rows of {array.dtype} {array.shape[1:]}, expected {spec.dtype} {spec.shape}",
                        f"{SIDE_FILE} is of another set: remove it",
                        file=array.where,
                        key=key,
                    )
        for array in self._arrays.values():
            missing = array.missing_chunks()
            padded = self._said is not None and any(one["lacks"] for one in self._said[2])
            if missing and not padded:
                self._problems.append(
                    Problem(
                        f"{missing} of its chunks have no file",
                        f"they are read as {array.fill}, as zarr does: compare with another copy of the set",
                        file=array.name,
                    )
                )
        return streams

    def _spec(self, name: str, array: Array) -> StreamSpec:
        about: dict[str, Any] = {"array": name, "time": "nominal" if self._times is None else "capture"}
        shape, dtype = array.shape[1:], array.dtype
        if len(shape) == 3 and shape[2] == 3 and dtype == np.uint8:
            codec = {"codec": array.image_codec} if array.image_codec else {}
            return StreamSpec(IMAGE_PREFIX + name, "image", "uint8", shape, about=about | codec)
        as_floats = len(shape) == 3 and shape[2] == 3 and dtype.kind == "f" and shape[0] > 8
        if as_floats and array.shape[0] and _whole(array.rows(0, 1)):
            self._problems.append(
                Problem(
                    f"its images are held as {dtype}, and are whole numbers from 0 to 255",
                    "they are read as uint8",
                    repaired=True,
                    file=array.name,
                )
            )
            return StreamSpec(IMAGE_PREFIX + name, "image", "uint8", shape, about=about)
        if len(shape) == 2 and "depth" in name and dtype.name in ("uint16", "float32"):
            return StreamSpec(DEPTH_PREFIX + name, "depth", dtype.name, shape, about=about)
        key = {"state": "observation.state"}.get(name, name)
        names, units = _entries(name, shape)
        if name.endswith("rot_axis_angle"):
            about["rotation"] = "rotation_vector"
        return StreamSpec(key, "vector", dtype.name, shape, names, units, about=about)

    def _read_ends(self) -> list[tuple[int, int]]:
        array = open_array(self._files, "meta/episode_ends")
        if array is None or len(array.shape) != 1 or array.dtype.kind not in "iu" or not array.shape[0]:
            raise DataError(
                "meta/episode_ends is missing, empty or no list of whole numbers",
                "give a ReplayBuffer: a .zarr folder or .zarr.zip with data/ and meta/",
                file=self.path,
            )
        if array.shape[0] > MAX_EPISODE_ROWS:
            raise DataError(f"it declares {array.shape[0]} episodes", "the file is damaged", file=array.where)
        ends = [int(end) for end in array.rows(0, array.shape[0])]
        starts = [0, *ends[:-1]]
        bounds = []
        for episode, (start, end) in enumerate(zip(starts, ends, strict=True)):
            if end < start or end < 0 or end - start > MAX_EPISODE_ROWS:
                raise DataError(
                    f"the episode would go from row {start} to {end}",
                    "episode_ends must grow: the file is damaged",
                    file=array.where,
                    episode=episode,
                )
            if end == start and self._said is None:
                self._tell(f"episode {episode} of the file has no rows", "it is left out", array.name)
                continue
            bounds.append((start, end))
        rows = {name: a.shape[0] for name, a in self._arrays.items()}
        most = max(rows.values(), default=0)
        whole = [bound for bound in bounds if bound[1] <= most]
        if len(whole) < len(bounds):
            if not whole:
                raise DataError(
                    f"the first episode ends at row {bounds[0][1]}, and the arrays have {most} rows",
                    "copy the set again",
                    file=array.where,
                )
            self._tell(
                f"episode_ends goes to row {ends[-1]}, and the arrays have {most} rows",
                f"the last {len(bounds) - len(whole)} episodes are left out",
                array.name,
            )
        for name, count in rows.items():
            if count > ends[-1]:
                self._tell(
                    f"{count - ends[-1]} rows come after the last episode: a recording was cut off",
                    "they are left out",
                    self._arrays[name].name,
                )
            elif count < whole[-1][1]:
                self._tell(
                    f"it has {count} rows, and the episodes go to {whole[-1][1]}",
                    "episodes that it does not cover are without it",
                    self._arrays[name].name,
                )
        if self._said is not None and len(self._said[2]) != len(whole):
            raise DataError(
                f"{SIDE_FILE} tells of {len(self._said[2])} episodes and there are {len(whole)}",
                f"copy the set again, or remove {SIDE_FILE}",
                file=self.path,
            )
        return whole

    def _tell(self, what: str, remedy: str, file: str) -> None:
        self._problems.append(Problem(what, remedy, file=file))

    def _present(self, episode: int) -> dict[str, Array]:
        _, end = self._bounds[episode]
        lacks = self._said[2][episode]["lacks"] if self._said else []
        return {key: a for key, a in self._arrays.items() if a.shape[0] >= end and key not in lacks}

    def __len__(self) -> int:
        return len(self._bounds)

    def num_rows(self, episode: int) -> Mapping[str, int]:
        start, end = self._bounds[episode]
        rows = dict.fromkeys(self._present(episode), end - start)
        if self._said is not None:
            rows |= {key: sum(n for _, n in runs) for key, runs in self._said[2][episode]["texts"].items()}
        return rows

    def __getitem__(self, episode: int) -> Recording:
        if not 0 <= episode < len(self):
            raise IndexError(f"there is no episode {episode} of {len(self)}")
        start, end = self._bounds[episode]
        time, began_ns = self._time(episode, start, end)
        streams: dict[str, Track] = {}
        present = self._present(episode)
        said = None if self._said is None else self._said[2][episode]
        for key, spec in self.contents.streams.items():
            if key in present and spec.kind in ("image", "depth"):
                streams[key] = Track(UmiFrames(present[key], start, end - start, spec, episode), time)
            elif key in present:
                try:
                    rows = present[key].rows(start, end)
                except DataError as error:
                    raise DataError(
                        error.what, error.remedy, file=error.file, episode=episode, key=key
                    ) from error
                streams[key] = Track(rows.astype(spec.dtype, copy=False), time)
            elif said is not None and key in said["texts"]:
                texts = [text for text, num in said["texts"][key] for _ in range(num)]
                if len(texts) != len(time):
                    raise DataError(
                        f"{len(texts)} texts for {len(time)} rows", f"{SIDE_FILE} is damaged", file=self.path,
                        episode=episode, key=key,
                    )  # fmt: skip
                streams[key] = Track(texts, time)
        if said is None:
            return Recording(streams, began_ns=began_ns, about={"rows": [start, end]})
        return Recording(
            streams,
            said["task"],
            said["success"],
            said["terminated"],
            said["truncated"],
            said["began_ns"],
            said["about"],
        )

    def _time(self, episode: int, start: int, end: int) -> tuple[NDArray[np.float64], int | None]:
        rate = self.contents.rate_hz or 1.0
        nominal = np.arange(end - start) / rate
        if self._times is None or self._times.shape[0] < end:
            return nominal, None
        time = self._times.rows(start, end).astype(np.float64)
        if not np.isfinite(time).all() or (np.diff(time) < 0).any() or (len(time) and abs(time).max() > 9e9):
            if self._said is not None:
                raise DataError("its times fall, or are no numbers", "the file is damaged",
                                file=self._times.where, episode=episode)  # fmt: skip
            told = Problem(
                "its timestamps fall, or are no numbers",
                "rows are counted as one second apart instead",
                file=self._times.name,
                episode=episode,
            )
            if told not in self._problems:
                self._problems.append(told)
            return nominal, None
        if self._said is not None or not len(time):
            return time, None
        return time - time[0], round(float(time[0]) * 1e9) if time[0] > 1e9 else None

    def close(self) -> None: ...


def _whole(image: NDArray[Any]) -> bool:
    return bool(
        np.isfinite(image).all() and ((image >= 0) & (image <= 255) & (image == np.rint(image))).all()
    )


def _good_episode(one: Any) -> bool:
    return (
        isinstance(one, dict)
        and isinstance(one.get("task"), str)
        and all(
            flag in one and one[flag] in (None, True, False)
            for flag in ("success", "terminated", "truncated")
        )
        and "began_ns" in one
        and (one["began_ns"] is None or type(one["began_ns"]) is int)
        and isinstance(one.get("about"), dict)
        and isinstance(one.get("lacks"), list)
        and all(isinstance(key, str) for key in one["lacks"])
        and isinstance(one.get("texts"), dict)
        and all(_good_runs(runs) for runs in one["texts"].values())
    )


def _good_runs(runs: Any) -> bool:
    good = isinstance(runs, list) and all(
        isinstance(run, list)
        and len(run) == 2
        and isinstance(run[0], str)
        and type(run[1]) is int
        and 0 < run[1] <= MAX_EPISODE_ROWS
        for run in runs
    )
    return good and sum(run[1] for run in runs) <= MAX_EPISODE_ROWS


def _entries(name: str, shape: tuple[int, ...]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names and units of UMI's arrays, which the format fixes."""
    if not re.match(r"robot\d+_", name):
        return (), ()
    if name.endswith("eef_pos") and shape == (3,):
        return ("x", "y", "z"), ("m", "m", "m")
    if name.endswith("rot_axis_angle") and shape == (3,):
        return ("rx", "ry", "rz"), ("rad", "rad", "rad")
    if name.endswith("gripper_width") and shape == (1,):
        return ("width",), ("m",)
    if name.endswith(("demo_start_pose", "demo_end_pose")) and shape == (6,):
        return ("x", "y", "z", "rx", "ry", "rz"), ("m", "m", "m", "rad", "rad", "rad")
    return (), ()


def _conventions(streams: Mapping[str, StreamSpec]) -> Conventions:
    """What the format fixes: widths in metres. At which width a gripper is open, no array says."""
    widths = [key for key in streams if re.fullmatch(r"robot\d+_gripper_width", key)]
    grippers = tuple(Gripper(key, 0, "width", math.nan, math.nan, "m") for key in widths)
    turns = any(spec.about.get("rotation") == "rotation_vector" for spec in streams.values())
    return Conventions(state_rotation="rotation_vector" if turns else "unknown", grippers=grippers)


def open_umi(path: Path) -> UmiSource:
    """Open a ReplayBuffer.

    Raises:
        DataError: it cannot be read.
    """
    if not path.exists():
        raise DataError("there is no such file or folder", "check the path", file=path)
    return UmiSource(path)


def detect(path: Path) -> bool:
    """A folder with ``meta/episode_ends``, or a zip file with it."""
    try:
        if path.is_dir():
            return (path / "meta" / "episode_ends" / ".zarray").is_file()
        with path.open("rb") as file:
            if file.read(2) != b"PK":
                return False
        return ZipFiles(path).read("meta/episode_ends/.zarray", 1 << 20) is not None
    except (OSError, DataError):
        return False


FORMAT = Format("umi", "diffusion_policy and UMI (.zarr, .zarr.zip)", detect, open_umi, plan, create)
