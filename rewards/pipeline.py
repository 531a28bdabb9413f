"""Rewards made of rewards: a sum of several, and one followed by transforms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ..datasets.episode import Rollouts
from ..datasets.protocols import Reward, RewardSignal
from .binary import at_last_step


class Transform(Protocol):
    """Changes what a reward said: clips, gates, rescales, adds noise. Keeps no state."""

    def __call__(self, signal: RewardSignal, rollouts: Rollouts) -> RewardSignal: ...


@dataclass(frozen=True)
class Pipeline:
    """A reward and what is done to it, in order; a `Reward`."""

    reward: Reward
    transforms: Sequence[Transform]

    def __call__(self, rollouts: Rollouts) -> RewardSignal:
        signal = self.reward(rollouts)
        for transform in self.transforms:
            signal = transform(signal, rollouts)
        return signal

    def state_dict(self) -> dict[str, NDArray[np.generic]]:
        return self.reward.state_dict()

    def load_state_dict(self, state: Mapping[str, NDArray[np.generic]]) -> None:
        self.reward.load_state_dict(state)


@dataclass(frozen=True)
class Sum:
    """Several rewards by name, each with its weight; a `Reward`.

    An episode that one of them could not judge is paid by the others; it is not valid if none could. The sum
    is relative if any part is. Components are called ``name/component``.
    """

    parts: Mapping[str, tuple[Reward, float]]

    def __post_init__(self) -> None:
        if not self.parts:
            raise ValueError("a sum of no rewards; give at least one")

    def __call__(self, rollouts: Rollouts) -> RewardSignal:
        value = np.zeros(rollouts.valid.shape, np.float32)
        valid = np.zeros(len(rollouts), bool)
        components: dict[str, NDArray[np.float32]] = {}
        relative = False
        for name, (reward, weight) in self.parts.items():
            signal = reward(rollouts)
            value += np.float32(weight) * signal.value * signal.valid[:, None, None]
            valid |= signal.valid
            relative |= signal.relative
            components |= {f"{name}/{key}": held for key, held in signal.components.items()}
            components[name] = signal.value.sum((1, 2))
        return RewardSignal(value, components, valid, relative)

    def state_dict(self) -> dict[str, NDArray[np.generic]]:
        return {
            f"{name}/{key}": held
            for name, (reward, _) in self.parts.items()
            for key, held in reward.state_dict().items()
        }

    def load_state_dict(self, state: Mapping[str, NDArray[np.generic]]) -> None:
        for name, (reward, _) in self.parts.items():
            mine = f"{name}/"
            reward.load_state_dict(
                {key.removeprefix(mine): held for key, held in state.items() if key.startswith(mine)}
            )
        strange = sorted(key for key in state if key.split("/", 1)[0] not in self.parts)
        if strange:
            raise ValueError(
                f"the state holds {strange[0]!r}, but the sum has only {sorted(self.parts)}: "
                "the checkpoint was written by a run with other rewards"
            )


@dataclass(frozen=True)
class AddSuccess:
    """Pays the simulator's own verdict on top, at the last executed step; a `Transform`."""

    weight: float = 1.0

    def __call__(self, signal: RewardSignal, rollouts: Rollouts) -> RewardSignal:
        won = (rollouts.success & (rollouts.num_steps > 0)).astype(np.float32)
        value = signal.value + at_last_step(rollouts.valid, np.float32(self.weight) * won)
        components = {**signal.components, "success": won}
        return RewardSignal(value, components, signal.valid | (won > 0), signal.relative, signal.std)
