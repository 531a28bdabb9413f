"""Real-time chunking: what is frozen stays, what is free stays free, and the splice is smooth."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from regrip.datasets.episode import Observation
from regrip.datasets.starts import StartState
from regrip.launch.policies import open_policy
from regrip.sim.tabletop.env import TabletopEnv
from regrip.vla import rtc
from regrip.vla.pi0 import Pi0Policy


@pytest.fixture(scope="module")
def policy() -> Pi0Policy:
    return open_policy("demo")[0]


def look(env: TabletopEnv) -> Observation:
    images = {camera.name: env.render(camera.name)[None] for camera in env.spec.cameras}
    return Observation(images, env.state()[None], [env.instruction])


def test_soft_mask_is_the_papers() -> None:
    # d = 2 frozen, H - s = 5 overlap: c = 3/4, 2/4, 1/4 for rows 2, 3, 4
    expected = [1, 1, *(c * (math.exp(c) - 1) / (math.e - 1) for c in (0.75, 0.5, 0.25)), 0]
    np.testing.assert_allclose(rtc.soft_mask(6, 5, 2), expected, rtol=1e-6)
    assert rtc.soft_mask(4, 4, 4).tolist() == [1, 1, 1, 1]
    with pytest.raises(ValueError, match="3 frozen of 2"):
        rtc.soft_mask(6, 2, 3)


def test_guidance_brings_a_gaussian_flow_to_the_old_chunk() -> None:
    """Actions are N(0, 1) in every entry, where the velocity is known: it goes to the old where it must."""

    def velocity(x: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        t = time[:, None, None]
        return (2 * t - 1) / (t**2 + (1 - t) ** 2) * x

    old = torch.full((1, 6, 2), 1.5)
    weight = torch.from_numpy(rtc.soft_mask(6, 5, 2))[None, :, None].expand(1, 6, 2)
    x = rtc.guided(velocity, torch.zeros(1, 6, 2), 10, old, weight)[0, :, 0]
    np.testing.assert_allclose(x[:2], 1.5, atol=0.05)
    assert (x[1:-1] >= x[2:]).all()  # ever less towards the free rows
    assert x[-1] == 0.0


def test_without_a_prefix_it_is_the_greedy_policy_to_the_bit(policy: Pi0Policy) -> None:
    env = TabletopEnv("demo")
    env.reset(StartState("demo/lift_red", "train", 0, 0))
    seen = look(env)
    none = np.zeros((0, policy.spec.action_dim), np.float32)
    np.testing.assert_array_equal(rtc.act(policy, seen, none, 0), policy.act(seen, None).action[0])


def test_frozen_actions_are_those_of_the_prefix_and_the_splice_is_smoother(policy: Pi0Policy) -> None:
    """On real rollouts: the old chunk is two actions old when the new one comes, one of them frozen."""
    env, naive, chunked = TabletopEnv("demo"), [], []
    high = policy.spec.action_high
    for index in range(8):
        env.reset(StartState(f"demo/lift_{('red', 'green', 'blue')[index % 3]}", "train", index, 0))
        old = policy.act(look(env), None).action[0]
        for _ in range(5):
            for action in old[:2]:
                env.step(action)
            seen, prefix = look(env), old[2:]
            plain = policy.act(seen, None).action[0]
            new = rtc.act(policy, seen, prefix, 1)
            np.testing.assert_array_equal(new[0], prefix[0])
            assert np.isfinite(new).all()
            assert (np.abs(new) <= high + 1e-6).all()
            # Row 0 is executed from the old chunk; then it changes over to row 1 of the new.
            naive.append(np.abs((plain[1] - prefix[0]) / high).mean())
            chunked.append(np.abs((new[1] - prefix[0]) / high).mean())
            old = new
    print(f"change at the splice: naive {np.mean(naive):.4f}, chunked {np.mean(chunked):.4f} of the range")
    assert np.mean(chunked) < np.mean(naive)


def test_a_prefix_of_another_width_is_refused(policy: Pi0Policy) -> None:
    with pytest.raises(ValueError, match=r"expected \(K, 7\)"):
        rtc.act(policy, Observation({}, np.zeros((1, 15), np.float32), [""]), np.zeros((2, 3), np.float32), 1)
