"""The node: what it costs, whether the policy does as well through it as without, and whether it lasts.

    python benchmarks/node.py overhead
    python benchmarks/node.py parity --per-task 20
    python benchmarks/node.py transports --per-task 5 --factor 0.5
    python benchmarks/node.py soak --minutes 60

`overhead`: milliseconds from the last observation to the command, the policy's own time excluded, in process;
    what the loop's thread computed is told apart, for on a busy machine it also waits for its turn.
`parity`: success of the demo checkpoint through the node against direct evaluation, paired on start states.
`transports`: likewise, with the arm in another process behind ROS 1, DDS, rclpy's stand-in and rosbridge, in
    simulated time, or in real time with `--factor 0`.
`soak`: simulated time on the tabletop arm with random faults; memory and every limit are watched.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import time
from collections import deque
from collections.abc import Sequence

import numpy as np
import psutil
import torch
from numpy.typing import NDArray

from regrip.datasets.starts import StartState
from regrip.datasets.statistics import paired_difference
from regrip.launch import environments
from regrip.launch.config import from_dict
from regrip.launch.environments import EnvConfig
from regrip.launch.evaluate import eval_starts, evaluate
from regrip.launch.node_policy import NodePolicy
from regrip.launch.node_sim import Driven, SimTransport, drive
from regrip.launch.policies import open_policy
from regrip.launch.robot_config import RobotConfig, load_robot, make_core, open_arm
from regrip.real_robot.messages import Command, Joints, Request, Tick
from regrip.real_robot.node import Node, settle
from regrip.real_robot.schedule import ScheduleConfig
from regrip.sim.tabletop.robot import CONTROLLER_HZ, TabletopRobot

MODES = {
    "receding": ScheduleConfig("receding"),
    "blocking": ScheduleConfig("blocking"),
    "latest": ScheduleConfig("latest", ask_below=3),
    "merge": ScheduleConfig("merge", ask_below=3),
    "rtc": ScheduleConfig("rtc", ask_below=3),
    "ensemble": ScheduleConfig("ensemble"),
}


class Canned:
    """Answers at once, so that what is left is the node's own time."""

    def answer(self, request: Request) -> NDArray[np.float32]:
        steps = 0.3 * (request.step + np.arange(10))
        return np.column_stack(
            [0.01 * np.sin(steps), 0.01 * np.cos(steps), np.zeros((10, 4)), np.full(10, 0.04)]
        ).astype(np.float32)


def through_node(
    robot: RobotConfig,
    mode: str,
    latency_s: float | None,
    starts: Sequence[StartState],
    canned: bool = False,
) -> Driven:
    policy, _ = open_policy("demo")
    schedule = MODES[mode]
    if mode in ("receding", "blocking"):
        schedule = dataclasses.replace(schedule, execute=policy.execute)
    robot = dataclasses.replace(robot, core=dataclasses.replace(robot.core, schedule=schedule))
    arm, world = open_arm(robot), TabletopRobot("demo")
    return drive(
        lambda task: make_core(robot, policy.spec, arm, task),
        Canned() if canned else NodePolicy(policy),
        world,
        starts,
        latency_s=latency_s,
    )


def overhead() -> None:
    starts = eval_starts(tasks(), "select", 2)
    settle()  # as `regrip node` does before it says ready
    print(f"{'':10} {'':>7} {'by the wall clock, ms':^26} {'computing, ms':^26}")
    print(f"{'schedule':10} {'ticks':>7} {'p50':>8} {'p99':>8} {'max':>8} {'p50':>8} {'p99':>8} {'max':>8}")
    for mode in ("latest", "ensemble", "merge", "rtc"):
        driven = through_node(load_robot("tabletop"), mode, 0.1, starts, True)
        row = f"{mode:10} {len(driven.overhead):7d}"
        for took in (driven.overhead, driven.overhead_cpu):
            row += "".join(f" {1e3 * float(value):8.3f}" for value in np.quantile(took, [0.5, 0.99, 1.0]))
        print(row, flush=True)
    print(f"load of the machine over the last minute: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")


def tasks() -> list[str]:
    return environments.task_names(EnvConfig())


def parity(per_task: int, only: str) -> None:
    starts = eval_starts(tasks(), "select", per_task)
    policy, _ = open_policy("demo")
    config = from_dict(
        EnvConfig, {"name": "tabletop", "suite": "demo", "workers": 1, "slots": 16}, "benchmark"
    )
    with environments.open_pool(config, policy.execute) as pool:
        direct = evaluate(pool, policy, starts, greedy=True).outcomes
    print(f"{'direct':34} {direct.rate}", flush=True)
    rows = [("tabletop", "receding", None), ("panda_limits", "receding", None)]
    rows += [("tabletop", mode, 0.1) for mode in ("receding", "latest", "merge", "rtc")]
    for name, mode, latency in rows:
        label = f"{name}, {mode}, {'policy in the loop' if latency is None else f'{1e3 * latency:.0f} ms'}"
        if only and only not in label:
            continue
        driven = through_node(load_robot(name), mode, latency, starts)
        print(f"{label:34} {driven.rate}", flush=True)
        print(f"{'':34} {paired_difference(direct.success, driven.success)}")
        print(f"{'':34} counted: {driven.counters}", flush=True)


