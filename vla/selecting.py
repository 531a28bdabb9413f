"""Think before acting: imagine several chunks, execute the one that a scorer likes best.

Model-predictive choice with the policy as proposal. The scorer is a callable, so that it may be a world
model's distance from the goal (NORA-1.5's cost with its sign turned), a reflector's success, or a critic.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from ..datasets.episode import Observation
from ..datasets.protocols import ActionSample, Actor

Score = Callable[[Observation, NDArray[np.float32]], NDArray[np.floating]]
"""(observation of B rows, chunks (B,N,H,A) in physical units) -> (B,N), higher is better."""


def imagine(
    policy: Actor,
    observation: Observation,
    keys: Sequence[tuple[str | int, ...]],
    count: int,
    keep_greedy: bool = False,
) -> NDArray[np.float32]:
    """`count` chunks for each of B observations: float32 (B,count,H,A), physical units.

    Args:
        policy: proposes them.
        observation: B rows.
        keys: one for each row; candidate n of a row draws from ``(*key, "candidate", n)``, so a larger
            `count` adds chunks and changes none.
        count: at least 1.
        keep_greedy: the first is the greedy chunk; else all are sampled.
    """
    sampled = range(1 if keep_greedy else 0, count)
    parts = [policy.act(observation, None).action[:, None]] if keep_greedy else []
    if sampled:
        rows = np.repeat(np.arange(len(observation)), len(sampled))
        each = [(*key, "candidate", n) for key in keys for n in sampled]
        action = policy.act(observation.take(rows), each).action
        parts.append(action.reshape(len(observation), len(sampled), *action.shape[1:]))
    return np.concatenate(parts, 1)


class Selecting:
    """A policy that executes the best of several chunks it thinks of; it can stand wherever a policy acts.

    Its answers carry no log-probability: they are not drawn from a density that training could recompute.
    Their latents are ``choice`` int64 (B,), the candidate executed (0 is the greedy one, if it is among
    them; ties go to the first), and ``score`` float32 (B,N).

    Args:
        policy: proposes.
        score: see `Score`.
        candidates: N, how many chunks a decision chooses from.
        keep_greedy: the greedy chunk is one of them, so that a scorer without an opinion changes nothing.

    Raises:
        ValueError: if there is nothing to choose from.
    """

    def __init__(self, policy: Actor, score: Score, candidates: int, keep_greedy: bool = True) -> None:
        if candidates < 1:
            raise ValueError(f"candidates {candidates}: give 1 or more chunks to choose from")
        self.policy, self.score = policy, score
        self.candidates, self.keep_greedy = candidates, keep_greedy

    def act(
        self, observation: Observation, noise_keys: Sequence[tuple[str | int, ...]] | None
    ) -> ActionSample:
        """Answer a batch; see `datasets.protocols.Actor`.

        Greedy calls (`noise_keys` None) draw their candidates from fixed keys, the same for every row.

        Raises:
            ValueError: if the scores have another shape, or are not finite.
        """
        count = len(observation)
        keys = [("selecting",)] * count if noise_keys is None else noise_keys
        chunks = imagine(self.policy, observation, keys, self.candidates, self.keep_greedy)
        score = np.asarray(self.score(observation, chunks))
        if score.shape != chunks.shape[:2]:
            raise ValueError(
                f"the scorer answered with {score.shape}, expected {chunks.shape[:2]}: one number for each "
                "candidate of each row"
            )
        if not np.isfinite(score).all():
            row, candidate = (int(i) for i in np.argwhere(~np.isfinite(score))[0])
            raise ValueError(
                f"the score of candidate {candidate} of row {row} is {score[row, candidate]}, expected a "
                "finite number: a world model has diverged there, or was given what it never saw"
            )
        choice = score.argmax(1)
        action = chunks[np.arange(count), choice]
        return ActionSample(
            action,
            np.zeros(action.shape[:2], np.float32),
            {"choice": choice.astype(np.int64), "score": score.astype(np.float32)},
        )
