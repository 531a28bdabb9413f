"""`regrip data edit`: edits of a set as a small file, which copies nothing.

There is no command to materialise a view: it is a set, and `regrip convert X.view.yaml DST --to FORMAT` makes
a set of its own of it.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import tyro
from rich.console import Console
from rich.table import Table

from ..datasets.formats import open_source
from ..datasets.formats.view import SUFFIXES, load_plain_yaml, save_view
from ..datasets.ledger import DataError
from ..datasets.recording import Source
from ..datasets.views.changing import Drop, Rename, Resize, Retask, Select
from ..datasets.views.choosing import numbered, parse
from ..datasets.views.cutting import Every, Trim, leading
from ..datasets.views.edits import Operation
from ..datasets.views.idle import TrimIdle
from ..datasets.views.resampled_layer import Resample
from ..datasets.views.splitting import Delete, Keep, Split
from ..datasets.views.view import Base, View, make_view
from .config import parse_options

_SHOWN = 40  # episodes in a table; the rest are counted


@dataclass(frozen=True)
class EditOptions:
    """`regrip data edit`. Edits are done in the order of this list; for another order, edit a view of a view.

    Attributes:
        source: the set, of any format, or a view.
        out: the view's file, ``something.view.yaml``; of a split, one file for each part
            (``something.train.view.yaml``).
        format: of the set, if it is not to be found by looking.
        keep: episodes to keep: ``0:10,15,-1``, or a condition: ``success=true``, ``task=pick*``,
            ``rows>=20``, ``seconds<30``, ``split=train``, ``about.operator=ann``. Of several, all must hold.
        delete: episodes to leave out, in the same words; any of several is enough. Numbers are those of the
            set, whatever else is left out.
        retask: ``old=new`` for each, or one YAML or JSON file of ``old: new``.
        rename: ``old=new`` keys of streams.
        drop: keys of streams to leave out.
        select: ``key=x,y,0:3``: entries of a vector to keep, in this order, by name or number.
        trim: ``start:stop`` in rows or seconds, from the end if negative: ``10:``, ``1.5s:-0.5s``
            (``--trim=-3s:`` where it begins with a minus).
        trim_idle: cut what comes before the first motion and after the last.
        idle_speed: ``key=0.02``: below what a stream is still, in its units per second. Without any, by the
            set's own speeds.
        idle_fraction: without `idle_speed`: still is what is slower than this fraction of the `idle_quantile`
            of each entry's speeds.
        idle_quantile: see `idle_fraction`.
        idle_at_least: seconds; shorter stillness stays.
        idle_keep: seconds of stillness that stay next to the motion.
        resample: to this rate in Hz.
        master: resample to the times of this stream instead.
        policy: ``key=linear``: how a stream is resampled: nearest, previous, next, linear or slerp.
        latency: ``key=0.05``: by how many seconds a stream's times are later than what they time.
        max_staleness: seconds; ticks made of older rows are left out.
        every: take every n-th row.
        resize: images to ``HEIGHTxWIDTH``.
        resize_fit: ``pad`` keeps proportions and fills with black, ``squash`` does not.
        resize_keys: streams to resize; all images if none.
        split: parts by share (``train=0.9 val=0.1``), count (``val=50``), choice (``test=0:10``) or
            ``train=rest``.
        split_by: ``task`` lets no two parts share one.
        seed: of the split.
        dry_run: show what each episode would lose, and write nothing.
    """

    source: tyro.conf.Positional[Path]
    out: Path | None = None
    format: str = ""
    keep: tuple[str, ...] = ()
    delete: tuple[str, ...] = ()
    retask: tuple[str, ...] = ()
    rename: tuple[str, ...] = ()
    drop: tuple[str, ...] = ()
    select: tuple[str, ...] = ()
    trim: str = ""
    trim_idle: bool = False
    idle_speed: tuple[str, ...] = ()
    idle_fraction: float = 0.05
    idle_quantile: float = 0.9
    idle_at_least: float = 0.5
    idle_keep: float = 0.0
    resample: float | None = None
    master: str = ""
    policy: tuple[str, ...] = ()
    latency: tuple[str, ...] = ()
    max_staleness: float | None = None
    every: int | None = None
    resize: str = ""
    resize_fit: Literal["pad", "squash"] = "pad"
    resize_keys: tuple[str, ...] = ()
    split: tuple[str, ...] = ()
    split_by: Literal["episode", "task"] = "episode"
    seed: int = 0
    dry_run: bool = False


def main(args: Sequence[str]) -> int:
    """`regrip data edit`."""
    require_once(args)
    options = parse_options(
        EditOptions, args, prog="regrip data edit", description="Edit a set without copying it."
    )
    if not options.dry_run:
        require_out(options.out)
    source = open_source(options.source, options.format)
    try:
        operations = _operations(options, len(source))
        if not operations:
            raise DataError("no edit was asked for", "name one, such as --keep success=true; see --help")
        base = Base(source, options.source.name)
        _require_tasks(base, operations)
        view = make_view([base], operations)
        console = make_console()
        print_cuts(console, source, view, every=options.dry_run)
        print_view(console, view)
        if options.dry_run or options.out is None:
            return 0
        for part, path in _parts(options, view):
            save_view(part, path)
            console.print(f"written: {path} ({len(part)} episodes)", highlight=False)
        print_next(console, options.out if not options.split else path)
    finally:
        source.close()
    return 0


def print_cuts(console: Console, source: Source, view: View, *, every: bool) -> None:
    """A table of what each episode loses; all episodes are looked at, so that what cannot be cut is said now.

    Args:
        console: to print on.
        source: the set before.
        view: after.
        every: print the table even where only whole episodes are left out.
    """
    lost: list[tuple[int, str, str]] = []
    stays = set()
    for episode in range(len(view)):
        recording = view[episode]
        came = recording.about["from"]["episode"]
        stays.add(came)
        before, after = source.num_rows(came), view.num_rows(episode)
        key = leading(before)
        if before.get(key, 0) != after.get(key, 0):
            lost.append((came, f"{before[key]} -> {after.get(key, 0)} rows", recording.task))
    gone = [episode for episode in range(len(source)) if episode not in stays]
    if not every and not lost:
        return
    said = f"{len(lost)} of {len(source)} episodes are cut, {len(gone)} left out"
    console.print(f"{said}: {as_ranges(gone)}" if gone else said, highlight=False)
    if not lost:
        return
    table = Table()
    for column in ("episode", "rows", "task"):
        table.add_column(column, justify="right" if column != "task" else "left")
    for came, what, task in sorted(lost)[:_SHOWN]:
        table.add_row(str(came), what, task[:60])
    if len(lost) > _SHOWN:
        table.add_row("...", f"{len(lost) - _SHOWN} more", "")
    console.print(table)


def print_view(console: Console, view: View) -> None:
    """What a view holds."""
    rows: dict[str, int] = dict.fromkeys(view.contents.streams, 0)
    for episode in range(len(view)):
        for key, count in view.num_rows(episode).items():
            rows[key] += count
    table = Table(title=f"{len(view)} episodes")
    for column in ("stream", "kind", "shape", "rate", "rows"):
        table.add_column(column, justify="right" if column == "rows" else "left")
    for key, spec in view.contents.streams.items():
        rate = "" if spec.rate_hz is None else f"{spec.rate_hz:g} Hz"
        shape = " x ".join(map(str, spec.shape)) or "1"
        table.add_row(key, spec.kind, f"{shape} {spec.dtype}", rate, str(rows[key]))
    console.print(table)
    for problem in view.problems:
        console.print(f"problem: {problem}", highlight=False)
    for loss in view.losses():
        size = f"{loss.episodes} episodes" + (f", {loss.rows} rows" if loss.rows else "")
        console.print(f"{loss.stream or 'the set'}: {loss.what}, {loss.detail} ({size})", highlight=False)


def _operations(options: EditOptions, count: int) -> list[Operation]:
    """What was asked for, in the order in which it is done."""
    done = _chosen(options.keep, options.delete, count)
    if options.retask:
        done.append(Retask(_tasks(options.retask)))
    if options.rename:
        done.append(Rename(pairs(options.rename, "--rename")))
    if options.drop:
        done.append(Drop(options.drop))
    for key, entries in pairs(options.select, "--select").items():
        done.append(Select(key, tuple(entry.strip() for entry in entries.split(","))))
    if options.trim:
        done.append(Trim(options.trim))
    if options.trim_idle:
        speeds = _numbers(options.idle_speed, "--idle-speed")
        done.append(
            TrimIdle(
                {key: (speed,) for key, speed in speeds.items()},
                options.idle_fraction,
                options.idle_quantile,
                options.idle_at_least,
                options.idle_keep,
            )
        )
    elif options.idle_speed:
        raise DataError("--idle-speed without --trim-idle", "add --trim-idle")
    if options.resample is not None or options.master:
        done.append(
            Resample(
                options.resample,
                options.master,
                pairs(options.policy, "--policy"),
                _numbers(options.latency, "--latency"),
                options.max_staleness,
            )
        )
    elif options.policy or options.latency or options.max_staleness is not None:
        raise DataError("how to resample, but not to what", "add --resample RATE or --master KEY")
    if options.every is not None:
        done.append(Every(options.every))
    if options.resize:
        height, cross, width = options.resize.partition("x")
        if not (cross and height.isdecimal() and width.isdecimal()):
            raise DataError(f"{options.resize!r} is no size", "write HEIGHTxWIDTH, such as 224x224")
        done.append(Resize(int(height), int(width), options.resize_fit, options.resize_keys))
    if options.split:
        parts: dict[str, int | float | str] = {
            name: _size(text) for name, text in pairs(options.split, "--split").items()
        }
        done.append(Split(parts, options.seed, options.split_by))
    return done


def _chosen(keep: Sequence[str], delete: Sequence[str], count: int) -> list[Operation]:
    """The choice of episodes; numbers come first, while they are those of the set."""
    kept = [text for text in keep if isinstance(parse(text), list)]
    gone = [text for text in delete if isinstance(parse(text), list)]
    done: list[Operation] = []
    if len(kept) > 1 or (kept and gone):
        stays = set(range(count)).intersection(*(numbered(text, count) for text in kept))
        stays = stays.difference(*(numbered(text, count) for text in gone))
        if not stays:
            raise DataError(f"no episode of {count} is left", "choose others")
        done.append(Keep(as_ranges(sorted(stays))))
    elif kept:
        done.append(Keep(kept[0]))
    elif gone:
        done.append(Delete(",".join(gone)))
    done += [Keep(text) for text in keep if text not in kept]
    return [*done, *(Delete(text) for text in delete if text not in gone)]


def as_ranges(episodes: Sequence[int]) -> str:
    """``0:10,15`` of sorted numbers."""
    parts: list[list[int]] = []
    for episode in episodes:
        if parts and parts[-1][1] == episode:
            parts[-1][1] = episode + 1
        else:
            parts.append([episode, episode + 1])
    return ",".join(str(a) if b == a + 1 else f"{a}:{b}" for a, b in parts)


def require_once(args: Sequence[str]) -> None:
    """Refuse an option that is given twice: the first would be forgotten."""
    names = [arg.partition("=")[0] for arg in args if arg.startswith("--")]
    for name in names:
        if names.count(name) > 1:
            raise DataError(f"{name} is given twice", f"give it once, with all its values: {name} A B")


def _parts(options: EditOptions, view: View) -> list[tuple[View, Path]]:
    """The views to write, and where."""
    assert options.out is not None, "checked before"
    if not options.split:
        return [(view, options.out)]
    ending = next(suffix for suffix in SUFFIXES if options.out.name.endswith(suffix))
    stem = options.out.name.removesuffix(ending)
    parts = []
    for name in pairs(options.split, "--split"):
        if not name.replace("-", "").replace("_", "").isalnum():
            raise DataError(f"a part called {name!r}", "use letters, digits, - and _: it names a file")
        part = make_view(view.bases, [*view.operations, Keep(f"split={name}")])
        parts.append((part, options.out.with_name(f"{stem}.{name}{ending}")))
    for _, path in parts:
        if path.exists():
            raise DataError("there is such a file already", "give another name, or remove it", file=path)
    return parts


def _require_tasks(base: Base, operations: Sequence[Operation]) -> None:
    """Refuse a new task for an old one that no episode has."""
    for index, operation in enumerate(operations):
        if not isinstance(operation, Retask):
            continue
        before, there = make_view([base], operations[:index]), set()
        for episode in range(len(before)):
            recording = before[episode]
            words = recording.streams.get("task")
            there |= {
                recording.task,
                *(words.rows if words and isinstance(words.rows, (list, tuple)) else ()),
            }
        for old in operation.tasks:
            if old not in there:
                near = difflib.get_close_matches(old, sorted(there), n=1)
                hint = f"did you mean {near[0]!r}?" if near else "write it as `regrip inspect` shows it"
                raise DataError(f"no episode has the task {old!r}", hint)


def pairs(texts: Sequence[str], option: str) -> dict[str, str]:
    found = {}
    for text in texts:
        left, sign, right = text.partition("=")
        if not (sign and left.strip() and right.strip()):
            raise DataError(f"{option} {text!r} has no two sides", f"write {option} left=right")
        if left.strip() in found:
            raise DataError(f"{option} says {left.strip()!r} twice", "say it once")
        found[left.strip()] = right.strip()
    return found


def _numbers(texts: Sequence[str], option: str) -> dict[str, float]:
    try:
        return {key: float(value) for key, value in pairs(texts, option).items()}
    except ValueError as error:
        raise DataError(f"{option}: {error}", f"write {option} key=number") from error


def _size(text: str) -> int | float | str:
    """The size of a part: a count, a share, or else a choice of episodes."""
    if text.isdecimal():
        return int(text)
    try:
        return float(text)
    except ValueError:
        return text


def _tasks(texts: Sequence[str]) -> dict[str, str]:
    path = Path(texts[0])
    if len(texts) > 1 or path.suffix not in (".yaml", ".yml", ".json"):
        return pairs(texts, "--retask")
    try:
        said: Any = load_plain_yaml(path.read_text(encoding="utf-8"), path)
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot be read ({error})", "check the path", file=path) from error
    if not isinstance(said, dict) or not all(isinstance(t, str) for pair in said.items() for t in pair):
        raise DataError("is no mapping of old tasks to new ones", 'write lines of "old": "new"', file=path)
    return said


def require_out(out: Path | None) -> None:
    if out is None:
        raise DataError("no file was named for the view", f"add --out NAME{SUFFIXES[0]}, or --dry-run")
    if not out.name.endswith(SUFFIXES):
        raise DataError("a view's file has another ending", f"name it {out.stem}{SUFFIXES[0]}", file=out)
    if out.exists():
        raise DataError("there is such a file already", "give another name, or remove it", file=out)


def print_next(console: Console, path: Path) -> None:
    console.print(
        f"It can be used like any set; to make a set of its own: regrip convert {json.dumps(str(path))} DST "
        "--to FORMAT",
        highlight=False,
    )


def make_console() -> Console:
    console = Console()
    if not console.is_terminal:
        console.width = 120
    return console
