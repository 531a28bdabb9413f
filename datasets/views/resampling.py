"""Streams of many rates on one clock, by a policy that is named for each and reported for each.

Every comparison of times is made in whole nanoseconds. Images are picked, never blended, and none is read.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..ledger import DataError, Loss
from ..recording import Contents, Frames, Recording, StreamSpec, Track

Policy = Literal["nearest", "previous", "next", "linear", "slerp"]
POLICIES: tuple[Policy, ...] = ("nearest", "previous", "next", "linear", "slerp")
SLACK_NS = 1000  # times are written with microseconds at best: closer than this is the same moment
MAX_TICKS = 1 << 26
VALID = "valid"

# Seconds from the event to the time that UMI's recorder wrote down, as its training configuration has them.
UMI_LATENCY_S = {"camera": 0.125, "robot": 0.0001, "gripper": 0.02}


@dataclass(frozen=True)
class PickedFrames:
    """Some frames of others, in any order, as often as asked for; nothing is decoded before it is used."""

    frames: Frames
    index: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, index: int) -> NDArray[Any]:
        return self.frames[int(self.index[index])]

    def __iter__(self) -> Iterator[NDArray[Any]]:
        index = self.index
        in_order = len(index) > 1 and not (np.diff(index) < 0).any() and index[-1] < 2 * len(index)
        if not in_order or self.frames.encoded(int(index[0])) is not None:
            yield from (self[i] for i in range(len(self)))
            return
        wanted = iter(self.index.tolist())
        target = next(wanted)
        for at, image in enumerate(self.frames):  # a video decodes faster in order
            while at == target:
                yield image
                after = next(wanted, None)
                if after is None:
                    return
                target = after

    def encoded(self, index: int) -> bytes | None:
        return self.frames.encoded(int(self.index[index]))


def take(track: Track, index: NDArray[np.int64], time: NDArray[np.float64]) -> Track:
    """The rows of a track at `index`, with new times."""
    if isinstance(track.rows, np.ndarray):
        return Track(track.rows[index], time)
    if isinstance(track.rows, (list, tuple)):
        return Track([track.rows[i] for i in index.tolist()], time)
    return Track(PickedFrames(track.rows, index.astype(np.int64)), time)  # type: ignore[arg-type]


def cut(recording: Recording, begin_s: float, end_s: float) -> Recording:
    """What was recorded from `begin_s` to before `end_s`; its time starts at 0 again, to the nanosecond."""
    begin_ns, end_ns = round(begin_s * 1e9), round(end_s * 1e9)
    streams = {}
    for key, track in recording.streams.items():
        ns = to_ns(track.time)
        index = np.flatnonzero((ns >= begin_ns) & (ns < end_ns))
        if len(index):
            streams[key] = take(track, index, (ns[index] - begin_ns) / 1e9)
    began = None if recording.began_ns is None else recording.began_ns + begin_ns
    return dataclasses.replace(recording, streams=streams, began_ns=began)


def at_rate(recording: Recording, contents: Contents, rate_hz: float) -> tuple[Recording, Contents]:
    """Say at which rate a set without times (UMI) was recorded: row k was taken at k over rate."""
    _require_rate(rate_hz)
    streams = {
        key: Track(track.rows, np.arange(len(track)) / rate_hz) for key, track in recording.streams.items()
    }
    specs = {key: _on_clock(spec, rate_hz, "nominal") for key, spec in contents.streams.items()}
    return (
        dataclasses.replace(recording, streams=streams),
        dataclasses.replace(contents, streams=specs, rate_hz=rate_hz),
    )


def umi_latencies(contents: Contents, latency_s: Mapping[str, float] = UMI_LATENCY_S) -> dict[str, float]:
    """Latency of each stream by UMI's names: cameras, ``robot*_gripper_width``, all other ``robot*``."""
    of: dict[str, float] = {}
    for key, spec in contents.streams.items():
        if spec.kind in ("image", "depth"):
            of[key] = latency_s["camera"]
        elif key.startswith("robot"):
            of[key] = latency_s["gripper" if "gripper" in key else "robot"]
    return of


