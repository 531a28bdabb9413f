"""`regrip data`: look at a data set, edit it, repair it."""

from __future__ import annotations

import difflib
import importlib
import sys
from collections.abc import Sequence

# name: (module beside this one with ``main(args) -> int``, what it is for)
COMMANDS: dict[str, tuple[str, str]] = {
    "page": ("data_page", "one HTML page: episodes, pictures, histograms, problems"),
    "view": ("data_view", "open it in Rerun"),
    "edit": ("data_edit", "keep, delete, trim, rename, resample: a view, nothing is copied"),
    "merge": ("data_merge", "several sets as one: a view, nothing is copied"),
    "statistics": ("data_statistics", "exact mean, spread and quantiles over all rows"),
    "record": ("data_record", "let a policy or an expert play, into a set"),
    "repair": ("data_repair", "finish what a crash left of a recording"),
}


def main(args: Sequence[str]) -> int:
    line = list(args)
    if not line or line[0] in ("-h", "--help", "help"):
        print("usage: regrip data COMMAND ...\n")
        for name, (_, summary) in COMMANDS.items():
            print(f"  {name:12}{summary}")
        return 0
    if line[0] not in COMMANDS:
        near = difflib.get_close_matches(line[0], COMMANDS, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        print(f"regrip data: no command {line[0]!r}; {hint}there are {', '.join(COMMANDS)}", file=sys.stderr)
        return 2
    module = importlib.import_module(f"regrip.launch.{COMMANDS[line[0]][0]}")
    status: int = module.main(line[1:])
    return status
