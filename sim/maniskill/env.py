"""ManiSkill 3.0.1 as an environment of ours: one episode at a time, as `sim.env.Env` promises.

What the package does is left as it is: scenes, resets, controllers, physics, success. Ours is the way in:

* An action is in metres and radians of the robot's base frame. With ``ee_delta`` it is a displacement from
  where the tool centre point is (not from where it was told to go), which the arm follows with a lag.
* Neither objects nor goals are in the state. The package hides the green ball of `PickCube` from its cameras
  and puts its position into the observation; here it is seen.
* Pictures come from the package's cameras, with its default shader; ``fast`` thins out large meshes,
  ``stock`` leaves them.
* The package's own state does not restore bit for bit, so a snapshot is the start and all actions since.

It needs an interpreter that has the package (`make maniskill`), but only from the first `reset` on.
"""

from __future__ import annotations

import base64
import dataclasses
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from ...datasets.spec import Axis, Camera, RobotSpec
from ...datasets.starts import StartState
from .. import perturb as perturbations
from ..compatibility import MANISKILL
from ..env import EnvStep
from ..look import Look
from ..wording import PARAPHRASES, Paraphrase
from . import control
from .tasks import SUITES, Task, episode_seed, load, unknown

if TYPE_CHECKING:
    from .experts import Expert
    from .stage import Stage

IMAGE_SIZES = (32, 512)
MODES = {"ee_delta": "pd_ee_delta_pose", "joint_position": "pd_joint_pos"}
RENDERS = ("fast", "stock")
_SNAPSHOT = "regrip maniskill 1"
_NUM_OBJECTS = 3
_ROBOT_RAD = 0.1
_SHIFT_M = (0.04, 0.08)
_PREPARED: set[str] = set()  # tasks of which this process has built one

PRIVILEGED_NAMES = (
    *(f"target.{c}" for c in "xyz"),
    *(f"tcp.{c}" for c in "xyz"),
    "gripper_width",
    *(f"object{i}.{c}" for i in range(_NUM_OBJECTS) for c in ("x", "y", "z", "qw", "qx", "qy", "qz")),
)