def default_policy(spec: StreamSpec) -> Policy:
    """What a stream is resampled by if nothing else is asked for.

    Images by the nearest; text, whole numbers and truths hold the previous; floats are linear, rotations
    among them slerp. An action takes the next: the policy that sees the observation of time t is to say what
    was commanded at t or after, never what was commanded before.
    """
    if spec.key == "action" or spec.key.startswith("action."):
        return "next"
    if spec.kind in ("image", "depth"):
        return "nearest"
    if spec.kind == "text" or np.dtype(spec.dtype).kind != "f":
        return "previous"
    return "slerp" if rotations(spec) else "linear"


def rotations(spec: StreamSpec) -> list[tuple[int, str]]:
    """Where a vector's rotations begin, and their form: ``xyzw``, ``wxyz`` or ``vector``.

    By ``about["rotation"]`` of a vector of 3 or 4, or by four neighbouring names ending in x, y, z and w.
    """
    said = spec.about.get("rotation")
    form = {"quaternion_xyzw": "xyzw", "quaternion_wxyz": "wxyz", "rotation_vector": "vector"}.get(str(said))
    if form and spec.shape == ((3,) if form == "vector" else (4,)):
        return [(0, form)]
    found = []
    ends = [name[-2:].lower() for name in spec.names] if spec.shape == (len(spec.names),) else []
    at = 0
    while at + 4 <= len(ends):
        for order in ("xyzw", "wxyz"):
            if ends[at : at + 4] == [f"q{letter}" for letter in order]:
                found.append((at, order))
                at += 3
                break
        at += 1
    return found


def to_ns(time: NDArray[np.float64]) -> NDArray[np.int64]:
    """Seconds as whole nanoseconds."""
    return np.rint(np.asarray(time) * 1e9).astype(np.int64)


@dataclass(frozen=True)
class _Pick:
    """Rows for each tick: exact ones, or two to blend; and how far the furthest used row was."""

    low: NDArray[np.int64]
    high: NDArray[np.int64]
    weight: NDArray[np.float64]
    away_ns: NDArray[np.int64]
    covered: NDArray[np.bool_]


