"""What tests of world models share: one that was fitted on the carrier."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from regrip.sim.world.checks import Seen
from regrip.sim.world.clips import Clips
from regrip.sim.world.model import WorldModel
from regrip.sim.world.referees import Referees


@dataclass(frozen=True)
class Fitted:
    """A model of the carrier, the recordings it was fitted on, and its held-out episodes, imagined."""

    model: WorldModel
    clips: Clips
    tokens: Tensor
    referees: Referees
    seen: Seen
