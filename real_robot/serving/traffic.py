"""Served traffic is data: what each session sent and was answered goes into regrip's own store.

An episode of a session becomes an episode of the set when it ends: by a reset, by another ``__episode__``, or
when the client is gone. Until then it is held in memory, pictures as PNG; if all that is held grows too
large, the longest goes to the disk as a part (``about`` says which). Who serves never waits for the disk:
what comes faster than it is written is dropped, counted and said.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...datasets.formats import WriteOptions
from ...datasets.frames import encode_png
from ...datasets.ledger import DataError
from ...datasets.recording import Contents, StreamSpec
from ...datasets.store.writer import StoreWriter
from ..background import Background
from .metrics import Metrics
from .schema import Ask, Schema
from .sessions import Answer, Run

_LOG = logging.getLogger("regrip.serving")
UNSAID = -1  # of a number that the client did not give


def contents_of_traffic(schema: Schema) -> Contents:
    """What a set of served traffic holds: a row for each observation, in the order of their coming."""
    spec = schema.spec
    state = tuple(axis.name for axis in spec.state)
    made = [
        StreamSpec(f"observation.images.{c.name}", "image", "uint8", (c.height, c.width, 3))
        for c in spec.cameras
    ]
    made += [
        StreamSpec("observation.state", "vector", "float32", (len(state),), state),
        StreamSpec("decision.chunk", "vector", "float32", (schema.horizon, spec.action_dim)),
        StreamSpec("decision.step", "vector", "int64", ()),
        StreamSpec("served.seq", "vector", "int64", ()),
        StreamSpec("served.t_obs", "vector", "int64", ()),
        StreamSpec("served.seed", "vector", "int64", ()),
        StreamSpec("served.frozen", "vector", "int64", ()),
        StreamSpec("served.seconds", "vector", "float64", (), units=("s",)),
        StreamSpec("served.error", "text", "str", ()),
        StreamSpec("task", "text", "str", ()),
    ]
    return Contents({one.key: one for one in made}, spec.control_rate_hz, spec.name, spec=spec)


@dataclass(frozen=True)
class Exchange:
    """One observation, and the answer to it or why there is none."""

    run: Run
    ask: Ask
    received_ns: int
    settled_ns: int
    actions: NDArray[np.float32] | None
    error: str


@dataclass
class _Held:
    """What is held of an episode."""

    run: Run
    part: int = 0
    rows: list[tuple[Exchange, dict[str, bytes]]] = field(default_factory=list)
    bytes: int = 0


class Traffic:
    """Takes note of what an engine is asked and answers.

    Args:
        path: of the set; episodes are added to one that is there.
        schema: of the policy; those that are swapped in have the same robot and horizon.
        metrics: says how many were dropped.

    Raises:
        DataError: the set is another one, or somebody else writes to it.
    """

    LONGEST_QUEUE = 256
    MAX_BYTES = 256 << 20

    def __init__(self, path: Path, schema: Schema, metrics: Metrics) -> None:
        self.path, self.metrics = path, metrics
        self.problems: list[str] = []
        self._writer = StoreWriter.record(
            path, contents_of_traffic(schema), WriteOptions("copy"), source="regrip serve"
        )
        self._held: dict[str, _Held] = {}  # by session
        self._bytes = 0
        self._thread: Background[Exchange | str] = Background(self._take, "traffic", self.LONGEST_QUEUE)

    @property
    def episodes(self) -> int:
        """How many are safe."""
        return self._writer.done

    @property
    def dropped(self) -> int:
        """Exchanges that were not recorded."""
        return self._thread.dropped

    def settled(self, run: Run, ask: Ask, received_ns: int, result: Answer | Exception) -> None:
        """An observation was answered, or will not be; from any thread."""
        actions, error = (result.actions, "") if isinstance(result, Answer) else (None, str(result))
        one = Exchange(run, ask, received_ns, time.monotonic_ns(), actions, error)
        if not self._thread.put(one):
            self.metrics.gauge("unrecorded_observations", self.dropped)
            if self.dropped & (self.dropped - 1) == 0:  # the first, the second, the fourth, ...
                _LOG.warning("the disk is too slow: %d observations were not recorded", self.dropped)

    def ended(self, session: str) -> None:
        """The session's episode is over, or its client is gone."""
        self._thread.put(session, anyway=True)

    def _take(self, what: Exchange | str) -> None:
        try:
            if isinstance(what, str):
                self._write(what)
            else:
                self._hold(what)
        except DataError as error:  # it serves on; the episode is lost, and that is said
            self.problems.append(str(error))
            _LOG.error("not recorded: %s", error)

    def _hold(self, one: Exchange) -> None:
        session = one.run.session
        held = self._held.get(session)
        if held is not None and held.run is not one.run:
            self._write(session)
            held = None
        if held is None:
            held = self._held[session] = _Held(one.run)
        files = {name: encode_png(image) for name, image in one.ask.images.items()}
        size = sum(map(len, files.values())) + 4096
        held.rows.append((one, files))
        held.bytes += size
        self._bytes += size
        if self._bytes > self.MAX_BYTES:
            self._write(max(self._held.values(), key=lambda one: one.bytes).run.session, more=True)

    def _write(self, session: str, more: bool = False) -> None:
        """Put what is held of a session into the set; `more` of the same episode is to come."""
        held = self._held.pop(session, None)
        if held is None:
            return
        self._bytes -= held.bytes
        if more:
            self._held[session] = _Held(held.run, held.part + 1)
        if not held.rows:
            return
        rows = sorted(held.rows, key=lambda row: row[0].received_ns)  # a superseded one settles before
        began = rows[0][0].received_ns
        run = held.run
        about: dict[str, Any] = {
            "session": run.session, "episode": run.episode, "number": run.number, "part": held.part,
            "checkpoint": run.policy.schema.version,
        }  # fmt: skip
        wall = time.time_ns() - (time.monotonic_ns() - began)
        self._writer.begin_episode(rows[0][0].ask.instruction, began_ns=wall, about=about)
        for one, files in rows:
            self._add(one, files, (one.received_ns - began) / 1e9)
        self._writer.end_episode()

    def _add(self, one: Exchange, files: dict[str, bytes], when: float) -> None:
        ask, add = one.ask, self._writer.add
        for name, file in files.items():
            add(f"observation.images.{name}", file, when)
        add("observation.state", ask.state, when)
        if one.actions is not None:
            add("decision.chunk", one.actions, when)
        numbers = {"decision.step": ask.step, "served.seq": ask.seq, "served.t_obs": ask.t_obs}
        numbers |= {"served.seed": ask.seed, "served.frozen": ask.frozen}
        for key, value in numbers.items():
            add(key, np.int64(UNSAID if value is None else value), when)
        add("served.seconds", np.float64((one.settled_ns - one.received_ns) / 1e9), when)
        add("served.error", one.error, when)
        add("task", ask.instruction, when)

    def close(self) -> None:
        """Write what is held, and let go of the set."""
        for session in list(self._held):
            self.ended(session)
        self._thread.close()
        for session in list(self._held):  # one that came while the queue ran out
            self._take(session)
        self._writer.close()
