"""A command of commands, as `regrip data`: each lives in a module that is imported when it is asked for."""

from __future__ import annotations

import difflib
import importlib
import sys
from collections.abc import Mapping, Sequence


def run(command: str, commands: Mapping[str, tuple[str, str]], args: Sequence[str]) -> int:
    """Run the one that `args` begin with, or say which there are.

    Args:
        command: what all of them belong to, as in ``regrip data``.
        commands: by name, the module beside this one whose ``main(args) -> int`` runs it, and what it is for.
        args: the command line after `command`.

    Returns:
        The exit status; 2 if there is no such command.
    """
    line = list(args)
    if not line or line[0] in ("-h", "--help", "help"):
        width = max(map(len, commands))
        print(f"usage: regrip {command} COMMAND ...\n")
        for name, (_, summary) in commands.items():
            print(f"  {name:<{width}}  {summary}")
        return 0
    if line[0] not in commands:
        near = difflib.get_close_matches(line[0], commands, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        known = ", ".join(commands)
        print(f"regrip {command}: no command {line[0]!r}; {hint}there are {known}", file=sys.stderr)
        return 2
    module = importlib.import_module(f"regrip.launch.{commands[line[0]][0]}")
    status: int = module.main(line[1:])
    return status
