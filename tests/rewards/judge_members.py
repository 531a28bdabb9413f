"""A judge that really knows the toy world, and the rewards that are made of its answers."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from functools import cache
from typing import TypeVar

import numpy as np
import reward_toy as toy
from numpy.typing import NDArray

from regrip.rewards.judge_backends import Answer, Part, Question
from regrip.rewards.judge_preferences import PREFERENCE_PROMPT, PreferenceJudge
from regrip.rewards.judge_ratings import (
    RATING_PROMPT,
    RUBRIC_PROMPT,
    SUCCESS_PROMPT,
    PrincipleRubric,
    RoboReward,
    SuccessJudge,
)
from regrip.rewards.judges import (
    DANCE_PROMPT,
    GVL,
    GVL_PROMPT,
    TOP_PROMPT,
    RewardDance,
    TOPReward,
    TOPRewardSuccess,
    last_frames,
)
from regrip.rewards.scorers import Frames

_Made = TypeVar("_Made")


def seen_in(instruction: str, pictures: Sequence[NDArray[np.uint8]]) -> list[float]:
    """How far the instruction is done in each picture, 0 at a usual start and 1 at the goal, from pixels."""
    from reward_members import Oracle

    blank = np.zeros((len(pictures), 0), np.float32)
    frames = Frames({"front": np.stack(pictures)}, blank, blank, [instruction] * len(pictures))
    return [float(np.clip((level - 0.4) / 0.55, 0, 1)) for level in Oracle().score(frames)]


class ToyJudge:
    """Looks for block, hand and goal in the pictures, and answers as the prompts ask; a `Judge`."""

    def ask(self, questions: Sequence[Question], candidates: Sequence[str] = ()) -> list[Answer]:
        return [self._answer(question, candidates) for question in questions]

    def _answer(self, question: Question, candidates: Sequence[str]) -> Answer:
        said = re.search(r"move the \w+ block", question.text)
        assert said is not None, question.text
        levels = seen_in(said[0], question.pictures)
        opening = question.parts[0]
        assert isinstance(opening, str)

        def asks(prompt: str) -> bool:
            return opening.startswith(prompt.split("{")[0])

        if asks(TOP_PROMPT):
            assert candidates == ("True",)
            return Answer(log_prob={"True": math.log(0.02 + 0.96 * levels[-1])})
        if asks(DANCE_PROMPT):
            yes = 0.01 + 0.98 * min(1.0, levels[1] / max(levels[0], 0.1))
            return Answer(log_prob={"yes": math.log(yes), "no": math.log(1 - yes)})
        return Answer(text=self._words(asks, question.parts, levels))

    def _words(self, asks: Callable[[str], bool], parts: Sequence[Part], levels: list[float]) -> str:
        if asks(GVL_PROMPT):
            gained = [(level - levels[0]) / max(1 - levels[0], 1e-6) for level in levels[1:]]
            return "\n".join(f"Frame {n}: {max(0, 100 * gain):.2f} %" for n, gain in enumerate(gained, 1))
        if asks(RATING_PROMPT):
            return f"The block is moved some way. Score: {1 + round(4 * levels[-1])}"
        if asks(SUCCESS_PROMPT):
            return "Yes." if levels[-1] > 0.9 else "No, it is not there."
        if asks(PREFERENCE_PROMPT):
            gain = levels[1] - levels[0]
            return "unsure" if abs(gain) < 0.02 else "second" if gain > 0 else "first"
        assert asks(RUBRIC_PROMPT), parts[0]
        lines, at = [], -1
        for part in parts:
            at += not isinstance(part, str)
            if isinstance(part, str) and part.startswith("Episode"):
                lines.append([part, ""])
            elif lines and not isinstance(part, str):
                lines[-1][1] = f"{1 + round(4 * levels[at])}"  # the last picture of each episode stays
        return "\n".join(" ".join(line) for line in lines)


@cache
def references() -> dict[str, NDArray[np.uint8]]:
    """The end of one success with each colour."""
    return last_frames(toy.many(successes=3, failures=0, seed=11), "front")


PRINCIPLES = ("The block that is named ends at the grey goal.", "Nothing else is moved.")


def judge_members(member: Callable[..., _Made]) -> list[_Made]:
    """For `reward_members.MEMBERS`; `member` is its class."""
    judge = ToyJudge()
    return [
        member("gvl", "trajectory", lambda: GVL(judge, "front")),
        member(
            "topreward",
            "trajectory",
            lambda: TOPReward(judge, "front"),
            exempt={8: "stretched to [0, 1] in each video, so that a failure ends at 1 too (hence Relative)"},
        ),
        member("topreward-success", "episode", lambda: TOPRewardSuccess(judge, "front")),
        member("reward-dance", "frame", lambda: RewardDance(judge, "front", references())),
        member("roboreward", "episode", lambda: RoboReward(judge, "front")),
        member("success-judge", "episode", lambda: SuccessJudge(judge, "front")),
        member("principles", "episode", lambda: PrincipleRubric(judge, "front", PRINCIPLES)),
        member(
            "principles-alone", "episode", lambda: PrincipleRubric(judge, "front", PRINCIPLES, together=False)
        ),
        member("rl-vlm-f", "pair", lambda: PreferenceJudge(judge, "front")),
    ]
