"""`regrip node`: stand between a policy and an arm. Looks at everything first, then says ready."""

from __future__ import annotations

import dataclasses
import importlib
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from ..datasets.episode import Observation
from ..datasets.spec import RobotSpec
from ..real_robot import ros_messages
from ..real_robot.core import Core
from ..real_robot.kinematics import Arm
from ..real_robot.messages import (
    Command,
    Frame,
    Joints,
    Policy,
    PolicyError,
    Request,
    Tick,
    Transport,
    TransportError,
)
from ..real_robot.node import Node, settle
from ..real_robot.rows import contents_of_node
from ..real_robot.ui import Page
from ..sim.tabletop.robot import TabletopRobot
from . import environments
from .config import ConfigError, from_dict, parse_options
from .environments import EnvConfig
from .evaluate import eval_starts
from .node_policy import NodePolicy
from .node_recording import Recordings
from .node_sim import SimTransport, drive
from .policies import named, open_policy
from .robot_config import RobotConfig, away_from_home, load_robot, make_core, open_arm

# Module and factory of each transport; imported when asked for, for each needs its own middleware.
TRANSPORTS = {
    "ros1": ("ros1", "Ros1"),
    "rosbridge": ("rosbridge", "RosBridge"),
    "dds": ("dds", "dds_transport"),
    "ros2": ("ros2", "ros2_transport"),
}
_LOOK_S = 1.0  # rates are counted for so long
_PATIENCE_S = 15.0
_WARM_UPS = 5


@dataclass(frozen=True)
class Options:
    """`regrip node`.

    Attributes:
        policy: a policy folder, a run directory, or the name of a policy that ships with regrip.
        transport: how the robot is reached; `sim` is the tabletop arm in this process.
        robot: a robot that ships with regrip, or a TOML file.
        shadow: look and think, but never send: no publisher of commands is made.
        task: the instruction; of `sim`, one of its tasks (`demo/lift_red`), or all if it is empty.
        server: `ws://host:port` of a policy server that answers instead of this process.
        token: for that server, if it asks for one.
        episodes: of `sim`: for each task.
        latency_s: of `sim`: how long the policy takes; 0 lets time stand still meanwhile.
        seconds: end after so long; 0 goes on until Ctrl-C.
        record: a set that every step goes into, in regrip's own format; one that is there grows.
        record_mcap: an MCAP file for all that comes and goes from the first message to the last.
        keep: a set that the last seconds go into, as an episode, whenever a person asks for it: on the page,
            or on the topic `keep`; one that is there grows.
        keep_s: how many seconds.
        explore: names a run: the policy explores, as in training, so that `regrip train --data` can learn
            from what is recorded.
        ui: serve a page on this port of the machine itself; 0 takes a free one, none serves none.
        select: ``world:MODEL``, a folder of `regrip world fit`: of several chunks, execute the one that this
            world likes best.
        candidates: chunks that it chooses from; the greedy one is among them.
        select_by: ``goal`` or ``reflector``, as in `regrip eval`.
    """

    policy: Annotated[str, tyro.conf.Positional]
    transport: Literal["sim", "ros1", "rosbridge", "dds", "ros2"] = "sim"
    robot: str = "tabletop"
    shadow: bool = False
    task: str = ""
    server: str = ""
    token: str = ""
    episodes: int = 2
    latency_s: float = 0.0
    seconds: float = 0.0
    record: Path | None = None
    record_mcap: Path | None = None
    keep: Path | None = None
    keep_s: float = 10.0
    explore: str = ""
    ui: int | None = None
    select: str = ""
    candidates: int = 8
    select_by: Literal["goal", "reflector"] = "goal"

    def __post_init__(self) -> None:
        if self.select and self.server:
            raise ValueError("--select with --server: the policy is over there; give it to regrip serve")
        if self.select and self.explore:
            raise ValueError("--select with --explore: training learns nothing from a chosen chunk")


