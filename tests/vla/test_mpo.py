"""MPO: its returns by hand, that it finds what is rewarded, what it remembers and refuses."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from regrip.datasets.episode import Observation, Rollouts
from regrip.datasets.starts import StartState
from regrip.vla import mpo
from regrip.vla.numerics import tiny_policy
from regrip.vla.pi0 import Pi0Policy, Settings

torch.set_num_threads(1)

EXPLORING = Settings(stem="patch", noise_level=0.5, noise_correlation=0.5, initial_noise=0.0)
QUICK = mpo.MpoConfig(
    first_critic_steps=120, critic_steps=60, critic_minibatch=128, steps=25, minibatch=64, learning_rate=1e-3,
    replay=3,
)  # fmt: skip


def explorer(settings: Settings = EXPLORING) -> Pi0Policy:
    policy = tiny_policy(settings=settings)
    policy.pi0.model.vlm.requires_grad_(False)
    return policy


def one_look(policy: Pi0Policy, episodes: int, seed: int) -> Observation:
    draw = np.random.default_rng(seed)
    size = policy.spec.cameras[0].height
    return Observation(
        images={
            name: draw.integers(0, 256, (episodes, size, size, 3), dtype=np.uint8) for name in policy.cameras
        },
        state=draw.uniform(-1, 1, (episodes, policy.spec.state_dim)).astype(np.float32),
        instruction=["lift the red block"] * episodes,
    )


def play(policy: Pi0Policy, episodes: int, seed: int) -> tuple[Rollouts, np.ndarray]:
    """Episodes of one decision, won if the first action dimension is on average above the spec's middle."""
    looked = one_look(policy, episodes, seed)
    sample = policy.act(looked, [("mpo", seed, row) for row in range(episodes)])
    axis = policy.spec.action[0]
    won = sample.action[:, :, 0].mean(1) > (axis.low + axis.high) / 2
    valid = np.ones((episodes, 1, policy.chunk_size), bool)
    reward = np.zeros(valid.shape, np.float32)
    reward[:, 0, -1] = won
    return (
        Rollouts(
            start=[StartState("toy/a", "train", row) for row in range(episodes)],
            group=np.arange(episodes),
            instruction=list(looked.instruction),
            images={name: frames[:, None] for name, frames in looked.images.items()},
            state=looked.state[:, None],
            privileged=np.zeros((episodes, 1, 1), np.float32),
            action=sample.action[:, None],
            valid=valid,
            reward=reward,
            success=won,
            truncated=~won,
            invalid=np.zeros(len(won), bool),
            latent={name: np.asarray(value)[:, None] for name, value in sample.latent.items()},
            log_prob=sample.log_prob[:, None],
            policy_version=0,
        ),
        reward,
    )


def test_returns_are_discounted_from_the_end_of_each_chunk() -> None:
    # Chunks of 2 at gamma 0.5. Episode 0: 0.1 in the first chunk, 1 in the third, of which one step ran:
    # third 1; second 0 + 0.5 * 1 (one step later); first 0.1 + 0.25 * 0.5 (two steps later).
    # Episode 1 was over after its first chunk: what stands behind the end is not counted.
    reward = np.array([[[0.1, 0.0], [0.0, 0.0], [1.0, 9.0]], [[0.0, 1.0], [9.0, 9.0], [9.0, 9.0]]])
    valid = np.array([[[1, 1], [1, 1], [1, 0]], [[1, 1], [0, 0], [0, 0]]], bool)
    found = mpo.discounted(reward, valid, 0.5)
    assert found[0] == pytest.approx([0.1 + 0.125, 0.5, 1.0])
    assert found[1, 0] == 1.0


def test_it_finds_what_is_rewarded_and_says_how_well_it_foretold_it() -> None:
    policy = explorer()
    learner = mpo.Learner.of(policy, seed=0)
    optimizer = mpo.optimizer(policy, learner, QUICK)
    frozen = {name: value.clone() for name, value in policy.pi0.model.vlm.state_dict().items()}
    rates, foretold = [], []
    for iteration in range(5):
        rollouts, reward = play(policy, 128, iteration)
        rates.append(float(rollouts.success.mean()))
        metrics = mpo.update(policy, learner, optimizer, rollouts, reward, QUICK, ("test", iteration))
        foretold.append(metrics["critic/foretold"])
        assert metrics["kl"] < 5.0
    assert rates[0] < 0.75
    assert rates[-1] > 0.95
    assert foretold[1] > 0.05  # of episodes it had not seen; later all are won
    assert len(learner.replay) == QUICK.replay
    after = policy.pi0.model.vlm.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in frozen.items())


