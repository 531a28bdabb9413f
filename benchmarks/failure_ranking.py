"""How well does the self-referential reward rank failures? By encoder and setting, on the tabletop.

A reward for failures is good if, among the failures of one start state, it ranks higher those that came
nearer to the goal, and ranks failures at the right object above failures at a wrong one. A weak policy is
imitated by the scripted expert with a biased hand, a slow hand, or the wrong task in mind (30 %), so that
both are known. Prints, for iterations that had successes to learn from:

    auc     success above failure (a success left out of its own centre)
    wrong   failures at the right object above failures at a wrong one, within a task
    rank    Spearman with the nearest approach, among failures of one start state at the right object
    ranked  the same over all starts of a task

    python benchmarks/failure_ranking.py [--policy FOLDER]     about one minute on one core
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
from numpy.typing import NDArray

from regrip.datasets.episode import Rollouts
from regrip.datasets.starts import StartState, counter_generator
from regrip.launch.policies import open_policy
from regrip.rewards.clustering import Clustering
from regrip.rewards.diagnostics import auc, spearman
from regrip.rewards.embedding import Encoder, PixelDownsample, SimulatorState
from regrip.rewards.self_referential import SelfReferential, SelfReferentialConfig
from regrip.sim.tabletop.env import TabletopEnv, make
from regrip.sim.tabletop.experts import Expert
from regrip.sim.tabletop.tasks import load
from regrip.vla.vision import VisionTower

CHUNK = 5
CONFUSED_WITH = {  # another object with the same verb, and another verb
    "demo/lift_red": ("lift_green", "push_red"),
    "demo/lift_blue": ("lift_red", "push_blue"),
    "demo/push_green": ("push_red", "lift_green"),
    "demo/press_yellow": ("press_purple", "lift_red"),
}


@dataclass(frozen=True)
class Batch:
    """Rollouts and what only the experimenter knows.

    Attributes:
        confused: (B,) bool, the hand had another task in mind.
        approach: (B,) how near it came at best: minus the distance of hand to target in metres, plus how far
            the target was lifted (times 5) or pushed (times 2).
    """

    rollouts: Rollouts
    confused: NDArray[np.bool_]
    approach: NDArray[np.float64]


def play(
    env: TabletopEnv, start: StartState, generator: np.random.Generator
) -> dict[str, NDArray[np.generic]]:
    """One episode of a hand that is slow, biased or confused; arrays by field, and the two secrets."""
    env.reset(start)
    suite = load("demo")
    confused = generator.random() < 0.3
    name = CONFUSED_WITH[start.task][generator.integers(2)] if confused else start.task_name
    expert = Expert(suite.task(name), env.world)
    speed = generator.uniform(0.3, 1.0)
    bias = generator.normal(size=3) * (0.5, 0.5, 0.3) * generator.choice([0.0, 0.5, 1.0])
    rows: dict[str, list[NDArray[np.generic]]] = {
        key: [] for key in ("front", "wrist", "state", "privileged", "action", "valid")
    }
    over = False
    while not over:
        for camera in ("front", "wrist"):
            rows[camera].append(env.render(camera))
        rows["state"].append(env.state())
        rows["privileged"].append(env.privileged())
        action, valid = np.zeros((CHUNK, 7), np.float32), np.zeros(CHUNK, bool)
        drift = 0.3 * generator.normal(size=3)
        for step in range(CHUNK):
            action[step] = expert.act()
            action[step, :6] *= speed
            action[step, :3] += (bias + drift) * 0.02
            valid[step] = True
            outcome = env.step(action[step])
            over = outcome.success or outcome.truncated
            if over:
                break
        rows["action"].append(action)
        rows["valid"].append(valid)
    path = np.stack([*rows["privileged"], env.privileged()]).astype(np.float64)
    approach = -np.linalg.norm(path[:, :3] - path[:, 3:6], axis=1).min()
    approach += 5 * max(0.0, np.ptp(path[:, 2])) * ("lift" in start.task_name)
    approach += 2 * max(0.0, (path[:, 0] - path[0, 0]).max()) * ("push" in start.task_name)
    stacked: dict[str, NDArray[np.generic]] = {key: np.stack(value) for key, value in rows.items()}
    return stacked | {
        "success": np.array(outcome.success),
        "confused": np.array(confused),
        "approach": np.array(approach),
    }


def batch(env: TabletopEnv, iteration: int, groups: int, size: int) -> Batch:
    starts = [
        StartState(task, "train", 1000 * iteration + group)
        for task in CONFUSED_WITH
        for group in range(groups)
        for _ in range(size)
    ]
    episodes = [
        play(env, start, counter_generator("failure ranking", iteration, row))
        for row, start in enumerate(starts)
    ]
    longest = max(len(episode["valid"]) for episode in episodes)

    def stack(key: str) -> NDArray[np.generic]:
        padded = np.zeros((len(episodes), longest, *episodes[0][key].shape[1:]), episodes[0][key].dtype)
        for row, episode in enumerate(episodes):
            padded[row, : len(episode[key])] = episode[key]
        return padded

    success = np.array([episode["success"] for episode in episodes])
    valid = stack("valid")
    rollouts = Rollouts(
        start=starts,
        group=np.unique([repr(start) for start in starts], return_inverse=True)[1].astype(np.int64),
        instruction=[start.task_name for start in starts],
        images={camera: stack(camera) for camera in ("front", "wrist")},  # type: ignore[misc]
        state=stack("state"),  # type: ignore[arg-type]
        privileged=stack("privileged"),  # type: ignore[arg-type]
        action=stack("action"),  # type: ignore[arg-type]
        valid=valid,  # type: ignore[arg-type]
        reward=np.zeros(valid.shape, np.float32),
        success=success,
        truncated=~success,
        invalid=np.zeros(len(success), bool),
        latent={},
        log_prob=np.zeros(valid.shape, np.float32),
        policy_version=iteration,
    )
    confused = np.array([episode["confused"] for episode in episodes])
    return Batch(rollouts, confused, np.array([float(episode["approach"]) for episode in episodes]))


def judge(batches: list[Batch], encoder: Encoder, config: SelfReferentialConfig) -> NDArray[np.float64]:
    """The four figures, over all batches but the first, whose successes fill the bank."""
    reward = SelfReferential(encoder, config)
    found: list[list[float | None]] = []
    for one in batches:
        signal, rollouts = reward(one.rollouts), one.rollouts
        failed = ~rollouts.success
        right = failed & ~one.confused
        task = np.array([start.task for start in rollouts.start])
        shaped = signal.components["shaped"]
        group = [str(key) for key in rollouts.group[right]]
        found.append(
            [
                float(signal.components["auc_success_failure"][0]),
                auc(shaped[failed], ~one.confused[failed], task[failed].tolist()),
                spearman(shaped[right], one.approach[right], group),
                spearman(shaped[right], one.approach[right], task[right].tolist()),
            ]
        )
    return np.asarray(np.nanmean(np.array(found[1:], dtype=np.float64), axis=0))  # None becomes NaN


def cached(encoder: Encoder) -> Callable[[Rollouts], NDArray[np.float32]]:
    """The batches are scored once for each setting, but need embedding only once."""
    known: dict[int, NDArray[np.float32]] = {}

    def encode(rollouts: Rollouts) -> NDArray[np.float32]:
        if id(rollouts) not in known:
            known[id(rollouts)] = encoder(rollouts)
        return known[id(rollouts)]

    return encode


def encoders(policy: str | None) -> Iterator[tuple[str, Encoder]]:
    yield "state of hand and target", SimulatorState(columns=tuple(range(7)))
    yield "whole simulator state", SimulatorState()
    yield "pixels, 8x8", PixelDownsample(8)
    if policy is not None:
        yield "vision tower", VisionTower(open_policy(policy)[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--policy", help="a policy folder, for its vision tower")
    parser.add_argument("--iterations", type=int, default=3)
    parser.add_argument("--groups", type=int, default=12, help="start states of each task in an iteration")
    parser.add_argument("--size", type=int, default=8, help="episodes from each")
    given = parser.parse_args()
    torch.set_num_threads(1)
    env = make(suite="demo")
    batches = [batch(env, i, given.groups, given.size) for i in range(given.iterations)]
    rate = np.mean([one.rollouts.success.mean() for one in batches])
    print(f"{sum(len(one.rollouts) for one in batches)} episodes, success {rate:.0%}")
    print(f"{'encoder':26} {'moment':7} {'frames':9} {'centres':9}   auc  wrong   rank ranked")
    for name, encoder in encoders(given.policy):
        encode = cached(encoder)
        for moment, relative, nearest in product(("whole", "best"), (True, False), (False, True)):
            config = SelfReferentialConfig(
                moment=moment,  # type: ignore[arg-type]
                relative_to_start=relative,
                clustering=Clustering(cluster_from=10**9 if nearest else 12),
            )
            figures = judge(batches, encode, config)
            print(
                f"{name:26} {moment:7} {'relative' if relative else 'absolute':9} "
                f"{'successes' if nearest else 'clusters':9} " + " ".join(f"{x:6.2f}" for x in figures),
                flush=True,
            )


if __name__ == "__main__":
    main()
