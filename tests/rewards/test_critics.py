"""What critics are made of, against numbers worked by hand; and what fitted ones know of the toy world."""

from __future__ import annotations

from dataclasses import replace

import critic_members
import numpy as np
import pytest
import reward_toy as toy
import torch
from critic_members import fitted
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from regrip.datasets.episode import Rollouts
from regrip.datasets.protocols import Progress
from regrip.rewards.critics import multi_head, rewind, robometer, sarm, success, vlac
from regrip.rewards.critics.clips import (
    ClipOptions,
    draw_clip,
    prefix_clips,
    rewound,
    share_done,
    share_gone,
    thin,
)
from regrip.rewards.critics.critic import WrongKindError
from regrip.rewards.critics.diwa import contrast, denoising_weights, dream_index, dream_rewards
from regrip.rewards.critics.fit import measure
from regrip.rewards.critics.inputs import InputError, Words
from regrip.rewards.critics.kinds import KINDS
from regrip.rewards.critics.labels import LabelOptions, success_label
from regrip.rewards.embedding import PixelDownsample
from regrip.rewards.scorers import FrameProgress, PairProgress, accumulate, frames_of

torch.set_num_threads(1)


class TestVlac:
    @pytest.mark.parametrize(("i", "j", "label"), [(0, 5, 0.5), (5, 7, 0.4), (2, 1, -1 / 9), (3, 3, 0)])
    def test_labels(self, i: int, j: int, label: float) -> None:
        assert vlac.pair_label(i, j, 10) == pytest.approx(label)

    @settings(max_examples=50, deadline=None, derandomize=True)
    @given(st.integers(0, 18), st.integers(1, 19))
    def test_the_recursion_undoes_a_label(self, i: int, j: int) -> None:
        there = vlac.pair_label(i, j, 20)
        back = accumulate(np.array([0.3, there, -there]), "harmonic")
        assert back[-1] == pytest.approx(0.3, abs=1e-4) or there < 0

    def test_a_pair_at_60_percent_and_its_label(self) -> None:
        # v = 60 and c = -10 go to 55.5556; from there to 60 is a tenth of what is left
        v = accumulate(np.array([0.6, -0.1]), "harmonic")[-1]
        assert v == pytest.approx(0.555556, abs=1e-5)
        assert (0.6 - v) / (1 - v) == pytest.approx(0.1, abs=1e-5)

    def test_reference_frames(self) -> None:
        places, progress = vlac.reference_places(9, 4)
        assert places.tolist() == [0, 2, 5, 8]
        assert progress.tolist() == pytest.approx([0, 0.33, 0.66, 1])
        assert len(vlac.reference_places(30, 11)[0]) == 11


class TestClips:
    def test_rewinding(self) -> None:
        offsets = rewound(np.arange(4), 2)
        assert share_done(offsets, 5).tolist() == pytest.approx([0.2, 0.4, 0.6, 0.8, 0.6, 0.4])

    def test_robometers_progress(self) -> None:
        assert share_gone(np.array([0, 1, 2, 4, -1]), 5).tolist() == [0, 0.25, 0.5, 1, 0]
        assert share_gone(np.array([0, 0, -1]), 1).tolist() == [1, 1, 0]

    def test_thinning_keeps_both_ends(self) -> None:
        assert thin(np.arange(10), 4).tolist() == [0, 3, 6, 9]
        assert thin(np.arange(3), 4).tolist() == [0, 1, 2]

    @settings(max_examples=50, deadline=None, derandomize=True)
    @given(st.integers(2, 30), st.integers(0, 10_000))
    def test_a_clip_stays_in_its_episode(self, length: int, seed: int) -> None:
        start, offsets = draw_clip(length, ClipOptions(), np.random.default_rng(seed))
        assert offsets[0] == 0
        assert (start + offsets).min() >= 0
        assert (start + offsets).max() < length

    @settings(max_examples=50, deadline=None, derandomize=True)
    @given(st.integers(1, 40), st.integers(2, 8))
    def test_every_moment_is_read_last_of_what_was_seen_before(self, length: int, most: int) -> None:
        clips, where = prefix_clips(length, most)
        for moment, (row, place) in enumerate(where):
            assert clips[row][place] == moment
            assert clips[row][: place + 1].max() == moment
            assert clips[row][0] == 0

    def test_the_first_frame_is_not_counted(self) -> None:
        clips = rewind.Clips(
            np.zeros((1, 3), np.int64),
            torch.tensor([[0.2, 0.4, 0.0]]),
            torch.tensor([[True, True, False]]),
            np.zeros(1, np.int64),
            np.ones(1, bool),
        )
        found = torch.tensor([[[0.9, 0.5, 0.7]]])
        assert rewind.squared_error(found, clips).item() == pytest.approx(0.01)


