"""The tabletop arm as a robot on its own: what a node drives when there is no real one.

It follows joint trajectories with a controller at 100 Hz, goes on whether or not anyone listens, and has a
watchdog.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ...datasets.spec import RobotSpec
from ...datasets.starts import StartState
from .env import CAMERAS, TabletopEnv
from .experts import Expert
from .scenes import CONTROL_RATE_HZ, SUBSTEPS

Array = NDArray[np.float64]

CONTROLLER_HZ = 100
ARM = tuple(f"joint{i + 1}" for i in range(7))
GRIPPER = "gripper"
_PER_TICK = round(SUBSTEPS * CONTROL_RATE_HZ / CONTROLLER_HZ)  # physics steps
_CHECK_EVERY = round(CONTROLLER_HZ / CONTROL_RATE_HZ)
# Velocity feedforward of panda.xml's position loops, all with kv/kp = 60 ms: without it the arm trails.
_LOOP_TIME_S = 0.06


class TabletopRobot:
    """One arm over one table, with a clock of its own.

    Args:
        suite: whose scene and tasks.
        image_size: of the cameras, pixels.
        watchdog_s: without a command for so long, the arm stays where it is.
    """

    def __init__(self, suite: str = "demo", image_size: int = 64, watchdog_s: float = 0.5) -> None:
        self._env = TabletopEnv(suite, image_size=image_size)
        self.spec: RobotSpec = self._env.spec
        self.watchdog_s = watchdog_s
        self.time = 0.0
        self.success = False
        self.invalid = False
        self.watchdog_fired = 0
        self._ticks = 0
        self._rows: Array = np.zeros((0, 8))
        self._sent = -np.inf
        self._rate = 1.0
        self._target: Array = np.zeros(8)

    @property
    def instruction(self) -> str:
        return self._env.instruction

    @property
    def max_steps(self) -> int:
        """Control steps (of 50 ms) that the task is given."""
        return self._env.max_steps

    @property
    def cameras(self) -> tuple[str, ...]:
        return CAMERAS

    def reset(self, start: StartState) -> None:
        """Put scene and arm where an episode begins; the clock goes on."""
        self._env.reset(start)
        self.success = self.invalid = False
        self._rows = np.zeros((0, 8))
        self._target = self._measured()
        self._sent = -np.inf

    def _measured(self) -> Array:
        world = self._env.world
        return np.append(world.arm_joints(), world.gripper_width())

    def command(self, names: tuple[str, ...], positions: Array, rate_hz: float) -> None:
        """Follow a joint trajectory: row i is due (i+1)/rate_hz seconds from now; the last is held.

        Args:
            names: of the arm's joints and ``gripper`` (metres between the pads), in any order; joints that
                are not named stay.
            positions: (T,N).
            rate_hz: of the rows.

        Raises:
            ValueError: a name is not known, or a number is not finite. Nothing is done then.
        """
        known = (*ARM, GRIPPER)
        for name in names:
            if name not in known:
                raise ValueError(f"the robot has no joint {name!r}; it has {', '.join(known)}")
        given = np.asarray(positions, np.float64)
        if given.ndim != 2 or given.shape[1] != len(names) or not np.isfinite(given).all():
            raise ValueError(f"positions of shape {given.shape} for {len(names)} joints, or not finite")
        rows = np.tile(self._target, (len(given), 1))
        rows[:, [known.index(name) for name in names]] = given
        self._rows, self._rate, self._sent = rows, rate_hz, self.time

    def advance(self, ticks: int = 1) -> None:
        """Let time pass, in ticks of the controller (10 ms)."""
        world = self._env.world
        dt = 1.0 / CONTROLLER_HZ
        for _ in range(ticks):
            wanted = self._target.copy()
            if len(self._rows):
                since = self.time - self._sent
                if since > self.watchdog_s:
                    self._rows = self._rows[:0]
                    self.watchdog_fired += 1
                else:
                    wanted = self._row_at(since + dt)
            velocity = (wanted - self._target) / dt
            world.command(wanted[:7] + _LOOP_TIME_S * velocity[:7], float(wanted[7]))
            world.advance(_PER_TICK)
            self._target = wanted
            self._ticks += 1
            self.time = self._ticks * dt
            self.invalid = self.invalid or world.exploded
            if self._ticks % _CHECK_EVERY == 0 and not self.success:
                self.success = self._env.succeeded()

    def _row_at(self, since: float) -> Array:
        """The trajectory so long after it was sent; linear between its rows, from where the arm was sent."""
        place = since * self._rate - 1
        if place >= len(self._rows) - 1:
            return np.array(self._rows[-1])
        if place <= 0:
            share = max(0.0, min(1.0, since * self._rate))
            return np.array(self._target + share * (self._rows[0] - self._target))
        low = int(place)
        return np.array(self._rows[low] + (place - low) * (self._rows[low + 1] - self._rows[low]))

    def joints(self) -> tuple[tuple[str, ...], Array, Array]:
        """Names, positions (8,) and velocities (8,): the arm's seven, and the gripper's opening in metres."""
        data = self._env.world.data
        velocity = np.append(data.qvel[:7], data.qvel[7] + data.qvel[8])
        return (*ARM, GRIPPER), self._measured(), velocity

    def expert(self) -> Expert:
        """A scripted expert for the present task, from the present state on: the person beside the arm."""
        return self._env.expert()

    def frame(self, camera: str) -> NDArray[np.uint8]:
        """(H,W,3) RGB, now."""
        return self._env.render(camera)

    def close(self) -> None:
        self._env.close()
