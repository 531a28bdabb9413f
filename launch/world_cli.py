"""`regrip world`: learn a world from recorded episodes, see whether to trust it, make it obey better."""

from __future__ import annotations

import difflib
import importlib
import sys
from collections.abc import Sequence

# name: (module beside this one with ``main(args) -> int``, what it is for)
COMMANDS: dict[str, tuple[str, str]] = {
    "fit": ("world_fit", "learn a world model from recorded episodes"),
    "check": ("world_check", "measure on unseen episodes what it is good for, and what not"),
    "improve": ("world_improve", "post-train it, so that commands can be read off what it imagines"),
}


def main(args: Sequence[str]) -> int:
    line = list(args)
    if not line or line[0] in ("-h", "--help", "help"):
        print("usage: regrip world COMMAND ...\n")
        for name, (_, summary) in COMMANDS.items():
            print(f"  {name:10}{summary}")
        return 0
    if line[0] not in COMMANDS:
        near = difflib.get_close_matches(line[0], COMMANDS, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        print(f"regrip world: no command {line[0]!r}; {hint}there are {', '.join(COMMANDS)}", file=sys.stderr)
        return 2
    module = importlib.import_module(f"regrip.launch.{COMMANDS[line[0]][0]}")
    status: int = module.main(line[1:])
    return status
