"""What is in a data set: streams, counts, rates, ranges, pictures, conventions, and what is wrong with it."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..frames import codec_of
from ..ledger import DataError, Problem
from ..recording import Contents, Frames, Recording, Source, StreamSpec
from .detect_conventions import Fit, detect
from .evidence import SAID, Aligned, Array, Detected, align, columns_of, numbers
from .lint import find_problems, width_differs
from .lint_conventions import DECODED, of_cameras, of_conventions
from .lint_episodes import EpisodeFacts, episode_facts
from .row_summaries import JITTER, Clock, ClockGatherer, EntryRange, RangeGatherer

SAMPLE_EPISODES = 200
_PAIRED_ROWS = 20_000  # for the detection of conventions
_EPISODES_SEEN = 20  # whose pictures are looked at
_FRAMES_SEEN = (
    64  # of each, where images must be decoded; where they are files, the bytes of 1000 are compared
)
_FILES_SEEN = 1000
_ENTRIES = 256  # of a stream, whose ranges are told
_BLACK = 3.0  # mean brightness below which a frame is black, of 255
SURE = 0.7  # confidence from which a convention is proposed for a mapping


@dataclass(frozen=True)
class Camera:
    """What the pictures of one stream look like, in the episodes looked at.

    Attributes:
        stream: its key.
        codec: ``jpeg``, ``png``, ... of image files, ``pixels or video`` otherwise, ``""`` if none was seen.
        frames: pictures whose brightness was measured.
        brightness: their mean, 0 to 255; NaN for none, or for depth.
        black: how many of them are black (or have no depth at all).
        black_at: episode and row of the first, (-1, -1) for none.
        pairs: neighbours that were compared.
        repeated: how many of them are identical.
        frozen: how many are identical although the robot moved meanwhile.
        frozen_at: episode and row of the first of the longest such run, (-1, -1) for none.
        frozen_rows: length of that run.
    """

    stream: str
    codec: str
    frames: int
    brightness: float
    black: int
    black_at: tuple[int, int]
    pairs: int
    repeated: int
    frozen: int
    frozen_at: tuple[int, int]
    frozen_rows: int


@dataclass(frozen=True)
class Inspection:
    """All that `inspect` found.

    Attributes:
        format: of the source.
        path: of the source.
        robot: its name, ``""`` if not said.
        episodes: in the set.
        episodes_read: whose rows were read; what follows on ranges, times, tasks and conventions is of these.
        steps: in the set.
        hours: in the set; from the episodes read, if not all were.
        lengths: steps of the shortest, the median and the longest episode.
        tasks: instruction to number of episodes, the commonest first.
        successes: episodes that succeeded.
        judged: episodes of which it is known.
        idle: share of steps in which neither action nor state changed.
        rows: of each stream in the whole set.
        streams: what they hold.
        clocks: the times, one for all streams that share them.
        ranges: of every entry of every vector stream.
        cameras: what the pictures look like.
        conventions: by name: ``action``, ``observed``, ``rotation``, ``gripper action[6]``, ``rate_hz``, ...
        problems: what is wrong, what the source found first.
    """

    format: str
    path: str
    robot: str
    episodes: int
    episodes_read: int
    steps: int
    hours: float
    lengths: tuple[int, int, int]
    tasks: Mapping[str, int]
    successes: int
    judged: int
    idle: float
    rows: Mapping[str, int]
    streams: Mapping[str, StreamSpec]
    clocks: Sequence[Clock]
    ranges: Sequence[EntryRange]
    cameras: Sequence[Camera]
    conventions: Mapping[str, Detected]
    problems: Sequence[Problem]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON: what is not a finite number is null."""
        told: dict[str, Any] = _plain({f.name: getattr(self, f.name) for f in dataclasses.fields(self)})
        return told

    def proposal(self) -> dict[str, dict[str, Any]]:
        """The conventions for a mapping: ``{name: {value, confidence, evidence}}``.

        What is less sure than `SURE` has the value ``unknown`` (for a gripper, open and closed are None) and
        the guess stands beside it.
        """
        found: dict[str, dict[str, Any]] = {}
        for name, one in self.conventions.items():
            value: Any = one.value
            line: dict[str, Any] = {"confidence": one.confidence, "evidence": one.evidence}
            if one.confidence < SURE and value not in ("unknown", None):
                line["guess"] = value
                value = {**value, "open": None, "closed": None} if isinstance(value, dict) else "unknown"
            found[name] = {"value": value, **line}
        return found


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float | np.floating):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, np.generic):
        return value.item()
    return value if isinstance(value, str | int | bool) or value is None else str(value)


