"""Whether collecting on the robot, again and again, makes the policy better.

    python benchmarks/rounds.py --rounds 4 --episodes 200 --out runs/rounds

Each round the present policy explores on the simulated arm, driven by the node and recorded by it (start
states of the train split, nobody helps); MPO, as `regrip train learning --data` runs it, goes on from that
policy with all that was recorded so far, and what it makes is put on the robot. In the end the first and the
last policy play the same start states of the test split, greedily, through the node.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import torch

from regrip.datasets.starts import StartState
from regrip.datasets.statistics import PairedDifference, Rate, paired_difference
from regrip.launch import environments, train
from regrip.launch.collecting import SimulatedRoom
from regrip.launch.environments import EnvConfig
from regrip.launch.evaluate import eval_starts
from regrip.launch.policies import open_policy

# Of launch/presets/train/learning.toml, with which what is recorded is learnt from.
PRACTICE: dict[str, Any] = {"noise_level": 0.4, "noise_correlation": 0.7, "initial_noise": 0.0}


def collect(policy: str, path: Path, starts: list[StartState], key: tuple[str | int, ...]) -> Rate:
    room = SimulatedRoom(open_policy(policy, **PRACTICE)[0], path, key)
    won = room.play(starts)
    recorder = room.recorder
    room.close()
    if recorder is None or recorder.problems or recorder.episodes != len(starts):
        raise SystemExit(f"{path} was not recorded whole: {None if recorder is None else recorder.problems}")
    return Rate(sum(won), len(won))


def play(policy: str, starts: list[StartState]) -> list[bool]:
    room = SimulatedRoom(open_policy(policy)[0], None, None)
    won = room.play(starts)
    room.close()
    return won


def improve(out: Path, rounds: int, episodes: int, iterations: int, seed: int, each: int) -> PairedDifference:
    """All rounds; the first policy against the last on `each` test start states of each task."""
    torch.set_num_threads(1)
    tasks, policy, sets = environments.task_names(EnvConfig()), "demo", list[str]()
    per_task, began = -(-episodes // len(tasks)), time.monotonic()
    for number in range(rounds):
        first = 1000 * (1 + number + rounds * seed)
        starts = [StartState(task, "train", first + i, 0) for i in range(per_task) for task in tasks]
        path = out / f"round-{number}.zarr"
        explored = collect(policy, path, starts[:episodes], ("rounds", seed, number))
        sets.append(str(path))
        print(f"round {number}: exploring {explored}, {time.monotonic() - began:.0f} s", flush=True)
        run = out / f"learnt-{number}"
        few = f"--iterations {iterations} --evaluate-every {iterations} --seed {seed}"
        status = train.main([
            "learning", "--policy", policy, "--data", *sets, "--out", str(run), "--reward", "binary",
            *few.split(),
            "--select-episodes", "1", "--test-episodes", "1", "--videos", "0", "--env.slots", "8",
        ])  # fmt: skip
        if status:
            raise SystemExit(f"regrip train ended with status {status}")
        policy = str(run)
        print(f"round {number}: learnt, {time.monotonic() - began:.0f} s", flush=True)
    where = eval_starts(tasks, "test", each)
    before, after = play("demo", where), play(policy, where)
    print(f"before {Rate(sum(before), len(before))}, after {Rate(sum(after), len(after))}")
    return paired_difference(before, after)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--episodes", type=int, default=200, help="in each")
    parser.add_argument("--iterations", type=int, default=1, help="of MPO in each")
    parser.add_argument("--test-per-task", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    of_each = (options.rounds, options.episodes, options.iterations, options.seed, options.test_per_task)
    print(improve(options.out, *of_each))


if __name__ == "__main__":
    main()
