"""What a node recorded, as what is learnt from: every number here was worked out by hand."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from regrip.datasets.formats import WriteOptions, open_source
from regrip.datasets.frames import encode_png
from regrip.datasets.ledger import DataError
from regrip.datasets.spec import RobotSpec
from regrip.datasets.store.writer import StoreWriter
from regrip.launch.policies import open_policy
from regrip.launch.recorded import load_recorded, load_shown
from regrip.real_robot.rows import contents_of_node
from regrip.vla.pi0 import Pi0Policy

ARM = tuple(f"joint{i + 1}" for i in range(7))
SENT = (*ARM, "gripper")
LATENT = {"before": ("float32", (5, 8)), "after": ("float32", (5, 8)), "step": ("int64", ())}
HZ = 20.0


@pytest.fixture(scope="module")
def policy() -> Pi0Policy:
    return open_policy("demo")[0]


def writer(
    path: Path, spec: RobotSpec, latent: dict[str, tuple[str, tuple[int, ...]]] = LATENT
) -> StoreWriter:
    contents = contents_of_node(spec, SENT, SENT, 5, latent)
    return StoreWriter.record(path, contents, WriteOptions("copy"), source="by hand")


def chunk(number: int) -> np.ndarray:
    """Row r of decision `number` moves by r millimetres and some hundredths that are its own."""
    rows = np.zeros((5, 7), np.float32)
    rows[:, 0] = np.arange(5) / 1000 + number / 100_000
    return rows


def decide(store: StoreWriter, number: int, step: int, time: float) -> None:
    store.add("observation.state", np.full(15, number, np.float32), time)
    store.add("decision.chunk", chunk(number), time)
    store.add("decision.step", np.int64(step), time)
    store.add("decision.latent.before", np.full((5, 8), number, np.float32), time)
    store.add("decision.latent.after", np.full((5, 8), 10 + number, np.float32), time)
    store.add("decision.latent.step", np.int64(1), time)


def act(store: StoreWriter, number: int, row: int, step: int, time: float) -> None:
    """The policy's action at a step: row `row` of a decision."""
    store.add("action", chunk(number)[row], time)
    store.add("action.step", np.int64(step), time)
    send(store, time, driven=False)


def send(store: StoreWriter, time: float, *, driven: bool) -> None:
    store.add("command", np.zeros(8), time)
    store.add("command.intervention", np.bool_(driven), time)


def drive(store: StoreWriter, number: int, time: float) -> None:
    send(store, time, driven=True)
    store.add("person.action", np.full(7, number / 1000, np.float32), time)
    store.add("person.state", np.full(15, number, np.float32), time)


def look(store: StoreWriter, times: list[float]) -> None:
    """A picture at each time, grey by its number."""
    for number, time in enumerate(times):
        for name in ("front", "wrist"):
            store.add(f"observation.images.{name}", encode_png(np.full((64, 64, 3), number, np.uint8)), time)


def plain(store: StoreWriter, success: bool | None, task: str = "lift the red cube") -> None:
    """Decision 0 runs whole; 1 is answered too late; 2 takes its place and runs for three steps."""
    store.begin_episode(task)
    look(store, [0.0, 0.25, 0.3])
    decide(store, 0, 0, 0.0)
    for step in range(5):
        act(store, 0, step, step, step / HZ)
    decide(store, 1, 5, 0.25)
    decide(store, 2, 5, 0.3)
    for row in range(3):
        act(store, 2, row, 5 + row, 0.3 + row / HZ)
    store.end_episode(success=success, terminated=success is not None)


def test_actions_go_to_their_decisions_and_success_to_the_last_executed_step(
    tmp_path: Path, policy: Pi0Policy
) -> None:
    with writer(tmp_path / "set", policy.spec) as store:
        plain(store, True)
        plain(store, False)
    found = load_recorded([tmp_path / "set"], policy)
    assert found.success.tolist() == [True, False]
    assert found.truncated.tolist() == [False, True]
    assert found.valid[0].tolist() == [[True] * 5, [True, True, True, False, False]]
    np.testing.assert_array_equal(found.action[0, 0], chunk(0))
    np.testing.assert_array_equal(found.action[0, 1, :3], chunk(2)[:3])
    assert not found.action[0, 1, 3:].any()
    assert np.argwhere(found.reward).tolist() == [[0, 1, 2]]
    assert found.latent["before"][0, :, 0, 0].tolist() == [0, 2]
    assert found.latent["after"][0, :, 0, 0].tolist() == [10, 12]
    assert found.state[0, :, 0].tolist() == [0, 2]
    assert found.images["front"][0, :, 0, 0, 0].tolist() == [0, 2]
    assert found.instruction == ["lift the red cube"] * 2
    assert {start.split for start in found.start} == {"train"}


def test_while_an_answer_is_awaited_the_arm_goes_on_with_the_last_one(
    tmp_path: Path, policy: Pi0Policy
) -> None:
    with writer(tmp_path / "set", policy.spec) as store:
        store.begin_episode("lift the red cube")
        look(store, [0.0, 0.15])
        decide(store, 0, 0, 0.0)
        for step in range(3):
            act(store, 0, step, step, step / HZ)
        decide(store, 1, 3, 0.15)  # its answer comes two steps later
        for step in (3, 4):
            act(store, 0, step, step, step / HZ)
        for step in (5, 6, 7):
            act(store, 1, step - 3, step, step / HZ)
        store.end_episode(success=True, terminated=True)
    found = load_recorded([tmp_path / "set"], policy)
    assert found.valid[0].tolist() == [[True] * 5, [False, False, True, True, True]]
    assert np.argwhere(found.reward).tolist() == [[0, 1, 4]]


