"""The node: the core, a transport and a policy, at the control rate. All threads of the room are here.

The control loop never waits for the policy: one thread answers requests, newest first, and the loop goes on.
In simulation, where time stands still while the policy thinks, the policy may be asked in the loop instead.
"""

from __future__ import annotations

import atexit
import gc
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from .core import Core
from .messages import Decision, Frame, Joints, Keep, Policy, PolicyError, Reply, Request, Tick, Transport

Watcher = Callable[[Tick], None]


def settle() -> None:
    """What was loaded until now is no garbage: collections look only at what ticks leave, and stay short."""
    gc.collect()
    gc.freeze()
    atexit.register(gc.unfreeze)  # else bindings complain at the end of what nobody let go of


class Locked:
    """The core's events, one at a time: transports call from threads of their own."""

    def __init__(self, core: Core, lock: threading.RLock, watchers: list[Callable[[object], None]]) -> None:
        self._core, self._lock, self._watchers = core, lock, watchers

    def on_frame(self, frame: Frame) -> None:
        with self._lock:
            self._core.on_frame(frame)
        self._tell(frame)

    def on_joints(self, joints: Joints) -> None:
        with self._lock:
            self._core.on_joints(joints)
        self._tell(joints)

    def on_enable(self, on: bool, now: float) -> None:
        with self._lock:
            self._core.on_enable(on, now)

    def on_estop(self, on: bool, now: float) -> None:
        with self._lock:
            self._core.on_estop(on, now)

    def on_deadman(self, alive: bool, now: float) -> None:
        with self._lock:
            self._core.on_deadman(alive, now)

    def on_takeover(self, on: bool, now: float) -> None:
        with self._lock:
            self._core.on_takeover(on, now)

    def on_human(self, joints: Joints) -> None:
        with self._lock:
            self._core.on_human(joints)

    def on_task(self, task: str, now: float) -> None:
        with self._lock:
            self._core.on_task(task, now)

    def on_outcome(self, success: bool, now: float) -> None:
        with self._lock:
            self._core.on_outcome(success, now)

    def on_keep(self, now: float) -> None:
        with self._lock:
            self._core.on_keep(now)
        self._tell(Keep(now))

    def _tell(self, what: object) -> None:
        for watcher in self._watchers:
            watcher(what)


class Answers(Protocol):
    """Has requests answered while the control loop goes on."""

    @property
    def replies(self) -> deque[tuple[Request, Reply]]:
        """Requests and the answers that have come to them; the loop takes them out."""
        ...

    def ask(self, request: Request) -> None: ...

    def close(self) -> None: ...


class Thinker:
    """One thread that answers requests; a newer request takes the place of one that still waits."""

    def __init__(self, policy: Policy, now: Callable[[], float]) -> None:
        self._policy, self._now = policy, now
        self._wanted: Request | None = None
        self._wake = threading.Condition()
        self._over = False
        self.replies: deque[tuple[Request, Reply]] = deque(maxlen=8)
        self._thread = threading.Thread(target=self._run, name="policy", daemon=True)
        self._thread.start()

    def ask(self, request: Request) -> None:
        with self._wake:
            self._wanted = request
            self._wake.notify()

    def _run(self) -> None:
        while True:
            with self._wake:
                while self._wanted is None and not self._over:
                    self._wake.wait()
                if self._over:
                    return
                request, self._wanted = self._wanted, None
            assert request is not None, "waited for"
            self.replies.append((request, answer(self._policy, request, self._now)))

    def close(self) -> None:
        """End; an answer that is under way is waited for only shortly, for it may never come."""
        with self._wake:
            self._over = True
            self._wake.notify()
        self._thread.join(timeout=1.0)


def answer(policy: Policy, request: Request, now: Callable[[], float]) -> Reply:
    """Have a policy answer; a failure is an answer, too."""
    try:
        actions = policy.answer(request)
    except PolicyError as error:
        return Reply(request.id, np.zeros((0, 0), np.float32), now(), error=str(error))
    except Exception as error:  # noqa: BLE001 (foreign code: whatever it raises, the arm holds and says so)
        said = f"{type(error).__name__}: {error}"
        return Reply(request.id, np.zeros((0, 0), np.float32), now(), error=said)
    latent = getattr(policy, "latent", {})
    version = str(getattr(policy, "version", ""))
    return Reply(request.id, np.asarray(actions, np.float32), now(), latent=latent, version=version)


@dataclass
class Figures:
    """What a monitor wants to know; times in seconds.

    Attributes:
        ticks: control steps so far.
        late: ticks that began more than half a period late.
        overhead: of the last ticks: from waking up to the command handed to the transport.
        overhead_cpu: likewise, what the loop's thread computed, without its waiting for a busy machine.
    """

    ticks: int = 0
    late: int = 0
    overhead: deque[float] = field(default_factory=lambda: deque(maxlen=2000))
    overhead_cpu: deque[float] = field(default_factory=lambda: deque(maxlen=2000))


