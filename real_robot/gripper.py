"""The gripper, apart from the arm: nothing that it does is limited like a joint's motion."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class GripperConfig:
    """How a gripper's command is made of the policy's number.

    Attributes:
        name: of the joint, or of the gripper for a gripper topic.
        open: position when open, m or rad.
        closed: position when closed.
        binary: only open and closed are sent, with hysteresis.
        threshold: share of the way from closed to open above which it opens.
        hysteresis: it closes again only below `threshold` by this share, and opens above it by as much.
    """

    name: str
    open: float
    closed: float
    binary: bool = False
    threshold: float = 0.5
    hysteresis: float = 0.1

    def __post_init__(self) -> None:
        if not np.isfinite([self.open, self.closed]).all() or self.open == self.closed:
            raise ValueError(
                f"gripper {self.name}: open is {self.open}, closed {self.closed}: expected two positions"
            )
        if not 0 <= self.hysteresis < min(self.threshold, 1 - self.threshold):
            raise ValueError(
                f"gripper {self.name}: threshold {self.threshold} with hysteresis {self.hysteresis} would "
                "never open or never close; expected both thresholds between 0 and 1"
            )


class Gripper:
    """A gripper apart from the arm: kept in its range, and if it is binary not set chattering by a number
    that trembles about the threshold.
    """  # noqa: D205

    def __init__(self, config: GripperConfig) -> None:
        self.config = config
        self._is_open: bool | None = None

    def begin(self, measured: float) -> None:
        share = (measured - self.config.closed) / (self.config.open - self.config.closed)
        self._is_open = share >= self.config.threshold

    def command(self, wanted: float) -> float:
        """Position to send for the position that the policy wants (in its units, those of `open`).

        Raises:
            ValueError: it is not finite.
        """
        config = self.config
        if not np.isfinite(wanted):
            raise ValueError(f"gripper {config.name}: {wanted} is no position")
        share = float(np.clip((wanted - config.closed) / (config.open - config.closed), 0.0, 1.0))
        if not config.binary:
            return config.closed + share * (config.open - config.closed)
        if self._is_open is None:
            self._is_open = share >= config.threshold
        elif self._is_open and share < config.threshold - config.hysteresis:
            self._is_open = False
        elif not self._is_open and share > config.threshold + config.hysteresis:
            self._is_open = True
        return config.open if self._is_open else config.closed
