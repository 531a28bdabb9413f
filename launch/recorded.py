"""What a node recorded, as rollouts to learn from: `regrip train --data SET`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..datasets.episode import Rollouts, concatenate
from ..datasets.formats import open_source
from ..datasets.ledger import DataError
from ..datasets.recording import Recording
from ..datasets.starts import StartState
from ..vla.pi0 import Pi0Policy
from .node_policy import LATENT

_PREFIX_ROWS = 128


def load_recorded(paths: Sequence[Path], policy: Pi0Policy) -> Rollouts:
    """Episodes of a node, with what the VLM makes of their pictures worked out again.

    Left out are episodes that nobody called a success or a failure, and those that a person drove in part:
    what they did, the policy could not have done.

    Args:
        paths: sets (or views of sets) that `real_robot.recorder` wrote while the policy explored.
        policy: the one that will learn.

    Raises:
        DataError: there is no episode to learn from, or a set was recorded without exploration, or means
            something else by its actions.
    """
    parts: list[Rollouts] = []
    left_out: dict[str, int] = {}
    for path in paths:
        source = open_source(Path(path))
        if source.contents.spec is None:
            raise DataError("the set has no RobotSpec", "give one that a regrip node recorded", file=path)
        source.contents.spec.require_match(policy.spec, f"data set {path}", "the policy")
        if not all(f"decision.latent.{name}" in source.contents.streams for name in LATENT):
            raise DataError(
                "the set was recorded while the policy did not explore",
                "record with `regrip node --explore`; a greedy policy cannot see what it could do better",
                file=path,
            )
        for index in range(len(source)):
            recording = source[index]
            why = _unfit(recording)
            if why:
                left_out[why] = left_out.get(why, 0) + 1
                continue
            parts.append(_rollout(recording, policy, len(parts), source.contents.robot))
        source.close()
    said = ", ".join(f"{count} {why}" for why, count in left_out.items())
    if not parts:
        raise DataError(f"no episode to learn from ({said or 'the set is empty'})", "record more")
    if said:
        print(f"{len(parts)} episodes to learn from; left out: {said}", flush=True)
    return concatenate(parts)


def _unfit(recording: Recording) -> str:
    if recording.success is None:
        return "without an outcome"
    if "decision.chunk" not in recording.streams or "action" not in recording.streams:
        return "without a decision"
    driven = recording.streams.get("command.intervention")
    if driven is not None and np.asarray(driven.rows).any():
        return "that a person drove in part"
    return ""


def _rollout(recording: Recording, policy: Pi0Policy, index: int, robot: str) -> Rollouts:
    """One episode as a batch of one."""
    streams = recording.streams
    decided = np.asarray(streams["decision.step"].rows)
    done = np.asarray(streams["action.step"].rows)
    actions = np.asarray(streams["action"].rows, np.float32)
    moments = streams["observation.state"].time
    depth = policy.execute
    # A decision of which nothing was executed (an answer that came too late) taught nobody anything.
    used = [d for d in range(len(decided)) if _executed(decided, done, d, depth).any()]
    count = len(used)
    action = np.zeros((1, count, depth, policy.spec.action_dim), np.float32)
    valid = np.zeros((1, count, depth), bool)
    for row, d in enumerate(used):
        mine = _executed(decided, done, d, depth)
        rows = done[mine] - decided[d]
        action[0, row, rows], valid[0, row, rows] = actions[mine], True
    reward = np.zeros(valid.shape, np.float32)
    if recording.success:
        reward[0, count - 1, int(np.flatnonzero(valid[0, count - 1])[-1])] = 1.0
    images = {
        name: _frames_at(streams[f"observation.images.{name}"], moments[used])[None]
        for name in policy.cameras
    }
    task = recording.task
    prefix = _prefix(policy, images, task)
    latent: dict[str, NDArray[Any]] = {
        name: np.asarray(streams[f"decision.latent.{name}"].rows)[used][None] for name in LATENT
    } | {name: value[None] for name, value in prefix.items()}
    return Rollouts(
        start=[StartState(f"{robot}/{task}", "train", index, 0)],
        group=np.array([index]),
        instruction=[task],
        images=images,
        state=np.asarray(streams["observation.state"].rows, np.float32)[used][None],
        privileged=np.zeros((1, count, 1), np.float32),
        action=action,
        valid=valid,
        reward=reward,
        success=np.array([bool(recording.success)]),
        truncated=np.array([not recording.success]),
        invalid=np.zeros(1, bool),
        latent=latent,
        log_prob=np.zeros(valid.shape, np.float32),
        policy_version=0,
    )


def _executed(decided: NDArray[Any], done: NDArray[Any], d: int, depth: int) -> NDArray[np.bool_]:
    """Which executed actions were of decision `d`: from its step to the next one's."""
    after = decided[d + 1] if d + 1 < len(decided) else np.iinfo(np.int64).max
    return np.asarray((done >= decided[d]) & (done < min(after, decided[d] + depth)))


def _frames_at(track: Any, moments: NDArray[np.float64]) -> NDArray[np.uint8]:
    """(D,H,W,3) the frames nearest to the moments that decisions were made for."""
    times = track.time
    return np.stack([track.rows[int(np.argmin(np.abs(times - moment)))] for moment in moments])


@torch.no_grad()
def _prefix(policy: Pi0Policy, images: dict[str, NDArray[np.uint8]], task: str) -> dict[str, NDArray[Any]]:
    pixels = torch.from_numpy(np.stack([images[name][0] for name in policy.cameras], axis=1))
    parts = [policy.prefix(rows, [task] * len(rows)).pack() for rows in pixels.split(_PREFIX_ROWS)]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
