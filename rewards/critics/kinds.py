"""The kinds of critics there are."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

from ..scorers import TrajectoryScorer
from . import diwa, multi_head, rewind, robometer, sarm, success, vlac
from .config import SIZES, CriticConfig
from .critic import Critic
from .inputs import Inputs


@dataclass(frozen=True)
class Kind:
    """A kind of critic.

    Attributes:
        summary: one line for a list.
        options: the dataclass of its own settings.
        network: makes its torch module, a `regrip.rewards.critics.critic.CriticNetwork`.
        progress: what it says of whole episodes; its other scorers are in its file.
    """

    summary: str
    options: Callable[[], Any]
    network: Callable[[Inputs, CriticConfig[Any]], nn.Module]
    progress: Callable[[Critic], TrajectoryScorer]


KINDS: dict[str, Kind] = {
    "vlac": Kind(
        "share of what was still to do that one picture has over another, and a head for done",
        vlac.VlacOptions,
        vlac.VlacNetwork,
        vlac.progress,
    ),
    "rewind": Kind(
        "progress of every frame of a clip, taught with rewound films",
        rewind.RewindOptions,
        rewind.RewindNetwork,
        rewind.RewindProgress,
    ),
    "sarm": Kind(
        "stage of the task and how far in it", sarm.SarmOptions, sarm.SarmNetwork, sarm.SarmProgress
    ),
    "robometer": Kind(
        "progress in bins, success, and which of two episodes is better",
        robometer.RobometerOptions,
        robometer.RobometerNetwork,
        robometer.RobometerProgress,
    ),
    "success": Kind(
        "whether a frame shows success", success.SuccessOptions, success.SuccessNetwork, success.progress
    ),
    "reflector": Kind(
        "World-Env's: success of every frame, and when to stop",
        success.ReflectorOptions,
        success.SuccessNetwork,
        success.progress,
    ),
    "multi_head": Kind(
        "gates times weighted heads, as in IRL-VLA",
        multi_head.MultiHeadOptions,
        multi_head.MultiHeadNetwork,
        multi_head.progress,
    ),
    "diwa": Kind(
        "success by a contrastive embedding and a classifier on it",
        diwa.DiwaOptions,
        diwa.DiwaNetwork,
        diwa.progress,
    ),
}


def kind_of(name: str) -> Kind:
    """A kind by name.

    Raises:
        ValueError: there is none of that name.
    """
    if name not in KINDS:
        near = difflib.get_close_matches(name, KINDS, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise ValueError(f"no kind of critic {name!r}; {hint}there are {', '.join(KINDS)}")
    return KINDS[name]


def default_config(name: str, size: str = "small") -> CriticConfig[Any]:
    """The settings of a kind in a size, ``small`` or ``large``.

    Raises:
        ValueError: no such kind or size.
    """
    if size not in SIZES:
        raise ValueError(f"no size {size!r}, there are {', '.join(SIZES)}")
    network, training = SIZES[size]
    return CriticConfig(kind_of(name).options(), network, training)
