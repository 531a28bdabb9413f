"""How fast Gymnasium environments are played with pictures: our worker pool against AsyncVectorEnv.

    .venv-gymnasium/bin/python benchmarks/gymnasium_envs.py --folder runs/scratch
    .venv-gymnasium/bin/python benchmarks/gymnasium_envs.py --folder runs/scratch --only pusht

For each of four tasks the same camera, picture size and number of steps, in turns, several times over. The
first contender is the usual way: gymnasium.vector.AsyncVectorEnv with a picture after every step, drawn by
the package (its observation of pixels where it has one, else `render`; made smaller where it draws larger
only). The others are our pool, with a picture after every step or after every fifth, drawn ``stock`` or
``fast``. A rate is environment steps per CPU second, summed over all processes and threads; it holds on a
busy machine. Starting up is not counted, resets are. Aloha's picture is the package's ``top``, drawn by it
with 640 x 480 pixels, and with it two more cameras that nobody asked for.
"""

from __future__ import annotations

import argparse
import os
import sys

os.environ.setdefault("MUJOCO_GL", "egl")  # before mujoco is imported
os.environ.setdefault("LP_NUM_THREADS", "0")
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "src"))

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import psutil

from regrip.datasets.starts import StartState, counter_generator
from regrip.sim.gym.env import make
from regrip.sim.gym.frames import fit
from regrip.sim.gym.tasks import SUITES, load
from regrip.sim.pool import WorkerPool

CHUNK = 5
EPISODE = 20  # environment steps


@dataclass(frozen=True)
class Case:
    """What is played.

    Attributes:
        task: ``suite/task``.
        camera: of our mapping; or its TOML table, where the package looks from elsewhere.
        size: pixels.
        kwargs: with which the package draws.
        observed: keys of the package's picture; empty for `render`.
    """

    task: str
    camera: str
    size: int
    kwargs: dict[str, Any]
    observed: tuple[str, ...] = ()


_FAR = "free = { distance = 2.5, azimuth = 132.0, elevation = -14.0, lookat = [1.3, 0.75, 0.55] }"
CASES = {
    "pusht": Case("pusht/push", "top", 96, {"obs_type": "pixels_agent_pos"}, ("pixels",)),
    "fetch": Case(
        "fetch/pick-and-place", _FAR, 128, {"render_mode": "rgb_array", "width": 128, "height": 128}
    ),
    "aloha": Case("aloha/transfer-cube", "top", 128, {"obs_type": "pixels_agent_pos"}, ("pixels", "top")),
    "kitchen": Case(
        "kitchen/microwave", "front", 128,
        {"render_mode": "rgb_array", "width": 128, "height": 128, "tasks_to_complete": ["microwave"]},
    ),
}  # fmt: skip


def table(case: Case, native: bool) -> np.ndarray[Any, np.dtype[np.float32]]:
    """(EPISODE,A) a slow random walk about the middle, or about where Aloha begins; the same for all."""
    suite = load(case.task.split("/")[0])
    low, high = (np.array([getattr(axis, end) for axis in suite.action]) for end in ("low", "high"))
    share = counter_generator("benchmark").uniform(0.4, 0.6, (EPISODE, len(low)))
    actions = low + share * (high - low)
    if suite.name == "aloha":
        actions = np.array([0, -0.96, 1.16, 0, -0.3, 0, 0.0] * 2) + 0.5 * (share - 0.5)
    if native and suite.native is not None:
        below, above = np.array(suite.native).T
        actions = below + (actions - low) / (high - low) * (above - below)
    return actions.astype(np.float32)


