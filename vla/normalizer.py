"""Statistics that scale a robot's states and actions; they travel with every policy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..datasets.spec import RobotSpec


@dataclass(frozen=True)
class Normalizer:
    """Statistics of the demonstrations: state and action mean and standard deviation, action 1 % and 99 %."""

    state_mean: tuple[float, ...]
    state_std: tuple[float, ...]
    action_mean: tuple[float, ...]
    action_std: tuple[float, ...]
    action_q01: tuple[float, ...]
    action_q99: tuple[float, ...]

    @classmethod
    def fit(cls, state: NDArray[np.float32], action: NDArray[np.float32], spec: RobotSpec) -> Normalizer:
        """Statistics over all rows of state (T,S) and action (T,A).

        A dimension that hardly moved in the demonstrations is given a floor of 2 % of its range, so that
        exploration noise and rounding are not blown up into it.
        """

        def floor(std: NDArray[np.float64], low: list[float], high: list[float]) -> tuple[float, ...]:
            return tuple(np.maximum(std, 0.02 * (np.array(high) - np.array(low))).tolist())

        def limits(axes: Sequence[Any]) -> tuple[list[float], list[float]]:
            return [axis.low for axis in axes], [axis.high for axis in axes]

        q01, q99 = np.quantile(action, [0.01, 0.99], axis=0)
        return cls(
            state_mean=tuple(state.mean(0, dtype=np.float64).tolist()),
            state_std=floor(state.std(0, dtype=np.float64), *limits(spec.state)),
            action_mean=tuple(action.mean(0, dtype=np.float64).tolist()),
            action_std=floor(action.std(0, dtype=np.float64), *limits(spec.action)),
            action_q01=tuple(q01.tolist()),
            action_q99=tuple(q99.tolist()),
        )
