"""Kill a training run at random moments, resume it each time, and compare it with one left in peace.

    python benchmarks/resume.py            # 20 kills, some minutes
    python benchmarks/resume.py --quick    # 4 kills

Every process is killed by SIGKILL, from outside, while it collects, updates, writes a checkpoint, hands on a
policy or evaluates; nothing of it is left but its files. The part of the loop and the moment within it are
drawn from a seed; a delay that is longer than the part this time ends in the next one, so the table says what
the process was really doing. At the end every tensor, number and outcome of both runs must be the same bits.

What is trained is described in `small_run.py`. Exit status 1 if anything differs.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from small_run import differences, small_config, small_policy, summary

from regrip.datasets.starts import counter_generator
from regrip.launch import cli, train
from regrip.launch.checkpoint import load_latest
from regrip.launch.config import save_config
from regrip.launch.run_directory import RunDirectory

# The algorithm with most to remember: a critic and a replay beside the policy.
MPO = {
    "replay": 2, "critic_steps": 20, "first_critic_steps": 20, "critic_minibatch": 64, "steps": 10,
    "minibatch": 64,
}  # fmt: skip
PARTS = {
    "gather": "collecting",
    "learn": "updating",
    "save_checkpoint": "writing a checkpoint",
    "choose_checkpoint": "evaluating",
    "hand_on": "handing on the policy",
    "measure_and_film": "measuring on the test split",
}
# Waits for one line with a delay, so that it costs no time to start when the moment has come.
SHOOTER = """
import os, signal, sys, time
delay_s = float(sys.stdin.readline())
time.sleep(delay_s)
with open(sys.argv[2], "a") as diary:
    diary.write('{"event": "shot", "time": %f}\\n' % time.monotonic())
