"""Reading ``/data/demo_N`` files, the layout that robomimic and LIBERO share."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..ledger import DataError, Problem
from ..recording import Contents, Recording, StreamSpec, Track
from . import hdf5
from .sidecar import checked_times, contents_from_json, episode_from_json, nominal_times

SIDE = "regrip"  # attribute of /data and of each demo: what the format has no field for, as JSON
TIMES = "timestamps"
_TOP = {"actions": "action", "rewards": "reward", "dones": "done"}
_DEMO = re.compile(r"demo_(\d{1,9})")


@dataclass(frozen=True)
class Layout:
    """What tells one use of the layout from the other.

    Attributes:
        format: name of the format.
        image: what image datasets are called after their camera, ``_image`` or ``_rgb``.
        describe: contents of foreign files: (attributes of /data of each file, streams, problems).
        task: instruction of a foreign episode: (file, attributes of /data, attributes of the demo, problems).
    """

    format: str
    image: str
    describe: Callable[[Mapping[str, Mapping[str, Any]], dict[str, StreamSpec], list[Problem]], Contents]
    task: Callable[[Path, Mapping[str, Any], Mapping[str, Any], list[Problem]], str]


@dataclass(frozen=True)
class _Demo:
    file: int
    name: str
    splits: tuple[str, ...]


class DemoSource:
    """Demonstrations in one or several HDF5 files."""

    def __init__(self, path: Path, files: Sequence[Path], layout: Layout) -> None:
        self.format = layout.format
        self.path = str(path)
        self.problems: list[Problem] = []
        self._layout, self._files = layout, list(files)
        self._handles = []
        self._shifted = True
        try:
            self._handles = [hdf5.open_file(file) for file in files]
            self._data: list[Any] = []
            self._attributes: list[dict[str, Any]] = []
            self._demos: list[_Demo] = []
            for number, file in enumerate(self._files):
                with hdf5.reading(file):
                    self._find(number)
            self._order()
            self._describe()
        except DataError:
            self.close()
            raise

    def __len__(self) -> int:
        return len(self._demos)

    def __getitem__(self, episode: int) -> Recording:
        if not 0 <= episode < len(self):
            raise IndexError(f"{self.path} has {len(self)} episodes, {episode} is none of them")
        demo = self._demos[episode]
        with hdf5.reading(self._files[demo.file], episode):
            return self._recording(demo, episode)

    def num_rows(self, episode: int) -> Mapping[str, int]:
        demo = self._demos[episode]
        with hdf5.reading(self._files[demo.file], episode):
            datasets = self._declared(demo)
            return {key: int(d.shape[0]) for key, d in datasets.items() if _there(d, datasets)}

    def close(self) -> None:
        for handle in self._handles:
            handle.close()

    def _find(self, number: int) -> None:
        """The demos of a file, by number, and what /data says."""
        file = self._files[number]
        data = hdf5.subgroup(self._handles[number], "data")
        if data is None:
            raise DataError(
                "no group called data",
                "expected demonstrations in /data/demo_0, /data/demo_1, ...",
                file=file,
            )
        self._data.append(data)
        self._attributes.append(hdf5.attributes(data))
        found, others = [], []
        for name in hdf5.names(data):
            match = _DEMO.fullmatch(name)
            if match and hdf5.subgroup(data, name) is not None:
                found.append((int(match[1]), name))
            else:
                others.append(name)
        if others:
            self.problems.append(
                Problem(
                    f"{len(others)} members of /data that are no demo_N, {others[0]!r} first",
                    "they are left out",
                    file=file.name,
                )
            )
        masks = self._masks(number, {name for _, name in found})
        for _, name in sorted(found):
            self._demos.append(_Demo(number, name, tuple(m for m, names in masks.items() if name in names)))

    def _masks(self, number: int, demos: set[str]) -> dict[str, set[str]]:
        group = hdf5.subgroup(self._handles[number], "mask")
        masks = {}
        for key in hdf5.names(group) if group is not None else []:
            dataset = hdf5.child(group, key)
            if not isinstance(dataset, hdf5.h5py.Dataset) or not hdf5.is_text(dataset):
                self._note(number, f"the mask {key!r} holds no names", "it is left out")
                continue
            masks[key] = set(hdf5.texts(dataset))
            if masks[key] - demos:
                strange = sorted(masks[key] - demos)
                self._note(
                    number,
                    f"the mask {key!r} names {len(strange)} demos that are not there, {strange[0]!r} first",
                    "the others are taken",
                )
        return masks

    def _note(self, number: int, what: str, remedy: str, **more: Any) -> None:
        problem = Problem(what, remedy, file=self._files[number].name, **more)
        if problem not in self.problems:
            self.problems.append(problem)

    def _order(self) -> None:
        """Episodes in the order they were written in, where several files say it."""
        if len(self._files) < 2:
            return
        places = []
        for demo in self._demos:
            with hdf5.reading(self._files[demo.file]):
                place = hdf5.attribute(self._group(demo), f"{SIDE}_episode")
            if not isinstance(place, int):
                return
            places.append(place)
        if len(set(places)) == len(places):
            self._demos = [
                demo for _, demo in sorted(zip(places, self._demos, strict=True), key=lambda p: p[0])
            ]

    def _group(self, demo: _Demo) -> Any:
        return hdf5.child(self._data[demo.file], demo.name)

    def _describe(self) -> None:
        said = [attributes.get(SIDE) for attributes in self._attributes]
        self._ours = bool(said) and all(isinstance(text, str) for text in said)
        if self._ours:
            try:
                contents = json.loads(str(said[0]))
            except (ValueError, RecursionError) as error:
                raise DataError(
                    f"its attribute {SIDE!r} is no JSON ({error})",
                    "remove the attribute to read the file as any other program would",
                    file=self._files[0],
                ) from error
            self.contents = contents_from_json(contents, self._files[0])
            return
        if self._demos:
            demo = self._demos[0]
            with hdf5.reading(self._files[demo.file], 0):
                self._check_next(demo)
        streams: dict[str, StreamSpec] = {}
        for episode, demo in enumerate(self._demos):
            with hdf5.reading(self._files[demo.file], episode):
                for key, dataset in self._datasets(self._group(demo)).items():
                    if key not in streams and dataset.shape and dataset.shape[0]:
                        streams[key] = self._spec(key, dataset)
        files = {file.name: attrs for file, attrs in zip(self._files, self._attributes, strict=True)}
        self.contents = self._layout.describe(files, streams, self.problems)

    def _datasets(self, group: Any) -> dict[str, Any]:
        """Every dataset of a demo that is a stream, by our key."""
        found: dict[str, Any] = {}
        for name in hdf5.names(group):
            if name == "next_obs" and self._shifted:
                continue
            member = hdf5.child(group, name)
            inside = [(name, member)]
            if isinstance(member, hdf5.h5py.Group):
                inside = [(f"{name}/{inner}", hdf5.child(member, inner)) for inner in hdf5.names(member)]
            for path, dataset in inside:
                if not isinstance(dataset, hdf5.h5py.Dataset) or not dataset.shape or path == TIMES:
                    continue
                key = self._key(path, dataset)
                while key in found:
                    key += "_2"
                found[key] = dataset
        return found

    def _key(self, path: str, dataset: Any) -> str:
        if "/" not in path:
            return _TOP.get(path, path)
        group, name = path.split("/", 1)
        if group != "obs":
            return f"{group}.{name}"
        kind = _kind(dataset, name)
        if kind == "image":
            return f"observation.images.{name.removesuffix(self._layout.image) or name}"
        if kind == "depth":
            return f"observation.depth.{name.removesuffix('_depth') or name}"
        return f"observation.{name}"

    def _spec(self, key: str, dataset: Any) -> StreamSpec:
        hdf5.check(dataset)
        path = "/".join(str(dataset.name).split("/")[3:])
        about: dict[str, Any] = {"hdf5": path, "time": "nominal"}
        kind = _kind(dataset, path.rpartition("/")[2])
        shape = tuple(int(extent) for extent in dataset.shape[1:])
        if kind == "text":
            return StreamSpec(key, "text", "str", (), about=about)
        if kind == "depth" and len(shape) == 3:
            about["hdf5_axis"] = True
            shape = shape[:2]
        return StreamSpec(key, kind, dataset.dtype.newbyteorder("=").name, shape, about=about)

    def _check_next(self, demo: _Demo) -> None:
        """Whether `next_obs` is `obs` one step on, so that it can be left out."""
        group = self._group(demo)
        after, now = hdf5.subgroup(group, "next_obs"), hdf5.subgroup(group, "obs")
        if after is None or now is None:
            return
        for name in hdf5.names(after):
            late, early = hdf5.child(after, name), hdf5.child(now, name)
            if early is None or not isinstance(late, hdf5.h5py.Dataset) or late.shape != early.shape:
                self._shifted = False
            elif _kind(early, name) == "vector":
                self._shifted &= np.array_equal(
                    hdf5.numbers(late)[:-1], hdf5.numbers(early)[1:], equal_nan=True
                )
            elif len(early) > 1:
                hdf5.check(late)
                hdf5.check(early)
                self._shifted &= bool(np.array_equal(late[0], early[1]))
        if self._shifted:
            what, remedy = "next_obs is obs one step on", "it is left out, with its last row"
        else:
            what, remedy = "next_obs is not obs one step on", "it is kept, as streams called next_obs"
        self._note(demo.file, what, remedy, key="next_obs")

    def _recording(self, demo: _Demo, episode: int) -> Recording:
        group = self._group(demo)
        datasets = self._declared(demo)
        steps = int(datasets["action"].shape[0]) if "action" in datasets else None
        attrs = hdf5.attributes(group)
        said = attrs.get("num_samples")
        if steps is not None and said != steps:
            self._note(
                demo.file,
                f"num_samples is {said}, there are {steps} actions",
                "the actions are counted",
                repaired=True,
                episode=episode,
            )
        rows: dict[str, Any] = {}
        for key, spec in self.contents.streams.items():
            dataset = datasets.get(key)
            if dataset is None or not _there(dataset, datasets):
                continue
            rows[key] = self._rows(dataset, spec, episode, demo)
            steps = len(rows[key]) if steps is None else steps
            if len(rows[key]) != steps:
                raise DataError(
                    f"{len(rows[key])} rows, there are {steps} steps",
                    "the file is damaged or unfinished: drop the episode, or leave the stream out",
                    key=key,
                )
        time = nominal_times(steps or 0, self.contents.rate_hz)
        own = attrs.pop(SIDE, None)
        if self._ours and isinstance(own, str):
            fields: Mapping[str, Any] = episode_from_json(own, self._files[demo.file], episode).fields
            stored = hdf5.child(group, TIMES)
            if stored is not None:
                time = checked_times(
                    hdf5.numbers(stored), steps or 0, file=self._files[demo.file], episode=episode
                )
        else:
            fields = self._said(demo, attrs)
        return Recording({key: Track(values, time) for key, values in rows.items()}, **fields)

    def _declared(self, demo: _Demo) -> dict[str, Any]:
        """The datasets of a demo that are streams of the set, by key."""
        datasets = self._datasets(self._group(demo))
        if self._ours:
            by_path = {"/".join(str(d.name).split("/")[3:]): d for d in datasets.values()}
            paths = self._paths(demo.file)
            datasets = {key: by_path[path] for key, path in paths.items() if path in by_path}
        return {key: dataset for key, dataset in datasets.items() if key in self.contents.streams}

    def _paths(self, number: int) -> dict[str, str]:
        try:
            said = json.loads(str(self._attributes[number].get(f"{SIDE}_paths", "{}")))
            return {str(key): str(path) for key, path in said.items()}
        except (ValueError, AttributeError, RecursionError):
            return {}

    def _said(self, demo: _Demo, attrs: dict[str, Any]) -> dict[str, Any]:
        """What a foreign file says of an episode."""
        file = self._files[demo.file]
        attrs.pop("num_samples", None)
        about: dict[str, Any] = {"file": file.name, "demo": demo.name}
        if demo.splits:
            about["masks"] = list(demo.splits)
            split = next((s for s in ("train", "valid", "test") if s in demo.splits), None)
            if split:
                about["split"] = split
        if attrs:
            about["attributes"] = attrs
        task = self._layout.task(file, self._attributes[demo.file], attrs, self.problems)
        return {"task": task, "about": about}

    def _rows(self, dataset: Any, spec: StreamSpec, episode: int, demo: _Demo) -> Any:
        hdf5.check(dataset)
        if spec.kind == "text":
            return hdf5.texts(dataset)
        squeeze = (
            spec.kind == "depth" and len(dataset.shape) == len(spec.shape) + 2 and dataset.shape[-1] == 1
        )
        shape = tuple(dataset.shape[1:-1] if squeeze else dataset.shape[1:])
        if shape != spec.shape or dataset.dtype.newbyteorder("=").name != spec.dtype:
            raise DataError(
                f"rows of {dataset.dtype} {shape}, elsewhere in the set {spec.dtype} {spec.shape}",
                "drop the episode, or write the set again with one type and shape",
                key=spec.key,
            )
        if spec.kind in ("image", "depth"):
            path = self._files[demo.file]
            return hdf5.Hdf5Frames(
                path, str(dataset.name), int(dataset.shape[0]), squeeze, episode, dataset=dataset
            )
        return hdf5.numbers(dataset)


def _there(dataset: Any, datasets: Mapping[str, Any]) -> bool:
    """False for the empty stand-ins (`states` of real robots) beside actions that are there."""
    return bool(dataset.shape[0]) or "action" not in datasets or not datasets["action"].shape[0]


def _kind(dataset: Any, name: str) -> Any:
    """What a dataset of a demo is, by its type, shape and name."""
    if hdf5.is_text(dataset):
        return "text"
    shape = dataset.shape[1:]
    if dataset.dtype == np.uint8 and len(shape) == 3 and shape[2] == 3:
        return "image"
    plain = len(shape) == 2 or (len(shape) == 3 and shape[2] == 1)
    if name.endswith("depth") and plain and dataset.dtype.newbyteorder("=").name in ("uint16", "float32"):
        return "depth"
    return "vector"


def parsed(value: Any) -> Any:
    """JSON in an attribute, or JSON in JSON; the text itself where it is none."""
    for _ in range(2):
        if not isinstance(value, str):
            break
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            break
    return value


def control_rate(env_args: Any) -> float | None:
    """`control_freq` of robosuite's arguments, if it is a rate."""
    kwargs = env_args.get("env_kwargs") if isinstance(env_args, dict) else None
    rate = kwargs.get("control_freq") if isinstance(kwargs, dict) else None
    if isinstance(rate, (int, float)) and not isinstance(rate, bool) and 0 < rate < 1e6:
        return float(rate)
    return None
