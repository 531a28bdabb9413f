"""How far Genesis is from MuJoCo on the tabletop: paths, experts, policies.

    .venv-genesis/bin/python benchmarks/sim_to_sim.py paths
    .venv-genesis/bin/python benchmarks/sim_to_sim.py experts --episodes 10
    .venv-genesis/bin/python benchmarks/sim_to_sim.py policies demo runs/base-genesis --episodes 30

``paths``: the same start states and the same actions (the expert's, recorded in MuJoCo), without feedback.
``experts``, ``policies``: success in both on the same start states, paired.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

os.environ.setdefault("MUJOCO_GL", "egl")

import numpy as np
import torch
from numpy.typing import NDArray

from regrip.datasets.starts import StartState
from regrip.datasets.statistics import Rate, paired_difference
from regrip.launch import environments
from regrip.launch.compare import difference
from regrip.launch.environments import EnvConfig
from regrip.launch.evaluate import eval_starts, evaluate
from regrip.launch.policies import open_policy
from regrip.sim.genesis.control import BatchedArm
from regrip.sim.genesis.scene import FIDELITIES, Fidelity, GenesisScene
from regrip.sim.tabletop import control
from regrip.sim.tabletop.env import TabletopEnv, draw
from regrip.sim.tabletop.kinematics import ArmKinematics
from regrip.sim.tabletop.mujoco_world import MujocoWorld
from regrip.sim.tabletop.scenes import Scene
from regrip.sim.tabletop.tasks import load, task_names

Array = NDArray[np.float64]
ARM = slice(0, 7)


class StrongScene(Scene):
    """A scene whose motors have no force limit."""

    @property
    def mjcf(self) -> str:
        return re.sub(r'forcerange="[^"]*"', 'forcerange="-10000 10000"', super().mjcf)


def strong(scene: Scene) -> Scene:
    return StrongScene(scene.things, scene.front_camera, scene.assets, scene.table_material)


def expert_actions(starts: Sequence[StartState]) -> list[Array]:
    """What the expert did in MuJoCo, (T,7) for each start."""
    env = TabletopEnv(starts[0].suite, cameras=())
    found = []
    for start in starts:
        env.reset(start)
        expert, actions = env.expert(), []
        while True:
            actions.append(expert.act().astype(np.float64))
            outcome = env.step(actions[-1].astype(np.float32))
            if outcome.success or outcome.truncated:
                break
        found.append(np.array(actions))
    return found


def gentle_actions(starts: Sequence[StartState]) -> list[Array]:
    """Slow straight lines, upwards: no motor comes to its limit and nothing is touched."""
    one = (0.003, -0.002, 0.003, 0.01, 0.0, 0.01, 0.04)
    return [np.tile(one, (40, 1)) for _ in starts]


def mujoco_paths(
    scene: Scene, starts: Sequence[StartState], actions: Sequence[Array]
) -> tuple[list[Array], list[int]]:
    """Joint positions (T,nq) after each control step, and the step of the hand's first contact."""
    suite = load(starts[0].suite)
    world, arm = MujocoWorld(scene, 64), ArmKinematics()
    bodies = ["table", *(prop.name for prop in suite.scene.things)]
    bodies += [f"{name}/cap" for name in bodies if "button" in name]
    paths, contacts = [], []
    for start, sequence in zip(starts, actions, strict=True):
        begin = draw(start, suite, suite.scene, "canonical", "none")
        world.place(begin.arm, control.WIDTH_MAX_M, begin.layout.poses, begin.layout.joints)
        path, contact = [], len(sequence)
        for step, action in enumerate(sequence):
            world.command(control.ee_delta_targets(action, world.arm_joints(), arm), float(action[-1]))
            world.advance()
            path.append(world.data.qpos.copy())
            parts = ("hand", "left_finger", "right_finger")
            if step < contact and any(world.touching(part, body) for part in parts for body in bodies):
                contact = step
        paths.append(np.array(path))
        contacts.append(contact)
    return paths, contacts