def test_the_same_data_give_the_same_bits() -> None:
    def learn() -> dict[str, torch.Tensor]:
        policy = explorer()
        learner = mpo.Learner.of(policy, seed=0)
        optimizer = mpo.optimizer(policy, learner, QUICK)
        rollouts, reward = play(policy, 32, 0)
        mpo.update(policy, learner, optimizer, rollouts, reward, QUICK, ("test", 0))
        return policy.weights()

    first, second = learn(), learn()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_what_it_cannot_improve_is_refused() -> None:
    with pytest.raises(ValueError, match=r"head 'tokens'.*use ppo or grpo"):
        mpo.Learner.of(explorer(Settings(head="tokens", stem="patch", bins=16)), seed=0)
    learning = tiny_policy(settings=EXPLORING)
    with pytest.raises(ValueError, match="train_vlm = false"):
        mpo.Learner.of(learning, seed=0)
    policy = explorer()
    rollouts, reward = play(policy, 4, 0)
    latent = {name: value for name, value in rollouts.latent.items() if name != "keys"}
    with pytest.raises(ValueError, match="use ppo or grpo"):
        mpo.remember(policy, dataclasses.replace(rollouts, latent=latent), reward, 0.97)


def test_what_is_planned_and_not_executed_is_not_judged() -> None:
    policy = explorer(dataclasses.replace(EXPLORING, execute=2))
    assert policy.chunk_size > policy.execute == 2
    learner = mpo.Learner.of(policy, seed=0)
    expected = policy.feature_width + int(policy.config.max_state_dim) + 2 * policy.spec.action_dim
    assert learner.critic.first[0].in_features == expected
    rollouts, reward = play(policy, 40, seed=1)
    told = mpo.doubt(policy, learner, rollouts)
    rollouts.latent["after"][:, :, 2:] += 5.0
    np.testing.assert_array_equal(mpo.doubt(policy, learner, rollouts), told)
    assert (told > 0).all()
    assert np.isfinite(
        mpo.update(policy, learner, mpo.optimizer(policy, learner, QUICK), rollouts, reward, QUICK, ("k",))[
            "loss"
        ]
    )


def test_the_anchor_holds_it_to_the_policy_it_began_with() -> None:
    def strayed(anchor: float) -> float:
        config = dataclasses.replace(QUICK, anchor=anchor, first_critic_steps=40, critic_steps=10, steps=15)
        policy = explorer()
        learner = mpo.Learner.of(policy, 0, anchor)
        base = learner.base
        assert base is not None
        before = {name: value.clone() for name, value in base.weights().items()}
        optimizer, metrics = mpo.optimizer(policy, learner, config), dict[str, float]()
        for iteration in range(2):
            policy.set_noise_level(0.5 - 0.1 * iteration)
            rollouts, reward = play(policy, 64, iteration)
            metrics = mpo.update(policy, learner, optimizer, rollouts, reward, config, ("test", iteration))
        assert all(torch.equal(value, base.weights()[name]) for name, value in before.items())
        assert base.settings == policy.settings  # it is compared at the noise the policy has now
        return metrics["anchor/kl"]

    loose, held = strayed(1e-6), strayed(3.0)
    assert loose > 0.1
    assert held < 0.3 * loose


def test_an_anchor_without_a_base_is_refused() -> None:
    policy = explorer()
    learner = mpo.Learner.of(policy, seed=0)
    config = dataclasses.replace(QUICK, anchor=0.1)
    rollouts, reward = play(policy, 4, 0)
    with pytest.raises(ValueError, match=r"anchor 0.1.*Learner.of"):
        mpo.update(policy, learner, mpo.optimizer(policy, learner, config), rollouts, reward, config, ("t",))
    with pytest.raises(ValueError, match="anchor -1"):
        dataclasses.replace(QUICK, anchor=-1.0)
