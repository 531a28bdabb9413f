"""Post-training in imagination alone, against the same number of updates in the simulator.

    python benchmarks/world_evidence.py --seeds 3 --iterations 6

Records episodes as a robot would (the base policy exploring, a little and wildly, and a scripted expert
that is knocked about; every frame), fits a world model on them, and post-trains the policy that ships
inside it. Every arm makes the same number of updates from the same number of played (imagined or simulated)
episodes, and its last policy is measured greedily on the simulator's test starts, paired with the base
policy's. The imagined arms see no episode of the simulator but the recorded ones, and no checkpoint is
chosen. Prints a table that is whole after every run; a run that is in --out already is not made again.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from regrip.datasets.statistics import Rate, bootstrap_mean
from regrip.launch import environments
from regrip.launch.config import load_preset
from regrip.launch.environments import EnvConfig, ImaginedConfig
from regrip.launch.evaluate import eval_starts, evaluate
from regrip.launch.experiment import TrainConfig
from regrip.launch.run_directory import RunDirectory
from regrip.launch.train import begin, train
from regrip.launch.world_cameras import calibration

# The first and the last are the comparison. Then what the papers leave out; then other algorithms, of which
# `preference` compares chunks imagined at recorded frames; then a quarter of the simulator's episodes, and
# the same quarter with imagined ones beside it, three for each.
ARMS = (
    "imagined", "no-stop", "no-anchor", "no-exploration", "diwa", "preference", "quarter", "mixed",
    "simulator",
)  # fmt: skip
_PLAYED = {"simulator": 1.0, "quarter": 0.25, "mixed": 0.25}  # share of the episodes that is the simulator's


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--iterations", type=int, default=6)
    parser.add_argument("--arms", nargs="*", choices=ARMS, default=list(ARMS))
    parser.add_argument("--anchor", type=float, default=0.3)
    parser.add_argument("--episodes-per-task", type=int, default=60)
    parser.add_argument("--demonstrations-per-task", type=int, default=15)
    parser.add_argument("--kind", choices=("views", "video"), default="views")
    parser.add_argument("--out", type=Path, default=Path("runs/world"))
    arguments = parser.parse_args()
    out = arguments.out
    out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    each, shown = str(arguments.episodes_per_task), str(arguments.demonstrations_per_task)
    once(out / "play", "data", "record", "demo", "--policy", "demo", "--mode", "sampled", "--every-frame",
         "--noise-level", "0.4", "-n", each, "--workers", "1")  # fmt: skip
    for name, level, first in (("wild", "1.0", "200"), ("wilder", "2.0", "300")):
        once(out / name, "data", "record", "demo", "--policy", "demo", "--mode", "sampled", "--every-frame",
             "--noise-level", level, "-n", "12", "--first", first, "--workers", "1")  # fmt: skip
    once(out / "demonstrations", "data", "record", "demo", "-n", shown, "--first", "100",
         "--action-noise", "0.3", "--failures", "--workers", "1")  # fmt: skip
    sets = [out / name for name in ("play", "demonstrations", "wild", "wilder")]
    fitted = ["--kind", arguments.kind]
    if arguments.kind == "views":
        cameras = out / "cameras.json"
        cameras.write_text(json.dumps(calibration("demo").to_json()))
        fitted += ["--cameras", str(cameras)]
    once(out / "model", "world", "fit", *map(str, sets), *fitted)
    if "no-exploration" in arguments.arms:
        once(out / "greedy", "data", "record", "demo", "--policy", "demo", "--mode", "sampled",
             "--every-frame", "--noise-level", "0", "-n", each, "--workers", "1")  # fmt: skip
        once(out / "model-greedy", "world", "fit", str(out / "greedy"), *fitted)
    real = sum(map(count, sets))
    results = out / "results.json"
    table: list[dict[str, Any]] = json.loads(results.read_text()) if results.exists() else []
    preset = load_preset(TrainConfig, "learning", "train")
    starts = eval_starts(environments.task_names(preset.env), "test", preset.test_episodes)
    if not any(row["arm"] == "base" for row in table):
        with environments.open_pool(preset.env, 5) as pool:
            policy = begin(preset).policy
            won = evaluate(pool, policy, starts, greedy=True).outcomes.success
        table.append({"arm": "base", "seed": 0, "success": list(won), "real": 0})
    for seed in range(arguments.seeds):
        for arm in arguments.arms:
            if any((row["arm"], row["seed"]) == (arm, seed) for row in table):
                continue
            config = dataclasses.replace(
                preset, seed=seed, iterations=arguments.iterations, reward="binary",
                evaluate_every=arguments.iterations + 1,  # nothing is chosen: the last policy counts
            )  # fmt: skip
            if arm == "quarter":
                config = dataclasses.replace(config, groups=round(_PLAYED[arm] * config.groups))
            elif arm != "simulator":
                model = out / ("model-greedy" if arm == "no-exploration" else "model")
                env = dataclasses.replace(
                    config.env, name="world", suite=str(model),
                    world=ImaginedConfig(
                        anywhere=True, dynamic_stop=arm != "no-stop",
                        max_decisions=1 if arm == "preference" else 0,
                    ),
                )  # fmt: skip
                anchor = 0.0 if arm in ("no-anchor", "mixed") else arguments.anchor
                config = dataclasses.replace(
                    config,
                    env=env,
                    algorithm=arm if arm in ("diwa", "preference") else "mpo",
                    mpo=dataclasses.replace(config.mpo, anchor=anchor),
                    real="tabletop:demo" if arm == "mixed" else "",
                    real_share=_PLAYED[arm] if arm == "mixed" else 0.0,
                )
            found = one(config, preset.env, out / f"{arm}-{seed}")
            recorded = 0 if arm in ("simulator", "quarter") else real
            if arm == "no-exploration":
                recorded = count(out / "greedy")
            spent = recorded + round(_PLAYED.get(arm, 0.0) * preset.groups * config.iterations)
            table.append({"arm": arm, "seed": seed, "real": spent, **found})
            results.write_text(json.dumps(table, indent=1))
            report(table)


def once(out: Path, *args: str) -> None:
    """Run a command of regrip that writes `out`, unless that is there."""
    if not out.exists():
        subprocess.run([sys.executable, "-m", "regrip.launch.cli", *args, "--out", str(out)], check=True)


def count(path: Path) -> int:
    from regrip.datasets.formats import open_source

    return len(open_source(path))


def one(config: TrainConfig, measured: EnvConfig, path: Path) -> dict[str, Any]:
    """Train once, and measure the last policy on the test split of the simulator."""
    folder = RunDirectory(path)
    with folder.claim():
        run = begin(config)
        starts = eval_starts(environments.task_names(measured), "test", config.test_episodes)
        with contextlib.ExitStack() as opened:
            pool = environments.open_pool(config.env, run.policy.execute)
            opened.callback(pool.close)
            real = environments.open_pool(measured, run.policy.execute) if config.real else None
            if real is not None:
                opened.callback(real.close)
            train(config, run, pool, folder, real)
        rows = [json.loads(line) for line in (folder.path / "metrics.jsonl").read_text().splitlines()]
        with environments.open_pool(measured, run.policy.execute) as pool:
            won = evaluate(pool, run.policy, starts, greedy=True).outcomes.success
    practised = [round(row["train/successes"] / row["train/episodes"], 3) for row in rows]
    return {"success": list(won), "practised": practised}


def report(table: list[dict[str, Any]]) -> None:
    base = np.array(next(row["success"] for row in table if row["arm"] == "base"))
    print(f"\n{'arm':16}{'simulator, test split, all seeds':36}{'against the base policy':30}real episodes")
    print(f"{'base':16}{Rate(int(base.sum()), len(base))!s:36}{'':30}0")
    for arm in dict.fromkeys(row["arm"] for row in table if row["arm"] != "base"):
        rows = [row for row in table if row["arm"] == arm]
        won = np.stack([row["success"] for row in rows])
        rate = Rate(int(won.sum()), won.size)
        more = won.mean(0) - base  # of each start, over the seeds: the starts are what is drawn again
        within = bootstrap_mean(100 * more)
        gain = f"{100 * more.mean():+.1f} points [{within.low:+.1f}, {within.high:+.1f}]"
        each = " ".join(f"{100 * row.mean():.1f}" for row in won)
        print(f"{arm:16}{rate!s:36}{gain:30}{rows[0]['real']}   each seed {each}", flush=True)


if __name__ == "__main__":
    main()
