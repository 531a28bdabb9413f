"""A learned world: read from recordings, fitted, asked to go on, played in, kept in a folder."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import world_toy as toy
from numpy.typing import NDArray

from regrip.datasets.episode import Observation
from regrip.datasets.episode_io import contents_of, recording_of
from regrip.datasets.ledger import DataError
from regrip.datasets.protocols import ActionSample
from regrip.datasets.spec import SpecMismatchError
from regrip.datasets.starts import StartState
from regrip.datasets.store.writer import StoreWriter
from regrip.sim.collect import collect
from regrip.sim.world.calibrate import calibrate, play, threshold
from regrip.sim.world.clips import Clips, read_clips
from regrip.sim.world.config import WorldConfig
from regrip.sim.world.dynamics import take
from regrip.sim.world.env import WorldEnv
from regrip.sim.world.files import WorldFileError, load_world, save_world
from regrip.sim.world.fit import batch_of, encode, fit, split
from regrip.sim.world.model import WorldModel
from regrip.sim.world.starts import Starts, starts_of

TINY = WorldConfig(
    chunk=toy.CHUNK, latent=4, tokenizer_width=8, width=32, layers=2, heads=2, context=2, ensemble=2,
    tokenizer_steps=300, tokenizer_batch=16, body_steps=300, body_batch=64,
    steps=300, batch=32, window=3, learning_rate=3e-3,
)  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy.write(tmp_path_factory.mktemp("toy") / "set", each=60)


@pytest.fixture(scope="module")
def clips(data: Path) -> Clips:
    return read_clips([data], toy.CHUNK)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def world(clips: Clips) -> tuple[WorldModel, Starts]:
    model = fit(clips, TINY)
    model.calibration = calibrate(model, clips, encode(model, clips))
    return model, starts_of(clips, TINY)


# ---- reading ---------------------------------------------------------------------------------------------


def test_windows_hold_the_chunks_between_frames(clips: Clips) -> None:
    long = int(np.flatnonzero(clips.num_steps == 10)[0])
    frame = clips.frame_of[clips.first[long] + 3]
    found = clips.windows(np.array([frame]), 2, 5)
    steps = [3, 5, 7, 9]  # and 11, which is past the end
    assert found.there[0].tolist() == [True] * 4 + [False]
    assert clips.step[found.frame[0, :4]].tolist() == steps
    assert clips.step[found.following[0, :3]].tolist() == [5, 7, 9]
    assert found.following[0, 3:].tolist() == [-1, -1]
    own = clips.action[clips.first[long] : clips.first[long + 1]]
    np.testing.assert_array_equal(found.action[0, 1], own[5:7])
    np.testing.assert_array_equal(found.action[0, 3], [own[9], clips.tail[long, 0]])
    assert not found.action[0, 4].any()


def test_success_is_of_the_last_chunk_alone(clips: Clips) -> None:
    found = clips.windows(clips.beginnings(np.arange(len(clips))), 2, 5)
    assert (found.success.sum(1) == clips.success).all()
    row = int(np.flatnonzero(clips.success)[0])
    assert found.success[row].argmax() == found.there[row].sum() - 1


def test_every_task_is_held_out_and_no_start_is_trained_on(clips: Clips) -> None:
    train, held = split(clips, TINY)
    assert not set(train) & set(held)
    assert {clips.task[episode] for episode in held} == set(toy.INSTRUCTIONS)
    starts = starts_of(clips, TINY)
    trained = {bytes(clips.pictures[clips.frame_of[clips.first[episode]]]) for episode in train}
    for name in ("select", "test"):
        rows = starts.rows("toy/left", name, anywhere=False)  # type: ignore[arg-type]
        assert len(rows)
        assert not trained & {bytes(starts.pictures[row]) for row in rows}


def rewritten(path: Path, change: object) -> Path:
    """A set of twelve episodes, the third of them changed."""
    writer = StoreWriter.record(path, contents_of(toy.SPEC), source="toy")
    for index in range(12):
        one = recording_of(toy.episode(index, index % 2))
        writer.write(change(one) if index == 2 else one)  # type: ignore[operator]
    writer.close()
    return path


def test_a_missing_camera_is_named(tmp_path: Path) -> None:
    def blind(one: object) -> object:
        streams = {key: track for key, track in one.streams.items() if "images" not in key}  # type: ignore[attr-defined]
        return dataclasses.replace(one, streams=streams)  # type: ignore[type-var]

    with pytest.raises(DataError, match=r"(?s)episode 2.*observation.images.front"):
        read_clips([rewritten(tmp_path / "blind", blind)], 2)


def test_numbers_that_are_not_finite_are_named(tmp_path: Path) -> None:
    def broken(one: object) -> object:
        track = one.streams["action"]  # type: ignore[attr-defined]
        rows = np.array(track.rows)
        rows[4, 1] = np.nan
        streams = {**one.streams, "action": dataclasses.replace(track, rows=rows)}  # type: ignore[attr-defined]
        return dataclasses.replace(one, streams=streams)  # type: ignore[type-var]

    with pytest.raises(DataError, match=r"(?s)episode 2.*action.*row 4 is not finite"):
        read_clips([rewritten(tmp_path / "broken", broken)], 2)


def test_another_robot_is_refused(data: Path) -> None:
    other = dataclasses.replace(toy.SPEC, control_rate_hz=20.0)
    with pytest.raises(SpecMismatchError, match="control_rate_hz"):
        read_clips([data], 2, spec=other)


def test_episodes_too_short_to_learn_from_are_counted(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(DataError, match="of 10 steps or fewer"):
        read_clips([data], 10)
    read_clips([data], 5)
    assert "of 5 steps or fewer" in capsys.readouterr().out


# ---- the model -------------------------------------------------------------------------------------------


def test_one_step_at_a_time_is_the_whole_stretch_at_once(
    world: tuple[WorldModel, Starts], clips: Clips
) -> None:
    """The cache of keys and values, cut to the context, changes nothing."""
    model, _ = world
    tokens = encode(model, clips)
    frames = clips.beginnings(np.flatnonzero(clips.num_steps == 10)[:4])
    batch = batch_of(model, clips, tokens, clips.windows(frames, 2, 4))
    dynamics = model.dynamics
    with torch.no_grad():
        whole = dynamics.predictions(batch)[0].mean(0)
        memory = dynamics.begin(batch.tokens[:, 0], batch.state[:, 0], batch.tokens[:, 0], batch.state[:, 0])
        for decision in range(4):
            # What was really seen, in the place of what was imagined.
            memory = dataclasses.replace(
                memory, tokens=batch.tokens[:, decision], state=batch.state[:, decision]
            )
            memory, step = dynamics.step(memory, batch.action[:, decision], batch.words)
            torch.testing.assert_close(step.tokens, whole[:, decision], atol=1e-5, rtol=1e-4)


def test_episodes_of_different_ages_go_on_together(world: tuple[WorldModel, Starts], clips: Clips) -> None:
    model, _ = world
    dynamics = model.dynamics
    tokens = encode(model, clips)[:2].float()
    state = model.normal_state(clips.state[:2])
    action, words = torch.randn(2, 2, 2), model.words([toy.INSTRUCTIONS[0]] * 2)
    with torch.no_grad():
        young = dynamics.begin(tokens, state, tokens, state)
        old, _ = dynamics.step(young, action, words)
        mixed = dataclasses.replace(
            young, **{n: torch.stack([getattr(old, n)[0], getattr(young, n)[1]]) for n in vars(young)}
        )
        _, together = dynamics.step(mixed, action, words)
        alone = [
            dynamics.step(take(m, torch.tensor([row])), action[[row]], words[[row]])[1]
            for m, row in ((old, 0), (young, 1))
        ]
    for row in range(2):
        torch.testing.assert_close(together.tokens[row], alone[row].tokens[0], atol=1e-5, rtol=1e-4)


def test_it_foretells_where_the_dot_goes(world: tuple[WorldModel, Starts], clips: Clips) -> None:
    """Open loop over whole held-out episodes: far better than saying that nothing moves."""
    model, _ = world
    _, held = split(clips, TINY)
    played = play(model, clips, encode(model, clips), clips.beginnings(held))
    known = played.windows.following >= 0
    truth = clips.state[np.maximum(played.windows.following, 0)]
    first = clips.state[clips.beginnings(held)][:, None]
    error = np.abs(played.state - truth)[known].mean()
    still = np.abs(first - truth)[known].mean()
    assert error < 0.2 * still
    # And the picture shows it: light lies where the dot really is.
    rows = np.flatnonzero(known[:, 1])
    pictures = model.pictures(played.tokens[rows, 1].float())[:, 0]
    light = np.clip(pictures[..., 0].astype(float) - 110, 0, None).sum(1)
    column = (light * np.arange(toy.SIZE)).sum(1) / light.sum(1)
    moved = np.abs(first[rows, 0, 0] - truth[rows, 1, 0]).mean()
    assert np.abs(column - truth[rows, 1, 0]).mean() < 0.2 * moved


def test_the_reflector_tells_success_from_failure(world: tuple[WorldModel, Starts], clips: Clips) -> None:
    model, _ = world
    played = play(model, clips, encode(model, clips), clips.beginnings(np.arange(len(clips))))
    chance = np.where(
        played.windows.there, 1 / (1 + np.exp(-played.logit / model.calibration.temperature)), 0
    )
    said = chance.max(1) > [model.calibration.needed(text) for text in clips.task]
    assert (said == clips.success).mean() > 0.85


def test_a_word_that_was_never_said_is_refused(world: tuple[WorldModel, Starts]) -> None:
    with pytest.raises(ValueError, match="'purple'"):
        world[0].words(["move the purple dot"])


def test_a_chunk_of_another_length_is_refused(world: tuple[WorldModel, Starts]) -> None:
    with pytest.raises(ValueError, match=r"--execute 2"):
        world[0].normal_action(np.zeros((1, 5, 2), np.float32))


def test_fitting_again_gives_the_same_weights(clips: Clips) -> None:
    short = dataclasses.replace(TINY, tokenizer_steps=3, body_steps=2, steps=4)
    first, second = fit(clips, short), fit(clips, short)
    for name, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[name]), name


# ---- the environment -------------------------------------------------------------------------------------


class Walker:
    """Goes one way, whatever it sees."""

    def __init__(self, dx: float) -> None:
        self.dx = dx

    def act(self, observation: Observation, noise_keys: object) -> ActionSample:
        count = len(observation)
        action = np.tile(np.array([self.dx, 0.0], np.float32), (count, toy.CHUNK, 1))
        return ActionSample(action, np.zeros((count, toy.CHUNK), np.float32))


def starts_for(task: str, count: int, split: str = "train") -> list[StartState]:
    return [StartState(f"toy/{task}", split, index) for index in range(count)]  # type: ignore[arg-type]


def test_policies_that_differ_fare_differently(world: tuple[WorldModel, Starts]) -> None:
    with WorldEnv(*world, num_slots=8) as env:
        rates = {}
        for dx in (-2.0, 2.0):
            played, _ = collect(
                env, Walker(dx), starts_for("right", 12), range(12),
                run_key=("t",), greedy=False, policy_version=0,
            )  # fmt: skip
            rates[dx] = played.success.mean()
            assert played.valid.shape[1] <= world[0].calibration.horizon
    assert rates[2.0] > 0.8
    assert rates[-2.0] < 0.2


def test_snapshots_go_on_bit_for_bit_in_another_slot(world: tuple[WorldModel, Starts]) -> None:
    chunk = np.full((1, toy.CHUNK, 2), 0.5, np.float32)
    with WorldEnv(*world, num_slots=4) as env, WorldEnv(*world, num_slots=2) as other:
        env.reset([2], starts_for("left", 1))
        env.receive([2])
        env.step([2], chunk)
        env.receive([2])
        other.restore([1], env.snapshot([2]))
        seen = other.receive([1]).observation
        np.testing.assert_array_equal(seen.images["front"], env._pictures[[2], 0])
        for one, slot in ((env, 2), (other, 1)):
            one.step([slot], chunk)
        a, b = env.receive([2]), other.receive([1])
    np.testing.assert_array_equal(a.observation.images["front"], b.observation.images["front"])
    np.testing.assert_array_equal(a.observation.state, b.observation.state)
    np.testing.assert_array_equal(a.privileged, b.privileged)


def test_what_other_slots_do_changes_nothing(world: tuple[WorldModel, Starts]) -> None:
    def last(slots: list[int]) -> NDArray[np.float32]:
        with WorldEnv(*world, num_slots=6, dynamic_stop=False, cut_off=np.inf) as env:
            env.reset(slots, starts_for("right", 6)[: len(slots)])
            env.receive(slots)
            for _ in range(2):
                env.step(slots, np.full((len(slots), toy.CHUNK, 2), 0.3, np.float32))
                result = env.receive(slots)
            return result.observation.state[0]

    np.testing.assert_array_equal(last([0]), last([0, 1, 2, 3]))


def test_doubt_ends_an_episode_as_a_failure(world: tuple[WorldModel, Starts]) -> None:
    with WorldEnv(*world, num_slots=2, cut_off=1e-9) as env:
        env.reset([0], starts_for("right", 1))
        env.receive([0])
        env.step([0], np.full((1, toy.CHUNK, 2), 2, np.float32))
        result = env.receive([0])
        assert result.done[0]
        assert not result.success[0]
        assert env.cut_off == 1


def test_without_dynamic_stop_episodes_go_on_to_their_limit(world: tuple[WorldModel, Starts]) -> None:
    with WorldEnv(*world, num_slots=4, dynamic_stop=False, cut_off=np.inf) as env:
        played, _ = collect(
            env, Walker(2.0), starts_for("right", 4), range(4), run_key=("t",), greedy=False, policy_version=0
        )  # fmt: skip
    limit = world[1].limits[world[1].tasks.index("toy/right")]
    assert (played.num_steps == limit * toy.CHUNK).all()


@pytest.mark.parametrize(("needed", "wins"), [(0.0, True), (1.0, False)])
def test_an_instruction_may_need_more_than_another(
    world: tuple[WorldModel, Starts], needed: float, wins: bool
) -> None:
    model, starts = world
    before, text = model.calibration, starts.instructions[starts.tasks.index("toy/right")]
    model.calibration = dataclasses.replace(before, threshold=0.5, thresholds={text: needed})
    with WorldEnv(model, starts, num_slots=4, cut_off=np.inf) as env:
        played, _ = collect(
            env, Walker(2.0), starts_for("right", 4), range(4), run_key=("t",), greedy=False, policy_version=0
        )  # fmt: skip
    model.calibration = before
    assert (played.success == wins).all()


def test_the_threshold_lets_as_many_succeed_as_did() -> None:
    best, real = np.array([0.21, 0.42, 0.63, 0.84]), np.array([False, True, False, True])
    assert threshold(best, real) == pytest.approx(0.62)  # the highest that lets two through


def test_dreaming_past_the_trained_horizon_is_refused(world: tuple[WorldModel, Starts]) -> None:
    with pytest.raises(ValueError, match=r"at most 5 decisions"):
        WorldEnv(*world, max_decisions=6)


def test_a_task_that_was_not_recorded_is_refused(world: tuple[WorldModel, Starts]) -> None:
    with WorldEnv(*world, num_slots=1) as env, pytest.raises(ValueError, match="knows no task 'toy/up'"):
        env.reset([0], starts_for("up", 1))


# ---- the folder ------------------------------------------------------------------------------------------


def test_a_folder_holds_all_of_it(world: tuple[WorldModel, Starts], tmp_path: Path) -> None:
    model, starts = world
    save_world(tmp_path / "m", model, starts, {"sets": ["toy"]})
    again, frames, card = load_world(tmp_path / "m")
    assert card == {"sets": ["toy"]}
    assert again.calibration == model.calibration
    assert frames.tasks == starts.tasks
    np.testing.assert_array_equal(frames.pictures, starts.pictures)
    for name, value in model.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name


def test_a_damaged_folder_is_refused(world: tuple[WorldModel, Starts], tmp_path: Path) -> None:
    save_world(tmp_path / "m", *world, {})
    weights = tmp_path / "m" / "world.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(WorldFileError, match="damaged"):
        load_world(tmp_path / "m")
    (tmp_path / "m" / "world.json").unlink()
    with pytest.raises(WorldFileError, match="world fit"):
        load_world(tmp_path / "m")
