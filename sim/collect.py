"""Plays a policy in many environments at once and returns what happened as `Rollouts`.

The slots are divided into fixed groups visited strictly in turn: while the policy looks at one group, the
workers simulate the others. Which slot plays which start, and which rows a batch holds, follow from the
episodes alone, never from timing, so the same call gives the same bytes on any number of workers.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from ..datasets.episode import Observation, Rollouts
from ..datasets.protocols import ActionSample, Actor, StepResult, VectorEnv
from ..datasets.starts import StartState
from .pool import WorkerPool


@dataclass(frozen=True)
class CollectStats:
    """Where the time of one `collect` went.

    Attributes:
        seconds: wall time of the whole call.
        inferring_s: of it, in the policy.
        waiting_s: of it, waiting for the simulators.
        simulating_s: wall time in the workers, summed over them; zero if the environment is no `WorkerPool`.
        num_episodes: episodes played.
        num_decisions: calls of the policy, counted per episode.
        num_steps: executed control steps.
        num_frames: camera images the policy looked at.
        num_padded_rows: rows of the policy's batches that only filled them up.
        num_incidents: workers lost and replayed.
        num_invalid: episodes in which the simulation broke down.
    """

    seconds: float
    inferring_s: float
    waiting_s: float
    simulating_s: float
    num_episodes: int
    num_decisions: int
    num_steps: int
    num_frames: int
    num_padded_rows: int
    num_incidents: int
    num_invalid: int


@dataclass
class _Episode:
    """One episode while it is played; one list entry per decision."""

    instruction: str = ""
    images: dict[str, list[NDArray[np.uint8]]] = field(default_factory=dict)
    state: list[NDArray[np.float32]] = field(default_factory=list)
    privileged: list[NDArray[np.float32]] = field(default_factory=list)
    action: list[NDArray[np.float32]] = field(default_factory=list)
    executed: list[int] = field(default_factory=list)
    reward: list[NDArray[np.float32]] = field(default_factory=list)
    log_prob: list[NDArray[np.float32]] = field(default_factory=list)
    latent: dict[str, list[NDArray[np.generic]]] = field(default_factory=dict)
    success: bool = False
    invalid: bool = False

    def saw(self, result: StepResult, row: int) -> None:
        """Note what the policy is about to look at. Rows are copied: the arrays are the environment's."""
        for camera, frames in result.observation.images.items():
            self.images.setdefault(camera, []).append(frames[row].copy())
        self.state.append(result.observation.state[row].copy())
        self.privileged.append(result.privileged[row].copy())

    def did(self, sample: ActionSample, row: int) -> None:
        self.action.append(sample.action[row].copy())
        self.log_prob.append(sample.log_prob[row].copy())
        for name, value in sample.latent.items():
            self.latent.setdefault(name, []).append(value[row].copy())


def collect(
    env: VectorEnv,
    actor: Actor,
    starts: Sequence[StartState],
    groups: Sequence[int],
    *,
    run_key: tuple[str | int, ...],
    greedy: bool,
    policy_version: int,
    num_pipelines: int = 2,
    on_episode: Callable[[int, int], None] | None = None,
) -> tuple[Rollouts, CollectStats]:
    """Play one episode from each start state, as a queue over the environment's slots.

    Args:
        env: the environments; any episodes in progress there are abandoned.
        actor: the policy. It is asked for batches of a few fixed sizes only (a row is repeated to fill them
            up): a matrix product's floats may depend on the number of its rows. Its chunks may be longer than
            the environment's: the rest is not executed, and not valid in the rollouts.
        starts: B start states, one episode each.
        groups: B numbers; equal ones share task and start state.
        run_key: begins the key of every random draw: (*run_key, episode index, decision index).
        greedy: ask the policy without noise.
        policy_version: the learner iteration, noted in the rollouts.
        num_pipelines: slot groups that take turns.
        on_episode: called with (episodes done, B) after each.

    Returns:
        the episodes in the order of `starts`, and where the time went.

    Raises:
        ValueError: if `starts` is empty, `groups` has another length, or the policy's answer has the wrong
            shape or is not finite.
    """
    if not starts or len(starts) != len(groups):
        raise ValueError(f"collect was given {len(starts)} start states and {len(groups)} group numbers")
    began_s, inferring_s, waiting_s = time.perf_counter(), 0.0, 0.0
    pool = env if isinstance(env, WorkerPool) else None
    busy_before_s, incidents_before = (pool.busy_s, len(pool.incidents)) if pool else (0.0, 0)
    num_padded, num_done = 0, 0

    episodes = [_Episode() for _ in starts]
    queue = deque(range(len(starts)))
    pipelines = [
        [int(slot) for slot in part] for part in np.array_split(np.arange(env.num_slots), num_pipelines)
    ]
    pipelines = [pipeline for pipeline in pipelines if pipeline]
    playing: dict[int, int] = {}  # slot to episode

    # The first starts go to the pipelines in turn, so that a short queue keeps both sides busy.
    for rank in range(len(pipelines[0])):
        for pipeline in pipelines:
            if rank < len(pipeline) and queue:
                playing[pipeline[rank]] = queue.popleft()
    for pipeline in pipelines:
        slots = [slot for slot in pipeline if slot in playing]
        if slots:
            env.reset(slots, [starts[playing[slot]] for slot in slots])

    while playing:
        for pipeline in pipelines:
            slots = [slot for slot in pipeline if slot in playing]
            if not slots:
                continue
            before_s = time.perf_counter()
            result = env.receive(slots)
            waiting_s += time.perf_counter() - before_s

            rows = []
            begins = []
            for row, slot in enumerate(slots):
                episode = episodes[playing[slot]]
                if episode.action:
                    episode.executed.append(int(result.executed[row]))
                    episode.reward.append(result.reward[row].copy())
                else:
                    episode.instruction = result.observation.instruction[row]
                if not result.done[row]:
                    episode.saw(result, row)
                    rows.append(row)
                    continue
                episode.success, episode.invalid = bool(result.success[row]), bool(result.invalid[row])
                num_done += 1
                del playing[slot]
                if queue:
                    playing[slot] = queue.popleft()
                    begins.append(slot)
                if on_episode is not None:
                    on_episode(num_done, len(starts))
            if begins:
                env.reset(begins, [starts[playing[slot]] for slot in begins])
            if not rows:
                continue

            asked = [slots[row] for row in rows]
            keys = [(*run_key, playing[slot], len(episodes[playing[slot]].action)) for slot in asked]
            size = _batch_size(len(rows), len(pipeline))
            filled = [*range(len(rows)), *[0] * (size - len(rows))]
            num_padded += size - len(rows)
            before_s = time.perf_counter()
            sample = actor.act(
                _observation(result.observation, [rows[i] for i in filled]),
                None if greedy else [keys[i] for i in filled],
            )
            inferring_s += time.perf_counter() - before_s
            _check_sample(sample, size, env)
            for row, slot in enumerate(asked):
                episodes[playing[slot]].did(sample, row)
            env.step(asked, sample.action[: len(asked), : env.chunk_size])

    rollouts = _pad(episodes, starts, groups, policy_version)
    num_decisions = sum(len(episode.executed) for episode in episodes)
    return rollouts, CollectStats(
        seconds=time.perf_counter() - began_s,
        inferring_s=inferring_s,
        waiting_s=waiting_s,
        simulating_s=pool.busy_s - busy_before_s if pool else 0.0,
        num_episodes=len(starts),
        num_decisions=num_decisions,
        num_steps=int(rollouts.num_steps.sum()),
        num_frames=num_decisions * len(rollouts.images),
        num_padded_rows=num_padded,
        num_incidents=len(pool.incidents) - incidents_before if pool else 0,
        num_invalid=int(rollouts.invalid.sum()),
    )


