"""The recurrent world model: what it learns, what it remembers, and what its training costs."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from latent_toy import CHUNK, SIZE, TASK, batch, clips, config

from regrip.datasets.starts import StartState
from regrip.sim.world.calibrate import calibrate
from regrip.sim.world.dynamics import fields_of, put, take
from regrip.sim.world.env import WorldEnv
from regrip.sim.world.files import load_world, save_world
from regrip.sim.world.fit import batch_of, encode, fit, split
from regrip.sim.world.model import WorldModel
from regrip.sim.world.rssm import Rssm, balanced_kl
from regrip.sim.world.starts import starts_of


def made(**changes: int) -> Rssm:
    sizes = {"width": 32, "recurrent": 48, "groups": 4, "classes": 5, "ensemble": 3, **changes}
    torch.manual_seed(0)
    return Rssm(1, 4, 16, 2, CHUNK * 2, 3, success_weight=0.3, **sizes)


def test_the_divergence_and_its_two_gradients_by_hand() -> None:
    chances = torch.tensor([[[0.75, 0.25]]]).log().requires_grad_()
    even = torch.zeros(1, 1, 2, requires_grad=True)
    found = balanced_kl(chances, even, 0.8, 0.0)
    by_hand = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    assert found.item() == pytest.approx(by_hand, abs=1e-6)
    found.sum().backward()
    assert even.grad is not None
    assert chances.grad is not None
    # d KL / d prior logits = prior - posterior; d KL / d posterior logits = p (log(p/q) - KL).
    assert even.grad.flatten().tolist() == pytest.approx([0.8 * -0.25, 0.8 * 0.25], abs=1e-6)
    first = 0.2 * 0.75 * (math.log(1.5) - by_hand)
    assert chances.grad.flatten().tolist() == pytest.approx([first, -first], abs=1e-6)


def test_below_the_free_nats_nothing_is_moved() -> None:
    posterior = torch.tensor([[[0.75, 0.25]]]).log().requires_grad_()
    prior = torch.zeros(1, 1, 2, requires_grad=True)
    found = balanced_kl(posterior, prior, 0.8, 1.0)
    found.sum().backward()
    assert found.item() == pytest.approx(1.0)
    assert prior.grad is not None
    assert not prior.grad.any()


def test_a_rollout_has_the_shapes_it_promises_and_is_repeatable() -> None:
    model, data = made(), batch(5, 3)
    with torch.no_grad():
        memory = model.begin(data.tokens[:, 0], data.state[:, 0], data.tokens[:, 0], data.state[:, 0])
        again = model.begin(data.tokens[:, 0], data.state[:, 0], data.tokens[:, 0], data.state[:, 0])
        for decision in range(3):
            memory, step = model.step(memory, data.action[:, decision], data.words)
            again, same = model.step(again, data.action[:, decision], data.words)
    assert step.tokens.shape == (5, 1, 4, 16)
    assert step.state.shape == (5, 2)
    assert step.success.shape == step.doubt.shape == (5,)
    assert (step.doubt > 0).all(), "members of an untrained ensemble differ"
    for name, value in fields_of(memory).items():
        assert len(value) == 5
        assert torch.equal(value, fields_of(again)[name])
    assert torch.equal(step.tokens, same.tokens)


def test_imaginations_can_be_taken_out_and_put_back() -> None:
    model, data = made(), batch(6, 2)
    with torch.no_grad():
        memory = model.begin(data.tokens[:, 0], data.state[:, 0], data.tokens[:, 0], data.state[:, 0])
        memory, _ = model.step(memory, data.action[:, 0], data.words)
        rows = torch.tensor([4, 1])
        part = take(memory, rows)
        _, both = model.step(part, data.action[rows, 1], data.words[rows])
        _, every = model.step(memory, data.action[:, 1], data.words)
        torch.testing.assert_close(both.tokens, every.tokens[rows])
        put(memory, torch.tensor([0, 5]), part)
        _, moved = model.step(memory, data.action[[4, 1, 2, 3, 4, 1]][:, 1], data.words)
        torch.testing.assert_close(moved.tokens[[0, 5]], every.tokens[rows])


def test_what_the_first_frame_shows_stays_where_nothing_is_decoded() -> None:
    model, data = made(), batch(3, 1)
    with torch.no_grad():
        model.decoder[-1].weight.zero_()
        _, step = model.step(
            model.begin(data.tokens[:, 0], data.state[:, 0], data.tokens[:, 0], data.state[:, 0]),
            data.action[:, 0],
            data.words,
        )
    assert torch.equal(step.tokens, data.tokens[:, 0])
    assert torch.equal(step.state, data.state[:, 0])


@pytest.mark.parametrize("imagined", [False, True])
def test_frames_that_nobody_took_teach_nothing(imagined: bool) -> None:
    model, data = made(), batch(4, 3)
    data.follows[:, 1:] = False
    data.there[:, 2:] = False
    other = batch(4, 3)
    other.follows[:, 1:], other.there[:, 2:] = False, False
    other.tokens[:, 2:] += 100.0
    other.state[:, 2:] -= 7.0
    other.success[:, 2:] = 1.0
    found = []
    for one in (data, other):
        torch.manual_seed(3)
        found.append(model.losses(one, imagined)["total"].item())
    assert found[0] == pytest.approx(found[1], abs=1e-5)


def saved_bytes(model: Rssm, window: int, imagined: bool) -> int:
    """What the backward pass of one step keeps, each tensor's memory once."""
    held: dict[int, int] = {}

    def pack(x: torch.Tensor) -> torch.Tensor:
        storage = x.untyped_storage()
        held[storage.data_ptr()] = storage.nbytes()
        return x

    data = batch(4, window)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        loss = model.losses(data, imagined)["total"]
    loss.backward()
    return sum(held.values())