class ManiSkillEnv:
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
        suite: str = "cubes",
        cameras: Sequence[str] | None = None,
        image_size: int = 64,
        control_mode: str = "ee_delta",
        paraphrase: Paraphrase = "canonical",
        render: str = "fast",
        perturb: str = "none",
    ) -> None:
        """Prepare a suite; nothing is built before the first `reset`.

        Args:
            suite: ``cubes``, ``panda``, ``wrist`` or ``stick``.
            cameras: some of the suite's, in the order the policy gets them; None for all.
            image_size: height and width in pixels.
            control_mode: ``ee_delta`` or ``joint_position``.
            paraphrase: ``canonical`` sentences, ``train`` (canonical or a paraphrase, drawn by the start
                state) or ``heldout`` paraphrases.
            render: ``fast`` or ``stock`` pictures; physics are the same.
            perturb: ``none``, or a kind of `sim.perturb` that is known here.

        Raises:
            ValueError: if an argument is not one of these.
        """
        self._tasks = load(suite)
        chosen = suite_cameras(suite) if cameras is None else tuple(cameras)
        for camera in chosen:
            if camera not in suite_cameras(suite):
                raise ValueError(unknown(f"camera of suite {suite!r}", camera, list(suite_cameras(suite))))
        if len(set(chosen)) != len(chosen):
            raise ValueError(f"cameras {list(chosen)} name one twice; give each once")
        if not IMAGE_SIZES[0] <= image_size <= IMAGE_SIZES[1]:
            raise ValueError(
                f"image_size {image_size} is not within {IMAGE_SIZES[0]}..{IMAGE_SIZES[1]} pixels"
            )
        if control_mode not in MODES:
            raise ValueError(unknown("control mode", control_mode, list(MODES)))
        if paraphrase not in PARAPHRASES:
            raise ValueError(unknown("kind of paraphrase", paraphrase, list(PARAPHRASES)))
        if render not in RENDERS:
            raise ValueError(unknown("kind of rendering", render, list(RENDERS)))
        perturbations.require("maniskill", suite, perturb)
        self._perturb = perturb
        self._suite = suite
        self._paraphrase: Paraphrase = paraphrase
        self._image_size = image_size
        self._render: Literal["fast", "stock"] = "stock" if render == "stock" else "fast"
        self.spec = robot_spec(suite, chosen, image_size, control_mode)
        self._low = self.spec.action_low.astype(np.float64)
        self._high = self.spec.action_high.astype(np.float64)
        self.privileged_names = PRIVILEGED_NAMES
        self.privileged_dim = len(PRIVILEGED_NAMES)
        self._start: StartState | None = None
        self._task: Task | None = None
        self._stage: Stage | None = None
        self._actions: list[NDArray[np.float32]] = []
        self._over = False
        self.instruction = ""
        self.max_steps = 0

    def reset(self, start: StartState) -> None:
        """Begin the episode that `start` names.

        Raises:
            ValueError: if the task is not of this environment's suite, or needs meshes to be downloaded.
            RuntimeError: if this interpreter lacks ManiSkill, or this machine a Vulkan device for it.
        """
        if start.suite != self._suite:
            raise ValueError(
                f"start {start} is of suite {start.suite!r}, but this environment plays {self._suite!r}: "
                f"use make(suite={start.suite!r})"
            )
        if start.task_name not in self._tasks:
            raise ValueError(unknown(f"task of suite {self._suite!r}", start.task_name, list(self._tasks)))
        task = self._tasks[start.task_name]
        aside = None
        if self._perturb == "robot":
            aside = start.generator("perturb", "robot").uniform(-_ROBOT_RAD, _ROBOT_RAD, 7)
        shift = self._shift(start) if self._perturb == "layout" else None
        look = Look(self._perturb, start)
        self._build(task).reset(episode_seed(start), look, aside, shift, task.objects[:2])
        phrases = task.phrases(self._paraphrase)
        self._start, self._actions, self._over = start, [], False
        self.instruction = phrases[int(start.generator("phrase").integers(len(phrases)))]
        self.max_steps = task.max_steps

    def _shift(self, start: StartState) -> NDArray[np.float64]:
        """(2,) metres by which all that is on the table is moved."""
        draw = start.generator("perturb", "layout")
        far, heading = draw.uniform(*_SHIFT_M), draw.uniform(-np.pi, np.pi)
        moved: NDArray[np.float64] = far * np.array([np.cos(heading), np.sin(heading)])
        return moved

    def step(self, action: NDArray[np.float32]) -> EnvStep:
        """Execute one control step (50 ms); `action` (A,) is clipped to the spec's limits.

        Raises:
            ValueError: if the action has another shape or is not finite.
            RuntimeError: if the episode is over.
        """
        stage = self._playing()
        if self._over:
            raise RuntimeError("the episode is over: call reset(start)")
        given = np.asarray(action, dtype=np.float32)
        if given.shape != (self.spec.action_dim,) or not np.isfinite(given).all():
            names = ", ".join(axis.name for axis in self.spec.action)
            raise ValueError(f"action {given} is not {self.spec.action_dim} finite numbers ({names})")
        self._actions.append(given.copy())
        clipped = np.clip(given.astype(np.float64), self._low, self._high)
        success = stage.step(control.command(clipped, self.spec.control_mode, self._has_gripper))
        if stage.exploded:
            self._over = True
            return EnvStep(0.0, success=False, truncated=False, invalid=True)
        truncated = not success and len(self._actions) >= self.max_steps
        self._over = success or truncated
        return EnvStep(float(success), success, truncated)

    def state(self) -> NDArray[np.float32]:
        """(15,) joints (rad), gripper width (m), tool centre point (m) and its quaternion w, x, y, z.

        Both in the base frame; the quaternion's sign makes x >= 0: straight down is (0, 1, 0, 0). The suite
        ``stick`` has no gripper, so no width: (14,).
        """
        stage = self._playing()
        joints, tcp = stage.joints(), stage.tcp()
        width = [joints[7:9].sum()] if self._has_gripper else []
        quaternion = tcp[3:] if tcp[4] >= 0 else -tcp[3:]
        parts = (joints[:7], width, tcp[:3] - stage.base()[:3], quaternion)
        return np.concatenate(parts).astype(np.float32)

    def privileged(self) -> NDArray[np.float32]:
        """(28,) as `privileged_names` lists: the instructed object's position first.

        Positions are in metres in the base frame; what a task lacks is zero.
        """
        stage = self._playing()
        assert self._task is not None, "who plays has a task"
        base = stage.base()[:3]
        poses = np.zeros((_NUM_OBJECTS, 7), np.float32)
        known = stage.poses(self._task.objects)
        poses[: len(known)] = known
        poses[: len(known), :3] -= base
        width = stage.joints()[7:9].sum()
        return np.concatenate(
            [poses[0, :3], stage.tcp()[:3] - base, [width], poses.ravel()], dtype=np.float32
        )

    def render(self, camera: str) -> NDArray[np.uint8]:
        """One RGB frame (H,W,3) of the size the spec gives.

        Raises:
            ValueError: if the environment was made without this camera.
        """
        names = [item.name for item in self.spec.cameras]
        if camera not in names:
            raise ValueError(unknown("camera of this environment", camera, names))
        return self._playing().render(camera)

    def expert(self) -> Expert:
        """Our scripted policy for the present episode, from its present state on.

        Raises:
            ValueError: if the task or the control mode has none.
        """
        from .experts import EXPERTS

        self._playing()
        assert self._task is not None, "who plays has a task"
        if self._task.name not in EXPERTS or self.spec.control_mode != "ee_delta":
            raise ValueError(
                f"there is no scripted expert for {self._task.name} with {self.spec.control_mode}: there are "
                f"for {', '.join(EXPERTS)} with ee_delta (suite 'cubes'); bring demonstrations for the others"
            )
        return EXPERTS[self._task.name](self)

    def snapshot(self) -> bytes:
        """The start and every action since, as JSON."""
        self._playing()
        assert self._start is not None, "who plays has a start"
        actions = b"".join(action.tobytes() for action in self._actions)
        return json.dumps(
            {
                "format": _SNAPSHOT,
                "suite": self._suite,
                "control_mode": self.spec.control_mode,
                "perturb": self._perturb,
                "start": dataclasses.asdict(self._start),
                "instruction": self.instruction,
                "actions": base64.b64encode(actions).decode(),
            }
        ).encode()

    def restore(self, snapshot: bytes) -> None:
        """Go on from a snapshot of any environment of the same suite, bit for bit, by playing it again.

        Raises:
            ValueError: if the snapshot is of another suite, control mode or version.
        """
        saved = json.loads(snapshot)
        mine = (_SNAPSHOT, self._suite, self.spec.control_mode)
        theirs = (saved.get("format"), saved.get("suite"), saved.get("control_mode"))
        if theirs != mine:
            raise ValueError(
                f"snapshot is of {theirs}, this environment is {mine}: make it with the same suite and "
                "control mode"
            )
        perturbations.require_same(saved.get("perturb", "none"), self._perturb)
        actions = np.frombuffer(base64.b64decode(saved["actions"]), np.float32)
        self.reset(StartState(**saved["start"]))
        for action in actions.reshape(-1, self.spec.action_dim):
            self.step(action)
        self.instruction = saved["instruction"]

    def prepare(self) -> None:
        """Load what the first reset and picture of this process would have to."""
        names = list(self._tasks)
        if names[0] not in _PREPARED:
            self.reset(StartState(f"{self._suite}/{names[0]}", "train", 0))
            for camera in self.spec.cameras:
                self.render(camera.name)
            self.close()
            _PREPARED.add(names[0])

    def close(self) -> None:
        if self._stage is not None:
            self._stage.close()
        self._stage, self._task = None, None

    @property
    def _has_gripper(self) -> bool:
        return self.spec.action[-1].name == "gripper"

    def _build(self, task: Task) -> Stage:
        """A stage of the task; the present one if it is."""
        if self._stage is None or self._task != task:
            self.close()
            self._stage = _stage(task.name, MODES[self.spec.control_mode], self._image_size, self._render)
            self._task = task
        return self._stage

    def _playing(self) -> Stage:
        if self._stage is None:
            raise RuntimeError("the environment has no episode yet: call reset(start) first")
        return self._stage


