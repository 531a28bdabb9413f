"""Episodes to a success rate: self-referential against binary reward, and GRPO without resampled groups.

    python benchmarks/learning.py --seeds 3 --iterations 6

Every arm starts from the policy that ships, explores alike, plays the same number of episodes an iteration
and is measured on the same select starts. Prints success over episodes, and the ratio of episodes to a
target, as it is.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any

from regrip.datasets.statistics import Rate
from regrip.launch import environments
from regrip.launch.config import load_preset
from regrip.launch.experiment import TrainConfig
from regrip.launch.metrics import read_metrics
from regrip.launch.run_directory import RunDirectory
from regrip.launch.train import begin, train

_SINGLE: dict[str, Any] = {"algorithm": "mpo", "groups": 256, "group_size": 1}
_GROUPS: dict[str, Any] = {"algorithm": "grpo", "groups": 32, "group_size": 8}
ARMS: dict[str, dict[str, Any]] = {
    "MPO, self-referential": {**_SINGLE, "reward": "self_referential"},
    "MPO, binary": {**_SINGLE, "reward": "binary"},
    "GRPO, self-referential": {**_GROUPS, "reward": "self_referential"},
    "GRPO, binary": {**_GROUPS, "reward": "binary"},
    "GRPO, binary, no resampling": {**_GROUPS, "reward": "binary", "resample": 0},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--preset", default="learning")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--iterations", type=int, default=6)
    parser.add_argument("--target", type=float, default=0.8)
    parser.add_argument("--arms", nargs="*", choices=list(ARMS), default=list(ARMS))
    parser.add_argument("--out", type=Path, default=Path("runs/learning"))
    arguments = parser.parse_args()
    base = load_preset(TrainConfig, arguments.preset, "train")
    curves: dict[str, list[list[tuple[int, Rate]]]] = {}
    for seed in range(arguments.seeds):
        for arm in arguments.arms:
            config = dataclasses.replace(base, seed=seed, iterations=arguments.iterations, **ARMS[arm])
            folder = RunDirectory(arguments.out / f"{arm.replace(' ', '-').replace(',', '')}-{seed}")
            with folder.claim():
                run = begin(config)
                with environments.open_pool(config.env, run.policy.execute) as pool:
                    train(config, run, pool, folder)
            curves.setdefault(arm, []).append(curve(folder))
            report(curves, arguments.target)
    (arguments.out / "curves.json").write_text(
        json.dumps(
            {arm: [[(n, r.successes, r.trials) for n, r in c] for c in cs] for arm, cs in curves.items()}
        )
    )


def curve(folder: RunDirectory) -> list[tuple[int, Rate]]:
    """Episodes played and success on select, for each measurement of a run."""
    return [
        (int(row["episodes"]), Rate(int(row["select/successes"]), int(row["select/episodes"])))
        for row in read_metrics(folder.path)
        if row.get("select/episodes", 0) > 0
    ]


def episodes_to(target: float, points: list[tuple[int, Rate]]) -> float | None:
    """Episodes at which the curve first reaches `target`, interpolated; None if it never does."""
    before: tuple[int, float] | None = None
    for episodes, rate in points:
        if rate.value >= target:
            if before is None or rate.value == before[1]:
                return float(episodes)
            share = (target - before[1]) / (rate.value - before[1])
            return before[0] + share * (episodes - before[0])
        before = episodes, rate.value
    return None


def report(curves: dict[str, list[list[tuple[int, Rate]]]], target: float) -> None:
    print(f"\n{'arm':28} {'seed':>4}  success on select starts, after episodes")
    reached: dict[str, list[float | None]] = {}
    for arm, runs in curves.items():
        for seed, points in enumerate(runs):
            words = "  ".join(f"{n}: {rate.percent}" for n, rate in points)
            print(f"{arm:28} {seed:4}  {words}")
            reached.setdefault(arm, []).append(episodes_to(target, points))
    print(f"\nepisodes to {target:.0%}")
    for arm, found in reached.items():
        print(f"{arm:28} " + "  ".join("not reached" if n is None else f"{n:,.0f}" for n in found))
    for algorithm in ("MPO", "GRPO"):
        shaped, binary = (
            reached.get(f"{algorithm}, {reward}", []) for reward in ("self-referential", "binary")
        )
        ratios = [f"{b / a:.2f}" for a, b in zip(shaped, binary, strict=False) if a and b]
        if ratios:
            print(
                f"{algorithm}: binary needs {', '.join(ratios)} times the episodes of self-referential "
                "(one number a seed)",
                flush=True,
            )


if __name__ == "__main__":
    main()
