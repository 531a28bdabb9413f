"""Kinds of scorers, and how one kind is lifted to the next until it is a reward that training can use.

======================  =====================================  ==============================
kind                    what it is asked                       examples
======================  =====================================  ==============================
`FrameScorer`           how good is this picture?              VLM-RM, a success classifier
`PairScorer`            how much better is the second?         VLAC
`TrajectoryScorer`      how far was each moment?               GVL, ReWiND, SARM
`EpisodeScorer`         how good was the episode?              RoboCLIP, RoboReward
`GroupScorer`           which of these was better?             SRPO as released, ensembles of ranks
======================  =====================================  ==============================

A *progress* is a level and a *reward* is a difference: `Difference` and `Potential` make the second of the
first, `Level` pays the level itself (as VLM-RM does; it pays for staying, not for arriving). Costs are
negated where they enter, so higher is better everywhere. A scorer says that it could not judge with NaN
(frames and pairs) or `valid` (episodes); it is then counted, and the episode earns nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from ..datasets.episode import Rollouts
from ..datasets.protocols import Progress, Relative, RewardSignal, Score
from .binary import at_last_step

Recursion = Literal["simple", "mixed", "harmonic"]
Reduction = Literal["last", "mean", "max"]


@dataclass(frozen=True)
class Frames:
    """N moments, of any episodes.

    Attributes:
        images: camera name to uint8 (N,H,W,3) RGB.
        state: float32 (N,S), what the robot feels.
        privileged: float32 (N,P), the simulator's state.
        instruction: N strings.
    """

    images: Mapping[str, NDArray[np.uint8]]
    state: NDArray[np.float32]
    privileged: NDArray[np.float32]
    instruction: Sequence[str]

    def __len__(self) -> int:
        return len(self.instruction)

    def camera(self, name: str) -> NDArray[np.uint8]:
        """One camera's pictures.

        Raises:
            ValueError: there is no such camera.
        """
        if name not in self.images:
            raise ValueError(f"no camera {name!r} in the rollouts, they have {sorted(self.images)}")
        return self.images[name]


def frames_of(rollouts: Rollouts, rows: NDArray[np.int64], decisions: NDArray[np.int64]) -> Frames:
    """The moments (rows[i], decisions[i])."""
    return Frames(
        images={name: frames[rows, decisions] for name, frames in rollouts.images.items()},
        state=rollouts.state[rows, decisions],
        privileged=rollouts.privileged[rows, decisions],
        instruction=[rollouts.instruction[int(row)] for row in rows],
    )


class FrameScorer(Protocol):
    """Scores single moments."""

    @property
    def bounds(self) -> tuple[float, float]:
        """Lowest and highest value it can give."""
        ...

    def score(self, frames: Frames) -> NDArray[np.float32]:
        """(N,); NaN where it could not judge."""
        ...


class PairScorer(Protocol):
    """Compares two moments of one episode."""

    def delta(self, before: Frames, after: Frames) -> NDArray[np.float32]:
        """(N,) in [-1, 1]: the share of what was still to do `before` that is done `after`; NaN: unjudged."""
        ...


class TrajectoryScorer(Protocol):
    """Says how far every moment of an episode was."""

    @property
    def bounds(self) -> tuple[float, float]:
        """Lowest and highest value it can give."""
        ...

    def progress(self, rollouts: Rollouts) -> Progress | Relative[Progress]: ...


class EpisodeScorer(Protocol):
    """Scores whole episodes."""

    @property
    def bounds(self) -> tuple[float, float]:
        """Lowest and highest value it can give."""
        ...

    def score(self, rollouts: Rollouts) -> Score | Relative[Score]: ...


class GroupScorer(Protocol):
    """Ranks episodes against those beside them; never absolute."""

    @property
    def bounds(self) -> tuple[float, float]:
        """Lowest and highest value it can give."""
        ...

    def score(self, rollouts: Rollouts) -> Relative[Score]: ...


@dataclass(frozen=True)
class FrameProgress:
    """A frame scorer asked at every decision; a `TrajectoryScorer`.

    Attributes:
        scorer: asked.
        batch: moments in one call; memory does not grow with the number of episodes.
    """

    scorer: FrameScorer
    batch: int = 256

    @property
    def bounds(self) -> tuple[float, float]:
        return self.scorer.bounds

    def progress(self, rollouts: Rollouts) -> Progress:
        """Levels; an episode with a moment that could not be judged is not valid."""
        mask = rollouts.decision_valid
        rows, decisions = np.nonzero(mask)
        value = np.zeros(mask.shape, np.float32)
        for first in range(0, len(rows), self.batch):
            at = rows[first : first + self.batch], decisions[first : first + self.batch]
            value[at] = self.scorer.score(frames_of(rollouts, *at))
        return judged(value, mask)


@dataclass(frozen=True)
class PairProgress:
    """VLAC's recursion over a pair scorer, from a level of 0; a `TrajectoryScorer`.

    Attributes:
        scorer: asked about each moment and the one before.
        recursion: see `accumulate`.
        batch: pairs in one call.
    """

    scorer: PairScorer
    recursion: Recursion = "mixed"
    batch: int = 256

    @property
    def bounds(self) -> tuple[float, float]:
        return (-99.0, 1.0) if self.recursion == "harmonic" else (0.0, 1.0)

    def progress(self, rollouts: Rollouts) -> Progress:
        """Levels; an episode with a pair that could not be judged is not valid."""
        mask = rollouts.decision_valid
        rows, decisions = np.nonzero(mask[:, 1:])
        deltas = np.zeros(mask.shape, np.float32)
        for first in range(0, len(rows), self.batch):
            row, decision = rows[first : first + self.batch], decisions[first : first + self.batch]
            before, after = frames_of(rollouts, row, decision), frames_of(rollouts, row, decision + 1)
            deltas[row, decision + 1] = self.scorer.delta(before, after)
        level = np.array([accumulate(row[1:], self.recursion) for row in deltas], np.float32)
        return judged(level, mask)


def accumulate(deltas: NDArray[np.floating], recursion: Recursion = "mixed") -> NDArray[np.float32]:
    """Levels from shares of what was still to do, T shares to T + 1 levels, the first 0.

    A gain is v + (1 - v) c. `simple` does the same with a loss, c < 0. `harmonic` inverts the label of a
    reversed pair, 1 - max(1 - v, 0.01) / (1 + c), and may go below 0. `mixed` does that above a half, but
    never falls below 0.1 there, and takes v (1 + c) elsewhere.

    Source: VLAC (arXiv 2509.15937), ``critic_to_value_simple`` of its code, with 1 for its 100.
    """
    level = [0.0]
    for c in deltas.astype(np.float64):
        v = level[-1]
        undone = 1.0 - max(1.0 - v, 0.01) / max(1.0 + c, 0.01)
        if c > 0 or recursion == "simple":
            level.append(v + (1.0 - v) * c)
        elif recursion == "harmonic":
            level.append(undone)
        else:
            level.append(max(0.1, undone) if v > 0.5 else v * (1.0 + c))
    return np.asarray(level, dtype=np.float32)


def judged(
    value: NDArray[np.float32],
    mask: NDArray[np.bool_],
    components: Mapping[str, NDArray[np.float32]] | None = None,
) -> Progress:
    """Levels (B,D) without those that are not finite: such an episode is not valid, and counted.

    Args:
        value: (B,D).
        mask: bool (B,D), where decisions were taken.
        components: to go with it; `unjudged`, the number of moments without a finite value, is added.
    """
    bad = (~np.isfinite(value) & mask).sum(1)
    valid = mask.any(1) & (bad == 0)
    kept = np.where(mask & valid[:, None], np.nan_to_num(value), 0.0).astype(np.float32)
    return Progress(kept, valid, {**(components or {}), "unjudged": bad.astype(np.float32)})


def ranking(progress: Progress | Relative[Progress]) -> tuple[Progress, bool]:
    """What a relative progress ranks by, and whether it was relative."""
    return (progress.ranking, True) if isinstance(progress, Relative) else (progress, False)


def detect(progress: Progress | Score, threshold: float) -> NDArray[np.bool_]:
    """Whether each of B episodes reached `threshold`; false where it could not be judged.

    Raises:
        TypeError: for a relative progress or score, of which some episode always comes out on top.
    """
    if isinstance(progress, Relative):
        raise TypeError(
            "a relative score only ranks the episodes of one batch and cannot say that one succeeded; "
            "use a scorer with an absolute scale, or the raw values before normalisation"
        )
    if not isinstance(progress, Progress | Score):
        raise TypeError(f"expected a Progress or a Score, not {type(progress).__name__}")
    best = progress.value.max(1, initial=-np.inf) if isinstance(progress, Progress) else progress.value
    return np.asarray(progress.valid & (best >= threshold))


@dataclass(frozen=True)
class Reduced:
    """One number of a whole trajectory; an `EpisodeScorer`.

    Attributes:
        scorer: asked.
        reduction: the ``last`` level, the ``mean`` or the ``max``.
    """

    scorer: TrajectoryScorer
    reduction: Reduction = "last"

    @property
    def bounds(self) -> tuple[float, float]:
        return self.scorer.bounds

    def score(self, rollouts: Rollouts) -> Score | Relative[Score]:
        progress, relative = ranking(self.scorer.progress(rollouts))
        mask = rollouts.decision_valid
        count = mask.sum(1)
        if self.reduction == "last":
            value = progress.value[np.arange(len(count)), np.maximum(count - 1, 0)]
        elif self.reduction == "mean":
            value = (progress.value * mask).sum(1) / np.maximum(count, 1)
        else:
            value = np.where(mask, progress.value, -np.inf).max(1, initial=-np.inf)
        value = np.where(progress.valid, value, 0.0).astype(np.float32)
        score = Score(value, progress.valid, progress.components)
        return Relative(score) if relative else score


class _Stateless:
    """Nothing to save."""

    def state_dict(self) -> dict[str, NDArray[np.generic]]:
        return {}

    def load_state_dict(self, state: Mapping[str, NDArray[np.generic]]) -> None:
        if state:
            raise ValueError(
                f"{type(self).__name__} keeps no state, but was given {sorted(state)}: "
                "the checkpoint was written by a run with another reward"
            )


@dataclass(frozen=True)
class Terminal(_Stateless):
    """An episode's score, paid at its last executed step; a `Reward`."""

    scorer: EpisodeScorer | GroupScorer

    def __call__(self, rollouts: Rollouts) -> RewardSignal:
        found = self.scorer.score(rollouts)
        score = found.ranking if isinstance(found, Relative) else found
        return RewardSignal(
            at_last_step(rollouts.valid, np.where(score.valid, score.value, 0.0)),
            {**score.components, "score": score.value},
            score.valid,
            relative=isinstance(found, Relative),
        )


