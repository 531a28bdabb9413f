"""Relaxed goals in practice: what the learner is told, what is counted, and that no measurement has them."""

import numpy as np
import pytest
import torch

from regrip.datasets.episode import Rollouts
from regrip.datasets.starts import StartState
from regrip.launch import environments
from regrip.launch.config import from_dict
from regrip.launch.experiment import TrainConfig
from regrip.launch.practice import eased, gather, help_left, with_eased
from regrip.launch.train import begin

torch.set_num_threads(1)


def rollouts() -> Rollouts:
    """Three episodes of two decisions of two steps: won at the last, eased at the second, nothing."""
    reward = np.zeros((3, 2, 2), np.float32)
    reward[0, 0, 1] = reward[0, 1, 1] = reward[1, 0, 1] = 1.0
    won = np.array([True, False, False])
    blank = np.zeros((3, 2, 1), np.float32)
    return Rollouts(
        start=[StartState("demo/lift_red", "train", index) for index in range(3)],
        group=np.arange(3), instruction=["lift"] * 3, images={}, state=blank, privileged=blank,
        action=np.zeros((3, 2, 2, 1), np.float32), valid=np.ones((3, 2, 2), np.bool_), reward=reward,
        success=won, truncated=~won, invalid=np.zeros(3, np.bool_), latent={},
        log_prob=np.zeros((3, 2, 2), np.float32), policy_version=0,
    )  # fmt: skip


def test_what_the_learner_is_told() -> None:
    played = rollouts()
    assert eased(played).tolist() == [False, True, False]
    told = with_eased(played)
    assert told.success.tolist() == [True, True, False]
    assert told.truncated.tolist() == [False, False, True]
    assert told.num_steps.tolist() == [4, 2, 4]  # an eased episode is over when it was eased
    assert told.reward.reshape(3, 4).tolist() == [[0, 0, 0, 1], [0, 1, 0, 0], [0, 0, 0, 0]]
    assert played.success.tolist() == [True, False, False]  # what was played stays what it was
    again = with_eased(told)
    assert again.num_steps.tolist() == [4, 2, 4]


def test_help_fades_as_told() -> None:
    config = TrainConfig(relax=1.0, assist_until=0.5, iterations=8)
    assert [help_left(config, iteration) for iteration in range(6)] == [1.0, 0.75, 0.5, 0.25, 0.0, 0.0]
    with pytest.raises(ValueError, match=r"relax 1.5 must be in \[0, 1\]"):
        TrainConfig(relax=1.5)


def test_who_counts_sees_nothing_of_it() -> None:
    env = {"tasks": ["push_red", "push_green"], "workers": 1, "slots": 12}
    config = from_dict(
        TrainConfig,
        {
            "env": env,
            "algorithm": "mpo",
            "train_vlm": False,
            "reward": "binary",
            "groups": 12,
            "relax": 1.0,
            "threads": 1,
        },
    )
    found = {}
    with environments.open_pool(config.env, begin(config).policy.execute) as pool:
        for pool.relax in (0.0, 1.0):
            run = begin(config)
            rollouts, reward, row = gather(config, run, pool)
            assert rollouts.success.sum() == row["train/successes"] + row["train/eased"]
            assert (reward.value.sum((1, 2)) > 0).sum() == rollouts.success.sum()
            assert row["relax"] == pool.relax
            found[pool.relax] = row, run.sampler.state_dict()
    assert found[0.0][0]["train/eased"] == 0
    assert found[1.0][0]["train/eased"] > 0
    assert found[1.0][0]["train/successes"] == found[0.0][0]["train/successes"]
    assert found[1.0][1] == found[0.0][1]  # tasks and starts are as hard as they are
