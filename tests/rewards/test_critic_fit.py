"""The trainer of critics and their folders: one result for one seed, apart by start state, nothing lost."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import reward_toy as toy
import torch
from critic_members import ENCODER, progress_of

from regrip.datasets.episode import concatenate
from regrip.datasets.starts import SplitError, StartState
from regrip.rewards.critics.config import CriticConfig, NetworkConfig, TrainingConfig
from regrip.rewards.critics.critic import Critic, WrongKindError
from regrip.rewards.critics.files import CriticFileError, load_critic, save_critic
from regrip.rewards.critics.fit import DataError, FitProgress, fit, prepare, split
from regrip.rewards.critics.inputs import InputError
from regrip.rewards.critics.kinds import KINDS, default_config
from regrip.rewards.critics.multi_head import MultiHeadOptions, MultiHeadRewardModel
from regrip.rewards.critics.success import FrameSuccess
from regrip.rewards.scorers import FrameProgress, frames_of

torch.set_num_threads(1)
TINY = NetworkConfig((4, 8), embedding=12, text=8, hidden=16, layers=1, heads=2)


def tiny(kind: str, steps: int = 4, **training: Any) -> CriticConfig[Any]:
    told = TrainingConfig(steps=steps, batch=8, evaluate_every=2, **training)
    return replace(default_config(kind), network=TINY, training=told)


def weights(critic: Critic) -> dict[str, torch.Tensor]:
    return critic.network.state_dict()


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_saved_and_comes_back_the_same(kind: str, tmp_path: Path) -> None:
    """From the pixels of both cameras, and twice the same weights."""
    rollouts = toy.many(6, 3)
    critic, again = fit(kind, rollouts, tiny(kind), seed=3), fit(kind, rollouts, tiny(kind), seed=3)
    assert all(torch.equal(held, weights(again)[name]) for name, held in weights(critic).items())
    save_critic(critic, tmp_path)
    back = load_critic(tmp_path, kind)
    assert back.config == critic.config
    assert back.card == critic.card
    before, after = progress_of(critic).progress(rollouts), progress_of(back).progress(rollouts)
    assert np.array_equal(before.value, after.value)
    assert before.valid.all()


def test_another_seed_gives_another_critic_and_another_split() -> None:
    rollouts = toy.many(9, 6)
    material = prepare(rollouts, tiny("success"), ENCODER, None, {})[0]
    held = [split(rollouts, material, 0.3, seed)[1].rows.tolist() for seed in range(4)]
    assert len({tuple(rows) for rows in held}) > 1
    one, two = (fit("success", rollouts, tiny("success", 2), seed=seed) for seed in (0, 1))
    assert any(not torch.equal(held, weights(two)[name]) for name, held in weights(one).items())


def test_episodes_of_one_start_stay_together() -> None:
    played = [toy.carry([toy.Carry(1.0, "red", index, row) for index in range(6)]) for row in range(4)]
    rollouts = concatenate(played)
    material = prepare(rollouts, tiny("success"), ENCODER, None, {})[0]
    training, held_out = split(rollouts, material, 0.3, seed=0)
    starts = [{rollouts.start[row] for row in part.rows} for part in (training, held_out)]
    assert starts[0]
    assert starts[1]
    assert not starts[0] & starts[1]
    assert len(training.rows) + len(held_out.rows) == 24


def test_training_stops_when_the_held_out_loss_no_longer_falls() -> None:
    told: list[FitProgress] = []
    config = tiny("success", steps=400, patience=2, learning_rate=0.03)
    critic = fit("success", toy.many(6, 3), config, encoder=ENCODER, progress=told.append)
    assert told[-1].step < 400
    losses = [at.held_out for at in told]
    assert critic.card["steps"] == told[int(np.argmin(losses))].step
    assert critic.card["held_out"]["loss"] == min(losses)
    assert critic.card["steps"] == told[-1].step - 2 * 2


def test_the_card_says_what_was_learned_from() -> None:
    rollouts = toy.many(6, 3)
    broken = replace(rollouts, invalid=np.arange(9) == 8, instruction=["", *rollouts.instruction[1:]])
    card = fit("success", [broken], tiny("success", 2), command="as typed").card
    assert card["left_out"] == 2
    assert card["episodes"] + card["held_out_episodes"] == 7
    assert card["command"] == "as typed"
    assert card["sentences"] == 3
    assert set(card["held_out"]) >= {"loss"}
    other = replace(broken, success=~broken.success, truncated=broken.success)
    assert fit("success", other, tiny("success", 2)).card["data"] != card["data"]


def test_test_starts_are_refused() -> None:
    with pytest.raises(SplitError, match="`fit` of 'success' was given the test start"):
        fit("success", toy.many(4, 0, split="test"), tiny("success"))


def test_too_little_data_is_said() -> None:
    with pytest.raises(DataError, match="0 of 4 start states have a success"):
        fit("success", toy.many(0, 4), tiny("success"))
    one = toy.carry([toy.Carry(row=row) for row in range(3)])
    with pytest.raises(DataError, match="1 of 1 start states have a success, expected at least 2"):
        fit("vlac", one, tiny("vlac"))
    with pytest.raises(DataError, match="none of 2 episodes can be learned from"):
        fit("sarm", replace(toy.many(2, 0), invalid=np.ones(2, bool)), tiny("sarm"))


def test_a_single_task_and_no_failures_suffice() -> None:
    rollouts = toy.carry([toy.Carry(1.0, "red", index) for index in range(4)])
    for kind in KINDS:
        critic = fit(kind, rollouts, tiny(kind, 2), encoder=ENCODER)
        assert critic.card["sentences"] == 1
        assert "auroc" not in critic.card["held_out"]


def test_an_episode_of_one_decision_is_no_obstacle() -> None:
    rollouts = toy.many(6, 0)
    valid = rollouts.valid.copy()
    valid[:3, 1:] = False
    for kind in KINDS:
        critic = fit(kind, replace(rollouts, valid=valid), tiny(kind, 6), encoder=ENCODER)
        assert np.isfinite(critic.card["held_out"]["loss"])


def test_embeddings_and_text_vectors_of_ones_own(tmp_path: Path) -> None:
    def letters(sentences: Any) -> np.ndarray:
        return np.array([[said.count(c) for c in "regbnlu"] for said in sentences], np.float32)

    rollouts = toy.many(6, 3)
    critic = fit("rewind", rollouts, tiny("rewind"), encoder=ENCODER, text_encoder=letters)
    save_critic(critic, tmp_path)
    with pytest.raises(CriticFileError, match="encoder is None, but it was trained with PixelDownsample"):
        load_critic(tmp_path)
    back = load_critic(tmp_path, encoder=ENCODER, text_encoder=letters)
    levels = progress_of(back).progress(rollouts).value
    assert np.array_equal(levels, progress_of(critic).progress(rollouts).value)
    with pytest.raises(InputError, match=r"returned \(3, 2\), expected \(3, 7\)"):
        progress_of(replace(back, text_encoder=lambda said: letters(said)[:, :2])).progress(rollouts)


def test_annotated_stages_and_scores_are_learned_from() -> None:
    rollouts = toy.many(6, 3)
    stage = np.tile((np.arange(12) >= 6).astype(np.float32), (9, 1))
    sarm = replace(tiny("sarm"), options=replace(default_config("sarm").options, stages=2))
    critic = fit("sarm", rollouts, sarm, encoder=ENCODER, annotations={"stage": stage})
    # Of the eight steps to the last of nine frames, six are in the first stage.
    assert weights(critic)["knots"].tolist() == pytest.approx([0, 0.75, 1])
    near = np.clip(rollouts.privileged[..., 0], 0, 1)
    options = MultiHeadOptions(gates=("on_task", "near"), heads=("success",), weights=(1.0,))
    config = replace(tiny("multi_head"), options=options)
    critic = fit("multi_head", rollouts, config, encoder=ENCODER, annotations={"near": near})
    frames = frames_of(rollouts, np.arange(3), np.zeros(3, np.int64))
    assert list(MultiHeadRewardModel(critic).heads(frames)) == ["on_task", "near", "success"]
    with pytest.raises(ValueError, match="no annotation for near"):
        fit("multi_head", rollouts, config, encoder=ENCODER)
    with pytest.raises(ValueError, match=r"annotation 'near' is \(9, 3\)"):
        fit("multi_head", rollouts, config, encoder=ENCODER, annotations={"near": near[:, :3]})


class TestFolders:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        save_critic(fit("success", toy.many(4, 2), tiny("success", 2, cameras=("front",))), tmp_path)
        return tmp_path

    def test_of_another_kind(self, folder: Path) -> None:
        with pytest.raises(WrongKindError, match="of kind 'success', expected 'rewind'"):
            load_critic(folder, "rewind")

    @pytest.mark.parametrize("name", ["critic.json", "critic.safetensors"])
    def test_torn(self, folder: Path, name: str) -> None:
        whole = (folder / name).read_bytes()
        (folder / name).write_bytes(whole[: len(whole) // 2])
        with pytest.raises(CriticFileError, match=rf"{name} is damaged"):
            load_critic(folder)
        (folder / name).unlink()
        with pytest.raises(CriticFileError, match=r"missing|cannot be read"):
            load_critic(folder)

    def test_edited(self, folder: Path) -> None:
        about = json.loads((folder / "critic.json").read_bytes())
        about["config"]["network"]["wings"] = 2
        (folder / "critic.json").write_text(json.dumps(about))
        with pytest.raises(CriticFileError, match="wings"):
            load_critic(folder)
        (folder / "critic.json").write_text('{"format": "another"}')
        with pytest.raises(CriticFileError, match="it holds no critic"):
            load_critic(folder)

    def test_other_cameras_and_sizes_are_named(self, folder: Path) -> None:
        scorer = FrameProgress(FrameSuccess(load_critic(folder)))
        rollouts = toy.many(2, 0)
        with pytest.raises(InputError, match=r"no camera 'front' .* it has \['close'\]"):
            scorer.progress(replace(rollouts, images={"close": rollouts.images["close"]}))
        small = {name: frames[:, :, ::2, ::2] for name, frames in rollouts.images.items()}
        with pytest.raises(InputError, match=r"'front' are 16x16 .* the critic expects 32x32"):
            scorer.progress(replace(rollouts, images=small))


def test_settings_that_make_no_sense_are_named() -> None:
    with pytest.raises(ValueError, match="heads divide hidden"):
        NetworkConfig(hidden=10, heads=4)
    with pytest.raises(ValueError, match=r"held_out is 1\.5"):
        TrainingConfig(held_out=1.5)
    with pytest.raises(ValueError, match="did you mean 'rewind'"):
        default_config("rewnd")
    with pytest.raises(ValueError, match="weights"):
        MultiHeadOptions(weights=(1.0,))


def test_starts_of_the_select_split_may_be_learned_from() -> None:
    rollouts = toy.many(4, 2, split="select")
    assert rollouts.start[0] == StartState("toy/red", "select", 0)
    fit("success", rollouts, tiny("success", 2), encoder=ENCODER)
