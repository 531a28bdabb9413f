"""A recording as any format may hold it: streams of rows, each row with the time it was taken.

`Episode` is what a policy learns from: one clock, float32, a known robot. A `Recording` comes before that:
what somebody's file says, at the rates and in the types it says it, with nothing resampled, cast or guessed.
Readers give recordings, writers take them, and the store keeps them as they are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from .ledger import Problem
from .spec import RobotSpec

Kind = Literal["image", "depth", "vector", "text"]
ActionKind = Literal["absolute", "delta", "relative", "velocity", "unknown"]
Rotation = Literal[
    "rotation_vector", "rotation_vector_uncanonical", "euler_xyz", "quaternion_xyzw", "quaternion_wxyz",
    "rot6d_rows", "rot6d_columns", "matrix", "none", "unknown",
]  # fmt: skip
Orientation = Literal["upright", "rot180", "vflip", "mirrored", "unknown"]


class Frames(Protocol):
    """The images of one stream of one episode, in order; nothing is decoded before it is asked for."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> NDArray[Any]:
        """One decoded image: uint8 (H,W,3) RGB, or depth (H,W) uint16 or float32."""
        ...

    def __iter__(self) -> Iterator[NDArray[Any]]:
        """All of them in order, which a video decodes faster than one by one."""
        ...

    def encoded(self, index: int) -> bytes | None:
        """The image file that the source holds (JPEG, PNG, WebP, JPEG-XL or TIFF), to be copied as it is.

        None where there is no such thing (raw pixels, video).
        """
        ...


@dataclass(frozen=True)
class StreamSpec:
    """What one stream holds.

    Attributes:
        key: dotted, by LeRobot's names: ``observation.images.<camera>``, ``observation.depth.<camera>``,
            ``observation.state``, ``action``, ``reward``, ``success``; others keep their own.
        kind: image (uint8 RGB), depth (uint16 or float32), vector (any number of numbers or truths) or text.
        dtype: numpy's name of one entry; ``str`` for text.
        shape: of one row: (H,W,3), (H,W), (D,), more dimensions, or () for a single number or text.
        names: of a vector's entries; empty where the source has none.
        units: of a vector's entries, ``m``, ``rad``, ...; empty where not known.
        rate_hz: nominal rate; None if uneven or not known.
        about: whatever else the source says of it, as JSON (a depth image's ``unit``, a codec, ...).
    """

    key: str
    kind: Kind
    dtype: str
    shape: tuple[int, ...]
    names: tuple[str, ...] = ()
    units: tuple[str, ...] = ()
    rate_hz: float | None = None
    about: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Gripper:
    """What the numbers of one gripper mean, the commonest silent error of robot data.

    Attributes:
        stream: key of the stream.
        index: which entry of it.
        kind: ``binary`` (two values), ``continuous`` (any between), ``width`` (opening, in `unit`).
        open: the value when open.
        closed: the value when closed.
        unit: ``""`` for a fraction, ``m``, ``rad``, ``percent``.
    """

    stream: str
    index: int
    kind: Literal["binary", "continuous", "width"]
    open: float
    closed: float
    unit: str = ""


@dataclass(frozen=True)
class Conventions:
    """What a set's numbers mean, where the numbers cannot say it. ``unknown`` is an answer, a guess is not.

    Attributes:
        action: absolute targets, delta (per step, from the previous), relative (to the state at the start of
            a chunk) or velocity. Grippers are always absolute.
        rotation: form of the rotation in `action`.
        state_rotation: form of the rotation in ``observation.state``.
        frame: of the action's translation and rotation: ``base``, ``tool`` or ``""``.
        observed: whether row t of an observation was taken ``before`` action t ran, or ``after`` (LIBERO's
            original files).
        orientation: image stream key to how its pixels lie, ``upright`` being as a person would hold them.
        grippers: every gripper entry of every stream.
    """

    action: ActionKind = "unknown"
    rotation: Rotation = "unknown"
    state_rotation: Rotation = "unknown"
    frame: str = ""
    observed: Literal["before", "after", "unknown"] = "unknown"
    orientation: dict[str, Orientation] = field(default_factory=dict)
    grippers: tuple[Gripper, ...] = ()


@dataclass(frozen=True)
class Contents:
    """What a whole set holds.

    Attributes:
        streams: every stream that any episode has, by key.
        rate_hz: nominal control rate; None where nothing says it (UMI) or streams have their own.
        robot: its name, ``""`` if the source gives none.
        conventions: what the numbers mean.
        spec: the contract, where one is known (sets that regrip recorded); else None.
        about: everything else that the source says of the set, as JSON, kept so that a copy can say it again.
    """

    streams: Mapping[str, StreamSpec]
    rate_hz: float | None = None
    robot: str = ""
    conventions: Conventions = field(default_factory=Conventions)
    spec: RobotSpec | None = None
    about: Mapping[str, Any] = field(default_factory=dict)

    def of_kind(self, *kinds: Kind) -> dict[str, StreamSpec]:
        """The streams of these kinds, in order."""
        return {key: stream for key, stream in self.streams.items() if stream.kind in kinds}


