"""Plays a Meta-World episode with nothing of ours; run by `test_metaworld.py` in the worker interpreter.

Reads one JSON object from stdin (task, layout, actions in [-1, 1], camera) and writes one to stdout: the
package's observations, its successes, and what its own `render` shows at the end, as base64 of (480,480,3).
"""

import base64
import contextlib
import json
import sys

import numpy as np
from metaworld.env_dict import ALL_V3_ENVIRONMENTS
from metaworld.policies import ENV_POLICY_MAP

order = json.load(sys.stdin)
name = f"{order['task']}-v3"
with contextlib.redirect_stdout(sys.stderr):
    env = ALL_V3_ENVIRONMENTS[name](render_mode="rgb_array", camera_name=order["camera"])
    env._partially_observable = False
    vars(env).pop("sawyer_observation_space", None)
    env._set_task_called = True
    env._freeze_rand_vec, env._last_rand_vec = True, np.array(order["layout"])
    observation, _ = env.reset()
    advice = np.clip(ENV_POLICY_MAP[name]().get_action(observation.copy()), -1, 1)
    seen, won = [], []
    for action in order["actions"]:
        observation, _, _, _, info = env.step(np.array(action, np.float32))
        seen.append(observation.tolist())
        won.append(bool(info["success"]))
    picture = np.ascontiguousarray(env.render())
json.dump(
    {
        "advice": advice.tolist(),
        "observations": seen,
        "successes": won,
        "picture": base64.b64encode(picture.tobytes()).decode(),
    },
    sys.stdout,
)
