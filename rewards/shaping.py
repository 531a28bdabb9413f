"""Transforms of what a reward said: bounded, clipped, telescoped, scaled down, and made noisy on purpose.

Each is a pure function, with the numbers it was checked against in the tests, and a `Transform` around it.
What is paid for a whole episode (PAR, noise) is paid at its last executed step; what is paid for a decision
(Clip, Delta, Multiplicative) at the last executed step of that decision's chunk. A `std` is dropped by every
transform that is not a shift, since it would no longer be the deviation of what is paid.

Rewards made of several rewards (gating by the outcome, ensembles) are in `combining`. Left out: normalisation
inside strata (Stratified GRPO) and over bundles (RiskPO) are advantages, for they mean nothing but in their
group, and the learner would normalise a second time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ..datasets.episode import Rollouts
from ..datasets.protocols import RewardSignal
from ..datasets.starts import counter_generator
from .binary import at_last_step
from .reference_bank import episode_identity
from .scorers import TrajectoryScorer, per_decision, ranking

Array = NDArray[np.float64]
Detector = Callable[[Rollouts], NDArray[np.bool_]]


def returns(signal: RewardSignal) -> Array:
    """What each of B episodes earns, float64 (B,); 0 where the reward could not judge."""
    return np.asarray(signal.value.sum((1, 2), dtype=np.float64) * signal.valid)


def amounts(signal: RewardSignal, rollouts: Rollouts) -> Array:
    """What each decision earns, float64 (B,D); 0 where none was taken or the reward could not judge."""
    shown = rollouts.decision_valid & signal.valid[:, None]
    return np.where(shown, signal.value.sum(-1, dtype=np.float64), 0.0)


def sigmoid(x: Array) -> Array:
    """1 / (1 + exp(-x)), without overflow."""
    return np.asarray(0.5 * (1 + np.tanh(0.5 * x)), dtype=np.float64)


def par(reward: Array, references: Array, slope: float = 1.0) -> Array:
    """Preference as reward: mean over the references of sigmoid(slope * (r - r_ref)), (N,) and (R,) to (N,).

    The mean of the sigmoids, not the sigmoid of the mean difference. In [0, 1].

    Source: PAR (arXiv 2502.18770), ``trainers/reward_shaper.py`` of its code, read second-hand.
    """
    return np.asarray(sigmoid(slope * (reward[:, None] - references[None])).mean(1), np.float64)


def log_sigmoid_centred(reward: Array, references: Array, quantile: float = 0.85) -> Array:
    """The log of sigmoid(r - the references' 85th percentile), (N,) and (R,) to (N,), at most 0.

    It goes on falling below the references, where a sigmoid is flat.

    Source: an alternative in PAR's code ("LSC"), which takes it from Wang et al. 2024 (arXiv 2402.00742);
    not verified beyond the formula.
    """
    return np.asarray(-np.logaddexp(0.0, np.quantile(references, quantile) - reward), dtype=np.float64)


@dataclass(frozen=True)
class PreferenceAsReward:
    """PAR: how often an episode would be preferred to the base policy's; a `Transform`.

    The return of an episode becomes `par` (or `log_sigmoid_centred`) of it, paid at the last executed step.
    An episode of a task without references is not valid; `par/no_reference` counts it.

    Attributes:
        references: task (as in `StartState.task`) to the returns that the base policy earned with the same
            reward. One is enough (PAR's finding, as its abstract says).
        slope: k, per unit of return. Of no meaning for ``log_sigmoid``.
        form: ``sigmoid`` is PAR.
    """

    references: Mapping[str, Sequence[float]]
    slope: float = 1.0
    form: Literal["sigmoid", "log_sigmoid"] = "sigmoid"

    def __post_init__(self) -> None:
        for task, held in self.references.items():
            if not len(held) or not np.isfinite(held).all():
                raise ValueError(f"references of {task}: expected finite returns, at least one, not {held}")
        if not self.slope > 0:
            raise ValueError(f"slope {self.slope} must be positive, or the order of rewards is turned over")

    def __call__(self, signal: RewardSignal, rollouts: Rollouts) -> RewardSignal:
        raw = returns(signal)
        shaped, known = np.zeros(len(raw)), np.zeros(len(raw), bool)
        for task, held in self.references.items():
            rows = np.array([start.task == task for start in rollouts.start], bool)
            known |= rows
            at = np.asarray(held, np.float64)
            if self.form == "sigmoid":
                shaped[rows] = par(raw[rows], at, self.slope)
            else:
                shaped[rows] = log_sigmoid_centred(raw[rows], at)
        valid = signal.valid & known
        seen = {"par/raw": raw.astype(np.float32), "par/no_reference": (~known).astype(np.float32)}
        return _whole(signal, rollouts, np.where(valid, shaped, 0.0), seen, valid)


@dataclass(frozen=True)
class Clip:
    """min(r - threshold, 0) of each decision's amount; a `Transform`.

    What is above the threshold earns nothing more and what is below costs, so a longer episode, or a
    repeated step, never earns more. Made for levels (`scorers.Level`). It may pay to end early.

    Source: Gao et al. 2024 (arXiv 2410.15115): that the cumulative reward is bounded, as the abstract says;
    the formula is not verified.

    Attributes:
        threshold: eta, in units of the reward.
    """

    threshold: float

    def __call__(self, signal: RewardSignal, rollouts: Rollouts) -> RewardSignal:
        clipped = np.minimum(amounts(signal, rollouts) - self.threshold, 0.0)
        shown = rollouts.decision_valid & signal.valid[:, None]
        share = ((clipped == 0) & shown).sum(1) / np.maximum(shown.sum(1), 1)
        return _each(
            signal, rollouts, np.where(shown, clipped, 0.0), {"clip/at_top": share.astype(np.float32)}
        )


def delta(level: Array, decision_valid: NDArray[np.bool_]) -> Array:
    """r_k - r_(k+1), then r_(K-1) for the last but one of K decisions and 0 for the last; (B,D) to (B,D).

    The sum is the first amount (0 if there is only one decision): what a step adds by being repeated, the
    next one takes back.
    """
    count = decision_valid.sum(1, keepdims=True)
    kept = np.where(np.arange(level.shape[1])[None] < count - 1, level, 0.0)
    return np.asarray(kept - np.concatenate([kept[:, 1:], np.zeros((len(kept), 1))], axis=1), np.float64)


@dataclass(frozen=True)
class Delta:
    """`delta` of the decisions' amounts, which telescopes to the first; a `Transform`.

    Made for levels of a process reward, beside an outcome reward: by itself it pays the same to all episodes
    that begin alike. Clip it first, so that what single decisions get is bounded too.

    Source: Gao et al. 2024 (arXiv 2410.15115), abstract; the formula is not verified.
    """

    def __call__(self, signal: RewardSignal, rollouts: Rollouts) -> RewardSignal:
        level = amounts(signal, rollouts)
        return _each(
            signal,
            rollouts,
            delta(level, rollouts.decision_valid),
            {"delta/raw": level.sum(1).astype(np.float32)},
        )


def multiplicative(base: Array, factors: Sequence[Array], penalty: Array) -> Array:
    """`base` times all `factors` where it is positive; `penalty` where that is below 0. Arrays of one shape.

    A loss is not scaled: else one could gain with all factors at 1, lose it again with one at 0, and go
    round and round.
    """
    scale = np.prod(np.stack([np.ones_like(base), *factors]), axis=0)
    return np.where(penalty < 0, penalty, np.where(base > 0, base * scale, base))


@dataclass(frozen=True)
class Multiplicative:
    """Progress times how well it was made; a violation earns its penalty and nothing after it; a `Transform`.

    The transformed signal is the base, best a `scorers.Difference` of progress. Each factor is a level in
    [0, 1] of the moment at which the decision was taken (smooth, gentle, in the workspace).

    Source: CaRL (arXiv 2504.17838): route completion is the one term, and infractions end the episode or
    reduce it multiplicatively, as the abstract says. Our reading: the order of operations, losses not scaled
    (see `multiplicative`), and paying nothing after a penalty where the episode was not ended.

    Attributes:
        factors: by name; their `bounds` must lie in [0, 1].
        penalties: by name, what tells the decisions (bool (B,D)) at which it happened, and the amount, below
            0, that such a decision earns instead; of several the lowest.
    """

    factors: Mapping[str, TrajectoryScorer]
    penalties: Mapping[str, tuple[Detector, float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, scorer in self.factors.items():
            low, high = scorer.bounds
            if low < 0 or high > 1:
                raise ValueError(f"factor {name} has bounds [{low}, {high}], expected them inside [0, 1]")
        for name, (_, amount) in self.penalties.items():
            if not amount < 0:
                raise ValueError(f"penalty {name} is {amount}, expected less than 0: higher is better")

    def __call__(self, signal: RewardSignal, rollouts: Rollouts) -> RewardSignal:
        mask, valid, relative = rollouts.decision_valid, signal.valid.copy(), signal.relative
        seen: dict[str, NDArray[np.float32]] = {}
        factors = []
        for name, scorer in self.factors.items():
            progress, ranks = ranking(scorer.progress(rollouts))
            factors.append(np.where(mask, progress.value, 0.0).astype(np.float64))
            seen[f"factor/{name}"] = _mean(factors[-1], mask)
            valid &= progress.valid
            relative |= ranks
        penalty = np.zeros(mask.shape)
        for name, (happened, amount) in self.penalties.items():
            at = np.asarray(happened(rollouts), bool) & mask
            penalty = np.minimum(penalty, amount * at)
            seen[f"penalty/{name}"] = np.asarray(at.any(1), np.float32)
        paid = multiplicative(amounts(signal, rollouts), factors, penalty)
        over = np.cumsum(penalty < 0, axis=1) > (penalty < 0)  # there was a penalty before
        paid = np.where(~over & valid[:, None], paid, 0.0)
        return replace(_each(signal, rollouts, paid, seen), valid=valid, relative=relative)


@dataclass(frozen=True)
class ReDit:
    """Noise of mean 0 on an episode's return, so that nearly equal rewards are told apart; a `Transform`.

    Drawn from the episode's identity, so it depends on neither its row nor its batch. A group whose returns
    deviate by no more than `floor` gets none: group normalisation would blow it up to unit size, a push in a
    random direction. So by default it never revives a group of equal rewards; the paper wants that.

    Source: ReDit (arXiv 2506.18631), normal or uniform noise of deviation 0.05, read second-hand;
    the caveat and the floor are ours.

    Attributes:
        scale: standard deviation, in units of the return.
        distribution: ``uniform`` has the same deviation.
        floor: of a group's deviation (n - 1); None takes `scale`.
        as_released: noise for every group.
        seed: another seed, other noise.
    """

    scale: float = 0.05
    distribution: Literal["normal", "uniform"] = "normal"
    floor: float | None = None
    as_released: bool = False
    seed: int = 0

    def __call__(self, signal: RewardSignal, rollouts: Rollouts) -> RewardSignal:
        raw = returns(signal)
        noisy = signal.valid & (rollouts.num_steps > 0)
        if not self.as_released:
            floor = self.scale if self.floor is None else self.floor
            for group in np.unique(rollouts.group):
                members = noisy & (rollouts.group == group)
                if members.sum() < 2 or raw[members].std(ddof=1) <= floor:
                    noisy &= ~members
        noise = np.zeros(len(raw))
        for row, generator in _generators("redit", self.seed, rollouts):
            width = 3**0.5
            drawn = generator.normal() if self.distribution == "normal" else generator.uniform(-width, width)
            noise[row] = self.scale * drawn * noisy[row]
        seen = {"redit/noise": noise.astype(np.float32), "redit/skipped": (~noisy).astype(np.float32)}
        value = signal.value + at_last_step(rollouts.valid, noise)
        return replace(signal, value=value, components={**signal.components, **seen})


@dataclass(frozen=True)
class NoisyReward:
    """Turns some outcomes over, r to low + high - r, to see how much a run stands; a `Transform`.

    The two levels are different experiments. With ``group`` one coin decides for all episodes of a start
    state, so inside the group the order is turned over as a whole; with ``sample`` each episode has its own.
    What turning over adds or takes is paid at the last executed step.

    Source: Noisy-Rewards (arXiv 2505.22653), whose released code tosses once for each prompt group
    (``workers/reward_manager/naive.py``, read second-hand).

    Attributes:
        p: probability of turning over.
        level: see above.
        bounds: lowest and highest return.
        seed: another seed, other coins.
    """

    p: float
    level: Literal["group", "sample"]
    bounds: tuple[float, float] = (0.0, 1.0)
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.p <= 1 or not self.bounds[0] < self.bounds[1]:
            raise ValueError(f"p {self.p} and bounds {self.bounds}: expected p in [0, 1] and low < high")

    def __call__(self, signal: RewardSignal, rollouts: Rollouts) -> RewardSignal:
        turned = np.zeros(len(rollouts), bool)
        if self.level == "sample":
            for row, generator in _generators("noisy", self.seed, rollouts):
                turned[row] = generator.random() < self.p
        else:
            for row, start in enumerate(rollouts.start):
                key = ("noisy group", self.seed, rollouts.policy_version, repr(start))
                turned[row] = counter_generator(*key).random() < self.p
        turned &= signal.valid
        change = np.where(turned, sum(self.bounds) - 2 * returns(signal), 0.0)
        value = signal.value + at_last_step(rollouts.valid, change)
        seen = {"noisy/turned": turned.astype(np.float32)}
        return RewardSignal(value, {**signal.components, **seen}, signal.valid, signal.relative)


def _generators(purpose: str, seed: int, rollouts: Rollouts) -> list[tuple[int, np.random.Generator]]:
    """A generator for each row that depends on the episode and not on the row."""
    names = episode_identity("", rollouts)
    return [(row, counter_generator(purpose, seed, name.tobytes().hex())) for row, name in enumerate(names)]


def _mean(level: Array, mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    return np.asarray((level * mask).sum(1) / np.maximum(mask.sum(1), 1), np.float32)


def _each(
    signal: RewardSignal, rollouts: Rollouts, amount: Array, seen: Mapping[str, NDArray[np.float32]]
) -> RewardSignal:
    """Pay (B,D) amounts for decisions."""
    value = per_decision(rollouts.valid, amount)
    return RewardSignal(value, {**signal.components, **seen}, signal.valid, signal.relative)


def _whole(
    signal: RewardSignal,
    rollouts: Rollouts,
    amount: Array,
    seen: Mapping[str, NDArray[np.float32]],
    valid: NDArray[np.bool_],
) -> RewardSignal:
    """Pay (B,) amounts for episodes."""
    value = at_last_step(rollouts.valid, amount)
    return RewardSignal(value, {**signal.components, **seen}, valid, signal.relative)
