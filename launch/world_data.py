"""Reading episodes for world models, and the bars meanwhile."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType

from ..datasets.ledger import DataError
from ..datasets.spec import RobotSpec
from ..datasets.starts import SPLITS, StartState
from ..sim.world.clips import Clips, read_clips
from .progress import Progress

_PHASES = {
    "reading": "reading episodes",
    "eyes": "learning to see",
    "looking": "looking at all frames",
    "body": "learning the robot's own picture",
    "reflector": "learning what success looks like",
    "world": "learning the world",
    "rewarded": "learning to obey",
    "inverse": "learning to read commands",
    "reader": "learning to read states",
}


class Bars:
    """One bar after the other, for whatever phase is reported."""

    def __init__(self) -> None:
        self._phase = ""
        self._bar: Progress | None = None

    def __enter__(self) -> Bars:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.__exit__(kind, error, trace)

    def __call__(self, phase: str, done: int, total: int, loss: float = 0.0) -> None:
        if phase != self._phase:
            self.__exit__(None, None, None)
            self._phase, self._bar = phase, Progress(_PHASES.get(phase, phase)).__enter__()
        assert self._bar is not None
        self._bar.update(done, total, f"loss {loss:.3f}" if loss else "")


def read(paths: Sequence[Path], chunk: int, bars: Bars, spec: RobotSpec | None = None) -> Clips:
    """`read_clips` with a bar, and with the sets named where nothing can be learnt from them.

    Raises:
        DataError: see `read_clips`.
        SpecMismatchError: see `read_clips`.
    """
    if not paths:
        raise DataError("no data set is given", "name the folder or file of one, or of several")
    try:
        return read_clips(
            paths, chunk, spec=spec, on_episode=lambda done, total: bars("reading", done, total)
        )
    except DataError as error:
        if error.file:
            raise
        raise DataError(error.what, error.remedy, file=", ".join(map(str, paths))) from error


def starts_named(names: Iterable[str]) -> list[StartState | None]:
    """The start states that recordings name, see `Clips.start`; None where one names none."""
    found: list[StartState | None] = []
    for name in names:
        parts = name.rsplit("/", 3)
        fits = len(parts) == 4 and "/" in parts[0] and parts[1] in SPLITS
        if fits and parts[2].isdigit() and parts[3].isdigit():
            split = next(one for one in SPLITS if one == parts[1])
            found.append(StartState(parts[0], split, int(parts[2]), int(parts[3])))
        else:
            found.append(None)
    return found