def resample(
    recording: Recording,
    contents: Contents,
    *,
    rate_hz: float | None = None,
    master: str = "",
    policies: Mapping[str, Policy] | None = None,
    latency_s: Mapping[str, float] | None = None,
    max_staleness_s: float | None = None,
    stale: Literal["drop", "mark"] = "drop",
) -> tuple[Recording, Contents, list[Loss]]:
    """Put all streams of a recording on one clock.

    Args:
        recording: streams, each with times of its own.
        contents: of the set.
        rate_hz: an even clock from the first moment that all streams cover; or
        master: the key whose times are the clock (usually a camera).
        policies: key to policy; others have `default_policy`.
        latency_s: key to how much later than the event its times are (of a command: minus the time until it
            takes effect). It is taken off before anything is compared.
        max_staleness_s: how far from the tick the rows it is made of may be; None for any distance.
        stale: what becomes of ticks that a stream has no row for, or only one further than allowed: ``drop``
            leaves the tick out; ``mark`` keeps it with the closest row and adds a stream ``valid``, a truth
            for every stream and tick.

    Returns:
        The recording, aligned (`Recording.aligned`); what the set now holds; and what it cost, stream by
        stream (nothing, if it already was on this clock).

    Raises:
        DataError: an unknown key or policy, a stream that is empty or not to be blended, no tick left.
    """
    latency_s, policies = dict(latency_s or {}), dict(policies or {})
    _check(recording, contents, rate_hz, master, policies, latency_s, max_staleness_s)
    times = {key: track.time - latency_s.get(key, 0.0) for key, track in recording.streams.items()}
    ns = {key: to_ns(time) for key, time in times.items()}
    if master:
        ticks = times[master]
    else:
        assert rate_hz is not None
        first = max(ns, key=lambda key: ns[key][0])
        span_s = (min(int(n[-1]) for n in ns.values()) - int(ns[first][0]) + SLACK_NS) / 1e9
        if span_s * rate_hz > MAX_TICKS:
            raise DataError(
                f"{span_s:g} s at {rate_hz:g} Hz are {span_s * rate_hz:.0f} ticks", "repair the times first"
            )
        ticks = times[first][0] + np.arange(int(span_s * rate_hz) + 1 if span_s >= 0 else 0) / rate_hz
        ticks = _snap(ticks, times[first])
    tick_ns = to_ns(ticks)
    limit_ns = None if max_staleness_s is None else round(max_staleness_s * 1e9) + SLACK_NS
    chosen: dict[str, Policy] = {
        key: policies.get(key, default_policy(contents.streams[key])) for key in recording.streams
    }
    picks = {key: _pick(ns[key], tick_ns, chosen[key], limit_ns) for key in recording.streams}
    valid = np.array([pick.covered for pick in picks.values()]).reshape(len(picks), len(ticks)).T
    keep = np.flatnonzero(valid.all(1)) if stale == "drop" else np.arange(len(ticks))
    if not len(keep):
        raise DataError(
            f"no tick is left on the clock of {master or f'{rate_hz} Hz'}: the streams {', '.join(ns)} are "
            "never all there at once",
            "leave out the stream that is short, allow a greater staleness, or mark instead of dropping",
        )
    losses: list[Loss] = []
    if len(keep) < len(ticks):
        losses.append(
            Loss(
                "", "dropped", "ticks without a row of every stream within reach", rows=len(ticks) - len(keep)
            )
        )
    ticks, shift_ns = ticks[keep], 0
    if ticks[0] < 0:  # a latency moved the first rows before the beginning
        shift_ns = int(tick_ns[keep[0]])
        ticks = (tick_ns[keep] - shift_ns) / 1e9
    streams: dict[str, Track] = {}
    for key, track in recording.streams.items():
        pick = picks[key]
        pick = _Pick(
            pick.low[keep], pick.high[keep], pick.weight[keep], pick.away_ns[keep], pick.covered[keep]
        )
        streams[key] = _rows(track, contents.streams[key], chosen[key], pick, ticks)
        moved = int((pick.away_ns > SLACK_NS).sum())
        unused = len(track) - len(np.unique(np.concatenate([pick.low, pick.high])))
        if moved or latency_s.get(key):
            detail = f"{chosen[key]} on the clock of {master or f'{rate_hz:g} Hz'}"
            if latency_s.get(key):
                detail += f", {latency_s[key]:g} s earlier"
            worst = {"staleness_s": float(pick.away_ns.max()) / 1e9}
            losses.append(Loss(key, "resampled", detail, rows=moved, measure=worst))
        if unused:
            losses.append(Loss(key, "dropped", "rows that no tick is made of", rows=unused))
    rate = rate_hz if rate_hz is not None else contents.streams[master].rate_hz
    kind = "resampled" if any(loss.what == "resampled" for loss in losses) else ""
    specs = {key: _on_clock(spec, rate, kind) for key, spec in contents.streams.items()}
    if stale == "mark":
        streams[VALID] = Track(valid, ticks)
        specs[VALID] = StreamSpec(VALID, "vector", "bool", (len(picks),), tuple(picks), rate_hz=rate)
    began = None if recording.began_ns is None else recording.began_ns + shift_ns
    return (
        dataclasses.replace(recording, streams=streams, began_ns=began),
        dataclasses.replace(contents, streams=specs, rate_hz=rate),
        losses,
    )


def _on_clock(spec: StreamSpec, rate_hz: float | None, time: str) -> StreamSpec:
    about = {**spec.about, "time": time} if time else spec.about
    return dataclasses.replace(spec, rate_hz=rate_hz, about=about)


