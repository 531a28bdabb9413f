"""Every way it can go wrong, one by one: the arm comes to rest within its limits, and says why in words."""

from __future__ import annotations

from collections import deque
from dataclasses import replace

import numpy as np
import pytest
from rig import DT, JOINTS, NAMES, Rig, config, wave, worst_share

from regrip.real_robot.gate import GateConfig
from regrip.real_robot.gripper import GripperConfig
from regrip.real_robot.limits import JointLimits, Limiter
from regrip.real_robot.messages import Frame, Joints, Reply, Request
from regrip.real_robot.schedule import ScheduleConfig


def rests(rig: Rig, state: str, *words: str, ticks: int = 12) -> None:
    """It stands still soon, in this state, with these words in its reason, and no limit was broken."""
    tick = rig.tick(ticks)
    assert tick.state == state, (tick.state, tick.reason)
    for word in words:
        assert word in tick.reason, tick.reason
    before = rig.at.copy()
    rig.tick(4)
    np.testing.assert_array_equal(rig.at, before)
    assert worst_share(rig.path) <= 1.001


def moves(rig: Rig, ticks: int = 12) -> None:
    before = rig.at.copy()
    assert rig.tick(ticks).state == "active", rig.ticks[-1].reason
    assert np.abs(rig.at - before).max() > 0.01
    assert worst_share(rig.path) <= 1.001


def test_it_follows_the_policy_within_limits() -> None:
    rig = Rig()
    assert rig.start(60).state == "active"
    assert np.hypot(rig.at[0], rig.at[1] + 0.7) == pytest.approx(0.35, abs=0.1)
    travelled = np.abs(np.diff(np.array(rig.path), axis=0)).sum()
    assert travelled == pytest.approx(0.35 * 4 / np.pi * 3, rel=0.3)  # |cos| + |sin| of 1 rad/s for 3 s
    assert worst_share(rig.path) <= 1.001


def test_nothing_moves_before_it_is_enabled() -> None:
    rig = Rig()
    assert rig.tick(5).reason == "not configured"
    rig.core.on_enable(True, rig.now)
    assert rig.tick(5).state == "unconfigured"
    rig.core.configure()
    assert rig.tick(20).state == "inactive"
    assert all(tick.command is None and tick.request is None for tick in rig.ticks)


def test_nothing_moves_after_a_restart() -> None:
    rig = Rig()
    rig.start()
    again = Rig()  # the same arm, a new node
    again.at, again.now = rig.at, rig.now + 5
    again.tick(20)
    assert all(tick.command is None for tick in again.ticks)


@pytest.mark.parametrize("source", ["eye", "hand", "joints"])
def test_a_source_that_goes_silent(source: str) -> None:
    rig = Rig()
    rig.start()
    kept = rig.joints
    if source == "joints":
        rig.joints = None
    else:
        rig.frame[source] = None
    rests(rig, "hold", "joint state" if source == "joints" else source, "s old")
    rig.frame[source], rig.joints = (lambda f: f), kept
    moves(rig)


@pytest.mark.parametrize("source", ["eye", "hand", "joints"])
@pytest.mark.parametrize(("ahead", "word"), [(1.0, "future"), (-1.0, "old"), (-1e9, "old"), (1e9, "future")])
def test_a_source_with_wrong_stamps(source: str, ahead: float, word: str) -> None:
    rig = Rig()
    rig.start()
    if source == "joints":
        rig.joints = lambda joints: replace(joints, stamp=joints.stamp + ahead)
    else:
        rig.frame[source] = lambda frame: replace(frame, stamp=frame.stamp + ahead)
    rests(rig, "hold", word)


def test_a_stamp_that_is_no_number() -> None:
    rig = Rig()
    rig.start()
    rig.frame["eye"] = lambda frame: replace(frame, stamp=float("nan"))
    rests(rig, "hold", "eye has a stamp of nan")


def test_a_frozen_camera() -> None:
    rig = Rig()
    rig.start()
    still = np.full((4, 4, 3), 9, np.uint8)
    rig.frame["hand"] = lambda frame: replace(frame, image=still)
    rests(rig, "hold", "hand has sent the same picture", "frozen", ticks=20)


