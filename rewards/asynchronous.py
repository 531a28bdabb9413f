"""A slow reward that nobody waits for: episodes are scored in the background, and paid when looked up."""

from __future__ import annotations

import hashlib
import threading
from collections import Counter, OrderedDict, deque
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..datasets.episode import Rollouts
from ..datasets.protocols import Reward, RewardSignal
from .reference_bank import IDENTITY_BYTES, episode_identity


class BackgroundRewardError(RuntimeError):
    """The reward in the background raised; the cause is attached."""


@dataclass(frozen=True)
class _Label:
    """What is known about one episode: its executed decisions' values (d,H), and the stamp."""

    value: NDArray[np.float32]
    std: NDArray[np.float32] | None
    valid: bool
    components: Mapping[str, float]
    version: int = 0
    failed: bool = False


@dataclass
class _Job:
    keys: list[bytes]
    lengths: list[int]
    rollouts: Rollouts


@dataclass(frozen=True)
class _Done:
    """What a job came to: labels, whether they are relative, and the reward's state after it."""

    labels: list[_Label]
    relative: bool
    state: Mapping[str, NDArray[np.generic]]


class Asynchronous:
    """A reward that scores in the background and answers at once with what it already knows; a `Reward`.

    An episode is known by `reference_bank.episode_identity` and its instruction. One that is not known is not
    `valid`, earns 0 and has the component `pending` 1; the new ones of a call are put in the queue together,
    as one batch for the inner reward, and those that do not fit (whole groups, in order of appearance) are
    dropped: component `dropped`, and `counts`. They are asked about again at their next lookup. A label that
    comes late changes later lookups only, never a signal that was handed out. The component `label_version`
    says which batch a label came with (1 the first; 0 while pending). An episode that the inner reward could
    not judge is known, as unjudged.

    If the inner reward raises, the episodes of that batch are known as unjudged (component `failed`) and the
    error is counted, and raised as `BackgroundRewardError` by the next call, or by `close`: a reward that
    is set up wrongly must not look like one that is merely slow. Whoever catches it may go on. `wait` does
    not raise.

    One thread does the work. The slow rewards this is for wait for a server or for a kernel, and let go of
    the interpreter meanwhile; the actors are processes of their own. A process would need the pictures, the
    model and the bank sent to it. A reward that computes for long in Python itself would slow the learner.

    The table keeps the `table_size` episodes looked up last, and the queue `queue_size` episodes with their
    pictures. What training sees depends on how fast labels come, so a resumed run goes on with what was
    known, but is not bit for bit the uninterrupted one; episodes that waited are not saved, and asked about
    again when they are looked up. An exit of the interpreter waits for the batch in progress only.

    Args:
        reward: scores; used by one thread at a time, and by nobody else from now on.
        queue_size: episodes waiting or in progress, at most.
        table_size: episodes whose labels are kept.
        run: names the run, so that episodes of two runs are never taken for one.
    """

    def __init__(
        self, reward: Reward, queue_size: int = 256, table_size: int = 16384, run: str = "run"
    ) -> None:
        if queue_size < 1 or table_size < 1:
            raise ValueError(f"queue_size {queue_size} and table_size {table_size} must be 1 or more")
        self.reward = reward
        self.queue_size = queue_size
        self.table_size = table_size
        self.run = run
        self.counts: Counter[str] = Counter()
        self._table: OrderedDict[bytes, _Label] = OrderedDict()
        self._inner_state: Mapping[str, NDArray[np.generic]] = reward.state_dict()
        self._relative = True  # nothing may detect success with it before something is known
        self._version = 0
        self._error: BaseException | None = None
        self._closed = False
        self._waiting: deque[_Job] = deque()
        self._running: _Job | None = None
        self._pending: set[bytes] = set()
        self._changed = threading.Condition(threading.RLock())
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="reward")

    def __enter__(self) -> Asynchronous:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __call__(self, rollouts: Rollouts) -> RewardSignal:
        """What is known of B episodes; those that are not are put in the queue. Never waits for the reward.

        Raises:
            BackgroundRewardError: the reward raised since the last call.
            RuntimeError: it was closed.
        """
        keys = _keys(self.run, rollouts)
        with self._changed:
            self._raise()
            if self._closed:
                raise RuntimeError("this background reward was closed; make another to go on scoring")
            labels = [self._table.get(key) for key in keys]
            for key in keys:
                if key in self._table:
                    self._table.move_to_end(key)
            dropped = self._enqueue(rollouts, keys)
            return _signal(rollouts, labels, dropped, self._relative)

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until nothing is in the queue or in progress; false if that took too long."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._pending, timeout_s)

    def close(self) -> None:
        """Drop what is in the queue, wait for the batch in progress, and end. A second time does nothing.

        Raises:
            BackgroundRewardError: the reward raised since the last call.
        """
        with self._changed:
            self._closed = True
            for job in self._waiting:
                self._pending.difference_update(job.keys)
            self._waiting.clear()
        self._worker.shutdown(wait=True)
        with self._changed:
            self._raise()

    def _raise(self) -> None:
        error, self._error = self._error, None
        if error is not None:
            raise BackgroundRewardError(
                f"{type(self.reward).__name__}, scoring in the background, raised "
                f"{type(error).__name__}: {error}"
            ) from error

    def _enqueue(self, rollouts: Rollouts, keys: list[bytes]) -> NDArray[np.bool_]:
        """Put the episodes that are neither known nor pending in the queue; (B,) those that did not fit."""
        groups: OrderedDict[int, list[int]] = OrderedDict()
        seen: set[bytes] = set()
        for row, key in enumerate(keys):
            if key not in self._table and key not in self._pending and key not in seen:
                seen.add(key)
                groups.setdefault(int(rollouts.group[row]), []).append(row)
        taken: list[int] = []
        for rows in groups.values():
            if len(self._pending) + len(taken) + len(rows) <= self.queue_size:
                taken += rows
        left = {keys[row] for rows in groups.values() for row in rows} - {keys[row] for row in taken}
        self.counts["dropped"] += len(left)
        self.counts["enqueued"] += len(taken)
        if taken:
            taken.sort()
            batch = rollouts.take(taken)
            lengths = [int(count) for count in batch.decision_valid.sum(1)]
            self._waiting.append(_Job([keys[row] for row in taken], lengths, batch))
            self._pending.update(self._waiting[-1].keys)
            self._next()
        return np.array([key in left for key in keys], bool)

    def _next(self) -> None:
        """Begin the next job, if none is running. One at a time, so that an exit waits for no other."""
        if self._running is None and self._waiting:
            job = self._waiting.popleft()
            try:
                future = self._worker.submit(self._work, job)
            except RuntimeError:  # the interpreter is about to exit
                self._pending.clear()
                return
            self._running = job
            future.add_done_callback(self._finished)

    def _work(self, job: _Job) -> _Done:
        """In the background: score, and look at what changed. Whatever it raises is in the future."""
        signal = self.reward(job.rollouts)
        count = len(job.keys)
        if signal.value.shape != job.rollouts.valid.shape or len(signal.valid) != count:
            raise ValueError(f"it gave values {signal.value.shape}, expected {job.rollouts.valid.shape}")
        labels = [
            _Label(
                signal.value[row, :length].copy(),
                None if signal.std is None else signal.std[row, :length].copy(),
                bool(signal.valid[row]),
                {name: float(held[row]) for name, held in signal.components.items()},
            )
            for row, length in enumerate(job.lengths)
        ]
        return _Done(labels, signal.relative, self.reward.state_dict())

    def _finished(self, future: Future[_Done]) -> None:
        with self._changed:
            job, self._running = self._running, None
            assert job is not None, "a job that was not running has finished"
            self._version += 1
            error = future.exception()
            if error is None:
                done = future.result()
                labels, self._relative, self._inner_state = done.labels, done.relative, done.state
                self.counts["labelled"] += len(labels)
            else:
                self._error = error
                self.counts["errors"] += 1
                chunk = job.rollouts.valid.shape[2]
                blank = [np.zeros((length, chunk), np.float32) for length in job.lengths]
                labels = [_Label(value, None, False, {}, failed=True) for value in blank]
            for key, label in zip(job.keys, labels, strict=True):
                self._table[key] = replace(label, version=self._version)
            while len(self._table) > self.table_size:
                self._table.popitem(last=False)
                self.counts["forgotten"] += 1
            self._pending.difference_update(job.keys)
            if not self._closed:
                self._next()
            self._changed.notify_all()

    def state_dict(self) -> dict[str, NDArray[np.generic]]:
        """The table, and the inner reward's state as of the same moment; never waits for the reward."""
        with self._changed:
            labels = list(self._table.values())
            names = sorted({name for label in labels for name in label.components})
            width = max((label.value.shape[1] for label in labels), default=0)
            state: dict[str, NDArray[np.generic]] = {
                "key": np.frombuffer(b"".join(self._table), np.uint8).reshape(-1, _KEY_BYTES).copy(),
                "length": np.array([len(label.value) for label in labels], np.int64),
                "value": _stacked([label.value for label in labels], width),
                "has_std": np.array([label.std is not None for label in labels], bool),
                "std": _stacked([label.std for label in labels if label.std is not None], width),
                "valid": np.array([label.valid for label in labels], bool),
                "failed": np.array([label.failed for label in labels], bool),
                "version": np.array([label.version for label in labels], np.int64),
                "last_version": np.array(self._version, np.int64),
                "relative": np.array(self._relative),
            }
            for name in names:
                held = [label.components.get(name, np.nan) for label in labels]
                state[f"component/{name}"] = np.array(held, np.float32)
            return state | {f"reward/{name}": held.copy() for name, held in self._inner_state.items()}

    def load_state_dict(self, state: Mapping[str, NDArray[np.generic]]) -> None:
        """Go on from `state_dict`.

        Raises:
            ValueError: an array is missing, unknown or of the wrong type or length; nothing is changed then.
            RuntimeError: episodes are being scored.
        """
        labels, version, relative = _table_of(state)
        with self._changed:
            if self._pending:
                raise RuntimeError("a background reward loads its state before it is called, or after `wait`")
            self.reward.load_state_dict(
                {
                    name.removeprefix("reward/"): array
                    for name, array in state.items()
                    if name.startswith("reward/")
                }
            )
            self._inner_state = self.reward.state_dict()
            self._table, self._version, self._relative = labels, version, relative


