"""The command `regrip`. Each subcommand lives in its own module, imported only when it is asked for."""

from __future__ import annotations

import difflib
import importlib
import os
import sys
import types
from collections.abc import Sequence
from dataclasses import dataclass

import regrip

from .allocator import keep_memory


@dataclass(frozen=True)
class Command:
    """A subcommand: the module beside this one whose ``main(args) -> int`` runs it, and what it is for."""

    module: str
    summary: str
    example: str


COMMANDS: dict[str, Command] = {
    "base": Command(
        "base", "train a base policy from a scripted expert's demonstrations", "regrip base demo"
    ),
    "train": Command("train", "post-train a policy in simulation", "regrip train demo --seed 1"),
    "eval": Command(
        "evaluate", "measure a policy, with intervals", "regrip eval POLICY --suite demo --split test"
    ),
    "compare": Command(
        "compare", "compare two measurements, paired on start states", "regrip compare A.json B.json"
    ),
    "report": Command("report", "turn a run directory into one HTML page", "regrip report runs/demo-001"),
    "rewards": Command(
        "rewards_cli",
        "record episodes, fit rewards, and see which can be trusted",
        "regrip rewards record demo --out demo.rollouts",
    ),
    "world": Command(
        "world_cli",
        "learn a world from recorded episodes, see whether it can be trusted, improve it",
        "regrip world fit DATASET --out runs/worlds/mine",
    ),
    "inspect": Command(
        "data_inspect", "say what is in a data set, and what is wrong with it", "regrip inspect SRC"
    ),
    "convert": Command(
        "data_convert",
        "convert a data set to another format, saying what is lost",
        "regrip convert SRC DST --to lerobot-v3",
    ),
    "verify": Command("data_verify", "compare two data sets, row by row", "regrip verify SRC DST"),
    "data": Command("data_cli", "look at data, edit it, repair it", "regrip data page SRC --out page.html"),
    "node": Command(
        "node",
        "drive a robot with a policy, within limits, and record it",
        "regrip node demo --transport sim",
    ),
    "serve": Command("serve", "answer a robot's observations over a network", "regrip serve demo"),
    "envs": Command("envs", "list every task, with pictures", "regrip envs show demo/lift_red"),
    "doctor": Command(
        "doctor", "say what is missing on this machine and check the numerics", "regrip doctor"
    ),
}

# What a user can cause and we explain in words. Anything else is our fault and keeps its traceback.
_EXPLAINED = (ValueError, RuntimeError, OSError)


def main(args: Sequence[str] | None = None) -> int:
    """Run `regrip`.

    Returns:
        The exit status: 0; 1 when the command failed; 2 for a command line that makes no sense; 130 after
        Ctrl-C.
    """
    line = list(sys.argv[1:] if args is None else args)
    if not line or line[0] in ("-h", "--help", "help"):
        print(_help())
        return 0
    if line[0] in ("-V", "--version"):
        print(f"regrip {regrip.__version__}")
        return 0
    name, rest = line[0], line[1:]
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"did you mean `regrip {near[0]}`? " if near else ""
        print(f"regrip: no command {name!r}; {hint}Commands: {', '.join(COMMANDS)}", file=sys.stderr)
        return 2
    keep_memory()
    try:
        module = importlib.import_module(f"regrip.launch.{COMMANDS[name].module}")
        status: int = module.main(rest)
    except KeyboardInterrupt:
        print(f"\nregrip {name}: stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:  # `regrip ... | head`: nobody reads any more
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except _EXPLAINED as error:
        if os.environ.get("REGRIP_TRACEBACK") or not _is_explained(error):
            raise
        print(f"regrip {name}: {error}", file=sys.stderr)
        print("(REGRIP_TRACEBACK=1 shows where)", file=sys.stderr)
        return 1
    return status


def _is_explained(error: BaseException) -> bool:
    """True when our own code raised the error, so that its message was written for the user."""
    frame: types.TracebackType | None = error.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    module = frame.tb_frame.f_globals.get("__name__", "") if frame is not None else ""
    return isinstance(module, str) and module.startswith("regrip.")


def _help() -> str:
    width = max(map(len, COMMANDS))
    rows = "\n".join(f"  {name:<{width}}  {command.summary}" for name, command in COMMANDS.items())
    examples = "\n".join(f"  {command.example}" for command in COMMANDS.values())
    return (
        "regrip post-trains vision-language-action robot policies, and says honestly how much it gained.\n\n"
        f"usage: regrip COMMAND [arguments]\n\n{rows}\n\nexamples:\n{examples}\n\n"
        "`regrip COMMAND --help` explains a command. `regrip --version` prints the version."
    )


if __name__ == "__main__":
    raise SystemExit(main())
