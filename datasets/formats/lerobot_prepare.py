"""The slow part of writing an episode: its images become what LeRobot holds. Done in worker processes."""

from __future__ import annotations

import dataclasses
import io
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..frames import ArrayFrames, EncodedFrames, codec_of, encode_jpeg, encode_png, encode_tiff, psnr
from ..ledger import DataError, Ledger, Loss
from ..recording import Frames, Recording, Track
from ..video import VideoFrames, VideoInfo, probe_video
from ..video_write import UncopyableError, copy_clips, encode_video, equal_frames
from .lerobot_layout import FILES, Laid, Layout
from .lerobot_stats import DepthValues, PixelCounts, sampled_indices, to_json

_COMPARED = 5  # frames of an episode that are compared with what the encoder made of them


@dataclass(frozen=True)
class ReadyVideo(VideoFrames):
    """A whole mp4 file of one episode, to be taken as it is.

    Attributes:
        info: what its header says.
        pixels: packed `PixelCounts`.
        absent: the episode has no such camera: these are black frames.
    """

    info: VideoInfo | None = None
    pixels: str = ""
    absent: bool = False


@dataclass(frozen=True)
class ReadyFiles(EncodedFrames):
    """Image files to be taken as they are.

    Attributes:
        pixels: packed `PixelCounts`; ``""`` for depth.
        stats: of depth, as JSON.
        absent: the episode has no such camera: these are black frames.
    """

    pixels: str = ""
    stats: dict[str, Any] = field(default_factory=dict)
    absent: bool = False


def prepare_recording(recording: Recording, layout: Layout, folder: Path, ledger: Ledger) -> Recording:
    """The recording with its images as the set will hold them: files, or mp4 files in `folder`.

    A camera that this episode lacks becomes black frames, which the ledger and the side file say.

    Raises:
        DataError: an image that cannot be read, or has another size than the set's.
    """
    streams = dict(recording.streams)
    time = next(iter(streams.values())).time if streams else np.zeros(0)
    for key, laid in layout.laid.items():
        if laid.spec.kind not in ("image", "depth"):
            continue
        absent = key not in streams
        if absent:
            dtype = np.dtype(laid.spec.dtype)
            black = np.broadcast_to(np.zeros(1, dtype), (len(time), *laid.spec.shape))
            streams[key] = Track(ArrayFrames(black), time)
            how = "the episode lacks this camera: black frames"
            ledger.add(Loss(key, "padded", how, rows=len(time)))
        rows: Any = streams[key].rows
        if isinstance(rows, ReadyVideo | ReadyFiles):
            continue
        if laid.storage == "video":
            path = (
                Path(tempfile.mkdtemp(dir=folder)) / f"{laid.name}.mp4"
            )  # other episodes may use the folder too
            ready: ReadyVideo | ReadyFiles = _video(rows, laid, layout, path, ledger)
        elif laid.spec.kind == "depth":
            ready = _depth_files(rows, laid, ledger)
        else:
            ready = _image_files(rows, laid, layout, ledger)
        streams[key] = Track(dataclasses.replace(ready, absent=absent), streams[key].time)
    return dataclasses.replace(recording, streams=streams)


def _video(rows: Frames, laid: Laid, layout: Layout, path: Path, ledger: Ledger) -> ReadyVideo:
    spec, options, count = laid.spec, layout.options, len(rows)
    pixels = PixelCounts()
    whole = VideoFrames(path, count, layout.fps, spec.shape, key=spec.key)
    why = ""
    if options.images == "copy" and isinstance(rows, VideoFrames):
        why = _copied(rows, whole, pixels)
        if not why:
            return _ready(whole, pixels)
        pixels = PixelCounts()
    kept: dict[int, NDArray[Any]] = {}
    compared = {int(i) for i in np.linspace(0, count - 1, _COMPARED)}
    watched = _watched(_checked(rows, spec.shape, spec.key), pixels, kept, compared, count)
    encode_video(watched, path, layout.fps, options.video_codec, options.crf)
    ready = _ready(whole, pixels)
    if ready.info is not None and ready.info.frames != count:
        raise DataError(
            f"the encoder wrote {ready.info.frames} of {count} frames", "choose another encoder", file=path
        )
    source = _named(rows, spec.about.get("codec", ""))
    detail = f"{source} to video ({options.video_codec}, crf {options.crf}, yuv420p)"
    detail += f"; packets could not be copied: {why}" if why else ""
    worst = min(psnr(image, whole[index]) for index, image in kept.items())
    measure = {"psnr_db": worst} if np.isfinite(worst) else {}
    ledger.add(Loss(spec.key, "re-encoded", detail, rows=count, measure=measure))
    return ready


def _named(rows: Frames, codec: str) -> str:
    first = rows.encoded(0)
    return codec_of(first) if first else (codec if isinstance(rows, VideoFrames) else "pixels")


def _ready(whole: VideoFrames, pixels: PixelCounts) -> ReadyVideo:
    return ReadyVideo(
        whole.path, whole.count, whole.fps, whole.shape, key=whole.key, info=probe_video(whole.path),
        pixels=pixels.pack(),
    )  # fmt: skip


