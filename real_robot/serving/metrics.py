"""Counters and histograms in Prometheus' text form (version 0.0.4), for one server."""

from __future__ import annotations

import bisect
import threading
from collections.abc import Sequence

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
ROWS = (1, 2, 4, 8, 16, 32, 64)


class Histogram:
    """How often a value was at most each bound. Not to be used without its owner's lock."""

    def __init__(self, name: str, about: str, bounds: Sequence[float]) -> None:
        self.name, self.about, self.bounds = name, about, tuple(bounds)
        self.counts = [0] * (len(self.bounds) + 1)
        self.total = 0.0

    def add(self, value: float) -> None:
        self.counts[bisect.bisect_left(self.bounds, value)] += 1
        self.total += value

    def lines(self) -> list[str]:
        found = [f"# HELP {self.name} {self.about}", f"# TYPE {self.name} histogram"]
        seen = 0
        for bound, count in zip((*map(float, self.bounds), "+Inf"), self.counts, strict=True):
            seen += count
            found.append(f'{self.name}_bucket{{le="{bound}"}} {seen}')
        return [*found, f"{self.name}_sum {self.total!r}", f"{self.name}_count {seen}"]


class Metrics:
    """What a server counts. Safe to call from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._total = Histogram(
            "regrip_request_seconds", "from an observation's arrival to its answer", SECONDS
        )
        self._infer = Histogram("regrip_inference_seconds", "of one call of the policy", SECONDS)
        self._queue = Histogram(
            "regrip_queue_seconds", "age of an observation when the policy sees it", SECONDS
        )
        self._batch = Histogram("regrip_batch_rows", "observations in one call of the policy", ROWS)
        self._outcomes: dict[str, int] = {}
        self._gauges: dict[str, float] = {}

    def count(self, outcome: str) -> None:
        """One request ended: ``answered``, ``superseded``, ``refused``, ``failed`` or ``withheld``."""
        with self._lock:
            self._outcomes[outcome] = self._outcomes.get(outcome, 0) + 1

    def answered(self, seconds: float) -> None:
        with self._lock:
            self._outcomes["answered"] = self._outcomes.get("answered", 0) + 1
            self._total.add(seconds)

    def inferred(self, seconds: float, ages: Sequence[float]) -> None:
        """One call of the policy, with the age of each observation at its beginning."""
        with self._lock:
            self._infer.add(seconds)
            self._batch.add(len(ages))
            for age in ages:
                self._queue.add(age)

    def gauge(self, name: str, value: float) -> None:
        """Set ``regrip_<name>``."""
        with self._lock:
            self._gauges[name] = value

    def text(self, version: str) -> str:
        """The page at ``/metrics``."""
        with self._lock:
            lines = ["# HELP regrip_requests_total requests by how they ended"]
            lines.append("# TYPE regrip_requests_total counter")
            lines += [
                f'regrip_requests_total{{outcome="{outcome}"}} {count}'
                for outcome, count in sorted(self._outcomes.items())
            ]
            for histogram in (self._total, self._infer, self._queue, self._batch):
                lines += histogram.lines()
            for name, value in sorted(self._gauges.items()):
                lines += [f"# TYPE regrip_{name} gauge", f"regrip_{name} {value!r}"]
        escaped = version.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
        lines += ["# TYPE regrip_policy_info gauge", f'regrip_policy_info{{version="{escaped}"}} 1']
        return "\n".join(lines) + "\n"
