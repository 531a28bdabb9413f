"""Plays a LIBERO episode by the package alone; run by `test_libero.py` in the worker interpreter.

Reads one JSON object from stdin and writes one as the last line of stdout. With ``table`` it lists the
package's tasks, with ``start`` it plays a stored start as evaluations do: reset, stored state, idle steps.
"""

import ast
import base64
import json
import os
import pickle
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np

order = json.loads(sys.stdin.read())
with tempfile.TemporaryDirectory() as folder:
    os.environ["LIBERO_CONFIG_PATH"] = folder
    Path(folder, "config.yaml").write_text("{}")
    from libero import libero
package = Path(libero.__file__).parent


def stored(task):
    """The package's own file, unpickled: it is the package's."""
    with zipfile.ZipFile(package / "init_files" / f"{task}.pruned_init") as archive:
        return pickle.loads(archive.read("archive/data.pkl"))


def table():
    source = (package / "benchmark/libero_suite_task_map.py").read_text()
    suites = ast.literal_eval(source[source.index("{") :])
    from libero.libero.envs import bddl_utils

    found = {}
    for suite, names in suites.items():
        files = [str(package / "bddl_files" / suite / f"{name}.bddl") for name in names]
        wordings = [bddl_utils.get_problem_info(file)["language_instruction"].lower() for file in files]
        starts = [stored(f"{suite}/{name}") for name in names]
        problems = [bddl_utils.robosuite_parse_problem(file) for file in files]
        counts = [sum(map(len, problem["objects"].values())) for problem in problems]
        found[suite] = {
            "names": names,
            "wordings": wordings,
            "shapes": [list(array.shape) for array in starts],
            # Time, nine joints of the robot, then position and quaternion of each object.
            "x": [array[:, 10 : 10 + 7 * n : 7].tolist() for array, n in zip(starts, counts, strict=True)],
            "sums": [float(array.sum()) for array in starts],
        }
    return found


def play():
    libero._assets_path_cache = os.environ["REGRIP_LIBERO_ASSETS"]
    from libero.libero.envs import OffScreenRenderEnv
    from robosuite.utils import transform_utils

    from regrip.datasets.starts import StartState

    start = StartState(*order["start"])
    env = OffScreenRenderEnv(
        bddl_file_name=str(package / "bddl_files" / f"{start.task}.bddl"),
        camera_names=["agentview", "robot0_eye_in_hand"] if order["size"] else ["agentview"],
        camera_heights=order["size"] or 16,
        camera_widths=order["size"] or 16,
    )
    np.random.seed(start.generator("reset").integers(2**32, size=4))
    env.reset()
    env.set_init_state(stored(start.task)[start.index])
    # Loading a state makes the package's sampling clock fast by 2 ms, so that what it shows is 2 ms old.
    for observable in env.env._observables.values():
        observable._time_since_last_sample -= env.env.model_timestep
    for _ in range(10):
        seen, _, _, _ = env.step([0.0] * 6 + [-1.0])
    simulation, controller = env.env.sim, env.env.robots[0].controller
    answer = {
        "language": env.language_instruction,
        "control_freq": env.env.control_freq,
        "output_max": controller.output_max.tolist(),
        "states": [],
        "done": [],
    }
    began = simulation.data.time
    for action in [None, *order["actions"]]:
        if action is not None:
            seen, _, done, _ = env.step(action)
            answer["done"].append(bool(done))
        rotation = transform_utils.quat2axisangle(seen["robot0_eef_quat"].copy())
        parts = [seen["robot0_eef_pos"], rotation, seen["robot0_gripper_qpos"]]
        answer["states"].append(np.concatenate(parts).tolist())
    answer["step_s"] = (simulation.data.time - began) / len(order["actions"])
    if order["size"]:
        answer["pictures"] = {
            name: base64.b64encode(seen[f"{name}_image"].tobytes()).decode()
            for name in ("agentview", "robot0_eye_in_hand")
        }
    return answer


print(json.dumps(table() if order.get("table") else play()), flush=True)
os._exit(0)  # skips the teardown of GL drivers