def inspect(
    source: Source,
    sample_episodes: int | None = SAMPLE_EPISODES,
    progress: Callable[[int, int], None] | None = None,
) -> Inspection:
    """Look at a set: everything that its numbers and a few of its pictures tell.

    Args:
        source: the set. Lengths are of all episodes, the rest of those read.
        sample_episodes: how many to read, evenly spread; None for all.
        progress: called with (episodes read, episodes to read).

    Raises:
        DataError: the set cannot be read at all. Single episodes that cannot are problems.
    """
    with np.errstate(all="ignore"):  # what is not finite is counted, not warned of
        return _inspect(source, sample_episodes, progress)


def _inspect(
    source: Source, sample_episodes: int | None, progress: Callable[[int, int], None] | None
) -> Inspection:
    total = len(source)
    chosen = spread(total, sample_episodes)
    gathered = _Gatherer(source.contents, set(spread(len(chosen), _EPISODES_SEEN)))
    lengths: list[int] = []
    rows: Counter[str] = Counter()
    for episode in range(total):
        try:
            held = source.num_rows(episode)
        except DataError as error:
            gathered.problems.append(_unreadable(error, episode))
            continue
        rows.update(held)
        lengths.append(_steps(held))
    for number, episode in enumerate(chosen):
        try:
            gathered.add(number, episode, source[episode], source.num_rows(episode))
        except DataError as error:
            gathered.problems.append(_unreadable(error, episode))
        if progress is not None:
            progress(number + 1, len(chosen))
    return gathered.finish(source, len(chosen), lengths, dict(rows))


def spread(total: int, most: int | None) -> list[int]:
    """At most so many of 0..total-1, evenly spread, the first and the last among them."""
    if most is None or total <= most:
        return list(range(total))
    return sorted({round(x) for x in np.linspace(0, total - 1, max(most, 1))})


def _steps(rows: Mapping[str, int]) -> int:
    return rows["action"] if "action" in rows else max(rows.values(), default=0)


def _unreadable(error: DataError, episode: int) -> Problem:
    at = error.episode if error.episode is not None else episode
    return Problem(error.what, error.remedy, file=error.file, episode=at, frame=error.frame, key=error.key)


