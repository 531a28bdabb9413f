"""Flow-DPO: its cost, its choice and its loss by hand, and that it moves a policy to what is preferred."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from torch.nn import functional

from regrip.datasets.episode import Observation
from regrip.vla import preference
from regrip.vla.numerics import play, tiny_policy
from regrip.vla.pi0 import Pi0Policy, Settings
from regrip.vla.policy import DecisionBatch
from regrip.vla.preference import Pairs, PreferenceConfig

torch.set_num_threads(1)

QUICK = PreferenceConfig(learning_rate=3e-4, beta=20.0, epochs=6, minibatch=32)


def learner(train_vlm: bool = False) -> Pi0Policy:
    policy = tiny_policy(settings=Settings(stem="patch"))
    policy.pi0.model.vlm.requires_grad_(train_vlm)
    return policy


def frames(policy: Pi0Policy, count: int = 64) -> DecisionBatch:
    return play(policy, count)


def toy_pairs(policy: Pi0Policy, count: int = 64) -> Pairs:
    """Of eight random chunks, that which goes furthest along the first axis costs least."""
    draw = np.random.default_rng(0)
    seen = frames(policy, count)
    low, high = policy.spec.action_low, policy.spec.action_high
    chunks = draw.uniform(low, high, (count, 8, policy.chunk_size, 3)).astype(np.float32)
    energy = -chunks[..., 0].mean(-1) / high[0]
    return preference.pair(policy, seen, chunks, energy, demonstrated=False)


def greedy(policy: Pi0Policy, pairs: Pairs) -> np.ndarray:
    images = {name: pairs.better.pixels[:, i].numpy() for i, name in enumerate(policy.cameras)}
    looked = Observation(images, pairs.better.state.numpy(), list(pairs.better.instruction))
    return policy.act(looked, None).action


# ---- by hand -----------------------------------------------------------------------------------------------


def test_the_deviation_turns_the_choice() -> None:
    energy, deviation = np.array([[0.40, 0.35, 0.50]]), np.array([[0.1, 0.9, 0.2]])
    total = preference.cost(energy, deviation)
    assert total[0] == pytest.approx([0.41, 0.44, 0.52])
    assert [int(i[0]) for i in preference.choose(total)] == [0, 2]
    assert [int(i[0]) for i in preference.choose(preference.cost(energy))] == [1, 2]


def test_the_loss_of_one_pair() -> None:
    better, worse, before = torch.tensor([0.010]), torch.tensor([0.012]), torch.tensor([0.011])
    logit = preference.preferred(better, worse, before, before, 500.0)
    assert float(logit) == pytest.approx(0.5, abs=1e-5)
    assert float(-functional.logsigmoid(logit)) == pytest.approx(0.474077, abs=1e-5)


def test_deviation_is_measured_over_executed_steps_in_the_normalisers_units() -> None:
    policy = learner()
    seen = frames(policy, 2)
    valid = torch.zeros(2, policy.chunk_size, dtype=torch.bool)
    valid[:, :2] = True
    seen = dataclasses.replace(seen, action=torch.zeros_like(seen.action), valid=valid)
    std = np.array(policy.normalizer.action_std, np.float32)
    chunks = np.zeros((2, 3, policy.chunk_size, 3), np.float32)
    chunks[:, 0, :2] = 2.0 * std  # a deviation of 2, so a cost of 0.2
    chunks[:, 1, 0] = -1.0 * std  # half of the steps: 0.5, and 0.05
    chunks[:, 2, 2:] = 9.0 * std  # nothing of it is executed
    energy = np.array([[0.0, 0.0, 0.3], [0.5, 0.0, 0.1]])
    pairs = preference.pair(policy, seen, chunks, energy, demonstrated=True)
    assert pairs.margin.tolist() == pytest.approx([0.3 - 0.05, 0.7 - 0.05])
    assert torch.equal(pairs.better.action, torch.from_numpy(chunks[[0, 1], [1, 1]]))
    assert torch.equal(pairs.worse, torch.from_numpy(chunks[[0, 1], [2, 0]]))


def test_frames_without_a_preference_are_left_out() -> None:
    policy = learner()
    seen = frames(policy, 4)
    chunks = np.zeros((4, 2, policy.chunk_size, 3), np.float32)
    energy = np.array([[1.0, 1.0], [0.0, 1.0], [2.0, 2.0], [1.0, 0.0]])
    pairs = preference.pair(policy, seen, chunks, energy, demonstrated=False)
    assert len(pairs) == 2
    assert torch.equal(pairs.better.state, seen.state[[1, 3]])
    none = preference.pair(policy, seen, chunks, np.zeros((4, 2)), demonstrated=False)
    before = {name: value.clone() for name, value in policy.weights().items()}
    assert preference.update(policy, preference.optimizer(policy, QUICK), none, QUICK, ("t",)) == {"pairs": 0}
    assert all(torch.equal(value, policy.weights()[name]) for name, value in before.items())


# ---- learning ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("as_released", [False, True])
@pytest.mark.parametrize("train_vlm", [False, True])
def test_the_loss_begins_at_log_two(as_released: bool, train_vlm: bool) -> None:
    policy = learner(train_vlm)
    config = dataclasses.replace(QUICK, as_released=as_released, epochs=1, beta=500.0)
    pairs = toy_pairs(policy)
    metrics = preference.update(policy, preference.optimizer(policy, config), pairs, config, ("t",))
    assert metrics["loss_first"] == np.float32(math.log(2.0))
    assert metrics["optimizer_steps"] == 2


def test_the_policy_moves_to_what_is_preferred() -> None:
    policy = learner()
    pairs = toy_pairs(policy)
    frozen = {name: value.clone() for name, value in policy.pi0.model.vlm.state_dict().items()}
    before = greedy(policy, pairs)
    metrics = preference.update(policy, preference.optimizer(policy, QUICK), pairs, QUICK, ("t",))
    after = greedy(policy, pairs)
    moved = (after - before).mean((0, 1)) / np.array(policy.normalizer.action_std)
    assert moved[0] > 0.2  # standard deviations of the demonstrations
    assert abs(moved[1:]).max() < 0.5 * moved[0]
    assert metrics["accuracy"] > 0.7
    assert metrics["loss_last"] < metrics["loss_first"]
    assert metrics["chosen/error_change"] < metrics["rejected/error_change"]
    now = policy.pi0.model.vlm.state_dict()
    assert all(torch.equal(value, now[name]) for name, value in frozen.items())


def test_shared_draws_have_less_variance_than_the_released_ones() -> None:
    """The first gradient over many keys: what is noise in it is smaller where a pair shares its draw."""

    def gradients(as_released: bool) -> torch.Tensor:
        config = PreferenceConfig(
            learning_rate=1e-12, epochs=1, minibatch=16, draws=1, as_released=as_released, max_grad_norm=1e9
        )
        policy = learner()
        pairs = toy_pairs(policy, 16)
        found = []
        for key in range(24):
            optimizer = preference.optimizer(policy, config)
            preference.update(policy, optimizer, pairs, config, ("variance", key))
            weight = policy.pi0.action_out_proj.weight
            assert weight.grad is not None
            found.append(weight.grad.flatten().clone())
        return torch.stack(found)

    shared, released = gradients(False).var(0).sum(), gradients(True).var(0).sum()
    assert shared < 0.8 * released


def test_the_same_key_gives_the_same_bits() -> None:
    def learn(key: str) -> dict[str, torch.Tensor]:
        policy = learner()
        config = dataclasses.replace(QUICK, epochs=1)
        preference.update(policy, preference.optimizer(policy, config), toy_pairs(policy), config, (key,))
        return policy.weights()

    first, second, other = learn("a"), learn("a"), learn("b")
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


# ---- refusals ----------------------------------------------------------------------------------------------


def test_what_cannot_be_compared_is_refused_by_name() -> None:
    policy = learner()
    with pytest.raises(ValueError, match=r"chunk 1 of decision 0 is nan.*leave the decision out"):
        preference.cost(np.array([[0.1, np.nan]]))
    with pytest.raises(ValueError, match="K at least 2"):
        preference.cost(np.array([[0.1]]))
    chunks = np.zeros((4, 2, policy.chunk_size, 2), np.float32)
    with pytest.raises(ValueError, match=r"chunks are \(4, 2, 5, 2\).*expected \(4,K,5,3\)"):
        preference.pair(policy, frames(policy, 4), chunks, np.zeros((4, 2)), demonstrated=False)
    tokens = tiny_policy("tokens")
    with pytest.raises(ValueError, match=r"head 'tokens'.*flow head"):
        preference.update(tokens, torch.optim.SGD([tokens.queries], lr=0.0), toy_pairs(policy), QUICK, ("t",))
    with pytest.raises(ValueError, match="draws 0"):
        PreferenceConfig(draws=0)
