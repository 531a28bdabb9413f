"""Time as a simulator tells it on /clock."""

from __future__ import annotations

import threading
import time
from typing import Any

from .. import ros_messages


class SimulatedClock:
    """Time as /clock tells it."""

    def __init__(self) -> None:
        self.now = 0.0
        self._moved = threading.Condition()
        self._over = False

    def hear(self, message: Any) -> None:
        with self._moved:
            self.now = ros_messages.seconds(message.clock)
            self._moved.notify_all()

    def wait(self, longest_s: float) -> bool:
        """Whether it has begun."""
        end = time.monotonic() + longest_s
        with self._moved:
            while self.now == 0.0 and time.monotonic() < end:
                self._moved.wait(0.1)
        return self.now > 0.0

    def sleep_until(self, when: float) -> None:
        """Until then; or until it begins anew, which the core will notice."""
        with self._moved:
            before = self.now
            while not self._over and before <= self.now < when - 1e-6:
                before = self.now
                self._moved.wait(0.2)

    def stop(self) -> None:
        with self._moved:
            self._over = True
            self._moved.notify_all()