class _Gatherer:
    """What is gathered while the episodes pass by, each once."""

    def __init__(self, contents: Contents, seen: set[int]) -> None:
        self.contents, self.seen = contents, seen
        self.actions, self.states = columns_of(contents.streams)
        self.ranges: dict[str, RangeGatherer] = {}
        self.clocks: dict[str, ClockGatherer] = {}
        self.cameras: dict[str, _CameraGatherer] = {}
        self.low = np.full(len(self.states), np.inf)
        self.high = np.full(len(self.states), -np.inf)
        self.tasks: Counter[str] = Counter()
        self.pairs: list[tuple[Array, Array]] = []
        self.paired = 0
        self.periods: list[float] = []
        self.facts: list[EpisodeFacts] = []
        self.problems: list[Problem] = []

    def add(self, number: int, episode: int, recording: Recording, promised: Mapping[str, int]) -> None:
        self.tasks[recording.task] += 1
        for key, track in recording.streams.items():
            self.clocks.setdefault(key, ClockGatherer()).add(
                episode, np.asarray(track.time, dtype=np.float64)
            )
            spec = self.contents.streams.get(key)
            if spec is None or spec.kind != "vector":
                continue
            values = numbers(track)
            gatherer = self.ranges.setdefault(key, RangeGatherer(values.shape[1]))
            if values.shape[1] != gatherer.width:
                self.problems.append(width_differs(episode, key, values.shape[1], gatherer.width))
                continue
            gatherer.add(episode, values)
        pair = align(recording, self.actions, self.states, _PAIRED_ROWS)
        if pair is not None and len(pair[1]):
            with np.errstate(invalid="ignore"):
                self.low = np.fmin(self.low, np.nan_to_num(pair[1], nan=np.inf).min(0))
                self.high = np.fmax(self.high, np.nan_to_num(pair[1], nan=-np.inf).max(0))
        span = np.where(np.isfinite(self.high - self.low), self.high - self.low, 0)
        facts = episode_facts(episode, recording, promised, pair, self.contents, span)
        self.facts.append(facts)
        if pair is not None and self.paired < _PAIRED_ROWS:
            self.pairs.append(pair[:2])
            self.paired += len(pair[0])
            if len(pair[2]) > 1:
                self.periods.append(float(np.median(np.diff(pair[2]))))
        if number in self.seen:
            for key, spec in self.contents.of_kind("image", "depth").items():
                if key in recording.streams:
                    camera = self.cameras.setdefault(key, _CameraGatherer(key, spec.kind == "depth"))
                    try:
                        camera.add(
                            episode, recording.streams[key].rows, recording.streams[key].time, facts.moving
                        )
                    except DataError as error:
                        self.problems.append(_unreadable(error, episode))

    def finish(self, source: Source, read: int, lengths: list[int], rows: dict[str, int]) -> Inspection:
        contents = self.contents
        clocks = self._grouped()
        ranges = [
            entry
            for key, gatherer in self.ranges.items()
            for entry in gatherer.ranges(
                key, contents.streams[key].names, contents.streams[key].units, _ENTRIES
            )
        ]
        period = float(np.median(self.periods)) if self.periods else math.nan
        data = Aligned(self.actions, self.states, tuple(self.pairs), period)
        conventions, fit = detect(contents, data, _rate(contents, clocks))
        seconds, steps_read = sum(f.seconds for f in self.facts), sum(f.steps for f in self.facts)
        steps = sum(lengths)
        still = sum(f.idle for f in self.facts)
        compared = sum(max(f.steps - 1, 0) for f in self.facts)
        cameras = [camera.result() for camera in self.cameras.values()]
        judged = [f.success for f in self.facts if f.success is not None]
        problems = [
            *source.problems, *self.problems,
            *find_problems(contents, self.facts, self.tasks, clocks, ranges),
            *of_conventions(contents, conventions, fit, data),
            *of_cameras(cameras),
        ]  # fmt: skip
        return Inspection(
            format=source.format, path=str(source.path), robot=contents.robot, episodes=len(source),
            episodes_read=len(self.facts), steps=steps,
            hours=seconds / 3600 * (steps / steps_read if steps_read and read < len(source) else 1.0),
            lengths=(min(lengths), round(float(np.median(lengths))), max(lengths)) if lengths else (0, 0, 0),
            tasks=dict(self.tasks.most_common()), successes=sum(judged), judged=len(judged),
            idle=still / compared if compared else 0.0,
            rows=rows, streams=contents.streams, clocks=clocks, ranges=ranges, cameras=cameras,
            conventions=conventions, problems=list(dict.fromkeys(problems)),
        )  # fmt: skip

    def _grouped(self) -> list[Clock]:
        groups: list[list[str]] = []
        for key in self.clocks:
            home = next((g for g in groups if self.clocks[g[0]].same(self.clocks[key])), None)
            groups.append([key]) if home is None else home.append(key)
        found = []
        for group in groups:
            specs = [self.contents.streams[key] for key in group if key in self.contents.streams]
            rates = [s.rate_hz for s in specs if s.rate_hz is not None]
            nominal = bool(specs) and all(s.about.get("time") == "nominal" for s in specs)
            rate = rates[0] if rates else self.contents.rate_hz
            longest = max(group, key=lambda key: len(self.clocks[key].digests))
            found.append(self.clocks[longest].clock(tuple(group), nominal, rate))
        return found


