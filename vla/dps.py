"""Dynamics-predictive sampling: guess what a group from a start would give before anything is played.

A group of episodes from one start state ends with none, some or all of them successful; only "some" teaches.
DPS takes the three for the hidden states of a Markov chain that moves as the policy learns, with a Dirichlet
posterior over its transitions, and picks the starts that will most likely be at "some". The update is the one
of the authors' released code (``recipe/dps/task_sampler.py``), where the forgetting factor is 0.5 to 0.7; the
paper names 0.9 to 0.99. There each prompt has its own chain, which also moves while it is not played. Here a
start is seen a few times at most, so the starts of a task share their transitions from visit to visit.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

NONE, SOME, ALL = 0, 1, 2
UNIFORM = np.full(3, 1 / 3)
PRIOR = np.ones((3, 3))


def state_of(successes: float, episodes: float) -> int:
    """What a group ended in: `NONE`, `SOME` or `ALL`."""
    return NONE if successes <= 0 else ALL if successes >= episodes else SOME


def predict(counts: NDArray[np.float64], belief: NDArray[np.float64]) -> NDArray[np.float64]:
    """The belief (...,3) at the next visit.

    Args:
        counts: (3,3) Dirichlet counts of transitions, [next, previous].
        belief: (...,3) probabilities.
    """
    transition = counts / counts.sum(0)
    return np.asarray(belief @ transition.T)


def observe(
    counts: NDArray[np.float64],
    belief: NDArray[np.float64],
    states: Sequence[int],
    forget: float,
) -> NDArray[np.float64]:
    """The counts after n groups.

    Args:
        counts: (3,3) as in `predict`.
        belief: (n,3) after the visits before: certain of what was seen then, or `UNIFORM`.
        states: what they ended in.
        forget: how much of the counts stays.
    """
    transition = counts / counts.sum(0)
    # Where a group's start was before is not known for certain either: each state's share in what was seen.
    came = np.eye(3)[list(states)][:, :, None] * belief[:, None, :] * transition
    came /= came.sum((1, 2), keepdims=True)
    return np.asarray(forget * counts + (1 - forget) * PRIOR + came.sum(0))
