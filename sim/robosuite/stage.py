"""A built robosuite environment (of 1.5, or LIBERO's 1.4) in this process, on which ours take turns.

Building a task takes seconds and hundreds of megabytes, so a worker builds each once: who leaves takes the
complete state along, who comes back puts it there again. An episode begins with the package's own reset, but
without building the model again, which is an option of the package (``hard_reset=False``).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from robosuite.utils import transform_utils  # pyright: ignore[reportMissingImports]

from ...datasets.starts import LATTICE_M, LATTICE_MODULUS, StartState
from ..explosion import broke_down
from ..look import Look, Place
from .picture import Pictures, Profile
from .state import Memory
from .tasks import Task

Array = NDArray[np.float64]

# A process keeps so many built tasks, a suite of LIBERO; each of those takes 0.3 to 0.6 GB.
MOST_STAGES = 10
_LOOKING = "agentview"  # the camera that sees the distractors; 1.5 and 1.4 both have it


class Actor(Protocol):
    """Who can be asked to leave a stage."""

    def leave(self) -> None:
        """Take your state along; someone else comes."""
        ...


@dataclass(frozen=True)
class Things:
    """Where the instructed object is and where it has to go: (3,) metres and (4,) quaternion wxyz."""

    position: NDArray[np.float64]
    quaternion: NDArray[np.float64]
    goal: NDArray[np.float64]


class Stage:
    """A task's simulator and who is on it.

    Attributes:
        env: the package's environment.
        actor: whose state it holds, or None.
    """

    def __init__(
        self,
        env: Any,
        begin: Callable[[Any, StartState, Array | None, bool], None],
        look: Callable[[Any], Things],
    ) -> None:
        """Take a package's environment, just built.

        Args:
            env: built alike in every process.
            begin: resets it to a start, the arm's joints moved by some (7,) rad, the objects in their usual
                places or in wider ones; what it draws, it draws from the start.
            look: where the things of the task are.
        """
        self.env = env
        self.actor: Actor | None = None
        self._begin, self._look = begin, look
        self._pictures = Pictures(env.sim)
        self._robot: Any = env.robots[0]
        env.reset()  # from here on every attribute exists
        self._memory = Memory(env)
        self._first = self._memory.save()

    def enter(self, actor: Actor) -> None:
        """Make the stage free for `actor`, who then resets or loads."""
        if self.actor is not None and self.actor is not actor:
            self.actor.leave()
        self.actor = actor

    def reset(self, start: StartState, aside: Array | None = None, wide: bool = False) -> None:
        """Begin an episode; it depends on nothing before.

        Args:
            start: names it.
            aside: (7,) rad by which the arm's joints are moved.
            wide: the objects may stand farther out than the package puts them.
        """
        self._memory.load(self._first)
        self._begin(self.env, start, aside, wide)

    def step(self, action: NDArray[np.float64]) -> bool:
        """One control step, action (7,) in [-1, 1]; True when the package says success."""
        self.env.step(action[: self.env.action_dim])  # a tool without fingers has no seventh
        return bool(self.env._check_success())

    @property
    def exploded(self) -> bool:
        """Whether the physics has broken down."""
        return broke_down(self.env.sim.data._data)

    def proprioception(self) -> NDArray[np.float64]:
        """(8,) hand position (m), its rotation as the package's axis-angle (rad), both fingers (m)."""
        robot, data = self._robot, self.env.sim.data
        position = data.site_xpos[_only(robot.eef_site_id)]
        quaternion = data.get_body_xquat(_only(robot.robot_model.eef_name))
        rotation = transform_utils.quat2axisangle(transform_utils.convert_quat(quaternion, to="xyzw"))
        fingers = np.zeros(2)
        addresses = _only(robot._ref_gripper_joint_pos_indexes)
        if addresses:
            fingers[:] = data.qpos[addresses]
        return np.concatenate([position, rotation, fingers])

    def things(self) -> Things:
        return self._look(self.env)

    def render(self, camera: str, size: int, profile: Profile, look: Look | None) -> NDArray[np.uint8]:
        """One upright frame (size,size,3)."""
        return self._pictures.take(camera, size, profile, look)

    def free_places(self, start: StartState, way: Array) -> tuple[Place, ...]:
        """Where distractors stand in the episode that has just begun, beside the line through `way` (n,3)."""
        return self._pictures.free_places(start, _LOOKING, way)

    def save(self) -> bytes:
        return self._memory.save()

    def load(self, state: bytes) -> None:
        """Go on from a `save` of the same task, in whichever process it was made, bit for bit."""
        self._memory.load(state)

    def close(self) -> None:
        """Let go of everything; whoever is on it takes its state along."""
        if self.actor is not None:
            self.actor.leave()
            self.actor = None
        self._pictures.close()


class Stages:
    """The tasks that this process has built; the one not used for longest makes room for another."""

    def __init__(self, build: Callable[[Task], Stage]) -> None:
        self._build = build
        self._built: dict[str, Stage] = {}

    def of(self, task: Task) -> Stage:
        """The stage of a task."""
        stage = self._built.pop(task.package_name, None)
        if stage is None:
            if len(self._built) >= MOST_STAGES:
                longest_unused = next(iter(self._built))
                self._built[longest_unused].close()
                del self._built[longest_unused]
            stage = self._build(task)
        self._built[task.package_name] = stage
        return stage

    def dismiss(self, actor: Actor) -> None:
        """Forget an actor that will not come back to where it is."""
        for stage in self._built.values():
            if stage.actor is actor:
                stage.actor = None


def shift_to_lattice(x_m: float, start: StartState) -> float:
    """A coordinate near `x_m` that no other split ever has; less than a millimetre away."""
    reach_m = LATTICE_M * LATTICE_MODULUS / 2
    return start.lattice(start.generator("lattice"), x_m - reach_m, x_m + reach_m)


def _only(item: Any) -> Any:
    """What 1.5 keeps for each arm, and 1.4 for its only one."""
    return item["right"] if isinstance(item, dict) else item
