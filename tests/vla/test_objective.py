"""The losses against hand-worked numbers, a naive float64 loop, and what masks must not do."""

from __future__ import annotations

import math

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from torch import Tensor

from regrip.vla.objective import RatioNotOneError, assert_ratio_one, clipped_objective, value_loss

torch.set_num_threads(1)
light = settings(max_examples=40, deadline=None, derandomize=True)


def log(*ratios: float) -> Tensor:
    return torch.tensor([math.log(r) for r in ratios], requires_grad=True)


def naive_clipped(
    rows: list[tuple[float, float, float, float]], low: float, high: float, dual: float | None
) -> tuple[float, list[float]]:
    """Loss and its derivative by each log-probability, one element at a time, in float64."""
    total, slopes = 0.0, []
    weights = sum(w for *_, w in rows)
    for new, old, advantage, weight in rows:
        ratio = math.exp(max(-20.0, min(20.0, new - old)))
        gain, slope = ratio * advantage, ratio * advantage
        if advantage >= 0 and ratio > 1 + high:
            gain, slope = (1 + high) * advantage, 0.0
        if advantage < 0 and ratio < 1 - low:
            gain, slope = (1 - low) * advantage, 0.0
        if dual is not None and advantage < 0 and gain < dual * advantage:
            gain, slope = dual * advantage, 0.0
        total -= weight * gain / weights
        slopes.append(-weight * slope / weights)
    return total, slopes


def test_clipping_by_hand_both_signs() -> None:
    # ratio   1.5    0.5    1.5    0.5          gain = min(r A, clip(r, 0.8, 1.28) A)
    # A        +1     +1     -1     -1          1.28   0.5   -1.5   -0.8       sum -0.52, loss 0.52 / 4
    # d loss / d log_prob = -r A / 4 where not clipped:  0   -0.125   +0.375   0
    log_prob = log(1.5, 0.5, 1.5, 0.5)
    advantage = torch.tensor([1.0, 1.0, -1.0, -1.0])
    loss, stats = clipped_objective(log_prob, torch.zeros(4), advantage, torch.ones(4))
    loss.backward()
    assert loss.item() == pytest.approx(0.13, abs=1e-6)
    assert log_prob.grad is not None
    np.testing.assert_allclose(log_prob.grad.numpy(), [0.0, -0.125, 0.375, 0.0], atol=1e-6)
    assert (stats.clip_low, stats.clip_high) == (0.25, 0.25)
    # k3: 1.5 - 1 - ln 1.5 = 0.0945349, 0.5 - 1 - ln 0.5 = 0.1931472, mean 0.1438410
    assert stats.kl == pytest.approx(0.1438410, abs=1e-6)
    assert stats.ratio_mean == pytest.approx(1.0, abs=1e-6)
    assert stats.ratio_max == pytest.approx(1.5, abs=1e-6)
    assert stats.coverage == 1.0


def test_dual_clip_bounds_a_very_unlikely_bad_action() -> None:
    # ratio 5, A = -1: min(-5, -1.28) = -5, then max(-5, 3 * -1) = -3
    log_prob = log(5.0)
    loss, _ = clipped_objective(log_prob, torch.zeros(1), torch.tensor([-1.0]), torch.ones(1), dual_clip=3.0)
    assert loss.item() == pytest.approx(3.0, abs=1e-6)
    loss.backward()
    assert log_prob.grad is not None
    assert log_prob.grad.item() == 0.0
    assert clipped_objective(log(5.0), torch.zeros(1), torch.tensor([-1.0]), torch.ones(1))[
        0
    ].item() == pytest.approx(5.0, abs=1e-5)


def test_log_ratio_clamp_keeps_it_finite() -> None:
    log_prob = torch.tensor([500.0, -500.0], requires_grad=True)
    loss, stats = clipped_objective(log_prob, torch.zeros(2), torch.tensor([-1.0, -1.0]), torch.ones(2))
    assert loss.item() == pytest.approx((math.exp(20) + 0.8) / 2, rel=1e-6)
    assert stats.ratio_max == pytest.approx(math.exp(20), rel=1e-6)


