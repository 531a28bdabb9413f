"""Zero-shot rewards against numbers worked by hand, and what they make of bad input."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
import reward_toy as toy
import torch
from encoder_models import small_clip
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from reward_toy import Carry

from regrip.datasets.episode import Rollouts
from regrip.rewards.encoders import MeanFrames
from regrip.rewards.goal_similarity import (
    GoalImage,
    GoalText,
    VideoToDemonstration,
    VideoToText,
    demonstrations,
    goal_images,
    liv_value,
    r3m_order_loss,
    vip_loss,
)
from regrip.rewards.scorers import FrameProgress, Frames, frames_of
from regrip.rewards.zero_shot import (
    ContrastingGoals,
    GoalBaseline,
    HierarchicalSynthesis,
    goal_baseline,
    mean_prompt,
    semantic_safety,
    synthesis,
)


@dataclass
class Told:
    """Vectors from a table: sentences by their words, pictures by the brightness of a corner."""

    said: dict[str, tuple[float, float]]
    shown: dict[int, tuple[float, float]] = field(default_factory=dict)
    name: str = "told"
    width: int = 2

    def texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        return np.array([self.said[text] for text in texts], np.float32)

    def images(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        return np.array([self.shown[int(image[0, 0, 0])] for image in images], np.float32)


def moments(*brightness: int, instruction: str = "lift it", state: float = 0.0) -> Frames:
    count = len(brightness)
    return Frames(
        images={"front": np.array(brightness, np.uint8)[:, None, None, None].repeat(3, -1)},
        state=np.full((count, 1), state, np.float32),
        privileged=np.zeros((count, 0), np.float32),
        instruction=[instruction] * count,
    )


@pytest.mark.parametrize(("alpha", "expected"), [(0.0, 0.60), (0.5, 0.63), (1.0, 0.64)])
def test_goal_baseline_by_hand(alpha: float, expected: float) -> None:
    t, b = np.array([1.0, 0.0]), np.array([0.0, 1.0])
    found = goal_baseline(np.array([[0.6, 0.8], [1.0, 0.0]]), t, b, alpha)
    np.testing.assert_allclose(found, [expected, 1.0], atol=1e-6)
    encoder = Told({"lift it": (1, 0), "a table": (0, 1)}, {1: (0.6, 0.8), 2: (1, 0)})
    reward = GoalBaseline(encoder, "front", baseline=("a table",), alpha=alpha)
    np.testing.assert_allclose(reward.score(moments(1, 2)), [expected, 1.0], atol=1e-6)


def test_targets_are_averaged_and_not_brought_back_to_unit_length() -> None:
    encoder = Told({"up": (1, 0), "high": (0, 1), "a table": (-1, 0)}, {1: (1, 0)})
    np.testing.assert_allclose(mean_prompt(encoder, ("up", "high"), ["x"]), [[0.5, 0.5]])
    plain = GoalBaseline(encoder, "front", goal=("up", "high"), baseline=("a table",), alpha=0.0)
    # x - t = (0.5, -0.5): 1 - 0.5 / 2; the cosine would be 0.71, and the dot product 0.5
    assert plain.score(moments(1))[0] == pytest.approx(0.75)


@settings(deadline=None)
@given(
    st.lists(st.floats(-1, 1), min_size=9, max_size=9).filter(
        lambda n: min(np.linalg.norm(np.reshape(n, (3, 3)), axis=1)) > 1e-3
    ),
    st.floats(0, 1),
)
def test_goal_baseline_is_never_out_of_bounds(numbers: list[float], alpha: float) -> None:
    x, t, b = (row / np.linalg.norm(row) for row in np.reshape(numbers, (3, 3)))
    found = goal_baseline(x[None], t, b, alpha)[0]
    assert np.isnan(found) or -1 - 1e-6 <= found <= 1 + 1e-6
    assert goal_baseline(x[None], t, b, 0)[0] == pytest.approx(float(x @ t), abs=1e-6)


def test_a_goal_that_is_its_own_baseline_says_nothing() -> None:
    t = np.array([1.0, 0.0])
    assert np.isnan(goal_baseline(np.array([[0.6, 0.8]]), t, t, 0.5)).all()
    assert goal_baseline(np.array([[0.6, 0.8]]), t, t, 0.0)[0] == pytest.approx(0.6)


@pytest.mark.parametrize(
    ("difference", "speed", "expected"), [(0.015, 12.5, 1), (0, 25, 1), (0.03, 0, 1), (0.04, 10, 0.6)]
)
def test_hierarchical_synthesis_by_hand(difference: float, speed: float, expected: float) -> None:
    # The scene is like a collision by `difference` more than like a clear road (0.2).
    quality = semantic_safety(np.array([0.2 + difference]), np.array([0.2]))
    found = synthesis(quality, np.array([speed]), 25.0)
    assert found[0] == pytest.approx(expected, abs=1e-6)
    halved = synthesis(quality, np.array([speed]), 25.0, [np.array([0.5])])
    assert halved[0] == pytest.approx(expected / 2, abs=1e-6)
    hit = synthesis(quality, np.array([speed]), 25.0, [], np.array([-10.0]))
    assert hit[0] == -10


def test_the_sign_of_contrasting_goals() -> None:
    near_collision, near_clear = np.array([0.30]), np.array([0.20])
    assert semantic_safety(near_collision, near_clear)[0] == 0  # looks like a collision: stop
    assert semantic_safety(near_clear, near_collision)[0] == 1


def test_hierarchical_synthesis_of_a_scene() -> None:
    angle = np.arcsin(0.03 / np.sqrt(2))  # turns a picture between the two sentences by a margin of 0.03
    side = np.array([np.cos(np.pi / 4 + angle), np.sin(np.pi / 4 + angle)])
    encoder = Told({"hit": (0, 1), "clear": (1, 0)}, {1: (1, 0), 2: tuple(side)})
    reward = HierarchicalSynthesis(
        encoder, "front", "hit", "clear", lambda frames: frames.state[:, 0], top=2.0, width=0.06
    )
    found = reward.score(moments(1, 2, state=2.0))
    np.testing.assert_allclose(found, [1, 0.5], atol=1e-4)  # q is 1, then 0.5: v* is 2, then 1
    guarded = replace(
        reward,
        factors={"upright": lambda frames: np.array([0.5, 3.0])},
        penalty=lambda frames: np.array([0.0, -99.0]),
    )
    np.testing.assert_allclose(guarded.score(moments(1, 2, state=2.0)), [0.5, -10], atol=1e-4)
    assert guarded.bounds == (-10, 1)
    assert reward.bounds == (0, 1)
    assert reward.score(moments(1, state=50.0))[0] == 0


def test_contrasting_goals_by_hand() -> None:
    encoder = Told({"lift it": (1, 0), "bad": (0, 1)}, {1: (0.6, 0.8), 2: (1, 0), 3: (0, 1), 4: (0.8, 0.6)})
    reward = ContrastingGoals(encoder, "front", negative="bad", width=0.5)
    np.testing.assert_allclose(reward.score(moments(1, 2, 3, 4)), [0.3, 1, 0, 0.7], atol=1e-6)


def test_goal_pictures_and_sentences_by_hand() -> None:
    encoder = Told({"lift it": (0, 1)}, {1: (0.6, 0.8), 2: (1, 0)})
    goals = {"lift it": np.full((1, 1, 3), 2, np.uint8)}
    distance = GoalImage(encoder, "front", goals)
    np.testing.assert_allclose(distance.score(moments(1, 2)), [-np.sqrt(0.8), 0], atol=1e-6)
    cosine = GoalImage(encoder, "front", goals, "cosine")
    np.testing.assert_allclose(cosine.score(moments(1, 2)), [0.6, 1], atol=1e-6)
    np.testing.assert_allclose(GoalText(encoder, "front").score(moments(1, 2)), [0.8, 0], atol=1e-6)
    assert np.isnan(distance.score(moments(1, instruction="sing"))).all()
    assert distance.bounds == (-2, 0)


def test_vip_loss_by_hand() -> None:
    one = torch.ones(1)
    loss = vip_loss(-1.0 * one, -0.8 * one, -0.5 * one, -1.0 * one, gamma=0.98)
    assert loss.item() == pytest.approx(0.7100, abs=1e-5)
    # 0.02 * 1 + log(mean(exp(0.69), exp(-0.31)))
    two = vip_loss(
        -1.0 * one, torch.tensor([-0.8, -0.8]), torch.tensor([-0.5, -0.5]), torch.tensor([-1.0, 0.0])
    )
    assert two.item() == pytest.approx(0.02 + np.log((np.exp(0.69) + np.exp(-0.31)) / 2), abs=1e-5)


def test_liv_and_r3m_by_hand() -> None:
    x, g = torch.tensor([[0.6, 0.8]]), torch.tensor([[2.0, 0.0]])
    assert liv_value(x, g, 0.98).item() == pytest.approx(30, rel=1e-5)
    still = torch.zeros(2, 3)
    assert r3m_order_loss(still, still, still).item() == pytest.approx(np.log(3), abs=1e-4)
    steps = (
        torch.arange(3.0)[:, None, None] * torch.ones(3, 2, 1) * 5 + torch.tensor([0.0, 100.0])[None, :, None]
    )
    assert r3m_order_loss(*steps).item() == pytest.approx(np.log(1 + np.exp(-5)), abs=1e-4)


def test_a_video_is_held_against_its_demonstration() -> None:
    clip = small_clip()
    shown = demonstrations(toy.many(3, 3), "front")
    assert sorted(shown) == [f"move the {colour} block" for colour in ("blue", "green", "red")]
    assert shown["move the red block"].shape == (9, 32, 32, 3)
    scorer = VideoToDemonstration(MeanFrames(clip, parts=3), "front", shown)
    score = scorer.score(toy.many(3, 0))
    np.testing.assert_allclose(score.value, 1, atol=1e-5)  # the very episodes that are the demonstrations
    other = replace(toy.many(3, 0), instruction=["move the red block", "sing", "move the red block"])
    score = scorer.score(other)
    assert score.valid.tolist() == [True, False, True]
    assert score.components["no_demonstration"].tolist() == [0, 1, 0]
    assert score.value[2] < score.value[0]
    np.testing.assert_array_equal(
        goal_images(toy.many(3, 0), "front")["move the red block"], shown["move the red block"][-1]
    )
    with pytest.raises(ValueError, match="none of 2 episodes succeeded"):
        demonstrations(toy.many(0, 2), "front")


class Broken:
    """An encoder that fails on every second picture and clip."""

    name, width = "broken", 2

    def images(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        out = np.tile(np.float32([1, 0]), (len(images), 1))
        out[1::2] = np.nan
        return out

    def texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        return np.tile(np.float32([1, 0]), (len(texts), 1))

    def videos(self, clips: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        return np.array([[1, 0] if row % 2 == 0 else [np.nan, 0] for row in range(len(clips))], np.float32)


def test_vectors_that_are_not_numbers_make_an_episode_unjudged() -> None:
    rollouts = toy.carry([Carry(), Carry(colour="blue")])
    frame = FrameProgress(GoalText(Broken(), "front"), batch=9).progress(rollouts)
    assert frame.valid.tolist() == [False, False]
    assert frame.components["unjudged"].tolist() == [4, 4]
    assert not frame.value.any()
    video = VideoToText(Broken(), "front").score(rollouts)
    assert video.valid.tolist() == [True, False]
    assert video.value.tolist() == [1, 0]
    assert video.components["unjudged"].tolist() == [0, 1]


def every(encoder: object, rollouts: Rollouts) -> list[NDArray[np.float32]]:
    some = frames_of(rollouts, np.arange(len(rollouts)), np.zeros(len(rollouts), np.int64))
    kinds = (GoalBaseline, ContrastingGoals, GoalText)
    return [kind(encoder, "front").score(some) for kind in kinds]  # type: ignore[arg-type]


def test_a_prompt_in_another_language_is_scored_like_any_other() -> None:
    foreign = replace(toy.many(2, 0), instruction=["赤いブロックを動かす", "déplace le bloc rouge"])
    for found in every(small_clip(), foreign):
        assert np.isfinite(found).all()


def test_empty_words_and_missing_cameras_are_named() -> None:
    rollouts = toy.many(2, 0)
    with pytest.raises(ValueError, match="an episode's instruction is empty"):
        every(small_clip(), replace(rollouts, instruction=["", "move the red block"]))
    with pytest.raises(ValueError, match="is empty"):
        VideoToText(MeanFrames(small_clip()), "front").score(replace(rollouts, instruction=["", "x"]))
    for reward in (GoalBaseline, ContrastingGoals, GoalText):
        with pytest.raises(ValueError, match="no camera 'side' in the rollouts"):
            FrameProgress(reward(small_clip(), "side")).progress(rollouts)
    with pytest.raises(ValueError, match="no camera 'side' in the rollouts"):
        VideoToText(MeanFrames(small_clip()), "side").score(rollouts)
    with pytest.raises(ValueError, match=r"alpha 1\.5 is outside"):
        GoalBaseline(small_clip(), "front", alpha=1.5)
