"""Streams and tasks as a view shows them: renamed, left out, cut down to some entries, padded, resized."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, cast

import numpy as np
from numpy.typing import NDArray

from ..ledger import DataError, Loss
from ..recording import Contents, Conventions, Frames, StreamSpec, Track
from ..spec import Camera, RobotSpec
from .picking import Fit, ResizedFrames, resized

_IMAGES, _LONGEST = "observation.images.", 1 << 16


@dataclass(frozen=True)
class Made:
    """How a stream of a view is made of one below.

    Attributes:
        key: of the stream below.
        columns: entries of a vector that stay, in order; -1 is a 0 that was never measured.
        mask: true for the stream that says which entries were measured.
        size: (height, width, fit) of images.
    """

    key: str
    columns: NDArray[np.int64] | None = None
    mask: bool = False
    size: tuple[int, int, Fit] | None = None

    def vectors(self, rows: NDArray[Any]) -> NDArray[Any]:
        """(n,D) rows of the stream below as rows of this one."""
        if self.columns is None:
            return rows
        if self.mask:
            return np.tile(self.columns >= 0, (len(rows), 1))
        taken = rows[:, np.maximum(self.columns, 0)]
        taken[:, self.columns < 0] = 0
        return taken

    def image(self, image: NDArray[Any]) -> NDArray[Any]:
        return image if self.size is None else resized(image, *self.size)

    def track(self, track: Track) -> Track:
        if self.size is not None:
            return Track(ResizedFrames(cast(Frames, track.rows), *self.size), track.time)
        if self.columns is not None and isinstance(track.rows, np.ndarray):
            return Track(self.vectors(track.rows), track.time)
        return track


@dataclass(frozen=True)
class Change:
    """What an operation makes of a set's streams.

    Attributes:
        contents: of the view.
        streams: how each of them is made.
        losses: what is lost by it.
    """

    contents: Contents
    streams: Mapping[str, Made]
    losses: tuple[Loss, ...] = ()


def find(key: str, of: Contents) -> StreamSpec:
    """A stream by key.

    Raises:
        DataError: there is none, naming the nearest.
    """
    if key in of.streams:
        return of.streams[key]
    near = difflib.get_close_matches(key, of.streams, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise DataError(f"no stream is called {key!r}", f"{hint}There are {', '.join(of.streams)}", key=key)


@dataclass(frozen=True)
class Rename:
    """Give streams other keys.

    Attributes:
        keys: old to new.
    """

    name: ClassVar[str] = "rename"
    keys: Mapping[str, str]

    def change(self, of: Contents) -> Change:
        for key in self.keys:
            find(key, of)
        names = {key: self.keys.get(key, key) for key in of.streams}
        for new in names.values():
            olds = [old for old, name in names.items() if name == new]
            if len(olds) > 1 or not new:
                raise DataError(f"{' and '.join(olds)} would both be {new!r}", "give each its own key")
        streams = {names[k]: dataclasses.replace(spec, key=names[k]) for k, spec in of.streams.items()}
        meant = _conventions(of.conventions, names, {})
        renamed = dataclasses.replace(of, streams=streams, conventions=meant, spec=_spec(of.spec, names))
        return Change(renamed, {names[key]: Made(key) for key in of.streams})


@dataclass(frozen=True)
class Drop:
    """Leave streams out.

    Attributes:
        keys: of the streams.
    """

    name: ClassVar[str] = "drop"
    keys: tuple[str, ...]

    def change(self, of: Contents) -> Change:
        for key in self.keys:
            find(key, of)
        names = {key: key for key in of.streams if key not in self.keys}
        if not names:
            raise DataError("every stream would be dropped", "keep at least one")
        streams = {key: of.streams[key] for key in names}
        meant = _conventions(of.conventions, names, {})
        left = dataclasses.replace(of, streams=streams, conventions=meant, spec=_spec(of.spec, names))
        losses = tuple(Loss(key, "dropped", "left out by the view", 0) for key in self.keys)
        return Change(left, {key: Made(key) for key in names}, losses)


@dataclass(frozen=True)
class Select:
    """Keep some entries of a vector, in the order given.

    Attributes:
        key: of the stream.
        entries: names, numbers (negative from the end) or slices of numbers such as ``0:7``.
    """

    name: ClassVar[str] = "select"
    key: str
    entries: tuple[str | int, ...]

    def change(self, of: Contents) -> Change:
        spec = _vector(self.key, of)
        columns = [column for entry in self.entries for column in _entry(entry, spec)]
        if not columns or len(columns) != len(set(columns)):
            raise DataError(f"entries {columns} of {spec.shape[0]}", "choose each once", key=self.key)
        smaller = _reshaped(spec, columns)
        lost = spec.shape[0] - len(columns)
        detail = f"{lost} of {spec.shape[0]} entries left out by the view"
        return Change(
            _replaced(of, smaller, columns),
            {**{key: Made(key) for key in of.streams}, self.key: Made(self.key, np.array(columns))},
            (Loss(self.key, "dropped", detail, 0),) if lost else (),
        )


@dataclass(frozen=True)
class Pad:
    """Make a vector longer, so that sets of several robots share it; a mask says which entries are real.

    Attributes:
        key: of the stream; the mask is ``<key>.valid``, bool (N,D).
        names: of all entries of the result; those that the vector has are taken, the others are 0.
        length: instead of `names`, for a vector without any: zeros are added at its end.
    """

    name: ClassVar[str] = "pad"
    key: str
    names: tuple[str, ...] = ()
    length: int = 0

    def change(self, of: Contents) -> Change:
        spec = _vector(self.key, of)
        mask = f"{self.key}.valid"
        if mask in of.streams:
            raise DataError(f"there is a stream {mask!r} already", "rename it first", key=self.key)
        if bool(self.names) == bool(self.length) or max(self.length, len(self.names)) > _LONGEST:
            raise DataError(f"names {self.names}, length {self.length}", "give one of them", key=self.key)
        if self.names:
            missing = [name for name in spec.names if name not in self.names]
            if not spec.names or missing or len(set(self.names)) != len(self.names):
                raise DataError(
                    f"entries {missing or spec.names} have no place among {self.names}",
                    "name every entry of the vector, each once, or pad by length",
                    key=self.key,
                )
            columns = [spec.names.index(name) if name in spec.names else -1 for name in self.names]
        else:
            if self.length < spec.shape[0]:
                raise DataError(
                    f"{spec.shape[0]} entries do not fit {self.length}", "pad to more", key=self.key
                )
            columns = [*range(spec.shape[0]), *[-1] * (self.length - spec.shape[0])]
        padded = dataclasses.replace(
            _reshaped(spec, columns), names=self.names or _padded(spec.names, columns)
        )
        valid = StreamSpec(mask, "vector", "bool", padded.shape, padded.names, (), padded.rate_hz)
        of_padded = _replaced(of, padded, columns)
        streams: dict[str, StreamSpec] = {}
        for key, each in of_padded.streams.items():
            streams |= {key: each, mask: valid} if key == self.key else {key: each}
        wide = np.array(columns)
        made = {key: Made(key) for key in of.streams}
        made |= {self.key: Made(self.key, wide), mask: Made(self.key, wide, mask=True)}
        detail = f"{sum(c < 0 for c in columns)} entries of 0 added, {mask} says which"
        losses = (Loss(self.key, "padded", detail, 0),) if min(columns) < 0 else ()
        return Change(dataclasses.replace(of_padded, streams=streams), made, losses)


@dataclass(frozen=True)
class Resize:
    """Give images another size.

    Attributes:
        height: in pixels.
        width: in pixels.
        fit: ``pad`` keeps proportions and fills with black, ``squash`` does not.
        keys: streams of images or depth; all images (not depth) if empty.
    """

    name: ClassVar[str] = "resize"
    height: int
    width: int
    fit: Fit = "pad"
    keys: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not (1 <= self.height <= 8192 and 1 <= self.width <= 8192):
            raise DataError(f"a size of {self.height} x {self.width}", "give 1 to 8192 pixels each way")

    def change(self, of: Contents) -> Change:
        made = {key: Made(key) for key in of.streams}
        streams, losses = dict(of.streams), []
        for key in self.keys or of.of_kind("image"):
            spec = find(key, of)
            if spec.kind not in ("image", "depth"):
                raise DataError(f"a {spec.kind} has no size", "name streams of images", key=key)
            if spec.shape[:2] == (self.height, self.width):
                continue
            made[key] = Made(key, size=(self.height, self.width, self.fit))
            streams[key] = dataclasses.replace(
                spec,
                shape=(self.height, self.width, *spec.shape[2:]),
                about={name: value for name, value in spec.about.items() if name != "codec"},
            )
            how = "padded" if self.fit == "pad" else "squashed"
            detail = (
                f"{spec.shape[0]} x {spec.shape[1]} to {self.height} x {self.width} (height x width), {how}"
            )
            losses.append(Loss(key, "resized", detail, 0))
        spec_of = of.spec
        if spec_of is not None:
            resized_keys = {key.removeprefix(_IMAGES) for key, each in made.items() if each.size}
            cameras = tuple(
                dataclasses.replace(c, height=self.height, width=self.width) if c.name in resized_keys else c
                for c in spec_of.cameras
            )
            spec_of = dataclasses.replace(spec_of, cameras=cameras)
        return Change(dataclasses.replace(of, streams=streams, spec=spec_of), made, tuple(losses))


@dataclass(frozen=True)
class Retask:
    """Give episodes another instruction.

    Attributes:
        tasks: old to new, the old one word for word.
        episodes: which (``0:10``, ``task=pick*``) to their new task; later ones win, and win over `tasks`.
    """

    name: ClassVar[str] = "retask"
    tasks: Mapping[str, str] = field(default_factory=dict)
    episodes: Mapping[str, str] = field(default_factory=dict)

    def change(self, of: Contents) -> Change:
        return Change(of, {key: Made(key) for key in of.streams})


def _vector(key: str, of: Contents) -> StreamSpec:
    spec = find(key, of)
    if spec.kind != "vector" or len(spec.shape) != 1:
        raise DataError(
            f"a {spec.kind} of shape {spec.shape} has no entries to choose", "name a flat vector", key=key
        )
    return spec


def _entry(entry: str | int, spec: StreamSpec) -> list[int]:
    """Columns that an entry names."""
    count = spec.shape[0]
    if isinstance(entry, str) and entry in spec.names:
        return [spec.names.index(entry)]
    text = str(entry).strip()
    first, colon, last = text.partition(":")
    try:
        if colon:
            window = slice(int(first) if first else None, int(last) if last else None)
            return list(range(*window.indices(count)))
        if -count <= int(text) < count:
            return [int(text) % count]
    except ValueError:
        pass
    raise DataError(
        f"no entry {entry!r} among {count}",
        f"give a name, a number or a slice; the names are {', '.join(spec.names) or 'not known'}",
        key=spec.key,
    )


def _reshaped(spec: StreamSpec, columns: Collection[int]) -> StreamSpec:
    """The spec with these entries; -1 has the unit ``""``."""
    names = tuple(spec.names[c] if c >= 0 else "" for c in columns) if spec.names else ()
    units = tuple(spec.units[c] if c >= 0 else "" for c in columns) if spec.units else ()
    return dataclasses.replace(spec, shape=(len(columns),), names=names, units=units)


def _padded(names: tuple[str, ...], columns: list[int]) -> tuple[str, ...]:
    return tuple(names[c] if c >= 0 else f"padding_{i}" for i, c in enumerate(columns)) if names else ()


def _replaced(of: Contents, spec: StreamSpec, columns: list[int]) -> Contents:
    meant = _conventions(of.conventions, {key: key for key in of.streams}, {spec.key: columns})
    contract = of.spec
    if contract is not None and spec.key in ("action", "observation.state"):
        axes = contract.action if spec.key == "action" else contract.state
        if min(columns) < 0 or max(columns) >= len(axes):
            contract = None  # no robot has an axis of padding
        elif spec.key == "action":
            contract = dataclasses.replace(contract, action=tuple(axes[c] for c in columns))
        else:
            contract = dataclasses.replace(contract, state=tuple(axes[c] for c in columns))
    streams = {key: spec if key == spec.key else each for key, each in of.streams.items()}
    return dataclasses.replace(of, streams=streams, conventions=meant, spec=contract)


def _conventions(
    meant: Conventions, names: Mapping[str, str], columns: Mapping[str, list[int]]
) -> Conventions:
    """Conventions after a renaming, or a choice of entries; what is said of absent streams goes."""
    grippers = []
    for gripper in meant.grippers:
        order = columns.get(gripper.stream)
        if gripper.stream not in names or (order is not None and gripper.index not in order):
            continue
        index = gripper.index if order is None else order.index(gripper.index)
        grippers.append(dataclasses.replace(gripper, stream=names[gripper.stream], index=index))
    orientation = {names[key]: how for key, how in meant.orientation.items() if key in names}
    return dataclasses.replace(meant, grippers=tuple(grippers), orientation=orientation)


def _spec(contract: RobotSpec | None, names: Mapping[str, str]) -> RobotSpec | None:
    """The contract with its cameras renamed or left out; none where it no longer says what an action is."""
    if contract is None:
        return None
    gone = [key for key in ("action", "observation.state") if names.get(key) != key]
    if gone:
        return None
    cameras: list[Camera] = []
    for camera in contract.cameras:
        new = names.get(_IMAGES + camera.name, "")
        if new.startswith(_IMAGES):
            cameras.append(dataclasses.replace(camera, name=new.removeprefix(_IMAGES)))
    return dataclasses.replace(contract, cameras=tuple(cameras))