class WithPicture(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Observation of the package's picture alone, in one size for all contenders."""

    def __init__(self, case: Case) -> None:
        suite = load(case.task.split("/")[0])
        for module in suite.modules:
            __import__(module)
        task = suite.tasks[case.task.split("/")[1]]
        super().__init__(gymnasium.make(task.id, max_episode_steps=EPISODE, **case.kwargs))
        self.case = case
        self.observation_space = gymnasium.spaces.Box(0, 255, (case.size, case.size, 3), np.uint8)

    def look(self, observation: Any) -> Any:
        for key in self.case.observed:
            observation = observation[key]
        picture = observation if self.case.observed else self.env.render()
        return fit(np.ascontiguousarray(picture), self.case.size)

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        observation, _ = self.env.reset(**kwargs)
        return self.look(observation), {}

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, _ = self.env.step(action)
        return self.look(observation), reward, terminated, truncated, {}


@dataclass
class Contender:
    name: str
    play: Callable[[int], int]
    pids: Sequence[int]
    close: Callable[[], None]
    num_steps: int = 0
    rates: list[float] | None = None

    def cpu_s(self) -> float:
        times = [psutil.Process(pid).cpu_times() for pid in (*self.pids, os.getpid())]
        return float(sum(one.user + one.system for one in times))

    def measure(self) -> float:
        began = self.cpu_s()
        played = self.play(self.num_steps)
        return played / (self.cpu_s() - began)

    def warm_up(self, seconds: float) -> None:
        self.play(1)
        began = time.perf_counter()
        played = self.play(1)
        self.num_steps = max(1, round(seconds * played / (time.perf_counter() - began)))
        self.rates = []


def play_usual(envs: Any, actions: Any, num_steps: int) -> int:
    played = 0
    while played < num_steps:
        envs.reset(seed=0)
        for action in actions:
            envs.step(np.repeat(action[None], envs.num_envs, 0))
        played += len(actions) * envs.num_envs
    return played


def play_pool(pool: WorkerPool, task: str, actions: Any, num_steps: int) -> int:
    slots = list(range(pool.num_slots))
    starts = [StartState(task, "train", index) for index in slots]
    played = 0
    while played < num_steps:
        pool.reset(slots, starts)
        pool.receive(slots)
        going = slots
        for chunk in actions.reshape(-1, pool.chunk_size, actions.shape[-1]):
            pool.step(going, np.repeat(chunk[None], len(going), 0))
            result = pool.receive(going)
            played += int(result.executed.sum())
            going = [slot for slot, done in zip(going, result.done, strict=True) if not done]
            if not going:
                break
    return played


def contenders(case: Case, workers: int, slots: int, folder: Path) -> list[Contender]:
    suite, camera = case.task.split("/")[0], case.camera
    if case.camera.startswith("free"):
        path = folder / f"{suite}.toml"
        path.write_text(f"{SUITES[suite].read_text()}\n[cameras.theirs]\n{case.camera}\n")
        suite, camera = str(path), "theirs"
    make(suite, cameras=[camera])  # complains here rather than in a worker
    envs = gymnasium.vector.AsyncVectorEnv([partial(WithPicture, case)] * workers, context="spawn")
    found = [
        Contender(
            "gymnasium AsyncVectorEnv, picture every step",
            partial(play_usual, envs, table(case, native=True)),
            [process.pid for process in envs.processes if process.pid is not None],
            envs.close,
        )
    ]
    for render in ("stock", "fast"):
        for chunk in (1, CHUNK):
            pool = WorkerPool(
                "regrip.sim.gym.env:make",
                {"suite": suite, "cameras": [camera], "image_size": case.size, "render": render},
                num_slots=slots, num_workers=workers, chunk_size=chunk,
            )  # fmt: skip
            often = "step" if chunk == 1 else f"{chunk} steps"
            found.append(
                Contender(
                    f"our pool, {render}, picture every {often}",
                    partial(play_pool, pool, case.task, table(case, native=False)),
                    pool.worker_pids, pool.close,
                )
            )  # fmt: skip
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--only", nargs="*", default=list(CASES), choices=list(CASES))
    parser.add_argument("--workers", type=int, default=1, help="processes of each contender")
    parser.add_argument("--slots", type=int, default=2, help="environments of the pool")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4.0, help="aimed at for each turn")
    parser.add_argument("--folder", type=Path, required=True, help="for a scratch file")
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    print(
        f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, {args.workers} worker(s), {args.slots} slots"
    )
    print(f"{'environment steps per CPU second':52}      min   median      max   ratio of medians")
    for name in args.only:
        case = CASES[name]
        found = contenders(case, args.workers, args.slots, args.folder)
        try:
            for one in found:
                one.warm_up(args.seconds)
            for _ in range(args.repetitions):
                for one in found:
                    assert one.rates is not None, "warm_up came first"
                    one.rates.append(one.measure())
        finally:
            for one in found:
                one.close()
        print(f"{case.task}, {case.size} px")
        usual = statistics.median(found[0].rates or [])
        for one in found:
            rates = one.rates or []
            middle = statistics.median(rates)
            print(
                f"  {one.name:50} {min(rates):8.1f} {middle:8.1f} {max(rates):8.1f} {middle / usual:10.1f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
