"""Scripted experts of ours for Fetch. They see what a policy does not: where object and goal are.

Each looks at the present state alone and remembers nothing, so it also knows what to do after a disturbance.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from ..demonstrate import Expert
    from .env import GymEnv

Array = NDArray[np.float64]

_OPENS, _SHUTS = 1.0, -1.0
_STEP_M = 0.05  # how far an action can reach
_ABOVE_M = 0.08  # over an object when the hand travels
_TABLE_M = 0.42  # height of the hand when it pushes


class FetchExpert:
    """Goes to the goal; the base of those that bring something along."""

    def __init__(self, env: GymEnv) -> None:
        self._env = env

    def act(self) -> NDArray[np.float32]:
        """The action (4,) for the present state, in the spec's units."""
        host = self._env.host
        seen = np.asarray(host.observation["observation"], np.float64)
        thing = np.asarray(host.observation["achieved_goal"], np.float64)
        goal = np.asarray(host.observation["desired_goal"], np.float64)
        aim, gripper = self.aim(seen[:3], thing, goal, float(seen[9:11].sum()) if len(seen) > 10 else 0.0)
        move = aim - seen[:3]
        move *= min(1.0, _STEP_M / max(float(np.abs(move).max()), 1e-9))
        return np.append(move, gripper).astype(np.float32)

    def aim(self, hand: Array, thing: Array, goal: Array, opening: float) -> tuple[Array, float]:
        """Where the hand should be next (3,), and the gripper's effort."""
        return goal, _SHUTS


class FetchPushExpert(FetchExpert):
    """Gets behind the object, seen from the goal, and pushes it there.

    Attributes:
        behind_m: how far behind the object's middle the hand comes down.
        ahead_m: how far past the present place of the hand it aims while it pushes, at most.
        aligned_m: how far off the line to the goal the hand may be and yet push.
        steer: share of that distance that a step takes away.
    """

    behind_m = 0.075
    ahead_m = 0.05
    aligned_m = 0.02
    steer = 1.0

    def aim(self, hand: Array, thing: Array, goal: Array, opening: float) -> tuple[Array, float]:
        way = goal[:2] - thing[:2]
        distance = float(np.linalg.norm(way))
        forward = way / max(distance, 1e-9)
        offset = hand[:2] - thing[:2]
        along = float(offset @ forward)
        across = offset - along * forward
        low = hand[2] < _TABLE_M + 0.02
        if low and along < -0.02 and float(np.linalg.norm(across)) < self.aligned_m:
            reach = min(self.ahead_m, self.pace(distance))
            return np.append(hand[:2] + reach * forward - self.steer * across, _TABLE_M), _SHUTS
        place = thing[:2] - self.behind_m * forward
        if float(np.linalg.norm(hand[:2] - place)) < 0.02:
            return np.append(place, _TABLE_M), _SHUTS
        clear = float(np.linalg.norm(offset)) > self.behind_m + 0.03 or hand[2] > thing[2] + 0.05
        return np.append(place if clear else hand[:2], thing[2] + _ABOVE_M), _SHUTS

    def pace(self, distance: float) -> float:
        """How far to go in a step with so much way left for the object."""
        return 0.3 * distance + 0.005


class FetchSlideExpert(FetchPushExpert):
    """Hits the puck towards the goal, which it need only pass: success at any one step ends the episode."""

    behind_m = 0.14
    aligned_m = 0.01
    steer = 2.0

    def pace(self, distance: float) -> float:
        return _STEP_M


class FetchPickExpert(FetchExpert):
    """Over the object, down, grip, and to the goal."""

    def aim(self, hand: Array, thing: Array, goal: Array, opening: float) -> tuple[Array, float]:
        offset = hand - thing
        apart = float(np.linalg.norm(offset[:2]))
        if float(np.linalg.norm(offset)) < 0.02:
            return (goal if opening < 0.055 else thing), _SHUTS
        if apart < 0.015:
            return thing, _OPENS
        return np.append(thing[:2], max(thing[2] + _ABOVE_M, 0.0)), _OPENS


EXPERTS: dict[str, Callable[[GymEnv], Expert]] = {
    "fetch-reach": FetchExpert,
    "fetch-push": FetchPushExpert,
    "fetch-slide": FetchSlideExpert,
    "fetch-pick-and-place": FetchPickExpert,
}
