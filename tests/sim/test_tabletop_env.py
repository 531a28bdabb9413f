import json
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from regrip.datasets.starts import StartState
from regrip.sim.tabletop.control import ROTATION_MAX_RAD, TRANSLATION_MAX_M, WORKSPACE_LOW, ControlMode
from regrip.sim.tabletop.env import TabletopEnv, make

START = StartState("demo/lift_red", "train", 0)
IDLE = np.array([0, 0, 0, 0, 0, 0, 0.08], dtype=np.float32)


@pytest.fixture(scope="module")
def env() -> TabletopEnv:
    return TabletopEnv("demo", image_size=64)


def episode_bytes(env: TabletopEnv, start: StartState, steps: int = 12) -> bytes:
    """What comes out of an episode of seeded random actions."""
    env.reset(start)
    generator = np.random.default_rng(start.index)
    out = [env.instruction.encode(), env.state().tobytes(), env.privileged().tobytes()]
    for _ in range(steps):
        action = generator.uniform(env.spec.action_low, env.spec.action_high).astype(np.float32)
        out.append(json.dumps(vars(env.step(action))).encode())
        out += [env.state().tobytes(), env.privileged().tobytes()]
    return b"".join(out + [env.render(camera.name).tobytes() for camera in env.spec.cameras])


def test_the_spec_says_what_comes_out(env: TabletopEnv) -> None:
    env.reset(START)
    assert env.state().shape == (env.spec.state_dim,) == (15,)
    assert env.state().dtype == np.float32
    assert env.privileged().shape == (env.privileged_dim,) == (len(env.privileged_names),)
    assert [axis.name for axis in env.spec.action] == ["dx", "dy", "dz", "rx", "ry", "rz", "gripper"]
    for camera in env.spec.cameras:
        frame = env.render(camera.name)
        assert frame.shape == (camera.height, camera.width, 3)
        assert frame.dtype == np.uint8
    assert make(**json.loads('{"suite": "demo", "cameras": ["wrist"], "image_size": 96}')).spec.cameras == (
        type(env.spec.cameras[0])("wrist", 96, 96),
    )


def test_the_state_is_that_of_the_arm(env: TabletopEnv) -> None:
    env.reset(START)
    state = env.state()
    np.testing.assert_array_equal(state[:7], env.world.arm_joints().astype(np.float32))
    np.testing.assert_allclose(state[7], 0.08)
    np.testing.assert_array_equal(state[8:11], env.world.position("tcp").astype(np.float32))
    # Straight down is (0, 1, 0, 0); the start pose is within its jitter.
    np.testing.assert_allclose(state[11:], [0, 1, 0, 0], atol=0.15)


def test_the_picture_shows_the_blocks(env: TabletopEnv) -> None:
    env.reset(START)
    red, green, blue = (env.render("front").astype(int)[..., channel] for channel in range(3))
    for mine, others in ((red, (green, blue)), (green, (red, blue)), (blue, (red, green))):
        assert (mine > 60 + np.maximum(*others)).sum() >= 15, "a block is hardly seen at 64 pixels"


def test_the_same_start_gives_the_same_bytes(env: TabletopEnv) -> None:
    first = episode_bytes(env, START)
    episode_bytes(env, StartState("demo/push_blue", "select", 3))  # what was played before does not matter
    assert episode_bytes(env, START) == first
    fresh = TabletopEnv("demo", image_size=64)
    assert episode_bytes(fresh, START) == first
    fresh.close()


def test_starts_differ(env: TabletopEnv) -> None:
    seen = set()
    for start in (START, StartState(START.task, "train", 1), StartState(START.task, "train", 0, seed=1)):
        env.reset(start)
        seen.add(env.privileged().tobytes())
    assert len(seen) == 3


def test_paraphrases_are_drawn_by_the_start() -> None:
    for kind, expected in (("canonical", 1), ("train", 4), ("heldout", 2)):
        env = TabletopEnv("demo", cameras=(), paraphrase=kind)  # type: ignore[arg-type]
        drawn = []
        for index in range(40):
            env.reset(StartState(START.task, "train", index))
            drawn.append(env.instruction)
        assert len(set(drawn)) == expected
        env.reset(StartState(START.task, "train", 7))
        assert env.instruction == drawn[7]


# Control ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("sign", [-1, 1])
def test_the_arm_travels_what_the_action_says(env: TabletopEnv, axis: int, sign: int) -> None:
    env.reset(START)
    action = IDLE.copy()
    action[axis] = sign * 0.03
    begin = env.world.position("tcp")
    for _ in range(4):
        env.step(action)
    for _ in range(3):
        env.step(IDLE)
    moved = env.world.position("tcp") - begin
    assert abs(moved[axis] - sign * 0.12) < 0.015, moved
    assert np.abs(np.delete(moved, axis)).max() < 0.012, moved


