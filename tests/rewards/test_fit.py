"""Training a small CLIP and a small V-JEPA 2 on the toy world."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import reward_toy as toy
from reward_toy import Carry
from vision_members import SMALL

from regrip.datasets.starts import SplitError, counter_generator
from regrip.rewards.embedding import collapse
from regrip.rewards.fit_image_text import fit_clip, save_clip, told_frames
from regrip.rewards.fit_video import VideoFit, fit_video, hidden_tokens, save_video
from regrip.rewards.open_clip_encoder import OpenClip
from regrip.rewards.scorers import FrameProgress
from regrip.rewards.transformers_encoders import VJepa
from regrip.rewards.zero_shot import NEUTRAL, GoalBaseline

TINY = replace(SMALL, width=8, embed=32, steps=3, pictures=4)
VIDEO = VideoFit("front", size=32, frames=4, width=64, layers=2, predictor_width=32, steps=3, batch=4)


def test_what_is_told_about_which_frame() -> None:
    rollouts = toy.carry([Carry(colour="red"), Carry(0.5, colour="blue")])
    told = told_frames([rollouts], SMALL)
    assert sorted(told) == sorted([NEUTRAL, "move the red block"])  # the failure shows no sentence
    frames = rollouts.images["front"]
    assert np.array_equal(told["move the red block"], frames[0, 7:9])  # a quarter of 9, rounded down
    assert np.array_equal(told[NEUTRAL], np.concatenate([frames[0, :2], frames[1, :3]]))


def test_what_cannot_be_learnt_from_is_named() -> None:
    with pytest.raises(SplitError):
        told_frames([toy.many(2, 0, split="test")], SMALL)
    with pytest.raises(ValueError, match="none of 3 episodes succeeded"):
        told_frames([toy.many(0, 3)], SMALL)
    with pytest.raises(ValueError, match="empty instruction"):
        told_frames([replace(toy.many(1, 0), instruction=[" "])], SMALL)
    with pytest.raises(ValueError, match="no camera 'side'"):
        told_frames([toy.many(1, 0)], replace(SMALL, camera="side"))
    with pytest.raises(ValueError, match="size 30 and text_width 32 must be multiples of 32"):
        replace(SMALL, size=30)
    with pytest.raises(ValueError, match="none of 0 episodes has two frames"):
        fit_video([toy.many(1, 0).take([])], VIDEO)
    with pytest.raises(SplitError):
        fit_video([toy.many(2, 0, split="test")], VIDEO)


def test_the_same_seed_gives_the_same_clip_and_it_is_read_back_equal(tmp_path: Path) -> None:
    rollouts, losses = toy.many(6, 2), []
    first = fit_clip([rollouts], TINY, lambda step, loss: losses.append((step, loss)))
    again, other = fit_clip([rollouts], TINY), fit_clip([rollouts], replace(TINY, seed=1))
    shown, said = rollouts.images["front"][0, :5], ["move the red block"]
    assert np.array_equal(first.images(shown), again.images(shown))
    assert np.array_equal(first.texts(said), again.texts(said))
    assert not np.array_equal(first.images(shown), other.images(shown))
    assert [step for step, _ in losses] == [1, 2, 3]
    save_clip(first, TINY, tmp_path / "clip")
    assert {file.name for file in (tmp_path / "clip").iterdir()} == {
        "open_clip_config.json",
        "open_clip_model.safetensors",
    }
    read = OpenClip.load(tmp_path / "clip")
    assert np.array_equal(first.images(shown), read.images(shown))
    assert np.array_equal(first.texts(said), read.texts(said))


def test_the_same_seed_gives_the_same_video_encoder_and_it_is_read_back_equal(tmp_path: Path) -> None:
    rollouts = toy.many(6, 2)
    first, again = fit_video([rollouts], VIDEO), fit_video([rollouts], VIDEO)
    clips = [rollouts.images["front"][0, :9], rollouts.images["front"][7]]
    assert np.array_equal(first.videos(clips), again.videos(clips))
    save_video(first, tmp_path / "video")
    read = VJepa.load(tmp_path / "video")
    assert read.preprocess == first.preprocess
    np.testing.assert_allclose(read.videos(clips), first.videos(clips), atol=1e-6)


def test_masks_are_blocks_through_time_and_leave_something() -> None:
    for step in range(20):
        masked = hidden_tokens(VIDEO, counter_generator("mask", step)).reshape(2, 4, 4)
        assert np.array_equal(masked[0], masked[1])
        assert VIDEO.hidden <= masked.mean() < 1 or masked.mean() == 15 / 16


@pytest.mark.slow
def test_a_fitted_clip_ranks_the_moments_of_unseen_episodes() -> None:
    encoder = fit_clip([toy.many(240, 60, seed=50)], replace(SMALL, steps=150))
    rollouts = toy.many(30, 30, seed=3)
    level = FrameProgress(GoalBaseline(encoder, "front")).progress(rollouts).value
    truth = toy.progress_of(rollouts.privileged)
    mask = rollouts.decision_valid
    assert np.corrcoef(level[mask], truth[mask])[0, 1] > 0.6


@pytest.mark.slow
def test_a_fitted_video_encoder_foresees_and_does_not_collapse() -> None:
    losses: list[float] = []
    config = replace(VIDEO, steps=300, batch=16)
    encoder = fit_video([toy.many(120, 60, seed=50)], config, lambda step, loss: losses.append(loss))
    assert np.mean(losses[-3:]) < 0.8 * losses[0]
    rollouts = toy.many(12, 12, seed=3)
    length = rollouts.decision_valid.sum(1)
    clips = [rollouts.images["front"][row, : length[row]] for row in range(24)]
    assert collapse(encoder.videos(clips)) < 0.98  # of random weights: 0.95