def make(
    suite: str = "cubes",
    cameras: Sequence[str] | None = None,
    image_size: int = 64,
    control_mode: Literal["ee_delta", "joint_position"] = "ee_delta",
    paraphrase: Paraphrase = "canonical",
    render: Literal["fast", "stock"] = "fast",
    prepare: bool = False,
    perturb: str = "none",
) -> ManiSkillEnv:
    """`ManiSkillEnv` from JSON-able arguments; a worker calls it as ``regrip.sim.maniskill.env:make``.

    With `prepare` the package and its renderer are loaded here and now, once in a process, not at the first
    reset: some 20 s of a core.
    """
    env = ManiSkillEnv(suite, cameras, image_size, control_mode, paraphrase, render, perturb)
    if prepare:
        env.prepare()
    return env


def suite_cameras(suite: str) -> tuple[str, ...]:
    """The cameras that every task of a suite has."""
    load(suite)
    return ("base_camera", "hand_camera") if suite == "wrist" else ("base_camera",)


def robot_spec(
    suite: str = "cubes",
    cameras: Sequence[str] | None = None,
    image_size: int = 64,
    control_mode: str = "ee_delta",
) -> RobotSpec:
    """What actions and observations mean there; needs no simulator."""
    stick = SUITES[suite] == ("PushT",)
    width = () if stick else (Axis("gripper_width", "m", 0.0, control.WIDTH_HIGH_M),)
    return RobotSpec(
        name="maniskill-panda-stick" if stick else "maniskill-panda",
        control_mode=control_mode,
        control_rate_hz=control.CONTROL_RATE_HZ,
        rotation="rotation_vector_base" if control_mode == "ee_delta" else "none",
        gripper="none" if stick else "commanded opening width in metres, -0.02 presses the fingers together",
        action=control.action_axes(control_mode, has_gripper=not stick),
        state=(
            *control.joint_axes(),
            *width,
            *(Axis(f"tcp_{c}", "m", -1.0, 1.0) for c in "xyz"),
            *(Axis(f"tcp_q{c}", "", -1.0, 1.0) for c in "wxyz"),
        ),
        cameras=tuple(
            Camera(name, image_size, image_size)
            for name in (suite_cameras(suite) if cameras is None else cameras)
        ),
    )


def _stage(task: str, control_mode: str, image_size: int, render: Literal["fast", "stock"]) -> Stage:
    MANISKILL.check_interpreter()
    try:
        from .stage import Stage
    except ModuleNotFoundError as error:
        raise MANISKILL.missing(error) from error
    return Stage(task, control_mode, image_size, render)
