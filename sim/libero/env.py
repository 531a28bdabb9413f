"""LIBERO (hf-libero 0.1.4) as an environment of ours: one episode at a time, as `sim.env.Env` promises.

What the package does is left as it is: scenes, placement, controller, success. Ours is only the way in:

* `test` starts are the 50 that the package stores for each task. `train` and `select` starts are drawn by the
  package's own placement sampler; the x of every object is moved by less than a millimetre to the lattice
  of the split. All begin with ten idle steps, in which things come to rest; they do not count.
* Pictures are the raw frames turned by 180 degrees, as policies trained on LIBERO's data get them. Raw frames
  have their bottom row first, so what comes out is the right way up, with left and right exchanged.
* A task is built once and reset without building it again.
* What is read is the end of a step. (After loading a stored start the package's own observations are 2 ms
  older: its sampling clock has been advanced twice.)

It needs an interpreter that has the package (`make libero`) and the assets (`REGRIP_LIBERO_ASSETS`), but only
from the first `reset` on.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from ...datasets.spec import RobotSpec
from ..compatibility import LIBERO
from ..robosuite import panda
from ..robosuite.panda import PandaEnv, check_pictures
from ..wording import Paraphrase
from . import assets
from .tasks import load

if TYPE_CHECKING:
    from ..robosuite.stage import Stages

CAMERAS = ("agentview", "robot0_eye_in_hand")
_EVERY_CAMERA = ("agentview", "frontview", "robot0_eye_in_hand")


def make(
    suite: str = "libero_spatial",
    cameras: Sequence[str] = CAMERAS,
    image_size: int = 128,
    control_mode: Literal["ee_delta"] = "ee_delta",
    paraphrase: Paraphrase = "canonical",
    render: Literal["fast", "stock"] = "fast",
    perturb: str = "none",
) -> PandaEnv:
    """An environment from JSON-able arguments; a worker calls it as ``regrip.sim.libero.env:make``.

    Args:
        suite: ``libero_spatial``, ``libero_object``, ``libero_goal``, ``libero_10`` or ``libero_90``.
        cameras: any of the package's, in the order the policy gets them.
        image_size: height and width in pixels.
        control_mode: ``ee_delta``, the only one that LIBERO is played with.
        paraphrase: ``canonical`` sentences, or ``train``, which adds the problem file's own wording.
        render: ``stock`` for the package's own pixels, ``fast`` for tuned ones.
        perturb: ``none``, or a kind of `sim.perturb` that is known here.

    Raises:
        ValueError: if an argument is not one of these.
    """
    tasks = load(suite)
    check_pictures(cameras, _EVERY_CAMERA, image_size)
    if control_mode != "ee_delta":
        raise ValueError(f"LIBERO has no control mode {control_mode!r}: set control_mode to 'ee_delta'")
    if paraphrase == "heldout":
        raise ValueError("LIBERO has no held-out wordings: set paraphrase to 'canonical' or 'train'")
    spec = robot_spec(cameras, image_size)
    return PandaEnv("libero", suite, tasks, _stages, spec, paraphrase, render, perturb)


def robot_spec(cameras: Sequence[str] = CAMERAS, image_size: int = 128) -> RobotSpec:
    """What actions and observations mean there; needs no simulator."""
    return panda.robot_spec(
        "libero-panda", "sign alone counts: -1 opens, 1 closes, 0 stays", cameras, image_size, "mirrored"
    )


@functools.cache
def _stages() -> Stages:
    LIBERO.check_interpreter()
    assets.folder()
    try:
        from .build import STAGES
    except ModuleNotFoundError as error:
        raise LIBERO.missing(error) from error
    return STAGES
