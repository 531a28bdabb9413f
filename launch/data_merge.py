"""`regrip data merge`: several sets as one, in a small file, which copies nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from ..datasets.formats import open_source
from ..datasets.formats.view import save_view
from ..datasets.ledger import DataError
from ..datasets.recording import Contents, Source
from ..datasets.views.changing import Drop, Pad, Rename
from ..datasets.views.edits import Operation
from ..datasets.views.view import Base, make_view
from .config import parse_options
from .data_edit import make_console, pairs, print_next, print_view, require_once, require_out


@dataclass(frozen=True)
class MergeOptions:
    """`regrip data merge`.

    Attributes:
        sources: the sets, of any formats, or views.
        out: the view's file, ``something.view.yaml``.
        map: ``2:old=new``: in the second set, a stream's key.
        drop: ``2:key``: in the second set, a stream to leave out; ``key`` in all that have it.
        pad: vectors of different entries to be made alike; ``<key>.valid`` says which entries are real.
        differ: what may differ, in the words of the refusal; it is then unknown.
        dry_run: write nothing.
    """

    sources: tyro.conf.Positional[tuple[Path, ...]]
    out: Path | None = None
    map: tuple[str, ...] = ()
    drop: tuple[str, ...] = ()
    pad: tuple[str, ...] = ()
    differ: Annotated[tuple[str, ...], tyro.conf.arg(metavar="WHAT")] = ()
    dry_run: bool = False


def main(args: Sequence[str]) -> int:
    """`regrip data merge`."""
    require_once(args)
    options = parse_options(
        MergeOptions, args, prog="regrip data merge", description="Put sets together without copying them."
    )
    if len(options.sources) < 2:
        raise DataError(f"{len(options.sources)} sets to merge", "name two or more")
    if not options.dry_run:
        require_out(options.out)
    sources: list[Source] = []
    try:
        for path in options.sources:
            sources.append(open_source(path))
        bases = [
            Base(source, path.name, tuple(_mapped(options, number, source.contents)))
            for number, (source, path) in enumerate(zip(sources, options.sources, strict=True), 1)
        ]
        view = make_view(_padded(bases, options.pad), differ=options.differ)
        console = make_console()
        print_view(console, view)
        if not options.dry_run and options.out is not None:
            save_view(view, options.out)
            console.print(f"written: {options.out} ({len(view)} episodes)", highlight=False)
            print_next(console, options.out)
    finally:
        for source in sources:
            source.close()
    return 0


def _mapped(options: MergeOptions, number: int, of: Contents) -> list[Operation]:
    """The edits of one of the sets to be merged."""
    keys, dropped = {}, []
    for text in options.map:
        which, pair = _numbered(text, "--map", len(options.sources))
        if which is None or which == number:
            keys.update(pairs([pair], "--map"))
    for text in options.drop:
        which, key = _numbered(text, "--drop", len(options.sources))
        if which == number or (which is None and key in of.streams):
            dropped.append(key)
    done: list[Operation] = [Drop(tuple(dropped))] if dropped else []
    return [*done, Rename(keys)] if keys else done


def _padded(bases: list[Base], keys: Sequence[str]) -> list[Base]:
    """The sets with these vectors padded to the entries that any of them has."""
    for key in keys:
        specs = [make_view([base]).contents.streams.get(key) for base in bases]
        there = [spec for spec in specs if spec is not None]
        if not there:
            raise DataError("no set has this stream", "name one that is to be padded", key=key)
        names = list(dict.fromkeys(name for spec in there for name in spec.names))
        named = all(spec.names for spec in there)
        length = max(spec.shape[0] if spec.shape else 1 for spec in there)
        pad = Pad(key, tuple(names)) if named else Pad(key, length=length)
        bases = [
            Base(base.source, base.name, (*base.operations, *([pad] if spec is not None else [])))
            for base, spec in zip(bases, specs, strict=True)
        ]
    return bases


def _numbered(text: str, option: str, count: int) -> tuple[int | None, str]:
    """``2:rest`` as (2, rest), ``rest`` as (None, rest)."""
    number, colon, rest = text.partition(":")
    if not (colon and number.isdecimal()):
        return None, text
    if not 1 <= int(number) <= count:
        raise DataError(f"{option} {text!r} names set {number} of {count}", f"number them from 1 to {count}")
    return int(number), rest
