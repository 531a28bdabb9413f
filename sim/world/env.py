"""A learned world as a `VectorEnv`: a slot is an imagination, and one model steps all of them at once."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load, save
from torch import Tensor

from ...datasets.episode import Observation
from ...datasets.protocols import StepResult
from ...datasets.spec import RobotSpec
from ...datasets.starts import StartState
from .dynamics import fields_of, put, take
from .model import WorldModel
from .starts import Starts

_SNAPSHOT = "regrip world 1"
_BLOCK = 32  # rows the model steps at once: one size only, so that a row's floats depend on nothing else


@dataclass
class _Slot:
    """The episode of a slot."""

    task: int = 0
    gone: int = 0  # decisions imagined
    limit: int = 0
    success: bool = False
    ended: bool = False
    playing: bool = False


class WorldEnv:
    """Implements `VectorEnv` on a learned model, from frames of recorded episodes.

    Success is the reflector's verdict, not a simulator's. The privileged state is [probability of success
    within the last chunk, doubt in units of what 95 of 100 held-out decisions stay below]; the reward at the
    end of an episode is that probability, and every decision pays `penalty` times its doubt (MOPO, Yu et al.
    2020, section 4.3, with the ensemble's spread for the model's error).

    Attributes:
        assist: must stay 0: nobody helps here.
        relax: likewise.
        incidents: always empty; there are no workers to lose.
        cut_off: episodes that ended for doubt, since this was made.
    """

    spec: RobotSpec
    num_slots: int
    chunk_size: int
    privileged_dim: int = 2

    def __init__(
        self,
        model: WorldModel,
        starts: Starts,
        *,
        num_slots: int = 64,
        max_decisions: int = 0,
        anywhere: bool = False,
        dynamic_stop: bool = True,
        cut_off: float = 3.0,
        penalty: float = 0.0,
    ) -> None:
        """Nothing is computed before the first `reset`.

        Args:
            model: the world.
            starts: where episodes begin.
            num_slots: imaginations.
            max_decisions: after how many an episode has failed; 0 takes each task's longest training episode.
            anywhere: begin `train` episodes in the middle of recorded ones, too; they end no later for it.
            dynamic_stop: end an episode when the reflector says that it has succeeded (World-Env); else it
                goes on to its limit, and is judged by its last decision.
            cut_off: an episode ends as a failure when its doubt exceeds this many times what 95 of 100
                held-out decisions stay below (MOReL, Kidambi et al. 2020); infinity never.
            penalty: of doubt, see above.

        Raises:
            ValueError: an argument makes no sense, or `max_decisions` is past the trained horizon.
        """
        horizon = model.calibration.horizon
        if max_decisions > horizon:
            raise ValueError(
                f"max_decisions {max_decisions}: the world model was trained on episodes of at most "
                f"{horizon} decisions and knows nothing of what comes after; ask for {horizon} or fewer, or "
                "fit it on longer episodes"
            )
        if num_slots < 1 or cut_off <= 0 or penalty < 0:
            raise ValueError(
                f"num_slots {num_slots} must be at least 1, cut_off {cut_off} above 0 and penalty {penalty} "
                "not negative"
            )
        self.model, self.starts = model.eval(), starts
        self.spec, self.num_slots, self.chunk_size = model.spec, num_slots, model.config.chunk
        self.assist = 0.0
        self.relax = 0.0
        self.incidents: list[Any] = []
        self.cut_off = 0
        self._most, self._anywhere, self._stop = max_decisions, anywhere, dynamic_stop
        self._limit_of_doubt, self._penalty = cut_off, penalty
        self._slots = [_Slot() for _ in range(num_slots)]
        self._memory: Any = None
        self._words: Tensor | None = None
        self._pending: dict[int, StartState | NDArray[np.float32] | None] = {}
        cameras, height, width = (
            len(self.spec.cameras),
            self.spec.cameras[0].height,
            self.spec.cameras[0].width,
        )
        self._pictures = np.zeros((num_slots, cameras, height, width, 3), np.uint8)
        self._state = np.zeros((num_slots, self.spec.state_dim), np.float32)
        self._privileged = np.zeros((num_slots, 2), np.float32)
        self._executed = np.zeros(num_slots, np.int64)
        self._reward = np.zeros((num_slots, self.chunk_size), np.float32)

    def reset(self, slots: Sequence[int], starts: Sequence[StartState]) -> None:
        if len(slots) != len(starts):
            raise ValueError(f"reset of {len(slots)} slots was given {len(starts)} start states")
        if self.assist or self.relax:
            raise ValueError(
                f"assist {self.assist}, relax {self.relax}: nobody helps in a learned world, set both to 0"
            )
        for slot, start in zip(slots, starts, strict=True):
            self.starts.row(start, self._anywhere)  # refuses what it does not know before anything changes
            self._pending[slot] = start

    def step(self, slots: Sequence[int], chunks: NDArray[np.float32]) -> None:
        if not np.isfinite(chunks).all():
            raise ValueError("a chunk of actions is not finite: the policy's weights have diverged")
        for slot, chunk in zip(slots, chunks, strict=True):
            if not self._slots[slot].playing or self._slots[slot].ended:
                raise ValueError(f"slot {slot} plays no episode: reset it first")
            self._pending[slot] = np.array(chunk, np.float32)

    def receive(self, slots: Sequence[int]) -> StepResult:
        begins = [slot for slot in slots if isinstance(self._pending.get(slot), StartState)]
        steps = [slot for slot in slots if isinstance(self._pending.get(slot), np.ndarray)]
        for first in range(0, len(begins), _BLOCK):
            self._begin(begins[first : first + _BLOCK])
        for first in range(0, len(steps), _BLOCK):
            self._go_on(steps[first : first + _BLOCK])
        for slot in slots:
            if not self._slots[slot].playing:
                raise ValueError(f"slot {slot} was never reset, so there is nothing to receive")
            self._pending.pop(slot, None)
        rows = np.asarray(slots, np.int64)
        success = np.array([self._slots[slot].success for slot in slots], np.bool_)
        return StepResult(
            observation=Observation(
                images={camera.name: self._pictures[rows, i] for i, camera in enumerate(self.spec.cameras)},
                state=self._state[rows],
                instruction=[self.starts.instructions[self._slots[slot].task] for slot in slots],
            ),
            privileged=self._privileged[rows],
            executed=self._executed[rows],
            reward=self._reward[rows],
            success=success,
            invalid=np.zeros(len(rows), np.bool_),
            done=np.array([self._slots[slot].ended for slot in slots], np.bool_),
        )

    def _begin(self, slots: list[int]) -> None:
        named = [self._pending[slot] for slot in slots]
        rows = np.array(
            [self.starts.row(start, self._anywhere) for start in named if isinstance(start, StartState)]
        )
        filled = _filled(rows)
        held, begun = self.starts, self.starts.origin[filled]
        memory = self.model.begin(
            held.pictures[filled], held.state[filled], (held.pictures[begun], held.state[begun])
        )
        words = self.model.words(self.starts.instructions)
        self._hold(memory, words.shape[1])
        index = torch.tensor(slots, device=self.model.device)
        put(self._memory, index, take(memory, torch.arange(len(slots), device=self.model.device)))
        assert self._words is not None
        self._words[index] = words[torch.as_tensor(self.starts.task[rows], device=self.model.device)]
        self._pictures[slots], self._state[slots] = self.starts.pictures[rows], self.starts.state[rows]
        self._privileged[slots], self._executed[slots], self._reward[slots] = 0.0, 0, 0.0
        for slot, row in zip(slots, rows, strict=True):
            task = int(self.starts.task[row])
            left = self.starts.limits[task] - int(self.starts.decision[row])
            self._slots[slot] = _Slot(task, 0, max(1, min(left, self._most or left)), playing=True)

    def _hold(self, example: Any, words: int) -> None:
        """Make room for all slots, once it is known what a memory looks like."""
        if self._memory is None:
            self._memory = type(example)(
                **{
                    name: held.new_zeros(self.num_slots, *held.shape[1:])
                    for name, held in fields_of(example).items()
                }
            )
            self._words = torch.zeros(self.num_slots, words, dtype=torch.int64, device=self.model.device)

    def _go_on(self, slots: list[int]) -> None:
        assert self._words is not None, "an episode was begun"
        device = self.model.device
        rows = torch.as_tensor(_filled(np.array(slots)), device=device)
        chunks = np.stack([np.asarray(self._pending[int(slot)]) for slot in rows])
        action = self.model.normal_action(chunks)
        memory, step = self.model.step(take(self._memory, rows), action, self._words[rows])
        count = len(slots)
        first = torch.arange(count, device=device)
        put(self._memory, rows[:count], take(memory, first))
        chance = self.model.success(step)[:count]
        doubt = step.doubt.float().cpu().numpy()[:count] / self.model.calibration.doubt
        self._state[slots] = self.model.physical_state(step.state[:count])
        self._privileged[slots] = np.stack([chance, doubt], 1)
        self._executed[slots] = self.chunk_size
        self._reward[slots] = 0.0
        on = []
        for row, slot in enumerate(slots):
            one = self._slots[slot]
            one.gone += 1
            lost = bool(doubt[row] > self._limit_of_doubt)
            full = one.gone >= one.limit
            said = bool(chance[row] > self.model.calibration.needed(self.starts.instructions[one.task]))
            one.success = said and not lost and (self._stop or full)
            one.ended = one.success or lost or full
            self.cut_off += lost
            self._reward[slot, -1] = (
                float(chance[row]) * (one.ended and not lost) - self._penalty * doubt[row]
            )
            if not one.ended:
                on.append(row)
        if on:
            self._pictures[np.asarray(slots)[on]] = self.model.pictures(step.tokens[_filled(np.array(on))])[
                : len(on)
            ]

    def snapshot(self, slots: Sequence[int]) -> list[bytes]:
        """The complete state of each slot; `restore` continues bit for bit, in any slot of such a world."""
        found = []
        for slot in slots:
            one = self._slots[slot]
            if not one.playing or slot in self._pending:
                raise ValueError(f"slot {slot} is not between two decisions, so it has no state to snapshot")
            assert self._words is not None
            header = {"format": _SNAPSHOT, "task": one.task, "gone": one.gone, "limit": one.limit}
            index = torch.tensor([slot], device=self.model.device)
            held = {f"memory.{name}": x.cpu() for name, x in fields_of(take(self._memory, index)).items()}
            held |= {
                "words": self._words[index].cpu(),
                "pictures": torch.from_numpy(self._pictures[slot].copy()),
                "state": torch.from_numpy(self._state[slot].copy()),
                "privileged": torch.from_numpy(self._privileged[slot].copy()),
            }
            found.append(json.dumps(header).encode() + b"\n" + save(held))
        return found

    def restore(self, slots: Sequence[int], snapshots: Sequence[bytes]) -> None:
        """Continue from snapshots. `receive` gives the observation there.

        Raises:
            ValueError: if a snapshot is of another kind of environment.
        """
        if len(slots) != len(snapshots):
            raise ValueError(f"restore of {len(slots)} slots was given {len(snapshots)} snapshots")
        for slot, snapshot in zip(slots, snapshots, strict=True):
            line, _, rest = snapshot.partition(b"\n")
            header = json.loads(line)
            if header.get("format") != _SNAPSHOT:
                raise ValueError(
                    f"snapshot is of {header.get('format')!r}, this environment is {_SNAPSHOT!r}"
                )
            held = load(rest)
            if self._memory is None:  # as nothing was begun here yet
                example = self.model.begin(self.starts.pictures[:1], self.starts.state[:1])
                self._hold(example, held["words"].shape[1])
            device = self.model.device
            memory = type(self._memory)(
                **{name: held[f"memory.{name}"].to(device) for name in fields_of(self._memory)}
            )
            index = torch.tensor([slot], device=device)
            put(self._memory, index, memory)
            assert self._words is not None
            self._words[index] = held["words"].to(device)
            self._pictures[slot], self._state[slot] = held["pictures"].numpy(), held["state"].numpy()
            self._privileged[slot] = held["privileged"].numpy()
            self._executed[slot], self._reward[slot] = 0, 0.0
            self._slots[slot] = _Slot(header["task"], header["gone"], header["limit"], playing=True)
            self._pending.pop(slot, None)

    def close(self) -> None:
        """Let go of the memory; may be called again."""
        self._memory = None

    def __enter__(self) -> WorldEnv:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _filled(rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """The first row again and again, up to a whole block."""
    return np.concatenate([rows, np.repeat(rows[:1], _BLOCK - len(rows))])
