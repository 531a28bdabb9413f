"""Tells a scene that has come apart from one that plays: a pure function of joint positions and velocities.

A solver that diverges throws things through the room or answers with NaN; a success after that is worthless.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Limits:
    """What nothing on a table top reaches: the arm turns at 3 rad/s, a block falling off a table goes 5 m/s.

    Attributes:
        position: of any joint coordinate, metres or radians (quaternion components are below 1 anyway).
        speed: of any degree of freedom, metres or radians per second; light parts may spin fast when struck.
    """

    position: float = 10.0
    speed: float = 200.0


DEFAULT = Limits()


def exploded(
    qpos: NDArray[np.floating[Any]], qvel: NDArray[np.floating[Any]], limits: Limits = DEFAULT
) -> NDArray[np.bool_]:
    """Which states are not finite or beyond the limits: (N,) of `qpos` (N,nq) and `qvel` (N,nv)."""
    # A comparison with NaN is false, so ask for what is sound.
    sound = (np.abs(qpos) <= limits.position).all(-1) & (np.abs(qvel) <= limits.speed).all(-1)
    return np.asarray(~sound)
