"""Rewards of known worth get the numbers that they deserve, and what is not defined says why."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import reward_toy as toy
from reward_members import seen
from reward_toy import Carry
from trust_toy import SCORERS, Told, on_trial, reader, truth

from regrip.datasets.episode import Rollouts
from regrip.datasets.statistics import Rate
from regrip.rewards.binary import BinarySuccess
from regrip.rewards.diagnostics import falls, hallucination_rate, kendall, ranking_curves, value_order
from regrip.rewards.estimates import start_weights
from regrip.rewards.readings import Held, read, subject
from regrip.rewards.scorers import Difference, FrameProgress, Level, PairProgress, accumulate
from regrip.rewards.trust import Findings, calibration, examine, lost_after_success, rank_policies


@pytest.fixture(scope="module")
def episodes() -> Rollouts:
    """15 successes and 24 failures that come as far as 0.8 of the way."""
    names = list(toy.COLOURS)
    won = [Carry(1.0, names[n % 3], n) for n in range(15)]
    lost = [Carry(0.8 * n / 23, names[n % 3], 500 + n) for n in range(24)]
    return toy.carry([*won, *lost])


def found(findings: Findings, name: str) -> float:
    value = findings.numbers[name].value
    assert value is not None, findings.numbers[name].why
    return value


def test_vlac_vectors() -> None:
    critics = np.array([20, 50, -10, 40]) / 100
    levels = accumulate(critics, "simple")  # 0 20 60 56 73.6
    assert value_order(levels) == pytest.approx(0.9)
    assert falls(levels) == pytest.approx(0.25)
    assert value_order(np.full(5, 0.3)) == 0
    assert np.isnan(value_order(np.ones(1)))
    assert np.isnan(falls(np.ones(1)))


def test_evovla_vector() -> None:
    assert hallucination_rate(np.array([0.8, 0.9, 0.6]), np.array([0.05, 0.2, 0.0])) == 0.5
    # As released, u = sigmoid(0.05 margin): it never leaves 0.475 to 0.525, and nothing is ever called done.
    assert hallucination_rate(1 / (1 + np.exp(-0.05 * np.linspace(-2, 2, 9))), np.zeros(9)) is None


def test_average_precision_by_hand() -> None:
    # Task a: found at ranks 1 and 3: (1/1 + 2/3) / 2. Task b has no failure and says nothing.
    score, success = np.array([0.9, 0.8, 0.7, 0.6, 0.1]), np.array([True, False, True, False, True])
    area, precision = ranking_curves(score, success, list("aaaab"), np.ones((1, 5)))
    assert precision[0] == pytest.approx(5 / 6)
    assert area[0] == pytest.approx(3 / 4)
    # An episode that counts twice is an episode twice.
    weight = np.array([[1.0, 2, 0, 1, 1]])
    twice = np.array([0, 1, 1, 3, 4])
    again = ranking_curves(score[twice], success[twice], list("aaaab"), np.ones((1, 5)))
    ones = ranking_curves(score, success, list("aaaab"), weight)
    assert ones[0] == pytest.approx(again[0])
    assert ones[1] == pytest.approx(again[1])


def test_kendall_by_hand() -> None:
    assert kendall(np.array([0.1, 0.2, 0.3]), np.array([0.2, 0.9, 0.5])) == pytest.approx(1 / 3)
    assert kendall(np.array([0.1]), np.array([0.2])) is None
    assert kendall(np.array([0.1, 0.1]), np.array([0.2, 0.3])) is None


def test_calibration_by_hand() -> None:
    # Two bins: 0.15 with 0 of 2, 0.9 with 1 of 2. ECE (2 * 0.15 + 2 * 0.4) / 4; Brier as its name says.
    score, success = np.array([0.1, 0.2, 0.9, 0.9]), np.array([False, False, True, False])
    error, brier, bins = calibration(np.array([0.15, 0.15, 0.9, 0.9]), success, np.ones((1, 4)))
    assert error.value == pytest.approx(0.275)
    assert [(b.score, b.rate) for b in bins] == [(0.15, Rate(0, 2)), (pytest.approx(0.9), Rate(1, 2))]
    assert brier.value == pytest.approx((2 * 0.15**2 + 0.01 + 0.81) / 4)
    assert calibration(np.ones(3), np.ones(3, bool), np.ones((1, 3)))[0].value == 0
    assert len(calibration(score, success, np.ones((1, 4)))[2]) == 3


@pytest.mark.parametrize(
    ("name", "auroc", "voc"), [("oracle", 1.0, 1.0), ("inverted", 0.0, -1.0), ("constant", 0.5, 0.0)]
)
def test_known_worth(episodes: Rollouts, name: str, auroc: float, voc: float) -> None:
    findings = examine(on_trial(name), episodes)
    assert found(findings, "auroc") == pytest.approx(auroc)
    assert found(findings, "voc") == pytest.approx(voc, abs=0.02)
    assert found(findings, "vroc") == pytest.approx(voc, abs=0.02)
    assert found(findings, "wins_reversed") == auroc
    assert found(findings, "wins_frozen") == auroc
    assert found(findings, "wins_words") == 0.5
    assert (findings.num_episodes, findings.num_judged, findings.num_successes) == (39, 39, 15)


def test_noise_is_no_better_than_chance(episodes: Rollouts) -> None:
    findings = examine(on_trial("noise"), episodes)
    area, order = findings.numbers["auroc"], findings.numbers["voc"]
    assert area.low is not None
    assert area.high is not None
    assert area.low < 0.5 < area.high
    assert 0.3 < area.high - area.low < 0.6
    assert order.low is not None
    assert order.high is not None
    assert order.low < 0 < order.high
    assert found(findings, "auprc") == pytest.approx(15 / 39, abs=0.2)


def test_a_perfect_separation_is_as_wide_as_its_few_starts_allow() -> None:
    few = examine(on_trial("oracle"), toy.many(3, 6)).numbers["auroc"]
    assert (few.value, few.low, few.high) == (1.0, pytest.approx(0.438, abs=0.001), 1.0)


def test_going_to_and_fro_earns_nothing_by_differences_and_something_by_levels(episodes: Rollouts) -> None:
    assert found(examine(on_trial("oracle"), episodes), "dithering") == pytest.approx(0, abs=1e-4)
    assert found(examine(on_trial("oracle", Level), episodes), "dithering") > 1


def test_words_are_read_or_not(episodes: Rollouts) -> None:
    findings = examine(reader(), episodes)
    assert found(findings, "wins_words") > 0.9
    assert found(findings, "margin_words") > 0.3
    same = examine(reader(), episodes.take([0, 3, 15, 18]))
    assert same.numbers["wins_words"].why == "all episodes were told the same"


def test_a_reward_that_repeats_the_verdict_is_found_out(episodes: Rollouts) -> None:
    findings = examine(subject("binary", BinarySuccess(), BinarySuccess()), episodes)
    assert findings.reads_verdict
    assert found(findings, "auroc") == 0.5
    assert found(findings, "starc") == pytest.approx(0, abs=1e-6)
    assert findings.numbers["voc"].why == "it has no levels"
    assert not examine(on_trial("oracle"), episodes).reads_verdict


def test_what_it_learned_from_its_own_successes_is_judged_without_their_verdict(episodes: Rollouts) -> None:
    held = Held(seen())
    before = {name: value.copy() for name, value in held.state_dict().items()}
    findings = examine(subject("seen", held.reward, held), episodes)
    assert findings.reads_verdict
    assert 0.9 < found(findings, "auroc") <= 1
    assert found(findings, "voc") > 0.9
    after = held.state_dict()
    assert after.keys() == before.keys()
    assert all(np.array_equal(after[name], before[name]) for name in before)


def test_pair_scorers_are_swapped_for_the_reversed_order(episodes: Rollouts) -> None:
    class Forward:
        """Says "a gain" about every pair, whichever way round."""

        def delta(self, before: object, after: object) -> np.ndarray:
            return np.full(len(before), 0.1, np.float32)  # type: ignore[arg-type]

    pairs = PairProgress(Forward())
    findings = examine(subject("forward", Forward(), Difference(pairs)), episodes)
    assert found(findings, "voc") == pytest.approx(1)
    assert found(findings, "vroc") == 0  # swapped and negated, each pair is a loss: the level stays at 0


def test_hallucination_needs_a_level_and_takes_the_truth_if_it_is_known(episodes: Rollouts) -> None:
    shouts = Told(lambda rollouts: np.full(rollouts.decision_valid.shape, 0.9))
    judged = subject("shouts", shouts, Difference(shouts))
    findings = examine(judged, episodes)
    moments = episodes.decision_valid.sum(1)
    assert found(findings, "hallucination") == pytest.approx(
        moments[~episodes.success].sum() / moments.sum(), abs=1e-9
    )
    known = truth(episodes)
    assert found(examine(judged, episodes, truth=known), "hallucination") == pytest.approx(
        (known[episodes.decision_valid] < 0.5).mean()
    )
    assert found(examine(on_trial("oracle"), episodes, truth=known), "hallucination") == 0
    assert examine(on_trial("constant"), episodes).numbers["hallucination"].why == "no level is above 0.7"


def test_failures_are_ranked_where_the_truth_is_known(episodes: Rollouts) -> None:
    assert found(examine(on_trial("oracle"), episodes, truth=truth(episodes)), "failure_ranking") > 0.95
    assert examine(on_trial("oracle"), episodes).numbers["failure_ranking"].value is None


def test_policies_are_ranked_on_the_starts_they_share() -> None:
    played = [toy.carry([Carry(reach, "red", n) for n, reach in enumerate(reaches)])
              for reaches in ((1, 1, 1, 0.2), (1, 0.7, 0.1, 0.2), (1, 1, 0.1, 0.1))]  # fmt: skip
    names = [name for name in "abc" for _ in range(4)]
    from regrip.datasets.episode import concatenate

    every = concatenate(played)
    score = read(on_trial("oracle"), every).score
    tau, table = rank_policies(score, every, names)
    assert tau.value == pytest.approx(1)
    assert table["b"][1] == Rate(1, 4)
    assert rank_policies(-score, every, names)[0].value == pytest.approx(-1)
    assert rank_policies(score[:4], played[0], names[:4])[0].why == "only one policy"
    elsewhere = concatenate([played[0], toy.carry([Carry(0.1, "red", 9)])])
    assert rank_policies(np.zeros(5), elsewhere, list("aaaab"))[0].why == (
        "the policies played different start states"
    )


def test_success_that_is_lost_again() -> None:
    rollouts = toy.many(0, 4)
    assert lost_after_success(rollouts).why == "every episode ends when it succeeds"
    reward = rollouts.reward.copy()
    reward[:2, 5, 0] = 1
    kept = np.array([True, False, False, False])
    assert lost_after_success(replace(rollouts, reward=reward, success=kept)).value == 0.5


def test_nothing_won_nothing_lost(episodes: Rollouts) -> None:
    won, lost = (examine(on_trial("oracle"), episodes.take(rows)) for rows in (range(15), range(15, 39)))
    for findings in (won, lost):
        assert findings.numbers["auroc"].why == "no task has both a success and a failure"
    assert lost.numbers["voc"].why == "no success of two moments or more"
    assert lost.numbers["margin_frozen"].why == "no success to copy"
    assert lost.numbers["starc"].why == "no success, so the sparse reward is zero"
    with pytest.raises(ValueError, match="no episodes to examine oracle"):
        examine(on_trial("oracle"), episodes.take([]))


def test_what_is_not_a_number_is_not_judged(episodes: Rollouts) -> None:
    class Sometimes:
        bounds = (0.0, 1.0)

        def score(self, frames: object) -> np.ndarray:
            said = frames.instruction  # type: ignore[attr-defined]
            return np.array([np.nan if "green" in one else 0.5 for one in said], np.float32)

    findings = examine(subject("sometimes", Sometimes(), Difference(FrameProgress(Sometimes()))), episodes)
    assert findings.num_judged == 26
    blind = Told(lambda rollouts: np.full(rollouts.decision_valid.shape, np.nan))
    nothing = examine(subject("nan", blind, Difference(blind)), episodes)
    assert nothing.num_judged == 0
    assert all(number.value is None and number.why for number in nothing.numbers.values())


def test_a_relative_score_is_no_probability_and_is_asked_about_both_at_once(episodes: Rollouts) -> None:
    def min_max(rollouts: Rollouts) -> np.ndarray:
        level = SCORERS["oracle"].progress(rollouts).value  # type: ignore[union-attr]
        low, high = level.min(1, keepdims=True), level.max(1, keepdims=True)
        return np.asarray((level - low) / np.maximum(high - low, 1e-6))

    ranks = Told(min_max, relative=True)
    findings = examine(subject("min-max", ranks, Difference(ranks)), episodes)
    assert findings.relative
    assert findings.numbers["ece"].why == "the score only ranks inside a batch"
    assert findings.numbers["hallucination"].why == "its levels only rank in a batch"
    assert found(findings, "wins_reversed") == 1


def test_start_states_are_drawn_whole_and_by_task() -> None:
    rollouts = toy.carry([Carry(0.5, "red", n // 2, row=n) for n in range(6)] + [Carry(1.0, "blue", 0)])
    weight = start_weights(rollouts, 50)
    assert np.array_equal(weight[:, 0], weight[:, 1])
    assert (weight[:, :6].sum(1) == 6).all()
    assert (weight[:, 6] == 1).all()
    assert np.array_equal(weight, start_weights(rollouts, 50))
