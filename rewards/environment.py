"""What the environment itself pays: a learned world its reflector's probability, less its doubt."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from ..datasets.episode import Rollouts
from ..datasets.protocols import RewardSignal


class EnvironmentReward:
    """`Rollouts.reward`, step by step. Keeps no state.

    A simulator pays 1 at the step of success, so there it is `BinarySuccess`. A learned world pays, where an
    episode ends, the probability that it succeeded (World-Env's continuous reward), and takes off a penalty
    for doubt at every decision, if it was given one.
    """

    def __call__(self, rollouts: Rollouts) -> RewardSignal:
        """Score B episodes; one with no executed step, or a number that is not finite, is not judged."""
        paid = np.where(rollouts.valid, rollouts.reward, np.float32(0))
        judged = (rollouts.num_steps > 0) & np.isfinite(paid).all((1, 2))
        value = np.where(judged[:, None, None], paid, np.float32(0))
        return RewardSignal(value, {"environment": value.sum((1, 2))}, judged, relative=False)

    def state_dict(self) -> dict[str, NDArray[np.generic]]:
        return {}

    def load_state_dict(self, state: Mapping[str, NDArray[np.generic]]) -> None:
        if state:
            raise ValueError(
                f"the environment's reward keeps no state, but was given {sorted(state)}: "
                "the checkpoint was written by a run with another reward"
            )
