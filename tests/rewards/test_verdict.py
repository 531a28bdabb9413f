"""The sentence says what the numbers allow, and the number that forbids the rest."""

from __future__ import annotations

from dataclasses import replace

import pytest
import reward_toy as toy
from reward_members import seen
from reward_toy import Carry
from trust_toy import on_trial, truth

from regrip.datasets.episode import Rollouts
from regrip.rewards.binary import BinarySuccess
from regrip.rewards.estimates import Estimate
from regrip.rewards.readings import subject
from regrip.rewards.scorers import Level
from regrip.rewards.self_referential import SelfReferentialConfig
from regrip.rewards.trust import Findings, examine
from regrip.rewards.verdict import sentence


@pytest.fixture(scope="module")
def episodes() -> Rollouts:
    names = list(toy.COLOURS)
    won = [Carry(1.0, names[n % 3], n) for n in range(30)]
    return toy.carry([*won, *(Carry(0.8 * n / 29, names[n % 3], 500 + n) for n in range(30))])


@pytest.fixture(scope="module")
def oracle(episodes: Rollouts) -> Findings:
    return examine(on_trial("oracle"), episodes, truth=truth(episodes))


def with_numbers(findings: Findings, **changes: Estimate) -> Findings:
    return replace(findings, numbers={**findings.numbers, **changes})


def test_an_oracle_is_good_for_everything(oracle: Findings) -> None:
    assert sentence(oracle).startswith(
        "Use it for detecting success, ranking failures and dense shaping. It hardly reads the instruction"
    )


def test_a_weak_order_forbids_shaping_with_its_number(oracle: Findings) -> None:
    said = sentence(with_numbers(oracle, voc=Estimate(0.55, 0.31, 0.7)))
    assert "not for dense shaping (levels of successes correlate only 0.55 with time, " in said
    assert "interval 0.31 to 0.70" in said


def test_what_ranks_but_does_not_detect(oracle: Findings) -> None:
    said = sentence(with_numbers(oracle, auroc=Estimate(0.78, 0.7, 0.86)))
    assert said.startswith(
        "Use it for ranking failures, ranking episodes and dense shaping, not for detecting"
    )
    assert "only 78 % of the time, interval 70 % to 86 %" in said
    relative = sentence(replace(oracle, relative=True))
    assert "not for detecting success (its score only ranks the episodes of one batch)" in relative


def test_what_pays_for_staying_is_not_for_shaping(episodes: Rollouts) -> None:
    said = sentence(examine(on_trial("oracle", Level), episodes))
    assert "not for dense shaping (going back and forth earns" in said
    assert "ranking failures" not in said


def test_what_only_repeats_the_verdict(episodes: Rollouts) -> None:
    said = sentence(examine(subject("binary", BinarySuccess(), BinarySuccess()), episodes))
    assert said.startswith(
        "It repeats the simulator's verdict and sees nothing else: use it where there is a simulator to ask"
    )


def test_what_also_reads_the_verdict_is_judged_without_it(oracle: Findings) -> None:
    assert sentence(replace(oracle, reads_verdict=True)).startswith(
        "It is paid by the simulator's verdict; without the verdict use it for detecting success"
    )


def test_what_lives_on_the_successes_beside_it_is_not_tested(episodes: Rollouts) -> None:
    released = seen(SelfReferentialConfig(as_released=True))
    assert sentence(examine(subject("released", released, released), episodes)).startswith(
        "Not tested: it compares"
    )


def test_noise_is_good_for_nothing(episodes: Rollouts) -> None:
    assert sentence(examine(on_trial("noise"), episodes)).startswith(
        "Use it for none of what was tested, not for detecting success and ranking episodes (a success"
    )


def test_nothing_judged_nothing_said(oracle: Findings) -> None:
    assert sentence(replace(oracle, num_judged=0)) == "Nothing can be said: it could judge no episode."
    assert "could not judge 4 episodes" in sentence(replace(oracle, num_judged=56))