class TestSarm:
    def test_levels_by_the_stages_durations(self) -> None:
        knots = np.array([0, 0.05, 0.1, 0.3, 0.9, 1])
        whole = np.array([2.5, 3.5, -1.0, 9.0])
        assert sarm.level_of(whole, knots).tolist() == pytest.approx([0.2, 0.6, 0, 1])

    def test_the_smoother(self) -> None:
        found = sarm.smooth(np.array([0.2, 0.4, 0.9]), np.array([1.0, 0.95, 0.5]))
        assert found.tolist() == pytest.approx([0.2, 0.292321, 0.292321], abs=1e-6)
        assert sarm.smooth(np.array([0.3]), np.array([0.1])).tolist() == pytest.approx([0.3])

    def test_stages_with_and_without_annotation(self) -> None:
        assert sarm.equal_stages(5, 2).tolist() == [0, 0.5, 1, 1.5, 2]
        told = sarm.annotated_stages(np.array([0, 0, 1, 1, 1, 1]), 2)
        assert told.tolist() == [0, 0.5, 1, 1.25, 1.5, 2]
        assert sarm.knots_of([told], 2).tolist() == pytest.approx([0, 0.4, 1])
        with pytest.raises(ValueError, match=r"from 0 to 1 that never fall"):
            sarm.annotated_stages(np.array([1, 0]), 2)

    def test_a_window_begins_with_the_first_frame(self) -> None:
        assert sarm.window_of(12, 9, frames=4, gap=2).tolist() == [0, 3, 5, 7, 9]
        assert sarm.window_of(12, 1, frames=4, gap=2).tolist() == [0, 0, 0, 0, 1]


class TestRobometer:
    def test_two_hot(self) -> None:
        found = robometer.two_hot(torch.tensor([0.37, 1.0, 0.0]))
        assert found[0, 3:5].tolist() == pytest.approx([0.67, 0.33])
        assert found[1:, [9, 0]].tolist() == [[1, 0], [0, 1]]
        assert found.sum(-1).tolist() == pytest.approx([1, 1, 1])
        assert (found * torch.linspace(0, 1, 10)).sum(-1)[0].item() == pytest.approx(0.37)

    def test_balanced_classes(self) -> None:
        one = robometer.balanced_cross_entropy(torch.tensor([1.0]), torch.tensor([1.0]))
        assert one.item() == pytest.approx(0.313262, abs=1e-6)
        # Three of one class weigh as much as one of the other, and what has no label not at all.
        logits, label = torch.tensor([1.0, 1, 1, 0, 9]), torch.tensor([1.0, 1, 1, 0, float("nan")])
        found = robometer.balanced_cross_entropy(logits, label).item()
        assert found == pytest.approx((0.313262 + np.log(2)) / 2, abs=1e-6)

    def test_preference_of_a_difference_of_one(self) -> None:
        assert F.softplus(torch.tensor(-1.0)).item() == pytest.approx(0.313262, abs=1e-6)