def _require_rate(rate_hz: float) -> None:
    if not (np.isfinite(rate_hz) and 0 < rate_hz <= 1e6):
        raise DataError(f"a rate of {rate_hz} Hz", "give a rate above 0 and at most 1000000 Hz")


def _check(
    recording: Recording,
    contents: Contents,
    rate_hz: float | None,
    master: str,
    policies: Mapping[str, Policy],
    latency_s: Mapping[str, float],
    max_staleness_s: float | None,
) -> None:
    if (rate_hz is None) == (not master):
        raise DataError("a clock is either a rate or a stream", "give rate_hz or master, one of the two")
    if rate_hz is not None:
        _require_rate(rate_hz)
    if max_staleness_s is not None and not 0 <= max_staleness_s < 1e9:
        raise DataError(f"a staleness of {max_staleness_s} s", "give 0 or more seconds")
    if not recording.streams:
        raise DataError("the recording has no streams", "leave the episode out")
    for key in [*policies, *latency_s]:
        if key not in contents.streams:
            raise DataError("there is no such stream", f"there are {', '.join(contents.streams)}", key=key)
    if master and master not in recording.streams:
        raise DataError(
            "the clock's stream is not in this recording",
            f"it has {', '.join(recording.streams)}",
            key=master,
        )
    for key, seconds in latency_s.items():
        if not abs(seconds) < 1e6:
            raise DataError(f"a latency of {seconds} s", "give seconds", key=key)
    for key, track in recording.streams.items():
        spec = contents.streams[key]
        policy = policies.get(key, default_policy(spec))
        if policy not in POLICIES:
            raise DataError(
                f"no policy is called {policy!r}", f"the policies are {', '.join(POLICIES)}", key=key
            )
        if not len(track):
            raise DataError("the stream has no rows in this recording", "leave it out", key=key)
        if not np.isfinite(track.time).all() or abs(track.time).max() > 9e9:
            raise DataError("a time is not finite, or beyond 280 years", "repair the times", key=key)
        if policy in ("linear", "slerp") and (spec.kind != "vector" or np.dtype(spec.dtype).kind != "f"):
            raise DataError(
                f"{policy} blends floats, and this is {spec.kind} of {spec.dtype}",
                "use nearest, previous or next",
                key=key,
            )
        if policy == "slerp" and not rotations(spec):
            raise DataError(
                f"where the rotation is in shape {spec.shape} is not known",
                "name its entries (qx, qy, qz, qw), say about.rotation, or use nearest",
                key=key,
            )


def _snap(ticks: NDArray[np.float64], time: NDArray[np.float64]) -> NDArray[np.float64]:
    """A tick that falls on a row has that row's time to the last bit."""
    after = np.searchsorted(time, ticks).clip(0, len(time) - 1)
    before = (after - 1).clip(0)
    close = np.where(np.abs(time[before] - ticks) < np.abs(time[after] - ticks), before, after)
    return np.where(np.abs(time[close] - ticks) * 1e9 <= SLACK_NS, time[close], ticks)


