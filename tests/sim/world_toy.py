"""A toy world to learn: a bright dot on a grey square, moved by the actions, to the right or the left."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from regrip.datasets.episode import Episode, Outcome, Provenance
from regrip.datasets.episode_io import contents_of, recording_of
from regrip.datasets.spec import Axis, Camera, RobotSpec
from regrip.datasets.starts import StartState, counter_generator
from regrip.datasets.store.writer import StoreWriter

SIZE = 32
CHUNK = 2
INSTRUCTIONS = ("move the dot to the right", "move the dot to the left")
SPEC = RobotSpec(
    name="dot", control_mode="ee_delta", control_rate_hz=10.0, rotation="none", gripper="none",
    action=(Axis("dx", "px", -4, 4), Axis("dy", "px", -4, 4)),
    state=(Axis("x", "px", 0, SIZE), Axis("y", "px", 0, SIZE)),
    cameras=(Camera("front", SIZE, SIZE),),
)  # fmt: skip


def draw(place: NDArray[np.float64]) -> NDArray[np.uint8]:
    """The picture (h,w,3) of a dot at `place` (x, y)."""
    rows, columns = np.mgrid[:SIZE, :SIZE]
    near = np.exp(-((columns - place[0]) ** 2 + (rows - place[1]) ** 2) / 18.0)
    picture = 90 + 150 * near[..., None] * np.array([1.0, 0.8, 0.2])
    return np.asarray(picture, np.uint8)


def episode(index: int, task: int, seed: int = 0) -> Episode:
    """Ten steps at most of a random walk that leans one way or the other."""
    rng = counter_generator("toy world", seed, task, index)
    place = rng.uniform(10, 22, 2)
    lean = rng.choice([-2.0, 2.0])
    states, actions, pictures, success = [], [], [], False
    for _ in range(10):
        action = np.clip(rng.normal([lean, 0], 1.2), -4, 4).astype(np.float32)
        states.append(place.astype(np.float32))
        actions.append(action)
        pictures.append(draw(place))
        place = np.clip(place + action, 2, SIZE - 3)
        success = bool(place[0] > 26) if task == 0 else bool(place[0] < 6)
        if success:
            break
    steps = len(actions)
    start = StartState(f"toy/{('right', 'left')[task]}", "train", index, seed)
    return Episode(
        images={"front": np.stack(pictures)},
        frame_steps=np.arange(steps),
        state=np.stack(states),
        action=np.stack(actions),
        reward=np.eye(1, steps, steps - 1, dtype=np.float32)[0] * success,
        timestamp=np.arange(steps) / SPEC.control_rate_hz,
        task=INSTRUCTIONS[task],
        outcome=Outcome(success, success, not success),
        provenance=Provenance("toy", start, seed, "walk"),
    )


def write(path: Path, each: int = 40, seed: int = 0) -> Path:
    """A set of `each` episodes of both tasks."""
    writer = StoreWriter.record(path, contents_of(SPEC), source="toy")
    for index in range(each):
        for task in range(2):
            writer.write(recording_of(episode(index, task, seed)))
    writer.close()
    return path
