"""What is in a set is told right, and what is wrong with it is found."""

import dataclasses
import json

import numpy as np
import pytest
from recordings import DEPTH, FRONT, WRIST, contents, recording
from robots import Memory, robot, vectors

from regrip.datasets.frames import ArrayFrames, EncodedFrames, encode_jpeg
from regrip.datasets.inspecting.inspection import Inspection, inspect, spread
from regrip.datasets.inspecting.row_summaries import RangeGatherer
from regrip.datasets.ledger import DataError, Problem
from regrip.datasets.recording import Contents, Recording, StreamSpec, Track

STATE = "observation.state"


def told(found: Inspection) -> str:
    return "\n".join(map(str, found.problems))


def clean(**more: object) -> Memory:
    return vectors(robot("delta"), **more)  # type: ignore[arg-type]


def changed(source: Memory, episode: int, **streams: Track) -> Memory:
    """The source with some streams of an episode replaced; ``__`` in a name stands for a dot."""
    made = list(source.made)
    new = {key.replace("__", "."): track for key, track in streams.items()}
    made[episode] = dataclasses.replace(made[episode], streams={**made[episode].streams, **new})
    return Memory(source.contents, made)


def test_counts_worked_by_hand() -> None:
    of = contents()
    made = [recording(of, steps, seed=i, task=f"task {i // 2}") for i, steps in enumerate([3, 5, 13, 21])]
    found = inspect(Memory(of, made))
    assert (found.episodes, found.episodes_read, found.steps, found.lengths) == (4, 4, 42, (3, 9, 21))
    assert found.hours == pytest.approx((2 + 4 + 12 + 20) / 20 / 3600)
    assert found.tasks == {"task 0": 2, "task 1": 2}
    assert (found.successes, found.judged) == (2, 4)
    assert found.rows[FRONT] == 42
    assert {c.stream: c.codec for c in found.cameras} == {FRONT: "jpeg", WRIST: "jpeg"}
    assert [set(c.streams) for c in found.clocks] == [set(of.streams)]  # one clock for all
    assert found.clocks[0].measured_hz == pytest.approx(20)


def test_a_sound_set_has_no_problems() -> None:
    assert told(inspect(clean())) == ""


def test_ranges_worked_by_hand() -> None:
    rows = np.arange(101.0)[:, None] * [1.0, 0.0] + [0.0, 7.0]
    found = inspect(vectors({STATE: [rows[:40], rows[40:]]}))
    first, second = found.ranges
    assert (first.min, first.q01, first.median, first.q99, first.max) == (0, 1, 50, 99, 100)
    assert (first.mean, first.std) == (50, pytest.approx(np.std(np.arange(101))))
    assert (first.min_at, first.max_at) == ((0, 0), (1, 60))
    assert sum(first.counts) == 101
    assert second.constant
    assert second.counts == (101,)


def test_quantiles_of_many_rows_stay_right_in_bounded_memory() -> None:
    rng = np.random.default_rng(0)
    gatherer, whole = RangeGatherer(50), []
    for episode in range(40):
        rows = rng.standard_normal((3000, 50)) + 1e6
        whole.append(rows)
        gatherer.add(episode, rows)
    every, found = np.concatenate(whole), gatherer.ranges("x", (), (), 50)[17]
    assert gatherer._num_kept * 50 <= 2_000_000
    assert found.rows == 120_000
    assert (found.min, found.max) == (every[:, 17].min(), every[:, 17].max())
    assert found.mean == pytest.approx(every[:, 17].mean(), rel=1e-12)
    assert found.std == pytest.approx(
        every[:, 17].std(), rel=1e-9
    )  # far from zero, where sums of squares fail
    assert found.q99 - 1e6 == pytest.approx(np.quantile(every[:, 17], 0.99) - 1e6, abs=0.1)


def test_only_some_are_read_and_that_is_said() -> None:
    of = contents(wrist=False)
    made = [recording(of, 4, seed=i) for i in range(30)]
    found = inspect(Memory(of, made), sample_episodes=5)
    assert (found.episodes, found.episodes_read, found.steps) == (30, 5, 120)
    assert found.hours == pytest.approx(30 * 3 / 20 / 3600)
    assert spread(30, 5) == [0, 7, 14, 22, 29]
    assert spread(3, 5) == [0, 1, 2]
    assert spread(10, 1) == [0]


def test_it_is_json_even_with_what_is_not_finite() -> None:
    parts = robot("delta", episodes=2)
    parts["action"][0][3] = np.nan
    found = inspect(vectors(parts, rate_hz=None))
    again = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert again["ranges"][0]["stream"] == STATE
    assert again["conventions"]["action"]["value"] == "delta"
    assert again["problems"][0]["what"].startswith("values that are no finite numbers")
    empty = inspect(Memory(Contents({}), []))
    assert json.loads(json.dumps(empty.to_json(), allow_nan=False))["episodes"] == 0