def test_cameras_that_are_apart_in_time() -> None:
    rig = Rig(config(gate=GateConfig(max_age_s=0.6)))
    rig.start()
    skews = set()
    for tick in range(30):  # one picture of `eye` in 0.4 s, and `hand` comes 0.2 s late
        rig.frame["eye"] = (lambda frame: frame) if tick % 8 == 0 else None
        rig.frame["hand"] = lambda frame: replace(frame, stamp=frame.stamp - 0.2)
        skews.add(rig.tick().reason)
    assert any(reason.startswith("eye and the other cameras are 0.") for reason in skews), skews
    assert worst_share(rig.path) <= 1.001


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_joint_that_is_no_number(bad: float) -> None:
    rig = Rig()
    rig.start()
    rig.joints = lambda joints: replace(joints, position=np.array([joints.position[0], bad, 0.0]))
    rests(rig, "hold", "b is not a finite number")


def test_one_bad_joint_state_among_good_ones_is_dropped() -> None:
    rig = Rig()
    rig.start()
    rig.core.on_joints(Joints(rig.now + 0.001, rig.now, NAMES, np.array([np.nan, 0, 0])))
    moves(rig)
    assert rig.core.gate.counters["joints: not finite"] == 1


def test_joints_in_another_order_are_known_by_name() -> None:
    rig = Rig()
    rig.joints = lambda joints: replace(
        joints, names=("grip", "other", "b", "a"), position=np.array([0.08, 9.0, *joints.position[1::-1]])
    )
    rig.start()
    moves(rig)


def test_joint_values_that_are_swapped() -> None:
    """A driver that mixes up its joints under the right names: no arm leaps like that."""
    rig = Rig()
    rig.start(30)
    assert np.abs(rig.at[0] - rig.at[1]) > 0.28
    rig.core.gate.config = replace(rig.core.gate.config, max_joint_speed=3.0)
    rig.joints = lambda joints: replace(joints, position=joints.position[[1, 0, 2]])
    rig.tick(2)
    assert rig.core.gate.counters["joints: leapt"] >= 1
    rig.tick(20)
    assert rig.ticks[-1].state != "active" or rig.core.counters.get("hold")
    assert any("from where" in tick.reason or "leapt by" in tick.reason for tick in rig.ticks), {
        t.reason for t in rig.ticks
    }
    assert worst_share(rig.path) <= 1.001


def test_a_joint_that_is_missing() -> None:
    rig = Rig()
    rig.start()
    rig.joints = lambda joints: replace(joints, names=("a", "grip"), position=joints.position[[0, 2]])
    rests(rig, "hold", "lacks b")


def test_a_joint_named_twice() -> None:
    rig = Rig()
    rig.start()
    rig.joints = lambda joints: replace(joints, names=("a", "b", "grip", "a"), position=np.zeros(4))
    rests(rig, "hold", "twice")


def test_a_joint_out_of_its_range() -> None:
    rig = Rig()
    rig.start()
    rig.joints = lambda joints: replace(joints, position=np.array([9.0, -0.4, 0.0]))
    rests(rig, "hold", "a is at 9.000, outside [-1.500, 1.500]")


def test_a_picture_of_another_size() -> None:
    rig = Rig()
    rig.start()
    rig.frame["eye"] = lambda frame: replace(frame, image=np.zeros((5, 4, 3), np.uint8))
    rests(rig, "hold", "eye sends uint8 (5, 4, 3), the policy expects uint8 (4, 4, 3)")


def test_one_action_of_a_chunk_is_no_number() -> None:
    rig = Rig()
    rig.start()

    def broken(request: Request) -> np.ndarray:
        actions = wave(request)
        actions[5, 1] = np.nan
        return actions

    rig.policy = broken
    rests(rig, "active", "action 5 of the chunk has no finite b", ticks=25)


def test_an_action_outside_of_the_contract() -> None:
    rig = Rig()
    rig.start()
    rig.policy = lambda request: wave(request) * np.float32([20, 1, 1])
    rests(rig, "active", "a = ", "outside [-1.5, 1.5]", ticks=25)


