"""Answers that can be checked: the reference's numbers, and that nothing a model writes raises."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from regrip.rewards.geometry import (
    augmented_frechet,
    gaussian_coverage,
    gaussian_point,
    giou,
    iou,
    path_score,
    tangents,
)
from regrip.rewards.verifiable import (
    GaussianGrounding,
    MixedAnswer,
    PlanOverlap,
    TextScorer,
    VlaR1,
    f1,
    ordered_alignment,
    payload,
    read_json,
    tagged,
    tokens,
    unordered_alignment,
)

LINE = [[0.0, 0.0], [0.5, 0.0], [1.0, 0.0]]


def said(answer: object, think: bool = True) -> str:
    return f"{'<think>so</think>' if think else ''}<output>{json.dumps(answer)}</output>"


def region(x: float, y: float, width: float = 0.2, height: float = 0.2) -> dict[str, float]:
    return {"x": x, "y": y, "width": width, "height": height}


@pytest.mark.parametrize(
    ("given_box", "true_box", "unit", "paper"),
    [
        # IoU = GIoU = 1/3
        (region(0.3, 0.3), region(0.4, 0.3), 0.70, 0.9 / 3 + 0.1),
        # apart: GIoU -0.875
        (region(0.2, 0.2), region(0.8, 0.8), 0.15625, -0.9 * 0.875 + 0.1),
    ],
)
def test_vla_r1_regions(given_box: object, true_box: object, unit: float, paper: float) -> None:
    """Trap T6: the paper's range and the code's."""
    assert VlaR1().score([said(given_box)], [said(true_box)]).value[0] == pytest.approx(unit, abs=1e-6)
    plain = VlaR1(giou_range="paper").score([said(given_box)], [said(true_box)])
    assert plain.value[0] == pytest.approx(paper, abs=1e-6)


def test_vla_r1_paths() -> None:
    shifted = [[x, y + 0.1] for x, y in LINE]
    score = VlaR1().score([said(shifted), said(LINE[::-1]), said(shifted, think=False)], [said(LINE)] * 3)
    assert score.components["frechet"][:2] == pytest.approx([0.1, 1.785398], abs=1e-6)
    assert score.components["task"][:2] == pytest.approx([0.958846, 0.265229], abs=1e-6)
    assert score.value[0] == pytest.approx(0.962961, abs=1e-6)
    assert score.value[0] - score.value[2] == pytest.approx(0.1)


def test_vla_r1_the_wrong_kind_is_worth_the_least() -> None:
    responses = [said(LINE), said([]), "no tags", said(region(0.5, 0.5), think=False)]
    score = VlaR1().score(responses, [said(region(0.5, 0.5))] * 4)
    assert score.value == pytest.approx([0.1, 0.1, 0.0, 0.9], abs=1e-6)
    assert score.components["response_unreadable"].tolist() == [0, 1, 1, 0]
    worst = VlaR1(giou_range="paper").score(responses, [said(region(0.5, 0.5))] * 4)
    assert worst.value == pytest.approx([-0.8, -0.8, -0.9, 0.9], abs=1e-6)  # not better than a bad region


def test_paths_of_one_point_and_paths_that_turn_back() -> None:
    point = np.array([[0.5, 0.5]])
    assert path_score(point, point) == 1
    assert path_score(np.array([[0.0, 0.0], [1.0, 1.0]]), point) == 0  # lengths 1 and 0
    there_and_back = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 0.0], [0.0, 0.0]])
    assert tangents(there_and_back).tolist() == [[1, 0], [1, 0], [-1, 0], [0, 0]]
    assert augmented_frechet(there_and_back, there_and_back) == 0


def test_boxes() -> None:
    a = (0.0, 0.0, 2.0, 2.0)
    assert iou(a, (1.0, 0.0, 3.0, 2.0)) == pytest.approx(1 / 3)
    assert giou(a, a) == 1
    assert iou((1.0, 1.0, 1.0, 1.0), (1.0, 1.0, 1.0, 1.0)) == 0
    assert giou((1.0, 1.0, 1.0, 1.0), (1.0, 1.0, 1.0, 1.0)) == 0


@pytest.mark.parametrize(
    ("steps", "ordered", "ordered_f1", "free"), [("ABC", 2, 2 / 3, 3), ("CBA", 1, 1 / 3, 3), ("", 0, 0, 0)]
)
def test_rever_alignment(steps: str, ordered: float, ordered_f1: float, free: float) -> None:
    truth = "ACB" if steps == "ABC" else "ABC"
    table = np.array([[float(a == b) for b in truth] for a in steps]).reshape(len(steps), len(truth))
    assert ordered_alignment(table) == ordered
    assert f1(ordered, len(steps), len(truth)) == pytest.approx(ordered_f1)
    assert unordered_alignment(table) == free


def test_rever_plans() -> None:
    truth = json.dumps(["pick cup", "open drawer", "place cup"])
    swapped = json.dumps(["pick cup", "place cup", "open drawer"])
    padded = said([["pick", "cup"], "Open  Drawer", {"skill": "place", "object": "cup"}, "place cup"])
    score = PlanOverlap().score([swapped, padded, "[]", "a cup"], [truth] * 4)
    assert score.value == pytest.approx([2 / 3, 0.857143, 0, 0], abs=1e-6)
    assert score.components["order_gap"] == pytest.approx([1 / 3, 0, 0, 0], abs=1e-6)
    assert score.components["precision"][1] == pytest.approx(0.75)
    assert score.components["recall"][1] == 1
    assert score.components["format"].tolist() == [0, 1, 0, 0]
    assert score.components["response_unreadable"].tolist() == [0, 0, 0, 1]
    assert score.valid.all()
    soft = PlanOverlap(lambda a, b: math.nan if a == b else 2.0).score([truth], [truth])
    assert 0 <= soft.value[0] <= 1  # a similarity out of bounds is cut


@settings(deadline=None)
@given(
    st.lists(st.sampled_from("ABCD"), max_size=7), st.lists(st.sampled_from("ABCD"), min_size=1, max_size=7)
)
def test_padding_a_plan_never_pays(steps: list[str], truth: list[str]) -> None:
    scorer, wanted = PlanOverlap(), json.dumps(truth)
    best = scorer.score([wanted], [wanted]).value[0]
    assert best == 1
    plan, longer = scorer.score([json.dumps(steps), json.dumps([*truth, *steps])], [wanted] * 2).value
    assert 0 <= plan <= best
    assert longer <= best
    gap = scorer.score([json.dumps(steps)], [wanted]).components["order_gap"][0]
    assert gap >= -1e-6


def test_gaussian_grounding_by_hand() -> None:
    box = (10.0, 10.0, 30.0, 50.0)  # centre (20, 30), deviations 10 and 20
    assert gaussian_point((20, 30), box) == 1
    assert gaussian_point((30, 30), box) == pytest.approx(math.exp(-0.5))
    assert gaussian_point((30, 10), box) == pytest.approx(math.exp(-1))
    assert gaussian_coverage(box, box) == pytest.approx(1)
    # twice as wide: sqrt(2 * 10 * 20 / 500)
    assert gaussian_coverage((0.0, 10.0, 40.0, 50.0), box) == pytest.approx(math.sqrt(0.8))
    # shifted by its width: exp(-400 / 800)
    assert gaussian_coverage((30.0, 10.0, 50.0, 50.0), box) == pytest.approx(math.exp(-0.5))


def test_gaussian_grounding_has_no_edge_and_sees_size() -> None:
    responses = [
        "[10, 10, 30, 50]",
        "[20, 30]",
        "[0, 0, 100, 100]",
        "[30, 50, 10, 10]",
        "<answer>[20, 30]</answer>",
    ]
    score = GaussianGrounding().score(responses, ["[10, 10, 30, 50]"] * 5)
    assert score.value[[0, 1, 4]] == pytest.approx([1, 0.5, 0.5])
    assert score.value[2] < 0.3
    assert score.value[3] == 0  # inside out
    outside = GaussianGrounding().score(["[31, 30]", "[60, 30]"], ["[10, 10, 30, 50]"] * 2).value
    assert 0 < outside[1] < outside[0]


def test_mixed_answers() -> None:
    truths = [
        '{"type": "choice", "answer": "B"}',
        '{"type": "box", "answer": [0, 0, 2, 2]}',
        '{"type": "open", "answer": "pick up the red cup"}',
        '{"type": "open", "answer": "拿起红杯子"}',
    ]
    responses = ["(b).", "<output>[1, 0, 3, 2]</output>", "The red CUP", "拿红杯子"]
    score = MixedAnswer().score(responses, truths)
    assert score.value == pytest.approx([1, 1 / 3, 2 * 3 / 8, 2 * 4 / 9], abs=1e-6)
    near_paper = MixedAnswer("arithmetic").score(["red"], truths[2:3])
    assert near_paper.value[0] == pytest.approx((1 + 1 / 5) / 2)  # the hack it admits
    repeated = MixedAnswer().score(["cup cup cup cup"], truths[2:3]).value[0]
    assert repeated == pytest.approx(2 / 9)
    assert tokens("Ｔｈｅ  cup, the CUP") == {"the": 2, "cup": 2}


UNREADABLE = [
    "",
    "{",
    "null",
    "[NaN, 0, 1, 1]",
    "[0, 0, 1e999, 1]",
    "[0, 0, 0, 0]",
    '{"type": "choice"}',
    "\x00",
]


@pytest.mark.parametrize("scorer", [VlaR1(), PlanOverlap(), GaussianGrounding(), MixedAnswer()])
def test_a_truth_that_cannot_be_read_is_counted(scorer: TextScorer) -> None:
    score = scorer.score(["[0, 0, 1, 1]"] * len(UNREADABLE), UNREADABLE)
    assert not score.valid.any()
    assert (score.components["truth_unreadable"] == 1).all()
    assert not score.value.any()
    with pytest.raises(ValueError, match="1 responses for 2 truths"):
        scorer.score(["a"], ["a", "b"])
    assert scorer.score([], []).value.shape == (0,)


def test_reading() -> None:
    assert tagged("<OUTPUT> 1 </output> <output>2</output>", "output") == "1"
    assert tagged("<output> 1", "output") is None
    assert payload("<answer> x </answer>") == "x"
    for text in ("[" * 15_000, "[NaN]", "[-Infinity]", '{"a":' * 3000, "9" * 5000, "<output>", None):
        assert read_json(text) is None


HOSTILE = [
    said([["1e999", 1]]),
    said([[10**400, 1]]),
    said(region(math.nan, 0.5)),
    said(region(True, 0.5)),
    said({"x": [], "y": {}, "width": None, "height": "1"}),
    said([[0.5, 0.5]] * 5000),
    said([["a", None]]),
    said("\ud800"),
    said(["\ud800", "İ"]),
    "<think>" * 3000,
    "<output>" * 3000 + "[" * 3000,
    "[" * 20_000,
    "1" * 20_000,
    "[0,0," + "9" * 4000 + ",1]",
    '{"type": "open", "answer": "' + "a " * 9000 + '"}',
    '{"type": [], "answer": {}}',
    '{"type": "choice", "answer": "..."}',
]
SCORERS: list[TextScorer] = [
    VlaR1(),
    VlaR1(giou_range="paper"),
    PlanOverlap(),
    GaussianGrounding(),
    MixedAnswer(),
    MixedAnswer("arithmetic"),
]
TRUTHS = [
    said(region(0.5, 0.5)),
    said(LINE),
    '["pick cup"]',
    "[0, 0, 1, 1]",
    '{"type": "open", "answer": "red cup"}',
    '{"type": "box", "answer": [0, 0, 1, 1]}',
    '{"type": "choice", "answer": "A"}',
]


def check(scorer: TextScorer, responses: list[str], truths: list[str]) -> None:
    score = scorer.score(responses, truths)
    low, high = scorer.bounds
    assert np.isfinite(score.value).all()
    assert (score.value >= low - 1e-6).all()
    assert (score.value <= high + 1e-6).all()
    assert not score.value[~score.valid].any()
    assert np.array_equal(~score.valid, score.components["truth_unreadable"] == 1)
    for held in score.components.values():
        assert held.shape == score.value.shape
        assert np.isfinite(held).all()


@pytest.mark.parametrize("scorer", SCORERS, ids=lambda s: f"{s}"[:30])
def test_hostile_texts(scorer: TextScorer) -> None:
    for truth in TRUTHS:
        check(scorer, HOSTILE, [truth] * len(HOSTILE))
    check(scorer, [TRUTHS[0]] * len(HOSTILE), HOSTILE)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["x", "y", "width", "height", "type", "answer", "skill"]), inner)
    ),
    max_leaves=12,
)
NUMBERS = st.lists(st.floats(-1e7, 1e7), min_size=4, max_size=4)


def written(value: Any) -> str:
    return json.dumps(value)


TEXTS = (
    st.text(max_size=60)
    | JSON.map(written)
    | JSON.map(said)
    | NUMBERS.map(written)
    | NUMBERS.map(lambda four: said(dict(zip(("x", "y", "width", "height"), four, strict=True))))
    | st.lists(st.tuples(st.floats(-1, 2), st.floats(-1, 2)), max_size=5).map(said)
)


@settings(max_examples=25, deadline=None)
@given(TEXTS, TEXTS | st.sampled_from(TRUTHS))
def test_nothing_raises_and_bounds_hold(response: str, truth: str) -> None:
    for scorer in SCORERS:
        check(scorer, [response, truth], [truth, response])
