"""Rewards of the toy world whose worth is known, and what is asked about them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import reward_toy as toy
from numpy.typing import NDArray
from reward_members import Oracle

from regrip.datasets.episode import Rollouts
from regrip.datasets.protocols import Progress, Relative
from regrip.datasets.starts import counter_generator
from regrip.rewards.readings import Subject, subject
from regrip.rewards.scorers import Difference, FrameProgress, Frames, Level, TrajectoryScorer


@dataclass(frozen=True)
class Told:
    """Levels from a function of the rollouts, relative or not."""

    levels: Callable[[Rollouts], NDArray[np.floating]]
    relative: bool = False
    bounds: tuple[float, float] = (0.0, 1.0)

    def progress(self, rollouts: Rollouts) -> Progress | Relative[Progress]:
        value = np.where(rollouts.decision_valid, self.levels(rollouts), 0).astype(np.float32)
        found = Progress(value, np.ones(len(rollouts), bool))
        return Relative(found) if self.relative else found


def truth(rollouts: Rollouts) -> NDArray[np.float64]:
    return toy.progress_of(rollouts.privileged)


def noise(rollouts: Rollouts) -> NDArray[np.float64]:
    """Drawn for what is seen, so the same picture always gets the same level."""
    out = np.zeros(rollouts.decision_valid.shape)
    for row, decision in np.ndindex(out.shape):
        key = rollouts.privileged[row, decision].tobytes().hex()
        out[row, decision] = counter_generator("noise", key).random()
    return out


SCORERS: dict[str, TrajectoryScorer] = {
    "oracle": Told(truth),
    "inverted": Told(lambda rollouts: 1 - truth(rollouts)),
    "constant": Told(lambda rollouts: np.full(rollouts.decision_valid.shape, 0.5)),
    "noise": Told(noise),
}


def on_trial(name: str, pay: type[Difference] | type[Level] = Difference) -> Subject:
    return subject(name, SCORERS[name], pay(SCORERS[name]))


def reader() -> Subject:
    """Sees the pictures and reads the words."""
    return subject("reader", Oracle(), Difference(FrameProgress(Oracle())))


__all__ = ["SCORERS", "Frames", "Told", "noise", "on_trial", "reader", "truth"]
