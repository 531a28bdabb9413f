"""Critics that were fitted on the toy world, one of each kind, once in a process."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from typing import Any

import reward_toy as toy
import torch

from regrip.datasets.episode import Rollouts
from regrip.rewards.critics import diwa, multi_head, rewind, robometer, sarm, success, vlac
from regrip.rewards.critics.config import NetworkConfig, TrainingConfig
from regrip.rewards.critics.critic import Critic
from regrip.rewards.critics.fit import fit
from regrip.rewards.critics.kinds import default_config, kind_of
from regrip.rewards.diagnostics import auc
from regrip.rewards.embedding import PixelDownsample
from regrip.rewards.scorers import TrajectoryScorer, ranking

ENCODER = PixelDownsample(8, ("front",))
# steps and learning rate; what reads several frames needs a lower one to learn the words
TRAINING = {"vlac": (300, 3e-3), "rewind": (400, 2e-3), "sarm": (400, 2e-3), "robometer": (300, 2e-3)}


@lru_cache(maxsize=1)
def episodes() -> Rollouts:
    return toy.many(60, 30, seed=11)


@lru_cache
def fitted(kind: str) -> Critic:
    """On 8 x 8 pixels, some seconds each."""
    torch.set_num_threads(1)
    config = default_config(kind)
    if kind == "sarm":
        clips = replace(config.options.clips, mismatched=0.4)
        config = replace(config, options=replace(config.options, frames=6, clips=clips))
    steps, rate = TRAINING.get(kind, (300, 3e-3))
    training = TrainingConfig(steps=steps, learning_rate=rate, evaluate_every=steps // 3)
    config = replace(config, network=NetworkConfig(ensemble=2), training=training)
    return fit(kind, episodes(), config, encoder=ENCODER)


def progress_of(critic: Critic) -> TrajectoryScorer:
    return kind_of(critic.kind).progress(critic)


def auroc(
    critic: Critic, rollouts: Rollouts, scorer: Callable[[Critic], TrajectoryScorer] | None = None
) -> float:
    """Probability that a success's highest level is above a failure's of the same task."""
    levels = ranking((scorer or progress_of)(critic).progress(rollouts))[0].value
    found = auc(levels.max(1), rollouts.success, [start.task for start in rollouts.start])
    assert found is not None
    return found


def members(member: Any) -> list[Any]:
    """Entries for `reward_members.MEMBERS`; `member` is its `Member`."""
    no_pairs = {6: "compares no pairs"}
    trajectories = {
        "rewind": lambda: rewind.RewindProgress(fitted("rewind")),
        "sarm": lambda: sarm.SarmProgress(fitted("sarm")),
        "robometer": lambda: robometer.RobometerProgress(fitted("robometer")),
        "robometer-success": lambda: robometer.RobometerSuccess(fitted("robometer")),
    }
    frames = {
        "vlac-done": lambda: vlac.VlacDone(fitted("vlac")),
        "success": lambda: success.FrameSuccess(fitted("success")),
        "reflector": lambda: success.FrameSuccess(fitted("reflector")),
        "multi-head": lambda: multi_head.MultiHeadRewardModel(fitted("multi_head")),
        "diwa": lambda: diwa.DiwaSuccess(fitted("diwa")),
    }
    whole = {3: "scores whole episodes, so it has no level"}
    no_zero = {9: "has no zero: what a few steps more do to it says nothing of what they earn"}
    return [
        member("vlac", "pair", lambda: vlac.VlacPairs(fitted("vlac"))),
        member("vlac-shown", "pair", lambda: vlac.VlacPairs(fitted("vlac")).shown(episodes(), 0)),
        *(member(name, "trajectory", make, exempt=no_pairs) for name, make in trajectories.items()),
        *(member(name, "frame", make, exempt=no_pairs) for name, make in frames.items()),
        member(
            "robometer-preference",
            "episode",
            lambda: robometer.RobometerPreference(fitted("robometer")),
            exempt={**no_pairs, **whole, **no_zero},
        ),
    ]
