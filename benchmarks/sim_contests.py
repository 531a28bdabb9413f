"""What `sim.py` lets play: for each simulator the tasks, and the peers (`sim_peers.py`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

CHUNK = 5
FREE = "distance = 2.5, azimuth = 132.0, elevation = -14.0, lookat = [1.3, 0.75, 0.55]"
SPATIAL = "pick_up_the_black_bowl_between_the_plate_and_the_ramekin_and_place_it_on_the_plate"


@dataclass(frozen=True)
class Peer:
    """What a package does: `ask` is given to `sim_peers.py`."""

    name: str
    ask: dict[str, Any]


@dataclass(frozen=True)
class Contest:
    """One task, its peers, and how long an episode is (control steps).

    Attributes:
        name: of the simulator.
        task: ``suite/task``; all tasks of the suite in turn if there is no slash.
        cameras: for the pool; empty for the environment's own.
        aloha: actions stay near the pose in which Aloha begins.
    """

    name: str
    task: str
    size: int
    episode: int
    peers: tuple[Peer, ...]
    cameras: tuple[str, ...] = ()
    aloha: bool = False

    @property
    def suite(self) -> str:
        return self.task.split("/")[0]


def contests(part: str, size: int) -> list[Contest]:
    """What a part plays."""
    if part == "tabletop":
        usual = {"env": "tabletop", "args": {"size": size, "stock": True, "chunk": 1}}
        ours = {"env": "tabletop", "args": {"size": size, "stock": False, "chunk": CHUNK}}
        return [
            Contest(part, "demo", size, 60, (
                Peer("AsyncVectorEnv, stock renderer", {**usual, "wrapper": "async"}),
                Peer("LeRobot, stock renderer", {**usual, "wrapper": "lerobot"}),
                Peer("AsyncVectorEnv, our renderer, every 5 steps", {**ours, "wrapper": "async"}),
            ))
        ]  # fmt: skip
    if part == "metaworld":
        args = {"task": "drawer-open-v3", "camera": "topview"}
        usual, theirs = (
            {"env": part, "args": {**args, "size": size}},
            {"env": part, "args": {**args, "size": 480}},
        )
        return [
            Contest(part, "mt10/drawer-open", size, 100, (
                Peer("AsyncVectorEnv over the package", {**usual, "wrapper": "async"}),
                Peer(f"LeRobot, made to draw {size} px", {**usual, "wrapper": "lerobot"}),
                Peer("LeRobot as it comes, 480 px", {**theirs, "wrapper": "lerobot"}),
            ), ("topview",))
        ]  # fmt: skip
    if part == "maniskill":
        return [
            Contest(part, f"cubes/{task}", size, 50, (
                Peer("AsyncVectorEnv over CPUGymWrapper",
                     {"env": part, "wrapper": "async", "args": {"task": f"{task}-v1", "size": size}}),
            ))
            for task in ("PickCube", "PushCube")
        ]  # fmt: skip
    if part in ("robosuite", "libero"):
        cameras = ("agentview", "robot0_eye_in_hand")
        task = ("blocks/lift", "Lift") if part == "robosuite" else (f"libero_spatial/{SPATIAL}",) * 2
        args = {"name": part, "task": task[1], "size": size, "cameras": cameras}
        peer = Peer("the package, a plain loop", {"env": part, "wrapper": "loop", "args": args})
        return [Contest(part, task[0], size, 95, (peer,), cameras)]
    return [gym_contest(*one) for one in GYM]


GYM: tuple[tuple[str, str, int, tuple[str, ...], dict[str, Any], str, str], ...] = (
    ("pusht/push", "top", 96, ("pixels",), {"obs_type": "pixels_agent_pos"},
     "gym_pusht", "gym_pusht/PushT-v0"),
    ("fetch/pick-and-place", FREE, 128, (), {"render_mode": "rgb_array", "width": 128, "height": 128},
     "", ""),
    ("aloha/transfer-cube", "top", 128, ("pixels", "top"), {"obs_type": "pixels_agent_pos"},
     "gym_aloha", "gym_aloha/AlohaTransferCube-v0"),
    ("kitchen/microwave", "front", 128, (),
     {"render_mode": "rgb_array", "width": 128, "height": 128, "tasks_to_complete": ["microwave"]}, "", ""),
)  # fmt: skip


def gym_contest(
    task: str, camera: str, size: int, key: Sequence[str], kwargs: dict[str, Any], package: str, id: str
) -> Contest:
    suite, name = task.split("/")
    args = {"suite": suite, "task": name, "size": size, "key": key, "kwargs": kwargs}
    peers = [Peer("AsyncVectorEnv over the package", {"env": "mapped", "wrapper": "async", "args": args})]
    if package:
        ask = {"env": suite, "wrapper": "lerobot", "package": package, "id": id, "kwargs": kwargs, "args": {}}
        peers.append(Peer("LeRobot as it comes", ask))
    return Contest("gymnasium", task, size, 20, tuple(peers), (camera,), aloha=suite == "aloha")
