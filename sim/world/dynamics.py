"""What every learned dynamics promises: to begin somewhere, and to go on by a chunk of actions at a time."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """B windows of L decisions for training; all float tensors normalised.

    Attributes:
        tokens: (B,L+1,C,n,d), what the tokenizer makes of the frames; the last may be missing, see `follows`.
        state: (B,L+1,S).
        before: (B,L,S), a control step before each decision; the state itself where an episode begins.
        origin: (B,C,n,d), of the frame with which the episode began.
        began: (B,S) there.
        action: (B,L,H,A).
        words: int64 (B,W), the instruction; zero is no word.
        success: (B,L), 1 where the episode succeeded within this decision.
        there: bool (B,L), the decision was taken.
        follows: bool (B,L), and the frame after it is known.
    """

    tokens: Tensor
    state: Tensor
    before: Tensor
    origin: Tensor
    began: Tensor
    action: Tensor
    words: Tensor
    success: Tensor
    there: Tensor
    follows: Tensor


@dataclass(frozen=True)
class Step:
    """What came of one chunk in each of B imaginations, normalised like a `Batch`.

    Attributes:
        tokens: (B,C,n,d) at the next decision.
        state: (B,S) then.
        success: (B,) logit that the episode succeeded within the chunk.
        doubt: (B,), how far the ensemble differs: root mean square, of what its members predict (tokens in
            the data's units, or an RSSM's probabilities); `Calibration.doubt` says what is usual.
    """

    tokens: Tensor
    state: Tensor
    success: Tensor
    doubt: Tensor


def fields_of(memory: Any) -> dict[str, Tensor]:
    """The tensors of a memory by name."""
    return {field.name: getattr(memory, field.name) for field in dataclasses.fields(memory)}


def take(memory: Any, rows: Tensor) -> Any:
    """The imaginations `rows` (int64), in that order."""
    return type(memory)(**{name: held[rows] for name, held in fields_of(memory).items()})


def put(memory: Any, rows: Tensor, other: Any) -> None:
    """Write the imaginations of `other` into the `rows` of `memory`, in place."""
    for name, held in fields_of(other).items():
        getattr(memory, name)[rows] = held.to(getattr(memory, name).dtype)


class Dynamics(Protocol):
    """Its memory between steps is a frozen dataclass of tensors, batch first, so that rows can be taken."""

    def begin(self, tokens: Tensor, state: Tensor, origin: Tensor, began: Tensor) -> Any:
        """The memory of imaginations that begin with `tokens` (B,C,n,d) and `state` (B,S).

        The episode itself began with `origin` and `began`, of the same shapes: whether a thing was pushed
        away is said of where it was at first.
        """
        ...

    def step(self, memory: Any, action: Tensor, words: Tensor) -> tuple[Any, Step]:
        """Go on by `action` (B,H,A) for the instruction `words` (B,W)."""
        ...

    def predictions(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Where each member of the ensemble sees every decision lead, with gradients.

        Each decision is predicted from what was recorded before it.

        Returns:
            tokens (K,B,L,C,n,d) and state (K,B,L,S) after each decision.
        """
        ...

    def losses(self, batch: Batch, imagined: bool) -> dict[str, Tensor]:
        """Scalars by name; ``total`` is what is minimised. With `imagined` it reads its own predictions."""
        ...
