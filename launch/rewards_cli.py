"""`regrip rewards`: record episodes, fit rewards on them, and see which of them can be trusted."""

from __future__ import annotations

from collections.abc import Sequence

from . import subcommands

COMMANDS: dict[str, tuple[str, str]] = {
    "record": ("rewards_record", "let a policy play, and keep what it saw"),
    "fit": ("rewards_fit", "train a progress or success model on recorded episodes"),
    "list": ("rewards_list", "every reward: its kind, and what it needs"),
    "compare": ("rewards_compare", "which of them can be trusted on your own episodes"),
}


def main(args: Sequence[str]) -> int:
    return subcommands.run("rewards", COMMANDS, args)
