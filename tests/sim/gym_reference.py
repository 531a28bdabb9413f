"""Plays a Gymnasium episode with nothing of ours; run by `test_gym_packages.py` in the worker interpreter.

Reads one JSON object from stdin (modules, id, kwargs, seed, actions in the environment's units, steps after
which to draw) and writes one to stdout: all observations that are not pictures, successes, terminations, and
the last picture: the environment's own rendering, or its observation ``pixels``, as base64 with its shape.
"""

import base64
import contextlib
import importlib
import json
import sys

import gymnasium
import numpy as np

order = json.load(sys.stdin)
with contextlib.redirect_stdout(sys.stderr):
    for module in order["modules"]:
        importlib.import_module(module)
    env = gymnasium.make(order["id"], max_episode_steps=-1, **order["kwargs"])
    observation, info = env.reset(seed=order["seed"])
    seen, won, ended = [observation], [], []
    for number, action in enumerate(order["actions"]):
        observation, _, terminated, _, info = env.step(np.array(action, env.action_space.dtype))
        seen.append(observation)
        won.append(bool(info.get("is_success", False)))
        ended.append(bool(terminated))
        if number in order["draw"]:
            env.render()
    picture = np.zeros((1, 1, 3), np.uint8)
    if order["picture"] == "render":
        picture = env.render()
    elif order["picture"] == "pixels":
        picture = observation if isinstance(observation, np.ndarray) else observation["pixels"]
        picture = picture["top"] if isinstance(picture, dict) else picture


def plain(value):
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items() if key != "pixels"}
    return value.tolist() if value.ndim < 3 else None


json.dump(
    {
        "observations": [plain(one) for one in seen],
        "successes": won,
        "terminations": ended,
        "shape": picture.shape,
        "picture": base64.b64encode(np.ascontiguousarray(picture).tobytes()).decode(),
    },
    sys.stdout,
)
