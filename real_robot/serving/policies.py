"""Policies without weights: to try a robot, a network or a client on. All behind `sessions.ServedPolicy`."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...datasets.formats import open_source
from ...datasets.ledger import DataError
from ...datasets.spec import RobotSpec
from ...datasets.starts import counter_generator
from .schema import Ask, Schema
from .sessions import Run, ServedPolicy

Rows = list[NDArray[np.float32] | None]

FAULTS = {
    "latency": "fault:latency:SECONDS answers so much later",
    "hang": "fault:hang never answers, and blocks everybody else",
    "drop": "fault:drop:SHARE gives no answer to that share of observations",
    "nan": "fault:nan puts a NaN into the last action",
    "limit": "fault:limit puts an action far outside its limits",
    "shape": "fault:shape answers one action too few",
    "error": "fault:error raises",
}


class HoldAction:
    """The action that keeps an arm where it is.

    Raises:
        ValueError: the spec does not say how to hold, naming the axis.
    """

    def __init__(self, spec: RobotSpec) -> None:
        places = {axis.name: index for index, axis in enumerate(spec.state)}
        grippers = [(i, axis) for i, axis in enumerate(spec.state) if "gripper" in axis.name]
        self._from: list[int | None] = []
        for axis in spec.action:
            if axis.name in places and spec.control_mode != "ee_delta":
                self._from.append(places[axis.name])
            elif "gripper" in axis.name and len(grippers) == 1 and grippers[0][1].unit == axis.unit:
                self._from.append(grippers[0][0])
            elif (
                spec.control_mode == "ee_delta" and axis.low <= 0 <= axis.high and "gripper" not in axis.name
            ):
                self._from.append(None)
            else:
                raise ValueError(
                    f"robot {spec.name}: {axis.name} ({axis.unit}) has no entry in the state that says where "
                    "it is, so it cannot be held: use --policy random or a checkpoint"
                )
        self._low, self._high = spec.action_low, spec.action_high

    def __call__(self, state: NDArray[np.float32]) -> NDArray[np.float32]:
        """(S,) state -> (A,) action."""
        action = np.array([0.0 if place is None else state[place] for place in self._from], np.float32)
        return np.clip(action, self._low, self._high)


class HoldPolicy:
    """The arm stays where it is."""

    def __init__(self, schema: Schema) -> None:
        self.schema = replace(schema, model="hold", digest="", rtc=False, sampled=False)
        self._hold = HoldAction(schema.spec)

    def act(self, asks: Sequence[Ask], runs: Sequence[Run]) -> Rows:
        return [np.tile(self._hold(ask.state), (self.schema.horizon, 1)) for ask in asks]


class RandomPolicy:
    """Actions drawn uniformly within a share of their limits; each session and episode has its own numbers.

    Args:
        schema: of what it stands for.
        seed: same seed, session, episode and count: same actions. A client's own seed goes before it.
        share: of the limits, about their middle.
    """

    def __init__(self, schema: Schema, seed: int = 0, share: float = 1.0) -> None:
        self.schema = replace(schema, model="random", digest="", rtc=False, sampled=True)
        self._seed = seed
        low, high = schema.spec.action_low, schema.spec.action_high
        self._middle, self._half = (low + high) / 2, share * (high - low) / 2

    def act(self, asks: Sequence[Ask], runs: Sequence[Run]) -> Rows:
        rows: Rows = []
        for ask, run in zip(asks, runs, strict=True):
            generator = counter_generator(*noise_key(ask, run, self._seed))
            shape = (self.schema.horizon, self.schema.spec.action_dim)
            drawn = generator.uniform(-1.0, 1.0, shape).astype(np.float32)
            rows.append(np.asarray(self._middle + self._half * drawn, np.float32))
        return rows


class ReplayPolicy:
    """Plays the actions of recorded episodes; what is seen makes no difference.

    A session's first episode is the set's first, and so on, round and round. An ask that says its step gets
    the actions from that step on; without one, every answer goes on after the last. After the end the arm is
    held.

    Args:
        path: a set of any format that `regrip inspect` reads.
        schema: of what it stands for; the set's own spec must match, if it has one.

    Raises:
        DataError: the set cannot be read, or has no actions of this robot.
        SpecMismatchError: it is of another robot.
    """

    def __init__(self, path: Path, schema: Schema) -> None:
        source = open_source(path)
        spec = schema.spec
        if source.contents.spec is not None:
            source.contents.spec.require_match(spec, f"set {path}", f"policy {schema.model}")
        self._episodes: list[NDArray[np.float32]] = []
        for index in range(len(source)):
            track = source[index].streams.get("action")
            rows = np.zeros((0, 0)) if track is None else np.asarray(track.rows)
            if rows.ndim != 2 or rows.shape[1] != spec.action_dim:
                raise DataError(
                    f"actions of shape {rows.shape}, expected (T, {spec.action_dim})",
                    "give a set of this robot",
                    file=path,
                    episode=index,
                )
            self._episodes.append(rows.astype(np.float32))
        source.close()
        if not self._episodes:
            raise DataError("there are no episodes to replay", "record one first", file=path)
        self.schema = replace(schema, model=f"replay:{path.name}", digest="", rtc=False, sampled=False)
        self._hold = HoldAction(spec)

    def act(self, asks: Sequence[Ask], runs: Sequence[Run]) -> Rows:
        rows: Rows = []
        for ask, run in zip(asks, runs, strict=True):
            episode = self._episodes[self._which(run)]
            first = int(run.memory.get("next", 0)) if ask.step is None else max(0, ask.step)
            chunk = episode[first : first + self.schema.horizon]
            run.memory["next"] = first + self.schema.horizon
            missing = self.schema.horizon - len(chunk)
            rows.append(np.concatenate([chunk, np.tile(self._hold(ask.state), (missing, 1))]))
        return rows

    def _which(self, run: Run) -> int:
        return run.number % len(self._episodes)


class FaultyPolicy:
    """Another policy with something wrong with it, see `FAULTS`.

    Args:
        policy: whose answers are spoilt.
        fault: what is wrong.
        amount: of ``latency``, in seconds; of ``drop``, a share.
    """

    def __init__(self, policy: ServedPolicy, fault: str, amount: float = 0.0) -> None:
        self.schema = replace(policy.schema, model=f"fault:{fault}", digest="")
        self._policy, self._fault, self._amount = policy, fault, amount
        self._dropped = 0.0
        self.released = threading.Event()  # ends a hang or a latency, in tests

    def act(self, asks: Sequence[Ask], runs: Sequence[Run]) -> Rows:
        rows: Rows = list(self._policy.act(asks, runs))
        if runs and runs[0].session.startswith("warm-up"):
            return rows
        if self._fault == "error":
            raise RuntimeError("fault:error, as asked for")
        if self._fault in ("latency", "hang"):
            self.released.wait(self._amount if self._fault == "latency" else None)
        return [self._spoilt(row) for row in rows]

    def _spoilt(self, row: NDArray[np.float32] | None) -> NDArray[np.float32] | None:
        assert row is not None, "the policy underneath withholds nothing"
        row = row.copy()
        if self._fault == "drop":
            self._dropped += self._amount
            if self._dropped >= 1.0:
                self._dropped -= 1.0
                return None
        elif self._fault == "nan":
            row[-1, 0] = np.nan
        elif self._fault == "limit":
            row[-1] = 100 * np.maximum(1.0, np.abs(self.schema.spec.action_high))
        elif self._fault == "shape":
            row = row[:-1]
        return row


def noise_key(ask: Ask, run: Run, seed: int) -> tuple[str | int, ...]:
    """From what a sampled answer draws its numbers: the client's seed alone, or else whose turn it is."""
    if ask.seed is not None:
        return ("serve", ask.seed)
    return ("serve", seed, run.session, run.episode, run.number, run.count)


