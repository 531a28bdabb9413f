"""`regrip inspect`: what is in a data set, what its numbers mean, and what is wrong with it."""

from __future__ import annotations

import json
import sys
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from ..datasets.formats import open_source
from ..datasets.inspecting.inspection import SAMPLE_EPISODES, SURE, Inspection, inspect
from ..datasets.inspecting.row_summaries import EntryRange
from ..datasets.statistics import Rate
from .config import parse_options
from .mapping_file import write_mapping

_TASKS, _ENTRIES, _PROBLEMS = 8, 40, 40  # lines of each table, unless all are asked for


@dataclass(frozen=True)
class Options:
    """`regrip inspect`.

    Attributes:
        src: a data set of any format.
        format: its name, where looking at it would find another.
        episodes: how many to read, evenly spread; 0 for all.
        json: print everything as JSON.
        all: print every entry, task and problem.
        mapping: also write a mapping file for `regrip convert`, with what was found as comments.
        strict: exit with status 1 if anything is wrong that reading could not repair.
    """

    src: tyro.conf.Positional[Path]
    format: str = ""
    episodes: int = SAMPLE_EPISODES
    json: bool = False
    all: bool = False
    mapping: Path | None = None
    strict: bool = False


def main(args: Sequence[str]) -> int:
    options = parse_options(
        Options, args, prog="regrip inspect", description="What is in a data set, and what is wrong with it."
    )
    if options.episodes < 0:
        raise ValueError(f"--episodes {options.episodes} makes no sense: give a number, or 0 for all")
    source = open_source(options.src, options.format)
    try:
        waiting = Console(stderr=True)
        with waiting.status("reading") as status:
            found = inspect(
                source,
                options.episodes or None,
                lambda done, total: status.update(f"reading episode {done} of {total}"),
            )
    finally:
        source.close()
    if options.json:
        json.dump({**found.to_json(), "proposal": found.proposal()}, sys.stdout, indent=1, allow_nan=False)
        print()
    else:
        console = Console()
        if not console.is_terminal:
            console.width = 120
        show(found, console, everything=options.all)
    if options.mapping:
        write_mapping(options.mapping, options.src, source.contents, _notes_for_mapping(found))
        print(f"written for you to edit: {options.mapping}")
    return 1 if options.strict and any(not p.repaired for p in found.problems) else 0


def _notes_for_mapping(found: Inspection) -> dict[str, str]:
    """Field of the conventions -> what the numbers look like, for a comment; the value stays the source's."""
    fields = {"gripper": "grippers", "angles": ""}
    notes: dict[str, list[str]] = {}
    for name, one in found.conventions.items():
        first = name.split(" ")[0]
        field = fields.get(first, first)
        if field:
            where = name.removeprefix(first).strip()
            said = f"{where + ': ' if where else ''}{plain(one.value)} ({one.confidence:.0%}: {one.evidence})"
            notes.setdefault(field, []).append(said)
    return {field: "; ".join(lines) for field, lines in notes.items()}


def plain(value: object) -> str:
    """Text of a data set as it may go to a terminal: one line, and no character that could steer it."""
    return "".join(
        c
        if unicodedata.category(c)[0] != "C" and c not in "\u2028\u2029"
        else " "
        if c.isspace()
        else "\ufffd"
        for c in str(value)
    )


def show(found: Inspection, console: Console, *, everything: bool = False) -> None:
    """Print an inspection: counts, streams, conventions, ranges, and last what is wrong."""
    most = None if everything else _ENTRIES
    parts: list[tuple[str, RenderableType]] = [
        ("", _head(found, everything)),
        ("Streams", _streams(found)),
        ("Conventions", _conventions(found)),
        ("Ranges", _ranges(found, most)),
        ("Problems", _problems(found, None if everything else _PROBLEMS)),
    ]
    for title, part in parts:
        if title:
            console.print(Text(f"\n{title}", style="bold"))
        console.print(part)


def _table(*columns: str, right: Sequence[str] = ()) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for column in columns:
        table.add_column(column, justify="right" if column in right else "left", overflow="fold")
    return table


def _row(table: Table, *cells: object, style: str | None = None) -> None:
    """A row whose words are shown as they are: data may hold what Rich would take for markup."""
    table.add_row(*(cell if isinstance(cell, Text) else Text(plain(cell)) for cell in cells), style=style)


