"""SRPO's released arithmetic: its numbers, and its defects, pinned so that nobody takes them for ours."""

from __future__ import annotations

import numpy as np
import pytest

from regrip.rewards.srpo_released import released_centres, released_reward, released_shape


def test_the_reference_vector() -> None:
    # 0.6 / (1 + exp(-10 (0.5 - x))) at x = 0, 0.25, 0.5, 1:
    # 0.6 / 1.0067379, 0.6 / 1.082085, 0.6 / 2, 0.6 / 149.4132
    reward = released_shape(np.array([0.0, 0.25, 0.5, 1.0]))
    np.testing.assert_allclose(reward, [0.595984, 0.554485, 0.3, 0.004016], atol=5e-7)
    # min-max: distances 10, 12.5, 15, 20 give the same
    np.testing.assert_allclose(released_shape(np.array([10.0, 12.5, 15.0, 20.0])), reward, atol=1e-12)


def test_a_lone_failure_gets_less_than_the_best_of_several() -> None:
    """Section 1.5, problem 6: what a failure earns depends on the other failures of the batch."""
    assert released_shape(np.array([0.01]))[0] == pytest.approx(0.3)
    assert released_shape(np.array([0.01, 5.0]))[0] == pytest.approx(0.595984, abs=1e-6)
    np.testing.assert_allclose(released_shape(np.full(4, 7.0)), 0.3)


def test_reward_of_a_batch_by_hand() -> None:
    # successes (0, 1) and (2, 1), mean (1, 1); failures at distances 1, 2, 3 of it -> x = 0, 0.5, 1
    embedding = np.array([[0.0, 1.0], [2.0, 1.0], [1.0, 2.0], [1.0, 3.0], [4.0, 1.0], [0.0, 0.0], [0.0, 0.0]])
    success = np.array([True, True, False, False, False, True, False])
    reward = released_reward(embedding, success)
    np.testing.assert_allclose(reward, [1, 1, 0.595984, 0.3, 0.004016, 0, 0], atol=5e-7)


def test_nothing_for_a_task_without_success() -> None:
    assert released_reward(np.ones((3, 2)), np.zeros(3, dtype=bool)).tolist() == [0.0, 0.0, 0.0]


def test_its_dbscan_does_not_fire_in_many_dimensions() -> None:
    """Section 1.5, problem 1: three tight modes in 1408 dimensions, and it falls back to the mean of all."""
    generator = np.random.default_rng(0)
    modes = generator.normal(size=(3, 1408))
    success = np.concatenate([mode + 0.1 * generator.normal(size=(8, 1408)) for mode in modes])
    centres, fired = released_centres(success)
    assert not fired
    np.testing.assert_allclose(centres, success.mean(0, keepdims=True))
    copies, fired = released_centres(np.concatenate([success, success[:1]]))  # only a duplicate makes it
    assert fired
    np.testing.assert_allclose(copies, success[:1], atol=1e-9)
