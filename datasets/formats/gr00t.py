"""GR00T: LeRobot v2.1 plus ``meta/modality.json``.

That file cuts state and action into parts, names the videos, and lists the columns of annotations, whose
numbers are indices of tasks.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..ledger import DataError, Ledger, Loss, Problem
from ..recording import Contents, Recording, StreamSpec
from . import Format, WriteOptions
from .lerobot_info import looks_like, read_json, within
from .lerobot_layout import Layout
from .lerobot_meta import write_json
from .lerobot_prepare import prepare_recording
from .lerobot_sink import LeRobotSink
from .lerobot_source import LeRobotSource
from .lerobot_v2 import open_lerobot_v2

_VECTORS = {"state": "observation.state", "action": "action"}


def open_gr00t(path: Path) -> LeRobotSource:
    """Open a GR00T set: streams are those of LeRobot, whole; ``about["parts"]`` of a stream has its parts.

    Raises:
        DataError: the metadata cannot be read.
    """
    source = open_lerobot_v2(path, "gr00t")
    file = within(path.resolve(), path.resolve() / "meta" / "modality.json")
    modality = read_json(file)
    for name in list(modality):
        if not isinstance(modality[name], dict):
            problem = f"{name} is {modality[name]!r:.60}, expected an object"
            source.note(Problem(problem, "left out", file="meta/modality.json", key=name))
            del modality[name]
    streams = dict(source.contents.streams)
    for group, usual in _VECTORS.items():
        for key, parts in _parts(modality.get(group, {}), usual).items():
            if key not in streams:
                what = f"{group} is cut out of {key}, which the set does not have"
                source.note(Problem(what, "left out", file="meta/modality.json", key=key))
                continue
            streams[key] = _with_parts(streams[key], parts, source)
    for name, entry in modality.get("video", {}).items():
        key = _original(entry, f"observation.images.{name}")
        if key not in streams:
            what = f"the video {name} is {key}, which the set does not have"
            source.note(Problem(what, "left out", file="meta/modality.json", key=key))
            continue
        about = {**streams[key].about, "gr00t_video": name}
        streams[key] = dataclasses.replace(streams[key], about=about)
    about = {**source.contents.about, "modality": modality}
    source.contents = dataclasses.replace(source.contents, streams=streams, about=about)
    annotated = {
        _original(entry, f"annotation.{name}") for name, entry in modality.get("annotation", {}).items()
    }
    for key in [key for key in streams if key.startswith("annotation.") or key in annotated]:
        if streams[key].kind == "vector" and streams[key].shape == () and "int" in streams[key].dtype:
            source.read_as_words(key)
    return source


def _original(entry: Any, usual: str) -> str:
    found = entry.get("original_key") if isinstance(entry, dict) else None
    return found if isinstance(found, str) else usual


def _parts(group: Mapping[str, Any], usual: str) -> dict[str, dict[str, Any]]:
    """Stream to its parts, in the order of their places."""
    found: dict[str, dict[str, Any]] = {}
    for name, entry in group.items():
        found.setdefault(_original(entry, usual), {})[name] = entry
    return found


def _with_parts(spec: StreamSpec, parts: Mapping[str, Any], source: LeRobotSource) -> StreamSpec:
    """The stream with its parts noted, and names made of them where it has none."""
    width = spec.shape[0] if spec.shape else 1
    good: dict[str, Any] = {}
    names = [""] * width
    for name, entry in parts.items():
        start = entry.get("start") if isinstance(entry, dict) else None
        end = entry.get("end") if isinstance(entry, dict) else None
        if type(start) is not int or type(end) is not int or not 0 <= start < end <= width:
            what = f"the part {name} is {start!r:.20}..{end!r:.20} of {width} numbers"
            remedy = "left out; ends are one past the last"
            source.note(Problem(what, remedy, file="meta/modality.json", key=spec.key))
            continue
        good[name] = entry
        for i in range(start, end):
            names[i] = f"{name}.{i - start}" if end - start > 1 else name
    # The writer numbers nameless entries: those names say nothing that a part does not say better.
    if all(names) and len(set(names)) == width and not spec.names and len(spec.shape) == 1:
        spec = dataclasses.replace(spec, names=tuple(names))
    return dataclasses.replace(spec, about={**spec.about, "parts": good})


def modality_of(layout: Layout) -> dict[str, Any]:
    """modality.json of a set: that of its source where it still fits, else parts cut at the grippers."""
    contents = layout.contents
    known = contents.about.get("modality")
    known = known if isinstance(known, Mapping) else {}
    found: dict[str, Any] = {"state": {}, "action": {}, "video": {}, "annotation": {}}
    for key, laid in layout.laid.items():
        if laid.spec.kind == "image":
            name = str(laid.spec.about.get("gr00t_video") or key.removeprefix("observation.images."))
            found["video"][name] = {"original_key": laid.name}
        elif laid.storage == "annotation":
            found["annotation"][laid.name.removeprefix("annotation.")] = {}
        elif laid.spec.kind == "vector" and len(laid.spec.shape) == 1:
            group = "action" if key == "action" or key.startswith("action.") else "state"
            if group == "state" and not key.startswith("observation."):
                continue
            parts = laid.spec.about.get("parts") or _cut(laid.spec, contents)
            usual = _VECTORS[group]
            for name, entry in parts.items():
                if laid.name != usual:
                    name = name if len(parts) > 1 or name != group else key.rsplit(".", 1)[-1]
                    entry = {**entry, "original_key": laid.name}
                found[group][name if name not in found[group] else f"{laid.name}.{name}"] = entry
    if not found["annotation"]:
        found["annotation"]["human.task_description"] = {"original_key": "task_index"}
    elif isinstance(known.get("annotation"), Mapping):
        for name, entry in known["annotation"].items():
            if _original(entry, "") == "task_index":
                found["annotation"][name] = entry
    return found


def _cut(spec: StreamSpec, contents: Contents) -> dict[str, Any]:
    grippers = {g.index for g in contents.conventions.grippers if g.stream == spec.key}
    width = spec.shape[0]
    edges = sorted({0, width, *grippers, *(i + 1 for i in grippers)} & set(range(width + 1)))
    whole = "action" if spec.key.startswith("action") else "state"
    if len(edges) == 2:
        return {whole: {"start": 0, "end": width}}
    found: dict[str, Any] = {}
    for start, end in itertools.pairwise(edges):
        name = "gripper" if start in grippers else "arm"
        count = sum(known.rstrip("_0123456789") == name for known in found)
        found[name if not count else f"{name}_{count + 1}"] = {"start": start, "end": end}
    return found


def _layout(contents: Contents, options: WriteOptions) -> Layout:
    if options.images in ("jpeg", "png"):
        raise DataError(f"GR00T has videos, not {options.images} files", "leave --images at its default")
    return Layout(contents, options, gr00t=True)


def _plan(contents: Contents, options: WriteOptions) -> list[Loss]:
    return _layout(contents, options).losses()


def _finish(root: Path, layout: Layout, tasks: list[str]) -> None:
    write_json(root / "meta" / "modality.json", modality_of(layout))


def _create(path: Path, contents: Contents, options: WriteOptions, ledger: Ledger) -> LeRobotSink:
    return LeRobotSink(path, _layout(contents, options), ledger, version=2, finish=_finish)


def _prepare(
    recording: Recording, contents: Contents, options: WriteOptions, folder: Path, ledger: Ledger
) -> Recording:
    return prepare_recording(recording, _layout(contents, options), folder, ledger)


def _detect(path: Path) -> bool:
    return looks_like(path, 2) and (path / "meta" / "modality.json").is_file()


FORMAT = Format(
    name="gr00t",
    about="GR00T: LeRobot v2.1 with modality.json",
    detect=_detect,
    open=open_gr00t,
    plan=_plan,
    create=_create,
    prepare=_prepare,
)