def _copied(rows: VideoFrames, whole: VideoFrames, pixels: PixelCounts) -> str:
    """Copy a clip's packets to a file of its own; why not, if that would change a pixel."""
    if rows.depth is not None or rows.shape != whole.shape:
        return f"its frames are {list(rows.shape)}, the set's {list(whole.shape)}"
    try:
        copy_clips([rows], whole.path, whole.fps)
    except UncopyableError as error:
        return str(error)
    if probe_video(whole.path).frames != rows.count:
        return "the copy has another number of frames"
    watched = _watched(rows, pixels, {}, set(), rows.count)
    if not equal_frames(whole, watched):
        return "a cut there changes frames"
    return ""


def _watched(
    frames: Any, pixels: PixelCounts, kept: dict[int, NDArray[Any]], wanted: set[int], count: int
) -> Iterator[NDArray[Any]]:
    """The frames, some counted for the statistics and some kept on the way."""
    sampled = set(sampled_indices(count))
    for index, image in enumerate(frames):
        if index in sampled:
            pixels.add(image)
        if index in wanted:
            kept[index] = image
        yield image


def _checked(frames: Frames, shape: tuple[int, ...], key: str) -> Iterator[NDArray[Any]]:
    for index, image in enumerate(frames):
        if image.shape != shape:
            raise _other_size(image.shape, shape, key, index)
        yield image


def _other_size(size: tuple[int, ...], shape: tuple[int, ...], key: str, index: int) -> DataError:
    return DataError(
        f"an image of {' x '.join(map(str, size[:2]))} pixels, the set has {shape[0]} x {shape[1]}",
        "resize this camera in the mapping",
        key=key,
        frame=index,
    )


def _image_files(rows: Frames, laid: Laid, layout: Layout, ledger: Ledger) -> ReadyFiles:
    spec, options = laid.spec, layout.options
    pixels, sampled = PixelCounts(), set(sampled_indices(len(rows)))
    files: list[bytes] = []
    encoded: dict[str, tuple[int, float]] = {}
    decoded = None if _file(rows, options.images) else enumerate(_checked(rows, spec.shape, spec.key))
    for index in range(len(rows)):
        data = _file(rows, options.images, index) if decoded is None else None
        if data is not None:
            size = _size(data, spec.key, index)
            if size != spec.shape[:2]:
                raise _other_size(size, spec.shape, spec.key, index)
            if index in sampled:
                pixels.add(rows[index])
            files.append(data)
            continue
        image = next(decoded)[1] if decoded is not None else rows[index]
        if image.shape != spec.shape:
            raise _other_size(image.shape, spec.shape, spec.key, index)
        source = _named(rows, spec.about.get("codec", ""))
        if options.images == "jpeg":
            data = encode_jpeg(image, options.quality)
            how = f"{source} to JPEG, quality {options.quality}"
        else:
            data, how = encode_png(image), f"{source} to PNG, without loss"
        done, worst = encoded.get(how, (0, float("inf")))
        if options.images == "jpeg" and done < _COMPARED:
            worst = min(worst, psnr(image, EncodedFrames([data], spec.shape)[0]))
        encoded[how] = (done + 1, worst)
        if index in sampled:
            pixels.add(image)
        files.append(data)
    for how, (count, worst) in encoded.items():
        measure = {"psnr_db": worst} if np.isfinite(worst) else {}
        ledger.add(Loss(spec.key, "re-encoded", how, rows=count, measure=measure))
    return ReadyFiles(files, spec.shape, spec.key, pixels=pixels.pack())


def _file(rows: Frames, images: str, index: int = 0) -> bytes | None:
    """The source's image file, if it may be taken as it is."""
    data = rows.encoded(index) if images == "copy" else None
    return data if data is not None and codec_of(data) in FILES else None


def _size(data: bytes, key: str, index: int) -> tuple[int, int]:
    try:
        with Image.open(io.BytesIO(data)) as image:  # reads the header alone
            return image.height, image.width
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(
            f"an image of {len(data)} bytes that cannot be opened ({error})",
            "take the set from its source again, or drop the episode",
            key=key,
            frame=index,
        ) from error


def _depth_files(rows: Frames, laid: Laid, ledger: Ledger) -> ReadyFiles:
    """Depth as 16-bit or float32 images, always without loss."""
    spec = laid.spec
    values, sampled = DepthValues(), set(sampled_indices(len(rows)))
    files: list[bytes] = []
    made = 0
    for index in range(len(rows)):
        data = rows.encoded(index)
        if data is not None and codec_of(data) not in ("png", "tiff"):
            data = None
        if data is not None and (size := _size(data, spec.key, index)) != spec.shape:
            raise _other_size(size, spec.shape, spec.key, index)
        if data is None or index in sampled:
            image = rows[index]
            if image.shape != spec.shape or image.dtype != spec.dtype:
                raise _other_size(image.shape, spec.shape, spec.key, index)
            if index in sampled:
                values.add(image)
            if data is None:
                data = encode_tiff(image)
                made += 1
        files.append(data)
    if made:
        source = "video" if isinstance(rows, VideoFrames) else "pixels"
        ledger.add(Loss(spec.key, "re-encoded", f"{source} to TIFF, without loss", rows=made))
    return ReadyFiles(files, spec.shape, spec.key, stats=to_json(values.stats()))
