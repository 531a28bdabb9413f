"""Statistics by hand, and intervals that are those of whole episodes."""

from __future__ import annotations

import numpy as np
import pytest

from regrip.sim.world.estimates import (
    auroc,
    curve,
    estimate,
    expected_calibration_error,
    kendall,
    mean_of,
    ratio_of,
    spearman,
)


def test_auroc_is_counted_inside_tasks() -> None:
    score, truth = np.array([0.9, 0.1, 0.5, 0.5]), np.array([True, False, True, False])
    assert auroc(score, truth, np.zeros(4, int)) == pytest.approx((1 + 1 + 1 + 0.5) / 4)
    # Between tasks nothing is compared: 1 of 1, and one tie.
    assert auroc(score, truth, np.array([0, 0, 1, 1])) == pytest.approx(0.75)
    assert np.isnan(auroc(score, np.ones(4, bool), np.zeros(4, int)))


def test_calibration_error_by_hand() -> None:
    chance, truth = np.array([0.05, 0.05, 0.95, 1.0]), np.array([False, True, True, True])
    # Bins: {0.05, 0.05} off by |0.1 - 1|, {0.95, 1.0} by |1.95 - 2|; both over 4.
    assert expected_calibration_error(chance, truth) == pytest.approx((0.9 + 0.05) / 4)


def test_rank_correlations_by_hand() -> None:
    a, b = np.array([0.1, 0.2, 0.3]), np.array([0.5, 0.9, 0.7])
    assert spearman(a, b) == pytest.approx(0.5)
    assert kendall(a, b) == pytest.approx(1 / 3)
    assert np.isnan(spearman(a, np.ones(3)))
    assert np.isnan(kendall(a[:1], b[:1]))


def test_a_curve_leaves_out_what_is_not_known() -> None:
    found = curve(np.array([[1.0, 2.0, np.nan], [3.0, np.nan, np.nan]]))
    assert found.value[:2].tolist() == [2.0, 2.0]
    assert np.isnan(found.value[2])
    assert np.isnan(found.high[2])
    assert 1.0 <= found.low[0] < 2.0 < found.high[0] <= 3.0
    assert found.low[1] == found.high[1] == 2.0


def test_decisions_of_one_episode_are_not_independent() -> None:
    """The same values in few long episodes leave more doubt than in many short ones."""
    values = np.repeat(np.random.default_rng(0).normal(size=(8, 1)), 100, 1)
    few, many = mean_of(values, ""), mean_of(values.T.reshape(-1, 1), "")
    assert few.value == pytest.approx(many.value)
    assert few.high - few.low > 5 * (many.high - many.low)  # type: ignore[operator]


def test_a_number_that_is_not_defined_says_why() -> None:
    found = ratio_of(np.zeros((3, 2)), np.zeros((3, 2)), "nothing changed")
    assert (found.value, found.why, str(found)) == (None, "nothing changed", "-")


def test_groups_are_drawn_from_apart() -> None:
    """Drawn from apart, each group keeps its size, so a mean of equal values in a group never changes."""
    values = np.array([0.0] * 5 + [1.0] * 15)
    found = estimate(lambda rows: float(values[rows].mean()), 20, "", parts=[5, 15])
    assert found.low == found.high == found.value == 0.75
