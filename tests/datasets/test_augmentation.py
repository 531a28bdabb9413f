"""Augmentation: worked by hand where it can be, and the same whoever asks."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from regrip.datasets.loading.augmentation import Augmentation

NOTHING = Augmentation(1.0, None, 0, 0, 0, 0)


def images(n: int = 6, size: int = 16) -> torch.Tensor:
    rng = np.random.default_rng(0)
    return torch.from_numpy(rng.integers(0, 256, (n, 3, size, size), dtype=np.uint8))


def test_nothing_is_nothing() -> None:
    out = NOTHING(images(), (0, 1), np.arange(6))
    torch.testing.assert_close(out, images().float() / 255, atol=1e-6, rtol=0)


def test_colours_worked_by_hand() -> None:
    flat = torch.full((2, 3, 8, 8), 0, dtype=torch.uint8)
    flat[:, 0], flat[:, 1], flat[:, 2] = 100, 50, 20
    grey = 0.299 * 100 + 0.587 * 50 + 0.114 * 20
    place = np.arange(2)
    for name in ("brightness", "contrast", "saturation"):
        one = Augmentation(
            **{"crop": 1.0, "brightness": 0, "contrast": 0, "saturation": 0, "hue": 0, name: 0.5}
        )
        column = 3 + ("brightness", "contrast", "saturation").index(name)
        factor = 1 + 0.5 * (2 * one.draw(("k",), place)[:, column] - 1)
        base = {"brightness": 0.0, "contrast": grey, "saturation": grey}[name]
        want = np.clip((factor[:, None] * (np.array([100, 50, 20]) - base) + base) / 255, 0, 1)
        np.testing.assert_allclose(one(flat, ("k",), place)[:, :, 3, 3].numpy(), want, atol=1e-5)


def test_hue_turns_colours_but_not_grey_or_brightness() -> None:
    one = Augmentation(1.0, None, 0, 0, 0, 0.5)
    grey = torch.full((3, 3, 4, 4), 90, dtype=torch.uint8)
    torch.testing.assert_close(one(grey, (1,), np.arange(3)), grey.float() / 255, atol=1e-5, rtol=0)
    mild = torch.full((3, 3, 4, 4), 120, dtype=torch.uint8)
    mild[:, 0] = 140
    out = one(mild, (1,), np.arange(3))
    weight = torch.tensor([0.299, 0.587, 0.114])
    luma = torch.einsum("nchw,c->nhw", mild.float() / 255, weight)
    torch.testing.assert_close(torch.einsum("nchw,c->nhw", out, weight), luma, atol=1e-4, rtol=0)
    assert (out - mild.float() / 255).abs().max() > 0.01


def test_a_crop_is_the_part_that_was_drawn() -> None:
    ramp = torch.arange(64, dtype=torch.uint8).repeat(64, 1).expand(4, 3, 64, 64).contiguous()
    one = Augmentation(0.5, None, 0, 0, 0, 0)
    out = one(ramp, (3,), np.arange(4)) * 255
    drawn = one.draw((3,), np.arange(4))
    part = 0.5 + 0.5 * drawn[:, 0]
    left = 32 * (1 + (2 * drawn[:, 1] - 1) * (1 - part)) - 32 * part
    want = left[:, None] + (np.arange(64) + 0.5) * part[:, None] - 0.5
    np.testing.assert_allclose(out[:, 0, 10].numpy(), np.clip(want, 0, 63), atol=0.02)
    assert Augmentation(0.5, (24, 32))(ramp, (3,), np.arange(4)).shape == (4, 3, 24, 32)


def test_a_sample_gets_the_same_in_any_rank() -> None:
    one = Augmentation()
    whole = one(images(), (7, 3, "front"), np.arange(6))
    for rank in range(3):
        mine = np.arange(2 * rank, 2 * rank + 2)
        torch.testing.assert_close(one(images()[mine], (7, 3, "front"), mine), whole[mine], atol=1e-6, rtol=0)
    assert not torch.equal(one(images(), (7, 4, "front"), np.arange(6)), whole)


def test_frames_of_a_window_are_treated_alike() -> None:
    window = images(4)[:, None].expand(4, 3, 3, 16, 16)
    out = Augmentation()(window, (1,), np.arange(4))
    assert out.shape == (4, 3, 3, 16, 16)
    assert torch.equal(out[:, 0], out[:, 2])


def test_mistakes_are_named() -> None:
    with pytest.raises(ValueError, match="expected uint8"):
        NOTHING(images().float(), (), np.arange(6))
    with pytest.raises(ValueError, match="6 samples and 5 places"):
        NOTHING(images(), (), np.arange(5))
    with pytest.raises(ValueError, match="crop"):
        Augmentation(crop=1.5)
