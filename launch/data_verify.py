"""`regrip verify`: are two sets equal, up to what the ledger of the second says?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.table import Table

from ..datasets.converting.convert import read_ledger
from ..datasets.converting.mapping import Mapped, propose
from ..datasets.converting.verify import Depth, Verified, verify
from ..datasets.formats import open_source
from ..datasets.ledger import Ledger
from .config import parse_options
from .data_edit import make_console
from .mapping_file import read_mapping
from .progress import Progress


@dataclass(frozen=True)
class Options:
    """`regrip verify`: exits with 1 if the sets differ by more than the ledger of the second says.

    Attributes:
        first: a set, of any format.
        second: another; if it was converted, its ledger says what may differ.
        mapping: the mapping that the conversion was given.
        strict: nothing may differ, whatever the ledger says.
        images: which images are compared: first and last of each episode, those and every tenth, or all.
    """

    first: Annotated[Path, tyro.conf.Positional]
    second: Annotated[Path, tyro.conf.Positional]
    mapping: Path | None = None
    strict: bool = False
    images: Depth = "sample"


def main(args: Sequence[str]) -> int:
    options = parse_options(
        Options, args, prog="regrip verify", description="Compare two data sets, row by row."
    )
    source = open_source(options.first)
    mapping = read_mapping(options.mapping) if options.mapping else propose(source.contents)
    ledger = Ledger() if options.strict else (read_ledger(options.second) or Ledger())
    console = make_console()
    return read_back(console, Mapped(source, mapping), options.second, "", ledger, options.images)


def read_back(
    console: Console, first: Mapped, second: Path, format: str, ledger: Ledger, depth: Depth
) -> int:
    opened = open_source(second, format)
    with Progress("reading back") as bar:
        found = verify(first, opened, ledger, depth=depth, progress=bar.update)
    first.close()
    opened.close()
    show_verified(console, found)
    return 1 if found.differences else 0


def show_verified(console: Console, found: Verified) -> None:
    """The outcome of a comparison, in a few lines."""
    table = Table("stream", "compared", "equal", "where not equal", title="read back")
    for key, count in found.rows.items():
        error = found.largest_error.get(key)
        table.add_row(key, f"{count} rows", "all" if error is None else "not all", _error(error))
    for key, count in found.images.items():
        same, worst = found.equal_files.get(key, 0), found.lowest_psnr.get(key)
        files = f"{same} the same file" if same else "pixels"
        table.add_row(
            key,
            f"{count} images",
            f"{files}" if worst is None else f"{same} of them",
            "" if worst is None else f"PSNR {worst:.1f} dB at the lowest",
        )
    console.print(table)
    for difference in found.differences:
        console.print(f"DIFFERS: {difference}", markup=False)
    if found.more:
        console.print(f"and {found.more} more", markup=False)
    if not found.differences:
        console.print(
            f"verified: {found.episodes} episodes; whatever is not in the ledger is equal bit for bit"
        )


def _error(error: float | None) -> str:
    return "" if error is None else f"by up to {error:.3g}"
