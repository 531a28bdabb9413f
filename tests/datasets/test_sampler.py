"""The order of training: exact, the same for any number of ranks, and resumed by its number alone."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from regrip.datasets.ledger import DataError
from regrip.datasets.loading.sampler import Draw, EpochOrder, MixtureOrder, check_same_order, permute


@settings(max_examples=25, deadline=None)
@given(st.one_of(st.integers(1, 30), st.integers(1000, 5000)), st.integers(0, 2**63))
def test_a_permutation_of_any_size(size: int, key: int) -> None:
    whole = permute(np.arange(size), size, key)
    assert sorted(whole.tolist()) == list(range(size))
    some = np.array([size - 1, 0, size // 2])
    np.testing.assert_array_equal(permute(some, size, key), whole[some])


def test_permutations_of_five_are_all_as_likely() -> None:
    trials = 6_000
    seen = Counter(tuple(permute(np.arange(5), 5, "k", key).tolist()) for key in range(trials))
    assert set(seen) == set(permutations(range(5)))
    chi2 = sum((count - trials / 120) ** 2 / (trials / 120) for count in seen.values())
    assert chi2 < 178  # 119 degrees of freedom: 1 in 3000 by chance, and the keys are fixed


def test_a_huge_set_needs_no_memory() -> None:
    size = 10**12 + 7
    places = np.array([0, 1, size - 1])
    out = permute(places, size, 3)
    assert len(set(out.tolist())) == 3
    assert out.max() < size
    with pytest.raises(ValueError, match="range"):
        permute(np.array([size]), size, 3)


def test_the_order_never_changes() -> None:
    # Written down when it was first right: a run begun with one version goes on with another.
    assert permute(np.arange(8), 8, "epoch", 0, 0).tolist() == SMALL
    assert permute(np.arange(4), 5000, "epoch", 0, 0).tolist() == LARGE


SMALL = [6, 0, 7, 1, 3, 5, 2, 4]
LARGE = [3218, 398, 4375, 1399]


def joined(draws: list[Draw]) -> list[tuple[int, int, int]]:
    return [
        (int(a), int(b), int(c))
        for one in draws
        for a, b, c in zip(one.set, one.sample, one.place, strict=True)
    ]


@pytest.mark.parametrize("keep_last", [False, True])
@pytest.mark.parametrize("shuffle", [False, True])
def test_epochs(keep_last: bool, shuffle: bool) -> None:
    order = EpochOrder(103, 10, seed=7, shuffle=shuffle, keep_last=keep_last)
    assert order.steps_per_epoch == (11 if keep_last else 10)
    epochs = []
    for epoch in range(3):
        steps = range(epoch * order.steps_per_epoch, (epoch + 1) * order.steps_per_epoch)
        epochs.append([int(i) for step in steps for i in order.draw(step).sample])
        assert len(set(epochs[-1])) == len(epochs[-1]) == (103 if keep_last else 100)
    assert (epochs[0] == epochs[1]) is not shuffle
    if shuffle and not keep_last:
        assert set(epochs[0]) != set(epochs[1])


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 500), st.integers(1, 9), st.booleans())
def test_ranks_together_get_the_global_batch(step: int, world: int, mixture: bool) -> None:
    order = (
        MixtureOrder([50, 7, 301], [1, 2, 0.5], 12, seed=3)
        if mixture
        else EpochOrder(103, 12, seed=3, keep_last=True)
    )
    whole = joined([order.draw(step)])
    parts = [order.draw(step, rank, world) for rank in range(world)]
    assert joined(parts) == whole
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_a_mixture_has_its_shares_and_repeats_nothing_early() -> None:
    order = MixtureOrder([1000, 40, 5000], [0.5, 0.3, 0.2], 64, seed=1)
    draws = [order.draw(step) for step in range(1024)]  # one block
    chosen = np.concatenate([one.set for one in draws])
    samples = np.concatenate([one.sample for one in draws])
    np.testing.assert_allclose(np.bincount(chosen) / 65536, [0.5, 0.3, 0.2], atol=1e-4)
    for index, size in enumerate(order.sizes):
        counts = np.bincount(samples[chosen == index], minlength=size)
        assert counts.max() - counts.min() <= 1
    first = samples[chosen == 1]
    assert all(len(set(first[at : at + 40])) == 40 for at in range(0, 4000, 40))
    early = np.bincount(np.concatenate([one.set for one in draws[:20]]), minlength=3) / (20 * 64)
    np.testing.assert_allclose(early, [0.5, 0.3, 0.2], atol=0.05)  # mixed from the start
    tiny = MixtureOrder([10, 10], [1, 1e-9], 8)
    assert tiny.shares.tolist() == [65535, 1]


def test_what_a_worker_imports_is_light() -> None:
    modules = "exact_statistics, normalization, sampler, batches, streaming"
    code = f"import sys; from regrip.datasets.loading import {modules}; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_mistakes_are_named() -> None:
    with pytest.raises(ValueError, match="larger than the set"):
        EpochOrder(5, 10)
    with pytest.raises(ValueError, match="leave out a set"):
        MixtureOrder([5, 5], [1, 0], 2)
    with pytest.raises(ValueError, match="rank 3 of 3"):
        EpochOrder(50, 10).draw(0, 3, 3)
    saved = EpochOrder(50, 10, seed=1).to_json()
    check_same_order(saved, EpochOrder(50, 10, seed=1))
    with pytest.raises(DataError, match="size was 50 and is 51"):
        check_same_order(saved, EpochOrder(51, 10, seed=1))
