"""`regrip data statistics`: exact statistics of every numeric stream, over all rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.table import Table

from ..datasets.formats import open_source
from ..datasets.ledger import DataError
from ..datasets.loading.exact_statistics import exact_statistics
from ..datasets.store.reader import Store
from ..datasets.views.view import RowView
from .config import parse_options

SHOWN = ("min", "q01", "mean", "q99", "max", "std")


@dataclass(frozen=True)
class Options:
    """`regrip data statistics`.

    Attributes:
        source: a set in regrip's own format, or a view of such sets.
        out: also write them as JSON to this file.
        keys: streams; all numeric ones if none is given.
    """

    source: Annotated[Path, tyro.conf.Positional]
    out: Path | None = None
    keys: tuple[str, ...] = ()


def main(args: Sequence[str]) -> int:
    options = parse_options(
        Options, args, prog="regrip data statistics", description="Exact statistics, over all rows."
    )
    source = open_source(options.source)
    if not isinstance(source, Store | RowView):
        raise DataError(
            f"statistics are computed of regrip's own format, this is {source.format}",
            f"convert it first: regrip convert {options.source} DST --to regrip",
            file=options.source,
        )
    found = exact_statistics(source, list(options.keys) or None)
    console = Console()
    for key, stream in found.streams.items():
        spec = source.contents.streams[key]
        table = Table("entry", *SHOWN, title=f"{key}, {stream.count} rows")
        columns = [stream.of(name).reshape(-1) for name in SHOWN]
        for index in range(len(columns[0])):
            name = spec.names[index] if index < len(spec.names) else str(index)
            table.add_row(name, *(f"{column[index]:.5g}" for column in columns))
        console.print(table)
    if options.out:
        found.save(options.out)
        console.print(f"written to {options.out}", markup=False)
    source.close()
    return 0
