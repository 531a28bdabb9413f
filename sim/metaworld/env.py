"""Meta-World 3.1.1 as an environment of ours: one episode at a time, as `sim.env.Env` promises.

What the package does is left as it is: scenes, resets, success, scripted experts. Ours is only the way in:

* An action is held for two of the package's 12.5 ms steps (40 Hz). It moves the hand's set-point, which the
  package then confines to the reach of the hand; the hand follows with a lag.
* Neither object nor goal is in the state. The goal of `reach`, `push` and `pick-place` is a small coloured
  ball in the picture (one or two pixels at 64 px); elsewhere the object itself shows what is to be done.
* Pictures come from the package's cameras, but (unless ``stock`` is asked for) without anti-aliasing, shadows
  and mirrors, with coarse round shapes. The `corner` cameras are mounted upside down there, and stay so here.

It needs an interpreter that has the package (`make metaworld`), but only from the first `reset` on.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from ...datasets.spec import Axis, Camera, RobotSpec
from ...datasets.starts import StartState
from .. import perturb as perturbations
from ..compatibility import METAWORLD
from ..env import EnvStep
from ..look import Look, Place
from ..wording import PARAPHRASES, Paraphrase, unknown
from .tasks import Task, draw_layout, draw_wider_layout, load

if TYPE_CHECKING:
    from .stage import Stage

CAMERAS = ("topview", "gripperPOV")
_EVERY_CAMERA = ("topview", "corner", "corner2", "corner3", "corner4", "behindGripper", "gripperPOV")
IMAGE_SIZES = (32, 480)
REPEAT = 2
_PACKAGE_RATE_HZ = 80.0
_STEP_MAX_M = 0.01  # how far one of the package's steps moves the set-point at action 1
_OPENING_MAX_M = 0.1
_HAND_LOW_M, _HAND_HIGH_M = (-0.525, 0.348, -0.0525), (0.525, 1.025, 0.7)
_ROBOT_M = 0.05
_ATTEMPTS, _PRESSED_M = 50, 0.001
_SNAPSHOT = "regrip metaworld 1"

PRIVILEGED_NAMES = (
    *(f"target.{c}" for c in "xyz"),
    *(f"hand.{c}" for c in "xyz"),
    "gripper_opening",
    *(f"object.{c}" for c in "xyz"),
    *(f"object.q{c}" for c in "wxyz"),
    *(f"goal.{c}" for c in "xyz"),
)


class MetaWorldEnv:
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
        suite: str = "mt3",
        cameras: Sequence[str] = CAMERAS,
        image_size: int = 64,
        control_mode: str = "ee_delta",
        paraphrase: Paraphrase = "canonical",
        render: str = "fast",
        perturb: str = "none",
    ) -> None:
        """Prepare a suite; nothing is built before the first `reset`.

        Args:
            suite: ``mt3`` or ``mt10``.
            cameras: any of the package's, in the order the policy gets them.
            image_size: height and width in pixels.
            control_mode: ``ee_delta``, the only one the package has.
            paraphrase: ``canonical`` sentences, ``train`` (canonical or a paraphrase, drawn by the start
                state) or ``heldout`` paraphrases.
            render: ``fast`` for software rendering, or ``stock``, with the package's own quality settings.
            perturb: ``none``, or a kind of `sim.perturb` that is known here.

        Raises:
            ValueError: if an argument is not one of these.
        """
        self._tasks = load(suite)
        for camera in cameras:
            if camera not in _EVERY_CAMERA:
                raise ValueError(unknown("camera", camera, list(_EVERY_CAMERA)))
        if len(set(cameras)) != len(cameras):
            raise ValueError(f"cameras {list(cameras)} name one twice; give each once")
        if not IMAGE_SIZES[0] <= image_size <= IMAGE_SIZES[1]:
            raise ValueError(
                f"image_size {image_size} is not within {IMAGE_SIZES[0]}..{IMAGE_SIZES[1]} pixels"
            )
        if control_mode != "ee_delta":
            raise ValueError(
                f"Meta-World has no control mode {control_mode!r}: its actions move the hand, so set "
                "control_mode to 'ee_delta'"
            )
        if paraphrase not in PARAPHRASES:
            raise ValueError(unknown("kind of paraphrase", paraphrase, list(PARAPHRASES)))
        if render not in ("fast", "stock"):
            raise ValueError(unknown("way to render", render, ["fast", "stock"]))
        perturbations.require("metaworld", suite, perturb)
        self._suite = suite
        self._render = render
        self._perturb = perturb
        self._look: Look | None = None
        self._paraphrase: Paraphrase = paraphrase
        self.spec = robot_spec(cameras, image_size)
        self.privileged_names = PRIVILEGED_NAMES
        self.privileged_dim = len(PRIVILEGED_NAMES)
        self._task: Task | None = None
        self._stage: Stage | None = None
        self._away = b""  # our state while someone else is on the stage
        self._steps = 0
        self._over = False
        self.instruction = ""
        self.max_steps = 0

    def reset(self, start: StartState) -> None:
        """Begin the episode that `start` names.

        Raises:
            ValueError: if the task is not of this environment's suite.
            RuntimeError: if this interpreter lacks Meta-World.
        """
        if start.suite != self._suite:
            raise ValueError(
                f"start {start} is of suite {start.suite!r}, but this environment plays {self._suite!r}: "
                f"use make(suite={start.suite!r})"
            )
        if start.task_name not in self._tasks:
            raise ValueError(unknown(f"task of suite {self._suite!r}", start.task_name, list(self._tasks)))
        task = self._tasks[start.task_name]
        stage = self._take_stage(task)
        if self._perturb == "layout":
            self._place_wider(stage, start)
        else:
            stage.reset(draw_layout(start, *stage.reset_space), self._hand_aside(start))
        self._look = Look(self._perturb, start, self._distractors(start))
        phrases = task.phrases(self._paraphrase)
        self._steps, self._over = 0, False
        self.instruction = phrases[int(start.generator("phrase").integers(len(phrases)))]

    def _hand_aside(self, start: StartState) -> NDArray[np.float64] | None:
        """(3,) metres; the package's hand never starts anywhere but at its place."""
        if self._perturb != "robot":
            return None
        return start.generator("perturb", "robot").uniform(-_ROBOT_M, _ROBOT_M, 3)

    def _place_wider(self, stage: Stage, start: StartState) -> None:
        """Begin with a layout in which nothing is pressed into another thing more than the package does."""
        for attempt in range(_ATTEMPTS):
            stage.reset(draw_wider_layout(start, *stage.reset_space, attempt))
            if stage.depth <= stage.usual_depth + _PRESSED_M:
                return

    def _distractors(self, start: StartState) -> tuple[Place, ...]:
        if self._perturb != "distractors":
            return ()
        known = self.privileged().astype(np.float64)
        hand, thing, goal = known[3:6], known[7:10], known[14:17]
        return self._on_stage().free_places(start, CAMERAS[0], np.stack((hand, thing, goal)))

    def step(self, action: NDArray[np.float32]) -> EnvStep:
        """Execute one control step (25 ms); `action` (4,) is clipped to the spec's limits.

        Raises:
            ValueError: if the action has another shape or is not finite.
            RuntimeError: if the episode is over.
        """
        stage = self._on_stage()
        if self._over:
            raise RuntimeError("the episode is over: call reset(start)")
        given = np.asarray(action, dtype=np.float64)
        if given.shape != (4,) or not np.isfinite(given).all():
            raise ValueError(f"action {given} is not 4 finite numbers (dx, dy, dz, gripper)")
        command = np.clip(given / _UNIT, -1.0, 1.0).astype(np.float32)
        success = False
        for _ in range(REPEAT):
            success = success or stage.step(command)
        self._steps += 1
        if stage.exploded:
            self._over = True
            return EnvStep(0.0, success=False, truncated=False, invalid=True)
        truncated = not success and self._steps >= self.max_steps
        self._over = success or truncated
        return EnvStep(float(success), success, truncated)

    def state(self) -> NDArray[np.float32]:
        """(4,) hand position in the package's world frame (m) and the distance between the fingers (m)."""
        seen = self._on_stage().look()
        return np.append(seen[:3], seen[3] * _OPENING_MAX_M).astype(np.float32)

    def privileged(self) -> NDArray[np.float32]:
        """(17,) as `privileged_names` lists: the instructed object's position first."""
        stage = self._on_stage()
        seen, goal = stage.look(), stage.env._target_pos
        return np.concatenate([seen[4:7], self.state(), seen[4:11], goal]).astype(np.float32)

    def render(self, camera: str) -> NDArray[np.uint8]:
        """One RGB frame (H,W,3) of the size the spec gives.

        Raises:
            ValueError: if the environment was made without this camera.
            RenderError: if this machine has no OpenGL.
        """
        sizes = {item.name: item.height for item in self.spec.cameras}
        if camera not in sizes:
            raise ValueError(unknown("camera of this environment", camera, list(sizes)))
        return self._on_stage().render(camera, sizes[camera], self._render == "fast", self._look)

    def expert(self) -> Expert:
        """The package's scripted policy for the present episode, from its present state on."""
        return Expert(self)

    def advice(self) -> NDArray[np.float32]:
        """(4,) what the package's scripted policy would do now, in the spec's units."""
        return (self._on_stage().advice() * _UNIT).astype(np.float32)

    def snapshot(self) -> bytes:
        """The episode as a JSON line, then the stage's state."""
        stage = self._on_stage()
        assert self._task is not None, "who is on a stage plays a task"
        header = {
            "format": _SNAPSHOT,
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
        header = json.loads(line)
        mine, theirs = (_SNAPSHOT, self._suite), (header.get("format"), header.get("suite"))
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
        if self._stage is not None and self._stage.actor is self:
            self._stage.actor = None
        self._stage = None

    def leave(self) -> None:
        """Take the state off the stage, because another environment comes."""
        assert self._stage is not None, "only who is on a stage is asked to leave it"
        self._away = self._stage.save()

    def _take_stage(self, task: Task) -> Stage:
        """Be on the task's stage; what is there is about to be overwritten."""
        stage = _stage_of(task.name)
        if stage is not self._stage:
            self.close()
        stage.enter(self)
        self._task, self._stage, self.max_steps = task, stage, task.max_steps
        return stage

    def _on_stage(self) -> Stage:
        """The stage with our episode on it."""
        stage = self._stage
        if stage is None:
            raise RuntimeError("the environment has no episode yet: call reset(start) first")
        if stage.actor is not self:
            stage.enter(self)
            stage.load(self._away)
        return stage


class Expert:
    """The package's scripted policy; it remembers nothing."""

    def __init__(self, env: MetaWorldEnv) -> None:
        self._env = env

    def act(self) -> NDArray[np.float32]:
        """The action (4,) for the present state."""
        return self._env.advice()


def make(
    suite: str = "mt3",
    cameras: Sequence[str] = CAMERAS,
    image_size: int = 64,
    control_mode: Literal["ee_delta"] = "ee_delta",
    paraphrase: Paraphrase = "canonical",
    render: str = "fast",
    perturb: str = "none",
) -> MetaWorldEnv:
    """`MetaWorldEnv` from JSON-able arguments; a worker calls it as ``regrip.sim.metaworld.env:make``."""
    return MetaWorldEnv(suite, tuple(cameras), image_size, control_mode, paraphrase, render, perturb)


def robot_spec(cameras: Sequence[str] = CAMERAS, image_size: int = 64) -> RobotSpec:
    """What actions and observations mean there; needs no simulator."""
    step_m = _STEP_MAX_M * REPEAT
    return RobotSpec(
        name="metaworld-sawyer",
        control_mode="ee_delta",
        control_rate_hz=_PACKAGE_RATE_HZ / REPEAT,
        rotation="none",
        gripper="effort from -1 (opens) to 1 (closes)",
        action=(*(Axis(f"d{c}", "m", -step_m, step_m) for c in "xyz"), Axis("gripper", "", -1.0, 1.0)),
        state=(
            *(Axis(f"hand_{c}", "m", _HAND_LOW_M[i], _HAND_HIGH_M[i]) for i, c in enumerate("xyz")),
            Axis("gripper_opening", "m", 0.0, _OPENING_MAX_M),
        ),
        cameras=tuple(Camera(name, image_size, image_size) for name in cameras),
    )


# What the package's action 1 means in the spec's units.
_UNIT = robot_spec().action_high.astype(np.float64)


def _stage_of(task: str) -> Stage:
    METAWORLD.check_interpreter()
    try:
        from .stage import stage_of
    except ModuleNotFoundError as error:
        raise METAWORLD.missing(error) from error
    return stage_of(task)
