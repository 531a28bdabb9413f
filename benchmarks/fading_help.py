"""A policy that hardly succeeds practises alone, with virtual forces that fade, and with goals that do.

    python benchmarks/fading_help.py --out runs/fading-help

The base is the policy that ships with noise on the weights of its action expert, `--spoil` standard
deviations of each matrix: its eyes are good, its hand is not. Every arm plays the same number of episodes
from the same seed; then the base and all arms are measured, greedy, on the same test start states, without
help.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from functools import partial
from pathlib import Path

import torch

from regrip.datasets.starts import StartState
from regrip.datasets.statistics import paired_difference
from regrip.launch import environments
from regrip.launch.checkpoint import publish
from regrip.launch.config import load_preset
from regrip.launch.evaluate import eval_starts, evaluate
from regrip.launch.experiment import TrainConfig
from regrip.launch.measurement import Outcomes
from regrip.launch.metrics import read_metrics
from regrip.launch.policies import open_policy
from regrip.launch.run_directory import RunDirectory
from regrip.launch.train import begin, train
from regrip.vla.pi0 import Pi0Policy
from regrip.vla.policy_files import save_policy

ARMS = {
    "alone": {},
    "virtual forces": {"assist": 1.0},
    "relaxed goals": {"relax": 1.0},
    "both": {"assist": 1.0, "relax": 1.0},
}


def spoil(folder: Path, level: float) -> Path:
    policy, published = open_policy("demo")
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, weight in policy.pi0.model.named_parameters():
            if "vlm" not in name and weight.ndim == 2:
                weight += level * weight.std() * torch.randn(weight.shape, generator=draw)
    publish(folder, partial(save_policy, policy), {"what": f"{published.path.name}, spoilt by {level}"})
    return folder


def measure(config: TrainConfig, policy: Pi0Policy, starts: list[StartState]) -> Outcomes:
    with environments.open_pool(config.env, policy.execute) as pool:
        return evaluate(pool, policy, starts, greedy=True).outcomes


def by_kind(outcomes: Outcomes) -> str:
    """Successes of each verb."""
    found: dict[str, tuple[int, int]] = {}
    for task, rate in outcomes.by_task().items():
        verb = task.split("/")[1].split("_")[0]
        won, all_of = found.get(verb, (0, 0))
        found[verb] = won + rate.successes, all_of + rate.trials
    return ", ".join(f"{verb} {won}/{all_of}" for verb, (won, all_of) in found.items())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="an empty folder")
    parser.add_argument("--spoil", type=float, default=1.7)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--iterations", type=int, default=6)
    parser.add_argument("--groups", type=int, default=128, help="episodes of an iteration")
    parser.add_argument("--episodes", type=int, default=15, help="test start states of each task")
    parser.add_argument("--arms", nargs="*", choices=list(ARMS), default=list(ARMS))
    args = parser.parse_args()
    preset = load_preset(TrainConfig, "learning", "train")
    base = dataclasses.replace(
        preset,
        mpo=dataclasses.replace(preset.mpo, critic_steps=60, steps=20),
        policy=str(spoil(args.out / "base", args.spoil)), reward="self_referential", seed=args.seed,
        groups=args.groups, iterations=args.iterations, evaluate_every=args.iterations, select_episodes=1,
        assist_until=0.75,
    )  # fmt: skip
    starts = eval_starts(environments.task_names(base.env), "test", args.episodes)
    before = measure(base, begin(base).policy, starts)
    print(f"base: {before.rate} ({by_kind(before)})", flush=True)
    found: dict[str, Outcomes] = {}
    for arm in args.arms:
        began = time.monotonic()
        config = dataclasses.replace(base, **ARMS[arm])
        folder = RunDirectory(args.out / arm.replace(" ", "-"))
        with folder.claim():
            run = begin(config)
            with environments.open_pool(config.env, run.policy.execute) as pool:
                train(config, run, pool, folder)
        found[arm] = measure(config, run.policy, starts)
        rows = read_metrics(folder.path)
        won = " ".join(f"{row['train/successes']:.0f}" for row in rows)
        eased = " ".join(f"{row['train/eased']:.0f}" for row in rows if "train/eased" in row)
        print(
            f"{arm}: {found[arm].rate} ({by_kind(found[arm])}); {rows[-1]['episodes']:.0f} episodes, "
            f"{rows[-1]['env_steps']:.0f} steps, {time.monotonic() - began:.0f} s\n"
            f"  won while practising, of {args.groups}: {won}" + (f"; eased: {eased}" if eased else ""),
            flush=True,
        )
        first = found[args.arms[0]]
        for name, other in (("base", before), *([(args.arms[0], first)] if first is not found[arm] else [])):
            print(f"  against {name}: {paired_difference(other.success, found[arm].success)}", flush=True)


if __name__ == "__main__":
    main()
