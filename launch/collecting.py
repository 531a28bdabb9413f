"""The human-in-the-loop protocol on the simulated robot, where the scripted expert is the person."""

from __future__ import annotations

# First, for it says which OpenGL MuJoCo takes, and `kinematics` imports MuJoCo.
from ..sim.tabletop.robot import ARM, GRIPPER, TabletopRobot

# isort: split
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..datasets.starts import StartState, refuse_test
from ..real_robot.collecting import Collector
from ..real_robot.core import Core, CoreConfig
from ..real_robot.gate import GateConfig
from ..real_robot.grades import Played, Scene
from ..real_robot.gripper import GripperConfig
from ..real_robot.kinematics import Arm, ArmModel, StateOf, ToJoints
from ..real_robot.limits import JointLimits
from ..real_robot.messages import Events, Joints, Tick
from ..real_robot.node import Node
from ..real_robot.recorder import Recorder, RecorderConfig
from ..real_robot.rows import contents_of_node
from ..real_robot.schedule import ScheduleConfig
from ..sim.tabletop.scenes import HOME_JOINTS, PANDA
from ..vla.pi0 import Pi0Policy
from . import train
from .config import load_config
from .experiment import TrainConfig
from .node_policy import NodePolicy
from .node_sim import SimTransport
from .policies import named
from .run_directory import RunDirectory

# Between two episodes the arm is put elsewhere; no arm moves there in one step, and the gate would say so.
_PAUSE_TICKS = 30


def arm_of_simulation() -> Arm:
    """Kinematics of the tabletop arm."""
    return Arm(ArmModel(PANDA, ARM, "tcp", (), HOME_JOINTS))


def core_of_simulation(policy: Pi0Policy, arm: Arm) -> Core:
    """A core for the tabletop arm and a policy; the simulator's pictures stand still when nothing moves."""
    limits = tuple(
        JointLimits(name, float(low), float(high), 4.0, 60.0, 6000.0)
        for name, low, high in zip(ARM, arm.low, arm.high, strict=True)
    )
    config = CoreConfig(
        limits,
        GripperConfig(GRIPPER, 0.08, 0.0),
        GRIPPER,
        schedule=ScheduleConfig("receding", execute=policy.execute),
        gate=GateConfig(max_frozen_s=0),
        max_start_jump=1.0,
    )
    to_joints = ToJoints(policy.spec, arm, len(ARM))
    state = StateOf(policy.spec, ARM, (GRIPPER,), arm)
    return Core(config, policy.spec, to_joints, state, arm.tool, to_action=to_joints.inverse)


class Person:
    """The scripted expert, at a leader arm: drives whenever the node is in a person's hands.

    Args:
        robot: that it watches.
        arm: its kinematics.
        names: of the joints in commands.
    """

    def __init__(self, robot: TabletopRobot, arm: Arm, names: tuple[str, ...]) -> None:
        self._robot, self._arm, self._names = robot, arm, names
        self.let_go()

    def let_go(self) -> None:
        """Hands off; what was meant is forgotten."""
        self._expert: Any = None
        self._begin: NDArray[np.float64] | None = None
        self._offset: NDArray[np.float64] | None = None

    def drive(self, tick: Tick, events: Events) -> None:
        """After every tick in which the person drives."""
        _, joints, _ = self._robot.joints()
        arm = joints[: len(ARM)]
        if self._begin is None:  # takes hold of the leader, where the arm is
            self._begin, self._expert = arm.copy(), self._robot.expert()
            events.on_human(Joints(tick.now, tick.now, (*ARM, GRIPPER), joints.copy()))
            return
        if self._offset is None and tick.sent is not None:
            self._offset = tick.sent[: len(ARM)] - self._begin
        offset = 0.0 if self._offset is None else self._offset
        action = self._expert.act()
        wanted = self._arm.ee_delta(action[:6].astype(np.float64), arm) - offset
        events.on_human(Joints(tick.now, tick.now, (*ARM, GRIPPER), np.append(wanted, float(action[6]))))


