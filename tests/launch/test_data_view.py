"""What is logged for Rerun is what Rerun reads back."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from recordings import DEPTH, FRONT, contents, recording, uneven
from robots import Memory, robot, vectors

from regrip.datasets.ledger import DataError
from regrip.datasets.recording import StreamSpec, Track
from regrip.launch.data_view import chosen, save
from regrip.launch.durable import StorageError

pytest.importorskip("rerun")


def read(path: Path, wanted: str, column: str, static: bool = False) -> list[Any]:
    """(time, frame, value) of each row of an entity, as Rerun's own reader gives them; values if static."""
    from rerun.chunk import RrdReader

    rows = []
    for chunk in RrdReader(str(path)).stream():
        if chunk.entity_path.replace("\\", "") != wanted or chunk.is_static != static:
            continue
        batch = chunk.to_record_batch()
        found = next((name for name in batch.schema.names if name.endswith(column)), None)
        if found is None:
            continue
        values = batch.column(found).to_pylist()
        if static:
            rows += values
            continue
        assert set(chunk.timeline_names) == {"time", "frame"}
        seconds = [t.value / 1e9 for t in batch.column("time")]
        rows += list(zip(seconds, batch.column("frame").to_pylist(), values, strict=True))
    return sorted(rows, key=lambda row: row[1]) if not static else rows


def test_a_recording_is_read_back_by_rerun(tmp_path: Path) -> None:
    of = contents(depth=True)
    of = dataclasses.replace(of, streams={**of.streams, "note": StreamSpec("note", "text", "str", ())})
    made = [recording(of, 40, seed=i, task=f"lift {i} 把杯子") for i in range(3)]
    path = tmp_path / "out.rrd"
    save(Memory(of, made), [0, 2], path)
    assert list(tmp_path.iterdir()) == [path]

    rows = read(path, "/episode_002/action", "Scalars:scalars")
    action = made[2].streams["action"]
    assert [frame for _, frame, _ in rows] == list(range(40))
    np.testing.assert_allclose([time for time, _, _ in rows], action.time, atol=1e-6)
    np.testing.assert_array_equal(np.asarray([value for _, _, value in rows], np.float32), action.rows)
    assert read(path, "/episode_002/action", "names", static=True)[0] == list(of.streams["action"].names)
    assert read(path, "/episode_002/reward", "names", static=True)[0] == ["reward"]

    files = [bytes(value[0]) for _, _, value in read(path, "/episode_000/observation/images/front", "blob")]
    assert files == [made[0].streams[FRONT].rows.encoded(i) for i in range(40)]  # type: ignore[union-attr]
    depth = read(path, "/episode_000/observation/depth/front", "buffer")
    pixels = np.frombuffer(bytes(depth[5][2][0]), np.uint16).reshape(32, 48)
    np.testing.assert_array_equal(pixels, made[0].streams[DEPTH].rows[5])
    assert read(path, "/episode_000/observation/depth/front", "meter")[0][2] == [1000.0]

    text = read(path, "/episode_002/task", "TextDocument:text", static=True)[0][0]
    assert text.startswith("lift 2 把杯子")
    assert "failure" in text
    notes = read(path, "/episode_002/note", "TextLog:text")
    assert [(frame, value[0]) for _, frame, value in notes][:2] == [(0, "note 0"), (3, "note 1")]
    assert read(path, "/episode_001/action", "Scalars:scalars") == []


def test_reruns_own_check_finds_no_fault(tmp_path: Path) -> None:
    of = contents()
    path = tmp_path / "out.rrd"
    save(Memory(of, [recording(of, 5)]), [0], path)
    done = subprocess.run(
        [sys.executable, "-m", "rerun", "rrd", "verify", str(path)],
        capture_output=True, text=True, timeout=60, check=False,
        env={"HOME": str(tmp_path), "PATH": "/usr/bin:/bin", "CI": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "verified without error" in done.stdout + done.stderr


def test_pixels_become_jpeg_and_png_stays(tmp_path: Path) -> None:
    of = contents(wrist=False)
    path = tmp_path / "out.rrd"
    made = [recording(of, 35, codec="raw"), recording(of, 3, codec="png")]
    save(Memory(of, made), [0, 1], path)
    kinds = read(path, "/episode_000/observation/images/front", "media_type")
    assert [value for _, _, value in kinds] == [["image/jpeg"]] * 35
    png = read(path, "/episode_001/observation/images/front", "blob")
    assert bytes(png[1][2][0]) == made[1].streams[FRONT].rows.encoded(1)  # type: ignore[union-attr]


def test_streams_keep_their_own_clocks_and_any_name_is_an_entity(tmp_path: Path) -> None:
    of = contents(wrist=False)
    strange = "a b/<c>.é\"'"
    of = dataclasses.replace(
        of, streams={**of.streams, strange: StreamSpec(strange, "vector", "float32", (2,))}
    )
    one = uneven(recording(of, 20), 3)
    path = tmp_path / "out.rrd"
    save(Memory(of, [one]), [0], path)
    rows = read(path, "/episode_000/observation/state", "Scalars:scalars")
    np.testing.assert_allclose(
        [time for time, _, _ in rows], one.streams["observation.state"].time, atol=1e-6
    )
    assert len(read(path, "/episode_000/a b/<c>/é\"'", "Scalars:scalars")) == len(one.streams[strange])


def test_numbers_that_are_not_finite_and_streams_without_entries(tmp_path: Path) -> None:
    parts = robot("delta", episodes=1, steps=6)
    parts["action"][0][2] = np.nan
    parts["empty"] = [np.zeros((6, 0))]
    path = tmp_path / "deep" / "out.rrd"
    save(vectors(parts), [0], path)
    rows = read(path, "/episode_000/action", "Scalars:scalars")
    assert np.isnan(rows[2][2]).all()


def test_which_episodes() -> None:
    source = vectors(robot("delta", episodes=8, steps=4))
    assert chosen(source, ()) == [0, 1, 2, 3, 4]
    assert chosen(source, (7, 0, 7)) == [7, 0]
    with pytest.raises(DataError, match=r"no episode 8\. the set has 8: 0 to 7"):
        chosen(source, (8,))


def test_a_torn_episode_leaves_no_file(tmp_path: Path) -> None:
    of = contents(wrist=False)
    one = recording(of, 4)
    frames = dataclasses.replace(one.streams[FRONT].rows, files=[b"II*\0 torn"] * 4)  # type: ignore[type-var]
    torn = dataclasses.replace(one, streams={**one.streams, FRONT: Track(frames, one.streams[FRONT].time)})
    with pytest.raises(DataError, match="cannot be decoded"):
        save(Memory(of, [torn]), [0], tmp_path / "out.rrd")
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError):
        save(vectors(robot("delta", episodes=1, steps=4)), [0], tmp_path / "file" / "out.rrd")


def test_without_rerun_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rerun", None)
    with pytest.raises(DataError, match=r"regrip\[view\]"):
        save(vectors(robot("delta", episodes=1, steps=4)), [0], tmp_path / "out.rrd")
