"""One sentence for a reward, from its numbers by plain rules: what to use it for, and what not, and why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from .estimates import Estimate
from .trust import TRUTH_UNKNOWN, Findings

Numbers = Mapping[str, Estimate]


@dataclass(frozen=True)
class Rule:
    """A number must lie on one side of a limit.

    Attributes:
        number: its name in `Findings.numbers`.
        limit: see `above`.
        above: true if it must be at least the limit, false if at most.
        words: what is wrong if it is not; ``{}`` takes the number.
        sure: the near end of the interval must hold too, not the value alone.
        needed: without this number nothing can be said; others are passed over where they are undefined.
    """

    number: str
    limit: float
    above: bool
    words: str
    sure: bool = False
    needed: bool = False

    def holds(self, found: Estimate) -> bool:
        assert found.value is not None
        bound = found.value
        if self.sure:
            near = found.low if self.above else found.high
            bound = bound if near is None else near
        return bound >= self.limit if self.above else bound <= self.limit


USES: dict[str, tuple[Rule, ...]] = {
    "detecting success": (
        Rule("auroc", 0.8, True, "a success outscores a failure of its task only {} of the time", True, True),
        Rule("wins_frozen", 0.75, True, "a success outscores its own first moment only {} of the time"),
    ),
    "ranking failures": (
        Rule("failure_ranking", 0.5, True, "rank correlation {} with how near failures came", needed=True),
    ),
    "ranking episodes": (
        Rule("auroc", 0.6, True, "a success outscores a failure of its task only {} of the time", True, True),
    ),
    "dense shaping": (
        Rule("voc", 0.5, True, "levels of successes correlate only {} with time", True, True),
        Rule("vroc", 0.3, True, "levels of reversed successes correlate only {} with time"),
        Rule("wins_reversed", 0.75, True, "a success outscores its reverse only {} of the time"),
        Rule("dithering", 0.1, False, "going back and forth earns {} of a success on top"),
        Rule("hallucination", 0.5, False, "{} of the moments it calls done belong to failures"),
    ),
}
SHARES = ("auroc", "wins_frozen", "wins_reversed", "dithering", "hallucination")


def sentence(findings: Findings) -> str:
    """What to use a reward for and what not, each "not" with its number. The rules are `USES`.

    A use that is not defined for these episodes is said to be untested (ranking failures only where the truth
    is known but says nothing). Ranking episodes is only spoken of
    where detecting success fails, for the second implies the first.
    """
    if not findings.num_judged:
        return "Nothing can be said: it could judge no episode."
    if findings.reads_verdict and np.ptp(findings.reading.score[findings.reading.judged]) < 1e-6:
        if findings.relative:
            return (
                "Not tested: it compares episodes with the successes beside them, so with the simulator's "
                "verdict hidden it says nothing."
            )
        return (
            "It repeats the simulator's verdict and sees nothing else: use it where there is a simulator to "
            "ask, not to judge anything else (with the verdict hidden, all episodes score alike)."
        )
    good: list[str] = []
    bad: dict[str, list[str]] = {}  # reason to uses
    untested: dict[str, list[str]] = {}
    for use, rules in USES.items():
        if use == "ranking episodes" and "detecting success" in good:
            continue
        if use == "detecting success" and findings.relative:
            bad.setdefault("its score only ranks the episodes of one batch", []).append(use)
            continue
        missing = next((rule for rule in rules if rule.needed and _value(findings, rule) is None), None)
        broken = next((rule for rule in rules if _fails(findings, rule)), None)
        if missing is not None:
            untested.setdefault(findings.numbers[missing.number].why, []).append(use)
        elif broken is not None:
            bad.setdefault(_written(findings, broken), []).append(use)
        else:
            good.append(use)
    untested.pop(TRUTH_UNKNOWN, None)  # usually so; saying it of each reward would tell nothing
    text = f"use it for {_list(good)}" if good else "use it for none of what was tested"
    text += f", not for {_because(bad)}" if bad else ""
    text += f"; not tested: {_because(untested)}" if untested else ""
    if findings.reads_verdict:
        text = f"it is paid by the simulator's verdict; without the verdict {text}"
    return text[0].upper() + text[1:] + "." + _remarks(findings, bool(good))


def _because(uses: Mapping[str, list[str]]) -> str:
    return _list([f"{_list(named)} ({why})" for why, named in uses.items()])


def _remarks(findings: Findings, useful: bool) -> str:
    """What a user should know beside the uses."""
    said = ""
    words = findings.numbers["wins_words"].value
    if useful and words is not None and words < 0.75:
        said += f" It hardly reads the instruction (right words win {100 * words:.0f} % of the time)."
    error = findings.numbers["ece"].value
    if useful and error is not None and error > 0.1:
        said += f" Its score is not a probability of success (off by {error:.2f} on average)."
    if findings.num_judged < findings.num_episodes:
        said += f" It could not judge {findings.num_episodes - findings.num_judged} episodes."
    return said


def _value(findings: Findings, rule: Rule) -> float | None:
    return findings.numbers[rule.number].value


def _fails(findings: Findings, rule: Rule) -> bool:
    found = findings.numbers[rule.number]
    return found.value is not None and not rule.holds(found)


def _written(findings: Findings, rule: Rule) -> str:
    found = findings.numbers[rule.number]
    assert found.value is not None
    share = rule.number in SHARES

    def show(value: float) -> str:
        return f"{100 * value:.0f} %" if share else f"{value:.2f}"

    text = rule.words.format(show(found.value))
    if rule.sure and found.low is not None and found.high is not None:
        text += f", interval {show(found.low)} to {show(found.high)}"
    return text


def _list(items: list[str]) -> str:
    return items[0] if len(items) == 1 else ", ".join(items[:-1]) + " and " + items[-1]
