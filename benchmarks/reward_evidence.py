"""Does a reward that looks good make a better policy? Post-training with each, from one base policy.

    python benchmarks/reward_evidence.py --seeds 3 --iterations 6

First records the base policy on train starts and fits every model that a reward needs on that alone (no
demonstrations, no test starts). Then every arm starts from the policy that ships, plays the same number of
episodes, and is measured greedily on the same test starts. Prints a table that is whole after every run; a
run that is in --out already is not made again.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from regrip.datasets.statistics import Rate
from regrip.launch import environments
from regrip.launch.alarms import read_alarms
from regrip.launch.config import load_preset
from regrip.launch.evaluate import eval_starts, evaluate
from regrip.launch.experiment import TrainConfig
from regrip.launch.run_directory import RunDirectory
from regrip.launch.train import begin, train

# reward: kind of model that `regrip rewards fit` makes for it
ARMS: dict[str, str] = {
    "binary": "",
    "self_referential": "",
    "srpo": "",
    "srpo-released": "",
    "self_referential-state": "",
    "vlac": "vlac",
    "rewind": "rewind",
    "sarm": "sarm",
    "robometer": "robometer",
    "success-classifier": "success",
    "world-env": "reflector",
    "diwa": "diwa",
    "irl-vla": "multi_head",
    "gated-dense": "rewind",
    "shaped": "rewind",
    "vlm-rm": "clip",
    "vlm-rm-difference": "clip",
    "vlm-rl-difference": "clip",
    "roboclip": "clip",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--iterations", type=int, default=6)
    parser.add_argument("--rewards", nargs="*", choices=list(ARMS), default=list(ARMS))
    parser.add_argument("--episodes-per-task", type=int, default=60)
    parser.add_argument("--out", type=Path, default=Path("runs/evidence"))
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    data = arguments.out / "train.rollouts"
    if not data.exists():
        regrip("rewards", "record", "demo", "--split", "train", "--out", str(data), "--workers", "1",
               "-n", str(arguments.episodes_per_task))  # fmt: skip
    for kind in sorted({ARMS[name] for name in arguments.rewards} - {""}):
        if not (arguments.out / kind).exists():
            regrip("rewards", "fit", kind, "--data", str(data), "--out", str(arguments.out / kind))
    base = load_preset(TrainConfig, "learning", "train")
    results = arguments.out / "results.json"
    table: list[dict[str, Any]] = json.loads(results.read_text()) if results.exists() else []
    done = {(row["reward"], row["seed"]) for row in table}
    for seed in range(arguments.seeds):
        for name in arguments.rewards:
            if (name, seed) in done:
                continue
            model = str(arguments.out / ARMS[name]) if ARMS[name] else ""
            config = dataclasses.replace(
                base, seed=seed, iterations=arguments.iterations, reward=name, reward_model=model,
                evaluate_every=arguments.iterations,
            )  # fmt: skip
            table.append({"reward": name, "seed": seed, **one(config, arguments.out / f"{name}-{seed}")})
            results.write_text(json.dumps(table, indent=2))
            report(table)


def regrip(*args: str) -> None:
    subprocess.run([sys.executable, "-m", "regrip.launch.cli", *args], check=True)


def one(config: TrainConfig, path: Path) -> dict[str, Any]:
    """Train once, and measure the last policy on the test split."""
    folder = RunDirectory(path)
    with folder.claim():
        run = begin(config)
        starts = eval_starts(environments.task_names(config.env), "test", config.test_episodes)
        with environments.open_pool(config.env, run.policy.execute) as pool:
            train(config, run, pool, folder)
            rate = evaluate(pool, run.policy, starts, greedy=True).outcomes.rate
    return {
        "successes": rate.successes,
        "trials": rate.trials,
        "episodes": run.episodes,
        "alarms": [alarm["name"] for alarm in read_alarms(folder.alarms)],
    }


def report(table: list[dict[str, Any]]) -> None:
    print(f"\n{'reward':24}{'all seeds, test split':34}each seed; alarms")
    for name in dict.fromkeys(row["reward"] for row in table):
        rows = [row for row in table if row["reward"] == name]
        rate = sum((Rate(row["successes"], row["trials"]) for row in rows), Rate(0, 0))
        each = " ".join(f"{100 * row['successes'] / row['trials']:.1f}" for row in rows)
        alarms = ", ".join(sorted({alarm for row in rows for alarm in row["alarms"]})) or "none"
        print(f"{name:24}{rate!s:34}{each}; {alarms}", flush=True)


if __name__ == "__main__":
    main()
