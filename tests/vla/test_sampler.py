"""The start sampler: only train starts, the same again for the same state, and no task starves."""

from __future__ import annotations

import json
from collections import Counter

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from regrip.datasets.starts import SplitError, StartState
from regrip.vla.sampler import SamplerConfig, StartSampler

TASKS = ["toy/a", "toy/b", "toy/c"]
light = settings(max_examples=30, deadline=None, derandomize=True)


def played(sampler: StartSampler, rates: dict[str, float], iterations: int, group: int = 8) -> Counter[str]:
    """Let a policy with a fixed success rate in each task practise; groups drawn of each task."""
    counts: Counter[str] = Counter()
    for iteration in range(iterations):
        starts = sampler.draw(iteration)
        counts.update(start.task for start in starts)
        episodes = [start for start in starts for _ in range(group)]
        wins = [k < round(rates[start.task] * group) for start in starts for k in range(group)]
        sampler.update(episodes, wins)
    return counts


@light
@given(st.integers(1, 40), st.integers(0, 100), st.integers(0, 3))
def test_draws_are_train_starts_all_different_and_repeatable(groups: int, seed: int, attempt: int) -> None:
    sampler = StartSampler(TASKS, groups, seed)
    starts = sampler.draw(5, attempt)
    assert len(starts) == len(set(starts)) == groups
    assert {start.split for start in starts} == {"train"}
    assert sampler.draw(5, attempt) == starts
    assert StartSampler(TASKS[::-1], groups, seed).draw(5, attempt) == starts
    assert sampler.draw(6, attempt) != starts
    assert sampler.draw(5, attempt + 1) != starts


def test_an_untrained_sampler_spreads_evenly() -> None:
    # 72 groups over 3 tasks alike: 24 each, whatever the offset
    assert Counter(s.task for s in StartSampler(TASKS, 72, 0).draw(0)) == dict.fromkeys(TASKS, 24)


def test_medium_difficulty_is_preferred_and_the_floor_holds() -> None:
    sampler = StartSampler(TASKS, 30, 0, SamplerConfig(floor=0.5))
    counts = played(sampler, {"toy/a": 0.0, "toy/b": 0.5, "toy/c": 1.0}, 12)
    late = Counter(start.task for start in sampler.draw(12))
    # floor: 30 * 0.5 / 3 = 5 each; nearly all of the other 15 go to the task at one half
    assert late["toy/a"] >= 5
    assert late["toy/c"] >= 5
    assert late["toy/b"] >= 18
    assert min(counts.values()) >= 12 * 5
    even = StartSampler(TASKS, 30, 0, SamplerConfig(floor=1.0))
    assert played(even, {"toy/a": 0.0, "toy/b": 0.5, "toy/c": 1.0}, 3) == dict.fromkeys(TASKS, 30)


def test_no_task_starves_with_more_tasks_than_groups() -> None:
    tasks = [f"toy/{i:02d}" for i in range(12)]
    sampler = StartSampler(tasks, 4, 0, SamplerConfig(floor=0.0, max_wait=6))
    rates = {task: 0.5 if task == "toy/00" else 0.0 for task in tasks}
    last = dict.fromkeys(tasks, -1)
    for iteration in range(60):
        starts = sampler.draw(iteration)
        for start in starts:
            last[start.task] = iteration
        assert all(iteration - seen <= 6 + 3 for seen in last.values())  # max_wait, and 12 tasks 4 at a time
        sampler.update(
            [s for s in starts for _ in range(2)], [k < 2 * rates[s.task] for s in starts for k in range(2)]
        )


def test_known_starts_of_medium_difficulty_come_back() -> None:
    sampler = StartSampler(["toy/a"], 16, 3, SamplerConfig(revisit=0.5))
    hard, medium = StartState("toy/a", "train", 11), StartState("toy/a", "train", 22)
    for _ in range(6):
        sampler.update([hard] * 8 + [medium] * 8, [False] * 8 + [True, False] * 4)
    assert not {hard, medium} & set(sampler.draw(0))  # not again at once
    sampler.update([], [])
    visits = Counter(s.index for i in range(40) for s in sampler.draw(i, 0, 2) if s in (hard, medium))
    # one revisit in each draw of two; values 0.06 to 0.07 (hard, p about 1/14) and 0.25 (medium): 4 of 5
    assert visits[22] > 2 * visits[11]
    assert sum(visits.values()) == 40
    never = StartSampler(["toy/a"], 16, 3, SamplerConfig(revisit=0.0))
    never.load_state_dict(sampler.state_dict())
    assert not {hard, medium} & set(never.draw(0))


def test_state_survives_json_and_memory_is_bounded() -> None:
    config = SamplerConfig(remember=5)
    whole, part = (StartSampler(TASKS, 9, 1, config) for _ in range(2))
    rates = {"toy/a": 0.25, "toy/b": 0.5, "toy/c": 1.0}
    played(whole, rates, 6), played(part, rates, 6)
    saved = json.loads(json.dumps(part.state_dict()))
    assert all(len(task["known"]) <= 5 for task in saved["tasks"].values())
    resumed = StartSampler(TASKS, 9, 1, config)
    resumed.load_state_dict(saved)
    for iteration in (6, 7):
        starts = whole.draw(iteration)
        assert resumed.draw(iteration) == starts
        whole.update(starts, np.arange(9) % 2 == 0)
        resumed.update(starts, np.arange(9) % 2 == 0)
    assert resumed.state_dict() == whole.state_dict()
    assert whole.success_rates()["toy/c"].value > whole.success_rates()["toy/a"].value


@light
@given(st.integers(1, 5), st.integers(1, 15))
def test_a_benchmark_with_few_starts_is_used_up_without_repeats(per_task: int, groups: int) -> None:
    config = SamplerConfig(starts_per_task=per_task)
    if groups > 3 * per_task:
        with pytest.raises(ValueError, match=f"{groups} groups asked for, expected 1 to {3 * per_task}"):
            StartSampler(TASKS, groups, 0, config)
        return
    sampler = StartSampler(TASKS, groups, 0, config)
    for iteration in range(3):
        starts = sampler.draw(iteration)
        assert len(set(starts)) == groups
        assert max(start.index for start in starts) < per_task
        sampler.update(starts, [True] * groups)


def test_what_it_must_not_know() -> None:
    sampler = StartSampler(TASKS, 4, 0)
    with pytest.raises(SplitError, match="only 'train' starts"):
        sampler.update([StartState("toy/a", "test", 0)], [True])
    with pytest.raises(SplitError, match="only 'train' starts"):
        sampler.update([StartState("toy/a", "select", 0)], [True])
    with pytest.raises(ValueError, match=r"toy/other.*one of the tasks toy/a, toy/b, toy/c"):
        sampler.update([StartState("toy/other", "train", 0)], [True])
    with pytest.raises(ValueError, match="expected at least one, each once"):
        StartSampler(["toy/a", "toy/a"], 1, 0)
    with pytest.raises(ValueError, match="resume with the same environment"):
        sampler.load_state_dict(StartSampler(["toy/a"], 4, 0).state_dict())
    with pytest.raises(ValueError, match="floor 2 must be in"):
        SamplerConfig(floor=2)