@dataclass(frozen=True)
class Track:
    """One stream of one episode.

    Attributes:
        rows: (N, *shape) array of the stream's dtype for a vector, N strings for text, `Frames` for images.
        time: float64 (N,) seconds since the recording `began`; never falling. Sources without a clock have
            row over rate, starting at 0, and say so (``about["time"] == "nominal"`` of the stream).
    """

    rows: NDArray[Any] | Sequence[str] | Frames
    time: NDArray[np.float64]

    def __post_init__(self) -> None:
        if len(self.rows) != len(self.time):
            raise ValueError(f"a track has {len(self.rows)} rows and {len(self.time)} times")

    def __len__(self) -> int:
        return len(self.time)


@dataclass(frozen=True)
class Recording:
    """One episode, as it was recorded.

    Attributes:
        streams: by key; a stream that this episode lacks (no wrist camera that day) is absent.
        task: the instruction; ``""`` if there was none. Where it changes on the way, a text stream ``task``
            says so and this is its first row.
        success: None where the source does not say.
        terminated: it ended by itself (success or failure); None where the source does not say.
        truncated: it was cut off by a limit or a person; None where the source does not say.
        began_ns: wall clock of time 0, nanoseconds since 1970; None where the source does not say.
        about: everything else said of this episode, as JSON: source file, id, operator, seed, start, split.
    """

    streams: Mapping[str, Track]
    task: str = ""
    success: bool | None = None
    terminated: bool | None = None
    truncated: bool | None = None
    began_ns: int | None = None
    about: Mapping[str, Any] = field(default_factory=dict)

    @property
    def num_steps(self) -> int:
        """Rows of ``action``, or of the longest stream where there is none."""
        if "action" in self.streams:
            return len(self.streams["action"])
        return max((len(track) for track in self.streams.values()), default=0)

    @property
    def aligned(self) -> bool:
        """Whether every stream has a row for every step, taken at the same time: what most formats need."""
        times = [track.time for track in self.streams.values()]
        return all(len(t) == len(times[0]) and np.array_equal(t, times[0]) for t in times[1:])


class Source(Protocol):
    """A data set of any format, opened for reading. It is never written to.

    Attributes:
        format: name in `formats.FORMATS`.
        path: where it is.
        contents: what it holds.
        problems: what was found wrong when it was opened, and what of that could be repaired in reading.
    """

    @property
    def format(self) -> str: ...

    @property
    def path(self) -> str: ...

    @property
    def contents(self) -> Contents: ...

    @property
    def problems(self) -> Sequence[Problem]: ...

    def __len__(self) -> int:
        """Number of episodes."""
        ...

    def __getitem__(self, episode: int) -> Recording:
        """One episode: numbers are read, images wait.

        Raises:
            DataError: naming file, episode, frame and key of what cannot be read.
            IndexError: there is no such episode.
        """
        ...

    def num_rows(self, episode: int) -> Mapping[str, int]:
        """Rows of each stream of one episode, without reading them."""
        ...

    def close(self) -> None: ...


class RowAccess(Protocol):
    """Random access to single rows, which a loader needs: the store has it, and every view of a store.

    Each stream has rows 0..N-1 of its own over all episodes, those of one episode being neighbours.
    """

    @property
    def contents(self) -> Contents: ...

    def __len__(self) -> int:
        """Number of episodes."""
        ...

    def tasks(self) -> Sequence[str]:
        """The instruction of each episode."""
        ...

    def bounds(self, key: str) -> NDArray[np.int64]:
        """(E,2) first row and one past the last of each episode; equal where an episode lacks the stream."""
        ...

    def vectors(self, key: str, rows: NDArray[np.int64]) -> NDArray[Any]:
        """(n,*shape) rows of a vector stream, in the order asked for."""
        ...

    def times(self, key: str, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """(n,) their times, in seconds since their recording began."""
        ...

    def image(self, key: str, row: int) -> NDArray[Any]:
        """One decoded image of an image or depth stream."""
        ...


class Sink(Protocol):
    """A data set being written, in a place where nothing takes it for a whole one until `close`.

    Attributes:
        done: episodes that are in it and would survive a `kill -9` now. A sink made anew on the same
            unfinished place begins with those that an earlier process finished.
    """

    done: int

    def write(self, recording: Recording) -> None:
        """Add an episode; what the format cannot hold goes to the ledger the sink was made with.

        Raises:
            DataError: this recording cannot be written at all (streams that are not aligned, a missing task).
        """
        ...

    def close(self) -> None:
        """Finish: write what is written last (statistics, counts, footers) and put the set in its place."""
        ...

    def abandon(self) -> None:
        """Let go without finishing; the unfinished place stays, to be resumed."""
        ...
