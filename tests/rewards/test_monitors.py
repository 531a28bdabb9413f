"""The monitor raises its alarms where a reward has a hole, and stays quiet where it has none."""

from __future__ import annotations

import dataclasses
import json
from functools import lru_cache

import numpy as np
import pytest
import reward_toy as toy
from reward_toy import Carry

from regrip.datasets.episode import Rollouts
from regrip.datasets.protocols import RewardSignal
from regrip.datasets.starts import counter_generator
from regrip.rewards.binary import BinarySuccess, at_last_step
from regrip.rewards.monitors import Monitor, MonitorConfig


@lru_cache(maxsize=64)
def practice(iteration: int, success: float, count: int = 60) -> Rollouts:
    """Episodes of which a share succeeds and the rest gets anywhere."""
    luck = counter_generator("practice", iteration, str(success))
    reach = np.where(luck.random(count) < success, 1.0, luck.uniform(0, 0.9, count))
    names = list(toy.COLOURS)
    return toy.carry(
        [Carry(float(r), names[n % 3], iteration * 1000 + n) for n, r in enumerate(reach)], iteration
    )


def paying(rollouts: Rollouts, amount: np.ndarray) -> RewardSignal:
    value = at_last_step(rollouts.valid, amount.astype(np.float32))
    return RewardSignal(value, {}, np.ones(len(rollouts), bool), relative=False)


def watch(reward, rates: list[float]) -> tuple[list[str], Monitor]:  # type: ignore[no-untyped-def]
    monitor, names = Monitor(), []
    for iteration, rate in enumerate(rates):
        rollouts = practice(iteration, rate)
        _, alarms = monitor.look(iteration, rollouts, reward(rollouts, iteration))
        names += [alarm.name for alarm in alarms]
    return names, monitor


@pytest.mark.parametrize(
    "rates", [[0.5] * 8, [0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95], [0.9, 0.8, 0.7, 0.6] * 2]
)
def test_success_itself_never_alarms(rates: list[float]) -> None:
    assert watch(lambda rollouts, _: BinarySuccess()(rollouts), rates)[0] == []


def test_without_a_simulators_state_all_else_is_watched() -> None:
    monitor = Monitor()
    for iteration in range(3):
        rollouts = practice(iteration, 0.5)
        blind = dataclasses.replace(rollouts, privileged=rollouts.privileged[..., :0])
        row, alarms = monitor.look(iteration, blind, paying(blind, blind.num_steps))
        assert [alarm.name for alarm in alarms] == (["blind"] if iteration == 0 else [])
        assert "monitor/auc" in row
        assert "monitor/failures_agree_with_state" not in row


def test_paying_for_time_is_noticed_at_once() -> None:
    # A success ends the episode, so whoever is paid for each step earns more by failing.
    names, _ = watch(lambda rollouts, _: paying(rollouts, rollouts.num_steps), [0.5])
    assert names == ["blind"]


def test_noise_is_noticed() -> None:
    def noise(rollouts: Rollouts, iteration: int) -> RewardSignal:
        return paying(rollouts, counter_generator("noise", iteration).random(len(rollouts)))

    names, _ = watch(noise, [0.5] * 4)
    assert names[0] == "blind"


def test_more_pay_for_fewer_successes_is_a_gap() -> None:
    # A success still earns most, but failures are paid more and more.
    def inflating(rollouts: Rollouts, iteration: int) -> RewardSignal:
        return paying(rollouts, np.where(rollouts.success, 1.1, min(1.0, 0.35 * iteration)))

    names, _ = watch(inflating, [0.8, 0.8, 0.8, 0.5, 0.5, 0.5])
    assert names == ["gap"]


def test_failures_that_got_farther_shall_not_earn_less() -> None:
    def shy(rollouts: Rollouts, _: int) -> RewardSignal:
        last = rollouts.decision_valid.sum(1) - 1
        gone = toy.progress_of(rollouts.privileged[np.arange(len(rollouts)), last])
        return paying(rollouts, np.where(rollouts.success, 2.0, 1 - gone))

    names, monitor = watch(shy, [0.5] * 3)
    assert names[:1] == ["backwards"]
    assert monitor.seen[-1].backwards[0] < -0.5


def test_unjudged_and_equal_embeddings() -> None:
    rollouts = practice(0, 0.5)
    monitor = Monitor()
    blank = RewardSignal(
        np.zeros(rollouts.valid.shape, np.float32),
        {"duplicate_embedding": np.ones(60, np.float32)},
        np.arange(60) % 2 == 0,
        relative=False,
    )
    alarms = monitor.look(0, rollouts, blank)[1]
    assert [alarm.name for alarm in alarms] == ["unjudged", "collapse"]
    assert "50%" in alarms[0].message


def test_an_alarm_names_the_failures_that_earned_most_and_is_not_repeated() -> None:
    monitor = Monitor(MonitorConfig(window=3))
    for iteration in range(4):
        rollouts = practice(iteration, 0.5)
        signal = paying(rollouts, rollouts.num_steps + 0.001 * np.arange(60))
        alarms = monitor.look(iteration, rollouts, signal)[1]
        assert [alarm.name for alarm in alarms if alarm.name == "blind"] == (
            ["blind"] if iteration % 3 == 0 else []
        )
        for alarm in alarms:
            failed = np.flatnonzero(~rollouts.success)
            assert alarm.rows == tuple(int(n) for n in failed[::-1][:3])


def test_it_goes_on_from_its_state() -> None:
    def noise(rollouts: Rollouts, iteration: int) -> RewardSignal:
        return paying(rollouts, rollouts.success + counter_generator("n", iteration).random(len(rollouts)))

    _, straight = watch(noise, [0.5, 0.6, 0.5, 0.6])
    _, before = watch(noise, [0.5, 0.6])
    after = Monitor()
    after.load_state(json.loads(json.dumps(before.state())))
    after.reference.load_state_dict(before.reference.state_dict())
    for iteration in (2, 3):
        rollouts = practice(iteration, [0.5, 0.6][iteration % 2])
        row, _ = after.look(iteration, rollouts, noise(rollouts, iteration))
    assert after.state() == straight.state()
    assert row["monitor/drift"] > 0
