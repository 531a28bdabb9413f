"""Physics that differs from episode to episode, drawn from the start state."""

from __future__ import annotations

from dataclasses import dataclass

from ...datasets.starts import StartState

Span = tuple[float, float]


@dataclass(frozen=True)
class Variation:
    """By what factor an episode's physics may differ from the scene's own; (1, 1) leaves it.

    Attributes:
        friction: of all contacts.
        mass: of loose objects, inertia with it.
        gain: of the robot's position loops, stiffness and damping.
    """

    friction: Span = (1.0, 1.0)
    mass: Span = (1.0, 1.0)
    gain: Span = (1.0, 1.0)

    def __post_init__(self) -> None:
        for name in ("friction", "mass", "gain"):
            low, high = getattr(self, name)
            if not 0 < low <= high:
                raise ValueError(f"{name} varies over {(low, high)}: expected 0 < low <= high")

    def draw(self, start: StartState) -> tuple[float, float, float]:
        """Factors on friction, mass and gain in the episode that `start` names."""
        draw = start.generator("physics")
        friction, mass, gain = (float(draw.uniform(*span)) for span in (self.friction, self.mass, self.gain))
        return friction, mass, gain
