"""How many control steps a second Genesis plays, over the number of environments, beside our MuJoCo pool.

    .venv-genesis/bin/python benchmarks/genesis_speed.py               # 1 to 1,024 environments on the CPU
    python benchmarks/sim.py --only genesis                            # the same, with pictures up to 256
    .venv-genesis/bin/python benchmarks/genesis_speed.py --least 2048 --most 8192 --most-pictures 8192
    .venv-genesis/bin/python benchmarks/genesis_speed.py --device cuda --most 8192

All play the demo suite: random motions in chunks of five and, where there are pictures, two cameras after
every chunk. A rate is control steps (50 ms, ten physics steps) per second: of CPU time, summed over all
processes, and of wall time, which means something on an idle machine only. With a GPU only the second is
printed. Every number of environments is played in a process of its own; memory is the most that it held, and
the start (imports left out) lasts until the first chunk of actions has been played.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import resource
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor

os.environ.setdefault("MUJOCO_GL", "egl")

import torch
from random_play import CHUNK, begin, cpu_s

from regrip.datasets.protocols import VectorEnv
from regrip.sim.genesis.env import GenesisEnv, Seconds
from regrip.sim.pool import WorkerPool
from regrip.sim.tabletop.tasks import task_names

SIZE = 64


def play(env: VectorEnv, rounds: int) -> tuple[float, float, float]:
    """Control steps per CPU second and per wall second over `rounds` chunks of all slots; when they began."""
    one = begin(env, task_names("demo"), "benchmark genesis")
    one()
    started = time.perf_counter()
    if isinstance(env, GenesisEnv):
        env.seconds = Seconds()
    cpu, wall, steps = cpu_s(), time.perf_counter(), 0
    for _ in range(rounds):
        steps += one()
    return steps / (cpu_s() - cpu), steps / (time.perf_counter() - wall), started


def line(
    name: str,
    count: int,
    cameras: Sequence[str],
    rates: tuple[float, float, float],
    began: float,
    on_gpu: bool,
) -> str:
    pictures = f"{len(cameras)} at {SIZE} px" if cameras else "none"
    cpu = "" if on_gpu else f"{rates[0]:9.0f}"
    return f"{name:10s} {count:6d}  {pictures:12s} {cpu:>9s} {rates[1]:10.0f} {rates[2] - began:7.1f}"


def genesis(count: int, cameras: Sequence[str], device: str) -> str:
    began = time.perf_counter()
    with GenesisEnv(
        num_slots=count, chunk_size=CHUNK, cameras=cameras, image_size=SIZE, device=device
    ) as env:
        rates = play(env, 2 if count >= 2048 else 4 if count >= 256 else 12)
        took = env.seconds
    total = took.physics + took.control + took.predicates + took.pictures
    shares = ", ".join(
        f"{name} {100 * getattr(took, name) / total:.0f} %"
        for name in ("physics", "control", "predicates", "pictures")
    )
    mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    return f"{line('Genesis', count, cameras, rates, began, device == 'cuda')}  {shares}; {mib:.0f} MiB"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--least", type=int, default=1, help="environments")
    parser.add_argument("--most", type=int, default=1024, help="environments")
    parser.add_argument("--most-pictures", type=int, default=64, help="likewise, with pictures on the CPU")
    parser.add_argument("--workers", type=int, default=1, help="of the MuJoCo pool")
    arguments = parser.parse_args()
    on_gpu = arguments.device == "cuda"
    if not torch.cuda.is_available():
        print("no GPU: torch.cuda.is_available() is False, so nothing is measured on one")
    print(
        f"{'simulator':10s} {'envs':>6s}  {'pictures':12s} {'per cpu-s':>9s} {'per wall s':>10s} start s",
        flush=True,
    )
    for cameras in ((), ("front", "wrist")):
        kwargs = {"suite": "demo", "cameras": cameras, "image_size": SIZE}
        factory, began = "regrip.sim.tabletop.env:make", time.perf_counter()
        with WorkerPool(
            factory, kwargs, num_slots=48, num_workers=arguments.workers, chunk_size=CHUNK
        ) as pool:
            print(line("MuJoCo", 48, cameras, play(pool, 20), began, False), flush=True)
        count = arguments.least
        while count <= (arguments.most if on_gpu or not cameras else arguments.most_pictures):
            with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as alone:
                print(alone.submit(genesis, count, cameras, arguments.device).result(), flush=True)
            count *= 4 if count < 1024 else 2


if __name__ == "__main__":
    main()
