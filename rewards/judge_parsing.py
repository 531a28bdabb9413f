"""Reading what a judge wrote. Each returns None for an answer that does not say one thing clearly."""

from __future__ import annotations

import re
from typing import Literal

_NUMBER = r"\d{1,6}(?:\.\d{1,6})?"
_ALONE = r"(?<![\d.,+-])"  # in front of a digit that is a number by itself
_END = r"(?!\d|[.,]\d)"


def numbered(text: str, word: str, count: int, low: float, high: float) -> list[float] | None:
    """The numbers of a list ``<word> 1: 30 %``, ``<word> 2: 45``, ..., in the order 1..count.

    What stands between a mark and the next belongs to the first; the last per cent, or else the last number,
    of it counts. Without any mark, exactly `count` per cents, or else exactly `count` numbers, will do.

    Returns:
        None if one is missing or outside [low, high].
    """
    mark = rf"{re.escape(word)}\s*(?:#|no\.?\s*)?(\d{{1,4}})\b"
    for pattern in (rf"^\W*{mark}", mark):  # a line may speak of another frame, but begins with its own
        marks = list(re.finditer(pattern, text, re.IGNORECASE | re.MULTILINE))
        ends = [one.start() for one in marks[1:]] + [len(text)]
        found = {
            int(one[1]): said
            for one, end in zip(marks, ends, strict=False)
            if (said := _last_number(text[one.end() : end])) is not None
        }
        if set(range(1, count + 1)) <= set(found):
            break
    if marks:
        numbers = [found.get(index) for index in range(1, count + 1)]
    else:
        every = re.findall(rf"{_ALONE}({_NUMBER})\s*[%％]", text)
        if len(every) != count:
            every = re.findall(rf"(?<![\d.])({_NUMBER})", text)
        numbers = [float(said) for said in every] if len(every) == count else [None]
    told = [number for number in numbers if number is not None and low <= number <= high]
    return told if len(told) == len(numbers) == count else None


def _last_number(text: str) -> float | None:
    found = re.findall(rf"(-?{_NUMBER})\s*[%％]", text) or re.findall(rf"(-?{_NUMBER})", text)
    return float(found[-1]) if found else None


def rating(text: str) -> int | None:
    """A mark from 1 to 5: the last ``score: 4`` or ``4/5``, or else the last number that stands alone."""
    said = list(
        re.finditer(
            rf"(?:score|rating|answer|mark)\W{{0,8}}(?:is\W{{0,4}})?([0-9]+){_END}", text, re.IGNORECASE
        )
    ) or list(re.finditer(rf"{_ALONE}([0-9]+)\s*(?:/|out of)\s*5{_END}", text, re.IGNORECASE))
    said = said or list(re.finditer(rf"{_ALONE}([0-9]+){_END}", text))
    last = said[-1][1] if said else ""
    return int(last) if len(last) == 1 and 1 <= int(last) <= 5 else None


def yes_or_no(text: str) -> bool | None:
    """The first word if it is yes or no, or else the only one of the two that occurs."""
    words = re.findall(r"\b(yes|no)\b", text.lower())
    if not words:
        return None
    if re.match(r"\W*(?:yes|no)\b", text.lower()) or len(set(words)) == 1:
        return bool(words[0] == "yes")
    return None


def preference(text: str) -> Literal[0, 1, -1] | None:
    """RL-VLM-F's label: 0 the first is better, 1 the second, -1 neither. The last line is read first."""
    lines = [line for line in text.strip().splitlines() if line.strip()]
    for part in (lines[-1], text) if lines else ():
        bare = part.strip().strip(".*\"'`").strip()
        if bare in ("0", "1", "-1"):
            return {"0": 0, "1": 1, "-1": -1}[bare]  # type: ignore[return-value]
        words = set(re.findall(r"\b(first|second|unsure)\b", part.lower()))
        if len(words) == 1:
            return {"first": 0, "second": 1, "unsure": -1}[words.pop()]  # type: ignore[return-value]
    return None
