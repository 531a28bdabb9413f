"""How fast episodes with pictures are played: our worker pool against each package's own way, in one table.

    python benchmarks/sim.py          # every simulator that is installed, about half an hour
    python benchmarks/sim.py --quick --only tabletop metaworld

The peers (`sim_peers.py`) are each package's environment under gymnasium's `AsyncVectorEnv`, LeRobot's own
vector environment and observation processing where LeRobot has the environment (and around ours), and a plain
loop where the package has no vector environment. They make a picture after every step, since that is what
they do. Ours are the pool with the package's own pixels (``stock``) and with the tuned profile (``fast``), a
picture after every step or every fifth. All play the same actions in episodes of the same length, in turns,
several times over.

A rate is control steps per second of CPU time, summed over all processes and threads, that is, per core; it
holds on a busy machine. Starting up is not counted; it is in a column of its own (CPU and wall time until the
first picture), as is the memory of a process that holds environments. Genesis is a curve over the number of
environments (`genesis_speed.py`).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ.setdefault("MUJOCO_GL", "egl")  # before mujoco is imported
os.environ.setdefault("LP_NUM_THREADS", "0")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
import psutil
from sim_contests import CHUNK, Contest, Peer, contests

from regrip.datasets.starts import StartState, counter_generator
from regrip.launch import environments
from regrip.launch.environments import EnvConfig
from regrip.sim.gym.tasks import SUITES
from regrip.sim.pool import WorkerPool

HERE = Path(__file__).resolve().parent
REFEREES = HERE.parent / ".venv-referees"
PARTS = ("tabletop", "metaworld", "maniskill", "robosuite", "libero", "gymnasium", "genesis")


def cpu_s(pids: Sequence[int]) -> float:
    times = [psutil.Process(pid).cpu_times() for pid in pids]
    return float(sum(one.user + one.system for one in times))


@dataclass
class Contender:
    """Something that plays, and how fast it did.

    Attributes:
        play: plays at least so many control steps and says how many it were.
        pids: its processes whose CPU time counts.
        holders: those of them that hold environments.
        started: seconds of CPU and of wall time until the first picture.
        rates: control steps per CPU second, one for each repetition.
        walls: likewise per wall second.
    """

    name: str
    play: Callable[[int], int]
    pids: Callable[[], list[int]]
    holders: Callable[[], list[int]]
    close: Callable[[], None]
    started: tuple[float, float] = (0.0, 0.0)
    num_steps: int = 1
    rates: list[float] = field(default_factory=list)
    walls: list[float] = field(default_factory=list)
    mib: float = 0.0

    def warm_up(self, seconds: float) -> None:
        """Play a little, then decide how much a turn of so many seconds is."""
        began_s = time.perf_counter()
        played = self.play(10)
        self.num_steps = max(1, round(seconds * played / (time.perf_counter() - began_s)))

    def measure(self) -> None:
        cpu, wall = cpu_s(self.pids()), time.perf_counter()
        played = self.play(self.num_steps)
        self.walls.append(played / (time.perf_counter() - wall))
        self.rates.append(played / (cpu_s(self.pids()) - cpu))
        self.mib = statistics.mean(psutil.Process(pid).memory_info().rss for pid in self.holders()) / 2**20


def shares(contest: Contest, dim: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    """(T,A) a random walk about the middle of each action's range, the same for all."""
    drawn = counter_generator("benchmark").uniform(0.35, 0.65, (contest.episode, dim))
    if not contest.aloha:
        return drawn
    from regrip.sim.gym.tasks import load

    low, high = (np.array([getattr(axis, end) for axis in load("aloha").action]) for end in ("low", "high"))
    pose = np.array([0, -0.96, 1.16, 0, -0.3, 0, 0.0] * 2)
    return np.asarray((pose + 0.5 * (drawn - 0.5) - low) / (high - low))


