"""A world whose truth is known: a red block on a table, moved by what is commanded, and recordings of it.

The task is to bring it to the right edge. Half of the episodes are played by ``good``, which goes there, and
half by ``poor``, which wanders; now and then both stand still.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from regrip.datasets.episode_io import contents_of
from regrip.datasets.frames import ArrayFrames
from regrip.datasets.recording import Recording, Track
from regrip.datasets.spec import Axis, Camera, RobotSpec
from regrip.datasets.store.writer import StoreWriter

SIZE = 32
RATE_HZ = 10.0
CHUNK = 2
LIMIT = 15  # control steps of a failure
STEP_M = 0.1
CAMERA = "observation.images.top"
TASKS = ("carry the block right", "bring the block right")


def spec(name: str = "carrier", actions: int = 2) -> RobotSpec:
    return RobotSpec(
        name=name,
        control_mode="ee_delta",
        control_rate_hz=RATE_HZ,
        rotation="none",
        gripper="none",
        action=tuple(Axis(f"d{c}", "m", -STEP_M, STEP_M) for c in "xyz"[:actions]),
        state=tuple(Axis(f"tcp_{c}", "m", 0.0, 1.0) for c in "xy"),
        cameras=(Camera("top", SIZE, SIZE),),
    )


def picture(state: NDArray[np.floating]) -> NDArray[np.uint8]:
    """What the camera sees of a block at `state` (x, y) in [0, 1]."""
    frame = np.full((SIZE, SIZE, 3), (225, 215, 200), np.uint8)
    frame[:, -4:] = (90, 160, 90)
    x, y = (round(float(v) * (SIZE - 8)) for v in state)
    frame[y : y + 8, x : x + 8] = (190, 50, 40)
    return frame


def episode(index: int, limit: int = LIMIT) -> Recording:
    """Played by ``good`` if `index` is even."""
    draw = np.random.default_rng([17, index])
    good = index % 2 == 0
    state = np.array([draw.uniform(0.05, 0.4), draw.uniform(0.1, 0.9)])
    states, actions, success = [], [], False
    heading = draw.normal(size=2)
    for step in range(limit):
        if step % 4 == 0:
            heading = draw.normal(size=2)
        wanted = np.array([0.09, 0.03 * heading[1]]) if good else 0.05 * heading
        action = np.clip(wanted + 0.02 * draw.normal(size=2), -STEP_M, STEP_M) * (draw.random() > 0.1)
        states.append(state)
        actions.append(action)
        state = np.clip(state + action, 0, 1)
        if state[0] > 0.85:
            success = True
            break
    time = np.arange(len(actions)) / RATE_HZ
    seen = np.stack([picture(one) for one in states])
    return Recording(
        {
            CAMERA: Track(ArrayFrames(seen), time),
            "observation.state": Track(np.array(states, np.float32), time),
            "action": Track(np.array(actions, np.float32), time),
            "reward": Track(np.zeros(len(actions), np.float32), time),
        },
        task=TASKS[index // 2 % 2],
        success=success,
        terminated=success,
        truncated=not success,
        about={"policy": "good" if good else "poor"},
    )


def write(
    path: Path,
    indices: Iterable[int],
    change: Callable[[Recording], Recording] = lambda one: one,
    limit: int = LIMIT,
) -> Path:
    """A set of these episodes, each perhaps changed on the way."""
    writer = StoreWriter.record(path, contents_of(spec()), source="carrier")
    for index in indices:
        writer.write(change(episode(index, limit)))
    writer.close()
    return path
