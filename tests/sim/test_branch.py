"""Branches begin in the very state that was recorded, and differ in what follows."""

from collections.abc import Iterator

import numpy as np
import pytest
from pixel_actor import PixelActor

from regrip.datasets.episode import Rollouts, concatenate
from regrip.datasets.starts import StartState
from regrip.sim.branch import Point, branch, choose_points
from regrip.sim.collect import collect
from regrip.sim.pool import WorkerPool

STARTS = [StartState("puck/push", "train", index) for index in range(6)]


@pytest.fixture(scope="module")
def pool() -> Iterator[WorkerPool]:
    with WorkerPool("puck_env:make", num_slots=5, num_workers=2, chunk_size=5) as made:
        yield made


@pytest.fixture(scope="module")
def rollouts(pool: WorkerPool) -> Rollouts:
    return collect(pool, PixelActor(), STARTS, range(6), run_key=("run", 0), greedy=False, policy_version=3)[
        0
    ]


def test_siblings_share_the_past_to_the_bit(pool: WorkerPool, rollouts: Rollouts) -> None:
    points = [Point(4, 2), Point(4, 2), Point(1, 0), Point(4, 2), Point(2, 3)]
    grown, stats = branch(
        pool, PixelActor(), rollouts, points, first_group=100, run_key=("branch", 0), policy_version=3
    )
    assert grown.group.tolist() == [100, 100, 101, 100, 102]
    assert [start.index for start in grown.start] == [4, 4, 1, 4, 2]
    for row, point in enumerate(points):
        there = (point.row, point.decision)
        assert grown.state[row, 0].tobytes() == rollouts.state[there].tobytes()
        assert grown.privileged[row, 0].tobytes() == rollouts.privileged[there].tobytes()
        assert grown.images["top"][row, 0].tobytes() == rollouts.images["top"][there].tobytes()
        assert not np.array_equal(grown.action[row, 0], rollouts.action[there])
    assert not np.array_equal(grown.action[0, 0], grown.action[1, 0])
    assert not np.array_equal(grown.latent["noise"][0, 0], grown.latent["noise"][1, 0])
    # An episode that began two decisions later has that much less to go, and so have the arrays.
    length = grown.decision_valid.sum(1)
    assert grown.valid.shape[1] == length.max()
    assert all(grown.decision_valid[row, : length[row]].all() for row in range(len(points)))
    assert (grown.reward.sum((1, 2)) == grown.success).all()
    assert (length + [p.decision for p in points] <= 8).all()  # 40 steps in chunks of 5
    assert stats.num_episodes == 5
    both = concatenate([rollouts, grown])  # what the learner gets
    assert len(both) == 11


def test_decisions_in_most_doubt_are_chosen_one_an_episode(rollouts: Rollouts) -> None:
    doubt = np.zeros(rollouts.valid.shape[:2])
    doubt[3, 1], doubt[3, 2], doubt[0, 0], doubt[5, 1] = 5.0, 6.0, 2.0, np.nan
    doubt[1, -1] = 9.0 if not rollouts.decision_valid[1, -1] else 0.0  # never taken: does not count
    assert choose_points(rollouts, doubt, 2) == [Point(3, 2), Point(0, 0)]
    assert len(choose_points(rollouts, doubt, 99)) == 6


def test_a_decision_that_was_never_taken_is_refused(pool: WorkerPool, rollouts: Rollouts) -> None:
    row = int(rollouts.decision_valid.sum(1).argmin())
    last = int(rollouts.decision_valid[row].sum())
    if last == rollouts.valid.shape[1]:
        pytest.skip("every episode is as long as the longest")
    with pytest.raises(ValueError, match="took no such decision"):
        branch(
            pool, PixelActor(), rollouts, [Point(row, last)],
            first_group=0, run_key=("x",), policy_version=0,
        )  # fmt: skip
