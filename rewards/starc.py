"""How far apart two rewards are once what cannot change a policy is taken out: STARC distances.

Skalse et al., STARC (arXiv 2309.15257): a canonical form that is blind to potential shaping, a norm, and the
distance of what was scaled to size 1. Here the value-adjusted levelling form,

    c(R)(s, a) = E[R(s, a, s') + gamma V(s') - V(s)],   V the value of R under a fixed policy,

and the L2 norm, so distances are in [0, 2]: 0 the same up to scale and shaping, sqrt 2 unrelated, 2 opposite.
The tabular form was worked through by hand on a world of two states (see the tests); the formula is as the
reference recalls it, not checked against the authors' code.

The form for sampled episodes, `sampled_canonical`, is our derivation. V is a linear function of features of
the state, fitted by least-squares temporal differences on the episodes themselves: w solves
sum f (R + (gamma f' - f) w) = 0. With one feature for each state this *is* the value under the policy that
played, and the tabular form follows. If R gains gamma phi' - phi with phi = f u, then w loses u, and every
term R + gamma f'w - f w is what it was: potentials that the features can express have distance exactly 0.
What is left is a sample of c, not its mean over s': in a world with noise the distance between two different
rewards is pulled towards what the noise makes of them.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..datasets.episode import Rollouts
from .binary import BinarySuccess
from .estimates import Estimate

Vectors = NDArray[np.float64]


def canonical(
    reward: NDArray[np.floating],
    transition: NDArray[np.floating],
    policy: NDArray[np.floating],
    gamma: float,
) -> Vectors:
    """Value-adjusted levelling of a tabular reward.

    Args:
        reward: (S,A,S) for s, a, s'.
        transition: (S,A,S), rows sum to 1.
        policy: (S,A), rows sum to 1; the one that V is the value of.
        gamma: in [0, 1).

    Returns:
        (S,A).
    """
    expected = np.einsum("sat,sat->sa", transition, reward)
    moves = np.einsum("sa,sat->st", policy, transition)
    value = np.linalg.solve(np.eye(len(moves)) - gamma * moves, (policy * expected).sum(1))
    return np.asarray(expected - value[:, None] + gamma * transition @ value)


def distance(first: NDArray[np.floating], second: NDArray[np.floating]) -> float:
    """L2 distance, in [0, 2], of two canonical rewards scaled to size 1; zero stays zero."""
    return float(np.linalg.norm(_unit(first) - _unit(second)))


def sampled_canonical(reward: Vectors, features: Vectors, following: Vectors, gamma: float) -> Vectors:
    """What is left of a reward's N samples when the value they imply is levelled out.

    Args:
        reward: (N,) of each transition.
        features: (N,F) of the state it began in.
        following: (N,F) of the state it led to; zero where the episode ended for good.
        gamma: discount of one transition.

    Returns:
        (N,); exactly zero if nothing but rounding is left.
    """
    weight = np.linalg.lstsq(features.T @ (features - gamma * following), features.T @ reward, rcond=1e-10)[0]
    left = reward + (gamma * following - features) @ weight
    tiny = 1e-6 * np.linalg.norm(reward)
    return np.zeros_like(left) if np.linalg.norm(left) <= tiny else np.asarray(left, dtype=np.float64)


def sampled_distance(
    value: NDArray[np.float32],
    level: NDArray[np.float32] | None,
    judged: NDArray[np.bool_],
    rollouts: Rollouts,
    gamma: float,
) -> Estimate:
    """STARC distance of what a reward paid to the sparse reward, from episodes.

    Features of a state: its task, the simulator's state, and the reward's own level where it has one, so
    that a potential made of that level costs nothing. With fewer than five transitions for each feature the
    simulator's state is left out.

    An episode that the step limit cut goes on from where it was, as `Potential` has it. But where a reward
    pays cut episodes at their last decision only, that limit is their end: else it would seem to pay on.

    Args:
        value: (B,D,H) as paid, the verdict not hidden.
        level: (B,D), or None.
        judged: bool (B,), episodes that count.
        rollouts: the episodes.
        gamma: discount of one decision.
    """
    mask = rollouts.decision_valid & judged[:, None]
    names = np.array([start.task for start in rollouts.start])
    tasks = np.unique(names)
    state = rollouts.privileged.astype(np.float64)
    spread = state[mask].std(0) if mask.any() else np.zeros(state.shape[-1])
    state = ((state - (state[mask].mean(0) if mask.any() else 0)) / np.where(spread > 1e-9, spread, 1))[
        ..., spread > 1e-9
    ]
    parts = [np.repeat((names[:, None] == tasks)[:, None].astype(float), mask.shape[1], 1)]
    if level is not None:
        parts.append(level[..., None].astype(np.float64))
    lean = np.concatenate(parts, -1)
    features = np.concatenate([lean, state], -1)
    if mask.sum() < 5 * features.shape[-1]:
        features = lean
    if mask.sum() < 5 * features.shape[-1]:
        return Estimate(None, why=f"only {int(mask.sum())} transitions")
    following = np.concatenate([features[:, 1:], np.zeros_like(features[:, :1])], 1)
    last = np.maximum(rollouts.decision_valid.sum(1) - 1, 0)
    cut = np.flatnonzero(rollouts.truncated & ~rollouts.success)
    early = value.sum(-1)[cut]
    early[np.arange(len(cut)), last[cut]] = 0
    if not early.any():
        cut = cut[:0]
    following[cut, last[cut]] = features[cut, last[cut]]  # not seen again: it stays, as `Potential` has it
    ended = np.setdiff1d(np.arange(len(mask)), cut)
    following[ended, last[ended]] = 0
    sparse = BinarySuccess()(rollouts).value.sum(-1, dtype=np.float64)[mask]
    left = [
        sampled_canonical(reward, features[mask], following[mask], gamma)
        for reward in (value.sum(-1, dtype=np.float64)[mask], sparse)
    ]
    if not left[1].any():
        return Estimate(None, why="no success, so the sparse reward is zero")
    return Estimate(distance(*left))


def _unit(vector: NDArray[np.floating]) -> Vectors:
    size = float(np.linalg.norm(vector))
    return np.asarray(vector / size if size else vector, dtype=np.float64)
