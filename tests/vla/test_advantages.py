"""Advantages against hand-worked numbers, against naive float64 loops, and by their invariances."""

from __future__ import annotations

import math
import statistics

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings

from regrip.vla.advantages import chunk_gae, episode_weights, gae, grpo, last_valid, normalise, rloo

torch.set_num_threads(1)
light = settings(max_examples=40, deadline=None, derandomize=True)


# ---- naive float64 references ----------------------------------------------------------------------------


def naive_group_advantage(returns: list[float], group: list[int], divide: bool) -> list[float]:
    out = []
    for mine, key in zip(returns, group, strict=True):
        members = [r for r, k in zip(returns, group, strict=True) if k == key]
        if len(members) < 2 or max(members) - min(members) < 1e-6:
            out.append(0.0)
        elif divide:
            out.append((mine - statistics.fmean(members)) / (statistics.stdev(members) + 1e-6))
        else:
            out.append(mine - (math.fsum(members) - mine) / (len(members) - 1))
    return out


def naive_gae(
    reward: list[float],
    value: list[float],
    valid: list[bool],
    terminated: list[bool],
    truncated: list[bool],
    bootstrap: list[float],
    gamma: float,
    lam: float,
) -> list[float]:
    """By the definition, A_t = sum_k (gamma lam)^k delta_{t+k} inside the episode; no recursion."""
    executed = [n for n, here in enumerate(valid) if here]
    out = [0.0] * len(valid)
    for place, start in enumerate(executed):
        total, factor = 0.0, 1.0
        for k in range(place, len(executed)):
            n = executed[k]
            last = k == len(executed) - 1
            if terminated[n]:
                following = 0.0
            elif truncated[n] or last:
                following = bootstrap[n]
            else:
                following = value[executed[k + 1]]
            total += factor * (reward[n] + gamma * following - value[n])
            factor *= gamma * lam
            if terminated[n] or truncated[n] or last:
                break
        out[start] = total
    return out


# ---- GRPO and RLOO ---------------------------------------------------------------------------------------


def test_grpo_by_hand() -> None:
    # group 7: mean 0.25, centred 0.75 -0.25 -0.25 -0.25, sum of squares 0.75, / 3 = 0.25, std 0.5
    # group 2: mean 0.5, centred 0.5 0 -0.5, sum of squares 0.5, / 2 = 0.25, std 0.5
    returns = torch.tensor([1.0, 1.0, 0.0, 0.5, 0.0, 0.0, 0.0])
    group = torch.tensor([7, 2, 7, 2, 7, 2, 7])
    advantage, live = grpo(returns, group)
    expected = torch.tensor([1.5, 1.0, -0.5, 0.0, -0.5, -1.0, -0.5])
    torch.testing.assert_close(advantage, expected, rtol=0, atol=5e-6)
    assert live.all()
    assert advantage.dtype == torch.float32


def test_rloo_by_hand() -> None:
    # World-Env's vector: 0.9 - (0.2+0.4+0.5)/3 = 0.5333, 0.2 - 0.6 = -0.4, 0.4 - 1.6/3 = -0.1333, 0.5 - 0.5
    advantage, live = rloo(torch.tensor([0.9, 0.2, 0.4, 0.5]), torch.zeros(4, dtype=torch.long))
    torch.testing.assert_close(advantage, torch.tensor([8 / 15, -0.4, -2 / 15, 0.0]), rtol=0, atol=1e-6)
    assert live.all()


def test_dead_groups_are_exactly_zero_and_not_live() -> None:
    returns = torch.tensor([1.0, 1.0, 0.3, 0.3, 5.0, 0.0, 1.0])
    group = torch.tensor([0, 0, 1, 1, 2, 3, 3])  # solved, failed alike, alone, alive
    for estimate in (grpo, rloo):
        advantage, live = estimate(returns, group)
        assert advantage[:5].tolist() == [0.0] * 5
        assert live.tolist() == [False] * 5 + [True, True]


def test_nearly_equal_large_rewards_do_not_explode() -> None:
    """E[x^2] - E[x]^2 in float32 gives noise or NaN here; the true spread is below the tolerance."""
    returns = torch.full((8,), 1000.0)
    returns[0] += 6.1e-5  # one unit in the last place
    advantage, _ = grpo(returns, torch.zeros(8, dtype=torch.long), tol=1e-3)
    assert advantage.tolist() == [0.0] * 8
    advantage, live = grpo(returns, torch.zeros(8, dtype=torch.long), tol=0.0)
    assert live.all()
    assert advantage.abs().max() < 2.5


