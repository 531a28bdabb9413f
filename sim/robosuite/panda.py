"""An environment of ours around a package's Panda arm: what robosuite and LIBERO have in common.

Both steer the hand by robosuite's operational space controller at 20 Hz: its actions are numbers from -1 to 1
that mean up to 5 cm and 0.5 rad from where the hand is. Ours are in metres and radians, converted here.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ...datasets.spec import Axis, Camera, RobotSpec
from ...datasets.starts import StartState
from .. import perturb as perturbations
from ..env import EnvStep
from ..look import Look, Place
from ..wording import PARAPHRASES, Paraphrase, unknown
from .tasks import Task

if TYPE_CHECKING:
    from .picture import Profile
    from .stage import Stage, Stages

IMAGE_SIZES = (32, 480)
CONTROL_RATE_HZ = 20.0
PROFILES = ("fast", "stock")
_STEP_MAX_M, _TURN_MAX_RAD = 0.05, 0.5  # the controller's output at action 1
_FINGER_MAX_M = 0.04
_ROBOT_RAD = 0.1

PRIVILEGED_NAMES = (
    *(f"object.{c}" for c in "xyz"),
    *(f"hand.{c}" for c in "xyz"),
    *("finger.left", "finger.right"),
    *(f"object.q{c}" for c in "wxyz"),
    *(f"goal.{c}" for c in "xyz"),
)


class PandaEnv:
    """Implements `Env`.

    Attributes:
        privileged_names: what each entry of `privileged()` is.
    """

    spec: RobotSpec
    privileged_dim: int
    instruction: str
    max_steps: int

    def __init__(
        self,
        package: str,
        suite: str,
        tasks: dict[str, Task],
        open_stages: Callable[[], Stages],
        spec: RobotSpec,
        paraphrase: Paraphrase,
        render: Profile,
        perturb: str = "none",
    ) -> None:
        """Prepare a suite; nothing of the package is imported before the first `reset`.

        Args:
            package: for snapshots and messages.
            suite: its name.
            tasks: the suite's tasks by name.
            open_stages: imports the package.
            spec: see `robot_spec`.
            paraphrase: which wording of the instructions is used.
            render: the package's own pixels, or fast ones.
            perturb: ``none``, or a kind of `sim.perturb` that is known there.

        Raises:
            ValueError: if there is no such wording, kind of picture or perturbation.
        """
        if paraphrase not in PARAPHRASES:
            raise ValueError(unknown("kind of paraphrase", paraphrase, list(PARAPHRASES)))
        if render not in PROFILES:
            raise ValueError(unknown("kind of rendering", render, list(PROFILES)))
        perturbations.require(package, suite, perturb)
        self._format = f"regrip {package} 1"
        self._suite, self._tasks, self._open_stages = suite, tasks, open_stages
        self._paraphrase: Paraphrase = paraphrase
        self._profile: Profile = render
        self._perturb = perturb
        self._look: Look | None = None
        self.spec = spec
        self.privileged_names = PRIVILEGED_NAMES
        self.privileged_dim = len(PRIVILEGED_NAMES)
        self._task: Task | None = None
        self._away = b""  # our state while someone else is on the stage
        self._steps = 0
        self._over = False
        self.instruction = ""
        self.max_steps = 0

    def reset(self, start: StartState) -> None:
        """Begin the episode that `start` names.

        Raises:
            ValueError: if the task is not of this environment's suite.
            RuntimeError: if this interpreter lacks the package, or has a mujoco it does not run on.
        """
        if start.suite != self._suite:
            raise ValueError(
                f"start {start} is of suite {start.suite!r}, but this environment plays {self._suite!r}: "
                f"use make(suite={start.suite!r})"
            )
        if start.task_name not in self._tasks:
            raise ValueError(unknown(f"task of suite {self._suite!r}", start.task_name, list(self._tasks)))
        task = self._tasks[start.task_name]
        self._take_stage(task).reset(start, self._aside(start), wide=self._perturb == "layout")
        self._look = Look(self._perturb, start, self._distractors(start))
        phrases = task.phrases(self._paraphrase)
        self._steps, self._over = 0, False
        self.instruction = phrases[int(start.generator("phrase").integers(len(phrases)))]

    def _aside(self, start: StartState) -> NDArray[np.float64] | None:
        """(7,) radians from where the arm's joints would start."""
        if self._perturb != "robot":
            return None
        return start.generator("perturb", "robot").uniform(-_ROBOT_RAD, _ROBOT_RAD, 7)

    def _distractors(self, start: StartState) -> tuple[Place, ...]:
        if self._perturb != "distractors":
            return ()
        stage = self._on_stage()
        things = stage.things()
        return stage.free_places(start, np.stack((stage.proprioception()[:3], things.position, things.goal)))

    def step(self, action: NDArray[np.float32]) -> EnvStep:
        """Execute one control step (50 ms); `action` (7,) is clipped to the spec's limits.

        Raises:
            ValueError: if the action has another shape or is not finite.
            RuntimeError: if the episode is over.
        """
        stage = self._on_stage()
        if self._over:
            raise RuntimeError("the episode is over: call reset(start)")
        given = np.asarray(action, dtype=np.float64)
        if given.shape != (7,) or not np.isfinite(given).all():
            raise ValueError(f"action {given} is not 7 finite numbers (dx, dy, dz, rx, ry, rz, gripper)")
        success = stage.step(np.clip(given / UNIT, -1.0, 1.0))
        self._steps += 1
        if stage.exploded:
            self._over = True
            return EnvStep(0.0, success=False, truncated=False, invalid=True)
        truncated = not success and self._steps >= self.max_steps
        self._over = success or truncated
        return EnvStep(float(success), success, truncated)

    def state(self) -> NDArray[np.float32]:
        """(8,) hand position (m), its rotation as the package's axis-angle (rad), both fingers (m)."""
        return self._on_stage().proprioception().astype(np.float32)

    def privileged(self) -> NDArray[np.float32]:
        """(15,) as `privileged_names` lists: the instructed object's position first."""
        stage = self._on_stage()
        things, seen = stage.things(), stage.proprioception()
        parts = (things.position, seen[:3], seen[6:], things.quaternion, things.goal)
        return np.concatenate(parts).astype(np.float32)

    def render(self, camera: str) -> NDArray[np.uint8]:
        """One RGB frame (H,W,3) of the size and orientation the spec gives.

        Raises:
            ValueError: if the environment was made without this camera.
            RenderError: if this machine has no OpenGL.
        """
        known = {item.name: item for item in self.spec.cameras}
        if camera not in known:
            raise ValueError(unknown("camera of this environment", camera, list(known)))
        frame = self._on_stage().render(camera, known[camera].height, self._profile, self._look)
        return frame[:, ::-1].copy() if known[camera].orientation == "mirrored" else frame

    def snapshot(self) -> bytes:
        """The episode as a JSON line, then the stage's state."""
        stage = self._on_stage()
        assert self._task is not None, "who is on a stage plays a task"
        header = {
            "format": self._format,
            "suite": self._suite,
            "perturb": perturbations.save(self._look),
            "task": self._task.name,
            "instruction": self.instruction,
            "steps": self._steps,
            "over": self._over,
        }
        return json.dumps(header).encode() + b"\n" + stage.save()

    def restore(self, snapshot: bytes) -> None:
        """Go on from a snapshot of any environment of the same suite, bit for bit.

        Raises:
            ValueError: if the snapshot is of another suite or version.
        """
        line, _, body = snapshot.partition(b"\n")
        header: dict[str, Any] = json.loads(line)
        mine, theirs = (self._format, self._suite), (header.get("format"), header.get("suite"))
        if theirs != mine:
            raise ValueError(
                f"snapshot is of {theirs}, this environment is {mine}: make it with the same suite"
            )
        look = perturbations.load(header.get("perturb"), self._perturb)
        self._take_stage(self._tasks[header["task"]]).load(body)
        self._look = look
        self._steps, self._over = header["steps"], header["over"]
        self.instruction = header["instruction"]

    def close(self) -> None:
        self._leave_for_good()
        self._task = None

    def leave(self) -> None:
        """Take the state off the stage, because another environment comes."""
        assert self._task is not None, "only who is on a stage is asked to leave it"
        self._away = self._open_stages().of(self._task).save()

    def _take_stage(self, task: Task) -> Stage:
        """Be on the task's stage; what is there is about to be overwritten."""
        stage = self._open_stages().of(task)
        if self._task is not task:
            self._leave_for_good()
        stage.enter(self)
        self._task, self.max_steps = task, task.max_steps
        return stage

    def _on_stage(self) -> Stage:
        """The stage with our episode on it."""
        if self._task is None:
            raise RuntimeError("the environment has no episode yet: call reset(start) first")
        stage = self._open_stages().of(self._task)
        if stage.actor is not self:
            stage.enter(self)
            stage.load(self._away)
        return stage

    def _leave_for_good(self) -> None:
        if self._task is not None:
            self._open_stages().dismiss(self)


