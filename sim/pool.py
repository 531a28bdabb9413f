"""A pool of worker processes that play episodes, and that loses none of them when a worker is lost.

Each worker owns some slots and one `Env` for each. The parent keeps, for every slot, where its episode began
and the action chunks it was given since. A worker that dies, hangs or runs out of memory is killed and
started again, and its episodes are played again: environments are deterministic, so the caller cannot tell.
"""

from __future__ import annotations

import dataclasses
import os
import select
import shutil
import tempfile
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..datasets.episode import Observation
from ..datasets.protocols import StepResult
from ..datasets.spec import RobotSpec, SpecMismatchError
from ..datasets.starts import StartState
from .worker import (
    BUSY_NS,
    CURRENT_SLOT,
    NUM_FRAMES,
    OUT_OF_MEMORY_EXIT,
    TICKS,
    SharedArrays,
    decode,
    encode,
    head_bytes,
    map_arrays,
    map_head,
)
from .worker_process import WorkerProcess

_POLL_S = 0.5
_END_S = 1.0  # from closing its pipe to being gone
_CLOSE_S = 5.0

_KINDS: tuple[type[Exception], ...] = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    FileNotFoundError,
    FloatingPointError,
    ImportError,
    IndexError,
    KeyError,
    ModuleNotFoundError,
    NotImplementedError,
    OSError,
    TypeError,
    ValueError,
    ZeroDivisionError,
)


class WorkerError(RuntimeError):
    """A worker failed again and again at the same place; replaying does not help."""


@dataclass(frozen=True)
class Incident:
    """A worker was lost and its episodes were replayed.

    Attributes:
        kind: ``died`` (ended by itself or was killed), ``hung`` (nothing finished before the deadline) or
            ``memory`` (it hit its memory limit).
        worker: its number.
        slots: the slots whose episodes had to be replayed.
        detail: in words.
        seconds_lost: from the worker's last sign of life to the end of the replay.
    """

    kind: Literal["died", "hung", "memory"]
    worker: int
    slots: tuple[int, ...]
    detail: str
    seconds_lost: float


@dataclass
class _Slot:
    """What is needed to play a slot's episode again, and its latest answer."""

    start: StartState | None = None
    assist: float = 0.0
    relax: float = 0.0
    snapshot: bytes | None = None
    chunks: list[NDArray[np.float32]] = field(default_factory=list)
    playing: bool = False
    due: bool = False  # an answer to begin, step or snapshot has not come yet
    answered: bool = False
    instruction: str = ""
    saved: bytes = b""
    error: Exception | None = None

    def order(self, slot: int) -> dict[str, Any]:
        start = dataclasses.asdict(self.start) if self.start and self.snapshot is None else None
        chunks = b"".join(chunk.tobytes() for chunk in self.chunks)
        return {
            "slot": slot,
            "start": start,
            "assist": self.assist,
            "relax": self.relax,
            "snapshot": None if self.snapshot is None else encode(self.snapshot),
            "chunks": encode(chunks),
            "answer": self.due,
        }

    def describe(self) -> str:
        origin = "no episode" if self.start is None else str(self.start)
        if self.snapshot is not None:
            origin = "a restored snapshot" + (f" of {origin}" if self.start else "")
        return f"{origin}, after {len(self.chunks)} action chunks"


@dataclass
class _Call:
    id: int
    kind: Literal["open", "begin", "step", "snapshot"]
    slots: tuple[int, ...]
    is_replay: bool = False


@dataclass
class _Worker:
    """A process, the calls it has not answered, and what is known of its health."""

    index: int
    slots: tuple[int, ...]
    process: WorkerProcess
    ticks: int
    last_sign_s: float
    calls: deque[_Call] = field(default_factory=deque)
    num_failures: int = 0
    lost: tuple[Incident, float] | None = None  # being replayed, and since when

    @property
    def is_opening(self) -> bool:
        return bool(self.calls) and self.calls[0].kind == "open"