_KEY_BYTES = IDENTITY_BYTES + 8


def _keys(run: str, rollouts: Rollouts) -> list[bytes]:
    """A name for each episode with its instruction: what was asked for is part of what is judged."""
    return [
        identity.tobytes() + hashlib.blake2b(said.encode("utf-8", "surrogatepass"), digest_size=8).digest()
        for identity, said in zip(episode_identity(run, rollouts), rollouts.instruction, strict=True)
    ]


def _signal(
    rollouts: Rollouts, labels: list[_Label | None], dropped: NDArray[np.bool_], relative: bool
) -> RewardSignal:
    value, std = (np.zeros(rollouts.valid.shape, np.float32) for _ in range(2))
    known = [(row, label) for row, label in enumerate(labels) if label is not None]
    names = {name for _, label in known for name in label.components}
    components = {
        name: np.zeros(len(labels), np.float32) for name in (*sorted(names), "label_version", "failed")
    }
    valid = np.zeros(len(labels), bool)
    for row, label in known:
        value[row, : len(label.value)] = label.value
        valid[row] = label.valid
        components["label_version"][row] = label.version
        components["failed"][row] = label.failed
        for name, held in label.components.items():
            components[name][row] = held
        if label.std is not None:
            std[row, : len(label.std)] = label.std
    components["pending"] = np.array([label is None for label in labels], np.float32)
    components["dropped"] = dropped.astype(np.float32)
    sure = all(label.std is None for _, label in known)
    return RewardSignal(value, components, valid, relative, None if sure else std)