def built_in(name: str, schema: Schema, seed: int = 0) -> ServedPolicy:
    """A policy without weights, by what a user writes.

    Args:
        name: ``hold``, ``random``, ``replay:SET`` or ``fault:WHAT[:AMOUNT]``.
        schema: of the policy it stands for.
        seed: of ``random``.

    Raises:
        ValueError: there is none of that name, listing those there are.
    """
    kind, _, rest = name.partition(":")
    if name == "hold":
        return HoldPolicy(schema)
    if name == "random":
        return RandomPolicy(schema, seed)
    if kind == "replay" and rest:
        return ReplayPolicy(Path(rest), schema)
    fault, _, amount = rest.partition(":")
    if kind == "fault" and fault in FAULTS:
        try:
            value = float(amount or {"latency": 0.5, "drop": 0.5}.get(fault, 0.0))
        except ValueError as error:
            raise ValueError(f"policy {name!r}: {amount!r} is not a number") from error
        if not 0.0 <= value < 3600.0 or (fault == "drop" and value > 1.0):
            raise ValueError(f"policy {name!r}: {value} is not possible; {FAULTS[fault]}")
        return FaultyPolicy(HoldPolicy(schema), fault, value)
    faults = "; ".join(FAULTS.values())
    raise ValueError(f"there is no policy {name!r}: give hold, random, replay:SET, or {faults}")