def transports(per_task: int, only: str, factor: float) -> None:
    """What a person beside the arm would count, against direct evaluation and the node in process."""
    import node_transports as remote  # only here: it wants the middlewares

    starts = eval_starts(tasks(), "select", per_task)
    policy, _ = open_policy("demo")
    config = from_dict(
        EnvConfig, {"name": "tabletop", "suite": "demo", "workers": 1, "slots": 16}, "benchmark"
    )
    with environments.open_pool(config, policy.execute) as pool:
        direct = evaluate(pool, policy, starts, greedy=True).outcomes
    print(f"{'direct':10} {direct.rate}", flush=True)
    robot = load_robot("tabletop")
    within = through_node(robot, "receding", None, starts)
    print(f"{'in process':10} {within.rate}\n{'':10} {paired_difference(direct.success, within.success)}")
    schedule = dataclasses.replace(robot.core.schedule, execute=policy.execute)
    robot = dataclasses.replace(robot, core=dataclasses.replace(robot.core, schedule=schedule))
    for network in remote.NETWORKS:
        if only and network not in only.split(","):
            continue
        found = remote.over(network, robot, NodePolicy(policy), policy.spec, starts, factor)
        print(f"{network:10} {found.rate}")
        for name, other in (("direct", direct.success), ("in process", within.success)):
            print(f"{'':10} against {name}: {paired_difference(other, found.success)}")
        p50, p95 = found.latency
        when = "simulated" if factor else "real"
        print(f"{'':10} answers after {1e3 * p50:.0f} ms (p50), {1e3 * p95:.0f} ms (p95), {when}")
        print(f"{'':10} the machine was {100 * found.busy:.0f} % busy")
        print(f"{'':10} {found.late} of {found.ticks} ticks late; counted: {found.counters}", flush=True)


