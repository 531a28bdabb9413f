"""One clock for many streams: worked numbers, laws, and what is said of it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from recordings import FRONT, assert_same, contents, recording, recordings, uneven
from scipy.spatial.transform import Rotation

from regrip.datasets.frames import ArrayFrames
from regrip.datasets.ledger import DataError
from regrip.datasets.recording import Contents, Recording, StreamSpec, Track
from regrip.datasets.views.resampling import (
    PickedFrames,
    at_rate,
    cut,
    default_policy,
    resample,
    rotations,
    umi_latencies,
)


def vector(key: str, rows, time, dtype="float64", **more) -> tuple[StreamSpec, Track]:
    rows = np.asarray(rows, dtype=dtype)
    return StreamSpec(key, "vector", dtype, rows.shape[1:], **more), Track(
        rows, np.asarray(time, dtype=float)
    )


def together(*streams: tuple[StreamSpec, Track], **more) -> tuple[Recording, Contents]:
    return (
        Recording({spec.key: track for spec, track in streams}, **more),
        Contents({spec.key: spec for spec, _ in streams}),
    )


def camera(time) -> tuple[StreamSpec, Track]:
    pixels = np.arange(len(time), dtype=np.uint8)[:, None, None, None] * np.ones((1, 2, 2, 3), np.uint8)
    return StreamSpec("cam", "image", "uint8", (2, 2, 3)), Track(ArrayFrames(pixels), np.asarray(time, float))


def test_worked_numbers() -> None:
    # a camera at 0, 0.1, 0.2; a joint at 0, 0.08, 0.16, 0.24 that moves 1 per 0.08 s; commands at .05 .15 .25
    one, of = together(
        camera([0.0, 0.1, 0.2]),
        vector("joint", [[0.0], [1.0], [2.0], [3.0]], [0.0, 0.08, 0.16, 0.24]),
        vector("mode", [7, 8, 9], [0.0, 0.11, 0.19], "int64"),
        vector("action", [[10.0], [11.0], [12.0]], [0.05, 0.15, 0.25]),
    )
    got, said, losses = resample(one, of, master="cam")
    assert got.aligned
    np.testing.assert_array_equal(got.streams["cam"].time, [0.0, 0.1, 0.2])
    np.testing.assert_allclose(got.streams["joint"].rows, [[0.0], [1.25], [2.5]], rtol=1e-12)
    np.testing.assert_array_equal(got.streams["mode"].rows, [7, 7, 9])  # 0.11 is after 0.1: not yet
    np.testing.assert_array_equal(got.streams["action"].rows, [[10.0], [11.0], [12.0]])  # the command after
    assert said.streams["joint"].shape == (1,)
    by = {(loss.stream, loss.what): loss for loss in losses}
    assert by["joint", "resampled"].rows == 2
    assert by["joint", "resampled"].measure["staleness_s"] == pytest.approx(0.06)  # 0.2 from 0.16 and 0.24
    assert by["mode", "dropped"].rows == 1
    assert ("cam", "resampled") not in by


def test_an_action_is_never_the_command_before() -> None:
    one, of = together(
        camera([0.0, 0.1, 0.2, 0.3]), vector("action", [[0.0], [1.0], [2.0]], [0.0, 0.1000004, 0.25])
    )
    got, _, losses = resample(one, of, master="cam")
    # 0.1000004 is 0.1 as far as clocks can tell; nothing was commanded at 0.3 or after, so that tick goes
    np.testing.assert_array_equal(got.streams["action"].rows[:, 0], [0.0, 1.0, 2.0])
    np.testing.assert_array_equal(got.streams["cam"].time, [0.0, 0.1, 0.2])
    assert any(loss.what == "dropped" and not loss.stream and loss.rows == 1 for loss in losses)


def test_umi_latencies_are_taken_off_before_streams_meet() -> None:
    # all saw the same event: the camera says 1.125, the gripper 1.02, the arm 1.0001
    time = np.arange(50) * 0.02
    spec, track = camera(time + 0.125)
    spec = StreamSpec("observation.images.camera0", "image", "uint8", (2, 2, 3))
    one, of = together(
        (spec, track),
        vector("robot0_eef_pos", time[:, None] * [1.0, 2.0, 3.0], time + 0.0001),
        vector("robot0_gripper_width", time[:, None], time + 0.02),
    )
    latency = umi_latencies(of)
    assert latency == {spec.key: 0.125, "robot0_eef_pos": 0.0001, "robot0_gripper_width": 0.02}
    got, _, losses = resample(one, of, master=spec.key, latency_s=latency)
    assert got.num_steps == 50
    np.testing.assert_allclose(got.streams["robot0_gripper_width"].rows[:, 0], time, atol=1e-12)
    np.testing.assert_allclose(got.streams["robot0_eef_pos"].rows[:, 1], 2 * time, atol=1e-12)
    assert any("0.125 s earlier" in loss.detail for loss in losses if loss.stream == spec.key)


def test_a_latency_that_leads_before_the_beginning_moves_the_beginning() -> None:
    one, of = together(camera([0.0, 0.1]), vector("x", [[0.0], [1.0]], [-0.0, 0.1]), began_ns=10**18)
    got, _, _ = resample(one, of, master="cam", latency_s={"cam": 0.05, "x": 0.05})
    np.testing.assert_array_equal(got.streams["cam"].time, [0.0, 0.1])
    assert got.began_ns == 10**18 - 50_000_000


@settings(max_examples=20, deadline=None)
@given(recordings())
def test_what_is_on_the_clock_already_stays_as_it_is(drawn) -> None:
    of, made = drawn
    for one in made:
        for clock in ({"rate_hz": of.rate_hz}, {"master": "action"}):
            got, _, losses = resample(one, of, **clock)
            assert_same(got, one)
            assert losses == []


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.integers(1, 10**9), min_size=2, max_size=20),
    st.lists(st.integers(1, 10**9), min_size=2, max_size=20),
    st.integers(-64, 64),
)
def test_a_straight_line_stays_one(a: list[int], b: list[int], slope: int) -> None:
    there, clock = np.cumsum(a) / 1e9, np.cumsum(b) / 1e9
    there = np.append(there, max(there[-1], clock[-1]) + 1) - there[0] + min(0.0, clock[0])
    one, of = together(vector("clock", clock, clock), vector("x", 3.0 + slope * there, there))
    got, _, _ = resample(one, of, master="clock", policies={"clock": "nearest"})
    ticks = got.streams["x"].time
    np.testing.assert_allclose(
        got.streams["x"].rows, 3.0 + slope * ticks, rtol=0, atol=64e-9
    )  # times are whole ns


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**16), st.sampled_from(["nearest", "previous", "next"]))
def test_picks_agree_with_looking_at_every_row(seed: int, policy: str) -> None:
    rng = np.random.default_rng(seed)
    rows, clock = np.sort(rng.integers(0, 10**6, 9)) * 1e-5, np.sort(rng.integers(0, 10**6, 7)) * 1e-5
    one, of = together(vector("clock", clock, clock), vector("x", rows, rows))
    try:
        got, _, _ = resample(one, of, master="clock", policies={"x": policy, "clock": "nearest"})
    except DataError:
        assert not any((rows <= t).any() if policy == "previous" else (rows >= t).any() for t in clock) or (
            policy == "nearest"
        )
        return
    for tick, value in zip(got.streams["x"].time, got.streams["x"].rows, strict=True):
        if policy == "previous":
            assert value == max(r for r in rows if r <= tick + 1e-9)
        elif policy == "next":
            assert value == min(r for r in rows if r >= tick - 1e-9)
        else:
            assert abs(value - tick) <= min(abs(rows - tick)) + 1e-9


@pytest.mark.parametrize("order", ["xyzw", "wxyz"])
def test_slerp_in_either_order(order: str) -> None:
    turns = Rotation.from_euler("z", [[0], [90], [180]], degrees=True).as_quat()
    turns[1] *= -1  # the same rotation: the way between must not go round the other side
    rows = turns if order == "xyzw" else np.roll(turns, 1, axis=1)
    rows = np.concatenate([np.array([[0.0], [1.0], [2.0]]), rows], 1)
    names = ("x", *(f"q{letter}" for letter in order))
    one, of = together(camera([0.0, 0.5, 1.0, 1.5, 2.0]), vector("pose", rows, [0.0, 1.0, 2.0], names=names))
    assert default_policy(of.streams["pose"]) == "slerp"
    assert rotations(of.streams["pose"]) == [(1, order)]
    got, _, _ = resample(one, of, master="cam")
    pose = np.asarray(got.streams["pose"].rows)
    np.testing.assert_array_equal(pose[:, 0], [0.0, 0.5, 1.0, 1.5, 2.0])
    quaternion = pose[:, 1:] if order == "xyzw" else np.roll(pose[:, 1:], -1, axis=1)
    np.testing.assert_allclose(
        np.rad2deg(Rotation.from_quat(quaternion).magnitude()), [0, 45, 90, 135, 180], atol=1e-9
    )
    np.testing.assert_array_equal(pose[2], rows[1])  # on a row: that row, bit for bit, sign and all


def test_axis_angle_goes_the_short_way_over_pi() -> None:
    rows = Rotation.from_euler("z", [[170], [190]], degrees=True).as_rotvec()
    about = {"rotation": "rotation_vector"}
    one, of = together(camera([0.0, 0.5]), vector("rot", rows, [0.0, 1.0], about=about))
    got, _, _ = resample(one, of, master="cam")
    middle = Rotation.from_rotvec(np.asarray(got.streams["rot"].rows)[1])
    assert np.rad2deg((Rotation.from_euler("z", 180, degrees=True).inv() * middle).magnitude()) < 1e-6


def test_stale_ticks_are_dropped_or_marked() -> None:
    one, of = together(camera([0.0, 0.1, 0.2, 0.3, 0.4]), vector("joint", [0.0, 1.0, 4.0], [0.0, 0.1, 0.4]))
    policies = {"joint": "previous"}
    got, _, losses = resample(one, of, master="cam", policies=policies, max_staleness_s=0.1)
    np.testing.assert_array_equal(got.streams["cam"].time, [0.0, 0.1, 0.2, 0.4])
    assert [loss.rows for loss in losses if not loss.stream] == [1]
    got, said, _ = resample(one, of, master="cam", policies=policies, max_staleness_s=0.1, stale="mark")
    assert said.streams["valid"].names == ("cam", "joint")
    np.testing.assert_array_equal(got.streams["valid"].rows[:, 1], [True, True, True, False, True])
    assert got.aligned


def test_a_topic_that_starts_late_costs_the_ticks_before_it() -> None:
    one, of = together(camera([0.0, 0.1, 0.2, 0.3]), vector("late", [1.0, 2.0], [0.15, 0.35]))
    got, _, _ = resample(one, of, master="cam")
    np.testing.assert_array_equal(got.streams["cam"].time, [0.2, 0.3])
    got, _, _ = resample(one, of, rate_hz=10)
    np.testing.assert_allclose(got.streams["cam"].time, [0.15, 0.25])


def test_images_are_picked_and_not_decoded() -> None:
    class Never:
        def __len__(self) -> int:
            return 4

        def __getitem__(self, index: int):
            raise AssertionError("decoded")

        def __iter__(self):
            raise AssertionError("decoded")

        def encoded(self, index: int) -> bytes:
            return bytes([index])

    spec = StreamSpec("cam", "image", "uint8", (2, 2, 3))
    one, of = together((spec, Track(Never(), np.arange(4) * 0.1)), vector("x", [0.0, 1.0], [0.05, 0.25]))
    got, _, losses = resample(one, of, master="x")
    assert [got.streams["cam"].rows.encoded(i) for i in range(2)] in ([b"\0", b"\2"], [b"\1", b"\3"])
    assert any(loss.stream == "cam" and loss.what == "dropped" and loss.rows == 2 for loss in losses)


def test_picked_frames_come_in_any_order_and_as_often_as_asked() -> None:
    base = ArrayFrames(np.arange(6, dtype=np.uint8)[:, None, None, None] * np.ones((1, 1, 1, 3), np.uint8))
    for index in ([0, 0, 1, 4, 4, 5], [5, 0, 3], [2], []):
        picked = PickedFrames(base, np.array(index, dtype=np.int64))
        assert [int(image[0, 0, 0]) for image in picked] == index
        assert [int(picked[i][0, 0, 0]) for i in range(len(picked))] == index


def test_a_piece_keeps_its_nanoseconds() -> None:
    time = np.array([0.0, 0.1, 0.3])
    one = Recording({"x": Track(np.arange(3.0), time)}, began_ns=5)
    got = cut(one, 0.1, 0.3)
    np.testing.assert_array_equal(got.streams["x"].rows, [1.0])
    np.testing.assert_array_equal(got.streams["x"].time, [0.0])
    assert got.began_ns == 100_000_005


def test_a_set_without_times_is_told_its_rate() -> None:
    of = contents(rate_hz=20.0)
    got, said = at_rate(recording(of, 4), of, 60.0)
    np.testing.assert_array_equal(got.streams["action"].time, np.arange(4) / 60.0)
    assert said.rate_hz == 60.0
    assert said.streams[FRONT].about["time"] == "nominal"


def test_refusals_name_the_stream() -> None:
    of = contents()
    one = uneven(recording(of, 9), 3)
    for wrong, text in (
        ({"rate_hz": 0.0}, "rate of 0"),
        ({}, "either a rate or a stream"),
        ({"master": "nothing"}, "nothing: "),
        ({"rate_hz": 20, "policies": {FRONT: "linear"}}, FRONT),
        ({"rate_hz": 20, "policies": {"action": "slerp"}}, "action: where the rotation"),
        ({"rate_hz": 20, "latency_s": {"x": 1.0}}, "x: there is no such stream"),
        ({"rate_hz": 20, "latency_s": {FRONT: float("nan")}}, "latency of nan"),
        ({"rate_hz": 20, "max_staleness_s": -1}, "staleness"),
    ):
        with pytest.raises(DataError, match=text):
            resample(one, of, **wrong)
    far, streams = together(vector("x", [0.0, 1.0], [0.0, 8e9]))
    with pytest.raises(DataError, match="ticks"):
        resample(far, streams, rate_hz=1000)
    zero, streams = together(
        camera([0.0, 0.5, 1.0]), vector("q", np.zeros((2, 4)), [0, 1], names=("qx", "qy", "qz", "qw"))
    )
    with pytest.raises(DataError, match="not both rotations"):
        resample(zero, streams, master="cam")