def _pick(rows: NDArray[np.int64], ticks: NDArray[np.int64], policy: Policy, limit_ns: int | None) -> _Pick:
    if np.array_equal(rows, ticks):  # also where rows share a moment
        same, zero = np.arange(len(ticks)), np.zeros(len(ticks), dtype=np.int64)
        return _Pick(same, same, zero.astype(np.float64), zero, np.ones(len(ticks), dtype=bool))
    last = len(rows) - 1
    after = np.searchsorted(rows, ticks - SLACK_NS, "left")  # first row at or after the tick
    # of rows that share a moment, the last was current: previous and linear must not see an older one
    before = np.searchsorted(rows, ticks + SLACK_NS, "right") - 1
    has_after, has_before = after <= last, before >= 0
    after, before = after.clip(0, last), before.clip(0, last)
    nearer_before = np.abs(ticks - rows[before]) <= np.abs(rows[after] - ticks)
    nearest = np.where(nearer_before, before, after)
    weight = np.zeros(len(ticks))
    low = high = nearest
    covered = has_after & has_before
    if policy == "previous":
        low = high = np.where(has_before, before, nearest)
        covered = has_before
    elif policy == "next":
        low = high = np.where(has_after, after, nearest)
        covered = has_after
    elif policy == "nearest":
        if limit_ns is not None:
            covered = np.ones(len(ticks), dtype=bool)
    else:
        # no slack between rows, or a fast signal would be a microsecond off; at a row, it is that row itself
        below = (np.searchsorted(rows, ticks, "right") - 1).clip(0, last)
        above = np.searchsorted(rows, ticks, "left").clip(0, last)
        between = (rows[below] < ticks) & (ticks < rows[above])
        at_row = np.where(rows[below] == ticks, below, nearest)
        low, high = np.where(between, below, at_row), np.where(between, above, at_row)
        gap = np.where(between, rows[high] - rows[low], 1)
        weight = np.where(between, (ticks - rows[low]) / gap, 0.0)
    away = np.maximum(np.abs(rows[low] - ticks), np.abs(rows[high] - ticks))
    if limit_ns is not None:
        covered = covered & (away <= limit_ns)
    return _Pick(low, high, weight, away, covered)


def _rows(track: Track, spec: StreamSpec, policy: Policy, pick: _Pick, time: NDArray[np.float64]) -> Track:
    if policy not in ("linear", "slerp"):
        return take(track, pick.low, time)
    rows = np.asarray(track.rows)
    weight = pick.weight.reshape(-1, *[1] * (rows.ndim - 1))
    low, high = rows[pick.low], rows[pick.high]
    blended = low + (high.astype(np.float64) - low) * weight
    if policy == "slerp":
        for start, form in rotations(spec):
            part = slice(start, start + len(form.replace("vector", "xyz")))
            blended[:, part] = _slerp(low[:, part], high[:, part], pick.weight, form, spec.key)
    exact = pick.weight == 0
    out = blended.astype(rows.dtype)
    out[exact] = low[exact]  # bit for bit, also where a neighbour is NaN
    return Track(out, time)


def _slerp(
    low: NDArray[Any], high: NDArray[Any], weight: NDArray[np.float64], form: str, key: str
) -> NDArray[np.float64]:
    from scipy.spatial.transform import Rotation  # half a second that reading bags does not need

    def rotation(rows: NDArray[Any]) -> Any:
        if form == "vector":
            return Rotation.from_rotvec(rows.astype(np.float64))
        return Rotation.from_quat(np.roll(rows, -1, 1) if form == "wxyz" else rows)

    out = np.array(low, dtype=np.float64)
    blend = np.flatnonzero(weight)
    if not len(blend):
        return out
    first, second = low[blend], high[blend]
    good = np.isfinite(first).all(1) & np.isfinite(second).all(1)
    if form != "vector":
        good &= np.minimum(np.linalg.norm(first, axis=1), np.linalg.norm(second, axis=1)) > 1e-6
    if not good.all():
        at = int(np.flatnonzero(~good)[0])
        raise DataError(
            f"{first[at].tolist()} and {second[at].tolist()} are not both rotations",
            "repair them, or resample by nearest",
            key=key,
            frame=int(blend[at]),
        )
    start = rotation(first)
    turn = (start.inv() * rotation(second)).as_rotvec()
    there = start * Rotation.from_rotvec(turn * weight[blend, None])
    if form == "vector":
        out[blend] = there.as_rotvec()
        return out
    quaternion = np.roll(there.as_quat(), 1, 1) if form == "wxyz" else there.as_quat()
    same_side = np.sum(quaternion * first, 1, keepdims=True) >= 0
    out[blend] = np.where(same_side, quaternion, -quaternion)  # both are the rotation: stay near
    return out
