"""Episodes become recordings, go through a store, and come back equal."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from regrip.datasets.episode import Episode, Outcome, Provenance
from regrip.datasets.episode_io import contents_of, episode_of, recording_of
from regrip.datasets.formats import WriteOptions
from regrip.datasets.ledger import DataError
from regrip.datasets.spec import Axis, Camera, RobotSpec
from regrip.datasets.starts import StartState
from regrip.datasets.store.reader import Store
from regrip.datasets.store.writer import StoreWriter

SPEC = RobotSpec(
    "regrip-panda",
    "ee_delta",
    20.0,
    "rotation_vector_base",
    "1 is open",
    (Axis("x", "m", -0.05, 0.05), Axis("gripper", "", 0.0, 1.0)),
    (Axis("q", "rad", -3.0, 3.0),),
    (Camera("front", 8, 12), Camera("wrist", 8, 12, "mirrored")),
)


def episode(steps: int = 7, every: int = 1) -> Episode:
    rng = np.random.default_rng(steps)
    taken = np.arange(0, steps, every)
    return Episode(
        {c.name: rng.integers(0, 256, (len(taken), 8, 12, 3)).astype(np.uint8) for c in SPEC.cameras},
        taken,
        rng.random((steps, 1)).astype(np.float32),
        rng.random((steps, 2)).astype(np.float32),
        rng.random(steps).astype(np.float32),
        np.cumsum(rng.uniform(0.01, 0.1, steps)),
        "lift the cup",
        Outcome(True, True, False),
        Provenance("demo", StartState("demo/lift", "train", 3, 1), 42, "scripted"),
    )


def assert_equal(a: Episode, b: Episode) -> None:
    for name in ("frame_steps", "state", "action", "reward", "timestamp"):
        assert getattr(a, name).dtype == getattr(b, name).dtype
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name), err_msg=name)
    assert set(a.images) == set(b.images)
    for camera in a.images:
        np.testing.assert_array_equal(a.images[camera], b.images[camera])
    assert (a.task, a.outcome, a.provenance) == (b.task, b.outcome, b.provenance)


@pytest.mark.parametrize(("steps", "every"), [(7, 1), (9, 4), (1, 1)])
def test_there_and_back(tmp_path: Path, steps: int, every: int) -> None:
    want = episode(steps, every)
    assert_equal(episode_of(recording_of(want), SPEC), want)
    with StoreWriter.record(tmp_path / "set", contents_of(SPEC), WriteOptions(images="png")) as sink:
        sink.write(recording_of(want))
    store = Store(tmp_path / "set")
    assert store.contents.spec == SPEC
    assert store.contents.conventions.orientation["observation.images.wrist"] == "mirrored"
    assert_equal(episode_of(store[0], SPEC), want)


def test_what_is_no_episode_of_this_robot_is_refused(tmp_path: Path) -> None:
    good = recording_of(episode())
    action = good.streams["action"]
    front = good.streams["observation.images.front"]
    cases = [
        ({"action": dataclasses.replace(action, time=action.time + 1e-9)}, "clock"),
        ({"observation.images.front": dataclasses.replace(front, time=front.time + 0.001)}, "at no step"),
        ({"action": dataclasses.replace(action, rows=np.zeros((7, 3), np.float32))}, r"float32 \(2,\)"),
        ({"action": dataclasses.replace(action, rows=np.zeros((7, 2)))}, "float64"),
    ]
    for streams, words in cases:
        with pytest.raises(DataError, match=words):
            episode_of(dataclasses.replace(good, streams={**good.streams, **streams}), SPEC)
    with pytest.raises(DataError, match="lacks this stream"):
        episode_of(dataclasses.replace(good, streams={"action": action}), SPEC)
    with pytest.raises(DataError, match="must know"):
        episode_of(dataclasses.replace(good, success=None), SPEC)
    still = dataclasses.replace(episode(), timestamp=np.zeros(7))
    with pytest.raises(DataError, match="does not rise"):
        recording_of(still)
