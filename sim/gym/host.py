"""One Gymnasium environment in this process, and how numbers are found in it. Imports gymnasium.

An environment can take seconds and a hundred megabytes to make, so one that an episode has left waits for the
next episode of its task. It is reset with a seed, and what follows must depend on that seed alone.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Mapping as Table
from functools import cache
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces.utils import flatdim, unflatten
from numpy.typing import NDArray

from ..compatibility import strangers
from ..explosion import broke_down
from ..wording import unknown
from .mapping import Mapping, MappingError, Place, Task, Vector

Action = Any  # whatever the environment's action space holds
_idle: dict[tuple[str, str, int], list[Host]] = {}


def take(mapping: Mapping, task: Task, image_size: int) -> Host:
    """An environment of the task that nobody plays in."""
    waiting = _idle.get((mapping.source, task.name, image_size))
    return waiting.pop() if waiting else Host(mapping, task, image_size)


class Host:
    """A Gymnasium environment and the last it said.

    Attributes:
        env: as Gymnasium made it.
        observation: the last.
        info: the last.
        reward: of the last step, 0 after a reset.
        terminated: the environment called the episode over.
        truncated: it cut the episode short.
    """

    def __init__(self, mapping: Mapping, task: Task, image_size: int) -> None:
        self._mapping, self._task = mapping, task
        self._key = (mapping.source, task.name, image_size)
        self._import_modules()
        if mapping.envhub is not None:
            self.env = pick(call_make_env(mapping.envhub), task.group, task.index, str(mapping.envhub))
        else:
            self.env = self._make(_fill_in(task.kwargs, image_size))
        for path in mapping.skip:
            owner, name = self.below(path.rpartition(".")[0]), path.rpartition(".")[2]
            if not callable(getattr(owner, name, None)):
                raise MappingError(f"{mapping.source}: skip: {self.env.unwrapped} has no method {path}")
            setattr(owner, name, _draw_nothing)
        space = self.env.action_space
        dims = space.n if isinstance(space, gymnasium.spaces.Discrete) else None
        size = 1 if dims is not None else flatdim(space)
        if size != len(mapping.action):
            raise MappingError(
                f"{mapping.source}: action.axes: {len(mapping.action)} axes "
                f"({', '.join(axis.name for axis in mapping.action)}), but {task.name} has {space}"
            )
        self._diverges_with = tuple(_exception(name, mapping.source) for name in mapping.diverges_with)
        self.observation: Any = None
        self.info: dict[str, Any] = {}
        self.reward, self.terminated, self.truncated, self.invalid = 0.0, False, False, False

    def _import_modules(self) -> None:
        for module in self._mapping.modules:
            try:
                importlib.import_module(module)
            except ModuleNotFoundError as error:
                wanted = self._mapping.install or module
                raise RuntimeError(
                    f"this interpreter ({sys.executable}) has no module {error.name!r}, which suite "
                    f"{self._mapping.name!r} needs: pip install {wanted}. For the suites that ship with "
                    "regrip, `make gymnasium` makes .venv-gymnasium, whose Python the workers then run"
                ) from error

    def _make(self, kwargs: dict[str, Any]) -> Any:
        try:
            # The step limit is ours; the checker would only warn about what the mapping puts right.
            return gymnasium.make(self._task.id, max_episode_steps=-1, disable_env_checker=True, **kwargs)
        except gymnasium.error.UnregisteredEnv as error:
            raise MappingError(
                f"{self._mapping.source}: tasks.{self._task.name}.id: {error} Is the module that registers "
                f"it among modules {list(self._mapping.modules)}?"
            ) from error
        except TypeError as error:
            raise MappingError(
                f"{self._mapping.source}: tasks.{self._task.name}.kwargs: {self._task.id} does not take "
                f"{kwargs}: {error}"
            ) from error
        except Exception as error:
            self._blame_versions(error)
            raise

    def _blame_versions(self, error: Exception) -> None:
        """Raise an error that names the packages that are here in other versions than were tried, if any."""
        if others := strangers(self._mapping.install):
            raise RuntimeError(
                f"{self._mapping.source}: tasks.{self._task.name}: {type(error).__name__}: {error}. "
                f"It ran with {self._mapping.install}, and here is {', '.join(others)}"
            ) from error

    def reset(self, seed: int) -> None:
        """Begin the episode of a seed."""
        try:
            self.observation, self.info = self.env.reset(seed=seed)
        except Exception as error:
            self._blame_versions(error)
            raise
        self.reward, self.terminated, self.truncated, self.invalid = 0.0, False, False, False
        for _ in range(self._mapping.settle):
            self.step(np.array(self._mapping.settle_action))

    def step(self, native: NDArray[np.float64]) -> None:
        """One of the environment's own steps; `native` (A,) is in its units."""
        try:
            self.observation, reward, terminated, truncated, self.info = self.env.step(self._action(native))
        except self._diverges_with:
            self.reward, self.invalid = 0.0, True  # what was seen last stays
            return
        data = getattr(self.env.unwrapped, "data", None)  # of environments that stand on MuJoCo
        self.invalid = hasattr(data, "qvel") and broke_down(data)
        self.reward, self.terminated, self.truncated = float(reward), bool(terminated), bool(truncated)

    def _action(self, native: NDArray[np.float64]) -> Action:
        space = self.env.action_space
        if isinstance(space, gymnasium.spaces.Box):
            return native.reshape(space.shape).astype(space.dtype)
        if isinstance(space, gymnasium.spaces.Discrete):
            return space.dtype.type(int(space.start) + min(max(round(float(native[0])), 0), int(space.n) - 1))
        return unflatten(space, native)

    def succeeded(self) -> bool:
        if self.invalid:
            return False
        success = self._task.success
        values = self.find(success.place)
        return bool(values.size and success.at_least <= values.max() <= success.at_most)

    def vector(self, vector: Vector, names: tuple[str, ...], what: str) -> NDArray[np.float32]:
        """The numbers of several places, one for each name.

        Raises:
            MappingError: if they are not as many.
        """
        parts = [self.find(place) for place in vector.places]
        found = np.concatenate(parts) if parts else np.zeros(0)
        if len(found) != len(names):
            sizes = ", ".join(
                f"{place.text} gives {len(part)}" for place, part in zip(vector.places, parts, strict=True)
            )
            raise MappingError(
                f"{self._mapping.source}: {what} of task {self._task.name}: {len(names)} names, "
                f"but {sizes or 'no place'}"
            )
        return found.astype(np.float32)

    def find(self, place: Place) -> NDArray[np.float64]:
        """The numbers at a place, flattened.

        Raises:
            MappingError: if there is nothing, naming the nearest.
        """
        value = self.look_up(place)
        if value is None:
            return np.zeros(1)
        try:
            numbers = np.ravel(np.asarray(value, dtype=np.float64))
        except (TypeError, ValueError) as error:
            raise MappingError(
                f"{self._mapping.source}: {place.text} is {value!r}, not numbers; its places may be "
                f"{_list(value)}"
            ) from error
        if place.stop is not None and place.stop > len(numbers):
            raise MappingError(f"{self._mapping.source}: {place.text}: there are only {len(numbers)} numbers")
        return numbers[place.start : place.stop]

    def look_up(self, place: Place) -> Any:
        """Whatever is at a place; None if nothing is, and the place is optional."""
        if place.root == "mujoco":
            return self._in_simulator(place)
        if place.root == "attribute":
            return self.below(".".join(place.keys))
        if place.root in ("reward", "terminated"):
            return float(getattr(self, place.root))
        return self._walk(getattr(self, place.root), place.keys, place)

    def _walk(self, value: Any, keys: tuple[str, ...], place: Place) -> Any:
        """Follow keys; a key may itself hold dots, so the longest that fits is taken."""
        while keys:
            if not isinstance(value, Table):
                raise MappingError(
                    f"{self._mapping.source}: {place.text}: {keys[0]!r} is sought in {value!r}"
                )
            count = next((n for n in range(len(keys), 0, -1) if ".".join(keys[:n]) in value), 0)
            if not count:
                if place.optional:
                    return None
                names = [str(key) for key in value]
                raise MappingError(
                    f"{self._mapping.source}: {place.text}: {unknown('entry', '.'.join(keys), names)}. "
                    "If it is only there now and then, end the place with '?'"
                )
            value, keys = value[".".join(keys[:count])], keys[count:]
        return value

    def simulator(self) -> tuple[Any, Any]:
        """MuJoCo's model and data.

        Raises:
            MappingError: if the environment has none where the mapping says.
        """
        holder = self.below(self._mapping.simulator)
        try:
            model, data = holder.model, holder.data
        except AttributeError as error:
            raise MappingError(
                f"{self._mapping.source}: simulator: {holder} has no MuJoCo model and data; name the "
                "attribute of the unwrapped environment that has, or use cameras of another kind"
            ) from error
        return getattr(model, "ptr", model), getattr(data, "ptr", data)

    def _in_simulator(self, place: Place) -> Any:
        model, data = self.simulator()
        kind, name = place.keys[0], ".".join(place.keys[1:])
        if kind in ("qpos", "qvel", "ctrl") and not name:
            return getattr(data, kind)
        if kind in ("body", "site", "geom"):
            try:
                return getattr(data, kind)(name).xpos
            except KeyError as error:
                names = [getattr(model, kind)(i).name for i in range(getattr(model, f"n{kind}"))]
                raise MappingError(
                    f"{self._mapping.source}: {place.text}: {unknown(kind, name, names)}"
                ) from error
        raise MappingError(
            f"{self._mapping.source}: {place.text}: expected mujoco.qpos, .qvel, .ctrl, .body.NAME, "
            ".site.NAME or .geom.NAME"
        )

    def below(self, path: str) -> Any:
        """An attribute of the unwrapped environment, or it itself."""
        value: Any = self.env.unwrapped
        for name in path.split(".") if path else ():
            if not hasattr(value, name):
                names = [known for known in dir(value) if not known.startswith("__")]
                raise MappingError(
                    f"{self._mapping.source}: {path}: "
                    f"{unknown(f'attribute of {type(value).__name__}', name, names)}"
                )
            value = getattr(value, name)
        return value

    def leave(self) -> None:
        """Nobody plays here any more; the next episode of the task may."""
        _idle.setdefault(self._key, []).append(self)

    def close(self) -> None:
        self.env.close()


