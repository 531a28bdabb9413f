"""When a simulated scene has exploded: its numbers no longer describe anything that could happen.

Stiff contacts, a body pressed into another, or a solver that gives up can throw energy into a scene. An
object that passed the goal in flight must not count as a success, nor should the policy be blamed for it, so
such an episode is invalid: it ends, is left out, and is counted.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

SPEED_LIMIT = 250.0
"""m/s and rad/s. In 40,000 control steps of violent play on the tabletop, a small object that the fingers let
slip spun at 85 rad/s at most; a kinetic energy out of nowhere is soon far beyond that."""
DISTANCE_LIMIT = 50.0
"""Metres and radians. An object that is knocked off the table rolls 5 m at most before the episode ends."""


def exploded(position: NDArray[np.floating], velocity: NDArray[np.floating]) -> NDArray[np.bool_]:
    """Which of the scenes have.

    Args:
        position: (...,nq) generalised positions.
        velocity: (...,nv) generalised velocities, m/s and rad/s.

    Returns:
        bool (...).
    """
    # A comparison with NaN is false, which is what is wanted here.
    sane = (np.abs(velocity) <= SPEED_LIMIT).all(-1) & (np.abs(position) <= DISTANCE_LIMIT).all(-1)
    return np.asarray(~sane)


def broke_down(data: Any) -> bool:
    """Whether a MuJoCo simulation has exploded since this was asked last.

    Of a number that is not finite MuJoCo makes a note, and by itself puts the scene back to where it was
    compiled: what is then in the state looks as if nothing had been.

    Args:
        data: a `mujoco.MjData`, of a step that was just taken.
    """
    import mujoco  # the workers of other engines have none

    kinds = mujoco.mjtWarning
    notes = [
        data.warning[int(kind)] for kind in (kinds.mjWARN_BADQPOS, kinds.mjWARN_BADQVEL, kinds.mjWARN_BADQACC)
    ]
    noted = any(note.number for note in notes)
    for note in notes:
        note.number = 0
    return noted or bool(exploded(data.qpos, data.qvel))
