"""The successes a run has seen lately, by task: what failures are held against, also where none succeeded."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..datasets.episode import Rollouts

IDENTITY_BYTES = 16


def episode_identity(run: str, rollouts: Rollouts) -> NDArray[np.uint8]:
    """A name for each episode that no other episode has.

    A hash of the run, the learner iteration, the start state, and every state and action of the episode. It
    does not depend on the row, so the same episode scored twice, or in another batch, is the same episode;
    two members of a group differ in their actions. Task names alone would not do: siiRL keyed frames by task
    and trial, and all members of a group got one embedding (reference, section 1.5, problem 2).

    Returns:
        uint8 (B,16).
    """
    names = np.empty((len(rollouts), IDENTITY_BYTES), dtype=np.uint8)
    for row, (start, valid) in enumerate(zip(rollouts.start, rollouts.valid, strict=True)):
        asked = valid.any(-1)
        digest = hashlib.blake2b(
            repr((run, rollouts.policy_version, start)).encode(), digest_size=IDENTITY_BYTES
        )
        for part in (
            rollouts.action[row][valid],
            rollouts.state[row][asked],
            rollouts.privileged[row][asked],
        ):
            digest.update(np.ascontiguousarray(part).tobytes())
        names[row] = np.frombuffer(digest.digest(), dtype=np.uint8)
    return names


@dataclass(frozen=True)
class Entries:
    """Successes of one task, oldest first.

    Attributes:
        identity: uint8 (N,16).
        iteration: int64 (N,), the learner iteration that played them.
        embedding: float32 (N,F), the whole episode.
        rest: float32 (N,F), the episode's first frame held still: how it looks to have done nothing.
    """

    identity: NDArray[np.uint8]
    iteration: NDArray[np.int64]
    embedding: NDArray[np.float32]
    rest: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.iteration)

    def row_of(self, identity: NDArray[np.uint8]) -> int | None:
        """Where an episode is, or None."""
        found = np.flatnonzero((self.identity == identity).all(1))
        return int(found[0]) if len(found) else None

    def take(self, rows: NDArray[np.int64]) -> Entries:
        return Entries(self.identity[rows], self.iteration[rows], self.embedding[rows], self.rest[rows])


class ReferenceBank:
    """Keeps successes across batches, so that a batch without any still has something to be compared with.

    Old successes fade: an entry's weight halves every `half_life` iterations, entries older than `max_age`
    go (but the `keep` freshest of a task stay, or a task that has become hard would lose its only
    references), and of more than `capacity` in a task the oldest go.

    The order of entries, and with it every number computed from them, depends on the set of episodes only:
    not on the order in which they came.
    """

    def __init__(self, capacity: int = 64, max_age: int = 50, keep: int = 8, half_life: float = 10.0) -> None:
        if not 0 < keep <= capacity or max_age < 0 or half_life <= 0:
            raise ValueError(
                f"reference bank: capacity {capacity}, keep {keep}, max_age {max_age}, half_life {half_life};"
                " expected 0 < keep <= capacity, max_age >= 0, half_life > 0"
            )
        self.capacity = capacity
        self.max_age = max_age
        self.keep = keep
        self.half_life = half_life
        self.newest_iteration = 0
        self._tasks: dict[str, Entries] = {}

    def __contains__(self, task: str) -> bool:
        return task in self._tasks

    @property
    def tasks(self) -> list[str]:
        return sorted(self._tasks)

    def entries(self, task: str) -> Entries:
        """The successes of a task that is in the bank."""
        return self._tasks[task]

    def age(self, task: str) -> NDArray[np.int64]:
        """(N,) learner iterations since each entry was played."""
        return np.asarray(self.newest_iteration - self._tasks[task].iteration)

    def weight(self, task: str) -> NDArray[np.float64]:
        """(N,) 1 for an entry of the newest iteration, 1/2 after `half_life` iterations."""
        return np.asarray(0.5 ** (self.age(task) / self.half_life), dtype=np.float64)

    def add(self, task: str, entries: Entries) -> None:
        """Take in successes; those already there are not taken twice.

        Raises:
            ValueError: their embeddings have another width than those in the bank.
        """
        if task in self._tasks:
            old = self._tasks[task]
            if old.embedding.shape[1] != entries.embedding.shape[1]:
                raise ValueError(
                    f"task {task}: an embedding of {entries.embedding.shape[1]} numbers, but the bank holds "
                    f"{old.embedding.shape[1]}: the encoder or its pooling changed; start with an empty bank"
                )
            entries = Entries(
                *(
                    np.concatenate([getattr(old, name), getattr(entries, name)])
                    for name in ("identity", "iteration", "embedding", "rest")
                )
            )
        _, first = np.unique(entries.identity, axis=0, return_index=True)
        entries = entries.take(first)  # sorted by identity ...
        self._tasks[task] = entries.take(np.argsort(entries.iteration, kind="stable"))  # ... then by age

    def advance(self, iteration: int) -> None:
        """Let time pass to a learner iteration (never back) and drop what is too old or too much."""
        self.newest_iteration = max(self.newest_iteration, iteration)
        for task, entries in self._tasks.items():
            fresh = int((self.age(task) <= self.max_age).sum())
            stay = min(max(fresh, self.keep), self.capacity, len(entries))
            self._tasks[task] = entries.take(np.arange(len(entries) - stay, len(entries)))

    def state_dict(self) -> dict[str, NDArray[np.generic]]:
        """Named arrays: ``newest_iteration`` and, for each task, ``<field>:<task>``."""
        state: dict[str, NDArray[np.generic]] = {"newest_iteration": np.array(self.newest_iteration)}
        for task in self.tasks:
            entries = self._tasks[task]
            for name in ("identity", "iteration", "embedding", "rest"):
                state[f"{name}:{task}"] = getattr(entries, name).copy()
        return state

    def load_state_dict(self, state: Mapping[str, NDArray[np.generic]]) -> None:
        """Go on from `state_dict`, bit for bit.

        Raises:
            ValueError: an array is missing, unknown or of the wrong type or length; the bank is unchanged.
        """
        left = dict(state)
        if "newest_iteration" not in left:
            raise ValueError(f"reference bank: no 'newest_iteration' among {sorted(left)[:5]}")
        newest = int(np.asarray(left.pop("newest_iteration")).item())
        tasks: dict[str, Entries] = {}
        for task in sorted({key.split(":", 1)[1] for key in left if ":" in key}):
            fields = {}
            for name, kind in _FIELDS.items():
                array = left.pop(f"{name}:{task}", None)
                if array is None or array.dtype != kind:
                    seen = "missing" if array is None else f"{array.dtype} {array.shape}"
                    raise ValueError(f"reference bank: {name} of {task} is {seen}, expected {kind}")
                fields[name] = np.array(array)
            if len({len(array) for array in fields.values()}) != 1:
                shapes = {name: array.shape for name, array in fields.items()}
                raise ValueError(f"reference bank: {task} has arrays of different lengths: {shapes}")
            tasks[task] = Entries(**fields)
        if left:
            raise ValueError(f"reference bank: nothing reads {sorted(left)[:5]}")
        self.newest_iteration, self._tasks = newest, tasks


_FIELDS = {"identity": np.uint8, "iteration": np.int64, "embedding": np.float32, "rest": np.float32}