class WorkerPool:
    """Environments in slots, spread over worker processes; implements `VectorEnv`.

    A slot with an answer due takes no new `step`, `snapshot` or `restore` until `receive`; `reset` may come
    at any time and abandons what the slot was doing. `receive` may be repeated. After `restore`, `receive`
    gives the restored state's observation. Results depend neither on `num_workers` nor on incidents.

    Attributes:
        assist: given to the environments (`env.Assisting`) with each `reset` from now on.
        relax: likewise.
        incidents: workers that were lost; the caller may clear it.

    Args:
        factory: ``package.module:function``, called in the worker once for each slot, giving an `Env`.
        kwargs: its keyword arguments; they travel as JSON.
        num_slots: environments.
        chunk_size: H, actions in one chunk.
        num_workers: processes; slot s lives in worker ``s % num_workers``.
        python: interpreter of the workers, None for this one. Another one needs numpy and what the factory
            imports; our own package is lent to it.
        environment: environment variables for the workers alone, in addition to ours.
        deadline_s: a worker that finishes no control step, frame, reset or snapshot for so long is hung.
        startup_deadline_s: the same while it starts (imports, the first environments, shaders).
        memory_limit_mb: address space each worker may use, in MiB, or None.
        max_failures: failures in a row, without a finished replay between them, that raise `WorkerError`.

    Raises:
        ValueError: if the factory or the numbers make no sense; what the factory raises is raised here too.
        WorkerError: if the workers do not start.
    """

    spec: RobotSpec
    num_slots: int
    chunk_size: int
    privileged_dim: int

    def __init__(
        self,
        factory: str,
        kwargs: Mapping[str, Any] | None = None,
        *,
        num_slots: int = 48,
        chunk_size: int = 5,
        num_workers: int = 2,
        python: str | Path | None = None,
        environment: Mapping[str, str] | None = None,
        deadline_s: float = 60.0,
        startup_deadline_s: float = 300.0,
        memory_limit_mb: int | None = None,
        max_failures: int = 3,
    ) -> None:
        if min(num_slots, chunk_size, num_workers, max_failures) < 1:
            raise ValueError(
                f"num_slots {num_slots}, chunk_size {chunk_size}, num_workers {num_workers} and max_failures "
                f"{max_failures} must all be at least 1"
            )
        if min(deadline_s, startup_deadline_s) <= 0 or (memory_limit_mb is not None and memory_limit_mb < 1):
            raise ValueError(
                f"deadline_s {deadline_s}, startup_deadline_s {startup_deadline_s} and memory_limit_mb "
                f"{memory_limit_mb} must be positive (memory_limit_mb may be None for no limit)"
            )
        if python is not None and shutil.which(python) is None:
            raise ValueError(
                f"python {str(python)!r} is not an interpreter that can be run: give the path of "
                "bin/python in the virtual environment of the simulator"
            )
        self.num_slots, self.chunk_size = num_slots, chunk_size
        self.num_workers = min(num_workers, num_slots)
        self.incidents: list[Incident] = []
        self.assist = 0.0
        self.relax = 0.0
        self._factory, self._kwargs = factory, dict(kwargs or {})
        self._python, self._memory_limit_mb = python, memory_limit_mb
        self._environment = dict(environment or {})
        self._deadline_s, self._startup_deadline_s = deadline_s, startup_deadline_s
        self._max_failures = max_failures
        self._slots = [_Slot() for _ in range(num_slots)]
        self._num_calls = 0
        self._workers: list[_Worker] = []
        self._spec: RobotSpec | None = None
        self._privileged_dim = 0
        self._arrays: SharedArrays | None = None
        # An anonymous file: it has no name that could be left behind in /dev/shm, whoever is killed when.
        self._file = _anonymous_file()
        try:
            os.ftruncate(self._file, head_bytes(self.num_workers))
            self._head = map_head(self._file, self.num_workers)
            for index in range(self.num_workers):
                self._workers.append(self._spawn(index))
            while any(worker.calls for worker in self._workers):
                self._pump()
            assert self._spec is not None, "a worker that has opened has given its spec"
            self.spec = self._spec
            self.privileged_dim = self._privileged_dim
            self._arrays = map_arrays(
                self._file, self.num_workers, num_slots, chunk_size, self.spec, self.privileged_dim
            )
        except BaseException:
            self.close()
            raise

    # What VectorEnv promises

    def reset(self, slots: Sequence[int], starts: Sequence[StartState]) -> None:
        """Begin episodes; returns at once. The answer comes from `receive`."""
        if len(slots) != len(starts):
            raise ValueError(f"reset of {len(slots)} slots was given {len(starts)} start states")
        self._check(slots)
        while any(self._slots[slot].due for slot in slots):
            self._pump()
        for slot, start in zip(slots, starts, strict=True):
            self._slots[slot] = _Slot(start, self.assist, self.relax, playing=True, due=True)
        self._send("begin", slots)

    def step(self, slots: Sequence[int], chunks: NDArray[np.float32]) -> None:
        """Execute (B,H,A) action chunks; returns at once. The answer comes from `receive`."""
        self._check(slots, idle=True)
        chunks = np.asarray(chunks, dtype=np.float32)
        expected = (len(slots), self.chunk_size, self.spec.action_dim)
        if chunks.shape != expected:
            raise ValueError(f"step was given actions of shape {chunks.shape}, expected {expected} (B,H,A)")
        for slot in slots:
            self._raise_error_of(slot)
            if not self._slots[slot].playing:
                raise ValueError(f"slot {slot} plays no episode (it is over or never began): reset it first")
        for slot, chunk in zip(slots, chunks, strict=True):
            self._slots[slot].chunks.append(chunk.copy())
            self._slots[slot].due = True
            self._shared.action[slot] = chunk
        self._send("step", slots)

    def receive(self, slots: Sequence[int]) -> StepResult:
        """Wait for the answers of the last `reset`, `restore` or `step` of these slots.

        The arrays are copies, the caller's to keep.

        Raises:
            WorkerError: if a worker fails again and again; the pool is closed then.
            Exception: what an environment raised, with the slot and the start state in a note.
        """
        self._check(slots)
        while any(self._slots[slot].due for slot in slots):
            self._pump()
        for slot in slots:
            self._raise_error_of(slot)
            if not self._slots[slot].answered:
                raise ValueError(f"slot {slot} was never reset, so there is nothing to receive")
        rows, shared = np.asarray(slots, dtype=np.int64), self._shared
        return StepResult(
            observation=Observation(
                images={name: frames[rows] for name, frames in shared.images.items()},
                state=shared.state[rows],
                instruction=[self._slots[slot].instruction for slot in slots],
            ),
            privileged=shared.privileged[rows],
            executed=shared.executed[rows],
            reward=shared.reward[rows],
            success=shared.success[rows],
            invalid=shared.invalid[rows],
            done=shared.done[rows],
        )

    def snapshot(self, slots: Sequence[int]) -> list[bytes]:
        """The complete state of each slot; `restore` continues bit for bit, in any slot of any such pool."""
        self._check(slots, idle=True)
        for slot in slots:
            if not self._slots[slot].playing:
                raise ValueError(f"slot {slot} plays no episode, so it has no state to snapshot")
            self._slots[slot].due = True
        self._send("snapshot", slots)
        while any(self._slots[slot].due for slot in slots):
            self._pump()
        for slot in slots:
            self._raise_error_of(slot)
        return [self._slots[slot].saved for slot in slots]

    def restore(self, slots: Sequence[int], snapshots: Sequence[bytes]) -> None:
        """Continue from snapshots; returns at once. `receive` gives the observation there."""
        if len(slots) != len(snapshots):
            raise ValueError(f"restore of {len(slots)} slots was given {len(snapshots)} snapshots")
        self._check(slots, idle=True)
        for slot, snapshot in zip(slots, snapshots, strict=True):
            self._slots[slot] = _Slot(snapshot=snapshot, playing=True, due=True)
        self._send("begin", slots)

    def close(self) -> None:
        """End the workers; may be called again."""
        workers, self._workers = self._workers, []
        for worker in workers:
            self._note_incident(worker)
            if worker.calls:
                worker.process.kill()
            else:
                worker.process.hang_up()
        deadline_s = time.monotonic() + _CLOSE_S
        for worker in workers:
            worker.process.end(max(0.0, deadline_s - time.monotonic()))
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def __enter__(self) -> WorkerPool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # What is going on inside

    @property
    def worker_pids(self) -> list[int]:
        """Process ids of the present workers."""
        return [worker.process.pid for worker in self._workers]

    @property
    def busy_s(self) -> float:
        """Wall seconds all workers together have spent on calls, replays included."""
        return float(self._head[:, BUSY_NS].sum()) * 1e-9

    @property
    def num_frames(self) -> int:
        """Camera frames rendered so far, replays included."""
        return int(self._head[:, NUM_FRAMES].sum())

    @property
    def _shared(self) -> SharedArrays:
        assert self._arrays is not None, "arrays are mapped before the constructor returns"
        return self._arrays

    def _check(self, slots: Sequence[int], idle: bool = False) -> None:
        if not self._workers:
            raise RuntimeError("the worker pool is closed: make a new one")
        if len(set(slots)) != len(slots) or any(not 0 <= slot < self.num_slots for slot in slots):
            raise ValueError(f"slots {list(slots)}: expected distinct numbers from 0 to {self.num_slots - 1}")
        for slot in slots:
            if idle and self._slots[slot].due:
                raise ValueError(f"slot {slot} still has an answer due: call receive first")

    def _raise_error_of(self, slot: int) -> None:
        if (error := self._slots[slot].error) is not None:
            raise error

    def _spawn(self, index: int) -> _Worker:
        """Start a worker; its first call is to open its environments."""
        slots = tuple(range(index, self.num_slots, self.num_workers))
        call = _Call(self._next_id(), "open", ())
        config = {
            "id": call.id,
            "factory": self._factory,
            "kwargs": self._kwargs,
            "worker": index,
            "slots": slots,
            "num_workers": self.num_workers,
            "num_slots": self.num_slots,
            "chunk_size": self.chunk_size,
            "memory_limit_bytes": self._memory_limit_mb and self._memory_limit_mb * 2**20,
        }
        process = WorkerProcess(config, self._file, self._python, self._environment)
        ticks = int(self._head[index, TICKS])
        return _Worker(index, slots, process, ticks, time.monotonic(), deque([call]))

    def _next_id(self) -> int:
        self._num_calls += 1
        return self._num_calls

    def _send(self, kind: Literal["begin", "step", "snapshot"], slots: Sequence[int]) -> None:
        """Hand a call to the workers that own the slots."""
        for worker in self._workers:
            mine = tuple(slot for slot in slots if slot % self.num_workers == worker.index)
            if mine:
                self._call(worker, kind, mine)

    def _call(
        self,
        worker: _Worker,
        kind: Literal["begin", "step", "snapshot"],
        slots: tuple[int, ...],
        is_replay: bool = False,
    ) -> None:
        if not worker.calls:
            worker.last_sign_s = time.monotonic()
        call = _Call(self._next_id(), kind, slots, is_replay)
        worker.calls.append(call)
        orders = [self._slots[slot].order(slot) if kind == "begin" else {"slot": slot} for slot in slots]
        worker.process.send({"id": call.id, "call": kind, "orders": orders})

    def _pump(self) -> None:
        """Wait a little for news from the workers and deal with it."""
        poll = select.poll()
        by_file: dict[int, _Worker] = {}
        for worker in self._workers:
            by_file[worker.process.reply_file] = worker
            poll.register(worker.process.reply_file, select.POLLIN)
            if (call_file := worker.process.call_file) is not None:
                by_file[call_file] = worker
                poll.register(call_file, select.POLLOUT)
        for file, _ in poll.poll(min(_POLL_S, self._deadline_s / 4) * 1000):
            worker = by_file[file]
            if worker is not self._workers[worker.index]:
                continue  # replaced a moment ago
            if file == worker.process.reply_file:
                self._read(worker)
            else:
                worker.process.flush()
        self._look_for_hung_workers()

    def _read(self, worker: _Worker) -> None:
        replies = worker.process.receive()
        if replies is None:
            code, how, stderr = worker.process.end(_END_S)
            if code == OUT_OF_MEMORY_EXIT:
                limit = f" of {self._memory_limit_mb} MiB" if self._memory_limit_mb else ""
                self._recover(worker, "memory", f"ran out of its memory{limit}", stderr)
            else:
                self._recover(worker, "died", f"ended with {how}", stderr)
            return
        worker.last_sign_s = time.monotonic()
        for reply in replies:
            self._take(worker, reply)

    def _take(self, worker: _Worker, reply: dict[str, Any]) -> None:
        """Deal with one reply; replies come in the order of the calls."""
        call = worker.calls.popleft()
        assert call.id == reply["id"], f"worker {worker.index} answered {reply['id']}, expected {call.id}"
        if call.kind == "open":
            if "fatal" in reply:
                self.close()
                raise _as_exception(reply["fatal"], f"while worker {worker.index} made its environments")
            self._agree(worker, RobotSpec.from_json(reply["spec"]), reply["privileged_dim"])
            return
        if call.is_replay:
            worker.num_failures = 0
            self._note_incident(worker)
        errors = {error["slot"]: error for error in reply["errors"]}
        for slot, result in zip(call.slots, reply["results"], strict=True):
            state = self._slots[slot]
            if slot in errors:
                state.error = _as_exception(errors[slot], f"in slot {slot}, {state.describe()}")
                state.playing = state.due = False
                continue
            if call.kind == "begin":
                state.instruction = result
            if any(slot in later.slots for later in worker.calls):
                continue  # this was a replay, and the slot has had its next call already: that one answers
            if call.kind == "snapshot":
                state.saved = decode(result)
            elif state.due:
                state.answered = True
                state.playing = not self._shared.done[slot]
            state.due = False

    def _agree(self, worker: _Worker, spec: RobotSpec, privileged_dim: int) -> None:
        if self._spec is None:
            self._spec, self._privileged_dim = spec, privileged_dim
        self._spec.require_match(
            spec, "the environment of the first worker", f"that of worker {worker.index}"
        )
        if privileged_dim != self._privileged_dim:
            raise SpecMismatchError(
                f"worker {worker.index} has {privileged_dim} privileged values, another "
                f"{self._privileged_dim}: {self._factory} must give the same environment each time"
            )

    def _look_for_hung_workers(self) -> None:
        now = time.monotonic()
        for worker in self._workers:
            ticks = int(self._head[worker.index, TICKS])
            if ticks != worker.ticks or not worker.calls:
                worker.ticks, worker.last_sign_s = ticks, now
                continue
            deadline_s = self._startup_deadline_s if worker.is_opening else self._deadline_s
            if now - worker.last_sign_s > deadline_s:
                worker.process.kill()
                *_, stderr = worker.process.end(_END_S)
                self._recover(worker, "hung", f"finished nothing for {deadline_s:g} s", stderr)

    def _recover(
        self, worker: _Worker, kind: Literal["died", "hung", "memory"], detail: str, stderr: str
    ) -> None:
        """Replace a worker that is gone, and play its episodes again up to where they were."""
        slots = tuple(slot for slot in worker.slots if self._slots[slot].playing)
        self._note_incident(worker)
        if not worker.calls:
            detail += " while idle"
        elif worker.is_opening:
            detail += f" while it started {self._factory}"
        else:
            current = int(self._head[worker.index, CURRENT_SLOT])
            detail += f" in slot {current}: {self._slots[current].describe()}"
        since_s = worker.last_sign_s if worker.calls else time.monotonic()
        incident = Incident(kind, worker.index, slots, detail, 0.0)
        num_failures = worker.num_failures + 1
        if num_failures >= self._max_failures:
            self._note(incident, since_s)
            self.close()
            raise WorkerError(
                f"worker {worker.index} failed {num_failures} times in a row, the last time it {detail}. "
                "Play that start state alone to see why; a slow simulator needs a longer deadline_s, a large "
                f"one a higher memory_limit_mb. The end of its stderr:\n{stderr}"
            )
        replacement = self._workers[worker.index] = self._spawn(worker.index)
        replacement.num_failures = num_failures
        replacement.lost = (incident, since_s)
        self._call(replacement, "begin", slots, is_replay=True)
        for call in worker.calls:
            if call.kind == "snapshot":
                self._call(replacement, "snapshot", call.slots)

    def _note_incident(self, worker: _Worker) -> None:
        if worker.lost is not None:
            self._note(*worker.lost)
            worker.lost = None

    def _note(self, incident: Incident, since_s: float) -> None:
        self.incidents.append(dataclasses.replace(incident, seconds_lost=time.monotonic() - since_s))


def _anonymous_file() -> int:
    if hasattr(os, "memfd_create"):
        return os.memfd_create("regrip-pool")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def _as_exception(error: Mapping[str, Any], where: str) -> Exception:
    """What a worker reported, as its nearest built-in kind: the class itself may not be importable here."""
    names = {kind.__name__: kind for kind in _KINDS}
    kind = next((names[name] for name in error["types"] if name in names), RuntimeError)
    name, message = error["types"][0], error["message"]
    exception = kind(message if name == kind.__name__ else f"{name}: {message}")
    exception.add_note(f"{where}; the worker's traceback:\n{error['traceback']}")
    return exception