def test_streams_of_different_lengths() -> None:
    source = clean()
    track = source.made[2].streams[STATE]
    found = inspect(changed(source, 2, observation__state=Track(track.rows[:-3], track.time[:-3])))  # type: ignore[index]
    assert "episode 2, action: 3 rows more than other streams" in told(found) or (
        f"episode 2, {STATE}: 3 rows fewer than other streams" in told(found)
    )


def test_an_index_that_promises_other_rows() -> None:
    class Liar(Memory):
        def num_rows(self, episode: int) -> dict[str, int]:
            return {"action": 999, STATE: 120}

    source = clean()
    assert "the set's index says 999 rows, 120 are there" in told(inspect(Liar(source.contents, source.made)))


def test_times_that_fall_stand_still_or_jump() -> None:
    source = clean()
    time = np.arange(120) / 20
    for words, at, by in (
        ("times run backwards 1 time", 50, -0.2),
        ("the time of the row before in 1 row", 50, -0.05),
        ("1 gap in time in 714 steps", 50, 3.0),
    ):
        broken = time.copy()
        broken[at:] += by
        streams = {k.replace(".", "__"): Track(t.rows, broken) for k, t in source.made[1].streams.items()}
        what = told(inspect(changed(source, 1, **streams)))
        assert words in what
        if by != -0.05:
            assert "episode 1, frame 50" in what


def test_a_rate_that_times_contradict() -> None:
    assert "the set says 30 Hz, its times say 20 Hz" in told(inspect(clean(rate_hz=30.0)))


def test_uneven_times() -> None:
    rng = np.random.default_rng(0)
    times = [np.cumsum(rng.uniform(0.02, 0.08, 120)) for _ in range(6)]
    assert "times are uneven" in told(inspect(clean(times=times)))


def test_nan_and_constant_entries_and_outliers() -> None:
    parts = robot("delta")
    parts["action"][3][17, 1] = np.nan
    parts[STATE][4][9, 2] = 1e4
    for rows in parts["action"]:
        rows[:, 2] = 0.25
    what = told(inspect(vectors(parts, names={"action": ("x", "y", "z")})))
    assert "action: values that are no finite numbers (y: 1 NaN)" in what
    assert "action: z is constant (0.25)" in what
    assert f"episode 4, frame 9, {STATE}: [2] reaches 1e+04, far beyond" in what


def test_copies_and_single_steps() -> None:
    parts = robot("delta")
    for rows in parts.values():
        rows.append(rows[1].copy())
        rows.append(rows[0][:1])
    what = told(inspect(vectors(parts)))
    assert "episodes 1, 6 hold exactly the same numbers" in what
    assert "at most one step in 1 episode (7)" in what


def test_tasks_that_are_one() -> None:
    tasks = ["pick up the cup"] * 3 + ["Pick up  the cup.", "pick up the cpu", "pick up the saucer"]
    what = told(inspect(clean(tasks=tasks)))
    assert "one task is written in 2 ways: 'pick up the cup' (3), 'Pick up  the cup.' (1)" in what
    assert "'pick up the cpu' (1) may be" not in what  # short words differ in meaning: cup and cap
    tasks = ["open the drawer"] * 5 + ["open the darwer"]
    assert "'open the darwer' (1) may be a typing error for 'open the drawer' (5)" in told(
        inspect(clean(tasks=tasks))
    )
    for pair in (
        ("put it on the left", "put it on the right"),
        ("press button 1", "press button 2"),
        ("turn it on", "turn it in"),
    ):
        assert "written in" not in told(inspect(clean(tasks=[pair[0]] * 5 + [pair[1]])))
        assert "typing error" not in told(inspect(clean(tasks=[pair[0]] * 5 + [pair[1]])))
    assert "no task in 1 episode, but in others" in told(inspect(clean(tasks=["lift"] * 5 + [""])))


def test_idle_starts_and_ends_and_shares() -> None:
    parts = robot("delta", noise=0.0)
    for key, rows in parts.items():
        first, last = rows[0][:1], rows[1][-1:]
        if key == "action":
            first, last = 0 * first, 0 * last
        rows[0] = np.concatenate([first.repeat(40, 0), rows[0]])
        rows[1] = np.concatenate([rows[1], last.repeat(200, 0)])
    found = inspect(vectors(parts))
    assert "nothing moves for 1 s or more at the start of 1 episode (median of them 2.05 s; 0)" in told(found)
    assert "1 s or more at the end of 1 episode" in told(found)
    assert found.idle == pytest.approx((40 + 200) / (6 * 119 + 240), abs=0.01)
    assert "nothing moves in 2" in told(found)


def camera(frames: list[np.ndarray], *, encoded: bool) -> Memory:
    parts = robot("delta", episodes=1, steps=len(frames), noise=0.0)
    source = vectors(parts)
    spec = StreamSpec(FRONT, "image", "uint8", frames[0].shape, rate_hz=20)
    rows = (
        EncodedFrames([encode_jpeg(f) for f in frames], frames[0].shape)
        if encoded
        else ArrayFrames(np.stack(frames))
    )
    one = source.made[0]
    track = Track(rows, one.streams["action"].time)
    of = dataclasses.replace(source.contents, streams={**source.contents.streams, FRONT: spec})
    return Memory(of, [dataclasses.replace(one, streams={**one.streams, FRONT: track})])


