"""The tabletop environment: one episode at a time, as `sim.env.Env` promises."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ...datasets.spec import Axis, Camera, RobotSpec
from ...datasets.starts import StartState
from ..env import Env, EnvStep
from ..wording import PARAPHRASES, Paraphrase, unknown
from . import control
from . import perturb as perturbations
from .control import CONTROL_MODES, ControlMode
from .experts import Expert
from .goals import Goal, Memory, relaxed
from .kinematics import ArmKinematics
from .layout import Layout
from .mujoco_world import MujocoWorld
from .scenes import CONTROL_RATE_HZ, HOME_JOINTS, Scene
from .tasks import Suite, Task, load, suites

CAMERAS = ("front", "wrist")
IMAGE_SIZES = (32, 512)
_START_JITTER_RAD = 0.04
_SNAPSHOT = "regrip tabletop 4"
_ASSIST_REACH_M = 0.06
_ASSIST_N_PER_M = 40.0


class TabletopEnv:
    """Implements `Env` on MuJoCo.

    Attributes:
        suite: whose tasks it plays.
        privileged_names: what each entry of `privileged()` is.
        assist: see `sim.env.Assisting`: the instructed object is drawn between the fingers, see `assistance`.
        relax: likewise; what the easier goal asks for, `goals.relaxed` says.
    """

    spec: RobotSpec
    privileged_dim: int
    instruction: str
    max_steps: int

    def __init__(
        self,
        suite: str = "demo",
        cameras: Sequence[str] = CAMERAS,
        image_size: int = 64,
        control_mode: ControlMode = "ee_delta",
        paraphrase: Paraphrase = "canonical",
        perturb: str = "none",
        render: str = "fast",
    ) -> None:
        """Build a suite's scene.

        Args:
            suite: ``demo``, ``spatial``, ``object``, ``goal`` or ``long``.
            cameras: any of ``front`` and ``wrist``, in the order the policy gets them.
            image_size: height and width in pixels.
            control_mode: ``ee_delta`` or ``joint_position``.
            paraphrase: ``canonical`` sentences, ``train`` (canonical or a paraphrase, drawn by the start
                state) or ``heldout`` paraphrases.
            perturb: ``none``, or one of `perturb.KINDS`.
            render: ``fast`` for software rendering, or ``stock``: MuJoCo's default quality settings.

        Raises:
            ValueError: if an argument is not one of these.
        """
        check_arguments(
            cameras, image_size, control_mode, paraphrase, ["none", *perturbations.KINDS], perturb
        )
        if render not in ("fast", "stock"):
            raise ValueError(unknown("way to render", render, ["fast", "stock"]))
        self.suite = suite
        self._suite = load(suite)
        self._perturb = perturb
        self._look: perturbations.Look | None = None
        self._paraphrase: Paraphrase = paraphrase
        self._mode = control_mode
        self._world = MujocoWorld(
            perturbations.scene_for(perturb, self._suite.scene), image_size, render == "fast"
        )
        self._arm = ArmKinematics()
        self.spec = robot_spec(control_mode, cameras, image_size)
        self._low = self.spec.action_low.astype(np.float64)
        self._high = self.spec.action_high.astype(np.float64)
        self.privileged_names = privileged_names(self._suite.scene)
        self.privileged_dim = len(self.privileged_names)
        self._task: Task | None = None
        self._memory: Memory = []
        self._easier: tuple[Goal, Memory] | None = None  # until it has held
        self._steps = 0
        self._over = False
        self.instruction = ""
        self.max_steps = 0
        self.assist = 0.0
        self.relax = 0.0

    @property
    def task(self) -> Task:
        """The present episode's task."""
        if self._task is None:
            raise RuntimeError("the environment has no episode yet: call reset(start) first")
        return self._task

    @property
    def world(self) -> MujocoWorld:
        """The simulator, for tests, experts and diagnostics."""
        return self._world

    def reset(self, start: StartState) -> None:
        """Begin the episode that `start` names; nothing is recompiled.

        Raises:
            ValueError: if the task is not of this environment's suite.
        """
        begin = draw(start, self._suite, self._world.scene, self._paraphrase, self._perturb)
        self._look = perturbations.draw_look(self._perturb, start)
        self._world.place(begin.arm, control.WIDTH_MAX_M, begin.layout.poses, begin.layout.joints)
        self._begin(begin.task, begin.instruction)

    def _begin(self, task: Task, instruction: str) -> None:
        self._task = task
        self._memory = task.goal.begin(self._world)
        easier = relaxed(task.goal, self.relax)
        self._easier = (easier, easier.begin(self._world)) if self.relax else None
        self._steps = 0
        self._over = False
        self.instruction = instruction
        self.max_steps = task.max_steps

    def step(self, action: NDArray[np.float32]) -> EnvStep:
        """Execute one control step (50 ms); `action` (7,) or (8,) is clipped to the spec's limits.

        Raises:
            ValueError: if the action has another shape or is not finite.
            RuntimeError: if the episode is over.
        """
        task = self.task
        if self._over:
            raise RuntimeError("the episode is over: call reset(start)")
        given = np.asarray(action, dtype=np.float64)
        if given.shape != self._low.shape or not np.isfinite(given).all():
            raise ValueError(f"action {given} is not {len(self._low)} finite numbers ({self._mode})")
        self._command(np.clip(given, self._low, self._high))
        if self.assist and self._suite.scene.prop(task.target).loose:
            world = self._world
            world.push(
                task.target, assistance(world.position(task.target), world.position("tcp"), self.assist)
            )
        self._world.advance()
        self._steps += 1
        if self._world.exploded:
            self._over = True
            return EnvStep(0.0, success=False, truncated=False, invalid=True)
        success = task.goal.holds(self._world, self._memory)
        eased = self._easier is not None and self._easier[0].holds(self._world, self._easier[1])
        if eased:
            self._easier = None
        truncated = not success and self._steps >= self.max_steps
        self._over = success or truncated
        return EnvStep(float(success or eased), success, truncated)

    def succeeded(self) -> bool:
        """Whether the goal holds now; to be asked once for every control step, since goals remember."""
        return self.task.goal.holds(self._world, self._memory)

    def _command(self, action: NDArray[np.float64]) -> None:
        world = self._world
        joints = action[:7]
        if self._mode == "ee_delta":
            joints = control.ee_delta_targets(action, world.arm_joints(), self._arm)
        world.command(joints, float(action[-1]))

    def state(self) -> NDArray[np.float32]:
        """(15,) joints (rad), gripper width (m), tool centre point (m) and its quaternion w, x, y, z.

        The quaternion's sign makes x >= 0: straight down is (0, 1, 0, 0), as far from a flip as can be.
        """
        world = self._world
        quaternion = world.quaternion("tcp")
        if quaternion[1] < 0:
            quaternion = -quaternion
        parts = (world.arm_joints(), (world.gripper_width(),), world.position("tcp"), quaternion)
        return np.concatenate(parts).astype(np.float32)

    def privileged(self) -> NDArray[np.float32]:
        """(P,) as `privileged_names` lists: the instructed object's position first."""
        world = self._world
        scene = self._suite.scene
        parts: list[ArrayLike] = [
            world.position(self.task.target),
            world.position("tcp"),
            (world.gripper_width(),),
        ]
        for prop in scene.things:
            parts.append(world.position(prop.name))
            if prop.loose:
                parts.append(world.quaternion(prop.name))
        parts.append([world.joint(name) for name in scene.joints])
        return np.concatenate(parts).astype(np.float32)

    def render(self, camera: str) -> NDArray[np.uint8]:
        """One RGB frame (H,W,3) of the size the spec gives.

        Raises:
            ValueError: if the environment was made without this camera.
            RenderError: if this machine has no OpenGL.
        """
        names = [item.name for item in self.spec.cameras]
        if camera not in names:
            raise ValueError(unknown("camera of this environment", camera, names))
        return self._world.render(camera, self._look)

    def expert(self) -> Expert:
        """A scripted expert for the present episode, from its present state on."""
        return Expert(self.task, self._world)

    def disturb(self, generator: np.random.Generator, scale_rad: float = 0.1) -> None:
        """Move the arm's joints by a random amount, right after a reset (more varied demonstrations)."""
        self._world.displace_arm(generator.normal(0.0, scale_rad, 7))

    def snapshot(self) -> bytes:
        """The episode as a JSON line, then the simulator state's float64 bytes."""
        header = {
            "format": _SNAPSHOT,
            "suite": self._suite.name,
            "control_mode": self._mode,
            "task": self.task.name,
            "instruction": self.instruction,
            "steps": self._steps,
            "over": self._over,
            "memory": self._memory,
            "perturb": self._perturb,
            "assist": self.assist,
            "relax": self.relax,
            "easier": self._easier and self._easier[1],
            "look": None if self._look is None else dataclasses.asdict(self._look),
        }
        return json.dumps(header).encode() + b"\n" + self._world.get_state().astype("<f8").tobytes()

    def restore(self, snapshot: bytes) -> None:
        """Go on from a snapshot of any environment made with the same suite, control mode and perturbation.

        Raises:
            ValueError: if the snapshot is of another suite, control mode, perturbation or version.
        """
        line, _, body = snapshot.partition(b"\n")
        header = json.loads(line)
        mine = (_SNAPSHOT, self._suite.name, self._mode, self._perturb)
        theirs = tuple(header.get(key) for key in ("format", "suite", "control_mode", "perturb"))
        if theirs != mine:
            raise ValueError(
                f"snapshot is of {theirs}, this environment is {mine}: make the environment with the same "
                "suite, control_mode and perturb"
            )
        self._task = self._suite.task(header["task"])
        self.instruction = header["instruction"]
        self.max_steps = self._task.max_steps
        self._steps = header["steps"]
        self._over = header["over"]
        self._memory = header["memory"]
        self.assist, self.relax = header["assist"], header["relax"]
        easier = header["easier"]
        self._easier = None if easier is None else (relaxed(self._task.goal, self.relax), easier)
        self._look = None if header["look"] is None else perturbations.Look(**header["look"])
        self._world.set_state(np.frombuffer(body, dtype="<f8").astype(np.float64))

    def close(self) -> None:
        self._world.close()