def open_peer(contest: Contest, peer: Peer, dim: int, num: int, folder: Path) -> Contender:
    """Start `sim_peers.py`.

    Raises:
        FileNotFoundError: saying what to type, if LeRobot or an interpreter is not there.
        RuntimeError: if it does not start.
    """
    config = EnvConfig(name=contest.name, suite=contest.suite)  # type: ignore[arg-type]
    ask = {**peer.ask, "num": num, "shares": shares(contest, dim).tolist()}
    if peer.ask["wrapper"] == "lerobot":
        found = sorted(REFEREES.glob("lib/python3*/site-packages"))
        if not found:
            raise FileNotFoundError(f"{peer.name}: {REFEREES} is not there: type `make referees`")
        ask["paths"] = [str(found[0]), *(path for path in sys.path if path.endswith("site-packages"))]
    python, source = environments.interpreter(config) or sys.executable, str(HERE.parent / "src")
    began, log = time.perf_counter(), folder / "peer.log"
    with log.open("wb") as errors:
        process = subprocess.Popen(
            [str(python), str(HERE / "sim_peers.py"), json.dumps(ask)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True,
            env={**os.environ, **environments.worker_variables(config), "PYTHONPATH": source},
        )  # fmt: skip
    assert process.stdin is not None, "a pipe"
    assert process.stdout is not None, "a pipe"
    words, answers = process.stdin, process.stdout

    def processes() -> list[int]:
        me = psutil.Process(process.pid)
        return [process.pid, *(child.pid for child in me.children(recursive=True))]

    def play(steps: int) -> int:
        words.write(f"{steps}\n")
        words.flush()
        return int(answers.readline())

    def close() -> None:
        words.close()
        process.wait()

    if answers.readline().strip() != "ready":
        process.kill()
        process.wait()
        last = (log.read_text(errors="replace").strip().splitlines() or ["it says nothing"])[-1]
        raise RuntimeError(f"{contest.task}: {peer.name} did not start: {last}")
    cpu = cpu_s(processes())
    # The child beside gymnasium's workers is Python's resource tracker, which holds nothing.
    holders = processes if peer.ask["wrapper"] != "async" else lambda: _largest(processes()[1:], num)
    started = (cpu, time.perf_counter() - began)
    return Contender(peer.name, play, processes, holders, close, started)


def _largest(pids: Sequence[int], num: int) -> list[int]:
    return sorted(pids, key=lambda pid: psutil.Process(pid).memory_info().rss)[-num:]


def open_pool(
    contest: Contest, render: str, chunk: int, workers: int, slots: int, folder: Path
) -> tuple[Contender, int]:
    """The contender, and how many numbers an action has."""
    suite, cameras = contest.suite, list(contest.cameras)
    if cameras and cameras[0].startswith("distance"):
        path = folder / f"{suite}.toml"
        path.write_text(f"{SUITES[suite].read_text()}\n[cameras.theirs]\nfree = {{ {cameras[0]} }}\n")
        suite, cameras = str(path), ["theirs"]
    config = environments.native(
        EnvConfig(name=contest.name, suite=suite, image_size=contest.size, render=render)  # type: ignore[arg-type]
    )
    target, kwargs = environments.factory(config, prepare=True)
    names = [contest.task] if "/" in contest.task else environments.task_names(config)
    began, me = time.perf_counter(), os.getpid()
    pool = WorkerPool(
        target, kwargs | ({"cameras": cameras} if cameras else {}),
        num_slots=slots, num_workers=workers, chunk_size=chunk,
        python=environments.interpreter(config), environment=environments.worker_variables(config),
    )  # fmt: skip
    low, high = pool.spec.action_low, pool.spec.action_high
    table = (low + shares(contest, len(low)) * (high - low)).astype(np.float32)
    table = table[: len(table) // chunk * chunk].reshape(-1, chunk, len(low))
    every, at, index = list(range(slots)), len(table), 0
    going = list[int]()

    def play(steps: int) -> int:
        nonlocal at, index, going
        played = 0
        while played < steps:
            if at == len(table) or not going:
                starts = [StartState(names[(index + s) % len(names)], "train", index + s) for s in every]
                at, index, going = 0, index + slots, every
                pool.reset(every, starts)
                pool.receive(every)
            pool.step(going, np.repeat(table[at][None], len(going), 0))
            result = pool.receive(going)
            played, at = played + int(result.executed.sum()), at + 1
            going = [slot for slot, done in zip(going, result.done, strict=True) if not done]
        return played

    play(1)
    started = (cpu_s(pool.worker_pids) / workers, time.perf_counter() - began)
    often = "every step" if chunk == 1 else f"every {chunk} steps"
    contender = Contender(
        f"our pool, {render}, {often}", play, lambda: [me, *pool.worker_pids], lambda: pool.worker_pids,
        pool.close, started,
    )  # fmt: skip
    return contender, len(low)


HEAD = f"{'':46}  steps a CPU s (low-high)   ratio (low-high)   a wall s  start CPU s  wall s  MiB a process"


@dataclass(frozen=True)
class Row:
    """A contender's line of the table; `ratios` are to the first of its contest, repetition by repetition."""

    name: str
    contender: str
    rates: Sequence[float]
    walls: Sequence[float]
    ratios: Sequence[float]
    started: tuple[float, float]
    mib: float

    def __str__(self) -> str:
        rate = f"{statistics.median(self.rates):8.1f} ({min(self.rates):.1f}-{max(self.rates):.1f})"
        ratio = f"{statistics.median(self.ratios):6.2f} ({min(self.ratios):.2f}-{max(self.ratios):.2f})"
        rest = f"{statistics.median(self.walls):9.1f} {self.started[0]:12.1f} {self.started[1]:7.1f}"
        return f"  {self.contender:44} {rate:26} {ratio:19} {rest} {self.mib:9.0f}"


def hold(contest: Contest, args: argparse.Namespace, folder: Path) -> list[Row]:
    """Open all contenders, let them play in turns, and say how it went."""
    name = contest.task if "/" in contest.task else f"{contest.name}/{contest.task}"
    print(f"{name}, {contest.size} px", flush=True)
    peers, pools, dim = list[Contender](), list[Contender](), 0
    try:
        for render in ("stock", "fast"):
            for chunk in (1, CHUNK):
                pool, dim = open_pool(contest, render, chunk, args.workers, args.slots, folder)
                pools.append(pool)
        for peer in contest.peers:
            try:
                peers.append(open_peer(contest, peer, dim, args.workers, folder))
            except (FileNotFoundError, RuntimeError) as error:
                print(f"  left out: {error}", flush=True)
        for one in (*peers, *pools):
            one.warm_up(args.seconds)
        for _ in range(args.repetitions):
            for one in (*peers, *pools):
                one.measure()
    finally:
        for one in (*peers, *pools):
            one.close()
    usual = (peers or pools)[0].rates
    rows = [
        Row(
            name, one.name, one.rates, one.walls, [a / b for a, b in zip(one.rates, usual, strict=True)],
            one.started, one.mib,
        )
        for one in (*peers, *pools)
    ]  # fmt: skip
    for row in rows:
        print(row, flush=True)
    return rows


def scale(contest: Contest, args: argparse.Namespace, folder: Path) -> list[str]:
    """Control steps per wall second over workers."""
    said = []
    for workers in (1, 2, 4):
        one, _ = open_pool(contest, "fast", CHUNK, workers, args.slots, folder)
        try:
            one.warm_up(args.seconds)
            for _ in range(args.repetitions):
                one.measure()
        finally:
            one.close()
        said.append(
            f"{workers}: {statistics.median(one.walls):.0f} ({min(one.walls):.0f}-{max(one.walls):.0f})"
        )
    return said


def genesis(args: argparse.Namespace) -> None:
    """Its own program in its own interpreter, which prints a table."""
    python = HERE.parent / ".venv-genesis" / "bin" / "python"
    if not python.exists():
        print(f"genesis is left out: {python} is not there: type `make genesis`", flush=True)
        return
    counts = (
        ["--most", "16", "--most-pictures", "4"]
        if args.quick
        else ["--most", "1024", "--most-pictures", "256"]
    )
    subprocess.run([str(python), str(HERE / "genesis_speed.py"), *counts], check=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--only", nargs="*", default=list(PARTS), choices=PARTS, metavar="PART", help=", ".join(PARTS)
    )
    parser.add_argument("--image-size", type=int, default=64, help="but of the gymnasium part")
    parser.add_argument("--workers", type=int, default=1, help="processes of each contender that has any")
    parser.add_argument("--slots", type=int, default=8, help="environments of the pool")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4.0, help="aimed at for each turn")
    parser.add_argument("--quick", action="store_true", help="two short repetitions")
    args = parser.parse_args()
    if args.quick:
        args.repetitions, args.seconds = 2, 1.0
    print(
        f"{platform.platform()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; {args.workers} "
        f"worker(s), {args.slots} slots of the pool, {args.repetitions} repetitions\n\n{HEAD}",
        flush=True,
    )
    rows, scaling = list[Row](), dict[str, list[str]]()
    with tempfile.TemporaryDirectory() as scratch:
        for part in [one for one in args.only if one != "genesis"]:
            try:
                environments.interpreter(EnvConfig(name=part, suite=contests(part, args.image_size)[0].suite))
            except (FileNotFoundError, ValueError) as error:
                print(f"{part} is left out: {error}", flush=True)
                continue
            for contest in contests(part, args.image_size):
                rows += hold(contest, args, Path(scratch))
            if part in ("tabletop", "metaworld"):
                scaling[part] = scale(contest, args, Path(scratch))
    if rows:
        print(f"\nAll together\n{HEAD}")
    for name in dict.fromkeys(row.name for row in rows):
        print(name)
        print(*(row for row in rows if row.name == name), sep="\n")
    for part, said in scaling.items():
        print(f"{part}, control steps per wall second with so many workers: {', '.join(said)}")
    if "tabletop" in args.only and not args.quick:
        subprocess.run([sys.executable, str(HERE / "tabletop_bare.py")], check=True)
    if "genesis" in args.only:
        genesis(args)


if __name__ == "__main__":
    main()