def robot_spec(
    name: str, gripper: str, cameras: Sequence[str], image_size: int, orientation: str = "upright"
) -> RobotSpec:
    """What actions and observations mean there; needs no simulator."""
    return RobotSpec(
        name=name,
        control_mode="ee_delta",
        control_rate_hz=CONTROL_RATE_HZ,
        rotation="rotation_vector_base",
        gripper=gripper,
        action=(
            *(Axis(f"d{c}", "m", -_STEP_MAX_M, _STEP_MAX_M) for c in "xyz"),
            *(Axis(f"r{c}", "rad", -_TURN_MAX_RAD, _TURN_MAX_RAD) for c in "xyz"),
            Axis("gripper", "", -1.0, 1.0),
        ),
        state=(
            *(Axis(f"hand_{c}", "m", -2.0, 2.0) for c in "xyz"),
            *(Axis(f"hand_r{c}", "rad", -2 * np.pi, 2 * np.pi) for c in "xyz"),
            Axis("finger_left", "m", 0.0, _FINGER_MAX_M),
            Axis("finger_right", "m", -_FINGER_MAX_M, 0.0),
        ),
        cameras=tuple(Camera(camera, image_size, image_size, orientation) for camera in cameras),
    )


def check_pictures(cameras: Sequence[str], known: Sequence[str], image_size: int) -> None:
    """Refuse cameras that do not exist and sizes that cannot be drawn.

    Raises:
        ValueError: naming the nearest camera.
    """
    for camera in cameras:
        if camera not in known:
            raise ValueError(unknown("camera", camera, list(known)))
    if len(set(cameras)) != len(cameras):
        raise ValueError(f"cameras {list(cameras)} name one twice; give each once")
    if not IMAGE_SIZES[0] <= image_size <= IMAGE_SIZES[1]:
        raise ValueError(f"image_size {image_size} is not within {IMAGE_SIZES[0]}..{IMAGE_SIZES[1]} pixels")


# What the package's action 1 means in the spec's units.
UNIT = robot_spec("", "", (), 64).action_high.astype(np.float64)