def make(
    suite: str = "demo",
    cameras: Sequence[str] = CAMERAS,
    image_size: int = 64,
    control_mode: ControlMode = "ee_delta",
    paraphrase: Paraphrase = "canonical",
    perturb: str = "none",
    render: str = "fast",
) -> Env:
    """An environment from JSON-able arguments; a worker calls it as ``regrip.sim.tabletop.env:make``.

    Args:
        suite: as for `TabletopEnv`, or ``four``: spatial, object, goal and long together.
        cameras: as for `TabletopEnv`, and so are the others.
        image_size: see there.
        control_mode: see there.
        paraphrase: see there.
        perturb: see there.
        render: see there.
    """
    from .several import SeveralSuites  # which imports this module

    envs = [
        TabletopEnv(name, tuple(cameras), image_size, control_mode, paraphrase, perturb, render)
        for name in suites(suite)
    ]
    return envs[0] if len(envs) == 1 else SeveralSuites(envs)


def assistance(thing: NDArray[np.float64], tcp: NDArray[np.float64], level: float) -> NDArray[np.float64]:
    """The virtual force (3,), newtons, that draws an object at `thing` (3,) to the tool centre point (3,).

    A spring of 40 N/m within 6 cm and nothing beyond, times `level`: it takes out a miss of a centimetre or
    two, and carries part of the weight.
    """
    gap = tcp - thing
    if np.linalg.norm(gap) > _ASSIST_REACH_M:
        return np.zeros(3)
    return np.asarray(level * _ASSIST_N_PER_M * gap)