@dataclass(frozen=True)
class Level(_Stateless):
    """The level of each decision, paid when its chunk has been executed; a `Reward`.

    It pays for staying as well as for arriving, so a policy may earn by never finishing.
    """

    scorer: TrajectoryScorer

    def __call__(self, rollouts: Rollouts) -> RewardSignal:
        progress, relative = ranking(self.scorer.progress(rollouts))
        return _paid(rollouts, progress, relative, np.where(rollouts.decision_valid, progress.value, 0.0))


@dataclass(frozen=True)
class Difference(_Stateless):
    """What each chunk added to the level; a `Reward`. What is gained and lost again nets zero.

    What the last chunk of an episode led to was never looked at, so that chunk earns 0.
    """

    scorer: TrajectoryScorer

    def __call__(self, rollouts: Rollouts) -> RewardSignal:
        progress, relative = ranking(self.scorer.progress(rollouts))
        mask = rollouts.decision_valid
        gain = np.zeros(mask.shape, np.float32)
        gain[:, :-1] = np.diff(progress.value, axis=1) * (mask[:, 1:] & mask[:, :-1])
        return _paid(rollouts, progress, relative, gain)


@dataclass(frozen=True)
class Potential(_Stateless):
    """The level as a potential: gamma * phi' - phi, which does not change which policy is best; a `Reward`.

    Attributes:
        scorer: asked for phi.
        gamma: discount of one decision; the learner's own.
        scale: phi is this times the level.
    """

    scorer: TrajectoryScorer
    gamma: float = 0.99
    scale: float = 1.0

    def __call__(self, rollouts: Rollouts) -> RewardSignal:
        progress, relative = ranking(self.scorer.progress(rollouts))
        phi = Progress(np.float32(self.scale) * progress.value, progress.valid)
        ended = ~rollouts.truncated | rollouts.success
        gain = potential_difference(phi, rollouts.decision_valid, ended, self.gamma)
        return _paid(rollouts, progress, relative, gain)