def helped(store: StoreWriter, *, hand_back: bool) -> None:
    """Two steps of decision 0, three of a person, and maybe two of decision 1."""
    store.begin_episode("lift the red cube")
    look(store, [i / HZ for i in range(7)])
    decide(store, 0, 0, 0.0)
    act(store, 0, 0, 0, 0.0)
    act(store, 0, 1, 1, 0.05)
    for number, time in ((2, 0.1), (3, 0.15), (4, 0.2)):
        drive(store, number, time)
    if hand_back:
        decide(store, 1, 2, 0.25)
        act(store, 1, 0, 2, 0.25)
        act(store, 1, 1, 3, 0.3)
    store.end_episode(success=True, terminated=True)


def test_of_an_episode_with_help_only_what_came_after_it_is_the_policys(
    tmp_path: Path, policy: Pi0Policy, capsys: pytest.CaptureFixture[str]
) -> None:
    with writer(tmp_path / "set", policy.spec) as store:
        helped(store, hand_back=True)
        helped(store, hand_back=False)
    found = load_recorded([tmp_path / "set"], policy)
    assert "left out: 1 that a person drove to the end" in capsys.readouterr().out
    assert len(found) == 1
    assert found.latent["after"][0, :, 0, 0].tolist() == [11]  # nothing of decision 0, nothing of the person
    np.testing.assert_array_equal(found.action[0, 0, :2], chunk(1)[:2])
    assert found.valid.sum() == 2
    assert np.argwhere(found.reward).tolist() == [[0, 0, 1]]


def test_what_the_person_did_is_imitated_until_they_hand_back(tmp_path: Path, policy: Pi0Policy) -> None:
    with writer(tmp_path / "set", policy.spec) as store:
        helped(store, hand_back=True)
    shown = load_shown([tmp_path / "set"], policy)
    assert shown is not None
    assert len(shown) == 3
    assert shown.valid.tolist() == [
        [True, True, True, False, False],
        [True, True, False, False, False],
        [True, False, False, False, False],
    ]
    np.testing.assert_allclose(shown.action[0, :3, 0], [0.002, 0.003, 0.004])
    assert shown.state[:, 0].tolist() == [2, 3, 4]
    assert shown.pixels[:, 0, 0, 0, 0].tolist() == [2, 3, 4]  # the picture of that very moment


def test_failures_of_a_person_are_not_imitated(tmp_path: Path, policy: Pi0Policy) -> None:
    with writer(tmp_path / "set", policy.spec) as store:
        store.begin_episode("lift the red cube")
        look(store, [0.0])
        drive(store, 1, 0.0)
        store.end_episode(success=False, terminated=True)
    assert load_shown([tmp_path / "set"], policy) is None


def test_without_an_outcome_an_episode_teaches_nothing_and_is_counted(
    tmp_path: Path, policy: Pi0Policy, capsys: pytest.CaptureFixture[str]
) -> None:
    with writer(tmp_path / "set", policy.spec) as store:
        plain(store, True)
        plain(store, None)
        plain(store, None)
    assert len(load_recorded([tmp_path / "set"], policy)) == 1
    assert "1 episodes to learn from; left out: 2 without an outcome" in capsys.readouterr().out
    with writer(tmp_path / "none", policy.spec) as store:
        plain(store, None)
    with pytest.raises(DataError, match="1 without an outcome"):
        load_recorded([tmp_path / "none"], policy)


def test_merged_actions_are_of_no_decision(tmp_path: Path, policy: Pi0Policy) -> None:
    with writer(tmp_path / "set", policy.spec) as store:
        store.begin_episode("lift the red cube")
        look(store, [0.0])
        decide(store, 0, 0, 0.0)
        store.add("action", (chunk(0)[0] + chunk(1)[0]) / 2, 0.0)
        store.add("action.step", np.int64(0), 0.0)
        send(store, 0.0, driven=False)
        store.end_episode(success=True, terminated=True)
    with pytest.raises(DataError, match="1 whose actions were merged"):
        load_recorded([tmp_path / "set"], policy)


def test_another_robot_is_refused(tmp_path: Path, policy: Pi0Policy) -> None:
    other = dataclasses.replace(policy.spec, control_rate_hz=10.0)
    with writer(tmp_path / "set", other) as store:
        plain(store, True)
    with pytest.raises(ValueError, match="control_rate_hz"):
        load_recorded([tmp_path / "set"], policy)


def test_a_greedy_recording_is_refused(tmp_path: Path, policy: Pi0Policy) -> None:
    with writer(tmp_path / "set", policy.spec, {}) as store:
        store.begin_episode("lift the red cube")
        store.add("action", chunk(0)[0], 0.0)
        store.end_episode(success=True, terminated=True)
    with pytest.raises(DataError, match="did not explore"):
        load_recorded([tmp_path / "set"], policy)


def test_a_set_of_a_sampled_policy_says_what_its_numbers_mean(tmp_path: Path) -> None:
    from regrip.launch.data_record import main

    out = tmp_path / "played"
    assert main([
        "demo", "--out", str(out), "--policy", "demo", "--mode", "sampled", "-n", "1",
        "--tasks", "demo/press_yellow", "--workers", "1", "--slots", "1",
    ]) == 0  # fmt: skip
    source = open_source(out)
    assert len(source) == 1
    assert source.contents.spec == open_policy("demo")[0].spec
    one = source[0]
    assert one.success is not None
    assert len(one.streams["action"].rows) == one.num_steps > 0
    source.close()
