"""What tasks, success predicates and experts may see of a simulator, whichever it is."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class World(Protocol):
    """A read-only view of the present simulator state.

    Metres, radians, seconds; base frame (x away from the robot, y to its left, z up, z = 0 on the table).
    Bodies have names; ``tcp`` is the tool centre point, ``table`` the table. Quaternions are (w, x, y, z).
    """

    def position(self, body: str) -> NDArray[np.float64]:
        """(3,) origin of the body."""
        ...

    def quaternion(self, body: str) -> NDArray[np.float64]:
        """(4,) orientation of the body."""
        ...

    def speed(self, body: str) -> float:
        """Magnitude of a loose object's linear velocity, in metres per second."""
        ...

    def joint(self, name: str) -> float:
        """Position of an articulated joint (a drawer, a knob, a button)."""
        ...

    def gripper_width(self) -> float:
        """Distance between the finger pads."""
        ...

    def touching(self, a: str, b: str) -> bool:
        """Whether the two bodies are in contact; the fingers are ``left_finger`` and ``right_finger``."""
        ...
