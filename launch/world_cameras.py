"""`regrip world cameras`: where a tabletop suite's cameras are, as `regrip world fit` reads it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

import mujoco
import tyro

from ..sim.tabletop.env import CAMERAS, TabletopEnv
from ..sim.tabletop.tasks import suites
from ..sim.world.cameras import Cameras, View
from .config import parse_options


@dataclass(frozen=True)
class Options:
    """`regrip world cameras`.

    Attributes:
        suite: of the tabletop, whose calibration is printed; that of a real robot you write in the same form.
    """

    suite: tyro.conf.Positional[str] = "demo"


def calibration(suite: str) -> Cameras:
    """Where the cameras of a tabletop suite are, and how they look.

    Raises:
        ValueError: there is no such suite, or the name is of several with cameras of their own.
    """
    if len(names := suites(suite)) > 1:
        raise ValueError(
            f"{suite!r} is several suites, each with its cameras: name one of {', '.join(names)}"
        )
    env = TabletopEnv(suite)
    model = mujoco.MjModel.from_xml_string(env.world.scene.mjcf)
    env.close()
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    hand = data.body("tcp")
    views = []
    for name in CAMERAS:
        camera, fov = data.cam(name), float(model.cam(name).fovy[0])
        turn, place = camera.xmat.reshape(3, 3), camera.xpos
        carried = int(model.cam(name).bodyid[0]) != 0
        if carried:
            base = hand.xmat.reshape(3, 3)
            turn, place = base.T @ turn, base.T @ (place - hand.xpos)
        x, y, z = (round(float(value), 6) for value in place)
        rows = tuple((float(a), float(b), float(c)) for a, b, c in turn.round(6))
        views.append(View(name, "hand" if carried else "base", fov, (x, y, z), rows))
    return Cameras(tuple(views), ("tcp_x", "tcp_y", "tcp_z"), ("tcp_qw", "tcp_qx", "tcp_qy", "tcp_qz"))


def main(args: Sequence[str]) -> int:
    options = parse_options(
        Options,
        args,
        prog="regrip world cameras",
        description="Print where the cameras of a tabletop suite are, as JSON: an example of what "
        "`regrip world fit --kind views --cameras FILE` reads.",
    )
    print(json.dumps(calibration(options.suite).to_json(), indent=1))
    return 0