def test_a_chunk_of_another_shape() -> None:
    rig = Rig()
    rig.start()
    rig.policy = lambda request: wave(request)[:, :2]
    rests(rig, "active", "shape (8, 2), expected (H, 3)", ticks=25)


def test_an_absurd_first_target() -> None:
    rig = Rig(policy=lambda request: np.tile(np.float32([1.2, -0.4, 0.0]), (8, 1)))
    rig.start(30)
    assert any("the first target is 1.20 away from a" in tick.reason for tick in rig.ticks)
    np.testing.assert_array_equal(rig.path, np.tile(rig.path[0], (len(rig.path), 1)))


def test_an_absurd_jump_later() -> None:
    rig = Rig()
    rig.start()
    rig.policy = lambda request: np.tile(np.float32([-1.4, -0.4, 0.0]), (8, 1))
    rig.tick(10)
    assert any("absurd" in tick.reason for tick in rig.ticks)
    assert worst_share(rig.path) <= 1.001


@pytest.mark.parametrize("way", ["hold", "decelerate", "stop"])
def test_a_policy_that_is_slower_than_its_chunks(way: str) -> None:
    rig = Rig(config(schedule=ScheduleConfig("latest", starvation=way)), delay=9)  # type: ignore[arg-type]
    rig.start(60)
    reasons = {tick.reason for tick in rig.ticks if tick.reason}
    assert any("policy" in reason for reason in reasons), reasons
    assert (rig.ticks[-1].state == "inactive") == (way == "stop")
    assert worst_share(rig.path) <= 1.001


def test_a_policy_that_is_gone() -> None:
    rig = Rig()
    rig.start()
    rig.dead = True
    rests(rig, "active", "the policy has not answered for", ticks=40)
    assert rig.core.counters["request given up"] >= 1
    rig.dead = False
    rig.pending.clear()
    moves(rig, 40)


def test_a_policy_that_fails_says_why() -> None:
    rig = Rig()
    rig.start()
    rig.dead = True
    rig.tick(9)
    while rig.tick().request is None:
        pass
    rig.core.answered(Reply(rig.core._request, np.zeros((0, 0), np.float32), rig.now, error="out of memory"))
    assert "the policy failed: out of memory" in rig.tick().reason


def test_old_answers_are_dropped() -> None:
    rig = Rig()
    rig.start()
    step = rig.core.schedule.step
    rig.core.answered(Reply(1, np.zeros((8, 3), np.float32), rig.now))
    assert rig.core.counters["reply: not to the present request"] == 1
    assert rig.core.schedule.step == step


def test_a_dead_man_switch_that_is_let_go() -> None:
    rig = Rig(config(deadman_s=0.2))
    rig.core.configure()
    rig.tick(3)
    rig.core.on_enable(True, rig.now)
    assert rig.tick().reason == "not enabled: the dead-man switch is not pressed"
    rig.core.on_deadman(True, rig.now)
    rig.core.on_enable(True, rig.now)
    for _ in range(20):
        rig.core.on_deadman(True, rig.now + 0.06)  # heard while the tick waited: newer than its `now`
        rig.tick()
    assert rig.core.state == "active"
    rests(rig, "inactive", "dead-man")
    for _ in range(20):  # pressed again: it does not start by itself
        rig.core.on_deadman(True, rig.now)
        assert rig.tick().state == "inactive"


@pytest.mark.parametrize("ticks", range(0, 24))
def test_e_stop_at_any_instant(ticks: int) -> None:
    rig = Rig()
    rig.core.configure()
    rig.tick(3)
    rig.core.on_enable(True, rig.now)
    for _ in range(ticks):
        rig.tick()
    rig.core.on_estop(True, rig.now)
    rests(rig, "estop", "e-stop", ticks=8)
    rig.core.on_enable(True, rig.now)
    assert rig.tick().state == "estop", "enabled while latched"
    rig.core.on_takeover(True, rig.now)
    assert rig.tick().state == "estop", "taken over while latched"
    rig.core.on_estop(False, rig.now)
    rests(rig, "inactive", "enable again")
    rig.core.on_enable(True, rig.now)
    moves(rig)


