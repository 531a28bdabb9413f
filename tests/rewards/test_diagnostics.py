"""Rank statistics by hand and against loops over pairs."""

from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from regrip.rewards.diagnostics import auc, spearman


def test_auc_by_hand() -> None:
    # pairs in task a: (3 > 1), (3 > 2) won; in task b (1 = 1) half; none across: 2.5 of 3
    score = np.array([3.0, 1.0, 2.0, 1.0, 1.0])
    success = np.array([True, False, False, True, False])
    assert auc(score, success, list("aaabb")) == pytest.approx(2.5 / 3)
    assert auc(score, success, list("abcde")) is None


def test_spearman_by_hand() -> None:
    # ranks 1 2 3 against 1 3 2: 1 - 6 * (0 + 1 + 1) / (3 * 8) = 0.5; task b is constant and says nothing
    a, b = np.array([10.0, 20.0, 30.0, 5.0, 5.0]), np.array([1.0, 9.0, 4.0, 1.0, 2.0])
    assert spearman(a, b, list("aaabb")) == pytest.approx(0.5)
    assert spearman(a, b, list("abcde")) is None


@settings(max_examples=30, deadline=None, derandomize=True)
@given(st.lists(st.tuples(st.integers(0, 4), st.booleans(), st.sampled_from("ab")), min_size=1, max_size=15))
def test_auc_matches_the_loop_over_pairs(episodes: list[tuple[int, bool, str]]) -> None:
    won = pairs = 0.0
    for good, yes, task in episodes:
        for bad, no, other in episodes:
            if yes and not no and task == other:
                pairs += 1
                won += 1.0 if good > bad else 0.5 if good == bad else 0.0
    score, success = np.array([e[0] for e in episodes], dtype=float), np.array([e[1] for e in episodes])
    found = auc(score, success, [e[2] for e in episodes])
    assert found == (pytest.approx(won / pairs) if pairs else None)
