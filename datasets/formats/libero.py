"""LIBERO: an HDF5 file of demonstrations for each task, ``<suite>/<TASK>_demo.hdf5``.

What LIBERO's own creator fixes, and the numbers cannot say: images are as OpenGL draws them, upside down
(not turned by 180 degrees: left stays left); actions are deltas of position and rotation vector in the base
frame, scaled to [-1, 1], and a gripper of -1 open, +1 closed; rotation vectors of the state are robosuite's,
whose angle runs from 0 to 2 pi; and row t of an observation was taken *after* action t ran. Files made anew
by others (no `problem_info`) say none of that of their images and alignment, so it is unknown there.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..ledger import DataError, Ledger, Loss, Problem
from ..recording import Contents, Conventions, Gripper, Orientation, Recording, StreamSpec
from ..views.resampling import take
from . import Format, WriteOptions, hdf5_write
from .hdf5_demos import DemoSource, Layout, control_rate, parsed
from .robomimic import what_is

_RATE_HZ = 20.0
_ACTION = ("x", "y", "z", "rx", "ry", "rz", "gripper")
_ORIENTATION: dict[str, Orientation] = {"opengl": "vflip", "opencv": "upright"}
_NAMES = {
    "action": _ACTION,
    "observation.ee_pos": ("x", "y", "z"),
    "observation.ee_ori": ("rx", "ry", "rz"),
    "observation.ee_states": ("x", "y", "z", "rx", "ry", "rz"),
    "observation.gripper_states": ("finger_left", "finger_right"),
    "observation.joint_states": tuple(f"joint_{i}" for i in range(7)),
    "robot_states": ("finger_left", "finger_right", "x", "y", "z", "qx", "qy", "qz", "qw"),
}
_UNITS = {
    "observation.ee_pos": ("m",) * 3,
    "observation.ee_ori": ("rad",) * 3,
    "observation.ee_states": ("m",) * 3 + ("rad",) * 3,
    "observation.gripper_states": ("m",) * 2,
    "observation.joint_states": ("rad",) * 7,
}


def _describe(
    files: Mapping[str, Mapping[str, Any]], streams: dict[str, StreamSpec], problems: list[Problem]
) -> Contents:
    own = all("problem_info" in attributes for attributes in files.values())
    rates = {control_rate(parsed(attributes.get("env_args"))) for attributes in files.values()}
    rate = rates.pop() if len(rates) == 1 else None
    if rate is None and own:
        rate = _RATE_HZ
    images = {attributes.get("macros_image_convention") for attributes in files.values()}
    image = images.pop() if len(images) == 1 else None
    orientation = _ORIENTATION.get(str(image), "unknown")
    if orientation == "unknown":
        problems.append(
            Problem(
                "no macros_image_convention, or several",
                "look at the images: LIBERO's own are upside down, some variants are turned by 180 degrees",
                key="macros_image_convention",
            )
        )
    if not own:
        problems.append(
            Problem(
                "no problem_info: not made by LIBERO's own creator",
                "whether an observation is before or after its action is unknown; say it in the mapping",
                key="problem_info",
            )
        )
    action = streams.get("action")
    known = action is not None and action.shape == (7,)
    return Contents(
        {key: _named(spec, rate) for key, spec in streams.items()},
        rate_hz=rate,
        robot="panda" if own else "",
        conventions=Conventions(
            action="delta" if known else "unknown",
            rotation="rotation_vector" if known else "unknown",
            state_rotation="rotation_vector_uncanonical",
            frame="base" if known else "",
            observed="after" if own else "unknown",
            orientation={key: orientation for key, spec in streams.items() if spec.kind == "image"},
            grippers=(Gripper("action", 6, "binary", -1.0, 1.0),) if known else (),
        ),
        about={"libero": {file: _again(attributes) for file, attributes in files.items()}},
    )


def _again(attributes: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in attributes.items() if key not in ("total", "num_demos")}


def _named(spec: StreamSpec, rate: float | None) -> StreamSpec:
    about = dict(spec.about)
    if spec.key in ("observation.ee_ori", "observation.ee_states"):
        about["rotation"] = "rotation_vector_uncanonical"
    names = _NAMES.get(spec.key, ())
    fits = spec.shape == (len(names),)
    return dataclasses.replace(
        spec,
        names=names if fits else spec.names,
        units=_UNITS.get(spec.key, ()) if fits else spec.units,
        rate_hz=rate,
        about=about,
    )


def _task(file: Path, data: Mapping[str, Any], demo: Mapping[str, Any], problems: list[Problem]) -> str:
    """The instruction: of `problem_info`, however it was put there, else of the file's name."""
    del demo
    info = parsed(data.get("problem_info"))
    said = info.get("language_instruction") if isinstance(info, dict) else None
    if isinstance(said, list):
        said = " ".join(str(word) for word in said)
    if isinstance(said, str) and said.strip(" \"'"):
        task = said.strip(" \"'")
        if task != info.get("language_instruction"):
            _once(
                problems,
                f"a language_instruction of {json.dumps(info['language_instruction'])[:100]}",
                file,
                task,
            )
        return task
    name = re.sub(r"^[A-Z0-9_]*SCENE\d+_", "", file.stem.removesuffix("_demo"))
    task = name.replace("_", " ").strip()
    _once(problems, "no language_instruction in problem_info", file, task)
    return task


