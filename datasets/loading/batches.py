"""Whole batches made by worker processes in memory that all share; nothing is sent but numbers and tasks.

What a batch holds depends on its step alone, so the number of workers changes nothing but speed. Nothing here
imports torch: a worker starts in a second.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import traceback
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from multiprocessing.shared_memory import SharedMemory
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..ledger import DataError
from .mixture import Samples
from .sampler import Order
from .samples import Arrays, Field

_ALIGN = 64
_SHM = "/dev/shm"


@dataclass(frozen=True)
class Batch:
    """Samples of one step, or of one rank's part of it.

    Attributes:
        step: counted from the start of training.
        arrays: by name, (n, ...); see `samples` and `mixture` for the names.
        task: the instruction of each sample.
        place: (n,) place of each sample in the global batch.
    """

    step: int
    arrays: Arrays
    task: list[str]
    place: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.task)


class Buffers:
    """Arrays for batches: those of an earlier batch again, once nobody holds them or a part of them.

    Memory that is new to the process costs a third of what decoding costs, for it comes page by page.
    """

    def __init__(self, fields: dict[str, Field], most: int = 4) -> None:
        """Keep the arrays of at most `most` batches."""
        self._fields, self._most = fields, most
        self._held: list[Arrays] = []

    def take(self, n: int) -> Arrays:
        """Arrays of n rows, which hold anything."""
        for held in self._held:
            # A view, or a tensor over it, refers to the array too.
            if all(count == _ALONE for count in _references(held)) and len(held["index"]) >= n:
                return {name: one[:n] for name, one in held.items()}
        made = {name: np.empty((n, *one.shape), one.dtype) for name, one in self._fields.items()}
        self._held = [*self._held, made][-self._most :]
        return {name: one[:] for name, one in made.items()}

    def copy(self, batch: Batch) -> Batch:
        """A batch in memory of its own."""
        arrays = self.take(len(batch))
        for name, array in batch.arrays.items():
            arrays[name][...] = array
        return Batch(batch.step, arrays, batch.task, batch.place)


def _references(arrays: Arrays) -> list[int]:
    return [sys.getrefcount(one) for one in arrays.values()]


_ALONE = _references({"one": np.empty(0)})[0]  # differs between versions of Python


class Maker(Protocol):
    """What makes batches in a worker process, or in this one."""

    @property
    def fields(self) -> dict[str, Field]:
        """The arrays of a batch, by name."""
        ...

    @property
    def room(self) -> int:
        """Most samples that this rank's part of a batch can have."""
        ...

    def places(self, step: int) -> NDArray[np.int64]:
        """(n,) places in the global batch of this rank's part of it."""
        ...

    def make(self, step: int, out: Arrays, worker: int, workers: int) -> list[tuple[int, str]]:
        """Fill `worker`'s share of this rank's part of a batch; give its rows and their tasks.

        Raises:
            DataError: a row is damaged.
        """
        ...


