"""Rewards for what a model says that can be checked without a judge: boxes, paths, plans, choices.

A `TextScorer` compares responses with truths, one for each. A truth that cannot be read makes its row not
valid (`truth_unreadable` counts it); a response that cannot be read is an answer worth nothing, and valid
(`response_unreadable`). Nothing a model or a data set writes raises: texts are cut at 20 000 characters, JSON
is read by the json module, and NaN, Infinity, too large numbers and too many of them are refused.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from ..datasets.protocols import Score
from .geometry import (
    Box,
    Points,
    augmented_frechet,
    centred_box,
    gaussian_coverage,
    gaussian_point,
    giou,
    iou,
    path_score,
)

MAX_CHARS, MAX_ITEMS, MAX_NUMBER = 20_000, 128, 1e6


class TextScorer(Protocol):
    """Scores answers against the truth."""

    @property
    def bounds(self) -> tuple[float, float]:
        """Lowest and highest value it can give."""
        ...

    def score(self, responses: Sequence[str], truths: Sequence[str]) -> Score:
        """(B,) each.

        Raises:
            ValueError: there are not as many responses as truths.
        """
        ...


def tagged(text: str, tag: str) -> str | None:
    """What stands between the first ``<tag>`` and the next ``</tag>``, stripped; None if there is none."""
    begin = re.search(f"<{tag}>", text, re.IGNORECASE)
    if begin is None:
        return None
    end = re.compile(f"</{tag}>", re.IGNORECASE).search(text, begin.end())
    return None if end is None else text[begin.end() : end.start()].strip()


def read_json(text: str | None) -> object:
    """What a JSON text holds; None if it is not JSON, nests too deep, or holds NaN or Infinity."""
    if text is None:
        return None
    try:
        return json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return None


def _refuse(name: str) -> object:
    raise ValueError(name)


def payload(text: str) -> str:
    """What stands in ``<output>``, or else in ``<answer>``, or else the whole text."""
    for tag in ("output", "answer"):
        found = tagged(text, tag)
        if found is not None:
            return found
    return text.strip()


def numbers(value: object, count: int) -> tuple[float, ...] | None:
    """A list of `count` numbers of a size that makes sense; None otherwise."""
    if not isinstance(value, list) or len(value) != count:
        return None
    if not all(isinstance(part, int | float) and not isinstance(part, bool) for part in value):
        return None
    # an int may be too large for a float, so it is compared before
    return tuple(map(float, value)) if all(abs(part) <= MAX_NUMBER for part in value) else None


def box_of_corners(value: object) -> Box | None:
    """[left, top, right, bottom] of a box that is not empty."""
    found = numbers(value, 4)
    if found is None or not (found[0] < found[2] and found[1] < found[3]):
        return None
    return found[0], found[1], found[2], found[3]


def judged_texts(
    responses: Sequence[str],
    truths: Sequence[str],
    judge: Callable[[str, str], Mapping[str, float] | None],
    names: Sequence[str],
) -> Score:
    """Ask `judge` about each pair.

    Args:
        responses: B texts.
        truths: B texts.
        judge: the response and the truth to ``reward`` and other numbers; None if the truth is unreadable.
        names: of the numbers to keep as components, 0 where `judge` does not give them.
    """
    if len(responses) != len(truths):
        raise ValueError(f"{len(responses)} responses for {len(truths)} truths; give one truth for each")
    value, valid = np.zeros(len(truths), np.float32), np.zeros(len(truths), bool)
    every = (*names, "response_unreadable", "truth_unreadable")
    components = {name: np.zeros(len(truths), np.float32) for name in every}
    for row, (said, truth) in enumerate(zip(responses, truths, strict=True)):
        found = judge(said[:MAX_CHARS], truth[:MAX_CHARS])
        valid[row] = found is not None
        for name in every:
            components[name][row] = (found or {"truth_unreadable": 1.0}).get(name, 0.0)
        value[row] = 0.0 if found is None else found["reward"]
    return Score(value, valid, components)


@dataclass(frozen=True)
class VlaR1:
    """Region, path and format of ``<think>...</think><output>JSON</output>``; a `TextScorer`.

    0.9 * task + 0.1 * format. Format is 1 if both tags are there and the output is JSON. A region is
    ``{"x", "y", "width", "height"}`` (centre and size in [0, 1]), a path a list of [x, y]; what leaves the
    unit square is cut to it. A path is judged by `geometry.path_score`. If the response is of another kind
    than the truth the task is worth the least.

    Source: VLA-R1 (arXiv 2510.01623), checked against the released code (``robot_bbox_traj_norm.py``). Other
    than there, numbers must not be strings, and paths have 1 to 128 points.

    Attributes:
        giou_range: ``unit`` judges a region by (GIoU + 1) / 2 as the released code does; ``paper`` by GIoU as
            the paper says, so that a task is worth -1 to 1 (and -1 where there is no region).
    """

    giou_range: Literal["unit", "paper"] = "unit"

    @property
    def bounds(self) -> tuple[float, float]:
        return (0.0, 1.0) if self.giou_range == "unit" else (-0.9, 1.0)

    def score(self, responses: Sequence[str], truths: Sequence[str]) -> Score:
        """Components: format, task, iou, giou, frechet (0 where they do not apply)."""
        return judged_texts(responses, truths, self._judge, ("format", "task", "iou", "giou", "frechet"))

    def _judge(self, said: str, truth: str) -> Mapping[str, float] | None:
        wanted, output = read_json(payload(truth)), read_json(tagged(said, "output"))
        true_box, true_path = _region(wanted), _path(wanted)
        box, path = _region(output), _path(output)
        well_formed = float(output is not None and tagged(said, "think") is not None)
        seen = {"format": well_formed, "response_unreadable": float(box is None and path is None)}
        if true_box is not None:
            task = 0.0 if self.giou_range == "unit" else -1.0
            if box is not None:
                seen |= {"iou": iou(box, true_box), "giou": giou(box, true_box)}
                task = (seen["giou"] + 1) / 2 if self.giou_range == "unit" else seen["giou"]
        elif true_path is not None:
            task = 0.0
            if path is not None:
                seen["frechet"] = augmented_frechet(path, true_path)
                task = path_score(path, true_path)
        else:
            return None
        return seen | {"task": task, "reward": 0.9 * task + 0.1 * well_formed}


def _region(value: object) -> Box | None:
    if not isinstance(value, dict):
        return None
    found = numbers([value.get(name) for name in ("x", "y", "width", "height")], 4)
    return None if found is None else centred_box(found)


def _path(value: object) -> Points | None:
    if not isinstance(value, list) or not 0 < len(value) <= MAX_ITEMS:
        return None
    found = [numbers(point, 2) for point in value]
    return None if None in found else np.clip(np.array(found, np.float64), 0, 1)


def ordered_alignment(similarity: NDArray[np.float64]) -> float:
    """Greatest total similarity of a matching whose pairs do not cross, (N,M) to one number."""
    rows, columns = similarity.shape
    best = np.zeros((rows + 1, columns + 1))
    for i in range(rows):
        for j in range(columns):
            pair = best[i, j] + similarity[i, j]
            best[i + 1, j + 1] = max(best[i, j + 1], best[i + 1, j], pair)
    return float(best[rows, columns])


def unordered_alignment(similarity: NDArray[np.float64]) -> float:
    """Greatest total similarity of any matching (Hungarian), (N,M) to one number."""
    return float(similarity[linear_sum_assignment(similarity, maximize=True)].sum())


def f1(overlap: float, num_said: int, num_true: int) -> float:
    """Harmonic mean of overlap / num_said and overlap / num_true; 0 if either list is empty."""
    return 2 * overlap / (num_said + num_true) if num_said and num_true else 0.0


def exact(a: str, b: str) -> float:
    """1 if equal."""
    return float(a == b)


@dataclass(frozen=True)
class PlanOverlap:
    """A list of skills against the true list, in order; a `TextScorer`.

    F1 of the heaviest alignment without crossings, so steps left out, added or swapped all cost. `order_gap`
    is by how much the unordered (Hungarian) F1 is higher: right steps in the wrong order.

    Both are JSON lists, bare or in ``<output>``; a step is a text, a list of texts, or
    ``{"skill", "object"}``; case and spaces do not count. More than 128 steps are worth nothing.

    Source: REVER (RoboFarseer): ordered bipartite matching, as the abstract says; the dynamic programme and
    F1 are our derivation, its own normalisation is not verified.

    Attributes:
        similarity: of two steps, in [0, 1]; equality by default.
    """

    similarity: Callable[[str, str], float] = exact

    @property
    def bounds(self) -> tuple[float, float]:
        return (0.0, 1.0)

    def score(self, responses: Sequence[str], truths: Sequence[str]) -> Score:
        """Components: precision, recall, order_gap, format (a ``<think>`` and a list that can be read)."""
        return judged_texts(responses, truths, self._judge, ("precision", "recall", "order_gap", "format"))

    def _judge(self, said: str, truth: str) -> Mapping[str, float] | None:
        wanted, steps = _steps(read_json(payload(truth))), _steps(read_json(payload(said)))
        if not wanted:
            return None
        if steps is None:
            return {"reward": 0.0, "response_unreadable": 1.0}
        seen = {"format": float(tagged(said, "think") is not None)}
        if not steps:
            return seen | {"reward": 0.0}
        table = np.array([[self.similarity(a, b) for b in wanted] for a in steps], np.float64)
        table = np.clip(np.nan_to_num(table), 0, 1)
        overlap, free = ordered_alignment(table), unordered_alignment(table)
        reward = f1(overlap, len(steps), len(wanted))
        return seen | {
            "precision": overlap / len(steps),
            "recall": overlap / len(wanted),
            "order_gap": f1(free, len(steps), len(wanted)) - reward,
            "reward": reward,
        }


def _steps(value: object) -> list[str] | None:
    if not isinstance(value, list) or len(value) > MAX_ITEMS:
        return None
    found = []
    for step in value:
        parts = step
        if isinstance(step, dict):
            parts = [step.get("skill"), step.get("object", "")]
        elif isinstance(step, str):
            parts = [step]
        if not isinstance(parts, list) or not all(isinstance(part, str) for part in parts):
            return None
        found.append(plain(" ".join(parts)))
    return found


@dataclass(frozen=True)
class GaussianGrounding:
    """A box, or a point, against the true box, with no edge at the box's border; a `TextScorer`.

    The mean of `geometry.gaussian_point` (of the centre) and `geometry.gaussian_coverage`; a bare point has
    no coverage and so earns at most a half. Responses are ``[left, top, right, bottom]`` or ``[x, y]``, bare,
    in ``<output>`` or in ``<answer>``; truths are boxes in the same units.

    Source: GUI-G2 (arXiv 2507.15846). The two terms are checked against the released code; it adds them (and
    a format reward), we take the mean to stay in [0, 1]. The paper's text was not read beyond its abstract.

    Attributes:
        alpha: standard deviation, in sizes of the box.
    """

    alpha: float = 0.5

    @property
    def bounds(self) -> tuple[float, float]:
        return (0.0, 1.0)

    def score(self, responses: Sequence[str], truths: Sequence[str]) -> Score:
        """Components: point, coverage, iou."""
        return judged_texts(responses, truths, self._judge, ("point", "coverage", "iou"))

    def _judge(self, said: str, truth: str) -> Mapping[str, float] | None:
        wanted, given = box_of_corners(read_json(payload(truth))), read_json(payload(said))
        if wanted is None:
            return None
        box, point = box_of_corners(given), numbers(given, 2)
        seen = {"coverage": 0.0}
        if box is not None:
            seen = {"coverage": gaussian_coverage(box, wanted, self.alpha), "iou": iou(box, wanted)}
            at = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
        elif point is not None:
            at = point[0], point[1]
        else:
            return {"reward": 0.0, "response_unreadable": 1.0}
        seen["point"] = gaussian_point(at, wanted, self.alpha)
        return seen | {"reward": (seen["point"] + seen["coverage"]) / 2}


def plain(text: str) -> str:
    """Without regard to case, width of letters, or how much space there is."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def tokens(text: str) -> Counter[str]:
    """Words, and single characters of scripts that have no spaces (Chinese, Japanese), with their counts."""
    return Counter(re.findall(r"[\u3040-\u30ff\u3400-\u9fff]|[^\W\u3040-\u30ff\u3400-\u9fff]+", plain(text)))


