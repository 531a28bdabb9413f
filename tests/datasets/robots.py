"""Made robots whose conventions are known, to see whether they are found out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regrip.datasets.ledger import Problem
from regrip.datasets.recording import Contents, Conventions, Recording, StreamSpec, Track

Array = NDArray[np.float64]
RATE = 20.0


class Memory:
    """A source that is a list."""

    format, path = "memory", "made/set"

    def __init__(
        self, contents: Contents, made: Sequence[Recording], problems: Sequence[Problem] = ()
    ) -> None:
        self.contents, self.made, self.problems = contents, made, problems

    def __len__(self) -> int:
        return len(self.made)

    def __getitem__(self, episode: int) -> Recording:
        return self.made[episode]

    def num_rows(self, episode: int) -> Mapping[str, int]:
        return {key: len(track) for key, track in self.made[episode].streams.items()}

    def close(self) -> None:
        pass


def vectors(
    parts: Mapping[str, Sequence[Array]],
    *,
    names: Mapping[str, tuple[str, ...]] | None = None,
    units: Mapping[str, tuple[str, ...]] | None = None,
    conventions: Conventions | None = None,
    rate_hz: float | None = RATE,
    times: Sequence[Array] | None = None,
    tasks: Sequence[str] | None = None,
    **more: Any,
) -> Memory:
    """A set of vector streams: for each key, the (T,D) rows of each episode."""
    names, units = names or {}, units or {}
    specs = {
        key: StreamSpec(
            key,
            "vector",
            str(rows[0].dtype),
            rows[0].shape[1:],
            names.get(key, ()),
            units.get(key, ()),
            rate_hz,
        )
        for key, rows in parts.items()
    }
    count = len(next(iter(parts.values())))
    made = []
    for index in range(count):
        streams = {}
        for key, rows in parts.items():
            time = np.arange(len(rows[index])) / RATE if times is None else times[index][: len(rows[index])]
            streams[key] = Track(rows[index], time)
        made.append(Recording(streams, task=tasks[index] if tasks else "lift the cup"))
    return Memory(Contents(specs, rate_hz, conventions=conventions or Conventions(), **more), made)


def smooth(rng: np.random.Generator, steps: int, width: int, memory: float = 0.8) -> Array:
    """(T,D) commands that change their mind slowly, as hands do."""
    out = np.zeros((steps, width))
    for t in range(1, steps):
        out[t] = memory * out[t - 1] + rng.standard_normal(width)
    return out


def robot(
    kind: str,
    *,
    observed: str = "before",
    seed: int = 0,
    episodes: int = 6,
    steps: int = 120,
    noise: float = 0.02,
    scale: float = 1.0,
) -> dict[str, list[Array]]:
    """Actions and states of a robot that obeys: `kind` is absolute, delta or velocity.

    The state at row t is the one before action t ran, or after it.
    """
    rng = np.random.default_rng(seed)
    actions, states = [], []
    for _ in range(episodes):
        turns = smooth(rng, steps, 3) * 0.05
        place = rng.uniform(-1, 1, 3) + np.concatenate([np.zeros((1, 3)), np.cumsum(turns, 0)])
        shaken = place + noise * 0.05 * rng.standard_normal(place.shape)
        given = {"delta": turns / scale, "velocity": turns * RATE, "absolute": place[1:]}[kind]
        actions.append(given)
        states.append(shaken[:-1] if observed == "before" else shaken[1:])
    return {"observation.state": states, "action": actions}


def hand(
    *,
    up_is_open: bool,
    seed: int = 0,
    episodes: int = 5,
    steps: int = 80,
    state: str = "width",
    delay: int = 3,
) -> dict[str, list[Array]]:
    """A gripper command of -1 and 1 and what the fingers do, after a delay."""
    rng = np.random.default_rng(seed)
    commands, fingers = [], []
    for _ in range(episodes):
        turns = np.sort(rng.choice(np.arange(5, steps - 5), 4, replace=False))
        wide = np.ones(steps)
        for number, turn in enumerate(turns):
            wide[turn:] = number % 2
        reached = np.concatenate([np.ones(delay), wide[:-delay]])
        commands.append((2 * wide - 1 if up_is_open else 1 - 2 * wide)[:, None])
        if state == "width":
            fingers.append(0.08 * reached[:, None])
        else:
            fingers.append(np.stack([0.04 * reached, -0.04 * reached], 1))
    return {"action.gripper": commands, "observation.gripper": fingers}


def turned(seed: int, steps: int, start: Array | None = None, speed: float = 0.15) -> Array:
    """(T,4) quaternions (xyzw) of a hand that turns about slowly."""
    rng = np.random.default_rng(seed)
    now = np.array([0.0, 0, 0, 1]) if start is None else start / np.linalg.norm(start)
    out = []
    for turn in smooth(rng, steps, 3) * speed / 2:
        angle = np.linalg.norm(turn) + 1e-12
        step = np.concatenate([np.sin(angle / 2) * turn / angle, [np.cos(angle / 2)]])
        now = _multiply(step, now)
        now = now / np.linalg.norm(now)
        out.append(now)
    return np.asarray(out)


def _multiply(a: Array, b: Array) -> Array:
    x, y, z, w = a
    p, q, r, s = b
    return np.array(
        [w * p + x * s + y * r - z * q, w * q - x * r + y * s + z * p, w * r + x * q - y * p + z * s,
         w * s - x * p - y * q - z * r]
    )  # fmt: skip