def potential_difference(
    progress: Progress, decision_valid: NDArray[np.bool_], terminated: NDArray[np.bool_], gamma: float
) -> NDArray[np.float32]:
    """Turn a level into a reward that does not change which policy is best (Ng et al. 1999, theorem 1).

    gamma * phi(next) - phi(now) for each decision. After the last one, phi(next) is 0 if the episode
    terminated (the theorem asks for it) and phi(now) if it was cut off: the level was not seen again, so it
    stays, and a learner that bootstraps there keeps the theorem. The discounted sum over T decisions is
    therefore -phi_0 for a terminated episode and gamma^T * phi_{T-1} - phi_0 for one that was cut.

    Args:
        progress: levels (B,D).
        decision_valid: (B,D) bool; valid decisions come first.
        terminated: (B,) bool.
        gamma: discount of one decision.

    Returns:
        float32 (B,D), 0 where the decision or the episode's progress is not valid.
    """
    level = np.where(decision_valid, progress.value, 0.0).astype(np.float64)
    following = np.concatenate([level[:, 1:], np.zeros((len(level), 1))], axis=1)
    cut = np.flatnonzero(~terminated & decision_valid.any(1))
    last = decision_valid[cut].sum(1) - 1
    following[cut, last] = level[cut, last]
    shown = decision_valid & progress.valid[:, None]
    return np.where(shown, gamma * following - level, 0.0).astype(np.float32)


def per_decision(valid: NDArray[np.bool_], amount: NDArray[np.floating]) -> NDArray[np.float32]:
    """Put one amount for each decision (B,D) on the last executed control step of its chunk, (B,D,H)."""
    rows = valid.reshape(-1, 1, valid.shape[-1])  # every decision is an episode of its own
    return at_last_step(rows, amount.reshape(-1)).reshape(valid.shape)


def _paid(
    rollouts: Rollouts, progress: Progress, relative: bool, amount: NDArray[np.floating]
) -> RewardSignal:
    amount = np.where(progress.valid[:, None], amount, 0.0)
    components = {**progress.components, "paid": amount.sum(1).astype(np.float32)}
    return RewardSignal(per_decision(rollouts.valid, amount), components, progress.valid, relative)
