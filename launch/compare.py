"""`regrip compare A.json B.json`: two measurements, paired on start states."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro
from rich.console import Console
from rich.table import Table

from ..datasets.statistics import PairedDifference, Rate, paired_difference
from .config import parse_options
from .measurement import Measurement, Outcomes, load_measurement


@dataclass(frozen=True)
class Options:
    """`regrip compare`.

    Attributes:
        first: result file of the one to compare with (before).
        second: result file of the other (after).
    """

    first: tyro.conf.Positional[Path]
    second: tyro.conf.Positional[Path]


def main(args: Sequence[str]) -> int:
    options = parse_options(
        Options,
        args,
        prog="regrip compare",
        description="Compare two results of `regrip eval`, paired on their start states.",
    )
    first, second = load_measurement(options.first), load_measurement(options.second)
    require_comparable(first, second, str(options.first), str(options.second))
    console = Console()
    if not console.is_terminal:
        console.width = 120
    console.print(f"A  {options.first}: {first.policy} ({first.digest})", highlight=False)
    console.print(f"B  {options.second}: {second.policy} ({second.digest})", highlight=False)
    for note in remarks(first, second):
        console.print(f"note: {note}", highlight=False)
    for mode in first.modes:
        if mode in second.modes:
            print_comparison(console, mode, first.modes[mode], second.modes[mode])
    return 0


def require_comparable(first: Measurement, second: Measurement, a: str, b: str) -> None:
    """Refuse two measurements of different things.

    Raises:
        ValueError: naming what differs.
    """
    found = [
        f"{name}: {mine!r} in {a}, {theirs!r} in {b}"
        for name, mine, theirs in (
            ("simulator", first.environment.get("name"), second.environment.get("name")),
            ("suite", first.environment.get("suite"), second.environment.get("suite")),
            ("split", first.split, second.split),
            ("seed of the start states", first.seed, second.seed),
        )
        if mine != theirs
    ]
    if found:
        raise ValueError(
            f"these results cannot be compared; they differ in {'; '.join(found)}. "
            "Measure both with the same --env, --suite, --split and --seed"
        )
    modes = first.modes.keys() & second.modes.keys()
    if not modes:
        raise ValueError(
            f"{a} measured {', '.join(first.modes)} and {b} {', '.join(second.modes)}: no mode in common. "
            "Measure both with the same --mode"
        )
    for mode in modes:
        if not common(first.modes[mode], second.modes[mode]):
            raise ValueError(f"{a} and {b} have no start state in common. Measure both on the same --tasks")


def remarks(first: Measurement, second: Measurement) -> list[str]:
    """What a reader of the comparison should know."""
    found = []
    for key in ("paraphrase", "perturb", "render", "image_size", "control_mode", "slots"):
        mine, theirs = first.environment.get(key), second.environment.get(key)
        if mine != theirs:
            found.append(f"{key} is {mine} in A and {theirs} in B")
    versions = [m.facts.get("code", {}).get("commit") for m in (first, second)]
    if versions[0] != versions[1]:
        found.append("A and B were measured by different versions of the code")
    if first.digest == second.digest:
        found.append("A and B are the same policy")
    return found


def common(first: Outcomes, second: Outcomes) -> list[tuple[bool, bool, str]]:
    """Success in the first, in the second, and the task, of each start state that both played."""
    theirs = dict(zip(second.starts, second.success, strict=True))
    return [
        (success, theirs[start], start.task)
        for start, success in zip(first.starts, first.success, strict=True)
        if start in theirs
    ]


def difference(first: Outcomes, second: Outcomes) -> PairedDifference:
    """Paired on the start states that both played."""
    pairs = common(first, second)
    return paired_difference([pair[0] for pair in pairs], [pair[1] for pair in pairs])


def print_comparison(console: Console, mode: str, first: Outcomes, second: Outcomes) -> None:
    pairs = common(first, second)
    table = Table(title=f"{mode}, {len(pairs)} start states that both played")
    for name in ("task", "A", "B", "gained", "lost"):
        table.add_column(name, justify="left" if name == "task" else "right")

    def row(label: str, rows: Sequence[tuple[bool, bool, str]], style: str = "") -> None:
        a = Rate(sum(pair[0] for pair in rows), len(rows))
        b = Rate(sum(pair[1] for pair in rows), len(rows))
        gained = sum(pair[1] and not pair[0] for pair in rows)
        lost = sum(pair[0] and not pair[1] for pair in rows)
        table.add_row(label, str(a), str(b), str(gained), str(lost), style=style)

    for task in dict.fromkeys(pair[2] for pair in pairs):
        row(task, [pair for pair in pairs if pair[2] == task])
    table.add_section()
    row("all", pairs, "bold")
    console.print(table)
    console.print(f"B - A, {mode}: {difference(first, second)}", highlight=False)
    unpaired = len(first.starts) + len(second.starts) - 2 * len(pairs)
    if unpaired:
        console.print(f"note: {unpaired} episodes have no partner and are left out", highlight=False)