class SimulatedRoom:
    """The simulated arm, a node that drives it, a recorder, and somebody beside it.

    Args:
        policy: explores.
        out: the set that is recorded; None records nothing.
        explore: names the run, see `NodePolicy`; None is greedy.
        about: said of every episode.
        version: of the policy, said of every episode until it is swapped for another.
    """

    def __init__(
        self,
        policy: Pi0Policy,
        out: Path | None,
        explore: tuple[str | int, ...] | None,
        about: Mapping[str, Any] | None = None,
        version: str = "",
    ) -> None:
        self.robot, self.arm = TabletopRobot(), arm_of_simulation()
        self.policy = NodePolicy(policy, explore, version=version)
        self.core = core_of_simulation(policy, self.arm)
        self.recorder = None
        if out is not None:
            contents = contents_of_node(
                policy.spec, (*ARM, GRIPPER), self.core.names, policy.chunk_size, self.policy.latent_shapes()
            )
            self.recorder = Recorder(out, contents, about or {}, RecorderConfig(before_s=0.0), threaded=False)
        self.person = Person(self.robot, self.arm, self.core.names)
        self._watcher: Callable[[object], None] = lambda what: None
        watchers = (self._watch,) if self.recorder is None else (self.recorder, self._watch)
        self._transport = SimTransport(self.robot)
        self.node = Node(self.core, self._transport, self.policy, in_loop=True, watchers=watchers)
        self.node.connect()
        self.core.configure()

    def _watch(self, what: object) -> None:
        self._watcher(what)

    def lay_out(self, start: StartState) -> None:
        """Arm and scene where an episode begins."""
        self.robot.reset(start)
        self.person.let_go()
        self.robot.advance(_PAUSE_TICKS)
        for _ in range(4):  # the first after a pause is late; by the last the arm is seen to stand elsewhere
            self.node.step()

    def collect(self, collector: Collector, starts: Mapping[str, StartState], episodes: int) -> list[Played]:
        """Play episodes by the protocol.

        Args:
            collector: plans and drives.
            starts: `Scene.place` to the start state, of the train split.
            episodes: how many.

        Raises:
            ValueError: a start state is of the test split.
        """
        refuse_test(list(starts.values()), "collecting on a robot")
        self._watcher = collector
        for _ in range(episodes):
            plan = collector.next()
            self.lay_out(starts[plan.scene.place])
            collector.begin(plan, self.node.events, self._transport.now())
            while not collector.at_rest:
                self._mind(self.node.step(), collector)
        self._watcher = lambda what: None
        return collector.played[-episodes:]

    def _mind(self, tick: Tick, collector: Collector) -> None:
        """What the person does after a tick: drive, or say how it ended."""
        if not collector.running:
            return
        if self.robot.invalid:
            self.node.events.on_enable(False, tick.now)
        elif self.robot.success:
            self.node.events.on_outcome(True, tick.now)
        elif not collector.wants_person:
            self.person.let_go()
        elif self.core.state == "human":
            self.person.drive(tick, self.node.events)

    def play(self, starts: Sequence[StartState]) -> list[bool]:
        """Every start once, by the policy alone; whether it succeeded."""
        won = []
        for start in starts:
            self.lay_out(start)
            now = self._transport.now()
            self.node.events.on_task(self.robot.instruction, now)
            self.node.events.on_enable(True, now)
            limit = self.robot.max_steps / self.core.rate_hz
            self.node.run(lambda tick: self.robot.success or self.robot.invalid, seconds=limit)
            won.append(bool(self.robot.success))
            self.node.events.on_outcome(won[-1], self._transport.now())
            self.node.run(lambda tick: tick.command is None, seconds=3.0)
        return won

    def close(self) -> None:
        """Let go of arm and set."""
        self.node.close()
        if self.recorder is not None:
            self.recorder.close()
        self.robot.close()


def scenes_of(
    robot: TabletopRobot, starts: Sequence[StartState]
) -> tuple[list[Scene], dict[str, StartState]]:
    """Start states as scenes for `Choice`, and which is which."""
    scenes, found = [], {}
    for start in starts:
        robot.reset(start)
        place = f"{start.task} {start.split} {start.index} {start.seed}"
        scenes.append(Scene(robot.instruction, place))
        found[place] = start
    return scenes, found


def learner(
    room: SimulatedRoom, data: Path, runs: Path, options: Sequence[str] = ("learning",)
) -> Callable[[int], None]:
    """For `Collector`: `regrip train --data` on all that was recorded so far, then the policy is swapped.

    Args:
        room: whose policy is swapped, while its arm rests.
        data: the set that it records.
        runs: run directories are written under this, named by the number of judged episodes.
        options: of `regrip train`, beginning with the preset; it begins from the preset's policy each time.
    """

    def learn(judged: int) -> None:
        out = runs / f"after-{judged:05d}"
        status = train.main([*options, "--data", str(data), "--out", str(out)])
        if status:
            raise RuntimeError(f"regrip train ended with status {status}; go on with --resume {out}")
        config = load_config(TrainConfig, RunDirectory(out).config)
        policy, published = train.open_as_practised(config, str(out))
        room.policy.swap(policy, named(str(out), published))

    return learn
