"""Plays a robosuite episode by the package alone; run by `test_robosuite.py` in the worker interpreter.

Reads one JSON object from stdin (start, names, actions in [-1, 1], camera) and writes one as the last line.
"""

import base64
import json
import os
import sys

import numpy as np
import robosuite

from regrip.datasets.starts import StartState

order = json.loads(sys.stdin.read())
start = StartState(*order["start"])
env = robosuite.make(
    order["package_name"],
    robots="Panda",
    has_renderer=False,
    has_offscreen_renderer=bool(order["camera"]),
    use_camera_obs=bool(order["camera"]),
    camera_names=order["camera"] or "agentview",
    camera_heights=order["size"],
    camera_widths=order["size"],
    renderer="mujoco",
    control_freq=20,
    hard_reset=False,
    seed=0,
)
env.rng.bit_generator.state = np.random.PCG64(int(start.generator("reset").integers(2**63))).state
env.reset()
model, data = env.sim.model, env.sim.data
body = model.body_name2id(order["moving_body"])
joint = model.body_jntadr[body]
where, index = (data.qpos, model.jnt_qposadr[joint]) if joint >= 0 else (model.body_pos[body], 0)
x = float(where[index])
where[index] = start.lattice(start.generator("lattice"), x - 4e-4, x + 4e-4)
env.sim.forward()
controller = env.robots[0].composite_controller.part_controllers["right"]
answer = {
    "control_freq": env.control_freq,
    "step_s": 0.0,
    "output_max": controller.output_max.tolist(),
    "input": [controller.input_type, controller.input_ref_frame],
    "hand": [],
    "fingers": [],
    "success": [],
}
began = data.time
for action in order["actions"]:
    seen, _, _, _ = env.step(np.array(action))
    answer["hand"].append(seen["robot0_eef_pos"].tolist())
    answer["fingers"].append(seen["robot0_gripper_qpos"].tolist() or [0.0, 0.0])  # Wipe's tool has none
    answer["success"].append(bool(env._check_success()))
answer["step_s"] = (data.time - began) / len(order["actions"])
answer["body"] = data.body_xpos[body].tolist()
if order["camera"]:
    answer["picture"] = base64.b64encode(seen[f"{order['camera']}_image"].tobytes()).decode()
print(json.dumps(answer), flush=True)
os._exit(0)  # skips the teardown of GL drivers
