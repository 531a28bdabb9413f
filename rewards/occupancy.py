"""A penalty for leaving where the base policy goes, because a proxy reward is only known to be right there.

ORPO (Correlated Proxies, arXiv 2403.03185): a discriminator tells the moments the current policy visits from
those the base policy visited; its logit is the log of how much more often the current one is there, and

    r' = r - lam * penalty,  lam = coefficient * std of the base policy's rewards.

The penalty is the log-ratio (KL), the ratio less 1 (chi-squared), or that over the root of the batch's
chi-squared. Penalties, `lam` and the trimming of 1 % at each side are as in the released code
(``occupancy_measures/agents/orpo.py``), read second-hand; the released discriminator is a network that goes
on learning, and the bounds of its clipping are not known here. Ours:

* The discriminator is logistic regression on embeddings, fitted afresh to each batch, so nothing but the base
  policy's embeddings need be saved, and the result does not depend on the order of rows.
* No moment is judged by a discriminator that saw its episode: one half of the episodes is judged by the
  other's. With as many numbers in an embedding as moments, anything can be told apart by heart.
* The log-ratio is cut at `limit`, or a moment the base policy never saw would count e^20.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from ..datasets.episode import Rollouts
from ..datasets.protocols import Reward, RewardSignal
from ..datasets.starts import refuse_test
from .embedding import Encoder
from .reference_bank import episode_identity
from .scorers import per_decision
from .shaping import Array, amounts

Divergence = Literal["kl", "chi2", "sqrt_chi2"]
LEAST_CHI2 = 0.01  # below this the two policies are where the other is, and its root divides noise by nothing


def chi_squared(log_ratio: Array, trim: float = 0.01) -> float:
    """Estimate E_policy[mu / mu_base] - 1 from (N,) log-ratios of the policy's own moments.

    Args:
        log_ratio: log(mu / mu_base).
        trim: the share left out at each end.
    """
    excess = np.sort(np.expm1(log_ratio))
    out = int(trim * len(excess))
    return float(excess[out : len(excess) - out].mean())


def occupancy_penalty(log_ratio: Array, divergence: Divergence, chi2: float | None = None) -> Array:
    """What a moment costs, before `lam`; any shape. Below 0 where the base policy is more often.

    Args:
        log_ratio: d = log(mu / mu_base).
        divergence: ``kl`` d, ``chi2`` e^d - 1, ``sqrt_chi2`` (e^d - 1) / sqrt(chi2).
        chi2: of the batch (`chi_squared`); needed for ``sqrt_chi2`` only, and not taken below 0.01.
    """
    if divergence == "kl":
        return np.asarray(log_ratio, np.float64)
    excess = np.expm1(log_ratio)
    if divergence == "chi2":
        return np.asarray(excess, np.float64)
    if chi2 is None:
        raise ValueError("sqrt_chi2 needs the batch's chi2: see `chi_squared`")
    return np.asarray(excess / np.sqrt(max(chi2, LEAST_CHI2)), np.float64)


def held_out_log_ratio(
    current: Array, base: Array, current_fold: NDArray[np.int64], base_fold: NDArray[np.int64]
) -> Array:
    """log(mu / mu_base) at the current policy's moments, each by a discriminator fitted without its fold.

    Classes are balanced, so that the logit is the log-ratio whatever the numbers of moments. With one fold
    only (a single episode) the discriminator is fitted to what it judges.

    Args:
        current: (N,E).
        base: (M,E).
        current_fold: (N,) which part each moment belongs to.
        base_fold: (M,).

    Returns:
        (N,) float64, finite.
    """
    out = np.zeros(len(current))
    for fold in np.unique(current_fold):
        mine = current_fold == fold
        seen = current[~mine] if (~mine).any() else current
        rest = base[base_fold != fold] if (base_fold != fold).any() else base
        both = np.concatenate([seen, rest])
        mean, scale = both.mean(0), both.std(0)
        scale = np.where(scale > 1e-6 * max(float(scale.max()), 1e-12), scale, 1.0)
        label = np.repeat([1, 0], [len(seen), len(rest)])
        model = LogisticRegression(class_weight="balanced", max_iter=1000)
        model.fit((both - mean) / scale, label)
        out[mine] = model.decision_function((current[mine] - mean) / scale)
    return out


class OccupancyPenalty:
    """A reward less what it costs to be where the base policy is not; a `Reward`.

    Call `remember_base` once, with episodes of the base policy on the same tasks and starts as training has:
    else the discriminator learns to tell tasks, not policies. Each decision pays for its own moment.

    A moment where the base policy is *more* often has a negative penalty and so earns something: the mean
    over the policy's moments is at least 0, but a policy that loiters where the base policy loiters may gain.

    An episode with an embedding that is not finite is not valid; `occupancy/unjudged` counts it.

    Args:
        reward: the proxy.
        encoder: a fixed function, as for the reference bank.
        divergence: see `occupancy_penalty`.
        coefficient: c, of which ORPO tried 0.01 to 1.
        limit: of the log-ratio, either way.
        clip: bounds of what a decision pays after the penalty; None leaves it.
        run: names the run (see `reference_bank.episode_identity`).
    """

    def __init__(
        self,
        reward: Reward,
        encoder: Encoder,
        *,
        divergence: Divergence = "chi2",
        coefficient: float = 0.1,
        limit: float = 3.0,
        clip: tuple[float, float] | None = None,
        run: str = "run",
    ) -> None:
        if coefficient < 0 or limit <= 0:
            raise ValueError(f"coefficient {coefficient}, limit {limit}: expected at least 0, and above 0")
        self.reward = reward
        self.encoder = encoder
        self.divergence: Divergence = divergence
        self.coefficient = coefficient
        self.limit = limit
        self.clip = clip
        self.run = run
        self.base: Array | None = None
        self.base_fold = np.zeros(0, np.int64)
        self.reward_std = 0.0

    def remember_base(self, rollouts: Rollouts, reward_std: float | None = None) -> None:
        """Keep the embeddings of the base policy's decisions, and how much its rewards vary.

        Args:
            rollouts: of the base policy.
            reward_std: standard deviation of a decision's reward; None measures it on `rollouts`.

        Raises:
            SplitError: a start is of the test split.
            ValueError: no decision has a finite embedding, or the rewards do not vary.
        """
        refuse_test(rollouts.start, "the occupancy penalty's base policy")
        embedding, row, judged, fold = self._moments(rollouts)
        if not judged.any():
            raise ValueError("no episode of the base policy has finite embeddings; look at the encoder")
        if reward_std is None:
            reward_std = float(amounts(self.reward(rollouts), rollouts)[rollouts.decision_valid].std())
        if not (np.isfinite(reward_std) and reward_std > 0):
            raise ValueError(
                f"the reward of the base policy's decisions has standard deviation {reward_std}, and a "
                "penalty in proportion to it would be 0; give more episodes, or a `reward_std` of your own"
            )
        self.base, self.base_fold, self.reward_std = embedding, fold[row], reward_std

    def __call__(self, rollouts: Rollouts) -> RewardSignal:
        """Score B episodes of the current policy.

        Raises:
            SplitError: a start is of the test split: the discriminator learns from what it is shown.
            ValueError: there is no base policy yet, or its embeddings have another width.
        """
        refuse_test(rollouts.start, "the occupancy penalty's discriminator")
        if self.base is None:
            raise ValueError("nothing is known of the base policy: call `remember_base` with its rollouts")
        signal = self.reward(rollouts)
        embedding, row, judged, fold = self._moments(rollouts)
        mask, shape = rollouts.decision_valid, rollouts.decision_valid.shape
        ratio, chi2 = np.zeros(shape), 0.0
        if len(embedding):
            if embedding.shape[1] != self.base.shape[1]:
                raise ValueError(
                    f"the encoder gives {embedding.shape[1]} numbers, the base policy's embeddings have "
                    f"{self.base.shape[1]}: use the encoder they were made with, or remember the base again"
                )
            found = held_out_log_ratio(embedding, self.base, fold[row], self.base_fold)
            found = np.clip(found, -self.limit, self.limit)
            chi2 = chi_squared(found)
            decision = np.concatenate([np.flatnonzero(mask[one]) for one in dict.fromkeys(row.tolist())])
            ratio[row, decision] = found
        shown = mask & judged[:, None]
        lam = self.coefficient * self.reward_std
        cost = np.where(shown, lam * occupancy_penalty(ratio, self.divergence, chi2), 0.0)
        amount = amounts(signal, rollouts) - cost
        valid = signal.valid & judged
        count = np.maximum(shown.sum(1), 1)
        seen = {
            "occupancy/cost": cost.sum(1),
            "occupancy/log_ratio": (ratio * shown).sum(1) / count,
            "occupancy/chi2": np.full(len(mask), chi2),
            "occupancy/unjudged": (~judged).astype(np.float64),
        }
        components = {**signal.components, **{name: held.astype(np.float32) for name, held in seen.items()}}
        if self.clip is None:
            value = signal.value - per_decision(rollouts.valid, cost)
        else:
            value = per_decision(rollouts.valid, np.clip(amount, *self.clip) * mask)
        value = np.where(valid[:, None, None], value, np.float32(0))
        return RewardSignal(value, components, valid, signal.relative)

    def state_dict(self) -> dict[str, NDArray[np.generic]]:
        """``base`` (M,E), ``base_fold`` (M,), ``reward_std`` (), and the reward's own under ``reward/``."""
        state = {f"reward/{name}": held for name, held in self.reward.state_dict().items()}
        if self.base is not None:
            state["base"] = self.base.astype(np.float32)
            state["base_fold"] = self.base_fold.copy()
            state["reward_std"] = np.array(self.reward_std)
        return state

    def load_state_dict(self, state: Mapping[str, NDArray[np.generic]]) -> None:
        """Go on from `state_dict`, bit for bit.

        Raises:
            ValueError: an array is missing, unknown or of another shape; nothing is changed.
        """
        mine = {name: held for name, held in state.items() if not name.startswith("reward/")}
        if mine:
            shapes = {name: held.shape for name, held in mine.items()}
            if sorted(mine) != ["base", "base_fold", "reward_std"] or (
                mine["base"].ndim != 2 or mine["base_fold"].shape != mine["base"].shape[:1]
            ):
                raise ValueError(
                    f"occupancy penalty: the state has {shapes}, expected base (M,E), base_fold (M,) and "
                    "reward_std (): the checkpoint was written by a run with another reward"
                )
        self.reward.load_state_dict(
            {name.removeprefix("reward/"): held for name, held in state.items() if name.startswith("reward/")}
        )
        self.base = mine["base"].astype(np.float64) if mine else None
        self.base_fold = mine["base_fold"].astype(np.int64) if mine else np.zeros(0, np.int64)
        self.reward_std = float(np.asarray(mine["reward_std"]).item()) if mine else 0.0

    def _moments(
        self, rollouts: Rollouts
    ) -> tuple[Array, NDArray[np.int64], NDArray[np.bool_], NDArray[np.int64]]:
        """Embeddings (N,E) in the order of the episodes' identities, and the row of each moment.

        Then, for each of B episodes, whether it can be judged, and its fold: 0 and 1 in turn over the
        episodes that are not the same.
        """
        mask = rollouts.decision_valid
        embedded = self.encoder(rollouts)
        if embedded.ndim != 3 or embedded.shape[:2] != mask.shape:
            raise ValueError(f"the encoder returned {embedded.shape}, expected {(*mask.shape, 'E')}")
        fine = np.isfinite(embedded).all(-1)
        judged = np.asarray(mask.any(1) & (fine | ~mask).all(1), bool)
        names = episode_identity(self.run, rollouts)
        _, inverse = np.unique(names, axis=0, return_inverse=True)
        place = inverse.reshape(-1)
        order = [int(row) for row in np.argsort(place, kind="stable") if judged[row]]
        pieces = [embedded[row][mask[row]].astype(np.float32).astype(np.float64) for row in order]
        row = np.repeat(np.array(order, np.int64), [len(piece) for piece in pieces])
        stacked = np.concatenate(pieces) if pieces else np.zeros((0, embedded.shape[2]))
        return stacked, row, judged, np.asarray(place % 2, np.int64)
