"""Which of two pictures is nearer to the goal, in a judge's eyes: labels to learn a reward from (RL-VLM-F).

What is said in `judges` about prompts, verification and what could not be judged holds here too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..datasets.episode import Rollouts
from ..datasets.starts import counter_generator
from .judge_backends import Judge, Question
from .judge_parsing import preference
from .judges import ask_each, reading
from .scorers import Frames, frames_of

PREFERENCE_PROMPT = "Two pictures of a robot. The task: {instruction}\nThe first picture:"
PREFERENCE_MIDDLE = "The second picture:"
PREFERENCE_ASK = (
    "In which picture is the robot nearer to having done the task? Answer with one word: first, second, or "
    "unsure if there is no difference or it cannot be seen."
)


@dataclass(frozen=True)
class PreferenceJudge:
    """A judge that compares two pictures; a labeller of preferences, and a `PairScorer`.

    Source: RL-VLM-F (arXiv 2402.03681); labels 0, 1 and -1 (discarded) and the loss checked against its code.
    Its two-step prompt (describe, then decide) is not copied, and asking in both orders is ours.

    Attributes:
        judge: asked once for each pair, twice with `both_orders`.
        camera: whose pictures.
        both_orders: ask with the pictures changed over too, and count what contradicts itself as unsure: a
            judge may prefer a place. Without, `delta` is not the negative of the reversed pair.
        step: what `delta` gives for a preference. How much better a picture is, a preference does not say.
    """

    judge: Judge
    camera: str
    both_orders: bool = True
    step: float = 0.1

    def __post_init__(self) -> None:
        if not 0 < self.step <= 1:
            raise ValueError(f"preference judge: step is {self.step}, expected more than 0 and at most 1")

    def compare(self, first: Frames, second: Frames) -> NDArray[np.float32]:
        """(N,): 1 the second is better, -1 the first, 0 unsure; NaN where it could not be judged."""
        there = self._asked(first, second)
        if not self.both_orders:
            return there
        back = self._asked(second, first)
        agreed = np.where(there == -back, there, np.float32(0))
        return np.asarray(np.where(np.isnan(there) | np.isnan(back), np.float32(np.nan), agreed))

    def _asked(self, first: Frames, second: Frames) -> NDArray[np.float32]:
        questions = [
            Question(
                (PREFERENCE_PROMPT.format(instruction=said), one, PREFERENCE_MIDDLE, two, PREFERENCE_ASK)
            )
            for said, one, two in zip(
                first.instruction, first.camera(self.camera), second.camera(self.camera), strict=True
            )
        ]
        meaning = {0: -1.0, 1: 1.0, -1: 0.0, None: np.nan}
        answers = ask_each(self.judge, questions)
        return np.array([meaning[reading(answer, preference)[0]] for answer in answers], np.float32)

    def label(self, first: Frames, second: Frames) -> NDArray[np.int64]:
        """(N,): 0 the first is better, 1 the second, -1 to be discarded (unsure, or not judged)."""
        found = self.compare(first, second)
        return np.select([found == -1, found == 1], [0, 1], default=-1).astype(np.int64)

    def delta(self, before: Frames, after: Frames) -> NDArray[np.float32]:
        """(N,): `step`, its negative, or 0; NaN where it could not be judged."""
        return np.asarray(np.float32(self.step) * self.compare(before, after), np.float32)


@dataclass(frozen=True)
class PreferencePairs:
    """Pairs of moments with a clear preference.

    Attributes:
        first: int64 (N,2), episode and decision.
        second: int64 (N,2).
        label: int64 (N,), 0 if the first is better and 1 if the second is.
        counts: how many pairs were asked about, ``discarded`` as unsure, and ``unjudged``.
    """

    first: NDArray[np.int64]
    second: NDArray[np.int64]
    label: NDArray[np.int64]
    counts: Mapping[str, int]

    def __len__(self) -> int:
        return len(self.label)


def preference_pairs(
    rollouts: Rollouts, labeller: PreferenceJudge, count: int, seed: int = 0
) -> PreferencePairs:
    """Draw pairs of different moments with the same instruction and ask which is better.

    Args:
        rollouts: to draw from; which are drawn depends on the batch, its iteration and `seed`.
        labeller: asked.
        count: pairs asked about; fewer are kept.
        seed: of the draw.

    Returns:
        The pairs kept; none if no instruction has two moments.
    """
    places = np.argwhere(rollouts.decision_valid)
    names = np.array(rollouts.instruction, dtype=object)[places[:, 0]]
    same = [np.flatnonzero(names == name) for name in sorted(set(names))]
    sizes = np.array([len(group) if len(group) > 1 else 0 for group in same], np.float64)
    if not sizes.sum() or count < 1:
        none = np.zeros((0, 2), np.int64)
        return PreferencePairs(none, none, np.zeros(0, np.int64), dict.fromkeys(_COUNTS, 0))
    generator = counter_generator("preference pairs", seed, rollouts.policy_version)
    drawn = [
        generator.choice(same[group], 2, replace=False)
        for group in generator.choice(len(same), count, p=sizes / sizes.sum())
    ]
    first, second = (places[[pair[side] for pair in drawn]] for side in (0, 1))
    found = labeller.compare(frames_of(rollouts, *first.T), frames_of(rollouts, *second.T))
    clear = np.abs(found) == 1
    counts = (count, int((found == 0).sum()), int(np.isnan(found).sum()))
    return PreferencePairs(
        first[clear],
        second[clear],
        (found[clear] > 0).astype(np.int64),
        dict(zip(_COUNTS, counts, strict=True)),
    )


_COUNTS = ("asked", "discarded", "unjudged")


def bradley_terry_loss(
    first: NDArray[np.floating], second: NDArray[np.floating], label: NDArray[np.integer]
) -> NDArray[np.float64]:
    """Cross-entropy of the labels when the odds are exp(second - first); (N,), 0 where the label is -1.

    Args:
        first: (N,) reward of the first of each pair.
        second: (N,) reward of the second.
        label: (N,) 0, 1, or -1 to be left out.

    Source: RL-VLM-F, checked against the released code (cross-entropy over the two rewards as logits).
    """
    margin = np.where(label == 1, 1, -1) * (second.astype(np.float64) - first)
    return np.asarray(np.where(label < 0, 0.0, np.logaddexp(0.0, -margin)))