def main(args: Sequence[str]) -> int:
    """Run `regrip node`.

    Returns:
        0; 1 if preflight did not pass.
    """
    options = parse_options(Options, args, prog="regrip node", description="Drive a robot with a policy.")
    console = Console()
    robot = load_robot(options.robot)
    if options.select and robot.core.schedule.mode == "rtc":  # which answers by no other chunk than its own
        raise ConfigError(f"--select with core.schedule.mode rtc in {options.robot}: take another mode")
    spec, policy, facts, execute = open_thinker(options)
    schedule = robot.core.schedule
    if not schedule.execute and schedule.mode in ("blocking", "receding"):
        schedule = dataclasses.replace(schedule, execute=execute)
        robot = dataclasses.replace(robot, core=dataclasses.replace(robot.core, schedule=schedule))
    arm = open_arm(robot)
    if options.transport == "sim":
        if options.keep is not None:
            raise ConfigError("--keep is for a robot: over sim there is neither a page nor a topic to ask on")
        return _simulated(options, robot, spec, arm, policy, facts, console)
    core = make_core(robot, spec, arm, options.task)
    transport = open_transport(options.transport, robot, spec, arm, shadow=options.shadow)
    rates = Rates()
    recording = start_recording(options, robot, core, policy, facts, console)
    node = Node(core, transport, policy, watchers=(rates, *recording.watchers))
    page = None
    if options.ui is not None:
        page = Page(node, options.ui, spec.name, options.keep_s if options.keep else 0.0)
        node.watch(page)
        recording.listeners.append(page.say)
        console.print(f"page: {page.address}", highlight=False)
    try:
        node.connect()
    except TransportError:
        recording.close()
        raise
    try:
        if not preflight(node, robot, policy, rates, facts, console):
            return 1
        core.configure()
        said = "shadow: nothing will be sent" if options.shadow else f"enable it on {robot.topics.enable}"
        settle()
        console.print(f"[bold]ready[/bold] ({said}); Ctrl-C ends")
        node.run(Told(console), options.seconds or np.inf)
    except KeyboardInterrupt:
        console.print("stopping")
    finally:
        node.close()
        recording.close()
        if page is not None:
            page.close()
    return 0


def start_recording(
    options: Options, robot: RobotConfig, core: Core, policy: Policy, facts: dict[str, str], console: Console
) -> Recordings:
    """Whatever the options ask for.

    Raises:
        DataError: a set is another one, somebody else writes to it, or a file is there already.
    """
    recording = Recordings(console, threaded=options.transport != "sim")
    if options.record or options.record_mcap or options.keep:
        chunk_size = getattr(policy, "chunk_size", 0) or len(policy.answer(blank_request(core.spec)))
        joints = (*robot.joint_names, *((robot.core.gripper_joint,) if robot.core.gripper_joint else ()))
        latent = policy.latent_shapes() if isinstance(policy, NodePolicy) else {}
        contents = contents_of_node(core.spec, joints, core.names, chunk_size, latent)
        recording.open(contents, facts, options.record, options.record_mcap, options.keep, options.keep_s)
    return recording


def blank_request(spec: RobotSpec) -> Request:
    """A black picture, to learn the length of a policy's chunks."""
    images = {c.name: np.zeros((1, c.height, c.width, 3), np.uint8) for c in spec.cameras}
    state = np.zeros((1, spec.state_dim), np.float32)
    nothing = np.zeros((0, spec.action_dim), np.float32)
    return Request(0, 0.0, 0.0, Observation(images, state, [""]), 0, nothing, 0, "")


def open_thinker(options: Options) -> tuple[RobotSpec, Policy, dict[str, str], int]:
    """The policy's contract, who answers, what to say of it, and how many actions of a chunk it executes.

    Raises:
        CheckpointError: there is no such policy.
        PolicyError: the server cannot be reached.
    """
    if not options.server:
        return open_here(options)
    from .serve import contract  # no weights: the server has them

    known = contract(options.policy)
    client: Any = importlib.import_module("regrip.real_robot.serving.client")
    remote: Any = importlib.import_module("regrip.real_robot.serving.remote")
    answers = remote.PolicyClient(client.Client(options.server, token=options.token), known.spec)
    serves = str(answers.client.metadata.get("version", "a policy that does not say its version"))
    return known.spec, answers, {"checkpoint": serves, "server": options.server}, known.execute


def open_here(options: Options) -> tuple[RobotSpec, Policy, dict[str, str], int]:
    """`open_thinker` for a policy in this process.

    Raises:
        CheckpointError: there is no such policy.
        WorldFileError: there is no such learned world.
        ValueError: that world cannot imagine this policy's chunks.
    """
    loaded, published = open_policy(options.policy)
    facts = {"checkpoint": named(options.policy, published)}
    choose = None
    if options.select:
        from .choosing import selecting

        choose = lambda one: selecting(one, options.select, options.candidates, options.select_by)  # noqa: E731
        facts["chooses"] = f"the best of {options.candidates} chunks by {options.select}, {options.select_by}"
    explore = (options.explore,) if options.explore else None
    return loaded.spec, NodePolicy(loaded, explore, choose, facts["checkpoint"]), facts, loaded.execute


