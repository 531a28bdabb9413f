"""What a node recorded, to learn from: `regrip train --data SET`.

The policy's own part of an episode becomes a rollout for MPO, a person's part of a success becomes frames
to imitate. MPO's critic learns what an action is worth *if the policy goes on from there*. So of an episode
that a person drove in part only what came after they last handed back is a rollout, as an episode that began
there: it is the policy's alone to its end, and its outcome too. What the policy did before is left out: how
that would have ended nobody knows, and the outcome is the person's merit. What the person did is never a
decision: the policy has no latent with which it would have done it.
"""

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
from ..vla.policy import DecisionBatch
from .base import join
from .node_policy import LATENT

_PREFIX_ROWS = 128


def load_recorded(paths: Sequence[Path], policy: Pi0Policy) -> Rollouts:
    """Episodes of a node, with what the VLM makes of their pictures worked out again.

    Left out are episodes that nobody called a success or a failure, and those that a person drove to the end.

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
            why = _unfit(recording, policy.execute)
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


def _unfit(recording: Recording, depth: int) -> str:
    if recording.success is None:
        return "without an outcome"
    if "decision.chunk" not in recording.streams or "action" not in recording.streams:
        return (
            "without a decision" if np.isneginf(_last_driven(recording)) else "that a person drove to the end"
        )
    alone = np.asarray(recording.streams["action"].time) > _last_driven(recording)
    if not alone.any():
        return "that a person drove to the end"
    if not (_owners(recording, depth)[alone] >= 0).any():
        return "whose actions were merged from several decisions"
    return ""


def _last_driven(recording: Recording) -> float:
    """When somebody else than the policy last drove; minus infinity if nobody did."""
    driven = recording.streams.get("command.intervention")
    if driven is None or not np.asarray(driven.rows).any():
        return -np.inf
    return float(np.asarray(driven.time)[np.asarray(driven.rows, bool)].max())


def _rollout(recording: Recording, policy: Pi0Policy, index: int, robot: str) -> Rollouts:
    """One episode as a batch of one."""
    streams = recording.streams
    decided = np.asarray(streams["decision.step"].rows)
    done = np.asarray(streams["action.step"].rows)
    actions = np.asarray(streams["action"].rows, np.float32)
    moments = streams["observation.state"].time
    owner = _owners(recording, policy.execute)
    owner[np.asarray(streams["action"].time) <= _last_driven(recording)] = -1
    # A decision of which nothing was executed (an answer that came too late) taught nobody anything.
    used = [d for d in range(len(decided)) if (owner == d).any()]
    count, depth = len(used), policy.execute
    action = np.zeros((1, count, depth, policy.spec.action_dim), np.float32)
    valid = np.zeros((1, count, depth), bool)
    for row, d in enumerate(used):
        mine = owner == d
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


def load_shown(paths: Sequence[Path], policy: Pi0Policy) -> DecisionBatch | None:
    """What a person did in episodes that succeeded, frame by frame, to be imitated; None if there is none.

    Each frame comes with the person's actions from there on, in the policy's terms (`Tick.shown`), for as
    long as they drove without a break.
    """
    parts = []
    for path in paths:
        source = open_source(Path(path))
        for index in range(len(source)):
            recording = source[index]
            shown = recording.streams.get("person.action")
            if recording.success and shown is not None and len(shown.time):
                parts.append(_frames(recording, policy))
        source.close()
    return join(parts) if parts else None


def _frames(recording: Recording, policy: Pi0Policy) -> DecisionBatch:
    streams = recording.streams
    moments = np.asarray(streams["person.action"].time)
    done = np.asarray(streams["person.action"].rows, np.float32)
    count, depth = len(moments), policy.chunk_size
    action = np.zeros((count, depth, policy.spec.action_dim), np.float32)
    valid = np.zeros((count, depth), bool)
    # A frame and the next belong together if they are one control step apart.
    unbroken = np.append(np.diff(moments) < 1.5 / policy.spec.control_rate_hz, False)
    for offset in range(depth):
        rows = np.arange(count - offset)
        action[rows, offset] = done[rows + offset]
        valid[rows, offset] = valid[rows, offset - 1] & unbroken[rows + offset - 1] if offset else True
    pixels = np.stack(
        [_frames_at(streams[f"observation.images.{name}"], moments) for name in policy.cameras], axis=1
    )
    return DecisionBatch(
        pixels=torch.from_numpy(pixels),
        state=torch.from_numpy(np.asarray(streams["person.state"].rows, np.float32)),
        instruction=[recording.task] * count,
        action=torch.from_numpy(action),
        valid=torch.from_numpy(valid),
        log_prob=torch.zeros(count, depth),
        latent={},
        episode=torch.arange(count),
        decision=torch.zeros(count, dtype=torch.long),
        privileged=torch.zeros(count, 1),
    )


def _owners(recording: Recording, depth: int) -> NDArray[np.int64]:
    """(T,) the decision that each executed action was of; -1 for none of them.

    The newest that had this very action at this step among its first `depth`. Step counts alone do not tell:
    while an answer is awaited the arm goes on with the last one. What was merged or averaged is of none.
    """
    streams = recording.streams
    decided, asked = np.asarray(streams["decision.step"].rows), streams["decision.step"].time
    chunks = np.asarray(streams["decision.chunk"].rows)
    done, when = np.asarray(streams["action.step"].rows), streams["action"].time
    owner = np.full(len(done), -1)
    for k, action in enumerate(np.asarray(streams["action"].rows)):
        row = done[k] - decided
        for d in np.flatnonzero((row >= 0) & (row < depth) & (asked <= when[k] + 1e-9))[::-1]:
            if np.array_equal(chunks[d, row[d]], action):
                owner[k] = d
                break
    return owner


def _frames_at(track: Any, moments: NDArray[np.float64]) -> NDArray[np.uint8]:
    """(D,H,W,3) the frames nearest to the moments that decisions were made for."""
    times = track.time
    return np.stack([track.rows[int(np.argmin(np.abs(times - moment)))] for moment in moments])


@torch.no_grad()
def _prefix(policy: Pi0Policy, images: dict[str, NDArray[np.uint8]], task: str) -> dict[str, NDArray[Any]]:
    pixels = torch.from_numpy(np.stack([images[name][0] for name in policy.cameras], axis=1))
    parts = [policy.prefix(rows, [task] * len(rows)).pack() for rows in pixels.split(_PREFIX_ROWS)]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
