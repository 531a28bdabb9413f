"""Whole batches made by worker processes in memory that all share; nothing is sent but numbers and tasks.

Step s is made by worker s modulo their number, and what a batch holds depends on its step alone, so the
number of workers changes nothing but speed. Nothing here imports torch: a worker starts in a second.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from multiprocessing.shared_memory import SharedMemory
from typing import Any

import numpy as np

from .ledger import DataError
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
    place: np.ndarray[Any, np.dtype[np.int64]]

    def __len__(self) -> int:
        return len(self.task)

    def copy(self) -> Batch:
        """In memory of its own."""
        return Batch(self.step, {k: v.copy() for k, v in self.arrays.items()}, self.task, self.place)


class Workers:
    """Worker processes and the batches they make.

    Use as a context manager, or `close` it: workers are processes.
    """

    def __init__(
        self,
        samples: Samples,
        order: Order,
        rank: int,
        world: int,
        num: int,
        *,
        ahead: int = 2,
        start: int = 0,
    ) -> None:
        """Start the processes; they begin at once.

        Args:
            samples: what is read; it is sent to the workers, which open its files anew.
            order: of the samples.
            rank: whose part of each batch is made.
            world: number of ranks.
            num: worker processes.
            ahead: batches that each worker may have ready.
            start: the first step.

        Raises:
            DataError: there is too little shared memory.
        """
        self._size = -(-len(order.draw(0)) // world)
        self._fields = samples.fields
        self._slots = num * ahead
        self._offsets, self._slot_bytes = _layout(self._fields, self._size)
        _check_shared(self._slot_bytes * self._slots)
        self._memory = SharedMemory(create=True, size=max(1, self._slot_bytes * self._slots))
        self._order, self._rank, self._world = order, rank, world
        self._workers: list[tuple[SpawnProcess, Connection]] = []
        self._next, self._asked = start, start
        context = multiprocessing.get_context("spawn")
        try:
            for _ in range(num):
                ours, theirs = context.Pipe()
                job = (theirs, samples, order, rank, world, self._memory.name, self._size, self._slots)
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
            step = self._next
            yield self._receive(step)
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
        _, pipe = self._workers[self._asked % len(self._workers)]
        with suppress(OSError):  # it is dead: `_receive` says so
            pipe.send(self._asked)
        self._asked += 1

    def _receive(self, step: int) -> Batch:
        process, pipe = self._workers[step % len(self._workers)]
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
        views = _views(
            self._memory, self._fields, self._offsets, step % self._slots * self._slot_bytes, self._size
        )
        place = self._order.draw(step, self._rank, self._world).place
        return Batch(step, {name: view[: len(answer)] for name, view in views.items()}, answer, place)


def _work(
    pipe: Connection,
    samples: Samples,
    order: Order,
    rank: int,
    world: int,
    memory: str,
    size: int,
    slots: int,
) -> None:
    """Make the batches that are asked for, until the pipe is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends us
    shared = SharedMemory(memory)
    offsets, slot_bytes = _layout(samples.fields, size)
    while True:
        try:
            step = pipe.recv()
        except (EOFError, OSError):
            break
        try:
            draw = order.draw(step, rank, world)
            views = _views(shared, samples.fields, offsets, step % slots * slot_bytes, size)
            answer: Any = samples.fill(draw, views)
        except DataError as error:
            answer = error
        except (ValueError, LookupError, OSError, MemoryError, AssertionError, TypeError):
            import traceback

            answer = traceback.format_exc()
        del views
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
