"""Samples hold the rows that they should: worked by hand, and against a plain loop."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from memory_rows import MemoryRows
from recordings import DEPTH, FRONT, WRIST, contents, recording, recordings

from regrip.datasets.ledger import DataError
from regrip.datasets.loading.exact_statistics import exact_statistics
from regrip.datasets.loading.mixture import Member, Samples
from regrip.datasets.loading.normalization import Scaling
from regrip.datasets.loading.ram import RamRows, bytes_needed
from regrip.datasets.loading.samples import Reading, lookup
from regrip.datasets.recording import Contents, Recording, RowAccess, StreamSpec, Track
from regrip.datasets.store.reader import Store
from regrip.datasets.store.writer import StoreWriter

STATE = "observation.state"


def everything(samples: Samples) -> tuple[dict[str, Any], list[str]]:
    return samples.batch(samples.locate(np.arange(len(samples))))


def two_episodes() -> tuple[Contents, list[Recording]]:
    of = contents()
    return of, [recording(of, 5, seed=0, task="a"), recording(of, 3, seed=1, task="b")]


def check_against_a_plain_loop(rows: RowAccess, made: list[Recording]) -> None:
    out, tasks = everything(Samples([Member(rows)], Reading(chunk=4)))
    at = 0
    for number, one in enumerate(made):
        action = np.asarray(one.streams["action"].rows)
        for frame in range(len(action)):
            assert tasks[at] == one.task
            assert (out["episode_index"][at], out["frame_index"][at], out["index"][at]) == (number, frame, at)
            assert out["timestamp"][at] == one.streams["action"].time[frame]
            np.testing.assert_array_equal(out[STATE][at], one.streams[STATE].rows[frame])
            np.testing.assert_array_equal(out[FRONT][at], one.streams[FRONT].rows[frame])
            if WRIST in one.streams:
                np.testing.assert_array_equal(out[WRIST][at], one.streams[WRIST].rows[frame])
                assert f"{WRIST}_mask" not in out or out[f"{WRIST}_mask"][at]
            elif WRIST in out:
                assert not out[WRIST][at].any()
                assert not out[f"{WRIST}_mask"][at]
            for ahead in range(4):
                row = min(frame + ahead, len(action) - 1)
                np.testing.assert_array_equal(out["action"][at, ahead], action[row])
                assert out["action_is_pad"][at, ahead] == (frame + ahead >= len(action))
            at += 1
    assert at == len(tasks)


@settings(max_examples=15, deadline=None)
@given(recordings(depth=False))
def test_every_frame_of_a_set(of_and_made: tuple[Contents, list[Recording]]) -> None:
    of, made = of_and_made
    check_against_a_plain_loop(MemoryRows(of, made), made)


def test_every_frame_of_a_store_and_of_one_in_memory(tmp_path: Path) -> None:
    of, made = two_episodes()
    made.append(recording(of, 1, seed=2, task="c", lacks=(WRIST,)))
    with StoreWriter.create(tmp_path / "set", of) as writer:
        for one in made:
            writer.write(one)
    store = Store(tmp_path / "set")
    check_against_a_plain_loop(store, made)
    assert bytes_needed(store) == 17 * 32 * 48 * 3 + 9 * 4 * (8 + 7 + 1) + 8 * (17 + 27)
    check_against_a_plain_loop(RamRows(store), made)


def test_what_does_not_fit_into_memory_is_refused() -> None:
    of, made = two_episodes()
    data = MemoryRows(of, made)
    data._bounds = {key: value * 10**12 for key, value in data._bounds.items()}
    with pytest.raises(DataError, match=r"needs .* GB of memory, .* GB are free"):
        RamRows(data)


def test_other_times_are_clamped_and_said() -> None:
    of, made = two_episodes()
    deltas = {FRONT: (-0.1, 0.0), STATE: (-0.05, 0.0, 0.05), "reward": (0.0,)}
    out, _ = everything(Samples([Member(MemoryRows(of, made))], Reading(delta_timestamps=deltas)))
    assert out[f"{FRONT}_is_pad"].tolist() == [
        *([[True, False]] * 2), *([[False, False]] * 3), *([[True, False]] * 2), [False, False]
    ]  # fmt: skip
    assert out[f"{STATE}_is_pad"].tolist() == [
        [True, False, False], *([[False] * 3] * 3), [False, False, True],
        [True, False, False], [False] * 3, [False, False, True],
    ]  # fmt: skip
    state = np.asarray(made[0].streams[STATE].rows)
    np.testing.assert_array_equal(out[STATE][2], state[1:4])
    np.testing.assert_array_equal(out[STATE][4], state[[3, 4, 4]])
    np.testing.assert_array_equal(out[FRONT][1, 0], made[0].streams[FRONT].rows[0])
    np.testing.assert_array_equal(out[FRONT][3, 0], made[0].streams[FRONT].rows[1])
    assert out["reward"].shape == (8, 1)


def multi_rate(state_time: list[float], action_time: list[float]) -> MemoryRows:
    streams = {
        "action": StreamSpec("action", "vector", "float32", (1,), rate_hz=10.0),
        STATE: StreamSpec(STATE, "vector", "float32", (1,), rate_hz=4.0),
    }
    made = Recording(
        {
            "action": Track(np.arange(len(action_time), dtype=np.float32)[:, None], np.array(action_time)),
            STATE: Track(np.arange(len(state_time), dtype=np.float32)[:, None], np.array(state_time)),
        }
    )
    return MemoryRows(Contents(streams), [made])


def test_streams_of_other_rates_are_found_by_their_times() -> None:
    rows = multi_rate([0.0, 0.25, 0.5, 0.75], [0.1 * i for i in range(8)])
    nearest, _ = everything(Samples([Member(rows)], Reading()))
    assert nearest[STATE][:, 0].tolist() == [0, 0, 1, 1, 2, 2, 2, 3]
    previous, _ = everything(Samples([Member(rows)], Reading(lookup="previous")))
    assert previous[STATE][:, 0].tolist() == [0, 0, 0, 1, 1, 2, 2, 2]
    by_state, _ = everything(Samples([Member(rows)], Reading(anchor=STATE, chunk=2)))
    assert by_state["action"][:, :, 0].tolist() == [[0, 1], [2, 3], [5, 6], [7, 7]]
    assert by_state["action_is_pad"].tolist() == [[False] * 2, [False] * 2, [False] * 2, [False, True]]


def test_a_gap_is_named_or_masked() -> None:
    rows = multi_rate([0.0, 0.25, 1.5], [0.1 * i for i in range(16)])
    with pytest.raises(DataError, match=r"episode 0, frame 1, observation.state: .* 0.35 s away; 0.25 s"):
        everything(Samples([Member(rows)], Reading(tolerance_s=None)))
    out, _ = everything(Samples([Member(rows)], Reading(on_gap="mask")))
    assert np.flatnonzero(out[f"{STATE}_is_pad"]).tolist() == [6, 7, 8, 9, 10, 11, 12]
    out, _ = everything(Samples([Member(rows)], Reading(tolerance_s=1.0)))
    assert out[STATE][8, 0] == 1


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.integers(0, 30), min_size=1, max_size=12),
    st.lists(st.integers(-5, 36), min_size=1, max_size=6),
    st.integers(-3, 15),
    st.sampled_from(["nearest", "previous"]),
)
def test_lookup_is_a_plain_search(times: list[int], targets: list[int], guess: int, how: Any) -> None:
    time = np.sort(np.array(times)) * 0.5
    rows = multi_rate([0.0], (np.r_[-100.0, time, 100.0]).tolist())
    target = np.array(targets) * 0.5 + 0.1
    one = np.ones(len(target), np.int64)
    row, off = lookup(rows, "action", one, one * (1 + len(time)), target, one * guess, how)
    for asked, found, distance in zip(target, row - 1, off, strict=True):
        assert distance == pytest.approx(asked - time[found])
        if how == "nearest":
            assert abs(distance) == pytest.approx(np.abs(time - asked).min())
        else:
            assert time[found] == (time[time <= asked].max() if (time <= asked).any() else time[0])


def test_images_other_than_rgb_and_a_stream_that_is_not_there() -> None:
    of = contents(depth=True)
    rows = MemoryRows(of, [recording(of, 3, codec="raw")])
    out, _ = everything(Samples([Member(rows)], Reading(images=(DEPTH,), vectors=("reward",))))
    assert out[DEPTH].dtype == np.uint16
    assert FRONT not in out
    np.testing.assert_array_equal(out[DEPTH][1], rows.image(DEPTH, 1))
    with pytest.raises(DataError, match=r"no vector stream 'observation\.stat'"):
        Samples([Member(rows)], Reading(vectors=("observation.stat",)))


def test_scaling_is_of_what_was_read() -> None:
    of, made = two_episodes()
    rows = MemoryRows(of, made)
    scaling = Scaling.of("openpi_quantile", exact_statistics(rows).streams["action"])
    plain, _ = everything(Samples([Member(rows)]))
    scaled, _ = everything(Samples([Member(rows, scaling={"action": scaling})]))
    np.testing.assert_array_equal(scaled["action"], scaling.forward(plain["action"]))
    with pytest.raises(DataError, match="not read"):
        Samples([Member(rows, scaling={"acton": scaling})])