def _head(found: Inspection, everything: bool) -> RenderableType:
    low, middle, high = found.lengths
    about = "about " if found.episodes_read < found.episodes else ""
    lines = [
        Text.assemble(
            (plain(found.path), "bold"), f"  {found.format}", f"  {plain(found.robot)}" if found.robot else ""
        ),
        Text(
            f"{found.episodes:,} episodes, {found.steps:,} steps, {about}{hours(found.hours)}; "
            f"{low} to {high} steps each, median {middle}"
        ),
    ]
    if found.episodes_read < found.episodes:
        lines.append(
            Text(f"{found.episodes_read:,} episodes were read, evenly spread; --episodes 0 reads all")
        )
    told = f"success {Rate(found.successes, found.judged)}" if found.judged else "success is not said"
    lines.append(Text(f"{told}; nothing moves in {100 * found.idle:.1f} % of the steps"))
    names = list(found.tasks.items())
    shown = names if everything else names[:_TASKS]
    lines.append(Text(f"{len(names)} task{'s' if len(names) != 1 else ''}:"))
    lines += [Text(f"  {count:>6,}  {plain(task) or '(none)'}") for task, count in shown]
    if len(shown) < len(names):
        lines.append(Text(f"          and {len(names) - len(shown)} more (--all)"))
    return Group(*lines)


def hours(value: float) -> str:
    """``12 s``, ``14.2 min``, ``3.25 h``."""
    if value * 3600 < 90:
        return f"{value * 3600:.3g} s"
    return f"{value * 60:.1f} min" if value < 1.5 else f"{value:.2f} h"


def _streams(found: Inspection) -> RenderableType:
    table = _table("key", "kind", "dtype", "shape", "rows", "rate", "measured", "", right=("rows",))
    cameras = {camera.stream: camera for camera in found.cameras}
    clocks = {key: clock for clock in found.clocks for key in clock.streams}
    for key, spec in found.streams.items():
        clock, camera = clocks.get(key), cameras.get(key)
        measured, notes = "", []
        if clock is not None and clock.steps:
            measured = f"{clock.measured_hz:.4g} Hz ± {clock.jitter_ms:.2g} ms"
            measured = f"{clock.measured_hz:.4g} Hz, from the rate" if clock.nominal else measured
            notes += [f"gaps: {clock.gaps}"] if clock.gaps else []
        if camera is not None:
            notes.append(camera.codec)
            if camera.brightness == camera.brightness:
                notes.append(f"brightness {camera.brightness:.0f}")
        elif "codec" in spec.about:
            notes.append(str(spec.about["codec"]))
        if "unit" in spec.about:
            notes.append(str(spec.about["unit"]))
        rate = f"{spec.rate_hz:g} Hz" if spec.rate_hz else ""
        shape = "×".join(map(str, spec.shape)) or "1"
        _row(
            table,
            key,
            spec.kind,
            spec.dtype,
            shape,
            f"{found.rows.get(key, 0):,}",
            rate,
            measured,
            ", ".join(notes),
        )
    return table


def _conventions(found: Inspection) -> RenderableType:
    table = _table("what", "value", "sure", "because", right=("sure",))
    for name, one in found.conventions.items():
        value = one.value
        if isinstance(value, dict):
            ends = ", ".join(
                f"{end} {value[end]:.4g}" if value[end] is not None else f"{end} unknown"
                for end in ("open", "closed")
            )
            value = f"{value['kind']}, {ends} {value['unit']}".rstrip()
        style = "green" if one.confidence >= SURE else "yellow" if one.confidence > 0 else "dim"
        sure = f"{100 * one.confidence:.0f} %" if one.confidence else "–"
        _row(table, name, Text(plain(value), style=style), Text(sure, style=style), one.evidence)
    return table


def _ranges(found: Inspection, most: int | None) -> RenderableType:
    numbers = ("min", "q01", "median", "q99", "max")
    table = _table("stream", "entry", *numbers, "", right=numbers)
    before = ""
    for one in found.ranges[:most]:
        _row(
            table, one.stream if one.stream != before else "",
            one.label + (f" ({one.unit})" if one.unit else ""),
            *(f"{getattr(one, name):.4g}" for name in numbers), _notes(one),
        )  # fmt: skip
        before = one.stream
    if most is not None and len(found.ranges) > most:
        return Group(table, Text(f"and {len(found.ranges) - most} more (--all)", style="dim"))
    return table


def _notes(one: EntryRange) -> str:
    notes = ["constant"] if one.constant else []
    notes += [f"{one.nan} NaN"] if one.nan else []
    notes += [f"{one.inf} infinite"] if one.inf else []
    return ", ".join(notes)


def _problems(found: Inspection, most: int | None) -> RenderableType:
    if not found.problems:
        return Text("none found", style="green")
    lines: list[RenderableType] = []
    for one in found.problems[:most]:
        mark, style = ("repaired", "dim") if one.repaired else ("!", "yellow")
        where = str(one).removesuffix(f"{one.what}. {one.remedy}")
        lines.append(Text.assemble((f"{mark} ", style), (plain(where), "bold"), plain(one.what)))
        lines.append(Padding(Text(plain(one.remedy), style="dim"), (0, 0, 0, 4)))
    if most is not None and len(found.problems) > most:
        lines.append(Text(f"and {len(found.problems) - most} more (--all)", style="dim"))
    return Group(*lines)
