"""Actions for a video that has none: an inverse model says which chunk led from one frame to the next.

As in semi-supervised offline RL with action-free trajectories (SS-ORL, Zheng et al. 2023, arXiv 2210.06518).
A still video is refused: an inverse model has an answer for it too, and that answer means nothing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...datasets.recording import Recording, Track
from .goals import tokens_of
from .model import WorldModel

CONFIDENCE = "action_confidence"
_STILL = 0.1  # of the usual change of tokens over a decision
_ROWS = 64

Inverse = Callable[[Tensor, Tensor], tuple[NDArray[np.float32], NDArray[np.floating]]]
"""(tokens (B,C,n,d), tokens a decision later) to chunks (B,H,A), physical units, and confidence (B,)."""


class UnlabelledError(ValueError):
    """A video whose actions cannot be inferred."""


def label_video(
    model: WorldModel, recording: Recording, inverse: Inverse, usual: float, by: str, name: str = "the video"
) -> Recording:
    """Infer the actions of a recording, at the robot's control rate, from its pictures alone.

    Frames a decision apart are looked at, those nearest in time. Actions are kept within the robot's limits.

    Args:
        model: the world whose tokens `inverse` reads; its spec says what the actions mean.
        recording: has all cameras of the spec, at a rate that has a frame near each decision, and no actions.
        inverse: see `Inverse`.
        usual: root mean square change of a token over a decision, where `inverse` was trained.
        by: what the labels come from, for the recording.
        name: of the video, for messages.

    Returns:
        the recording with streams ``action`` (T,A) and ``action_confidence`` (T,), in [0, 1], 0 where nothing
        moved; its `about` says that the actions are inferred. Without proprioception it lacks what a world
        model is fitted on: it is for learning behaviour.

    Raises:
        UnlabelledError: it has actions, lacks a camera, is too short, has holes, or stands still.
    """
    if "action" in recording.streams:
        raise UnlabelledError(
            f"{name} has actions already: inferred ones are worse; give videos without an action stream"
        )
    spec, chunk = model.spec, model.config.chunk
    apart = chunk / spec.control_rate_hz
    tracks = []
    for camera in spec.cameras:
        key = f"observation.images.{camera.name}"
        if key not in recording.streams:
            raise UnlabelledError(
                f"{name} has no stream {key}, which the model looks at; it has "
                f"{', '.join(recording.streams) or 'none'}: rename the streams, or fit a model for them"
            )
        tracks.append(recording.streams[key])
    begin = max(float(track.time[0]) for track in tracks)
    end = min(float(track.time[-1]) for track in tracks)
    count = int((end - begin) / apart + 0.5 / chunk)
    if count < 1:
        raise UnlabelledError(
            f"{name} is {end - begin:.2f} s long, less than one decision of {apart:.2f} s ({chunk} actions): "
            "give longer videos"
        )
    wanted = begin + apart * np.arange(count + 1)
    pictures = np.stack([_frames(track, wanted, spec.control_rate_hz, name) for track in tracks], 1)
    shape = (len(spec.cameras), spec.cameras[0].height, spec.cameras[0].width, 3)
    if pictures.shape[1:] != shape:
        raise UnlabelledError(
            f"{name} has pictures of {pictures.shape[2]}x{pictures.shape[3]}, the model sees {shape[1]}x"
            f"{shape[2]}: resize them (regrip data view --resize)"
        )
    tokens = torch.cat([tokens_of(model, pictures[i : i + _ROWS]) for i in range(0, count + 1, _ROWS)])
    before, after = tokens[:-1], tokens[1:]
    motion = (after - before).flatten(1).square().mean(1).sqrt().cpu().numpy() / usual
    still = motion < _STILL
    if still.mean() > 0.5:
        raise UnlabelledError(
            f"{name} stands still in {int(still.sum())} of {count} decisions (less than {_STILL:g} of the "
            "usual motion): what an inverse model says of it means nothing; cut the still parts out (regrip "
            "data edit)"
        )
    found = [inverse(before[i : i + _ROWS], after[i : i + _ROWS]) for i in range(0, count, _ROWS)]
    action = np.concatenate([one for one, _ in found]).reshape(count * chunk, -1)
    sure = np.where(still, 0.0, np.clip(np.concatenate([one for _, one in found]), 0, 1))
    time = begin + np.arange(count * chunk) / spec.control_rate_hz
    return dataclasses.replace(
        recording,
        streams={
            **recording.streams,
            "action": Track(np.clip(action, spec.action_low, spec.action_high).astype(np.float32), time),
            CONFIDENCE: Track(np.repeat(sure, chunk).astype(np.float32), time),
        },
        about={
            **recording.about,
            "actions": "inferred",
            "actions_by": by,
            "actions_confidence": round(float(sure.mean()), 4),
            "actions_still": int(still.sum()),
        },
    )


def _frames(track: Track, wanted: NDArray[np.floating], rate_hz: float, name: str) -> NDArray[np.uint8]:
    """The frames nearest to these times, none further off than half a control period."""
    rows = np.abs(track.time[:, None] - wanted).argmin(0)
    off = np.abs(track.time[rows] - wanted)
    if off.max() > 0.5 / rate_hz:
        raise UnlabelledError(
            f"{name} has no frame within {500 / rate_hz:.0f} ms of {wanted[off.argmax()]:.2f} s (the nearest "
            f"is {1000 * off.max():.0f} ms off): its rate is too low or it has a hole there; cut it there "
            "(regrip data edit)"
        )
    return np.stack([np.asarray(track.rows[int(row)]) for row in rows])
