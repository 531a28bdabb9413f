"""Binary success: the sparse reward every other one is measured against."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from ..datasets.episode import Rollouts
from ..datasets.protocols import RewardSignal


class BinarySuccess:
    """1 at the control step of success, 0 elsewhere.

    Success is `Rollouts.success`, the simulator's verdict; an episode ends when it succeeds, so the step of
    success is the last one that was executed. Keeps no state.
    """

    def __call__(self, rollouts: Rollouts) -> RewardSignal:
        """Score B episodes; one without any executed step cannot be judged (`valid` false)."""
        success = rollouts.success.astype(np.float32)
        judged = rollouts.num_steps > 0
        return RewardSignal(
            value=at_last_step(rollouts.valid, success * judged),
            components={"success": success},
            valid=judged,
            relative=False,
        )

    def state_dict(self) -> dict[str, NDArray[np.generic]]:
        return {}

    def load_state_dict(self, state: Mapping[str, NDArray[np.generic]]) -> None:
        if state:
            raise ValueError(
                f"binary success keeps no state, but was given {sorted(state)}: "
                "the checkpoint was written by a run with another reward"
            )


def at_last_step(valid: NDArray[np.bool_], amount: NDArray[np.floating]) -> NDArray[np.float32]:
    """Put one amount for each episode on its last executed control step.

    Args:
        valid: (B,D,H) bool.
        amount: (B,).

    Returns:
        float32 (B,D,H); an episode without executed steps stays all zero.
    """
    steps = valid.reshape(len(valid), -1)
    value = np.zeros(steps.shape, dtype=np.float32)
    rows = np.flatnonzero(steps.any(1))
    last = steps.shape[1] - 1 - steps[rows, ::-1].argmax(1)
    value[rows, last] = amount[rows]
    return value.reshape(valid.shape)