@dataclass(frozen=True)
class MapMaker:
    """Batches of samples that can be read in any order; a worker makes the whole of a batch, or nothing."""

    samples: Samples
    order: Order
    rank: int
    world: int

    @property
    def fields(self) -> dict[str, Field]:
        return self.samples.fields

    @property
    def room(self) -> int:
        return -(-len(self.order.draw(0)) // self.world)

    def places(self, step: int) -> NDArray[np.int64]:
        return self.order.draw(step, self.rank, self.world).place

    def make(self, step: int, out: Arrays, worker: int, workers: int) -> list[tuple[int, str]]:
        if step % workers != worker:
            return []
        return list(enumerate(self.samples.fill(self.order.draw(step, self.rank, self.world), out)))


class Workers:
    """Worker processes and the batches they make.

    Use as a context manager, or `close` it: workers are processes.
    """

    def __init__(self, maker: Maker, num: int, *, ahead: int = 2, start: int = 0) -> None:
        """Start the processes; they begin at once.

        Args:
            maker: what they do; it is sent to them, and opens its files anew.
            num: worker processes.
            ahead: batches that each worker may have ready.
            start: the first step.

        Raises:
            DataError: there is too little shared memory.
        """
        self._maker, self._size, self._slots = maker, maker.room, num * ahead
        self._offsets, self._slot_bytes = _layout(maker.fields, self._size)
        _check_shared(self._slot_bytes * self._slots)
        self._memory = SharedMemory(create=True, size=max(1, self._slot_bytes * self._slots))
        self._workers: list[tuple[SpawnProcess, Connection]] = []
        self._next, self._asked = start, start
        context = multiprocessing.get_context("spawn")
        try:
            for number in range(num):
                ours, theirs = context.Pipe()
                job = (theirs, maker, number, num, self._memory.name, self._slots)
                process = context.Process(target=_work, args=job, daemon=True)
                process.start()
                theirs.close()
                self._workers.append((process, ours))
            for _ in range(self._slots):
                self._ask()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def pids(self) -> list[int]:
        """Of the worker processes."""
        return [process.pid or 0 for process, _ in self._workers]

    def __iter__(self) -> Iterator[Batch]:
        """The batches in order. Each lies in shared memory and is valid until the next is asked for.

        Raises:
            DataError: a worker met damaged data.
            RuntimeError: a worker died.
        """
        while True:
            yield self._receive(self._next)
            self._next += 1
            self._ask()  # its slot is free again

    def close(self) -> None:
        """End the workers and give the memory back."""
        for process, pipe in self._workers:
            pipe.close()
            process.terminate()
        for process, _ in self._workers:
            process.join()
            process.close()
        self._workers = []
        try:
            self._memory.close()
        except BufferError:  # somebody still holds a batch: the memory goes with the last view of it
            self._memory._mmap = self._memory._buf = None  # type: ignore[attr-defined]
        with suppress(FileNotFoundError):
            self._memory.unlink()

    def _ask(self) -> None:
        for _, pipe in self._workers:
            with suppress(OSError):  # it is dead: `_receive` says so
                pipe.send(self._asked)
        self._asked += 1

    def _receive(self, step: int) -> Batch:
        places = self._maker.places(step)
        tasks = [""] * len(places)
        for process, pipe in self._workers:
            for row, task in self._answer(process, pipe, step):
                tasks[row] = task
        begin = step % self._slots * self._slot_bytes
        views = _views(self._memory, self._maker.fields, self._offsets, begin, self._size)
        return Batch(step, {name: view[: len(tasks)] for name, view in views.items()}, tasks, places)

    def _answer(self, process: SpawnProcess, pipe: Connection, step: int) -> list[tuple[int, str]]:
        wait([pipe, process.sentinel])
        try:
            if not pipe.poll():
                raise EOFError
            answer = pipe.recv()
        except (EOFError, OSError):
            process.join(5)
            code = process.exitcode
            how = f"signal {signal.Signals(-code).name}" if code is not None and code < 0 else f"code {code}"
            raise RuntimeError(
                f"loader worker {process.pid} ended with {how} before batch {step} was ready. SIGKILL "
                "usually means that memory ran out: use fewer workers or smaller batches"
            ) from None
        if isinstance(answer, DataError):
            raise answer
        if isinstance(answer, str):
            raise RuntimeError(f"loader worker {process.pid} failed at batch {step}:\n{answer}")
        made: list[tuple[int, str]] = answer
        return made


def _work(pipe: Connection, maker: Maker, worker: int, workers: int, memory: str, slots: int) -> None:
    """Make the batches that are asked for, until the pipe is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends us
    shared = SharedMemory(memory)
    offsets, slot_bytes = _layout(maker.fields, maker.room)
    while True:
        try:
            step = pipe.recv()
        except (EOFError, OSError):
            break
        try:
            views = _views(shared, maker.fields, offsets, step % slots * slot_bytes, maker.room)
            answer: Any = maker.make(step, views, worker, workers)
        except DataError as error:
            answer = error
        except (ValueError, LookupError, OSError, MemoryError, AssertionError, TypeError, AttributeError):
            answer = traceback.format_exc()
        try:
            pipe.send(answer)
        except OSError:
            break
    os._exit(0)


def _layout(fields: dict[str, Field], size: int) -> tuple[dict[str, int], int]:
    """Where each array begins in a slot, and the bytes of a slot."""
    offsets, end = {}, 0
    for name, one in fields.items():
        offsets[name] = end
        end += (
            -(-size * int(np.prod(one.shape, dtype=np.int64)) * np.dtype(one.dtype).itemsize // _ALIGN)
            * _ALIGN
        )
    return offsets, end


def _views(
    memory: SharedMemory, fields: dict[str, Field], offsets: dict[str, int], begin: int, size: int
) -> Arrays:
    return {
        name: np.ndarray((size, *one.shape), one.dtype, memory.buf, begin + offsets[name])
        for name, one in fields.items()
    }


def _check_shared(needed: int) -> None:
    """Refuse what would end in a bus error: shared memory is handed out before it is there."""
    if not os.path.isdir(_SHM):  # not Linux
        return
    state = os.statvfs(_SHM)
    free = state.f_bavail * state.f_frsize
    if needed > free:
        raise DataError(
            f"the workers need {needed / 1e6:.0f} MB of shared memory, {_SHM} has {free / 1e6:.0f} MB",
            "use fewer workers or smaller batches, or give the container more (docker run --shm-size)",
        )