def _once(problems: list[Problem], what: str, file: Path, task: str) -> None:
    problem = Problem(what, f"read as {task!r}", repaired=True, file=file.name, key="problem_info")
    if problem not in problems:
        problems.append(problem)


def _data(contents: Contents, name: str, task: str) -> dict[str, Any]:
    """Attributes of /data, those of the file of that name in the set it came from, or made."""
    files = contents.about.get("libero")
    before = files.get(name) if isinstance(files, Mapping) else None
    said = hdf5_write.attributes_again(before)
    info = parsed(said.get("problem_info"))
    info = info if isinstance(info, dict) else {"problem_name": "", "domain_name": "robosuite"}
    if info.get("language_instruction") != task:
        said["problem_info"] = json.dumps({**info, "language_instruction": task})
    ways = {contents.conventions.orientation.get(key, "unknown") for key in contents.of_kind("image")}
    macros = {way: macro for macro, way in _ORIENTATION.items()}
    said.pop("macros_image_convention", None)
    if len(ways) == 1 and (way := ways.pop()) in macros:
        said["macros_image_convention"] = macros[way]
    env = {"type": 1, "env_name": "", "env_kwargs": {"control_freq": contents.rate_hz or _RATE_HZ}}
    for key, value in (("env_name", ""), ("bddl_file_name", ""), ("env_args", json.dumps(env))):
        said.setdefault(key, value)
    return said


def _demo(recording: Recording) -> dict[str, Any]:
    return hdf5_write.attributes_again(recording.about.get("attributes"))


def file_of(recording: Recording) -> str:
    """``pick_up_the_cup_demo.hdf5``: the file it came from if it is one of LIBERO's, else by its task."""
    before = recording.about.get("file")
    if isinstance(before, str) and re.fullmatch(r"\w[\w\-]{0,150}_demo\.hdf5", before):
        return before
    name = re.sub(r"[^\w\-]+", "_", recording.task).strip("_")[:60]
    return f"{name or 'task'}_demo.hdf5"


def plan(contents: Contents, options: WriteOptions) -> list[Loss]:
    return hdf5_write.plan(contents, options)


def create(path: Path, contents: Contents, options: WriteOptions, ledger: Ledger) -> hdf5_write.DemoSink:
    """Begin a LIBERO file (``.hdf5``, one task) or a folder of them (a file for each task), or go on.

    Raises:
        DataError: the path exists, or the actions' gripper is known not to be -1 open, +1 closed.
    """
    for gripper in contents.conventions.grippers:
        if gripper.stream == "action" and (gripper.open, gripper.closed) != (-1.0, 1.0):
            raise DataError(
                f"the gripper is {gripper.open:g} open and {gripper.closed:g} closed, LIBERO's is -1 and 1",
                "turn it in the mapping",
                file=path,
                key="action",
            )
    single = path.suffix in (".hdf5", ".h5")
    layout = hdf5_write.WriteLayout(
        "libero", "_rgb", _data, _demo, None if single else file_of, "uint8", needs_task=True
    )
    return hdf5_write.DemoSink(path, contents, options, ledger, layout)


