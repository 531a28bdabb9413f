"""What an evaluation found: every start state's outcome, and what it was measured on, as one JSON file."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..datasets.starts import Split, StartState
from ..datasets.statistics import Rate
from .durable import StorageError, read_json, write_json

FORMAT = "regrip measurement 1"


@dataclass(frozen=True)
class Outcomes:
    """How each start state ended. Three sequences of equal length.

    Attributes:
        starts: where the episodes began.
        success: the simulator's verdict.
        steps: control steps that were executed.
    """

    starts: tuple[StartState, ...]
    success: tuple[bool, ...]
    steps: tuple[int, ...]

    @property
    def rate(self) -> Rate:
        return Rate(sum(self.success), len(self.success))

    def by_task(self) -> dict[str, Rate]:
        """Task name to rate, in the order in which the tasks first appear."""
        found: dict[str, Rate] = {}
        for start, success in zip(self.starts, self.success, strict=True):
            found[start.task] = found.get(start.task, Rate(0, 0)) + Rate(int(success), 1)
        return found

    def find(self, start: StartState) -> tuple[bool, int] | None:
        """Success and steps of one start state; None if it was not played."""
        if start not in self.starts:
            return None
        row = self.starts.index(start)
        return self.success[row], self.steps[row]


@dataclass(frozen=True)
class Measurement:
    """One evaluation of one policy.

    Attributes:
        environment: settings of the environment, see `EnvConfig`.
        split: of every start state.
        seed: of every start state.
        policy: what was evaluated, as it was named.
        digest: hash of the policy folder.
        robot: its RobotSpec.
        modes: ``greedy`` and ``sampled``, or one of them.
        facts: command, code version, seconds, workers, incidents: how it was measured, not what.
    """

    environment: Mapping[str, Any]
    split: Split
    seed: int
    policy: str
    digest: str
    robot: Mapping[str, Any]
    modes: Mapping[str, Outcomes]
    facts: Mapping[str, Any]

    @property
    def headline(self) -> Outcomes:
        """Greedy if it was measured, for that is how a robot would run it."""
        return self.modes["greedy"] if "greedy" in self.modes else next(iter(self.modes.values()))

    def save(self, path: Path) -> None:
        """Write the file.

        Raises:
            StorageError: if it cannot be written.
        """
        data = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        modes = {
            name: {
                "task": [start.task for start in outcomes.starts],
                "index": [start.index for start in outcomes.starts],
                "success": list(outcomes.success),
                "steps": list(outcomes.steps),
            }
            for name, outcomes in self.modes.items()
        }
        write_json(path, {"format": FORMAT, **data, "modes": modes})


def load_measurement(path: Path) -> Measurement:
    """Read what `Measurement.save` wrote.

    Raises:
        StorageError: if the file is missing, damaged, or something else.
    """
    data = read_json(path, "a result of `regrip eval`")
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise StorageError(f"{path} is not a result of `regrip eval` (expected format {FORMAT!r}).")
    try:
        modes = {
            name: Outcomes(
                starts=_starts(columns["task"], columns["index"], data["split"], data["seed"]),
                success=tuple(bool(value) for value in columns["success"]),
                steps=tuple(int(value) for value in columns["steps"]),
            )
            for name, columns in data["modes"].items()
        }
        lengths = {len(column) for columns in data["modes"].values() for column in columns.values()}
        if len(lengths) != 1 or not modes:
            raise ValueError(f"its columns have the lengths {sorted(lengths)}")
        return Measurement(**{**{k: v for k, v in data.items() if k != "format"}, "modes": modes})
    except (KeyError, TypeError, ValueError) as error:
        raise StorageError(f"{path} is damaged or was edited: {error}. Measure again.") from error


def _starts(tasks: Sequence[str], indices: Sequence[int], split: Split, seed: int) -> tuple[StartState, ...]:
    return tuple(StartState(task, split, index, seed) for task, index in zip(tasks, indices, strict=True))
