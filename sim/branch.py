"""Return to a state that was reached before, and try again from there.

An episode of a dozen decisions often hangs on one of them. Branches go back to that one: the recorded actions
are played again up to it (an episode is a function of its start and its actions, so the state is the same to
the bit, in any process, after any crash), and from there the policy draws anew. Siblings that share a past
and differ in what followed say what the decision was worth, as the trees of LATR and CURE do for text.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from ..datasets.episode import Observation, Rollouts
from ..datasets.protocols import ActionSample, Actor, VectorEnv
from .collect import CollectStats, collect


@dataclass(frozen=True)
class Point:
    """A decision to return to: `decision` of episode `row`."""

    row: int
    decision: int


def choose_points(rollouts: Rollouts, doubt: NDArray[np.floating], num: int) -> list[Point]:
    """The `num` decisions in most doubt, at most one of each episode; fewer if there are fewer episodes.

    Args:
        rollouts: B episodes of at most D decisions.
        doubt: (B,D), higher is more; where no decision was taken it does not matter, nor where it is NaN.
        num: how many.
    """
    asked = rollouts.decision_valid & np.isfinite(doubt)
    ranked = np.where(asked, doubt, -np.inf)
    decision = ranked.argmax(1)
    best = ranked[np.arange(len(rollouts)), decision]
    order = np.argsort(-best, kind="stable")[:num]
    return [Point(int(row), int(decision[row])) for row in order if np.isfinite(best[row])]


def branch(
    env: VectorEnv,
    actor: Actor,
    rollouts: Rollouts,
    points: Sequence[Point],
    *,
    first_group: int,
    run_key: tuple[str | int, ...],
    policy_version: int,
) -> tuple[Rollouts, CollectStats]:
    """Play on from recorded decisions.

    Args:
        env: the environments.
        actor: the policy that draws anew.
        rollouts: in which the points are.
        points: one episode for each; the same point given k times brings k siblings.
        first_group: number of the first branch's group; siblings share one, and get consecutive ones.
        run_key: begins the key of every random draw, as for `collect`; another than the episodes' own.
        policy_version: noted in the result.

    Returns:
        the episodes from their point on (what came before belongs to the episode they branch off), and where
        the time went.

    Raises:
        ValueError: if a point was never reached.
        RuntimeError: if an episode ended before it came back to its point: the environment is not a function
            of start and actions.
    """
    for point in points:
        if not rollouts.decision_valid[point.row, point.decision]:
            raise ValueError(f"{point}: episode {point.row} took no such decision")
    number = {point: first_group + index for index, point in enumerate(dict.fromkeys(points))}
    repeating = _Returning(actor, rollouts, points, env.chunk_size)
    played, stats = collect(
        env,
        repeating,
        [rollouts.start[point.row] for point in points],
        [number[point] for point in points],
        run_key=run_key,
        greedy=False,
        policy_version=policy_version,
    )
    for row, point in enumerate(points):
        if not played.decision_valid[row, point.decision]:
            raise RuntimeError(
                f"{rollouts.start[point.row]}: played again, the episode ended before decision "
                f"{point.decision}, which it had reached: the environment is not deterministic"
            )
    return _from(played, np.array([point.decision for point in points])), stats


class _Returning:
    """Does what was recorded up to a point, then what the policy says."""

    def __init__(self, actor: Actor, rollouts: Rollouts, points: Sequence[Point], chunk_size: int) -> None:
        self._actor, self._rollouts, self._points, self._chunk = actor, rollouts, points, chunk_size

    def act(
        self, observation: Observation, noise_keys: Sequence[tuple[str | int, ...]] | None
    ) -> ActionSample:
        assert noise_keys is not None, "branches are sampled"
        sample = self._actor.act(observation, noise_keys)
        action, log_prob = sample.action.copy(), sample.log_prob.copy()
        latent: Mapping[str, NDArray[np.generic]] = {k: np.array(v) for k, v in sample.latent.items()}
        for row, key in enumerate(noise_keys):
            point, decision = self._points[int(key[-2])], int(key[-1])
            if decision < point.decision:
                there = (point.row, decision)
                action[row], log_prob[row] = self._rollouts.action[there], self._rollouts.log_prob[there]
                for name, value in latent.items():
                    value[row] = self._rollouts.latent[name][there]
        return ActionSample(action, log_prob, latent)


_Array = TypeVar("_Array", bound=np.generic)


def _from(rollouts: Rollouts, first: NDArray[np.int64]) -> Rollouts:
    """Each episode from a decision of its own on."""
    left = int((rollouts.decision_valid.sum(1) - first).max())

    def shift(array: NDArray[_Array]) -> NDArray[_Array]:
        out = np.zeros((len(array), left, *array.shape[2:]), array.dtype)
        for row, begin in enumerate(first):
            rest = array[row, begin : begin + left]
            out[row, : len(rest)] = rest
        return out

    return dataclasses.replace(
        rollouts,
        images={name: shift(frames) for name, frames in rollouts.images.items()},
        state=shift(rollouts.state),
        privileged=shift(rollouts.privileged),
        action=shift(rollouts.action),
        valid=shift(rollouts.valid),
        reward=shift(rollouts.reward),
        latent={name: shift(value) for name, value in rollouts.latent.items()},
        log_prob=shift(rollouts.log_prob),
    )
