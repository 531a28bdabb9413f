"""Rewards by name: each a scorer, and how it becomes the reward that training uses.

What a scorer is made of (an encoder, a fitted model, a judge) comes from the caller as `Materials`; a preset
says what it needs, and asking for it without is an error that names what to give.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ..datasets.protocols import Reward
from .binary import BinarySuccess
from .embedding import Encoder, PixelDownsample, SimulatorState
from .self_referential import SelfReferential, SelfReferentialConfig


@dataclass(frozen=True)
class Materials:
    """What rewards are made of.

    Attributes:
        run: names the run, so that episodes of two runs are never taken for one.
        gamma: discount of one decision, for potentials: the learner's own.
        encoder: frames to vectors; usually the frozen base policy's vision tower.
        self_referential: settings of that reward.
    """

    run: str = "run"
    gamma: float = 0.99
    encoder: Encoder | None = None
    self_referential: SelfReferentialConfig = field(default_factory=SelfReferentialConfig)


@dataclass(frozen=True)
class Preset:
    """A reward by name.

    Attributes:
        summary: one line for a list.
        needs: fields of `Materials` that it cannot do without.
        scorer: makes the scorer (any kind of `scorers`), or the reward itself where there is no other.
        reward: makes the reward of the scorer.
    """

    summary: str
    scorer: Callable[[Materials], Any]
    reward: Callable[[Any, Materials], Reward] = lambda scorer, materials: scorer
    needs: tuple[str, ...] = ()


def _self_referential(materials: Materials) -> SelfReferential:
    return SelfReferential(_given(materials.encoder), materials.self_referential, materials.run)


def _given(value: Any) -> Any:
    assert value is not None, "checked by `check`"
    return value


PRESETS: dict[str, Preset] = {
    "binary": Preset("the simulator's verdict, 1 at the step of success", lambda m: BinarySuccess()),
    "self_referential": Preset(
        "a failure is worth the more, the more it looks like the policy's own successes",
        _self_referential,
        needs=("encoder",),
    ),
    "srpo_released": Preset(
        "the same with the arithmetic of SRPO's release (batch min-max), for comparison",
        lambda m: SelfReferential(_given(m.encoder), SelfReferentialConfig(as_released=True), m.run),
        needs=("encoder",),
    ),
    "self_referential_pixels": Preset(
        "self_referential on a coarse grid of pixels: what a good encoder must beat",
        lambda m: SelfReferential(PixelDownsample(), m.self_referential, m.run),
    ),
    "self_referential_state": Preset(
        "self_referential on the simulator's own state: the best that a camera could do",
        lambda m: SelfReferential(SimulatorState(), m.self_referential, m.run),
    ),
}


def check(name: str, materials: Materials) -> Preset:
    """The preset of a name, if its needs are met.

    Raises:
        ValueError: no such preset, or something that it needs is missing.
    """
    if name not in PRESETS:
        near = difflib.get_close_matches(name, PRESETS, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise ValueError(f"no reward {name!r}; {hint}there are {', '.join(PRESETS)}")
    for need in PRESETS[name].needs:
        if getattr(materials, need) is None:
            raise ValueError(f"reward {name!r} needs {need}; `regrip rewards list` says where it comes from")
    return PRESETS[name]


def build(name: str, materials: Materials) -> tuple[Any, Reward]:
    """The scorer of a preset, and the reward that training uses.

    Raises:
        ValueError: see `check`.
    """
    preset = check(name, materials)
    scorer = preset.scorer(materials)
    return scorer, preset.reward(scorer, materials)
