"""Binary success: one, at the step of success, and nothing else."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from regrip.rewards.binary import BinarySuccess, at_last_step


def test_one_at_the_step_of_success(play, walk) -> None:  # type: ignore[no-untyped-def]
    rollouts = play([walk(1.0), walk(0.4)])
    signal = BinarySuccess()(rollouts)
    # the success takes 6 decisions and ends in the first step of the last chunk
    assert np.argwhere(signal.value).tolist() == [[0, 5, 0]]
    assert signal.value[0, 5, 0] == 1.0
    assert signal.value.dtype == np.float32
    assert signal.valid.all()
    assert not signal.relative


def test_an_episode_without_steps_is_not_judged(play, walk) -> None:  # type: ignore[no-untyped-def]
    rollouts = play([walk(1.0), walk(1.0, row=1)])
    valid = rollouts.valid.copy()
    valid[1] = False
    signal = BinarySuccess()(replace(rollouts, valid=valid))
    assert signal.valid.tolist() == [True, False]
    assert not signal.value[1].any()


def test_at_last_step_by_hand() -> None:
    valid = np.array([[[True, True], [True, False]], [[True, False], [False, False]], [[False] * 2] * 2])
    value = at_last_step(valid, np.array([1.0, 2.0, 3.0]))
    assert value.tolist() == [[[0, 0], [1, 0]], [[2, 0], [0, 0]], [[0, 0], [0, 0]]]


def test_no_state_is_taken() -> None:
    reward = BinarySuccess()
    reward.load_state_dict(reward.state_dict())
    with pytest.raises(ValueError, match="keeps no state, but was given"):
        reward.load_state_dict({"newest_iteration": np.array(3)})
