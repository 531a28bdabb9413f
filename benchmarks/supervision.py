"""Every simulator's workers, killed and stopped through an evaluation, and reset ten thousand times.

    python benchmarks/supervision.py                       # every simulator that is installed
    python benchmarks/supervision.py --only tabletop,metaworld --episodes 40 --incidents 10 --resets 10000

First the same start states are played twice with the same random actions: undisturbed, and with workers that
are killed (SIGKILL) or stopped (SIGSTOP, found by the deadline) from outside at moments drawn at random. Both
must give the same bytes in every array, every incident must be counted, no episode may be missing. Then one
worker resets and renders again and again, and what it holds is printed: memory, threads, open files, and
OpenGL contexts made and not freed (mujoco's; ManiSkill draws with Vulkan, and has none). Exit status 1 if
anything differs, or if memory grows by more than a tenth after the first tenth of the resets.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import os
import signal
import struct
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
from numpy.typing import NDArray

from regrip.datasets.episode import Observation, Rollouts
from regrip.datasets.protocols import ActionSample
from regrip.datasets.spec import RobotSpec
from regrip.datasets.starts import StartState, counter_generator
from regrip.launch import environments
from regrip.launch.environments import EnvConfig
from regrip.launch.progress import Progress
from regrip.sim.collect import collect
from regrip.sim.pool import WorkerPool

SUITES = {
    "tabletop": "goal",
    "metaworld": "mt10",
    "gymnasium": "fetch",
    "robosuite": "blocks",
    "maniskill": "cubes",
    "libero": "libero_spatial",
}
CHUNK = 5
DEADLINE_S = 12.0


@dataclass
class Wandering:
    """Slow random actions that depend on episode and decision alone."""

    spec: RobotSpec

    def act(
        self, observation: Observation, noise_keys: Sequence[tuple[str | int, ...]] | None
    ) -> ActionSample:
        low, high = self.spec.action_low, self.spec.action_high
        shares = [counter_generator(*key).uniform(0.3, 0.7, low.shape) for key in noise_keys or ()]
        action = np.stack([low + share * (high - low) for share in shares]).astype(np.float32)
        chunk = np.repeat(action[:, None], CHUNK, 1)
        return ActionSample(chunk, np.zeros(chunk.shape[:2], np.float32))


def digest(rollouts: Rollouts) -> str:
    found = hashlib.blake2b(digest_size=8)
    arrays: list[NDArray[np.generic]] = [
        rollouts.state, rollouts.privileged, rollouts.action, rollouts.valid, rollouts.reward,
        rollouts.success, *rollouts.images.values(),
    ]  # fmt: skip
    for array in arrays:
        found.update(np.ascontiguousarray(array).tobytes())
    return found.hexdigest()


def play(
    config: EnvConfig, starts: Sequence[StartState], incidents: int
) -> tuple[str, int, list[str], float]:
    """Digest of all episodes, workers shot, the kinds of incidents that were counted, and the seconds."""
    draw = counter_generator("supervision", config.name)
    moments = sorted(
        int(one) for one in draw.choice(np.arange(1, len(starts) - config.slots), incidents, replace=False)
    )
    shot = 0
    began = time.monotonic()
    with environments.open_pool(config, CHUNK) as pool, Progress(f"{config.name}, {incidents} lost") as bar:

        def disturb(done: int, total: int) -> None:
            nonlocal shot
            bar.update(done, total)
            # One at a time: who shoots a worker that is about to be replaced shoots nobody.
            if moments and done >= moments[0] and len(pool.incidents) == shot:
                moments.pop(0)
                shot += 1
                victim = pool.worker_pids[int(draw.integers(len(pool.worker_pids)))]
                # Every fifth, from the first on, is stopped: a hang costs the deadline.
                os.kill(victim, signal.SIGSTOP if shot % 5 == 1 else signal.SIGKILL)

        rollouts, _ = collect(
            pool, Wandering(pool.spec), starts, range(len(starts)),
            run_key=("supervision",), greedy=False, policy_version=0, on_episode=disturb,
        )  # fmt: skip
        every = range(pool.num_slots)  # a worker that was shot when nothing was left to do is missed only now
        pool.reset(every, [starts[0]] * pool.num_slots)
        pool.receive(every)
        kinds = [incident.kind for incident in pool.incidents]
    assert len(rollouts) == len(starts), "one episode a start"
    return digest(rollouts), shot, kinds, time.monotonic() - began


@dataclass(frozen=True)
class Held:
    """What a worker holds after so many resets."""

    resets: int
    rss_mib: float
    pss_mib: float
    threads: int
    files: int
    contexts: int

    def __str__(self) -> str:
        return (
            f"{self.resets:6d} resets: RSS {self.rss_mib:6.0f} MiB, PSS {self.pss_mib:6.0f} MiB, "
            f"{self.threads} threads, {self.files} files, {self.contexts} OpenGL contexts"
        )


def hold_curve(
    config: EnvConfig, starts: Sequence[StartState], resets: int, cpu_minutes: float
) -> tuple[list[Held], float]:
    """What one worker holds after each fiftieth of the resets, and its CPU seconds.

    Each reset renders every camera. Ends early when the worker has used up its minutes.
    """
    curve: list[Held] = []
    target, kwargs = environments.factory(config, prepare=True)
    with tempfile.TemporaryDirectory() as folder:
        contexts = Path(folder) / "contexts"
        variables = {
            **environments.worker_variables(config),
            "REGRIP_CONTEXTS": str(contexts),
            "PYTHONPATH": str(Path(__file__).parent),
        }
        pool = WorkerPool(
            "contexts:make", {"factory": target, "kwargs": kwargs},
            num_slots=config.slots, chunk_size=CHUNK, num_workers=1, environment=variables, deadline_s=600.0,
            python=environments.interpreter(config),
        )  # fmt: skip
        with pool, Progress(f"{config.name}, resets") as bar:
            worker = psutil.Process(pool.worker_pids[0])
            for number in range(resets):
                slot = number % pool.num_slots
                pool.reset([slot], [starts[number % len(starts)]])
                pool.receive([slot])
                if (number + 1) % max(1, resets // 50):
                    continue
                assert pool.worker_pids == [worker.pid], "a worker that was replaced tells nothing"
                made, freed = struct.unpack("<2q", contexts.read_bytes())
                memory = worker.memory_full_info()
                curve.append(
                    Held(
                        number + 1, memory.rss / 2**20, memory.pss / 2**20, worker.num_threads(),
                        worker.num_fds(), made - freed,
                    )
                )  # fmt: skip
                if len(curve) <= 3 or len(curve) % 5 == 0:
                    print(f"  {curve[-1]}", flush=True)
                bar.update(number + 1, resets)
                if cpu_s(worker) > 60 * cpu_minutes:
                    break
            return curve, cpu_s(worker)


def cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def available(name: str) -> bool:
    try:
        environments.interpreter(EnvConfig(name=name))  # type: ignore[arg-type]
    except FileNotFoundError as error:
        print(f"{name}: left out, {error}")
        return False
    return True


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--only", default=",".join(SUITES), help="simulators, with commas")
    parser.add_argument("--episodes", type=int, default=40)
    parser.add_argument("--incidents", type=int, default=10)
    parser.add_argument("--resets", type=int, default=10_000)
    parser.add_argument("--cpu-minutes", type=float, default=20, help="after which a worker is reset no more")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--slots", type=int, default=8)
    parser.add_argument("--tasks", type=int, default=0, help="only the first of a suite; 0 for all")
    parser.add_argument("--deadline", type=float, default=DEADLINE_S, help="seconds; a hang costs them")
    args = parser.parse_args()
    wrong = 0
    for name in filter(available, args.only.split(",")):
        config = environments.native(
            EnvConfig(
                name=name,
                suite=SUITES[name],
                workers=args.workers,
                slots=args.slots,
                deadline_s=args.deadline,
            )
        )
        tasks = environments.task_names(config)[: args.tasks or None]
        starts = [StartState(tasks[i % len(tasks)], "train", i) for i in range(args.episodes)]
        if args.incidents:
            calm, _, none, calm_s = play(config, starts, 0)
            rough, shot, kinds, rough_s = play(config, starts, args.incidents)
            wrong += calm != rough or bool(none) or len(kinds) != shot
            counted = ", ".join(f"{kinds.count(kind)} {kind}" for kind in sorted(set(kinds)))
            print(
                f"{name}/{config.suite}: {args.episodes} episodes in {calm_s:.0f} s undisturbed, and in "
                f"{rough_s:.0f} s with {shot} workers shot (counted: {counted}): "
                f"{'the same bytes' if calm == rough else f'DIFFERENT: {calm} and {rough}'}"
            )
        if not args.resets:
            continue
        one = dataclasses.replace(config, workers=1, slots=4)
        curve, seconds = hold_curve(one, starts, args.resets, args.cpu_minutes)
        tenth = max(1, len(curve) // 10)
        # Not PSS: a page is all of this worker's when a neighbour that shared it has gone.
        grown = curve[-1].rss_mib / curve[tenth - 1].rss_mib - 1
        wrong += grown > 0.1
        print(
            f"{name}: {curve[-1].resets} resets in {seconds:.0f} s of CPU, RSS {grown:+.1%} "
            "since the first tenth",
            flush=True,
        )
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
