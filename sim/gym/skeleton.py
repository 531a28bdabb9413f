"""The beginning of a mapping, made from what an environment says of itself. Runs in the workers' interpreter.

What it cannot know (units, limits that are infinite, what is said, what the policy may see) it marks with a
``CHECK`` comment, for a person to decide.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium.envs.registration import load_env_creator
from gymnasium.spaces.utils import flatdim

from .host import call_make_env, pick
from .mapping import MappingError

_UNBOUNDED = 10.0


def main() -> None:
    """Print a skeleton: arguments are an id or a path, then modules to import first."""
    wanted, *modules = sys.argv[4:]
    with contextlib.redirect_stdout(sys.stderr):  # what packages print must not end up in the file
        text = skeleton(wanted, modules)
    sys.stdout.write(text)


def skeleton(wanted: str, modules: list[str]) -> str:
    """The TOML text for an id of Gymnasium's registry, or for the path of an EnvHub file or folder.

    Raises:
        MappingError: if there is no such environment, or its actions are not numbers.
    """
    envhub = wanted if Path(wanted).exists() else ""
    for module in modules:
        importlib.import_module(module)
    picture, made, group, index = False, None, "", 0
    if envhub:
        made = call_make_env(Path(envhub).absolute())
        if isinstance(made, dict):
            group = next(iter(made))
            index = next(iter(made[group])) if isinstance(made[group], dict) else 0
        env = pick(made, group, index, wanted)
    else:
        picture = "rgb_array" in _registered(wanted)
        kwargs: dict[str, Any] = {"render_mode": "rgb_array"} if picture else {}
        env = gymnasium.make(wanted, disable_env_checker=True, **kwargs)
    observation, info = env.reset(seed=0)
    _, _, _, _, info = env.step(env.action_space.sample())
    name = "".join(letter if letter.isalnum() else "-" for letter in Path(wanted).stem.lower()).strip("-")
    lines = [
        f"# {wanted}, the beginning of a mapping: see docs/gymnasium.md. Decide wherever it says CHECK.",
        f"name = {_text(name)}",
        f"modules = {_text(modules)}",
    ]
    lines += [f"envhub = {_text(str(Path(envhub).absolute()))}"] if envhub else [f"id = {_text(wanted)}"]
    limit = env.spec.max_episode_steps if env.spec is not None else None
    success = next((f"info.{key}" for key in info if "success" in str(key)), "terminated")
    lines += [
        f"max_steps = {limit or 200}" + ("" if limit else "  # CHECK"),
        f"success = {_text(success)}  # CHECK: or 'reward >= 1.0', or any of info: "
        f"{', '.join(map(str, info)) or 'empty'}",
    ]
    cameras = _cameras(env, observation, picture)
    if 'method = "render"' in cameras:
        lines += ["", "[kwargs]", 'render_mode = "rgb_array"']
    rate = env.metadata.get("render_fps") or 20
    lines += [
        "", "[robot]", f"name = {_text(name)}", 'control_mode = "ee_delta"  # CHECK',
        f"control_rate_hz = {float(rate)}  # CHECK: environment steps in a second, divided by repeat",
        "", "[action]", "axes = [  # CHECK names, units and limits", *_axes("a", env.action_space), "]",
        "", "[state]  # CHECK: leave out what a robot could not measure: goals, objects",
    ]  # fmt: skip
    found = list(_numbers("observation", env.observation_space, observation))
    lines += [f"from = {_text([place for place, _ in found])}", "axes = ["]
    for place, space in found:
        lines += _axes(place.removeprefix("observation").strip(".") or "s", space)
    lines += ["]", "", *cameras]
    lines += ["", "[tasks.do]", 'instruction = "do what is to be done"  # CHECK']
    if envhub and isinstance(made, dict):
        lines += [f"group = {_text(str(group))}", f"index = {index}"]
    return "\n".join(lines) + "\n"


def _registered(wanted: str) -> list[str]:
    try:
        spec = gymnasium.spec(wanted)
    except gymnasium.error.Error as error:
        raise MappingError(
            f"{error} Name the module that registers it: regrip envs skeleton {wanted} --modules MODULE"
        ) from error
    entry = spec.entry_point
    creator = load_env_creator(entry) if isinstance(entry, str) else entry
    modes: list[str] = getattr(creator, "metadata", {}).get("render_modes", [])
    return modes


def _axes(name: str, space: Any) -> list[str]:
    """A TOML row for each number of a space."""
    if isinstance(space, gymnasium.spaces.Discrete):
        return [f'  [{_text(name)}, "", 0.0, {float(space.n - 1)}],']
    size = flatdim(space)
    box = isinstance(space, gymnasium.spaces.Box)
    low = np.ravel(space.low) if box else np.zeros(size)
    high = np.ravel(space.high) if box else np.ones(size)
    return [
        f'  [{_text(f"{name}{i}" if size > 1 else name)}, "", {_bound(float(low[i]), -_UNBOUNDED)}, '
        f"{_bound(float(high[i]), _UNBOUNDED)}],"
        for i in range(size)
    ]


def _bound(value: float, otherwise: float) -> float:
    return round(value, 6) if math.isfinite(value) and abs(value) < 1e6 else otherwise


def _numbers(place: str, space: Any, value: Any) -> Iterator[tuple[str, Any]]:
    """The vectors among the observations."""
    if isinstance(space, gymnasium.spaces.Dict):
        for key, part in space.spaces.items():
            yield from _numbers(f"{place}.{key}", part, value[key])
    elif not _is_picture(value) and isinstance(space, (gymnasium.spaces.Box, gymnasium.spaces.Discrete)):
        yield place, space


def _cameras(env: Any, observation: Any, picture: bool) -> list[str]:
    lines: list[str] = []
    for key in _pictures("", observation):
        lines += [f"[cameras.{(key.rpartition('.')[2] or 'image')}]", f"observation = {_text(key)}", ""]
    model = getattr(env.unwrapped, "model", None)
    names = [model.camera(i).name for i in range(getattr(model, "ncam", 0))] if model is not None else []
    if names:
        lines += [
            f"[cameras.{names[0]}]  # CHECK: or any of {', '.join(names)}",
            f"mujoco = {_text(names[0])}",
            "",
        ]
    if picture and not lines:
        lines += ["[cameras.front]", 'method = "render"', ""]
    return lines[:-1] or ["# CHECK: nothing here can be seen; a policy needs a camera", "[cameras]"]


def _pictures(key: str, value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for name, part in value.items():
            yield from _pictures(f"{key}.{name}" if key else str(name), part)
    elif _is_picture(value):
        yield key


def _is_picture(value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.ndim == 3 and value.dtype == np.uint8


def _text(value: str | list[str]) -> str:
    return json.dumps(value, ensure_ascii=False)
