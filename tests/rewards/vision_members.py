"""Rewards that look with an image-text model, here a small CLIP of open_clip fitted to the toy world."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import reward_toy as toy

from regrip.rewards.encoders import CameraEncoder, MeanFrames
from regrip.rewards.fit_image_text import ClipFit, fit_clip
from regrip.rewards.goal_similarity import (
    GoalImage,
    GoalText,
    VideoToDemonstration,
    VideoToText,
    demonstrations,
    goal_images,
)
from regrip.rewards.open_clip_encoder import OpenClip
from regrip.rewards.self_referential import SelfReferential
from regrip.rewards.zero_shot import (
    INSTRUCTION,
    NEUTRAL,
    ContrastingGoals,
    GoalBaseline,
    HierarchicalSynthesis,
)

SMALL = ClipFit(
    "front",
    size=32,
    text_width=32,
    text_layers=1,
    embed=64,
    steps=150,
    learning_rate=3e-3,
)


@lru_cache(maxsize=1)
def fitted() -> OpenClip:
    """Some seconds, once."""
    return fit_clip([toy.many(240, 60, seed=50)], SMALL)


def synthesis() -> HierarchicalSynthesis:
    """The hand may always be fast: what is left is what the scene looks like."""
    return HierarchicalSynthesis(
        fitted(), "front", NEUTRAL, INSTRUCTION, lambda frames: np.ones(len(frames)), top=1.0, width=1.0
    )


def goals() -> GoalImage:
    return GoalImage(fitted(), "front", goal_images(toy.many(3, 0, seed=9), "front"))


def shown() -> VideoToDemonstration:
    return VideoToDemonstration(
        MeanFrames(fitted(), parts=3), "front", demonstrations(toy.many(3, 0, seed=9), "front")
    )


def self_referential() -> SelfReferential:
    reward = SelfReferential(CameraEncoder(fitted(), ("front",)))
    reward(toy.many(successes=30, failures=0, seed=7))
    return reward


_NO_PAIRS = {6: "compares no pairs"}
_WHOLE = {3: "scores whole episodes, so it has no level", **_NO_PAIRS}

VISION: list[dict[str, Any]] = [
    {
        "name": "vlm-rm",
        "kind": "frame",
        "make": lambda: GoalBaseline(fitted(), "front"),
        "exempt": _NO_PAIRS,
    },
    {
        "name": "contrasting-goals",
        "kind": "frame",
        "make": lambda: ContrastingGoals(fitted(), "front", width=1.0),
        "exempt": _NO_PAIRS,
    },
    {"name": "hierarchical-synthesis", "kind": "frame", "make": synthesis, "exempt": _NO_PAIRS},
    {
        "name": "liv-text",
        "kind": "frame",
        "make": lambda: GoalText(fitted(), "front"),
        "exempt": _NO_PAIRS,
    },
    {"name": "vip-goal-image", "kind": "frame", "make": goals, "exempt": _NO_PAIRS},
    {"name": "roboclip-demonstration", "kind": "episode", "make": shown, "exempt": _WHOLE},
    {
        "name": "roboclip-text",
        "kind": "episode",
        "make": lambda: VideoToText(MeanFrames(fitted()), "front"),
        "exempt": {
            **_WHOLE,
            7: "the mean of an episode's frames is the same played backwards",
            9: "the mean of an episode's frames moves, up or down, towards the one it stood still at",
        },
    },
    {
        "name": "srpo-clip",
        "kind": "reward",
        "make": self_referential,
        "bounds": (0, 1),
        "exempt": {
            **_WHOLE,
            7: "a success is worth 1, however it was filmed",
            8: "reads no text: the task is known by the start state",
        },
    },
]
