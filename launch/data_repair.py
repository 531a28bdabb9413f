"""`regrip data repair`: finish what a crash left of a recording, and find damage."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from ..datasets.store.reader import Store
from ..datasets.store.repair import repair
from .config import parse_options


@dataclass(frozen=True)
class Options:
    """`regrip data repair`.

    Attributes:
        path: a set in regrip's own format. It is written to; nothing whole is removed.
        deep: also compare every episode with its content hash; takes as long as reading the set.
    """

    path: Annotated[Path, tyro.conf.Positional]
    deep: bool = False


def main(args: Sequence[str]) -> int:
    options = parse_options(
        Options, args, prog="regrip data repair", description="Finish what a crash left of a recording."
    )
    problems = repair(options.path, deep=options.deep)
    for problem in problems:
        print(f"{'repaired' if problem.repaired else 'NOT REPAIRED'}: {problem}")
    store = Store(options.path)
    print(f"{options.path}: {len(store)} whole episodes" + ("" if problems else "; nothing to repair"))
    store.close()
    return 1 if any(not problem.repaired for problem in problems) else 0
