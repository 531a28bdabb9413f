"""Post-training a world model by what an inverse model reads off its imagination."""

from __future__ import annotations

import copy
import dataclasses
import math

import pytest
import torch
from latent_toy import SPEC, batch, config
from torch import Tensor

from regrip.sim.world.dynamics import Batch
from regrip.sim.world.model import WorldModel
from regrip.sim.world.rlir import (
    RlirConfig,
    group_advantage,
    judge,
    log_density,
    mean_agreement,
    post_train,
)  # fmt: skip

SHAPE = (1, 4, 4)


def test_advantages_within_a_group_by_hand() -> None:
    reward = torch.tensor([[0.9, 0.3], [0.2, 0.3], [0.4, 0.3], [0.5, 0.3]])
    found = group_advantage(reward)
    spread = math.sqrt((0.16 + 0.09 + 0.01) / 4)
    assert found[:, 0].tolist() == pytest.approx([0.4 / spread, -0.3 / spread, -0.1 / spread, 0.0], abs=1e-5)
    assert not found[:, 1].any(), "equal rewards say nothing"


def test_the_density_of_a_token_is_that_of_its_numbers() -> None:
    found = log_density(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 0.0]]), torch.tensor([[1.0, 2.0]]))
    by_hand = -math.log(2 * math.pi) - math.log(2.0) - 0.5
    assert found.tolist() == pytest.approx([by_hand])


def similarity(found: Tensor, wanted: Tensor, temperature: float) -> Tensor:
    return (-(found - wanted).square().mean(-1) / temperature).exp()


def test_the_reward_by_the_reference() -> None:
    found, wanted = torch.tensor([1.0, 0.0]), torch.tensor([0.5, 0.0])
    assert similarity(found, wanted, 0.1).item() == pytest.approx(0.286505, abs=1e-6)
    assert similarity(found, wanted, 1.0).item() == pytest.approx(0.882497, abs=1e-6)


def commanded(action: Tensor) -> Tensor:
    """(...,H,A) to (...,A): what the whole chunk comes to."""
    return action.mean(-2)


def moved(change: Tensor) -> Tensor:
    """(...,1,4,4) to (...,2): how far the first half of every token's numbers went, and the second."""
    return change.unflatten(-1, (2, 2)).mean((-4, -3, -1))


def read_back(before: Tensor, after: Tensor, state: Tensor, action: Tensor) -> Tensor:
    """The toy's exact inverse model, with a guard: what stands still obeys nothing."""
    change = moved(after - before)
    agree = similarity(change, commanded(action), 0.5)
    return agree * change.norm(dim=-1).div(0.05).clamp(0, 1)


def recorded(step: int, rows: int = 32) -> Batch:
    """A chunk's first dimension moves half of every token's numbers, its second the others, but that rarely.

    Three times in ten: the best guess follows it by less than a third, though nothing else moves them.
    """
    data = batch(rows, 2, seed=step, shape=SHAPE)
    action = data.action
    chance = torch.rand(rows, 2, generator=torch.Generator().manual_seed(step + 10_000)) < 0.3
    tokens = [data.tokens[:, 0] * 0.3]
    for decision in range(2):
        moves = commanded(action[:, decision])
        moves[:, 1] *= chance[:, decision]
        tokens.append(tokens[-1] + moves.repeat_interleave(2, 1)[:, None, None])
    return dataclasses.replace(data, tokens=torch.stack(tokens, 1), action=action, state=data.state * 0)


def learnt(steps: int, kind: str = "video") -> WorldModel:
    torch.manual_seed(0)
    model = WorldModel(config(kind=kind, width=32, ensemble=2, latent=1), SPEC, ["a"])
    optimizer = torch.optim.Adam(model.dynamics.parameters(), 3e-3)
    for step in range(steps):
        loss = model.dynamics.losses(recorded(step), False)["total"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model


def response(model: WorldModel, dimension: int) -> float:
    """How far the numbers that a dimension moves follow it, as a slope; 1 where they obey."""
    data = recorded(77_777, 128)
    with torch.no_grad():
        tokens = model.dynamics.predictions(data)[0].mean(0)
    change = moved(tokens - data.tokens[:, :-1])[..., dimension].flatten()
    wanted = commanded(data.action[..., :2])[..., dimension].flatten()
    return float((change * wanted).sum() / wanted.square().sum())


def test_a_part_of_the_action_that_prediction_neglects_comes_to_be_followed() -> None:
    """It matters three times in ten, so the best guess follows it by 0.3; the reward asks for 1.

    Five seeds: 0.27 to 0.35 by prediction, 0.95 to 1.02 once rewarded, 0.22 to 0.27 by the anchor alone.
    """
    model = learnt(100)
    test = recorded(88_888, 128)
    before = mean_agreement(model, test, read_back)
    assert response(model, 0) > 0.8
    assert 0.2 < response(model, 1) < 0.4, "prediction alone follows it as far as it was seen to matter"
    settings = RlirConfig(steps=60, batch=8, epochs=1, learning_rate=4e-3, anchor=0.1, seed=1)
    rewarded, anchored = model, copy.deepcopy(model)
    seen: list[float] = []
    post_train(
        rewarded, lambda step: recorded(5000 + step, 8), read_back, settings,
        lambda step, steps, found: seen.append(found["reward"]),
    )  # fmt: skip
    # The same training with a reward that is always the same: what is left is the anchor.
    post_train(
        anchored, lambda step: recorded(5000 + step, 8), lambda b, a, s, u: torch.ones(len(b)), settings
    )
    assert sum(seen[-10:]) > sum(seen[:10])
    after, control = (mean_agreement(one, test, read_back) for one in (rewarded, anchored))
    assert after > before + 0.1
    assert control < before + 0.05
    assert response(rewarded, 1) > 0.8 > 0.4 > response(anchored, 1)


def test_a_still_video_is_not_rewarded_for_an_action_near_the_mean() -> None:
    data = recorded(3)
    still = judge(data, data.tokens[:, :-1], read_back)
    true = torch.zeros_like(still) + judge(data, data.tokens[:, 1:], read_back)
    assert not still.any()
    assert true.mean() > 0.5


def test_what_nothing_was_seen_to_follow_is_not_judged() -> None:
    data = recorded(3, 4)
    data.follows[:] = torch.tensor([[True, False], [True, False], [True, True], [True, True]])
    asked: list[int] = []

    def count(before: Tensor, after: Tensor, state: Tensor, action: Tensor) -> Tensor:
        asked.append(len(before))
        return torch.ones(len(before))

    assert judge(data, data.tokens[:, 1:], count).sum() == 6
    assert asked == [6]


@pytest.mark.parametrize("kind", ["video", "rssm"])
def test_the_first_step_on_fresh_samples_has_ratios_of_one(kind: str) -> None:
    model = learnt(2, kind)
    clipped: list[float] = []
    post_train(
        model, recorded, read_back, RlirConfig(steps=2, batch=32, epochs=1, clip=1e-6),
        lambda step, steps, found: clipped.append(found["clipped"]),
    )  # fmt: skip
    assert clipped == [0.0, 0.0]


def test_settings_that_cannot_work_are_named() -> None:
    with pytest.raises(ValueError, match="group 1 at least 2"):
        RlirConfig(group=1)
    with pytest.raises(ValueError, match="least_spread 0"):
        RlirConfig(least_spread=0.0)
