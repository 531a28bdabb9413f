"""Rewards that are a vision-language model's answers about whole episodes: ratings, principles, success.

What is said in `judges` about prompts, verification and what could not be judged holds here too.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from ..datasets.episode import Rollouts
from ..datasets.protocols import Relative, Score
from .judge_backends import Judge, Part, Question
from .judge_parsing import numbered, rating, yes_or_no
from .judges import ask_each, digest, reading, scored, shown, spread

RATING_PROMPT = "An episode of a robot at work, in order of time. The task: {instruction}"
RATING_ASK = (
    "Rate how far the task is done at the end: 1 nothing that helps, 2 a start, 3 about half, 4 nearly, "
    "5 completely. Answer with one line like this: Score: 3"
)
RUBRIC_PROMPT = (
    "Episodes of a robot, each in order of time. The task: {instruction}\n"
    "They are to be judged by these principles alone:"
)
RUBRIC_ASK = (
    "Rate each of the {count} episodes by the principles from 1 (against all of them) to 5 (all fulfilled). "
    "Answer with one line for each, like this: Episode 1: 3"
)
SUCCESS_PROMPT = "The end of an episode of a robot at work, in order of time. The task: {instruction}"
SUCCESS_ASK = "Is the task completed in the last picture? Answer with one word, yes or no:"


@dataclass(frozen=True)
class RoboReward:
    """A judge's mark from 1 to 5 for the whole episode, as mark / 4 - 1/4; an absolute `EpisodeScorer`.

    An answer without a readable mark leaves the episode unjudged; `as_released` takes it for a 1, so that a
    judge that fails looks like an episode that failed. (What never was answered is unjudged in both.)

    Source: RoboReward; scale, last-digit fallback and failure value checked against the baseline in
    robometer's code; prompt and the other parsing are ours.

    Attributes:
        judge: asked once for each episode.
        camera: whose pictures.
        frames: shown, evenly, at most.
        as_released: see above.
    """

    judge: Judge
    camera: str
    frames: int = 15
    as_released: bool = False
    bounds: tuple[float, float] = field(default=(0.0, 1.0), init=False)

    def score(self, rollouts: Rollouts) -> Score:
        questions = _whole(rollouts, self.camera, self.frames, RATING_PROMPT, RATING_ASK)
        said, trouble = [], []
        for answer in ask_each(self.judge, questions):
            mark, reason = reading(answer, rating)
            if self.as_released and reason == "unreadable":
                mark, reason = 1, ""
            said.append(None if mark is None else mark / 4 - 0.25)
            trouble.append(reason)
        return scored(said, trouble)


def _whole(rollouts: Rollouts, camera: str, frames: int, prompt: str, ask: str) -> list[Question | None]:
    """One question for each episode: prompt, frames of all of it, and what is asked."""
    return [
        Question(
            (
                prompt.format(instruction=rollouts.instruction[row]),
                *shown(rollouts, row, camera, spread(int(count), frames)),
                ask,
            )
        )
        if count
        else None
        for row, count in enumerate(rollouts.decision_valid.sum(1))
    ]


@dataclass(frozen=True)
class SuccessJudge:
    """Whether the judge says that the task is completed at the end, 1 or 0; an absolute `EpisodeScorer`.

    It is not the simulator's verdict, and `diagnostics` should say how often the two agree before it counts.
    Ours; the question is the one that success detectors ask.

    Attributes:
        judge: asked once for each episode.
        camera: whose pictures.
        frames: the last ones shown.
    """

    judge: Judge
    camera: str
    frames: int = 4
    bounds: tuple[float, float] = field(default=(0.0, 1.0), init=False)

    def score(self, rollouts: Rollouts) -> Score:
        questions: list[Question | None] = []
        for row, count in enumerate(rollouts.decision_valid.sum(1)):
            pictures = shown(rollouts, row, self.camera, np.arange(count)[-self.frames :])
            prompt = SUCCESS_PROMPT.format(instruction=rollouts.instruction[row])
            questions.append(Question((prompt, *pictures, SUCCESS_ASK)) if pictures else None)
        read = [reading(answer, yes_or_no) for answer in ask_each(self.judge, questions)]
        return scored([None if yes is None else float(yes) for yes, _ in read], [why for _, why in read])


@dataclass(frozen=True)
class PrincipleRubric:
    """Marks from 1 to 5 by principles that the user states, as (mark - 1) / 4; an `EpisodeScorer`.

    With `together`, the episodes of a group (same task and start) are shown in one question, up to `most`,
    and the marks compare them: the result is then `Relative`. In which order they are shown depends on their
    pictures alone, and episodes that look the same are shown once. Without, each is asked about by itself and
    the result is absolute.

    Source: the idea of RewardAnything (arXiv 2506.03637), principles in words and marks for a list of
    responses; not verified, prompt and scale ours.

    Attributes:
        judge: asked.
        camera: whose pictures.
        principles: in the user's words, one or more.
        together: see above.
        frames: shown of each episode, evenly, at most.
        most: episodes in one question.
    """

    judge: Judge
    camera: str
    principles: tuple[str, ...]
    together: bool = True
    frames: int = 4
    most: int = 6
    bounds: tuple[float, float] = field(default=(0.0, 1.0), init=False)

    def __post_init__(self) -> None:
        if not self.principles or not all(text.strip() for text in self.principles):
            raise ValueError("a rubric without principles, or with an empty one; say what to judge by")

    def score(self, rollouts: Rollouts) -> Score | Relative[Score]:
        looks: dict[tuple[int, str], dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
        pictures = []
        for row, count in enumerate(rollouts.decision_valid.sum(1)):
            pictures.append(shown(rollouts, row, self.camera, spread(int(count), self.frames)))
            if count:
                said = rollouts.instruction[row]
                looks[int(rollouts.group[row]), said][digest(said, pictures[-1])].append(row)
        questions, asked = [], []
        for (_, instruction), alike in looks.items():
            distinct = [alike[key] for key in sorted(alike)]
            size = self.most if self.together else 1
            for first in range(0, len(distinct), size):
                asked.append(distinct[first : first + size])
                questions.append(self._question(instruction, [pictures[rows[0]] for rows in asked[-1]]))
        marks: list[float | None] = [None] * len(rollouts)
        trouble = ["no frames"] * len(rollouts)
        for shown_rows, answer in zip(asked, ask_each(self.judge, questions), strict=True):
            parse = partial(numbered, word="episode", count=len(shown_rows), low=1, high=5)
            told, reason = reading(answer, parse)
            for place, rows in enumerate(shown_rows):
                for row in rows:
                    marks[row] = None if told is None else (told[place] - 1) / 4
                    trouble[row] = reason
        score = scored(marks, trouble)
        return Relative(score) if self.together else score

    def _question(self, instruction: str, episodes: Sequence[Sequence[Part]]) -> Question:
        parts: list[Part] = [RUBRIC_PROMPT.format(instruction=instruction)]
        parts += [f"- {principle}" for principle in self.principles]
        for number, pictures in enumerate(episodes, 1):
            parts += [f"Episode {number}:", *pictures]
        return Question((*parts, RUBRIC_ASK.format(count=len(episodes))))
