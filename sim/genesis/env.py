"""The tabletop suites as one `VectorEnv` in this process: a slot is an environment of one Genesis scene."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...datasets.episode import Observation
from ...datasets.protocols import StepResult
from ...datasets.spec import RobotSpec
from ...datasets.starts import StartState
from ..explosion import exploded
from ..look import matrix
from ..perturb import KINDS as SENSOR_AND_WORDS
from ..perturb import add_noise, name_of, wrong_instruction
from ..tabletop import perturb as perturbations
from ..tabletop.control import WIDTH_MAX_M, ControlMode
from ..tabletop.env import CAMERAS, Beginning, check_arguments, draw, privileged_names, robot_spec
from ..tabletop.experts import Expert
from ..tabletop.goals import Memory
from ..tabletop.tasks import Task, load, task_names
from ..wording import Paraphrase
from . import KINDS
from .control import BatchedArm
from .physics import Variation
from .scene import NUM_ARM, Fidelity, GenesisScene, Poses
from .world import EnvWorld

_SNAPSHOT = "regrip genesis 2"


@dataclass
class _Slot:
    """The episode of a slot, and what is asked of it."""

    world: EnvWorld
    start: StartState | None = None
    task: Task | None = None
    memory: Memory = field(default_factory=list)
    instruction: str = ""
    max_steps: int = 0
    steps: int = 0
    factors: tuple[float, float, float] = (1.0, 1.0, 1.0)
    expert: Expert | None = None
    playing: bool = False
    answered: bool = False
    begin: Beginning | None = None  # asked for and not yet placed
    restore: bytes | None = None  # likewise, the state of a snapshot
    chunk: NDArray[np.float32] | None = None  # asked for and not yet executed

    @property
    def due(self) -> bool:
        return self.begin is not None or self.restore is not None or self.chunk is not None


@dataclass
class Seconds:
    """Where the wall time went, summed since the environment was made."""

    physics: float = 0.0
    control: float = 0.0
    predicates: float = 0.0  # success, explosions, experts, and fetching the poses they read
    pictures: float = 0.0


class GenesisEnv:
    """Implements `VectorEnv`, with the contract, tasks, start states and predicates of `TabletopEnv`.

    Nothing happens before `receive`: it executes what all slots were asked for at once, so that callers who
    serve slots in groups (`collect`) do not make the scene step for each group. What one slot does has no
    influence on another. An environment whose physics explodes ends its episode as invalid.

    Attributes:
        images: camera to uint8 (N,H,W,3): the latest frames of all slots, on the scene's device. `receive`
            hands out copies in main memory; who wants to stay on the device reads these after it.
        state: likewise, float32 (N,S).
        privileged: likewise, float32 (N,P).
        assist: must stay 0: nobody helps here.
        incidents: always empty; there are no workers to lose.
        seconds: where the time went.
    """

    spec: RobotSpec
    num_slots: int
    chunk_size: int
    privileged_dim: int

    def __init__(
        self,
        suite: str = "demo",
        *,
        num_slots: int = 48,
        chunk_size: int = 5,
        cameras: Sequence[str] = CAMERAS,
        image_size: int = 64,
        control_mode: ControlMode = "ee_delta",
        paraphrase: Paraphrase = "canonical",
        perturb: str = "none",
        render: str = "fast",
        device: str = "cpu",
        fidelity: Fidelity = "standard",
        variation: Variation | None = None,
        expert: bool = False,
    ) -> None:
        """Build the suite's scene; see `TabletopEnv` and `GenesisScene` for the arguments they share.

        Args:
            suite: ``demo``, ``spatial``, ``object``, ``goal`` or ``long``; one scene holds one suite.
            num_slots: environments.
            chunk_size: H, actions in one chunk.
            cameras: any of ``front`` and ``wrist``.
            image_size: height and width in pixels.
            control_mode: ``ee_delta`` or ``joint_position``.
            paraphrase: see `TabletopEnv`.
            perturb: ``none``, one of `KINDS` or of `sim.perturb.KINDS`.
            render: ``fast``; Genesis's own pictures are the only ones.
            device: ``cpu`` or ``cuda``.
            fidelity: see `scene.FIDELITIES`.
            variation: draw each episode's physics; None leaves it alone.
            expert: append the scripted expert's action to the privileged state, see `demonstrate`.

        Raises:
            ValueError: if an argument is not one of these.
            GenesisError: if Genesis is not installed.
        """
        check_arguments(
            cameras, image_size, control_mode, paraphrase, ["none", *KINDS, *SENSOR_AND_WORDS], perturb
        )
        if render != "fast":
            raise ValueError(f"render {render!r}: Genesis draws in one way, leave it at 'fast'")
        if suite == "four":
            raise ValueError(
                "suite 'four' is four scenes, and Genesis plays one: ask for spatial, object, goal or long"
            )
        if min(num_slots, chunk_size) < 1:
            raise ValueError(f"num_slots {num_slots} and chunk_size {chunk_size} must be at least 1")
        if expert and control_mode != "ee_delta":
            raise ValueError(f"experts answer in ee_delta actions, not in {control_mode}")
        self._suite = load(suite)
        self._mode: ControlMode = control_mode
        self._paraphrase: Paraphrase = paraphrase
        self._perturb, self._variation, self._has_expert = perturb, variation, expert
        self.num_slots, self.chunk_size = num_slots, chunk_size
        self.spec = robot_spec(control_mode, cameras, image_size)
        self._low, self._high = (
            side.astype(np.float64) for side in (self.spec.action_low, self.spec.action_high)
        )
        self.scene = GenesisScene(
            perturbations.scene_for(perturb, self._suite.scene),
            num_slots,
            cameras=cameras,
            image_size=image_size,
            device=device,
            fidelity=fidelity,
            per_env_physics=variation is not None,
        )
        self._arm = BatchedArm(self.scene.device)
        self._slots = [_Slot(EnvWorld(self.scene, row)) for row in range(num_slots)]
        names = privileged_names(self._suite.scene)
        self.privileged_dim = len(names) + (self.spec.action_dim if expert else 0)
        on = self.scene.device
        self.state = torch.zeros(num_slots, self.spec.state_dim, device=on)
        self.privileged = torch.zeros(num_slots, self.privileged_dim, device=on)
        self.images = {
            name: torch.zeros(num_slots, image_size, image_size, 3, dtype=torch.uint8, device=on)
            for name in cameras
        }
        self._target = torch.zeros(num_slots, dtype=torch.long, device=on)  # link of the instructed object
        self._executed = np.zeros(num_slots, np.int64)
        self._reward = np.zeros((num_slots, chunk_size), np.float32)
        self._success = np.zeros(num_slots, np.bool_)
        self._invalid = np.zeros(num_slots, np.bool_)
        self._done = np.zeros(num_slots, np.bool_)
        self.assist = 0.0
        self.incidents: list[Any] = []
        self.seconds = Seconds()
        self._closed = False

    # What VectorEnv promises -------------------------------------------------------------------------------

    def reset(self, slots: Sequence[int], starts: Sequence[StartState]) -> None:
        """Begin episodes; what the slots were asked before is forgotten.

        Raises:
            ValueError: if a task is not of this suite.
        """
        if self.assist:
            raise ValueError(f"assist {self.assist}: Genesis's scenes give no help, set it to 0")
        if len(slots) != len(starts):
            raise ValueError(f"reset of {len(slots)} slots was given {len(starts)} start states")
        self._check(slots)
        for number, start in zip(slots, starts, strict=True):
            begin = draw(start, self._suite, self.scene.scene, self._paraphrase, self._perturb)
            slot = self._slots[number] = _Slot(self._slots[number].world)
            slot.begin, slot.playing = begin, True
            slot.start, slot.task, slot.max_steps = start, begin.task, begin.task.max_steps
            slot.instruction = self._instruction(start)
            if self._variation is not None:
                slot.factors = self._variation.draw(start)

    def step(self, slots: Sequence[int], chunks: NDArray[np.float32]) -> None:
        """Execute (B,H,A) action chunks, clipped to the spec's limits.

        Raises:
            ValueError: if they have another shape or are not finite, or a slot plays no episode.
        """
        self._check(slots, idle=True)
        chunks = np.asarray(chunks, dtype=np.float32)
        expected = (len(slots), self.chunk_size, self.spec.action_dim)
        if chunks.shape != expected:
            raise ValueError(f"step was given actions of shape {chunks.shape}, expected {expected} (B,H,A)")
        if not np.isfinite(chunks).all():
            row = int(np.argwhere(~np.isfinite(chunks))[0, 0])
            raise ValueError(f"slot {slots[row]} was given actions that are not finite: {chunks[row]}")
        for slot in slots:
            if not self._slots[slot].playing:
                raise ValueError(f"slot {slot} plays no episode (it is over or never began): reset it first")
        for slot, chunk in zip(slots, chunks, strict=True):
            self._slots[slot].chunk = chunk.copy()

    def receive(self, slots: Sequence[int]) -> StepResult:
        """The answers of the last `reset`, `restore` or `step` of these slots; copies, the caller's to keep.

        Raises:
            ValueError: if a slot was never reset.
        """
        self._check(slots)
        if any(self._slots[slot].due for slot in slots):
            self._serve()
        for slot in slots:
            if not self._slots[slot].answered:
                raise ValueError(f"slot {slot} was never reset, so there is nothing to receive")
        rows = np.asarray(slots, dtype=np.int64)
        index = torch.as_tensor(rows, device=self.scene.device)
        return StepResult(
            observation=Observation(
                images={name: frames[index].cpu().numpy() for name, frames in self.images.items()},
                state=self.state[index].cpu().numpy(),
                instruction=[self._slots[slot].instruction for slot in slots],
            ),
            privileged=self.privileged[index].cpu().numpy(),
            executed=self._executed[rows],
            reward=self._reward[rows],
            success=self._success[rows],
            invalid=self._invalid[rows],
            done=self._done[rows],
        )

    def snapshot(self, slots: Sequence[int]) -> list[bytes]:
        """The complete state of each slot; `restore` continues bit for bit, in any slot of such a scene."""
        self._check(slots, idle=True)
        for slot in slots:
            if not self._slots[slot].playing:
                raise ValueError(f"slot {slot} plays no episode, so it has no state to snapshot")
        states = self.scene.get_state(slots).cpu().numpy()
        return [
            json.dumps({**self._header(), **_episode(self._slots[slot])}).encode() + b"\n" + state.tobytes()
            for slot, state in zip(slots, states, strict=True)
        ]

    def restore(self, slots: Sequence[int], snapshots: Sequence[bytes]) -> None:
        """Continue from snapshots. `receive` gives the observation there.

        Raises:
            ValueError: if a snapshot is of another kind of environment.
        """
        if len(slots) != len(snapshots):
            raise ValueError(f"restore of {len(slots)} slots was given {len(snapshots)} snapshots")
        self._check(slots, idle=True)
        for number, snapshot in zip(slots, snapshots, strict=True):
            line, _, state = snapshot.partition(b"\n")
            header = json.loads(line)
            mine = self._header()
            theirs = {key: header.get(key) for key in mine}
            if theirs != mine or len(state) != self.scene.state_bytes:
                raise ValueError(
                    f"snapshot is of {theirs} with {len(state)} bytes, this environment is {mine} with "
                    f"{self.scene.state_bytes}: make the environment with the same settings"
                )
            slot = self._slots[number] = _Slot(self._slots[number].world)
            slot.start = StartState(**header["start"])
            slot.task = self._suite.task(header["task"])
            slot.max_steps = slot.task.max_steps
            slot.instruction, slot.steps, slot.memory = (
                header["instruction"],
                header["steps"],
                header["memory"],
            )
            slot.factors = tuple(header["factors"])
            slot.restore, slot.playing = state, True

    def close(self) -> None:
        """Let go of the scene; may be called again."""
        if not self._closed:
            self._closed = True
            self.scene.close()

    def __enter__(self) -> GenesisEnv:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _instruction(self, start: StartState) -> str:
        """What is said in an episode; with ``silent`` and ``wrong`` not what its task is."""

        def say(other: StartState) -> str:
            return draw(other, self._suite, self.scene.scene, self._paraphrase, self._perturb).instruction

        if self._perturb == "silent":
            return ""
        if self._perturb == "wrong":
            return wrong_instruction(start, task_names(self._suite.name), say)
        return say(start)

    # What is going on inside -------------------------------------------------------------------------------

    def _check(self, slots: Sequence[int], idle: bool = False) -> None:
        if self._closed:
            raise RuntimeError("the environment is closed: make a new one")
        if len(set(slots)) != len(slots) or any(not 0 <= slot < self.num_slots for slot in slots):
            raise ValueError(f"slots {list(slots)}: expected distinct numbers from 0 to {self.num_slots - 1}")
        for slot in slots:
            if idle and self._slots[slot].due:
                raise ValueError(f"slot {slot} still has an answer due: call receive first")

    def _header(self) -> dict[str, Any]:
        return {
            "format": _SNAPSHOT,
            "suite": self._suite.name,
            "control_mode": self._mode,
            "perturb": self._perturb,
            "fidelity": self.scene.fidelity,
            "variation": None if self._variation is None else _plain(self._variation),
        }

    def _serve(self) -> None:
        """Do all that is due, of every slot."""
        due = [number for number, slot in enumerate(self._slots) if slot.due]
        acting = [number for number in due if self._slots[number].chunk is not None]
        if acting:
            self._play(acting)
        self._place([number for number in due if self._slots[number].begin is not None])
        self._bring_back([number for number in due if self._slots[number].restore is not None])
        for number in due:
            self._slots[number].answered = True
        self._draw(due)

    def _place(self, rows: list[int]) -> None:
        begins = [begin for row in rows if (begin := self._slots[row].begin) is not None]
        if not begins:
            return
        self.scene.place(
            rows, np.stack([begin.arm for begin in begins]), WIDTH_MAX_M, [begin.layout for begin in begins]
        )
        if self._variation is not None:
            friction, mass, gain = np.array([self._slots[row].factors for row in rows]).T
            self.scene.set_physics(rows, friction, mass, gain)
        self._begin(rows)
        for row in rows:
            slot = self._slots[row]
            assert slot.task is not None, "a slot that begins has a task"
            slot.memory = slot.task.goal.begin(slot.world)

    def _bring_back(self, rows: list[int]) -> None:
        states = [state for row in rows if (state := self._slots[row].restore) is not None]
        if not states:
            return
        bytes_ = np.stack([np.frombuffer(state, np.uint8) for state in states])
        self.scene.set_state(rows, torch.tensor(bytes_, device=self.scene.device))
        self._begin(rows)

    def _begin(self, rows: list[int]) -> None:
        """The first answer of episodes that were just placed or restored."""
        poses = self._look()
        for row in rows:
            slot = self._slots[row]
            slot.begin = slot.restore = None
            assert slot.task is not None, "a slot that begins has a task"
            self._target[row] = self.scene.body[slot.task.target]
            if self._has_expert:
                slot.world.see(poses)
                slot.expert = Expert(slot.task, slot.world)
        self._executed[rows], self._reward[rows] = 0, 0.0
        self._success[rows] = self._invalid[rows] = self._done[rows] = False
        self._note(rows)

    def _look(self) -> Poses:
        poses = self.scene.poses()
        for slot in self._slots:
            slot.world.see(poses)
        return poses

    def _play(self, acting: list[int]) -> None:
        """Execute the chunks of these slots; the others that are in an episode stand still."""
        waiting = [n for n, slot in enumerate(self._slots) if slot.playing and not slot.due]
        held = self.scene.get_state(waiting) if waiting else None
        chunks = np.stack([chunk for n in acting if (chunk := self._slots[n].chunk) is not None])
        actions: NDArray[np.float64] = np.clip(chunks.astype(np.float64), self._low, self._high)
        self._executed[acting], self._reward[acting], self._success[acting] = 0, 0.0, False
        going = list(range(len(acting)))  # rows of `actions` whose episode is not over
        for index in range(self.chunk_size):
            rows = [acting[row] for row in going]
            self._command(rows, actions[going, index])
            began = time.perf_counter()
            self.scene.advance()
            self.seconds.physics += time.perf_counter() - began
            ended = self._judge(rows, index)
            last = index == self.chunk_size - 1
            self._note(rows if last or self._has_expert else sorted(ended))
            going = [row for row in going if acting[row] not in ended]
            if not going:
                break
        for number in acting:
            slot = self._slots[number]
            slot.chunk = None
            self._done[number] = not slot.playing
        if held is not None:
            self.scene.set_state(waiting, held)

    def _command(self, rows: list[int], actions: NDArray[np.float64]) -> None:
        began = time.perf_counter()
        on = self.scene.device
        index, given = torch.as_tensor(rows, device=on), torch.as_tensor(actions, device=on)
        joints = given[:, :NUM_ARM]
        if self._mode == "ee_delta":
            joints = self._arm.ee_delta_targets(given, self.scene.qpos[index, :NUM_ARM].double())
        self.scene.command(joints, given[:, -1], index)
        self.seconds.control += time.perf_counter() - began

    def _judge(self, rows: list[int], index: int) -> set[int]:
        """Whose episode the last control step ended, by success, by the step limit or by an explosion."""
        began = time.perf_counter()
        poses = self._look()
        broken = exploded(poses.qpos, poses.qvel) | self.scene.failed
        ended: set[int] = set()
        for row in rows:
            slot = self._slots[row]
            assert slot.task is not None, "a slot that acts has a task"
            slot.steps += 1
            self._executed[row] += 1
            success = not broken[row] and slot.task.goal.holds(slot.world, slot.memory)
            self._success[row], self._reward[row, index] = success, float(success)
            self._invalid[row] = broken[row]
            if success or broken[row] or slot.steps >= slot.max_steps:
                slot.playing = False
                ended.add(row)
        if broken.any():  # also where no episode is: NaN must not stay
            self.scene.clear(np.flatnonzero(broken).tolist())
        self.seconds.predicates += time.perf_counter() - began
        return ended

    def _note(self, rows: list[int]) -> None:
        """Write state and privileged state of these slots, as `TabletopEnv` gives them."""
        if not rows:
            return
        scene = self.scene
        tcp = scene.body["tcp"]
        quaternion = scene.quaternion[:, tcp]
        quaternion = torch.where(quaternion[:, 1:2] < 0, -quaternion, quaternion)
        width = scene.qpos[:, 7:8] + scene.qpos[:, 8:9]
        index = torch.as_tensor(rows, device=scene.device)
        state = (scene.qpos[:, :NUM_ARM], width, scene.position[:, tcp], quaternion)
        self.state[index] = torch.cat(state, 1)[index].float()
        everything = torch.arange(self.num_slots, device=scene.device)
        parts: list[Tensor] = [scene.position[everything, self._target], scene.position[:, tcp], width]
        for prop in self._suite.scene.things:
            parts.append(scene.position[:, scene.body[prop.name]])
            if prop.loose:
                parts.append(scene.quaternion[:, scene.body[prop.name]])
        parts += [scene.qpos[:, scene.qpos_of[name], None] for name in self._suite.scene.joints]
        known = torch.cat(parts, 1)[index].float()
        self.privileged[index, : known.shape[1]] = known
        began = time.perf_counter()
        for row in rows:
            slot = self._slots[row]
            if slot.expert is not None and slot.playing:
                label = torch.from_numpy(slot.expert.act())
                self.privileged[row, known.shape[1] :] = label.to(scene.device)
        self.seconds.predicates += time.perf_counter() - began

    def _draw(self, rows: list[int]) -> None:
        """What the policy will look at, of slots whose episode goes on; zero elsewhere."""
        began = time.perf_counter()
        index = torch.as_tensor(rows, device=self.scene.device)
        shown = torch.as_tensor([self._slots[row].playing for row in rows], device=self.scene.device)
        for name, frames in self.images.items():
            if shown.any():
                seen = self.scene.render(name, self._mounting(name)).to(frames.device)[index]
                if self._perturb == "noise":
                    seen = self._add_noise(seen, rows, name)
                frames[index] = seen * shown[:, None, None, None]
            else:
                frames[index] = 0
        self.seconds.pictures += time.perf_counter() - began

    def _mounting(self, camera: str) -> NDArray[np.float64] | None:
        """(N,4,4) how each environment's camera is moved and turned in its own axes; None if none is."""
        if self._perturb != "camera":
            return None
        moved = np.tile(np.eye(4), (self.num_slots, 1, 1))
        for row, slot in enumerate(self._slots):
            look = None if slot.start is None else perturbations.draw_look("camera", slot.start)
            if look is not None:
                moved[row, :3, :3] = matrix(np.array(look.turn_rad[camera]))
                moved[row, :3, 3] = look.shift_m[camera]
        return moved

    def _add_noise(self, frames: Tensor, rows: list[int], camera: str) -> Tensor:
        noisy = frames.cpu().numpy().copy()
        for picture, row in zip(noisy, rows, strict=True):
            slot = self._slots[row]
            if slot.start is not None:
                picture[...] = add_noise(picture, name_of(slot.start), camera, slot.steps)
        return torch.from_numpy(noisy).to(frames.device)


def _episode(slot: _Slot) -> dict[str, Any]:
    assert slot.task is not None, "a slot that plays has a task"
    assert slot.start is not None, "a slot that plays has a start"
    return {
        "start": dataclasses.asdict(slot.start),
        "task": slot.task.name,
        "instruction": slot.instruction,
        "steps": slot.steps,
        "memory": slot.memory,
        "factors": list(slot.factors),
    }


def _plain(variation: Variation) -> dict[str, list[float]]:
    return {name: list(span) for name, span in dataclasses.asdict(variation).items()}
