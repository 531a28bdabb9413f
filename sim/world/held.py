"""Which episodes a world model has never seen, by what is in them: wherever they lie now, under what name."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...datasets.starts import counter_generator
from .clips import Clips
from .config import WorldConfig
from .fit import split


def names_of(clips: Clips) -> list[str]:
    """A hash of each episode's instruction, actions and proprioception; pictures may be encoded anew."""
    found = []
    for episode in range(len(clips)):
        low, high = clips.first[episode], clips.first[episode + 1]
        digest = hashlib.blake2b(clips.task[episode].encode(), digest_size=16)
        digest.update(np.ascontiguousarray(clips.action[low:high]).tobytes())
        digest.update(np.ascontiguousarray(clips.state[clips.episode == episode]).tobytes())
        found.append(digest.hexdigest())
    return found


def card_of(clips: Clips, config: WorldConfig) -> dict[str, Any]:
    """What a model's card says of the episodes it was fitted on: numbers held out, and names of all."""
    train, held = split(clips, config)
    names = names_of(clips)
    return {
        "episodes": len(clips),
        "frames": len(clips.state),
        "held_out": held.tolist(),
        "trained_on": [names[int(episode)] for episode in train],
        "held_out_names": [names[int(episode)] for episode in held],
    }


def unseen(clips: Clips, card: Mapping[str, Any]) -> NDArray[np.int64]:
    """The episodes that the model was not trained on; all, if its card does not say on which it was."""
    trained = set(card.get("trained_on", ()))
    return np.array([i for i, name in enumerate(names_of(clips)) if name not in trained], np.int64)


def take(clips: Clips, episodes: NDArray[np.int64]) -> Clips:
    """Only these episodes, in this order."""
    rows = [np.flatnonzero(clips.episode == episode) for episode in episodes]
    frames = np.concatenate(rows)
    steps = [np.arange(clips.first[episode], clips.first[episode + 1]) for episode in episodes]
    new = np.full(len(clips.state) + 1, -1, np.int64)  # its last entry is for -1
    new[frames] = np.arange(len(frames))
    return dataclasses.replace(
        clips,
        pictures=clips.pictures[frames],
        state=clips.state[frames],
        episode=np.repeat(np.arange(len(episodes)), [len(part) for part in rows]),
        step=clips.step[frames],
        first=np.concatenate([[0], np.cumsum([len(part) for part in steps])]).astype(np.int64),
        action=clips.action[np.concatenate(steps)],
        frame_of=new[clips.frame_of[np.concatenate(steps)]],
        success=clips.success[episodes],
        task=[clips.task[int(e)] for e in episodes],
        start=[clips.start[int(e)] for e in episodes],
        policy=[clips.policy[int(e)] for e in episodes],
    )


def whole(clips: Clips, chunk: int) -> Clips:
    """Every episode ends with a whole chunk, whatever ended it.

    Success cuts a recorded chunk short, a time limit seldom does, and a policy in imagination never: a model
    that reads how much of a chunk was executed reads the verdict. What is missing is a random walk from the
    last action on, by steps that the episode itself took, so that nothing about it stands out.
    """
    missing = -clips.num_steps % chunk
    actions, frames = [], []
    for episode, count in enumerate(missing):
        low, high = clips.first[episode], clips.first[episode + 1]
        taken = clips.action[low:high]
        steps = np.diff(taken[-4 * chunk :], axis=0) if len(taken) > 1 else np.zeros_like(taken)
        draw = counter_generator("world whole", int(episode), len(taken))
        walk = taken[-1] + np.cumsum(steps[draw.integers(len(steps), size=count)], 0, dtype=np.float32)
        limited = np.clip(walk, clips.spec.action_low, clips.spec.action_high)
        actions.append(np.concatenate([taken, limited.astype(np.float32)]))
        frames.append(np.concatenate([clips.frame_of[low:high], np.full(count, -1)]))
    return dataclasses.replace(
        clips,
        first=np.concatenate([[0], np.cumsum(clips.num_steps + missing)]).astype(np.int64),
        action=np.concatenate(actions),
        frame_of=np.concatenate(frames),
    )
