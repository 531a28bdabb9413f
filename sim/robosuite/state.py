"""The complete state of a robosuite environment (1.5, or LIBERO's 1.4): what an episode changes, as bytes.

Besides MuJoCo's own state, an episode changes a few fields of the model (where a door stands, which dirt is
wiped, whether a stove glows) and attributes of python objects (the controller's goal, the gripper's ramp, the
step counter). The package shows positions of bodies as they were before the last 2 ms of physics, so these
positions are kept too: what is read after a restore is what was read before.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Iterator
from typing import Any

import mujoco
import numpy as np
from numpy.typing import NDArray

_PHYSICS = mujoco.mjtState.mjSTATE_INTEGRATION
_MODEL_FIELDS = ("body_pos", "body_quat", "geom_rgba", "site_rgba")
_DERIVED_FIELDS = (
    *("xpos", "xquat", "xmat", "xipos", "ximat", "geom_xpos", "geom_xmat", "site_xpos", "site_xmat"),
    *("cam_xpos", "cam_xmat", "light_xpos", "light_xdir", "sensordata"),
)
# Objects of these modules are searched for attributes that an episode may change.
_SEARCHED = (
    "robosuite.environments.",
    "robosuite.robots.",
    "robosuite.controllers.",
    "robosuite.models.grippers.",
    "robosuite.utils.buffers",
    "libero.libero.envs.problems.",
    "libero.libero.envs.objects.",
)
_LEFT_OUT = {"_obs_cache", "wiped_markers"}  # what we do not read; what is kept by name

Path = tuple[str, ...]


class NotPlainError(TypeError):
    """A value that is no number, text, array or collection of such."""


class Memory:
    """Saves and loads one built environment; two processes that built it alike understand each other."""

    def __init__(self, env: Any) -> None:
        """Remember the environment as it is after its first reset; only what differs is saved later."""
        self._env = env
        self._model: mujoco.MjModel = env.sim.model._model
        self._data: mujoco.MjData = env.sim.data._data
        self._first = self._attributes()
        self._first_model = {name: getattr(self._model, name).copy() for name in _MODEL_FIELDS}

    def save(self) -> bytes:
        """Everything that an episode changes."""
        attributes = {
            "/".join(path): value
            for path, value in self._attributes().items()
            if value != self._first.get(path, _ABSENT)
        }
        model = {
            name: encode(getattr(self._model, name).copy())
            for name in _MODEL_FIELDS
            if not np.array_equal(getattr(self._model, name), self._first_model[name])
        }
        saved = {
            "attributes": attributes,
            "wiped": [marker.name for marker in getattr(self._env, "wiped_markers", ())],
            "model": model,
            "physics": encode(self._physics()),
            "derived": {name: encode(getattr(self._data, name).copy()) for name in _DERIVED_FIELDS},
        }
        return zlib.compress(json.dumps(saved).encode(), 1)

    def load(self, state: bytes) -> None:
        """Go on from a `save`, in whichever process it was made, bit for bit."""
        saved = json.loads(zlib.decompress(state))
        changed = {tuple(path.split("/")): value for path, value in saved["attributes"].items()}
        for path, owner, name in list(_walk(self._env)):
            value = changed.get(path, self._first.get(path, _ABSENT))
            if value is not _ABSENT:
                _assign(owner, name, decode(value))
        if hasattr(self._env, "wiped_markers"):
            markers = {marker.name: marker for marker in self._env.model.mujoco_arena.markers}
            self._env.wiped_markers = [markers[name] for name in saved["wiped"]]
        for name in _MODEL_FIELDS:
            present = getattr(self._model, name)
            present[:] = decode(saved["model"][name]) if name in saved["model"] else self._first_model[name]
        physics = decode(saved["physics"])
        self._set_physics(physics)
        mujoco.mj_forward(self._model, self._data)
        self._set_physics(physics)  # the solver's warm start has moved
        for name in _DERIVED_FIELDS:
            getattr(self._data, name)[:] = decode(saved["derived"][name])

    def _attributes(self) -> dict[Path, Any]:
        found = {}
        for path, owner, name in _walk(self._env):
            try:
                found[path] = encode(owner[name] if isinstance(owner, dict) else getattr(owner, name))
            except NotPlainError:
                continue
        return found

    def _physics(self) -> NDArray[np.float64]:
        state = np.empty(mujoco.mj_stateSize(self._model, _PHYSICS), np.float64)
        mujoco.mj_getState(self._model, self._data, state, _PHYSICS)
        return state

    def _set_physics(self, state: NDArray[np.float64]) -> None:
        mujoco.mj_setState(self._model, self._data, state, _PHYSICS)


_ABSENT = object()


def _walk(env: Any) -> Iterator[tuple[Path, Any, str]]:
    """(path, owner, name) of every attribute of the environment and of the searched objects it holds."""
    seen: set[int] = set()
    waiting: list[tuple[Path, Any]] = [((), env)]
    while waiting:
        at, owner = waiting.pop()
        if id(owner) in seen:
            continue
        seen.add(id(owner))
        items = owner.items() if isinstance(owner, dict) else vars(owner).items()
        for name, value in list(items):
            if not isinstance(name, str) or name in _LEFT_OUT:
                continue
            path = (*at, name)
            if _is_searched(value) or (isinstance(value, dict) and any(map(_is_searched, value.values()))):
                waiting.append((path, value))
            elif isinstance(value, list) and any(map(_is_searched, value)):
                waiting.extend(((*path, str(index)), item) for index, item in enumerate(value))
            else:
                yield path, owner, name


def _is_searched(value: Any) -> bool:
    return type(value).__module__.startswith(_SEARCHED) and hasattr(value, "__dict__")


def _assign(owner: Any, name: str, value: Any) -> None:
    if isinstance(owner, dict):
        owner[name] = value
        return
    present = getattr(owner, name)
    if isinstance(present, dict):  # may be of a class of its own, and be held elsewhere too
        present.clear()
        present.update(value)
    else:
        setattr(owner, name, value)


def encode(value: Any) -> Any:
    """A plain value as JSON; arrays keep type and shape, tuples stay tuples.

    Raises:
        NotPlainError: if it is none.
    """
    if value is None or (isinstance(value, (bool, int, float, str)) and not isinstance(value, np.generic)):
        return value
    if isinstance(value, (np.ndarray, np.generic)):
        array = np.asarray(value)
        if _shows_simulator_memory(array):
            raise NotPlainError
        if array.dtype.hasobject:  # the package makes np.array(None) of a torque it has not got
            return {"objects": [array.shape, [encode(item) for item in array.flat]]}
        return {"array": [array.dtype.str, array.shape, base64.b64encode(array.tobytes()).decode()]}
    if isinstance(value, (list, tuple)):
        return {type(value).__name__: [encode(item) for item in value]}
    if isinstance(value, dict):
        return {"dict": [[encode(key), encode(item)] for key, item in value.items()]}
    raise NotPlainError


def decode(value: Any) -> Any:
    """What `encode` was given."""
    if not isinstance(value, dict):
        return value
    [(kind, content)] = value.items()
    if kind == "array":
        dtype, shape, data = content
        array = np.frombuffer(base64.b64decode(data), np.dtype(dtype)).reshape(shape).copy()
        return array if array.ndim else array[()]
    if kind == "objects":
        shape, items = content
        objects = np.empty(len(items), object)
        objects[:] = [decode(item) for item in items]
        return objects.reshape(shape)
    if kind == "dict":
        return {decode(key): decode(item) for key, item in content}
    items = [decode(item) for item in content]
    return tuple(items) if kind == "tuple" else items


def _shows_simulator_memory(array: NDArray[Any]) -> bool:
    """Some attributes are windows on the simulator's arrays: they follow the physics by themselves."""
    while isinstance(array.base, np.ndarray):
        array = array.base
    return not array.flags.owndata
