"""Rollouts go into a file and come back, or the file is refused by name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import reward_toy as toy

from regrip.datasets.rollout_files import RolloutFileError, load_rollouts, save_rollouts


def test_round_trip(tmp_path: Path) -> None:
    rollouts = toy.many(2, 3)
    save_rollouts(tmp_path / "toy.rollouts", rollouts, "half-good")
    back, policy = load_rollouts(tmp_path / "toy.rollouts")
    assert policy == "half-good"
    assert list(back.start) == list(rollouts.start)
    assert list(back.instruction) == list(rollouts.instruction)
    for name in ("group", "state", "privileged", "action", "valid", "reward", "success", "truncated"):
        np.testing.assert_array_equal(getattr(back, name), getattr(rollouts, name))
    for camera, frames in rollouts.images.items():
        np.testing.assert_array_equal(back.images[camera], frames)


def test_what_is_no_file_of_rollouts_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "toy.rollouts"
    with pytest.raises(RolloutFileError, match="regrip rewards record"):
        load_rollouts(path)
    path.write_bytes(b"hello")
    with pytest.raises(RolloutFileError, match="no whole file of rollouts"):
        load_rollouts(path)
    save_rollouts(path, toy.many(1, 1), "x")
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(RolloutFileError, match="no whole file of rollouts"):
        load_rollouts(path)


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "toy.rollouts"
    save_rollouts(path, toy.many(1, 0), "old")
    with pytest.raises(TypeError):
        save_rollouts(path, toy.many(1, 0), object())  # type: ignore[arg-type]
    assert load_rollouts(path)[1] == "old"
    assert [found.name for found in tmp_path.iterdir()] == ["toy.rollouts"]
