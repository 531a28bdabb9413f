"""What the checks keep of each episode: its length, a digest of its numbers, and when it moved."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from ..recording import Contents, Recording
from .detect_grippers import is_gripper
from .evidence import Array, columns_of, numbers

STILL = 0.001  # share of an entry's range that counts as not having moved, from one row to the next
MOVED = 0.01  # share that a camera must have seen
_JERKY = re.compile(r"vel|acc|force|torque|effort|current|ft_|wrench")  # never at rest, even where a robot is


@dataclass(frozen=True)
class EpisodeFacts:
    """What is kept of an episode that was read.

    Attributes:
        episode: its index.
        steps: of it.
        seconds: between its first and its last time.
        task: its instruction.
        success: whether it succeeded, if known.
        digest: of all its numbers, or b"" where it has hardly any.
        idle: steps into which nothing moved.
        idle_start_s: how long nothing moved at its start.
        idle_end_s: how long nothing moved at its end.
        uneven: streams on the same nominal rate with other numbers of rows than the first, by key.
        broken: rows promised and held, by key, where they differ.
        moving: of some times, whether the robot moved into each.
    """

    episode: int
    steps: int
    seconds: float
    task: str
    success: bool | None
    digest: bytes
    idle: int
    idle_start_s: float
    idle_end_s: float
    uneven: Mapping[str, int]
    broken: Mapping[str, tuple[int, int]]
    moving: Callable[[Array], NDArray[np.bool_]] = field(compare=False, repr=False)


def episode_facts(
    episode: int,
    recording: Recording,
    promised: Mapping[str, int],
    pair: tuple[Array, Array, Array] | None,
    contents: Contents,
    span: Array,
) -> EpisodeFacts:
    """What the checks need of one episode.

    Args:
        episode: its index.
        recording: the episode.
        promised: rows that the source said it has.
        pair: its aligned actions, states and times.
        contents: of the set.
        span: range of each state so far in the set, to tell moving from noise.
    """
    times = [track.time for track in recording.streams.values() if len(track)]
    seconds = max((float(t[-1] - t[0]) for t in times), default=0.0)
    steps = recording.num_steps
    digest = blake2b(digest_size=16)
    hashed = 0
    for key in sorted(recording.streams):
        if key in contents.streams and contents.streams[key].kind == "vector":
            rows = numbers(recording.streams[key])
            digest.update(key.encode() + repr(rows.shape).encode() + np.ascontiguousarray(rows).tobytes())
            hashed += rows.size if len(rows) > 1 and (rows != rows[:1]).any() else 0
    still, clock, big = _stillness(pair, contents, span)
    rate = {k: s.rate_hz for k, s in contents.streams.items() if s.rate_hz is not None}
    same = [k for k in recording.streams if rate.get(k) == rate.get("action", contents.rate_hz) and k in rate]
    first = len(recording.streams["action" if "action" in same else same[0]]) if same else 0
    return EpisodeFacts(
        episode=episode, steps=steps, seconds=seconds if math.isfinite(seconds) else 0.0, task=recording.task,
        success=recording.success, digest=digest.digest() if hashed else b"", idle=int(still.sum()),
        idle_start_s=_run(still, clock), idle_end_s=_run(still[::-1], -clock[::-1]),
        uneven={k: len(recording.streams[k]) - first for k in same if len(recording.streams[k]) != first},
        broken={
            key: (promised.get(key, 0), len(track))
            for key, track in recording.streams.items()
            if promised.get(key, 0) != len(track)
        },
        moving=_mover(big, clock),
    )  # fmt: skip


def _stillness(
    pair: tuple[Array, Array, Array] | None, contents: Contents, span: Array
) -> tuple[NDArray[np.bool_], Array, NDArray[np.bool_]]:
    """(T-1,) whether nothing moved into each row after the first, the times, and whether much moved."""
    if pair is None or len(pair[2]) < 2:
        return np.zeros(0, dtype=bool), np.zeros(0), np.zeros(0, dtype=bool)
    actions, states, clock = pair
    columns, measured = columns_of(contents.streams)
    hands = [i for i, column in enumerate(columns) if is_gripper(column)]
    if states.shape[1]:
        steady = np.asarray([not _JERKY.search(f"{c.stream} {c.name}".lower()) for c in measured])
        span = np.where((span > 0) & steady, span, np.inf)
        share = np.nan_to_num(np.abs(np.diff(states, axis=0)) / span)
        most = share.max(1)
        turned = (np.diff(actions[:, hands], axis=0) != 0).any(1)
    else:
        wide = np.nan_to_num(np.ptp(actions, 0))
        share = np.nan_to_num(np.abs(np.diff(actions, axis=0)) / np.where(wide > 0, wide, np.inf))
        most = share.max(1, initial=0)
        turned = np.zeros(len(most), dtype=bool)
    # A camera need not see one number change, but when an arm moves several do.
    big = (share >= MOVED).sum(1) >= min(2, share.shape[1])
    return (most < STILL) & ~turned, clock, big


def _run(still: NDArray[np.bool_], clock: Array) -> float:
    """Seconds from the first time until something moves."""
    if not len(still):
        return 0.0
    moved = np.flatnonzero(~still)
    until = int(moved[0]) if len(moved) else len(still)
    return float(clock[until] - clock[0])


def _mover(big: NDArray[np.bool_], clock: Array) -> Callable[[Array], NDArray[np.bool_]]:
    count = np.concatenate([[0], np.cumsum(big)]).astype(np.int64)

    def moving(time: Array) -> NDArray[np.bool_]:
        if not len(big):
            return np.zeros(len(time), dtype=bool)
        at = np.clip(np.searchsorted(clock, time, side="right") - 1, 0, len(count) - 1)
        return np.concatenate([[False], np.diff(count[at]) > 0])

    return moving
