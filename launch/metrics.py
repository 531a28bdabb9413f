"""A run's numbers: one JSON line an iteration, and the same in TensorBoard.

Names with a slash form groups. `regrip report` reads these; each may be absent:

======================================== ==================================================================
``episodes``, ``env_steps``              played since the beginning, wasted ones included
``elapsed_s``                            seconds of training since the beginning, pauses left out
``train/successes``, ``train/episodes``  sampled in this iteration on train start states
``select/successes``, ``.../episodes``   measured greedily on the select split
``reward/successes``                     mean shaped reward of the episodes that truly succeeded
``reward/failures``                      mean shaped reward of those that did not
``reward/ranking``                       probability that a success has the higher shaped reward
``groups/played``                        groups of episodes that share a start state
``groups/all_won``, ``.../all_failed``   of them, groups of equal rewards in which all won, or all failed
``groups/tied``                          of them, other groups of equal rewards
``episodes/wasted``                      played in this iteration and not learned from
``episodes/invalid``                     left out, because the simulation broke down
``tasks/<task>/successes, /episodes``    of each task, sampled in this iteration on train start states
``tasks/forgotten``, ``.../hopeless``    tasks that wait for a turn; tasks practised in vain lately
``branches/successes, /episodes``        of episodes that began at a decision that is in doubt
``assist``, ``relax``                    how much the simulator helped, and the goals were relaxed, 0 to 1
``train/eased``                          of ``train/episodes``, those that reached a relaxed goal alone
``reward/waiting``, ``.../given_up``     episodes without their reward yet; and those no longer waited for
``monitor/earned``, ``.../auc``           what episodes earn; how often a success earns more than a failure
``monitor/drift``                        shift of the robot's states since the first iteration, in spreads
``monitor/alarms``                       raised in this iteration (``alarms/alarms.jsonl`` says which)
``incidents/<kind>``                     workers lost and replayed in this iteration
``seconds/<part>``                       where this iteration's time went
======================================== ==================================================================
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from .durable import StorageError, explain, write_durably

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

METRICS = "metrics.jsonl"


class MetricsWriter:
    """Appends to ``metrics.jsonl`` (on the disk when `write` returns) and to ``tensorboard/``.

    A run that goes on from a checkpoint of iteration n has lost what came after: lines of iteration n+1 and
    later, and a line that was cut short, are dropped, so no iteration is ever counted twice.
    """

    def __init__(self, run_dir: Path, resume_at: int = 0) -> None:
        """Open for iterations after `resume_at`, which is the last one that is safe; 0 begins anew.

        Raises:
            StorageError: if the directory cannot be written.
        """
        from torch.utils.tensorboard import SummaryWriter  # slow to import, and only a writer needs it

        self._path = run_dir / METRICS
        try:
            run_dir.mkdir(parents=True, exist_ok=True)
            kept = [row for row in _rows(self._path) if row["iteration"] <= resume_at]
            write_durably(self._path, b"".join(map(_line, kept)))
            self._file = open(self._path, "ab")  # noqa: SIM115 - stays open as long as the run
            self._board: SummaryWriter = SummaryWriter(
                str(run_dir / "tensorboard"), purge_step=resume_at + 1 if resume_at else None
            )
        except OSError as error:
            raise explain(error, "write", self._path) from error
        self._last = kept[-1]["iteration"] if kept else -math.inf

    def write(self, iteration: int, values: Mapping[str, float]) -> None:
        """Add one iteration.

        Raises:
            ValueError: if the iteration is not later than the last one.
            StorageError: if the disk is full.
        """
        if iteration <= self._last:
            raise ValueError(f"metrics of iteration {iteration} come after those of {self._last:.0f}")
        row = {"iteration": float(iteration), **{name: float(value) for name, value in values.items()}}
        try:
            self._file.write(_line(row))
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise explain(error, "append to", self._path) from error
        for name, value in values.items():
            self._board.add_scalar(name, value, iteration)
        self._board.flush()
        self._last = iteration

    def close(self) -> None:
        self._file.close()
        self._board.close()

    def __enter__(self) -> MetricsWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def read_metrics(run_dir: Path) -> list[dict[str, float]]:
    """Every whole line, oldest first, with NaN where a value was not a number; empty if there is no file.

    Raises:
        StorageError: if a line in the middle is damaged.
    """
    return _rows(run_dir / METRICS)


def _rows(path: Path) -> list[dict[str, float]]:
    lines = path.read_bytes().split(b"\n") if path.exists() else []
    rows: list[dict[str, float]] = []
    for number, line in enumerate(lines, 1):
        if not line:
            continue
        try:
            row = {
                name: math.nan if value is None else float(value) for name, value in json.loads(line).items()
            }
            row["iteration"]
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            if number == len(lines):  # no newline: the process died while writing it
                break
            raise StorageError(f"{path}, line {number} is damaged: {error}. Remove the line.") from error
        rows.append(row)
    return rows


def _line(row: Mapping[str, float]) -> bytes:
    """One line of JSON; whole numbers have no point, and what is not finite is null, as JSON has no NaN."""
    values = {
        name: None if not math.isfinite(value) else int(value) if float(value).is_integer() else value
        for name, value in row.items()
    }
    return (json.dumps(values, allow_nan=False) + "\n").encode()
