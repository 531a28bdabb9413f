"""Which action belongs to which step, with numbers by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from regrip.real_robot.schedule import Schedule, ScheduleConfig


def chunk(*values: float) -> np.ndarray:
    return np.array(values, np.float32)[:, None]


def run(schedule: Schedule, steps: int) -> list[float | None]:
    """The actions of some steps, executed where there are any."""
    found: list[float | None] = []
    for _ in range(steps):
        action = schedule.next()
        found.append(None if action is None else float(action[0]))
        if action is not None:
            schedule.executed()
    return found


def test_blocking_asks_when_a_chunk_is_used_up_and_waits() -> None:
    schedule = Schedule(ScheduleConfig("blocking"), 20.0)
    assert schedule.wants()
    schedule.answered(0, chunk(1, 2, 3), 0.1)
    assert not schedule.wants()
    assert run(schedule, 4) == [1, 2, 3, None]
    assert schedule.step == 3  # the step that had no action is not counted
    assert schedule.wants()


def test_receding_executes_the_first_actions_alone() -> None:
    schedule = Schedule(ScheduleConfig("receding", execute=2), 20.0)
    schedule.answered(0, chunk(1, 2, 3, 4), 0.1)
    assert run(schedule, 3) == [1, 2, None]
    schedule.answered(2, chunk(30, 40, 50), 0.1)
    assert run(schedule, 3) == [30, 40, None]


def test_latest_splices_at_the_step_that_was_really_reached() -> None:
    schedule = Schedule(ScheduleConfig("latest", ask_below=3), 20.0)
    schedule.answered(0, chunk(0, 1, 2, 3, 4), 0.1)
    assert run(schedule, 2) == [0, 1]
    assert schedule.wants()  # three are left
    asked = schedule.step
    assert run(schedule, 2) == [2, 3]
    # Asked at step 2, answered at step 4: rows 0 and 1 are of the past.
    assert schedule.answered(asked, chunk(20, 30, 40, 50, 60), 0.1) == 2
    assert run(schedule, 4) == [40, 50, 60, None]


def test_an_answer_that_is_late_as_a_whole_changes_nothing() -> None:
    schedule = Schedule(ScheduleConfig("latest"), 20.0)
    schedule.answered(0, chunk(0, 1, 2, 3), 0.1)
    run(schedule, 3)
    assert schedule.answered(0, chunk(9, 9, 9), 0.1) == 3
    assert run(schedule, 2) == [3, None]


def test_merge_weights_what_overlaps() -> None:
    schedule = Schedule(ScheduleConfig("merge", new_share=0.7), 20.0)
    schedule.answered(0, chunk(0, 10, 20, 30), 0.1)
    run(schedule, 2)
    schedule.answered(2, chunk(30, 40, 50), 0.1)
    # 0.7 * 30 + 0.3 * 20, 0.7 * 40 + 0.3 * 30, and the last alone
    assert run(schedule, 3) == pytest.approx([27, 37, 50])


def test_ensemble_averages_all_chunks_that_speak_of_a_step() -> None:
    schedule = Schedule(ScheduleConfig("ensemble", decay=0.5), 20.0)
    assert schedule.wants()
    schedule.answered(0, chunk(0, 1, 2), 0.1)
    assert run(schedule, 1) == [0]
    schedule.answered(1, chunk(5, 6, 7), 0.1)
    oldest, newer = 1.0, math.exp(-0.5)
    assert run(schedule, 1) == pytest.approx([(1 * oldest + 5 * newer) / (oldest + newer)])
    schedule.answered(2, chunk(8, 9, 10), 0.1)
    third = math.exp(-1.0)
    assert run(schedule, 1) == pytest.approx(
        [(2 * oldest + 6 * newer + 8 * third) / (oldest + newer + third)]
    )
    # The first chunk says nothing of step 3: the second is now the oldest.
    assert run(schedule, 1) == pytest.approx([(7 * oldest + 9 * newer) / (oldest + newer)])
    assert run(schedule, 2) == [10, None]


def test_ensemble_takes_chunks_of_different_lengths() -> None:
    schedule = Schedule(ScheduleConfig("ensemble", decay=0.0), 20.0)
    schedule.answered(0, chunk(0, 0, 0, 0), 0.1)
    schedule.answered(0, chunk(2), 0.1)
    assert run(schedule, 4) == [1, 0, 0, 0]


def test_real_time_chunking_knows_what_will_be_executed_before_the_answer() -> None:
    schedule = Schedule(ScheduleConfig("rtc", ask_below=4), 20.0)
    schedule.answered(0, chunk(0, 1, 2, 3, 4), None)
    assert schedule.delay_steps() == 1  # nothing is known of latencies yet: warm-up does not count
    run(schedule, 1)
    assert schedule.leftover()[:, 0].tolist() == [1, 2, 3, 4]
    schedule.latencies.extend([0.12] * 20)  # 2.4 steps of 50 ms
    assert schedule.delay_steps() == 3
    asked = schedule.step
    run(schedule, 3)
    schedule.answered(asked, chunk(1, 2, 3, 40, 50), 0.12)  # its first three rows are the frozen ones
    assert run(schedule, 2) == [40, 50]


def test_delay_never_exceeds_what_is_left() -> None:
    schedule = Schedule(ScheduleConfig("rtc"), 20.0)
    schedule.answered(0, chunk(0, 1), 5.0)
    assert schedule.delay_steps() == 2


def test_reset_forgets_chunks_and_keeps_latencies() -> None:
    schedule = Schedule(ScheduleConfig("merge"), 20.0)
    schedule.answered(0, chunk(1, 2), 0.3)
    schedule.reset()
    assert (schedule.step, schedule.next(), list(schedule.latencies)) == (0, None, [0.3])


@pytest.mark.parametrize("bad", [{"execute": -1}, {"ask_below": -1}, {"new_share": 1.5}, {"decay": -1.0}])
def test_impossible_settings_are_refused(bad: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="schedule"):
        ScheduleConfig(**bad)  # type: ignore[arg-type]
