"""A frozen V-JEPA 2 in the place of the tokenizer; here a tiny one with random weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from latent_toy import SIZE, TASK, clips, config
from transformers import VJEPA2Config, VJEPA2Model

from regrip.datasets.starts import StartState
from regrip.sim.world.calibrate import calibrate
from regrip.sim.world.encoder import FrozenEncoder
from regrip.sim.world.env import WorldEnv
from regrip.sim.world.files import WorldFileError, load_world, save_world
from regrip.sim.world.fit import encode, fit
from regrip.sim.world.starts import starts_of


def tiny(folder: Path, seed: int = 0) -> Path:
    torch.manual_seed(seed)
    settings = VJEPA2Config(
        patch_size=8, crop_size=SIZE, frames_per_clip=2, tubelet_size=2, hidden_size=24,
        num_attention_heads=2, num_hidden_layers=1, pred_hidden_size=12, pred_num_attention_heads=2,
        pred_num_hidden_layers=1,
    )  # fmt: skip
    VJEPA2Model(settings).save_pretrained(folder)
    return folder


def test_tokens_are_normalised_and_no_weight_learns_or_is_saved(tmp_path: Path) -> None:
    seen = clips(episodes=4).pictures
    encoder = FrozenEncoder(str(tiny(tmp_path)), 2, SIZE, SIZE)
    encoder.settle(seen)
    tokens = encoder.encode(torch.from_numpy(seen))
    assert tokens.shape == (len(seen), 1, 4, 24)
    torch.testing.assert_close(tokens.mean((0, 1, 2)), torch.zeros(24), atol=1e-3, rtol=0)
    assert not list(encoder.parameters())
    assert set(encoder.state_dict()) == {"mean", "std", "fingerprint"}
    # Where the square is shows in the tokens.
    assert tokens[0].sub(tokens[3]).abs().max() > 0.05


def test_such_a_world_is_fitted_and_kept_but_cannot_be_played_in(tmp_path: Path) -> None:
    folder, data = tiny(tmp_path / "eyes"), clips()
    settings = config(encoder=str(folder), encoder_side=2, steps=5)
    model = fit(data, settings)
    tokens = encode(model, data)
    assert tokens.shape == (len(data.state), 1, 4, 24)
    model.calibration = calibrate(model, data, tokens)
    starts = starts_of(data, settings)
    save_world(tmp_path / "world", model, starts, {})
    again, _, _ = load_world(tmp_path / "world")
    for one in (model, again):
        memory = one.begin(data.pictures[:2], data.state[:2])
        chunk = one.normal_action(np.ones((2, 2, 2), np.float32))
        _, step = one.step(memory, chunk, one.words([TASK] * 2))
        assert step.tokens.shape == (2, 1, 4, 24)
    with WorldEnv(again, starts, num_slots=1) as env:
        env.reset([0], [StartState(starts.tasks[0], "train", 0)])
        env.receive([0])
        env.step([0], np.zeros((1, 2, 2), np.float32))
        with pytest.raises(ValueError, match="no decoder to pictures: it can score"):
            env.receive([0])

    tiny(folder, seed=1)
    with pytest.raises(WorldFileError, match="not the one this world model was fitted with"):
        load_world(tmp_path / "world")


def test_a_folder_without_weights_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"holds no V-JEPA 2 \(config.json"):
        FrozenEncoder(str(tmp_path), 2, SIZE, SIZE)
