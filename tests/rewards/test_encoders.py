"""Encoders: real models of open_clip and transformers, small and with random weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import reward_toy as toy
import torch
from encoder_models import CLIP, PREPROCESS, Counting, small_clip, small_siglip
from numpy.typing import NDArray
from transformers import Dinov2Config, Dinov2Model, DINOv3ViTConfig, DINOv3ViTModel, VJEPA2Config, VJEPA2Model

from regrip.rewards.encoders import (
    CameraEncoder,
    MeanFrames,
    Preprocess,
    TextCache,
    VideoWindows,
    resample,
    unit,
)
from regrip.rewards.open_clip_encoder import OpenClip, save
from regrip.rewards.self_referential import SelfReferential
from regrip.rewards.transformers_encoders import Dino, Siglip, VJepa, preprocess_of

WORDS = ["move the red block", "move the green block", "nothing has been done yet"]


def pictures(count: int, side: int = 40) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (count, side, side, 3), dtype=np.uint8)


def small_dino(kind: str) -> Dino:
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 32}
    torch.manual_seed(0)
    if kind == "dinov2":
        return Dino(Dinov2Model(Dinov2Config(patch_size=8, **sizes)), PREPROCESS)
    return Dino(DINOv3ViTModel(DINOv3ViTConfig(patch_size=8, intermediate_size=64, **sizes)), PREPROCESS)


def small_vjepa(batch: int = 4) -> VJepa:
    torch.manual_seed(0)
    config = VJEPA2Config(
        patch_size=8,
        crop_size=32,
        frames_per_clip=4,
        hidden_size=32,
        num_attention_heads=2,
        num_hidden_layers=2,
        pred_hidden_size=32,
        pred_num_attention_heads=2,
        pred_num_hidden_layers=1,
    )
    return VJepa(VJEPA2Model(config), PREPROCESS, batch=batch)


@pytest.mark.parametrize("kind", ["clip", "siglip", "dinov2", "dinov3"])
def test_pictures_become_unit_vectors_whatever_the_batch(kind: str, tmp_path: Path) -> None:
    encoder = {"clip": small_clip, "siglip": small_siglip}.get(kind, lambda: small_dino(kind))()
    encoder.batch = 3
    shown = pictures(7)
    found = encoder.images(shown)
    assert found.shape == (7, encoder.width)
    assert found.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    one_by_one = np.concatenate([encoder.images(shown[row : row + 1]) for row in range(7)])
    np.testing.assert_allclose(found, one_by_one, atol=1e-5)
    assert encoder.images(shown[:0]).shape == (0, encoder.width)
    assert len(np.unique(found.round(4), axis=0)) == 7
    with pytest.raises(ValueError, match=r"pictures are float64 \(2, 4\), expected uint8"):
        encoder.images(np.zeros((2, 4)))  # type: ignore[arg-type]


@pytest.mark.parametrize("make", [small_clip, small_siglip])
def test_sentences_become_unit_vectors(make) -> None:  # type: ignore[no-untyped-def]
    encoder = make()
    found = encoder.texts(WORDS)
    assert found.shape == (3, encoder.width)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    foreign = encoder.texts(["赤いブロックを動かす", "déplace le bloc rouge"])
    assert np.isfinite(foreign).all()
    with pytest.raises(ValueError, match=r"sentence 1 of 2 is empty \(' '\)"):
        encoder.texts(["a", " "])
    with pytest.warns(UserWarning, match="cuts the rest of 'block block"):
        encoder.texts(["block " * 200])


def test_a_sentence_is_encoded_once_and_so_is_a_picture() -> None:
    calls: list[list[str]] = []

    def encode(texts: list[str]) -> NDArray[np.float64]:
        calls.append(texts)
        return np.array([[len(text), 1.0] for text in texts])

    cache = TextCache(encode, batch=2)
    cache(["a", "bb", "a", "ccc"])
    cache(["bb", "dddd"])
    assert calls == [["a", "bb"], ["ccc"], ["dddd"]]
    np.testing.assert_allclose(cache(["bb"]), [[2 / np.sqrt(5), 1 / np.sqrt(5)]], rtol=1e-6)

    encoder = Counting(small_clip())
    same = pictures(2)[[0, 1, 0, 0, 1]]
    found = encoder.images(same)
    assert encoder.seen == 2
    assert np.array_equal(found[0], found[2])
    assert np.array_equal(found[1], found[4])


def test_what_has_no_direction_is_nan() -> None:
    found = unit(np.array([[3.0, 4.0], [0.0, 0.0], [np.nan, 1.0], [np.inf, 1.0]]))
    np.testing.assert_allclose(found[0], [0.6, 0.8], rtol=1e-6)
    assert np.isnan(found[1:]).any(1).all()


def test_preprocess_by_hand() -> None:
    plain = Preprocess((2, 2), (0.5, 0.5, 0.5), (0.25, 0.25, 0.25), interpolation="bilinear")
    white = np.full((1, 2, 2, 3), 255, np.uint8)
    assert torch.equal(plain(white), torch.full((1, 3, 2, 2), 2.0))
    wide = np.zeros((1, 4, 8, 3), np.uint8)
    wide[:, :, 4:] = 200
    squeezed = plain(wide)
    assert torch.equal(squeezed[0, 0, :, 1] > squeezed[0, 0, :, 0], torch.tensor([True, True]))
    cut = replace(plain, size=(4, 4), shortest=4)(wide)[0, 0] * 0.25 + 0.5  # the middle four columns
    np.testing.assert_allclose(cut[0].numpy() * 255, [0, 0, 200, 200], atol=1e-3)
    with pytest.raises(ValueError, match="cannot hold a crop"):
        replace(plain, shortest=1)


def test_pictures_are_cut_as_the_models_own_code_does() -> None:
    from open_clip import image_transform
    from PIL import Image

    shown = np.kron(pictures(1, 12)[0], np.ones((5, 4, 1), np.uint8))  # 60 high, 48 wide
    theirs = image_transform(32, is_train=False, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4))
    ours = Preprocess((32, 32), (0.4, 0.5, 0.6), (0.2, 0.3, 0.4), shortest=32)
    difference = (theirs(Image.fromarray(shown)) - ours(shown[None])[0]).abs()
    assert difference.max() < 2.5 / 255 / 0.2  # two grey levels: rounding in between


def test_processor_settings_are_read() -> None:
    dino = {
        "crop_size": {"height": 224, "width": 224},
        "do_center_crop": True,
        "image_mean": [0.485, 0.456, 0.406],
        "image_std": [0.229, 0.224, 0.225],
        "resample": 3,
        "rescale_factor": 0.00392156862745098,
        "size": {"shortest_edge": 256},
    }
    assert preprocess_of(dino) == Preprocess((224, 224), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), 256)
    siglip = {
        "size": {"height": 384, "width": 384},
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
        "resample": 2,
    }
    squeezed = preprocess_of(siglip)
    assert (squeezed.size, squeezed.shortest, squeezed.interpolation) == ((384, 384), None, "bilinear")
    with pytest.raises(ValueError, match="resamples by 1; expected 2"):
        preprocess_of({**siglip, "resample": 1})
    with pytest.raises(ValueError, match="no image_mean"):
        preprocess_of({"size": 224})


def test_models_are_read_back_from_folders(tmp_path: Path) -> None:
    shown = pictures(2)
    clip = small_clip()
    save(clip, CLIP, tmp_path / "clip")
    again = OpenClip.load(tmp_path / "clip")
    assert np.array_equal(again.images(shown), clip.images(shown))
    assert np.array_equal(again.texts(WORDS), clip.texts(WORDS))
    assert again.preprocess == clip.preprocess

    settings = '{"size": {"height": 32, "width": 32}, "resample": 3, "image_mean": [0.5, 0.5, 0.5], ' + (
        '"image_std": [0.25, 0.25, 0.25]}'
    )
    siglip, dino, video = small_siglip(), small_dino("dinov3"), small_vjepa()
    for name, encoder in {"siglip": siglip, "dino": dino, "video": video}.items():
        encoder.model.save_pretrained(tmp_path / name)
        (tmp_path / name / "preprocessor_config.json").write_text(settings)
        (tmp_path / name / "video_preprocessor_config.json").write_text(settings)
    siglip.tokenizer.save_pretrained(tmp_path / "siglip")
    assert np.array_equal(Siglip.load(tmp_path / "siglip").images(shown), siglip.images(shown))
    assert np.array_equal(Siglip.load(tmp_path / "siglip").texts(WORDS), siglip.texts(WORDS))
    assert np.array_equal(Dino.load(tmp_path / "dino").images(shown), dino.images(shown))
    assert np.array_equal(VJepa.load(tmp_path / "video").videos([shown]), video.videos([shown]))


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"there is no folder \./nowhere"):
        Dino.load("./nowhere")
    with pytest.raises(ValueError, match="neither a folder, nor hf-hub:"):
        OpenClip.load("ViT-Z-99")
    with pytest.raises(ValueError, match="give `checkpoint`, a file or a tag"):
        OpenClip.load("ViT-B-32")
    with pytest.raises(FileNotFoundError, match="no checkpoint /nowhere/weights"):
        OpenClip.load("ViT-B-32", "/nowhere/weights")
    with pytest.raises(FileNotFoundError, match=r"holds no open_clip_config\.json"):
        OpenClip.load(tmp_path)
    small_siglip().model.vision_model.save_pretrained(tmp_path / "half")
    with pytest.raises(ValueError, match="holds a 'siglip_vision_model' model, expected one of dinov2"):
        Dino.load(tmp_path / "half")
    with pytest.raises(ValueError, match="counts positions in frames of 32x32"):
        VJepa(small_vjepa().model, replace(PREPROCESS, size=(16, 16)))


def test_clips_of_any_length() -> None:
    encoder = small_vjepa(batch=2)
    shown = pictures(9)
    clips = [shown[:1], shown[:4], shown, shown[::-1], shown[:4]]
    found = encoder.videos(clips)
    assert found.shape == (5, 32)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    assert np.array_equal(found[1], found[4])
    assert np.abs(found[2] - found[3]).max() > 1e-4  # order matters
    np.testing.assert_allclose(encoder.videos([shown]), found[2:3], atol=1e-5)
    np.testing.assert_allclose(encoder.videos([shown[resample(9, 4)]]), found[2:3], atol=1e-5)
    with pytest.raises(ValueError, match="clip 1 of 2 has no frames"):
        encoder.videos([shown, shown[:0]])


def test_means_of_frames_keep_the_order_only_in_parts() -> None:
    shown = pictures(6)
    whole, parts = MeanFrames(small_clip()), MeanFrames(small_clip(), parts=3)
    forth, back = whole.videos([shown, shown[::-1]])
    np.testing.assert_allclose(forth, back, atol=1e-6)
    forth, back = parts.videos([shown, shown[::-1]])
    assert np.abs(forth - back).max() > 1e-3
    np.testing.assert_allclose(np.linalg.norm(parts.texts(WORDS), axis=1), 1, atol=1e-5)


@pytest.mark.parametrize("kind", ["clip", "siglip", "dinov2", "dinov3", "v-jepa"])
def test_the_self_referential_reward_runs_on_every_encoder(kind: str) -> None:
    rollouts = toy.many(5, 4)
    makers = {"clip": small_clip, "siglip": small_siglip}
    encoder = (
        VideoWindows(small_vjepa(), ("front",), window=4)
        if kind == "v-jepa"
        else CameraEncoder(makers[kind]() if kind in makers else small_dino(kind), ("front", "close"))
    )
    found = encoder(rollouts)
    assert found.shape == (9, 12, 64 if kind != "v-jepa" else 32)
    assert not found[~rollouts.decision_valid].any()
    signal = SelfReferential(encoder)(rollouts)
    assert signal.valid.all()
    assert (signal.value.sum((1, 2))[rollouts.success] == 1).all()


def test_a_window_sees_what_was_seen_and_no_more() -> None:
    rollouts, video = toy.many(1, 1), small_vjepa()
    found = VideoWindows(video, ("front",), window=3)(rollouts)
    frames = rollouts.images["front"][1]
    np.testing.assert_allclose(found[1, 0], video.videos([frames[:1]])[0], atol=1e-5)
    np.testing.assert_allclose(found[1, 7], video.videos([frames[5:8]])[0], atol=1e-5)
    whole = VideoWindows(video, ("front",), window=None)(rollouts)
    np.testing.assert_allclose(whole[0, :9], np.tile(video.videos([rollouts.images["front"][0, :9]]), (9, 1)))
    assert not whole[0, 9:].any()


def test_a_missing_camera_is_named() -> None:
    with pytest.raises(ValueError, match=r"no camera 'side' in the rollouts, they have \['close', 'front'\]"):
        CameraEncoder(small_clip(), ("side",))(toy.many(1, 0))


def test_memory_is_bounded_by_the_batch() -> None:
    encoder = Counting(small_clip())
    CameraEncoder(encoder, ("front",), batch=5)(toy.many(3, 3))
    assert encoder.largest == 5