class TestSuccess:
    def test_which_frames_show_success(self) -> None:
        told = LabelOptions(last=1, clear=0.5)
        labels = [success_label(index, 5, told) for index in range(5)]
        assert labels[:2] + labels[4:] == [0, 0, 1]
        assert np.isnan(labels[2:4]).all()
        assert [success_label(t, 3, LabelOptions(clear=1.0)) for t in range(3)] == [0, 0, 1]

    def test_the_reflector_stops_above_and_not_at_its_threshold(self) -> None:
        assert success.stop_index(np.array([0.3, 0.48, 0.51, 0.9])) == 2
        assert success.stop_index(np.array([0.3, 0.5])) is None
        value = np.array([[0.3, 0.9], [0.9, 0.9], [0.2, 0.9]], np.float32)
        mask = np.array([[True, True], [True, True], [True, False]])
        stopped = success.stops(Progress(value, np.array([True, False, True])), mask)
        assert stopped.tolist() == [1, -1, -1]

    def test_gates_and_weights(self) -> None:
        weights = np.array(list(multi_head.EPDMS_WEIGHTS.values()))
        gates, heads = np.ones(len(multi_head.EPDMS_GATES)), np.array([0.5, 1, 1, 1, 1])
        assert multi_head.gated_mean(gates, heads, weights) == pytest.approx(0.84375)
        for closed in range(4):
            shut = gates.copy()
            shut[closed] = 0
            assert multi_head.gated_mean(shut, heads, weights) == 0

    def test_contrast(self) -> None:
        # Two alike and one opposite: -log(e / (e + 1 / e)) for both of the pair.
        vectors = torch.tensor([[2.0, 0], [1, 0], [-3, 0]])
        found = contrast(vectors, torch.tensor([0, 0, 1]), temperature=1.0)
        assert found.item() == pytest.approx(np.log(1 + np.exp(-2)), abs=1e-6)
        assert contrast(vectors, torch.tensor([0, 1, 2]), 1.0).item() == 0

    def test_the_dream(self) -> None:
        assert [dream_index(*at, 20) for at in ((0, 20), (0, 1), (1, 20), (3, 5))] == [0, 19, 20, 75]
        paid = dream_rewards(np.array([0.5, 1.0]), 20)
        assert np.flatnonzero(paid).tolist() == [19, 39]
        assert denoising_weights(3, 0.99).tolist() == pytest.approx([1, 0.99, 0.9801])
        with pytest.raises(ValueError, match="denoising step 0 of 20"):
            dream_index(0, 0, 20)


def there_and_back(rollouts: Rollouts) -> Rollouts:
    """Successes played to the sixth moment, back to the third, and on to the ninth."""
    order = np.array([0, 1, 2, 3, 4, 5, 4, 3, 2, 3, 4, 5, 6, 7, 8])
    valid = np.zeros((len(rollouts), len(order), rollouts.valid.shape[2]), bool)
    valid[:] = True
    return replace(
        rollouts,
        images={name: frames[:, order] for name, frames in rollouts.images.items()},
        state=rollouts.state[:, order],
        privileged=rollouts.privileged[:, order],
        action=rollouts.action[:, order],
        reward=rollouts.reward[:, order],
        log_prob=rollouts.log_prob[:, order],
        valid=valid,
    )


class TestFitted:
    @pytest.mark.parametrize("kind", ["vlac", "rewind", "sarm", "robometer", "multi_head"])
    def test_forward_back_forward_nets_nothing(self, kind: str) -> None:
        straight = toy.many(12, 0, seed=4)
        critic = fitted(kind)
        scorer = critic_members.progress_of(critic)
        once = scorer.progress(straight).value[:, 8]
        again = scorer.progress(there_and_back(straight)).value[:, 14]
        assert np.abs(again - once).mean() < 0.1

    @pytest.mark.parametrize("kind", ["vlac", "rewind", "sarm", "robometer", "multi_head"])
    def test_levels_rise_along_held_out_successes(self, kind: str) -> None:
        assert measure(fitted(kind), toy.many(12, 0, seed=5))["order"] > 0.9

    @pytest.mark.parametrize("kind", ["success", "reflector", "diwa", "multi_head", "robometer", "vlac"])
    def test_success_is_told_from_failure(self, kind: str) -> None:
        told = {
            "vlac": lambda critic: FrameProgress(vlac.VlacDone(critic)),
            "robometer": robometer.RobometerSuccess,
        }
        assert critic_members.auroc(fitted(kind), toy.many(24, 24, seed=5), told.get(kind)) > 0.9

    @pytest.mark.parametrize("kind", KINDS)
    def test_other_words_take_most_of_it_away(self, kind: str) -> None:
        rollouts = toy.many(12, 0, seed=5)
        names = list(toy.COLOURS)
        others = [names[(names.index(said.split()[2]) + 1) % 3] for said in rollouts.instruction]
        wrong = replace(rollouts, instruction=[f"move the {other} block" for other in others])
        scorer = critic_members.progress_of(fitted(kind))
        right, less = (scorer.progress(told).value[:, 8].mean() for told in (rollouts, wrong))
        assert less < 0.5 * right

    def test_a_reference_changes_the_answer_and_keeps_it_antisymmetric(self) -> None:
        plain = vlac.VlacPairs(fitted("vlac"))
        shown = plain.shown(critic_members.episodes(), 0)
        rollouts = toy.many(6, 0, seed=5)
        levels = PairProgress(shown).progress(rollouts).value
        assert not np.array_equal(levels, PairProgress(plain).progress(rollouts).value)
        assert (levels[:, 8] > 0.5).all()

    def test_the_preference_puts_successes_first(self) -> None:
        score = robometer.RobometerPreference(fitted("robometer")).score(toy.many(12, 12, seed=5))
        assert score.value[:12].mean() > score.value[12:].mean()

    def test_heads_that_differ_give_a_std(self) -> None:
        progress = rewind.RewindProgress(fitted("rewind")).progress(toy.many(3, 3))
        assert progress.std is not None
        assert progress.std.shape == progress.value.shape
        assert (progress.std >= 0).all()
        assert progress.std.max() > 0

    def test_gates_close_on_other_words(self) -> None:
        model = multi_head.MultiHeadRewardModel(fitted("multi_head"))
        rollouts = toy.many(12, 0, seed=5)
        last = frames_of(rollouts, np.arange(12), np.full(12, 8))
        right = model.heads(last)["on_task"]
        other = replace(last, instruction=[last.instruction[(n + 1) % 12] for n in range(12)])
        assert right.mean() > model.heads(other)["on_task"].mean() + 0.5