def open_transport(
    name: str, robot: RobotConfig, spec: RobotSpec, arm: Arm | None, *, shadow: bool
) -> Transport:
    """A transport by its name; its middleware is imported when it connects.

    Raises:
        TransportError: the robot's topics do not serve the policy.
    """
    module, factory = TRANSPORTS[name]
    make: Any = getattr(importlib.import_module(f"regrip.real_robot.transports.{module}"), factory)
    joints, gripper = robot.joint_names, robot.core.gripper.name if robot.core.gripper else ""
    cameras = [camera.name for camera in spec.cameras]

    def to_twist(command: Command) -> np.ndarray:
        assert arm is not None, "given only with an arm"
        return ros_messages.tool_velocity(arm.pose, command, len(joints))

    twist = None if arm is None else to_twist
    made: Transport = make(robot.topics, cameras, joints, gripper, shadow=shadow, to_twist=twist)
    return made


class Rates:
    """Counts what comes from each source; a watcher of a node."""

    def __init__(self) -> None:
        self.times: dict[str, deque[float]] = {}
        self.names: tuple[str, ...] = ()

    def __call__(self, what: object) -> None:
        if isinstance(what, Frame):
            self._note(what.camera, what.received)
        elif isinstance(what, Joints):
            self.names = what.names
            self._note("joints", what.received)

    def _note(self, source: str, when: float) -> None:
        self.times.setdefault(source, deque(maxlen=500)).append(when)

    def hz(self, source: str) -> float:
        """Of the last messages; NaN for fewer than two."""
        times = list(self.times.get(source, ()))
        return (
            (len(times) - 1) / (times[-1] - times[0]) if len(times) > 1 and times[-1] > times[0] else np.nan
        )


@dataclass(frozen=True)
class Check:
    """One row of the preflight: what, what was found, and whether it will do."""

    what: str
    found: str
    ok: bool


def preflight(
    node: Node, robot: RobotConfig, policy: Policy, rates: Rates, facts: dict[str, str], console: Console
) -> bool:
    """Look at everything that the policy and the arm need, print a table, and say whether it will do."""
    core, transport = node.core, node.transport
    begin = transport.now()
    while True:
        now = transport.now()
        if now - begin >= _LOOK_S and (not core.gate.fault(now) or now - begin >= _PATIENCE_S):
            break
        transport.sleep_until(now + 1.0 / core.rate_hz)
    with node.lock:
        fault = core.gate.fault(transport.now())
        checks = [Check(name, value, True) for name, value in facts.items()]
        checks += look(core, robot, rates, transport.now())
        request = None if fault else core.first_request(transport.now())
    checks.append(Check("observation", fault or "complete", not fault))
    if request is not None:
        checks.append(warm_up(core, policy, request))
    table = Table("preflight", "found", "", title=f"{core.spec.name} over {transport.name}")
    for check in checks:
        table.add_row(check.what, check.found, "ok" if check.ok else "[bold red]NO[/bold red]")
    console.print(table)
    good = all(check.ok for check in checks)
    if not good:
        bad = "; ".join(f"{check.what}: {check.found}" for check in checks if not check.ok)
        console.print(f"[bold red]not ready[/bold red]: {bad}", highlight=False)
    return good


