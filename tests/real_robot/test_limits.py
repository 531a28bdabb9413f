"""What is sent keeps to the limits, whatever is asked."""

from __future__ import annotations

import numpy as np
import pytest

from regrip.real_robot.gripper import Gripper, GripperConfig
from regrip.real_robot.limits import JointLimits, Limiter, Workspace

JOINTS = (
    JointLimits("a", -1.0, 1.5, 2.0, 10.0, 500.0),
    JointLimits("b", -3.0, -0.1, 2.6, 7.5, 5000.0),
    JointLimits("c", 0.0, 0.2, 0.5, 20.0, 400.0),
)
DT = 0.01


def worst_share(sent: np.ndarray, joints: tuple[JointLimits, ...] = JOINTS, dt: float = DT) -> list[float]:
    """The largest share of each limit (velocity, acceleration, jerk) in the finite differences."""
    shares = []
    for order, name in ((1, "velocity"), (2, "acceleration"), (3, "jerk")):
        limit = np.array([getattr(joint, name) for joint in joints])
        shares.append(float((np.abs(np.diff(sent, order, axis=0)) / dt**order / limit).max()))
    return shares


@pytest.mark.parametrize(
    ("seed", "ticks"), [(0, 3000), *[pytest.param(seed, 25_000, marks=pytest.mark.slow) for seed in range(4)]]
)
def test_every_limit_holds_for_any_targets(seed: int, ticks: int) -> None:
    """Random ticks: targets in and out of range, speeds, stops, late and early ticks."""
    generator = np.random.default_rng(seed)
    limiter = Limiter(JOINTS, DT)
    low, high = limiter.low, limiter.high
    limiter.begin((low + high) / 2)
    sent = [np.array([(low + high) / 2] * 3)]
    target, kind = (low + high) / 2, 0
    for _ in range(ticks):
        if generator.random() < 0.3:
            kind = int(generator.integers(5))
        if kind == 0:
            target = generator.uniform(low - 0.5, high + 0.5)
        elif kind == 1:
            target = target + generator.normal(0, 0.05, 3)
        elif kind == 2:
            target = np.where(generator.random(3) < 0.5, low, high)
        speed = generator.normal(0, 2, 3) if generator.random() < 0.5 else None
        rows = 5
        limited = limiter.rest(rows) if kind == 4 else limiter.towards(target, rows, speed)
        whole = np.concatenate([limited.positions, limited.tail])
        followed = int(generator.choice([5, 5, 5, 4, 6, 0, 30]))
        limiter.seek(followed)
        sent.append(whole[:followed])
        if followed > len(whole):
            sent.append(np.repeat(whole[-1:], followed - len(whole), axis=0))
    path = np.concatenate(sent)
    assert (path >= low - 1e-7).all()
    assert (path <= high + 1e-7).all()
    velocity, acceleration, jerk = worst_share(path)
    # Third differences of numbers near 1 at 10 ms know the jerk to about 1e-9.
    assert velocity <= 1 + 1e-6
    assert acceleration <= 1 + 1e-5
    assert jerk <= 1 + 1e-3
    assert velocity > 0.99, "the limits were never reached: this test would not notice a broken one"


def test_a_target_within_reach_is_met_at_the_end_of_the_rows() -> None:
    limiter = Limiter(JOINTS, DT)
    limiter.begin(np.array([0.0, -1.0, 0.1]))
    for tick in range(1, 20):  # a steady 0.5 rad/s
        target = np.array([0.025 * tick, -1.0 - 0.025 * tick, 0.1])
        limited = limiter.towards(target, 5, np.array([0.5, -0.5, 0.0]))
    np.testing.assert_allclose(limited.positions[-1], target, atol=1e-3)
    assert limited.clamped == ()


def test_without_a_speed_it_stops_at_the_target() -> None:
    limiter = Limiter(JOINTS, DT)
    limiter.begin(np.array([0.0, -1.0, 0.1]))
    for _ in range(60):
        limited = limiter.towards(np.array([0.4, -1.3, 0.15]), 5)
        assert (limited.positions <= [0.4 + 1e-6, -1.0, 0.15 + 1e-6]).all(), "it shot over"
    assert limiter.at_rest
    np.testing.assert_allclose(limited.positions[-1], [0.4, -1.3, 0.15], atol=1e-6)


def test_what_is_sent_ends_at_rest_if_nothing_more_comes() -> None:
    limiter = Limiter(JOINTS, DT)
    limiter.begin(np.array([0.0, -1.0, 0.1]))
    for _ in range(6):
        limited = limiter.towards(np.array([1.4, -1.0, 0.1]), 5)
    assert not limiter.at_rest
    whole = np.concatenate([limited.positions, limited.tail])
    limiter.seek(len(whole))
    assert limiter.at_rest
    # by hand: joint a stops from v under 10 rad/s2 and 500 rad/s3 in v/10 + 10/500 s
    speed = abs(limited.positions[-1][0] - limited.positions[-2][0]) / DT
    assert len(limited.tail) * DT == pytest.approx(speed / 10 + 0.02, abs=0.03)