def _batch_size(num_rows: int, full: int) -> int:
    """The smallest of full, full/2, full/4, ... that holds the rows."""
    size = full
    while (half := -(-size // 2)) >= num_rows and half < size:
        size = half
    return size


def _observation(observation: Observation, rows: list[int]) -> Observation:
    """The rows as a batch, without a copy if they are all there is."""
    return observation if rows == list(range(len(observation))) else observation.take(rows)


def _check_sample(sample: ActionSample, size: int, env: VectorEnv) -> None:
    expected = (size, env.chunk_size, env.spec.action_dim)
    shape = sample.action.shape
    fits = len(shape) == 3 and (shape[0], shape[2]) == (size, env.spec.action_dim) and shape[1] >= expected[1]
    if not fits or sample.log_prob.shape != shape[:2]:
        raise ValueError(
            f"the policy answered with actions {shape} and log-probabilities {sample.log_prob.shape}, "
            f"expected {expected} and {expected[:2]}, or longer chunks: its robot contract must be the "
            "environment's, and it must plan as far as the environment executes"
        )
    if not np.isfinite(sample.action).all() or not np.isfinite(sample.log_prob).all():
        raise ValueError(
            "the policy answered with an action or log-probability that is not finite: "
            "its weights have diverged, or its normaliser divides by zero"
        )


_Array = TypeVar("_Array", bound=np.generic)


def _stack(rows: list[list[NDArray[_Array]]], longest: int) -> NDArray[_Array]:
    """(B,D,...) from B lists of at most D rows, zero behind their ends; empties the lists to save memory."""
    example = rows[0][0]
    out = np.zeros((len(rows), longest, *example.shape), dtype=example.dtype)
    for index, row in enumerate(rows):
        out[index, : len(row)] = row
        row.clear()
    return out


def _wide(array: NDArray[np.float32], width: int) -> NDArray[np.float32]:
    """(B,D,h) with zeros up to (B,D,width)."""
    return array if array.shape[2] == width else np.pad(array, [(0, 0), (0, 0), (0, width - array.shape[2])])


def _pad(
    episodes: list[_Episode],
    starts: Sequence[StartState],
    groups: Sequence[int],
    version: int,
) -> Rollouts:
    """Line the episodes up as (B,D,...) arrays."""
    planned = len(episodes[0].action[0])  # at least as many as are executed of it
    longest = max(len(episode.executed) for episode in episodes)
    executed = np.zeros((len(episodes), longest), dtype=np.int64)
    for index, episode in enumerate(episodes):
        executed[index, : len(episode.executed)] = episode.executed
    success = np.array([episode.success for episode in episodes], dtype=np.bool_)
    invalid = np.array([episode.invalid for episode in episodes], dtype=np.bool_)
    return Rollouts(
        start=list(starts),
        group=np.asarray(groups, dtype=np.int64),
        instruction=[episode.instruction for episode in episodes],
        images={name: _stack([e.images[name] for e in episodes], longest) for name in episodes[0].images},
        state=_stack([e.state for e in episodes], longest),
        privileged=_stack([e.privileged for e in episodes], longest),
        action=_stack([e.action for e in episodes], longest),
        valid=np.arange(planned) < executed[..., None],
        reward=_wide(_stack([e.reward for e in episodes], longest), planned),
        success=success,
        truncated=~success & ~invalid,
        invalid=invalid,
        latent={name: _stack([e.latent[name] for e in episodes], longest) for name in episodes[0].latent},
        log_prob=_stack([e.log_prob for e in episodes], longest),
        policy_version=version,
    )
