"""`regrip node` with the arm in this process: preflight, parity of what it sees, shadow, latency."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from regrip.datasets.formats.rosbag2 import open_rosbag2
from regrip.datasets.starts import StartState
from regrip.datasets.store.reader import Store
from regrip.launch.config import ConfigError
from regrip.launch.node import main
from regrip.launch.node_policy import NodePolicy
from regrip.launch.node_sim import SimTransport, drive
from regrip.launch.policies import open_policy
from regrip.launch.robot_config import away_from_home, load_robot, make_core, open_arm
from regrip.launch.serve import contract
from regrip.real_robot.core import Core
from regrip.real_robot.kinematics import Arm, ArmModel
from regrip.real_robot.mcap_recorder import McapRecorder
from regrip.real_robot.messages import Decision, Request
from regrip.real_robot.node import Node
from regrip.real_robot.recorder import Recorder
from regrip.real_robot.rows import contents_of_node
from regrip.real_robot.serving.client import Client
from regrip.real_robot.serving.engine import Engine, EngineConfig
from regrip.real_robot.serving.policies import RandomPolicy
from regrip.real_robot.serving.remote import PolicyClient
from regrip.real_robot.serving.server import ServerConfig, in_background
from regrip.sim.tabletop.robot import ARM, GRIPPER, TabletopRobot
from regrip.sim.tabletop.scenes import HOME_JOINTS, PANDA

STARTS = [StartState("demo/press_purple", "train", index, 0) for index in range(4)]


@pytest.fixture(scope="module")
def policy() -> NodePolicy:
    return NodePolicy(open_policy("demo")[0])


@pytest.fixture(scope="module")
def world() -> TabletopRobot:
    return TabletopRobot("demo")


def new_core(world: TabletopRobot, robot: str = "tabletop") -> Core:
    described = load_robot(robot)
    return make_core(described, world.spec, open_arm(described), world.instruction)


def test_what_the_node_shows_the_policy_is_what_the_environment_shows_it(world: TabletopRobot) -> None:
    world.reset(STARTS[0])
    core, transport = new_core(world), SimTransport(world)
    transport.connect(core)
    seen = core.first_request(transport.now()).observation
    np.testing.assert_allclose(seen.state[0], world._env.state(), atol=1e-6)
    for camera in world.cameras:
        np.testing.assert_array_equal(seen.images[camera][0], world.frame(camera))
    assert seen.instruction == [world.instruction]


@pytest.mark.parametrize("robot", ["tabletop", "panda_limits"])
def test_the_policy_presses_a_button_through_the_node(
    world: TabletopRobot, policy: NodePolicy, robot: str
) -> None:
    described = load_robot(robot)
    arm = open_arm(described)
    driven = drive(lambda task: make_core(described, world.spec, arm, task), policy, world, STARTS)
    assert driven.rate.successes >= 2, driven
    assert "hold" not in driven.counters


def test_in_shadow_the_arm_does_not_move(world: TabletopRobot, policy: NodePolicy) -> None:
    world.reset(STARTS[0])
    before = world.joints()[1].copy()
    core = new_core(world)
    node = Node(core, SimTransport(world, shadow=True), policy, in_loop=True)
    node.connect()
    core.configure()
    for _ in range(3):  # the arm is seen to stand
        node.step()
    core.on_enable(True, world.time)
    ticks = [node.step() for _ in range(10)]
    assert all(tick.command is not None for tick in ticks[:2])
    np.testing.assert_allclose(world.joints()[1], before, atol=2e-3)  # it hangs by its own weight


def test_a_slow_policy_is_waited_for_in_simulated_time(world: TabletopRobot, policy: NodePolicy) -> None:
    core = new_core(world)
    driven = drive(lambda task: core, policy, world, STARTS[:1], latency_s=0.1)
    assert set(np.round(core.schedule.latencies, 6)) == {0.1}
    assert driven.counters["starved"] > 0  # receding waits for it after each chunk


def test_the_command_looks_at_everything_then_says_ready(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--task", "demo/press_purple", "--episodes", "1"]) == 0
    said = capsys.readouterr().out
    for word in (
        "checkpoint",
        "camera front",
        "camera wrist",
        "joints",
        "limits",
        "start pose",
        "policy",
        "ready",
    ):
        assert word in said
    assert "succeeded" in said


def test_preflight_refuses_an_arm_that_is_not_at_home(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import regrip.launch.config as config

    text = (config.PRESETS / "robot" / "tabletop.toml").read_text()
    line = next(line for line in text.splitlines() if line.startswith("home"))
    path = tmp_path / "robot.toml"
    path.write_text(
        text.replace(line, "home = [1.0, 0, 0, -1.5, 0, 1.5, 0]").replace('"panda"', f'"{PANDA}"')
    )
    assert main(["demo", "--task", "demo/press_purple", "--robot", str(path), "--episodes", "1"]) == 1
    said = capsys.readouterr().out
    assert "not ready: start pose: joint1 at" in " ".join(said.split())


def test_a_robot_file_that_makes_no_sense_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "robot.toml"
    path.write_text(
        '[core]\njoints = [{name = "a", low = 0, high = 1, velocity = 0, acceleration = 1, jerk = 1}]\n'
    )
    with pytest.raises(ConfigError, match=r"core.joints\[0\].*velocity is 0"):
        load_robot(str(path))
    with pytest.raises(ConfigError, match="did you mean 'tabletop'"):
        load_robot("tabletpo")
    assert away_from_home(load_robot("tabletop"), np.array(HOME_JOINTS)) == ""


def test_inverse_kinematics_does_what_the_action_says_and_never_whirls() -> None:
    arm = Arm(ArmModel(PANDA, ARM, "tcp", (), HOME_JOINTS))
    generator, missed = np.random.default_rng(0), []
    for _ in range(60):
        joints = np.clip(np.array(HOME_JOINTS) + generator.normal(0, 0.3, 7), arm.low + 0.05, arm.high - 0.05)
        delta = np.concatenate([generator.uniform(-0.04, 0.04, 3), generator.uniform(-0.1, 0.1, 3)])
        target = arm.ee_delta(delta, joints)
        assert np.abs(target - joints).max() <= Arm.MAX_STEP + 1e-9
        missed.append(np.linalg.norm(arm.tool(target) - arm.tool(joints) - delta[:3]))
    assert np.median(missed) < 1e-3
    # stretched out as far as it goes, and told to go on: it stays, in small steps
    stretched = np.array([0, 1.2, 0, -0.08, 0, 1.6, 0.8])
    for _ in range(20):
        target = arm.ee_delta(np.array([0.04, 0, 0, 0, 0, 0]), stretched)
        assert np.isfinite(target).all()
        assert np.abs(target - stretched).max() <= Arm.MAX_STEP + 1e-9
        stretched = target
    assert (stretched >= arm.low - 1e-6).all()
    assert (stretched <= arm.high + 1e-6).all()


def test_goals_glide_along_the_box() -> None:
    arm = Arm(ArmModel(PANDA, ARM, "tcp", (), HOME_JOINTS))
    home = np.array(HOME_JOINTS)
    at = arm.tool(home)
    box = (at - 0.01, at + 0.01)
    moved = arm.tool(arm.ee_delta(np.array([0.04, 0.008, 0, 0, 0, 0]), home, box)) - at
    np.testing.assert_allclose(moved, [0.01, 0.008, 0], atol=1.5e-3)


def test_a_policy_that_raises_holds_the_arm_and_is_quoted(world: TabletopRobot) -> None:
    class Mad:
        def answer(self, request: Request) -> np.ndarray:
            raise TypeError("no such thing")

    world.reset(STARTS[0])
    core = new_core(world)
    node = Node(core, SimTransport(world), Mad(), in_loop=True)
    node.connect()
    core.configure()
    for _ in range(3):  # the arm is seen to stand
        node.step()
    core.on_enable(True, world.time)
    tick = [node.step() for _ in range(5)][-1]
    assert tick.command is None
    assert "TypeError: no such thing" in tick.reason


def test_a_node_goes_on_over_a_swap_at_its_server_and_its_recording_says_so(
    world: TabletopRobot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The node, a real server and a real client; the second checkpoint comes while the first episode runs."""
    monkeypatch.setattr(TabletopRobot, "max_steps", 30)
    schemas = [replace(contract("demo"), digest=digest) for digest in ("0123abcd", "4567cdef")]
    old, new = (RandomPolicy(schema, share=0.2) for schema in schemas)
    for one, schema in ((old, schemas[0]), (new, schemas[1])):
        one.schema = replace(one.schema, digest=schema.digest)
    described = load_robot("tabletop")
    arm, engine = open_arm(described), Engine(old, EngineConfig(2))
    asked: list[str] = []

    def watch(what: object) -> None:
        if isinstance(what, Decision):
            asked.append(what.reply.version)
            assert not what.reply.error
            if len(asked) == 3:
                engine.swap(new)

    with in_background(engine, ServerConfig(port=0)) as server:
        client = Client(f"ws://127.0.0.1:{server.port}", timeout_s=30)
        policy = PolicyClient(client, world.spec)
        joints = (*ARM, GRIPPER)
        contents = contents_of_node(world.spec, joints, new_core(world).names, schemas[0].horizon, {})
        recorder = Recorder(tmp_path / "set", contents, {"checkpoint": "as at the start"}, threaded=False)
        mcap = McapRecorder(tmp_path / "all.mcap", contents, {}, threaded=False)
        make = lambda task: make_core(described, world.spec, arm, task)  # noqa: E731
        drive(make, policy, world, STARTS[:3], watchers=(recorder, mcap, watch))
        client.close()
    recorder.close()
    mcap.close()
    assert not recorder.problems + mcap.problems
    with contextlib.closing(Store(tmp_path / "set")) as store:
        said = [store[i].about["checkpoint"] for i in range(len(store))]
    assert said == ["random@0123abcd", "random@4567cdef", "random@4567cdef"]
    assert asked[3] == "random@0123abcd"  # an episode is one policy's
    heard = list(open_rosbag2(tmp_path / "all.mcap")[0].streams["checkpoint"].rows)
    assert heard == ["random@0123abcd", "random@4567cdef"]
