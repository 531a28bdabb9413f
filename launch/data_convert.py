"""`regrip convert`: from one format to another, saying what is lost."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.console import Console
from rich.table import Table

from ..datasets.converting.convert import Job, Plan, convert, ledger_of, plan
from ..datasets.converting.mapping import Mapped, SetMapping, propose
from ..datasets.formats import WriteOptions, detect_format, open_source
from ..datasets.ledger import Loss
from ..datasets.recording import Contents
from .config import parse_options
from .data_edit import make_console
from .data_verify import read_back
from .mapping_file import read_mapping
from .progress import Progress


@dataclass(frozen=True)
class ConvertOptions:
    """`regrip convert`.

    Attributes:
        source: the set to read; it is never written to.
        destination: where the new one goes; nothing may be there yet.
        to: format of the new one.
        format: format of the source; found by looking if not given.
        mapping: file that says what becomes of each stream; `regrip inspect SRC --mapping FILE` writes one.
        images: ``copy`` keeps the source's image files or video packets where the format can hold them.
        quality: of JPEG.
        video_codec: FFmpeg's name of the encoder.
        crf: its quality; lower is better.
        dry_run: say what would happen, and write nothing.
        resume: go on with a conversion that was cut off.
        workers: processes; 0 takes one for each core.
        verify: read the result back and compare it with the source; which images are compared.
    """

    source: Annotated[Path, tyro.conf.Positional]
    destination: Annotated[Path, tyro.conf.Positional]
    to: str
    format: str = ""
    mapping: Path | None = None
    images: Literal["copy", "jpeg", "png", "video"] = "copy"
    quality: int = 95
    video_codec: str = "libsvtav1"
    crf: int = 30
    dry_run: bool = False
    resume: bool = False
    workers: int = 0
    verify: Literal["ends", "sample", "all", "none"] = "sample"


def main(args: Sequence[str]) -> int:
    options = parse_options(
        ConvertOptions, args, prog="regrip convert", description="Convert a data set, saying what is lost."
    )
    job = Job(
        source=options.source,
        to=options.to,
        destination=options.destination,
        source_format=options.format or detect_format(options.source),
        options=WriteOptions(options.images, options.quality, options.video_codec, options.crf),
        mapping=read_mapping(options.mapping) if options.mapping else None,
    )
    console = make_console()
    source = open_source(job.source, job.source_format)
    mapping = job.mapping or propose(source.contents)
    mapped = Mapped(source, mapping)
    console.print(f"{job.source} ({job.source_format}, {len(source)} episodes) to {job.to}", markup=False)
    console.print(_streams(mapping, source.contents, mapped.contents))
    for problem in source.problems[:20]:
        console.print(f"note: {problem}", markup=False)
    if len(source.problems) > 20:
        console.print(f"and {len(source.problems) - 20} more: `regrip inspect {job.source}`", markup=False)
    if options.dry_run:
        found = plan(job)
        _show_plan(console, found)
        return 0
    workers = options.workers or (os.cpu_count() or 1)
    with Progress("converting") as bar:
        ledger = convert(job, workers=workers, resume=options.resume, progress=bar.update)
    _show_losses(console, ledger.losses)
    console.print(f"the ledger: {ledger_of(job.destination)}", markup=False)
    if options.verify == "none":
        return 0
    return read_back(console, job.open(), job.destination, job.to, ledger, options.verify)


def _streams(mapping: SetMapping, before: Contents, after: Contents) -> Table:
    table = Table("from", "to", "kind", "row", "changed")
    for key, how in mapping.streams.items():
        spec = after.streams[key]
        changed = [
            word
            for word, on in (
                ("renamed", how.source != (key,)), ("joined", len(how.source) > 1), ("rotated", how.rotate),
                ("selected", how.entries), ("scaled", how.scale or how.offset), ("cast", how.dtype),
                ("turned", how.turn != "none"),
            )
            if on
        ]  # fmt: skip
        shape = "x".join(map(str, spec.shape)) or "1"
        table.add_row(" + ".join(how.source), key, spec.kind, f"{spec.dtype} {shape}", ", ".join(changed))
    for key in mapping.dropped:
        table.add_row(key, "(dropped)", before.streams[key].kind, "", "left out")
    return table


def _show_plan(console: Console, found: Plan) -> None:
    _show_losses(console, found.losses)
    console.print(
        f"{found.episodes} episodes, about {found.seconds:.0f} s with one process and {_bytes(found.size)}; "
        "estimated from the first episode. Nothing was written."
    )


def _show_losses(console: Console, losses: Sequence[Loss]) -> None:
    if not losses:
        console.print("nothing is lost")
        return
    table = Table("stream", "what", "detail", "episodes", "rows", "measured", title="what is not the same")
    for loss in losses:
        measured = ", ".join(f"{name} {value:.4g}" for name, value in loss.measure.items())
        table.add_row(
            loss.stream or "(set)", loss.what, loss.detail, str(loss.episodes), str(loss.rows or ""), measured
        )
    console.print(table)


def _bytes(size: int) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}"
        size = round(size / 1000)
    return f"{size} TB"
