"""Dynamics-predictive sampling: the released update by hand, and that it finds what can be learnt from."""

import numpy as np
import pytest

from regrip.datasets.starts import StartState
from regrip.vla import dps
from regrip.vla.sampler import SamplerConfig, StartSampler


def test_one_transition_by_hand() -> None:
    # From all ones, certain of "some", then "all" is seen: the column of "some" has counts 1, 1, 2.
    some = np.array([[0.0, 1.0, 0.0]])
    counts = dps.observe(dps.PRIOR, some, [dps.ALL], forget=0.7)
    assert counts[:, dps.SOME] / counts[:, dps.SOME].sum() == pytest.approx([0.25, 0.25, 0.5])
    assert counts[:, dps.NONE] == pytest.approx([1, 1, 1])
    assert dps.predict(counts, some) == pytest.approx(np.array([[0.25, 0.25, 0.5]]))
    assert dps.predict(counts, np.array([0.0, 0.5, 0.5])) == pytest.approx([7 / 24, 7 / 24, 10 / 24])


def test_an_uncertain_past_is_shared_out_and_counts_fade() -> None:
    # Uniform beliefs and transitions: what is seen came from each of the three with equal probability.
    counts = dps.observe(2 * dps.PRIOR, np.full((2, 3), 1 / 3), [dps.NONE, dps.NONE], forget=0.5)
    assert counts[dps.NONE] == pytest.approx(np.full(3, 0.5 * 2 + 0.5 + 2 / 3))
    assert counts[dps.SOME] == pytest.approx(np.full(3, 1.5))


@pytest.mark.parametrize(("won", "played", "state"), [(0, 4, dps.NONE), (1, 4, dps.SOME), (4, 4, dps.ALL)])
def test_what_a_group_ends_in(won: int, played: int, state: int) -> None:
    assert dps.state_of(won, played) == state


def share_of_live_groups(prefer: str) -> float:
    """A task of 60 starts: a third is always lost, a third always won, a third won half the time."""
    sampler = StartSampler(
        ["toy/a"],
        12,
        0,
        SamplerConfig(prefer=prefer, revisit=0.75, starts_per_task=60),  # type: ignore[arg-type]
    )
    live = 0
    for iteration in range(40):
        starts = sampler.draw(iteration)
        live += sum(start.index % 3 == 1 for start in starts) if iteration >= 20 else 0
        wins = [k < (0, 2, 4)[start.index % 3] for start in starts for k in range(4)]
        sampler.update([start for start in starts for _ in range(4)], wins)
    return live / (20 * 12)


def test_it_draws_twice_as_many_groups_that_teach() -> None:
    # One start in three teaches. A quarter of the groups goes to fresh ones while there are any.
    assert share_of_live_groups("dps") > 0.6


def test_hard_starts_are_preferred_and_the_state_is_saved() -> None:
    sampler = StartSampler(["toy/a", "toy/b"], 20, 0, SamplerConfig(prefer="hard", revisit=0.0, floor=0.2))
    starts = [StartState(task, "train", i) for task in ("toy/a", "toy/b") for i in range(10)]
    for _ in range(5):
        sampler.update(starts, [start.task == "toy/a" for start in starts])
    drawn = sampler.draw(5)
    # Success near 1 and near 0: exp((0.5 - p) / 0.25) is e^-1.9 and e^1.9, so 10 % and nearly all the rest.
    assert sum(start.task == "toy/b" for start in drawn) >= 17
    assert sum(start.task == "toy/a" for start in drawn) >= 2
    assert sampler.hopeless() == ["toy/b"]
    assert str(sampler.success_rates()["toy/a"]).startswith("34/34")  # 10 (1 + 0.8 + ... + 0.8^4) = 33.6
    copy = StartSampler(["toy/a", "toy/b"], 20, 0, SamplerConfig(prefer="hard", revisit=0.0, floor=0.2))
    copy.load_state_dict(sampler.state_dict())
    assert copy.draw(5) == drawn
    assert copy.state_dict() == sampler.state_dict()
