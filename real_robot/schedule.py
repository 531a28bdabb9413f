"""Which of the policy's actions belongs to which control step.

Chunks are spliced by the actions that were really executed, never by an estimate of latency: a chunk says for
which step its first row was asked, and the step count moves only when an action is executed.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Mode = Literal["blocking", "latest", "ensemble", "merge", "receding", "rtc"]

_KEPT = 64  # chunks, of ``ensemble``


@dataclass(frozen=True)
class ScheduleConfig:
    """How chunks follow each other.

    Attributes:
        mode: ``blocking``: ask when a chunk is used up, and wait. ``receding``: ask after `execute` actions,
            and wait. ``latest``: ask when `ask_below` actions are left, go on meanwhile, and take the newest
            chunk. ``merge``: likewise, where chunks overlap `new_share` of the newer (LeRobot's weighted
            merge has 0.7). ``ensemble``: ask at every step; average all chunks that speak of a step, with
            weights exp(-`decay` i), i = 0 the oldest (ACT, Zhao et al. 2023, arXiv 2304.13705, section
            IV-A). ``rtc``: as ``latest``, the policy being told what will be executed before it answers
            (real-time chunking, Black et al. 2025, arXiv 2506.07339).
        execute: actions of each chunk to execute; 0 takes all.
        ask_below: ask when at most this many actions are left.
        new_share: of ``merge``.
        decay: of ``ensemble``.
        starvation: when there is no action, the arm comes to rest within its limits. Then ``hold`` goes on
            sending where it stands, ``decelerate`` sends nothing more, and ``stop`` is inactive: a person has
            to enable it again.
    """

    mode: Mode = "latest"
    execute: int = 0
    ask_below: int = 4
    new_share: float = 0.7
    decay: float = 0.01
    starvation: Literal["hold", "decelerate", "stop"] = "decelerate"

    def __post_init__(self) -> None:
        if self.execute < 0 or self.ask_below < 0:
            raise ValueError(f"schedule: execute {self.execute} and ask_below {self.ask_below} cannot be < 0")
        if not 0.0 <= self.new_share <= 1.0:
            raise ValueError(f"schedule: new_share is {self.new_share}, expected 0 to 1")
        if not (math.isfinite(self.decay) and self.decay >= 0):
            raise ValueError(f"schedule: decay is {self.decay}, expected 0 or a number above it")


class Schedule:
    """The actions still to come. Steps count executed actions since `reset`."""

    def __init__(self, config: ScheduleConfig, rate_hz: float) -> None:
        self.config, self.rate_hz = config, rate_hz
        self.latencies: deque[float] = deque(maxlen=200)
        self._weights = np.exp(-config.decay * np.arange(_KEPT))  # of ``ensemble``
        self.reset()

    def reset(self) -> None:
        """Forget every chunk, as at the start of an episode or after a person has driven."""
        self.step = 0
        self._first = 0  # step of row 0 of `_rows`
        self._rows: NDArray[np.float32] = np.zeros((0, 0), np.float32)
        self._chunks: deque[tuple[int, NDArray[np.float32]]] = deque(maxlen=_KEPT)

    @property
    def left(self) -> int:
        """Actions that can still be executed without a new chunk."""
        return max(0, self._first + len(self._rows) - self.step)

    def wants(self) -> bool:
        """Whether the policy should be asked now (if it is not being asked already)."""
        if self.config.mode == "ensemble":
            return True
        if self.config.mode in ("blocking", "receding"):
            return self.left == 0
        return self.left <= self.config.ask_below

    def leftover(self) -> NDArray[np.float32]:
        """(K,A) actions of the present chunk from now on."""
        return self._rows[self.step - self._first :] if self.left else self._rows[:0]

    def delay_steps(self) -> int:
        """How many actions will be executed before an answer comes, by the 95th percentile of latencies."""
        if not self.latencies:
            return min(1, self.left)
        late = float(np.quantile(np.asarray(self.latencies), 0.95))
        return min(max(1, math.ceil(late * self.rate_hz)), self.left)

    def answered(self, step: int, actions: NDArray[np.float32], latency_s: float | None) -> int:
        """Take a chunk.

        Args:
            step: to which its first row belongs.
            actions: (H,A), checked.
            latency_s: from request to answer; None leaves it out of the statistics (warm-up).

        Returns:
            how many of its rows came too late to be executed.
        """
        if latency_s is not None:
            self.latencies.append(latency_s)
        rows = actions[: self.config.execute] if self.config.execute else actions
        if self.config.mode == "ensemble":
            rows = actions
            self._chunks.append((step, actions))
        late = max(0, self.step - step)
        if late >= len(rows):
            return len(rows)
        fresh = rows[late:].astype(np.float32, copy=True)
        if self.config.mode == "merge" and self.left:
            old = self.leftover()
            both = min(len(old), len(fresh))
            share = np.float32(self.config.new_share)
            fresh[:both] = share * fresh[:both] + (1 - share) * old[:both]
        if self.config.mode == "ensemble" and self.step + len(fresh) < self._first + len(self._rows):
            fresh = np.concatenate([fresh, self._rows[self.step + len(fresh) - self._first :]])
        self._first, self._rows = self.step, fresh
        return late

    def next(self) -> NDArray[np.float32] | None:
        """The action of this step; None if there is none. It counts as executed when `executed` is called."""
        if self.config.mode == "ensemble":
            return self._average()
        return self._rows[self.step - self._first] if self.left else None

    def _average(self) -> NDArray[np.float32] | None:
        alive = [(first, chunk) for first, chunk in self._chunks if self.step < first + len(chunk)]
        self._chunks = deque(alive, self._chunks.maxlen)
        rows = [chunk[self.step - first] for first, chunk in alive if first <= self.step]
        if not rows:
            return None
        weights = self._weights[: len(rows)]
        mean = weights @ np.array(rows, np.float64) / weights.sum()
        return np.asarray(mean, np.float32)

    def executed(self) -> None:
        """The action of this step was sent."""
        self.step += 1