def test_weight_zero_changes_nothing_whatever_it_holds() -> None:
    good = torch.tensor([0.1, -0.2], requires_grad=True)
    alone, stats_alone = clipped_objective(
        good, torch.zeros(2), torch.tensor([1.0, -2.0]), torch.tensor([0.5, 1.5])
    )
    alone.backward()
    padded = torch.tensor([0.1, torch.nan, -0.2, torch.inf], requires_grad=True)
    loss, stats = clipped_objective(
        padded,
        torch.tensor([0.0, 1.0, 0.0, torch.inf]),
        torch.tensor([1.0, torch.nan, -2.0, 1e30]),
        torch.tensor([0.5, 0.0, 1.5, 0.0]),
    )
    loss.backward()
    assert torch.equal(loss, alone)
    assert good.grad is not None
    assert padded.grad is not None
    assert padded.grad[[0, 2]].tolist() == good.grad.tolist()
    assert padded.grad[[1, 3]].tolist() == [0.0, 0.0]
    assert stats.kl == stats_alone.kl
    assert stats.ratio_max == stats_alone.ratio_max
    assert stats.coverage == 0.5


def test_all_weights_zero_is_a_loss_of_zero() -> None:
    log_prob = log(2.0)
    loss, stats = clipped_objective(log_prob, torch.zeros(1), torch.ones(1), torch.zeros(1))
    loss.backward()
    assert (loss.item(), stats.coverage) == (0.0, 0.0)
    assert log_prob.grad is not None
    assert log_prob.grad.item() == 0.0


def test_micro_batches_with_the_whole_denominator_give_the_whole_gradient() -> None:
    generator = torch.Generator().manual_seed(0)
    parts = [torch.randn(9, generator=generator) for _ in range(3)]
    weight = torch.rand(9, generator=generator)
    whole = parts[0].clone().requires_grad_()
    clipped_objective(whole, parts[1], parts[2], weight)[0].backward()
    split = parts[0].clone().requires_grad_()
    for rows in (slice(0, 2), slice(2, 9)):
        loss, _ = clipped_objective(
            split[rows], parts[1][rows], parts[2][rows], weight[rows], denominator=float(weight.sum())
        )
        loss.backward()
    assert whole.grad is not None
    assert split.grad is not None
    torch.testing.assert_close(split.grad, whole.grad)


@light
@given(
    st.lists(
        st.tuples(st.floats(-1, 1), st.floats(-1, 1), st.floats(-3, 3), st.floats(0.1, 2)),
        min_size=1,
        max_size=12,
    ),
    st.floats(0, 0.5),
    st.floats(0, 0.5),
    st.one_of(st.none(), st.floats(1.1, 4)),
)
def test_clipped_objective_matches_the_loop(
    rows: list[tuple[float, float, float, float]], low: float, high: float, dual: float | None
) -> None:
    columns = [torch.tensor(column, dtype=torch.float32) for column in zip(*rows, strict=True)]
    exact = list(zip(*(c.double().tolist() for c in columns), strict=True))
    corner = [1 - low, 1 + high, dual or 0.0]
    if any(abs(math.exp(a - b) - c) < 1e-4 for a, b, *_ in exact for c in corner):
        return  # at a corner either slope is right
    columns[0].requires_grad_()
    loss, _ = clipped_objective(*columns, clip_low=low, clip_high=high, dual_clip=dual)
    loss.backward()
    expected, slopes = naive_clipped(exact, low, high, dual)
    assert loss.item() == pytest.approx(expected, rel=1e-5, abs=1e-5)
    assert columns[0].grad is not None
    np.testing.assert_allclose(columns[0].grad.numpy(), slopes, rtol=1e-4, atol=1e-5)