def test_std_floor_keeps_small_differences_small() -> None:
    returns, group = torch.tensor([0.300, 0.301]), torch.zeros(2, dtype=torch.long)
    assert grpo(returns, group)[0].abs().max() > 0.7
    torch.testing.assert_close(
        grpo(returns, group, std_floor=0.1)[0], torch.tensor([-0.005, 0.005]), rtol=0, atol=1e-5
    )


def test_uncounted_episodes_change_nothing() -> None:
    returns = torch.tensor([1.0, torch.nan, 0.0, 0.0])
    group = torch.zeros(4, dtype=torch.long)
    counted = torch.tensor([True, False, True, True])
    for estimate in (grpo, rloo):
        advantage, live = estimate(returns, group, counted=counted)
        alone, _ = estimate(returns[counted], group[counted])
        assert torch.equal(advantage[counted], alone)
        assert (advantage[1].item(), live[1].item()) == (0.0, False)
        with pytest.raises(ValueError, match="return of episode 1 is nan"):
            estimate(returns, group)


@light
@given(
    st.lists(st.tuples(st.floats(-5, 5, width=32), st.integers(0, 3)), min_size=1, max_size=24),
    st.floats(0.5, 4.0),
    st.floats(-3.0, 3.0),
    st.randoms(use_true_random=False),
)
def test_group_advantages_match_loops_and_invariances(
    episodes: list[tuple[float, int]], scale: float, shift: float, shuffle: object
) -> None:
    returns = [round(r, 2) for r, _ in episodes]
    group = [g for _, g in episodes]
    tensor, groups = torch.tensor(returns, dtype=torch.float64), torch.tensor(group)
    for estimate, divide in ((grpo, True), (rloo, False)):
        advantage, live = estimate(tensor, groups)
        expected = naive_group_advantage(returns, group, divide)
        np.testing.assert_allclose(advantage.numpy(), expected, rtol=1e-5, atol=1e-5)
        assert (advantage[~live] == 0).all()
        for key in set(group):  # advantages of a group sum to zero
            assert abs(float(advantage[groups == key].double().sum())) < 1e-4
        order = torch.tensor(shuffle.sample(range(len(returns)), len(returns)))  # type: ignore[attr-defined]
        permuted, _ = estimate(tensor[order], groups[order] * 5 - 2)
        torch.testing.assert_close(permuted, advantage[order], rtol=1e-5, atol=1e-6)
        moved, _ = estimate(tensor * scale + shift * groups, groups)  # affine inside each group
        factor = 1.0 if divide else scale
        torch.testing.assert_close(moved, advantage * factor, rtol=1e-3, atol=1e-3)


# ---- GAE -------------------------------------------------------------------------------------------------

REWARD, VALUE = [1.0, 0.0, 2.0], [1.0, 2.0, 3.0]


def test_gae_by_hand() -> None:
    # gamma = lam = 0.5, terminated:  d2 = 2 - 3 = -1          A2 = -1
    #                                 d1 = 0 + 1.5 - 2 = -0.5  A1 = -0.5 + 0.25 * -1    = -0.75
    #                                 d0 = 1 + 1 - 1 = 1       A0 = 1 + 0.25 * -0.75    = 0.8125
    # truncated, V(after) = 4:        d2 = 2 + 2 - 3 = 1       A1 = -0.25   A0 = 0.9375
    reward = torch.tensor([[*REWARD, 7.0], [*REWARD, 7.0]])
    value = torch.tensor([[*VALUE, torch.nan], [*VALUE, torch.nan]])
    valid = torch.tensor([[True] * 3 + [False]] * 2)
    terminated, bootstrap = torch.tensor([True, False]), torch.tensor([99.0, 4.0])
    advantage, target = gae(reward, value, valid, terminated, bootstrap, gamma=0.5, lam=0.5)
    expected = torch.tensor([[0.8125, -0.75, -1.0, 0.0], [0.9375, -0.25, 1.0, 0.0]])
    assert torch.equal(advantage, expected)
    assert torch.equal(target, torch.where(valid, expected + value, 0.0))


