"""How much a person helps, and that the node does what was planned; on a robot of three joints."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from toy import ARM, SPEC, Toy, Wave, make_core

from regrip.datasets.recording import Recording, Track
from regrip.real_robot.collecting import Collector
from regrip.real_robot.grades import Choice, CollectConfig, Plan, Played, Scene, Trail, path_of
from regrip.real_robot.messages import Joints, Tick
from regrip.real_robot.node import Node

NAMES = (*ARM, "gripper")
SCENE = Scene("wave", "left")


def trail(goal: float = 0.4, seconds: float = 1.0) -> Trail:
    """All three joints from 0.2 to `goal`, the gripper half open."""
    time = np.arange(0, seconds, 0.05)
    rows = np.linspace(0.2, goal, len(time))[:, None] * np.ones(4)
    rows[:, 3] = 0.04
    return Trail(SCENE, NAMES, time, rows)


class Room:
    """A toy robot, its node, and a collector that watches."""

    def __init__(self, config: CollectConfig, shown: tuple[Trail, ...] = (), learn=None) -> None:  # type: ignore[no-untyped-def]
        self.core, self.robot = make_core(), Toy()
        self.collector = Collector(Choice(config, [SCENE], shown), NAMES, ARM, 20.0, learn)
        self.ticks: list[Tick] = []
        watchers = (self.collector, lambda what: self.ticks.append(what) if isinstance(what, Tick) else None)
        self.node = Node(self.core, self.robot, Wave(), in_loop=True, watchers=watchers)
        self.node.connect()
        self.core.configure()
        for _ in range(3):  # the arm is seen to stand
            self.node.step()

    def begin(self, plan: Plan) -> None:
        self.ticks.clear()
        self.collector.begin(plan, self.node.events, self.robot.now())

    def until_over(self, person=lambda tick: None) -> Played:  # type: ignore[no-untyped-def]
        for _ in range(2000):
            if self.collector.at_rest:
                return self.collector.played[-1]
            person(self.node.step())
        raise AssertionError(f"never over: {self.core.state}, {self.core.reason}")

    def lead(self, tick: Tick, goal: float = 0.1) -> None:
        """A person at the leader, who goes to `goal`."""
        now = self.robot.now()
        self.node.events.on_human(Joints(now, now, NAMES, np.array([goal] * 3 + [0.02])))


def choice(**given: object) -> Choice:
    return Choice(CollectConfig(**{"show": 0, **given}), [SCENE], [trail()])  # type: ignore[arg-type]


def outcomes(chosen: Choice, *alone: bool) -> None:
    for won in alone:
        chosen.learnt(Played(Plan(0, "alone", SCENE), won, "", 10, 0), trail())


def test_a_task_that_works_gets_no_help_and_one_that_never_does_gets_the_most() -> None:
    chosen = choice(help=0.6, enough=0.8)
    outcomes(chosen, *[True] * 18)
    assert chosen.success("wave") == 0.95  # (18 + 1) / (18 + 2)
    assert chosen.help("wave") == 0.0
    assert {chosen.next().grade for _ in range(200)} == {"alone"}
    chosen = choice(help=0.6, enough=0.8)
    outcomes(chosen, *[False] * 14)
    assert chosen.help("wave") == pytest.approx(0.6 * (1 - (1 / 16) / 0.8))
    grades = Counter(chosen.next().grade for _ in range(400))
    assert 150 < 400 - grades["alone"] < 290  # 55 %
    assert grades["replay"] > 4 * grades["guided"]  # as good as hopeless: mostly shown


def test_in_between_it_is_mostly_brought_back_and_the_same_seed_gives_the_same_plans() -> None:
    plans = []
    for _ in range(2):
        chosen = choice(help=1.0, enough=1.0, seed=3, window=200)
        outcomes(chosen, *[True, False] * 40)
        plans.append([chosen.next() for _ in range(80)])
    assert [p.grade for p in plans[0]] == [p.grade for p in plans[1]]
    grades = Counter(plan.grade for plan in plans[0])
    assert grades["return"] == max(grades[grade] for grade in ("replay", "return", "guided"))
    assert [p.guide for p in plans[0]] == [p.guide for p in plans[1]]


def test_without_a_failure_or_a_demonstration_the_person_guides() -> None:
    chosen = Choice(CollectConfig(help=1.0, enough=1.0, show=0), [SCENE])
    assert {chosen.next().grade for _ in range(50)} == {"alone", "guided"}


def test_a_person_shows_first_and_what_they_showed_is_replayed() -> None:
    chosen = Choice(CollectConfig(help=1.0, enough=1.0, show=2), [SCENE])
    plans = [chosen.next() for _ in range(3)]
    assert [p.grade for p in plans[:2]] == ["show", "show"]
    assert plans[2].grade != "show"
    chosen.learnt(Played(plans[0], False, "", 10, 10), trail())
    assert not chosen.shown
    chosen.learnt(Played(plans[1], True, "", 10, 10), trail())
    assert len(chosen.shown["wave"]) == 1


def test_a_replay_goes_where_it_was_shown_from_wherever_the_arm_is_and_every_step_is_flagged() -> None:
    room = Room(CollectConfig(show=0))
    room.begin(Plan(0, "replay", SCENE, trail(0.4)))

    def judge(tick: Tick) -> None:
        if tick.sent is not None and np.abs(tick.sent[:3] - 0.4).max() < 1e-3:
            room.node.events.on_outcome(True, tick.now)

    played = room.until_over(judge)
    assert played.success is True
    assert played.driven == played.steps > 20
    moved = [tick for tick in room.ticks if tick.state == "human" and tick.sent is not None]
    assert all(tick.intervention and tick.action is None for tick in moved)
    sent = np.stack([tick.sent for tick in moved])  # type: ignore[arg-type]
    assert np.abs(np.diff(sent[:, 0])).max() <= 3.0 * 0.05 + 1e-9  # the limiter's velocity
    assert sent[-1, 3] == 0.04


def test_a_replay_that_nobody_calls_a_success_is_a_failure() -> None:
    room = Room(CollectConfig(show=0, settle_s=0.5))
    room.begin(Plan(0, "replay", SCENE, trail(0.3)))
    played = room.until_over()
    assert (played.success, played.why) == (False, "")


def test_it_returns_to_where_it_failed_and_the_policy_goes_on_from_there() -> None:
    room = Room(CollectConfig(show=0, max_s=1.0, reach=0.05))
    room.begin(Plan(0, "return", SCENE, trail(0.15)))
    played = room.until_over()
    states = [tick.state for tick in room.ticks]
    first = states.index("active")
    assert set(states[:first]) == {"human"}
    assert "human" not in states[first:]
    np.testing.assert_allclose(room.ticks[first - 1].sent[:3], 0.15, atol=0.05)  # type: ignore[index]
    assert all(tick.intervention for tick in room.ticks[:first])
    assert played.success is False  # out of time
    assert 18 <= played.steps - played.driven <= 20  # a second of the policy's own, whatever the return took


def test_guided_explore_takes_over_in_the_middle_and_hands_back() -> None:
    room = Room(CollectConfig(show=0, max_s=1.5))
    room.begin(Plan(0, "guided", SCENE, guide=(0.5, 0.6)))

    def person(tick: Tick) -> None:
        if room.collector.wants_person:
            room.lead(tick)

    played = room.until_over(person)
    states = [tick.state for tick in room.ticks if tick.state in ("active", "human")]
    changes = [a for a, b in zip(states, [*states[1:], ""], strict=True) if a != b]
    assert changes == ["active", "human", "active"]
    assert 10 <= played.driven <= 13
    taken = [tick.step for tick in room.ticks if tick.action is not None]
    assert taken == list(range(1, len(taken) + 1))  # a person's steps are none of the policy's
    assert played.success is False  # it waves, and that is no success


def test_a_person_may_take_over_unasked_and_their_time_does_not_count() -> None:
    room = Room(CollectConfig(show=0, max_s=1.0))
    room.begin(Plan(0, "alone", SCENE))
    for _ in range(5):
        room.node.step()
    room.node.events.on_takeover(True, room.robot.now())
    for _ in range(40):
        room.lead(room.node.step())
    assert room.core.state == "human"
    room.node.events.on_takeover(False, room.robot.now())
    played = room.until_over()
    assert played.driven >= 35
    assert 17 <= played.steps - played.driven <= 23
    assert not room.collector.choice.history  # it was not alone


def test_a_replay_that_goes_astray_is_broken_off_without_an_outcome() -> None:
    room = Room(CollectConfig(show=0, astray=0.05))
    room.begin(Plan(0, "replay", SCENE, trail(1.9, seconds=0.1)))  # faster than the limiter lets it
    played = room.until_over()
    assert played.success is None
    assert "astray" in played.why
    assert room.core.state == "inactive"


def test_the_outcome_of_one_episode_is_not_the_next_ones() -> None:
    room = Room(CollectConfig(show=0, astray=0.05))
    room.begin(Plan(0, "alone", SCENE))
    for _ in range(5):
        room.node.step()
    room.node.events.on_outcome(True, room.robot.now())
    assert room.until_over().success is True
    room.begin(Plan(1, "replay", SCENE, trail(1.9, seconds=0.1)))
    assert room.until_over().success is None
    assert room.core.episode == 2


def test_an_e_stop_ends_an_episode_and_says_so() -> None:
    room = Room(CollectConfig(show=0))
    room.begin(Plan(0, "replay", SCENE, trail()))
    for _ in range(5):
        room.node.step()
    room.node.events.on_estop(True, room.robot.now())
    played = room.until_over()
    assert (played.success, played.why) == (None, "e-stop")


def test_what_cannot_be_replayed_is_refused_by_name() -> None:
    room = Room(CollectConfig(show=0))
    other = Trail(SCENE, ("a", "b", "elbow"), np.arange(2.0), np.zeros((2, 3)))
    with pytest.raises(ValueError, match=r"elbow, c"):
        room.begin(Plan(0, "replay", SCENE, other))
    assert room.core.state == "inactive"
    with pytest.raises(ValueError, match="without commands"):
        path_of(Recording({}, "wave"), NAMES)


def test_the_learner_has_its_turn_between_episodes_and_a_recording_can_be_replayed() -> None:
    calls: list[tuple[int, bool]] = []
    room = Room(CollectConfig(show=0, max_s=0.3, learn_every=2, help=0.0))
    room.collector._learn = lambda judged: calls.append((judged, room.collector.at_rest))
    for _ in range(5):
        room.begin(room.collector.next())
        room.until_over()
    assert calls == [(2, True), (4, True)]
    failed = room.collector.choice.failed["wave"][0]
    commands = Track(failed.rows, failed.time + 7.0)
    again = path_of(Recording({"command": commands}, "wave"), NAMES)
    np.testing.assert_allclose(again.time, failed.time)
    np.testing.assert_allclose(again.at(0.075), (failed.rows[1] + failed.rows[2]) / 2)


def test_a_state_that_must_be_settled_before_another_episode() -> None:
    room = Room(CollectConfig(show=0))
    room.begin(Plan(0, "alone", SCENE))
    with pytest.raises(RuntimeError, match="under way"):
        room.begin(Plan(1, "alone", SCENE))
    with pytest.raises(RuntimeError, match="under way"):
        room.collector.next()
    assert SPEC.control_rate_hz == 20.0


@pytest.mark.parametrize(
    "wrong", [{"help": 1.5}, {"max_s": 0.0}, {"window": 0}, {"guide_s": (2.0, 1.0)}, {"reach": np.nan}]
)
def test_settings_that_make_no_sense_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        CollectConfig(**wrong)  # type: ignore[arg-type]
