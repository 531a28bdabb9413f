"""The safety scenario: one table for every transport, played with the simulated arm at the other end.

A transport's test gives a transport and a `Bench`, and calls `play`. The node runs in the calling process;
the robot may be in this one or in another. Every row waits with the node running, for conditions, not times.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from regrip.launch.sim_robot import Truth
from regrip.real_robot.core import Core, CoreConfig
from regrip.real_robot.gate import GateConfig
from regrip.real_robot.gripper import GripperConfig
from regrip.real_robot.kinematics import Arm, ArmModel, StateOf, ToJoints
from regrip.real_robot.limits import JointLimits
from regrip.real_robot.messages import PolicyError, Request, Transport
from regrip.real_robot.node import Node
from regrip.real_robot.schedule import ScheduleConfig
from regrip.sim.tabletop.robot import ARM, GRIPPER
from regrip.sim.tabletop.scenes import HOME_JOINTS, PANDA

VELOCITY, ACCELERATION, JERK = 2.0, 20.0, 400.0
START = {"task": "demo/lift_red", "split": "train", "index": 0, "seed": 0}


class Bench:
    """Orders to the simulated robot, and what it says is so.

    Args:
        send: puts the text of an order on its way (`sim_robot.ORDERS`). The answers (`TRUTH`) go to `hear`.
    """

    def __init__(self, send: Callable[[str], None]) -> None:
        self._send, self._last, self.truth = send, 0, Truth()
        self.pressed = True

    def hear(self, text: str) -> None:
        self.truth = Truth(**json.loads(text))

    def order(self, **what: object) -> Callable[[], bool]:
        """Send an order; the answer tells whether it has been obeyed."""
        self._last += 1
        number = self._last
        self._send(json.dumps({"id": number, **what}))
        return lambda: self.truth.order >= number

    def tamper(self, **wrong: object) -> Callable[[], bool]:
        return self.order(do="tamper", **{"with": {"noise": True, "pressed": self.pressed, **wrong}})

    def say(self, what: str, value: object) -> Callable[[], bool]:
        return self.order(do="say", what=what, value=value)

    @property
    def position(self) -> np.ndarray:
        return np.array(self.truth.position)


class Waver:
    """A policy that moves the tool up and down, until it is told to go wrong."""

    def __init__(self) -> None:
        self.mode = "fine"

    def answer(self, request: Request) -> np.ndarray:
        if self.mode == "dead":
            raise PolicyError("the policy server does not answer")
        if self.mode == "slow":
            time.sleep(1.2)
        rows = np.zeros((10, 7), np.float32)
        steps = request.step + np.arange(10)
        rows[:, 2] = np.where(steps // 10 % 2 == 0, 0.006, -0.006)
        rows[:, 6] = 0.08
        if self.mode == "nan":
            rows[7, 3] = np.nan
        if self.mode == "mad":
            rows[0, 0] = 0.4
        return rows


def make_core(spec, *, age_s: float = 0.2, skew_s: float = 0.08, task: str = "lift the red block") -> Core:
    arm = Arm(ArmModel(PANDA, ARM, "tcp", (), HOME_JOINTS))
    joints = tuple(
        JointLimits(name, float(low), float(high), VELOCITY, ACCELERATION, JERK)
        for name, low, high in zip(ARM, arm.low, arm.high, strict=True)
    )
    config = CoreConfig(
        joints, GripperConfig(GRIPPER, 0.08, 0.0), GRIPPER, schedule=ScheduleConfig("latest", ask_below=5),
        gate=GateConfig(max_age_s=age_s, max_skew_s=skew_s), max_start_jump=0.5, deadman_s=1.5,
        max_gap_s=2.0, max_inference_s=0.6,
    )  # fmt: skip
    core = Core(
        config, spec, ToJoints(spec, arm, len(ARM)), StateOf(spec, ARM, (GRIPPER,), arm), arm.tool, task
    )
    core.configure()
    return core


@dataclass
class Row:
    name: str
    safe: bool
    said: str


@dataclass
class Played:
    rows: list[Row] = field(default_factory=list)

    def __str__(self) -> str:
        lines = [f"{'ok  ' if row.safe else 'FAIL'} {row.name}: {row.said}" for row in self.rows]
        return "\n".join(lines)

    @property
    def failed(self) -> list[str]:
        return [f"{row.name}: {row.said}" for row in self.rows if not row.safe]


class Player:
    def __init__(self, node: Node, bench: Bench, policy: Waver, patience_s: float) -> None:
        self.node, self.bench, self.policy, self.patience_s = node, bench, policy, patience_s
        self.played = Played()

    @property
    def core(self) -> Core:
        return self.node.core

    def wait(self, until: Callable[[], bool], seconds: float | None = None) -> bool:
        """Run the node until something is so."""
        self.node.run(lambda tick: until(), self.patience_s if seconds is None else seconds)
        return until()

    def run(self, seconds: float) -> None:
        self.node.run(seconds=seconds)

    def rests(self) -> bool:
        """Whether the arm comes to rest and stays there."""
        end = self.node.transport.now() + self.patience_s
        while self.node.transport.now() < end:
            before = self.bench.position
            self.run(0.5)
            if np.abs(self.bench.position - before)[:7].max() < 2e-3:
                return True
        return False

    def moves(self) -> bool:
        """Whether the arm is driven by the policy."""
        before = self.bench.position
        return self.wait(
            lambda: self.core.state == "active" and np.abs(self.bench.position - before)[:7].max() > 0.01
        )

    def row(self, name: str, safe: bool, said: str | None = None) -> None:
        self.played.rows.append(Row(name, bool(safe), self.why() if said is None else said))

    def why(self) -> str:
        return f"{self.core.state}: {self.core.reason or self.core._policy_fault}"

    def enable(self) -> bool:
        """Press until it is; what the robot says first may not have come yet."""
        for _ in range(10):
            self.wait(self.bench.say("enable", True))
            if self.wait(lambda: self.core.state == "active", 1.0):
                return True
        return False

    def stops(self, name: str, words: str, undo: Callable[[], object] | None) -> None:
        """The arm must rest for a reason with (one of) these words; undone, it must go on by itself."""
        found = self.wait(lambda: any(word in self.why() for word in words.split("|")))
        said = self.why()
        still = self.rests()
        fine = found and still and (self.core.state != "active" or bool(self.core._policy_fault))
        if undo is not None:
            undo()
            fine &= self.moves()
        self.row(name, fine, said if fine else f"{said}; at rest {still}; then {self.why()}")

    def tampered(self, name: str, words: str, **wrong: object) -> None:
        self.wait(self.bench.tamper(**wrong))
        self.stops(name, words, lambda: self.wait(self.bench.tamper()))


def play(
    transport: Transport,
    bench_of: Callable[[], Bench],
    spec,
    *,
    in_loop: bool = False,
    age_s: float = 0.2,
    skew_s: float = 0.08,
    patience_s: float = 8.0,
) -> Played:
    """Play the whole table.

    Args:
        transport: to be connected here; closed at the end.
        bench_of: called when it is connected.
        spec: of the simulated robot.
        in_loop: the policy answers inside the loop (simulated time).
        age_s: the gate's; more on a loaded machine in real time.
        skew_s: likewise.
        patience_s: seconds of the transport's clock that anything may take.

    Returns:
        the rows; `failed` of it should be empty.
    """
    policy = Waver()
    core = make_core(spec, age_s=age_s, skew_s=skew_s)
    node = Node(core, transport, policy, in_loop=in_loop)
    node.connect()
    bench = bench_of()
    p = Player(node, bench, policy, patience_s)
    try:
        p.wait(lambda: bool(bench.truth.names))
        p.wait(bench.tamper())
        p.wait(bench.order(do="reset", **START))
        p.wait(lambda: not core.gate.fault(transport.now()))
        _before_and_after_enable(p)
        _tampering(p)
        _policies(p, in_loop)
        _people(p)
        p.row("limits", bench.truth.fastest <= VELOCITY * 1.001, f"{bench.truth.fastest:.3f} rad/s at most")
        p.row("no command refused by the robot", bench.truth.refused_commands == 0, "")
    finally:
        node.close()
    return p.played


def _before_and_after_enable(p: Player) -> None:
    before = p.bench.position
    p.run(1.0)
    still = np.abs(p.bench.position - before).max() < 2e-3
    p.row("no motion before enable", still and p.core.state == "inactive" and p.bench.truth.commands == 0)
    p.row("moves when enabled", p.enable() and p.moves())


def _tampering(p: Player) -> None:
    for source, words in {"front": "front is", "wrist": "wrist is", "joints": "the joint state is"}.items():
        p.tampered(f"{source} silent", words, silent=[source])
        p.tampered(f"{source} late", words, shift_s={source: -0.9})
        p.tampered(f"{source} from the future", "in the future", shift_s={source: 0.7})
    for camera in ("front", "wrist"):
        p.tampered(f"{camera} frozen", f"{camera} has sent the same picture", frozen=[camera])
    skew = (p.core.config.gate.max_skew_s + p.core.config.gate.max_age_s) / 2
    p.tampered("joints and cameras apart", "apart", shift_s={"joints": -skew})
    p.tampered("NaN in the state", "joint4 is not a finite number", not_finite="joint4")
    p.tampered("a joint is missing", "lacks joint3", lacking="joint3")
    p.tampered("the clock jumps back", "jumped|state is 5.", shift_s={"joints": -5.0})
    p.tampered(
        "the clock jumps ahead", "in the future", shift_s=dict.fromkeys(("front", "wrist", "joints"), 5.0)
    )
    p.wait(p.bench.tamper(backwards=True))
    moved = p.moves()
    measured, truth = p.core.gate.measured, p.bench.position
    near = measured is not None and np.abs(measured - truth).max() < 0.2
    p.row("joints in the opposite order", moved and near)
    p.wait(p.bench.tamper())
    p.moves()
    fired = p.bench.truth.watchdog
    p.wait(p.bench.tamper(silent=["front", "wrist", "joints"], deaf=True))
    p.wait(lambda: p.bench.truth.watchdog > fired)
    dog = p.bench.truth.watchdog > fired
    elsewhere, refused = 0.0, False

    def healed() -> None:
        # What was sent into the cut never came: the arm stopped short of where the node takes it to be.
        # Beyond what an arm sags the node must wait for a person, for it cannot tell this from an arm that
        # was moved; if the arm is nearer, it has no reason to.
        nonlocal elsewhere, refused
        sent = p.core.limiter.position
        elsewhere = 0.0 if sent is None else float(np.abs(p.bench.position[: len(sent)] - sent).max())
        p.wait(p.bench.tamper())
        p.node.run(
            lambda tick: (
                tick.state == "inactive" or (tick.command is not None and tick.command.kind == "move")
            ),
            p.patience_s,
        )
        refused = "from where it was left" in p.core.reason
        if refused:
            p.enable()

    p.stops("network cut", "old", healed)
    p.row(
        "network cut: a person has to look if the arm is elsewhere, and only then",
        refused == (elsewhere > 0.05) or abs(elsewhere - 0.05) < 0.005,  # it sways by its own weight
        f"{elsewhere:.3f} rad from where it was sent; {'enabled again' if refused else 'went on by itself'}",
    )
    p.row("network cut: the robot's own watchdog", dog, f"fired {p.bench.truth.watchdog - fired} times")


def _policies(p: Player, in_loop: bool) -> None:
    def fine() -> None:
        p.policy.mode = "fine"

    cases = {"nan": "no finite", "mad": "outside", "dead": "does not answer"}
    names = {"nan": "NaN in one action", "mad": "an absurd action", "dead": "policy server killed"}
    if not in_loop:
        cases["slow"], names["slow"] = "has not answered", "inference slower than the chunk"
    for mode, words in cases.items():
        p.policy.mode = mode
        p.stops(names[mode], words, fine)


def _people(p: Player) -> None:
    p.wait(p.bench.say("estop", True))
    p.stops("e-stop", "estop: e-stop", None)
    p.wait(p.bench.say("enable", True))
    p.run(0.3)
    p.row("enable refused while the e-stop is latched", p.core.state == "estop" and p.rests())
    p.wait(p.bench.say("estop", False))
    p.wait(lambda: p.core.state == "inactive")
    p.row("released: does not move by itself", p.core.state == "inactive" and p.rests())
    p.row("enabled again", p.enable() and p.moves())

    p.bench.pressed = False
    p.wait(p.bench.tamper())
    p.stops("dead-man switch let go", "dead-man", None)
    p.wait(p.bench.say("enable", True))
    p.run(0.3)
    p.row("enable refused without the dead-man switch", p.core.state == "inactive")
    p.bench.pressed = True
    p.wait(p.bench.tamper())
    p.run(0.5)
    p.row("pressed and enabled again", p.enable() and p.moves())

    p.wait(p.bench.say("takeover", True))
    p.wait(lambda: p.core.state == "human")
    still, leader = p.rests(), dict(zip(p.bench.truth.names, [0.3] * 7, strict=False))
    start = p.bench.position
    p.wait(p.bench.say("human", leader))  # elsewhere than the arm: that alone must not move it
    p.run(0.1)
    jump = float(np.abs(p.bench.position - start).max())
    p.row("taken over without a jump", still and jump < 5e-3 and p.core.state == "human", f"{jump:.4f} rad")

    def turned() -> bool:
        return bool(p.bench.position[0] - start[0] > 0.08)

    for step in range(100):
        leader["joint1"] = 0.3 + 0.1 * min(1.0, step / 20)
        p.wait(p.bench.say("human", leader))
        if turned():
            break
    p.row("a person drives", turned(), f"joint1 by {p.bench.position[0] - start[0]:.3f} rad")
    p.wait(p.bench.say("takeover", False))
    p.row("handed back", p.moves())
    p.wait(p.bench.say("task", "lift the blue block"))
    p.row("another task", p.wait(lambda: p.core.task == "lift the blue block") and p.moves())
    p.wait(p.bench.say("outcome", True))
    p.stops("the episode is over", "over", None)
