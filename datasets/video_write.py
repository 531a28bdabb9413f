"""Writing video at a constant rate: encoding, and copying packets where nothing needs to be encoded again."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from .ledger import DataError
from .video import ERRORS, OpenVideo, VideoFrames

# Encoder to the name of its option for quality.
ENCODERS = {
    "libsvtav1": "crf",
    "libx264": "crf",
    "h264": "crf",
    "libx265": "crf",
    "hevc": "crf",
    "h264_nvenc": "qp",
    "hevc_nvenc": "qp",
    "av1_nvenc": "qp",
}


class UncopyableError(ValueError):
    """A clip's packets cannot be taken as they are; the text says why."""


def encode_video(
    frames: Iterable[NDArray[Any]],
    path: Path,
    fps: float,
    codec: str = "libsvtav1",
    crf: int = 30,
    *,
    gop: int = 2,
) -> int:
    """Encode frames as an mp4 file of constant rate, yuv420p, a keyframe at every `gop`-th frame.

    Args:
        frames: uint8 (H,W,3), all of one size; height and width even.
        path: where; overwritten.
        fps: frames per second.
        codec: FFmpeg's name of the encoder, one of `ENCODERS`.
        crf: quality, lower is better.
        gop: 2 makes random access cheap, as LeRobot has it.

    Returns:
        The number of frames.

    Raises:
        DataError: an encoder that this FFmpeg lacks, an odd or changing size, no frames.
    """
    if codec not in ENCODERS or codec not in av.codecs_available:
        known = ", ".join(name for name in ENCODERS if name in av.codecs_available)
        raise DataError(f"there is no encoder {codec!r} here", f"choose one of {known}", file=path)
    os.environ.setdefault("SVT_LOG", "1")  # else SVT-AV1 writes its settings to stderr, for every file
    options = {"g": str(gop), ENCODERS[codec]: str(crf)}
    if codec == "libsvtav1":
        options |= {"preset": "12", "svtav1-params": "lp=1"}
    else:
        options |= {
            "bf": "0"
        }  # no frames out of order: nothing is gained by them here, and clips join anywhere
    if codec in ("libx265", "hevc"):
        options |= {"x265-params": "log-level=error:pools=1:frame-threads=1:bframes=0"}
    if ENCODERS[codec] == "qp":
        options |= {"rc": "constqp"}
    count, size = 0, None
    with _writing(path) as out:
        stream = out.add_stream(codec, Fraction(fps).limit_denominator(100_000), options=options)
        stream.pix_fmt = "yuv420p"
        stream.codec_context.thread_count = 1
        for image in frames:
            if size is None:
                size = image.shape
                _check_size(size, path)
                stream.height, stream.width = size[:2]
            if image.shape != size:
                raise DataError(
                    f"an image of shape {image.shape} after images of shape {size}",
                    "one camera has one size: resize in the mapping",
                    file=path,
                    frame=count,
                )
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
            frame.pts = count
            out.mux(stream.encode(frame))
            count += 1
        if not count:
            raise DataError("a video of no frames", "drop the empty episode in the mapping", file=path)
        out.mux(stream.encode())
    return count


def _check_size(shape: Sequence[int], path: Path) -> None:
    if len(shape) != 3 or shape[2] != 3 or shape[0] % 2 or shape[1] % 2:
        raise DataError(
            f"images of shape {tuple(shape)} cannot be encoded as yuv420p video",
            "height and width must be even: resize in the mapping, or write images (--images png)",
            file=path,
        )


def copy_clips(clips: Sequence[VideoFrames], path: Path, fps: float) -> None:
    """Join clips into one mp4 file without encoding: packets are copied, their times set to k / `fps`.

    Args:
        clips: each must begin at a keyframe of its file, and all must have the same `VideoInfo.setup`.
        path: where; overwritten.
        fps: rate of the new file; the number of frames stays.

    Raises:
        UncopyableError: a clip does not begin at a keyframe, needs frames outside it, or skips frames.
        DataError: a file cannot be read.
    """
    orders = [_packet_order(clip) for clip in clips]
    # In a file with B-frames packets come before their turn by this many frames, in all clips alike.
    lead = max((place - index for order in orders for place, index in enumerate(order)), default=0)
    base = 1 / Fraction(fps).limit_denominator(100_000)
    with _writing(path) as out:
        stream: Any = None
        offset = 0
        for clip, order in zip(clips, orders, strict=True):
            with clip.reading(None):
                video = OpenVideo(clip.path)
            try:
                if stream is None:
                    stream = out.add_stream_from_template(video.stream, opaque=True)
                    stream.time_base = base
                for place, (index, packet) in enumerate(_packets(clip, video)):
                    if index != order[place]:
                        raise UncopyableError("the file changed while it was read")
                    packet.stream = stream
                    packet.time_base = base
                    packet.pts, packet.dts = offset + index, offset + place - lead
                    packet.duration = 1
                    out.mux(packet)
            finally:
                video.close()
            offset += len(order)


def _packet_order(clip: VideoFrames) -> list[int]:
    """Frame of each packet of a clip, in the order they lie in the file."""
    with clip.reading(None):
        video = OpenVideo(clip.path)
    try:
        order = [index for index, _ in _packets(clip, video)]
    finally:
        video.close()
    if sorted(order) != list(range(clip.count)):
        raise UncopyableError("its frames are not evenly spaced")
    return order


def _packets(clip: VideoFrames, video: OpenVideo) -> Iterator[tuple[int, Any]]:
    """(frame, packet) of a clip, the first being a keyframe."""
    with clip.reading(0):
        video.seek(clip.start_s + 0.25 / clip.fps)
    packets = iter(video.container.demux(video.stream))
    found = 0
    while found < clip.count:
        with clip.reading(None):
            packet = next(packets, None)
        if packet is None or packet.pts is None:
            raise UncopyableError("it has fewer frames than the data")
        index = round((video.time(packet) - clip.start_s) * clip.fps)
        if not found and not (index == 0 and packet.is_keyframe):
            raise UncopyableError("it does not begin at a keyframe")
        if 0 <= index < clip.count:
            found += 1
            yield index, packet


def equal_frames(a: Iterable[NDArray[Any]], b: Iterable[NDArray[Any]]) -> bool:
    """Whether two clips decode to the same pixels; one frame of each is held at a time."""
    try:
        return all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))
    except ValueError:  # one is shorter, or a cut left its decoder without a frame it needs
        return False


@contextmanager
def _writing(path: Path) -> Iterator[Any]:
    """A container to write to; after an error no file is left."""
    try:
        out = av.open(str(path), "w", format="mp4", options={"movflags": "faststart"})
        try:
            yield out
        finally:
            out.close()
    except (DataError, UncopyableError):
        path.unlink(missing_ok=True)
        raise
    except ERRORS as error:
        path.unlink(missing_ok=True)
        raise DataError(
            f"the video cannot be written ({type(error).__name__}: {error})",
            "check the free space, and that this FFmpeg has the encoder",
            file=path,
        ) from error
