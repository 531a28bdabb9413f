"""Anything in any order: what must hold, holds after every tick."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rig import GRIPPER, JOINTS, NAMES, Rig, config, wave, worst_share

from regrip.real_robot.messages import Frame, Joints, Reply, Request, Tick
from regrip.real_robot.schedule import Mode, ScheduleConfig

MODES: tuple[Mode, ...] = ("blocking", "receding", "latest", "merge", "ensemble", "rtc")
LOW = np.array([*(joint.low for joint in JOINTS), GRIPPER.closed])
HIGH = np.array([*(joint.high for joint in JOINTS), GRIPPER.open])


class Unruly(Rig):
    """A rig whose every part misbehaves, by a seeded generator; checks the invariants after each tick."""

    def __init__(self, seed: int) -> None:
        self.generator = g = np.random.default_rng(seed)
        schedule = ScheduleConfig(
            MODES[seed % 6], execute=int(g.integers(0, 9)), ask_below=int(g.integers(0, 9)),
            starvation=("hold", "decelerate", "stop")[seed % 3],  # type: ignore[arg-type]
        )  # fmt: skip
        cfg = config(schedule=schedule, deadman_s=0.3 if seed % 4 == 0 else 0.0, max_inference_s=0.6)
        super().__init__(cfg, policy=self.mad)
        self.wrong: dict[str, int] = {}  # fault: ticks left
        self.latched = self.configured = False
        self.resting, self.lied, self.fresh = 0, 99, True
        self.seen: dict[str, int] = {}

    def has(self, fault: str) -> bool:
        return self.wrong.get(fault, 0) > 0

    def mad(self, request: Request) -> np.ndarray:
        actions = wave(request)
        if self.has("leap"):
            actions[:, 0] = self.generator.uniform(-1.6, 1.6)
        if self.has("wild"):
            actions[:] = self.generator.uniform(LOW, HIGH, (8, 3))
        if self.has("rough"):
            actions += self.generator.normal(0, 0.05, (8, 3)).astype(np.float32)
        if self.has("nan"):
            actions[self.generator.integers(8), self.generator.integers(3)] = np.nan
        if self.has("shape"):
            actions = actions[:, :2]
        return actions[: self.generator.integers(1, 9)]

    def break_something(self) -> None:
        g, core, now = self.generator, self.core, self.now
        kind = int(g.integers(40))
        faults = (
            "leap", "wild", "rough", "nan", "shape", "eye silent", "hand silent", "joints silent", "frozen",
            "future", "past", "joint nan", "joint far", "order", "lacking", "swapped", "slow", "dead",
            "leader", "leader", "leader mad",
        )  # fmt: skip
        if kind < len(faults):
            self.wrong[faults[kind]] = int(g.integers(1, 25))
        elif kind < 28:
            if self.lied < 15:  # who enables looks at the arm first: a wrong encoder is all the core has
                return
            core.on_enable(True, now)
            assert core.state != "active" or (self.configured and not self.latched)
        elif kind < 30:
            core.configure()
            self.configured = True
        elif kind == 30:
            core.on_enable(False, now)
        elif kind == 31:
            core.on_estop(True, now)
            self.latched = True
        elif kind < 35:
            core.on_estop(False, now)
            self.latched = False
        elif kind < 37 and self.lied >= 15:
            core.on_takeover(bool(g.integers(2)), now)
        elif kind == 37:
            core.on_task(f"task {g.integers(3)}", now)
        elif kind == 38:
            core.on_outcome(bool(g.integers(2)), now)
        else:
            core.answered(Reply(int(g.integers(-1, 9)), np.zeros((2, 3), np.float32), now))

    def sense(self) -> None:
        def seen(frame: Frame) -> Frame:
            if self.has("frozen"):
                frame = replace(frame, image=np.zeros((4, 4, 3), np.uint8))
            return replace(frame, stamp=frame.stamp + self.shift())

        self.frame = {name: None if self.has(f"{name} silent") else seen for name in ("eye", "hand")}
        self.joints = None if self.has("joints silent") else self.report
        super().sense()
        if self.generator.random() < 0.9:
            self.core.on_deadman(bool(self.generator.random() < 0.98), self.now)
        if self.has("leader") or self.has("leader mad"):
            place = self.generator.normal(0, 1, 3) if self.has("leader mad") else np.sin([self.now, 0, 0])
            if self.generator.random() < 0.02:
                place[0] = np.nan
            self.core.on_human(Joints(self.now, self.now, NAMES, place))

    def shift(self) -> float:
        return 0.5 * self.has("future") - 0.5 * self.has("past")

    def report(self, joints: Joints) -> Joints:
        row, names = joints.position.copy(), joints.names
        if self.has("joint nan"):
            row[self.generator.integers(3)] = np.nan
        if self.has("joint far"):
            row[0] += self.generator.normal(0, 1)
        if self.has("swapped"):
            row[[0, 1]] = row[[1, 0]]
        if self.has("order"):
            row, names = row[::-1], names[::-1]
        if self.has("lacking"):
            row, names = row[1:], names[1:]
        return replace(joints, position=row, names=names, stamp=joints.stamp + self.shift())

    def one(self) -> None:
        """A tick, late or early or with a broken clock at times."""
        g = self.generator
        self.lied = 0 if self.has("swapped") or self.has("joint far") else self.lied + 1
        self.wrong = {fault: left - 1 for fault, left in self.wrong.items() if left > 1}
        if g.random() < 0.2:
            self.break_something()
        self.delay = int(g.integers(4, 20)) if self.has("slow") else int(g.integers(1, 3))
        self.dead = self.has("dead")
        if g.random() < 0.003:
            self.take(self.core.tick(float(g.choice([np.nan, self.now - 5.0]))))
        rows = 5 if g.random() < 0.95 else int(g.choice([1, 2, 3, 4, 6, 7, 9, 15, 40, 90]))
        self.tick(1, rows)

    def take(self, tick: Tick) -> None:
        core, command = self.core, tick.command
        self.seen[tick.state] = self.seen.get(tick.state, 0) + 1
        assert tick.state == core.state
        assert tick.reason or (tick.state == "active" and command is not None)
        assert (tick.state == "estop") == self.latched
        assert self.configured or tick.state in ("unconfigured", "estop")
        assert tick.request is None or tick.state == "active"
        assert not (self.latched and command is not None and command.kind != "stop")
        if tick.state not in ("active", "human"):
            assert command is None or (command.kind == "stop" and command.why)
            self.resting = self.resting + 1 if command is not None else 0
            assert self.resting < 12, "it does not come to rest"  # 0.2 s at the most from full speed
        else:
            self.resting = 0
        if command is not None:
            place = [NAMES.index(name) for name in command.names]
            rows = command.trajectory
            assert np.isfinite(rows).all()
            low = np.minimum(LOW[place], np.append(self.at, 0)[: len(place)])
            high = np.maximum(HIGH[place], np.append(self.at, 0)[: len(place)])
            assert (rows >= low - 1e-6).all()
            assert (rows <= high + 1e-6).all()
        super().take(tick)

    def run(self, ticks: int) -> None:
        for count in range(ticks):
            self.one()
            if count % 1000 == 999:
                self.check()
        self.check()

    def check(self) -> None:
        """No limit was broken on the way; then forget it, but for what the next differences need."""
        if len(self.path) > 3:
            assert worst_share(self.path, self.fresh) <= 1.001
            self.path, self.ticks, self.fresh = self.path[-3:], self.ticks[-3:], False
        assert len(self.pending) < 50
        assert isinstance(self.rows, deque)


def test_a_fuzzed_core_does_move_most_states_are_seen_and_every_invariant_holds() -> None:
    seen: dict[str, int] = {}
    for seed in range(24):
        unruly = Unruly(seed)
        unruly.run(500)
        for state, count in unruly.seen.items():
            seen[state] = seen.get(state, 0) + count
    assert min(seen[state] for state in ("active", "hold", "human", "estop", "inactive")) > 100, seen


@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(seed=st.integers(0, 2**31), ticks=st.integers(1, 400))
def test_any_interleaving_keeps_every_invariant(seed: int, ticks: int) -> None:
    Unruly(seed).run(ticks)


@pytest.mark.long
@pytest.mark.parametrize("part", range(4))
def test_a_million_ticks(part: int) -> None:
    """A quarter of a million each."""
    began = time.monotonic()
    for seed in range(1000 + 125 * part, 1125 + 125 * part):
        try:
            Unruly(seed).run(2000)
        except AssertionError as error:
            raise AssertionError(f"seed {seed}: {error}") from error
    print(f"part {part}: 250 000 ticks in {time.monotonic() - began:.0f} s")
