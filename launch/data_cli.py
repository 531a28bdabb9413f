"""`regrip data`: look at a data set, edit it, repair it."""

from __future__ import annotations

from collections.abc import Sequence

from . import subcommands

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
    return subcommands.run("data", COMMANDS, args)
