"""Clusters where the answer is known, distances by hand, and dimensions in which SRPO's never fires."""

from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from regrip.rewards.clustering import Clustering, find_centres, nearest, neighbour_eps, principal

light = settings(max_examples=25, deadline=None, derandomize=True)


def modes(num_modes: int, each: int, dims: int, noise: float, seed: int = 0) -> np.ndarray:
    generator = np.random.default_rng(seed)
    centres = generator.normal(size=(num_modes, dims))
    return np.concatenate([c + noise * generator.normal(size=(each, dims)) for c in centres])


@pytest.mark.parametrize("dims", [12, 300, 1408])
@pytest.mark.parametrize("noise", [0.1, 0.4])
def test_three_ways_to_succeed_are_three_clusters(dims: int, noise: float) -> None:
    """The siiRL bug: with its eps of 0.5 after standardising, no cluster is ever found here."""
    point = modes(3, 8, dims, noise)
    centres = find_centres(point, np.ones(24), Clustering())
    assert centres.clustered
    assert len(centres.position) == 3
    for k in range(3):
        members = centres.member[8 * k : 8 * k + 8]
        found = members[members >= 0]
        assert len(found) >= 6  # one or two at the fringe may count as noise
        assert len(set(found.tolist())) == 1
    assert len(set(centres.member[centres.member >= 0].tolist())) == 3


@pytest.mark.parametrize("dims", [12, 1408])
@pytest.mark.parametrize("count", [12, 24, 64])
def test_one_way_is_one_cluster(dims: int, count: int) -> None:
    centres = find_centres(modes(1, count, dims, 1.0), np.ones(count), Clustering())
    assert centres.clustered
    assert len(centres.position) == 1
    assert (centres.member == 0).sum() >= 0.9 * count


def test_few_successes_are_centres_of_their_own() -> None:
    point = modes(1, 5, 6, 1.0)
    centres = find_centres(point, np.ones(5), Clustering())
    assert not centres.clustered
    assert np.array_equal(centres.position, point)
    assert np.isinf(find_centres(point[:1], np.ones(1), Clustering()).leave_one_out()).all()


def test_identical_embeddings_are_one_centre() -> None:
    for count in (3, 20):
        centres = find_centres(np.full((count, 40), 7.0), np.ones(count), Clustering())
        np.testing.assert_allclose(centres.leave_one_out(), 0.0, atol=1e-9)
        np.testing.assert_allclose(centres.distance(np.full((1, 40), 8.0)), np.sqrt(40))


def test_centres_are_weighted_and_can_leave_one_out() -> None:
    # one cluster on a line, weights 1 1 2: centre (0 + 1 + 2 * 3) / 4 = 1.75; without the last (0 + 1) / 2
    point, weight = np.array([[0.0], [1.0], [3.0]]), np.array([1.0, 1.0, 2.0])
    settings_ = Clustering(cluster_from=3, min_members=2, slack=10.0)
    centres = find_centres(point, weight, settings_)
    assert centres.position.tolist() == [[1.75]]
    assert centres.without(2).tolist() == [[0.5]]
    # without the first (1 + 6) / 3 = 7/3, the second (0 + 6) / 3 = 2, the third 0.5
    np.testing.assert_allclose(centres.leave_one_out(), [7 / 3, 1.0, 2.5])
    np.testing.assert_allclose(centres.distance(np.array([[4.0], [1.75]])), [2.25, 0.0])


def test_eps_by_hand() -> None:
    # on a line 0 1 3 7: the second nearest counting oneself is at 1 1 2 4; all of them: 4, times 1.25
    point = np.array([[0.0], [1.0], [3.0], [7.0]])
    assert neighbour_eps(point, Clustering(min_members=2, quantile=1.0)) == pytest.approx(5.0)
    assert neighbour_eps(np.zeros((4, 1)), Clustering()) > 0


def test_principal_keeps_distances_when_it_keeps_all() -> None:
    point = modes(2, 3, 10, 1.0)
    reduced = principal(point, 8)
    assert reduced.shape == (6, 6)
    original = np.linalg.norm(point[:, None] - point[None], axis=-1)
    np.testing.assert_allclose(np.linalg.norm(reduced[:, None] - reduced[None], axis=-1), original, atol=1e-9)


@light
@given(st.integers(1, 30), st.integers(1, 5), st.integers(0, 10_000))
def test_leave_one_out_matches_the_loop(count: int, dims: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    point, weight = generator.normal(size=(count, dims)), generator.uniform(0.1, 1, count)
    centres = find_centres(point, weight, Clustering())
    for i, left_out in enumerate(centres.leave_one_out()):
        distances = []
        for label in set(centres.member[centres.member >= 0].tolist()):
            members = [j for j in range(count) if centres.member[j] == label and j != i]
            if members:
                mean = sum(weight[j] * point[j] for j in members) / sum(weight[j] for j in members)
                distances.append(float(np.linalg.norm(point[i] - mean)))
        assert left_out == pytest.approx(min(distances, default=np.inf))
    assert np.isfinite(centres.position).all()


def test_nearest_to_nothing_is_infinite() -> None:
    assert np.isinf(nearest(np.zeros((2, 3)), np.zeros((0, 3)))).all()


def test_settings_are_checked() -> None:
    with pytest.raises(ValueError, match="expected min_members >= 2"):
        Clustering(min_members=1)
