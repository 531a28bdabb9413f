"""The node's steady clock, and the robot's stamps brought to it."""

from __future__ import annotations

import time


class WallClock:
    """`time.monotonic`, and its offset to the system's clock as it was when this was made.

    The offset stays: if the system's clock is set later, stamps disagree and the gate says so, rather than
    that anything moves by a guess.
    """

    def __init__(self) -> None:
        self._offset = time.monotonic() - time.time()

    def now(self) -> float:
        return time.monotonic()

    def taken(self, stamp: float) -> float:
        """A stamp of the system's clock, on the node's."""
        return stamp + self._offset

    def stamp(self, now: float) -> float:
        """Node time on the system's clock, for headers."""
        return now - self._offset

    def sleep_until(self, when: float) -> None:
        left = when - time.monotonic()
        if left > 0:
            time.sleep(left)