def check_arguments(
    cameras: Sequence[str],
    image_size: int,
    control_mode: str,
    paraphrase: str,
    kinds: Sequence[str],
    perturb: str,
) -> None:
    """Refuse what no tabletop has; `kinds` are the perturbations that this simulator knows.

    Raises:
        ValueError: naming the nearest that exists.
    """
    for camera in cameras:
        if camera not in CAMERAS:
            raise ValueError(unknown("camera", camera, list(CAMERAS)))
    if len(set(cameras)) != len(cameras):
        raise ValueError(f"cameras {list(cameras)} name one twice; give each once")
    if not IMAGE_SIZES[0] <= image_size <= IMAGE_SIZES[1]:
        raise ValueError(f"image_size {image_size} is not within {IMAGE_SIZES[0]}..{IMAGE_SIZES[1]} pixels")
    if control_mode not in CONTROL_MODES:
        raise ValueError(unknown("control mode", control_mode, list(CONTROL_MODES)))
    if paraphrase not in PARAPHRASES:
        raise ValueError(unknown("kind of paraphrase", paraphrase, list(PARAPHRASES)))
    if perturb not in kinds:
        raise ValueError(unknown("perturbation", perturb, list(kinds)))


@dataclass(frozen=True)
class Beginning:
    """What a start state stands for, in any simulator.

    Attributes:
        task: the task.
        arm: (7,) joints, radians; the gripper is open.
        layout: where things stand.
        instruction: the sentence.
    """

    task: Task
    arm: NDArray[np.float64]
    layout: Layout
    instruction: str


