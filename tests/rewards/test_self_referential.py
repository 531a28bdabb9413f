"""The self-referential reward: what it promises, and a test for each defect of SRPO's release."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from regrip.datasets.protocols import Progress
from regrip.datasets.starts import SplitError
from regrip.rewards.clustering import Clustering
from regrip.rewards.embedding import PixelDownsample, SimulatorState
from regrip.rewards.scorers import potential_difference
from regrip.rewards.self_referential import SelfReferential, SelfReferentialConfig
from regrip.vla.advantages import grpo


def returns(signal) -> np.ndarray:  # type: ignore[no-untyped-def]
    return signal.value.sum((1, 2))


def seen(play, walk, config: SelfReferentialConfig | None = None, count: int = 16, **kind) -> SelfReferential:  # type: ignore[no-untyped-def]
    """A reward whose bank holds successes of iteration 0, from many starts."""
    reward = SelfReferential(SimulatorState(), config)
    reward(play([walk(1.0, index=100 + i, **kind) for i in range(count)]))
    return reward


def test_farther_is_better_and_success_is_best(play, walk) -> None:  # type: ignore[no-untyped-def]
    reward = seen(play, walk)
    reaches = [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    signal = reward(play([walk(reach, row=i) for i, reach in enumerate(reaches)], iteration=1))
    value = returns(signal)
    assert (np.diff(value) > 0.01).all()
    assert value[-1] == 1.0
    assert (value[:-1] > 0).all()
    assert (value[:-1] < 0.8).all()
    assert value[0] < 0.25  # never moved: 0.061 if it began as far away as the successes did
    assert signal.valid.all()
    assert not signal.relative
    for name, component in signal.components.items():
        assert component.shape == (6,), name
        assert component.dtype == np.float32, name
        assert np.isfinite(component).all(), name
    assert signal.components["auc_success_failure"][0] >= 0.8  # 4 of 5: noise may put 0.8 before it
    assert signal.components["num_centres"][0] == 1
    assert signal.components["clustered"][0] == 1
    # paid once, at the last executed step
    assert np.array_equal(np.argwhere(signal.value), [[b, 7, 2] for b in range(5)] + [[5, 5, 0]])


def test_the_scale_by_hand(play, walk) -> None:  # type: ignore[no-untyped-def]
    """One axis, no noise, one segment: every distance can be told without the program."""
    config = SelfReferentialConfig(segments=1, relative_to_start=True)
    reward = SelfReferential(SimulatorState(), config)
    # successes' means, relative to the start: 1/2 of 1.0 = 0.5 each; centre 0.5, near 0, far 0.5
    reward(play([walk(1.0, index=i) for i in range(3)], dims=1, noise=0.0))
    signal = reward.score(play([walk(0.0), walk(0.4, row=1), walk(0.9, row=2)], dims=1, noise=0.0))
    # failures' means 0, 0.2, 0.45 -> distances 0.5, 0.3, 0.05 -> places 1, 0.6, 0.1
    np.testing.assert_allclose(signal.components["distance"], [0.5, 0.3, 0.05], atol=1e-6)
    np.testing.assert_allclose(signal.components["progress"], [0.0, 0.4, 0.9], atol=1e-5)
    # 0.8 / (1 + exp(-5 (0.5 - place))): exponents 2.5, 0.5, -2
    np.testing.assert_allclose(returns(signal), [0.0606864, 0.3020325, 0.7046367], atol=1e-5)


# ---- the defects of the release --------------------------------------------------------------------------


def test_members_of_a_group_keep_their_own_frames(play, walk) -> None:  # type: ignore[no-untyped-def]
    """Problem 2: mixed frames made all failures of a group equal, so that GRPO was binary GRPO."""
    reward = seen(play, walk)
    group = [walk(1.0, row=0), walk(0.2, row=1), walk(0.5, row=2), walk(0.8, row=3)]
    rollouts = play(group, iteration=1)
    signal = reward(rollouts)
    advantage, _ = grpo(torch.from_numpy(returns(signal)), torch.from_numpy(rollouts.group))
    binary, _ = grpo(torch.from_numpy(rollouts.success).float(), torch.from_numpy(rollouts.group))
    assert (advantage - binary).abs().max() > 0.1
    assert not signal.components["duplicate_embedding"].any()

    def mixed(batch) -> np.ndarray:  # type: ignore[no-untyped-def]
        frames = SimulatorState()(batch)
        return np.broadcast_to(frames[1], frames.shape).copy()  # one member's frames for all

    caught = SelfReferential(mixed)
    caught.load_state_dict(reward.state_dict())
    wrong = caught(play([walk(r, row=i) for i, r in enumerate((0.1, 0.3, 0.5, 0.7))], iteration=2))
    assert wrong.components["duplicate_embedding"].tolist() == [1.0] * 4
    assert wrong.components["embedding_collapse"].tolist() == [1.0] * 4


def test_clusters_are_found_in_many_dimensions(play, walk) -> None:  # type: ignore[no-untyped-def]
    """Problem 1: three ways to succeed, 1408 dimensions. A mean of all would rate a failure between them."""
    reward = SelfReferential(SimulatorState())
    ways = [walk(1.0, index=i, way=i % 3) for i in range(24)]
    signal = reward(play([*ways, walk(0.5, index=90)], dims=1408, noise=0.002))
    assert signal.components["num_centres"][0] == 3
    assert signal.components["clustered"][0] == 1


def test_groups_of_failures_are_shaped_before_any_filter(play, walk) -> None:  # type: ignore[no-untyped-def]
    """Problem 3: the release dropped all-fail groups first; with the bank they teach the most."""
    reward = seen(play, walk)
    failures = [walk(0.1 * i, row=i) for i in range(1, 8)]
    rollouts = play(failures, iteration=1)
    signal = reward(rollouts)
    binary_live = grpo(torch.from_numpy(rollouts.success).float(), torch.from_numpy(rollouts.group))[1]
    advantage, live = grpo(torch.from_numpy(returns(signal)), torch.from_numpy(rollouts.group))
    assert not binary_live.any()
    assert live.all()
    assert (advantage.diff() > 0).all()  # farther is better
    assert signal.components["rescued"].tolist() == [1.0] * 7


def test_a_failure_does_not_depend_on_the_failures_beside_it(play, walk) -> None:  # type: ignore[no-untyped-def]
    """Problem 6: in the release a lone failure earned 0.3, the same one among worse ones 0.596."""
    reward = seen(play, walk)
    one, worse = walk(0.6, row=1), [walk(0.1, row=2), walk(0.0, row=3)]
    alone = reward.score(play([one], iteration=1))
    among = reward.score(play([worse[0], one, worse[1]], iteration=1))
    assert alone.value[0].tobytes() == among.value[1].tobytes()

    for config, relative in (
        (SelfReferentialConfig(calibration="batch", slope=10.0), True),
        (SelfReferentialConfig(as_released=True), True),
    ):
        old = SelfReferential(SimulatorState(), config)
        old.load_state_dict(reward.state_dict())
        success = walk(1.0, row=9)
        alone, among = (old(play([success, one, *rest], iteration=1)) for rest in ([], worse))
        scale = 0.8 if config.calibration == "batch" else 0.6
        assert returns(alone)[1] == pytest.approx(scale * 0.5)
        assert returns(among)[1] == pytest.approx(scale * 0.993307, abs=1e-6)
        assert alone.relative is relative


# ---- bank ------------------------------------------------------------------------------------------------


def test_resume_is_bit_exact(play, walk) -> None:  # type: ignore[no-untyped-def]
    def batch(iteration: int):  # type: ignore[no-untyped-def]
        walks = [
            walk(reach, index=i, row=i, task=task)
            for i, (reach, task) in enumerate(
                [(1.0, "walk"), (0.4, "walk"), (1.0, "run"), (0.7, "run"), (1.0, "walk")]
            )
        ]
        return play(walks, iteration=iteration)

    whole = SelfReferential(PixelDownsample(size=4))
    signals = [whole(batch(i)) for i in range(4)]
    part = SelfReferential(PixelDownsample(size=4))
    part(batch(0)), part(batch(1))
    resumed = SelfReferential(PixelDownsample(size=4))
    resumed.load_state_dict(part.state_dict())
    for i in (2, 3):
        assert resumed(batch(i)).value.tobytes() == signals[i].value.tobytes()
    assert resumed.state_dict().keys() == whole.state_dict().keys()
    for name, array in whole.state_dict().items():
        assert resumed.state_dict()[name].tobytes() == array.tobytes()


def test_scoring_twice_changes_nothing_and_rows_may_be_permuted(play, walk) -> None:  # type: ignore[no-untyped-def]
    walks = [walk(1.0 if i % 3 == 0 else 0.1 * i, index=i // 4, row=i) for i in range(12)]
    rollouts = play(walks, iteration=1)
    order = np.random.default_rng(0).permutation(12)
    first, second = seen(play, walk), seen(play, walk)
    straight, permuted = first(rollouts), second(rollouts.take(order))
    assert straight.value[order].tobytes() == permuted.value.tobytes()
    for name in straight.components:
        assert np.array_equal(straight.components[name][order], permuted.components[name]), name
    state = first.state_dict()
    assert first(rollouts).value.tobytes() == straight.value.tobytes()
    assert all(np.array_equal(state[name], array) for name, array in first.state_dict().items())


def test_padding_changes_nothing(play, walk) -> None:  # type: ignore[no-untyped-def]
    reward = seen(play, walk)
    rollouts = play([walk(0.5), walk(1.0, row=1)], iteration=1)
    scribbled = rollouts.privileged.copy()
    scribbled[~rollouts.decision_valid] = np.nan
    again = reward.score(replace(rollouts, privileged=scribbled))
    assert again.value.tobytes() == reward.score(rollouts).value.tobytes()


def test_test_starts_never_enter_and_select_starts_are_only_scored(play, walk) -> None:  # type: ignore[no-untyped-def]
    reward = SelfReferential(SimulatorState())
    with pytest.raises(SplitError, match="bank was given the test start"):
        reward(play([walk(1.0, split="test")]))
    reward(play([walk(1.0, split="select")]))
    assert reward.bank.tasks == []
    assert returns(reward.score(play([walk(1.0, split="test")]))).tolist() == [1.0]


def test_an_encoder_of_another_width_is_refused(play, walk) -> None:  # type: ignore[no-untyped-def]
    reward = seen(play, walk)
    reward.encoder = SimulatorState(columns=(0,))
    with pytest.raises(ValueError, match="embedded in 3 numbers, but the bank holds 12"):
        reward.score(play([walk(0.5)]))


# ---- when it cannot know ---------------------------------------------------------------------------------


def test_without_reference_it_is_the_binary_reward(play, walk) -> None:  # type: ignore[no-untyped-def]
    reward = seen(play, walk)
    signal = reward(play([walk(0.5, task="other"), walk(0.9, task="other", row=1)], iteration=1))
    assert not signal.value.any()
    assert signal.components["no_reference"].tolist() == [1.0, 1.0]
    assert signal.components["rescued"].tolist() == [0.0, 0.0]
    assert signal.valid.all()


@pytest.mark.parametrize("constant", [0.0, 3.0])
def test_a_collapsed_encoder_does_not_crash_and_is_seen(play, walk, constant: float) -> None:  # type: ignore[no-untyped-def]
    def blind(rollouts) -> np.ndarray:  # type: ignore[no-untyped-def]
        return np.full((*rollouts.decision_valid.shape, 5), constant, dtype=np.float32)

    for config in (SelfReferentialConfig(), SelfReferentialConfig(relative_to_start=False, cosine=True)):
        reward = SelfReferential(blind, config)
        walks = [walk(1.0 if i % 2 else 0.5, index=i, row=i) for i in range(30)]
        signal = reward(play(walks))
        assert returns(signal).tolist() == [float(i % 2) for i in range(30)]  # binary: distance says nothing
        assert signal.components["embedding_collapse"].tolist() == [1.0] * 30
        assert signal.components["duplicate_embedding"].tolist() == [1.0] * 30
        assert signal.components["no_reference"].tolist() == [1.0] * 30
        assert not reward.progress(play(walks)).valid.any()


def test_what_cannot_be_judged(play, walk) -> None:  # type: ignore[no-untyped-def]
    """A NaN from the encoder loses a failure its reward, but never a success its one."""
    reward = seen(play, walk)

    def broken(rollouts) -> np.ndarray:  # type: ignore[no-untyped-def]
        frames = SimulatorState()(rollouts)
        frames[:2, 0] = np.nan
        return frames

    reward.encoder = broken
    signal = reward(play([walk(0.5), walk(1.0, row=1), walk(0.5, row=2)], iteration=1))
    assert signal.valid.tolist() == [False, True, True]
    assert returns(signal)[:2].tolist() == [0.0, 1.0]
    assert returns(signal)[2] > 0
    assert np.isfinite(signal.value).all()
    assert np.isfinite(reward.state_dict()["embedding:toy/walk"]).all()


def test_a_single_success_is_a_reference_too(play, walk) -> None:  # type: ignore[no-untyped-def]
    reward = SelfReferential(SimulatorState())
    value = returns(reward(play([walk(1.0), *(walk(0.2 * i, row=i) for i in range(1, 5))])))
    assert value[0] == 1.0
    assert (np.diff(value[1:]) > 0).all()


def test_settings_are_checked() -> None:
    with pytest.raises(ValueError, match="a failure may not earn what a success earns"):
        SelfReferentialConfig(alpha=1.0)
    with pytest.raises(ValueError, match="slope 0"):
        SelfReferentialConfig(slope=0)
    with pytest.raises(ValueError, match="only the trajectory form"):
        SelfReferentialConfig(as_released=True, form="potential")


# ---- progress --------------------------------------------------------------------------------------------


def test_progress_rises_from_nothing_to_where_the_episode_got(play, walk) -> None:  # type: ignore[no-untyped-def]
    reward = seen(play, walk, SelfReferentialConfig(relative_to_start=True))
    rollouts = play([walk(1.0, row=1), walk(0.5, row=2), walk(0.0, row=3)], iteration=1)
    state = reward.state_dict()
    progress = reward.progress(rollouts)
    assert all(np.array_equal(state[name], array) for name, array in reward.state_dict().items())
    assert progress.valid.all()
    assert ((progress.value >= 0) & (progress.value <= 1)).all()
    np.testing.assert_allclose(progress.value[:, 0], 0.0, atol=1e-5)
    assert progress.value[0, 5] > 0.9
    assert (np.diff(progress.value[0, :6]) > 0).all()
    assert 0.4 < progress.value[1, 7] < 0.6
    assert progress.value[2].max() < 0.1
    assert not progress.value[0, 6:].any()  # not played


@pytest.mark.parametrize("moment", ["best", "whole"])
def test_the_best_moment_outlives_what_comes_after(play, walk, moment: str) -> None:  # type: ignore[no-untyped-def]
    """A failure goes on to the step limit; leaving after coming near costs only if judged as a whole."""
    reward = seen(play, walk, SelfReferentialConfig(moment=moment))  # type: ignore[arg-type]
    near = play([walk(0.8, row=1, decisions=4)], iteration=1, noise=0.0)
    left = play([walk(0.8, row=1, decisions=8)], iteration=1, noise=0.0)
    path = left.privileged.copy()
    path[0, :4] = near.privileged[0, :4]
    path[0, 4:] = path[0, 0] - 3 * np.arange(1, 5)[:, None]
    value = returns(reward.score(replace(left, privileged=path)))[0]
    if moment == "best":
        assert value == returns(reward.score(near))[0]
        assert value > 0.3
    else:
        assert value < 0.01


def test_going_back_loses_progress(play, walk) -> None:  # type: ignore[no-untyped-def]
    """Dithering must not pay: forth and back ends near where it began, so differences add up to little."""
    reward = seen(play, walk, SelfReferentialConfig(segments=1))
    rollouts = play([walk(0.8, row=1)], iteration=1, noise=0.0)
    path = rollouts.privileged.copy()
    path[0, 4:] = path[0, 3::-1]
    level = reward.progress(replace(rollouts, privileged=path)).value[0]
    assert level[7] < level[3] + 0.02


def test_potential_difference_by_hand() -> None:
    # levels 0.2 0.5 0.9, gamma 0.5: 0.25 - 0.2 = 0.05, 0.45 - 0.5 = -0.05, then
    # terminated 0 - 0.9; cut 0.45 - 0.9
    level = np.array([[0.2, 0.5, 0.9, 7.0]] * 3, dtype=np.float32)
    valid = np.array([[True, True, True, False]] * 3)
    progress = Progress(level, np.array([True, True, False]))
    value = potential_difference(progress, valid, np.array([True, False, True]), 0.5)
    np.testing.assert_allclose(value[0], [0.05, -0.05, -0.9, 0], atol=1e-6)
    np.testing.assert_allclose(value[1], [0.05, -0.05, -0.45, 0], atol=1e-6)
    assert not value[2].any()
    # the discounted sum: -phi_0 if terminated, gamma^T phi_{T-1} - phi_0 if cut
    discount = 0.5 ** np.arange(4)
    assert value[0] @ discount == pytest.approx(-0.2, abs=1e-6)
    assert value[1] @ discount == pytest.approx(0.5**3 * 0.9 - 0.2, abs=1e-6)


def test_the_potential_form_pays_differences_and_one_for_success(play, walk) -> None:  # type: ignore[no-untyped-def]
    reward = seen(play, walk, SelfReferentialConfig(form="potential", gamma=1.0))
    rollouts = play([walk(1.0, row=1), walk(0.5, row=2), walk(0.9, row=3)], iteration=1)
    signal = reward.score(rollouts)
    level = reward.progress(rollouts).value
    # a success is terminated: 1 - phi_0; a failure was cut: phi_T - phi_0
    expected = [1 - 0.8 * level[0, 0], 0.8 * (level[1, 7] - level[1, 0]), 0.8 * (level[2, 7] - level[2, 0])]
    np.testing.assert_allclose(returns(signal), expected, atol=1e-5)
    assert returns(signal)[0] > returns(signal)[2] > returns(signal)[1]
    paid = np.argwhere(signal.value[0])
    assert {(d, h) for d, h in paid.tolist()} <= {(d, 2) for d in range(5)} | {(5, 0)}
    assert not signal.value[~rollouts.valid].any()


def test_diagnostics_do_not_let_a_success_be_its_own_proof(play, walk) -> None:  # type: ignore[no-untyped-def]
    """An encoder of noise must look like chance, though each success is in the bank (here: is a centre)."""
    config = SelfReferentialConfig(clustering=Clustering(cluster_from=1000))

    def noise(rollouts) -> np.ndarray:  # type: ignore[no-untyped-def]
        out = np.zeros((*rollouts.decision_valid.shape, 6), dtype=np.float32)
        for row, action in enumerate(rollouts.action):
            generator = np.random.default_rng(abs(int(action.sum() * 1e6)))
            out[row, 1:] = 1 + generator.normal(size=6)
        return out

    aucs = []
    for seed in range(8):
        reward = SelfReferential(noise, config)
        walks = [walk(1.0 if i % 2 else 0.3, index=i, row=seed, decisions=8) for i in range(60)]
        aucs.append(float(reward(play(walks)).components["auc_success_failure"][0]))
    assert 0.4 < np.mean(aucs) < 0.6
