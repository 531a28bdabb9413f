"""Converting a set: plan, write episode by episode in a way that survives being killed, and read back.

What is not in the ledger is equal bit for bit: `verify.py` holds a conversion to that.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import multiprocessing
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..formats import WriteOptions, get_format, open_source
from ..frames import ArrayFrames, EncodedFrames
from ..ledger import DataError, Ledger, Loss
from ..recording import Recording, Track
from ..views.view import View
from .mapping import Mapped, SetMapping, propose

LEDGER = "regrip_conversion.json"


@dataclass(frozen=True)
class Job:
    """One conversion; all of it is plain data, so that a worker process can be given it.

    Attributes:
        source: path of the set to read.
        source_format: name, or ``""`` to look.
        to: name of the format to write.
        destination: where; nothing may be there yet.
        options: how images are written.
        mapping: what becomes of each stream; None keeps all, and renames known aliases.
    """

    source: Path
    to: str
    destination: Path
    source_format: str = ""
    options: WriteOptions = dataclasses.field(default_factory=WriteOptions)
    mapping: SetMapping | None = None

    def open(self) -> Mapped:
        """The source as the mapping shows it."""
        base = open_source(self.source, self.source_format)
        return Mapped(base, self.mapping or propose(base.contents))

    def check(self) -> None:
        """Refuse what can be refused before anything is read.

        Raises:
            DataError: the format is not written, or the two places are one.
        """
        if get_format(self.to).create is None:
            raise DataError(f"the format {self.to} can be read, not written", "choose another with --to")
        source, destination = self.source.resolve(), self.destination.resolve()
        if destination == source or source in destination.parents:
            raise DataError(
                f"the destination {self.destination} is the source, or inside it",
                "choose another place: a source is never written to",
                file=self.source,
            )


@dataclass(frozen=True)
class Plan:
    """What a conversion would do.

    Attributes:
        losses: what is known to be lost before an episode is written; re-encoding is measured on the first.
        episodes: how many.
        seconds: estimate, from writing the first episode with one process.
        size: bytes, likewise.
    """

    losses: list[Loss]
    episodes: int
    seconds: float
    size: int


def plan(job: Job) -> Plan:
    """What a conversion would do, measured by writing the first episode into a temporary folder.

    Raises:
        DataError: it could not be done.
    """
    job.check()
    format, source = get_format(job.to), job.open()
    assert format.create is not None
    known = list(format.plan(source.contents, job.options)) if format.plan else []
    if not len(source):
        raise DataError("the set has no episode", "nothing is there to convert", file=job.source)
    with tempfile.TemporaryDirectory(dir=_nearest_parent(job.destination)) as folder:
        ledger = Ledger(known)
        began = time.perf_counter()
        recording = _prepared(job, source, 0, Path(folder), ledger)
        sink = format.create(Path(folder) / job.destination.name, source.contents, job.options, ledger)
        sink.write(recording)
        sink.close()
        took = time.perf_counter() - began
        size = sum(f.stat().st_size for f in Path(folder).rglob("*") if f.is_file())
    first = sum(source.num_rows(0).values())
    rows = sum(sum(source.num_rows(i).values()) for i in range(len(source)))
    share = rows / max(first, 1)
    source.close()
    return Plan(ledger.losses, len(source), took * share, int(size * share))


def _nearest_parent(path: Path) -> Path:
    return next(folder for folder in path.absolute().parents if folder.is_dir())


def convert(
    job: Job,
    *,
    workers: int = 1,
    resume: bool = False,
    progress: Callable[[int, int, str], None] = lambda done, total, note: None,
) -> Ledger:
    """Convert a set.

    The destination appears when it is whole. Killed before that, what was written waits beside it, and
    ``resume=True`` goes on after the last whole episode.

    Args:
        job: from where, to where.
        workers: processes that read, decode and encode; one writes. Each holds one episode in memory.
        resume: go on with a conversion that was cut off; it must be the same one.
        progress: called with (episodes done, all, a note).

    Returns:
        What was lost; it also lies in the set as ``regrip_conversion.json`` (beside it, where the set is one
        file).

    Raises:
        DataError: it cannot be done, or an episode cannot be read or written (named).
    """
    job.check()
    format, source = get_format(job.to), job.open()
    assert format.create is not None
    journal = Journal(job, resume)
    planned = format.plan(source.contents, job.options) if format.plan else []
    ledger = Ledger()
    written = Ledger()  # what the sink itself finds out
    sink = format.create(job.destination, source.contents, job.options, written)
    try:
        for losses in journal.lines(sink.done):
            for loss in losses:
                ledger.add(loss)
        total = len(source)
        with tempfile.TemporaryDirectory() as folder:
            for index, (recording, losses) in enumerate(
                _recordings(job, source, range(sink.done, total), workers, Path(folder)), sink.done
            ):
                sink.write(recording)
                losses = losses + written.take()
                journal.add(index, losses)
                for loss in losses:
                    ledger.add(loss)
                progress(index + 1, total, "")
        sink.close()
        for loss in written.take():
            ledger.add(loss)
    except BaseException:
        sink.abandon()
        raise
    finally:
        source.close()
    if isinstance(source.base, View):
        for loss in source.base.losses():
            ledger.add(loss)
    for loss in planned:
        # A plan says what encoding there may be; whether there was, the writing says.
        if loss.what not in ("re-encoded", "decoded"):
            ledger.add(loss)
    _store(job, ledger, len(source))
    journal.remove()
    return ledger


def _recordings(
    job: Job, source: Mapped, episodes: range, workers: int, folder: Path
) -> Iterator[tuple[Recording, list[Loss]]]:
    """Prepared episodes in order; at most two for each worker are in memory."""
    if workers <= 1:
        for episode in episodes:
            ledger = Ledger()
            yield _prepared(job, source, episode, folder, ledger), ledger.losses
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, initializer=_begin_worker, initargs=(job, folder)) as pool:
        waiting: list[Future[tuple[Recording, list[Loss]]]] = []
        rest = iter(episodes)
        try:
            for episode in itertools.islice(rest, 2 * workers):
                waiting.append(pool.submit(_work, episode))
            while waiting:
                yield waiting.pop(0).result()
                for episode in itertools.islice(rest, 1):
                    waiting.append(pool.submit(_work, episode))
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


_JOB: tuple[Job, Mapped, Path] | None = None


def _begin_worker(job: Job, folder: Path) -> None:
    global _JOB
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    _JOB = (job, job.open(), folder)


def _work(episode: int) -> tuple[Recording, list[Loss]]:
    assert _JOB is not None
    job, source, folder = _JOB
    ledger = Ledger()
    recording = _prepared(job, source, episode, folder, ledger)
    return _carried(recording), ledger.losses


def _prepared(job: Job, source: Mapped, episode: int, folder: Path, ledger: Ledger) -> Recording:
    """One episode, mapped, with its images encoded as the format wants them."""
    recording = source.read(episode, ledger)
    prepare = get_format(job.to).prepare
    if prepare is None:
        return recording
    try:
        return prepare(recording, source.contents, job.options, folder, ledger)
    except DataError as error:
        if error.episode is not None:
            raise
        raise DataError(
            error.what,
            error.remedy,
            file=error.file or job.source,
            episode=episode,
            frame=error.frame,
            key=error.key,
        ) from error


def _carried(recording: Recording) -> Recording:
    """The recording with all that another process needs in memory: image files, else pixels."""
    streams = {}
    for key, track in recording.streams.items():
        rows: Any = track.rows
        if not isinstance(rows, (np.ndarray, list, tuple, ArrayFrames, EncodedFrames)) and not hasattr(
            rows,
            "path",  # a video that was encoded for the writer: a file, read where it lies
        ):
            files = [rows.encoded(i) for i in range(len(rows))]
            if all(file is not None for file in files) and len(rows):
                rows = EncodedFrames([bytes(f) for f in files if f], rows[0].shape, key)
            else:
                rows = ArrayFrames(np.stack(list(rows)) if len(rows) else np.zeros((0, 0, 0, 3), np.uint8))
        streams[key] = Track(rows, track.time)
    return dataclasses.replace(recording, streams=streams)


class Journal:
    """What a conversion has lost so far, on disk beside the destination while it runs.

    Args:
        job: the conversion.
        resume: go on with one that is there.

    Raises:
        DataError: an unfinished conversion is there and `resume` is false, or it was another one.
    """

    def __init__(self, job: Job, resume: bool) -> None:
        self.folder = job.destination.parent / f".{job.destination.name}.conversion"
        partial = job.destination.parent / f".{job.destination.name}.partial"
        said = _said(job)
        if job.destination.exists():
            raise DataError(
                "something is there already", "choose another place, or remove it", file=job.destination
            )
        plan = self.folder / "plan.json"
        if plan.is_file() or partial.exists():
            if not resume:
                raise DataError(
                    "a conversion to here was cut off",
                    f"go on with --resume, or remove {partial} and {self.folder} to begin again",
                    file=job.destination,
                )
            before = json.loads(plan.read_text()) if plan.is_file() else said
            for key in said:
                if before.get(key) != said[key]:
                    raise DataError(
                        f"the conversion that was cut off had another {key}: {before.get(key)!r}, "
                        f"now {said[key]!r}",
                        "give the same again, or remove the unfinished one to begin anew",
                        file=job.destination,
                        key=key,
                    )
        self.folder.mkdir(parents=True, exist_ok=True)
        plan.write_text(json.dumps(said))
        self._file = self.folder / "ledger.jsonl"

    def lines(self, done: int) -> Iterator[list[Loss]]:
        """Losses of the episodes that are written; cut to as many."""
        kept: list[str] = []
        if self._file.is_file():
            for line in self._file.read_text().split("\n")[:done]:
                try:
                    losses = [Loss(**loss) for loss in json.loads(line)]
                except (ValueError, TypeError):
                    break  # the line that was being written
                kept.append(line)
                yield losses
        if len(kept) < done:  # killed between an episode and its line
            missing = Loss("", "metadata", "the ledger's entry was cut off", episodes=done - len(kept))
            kept += ["[]"] * (done - len(kept))
            yield [missing]
        self._file.write_text("".join(f"{line}\n" for line in kept))

    def add(self, episode: int, losses: list[Loss]) -> None:
        with open(self._file, "a") as file:
            file.write(json.dumps([dataclasses.asdict(loss) for loss in losses]) + "\n")

    def remove(self) -> None:
        shutil.rmtree(self.folder)


def _said(job: Job) -> dict[str, Any]:
    """What must be the same when a conversion goes on."""
    return json.loads(  # type: ignore[no-any-return]
        json.dumps(
            {
                "source": str(job.source.resolve()),
                "format": job.to,
                "options": dataclasses.asdict(job.options),
                "mapping": dataclasses.asdict(job.mapping) if job.mapping else None,
            }
        )
    )


def ledger_of(destination: Path) -> Path:
    """Where the ledger of a converted set lies: in it, or beside it where it is one file."""
    if destination.is_dir():
        return destination / LEDGER
    return destination.with_name(destination.name + "." + LEDGER)


def read_ledger(destination: Path) -> Ledger | None:
    """The ledger of a converted set; None if it has none, or it cannot be read."""
    path = ledger_of(destination)
    try:
        return Ledger.from_json(json.loads(path.read_text())["losses"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _store(job: Job, ledger: Ledger, episodes: int) -> None:
    said = {
        "what": "what `regrip convert` changed; everything else is equal bit for bit",
        "source": job.source.name,  # a path would tell of the machine and its user
        "episodes": episodes,
        "losses": ledger.to_json(),
    }
    path = ledger_of(job.destination)
    path.write_text(json.dumps(said, indent=1, ensure_ascii=False, allow_nan=True) + "\n")