@pytest.mark.parametrize("encoded", [True, False])
def test_black_and_frozen_pictures(encoded: bool) -> None:
    rng = np.random.default_rng(0)
    frames = [rng.integers(60, 200, (16, 16, 3), dtype=np.uint8) for _ in range(40)]
    sound = inspect(camera(frames, encoded=encoded))
    assert told(sound) == ""
    assert sound.cameras[0].brightness == pytest.approx(130, abs=10)
    stopped = frames[:10] + [frames[10]] * 12 + frames[22:]
    found = inspect(camera(stopped, encoded=encoded))
    assert f"episode 0, frame 10, {FRONT}: the picture stands still for" in told(found)
    assert found.cameras[0].repeated == 11
    dark = [0 * f for f in frames[:20]] + frames[20:]
    assert "are black" in told(inspect(camera(dark, encoded=encoded)))


def test_a_picture_of_a_robot_at_rest_may_stand_still() -> None:
    frames = [np.full((16, 16, 3), 90, dtype=np.uint8)] * 40
    source = camera(frames, encoded=False)
    rest = {
        k.replace(".", "__"): Track(np.zeros((40, 3)), t.time)
        for k, t in source.made[0].streams.items()
        if k != FRONT
    }
    found = inspect(changed(source, 0, **rest))
    assert found.cameras[0].repeated == 39
    assert "stands still" not in told(found)


def test_depth_without_a_measurement() -> None:
    of = contents(depth=True)
    one = recording(of, 6)
    blind = dataclasses.replace(
        one,
        streams={
            **one.streams,
            DEPTH: Track(ArrayFrames(np.zeros((6, 32, 48), np.uint16)), np.arange(6) / 20),
        },
    )
    assert f"{DEPTH}: 6 of the 6 pictures looked at are black" in told(inspect(Memory(of, [blind])))


def test_what_the_source_found_comes_first_and_unreadable_episodes_are_told() -> None:
    class Torn(Memory):
        def __getitem__(self, episode: int) -> Recording:
            if episode == 1:
                raise DataError("the file ends early", "take it again", file="b.bin", episode=1, key="action")
            return self.made[episode]

    source = clean()
    found = inspect(Torn(source.contents, source.made, [Problem("footer missing", "rebuilt", repaired=True)]))
    assert found.problems[0].repaired
    assert "b.bin, episode 1, action: the file ends early. take it again" in told(found)
    assert (found.episodes, found.episodes_read) == (6, 5)


def test_a_torn_picture_does_not_stop_it() -> None:
    of = contents(wrist=False)
    one = recording(of, 4)
    files = list(one.streams[FRONT].rows.files)  # type: ignore[union-attr]
    files[3] = files[3][:50]
    torn = dataclasses.replace(
        one,
        streams={
            **one.streams,
            FRONT: Track(EncodedFrames(files, (32, 48, 3), "set/front"), np.arange(4) / 20),
        },
    )
    assert "set/front, episode 0, frame 3" in told(inspect(Memory(of, [torn])))


@pytest.mark.parametrize("seed", range(40))
def test_any_numbers_can_be_inspected(seed: int) -> None:
    """Hostile numbers, shapes and times: infinities, giants, empty episodes, missing streams."""
    rng = np.random.default_rng(seed)
    specs, made = {}, []
    for key in (
        "action",
        STATE,
        "observation.gripper_width",
        "reward",
        "note",
        "observation.eef_rot_axis_angle",
    ):
        shape = [(), (1,), (3,), (2, 3), (7,)][rng.integers(5)]
        specs[key] = StreamSpec(
            key, "text" if key == "note" else "vector", "float64", shape, ("a",) * rng.integers(3)
        )
    for _ in range(4):
        streams = {}
        for key, spec in specs.items():
            count = int(rng.choice([0, 1, 2, 3, 30]))
            rows = rng.standard_normal((count, *spec.shape)) * 10.0 ** rng.integers(-300, 308)
            rows[rng.random(rows.shape) < 0.1] = rng.choice([np.nan, np.inf, -np.inf, 0.0, 1.7e308])
            dtype = rng.choice(["f8", "i4", "?", "f2"])
            with np.errstate(all="ignore"):
                kept = rows.astype(dtype) if rng.random() < 0.5 else rows
            if rng.random() < 0.2:
                kept = np.zeros((count, 0))
            if rng.random() < 0.8:
                track = ["x"] * count if spec.kind == "text" else kept
                streams[key] = Track(
                    track, np.sort(rng.standard_normal(count)) * 10.0 ** rng.integers(-3, 300)
                )
        made.append(Recording(streams, task=chr(int(rng.integers(1, 2000)))))
    found = inspect(Memory(Contents(specs), made))
    json.dumps(found.to_json(), allow_nan=False)
