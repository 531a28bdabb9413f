"""Episodes, which a policy learns from, as recordings, which any format holds, and back."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .episode import Episode, Outcome, Provenance
from .frames import ArrayFrames
from .ledger import DataError
from .recording import Contents, Conventions, Recording, StreamSpec, Track
from .spec import RobotSpec
from .starts import StartState

IMAGES = "observation.images."
_VECTORS = {"state": "observation.state", "action": "action", "reward": "reward"}


def contents_of(spec: RobotSpec) -> Contents:
    """What a set of episodes of this robot holds."""
    rate = spec.control_rate_hz
    streams = [
        StreamSpec(f"{IMAGES}{one.name}", "image", "uint8", (one.height, one.width, 3), rate_hz=rate)
        for one in spec.cameras
    ]
    for key, axes in (("observation.state", spec.state), ("action", spec.action)):
        names, units = tuple(axis.name for axis in axes), tuple(axis.unit for axis in axes)
        streams.append(StreamSpec(key, "vector", "float32", (len(axes),), names, units, rate))
    streams.append(StreamSpec("reward", "vector", "float32", (), rate_hz=rate))
    conventions = Conventions(
        action={"ee_delta": "delta", "joint_position": "absolute"}.get(spec.control_mode, "unknown"),  # type: ignore[arg-type]
        rotation="rotation_vector" if spec.rotation.startswith("rotation_vector") else "unknown",
        frame="base" if spec.rotation.endswith("_base") else "",
        observed="before",
        orientation={
            f"{IMAGES}{one.name}": "mirrored" if one.orientation == "mirrored" else "upright"
            for one in spec.cameras
        },
    )
    return Contents({one.key: one for one in streams}, rate, spec.name, conventions, spec)


def recording_of(episode: Episode) -> Recording:
    """Its streams on the episode's clock; images have the times of the steps they were taken before.

    Raises:
        DataError: its clock stands still, so that a time would not tell its step.
    """
    times = np.asarray(episode.timestamp, np.float64)
    if (stuck := np.flatnonzero(np.diff(times) <= 0)).size:
        raise DataError(
            f"the time does not rise after {times[stuck[0]]} s",
            "correct the episode's timestamp",
            frame=int(stuck[0]) + 1,
        )
    streams = {key: Track(np.asarray(getattr(episode, name)), times) for name, key in _VECTORS.items()}
    for camera, pixels in episode.images.items():
        streams[f"{IMAGES}{camera}"] = Track(ArrayFrames(pixels), times[episode.frame_steps])
    start = episode.provenance.start
    about = {
        "environment": episode.provenance.environment,
        "start": None if start is None else dataclasses.asdict(start),
        "seed": episode.provenance.seed,
        "policy": episode.provenance.policy,
    }
    outcome = episode.outcome
    return Recording(
        streams, episode.task, outcome.success, outcome.terminated, outcome.truncated, about=about
    )


def episode_of(recording: Recording, spec: RobotSpec) -> Episode:
    """The episode that a recording of this robot is, with nothing resampled or cast.

    State, action and reward must have one clock. Images may be fewer, each taken at the time of a step; all
    cameras at the same ones.

    Raises:
        DataError: it lacks a stream or does not say how it ended, has other dimensions than the contract, or
            its clocks do not meet.
    """
    verdict = recording.success, recording.terminated, recording.truncated
    if None in verdict:
        raise DataError(
            f"success, terminated, truncated are {verdict}, and an episode must know", "say so in the mapping"
        )
    rows: dict[str, NDArray[np.float32]] = {}
    widths = {"state": (spec.state_dim,), "action": (spec.action_dim,), "reward": ()}
    clock = _track(recording, "action").time
    for name, key in _VECTORS.items():
        track = _track(recording, key)
        array = np.asarray(track.rows)
        if array.dtype != np.float32 or array.shape[1:] != widths[name]:
            raise DataError(
                f"rows are {array.dtype} {array.shape[1:]}, {spec.name} has float32 {widths[name]}",
                "map the set to this robot's contract first",
                key=key,
            )
        if not np.array_equal(track.time, clock):
            raise DataError("its clock is not that of action", "resample the set to one clock first", key=key)
        rows[name] = array
    images, steps = _images(recording, spec, clock)
    return Episode(
        images=images,
        frame_steps=steps,
        timestamp=clock,
        task=recording.task,
        outcome=Outcome(bool(recording.success), bool(recording.terminated), bool(recording.truncated)),
        provenance=_provenance(recording),
        **rows,
    )


def _track(recording: Recording, key: str) -> Track:
    track = recording.streams.get(key)
    if track is None:
        raise DataError("the recording lacks this stream", "map the set to this robot's contract", key=key)
    return track


def _images(
    recording: Recording, spec: RobotSpec, clock: NDArray[np.float64]
) -> tuple[dict[str, NDArray[np.uint8]], NDArray[np.int64]]:
    """Every camera's pixels, and the steps they were taken before."""
    images: dict[str, NDArray[np.uint8]] = {}
    steps: NDArray[np.int64] | None = None
    for camera in spec.cameras:
        key = f"{IMAGES}{camera.name}"
        track = _track(recording, key)
        shape = (camera.height, camera.width, 3)
        mine = np.searchsorted(clock, track.time)
        met = mine < len(clock)
        met[met] = clock[mine[met]] == track.time[met]
        if not met.all():
            raise DataError(
                f"the image at {track.time[~met][0]} s was taken at no step",
                "resample the set to one clock first",
                frame=int(np.flatnonzero(~met)[0]),
                key=key,
            )
        if steps is not None and not np.array_equal(mine, steps):
            raise DataError("its times are not those of the other cameras", "resample the set first", key=key)
        steps = mine.astype(np.int64)
        frames = [np.asarray(one) for one in track.rows]
        if wrong := [one.shape for one in frames if one.shape != shape or one.dtype != np.uint8]:
            raise DataError(
                f"an image is {wrong[0]}, {spec.name} has {shape}", "resize the set first", key=key
            )
        images[camera.name] = np.stack(frames) if frames else np.zeros((0, *shape), np.uint8)
    return images, np.zeros(0, np.int64) if steps is None else steps


def _provenance(recording: Recording) -> Provenance:
    """What the recording says of where it came from; what it does not say is empty or 0."""
    about: Any = recording.about
    try:
        start = about.get("start")
        return Provenance(
            str(about.get("environment", "")),
            None if start is None else StartState(**start),
            int(about.get("seed") or 0),
            str(about.get("policy", "")),
        )
    except (TypeError, ValueError) as error:
        raise DataError(f"its start state is damaged ({error})", "correct the episode's about") from error