def detect(path: Path) -> bool:
    """Whether it is one of LIBERO's files, or a folder of them."""
    return bool(path.is_file() and what_is(path) == "libero") or bool(
        path.is_dir() and (files := _files(path)) and what_is(files[0]) == "libero"
    )


def _files(folder: Path) -> list[Path]:
    try:
        return sorted(file for file in folder.iterdir() if file.name.endswith("_demo.hdf5"))
    except OSError:
        return []


def open_libero(path: Path) -> DemoSource:
    """Open a LIBERO file, or a folder of them.

    Raises:
        DataError: naming file, episode and key.
    """
    files = _files(path) if path.is_dir() else [path]
    if not files:
        raise DataError("no file called ..._demo.hdf5", "give the folder of one suite, or a file", file=path)
    for file in files:
        if path.is_dir() and not file.resolve().is_relative_to(path.resolve()):
            raise DataError(
                "a link that leads out of the set", "copy the set with its links followed (cp -rL)", file=file
            )
    return DemoSource(path, files, Layout("libero", "_rgb", _describe, _task))


def drop_noops(recording: Recording, ledger: Ledger, threshold: float = 1e-4) -> Recording:
    """Leave out the steps at which nothing was commanded, by OpenVLA's rule.

    A step is one if the norm of all entries of its action but the gripper is below `threshold` and the
    gripper is that of the last step kept. OpenVLA then plays the rest again in the simulator; here the rows
    are only left out, so an observation may jump. Nominal times close the gaps, others stay.
    """
    action = np.asarray(recording.streams["action"].rows)
    kept: list[int] = []
    for row, values in enumerate(action):
        still = float(np.linalg.norm(values[:-1])) < threshold
        if not (still and (not kept or values[-1] == action[kept[-1]][-1])):
            kept.append(row)
    if len(kept) == len(action):
        return recording
    detail = f"no-op steps: norm below {threshold:g}, gripper unchanged; not simulated again"
    ledger.add(Loss("", "dropped", detail, rows=len(action) - len(kept)))
    return _pick(recording, dict.fromkeys(recording.streams, kept))


def align_before(recording: Recording, ledger: Ledger) -> Recording:
    """Give each action the observation that was there before it ran, in sets whose rows hold the one after.

    Row t of observations and `robot_states` is that after action t, so it goes with action t+1. The first
    action, whose observation was not stored, and the last observation are lost. `states` are the simulator's
    before the action already. The set's convention is then `observed="before"` (`aligned_contents`).
    """
    steps = len(recording.streams["action"])
    detail = (
        "first action and last observation: observations moved on by one step, to come before their action"
    )
    ledger.add(Loss("", "dropped", detail, rows=min(steps, 1)))
    rows = {
        key: list(range(steps - 1)) if _after(key) else list(range(1, steps)) for key in recording.streams
    }
    return _pick(recording, rows)


def aligned_contents(contents: Contents) -> Contents:
    """The contents after `align_before`."""
    return dataclasses.replace(
        contents, conventions=dataclasses.replace(contents.conventions, observed="before")
    )


def _after(key: str) -> bool:
    return key.startswith("observation.") or key == "robot_states"


def _pick(recording: Recording, rows: Mapping[str, list[int]]) -> Recording:
    """Rows of each stream, all on the times of the first so many actions kept."""
    time = recording.streams["action"].time[rows["action"]]
    began = recording.streams["action"].time
    steps = np.diff(began)
    if len(steps) and np.allclose(steps, steps[0]):
        time = began[: len(rows["action"])]
    streams = {}
    for key, track in recording.streams.items():
        streams[key] = take(track, np.array(rows[key], np.int64), time)
    return dataclasses.replace(recording, streams=streams)


FORMAT = Format(
    name="libero",
    about="LIBERO HDF5, a file of demonstrations for each task",
    detect=detect,
    open=open_libero,
    plan=plan,
    create=create,
)
