"""A bag's messages gathered into columns, one for each stream, and put on one clock.

Numbers and texts are kept; of an image only its place in the file is. What is odd about the times is found
here.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..ledger import DataError, Problem
from ..recording import StreamSpec
from .bag_files import BagFile, Channel, TornError, inflate_message
from .bag_messages import READ, MessageError, Row, camera_info, decode, rows, unlike

CLOCK_JUMP_NS = (
    10**9
)  # a stamp that leaves its receipt by more than this was taken on another clock, or waited
OTHER_CLOCK_NS = 10 * 10**9
RECORD = "regrip"  # name of the metadata record in MCAP files that regrip wrote
CAMERA_INFO = "sensor_msgs/msg/CameraInfo"
TASK_TOPICS = ("task", "instruction", "language_instruction", "prompt")
_BY_NAME = ("sensor_msgs/msg/JointState", "trajectory_msgs/msg/JointTrajectory")


@dataclass
class Column:
    """One stream of one bag as it comes.

    Attributes:
        first: its first row, which says kind, shape and names.
        channel: where it is recorded.
        log: when each row was received, ns.
        stamp: when it was taken by its header, ns; 0 where it does not say.
        values: numbers or texts.
        refs: of images: file, then its place there.
        odd: rows left out because their shape or names are not the first's.
    """

    first: Row
    channel: Channel
    log: array[int] = field(default_factory=lambda: array("q"))
    stamp: array[int] = field(default_factory=lambda: array("q"))
    values: list[Any] = field(default_factory=list)
    refs: list[tuple[int, int, int, int]] = field(default_factory=list)
    odd: int = 0

    @property
    def shape(self) -> tuple[int, ...]:
        return self.first.value.shape if isinstance(self.first.value, np.ndarray) else self.first.shape

    @property
    def dtype(self) -> str:
        if isinstance(self.first.value, np.ndarray):
            return str(self.first.value.dtype)
        return "str" if self.first.kind == "text" else self.first.dtype


@dataclass(frozen=True)
class Gathered:
    """A stream on the bag's clock.

    Attributes:
        spec: of the stream.
        channel: where it is recorded.
        ns: (N,) times, ns, never falling.
        values: (N,*shape) numbers, or texts; None for images.
        refs: (N,4) places of images.
    """

    spec: StreamSpec
    channel: Channel
    ns: NDArray[np.int64]
    values: NDArray[Any] | list[str] | None
    refs: NDArray[np.int64]


@dataclass(frozen=True)
class Bag:
    """All that is known of one bag once it was walked through."""

    streams: dict[str, Gathered]
    problems: list[Problem]
    cameras: dict[str, Any]
    metadata: dict[str, dict[str, str]]


def gather(files: Sequence[BagFile], name: str) -> Bag:
    """Walk through a bag (its parts in order).

    Raises:
        DataError: none of its messages can be read.
    """
    columns: dict[str, Column] = {}
    keys: dict[tuple[Any, ...], str] = {}
    bad: dict[tuple[str, str], list[Any]] = {}
    cameras: dict[str, Any] = {}
    problems: list[Problem] = []
    metadata: dict[str, dict[str, str]] = {}
    messages = 0
    for number, file in enumerate(files):
        for entry in file.walk():
            channel = entry.channel
            messages += 1
            why = _unread(channel)
            if why:
                bad.setdefault((channel.topic, why), [0, ""])[0] += 1
                continue
            try:
                data = inflate_message(entry.data) if channel.encoding == "cdr" else entry.data
                message = decode(channel.encoding, channel.type, data)
                if channel.type == CAMERA_INFO:
                    if channel.topic not in cameras:
                        cameras[channel.topic] = camera_info(message)
                    continue
                found = rows(channel.type, message)
            except (MessageError, TornError) as error:
                seen = bad.setdefault((channel.topic, "broken"), [0, str(error)])
                seen[0] += 1
                continue
            for row in found:
                column = columns[_key(columns, keys, channel, row)]
                row = _in_order(row, column.first)
                if column.first.kind != row.kind or not _alike(column, row):
                    column.odd += 1
                    continue
                column.log.append(_whole(entry.log_ns))
                column.stamp.append(_whole(row.stamp_ns))
                if row.value is None:
                    column.refs.append((number, *entry.ref))
                else:
                    column.values.append(row.value)
        problems += file.problems
        metadata |= file.metadata
    problems += [_left_out(name, topic, why, *seen) for (topic, why), seen in bad.items()]
    if not columns and not cameras and RECORD not in metadata:
        if messages or problems:
            told = "; ".join(str(problem) for problem in problems[:3])
            raise DataError(
                f"none of its {messages} messages can be read: {told}", "check the file", file=name
            )
        raise DataError("it holds no messages", "record again, or leave it out", file=name)
    for key, column in columns.items():
        if column.odd:
            problems.append(
                Problem(
                    f"{column.odd} messages have another shape or other names than the first "
                    f"({column.first.kind} {column.shape})",
                    "they are left out: record one size and one set of names per topic",
                    file=name,
                    key=key,
                )
            )
    columns = {key: column for key, column in columns.items() if len(column.log)}
    times, said = on_one_clock(columns, name)
    streams = {key: _gathered(key, column, *times[key]) for key, column in columns.items()}
    began_ns = min((int(stream.ns[0]) for stream in streams.values()), default=0)
    for stream in streams.values():
        said += _gaps(stream, began_ns, name)
    return Bag(streams, [*problems, *dict.fromkeys(said)], cameras, metadata)


def _unread(channel: Channel) -> str:
    if channel.encoding not in ("cdr", "ros1"):
        return f"messages of encoding {channel.encoding!r} are not read, only ROS 1 and CDR"
    if channel.type not in READ and channel.type != CAMERA_INFO:
        return f"messages of type {channel.type} are not read"
    return unlike(channel.encoding, channel.type, channel.definition)


def _left_out(name: str, topic: str, why: str, count: int, text: str) -> Problem:
    if why == "broken":
        return Problem(
            f"{count} messages cannot be read, the first because: {text}",
            "they are left out",
            file=name,
            key=topic,
        )
    remedy = "the topic is dropped: convert it to a type that is read before recording, if it is needed"
    return Problem(f"{count} messages: {why}", remedy, file=name, key=topic)


def topic_key(topic: str) -> str:
    """``/camera/front/image_raw`` as ``camera.front.image_raw``."""
    return ".".join(part for part in topic.split("/") if part) or "topic"


def _key(columns: dict[str, Column], keys: dict[tuple[Any, ...], str], channel: Channel, row: Row) -> str:
    """The column a row belongs to; made if it is the first of its kind.

    Joint states are taken by name, whatever their order. Publishers that share a topic and tell of different
    joints each have a stream of their own, called by their first joint in the alphabet.
    """
    by_name = channel.type in _BY_NAME
    joints = frozenset(row.names) if by_name else frozenset()
    place = (channel.topic, channel.type, row.suffix, joints)
    if place in keys:
        return keys[place]
    key = topic_key(channel.topic) + row.suffix
    if by_name and key in columns and columns[key].channel.topic == channel.topic:
        key = f"{topic_key(channel.topic)}.{min(row.names, default='none')}{row.suffix}"
    elif key in columns:
        key = f"{key}.{channel.type.rpartition('/')[2]}"
    count, base = 2, key
    while key in columns:
        key, count = f"{base}.{count}", count + 1
    keys[place] = key
    columns[key] = Column(row, channel)
    return key


def _in_order(row: Row, first: Row) -> Row:
    if row.names == first.names or not isinstance(row.value, np.ndarray):
        return row
    if set(row.names) != set(first.names) or row.value.shape[-1:] != (len(first.names),):
        return row
    order = [row.names.index(name) for name in first.names]
    return Row(row.suffix, row.kind, row.value[..., order], names=first.names, stamp_ns=row.stamp_ns)


def _alike(column: Column, row: Row) -> bool:
    if isinstance(row.value, np.ndarray):
        return row.value.shape == column.shape and row.names == column.first.names
    return row.shape == column.shape and row.dtype == column.first.dtype


def _whole(ns: int) -> int:
    return ns if -(2**62) < ns < 2**62 else 0


def on_one_clock(
    columns: dict[str, Column], name: str
) -> tuple[dict[str, tuple[NDArray[np.int64], NDArray[np.int64], str]], list[Problem]]:
    """Times for every column: header stamps where they hold up, else when messages were received.

    Returns:
        For each key the times in ns, the order of its rows by them, and ``header`` or ``log``; and what was
        found odd.
    """
    problems: list[Problem] = []

    def say(key: str, what: str, remedy: str, repaired: bool = False) -> None:
        # by topic, not by stream: positions and velocities come in one message
        problem = Problem(what, remedy, repaired, file=name, key=columns[key].channel.topic)
        if problem not in problems:
            problems.append(problem)

    logs = {key: np.array(column.log, dtype=np.int64) for key, column in columns.items()}
    stamps = {key: np.array(column.stamp, dtype=np.int64) for key, column in columns.items()}
    behind = {key: float(np.median(logs[key] - stamps[key])) for key in columns if (stamps[key] > 0).all()}
    # a bag that was played and recorded again has stamps of the first day and receipts of the second
    replayed = float(np.median(list(behind.values()))) if behind else 0.0
    replayed_ns = int(replayed) if abs(replayed) > OTHER_CLOCK_NS else 0
    times: dict[str, tuple[NDArray[np.int64], NDArray[np.int64], str]] = {}
    for key in columns:
        log, stamp = logs[key] - replayed_ns, stamps[key]
        trusted = key in behind
        if not trusted and (stamp > 0).any() and not np.array_equal(stamp, log):
            say(
                key,
                f"{int((stamp <= 0).sum())} of {len(stamp)} messages have no stamp",
                "the times of receipt are taken for this topic",
            )
        if trusted and abs(behind[key] - replayed_ns) > OTHER_CLOCK_NS:
            trusted = False
            if len(log) > 1:
                away = (behind[key] - replayed_ns) / 1e9
                say(
                    key,
                    f"its stamps are {away:.3f} s behind the times of receipt: they are of another clock",
                    "the times of receipt are taken for this topic",
                )
        if trusted:
            late = log - stamp
            falls = np.flatnonzero(np.diff(stamp) < 0)
            jumps = np.flatnonzero(np.abs(np.diff(late)) > CLOCK_JUMP_NS)
            if len(falls) and len(jumps):
                trusted = False
                back = (stamp[falls[0]] - stamp[falls[0] + 1]) / 1e9
                say(
                    key,
                    f"its stamps jump back by {back:.3f} s at message {int(falls[0]) + 1}: a clock was set",
                    "the times of receipt are taken for this topic",
                )
            elif len(falls):
                say(key, f"{len(falls)} messages came out of order", "they are sorted by their stamps", True)
            elif len(jumps):
                at = int(jumps[0])
                say(
                    key,
                    f"from message {at} to {at + 1} its stamps move {(late[at + 1] - late[at]) / 1e9:+.3f} s "
                    "against the times of receipt: a clock was set, or messages waited",
                    "the stamps are kept; compare with the other topics",
                )
        ns = stamp if trusted else log
        order = np.argsort(ns, kind="stable")
        times[key] = (ns[order], order, "header" if trusted else "log")
    if replayed_ns and len(behind) < len(columns):
        problems.append(
            Problem(
                f"the bag was received {replayed_ns / 1e9:.3f} s after its stamps: it was played again",
                "times of receipt, where there is no stamp, are moved back by that",
                file=name,
            )
        )
    return times, problems


def _gathered(
    key: str, column: Column, ns: NDArray[np.int64], order: NDArray[np.int64], clock: str
) -> Gathered:
    row = column.first
    about = {**row.about, "topic": column.channel.topic, "type": column.channel.type, "time": clock}
    spec = StreamSpec(key, row.kind, column.dtype, column.shape, row.names, about=about)  # type: ignore[arg-type]
    refs = np.array(column.refs, dtype=np.int64).reshape(-1, 4)
    if row.kind == "vector":
        return Gathered(spec, column.channel, ns, np.stack(column.values)[order], refs)
    if row.kind == "text":
        return Gathered(spec, column.channel, ns, [column.values[i] for i in order.tolist()], refs)
    return Gathered(spec, column.channel, ns, None, refs[order])


def _gaps(stream: Gathered, began_ns: int, name: str) -> list[Problem]:
    """Rows that share a moment; and, of a topic with an even rate, what is missing of it."""
    problems = []
    steps = np.diff(stream.ns)
    twice = int((steps == 0).sum())
    if twice:
        problems.append(
            Problem(
                f"{twice} messages have the time of the one before",
                "both are kept: resampling takes the later one",
                file=name,
                key=stream.channel.topic,
            )
        )
    if len(steps) < 10:
        return problems
    period = float(np.median(steps))
    if not period or np.percentile(steps, 75) > 1.5 * period:
        return problems
    gaps = np.flatnonzero(steps > 2.5 * period)
    if len(gaps):
        lost = round(float((steps[gaps] / period - 1).sum()))
        worst = int(gaps[np.argmax(steps[gaps])])
        problems.append(
            Problem(
                f"about {lost} messages are missing in {len(gaps)} places, at worst {steps[worst] / 1e9:.3f} "
                f"s after row {worst} where {period / 1e9:.3f} s is usual",
                "resample with a limit on staleness, which drops or marks these places",
                file=name,
                key=stream.channel.topic,
                frame=worst,
            )
        )
    late = int(stream.ns[0]) - began_ns
    if late > max(5 * period, 5e8):
        problems.append(
            Problem(
                f"it starts {late / 1e9:.3f} s after the first topic",
                "resampling leaves out what comes before",
                file=name,
                key=stream.channel.topic,
            )
        )
    return problems