class TestBadInput:
    def test_words_of_another_language_are_not_judged(self) -> None:
        rollouts = toy.many(3, 0)
        french = ["pousse le cube rouge", *rollouts.instruction[1:]]
        for scorer in (
            FrameProgress(success.FrameSuccess(fitted("success"))),
            PairProgress(vlac.VlacPairs(fitted("vlac"))),
            rewind.RewindProgress(fitted("rewind")),
            sarm.SarmProgress(fitted("sarm")),
        ):
            found = scorer.progress(replace(rollouts, instruction=french))
            assert found.valid.tolist() == [False, True, True]
            assert found.components["unjudged"][0] > 0
            assert not found.value[0].any()

    def test_words_known_and_not(self) -> None:
        words = Words.of(["move the red block", "open the drawer"])
        ids, understood = words.encode(["Move the RED block", "move the purple block", "", "ouvre le tiroir"])
        assert understood.tolist() == [True, True, False, False]
        assert (ids[0, :4] > 1).all()
        assert ids[1].tolist().count(1) == 1

    def test_an_embedding_that_is_not_finite_is_not_judged(self) -> None:
        class Broken:
            def __call__(self, rollouts: Rollouts) -> np.ndarray:
                found = PixelDownsample(8, ("front",))(rollouts)
                found[:, :, 0] = np.where(np.arange(len(found))[:, None] == 1, np.nan, found[:, :, 0])
                return found

        critic = replace(fitted("rewind"), encoder=Broken())
        found = rewind.RewindProgress(critic).progress(toy.many(2, 0))
        assert not found.valid[0]  # the second frame of the batch is the first episode's
        assert found.valid[1]

    def test_an_encoder_of_another_size_is_named(self) -> None:
        critic = replace(fitted("success"), encoder=PixelDownsample(4, ("front",)))
        with pytest.raises(InputError, match="gives 48 numbers for a frame, the critic was trained on 192"):
            FrameProgress(success.FrameSuccess(critic)).progress(toy.many(1, 0))

    def test_a_critic_of_another_kind_is_named(self) -> None:
        with pytest.raises(WrongKindError, match="of kind 'success', expected 'rewind'"):
            rewind.RewindProgress(fitted("success"))

    def test_no_episodes_and_no_decisions(self) -> None:
        none = toy.many(2, 0).take([])
        empty = toy.many(2, 0)
        empty = replace(empty, valid=np.zeros_like(empty.valid))
        for kind in ("success", "rewind", "sarm", "robometer"):
            scorer = critic_members.progress_of(fitted(kind))
            assert len(scorer.progress(none).valid) == 0
            assert not scorer.progress(empty).valid.any()
