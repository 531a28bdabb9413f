"""An environment of numpy alone, for workers under an interpreter that has nothing else."""

import sys
import time

import numpy as np
from numpy.typing import NDArray

from regrip.datasets.spec import Axis, Camera, RobotSpec
from regrip.datasets.starts import StartState
from regrip.sim.env import EnvStep


class BareEnv:
    def __init__(self) -> None:
        x = (Axis("x", "m", -1.0, 1.0),)
        self.spec = RobotSpec("bare", "ee_delta", 20.0, "none", "none", x, x, (Camera("eye", 2, 2),))
        self.privileged_dim, self.max_steps, self.instruction = 1, 100, ""
        self.x = 0.0

    def reset(self, start: StartState) -> None:
        self.x = float(start.index)
        print("a simulator may print what it likes", flush=True)
        self.instruction = f"{sys.executable} {sorted({'torch', 'mujoco'} & set(sys.modules))}"
        if start.task_name == "crash":
            print("the solver has diverged", file=sys.stderr, flush=True)
            sys.exit(3)

    def step(self, action: NDArray[np.float32]) -> EnvStep:
        if self.x >= 1000:
            time.sleep(1e6)
        self.x += float(action[0])
        return EnvStep(0.0, False, False)

    def state(self) -> NDArray[np.float32]:
        return np.array([self.x], dtype=np.float32)

    def privileged(self) -> NDArray[np.float32]:
        return np.array([2 * self.x], dtype=np.float32)

    def render(self, camera: str) -> NDArray[np.uint8]:
        return np.full((2, 2, 3), int(self.x) % 256, dtype=np.uint8)

    def snapshot(self) -> bytes:
        return np.float64(self.x).tobytes()

    def restore(self, snapshot: bytes) -> None:
        self.x = float(np.frombuffer(snapshot)[0])

    def close(self) -> None:
        pass


def make() -> BareEnv:
    return BareEnv()
