"""What is wrong with data, and what is lost when it is converted: named, counted, and never silent."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any


class DataError(ValueError):
    """Data that cannot be used. Its text names file, episode, frame and key, where known, and the remedy.

    Attributes:
        what: the fault, with the value and what was expected.
        remedy: the next step.
        file: path of the file, as given.
        episode: index in its set.
        frame: row in its episode.
        key: stream, column, field or topic.
    """

    def __init__(
        self,
        what: str,
        remedy: str,
        *,
        file: object = "",
        episode: int | None = None,
        frame: int | None = None,
        key: str = "",
    ) -> None:
        self.what, self.remedy, self.file = what, remedy, str(file)
        self.episode, self.frame, self.key = episode, frame, key
        super().__init__(f"{place(self.file, episode, frame, key)}{what}. {remedy}")

    def __reduce__(self) -> Any:  # from a worker process
        where: dict[str, Any] = {"file": self.file, "episode": self.episode, "frame": self.frame}
        return partial(DataError, self.what, self.remedy, **where, key=self.key), ()


def place(file: str = "", episode: int | None = None, frame: int | None = None, key: str = "") -> str:
    """``set/data.parquet, episode 3, frame 17, action: `` of what is known of it."""
    parts = [
        file,
        "" if episode is None else f"episode {episode}",
        "" if frame is None else f"frame {frame}",
        key,
    ]
    known = ", ".join(part for part in parts if part)
    return f"{known}: " if known else ""


@dataclass(frozen=True)
class Problem:
    """Something wrong that did not stop the reading.

    Attributes:
        what: the fault, with the value and what was expected.
        remedy: what was done about it in reading (`repaired`), or what the user can do.
        repaired: true where the repair is certain and was made in reading (the source is not touched).
        file: path inside the set.
        episode: index in the set.
        frame: row in the episode.
        key: stream, column, field or topic.
    """

    what: str
    remedy: str
    repaired: bool = False
    file: str = ""
    episode: int | None = None
    frame: int | None = None
    key: str = ""

    def __str__(self) -> str:
        return f"{place(self.file, self.episode, self.frame, self.key)}{self.what}. {self.remedy}"


@dataclass(frozen=True)
class Loss:
    """A step of a conversion that is not the identity.

    Attributes:
        stream: key, or ``""`` for what belongs to the set or an episode.
        what: ``re-encoded``, ``cast``, ``resampled``, ``padded``, ``resized``, ``reoriented``, ``renamed``,
            ``dropped``, ``time`` (capture times replaced), ``metadata`` (something said of the data is lost)
            or ``computed`` (made by the conversion).
        detail: in words: from what to what, and why.
        episodes: how many episodes it happened in.
        rows: how many rows it happened to.
        measure: sampled figures, the worst over all episodes: ``psnr_db`` (lowest), ``max_error`` (highest).
    """

    stream: str
    what: str
    detail: str
    episodes: int = 1
    rows: int = 0
    measure: Mapping[str, float] = field(default_factory=dict)


class Ledger:
    """The losses of one conversion; equal ones of many episodes are one line with a count."""

    def __init__(self, losses: Iterable[Loss] = ()) -> None:
        self._lines: dict[tuple[str, str, str], Loss] = {}
        for loss in losses:
            self.add(loss)

    def add(self, loss: Loss) -> None:
        """Enter a loss, joining it to the line that says the same."""
        key = (loss.stream, loss.what, loss.detail)
        known = self._lines.get(key)
        if known is None:
            self._lines[key] = loss
            return
        measure = dict(known.measure)
        for name, value in loss.measure.items():
            worse = min if name == "psnr_db" else max
            measure[name] = worse(measure.get(name, value), value)
        self._lines[key] = dataclasses.replace(
            known, episodes=known.episodes + loss.episodes, rows=known.rows + loss.rows, measure=measure
        )

    @property
    def losses(self) -> list[Loss]:
        return list(self._lines.values())

    def take(self) -> list[Loss]:
        """The losses so far; the ledger is empty afterwards."""
        losses, self._lines = self.losses, {}
        return losses

    def to_json(self) -> list[dict[str, Any]]:
        return [dataclasses.asdict(loss) for loss in self.losses]

    @classmethod
    def from_json(cls, lines: Iterable[Mapping[str, Any]]) -> Ledger:
        return cls(Loss(**line) for line in lines)
