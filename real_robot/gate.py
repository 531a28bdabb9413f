"""The observation gate: what the robot's sensors say, checked, and put together for one moment.

Whatever is late, frozen, from the future, apart in time, not finite or out of range never reaches the policy;
the reason does reach the person, in words.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ..datasets.episode import Observation
from ..datasets.spec import RobotSpec
from .messages import Frame, Joints

StateOf = Callable[[Mapping[str, float]], NDArray[np.float32]]


@dataclass(frozen=True)
class GateConfig:
    """What is still good enough to act on.

    Attributes:
        max_age_s: of every source, by the time it was taken.
        max_skew_s: between any camera and the joints nearest to it.
        max_future_s: how far a stamp may lie ahead.
        max_frozen_s: how long a camera may go on sending the same picture under new stamps; real cameras
            have noise. 0 turns this off (a simulator's may stand still).
        jump_s: a stamp that disagrees with its clock by more is a clock that jumped.
        latency_s: camera (or ``joints``) to the seconds that its stamp comes after the moment it shows.
        own_clock: the robot's stamps are of another clock than the node's, one for all its sources. The
            offset is learnt as the least delay of any source in the last half minute: of one source and a
            second, a queue that grows would pass for a clock that drifts. False: the transport has brought
            stamps to the node's clock.
        max_joint_speed: rad or m per second; a joint that moves faster from one report to the next has leapt,
            which no arm does.
        range_margin: how far outside its limits a measured joint may be, as a share of their span, before it
            is taken for a fault.
    """

    max_age_s: float = 0.2
    max_skew_s: float = 0.08
    max_future_s: float = 0.05
    max_frozen_s: float = 0.5
    jump_s: float = 1.0
    latency_s: dict[str, float] = field(default_factory=dict)
    own_clock: bool = False
    max_joint_speed: float = 20.0
    range_margin: float = 0.02

    def __post_init__(self) -> None:
        for name in ("max_age_s", "max_skew_s", "max_future_s", "jump_s", "max_joint_speed"):
            value = getattr(self, name)
            if not (np.isfinite(value) and value > 0):  # a timeout of 0 or NaN never fires
                raise ValueError(f"gate: {name} is {value}, expected a finite number above 0")
        for name in ("max_frozen_s", "range_margin"):
            value = getattr(self, name)
            if not (np.isfinite(value) and value >= 0):
                raise ValueError(f"gate: {name} is {value}, expected 0 or a finite number above it")


@dataclass(frozen=True)
class JointRange:
    """A joint the robot must report, and where it can be."""

    name: str
    low: float
    high: float


# A leap is only called one beyond this many rad or m: encoders tremble.
_TREMBLE = 0.05


# Of joints: stamp, received, positions (N,).
_Report = tuple[float, float, NDArray[np.float64]]


class _Clock:
    """How the robot's clock lies to the node's: the least delay of each second, and of the last 30."""

    def __init__(self) -> None:
        self._seconds: deque[list[float]] = deque(maxlen=30)  # second, least delay in it
        self.offset: float | None = None

    def learn(self, received: float, delay: float) -> None:
        second = math.floor(received)
        if self._seconds and self._seconds[-1][0] == second:
            self._seconds[-1][1] = min(self._seconds[-1][1], delay)
        else:
            self._seconds.append([second, delay])
        self.offset = min(least for _, least in self._seconds)

    def forget(self) -> None:
        self._seconds.clear()
        self.offset = None


class Gate:
    """Keeps the last second of every source, and says whether it can be acted on.

    Args:
        config: limits.
        spec: of the policy: its cameras and their sizes.
        joints: which joints must be there, and where they can be.
        state_of: joint name to position -> float32 (S,) the policy's state, in the spec's order.
    """

    def __init__(
        self, config: GateConfig, spec: RobotSpec, joints: tuple[JointRange, ...], state_of: StateOf
    ) -> None:
        self.config, self.spec, self.joints, self.state_of = config, spec, joints, state_of
        self.counters: dict[str, int] = {}
        self._names = tuple(joint.name for joint in joints)
        self._cameras = {camera.name: camera for camera in spec.cameras}
        self._frames: dict[str, deque[Frame]] = {name: deque(maxlen=64) for name in self._cameras}
        self._rows: deque[_Report] = deque(maxlen=512)
        self._clock = _Clock()
        self._changed: dict[str, float] = {}  # camera: when its last new picture came
        self._fault: dict[str, tuple[str, float]] = {}  # source: what was last wrong with it, and when

    def _count(self, what: str) -> None:
        self.counters[what] = self.counters.get(what, 0) + 1

    def _refuse(self, source: str, what: str, why: str, received: float) -> None:
        self._count(f"{source}: {what}")
        self._fault[source] = (why, received)

    def _stamped(self, source: str, stamp: float, received: float, newest: float | None) -> bool:
        """Whether a stamp makes sense; notes what is wrong with it otherwise."""
        if not (np.isfinite(stamp) and np.isfinite(received)):
            self._refuse(source, "stamp not finite", f"{source} has a stamp of {stamp}", received)
            return False
        delay = received - stamp
        learnt = self._clock.offset if self.config.own_clock else 0.0
        ahead = 0.0 if learnt is None else learnt - delay  # of where the node takes the robot's clock to be
        back = 0.0 if newest is None else newest - stamp
        if self.config.own_clock and max(ahead, back) > self.config.jump_s:
            self._clock.forget()
            self._rows.clear()
            for frames in self._frames.values():
                frames.clear()
            by = ahead if ahead > self.config.jump_s else -back
            why = f"the robot's clock jumped by {by:.2f} s"
            for name in (*self._frames, "joints"):
                self._fault[name] = (why, received)
            self._count(f"{source}: clock jumped")
            return False
        if back >= 0 and newest is not None:
            self._count(f"{source}: not newer")
            return False
        if ahead > self.config.max_future_s:
            why = f"{source} is stamped {ahead:.2f} s in the future"
            self._refuse(source, "from the future", why, received)
            return False
        self._clock.learn(received, delay)
        return True

    def on_frame(self, frame: Frame) -> None:
        """Take a picture, or count why not. Cameras that the policy does not look at are ignored."""
        name = frame.camera
        if name not in self._frames:
            self._count(f"{name}: not a camera of the policy")
            return
        kept = self._frames[name]
        if frame.image is None:
            self._refuse(name, "not decoded", f"{name} sends what could not be decoded", frame.received)
            return
        wanted = self._cameras[name]
        if frame.image.shape != (wanted.height, wanted.width, 3) or frame.image.dtype != np.uint8:
            why = (
                f"{name} sends {frame.image.dtype} {frame.image.shape}, "
                f"the policy expects uint8 ({wanted.height}, {wanted.width}, 3)"
            )
            self._refuse(name, "wrong size", why, frame.received)
            return
        if not self._stamped(name, frame.stamp, frame.received, kept[-1].stamp if kept else None):
            return
        if not kept or not _same(kept[-1], frame):
            self._changed[name] = frame.received
        kept.append(frame)

    def on_joints(self, joints: Joints) -> None:
        """Take a joint state, or count why not. It may hold other joints than ours, and ours in any order."""
        place = {name: index for index, name in enumerate(joints.names)}
        if not all(name in place for name in self._names):
            if not any(name in place for name in self._names):
                self._count("joints: of another controller")
                return
            lacking = [name for name in self._names if name not in place]
            why = f"the joint state lacks {', '.join(lacking)}"
            self._refuse("joints", "missing", why, joints.received)
            return
        if len(place) != len(joints.names):
            why = f"the joint state names a joint twice: {', '.join(joints.names)}"
            self._refuse("joints", "named twice", why, joints.received)
            return
        if len(joints.position) != len(joints.names):
            why = f"the joint state has {len(joints.names)} names and {len(joints.position)} positions"
            self._refuse("joints", "wrong length", why, joints.received)
            return
        row = np.array([joints.position[place[name]] for name in self._names], dtype=np.float64)
        if not np.isfinite(row).all():
            bad = self._names[int(np.argmin(np.isfinite(row)))]
            self._refuse("joints", "not finite", f"{bad} is not a finite number", joints.received)
            return
        for joint, value in zip(self.joints, row, strict=True):
            margin = self.config.range_margin * (joint.high - joint.low)
            if not joint.low - margin <= value <= joint.high + margin:
                why = f"{joint.name} is at {value:.3f}, outside [{joint.low:.3f}, {joint.high:.3f}]"
                self._refuse("joints", "out of range", why, joints.received)
                return
        newest = self._rows[-1][0] if self._rows else None
        if not self._stamped("joints", joints.stamp, joints.received, newest):
            return
        if newest is not None:
            leap = np.abs(row - self._rows[-1][2])
            worst = int(np.argmax(leap))
            if leap[worst] > _TREMBLE + self.config.max_joint_speed * (joints.stamp - newest):
                why = f"{self._names[worst]} leapt by {leap[worst]:.2f} in {joints.stamp - newest:.3f} s"
                self._refuse("joints", "leapt", why, joints.received)
                return
        self._rows.append((joints.stamp, joints.received, row))

    def _taken(self, source: str, stamp: float) -> float:
        """When it was true, on the node's clock."""
        offset = self._clock.offset if self.config.own_clock else 0.0
        return stamp + (offset or 0.0) - self.config.latency_s.get(source, 0.0)

    def _joint_times(self) -> NDArray[np.float64]:
        """(T,) when each row of joints was true, on the node's clock."""
        return np.array([row[0] for row in self._rows]) + self._taken("joints", 0.0)

    @property
    def measured(self) -> NDArray[np.float64] | None:
        """(N,) the newest joint positions, in the order given at construction; None before the first."""
        return self._rows[-1][2] if self._rows else None

    def stood(self, count: int, since: float, seconds: float, within: float) -> bool:
        """Whether the first `count` joints stood still, by the newest reports over at least `seconds`.

        Args:
            count: of joints that are looked at.
            since: node time; reports of before count for nothing.
            seconds: that the reports must span.
            within: rad or m between the least and the greatest position of any joint.
        """
        times = self._joint_times()
        first = int(np.searchsorted(times, times[-1] - seconds + 1e-6, "right")) - 1 if len(times) else -1
        if first < 0 or times[first] < since:
            return False
        rows = np.array([row[2][:count] for row in list(self._rows)[first:]])
        return bool(np.ptp(rows, axis=0).max() <= within)

    @property
    def state(self) -> NDArray[np.float32] | None:
        """(S,) the policy's state by the newest joints; None before there are any."""
        at = self.measured
        if at is None:
            return None
        return np.asarray(self.state_of(dict(zip(self._names, at.tolist(), strict=True))), np.float32)

    @property
    def measured_at(self) -> float | None:
        """Node time at which they were received."""
        return self._rows[-1][1] if self._rows else None

    def joints_fault(self, now: float) -> str:
        """Why the joints cannot be acted on, in words; ``""`` if they can."""
        if not self._rows:
            fault = self._fault.get("joints")
            return fault[0] if fault else "no joint state yet"
        age = now - self._taken("joints", self._rows[-1][0])
        if age > self.config.max_age_s:
            fault = self._fault.get("joints")
            if fault and fault[1] > self._rows[-1][1]:
                return fault[0]
            return f"the joint state is {age:.2f} s old"
        if age < -self.config.max_future_s:
            return f"the joint state is stamped {-age:.2f} s in the future"
        return ""

    def fault(self, now: float) -> str:
        """Why there is nothing to act on, in words; ``""`` if there is."""
        why = self.joints_fault(now)
        if why:
            return why
        for name, frames in self._frames.items():
            if not frames:
                fault = self._fault.get(name)
                return fault[0] if fault else f"no picture from {name} yet"
            age = now - self._taken(name, frames[-1].stamp)
            if age > self.config.max_age_s:
                fault = self._fault.get(name)
                if fault and fault[1] > frames[-1].received:
                    return fault[0]
                return f"{name} is {age:.2f} s old"
            if age < -self.config.max_future_s:
                return f"{name} is stamped {-age:.2f} s in the future"
            still = frames[-1].received - self._changed[name]
            if self.config.max_frozen_s and still > self.config.max_frozen_s:
                return f"{name} has sent the same picture for {still:.2f} s: frozen"
        moment = self._moment()
        for name in self._frames:
            skew = abs(self._taken(name, self._nearest_frame(name, moment).stamp) - moment)
            if skew > self.config.max_skew_s:
                return f"{name} and the other cameras are {skew:.2f} s apart"
        skew = self._joint_skew(moment)
        if skew > self.config.max_skew_s:
            return f"the pictures and the joints are {skew:.2f} s apart"
        return ""

    def _moment(self) -> float:
        """The newest time that every camera has seen; of the joints, without cameras."""
        if not self._frames:
            return self._taken("joints", self._rows[-1][0])
        return min(self._taken(name, frames[-1].stamp) for name, frames in self._frames.items())

    def _nearest_frame(self, name: str, moment: float) -> Frame:
        # Stamps never fall, and the moment is near the end: go back, only as far as it gets nearer.
        frames, shift = reversed(self._frames[name]), self._taken(name, 0.0)
        nearest = next(frames)
        off = abs(nearest.stamp + shift - moment)
        for frame in frames:
            further = abs(frame.stamp + shift - moment)
            if further > off:
                break
            nearest, off = frame, further
        return nearest

    def _about(self, moment: float) -> tuple[_Report | None, _Report | None]:
        """The last report of joints from before a moment, and the first that is not; None for none."""
        after, sought = None, moment - self._taken("joints", 0.0)
        for report in reversed(self._rows):  # the moment is near the end
            if report[0] < sought:
                return report, after
            after = report
        return None, after

    def _joint_skew(self, moment: float) -> float:
        """How far the moment lies outside of what the joints' record spans, or inside a gap of it."""
        sought = moment - self._taken("joints", 0.0)
        return min(abs(report[0] - sought) for report in self._about(moment) if report is not None)

    def _joints_at(self, moment: float) -> list[float]:
        """(N,) interpolated; the nearest report outside of what there is."""
        before, after = self._about(moment)
        if before is None or after is None:
            report = after if before is None else before
            assert report is not None, "to be called when there are joints"
            alone: list[float] = report[2].tolist()
            return alone
        sought = moment - self._taken("joints", 0.0)
        share = (sought - before[0]) / (after[0] - before[0])
        pairs = zip(before[2].tolist(), after[2].tolist(), strict=True)
        return [low + share * (high - low) for low, high in pairs]

    def observe(self, now: float, task: str) -> tuple[float, Observation]:
        """The observation of the newest moment that every camera has seen.

        Pictures are those nearest to it; joints are interpolated to it. To be called when `fault` is empty.

        Returns:
            the moment, on the node's clock, and a batch of one.
        """
        moment = self._moment()
        frames = {name: self._nearest_frame(name, moment) for name in self._frames}
        state = self.state_of(dict(zip(self._names, self._joints_at(moment), strict=True)))
        images = {}
        for name, frame in frames.items():
            assert frame.image is not None, "checked in on_frame"
            images[name] = frame.image[None]
        return moment, Observation(images, np.asarray(state, np.float32)[None], [task])

    def ages(self, now: float) -> dict[str, float]:
        """Source to the age of its newest, in seconds; for diagnostics."""
        found = {
            name: now - self._taken(name, frames[-1].stamp) for name, frames in self._frames.items() if frames
        }
        if self._rows:
            found["joints"] = now - self._taken("joints", self._rows[-1][0])
        return found


def _same(a: Frame, b: Frame) -> bool:
    """Whether two frames hold the same picture; nearly always a few of its rows say that they do not."""
    if a.encoded is not None and b.encoded is not None:
        return a.encoded == b.encoded
    assert a.image is not None, "checked in on_frame"
    assert b.image is not None, "checked in on_frame"
    return np.array_equal(a.image[::16], b.image[::16]) and np.array_equal(a.image, b.image)
