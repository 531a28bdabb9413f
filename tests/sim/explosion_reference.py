"""Breaks the physics of a public simulator's environment; run by `test_explosion.py` in its interpreter.

Reads one JSON object from stdin; the last line of stdout says whether each of four steps was invalid.
"""

import importlib
import json
import os
import sys

import numpy as np

from regrip.datasets.starts import StartState

order = json.loads(sys.stdin.read())
env = importlib.import_module(order["module"]).make(suite=order["suite"], image_size=64)
start = StartState(order["task"], "train", 0)
still = ((env.spec.action_low + env.spec.action_high) / 2).astype(np.float32)


def physics():
    inner = env.host.env.unwrapped if hasattr(env, "host") else env._on_stage().env
    return inner.sim.data._data if hasattr(inner, "sim") else inner.data


found = []
env.reset(start)
found.append(env.step(still).invalid)
physics().qvel[0] = np.nan
found.append(env.step(still).invalid)
env.reset(start)
found.append(env.step(still).invalid)
physics().qvel[0] = 1e6
found.append(env.step(still).invalid)
print(json.dumps(found), flush=True)
os._exit(0)  # skips the teardown of GL drivers
