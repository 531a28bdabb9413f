"""The tabletop with a simulation that breaks down at the second step of every start with an odd index."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from regrip.datasets.starts import StartState
from regrip.sim.env import EnvStep
from regrip.sim.tabletop.env import TabletopEnv


class Bursting(TabletopEnv):
    bursts = always = False
    stepped = 0

    def reset(self, start: StartState) -> None:
        super().reset(start)
        self.bursts, self.stepped = self.always or bool(start.index % 2), 0

    def step(self, action: NDArray[np.float32]) -> EnvStep:
        self.stepped += 1
        if self.bursts and self.stepped == 2:
            self.world.data.qvel[0] = 1e6
        return super().step(action)


def make(**kwargs: Any) -> Bursting:
    return Bursting(**kwargs)


def always(**kwargs: Any) -> Bursting:
    env = Bursting(**kwargs)
    env.always = True
    return env