def _exception(name: str, source: str) -> type[Exception]:
    module, _, kind = name.partition(":")
    found = getattr(importlib.import_module(module), kind, None)
    if not (isinstance(found, type) and issubclass(found, Exception)):
        raise MappingError(f"{source}: diverges_with: {name!r} is no exception of the form module:Class")
    return found


def call_make_env(path: Path) -> Any:
    """What a local EnvHub module makes for one environment.

    The convention is LeRobot's: a file, ``env.py`` if a folder is given, with a function
    ``make_env(n_envs, use_async_envs)``. The code is run, in this process: it must be the user who named it.

    Raises:
        MappingError: if there is no such file or function.
    """
    file = path / "env.py" if path.is_dir() else path
    make_env = getattr(_module_of(file), "make_env", None)
    if not callable(make_env):
        raise MappingError(f"{file} has no function make_env(n_envs, use_async_envs)")
    return make_env(n_envs=1, use_async_envs=False)


@cache
def _module_of(file: Path) -> Any:
    spec = importlib.util.spec_from_file_location(f"envhub_{file.parent.name}_{file.stem}", file)
    if not file.is_file() or spec is None or spec.loader is None:
        raise MappingError(f"envhub: there is no Python file {file}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    sys.path.insert(0, str(file.parent))  # its neighbours are imported as if it were run there
    spec.loader.exec_module(module)
    return module


def pick(made: Any, group: str, index: int, source: str) -> Any:
    """The one environment that a task names among what ``make_env`` returned.

    Args:
        made: an environment, a vector environment, or ``{suite: {task number: vector environment}}``.
        group: the suite; may be empty if there is only one.
        index: the task's number.
        source: what was called, for messages.

    Raises:
        MappingError: if there is no such suite or task, or no environment.
    """
    if isinstance(made, dict):
        name = group or (next(iter(made)) if len(made) == 1 else "")
        if name not in made:
            raise MappingError(f"{source}: group: {unknown('suite', name, [str(key) for key in made])}")
        tasks = made[name]
        made = tasks.get(index) if isinstance(tasks, dict) else tasks
        if made is None:
            raise MappingError(f"{source}: suite {name!r} has the tasks {list(tasks)}, none is {index}")
    if isinstance(made, gymnasium.vector.SyncVectorEnv):
        return made.envs[0]
    if isinstance(made, gymnasium.vector.VectorEnv):
        if made.metadata.get("autoreset_mode") == gymnasium.vector.AutoresetMode.SAME_STEP:
            raise MappingError(
                f"{source}: {made} resets within the step that ends an episode, so its end is lost"
            )
        return OneOfVector(made)
    if isinstance(made, gymnasium.Env):
        return made
    raise MappingError(
        f"{source}: make_env returned {type(made).__name__}, which is no Gymnasium environment"
    )


class OneOfVector(gymnasium.Env[Any, Any]):
    """The only environment of a vector environment, as if it were alone."""

    def __init__(self, envs: Any) -> None:
        if envs.num_envs != 1:
            raise MappingError(f"{envs} holds {envs.num_envs} environments, asked for was one")
        self.envs = envs
        self.observation_space = envs.single_observation_space
        self.action_space = envs.single_action_space

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, Any]:
        observation, info = self.envs.reset(seed=seed, options=options)
        return _first(observation), _first(info)

    def step(self, action: Action) -> tuple[Any, float, bool, bool, Any]:
        empty: Any = gymnasium.vector.utils.create_empty_array(self.action_space, n=1)
        batch = gymnasium.vector.utils.concatenate(self.action_space, [action], empty)
        observation, reward, terminated, truncated, info = self.envs.step(batch)
        return _first(observation), float(reward[0]), bool(terminated[0]), bool(truncated[0]), _first(info)

    def close(self) -> None:
        self.envs.close()


def _first(batch: Any) -> Any:
    if isinstance(batch, dict):
        return {key: _first(value) for key, value in batch.items() if not str(key).startswith("_")}
    if isinstance(batch, tuple):
        return tuple(_first(value) for value in batch)
    return np.array(batch[0]) if isinstance(batch, np.ndarray) else batch


def _fill_in(value: Any, image_size: int) -> Any:
    """Put the size of the pictures where ``{image_size}`` stands."""
    if isinstance(value, Table):
        return {key: _fill_in(item, image_size) for key, item in value.items()}
    if isinstance(value, list):
        return [_fill_in(item, image_size) for item in value]
    return image_size if value == "{image_size}" else value


def _draw_nothing(*args: Any, **kwargs: Any) -> NDArray[np.uint8]:
    return np.zeros((1, 1, 3), np.uint8)


def _list(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, Table) else type(value).__name__
