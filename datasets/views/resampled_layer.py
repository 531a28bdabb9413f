"""A set on one clock, resampled as it is read."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ..ledger import DataError, Ledger, Loss
from ..recording import Contents, Recording
from .changing import find
from .layers import Layer


@dataclass(frozen=True)
class Resample:
    """Put all streams on one clock (`resampling.resample`); ticks that a stream has no row for are left out.

    Attributes:
        rate_hz: an even clock from the first moment that all streams cover; or
        master: the stream whose times are the clock.
        policies: stream to policy; the others have `resampling.default_policy`.
        latency_s: stream to how much later than the event its times are.
        max_staleness_s: how far from a tick the rows it is made of may be; None for any distance.
    """

    name: ClassVar[str] = "resample"
    rate_hz: float | None = None
    master: str = ""
    policies: Mapping[str, str] = field(default_factory=dict)
    latency_s: Mapping[str, float] = field(default_factory=dict)
    max_staleness_s: float | None = None

    def __post_init__(self) -> None:
        if (self.rate_hz is None) == (not self.master) or not 0 < (self.rate_hz or 1) <= 1e6:
            raise DataError(f"rate {self.rate_hz}, master {self.master!r}", "give a rate in Hz, or a stream")
        if not self.policies:
            return
        from .resampling import POLICIES  # with scipy, which is slow to import

        for key, policy in self.policies.items():
            if policy not in POLICIES:
                there = ", ".join(POLICIES)
                raise DataError(f"no policy is called {policy!r}", f"the policies are {there}", key=key)

    def contents(self, of: Contents) -> Contents:
        """What the set then holds."""
        for key in (*self.policies, *self.latency_s, *([self.master] if self.master else [])):
            find(key, of)
        rate = self.rate_hz if self.rate_hz is not None else of.streams[self.master].rate_hz
        action = of.streams.get("action")
        if action is not None and of.conventions.action in ("delta", "relative"):
            before = action.rate_hz or of.rate_hz
            if before is None or rate is None or not np.isclose(before, rate, rtol=1e-3):
                raise DataError(
                    f"actions are {of.conventions.action}: on a clock of {rate} Hz instead of {before} Hz "
                    "they would move the robot by another way",
                    "convert the actions to absolute ones first",
                    key="action",
                )
        streams = {
            key: dataclasses.replace(spec, rate_hz=rate, about={**spec.about, "time": "resampled"})
            for key, spec in of.streams.items()
        }
        contract = of.spec
        if contract is not None:
            contract = None if rate is None else dataclasses.replace(contract, control_rate_hz=rate)
        return dataclasses.replace(of, streams=streams, rate_hz=rate, spec=contract)


class Resampled:
    """Every episode on one clock.

    Reading by rows computes all numbers of the set when the first row is asked for, and holds them (not the
    images, which are those of the set below).
    """

    def __init__(self, base: Layer, op: Resample) -> None:
        self.base, self.op, self.has_rows = base, op, base.has_rows
        self.contents, self.problems = op.contents(base.contents), base.problems
        self._counts: dict[int, Mapping[str, int]] = {}
        self._losses: dict[int, list[Loss]] = {}
        self._bounds: dict[str, NDArray[np.int64]] = {}
        self._times: dict[str, NDArray[np.float64]] = {}
        self._vectors: dict[str, NDArray[Any]] = {}
        self._images: dict[str, NDArray[np.int64]] = {}

    def __len__(self) -> int:
        return len(self.base)

    def __getitem__(self, episode: int) -> Recording:
        from .resampling import Policy, resample

        recording = self.base[episode]
        policies: dict[str, Policy] = dict(self.op.policies)  # type: ignore[arg-type]  # checked when made
        try:
            made, _, losses = resample(
                recording,
                self.base.contents,
                rate_hz=self.op.rate_hz,
                master=self.op.master,
                policies=policies,
                latency_s=self.op.latency_s,
                max_staleness_s=self.op.max_staleness_s,
            )
        except DataError as error:
            raise DataError(
                error.what, error.remedy, file=error.file, episode=episode, frame=error.frame, key=error.key
            ) from error
        self._losses[episode] = losses
        self._counts[episode] = {key: len(track) for key, track in made.streams.items()}
        return made

    def num_rows(self, episode: int) -> Mapping[str, int]:
        if episode not in self._counts:
            self[episode]
        return self._counts[episode]

    def losses(self) -> list[Loss]:
        found = Ledger(self.base.losses())
        for episode in range(len(self)):
            self.num_rows(episode)
            for loss in self._losses[episode]:
                found.add(loss)
        return found.losses

    def tasks(self) -> Sequence[str]:
        return self.base.tasks()

    def _compute(self) -> None:
        if self._bounds:
            return
        from .resampling import PickedFrames

        specs = self.contents.streams
        times: dict[str, list[NDArray[Any]]] = {key: [] for key in specs}
        values: dict[str, list[NDArray[Any]]] = {key: [] for key in specs}
        for episode in range(len(self)):
            for key, track in self[episode].streams.items():
                times[key].append(track.time)
                if specs[key].kind == "vector":
                    values[key].append(np.asarray(track.rows))
                elif specs[key].kind != "text":
                    first = int(self.base.bounds(key)[episode, 0])
                    rows = track.rows
                    index = rows.index if isinstance(rows, PickedFrames) else np.arange(len(track))
                    values[key].append(first + index)
        for key, spec in specs.items():
            counts = [self._counts[episode].get(key, 0) for episode in range(len(self))]
            ends = np.cumsum(counts, dtype=np.int64)
            self._bounds[key] = np.stack([ends - counts, ends], axis=1)
            self._times[key] = np.concatenate(times[key] or [np.zeros(0)])
            if spec.kind == "vector":
                empty: NDArray[Any] = np.zeros((0, *spec.shape), spec.dtype)
                self._vectors[key] = np.concatenate(values[key] or [empty])
            elif spec.kind != "text":
                self._images[key] = np.concatenate(values[key] or [np.zeros(0, np.int64)])

    def bounds(self, key: str) -> NDArray[np.int64]:
        self._compute()
        return self._bounds[key]

    def vectors(self, key: str, rows: NDArray[np.int64]) -> NDArray[Any]:
        self._compute()
        return self._vectors[key][rows]

    def times(self, key: str, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        self._compute()
        return self._times[key][rows]

    def image(self, key: str, row: int) -> NDArray[Any]:
        self._compute()
        return self.base.image(key, int(self._images[key][row]))