@pytest.mark.parametrize("configured", [False, True])
def test_an_e_stop_is_no_way_around_preflight(configured: bool) -> None:
    rig = Rig()
    rig.tick(3)
    rig.core.on_estop(True, rig.now)
    if configured:
        rig.core.configure()
    rig.core.on_estop(False, rig.now)
    assert rig.tick().state == ("inactive" if configured else "unconfigured")
    rig.core.on_enable(True, rig.now)
    assert rig.tick().state == ("active" if configured else "unconfigured")


def lead(rig: Rig, ticks: int, far: float = 0.0, speed: float = 0.5) -> None:
    """A person's arm that stands elsewhere by `far` and moves joint a."""
    for tick in range(ticks):
        place = np.array([far + speed * 0.05 * tick, 0.3, 0.02])
        rig.core.on_human(Joints(rig.now, rig.now, NAMES, place))
        assert rig.tick().intervention


def test_takeover_from_the_present_pose_and_back() -> None:
    rig = Rig()
    rig.start(10)
    rig.core.on_takeover(True, rig.now)
    at = rig.at.copy()
    lead(rig, 20, far=1.0)
    assert rig.ticks[-1].state == "human"
    assert rig.at[0] - at[0] == pytest.approx(20 * 0.025, abs=0.15)  # as far as the leader went
    assert abs(rig.at[1] - at[1]) < 0.1  # not to where the leader stands
    assert rig.grip == pytest.approx(0.02)
    lead(rig, 20, far=1.0, speed=-0.5)
    rig.core.on_takeover(False, rig.now)
    moves(rig)
    assert not rig.ticks[-1].intervention


def test_a_leader_that_leaps_is_not_followed() -> None:
    rig = Rig()
    rig.start()
    rig.core.on_takeover(True, rig.now)
    lead(rig, 5)
    at = rig.at.copy()
    lead(rig, 5, far=-2.0, speed=0.0)
    assert np.abs(rig.at - at).max() < 0.1
    assert rig.core.counters["human: leapt"] >= 1


def test_a_person_who_is_not_heard() -> None:
    rig = Rig()
    rig.start()
    rig.core.on_takeover(True, rig.now)
    lead(rig, 10)
    rests(rig, "human", "nothing heard")
    rig.joints = None
    rests(rig, "human", "old")


def test_hand_back_without_enable_leaves_it_inactive() -> None:
    rig = Rig()
    rig.core.configure()
    rig.tick(3)
    rig.core.on_takeover(True, rig.now)
    lead(rig, 10)
    rig.core.on_enable(True, rig.now)
    assert rig.core.state == "human"
    rig.core.on_takeover(False, rig.now)
    rests(rig, "inactive", "not enabled")


def test_nobody_takes_over_an_arm_whose_joints_are_not_known() -> None:
    """Found by a fuzzed core: it would have begun at whatever was measured first, later."""
    rig = Rig()
    rig.core.configure()
    rig.tick(3)
    rig.joints = None
    rig.tick(10)
    rig.core.on_takeover(True, rig.now)
    assert rig.tick().state == "inactive"
    assert rig.core.events[-1].what == "takeover refused"
    assert "old" in rig.core.events[-1].why


@pytest.mark.parametrize("rows", [6, 7, 12, 25])
def test_ticks_that_come_late(rows: int) -> None:
    """The arm is on its way to rest by itself; what comes next goes on from there."""
    rig = Rig()
    rig.start()
    rig.tick(1, rows)
    moves(rig)


def test_a_pause_that_is_too_long_is_said() -> None:
    rig = Rig()
    rig.start()
    tick = rig.tick(1, 50)
    assert (tick.state, tick.reason) == ("hold", "late: 0.50 s since the last tick")
    moves(rig)


