"""`regrip world`: learn a world from recorded episodes, see whether to trust it, make it obey better."""

from __future__ import annotations

from collections.abc import Sequence

from . import subcommands

COMMANDS: dict[str, tuple[str, str]] = {
    "fit": ("world_fit", "learn a world model from recorded episodes"),
    "cameras": ("world_cameras", "print where the cameras of a tabletop suite are, as a calibration"),
    "check": ("world_check", "measure on unseen episodes what it is good for, and what not"),
    "improve": ("world_improve", "post-train it, so that commands can be read off what it imagines"),
}


def main(args: Sequence[str]) -> int:
    return subcommands.run("world", COMMANDS, args)
