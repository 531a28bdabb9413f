"""robomimic: one HDF5 file of demonstrations, ``/data/demo_N/{actions,rewards,dones,states,obs/...}``.

Observations are those before the action. `next_obs` is not written (robomimic reads without it when
`hdf5_load_next_obs` is false) and read only where it is not `obs` one step on. Where the file names robosuite and
its default controller, what that controller's actions mean is filled in; else it is unknown.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..ledger import DataError, Ledger, Loss, Problem
from ..recording import Contents, Conventions, Gripper, Recording, StreamSpec
from . import Format, WriteOptions, hdf5, hdf5_write
from .hdf5_demos import SIDE, DemoSource, Layout, control_rate, parsed

_ROBOSUITE = 1  # robomimic's number for the kind of environment
_ACTION = ("x", "y", "z", "rx", "ry", "rz", "gripper")


def _describe(
    files: Mapping[str, Mapping[str, Any]], streams: dict[str, StreamSpec], problems: list[Problem]
) -> Contents:
    attributes = next(iter(files.values()), {})
    env = parsed(attributes.get("env_args"))
    if not isinstance(env, dict):
        problems.append(
            Problem("no env_args that are JSON", "control rate and conventions are unknown", key="env_args")
        )
        env = {}
    rate = control_rate(env)
    streams = {key: dataclasses.replace(spec, rate_hz=rate) for key, spec in streams.items()}
    about = {key: value for key, value in attributes.items() if key not in ("total", "env_args")}
    kwargs = env.get("env_kwargs") if isinstance(env.get("env_kwargs"), dict) else {}
    robots = kwargs.get("robots")
    robot = robots[0] if isinstance(robots, list) and robots else robots
    return Contents(
        streams,
        rate_hz=rate,
        robot=robot if isinstance(robot, str) else "",
        conventions=_conventions(env, kwargs, streams),
        about={"env_args": env, **({"attributes": about} if about else {})},
    )


def _conventions(
    env: Mapping[str, Any], kwargs: Mapping[str, Any], streams: dict[str, StreamSpec]
) -> Conventions:
    robosuite = _ROBOSUITE in (env.get("type"), env.get("env_type"))
    if not robosuite:
        return Conventions(observed="before")
    # robomimic's wrapper turns robosuite's colour images upright (not its depth)
    upright = {key: "upright" for key, spec in streams.items() if spec.kind == "image"}
    controller = kwargs.get("controller_configs")
    controller = controller if isinstance(controller, dict) else {}
    action = streams.get("action")
    if controller.get("type") != "OSC_POSE" or action is None or action.shape != (7,):
        return Conventions(observed="before", orientation=upright)  # type: ignore[arg-type]
    if not action.names:
        streams["action"] = dataclasses.replace(action, names=_ACTION)
    delta = controller.get("control_delta")
    return Conventions(
        action="delta" if delta is True else "absolute" if delta is False else "unknown",
        rotation="rotation_vector",
        frame="base",
        observed="before",
        orientation=upright,  # type: ignore[arg-type]
        grippers=(Gripper("action", 6, "binary", -1.0, 1.0),),
    )


def _task(file: Path, data: Mapping[str, Any], demo: Mapping[str, Any], problems: list[Problem]) -> str:
    del file, data, problems
    meta = parsed(demo.get("ep_meta"))
    lang = meta.get("lang") if isinstance(meta, dict) else None
    return lang if isinstance(lang, str) else ""


def _data(contents: Contents, name: str, task: str) -> dict[str, Any]:
    del name, task
    env = contents.about.get("env_args")
    if not isinstance(env, dict) or not env:
        env = {"env_name": contents.robot or "unknown", "type": 0, "env_kwargs": {}}
        if contents.rate_hz:
            env["env_kwargs"] = {"control_freq": contents.rate_hz}
    return {**_plain(contents.about.get("attributes")), "env_args": json.dumps(env, indent=4)}


def _demo(recording: Recording) -> dict[str, Any]:
    said = _plain(recording.about.get("attributes"))
    if recording.task and "ep_meta" not in said:
        said["ep_meta"] = json.dumps({"lang": recording.task})
    return said


def _plain(attributes: Any) -> dict[str, Any]:
    """Attributes that came from such a file, to be written again."""
    return hdf5_write.attributes_again(attributes)


def plan(contents: Contents, options: WriteOptions) -> list[Loss]:
    return hdf5_write.plan(contents, options)


def create(path: Path, contents: Contents, options: WriteOptions, ledger: Ledger) -> hdf5_write.DemoSink:
    """Begin a robomimic file, or go on with an unfinished one.

    Raises:
        DataError: the path exists or is not called .hdf5, or there are no actions.
    """
    if path.suffix not in (".hdf5", ".h5"):
        raise DataError("a robomimic set is one file", "give a path that ends in .hdf5", file=path)
    layout = hdf5_write.WriteLayout("robomimic", "_image", _data, _demo, None, "float64")
    return hdf5_write.DemoSink(path, contents, options, ledger, layout)


def detect(path: Path) -> bool:
    """Whether it is an HDF5 file with /data/demo_N that is not LIBERO's."""
    return what_is(path) == "robomimic"


def what_is(path: Path) -> str:
    """``robomimic``, ``libero`` or nothing."""
    if not hdf5.is_hdf5(path):
        return ""
    try:
        with hdf5.open_file(path) as file, hdf5.reading(path):
            data = hdf5.subgroup(file, "data")
            if data is None:
                return ""
            own = hdf5.attribute(data, f"{SIDE}_format")
            if own in ("robomimic", "libero"):
                return str(own)
            if "problem_info" in data.attrs or "bddl_file_name" in data.attrs:
                return "libero"
            demo = next((hdf5.subgroup(data, n) for n in hdf5.names(data) if n.startswith("demo_")), None)
            if demo is None:
                return ""
            obs = hdf5.subgroup(demo, "obs")
            rgb = obs is not None and {"agentview_rgb", "eye_in_hand_rgb"} & set(hdf5.names(obs))
            return "libero" if rgb else "robomimic"
    except DataError:
        return ""


def open_robomimic(path: Path) -> DemoSource:
    """Open a robomimic file.

    Raises:
        DataError: naming file, episode and key.
    """
    return DemoSource(path, [path], Layout("robomimic", "_image", _describe, _task))


FORMAT = Format(
    name="robomimic",
    about="robomimic HDF5, one file of demonstrations",
    detect=detect,
    open=open_robomimic,
    plan=plan,
    create=create,
)