os.kill(int(sys.argv[1]), signal.SIGKILL)
"""


@dataclass(frozen=True)
class Shot:
    """When to kill a process.

    Attributes:
        part: of the loop, a value of `PARTS`.
        visit: how often the process has entered that part before.
        delay_s: after entering it.
    """

    part: str
    visit: int
    delay_s: float


@dataclass(frozen=True)
class Death:
    """What a killed process was doing: in which part, for how long, and in which iteration."""

    part: str
    seconds: float
    iteration: int


# ---- the process that is killed ----------------------------------------------------------------------------


def child(log: Path, shot: Shot | None, args: list[str]) -> int:
    """`regrip train ARGS` in this process, with a diary of what it is doing, and shot at the given moment."""
    diary = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    shooter: subprocess.Popen[str] | None = None
    if shot is not None:
        shooter = subprocess.Popen(
            [sys.executable, "-S", "-c", SHOOTER, str(os.getpid()), str(log)],
            stdin=subprocess.PIPE,
            text=True,
        )
    inside = ["starting"]
    visits = dict.fromkeys(PARTS.values(), 0)
    iteration = 0

    def write(event: str, part: str) -> None:
        line = {"time": time.monotonic(), "event": event, "part": part, "iteration": iteration}
        os.write(diary, (json.dumps(line) + "\n").encode())

    def announced(part: str, original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal iteration, shooter
            for run in args:
                if isinstance(run, train.Run):  # it counts finished iterations, and counts up after learning
                    iteration = run.iteration + (part in ("collecting", "updating"))
            write("begin", part)
            inside.append(part)
            if shooter is not None and shot == Shot(part, visits[part], shot.delay_s):
                assert shooter.stdin is not None, "it was started with a pipe"
                print(shot.delay_s, file=shooter.stdin, flush=True)
                shooter = None
            visits[part] += 1
            try:
                return original(*args, **kwargs)
            finally:
                inside.pop()
                write("end", inside[-1])

        return call

    for name, part in PARTS.items():
        setattr(train, name, announced(part, getattr(train, name)))
    write("begin", "starting")
    status = cli.main(["train", *args])
    if shooter is not None:
        shooter.kill()
    return status


# ---- the one that kills ------------------------------------------------------------------------------------


def run_child(log: Path, shot: Shot | None, args: list[str]) -> tuple[int, Death]:
    """Run the training command in a process; returns its exit status and the last entry of its diary."""
    plan = json.dumps(None if shot is None else [shot.part, shot.visit, shot.delay_s])
    done = subprocess.run(
        [sys.executable, __file__, "--child", str(log), plan, *args],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode not in (0, -signal.SIGKILL):
        raise SystemExit(f"the training process ended with {done.returncode}:\n{done.stderr}")
    entries = [json.loads(line) for line in log.read_text().splitlines()]
    last = next(entry for entry in reversed(entries) if entry["event"] != "shot")
    shots = [entry["time"] for entry in entries[-2:] if entry["event"] == "shot"]
    return done.returncode, Death(last["part"], shots[-1] - last["time"] if shots else 0.0, last["iteration"])


def durations(log: Path) -> dict[str, float]:
    """Mean seconds of each part, from the diary of a run left in peace."""
    spent: dict[str, list[float]] = {part: [] for part in PARTS.values()}
    begun: list[tuple[str, float]] = []
    for line in log.read_text().splitlines():
        entry = json.loads(line)
        if entry["event"] == "begin":
            begun.append((entry["part"], entry["time"]))
        else:
            part, since = begun.pop()
            spent[part].append(entry["time"] - since)
    return {part: float(np.mean(times)) for part, times in spent.items() if times}


def parts_to_kill_in(kills: int, generator: np.random.Generator) -> list[str]:
    """All parts of the loop in turn, shuffled; if there are many, the first evaluation before."""
    parts = [part for part in PARTS.values() if part != "measuring on the test split"]
    wanted = [parts[index % len(parts)] for index in range(kills)]
    shuffled = [wanted[int(index)] for index in generator.permutation(kills)]
    if kills > len(parts):
        shuffled[0] = "measuring on the test split"
    return shuffled


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="4 kills in a run of 3 iterations")
    parser.add_argument("--kills", type=int, help="how many, instead of 20 or 4")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--out", type=Path, help="where to leave both runs (default: nowhere)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        return compare(options, options.out or Path(scratch))


def compare(options: argparse.Namespace, out: Path) -> int:
    kills = options.kills or (4 if options.quick else 20)
    iterations = 3 if options.quick else 10
    config = small_config(
        small_policy(out / "base"),
        iterations=iterations,
        algorithm="mpo", train_vlm=False, mpo=MPO, branches=4, assist=0.5, execute=3,
        see_before=[2], seeing={"episodes": 16, "steps": 6, "minibatch": 16},
    )  # fmt: skip
    whole, killed = RunDirectory(out / "whole"), RunDirectory(out / "killed")
    for folder in (whole, killed):
        with folder.claim():
            save_config(folder.config, config)
    run_child(out / "whole.log", None, ["--resume", str(whole.path)])
    print(f"left in peace: {summary(whole)}", flush=True)

    typical = durations(out / "whole.log")
    generator = counter_generator("resume benchmark", options.seed)
    deaths: list[Death] = []
    step = 0
    print(f"\n{'kill':>4}  {'iteration':>9}  {'it was':<28} {'for':>9}   last checkpoint after iteration")
    for number, part in enumerate(parts_to_kill_in(kills, generator)):
        # The first visit to a part undoes all a process did; so that the run gets on, sometimes the second.
        behind = step < (iterations - 2) * number / kills
        shot = Shot(part, int(behind), float(generator.uniform(0, 0.9)) * typical[part])
        status, death = run_child(out / "killed.log", shot, ["--resume", str(killed.path)])
        if status == 0:
            break  # the run ended before that part came again
        deaths.append(death)
        saved = load_latest(killed.checkpoints)
        step = 0 if saved is None else saved.step
        row = f"{len(deaths):4d}  {death.iteration or '-':>9}  {death.part:<28} {1e3 * death.seconds:6.0f} ms"
        print(f"{row}   {step or 'none'}", flush=True)
    run_child(out / "killed.log", None, ["--resume", str(killed.path)])
    print(f"\nkilled {len(deaths)} times: {summary(killed)}")
    found = differences(whole, killed)
    print(f"different: {', '.join(found)}" if found else "every tensor, number and outcome is the same")
    if len(deaths) < kills:
        print(f"the run ended before {kills} kills")
    return 1 if found or len(deaths) < kills else 0


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        planned = json.loads(sys.argv[3])
        sys.exit(child(Path(sys.argv[2]), None if planned is None else Shot(*planned), sys.argv[4:]))
    sys.exit(main())
