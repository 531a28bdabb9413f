"""Numbers by hand first, scipy as the referee second."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from regrip.datasets.statistics import (
    Interval,
    Rate,
    bootstrap_mean,
    format_p,
    mcnemar,
    paired_difference,
    paired_interval,
    wilson,
)


def test_wilson_by_hand() -> None:
    # 143 of 180, z = 1.959964, z^2 = 3.841459: p = 0.794444
    # centre = (p + z^2/360) / (1 + z^2/180) = 0.805115 / 1.021341 = 0.788292
    # half = z sqrt(p(1-p)/180 + z^2/129600) / 1.021341 = 1.959964 sqrt(9.07236e-4 + 2.96409e-5) / 1.021341
    #      = 1.959964 * 0.0306084 / 1.021341 = 0.058738
    interval = wilson(143, 180)
    assert interval.low == pytest.approx(0.788292 - 0.058738, abs=2e-6)
    assert interval.high == pytest.approx(0.788292 + 0.058738, abs=2e-6)
    assert str(Rate(143, 180)) == "143/180 = 79.4 % [73.0, 84.7]"


def test_wilson_at_the_ends() -> None:
    assert wilson(0, 0) == Interval(0.0, 1.0)
    assert wilson(0, 10).low == 0.0
    assert wilson(10, 10).high == 1.0
    # 10 of 10: low = (1 + z^2/20 - z sqrt(z^2/400)) / (1 + z^2/10) = 1 / (1 + z^2/10)
    assert wilson(10, 10).low == pytest.approx(1 / 1.3841459, abs=1e-6)


@given(st.integers(1, 2000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_agrees_with_scipy(counts: tuple[int, int]) -> None:
    successes, trials = counts
    referee = stats.binomtest(successes, trials).proportion_ci(0.95, method="wilson")
    interval = wilson(successes, trials)
    assert interval.low == pytest.approx(referee.low, abs=1e-12)
    assert interval.high == pytest.approx(referee.high, abs=1e-12)


def test_rates_add_and_refuse_nonsense() -> None:
    assert Rate(1, 2) + Rate(3, 4) == Rate(4, 6)
    assert math.isnan(Rate(0, 0).value)
    assert str(Rate(0, 0)) == "0/0 (not measured)"
    with pytest.raises(ValueError, match="3 successes in 2 trials"):
        Rate(3, 2)


def test_mcnemar_by_hand() -> None:
    # 1 against 5: 2 (C(6,0) + C(6,1)) / 2^6 = 14/64
    assert mcnemar(1, 5) == pytest.approx(14 / 64)
    assert mcnemar(5, 1) == pytest.approx(14 / 64)
    # 0 against 10: 2 / 2^10
    assert mcnemar(0, 10) == pytest.approx(2 / 1024)
    assert mcnemar(0, 0) == 1.0
    assert mcnemar(4, 4) == 1.0


@given(st.integers(0, 60), st.integers(0, 60))
def test_mcnemar_is_twice_the_smaller_tail(b: int, c: int) -> None:
    tail = sum(math.comb(b + c, k) for k in range(min(b, c) + 1)) / 2 ** (b + c)
    assert mcnemar(b, c) == pytest.approx(min(1.0, 2 * tail), abs=1e-12)


def test_paired_difference_by_hand() -> None:
    first = [1, 1, 0, 0, 0, 0, 0, 1]
    second = [1, 0, 1, 1, 1, 1, 1, 1]
    found = paired_difference(first, second)
    assert (found.num_pairs, found.only_first, found.only_second) == (8, 1, 5)
    assert found.difference == pytest.approx(4 / 8)
    assert found.p_value == pytest.approx(14 / 64)
    assert found.interval.low < 0.5 < found.interval.high
    assert "+50.0 points" in str(found)
    assert "5 gained, 1 lost, McNemar p = 0.22" in str(found)


def test_paired_interval_by_hand() -> None:
    # 1 lost, 5 gained of 8: 2/10 and 6/10; 0.4 -+ 1.959964 sqrt((0.8 - 0.16) / 10) = 0.4 -+ 0.495836
    interval = paired_interval(1, 5, 8)
    assert (interval.low, interval.high) == pytest.approx((-0.095836, 0.895836), abs=1e-6)
    # 0 lost, 0 gained of 8: 0 -+ 1.959964 sqrt(0.2 / 10): no change in eight is no proof of no change
    assert paired_interval(0, 0, 8).high == pytest.approx(0.277180, abs=1e-6)
    assert paired_interval(0, 8, 8).high == 1.0


def test_paired_interval_holds_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    for lost, gained, pairs in ((0.02, 0.2, 180), (0.1, 0.1, 60), (0.0, 0.6, 180)):
        counts = rng.multinomial(pairs, [lost, gained, 1 - lost - gained], size=2000)
        held = [
            interval.low <= gained - lost <= interval.high
            for interval in (paired_interval(int(b), int(c), pairs) for b, c, _ in counts)
        ]
        assert 0.93 < np.mean(held) < 0.99


def test_paired_interval_agrees_with_the_bootstrap_where_much_changed() -> None:
    difference = np.repeat([-1.0, 0.0, 1.0], [30, 200, 100])
    mine, referee = paired_interval(30, 100, 330), bootstrap_mean(difference)
    assert mine.low == pytest.approx(referee.low, abs=0.01)
    assert mine.high == pytest.approx(referee.high, abs=0.01)


def test_pairing_is_tighter_than_two_separate_rates() -> None:
    rng = np.random.default_rng(0)
    hard = rng.random(400) < 0.5
    first = ~hard
    second = ~hard | (rng.random(400) < 0.1)
    interval = paired_difference(first, second).interval
    separate = stats.norm.ppf(0.975) * math.sqrt(2 * 0.25 / 400)
    assert (interval.high - interval.low) / 2 < separate / 2


def test_means_over_several_episodes_have_an_interval_but_no_mcnemar() -> None:
    found = paired_difference([0.25, 0.5, 0.0], [0.5, 0.5, 1.0])
    assert found.difference == pytest.approx(1.25 / 3)
    assert math.isnan(found.p_value)
    assert "not defined" in str(found)


def test_what_cannot_be_paired_is_refused() -> None:
    with pytest.raises(ValueError, match="cannot be paired"):
        paired_difference([0, 1], [0, 1, 1])
    with pytest.raises(ValueError, match="cannot be paired"):
        paired_difference([], [])


def test_bootstrap_agrees_with_scipy_and_repeats() -> None:
    data = np.random.default_rng(3).normal(0.3, 1.0, 200)
    referee = stats.bootstrap((data,), np.mean, n_resamples=10_000, method="percentile", random_state=1)
    mine = bootstrap_mean(data)
    assert mine.low == pytest.approx(referee.confidence_interval.low, abs=0.01)
    assert mine.high == pytest.approx(referee.confidence_interval.high, abs=0.01)
    assert bootstrap_mean(data) == mine


def test_p_values_are_not_more_precise_than_they_are() -> None:
    assert format_p(0.04321) == "0.043"
    assert format_p(1e-9) == "< 0.0001"
