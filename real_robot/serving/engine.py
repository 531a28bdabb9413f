"""Sessions, batches, and the one thread that owns the policy. Every dialect stands on this.

A session has at most one observation that waits: a newer one takes its place, and the older is answered by a
`SupersededError`. Observations of different sessions are put into one call of the policy; it waits for those
that are likely to come, and never longer than a few milliseconds.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
import time
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..messages import PolicyError
from .metrics import Metrics
from .schema import Ask, Schema
from .sessions import Answer, Run, ServedPolicy, Session, ShuttingDownError, SupersededError, WithheldError

if TYPE_CHECKING:
    from .traffic import Traffic

_LOG = logging.getLogger("regrip.serving")
_LIVE_S = 1.0  # a session that asked within this time is likely to ask again


@dataclass
class _Job:
    ask: Ask
    run: Run
    session: Session
    received_ns: int
    future: Future[Answer]


@dataclass(frozen=True)
class EngineConfig:
    """How observations are put together, and when a policy is given up.

    Attributes:
        max_batch: rows in one call; every size up to it is warmed up.
        batch_s: how long the first of a batch waits for others, at most.
        hang_s: a call that takes longer is given up: its sessions get an error, and `/healthz` says so.
        max_sessions: that are remembered; the one that asked longest ago is forgotten first.
    """

    max_batch: int = 32
    batch_s: float = 0.003
    hang_s: float = 10.0
    max_sessions: int = 1024

    def __post_init__(self) -> None:
        if self.max_batch < 1 or self.max_sessions < 1:
            raise ValueError(
                f"engine: max_batch {self.max_batch}, max_sessions {self.max_sessions}: at least 1"
            )
        if not (np.isfinite(self.hang_s) and self.hang_s > 0 and 0 <= self.batch_s < 1):
            raise ValueError(
                f"engine: hang_s {self.hang_s} must be above 0, batch_s {self.batch_s} in [0, 1)"
            )


class Engine:
    """Answers observations in a thread of its own; see the module.

    Args:
        policy: to begin with.
        config: how.
        metrics: counts; made anew if not given.
        traffic: takes note of every observation and its answer.
    """

    def __init__(
        self,
        policy: ServedPolicy,
        config: EngineConfig | None = None,
        metrics: Metrics | None = None,
        traffic: Traffic | None = None,
    ) -> None:
        self.config = config or EngineConfig()
        self.metrics = metrics or Metrics()
        self._traffic = traffic
        self._policy = policy
        self._lock = threading.RLock()
        self._bell = _Bell()
        self._waiting: dict[str, _Job] = {}  # by session, oldest first
        self._sessions: dict[str, Session] = {}
        self._running: list[_Job] = []
        self._began: float | None = None  # the present call of the policy
        self._chunks = 0
        self._names = 0
        self._warm = 0
        self._state = "warming up"
        self._thread = threading.Thread(target=self._work, name="policy", daemon=True)

    # For the dialects ----------------------------------------------------------------------------------

    @property
    def schema(self) -> Schema:
        """Of the policy that new episodes get."""
        return self._policy.schema

    def start(self) -> None:
        """Begin to warm up; observations may come at once, and wait."""
        self._thread.start()

    def session(self, name: str = "") -> Session:
        """The session of that name, or one of its own for a client that gives none."""
        with self._lock:
            if not name:
                self._names += 1
            key = f"session {name}" if name else f"connection {self._names}"
            if key not in self._sessions:
                self._make_room()
                self._sessions[key] = Session(key, self._policy)
            found = self._sessions[key]
            found.connections += 1
            self.metrics.gauge("sessions", len(self._sessions))
            return found

    def leave(self, session: Session) -> None:
        """A client is gone. Named sessions are kept, for it may come back."""
        with self._lock:
            session.connections -= 1
            if session.connections <= 0:
                self._supersede(session, None, "the connection was closed")
                if session.name.startswith("connection "):
                    self._sessions.pop(session.name, None)
                if self._traffic is not None:
                    self._traffic.ended(session.name)
            self.metrics.gauge("sessions", len(self._sessions))

    def reset(self, session: Session, episode: str = "") -> None:
        """Begin an episode: a policy's memory is empty, and a policy that was swapped in takes over."""
        with self._lock:
            self._supersede(session, None, "the episode was reset")
            session.begin(episode, self._policy)
            if self._traffic is not None:
                self._traffic.ended(session.name)

    def submit(
        self, session: Session, ask: Ask, received_ns: int, episode: str | None = None
    ) -> Future[Answer]:
        """Have an observation answered; from any thread, without waiting.

        Args:
            session: whose.
            ask: checked.
            received_ns: when it came, on the steady clock.
            episode: if the client names one; another than before begins anew.

        Returns:
            the answer; or `SupersededError`, `WithheldError`, `ShuttingDownError` or another `PolicyError`.
        """
        future: Future[Answer] = Future()
        with self._lock:
            refusal = self._refusal()
            if refusal is not None:
                future.set_exception(refusal)
                self.metrics.count("failed")
                return future
            self._supersede(session, ask.seq, "a newer observation of this session came")
            if episode is not None and episode != session.run.episode:
                session.begin(episode, self._policy)
            session.asked = time.monotonic()
            self._waiting[session.name] = _Job(ask, session.run, session, received_ns, future)
        self._bell.ring()
        return future

    def swap(self, policy: ServedPolicy) -> None:
        """Let another policy answer from each session's next episode on; it is warmed up first, here.

        Raises:
            ValueError: it acts on another robot, or answers with another number of actions.
        """
        mine, theirs = self._policy.schema, policy.schema
        mine.spec.require_match(theirs.spec, f"the served policy {mine.version}", f"policy {theirs.version}")
        if mine.horizon != theirs.horizon:
            raise ValueError(
                f"policy {theirs.version} answers with {theirs.horizon} actions, {mine.version} with "
                f"{mine.horizon}, as clients were told: restart the server for it"
            )
        for rows in range(1, self.config.max_batch + 1):
            self._try_out(policy, rows)
        with self._lock:
            self._policy = policy
        _LOG.info("policy %s answers from the next episodes on", theirs.version)

    def health(self) -> str:
        """Why the server is not ready, in words; ``""`` if it is."""
        with self._lock:
            if self._state == "warming up":
                return f"warming up: {self._warm} of {self.config.max_batch} batch sizes"
            if self._state != "ready":
                return self._state
            refusal = self._refusal()
            return str(refusal) if refusal is not None else ""

    def watch(self) -> None:
        """Give up on a policy that hangs; to be called a few times in a second."""
        with self._lock:
            refusal = self._refusal()
            if refusal is None or isinstance(refusal, ShuttingDownError) or self._state == "warming up":
                return
            jobs, self._waiting = [*self._running, *self._waiting.values()], {}
            self._running = []
        for job in jobs:
            self._fail(job, refusal)

    def drain(self, grace_s: float) -> bool:
        """Take no more observations; wait until those at hand are answered. True if they were."""
        end = time.monotonic() + grace_s
        with self._lock:
            self._state = "shutting down"
        while self._waiting or self._running:
            if time.monotonic() >= end:
                return False
            time.sleep(0.01)
        return True

    def close(self) -> None:
        """End the thread; a policy that hangs is left behind (the thread is a daemon)."""
        with self._lock:
            self._state = "closed"
            jobs, self._waiting = [*self._waiting.values()], {}
        self._bell.ring()
        for job in jobs:
            self._fail(job, ShuttingDownError("the server is shutting down"))
        if self._thread.is_alive():
            self._thread.join(timeout=1.0)
        if not self._thread.is_alive():
            self._bell.close()

    # Inside --------------------------------------------------------------------------------------------

    def _refusal(self) -> PolicyError | None:
        if self._state in ("shutting down", "closed"):
            return ShuttingDownError("the server is shutting down")
        if self._state.startswith("failed"):
            return PolicyError(self._state)
        if self._began is not None and self._state == "ready":
            busy = time.monotonic() - self._began
            if busy > self.config.hang_s:
                return PolicyError(f"the policy has not answered for {busy:.1f} s")
        return None

    def _make_room(self) -> None:
        while len(self._sessions) >= self.config.max_sessions:
            idle = [s for s in self._sessions.values() if s.connections <= 0]
            if not idle:
                raise PolicyError(f"there are {len(self._sessions)} sessions, which is the most")
            self._sessions.pop(min(idle, key=lambda s: s.asked).name)

    def _supersede(self, session: Session, by: int | None, why: str) -> None:
        job = self._waiting.pop(session.name, None)
        if job is not None:
            self.metrics.count("superseded")
            self._settle(job, SupersededError(by, why))

    def _work(self) -> None:
        try:
            for rows in range(1, self.config.max_batch + 1):
                self._try_out(self._policy, rows)
                self._warm = rows
        except Exception as error:  # noqa: BLE001  # whatever it is, it is said at /healthz
            _LOG.exception("the policy failed in warm-up")
            with self._lock:
                self._state = f"failed in warm-up: {type(error).__name__}: {error}"
            self.watch()
            return
        with self._lock:
            if self._state == "warming up":
                self._state = "ready"
        while True:
            jobs = self._next()
            if not jobs:
                if self._state == "closed":
                    return
                continue  # they were superseded meanwhile
            self._answer(jobs)
            with self._lock:
                self._running, self._began = [], None
            del jobs  # and their images, before others come

    def _try_out(self, policy: ServedPolicy, rows: int) -> None:
        if self._state == "closed":
            return
        schema = policy.schema
        low, high = schema.state_limits
        middle = np.array(schema.state_mean or np.clip(0.5 * (low + high), low, high), np.float32)
        images = {c.name: np.zeros((c.height, c.width, 3), np.uint8) for c in schema.spec.cameras}
        # Different images, for a policy that looks at equal ones once.
        asks = [
            Ask({n: np.full_like(i, row) for n, i in images.items()}, middle, schema.prompt or "warm up")
            for row in range(rows)
        ]
        runs = [Run(f"warm-up {row}", "", policy) for row in range(rows)]
        policy.act(asks, runs)
        if schema.rtc and rows == 1:  # another way through the policy, always alone
            held = np.clip(np.zeros(schema.spec.action_dim), *schema.action_limits)
            policy.act([replace(asks[0], prefix=held.astype(np.float32)[None], frozen=1)], runs)

    def _next(self) -> list[_Job]:
        """The next batch; empty when it is over."""
        while not self._waiting:
            if self._state == "closed":
                return []
            self._bell.wait(None)
        end = time.monotonic() + self.config.batch_s
        while len(self._waiting) < self._likely():
            left = end - time.monotonic()
            if left <= 0 or not self._bell.wait(left):
                break
        with self._lock:
            names = list(self._waiting)[: self.config.max_batch]
            self._running = [self._waiting.pop(name) for name in names]
            self._began = time.monotonic() if names else None
            return self._running

    def _likely(self) -> int:
        """How many sessions may have an observation soon."""
        if self.config.batch_s == 0 or len(self._sessions) <= 1:
            return 1
        since = time.monotonic() - _LIVE_S
        with self._lock:
            live = sum(s.asked > since for s in self._sessions.values())
        return min(live, self.config.max_batch)

    def _answer(self, jobs: list[_Job]) -> None:
        if len(jobs) == 1:
            self._call(jobs)
            return
        by_policy: dict[int, list[_Job]] = {}
        for job in jobs:
            by_policy.setdefault(id(job.run.policy), []).append(job)
        for group in by_policy.values():
            self._call(group)

    def _call(self, jobs: list[_Job]) -> None:
        policy = jobs[0].run.policy
        began = time.monotonic_ns()
        try:
            rows = policy.act([job.ask for job in jobs], [job.run for job in jobs])
            if len(rows) != len(jobs):
                raise PolicyError(f"the policy answered {len(rows)} of {len(jobs)} observations")
        except Exception as error:  # noqa: BLE001  # the thread outlives whatever a policy raises
            if len(jobs) > 1:  # let the innocent have their answers
                for job in jobs:
                    self._call([job])
                return
            _LOG.warning("the policy failed: %s: %s", type(error).__name__, error, exc_info=True)
            said = error.strerror if isinstance(error, OSError) else error  # no paths for strangers
            fault = PolicyError(f"the policy failed: {type(error).__name__}: {said}")
            fault.__cause__ = error
            self._fail(jobs[0], fault)
            return
        ended = time.monotonic_ns()
        self.metrics.inferred((ended - began) / 1e9, [(began - job.received_ns) / 1e9 for job in jobs])
        for job, row in zip(jobs, rows, strict=True):
            self._finish(job, row, len(jobs), began, ended)

    def _finish(self, job: _Job, row: NDArray[np.float32] | None, batch: int, began: int, ended: int) -> None:
        if row is None:
            self.metrics.count("withheld")
            self._settle(job, WithheldError("no answer, on purpose"))
            return
        schema = job.run.policy.schema
        why = unfit(row, schema)
        if why:
            self._fail(job, PolicyError(f"{schema.version}: {why}; nothing of it was sent"))
            return
        job.run.count += 1
        self._chunks += 1
        answer = Answer(row, schema.version, self._chunks, batch, job.received_ns, began, ended)
        self.metrics.answered((time.monotonic_ns() - job.received_ns) / 1e9)
        self._settle(job, answer)

    def _fail(self, job: _Job, error: PolicyError) -> None:
        if self._settle(job, error):
            self.metrics.count("failed")

    def _settle(self, job: _Job, result: Answer | PolicyError) -> bool:
        """Give a job its result, unless it has one."""
        try:
            if isinstance(result, Answer):
                job.future.set_result(result)
            else:
                job.future.set_exception(result)
        except InvalidStateError:
            return False
        if self._traffic is not None:
            self._traffic.settled(job.run, job.ask, job.received_ns, result)
        return True


