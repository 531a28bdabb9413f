"""How fast robosuite and LIBERO are played with pictures: our pool against the package's own loop.

    python benchmarks/robosuite_envs.py         # Lift; and LIBERO, if REGRIP_LIBERO_ASSETS is set
    python benchmarks/robosuite_envs.py --size 128 --steps 200

The first contender is the package alone in one process: its environment as it comes, both cameras drawn by it
after every step. (Vector wrappers run one such process for each environment.) The others are one worker of
our pool with four slots, drawing with the package's pixels or fast, after every step or every fifth. A rate
is control steps per second of CPU time of all threads, so it holds on a busy machine; building, and the
beginning of episodes, are not counted.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

import numpy as np

CAMERAS = ("agentview", "robot0_eye_in_hand")
SLOTS = 4
ROUNDS = 3
TASKS = {
    "robosuite": ("blocks", "lift"),
    "libero": (
        "libero_spatial",
        "pick_up_the_black_bowl_between_the_plate_and_the_ramekin_and_place_it_on_the_plate",
    ),
}


def package_loop(name: str, size: int, steps: int) -> None:
    """Runs in the worker interpreter, with nothing of ours; prints control steps per second of CPU."""
    import time

    os.environ.update(MUJOCO_GL="egl", LP_NUM_THREADS="0")
    shape = {"camera_names": list(CAMERAS), "camera_heights": size, "camera_widths": size}
    if name == "robosuite":
        import robosuite

        env = robosuite.make(
            "Lift", robots="Panda", has_renderer=False, has_offscreen_renderer=True, use_camera_obs=True,
            renderer="mujoco", control_freq=20, **shape,
        )  # fmt: skip
    else:
        import tempfile

        with tempfile.TemporaryDirectory() as folder:
            os.environ["LIBERO_CONFIG_PATH"] = folder
            Path(folder, "config.yaml").write_text("{}")
            from libero import libero
        libero._assets_path_cache = os.environ["REGRIP_LIBERO_ASSETS"]
        from libero.libero.envs import OffScreenRenderEnv

        file = Path(libero.__file__).parent / "bddl_files" / ("/".join(TASKS["libero"]) + ".bddl")
        env = OffScreenRenderEnv(bddl_file_name=str(file), **shape)
    env.reset()
    draw = np.random.default_rng(0)
    rates = []
    for _ in range(ROUNDS):
        began = time.process_time()
        for _ in range(steps):
            env.step(draw.uniform(-0.3, 0.3, 7))
        rates.append(steps / (time.process_time() - began))
    print(json.dumps(rates), flush=True)
    os._exit(0)


def pool_rates(name: str, size: int, steps: int, render: str, chunk: int, python: Path) -> list[float]:
    """Control steps per second of CPU of the worker, in several rounds."""
    import psutil

    from regrip.datasets.starts import StartState
    from regrip.sim.pool import WorkerPool

    suite, task = TASKS[name]
    kwargs = {"suite": suite, "cameras": list(CAMERAS), "image_size": size, "render": render}
    factory = f"regrip.sim.{name}.env:make"
    with WorkerPool(factory, kwargs, num_slots=SLOTS, num_workers=1, chunk_size=chunk, python=python) as pool:
        slots = list(range(SLOTS))
        [worker] = [child for child in psutil.Process().children() if "worker" in " ".join(child.cmdline())]
        span = pool.spec.action_high.astype(np.float32)
        draw, rates = np.random.default_rng(0), []
        for number in range(ROUNDS):
            starts = [StartState(f"{suite}/{task}", "train", SLOTS * number + slot) for slot in slots]
            pool.reset(slots, starts)
            pool.receive(slots)
            began = sum(worker.cpu_times()[:2])
            # Lift's limit is a hundred steps, so one episode of each slot is a round.
            rounds = min(steps, 95) // chunk
            for _ in range(rounds):
                action = draw.uniform(-0.3, 0.3, (SLOTS, chunk, 7)).astype(np.float32) * span
                pool.step(slots, action)
                assert not pool.receive(slots).done.any(), "an episode ended while it was timed"
            rates.append(rounds * chunk * SLOTS / (sum(worker.cpu_times()[:2]) - began))
    return rates


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--loop", choices=list(TASKS), help="used by the script itself")
    options = parser.parse_args()
    if options.loop:
        package_loop(options.loop, options.size, options.steps)
    from regrip.launch.environments import EnvConfig, interpreter

    for name, (suite, _) in TASKS.items():
        try:
            python = interpreter(EnvConfig(name=name, suite=suite))  # type: ignore[arg-type]
        except FileNotFoundError as error:
            print(f"{name} is left out: {error}")
            continue
        assert python is not None, f"{name} has an interpreter of its own"
        own = [__file__, "--loop", name, "--size", str(options.size), "--steps", str(options.steps)]
        done = subprocess.run([python, *own], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True)
        results = {"the package's own loop, every step": json.loads(done.stdout.splitlines()[-1])}
        for render, chunk in (("stock", 1), ("fast", 1), ("stock", 5), ("fast", 5)):
            key = f"our pool, {render} pixels, every {'step' if chunk == 1 else 'fifth step'}"
            print(f"{name}: {key} ...", file=sys.stderr, flush=True)
            results[key] = pool_rates(name, options.size, options.steps, render, chunk, python)
        base = statistics.median(results["the package's own loop, every step"])
        print(f"{name}, {options.size} px, two cameras, control steps per second of CPU (lowest to highest):")
        for key, rates in results.items():
            middle = statistics.median(rates)
            print(f"  {key:44} {middle:7.1f} ({min(rates):.1f}..{max(rates):.1f})  x{middle / base:.1f}")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
