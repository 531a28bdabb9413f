"""SRPO's reward exactly as its release computes it, for those who compare.

Source: siiRL af00a77, ``siirl/utils/reward_score/embodied.py``, as described in the reference, sections 1.2
and 1.5, and T13 of rewards.md. It differs from the paper (alpha 0.6 for 0.8, min-max for z-score) and has
defects that `self_referential` does not copy: DBSCAN that cannot fire in many dimensions, a reward that
depends on which other failures are in the batch, nothing at all for a task without a success in the batch.
The release multiplies by 5 afterwards; group-normalised advantages do not see it, so it is left out.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import DBSCAN
from sklearn.preprocessing import StandardScaler

from .clustering import Vectors, nearest


def released_centres(success: Vectors) -> tuple[Vectors, bool]:
    """Centres (C,E) of (N,E) successes, and whether DBSCAN found any (if not: their mean)."""
    scaler = StandardScaler().fit(success)
    scaled = np.asarray(scaler.transform(success))
    label = DBSCAN(eps=0.5, min_samples=2).fit_predict(scaled)
    if (label < 0).all():
        return success.mean(0, keepdims=True), False
    centres = [scaled[label == one].mean(0) for one in range(label.max() + 1)]
    return np.asarray(scaler.inverse_transform(np.stack(centres)), dtype=np.float64), True


def released_shape(distance: Vectors) -> Vectors:
    """Rewards of one task's failures, (N,) distances to (N,) in (0, 0.6): 0.6 * sigmoid(10 * (0.5 - x)).

    x is the distance, min-max normalised over these failures; a lone failure has 0.5 and gets 0.3.
    """
    return np.asarray(0.6 / (1 + np.exp(-10 * (0.5 - min_max(distance)))), dtype=np.float64)


def min_max(distance: Vectors) -> Vectors:
    """(N,) in [0, 1], 0 the nearest and 1 the farthest; 0.5 for all if they span less than 1e-6."""
    span = np.ptp(distance)
    return np.full_like(distance, 0.5) if span < 1e-6 else (distance - distance.min()) / span


def released_reward(embedding: Vectors, success: NDArray[np.bool_]) -> Vectors:
    """Reward of the N episodes of one task in one batch.

    Args:
        embedding: (N,E), the plain mean over time of the frames' vectors.
        success: (N,) bool.

    Returns:
        (N,): 1 for a success, `released_shape` for a failure, 0 for failures if nothing succeeded, 0 for an
        all-zero embedding even if it succeeded.
    """
    blank = ~embedding.any(1)
    good, bad = success & ~blank, ~success & ~blank
    reward = np.where(good, 1.0, 0.0)
    if good.any() and bad.any():
        reward[bad] = released_shape(nearest(embedding[bad], released_centres(embedding[good])[0]))
    return reward
