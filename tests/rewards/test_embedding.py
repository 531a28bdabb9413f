"""Pooling by hand, and encoders on frames whose averages are known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from regrip.rewards.embedding import (
    PixelDownsample,
    SimulatorState,
    collapse,
    pool,
    pool_prefixes,
    prepare,
    segment_weights,
)


def test_segment_weights_split_a_frame_on_the_border() -> None:
    # 3 frames in 2 parts: [0, 1.5) and [1.5, 3): the middle frame is shared, 1 : 0.5 over 1.5
    np.testing.assert_allclose(segment_weights(3, 2), [[2 / 3, 1 / 3, 0], [0, 1 / 3, 2 / 3]], rtol=1e-6)
    np.testing.assert_allclose(segment_weights(1, 3), [[1], [1], [1]], rtol=1e-6)
    np.testing.assert_allclose(segment_weights(4, 2), [[0.5, 0.5, 0, 0], [0, 0, 0.5, 0.5]], rtol=1e-6)


def test_pool_by_hand_and_its_scale() -> None:
    # means (0 + 3)/2 and (6 + 9)/2, over sqrt(2)
    frames = np.array([[0.0], [3.0], [6.0], [9.0]], dtype=np.float32)
    np.testing.assert_allclose(pool(frames, 2), np.array([1.5, 7.5]) / np.sqrt(2), rtol=1e-6)
    # a squared distance is the mean over segments: two still episodes 2 apart are 2 apart, for any K
    for segments in (1, 2, 5):
        still = [pool(np.full((4, 1), value, dtype=np.float32), segments) for value in (0.0, 2.0)]
        assert np.linalg.norm(still[1] - still[0]) == pytest.approx(2.0, rel=1e-6)


def test_order_matters_with_segments_only() -> None:
    frames = np.arange(6, dtype=np.float32)[:, None]
    assert np.allclose(pool(frames, 1), pool(frames[::-1], 1))
    assert np.linalg.norm(pool(frames, 3) - pool(frames[::-1], 3)) > 1


def test_prefixes_start_at_rest_and_end_at_the_whole() -> None:
    frames = np.random.default_rng(0).normal(size=(7, 3)).astype(np.float32)
    prefixes = pool_prefixes(frames, 3)
    np.testing.assert_allclose(prefixes[0], pool(np.repeat(frames[:1], 5, 0), 3), rtol=1e-5)
    assert np.array_equal(prefixes[-1], pool(frames, 3))


def test_prepare_cuts_to_what_was_seen() -> None:
    frames = np.array([[[3.0, 4.0], [0.0, 2.0], [np.nan, 9.0]]], dtype=np.float32)
    valid = np.array([[True, True, False]])
    plain = prepare(frames, valid, cosine=False, relative_to_start=True)[0]
    assert plain.tolist() == [[0, 0], [-3, -2]]
    unit = prepare(frames, valid, cosine=True, relative_to_start=False)[0]
    np.testing.assert_allclose(unit, [[0.6, 0.8], [0, 1]], rtol=1e-6)
    with pytest.raises(ValueError, match=r"the encoder returned \(1, 2, 2\), expected \(1, 3, E\)"):
        prepare(frames[:, :2], valid, cosine=False, relative_to_start=False)
    with pytest.raises(ValueError, match="episode 0: decision 2 is valid but the one before it is not"):
        prepare(frames, np.array([[True, False, True]]), cosine=False, relative_to_start=False)


def test_pixels_are_averaged_over_cells(play, walk) -> None:  # type: ignore[no-untyped-def]
    rollouts = play([walk(0.5)])
    image = np.zeros((1, 1, 5, 4, 3), dtype=np.uint8)  # rows split 2 + 3, columns 2 + 2
    image[0, 0, :2, :2] = 255
    image[0, 0, 2, 2, 1] = 51  # one of six pixels of the last cell, green, a fifth
    grid = PixelDownsample(size=2)(replace(rollouts, images={"front": image}))
    expected = [1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0.2 / 6, 0]
    np.testing.assert_allclose(grid[0, 0], expected, rtol=1e-6)
    with pytest.raises(ValueError, match=r"no camera 'wrist' in the rollouts, they have \['front'\]"):
        PixelDownsample(cameras=("wrist",))(rollouts)
    with pytest.raises(ValueError, match="16x16 image cannot fill a grid of 32x32"):
        PixelDownsample(size=32)(rollouts)


def test_simulator_state_takes_and_scales_columns(play, walk) -> None:  # type: ignore[no-untyped-def]
    rollouts = play([walk(0.5)])
    taken = SimulatorState(columns=(2, 0), scale=(10.0, 1.0))(rollouts)
    np.testing.assert_allclose(taken[..., 0], 10 * rollouts.privileged[..., 2])
    np.testing.assert_allclose(taken[..., 1], rollouts.privileged[..., 0])
    assert taken.dtype == np.float32
    with pytest.raises(ValueError, match="has 4 columns, column 7 was asked for"):
        SimulatorState(columns=(7,))(rollouts)
    with pytest.raises(ValueError, match="1 scales for 4 columns"):
        SimulatorState(scale=(1.0,))(rollouts)


def test_collapse_is_one_for_copies_and_small_for_scatter() -> None:
    assert collapse(np.ones((4, 3))) == 1.0
    assert collapse(np.zeros((4, 3))) == 1.0
    # mean (1, 0): energy 1; vectors (1, 1) and (1, -1): energy 2
    assert collapse(np.array([[1.0, 1.0], [1.0, -1.0]])) == pytest.approx(0.5)