@dataclass(frozen=True)
class MixedAnswer:
    """Choices, boxes and open answers in one data set; a `TextScorer`.

    A truth is ``{"type": "choice" | "box" | "open", "answer": ...}``. A choice must be equal (but for case
    and brackets), a box ([left, top, right, bottom]) earns its IoU, and an open answer the overlap of its
    words with the truth's, looked at from both sides.

    Source: Mixed-R1 (arXiv 2505.24164): the dispatch and IoU as the abstract says. Its open-ended reward
    (BMAS) matches embeddings of tokens and takes, for each token, the best match; ours matches equal words
    and lets each be matched once, or repeating a right word would be free. Its chart reward is left out. Not
    verified against text or code.

    Attributes:
        both_sides: ``harmonic`` is F1; ``arithmetic`` is the mean of precision and recall, nearer to the
            paper, under which a single right word earns above a half.
    """

    both_sides: Literal["harmonic", "arithmetic"] = "harmonic"

    @property
    def bounds(self) -> tuple[float, float]:
        return (0.0, 1.0)

    def score(self, responses: Sequence[str], truths: Sequence[str]) -> Score:
        """Components: choice, box, open (the reward where the truth is of this type, 0 elsewhere)."""
        return judged_texts(responses, truths, self._judge, ("choice", "box", "open"))

    def _judge(self, said: str, truth: str) -> Mapping[str, float] | None:
        wanted, given = read_json(truth), payload(said)
        if not isinstance(wanted, dict):
            return None
        kind, answer = wanted.get("type"), wanted.get("answer")
        if kind == "box":
            true_box, box = box_of_corners(answer), box_of_corners(read_json(given))
            if true_box is None:
                return None
            reward = 0.0 if box is None else iou(box, true_box)
            return {"box": reward, "reward": reward, "response_unreadable": float(box is None)}
        if not isinstance(answer, str) or not plain(answer):
            return None
        if kind == "choice":
            reward = exact(_choice(given), _choice(answer))
        elif kind == "open" and tokens(answer):
            reward = self._overlap(tokens(given), tokens(answer))
        else:
            return None
        return {str(kind): reward, "reward": reward, "response_unreadable": float(not given)}

    def _overlap(self, said: Counter[str], true: Counter[str]) -> float:
        common, num_said, num_true = (said & true).total(), said.total(), true.total()
        if self.both_sides == "harmonic" or not num_said:
            return f1(common, num_said, num_true)
        return (common / num_said + common / num_true) / 2


def _choice(text: str) -> str:
    return plain(text).strip("()[]{}<>.,:;!?\"'* ")
