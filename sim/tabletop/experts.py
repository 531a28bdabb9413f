"""Scripted experts: closed-loop waypoint controllers over the `World` view that answer in ee_delta actions.

``python -m regrip.sim.tabletop.experts --episodes 100`` prints how well they do.
"""

from __future__ import annotations

import argparse
import time
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ...datasets.starts import SPLITS, StartState
from . import rotation
from .control import ROTATION_MAX_RAD, TRANSLATION_MAX_M
from .skills import Aim
from .tasks import SUITES, Task, load
from .world import World

if TYPE_CHECKING:
    from .env import TabletopEnv


class Expert:
    """Plays the present episode of a world. Stateful (it remembers its phase); one per episode."""

    def __init__(self, task: Task, world: World) -> None:
        self._script = task.script()
        self._world = world
        self._phase = 0
        self._steps = 0

    def _over(self) -> bool:
        phase = self._script[self._phase]
        return self._steps >= phase.limit or phase.done(self._world, self._steps)

    def _go(self, phase: int) -> None:
        self._phase = phase
        self._steps = 0

    def act(self) -> NDArray[np.float32]:
        """The clean action (7,) for the present state, in `ee_delta` units."""
        if self._script[self._phase].lost(self._world):
            self._go(max(i for i in range(self._phase + 1) if self._script[i].first))
        last = len(self._script) - 1
        if self._phase == last and self._steps >= self._script[last].limit:
            self._go(0)  # done, and yet no success: all over again
        while self._phase < last and self._over():
            self._go(self._phase + 1)
        self._steps += 1
        return toward(self._world, self._script[self._phase].aim(self._world))


def toward(world: World, aim: Aim) -> NDArray[np.float32]:
    """The action that goes straight at `aim`, as fast as the limits allow."""
    move = aim.position - world.position("tcp")
    move *= min(0.8, TRANSLATION_MAX_M / max(float(np.abs(move).max()), 1e-9))
    wanted = rotation.gripper_down(aim.yaw)
    turn = rotation.rotation_vector(rotation.multiply(wanted, rotation.conjugate(world.quaternion("tcp"))))
    turn *= min(1.0, ROTATION_MAX_RAD / max(float(np.abs(turn).max()), 1e-9))
    return np.concatenate((move, turn, (aim.width,))).astype(np.float32)


def perturbed(
    action: NDArray[np.float32], generator: np.random.Generator, scale: float
) -> NDArray[np.float32]:
    """`action` with Gaussian noise on its motion: `scale` is the standard deviation in action limits.

    Execute this and record the clean action: the noise takes the arm off the expert's path, the label says
    the way back.
    """
    limits = np.array((*(TRANSLATION_MAX_M,) * 3, *(ROTATION_MAX_RAD,) * 3, 0.0))
    return np.asarray(action + generator.normal(0.0, scale, 7) * limits, dtype=np.float32)


def main() -> None:
    from .env import TabletopEnv  # which imports this module

    parser = argparse.ArgumentParser(description="Success rate and length of the scripted experts.")
    parser.add_argument("--suite", choices=SUITES, action="append", help="default: all")
    parser.add_argument("--task", help="only this task")
    parser.add_argument("--episodes", type=int, default=100, help="per task")
    parser.add_argument("--noise", type=float, default=0.0, help="action noise in action limits")
    parser.add_argument("--split", choices=SPLITS, default="train")
    arguments = parser.parse_args()
    for suite in arguments.suite or SUITES:
        env = TabletopEnv(suite, cameras=())
        began, total = time.process_time(), 0
        for task in [load(suite).task(arguments.task)] if arguments.task else load(suite).tasks:
            failures, lengths = [], []
            for index in range(arguments.episodes):
                start = StartState(f"{suite}/{task.name}", arguments.split, index)
                success, steps = _play(env, start, arguments.noise)
                total += steps
                if success:
                    lengths.append(steps)
                else:
                    failures.append(index)
            print(
                f"{suite + '/' + task.name:32s} {len(lengths):4d}/{arguments.episodes} mean "
                f"{np.mean(lengths or [0]):5.1f} max {max(lengths, default=0):3d} of {task.max_steps} steps"
                + (f"  failed starts {failures[:8]}" if failures else ""),
                flush=True,
            )
        rate = total / (time.process_time() - began)
        print(f"{suite}: {rate:.0f} environment steps per cpu-second, expert and resets included")


def _play(env: TabletopEnv, start: StartState, noise: float) -> tuple[bool, int]:
    """Whether the expert succeeds, and in how many steps."""
    env.reset(start)
    expert = env.expert()
    generator = start.generator("expert noise")
    for step in range(1, env.max_steps + 1):
        outcome = env.step(perturbed(expert.act(), generator, noise))
        if outcome.success:
            return True, step
    return False, env.max_steps


if __name__ == "__main__":
    main()
