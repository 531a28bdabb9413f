"""Advantages: how much better an episode, a decision or a control step was than expected.

Pure functions on tensors. Sums are taken in float64 and results returned in float32, so a batch of thousands
of nearly equal rewards loses nothing. Masked elements get exactly zero and change nothing else.

Sources: GRPO (Shao et al. 2024, arXiv 2402.03300, section 4.1), RLOO (Kool et al. 2019; Ahmadian et al. 2024,
arXiv 2402.14740), GAE (Schulman et al. 2016, arXiv 1506.02438, equation 16), action-level values for chunks
(RLinf-VLA, arXiv 2510.06710, section 4). Left out: normalisation over running baselines, Reinforce++.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

WeightMode = Literal["episode", "token"]


def grpo(
    returns: Tensor,
    group: Tensor,
    *,
    counted: Tensor | None = None,
    tol: float = 1e-6,
    std_floor: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Group-relative advantage, (r - mean) / (max(std, std_floor) + 1e-6), inside each group.

    The standard deviation is that of the sample (n - 1), computed from centred values: the form
    E[x^2] - E[x]^2 explodes for nearly equal rewards. Any affine change of the returns inside a group is
    invisible in the result, so with `std_floor` 0 a group of failures that differ by 0.001 pushes as hard as
    a group of successes and failures; a floor of, say, 0.1 keeps small differences small.

    Args:
        returns: (B,) one number for each episode, higher is better.
        group: (B,) int; equal numbers share task and start state. Any numbers, in any order.
        counted: (B,) bool, false for episodes the reward could not judge: they enter no mean, get advantage 0
            and are not live. None counts all.
        tol: a group with max - min below this is dead.
        std_floor: lower bound of the divisor, in units of the return.

    Returns:
        advantage: float32 (B,), exactly 0 in dead groups.
        live: bool (B,), false for every episode of a dead group (also of a group of one).

    Raises:
        ValueError: shapes differ, or a counted return is not finite.
    """
    values, counted, _, size, mean, live = _groups(returns, group, counted, tol)
    centred = torch.where(live, values - mean, 0.0)
    inverse = torch.unique(group, return_inverse=True)[1]
    variance = _sum_by(centred.square(), inverse) / (size - 1).clamp(min=1)
    advantage = centred / (variance.sqrt().clamp(min=std_floor) + 1e-6)
    return advantage.float(), live


def rloo(
    returns: Tensor, group: Tensor, *, counted: Tensor | None = None, tol: float = 1e-6
) -> tuple[Tensor, Tensor]:
    """Leave-one-out advantage, r - mean of the others of the group; not divided by a deviation.

    Arguments, results and errors as `grpo`.
    """
    values, counted, total, size, _, live = _groups(returns, group, counted, tol)
    others = (total - values) / (size - 1).clamp(min=1)
    return torch.where(live, values - others, 0.0).float(), live