def test_a_chunk_is_discounted_by_the_steps_that_are_executed() -> None:
    # Two of three planned steps are executed, of the last chunk one: gamma is 0.5 a step, so 0.25 a chunk.
    # lam = 0.5:  d2 = 4 - 2 = 2               A2 = 2
    #             d1 = 0 + 0.25 * 2 - 1 = -0.5 A1 = -0.5 + 0.125 * 2     = -0.25
    #             d0 = 1 + 0.25 * 1 - 1 = 0.25 A0 = 0.25 + 0.125 * -0.25 = 0.21875
    reward = torch.tensor([[[1.0, 0.0, 9.0], [0.0, 0.0, 9.0], [4.0, 9.0, 9.0]]])
    value = torch.tensor([[[1.0, 7.0, 7.0], [1.0, 7.0, 7.0], [2.0, 7.0, 7.0]]])
    valid = torch.tensor([[[True, True, False], [True, True, False], [True, False, False]]])
    advantage, target = chunk_gae(reward, value, valid, executed=2, gamma=0.5, lam=0.5)
    assert advantage.tolist() == [[0.21875, -0.25, 2.0]]
    assert target.tolist() == [[1.21875, 0.75, 4.0]]


@pytest.mark.parametrize(
    "valid",
    [[[True, True], [True, False]], [[True, False], [True, True]], [[False, True], [True, True]]],
    ids=["cut short at the end", "replanned early", "first action dropped"],
)
def test_action_level_gae_skips_what_was_not_executed(valid: list[list[bool]]) -> None:
    mask = torch.tensor([valid])
    reward, value = torch.full((1, 2, 2), 50.0), torch.full((1, 2, 2), -50.0)
    reward[mask], value[mask] = torch.tensor(REWARD), torch.tensor(VALUE)
    advantage, target = gae(reward, value, mask, torch.tensor([True]), torch.zeros(1), gamma=0.5, lam=0.5)
    assert advantage[mask].tolist() == [0.8125, -0.75, -1.0]
    assert advantage[~mask].tolist() == [0.0]
    assert target[~mask].tolist() == [0.0]


def test_partial_reset_two_episodes_in_a_row() -> None:
    """A row with two episodes equals two rows with one; nothing leaks across the mark."""
    reward, value = torch.tensor([REWARD + REWARD]), torch.tensor([VALUE + VALUE])
    valid = torch.ones(1, 6, dtype=torch.bool)
    marks = torch.tensor([[False, False, True, False, False, False]])
    after = torch.tensor([[9.0, 9.0, 4.0, 9.0, 9.0, 4.0]])
    none = torch.zeros_like(marks)
    ended, _ = gae(reward, value, valid, marks, after, gamma=0.5, lam=0.5)
    assert ended.tolist() == [[0.8125, -0.75, -1.0, 0.9375, -0.25, 1.0]]
    cut, _ = gae(reward, value, valid, none, after, gamma=0.5, lam=0.5, truncated=marks)
    assert cut.tolist() == [[0.9375, -0.25, 1.0, 0.9375, -0.25, 1.0]]


def test_an_end_on_an_unexecuted_element_is_refused() -> None:
    valid = torch.tensor([[True, True, False]])
    marks = torch.tensor([[False, False, True]])
    zeros = torch.zeros(1, 3)
    with pytest.raises(ValueError, match="row 0 marks the end of an episode at element 2"):
        gae(zeros, zeros, valid, marks, zeros)


episodes = st.integers(1, 9).flatmap(
    lambda n: st.tuples(
        *(st.lists(st.floats(-3, 3, width=32), min_size=n, max_size=n) for _ in range(3)),
        *(st.lists(st.booleans(), min_size=n, max_size=n) for _ in range(3)),
    )
)


@light
@given(episodes, st.floats(0, 1), st.floats(0, 1))
def test_gae_matches_the_definition(
    row: tuple[list[float], list[float], list[float], list[bool], list[bool], list[bool]],
    gamma: float,
    lam: float,
) -> None:
    reward, value, after, valid, terminated, truncated = row
    terminated = [t and v for t, v in zip(terminated, valid, strict=True)]
    truncated = [t and v for t, v in zip(truncated, valid, strict=True)]
    as_row = [torch.tensor([x]) for x in (reward, value, valid, terminated, after, truncated)]
    advantage, _ = gae(*as_row[:5], gamma=gamma, lam=lam, truncated=as_row[5])
    expected = naive_gae(reward, value, valid, terminated, truncated, after, gamma, lam)
    np.testing.assert_allclose(advantage[0].numpy(), expected, rtol=1e-5, atol=1e-5)