@pytest.mark.parametrize("imagined", [False, True])
def test_memory_in_training_grows_linearly_with_the_window(imagined: bool) -> None:
    model = made()
    sizes = [saved_bytes(model, window, imagined) for window in (8, 16, 32)]
    assert (sizes[2] - sizes[1]) == pytest.approx(2 * (sizes[1] - sizes[0]), rel=0.05)


def test_where_actions_lead_is_learnt() -> None:
    model = made()
    start = batch(64, 3)
    # Every number of every token moves by the chunk's first number, and the state by its second.
    moved = start.action.sum(2).cumsum(1)
    tokens = start.tokens[:, :1] + torch.nn.functional.pad(moved[..., 0], (1, 0))[:, :, None, None, None]
    state = start.state[:, :1] + torch.nn.functional.pad(moved[..., 1:2], (0, 0, 1, 0))
    data = dataclasses.replace(start, tokens=tokens, state=state)
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    seen = []
    for step in range(80):
        losses = model.losses(data, step % 2 == 1)
        optimizer.zero_grad()
        losses["total"].backward()
        optimizer.step()
        seen.append((losses["tokens"].item(), losses["state"].item()))
    first, last = np.mean(seen[:6], 0), np.mean(seen[-6:], 0)
    assert (last < 0.5 * first).all(), f"{first} to {last}"


@pytest.mark.slow
def test_a_toy_world_is_learnt_saved_and_played(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    data = clips(episodes=40)
    settings = config(tokenizer_steps=60, steps=250, width=64, recurrent=64, batch=16)
    losses: list[float] = []
    model = fit(
        data, settings,
        note=lambda phase, done, total, loss: losses.append(loss) if phase == "world" else None,
    )  # fmt: skip
    assert np.mean(losses[-20:]) < 0.8 * np.mean(losses[:10])
    tokens = encode(model, data)
    _, held = split(data, settings)
    windows = data.windows(data.beginnings(held), CHUNK, 4)
    with torch.no_grad():
        whole = batch_of(model, data, tokens, windows)
        memory = model.dynamics.begin(
            whole.tokens[:, 0], whole.state[:, 0], whole.tokens[:, 0], whole.state[:, 0]
        )
        for decision in range(3):
            memory, step = model.step(memory, whole.action[:, decision], whole.words)
    # Three decisions on, of episodes it has not seen, against a world that stands still.
    off = (step.state - whole.state[:, 3]).abs().mean()
    still = (whole.state[:, 0] - whole.state[:, 3]).abs().mean()
    assert off < 0.6 * still
    off = (step.tokens - whole.tokens[:, 3]).abs().mean()
    still = (whole.tokens[:, 0] - whole.tokens[:, 3]).abs().mean()
    assert off < still

    model.calibration = calibrate(model, data, tokens)
    starts = starts_of(data, settings)
    save_world(tmp_path / "world", model, starts, {})
    again, starts, _ = load_world(tmp_path / "world")
    assert again.config.kind == "rssm"
    assert isinstance(again.dynamics, Rssm)
    with WorldEnv(again, starts, num_slots=3) as env, WorldEnv(model, starts, num_slots=5) as other:
        begin = [StartState(starts.tasks[0], "train", index) for index in range(3)]
        chunks = np.full((3, CHUNK, 2), 2.0, np.float32)
        seen = []
        for one, slots in ((env, [0, 1, 2]), (other, [4, 0, 3])):
            one.reset(slots, begin)
            one.receive(slots)
            one.step(slots, chunks)
            seen.append(one.receive(slots))
        assert seen[0].observation.images["top"].shape == (3, SIZE, SIZE, 3)
        np.testing.assert_array_equal(seen[0].observation.state, seen[1].observation.state)
        np.testing.assert_array_equal(seen[0].privileged, seen[1].privileged)


def test_members_that_are_trained_predict_the_next_frame_each() -> None:
    model = WorldModel(config(), clips().spec, TASK.split())
    data = batch(2, 3, shape=(1, model.tokenizer.places, model.tokenizer.dims))
    tokens, state = model.dynamics.predictions(data)
    assert tokens.shape == (3, 2, 3, 1, 4, 16)
    assert state.shape == (3, 2, 3, 2)
    tokens.square().mean().backward()
    assert isinstance(model.dynamics, Rssm)
    grads = [next(member.parameters()).grad for member in model.dynamics.prior]
    assert all(grad is not None and grad.any() for grad in grads)