@pytest.mark.parametrize("wrong", [-0.5, float("nan"), float("-inf")])
def test_a_clock_that_goes_back(wrong: float) -> None:
    rig = Rig()
    rig.start()
    tick = rig.core.tick(rig.now + wrong)
    assert tick.command is None
    assert (tick.state, "clock" in tick.reason) == ("hold", True)
    moves(rig)


def test_an_arm_that_is_blocked_has_to_be_enabled_again() -> None:
    rig = Rig(config(max_tracking=0.1))
    rig.start(10)
    rig.joints = lambda joints: replace(joints, position=np.array([0.0, -0.4, 0.0]))
    rests(rig, "inactive", "from where it was sent: blocked", ticks=30)


def test_an_arm_whose_commands_were_lost_goes_on_from_where_it_stopped_when_somebody_has_looked() -> None:
    rig = Rig(config(gate=GateConfig(max_age_s=0.6)))
    rig.start()
    rig.joints, rig.frame = None, dict.fromkeys(rig.frame)
    kept, rig.rows = rig.rows, deque()
    rig.take = rig.ticks.append  # type: ignore[method-assign]  # the network is cut: nothing that is sent comes
    for row in kept:  # the arm stops by itself, at the end of what it was told last
        rig.at = row
    rig.path = [rig.at.copy()]
    rig.tick(30)
    del rig.take
    left = rig.core.limiter.position
    assert left is not None
    assert np.abs(left - rig.at).max() > 0.05
    rig.joints, rig.frame = lambda joints: joints, dict.fromkeys(rig.frame, lambda frame: frame)
    rests(rig, "inactive", "from where it was left", "or what it was sent last never came")
    rig.core.on_enable(True, rig.now)
    moves(rig)


def test_an_arm_that_was_moved_while_it_held_begins_from_where_it_is_when_somebody_has_looked() -> None:
    rig = Rig()
    rig.start()
    rig.frame["eye"] = None
    rig.tick(15)
    rig.at = rig.at + np.array([0.2, 0.0])  # by hand
    rig.rows.clear()
    rig.path = [rig.at.copy()]
    rig.frame["eye"] = lambda frame: frame
    rests(rig, "inactive", "a is 0.20 from where it was left")
    rig.core.on_enable(True, rig.now)
    moves(rig)


def leave(rig: Rig, by: float) -> None:
    """Stop it by e-stop, and have joint a stand elsewhere than it was sent to."""
    rig.core.on_estop(True, rig.now)
    rig.tick(8)
    rig.core.on_estop(False, rig.now)
    rig.rows.clear()
    rig.at = rig.at + np.array([by, 0.0])
    rig.path = [rig.at.copy()]


def test_an_arm_that_leans_begins_where_it_stands_once_it_has_been_seen_to_stand() -> None:
    rig = Rig()
    rig.start()
    leave(rig, 0.1)
    rig.tick(2)  # 50 ms between the first report from there and the newest
    rig.core.on_enable(True, rig.now)
    assert "a is 0.10 from where it was sent, and moves yet" in rig.tick().reason
    rig.core.on_enable(True, rig.now)
    moves(rig)


def test_an_arm_that_trails_is_not_enabled_before_it_stands() -> None:
    """Found by the soak: it began where it was measured last, on its way, as if it stood there."""
    rig = Rig()
    rig.start()
    leave(rig, -0.3)
    for _ in range(4):
        rig.at = rig.at + np.array([0.06, 0.0])
        rig.tick()
        rig.core.on_enable(True, rig.now)
        rig.core.on_takeover(True, rig.now)
        assert rig.core.state == "inactive"
    assert rig.core.counters["enable refused"] == rig.core.counters["takeover refused"] == 4
    rig.at = rig.at + np.array([0.06, 0.0])
    rig.path = [rig.at.copy()]
    rig.tick()
    rig.core.on_enable(True, rig.now)  # it came where it was sent
    moves(rig)


