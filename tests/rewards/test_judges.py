"""Rewards made of a judge's answers: the arithmetic by hand, what is shown, and what happens to nonsense."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
import reward_toy as toy
from hypothesis import given
from hypothesis import strategies as st
from judge_members import PRINCIPLES, ToyJudge, references
from reward_toy import Carry
from scipy.stats import spearmanr

from regrip.datasets.episode import Rollouts
from regrip.datasets.protocols import Progress, Relative, Score
from regrip.rewards.judge_backends import Answer, Question
from regrip.rewards.judge_parsing import numbered, preference, rating, yes_or_no
from regrip.rewards.judge_preferences import PreferenceJudge, bradley_terry_loss, preference_pairs
from regrip.rewards.judge_ratings import PrincipleRubric, RoboReward, SuccessJudge
from regrip.rewards.judges import (
    GVL,
    RewardDance,
    TOPReward,
    TOPRewardSuccess,
    advantage_weights,
    spread,
    stretch,
)
from regrip.rewards.scorers import Difference, Terminal, detect, frames_of


@dataclass
class Says:
    """Answers by a function of the question and its number; keeps what it was asked."""

    answer: Callable[[int, Question], Answer]
    asked: list[Question] = field(default_factory=list)

    def ask(self, questions: Sequence[Question], candidates: Sequence[str] = ()) -> list[Answer]:
        self.asked += questions
        return [self.answer(number, question) for number, question in enumerate(questions)]


def text(said: str) -> Says:
    return Says(lambda number, question: Answer(text=said))


def fails(reason: str = "timeout") -> Says:
    return Says(lambda number, question: Answer(trouble=reason))


def of_length(*lengths: int) -> Rollouts:
    rollouts = toy.carry([Carry(0.5, index=index) for index in range(len(lengths))])
    valid = np.zeros_like(rollouts.valid)
    for row, length in enumerate(lengths):
        valid[row, :length] = True
    return replace(rollouts, valid=valid)


def echo(number: int, question: Question) -> Answer:
    """Counts up in the order in which it was shown the frames."""
    count = len(question.pictures) - 1
    return Answer(text="\n".join(f"Frame {n}: {100 * n / count:.1f} %" for n in range(1, count + 1)))


def order_correlation(progress: Progress, rollouts: Rollouts) -> float:
    """Mean rank correlation with time, the anchor left out."""
    counts = rollouts.decision_valid.sum(1)
    each = [
        spearmanr(level[1:count], np.arange(1, count))[0]
        for level, count in zip(progress.value, counts, strict=True)
    ]
    return float(np.mean(each))


def test_a_judge_that_counts_up_gains_nothing_from_gvl() -> None:
    rollouts = toy.many(20, 20)
    assert abs(order_correlation(GVL(Says(echo), "front").progress(rollouts), rollouts)) < 0.15
    rollouts = rollouts.take(range(0, 20, 5))
    assert order_correlation(GVL(ToyJudge(), "front").progress(rollouts), rollouts) > 0.9


def test_gvl_shows_the_first_frame_first_and_the_rest_in_an_order_of_its_own() -> None:
    rollouts = toy.many(2, 0)
    judge = Says(echo)
    GVL(judge, "front").progress(rollouts)
    for row, question in enumerate(judge.asked):
        frames = rollouts.images["front"][row, :9]
        assert np.array_equal(question.pictures[0], frames[0])
        assert rollouts.instruction[row] in question.text
        shown = [next(i for i in range(9) if np.array_equal(p, frames[i])) for p in question.pictures]
        assert sorted(shown) == list(range(9))
        assert shown != sorted(shown)
    before = len(judge.asked)
    GVL(judge, "front").progress(rollouts.take([1, 0]))
    for row, question in enumerate(judge.asked[before:]):
        again = judge.asked[1 - row].pictures
        assert all(np.array_equal(a, b) for a, b in zip(question.pictures, again, strict=True))


def test_gvl_interpolates_what_it_did_not_show() -> None:
    rollouts = of_length(9, 1, 0)
    judge = text("Frame 1: 40 %\nFrame 2: 40 %")
    progress = GVL(judge, "front", frames=3).progress(rollouts)
    np.testing.assert_allclose(progress.value[0, :9], [0, 0.1, 0.2, 0.3, *[0.4] * 5], atol=1e-6)
    assert progress.valid.tolist() == [True, True, False]
    assert not progress.value[1:].any()
    assert progress.components["unjudged/no frames"].tolist() == [0, 0, 1]
    assert len(judge.asked) == 1


def test_awr_weights() -> None:
    np.testing.assert_allclose(advantage_weights(np.array([0.1, 0.3, 0.2])), [1.2214, 0.9048], atol=5e-5)


def test_topreward_arithmetic() -> None:
    level = stretch(np.array([0, 2, 4]), np.array([-4.0, -2.0, -1.0]), 5)
    np.testing.assert_allclose(level, [0, 1 / 3, 2 / 3, 5 / 6, 1], atol=1e-6)
    assert not stretch(np.array([0, 4]), np.array([-1.0, -1.0]), 5).any()


def test_topreward_asks_about_fifteen_growing_prefixes() -> None:
    rollouts = of_length(12)
    judge = Says(lambda number, question: Answer(log_prob={"True": -1.0 / (1 + len(question.pictures))}))
    found = TOPReward(judge, "front", prefixes=4).progress(rollouts)
    assert [len(question.pictures) for question in judge.asked] == [1, 5, 8, 12]
    assert isinstance(found, Relative)
    assert found.ranking.value[0, 11] == 1
    assert spread(30, 15).tolist() == [0, 2, 4, 6, 8, 10, 12, 15, 17, 19, 21, 23, 25, 27, 29]


def test_a_failed_video_still_ends_at_one_and_only_the_raw_number_tells() -> None:
    rollouts = toy.many(6, 6).take(range(11))  # the one that is left out stops so near that it looks done
    found = TOPReward(ToyJudge(), "front").progress(rollouts)
    last = rollouts.decision_valid.sum(1) - 1
    moved = np.arange(11) != 6  # the failure that never set out is noise, or flat
    assert (found.ranking.value[np.arange(11), last][moved] > 0.95).all()
    with pytest.raises(TypeError, match="only ranks"):
        detect(found, 0.5)  # type: ignore[arg-type]
    score = TOPRewardSuccess(ToyJudge(), "front").score(rollouts)
    assert detect(score, math.log(0.9)).tolist() == [True] * 6 + [False] * 5


def test_the_raw_log_probability_is_cut_at_the_floor() -> None:
    judge = Says(lambda number, question: Answer(log_prob={"True": -99.0}))
    assert TOPRewardSuccess(judge, "front").score(of_length(3)).value.tolist() == [-20]


def test_rewarddance_is_the_share_of_yes() -> None:
    rollouts = toy.many(1, 0)
    frames = frames_of(rollouts, np.zeros(1, np.int64), np.zeros(1, np.int64))
    odds = {"yes": math.log(0.3), "no": math.log(0.1)}
    judge = Says(lambda number, question: Answer(log_prob=odds))
    assert RewardDance(judge, "front", references()).score(frames)[0] == pytest.approx(0.75)
    assert RewardDance(judge, "front", references(), as_released=True).score(frames)[0] == pytest.approx(0.3)
    assert np.array_equal(judge.asked[0].pictures[0], references()[frames.instruction[0]])
    assert np.isnan(RewardDance(judge, "front", {}).score(frames)[0])


@pytest.mark.parametrize("mark", [1, 2, 3, 4, 5])
def test_roboreward_scale(mark: int) -> None:
    score = RoboReward(text(f"Score: {mark}"), "front").score(of_length(3))
    assert score.value[0] == pytest.approx(mark / 4 - 0.25)


def test_roboreward_takes_nonsense_for_a_one_only_as_released() -> None:
    strict = RoboReward(text("lovely"), "front").score(of_length(3))
    assert (strict.value[0], strict.valid[0]) == (0, False)
    assert strict.components["unjudged/unreadable"][0] == 1
    released = RoboReward(text("lovely"), "front", as_released=True).score(of_length(3))
    assert (released.value[0], released.valid[0]) == (0, True)
    assert not RoboReward(fails(), "front", as_released=True).score(of_length(3)).valid[0]


def test_bradley_terry() -> None:
    first, second = np.array([0.5, 0.5, 0.5]), np.array([0.2, 0.2, 0.2])
    np.testing.assert_allclose(
        bradley_terry_loss(first, second, np.array([0, 1, -1])), [0.554355, 0.854355, 0], atol=1e-6
    )


def test_a_judge_that_always_prefers_a_place_prefers_nothing() -> None:
    rollouts = toy.many(2, 2)
    rows = np.arange(4)
    a, b = frames_of(rollouts, rows, rows * 0), frames_of(rollouts, rows, rows * 0 + 6)
    assert PreferenceJudge(text("first"), "front", both_orders=False).label(a, b).tolist() == [0] * 4
    assert PreferenceJudge(text("first"), "front").label(a, b).tolist() == [-1] * 4
    assert PreferenceJudge(ToyJudge(), "front").label(a, b).tolist() == [1, 1, -1, 1]  # one never sets out
    assert PreferenceJudge(ToyJudge(), "front").label(b, a).tolist() == [0, 0, -1, 0]
    assert np.isnan(PreferenceJudge(fails(), "front").delta(a, b)).all()


def test_preference_pairs_agree_with_the_truth() -> None:
    rollouts = toy.many(3, 3)
    pairs = preference_pairs(rollouts, PreferenceJudge(ToyJudge(), "front"), 60)
    assert len(pairs) + pairs.counts["discarded"] == 60
    assert len(pairs) > 30
    truth = toy.progress_of(rollouts.privileged)
    better = truth[tuple(pairs.second.T)] > truth[tuple(pairs.first.T)]
    assert (better == (pairs.label == 1)).mean() > 0.9
    names = np.array(rollouts.instruction)
    assert (names[pairs.first[:, 0]] == names[pairs.second[:, 0]]).all()
    assert np.array_equal(
        preference_pairs(rollouts, PreferenceJudge(ToyJudge(), "front"), 60).first, pairs.first
    )
    assert len(preference_pairs(of_length(1), PreferenceJudge(ToyJudge(), "front"), 5)) == 0
    assert preference_pairs(rollouts, PreferenceJudge(fails(), "front"), 5).counts["unjudged"] == 5


def test_principles_are_asked_once_for_a_group_and_compare() -> None:
    rollouts = toy.carry([Carry(1.0, row=0), Carry(0.2, row=1), Carry(0.2, row=1), Carry(1.0, "blue", 5)])
    judge = ToyJudge()
    asked = Says(lambda number, question: judge.ask([question])[0])
    found = PrincipleRubric(asked, "front", PRINCIPLES).score(rollouts)
    assert isinstance(found, Relative)
    assert found.ranking.valid.all()
    assert found.ranking.value[0] > found.ranking.value[1] == found.ranking.value[2]
    assert len(asked.asked) == 2
    assert len(asked.asked[0].pictures) == 8  # the two that look the same are shown once
    assert all(f"- {principle}" in asked.asked[0].text for principle in PRINCIPLES)
    alone = PrincipleRubric(asked, "front", PRINCIPLES, together=False).score(rollouts)
    assert isinstance(alone, Score)
    assert len(asked.asked) == 5
    with pytest.raises(ValueError, match="without principles"):
        PrincipleRubric(asked, "front", ())


@pytest.mark.parametrize("reason", ["timeout", "budget", "status 500"])
def test_what_was_not_answered_is_counted_with_its_reason_and_earns_nothing(reason: str) -> None:
    rollouts, judge = toy.many(2, 1), fails(reason)
    lifted = [
        Difference(GVL(judge, "front")),
        Difference(TOPReward(judge, "front")),
        Terminal(TOPRewardSuccess(judge, "front")),
        Terminal(RoboReward(judge, "front")),
        Terminal(SuccessJudge(judge, "front")),
        Terminal(PrincipleRubric(judge, "front", PRINCIPLES)),
    ]
    for reward in lifted:
        signal = reward(rollouts)
        assert not signal.valid.any()
        assert not signal.value.any()
        assert (signal.components[f"unjudged/{reason}"] > 0).all()


def test_a_missing_camera_is_named() -> None:
    for scorer in (GVL(ToyJudge(), "wrist"), TOPReward(ToyJudge(), "wrist")):
        with pytest.raises(ValueError, match="no camera 'wrist'"):
            scorer.progress(toy.many(1, 0))


def test_the_instruction_goes_through_unchanged() -> None:
    said = "把{红色}方块 移到 <image> %s \\n\ud800"
    rollouts = replace(of_length(3), instruction=[said])
    judge = fails()
    for scorer in (
        RoboReward(judge, "front"),
        SuccessJudge(judge, "front"),
        TOPRewardSuccess(judge, "front"),
    ):
        scorer.score(rollouts)
    GVL(judge, "front").progress(rollouts)
    PrincipleRubric(judge, "front", ("{x}",)).score(rollouts)
    assert len(judge.asked) == 5
    assert all(said in question.text for question in judge.asked)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("Frame 1: 10 %\nFrame 2: 20 %\nFrame 3: 30 %", [10, 20, 30]),
        ("frame 3: 30%, frame 1: 10%, frame 2: 20%", [10, 20, 30]),
        (
            "**Frame 1**: the 2 arms move. Task completion: 10%\nFrame 2: 20.5\nFrame #3 - 30 %",
            [10, 20.5, 30],
        ),
        ("Frame 1: 10 %\nFrame 2: like frame 1 but nearer, 20 %\nFrame 3: 30 %", [10, 20, 30]),
        ("[10, 20, 30]", [10, 20, 30]),
        ("第一 10% 第二 20% 第三 30%", [10, 20, 30]),
        ("Frame 1: 10 %\nFrame 2: 20 %", None),
        ("Frame 1: 10 %\nFrame 2: 20 %\nFrame 3: 130 %", None),
        ("Frame 1: 10 %\nFrame 2: 20 %\nFrame 3: -5 %", None),
        ("I cannot see that.", None),
        ("", None),
    ],
)
def test_numbered_lists(answer: str, expected: list[float] | None) -> None:
    assert numbered(answer, "frame", 3, 0, 100) == expected


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("Score: 4", 4),
        ("4", 4),
        ("I see 3 blocks. Score: 2 of 5", 2),
        ("3/5", 3),
        ("The rating is **5**.", 5),
        ("First I thought 2, but it is 4", 4),
        ("Score: 10", None),
        ("4.5", None),
        ("none", None),
        ("", None),
    ],
)
def test_ratings(answer: str, expected: int | None) -> None:
    assert rating(answer) == expected


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("Yes.", True),
        ("**No**, yes would be wrong", False),
        ("The answer is yes", True),
        ("yesterday", None),
        ("it may be yes or no", None),
    ],
)
def test_yes_or_no(answer: str, expected: bool | None) -> None:
    assert yes_or_no(answer) is expected


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("first", 0),
        ("The second picture.", 1),
        ("unsure", -1),
        ("-1", -1),
        ("The first shows less.\nsecond", 1),
        ("first or second", None),
        ("", None),
    ],
)
def test_preferences(answer: str, expected: int | None) -> None:
    assert preference(answer) == expected


@given(
    st.text(alphabet=st.characters(), max_size=200) | st.text(alphabet="frame 0123456789.%-:\n", max_size=200)
)
def test_no_answer_breaks_a_parser(answer: str) -> None:
    found = numbered(answer, "frame", 2, 0, 100)
    assert found is None or (len(found) == 2 and all(0 <= one <= 100 for one in found))
    assert rating(answer) in (None, 1, 2, 3, 4, 5)
    assert yes_or_no(answer) in (None, True, False)
    assert preference(answer) in (None, 0, 1, -1)
