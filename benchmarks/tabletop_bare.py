"""What one thread does on the tabletop with nothing around it: how much is left of the engine in our pool.

    python benchmarks/tabletop_bare.py

`mj_step` alone, with the motors' commands of real episodes; frames alone; and the environment in a plain
loop. Per CPU second, two cameras; `sim.py` measures the pool and prints this too.
"""

from __future__ import annotations

import argparse
import itertools
import os

os.environ.setdefault("MUJOCO_GL", "egl")  # before mujoco is imported
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass

import mujoco
import numpy as np
from numpy.typing import NDArray

from regrip.datasets.starts import StartState, counter_generator
from regrip.sim.tabletop.env import TabletopEnv
from regrip.sim.tabletop.scenes import SUBSTEPS
from regrip.sim.tabletop.tasks import task_names

CHUNK = 5
SUITE = "demo"


def starts(num: int) -> list[StartState]:
    names = task_names(SUITE)
    return [StartState(names[index % len(names)], "train", index) for index in range(num)]


def chunks(low: NDArray[np.float32], high: NDArray[np.float32]) -> NDArray[np.float32]:
    """(64, CHUNK, A): a slow random walk of the arm."""
    span = counter_generator("benchmark").uniform(0.35, 0.65, (64, CHUNK, len(low)))
    return (low + span * (high - low)).astype(np.float32)


@dataclass(frozen=True)
class Bare:
    """What one thread does with nothing around it, per CPU second.

    Attributes:
        steps: control steps of `mj_step` alone.
        frames: rendered frames.
        env_looking: control steps of the environment in a plain loop, looking after every step.
        env_chunks: the same, looking after every fifth.
    """

    steps: float
    frames: float
    env_looking: float
    env_chunks: float

    def allowed(self, steps_per_look: int) -> float:
        """Control steps per CPU second if there were only physics and two frames for each look."""
        return 1 / (1 / self.steps + 2 / steps_per_look / self.frames)


def measure_bare(image_size: int, seconds: float) -> Bare:
    env = TabletopEnv(SUITE, image_size=image_size)
    world, model = env.world, env.world.model
    table = chunks(env.spec.action_low, env.spec.action_high)
    actions = table.reshape(-1, table.shape[-1])
    for camera in env.spec.cameras:
        env.reset(starts(1)[0])
        env.render(camera.name)

    def play(steps_per_look: int) -> Iterator[None]:
        for start in itertools.cycle(starts(8)):
            env.reset(start)
            for index, action in enumerate(actions):
                step = env.step(action)
                if (index + 1) % steps_per_look == 0:
                    env.state()
                    env.privileged()
                    for camera in env.spec.cameras:
                        env.render(camera.name)
                yield
                if step.success or step.truncated:
                    break

    # The commands to the motors are those of real episodes, so that contacts are as many.
    episodes = []
    for start in starts(8):
        env.reset(start)
        begin, commands = world.get_state(), []
        for action in actions[: env.max_steps - 1]:
            if env.step(action).success:
                break
            commands.append(world.data.ctrl.copy())
        episodes.append((begin, commands))
    data = mujoco.MjData(model)

    def step_physics() -> Iterator[None]:
        for begin, commands in itertools.cycle(episodes):
            mujoco.mj_setState(model, data, begin, mujoco.mjtState.mjSTATE_INTEGRATION)
            for command in commands:
                data.ctrl[:] = command
                mujoco.mj_step(model, data, SUBSTEPS)
                yield

    def render() -> Iterator[None]:
        for camera in itertools.cycle(env.spec.cameras):
            env.render(camera.name)
            yield

    found = Bare(*(rate(one, seconds) for one in (step_physics(), render(), play(1), play(CHUNK))))
    env.close()
    return found


def rate(work: Iterator[None], seconds: float) -> float:
    """Pieces of work per CPU second of this process."""
    began_s = time.process_time()
    for done, _ in enumerate(work, start=1):  # noqa: B007 - counted
        if (passed_s := time.process_time() - began_s) > seconds:
            break
    return done / passed_s


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--image-size", type=int, default=64)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=1.0, help="for each part of a repetition")
    args = parser.parse_args()
    found = [measure_bare(args.image_size, args.seconds) for _ in range(args.repetitions)]
    print(f"\ntabletop/{SUITE}, one thread, {SUBSTEPS} physics steps in a control step, per CPU second")
    for name, values in (
        ("mj_step alone, control steps", [one.steps for one in found]),
        ("render alone, frames", [one.frames for one in found]),
        ("environment in a loop, frames every step", [one.env_looking for one in found]),
        (f"environment in a loop, frames every {CHUNK} steps", [one.env_chunks for one in found]),
        ("mj_step and frames every step, nothing else", [one.allowed(1) for one in found]),
        (f"mj_step and frames every {CHUNK} steps, nothing else", [one.allowed(CHUNK) for one in found]),
    ):
        print(f"  {name:46} {statistics.median(values):8.1f} ({min(values):.1f}-{max(values):.1f})")


if __name__ == "__main__":
    main()