def _rate(contents: Contents, clocks: Sequence[Clock]) -> Detected:
    """The control rate: of the clock that the actions have, or of the first."""
    clock = next((c for c in clocks if "action" in c.streams), clocks[0] if clocks else None)
    said = contents.rate_hz
    if clock is None or not math.isfinite(clock.measured_hz):
        return (
            Detected(said, 1.0, SAID) if said else Detected.unknown("there are no times to measure it from")
        )
    words = (
        f"the median step is {1000 / clock.measured_hz:.4g} ms, 95 % within {clock.jitter_ms:.2g} ms of it"
    )
    if said is not None:
        return Detected(said, 1.0, f"{SAID}; {words}")
    measured = float(f"{clock.measured_hz:.4g}")
    if clock.nominal:
        return Detected(measured, 0.3, f"{words}; but these times were made from a rate, not measured")
    even = clock.jitter_ms / 1000 * clock.measured_hz <= JITTER
    return Detected(measured, 0.9 if even else 0.5, words + ("" if even else ", which is uneven"))


Moving = Callable[[Array], NDArray[np.bool_]]


class _CameraGatherer:
    def __init__(self, key: str, depth: bool) -> None:
        self.key, self.depth, self.codec = key, depth, ""
        self.light: list[float] = []
        self.black, self.black_at = 0, (-1, -1)
        self.pairs = self.repeated = self.frozen = self.longest = 0
        self.frozen_at = (-1, -1)

    def add(
        self, episode: int, frames: Any, time: Array, moving: Callable[[Array], NDArray[np.bool_]]
    ) -> None:
        """Measure brightness and compare neighbours; `moving` says whether the robot moved into each time."""
        if not len(frames):
            return
        first = frames.encoded(0)
        prints: Iterable[bytes]
        if first is not None:
            self.codec = codec_of(first) or "unknown"
            prints = (_print(frames.encoded(i) or b"") for i in range(min(len(frames), _FILES_SEEN)))
            for i in spread(len(frames), 6):
                self._measure(episode, i, frames[i])
        else:
            self.codec = DECODED
            prints = self._decoded(episode, frames)
        moved = moving(np.asarray(time))
        before: bytes | None = None
        run, run_moved = 0, 0
        for i, now in enumerate(prints):
            if before is not None:
                self.pairs += 1
                if now == before:
                    self.repeated += 1
                    run, run_moved = run + 1, run_moved + int(moved[i])
                    if moved[i]:
                        self.frozen += 1
                        if run_moved > self.longest:
                            self.longest, self.frozen_at = run_moved, (episode, i - run)
                else:
                    run = run_moved = 0
            before = now

    def _decoded(self, episode: int, frames: Frames) -> Iterable[bytes]:
        for i, image in enumerate(itertools.islice(frames, _FRAMES_SEEN)):
            self._measure(episode, i, image)
            yield _print(np.ascontiguousarray(image).tobytes())

    def _measure(self, episode: int, row: int, image: Array) -> None:
        mean = float(np.nan_to_num(np.asarray(image[::4, ::4], dtype=np.float64)).mean())
        self.light.append(mean)
        if mean <= (0 if self.depth else _BLACK):
            self.black += 1
            if self.black_at == (-1, -1):
                self.black_at = (episode, row)

    def result(self) -> Camera:
        light = float(np.mean(self.light)) if self.light and not self.depth else math.nan
        return Camera(
            self.key, self.codec, len(self.light), light, self.black, self.black_at, self.pairs,
            self.repeated, self.frozen, self.frozen_at, self.longest,
        )  # fmt: skip


def _print(data: bytes) -> bytes:
    return blake2b(data, digest_size=16).digest()


__all__ = ["Camera", "Clock", "Detected", "EntryRange", "Fit", "Inspection", "inspect"]
