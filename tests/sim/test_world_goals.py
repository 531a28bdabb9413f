"""Scores of imagined chunks: the right one wins, whatever it is batched with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from latent_toy import SIZE, SPEC, TASK, clips, config
from torch import Tensor

from regrip.sim.world.dynamics import take
from regrip.sim.world.fit import encode, split
from regrip.sim.world.goals import Goals, goals_of, score_chunks, tokens_of
from regrip.sim.world.model import WorldModel


def made(kind: str) -> WorldModel:
    """Weights of the ensemble's last layers are not small, so that chunks lead to different places."""
    torch.manual_seed(0)
    model = WorldModel(config(kind=kind), SPEC, TASK.split())
    with torch.no_grad():
        for name, held in model.dynamics.named_parameters():
            if name.startswith(("see", "decoder")):
                held.mul_(5.0)
    return model.eval()


def proposals(situations: int, count: int, actions: int) -> tuple[Any, ...]:
    draw = np.random.default_rng(1)
    pictures = draw.integers(0, 256, (situations, 1, SIZE, SIZE, 3), dtype=np.uint8)
    state = draw.uniform(0, SIZE, (situations, 2)).astype(np.float32)
    chunks = draw.normal(size=(situations, count, actions, 2)).astype(np.float32)
    return pictures, state, [TASK] * situations, chunks


def imagined(model: WorldModel, pictures: Any, state: Any, chunk: Any, decisions: int) -> list[Any]:
    memory, steps = model.begin(pictures[None], state[None]), []
    for index in range(decisions):
        part = chunk[None, 2 * index : 2 * index + 2]
        action = model.normal_action(part)
        memory, step = model.step(memory, action, model.words([TASK]))
        steps.append(step)
    return steps


@pytest.mark.parametrize("kind", ["video", "rssm"])
@pytest.mark.parametrize(("actions", "steps", "decisions"), [(2, 4, 1), (7, 4, 3), (8, 2, 2)])
def test_scores_are_distances_worked_out_one_by_one(
    kind: str, actions: int, steps: int, decisions: int
) -> None:
    model = made(kind)
    pictures, state, said, chunks = proposals(3, 4, actions)
    goal = torch.randn(3, 1, 4, 16)
    found = score_chunks(model, pictures, state, said, chunks, goal, steps)
    reflected = score_chunks(model, pictures, state, said, chunks, None, steps)
    assert found.shape == reflected.shape == (3, 4)
    for row in range(3):
        for column in range(4):
            each = imagined(model, pictures[row], state[row], chunks[row, column], decisions)
            far = (each[-1].tokens[0].float() - goal[row]).abs().mean()
            assert found[row, column] == pytest.approx(-float(far), abs=2e-2)  # bfloat16 within
            failed = np.prod([1 - model.success(step)[0] for step in each])
            assert reflected[row, column] == pytest.approx(1 - failed, abs=1e-2)


@pytest.mark.parametrize("kind", ["video", "rssm"])
def test_the_chunk_that_leads_to_the_goal_wins(kind: str) -> None:
    model = made(kind)
    pictures, state, said, chunks = proposals(2, 5, 2)
    wins = (3, 1)
    goal = torch.cat(
        [imagined(model, pictures[r], state[r], chunks[r, wins[r]], 1)[-1].tokens for r in (0, 1)]
    )
    found = score_chunks(model, pictures, state, said, chunks, goal)
    assert tuple(found.argmax(1)) == wins


def test_goals_are_how_the_most_similar_success_of_the_training_set_ended(tmp_path: Path) -> None:
    data, model = clips(), made("rssm")
    tokens = encode(model, data)
    goals = goals_of(model, data, tokens)
    train, _ = split(data, model.config)
    wins = [int(episode) for episode in train if data.success[episode]]
    assert len(goals.task) == len(wins) > 1
    goals.save(tmp_path / "goals.safetensors")
    again = Goals.load(tmp_path / "goals.safetensors")
    begin = data.beginnings(np.array(wins))
    seen = tokens_of(model, data.pictures[begin])
    found = again.nearest(["Push it right!"] * len(wins), seen)
    assert torch.equal(found, tokens[torch.from_numpy(begin + 7)].float()), (
        "its own end: none begins more alike"
    )
    with pytest.raises(ValueError, match=r"no training episode of 'push it left' succeeded.*'push it right'"):
        again.nearest(["push it left"], seen[:1])


def test_the_nearest_start_by_hand() -> None:
    first: Tensor = torch.tensor([0.0, 1.0, 3.0]).view(3, 1, 1, 1).half()
    goals = Goals(first, first + 10, ("a b", "a b", "c"))
    found = goals.nearest(["A b", "a, b", "c"], torch.tensor([0.4, 2.9, 0.0]).view(3, 1, 1, 1))
    assert found.flatten().tolist() == [10.0, 11.0, 13.0]


def test_what_cannot_be_scored_is_refused() -> None:
    model = made("rssm")
    pictures, state, said, chunks = proposals(1, 2, 2)
    with pytest.raises(ValueError, match="goes on by 2 actions at a time, so give chunks of 2 or more"):
        score_chunks(model, pictures, state, said, chunks[:, :, :1], None)
    chunks[0, 1, 0, 0] = np.nan
    with pytest.raises(ValueError, match="proposal 1 of situation 0 is not finite"):
        score_chunks(model, pictures, state, said, chunks, None)
    memory = model.begin(pictures, state)
    assert len(take(memory, torch.tensor([0, 0])).held) == 2