def look(core: Core, robot: RobotConfig, rates: Rates, now: float) -> list[Check]:
    """Cameras, joints, pose, limits and kinematics."""
    checks = []
    for camera in core.spec.cameras:
        hz = rates.hz(camera.name)
        found = "nothing came" if np.isnan(hz) else f"{hz:.0f} Hz, {camera.width}x{camera.height} wanted"
        checks.append(Check(f"camera {camera.name}", found, bool(hz >= core.rate_hz * 0.5)))
    missing = [name for name in robot.joint_names if name not in rates.names]
    hz = rates.hz("joints")
    found = f"{hz:.0f} Hz: {', '.join(rates.names)}" if rates.names else "nothing came"
    found = (
        f"{', '.join(missing)} missing among {', '.join(rates.names)}" if missing and rates.names else found
    )
    checks.append(Check("joints", found, not missing and bool(hz >= core.rate_hz * 0.5)))
    if core.spec.control_mode == "joint_position":
        wanted = [axis.name for axis in core.spec.action][: len(robot.joint_names)]
        same = wanted == list(robot.joint_names)
        checks.append(
            Check("joint order", "as the policy's" if same else f"policy: {', '.join(wanted)}", same)
        )
    limits = ", ".join(f"{j.name} {j.velocity:g}/{j.acceleration:g}/{j.jerk:g}" for j in robot.core.joints)
    checks.append(Check("limits (per s, s2, s3)", limits, True))
    measured = core.gate.measured
    if measured is None:
        return checks
    place = measured[: len(robot.joint_names)]
    far = away_from_home(robot, place)
    checks.append(Check("start pose", far or "at home", not far))
    box = robot.core.workspace
    if core.limiter.tool is not None:
        tool = core.limiter.tool(place)
        inside = box is None or bool(((tool >= box.low) & (tool <= box.high)).all())
        where = ", ".join(f"{value:.3f}" for value in tool)
        checks.append(Check("tool", f"at {where} m{'' if inside else ', outside its workspace'}", inside))
    return checks


def warm_up(core: Core, policy: Policy, request: Request) -> Check:
    """Have the policy answer a few times; what the first costs more is not its latency."""
    period = 1.0 / core.rate_hz
    taken = []
    for _ in range(_WARM_UPS):
        began = time.perf_counter()
        try:
            actions = policy.answer(request)
        except PolicyError as error:
            return Check("policy", str(error), False)
        taken.append(time.perf_counter() - began)
    why = core.mad(actions)
    if why:
        return Check("policy", why, False)
    usual = float(np.median(taken[1:]))
    chunk = len(actions) * period
    found = (
        f"{1e3 * usual:.0f} ms an answer (the first {1e3 * taken[0]:.0f} ms), control period "
        f"{1e3 * period:.0f} ms, a chunk lasts {1e3 * chunk:.0f} ms"
    )
    if usual > min(chunk, core.config.max_inference_s):
        return Check("policy", f"{found}: it would starve", False)
    return Check("policy", found, True)


class Told:
    """Says every change of state, with its reason; `until` of a node's run."""

    def __init__(self, console: Console) -> None:
        self._console, self._last = console, ("", "")

    def __call__(self, tick: Tick) -> bool:
        now = (tick.state, "".join(letter for letter in tick.reason if not letter.isdigit()))
        if now != self._last:
            self._last = now
            self._console.print(f"{tick.state}{': ' if tick.reason else ''}{tick.reason}", highlight=False)
        return False


def _simulated(
    options: Options,
    robot: RobotConfig,
    spec: RobotSpec,
    arm: Arm | None,
    policy: Policy,
    facts: dict[str, str],
    console: Console,
) -> int:
    suite = options.task.split("/")[0] if "/" in options.task else "demo"
    wanted = (options.task,) if options.task else ()
    config = from_dict(EnvConfig, {"name": "tabletop", "suite": suite, "tasks": wanted}, "--task")
    starts = eval_starts(environments.task_names(config), "select", options.episodes)
    world = TabletopRobot(suite, image_size=spec.cameras[0].height)
    spec.require_match(world.spec, f"policy {options.policy}", "the simulated robot")
    make: Callable[[str], Core] = lambda task: make_core(robot, spec, arm, task)  # noqa: E731
    world.reset(starts[0])
    rates = Rates()
    first = Node(
        make(world.instruction), SimTransport(world, shadow=True), policy, in_loop=True, watchers=(rates,)
    )
    first.connect()
    if not preflight(first, robot, policy, rates, facts, console):
        return 1
    settle()
    console.print("[bold]ready[/bold]")
    latency = options.latency_s or None
    core = make(world.instruction)
    recording = start_recording(options, robot, core, policy, facts, console)
    watchers = tuple(recording.watchers)
    driven = drive(make, policy, world, starts, latency_s=latency, shadow=options.shadow, watchers=watchers)
    recording.close()
    console.print(f"{driven.rate} succeeded, {sum(driven.steps)} actions executed", highlight=False)
    counted = ", ".join(f"{name} {count}" for name, count in sorted(driven.counters.items())) or "nothing"
    console.print(f"counted: {counted}", highlight=False)
    world.close()
    return 0
