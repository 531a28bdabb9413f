"""The tabletop with workers that fail on request, for `workers.py`: it is imported in the worker processes.

Whoever takes a token file out of the folder ``$REGRIP_UNRULY`` does what its suffix says: dies, hangs (asleep
or stopped) or eats memory until its limit. Which control step that happens in is left to chance.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regrip.sim.env import EnvStep
from regrip.sim.tabletop.env import TabletopEnv


class UnrulyTabletop(TabletopEnv):
    """Obeys tokens before each control step."""

    def step(self, action: NDArray[np.float32]) -> EnvStep:
        for token in sorted(Path(os.environ["REGRIP_UNRULY"]).iterdir()):
            try:
                token.unlink()
            except FileNotFoundError:
                continue  # another worker was faster
            misbehave(token.suffix)
        return super().step(action)


def misbehave(kind: str) -> None:
    if kind == ".died":
        os.kill(os.getpid(), signal.SIGKILL)
    elif kind == ".asleep":
        time.sleep(1e6)
    elif kind == ".stopped":
        os.kill(os.getpid(), signal.SIGSTOP)
    elif kind == ".memory":
        hoard = []
        while True:
            hoard.append(np.empty(2**24))


def make(**kwargs: Any) -> UnrulyTabletop:
    return UnrulyTabletop(**kwargs)
