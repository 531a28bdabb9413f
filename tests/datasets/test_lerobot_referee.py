"""LeRobot itself reads what we write, we read what it writes, and its own converter takes our v2.1 sets."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from recordings import DEPTH, FRONT, WRIST, contents, recording
from referee import ask
from test_lerobot import write

from regrip.datasets.formats import get_format
from regrip.datasets.frames import psnr
from regrip.datasets.recording import Recording, StreamSpec, Track

pytestmark = pytest.mark.slow  # each answer takes an import of torch, which is most of it


def made() -> list[Recording]:
    return [recording(contents(), n, seed=n, task=f"tâche {n % 2}") for n in (7, 1, 12)]


def compare(answer: dict[str, object], arrays: Path, source: list[Recording], least_db: float) -> None:
    """Rows that LeRobot gave against the recordings: numbers exact, pixels by PSNR, padding by hand."""
    found = np.load(arrays)
    starts = [0, 7, 8]
    rows = [(0, 0), (0, 6), (1, 0), (2, 5), (2, 11)]
    for (episode, frame), task in zip(rows, answer["tasks"], strict=True):  # type: ignore[arg-type]
        row, one = starts[episode] + frame, source[episode]
        assert task == one.task
        state = one.streams["observation.state"].rows
        np.testing.assert_array_equal(found[f"{row}:observation.state"], state[frame])
        ahead = [min(frame + k, one.num_steps - 1) for k in range(4)]
        np.testing.assert_array_equal(found[f"{row}:action"], one.streams["action"].rows[ahead])  # type: ignore[index]
        pad = [frame + k >= one.num_steps for k in range(4)]
        np.testing.assert_array_equal(found[f"{row}:action_is_pad"], pad)
        for key in (FRONT, WRIST):
            assert psnr(found[f"{row}:{key}"], one.streams[key].rows[frame]) >= least_db, (row, key)


QUESTION = {
    "rows": [0, 6, 7, 13, 19],
    "deltas": {"action": [0, 0.05, 0.1, 0.15]},
    "keys": ["observation.state", "action", "action_is_pad"],
    "images": [FRONT, WRIST],
}


@pytest.mark.parametrize("codec", ["libsvtav1", "libx264"])
def test_lerobot_loads_our_videos(tmp_path: Path, codec: str) -> None:
    write(tmp_path / "set", contents(), made(), images="video", video_codec=codec, crf=20)
    answer = ask("lerobot_referee.py", "read", tmp_path / "set", {**QUESTION, "out": str(tmp_path / "a.npz")})
    assert (answer["frames"], answer["episodes"], answer["fps"], answer["robot"]) == (20, 3, 20, "panda")
    compare(answer, tmp_path / "a.npz", made(), 25)
    # What torchcodec shows is what our reader shows: the same frame, to the rounding of colours.
    ours = get_format("lerobot-v3").open(tmp_path / "set")
    found = np.load(tmp_path / "a.npz")
    for row, (episode, frame) in {6: (0, 6), 7: (1, 0), 13: (2, 5)}.items():
        assert psnr(found[f"{row}:{FRONT}"], ours[episode].streams[FRONT].rows[frame]) > 40
    action = np.concatenate([one.streams["action"].rows for one in made()])
    np.testing.assert_allclose(answer["stats"]["action"]["q50"], np.median(action, axis=0), rtol=1e-6)


def test_lerobot_loads_our_images_of_every_kind(tmp_path: Path) -> None:
    of = contents(depth=True)
    table = StreamSpec("table", "vector", "float64", (2, 3), rate_hz=20)
    words = StreamSpec("words", "text", "str", (), rate_hz=20)
    spec = dataclasses.replace(of, streams={**of.streams, "table": table, "words": words})
    episodes = []
    for n, codec in ((7, "jpeg"), (1, "png"), (12, "raw")):
        one = recording(of, n, seed=n, task=f"tâche {n % 2}", codec=codec)
        time = one.streams["action"].time
        numbers = np.arange(n * 6, dtype=np.float64).reshape(n, 2, 3)
        more = {"table": Track(numbers, time), "words": Track([f"w{i}" for i in range(n)], time)}
        low = one.streams[DEPTH].rows.pixels // 2  # type: ignore[union-attr]  # 0.4.4 takes depth for int16
        more[DEPTH] = Track(dataclasses.replace(one.streams[DEPTH].rows, pixels=low), time)  # type: ignore[type-var]
        episodes.append(dataclasses.replace(one, streams={**one.streams, **more}))
    write(tmp_path / "set", spec, episodes)
    question = {**QUESTION, "out": str(tmp_path / "a.npz"), "images": [FRONT, WRIST, DEPTH]}
    question["keys"] = [*QUESTION["keys"], "table"]
    answer = ask("lerobot_referee.py", "read", tmp_path / "set", question)
    compare(answer, tmp_path / "a.npz", episodes, 45)  # JPEG decoders differ in a bit; PNG is equal
    found = np.load(tmp_path / "a.npz")
    np.testing.assert_array_equal(found[f"7:{FRONT}"], episodes[1].streams[FRONT].rows[0])
    np.testing.assert_array_equal(found[f"6:{DEPTH}"][0], episodes[0].streams[DEPTH].rows[6])
    np.testing.assert_array_equal(found["13:table"], episodes[2].streams["table"].rows[5])


@pytest.mark.parametrize("videos", [True, False])
def test_we_read_what_lerobot_writes(tmp_path: Path, videos: bool) -> None:
    episodes = [[5, ["push"]], [2, [""]], [8, ["öffnen", "close"]]]
    out = tmp_path / "a.npz"
    ask(
        "lerobot_referee.py",
        "write",
        tmp_path / "set",
        {"out": str(out), "episodes": episodes, "videos": videos},
    )
    source = get_format("lerobot-v3").open(tmp_path / "set")
    assert not source.problems
    assert source.contents.robot == "panda"
    assert source.contents.streams["table"].shape == (2, 3)
    assert source.contents.streams["observation.state"].names == ("a", "b", "c", "d")
    want = np.load(out)
    for index, (length, tasks) in enumerate(episodes):
        got = source[index]
        assert got.num_steps == length
        assert list(got.streams["task"].rows) == [tasks[i * len(tasks) // length] for i in range(length)]  # type: ignore[arg-type, index, call-overload, operator]
        for frame in range(length):  # type: ignore[call-overload]
            for key in ("observation.state", "action", "table"):
                np.testing.assert_array_equal(got.streams[key].rows[frame], want[f"{index}:{frame}:{key}"])
            assert got.streams["next.reward"].rows[frame] == frame
            assert got.streams["next.done"].rows[frame] == (frame == length - 1)  # type: ignore[operator]
            assert got.streams["note"].rows[frame] == f"row {frame}"
            image, first = got.streams[FRONT].rows[frame], want[f"{index}:{frame}:{FRONT}"]
            assert psnr(image, first) > (25 if videos else 200)
    again, ledger = write(tmp_path / "ours", source.contents, [source[i] for i in range(3)])
    assert not [loss for loss in ledger.losses if loss.what == "re-encoded"]
    for index in range(3):
        rows = zip(again[index].streams[FRONT].rows, source[index].streams[FRONT].rows, strict=True)
        assert all(np.array_equal(a, b) for a, b in rows)


@pytest.mark.parametrize("images", ["video", "copy"])
def test_lerobots_converter_takes_our_v21(tmp_path: Path, images: str) -> None:
    path = tmp_path / "root/someone/set"
    path.parent.mkdir(parents=True)
    write(path, contents(), made(), "lerobot-v2", images=images, video_codec="libx264", crf=20)
    question = {**QUESTION, "out": str(tmp_path / "a.npz")}
    answer = ask("lerobot_referee.py", "convert", tmp_path / "root", question)
    compare(answer, tmp_path / "a.npz", made(), 25)
    converted = get_format("lerobot-v3").open(path)
    assert len(converted) == 3
    for index, one in enumerate(made()):
        np.testing.assert_array_equal(converted[index].streams["action"].rows, one.streams["action"].rows)
        assert psnr(converted[index].streams[FRONT].rows[0], one.streams[FRONT].rows[0]) > 25
