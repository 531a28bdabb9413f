"""Any Gymnasium environment as an environment of ours, by way of a mapping: see docs/gymnasium.md.

What the environment does is left as it is: scenes, resets, dynamics, success. Ours is only the way in.

* A start state is a seed for `reset`. Seeds of different splits differ modulo 8, so no two splits share one.
* A snapshot is the start and the actions since: restoring resets and plays them again. It is the one way
  that works for every environment (many keep more than their simulator's state: random generators, sets of
  finished tasks, noisy readings that commands start from). It is as exact as the environment is repeatable,
  notices when one is not, and costs as many steps as have been played, without pictures.
* Nothing is drawn before `render` is called.

It needs an interpreter that has gymnasium and the package, but only from the first `reset` on.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ...datasets.spec import RobotSpec
from ...datasets.starts import StartState
from .. import perturb as perturbations
from ..demonstrate import Expert
from ..env import EnvStep
from ..look import Look, Place
from ..wording import PARAPHRASES, Paraphrase, unknown
from .experts import EXPERTS
from .mapping import Task
from .tasks import load

if TYPE_CHECKING:
    from .frames import Render
    from .host import Host

IMAGE_SIZES = (16, 1024)
_SNAPSHOT = "regrip gymnasium 1"


class GymEnv:
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
        suite: str,
        cameras: Sequence[str] | None = None,
        image_size: int = 64,
        control_mode: str | None = None,
        paraphrase: Paraphrase = "canonical",
        render: Render = "fast",
        perturb: str = "none",
    ) -> None:
        """Read the mapping; nothing is built before the first `reset`.

        Args:
            suite: a mapping that ships, by name, or the path of a TOML file.
            cameras: some of the mapping's, in the order the policy gets them; None for all.
            image_size: height and width in pixels.
            control_mode: the mapping's own or None; any other is refused.
            paraphrase: ``canonical`` sentences, ``train`` (canonical or a paraphrase, drawn by the start
                state) or ``heldout`` paraphrases.
            render: of MuJoCo scenes: ``fast`` for software rendering, or ``stock``, as the package draws.
            perturb: ``none``, or a kind of `sim.perturb` that is known in this suite.

        Raises:
            ValueError: if an argument is not one of these, or the mapping does not make sense.
        """
        mapping = self._mapping = load(suite)
        cameras = [view.name for view in mapping.views] if cameras is None else cameras
        if len(set(cameras)) != len(cameras):
            raise ValueError(f"cameras {list(cameras)} name one twice; give each once")
        if not IMAGE_SIZES[0] <= image_size <= IMAGE_SIZES[1]:
            raise ValueError(
                f"image_size {image_size} is not within {IMAGE_SIZES[0]}..{IMAGE_SIZES[1]} pixels"
            )
        own_mode = mapping.robot["control_mode"]
        if control_mode not in (None, own_mode):
            raise ValueError(
                f"suite {mapping.name!r} has no control mode {control_mode!r}: "
                f"set control_mode to {own_mode!r}"
            )
        if paraphrase not in PARAPHRASES:
            raise ValueError(unknown("kind of paraphrase", paraphrase, list(PARAPHRASES)))
        if render not in ("fast", "stock"):
            raise ValueError(unknown("way to render", render, ["fast", "stock"]))
        perturbations.require("gymnasium", suite, perturb)
        self._perturb = perturb
        self._size = image_size
        self._paraphrase: Paraphrase = paraphrase
        self._render: Render = render
        self.spec = mapping.spec(cameras, image_size)
        self.privileged_names = mapping.privileged_names
        self.privileged_dim = len(mapping.privileged_names)
        self._low, self._high = (
            self.spec.action_low.astype(np.float64),
            self.spec.action_high.astype(np.float64),
        )
        self._task: Task | None = None
        self._host: Host | None = None
        self._start: StartState | None = None
        self._look: Look | None = None
        self._log: list[NDArray[np.float32]] = []
        self._over = False
        self.instruction = ""
        self.max_steps = 0

    def reset(self, start: StartState) -> None:
        """Begin the episode that `start` names.

        Raises:
            ValueError: if the task is not of this environment's suite.
            RuntimeError: if this interpreter lacks gymnasium or the package.
        """
        mapping = self._mapping
        if start.suite != mapping.name:
            raise ValueError(
                f"start {start} is of suite {start.suite!r}, but this environment plays {mapping.name!r}: "
                f"use make(suite={start.suite!r})"
            )
        if start.task_name not in mapping.tasks:
            raise ValueError(unknown(f"task of suite {mapping.name!r}", start.task_name, list(mapping.tasks)))
        task = mapping.tasks[start.task_name]
        host = self._go_to(task)
        host.reset(start.simulator_seed())
        self._start, self._log, self._over = start, [], False
        phrases = task.phrases(self._paraphrase)
        self.instruction = phrases[int(start.generator("phrase").integers(len(phrases)))]
        if task.instruction_from is not None:
            self.instruction = str(host.look_up(task.instruction_from))
        self.max_steps = task.max_steps
        self._look = Look(self._perturb, start, self._distractors(start))

    def _distractors(self, start: StartState) -> tuple[Place, ...]:
        if self._perturb != "distractors":
            return ()
        from .studio import free_places  # which wants mujoco

        known = dict(zip(self.privileged_names, self.privileged().astype(np.float64), strict=True))
        parts = [[f"{what}.{axis}" for axis in "xyz"] for what in ("hand", "target", "goal")]
        way = [[known[name] for name in names] for names in parts if known.keys() >= set(names)]
        return free_places(self.host, self._mapping, start, np.array(way).reshape(-1, 3))

    def step(self, action: NDArray[np.float32]) -> EnvStep:
        """Execute one control step; `action` (A,) is clipped to the spec's limits.

        An episode that the environment ends without success is over too, and counts as truncated; where the
        simulation has broken down it is invalid.

        Raises:
            ValueError: if the action has another shape or is not finite.
            RuntimeError: if the episode is over.
        """
        host = self.host
        if self._over:
            raise RuntimeError("the episode is over: call reset(start)")
        given = np.array(action, dtype=np.float32)
        if given.shape != self._low.shape or not np.isfinite(given).all():
            names = ", ".join(axis.name for axis in self.spec.action)
            raise ValueError(f"action {given} is not {len(self._low)} finite numbers ({names})")
        native = self._native(given)
        success = ended = False
        for _ in range(self._mapping.repeat):
            host.step(native)
            success, ended = host.succeeded(), host.terminated or host.truncated
            if success or ended or host.invalid:
                break
        self._log.append(given)
        if host.invalid:
            self._over = True
            return EnvStep(0.0, success=False, truncated=False, invalid=True)
        truncated = not success and (ended or len(self._log) >= self.max_steps)
        self._over = success or truncated
        return EnvStep(float(success), success, truncated)

    def _native(self, action: NDArray[np.float32]) -> NDArray[np.float64]:
        """In the environment's own units."""
        clipped = np.clip(action.astype(np.float64), self._low, self._high)
        if self._mapping.native is None:
            return clipped
        low, high = np.array(self._mapping.native).T
        # From the middle, so that no motion stays none, to the bit.
        middle, half = (self._low + self._high) / 2, (self._high - self._low) / 2
        scaled: NDArray[np.float64] = (low + high) / 2 + (clipped - middle) * ((high - low) / 2 / half)
        return np.clip(scaled, np.minimum(low, high), np.maximum(low, high))

    def state(self) -> NDArray[np.float32]:
        """(S,) what the mapping calls the policy's state."""
        host, task = self.host, self._task
        assert task is not None, "who plays has a task"
        return host.vector(task.state, tuple(axis.name for axis in self.spec.state), "state")

    def privileged(self) -> NDArray[np.float32]:
        """(P,) as `privileged_names` lists."""
        host, task = self.host, self._task
        assert task is not None, "who plays has a task"
        return host.vector(task.privileged, self.privileged_names, "privileged")

    def render(self, camera: str) -> NDArray[np.uint8]:
        """One RGB frame (H,W,3) of the size the spec gives. The episode goes on as if nobody had looked.

        Raises:
            ValueError: if the environment was made without this camera, or has none such.
            RenderError: if this machine has no OpenGL.
        """
        names = [item.name for item in self.spec.cameras]
        if camera not in names:
            raise ValueError(unknown("camera of this environment", camera, names))
        host, task = self.host, self._task
        assert task is not None, "who plays has a task"
        from .frames import draw  # which wants gymnasium

        assert self._look is not None, "who plays has a start"
        view = self._mapping.view(camera)
        return draw(host, self._mapping, task.name, view, self._size, self._render, self._look)

    def expert(self) -> Expert:
        """A scripted expert for the present episode, from its present state on.

        Raises:
            ValueError: if the task has none.
        """
        assert self._task is not None, "who plays has a task"
        name = self._task.expert
        if name not in EXPERTS:
            having = [task.name for task in self._mapping.tasks.values() if task.expert]
            raise ValueError(
                f"nobody can demonstrate {self._mapping.name}/{self._task.name}: it has no scripted expert. "
                f"Tasks of this suite with one: {', '.join(having) or 'none'}"
            )
        return EXPERTS[name](self)

    def snapshot(self) -> bytes:
        """The start and a digest of the state as a JSON line, then the actions since, float32."""
        assert self._start is not None, "who plays has a start"
        start = self._start
        header = {
            "format": _SNAPSHOT,
            "suite": self._mapping.name,
            "start": [start.task, start.split, start.index, start.seed],
            "perturb": self._perturb,
            "instruction": self.instruction,
            "digest": self._digest(),
        }
        return (
            json.dumps(header).encode() + b"\n" + b"".join(row.astype("<f4").tobytes() for row in self._log)
        )

    def restore(self, snapshot: bytes) -> None:
        """Go on from a snapshot of any environment of the same mapping, bit for bit.

        Raises:
            ValueError: if the snapshot is of another suite or version.
            RuntimeError: if the environment does not repeat itself.
        """
        line, _, body = snapshot.partition(b"\n")
        header = json.loads(line)
        mine, theirs = (_SNAPSHOT, self._mapping.name), (header.get("format"), header.get("suite"))
        if theirs != mine:
            raise ValueError(
                f"snapshot is of {theirs}, this environment is {mine}: make it with the same suite"
            )
        perturbations.require_same(header.get("perturb", "none"), self._perturb)
        self.reset(StartState(*header["start"]))
        for action in np.frombuffer(body, "<f4").astype(np.float32).reshape(-1, len(self._low)):
            self.step(action)
        self.instruction = header["instruction"]
        if self._digest() != header["digest"]:
            raise RuntimeError(
                f"{header['start'][0]} does not repeat itself: after reset with the same seed and the same "
                f"{len(self._log)} actions its state is another. An environment must take all its randomness "
                "from the seed given to reset"
            )

    def _digest(self) -> str:
        return hashlib.blake2b(
            self.state().tobytes() + self.privileged().tobytes(), digest_size=8
        ).hexdigest()

    def close(self) -> None:
        if self._host is not None:
            self._host.close()
        self._host = None

    def _go_to(self, task: Task) -> Host:
        """Be in an environment of the task; leave that of another."""
        if self._host is not None and self._task is task:
            return self._host
        if self._host is not None:
            self._host.leave()
            self._host = None
        try:
            from .host import take
        except ModuleNotFoundError as error:
            raise RuntimeError(
                f"this interpreter has no module {error.name!r}: `make gymnasium` makes .venv-gymnasium, "
                "whose Python the workers then run; REGRIP_GYMNASIUM_PYTHON names another"
            ) from error
        self._task, self._host = task, take(self._mapping, task, self._size)
        return self._host

    @property
    def host(self) -> Host:
        """Where the present episode is played; for experts and diagnostics."""
        if self._host is None:
            raise RuntimeError("the environment has no episode yet: call reset(start) first")
        return self._host


def make(
    suite: str,
    cameras: Sequence[str] | None = None,
    image_size: int = 64,
    control_mode: str | None = None,
    paraphrase: Paraphrase = "canonical",
    render: Render = "fast",
    perturb: str = "none",
) -> GymEnv:
    """`GymEnv` from JSON-able arguments; a worker calls it as ``regrip.sim.gym.env:make``."""
    return GymEnv(suite, cameras, image_size, control_mode, paraphrase, render, perturb)
