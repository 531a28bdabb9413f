"""A small real simulator for the pool's tests: a puck pushes a box to a line. MuJoCo physics and pixels.

Told to, it misbehaves: whoever takes a token file out of `chaos` kills its own process, hangs or eats memory.
"""

from __future__ import annotations

import os
import signal
import struct
import time
from functools import cache
from pathlib import Path

import mujoco
import numpy as np
from numpy.typing import NDArray

from regrip.datasets.spec import Axis, Camera, RobotSpec
from regrip.datasets.starts import StartState
from regrip.sim.env import EnvStep
from regrip.sim.explosion import exploded

SIZE = 16
XML = """
<mujoco>
  <option timestep="0.005"/>
  <visual><quality offsamples="0" shadowsize="0"/></visual>
  <worldbody>
    <light pos="0 0 2"/>
    <camera name="top" pos="0 0 0.8"/>
    <geom type="plane" size="1 1 .1" rgba=".3 .4 .5 1"/>
    <body name="puck" pos="0 0 .03">
      <joint name="px" type="slide" axis="1 0 0" damping="5"/>
      <joint name="py" type="slide" axis="0 1 0" damping="5"/>
      <geom type="cylinder" size=".03 .03" mass=".2" rgba="1 .2 .2 1"/>
    </body>
    <body name="box" pos="0 0 .03">
      <freejoint/>
      <geom type="box" size=".04 .04 .03" mass=".1" rgba=".2 1 .2 1"/>
    </body>
  </worldbody>
  <actuator>
    <velocity joint="px" kv="20"/>
    <velocity joint="py" kv="20"/>
  </actuator>
</mujoco>
"""
STATE = mujoco.mjtState.mjSTATE_INTEGRATION


@cache
def model() -> mujoco.MjModel:
    return mujoco.MjModel.from_xml_string(XML)


@cache
def renderer() -> mujoco.Renderer:
    made = mujoco.Renderer(model(), SIZE, SIZE)
    made.scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = False
    return made


class PuckEnv:
    def __init__(self, max_steps: int = 40, chaos: str | None = None) -> None:
        axis = [Axis(name, "m/s", -0.5, 0.5) for name in ("x", "y")]
        state = [Axis(name, "m or m/s", -10.0, 10.0) for name in ("x", "y", "vx", "vy")]
        cameras = (Camera("top", SIZE, SIZE),)
        self.spec = RobotSpec("puck", "ee_delta", 20.0, "none", "none", tuple(axis), tuple(state), cameras)
        self.privileged_dim = 7
        self.instruction = ""
        self.max_steps = max_steps
        self.chaos = Path(chaos) if chaos else None
        self.data = mujoco.MjData(model())
        self.index = self.num_steps = 0

    def reset(self, start: StartState) -> None:
        if start.task not in ("puck/push", "puck/error", "puck/burst"):
            raise ValueError(f"task {start.task!r} is not known, did you mean 'puck/push'?")
        mujoco.mj_resetData(model(), self.data)
        generator = start.generator("layout")
        self.data.qpos[2:4] = start.lattice(generator, 0.08, 0.3), start.lattice(generator, -0.05, 0.05)
        self.index, self.num_steps = start.index, 0
        self.instruction = f"{start.task_name} box {start.index}"

    def step(self, action: NDArray[np.float32]) -> EnvStep:
        if self.chaos is not None and (self.index * 7 + self.num_steps * 5) % 11 == 0:
            misbehave(self.chaos)
        if self.instruction.startswith("error") and self.num_steps == 3:
            raise ZeroDivisionError("the box has left the world")
        self.data.ctrl[:] = np.clip(action, -0.5, 0.5)
        mujoco.mj_step(model(), self.data, 10)
        self.num_steps += 1
        if self.instruction.startswith("burst") and self.num_steps == 7:  # as it would pass the line
            self.data.qvel[2] = 1e4
        if exploded(self.data.qpos, self.data.qvel):
            return EnvStep(0.0, success=False, truncated=False, invalid=True)
        success = bool(self.data.qpos[2] > 0.32)
        return EnvStep(float(success), success, not success and self.num_steps >= self.max_steps)

    def state(self) -> NDArray[np.float32]:
        return np.concatenate([self.data.qpos[:2], self.data.qvel[:2]]).astype(np.float32)

    def privileged(self) -> NDArray[np.float32]:
        return self.data.qpos[2:9].astype(np.float32)

    def render(self, camera: str) -> NDArray[np.uint8]:
        mujoco.mj_kinematics(model(), self.data)  # positions lag behind the state by a step after mj_step
        mujoco.mj_comPos(model(), self.data)
        mujoco.mj_camlight(model(), self.data)
        renderer().update_scene(self.data, camera)
        return renderer().render()

    def snapshot(self) -> bytes:
        full = np.empty(mujoco.mj_stateSize(model(), STATE))
        mujoco.mj_getState(model(), self.data, full, STATE)
        return struct.pack("<qq32s", self.index, self.num_steps, self.instruction.encode()) + full.tobytes()

    def restore(self, snapshot: bytes) -> None:
        head = struct.calcsize("<qq32s")
        self.index, self.num_steps, instruction = struct.unpack("<qq32s", snapshot[:head])
        self.instruction = instruction.rstrip(b"\0").decode()
        mujoco.mj_setState(model(), self.data, np.frombuffer(snapshot[head:]), STATE)

    def close(self) -> None:
        pass


def misbehave(chaos: Path) -> None:
    """Take a token, if one is left, and do what it says."""
    for token in sorted(chaos.iterdir()):
        try:
            token.unlink()
        except FileNotFoundError:
            continue  # another worker was faster
        if token.suffix == ".die":
            os.kill(os.getpid(), signal.SIGKILL)
        elif token.suffix == ".hang":
            time.sleep(1e6)
        elif token.suffix == ".stop":
            os.kill(os.getpid(), signal.SIGSTOP)
        elif token.suffix == ".memory":
            hoard = []
            while True:
                hoard.append(np.empty(2**22))
        return


def make(max_steps: int = 40, chaos: str | None = None) -> PuckEnv:
    return PuckEnv(max_steps, chaos)