class Watch:
    """Rebuilds what the joints were sent, row by row, and keeps the largest share of any limit.

    Where a person enables an arm that stands elsewhere than it was sent to stand (it leans on something), the
    core begins where it stands: the set-points leap, and the arm must not. Such a leap is let through if the
    set-points stood, the arm itself stood for 0.1 s, it leads to where the arm truly is, and is more than an
    arm sags.
    """

    SAG, NEAR, AFTER_S = 0.05, 0.03, 0.05

    def __init__(self, robot: RobotConfig, world: TabletopRobot) -> None:
        self._joints, self._world = robot.core.joints, world
        self._fastest = np.array([joint.velocity for joint in self._joints])
        self._path: list[np.ndarray] = []
        self._last: Command | None = None
        self._sent = self._leapt = -np.inf
        self._measured = np.zeros(len(self._joints))
        self._stood: list[np.ndarray] = []  # where it was measured, standing, while nobody had enabled it
        self._truth: deque[np.ndarray] = deque(maxlen=CONTROLLER_HZ // 10)
        self.worst, self.faults = 0.0, 0
        self.leaps: list[float] = []
        self.kick = 0.0  # the largest share of a joint's velocity just after a leap

    def forget(self) -> None:
        """The arm was put elsewhere."""
        self._check()
        self._path, self._last, self._stood = [], None, []
        self._truth.clear()

    def arm(self) -> None:
        """Look at the arm itself; to be called at the rate of its controller."""
        _, position, velocity = self._world.joints()
        self._truth.append(position[: len(self._joints)])
        if self._world.time - self._leapt <= self.AFTER_S:
            self.kick = max(self.kick, float((np.abs(velocity[: len(self._joints)]) / self._fastest).max()))

    def __call__(self, what: object) -> None:
        if isinstance(what, Joints):
            self._measured = what.position[: len(self._joints)]
        if not isinstance(what, Tick):
            return
        self.faults += what.state not in ("active", "estop", "human", "hold", "inactive")
        if what.command is not None:
            self._follow(what.now, what.command)
            self._stood = []
        still = not self._truth or np.ptp(np.array(self._truth), axis=0).max() < self.NEAR
        if what.state in ("inactive", "estop") and still:
            self._stood.append(self._measured)

    def _follow(self, now: float, command: Command) -> None:
        """What the joints were told until now, and whether the next goes on from there."""
        first, stands = command.trajectory[0, : len(self._joints)], True
        if self._last is not None:
            rows = self._last.trajectory[:, : len(self._joints)]
            followed = round((now - self._sent) * self._last.rate_hz)
            self._path += list(rows[:followed]) + [rows[-1]] * min(3, max(0, followed - len(rows)))
            stands = followed > len(rows)
        if self._stood and stands:
            begins = min(self._stood, key=lambda pose: float(np.abs(pose - first).max()))
            leap = np.inf if self._last is None else float(np.abs(self._path[-1] - begins).max())
            truth = self._world.joints()[1][: len(self._joints)]
            if leap > self.SAG and np.abs(truth - begins).max() < self.NEAR:
                self._check()
                self._path = [begins] * 3
                if self._last is not None:
                    self.leaps.append(leap)
                    self._leapt = now
        self._last, self._sent = command, now
        if len(self._path) > 2000:
            self._check()
            self._path = self._path[-3:]

    def _check(self) -> None:
        if len(self._path) < 4 or self._last is None:
            return
        sent, dt = np.array(self._path), 1.0 / self._last.rate_hz
        for order, name in ((1, "velocity"), (2, "acceleration"), (3, "jerk")):
            limit = np.array([getattr(joint, name) for joint in self._joints])
            share = np.abs(np.diff(sent, order, axis=0)) / dt**order / limit
            self.worst = max(self.worst, float(share.max()))


class Tampered(SimTransport):
    """Loses what the sensors say, at random, and has the arm watched."""

    def __init__(self, robot: TabletopRobot, generator: np.random.Generator, watch: Watch) -> None:
        super().__init__(robot)
        self._generator, self._silent, self._watch = generator, 0, watch

    def sleep_until(self, when: float) -> None:
        for _ in range(round((when - self.robot.time) * CONTROLLER_HZ)):
            self.robot.advance()
            self._watch.arm()
        self.sense()

    def sense(self) -> None:
        if self._generator.random() < 0.01:
            self._silent = int(self._generator.integers(1, 20))
        self._silent -= 1
        if self._silent < 0:
            super().sense()


def soak(minutes: float, seed: int) -> None:
    robot, generator = load_robot("tabletop"), np.random.default_rng(seed)
    policy, _ = open_policy("demo")
    arm, world, process = open_arm(robot), TabletopRobot("demo"), psutil.Process(os.getpid())
    watch = Watch(robot, world)
    robot = dataclasses.replace(
        robot, core=dataclasses.replace(robot.core, schedule=ScheduleConfig("latest", execute=policy.execute))
    )
    starts = eval_starts(tasks(), "train", 1000)
    began, done, episode, memory = time.monotonic(), 0.0, 0, []
    print(f"{'simulated min':>14} {'episodes':>9} {'worst share':>12} {'memory MB':>10}")
    while done < 60 * minutes:
        world.reset(starts[episode % len(starts)])
        watch.forget()
        transport = Tampered(world, generator, watch)
        core = make_core(robot, policy.spec, arm, world.instruction)
        node = Node(core, transport, NodePolicy(policy), in_loop=True, watchers=(watch,))
        node.connect()
        core.configure()
        start = world.time
        while world.time < start + 30.0 and not world.invalid:
            if core.state in ("inactive", "estop") and generator.random() < 0.2:
                core.on_estop(False, transport.now())
                core.on_enable(True, transport.now())
            elif generator.random() < 0.003:
                core.on_estop(True, transport.now())
            node.step()
        done += world.time - start
        node.close()
        episode += 1
        if episode % 20 == 1 or done >= 60 * minutes:
            memory.append(process.memory_info().rss / 1e6)
            print(f"{done / 60:14.1f} {episode:9d} {watch.worst:12.4f} {memory[-1]:10.1f}", flush=True)
    took = (time.monotonic() - began) / 60
    print(f"{done / 60:.0f} simulated minutes in {took:.1f}; {watch.faults} bad states")
    farthest = max(watch.leaps, default=0.0)
    print(f"{len(watch.leaps)} times an arm was enabled that stood elsewhere, by {farthest:.2f} rad at most;")
    print(f"it then reached {watch.kick:.2f} of a joint's velocity within {1e3 * watch.AFTER_S:.0f} ms")
    if watch.worst > 1.001 or watch.kick > 1.0 or watch.faults:
        raise SystemExit("a limit was broken")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("overhead", "parity", "transports", "soak"))
    parser.add_argument("--per-task", type=int, default=20)
    parser.add_argument("--only", default="", help="of parity: rows whose name holds this; or networks: a,b")
    parser.add_argument("--factor", type=float, default=0.5, help="of transports: simulated seconds in one")
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.what == "overhead":
        overhead()
    elif options.what == "parity":
        parity(options.per_task, options.only)
    elif options.what == "transports":
        transports(options.per_task, options.only, options.factor)
    else:
        soak(options.minutes, options.seed)


if __name__ == "__main__":
    main()
