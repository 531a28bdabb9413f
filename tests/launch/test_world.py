"""`regrip world fit` and `check`, by the command: what they write, say and refuse."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import av
import carrier_world
import numpy as np
import pytest
from carrier_world import CAMERA

from regrip.datasets.episode_io import contents_of
from regrip.datasets.frames import ArrayFrames
from regrip.datasets.recording import Recording, Track
from regrip.datasets.spec import RobotSpec
from regrip.datasets.starts import StartState
from regrip.datasets.store.writer import StoreWriter
from regrip.launch.cli import main
from regrip.launch.world_data import starts_named
from regrip.launch.world_page import first_of_each_task
from regrip.launch.world_policies import from_recordings
from regrip.sim.world.clips import read_clips
from regrip.sim.world.files import load_world
from regrip.sim.world.referees import FILE

SMALL = [
    "--chunk", "2", "--latent", "4", "--tokenizer-width", "8", "--width", "32", "--layers", "1",
    "--heads", "2", "--ensemble", "2", "--tokenizer-steps", "20", "--steps", "20", "--batch", "8",
    "--window", "4", "--held-out", "0.3", "--referee-steps", "20",
]  # fmt: skip


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A model by the command, and the set it was fitted on."""
    folder = tmp_path_factory.mktemp("world")
    data = carrier_world.write(folder / "set", range(20))
    assert main(["world", "fit", str(data), "--out", str(folder / "model"), *SMALL]) == 0
    return folder / "model", data


def test_fit_writes_a_card_and_says_what_it_is(
    fitted: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    card = load_world(fitted[0])[2]
    assert card["episodes"] == 20
    assert 6 <= len(card["held_out"]) == len(card["held_out_names"]) <= 10
    assert len(card["trained_on"]) == 20 - len(card["held_out"])
    assert card["data"] == [str(fitted[1])]
    assert card["seconds"] > 0
    assert main(["world", "fit", str(fitted[1]), "--out", str(fitted[0]), *SMALL]) == 1
    assert "holds a world model already" in capsys.readouterr().err


def test_check_looks_only_at_what_was_held_out(
    fitted: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, data = fitted
    assert main(["world", "check", str(model), str(data), "--out", str(tmp_path), "--videos", "3"]) == 0
    said = capsys.readouterr().out
    unseen = len(load_world(model)[2]["held_out"])
    assert f"{unseen} unseen episodes" in said
    assert f"{20 - unseen} it was trained on left out" in said
    numbers = json.loads((tmp_path / "check.json").read_text())
    assert numbers["episodes"]["unseen"] == unseen
    assert numbers["sentence"].startswith("Use it for")
    assert numbers["sentence"][:60] in " ".join(said.split())
    assert {"open_loop", "following", "counterfactual", "physics", "reflector", "recorded", "closed"} <= set(
        numbers
    )
    curves = numbers["open_loop"]["curves"]
    assert set(curves["psnr"]) == {"world", "hold", "linear", "eyes"}
    assert curves["psnr"]["world"]["value"][0] > 0

    page = (tmp_path / "check.html").read_text()
    assert numbers["sentence"].split(";")[0] in page
    assert page.count("<video") == 3
    assert "http://" not in page.replace("http://www.w3.org", "")
    videos = sorted(tmp_path.glob("episode-*.mp4"))
    assert len(videos) == 3
    with av.open(str(videos[0])) as file:
        frame = next(file.decode(video=0)).to_ndarray(format="rgb24")
    assert frame.shape == (192, 2 * 192 + 4, 3)
    # Imagination begins with the same real frame, so the two halves of the first one are alike.
    assert np.abs(frame[:, :192].astype(int) - frame[:, -192:]).mean() < 6


def test_check_takes_all_of_another_set(fitted: tuple[Path, Path], tmp_path: Path) -> None:
    other = carrier_world.write(tmp_path / "other", range(100, 105))
    assert main(["world", "check", str(fitted[0]), str(other), "--out", str(tmp_path / "out")]) == 0
    numbers = json.loads((tmp_path / "out" / "check.json").read_text())
    assert numbers["episodes"]["checked"] == numbers["episodes"]["given"] == 5


def test_a_model_without_referees_learns_them_from_what_it_was_trained_on(
    fitted: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, data = fitted
    bare = tmp_path / "bare"
    bare.mkdir()
    for file in model.iterdir():
        if file.is_file() and file.name != FILE:
            (bare / file.name).write_bytes(file.read_bytes())
    line = ["world", "check", str(bare), str(data), "--out", str(tmp_path / "out"), "--referee-steps", "10"]
    assert main(line) == 1
    assert "--learn-from" in capsys.readouterr().err
    other = carrier_world.write(tmp_path / "other", range(100, 105))
    assert main([*line, "--learn-from", str(other)]) == 1
    assert "trained on none of the 5 episodes" in capsys.readouterr().err
    assert main([*line, "--learn-from", str(data)]) == 0


def without_camera(one: Recording) -> Recording:
    return dataclasses.replace(one, streams={k: v for k, v in one.streams.items() if k != CAMERA})


def not_a_number(key: str) -> Callable[[Recording], Recording]:
    def change(one: Recording) -> Recording:
        rows = np.array(one.streams[key].rows)
        rows[3, 1] = np.nan
        return dataclasses.replace(one, streams={**one.streams, key: Track(rows, one.streams[key].time)})

    return change


def short(one: Recording) -> Recording:
    return dataclasses.replace(
        one,
        streams={
            key: Track(
                ArrayFrames(np.stack([track.rows[i] for i in range(2)])) if key == CAMERA else track.rows[:2],  # type: ignore[arg-type,index]
                track.time[:2],
            )
            for key, track in one.streams.items()
        },
    )


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (without_camera, ["episode 0", CAMERA, "lacks this stream"]),
        (not_a_number("observation.state"), ["episode 0", "observation.state", "row 3 is not finite"]),
        (not_a_number("action"), ["episode 0", "action", "row 3 is not finite"]),
        (short, ["no episode can be learnt from", "4 of 2 steps or fewer"]),
        (lambda one: dataclasses.replace(one, success=None), ["4 that nobody called a success or a failure"]),
    ],
)
@pytest.mark.parametrize("command", ["fit", "check"])
def test_bad_episodes_are_refused_by_name(
    fitted: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str],
    change: Callable[[Recording], Recording], said: list[str], command: str,
) -> None:  # fmt: skip
    data = carrier_world.write(tmp_path / "bad", range(4), change)
    given = [str(fitted[0])] if command == "check" else []
    more = [] if command == "check" else SMALL
    assert main(["world", command, *given, str(data), "--out", str(tmp_path / "out"), *more]) == 1
    error = capsys.readouterr().err
    for words in [str(data), *said]:
        assert words in error
    assert "Traceback" not in error


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (carrier_world.spec(name="another"), "name: 'carrier' against 'another'"),
        (
            carrier_world.spec(actions=3),
            "action: 2 entries ['dx', 'dy'] against 3 ['dx', 'dy', 'dz']",
        ),
    ],
)
def test_sets_of_another_robot_are_refused(
    fitted: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], other: RobotSpec, said: str
) -> None:
    one = carrier_world.episode(0)
    action = np.zeros((one.num_steps, other.action_dim), np.float32)
    writer = StoreWriter.record(tmp_path / "bad", contents_of(other), source="carrier")
    streams = {**one.streams, "action": Track(action, one.streams["action"].time)}
    writer.write(dataclasses.replace(one, streams=streams))
    writer.close()
    assert (
        main(["world", "check", str(fitted[0]), str(tmp_path / "bad"), "--out", str(tmp_path / "out")]) == 1
    )
    error = capsys.readouterr().err
    assert said in error
    assert str(tmp_path / "bad") in error


