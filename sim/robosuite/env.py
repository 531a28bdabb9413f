"""robosuite 1.5.2 as an environment of ours: one episode at a time, as `sim.env.Env` promises.

What the package does is left as it is: scenes, placement, controller, success. Ours is only the way in:

* A task is built once and reset without building it again, so what building draws (the size of the cube of
  `lift`, within 2 mm) is the same in every episode.
* The x of the instructed object (of `wipe`, of the first piece of dirt) is moved by less than a millimetre to
  the lattice of the start's split, so that no start of one split is a start of another.
* Pictures are upright. `render="stock"` gives the package's own pixels; ``fast`` leaves out anti-aliasing,
  shadows, mirrors and sky, and draws round shapes coarsely.

It needs an interpreter that has the package (`make robosuite`), but only from the first `reset` on.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from ...datasets.spec import RobotSpec
from ..compatibility import ROBOSUITE
from ..wording import Paraphrase
from . import panda
from .panda import PandaEnv, check_pictures
from .tasks import load

if TYPE_CHECKING:
    from .experts import Expert
    from .stage import Stages

CAMERAS = ("agentview", "robot0_eye_in_hand")
_EVERY_CAMERA = ("agentview", "frontview", "birdview", "robot0_eye_in_hand", "robot0_robotview")


class RobosuiteEnv(PandaEnv):
    """Implements `Env`, and has experts for some tasks."""

    def expert(self) -> Expert:
        """A fresh scripted expert for the present episode, from its present state on.

        Raises:
            ValueError: if the task has none.
        """
        from .experts import Expert

        assert self._task is not None, "an expert is asked for an episode"
        return Expert(self, self._task)


def make(
    suite: str = "robosuite",
    cameras: Sequence[str] = CAMERAS,
    image_size: int = 64,
    control_mode: Literal["ee_delta"] = "ee_delta",
    paraphrase: Paraphrase = "canonical",
    render: Literal["fast", "stock"] = "fast",
    perturb: str = "none",
) -> RobosuiteEnv:
    """An environment from JSON-able arguments; a worker calls it as ``regrip.sim.robosuite.env:make``.

    Args:
        suite: ``robosuite``, or ``blocks`` for the tasks that have an expert.
        cameras: any of the package's, in the order the policy gets them.
        image_size: height and width in pixels.
        control_mode: ``ee_delta``, which is the package's default controller.
        paraphrase: ``canonical`` sentences, ``train`` (canonical or a paraphrase, drawn by the start state)
            or ``heldout`` paraphrases.
        render: ``stock`` for the package's own pixels, ``fast`` for tuned ones.
        perturb: ``none``, or a kind of `sim.perturb` that is known here.

    Raises:
        ValueError: if an argument is not one of these.
    """
    tasks = load(suite)
    check_pictures(cameras, _EVERY_CAMERA, image_size)
    if control_mode != "ee_delta":
        raise ValueError(
            f"robosuite has no control mode {control_mode!r} here: set control_mode to 'ee_delta'"
        )
    spec = robot_spec(cameras, image_size)
    return RobosuiteEnv("robosuite", suite, tasks, _stages, spec, paraphrase, render, perturb)


def robot_spec(cameras: Sequence[str] = CAMERAS, image_size: int = 64) -> RobotSpec:
    """What actions and observations mean there; needs no simulator."""
    return panda.robot_spec(
        "robosuite-panda", "sign alone counts: -1 opens, 1 closes, 0 stays", cameras, image_size
    )


@functools.cache
def _stages() -> Stages:
    ROBOSUITE.check_interpreter()
    try:
        from .build import STAGES
    except ModuleNotFoundError as error:
        raise ROBOSUITE.missing(error) from error
    return STAGES
