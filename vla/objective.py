"""The losses of PPO and GRPO: the clipped surrogate, the value loss, and the check that comes before both.

Sources: PPO (Schulman et al. 2017, arXiv 1707.06347, equation 7), asymmetric clipping (DAPO, arXiv
2503.14476, section 3.1), dual clip (Ye et al. 2020, arXiv 1912.09729, equation 5), k3 (Schulman 2020,
"Approximating KL divergence"), Huber and clipped values as in RLinf and RL4VLA. Left out: a KL term to a
reference policy (SimpleVLA-RL, siiRL and RLinf train without one) and an entropy bonus.

What a clip width means depends on how a log-probability is summed or averaged over tokens, dimensions and
denoising steps; that convention belongs to the policy and is not changed here.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


class RatioNotOneError(RuntimeError):
    """The policy that is to be trained does not reproduce the log-probabilities it acted with."""


@dataclass(frozen=True)
class ClipStats:
    """What the clipped objective saw; all but `coverage` over elements of non-zero weight, each once.

    Attributes:
        clip_low: share with negative advantage and ratio under 1 - clip_low: no gradient from them.
        clip_high: share with positive advantage and ratio above 1 + clip_high: no gradient from them.
        kl: k3 estimate of KL(old || new), mean of ratio - 1 - log ratio; never negative. Nats per element.
        ratio_mean: near 1 for honest log-probabilities.
        ratio_max: the worst.
        coverage: share of all elements with non-zero weight.
    """

    clip_low: float
    clip_high: float
    kl: float
    ratio_mean: float
    ratio_max: float
    coverage: float


@dataclass(frozen=True)
class ValueStats:
    """What the value loss saw, over elements of non-zero weight.

    Attributes:
        clip: share whose change was larger than the clip.
        explained_variance: 1 - var(target - value) / var(target); 0 when the targets are all equal.
        error: root mean square of value - target, in units of the return.
    """

    clip: float
    explained_variance: float
    error: float


def clipped_objective(
    log_prob: Tensor,
    old_log_prob: Tensor,
    advantage: Tensor,
    weight: Tensor,
    clip_low: float | Tensor = 0.2,
    clip_high: float | Tensor = 0.28,
    log_ratio_clamp: float = 20.0,
    dual_clip: float | None = None,
    denominator: float | None = None,
) -> tuple[Tensor, ClipStats]:
    """The clipped surrogate as a loss to minimise.

        ratio = exp(clamp(log_prob - old_log_prob, +-log_ratio_clamp))
        gain  = min(ratio * A, clamp(ratio, 1 - clip_low, 1 + clip_high) * A)
        gain  = max(gain, dual_clip * A)   where A < 0, if `dual_clip` is given
        loss  = -sum(weight * gain) / denominator

    The denominator is the sum of the weights of this call, unless given. Splitting a batch into micro-batches
    gives the gradient of the whole batch only if each micro-batch is given the whole batch's sum of weights.
    Elements of weight 0 add nothing to loss, gradient or denominator, whatever they hold (NaN too).

    Args:
        log_prob: under the policy being trained, with gradient; any shape.
        old_log_prob: same shape, under the policy that acted; without gradient.
        advantage: same shape, without gradient.
        weight: same shape, not negative; `advantages.episode_weights`.
        clip_low: how far below 1 the ratio may go before it stops paying; one number, or one for each element
            (then `clip_high` too).
        clip_high: how far above 1.
        log_ratio_clamp: keeps exp finite; beyond it the gradient is zero.
        dual_clip: above 1; bounds the loss of a very unlikely bad action.
        denominator: see above.

    Returns:
        The loss (0 if all weights are 0) and its statistics.

    Raises:
        TypeError: a tensor is not float32 (half precision rounds a summed log-probability of -20 by 0.08).
        ValueError: shapes differ, or a weight is negative, or a setting is out of range.
    """
    _check(log_prob=log_prob, old_log_prob=old_log_prob, advantage=advantage, weight=weight)
    low, high = torch.as_tensor(clip_low), torch.as_tensor(clip_high)
    if not bool(((low >= 0) & (low < 1)).all()) or bool((high < 0).any()):
        raise ValueError(f"clip {clip_low}/{clip_high}: expected 0 <= low < 1 and 0 <= high")
    if dual_clip is not None and dual_clip <= 1:
        raise ValueError(f"dual_clip {dual_clip} must be above 1, or None to leave it out")
    counts = weight > 0
    advantage = torch.where(counts, advantage, 0.0).detach()
    log_ratio = torch.where(counts, log_prob - old_log_prob.detach(), 0.0)
    log_ratio = log_ratio.clamp(-log_ratio_clamp, log_ratio_clamp)
    ratio = log_ratio.exp()
    near = ratio.clamp(1 - clip_low, 1 + clip_high)  # type: ignore[arg-type]  # both numbers, or both tensors
    gain = torch.minimum(ratio * advantage, near * advantage)
    if dual_clip is not None:
        gain = torch.where(advantage < 0, torch.maximum(gain, dual_clip * advantage), gain)
    loss = -(weight * gain).sum() / _denominator(weight, denominator)

    with torch.no_grad():
        count = counts.sum().clamp(min=1)
        stats = torch.stack(
            [
                ((advantage < 0) & (ratio < 1 - clip_low)).sum() / count,
                ((advantage > 0) & (ratio > 1 + clip_high)).sum() / count,
                (torch.expm1(log_ratio) - log_ratio).sum() / count,
                torch.where(counts, ratio, 0.0).sum() / count,
                torch.where(counts, ratio, 0.0).max() if ratio.numel() else ratio.new_zeros(()),
                counts.float().mean() if ratio.numel() else ratio.new_zeros(()),
            ]
        )
    return loss, ClipStats(*stats.tolist())  # one transfer from the device, not six


def value_loss(
    value: Tensor,
    old_value: Tensor,
    target: Tensor,
    weight: Tensor,
    huber_delta: float = 10.0,
    clip: float | None = 0.2,
    denominator: float | None = None,
) -> tuple[Tensor, ValueStats]:
    """Clipped Huber loss of the critic.

        h(e) = e^2 / 2 if |e| <= delta else delta * (|e| - delta / 2)
        loss = sum(weight * max(h(v - target), h(v_old + clamp(v - v_old, +-clip) - target))) / denominator

    Args:
        value: what the critic says now, with gradient; any shape.
        old_value: same shape, what it said when the advantages were computed.
        target: same shape, from `advantages.gae`.
        weight: same shape, not negative. Weight 0 adds nothing, whatever the element holds.
        huber_delta: in units of the return.
        clip: in units of the return; None leaves the clipping out (warming up a fresh critic).
        denominator: sum of the weights unless given, as in `clipped_objective`.

    Returns:
        The loss (0 if all weights are 0) and its statistics.

    Raises:
        TypeError, ValueError: as `clipped_objective`.
    """
    _check(value=value, old_value=old_value, target=target, weight=weight)
    counts = weight > 0
    value = torch.where(counts, value, 0.0)
    old_value = torch.where(counts, old_value, 0.0).detach()
    target = torch.where(counts, target, 0.0).detach()
    loss = _huber(value - target, huber_delta)
    if clip is not None:
        near = old_value + (value - old_value).clamp(-clip, clip)
        loss = torch.maximum(loss, _huber(near - target, huber_delta))
    loss = (weight * loss).sum() / _denominator(weight, denominator)

    with torch.no_grad():
        count = counts.sum().clamp(min=1)
        error = value - target
        moved = (value - old_value).abs() > (clip if clip is not None else torch.inf)
        spread, left = (torch.where(counts, x - x.sum() / count, 0.0).square().sum() for x in (target, error))
        explained = torch.where(spread > 0, 1 - left / spread.clamp(min=1e-30), torch.zeros_like(left))
        stats = torch.stack([moved.sum() / count, explained, (error.square().sum() / count).sqrt()])
    return loss, ValueStats(*stats.tolist())


def assert_ratio_one(
    log_prob: Tensor, old_log_prob: Tensor, tol: float = 1e-3, mask: Tensor | None = None
) -> float:
    """Refuse to train if the policy does not reproduce the log-probabilities it acted with.

    To be called before the first update of each iteration, when the ratio must be 1.

    Args:
        log_prob: any shape, recomputed by the code that trains.
        old_log_prob: same shape, from the rollouts.
        tol: largest |log ratio| allowed, nats.
        mask: same shape, bool, what to look at; None looks at all.

    Returns:
        The largest |log ratio|.

    Raises:
        RatioNotOneError: it is above `tol`, or not a number.
    """
    if log_prob.shape != old_log_prob.shape:
        raise ValueError(
            f"log_prob is {tuple(log_prob.shape)} and old_log_prob {tuple(old_log_prob.shape)}, "
            "expected one shape"
        )
    with torch.no_grad():
        gap = (log_prob.double() - old_log_prob.double()).abs()
        if mask is not None:
            gap = torch.where(mask.bool(), gap, 0.0)
        if not gap.numel():
            return 0.0
        gap = gap.nan_to_num(nan=torch.inf)
        worst = float(gap.max())
        if worst <= tol:
            return worst
        index = tuple(int(i) for i in torch.unravel_index(gap.argmax(), gap.shape))
        wrong = int((gap > tol).sum())
    raise RatioNotOneError(
        f"before any update the log-probability of element {index} is {float(log_prob[index]):.6g}, but the "
        f"policy acted with {float(old_log_prob[index]):.6g}: |log ratio| {worst:.3g}, allowed {tol:.3g} "
        f"({wrong} of {gap.numel()} elements are off). Usual causes: dropout left on, half precision, "
        "another temperature, latents or weights of another iteration, images that changed in between. "
        "`regrip doctor` runs this check on a small policy."
    )


def _check(**tensors: Tensor) -> None:
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if len(set(shapes.values())) != 1:
        raise ValueError(f"expected one shape, got {', '.join(f'{k} {v}' for k, v in shapes.items())}")
    for name, tensor in tensors.items():
        if tensor.dtype != torch.float32:
            raise TypeError(
                f"{name} is {tensor.dtype}, expected torch.float32: compute it outside autocast, "
                "or convert the logits (not the result) with .float()"
            )
    if (tensors["weight"] < 0).any():
        raise ValueError(f"weight has {float(tensors['weight'].min())}, expected nothing below 0")


def _denominator(weight: Tensor, denominator: float | None) -> Tensor | float:
    if denominator is None:
        return weight.sum().clamp(min=torch.finfo(torch.float32).tiny)
    if denominator <= 0:
        raise ValueError(f"denominator {denominator} must be above 0: the whole batch's sum of weights")
    return denominator


def _huber(error: Tensor, delta: float) -> Tensor:
    size = error.abs()
    return torch.where(size <= delta, 0.5 * error.square(), delta * (size - 0.5 * delta))
