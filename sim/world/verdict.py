"""What to use a world model for and what not, from its measures by plain rules, in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .checks import OpenLoopError
from .estimates import Estimate
from .judging import Ranking, Reflector
from .obeying import Counterfactual, Following, Physics


@dataclass(frozen=True)
class Findings:
    """All that is known of a model.

    Attributes:
        open_loop: see `checks`.
        following: see `obeying`; `counterfactual` and `physics` likewise.
        reflector: see `judging`.
        recorded: recorded actions, by who chose them.
        closed: policies that played in the model and in a simulator; None where that was not asked for.
    """

    open_loop: OpenLoopError
    following: Following
    counterfactual: Counterfactual
    physics: Physics
    reflector: Reflector
    recorded: Ranking
    closed: Ranking | None = None


@dataclass(frozen=True)
class _Rule:
    """A number at least (or, not `above`, at most) a limit; `sure`: and so is its interval's near end."""

    found: Estimate
    limit: float
    words: str
    above: bool = True
    sure: bool = False
    percent: bool = True
    needed: bool = False

    def broken(self) -> str:
        """What is wrong, in words; empty if nothing is, or nothing is known."""
        value = self.found.value
        if value is None:
            return f"untested: {self.found.why}" if self.needed else ""
        near = self.found.low if self.above else self.found.high
        bound = near if self.sure and near is not None else value
        if bound >= self.limit if self.above else bound <= self.limit:
            return ""
        ends = ""
        if self.sure and self.found.low is not None and self.found.high is not None:
            ends = f", interval {self._show(self.found.low)} to {self._show(self.found.high)}"
        return self.words.format(self._show(value)) + ends

    def _show(self, value: float) -> str:
        return f"{100 * value:.0f} %" if self.percent else f"{value:.2f}"


def rules(findings: Findings) -> dict[str, tuple[_Rule, ...]]:
    """What each use asks for; all of it must hold."""
    episode = findings.reflector.imagined["episode"]
    moving = findings.open_loop.ratio["tokens"]
    other = findings.counterfactual
    obeys = (
        _Rule(
            moving["hold"],
            1.0,
            "a frame that stays as it is errs less ({} of its squared error)",
            False,
            True,
        ),
        _Rule(moving["linear"], 1.0, "a linear prediction errs less ({} of its squared error)", False, True),
        _Rule(
            findings.following.obeyed,
            0.5,
            "its pictures follow only {} of what real ones follow of the commands",
        ),
        _Rule(other.against, 0.8, "mirrored commands turn its state around only {} of the time"),
        _Rule(other.pictures, 0.7, "mirrored commands turn its pictures around only {} of the time"),
    )
    tells = (
        _Rule(
            episode.auroc, 0.8, "an imagined success is told from a failure of its task only {} of the time",
            sure=True, needed=True,
        ),
        _Rule(episode.precision, 0.7, "of what it calls a success only {} was one"),
    )  # fmt: skip
    train: tuple[_Rule, ...] = (*tells, *obeys)
    if findings.closed is not None:
        ranked = findings.closed.spearman
        train += (
            _Rule(
                ranked,
                0.6,
                "it ranks policies otherwise than the simulator does, correlation {}",
                percent=False,
                needed=True,
            ),
            _Rule(
                ranked,
                0.0,
                "that it ranks policies right is not sure, correlation {}",
                sure=True,
                percent=False,
            ),
        )
    return {
        "training a policy inside": train,
        "choosing among chunks by what it imagines": obeys,
        "telling success in imagined episodes": tells,
    }


def sentence(findings: Findings) -> str:
    """Uses, what it is not good for and why, and what a user should know besides."""
    good, bad = [], []
    for use, asked in rules(findings).items():
        why = next((said for said in (rule.broken() for rule in asked) if said), "")
        if why:
            bad.append(f"{use} ({why})")
        else:
            good.append(use)
    text = f"Use it for {_list(good)}" if good else "Use it for none of what was tested"
    text += f"; not for {_list(bad)}." if bad else "."
    return text + _remarks(findings)


def _remarks(findings: Findings) -> str:
    said = ""
    open_loop = findings.open_loop
    last = int(np.isfinite(open_loop.curves["tokens"]["world"].value).sum())
    ahead = open_loop.ahead["tokens"]
    if ahead < last:
        said += (
            f" It is surely better than a still frame and than a linear world for the first {ahead} of "
            f"{last} decisions ahead."
        )
    chance = findings.reflector.imagined["episode"].ece.value
    if chance is not None and chance > 0.1:
        said += f" Its probability of success is off by {chance:.2f} on average."
    fast = findings.physics.fast.value
    if fast is not None and fast > 0.02:
        said += (
            f" In {100 * fast:.0f} % of the imagined decisions something moves faster than was ever recorded."
        )
    if findings.closed is None:
        said += (
            " Whether it ranks policies as reality does is the number that decides about training inside, "
            "and recordings alone cannot say it: give --env, --suite and --policies where there is a "
            "simulator, or evaluate a policy trained inside on the robot early."
        )
    elif len(findings.closed.names) < 4:
        said += f" Only {len(findings.closed.names)} policies were compared; with so few a rank says little."
    return said


def _list(items: Sequence[str]) -> str:
    return items[0] if len(items) == 1 else ", ".join(items[:-1]) + " and " + items[-1]