def test_names_say_what_was_held_back() -> None:
    limiter = Limiter(JOINTS, DT)
    limiter.begin(np.array([0.0, -1.0, 0.1]))
    limited = limiter.towards(np.array([9.0, -1.0, 0.1]), 5)
    assert limited.clamped == ("a position", "a motion")


def test_an_arm_that_begins_outside_its_range_comes_in_without_a_leap() -> None:
    limiter = Limiter(JOINTS, DT)
    start = np.array([1.53, -1.0, 0.1])
    limiter.begin(start)
    path = [start[None]]
    for _ in range(20):
        path.append(limiter.towards(np.array([1.6, -1.0, 0.1]), 5).positions)
    sent = np.concatenate(path)
    assert sent[:, 0].max() <= 1.53 + 1e-9
    assert sent[-1, 0] == pytest.approx(1.5)
    assert max(worst_share(np.concatenate([[start] * 3, sent]))) <= 1 + 1e-3


def arm_tool(joints: np.ndarray) -> np.ndarray:
    """A planar arm of two links of 0.5 m, and a lift."""
    a, b = joints[0], joints[0] + joints[1]
    return np.array([0.5 * np.cos(a) + 0.5 * np.cos(b), 0.5 * np.sin(a) + 0.5 * np.sin(b), joints[2]])


@pytest.mark.parametrize("seed", range(3))
def test_the_tool_stays_in_its_box(seed: int) -> None:
    generator = np.random.default_rng(seed)
    box = Workspace((0.3, -0.4, 0.02), (0.9, 0.4, 0.18))
    limiter = Limiter(JOINTS, DT, arm_tool, box)
    limiter.begin(np.array([0.6, -1.2, 0.1]))
    low, high = np.array(box.low), np.array(box.high)
    worst, stopped = 0.0, 0
    for tick in range(600):
        if not tick or generator.random() < 0.3:
            target = generator.uniform(limiter.low, limiter.high)
        limited = limiter.towards(target, 5, generator.normal(0, 1, 3))
        stopped += "workspace" in limited.clamped
        for row in np.concatenate([limited.positions, limited.tail]):
            tool = arm_tool(row)
            worst = max(worst, float(np.maximum(low - tool, tool - high).max()))
    assert stopped > 30, "the box was never reached"
    assert worst < 1e-3  # every other row of a plan is looked at


def test_a_workspace_without_kinematics_is_refused() -> None:
    with pytest.raises(ValueError, match="kinematics"):
        Limiter(JOINTS, DT, None, Workspace((0, 0, 0), (1, 1, 1)))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_target_that_is_no_number_is_refused_and_nothing_moves(bad: float) -> None:
    limiter = Limiter(JOINTS, DT)
    limiter.begin(np.array([0.0, -1.0, 0.1]))
    with pytest.raises(ValueError, match="finite"):
        limiter.towards(np.array([bad, 0, 0]), 5)
    np.testing.assert_array_equal(limiter.position, [0.0, -1.0, 0.1])


@pytest.mark.parametrize("what", ["velocity", "acceleration", "jerk"])
@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
def test_limits_that_limit_nothing_are_refused(what: str, value: float) -> None:
    numbers = {"velocity": 1.0, "acceleration": 1.0, "jerk": 1.0, what: value}
    with pytest.raises(ValueError, match=what):
        JointLimits("a", -1, 1, **numbers)


def test_gripper_keeps_in_its_range_and_does_not_chatter() -> None:
    plain = Gripper(GripperConfig("g", open=0.08, closed=0.0))
    assert [plain.command(wanted) for wanted in (-1.0, 0.02, 5.0)] == [0.0, 0.02, 0.08]
    binary = Gripper(GripperConfig("g", open=0.0, closed=0.8, binary=True, hysteresis=0.1))  # shut at 0.8 rad
    binary.begin(0.0)
    # share of open: 0.55, 0.45, 0.39, 0.55, 0.61
    wanted = [0.36, 0.44, 0.488, 0.36, 0.312]
    assert [binary.command(value) for value in wanted] == [0.0, 0.0, 0.8, 0.8, 0.0]
    with pytest.raises(ValueError, match="no position"):
        plain.command(float("nan"))


@pytest.mark.parametrize("bad", [{"open": 0.0}, {"threshold": 0.05}, {"hysteresis": 0.6}])
def test_a_gripper_that_could_never_move_is_refused(bad: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="gripper g"):
        GripperConfig(**{"name": "g", "open": 0.08, "closed": 0.0, **bad})  # type: ignore[arg-type]