def test_what_makes_no_sense_is_refused(
    fitted: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, data = fitted
    held = load_world(model)[2]["held_out"]
    only = carrier_world.write(tmp_path / "seen", [i for i in range(20) if i not in held])
    out = ["--out", str(tmp_path / "out")]
    for line, said in (
        (["check", str(tmp_path / "none"), str(data)], "holds no world model"),
        (["check", str(model), str(tmp_path / "none")], "there is no such file or folder"),
        (["check", str(model), str(only)], "was trained on all"),
        (["check", str(model), str(data), "--env", "tabletop", "--policies", "demo@speed=3"], "'speed'"),
        (
            ["check", str(model), str(data), "--env", "tabletop", "--policies", "demo"],
            "the world model and policy",
        ),
    ):
        assert main(["world", *line, *out]) == 1, line
        assert said in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        main(["world", "check", str(model), str(data), "--env", "tabletop"])
    assert "give both or neither" in " ".join(capsys.readouterr().err.split())
    assert main(["world", "chek"]) == 2
    assert "did you mean 'check'?" in capsys.readouterr().err


def test_fit_refuses_test_starts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    start = dataclasses.asdict(StartState("carrier/right", "test", 3))
    data = carrier_world.write(
        tmp_path / "set", range(4), lambda one: dataclasses.replace(one, about={**one.about, "start": start})
    )
    assert main(["world", "fit", str(data), "--out", str(tmp_path / "model"), *SMALL]) == 1
    assert "test start" in capsys.readouterr().err


def test_start_states_are_read_back() -> None:
    found = starts_named(["demo/lift_red/train/500/0", "", "kitchen", "a/b/nosplit/1/2"])
    assert found == [StartState("demo/lift_red", "train", 500, 0), None, None, None]


def test_imagination_begins_where_the_recording_did(fitted: tuple[Path, Path]) -> None:
    model, starts, _ = load_world(fitted[0])
    clips = read_clips([fitted[1]], 2)
    rows, tasks = np.array([1, 4, 7, 10]), ["a/x", "a/y", "a/x", "a/x"]
    inside, called = from_recordings(model, starts, clips, rows, tasks)
    for row, start, task in zip(rows, called, tasks, strict=True):
        assert start.task == task
        place = inside.row(start, False)
        assert np.array_equal(inside.state[place], clips.state[clips.frame_of[clips.first[row]]])


def test_which_episodes_are_shown_follows_a_rule() -> None:
    assert first_of_each_task(["a", "a", "b", "a", "b"], 4) == [0, 2, 1, 4]


@pytest.mark.slow
def test_policies_play_in_the_model_and_in_the_simulator(tmp_path: Path) -> None:
    """From the same starts: the simulator's start states are those that the recordings name."""
    data, model, out = tmp_path / "set", tmp_path / "model", tmp_path / "out"
    record = ["data", "record", "demo", "--policy", "demo", "--mode", "sampled", "--every-frame", "-n", "2"]
    assert main([*record, "--tasks", "lift_red", "press_yellow", "--workers", "1", "--out", str(data)]) == 0
    small = ["--chunk", "5", *SMALL[2:]]
    assert main(["world", "fit", str(data), "--out", str(model), *small]) == 0
    line = ["world", "check", str(model), str(data), "--out", str(out), "--env", "tabletop", "--workers", "1"]
    assert main([*line, "--policies", "demo,demo@noise=3", "--slots", "2"]) == 0
    closed = json.loads((out / "check.json").read_text())["closed"]
    assert closed["names"] == ["demo", "demo@noise=3"]
    held = len(load_world(model)[2]["held_out"])
    assert [rate["trials"] for rate in closed["imagined"] + closed["real"]] == [held] * 4
