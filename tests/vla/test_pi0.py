"""A small pi-zero of random weights: what it samples, recomputes, learns, saves and refuses."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PI0Config

from regrip.datasets.episode import Observation, Rollouts
from regrip.datasets.spec import Axis, Camera, RobotSpec, SpecMismatchError
from regrip.datasets.starts import StartState
from regrip.vla import flow, grpo, ppo
from regrip.vla.normalizer import Normalizer
from regrip.vla.numerics import play, tiny_policy
from regrip.vla.pi0 import Pi0Policy, Settings
from regrip.vla.policy_files import load_policy, save_policy
from regrip.vla.text import build_tokenizer
from regrip.vla.vision import VisionTower

torch.set_num_threads(1)

EVERY_HEAD = [
    Settings(stochastic_step="random", denoise_steps=3),
    Settings(stochastic_step="last"),
    Settings(head="tokens", bins=16, temperature=1.6),
]
each_head = pytest.mark.parametrize("settings", EVERY_HEAD, ids=["flow-random", "flow-last", "tokens"])


def observe(count: int, seed: int = 0) -> Observation:
    """`count` different observations of the made-up robot."""
    draw = np.random.default_rng(seed)
    return Observation(
        images={
            name: draw.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8) for name in ("front", "wrist")
        },
        state=draw.uniform(-1, 1, (count, 4)).astype(np.float32),
        instruction=["lift the red block" if row % 3 else "push the blue block away" for row in range(count)],
    )


def keys(count: int) -> list[tuple[str | int, ...]]:
    return [("test", row) for row in range(count)]


def weights(policy: Pi0Policy) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in policy.weights().items()}


def same_bits(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def rollouts(policy: Pi0Policy, episodes: int, decisions: int, group_size: int) -> Rollouts:
    """Episodes made of invented observations; the last chunk of each is cut."""
    batch = play(policy, episodes * decisions)

    def shaped(values: Tensor) -> Any:
        return values.reshape(episodes, decisions, *values.shape[1:]).numpy()

    valid = np.ones((episodes, decisions, policy.chunk_size), bool)
    valid[:, -1] = shaped(batch.valid)[:, -1]
    success = np.arange(episodes) % 2 == 0
    return Rollouts(
        start=[StartState("toy/a", "train", row // group_size) for row in range(episodes)],
        group=np.arange(episodes) // group_size,
        instruction=["lift the red block"] * episodes,
        images={name: shaped(batch.pixels[:, i]) for i, name in enumerate(policy.cameras)},
        state=shaped(batch.state),
        privileged=np.zeros((episodes, decisions, 1), np.float32),
        action=shaped(batch.action),
        valid=valid,
        reward=np.zeros(valid.shape, np.float32),
        success=success,
        truncated=~success,
        invalid=np.zeros(len(success), bool),
        latent={name: shaped(value) for name, value in batch.latent.items()},
        log_prob=shaped(batch.log_prob),
        policy_version=0,
    )


def replayed(policy: Pi0Policy, played: Rollouts) -> Rollouts:
    """The same rollouts as the policy itself acted in them: `play` says another sentence to some rows."""
    episodes, decisions = played.valid.shape[:2]
    observation = Observation(
        images={name: frames.reshape(-1, *frames.shape[2:]) for name, frames in played.images.items()},
        state=played.state.reshape(episodes * decisions, -1),
        instruction=[text for text in played.instruction for _ in range(decisions)],
    )
    sample = policy.act(observation, keys(len(observation)))

    def shaped(values: Any) -> Any:
        return values.reshape(episodes, decisions, *values.shape[1:])

    latent = {name: shaped(value) for name, value in sample.latent.items()}
    return dataclasses.replace(
        played, action=shaped(sample.action), log_prob=shaped(sample.log_prob), latent=latent
    )


# ---- acting and recomputing --------------------------------------------------------------------------------


@each_head
def test_training_recomputes_what_acting_said(settings: Settings) -> None:
    policy = tiny_policy(settings=settings)
    batch = play(policy, 16)
    seen = policy.evaluate(batch)
    assert seen.log_prob.dtype == seen.value.dtype == torch.float32
    assert seen.log_prob.requires_grad
    torch.testing.assert_close(seen.log_prob.detach(), batch.log_prob, atol=5e-5, rtol=0)
    torch.testing.assert_close(seen.value.detach(), batch.latent["value"], atol=1e-5, rtol=0)
    if settings.head == "flow":
        steps = set(batch.latent["step"].tolist())
        assert steps == ({0, 1, 2} if settings.stochastic_step == "random" else {1})


@each_head
def test_rows_do_not_depend_on_the_batch(settings: Settings) -> None:
    """Rows with one observation share a prefix; alone, or in another order, they answer the same."""
    policy = tiny_policy(settings=settings)
    observation = observe(6).take([0, 1, 1, 1, 4, 5])
    whole = policy.act(observation, keys(6))
    order = [3, 5, 0, 2]
    part = policy.act(observation.take(order), [keys(6)[row] for row in order])
    np.testing.assert_allclose(part.action, whole.action[order], atol=1e-6)
    np.testing.assert_allclose(part.log_prob, whole.log_prob[order], atol=5e-5)
    for row in range(6):
        alone = policy.act(observation.take([row]), [keys(6)[row]])
        np.testing.assert_allclose(alone.action[0], whole.action[row], atol=1e-6)
        np.testing.assert_allclose(alone.log_prob[0], whole.log_prob[row], atol=5e-5)
        for name, value in alone.latent.items():
            np.testing.assert_allclose(value[0], whole.latent[name][row], atol=1e-5)
    assert np.abs(whole.action[1] - whole.action[2]).max() > 1e-4  # same observation, another key
    again = policy.act(observation.take([1, 1]), [keys(6)[1]] * 2)
    np.testing.assert_allclose(again.action[0], again.action[1], atol=1e-7)


@each_head
def test_greedy_has_no_randomness(settings: Settings) -> None:
    policy = tiny_policy(settings=settings)
    torch.manual_seed(1)
    first = policy.act(observe(4), None)
    torch.manual_seed(2)
    state = torch.random.get_rng_state()
    second = policy.act(observe(4), None)
    policy.act(observe(4), keys(4))
    assert torch.equal(torch.random.get_rng_state(), state)  # nor does sampling touch the global generator
    assert first.action.tobytes() == second.action.tobytes()
    assert not first.log_prob.any()


def test_actions_are_within_the_robots_limits() -> None:
    policy = tiny_policy(settings=Settings(noise_level=20.0))
    action = policy.act(observe(16), keys(16)).action
    assert action.shape == (16, 5, 3)
    assert action.dtype == np.float32
    assert np.abs(action).max() == pytest.approx(0.05)  # it hits the limit and stays there


@each_head
def test_only_executed_steps_and_real_dimensions_count(settings: Settings) -> None:
    policy = tiny_policy(settings=settings)
    batch = play(policy, 8)
    expected = policy.evaluate(batch).log_prob.detach()
    latent = dict(batch.latent)
    if settings.head == "tokens":
        latent["token"] = torch.where(batch.valid[..., None], latent["token"], 0)
    else:
        assert latent["after"].shape == (8, 5, 5)  # the network has two dimensions more than the robot
        after = torch.where(batch.valid[..., None], latent["after"], 7.0)
        after[..., 3:] = -3.0
        latent["after"] = after
    found = policy.evaluate(dataclasses.replace(batch, latent=latent)).log_prob.detach()
    assert torch.equal(found[batch.valid], expected[batch.valid])
    assert (found[~batch.valid] != expected[~batch.valid]).all()
    if settings.head == "flow":  # and what is real and executed does count
        after = batch.latent["after"].clone()
        after[..., 0] += 0.5
        moved = policy.evaluate(dataclasses.replace(batch, latent={**latent, "after": after})).log_prob
        assert (moved[batch.valid] != expected[batch.valid]).all()


@pytest.mark.parametrize("stem", ["patch", "keypoint"])
def test_greedy_sampling_is_that_of_transformers(stem: Any) -> None:
    """`prefix` embeds as `embed_prefix`; from the same noise, the ODE ends where `sample_actions` ends."""
    policy = tiny_policy(settings=Settings(stem=stem, denoise_steps=4))
    observation = observe(5)
    pixels = torch.from_numpy(np.stack([observation.images[name] for name in policy.cameras], axis=1))
    state = policy.normal_state(torch.from_numpy(observation.state))
    ids, mask = policy._prompt(observation.instruction)
    assert len(set(mask.sum(-1).tolist())) == 2  # sentences of two lengths, so padding matters
    official = {
        "input_ids": ids,
        "pixel_values": pixels.permute(0, 1, 4, 2, 3).float() / 127.5 - 1.0,
        "pixel_attention_mask": torch.ones(5, 2, dtype=torch.bool),
    }
    given: dict[str, Tensor] = {}

    def spy(module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        given["embeds"] = kwargs["inputs_embeds"]

    noise = torch.randn(5, 5, 5, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        handle = policy.pi0.model.vlm.register_forward_pre_hook(spy, with_kwargs=True)
        prefix = policy.prefix(pixels, observation.instruction)
        handle.remove()
        embedded = policy.pi0.model.embed_prefix(**official)
        ours, *_ = flow.sample(policy.velocity(state, prefix), noise, 4, 0.0, None, None)
    theirs = policy.pi0.sample_actions(state, noise=noise, attention_mask=mask, num_steps=4, **official)
    torch.testing.assert_close(given["embeds"], embedded, atol=1e-6, rtol=0)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


def test_token_frequencies_are_their_probabilities() -> None:
    policy = tiny_policy(settings=Settings(head="tokens", bins=8))
    count = 3000
    one = observe(1)
    sample = policy.act(one.take([0] * count), [("frequency", row) for row in range(count)])
    prefix = policy.prefix(torch.from_numpy(np.stack(list(one.images.values()), 1)), one.instruction)
    logits = policy._token_logits(policy.normal_state(torch.from_numpy(one.state)), prefix)[0].detach()
    probability = logits.softmax(-1).numpy()
    np.testing.assert_allclose(probability.sum(-1), 1.0, atol=1e-6)
    token = np.asarray(sample.latent["token"], np.int64)
    expected = np.take_along_axis(np.log(probability)[None], token[..., None], -1)[..., 0].sum(-1)
    np.testing.assert_allclose(sample.log_prob, expected, atol=1e-5)
    frequency = np.stack([(token == bin_).mean(0) for bin_ in range(8)], -1)
    error = np.sqrt(probability * (1 - probability) / count)
    assert np.abs((frequency - probability) / error).max() < 4.5
    low, high = policy.action_q01.numpy(), policy.action_q99.numpy()  # type: ignore[operator]
    np.testing.assert_allclose(sample.action, low + (token + 0.5) / 8 * (high - low), atol=1e-6)


def test_temperature_is_the_same_in_acting_and_training() -> None:
    warm, cold = (tiny_policy(settings=Settings(head="tokens", bins=16, temperature=t)) for t in (1.6, 0.5))
    batch = play(warm, 8)
    gap = (cold.evaluate(batch).log_prob - batch.log_prob).abs().max()
    assert gap > 1e-3  # same weights, other temperature: the ratio says so


# ---- learning ----------------------------------------------------------------------------------------------


@each_head
def test_groups_without_difference_leave_every_bit_alone(settings: Settings) -> None:
    policy = tiny_policy(settings=settings)
    before, played = weights(policy), replayed(policy, rollouts(policy, 4, 2, 2))
    for returns in (np.zeros(4), np.ones(4), np.array([0.0, 0.0, 1.0, 1.0])):
        optimizer = grpo.optimizer(policy, grpo.GrpoConfig())
        metrics = grpo.update(policy, optimizer, played, returns, grpo.GrpoConfig(), ("t",))
        assert metrics == {"live_episodes": 0.0, "decisions": 0.0}
    assert same_bits(before, weights(policy))


@each_head
def test_grpo_raises_what_went_well(settings: Settings) -> None:
    policy = tiny_policy(settings=settings)
    played = replayed(policy, rollouts(policy, 4, 2, 2))
    returns = np.array([1.0, 0.0, 0.0, 1.0])
    config = grpo.GrpoConfig(learning_rate=1e-4)
    metrics = grpo.update(policy, grpo.optimizer(policy, config), played, returns, config, ("t",))
    assert metrics["ratio_gap"] < 5e-5
    assert metrics["live_episodes"] == 1.0
    after = policy.evaluate(grpo.flatten(played, policy.cameras)).log_prob.detach().numpy()
    gain = (after.reshape(played.log_prob.shape) - played.log_prob) * played.valid
    assert gain[[0, 3]].sum() > gain[[1, 2]].sum() + 0.01


@each_head
def test_critic_warms_up_alone(settings: Settings) -> None:
    policy = tiny_policy(settings=settings)
    played = replayed(policy, rollouts(policy, 4, 2, 2))
    reward = np.where(played.success[:, None, None], played.valid, 0).astype(np.float32)
    config = ppo.PpoConfig(warmup_iterations=1)
    optimizer, before = ppo.optimizer(policy, config), weights(policy)
    ppo.update(policy, optimizer, played, reward, config, ("t",), iteration=0)
    moved = {name for name, value in weights(policy).items() if not torch.equal(value, before[name])}
    assert moved
    assert all(name.startswith("critic.") for name in moved)
    ppo.update(policy, optimizer, played, reward, config, ("t",), iteration=1)
    moved = {name for name, value in weights(policy).items() if not torch.equal(value, before[name])}
    assert ("token_out.weight" if settings.head == "tokens" else "pi0.action_out_proj.weight") in moved


def test_ppo_discounts_a_chunk_by_the_steps_that_are_executed() -> None:
    """Of five planned steps two are executed, the episode is won in the second chunk's first.

    The critic says 0, so its targets are 1 for the second decision and 0.5 ** 2 for the first, and half their
    squares its loss.
    """
    policy = tiny_policy(settings=Settings(execute=2))
    last = policy.critic.layers[-1]
    assert isinstance(last, torch.nn.Linear)
    with torch.no_grad():
        last.weight.zero_()
        last.bias.zero_()
    played = rollouts(policy, 4, 2, 2)
    played.valid[:] = [[True, True, False, False, False], [True, False, False, False, False]]
    played = replayed(policy, played)
    reward = np.zeros(played.valid.shape, np.float32)
    reward[:, 1, 0] = 1.0
    config = ppo.PpoConfig(granularity="chunk", gamma=0.5, lam=1.0, epochs=1, warmup_iterations=1)
    metrics = ppo.update(policy, ppo.optimizer(policy, config), played, reward, config, ("t",), iteration=0)
    assert metrics["value_loss"] == pytest.approx((0.5 * 0.25**2 + 0.5) / 2)


@each_head
def test_a_few_demonstrations_are_learnt(settings: Settings) -> None:
    policy = tiny_policy(settings=settings)
    batch = play(policy, 8)
    target = torch.linspace(-0.03, 0.03, 8)[:, None, None].expand(8, 5, 3).contiguous()
    batch = dataclasses.replace(batch, action=target, valid=torch.ones(8, 5, dtype=torch.bool))
    optimizer = torch.optim.Adam(policy.parameters(), lr=3e-3)

    def loss(seed: int, draws: int) -> Tensor:
        return policy.imitation_loss(batch, torch.Generator().manual_seed(seed), draws=draws)

    first = loss(0, 64).item()
    for step in range(60):
        optimizer.zero_grad()
        loss(1 + step, 4).backward()
        optimizer.step()
    assert loss(0, 64).item() < first / 2


def test_demonstrations_that_are_not_valid_teach_nothing() -> None:
    policy = tiny_policy()
    batch = play(policy, 4)
    valid = batch.valid.clone()
    valid[2] = False
    losses = []
    for wrong in (0.0, 0.04):
        action = batch.action.clone()
        action[2] = wrong
        part = dataclasses.replace(batch, action=action, valid=valid)
        losses.append(policy.imitation_loss(part, torch.Generator().manual_seed(0)).item())
    assert losses[0] == losses[1]


def test_vision_tower_stays_what_it_was() -> None:
    policy = tiny_policy()
    tower, played = VisionTower(policy), replayed(policy, rollouts(policy, 4, 2, 2))
    before = tower(played)
    config = grpo.GrpoConfig(learning_rate=1e-2)
    grpo.update(policy, grpo.optimizer(policy, config), played, np.array([1.0, 0, 0, 1]), config, ("t",))
    assert before.shape == (4, 2, 2 * 32)
    assert np.abs(VisionTower(policy)(played) - before).max() > 1e-3  # the policy's own has moved
    assert tower(played).tobytes() == before.tobytes()


# ---- files and refusals ------------------------------------------------------------------------------------


@each_head
def test_save_and_load_are_bit_exact(settings: Settings, tmp_path: Path) -> None:
    policy = tiny_policy(settings=settings)
    save_policy(policy, tmp_path)
    loaded = load_policy(tmp_path)
    assert same_bits(weights(policy), weights(loaded))
    assert (loaded.settings, loaded.spec, loaded.normalizer) == (
        policy.settings,
        policy.spec,
        policy.normalizer,
    )
    assert (
        loaded.act(observe(3), keys(3)).action.tobytes() == policy.act(observe(3), keys(3)).action.tobytes()
    )
    assert load_policy(tmp_path, noise_level=0.8).settings == dataclasses.replace(settings, noise_level=0.8)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "robot.json", "tokenizer.json"])
def test_missing_and_cut_files_are_named(name: str, tmp_path: Path) -> None:
    save_policy(tiny_policy(), tmp_path)
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"damaged.*copy it again"):
        load_policy(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(FileNotFoundError, match=name):
        load_policy(tmp_path)


def edit(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


def test_another_programs_config_is_refused_by_name(tmp_path: Path) -> None:
    save_policy(tiny_policy(), tmp_path)
    edit(tmp_path / "config.json", lambda data: data["settings"].update(noise_scale=1.0))
    with pytest.raises(ValueError, match="does not know noise_scale in settings; it knows bins, denoise"):
        load_policy(tmp_path)
    edit(tmp_path / "config.json", lambda data: data["settings"].pop("noise_scale"))
    edit(tmp_path / "config.json", lambda data: data.pop("normalizer"))
    with pytest.raises(ValueError, match=r"config\.json has no normalizer"):
        load_policy(tmp_path)


@pytest.mark.parametrize("fault", ["missing", "extra", "misshapen"])
def test_foreign_weights_are_refused_by_name(fault: str, tmp_path: Path) -> None:
    save_policy(tiny_policy(), tmp_path)
    tensors = load_file(str(tmp_path / "model.safetensors"))
    if fault == "missing":
        del tensors["pool.weight"]
    elif fault == "extra":
        tensors["pool.other"] = torch.zeros(1)
    else:
        tensors["pool.weight"] = torch.zeros(1, 7)
    save_file(tensors, str(tmp_path / "model.safetensors"))
    with pytest.raises(ValueError, match=r"do not fit this architecture: pool\.(weight|other)"):
        load_policy(tmp_path)


def test_a_robot_that_does_not_fit_is_refused_by_name(tmp_path: Path) -> None:
    policy = tiny_policy()
    save_policy(policy, tmp_path)
    edit(
        tmp_path / "robot.json",
        lambda data: data.update(name="seven-joints", action=[data["action"][0]] * 7),
    )
    with pytest.raises(ValueError, match="robot seven-joints has 7 action and 4 state dimensions"):
        load_policy(tmp_path)
    larger = dataclasses.replace(policy.spec, cameras=(Camera("front", 64, 64),))
    with pytest.raises(ValueError, match="camera front gives 64x64 px; this pi0 config sees 32x32"):
        Pi0Policy(policy.config, policy.settings, larger, policy.normalizer, policy.tokenizer)
    joints = dataclasses.replace(policy.spec, control_mode="joint_position")
    with pytest.raises(SpecMismatchError, match="control_mode: 'ee_delta' against 'joint_position'"):
        policy.spec.require_match(joints, "policy tiny", "environment toy")


def test_too_long_an_instruction_is_quoted() -> None:
    policy = tiny_policy()
    sentence = "lift " * 15
    observation = dataclasses.replace(observe(1), instruction=[sentence])
    with pytest.raises(ValueError, match=r"lift lift .* is 15 tokens long; this policy reads at most 14"):
        policy.act(observation, None)


def test_the_published_size_is_one_of_the_sizes() -> None:
    """pi-zero as published, about three billion parameters, on the device that has no memory."""
    axes = tuple(Axis(f"a{i}", "rad", -3.0, 3.0) for i in range(14))
    cameras = tuple(Camera(name, 224, 224) for name in ("top", "left", "right"))
    spec = RobotSpec("aloha", "joint_position", 50.0, "none", "none", axes, axes, cameras)
    numbers = (0.0,) * 14
    normalizer = Normalizer(numbers, (1.0,) * 14, numbers, (1.0,) * 14, (-1.0,) * 14, (1.0,) * 14)
    with torch.device("meta"):
        policy = Pi0Policy(
            PI0Config(),
            Settings(stem="patch", denoise_steps=10, max_words=48),
            spec,
            normalizer,
            build_tokenizer(["fold the shirt"]),
        )
    size = sum(parameter.numel() for parameter in policy.parameters())
    assert 2.5e9 < size < 4e9
    assert all(parameter.device.type == "meta" for parameter in policy.parameters())
    assert (policy.chunk_size, policy.num_image_tokens) == (50, 3 * 256)