def _groups(
    returns: Tensor, group: Tensor, counted: Tensor | None, tol: float
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """For each episode: value, counted, and its group's sum, size, mean and life; float64."""
    if returns.ndim != 1 or returns.shape != group.shape:
        raise ValueError(
            f"returns are {tuple(returns.shape)} and groups {tuple(group.shape)}, expected both (B,): "
            "sum the reward over decisions and steps first"
        )
    counted = torch.ones_like(returns, dtype=torch.bool) if counted is None else counted.bool()
    if counted.shape != returns.shape:
        raise ValueError(f"counted is {tuple(counted.shape)}, expected {tuple(returns.shape)}")
    bad = counted & ~returns.isfinite()
    if bad.any():
        row = int(bad.nonzero()[0])
        raise ValueError(
            f"the return of episode {row} is {returns[row].item()}, expected a finite number: "
            "look at the reward's components, or leave the episode out with `counted`"
        )
    values = torch.where(counted, returns, 0.0).double()
    inverse = torch.unique(group, return_inverse=True)[1]
    size = _sum_by(counted.double(), inverse)
    total = _sum_by(values, inverse)
    mean = total / size.clamp(min=1)
    low = _extreme_by(torch.where(counted, values, torch.inf), inverse, "amin")
    high = _extreme_by(torch.where(counted, values, -torch.inf), inverse, "amax")
    live = counted & (size > 1) & (high - low >= tol)
    return values, counted, total, size, mean, live


def _sum_by(values: Tensor, inverse: Tensor) -> Tensor:
    """(B,) each episode's group sum."""
    sums = values.new_zeros(len(values)).index_add(0, inverse, values)
    return sums[inverse]


def _extreme_by(values: Tensor, inverse: Tensor, reduce: Literal["amin", "amax"]) -> Tensor:
    extremes = values.new_zeros(len(values)).scatter_reduce(
        0, inverse, values, reduce=reduce, include_self=False
    )
    return extremes[inverse]


def gae(
    reward: Tensor,
    value: Tensor,
    valid: Tensor,
    terminated: Tensor,
    bootstrap: Tensor,
    *,
    gamma: float = 0.99,
    lam: float = 0.95,
    truncated: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimation over the valid elements of each row.

    Two granularities, one recursion. With (B,D) inputs an element is a decision (the chunk is one
    macro-action, `reward` its sum, `gamma` per decision). With (B,D,H) inputs an element is a control step:
    rows are flattened in time order, steps that were not executed are skipped as if they were not there, and
    `gamma` is per control step.

        delta_t = r_t + gamma * V_next - V_t
        A_t     = delta_t + gamma * lam * A_next

    where "next" is the next valid element of the same episode. At the last element of an episode A_next is 0
    and V_next is 0 if it terminated, `bootstrap` otherwise (step limit, or a collection window that closed).

    Partial resets: a row may hold several episodes one after the other. Then `terminated` and `truncated`
    have the shape of `reward` and mark the last element of each episode; nothing flows across a mark.

    Args:
        reward: (B,D) or (B,D,H).
        value: like `reward`, the critic at each element.
        valid: like `reward`, bool.
        terminated: bool, (B,) for one episode in each row, or like `reward`.
        bootstrap: (B,) value of the state after the row's last valid element, or like `reward`: the value
            after each element. Read only where an episode ends without terminating.
        gamma: discount for one element.
        lam: 0 gives the temporal difference, 1 the discounted return minus the value.
        truncated: bool like `reward`; needed only when rows hold several episodes. A row's last valid
            element always ends its episode.

    Returns:
        advantage: float32 like `reward`, 0 where not valid.
        target: float32 like `reward`, advantage + value, 0 where not valid: what the critic should have said.

    Raises:
        ValueError: shapes do not fit, or an end is marked on an element that is not valid.
    """
    if reward.ndim not in (2, 3) or not reward.shape == value.shape == valid.shape:
        raise ValueError(
            f"reward {tuple(reward.shape)}, value {tuple(value.shape)} and valid {tuple(valid.shape)} must "
            "be of one shape, (B,D) for decisions or (B,D,H) for control steps"
        )
    shape, rows = reward.shape, reward.shape[0]
    for name, tensor in (("terminated", terminated), ("bootstrap", bootstrap), ("truncated", truncated)):
        if tensor is not None and tensor.shape not in ((rows,), shape):
            raise ValueError(f"{name} is {tuple(tensor.shape)}, expected ({rows},) or {tuple(shape)}")
    valid_bn = valid.reshape(rows, -1).bool()
    reward_bn = torch.where(valid_bn, reward.reshape(rows, -1), 0.0).double()
    value_bn = torch.where(valid_bn, value.reshape(rows, -1), 0.0).double()
    last_bn = last_valid(valid_bn)
    terminated_bn = _per_element(terminated.bool(), last_bn)
    ends_bn = last_bn | terminated_bn
    if truncated is not None:
        ends_bn = ends_bn | _per_element(truncated.bool(), last_bn)
    if (ends_bn & ~valid_bn).any():
        row, element = (int(i) for i in (ends_bn & ~valid_bn).nonzero()[0])
        raise ValueError(
            f"row {row} marks the end of an episode at element {element}, which is not valid: mark the last "
            "element that was executed"
        )
    after_bn = bootstrap.double().reshape(rows, -1).expand(valid_bn.shape)
    after_bn = torch.where(ends_bn & ~terminated_bn, after_bn, 0.0)

    advantage_bn = torch.zeros_like(reward_bn)
    next_value = reward_bn.new_zeros(rows)
    next_advantage = reward_bn.new_zeros(rows)
    for n in range(reward_bn.shape[1] - 1, -1, -1):
        ends, here = ends_bn[:, n], valid_bn[:, n]
        following = torch.where(ends, after_bn[:, n], next_value)
        carried = torch.where(ends, 0.0, next_advantage)
        advantage = reward_bn[:, n] + gamma * following - value_bn[:, n] + gamma * lam * carried
        advantage_bn[:, n] = torch.where(here, advantage, 0.0)
        next_value = torch.where(here, value_bn[:, n], next_value)
        next_advantage = torch.where(here, advantage, next_advantage)
    target_bn = torch.where(valid_bn, advantage_bn + value_bn, 0.0)
    return advantage_bn.reshape(shape).float(), target_bn.reshape(shape).float()


def chunk_gae(
    reward: Tensor, value: Tensor, valid: Tensor, *, executed: int, gamma: float, lam: float
) -> tuple[Tensor, Tensor]:
    """`gae` of whole chunks, each one action that is paid the sum of its steps' rewards.

    A decision is `executed` control steps after the one before, however many were planned, so `gamma` to that
    power is its discount. Every row is one episode, whose end is worth nothing more.

    Args:
        reward: (B,D,H).
        value: (B,D,H), the critic at each control step; that of a chunk is its first step's.
        valid: bool (B,D,H), control steps that were executed.
        executed: how many of a chunk's H steps are, fewer only where an episode ends.
        gamma: discount for one control step.
        lam: for one decision.

    Returns:
        Advantage and target, float32 (B,D), 0 where nothing was executed.
    """
    rows = len(reward)
    return gae(
        (reward * valid).sum(-1), value[..., 0], valid.any(-1),
        torch.ones(rows, dtype=torch.bool), torch.zeros(rows), gamma=gamma**executed, lam=lam,
    )  # fmt: skip


def last_valid(valid: Tensor) -> Tensor:
    """True at the last valid element of each row of (B,N) bool; a row without any has none."""
    later = valid.int().flip(1).cumsum(1).flip(1)
    return valid & (later == 1)


def _per_element(flag: Tensor, last: Tensor) -> Tensor:
    """A flag for each row, put at its last valid element; or one for each element, flattened like `last`."""
    return flag[:, None] & last if flag.ndim == 1 else flag.reshape(last.shape)


def normalise(advantage: Tensor, mask: Tensor, eps: float = 1e-5) -> Tensor:
    """(a - mean) / (std + eps) with mean and standard deviation (of the population, 1/n) over `mask` only.

    Args:
        advantage: any shape.
        mask: same shape, bool.
        eps: 1e-5 as in RLinf; a batch of equal advantages becomes zeros, not noise.

    Returns:
        float32, exactly 0 outside the mask (everywhere if the mask is empty).
    """
    if advantage.shape != mask.shape:
        raise ValueError(f"advantage is {tuple(advantage.shape)} and its mask {tuple(mask.shape)}")
    mask = mask.bool()
    values = torch.where(mask, advantage, 0.0).double()
    count = mask.sum().clamp(min=1)
    centred = torch.where(mask, values - values.sum() / count, 0.0)
    std = (centred.square().sum() / count).sqrt()
    return (centred / (std + eps)).float()


def episode_weights(valid: Tensor, mode: WeightMode) -> Tensor:
    """How much each element counts in the loss. `clipped_objective` divides by the sum of the weights.

    ``episode``: 1/T_b on each of the T_b valid elements of episode b. The loss is then the mean over episodes
    (those with at least one valid element) of the mean inside the episode, as SimpleVLA-RL and siiRL do: a
    long failure weighs as much as a short success.

    ``token``: 1 on each valid element. The loss is the mean over all valid elements of the batch; a long
    episode weighs more.

    Masked elements have weight 0 and are not in the denominator of either (in RLinf they are, so there the
    step shrinks as more is masked). T_b counts what `valid` counts: decisions for (B,D), control steps for
    (B,D,H). To leave out dead groups, pass ``valid & live[:, None]``.

    Returns:
        float32 like `valid`.
    """
    weight = valid.float()
    if mode == "token":
        return weight
    if mode == "episode":
        length = weight.flatten(1).sum(1).clamp(min=1)
        return weight / length.reshape(-1, *[1] * (valid.ndim - 1))
    raise ValueError(f"weight mode {mode!r} is not one of 'episode', 'token'")
