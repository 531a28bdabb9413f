"""What becomes of each stream when a set is converted: a file that a person can read, edit and check.

A mapping names every stream of the source, either as part of a stream of the result or among the dropped; one
that is neither is an error, so nothing is lost in silence. Numbers change only where the file says so.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..ledger import DataError, Ledger, Loss, Problem
from ..recording import (
    Contents,
    Conventions,
    Frames,
    Gripper,
    Orientation,
    Recording,
    Rotation,
    Source,
    StreamSpec,
    Track,
)
from ..views.edits import from_json
from .aliases import renames
from .rotations import SIZES, convert_rotation

Turn = Literal["none", "rot180", "vflip", "mirror"]

# An image's orientation as (rows upside down, columns mirrored); a turn adds to it.
_FLIPS: dict[str, tuple[bool, bool]] = {
    "none": (False, False), "upright": (False, False), "vflip": (True, False),
    "mirror": (False, True), "mirrored": (False, True), "rot180": (True, True),
}  # fmt: skip
_LYING: dict[tuple[bool, bool], Orientation] = {
    (False, False): "upright", (True, False): "vflip", (False, True): "mirrored", (True, True): "rot180",
}  # fmt: skip


@dataclass(frozen=True)
class Rotate:
    """Write a rotation that is part of a vector in another form.

    Attributes:
        first: index of its first entry, in the source's joined vector.
        source: its form there.
        to: the form wanted.
    """

    first: int
    source: Rotation
    to: Rotation


@dataclass(frozen=True)
class StreamMapping:
    """How one stream of the result is made, in this order: join, rotate, select, scale, cast; or turn.

    Attributes:
        source: keys in the source; vectors of several are joined end to end, if they share a clock.
        rotate: rotations to rewrite, by their place in the joined vector.
        entries: which entries to keep, in this order, counted after `rotate`; empty keeps all.
        scale: factor of each entry (a gripper's sign, degrees to radians); empty leaves them.
        offset: added after scaling; empty adds nothing.
        dtype: cast to this numpy type; ``""`` keeps it.
        names: of the entries; empty keeps those of the source.
        units: likewise.
        turn: for images: ``rot180``, ``vflip`` (upside down) or ``mirror`` (left and right exchanged).
    """

    source: tuple[str, ...]
    rotate: tuple[Rotate, ...] = ()
    entries: tuple[int, ...] = ()
    scale: tuple[float, ...] = ()
    offset: tuple[float, ...] = ()
    dtype: str = ""
    names: tuple[str, ...] = ()
    units: tuple[str, ...] = ()
    turn: Turn = "none"


@dataclass(frozen=True)
class SetMapping:
    """How a set is mapped.

    Attributes:
        streams: key in the result to how it is made.
        dropped: keys of the source that are left out on purpose.
        edits: operations of a view (`views`), done first, in their JSON form: trim, resample, resize, ...
        conventions: what the *source's* numbers mean; takes the place of what its format says.
        robot: name; ``""`` keeps the source's.
        rate_hz: nominal control rate; None keeps the source's.
        tasks: instruction in the source to the one in the result; ``""`` names episodes that have none.
    """

    streams: dict[str, StreamMapping]
    dropped: tuple[str, ...] = ()
    edits: tuple[dict[str, Any], ...] = ()
    conventions: Conventions | None = None
    robot: str = ""
    rate_hz: float | None = None
    tasks: dict[str, str] = field(default_factory=dict)


def propose(contents: Contents, conventions: Conventions | None = None) -> SetMapping:
    """The mapping that changes nothing but names which are known aliases (openpi's ``actions``, ...)."""
    names = renames(contents.streams)
    streams = {names.get(key, key): StreamMapping((key,)) for key in contents.streams}
    return SetMapping(streams, conventions=conventions)


class Mapped:
    """A source as a mapping shows it.

    Args:
        base: what is mapped.
        mapping: how.

    Raises:
        DataError: the mapping does not fit the source, naming key and entry.
    """

    def __init__(self, base: Source, mapping: SetMapping) -> None:
        if mapping.edits:
            from ..views.view import make_view

            base = make_view(base, [from_json(edit, base.path) for edit in mapping.edits])
        self.base, self.mapping = base, mapping
        self.format, self.path = base.format, base.path
        self.problems: Sequence[Problem] = base.problems
        _require_every_stream_named(base.contents, mapping, self.path)
        self.contents = _contents(base.contents, mapping, self.path)

    def __len__(self) -> int:
        return len(self.base)

    def num_rows(self, episode: int) -> Mapping[str, int]:
        rows = self.base.num_rows(episode)
        return {
            key: rows[how.source[0]]
            for key, how in self.mapping.streams.items()
            if all(source in rows for source in how.source)
        }

    def close(self) -> None:
        self.base.close()

    def __getitem__(self, episode: int) -> Recording:
        return self.read(episode, Ledger())

    def read(self, episode: int, ledger: Ledger) -> Recording:
        """One episode, with what the mapping did to it in the ledger."""
        recording = self.base[episode]
        streams: dict[str, Track] = {}
        for key, how in self.mapping.streams.items():
            tracks = [recording.streams[source] for source in how.source if source in recording.streams]
            if len(tracks) == len(how.source):
                streams[key] = self._track(key, how, tracks, episode, ledger)
            elif tracks:
                lacking = [source for source in how.source if source not in recording.streams]
                ledger.add(Loss(key, "dropped", f"absent where {', '.join(lacking)} is absent"))
        for key in self.mapping.dropped:
            if key in recording.streams:
                ledger.add(Loss(key, "dropped", "left out by the mapping", rows=len(recording.streams[key])))
        task = self.mapping.tasks.get(recording.task, recording.task)
        if task != recording.task:
            ledger.add(Loss("", "metadata", f"task {recording.task!r} became {task!r}"))
        return dataclasses.replace(recording, streams=streams, task=task)

    def _track(
        self, key: str, how: StreamMapping, tracks: list[Track], episode: int, ledger: Ledger
    ) -> Track:
        first = tracks[0]
        if self.contents.streams[key].kind in ("image", "depth"):
            if how.turn == "none":
                return first
            ledger.add(
                Loss(key, "reoriented", f"turned by {how.turn}: decoded, encoded again", rows=len(first))
            )
            return Track(TurnedFrames(first.rows, how.turn), first.time)  # type: ignore[arg-type]
        if self.contents.streams[key].kind == "text":
            return first
        for source, track in zip(how.source[1:], tracks[1:], strict=True):
            if not np.array_equal(track.time, first.time):
                raise DataError(
                    f"{source} and {how.source[0]} are to be joined but do not share a clock",
                    "resample first: add the edit 'resample' to the mapping, or keep them apart",
                    file=self.path,
                    episode=episode,
                    key=key,
                )
        rows = _change(how, [np.asarray(track.rows) for track in tracks])
        for what in _in_words(how):
            ledger.add(Loss(key, what[0], what[1], rows=len(first)))
        if how.dtype:
            rows = _cast(rows, how.dtype, key, ledger)
        return Track(rows, first.time)


@dataclass(frozen=True)
class TurnedFrames:
    """Frames turned as they are read."""

    base: Frames
    turn: Turn

    def __len__(self) -> int:
        return len(self.base)

    def __getitem__(self, index: int) -> NDArray[Any]:
        return self._turned(self.base[index])

    def __iter__(self) -> Iterator[NDArray[Any]]:
        return (self._turned(image) for image in self.base)

    def _turned(self, image: NDArray[Any]) -> NDArray[Any]:
        down, left = _FLIPS[self.turn]
        return np.ascontiguousarray(image[:: -1 if down else 1, :: -1 if left else 1])

    def encoded(self, index: int) -> bytes | None:
        return None


def _change(how: StreamMapping, parts: list[NDArray[Any]]) -> NDArray[Any]:
    """Join, rotate, select and scale."""
    if len(parts) == 1 and not (how.rotate or how.entries or how.scale or how.offset):
        return parts[0]
    rows = np.concatenate([part.reshape(len(part), -1) for part in parts], axis=1)
    for rotate in sorted(how.rotate, key=lambda r: -r.first):  # from the back: places in front stay
        end = rotate.first + SIZES[rotate.source]
        turned = convert_rotation(rows[:, rotate.first : end], rotate.source, rotate.to)
        rows = np.concatenate([rows[:, : rotate.first], turned.astype(rows.dtype), rows[:, end:]], axis=1)
    if how.entries:
        rows = rows[:, list(how.entries)]
    dtype = rows.dtype
    if how.scale:
        rows = (rows * np.asarray(how.scale)).astype(dtype)
    if how.offset:
        rows = (rows + np.asarray(how.offset)).astype(dtype)
    return np.ascontiguousarray(rows)


def _in_words(how: StreamMapping) -> Iterator[tuple[str, str]]:
    for rotate in how.rotate:
        yield "computed", f"rotation at entry {rotate.first} from {rotate.source} to {rotate.to}"
    if how.scale or how.offset:
        yield "computed", f"scaled by {list(how.scale) or 1}, then moved by {list(how.offset) or 0}"
    if how.entries:
        yield "dropped", f"all entries but {list(how.entries)}"


def _cast(rows: NDArray[Any], dtype: str, key: str, ledger: Ledger) -> NDArray[Any]:
    wanted = np.dtype(dtype)
    if rows.dtype == wanted:
        return rows
    with np.errstate(invalid="ignore", over="ignore"):
        cast = rows.astype(wanted)
    error = float(np.max(np.abs(cast.astype(np.float64) - rows.astype(np.float64)), initial=0.0))
    if not np.array_equal(cast.astype(rows.dtype), rows, equal_nan=rows.dtype.kind == "f"):
        text = f"{rows.dtype} to {wanted}"
        ledger.add(Loss(key, "cast", text, rows=len(rows), measure={"max_error": error}))
    return cast


def _require_every_stream_named(contents: Contents, mapping: SetMapping, path: str) -> None:
    used = {source for how in mapping.streams.values() for source in how.source}
    for key in sorted(used | set(mapping.dropped)):
        if key not in contents.streams:
            near = difflib.get_close_matches(key, contents.streams, n=1)
            raise DataError(
                f"the mapping names a stream {key!r} which the set does not have",
                f"did you mean {near[0]!r}?" if near else f"it has {', '.join(contents.streams)}",
                file=path,
                key=key,
            )
    for key in contents.streams:
        if key not in used and key not in mapping.dropped:
            raise DataError(
                f"the mapping says nothing of the stream {key!r}",
                "give it a place under streams, or name it under dropped",
                file=path,
                key=key,
            )
    both = used & set(mapping.dropped)
    if both:
        raise DataError(
            f"{sorted(both)} is both mapped and dropped", "name it in one of the two places", file=path
        )


def _contents(contents: Contents, mapping: SetMapping, path: str) -> Contents:
    """What the result holds."""
    said = mapping.conventions or contents.conventions
    streams, grippers, orientation = {}, list[Gripper](), dict[str, Orientation]()
    rotation = {"action": said.rotation, "observation.state": said.state_rotation}
    for key, how in mapping.streams.items():
        sources = [contents.streams[source] for source in how.source]
        if not sources:
            raise DataError("no source stream is named", "give source: [key]", file=path, key=key)
        kinds = {spec.kind for spec in sources}
        if len(sources) > 1 and kinds != {"vector"}:
            raise DataError(
                f"{', '.join(how.source)} cannot be joined: only vectors can",
                "give each of them a stream of its own",
                file=path,
                key=key,
            )
        if kinds & {"image", "depth"}:
            lies = said.orientation.get(how.source[0], "unknown")
            if lies != "unknown":
                a, b = _FLIPS[lies], _FLIPS[how.turn]
                orientation[key] = _LYING[(a[0] ^ b[0], a[1] ^ b[1])]
            elif how.turn == "none" and how.source[0] in said.orientation:
                orientation[key] = "unknown"
            streams[key] = dataclasses.replace(sources[0], key=key)
            continue
        if how.turn != "none":
            raise DataError("only images can be turned", "take the turn away", file=path, key=key)
        streams[key], places = _vector(key, how, sources, path)
        grippers += _grippers(key, how, sources, places, said)
        for rotate in how.rotate:
            if key in rotation:
                rotation[key] = rotate.to
    conventions = dataclasses.replace(
        said,
        rotation=rotation["action"],
        state_rotation=rotation["observation.state"],
        orientation=orientation,
        grippers=tuple(grippers),
    )
    changed = (
        mapping.streams != propose(contents).streams or mapping.edits or conventions != contents.conventions
    )
    return dataclasses.replace(
        contents,
        streams=streams,
        rate_hz=mapping.rate_hz or contents.rate_hz,
        robot=mapping.robot or contents.robot,
        conventions=conventions,
        spec=None if changed else contents.spec,  # a contract holds for the data it was made for
    )


def _vector(
    key: str, how: StreamMapping, sources: Sequence[StreamSpec], path: str
) -> tuple[StreamSpec, list[int]]:
    """The stream, and where each of its entries was in the joined vector (-1: nowhere)."""
    first = sources[0]
    untouched = len(sources) == 1 and not (how.rotate or how.entries or how.scale or how.offset)
    if first.kind == "text" or (untouched and not (how.names or how.units or how.dtype)):
        return dataclasses.replace(first, key=key), list(range(int(np.prod(first.shape))))
    width = sum(int(np.prod(spec.shape)) for spec in sources)
    names = _joined([spec.names for spec in sources], sources)
    units = _joined([spec.units for spec in sources], sources)
    places = list(range(width))
    for rotate in sorted(how.rotate, key=lambda r: -r.first):
        if rotate.source not in SIZES or rotate.to not in SIZES:
            raise DataError(
                f"a rotation cannot be rewritten from {rotate.source} to {rotate.to}",
                f"the forms are {', '.join(SIZES)}",
                file=path,
                key=key,
            )
        end = rotate.first + SIZES[rotate.source]
        if not 0 <= rotate.first < end <= width:
            raise DataError(
                f"a {rotate.source} at entry {rotate.first} ends at {end}, the vector has {width} entries",
                "correct first",
                file=path,
                key=key,
            )
        size = SIZES[rotate.to]
        places[rotate.first : end] = [-1] * size
        names[rotate.first : end] = [f"{rotate.to}_{i}" for i in range(size)] if names else []
        units[rotate.first : end] = [""] * size if units else []
    chosen = list(how.entries) or list(range(len(places)))
    outside = [index for index in chosen if not 0 <= index < len(places)]
    if outside:
        raise DataError(
            f"entry {outside[0]} is chosen, the joined vector has {len(places)}",
            f"choose of 0 to {len(places) - 1}",
            file=path,
            key=key,
        )
    for what in ("scale", "offset", "names", "units"):
        given = getattr(how, what)
        if given and len(given) != len(chosen):
            raise DataError(
                f"{what} has {len(given)} entries, the stream has {len(chosen)}",
                f"give one {what} for each entry",
                file=path,
                key=key,
            )
    spec = StreamSpec(
        key,
        "vector",
        how.dtype or str(np.result_type(*(spec.dtype for spec in sources))),
        first.shape if untouched else (len(chosen),),
        how.names or tuple(names[i] for i in chosen if names),
        how.units or tuple(units[i] for i in chosen if units),
        first.rate_hz,
        first.about if len(sources) == 1 else {},
    )
    return spec, [places[i] for i in chosen]


def _joined(parts: Sequence[tuple[str, ...]], sources: Sequence[StreamSpec]) -> list[str]:
    """Names of a joined vector; parts without names are filled with empty ones if any has some."""
    if not any(parts):
        return []
    return [
        name
        for part, spec in zip(parts, sources, strict=True)
        for name in (part or ("",) * int(np.prod(spec.shape)))
    ]


def _grippers(
    key: str, how: StreamMapping, sources: Sequence[StreamSpec], places: list[int], said: Conventions
) -> Iterator[Gripper]:
    """The grippers of a resulting stream: where they went, and what scaling made of their values."""
    begin = 0
    for spec in sources:
        for gripper in said.grippers:
            place = begin + gripper.index
            if gripper.stream != spec.key or place not in places:
                continue
            index = places.index(place)
            scale = how.scale[index] if how.scale else 1.0
            offset = how.offset[index] if how.offset else 0.0
            yield dataclasses.replace(
                gripper,
                stream=key,
                index=index,
                open=gripper.open * scale + offset,
                closed=gripper.closed * scale + offset,
            )
        begin += int(np.prod(spec.shape))
