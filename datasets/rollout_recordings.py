"""Rollouts as recordings: what a policy played, in a form that the store and every format can take."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np

from .episode import Rollouts
from .episode_io import contents_of
from .frames import ArrayFrames
from .recording import Contents, Recording, StreamSpec, Track
from .spec import RobotSpec

DECISION = "observation.environment_state"


def contents_of_rollouts(spec: RobotSpec, privileged: int) -> Contents:
    """What a set of rollouts of this robot holds.

    Pictures, state and the simulator's own state (`privileged` numbers) have a row for each decision, actions
    and reward one for each control step.
    """
    of = contents_of(spec)
    own = StreamSpec(
        DECISION,
        "vector",
        "float32",
        (privileged,),
        about={"what": "the simulator's state; never for a policy"},
    )
    slow = {
        key: dataclasses.replace(one, rate_hz=None)
        for key, one in of.streams.items()
        if key.startswith("observation.")
    }
    return dataclasses.replace(of, streams={**of.streams, **slow, DECISION: own})


def recordings_of(rollouts: Rollouts, spec: RobotSpec, policy: str) -> Iterator[Recording]:
    """One recording for each episode that was valid.

    Args:
        rollouts: B episodes.
        spec: of the robot; its control rate gives the times.
        policy: who played, in words.
    """
    for row in np.flatnonzero(~rollouts.invalid).tolist():
        valid = rollouts.valid[row]  # (D,H)
        decisions = np.flatnonzero(valid.any(-1))
        first = np.concatenate([[0], np.cumsum(valid.sum(-1))])[decisions]
        step = np.arange(int(valid.sum())) / spec.control_rate_hz
        seen = step[first]
        streams = {
            f"observation.images.{name}": Track(ArrayFrames(frames[row, decisions]), seen)
            for name, frames in rollouts.images.items()
        }
        streams |= {
            "observation.state": Track(rollouts.state[row, decisions], seen),
            DECISION: Track(rollouts.privileged[row, decisions], seen),
            "action": Track(rollouts.action[row][valid], step),
            "reward": Track(rollouts.reward[row][valid], step),
        }
        yield Recording(
            streams,
            task=rollouts.instruction[row],
            success=bool(rollouts.success[row]),
            terminated=bool(rollouts.success[row]),
            truncated=bool(rollouts.truncated[row]),
            about={
                "start": dataclasses.asdict(rollouts.start[row]),
                "policy": policy,
                "policy_version": rollouts.policy_version,
            },
        )
