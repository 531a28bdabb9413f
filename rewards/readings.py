"""What a reward says about episodes, in the one form in which `trust` can measure every kind of reward."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..datasets.episode import Rollouts
from ..datasets.protocols import Progress, Relative, Reward, RewardSignal
from .probes import played_backwards
from .scorers import Difference, Frames, Level, PairProgress, PairScorer, Potential, TrajectoryScorer, ranking
from .self_referential import SelfReferential


@dataclass(frozen=True)
class Subject:
    """A reward on trial.

    Attributes:
        name: in tables.
        reward: what training would be paid by.
        levels: what says how far each moment was; None if the reward is made of no levels.
        by_level: an episode's score is its last level, not what it was paid.
    """

    name: str
    reward: Reward
    levels: TrajectoryScorer | None = None
    by_level: bool = False


@dataclass(frozen=True)
class Reading:
    """What was said about B episodes.

    Attributes:
        value: float32 (B,D,H), as paid.
        level: float32 (B,D), how far each moment was; None if the reward has no levels.
        score: float64 (B,), one number for each episode: the level of the last moment that was looked at, if
            levels are what is paid for (`Difference`, `Level`, `Potential`); else what was paid in all.
        judged: bool (B,), false where the reward could not judge; those say nothing anywhere.
        relative: true when the numbers only rank inside this batch.
    """

    value: NDArray[np.float32]
    level: NDArray[np.float32] | None
    score: NDArray[np.float64]
    judged: NDArray[np.bool_]
    relative: bool

    @property
    def paid(self) -> NDArray[np.float64]:
        """(B,) what each episode earned."""
        return np.asarray(self.value.sum((1, 2), dtype=np.float64))


class _Remembered:
    """A trajectory scorer that is asked once about the same rollouts: it may be a large model."""

    def __init__(self, scorer: TrajectoryScorer) -> None:
        self.scorer = scorer
        self._last: tuple[Rollouts, Progress | Relative[Progress]] | None = None

    @property
    def bounds(self) -> tuple[float, float]:
        return self.scorer.bounds

    def progress(self, rollouts: Rollouts) -> Progress | Relative[Progress]:
        if self._last is None or self._last[0] is not rollouts:
            self._last = (rollouts, self.scorer.progress(rollouts))
        return self._last[1]


class Held:
    """A reward that has learned and now only looks: every call leaves it as it was; a `Reward`.

    No start is shown to it as a training start, so a bank takes in nothing while it judges.

    Args:
        reward: asked.
    """

    def __init__(self, reward: Reward) -> None:
        self.reward = reward
        self._state = reward.state_dict()

    def __call__(self, rollouts: Rollouts) -> RewardSignal:
        starts = [replace(start, split="select") for start in rollouts.start]
        signal = self.reward(replace(rollouts, start=starts))
        self.reward.load_state_dict(self._state)
        return signal

    def state_dict(self) -> dict[str, NDArray[np.generic]]:
        return self.reward.state_dict()

    def load_state_dict(self, state: Mapping[str, NDArray[np.generic]]) -> None:
        self.reward.load_state_dict(state)
        self._state = self.reward.state_dict()


@dataclass(frozen=True)
class _Swapped:
    """A pair scorer asked the other way round, its answer negated; as VLAC does for VROC."""

    scorer: PairScorer

    def delta(self, before: Frames, after: Frames) -> NDArray[np.float32]:
        return -self.scorer.delta(after, before)


def subject(name: str, scorer: Any, reward: Reward) -> Subject:
    """A reward and the levels it is made of, found in it or in its scorer.

    Args:
        name: in tables.
        scorer: any kind of `scorers`, or the reward itself.
        reward: made of it.
    """
    levels = _levels_in(reward) or _levels_in(scorer)
    if levels is not None and isinstance(reward, Difference | Level | Potential):
        kept = _Remembered(levels)
        return Subject(name, replace(reward, scorer=kept), kept, by_level=True)
    return Subject(name, reward, levels, levels is not None and _pays_levels(reward))


def _pays_levels(thing: Any) -> bool:
    """Whether it pays by moments, and not by episodes."""
    while thing is not None:
        if isinstance(thing, SelfReferential):
            return thing.config.form == "potential"
        if isinstance(thing, Difference | Level | Potential):
            return True
        thing = getattr(thing, "reward", None)
    return False


def _levels_in(thing: Any) -> TrajectoryScorer | None:
    """What has levels: this, or what it is made of."""
    for _ in range(8):
        if isinstance(thing, SelfReferential) and thing.config.as_released:
            return None  # its release ranks whole episodes of one batch
        if hasattr(thing, "progress"):
            return thing  # type: ignore[no-any-return]
        if hasattr(thing, "delta"):
            pairs: Any = thing
            return PairProgress(pairs)
        inside = getattr(thing, "scorer", None) or getattr(thing, "reward", None)
        if inside is None:
            return None
        thing = inside
    return None


def read(subject: Subject, rollouts: Rollouts) -> Reading:
    """Ask a reward about B episodes. Numbers that are not finite make an episode unjudged."""
    signal = subject.reward(rollouts)
    judged = signal.valid & np.isfinite(signal.value).all((1, 2)) & rollouts.decision_valid.any(1)
    level, relative = None, signal.relative
    if subject.levels is not None:
        progress, only_ranks = ranking(subject.levels.progress(rollouts))
        judged &= progress.valid & np.isfinite(progress.value).all(1)
        level = np.where(judged[:, None], progress.value, 0).astype(np.float32)
        relative |= only_ranks
    value = np.where(judged[:, None, None], signal.value, 0).astype(np.float32)
    score = value.sum((1, 2), dtype=np.float64)
    if level is not None and subject.by_level:
        last = np.maximum(rollouts.decision_valid.sum(1) - 1, 0)
        score = level[np.arange(len(level)), last].astype(np.float64)
    return Reading(value, level, score, judged, relative)


def backward_levels(subject: Subject, rollouts: Rollouts) -> NDArray[np.float32] | None:
    """Levels of the reversed videos, put back in the original order; (B,D).

    Of a pair scorer they are accumulated from the pairs swapped and their answers negated, as VLAC does for
    VROC; of any other scorer they are its levels of the video played backwards, read from the end. None if
    there are no levels.
    """
    scorer = subject.levels
    if scorer is None:
        return None
    if isinstance(scorer, _Remembered):
        scorer = scorer.scorer
    if isinstance(scorer, PairProgress):
        return ranking(replace(scorer, scorer=_Swapped(scorer.scorer)).progress(rollouts))[0].value
    level = ranking(scorer.progress(played_backwards(rollouts)))[0].value
    out = np.zeros_like(level)
    for row, count in enumerate(rollouts.decision_valid.sum(1)):
        out[row, :count] = level[row, :count][::-1]
    return out


def learns(reward: Reward) -> bool:
    """Whether it keeps what it saw: then it may only be judged on episodes that it did not see."""
    return bool(reward.state_dict())
