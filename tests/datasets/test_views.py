"""Views against the same edits done by hand on plain lists of recordings."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from regrip.datasets.frames import ArrayFrames, EncodedFrames
from regrip.datasets.ledger import DataError, Problem
from regrip.datasets.recording import Contents, Conventions, Gripper, Recording, Source, StreamSpec, Track
from regrip.datasets.spec import Axis, Camera, RobotSpec
from regrip.datasets.views.changing import Drop, Pad, Rename, Resize, Retask, Select
from regrip.datasets.views.cutting import Every, Trim
from regrip.datasets.views.edits import Operation, from_json, to_json
from regrip.datasets.views.splitting import Delete, Keep, Split
from regrip.datasets.views.view import Base, RowView, View, make_view

from .memory_source import MemoryRowSource, MemorySource
from .recordings import FRONT, WRIST, assert_same, contents, recording, recordings

SETTINGS = settings(max_examples=20, deadline=None)


def view_of(of: Contents, made: list[Recording], *operations: Operation, rows: bool = True) -> View:
    return make_view((MemoryRowSource if rows else MemorySource)(of, made), operations)


def every_row(source: Source) -> list[Recording]:
    return [source[i] for i in range(len(source))]


def sliced(one: Recording, rows: slice) -> Recording:
    """An aligned recording cut by hand, time 0 being the first row that is left."""
    streams = {}
    for key, track in one.streams.items():
        if isinstance(track.rows, EncodedFrames):
            cut: Any = EncodedFrames(track.rows.files[rows], track.rows.shape)
        elif isinstance(track.rows, ArrayFrames):
            cut = ArrayFrames(track.rows.pixels[rows])
        else:
            cut = track.rows[rows]  # type: ignore[index]
        time = track.time[rows]
        streams[key] = Track(cut, time - time[0])
    return dataclasses.replace(one, streams=streams)


def assert_views(view: View, want: list[Recording]) -> None:
    assert len(view) == len(want)
    for i, one in enumerate(want):
        assert_same(view[i], one)
        assert view[i].success == one.success
        assert dict(view.num_rows(i)) == {key: len(track) for key, track in one.streams.items()}
    if isinstance(view, RowView):
        assert_rows(view)


def assert_rows(view: RowView) -> None:
    """Random access gives the rows of the episodes, in any order."""
    assert list(view.tasks()) == [one.task for one in every_row(view)]
    rng = np.random.default_rng(0)
    for key, spec in view.contents.streams.items():
        bounds = view.bounds(key)
        tracks = [view[i].streams.get(key) for i in range(len(view))]
        assert bounds.shape == (len(view), 2)
        assert (bounds[:, 1] - bounds[:, 0]).tolist() == [0 if t is None else len(t) for t in tracks]
        rows = [
            (int(first) + i, t, i)
            for (first, _), t in zip(bounds, tracks, strict=True) if t is not None for i in range(len(t))
        ]  # fmt: skip
        rng.shuffle(rows)  # type: ignore[arg-type]
        asked = np.array([row for row, _, _ in rows], dtype=np.int64)
        assert sorted(asked.tolist()) == list(range(len(rows)))
        np.testing.assert_array_equal(view.times(key, asked), [t.time[i] for _, t, i in rows])
        if spec.kind == "vector":
            got = view.vectors(key, asked)
            assert got.dtype == np.dtype(spec.dtype)
            assert got.shape == (len(rows), *spec.shape)
            for value, (_, track, i) in zip(got, rows, strict=True):
                np.testing.assert_array_equal(value, track.rows[i])  # type: ignore[index]
        elif spec.kind in ("image", "depth"):
            for row, track, i in rows[:5]:
                np.testing.assert_array_equal(view.image(key, row), track.rows[i])  # type: ignore[index]


@SETTINGS
@given(recordings(), st.data())
def test_kept_and_deleted_episodes_are_those_of_the_list(
    drawn: tuple[Contents, list[Recording]], data: st.DataObject
) -> None:
    of, made = drawn
    which = data.draw(st.lists(st.integers(-len(made), len(made) - 1), min_size=1, max_size=4))
    text = ",".join(map(str, which))
    chosen = sorted({i % len(made) for i in which})
    assert_views(view_of(of, made, Keep(text)), [made[i] for i in chosen])
    if len(chosen) < len(made):
        left = [i for i in range(len(made)) if i not in chosen]
        assert_views(view_of(of, made, Delete(text)), [made[i] for i in left])
        first = view_of(of, made, Keep(",".join(map(str, [*chosen, left[0]]))))
        place = sorted([*chosen, left[0]]).index(left[0])
        assert_views(make_view(first, [Delete(str(place))]), [made[i] for i in chosen])


@SETTINGS
@given(recordings(), st.integers(0, 3), st.integers(0, 3), st.booleans())
def test_a_trim_is_a_slice(drawn: tuple[Contents, list[Recording]], start: int, end: int, rows: bool) -> None:
    of, made = drawn
    long = [one for one in made if one.num_steps > start + end]
    operations = [Keep(f"rows>{start + end}"), Trim(f"{start}:-{end}" if end else f"{start}:")]
    if not long:
        with pytest.raises(DataError, match="leaves no episode"):
            view_of(of, made, *operations)
        return
    want = [sliced(one, slice(start, one.num_steps - end)) for one in long]
    assert_views(view_of(of, made, *operations, rows=rows), want)


@SETTINGS
@given(recordings(), st.integers(2, 4), st.integers(0, 2))
def test_every_nth_after_a_trim(drawn: tuple[Contents, list[Recording]], n: int, start: int) -> None:
    of, made = drawn
    long = [one for one in made if one.num_steps > start]
    if long:
        view = view_of(of, made, Keep(f"rows>{start}"), Trim(f"{start}:"), Every(n))
        assert_views(view, [sliced(one, slice(start, None, n)) for one in long])
        assert view.contents.rate_hz == 20.0 / n


@SETTINGS
@given(recordings(aligned=False), st.integers(0, 3), st.integers(0, 3))
def test_streams_of_other_rates_are_trimmed_by_time(
    drawn: tuple[Contents, list[Recording]], start: int, end: int
) -> None:
    of, made = drawn
    long = [one for one in made if len(one.streams["action"]) > start + end]
    if not long:
        return
    view = view_of(of, made, Keep(f"rows>{start + end}"), Trim(f"{start}:{-end or ''}"))
    assert_rows(view)  # type: ignore[arg-type]
    for got, one in zip(every_row(view), long, strict=True):
        time = one.streams["action"].time
        begin = time[start] if start else -np.inf
        stop = time[len(time) - end] if end else np.inf
        zero = time[start] if start else 0.0
        for key, track in one.streams.items():
            inside = (track.time >= begin) & (track.time < stop)
            assert (key in got.streams) == bool(inside.any())
            if inside.any():
                np.testing.assert_array_equal(got.streams[key].time, track.time[inside] - zero)


def test_a_trim_by_seconds_worked_by_hand() -> None:
    of = contents(wrist=False)
    one = dataclasses.replace(recording(of, 100), began_ns=1_000_000_000_000)  # 20 Hz: 0.00 to 4.95 s
    for text, first, last in (
        ("0.5s:", 10, 99), (":-0.5s", 0, 89), ("1s:2s", 20, 39), ("-1s:", 80, 99), ("0.51s:", 11, 99),
        (":0.49s", 0, 9), ("5:-0.2s", 5, 95), ("-0s:", None, None), (":-0s", 0, 99),
    ):  # fmt: skip
        view = view_of(of, [one], Trim(text))
        if first is None:
            with pytest.raises(DataError, match="episode 0: nothing is left of its 100 rows"):
                view[0]
            continue
        got = view[0]
        want = one.streams["action"].rows[first : last + 1]  # type: ignore[index]
        np.testing.assert_array_equal(got.streams["action"].rows, want, err_msg=text)
        assert got.streams["action"].time[0] == 0
        assert got.began_ns == 1_000_000_000_000 + first * 50_000_000


def test_only_some_episodes_are_trimmed() -> None:
    of = contents(wrist=False)
    made = [recording(of, 5, seed) for seed in range(3)]
    view = view_of(of, made, Trim("2:", episodes="1,-1"))
    assert_views(view, [made[0], sliced(made[1], slice(2, None)), sliced(made[2], slice(2, None))])


def test_the_task_is_that_of_the_first_row_that_is_left() -> None:
    of = contents(wrist=False)
    of = dataclasses.replace(of, streams={**of.streams, "task": StreamSpec("task", "text", "str", ())})
    one = recording(of, 4)
    words = Track(["reach", "reach", "grasp", "lift"], one.streams["action"].time)
    one = dataclasses.replace(one, streams={**one.streams, "task": words}, task="reach")
    view = view_of(of, [one], Trim("2:"))
    assert view[0].task == "grasp"
    assert view.tasks() == ["grasp"]  # type: ignore[attr-defined]
    view = view_of(of, [one], Retask({"grasp": "grip"}))
    assert list(view[0].streams["task"].rows) == ["reach", "reach", "grip", "lift"]  # type: ignore[call-overload]


def test_conditions() -> None:
    of = contents(wrist=False)
    made = [
        dataclasses.replace(recording(of, steps, seed, task), success=won, about={"who": who, "n": seed})
        for seed, (steps, task, won, who) in enumerate(
            [(2, "pick a cup", True, "ann"), (9, "pick a pen", False, "bob"), (21, "place a=b", None, "ann")]
        )
    ]
    for text, want in {
        "success=true": [0], "success!=true": [1, 2], "success=unknown": [2], "task=pick*": [0, 1],
        "task=place a=b": [2], "rows>=9": [1, 2], "rows<9": [0], "seconds>=1": [2], "seconds<0.06": [0],
        "about.who=ann": [0, 2], "about.n=1": [1], "about.nothing=1": [], "0:2": [0, 1], "::2": [0, 2],
        "-1,0": [0, 2], " 1 , 2": [1, 2],
    }.items():  # fmt: skip
        for rows in (True, False):
            if want:
                assert [e["episode"] for e in came(view_of(of, made, Keep(text), rows=rows))] == want, text
            else:
                with pytest.raises(DataError, match="leaves no episode of 3"):
                    view_of(of, made, Keep(text), rows=rows)
    for text, words in {
        "succes=true": "did you mean success", "success=yes": "true, false or unknown",
        "rows>=many": "number", "task>a": "no order", "5": "no episode 5", "1-3": "no range",
        "": "chooses no", "::0": "steps by 0", ",": "no range",
    }.items():  # fmt: skip
        with pytest.raises(DataError, match=words):
            view_of(of, made, Keep(text))


def came(view: Source) -> list[Any]:
    return [one.about["from"] for one in every_row(view)]


@SETTINGS
@given(st.integers(2, 40), st.integers(0, 2**32), st.floats(0.1, 0.9))
def test_a_split_is_a_partition_and_merges_back(count: int, seed: int, share: float) -> None:
    of = contents(wrist=False, size=(16, 24))
    made = [recording(of, 1, episode) for episode in range(count)]
    source = MemoryRowSource(of, made, "set")
    split = Split({"train": share, "val": 1 - share}, seed)
    try:
        whole = make_view(source, [split])
    except DataError as error:
        assert "gets none" in str(error)  # noqa: PT017
        assert min(share, 1 - share) * count <= 0.5 + 1e-9
        return
    parts = [make_view(source, [split, Keep(f"split={name}")]) for name in ("train", "val")]
    assert abs(len(parts[0]) - share * count) <= 1
    ids = [[e["episode"] for e in came(part)] for part in parts]
    assert sorted(ids[0] + ids[1]) == list(range(count))
    assert [one.about["split"] for one in every_row(whole)].count("train") == len(parts[0])
    merged = make_view([Base(part, "set") for part in parts])
    order = [one.about["from"]["from"]["episode"] for one in every_row(merged)]
    assert sorted(order) == list(range(count))
    assert_views(merged, [made[i] for i in order])
    again = make_view(source, [split])
    assert [one.about["split"] for one in every_row(again)] == [o.about["split"] for o in every_row(whole)]


def test_a_split_by_tasks_counts_and_choices() -> None:
    of = contents(wrist=False, size=(16, 24))
    made = [recording(of, 1, i, task=f"task {i % 4}") for i in range(20)]
    view = view_of(of, made, Split({"train": 0.75, "val": 0.25}, by="task"))
    tasks: dict[str, set[str]] = {"train": set(), "val": set()}
    for one in every_row(view):
        tasks[one.about["split"]].add(one.task)
    assert (len(tasks["train"]), len(tasks["val"])) == (3, 1)
    assert not tasks["train"] & tasks["val"]
    view = view_of(of, made, Split({"test": "task=task 3", "val": 4, "train": "rest"}))
    labels = [one.about["split"] for one in every_row(view)]
    assert [labels.count(name) for name in ("test", "val", "train")] == [5, 4, 11]
    assert all(one.about["split"] == "test" for one in every_row(view) if one.task == "task 3")
    for parts, words in (
        ({"a": "0:5", "b": "4:", }, "in the parts a and b"), ({"a": 0.5}, "in no part"),
        ({"a": 21, "b": "rest"}, "more than all"), ({"a": 0.99, "b": 0.01}, "part 'b' gets none"),
        ({"a": 0.7, "b": 0.7}, "more than all"), ({}, "names and shares"), ({"a": 0}, "count"),
    ):  # fmt: skip
        with pytest.raises(DataError, match=words):
            view_of(of, made, Split(parts))
    done = view_of(of, made, Split({"train": 0.5, "val": "rest"})).operations
    with pytest.raises(DataError, match="made of 20 episodes, and there are 19 now"):
        view_of(of, made[:19], *done)


SPEC = RobotSpec(
    "arm", "joint_position", 20.0, "none", "0 closed, 1 open",
    tuple(Axis(n, "rad", -1, 1) for n in ("x", "y", "z", "rx", "ry", "rz", "gripper")),
    tuple(Axis(f"joint_{i}", "rad", -1, 1) for i in range(8)),
    (Camera("front", 32, 48), Camera("wrist", 32, 48)),
)  # fmt: skip
MEANT = Conventions(
    action="absolute",
    orientation={FRONT: "upright", WRIST: "rot180"},
    grippers=(Gripper("action", 6, "binary", 1, 0),),
)


def test_changed_streams_take_their_meaning_with_them() -> None:
    of = contents(conventions=MEANT, spec=SPEC)
    made = [recording(of, 3, seed, lacks=(WRIST,) if seed else ()) for seed in range(2)]
    top = "observation.images.top"
    view = view_of(of, made, Rename({WRIST: top}), Select("action", (-1, "x", "3:5")), Drop(("reward",)))
    assert list(view.contents.streams) == [FRONT, top, "observation.state", "action"]
    assert view.contents.streams["action"].names == ("gripper", "x", "rx", "ry")
    assert view.contents.conventions.grippers == (Gripper("action", 0, "binary", 1, 0),)
    assert view.contents.conventions.orientation == {FRONT: "upright", top: "rot180"}
    spec = view.contents.spec
    assert spec is not None
    assert [axis.name for axis in spec.action] == ["gripper", "x", "rx", "ry"]
    assert [camera.name for camera in spec.cameras] == ["front", "top"]
    want = []
    for one in made:
        streams = {top if k == WRIST else k: t for k, t in one.streams.items() if k != "reward"}
        action = streams["action"]
        streams["action"] = Track(np.asarray(action.rows)[:, [6, 0, 3, 4]], action.time)
        want.append(dataclasses.replace(one, streams=streams))
    assert_views(view, want)
    with pytest.raises(DataError, match=f"did you mean '{WRIST}'"):
        view_of(of, made, Rename({"observation.image.wrist": "a"}))
    with pytest.raises(DataError, match="would both be 'action'"):
        view_of(of, made, Rename({"reward": "action"}))
    with pytest.raises(DataError, match="no entry 'grip' among 7"):
        view_of(of, made, Select("action", ("grip",)))


def test_padding_says_what_is_padding() -> None:
    of = contents(wrist=False, spec=SPEC)
    made = [recording(of, 3)]
    names = ("left", "x", "y", "z", "rx", "ry", "rz", "gripper", "right")
    view = view_of(of, made, Pad("action", names))
    rows = np.asarray(made[0].streams["action"].rows)
    got = view[0].streams
    np.testing.assert_array_equal(got["action"].rows, np.pad(rows, ((0, 0), (1, 1))))
    np.testing.assert_array_equal(got["action.valid"].rows, [[False] + 7 * [True] + [False]] * 3)
    assert view.contents.streams["action"].names == names
    assert view.contents.spec is None
    assert_rows(view)  # type: ignore[arg-type]
    assert [(loss.what, loss.rows) for loss in view.losses()] == [("padded", 3)]
    with pytest.raises(DataError, match="7 entries do not fit 3"):
        view_of(of, made, Pad("action", length=3))


def test_tasks_are_replaced_word_for_word_or_by_episode() -> None:
    of = contents(wrist=False)
    made = [recording(of, 1, i, task) for i, task in enumerate(["a*", "ab", "c"])]
    view = view_of(of, made, Retask({"a*": "A", "ab": "B"}, {"-1": "last", "task=zz": "no"}))
    assert [one.task for one in every_row(view)] == ["A", "B", "last"]
    assert view.tasks() == ["A", "B", "last"]  # type: ignore[attr-defined]


def test_resized_images() -> None:
    of = contents(depth=True, spec=SPEC)
    made = [recording(of, 2)]
    view = view_of(of, made, Resize(48, 48, "pad"), Resize(16, 24, keys=("observation.depth.front",)))
    assert_rows(view)  # type: ignore[arg-type]
    assert view.contents.streams[FRONT].shape == (48, 48, 3)
    assert view.contents.spec is not None
    assert {(c.height, c.width) for c in view.contents.spec.cameras} == {(48, 48)}
    image = view[0].streams[FRONT].rows[1]  # type: ignore[index]
    original = made[0].streams[FRONT].rows[1]  # type: ignore[index]
    np.testing.assert_array_equal(image[8:40], original)  # type: ignore[index]
    assert image[:8].max() == 0 == image[40:].max()  # type: ignore[index]
    assert view[0].streams[FRONT].rows.encoded(0) is None  # type: ignore[union-attr]
    depth, small = made[0].streams["observation.depth.front"], view[0].streams["observation.depth.front"]
    np.testing.assert_array_equal(small.rows[0], depth.rows[0][1::2, 1::2])  # type: ignore[index]
    assert {(loss.stream, loss.what, loss.rows) for loss in view.losses()} == {
        (FRONT, "resized", 2), (WRIST, "resized", 2), ("observation.depth.front", "resized", 2),
    }  # fmt: skip
    same = view_of(of, made, Resize(32, 48))
    assert same.losses() == []
    assert same[0].streams[FRONT].rows.encoded(0) == made[0].streams[FRONT].rows.encoded(0)  # type: ignore[union-attr]


def test_a_smaller_image_is_the_mean_of_what_it_covers() -> None:
    of = Contents({FRONT: StreamSpec(FRONT, "image", "uint8", (4, 4, 3))})
    board = (
        np.kron(np.array([[0, 200], [100, 40]]), np.ones((2, 2)))[..., None].repeat(3, -1).astype(np.uint8)
    )
    stripes = np.tile(np.array([0, 200], np.uint8), (4, 2))[..., None].repeat(3, -1)
    one = Recording({FRONT: Track(ArrayFrames(np.stack([board, stripes])), np.arange(2) / 10)})
    frames = view_of(of, [one], Resize(1, 1, "squash"))[0].streams[FRONT].rows
    assert abs(int(frames[0][0, 0, 0]) - 85) <= 1  # type: ignore[index]
    assert abs(int(frames[1][0, 0, 0]) - 100) <= 1  # type: ignore[index]


def test_merging_unites_streams_and_keeps_provenance() -> None:
    a, b = contents(wrist=True), contents(wrist=False)
    b = dataclasses.replace(b, streams={("proprio" if k == "observation.state" else k): v
                                        for k, v in b.streams.items()})  # fmt: skip
    made_a = [recording(a, 3, i) for i in range(2)]
    made_b = [recording(contents(wrist=False), 5, 7)]
    renamed_b = [
        dataclasses.replace(
            one, streams={("proprio" if k == "observation.state" else k): t for k, t in one.streams.items()}
        )
        for one in made_b
    ]
    left, right = MemoryRowSource(a, made_a), MemoryRowSource(b, renamed_b)
    right.problems = [Problem("odd", "look", file="x.bin", episode=0)]
    rename = (Rename({"proprio": "observation.state"}),)
    view = make_view([Base(left, "a"), Base(right, "b", rename)], [Trim("1:")])
    assert_views(view, [sliced(one, slice(1, None)) for one in [*made_a, *made_b]])
    assert came(view) == [{"set": "a", "episode": 0}, {"set": "a", "episode": 1}, {"set": "b", "episode": 0}]
    assert WRIST not in view[2].streams
    assert [(p.file, p.episode) for p in view.problems] == [("b/x.bin", 2)]
    assert [each["name"] for each in view.contents.about["sets"]] == ["a", "b"]


def test_merging_refuses_what_does_not_mean_the_same() -> None:
    a = contents(wrist=False, conventions=MEANT, spec=SPEC)
    made = [recording(a, 2)]
    narrow = dataclasses.replace(a.streams["action"], shape=(6,), names=a.streams["action"].names[:6])
    fewer = dataclasses.replace(a, streams={**a.streams, "action": narrow}, spec=None)
    faster = dataclasses.replace(a, rate_hz=30.0, robot="ur5")
    delta = dataclasses.replace(
        a, conventions=dataclasses.replace(MEANT, action="delta"),
        spec=dataclasses.replace(SPEC, control_mode="ee_delta"),
    )  # fmt: skip
    flipped = dataclasses.replace(a, conventions=dataclasses.replace(MEANT, orientation={FRONT: "vflip"}))
    for other, words in (
        (fewer, r"entries of action: \(7,\) \['x'.* in A, \(6,\).*spec: known in A, unknown in B.*--pad"),
        (faster, r"rate_hz: 20.0 in A, 30.0 in B\n.*robot: 'panda' in A, 'ur5' in B.*--differ"),
        (delta, "conventions.action: 'absolute' in A, 'delta' in B.*control_mode: 'joint_position' against"),
        (flipped, "conventions.orientation: .*upright.* in A, .*vflip.* in B"),
    ):
        sets = [Base(MemorySource(a, made), "A"), Base(MemorySource(other, made), "B")]
        with pytest.raises(DataError, match=f"(?s){words}"):
            make_view(sets)
    sets = [Base(MemorySource(a, made), "A"), Base(MemorySource(faster, made), "B")]
    merged = make_view(sets, differ=("rate_hz", "robot"))
    assert (merged.contents.rate_hz, merged.contents.robot) == (None, "")
    sets = [Base(MemorySource(a, made), "A"), Base(MemorySource(delta, made), "B")]
    merged = make_view(sets, differ=("conventions.action", "spec"))
    assert merged.contents.conventions.action == "unknown"
    assert merged.contents.spec is None
    assert merged.contents.conventions.grippers == MEANT.grippers


def test_padding_lets_two_robots_be_merged() -> None:
    a, b = contents(wrist=False), contents(wrist=False)
    narrow = dataclasses.replace(a.streams["action"], shape=(2,), names=("x", "gripper"))
    b = dataclasses.replace(b, streams={**b.streams, "action": narrow})
    names = a.streams["action"].names
    sets = [
        Base(MemoryRowSource(of, [recording(of, 2, seed)]), str(seed), (Pad("action", names),))
        for seed, of in enumerate((a, b))
    ]
    view = make_view(sets)
    assert_rows(view)  # type: ignore[arg-type]
    np.testing.assert_array_equal(view[0].streams["action.valid"].rows, np.ones((2, 7), bool))
    np.testing.assert_array_equal(view[1].streams["action.valid"].rows[0], [1, 0, 0, 0, 0, 0, 1])  # type: ignore[index]


def test_nothing_is_decoded_before_it_is_looked_at() -> None:
    of = contents()
    made = [recording(of, 6, seed) for seed in range(3)]
    for one in made:  # files that no decoder takes
        for key in (FRONT, WRIST):
            frames = one.streams[key].rows
            assert isinstance(frames, EncodedFrames)
            frames.files[:] = [b"damaged" + file for file in frames.files]  # type: ignore[index]
    view = view_of(of, made, Delete("1"), Trim("1:-1"), Every(2), Resize(8, 8, keys=(WRIST,)))
    for i, episode in enumerate((0, 2)):
        got = [view[i].streams[FRONT].rows.encoded(row) for row in range(2)]  # type: ignore[union-attr]
        assert got == [made[episode].streams[FRONT].rows.files[row] for row in (1, 3)]  # type: ignore[union-attr]
    with pytest.raises(DataError):
        view[0].streams[FRONT].rows[0]  # type: ignore[index]


def test_every_nth_delta_is_refused() -> None:
    of = contents(conventions=Conventions(action="delta"))
    with pytest.raises(DataError, match="the motion of the others is lost"):
        view_of(of, [recording(of, 6)], Every(2))


OPERATIONS: list[Operation] = [
    Keep("0:10,15"), Delete("success=false"),
    Split({"train": 0.9, "val": 5, "test": "task=a*"}, 3, "task", 20),
    Trim("1.5s:-2", "0:3"), Every(3), Rename({"a": "b"}), Drop(("a",)), Select("a", ("x", 3, "0:2")),
    Pad("a", ("x", "y")), Pad("a", length=9), Retask({"a": "b"}, {"0": "c"}), Resize(8, 9, "squash", ("a",)),
]  # fmt: skip


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda o: str(o.name))
def test_operations_survive_json(operation: Operation) -> None:
    assert from_json(json.loads(json.dumps(to_json(operation)))) == operation


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"op": "kepe", "episodes": "1"}, "did you mean 'keep'"),
        ({"op": "keep", "episode": "1"}, "did you mean 'episodes'"),
        ({"op": "keep"}, "keep needs episodes"),
        ({"op": "keep", "episodes": 3}, "3' is a int, expected str"),
        ({"op": "trim", "range": "__import__('os'):"}, "no row and no time"),
        ({"op": "every", "n": True}, "is a bool"),
        ({"op": "resize", "height": 10**9, "width": 1}, "1 to 8192"),
        ({"op": "resize", "height": 8, "width": 8, "fit": "crop"}, "'pad', 'squash'"),
        ({"op": "split", "parts": {"a": float("nan")}}, "expected"),
        ({"op": ["keep"]}, "is no operation"),
        ([], "is no operation"),
    ],
)
def test_a_wrong_operation_is_explained(said: Any, words: str) -> None:
    with pytest.raises(DataError, match=words):
        from_json(said)
