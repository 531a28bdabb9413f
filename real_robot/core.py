r"""The node's core: a plain object. No threads, no clock of its own, no transport; time is passed in.

    unconfigured --configure--> inactive --enable--> active <--> hold
                                   ^                   |  \-- takeover --> human
                                   |<----- disable ----|
    any --e-stop--> estop --released--> inactive (never active by itself; unconfigured if it was)

`tick` is called at the control rate. It gives at most one command and at most one request for the policy;
whoever calls it sends the one and has the other answered, by `answered`, whenever the answer comes.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ..datasets.spec import RobotSpec
from .gate import Gate, GateConfig, JointRange, StateOf
from .gripper import Gripper, GripperConfig
from .limits import JointLimits, Limited, Limiter, Workspace
from .messages import Command, Frame, Joints, Reply, Request, State, Tick
from .schedule import Schedule, ScheduleConfig

Vector = NDArray[np.float64]

_LONGEST_STOP_S = 3.0
# An arm at rest this near (rad or m) to what it was sent hangs by its own weight; farther, it was moved, or a
# network that was cut lost commands. The two look alike from here, so a person has to look.
_SAG = 0.05
# Nor does it begin where it is measured before it stands there: so long (s), within so much (rad or m).
_STILL_S, _STILL = 0.1, 0.01
# A gripper's fingers are measured a little beyond their ends.
_GRIPPER_MARGIN = 0.1
# The policy's action (A,) and the measured arm joints (N,) -> where the arm's joints should be (N,), and the
# gripper's position in its own units (None for an arm without one).
ToJoints = Callable[[NDArray[np.float32], Vector], tuple[Vector, float | None]]
# The other way round: joints that a person asks for (N,), measured (N,) and the gripper -> the action (A,).
ToAction = Callable[[Vector, Vector, float | None], NDArray[np.float32]]


@dataclass(frozen=True)
class CoreConfig:
    """Everything that decides what the arm may do.

    Attributes:
        joints: the arm's joints and what they may do, in the order of commands.
        gripper: None for an arm without one. Its joint is measured if `gripper_measured`.
        gripper_joint: name of the measured joint that tells the gripper's position; ``""`` if none does.
        workspace: of the tool; None for no box.
        gate: of observations.
        schedule: of chunks.
        rows_per_tick: rows of a command: the arm gets them at this many times the control rate.
        max_start_jump: how far (rad or m, any joint) the first target of a motion may be from the arm.
        max_jump: how far any later target may be from the arm.
        max_tracking: how far the arm may be from what it was sent before the node stops and has to be enabled
            again: it is blocked, or somebody else drives it.
        max_inference_s: a request that is not answered for so long is given up, and said.
        max_gap_s: two ticks further apart than this, and the arm is taken to stand where it is measured.
        resume_s: how long everything must be well before a hold ends by itself.
        deadman_s: a dead-man switch must be heard from as often as this; 0: there is none.
        action_margin: how far outside the RobotSpec's limits an action may be, as a share of their span,
            before its whole chunk is refused.
    """

    joints: tuple[JointLimits, ...]
    gripper: GripperConfig | None = None
    gripper_joint: str = ""
    workspace: Workspace | None = None
    gate: GateConfig = field(default_factory=GateConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    rows_per_tick: int = 5
    max_start_jump: float = 0.25
    max_jump: float = 0.5
    max_tracking: float = 0.35
    max_inference_s: float = 0.5
    max_gap_s: float = 0.3
    resume_s: float = 0.2
    deadman_s: float = 0.0
    action_margin: float = 0.01

    def __post_init__(self) -> None:
        for name in ("max_start_jump", "max_jump", "max_tracking", "max_inference_s", "max_gap_s"):
            value = getattr(self, name)
            if not (np.isfinite(value) and value > 0):
                raise ValueError(f"core: {name} is {value}, expected a finite number above 0")
        if not (np.isfinite(self.deadman_s) and self.deadman_s >= 0):
            raise ValueError(f"core: deadman_s is {self.deadman_s}, expected 0 (none) or a number of seconds")
        if not (np.isfinite(self.resume_s) and self.resume_s >= 0):
            raise ValueError(f"core: resume_s is {self.resume_s}, expected 0 or a number of seconds")
        if self.rows_per_tick < 1:
            raise ValueError(f"core: rows_per_tick is {self.rows_per_tick}, expected 1 or more")
        names = [joint.name for joint in self.joints]
        if not names or len({*names}) < len(names):
            raise ValueError(f"core: joints are {', '.join(names) or 'none'}, expected each once")
        for joint in self.joints:
            stop = joint.velocity / joint.acceleration + joint.acceleration / joint.jerk
            if stop > _LONGEST_STOP_S:
                raise ValueError(
                    f"core: {joint.name} takes {stop:.1f} s to stop from {joint.velocity}/s, expected at "
                    f"most {_LONGEST_STOP_S} s: lower its velocity, or raise its acceleration or jerk"
                )


@dataclass(frozen=True)
class Event:
    """Something worth a line in the record: a change of state, a refusal, a clamp."""

    now: float
    what: str
    why: str


def without_numbers(why: str) -> str:
    """A reason without its figures, which change from tick to tick while the reason is the same."""
    return "".join(c for c in why if not c.isdigit() and c != ".")


def _farthest(a: Vector, b: Vector) -> tuple[int, float]:
    """Which of the entries are farthest apart, and by how much."""
    apart = [abs(x - y) for x, y in zip(a.tolist(), b.tolist(), strict=True)]
    farthest = max(apart)
    return apart.index(farthest), farthest


def _beside(rows: Vector, value: float) -> Vector:
    """(T,N+1) rows (T,N) with one more column, the same in all."""
    wider = np.empty((len(rows), rows.shape[1] + 1))
    wider[:, :-1], wider[:, -1] = rows, value
    return wider


class Core:
    """See the module. Not to be called from two threads at once.

    Args:
        config: what the arm may do.
        spec: of the policy.
        to_joints: actions to joint targets (`kinematics`).
        state_of: joint positions by name to the policy's state.
        tool: arm joints to tool position, for the workspace.
        task: the instruction, until `on_task`.
        to_action: the inverse of `to_joints`; what a person does is then recorded as actions, too.
    """

    def __init__(
        self,
        config: CoreConfig,
        spec: RobotSpec,
        to_joints: ToJoints,
        state_of: StateOf,
        tool: Callable[[Vector], Vector] | None = None,
        task: str = "",
        to_action: ToAction | None = None,
    ) -> None:
        self.config, self.spec, self.to_joints, self.task = config, spec, to_joints, task
        self.to_action = to_action
        self.state: State = "unconfigured"
        self.reason = "not configured"
        self.rate_hz = spec.control_rate_hz
        ranges = [JointRange(joint.name, joint.low, joint.high) for joint in config.joints]
        if config.gripper_joint and config.gripper is not None:
            low, high = sorted((config.gripper.closed, config.gripper.open))
            margin = _GRIPPER_MARGIN * (high - low)
            ranges.append(JointRange(config.gripper_joint, low - margin, high + margin))
        beyond = config.action_margin * (spec.action_high - spec.action_low)
        # Of an action that is not mad; lists, for a few numbers are compared quicker without arrays.
        self._least, self._greatest = (
            (spec.action_low - beyond).tolist(),
            (spec.action_high + beyond).tolist(),
        )
        self.gate = Gate(config.gate, spec, tuple(ranges), state_of)
        self.schedule = Schedule(config.schedule, self.rate_hz)
        self._dt = 1.0 / self.rate_hz / config.rows_per_tick
        self.limiter = Limiter(config.joints, self._dt, tool, config.workspace)
        self.gripper = Gripper(config.gripper) if config.gripper else None
        self.events: deque[Event] = deque(maxlen=10_000)
        self.counters: dict[str, int] = {}
        self.episode = 0
        self.outcome: bool | None = None
        self.names = tuple(joint.name for joint in config.joints) + (
            (config.gripper.name,) if config.gripper else ()
        )
        self._configured = False
        self._request = 0
        self._asked: Request | None = None
        self._answered = False  # whether the policy has ever answered in this episode
        self._asked_at: float | None = None
        self._policy_fault = ""
        self._last_tick: float | None = None
        self._sent_at: float | None = None
        self._rests_at = -np.inf  # node time at which what was sent last comes to rest
        self._last_target: Vector | None = None
        self._deadman: float | None = None
        self._well_since: float | None = None
        self._began = False  # whether the present motion has sent its first target
        self._gripper_at: float | None = None
        self._enabled = False
        self._human: Joints | None = None
        self._human_offset: Vector | None = None

    # What comes in -------------------------------------------------------------------------------------

    def configure(self) -> None:
        """Preflight is done: leave `unconfigured`."""
        self._configured = True
        if self.state == "unconfigured":
            self._become("inactive", "configured, not enabled", self._last_tick or 0.0)

    def on_frame(self, frame: Frame) -> None:
        self.gate.on_frame(frame)

    def on_joints(self, joints: Joints) -> None:
        self.gate.on_joints(joints)

    def on_task(self, task: str, now: float) -> None:
        """A new instruction: what was planned for the old one is dropped."""
        if task != self.task:
            self.task = task
            self._drop_plans()
            self._event(now, "task", task)

    def on_enable(self, on: bool, now: float) -> None:
        if not on:
            if self.state in ("active", "hold", "human"):
                self._disable("disabled", now)
            self._enabled = False
            return
        if self.state in ("active", "hold") or (self.state == "human" and self._enabled):
            return
        why = self._why_not_enable(now)
        if why:
            self._count("enable refused")
            self._event(now, "enable refused", why)
            if self.state == "inactive":
                self.reason = f"not enabled: {why}"
            return
        self._enabled = True
        self._look(now)
        self.episode += 1
        self.outcome = None
        self._answered, self._policy_fault = False, ""
        self.schedule.reset()
        self._drop_plans()
        self._become("active", "", now)

    def _why_not_enable(self, now: float) -> str:
        if self.state == "unconfigured":
            return "not configured: preflight has not passed"
        if self.state == "estop":
            return "the e-stop is latched: release it first"
        if self.state == "human":
            return "a person drives: hand back first"
        if self.config.deadman_s and not self._held_down(now):
            return "the dead-man switch is not pressed"
        return self.gate.fault(now) or self._moves_yet(now)

    def on_estop(self, on: bool, now: float) -> None:
        """Latched by any true; released by false alone, and then inactive."""
        if on:
            self._enabled = False
            if self.state != "estop":
                self._become("estop", "e-stop", now)
        elif self.state == "estop" and self._configured:
            self._become("inactive", "e-stop released: enable again", now)
        elif self.state == "estop":
            self._become("unconfigured", "e-stop released; not configured", now)

    def on_deadman(self, alive: bool, now: float) -> None:
        self._deadman = now if alive else None

    def _held_down(self, now: float) -> bool:
        # A press may be a moment newer than `now`: it came while the tick waited for its turn.
        return self._deadman is not None and abs(now - self._deadman) <= self.config.deadman_s

    def on_takeover(self, on: bool, now: float) -> None:
        """A person takes over from the present pose, or hands back."""
        if on:
            if self.state == "human":
                return
            blind = ""
            if self.state == "inactive":
                blind = self.gate.joints_fault(now) or self._moves_yet(now)
            if self.state in ("unconfigured", "estop") or blind:
                self._count("takeover refused")
                self._event(now, "takeover refused", blind or self.reason)
                return
            if self.state == "inactive":
                self._look(now)
            self._human = self._human_offset = None
            if self.state == "inactive":  # an episode of the person's alone
                self.episode += 1
                self.outcome = None
                self.schedule.reset()
            self._drop_plans()
            self._become("human", "a person drives", now)
        elif self.state == "human":
            self._drop_plans()
            self._human = self._human_offset = None
            if self._enabled:
                self._become("active", "", now)
            else:
                self._become("inactive", "handed back, not enabled", now)

    def on_human(self, joints: Joints) -> None:
        """The leader's joints (or a jog's target), by the names of the arm's."""
        place = {name: index for index, name in enumerate(joints.names)}
        names = [joint.name for joint in self.config.joints]
        if not all(name in place for name in names) or len(joints.position) != len(joints.names):
            self._count("human: joints missing")
            return
        if not np.isfinite(joints.position).all():
            self._count("human: not finite")
            return
        self._human = joints

    def on_outcome(self, success: bool, now: float) -> None:
        """A person says how the episode ended; the arm stops."""
        self.outcome = success
        self._event(now, "outcome", "success" if success else "failure")
        if self.state in ("active", "hold", "human"):
            self._disable("the episode is over", now)

    def on_keep(self, now: float) -> None:
        """A person wants the last seconds kept; who records does that, and the arm minds nothing."""
        self._event(now, "keep", "asked for")

    def answered(self, reply: Reply) -> None:
        """The policy's answer to a request; late, wrong or mad ones are counted and dropped."""
        asked = self._asked
        if asked is None or reply.id != asked.id:
            self._count("reply: not to the present request")
            return
        self._asked = None
        if reply.error:
            self._policy_fault = f"the policy failed: {reply.error}"
            self._count("reply: error")
            return
        why = self.mad(reply.actions)
        if why:
            self._policy_fault = why
            self._count("reply: refused")
            self._event(reply.received, "chunk refused", why)
            return
        self._policy_fault = ""
        latency = None if reply.warm_up else reply.received - asked.made
        late = self.schedule.answered(asked.step, reply.actions, latency)
        if late:
            self._count("reply: rows too late", late)
        self._answered = True

    def mad(self, actions: NDArray[np.float32]) -> str:
        """Why a chunk is refused as a whole; ``""`` if it is not."""
        dims = self.spec.action_dim
        if actions.ndim != 2 or actions.shape[1] != dims or not len(actions):
            return f"the policy answered an array of shape {actions.shape}, expected (H, {dims})"
        if all(
            low <= value <= high
            for action in actions.tolist()
            for value, low, high in zip(action, self._least, self._greatest, strict=True)
        ):
            return ""
        if not np.isfinite(actions).all():
            row, entry = (int(index) for index in np.argwhere(~np.isfinite(actions))[0])
            return f"action {row} of the chunk has no finite {self.spec.action[entry].name}"
        wrong = (actions < np.array(self._least)) | (actions > np.array(self._greatest))
        if not wrong.any():
            return ""
        row, entry = (int(index) for index in np.argwhere(wrong)[0])
        axis = self.spec.action[entry]
        return (
            f"action {row} of the chunk has {axis.name} = {actions[row, entry]:.4g} {axis.unit}, "
            f"outside [{axis.low:.4g}, {axis.high:.4g}]"
        )

    # What goes out -------------------------------------------------------------------------------------

    def ask(self, now: float) -> Request | None:
        """What the policy is to answer, if anything, before this tick.

        `tick` asks by itself. This is for a policy that answers at once, in this process: asked here and
        answered before `tick`, it loses no step between two chunks.
        """
        if self.state != "active" or self._clock_fault(now) or self.gate.fault(now) or self._lost_track():
            return None
        return self._ask(now)

    def first_request(self, now: float) -> Request:
        """What the policy would be asked now, to warm it up; the answer goes nowhere.

        To be called when the gate has no fault.
        """
        stamp, observation = self.gate.observe(now, self.task)
        none = np.zeros((0, self.spec.action_dim), np.float32)
        return Request(-1, now, stamp, observation, 0, none, 0, "warm-up")

    def tick(self, now: float) -> Tick:
        """One control step.

        Args:
            now: the node's clock; never falls.
        """
        fault = self._clock_fault(now)
        if fault:
            self._count(f"tick: {fault.split(':')[0]}")
        if not math.isfinite(now) or (self._last_tick is not None and now < self._last_tick):
            now = self._last_tick or 0.0  # nothing is sent: the last command ends at rest by itself
            if self.state == "active":
                self._become("hold", fault, now)
            return self._silent(now, fault)
        self._last_tick = now
        self._follow(now)
        if self._asked is not None and now - self._asked.made > self.config.max_inference_s:
            self._give_up_waiting(now)
        try:
            return self._tick(now, fault)
        except ValueError as error:  # of the limiter: there is no way that keeps to the limits
            self._enabled = False
            self._count("limiter failed")
            self._become("estop", f"the limiter failed: {error}", now)
            return self._silent(now, self.reason)

    def _clock_fault(self, now: float) -> str:
        """What is wrong with the time of a tick; ``""`` if nothing is."""
        if not math.isfinite(now):
            return "clock broken: the node's clock is not a finite number"
        gap = None if self._last_tick is None else now - self._last_tick
        if gap is not None and gap < 0:
            return f"clock went back: by {-gap:.2f} s"
        if gap is not None and gap > self.config.max_gap_s:
            return f"late: {gap:.2f} s since the last tick"
        return ""

    def _tick(self, now: float, late: str) -> Tick:
        if self.state not in ("active", "hold", "human"):
            return self._resting(now, self.reason)
        if self.config.deadman_s and not self._held_down(now):
            self._disable("the dead-man switch was let go", now)
            return self._resting(now, self.reason)
        if late:  # the arm has come to rest by itself
            self._event(now, "late", late)
            self._human_offset = None
        if self.state == "human":
            return self._human_tick(now)
        return self._active_tick(now, late)

    def _active_tick(self, now: float, late: str) -> Tick:
        why = late or self.gate.fault(now)
        if why:
            self._well_since = None
            self._drop_plans()
            return self._hold(now, why)
        why = self._lost_track()
        if why:
            self._count("tracking lost")
            self._disable(why, now)
            return self._resting(now, why)
        if self.state == "hold":
            self._well_since = now if self._well_since is None else self._well_since
            if now - self._well_since < self.config.resume_s:
                return self._hold(now, self.reason)
            self._become("active", "", now)
        request = self._ask(now)
        action = self.schedule.next()
        if action is None:
            return self._starved(now, request)
        measured = self._arm(self.gate.measured)
        why = "" if self._began else self._start(measured)
        if why:
            self._disable(why, now)
            return self._resting(now, why)
        target, grip = self.to_joints(action, measured)
        why = self._absurd(target, measured)
        if why:
            self._count("target refused")
            self._policy_fault = why
            self._drop_plans()
            return self._hold(now, why)
        # A relative action says itself how fast it wants to go on; targets in a row say it by their distance.
        speed = (target - measured) * self.rate_hz if self.spec.control_mode == "ee_delta" else None
        limited = self._towards(target, speed)
        self.schedule.executed()
        if limited.clamped:
            self._count("clamped")
        return self._command(now, limited, grip, request, action)

    def _absurd(self, target: Vector, measured: Vector) -> str:
        """Why a target is refused, in words; ``""`` if it is not."""
        if not all(map(math.isfinite, target.tolist())):
            return "the action has no joint target (singular or out of reach)"
        worst, jump = _farthest(target, measured)
        name = self.config.joints[worst].name
        if not self._began and jump > self.config.max_start_jump:
            return f"the first target is {jump:.2f} away from {name}"
        if jump > self.config.max_jump:
            return f"a target is {jump:.2f} away from {name}: absurd"
        return ""

    def _towards(self, target: Vector, speed: Vector | None = None) -> Limited:
        """The limiter's way to a target; it goes on beyond it at `speed`, or as fast as targets have come."""
        if speed is None and self._last_target is not None:
            speed = (target - self._last_target) * self.rate_hz
        self._began, self._last_target = True, target
        return self.limiter.towards(target, self.config.rows_per_tick, speed)

    def _human_tick(self, now: float) -> Tick:
        why = self.gate.joints_fault(now)
        leader = self._human
        heard = leader is not None and abs(now - leader.received) <= self.config.gate.max_age_s
        if why or leader is None or not heard:
            self._human_offset = None  # when it comes back, it takes over from the pose of then
            self.reason = f"a person drives: {why or 'nothing heard from them'}"
            return replace(self._resting(now, self.reason), intervention=True)
        why = "" if self._began else self._start(self._arm(self.gate.measured))
        if why:
            self._disable(why, now)
            return self._resting(now, why)
        self.reason = "a person drives"
        place = {name: index for index, name in enumerate(leader.names)}
        wanted = np.array([leader.position[place[joint.name]] for joint in self.config.joints])
        at = self.limiter.position
        assert at is not None, "started above"
        if self._human_offset is not None and (
            np.abs(wanted + self._human_offset - at).max() > self.config.max_jump
        ):
            self._count("human: leapt")
            self._human_offset = None
        if self._human_offset is None:
            self._human_offset, self._last_target = at - wanted, None
        limited = self._towards(wanted + self._human_offset)
        grip = None
        if self.config.gripper is not None and self.config.gripper.name in place:
            grip = float(leader.position[place[self.config.gripper.name]])
        tick = self._command(now, limited, grip, None, None, intervention=True)
        return self._shown(tick, wanted + self._human_offset, self._arm(self.gate.measured))

    def _shown(self, tick: Tick, wanted: Vector, measured: Vector) -> Tick:
        """What a person did, in the policy's terms."""
        state = self.gate.state
        if self.to_action is None or state is None:
            return tick
        action = self.to_action(wanted, measured, self._gripper_at)
        if not (np.isfinite(action).all() and np.isfinite(state).all()):
            return tick
        return replace(tick, shown=action, shown_state=state)

    def _hold(self, now: float, why: str) -> Tick:
        if self.state != "hold":
            self._count("hold")
            self._become("hold", why, now)
        else:
            if without_numbers(why) != without_numbers(self.reason):
                self._event(now, "hold", why)
            self.reason = why
        return self._resting(now, why)

    def _resting(self, now: float, why: str) -> Tick:
        """Come to rest, then send nothing more."""
        self._began, self._last_target = False, None
        if not self.limiter.position_known or self.limiter.at_rest:
            if self.state not in ("hold", "human"):
                self._gripper_at = None  # a person may move it by hand now
            return self._silent(now, why)
        return self._command(now, self.limiter.rest(self.config.rows_per_tick), kind="stop", why=why)

    def _starved(self, now: float, request: Request | None) -> Tick:
        """There is no action for this step."""
        why = self._policy_fault or "waiting for the policy"
        way = self.config.schedule.starvation
        resting = not self.limiter.position_known or self.limiter.at_rest
        if way == "stop" and self._answered and self._began:
            self._count("starved")
            self._disable(f"stopped: {why}", now)
            return self._resting(now, self.reason)
        if self._began:
            self._count("starved")
        self._began, self._last_target = False, None
        if resting and (way != "hold" or not self.limiter.position_known):
            return self._silent(now, why, request)
        limited = self.limiter.rest(self.config.rows_per_tick)
        return self._command(now, limited, None, request, kind="hold", why=why)

    def _silent(self, now: float, why: str, request: Request | None = None) -> Tick:
        """Nothing is sent."""
        return Tick(
            now, self.state, why, request=request, step=self.schedule.step, task=self.task,
            outcome=self.outcome,
        )  # fmt: skip

    def _command(
        self,
        now: float,
        limited: Limited,
        grip: float | None = None,
        request: Request | None = None,
        action: NDArray[np.float32] | None = None,
        *,
        kind: Literal["move", "hold", "stop"] = "move",
        why: str = "",
        intervention: bool = False,
    ) -> Tick:
        rows, tail = limited.positions, limited.tail
        if self.gripper is not None:
            if grip is not None and np.isfinite(grip):
                self._gripper_at = self.gripper.command(grip)
            if self._gripper_at is not None:
                rows, tail = _beside(rows, self._gripper_at), _beside(tail, self._gripper_at)
        names = self.names[: rows.shape[1]]
        self._sent_at = now
        self._rests_at = now + (len(rows) + len(tail)) * self._dt
        return Tick(
            now, self.state, why or self.reason, Command(names, rows, 1.0 / self._dt, kind, why, tail),
            request, action, rows[-1].copy(), limited.clamped, intervention, self.schedule.step,
            self.task, self.outcome,
        )  # fmt: skip

    # Inside --------------------------------------------------------------------------------------------

    def _ask(self, now: float) -> Request | None:
        if self._asked is not None or self._asked_at == now or not self.schedule.wants():
            return None
        stamp, observation = self.gate.observe(now, self.task)
        self._request, self._asked_at = self._request + 1, now
        rtc = self.config.schedule.mode == "rtc"
        prefix = self.schedule.leftover() if rtc else np.zeros((0, self.spec.action_dim), np.float32)
        frozen = min(self.schedule.delay_steps(), len(prefix)) if rtc else 0
        self._asked = Request(
            self._request, now, stamp, observation, self.schedule.step, prefix.copy(), frozen,
            str(self.episode),
        )  # fmt: skip
        return self._asked

    def _give_up_waiting(self, now: float) -> None:
        assert self._asked is not None, "asked only then"
        self._policy_fault = f"the policy has not answered for {now - self._asked.made:.2f} s"
        self._count("request given up")
        self._event(now, "request given up", self._policy_fault)
        self._asked = None

    def _lost_track(self) -> str:
        """The arm is not where it was sent: blocked, stopped by its own controller, or driven by another."""
        at, measured = self.limiter.position, self.gate.measured
        if at is None or measured is None or not self._began:
            return ""
        worst, apart = _farthest(self._arm(measured), at)
        if apart <= self.config.max_tracking:
            return ""
        return (
            f"{self.config.joints[worst].name} is {apart:.2f} from where it was sent: blocked, or driven by "
            "another; look, then enable again"
        )

    def _arm(self, measured: Vector | None) -> Vector:
        assert measured is not None, "the gate has no fault, so it has joints"
        return measured[: len(self.config.joints)]

    def _elsewhere(self, now: float) -> Vector | None:
        """(N,) how far the arm is from where it was sent to stand, if that is more than it sags."""
        measured = self.gate.measured
        if measured is None:
            return None
        self._follow(now)
        at = self.limiter.position
        if at is None or not self.limiter.at_rest:
            return None
        apart = np.abs(self._arm(measured) - at)
        return apart if apart.max() > _SAG else None

    def _moves_yet(self, now: float) -> str:
        """Why it cannot be said where the arm would begin: it is elsewhere, and does not stand there yet.

        An arm that trails behind what it was sent, or joints that were last heard from on the way, look like
        one that was moved: begun there, it would be thrown back to a place that it has left. An arm that was
        never sent anything from here may still follow what another node sent it.
        """
        stands = self.gate.stood(len(self.config.joints), self._rests_at, _STILL_S, _STILL)
        if not self.limiter.position_known and not stands:
            return f"the arm has not been seen to stand still for {_STILL_S} s: enable when it stands"
        apart = self._elsewhere(now)
        if apart is None or stands:
            return ""
        worst = int(np.argmax(apart))
        name = self.config.joints[worst].name
        return f"{name} is {apart[worst]:.2f} from where it was sent, and moves yet: enable when it stands"

    def _look(self, now: float) -> None:
        """A person has looked and lets the arm move: it goes on from what it was sent last.

        If it stands elsewhere it begins where it is measured. Whether it leans on something, was moved, or
        never got what was sent, cannot be told from here. To go on from what was sent would throw the last
        two back; to begin where it stands has the set-points of the first leap there, which unloads it.
        """
        measured = self.gate.measured
        if measured is None or self.gate.joints_fault(now):
            return
        if not self.limiter.position_known or self._elsewhere(now) is not None:
            self.limiter.begin(self._arm(measured))
            self._sent_at = None

    def _follow(self, now: float) -> None:
        """Where on what was sent last the arm is by now."""
        if self._sent_at is not None:
            self.limiter.seek(round((now - self._sent_at) / self._dt))

    def _start(self, measured: Vector) -> str:
        """A motion begins, from where the arm was left if it stands, else from where it moves.

        Returns:
            why it may not, in words: the arm is not where it was left, and nobody has looked since.
        """
        at = self.limiter.position
        assert at is not None, "begun when it was enabled, or taken over"
        worst, apart = _farthest(measured, at)
        if self.limiter.at_rest and apart > _SAG:
            return (
                f"{self.config.joints[worst].name} is {apart:.2f} from where it was left: moved by "
                "another, wrongly measured, or what it was sent last never came; look, then enable again"
            )
        full = self.gate.measured
        if self.gripper is None or not self.config.gripper_joint or full is None:
            return ""
        if self._gripper_at is None:
            self.gripper.begin(float(full[len(self.config.joints)]))
        return ""

    def _disable(self, why: str, now: float) -> None:
        """Stop; a person has to enable again."""
        self._enabled = False
        self._become("inactive", why, now)

    def _drop_plans(self) -> None:
        """Forget what was planned and asked: it belongs to another moment, task or driver."""
        step = self.schedule.step
        self.schedule.reset()
        self.schedule.step = step
        self._asked = None
        self._began, self._last_target = False, None

    def _become(self, state: State, why: str, now: float) -> None:
        self.state, self.reason = state, why
        self._well_since = None
        if state != "active":
            self._drop_plans()
        self._event(now, state, why)

    def _event(self, now: float, what: str, why: str) -> None:
        self.events.append(Event(now, what, why))

    def _count(self, what: str, by: int = 1) -> None:
        self.counters[what] = self.counters.get(what, 0) + by
