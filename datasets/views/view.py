"""Sets as they would be after an edit: one or more sets, and operations. Nothing is copied or written.

A view is a `Source`, and a `RowAccess` where every set it shows is one. Images stay lazy and their files
untouched, so that converting a view copies bytes. An operation is done in the order given.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..ledger import DataError, Ledger, Loss, Problem
from ..recording import Contents, Recording, Source
from .cutting import Every, Trim
from .edited_layers import Changed, Chosen, CutRows
from .edits import Operation, to_json
from .idle import TrimIdle
from .layers import Ground, Layer, numbers
from .merged_layer import Merged
from .resampled_layer import Resample, Resampled
from .splitting import Delete, Keep, Split


@dataclass(frozen=True)
class Base:
    """A set that a view shows.

    Attributes:
        source: the set.
        name: what its episodes say they come from (``about["from"]["set"]``), and errors.
        operations: done on it before it is merged with others.
    """

    source: Source
    name: str = ""
    operations: tuple[Operation, ...] = ()


class View:
    """One or more sets, after some operations."""

    format = "view"

    def __init__(
        self,
        layer: Layer,
        bases: Sequence[Base],
        operations: Sequence[Operation],
        differ: Sequence[str],
        path: str,
    ) -> None:
        self.layer, self.path = layer, path
        self.bases, self.operations, self.differ = tuple(bases), tuple(operations), tuple(differ)
        edits = [to_json(operation) for operation in operations]
        if len(bases) == 1:
            edits = [to_json(operation) for operation in bases[0].operations] + edits
        said = {**layer.contents.about}
        if edits:
            said["edits"] = [*_list(said.get("edits")), *edits]
        self.contents: Contents = dataclasses.replace(layer.contents, about=said)
        self.problems: Sequence[Problem] = layer.problems

    def __len__(self) -> int:
        return len(self.layer)

    def __getitem__(self, episode: int) -> Recording:
        if not 0 <= episode < len(self):
            raise IndexError(f"there is no episode {episode}: the view has {len(self)}")
        return self.layer[episode]

    def num_rows(self, episode: int) -> Mapping[str, int]:
        if not 0 <= episode < len(self):
            raise IndexError(f"there is no episode {episode}: the view has {len(self)}")
        return self.layer.num_rows(episode)

    def close(self) -> None:
        for base in self.bases:
            base.source.close()

    def losses(self) -> list[Loss]:
        """What the operations lose, for the ledger of a conversion. Reads the numbers that cuts depend on."""
        return Ledger(self.layer.losses()).losses


class RowView(View):
    """A view with random access to its rows."""

    def tasks(self) -> Sequence[str]:
        return self.layer.tasks()

    def bounds(self, key: str) -> NDArray[np.int64]:
        return self.layer.bounds(key)

    def vectors(self, key: str, rows: NDArray[np.int64]) -> NDArray[Any]:
        return self.layer.vectors(key, rows)

    def times(self, key: str, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        return self.layer.times(key, rows)

    def image(self, key: str, row: int) -> NDArray[Any]:
        return self.layer.image(key, row)


def make_view(
    sets: Source | Sequence[Base],
    operations: Sequence[Operation] = (),
    *,
    differ: Sequence[str] = (),
    path: str = "",
) -> View:
    """Look at sets through operations.

    Args:
        sets: one, or several to be merged.
        operations: done in this order, after merging. What they take from the set as it is now (an idle
            detector's thresholds, the number of episodes that a split was drawn from) is filled in, so that
            the saved view means the same later.
        differ: what sets to be merged may differ in (`merging.united`).
        path: of the view's file, if it has one.

    Returns:
        A `RowView` where all the sets have random access.

    Raises:
        DataError: an operation does not fit the set; naming stream or episode.
    """
    bases = list(sets) if isinstance(sets, Sequence) and not hasattr(sets, "contents") else [Base(sets)]  # type: ignore[arg-type]
    if not bases:
        raise DataError("a view of no set", "name at least one")
    layers: list[Layer] = []
    for index, base in enumerate(bases):
        layer, done = stacked(Ground(base.source, base.name), base.operations)
        layers.append(layer)
        bases[index] = dataclasses.replace(base, operations=tuple(done))
    bottom: Layer = layers[0] if len(layers) == 1 else Merged(layers, [base.name for base in bases], differ)
    layer, done = stacked(bottom, operations)
    kind = RowView if layer.has_rows else View
    return kind(layer, bases, done, differ, path)


def stacked(layer: Layer, operations: Sequence[Operation]) -> tuple[Layer, list[Operation]]:
    """One layer for each operation, and the operations with everything filled in."""
    done: list[Operation] = []
    for operation in operations:
        if isinstance(operation, TrimIdle):
            below = layer
            operation = operation.resolved(
                layer.contents, (numbers(below, episode) for episode in range(len(below)))
            )
        if isinstance(operation, Split) and operation.of is None:
            operation = dataclasses.replace(operation, of=len(layer))
        if isinstance(operation, Keep | Delete | Split):
            layer = Chosen(layer, operation)
        elif isinstance(operation, Trim | TrimIdle | Every):
            layer = CutRows(layer, operation)
        elif isinstance(operation, Resample):
            layer = Resampled(layer, operation)
        else:
            layer = Changed(layer, operation)
        done.append(operation)
    return layer, done


def _list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else []