def draw(start: StartState, suite: Suite, scene: Scene, paraphrase: Paraphrase, perturb: str) -> Beginning:
    """The beginning of the episode that `start` names.

    Args:
        start: of this suite.
        suite: whose tasks are played.
        scene: in which they are played; perturbations may add to the suite's.
        paraphrase: kind of sentence.
        perturb: kind of perturbation.

    Raises:
        ValueError: if the task is not of this suite.
    """
    if start.suite != suite.name:
        raise ValueError(
            f"start {start} is of suite {start.suite!r}, but this environment plays "
            f"{suite.name!r}: use make(suite={start.suite!r})"
        )
    task = suite.task(start.task_name)
    layout = task.arrange(start, start.generator("layout"))
    layout = perturbations.change_layout(perturb, start, layout, scene)
    jitter = perturbations.start_jitter(perturb, start)
    if jitter is None:
        jitter = start.generator("robot").uniform(-_START_JITTER_RAD, _START_JITTER_RAD, 7)
    phrases = task.phrases(paraphrase)
    sentence = phrases[int(start.generator("phrase").integers(len(phrases)))]
    return Beginning(task, np.array(HOME_JOINTS) + jitter, layout, sentence)


def privileged_names(scene: Scene) -> tuple[str, ...]:
    """The layout of `TabletopEnv.privileged`.

    ``target``: position of the instructed object (3); ``tcp`` (3); ``gripper_width``; then for each prop of
    the scene its position (3) and, for loose objects, its quaternion w, x, y, z (4); then each articulated
    joint.
    """
    names = [*(f"target.{c}" for c in "xyz"), *(f"tcp.{c}" for c in "xyz"), "gripper_width"]
    for prop in scene.things:
        names += [f"{prop.name}.{c}" for c in "xyz"]
        if prop.loose:
            names += [f"{prop.name}.q{c}" for c in "wxyz"]
    return (*names, *scene.joints)


def robot_spec(mode: ControlMode, cameras: Sequence[str], image_size: int) -> RobotSpec:
    """The contract of the tabletop robot, the same in every simulator."""
    arm = ArmKinematics()
    joints = control.joint_position_axes(arm.low, arm.high)
    state = (
        *joints[:7],
        Axis("gripper_width", "m", 0.0, control.WIDTH_MAX_M),
        *(Axis(f"tcp_{c}", "m", -1.0, 1.0) for c in "xyz"),
        *(Axis(f"tcp_q{c}", "", -1.0, 1.0) for c in "wxyz"),
    )
    return RobotSpec(
        name="regrip-panda",
        control_mode=mode,
        control_rate_hz=CONTROL_RATE_HZ,
        rotation="rotation_vector_base" if mode == "ee_delta" else "none",
        gripper="commanded opening width in metres, 0 is shut",
        action=control.ee_delta_axes() if mode == "ee_delta" else joints,
        state=state,
        cameras=tuple(Camera(name, image_size, image_size) for name in cameras),
    )