def test_ratio_one_gives_the_policy_gradient() -> None:
    # at ratio 1 nothing is clipped and d/d log_prob of -mean(ratio * A) is -A / 2
    log_prob = torch.tensor([-3.0, -5.0], requires_grad=True)
    loss, stats = clipped_objective(log_prob, log_prob.detach(), torch.tensor([2.0, -1.0]), torch.ones(2))
    loss.backward()
    assert log_prob.grad is not None
    assert log_prob.grad.tolist() == [-1.0, 0.5]
    assert (stats.clip_low, stats.clip_high, stats.kl, stats.ratio_max) == (0.0, 0.0, 0.0, 1.0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_only_float32(dtype: torch.dtype) -> None:
    zeros = torch.zeros(2)
    with pytest.raises(TypeError, match="old_log_prob is torch"):
        clipped_objective(zeros, zeros.to(dtype), zeros, zeros)


def test_wrong_settings_are_named() -> None:
    zeros = torch.zeros(2)
    with pytest.raises(ValueError, match=r"log_prob \(2,\), old_log_prob \(3,\)"):
        clipped_objective(zeros, torch.zeros(3), zeros, zeros)
    with pytest.raises(ValueError, match=r"dual_clip 1\.0 must be above 1"):
        clipped_objective(zeros, zeros, zeros, zeros, dual_clip=1.0)
    with pytest.raises(ValueError, match="weight has -1"):
        clipped_objective(zeros, zeros, zeros, zeros - 1)
    with pytest.raises(ValueError, match="denominator 0 must be above 0"):
        clipped_objective(zeros, zeros, zeros, zeros, denominator=0)


# ---- value loss ------------------------------------------------------------------------------------------


def test_value_loss_by_hand() -> None:
    # a: v 1.0, old 0.5, target 2: plain (1.0 - 2)^2 / 2 = 0.5; clipped to 0.7: 1.3^2 / 2 = 0.845 -> 0.845
    # b: v 0.6, old 0.5, target 0: plain 0.18; not clipped: 0.18
    # c: v 12, old 12, target 0: |e| 12 > 10: 10 * (12 - 5) = 70
    value = torch.tensor([1.0, 0.6, 12.0], requires_grad=True)
    old = torch.tensor([0.5, 0.5, 12.0])
    target = torch.tensor([2.0, 0.0, 0.0])
    loss, stats = value_loss(value, old, target, torch.ones(3))
    loss.backward()
    assert loss.item() == pytest.approx((0.845 + 0.18 + 70.0) / 3, rel=1e-6)
    assert value.grad is not None
    # a: the clipped branch is larger and constant; b: the tie halves twice the same slope; c: delta
    np.testing.assert_allclose(value.grad.numpy(), [0.0, 0.2, 10 / 3], atol=1e-6)
    assert stats.clip == pytest.approx(1 / 3)
    assert stats.error == pytest.approx(math.sqrt((1 + 0.36 + 144) / 3), rel=1e-5)
    unclipped, _ = value_loss(value, old, target, torch.ones(3), clip=None)
    assert unclipped.item() == pytest.approx((0.5 + 0.18 + 70.0) / 3, rel=1e-6)


def test_value_loss_masks_and_explains() -> None:
    value = torch.tensor([1.0, 2.0, torch.nan], requires_grad=True)
    target = torch.tensor([1.0, 3.0, torch.inf])
    loss, stats = value_loss(value, value.detach(), target, torch.tensor([1.0, 1.0, 0.0]))
    loss.backward()
    assert loss.item() == pytest.approx(0.25)
    assert value.grad is not None
    assert value.grad.tolist() == [0.0, -0.5, 0.0]
    # targets 1 3: centred squares sum 2; errors 0 -1: centred +-0.5, sum 0.5; 1 - 0.25
    assert stats.explained_variance == pytest.approx(0.75)


# ---- ratio = 1 -------------------------------------------------------------------------------------------


def test_ratio_one_is_asserted_and_explained() -> None:
    old = torch.tensor([[-1.0, -2.0], [-3.0, -4.0]])
    new = old.clone()
    assert assert_ratio_one(new, old, 1e-6) == 0.0
    new[1, 0] += 0.25
    with pytest.raises(RatioNotOneError, match=r"element \(1, 0\).*\|log ratio\| 0.25.*1 of 4.*dropout"):
        assert_ratio_one(new, old, 1e-3)
    assert assert_ratio_one(new, old, 1e-3, mask=torch.tensor([[True, True], [False, True]])) == 0.0
    new[1, 0] = torch.nan
    with pytest.raises(RatioNotOneError, match="nan"):
        assert_ratio_one(new, old, 1e-3)
