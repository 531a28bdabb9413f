"""Every reward there is. A new one is tested for all that a reward must hold by being listed here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import critic_members
import numpy as np
import reward_toy as toy
from judge_members import judge_members
from numpy.typing import NDArray
from vision_members import VISION

from regrip.datasets.protocols import Reward
from regrip.rewards.binary import BinarySuccess
from regrip.rewards.embedding import SimulatorState
from regrip.rewards.environment import EnvironmentReward
from regrip.rewards.pipeline import AddSuccess, Pipeline, Sum
from regrip.rewards.scorers import (
    Difference,
    FrameProgress,
    Frames,
    Level,
    PairProgress,
    Terminal,
    TrajectoryScorer,
)
from regrip.rewards.self_referential import SelfReferential, SelfReferentialConfig

Kind = Literal["frame", "pair", "trajectory", "episode", "group", "reward", "transform", "text"]


@dataclass(frozen=True)
class Member:
    """One reward, scorer or transform.

    Attributes:
        name: for the test's id.
        kind: what it is (see `regrip.rewards.scorers`). A ``reward`` is a `regrip.datasets.protocols.Reward`,
            a ``transform`` a `regrip.rewards.pipeline.Transform`. A ``text`` scorer has
            ``score(responses, truths) -> Score`` and ``bounds``.
        make: a fresh one; for a reward with a bank, one that has seen successes.
        bounds: of the return of one episode, for a ``reward`` or a ``transform`` (others say it themselves).
        exempt: number of a property (see test_members.py) to the reason why it cannot hold. No reason, no
            exemption.
        examples: for ``text``: (truth, right response, wrong response, right response padded with more).
    """

    name: str
    kind: Kind
    make: Callable[[], Any]
    bounds: tuple[float, float] = (-np.inf, np.inf)
    exempt: Mapping[int, str] = field(default_factory=dict)
    examples: tuple[tuple[str, str, str, str], ...] = ()


class Oracle:
    """A frame scorer that knows the toy world: how near the block that is named is to the goal."""

    bounds = (0.0, 1.0)

    def score(self, frames: Frames) -> NDArray[np.float32]:
        picture = frames.camera("front").astype(np.int64)
        out = np.zeros(len(frames), np.float32)
        goal, hand = _centre(picture, (150, 150, 150)), _centre(picture, (0, 0, 0))
        for row, said in enumerate(frames.instruction):
            colour = next(name for name in toy.COLOURS if name in said)
            block = _centre(picture[row : row + 1], toy.COLOURS[colour])[0]
            if np.isnan(block).any():  # not there, or hidden under the hand
                continue
            left = np.linalg.norm(block - goal[row]) + np.linalg.norm(hand[row] - block)
            out[row] = max(0.0, 1 - left / (1.4 * toy.SIZE)) if np.isfinite(left) else 0.0
        return out


def _centre(pictures: NDArray[np.int64], colour: tuple[int, ...]) -> NDArray[np.float64]:
    """(N,2) mean x, y of the pixels of a colour; NaN if there are none."""
    mask = (pictures == np.array(colour)).all(-1)
    count = mask.sum((1, 2))
    rows, columns = np.mgrid[: mask.shape[1], : mask.shape[2]]
    with np.errstate(invalid="ignore"):
        return np.stack([(mask * axis).sum((1, 2)) / count for axis in (columns, rows)], axis=-1)


class OraclePair:
    """A pair scorer made of the oracle."""

    def delta(self, before: Frames, after: Frames) -> NDArray[np.float32]:
        oracle = Oracle()
        return np.asarray(np.clip(oracle.score(after) - oracle.score(before), -1, 1), np.float32)


def seen(config: SelfReferentialConfig | None = None) -> SelfReferential:
    """A self-referential reward whose bank holds successes of the toy world."""
    reward = SelfReferential(SimulatorState(), config)
    reward(toy.many(successes=30, failures=0, seed=7))
    return reward


NO_TEXT = {8: "reads no text: the task is known by the start state"}
WHOLE = {3: "scores whole episodes, so it has no level", 6: "compares no pairs"}
SUCCESS = "a success is worth 1, however it was filmed"
NO_PAIRS = {6: "compares no pairs"}

MEMBERS: list[Member] = [
    Member("oracle", "frame", Oracle, exempt=NO_PAIRS),
    Member("oracle-pair", "pair", OraclePair),
    Member(
        "binary",
        "reward",
        BinarySuccess,
        bounds=(0, 1),
        exempt={**WHOLE, **NO_TEXT, 7: "the simulator's verdict is not in the pictures"},
    ),
    Member(
        "environment",
        "reward",
        EnvironmentReward,
        bounds=(0, 1),
        exempt={**WHOLE, **NO_TEXT, 7: "what the environment pays is not in the pictures"},
    ),
    Member(
        "srpo",
        "reward",
        seen,
        bounds=(0, 1),
        exempt={**WHOLE, **NO_TEXT, 7: SUCCESS},
    ),
    Member(
        "srpo-potential",
        "reward",
        lambda: seen(SelfReferentialConfig(form="potential")),
        bounds=(-1, 2),
        exempt={**WHOLE, **NO_TEXT, 7: SUCCESS},
    ),
    Member(
        "sum",
        "reward",
        lambda: Sum({"seen": (Difference(FrameProgress(Oracle())), 0.5), "won": (BinarySuccess(), 1.0)}),
        bounds=(-0.5, 1.5),
        exempt=WHOLE,
    ),
    Member(
        "add-success",
        "transform",
        lambda: AddSuccess(0.5),
        bounds=(-1, 1.5),
        exempt=WHOLE,
    ),
    *judge_members(Member),
]
MEMBERS += [Member(**entry) for entry in VISION]

MEMBERS += critic_members.members(Member)


def as_reward(member: Member) -> Reward:
    """A member lifted to a reward that training could use."""
    made = member.make()
    if member.kind == "reward":
        return made  # type: ignore[no-any-return]
    if member.kind == "transform":
        return Pipeline(Difference(FrameProgress(Oracle())), [made])
    if member.kind in ("episode", "group"):
        return Terminal(made)
    return Difference(as_trajectory(member))


def as_trajectory(member: Member) -> TrajectoryScorer:
    """A frame, pair or trajectory scorer as a trajectory scorer."""
    made = member.make()
    if member.kind == "frame":
        return FrameProgress(made)
    if member.kind == "pair":
        return PairProgress(made)
    assert member.kind == "trajectory", f"{member.name} is a {member.kind}"
    return made  # type: ignore[no-any-return]


from shaping_members import SHAPING_MEMBERS  # noqa: E402 (it needs what stands above)

MEMBERS += SHAPING_MEMBERS

__all__ = ["MEMBERS", "Level", "Member", "Oracle", "OraclePair", "as_reward", "as_trajectory"]
