"""Copies of episodes that a reward should like less: backwards, held still, with the wrong words, to and fro.

Each takes `Rollouts` and returns `Rollouts`; nothing is rendered. What a copy changes is only what was seen
and felt, so `success`, `start` and the like still say what happened in the original: hide them
(`verdict_hidden`) before a reward is asked that may look.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from ..datasets.episode import Rollouts


def played_backwards(rollouts: Rollouts) -> Rollouts:
    """The same episodes, all that is seen and felt in reverse order, the actions negated."""
    order = np.arange(rollouts.valid.shape[1])[None].repeat(len(rollouts), 0)
    for row, count in enumerate(rollouts.decision_valid.sum(1)):
        order[row, :count] = order[row, :count][::-1]
    return _reordered(rollouts, order, -1.0, rollouts.valid)


def frozen(rollouts: Rollouts) -> Rollouts:
    """The same episodes, the first moment held still; the actions are as they were."""
    return _reordered(rollouts, np.zeros(rollouts.valid.shape[:2], np.int64), None, rollouts.valid)


def wrong_words(rollouts: Rollouts) -> Rollouts | None:
    """The same episodes, each with the instruction of another task of the batch; None if there is no other.

    Which one is the next in alphabetical order that its own task never has, so it is the same every time.
    """
    tasks = [start.task for start in rollouts.start]
    own: dict[str, set[str]] = {}
    for task, said in zip(tasks, rollouts.instruction, strict=True):
        own.setdefault(task, set()).add(said)
    every = sorted(set(rollouts.instruction))
    told = []
    for task, said in zip(tasks, rollouts.instruction, strict=True):
        at = every.index(said)
        others = [other for other in every[at + 1 :] + every[:at] if other not in own[task]]
        if not others:
            return None
        told.append(others[0])
    return replace(rollouts, instruction=told)


def forth_and_back(rollouts: Rollouts) -> Rollouts:
    """The same episodes played to their end, back to their beginning, and to their end again: D to 3 D - 2.

    It ends where the original ends, so a reward that pays for the state of the world pays no more for it.
    """
    count = rollouts.decision_valid.sum(1)
    depth = max(1, 3 * rollouts.valid.shape[1] - 2)
    order = np.zeros((len(rollouts), depth), np.int64)
    valid = np.zeros((len(rollouts), depth, rollouts.valid.shape[2]), bool)
    for row, length in enumerate(count):
        if not length:
            continue
        forth = np.arange(length)
        path = np.concatenate([forth, forth[-2::-1], forth[1:]])
        order[row, : len(path)] = path
        valid[row, : len(path) - 1] = True
        valid[row, len(path) - 1] = rollouts.valid[row, length - 1]
    return _reordered(rollouts, order, None, valid)


def verdict_hidden(rollouts: Rollouts) -> Rollouts:
    """The same episodes, all said to have failed at the step limit: what a reward says without peeking.

    Their length still tells, where an episode ends when it succeeds.
    """
    return replace(
        rollouts,
        success=np.zeros(len(rollouts), bool),
        truncated=np.ones(len(rollouts), bool),
        reward=np.zeros_like(rollouts.reward),
    )


def _reordered(
    rollouts: Rollouts, order: NDArray[np.int64], action_sign: float | None, valid: NDArray[np.bool_]
) -> Rollouts:
    """Moments in another order (B,D'); so are actions, times `action_sign`, or kept where that is None."""
    rows = np.arange(len(rollouts))[:, None]
    same = order.shape == rollouts.valid.shape[:2]
    if action_sign is None and same:
        action = rollouts.action
    else:
        action = np.float32(1.0 if action_sign is None else action_sign) * rollouts.action[rows, order]
    blank = np.zeros(valid.shape, np.float32)
    return replace(
        rollouts,
        images={name: frames[rows, order] for name, frames in rollouts.images.items()},
        state=rollouts.state[rows, order],
        privileged=rollouts.privileged[rows, order],
        action=action,
        valid=valid,
        reward=rollouts.reward if same else blank,
        latent=rollouts.latent if same else {},
        log_prob=rollouts.log_prob if same else blank,
    )
