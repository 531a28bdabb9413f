"""One of Meta-World's tasks in this process. The only module that imports the package.

Building a task takes about a second and some tens of megabytes, so a worker builds each once and its
environments take turns on it: who leaves takes the complete state along, who comes back puts it there again.
"""

from __future__ import annotations

import base64
import functools
import json
import os
from typing import Any, Protocol

import mujoco
import numpy as np
from numpy.typing import NDArray

from metaworld.env_dict import ALL_V3_ENVIRONMENTS  # pyright: ignore[reportMissingImports]
from metaworld.policies import ENV_POLICY_MAP  # pyright: ignore[reportMissingImports]

from ...datasets.starts import StartState
from .. import distractors
from .. import look as looks
from ..explosion import broke_down
from ..look import Look, Place

_PHYSICS = mujoco.mjtState.mjSTATE_INTEGRATION
_FAST = {"offsamples": 0, "shadowsize": 0, "numslices": 10, "numstacks": 6}
_MODEL_FIELDS = ("body_pos", "site_pos")  # what the package writes into its models
_SURFACE = ("table",)


class RenderError(RuntimeError):
    """No OpenGL on this machine."""


class Actor(Protocol):
    """Who can be asked to leave a stage."""

    def leave(self) -> None:
        """Take your state along; someone else comes."""
        ...