class _Bell:
    """Wakes the policy's thread through a socket, as asyncio wakes its loop.

    A condition would be simpler, but whoever notifies one holds the interpreter's lock meanwhile, and the
    thread that wakes can only wait for it: on a busy computer, for a turn of the scheduler.
    """

    def __init__(self) -> None:
        self._read, self._write = socket.socketpair()
        self._write.setblocking(False)

    def ring(self) -> None:
        with contextlib.suppress(OSError):  # it is full of rings already, or it is over
            self._write.send(b"\0")

    def wait(self, seconds: float | None) -> bool:
        """Until it rings; false if it did not."""
        self._read.settimeout(seconds)
        try:
            self._read.recv(4096)
        except TimeoutError:
            return False
        return True

    def close(self) -> None:
        self._read.close()
        self._write.close()


def unfit(actions: Any, schema: Schema) -> str:
    """Why a chunk must not leave, in words; ``""`` if it may."""
    wanted = (schema.horizon, schema.spec.action_dim)
    if not isinstance(actions, np.ndarray) or actions.shape != wanted or actions.dtype != np.float32:
        shape = (
            f"{actions.dtype} {actions.shape}" if isinstance(actions, np.ndarray) else type(actions).__name__
        )
        return f"the policy answered {shape}, expected float32 {wanted}"
    low, high = schema.action_limits
    fits = (actions >= low) & (actions <= high)  # NaN does not
    if fits.all():
        return ""
    row, index = (int(i) for i in np.argwhere(~fits)[0])
    axis, value = schema.spec.action[index], actions[row, index]
    return (
        f"action {row} has {axis.name} = {value:.6g} {axis.unit}, expected [{axis.low:.6g}, {axis.high:.6g}]"
    )