def _stacked(parts: list[NDArray[np.float32]], width: int) -> NDArray[np.float32]:
    if any(part.shape[1] != width for part in parts):
        raise ValueError("labels of chunks of different sizes cannot be saved together")
    return np.concatenate([np.zeros((0, width), np.float32), *parts])


_FIELDS: dict[str, tuple[type[np.generic], int]] = {
    "key": (np.uint8, 2),
    "length": (np.int64, 1),
    "value": (np.float32, 2),
    "has_std": (np.bool_, 1),
    "std": (np.float32, 2),
    "valid": (np.bool_, 1),
    "failed": (np.bool_, 1),
    "version": (np.int64, 1),
    "last_version": (np.int64, 0),
    "relative": (np.bool_, 0),
}


def _table_of(
    state: Mapping[str, NDArray[np.generic]],
) -> tuple[OrderedDict[bytes, _Label], int, bool]:
    for name, (kind, dims) in _FIELDS.items():
        array = state.get(name)
        if array is None or array.dtype != kind or array.ndim != dims:
            seen = "missing" if array is None else f"{array.dtype} {array.shape}"
            raise ValueError(
                f"background reward: {name} is {seen}, expected {kind.__name__} of {dims} dimensions"
            )
    ours = [name for name in state if not name.startswith("reward/")]
    strange = sorted(name for name in ours if name not in _FIELDS and not name.startswith("component/"))
    if strange:
        raise ValueError(f"background reward: nothing reads {strange[:5]}")
    held: dict[str, NDArray[Any]] = {name: np.array(state[name]) for name in ours}
    columns = {name.removeprefix("component/"): held[name] for name in ours if name not in _FIELDS}
    length, has_std = held["length"], held["has_std"]
    rows = [held[name] for name in ("key", "has_std", "valid", "failed", "version")] + list(columns.values())
    fits = all(array.shape[:1] == length.shape for array in rows) and (length >= 0).all()
    fits = fits and held["key"].shape[1] == _KEY_BYTES
    if not fits or (len(held["value"]), len(held["std"])) != (length.sum(), length[has_std].sum()):
        shapes = {name: array.shape for name, array in held.items()}
        raise ValueError(f"background reward: arrays of lengths that do not fit each other: {shapes}")
    values = np.split(held["value"], np.cumsum(length)[:-1]) if len(length) else []
    deviations = iter(np.split(held["std"], np.cumsum(length[has_std])[:-1]))
    labels: OrderedDict[bytes, _Label] = OrderedDict()
    for row, value in enumerate(values):
        labels[held["key"][row].tobytes()] = _Label(
            value,
            next(deviations) if has_std[row] else None,
            bool(held["valid"][row]),
            {name: float(array[row]) for name, array in columns.items() if not np.isnan(array[row])},
            int(held["version"][row]),
            bool(held["failed"][row]),
        )
    return labels, int(held["last_version"]), bool(held["relative"])