def genesis_paths(
    scene: Scene, starts: Sequence[StartState], actions: Sequence[Array], fidelity: Fidelity
) -> list[Array]:
    """The same in Genesis, all starts at once; each hand goes by the joints measured there."""
    suite, count = load(starts[0].suite), len(starts)
    built, arm = GenesisScene(scene, count, fidelity=fidelity), BatchedArm()
    begins = [draw(start, suite, suite.scene, "canonical", "none") for start in starts]
    rows = torch.arange(count)
    arms = np.stack([begin.arm for begin in begins])
    built.place(range(count), arms, control.WIDTH_MAX_M, [begin.layout for begin in begins])
    longest = max(len(sequence) for sequence in actions)
    padded = torch.from_numpy(
        np.stack([np.pad(sequence, ((0, longest - len(sequence)), (0, 0)), "edge") for sequence in actions])
    )
    path = []
    for step in range(longest):
        joints = arm.ee_delta_targets(padded[:, step], built.qpos[:, :7].double())
        built.command(joints, padded[:, step, -1], rows)
        built.advance()
        path.append(built.poses().qpos)
    whole = np.stack(path, 1)
    return [whole[row, : len(sequence)] for row, sequence in enumerate(actions)]


def compare_paths(episodes: int, fidelity: Fidelity) -> None:
    """Print the table of one fidelity; its own process, for Genesis has one precision."""
    starts = [StartState(task, "train", index) for index in range(episodes) for task in task_names("demo")]
    suite = load("demo")
    address = MujocoWorld(suite.scene, 64)._qpos
    gentle = gentle_actions(starts)
    recorded = expert_actions(starts)
    for name, scene, actions in (
        ("gentle, in the air", suite.scene, gentle),
        ("the expert's actions", suite.scene, recorded),
        ("the expert's actions, motors without a limit", strong(suite.scene), recorded),
    ):
        theirs, contacts = mujoco_paths(scene, starts, actions)
        ours = genesis_paths(scene, starts, actions, fidelity)
        apart = [np.abs(a - b) for a, b in zip(ours, theirs, strict=True)]
        air = np.array(
            [d[:contact, ARM].max(initial=0.0) for d, contact in zip(apart, contacts, strict=True)]
        )
        end = np.array([d[-1, ARM].max() for d in apart])
        print(f"{fidelity}, {name}, {len(starts)} starts (median, max)")
        print(f"  arm joints before contact (rad) {np.median(air):.1e} {air.max():.1e}")
        print(f"  arm joints at the end (rad)     {np.median(end):.1e} {end.max():.1e}")
        if name.startswith("gentle"):
            continue
        for verb in ("lift", "push"):
            moved = []
            for start, a, b in zip(starts, ours, theirs, strict=True):
                if start.task_name.startswith(verb):
                    first = address[suite.task(start.task_name).target]
                    quarter = [len(a) // 2 - 1, 3 * len(a) // 4 - 1, len(a) - 1]
                    moved.append(np.linalg.norm((a - b)[quarter, first : first + 3], axis=1))
            mid = 1000 * np.median(moved, axis=0)
            top = 1000 * np.max(moved, axis=0)
            cells = "  ".join(f"{m:.2f} {t:.2f}" for m, t in zip(mid, top, strict=True))
            print(f"  {verb}ed block at 1/2, 3/4 and the end of the episode (mm) {cells}")
    sys.stdout.flush()


def play_experts(config: EnvConfig, starts: Sequence[StartState]) -> list[bool]:
    """Closed loop: whether the expert succeeds at each start, step by step in one pool."""
    success = np.zeros(len(starts), bool)
    with environments.open_pool(config, 1, expert=True) as pool:
        for first in range(0, len(starts), config.slots):
            piece = starts[first : first + config.slots]
            live = list(range(len(piece)))
            pool.reset(live, piece)
            while live:
                result = pool.receive(live)
                success[[first + slot for slot in live]] = result.success
                going = np.flatnonzero(~result.done)
                live = [live[row] for row in going]
                if live:
                    pool.step(live, result.privileged[going, None, -pool.spec.action_dim :])
    return success.tolist()


def compare_experts(suites: Sequence[str], episodes: int) -> None:
    for suite in suites:
        starts = [StartState(task, "train", index) for index in range(episodes) for task in task_names(suite)]
        rates = {}
        for name in ("tabletop", "genesis"):
            config = EnvConfig(name=name, suite=suite, image_size=32, slots=min(len(starts), 100))  # type: ignore[arg-type]
            rates[name] = play_experts(config, starts)
        print(f"experts, {suite}, {episodes} starts of each task")
        for task in task_names(suite):
            rows = [row for row, start in enumerate(starts) if start.task == task]
            each = [Rate(sum(rates[name][row] for row in rows), len(rows)) for name in rates]
            print(f"  {task:32s} MuJoCo {each[0]!s:34s} Genesis {each[1]}")
        each = [Rate(sum(found), len(found)) for found in rates.values()]
        print(f"  {'all':32s} MuJoCo {each[0]!s:34s} Genesis {each[1]}")
        print(f"  Genesis - MuJoCo: {paired_difference(rates['tabletop'], rates['genesis'])}", flush=True)


def compare_policies(policies: Sequence[str], episodes: int, split: str, sampled: bool) -> None:
    torch.set_num_threads(1)
    for name in policies:
        policy, _ = open_policy(name, "cpu")
        outcomes = {}
        for simulator in ("tabletop", "genesis"):
            config = EnvConfig(name=simulator, image_size=policy.spec.cameras[0].height)  # type: ignore[arg-type]
            starts = eval_starts(environments.task_names(config), split, episodes)  # type: ignore[arg-type]
            began = time.monotonic()
            with environments.open_pool(config, policy.chunk_size) as pool:
                played = evaluate(pool, policy, starts, greedy=not sampled)
            outcomes[simulator] = played.outcomes
            print(
                f"{name} in {simulator}: {played.outcomes.rate} ({time.monotonic() - began:.0f} s)",
                flush=True,
            )
        tables = {simulator: found.by_task() for simulator, found in outcomes.items()}
        for task in tables["tabletop"]:
            print(f"  {task:24s} MuJoCo {tables['tabletop'][task]!s:34s} Genesis {tables['genesis'][task]}")
        gap = difference(outcomes["tabletop"], outcomes["genesis"])
        print(f"  the gap, Genesis - MuJoCo, {'sampled' if sampled else 'greedy'}: {gap}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("paths", "experts", "policies"))
    parser.add_argument("policies", nargs="*", default=["demo"], help="names or folders")
    parser.add_argument("--episodes", type=int, default=5, help="start states of each task")
    parser.add_argument("--suite", action="append", help="of the experts; default demo")
    parser.add_argument("--split", default="test", help="of the policies' start states")
    parser.add_argument("--sampled", action="store_true", help="policies act with noise")
    parser.add_argument("--fidelity", choices=FIDELITIES, help="of the paths; both if left out")
    arguments = parser.parse_args()
    if arguments.what == "experts":
        compare_experts(arguments.suite or ["demo"], arguments.episodes)
    elif arguments.what == "policies":
        compare_policies(arguments.policies, arguments.episodes, arguments.split, arguments.sampled)
    elif arguments.fidelity:
        compare_paths(arguments.episodes, arguments.fidelity)
    else:
        for fidelity in FIDELITIES:
            command = [sys.executable, str(Path(__file__)), "paths", "--fidelity", fidelity]
            subprocess.run([*command, "--episodes", str(arguments.episodes)], check=True)


if __name__ == "__main__":
    main()
