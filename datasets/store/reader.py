"""Reading a store: episodes as any source gives them, and single rows for a loader."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..contents_json import dumps
from ..ledger import DataError, Ledger, Problem
from ..recording import Contents, Recording, StreamSpec, Track
from .files import read_json
from .hashes import new_hash
from .layout import (
    SHARD,
    Head,
    arrays_of,
    frames_json,
    is_frames,
    keeps_files,
    read_head,
    same_array,
    vector_json,
)
from .log import Record, Span, read_episodes
from .shards import FrameReader
from .slow import SlowArray
from .streams import StoreFrames, StoreStream, in_episode
from .vector_files import VectorReader


class Store:
    """A store, opened for reading; it is never written to. Episodes recorded after that are not seen.

    Safe to share between threads, to fork, and to send to worker processes, which map the files anew.

    Attributes:
        format: ``regrip``.
        path: as given.
        contents: what it holds.
        problems: what was found wrong; grows as shards are looked at for the first time.
        provenance: who made the set, when and of what, and its later columns likewise.
        head: the description of the set.
        log: the lines of its episodes.
        records: the episodes without their rows.
    """

    format = "regrip"

    def __init__(self, path: Path | str) -> None:
        """Read what the set says of itself, and its log; no rows.

        Raises:
            DataError: it is no store, or too damaged to say what it holds.
        """
        self.path = str(path)
        self._root = Path(os.path.realpath(path))
        if not self._root.is_dir():
            raise DataError("there is no such folder", "check the path", file=path)
        head, self._found = read_head(self._root)
        self.problems: Sequence[Problem] = self._found
        self.head: Head = head
        self.contents: Contents = head.contents
        self.provenance: dict[str, Any] = head.provenance
        metadata = {key: self._metadata(key, spec) for key, spec in self.contents.streams.items()}
        log, problems = read_episodes(self._root, head)  # after the metadata, which is written after the log
        self._found += problems
        self.log = log
        self.records: list[Record] = log.records
        self._bounds = {key: self._bounds_of(key) for key in self.contents.streams}
        self._streams = {
            key: self._stream(key, spec, metadata[key]) for key, spec in self.contents.streams.items()
        }
        self._images = {
            key: stream.rows
            for key, stream in self._streams.items()
            if isinstance(stream.rows, FrameReader | SlowArray) and is_frames(self.contents.streams[key])
        }

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, episode: int) -> Recording:
        """One episode: numbers are read, images wait.

        Raises:
            DataError: naming file, episode, frame and key of what cannot be read.
            IndexError: there is no such episode.
        """
        record = self._record(episode)
        streams = {}
        for key in self.contents.streams:
            if key in record.spans:
                try:
                    streams[key] = self._track(key, record.spans[key], episode)
                except DataError as error:
                    raise in_episode(error, episode, key) from error
        return Recording(
            streams,
            record.task,
            record.success,
            record.terminated,
            record.truncated,
            record.began_ns,
            record.about,
        )

    def num_rows(self, episode: int) -> Mapping[str, int]:
        return {key: len(span) for key, span in self._record(episode).spans.items()}

    def tasks(self) -> Sequence[str]:
        return [record.task for record in self.records]

    def bounds(self, key: str) -> NDArray[np.int64]:
        self._known(key)
        return self._bounds[key]

    def vectors(self, key: str, rows: NDArray[np.int64]) -> NDArray[Any]:
        """(n,*shape) rows of a vector stream, in the order asked for.

        Raises:
            DataError: there is no such vector stream, or its file is damaged.
            IndexError: there are not so many rows.
        """
        self._known(key, "vector")
        held = self._streams[key].rows
        assert isinstance(held, VectorReader | SlowArray), "of a vector stream"
        return held.take(rows)

    def times(self, key: str, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        self._known(key)
        return self._streams[key].time.take(rows)

    def texts(self, key: str, rows: NDArray[np.int64]) -> list[str]:
        """Rows of a text stream, in the order asked for."""
        self._known(key, "text")
        stream = self._streams[key]
        assert isinstance(stream.rows, VectorReader | SlowArray), "of a text stream"
        return stream.decode_texts(stream.rows.take(rows), key)

    def image(self, key: str, row: int) -> NDArray[Any]:
        """One decoded image of an image or depth stream.

        Raises:
            DataError: there is no such stream, or the image is damaged.
            IndexError: there are not so many rows.
        """
        reader = self._images.get(key)
        if reader is None:
            self._known(key, "image", "depth")
        return self._images[key].decode(row)

    def image_into(self, key: str, row: int, out: NDArray[Any]) -> None:
        """Decode an image where it is wanted: `out` has its stream's shape and dtype, and is contiguous.

        Raises:
            DataError: there is no such stream, or the image is damaged.
            IndexError: there are not so many rows.
        """
        reader = self._images.get(key)
        if isinstance(reader, FrameReader):
            reader.decode(row, out)
        else:
            out[...] = self.image(key, row)

    def encoded(self, key: str, row: int) -> bytes | None:
        """The image file as it is stored; None for raw pixels."""
        self._known(key, "image", "depth")
        return self._images[key].encoded(row)

    @property
    def ledger(self) -> Ledger:
        """What was lost on the way into this set.

        Raises:
            DataError: ``ledger.json`` is damaged.
        """
        path = self._root / "ledger.json"
        try:
            return Ledger.from_json(read_json(self._root, path))
        except FileNotFoundError:
            return Ledger()
        except (TypeError, AttributeError) as error:
            raise DataError(f"it is no ledger ({error})", "remove it to go on without", file=path) from error

    def content_hash(self) -> str:
        """Of all episodes, by what their lines say: where rows lie does not matter, their content does."""
        return content_hash(self.records)

    def verify(self, episode: int) -> list[Problem]:
        """Compare the content hashes of one episode with its stored bytes; all of them are read."""
        return self._check(episode, self._hash_fits)

    def look(self, episode: int) -> list[Problem]:
        """Whether all rows of one episode are there: numbers are read, of images the index."""
        return self._check(episode, self._is_there)

    def _hash_fits(self, key: str, span: Span) -> str:
        if isinstance(self._images.get(key), SlowArray):
            return ""  # zarr-python gives no stored bytes to compare
        fits = self._streams[key].hash(span) == span.hash
        return "" if fits else "the stored bytes do not fit the content hash"

    def _is_there(self, key: str, span: Span) -> str:
        self._track(key, span, 0)
        self._streams[key].require_texts(span)
        reader = self._images.get(key)
        if isinstance(reader, FrameReader):
            for row in range(span.first, span.last):
                reader.stored(row)
        elif reader is not None and span.last > span.first:
            reader.decode(span.first)
            reader.decode(span.last - 1)
        return ""

    def _check(self, episode: int, check: Callable[[str, Span], str]) -> list[Problem]:
        problems = []
        for key, span in self._record(episode).spans.items():
            try:
                what = check(key, span)
            except DataError as error:
                what = f"the rows cannot be read ({error.what})"
            if what:
                problems.append(
                    Problem(
                        what,
                        "the episode is damaged: `regrip data repair --deep` takes it out",
                        file=str(self.head.folder(self._root, key).relative_to(self._root)),
                        episode=episode,
                        key=key,
                    )
                )
        return problems

    def close(self) -> None:
        for stream in self._streams.values():
            stream.close()

    def _record(self, episode: int) -> Record:
        if not 0 <= episode < len(self.records):
            raise IndexError(f"the set has {len(self.records)} episodes, {episode} was asked for")
        return self.records[episode]

    def _known(self, key: str, *kinds: str) -> None:
        spec = self.contents.streams.get(key)
        if spec is None or (kinds and spec.kind not in kinds):
            wanted = f"{' or '.join(kinds)} stream" if kinds else "stream"
            raise DataError(
                f"the set has no {wanted} {key!r}",
                f"its streams are {', '.join(self.contents.streams)}",
                file=self.path,
            )

    def _bounds_of(self, key: str) -> NDArray[np.int64]:
        bounds = np.zeros((len(self.records), 2), np.int64)
        end = 0
        for index, record in enumerate(self.records):
            span = record.spans.get(key)
            bounds[index] = (end, end) if span is None else (span.first, span.last)
            end = int(bounds[index, 1])
        return bounds

    def _track(self, key: str, span: Span, episode: int) -> Track:
        stream = self._streams[key]
        time = stream.time.slice(span.first, span.last)
        if not np.isfinite(time).all() or (np.diff(time) < 0).any():
            raise DataError(
                "its times are not finite or fall", "the set is damaged: `regrip data repair --deep`"
            )
        rows: Any
        if key in self._images:
            rows = StoreFrames(self._images[key], span.first, span.last, episode, key)
        else:
            assert isinstance(stream.rows, VectorReader | SlowArray), "no images"
            rows = stream.rows.slice(span.first, span.last)
            if self.contents.streams[key].kind == "text":
                rows = stream.decode_texts(rows, key)
        return Track(rows, time)

    def _metadata(self, key: str, spec: StreamSpec) -> dict[str, Any]:
        """``zarr.json`` of each array of a stream; None where there is none to be used."""
        found: dict[str, Any] = {}
        names = [*arrays_of(spec), *(["rows"] if is_frames(spec) else [])]
        for name in names:
            path = self.head.folder(self._root, key) / name / "zarr.json"
            try:
                found[name] = read_json(self._root, path)
                continue
            except FileNotFoundError:
                what = "it is missing"
            except DataError as error:
                what = error.what
            found[name] = None
            self._found.append(
                Problem(
                    f"the metadata of an array cannot be used: {what}",
                    "the array was read as regrip writes it; `regrip data repair` writes the file anew",
                    repaired=True,
                    file=str(path.relative_to(self._root)),
                    key=key,
                )
            )
        return found

    def _stream(self, key: str, spec: StreamSpec, metadata: dict[str, Any]) -> StoreStream:
        folder = self.head.folder(self._root, key)
        rows = max((record.spans[key].last for record in self.records if key in record.spans), default=0)
        counts = {"rows": rows, "time": rows}
        if spec.kind == "text":
            spans = [record.spans[key] for record in self.records if key in record.spans]
            counts["ends"] = max((span.strings[0] for span in spans), default=0)
            counts["strings"] = max((span.strings[1] for span in spans), default=0)
        arrays: dict[str, VectorReader | SlowArray] = {}
        for name, array in arrays_of(spec).items():
            ours = vector_json(array, counts[name])
            if self._usual(key, folder / name, metadata[name], ours, counts[name], frames=False):
                arrays[name] = VectorReader(self._root, folder / name, array, counts[name], key)
            else:
                arrays[name] = SlowArray(self._root, folder / name, array, counts[name], key, metadata[name])
        held: FrameReader | VectorReader | SlowArray
        if is_frames(spec):
            path = folder / "rows"
            ours = frames_json(spec, rows, files=keeps_files(spec), codec="png", quality=95)
            if self._usual(key, path, metadata["rows"], ours, rows, frames=True):
                held = FrameReader(self._root, path, spec, rows, self._found.append, _ShardCheck(self, key))
            else:
                held = SlowArray(self._root, path, spec, rows, key, metadata["rows"])
        else:
            held = arrays["rows"]
        return StoreStream(spec, held, arrays["time"], arrays.get("strings"), arrays.get("ends"))

    def _usual(
        self, key: str, path: Path, found: Any, ours: dict[str, Any], rows: int, *, frames: bool
    ) -> bool:
        """Whether the fast path reads this array; what is odd about it becomes a problem."""
        if found is None:
            return True
        usual = same_array(found, ours, frames=frames)
        what, remedy = "", ""
        if not usual:
            what = "the metadata of the array is not what regrip writes"
            remedy = "it is read by zarr-python, slowly; convert the set anew to have it fast"
        elif found["shape"][0] < rows:
            what = f"zarr.json says {found['shape'][0]} rows, the log has {rows}"
            remedy = "the log is right: recording was cut off, or goes on; `regrip data repair` tidies up"
        if what:
            file = str((path / "zarr.json").relative_to(self._root))
            self._found.append(Problem(what, remedy, repaired=usual, file=file, key=key))
        return usual

    def rows_that_fit(self, key: str, shard: int) -> NDArray[np.bool_]:
        """(SHARD,) which rows of a shard belong to episodes whose content hash fits."""
        fits = np.zeros(SHARD, bool)
        begin = shard * SHARD
        for record in self.records:
            span = record.spans.get(key)
            if span is None or span.last <= begin or span.first >= begin + SHARD:
                continue
            try:
                good = self._streams[key].hash(span, unchecked=True) == span.hash
            except DataError:
                good = False
            fits[max(span.first - begin, 0) : span.last - begin] = good
        return fits


@dataclass(frozen=True)
class _ShardCheck:
    """A store's `rows_that_fit`, in a form that can be sent to another process."""

    store: Store
    key: str

    def __call__(self, shard: int) -> NDArray[np.bool_]:
        return self.store.rows_that_fit(self.key, shard)


def content_hash(records: Sequence[Record]) -> str:
    """Of a whole set, by the lines of its episodes."""
    digest = new_hash()
    for one in records:
        spans = {key: [len(span), span.hash] for key, span in sorted(one.spans.items())}
        verdict = [one.success, one.terminated, one.truncated, one.began_ns]
        about = json.loads(dumps(one.about, "about"))
        digest.update(dumps([one.task, verdict, about, spans], "an episode"))
    return str(digest.hexdigest())