class Stage:
    """A task's simulator and who is on it.

    Attributes:
        env: the package's environment, with the goal in its observation (for the expert).
        observation: float64 (39,), the package's last one.
        actor: whose state it holds, or None.
        usual_depth: `depth` as the package's own episodes begin, of one layout.
    """

    def __init__(self, task: str) -> None:
        self.env: Any = ALL_V3_ENVIRONMENTS[f"{task}-v3"]()
        self.policy: Any = ENV_POLICY_MAP[f"{task}-v3"]()
        self.observation: NDArray[np.float64] = np.zeros(0)
        self.actor: Actor | None = None
        self._renderers: dict[tuple[int, bool, bool], mujoco.Renderer] = {}
        self._surface = looks.surface(self.env.model, _SURFACE)
        quality = self.env.model.vis.quality
        self._stock = {name: getattr(quality, name) for name in _FAST}
        self.env._partially_observable = False
        vars(self.env).pop("sawyer_observation_space", None)  # cached while the goal was hidden
        self.env._set_task_called = True
        self.env._freeze_rand_vec = True
        # The first reset makes every attribute exist, and from what follows it each episode starts out.
        self.env._last_rand_vec = _far_corners(*self.reset_space)
        self.observation, _ = self.env.reset()
        self._settle()
        self._first = self.save()
        self.usual_depth = self.depth

    @property
    def reset_space(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Lowest and highest random vector of the package's resets."""
        box = self.env._random_reset_space
        return box.low, box.high

    def enter(self, actor: Actor) -> None:
        """Make the stage free for `actor`, who then resets or loads."""
        if self.actor is not None and self.actor is not actor:
            self.actor.leave()
        self.actor = actor

    def reset(self, layout: NDArray[np.float64], aside: NDArray[np.float64] | None = None) -> None:
        """Begin an episode; it depends on nothing that was played before.

        Args:
            layout: of the package's reset space.
            aside: (3,) metres from where the package puts the hand; None for there.
        """
        self.load(self._first)
        if aside is not None:
            self.env.hand_init_pos = self.env.hand_init_pos + aside
        self.env._last_rand_vec = layout.copy()
        self.observation, _ = self.env.reset()
        self._settle()

    def step(self, action: NDArray[np.float32]) -> bool:
        """One of the package's own steps (12.5 ms, action (4,) in [-1, 1]); True when it says success."""
        self.observation, _, _, _, info = self.env.step(action)
        return bool(info["success"])

    @property
    def depth(self) -> float:
        """How far two things are pressed into each other at most, metres."""
        return -min((contact.dist for contact in self.env.data.contact), default=0.0)

    @property
    def exploded(self) -> bool:
        """Whether the physics has broken down."""
        return broke_down(self.env.data)

    def look(self) -> NDArray[np.float64]:
        """(18,) hand (m), gripper opening in [0, 1], then the package's description of the objects."""
        seen: NDArray[np.float64] = self.env._get_curr_obs_combined_no_goal()
        return seen

    def advice(self) -> NDArray[np.float32]:
        """(4,) what the package's scripted policy would do now, in [-1, 1]."""
        # It gets a copy because some of these policies write into their observation.
        action: NDArray[np.float32] = self.policy.get_action(self.observation.copy())
        return np.clip(action, -1.0, 1.0)

    def render(
        self, camera: str, size: int, fast: bool = True, look: Look | None = None
    ) -> NDArray[np.uint8]:
        """One frame (size,size,3), oriented as in the package's own renderings.

        Args:
            camera: one of the package's.
            size: pixels.
            fast: without anti-aliasing, shadows and mirrors, with coarse round shapes; ten times the rate.
            look: how it differs from the package's.

        Raises:
            RenderError: if there is no OpenGL.
        """
        tiled = look is not None and look.kind == "texture"
        renderer = self._renderers.get((size, fast, tiled)) or self._open_renderer(size, fast, tiled)
        with looks.changed(look, self.env.model, self.env.data, self._surface):
            renderer.update_scene(self.env.data, camera)
            distractors.add(renderer.scene, () if look is None else look.places)
        frame: NDArray[np.uint8] = renderer.render()
        return frame

    def free_places(self, start: StartState, camera: str, way: NDArray[np.float64]) -> tuple[Place, ...]:
        """Where distractors stand in the episode that has just begun; see `distractors.find_places`."""
        model, data = self.env.model, self.env.data
        view = distractors.eye(model, data, camera)
        try:
            scene = distractors.MujocoScene(model, data, self._surface)
            return distractors.find_places(start, scene, view, way)
        except ValueError:  # the block of pick-out-of-hole, which has no name, covers the table
            nameless = [i for i in range(model.ngeom) if not model.body(model.geom_bodyid[i]).name]
            scene = distractors.MujocoScene(model, data, nameless)
            return distractors.find_places(start, scene, view, way)

    def _open_renderer(self, size: int, fast: bool, tiled: bool) -> mujoco.Renderer:
        model = self.env.model
        for name, value in (_FAST if fast else self._stock).items():
            setattr(model.vis.quality, name, value)
        try:
            renderer = mujoco.Renderer(model, size, size)
        # What is missing decides which of these PyOpenGL and mujoco raise.
        except (AttributeError, ImportError, OSError, RuntimeError, mujoco.FatalError) as error:
            raise RenderError(
                f"cannot open an off-screen OpenGL context: {error}\n"
                f"MUJOCO_GL is {os.environ.get('MUJOCO_GL')!r} (read when mujoco is first imported).\n"
                "On Debian or Ubuntu: apt-get install --no-install-recommends libegl1 libgl1\n"
                "Then `regrip doctor` checks it."
            ) from error
        if fast:
            renderer.scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = 0
            renderer.scene.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = 0
        if tiled:
            looks.tile(model, renderer._mjr_context, self._surface, tiled)
        self._renderers[size, fast, tiled] = renderer
        return renderer

    def save(self) -> bytes:
        """The complete state: physics, what resets write into the model, the package's own attributes."""
        arrays = {f"model.{name}": getattr(self.env.model, name) for name in _MODEL_FIELDS}
        arrays["physics"] = self._physics()
        arrays["observation"] = self.observation
        plain: dict[str, Any] = {}
        for name, value in vars(self.env).items():
            if value is None or isinstance(value, (bool, int, float)):
                plain[name] = value
            elif isinstance(value, np.generic) or (
                isinstance(value, np.ndarray) and not _shows_simulator_memory(value)
            ):
                arrays[f"env.{name}"] = np.asarray(value)
        packed = {name: _pack(array) for name, array in arrays.items()}
        return json.dumps({"plain": plain, "arrays": packed}).encode()

    def load(self, state: bytes) -> None:
        """Go on from a `save` of the same task, in whichever process it was made, bit for bit."""
        saved = json.loads(state)
        arrays = {name: _unpack(packed) for name, packed in saved["arrays"].items()}
        for name in _MODEL_FIELDS:
            getattr(self.env.model, name)[:] = arrays.pop(f"model.{name}")
        self._set_physics(arrays.pop("physics"))
        self._settle()
        self.observation = arrays.pop("observation")
        for name, value in saved["plain"].items():
            setattr(self.env, name, value)
        for name, array in arrays.items():
            setattr(self.env, name.removeprefix("env."), array if array.ndim else array[()])

    def _physics(self) -> NDArray[np.float64]:
        state = np.empty(mujoco.mj_stateSize(self.env.model, _PHYSICS), np.float64)
        mujoco.mj_getState(self.env.model, self.env.data, state, _PHYSICS)
        return state

    def _set_physics(self, state: NDArray[np.float64]) -> None:
        mujoco.mj_setState(self.env.model, self.env.data, state, _PHYSICS)

    def _settle(self) -> None:
        """Bring positions of bodies and sites up to date with the state, and leave the state as it is."""
        state = self._physics()
        mujoco.mj_forward(self.env.model, self.env.data)
        self._set_physics(state)  # the solver's warm start has moved


@functools.cache
def stage_of(task: str) -> Stage:
    """This process's stage of a task."""
    return Stage(task)


def _far_corners(low: NDArray[np.float64], high: NDArray[np.float64]) -> NDArray[np.float64]:
    """A vector of the reset space; object and goal, if it has both, in opposite corners.

    Where they are too near to each other the package draws again, and would do so for ever: ours is fixed.
    """
    if len(low) < 6:
        return high.copy()
    pairs = [np.append(low[:3], high[3:]), np.append(high[:3], low[3:])]
    return max(pairs, key=lambda pair: float(np.linalg.norm(pair[:2] - pair[3:5])))


def _shows_simulator_memory(array: NDArray[Any]) -> bool:
    """Some attributes are windows on the simulator's arrays: they follow the physics by themselves."""
    while isinstance(array.base, np.ndarray):
        array = array.base
    return not array.flags.owndata


def _pack(array: NDArray[Any]) -> list[Any]:
    return [array.dtype.str, array.shape, base64.b64encode(array.tobytes()).decode()]


def _unpack(packed: list[Any]) -> NDArray[Any]:
    dtype, shape, data = packed
    return np.frombuffer(base64.b64decode(data), np.dtype(dtype)).reshape(shape).copy()
