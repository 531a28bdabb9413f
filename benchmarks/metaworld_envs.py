"""Meta-World: our worker pool and gymnasium's AsyncVectorEnv over the package itself, at equal pixels.

    make metaworld
    .venv/bin/python benchmarks/metaworld_envs.py            # some minutes

Both play the same task with random actions; a control step is two of the package's 12.5 ms steps, for both.
Theirs is the package as it documents it: an environment with `render_mode="rgb_array"` of the same size and
camera, wrapped so that each step returns a picture, in a process of the worker interpreter for each
environment. Rates are control steps for each second of CPU over all processes of a side, so that idle cores
do not count; resets among the measured steps do. Then: seconds of CPU to start a worker, its memory,
and wall time over workers.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import time
from collections.abc import Sequence

import numpy as np
import psutil

from regrip.datasets.starts import StartState, counter_generator
from regrip.launch import environments
from regrip.launch.environments import EnvConfig
from regrip.sim.pool import WorkerPool

TASK, CAMERA = "drawer-open", "topview"
THEIRS = """
import json, os, sys
import gymnasium, numpy as np

task, camera, size, workers, steps = json.loads(sys.argv[1])

class Seen(gymnasium.Wrapper):
    def __init__(self, env):
        super().__init__(env)
        self.observation_space = gymnasium.spaces.Box(0, 255, (size, size, 3), np.uint8)
    def reset(self, **kwargs):
        _, info = super().reset(**kwargs)
        return self.look(), info
    def step(self, action):
        for _ in range(2):
            _, reward, terminated, truncated, info = super().step(action)
        return self.look(), reward, terminated, truncated, info
    def look(self):
        return np.ascontiguousarray(self.env.render())

def one():
    import metaworld
    return Seen(gymnasium.make(
        "Meta-World/MT1", env_name=task + "-v3", render_mode="rgb_array", camera_name=camera,
        width=size, height=size,
    ))

def cpu(pids):
    def ticks(pid):
        with open(f"/proc/{pid}/stat") as file:
            return sum(map(int, file.read().rpartition(")")[2].split()[11:13]))  # user, system
    return sum(map(ticks, pids)) / os.sysconf("SC_CLK_TCK")

if __name__ == "__main__":
    envs = gymnasium.vector.AsyncVectorEnv([one] * workers, context="fork")
    envs.action_space.seed(0)
    envs.reset(seed=0)
    envs.step(envs.action_space.sample())
    pids = [os.getpid(), *(process.pid for process in envs.processes)]
    before = cpu(pids)
    for _ in range(steps):
        envs.step(envs.action_space.sample())
    print(json.dumps(cpu(pids) - before))
    envs.close()
"""


def cpu_s(pids: Sequence[int]) -> float:
    times = [psutil.Process(pid).cpu_times() for pid in [os.getpid(), *pids]]
    return sum(item.user + item.system for item in times)


def open_pool(size: int, workers: int, slots: int, chunk: int, render: str) -> WorkerPool:
    config = EnvConfig(name="metaworld")
    return WorkerPool(
        environments.FACTORIES["metaworld"],
        {"suite": "mt10", "cameras": [CAMERA], "image_size": size, "render": render},
        num_slots=slots,
        num_workers=workers,
        chunk_size=chunk,
        python=environments.interpreter(config),
    )


def play(pool: WorkerPool, steps: int) -> tuple[float, float, int]:
    """CPU seconds, wall seconds and control steps of at least `steps` of them, after a first chunk."""
    slots, index = list(range(pool.num_slots)), pool.num_slots
    draw = counter_generator("benchmark", TASK)
    low, high = pool.spec.action_low, pool.spec.action_high

    def step() -> tuple[np.ndarray, int]:
        shape = (len(slots), pool.chunk_size, len(low))
        pool.step(slots, draw.uniform(low, high, shape).astype(np.float32))
        result = pool.receive(slots)
        return result.done, int(result.executed.sum())

    pool.reset(slots, [StartState(f"mt10/{TASK}", "train", slot) for slot in slots])
    pool.receive(slots)
    step()
    before, began, played = cpu_s(pool.worker_pids), time.perf_counter(), 0
    while played < steps:
        done, executed = step()
        played += executed
        over = [slot for slot, ended in zip(slots, done, strict=True) if ended]
        if over:
            starts = [StartState(f"mt10/{TASK}", "train", index + row) for row in range(len(over))]
            pool.reset(over, starts)
            pool.receive(over)
            index += len(over)
    return cpu_s(pool.worker_pids) - before, time.perf_counter() - began, played


def theirs(size: int, workers: int, steps: int) -> float:
    """Control steps for each CPU second."""
    python = environments.interpreter(EnvConfig(name="metaworld"))
    threads = {
        "MUJOCO_GL": "egl", "LP_NUM_THREADS": "0", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"
    }  # fmt: skip
    done = subprocess.run(
        [str(python), "-c", THEIRS, json.dumps([TASK, CAMERA, size, workers, steps // workers])],
        capture_output=True, text=True, check=True, env={**os.environ, **threads},
    )  # fmt: skip
    return float(steps // workers * workers / json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--steps", type=int, default=600, help="control steps that are measured, at least")
    parser.add_argument("--repetitions", type=int, default=3)
    options = parser.parse_args()
    size, workers = options.size, options.workers
    usual = [theirs(size, workers, options.steps // 4) for _ in range(options.repetitions)]
    print(f"mt10/{TASK}, camera {CAMERA}, {size} px, {workers} processes; control steps per CPU second")
    print(f"{'AsyncVectorEnv over the package, a picture every step':56} {np.median(usual):7.1f}")
    for render, chunk in (("stock", 1), ("stock", 5), ("fast", 1), ("fast", 5)):
        rates = []
        with open_pool(size, workers, 8, chunk, render) as pool:
            for _ in range(options.repetitions):
                cpu, _, played = play(pool, options.steps if render == "fast" else options.steps // 4)
                rates.append(played / cpu)
        name = (
            f"pool, {render} pictures, one every {chunk} steps"
            if chunk > 1
            else f"pool, {render}, every step"
        )
        ratio = np.median(rates) / np.median(usual)
        print(f"{name:56} {np.median(rates):7.1f}   ratio {ratio:.1f}", flush=True)

    print(
        "workers: CPU seconds to start and make the first picture, MiB of each, control steps per wall second"
    )
    for number in (1, 2, 4):
        began = time.perf_counter()
        with open_pool(size, number, 8, 5, "fast") as pool:
            pool.reset([0], [StartState(f"mt10/{TASK}", "train", 0)])
            pool.receive([0])
            start_s, start_cpu = time.perf_counter() - began, cpu_s(pool.worker_pids) - cpu_s([])
            _, wall, played = play(pool, options.steps)
            memory = [psutil.Process(pid).memory_info().rss / 2**20 for pid in pool.worker_pids]
        print(
            f"{number} workers: {start_cpu / number:.1f} s of CPU each ({start_s:.1f} s of wall), "
            f"{np.mean(memory):.0f} MiB each, {played / wall:.0f} steps/s",
            flush=True,
        )


if __name__ == "__main__":
    main()
