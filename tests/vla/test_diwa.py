"""DiWA: the inner process by hand, chains that are recomputed, and learning that is held to the base."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from regrip.datasets.episode import Observation, Rollouts
from regrip.datasets.starts import StartState
from regrip.vla import diwa, flow
from regrip.vla.diwa import ChainActor, DiwaConfig
from regrip.vla.frozen import frozen_copy
from regrip.vla.numerics import tiny_policy
from regrip.vla.objective import RatioNotOneError, clipped_objective
from regrip.vla.pi0 import Pi0Policy, Settings

torch.set_num_threads(1)

FOUR = Settings(stem="patch", denoise_steps=4)
TIED = dataclasses.replace(FOUR, noise_correlation=0.5, initial_noise=0.0)
SETTINGS = [
    (FOUR, 0),
    (FOUR, 2),
    (TIED, 3),
    (Settings(stem="patch", denoise_steps=1), 1),
]
each_chain = pytest.mark.parametrize(("settings", "inner"), SETTINGS, ids=["all", "last two", "tied", "one"])
QUICK = DiwaConfig(learning_rate=1e-3, minibatch=64, warmup_iterations=1, alpha=0.0)


def learner(settings: Settings = FOUR, train_vlm: bool = False) -> Pi0Policy:
    policy = tiny_policy(settings=settings)
    policy.pi0.model.vlm.requires_grad_(train_vlm)
    return policy


def observe(count: int, seed: int = 0) -> Observation:
    draw = np.random.default_rng(seed)
    return Observation(
        images={n: draw.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8) for n in ("front", "wrist")},
        state=draw.uniform(-1, 1, (count, 4)).astype(np.float32),
        instruction=["lift the red block"] * count,
    )


def play(actor: ChainActor, episodes: int, seed: int, decisions: int = 2) -> tuple[Rollouts, np.ndarray]:
    """Episodes won if the last decision's first action dimension is on average above the spec's middle."""
    looked = observe(episodes * decisions, seed)
    sample = actor.act(looked, [("diwa", seed, row) for row in range(len(looked))])

    def shaped(values: np.ndarray) -> np.ndarray:
        return values.reshape(episodes, decisions, *values.shape[1:])

    action = shaped(sample.action)
    axis = actor.policy.spec.action[0]
    won = action[:, -1, :, 0].mean(1) > (axis.low + axis.high) / 2
    valid = np.ones(action.shape[:3], bool)
    valid[::3, -1, 3:] = False  # some end early
    reward = np.zeros(valid.shape, np.float32)
    reward[:, -1, 0] = won
    rollouts = Rollouts(
        start=[StartState("toy/a", "train", row) for row in range(episodes)],
        group=np.arange(episodes),
        instruction=["lift the red block"] * episodes,
        images={name: shaped(frames) for name, frames in looked.images.items()},
        state=shaped(looked.state),
        privileged=np.zeros((episodes, decisions, 1), np.float32),
        action=action,
        valid=valid,
        reward=reward,
        success=won,
        truncated=~won,
        invalid=np.zeros(episodes, bool),
        latent={name: shaped(np.asarray(value)) for name, value in sample.latent.items()},
        log_prob=shaped(sample.log_prob),
        policy_version=0,
    )
    return rollouts, reward


# ---- the inner process, by hand ----------------------------------------------------------------------------


def test_the_index_of_an_inner_step() -> None:
    decision, k = torch.tensor([0, 0, 1, 3]), (20, 1, 20, 5)
    found = [int(diwa.inner_index(decision[i], k[i], 20)) for i in range(4)]
    assert found == [0, 19, 20, 75]
    reward = torch.zeros(4 * 20)
    reward[diwa.inner_index(torch.arange(4), 1, 20)] = torch.ones(4)
    assert (reward.nonzero().squeeze(-1) % 20 == 19).all()
    assert reward.sum() == 4


def test_the_advantage_fades_with_the_distance_from_the_reward() -> None:
    found = diwa.inner_advantage(torch.tensor([1.0, -2.0]), 3, 0.99)
    assert found.tolist() == pytest.approx([0.9801, 0.99, 1.0, -1.9602, -1.98, -2.0])


def test_the_clip_is_narrower_far_from_the_reward() -> None:
    share = diwa.clip_share(5, 0.1)
    assert float(share[0]) == pytest.approx(0.1)
    assert float(share[-1]) == pytest.approx(1.0)
    assert float(share[2]) == pytest.approx(0.1 + 0.9 * math.expm1(1.5) / math.expm1(3.0))
    assert (share.diff() > 0).all()
    assert diwa.clip_share(1, 0.1).tolist() == [1.0]
    # One clip for each element: a ratio of 1.5 is worth 1.01 where the clip is 0.01, and 1.3 where it is 0.3.
    log_prob = torch.full((2,), math.log(1.5), requires_grad=True)
    wide, high = torch.tensor([0.01, 0.3]), torch.tensor([0.01, 0.3])
    loss, stats = clipped_objective(log_prob, torch.zeros(2), torch.ones(2), torch.ones(2), wide, high)
    assert loss.item() == pytest.approx(-(1.01 + 1.3) / 2)
    assert stats.clip_high == 1.0
    with pytest.raises(ValueError, match="expected 0 <= low < 1"):
        clipped_objective(log_prob, torch.zeros(2), torch.ones(2), torch.ones(2), wide + 0.8, high)


def test_a_chain_of_the_exact_flow_ends_where_its_data_lie() -> None:
    """Data N(0.5, 0.2^2) have a known velocity; with many steps, every one of them noisy, they come out."""
    data_mean, data_std, steps, count = 0.5, 0.2, 80, 4000
    generator = torch.Generator().manual_seed(0)

    def velocity(x: Tensor, time: Tensor) -> Tensor:
        t = time[:, None, None]
        variance = (1 - t) ** 2 * data_std**2 + t**2
        gain = (t - (1 - t) * data_std**2) / variance  # of E[noise - action | x]
        return gain * (x - (1 - t) * data_mean) - data_mean

    start = torch.randn(count, 1, 2, generator=generator)
    noise = torch.randn(count, steps, 1, 2, generator=generator)
    chain, log_prob = flow.sample_chain(velocity, start, steps, 0.5, noise)
    assert chain.shape == (count, steps + 1, 1, 2)
    assert log_prob.isfinite().all()
    assert float(chain[:, -1].mean()) == pytest.approx(data_mean, abs=0.02)
    assert float(chain[:, -1].std()) == pytest.approx(data_std, abs=0.02)


# ---- acting and recomputing --------------------------------------------------------------------------------


@each_chain
@pytest.mark.parametrize("train_vlm", [False, True])
def test_training_recomputes_what_acting_said(settings: Settings, inner: int, train_vlm: bool) -> None:
    policy = learner(settings, train_vlm)
    actor, looked = ChainActor(policy, inner), observe(12)
    sample = actor.act(looked, [("chain", row) for row in range(12)])
    chain = torch.from_numpy(np.asarray(sample.latent["chain"], np.float32))
    steps = inner or settings.denoise_steps
    assert chain.shape == (12, steps + 1, policy.chunk_size, int(policy.config.max_action_dim))
    np.testing.assert_array_equal(sample.action, policy.physical(chain[:, -1]))
    state, prefix = policy.observe(looked)
    found = diwa.log_prob(policy, state, prefix, chain)
    assert found.requires_grad
    recorded = np.asarray(sample.latent["chain_log_prob"], np.float32)
    np.testing.assert_allclose(found.detach().numpy(), recorded, atol=5e-5)
    np.testing.assert_allclose(sample.log_prob, recorded.sum(1), atol=1e-6)
    with torch.no_grad():
        policy.pi0.action_out_proj.weight.add_(0.01)
    assert (diwa.log_prob(policy, state, prefix, chain) - found).abs().max() > 1e-3


def test_a_chain_of_one_is_the_policys_own_last_step() -> None:
    policy = learner(dataclasses.replace(FOUR, stochastic_step="last"))
    looked, keys = observe(5), [("same", row) for row in range(5)]
    chained, plain = ChainActor(policy, 1).act(looked, keys), policy.act(looked, keys)
    np.testing.assert_array_equal(chained.action, plain.action)
    np.testing.assert_array_equal(chained.log_prob, plain.log_prob)
    np.testing.assert_array_equal(np.asarray(chained.latent["chain"])[:, 0], plain.latent["before"])
    greedy = ChainActor(policy, 1).act(looked, None)
    assert greedy.action.tobytes() == policy.act(looked, None).action.tobytes()


# ---- learning ----------------------------------------------------------------------------------------------


@each_chain
def test_the_first_ratio_is_one_and_the_critic_warms_up_alone(settings: Settings, inner: int) -> None:
    policy = learner(settings)
    base = frozen_copy(policy)
    before = {name: value.clone() for name, value in policy.weights().items()}
    rollouts, reward = play(ChainActor(policy, inner), 24, 0)
    optimizer = diwa.optimizer(policy, QUICK)
    metrics = diwa.update(policy, base, optimizer, rollouts, reward, QUICK, ("t",), 0)
    assert metrics["ratio_gap"] < 5e-5
    moved = {name for name, value in policy.weights().items() if not torch.equal(value, before[name])}
    assert moved
    assert all(name.startswith("critic.") for name in moved)
    bent = np.asarray(rollouts.latent["chain"], np.float32) * 1.1
    wrong = dataclasses.replace(rollouts, latent={**rollouts.latent, "chain": bent})
    with pytest.raises(RatioNotOneError):
        diwa.update(policy, base, optimizer, wrong, reward, QUICK, ("t",), 1)


def learn(config: DiwaConfig, iterations: int) -> tuple[list[float], dict[str, float]]:
    policy = learner(TIED)
    base, actor, optimizer = frozen_copy(policy), ChainActor(policy, 2), diwa.optimizer(policy, config)
    rates, metrics = [], dict[str, float]()
    for iteration in range(iterations):
        rollouts, reward = play(actor, 128, iteration, decisions=1)
        rates.append(float(rollouts.success.mean()))
        metrics = diwa.update(
            policy, base, optimizer, rollouts, reward, config, ("learn", iteration), iteration
        )
    return rates, metrics


def test_it_finds_what_is_rewarded() -> None:
    rates, metrics = learn(QUICK, 6)
    assert rates[0] < 0.75
    assert rates[-1] > 0.9
    assert metrics["anchor/kl"] == 0.0  # not asked for, not computed


@pytest.mark.parametrize("anchor", ["reverse", "forward"])
def test_the_anchor_holds_it(anchor: str) -> None:
    loose, tight = (
        learn(dataclasses.replace(QUICK, alpha=alpha, anchor=anchor), 3)[1]["anchor/kl"]
        for alpha in (1e-6, 2.0)
    )
    assert tight < 0.4 * loose


def test_both_anchors_agree_near_the_base() -> None:
    """Reverse is exact at its own latents; forward samples others. Close to the base they are the same."""
    found = {}
    for anchor in ("reverse", "forward"):
        policy = learner()
        base = frozen_copy(policy)
        with torch.no_grad():
            policy.pi0.action_out_proj.bias.add_(0.05)
        rollouts, reward = play(ChainActor(policy, 2), 96, 0)
        config = dataclasses.replace(QUICK, alpha=0.05, anchor=anchor, epochs=1, minibatch=999)
        optimizer = diwa.optimizer(policy, config)
        found[anchor] = diwa.update(policy, base, optimizer, rollouts, reward, config, ("t",), 1)["anchor/kl"]
    assert found["reverse"] > 0.01
    assert found["forward"] == pytest.approx(found["reverse"], rel=0.25)


def test_the_same_data_give_the_same_bits() -> None:
    def once() -> dict[str, Tensor]:
        policy = learner()
        base, config = frozen_copy(policy), dataclasses.replace(QUICK, alpha=0.05, anchor="forward")
        rollouts, reward = play(ChainActor(policy), 24, 0)
        diwa.update(policy, base, diwa.optimizer(policy, config), rollouts, reward, config, ("t",), 1)
        return policy.weights()

    first, second = once(), once()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_vlm_that_learns_is_compared_with_what_it_was() -> None:
    policy = learner(train_vlm=True)
    base, config = frozen_copy(policy), dataclasses.replace(QUICK, alpha=0.05)
    rollouts, reward = play(ChainActor(policy, 2), 24, 0)
    optimizer = diwa.optimizer(policy, config)
    before = {name: value.clone() for name, value in base.weights().items()}
    diwa.update(policy, base, optimizer, rollouts, reward, config, ("t", 0), 1)
    assert all(torch.equal(value, base.weights()[name]) for name, value in before.items())
    vlm = "pi0.model.vlm."
    assert any(
        name.startswith(vlm) and not torch.equal(value, before[name])
        for name, value in policy.weights().items()
    )


# ---- refusals ----------------------------------------------------------------------------------------------


def test_what_has_no_chain_is_refused() -> None:
    with pytest.raises(ValueError, match=r"head 'tokens'.*use ppo or grpo"):
        ChainActor(tiny_policy("tokens"))
    with pytest.raises(ValueError, match=r"inner_steps 5: the policy denoises in 4 steps"):
        ChainActor(learner(), 5)
    policy = learner()
    rollouts, reward = play(ChainActor(policy), 4, 0)
    latent = {name: value for name, value in rollouts.latent.items() if not name.startswith("chain")}
    with pytest.raises(ValueError, match="no chain: let a ChainActor"):
        diwa.update(
            policy, frozen_copy(policy), diwa.optimizer(policy, QUICK),
            dataclasses.replace(rollouts, latent=latent), reward, QUICK, ("t",), 0,
        )  # fmt: skip
    with pytest.raises(ValueError, match="first_clip 0"):
        DiwaConfig(first_clip=0.0)
