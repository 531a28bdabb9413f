"""Meets perturbed environments of a public simulator; run by `test_perturb_public.py` in its interpreter.

Reads one JSON object from stdin and writes one as the last line of stdout.
"""

import importlib
import json
import os
import sys

import numpy as np

from regrip.datasets.starts import StartState
from regrip.sim import perturb

order = json.loads(sys.stdin.read())
factory = importlib.import_module(order["module"]).make
starts = [StartState(order["task"], "train", index) for index in range(2)]
kwargs = {"suite": order["suite"], "image_size": 64}
plain = factory(**kwargs)
camera = plain.spec.cameras[0].name


def first_picture(env, start):
    env.reset(start)
    return env.render(camera)


def motions(number):
    low, high = plain.spec.action_low, plain.spec.action_high
    draw = np.random.default_rng(number)
    return [(low + draw.uniform(0.4, 0.6, low.shape) * (high - low)).astype(np.float32) for _ in range(4)]


def difference(first, second):
    return float(np.abs(first.astype(int) - second).mean())


found = {}
for kind in perturb.of_simulator(order["simulator"], order["suite"]).known:
    env = factory(**kwargs, perturb=kind)
    before, after = first_picture(plain, starts[0]), first_picture(env, starts[0])
    aside = float(np.abs(env.state() - plain.state()).max())
    begun = env.privileged(), plain.privileged()
    again = first_picture(env, starts[0])
    other = difference(first_picture(env, starts[1]), first_picture(plain, starts[1]))
    env.reset(starts[0])
    plain.reset(starts[0])
    for action in motions(0):
        outcomes = env.step(action), plain.step(action)
        env.render(camera)
    late = env.render(camera)
    states = [np.concatenate([one.state(), one.privileged()]) for one in (env, plain)]
    saved = env.snapshot()
    second = factory(**kwargs, perturb=kind)
    second.reset(starts[1])
    second.restore(saved)
    try:
        plain.restore(saved)
        refused = ""
    except ValueError as error:
        refused = str(error)
    env.reset(starts[1])
    found[kind] = {
        "changed": difference(before, after),
        "other_start": other,
        "aside": aside,
        "repeats": bool((again == after).all()),
        "moved": float(np.abs(begun[0] - begun[1]).max()),
        "same_states": bool(outcomes[0] == outcomes[1] and (states[0] == states[1]).all()),
        "snapshot": bool((second.render(camera) == late).all()),
        "plain_untouched": bool((first_picture(plain, starts[0]) == before).all()),
        "refused": refused,
    }
    for one in (env, second):
        one.close()
print(json.dumps(found), flush=True)
os._exit(0)  # skips the teardown of GL drivers
