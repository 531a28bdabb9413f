"""Image steps for each second of CPU: our worker pool and gymnasium's AsyncVectorEnv over ManiSkill itself.

    make maniskill
    .venv/bin/python benchmarks/maniskill_envs.py

Both play the same tasks, random actions, at equal pixels, one process for each environment, and render every
camera at every step. Theirs runs as the package documents it (`obs_mode="rgb"`), in a process of the worker
interpreter. CPU seconds are those of all processes of a side, after a first step that builds and compiles;
resets that fall into the measured steps are counted in.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import time

import numpy as np
import psutil

from regrip.datasets.starts import StartState, counter_generator
from regrip.launch import environments
from regrip.launch.environments import EnvConfig

THEIRS = """
import json, sys, time
import gymnasium, psutil
import mani_skill.envs

task, size, workers, steps = json.loads(sys.argv[1])

def one():
    import mani_skill.envs
    import torch
    torch.set_num_threads(1)
    from mani_skill.utils.wrappers.gymnasium import CPUGymWrapper
    env = gymnasium.make(
        task + "-v1", obs_mode="rgb", sim_backend="cpu", render_backend="cpu",
        control_mode="pd_ee_delta_pose", sensor_configs={"width": size, "height": size},
    )
    return CPUGymWrapper(env)

def cpu():
    me = psutil.Process()
    return sum(sum(p.cpu_times()[:2]) for p in [me, *me.children(recursive=True)])

if __name__ == "__main__":
    envs = gymnasium.vector.AsyncVectorEnv([one] * workers, context="spawn")
    envs.action_space.seed(0)
    envs.reset(seed=0)
    envs.step(envs.action_space.sample())
    before, began = cpu(), time.perf_counter()
    for _ in range(steps):
        envs.step(envs.action_space.sample())
    print(json.dumps([cpu() - before, time.perf_counter() - began]))
    envs.close()
"""


def cpu_s(pids: list[int]) -> float:
    times = [psutil.Process(pid).cpu_times() for pid in [os.getpid(), *pids]]
    return sum(item.user + item.system for item in times)


def ours(task: str, size: int, workers: int, steps: int, render: str) -> tuple[float, float]:
    """CPU and wall seconds of `steps` vector steps."""
    config = EnvConfig(
        name="maniskill", suite="cubes", image_size=size, slots=workers, workers=workers,
        render="stock" if render == "stock" else "fast",
    )  # fmt: skip
    slots, index = list(range(workers)), workers
    draw = counter_generator("benchmark", task)
    with environments.open_pool(config, chunk_size=1) as pool:
        low, high = pool.spec.action_low, pool.spec.action_high

        def step() -> np.ndarray:
            pool.step(slots, draw.uniform(low, high, (workers, 1, len(low))).astype(np.float32))
            return pool.receive(slots).done

        pool.reset(slots, [StartState(f"cubes/{task}", "train", slot) for slot in slots])
        pool.receive(slots)
        step()
        before, began = cpu_s(pool.worker_pids), time.perf_counter()
        for _ in range(steps):
            over = [slot for slot, done in zip(slots, step(), strict=True) if done]
            if over:
                starts = [StartState(f"cubes/{task}", "train", index + row) for row in range(len(over))]
                pool.reset(over, starts)
                pool.receive(over)
                index += len(over)
        return cpu_s(pool.worker_pids) - before, time.perf_counter() - began


def theirs(task: str, size: int, workers: int, steps: int) -> tuple[float, float]:
    config = EnvConfig(name="maniskill")
    variables = environments.worker_variables(config)
    threads = {"LP_NUM_THREADS": "0", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(
        [str(environments.interpreter(config)), "-c", THEIRS, json.dumps([task, size, workers, steps])],
        capture_output=True, text=True, check=True, env={**os.environ, **variables, **threads},
    )  # fmt: skip
    cpu, wall = json.loads(done.stdout.splitlines()[-1])
    return cpu, wall


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--steps", type=int, default=100, help="vector steps that are measured")
    options = parser.parse_args()
    size, workers, steps = options.size, options.workers, options.steps
    print(f"{size} px, {workers} environments in as many processes, {steps} vector steps")
    for task in ("PickCube", "PushCube"):
        for name, (cpu, wall) in (
            ("regrip, fast", ours(task, size, workers, steps, "fast")),
            ("regrip, stock", ours(task, size, workers, steps, "stock")),
            ("AsyncVectorEnv", theirs(task, size, workers, steps)),
        ):
            rate = workers * steps / cpu
            print(f"{task:9} {name:15} {rate:6.1f} image steps per CPU second, wall {wall:.1f} s", flush=True)


if __name__ == "__main__":
    main()
