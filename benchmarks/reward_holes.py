"""Training on rewards with known holes, and on sound ones: how early is each noticed, and how often falsely?

    python benchmarks/reward_holes.py --seeds 2 --iterations 6

Every run starts from the policy that ships and plays the same number of episodes. The holes are the ones that
the field's rewards are known for; what is near or far is read from the simulator's state, so nothing but the
hole is wrong with them. An alarm on a sound reward is a false one.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regrip.datasets.episode import Rollouts
from regrip.datasets.protocols import Progress, Relative, Reward, RewardSignal
from regrip.datasets.statistics import Rate
from regrip.launch import environments
from regrip.launch.alarms import read_alarms
from regrip.launch.config import load_preset
from regrip.launch.experiment import TrainConfig
from regrip.launch.metrics import read_metrics
from regrip.launch.run_directory import RunDirectory
from regrip.launch.train import begin, train
from regrip.rewards.binary import BinarySuccess
from regrip.rewards.pipeline import AddSuccess, Pipeline
from regrip.rewards.scorers import (
    Difference,
    FrameProgress,
    Frames,
    Level,
    Potential,
    Reduced,
    Terminal,
    TrajectoryScorer,
    per_decision,
)
from regrip.rewards.self_referential import SelfReferential, SelfReferentialConfig

_NEAR_M = 0.1


class Nearness:
    """How near the hand is to the instructed object, in (0, 1]: a progress that knows no more than that."""

    bounds = (0.0, 1.0)

    def score(self, frames: Frames) -> NDArray[np.float32]:
        target, hand = frames.privileged[:, :3], frames.privileged[:, 3:6]
        return np.exp(-np.linalg.norm(hand - target, axis=-1) / _NEAR_M).astype(np.float32)


@dataclasses.dataclass(frozen=True)
class MinMax:
    """A level stretched to [0, 1] inside each video, as TOPReward does it."""

    scorer: TrajectoryScorer
    bounds: tuple[float, float] = (0.0, 1.0)

    def progress(self, rollouts: Rollouts) -> Relative[Progress]:
        found = self.scorer.progress(rollouts)
        assert isinstance(found, Progress)
        mask = rollouts.decision_valid
        low = np.where(mask, found.value, np.inf).min(1, keepdims=True)
        high = np.where(mask, found.value, -np.inf).max(1, keepdims=True)
        value = np.where(mask, (found.value - low) / np.maximum(high - low, 1e-6), 0.0)
        return Relative(Progress(value.astype(np.float32), found.valid))


@dataclasses.dataclass(frozen=True)
class Stateless:
    """A reward that is a function."""

    pay: Callable[[Rollouts], NDArray[np.float32]]

    def __call__(self, rollouts: Rollouts) -> RewardSignal:
        value = per_decision(rollouts.valid, self.pay(rollouts))
        return RewardSignal(value, {}, rollouts.num_steps > 0, relative=False)

    def state_dict(self) -> dict[str, NDArray[np.generic]]:
        return {}

    def load_state_dict(self, state: Mapping[str, NDArray[np.generic]]) -> None:
        assert not state


def gains_only(rollouts: Rollouts) -> NDArray[np.float32]:
    """Coming nearer pays, going away costs nothing: to and fro pays for ever."""
    level = FrameProgress(Nearness()).progress(rollouts).value
    mask = rollouts.decision_valid
    gain = np.zeros_like(level)
    gain[:, :-1] = np.maximum(np.diff(level, axis=1), 0) * (mask[:, 1:] & mask[:, :-1])
    return gain


def motion(rollouts: Rollouts) -> NDArray[np.float32]:
    """What moves is interesting: pays for the distance that the hand travels (metres, times ten)."""
    hand, mask = rollouts.privileged[..., 3:6], rollouts.decision_valid
    way = np.zeros(mask.shape, np.float32)
    way[:, :-1] = 10 * np.linalg.norm(np.diff(hand, axis=1), axis=-1) * (mask[:, 1:] & mask[:, :-1])
    return way


near = FrameProgress(Nearness())
HOLES: dict[str, Callable[[SelfReferential], Reward]] = {
    "level, no outcome": lambda _: Level(near),
    "gains only": lambda _: Stateless(gains_only),
    "min-max in the video": lambda _: Terminal(Reduced(MinMax(near))),
    "motion": lambda _: Stateless(motion),
    "last level, no outcome": lambda _: Terminal(Reduced(near)),
}
SOUND: dict[str, Callable[[SelfReferential], Reward]] = {
    "binary": lambda _: BinarySuccess(),
    "self-referential": lambda own: own,
    "self-referential, released": lambda own: SelfReferential(
        own.encoder, SelfReferentialConfig(as_released=True), own.run
    ),
    "potential and success": lambda _: Pipeline(Potential(near, 0.97**5), [AddSuccess()]),
    "difference and success": lambda _: Pipeline(Difference(near), [AddSuccess()]),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--iterations", type=int, default=6)
    parser.add_argument("--rewards", nargs="*", default=[*HOLES, *SOUND])
    parser.add_argument("--out", type=Path, default=Path("runs/holes"))
    arguments = parser.parse_args()
    base = load_preset(TrainConfig, "learning", "train")
    table: list[dict[str, Any]] = []
    for seed in range(arguments.seeds):
        for name in arguments.rewards:
            config = dataclasses.replace(base, seed=seed, iterations=arguments.iterations)
            folder = RunDirectory(arguments.out / f"{name.replace(' ', '-').replace(',', '')}-{seed}")
            with folder.claim():
                run = begin(config)
                assert isinstance(run.reward, SelfReferential)
                run.reward = {**HOLES, **SOUND}[name](run.reward)
                with environments.open_pool(config.env, run.policy.execute) as pool:
                    train(config, run, pool, folder)
            table.append({"reward": name, "seed": seed, "hole": name in HOLES, **outcome(folder)})
            report(table)
    (arguments.out / "holes.json").write_text(json.dumps(table, indent=2))


def outcome(folder: RunDirectory) -> dict[str, Any]:
    """Alarms of a run (iterations counted from 1), and success on select at its measurements."""
    first: dict[str, int] = {}
    for alarm in read_alarms(folder.alarms):
        first.setdefault(alarm["name"], alarm["iteration"] + 1)
    rows = read_metrics(folder.path)
    select = [
        Rate(int(row["select/successes"]), int(row["select/episodes"]))
        for row in rows
        if row.get("select/episodes", 0) > 0
    ]
    return {
        "alarms": first,
        "earned": [rows[0]["monitor/earned"], rows[-1]["monitor/earned"]],
        "auc": [rows[0].get("monitor/auc"), rows[-1].get("monitor/auc")],
        "select": [rate.value for rate in select],
        "iterations": len(rows),
    }


def report(table: list[dict[str, Any]]) -> None:
    print(f"\n{'reward':28} {'seed':>4}  {'earned':>15}  {'AUROC':>11}  {'select success':28} alarms (when)")
    for row in table:
        earned = "{:.3f} -> {:.3f}".format(*row["earned"])
        ranking = " -> ".join("-" if value is None else f"{value:.2f}" for value in row["auc"])
        success = " ".join(f"{100 * rate:.1f}" for rate in row["select"])
        alarms = ", ".join(f"{name} ({when})" for name, when in row["alarms"].items()) or "none"
        mark = "hole " if row["hole"] else "sound"
        print(
            f"{mark} {row['reward']:22} {row['seed']:4}  {earned:>15}  {ranking:>11}  {success:28} {alarms}"
        )
    holes, sound = ([row for row in table if row["hole"] is kind] for kind in (True, False))
    if holes:
        print(f"\nholes noticed: {sum(bool(row['alarms']) for row in holes)} of {len(holes)} runs")
    if sound:
        iterations = sum(row["iterations"] for row in sound)
        false = sum(len(row["alarms"]) for row in sound)
        print(
            f"false alarms on sound rewards: {false} in {len(sound)} runs, {iterations} iterations",
            flush=True,
        )


if __name__ == "__main__":
    main()
