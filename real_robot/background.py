"""A thread that works through a queue, so that a slow disk holds nobody up."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Background(Generic[T]):
    """Does `work` with everything that is put, in order, in a thread of its own.

    Args:
        work: must not raise.
        name: of the thread.
        longest: so many may wait; more are dropped, and counted.

    Attributes:
        dropped: how many were.
    """

    def __init__(self, work: Callable[[T], None], name: str, longest: int) -> None:
        self._work, self._longest, self.dropped = work, longest, 0
        self._lock = threading.Lock()
        self._queue: queue.SimpleQueue[tuple[T] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def put(self, what: T, *, anyway: bool = False) -> bool:
        """Have it done some time; from any thread, without waiting. False if too many wait already."""
        if self._queue.qsize() >= self._longest and not anyway:
            with self._lock:
                self.dropped += 1
            return False
        self._queue.put((what,))
        return True

    def _run(self) -> None:
        while (one := self._queue.get()) is not None:
            self._work(one[0])

    def close(self) -> None:
        """Do what waits, and end."""
        self._queue.put(None)
        self._thread.join()