def test_the_arm_turns_what_the_action_says(env: TabletopEnv) -> None:
    env.reset(START)
    action = IDLE.copy()
    action[5] = 0.15
    begin = env.world.position("tcp")
    yaw = []
    for step in range(6):
        env.step(action if step < 4 else IDLE)
        w, x, y, z = env.world.quaternion("tcp")
        yaw.append(np.arctan2(2 * (x * y + w * z), 1 - 2 * (y * y + z * z)))
    assert abs(yaw[-1] - yaw[0] - 0.45) < 0.12
    np.testing.assert_allclose(env.world.position("tcp"), begin, atol=0.01)


def test_the_gripper_goes_where_it_is_told(env: TabletopEnv) -> None:
    env.reset(START)
    for width in (0.03, 0.08, 0.0):
        action = IDLE.copy()
        action[6] = width
        for _ in range(8):
            env.step(action)
        assert abs(env.world.gripper_width() - width) < 0.003


def test_actions_are_clipped_to_the_limits() -> None:
    ends = []
    for scale in (1.0, 50.0):
        env = TabletopEnv("demo", cameras=())
        env.reset(START)
        limit = np.array([TRANSLATION_MAX_M, 0, 0, ROTATION_MAX_RAD, 0, 0, 0.08], dtype=np.float32)
        env.step(limit * scale)
        ends.append(env.state().tobytes())
    assert ends[0] == ends[1]


def test_the_tool_stays_in_its_workspace(env: TabletopEnv) -> None:
    env.reset(START)
    down = np.array([-0.04, 0, -0.04, 0, 0, 0, 0.0], dtype=np.float32)
    for _ in range(40):
        env.step(down)
    assert (env.world.position("tcp") > WORKSPACE_LOW - 0.02).all()


def test_joint_position_mode_reaches_its_targets() -> None:
    env = TabletopEnv("demo", cameras=(), control_mode="joint_position")
    env.reset(START)
    assert env.spec.action_dim == 8
    assert env.spec.control_mode == "joint_position"
    wanted = env.world.arm_joints() + np.array([0.2, -0.1, 0.1, 0.15, -0.1, 0.1, 0.2])
    for _ in range(20):
        env.step(np.append(wanted, 0.04).astype(np.float32))
    np.testing.assert_allclose(env.world.arm_joints(), wanted, atol=5e-3)
    assert abs(env.world.gripper_width() - 0.04) < 2e-3


# Snapshots --------------------------------------------------------------------------------------------------


@settings(max_examples=12, deadline=None)
@given(
    task=st.sampled_from(["goal/red_block_in_drawer", "long/turn_on_stove_open_drawer", "demo/push_green"]),
    mode=st.sampled_from(["ee_delta", "joint_position"]),
    before=st.integers(0, 25),
    after=st.integers(1, 12),
    seed=st.integers(0, 2**16),
    follow_expert=st.booleans(),
)
def test_a_snapshot_goes_on_bit_for_bit_in_a_fresh_environment(
    task: str, mode: ControlMode, before: int, after: int, seed: int, follow_expert: bool
) -> None:
    suite = task.split("/")[0]
    env = TabletopEnv(suite, control_mode=mode, image_size=32)
    fresh = TabletopEnv(suite, control_mode=mode, image_size=32)
    generator = np.random.default_rng(seed)
    env.reset(StartState(task, "train", seed))
    expert = env.expert() if follow_expert and mode == "ee_delta" else None

    def action() -> np.ndarray:
        low, high = env.spec.action_low, env.spec.action_high
        drawn = generator.uniform(low, high).astype(np.float32)
        return drawn if expert is None else expert.act() + drawn * np.float32(0.05)

    over = False
    for _ in range(before):
        if over:
            break
        outcome = env.step(action())
        over = outcome.success or outcome.truncated
    fresh.restore(env.snapshot())
    assert fresh.snapshot() == env.snapshot()
    for _ in range(0 if over else after):
        command = action()
        outcome = env.step(command)
        assert fresh.step(command) == outcome
        assert fresh.state().tobytes() == env.state().tobytes()
        assert fresh.privileged().tobytes() == env.privileged().tobytes()
        if outcome.success or outcome.truncated:
            break
    for camera in ("front", "wrist"):
        assert fresh.render(camera).tobytes() == env.render(camera).tobytes()
    assert (fresh.instruction, fresh.max_steps) == (env.instruction, env.max_steps)
    assert fresh.snapshot() == env.snapshot()
    env.close()
    fresh.close()


