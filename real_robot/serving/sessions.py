"""Sessions, their episodes, who answers them, and what an answer is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ...datasets.episode import Observation
from ..messages import PolicyError
from .schema import Ask, Schema


class SupersededError(PolicyError):
    """A newer observation of the same session, or its reset, came before this one was looked at.

    Attributes:
        by: the newer one's `seq`; None if it has none.
    """

    def __init__(self, by: int | None, why: str) -> None:
        super().__init__(why)
        self.by = by


class WithheldError(PolicyError):
    """The policy gives no answer on purpose (a fault that is tried out): nothing is to be sent."""


class ShuttingDownError(PolicyError):
    """The server takes no more observations."""


@dataclass
class Run:
    """One episode of one session, as a policy sees it.

    Attributes:
        session: its name.
        episode: its name; ``""`` until the client gives one.
        policy: who answers in it, to its end.
        number: of episodes that this session had before.
        count: answers so far.
        memory: the policy's own; empty at the start.
    """

    session: str
    episode: str
    policy: ServedPolicy
    number: int = 0
    count: int = 0
    memory: dict[str, Any] = field(default_factory=dict)


class ServedPolicy(Protocol):
    """Who answers. Only one thread calls `act`."""

    @property
    def schema(self) -> Schema: ...

    def act(self, asks: Sequence[Ask], runs: Sequence[Run]) -> Sequence[NDArray[np.float32] | None]:
        """Float32 (H,A) for each ask, in the spec's units; None where no answer is to be sent.

        Raises:
            Exception: any; the ask (alone, if it came with others) is then answered by an error.
        """
        ...


@dataclass(frozen=True)
class Answer:
    """Actions and where they come from; times in nanoseconds of the server's steady clock."""

    actions: NDArray[np.float32]
    version: str
    chunk: int
    batch: int
    received_ns: int
    began_ns: int
    ended_ns: int


class Session:
    """What the engine keeps of one client between its observations."""

    def __init__(self, name: str, policy: ServedPolicy) -> None:
        self.name = name
        self.run = Run(name, "", policy)
        self.asked = -np.inf
        self.connections = 0

    def begin(self, episode: str, policy: ServedPolicy) -> None:
        """Another episode; one that nothing was asked in does not count."""
        number = self.run.number + (self.run.count > 0)
        self.run = Run(self.name, episode, policy, number)


def stack(asks: Sequence[Ask]) -> Observation:
    """The observations of several sessions as one batch: what a policy is shown in training."""
    return Observation(
        {name: np.stack([ask.images[name] for ask in asks]) for name in asks[0].images},
        np.stack([ask.state for ask in asks]),
        [ask.instruction for ask in asks],
    )
