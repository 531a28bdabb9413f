"""Weights of advantage-weighted regression, by hand, and what a weight does to the loss."""

from __future__ import annotations

import math

import numpy as np
import pytest

from regrip.vla.awr import weights


def test_weights_compare_within_a_task_only() -> None:
    # Task a: returns 1 and 0, mean 0.5, advantages +-0.5; at temperature 0.5 the weights are e and 1/e.
    # Task b: 0.2 and 0.2, advantage 0, weight 1, however much better task a went.
    found = weights(np.array([1.0, 0.2, 0.0, 0.2]), ["s/a", "s/b", "s/a", "s/b"], 0.5, 10.0)
    assert found == pytest.approx([math.e, 1.0, 1 / math.e, 1.0], rel=1e-6)


def test_weights_are_bounded() -> None:
    found = weights(np.array([1.0, 0.0, 0.0, 0.0]), ["s/a"] * 4, 0.01, 7.0)
    assert found[0] == 7.0
    assert (found[1:] < 1e-9).all()


def test_a_shift_of_all_returns_changes_nothing() -> None:
    returns = np.array([0.3, 0.9, 0.1])
    tasks = ["s/a"] * 3
    assert weights(returns + 5, tasks, 0.2, 10.0) == pytest.approx(weights(returns, tasks, 0.2, 10.0))