@pytest.mark.parametrize("takeover", [False, True])
@pytest.mark.parametrize("rows", [5, 25, 45])
def test_an_arm_that_still_follows_what_another_node_sent_is_not_begun_on_its_way(
    rows: int, takeover: bool
) -> None:
    """A node that is started again while the arm moves has sent nothing yet, and does not know where to."""
    rig = Rig()
    rig.move(10)
    before = Limiter(JOINTS, DT)
    before.begin(rig.at)
    moving, stop = before.towards(np.array([0.9, -1.2]), rows), before.rest(1)
    rig.rows = deque([*moving.positions, *stop.positions, *stop.tail])
    rig.core.configure()
    begun = rig.core.on_takeover if takeover else rig.core.on_enable
    while rig.core.state == "inactive":
        moved = np.ptp(rig.path[-11:], axis=0).max()
        begun(True, rig.now)
        if rig.core.state == "inactive":
            rig.tick()
            assert rig.count < 60, rig.core.reason
    assert moved < 0.01
    assert not rig.rows
    assert rig.core.counters[f"{'takeover' if takeover else 'enable'} refused"] > rows / 5
    assert any("has not been seen to stand still for 0.1 s" in event.why for event in rig.core.events)
    if takeover:
        lead(rig, 12, speed=0.2)
    else:
        moves(rig)
    assert worst_share(rig.path) <= 1.001


def test_an_arm_is_not_sent_back_to_where_it_was_heard_from_last() -> None:
    """Found by the soak: joints that are young enough to act on may still be of before it stood."""
    rig = Rig(config(gate=GateConfig(max_age_s=1.0, max_skew_s=1.0)))
    rig.start()
    kept, rig.joints = rig.joints, None
    rig.tick(6)
    rig.core.on_estop(True, rig.now)
    rig.tick(8)
    rig.core.on_estop(False, rig.now)
    assert np.abs(rig.at - rig.core.gate.measured[:2]).max() > 0.05  # type: ignore[index]
    rig.core.on_enable(True, rig.now)
    assert "moves yet" in rig.tick().reason
    rig.joints = kept
    rig.tick()
    rig.core.on_enable(True, rig.now)
    moves(rig)


def test_the_gripper_stays_in_its_range_and_is_kept_while_it_holds() -> None:
    rig = Rig()
    rig.start()
    rig.frame["eye"] = None
    rig.tick(8)
    stops = [tick.command for tick in rig.ticks if tick.command and tick.command.kind == "stop"]
    assert stops
    for command in stops:
        assert command.names == ("a", "b", "grip")
        assert (command.trajectory[:, 2] == command.trajectory[0, 2]).all()
    rig.core.on_takeover(True, rig.now)
    rig.core.on_human(Joints(rig.now, rig.now, NAMES, np.array([0.0, 0.0, 7.0])))
    assert rig.tick().command.trajectory[:, 2].max() == 0.08  # type: ignore[union-attr]


def test_a_new_task_drops_what_was_planned_for_the_old() -> None:
    rig = Rig()
    rig.start()
    rig.core.on_task("stop swinging", rig.now)
    assert rig.core.schedule.left == 0
    tick = rig.tick()
    assert tick.request is not None
    assert tick.request.observation.instruction == ["stop swinging"]


def test_an_outcome_ends_the_episode() -> None:
    rig = Rig()
    rig.start()
    rig.core.on_outcome(True, rig.now)
    rests(rig, "inactive", "the episode is over")
    assert rig.core.outcome is True


def test_settings_that_are_unsafe_are_refused() -> None:
    with pytest.raises(ValueError, match="takes 10"):
        config(joints=(JointLimits("a", -1, 1, 1.0, 0.1, 100.0),))
    with pytest.raises(ValueError, match="each once"):
        config(joints=(JointLimits("a", -1, 1, 1, 10, 100), JointLimits("a", -1, 1, 1, 10, 100)))
    with pytest.raises(ValueError, match="max_tracking"):
        config(max_tracking=float("nan"))
    with pytest.raises(ValueError, match="two positions"):
        GripperConfig("g", 1.0, 1.0)


def test_a_frame_that_could_not_be_decoded_is_said() -> None:
    rig = Rig()
    rig.start()
    rig.frame["eye"] = lambda frame: Frame("eye", frame.stamp, frame.received, None, b"?")
    rests(rig, "hold", "eye sends what could not be decoded")