class Node:
    """Runs a core. `close` always leaves the robot at rest, as far as it listens.

    Args:
        core: configured or not.
        transport: not connected yet.
        policy: who answers.
        in_loop: ask the policy inside the control loop (simulated time stands still meanwhile).
        thinker: who has requests answered beside the loop; None is a thread.
        watchers: called with every tick, with every frame and joint state that comes, and when something is
            to be kept (recorder, page); they must be quick.
    """

    def __init__(
        self,
        core: Core,
        transport: Transport,
        policy: Policy,
        *,
        in_loop: bool = False,
        thinker: Answers | None = None,
        watchers: tuple[Callable[[object], None], ...] = (),
    ) -> None:
        self.core, self.transport, self.policy = core, transport, policy
        self.figures = Figures()
        self.lock = threading.RLock()
        self._watchers = list(watchers)
        self.events = Locked(core, self.lock, self._watchers)
        self._thinker: Answers | None = thinker
        if thinker is None and not in_loop:
            self._thinker = Thinker(policy, transport.now)
        self._period = 1.0 / core.rate_hz
        self._next: float | None = None
        self._diagnosed = -np.inf

    def watch(self, watcher: Callable[[object], None]) -> None:
        """Have another watcher told of everything, before `connect`."""
        self._watchers.append(watcher)

    def connect(self) -> None:
        """Connect the transport.

        Raises:
            TransportError: it cannot.
        """
        self.transport.connect(self.events)

    def run(self, until: Callable[[Tick], bool] = lambda tick: False, seconds: float = np.inf) -> Tick:
        """Tick at the control rate.

        Args:
            until: asked after every tick; true ends.
            seconds: of the transport's clock, at most.

        Returns:
            the last tick.
        """
        end = self.transport.now() + seconds
        tick = self.step()
        while not until(tick) and self.transport.now() < end:
            tick = self.step()
        return tick

    def step(self) -> Tick:
        """Wait for the next tick, and do it."""
        now = self.transport.now()
        if self._next is None or now - self._next > self._period:
            self._next = now  # too late to catch up: a burst of commands would be worse
        self.transport.sleep_until(self._next)
        began, began_cpu, now = time.perf_counter(), time.thread_time(), self.transport.now()
        self.figures.late += now - self._next > self._period / 2
        self._next += self._period
        with self.lock:
            tick = self._tick(now)
        if tick.command is not None:
            self.transport.send(tick.command)
        self.figures.overhead_cpu.append(time.thread_time() - began_cpu)
        self.figures.overhead.append(time.perf_counter() - began)
        self.figures.ticks += 1
        for watcher in self._watchers:
            watcher(tick)
        if now - self._diagnosed >= 0.1:
            self._diagnosed = now
            self.transport.diagnose(tick, self.summary(now))
        return tick

    def _tick(self, now: float) -> Tick:
        if self._thinker is None:
            request = self.core.ask(now)
            if request is not None:
                self._take(request, answer(self.policy, request, self.transport.now))
            tick = self.core.tick(now)
            if tick.request is not None:  # asked by the tick itself, as it came out of a hold
                self._take(tick.request, answer(self.policy, tick.request, self.transport.now))
            return tick
        while self._thinker.replies:
            self._take(*self._thinker.replies.popleft())
        tick = self.core.tick(now)
        if tick.request is not None:
            self._thinker.ask(tick.request)
        return tick

    def _take(self, request: Request, reply: Reply) -> None:
        self.core.answered(reply)
        for watcher in self._watchers:
            watcher(Decision(request, reply))
        if not reply.error and reply.actions.ndim == 2:
            names = tuple(axis.name for axis in self.core.spec.action)
            self.transport.publish_chunk(names, reply.actions)

    def summary(self, now: float) -> dict[str, float]:
        """Ages, latencies and counts, for diagnostics; times in seconds."""
        found = {f"age {name}": age for name, age in self.core.gate.ages(now).items()}
        if self.core.schedule.latencies:
            late = np.asarray(self.core.schedule.latencies)
            found |= {"latency p50": float(np.median(late)), "latency p95": float(np.quantile(late, 0.95))}
        if self.figures.overhead:
            found["overhead p99"] = float(np.quantile(np.asarray(self.figures.overhead), 0.99))
            found["overhead p99, computing"] = float(np.quantile(np.asarray(self.figures.overhead_cpu), 0.99))
        found |= {"ticks": float(self.figures.ticks), "late ticks": float(self.figures.late)}
        return found | {f"count {name}": float(count) for name, count in self.core.counters.items()}

    def close(self) -> None:
        """Bring the arm to rest, and let go."""
        with self.lock:
            self.core.on_enable(False, self.transport.now())
        for _ in range(int(2.0 / self._period)):
            tick = self.step()
            if tick.command is None:
                break
        if self._thinker is not None:
            self._thinker.close()
        self.transport.close()
