"""Standing still, on signals whose every number is worked by hand."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from regrip.datasets.ledger import DataError
from regrip.datasets.recording import Contents, Conventions, Gripper, Recording, StreamSpec, Track
from regrip.datasets.views.idle import TrimIdle
from regrip.datasets.views.view import View, make_view

from .memory_source import MemoryRowSource, MemorySource

STATE = "observation.state"


def a_set(
    state: list[list[float]] | None = None,
    action: list[list[float]] | None = None,
    *,
    conventions: Conventions | None = None,
    rate: float = 10.0,
    state_rate: float = 10.0,
    rows: bool = True,
) -> MemorySource:
    streams, tracks = {}, {}
    for key, values, hz in ((STATE, state, state_rate), ("action", action, rate)):
        if values is not None:
            array = np.array(values, np.float32)
            streams[key] = StreamSpec(key, "vector", "float32", array.shape[1:], rate_hz=hz)
            tracks[key] = Track(array, np.arange(len(array)) / hz)
    of = Contents(streams, rate, conventions=conventions or Conventions(action="absolute"))
    return (MemoryRowSource if rows else MemorySource)(of, [Recording(tracks)])


def kept(source: MemorySource, operation: TrimIdle, key: str = STATE) -> tuple[int, int]:
    """First row that is left and how many are."""
    view = make_view(source, [operation])
    got, want = np.asarray(view[0].streams[key].rows), np.asarray(source[0].streams[key].rows)
    first = next(i for i in range(len(want)) if np.array_equal(want[i : i + len(got)], got, equal_nan=True))
    return first, len(got)


# 10 Hz. Still at 0 for rows 0..9, then 0.1 a row (1 unit/s) up to row 14, still at 0.5 for rows 15..24.
RAMP = [[0.0]] * 10 + [[0.1], [0.2], [0.3], [0.4], [0.5]] + [[0.5]] * 10


@pytest.mark.parametrize("rows", [True, False])
def test_what_comes_before_and_after_motion_is_cut(rows: bool) -> None:
    # Row 9 is where the first motion starts (0.9 s), row 14 where the last has ended (1.4 s).
    still = TrimIdle(speed={STATE: (0.5,)})
    assert kept(a_set(RAMP, rows=rows), still) == (9, 6)
    assert kept(a_set(RAMP, rows=rows), TrimIdle(speed={STATE: (0.5,)}, ends="start")) == (9, 16)
    assert kept(a_set(RAMP, rows=rows), TrimIdle(speed={STATE: (0.5,)}, ends="end")) == (0, 15)
    assert kept(a_set(RAMP, rows=rows), TrimIdle(speed={STATE: (0.5,)}, keep_s=0.3)) == (6, 12)


def test_a_stretch_shorter_than_asked_stays() -> None:
    # 0.9 s at the start, 2.4 - 1.4 = 1.0 s at the end
    assert kept(a_set(RAMP), TrimIdle(speed={STATE: (0.5,)}, at_least_s=0.95)) == (0, 15)
    assert kept(a_set(RAMP), TrimIdle(speed={STATE: (0.5,)}, at_least_s=1.0)) == (0, 15)
    assert kept(a_set(RAMP), TrimIdle(speed={STATE: (0.5,)}, at_least_s=1.05)) == (0, 25)


def test_slower_than_the_threshold_is_still() -> None:
    drift = [[0.01 * i] for i in range(10)] + [[0.09 + 0.2 * i] for i in range(1, 6)]  # 0.1, then 2 units/s
    assert kept(a_set(drift), TrimIdle(speed={STATE: (0.15,)})) == (9, 6)
    assert kept(a_set(drift), TrimIdle(speed={STATE: (0.05,)})) == (0, 15)


def test_any_entry_that_moves_is_motion() -> None:
    two = [[0.0, 0.0]] * 8 + [[0.0, 1.0]] + [[5.0, 1.0]] * 8
    assert kept(a_set(two), TrimIdle(speed={STATE: (1.0,)})) == (7, 3)
    assert kept(a_set(two), TrimIdle(speed={STATE: (1.0, 20.0)})) == (8, 2)


def test_thresholds_of_the_set_itself() -> None:
    # Speeds of 24 steps and the last row's 0: 20 zeros and five of 1, so the 0.9 quantile of 25 is at
    # position 0.9 x 24 = 21.6: between the 22nd and 23rd in order, both 1. A twentieth of it is 0.05.
    view = make_view(a_set(RAMP), [TrimIdle()])
    (done,) = view.operations
    assert isinstance(done, TrimIdle)
    assert list(done.speed) == [STATE]
    np.testing.assert_allclose(done.speed[STATE], [0.05], rtol=1e-6)
    assert len(view[0].streams[STATE]) == 6


def test_an_action_that_is_a_motion_is_compared_as_it_is() -> None:
    # 10 Hz deltas: rows 5..8 command 0.02 a step, 0.2 units/s. They run until row 9.
    move = [[0.0, 1.0]] * 5 + [[0.02, 1.0]] * 4 + [[0.0, 1.0]] * 10
    delta = Conventions(action="delta", grippers=(Gripper("action", 1, "binary", 1, -1),))
    source = a_set(None, move, conventions=delta)
    assert kept(source, TrimIdle(speed={"action": (0.1,)}, at_least_s=0.4), "action") == (5, 5)
    assert kept(source, TrimIdle(speed={"action": (0.1,)}), "action") == (5, 5)
    # the same numbers as velocities are 0.02 units/s
    velocity = dataclasses.replace(delta, action="velocity")
    source = a_set(None, move, conventions=velocity)
    assert kept(source, TrimIdle(speed={"action": (0.01,)}), "action") == (5, 5)
    # a gripper that closes is a motion, one that stays closed is not
    move = [[0.0, 1.0]] * 10 + [[0.0, -1.0]] * 10
    source = a_set(None, move, conventions=delta)
    assert kept(source, TrimIdle(speed={"action": (0.1,)}), "action") == (9, 2)


def test_streams_of_other_rates_are_watched_together() -> None:
    # The state, at 20 Hz, moves from 0.95 s to 1.0 s; the action, at 10 Hz, from 1.2 s to 1.3 s. What stays
    # are the actions from row 9 (0.9 s, the last before 0.95 s) to row 13.
    state = [[0.0]] * 20 + [[1.0]] * 20
    action = [[0.0]] * 13 + [[1.0]] * 7
    view = make_view(a_set(state, action, state_rate=20.0), [TrimIdle(speed={STATE: (1,), "action": (1,)})])
    got = view[0].streams
    np.testing.assert_array_equal(np.asarray(got["action"].rows)[:, 0], [0, 0, 0, 0, 1])
    np.testing.assert_array_equal(np.asarray(got[STATE].rows)[:, 0], [0, 0] + [1] * 8)  # 0.90 to 1.35 s
    np.testing.assert_allclose(got[STATE].time, np.arange(10) / 20, atol=1e-12)


def test_what_is_not_a_number_is_not_taken_for_stillness() -> None:
    ramp: Any = [list(row) for row in RAMP]
    ramp[2] = [float("nan")]
    assert kept(a_set(ramp), TrimIdle(speed={STATE: (0.5,)})) == (0, 15)


def test_an_episode_without_motion_is_named() -> None:
    for rows in (True, False):
        view: View = make_view(a_set([[1.0]] * 9, rows=rows), [TrimIdle(speed={STATE: (0.5,)})])
        with pytest.raises(DataError, match=r"episode 0: nothing is left of its 9 rows .*--delete 0"):
            view[0]
        with pytest.raises(DataError, match="--delete 0"):
            view.num_rows(0)
    assert len(make_view(a_set([[1.0]]), [TrimIdle(speed={STATE: (0.5,)})])[0].streams[STATE]) == 1


def test_what_cannot_be_told_is_refused() -> None:
    unknown = Conventions()
    with pytest.raises(DataError, match="nothing says whether the robot moves"):
        make_view(a_set(None, RAMP, conventions=unknown), [TrimIdle()])
    with pytest.raises(DataError, match="actions are unknown"):
        make_view(a_set(RAMP, RAMP, conventions=unknown), [TrimIdle(speed={"action": (1.0,)})])
    with pytest.raises(DataError, match="3 thresholds for 1 entries"):
        make_view(a_set(RAMP), [TrimIdle(speed={STATE: (1.0, 2.0, 3.0)})])
    with pytest.raises(DataError, match="no vector stream is called 'state'"):
        make_view(a_set(RAMP), [TrimIdle(speed={"state": (1.0,)})])
    with pytest.raises(DataError, match="below 0"):
        TrimIdle(speed={STATE: (-1.0,)})
