"""Rewards that are a vision-language model's answers about frames: GVL, TOPReward, RewardDance.

Those about whole episodes are in `judge_ratings`, those about two pictures in `judge_preferences`. None of
them was run with a pretrained judge here: the arithmetic around the answers is tested, the prompts are our
own words, and what a given model makes of them is for its user to measure (`diagnostics`).

The instruction goes into the prompt as it is, whatever its language. What could not be judged is not valid
and counted: `unjudged` and ``unjudged/<reason>`` are components, the reasons those of `Answer.trouble` and
"unreadable" (words that say nothing clear), "no frames" (an episode without decisions).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from ..datasets.episode import Rollouts
from ..datasets.protocols import Progress, Relative, Score
from ..datasets.starts import counter_generator
from .judge_backends import Answer, Judge, Part, Question
from .judge_parsing import numbered
from .scorers import Frames, frames_of

GVL_PROMPT = (
    "Frames of one episode of a robot at work, in no order of time. The task: {instruction}\n"
    "This is how it began; here 0 % of the task is done:"
)
GVL_ASK = (
    "For each of the {count} other frames above, say how much of the task is done in it, from 0 % to 100 %. "
    "Answer with one line for each frame, in the order shown, like this: Frame 1: 35 %"
)
TOP_PROMPT = "A robot at work, in order of time. The task: {instruction}"
TOP_ASK = "The robot has completed the task. Answer with one word, True or False:"
DANCE_PROMPT = "The task of a robot: {instruction}\nThis picture shows the task done:"
DANCE_MIDDLE = "And this picture was taken during another attempt:"
DANCE_ASK = "Is the task done in it as well as in the one before? Answer with one word, yes or no:"
TRUE = "True"

Said = TypeVar("Said")


def spread(length: int, count: int) -> NDArray[np.int64]:
    """At most `count` of 0..length-1, evenly, with the first and the last (with one place: the last)."""
    if count == 1 or length < 2:
        return np.arange(length)[-1:]
    count = min(length, count)
    return (2 * np.arange(count) * (length - 1) + count - 1) // (2 * (count - 1))  # in integers: no rounding


def shown(rollouts: Rollouts, row: int, camera: str, at: NDArray[np.int64]) -> list[NDArray[np.uint8]]:
    return list(frames_of(rollouts, np.full(len(at), row), at).camera(camera))


def ask_each(
    judge: Judge, questions: Sequence[Question | None], candidates: Sequence[str] = ()
) -> list[Answer]:
    """Answers; where there is no question, there were no frames."""
    real = [question for question in questions if question is not None]
    told = iter(judge.ask(real, candidates) if real else [])
    return [Answer(trouble="no frames") if question is None else next(told) for question in questions]


def reading(answer: Answer, parse: Callable[[str], Said | None]) -> tuple[Said | None, str]:
    """What an answer says, and if nothing, why."""
    if answer.trouble:
        return None, answer.trouble
    said = parse(answer.text)
    return said, "unreadable" if said is None else ""


def reasons(trouble: Sequence[Sequence[str]]) -> dict[str, NDArray[np.float32]]:
    """Components (B,) of the reasons met in each of B episodes."""
    named = sorted({reason for row in trouble for reason in row})
    counted = {f"unjudged/{name}": [list(row).count(name) for row in trouble] for name in named}
    counted["unjudged"] = [len(row) for row in trouble]
    return {name: np.array(counts, np.float32) for name, counts in counted.items()}


def scored(said: Sequence[float | None], trouble: Sequence[str]) -> Score:
    value = np.array([0.0 if number is None else number for number in said], np.float32)
    valid = np.array([number is not None for number in said], bool)
    return Score(value, valid, reasons([[reason] if reason else [] for reason in trouble]))


@dataclass(frozen=True)
class GVL:
    """How much of the task is done in each frame, when the frames are shown in random order.

    A `TrajectoryScorer`. At most `frames` frames, evenly; the first is shown first, as 0 %, and the others
    shuffled, so that a judge cannot simply count up. The order depends on `seed`, the pictures and the
    instruction alone. Decisions that were not shown are interpolated. Levels are in [0, 1] and absolute as
    far as the judge's per cents are, but begin at 0 even if the task was half done at the start. The anchor
    is lowest by construction: leave it out when measuring order (a judge that echoes the order in which it
    was shown 15 frames gets a rank correlation of 0 without it and of 0.19 with it).

    Source: Generative Value Learning (arXiv 2411.04549); shuffling, anchor and the limit of 15 frames checked
    against public reimplementations' code (opengvl, robometer); prompt and parsing are ours.

    Attributes:
        judge: asked, once for each episode.
        camera: whose pictures.
        frames: shown at most, 2 or more.
        seed: of the order.
    """

    judge: Judge
    camera: str
    frames: int = 15
    seed: int = 0
    bounds: tuple[float, float] = field(default=(0.0, 1.0), init=False)

    def __post_init__(self) -> None:
        if self.frames < 2:
            raise ValueError(f"GVL with {self.frames} frames; it needs the first and one more")

    def progress(self, rollouts: Rollouts) -> Progress:
        mask = rollouts.decision_valid
        places = [spread(count, self.frames) for count in mask.sum(1)]
        orders: list[NDArray[np.int64]] = []
        questions: list[Question | None] = []
        for row, at in enumerate(places):
            frames = shown(rollouts, row, self.camera, at)
            orders.append(self._order(rollouts.instruction[row], frames))
            questions.append(self._question(rollouts.instruction[row], frames, orders[-1]))
        value = np.zeros(mask.shape, np.float32)
        valid, trouble = np.zeros(len(mask), bool), []
        for row, answer in enumerate(ask_each(self.judge, questions)):
            at, order = places[row], orders[row]
            said, reason = reading(answer, partial(numbered, word="frame", count=len(order), low=0, high=100))
            if len(at) == 1:  # nothing to ask about: the anchor alone
                said, reason = [], ""
            trouble.append([reason] if reason else [])
            if said is not None:
                levels = np.zeros(len(at))
                levels[order] = np.array(said) / 100
                count = int(mask[row].sum())
                value[row, :count] = np.interp(np.arange(count), at, levels)
                valid[row] = True
        return Progress(value, valid, reasons(trouble))

    def _order(self, instruction: str, frames: Sequence[NDArray[np.uint8]]) -> NDArray[np.int64]:
        """Which frame (1...) is shown at each place; random, but the same for the same episode."""
        key = digest(instruction, frames)
        return 1 + counter_generator("gvl", self.seed, key).permutation(max(0, len(frames) - 1))

    def _question(
        self, instruction: str, frames: Sequence[NDArray[np.uint8]], order: NDArray[np.int64]
    ) -> Question | None:
        if not len(order):
            return None
        parts: list[Part] = [GVL_PROMPT.format(instruction=instruction), frames[0]]
        for number, index in enumerate(order, 1):
            parts += [f"Frame {number}:", frames[index]]
        return Question((*parts, GVL_ASK.format(count=len(order))))


def digest(instruction: str, frames: Sequence[NDArray[np.uint8]]) -> str:
    held = hashlib.blake2b(instruction.encode("utf-8", "surrogatepass") + b"\0", digest_size=16)
    for frame in frames:
        held.update(repr(frame.shape).encode() + frame.tobytes())
    return held.hexdigest()


def advantage_weights(level: NDArray[np.floating], temperature: float = 1.0) -> NDArray[np.float64]:
    """Weights exp(temperature * (next level - level)) for imitation, (T,) to (T-1,).

    Source: GVL, in a third party's note about the paper; not verified in the paper itself.
    """
    return np.asarray(np.exp(temperature * np.diff(level.astype(np.float64))), np.float64)


@dataclass(frozen=True)
class TOPReward:
    """How sure the judge is, from the frames up to each moment, that the task is done, within one video.

    A `TrajectoryScorer`. The log-probability of "True" is asked for at `prefixes` moments, evenly, stretched
    to [0, 1] between the least and the greatest of the episode, and interpolated. So a failure ends at 1 like
    a success: the result is `Relative`, and `TOPRewardSuccess` is what tells them apart. All-equal
    log-probabilities are levels of 0 (component `flat`).

    Source: TOPReward; the arithmetic checked against the baseline in robometer's code, prompt ours.

    Attributes:
        judge: asked, `prefixes` times for each episode; it must give log-probabilities.
        camera: whose pictures.
        prefixes: moments asked about.
        frames: shown of each prefix, evenly, at most.
    """

    judge: Judge
    camera: str
    prefixes: int = 15
    frames: int = 15
    bounds: tuple[float, float] = field(default=(0.0, 1.0), init=False)

    def progress(self, rollouts: Rollouts) -> Relative[Progress]:
        mask = rollouts.decision_valid
        ends = [spread(count, self.prefixes) if count else np.zeros(0, np.int64) for count in mask.sum(1)]
        told = iter(
            self.judge.ask(
                [
                    _prefix(rollouts, row, self.camera, int(end) + 1, self.frames)
                    for row, at in enumerate(ends)
                    for end in at
                ],
                (TRUE,),
            )
        )
        value = np.zeros(mask.shape, np.float32)
        valid, flat, trouble = np.zeros(len(mask), bool), np.zeros(len(mask), np.float32), []
        for row, at in enumerate(ends):
            read = [_log_prob(next(told)) for _ in at]
            trouble.append([reason for _, reason in read if reason] if read else ["no frames"])
            if not trouble[-1]:
                numbers = np.array([number for number, _ in read])
                value[row, : at[-1] + 1] = stretch(at, numbers, int(at[-1]) + 1)
                valid[row], flat[row] = True, np.ptp(numbers) == 0
        return Relative(Progress(value, valid, {**reasons(trouble), "flat": flat}))


def _log_prob(answer: Answer, candidate: str = TRUE) -> tuple[float, str]:
    number = answer.log_prob.get(candidate, math.nan)
    if answer.trouble or not math.isfinite(number):
        return math.nan, answer.trouble or "no log-probabilities"
    return number, ""


def _prefix(rollouts: Rollouts, row: int, camera: str, length: int, frames: int) -> Question:
    pictures = shown(rollouts, row, camera, spread(length, frames))
    return Question((TOP_PROMPT.format(instruction=rollouts.instruction[row]), *pictures, TOP_ASK))


def stretch(at: NDArray[np.int64], numbers: NDArray[np.floating], length: int) -> NDArray[np.float32]:
    """Numbers known at some places, stretched to [0, 1] and interpolated to 0..length-1; 0 if all equal."""
    span = np.ptp(numbers)
    level = (numbers - numbers.min()) / span if span > 0 else np.zeros(len(numbers))
    return np.interp(np.arange(length), at, level).astype(np.float32)


@dataclass(frozen=True)
class TOPRewardSuccess:
    """The log-probability itself that the whole episode did the task; an absolute `EpisodeScorer`.

    Attributes:
        judge: asked once for each episode; it must give log-probabilities.
        camera: whose pictures.
        frames: shown of the episode, evenly, at most.
        floor: lowest value given; lower ones are cut to it.
    """

    judge: Judge
    camera: str
    frames: int = 15
    floor: float = -20.0

    @property
    def bounds(self) -> tuple[float, float]:
        return (self.floor, 0.0)

    def score(self, rollouts: Rollouts) -> Score:
        questions = [
            _prefix(rollouts, row, self.camera, int(count), self.frames) if count else None
            for row, count in enumerate(rollouts.decision_valid.sum(1))
        ]
        read = [_log_prob(answer) for answer in ask_each(self.judge, questions, (TRUE,))]
        said = [None if reason else max(self.floor, number) for number, reason in read]
        return scored(said, [reason for _, reason in read])


@dataclass(frozen=True)
class RewardDance:
    """The probability of "yes" when asked whether a frame shows the task done as a reference does.

    A `FrameScorer`, absolute, in [0, 1]: p(yes) / (p(yes) + p(no)), which leaves out what the judge would
    rather have said. `as_released` takes p(yes) itself. NaN for an instruction without a reference.

    Source: RewardDance (arXiv 2509.08826), whose idea is a "yes" probability against a reference; not
    verified, and the use of a success's last frame as the reference is ours.

    Attributes:
        judge: asked once for each frame; it must give log-probabilities.
        camera: whose pictures.
        references: instruction to a picture uint8 (H,W,3) of it done.
        as_released: p(yes) as it is.
    """

    judge: Judge
    camera: str
    references: Mapping[str, NDArray[np.uint8]]
    as_released: bool = False
    bounds: tuple[float, float] = field(default=(0.0, 1.0), init=False)

    def score(self, frames: Frames) -> NDArray[np.float32]:
        questions = [
            Question(
                (
                    DANCE_PROMPT.format(instruction=said),
                    self.references[said],
                    DANCE_MIDDLE,
                    picture,
                    DANCE_ASK,
                )
            )
            if said in self.references
            else None
            for said, picture in zip(frames.instruction, frames.camera(self.camera), strict=True)
        ]
        out = np.full(len(frames), np.nan, np.float32)
        for row, answer in enumerate(ask_each(self.judge, questions, ("yes", "no"))):
            (yes, trouble), (no, _) = _log_prob(answer, "yes"), _log_prob(answer, "no")
            if not trouble:
                out[row] = math.exp(yes) if self.as_released else 1 / (1 + math.exp(min(700.0, no - yes)))
        return out


def last_frames(rollouts: Rollouts, camera: str) -> dict[str, NDArray[np.uint8]]:
    """The last frame of one success of each instruction that has any: references for `RewardDance`."""
    length = rollouts.decision_valid.sum(1)
    rows = np.flatnonzero(rollouts.success & (length > 0))
    return {
        rollouts.instruction[row]: shown(rollouts, row, camera, length[row : row + 1] - 1)[0]
        for row in map(int, rows[::-1])
    }
