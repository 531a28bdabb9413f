"""`regrip eval --select world:MODEL`: choosing chunks in a learned world, beside acting greedily."""

from __future__ import annotations

import contextlib
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import torch

from regrip.datasets.episode import Observation
from regrip.datasets.spec import SpecMismatchError
from regrip.launch import cli, node, serve
from regrip.launch.choosing import folder_of, selecting
from regrip.launch.config import parse_options
from regrip.launch.measurement import load_measurement
from regrip.launch.node_policy import NodePolicy
from regrip.launch.policies import open_policy
from regrip.launch.world_scores import WorldScores
from regrip.real_robot.messages import Request
from regrip.real_robot.serving.sessions import Run
from regrip.sim.world.files import load_world
from regrip.sim.world.goals import score_chunks

torch.set_num_threads(1)


def beginnings(world: Path) -> Observation:
    """What was seen as the recorded episodes began."""
    model, starts, _ = load_world(world)
    rows = np.flatnonzero(starts.decision == 0)
    return Observation(
        images={camera.name: starts.pictures[rows, i] for i, camera in enumerate(model.spec.cameras)},
        state=starts.state[rows],
        instruction=[starts.instructions[int(starts.task[row])] for row in rows],
    )


def test_greedy_and_selected_are_measured_on_the_same_starts(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "selected.json"
    line = [
        "eval",
        "demo",
        "--tasks",
        "press_yellow",
        "push_red",
        "-n",
        "1",
        "--workers",
        "1",
        "--slots",
        "2",
    ]
    assert cli.main([*line, "--select", f"world:{world}", "--candidates", "3", "--out", str(out)]) == 0
    measured = load_measurement(out)
    assert tuple(measured.modes) == ("greedy", "selected")
    assert measured.modes["greedy"].starts == measured.modes["selected"].starts
    said = {name: measured.facts[name] for name in ("select", "candidates", "select_by")}
    assert said == {"select": f"world:{world}", "candidates": 3, "select_by": "goal"}
    printed = capsys.readouterr().out
    assert "A greedy, B selected, 2 start states that both played" in printed
    assert "B - A" in printed

    # Choosing from the greedy chunk alone is acting greedily.
    alone = tmp_path / "alone.json"
    assert cli.main([*line, "--select", f"world:{world}", "--candidates", "1", "--out", str(alone)]) == 0
    modes = load_measurement(alone).modes
    assert modes["greedy"] == modes["selected"] == measured.modes["greedy"]


@pytest.mark.parametrize("by", ["goal", "reflector"])
def test_it_is_the_best_by_the_world_that_is_executed(world: Path, by: str) -> None:
    policy, _ = open_policy("demo")
    actor = selecting(policy, f"world:{world}", 4, by)  # type: ignore[arg-type]
    seen = beginnings(world)
    keys = [("test", row) for row in range(len(seen))]
    sample = actor.act(seen, keys)
    scores = WorldScores.open(world, by)  # type: ignore[arg-type]
    model = scores.model
    pictures = np.stack([seen.images[camera.name] for camera in model.spec.cameras], 1)
    goal = None if by == "reflector" else scores.goals_from(seen)
    again = score_chunks(model, pictures, seen.state, seen.instruction, sample.action[:, None], goal)
    best = sample.latent["score"].max(1)
    assert again[:, 0] == pytest.approx(best, abs=2e-2)  # other rows beside it round differently
    assert set(np.unique(sample.latent["choice"])) <= {0, 1, 2, 3}
    assert sample.latent["score"].std() > 0


def test_what_cannot_choose_is_refused(
    world: Path, tiny_policy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(
        ValueError, match="--select 'runs/world' names no learned world: expected world:MODEL"
    ):
        folder_of("runs/world")
    line = ["eval", "demo", "--out", str(tmp_path / "out.json"), "--select"]
    assert cli.main([*line, f"world:{tmp_path}"]) == 1
    assert f"{tmp_path} holds no world model" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        cli.main([*line, f"world:{world}", "--mode", "sampled"])
    assert "--select with --mode sampled" in capsys.readouterr().err
    policy, _ = open_policy(str(tiny_policy))
    with pytest.raises(SpecMismatchError, match="the world model"):  # it sees 32 pixels, the world 64
        selecting(policy, f"world:{world}", 2, "goal")
    still, _ = open_policy("demo", noise_level=0.0, initial_noise=0.0)
    with pytest.raises(ValueError, match="all chunks would be alike"):
        selecting(still, f"world:{world}", 2, "goal")
    scores = WorldScores.open(world)
    with pytest.raises(
        ValueError, match=r"the policy plans 3 actions.*5 at a time: fit a model with --chunk 3"
    ):
        scores.require(scores.model.spec, 3, "the policy")


def test_a_node_executes_the_chosen_chunk_and_a_server_answers_it(world: Path) -> None:
    select, seen = f"world:{world}", beginnings(world).take([0])
    policy, _ = open_policy("demo")
    chooser = selecting(policy, select, 3, "reflector")
    wanted = chooser.act(seen, None)
    request = Request(1, 0.0, 0.0, seen, 0, np.zeros((0, policy.spec.action_dim), np.float32), 0, "1")
    line = ["--select", select, "--candidates", "3", "--select-by", "reflector"]

    _, thinks, facts, _ = node.open_thinker(
        parse_options(node.Options, ["demo", *line], prog="node", description="")
    )
    assert np.array_equal(thinks.answer(request), wanted.action[0])
    assert facts["chooses"] == f"the best of 3 chunks by {select}, reflector"

    # Swapped, it chooses among the new policy's chunks, and says who answers; refused, the old one stays.
    assert isinstance(thinks, NodePolicy)
    before = thinks.version
    other, _ = open_policy("demo", initial_noise=0.5)
    thinks.swap(other, "other (0123)")
    again = selecting(other, select, 3, "reflector").act(seen, None)
    assert not np.array_equal(again.latent["score"], wanted.latent["score"])
    assert np.array_equal(thinks.answer(request), again.action[0])
    assert (before, thinks.version) == (facts["checkpoint"], "other (0123)")
    still, _ = open_policy("demo", noise_level=0.0, initial_noise=0.0)
    with pytest.raises(ValueError, match="the policy samples without noise"):
        thinks.swap(still, "still")
    longer, _ = open_policy("demo")
    longer.chunk_size += 1
    with pytest.raises(ValueError, match="answers 6 actions at a time, the one it replaces 5"):
        thinks.swap(longer, "longer")
    assert np.array_equal(thinks.answer(request), again.action[0])
    assert thinks.version == "other (0123)"

    served = serve.load(parse_options(serve.Options, ["demo", *line], prog="serve", description=""))
    assert (served.schema.model, served.schema.rtc) == ("demo+best-of-3", False)
    ask = serve.Ask(
        {name: images[0] for name, images in seen.images.items()}, seen.state[0], *seen.instruction
    )
    (answered,) = served.act([ask], [Run("s", "0", served, 0)])
    assert answered is not None
    assert np.array_equal(answered, wanted.action[0])


@pytest.mark.parametrize("other", [["--server", "ws://127.0.0.1:1"], ["--explore", "a"], ["--robot", "RTC"]])
def test_a_node_that_cannot_choose_says_so(
    other: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    robot = (files("regrip.launch") / "presets" / "robot" / "tabletop.toml").read_text()
    (tmp_path / "rtc.toml").write_text(robot.replace('mode = "receding"', 'mode = "rtc"'))
    other = [str(tmp_path / "rtc.toml") if word == "RTC" else word for word in other]
    with contextlib.suppress(SystemExit):
        assert cli.main(["node", "demo", "--select", "world:nowhere", *other]) == 1
    assert f"--select with {'core.schedule.mode rtc' if 'rtc' in other[1] else other[0]}" in (
        capsys.readouterr().err.replace("\n", " ")
    )