def test_a_snapshot_carries_progress_towards_the_goal() -> None:
    env = TabletopEnv("demo", cameras=())
    env.reset(START)
    expert = env.expert()
    outcomes, snapshots = [], []
    for _ in range(env.max_steps):
        action = expert.act()
        snapshots.append((env.snapshot(), action))
        outcomes.append(env.step(action))
        if outcomes[-1].success:
            break
    # One step before success: the condition has held for some of the steps it must.
    snapshot, action = snapshots[-1]
    fresh = TabletopEnv("demo", cameras=())
    fresh.restore(snapshot)
    assert fresh.step(action).success
    fresh.restore(fresh.snapshot())
    with pytest.raises(RuntimeError, match="episode is over"):
        fresh.step(action)


# Mistakes ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"suite": "demmo"}, "did you mean 'demo'"),
        ({"cameras": ["frnt"]}, "did you mean 'front'"),
        ({"cameras": ["front", "front"]}, "give each once"),
        ({"image_size": 4}, "not within 32..512"),
        ({"control_mode": "ee_dleta"}, "did you mean 'ee_delta'"),
        ({"paraphrase": "held"}, "did you mean 'heldout'"),
    ],
)
def test_a_bad_argument_is_named(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**arguments)  # type: ignore[arg-type]


def test_a_bad_call_is_named(env: TabletopEnv) -> None:
    with pytest.raises(ValueError, match="did you mean 'lift_red'"):
        env.reset(StartState("demo/lift_rde", "train", 0))
    with pytest.raises(ValueError, match="use make\\(suite='goal'\\)"):
        env.reset(StartState("goal/open_drawer", "train", 0))
    env.reset(START)
    with pytest.raises(ValueError, match="not 7 finite numbers"):
        env.step(np.zeros(6, dtype=np.float32))
    with pytest.raises(ValueError, match="not 7 finite numbers"):
        env.step(np.full(7, np.nan, dtype=np.float32))
    with pytest.raises(ValueError, match="camera of this environment"):
        env.render("top")
    other = TabletopEnv("demo", cameras=(), control_mode="joint_position")
    with pytest.raises(ValueError, match="same suite, control_mode and perturb"):
        other.restore(env.snapshot())
    with pytest.raises(RuntimeError, match="call reset"):
        other.step(np.zeros(8, dtype=np.float32))


def test_no_opengl_is_explained() -> None:
    script = (
        "from regrip.sim.tabletop.env import make\n"
        "from regrip.datasets.starts import StartState\n"
        "env = make(); env.reset(StartState('demo/lift_red', 'train', 0)); env.render('front')\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", script],
        env={"MUJOCO_GL": "disabled", "PATH": "/usr/bin", "PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode != 0
    assert "apt-get install --no-install-recommends libegl1 libgl1" in run.stderr
    assert "regrip doctor" in run.stderr


def test_workers_start_without_torch() -> None:
    script = "import sys, regrip.sim.tabletop.env; assert 'torch' not in sys.modules"
    subprocess.run(
        [sys.executable, "-c", script],
        env={"PATH": "/usr/bin", "PYTHONPATH": ":".join(sys.path)},
        check=True,
    )


def test_stock_pictures_have_shadows_and_smooth_edges_and_leave_the_fast_ones_as_they_are() -> None:
    start = StartState("demo/lift_red", "train", 0)
    frames, states = {}, {}
    for name in ("fast", "stock", "fast again"):
        env = make("demo", image_size=96, render=name.split()[0])
        env.reset(start)
        frames[name], states[name] = env.render("front"), env.state()
        env.close()
    np.testing.assert_array_equal(frames["fast"], frames["fast again"])
    np.testing.assert_array_equal(states["fast"], states["stock"])
    # The table is one colour where there is no shadow.
    table = frames["fast"][-1, 0].astype(int)
    darker = (frames["stock"].astype(int) < table - 25).all(-1) & (np.abs(frames["fast"] - table).max(-1) < 6)
    assert darker.sum() > 50
    assert len(np.unique(frames["stock"].reshape(-1, 3), axis=0)) > len(
        np.unique(frames["fast"].reshape(-1, 3), axis=0)
    )
    with pytest.raises(ValueError, match="did you mean 'stock'"):
        make("demo", render="stok")


def test_a_process_that_draws_can_learn_afterwards() -> None:
    """Two LLVMs in one process, loaded in the wrong order, end it with a segmentation fault."""
    code = (
        "import torch; from regrip.sim.tabletop.env import TabletopEnv as E; e = E(); "
        "from regrip.datasets.starts import StartState as S; e.reset(S('demo/lift_red', 'train', 0)); "
        "e.render('front'); torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))]); print('alive')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "alive\n", done.stderr[-800:]