@light
@given(
    st.lists(st.tuples(st.floats(-3, 3), st.floats(-3, 3)), min_size=1, max_size=8),
    st.floats(0, 1),
    st.booleans(),
)
def test_gae_limits(steps: list[tuple[float, float]], gamma: float, terminates: bool) -> None:
    """With lam 1 the discounted return minus the value; with lam 0 the temporal difference."""
    reward, value = [r for r, _ in steps], [v for _, v in steps]
    after = 2.0
    arguments = (
        torch.tensor([reward], dtype=torch.float64),
        torch.tensor([value], dtype=torch.float64),
        torch.ones(1, len(steps), dtype=torch.bool),
        torch.tensor([terminates]),
        torch.tensor([after]),
    )
    final = 0.0 if terminates else after
    monte_carlo, target = gae(*arguments, gamma=gamma, lam=1.0)
    temporal, _ = gae(*arguments, gamma=gamma, lam=0.0)
    for t in range(len(steps)):
        back = sum(gamma ** (k - t) * reward[k] for k in range(t, len(steps)))
        back += gamma ** (len(steps) - t) * final
        assert monte_carlo[0, t].item() == pytest.approx(back - value[t], abs=1e-4)
        assert target[0, t].item() == pytest.approx(back, abs=1e-4)
        following = value[t + 1] if t + 1 < len(steps) else final
        assert temporal[0, t].item() == pytest.approx(reward[t] + gamma * following - value[t], abs=1e-4)


def test_last_valid() -> None:
    valid = torch.tensor([[True, False, True, False], [False] * 4, [True] * 4])
    assert last_valid(valid).nonzero().tolist() == [[0, 2], [2, 3]]


# ---- normalising and weighting ---------------------------------------------------------------------------


def test_normalise_by_hand() -> None:
    # masked values 1 2 3: mean 2, population std sqrt(2/3) = 0.8164966; +-1 / (0.8164966 + 1e-5) = +-1.224730
    advantage = torch.tensor([[1.0, 2.0], [3.0, 1e9]])
    mask = torch.tensor([[True, True], [True, False]])
    expected = torch.tensor([[-1.224730, 0.0], [1.224730, 0.0]])
    torch.testing.assert_close(normalise(advantage, mask), expected, rtol=0, atol=1e-5)
    advantage[1, 1] = torch.nan
    torch.testing.assert_close(normalise(advantage, mask), expected, rtol=0, atol=1e-5)


def test_normalise_of_nothing_and_of_equals_is_zero() -> None:
    ones = torch.ones(3)
    assert normalise(ones, torch.zeros(3, dtype=torch.bool)).tolist() == [0.0] * 3
    assert normalise(ones * 0.1, torch.ones(3, dtype=torch.bool)).abs().max() < 1e-9


def test_episode_weights_say_which_mean() -> None:
    # two episodes, 1 and 3 executed elements, losses 8 and 4 4 4
    valid = torch.tensor([[True, False, False], [True, True, True], [False, False, False]])
    loss = torch.tensor([[8.0, 100.0, 100.0], [4.0, 4.0, 4.0], [100.0, 100.0, 100.0]])
    by_episode, by_token = episode_weights(valid, "episode"), episode_weights(valid, "token")
    assert by_episode.sum(1).tolist() == [1.0, 1.0, 0.0]
    assert ((by_episode * loss).sum() / by_episode.sum()).item() == pytest.approx(6.0)  # (8 + 4) / 2
    assert ((by_token * loss).sum() / by_token.sum()).item() == pytest.approx(5.0)  # (8 + 12) / 4
    steps = valid[:, :, None].expand(3, 3, 2)
    torch.testing.assert_close(episode_weights(steps, "episode").sum((1, 2)), torch.tensor([1.0, 1.0, 0.0]))
    with pytest.raises(ValueError, match="'mean' is not one of"):
        episode_weights(valid, "mean")  # type: ignore[arg-type]
