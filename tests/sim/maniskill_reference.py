"""Plays a ManiSkill episode with nothing of ours; run by `test_maniskill.py` in the worker interpreter.

Reads one JSON object from stdin (task, control_mode, seed, actions in the package's units, camera) and writes
one to stdout: joint positions, tool centre points and successes after each step, poses of all actors at the
end, and what the camera shows then, as base64 of (96,96,3), from the package's own observation.
"""

import base64
import contextlib
import json
import sys

import gymnasium
import mani_skill.envs  # noqa: F401 - registers the tasks
import numpy as np

order = json.load(sys.stdin)
with contextlib.redirect_stdout(sys.stderr):
    env = gymnasium.make(
        f"{order['task']}-v1",
        obs_mode="rgb",
        sim_backend="cpu",
        render_backend="cpu",
        control_mode=order["control_mode"],
        sensor_configs={"width": 96, "height": 96},
    ).unwrapped
    observation, _ = env.reset(seed=order["seed"], options={"reconfigure": True})
    joints, tcps, won = [], [], []
    for action in order["actions"]:
        observation, _, _, _, info = env.step(np.array(action, np.float32))
        joints.append(env.agent.robot.get_qpos()[0].tolist())
        tcps.append(env.agent.tcp.pose.raw_pose[0].tolist())
        won.append(bool(info["success"]))
    picture = observation["sensor_data"][order["camera"]]["rgb"][0].numpy()
    actors = env.scene.state_dict_registry.actors
    poses = {name: actor.pose.raw_pose[0].tolist() for name, actor in actors.items()}
json.dump(
    {
        "joints": joints,
        "tcps": tcps,
        "successes": won,
        "poses": poses,
        "limits": [space.tolist() for space in env.agent.robot.get_qlimits()[0].numpy()],
        "control_hz": env.control_freq,
        "picture": base64.b64encode(np.ascontiguousarray(picture).tobytes()).decode(),
    },
    sys.stdout,
)
