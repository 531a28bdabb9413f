"""regrip's own store, as a format like the others."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from ..frames import EncodedFrames
from ..ledger import Ledger, Loss
from ..recording import Contents, Frames, Recording, Sink, Source, Track
from ..store.image_encoding import Losses, enter_losses, image_to_store, note_loss
from ..store.reader import Store
from ..store.writer import StoreWriter
from . import Format, WriteOptions

_FILES = ("jpeg", "png", "webp", "jxl", "tiff")


def _detect(path: Path) -> bool:
    try:
        return (path / "episodes.jsonl").is_file() and (path / "streams").is_dir()
    except (OSError, ValueError):
        return False


def _open(path: Path) -> Source:
    return Store(path)


def _plan(contents: Contents, options: WriteOptions) -> list[Loss]:
    losses = []
    for key, spec in contents.of_kind("image").items():
        codec = spec.about.get("codec")
        if options.images == "copy" and codec not in _FILES:
            detail = f"raw pixels or video to JPEG of quality {options.quality}"
        elif options.images == "jpeg":
            detail = f"all but JPEG files to JPEG of quality {options.quality}"
        else:
            continue  # files are copied, and PNG loses nothing
        losses.append(Loss(key, "re-encoded", detail))
    return losses


def _create(path: Path, contents: Contents, options: WriteOptions, ledger: Ledger) -> Sink:
    return StoreWriter.create(path, contents, options, ledger)


def _prepare(
    recording: Recording, contents: Contents, options: WriteOptions, folder: Path, ledger: Ledger
) -> Recording:
    """Decode what is no image file yet, video above all, and encode it as the set will hold it."""
    streams = dict(recording.streams)
    for key, spec in contents.of_kind("image").items():
        track = recording.streams.get(key)
        if track is None:
            continue
        frames: Frames = track.rows  # type: ignore[assignment]
        losses: Losses = {}
        files = []
        for index, pixels in enumerate(_pixels(frames)):
            data = frames.encoded(index)
            stored, loss = image_to_store(spec, options, data, pixels)
            if loss:
                note_loss(losses, loss, data, pixels, stored)
            files.append(stored)
        enter_losses(ledger, key, losses)
        streams[key] = Track(EncodedFrames(files, spec.shape, key), track.time)
    return dataclasses.replace(recording, streams=streams)


def _pixels(frames: Frames) -> Iterable[NDArray[Any] | None]:
    """Decoded in order, as a video is; None for each where files are there to be copied."""
    if len(frames) and frames.encoded(0) is not None:
        return (None if frames.encoded(index) is not None else frames[index] for index in range(len(frames)))
    return frames


FORMAT = Format(
    "regrip",
    "regrip's own: zarr v3, an image file for each frame, times of capture; written episode by episode",
    _detect,
    _open,
    _plan,
    _create,
    _prepare,
)
